"""A step of one worker, which trains in a task: killed, failing, refused, and on a node that its cloud wants back.

pytest tests/jobs/test_one_worker.py
"""

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # a compiled module
from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # type: ignore[attr-defined]  # made at run time
from safetensors.numpy import load_file

from cluster.connection.connect import Cluster
from cluster.store.artifact import Artifact, upload
from jobs.core.config import BadInput
from jobs.core.stage import Context, Inputs, Outcome, Resources
from jobs.pretrain import PretrainConfig
from jobs.training.ray_train import train, train_in_process
from tests.chaos.faults import wait
from tests.chaos.second_node import occupy_head, second_node
from tests.jobs.tiny import publish_tokens, tiny_tokenizer
from tests.jobs.unlucky import die, refuse, stumble, unlucky

SETTINGS: dict[str, Any] = {"precision": "fp32", "max_steps": 24, "batch_size": 4, "checkpoint_steps": 4, "evaluations": 2}
SETTINGS |= {"model": {"layers": 1, "hidden": 32, "heads": 2, "dropout": 0.1}}


class World:
    """Tokens, and a place for each run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        tokenizer = tiny_tokenizer(root / "tokenizer")
        self.tokens: Artifact = publish_tokens(root, tokenizer)

    def train(
        self,
        name: str,
        fault: Callable[[], None] = die,
        often: int = 0,
        pause: float = 0.0,
        start: Callable[..., Outcome] = train,
        **resources: Any,
    ) -> None:
        (self.root / name / "marks").mkdir(parents=True)
        built = partial(unlucky, str(self.root / name / "marks"), fault, often, pause)
        output = str(self.root / name / "tiny/base-1")
        context = Context(str(self.root / name), "tiny", "base", output, "1", Resources(**resources))
        start(built, PretrainConfig.model_validate(SETTINGS), Inputs(tokens=[self.tokens]), context)
        if any(context.directory.iterdir()):
            upload(context.directory, output)

    def steps(self, name: str) -> list[list[int]]:
        """The steps of each process, in the order in which they began."""
        files = sorted((self.root / name / "marks").iterdir())
        return [[int(step) for step in file.read_text().split()] for file in files]

    def weights(self, name: str) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = load_file(self.root / name / "tiny/base-1/model.safetensors")
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def whole(world: World) -> dict[str, np.ndarray]:
    """The weights of a run in this very process, that nothing happened to."""
    world.train("whole", start=train_in_process)
    return world.weights("whole")


def same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        assert (found[name] == weight).all(), name


@pytest.mark.parametrize("fault", [die, stumble])
def test_a_lost_worker_goes_on_from_its_checkpoint(
    whole: dict[str, np.ndarray],
    world: World,
    ray_driver: Cluster,
    fault: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As often as max_failures says; what comes out is, to the bit, what comes out without a fault."""
    name = fault.__name__
    world.train(name, fault, often=2, pause=0.02, max_failures=2)
    processes = world.steps(name)
    assert len(processes) == 3 and all(steps[0] > 0 for steps in processes[1:]), processes
    told = capsys.readouterr().out
    assert told.count("the worker was lost, and is started again") == 2 and "0 more may be lost" in told
    same(world.weights(name), whole)


def test_one_loss_too_many_is_an_error_that_says_what_it_was(world: World, ray_driver: Cluster) -> None:
    with pytest.raises(RuntimeError, match="the cosmic ray hit"):
        world.train("often", stumble, often=9, max_failures=1)
    assert len(world.steps("often")) == 2


def test_bad_input_is_not_tried_again(world: World, ray_driver: Cluster, tmp_path: Path) -> None:
    context = Context(str(tmp_path), "tiny", "base", str(tmp_path / "base-1"), "1")
    with pytest.raises(BadInput, match="it is no good"):
        train(refuse, PretrainConfig.model_validate(SETTINGS), Inputs(tokens=[world.tokens]), context)
    assert Path(world.tokens.uri + "-asked").read_text() == "asked\n"


def test_a_worker_on_a_node_that_goes_leaves_in_time(
    whole: dict[str, np.ndarray], world: World, ray_driver: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """It writes a checkpoint at once and goes on elsewhere; no step is done twice."""
    with second_node(ray_driver, cpus=2) as node:
        occupant = occupy_head(2)
        leaving, deadline = node.id, int((time.time() + 60) * 1000)

        def drain() -> None:
            wait(lambda: any((world.root / "notice").glob(".scratch/*/*/checkpoints/step-*/state.json")))
            reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
            GcsClient(address=ray_driver.address).drain_node(leaving, reason, "spot", deadline)
            ray.kill(occupant)

        striking = threading.Thread(target=drain)
        striking.start()
        world.train("notice", pause=0.3)
        striking.join()
    first, second = world.steps("notice")
    told = capsys.readouterr().out
    step = int(told.partition("notice was given at step ")[2].partition(")")[0])
    assert "going on elsewhere" in told and second[0] == step, "batches are counted from 0"
    assert {*first, *second} == set(range(SETTINGS["max_steps"]))
    same(world.weights("notice"), whole)
