"""Rows that were cleaned before, taken where they stand again: what comes out is what comes out of nothing.

pytest tests/jobs/test_cleaned_rows.py
"""

import datetime
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.store import storage
from jobs.data import rows as rows_module
from jobs.data.cleaned_rows import CleanedBatch, CleanedRows
from jobs.data.left_out import LeftOut
from jobs.data.lines import Fault
from jobs.data.pieces import Row
from jobs.data.rows import Items, Reading
from jobs.prepare import PrepareConfig, reading_of

TEXTS = [
    "see you at lunch",
    "限时优惠 点击领取",
    "<b>call</b> mum",
    "a@b.example",
    "",
    "   ",
    "lone \ud800 half",
    None,
    7,
    2.5,
    True,
]
LABELS = ["ham", "spam", None, "", 1, ["a", "b"], datetime.date(2026, 11, 29)]
VALUES = st.tuples(st.sampled_from(TEXTS), st.sampled_from(LABELS), st.sampled_from(["Ada", "王小明", None, ""]))


def reading(**more: Any) -> Reading:
    asked = {"task": {"kind": "classification"}, "slices": ("customer",), "split": {"test": 0.3, "group": "customer"}}
    asked |= {"personal": {"email": "mask"}, "filters": {"length": {"min_words": 2}}, "clean": {"strip_tags": True}}
    return reading_of(PrepareConfig.model_validate({"source": "rows.csv", **asked, **more}))


def rows_of(values: list[tuple[Any, Any, Any]]) -> list[Row]:
    """Rows as a reader gives them; those with a date for a label could not be read."""
    broken = Fault("broken", "no JSON")
    return [
        Row({"line": "x"}, broken, line=number)
        if isinstance(label, datetime.date)
        else Row({"text": text, "label": label, "customer": customer}, line=number)
        for number, (text, label, customer) in enumerate(values, 1)
    ]


def cleaned(place: Path, values: list[tuple[Any, Any, Any]], how: Reading, file: str = "rows.csv") -> list[CleanedBatch]:
    return [*CleanedRows(str(place), "tiny/rows-1").frames(Items(how, "", {""}), file, 0, iter(rows_of(values)), how)]


def outcome(batches: list[CleanedBatch], items: Items) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The items of all batches, and what is told of the rows that are none."""
    left_out = LeftOut()
    for batch in batches:
        left_out.add("rows.csv", batch.first, batch.rows, batch.faults)
    left_out.tally.update(items.tally)
    return pd.concat([batch.frame for batch in batches], ignore_index=True), left_out.as_json()


def whole(place: Path, values: list[tuple[Any, Any, Any]], how: Reading) -> tuple[pd.DataFrame, dict[str, Any], int]:
    items = Items(how, "", {""})
    batches = [*CleanedRows(str(place), "tiny/rows-1").frames(items, "rows.csv", 0, iter(rows_of(values)), how)]
    assert [batch.first for batch in batches] == np.cumsum([0, *(len(batch.rows) for batch in batches)])[:-1].tolist()
    return *outcome(batches, items), sum(len(batch.rows) for batch in batches if batch.reused)


@given(st.lists(VALUES, min_size=1, max_size=30), st.lists(VALUES, max_size=12), st.lists(VALUES, max_size=12), st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_appended_rows_alone_are_cleaned_and_nothing_else_differs(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    old: list[Any],
    more: list[Any],
    later: list[Any],
    data: st.DataObject,
) -> None:
    monkeypatch.setattr(rows_module, "MOST_ROWS", 7)
    place, how = tmp_path_factory.mktemp("kept"), reading()
    assert whole(place, old, how)[2] == 0
    for values, known in ((old, old), (old + more, old), (old + more + later, old + more)):
        frame, told, reused = whole(place, values, how)
        zero, expected, none = whole(tmp_path_factory.mktemp("zero"), values, how)
        pd.testing.assert_frame_equal(frame, zero)
        assert (told, reused, none) == (expected, len(known), 0)
    # Whatever else becomes of the file, what comes out is right.
    changed = data.draw(st.permutations(old + more)) if data.draw(st.booleans()) else (old + more)[1:] + old[:1]
    frame, told, _ = whole(place, changed, how)
    zero, expected, _ = whole(tmp_path_factory.mktemp("zero"), changed, how)
    pd.testing.assert_frame_equal(frame, zero)
    assert told == expected


def test_values_that_look_alike_are_not_the_same_row(tmp_path: Path) -> None:
    for label in ("1", 1, 1.0, True):
        (batch,) = cleaned(tmp_path, [("see you at lunch", label, None)], reading())
        assert not batch.reused
    (batch,) = cleaned(tmp_path, [("see you at lunch", True, None)], reading())
    assert batch.reused
    (batch,) = cleaned(tmp_path, [("see you at lunch", True, None)], reading(), "other.csv")
    assert not batch.reused, "another file has blocks of its own"


def test_columns_that_nothing_is_made_of_may_change(tmp_path: Path) -> None:
    how, kept = reading(), CleanedRows(str(tmp_path), "tiny/rows-1")
    for number in (1, 2):
        row = Row({"text": "see you at lunch", "label": "ham", "customer": "Ada", "seen": number})
        (batch,) = kept.frames(Items(how, "", {""}), "rows.csv", 0, iter([row]), how)
    assert batch.reused


def test_a_damaged_block_is_made_again(tmp_path: Path) -> None:
    values = [("see you at lunch", "ham", "Ada"), ("call mum tonight", "spam", None)]
    cleaned(tmp_path, values, reading())
    (block,) = [storage.join(str(tmp_path), stat.path) for stat in storage.list_files(str(tmp_path))]
    for content in (b"", b"PAR1", Path(block).read_bytes()[:-9]):
        Path(block).write_bytes(content)
        assert [batch.reused for batch in cleaned(tmp_path, values, reading())] == [False]
        assert [batch.reused for batch in cleaned(tmp_path, values, reading())] == [True]


def test_what_sieves_count_is_counted_once_more(tmp_path: Path) -> None:
    values, how = [("write to a@b.example now", "ham", None), ("one", "ham", "Ada")], reading()
    counts = []
    for _ in range(2):
        items = Items(how, "", {""})
        batches = [*CleanedRows(str(tmp_path), "tiny/rows-1").frames(items, "rows.csv", 0, iter(rows_of(values)), how)]
        counts.append((items.tally, batches[0].reused))
    wanted = Counter({"texts_masked_email": 1, "rows_filtered_length": 1, "texts_without_group": 1})
    assert counts == [(wanted, False), (wanted, True)]
