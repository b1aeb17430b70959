"""Tiny real things for the tests of jobs: messages in two languages, published examples and tokens, models of two layers.

examples = publish_examples(tmp_path, {"train": MESSAGES, "validation": MESSAGES[:8]})
model = tiny_classifier("bert", classes=2, vocabulary=200)
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from cluster.store.artifact import Artifact, Kind, publish
from jobs.architectures.models import READ
from jobs.core.config import Problem
from jobs.data.clean import text_key
from jobs.data.pack import document_bounds, documents_of, pack, write_rows
from jobs.data.tokenizer import Tokenizer, text_cutter, train_tokenizer
from jobs.losses.settings import Mix
from jobs.prepare import PrepareConfig, check
from jobs.tasks import CLEANING_FILE
from jobs.tasks.distilled import Distilled
from jobs.tasks.heads import load_head
from jobs.tasks.soft_labels import DIRECTORY, SUFFIX, TASK_DETAIL, packed
from jobs.tasks.supervised import Supervised, save_model
from serve.cleaning.cleaning import Cleaning
from serve.tasks.classification import Classification
from serve.tasks.protocol import Item

torch.set_num_threads(1)

LABELS = ("ham", "spam")
GOOD = ("see you at the station", "bring the keys home", "dinner is at six", "我们六点见面", "妈妈在家等你")
BAD = ("win a free prize now", "call this number to claim", "cash offer ends tonight", "恭喜您中奖了", "免费领取现金大奖")
ENDINGS = ("", "today", "please", "my friend", "please call me when you are there", "谢谢", "明天", "再见")
MESSAGES = [(f"{start} {end}".strip(), label) for end in ENDINGS for pair in zip(GOOD, BAD, strict=True)
            for start, label in zip(pair, LABELS, strict=True)]  # fmt: skip
"""80 texts of different lengths, half of each label; the first words give the label away."""
MAX_LENGTH = 24


def publish_directory(
    directory: Path, uri: Path | str, kind: Kind, step: str = "made", metrics: Mapping[str, float] | None = None, **more: Any
) -> Artifact:
    """An artifact of whatever the directory holds."""
    record = {
        "kind": kind, "step": step, "stage": "prepare", "stage_version": 1, "config": {}, "seconds": 1.0,
        "created": datetime.now(UTC), "metrics": dict(metrics or {}), **more,
    }  # fmt: skip
    return publish(directory, str(uri), record)


def publish_examples(
    root: Path,
    splits: Mapping[str, Sequence[tuple[str, str]]],
    labels: Sequence[str] = LABELS,
    cleaning: Cleaning | None = None,
) -> Artifact:
    """EXAMPLES with these (text, label) rows; without `cleaning` as older runs have left them."""
    draft = root / "examples-draft"
    for split, rows in splits.items():
        (draft / split).mkdir(parents=True)
        columns = {
            "key": [text_key(text) for text, _ in rows],
            "text": [t for t, _ in rows],
            "label": [lab for _, lab in rows],
        }
        parquet.write_table(pa.table(columns), draft / split / "rows.parquet")
    (draft / "task.json").write_text(json.dumps({"kind": "classification", "labels": list(labels)}))
    if cleaning is not None:
        (draft / CLEANING_FILE).write_text(cleaning.model_dump_json())
    return publish_directory(draft, root / "examples", Kind.EXAMPLES)


def publish_predictions(root: Path, logits: Mapping[str, Sequence[float]], labels: Sequence[str] = LABELS) -> Artifact:
    """PREDICTIONS: the logits of each text, for these labels."""
    draft = root / "predictions-draft"
    (draft / DIRECTORY).mkdir(parents=True)
    logits_NC = np.array(list(logits.values()), dtype=np.float32)
    task = classification(labels)
    content, _ = packed(task, [text_key(text) for text in logits], logits_NC)
    (draft / DIRECTORY / f"rows{SUFFIX}").write_bytes(content)
    return publish_directory(
        draft, root / "predictions", Kind.PREDICTIONS, details={TASK_DETAIL: task.model_dump(mode="json")}
    )


def classification(labels: Sequence[str] = LABELS) -> Classification:
    """The task of telling these labels apart."""
    return Classification(labels=tuple(labels))


def supervised(
    examples: Artifact,
    tokenizer: PreTrainedTokenizerBase,
    labels: Sequence[str] = LABELS,
    max_length: int = MAX_LENGTH,
    unlabelled: bool = False,
    **loss: Any,
) -> Supervised:
    """The objective of fine-tuning on these examples; `loss` are settings such as label_smoothing."""
    return Supervised(examples, tokenizer, classification(labels), max_length, READ, loss, unlabelled)


def distilled(
    examples: Artifact,
    tokenizer: PreTrainedTokenizerBase,
    teachers: Sequence[Artifact],
    mix: Mix,
    weights: Sequence[float] | None = None,
) -> Distilled:
    """The objective of distilling these teachers."""
    return Distilled(supervised(examples, tokenizer, unlabelled=True), teachers, mix, weights)


def save_classifier(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], directory: Path, **more: Any
) -> dict[str, float]:
    """A MODEL directory as fine-tuning leaves it."""
    return save_model(model, tokenizer, classification(labels), MAX_LENGTH, directory, READ, **more)


def publish_classifier(root: Path, tokenizer: PreTrainedTokenizerBase, **more: Any) -> Artifact:
    """A tiny MODEL of the messages' task, as fine-tuning publishes it."""
    save_classifier(tiny_classifier("bert", 2, len(tokenizer)), tokenizer, LABELS, root / "model-draft", **more)
    return publish_directory(root / "model-draft", root / "model", Kind.MODEL)


def load_classifier(
    origin: str | Artifact, labels: Sequence[str] = LABELS, dropout: float | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model with a head for these labels, and its tokenizer."""
    return load_head(origin, classification(labels), dropout)


def source_problems(source: Any, task: Mapping[str, Any] | None, **more: Any) -> list[Problem]:
    """What prepare finds wrong with a source, as rows of a task or, without one, as text to pretrain on."""
    made: dict[str, Any] = {"task": task} if task is not None else {"tokenizer": {"train": "wordpiece"}}
    return check(PrepareConfig.model_validate({"source": source, **made, **more}))


def items_of(texts: Sequence[str]) -> list[Item]:
    """Items of one text each."""
    return [Item((text,)) for text in texts]


def publish_tokens(root: Path, tokenizer: PreTrainedTokenizerBase, length: int = 16) -> Artifact:
    """TOKENS of all messages, packed; validation has a quarter of them."""
    draft = root / "tokens-draft"
    tokenizer.save_pretrained(draft / "tokenizer")
    texts = [text for text, _ in MESSAGES]
    bounds = document_bounds(tokenizer)
    for split, part in (("train", texts), ("validation", texts[::4])):
        rows_NT = pack(documents_of(part, text_cutter(tokenizer), bounds), length, bounds.pad, len(tokenizer))
        write_rows(rows_NT, str(draft), split)
    details = {"max_length": length, "segments": "packed", "bounds": bounds.details()}
    return publish_directory(draft, root / "tokens", Kind.TOKENS, details=details)


def tiny_tokenizer(directory: Path, train: Any = "wordpiece") -> PreTrainedTokenizerBase:
    """A tokenizer of 200 tokens (with all bytes 400), trained on the messages."""
    settings = Tokenizer(train=train, vocab_size=400 if train == "bpe" else 200)
    train_tokenizer(settings, [text for text, _ in MESSAGES], MAX_LENGTH, directory)
    return AutoTokenizer.from_pretrained(directory)


def tiny_classifier(architecture: str, classes: int, vocabulary: int, dropout: float = 0.0, seed: int = 0) -> PreTrainedModel:
    """Two layers of 32 units with random weights, wide enough that answers differ between texts."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "vocab_size": vocabulary, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64, "max_position_embeddings": 64, "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout, "initializer_range": 0.2, "num_labels": classes, "pad_token_id": 0,
    }  # fmt: skip
    if architecture == "electra":
        sizes["embedding_size"] = 32
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(architecture, **sizes)).eval()


def random_ids(batch: int, length: int, vocabulary: int, seed: int = 0) -> torch.Tensor:
    """ids_BT without special tokens."""
    numbers = np.random.default_rng(seed).integers(5, vocabulary, (batch, length))
    return torch.from_numpy(numbers)


def same_weights(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> float:
    """The largest difference between two models' weights; they must have the same names."""
    assert left.keys() == right.keys()
    return max(float((left[name].double() - right[name].double()).abs().max()) for name in left)
