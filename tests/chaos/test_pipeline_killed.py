"""kill -9 of the pipeline's driver and of the whole head: submitted again, finished steps stay, and none runs twice."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.connection.connect import Cluster, attach
from cluster.store.artifact import Artifact
from cluster.submit import result, submit
from jobs.core.places import locate
from jobs.core.recipe import load_recipe
from tests.chaos.faults import kill, note, nothing_is_left, processes, wait
from tests.chaos.head import Head
from tests.story.running import ROOT, run_job
from tests.story.tiny_world import recipe, write_recipe, write_world


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A recipe of two short steps."""
    tree = recipe(write_world(tmp_path))
    tree["steps"] = {name: tree["steps"][name] for name in ("corpus", "messages")}
    return write_recipe(tmp_path / "tiny.yaml", tree)


def artifacts(file: str, storage: str) -> dict[str, Artifact]:
    """Those that are finished, by step."""
    places = locate(load_recipe(file), storage)
    return {name: place.artifact for name, place in places.items() if place.artifact is not None}


def succeeded(cluster: Cluster, step: str, storage: str) -> list[str | None]:
    """The jobs that made a step to its end."""
    jobs = cluster.jobs().list_jobs()
    mine = [job for job in jobs if (job.metadata or {}).get("step") == step and storage in job.entrypoint]
    return [job.submission_id for job in mine if job.status == "SUCCEEDED"]


def test_the_pipelines_driver(ray_driver: Cluster, file: str, tmp_path: Path) -> None:
    """Its step goes on without it, and the pipeline that is submitted again joins that step."""
    storage = str(tmp_path / "runs")
    command = ["python", "-m", "jobs.pipeline", file, "--storage", storage]
    killed = submit(ray_driver.jobs(), command, working_dir=str(ROOT))
    wait(lambda: processes(ray_driver, "jobs.prepare", storage))
    kill(ray_driver, "jobs.pipeline", storage)
    began = time.monotonic()
    assert result(ray_driver.jobs(), killed).exit_code != 0
    ran = run_job(ray_driver, *command[2:])
    assert ran.exit_code == 0, ran.text
    assert ran.state("corpus")[0] == "joined" and ran.state("corpus")[-1] == "done", ran.text
    assert ran.state("messages")[0] == "submitted"
    made = artifacts(file, storage)
    assert list(made) == ["corpus", "messages"]
    for step, artifact in made.items():
        artifact.verify()
        assert len(succeeded(ray_driver, step, storage)) == 1
    nothing_is_left(ray_driver, storage)
    note("the pipeline's driver", "its step goes on; submitted again, the pipeline joins it", time.monotonic() - began)


def test_the_head(file: str, tmp_path: Path) -> None:
    """The client waits until the head is back and submits again."""
    storage = str(tmp_path / "runs")
    command = [sys.executable, "-m", "cluster.submit", "--again", "1", "--", "python", "-m", "jobs.pipeline", file]
    with Head(cpus=2) as head:
        client = subprocess.Popen(
            [*command, "--storage", storage], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert client.stdout is not None
        said: list[str] = []
        for line in client.stdout:
            said.append(line)
            if line.startswith("[messages]"):
                break
        before = artifacts(file, storage)
        assert list(before) == ["corpus"], said
        head.kill()
        began = time.monotonic()
        head.start()
        with attach(head.running.address) as cluster:
            wait(lambda: cluster.jobs().list_jobs())
            felt = time.monotonic() - began
            rest, _ = client.communicate(timeout=120)
            assert client.returncode == 0, rest
            assert "Submitting again" in rest
            made = artifacts(file, storage)
            assert made["corpus"] == before["corpus"], "a finished step stays as it was"
            for artifact in made.values():
                artifact.verify()
            assert not succeeded(cluster, "corpus", storage) and len(succeeded(cluster, "messages", storage)) == 1
            assert not [process for process in head.running.processes if storage in " ".join(process.cmdline())]
    note("the head", "the client waits until it is back and submits again; finished steps stay", felt)
