"""What happens while a pipeline runs, as events: in words for people, as lines of JSON for the demo's screen and for scripts.

python -m jobs.pipeline RECIPE --events FILE            as they happen, into a file
python -m jobs.pipeline RECIPE --log-format events      on the log, behind EVENT_MARK, for readers on another host

for line in open(FILE):
    event = read_event(line)        None: no event, none that is whole, or of a kind that this version does not know
"""

import json
import math
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from io import FileIO
from types import TracebackType
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_serializer,
)

from jobs.core.config import BadInput, Problem

EVENT_MARK = "@event "
LONGEST_TEXT = 15_000
"""Characters of a log's line in an event. In JSON they are six times as many at most, still less than `follow` cuts."""

LINE_ENDS = {ord(each): f"\\u{ord(each):04x}" for each in "\x85\u2028\u2029"}
"""Those that JSON may hold as they are; only its strings have them."""

LogFormat = Literal["text", "events"]
StepState = Literal["submitted", "joined", "waiting", "running", "done", "complete", "failed", "stopped"]
_breaks_a_line = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _in_one_line(text: Any) -> Any:
    return _breaks_a_line.sub("\N{REPLACEMENT CHARACTER}", text) if isinstance(text, str) else text


Figures = dict[str, int | float | None]
Seconds = Annotated[float, AfterValidator(lambda seconds: round(seconds, 3))]
OneLine = Annotated[str, BeforeValidator(_in_one_line)]


class _Event(BaseModel):
    """What all events have. Keys that a reader does not know are passed over, as unknown kinds are."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    time: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    """When it happened: ISO 8601, UTC."""

    def line(self) -> str:
        """The event as JSON in one line, whatever its reader takes for a line's end."""
        return self.model_dump_json().translate(LINE_ENDS)


class RunStep(BaseModel):
    """A step of the recipe."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    step: str
    """Its name."""
    stage: str
    """What kind of step it is: prepare, pretrain, …"""


class RunStarted(_Event):
    """A pipeline has read its recipe; what may be wrong with it is looked for next, before the first step."""

    kind: Literal["run_started"] = "run_started"
    recipe: str
    """The recipe's name."""
    storage: str
    """Where its artifacts are kept, an absolute path or a URI."""
    steps: tuple[RunStep, ...]
    """All of its steps, in the order in which they run."""


class StepChanged(_Event):
    """A step has another state, or there is news of its figures."""

    kind: Literal["step_changed"] = "step_changed"
    step: str
    """The step's name."""
    stage: str
    """What kind of step it is."""
    state: StepState
    """submitted or joined (another pipeline's job), then waiting (for resources) and running, then done, failed (also where
    it refused) or stopped (by a person); complete: was done before, nothing runs."""
    seconds: Seconds
    """Since this pipeline took the step up; of one that was complete, how long it took when it was made."""
    text: OneLine
    """The same for people: why it runs, what it waits for, its figures."""
    figures: Figures = Field(default_factory=dict)
    """Its numbers by name: the latest of one that runs (step, steps, loss, …), the artifact's metrics of one that is done or
    complete. Null is a number that is not finite."""
    job: str | None = None
    """The Ray job that makes it, of which `ray job logs` shows the log; null where it was complete."""
    uri: str | None = None
    """Where its artifact is, of one that is done or complete."""
    exit_code: int | None = None
    """Of its job's driver where it failed: 2 for bad input, 3 where it refused; null where it was stopped or never started."""


class StepLog(_Event):
    """A line of a failed step's log; the last ones follow its failure."""

    kind: Literal["step_log"] = "step_log"
    step: str
    """The step's name."""
    text: str
    """The line; of a very long one its end."""

    @field_serializer("text", when_used="json")
    def _its_end(self, text: str) -> str:
        return text[-LONGEST_TEXT:]


class RunEnded(_Event):
    """The pipeline ends; the last event, and there always unless its process was killed."""

    kind: Literal["run_ended"] = "run_ended"
    exit_code: int
    """The pipeline's: 0, 1 for a failure, 2 for bad input, 3 where a step refused, 130 where it was stopped."""
    summary: dict[str, Any] | None = None
    """What is in summary.json, where all steps are done or one refused."""


Event = RunStarted | StepChanged | StepLog | RunEnded
_events: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def read_event(line: str) -> Event | None:
    """The event of a line of JSON; None where it is none, not whole, or of an unknown kind."""
    try:
        return _events.validate_json(line)
    except ValidationError:
        return None


def finite(figures: Mapping[str, Any]) -> Figures:
    """Those figures that are numbers; None for one that is not finite."""
    numbers = {key: each for key, each in figures.items() if isinstance(each, int | float) and not isinstance(each, bool)}
    return {_in_one_line(key): each if math.isfinite(each) else None for key, each in numbers.items()}


def in_words(event: Event) -> str | None:
    """The event's line in a log for people; None where that has none."""
    match event:
        case StepChanged():
            return f"[{event.step}] {event.stage:<9} {event.state:<9} {event.seconds:6.0f} s  {event.text}"
        case StepLog():
            return f"    {event.text}"
        case RunEnded(summary=dict()):
            return json.dumps(event.summary, ensure_ascii=False)
    return None


def print_words(event: Event) -> None:
    """Print the event as people read it."""
    words = in_words(event)
    if words is not None:
        print(words, flush=True)


class EventWriter:
    """Where a run's events go: on its log, and into a file where one is named. Leaving it tells that the run has ended.

    with EventWriter("text", "events.jsonl") as events:
        events.open()
        events.write(RunStarted(…))
    """

    def __init__(self, log_format: LogFormat, path: str | None) -> None:
        self.summary: dict[str, Any] | None = None
        """What the run's end shall say."""
        self._log_format, self._path = log_format, path
        self._file: FileIO | None = None

    def open(self) -> None:
        """Begin the file anew; BadInput where it cannot be written."""
        if self._path is not None:
            try:
                self._file = FileIO(self._path, "w")
            except OSError as error:
                raise self._refusal(error) from error

    def write(self, event: Event) -> None:
        """Put the event where it goes. A file that takes no more is given up, with a word: that is no reason to end a run."""
        line = event.line()
        if self._file is not None:
            try:
                self._file.write(f"{line}\n".encode())
            except OSError as error:
                self._close()
                if isinstance(event, RunStarted):
                    raise self._refusal(error) from error
                print(f"--events: {self._path} has no more events from here on ({error.strerror})", file=sys.stderr)
        if self._log_format == "events":
            print(EVENT_MARK + line, flush=True)
        else:
            print_words(event)

    def __enter__(self) -> "EventWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # An error that nobody met ends Python with 1.
        code = 0 if error is None else 1
        if isinstance(error, SystemExit) and isinstance(error.code, int):
            code = error.code
        self.write(RunEnded(exit_code=code, summary=self.summary))
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _refusal(self, error: OSError) -> BadInput:
        remedy = "Name a local file that can be written, in a directory that is there."
        return BadInput([Problem("--events", self._path, f"it cannot be written ({error.strerror})", remedy)])
