"""A step's sources as a Ray data set of items: read in pieces by tasks, cleaned, divided, without duplicates.

    loaded = load_rows(config.source, reading)
    loaded.rows, loaded.counts, loaded.left_out

A piece becomes items in the task that reads it: nothing untyped goes through Arrow, no source is ever whole in one place, and
what rows were left out comes back beside the items, so that a task that is run again counts nothing twice.
"""

import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from cluster.store import storage
from jobs.core.config import BadInput, Problem
from jobs.data.augment import Augment, augmenting
from jobs.data.dedup import deduplicate
from jobs.data.formats import Files
from jobs.data.hub import hub_shards
from jobs.data.records import SLICE_BYTES, slices
from jobs.data.rows import Items, LeftOut, Reading, row_batches
from jobs.data.sources import Sources, each, of_one_kind, resolve
from jobs.data.units import Unit, rows_of

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from ray.data import ActorPoolStrategy, Dataset

LEFT_OUT_COLUMN = "left_out"
"""The column of a row that is no item, which ends what a task has read: what became of all rows there."""
MOST_FILES = 1_000


@dataclass(frozen=True)
class Loaded:
    """Rows of key, texts, (targets, slices,) split."""

    rows: "Dataset"
    counts: dict[str, int]
    """Rows that were read, made and left out: rows_read + rows_made is what is kept and all others."""
    left_out: dict[str, Any]
    """Of the rows that were left out: how many by reason, and the first of them."""


def load_rows(source: Sources, reading: Reading, augment: Augment | None = None) -> Loaded:
    """Items: clean, without duplicates; and how many rows were read, made and kept."""
    import ray.data

    named = each(source)
    work = [(name, units) for name, one in named.items() for units in _work(one, reading.files)]
    items: list[Any] = [{"work": pickle.dumps(one)} for one in work]
    asked = ray.data.from_items(items, override_num_blocks=max(1, len(items)))
    reader = ReadRows(reading, frozenset(named))
    marked = asked.map_batches(cast(Any, reader.frames), batch_size=1, batch_format="pandas").materialize()
    marks = marked.map_batches(_marks, batch_format="pandas", batch_size=None).take_all()
    left_out = LeftOut.joined([json.loads(row[LEFT_OUT_COLUMN]) for row in marks])
    if left_out.share > reading.bad_rows:
        raise BadInput([left_out.problem("bad_rows", reading.bad_rows, str(source))])
    kept_count = left_out.read - left_out.count
    if not kept_count:
        remedy = "Lower clean.min_characters or check the text column."
        raise BadInput([Problem("source", source, f"no text is left of {left_out.read} rows: {left_out}", remedy)])
    rows = marked.map_batches(_items, batch_format="pandas", batch_size=None)
    counts, count = left_out.counts(), kept_count
    if augment is not None:
        rows = rows.map_batches(augmenting(augment, tuple(reading.fields)), batch_format="pandas").materialize()
        count = rows.count()
        counts["rows_made"] = count - kept_count
    targets = list(reading.labelling.types) if reading.labelling is not None else []
    kept, conflicting = deduplicate(rows, count, targets, reading.conflicts)
    kept = kept.materialize()
    counts |= {"rows_conflicting": conflicting} if targets else {}
    return Loaded(kept, counts | {"rows_duplicate": count - conflicting - kept.count()}, left_out.details())


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


class ReadRows:
    """What a task does: it reads its units and makes items of their rows."""

    def __init__(self, reading: Reading, names: frozenset[str]) -> None:
        self.reading, self.names = reading, names

    def frames(self, asked: "pd.DataFrame") -> Iterator["pd.DataFrame"]:
        """Items, some thousand at a time, and at the end the mark."""
        for content in asked["work"]:
            named, units = pickle.loads(content)
            made = Items(self.reading, named, self.names)
            left_out = LeftOut()
            for unit in units:
                for name, first, rows in rows_of(unit, self.reading.files, made.needed):
                    for place, batch in row_batches(rows, self.reading, first):
                        items, faults = made.frame(batch)
                        left_out.add(name, place, batch, faults)
                        yield _marked(items, None)
            left_out.tally.update(made.tally)
            empty, _ = made.frame([])
            yield _marked(empty, json.dumps(left_out.as_json(), ensure_ascii=True))


def _marked(items: "pd.DataFrame", mark: str | None) -> "pd.DataFrame":
    import pandas as pd

    if mark is not None:
        items = items.reindex([0])
    return items.assign(**{LEFT_OUT_COLUMN: pd.Series([mark] * len(items), dtype="str", index=items.index)})


def _marks(frame: "pd.DataFrame") -> "pd.DataFrame":
    return frame.loc[frame[LEFT_OUT_COLUMN].notna(), [LEFT_OUT_COLUMN]].reset_index(drop=True)


def _items(frame: "pd.DataFrame") -> "pd.DataFrame":
    return frame[frame[LEFT_OUT_COLUMN].isna()].drop(columns=LEFT_OUT_COLUMN).reset_index(drop=True)


class TrainTexts:
    """Texts of the training split, block by block, up to so many characters, as often as they are asked for.

    Blocks hold texts by the hash of their key, so that the first ones are an even sample of all.
    """

    def __init__(self, blocks: list[Any], characters: int) -> None:
        self.blocks, self.characters = blocks, characters

    def __iter__(self) -> Iterator[str]:
        import ray

        left = self.characters
        for block in self.blocks:
            table: pa.Table = ray.get(block)
            for text, split in zip(table["text"].to_pylist(), table["split"].to_pylist(), strict=True):
                if split == "train":
                    yield text
                    left -= len(text)
                    if left <= 0:
                        return


def as_many_as_fit(blocks: int) -> "ActorPoolStrategy":
    """Actors at once for all CPUs that are there, and more as they come: what the blocks become does not depend on it.

    A pool that grows by itself starts its second actor only when the first has long been at work.
    """
    import ray.data

    most = max(1, blocks)
    there = int(ray.cluster_resources().get("CPU", 1))
    return ray.data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=max(1, min(most, there)))
