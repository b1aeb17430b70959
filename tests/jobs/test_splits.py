"""Splits by group and by label: groups stay whole, shares are exact. `pytest tests/jobs/test_splits.py`"""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster.connection.connect import Cluster
from cluster.store.artifact import Artifact
from jobs.core.idle import idle_problems
from jobs.core.recipe import parse_recipe
from jobs.data.clean import Clean, text_key
from jobs.data.dedup import index_of, kept_rows
from jobs.data.pieces import Row
from jobs.data.rows import Items, Reading
from jobs.data.splits import Split, group_key, split_of
from jobs.data.stratified import cut_points, divide_strata, held_rows, places_by_values
from jobs.data.training_rows import read_examples
from jobs.prepare import PREPARE_RULES, PrepareConfig
from jobs.running.execute import execute
from tests.jobs.stars import write_entry_point
from tests.jobs.tiny import source_problems

ROOT = Path(__file__).parents[2]
CUSTOMERS = ("王小明", "王小明 ", "Ada", "ada", "7", "0007", "客户-42", "O'Neil")
SHARES = st.fractions(0, 1, max_denominator=20).map(float)
BOTH_SHARES = st.tuples(SHARES, SHARES).filter(lambda both: sum(both) < 1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"split": {"by": "part", "group": "customer"}}, "the column part says each row's split, so that group divides"),
        ({"split": {"by": "part", "stratify": True}}, "the column part says each row's split, so that stratify divides"),
        ({"split": {"group": "customer", "stratify": True}}, "give group or stratify"),
        ({"split": {"stratify": True}, "task": None, "tokenizer": {"train": "bpe"}}, "text for tokens has none"),
        ({"split": {"stratify": True}, "augment": {}}, "augment changes training texts as they are read"),
    ],
)
def test_what_contradicts_itself_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PrepareConfig.model_validate({"source": "a.csv", "task": {}, **given})


def test_targets_that_rows_do_not_share_are_refused(tmp_path: Path) -> None:
    """A kind of task says itself by what its rows can be stratified; one that says nothing is refused with the recipe."""
    step = {"stage": "prepare", "source": "a.csv", "task": {"kind": "stars"}, "split": {"stratify": True}}
    (tmp_path / "recipe.yaml").write_text(json.dumps({"name": "tiny", "steps": {"rows": step}}))
    path = os.pathsep.join([str(write_entry_point(tmp_path)), str(ROOT)])
    command = [sys.executable, "-m", "jobs.prepare", str(tmp_path / "recipe.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 2 and "targets of stars have none: leave it out" in done.stderr


@pytest.mark.parametrize(
    ("source", "idle"),
    [
        ("a.csv", False),
        ({"train": "a.csv"}, False),
        ({"train": "a.csv", "test": "b.csv"}, False),
        ({"train": "a.csv", "validation": "b.csv"}, True),
        ({"validation": "a.csv", "unlabelled": "b.csv"}, True),
    ],
)
def test_a_key_that_divides_nothing_is_refused(source: Any, idle: bool) -> None:
    for split in ({"group": "customer"}, {"stratify": True}):
        config = PrepareConfig.model_validate({"source": source, "task": {}, "split": split})
        found = idle_problems(config, (), (), PREPARE_RULES)
        assert [problem.path for problem in found] == ([f"split.{next(iter(split))}"] if idle else [])


def test_the_column_of_the_groups_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label,customer\nhello,a,1\nthere,b,2\n")
    (tmp_path / "test.csv").write_text("text,label\nhello,a\n")
    given: dict[str, Any] = {"source": str(tmp_path / "rows.csv"), "task": {}}
    (problem,) = source_problems(**given, split={"group": "costumer"})
    assert problem.path == "split.group" and "customer" in problem.remedy
    assert not source_problems(**given, split={"group": "customer"})
    # What is named for a split is not divided.
    sources = {"train": given["source"], "test": str(tmp_path / "test.csv")}
    assert not source_problems(**{**given, "source": sources}, split={"group": "customer"})


CUSTOMER = st.none() | st.sampled_from(CUSTOMERS) | st.integers(0, 9)
ROWS = st.lists(st.tuples(st.text(min_size=1, max_size=6), CUSTOMER), min_size=1, max_size=60)


@given(rows=ROWS, shares=BOTH_SHARES)
@settings(max_examples=80, deadline=None)
def test_a_group_is_whole(rows: list[tuple[str, Any]], shares: tuple[float, float]) -> None:
    """Whatever its texts are; a row without one goes by its text, and is counted."""
    split = Split(group="customer", test=shares[0], validation=shares[1])
    items = Items(Reading({"text": "text"}, Clean(), split), "", {""})
    values = [{"text": f"{text}.", "customer": customer} for text, customer in rows]
    frame, faults = items.frame([Row(value, None, number, 0, 0) for number, value in enumerate(values)])
    made = [customer for place, (_, customer) in enumerate(rows) if place not in faults]
    assert len(made) == len(frame) and items.tally["texts_without_group"] == sum(customer is None for customer in made)
    found: dict[str, set[str]] = {}
    for customer, key, part in zip(made, frame["key"], frame["split"], strict=True):
        if customer is None:
            assert part == split_of(key, split)
        else:
            found.setdefault(str(customer).strip(), set()).add(part)
    assert all(len(parts) == 1 for parts in found.values())
    assert all(parts == {split_of(group_key(name), split)} for name, parts in found.items())


def test_groups_are_divided_by_their_shares() -> None:
    parts = [split_of(group_key(f"customer {number}"), Split(test=0.2, validation=0.1)) for number in range(5000)]
    assert abs(parts.count("test") / 5000 - 0.2) < 0.02 and abs(parts.count("validation") / 5000 - 0.1) < 0.02


@given(sizes=st.dictionaries(st.text(max_size=3), st.integers(1, 400), max_size=30), shares=BOTH_SHARES)
@settings(max_examples=200, deadline=None)
def test_shares_of_each_label_are_exact(sizes: dict[str, int], shares: tuple[float, float]) -> None:
    split = Split(stratify=True, test=shares[0], validation=shares[1])
    held = held_rows(sizes, split)
    assert held == held_rows(dict(reversed(sizes.items())), split)
    assert set(held) == set(sizes)
    for label, size in sizes.items():
        test, validation = held[label]
        assert test >= 0 and validation >= 0 and test + validation <= size - 1
        assert abs(test - size * shares[0]) < 1 + 1e-9 and abs(validation - size * shares[1]) < 1 + 1e-9


def test_small_labels_come_to_their_share_together() -> None:
    """A tenth of four rows is none; of a thousand labels of four rows it is 400."""
    held = held_rows({f"label {number}": 4 for number in range(1000)}, Split(stratify=True, validation=0.1))
    assert sum(validation for _, validation in held.values()) == 400
    assert held_rows({"a": 50, "b": 30, "c": 1}, Split(stratify=True, validation=0.1, test=0.2)) == {
        "a": (10, 5), "b": (6, 3), "c": (0, 0),
    }  # fmt: skip


@given(data=st.data(), labels=st.lists(st.sampled_from(("ham", "spam", "其他", None)), max_size=120), shares=BOTH_SHARES)
@settings(max_examples=60, deadline=None)
def test_no_order_and_no_block_decides(data: st.DataObject, labels: list[str | None], shares: tuple[float, float]) -> None:
    split = Split(stratify=True, test=shares[0], validation=shares[1])
    parts = [data.draw(st.sampled_from(("train", "train", "validation", "test"))) for _ in labels]
    keys = [text_key(f"text {number}") for number in range(len(labels))]
    frame = pd.DataFrame({"key": keys, "label": pd.Series(labels, dtype="str"), "split": pd.Series(parts, dtype="str")})
    whole = stratified([frame], split)
    divisible = frame[(frame["split"] == "train") & frame["label"].notna()]["label"].tolist()
    for stratum, held in held_rows(Counter(divisible), split).items():
        own = whole[(frame["split"] == "train") & (frame["label"] == stratum)]["split"].tolist()
        assert (own.count("test"), own.count("validation")) == held
    given_already = frame["label"].isna() | (frame["split"] != "train")
    assert whole[given_already].equals(frame[given_already])
    order = data.draw(st.permutations(range(len(labels))))
    cut = data.draw(st.integers(0, len(labels)))
    mixed = stratified([frame.iloc[order[:cut]], frame.iloc[order[cut:]]], split)
    assert mixed.sort_index().equals(whole)


SETS = st.lists(st.one_of(st.none(), st.sets(st.sampled_from(("价格", "送货", "price", "delivery", "quality")))), max_size=150)


@given(data=st.data(), sets=SETS, shares=BOTH_SHARES)
@settings(max_examples=60, deadline=None)
def test_rows_of_several_labels_are_divided_by_their_rarest(
    data: st.DataObject, sets: list[set[str] | None], shares: tuple[float, float]
) -> None:
    split = Split(stratify=True, test=shares[0], validation=shares[1])
    keys = [text_key(f"文本 {number}") for number in range(len(sets))]
    labels = pd.Series([None if own is None else sorted(own) for own in sets], dtype=object)
    frame = pd.DataFrame({"key": keys, "label": labels, "split": pd.Series(["train"] * len(sets), dtype="str")})
    whole = stratified([frame], split)
    known = [own for own in sets if own is not None]
    counts = Counter(label for own in known for label in own)
    rarest = [None if own is None else min(own, key=lambda one: (counts[one], one), default="") for own in sets]
    held = held_rows(Counter(one for one in rarest if one is not None), split)
    assert {stratum: _counts(whole, [one == stratum for one in rarest]) for stratum in held} == held
    assert set(whole["split"][[own is None for own in sets]]) <= {"train"}
    order = data.draw(st.permutations(range(len(sets))))
    cut = data.draw(st.integers(0, len(sets)))
    assert stratified([frame.iloc[order[:cut]], frame.iloc[order[cut:]]], split).sort_index().equals(whole)


def _counts(frame: pd.DataFrame, chosen: list[bool]) -> tuple[int, int]:
    own = frame["split"][chosen].tolist()
    return own.count("test"), own.count("validation")


def test_every_label_comes_near_its_share() -> None:
    """Rare labels by chance alone might be held out or left out whole; frequent ones come near their share by themselves."""
    draw = random.Random(0)
    rates = {"common": 0.6, "常见": 0.4, "seldom": 0.1, "少见": 0.03, "rare": 0.005}
    sets = [sorted(label for label, rate in rates.items() if draw.random() < rate) for _ in range(4000)]
    frame = pd.DataFrame({"key": [text_key(str(number)) for number in range(4000)], "label": sets, "split": "train"})
    whole = stratified([frame], Split(stratify=True, test=0.1, validation=0.2))
    for label in rates:
        having = [label in own for own in sets]
        test, validation = _counts(whole, having)
        assert abs(test - 0.1 * sum(having)) <= 1 + 0.015 * sum(having), label
        assert abs(validation - 0.2 * sum(having)) <= 1 + 0.015 * sum(having), label


def stratified(blocks: list[pd.DataFrame], split: Split) -> pd.DataFrame:
    """What becomes of blocks of rows."""
    places: dict[tuple[str, ...], list[np.ndarray]] = {}
    for block in blocks:
        for row in places_by_values(block, "label").to_pylist():
            places.setdefault(tuple(row["values"]), []).append(np.frombuffer(row["places"], dtype=np.uint64))
    cuts = cut_points({values: np.concatenate(own) for values, own in places.items()}, split)
    return pd.concat([divide_strata(block, "label", cuts) for block in blocks])


def test_a_text_of_two_groups_is_in_one_split() -> None:
    """The one that tests before the one that validates, and that before the one that trains."""
    key = text_key("thanks")
    frame = pd.DataFrame({"key": [key] * 3, "text": ["thanks"] * 3, "split": ["train", "test", "validation"]})
    kept, _ = kept_rows(index_of(frame))
    assert frame["split"][kept].tolist() == ["test"]


def by_split(examples: Artifact) -> dict[str, list[dict[str, Any]]]:
    """The rows of EXAMPLES by split."""
    return {name: read_examples(examples, name).to_pylist() for name in ("train", "validation", "test")}


def test_steps_that_divide_by_group_and_by_label(ray_driver: Cluster, tmp_path: Path) -> None:
    """Two steps over one file, run: its duplicates go first, rows without a label train."""
    rows: list[dict[str, Any]] = [
        {"text": f"message {number // 2}", "label": "often" if number % 40 > 1 else "rare", "customer": f"客户{number % 50}"}
        for number in range(2000)
    ]
    rows[7]["customer"] = rows[9]["customer"] = None
    for row in rows:
        number = int(row["text"].split()[1])
        row["topics"] = [topic for topic, every in (("价格", 2), ("delivery", 50), ("少见", 125)) if number % every == 0]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "more.txt").write_text("\n".join(f"unlabelled {number}" for number in range(30)))
    source: Any = {"train": str(tmp_path / "rows.jsonl"), "unlabelled": str(tmp_path / "more.txt")}
    shared = {"stage": "prepare", "task": {"kind": "classification"}, "slices": ["customer"]}
    steps = {
        "groups": {**shared, "source": str(tmp_path / "rows.jsonl"), "split": {"group": "customer", "test": 0.2}},
        "labels": {**shared, "source": source, "split": {"stratify": True, "validation": 0.15}},
    }
    steps["topics"] = {**steps["labels"], "task": {"kind": "multi_label", "labels": "topics"}}
    made = parse_recipe({"name": "tiny", "steps": steps})
    storage = str(tmp_path / "runs")
    groups, labels = execute(made, "groups", storage), execute(made, "labels", storage)

    assert groups.manifest.metrics["texts_without_group"] == 2
    customers = {name: {row["slice_customer"] for row in part} - {None} for name, part in by_split(groups).items()}
    assert all(customers.values()) and sum(map(len, customers.values())) <= 50
    assert not customers["train"] & customers["test"] and not customers["train"] & customers["validation"]
    assert not customers["validation"] & customers["test"]

    found = by_split(labels)
    counts = {name: [row["label"] for row in part] for name, part in found.items()}
    assert counts["train"].count(None) == 30 and not counts["test"]
    for label in ("rare", "often"):
        trained, validated = counts["train"].count(label), counts["validation"].count(label)
        assert abs(validated - 0.15 * (trained + validated)) < 1 and trained
    assert len({row["key"] for part in found.values() for row in part}) == sum(map(len, found.values()))

    topics = by_split(execute(made, "topics", storage))
    held = {name: Counter(topic for row in part for topic in row["labels"] or ()) for name, part in topics.items()}
    assert {name: held["validation"][name] + held["train"][name] for name in ("价格", "delivery", "少见")} == {
        "价格": 500, "delivery": 20, "少见": 8,
    }  # fmt: skip
    assert held["validation"]["少见"] == 1 and abs(held["validation"]["delivery"] - 3) <= 1
    assert abs(sum(row["labels"] == [] for row in topics["validation"]) - 0.15 * 496) < 1
