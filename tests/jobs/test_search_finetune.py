"""Population-based training of a real model: weights and learning rate as the loop has them. Two CPUs."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from cluster.connection.connect import Cluster
from cluster.store.artifact import Kind
from jobs.core.recipe import Step
from jobs.core.spaces import Tune, find_spaces
from jobs.core.stage import Context, Inputs, Resources, load_stage
from jobs.search.driver import search
from jobs.tasks import learning_of
from tests.jobs.tiny import LABELS, MAX_LENGTH, MESSAGES, publish_examples, tiny_classifier

EPOCH = 7
"""Steps between two evaluations: 58 messages in batches of 8."""
EVALUATIONS = 4


def test_a_population_of_fine_tunings(ray_driver: Cluster, tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    base = tmp_path / "base"
    tiny_classifier("bert", len(LABELS), len(tokenizer)).save_pretrained(base)
    tokenizer.save_pretrained(base)
    examples = publish_examples(tmp_path, {"train": MESSAGES[:58], "validation": MESSAGES[58:]})
    raw: dict[str, Any] = {
        "model": str(base), "optimizer": {"learning_rate": {"loguniform": [1e-6, 1e-2]}}, "epochs": EVALUATIONS,
        "schedule": {"name": "constant", "warmup": 0.0}, "batch_size": 8, "max_length": MAX_LENGTH, "precision": "fp32",
        "keep": "last", "evaluations": EVALUATIONS,
    }  # fmt: skip
    metrics = learning_of("classification").metrics
    tune = Tune(scheduler="pbt", trials=4, resample_probability=0, seed=2)
    step = Step("tuned", load_stage("finetune"), raw, find_spaces(raw), {}, tune, Resources(), metrics=metrics)
    (tmp_path / "out").mkdir()
    storage = str(tmp_path / "runs")
    context = Context(storage, "tiny", "tuned", f"{storage}/tiny/tuned-0", "a", Resources(), directory=tmp_path / "out")
    outcome = search(step, Inputs(examples=[examples]), context)

    rows = outcome.details["trials"]
    assert [row["status"] for row in rows] == ["finished"] * 4 and step.kind == Kind.MODEL
    taken = [row for row in rows if len(row["schedule"]) > 1]
    assert taken, "a weak one took over"
    for row in rows:
        made = json.loads(Path(context.scratch, "trials", row["name"], "outcome.json").read_text())
        curve = {point["step"]: point["learning_rate"] for point in made["details"]["curve"] if "learning_rate" in point}
        assert made["metrics"]["steps"] == EVALUATIONS * EPOCH == max(curve)
        for stretch in row["schedule"]:
            rate = stretch["values"]["optimizer.learning_rate"]
            steps = range(stretch["from"] * EPOCH + 1, stretch["until"] * EPOCH + 1)
            assert [curve[step] for step in steps if step in curve] == pytest.approx([rate] * sum(s in curve for s in steps))
    for row in taken:
        before, after = (row["schedule"][number]["values"]["optimizer.learning_rate"] for number in (-2, -1))
        assert min(abs(after / before - 0.8), abs(after / before - 1.2)) < 1e-6
        assert row["schedule"][0]["trial"] != row["name"]
    best = next(row for row in rows if row["name"] == outcome.details["best_trial"])
    assert outcome.details["schedule"] == best["schedule"] and outcome.metrics["macro_f1"] == best["score"]
    AutoModelForSequenceClassification.from_pretrained(context.directory)
