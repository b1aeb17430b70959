"""What answering a piece leaves behind: a part of the output, and a record of it that says that it is done.

OUTPUT/part-00007.csv              the rows with their answers, in the order of the input
OUTPUT/.unfinished/asked.json      what was asked: a run that was killed goes on only by the same
OUTPUT/.unfinished/00007.json      the piece is done: how many rows, its bad rows
OUTPUT/bad_rows.jsonl              at the end: every bad row with its file, its number and what is wrong with it
OUTPUT/summary.json                written last
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from cluster.store import storage
from jobs.data.formats import Files
from jobs.data.pieces import Piece, Row
from jobs.data.values import has_column, is_absent, value_at, with_words_joined, without_bytes
from jobs.offline.pre_annotations import ANNOTATION_TOOLS, Control, answer_type, doccano_line, studio_task
from serve.settings import MAX_CHARACTERS
from serve.tasks.protocol import Item, Task

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["parquet", "csv", "jsonl", "label_studio", "doccano"]
ENDINGS = {"label_studio": "json", "doccano": "jsonl"}
"""Of files whose format is no ending itself."""
UNFINISHED, IDENTITY_FILE, BAD_ROWS, SUMMARY = ".unfinished", "asked.json", "bad_rows.jsonl", "summary.json"


class RunIdentity(BaseModel):
    """What a run is: the same is gone on with, another one is refused in the same place."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str
    fingerprint: str
    variant: str
    column: str | dict[str, str]
    """Of the text; of several, of each by its name."""
    keep: tuple[str, ...]
    format: Format
    probabilities: bool
    control: Control | None = None
    """Of pre-annotations for Label Studio: where answers go."""
    files_as: Files = Files()
    """How they are written."""
    files: tuple[tuple[str, int, float], ...]
    """URI, bytes and time of the last change."""


@dataclass(frozen=True)
class Plan:
    """A run with the pieces that it is done in."""

    identity: RunIdentity
    task: Task
    """What the model answers for."""
    typed: bool
    """Whether all input is Parquet of one schema, whose types Parquet output then has."""
    pieces: tuple[Piece, ...]
    joins: bool = False
    """Whether a text may be a list of words, as it might where the model learned."""

    @property
    def texts(self) -> list[str]:
        """The columns of an item's texts, in their order."""
        column = self.identity.column
        return [column] if isinstance(column, str) else [column[name] for name in self.task.fields]

    def text(self, row: Row, column: str) -> Any:
        """What a row has for one of the texts."""
        value = without_bytes(value_at(row.values, column))
        return with_words_joined(value) if self.joins else value

    @property
    def annotates(self) -> bool:
        """Whether answers are written as pre-annotations."""
        return self.identity.format in ANNOTATION_TOOLS

    def pre_annotated(
        self, row: Mapping[str, Any], item: Item, cells: Mapping[str, Any], sure: float | None
    ) -> dict[str, Any]:
        """A row with its answer, as the tool takes it."""
        identity, answer = self.identity, cells[answer_type(self.task)[0]]
        if identity.control is None:
            return doccano_line(item.values[0], row, answer)
        version = f"{identity.model.rsplit('/', 1)[-1]} {identity.variant}"
        return studio_task(identity.control, row, answer, sure, version)

    @property
    def answer_columns(self) -> dict[str, type]:
        """The columns that answers add, with their types."""
        return self.task.columns(self.identity.probabilities)


class SplitRecord(BaseModel):
    """The record of a piece that is done."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    rows: int
    bad: list[dict[str, Any]]
    began: float
    ended: float
    """Unix times."""


def fault_of(row: Row, plan: Plan) -> tuple[str, str] | None:
    """Why a row cannot be answered, in a word or two to count by and with its detail; None where it can."""
    if row.fault is not None:
        return row.fault.reason, row.fault.detail
    if found := next((fault for column in plan.texts if (fault := _fault_of_text(row, column, plan)) is not None), None):
        return found
    try:
        _as_json(row.values).encode()
    except UnicodeEncodeError:
        return "not UTF-8", "the row has bytes or escapes that are no characters"
    return None


def _fault_of_text(row: Row, column: str, plan: Plan) -> tuple[str, str] | None:
    text = plan.text(row, column)
    if text is None:
        return "missing", f"{column} is null" if has_column(row.values, column) else f"{column} is not there"
    if isinstance(text, str) and not text.strip():
        return "blank", f"{column} is empty or only whitespace"
    if is_absent(text):
        return "missing", f"{column} is {text}"
    if not isinstance(text, str):
        return "not a string", f"{column} is of type {type(text).__name__}"
    if len(text) > MAX_CHARACTERS:
        return "too long", f"{column} has {len(text):,} characters, {MAX_CHARACTERS:,} are allowed"
    return None


def bad_row(piece: Piece, place: int, row: Row, fault: tuple[str, str]) -> dict[str, Any]:
    """A bad row's entry; rows are numbered from 1."""
    where = {"file": piece.part.name, "row": piece.first + place + 1} | ({"line": row.line} if row.line else {})
    return {**where, "reason": fault[0], "detail": fault[1], "content": _sound(row.values)}


def part_name(number: int, kind: Format) -> str:
    """The file of a piece's answers."""
    return f"part-{number:05}.{ENDINGS.get(kind, kind)}"


def write_part(place: str, rows: Sequence[Mapping[str, Any]], plan: Plan, schema: "pa.Schema | None") -> None:
    """Write rows with their answers, whole or not at all."""
    kind, columns = plan.identity.format, [*plan.identity.keep, *plan.answer_columns]
    if kind == "label_studio":
        storage.write_bytes(place, _as_json(rows).encode())
    elif kind in ("jsonl", "doccano"):
        text = "".join(_as_json(row) + "\n" for row in rows)
        storage.write_bytes(place, text.encode())
    elif kind == "csv":
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer)
        writer.writerow(columns)
        writer.writerows([_as_text(row.get(name)) for name in columns] for row in rows)
        storage.write_bytes(place, buffer.getvalue().encode())
    else:
        storage.write_bytes(place, _parquet(rows, plan, schema))


def _parquet(rows: Sequence[Mapping[str, Any]], plan: Plan, schema: "pa.Schema | None") -> bytes:
    """Columns of Parquet input keep their types; CSV and JSONL have none that hold in all parts, so theirs are text, and so
    are lists among the answers."""
    import pyarrow as pa
    from pyarrow import parquet

    kept = [schema.field(name) if schema is not None else pa.field(name, pa.string()) for name in plan.identity.keep]
    types = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    answers = plan.answer_columns
    given = [pa.field(name, types.get(kind, pa.string())) for name, kind in answers.items()]
    as_text = [name for name, kind in answers.items() if kind not in types] + (
        [] if schema is not None else [*plan.identity.keep]
    )
    rows = [{**row, **{name: _as_text(row.get(name)) for name in as_text}} for row in rows]
    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows, schema=pa.schema([*kept, *given])), buffer)
    return buffer.getvalue()


def _as_text(value: Any) -> str | None:
    value = _sound(value)
    return value if value is None or isinstance(value, str) else _as_json(value)


def _as_json(value: Any) -> str:
    return json.dumps(_sound(value), ensure_ascii=False, allow_nan=False)


def _sound(value: Any) -> Any:
    """What JSON has a word for: dates and the like as text, nothing for numbers that are none or without end."""
    value = without_bytes(value)
    if isinstance(value, Mapping):
        return {str(name): _sound(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_sound(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | bool | int) else str(value)


def record_place(output: str, number: int) -> str:
    """Where the record of a piece lies."""
    return storage.join(output, UNFINISHED, f"{number:05}.json")


def read_identity(output: str) -> RunIdentity | None:
    """What the run asked for that is there, finished or not; None where none is."""
    finished, begun = storage.join(output, SUMMARY), storage.join(output, UNFINISHED, IDENTITY_FILE)
    if storage.exists(finished):
        return RunIdentity.model_validate(read_summary(output)["asked"])
    return RunIdentity.model_validate_json(storage.read_bytes(begun)) if storage.exists(begun) else None


def write_identity(output: str, identity: RunIdentity) -> None:
    """Keep what is asked, before anything is answered."""
    storage.write_bytes(storage.join(output, UNFINISHED, IDENTITY_FILE), identity.model_dump_json().encode())


def read_summary(output: str) -> dict[str, Any]:
    """The summary of a run that is finished."""
    return json.loads(storage.read_bytes(storage.join(output, SUMMARY)))


def read_records(output: str, plan: Plan) -> dict[int, SplitRecord]:
    """The records of the pieces that are done, by number."""
    there = {stat.path for stat in storage.list_files(storage.join(output, UNFINISHED))}
    numbers = [number for number in range(len(plan.pieces)) if f"{number:05}.json" in there]
    return {number: SplitRecord.model_validate_json(storage.read_bytes(record_place(output, number))) for number in numbers}
