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
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.numpy import load_file

from cluster.artifact import Artifact
from cluster.connect import Cluster
from jobs.core.execute import locate
from jobs.core.recipe import load_recipe
from tests.chaos.second_node import Node, second_node
from tests.story.running import Ran, run_job
from tests.story.tiny_world import recipe, write_recipe, write_world

STEPS = 160
ROUNDS = int(os.environ.get("RAYSTILL_CHAOS_ROUNDS", "1"))
BASE: dict[str, Any] = {"max_steps": STEPS, "precision": "fp32", "checkpoint_steps": 15, "keep": "last", "evaluations": 2}
BASE |= {"batch_size": 16, "model": {"layers": 2, "hidden": 64, "heads": 2, "dropout": 0.1}}
# Each node of two CPUs has room for one of them.
BASE |= {"resources": {"workers": 2, "cpus": 1.5, "max_failures": 3}}


class World:
    """The cluster of two nodes, a recipe, and the run that nothing happened to."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster, self.directory = cluster, directory
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
        return run_job(self.cluster, "jobs.pretrain", self.file, *overrides, "--storage", str(storage))

    def artifact(self, storage: Path) -> Artifact:
        artifact = locate(load_recipe(self.file), str(storage))["base"].artifact
        assert artifact is not None
        return artifact

    def processes(self, word: str, *words: str) -> list[psutil.Process]:
        """Those of the cluster whose command line has all of these."""
        assert self.cluster._embedded is not None
        return [process for process in self.cluster._embedded.processes if all(w in _title(process) for w in (word, *words))]

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


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def saved(storage: Path) -> int:
    """The newest checkpoint's step."""
    steps = [int(path.parent.name.split("-")[1]) for path in storage.glob(".scratch/*/*/checkpoints/step-*/state.json")]
    return max(steps, default=0)


def wait(condition: Callable[[], Any], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


class Fault(threading.Thread):
    """Waits until a run has saved a few checkpoints, strikes, and takes the time until the next one."""

    def __init__(self, storage: Path, strike: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.storage, self.strike = storage, strike
        self.at = random.choice([2, 3, 4, 5, 6]) * 15 if ROUNDS > 1 else 45
        self.struck, self.recovered = False, 0.0
        self.start()

    def run(self) -> None:
        wait(lambda: saved(self.storage) >= self.at)
        before, began = saved(self.storage), time.monotonic()
        self.strike()
        self.struck = True
        wait(lambda: saved(self.storage) > before + 15 or not list(self.storage.glob(".scratch/*")), 300)
        self.recovered = time.monotonic() - began

    def end(self, name: str) -> None:
        assert self.struck, "the run was over too soon"
        self.join(300)
        print(f"{name} killed after step {self.at}: trains on after {self.recovered:.0f} s")


@pytest.fixture(scope="module")
def nodes(ray_cluster: Cluster) -> Iterator[list[Node]]:
    """The second node, and those that come after it."""
    with second_node(ray_cluster, cpus=2) as node:
        running = [node]
        yield running
        running[-1].close()


@pytest.fixture(scope="module")
def world(ray_cluster: Cluster, nodes: list[Node], tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(ray_cluster, tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_worker(world: World, number: int) -> None:
    """Ray Train starts its workers again, and they go on from the newest checkpoint."""
    storage = world.fresh(world.directory / f"worker-{number}")
    fault = Fault(storage, lambda: os.kill(random.choice(world.processes("RayTrainWorker")).pid, signal.SIGKILL))
    ran = world.pretrain(storage)
    fault.end("worker")
    assert ran.exit_code == 0 and "going on from checkpoint step-" in ran.text, ran.text
    world.same(storage)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_the_steps_driver(world: World, number: int) -> None:
    """The job fails, its workers go; the same command again goes on. The newest checkpoint is damaged meanwhile."""
    storage = world.fresh(world.directory / f"driver-{number}")

    def strike() -> None:
        for process in world.processes("jobs.pretrain", str(storage)):
            os.kill(process.pid, signal.SIGKILL)

    fault = Fault(storage, strike)
    ran = world.pretrain(storage)
    assert fault.struck and ran.exit_code != 0
    wait(lambda: not world.processes("RayTrainWorker"))
    newest = max(storage.glob(".scratch/*/*/checkpoints/step-*"))
    os.truncate(newest / "state.pt", 1000)
    ran = world.pretrain(storage)
    fault.end("driver")
    assert ran.exit_code == 0, ran.text
    assert f"checkpoint {newest.name}: state.pt is damaged" in ran.text and "going on from checkpoint step-" in ran.text
    world.same(storage)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_node(world: World, nodes: list[Node], number: int) -> None:
    """Its worker goes with it; a node that comes in its place is used."""
    storage = world.fresh(world.directory / f"node-{number}")
    fault = Fault(storage, nodes[-1].kill)
    came: list[Any] = []

    def replace() -> None:
        wait(lambda: fault.struck)
        entering = second_node(world.cluster, cpus=2)
        nodes.append(entering.__enter__())
        came.append(entering)

    threading.Thread(target=replace, daemon=True).start()
    ran = world.pretrain(storage)
    fault.end("node")
    assert came and ran.exit_code == 0 and "going on from checkpoint step-" in ran.text, ran.text
    world.same(storage)


@pytest.mark.skipif(ROUNDS < 2, reason="make chaos runs it: a node that stays away takes Ray a minute to give up")
def test_a_node_that_nothing_replaces(world: World, nodes: list[Node]) -> None:
    """With `min_workers` the step goes on with the workers that are left, in the same order of examples."""
    storage = world.fresh(world.directory / "elastic")
    fault = Fault(storage, nodes[-1].kill)
    ran = world.pretrain(storage, "resources.min_workers=1")
    fault.end("node, with none in its place")
    assert ran.exit_code == 0 and "going on from checkpoint step-" in ran.text, ran.text
    assert "worker group of size 1" in ran.text
    whole, mended = losses(world.artifact(world.whole)), losses(world.artifact(storage))
    assert whole.keys() == mended.keys() and max(mended) == STEPS
    assert all(whole[step] == mended[step] for step in whole if step <= fault.at)
    assert abs(whole[STEPS] - mended[STEPS]) < 0.2, "the same batches, with other dropout"
