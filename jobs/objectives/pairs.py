"""Masked tokens and a question about two segments: does B follow A (Devlin et al. 2019), or were they exchanged
(Lan et al. 2020)?

The rows are `[CLS] A [SEP] B [SEP]` from prepare; what is wrong with half of them is drawn anew in each epoch.

B batch, T tokens.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from cluster.store.artifact import Artifact
from jobs.architectures.models import READ
from jobs.contracts.learning import Batch
from jobs.data.segments import FRAME, Frame, pair_frame
from jobs.data.training_rows import TokenRows
from jobs.objectives.language import EVALUATION_BATCH_ROWS, join_batches, mean_loss
from jobs.objectives.masked import MaskedObjective, Masking
from serve.engines.card import Language

AS_WRITTEN, CHANGED = 0, 1
"""The labels of a pair, as in both papers' code: 0 for what stands in the text."""
CANDIDATES = 8
"""Other rows among which a false B is looked for, so that its length gives nothing away."""


class PairObjective(MaskedObjective):
    """The mean loss of a masked token plus the mean loss of a pair."""

    inputs = (*READ, "token_type_ids")
    measures: Mapping[str, str] = MappingProxyType({"validation_loss": "min", "perplexity": "min", "pair_accuracy": "max"})

    def __init__(
        self, tokens: Artifact, tokenizer: PreTrainedTokenizerBase, probability: float, masking: Masking, order: bool
    ) -> None:
        super().__init__(tokens, tokenizer, probability, masking)
        self.order, self.frame = order, pair_frame(tokenizer)

    @property
    def learned(self) -> Language:
        """Hidden tokens, and how two segments belong together."""
        return Language(objective="masked_sentence_order" if self.order else "masked_next_sentence")

    def batch(self, indices: np.ndarray, seed: int, step: int) -> Batch:
        """Rows of which about half are changed, with fresh masks."""
        return self._pairs(self.train, indices, np.random.default_rng([seed, step, 1]))

    def validation_batches(self, indices: np.ndarray) -> Sequence[Batch]:
        """Validation rows, each with its own generator; a false B comes from another validation row."""
        made = [self._pairs(self.validation, row, np.random.default_rng([int(row[0]), 2])) for row in indices[:, None]]
        return [
            join_batches(made[start : start + EVALUATION_BATCH_ROWS]) for start in range(0, len(made), EVALUATION_BATCH_ROWS)
        ]

    def _pairs(self, rows: TokenRows, indices: np.ndarray, generator: np.random.Generator) -> Batch:
        ids_BT = rows.rows(indices)
        labels_B = generator.integers(0, 2, len(indices))
        for place, (row, label) in enumerate(zip(ids_BT, labels_B, strict=True)):
            first, second = segments(row, self.frame)
            if label == CHANGED and self.order:
                first, second = second, first
            elif label == CHANGED:
                second = self._other(rows, int(indices[place]), len(row) - FRAME - len(first), len(second), generator)
            ids_BT[place] = joined(first, second, len(row), self.frame)
        return self._batch(ids_BT, labels_B, generator)

    def _other(self, rows: TokenRows, own: int, room: int, length: int, generator: np.random.Generator) -> np.ndarray:
        """The B of another row: of some that fit, the one whose length is nearest to the true B's."""
        others = (own + generator.integers(1, max(2, len(rows)), CANDIDATES)) % len(rows)
        found = [segments(row, self.frame)[1] for row in rows.rows(others)]
        best = min(found, key=lambda second: (len(second) > room, abs(len(second) - length)))
        return best[:room]

    def _batch(self, ids_BT: np.ndarray, pairs_B: np.ndarray, generator: np.random.Generator) -> Batch:
        shown_BT, labels_BT = self.masked(ids_BT, np.ones_like(ids_BT), generator)
        ends_BT = ids_BT == self.frame.sep
        second_BT = (ends_BT.cumsum(1) - ends_BT) == 1
        found = {
            "input_ids": shown_BT,
            "attention_mask": (ids_BT != self.frame.pad).astype(np.int64),
            "token_type_ids": second_BT.astype(np.int64),
            "labels": labels_BT,
            "pair_labels": pairs_B,
        }
        batch = {key: torch.from_numpy(value) for key, value in found.items()}
        # The loop divides by the masked tokens of the whole batch: so weighted, its pairs come to their mean.
        weight = max(1.0, self.count(batch)) / len(ids_BT)
        return batch | {"pair_weights": torch.full((len(ids_BT),), weight)}

    def tokens(self, batch: Batch) -> int:
        """Tokens of both segments."""
        return int(batch["attention_mask"].sum())

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Masked tokens' and pairs' cross-entropy."""
        return model(**batch)[:2].sum()

    def evaluate(self, model: nn.Module, indices: np.ndarray, device: torch.device) -> Any:
        """(summed loss of masked tokens, masked tokens, pairs that are right, pairs)."""
        total, count, right = 0.0, 0.0, 0.0
        for batch in self.validation_batches(indices):
            masked, _, correct = model(**{key: value.to(device) for key, value in batch.items()}).tolist()
            total, count, right = total + masked, count + self.count(batch), right + correct
        return total, count, right, len(indices)

    def measure(self, parts: Sequence[Any]) -> dict[str, float]:
        """The mean loss of a masked token, its perplexity, and the share of pairs that are told right."""
        total, count, right, pairs = (sum(values) for values in zip(*parts, strict=True))
        return mean_loss(total, count) | {"pair_accuracy": right / max(1, pairs)}


def segments(row_T: np.ndarray, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """A and B of a row."""
    first, second = np.flatnonzero(row_T == frame.sep)[:2]
    return row_T[1:first], row_T[first + 1 : second]


def joined(first: np.ndarray, second: np.ndarray, length: int, frame: Frame) -> np.ndarray:
    """The row of A and B."""
    row_T = np.full(length, frame.pad, dtype=np.int64)
    used = np.concatenate([[frame.cls], first, [frame.sep], second, [frame.sep]])
    row_T[: len(used)] = used
    return row_T
