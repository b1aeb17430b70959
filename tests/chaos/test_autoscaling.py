"""Ray's own autoscaler with its fake node provider: GPU nodes come for those who ask, are shared, and go when idle."""

import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.connection.connect import Cluster, attach
from cluster.connection.waiting import Waiting
from cluster.submit import result, submit
from jobs.core.places import locate
from jobs.core.recipe import load_recipe
from tests.chaos.faults import ROUNDS, nothing_is_left, wait
from tests.chaos.head import Head
from tests.jobs.hill import marks
from tests.story.running import ROOT, Ran, run_job
from tests.story.tiny_world import recipe, write_recipe, write_world

LONG = pytest.mark.skipif(ROUNDS < 2, reason="make chaos runs it")
IDLE_SECONDS = 6.0
TYPES = {"gpu_spot": {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2}}
WAITS = r"\d+ s for [\d.]+ GPU, [\d.]+ CPU \(the cluster has [01] GPU, [23] CPU; [1-4] nodes? (is|are) starting: gpu_spot\)"


@pytest.fixture(scope="module")
def autoscaled() -> Iterator[Cluster]:
    """A head of two CPUs that may start two nodes with a GPU each; this process is connected to it."""
    with Head(2, TYPES, IDLE_SECONDS) as head, attach(head.running.address) as cluster:
        ray.init(cluster.address, log_to_driver=False)
        yield replace(cluster, _embedded=head.running)  # so that its processes are known
        ray.shutdown()


def gpu_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")}


def they_go() -> None:
    """Wait until the last idle node is gone."""
    print(f"the idle GPU nodes were gone after {wait(lambda: not gpu_nodes(), 60):.0f} s")


def test_two_searches_share_nodes_that_come_and_go(autoscaled: Cluster, tmp_path: Path) -> None:
    """Each trial holds a GPU; each search alone would keep both nodes busy."""
    storage, place = str(tmp_path / "runs"), tmp_path / "marks"
    place.mkdir()
    assert not gpu_nodes()
    began = time.time()
    asked = {"tune": {"trials": 2, "scheduler": "none"}, "resources": {"cpus": 0.5, "gpus": 1}}
    asked["config"] = {"pause": 0.5, "marks": str(place)}
    jobs = []
    for name in ("one", "two"):
        command = ["python", "-m", "tests.jobs.hill", f"{storage}/{name}", json.dumps(asked)]
        jobs.append(submit(autoscaled.jobs(), command, working_dir=str(ROOT)))
    waiting = [Waiting(autoscaled.jobs(), job) for job in jobs]
    said: set[str | None] = set()
    nodes: set[str] = set()

    def over() -> bool:
        said.update(each.look() for each in waiting)
        nodes.update(gpu_nodes())
        return len(marks(place)) == 4 and len(nodes) >= 2

    wait(over, 90)
    print(f"the first trial began after {marks(place)[0]['time'] - began:.0f} s; until then: {sorted(filter(None, said))}")
    assert any(re.fullmatch(WAITS, line) for line in filter(None, said)), said
    for job in jobs:
        assert result(autoscaled.jobs(), job).exit_code == 0, autoscaled.jobs().get_job_logs(job)
    assert len(nodes | gpu_nodes()) == 2, "both nodes came, and no more"
    they_go()
    nothing_is_left(autoscaled, storage)


@LONG
def test_two_pipelines_say_what_they_wait_for(autoscaled: Cluster, tmp_path: Path) -> None:
    """Fine-tuning whose trials ask for a GPU, as a user runs it."""
    wait(lambda: not gpu_nodes(), 60)
    storage = str(tmp_path / "runs")
    files = {name: fine_tuning(tmp_path / name, name) for name in ("one", "two")}
    ran: dict[str, Ran] = {}

    def run(name: str) -> None:
        ran[name] = run_job(autoscaled, "jobs.pipeline", files[name], "--storage", storage)

    threads = [threading.Thread(target=run, args=(name,), daemon=True) for name in files]
    for thread in threads:
        thread.start()
    nodes: set[str] = set()

    def over() -> bool:
        nodes.update(gpu_nodes())
        return not any(thread.is_alive() for thread in threads)

    wait(over, 240)
    assert [each.exit_code for each in ran.values()] == [0, 0], "\n".join(each.text for each in ran.values())
    lines = [line for each in ran.values() for line in each.lines]
    assert any(re.fullmatch(rf"\[teacher\] finetune +waiting +\d+ s  {WAITS}", line) for line in lines), lines
    print("\n".join(line for line in lines if " waiting " in line))
    assert len(nodes) <= 2
    for file in files.values():
        artifact: Any = locate(load_recipe(file), storage)["teacher"].artifact
        artifact.verify()
    they_go()
    nothing_is_left(autoscaled, storage)


def fine_tuning(directory: Path, name: str) -> str:
    """A recipe with a search of which each trial asks for a GPU."""
    directory.mkdir()
    tree = recipe(write_world(directory), teacher={"resources": {"gpus": 1, "cpus": 0.5}, "tune": {"trials": 2}})
    tree["steps"] = {step: tree["steps"][step] for step in ("messages", "teacher")}
    return write_recipe(directory / "recipe.yaml", tree | {"name": name})
