"""De-duplication over Ray Data: exact duplicates go, and none straddles two splits.

Rows that share a key meet in one partition; the number of partitions depends on the data's size alone, so that
the outcome is the same on any cluster.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from jobs.data.splits import SPLITS

if TYPE_CHECKING:
    import pandas as pd
    from ray.data import Dataset

ROWS_PER_PARTITION = 50_000
Conflicts = Literal["majority", "drop"]
"""Which rows stay of a text that has several targets. majority: those of the target that most of them have, and none where two
have equally many; drop: none."""


def deduplicate(
    rows: "Dataset", count: int, targets: Sequence[str] = (), conflicts: Conflicts = "majority"
) -> tuple["Dataset", int]:
    """One row a key, preferring test, then validation, then train, sorted by key; and how many rows went over a conflict:
    others give their text another of these targets."""
    partitions = max(1, -(-count // ROWS_PER_PARTITION))
    parted = rows.repartition(1) if partitions == 1 else rows.repartition(partitions, keys=["key"])
    keep = partial(_kept_and_counted, targets=targets, conflicts=conflicts)
    counted = parted.map_batches(cast(Any, keep), batch_format="pandas", batch_size=None).materialize()
    return counted.map_batches(cast(Any, _kept), batch_format="pandas", batch_size=None), int(counted.sum(_CONFLICTING))


def keep_first(
    frame: "pd.DataFrame", targets: Sequence[str] = (), conflicts: Conflicts = "majority"
) -> tuple["pd.DataFrame", int]:
    """The same of a partition that holds all rows of its keys."""
    goes = _conflicting(frame, targets, conflicts)
    frame = frame[~goes]
    order = frame.assign(_rank=frame["split"].map(SPLITS.index))
    # Of rows that share a key the first by what else they are, so that no order of theirs decides.
    by: list[Any] = ["key", "_rank", *_telling(frame)]
    kept = order.sort_values(by).drop_duplicates("key").drop(columns="_rank")
    return kept.reset_index(drop=True), int(goes.sum())


_CONFLICTING = "_conflicting"


def _kept_and_counted(frame: "pd.DataFrame", targets: Sequence[str], conflicts: Conflicts) -> "pd.DataFrame":
    """The rows that stay, and one of no split that has the number of those that went over a conflict."""
    import pandas as pd

    kept, count = keep_first(frame, targets, conflicts)
    told = frame[:1].copy()
    told["split"], told[_CONFLICTING], kept[_CONFLICTING] = "", count, 0
    return pd.concat(cast(Any, [kept, told]))


def _kept(frame: "pd.DataFrame") -> "pd.DataFrame":
    return frame[frame["split"] != ""].drop(columns=_CONFLICTING).reset_index(drop=True)


def _conflicting(frame: "pd.DataFrame", targets: Sequence[str], conflicts: Conflicts) -> np.ndarray:
    """Which rows go because others of their key have another target; rows without any say nothing."""
    import pyarrow as pa

    goes = np.zeros(len(frame), dtype=bool)
    again = np.flatnonzero(frame["key"].duplicated(keep=False)) if targets else np.zeros(0, dtype=int)
    if not len(again):
        return goes
    rows = pa.Table.from_pandas(frame[list(targets)].iloc[again], preserve_index=False).to_pylist()
    said = [None if all(value is None for value in row.values()) else repr(row) for row in rows]
    keys = frame["key"].iloc[again].tolist()
    votes: dict[str, Counter[str]] = {}
    for key, target in zip(keys, said, strict=True):
        if target is not None:
            votes.setdefault(key, Counter())[target] += 1
    several = {key: counted for key, counted in votes.items() if len(counted) > 1}
    stays = {key: _majority(counted) if conflicts == "majority" else None for key, counted in several.items()}
    for place, key, target in zip(again, keys, said, strict=True):
        goes[place] = key in stays and (stays[key] is None or target not in (None, stays[key]))
    return goes


def _majority(counted: "Counter[str]") -> str | None:
    """What most say; None where two are said equally often."""
    (first, most), (_, next_most) = counted.most_common(2)
    return first if most > next_most else None


def _telling(frame: "pd.DataFrame") -> list[str]:
    """The columns that rows of one key differ in: targets, then texts."""
    names = (str(name) for name in frame)
    return sorted(name for name in names if name not in ("key", "split") and not name.startswith("slice_"))
