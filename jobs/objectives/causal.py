"""Causal language modelling (Radford et al. 2018): predict each next token of a document.

B batch, T tokens.
"""

import copy

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from jobs.contracts.learning import MISSING, Batch
from jobs.objectives.language import LanguageObjective
from serve.engines.card import Language


class CausalObjective(LanguageObjective):
    """The label at a token is the token after it in the same document; a document's first token is no target."""

    @property
    def learned(self) -> Language:
        """Next tokens."""
        return Language(objective="causal")

    def make(self, ids_BT: np.ndarray, generator: np.random.Generator) -> Batch:
        """Rows and their next tokens."""
        documents_BT = self.documents(ids_BT)
        labels_BT = np.full_like(ids_BT, MISSING)
        inside_BT = (documents_BT[:, 1:] == documents_BT[:, :-1]) & (documents_BT[:, 1:] != 0)
        labels_BT[:, :-1] = np.where(inside_BT, ids_BT[:, 1:], MISSING)
        found = {"input_ids": ids_BT, "documents": documents_BT, "labels": labels_BT}
        return {key: torch.from_numpy(value) for key, value in found.items()}

    def published_tokenizer(self) -> PreTrainedTokenizerBase:
        """A tokenizer that begins a text as training did and leaves its end for the model to say.

        One that frames texts on both sides would have the model go on after the end of a prompt.
        """
        from tokenizers import processors

        bounds, backend = self.bounds, getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None or bounds is None or bounds.begin is None or bounds.end is None:
            return self.tokenizer
        made = copy.deepcopy(self.tokenizer)
        begin = str(made.convert_ids_to_tokens(bounds.begin))
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A $B:1", special_tokens=[(begin, bounds.begin)]
        )
        return made
