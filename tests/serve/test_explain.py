"""Attribution: how texts are split, what is left out, and that the route answers for every variant."""

from pathlib import Path

import numpy as np
import pytest
import requests

from jobs.compression.quantize import quantize_dynamic_int8
from serve.engines.card import Variant, read_card, write_card
from serve.engines.engine import load_engine
from serve.tasks.classification import Classification
from serve.tasks.shared.explain import MOST_SPANS, Span, split, without
from serve.tasks.shared.labels import LabelEvidence, Target
from serve.tasks.shared.probabilities import softmax
from tests.serve.tiny_model import LABELS, publish_tiny, texts_as_items


def words(text: str) -> list[str]:
    return [text[span.start : span.end] for span in split(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't miss £1,000 now-or-never!!!", ["Don't", "miss", "£", "1,000", "now-or-never", "!!!"]),
        ("这部电影很好看，OK?", ["这", "部", "电", "影", "很", "好", "看", "，", "OK", "?"]),
        ("ひらがな 漢字", ["ひ", "ら", "が", "な", "漢", "字"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("cafe\u0301 👩\u200d👧 hi", ["cafe\u0301", "👩\u200d👧", "hi"]),
        ("1.5 a. b", ["1.5", "a", ".", "b"]),
        (" \n ", []),
    ],
)
def test_texts_are_split_into_words_and_characters(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_a_long_text_is_split_into_runs_that_cover_it() -> None:
    text = " ".join(f"word{number}" for number in range(1_000))
    spans = split(text)
    assert len(spans) <= MOST_SPANS
    assert " ".join(text[span.start : span.end] for span in spans) == text


def test_a_word_is_left_out_with_one_of_its_spaces() -> None:
    assert without("a b c", split("a b c")) == ["b c", "a c", "a b "]
    assert without("很好", split("很好")) == ["好", "很"]
    assert without(" one ", [Span(1, 4)]) == ["."]


def test_evidence_is_the_fall_of_the_log_odds() -> None:
    logits_NC = np.array([[2.0, 0.0], [0.0, 0.0], [3.0, 0.0], [2000.0, 0.0]], dtype=np.float32)
    found = Classification(labels=("spam", "ham")).evidence(logits_NC, [], Target(label="spam")).parts
    # Of two classes the log-odds are the difference of the logits.
    assert [one.attribution for one in found[:2]] == pytest.approx([2.0, -1.0], abs=1e-6)
    assert isinstance(found[0], LabelEvidence) and found[0].probability_without == pytest.approx(0.5)
    assert np.isfinite(found[2].attribution)


@pytest.fixture(scope="module")
def with_int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("explained") / "tiny"
    publish_tiny(directory)
    quantize_dynamic_int8(directory / "onnx" / "model.onnx", directory / "onnx" / "model.int8.onnx")
    card = read_card(directory)
    # Run alone: dynamic int8 scales its activations over a batch, so numbers would move with what a text is run with.
    int8 = Variant(backend="onnx", file="onnx/model.int8.onnx", precision="int8", batching="alone")
    write_card(directory, card.model_copy(update={"variants": {**card.variants, "int8": int8}}))
    return directory


@pytest.mark.parametrize("variant", ["torch", "onnx", "int8"])
def test_the_route_says_what_each_word_changes_for_every_variant(with_int8: Path, variant: str) -> None:
    from tests.serve.faces import local_model, serving

    model, text = local_model(with_int8, "tiny", variant), "Win a prize 🙂 这部"
    with serving({"tiny": model}, model) as url:
        reply = requests.post(f"{url}/v1/explain", json={"inputs": text}, timeout=30).json()
        spam = requests.post(f"{url}/v1/explain", json={"inputs": text, "label": "spam"}, timeout=30).json()
        wrong = requests.post(f"{url}/v1/explain", json={"inputs": text, "label": "no"}, timeout=30)
        blank = requests.post(f"{url}/v1/explain", json={"inputs": " "}, timeout=30)
        openapi = requests.get(f"{url}/openapi.json", timeout=30).json()
    assert [word["text"] for word in reply["words"]] == ["Win", "a", "prize", "🙂", "这", "部"]
    assert all(text[word["start"] : word["end"]] == word["text"] for word in reply["words"])
    engine = load_engine(with_int8, variant)
    expected = softmax(np.asarray(engine.outputs(texts_as_items([text, "a prize 🙂 这部"]))))
    column = LABELS.index("spam")
    assert spam["probability"] == pytest.approx(expected[0, column], abs=1e-4)
    assert spam["words"][0]["probability_without"] == pytest.approx(expected[1, column], abs=1e-4)
    assert reply["model"]["variant"] == variant
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "label")
    assert (blank.status_code, blank.json()["errors"][0]["field"]) == (422, "inputs")
    assert openapi["paths"]["/v1/explain"]["post"]["responses"]["200"]["content"]["application/json"]["example"]["words"]
