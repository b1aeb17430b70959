"""Masked language modelling (Devlin et al. 2019): dynamic masking of tokens, whole words or spans.

B batch, T tokens.
"""

from typing import Literal

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from cluster.store.artifact import Artifact
from jobs.contracts.learning import MISSING, Batch
from jobs.core.config import BadInput, Problem
from jobs.objectives.language import LanguageObjective
from jobs.objectives.masking import NONE, WordMarks, hide, span_units, token_units, word_units
from serve.engines.card import Language

Masking = Literal["tokens", "whole_words", "spans"]


class MaskedObjective(LanguageObjective):
    """Predict tokens that were hidden: 80 % become [MASK], 10 % another token, 10 % stay."""

    def __init__(
        self, tokens: Artifact, tokenizer: PreTrainedTokenizerBase, probability: float, masking: Masking = "tokens"
    ) -> None:
        super().__init__(tokens, tokenizer)
        self.probability, self.masking = probability, masking
        if tokenizer.mask_token_id is None:
            reason = "the tokenizer has no mask token"
            raise BadInput([Problem("objective", "masked", reason, "Use objective: causal, or another tokenizer.")])
        self.words = WordMarks.of(tokenizer) if masking != "tokens" else None
        if masking == "whole_words" and self.words is None:
            reason = "the tokenizer does not mark which tokens continue a word"
            remedy = "Use masking: tokens or spans, or a wordpiece, bpe or unigram tokenizer."
            raise BadInput([Problem("masking", masking, reason, remedy)])

    @property
    def learned(self) -> Language:
        """Hidden tokens."""
        return Language(objective="masked")

    def make(self, ids_BT: np.ndarray, generator: np.random.Generator) -> Batch:
        """Rows with fresh masks."""
        documents_BT = self.documents(ids_BT)
        shown_BT, labels_BT = self.masked(ids_BT, documents_BT, generator)
        found = {"input_ids": shown_BT, "documents": documents_BT, "labels": labels_BT}
        return {key: torch.from_numpy(value) for key, value in found.items()}

    def masked(
        self, ids_BT: np.ndarray, documents_BT: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """(shown_BT, labels_BT): rows with tokens hidden, and what was hidden where."""
        units_BT = self._units(ids_BT, documents_BT, generator)
        shown_BT = hide(ids_BT, units_BT, int(self.tokenizer.mask_token_id), self.ordinary, generator)
        return shown_BT, np.where(units_BT != NONE, ids_BT, MISSING)

    def _units(self, ids_BT: np.ndarray, documents_BT: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        free_BT = self.free(ids_BT)
        if self.masking == "tokens":
            return token_units(free_BT, self.probability, generator)
        starts_BT = np.ones_like(free_BT) if self.words is None else self.words.starts(ids_BT, documents_BT, free_BT)
        if self.masking == "whole_words":
            return word_units(starts_BT, free_BT, self.probability, generator)
        return span_units(starts_BT, documents_BT, free_BT, self.probability, generator)
