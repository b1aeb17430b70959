"""A model cleans what it is asked as its training texts were cleaned, and answers of what was sent.

pytest tests/serve/test_cleaned.py
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve import tasks
from serve.cleaning.changes import Cleaned
from serve.cleaning.cleaning import Cleaning
from serve.engines.base import Engine
from serve.engines.card import CARD, read_card, write_card
from serve.engines.engine import TransformerEngine, load_engine
from serve.engines.reading import as_read
from serve.models.local import LocalModel
from serve.models.model import ServedModel
from serve.models.rollout.cascade import Cascade
from serve.settings import CascadeSettings, ModelSettings
from serve.tasks.protocol import Item
from tests.serve.faces import asked, face_of, local_model
from tests.serve.marking import publish_marking
from tests.serve.tiny_model import TEXTS, texts_as_items

CLEANING = Cleaning(strip_tags=True)
SENT = {
    "<p>Win a <b>prize</b> now</p>": "Win a prize now",
    "\ufeffsee you\r\n\r\n\r\n at  the sta\xadtion": "see you\n\n at the station",
    "这部<br>电影\u200b很好看": "这部 电影很好看",
    "the cafe\u0301 of joy": "the café of joy",
}
PIECES = st.sampled_from(
    [*("prize", "joy ", "cafe\u0301", "这部电影", "sta\xadtion", "film", "，", "很\u200d好")]
    + [*("<b>", "</b>", "<br/>", "\r\n", "  ", "\t", "\ufeff", "&", "A\u030a", "\u1112\u1161\u11ab")]
)


@pytest.fixture(scope="module", autouse=True)
def _known() -> Iterator[None]:
    """The kind of these tests, as a package of another's would bring it."""
    with pytest.MonkeyPatch.context() as patch:
        known = {**tasks.kinds(), "marking": "tests.serve.marking"}
        patch.setattr(tasks, "kinds", lambda: known)
        yield


def with_cleaning(model_directory: Path, target: Path, cleaning: Cleaning | None) -> Path:
    """The tiny model with another card."""
    copytree(model_directory, target)
    write_card(target, read_card(target).model_copy(update={"cleaning": cleaning}))
    return target


@pytest.fixture(scope="module")
def directory(model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_cleaning(model_directory, tmp_path_factory.mktemp("cleaned") / "tiny", CLEANING)


@pytest.fixture(scope="module")
def marking_directory(tmp_path_factory: pytest.TempPathFactory, _known: None) -> Path:
    directory = tmp_path_factory.mktemp("marking") / "cleaned"
    publish_marking(directory, CLEANING)
    return directory


@pytest.fixture(scope="module")
def marking(marking_directory: Path) -> Engine:
    return load_engine(marking_directory)


@pytest.fixture(scope="module")
def marking_as_sent(tmp_path_factory: pytest.TempPathFactory, marking_directory: Path) -> Engine:
    """The same model with a card of before."""
    return load_engine(with_cleaning(marking_directory, tmp_path_factory.mktemp("marking") / "tiny", None))


def local(engine: Engine) -> LocalModel:
    served = ServedModel(name="tiny", fingerprint="0" * 64, variant=engine.variant)
    return LocalModel(engine, served, ModelSettings(model="/m", cache_texts=10))


def test_a_text_is_read_as_training_saw_it(directory: Path) -> None:
    engine = load_engine(directory)
    sent, clean = np.asarray(engine.settled(texts_as_items(list(SENT)))), engine.settled(texts_as_items(list(SENT.values())))
    assert sent == pytest.approx(np.asarray(clean), abs=1e-5)


def test_a_model_with_a_card_of_before_reads_what_was_sent(model_directory: Path, tmp_path: Path) -> None:
    """Its card does not say how texts were cleaned, and has not even the key."""
    old = with_cleaning(model_directory, tmp_path / "old", None)
    (old / CARD).write_text((old / CARD).read_text().replace('"cleaning": null,', ""))
    assert "cleaning" not in (old / CARD).read_text()
    engine, items = load_engine(old), texts_as_items(list(SENT))
    assert [as_read(item, engine.card.cleaning).item for item in items] == items
    assert isinstance(engine, TransformerEngine)
    assert engine.tokenise(items)[0][0].ids == engine.tokenizer.encode(items[0].values[0]).ids


@pytest.mark.parametrize("text", ["<br>", "\u200b", "<p>\r\n</p>"])
def test_a_text_that_cleaning_leaves_nothing_of_is_answered(directory: Path, text: str) -> None:
    engine = load_engine(directory)
    empty, stop = np.asarray(engine.settled(texts_as_items([text, "."])))
    assert empty == pytest.approx(stop, abs=1e-5)


def test_each_of_several_texts_is_cleaned() -> None:
    read = as_read(Item(("plain", "<b>good</b>"), "{}"), CLEANING)
    assert read.item == Item(("plain", "good"), "{}")
    assert [text.span(0, 4) for text in read.texts] == [(0, 4), (3, 7)]
    plain = Item(("plain", "good"))
    assert as_read(plain, CLEANING).item is plain and not as_read(plain, CLEANING).texts


@given(st.lists(PIECES, min_size=1, max_size=10).map("".join))
@settings(max_examples=200, deadline=None)
def test_what_is_marked_is_marked_in_what_was_sent(marking: Engine, marking_as_sent: Engine, text: str) -> None:
    """The same token as of the clean text, where that was sent."""
    clean = CLEANING.cleaned(text)
    if not clean.text:
        return
    (sent,), (expected,) = marking.answers([Item((text,))]), marking_as_sent.answers([Item((clean.text,))])
    assert sent.value == pytest.approx(expected.value, abs=1e-4)
    assert (sent.start, sent.end) == clean.span(expected.start, expected.end)
    assert sent.text == text[sent.start : sent.end]


def test_http_answers_and_explains_in_places_of_what_was_sent(directory: Path) -> None:
    async def ask() -> None:
        model = local_model(directory, "tiny", "onnx")
        face = face_of({"tiny": model}, model)
        for sent, clean in SENT.items():
            (_, of_sent), (_, of_clean) = [await asked(face, "/v1/predict", {"inputs": text}) for text in (sent, clean)]
            assert of_sent["answers"][0]["label"] == of_clean["answers"][0]["label"]
            assert of_sent["answers"][0]["probability"] == pytest.approx(of_clean["answers"][0]["probability"], abs=1e-5)
            (_, of_sent), (_, of_clean) = [await asked(face, "/v1/explain", {"inputs": text}) for text in (sent, clean)]
            assert len(of_sent["words"]) == len(of_clean["words"])
            for word, expected in zip(of_sent["words"], of_clean["words"], strict=True):
                assert word["text"] == sent[word["start"] : word["end"]]
                assert CLEANING.cleaned(word["text"]).text == expected["text"]
                assert word["attribution"] == pytest.approx(expected["attribution"], abs=1e-3)

    asyncio.run(ask())


def test_marks_come_over_http_and_from_the_cache_alike(marking: Engine) -> None:
    async def ask() -> None:
        model = local(marking)
        face, text = face_of({"tiny": model}, model), "\r\n<p>the <b>cafe\u0301</b> 这部<br>电影</p>"
        replies = [await asked(face, "/v1/predict", {"inputs": [text, text]}) for _ in range(2)]
        answers = [answer for status, reply in replies for answer in reply["answers"]]
        assert {status for status, _ in replies} == {200} and all(answer == answers[0] for answer in answers)
        assert model.outputs_batcher.counts.cached == 2
        answer: Any = answers[0]
        assert answer["text"] == text[answer["start"] : answer["end"]]
        assert "<" not in answer["text"] and answer["text"].strip()
        _, explained = await asked(face, "/v1/explain", {"inputs": text})
        assert [word["text"] for word in explained["words"]] == ["the", "cafe\u0301", "这", "部", "电", "影"]
        assert explained["value"] == pytest.approx(answer["value"])

    asyncio.run(ask())


def test_models_that_clean_otherwise_answer_each_in_its_own_way(marking: Engine, marking_as_sent: Engine) -> None:
    """Outputs of both are of what was sent, so that what stands between them need not know."""

    async def ask() -> None:
        text = "<b>prize</b> film"
        whole, parts = local(marking_as_sent), local(marking)
        outcomes = [await model.predict([Item((text,))]) for model in (whole, parts)]
        assert [len(outcome.outputs[0]) for outcome in outcomes] == [len(text)] * 2
        assert outcomes[0].lengths[0] > outcomes[1].lengths[0], "tags are tokens where they are read"
        assert parts.task.distance(outcomes[0].outputs, outcomes[1].outputs)[0] > 0

    asyncio.run(ask())


def test_what_passes_texts_on_cleans_by_the_model_that_it_stands_for(directory: Path, model_directory: Path) -> None:
    async def ask() -> None:
        small, large = local_model(directory, "small", "onnx"), local_model(model_directory, "large", "torch")
        cascade = Cascade(small, large, CascadeSettings(model="large", threshold=1.0))
        await cascade.large.look()
        assert cascade.cleaning == CLEANING and cascade.task == small.task
        item = Item(("<b>prize</b>",))
        outcome = await cascade.predict([item])
        assert cascade.counts.passed_on == 1
        assert np.asarray(outcome.outputs) == pytest.approx(np.asarray((await large.predict([item])).outputs), abs=1e-5)
        face = face_of({"small": cascade, "large": large}, small)
        _, explained = await asked(face, "/v1/explain", {"inputs": item.values[0]})
        assert explained["model"]["name"] == "large"
        assert [word["text"] for word in explained["words"]] == ["<", "b", ">", "prize", "</", "b", ">"]

    asyncio.run(ask())


def test_most_texts_are_clean_and_cost_no_change() -> None:
    for text in (*TEXTS, *SENT.values()):
        read = CLEANING.cleaned(text)
        assert isinstance(read, Cleaned) and read.text is text and not read.changed
