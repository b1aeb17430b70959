"""Rows that were cleaned before: what was made of them is kept beside the runs, and taken where the same rows stand again.

    kept = CleanedRows("s3://bucket/runs/.rows", "spam/messages-1a2b3c4d")
    for place, rows, frame, faults, reused in kept.frames(items, "mail.csv", 0, rows, reading):
        …

A source that has grown is read again, which is cheap; its new rows alone are cleaned, filtered and looked through for personal
data. Rows are kept in blocks, under their file's name and the number of their first row. A block counts only if all its rows
are what they were, value by value: what comes out is what would come out of nothing, and what is lost is made anew.
"""

import hashlib
import io
import itertools
import json
import pickle
import unicodedata
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as parquet

from cluster.store import storage
from cluster.store.artifact import digest
from jobs.core.stage import Context
from jobs.data.lines import Fault
from jobs.data.pieces import Row
from jobs.data.rows import Items, Reading, row_batches
from jobs.data.values import value_at

if TYPE_CHECKING:
    import pandas as pd

ROWS_ROOT = ".rows"
"""Below a storage: no recipe's name begins with a dot."""
LIBRARIES = ("py3langid", "resiliparse", "phonenumbers")
COUNT, HASH, FAULTS, TALLY = "rows", "sha256", "faults", "tally"


class CleanedBatch(NamedTuple):
    """Rows that follow each other, and what they became."""

    first: int
    rows: list[Row]
    frame: "pd.DataFrame"
    faults: dict[int, Fault]
    reused: bool


@dataclass(frozen=True)
class CleanedRows:
    """Where blocks lie that were made by one way of reading and cleaning."""

    root: str
    name: str
    """RECIPE/STEP-HASH, below the root."""

    @classmethod
    def of(cls, context: Context, decides: Mapping[str, Any]) -> "CleanedRows":
        """Those of a step, by all of its settings that decide what becomes of a row, and by what else does."""
        libraries = {"unicode": unicodedata.unidata_version, **{name: version(name) for name in LIBRARIES}}
        name = f"{context.step}-{digest({**decides, 'libraries': libraries})[:16]}"
        return cls(storage.join(context.storage, ROWS_ROOT), f"{context.recipe}/{name}")

    def frames(self, items: Items, file: str, first: int, rows: Iterator[Row], reading: Reading) -> Iterator[CleanedBatch]:
        """The rows of a file from the one with that number on, in batches; `items` has counted all of them."""
        left, here = _Ahead(rows), first
        while True:
            uri = self._uri(items.named, file, here)
            if (batch := self._kept(uri, items, here, left)) is None:
                taken = next(row_batches(left, reading, here), None)
                if taken is None:
                    return
                batch = self._made(uri, items, *taken)
            yield batch
            here += len(batch.rows)

    def _uri(self, named: str, file: str, first: int) -> str:
        found = hashlib.sha256(f"{named}\n{file}\n{first}".encode("utf-8", "surrogatepass")).hexdigest()
        return storage.join(self.root, self.name, found[:2], f"{found[:32]}.parquet")

    def _kept(self, uri: str, items: Items, first: int, rows: "_Ahead") -> CleanedBatch | None:
        """The block that begins here, where the rows are still those that it was made of; else they are all still to come."""
        table = _read(uri)
        if table is None:
            return None
        said = {key.decode(): value for key, value in (table.schema.metadata or {}).items()}
        taken = list(itertools.islice(rows, int(said[COUNT])))
        if len(taken) < int(said[COUNT]) or _hash(taken, items.needed) != said[HASH].decode():
            rows.taken_back.extendleft(reversed(taken))
            return None
        items.tally.update(json.loads(said[TALLY]))
        faults = {place: Fault(*fault) for place, fault in json.loads(said[FAULTS])}
        return CleanedBatch(first, taken, _frame(table, items.reading), faults, reused=True)

    def _made(self, uri: str, items: Items, first: int, rows: list[Row]) -> CleanedBatch:
        before = dict(items.tally)
        frame, faults = items.frame(rows)
        tally = {name: count - before.get(name, 0) for name, count in items.tally.items()}
        told = [[place, [fault.reason, fault.detail]] for place, fault in faults.items()]
        metadata = {COUNT: str(len(rows)), HASH: _hash(rows, items.needed), TALLY: json.dumps(tally), FAULTS: json.dumps(told)}
        table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(metadata)
        buffer = io.BytesIO()
        parquet.write_table(table, buffer, compression="zstd", use_dictionary=["split"])
        storage.write_bytes(uri, buffer.getvalue())
        return CleanedBatch(first, rows, frame, faults, reused=False)


class _Ahead(Iterator[Row]):
    """Rows of which some were looked at already, and are still to come."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self.rows, self.taken_back = rows, deque[Row]()

    def __next__(self) -> Row:
        return self.taken_back.popleft() if self.taken_back else next(self.rows)


def _frame(table: pa.Table, reading: Reading) -> "pd.DataFrame":
    """The items of a block, with the types that they had."""
    import pandas as pd

    kinds = reading.labelling.types if reading.labelling is not None else {}
    types: dict[str, Any] = dict.fromkeys(table.column_names, "str")
    types |= {name: pd.ArrowDtype(kind) for name, kind in kinds.items() if not pa.types.is_string(kind)}
    return pd.DataFrame({name: pd.Series(table[name].to_pylist(), dtype=kind) for name, kind in types.items()})


def _read(uri: str) -> pa.Table | None:
    """A block; None where there is none, or half of one: it is made again."""
    try:
        return parquet.read_table(io.BytesIO(storage.read_bytes(uri)), use_threads=False)
    except (storage.StorageError, pa.ArrowInvalid):
        return None


def _hash(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Of all that items are made of: the values in these columns, with their types, and what could not be read."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=5)
    pickler.fast = True  # Equal values have equal bytes, whether or not they are one object.
    values: list[Any] = [(row.fault, *(value_at(row.values, column) for column in columns)) for row in rows]
    pickler.dump(values)
    return hashlib.sha256(buffer.getbuffer()).hexdigest()
