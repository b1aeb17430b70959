"""int8 that costs no more than it may: what is tried, in which order, and what each try came to.

    tries = int8_within(0.5, source, target, score, feeds, method)
    tries[-1].kept                            # whether the file at `target` is within the allowance

First all of it dynamically; then the nodes that int8 hurts most stay float, 1, 2, 4, … of them; then int8 in
blocks; then static int8; last, where there is something to train with, quantisation-aware training.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jobs.compression.quantize import Feeds, quantize_blockwise_int8, quantize_dynamic_int8, quantize_static_int8
from jobs.compression.settings import Method
from jobs.compression.worst_nodes import worst_nodes

MAXIMUM_SHARE = 0.25
"""No more than this share of the nodes is left in float: beyond it int8 brings too little."""


@dataclass(frozen=True)
class Try:
    """One way to int8, and what it cost."""

    kind: str
    """dynamic, blockwise, static or trained (dynamic int8 of weights that were trained for it)."""
    excluded: tuple[str, ...]
    """The nodes that stayed float."""
    score: float
    """On the validation split, through the serving engine."""
    loss: float
    """Points (hundredths of the score) that it is worse than float."""
    kept: bool
    """Whether that is within the allowance; then it is the last try."""

    def __str__(self) -> str:
        floats = f", in float: {', '.join(self.excluded)}" if self.excluded else ""
        return f"{self.kind}{floats}: {self.loss:+.2f} points lost"

    def details(self) -> dict[str, Any]:
        """As it stands in the manifest."""
        return asdict(self) | {"excluded": list(self.excluded)}


def int8_within(
    allowed: float,
    source: Path,
    target: Path,
    score: Callable[[Path], float],
    feeds: Sequence[Feeds],
    method: Method,
    trained: Callable[[], Path] | None = None,
    sign: int = 1,
) -> list[Try]:
    """Write to `target` the first int8 form of `source` that costs at most so many points of the score.

    `score` measures a file, and `sign` is -1 where less of it is better; `trained` makes a float file by quantisation-aware
    training. The last try says whether one was found; none is left at `target` otherwise.
    """
    float_score = score(source)
    tries: list[Try] = []
    for kind, excluded, make in _ways(source, target, feeds, method, trained):
        make()
        found = score(target)
        loss = round(100 * sign * (float_score - found), 6)
        tries.append(Try(kind, excluded, found, loss, loss <= allowed))
        if tries[-1].kept:
            return tries
    target.unlink()
    return tries


Way = tuple[str, tuple[str, ...], Callable[[], None]]


def _ways(
    source: Path, target: Path, feeds: Sequence[Feeds], method: Method, trained: Callable[[], Path] | None
) -> Iterator[Way]:
    yield "dynamic", (), partial(quantize_dynamic_int8, source, target)
    worst = worst_nodes(source, feeds)
    most, count = max(1, int(len(worst) * MAXIMUM_SHARE)), 1
    excluded: tuple[str, ...] = ()
    while count <= most:
        excluded = tuple(worst[:count])
        yield "dynamic", excluded, partial(quantize_dynamic_int8, source, target, excluded)
        count *= 2
    yield "blockwise", (), partial(quantize_blockwise_int8, source, target)
    yield "static", (), partial(quantize_static_int8, source, target, feeds, method)
    yield "static", excluded, partial(quantize_static_int8, source, target, feeds, method, excluded)
    if trained is not None:
        yield "trained", (), lambda: quantize_dynamic_int8(trained(), target)
