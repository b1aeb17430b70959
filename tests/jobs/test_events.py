"""Events of a pipeline: written as a line of JSON each, read back, and what is none is passed over.

pytest tests/jobs/test_events.py
"""

import json
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.core.config import BadInput
from jobs.running.events import (
    EVENT_MARK,
    LONGEST_TEXT,
    Event,
    EventWriter,
    RunEnded,
    RunStarted,
    RunStep,
    StepChanged,
    StepLog,
    finite,
    in_words,
    read_event,
)

STARTED = RunStarted(recipe="spam", storage="/runs", steps=(RunStep(step="corpus", stage="prepare"),))
RUNNING = StepChanged(step="base", stage="pretrain", state="running", seconds=59.6, text="step 3/9", figures={"step": 3})
EVENTS: list[Event] = [
    STARTED,
    RUNNING,
    StepChanged(step="base", stage="pretrain", state="done", seconds=9, text="温度 1 → 2", job="a-1", uri="s3://b/base-0"),
    StepChanged(step="base", stage="pretrain", state="failed", seconds=9, text="job a-1", job="a-1", exit_code=3),
    StepLog(step="base", text='a "line"\r\n@event {}\u2028\u2029\x85\x1b[A'),
    RunEnded(exit_code=3, summary={"recipe": "spam", "seconds": 3.0, "winner": None, "answers": [{"said": "垃圾"}]}),
    RunEnded(exit_code=130),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_an_event_is_one_line_that_reads_back(event: Event) -> None:
    line = event.line()
    assert line.splitlines() == [line]
    assert read_event(line) == event
    told = json.loads(line)
    assert told["kind"] == event.kind
    when = datetime.fromisoformat(told["time"])
    assert when.utcoffset() == timedelta(0) and abs(datetime.now(UTC) - when) < timedelta(minutes=10)


def test_what_is_not_whole_counts_for_nothing() -> None:
    for event in EVENTS:
        line = event.line()
        assert not any(read_event(line[:end]) for end in range(len(line)))
        assert read_event(line + line) is None
        assert read_event(line[:40] + line) is None
    for line in ("", "5", "[1]", "null", "{}", "[" * 100_000, '{"kind": "run_ended"}', '{"kind": ["run_ended"]}'):
        assert read_event(line) is None, line
    assert read_event('{"kind": "run_ended", "exit_code": 0, "time": "2026-01-01T10:00:00"}') is None, "of no time zone"


def test_later_versions_may_say_more() -> None:
    told = json.loads(RUNNING.line())
    assert read_event(json.dumps(told | {"kind": "step_retried"})) is None
    assert read_event(json.dumps(told | {"node": "10.0.0.7"})) == RUNNING


def test_texts_and_figures_cannot_break_a_line() -> None:
    figures = finite(
        {"loss": float("nan"), "step": 3, "rows": 2.5, "state": "cleaned", "ends": True, "a\ud800": -1, "b": None}
    )
    assert figures == {"loss": None, "step": 3, "rows": 2.5, "a\N{REPLACEMENT CHARACTER}": -1}
    event = RUNNING.model_copy(update={"figures": figures})
    assert read_event(event.line()) == event
    text = "cleaned\n[base] pretrain  done  3 s  \ud800\x1b[A"
    forged = StepChanged(step="corpus", stage="prepare", state="running", seconds=1, text=text)
    (line,) = str(in_words(forged)).splitlines()
    assert line.encode().startswith(b"[corpus] prepare   running        1 s  cleaned")


def test_a_very_long_line_of_a_log_still_comes_as_one() -> None:
    event = StepLog(step="base", text="\x1b" * 99_990 + "the end")
    line = EVENT_MARK + event.line()
    assert len(line) < 100_000, "what follow() has in one piece"
    read = read_event(line.removeprefix(EVENT_MARK))
    assert isinstance(read, StepLog) and len(read.text) == LONGEST_TEXT and read.text.endswith("\x1bthe end")
    assert in_words(event) == f"    {event.text}", "people get all of it"


def test_a_file_begins_anew_and_ends_with_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text("of another run\n")
    with pytest.raises(SystemExit), EventWriter("events", str(file)) as events:
        events.open()
        for event in EVENTS[:-1]:
            events.write(event)
            assert read_event(file.read_text().splitlines()[-1]) == event, "it is there at once"
        events.summary = {"recipe": "spam"}
        raise SystemExit(3)
    lines = file.read_text().splitlines()
    assert [read_event(line) for line in lines[:-1]] == EVENTS[:-1]
    ended = read_event(lines[-1])
    assert isinstance(ended, RunEnded) and (ended.exit_code, ended.summary) == (3, {"recipe": "spam"})
    assert capsys.readouterr().out.splitlines() == [EVENT_MARK + line for line in lines], "the log has the same"


def test_an_error_that_nobody_met_ends_a_run_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), EventWriter("events", None):
        _ = 1 / 0
    ended = read_event(capsys.readouterr().out.removeprefix(EVENT_MARK))
    assert isinstance(ended, RunEnded) and (ended.exit_code, ended.summary) == (1, None)


@pytest.mark.parametrize("path", ["/", "/absent/events.jsonl", "", "s3://bucket/events.jsonl"])
def test_a_file_that_cannot_be_written_is_refused(path: str) -> None:
    with pytest.raises(BadInput, match="--events = .*it cannot be written"):
        EventWriter("text", path).open()


def test_a_full_disk_is_refused_before_anything_runs() -> None:
    events = EventWriter("text", "/dev/full")
    events.open()
    with pytest.raises(BadInput, match="No space left on device"):
        events.write(STARTED)


def test_a_file_that_takes_no_more_ends_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[str] = []

    def read_one() -> None:
        with open(pipe) as file:
            got.append(file.readline())

    reader = threading.Thread(target=read_one)
    reader.start()
    with EventWriter("text", str(pipe)) as events:
        events.open()
        events.write(STARTED)
        reader.join()
        events.write(RUNNING)
        events.summary = {"recipe": "spam"}
    out, err = capsys.readouterr()
    assert [read_event(line) for line in got] == [STARTED]
    assert err.splitlines() == [f"--events: {pipe} has no more events from here on (Broken pipe)"], "said once"
    assert out.splitlines() == [in_words(RUNNING), '{"recipe": "spam"}'], "the log goes on"
