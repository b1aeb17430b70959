"""Augmentation: what changed texts are made of, and their way through prepare. `pytest tests/jobs/test_augment.py`"""

import random
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from pydantic import ValidationError

from cluster.connection.connect import Cluster
from jobs.core.stage import Context, Inputs
from jobs.data.augment import Augment, augmenting, changed
from jobs.data.clean import text_key
from jobs.prepare import PrepareConfig, run
from tests.jobs.tiny import MESSAGES

ENGLISH = "You won a free phone,  call the number below\nbefore six"
CHINESE = "我们六点在车站见面"


def variants(text: str, count: int = 400, **settings: float) -> list[str]:
    rng = random.Random(0)
    return [changed(text, Augment.model_validate({"drop": 0, "swap": 0, "cut": 0, **settings}), rng) for _ in range(count)]


def test_dropping_keeps_the_order_and_leaves_out_its_share() -> None:
    words = ENGLISH.split()
    made = variants(ENGLISH, drop=0.3)
    left = [text.split() for text in made]
    for kept in left:
        places = iter(words)
        assert all(word in places for word in kept), "the words that stay are in their order"
    share = sum(map(len, left)) / (400 * len(words))
    assert 0.65 < share < 0.75


def test_swapping_keeps_every_word_and_every_gap() -> None:
    made = variants(ENGLISH, swap=0.3)
    assert {tuple(sorted(text.split())) for text in made} == {tuple(sorted(ENGLISH.split()))}
    assert 300 < sum(text != ENGLISH for text in made) < 400
    assert all(text.count("  ") == 1 and text.count("\n") == 1 for text in made)
    assert all(Counter(text) == Counter(CHINESE) for text in variants(CHINESE, swap=0.3))


def test_cutting_keeps_a_run_of_any_length_from_a_quarter_on() -> None:
    made = variants(ENGLISH, cut=1)
    assert all(text in ENGLISH for text in made)
    assert {len(text.split()) for text in made} == set(range(2, 12))
    assert {len(text) for text in variants(CHINESE, cut=1)} == set(range(2, 10)), "a Chinese character is a word"


@pytest.mark.parametrize("text", ["ok", "", "！！！"])
def test_what_cannot_be_changed_is_left(text: str) -> None:
    assert variants(text, 20, drop=0.9, swap=0.9, cut=1) == [text] * 20


def test_no_text_is_left_with_less_than_two_words() -> None:
    assert {len(text.split()) for text in variants("one two three", drop=0.99)} == {2}


def frame(rows: list[tuple[str, str, str | None]]) -> pd.DataFrame:
    columns = {"key": [text_key(text) for text, _, _ in rows], "text": [text for text, _, _ in rows]}
    labels = pd.Series([label for _, _, label in rows], dtype="str")
    return pd.DataFrame({**columns, "label": labels, "slice_source": labels, "split": [split for _, split, _ in rows]})


def test_only_training_texts_are_changed_and_in_any_batch_alike() -> None:
    rows = frame([(ENGLISH, "train", "spam"), ("see you at lunch today", "test", "ham"), (CHINESE, "train", "ham")])
    augment = augmenting(Augment(copies=5))
    whole = augment(rows)
    assert whole[:3].equals(rows)
    added = whole[3:]
    assert 6 <= len(added) <= 10 and set(added["split"]) == {"train"}
    assert added[["label", "slice_source"]].isna().all(axis=None)
    assert not set(added["key"]) & set(rows["key"]) and not added["text"].str.contains("lunch").any()
    apart = pd.concat([augment(rows[:1])[1:], augment(rows[1:].reset_index(drop=True))[2:]], ignore_index=True)
    assert apart.equals(added.reset_index(drop=True))
    assert not augmenting(Augment(copies=5, seed=1))(rows).equals(whole)


def test_made_texts_come_out_of_prepare_without_a_label_and_without_duplicates(ray_driver: Cluster, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *(f"{text},{label}" for text, label in MESSAGES)]))
    settings = {"source": str(tmp_path / "rows.csv"), "task": {"kind": "classification"}, "split": {"validation": 0.25}}
    made = {}
    both: dict[str, dict[str, object]] = {"plain": {}, "more": {"augment": {"copies": 3}}}
    for name, added in both.items():
        directory = tmp_path / name
        directory.mkdir()
        context = Context(str(tmp_path), "tiny", name, str(tmp_path / f"{name}-out"), "a", directory=directory)
        made[name] = run(PrepareConfig.model_validate({**settings, **added}), Inputs(), context)
    plain, more = made["plain"].metrics, made["more"].metrics
    assert (more["train_rows"], more["validation_rows"]) == (plain["train_rows"], plain["validation_rows"])
    assert plain["train_rows"] < more["unlabelled_rows"] <= more["rows_made"]
    assert more["rows_duplicate"] == plain["rows_duplicate"] + more["rows_made"] - more["unlabelled_rows"]
    rows = pd.concat(pd.read_parquet(path) for path in (tmp_path / "more-out").rglob("*.parquet"))
    assert rows["key"].is_unique and set(rows[rows["label"].notna()]["text"]) == {text for text, _ in MESSAGES}


def test_tokens_are_not_augmented() -> None:
    with pytest.raises(ValidationError, match="augment is for examples of a task"):
        PrepareConfig.model_validate({"source": "a.txt", "tokenizer": {"train": "bpe"}, "augment": {}})
