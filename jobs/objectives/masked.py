"""Masked language modelling (Devlin et al. 2019): dynamic masking, the vocabulary head only where a token is masked.

B batch, T tokens, M masked tokens, V vocabulary, D hidden.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cluster.artifact import Artifact
from jobs.data.loader import TokenRows
from jobs.training.objective import Batch, Objective

IGNORED = -100
EVALUATION_BATCH = 32
EVALUATION_ROWS = 512


class MaskedModel(nn.Module):
    """A masked language model whose head runs on the masked positions alone."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
        """The summed cross-entropy of the masked tokens."""
        hidden_BTD = self.model.base_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        chosen = labels != IGNORED
        logits_MV = self.head(hidden_BTD[chosen])
        return functional.cross_entropy(logits_MV.float(), labels[chosen], reduction="sum")

    def head(self, hidden_MD: Tensor) -> Tensor:
        """logits_MV of the vocabulary."""
        for name in ("cls", "lm_head"):
            if hasattr(self.model, name):
                return getattr(self.model, name)(hidden_MD)
        raise TypeError(f"{type(self.model).__name__} has no masked head that is known here; use bert or roberta")


class MaskedObjective(Objective):
    """Predict tokens that were hidden: 80 % become [MASK], 10 % another token, 10 % stay."""

    score = "validation_loss"
    mode = "min"
    lengths: Sequence[int] | None = None

    def __init__(self, tokens: Artifact, tokenizer: PreTrainedTokenizerBase, probability: float) -> None:
        self.tokenizer, self.probability = tokenizer, probability
        self.train, self.validation = TokenRows(tokens, "train"), TokenRows(tokens, "validation")
        self.size, self.validation_size = len(self.train), min(len(self.validation), EVALUATION_ROWS)
        self.special = np.array(sorted(tokenizer.all_special_ids))
        self.ordinary = np.setdiff1d(np.arange(len(tokenizer)), self.special)

    def batch(self, indices: np.ndarray, seed: Sequence[int]) -> Batch:
        """Rows with fresh masks."""
        return self._masked(self.train.rows(indices), np.random.default_rng([*seed, 1]))

    def _masked(self, ids_BT: np.ndarray, generator: np.random.Generator) -> Batch:
        real_BT = ids_BT != self.tokenizer.pad_token_id
        free_BT = ~np.isin(ids_BT, self.special)
        chosen_BT = free_BT & (generator.random(ids_BT.shape) < self.probability)
        fate_BT = generator.random(ids_BT.shape)
        others_BT = generator.choice(self.ordinary, ids_BT.shape)
        labels_BT = np.where(chosen_BT, ids_BT, IGNORED)
        shown_BT = np.where(chosen_BT & (fate_BT < 0.8), self.tokenizer.mask_token_id, ids_BT)
        shown_BT = np.where(chosen_BT & (fate_BT >= 0.9), others_BT, shown_BT)
        return {
            "input_ids": torch.from_numpy(shown_BT),
            "attention_mask": torch.from_numpy(real_BT.astype(np.int64)),
            "labels": torch.from_numpy(labels_BT),
        }

    def count(self, batch: Batch) -> int:
        """Masked tokens."""
        return int((batch["labels"] != IGNORED).sum())

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy summed over the masked tokens."""
        return model(**batch)

    def evaluate(self, model: nn.Module, indices: np.ndarray, device: torch.device) -> Any:
        """(summed loss, masked tokens) of validation rows, always under the same masks."""
        total, count = 0.0, 0
        for start in range(0, len(indices), EVALUATION_BATCH):
            part = indices[start : start + EVALUATION_BATCH]
            # Row by row, so that the masks do not depend on how rows are divided among workers.
            rows = [self._masked(self.validation.rows(row), np.random.default_rng([int(row[0]), 2])) for row in part[:, None]]
            batch = {key: torch.cat([row[key] for row in rows]) for key in rows[0]}
            total += float(model(**{key: value.to(device) for key, value in batch.items()}))
            count += self.count(batch)
        return total, count

    def measure(self, parts: Sequence[Any]) -> dict[str, float]:
        """The mean loss of a masked token and its perplexity."""
        loss = sum(part[0] for part in parts) / max(1, sum(part[1] for part in parts))
        return {"validation_loss": loss, "perplexity": float(np.exp(min(loss, 50)))}

    def save(self, model: nn.Module, directory: Path) -> dict[str, float]:
        """Write weights, config and tokenizer."""
        assert isinstance(model, MaskedModel)
        model.model.float().save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        return {"parameters": float(sum(weight.numel() for weight in model.parameters()))}
