"""Rows on their way through prepare: written once, as Parquet parts in the step's scratch, and read when they are needed.

    writer = PartWriter("s3://bucket/.scratch/spam/corpus-1a2b3c4d/rows", 7, ["label"], ["text"])
    writer.add(frame); writer.close(); writer.written      # what is told of each part: no texts
    read_part(part)                                        # its rows that stay, sorted by key

Beside each part lies the index of its rows (jobs/data/dedup.py), which decides what stays: so no more texts are in memory or
in the object store than tasks are at work on, however many there are.
"""

import dataclasses
import io
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from cluster.store import storage
from jobs.data.dedup import ROW_RECORD, index_of, key_order
from jobs.data.splits import SPLITS

if TYPE_CHECKING:
    import pandas as pd
    from ray.data import ActorPoolStrategy, Dataset

PART_CHARACTERS, PART_ROWS = 8 << 20, 50_000
"""What a part holds at most but for its last rows: it is packed or written by one task, and makes a file of each split."""
ROW_GROUP = 8_192
KEY_RANGES = 256
"""Keys are cut by their first byte into so many ranges; an index is sorted, so that each range is a stretch of it."""


class FileRange(NamedTuple):
    """Some bytes of a file."""

    uri: str
    start: int
    size: int

    def read(self) -> bytes:
        """They."""
        system, path = storage.filesystem(self.uri)
        with system.open_input_file(path) as file:
            return bytes(file.read_at(self.size, self.start))


def key_ranges(ends: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Ranges that together hold about so many records each, from and up to which of KEY_RANGES they go; `ends` is where each
    of these ends, over all parts."""
    found, first = [], 0
    for end in range(1, KEY_RANGES + 1):
        if end == KEY_RANGES or ends[end - 1] - (ends[first - 1] if first else 0) >= most:
            found.append((first, end))
            first = end
    return found


@dataclass(frozen=True)
class RowPart:
    """Rows that lie in one file, sorted by key, and which of them stay."""

    uri: str
    """Without an ending."""
    ends: np.ndarray
    """Where each range of keys ends."""
    kept: np.ndarray
    """For each row whether it stays, as bits."""
    characters: int = 0
    """Of all its texts."""
    train_characters: int = 0
    """Of the training texts that stay."""

    def __len__(self) -> int:
        return int(self.ends[-1])

    @property
    def stays(self) -> np.ndarray:
        """Whether each row stays."""
        return np.unpackbits(self.kept, count=len(self)).astype(bool)

    def keeping(self, stays: np.ndarray, train_characters: int) -> "RowPart":
        """The same part, of which other rows stay."""
        return dataclasses.replace(self, kept=np.packbits(stays), train_characters=train_characters)

    def index(self, first_range: int = 0, end_range: int = KEY_RANGES) -> np.ndarray:
        """The records of the rows in some ranges of keys."""
        start = int(self.ends[first_range - 1]) if first_range else 0
        count = int(self.ends[end_range - 1]) - start
        place = FileRange(f"{self.uri}.index", start * ROW_RECORD.itemsize, count * ROW_RECORD.itemsize)
        return np.frombuffer(place.read(), dtype=ROW_RECORD)


class PartWriter:
    """Writes the rows that one task reads."""

    def __init__(self, place: str, number: int, targets: Sequence[str], fields: Sequence[str]) -> None:
        self.place, self.number, self.targets, self.fields = place, number, targets, fields
        self.written: list[RowPart] = []
        self._frames: list[pd.DataFrame] = []
        self._characters = self._rows = 0

    def add(self, frame: "pd.DataFrame") -> None:
        """Rows of key, texts, (targets, slices,) split."""
        if frame.empty:
            return
        lengths, done = np.sum([frame[name].str.len().to_numpy(np.int64) for name in self.fields], axis=0), 0
        # A part ends with the row that fills it, in however many frames its rows come: parts of the same rows are the same.
        while done < len(frame):
            sizes = self._characters + np.cumsum(lengths[done:])
            count = 1 + min(int(np.searchsorted(sizes, PART_CHARACTERS)), PART_ROWS - self._rows - 1)
            taken = frame.iloc[done : done + count]
            self._frames.append(taken)
            self._rows += len(taken)
            self._characters = int(sizes[len(taken) - 1])
            done += len(taken)
            if count == len(taken) and (self._characters >= PART_CHARACTERS or self._rows >= PART_ROWS):
                self.close()

    def close(self) -> None:
        """Write what is there."""
        import pandas as pd

        if not self._frames:
            return
        frame, characters = pd.concat(self._frames, ignore_index=True), self._characters
        self._frames, self._characters, self._rows = [], 0, 0
        index = index_of(frame, self.targets, self.fields)
        order = key_order(index)
        uri = storage.join(self.place, f"{self.number:06d}-{len(self.written):04d}")
        table = pa.Table.from_pandas(frame.take(cast(Any, order)), preserve_index=False)
        plain = [field.with_type(pa.string()) if pa.types.is_large_string(field.type) else field for field in table.schema]
        table = table.cast(pa.schema(plain))
        buffer = io.BytesIO()
        # Hardly a text stands there twice, and each key once.
        parquet.write_table(table, buffer, row_group_size=ROW_GROUP, compression="zstd", use_dictionary=["split"])
        storage.write_bytes(f"{uri}.parquet", buffer.getvalue())
        storage.write_bytes(f"{uri}.index", index[order].tobytes())
        ends = np.searchsorted(index["high"][order] >> np.uint64(56), np.arange(KEY_RANGES), side="right")
        self.written.append(RowPart(uri, ends.astype(np.int32), np.packbits(np.ones(len(frame), dtype=bool)), characters))


def read_part(part: RowPart) -> pa.Table:
    """The rows that stay, sorted by key."""
    system, path = storage.filesystem(f"{part.uri}.parquet")
    return parquet.read_table(path, filesystem=system, use_threads=False).filter(pa.array(part.stays))


def rows_of_parts(parts: Sequence[RowPart]) -> "Dataset":
    """The rows that stay, a block a part, or one for small parts that follow each other: each is read by the task that goes on
    with it."""
    import ray.data

    blocks: list[list[RowPart]] = []
    room = 0
    for part in (part for part in parts if part.stays.any()):
        if part.characters > room:
            blocks.append([])
            room = PART_CHARACTERS
        blocks[-1].append(part)
        room -= part.characters
    items: list[Any] = [{"parts": pickle.dumps(block)} for block in blocks]
    asked = ray.data.from_items(items, override_num_blocks=max(1, len(items)))
    return asked.map_batches(cast(Any, _read_asked), batch_size=1, batch_format="pandas")


def _read_asked(asked: "pd.DataFrame") -> Iterator[pa.Table]:
    for parts in asked["parts"]:
        read = [read_part(part) for part in pickle.loads(parts)]
        yield read[0] if len(read) == 1 else pa.concat_tables(read).sort_by("key")


class TrainTexts:
    """Texts of the training split, part by part, up to so many characters, as often as they are asked for.

    Of each part its share of them is taken, those with the smallest keys: an even sample of all.
    """

    def __init__(self, parts: Sequence[RowPart], characters: int) -> None:
        self.parts, self.characters = parts, characters

    def __iter__(self) -> Iterator[str]:
        share = min(1.0, self.characters / max(1, sum(part.train_characters for part in self.parts)))
        for part in (part for part in self.parts if part.train_characters):
            yield from self._of(part, share * part.train_characters)

    def _of(self, part: RowPart, left: float) -> Iterator[str]:
        system, path = storage.filesystem(f"{part.uri}.parquet")
        stays, done = part.stays, 0
        with parquet.ParquetFile(path, filesystem=system) as file:
            for batch in file.iter_batches(ROW_GROUP, columns=["text", "split"], use_threads=False):
                there = stays[done : done + batch.num_rows]
                done += batch.num_rows
                for text, split, stay in zip(batch["text"].to_pylist(), batch["split"].to_pylist(), there, strict=True):
                    if left <= 0:
                        return
                    if stay and split == "train":
                        yield text
                        left -= len(text)


def limited(parts: Sequence[RowPart], limit: int) -> list[RowPart]:
    """The parts with only those `limit` of their rows that have the smallest keys."""
    smallest = np.zeros(0, dtype=ROW_RECORD)
    for part in parts:
        found = part.index()[part.stays][:limit]
        both = np.concatenate([smallest, found])
        smallest = both[key_order(both)[:limit]]
    if not len(smallest):
        return list(parts)
    last = smallest[-1]
    made = []
    for part in parts:
        index = part.index()
        within = (index["high"] < last["high"]) | ((index["high"] == last["high"]) & (index["low"] <= last["low"]))
        made.append(part.keeping(part.stays & within, train_characters(index, part.stays & within)))
    return made


def train_characters(index: np.ndarray, stays: np.ndarray) -> int:
    """Of the training texts that stay."""
    return int(index["characters"][stays & (index["rank"] == SPLITS.index("train"))].sum())


def as_many_as_fit(blocks: int) -> "ActorPoolStrategy":
    """Actors at once for all CPUs that are there, and more as they come: what the blocks become does not depend on it.

    A pool that grows by itself starts its second actor only when the first has long been at work.
    """
    import ray.data

    most = max(1, blocks)
    there = int(ray.cluster_resources().get("CPU", 1))
    return ray.data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=max(1, min(most, there)))
