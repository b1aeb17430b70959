"""Texts longer than a model reads at once: cut and counted, or read whole in windows whose logits are taken together.

pytest tests/serve/test_long_texts.py
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from serve.engines.base import Engine
from serve.engines.card import read_card, write_card
from serve.engines.engine import load_engine
from serve.tasks.classification import Classification
from serve.tasks.multi_label import MultiLabel
from serve.tasks.protocol import Item
from serve.tasks.shared.cutting import cut_short
from serve.tasks.shared.decisions import NoneOfThese
from serve.tasks.shared.labels import OVERLAP, LabelledTask
from tests.serve.tiny_model import LABELS, MAX_LENGTH, TEXTS, publish_tiny, texts_as_items, train_tokenizer

LONG = " ".join(TEXTS * 4)
WORDS = st.lists(st.sampled_from(["win", "a", "prize", "电影", "很", "station", "🙂", "joy,", "xyzzy"]), max_size=80)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model."""
    place = tmp_path_factory.mktemp("tiny")
    publish_tiny(place)
    return place


def engine(directory: Path, task: LabelledTask) -> Engine:
    """The tiny model as one of this task."""
    write_card(directory, read_card(directory).model_copy(update={"task": task}))
    return load_engine(directory, "onnx")


@settings(max_examples=80, deadline=None)
@given(WORDS, st.integers(8, 40), st.sampled_from(["left", "right"]))
def test_windows_have_all_tokens_and_overlap_by_an_eighth(words: list[str], length: int, direction: str) -> None:
    tokenizer, item = train_tokenizer().backend_tokenizer, Item((" ".join(words),))
    whole = tokenizer.encode(item.values[0], add_special_tokens=False).ids
    task = Classification(labels=LABELS, long="windows")
    task.cut(tokenizer, length, direction)
    (windows,) = task.encode(tokenizer, [item])
    assert all(len(window) <= length for window in windows) and not cut_short(task, [windows])[0]
    own = [
        [one for one, special in zip(window.ids, window.special_tokens_mask, strict=True) if not special] for window in windows
    ]
    stride, ordered = length // OVERLAP, own if direction == "right" else own[::-1]
    joined = list(ordered[0])
    for window in ordered[1:]:
        if direction == "right":
            assert joined[len(joined) - stride :] == window[:stride]
        joined += window[stride:]
    # From the left it is the window at the very beginning that is shorter, and shares the more.
    assert joined == whole or direction == "left"
    assert {*whole} == {one for window in own for one in window}, "nothing of the text is lost"
    cut = Classification(labels=LABELS)
    cut.cut(tokenizer, length, direction)
    assert cut_short(cut, cut.encode(tokenizer, [item])).tolist() == [len(windows) > 1]


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("kind", [Classification, MultiLabel])
def test_a_long_text_is_answered_from_all_its_windows(directory: Path, kind: Any, pooling: str) -> None:
    reads = engine(directory, kind(labels=LABELS, long="windows", pooling=pooling))
    items = texts_as_items([LONG, *TEXTS])
    windows = reads.tokenise(items)
    assert len(windows[0]) > 3
    each_WC = np.stack([np.asarray(reads.forward([window]))[0] for window in windows[0]])
    lengths_W = np.array([len(window) for window in windows[0]])
    wanted_C = each_WC.max(0) if pooling == "max" else (lengths_W @ each_WC) / lengths_W.sum()
    together = np.asarray(reads.outputs(items))
    np.testing.assert_allclose(together[0], wanted_C, atol=1e-5)
    assert together.dtype == np.float32 and not reads.plain
    joined = reads.joined(items[0], windows[0], list(reads.run(windows[0])))
    np.testing.assert_allclose(joined, reads.settled(items)[0], atol=1e-5)
    cuts = engine(directory, kind(labels=LABELS))
    assert cuts.plain and not cuts.task.windows
    shorter = np.asarray(cuts.outputs(items))
    one = [number for number, own in enumerate(windows) if len(own) == 1]
    np.testing.assert_allclose(together[one], shorter[one], atol=1e-5)
    assert np.abs(together[0] - shorter[0]).max() > 0.01, "the rest of the text says something"
    assert cut_short(cuts.task, cuts.tokenise(items)).tolist() == [len(own) > 1 for own in windows]


def test_what_decides_sees_the_whole_text(directory: Path) -> None:
    reads = engine(directory, Classification(labels=LABELS, long="windows", none=NoneOfThese()))
    answers = reads.answers(texts_as_items([LONG, TEXTS[0]]))
    assert [type(answer).__name__ for answer in answers] == ["ScopedAnswer"] * 2
    assert len(reads.task.parts(Item((LONG,)))) > 20


def test_two_texts_are_not_read_in_windows() -> None:
    with pytest.raises(ValidationError, match="they are cut"):
        Classification(labels=LABELS, pairs=True, long="windows")
    assert Classification(labels=LABELS, long="windows").unlike(Classification(labels=LABELS)) is None
    assert MAX_LENGTH // OVERLAP == 3
