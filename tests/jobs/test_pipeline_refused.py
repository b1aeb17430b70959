"""Where select refuses all candidates, what was measured is reported nevertheless, with exit code 3.

pytest tests/jobs/test_pipeline_refused.py
"""

import io
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster.connection.connect import Cluster
from cluster.store.artifact import publish
from cluster.store.run_records import list_runs
from jobs.core.places import locate
from jobs.core.recipe import load_recipe
from jobs.demo import MARKS, Screen, run_job
from jobs.running.events import Event, RunEnded, RunStarted, StepChanged, StepLog, in_words, read_event
from tests.jobs.test_report import Page, rows
from tests.story.running import ROOT
from tests.story.tiny_world import recipe, write_recipe, write_world


def publish_measured(file: str, storage: str, draft: Path) -> None:
    """Artifacts of all steps before the selection; only the evaluation's has what its kind asks for."""
    conditions = {"threads": 1, "batch_size": 32, "cpu": "AMD EPYC"}
    report = {"metric": "macro_f1", "labels": ["ham", "spam"], "split": "test", "examples": 725, "rows": rows()}
    for name, step in load_recipe(file).steps.items():
        if name == "winner":
            return
        (draft / name).mkdir(parents=True)
        (draft / name / "report.json").write_text(json.dumps(report | {"step": name, "conditions": conditions}))
        place = locate(load_recipe(file), storage)[name]
        record = {"kind": step.kind, "step": name, "stage": step.stage.name, "stage_version": step.stage.version}
        record |= {"config": step.resolved(), "seconds": 1.0, "created": datetime.now(UTC)}
        publish(draft / name, str(place.uri), record)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Of a pipeline whose only step that is not done asks for more than any candidate has."""
    tree = recipe(write_world(tmp_path), winner={"minimum_kept": 1.9})
    del tree["steps"]["served"]
    file, storage = write_recipe(tmp_path / "tiny.yaml", tree), str(tmp_path / "runs")
    publish_measured(file, storage, tmp_path / "draft")
    return [file, "--storage", storage]


def finish(arguments: list[str], tmp_path: Path) -> tuple["subprocess.CompletedProcess[str]", list[Event]]:
    """The pipeline in a plain process, and its events."""
    file = tmp_path / "events.jsonl"
    command = [sys.executable, "-m", "jobs.pipeline", *arguments, "--events", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ), timeout=300)
    events = [read_event(line) for line in file.read_text().splitlines()]
    return done, [event for event in events if event is not None]


def test_a_refusal_is_a_result(ray_cluster: Cluster, arguments: list[str], tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    done, events = finish(arguments, tmp_path)
    assert done.returncode == 3, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary == json.loads((storage / "tiny" / "summary.json").read_text())
    assert (summary["winner"], summary["refused"], summary["teacher_score"]) == (None, "winner", 0.983)
    table = re.findall(r"^[+* ] (\S+) +0\.9\d\d ", done.stdout, re.MULTILINE)
    assert table == [row["candidate"] for row in rows()] and ": the winner" not in done.stdout
    page = Page(Path(summary["report"]))
    assert page.headings["h1"] == ["7 candidates measured, none chosen"]
    assert "keeps 98.5% of the teacher's score, 190.0% are asked" in page.text, "the budget, and what each misses"
    (run,) = list_runs(str(storage))
    assert run.scores == {"teacher_score": 0.983} and "judged" in run.artifacts and "winner" not in run.artifacts

    started, *changes, ended = [event for event in events if not isinstance(event, StepLog)]
    steps = load_recipe(arguments[0]).steps
    assert isinstance(started, RunStarted) and (started.recipe, started.storage) == ("tiny", str(storage))
    assert [(step.step, step.stage) for step in started.steps] == [(step.name, step.stage.name) for step in steps.values()]
    *before, last = [event for event in changes if isinstance(event, StepChanged)]
    complete = [event for event in before if event.step != "winner"]
    assert [event.step for event in complete] == [*steps][:-1]
    assert {(event.state, event.seconds, event.job) for event in complete} == {("complete", 1.0, None)}
    assert [event.uri for event in complete] == [
        locate(load_recipe(arguments[0]), str(storage))[name].uri for name in [*steps][:-1]
    ]
    assert (last.step, last.stage, last.state, last.exit_code, last.uri) == ("winner", "select", "failed", 3, None)
    assert last.job is not None and ray_cluster.jobs().get_job_info(last.job).driver_exit_code == 3
    assert isinstance(ended, RunEnded) and (ended.exit_code, ended.summary) == (3, summary)
    words = [line for event in events for line in str(in_words(event)).split("\n") if not isinstance(event, RunStarted)]
    assert [line for line in done.stdout.splitlines() if line in words] == words, "the log for people says the same"

    # The demo, to which the pipeline is a job, shows the same and exits with the same code.
    out = io.StringIO()
    job = ["python", "-m", "jobs.pipeline", *arguments]
    code, again = run_job(ray_cluster.jobs(), job, {"recipe": "tiny"}, Screen(out))
    assert again is not None
    assert (code, again["winner"], again["refused"]) == (3, None, "winner")
    shown = out.getvalue()
    lines = [line.split() for line in shown.splitlines() if line[:1] in MARKS.values()]
    told = [[MARKS[event.state], event.step, event.stage, event.state] for event in (*complete, last)]
    assert [line[:4] for line in lines if line[3] in ("complete", "failed")] == told
    assert re.findall(r"^[+* ] (\S+) +0\.9\d\d ", shown, re.MULTILINE) == table
    assert "@event" not in shown and '{"recipe"' not in shown


def test_a_failure_leaves_no_report(ray_cluster: Cluster, arguments: list[str], tmp_path: Path) -> None:
    for report in (tmp_path / "runs" / "tiny").glob("judged-*/report.json"):
        report.write_text("{")
    done, events = finish(arguments, tmp_path)
    assert done.returncode in (1, 2), done.stdout + done.stderr
    last = [event for event in events if isinstance(event, StepChanged)][-1]
    assert (last.step, last.state, last.exit_code) == ("winner", "failed", done.returncode)
    assert any(isinstance(event, StepLog) for event in events), "its last words"
    ended = events[-1]
    assert isinstance(ended, RunEnded) and (ended.exit_code, ended.summary) == (done.returncode, None)
    assert not (tmp_path / "runs" / "tiny" / "summary.json").exists()
    assert not list_runs(str(tmp_path / "runs"))
