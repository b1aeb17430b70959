"""What moves when a source grows: nothing where a row's own hash decides; what moves elsewhere is counted and told.

pytest tests/jobs/test_growth.py
"""

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.store.artifact import Artifact, Kind
from jobs.data.dedup import index_of, kept_rows
from jobs.data.growth import ORDERED, growth
from jobs.data.pieces import Row
from jobs.data.rows import Items
from jobs.data.splits import Split
from jobs.data.stratified import cut_points, divide_strata, places_by_values
from jobs.prepare import PrepareConfig, reading_of
from tests.jobs.tiny import publish_directory

TEXTS = st.text("ab 中奖了", min_size=1, max_size=6)
GROUPS = ("Ada", "王小明", "7", None)
HELD = st.sampled_from([{"test": 0.2}, {"test": 0.3, "validation": 0.3}, {"test": 0.05, "validation": 0.0}])


def prepared(rows: Sequence[tuple[str, str, Any]], split: Mapping[str, Any]) -> dict[str, str]:
    """The split of each text that stays, by key: cleaned, divided, without duplicates."""
    config = {"source": "a.csv", "task": {"kind": "classification"}, "split": split}
    how = reading_of(PrepareConfig.model_validate(config))
    read = [Row({"text": text, "label": label, "customer": group}) for text, label, group in rows]
    frame, _ = Items(how, "", {""}).frame(read)
    stays, _ = kept_rows(index_of(frame, ["label"]), "majority")
    return dict(zip(frame["key"][stays], frame["split"][stays], strict=True))


ROWS = st.lists(st.tuples(TEXTS, st.sampled_from(["ham", "spam"]), st.sampled_from(GROUPS)), min_size=1, max_size=40)


@given(ROWS, ROWS, HELD, st.data())
@settings(max_examples=100, deadline=None)
def test_no_row_changes_its_split_by_what_comes_besides(
    old: list[Any], new: list[Any], held: Any, data: st.DataObject
) -> None:
    before, now = prepared(old, held), prepared(data.draw(st.permutations(old + new)), held)
    both = before.keys() & now.keys()
    assert {key: before[key] for key in both} == {key: now[key] for key in both}
    # A text goes only where the new rows disagree about it.
    told = {text for text, *_ in new}
    gone = before.keys() - now.keys()
    assert len(gone) <= len(told) and (not new) <= (not gone)


@given(st.lists(TEXTS, min_size=1, max_size=40, unique=True), st.data(), HELD)
@settings(max_examples=100, deadline=None)
def test_groups_stay_where_they_are(texts: list[str], data: st.DataObject, held: Any) -> None:
    rows = [(text, "ham", data.draw(st.sampled_from(GROUPS))) for text in texts]
    cut = data.draw(st.integers(1, len(rows)))
    split = {**held, "group": "customer"}
    one_by_one = prepared(rows[:cut], split), prepared(rows, split)
    # What is one text but for case and white space, in two groups, stays in the split that tests.
    order = {"train": 0, "validation": 1, "test": 2}
    assert all(order[one_by_one[1][key]] >= order[own] for key, own in one_by_one[0].items())
    if len({" ".join(text.split()).casefold() for text in texts}) == len(texts):
        assert one_by_one[0].items() <= one_by_one[1].items()


def test_new_rows_come_to_all_splits_in_their_shares() -> None:
    rows = [(f"message {number}", "ham", None) for number in range(4_000)]
    before, now = prepared(rows[:2_000], {"test": 0.2}), prepared(rows, {"test": 0.2})
    counts = Counter(now[key] for key in now.keys() - before.keys())
    for split, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        assert counts[split] / 2_000 == pytest.approx(share, abs=0.03)


def published(directory: Path, splits: Mapping[str, str]) -> Artifact:
    """EXAMPLES of keys alone."""
    draft = directory / "draft"
    for number, split in enumerate(sorted(set(splits.values()))):
        (draft / split).mkdir(parents=True)
        keys = [key for key, own in splits.items() if own == split]
        for part in range(2):
            parquet.write_table(pa.table({"key": keys[part::2]}), draft / split / f"{number}{part}.parquet")
    draft.mkdir(parents=True, exist_ok=True)
    return publish_directory(draft, directory / "rows-1a2b3c4d", Kind.EXAMPLES, "rows")


SPLIT_OF = st.dictionaries(st.sampled_from([f"{number:032x}" for number in range(12)]), st.sampled_from(ORDERED))


@given(SPLIT_OF, SPLIT_OF)
@settings(max_examples=40, deadline=None)
def test_what_became_of_each_row_is_counted(before: dict[str, str], now: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        earlier = published(Path(directory, "before"), before)
        later = published(Path(directory, "now"), now)
        told = growth(earlier, {path: later.file(path) for path in later.files("", ".parquet")})
    figures, both = told.figures(), before.keys() & now.keys()
    for split in ORDERED:
        assert figures[f"new_{split}_rows"] == sum(own == split for key, own in now.items() if key not in before)
    moved = {key for key in both if before[key] != now[key]}
    assert (figures["gone_rows"], figures["moved_rows"]) == (len(before.keys() - now.keys()), len(moved))
    assert figures["left_test_rows"] == sum(own == "test" and now.get(key) != "test" for key, own in before.items())
    assert figures["learned_test_rows"] == sum(now[key] == "test" for key in moved)
    quiet = "all others are in the split that they were in" in str(told)
    assert quiet == (not moved and not figures["left_test_rows"])


def test_stratified_rows_may_move_and_that_is_told(tmp_path: Path) -> None:
    """Their shares are of all rows of a label, so that where a label is cut depends on how many it has."""
    generator = np.random.default_rng(3)
    keys = [generator.bytes(16).hex() for _ in range(440)]

    def divided(count: int) -> dict[str, str]:
        frame = pd.DataFrame({"key": keys[:count], "label": "ham", "split": "train"})
        (found,) = places_by_values(frame, "label").to_pylist()
        cuts = cut_points({("ham",): np.frombuffer(found["places"], np.uint64)}, Split(test=0.2, stratify=True))
        made = divide_strata(frame, "label", cuts)
        return dict(zip(made["key"], made["split"], strict=True))

    now = published(tmp_path / "now", divided(440))
    told = growth(published(tmp_path / "before", divided(400)), {path: now.file(path) for path in now.files("", ".parquet")})
    figures = told.figures()
    assert sum(figures[f"new_{split}_rows"] for split in ORDERED) == 40 and figures["moved_rows"] > 0
    assert f"{int(figures['moved_rows'])} in another split" in str(told)
