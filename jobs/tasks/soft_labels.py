"""Soft labels: a teacher's outputs of many items, written in blocks by whoever makes them and read by mapping.

    content, lost = packed(task, keys, outputs, items)         # one block, as bytes of an Arrow file
    soft = SoftLabels(predictions, keys, spec)
    soft[17]                                                   # what the teacher said of the 18th key
    EarlierAnswers(predictions, task).find(items)              # what was said of the very same items, by place

Outputs stand in the item's own units, so teacher and student may cut texts differently. They are kept in half precision unless
that loses something. N items.
"""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.store.artifact import Artifact
from jobs.core.config import BadInput, Problem
from serve.tasks import task_of
from serve.tasks.protocol import ITEM_BYTES, Item, Output, Outputs, Task

DIRECTORY, SUFFIX = "soft/", ".arrow"
TASK_DETAIL = "task"
"""Where a manifest's details have the task that the teacher answered for."""
LOST_IN_HALF = 5e-3
"""Outputs are kept in single precision where half precision would move one further than this, by the task's own distance."""
VALUES, SHAPE = "values", "shape"
ITEM = "item"
"""The column of `Item.key`: rows of one key in EXAMPLES may differ in case and white space, which a model reads."""


def packed(task: Task, keys: Sequence[str], outputs: Outputs, items: Sequence[Item] = ()) -> tuple[bytes, float]:
    """A block of outputs, and the most that one of them lost. With the items it says what was asked, to be found again."""
    halves = task.stacked([_as(output, np.float16) for output in outputs])
    lost = float(task.distance(task.stacked([_as(half, np.float32) for half in halves]), outputs).max(initial=0.0))
    # What overflows may change no answer, and yet no loss can be taken of it.
    in_half = lost <= LOST_IN_HALF and _finite(halves) == _finite(outputs)
    kept, lost = (halves, lost) if in_half else (outputs, 0.0)
    columns: dict[str, Any] = {"key": pa.array(keys, pa.string())}
    if items:
        columns[ITEM] = pa.array([item.key for item in items], pa.binary(ITEM_BYTES))
    for name in _names(task):
        arrays = [output[name] if name else output for output in kept]
        flat = np.concatenate([np.ravel(array) for array in arrays]) if arrays else np.zeros(0, np.float32)
        offsets = np.concatenate([[0], np.cumsum([array.size for array in arrays])]).astype(np.int64)
        columns[VALUES + name] = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat))
        columns[SHAPE + name] = pa.array([list(array.shape) for array in arrays], pa.list_(pa.int32()))
    table, buffer = pa.table(columns), io.BytesIO()
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue(), lost


class SoftLabels(Sequence[Output]):
    """A teacher's outputs of the items with these keys, float32, in their order; the files stay where they are."""

    def __init__(self, predictions: Artifact, keys: Sequence[str], spec: Task) -> None:
        self.tables = _tables(predictions)
        self.teacher, self.spec = _teacher(predictions, spec), spec
        places: dict[str, tuple[int, int]] = {}
        for number, table in enumerate(self.tables):
            places |= {key: (number, row) for row, key in enumerate(table["key"].to_pylist())}
        missing = [key for key in keys if key not in places]
        if missing:
            reason = f"{len(missing)} of {len(keys)} training examples have no soft label, the first is {missing[0]}"
            raise BadInput([Problem("inputs.teacher", predictions.uri, reason, "Predict over the same examples.")])
        self.places = [places[key] for key in keys]
        self.columns = [{name: _column(table, name) for name in _names(spec)} for table in self.tables]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: Any) -> Any:
        table, row = self.places[place]
        return self.spec.aligned(_output(self.columns[table], row), self.teacher)


class EarlierAnswers:
    """What a model said of items when it was last asked, float32, as it was kept; the files stay where they are."""

    def __init__(self, predictions: Artifact, task: Task) -> None:
        tables = [table for table in _tables(predictions) if ITEM in table.column_names]
        self.columns = [{name: _column(table, name) for name in _names(task)} for table in tables]
        halves = [_halves(table[ITEM].to_pylist()) for table in tables]
        halves_N2 = np.concatenate([*halves, np.zeros((0, 2), np.uint64)])
        order = np.argsort(halves_N2[:, 0], kind="stable")
        self.high_N, self.low_N = halves_N2[order].T
        self.table_N = np.repeat(np.arange(len(tables)), [len(one) for one in halves])[order]
        self.row_N = np.concatenate([*map(np.arange, map(len, halves)), np.zeros(0, int)]).astype(int)[order]

    def find(self, items: Sequence[Item]) -> dict[int, Output]:
        """The outputs of those that were asked before, by their place among these."""
        if not len(self.high_N) or not items:
            return {}
        high, low = _halves([item.key for item in items]).T
        places = np.minimum(np.searchsorted(self.high_N, high), len(self.high_N) - 1)
        # Two items that share half of their hash would be told apart here, and the second asked again.
        known = (self.high_N[places] == high) & (self.low_N[places] == low)
        return {
            int(number): _output(self.columns[self.table_N[places[number]]], self.row_N[places[number]])
            for number in np.flatnonzero(known)
        }


def _halves(keys: Sequence[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(keys), dtype=">u8").reshape(-1, 2).astype(np.uint64)


def _tables(predictions: Artifact) -> list[pa.Table]:
    paths = predictions.files(DIRECTORY, SUFFIX)
    directory = predictions.local(paths)
    return [pa.ipc.open_file(pa.memory_map(str(directory / path))).read_all() for path in paths]


def _teacher(predictions: Artifact, spec: Task) -> Task:
    """The task that the teacher answered for; BadInput where the student's cannot be compared with it."""
    described = predictions.manifest.details.get(TASK_DETAIL)
    if described is None:
        unknown = "they do not say for which task they are: a language model's answers, or made by older code"
        raise BadInput([Problem("inputs.teacher", predictions.uri, unknown, "Predict over the examples again.")])
    teacher = task_of(described)
    if (reason := spec.unlike(teacher)) is not None:
        described = [json.dumps(one.model_dump(mode="json", exclude={"kind"}), ensure_ascii=False) for one in (teacher, spec)]
        reason = f"the teacher's task is not the examples': {reason} ({described[0]} against {described[1]})"
        raise BadInput([Problem("inputs.teacher", predictions.uri, reason, "Use a teacher of the same task.")])
    return teacher


Column = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Values, where each row's begin, and the same of the shapes."""


def _column(table: pa.Table, name: str) -> Column:
    values, shapes = (table[part + name].combine_chunks() for part in (VALUES, SHAPE))
    if isinstance(values, pa.ChunkedArray):  # of no rows
        return np.zeros(0, np.float32), np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(1, np.int32)
    parts = (values.values, values.offsets, shapes.values, shapes.offsets)
    flat, starts, sizes, size_starts = (part.to_numpy(zero_copy_only=False) for part in parts)
    return flat, starts, sizes, size_starts


def _row(column: Column, row: int) -> np.ndarray:
    flat, starts, sizes, size_starts = column
    shape = sizes[size_starts[row] : size_starts[row + 1]]
    return flat[starts[row] : starts[row + 1]].astype(np.float32).reshape(shape)


def _output(columns: Mapping[str, Column], row: int) -> Output:
    found = {name: _row(column, row) for name, column in columns.items()}
    return found.get("", found)


def _names(task: Task) -> tuple[str, ...]:
    """What the columns of a task's outputs are told apart by."""
    return task.graph_outputs if len(task.graph_outputs) > 1 else ("",)


def _finite(outputs: Outputs) -> int:
    """How many of their figures are finite."""
    arrays = [array for one in outputs for array in (one.values() if isinstance(one, Mapping) else [one])]
    return sum(int(np.isfinite(array).sum()) for array in arrays)


def _as(output: Output, kind: Any) -> Output:
    if isinstance(output, Mapping):
        return {name: _as(array, kind) for name, array in output.items()}
    with np.errstate(over="ignore"):
        return np.asarray(output).astype(kind)
