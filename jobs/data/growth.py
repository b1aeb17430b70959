"""What has become of a source since it was last prepared: which rows are new, and whether the others are in their split.

    told = growth(before, {"train/0a1b.parquet": "s3://…/train/0a1b.parquet", …})
    told.figures()          # {"new_train_rows": 250, …, "moved_rows": 0, "left_test_rows": 0, "learned_test_rows": 0}
    print(told)

Rows are told apart by key. Nothing of it is part of what a step is: it is said as the step runs, and stands in its manifest.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from cluster.store import storage
from cluster.store.artifact import Artifact, Kind
from jobs.core.places import made_before
from jobs.core.stage import Context
from jobs.data.splits import SPLITS

MOST_COMPARED = 20_000_000
"""Rows whose keys are compared: some 2 GB."""
ORDERED = SPLITS[::-1]


@dataclass(frozen=True)
class Growth:
    """Rows by their split before and now, the last row and column of those that are not there: counts_SS."""

    since: str
    counts: np.ndarray

    def figures(self) -> dict[str, float]:
        """As figures of a step."""
        new = {f"new_{split}_rows": float(self.counts[-1, place]) for place, split in enumerate(ORDERED)}
        return new | {"gone_rows": float(self.gone), "moved_rows": float(self.moved)} | self._test()

    def _test(self) -> dict[str, float]:
        test = ORDERED.index("test")
        left = self.counts[test].sum() - self.counts[test, test]
        learned = sum(self.counts[ORDERED.index(split), test] for split in ("train", "validation"))
        return {"left_test_rows": float(left), "learned_test_rows": float(learned)}

    @property
    def gone(self) -> int:
        """Rows that are not there any more."""
        return int(self.counts[:-1, -1].sum())

    @property
    def moved(self) -> int:
        """Rows that are in another split now."""
        there = self.counts[:-1, :-1]
        return int(there.sum() - np.trace(there))

    def __str__(self) -> str:
        new = ", ".join(f"{int(self.counts[-1, place]):,} {split}" for place, split in enumerate(ORDERED))
        told = f"since {self.since}: {int(self.counts[-1].sum()):,} new rows ({new}), {self.gone:,} gone"
        left, learned = (int(number) for number in self._test().values())
        if not (self.moved or left):
            return f"{told}; all others are in the split that they were in"
        told += f", {self.moved:,} in another split"
        if left:
            told += f"; {left:,} test rows are none any more"
        return told + (f"; {learned:,} test rows were learned from or chosen by then" if learned else "")


def grown_since(files: Collection[str], rows: int, context: Context) -> dict[str, float]:
    """Which of so many rows in an output's files are new since the step last ran, and which are in another split: said here,
    and given back for the manifest."""
    import ray

    made = made_before(context.storage, context.recipe, context.step)
    before = next((one for one in made if one.manifest.kind == Kind.EXAMPLES), None)
    if before is None or rows > MOST_COMPARED:
        return {}
    compare = ray.remote(growth).options(num_cpus=1)
    try:
        told: Growth = ray.get(compare.remote(before, {path: storage.join(context.output, path) for path in files}))
    except (OSError, storage.StorageError) as error:  # deleted meanwhile: it is no input of the step
        print(f"not compared with {before.uri}, which cannot be read: {error}", flush=True)
        return {}
    print(told, flush=True)
    return told.figures()


def growth(before: Artifact, now: Mapping[str, str]) -> Growth:
    """What differs between EXAMPLES that were made before and the files of new ones: their URIs by path."""
    earlier = _keys({path: before.file(path) for path in before.files("", ".parquet")})
    later = _keys(now)
    joined = earlier.join(later, "key", join_type="full outer", left_suffix="_before", right_suffix="_now")
    away = len(ORDERED)
    places = [joined[f"split_{when}"].fill_null(away).to_numpy() for when in ("before", "now")]
    counts = np.zeros((away + 1, away + 1), dtype=np.int64)
    np.add.at(counts, (places[0], places[1]), 1)
    return Growth(f"{before.manifest.created:%Y-%m-%d} ({before.uri.rpartition('/')[2]})", counts)


def _keys(files: Mapping[str, str]) -> pa.Table:
    """Key of each row, and the place of its split in ORDERED."""
    tables = [pa.table({"key": pa.array([], pa.string()), "split": pa.array([], pa.int8())})]
    for path, uri in sorted(files.items()):
        system, place = storage.filesystem(uri)
        keys = parquet.read_table(place, filesystem=system, columns=["key"])["key"].cast(pa.string())
        split = pa.array(np.full(len(keys), ORDERED.index(path.split("/")[0]), dtype=np.int8))
        tables.append(pa.table({"key": keys, "split": split}))
    return pa.concat_tables(tables)
