"""What the objectives over TOKENS share: rows, evaluation that is the same each time, figures, publishing.

B batch, T tokens.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from cluster.store.artifact import Artifact
from jobs.architectures.models import READ
from jobs.contracts.learning import MISSING, Batch
from jobs.contracts.objective import Objective
from jobs.data.pack import Bounds
from jobs.data.training_rows import TokenRows, row_length
from jobs.objectives.documents import PADDING, document_numbers
from jobs.objectives.target_head import HeadAtTargets
from serve.engines.card import Card, Language, Variant, write_card

EVALUATION_BATCH_ROWS = 32
EVALUATION_ROWS = 512


class LanguageObjective(Objective):
    """Rows of tokens become batches by `make`; all that is random in it comes from the generator that it is given."""

    score = "validation_loss"
    mode = "min"
    measures: Mapping[str, str] = MappingProxyType({"validation_loss": "min", "perplexity": "min"})
    lengths: Sequence[int] | None = None
    inputs: tuple[str, ...] = READ
    """What the model is shown of its tokens."""

    def __init__(self, tokens: Artifact, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer, self.max_length = tokenizer, row_length(tokens)
        self.bounds = Bounds.from_details(tokens.manifest.details)
        self.train, self.validation = TokenRows(tokens, "train"), TokenRows(tokens, "validation")
        self.size, self.validation_size = len(self.train), min(len(self.validation), EVALUATION_ROWS)
        self.special_V = np.zeros(len(tokenizer), dtype=bool)
        self.special_V[sorted(tokenizer.all_special_ids)] = True
        self.ordinary = np.flatnonzero(~self.special_V)

    @property
    @abstractmethod
    def learned(self) -> Language:
        """What the model's card says of it."""

    @abstractmethod
    def make(self, ids_BT: np.ndarray, generator: np.random.Generator) -> Batch:
        """The batch of these rows."""

    def batch(self, indices: np.ndarray, seed: int, step: int) -> Batch:
        """Training rows, with what is random drawn anew."""
        return self.make(self.train.rows(indices), np.random.default_rng([seed, step, 1]))

    def documents(self, ids_BT: np.ndarray) -> np.ndarray:
        """documents_BT: which document of its row each token is of."""
        return document_numbers(ids_BT, self.bounds)

    def free(self, ids_BT: np.ndarray) -> np.ndarray:
        """free_BT: tokens that are text."""
        return ~self.special_V[ids_BT]

    def count(self, batch: Batch) -> float:
        """Targets."""
        return int((batch["labels"] != MISSING).sum())

    def tokens(self, batch: Batch) -> int:
        """Tokens of documents."""
        return int((batch["documents"] != PADDING).sum())

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy summed over the targets."""
        return model(**batch)

    def evaluate(self, model: nn.Module, indices: np.ndarray, device: torch.device) -> Any:
        """(summed loss, targets) of validation rows, always with the same random choices."""
        total, count = 0.0, 0.0
        for batch in self.validation_batches(indices):
            total += float(self.loss(model, {key: value.to(device) for key, value in batch.items()}))
            count += self.count(batch)
        return total, count

    def validation_batches(self, indices: np.ndarray) -> Sequence[Batch]:
        """The batches of validation rows."""
        rows = self.validation.rows(indices) if len(indices) else ()
        # Each row has a generator of its own, so that nothing depends on how rows are divided among workers.
        made = [self.make(row[None], np.random.default_rng([int(i), 2])) for i, row in zip(indices, rows, strict=True)]
        return [
            join_batches(made[start : start + EVALUATION_BATCH_ROWS]) for start in range(0, len(made), EVALUATION_BATCH_ROWS)
        ]

    def measure(self, parts: Sequence[Any]) -> dict[str, float]:
        """The mean loss of a target and its perplexity."""
        return mean_loss(sum(part[0] for part in parts), sum(part[1] for part in parts))

    def save(self, model: nn.Module, directory: Path) -> dict[str, float]:
        """Write weights, config, tokenizer and card."""
        assert isinstance(model, HeadAtTargets)
        model.model.float().save_pretrained(directory)
        self.published_tokenizer().save_pretrained(directory)
        parameters = sum(weight.numel() for weight in model.parameters())
        card = Card(
            language=self.learned,
            max_length=self.max_length,
            inputs=self.inputs,
            variants={"torch": Variant(backend="torch", file="model.safetensors", precision="fp32")},
            default="torch",
            parameters=parameters,
        )
        write_card(directory, card)
        return {"parameters": float(parameters), "new_parameters": float(model.new_parameters)}

    def published_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that goes with the model."""
        return self.tokenizer


def join_batches(batches: Sequence[Batch]) -> Batch:
    """One batch of several; shorter rows are filled up at their ends with what is not read and no target."""
    joined: Batch = {}
    for key in batches[0]:
        values = [batch[key] for batch in batches]
        if values[0].ndim > 1:
            width = max(value.shape[1] for value in values)
            fill = MISSING if key == "labels" else PADDING
            values = [functional.pad(value, (0, width - value.shape[1]), value=fill) for value in values]
        joined[key] = torch.cat(values)
    return joined


def mean_loss(total: float, count: float) -> dict[str, float]:
    """The figures of a summed loss."""
    loss = total / max(1, count)
    return {"validation_loss": loss, "perplexity": float(np.exp(min(loss, 50)))}
