"""A pipeline only watches its steps' jobs: a dashboard that fails and a log that is mangled stop none of them.

pytest tests/jobs/test_pipeline_watching.py
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.connection import follow
from cluster.connection import jobs as client
from cluster.connection.connect import Cluster
from cluster.connection.follow import Lost
from cluster.connection.jobs import Jobs
from cluster.submit import submit
from jobs import pipeline
from jobs.running.events import RunEnded, StepChanged, read_event
from tests.cluster.flaky_dashboard import CLOSED, SILENT, WELL, WRONG, FlakyDashboard
from tests.jobs.one_step import made, speaks, statuses, write_one_step
from tests.story.running import ROOT


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A recipe of one short step."""
    return write_one_step(tmp_path)


@pytest.fixture
def real(ray_driver: Cluster, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """A client of the cluster itself, of which this process is a driver."""
    monkeypatch.chdir(ROOT)
    return Jobs(ray_driver.dashboard)


@pytest.fixture
def flaky(real: Jobs, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyDashboard]:
    """A proxy before the cluster's dashboard: all that is made from here on asks there."""
    monkeypatch.setattr(client, "ANSWER_SECONDS", 2.0)
    with FlakyDashboard(real.get_address()) as proxy:
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", proxy.url)
        yield proxy


def test_a_dashboard_that_fails_for_a_while_stops_no_job(
    flaky: FlakyDashboard, real: Jobs, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = str(tmp_path / "runs")
    faults = [*WRONG, SILENT, CLOSED]

    def fail() -> None:
        while statuses(real, storage) != ["RUNNING"]:
            time.sleep(0.2)
        for manner in faults:
            flaky.answers(manner)
            time.sleep(4 if manner == SILENT else 1.2)
            flaky.answers(WELL)
            time.sleep(1.2)

    failing = threading.Thread(target=fail)
    failing.start()
    made(file, storage, Jobs(flaky.url), speaks(100, 2.4 * len(faults) + 18)).run()
    failing.join()
    assert statuses(real, storage) == ["SUCCEEDED"]
    out, err = capsys.readouterr()
    steps = [int(found) for found in re.findall(r"running +\d+ s  step (\d+)/100", out)]
    assert steps == sorted(set(steps)) and steps[-1] > 60, "progress is shown again, and none of it twice"
    assert "corpus] prepare   done" in out
    assert err.count("no answer from its cluster") >= 2
    assert not [line for line in flaky.asked if re.search(r"/logs[ ?]", line)], "the log is streamed"


def test_a_log_goes_on_where_its_stream_broke(flaky: FlakyDashboard, real: Jobs) -> None:
    job = submit(real, speaks(300, 10))
    seen: list[str] = []
    broken = [50, 100, 150, 200]
    for line in follow.follow(Jobs(flaky.url), job):
        seen += [line] if line.startswith("no progress") else []
        if broken and len(seen) > broken[0]:
            broken.pop(0)
            flaky.answers("500")
            threading.Timer(1, flaky.answers, [WELL]).start()
    assert not broken
    assert seen == [f"no progress {n}" for n in range(300)]
    assert sum("/logs/tail" in line for line in flaky.asked) >= 4


def test_a_line_that_does_not_end_comes_in_pieces(real: Jobs) -> None:
    """A bar of progress may grow for days; what follows a log must not."""
    job = submit(real, [sys.executable, "-c", "for n in range(50): print('x' * 5000, end='', flush=True)"])
    lines = [line for line in follow.follow(real, job) if line.startswith("x")]
    assert sum(map(len, lines)) == 250_000 and max(map(len, lines)) == 100_000


def test_a_log_that_cannot_be_read_stops_no_job(flaky: FlakyDashboard, real: Jobs, file: str, tmp_path: Path) -> None:
    """Ray reads a log as UTF-8, and answers with an error from the first byte on that is none."""
    storage = str(tmp_path / "runs")
    made(file, storage, Jobs(flaky.url), speaks(10, 1, "latin-1", "6")).run()
    assert statuses(real, storage) == ["SUCCEEDED"]
    assert 2 <= len([line for line in flaky.asked if "/logs" in line]) < 9, "it is not opened again and again"


def test_a_dashboard_that_stays_away_ends_the_pipeline_and_not_the_job(
    flaky: FlakyDashboard,
    real: Jobs,
    file: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follow, "SECONDS_AWAY", 2.0)
    storage = str(tmp_path / "runs")
    watching = made(file, storage, Jobs(flaky.url), speaks(10, 25))

    def leave() -> None:
        while statuses(real, storage) != ["RUNNING"]:
            time.sleep(0.2)
        flaky.answers(CLOSED)

    leaving = threading.Thread(target=leave)
    leaving.start()
    with pytest.raises(Lost, match="has given no answer for 2 s"):
        watching.run()
    leaving.join()
    assert "was not stopped; submitting the recipe again joins it" in capsys.readouterr().err
    assert statuses(real, storage) == ["RUNNING"]

    with monkeypatch.context() as broken:
        broken.setattr(pipeline, "watch", lambda *_: 1 / 0)  # an error of this program
        with pytest.raises(ZeroDivisionError):
            made(file, storage, real, ["false"]).run()
    assert statuses(real, storage) == ["RUNNING"]

    flaky.answers(WELL)
    made(file, storage, real, ["false"]).run()
    assert statuses(real, storage) == ["SUCCEEDED"]


def test_what_cannot_be_told_of_a_job_is_said_and_no_more(
    real: Jobs, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.Waiting, "look", lambda _: 1 / 0)
    storage = str(tmp_path / "runs")
    made(file, storage, real, ["true"]).run()
    assert statuses(real, storage) == ["SUCCEEDED"]
    assert "not known for now (ZeroDivisionError: division by zero)" in capsys.readouterr().out


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_a_person_stops_the_job(end: signal.Signals, real: Jobs, file: str, tmp_path: Path) -> None:
    storage = str(tmp_path / "runs")
    events = tmp_path / "events.jsonl"
    command = [sys.executable, "-m", "jobs.pipeline", file, "--storage", storage, "--events", str(events)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        assert process.stdout is not None
        assert next(line for line in process.stdout if "running" in line)
        *_, running = [read_event(line) for line in events.read_text().splitlines()]
        assert isinstance(running, StepChanged) and running.state == "running", "the file has it as soon as the log"
        process.send_signal(end)
        assert "stopped" in process.stdout.read()
        assert process.wait(60) == 130
    assert statuses(real, storage) == ["STOPPED"]
    *_, stopped, ended = [read_event(line) for line in events.read_text().splitlines()]
    assert isinstance(stopped, StepChanged) and (stopped.state, stopped.job) == ("stopped", running.job)
    assert isinstance(ended, RunEnded) and (ended.exit_code, ended.summary) == (130, None)


def test_ray_job_stop_of_the_pipeline_stops_its_step(real: Jobs, file: str, tmp_path: Path) -> None:
    storage = str(tmp_path / "runs")
    job = submit(real, ["python", "-m", "jobs.pipeline", file, "--storage", storage], str(ROOT))
    deadline = time.monotonic() + 120
    while sorted(statuses(real, storage)) != ["RUNNING", "RUNNING"]:
        assert time.monotonic() < deadline, statuses(real, storage)
        time.sleep(0.2)
    real.stop_job(job)
    while statuses(real, storage) != ["STOPPED", "STOPPED"]:
        assert time.monotonic() < deadline, statuses(real, storage)
        time.sleep(0.2)
