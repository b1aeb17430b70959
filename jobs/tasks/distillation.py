"""Distilling a classifier: the labels' cross-entropy mixed with the soft labels of one teacher or several, made beforehand.

    objective = DistilledClassification(examples, tokenizer, labels, 128, [soft], Mix(temperature=4))

Texts without a label teach too: the teachers have answered for them.

B batch, C classes, K teachers, N examples.
"""

from collections.abc import Sequence
from functools import partial
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from cluster.artifact import Artifact
from jobs.core.config import BadInput, Problem
from jobs.losses.answers import (
    forward_kl,
    jensen_shannon,
    logit_mse,
    mixture,
    reverse_kl,
    skewed_kl,
    symmetric_kl,
    with_labels,
)
from jobs.losses.other_answers import AnswerLoss
from jobs.losses.settings import Mix, annealed
from jobs.tasks.classification import Classification
from jobs.training.objective import Batch

ANSWER_LOSSES: dict[str, AnswerLoss] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "symmetric_kl": symmetric_kl,
    "skewed_kl": skewed_kl,
    "jensen_shannon": jensen_shannon,
    "mse": logit_mse,
}


class DistilledClassification(Classification):
    """loss = alpha · loss of the answers + (1 − alpha) · cross-entropy (Hinton et al. 2015)."""

    unlabelled = True

    def __init__(
        self,
        examples: Artifact,
        tokenizer: PreTrainedTokenizerBase,
        labels: Sequence[str],
        max_length: int,
        teachers: Sequence[Artifact],
        mix: Mix,
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(examples, tokenizer, labels, max_length)
        self.mix, self.steps = mix, 1
        self.weights_K = _shares(weights, len(teachers))
        answers = [_aligned(teacher, self.train.keys, labels) for teacher in teachers]
        self.teachers_NKC = torch.from_numpy(np.stack(answers, axis=1))
        found = ANSWER_LOSSES[mix.loss]
        self.compare = cast(AnswerLoss, partial(skewed_kl, skew=mix.skew)) if mix.loss == "skewed_kl" else found

    def begin(self, steps: int) -> None:
        """What moves over the run ends at its last step."""
        self.steps = steps

    def progress(self, step: int) -> float:
        """How far the run is, 0 at its first step and 1 at its last."""
        return step / (self.steps - 1) if self.steps > 1 else 0.0

    def batch(self, indices: np.ndarray, seed: int, step: int) -> Batch:
        """The examples with the teachers' logits beside them, and the step's temperature and alpha beside each."""
        mix, progress = self.mix, self.progress(step)
        now = {
            "temperature": annealed(mix.temperature, mix.temperature_end, mix.annealing, progress),
            "alpha": annealed(mix.alpha, mix.alpha_end, mix.annealing, progress),
        }
        beside = {key: torch.full((len(indices),), value) for key, value in now.items()}
        return {**super().batch(indices, seed, step), **beside, "teacher": self.teachers_NKC[torch.from_numpy(indices)]}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mixed loss, summed over the batch."""
        return self.of_answers(model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits, batch)

    def of_answers(self, logits_BC: Tensor, batch: Batch) -> Tensor:
        """The mixed loss of the student's answers."""
        temperature, alpha = batch["temperature"][0], batch["alpha"][0]
        soft = self.compare(logits_BC, self._target(batch["teacher"], temperature), temperature)
        return with_labels(soft, logits_BC, batch["labels"], alpha)

    def _target(self, teachers_BKC: Tensor, temperature: Tensor) -> Tensor:
        """The logits_BC that the student is to come to."""
        if teachers_BKC.shape[1] == 1:
            return teachers_BKC[:, 0]
        weights_K = self.weights_K.to(teachers_BKC.device)
        if self.mix.loss == "mse":
            return (teachers_BKC * weights_K[:, None]).sum(1)
        return mixture(teachers_BKC, weights_K, temperature)


def _shares(weights: Sequence[float] | None, teachers: int) -> Tensor:
    """The teachers' weights, together 1; BadInput unless there is one for each."""
    if weights is None:
        return torch.full((teachers,), 1 / teachers)
    if len(weights) != teachers:
        reason = f"{len(weights)} weights for {teachers} teachers in inputs.teacher"
        raise BadInput([Problem("teacher_weights", list(weights), reason, "Give one for each, in their order.")])
    return torch.tensor(weights) / sum(weights)


def _aligned(predictions: Artifact, keys: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """logits_NC of the examples with these keys; BadInput if the teacher did not answer for one of them."""
    paths = predictions.files("logits/", ".parquet")
    directory = predictions.local(paths)
    tables = [parquet.read_table(directory / path) for path in paths]
    places = {key: place for place, key in enumerate(key for table in tables for key in table["key"].to_pylist())}
    missing = [key for key in keys if key not in places]
    if missing:
        reason = f"{len(missing)} of {len(keys)} training examples have no soft label, the first is {missing[0]}"
        raise BadInput([Problem("inputs.teacher", predictions.uri, reason, "Predict over the same examples.")])
    logits_NC = np.concatenate([_logits(table) for table in tables])
    known, remedy = predictions.manifest.details.get("labels"), "Use a teacher of the same task."
    if logits_NC.shape[1] != len(labels):
        reason = f"the teacher knows {logits_NC.shape[1]} labels, the examples have {len(labels)}"
        raise BadInput([Problem("inputs.teacher", predictions.uri, reason, remedy)])
    if known is not None and list(known) != list(labels):
        reason = f"the teacher's labels are {', '.join(known)}, the examples' {', '.join(labels)}"
        raise BadInput([Problem("inputs.teacher", predictions.uri, reason, remedy)])
    return logits_NC[[places[key] for key in keys]]


def _logits(table: pa.Table) -> np.ndarray:
    """logits_NC in float32, in whatever precision they are kept."""
    values = table["logits"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values.astype(np.float32).reshape(table.num_rows, -1)
