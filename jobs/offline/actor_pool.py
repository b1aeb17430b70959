"""Pieces of work done by a pool of actors, each of which holds a model: what is done first comes first.

    for number, said in answered_by(AnswerBlocks, (model, …), range(40), workers=2, num_cpus=1): …

Actors read and write what stands behind a number themselves, so that nothing else goes between the processes. What Ray Data
would bring beyond that, it takes seconds of both cores to start.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol


class Answering(Protocol):
    """What an actor of the pool is."""

    def answer(self, number: int) -> Any:
        """Do one piece of the work."""
        ...


def answered_by(
    kind: type[Answering], arguments: tuple[Any, ...], numbers: Iterable[int], workers: int, **demand: float
) -> Iterator[tuple[int, Any]]:
    """Each number with what an actor says of it; an actor's error is raised.

    `workers` actors are asked for, each with `demand` (num_cpus, num_gpus). One that finds no place in the cluster keeps
    nothing waiting, as pieces go to those that run; one that is lost is started again, with the piece that it had.
    """
    import ray

    left = deque(numbers)
    actor: Any = ray.remote(kind).options(max_restarts=-1, max_task_retries=-1, **demand)
    actors = [actor.remote(*arguments) for _ in range(min(workers, len(left)))]
    under_way: dict[Any, tuple[Any, int | None]] = {one.__ray_ready__.remote(): (one, None) for one in actors}
    doing = len(left)
    while doing:
        (done, *_), _ = ray.wait(list(under_way), num_returns=1)
        one, number = under_way.pop(done)
        said = ray.get(done)
        if left:
            following = left.popleft()
            under_way[one.answer.remote(following)] = (one, following)
        else:
            ray.kill(one)  # One that was lost with its piece may be waiting for this place.
        if number is not None:
            doing -= 1
            yield number, said
