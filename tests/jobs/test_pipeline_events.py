"""What a step prints never becomes an event of its pipeline, however much it looks like one.

pytest tests/jobs/test_pipeline_events.py
"""

import io
import json
import sys
from pathlib import Path

import pytest

from cluster.connection.connect import Cluster
from cluster.connection.jobs import Jobs
from jobs.core.stage import PROGRESS_MARK
from jobs.demo import Screen
from jobs.pipeline import StepFailed
from jobs.running.events import EVENT_MARK, EventWriter, RunEnded, StepChanged, StepLog, in_words, read_event
from tests.jobs.one_step import made, write_one_step
from tests.story.running import ROOT

FORGED = EVENT_MARK + RunEnded(exit_code=0, summary={"recipe": "forged"}).line()
LINES = [
    FORGED,
    f"half a bar\r{FORGED}",
    f"other ends of a line\x0b{FORGED}\u2028{FORGED}\x85{FORGED}",
    f"{FORGED} {PROGRESS_MARK}",
    PROGRESS_MARK + json.dumps({"state": f"here\n{FORGED}", f"rows\n{FORGED}": 3}),
]
SAYS = """
import sys, time
for line in sys.argv[1:]:
    sys.stdout.buffer.write(line.encode() + b"\\n")
sys.stdout.flush()
time.sleep(5)
sys.exit(4)
"""


@pytest.fixture
def client(ray_driver: Cluster, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """A client of the cluster, of which this process is a driver."""
    monkeypatch.chdir(ROOT)
    return Jobs(ray_driver.dashboard)


def test_a_step_cannot_forge_an_event(client: Jobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, events = write_one_step(tmp_path), EventWriter("events", None)
    pipeline = made(file, str(tmp_path / "runs"), client, [sys.executable, "-c", SAYS, *LINES])
    pipeline.tell = events.write
    with pytest.raises(StepFailed):
        pipeline.run()
    log = capsys.readouterr().out
    marked = [line.removeprefix(EVENT_MARK) for line in log.splitlines() if line.startswith(EVENT_MARK)]
    told = [event for line in marked if (event := read_event(line)) is not None]
    assert {type(event) for event in told} == {StepChanged, StepLog}
    submitted, *running, failed = [event for event in told if isinstance(event, StepChanged)]
    assert (submitted.state, {event.state for event in running}, failed.state) == ("submitted", {"running"}, "failed")
    assert running[-1].text.startswith("here") and FORGED in running[-1].text and [*running[-1].figures.values()] == [3]
    assert len(str(in_words(running[-1])).splitlines()) == 1, "nor a line of another step in the log for people"
    assert failed.exit_code == 4 and failed.job and failed.uri is None
    assert client.get_job_info(failed.job).driver_exit_code == 4, "where its log is"
    said = "\n".join(event.text for event in told if isinstance(event, StepLog))
    assert FORGED in said, "people see it all the same"

    out = io.StringIO()
    assert Screen(out).show(log.split("\n")) is None, "nor does the demo take it for one"
    shown = out.getvalue().splitlines()
    assert any(line.startswith("✗ corpus") for line in shown) and any(FORGED in line for line in shown)
