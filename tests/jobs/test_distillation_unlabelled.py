"""Texts without a label, from the file to the student: prepared, answered for by the teacher, learned from.

pytest tests/jobs/test_distillation_unlabelled.py      # Ray Data on two CPUs
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from cluster.connection.connect import Cluster
from cluster.store.artifact import Artifact, Kind, publish
from jobs import predict, prepare
from jobs.core.config import BadInput, Problem
from jobs.core.stage import Context, Inputs, Outcome, Resources, Stage
from jobs.data.clean import text_key
from jobs.data.training_rows import read_examples
from jobs.losses.settings import Mix
from jobs.tasks.distilled import Distilled
from jobs.tasks.soft_labels import SoftLabels
from jobs.tasks.supervised import Supervised
from serve.engines.engine import load_engine
from serve.tasks.protocol import Item
from tests.jobs.pairs import PAIR_TASK, PAIRS, publish_pair_model, publish_pairs
from tests.jobs.tiny import (
    LABELS,
    MAX_LENGTH,
    MESSAGES,
    classification,
    distilled,
    publish_classifier,
    publish_directory,
    publish_examples,
    supervised,
)

TASK = classification().model_dump(mode="json")
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

    model = publish_classifier(tmp_path, tokenizer)
    soft, answered = made(predict.STAGE, {"precision": "fp32"}, Inputs(model=[model], examples=[examples]), tmp_path)
    assert answered.metrics["rows"] == len(train) + len(validation) and 0 < answered.metrics["lost_in_half"] < 1e-3
    assert answered.details == {"task": TASK}
    wanted = np.asarray(load_engine(model.local()).outputs([Item((text,)) for text in train]))
    said = SoftLabels(soft, read_examples(examples, "train")["key"].to_pylist(), classification())
    found = np.array([said[place] for place in range(len(train))])
    assert found.dtype == np.float32 and (found == found.astype(np.float16)).all(), "kept in half precision"
    assert np.abs(found - wanted).max() < 0.01 and np.abs(wanted).max() > 0.1

    student = distilled(examples, tokenizer, [soft], Mix(alpha=0.4))
    assert student.size == len(train) and supervised(examples, tokenizer).size == len(train) - 3
    batch = student.batch(np.arange(student.size), 0, 0)
    assert int((batch["labels"] == -100).sum()) == 3
    assert math.isfinite(float(student.of_answers(torch.zeros(student.size, 2), batch)))
    with pytest.raises(BadInput, match=r"splits = \['test'\].*has no rows in these splits"):
        predict.run(
            predict.PredictConfig(splits=("test",)), Inputs(model=[model], examples=[examples]), Context("", "", "", "", "")
        )


def test_blocks_hang_on_the_numbers_of_rows_alone() -> None:
    blocks = predict.blocks_of({"a": 700, "b": 0, "c": 400})
    assert [block.parts for block in blocks] == [(("a", 0, 512),), (("a", 512, 188), ("c", 0, 324)), (("c", 324, 76),)]
    many = predict.blocks_of({"a": 1_000_000, "b": 3})
    assert len(many) == predict.BLOCKS and sum(count for block in many for _, _, count in block.parts) == 1_000_003
    assert max(count for block in predict.blocks_of({"a": 10**8}) for _, _, count in block.parts) == predict.MOST_ROWS


def test_the_same_is_said_by_one_worker_and_by_three(
    ray_driver: Cluster, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of pairs: the files, and with them what the step is to those that learn from it, do not hang on how many wrote them."""
    monkeypatch.setattr(predict, "FEWEST_ROWS", 16)
    model = publish_pair_model(tmp_path, tokenizer)
    examples = publish_pairs(tmp_path, {"train": PAIRS[:100], "validation": PAIRS[100:]})
    made_by = {workers: answered_by(workers, model, examples, tmp_path) for workers in (1, 3)}
    assert made_by[1].fingerprint == made_by[3].fingerprint
    assert len(made_by[1].files("soft/", ".arrow")) == 10, "blocks of 16 rows"
    keys = read_examples(examples, "train")["key"].to_pylist()
    said = SoftLabels(made_by[3], keys, PAIR_TASK)
    wanted = np.asarray(load_engine(model.local()).outputs([Item(pair[:2]) for pair in PAIRS[:100]]))
    assert np.abs(np.array([said[place] for place in range(100)]) - wanted).max() < 0.01 < np.abs(wanted).max()
    turned = np.asarray(load_engine(model.local()).outputs([Item((other, text)) for text, other, _ in PAIRS[:100]]))
    assert np.abs(turned - wanted).max() > 0.1, "which text comes first makes a difference"
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    student = Distilled(Supervised(examples, tokenizer, PAIR_TASK, MAX_LENGTH, inputs, unlabelled=True), [made_by[1]], Mix())
    batch = student.batch(np.arange(8), 0, 0)
    assert batch["teacher"].shape == (8, 1, 2) and set(batch["token_type_ids"].unique().tolist()) == {0, 1}


def answered_by(workers: int, model: Artifact, examples: Artifact, root: Path) -> Artifact:
    context = Context(
        str(root), "tiny", "soft", str(root / f"soft-{workers}"), "a", resources=Resources(cpus=0.3, workers=workers)
    )
    outcome = predict.run(
        predict.PredictConfig(batch_size=8, precision="fp32"), Inputs(model=[model], examples=[examples]), context
    )
    assert outcome.metrics["rows"] == len(PAIRS)
    (root / f"record-{workers}").mkdir()
    record = publish_directory(
        root / f"record-{workers}", root / f"other-{workers}", Kind.PREDICTIONS, details=dict(outcome.details)
    )
    return publish(root / f"record-{workers}", context.output, record.manifest.model_dump(exclude={"files"}), outcome.files)


def test_what_the_model_does_not_answer_for_is_refused_before_anything_runs(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    asked, context = predict.PredictConfig(), Context("", "", "", "", "")
    model, pairs = publish_classifier(tmp_path, tokenizer), publish_pairs(tmp_path, {"train": PAIRS[:4]})
    with pytest.raises(BadInput, match=r"inputs.model = 'made': it reads text, and the examples have text and pair"):
        predict.run(asked, Inputs(model=[model], examples=[pairs]), context)
    others = publish_examples(tmp_path, {"train": [("a", "yes"), ("b", "no")]}, ("no", "yes"))
    with pytest.raises(BadInput, match=r"inputs.model = 'made': only one of them has the label 'ham'"):
        predict.run(asked, Inputs(model=[model], examples=[others]), context)


def test_answers_that_say_for_no_task_are_refused(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    examples = publish_examples(tmp_path, {"train": MESSAGES[:4], "validation": MESSAGES[:4]})
    (tmp_path / "older" / "logits").mkdir(parents=True)
    (tmp_path / "older" / "logits" / "rows.parquet").write_bytes(b"")
    older = publish_directory(tmp_path / "older", tmp_path / "soft", Kind.PREDICTIONS, details={"labels": list(LABELS)})
    with pytest.raises(BadInput, match="do not say for which task they are.*Predict over the examples again"):
        distilled(examples, tokenizer, [older], Mix())


def test_a_teacher_in_torch_answers_in_the_precision_that_is_asked_for(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model = publish_classifier(tmp_path, tokenizer)
    examples = publish_examples(tmp_path, {"train": MESSAGES})
    (file,) = examples.files("train/", ".parquet")
    blocks = predict.blocks_of({file: len(MESSAGES)})
    found = {}
    for precision in ("fp32", "bf16"):
        config = predict.PredictConfig.model_validate({"batch_size": 8, "precision": precision})
        output = tmp_path / precision
        said = predict.AnswerBlocks(model, examples, blocks, str(output), config, 1).answer(0)["path"]
        draft = publish_directory(output, tmp_path / f"{precision}-made", Kind.PREDICTIONS, details={"task": TASK})
        assert draft.files("soft/") == [said]
        soft = SoftLabels(draft, [text_key(text) for text, _ in MESSAGES], classification())
        found[precision] = np.array([soft[place] for place in range(len(MESSAGES))])
    exact = np.asarray(load_engine(model.local(), max_batch=8).outputs([Item((text,)) for text, _ in MESSAGES]))
    np.testing.assert_array_equal(found["fp32"], exact.astype(np.float16))
    apart = np.abs(found["bf16"] - found["fp32"]).max()
    assert 1e-3 < apart < 0.05, "bf16 has 8 bits: near, and not the same"


def problems(source: Any, **more: Any) -> list[Problem]:
    asked = {"source": source, "task": {"label": "label"}, **more}
    return prepare.check(prepare.PrepareConfig.model_validate(asked))


def test_unlabelled_texts_need_no_column_of_labels_and_a_task(tmp_path: Path) -> None:
    source = sources(tmp_path)
    assert problems(source) == []
    (tmp_path / "parts.csv").write_text("text,label,part\na,ham,train\nb,spam,train\nc,ham,dev\n")
    assert problems({**source, "train": str(tmp_path / "parts.csv")}, split={"by": "part"}) == []
    (problem,) = prepare.check(prepare.PrepareConfig.model_validate({"source": source, "tokenizer": {"train": "wordpiece"}}))
    assert (problem.path, problem.reason) == ("source.unlabelled", "no such split")
    (tmp_path / "more.csv").write_text("body\na text\n")
    (problem,) = problems({**source, "unlabelled": str(tmp_path / "more.csv")})
    assert (problem.path, problem.value) == ("text", "text")
