"""Exact duplicates go, and none straddles two splits: decided over an index of the rows, without their texts.

    index = index_of(frame, ["label"])          # a record a row, in their order
    kept, conflicting = kept_rows(index)        # whether each row stays

A record says all that decides: the row's key, split and target, and what else tells it from rows of the same key. Records of
one key must be in one call; their order decides nothing.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jobs.data.splits import SPLITS

if TYPE_CHECKING:
    import pandas as pd

Conflicts = Literal["majority", "drop"]
"""Which rows stay of a text that has several targets. majority: those of the target that most of them have, and none where two
have equally many; drop: none."""
ROW_RECORD = np.dtype(
    [("high", "<u8"), ("low", "<u8"), ("rank", "u1"), ("target", "<u8"), ("telling", "<u8"), ("characters", "<u4")]
)
"""Both halves of the key; the split by its place in SPLITS; hashes of the target (0: there is none) and of all else; how long
the texts are."""


def index_of(frame: "pd.DataFrame", targets: Sequence[str] = (), fields: Sequence[str] = ("text",)) -> np.ndarray:
    """The records of rows of key, texts, (targets, slices,) split."""
    index = np.zeros(len(frame), dtype=ROW_RECORD)
    if frame.empty:
        return index
    halves = np.frombuffer(bytes.fromhex("".join(frame["key"])), dtype=">u8").reshape(-1, 2)
    index["high"], index["low"] = halves[:, 0], halves[:, 1]
    index["rank"] = frame["split"].map(SPLITS.index)
    index["telling"] = _hashes(frame, [str(name) for name in frame if name not in ("key", "split", *targets)])
    if targets:
        index["target"] = _hashes(frame, targets)
    for name in fields:
        index["characters"] += frame[name].str.len().to_numpy(np.uint32)
    return index


def key_order(index: np.ndarray) -> np.ndarray:
    """The places of records, sorted by key."""
    return np.lexsort((index["low"], index["high"]))


def kept_rows(index: np.ndarray, conflicts: Conflicts = "majority") -> tuple[np.ndarray, int]:
    """Whether each row stays: one a key, preferring test, then validation, then train, and in these what has a target; and how
    many go over a conflict: others give their text another target."""
    goes = _conflicting(index, conflicts)
    there = np.flatnonzero(~goes)
    left = index[there]
    # Of rows that share a key the first by what else they are, so that no order of theirs decides.
    order = np.lexsort((left["telling"], left["target"], left["target"] == 0, left["rank"], left["low"], left["high"]))
    kept = np.zeros(len(index), dtype=bool)
    kept[there[order[_begins(left[order], "high", "low")]]] = True
    return kept, int(goes.sum())


def _conflicting(index: np.ndarray, conflicts: Conflicts) -> np.ndarray:
    """Which rows go because others of their key have another target; rows without any say nothing."""
    goes = np.zeros(len(index), dtype=bool)
    order = np.lexsort((index["target"], index["low"], index["high"]))
    ordered = index[order]
    says = ordered["target"] != 0
    told = np.flatnonzero(says)
    if not len(told):
        return goes
    texts = np.cumsum(_begins(ordered, "high", "low")) - 1
    firsts = told[_begins(ordered[told], "high", "low", "target")]
    votes = np.diff(np.searchsorted(told, firsts), append=len(told))
    # The targets of each text by their votes, the most first.
    by_votes = np.lexsort((-votes, texts[firsts]))
    firsts, votes = firsts[by_votes], votes[by_votes]
    heads = np.flatnonzero(np.diff(texts[firsts], prepend=-1))
    several = heads[np.diff(heads, append=len(firsts)) > 1]
    wins = (votes[several] > votes[several + 1]) if conflicts == "majority" else np.zeros(len(several), dtype=bool)
    winner = np.zeros(texts[-1] + 1, dtype=np.uint64)
    winner[texts[firsts[several]]] = np.where(wins, ordered["target"][firsts[several]], 0)
    in_conflict = np.zeros(texts[-1] + 1, dtype=bool)
    in_conflict[texts[firsts[several]]] = True
    stays = winner[texts]
    goes[order] = in_conflict[texts] & ((stays == 0) | (says & (ordered["target"] != stays)))
    return goes


def _begins(ordered: np.ndarray, *names: str) -> np.ndarray:
    """Where records differ from the one before in any of these."""
    differs = np.ones(len(ordered), dtype=bool)
    differs[1:] = np.any([ordered[name][1:] != ordered[name][:-1] for name in names], axis=0)
    return differs


def _hashes(frame: "pd.DataFrame", names: Sequence[str]) -> np.ndarray:
    """A number for what each row has in these columns; 0 where it has nothing."""
    import pyarrow as pa
    from pandas.util import hash_array

    columns: list[list[Any]] = [pa.array(frame[name], from_pandas=True).to_pylist() for name in names]
    said = [None if all(value is None for value in row) else repr(row) for row in zip(*columns, strict=True)]
    found = hash_array(np.array([text or "" for text in said], dtype=object), categorize=False)
    found[found == 0] = 1
    found[[text is None for text in said]] = 0
    return found
