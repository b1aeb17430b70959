"""Pairs of texts, from tokens to HTTP: token types, requests by field, explanations; models of several tasks in one place."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from serve.engines.base import Engine
from serve.engines.card import read_card
from serve.engines.engine import load_engine
from serve.models.local import LocalModel
from serve.tasks.protocol import Item
from serve.tasks.shared.explain import MOST_SPANS
from serve.tasks.shared.probabilities import softmax
from serve.watch.access_log import AccessLog
from tests.serve.faces import asked, face_of, local_model, serving
from tests.serve.generated import ask_generated
from tests.serve.tiny_model import LABELS, PAIRS, TEXTS, publish_tiny

PREDICT, EXPLAIN, EMBED = "/v1/predict", "/v1/explain", "/v1/embeddings"
ITEMS = [Item(pair) for pair in PAIRS]
BODIES = [{"text": text, "pair": pair} for text, pair in PAIRS]
GOOD = BODIES[0]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pairs") / "tiny"
    publish_tiny(place, pairs=True)
    return place


@pytest.fixture(scope="module")
def model(directory: Path) -> LocalModel:
    return local_model(directory, "pairs", "onnx")


@pytest.fixture(scope="module")
def single(model_directory: Path) -> LocalModel:
    return local_model(model_directory, "single", "torch")


@pytest.fixture(scope="module")
def url(directory: Path, model: LocalModel, single: LocalModel) -> Iterator[str]:
    models = {"pairs": model, "torch": local_model(directory, "torch", "torch"), "single": single}
    with serving(models, model) as address:
        yield address


def post(url: str, path: str, body: Any) -> requests.Response:
    return requests.post(url + path, json=body, timeout=30)


@pytest.mark.parametrize("variant", ["torch", "onnx"])
def test_logits_are_those_of_transformers_which_tells_the_texts_apart(directory: Path, variant: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    reference = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    expected, untold = [], []
    for text, pair in PAIRS:
        how = {"truncation": True, "max_length": read_card(directory).max_length, "return_tensors": "pt"}
        told = tokenizer(text, pair, return_token_type_ids=True, **how)
        expected.append(reference(**told).logits.detach().numpy()[0])
        told["token_type_ids"] = 0 * told["token_type_ids"]
        untold.append(reference(**told).logits.detach().numpy()[0])
    assert np.abs(np.array(expected) - untold).max() > 0.1, "it is to matter which text a token is of"
    assert np.abs(expected[0] - expected[1]).max() > 0.1, "and which text comes first"
    np.testing.assert_allclose(np.asarray(load_engine(directory, variant).outputs(ITEMS)), expected, atol=1e-4)


def test_one_pair_and_many_are_answered_as_the_engine_does(url: str, model: LocalModel) -> None:
    expected = model.engine.answers(ITEMS)
    for name in ("pairs", "torch"):
        many = post(url, PREDICT, {"inputs": BODIES * 42, "model": name}).json()
        assert many["model"]["name"] == name
        answers = many["answers"]
        assert [one["label"] for one in answers] == [one.label for one in expected] * 42
        assert [one["probability"] for one in answers] == pytest.approx([one.probability for one in expected] * 42, abs=1e-4)
    alone = post(url, PREDICT, {"inputs": GOOD, "top_k": 2}).json()["answers"]
    assert len(alone) == 1 and set(alone[0]) == {"label", "probability", "probabilities"}
    assert len(alone[0]["probabilities"]) == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"inputs": {"text": "a"}}, "inputs.pair"),
        ({"inputs": {"pair": "a"}}, "inputs.text"),
        ({"inputs": {"text": "a", "pair": ""}}, "inputs.pair"),
        ({"inputs": {"text": "a", "pair": " \n"}}, "inputs.pair"),
        ({"inputs": {"text": "a", "pair": 3}}, "inputs.pair"),
        ({"inputs": {"text": "a", "pair": None}}, "inputs.pair"),
        ({"inputs": {"text": "a", "pair": "b" * 20_001}}, "inputs.pair"),
        ({"inputs": {"text": "a", "pair": "b", "question": "c"}}, "inputs.question"),
        ({"inputs": {"question": "c"}}, "inputs.question"),
        ({"inputs": [GOOD, GOOD, GOOD, {"text": "a"}]}, "inputs.3.pair"),
        ({"inputs": [GOOD, {"text": "a", "pair": "b", "many": "c"}]}, "inputs.1.many"),
        ({"inputs": [GOOD, "a"]}, "inputs.1"),
        ({"inputs": [["a", "b"]]}, "inputs.0"),
        ({"inputs": [GOOD] * 257}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": "a"}, "inputs"),
        ({"inputs": 3}, "inputs"),
        ({"inputs": None}, "inputs"),
        ({}, "inputs"),
        ({"text": "a", "pair": "b"}, "inputs"),
        ({"inputs": GOOD, "top_k": 0}, "top_k"),
        ({"inputs": GOOD, "pair": "b"}, "pair"),
        ([GOOD], "body"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_with_its_field(url: str, body: Any, field: str) -> None:
    reply = post(url, PREDICT, body)
    assert reply.status_code == 422, reply.text
    assert field in [error["field"] for error in reply.json()["errors"]]
    assert all(error["message"] for error in reply.json()["errors"])


def test_another_kinds_request_is_told_what_the_model_takes(url: str) -> None:
    assert "an object with text and pair" in post(url, PREDICT, {"inputs": "a"}).json()["errors"][0]["message"]
    wrong = post(url, PREDICT, {"inputs": GOOD, "model": "single"})
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "inputs")
    assert "a string or a list of strings" in wrong.json()["errors"][0]["message"]


def test_models_of_several_tasks_are_each_asked_in_their_own_way(url: str, single: LocalModel) -> None:
    listed = requests.get(url + "/v1/models", timeout=30).json()["models"]
    assert [(one["name"], one["fields"], one["view"], one["explains"]) for one in listed] == [
        ("pairs", ["text", "pair"], "labels", True),
        ("torch", ["text", "pair"], "labels", True),
        ("single", ["text"], "labels", True),
    ]
    reply = post(url, PREDICT, {"model": "single", "inputs": TEXTS})
    expected = single.engine.answers([Item((text,)) for text in TEXTS])
    assert [one["label"] for one in reply.json()["answers"]] == [one.label for one in expected]
    assert "field" not in post(url, EXPLAIN, {"model": "single", "inputs": TEXTS[0]}).json()["words"][0]
    assert len(post(url, EMBED, {"model": "single", "inputs": TEXTS[0]}).json()["embeddings"]) == 1
    unknown = post(url, PREDICT, {"inputs": "whatever it takes", "model": "third"})
    assert (unknown.status_code, unknown.json()["errors"][0]["field"]) == (404, "model")
    odd = post(url, PREDICT, {"inputs": GOOD, "model": 3})
    assert (odd.status_code, odd.json()["errors"][0]["field"]) == (422, "model")
    broken = requests.post(url + PREDICT, data=b'{"model": "single", "inputs"', timeout=30)
    assert (broken.status_code, broken.json()["errors"][0]["field"]) == (400, "body")


@pytest.mark.parametrize("name", ["pairs", "torch"])
def test_an_explanation_has_the_words_of_both_texts(url: str, directory: Path, name: str) -> None:
    given = {"text": "Win a prize 🙂", "pair": "这部 film"}
    reply = post(url, EXPLAIN, {"inputs": given, "label": "spam", "model": name}).json()
    words = reply["words"]
    assert [(word["field"], word["text"]) for word in words] == [
        *(("text", text) for text in ("Win", "a", "prize", "🙂")),
        *(("pair", text) for text in ("这", "部", "film")),
    ]
    assert all(given[word["field"]][word["start"] : word["end"]] == word["text"] for word in words)
    engine = load_engine(directory, "onnx")
    shorter = [Item((given["text"], given["pair"])), Item(("a prize 🙂", given["pair"])), Item((given["text"], "这部 "))]
    expected = softmax(np.asarray(engine.outputs(shorter)))[:, LABELS.index("spam")]
    assert (reply["label"], reply["probability"]) == ("spam", pytest.approx(expected[0], abs=1e-4))
    assert [words[place]["probability_without"] for place in (0, -1)] == pytest.approx(expected[1:], abs=1e-4)


def test_what_cannot_be_explained_is_named(url: str) -> None:
    for body, field in (
        ({"inputs": GOOD, "label": "no"}, "label"),
        ({"inputs": [GOOD]}, "inputs"),
        ({"inputs": {"text": "a"}}, "inputs.pair"),
        ({"inputs": GOOD, "top_k": 1}, "top_k"),
    ):
        refused = post(url, EXPLAIN, body)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field), refused.text
    long = {"text": "word " * 2_000, "pair": "wort " * 2_000}
    assert len(post(url, EXPLAIN, {"inputs": long}).json()["words"]) <= MOST_SPANS


def test_embeddings_are_of_both_texts_together(url: str, directory: Path) -> None:
    vectors = post(url, EMBED, {"inputs": BODIES, "model": "torch"}).json()["embeddings"]
    engine = load_engine(directory, "torch")
    expected = np.concatenate([engine.embed(windows) for windows in engine.tokenise(ITEMS)])
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
    assert post(url, EMBED, {"inputs": GOOD}).status_code == 409, "this graph gives no hidden states"


def test_the_description_is_of_pairs_and_its_requests_meet_no_server_error(directory: Path, model: LocalModel) -> None:
    with serving({"pairs": model}, model) as url:
        openapi = requests.get(url + "/openapi.json", timeout=30).json()
        operation = openapi["paths"][PREDICT]["post"]
        content = operation["requestBody"]["content"]["application/json"]
        one, many = content["schema"]["properties"]["inputs"]["oneOf"]
        assert one["required"] == many["items"]["required"] == ["text", "pair"]
        assert "$ref" not in json.dumps(content["schema"])
        told = post(url, PREDICT, content["example"]).json()["answers"]
        shown = operation["responses"]["200"]["content"]["application/json"]["example"]["answers"]
        assert [one["label"] for one in told] == [one["label"] for one in shown]
        assert "object with text and pair" in requests.get(url + "/docs", timeout=30).text
        assert ask_generated(url + "/openapi.json", examples=10) >= 100


def test_the_log_has_the_texts_by_name_only_where_it_is_to(model: LocalModel, single: LocalModel, tmp_path: Path) -> None:
    without, texts = AccessLog(tmp_path / "a.jsonl"), AccessLog(tmp_path / "b.jsonl", with_texts=True)

    async def run() -> None:
        face = face_of({"pairs": model, "single": single}, model)
        face.finished = [without.note, texts.note]
        assert (await asked(face, PREDICT, {"inputs": [GOOD, BODIES[3]]}))[0] == 200
        assert (await asked(face, PREDICT, {"inputs": "a", "model": "single"}))[0] == 200
        assert (await asked(face, PREDICT, {"inputs": "a"}))[0] == 422

    asyncio.run(run())
    for log in (without, texts):
        log.flush()
    pair, one, wrong = map(json.loads, texts.file.read_text().splitlines())
    assert pair["inputs"] == [GOOD, BODIES[3]] and one["inputs"] == ["a"] and "inputs" not in wrong
    assert (pair["texts"], pair["characters"]) == (2, sum(map(len, (*PAIRS[0], *PAIRS[3]))))
    assert "prize" not in without.file.read_text()


def test_of_two_texts_the_longer_one_is_cut_first(model: LocalModel) -> None:
    engine: Engine = model.engine
    (window,) = engine.tokenise([Item(("see you at six " * 9, "bring the keys"))])[0]
    (alone,) = engine.tokenise([Item(("a", "bring the keys"))])[0]
    second = [token for token, kind in zip(window.ids, window.type_ids, strict=True) if kind]
    assert len(window) == engine.card.max_length
    assert second == [token for token, kind in zip(alone.ids, alone.type_ids, strict=True) if kind], "the shorter one is whole"
