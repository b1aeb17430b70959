"""De-duplication and splits over Ray Data: exact duplicates go, and none straddles two splits.

Rows that share a key meet in one partition; the number of partitions depends on the data's size alone, so that
the outcome is the same on any cluster.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field, model_validator

from jobs.core.config import Config

if TYPE_CHECKING:
    import pandas as pd
    from ray.data import Dataset

SPLITS = ("test", "validation", "train")
"""In the order in which a text that is in several splits is kept."""
ROWS_PER_PARTITION = 50_000


class Split(Config):
    """How rows are divided among train, validation and test where the source does not say."""

    by: str = "hash"
    """hash: by a hash of the text; else the name of a column that holds train, validation or test."""
    validation: float = Field(0.1, ge=0, lt=1)
    """Share of the rows (by hash), or of train where the source has no validation split."""
    test: float = Field(0.0, ge=0, lt=1)
    """Share of the rows (by hash)."""

    @model_validator(mode="after")
    def _leaves_train(self) -> "Split":
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together leave nothing to train on")
        return self


def divided(settings: Split, named: str, names: Collection[str]) -> Split:
    """How the rows of one of a step's sources are divided by their hash: the source of the split `named` (empty: the only one)
    among those of `names`. A source that names a validation or test split needs none taken from train."""
    given = {str(name): 0.0 for name in ("validation", "test") if name in names} | ({"test": 0.0} if named == "train" else {})
    return settings.model_copy(update=given)


def split_of(key: str, settings: Split) -> str:
    """The split of a text, from its key alone."""
    # The other half of the key than the one that rows are sorted (and limited) by.
    place = int(key[16:], 16) / 2**64
    if place < settings.test:
        return "test"
    return "validation" if place < settings.test + settings.validation else "train"


def deduplicate(rows: "Dataset", count: int) -> "Dataset":
    """Keep one row a key, preferring test, then validation, then train; rows come out sorted by key."""
    partitions = max(1, -(-count // ROWS_PER_PARTITION))
    if partitions == 1:
        return rows.repartition(1).map_batches(cast(Any, keep_first), batch_format="pandas", batch_size=None)
    parted = rows.repartition(partitions, keys=["key"])
    return parted.map_batches(cast(Any, keep_first), batch_format="pandas", batch_size=None)


def keep_first(frame: "pd.DataFrame") -> "pd.DataFrame":
    """One row a key of a partition that holds all rows of its keys."""
    order = frame.assign(_rank=frame["split"].map(SPLITS.index))
    # Of rows that share a key the first by what else they are, so that no order of theirs decides.
    by: list[Any] = ["key", "_rank", *_telling(frame)]
    kept = order.sort_values(by).drop_duplicates("key").drop(columns="_rank")
    return kept.reset_index(drop=True)


def _telling(frame: "pd.DataFrame") -> list[str]:
    """The columns that rows of one key differ in: targets, then texts."""
    names = (str(name) for name in frame)
    return sorted(name for name in names if name not in ("key", "split") and not name.startswith("slice_"))
