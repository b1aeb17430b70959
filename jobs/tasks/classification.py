"""Classification: one label for a text. Tokenised examples, cross-entropy, accuracy and macro-F1.

B batch, T tokens, C classes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cluster.artifact import Artifact
from jobs.calibration import calibrated
from jobs.core.config import BadInput, Problem
from jobs.data.loader import read_examples
from jobs.figures import accuracy, macro_f1
from jobs.losses.answers import UNLABELLED
from jobs.training.adapter import merged
from jobs.training.objective import Batch, Objective
from serve.card import Card, TrainingData, Variant, write_card
from serve.drift import training_data

EVALUATION_BATCH = 64


class Encoded:
    """The texts of one split as token ids, and their labels as numbers; those without a label only where asked for."""

    def __init__(
        self,
        examples: Artifact,
        split: str,
        tokenizer: PreTrainedTokenizerBase,
        labels: Sequence[str],
        max_length: int,
        unlabelled: bool = False,
    ) -> None:
        table = read_examples(examples, split)
        if not unlabelled:
            table = table.filter(pc.is_valid(table["label"]))
        self.keys: list[str] = table["key"].to_pylist()
        numbers: dict[str | None, int] = {None: UNLABELLED}
        numbers |= {label: number for number, label in enumerate(labels)}
        self.labels = np.array([numbers[label] for label in table["label"].to_pylist()], dtype=np.int64)
        texts = table["text"].to_pylist()
        encoded = tokenizer(texts, truncation=True, max_length=max_length) if texts else {"input_ids": []}
        self.ids: list[list[int]] = encoded["input_ids"]
        self.lengths = [len(ids) for ids in self.ids]
        self.pad = int(tokenizer.pad_token_id)

    def batch(self, indices: np.ndarray) -> Batch:
        """input_ids_BT and attention_mask_BT padded to the longest, labels_B."""
        longest = max(self.lengths[index] for index in indices)
        ids_BT = torch.full((len(indices), longest), self.pad)
        mask_BT = torch.zeros((len(indices), longest), dtype=torch.long)
        for row, index in enumerate(indices):
            length = self.lengths[index]
            ids_BT[row, :length] = torch.tensor(self.ids[index])
            mask_BT[row, :length] = 1
        return {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": torch.from_numpy(self.labels[indices])}


class Classification(Objective):
    """The objective of fine-tuning a classifier; distillation extends it with the teacher's answers."""

    score = "macro_f1"
    mode = "max"
    measures: Mapping[str, str] = MappingProxyType({"macro_f1": "max", "accuracy": "max", "validation_loss": "min"})
    unlabelled = False
    """Whether texts without a label train too."""

    def __init__(
        self,
        examples: Artifact,
        tokenizer: PreTrainedTokenizerBase,
        labels: Sequence[str],
        max_length: int,
        label_smoothing: float = 0.0,
        class_weights: Literal["balanced"] | Mapping[str, float] | None = None,
    ) -> None:
        self.tokenizer, self.names, self.max_length = tokenizer, tuple(labels), max_length
        self.train = Encoded(examples, "train", tokenizer, labels, max_length, self.unlabelled)
        self.validation = Encoded(examples, "validation", tokenizer, labels, max_length)
        self.size, self.validation_size = len(self.train.ids), len(self.validation.ids)
        self.lengths: Sequence[int] | None = self.train.lengths
        self.label_smoothing = label_smoothing
        self.weights_C = _weights(class_weights, labels, self.train.labels)

    def batch(self, indices: np.ndarray, seed: int, step: int) -> Batch:
        """The training examples with these numbers; nothing is random."""
        return self.train.batch(indices)

    def count(self, batch: Batch) -> float:
        """One target an example, or the weight of its label."""
        return len(batch["labels"]) if self.weights_C is None else float(self.weights_C[batch["labels"]].sum())

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy, summed over the batch."""
        logits_BC = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        weights_C = None if self.weights_C is None else self.weights_C.to(logits_BC.device)
        return functional.cross_entropy(
            logits_BC.float(), batch["labels"], weights_C, reduction="sum", label_smoothing=self.label_smoothing
        )

    def evaluate(self, model: nn.Module, indices: np.ndarray, device: torch.device) -> Any:
        """The logits and labels of the validation examples with these numbers."""
        by_length = sorted(indices, key=lambda index: self.validation.lengths[index])
        logits, labels = [], []
        for start in range(0, len(by_length), EVALUATION_BATCH):
            batch = self.validation.batch(np.array(by_length[start : start + EVALUATION_BATCH]))
            inputs = {key: batch[key].to(device) for key in ("input_ids", "attention_mask")}
            logits.append(model(**inputs).logits.float().cpu().numpy())
            labels.append(batch["labels"].numpy())
        if not logits:
            return np.zeros((0, len(self.names)), dtype=np.float32), np.zeros(0, dtype=np.int64)
        return np.concatenate(logits), np.concatenate(labels)

    def measure(self, parts: Sequence[Any]) -> dict[str, float]:
        """macro_f1, accuracy and the mean cross-entropy."""
        logits_BC = np.concatenate([part[0] for part in parts])
        labels_B = np.concatenate([part[1] for part in parts])
        loss = functional.cross_entropy(torch.from_numpy(logits_BC), torch.from_numpy(labels_B))
        return {**scores(logits_BC.argmax(-1), labels_B), "validation_loss": float(loss)}

    def save(self, model: nn.Module, directory: Path) -> dict[str, float]:
        """Write weights, config, tokenizer and card."""
        stock = merged(model)
        assert isinstance(stock, PreTrainedModel)
        labelled = self.train.labels >= 0
        training = None
        if labelled.any():
            training = training_data([self.names[number] for number in self.train.labels[labelled]], self.train.lengths)
        temperature, figures = self._calibrated(stock)
        rest = (self.tokenizer, self.names, self.max_length, directory, temperature, training)
        return figures | save_classifier(stock, *rest)

    def _calibrated(self, model: PreTrainedModel) -> tuple[float, dict[str, float]]:
        """The temperature at which its probabilities hold on the validation split, and figures of that."""
        if not self.validation_size:
            return 1.0, {}
        training = model.training
        model.float().eval()
        with torch.inference_mode():
            logits_BC, labels_B = self.evaluate(model, np.arange(self.validation_size), model.device)
        model.train(training)
        return calibrated(logits_BC, labels_B)


def _weights(
    asked: Literal["balanced"] | Mapping[str, float] | None, labels: Sequence[str], train_N: np.ndarray
) -> Tensor | None:
    if asked is None:
        return None
    if asked == "balanced":
        counts_C = np.bincount(train_N, minlength=len(labels))
        return torch.from_numpy(len(train_N) / (len(labels) * counts_C)).float()
    unknown = sorted(set(asked) - set(labels))
    if unknown:
        raise BadInput([Problem(f"class_weights.{unknown[0]}", None, "no such label", f"Labels: {', '.join(labels)}.")])
    return torch.tensor([asked.get(label, 1.0) for label in labels])


def scores(predicted_B: np.ndarray, labels_B: np.ndarray) -> dict[str, float]:
    """Macro-F1 and accuracy."""
    return {"macro_f1": macro_f1(labels_B, predicted_B), "accuracy": accuracy(labels_B, predicted_B)}


def save_classifier(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    labels: Sequence[str],
    max_length: int,
    directory: Path,
    temperature: float = 1.0,
    training: TrainingData | None = None,
) -> dict[str, float]:
    """Write a MODEL directory that stock `from_pretrained` loads; returns its number of parameters."""
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: number for number, label in enumerate(labels)}
    model.float().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    parameters = sum(weight.numel() for weight in model.parameters())
    variants = {"torch": Variant(backend="torch", file="model.safetensors", precision="fp32", temperature=temperature)}
    card = Card(
        task="classification",
        labels=tuple(labels),
        max_length=max_length,
        variants=variants,
        default="torch",
        parameters=parameters,
        training=training,
    )
    write_card(directory, card)
    return {"parameters": float(parameters)}
