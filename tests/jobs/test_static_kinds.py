"""Static students of every kind whose model gives a row of numbers for a text, of pairs too, in English and Chinese; one asked
over HTTP.

pytest tests/jobs/test_static_kinds.py
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import requests
import torch

from cluster.store.artifact import Artifact, Kind
from jobs.core.stage import Inputs
from jobs.data.clean import item_key
from jobs.distill import DistillConfig, build
from jobs.tasks import learning_of
from jobs.tasks.soft_labels import DIRECTORY, SUFFIX, TASK_DETAIL, packed
from jobs.training.loop import fit
from serve.engines.engine import load_engine
from serve.tasks.protocol import Item, Task
from tests.jobs.tiny import publish_directory
from tests.jobs.training_runs import Recorded
from tests.serve.faces import local_model, serving

PRAISE = {"superb": 2, "pleasant": 1, "ordinary": 0, "noisy": -1, "filthy": -2}
THINGS = ("the room", "our table", "the lobby", "that pool", "the garden")
POINTS = {"非常满意": 2, "味道不错": 1, "还可以吧": 0, "有点失望": -1, "再也不来": -2}
ASIDES = ("昨天去的", "和朋友一起", "离家很近", "第一次点")
TOPICS = {"sport": "match goal referee", "money": "loan bank interest", "food": "soup bread oven"}
ROWS = 240
Columns = dict[str, list[Any]]


def stays() -> Columns:
    draw, made = random.Random(0), []
    for _ in range(ROWS):
        words = draw.choices(list(PRAISE), k=2)
        texts = [f"{draw.choice(THINGS)} was {word}" for word in words]
        made.append((*texts, 30 + 5.0 * sum(PRAISE[word] for word in words)))
    return named(("text", "pair", "points"), made)


def meals() -> Columns:
    draw, made = random.Random(1), []
    for _ in range(ROWS):
        says = draw.choice(list(POINTS))
        grade = "差" if POINTS[says] < 0 else "好" if POINTS[says] > 0 else "中"
        made.append((f"{draw.choice(ASIDES)}，{says}", grade))
    return named(("text", "grade"), made)


def topics() -> Columns:
    draw, made = random.Random(2), []
    for _ in range(ROWS):
        there = draw.sample(list(TOPICS), k=draw.choice((1, 2)))
        words = [draw.choice(TOPICS[topic].split()) for topic in there for _ in range(2)]
        draw.shuffle(words)
        made.append((" ".join(words), sorted(there), "yes" if "money" in there else "no"))
    return named(("text", "topics", "paid"), made)


def named(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Columns:
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


CASES: dict[str, tuple[Columns, dict[str, Any], str, float]] = {
    "regression of pairs": (stays(), {"kind": "regression", "value": "points", "pair": "pair"}, "pearson", 0.9),
    "ordinal": (meals(), {"kind": "ordinal", "label": "grade", "order": ["差", "中", "好"]}, "accuracy", 0.9),
    "multi_label": (topics(), {"kind": "multi_label", "labels": "topics"}, "micro_f1", 0.9),
    "classification": (meals(), {"kind": "classification", "label": "grade"}, "macro_f1", 0.9),
    "several": (
        topics(),
        {
            "kind": "several",
            "heads": {
                "about": {"kind": "multi_label", "labels": "topics"},
                "paid": {"kind": "classification", "label": "paid"},
            },
        },
        "paid.macro_f1",
        0.9,
    ),
}


def publish_rows(root: Path, columns: Columns, task: Mapping[str, Any]) -> tuple[Artifact, Artifact, Task]:
    """EXAMPLES, PREDICTIONS of a teacher that says nothing, and the task."""
    learning = learning_of(task["kind"])
    settings = learning.Settings.model_validate(task)
    wanted = learning.targets(settings, pd.DataFrame(columns)).columns
    spec = learning.spec(settings, {"train": learning.statistics(settings, wanted)})
    texts = {name: columns[name] for name in spec.fields}
    keys = [item_key(row) for row in zip(*texts.values(), strict=True)]
    kinds = learning.types(settings)
    table = pa.table({"key": keys, **texts, **{name: pa.array(wanted[name], kind) for name, kind in kinds.items()}})
    draft = root / "draft"
    for split, rows in {"train": table[: ROWS * 3 // 4], "validation": table[ROWS * 3 // 4 :]}.items():
        (draft / split).mkdir(parents=True)
        parquet.write_table(rows, draft / split / "rows.parquet")
    (draft / "task.json").write_text(spec.model_dump_json())
    outputs = spec.width or sum(columns for _, columns in spec.graph_parts)
    (root / "soft" / DIRECTORY).mkdir(parents=True)
    content, _ = packed(spec, list(dict.fromkeys(keys)), np.zeros((len(set(keys)), outputs), np.float32))
    (root / "soft" / DIRECTORY / f"rows{SUFFIX}").write_bytes(content)
    soft = publish_directory(
        root / "soft", root / "predictions", Kind.PREDICTIONS, details={TASK_DETAIL: json.loads(spec.model_dump_json())}
    )
    return publish_directory(draft, root / "examples", Kind.EXAMPLES), soft, spec


@dataclass(frozen=True)
class Made:
    """A published static student."""

    directory: Path
    spec: Task
    items: Sequence[Item]
    outputs: np.ndarray
    metrics: Mapping[str, float]
    score: str
    least: float


@pytest.fixture(scope="module", params=list(CASES))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    columns, task, score, least = CASES[request.param]
    root = tmp_path_factory.mktemp("kind")
    examples, soft, spec = publish_rows(root, columns, task)
    student = {"kind": "static", "features": "words", "dimension": 32, "hidden": 32}
    config = DistillConfig.model_validate(
        {"student": student, "alpha": 0.0, "epochs": 30, "batch_size": 32, "precision": "fp32"}
        | {"optimizer": {"learning_rate": 1e-2}}
    )
    torch.manual_seed(0)
    model, learner = build(config, Inputs({"examples": [examples], "teacher": [soft]}))
    fitted = fit(model, learner, config, Recorded())
    directory = root / "model"
    directory.mkdir()
    learner.save(model, directory)
    task_objective: Any = learner.inner  # type: ignore[attr-defined]
    windows = task_objective.validation
    with torch.inference_mode():
        said = task_objective.forward(model, windows.batch(np.arange(len(windows.items)), task_objective.inputs))
    return Made(directory, spec, windows.items, said.numpy(), fitted.metrics, score, least)


def test_it_learns_and_every_table_says_so(made: Made) -> None:
    assert made.metrics[made.score] > made.least
    for name, allowed in {"numpy": 1e-5, "fp16": 1e-2, "int8": 0.2, "int4": 3.0}.items():
        outputs = np.asarray(load_engine(made.directory, name).outputs(made.items))
        assert np.abs(outputs - made.outputs).max() <= allowed * max(1.0, np.abs(made.outputs).max())


@pytest.mark.parametrize("text", ["", " \n", "ΩΨ ᚠᚱ", "🙂", "a" * 20_000])
def test_texts_without_a_known_word_are_answered(made: Made, text: str) -> None:
    engine = load_engine(made.directory, "int8")
    item = Item((text,) * len(made.spec.fields))
    (answer,) = engine.answers([item])
    assert answer is not None
    assert made.spec.wrong_output(np.asarray(engine.outputs([item]))[0]) is None


def test_it_is_asked_over_http(made: Made) -> None:
    texts = [made.spec.as_input(item) for item in made.items[:2]]
    model = local_model(made.directory, "static", "int8")
    with serving({"static": model}, model) as url:
        answers = requests.post(f"{url}/v1/predict", json={"inputs": texts}, timeout=30)
        assert answers.status_code == 200, answers.text
        assert len(answers.json()["answers"]) == 2
        vectors = requests.post(f"{url}/v1/embeddings", json={"inputs": texts}, timeout=30)
        assert vectors.status_code == 200, vectors.text
        lengths = [np.linalg.norm(vector) for vector in vectors.json()["embeddings"]]
        assert lengths == pytest.approx([1.0, 1.0], abs=1e-4)
