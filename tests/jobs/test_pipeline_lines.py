"""What people see while a recipe runs: lines of the pipeline's log, and the screen that the demo makes of its events.

pytest tests/jobs/test_pipeline_lines.py
"""

import io
import json
import os
import re
from collections.abc import Iterable
from typing import get_args

import pytest

from jobs.core.config import describe_config
from jobs.core.stage import PROGRESS_MARK, STAGES, load_stage, print_progress
from jobs.demo import MARKS, Screen
from jobs.running.events import EVENT_MARK, Event, RunEnded, StepChanged, StepLog, StepState, in_words
from jobs.running.progress import Progress

SUMMARY = {"recipe": "spam", "seconds": 3.0, "winner": "small:int8"}


class Terminal(io.StringIO):
    """A terminal that obeys what the screen sends: up, down, to the line's start, clear the line; long lines wrap."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns, self.rows, self.row, self.column = columns, [""], 0, 0

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for piece in re.findall(r"\x1b\[\d*[A-Z]|.|\n", text, re.DOTALL):
            self._obey(piece)
        return len(text)

    def _obey(self, piece: str) -> None:
        if piece.startswith("\x1b"):
            number, command = int(piece[2:-1] or 1), piece[-1]
            assert command in "ABK", f"a command that this terminal does not know: {piece!r}"
            if command == "K":
                self.rows[self.row] = ""
            else:
                self._go(self.row + (number if command == "B" else -number))
        elif piece == "\n":
            self._go(self.row + 1, grow=True)
            self.column = 0
        elif piece == "\r":
            self.column = 0
        else:
            if self.column == self.columns:
                self._go(self.row + 1, grow=True)
                self.column = 0
            line = self.rows[self.row].ljust(self.column)
            self.rows[self.row] = line[: self.column] + piece + line[self.column + 1 :]
            self.column += 1

    def _go(self, row: int, grow: bool = False) -> None:
        if grow and row == len(self.rows):
            self.rows.append("")
        assert 0 <= row < len(self.rows), "the cursor left the screen"
        self.row = row

    def lines(self) -> list[str]:
        return [row.rstrip() for row in self.rows]


def marked(event: Event) -> str:
    """An event's line in the log of a pipeline."""
    return EVENT_MARK + event.line()


def step_line(step: str, stage: str, state: StepState, seconds: float, text: str) -> str:
    """The line of a step's event."""
    return marked(StepChanged(step=step, stage=stage, state=state, seconds=seconds, text=text))


def shown(log: Iterable[str], columns: int, monkeypatch: pytest.MonkeyPatch, rows: int = 40) -> list[str]:
    """What stands on a terminal of this size after the log."""
    monkeypatch.setattr("shutil.get_terminal_size", lambda **_: os.terminal_size((columns, rows)))
    terminal = Terminal(columns)
    assert Screen(terminal).show([*log, marked(RunEnded(exit_code=0, summary=SUMMARY))]) == SUMMARY
    assert terminal.lines()[-1] == "", "the cursor ends below everything"
    return terminal.lines()[:-1]


@pytest.mark.parametrize("state", get_args(StepState))
@pytest.mark.parametrize("stage", STAGES)
def test_each_event_is_shown_in_the_words_of_the_pipeline_s_log(state: StepState, stage: str) -> None:
    for seconds, text in ((0.4, "never run"), (59.6, ""), (1_234_567.0, "macro_f1 0.9812  温度 1 → 2")):
        event = StepChanged(step="my_step-2", stage=stage, state=state, seconds=seconds, text=text)
        assert in_words(event) == f"[my_step-2] {stage:<9} {state:<9} {seconds:6.0f} s  {text}"
        out = io.StringIO()
        assert Screen(out).show([marked(event)]) is None
        line = f"{MARKS[state]} my_step-2    {stage:<9} {state:<9} {f'{seconds:.0f}':>5} s  {text}\n"
        assert out.getvalue() == ("" if state == "submitted" else line)


def test_lines_of_others_are_shown_and_not_taken_for_events() -> None:
    done = step_line("base", "pretrain", "done", 3, "")
    lines = [f"(pid=3) {done}", "[base] pretrain  running       12 s  loss 3", '{"recipe": "spam"}', "", f"\r{done}"]
    out = io.StringIO()
    assert Screen(out).show(lines) is None
    assert out.getvalue() == "".join(f"{line}\n" for line in lines)


@pytest.mark.parametrize("cut", [1, 9, 60])
def test_an_event_that_cannot_be_read_counts_for_nothing(cut: int) -> None:
    done = step_line("base", "pretrain", "done", 3, "")
    ended = marked(RunEnded(exit_code=0, summary=SUMMARY))
    unknown = done.replace("step_changed", "step_thought_over")
    out = io.StringIO()
    assert Screen(out).show([done[:-cut], done[:-cut] + ended, unknown, EVENT_MARK, ended + done]) is None
    assert out.getvalue() == ""


def test_the_last_lines_of_a_failed_step_are_shown_without_noise() -> None:
    noise = "2026-01-01 10:00:00,000 INFO worker.py:1900 -- Connecting"
    out = io.StringIO()
    said = [StepLog(step="base", text=text) for text in ("ValueError: 3", noise, f"exit code 1:\n{noise}\n  last words")]
    Screen(out).show([marked(event) for event in said])
    assert out.getvalue().splitlines() == ["    ValueError: 3", "    exit code 1:", "  last words"]


def progress(log: Iterable[str]) -> Progress:
    """What is known of a step after these lines."""
    found = Progress()
    for line in log:
        found.read(line)
    return found


def test_progress_is_found_among_what_workers_print(capsys: pytest.CaptureFixture[str]) -> None:
    print_progress(step=30, steps=450, loss=6.25, steps_per_second=4.5)
    written = capsys.readouterr().out.rstrip("\n")
    log = [
        "2026-01-01 10:00:00,000 INFO worker.py:1900 -- Connecting to existing Ray cluster",
        f"(RayTrainWorker pid=4711) {PROGRESS_MARK}" + json.dumps({"step": 10, "steps": 450, "loss": 8.5}),
        f"\x1b[36m(RayTrainWorker pid=4711)\x1b[0m {written}",
        "(RayTrainWorker pid=4712) UserWarning: {'x': 1}",
        f"(RayTrainWorker pid=4711) {PROGRESS_MARK}" + '{"step": 40, "ste',
    ]
    assert progress(log).figures == {"step": 30, "steps": 450, "loss": 6.25, "steps_per_second": 4.5}
    assert progress(log).words() == "step 30/450  loss 6.2500  4.50 steps/s"
    assert progress(log[:1]).figures == {} and progress(log[:1]).words() == ""
    assert [Progress().read(line) for line in log] == [False, True, True, False, True]


def test_two_workers_that_write_into_one_line_do_not_end_the_pipeline() -> None:
    log = [f'(pid=1) {PROGRESS_MARK}{{"step": 1, "steps": 9}}(pid=2) {PROGRESS_MARK}{{"step": 2, "steps": 9}}']
    assert progress(log).figures == {"step": 2, "steps": 9}
    broken = [*log, f'(pid=1) {PROGRESS_MARK}{{"step": 1, "st(pid=2) {PROGRESS_MARK}{{"step": 3, "steps": 9}}']
    assert progress(broken).figures == {"step": 3, "steps": 9}
    turned = [*log, f'(pid=1) {PROGRESS_MARK}{{"step": 1, "st(pid=2) words{{}}', f'{PROGRESS_MARK}{{"step": 4}}(pid=2) {{}}']
    assert progress(turned).figures == {"step": 4}


@pytest.mark.parametrize("said", ["", "5", "[1]", '{"step": }', "[" * 100_000, '{"a": {}}', '{"loss": "?", "trial": [1]}'])
def test_what_is_no_progress_changes_none_and_ends_nothing(said: str) -> None:
    line = PROGRESS_MARK + said
    assert Progress().read(line)
    assert progress([line]).words() in ("", "trial 1")
    assert progress([f'{PROGRESS_MARK}{{"state": "cleaned"}}', line, f'{PROGRESS_MARK}{{"rows": 3}}']).figures == {"rows": 3}


def test_progress_of_a_search_counts_its_trials() -> None:
    log = [
        f"(trial pid={number}) {PROGRESS_MARK}" + json.dumps({"step": step, "steps": 80, "loss": 0.5, "trial": name})
        for number, step, name in ((1, 40, "a"), (2, 20, "b"), (1, 80, "a"), (3, 20, "c"))
    ]
    assert progress(log).words() == "trial 3  step 20/80  loss 0.5000"


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"state": "cleaned", "rows": 36_718}, "cleaned  rows 36718"),
        ({"step": 3, "steps": 3, "macro_f1": 0.98125, "evaluation": True}, "step 3/3  macro_f1 0.9812"),
        (
            {"step": 3, "steps": 3, "validation_loss": 0.2, "mean_rank": 1.5, "trial": "a"},
            "trial 1  step 3/3  mean_rank 1.5000",
        ),
        ({"step": 3, "steps": 9, "validation_loss": 4.0, "perplexity": 54.598}, "step 3/9  perplexity 54.6"),
        ({"state": "pruned", "feed_forward_kept": 688.0}, "pruned"),
        ({"loss": float("nan"), "step": 1, "steps": 2}, "step 1/2  loss nan"),
    ],
)
def test_progress_in_words(figures: dict[str, object], words: str) -> None:
    assert progress([PROGRESS_MARK + json.dumps(figures)]).words() == words


LOG = [
    step_line("corpus", "prepare", "submitted", 0, "never run"),
    step_line("corpus", "prepare", "running", 5, "cleaned  rows 100"),
    step_line("corpus", "prepare", "done", 9, "train_rows 90"),
    step_line("base", "pretrain", "submitted", 0, "never run"),
    "a warning of a library",
    step_line("base", "pretrain", "running", 5, "step 1/450"),
    "another one, " + "and a long one: " * 12,
    step_line("base", "pretrain", "running", 10, "step 99/450"),
    step_line("messages", "prepare", "complete", 2, "train_rows 7"),
    step_line("base", "pretrain", "failed", 11, "job raysubmit_1"),
]


def test_a_terminal_shows_one_line_a_step_with_its_latest_state(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(LOG, 80, monkeypatch)
    assert lines[:3] == [
        "✓ corpus       prepare   done          9 s  train_rows 90",
        "✗ base         pretrain  failed       11 s  job raysubmit_1",
        "a warning of a library",
    ]
    assert "".join(lines[3:6]) == LOG[6].rstrip(), "what others print stays whole"
    assert lines[6:] == ["✓ messages     prepare   complete      2 s  train_rows 7"]


@pytest.mark.parametrize("columns", [20, 40, 205, 400])
def test_a_terminal_of_another_width_is_not_spoiled(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(LOG, columns, monkeypatch)
    starts = [line[2:10].rstrip() for line in lines if line[:1] in "✓✗…■"]
    assert starts == ["corpus", "base", "messages"]
    assert all(len(line) < columns for line in lines if line[:1] in "✓✗…■")


def test_a_line_that_has_scrolled_away_is_written_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    log = [LOG[3], *(f"line {number}" for number in range(12)), LOG[5], LOG[7]]
    lines = shown(log, 80, monkeypatch, rows=10)
    assert lines[1:13] == [f"line {number}" for number in range(12)], "lines that are still to be seen are not overwritten"
    assert lines[13:] == ["… base         pretrain  running      10 s  step 99/450"]


def test_elsewhere_lines_are_printed_as_they_come_and_noise_is_left_out() -> None:
    out = io.StringIO()
    noise = "2026-01-01 10:00:00,000 INFO dashboard_sdk.py:355 -- Uploading package"
    assert Screen(out).show([noise, LOG[0], LOG[1], "a word", LOG[2]]) is None
    assert out.getvalue().splitlines() == [
        "… corpus       prepare   running       5 s  cleaned  rows 100",
        "a word",
        "✓ corpus       prepare   done          9 s  train_rows 90",
    ]
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize("stage", STAGES)
def test_keys_are_told_in_words_that_a_user_knows(stage: str) -> None:
    told = describe_config(load_stage(stage).config)
    assert told
    assert [row for row in told if "Annotated" in row[1] or " at 0x" in row[1] + row[2]] == []
