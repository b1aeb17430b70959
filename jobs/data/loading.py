"""A step's sources as items: read in pieces by tasks, cleaned, divided, written to the step's scratch, without duplicates.

    loaded = load_rows(config.source, reading, "s3://bucket/.scratch/spam/rows-1a2b3c4d/rows")
    loaded.rows, loaded.counts, loaded.left_out

A piece becomes items in the task that reads it: nothing untyped goes through Arrow, no source is ever whole in one place, and
what rows were left out comes back beside the items' parts, so that a task that is run again counts nothing twice. What goes as
a duplicate is decided over the parts' indexes, a range of keys a task.
"""

import dataclasses
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cluster.store import storage
from jobs.core.config import BadInput, Problem
from jobs.data.augment import Augment, augmenting
from jobs.data.cleaned_rows import CleanedBatch, CleanedRows
from jobs.data.dedup import Conflicts, kept_rows
from jobs.data.formats import Files
from jobs.data.hub import hub_shards
from jobs.data.left_out import LeftOut
from jobs.data.near_duplicates import NearDuplicates, without_near_duplicates
from jobs.data.parts import PartWriter, RowPart, key_ranges, limited, rows_of_parts, train_characters
from jobs.data.pieces import Row
from jobs.data.records import SLICE_BYTES, slices
from jobs.data.rows import Items, Reading, row_batches
from jobs.data.sources import Sources, each, of_one_kind, resolve
from jobs.data.units import Unit, rows_of

if TYPE_CHECKING:
    import pandas as pd
    from ray.data import Dataset

MOST_FILES = 1_000
KEPT_FILES = 64
"""Of how many files that one task reads at most what was made of their rows is kept."""
ROWS_PER_DECISION = 500_000
"""Of whose duplicates one task decides: some 20 MB of their index."""


@dataclass(frozen=True)
class Loaded:
    """What was read, and which of it stays."""

    parts: Sequence[RowPart]
    counts: dict[str, int]
    """Rows that were read, made and left out: rows_read + rows_made is what is kept and all others."""
    left_out: dict[str, Any]
    """Of the rows that were left out: how many by reason, and the first of them; some near duplicates."""
    reused: int
    """Of the rows that were read, those that were cleaned before."""

    @property
    def cleaning(self) -> dict[str, int]:
        """How many rows were cleaned, and how many before: nothing that the data decide, so that no report has it."""
        return {"new_rows": self.counts["rows_read"] - self.reused, "reused_rows": self.reused}

    @property
    def rows(self) -> "Dataset":
        """Rows of key, texts, (targets, slices,) split, sorted by key in each part; they are read when they are asked for."""
        return rows_of_parts(self.parts)

    @property
    def count(self) -> int:
        """How many rows stay."""
        return sum(int(part.stays.sum()) for part in self.parts)

    def limited(self, limit: int) -> "Loaded":
        """With no more rows than that, chosen by their keys."""
        return dataclasses.replace(self, parts=limited(self.parts, limit))


def load_rows(
    source: Sources,
    reading: Reading,
    place: str,
    augment: Augment | None = None,
    near: NearDuplicates | None = None,
    cleaned: CleanedRows | None = None,
) -> Loaded:
    """Items: clean, without duplicates; and how many rows were read, made and kept. They are written below `place`.

    `cleaned` has what was made of rows before.
    """
    read = _read_all(source, ReadRows(reading, frozenset(each(source)), place, augment, cleaned))
    left_out = LeftOut.joined([one.left_out for one in read])
    if left_out.share > reading.bad_rows:
        raise BadInput([left_out.problem("bad_rows", reading.bad_rows, str(source))])
    kept_count = left_out.read - left_out.count
    if not kept_count:
        remedy = "Lower clean.min_characters or check the text column."
        raise BadInput([Problem("source", source, f"no text is left of {left_out.read} rows: {left_out}", remedy)])
    parts = [part for one in read for part in one.parts]
    counts, count = left_out.counts(), sum(map(len, parts))
    if augment is not None:
        counts["rows_made"] = count - kept_count
    parts, conflicting = without_duplicates(parts, reading.conflicts)
    if reading.labelling is not None and reading.labelling.types:
        counts["rows_conflicting"] = conflicting
    kept = sum(int(part.stays.sum()) for part in parts)
    counts["rows_duplicate"], details = count - conflicting - kept, left_out.details()
    if near is not None:
        parts, found = without_near_duplicates(parts, near, tuple(reading.fields))
        counts["rows_near_duplicate"] = found.count
        if "rows_conflicting" in counts:
            counts["rows_near_conflicting"] = found.conflicting
        details["near_duplicates"] = found.samples
    return Loaded(parts, counts, details, sum(one.reused for one in read))


def without_duplicates(parts: Sequence[RowPart], conflicts: Conflicts) -> tuple[list[RowPart], int]:
    """The parts with one row a key that stays; and how many rows go over a conflict."""
    import ray

    ends = np.array([part.ends for part in parts])
    decide = ray.remote(_decided).options(num_cpus=1)
    given = ray.put(list(parts))
    asked = [
        (first, end, decide.remote(given, first, end, conflicts))
        for first, end in key_ranges(ends.sum(axis=0), ROWS_PER_DECISION)
    ]
    stays = [[np.zeros(0, dtype=bool)] for _ in parts]
    characters, conflicting = np.zeros(len(parts), dtype=np.int64), 0
    for first, end, answer in asked:
        bits, of_train, going = ray.get(answer)
        characters += of_train
        conflicting += going
        counts = _counts(ends, first, end)
        found = np.split(np.unpackbits(bits, count=int(counts.sum())).astype(bool), np.cumsum(counts)[:-1])
        for own, more in zip(stays, found, strict=True):
            own.append(more)
    kept = [part.keeping(np.concatenate(own), int(number)) for part, own, number in zip(parts, stays, characters, strict=True)]
    return kept, conflicting


def _decided(parts: list[RowPart], first: int, end: int, conflicts: Conflicts) -> tuple[np.ndarray, np.ndarray, int]:
    """Of the rows in a range of keys: which stay, as bits; the characters of training texts that stay, by part; how many go
    over a conflict."""
    indexes = [part.index(first, end) for part in parts]
    stays, conflicting = kept_rows(np.concatenate(indexes), conflicts)
    by_part = np.split(stays, np.cumsum([len(index) for index in indexes])[:-1])
    characters = [train_characters(index, own) for index, own in zip(indexes, by_part, strict=True)]
    return np.packbits(stays), np.array(characters), conflicting


def _counts(ends: np.ndarray, first: int, end: int) -> np.ndarray:
    return ends[:, end - 1] - (ends[:, first - 1] if first else 0)


def _work(source: str, files: Files) -> list[list[Unit]]:
    """What each task reads of a source, in its order: a piece of a large file, or as many small ones as make one."""
    import ray

    if source.startswith("hub:"):
        return [[shard] for shard in hub_shards(source)]
    found = of_one_kind(source, resolve(source))
    sizes = _sizes(found)
    cutting = ray.remote(slices).options(num_cpus=0.5)
    cut = {file: cutting.remote(file, files) for file, size in zip(found, sizes, strict=True) if size > SLICE_BYTES}
    work: list[list[Unit]] = []
    room = 0
    for file, size in zip(found, sizes, strict=True):
        if file in cut:
            work += [[piece] for piece in ray.get(cut[file])]
            room = 0
            continue
        if room < size or len(work[-1]) >= MOST_FILES:
            work.append([])
            room = SLICE_BYTES
        work[-1].append(file)
        room -= size
    return work


def _sizes(files: list[str]) -> list[int]:
    system, _ = storage.filesystem(files[0])
    return [info.size or 0 for info in system.get_file_info([storage.filesystem(file)[1] for file in files])]


@dataclass(frozen=True)
class Read:
    """What a task has read: its parts, and what became of all rows there."""

    parts: list[RowPart]
    left_out: dict[str, Any]
    reused: int
    """Of these rows, those that were cleaned before."""


def _read_all(source: Sources, reader: "ReadRows") -> list[Read]:
    """All of a step's sources, in their order."""
    import ray.data

    work = [(name, units) for name, one in each(source).items() for units in _work(one, reader.reading.files)]
    items: list[Any] = [{"work": pickle.dumps((number, *one))} for number, one in enumerate(work)]
    asked = ray.data.from_items(items, override_num_blocks=max(1, len(items)))
    done = asked.map_batches(cast(Any, reader.read), batch_size=1, batch_format="pandas").take_all()
    found = [pickle.loads(row["read"]) for row in done]
    return [read for _, read in sorted(found, key=lambda one: one[0])]


@dataclass(frozen=True)
class ReadRows:
    """What a task does: it reads its units, makes items of their rows and writes these."""

    reading: Reading
    names: frozenset[str]
    place: str
    augment: Augment | None = None
    cleaned: CleanedRows | None = None

    def read(self, asked: "pd.DataFrame") -> Iterator["pd.DataFrame"]:
        """What became of the rows: nothing of their texts."""
        import pandas as pd

        for content in asked["work"]:
            number, named, units = pickle.loads(content)
            yield pd.DataFrame({"read": [pickle.dumps((number, self._units(number, named, units)))]})

    def _units(self, number: int, named: str, units: list[Unit]) -> Read:
        fields, labelling = tuple(self.reading.fields), self.reading.labelling
        more = augmenting(self.augment, fields) if self.augment is not None else None
        writer = PartWriter(self.place, number, list(labelling.types) if labelling is not None else [], fields)
        made = Items(self.reading, named, self.names)
        left_out, reused = LeftOut(), 0
        for unit in units:
            for name, first, rows in rows_of(unit, self.reading.files, made.needed):
                for batch in self._batches(made, name, first, rows, len(units)):
                    left_out.add(name, batch.first, batch.rows, batch.faults)
                    reused += len(batch.rows) if batch.reused else 0
                    writer.add(more(batch.frame) if more is not None else batch.frame)
        writer.close()
        left_out.tally.update(made.tally)
        return Read(writer.written, left_out.as_json(), reused)

    def _batches(self, made: Items, name: str, first: int, rows: Iterator[Row], files: int) -> Iterator[CleanedBatch]:
        """Rows of a file as items. Those of many small files are not kept: a file of its own for each would cost more."""
        if self.cleaned is not None and files <= KEPT_FILES:
            yield from self.cleaned.frames(made, name, first, rows, self.reading)
            return
        for place, batch in row_batches(rows, self.reading, first):
            yield CleanedBatch(place, batch, *made.frame(batch), reused=False)
