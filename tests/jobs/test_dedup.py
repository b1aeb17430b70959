"""Exact duplicates and conflicts: what an index decides is what the rules say. `pytest tests/jobs/test_dedup.py`"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.connection.connect import Cluster
from jobs.data.clean import text_key
from jobs.data.dedup import Conflicts, index_of, kept_rows, key_order
from jobs.data.loading import load_rows
from jobs.prepare import PrepareConfig, reading_of

Row = tuple[str, str | None, str]
ROWS = st.lists(
    st.tuples(
        st.sampled_from("aAbBcd"),
        st.sampled_from([None, "ham", "spam", "eggs"]),
        st.sampled_from(["train", "validation", "test"]),
    )
)


def frame_of(rows: Sequence[Row]) -> pd.DataFrame:
    """Rows of text, label, split."""
    columns: dict[str, Any] = {"key": [text_key(text) for text, _, _ in rows], "text": [text for text, _, _ in rows]}
    columns |= {"label": pd.Series([label for _, label, _ in rows], dtype="str"), "split": [split for _, _, split in rows]}
    return pd.DataFrame(columns)


def keep_first(
    frame: pd.DataFrame, targets: Sequence[str] = (), conflicts: Conflicts = "majority"
) -> tuple[pd.DataFrame, int]:
    """The rows that stay, sorted by key; and how many went over a conflict."""
    index = index_of(frame, targets)
    kept, conflicting = kept_rows(index, conflicts)
    order = key_order(index)
    return frame.iloc[order[kept[order]]].reset_index(drop=True), conflicting


def plainly(rows: Sequence[Row], conflicts: Conflicts) -> tuple[dict[str, Any], int]:
    """Label and split that stay of each text in lower case, and how many rows go over a conflict: the rules word by word."""
    stays: dict[str, Any] = {}
    gone = 0
    for text in {text.lower() for text, _, _ in rows}:
        own = [row for row in rows if row[0].lower() == text]
        votes = Counter(label for _, label, _ in own if label is not None).most_common()
        if len(votes) > 1:
            winner = votes[0][0] if conflicts == "majority" and votes[0][1] > votes[1][1] else None
            left = [row for row in own if winner is not None and row[1] in (None, winner)]
            gone += len(own) - len(left)
            own = left
        if own:
            split = next(name for name in ("test", "validation", "train") if name in {row[2] for row in own})
            labels = {label for _, label, of in own if of == split}
            stays[text] = (next((label for label in labels if label is not None), None), split)
    return stays, gone


@settings(max_examples=300, deadline=None)
@given(ROWS, st.sampled_from(["majority", "drop"]), st.randoms())
def test_what_stays_is_what_the_rules_say_in_any_order(rows: list[Row], conflicts: Conflicts, random: Any) -> None:
    kept, conflicting = keep_first(frame_of(rows), ["label"], conflicts)
    named = kept["label"].astype(object).where(kept["label"].notna(), None)
    found = {text.lower(): (label, split) for text, label, split in zip(kept["text"], named, kept["split"], strict=True)}
    assert len(found) == len(kept) and (found, conflicting) == plainly(rows, conflicts)
    mixed = list(rows)
    random.shuffle(mixed)
    assert keep_first(frame_of(mixed), ["label"], conflicts)[0].equals(kept)


def test_no_text_is_in_two_splits_and_test_is_preferred() -> None:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "key": [text_key(f"text {number}") for number in generator.integers(60, size=400)],
            "text": [f"copy {number}" for number in range(400)],
            "label": generator.choice(["ham", "spam"], 400),
            "split": generator.choice(["train", "validation", "test"], 400),
        }
    )
    kept, _ = keep_first(frame)
    assert kept["key"].is_unique and set(kept["key"]) == set(frame["key"])
    for key, split in zip(kept["key"], kept["split"], strict=True):
        there = set(frame["split"][frame["key"] == key])
        assert split == next(name for name in ("test", "validation", "train") if name in there)
    shuffled, _ = keep_first(frame.sample(frac=1, random_state=1))
    assert shuffled.equals(kept), "the order in which rows arrive must not decide which one stays"


def said(conflicts: Literal["majority", "drop"], rows: Sequence[tuple[str, str | None, str]]) -> tuple[dict[str, Any], int]:
    """The label and the split of each text that stays of rows of text, label, split; and how many went over a conflict."""
    kept, conflicting = keep_first(frame_of(rows), ["label"], conflicts)
    named = kept["label"].astype(object).where(kept["label"].notna(), None)
    return dict(zip(kept["text"], zip(named, kept["split"], strict=True), strict=True)), conflicting


def test_of_a_text_with_several_labels_the_majority_stays_or_none() -> None:
    noisy = [("win", "spam", "train")] * 3 + [("win", "ham", "train"), ("bye", "ham", "test"), ("bye", "ham", "test")]
    assert said("majority", noisy) == ({"win": ("spam", "train"), "bye": ("ham", "test")}, 1)
    assert said("drop", noisy) == ({"bye": ("ham", "test")}, 4)
    # Neither of two labels that are there equally often stays, whatever their names are.
    even = [("win", "spam", "test"), ("win", "ham", "train"), ("bye", "ham", "train")]
    assert said("majority", even) == said("drop", even) == ({"bye": ("ham", "train")}, 2)
    # What has no label says nothing, and goes where its text does.
    unlabelled: list[tuple[str, str | None, str]] = [("win", None, "train"), ("win", None, "train")]
    assert said("majority", [*unlabelled, ("win", "spam", "train")]) == ({"win": ("spam", "train")}, 0)
    assert said("majority", unlabelled) == ({"win": (None, "train")}, 0)
    assert said("majority", [*unlabelled, *even]) == ({"bye": ("ham", "train")}, 4)
    # A losing label takes its split along.
    assert said("majority", [("win", "ham", "test"), *noisy[:3]]) == ({"win": ("spam", "train")}, 1)


def test_targets_of_several_columns_conflict_where_one_differs() -> None:
    keys, values = [text_key("a")] * 3 + [text_key("b")], pd.Series([1, 2.5, 2.5, 3], dtype=pd.ArrowDtype(pa.float64()))
    columns = {"key": keys, "text": list("aaab"), "label": ["x"] * 4, "split": ["train"] * 4}
    kept, conflicting = keep_first(pd.DataFrame({**columns, "value": values}), ["label", "value"])
    assert (dict(zip(kept["text"], kept["value"], strict=True)), conflicting) == ({"a": 2.5, "b": 3}, 1)


def test_conflicts_are_counted_beside_duplicates(ray_driver: Cluster, tmp_path: Path) -> None:
    rows = [("win", "spam")] * 3 + [("win", "ham"), ("so so", "ham"), ("so so", "spam"), ("bye", "ham"), ("bye", "ham")]
    config = PrepareConfig.model_validate({"source": "x", "task": {}, "split": {"validation": 0}})
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *(f"{text},{label}" for text, label in rows)]))
    source = str(tmp_path / "rows.csv")
    for conflicts, left, conflicting in (("majority", {"win": "spam", "bye": "ham"}, 3), ("drop", {"bye": "ham"}, 6)):
        reading = replace(reading_of(config), conflicts=cast(Any, conflicts))
        loaded = load_rows(source, reading, str(tmp_path / conflicts))
        counts = loaded.counts
        assert {row["text"]: row["label"] for row in loaded.rows.take_all()} == left
        duplicates = len(rows) - conflicting - len(left)
        wanted = {"rows_read": 8, "rows_empty": 0, "rows_conflicting": conflicting, "rows_duplicate": duplicates}
        assert {name: counts[name] for name in wanted} == wanted
