"""Pairs of texts from rows to answers over HTTP: prepared, learned, distilled, in int8, judged, asked.

Which of the two texts asks for money: the words are the same in both, so a model must know to which text they belong.
`pytest tests/jobs/test_pairs_learned.py`
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from tokenizers import processors
from transformers import AutoConfig, AutoModelForMaskedLM

from cluster.connection.connect import Cluster
from cluster.store.artifact import Artifact
from jobs.core.config import BadInput
from jobs.core.recipe import Recipe, parse_recipe
from jobs.running.execute import execute
from jobs.running.preflight import preflight
from jobs.tasks.windows import engine_tokenizer
from serve.engines.card import read_card
from serve.engines.engine import load_engine
from serve.tasks.classification import Classification
from serve.tasks.protocol import Item
from tests.jobs.tiny import BAD, ENDINGS, GOOD, tiny_tokenizer
from tests.serve.faces import local_model, serving

LABELS = ("first", "neither", "second")
LENGTH = 32
SAME = [Item(("see you", "at six")), Item(("see you at", "six"))]
"""The same words, parted otherwise."""
TRAINED = {"epochs": 12, "batch_size": 16, "evaluations": 2, "optimizer": {"learning_rate": 1e-3}, "dropout": 0.0}


def pairs(count: int, seed: int) -> list[dict[str, str]]:
    """So many pairs, each label as often as the others."""
    draw = random.Random(seed)

    def text(kind: tuple[str, ...]) -> str:
        return f"{draw.choice(kind)} {draw.choice(ENDINGS)}".strip()

    kinds = {"first": (BAD, GOOD), "neither": (GOOD, GOOD), "second": (GOOD, BAD)}
    rows = [(label, *(text(kind) for kind in kinds[label])) for number in range(count) for label in [LABELS[number % 3]]]
    return [{"label": label, "message": first, "reply": second} for label, first, second in rows]


def recipe(directory: Path, **rows: Any) -> Recipe:
    """From two columns to candidates in torch, ONNX and int8."""
    source = {name: str(directory / f"{name}.jsonl") for name in ("train", "test")}
    task = {"label": "label", "pair": "reply"}
    split = {"split": {"validation": 0.2}, "slices": ["label"]}
    model = {"model": str(directory / "base"), "max_length": LENGTH, **TRAINED}
    inputs = {"examples": "rows", "teacher": "soft"}
    steps: dict[str, Any] = {
        "rows": {"stage": "prepare", "source": source, "text": "message", "task": task, **split, **rows},
        "teacher": {"stage": "finetune", "inputs": {"examples": "rows"}, **model},
        "soft": {"stage": "predict", "inputs": {"model": "teacher", "examples": "rows"}},
        "student": {"stage": "distill", "inputs": inputs, **model, "temperature": 2},
        "small": {"stage": "compress", "inputs": {"model": "student", "examples": "rows"}, "quantize": "dynamic"},
        "judged": {"stage": "evaluate", "latency_texts": 20, "resamples": 100}
        | {"inputs": {"examples": "rows", "teacher": "teacher", "candidates": ["small"]}},
    }
    return parse_recipe({"name": "pairs", "steps": steps})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs to learn from and to be judged on, and a base that has seen no text."""
    directory = tmp_path_factory.mktemp("pairs")
    for name, rows in (("train", pairs(300, 0)), ("test", pairs(60, 1))):
        (directory / f"{name}.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    tokenizer = tiny_tokenizer(directory / "base")
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = AutoConfig.for_model("bert", vocab_size=len(tokenizer), max_position_embeddings=64, **sizes)
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(config).save_pretrained(directory / "base")
    return directory


@pytest.fixture
def made(world: Path, ray_driver: Cluster) -> Iterator[dict[str, Artifact]]:
    """All of the recipe, made."""
    yield {name: execute(recipe(world), name, str(world / "runs")) for name in recipe(world).steps}


def test_pairs_go_all_the_way(made: dict[str, Artifact]) -> None:
    """One test, for each part of it stands on the one before."""
    report = json.loads((made["judged"].local() / "report.json").read_text())
    scores = {row["candidate"]: row["score"] for row in report["rows"]}
    models = {"teacher", "small", "small:onnx", "small:int8"}
    assert models < set(scores) and min(scores.values()) > 0.9
    assert {row["candidate"] for row in report["rows"] if row.get("floor")} == set(scores) - models
    assert report["floor"]["candidate"] == "floor" and report["floor"]["verdict"] in made["judged"].manifest.details.values()
    card = read_card(made["small"].local())
    assert card.task is not None and card.task.fields == ("text", "pair")
    assert card.inputs == ("input_ids", "attention_mask", "token_type_ids"), "to which text a token belongs is told"
    items = [Item((BAD[0], GOOD[1])), Item((GOOD[1], BAD[0])), Item((GOOD[0], GOOD[2]))]
    for variant in card.variants:
        engine = load_engine(made["small"].local(), variant)
        assert [answer.label for answer in engine.answers(items)] == ["first", "second", "neither"], variant
        alone = np.concatenate([engine.outputs([item]) for item in items])
        np.testing.assert_allclose(engine.outputs(items), alone, atol=0.3 if variant == "int8" else 1e-4)
    ask_over_http(made["small"].local())


def ask_over_http(directory: Path) -> None:
    model = local_model(directory, "pairs", "onnx")
    with serving({"pairs": model}, model) as address:
        one = {"text": BAD[2], "pair": GOOD[0]}
        reply = requests.post(f"{address}/v1/predict", json={"inputs": one}, timeout=30).json()
        assert [answer["label"] for answer in reply["answers"]] == ["first"]
        several = [one, {"text": GOOD[0], "pair": BAD[2]}]
        reply = requests.post(f"{address}/v1/predict", json={"inputs": several, "top_k": 1}, timeout=30).json()
        assert [answer["label"] for answer in reply["answers"]] == ["first", "second"]
        lacking = requests.post(f"{address}/v1/predict", json={"inputs": [one, {"text": "a"}]}, timeout=30)
        assert lacking.status_code == 422 and lacking.json()["errors"][0]["field"] == "inputs.1.pair"
        explained = requests.post(f"{address}/v1/explain", json={"inputs": one, "label": "first"}, timeout=30).json()
        assert {word["field"] for word in explained["words"]} == {"text", "pair"}
        for name, place in (("text", 0), ("pair", -1)):
            word = explained["words"][place]
            assert word["field"] == name and one[name][word["start"] : word["end"]] == word["text"]
            less = {**one, name: (one[name][: word["start"]] + one[name][word["end"] :]).strip()}
            (answer,) = requests.post(f"{address}/v1/predict", json={"inputs": less}, timeout=30).json()["answers"]
            left = {each["label"]: each["probability"] for each in answer["probabilities"]}["first"]
            assert word["probability_without"] == pytest.approx(left, abs=1e-4)


def test_what_is_wrong_with_pairs_is_told_before_anything_runs(world: Path, ray_driver: Cluster, tmp_path: Path) -> None:
    """Everything at once."""
    rows = pairs(12, 2)
    rows[3]["reply"] = " "
    (tmp_path / "test.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    source = {"train": str(world / "train.jsonl"), "test": str(tmp_path / "test.jsonl")}
    broken = recipe(world, source=source, task={"label": "lable", "pair": "reply"})
    with pytest.raises(BadInput) as caught:
        preflight(broken, str(tmp_path / "runs"))
    told = [problem.path for problem in caught.value.problems]
    assert told.count("steps.rows.task.label") == 2, "in both files"
    broken = recipe(world, source=source)
    with pytest.raises(BadInput, match="row 4 of .*test.jsonl has no pair") as caught:
        preflight(broken, str(tmp_path / "runs"))
    assert [problem.path for problem in caught.value.problems] == ["steps.rows.task.pair"]


def test_a_tokenizer_that_puts_nothing_between_two_texts_is_refused(world: Path, tmp_path: Path) -> None:
    """As GPT-2's does: where one text ends and the other begins would be lost."""
    tokenizer = tiny_tokenizer(tmp_path, "bpe")
    spec = Classification(labels=LABELS, pairs=True)
    apart = [window.ids for windows in spec.encode(engine_tokenizer(tokenizer, spec, LENGTH), SAME) for window in windows]
    assert apart[0] != apart[1]
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel()
    with pytest.raises(BadInput, match="puts nothing between two texts"):
        engine_tokenizer(tokenizer, spec, LENGTH)
    assert engine_tokenizer(tokenizer, Classification(labels=LABELS), LENGTH).encode("one text").ids
