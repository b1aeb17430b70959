"""kill -9 of a training worker, of the step's driver, of a node, in the middle of a step: nothing of it is in the weights.

Each fault meets a real Ray Train run of two workers on two nodes; it ends with the weights, to the bit, of a run that
nothing happened to. `make chaos` does it again and again at other moments.
"""

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # a compiled module
from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # type: ignore[attr-defined]  # made at run time
from safetensors.numpy import load_file

from cluster.connection.connect import Cluster
from cluster.store.artifact import Artifact
from jobs.core.places import locate
from jobs.core.recipe import load_recipe
from tests.chaos.faults import ROUNDS, kill, note, processes, wait
from tests.chaos.second_node import Node, second_node
from tests.story.running import Ran, run_job
from tests.story.tiny_world import recipe, write_recipe, write_world

STEPS = 160
AGAIN = "the job fails; the same command goes on from the checkpoint before"
BASE: dict[str, Any] = {"max_steps": STEPS, "precision": "fp32", "checkpoint_steps": 15, "keep": "last", "evaluations": 2}
BASE |= {"batch_size": 16, "model": {"layers": 2, "hidden": 64, "heads": 2, "dropout": 0.1}}
# Each node of two CPUs has room for one of them.
BASE |= {"resources": {"workers": 2, "cpus": 1.5, "max_failures": 3}}


class World:
    """The cluster of two nodes, a recipe, and the run that nothing happened to."""

    def __init__(self, cluster: Cluster, directory: Path, later: ExitStack) -> None:
        self.cluster, self.directory = cluster, directory
        self.later = later
        """Holds the nodes that come later, until all tests are over."""
        self.file = write_recipe(directory / "tiny.yaml", recipe(write_world(directory), base=BASE))
        self.prepared, self.whole = directory / "prepared", directory / "whole"
        ran = run_job(cluster, "jobs.prepare", self.file, "--step", "corpus", "--storage", str(self.prepared))
        assert ran.exit_code == 0, ran.text
        assert self.pretrain(self.fresh(self.whole)).exit_code == 0

    def fresh(self, storage: Path) -> Path:
        """A storage with the corpus alone."""
        shutil.copytree(self.prepared, storage)
        return storage

    def pretrain(self, storage: Path, *overrides: str) -> Ran:
        # Ray Train asks every five seconds for notices, and these runs are over soon.
        promptly = {"RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.3"}
        command = ("jobs.pretrain", self.file, *overrides, "--storage", str(storage))
        return run_job(self.cluster, *command, environment=promptly)

    def artifact(self, storage: Path) -> Artifact:
        artifact = locate(load_recipe(self.file), str(storage))["base"].artifact
        assert artifact is not None
        return artifact

    def same(self, storage: Path) -> None:
        """The run in this storage ended as the one that nothing happened to; its hashes hold; nothing is left of it."""
        whole, mended = self.artifact(self.whole), self.artifact(storage)
        assert whole.uri.rsplit("/", 1)[-1] == mended.uri.rsplit("/", 1)[-1]
        assert losses(whole) == losses(mended), "every logged loss, also those after the kill"
        weights, same = (load_file(artifact.file("model.safetensors")) for artifact in (whole, mended))
        for name, weight in weights.items():
            assert (weight == same[name]).all(), name
        mended.verify()
        assert not list(storage.glob(".scratch/*/*/*")), "checkpoints are gone once the model is published"


def losses(artifact: Artifact) -> dict[int, float]:
    curve: list[dict[str, Any]] = artifact.manifest.details["curve"]
    return {point["step"]: point["loss"] for point in curve if "loss" in point}


def saved(storage: Path) -> int:
    """The newest checkpoint's step."""
    steps = [int(path.parent.name.split("-")[1]) for path in storage.glob(".scratch/*/*/checkpoints/step-*/state.json")]
    return max(steps, default=0)


class Fault(threading.Thread):
    """Waits until a run has saved a few checkpoints, strikes, and takes the time until the next one."""

    def __init__(self, storage: Path, strike: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.storage, self.strike = storage, strike
        self.at = random.choice([2, 3, 4, 5, 6]) * 15 if ROUNDS > 1 else 45
        self.struck, self.recovered = False, 0.0
        self.start()

    def run(self) -> None:
        wait(lambda: saved(self.storage) >= self.at, 600)
        before, began = saved(self.storage), time.monotonic()
        self.strike()
        self.struck = True
        wait(lambda: saved(self.storage) > before + 15 or not list(self.storage.glob(".scratch/*")), 300)
        self.recovered = time.monotonic() - began

    def end(self, fault: str, happens: str) -> None:
        assert self.struck, "the run was over too soon"
        self.join(300)
        note(fault, happens, self.recovered)


@pytest.fixture(scope="module")
def nodes(ray_cluster: Cluster) -> Iterator[list[Node]]:
    """The second node, and those that come after it."""
    with second_node(ray_cluster, cpus=2) as node:
        yield [node]


@pytest.fixture(scope="module")
def world(ray_cluster: Cluster, nodes: list[Node], tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as later:
        yield World(ray_cluster, tmp_path_factory.mktemp("world"), later)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_worker(world: World, number: int) -> None:
    """Ray Train starts its workers again, and they go on from the newest checkpoint."""
    storage = world.fresh(world.directory / f"worker-{number}")
    fault = Fault(storage, lambda: os.kill(random.choice(processes(world.cluster, "RayTrainWorker")).pid, signal.SIGKILL))
    ran = world.pretrain(storage)
    fault.end("a training worker", "Ray Train starts the workers again")
    assert ran.exit_code == 0 and "going on from checkpoint step-" in ran.text, ran.text
    world.same(storage)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_the_steps_driver(world: World, number: int) -> None:
    """The job fails, its workers go; the same command again goes on. The newest checkpoint is damaged meanwhile."""
    storage = world.fresh(world.directory / f"driver-{number}")

    fault = Fault(storage, lambda: kill(world.cluster, "jobs.pretrain", str(storage)))
    ran = world.pretrain(storage)
    assert fault.struck and ran.exit_code != 0
    wait(lambda: not processes(world.cluster, "RayTrainWorker"))
    newest = max(storage.glob(".scratch/*/*/checkpoints/step-*"))
    os.truncate(newest / "state.pt", 1000)
    ran = world.pretrain(storage)
    fault.end("a step's driver, and its newest checkpoint is cut off", AGAIN)
    assert ran.exit_code == 0, ran.text
    assert f"checkpoint {newest.name}: state.pt is damaged" in ran.text and "going on from checkpoint step-" in ran.text
    world.same(storage)


def test_a_run_that_took_too_much_memory_goes_on_with_less(world: World) -> None:
    """Its batches are cut into more parts: that is the same step, which goes on from its checkpoint in its place."""
    storage, less = world.fresh(world.directory / "memory"), ("gradient_accumulation=4", "activation_checkpointing=true")
    fault = Fault(storage, lambda: kill(world.cluster, "jobs.pretrain", str(storage)))
    ran = world.pretrain(storage)
    assert fault.struck and ran.exit_code != 0
    wait(lambda: not processes(world.cluster, "RayTrainWorker"))
    newest = max(path.parent.name for path in storage.glob(".scratch/*/*/checkpoints/step-*/state.json"))
    ran = world.pretrain(storage, *less)
    fault.end("a step's driver", "with batches cut into more parts the step goes on from the checkpoint before")
    assert ran.exit_code == 0 and f"going on from checkpoint {newest}" in ran.text, ran.text
    whole, mended = world.artifact(world.whole), world.artifact(storage)
    assert whole.uri.rsplit("/", 1)[-1] == mended.uri.rsplit("/", 1)[-1] and not list(storage.glob(".scratch/*/*/*"))
    assert all(losses(whole)[step] == loss for step, loss in losses(mended).items() if step <= fault.at)
    assert abs(losses(whole)[STEPS] - losses(mended)[STEPS]) < 0.2, "the same batches, with other dropout"
    config = mended.manifest.config
    assert (config["gradient_accumulation"], config["activation_checkpointing"], config["compile"]) == (4, True, False)
    again = world.pretrain(storage, "compile=true")
    assert again.exit_code == 0 and "going on" not in again.text, again.text
    assert world.artifact(storage).manifest.created == mended.manifest.created, "what is done is not done again to be faster"


def replaced(world: World, nodes: list[Node], fault: Fault) -> list[Node]:
    """Another node as soon as the fault has struck; a list that then is not empty."""
    came: list[Node] = []

    def replace() -> None:
        wait(lambda: fault.struck, 600)
        came.append(world.later.enter_context(second_node(world.cluster, cpus=2)))
        nodes.extend(came)

    threading.Thread(target=replace, daemon=True).start()
    return came


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.skipif(ROUNDS < 2, reason="make chaos runs it; a node that gives notice is replaced in the same way")
def test_a_node(world: World, nodes: list[Node], number: int) -> None:
    """Its worker goes with it; a node that comes in its place is used."""
    storage = world.fresh(world.directory / f"node-{number}")
    fault = Fault(storage, nodes[-1].kill)
    came = replaced(world, nodes, fault)
    ran = world.pretrain(storage)
    fault.end("a node with a training worker", "the workers start again as soon as another node is there")
    assert came and ran.exit_code == 0 and "going on from checkpoint step-" in ran.text, ran.text
    world.same(storage)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_node_with_notice(world: World, nodes: list[Node], number: int) -> None:
    """A spot node that its cloud wants back: a checkpoint is written at once, and the run leaves before the node goes."""
    storage, leaving = world.fresh(world.directory / f"notice-{number}"), nodes[-1]
    ray.init(world.cluster.address, log_to_driver=False)
    try:
        node = leaving.id
    finally:
        ray.shutdown()

    def strike() -> None:
        deadline, reason = int((time.time() + 60) * 1000), DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        accepted, why = GcsClient(address=world.cluster.address).drain_node(node, reason, "spot", deadline)
        assert accepted, why

    fault = Fault(storage, strike)
    came = replaced(world, nodes, fault)
    ran = world.pretrain(storage)
    fault.end("a spot node, with notice", "a checkpoint is written at once, the workers leave and start elsewhere")
    leaving.close()
    assert came and ran.exit_code == 0, ran.text
    step = int(ran.text.partition("notice was given at step ")[2].partition(")")[0])
    assert f"going on from checkpoint step-{step:08d}-" in ran.text, "no step was done twice"
    world.same(storage)


@pytest.mark.skipif(ROUNDS < 2, reason="make chaos runs it: a node that stays away takes Ray a minute to give up")
def test_a_node_that_nothing_replaces(world: World, nodes: list[Node]) -> None:
    """With `min_workers` the step goes on with the workers that are left, in the same order of examples."""
    storage = world.fresh(world.directory / "elastic")
    fault = Fault(storage, nodes[-1].kill)
    ran = world.pretrain(storage, "resources.min_workers=1")
    fault.end("the same, and none comes", "with `min_workers`, training goes on with the workers that are left")
    assert ran.exit_code == 0 and "going on from checkpoint step-" in ran.text, ran.text
    assert "worker group of size 1" in ran.text
    whole, mended = losses(world.artifact(world.whole)), losses(world.artifact(storage))
    assert whole.keys() == mended.keys() and max(mended) == STEPS
    assert all(whole[step] == mended[step] for step in whole if step <= fault.at)
    assert abs(whole[STEPS] - mended[STEPS]) < 0.2, "the same batches, with other dropout"
