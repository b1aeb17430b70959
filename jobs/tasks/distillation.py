"""Distilling a classifier: the labels' cross-entropy mixed with the teacher's soft labels, made beforehand.

B batch, C classes.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from cluster.artifact import Artifact
from jobs.core.config import BadInput, Problem
from jobs.losses.distillation import forward_kl
from jobs.tasks.classification import Classification
from jobs.training.objective import Batch


class DistilledClassification(Classification):
    """loss = alpha · T² KL(teacher ‖ student at T) + (1 − alpha) · cross-entropy (Hinton et al. 2015)."""

    def __init__(
        self,
        examples: Artifact,
        tokenizer: PreTrainedTokenizerBase,
        labels: Sequence[str],
        max_length: int,
        teacher: Artifact,
        temperature: float,
        alpha: float,
    ) -> None:
        super().__init__(examples, tokenizer, labels, max_length)
        self.temperature, self.alpha = temperature, alpha
        self.teacher_NC = torch.from_numpy(_aligned(teacher, self.train.keys, len(labels)))

    def batch(self, indices: np.ndarray, seed: Sequence[int]) -> Batch:
        """The examples with the teacher's logits beside them."""
        return {**super().batch(indices, seed), "teacher": self.teacher_NC[torch.from_numpy(indices)]}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mixed loss, summed over the batch."""
        logits_BC = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
        soft = forward_kl(logits_BC, batch["teacher"], self.temperature)
        hard = functional.cross_entropy(logits_BC, batch["labels"], reduction="sum")
        return self.alpha * soft + (1 - self.alpha) * hard


def _aligned(predictions: Artifact, keys: Sequence[str], classes: int) -> np.ndarray:
    """logits_NC of the examples with these keys; BadInput if the teacher did not answer for one of them."""
    paths = predictions.files("logits/", ".parquet")
    directory = predictions.local(paths)
    table = pa.concat_tables([parquet.read_table(directory / path) for path in paths])
    places = {key: place for place, key in enumerate(table["key"].to_pylist())}
    missing = [key for key in keys if key not in places]
    if missing:
        reason = f"{len(missing)} of {len(keys)} training examples have no soft label, the first is {missing[0]}"
        raise BadInput([Problem("inputs.teacher", predictions.uri, reason, "Predict over the same examples.")])
    logits_NC = np.stack(table["logits"].to_pylist()).astype(np.float32)
    if logits_NC.shape[1] != classes:
        reason = f"the teacher knows {logits_NC.shape[1]} labels, the examples have {classes}"
        raise BadInput([Problem("inputs.teacher", predictions.uri, reason, "Use a teacher of the same task.")])
    return logits_NC[[places[key] for key in keys]]
