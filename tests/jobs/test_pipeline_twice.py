"""Pipelines over the same recipe and storage never run a step beside one another, nor twice; a step that failed runs again.

pytest tests/jobs/test_pipeline_twice.py
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from cluster.connection.connect import Cluster
from cluster.connection.jobs import Jobs
from jobs.pipeline import StepFailed
from tests.jobs.one_step import made, statuses, write_one_step
from tests.story.running import ROOT


@pytest.fixture
def client(ray_driver: Cluster, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """A client of the cluster, of which this process is a driver."""
    monkeypatch.chdir(ROOT)
    return Jobs(ray_driver.dashboard)


def start(file: str, storage: str, tmp_path: Path, seconds: int) -> "subprocess.Popen[str]":
    """A pipeline in a process of its own, which submits each step at the moment when another one does."""
    (tmp_path / "meeting").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.jobs.one_step", file, storage, str(tmp_path / "meeting"), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))


def test_two_at_once_run_each_step_once_and_both_report(client: Jobs, tmp_path: Path) -> None:
    file, storage = write_one_step(tmp_path, "more"), str(tmp_path / "runs")
    both = [start(file, storage, tmp_path, 3) for _ in range(2)]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    jobs = [job for job in client.list_jobs() if job.submission_id and storage in job.entrypoint]
    assert Counter((job.metadata or {})["step"] for job in jobs) == {"corpus": 1, "more": 1}
    assert [job.status.value for job in jobs] == ["SUCCEEDED"] * 2
    assert sorted("[corpus] prepare   joined" in text for text in said) == [False, True], said
    for text in said:
        assert "[corpus] prepare   done" in text and json.loads(text.splitlines()[-1])["recipe"] == "small"


def test_one_that_has_joined_does_not_stop_the_other_s_job(client: Jobs, tmp_path: Path) -> None:
    file, storage = write_one_step(tmp_path), str(tmp_path / "runs")
    first, second = both = [start(file, storage, tmp_path, 60) for _ in range(2)]
    owner = joiner = None
    for process in both:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("[corpus]"))
        owner, joiner = (process, joiner) if "submitted" in line else (owner, process)
    assert owner is not None and joiner is not None, "one submitted the job, one joined it"
    joiner.send_signal(signal.SIGTERM)
    assert joiner.wait(60) == 130
    assert statuses(client, storage)[0] in ("PENDING", "RUNNING")
    owner.send_signal(signal.SIGTERM)
    assert owner.wait(60) == 130
    assert statuses(client, storage) == ["STOPPED"]
    for process in (first, second):
        process.communicate()


def test_a_job_that_ended_between_look_and_submission_is_joined(client: Jobs, tmp_path: Path) -> None:
    file, storage = write_one_step(tmp_path), str(tmp_path / "runs")
    other = made(file, storage, client, ["true"])
    made(file, storage, client, ["true"], met=other.run).run()
    assert statuses(client, storage) == ["SUCCEEDED"]


def test_what_failed_or_was_stopped_runs_again(client: Jobs, tmp_path: Path) -> None:
    file, storage = write_one_step(tmp_path), str(tmp_path / "runs")
    with pytest.raises(StepFailed):
        made(file, storage, client, ["false"]).run()
    stopped = start(file, storage, tmp_path, 60)
    (tmp_path / "meeting" / "nobody").touch()
    while "RUNNING" not in statuses(client, storage):
        assert stopped.poll() is None
        time.sleep(0.2)
    stopped.send_signal(signal.SIGINT)
    stopped.communicate(timeout=120)
    made(file, storage, client, ["true"]).run()
    jobs = [job for job in client.list_jobs() if job.submission_id and storage in job.entrypoint]
    found = {str(job.submission_id)[-2:]: job.status.value for job in jobs}
    assert found == {"-1": "FAILED", "-2": "STOPPED", "-3": "SUCCEEDED"}
