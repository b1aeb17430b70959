"""Texts without a label, from the file to the student: prepared, answered for by the teacher, learned from.

pytest tests/jobs/test_distillation_unlabelled.py      # Ray Data on two CPUs
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import pytest
import torch
from jobs.tasks.distillation import DistilledClassification
from transformers import PreTrainedTokenizerBase

from cluster.artifact import Artifact, Kind, publish
from cluster.connect import Cluster
from jobs import predict, prepare
from jobs.core.config import BadInput
from jobs.core.stage import Context, Inputs, Outcome, Stage
from jobs.data.clean import text_key
from jobs.data.dedup import Split
from jobs.data.loader import read_examples
from jobs.data.rows import check_source
from jobs.losses.settings import Mix
from jobs.tasks.classification import Classification, save_classifier
from serve.engine import load_engine
from tests.jobs.tiny import LABELS, MAX_LENGTH, MESSAGES, publish_directory, tiny_classifier

MORE = ["nobody said what this is", "这句话没有标签", "another text that nobody has read yet"]


def sources(root: Path) -> dict[str, str]:
    """Labelled messages, some without a label, and a plain file of texts of which two are messages too."""
    rows = [f"{text},{label}" for text, label in MESSAGES]
    (root / "rows.csv").write_text("\n".join(["text,label", *rows, "left out for want of a label,"]))
    (root / "more.txt").write_text("\n".join([*MORE, MESSAGES[0][0], MESSAGES[7][0]]))
    return {"train": str(root / "rows.csv"), "unlabelled": str(root / "more.txt")}


def made(stage: Stage, settings: dict[str, Any], inputs: Inputs, root: Path) -> tuple[Artifact, Outcome]:
    config = stage.config.model_validate(settings)
    context = Context(str(root), "tiny", stage.name, str(root / stage.name), "a", directory=root / f"{stage.name}-draft")
    context.directory.mkdir()
    outcome = stage.run(config, inputs, context)
    kind = stage.output if isinstance(stage.output, Kind) else stage.output(config)
    draft = publish_directory(context.directory, root / f"{stage.name}-record", kind, details=dict(outcome.details))
    record = draft.manifest.model_dump(exclude={"files"})
    return publish(context.directory, context.output, record, outcome.files), outcome


def test_texts_without_a_label_from_the_file_to_the_loss(
    ray_driver: Cluster, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    source = sources(tmp_path)
    settings = {"source": source, "task": {"kind": "classification"}, "split": {"validation": 0.25}}
    examples, outcome = made(prepare.STAGE, settings, Inputs(), tmp_path)
    train = {row["text"]: row["label"] for row in read_examples(examples, "train").to_pylist()}
    validation = {row["text"]: row["label"] for row in read_examples(examples, "validation").to_pylist()}
    assert {text for text, label in train.items() if label is None} == set(MORE), "what has a label somewhere keeps it"
    assert None not in validation.values() and len(validation) > 10
    assert {**train, **validation} == {**dict(MESSAGES), **dict.fromkeys(MORE)}
    assert outcome.metrics["unlabelled_rows"] == 3 and outcome.metrics["train_rows"] == len(train) - 3
    assert outcome.details["labels"]["train"].keys() == set(LABELS)

    (tmp_path / "model").mkdir()
    save_classifier(tiny_classifier("bert", 2, len(tokenizer)), tokenizer, LABELS, MAX_LENGTH, tmp_path / "model")
    model = publish_directory(tmp_path / "model", tmp_path / "teacher", Kind.MODEL)
    soft, answered = made(predict.STAGE, {"precision": "fp32"}, Inputs(model=[model], examples=[examples]), tmp_path)
    assert answered.metrics["rows"] == len(train) + len(validation) and answered.metrics["kl_lost"] < 1e-5
    assert answered.details == {"labels": list(LABELS)}
    kept = parquet.read_table([f"{soft.uri}/{path}" for path in soft.files("logits/")])
    assert str(kept["logits"].type.value_type) == "halffloat"
    wanted = load_engine(model.local()).logits(list(train))
    places = dict(zip(kept["key"].to_pylist(), kept["logits"].to_pylist(), strict=True))
    found = np.array([places[text_key(text)] for text in train], dtype=np.float32)
    assert np.abs(found - wanted).max() < 0.01 and np.abs(wanted).max() > 0.1

    student = DistilledClassification(examples, tokenizer, LABELS, MAX_LENGTH, [soft], Mix(alpha=0.4))
    assert student.size == len(train) and Classification(examples, tokenizer, LABELS, MAX_LENGTH).size == len(train) - 3
    batch = student.batch(np.arange(student.size), 0, 0)
    assert int((batch["labels"] == -100).sum()) == 3
    assert math.isfinite(float(student.of_answers(torch.zeros(student.size, 2), batch)))
    with pytest.raises(BadInput, match=r"splits = \['test'\].*has no rows in these splits"):
        predict.run(
            predict.PredictConfig(splits=("test",)), Inputs(model=[model], examples=[examples]), Context("", "", "", "", "")
        )


def test_a_teacher_in_torch_answers_in_the_precision_that_is_asked_for(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    save_classifier(tiny_classifier("bert", 2, len(tokenizer)), tokenizer, LABELS, MAX_LENGTH, tmp_path / "model")
    model = publish_directory(tmp_path / "model", tmp_path / "teacher", Kind.MODEL)
    texts = [text for text, _ in MESSAGES]
    frame = pd.DataFrame({"key": texts, "text": texts})
    found = {
        precision: np.stack(predict.Answer(model, 8, 1, precision)(frame)["logits"].tolist()) for precision in ("fp32", "bf16")
    }
    np.testing.assert_array_equal(found["fp32"], load_engine(model.local(), max_batch=8).logits(texts))
    apart = np.abs(found["bf16"] - found["fp32"]).max()
    assert 1e-5 < apart < 0.05, "bf16 has 8 bits: near, and not the same"


def test_unlabelled_texts_need_no_column_of_labels_and_a_task(tmp_path: Path) -> None:
    source = sources(tmp_path)
    assert check_source(source, {"text": "text", "task.label": "label"}, Split()) == []
    (tmp_path / "parts.csv").write_text("text,label,part\na,ham,train\nb,spam,train\nc,ham,dev\n")
    parts = {**source, "train": str(tmp_path / "parts.csv")}
    assert check_source(parts, {"text": "text", "task.label": "label"}, Split(by="part")) == []
    (problem,) = check_source(source, {"text": "text", "task.label": None}, Split())
    assert (problem.path, problem.reason) == ("source.unlabelled", "no such split")
    (tmp_path / "more.csv").write_text("body\na text\n")
    (problem,) = check_source(
        {**source, "unlabelled": str(tmp_path / "more.csv")}, {"text": "text", "task.label": "label"}, Split()
    )
    assert (problem.path, problem.value) == ("text", "text")
