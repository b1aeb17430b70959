"""Several answers for a text, as they are served: requests, answers, explanations. `pytest tests/serve/test_heads.py`"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from pydantic import ValidationError

from serve.engines.engine import load_engine
from serve.http.schema import explain_form, parse_request, predict_form, reply_form
from serve.models.problems import Refusal
from serve.tasks import task_of
from serve.tasks.classification import Classification
from serve.tasks.multi_label import MultiLabel
from serve.tasks.several import MOST_SAYINGS, Head, Several
from tests.serve.faces import local_model, serving
from tests.serve.tiny_model import TEXTS, publish_tiny, texts_as_items

TOPIC, TAGS = Classification(labels=("书籍", "平板", "水果")), MultiLabel(labels=("cheap", "fast"))
TASK = Several(heads=(Head(name="topic", task=TOPIC), Head(name="标签", task=TAGS)))
OTHER = Several(
    heads=(
        Head(name="标签", task=MultiLabel(labels=("fast", "cheap"))),
        Head(name="topic", task=Classification(labels=("水果", "书籍", "平板"))),
    )
)


@pytest.fixture
def logits_NK() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)


def test_a_card_holds_it_and_gives_it_back() -> None:
    assert task_of(json.loads(TASK.model_dump_json())) == TASK
    assert task_of(OTHER.model_dump(mode="json")) == OTHER != TASK


def test_what_a_model_of_another_order_says_is_put_in_order(logits_NK: np.ndarray) -> None:
    assert TASK.unlike(OTHER) is None
    aligned = TASK.aligned(logits_NK, OTHER)
    np.testing.assert_array_equal(aligned, logits_NK[:, [3, 4, 2, 1, 0]])
    np.testing.assert_array_equal(TASK.aligned(logits_NK[0], OTHER), aligned[0])
    fitted = {"topic.temperature": 0.5, "标签.threshold fast": 0.2}
    np.testing.assert_array_equal(TASK.aligned(OTHER.settled(logits_NK, fitted), OTHER), TASK.settled(aligned, fitted))
    fewer = Several(heads=TASK.heads[:1])
    assert TASK.unlike(fewer) == "only one of them has the head 标签"
    renamed = Several(heads=(Head(name="topic", task=Classification(labels=("书籍", "x"))), TASK.heads[1]))
    assert str(TASK.unlike(renamed)).startswith("of the head topic only one of them has the label")
    assert TASK.unlike(TOPIC) == "they are not of the same task"


def test_one_output_is_as_many_are(logits_NK: np.ndarray) -> None:
    settled = TASK.settled(logits_NK, {})
    np.testing.assert_array_equal(TASK.stacked([settled[place] for place in range(len(settled))]), settled)
    np.testing.assert_array_equal(TASK.stacked(list(logits_NK)), logits_NK)
    nothing = TASK.settled(TASK.stacked([]), {})
    assert len(nothing) == 0 and TASK.answers(nothing, []) == [] and TASK.said(nothing) == []
    assert TASK.confidence(TASK.stacked([])) is not None, "that there is such a thing is known without any output"
    assert TASK.wrong_output(logits_NK[0]) is None and "5 columns" in str(TASK.wrong_output(logits_NK[0, :4]))
    assert TASK.wrong_fitted({"topic.temperature": 2.0, "标签.threshold fast": 0.5}) is None
    for wrong in ({"temperature": 2.0}, {"mood.temperature": 2.0}, {"topic.temperature": -1.0}, {"标签.threshold slow": 0.5}):
        assert TASK.wrong_fitted(wrong) is not None, wrong


def test_what_answers_are_counted_by_is_bounded() -> None:
    assert TASK.counted == ("topic", "标签") and len(TASK.sayings) == 9 and "水果, no label" in TASK.sayings
    many = Classification(labels=tuple(f"label {number}" for number in range(MOST_SAYINGS // 3)))
    wide = Several(heads=(Head(name="topic", task=TOPIC), Head(name="many", task=many), Head(name="标签", task=TAGS)))
    assert wide.counted == ("topic", "many") and len(wide.sayings) <= MOST_SAYINGS
    widest = Several(heads=(Head(name="many", task=Classification(labels=tuple(map(str, range(99))))), *TASK.heads))
    assert widest.sayings == tuple(map(str, range(99)))


def test_options_are_those_of_each_head(logits_NK: np.ndarray) -> None:
    form, settled = predict_form(TASK), TASK.settled(logits_NK, {})
    wanted = parse_request(json.dumps({"inputs": "a", "topic": {"top_k": 1}}).encode(), form)
    answers = TASK.answers(settled, wanted.items * 6, wanted)
    assert {(len(answer.topic.probabilities), len(answer.标签.probabilities)) for answer in answers} == {(1, 2)}
    assert predict_form(task_of(TASK.model_dump(mode="json"))) is form, "equal tasks have the same form"
    for body, field in (
        ({"topic": {"top_k": 0}}, "topic.top_k"),
        ({"top_k": 1}, "top_k"),
        ({"topic": {"label": "x"}}, "topic.label"),
    ):
        with pytest.raises(Refusal) as refused:
            parse_request(json.dumps({"inputs": "a", **body}).encode(), form)
        assert refused.value.problem.errors[0].field == field
    schema = reply_form(TASK).model_json_schema()
    assert set(schema["$defs"]["SeveralAnswer"]["properties"]) == {"topic", "标签"}


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, None),
        ({"head": "标签"}, None),
        ({"标签": {"label": "fast"}}, None),
        ({"head": "mood"}, "head"),
        ({"topic": {"label": "x"}}, "topic.label"),
        ({"head": "topic", "标签": {"label": "fast"}}, "标签"),
    ],
)
def test_the_target_of_an_explanation_says_which_head(body: dict[str, Any], wrong: str | None) -> None:
    wanted = parse_request(json.dumps({"inputs": "a", **body}).encode(), explain_form(TASK))
    found = TASK.wrong_target(wanted, wanted.items[0])
    assert (found[0] if found else None) == wrong


def test_people_say_what_is_right_of_some_heads_or_of_all() -> None:
    answer = {"topic": {"label": "水果"}, "标签": {"labels": ["cheap", "fast"]}}
    assert TASK.right_example() == {"topic": "书籍", "标签": ["cheap"]}
    right = TASK.right({"标签": ["fast"], "topic": "平板"})
    assert right == {"topic": {"label": "平板"}, "标签": {"labels": ["fast"]}}
    assert TASK.goodness(answer, right) == pytest.approx((0 + 2 / 3) / 2)
    assert TASK.goodness(answer, TASK.right({"topic": "水果"})) == 1
    for said, told in (
        ("水果", "by its name"),
        ({}, "there are topic, 标签"),
        ({"x": 1}, "x is none"),
        ({"topic": "x"}, "no label 'x'"),
    ):
        with pytest.raises(ValueError, match=told):
            TASK.right(said)


def test_files_have_each_heads_columns(logits_NK: np.ndarray) -> None:
    (answer, *_) = TASK.answers(TASK.settled(logits_NK, {}), [])
    columns, cells = TASK.columns(True), TASK.cells(answer, True)
    assert set(columns) == set(cells) and columns["标签.predicted"] is list and columns["topic.probability_平板"] is float
    assert set(TASK.columns(False)) == {"topic.predicted", "topic.probability", "标签.predicted"}
    told = json.loads(json.dumps(asdict(answer)))
    assert TASK.told(told).startswith(f"topic: {told['topic']['label']} (") and "; 标签: " in TASK.told(told)
    assert set(TASK.brief(told)) == {"topic.label", "topic.probability", "标签.labels"}


WRONG = [[(name, TOPIC)] for name in ("a.b", "json", "ａ", "_a")]


@pytest.mark.parametrize("heads", [*WRONG, [("a", TOPIC), ("a", TAGS)], [("a", TASK)], []])
def test_heads_that_no_card_can_have(heads: list[tuple[str, Any]]) -> None:
    with pytest.raises(ValidationError):
        Several(heads=tuple(Head(name=name, task=task) for name, task in heads))


def test_heads_of_pairs_read_pairs() -> None:
    pair = Classification(labels=("yes", "no"), pairs=True)
    both = Several(heads=(Head(name="a", task=pair), Head(name="b", task=pair)))
    assert both.fields == ("text", "pair") and both.examples() == pair.examples()
    with pytest.raises(ValidationError, match="reads other texts"):
        Several(heads=(Head(name="a", task=pair), Head(name="b", task=TOPIC)))


def test_the_same_text_has_the_same_answer_from_both_engines(tmp_path: Path) -> None:
    publish_tiny(tmp_path / "heads", task=TASK)
    engines = [load_engine(tmp_path / "heads", variant) for variant in ("torch", "onnx")]
    settled = [engine.settled(texts_as_items(TEXTS)) for engine in engines]
    assert TASK.distance(*settled).max() < 1e-5 and TASK.same(*settled).all()
    model = local_model(tmp_path / "heads", "heads", "onnx")
    with serving({"heads": model}, model) as url:
        reply = requests.post(f"{url}/v1/predict", json={"inputs": TEXTS, "标签": {"top_k": 1}}, timeout=30).json()
        expected = TASK.answers(settled[1], [])
        assert [one["topic"]["label"] for one in reply["answers"]] == [answer.topic.label for answer in expected]
        assert {len(one["标签"]["probabilities"]) for one in reply["answers"]} == {1}
        explained = requests.post(f"{url}/v1/explain", json={"inputs": TEXTS[0], "head": "标签"}, timeout=30).json()
        assert explained["head"] == "标签" and set(explained["whole"]) == {"label", "probability", "given"}
        paths = requests.get(f"{url}/openapi.json", timeout=30).json()["paths"]
        properties = paths["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
        assert list(properties) == ["inputs", "model", "topic", "标签"] and "top_k" in properties["标签"]["properties"]
