"""A language model answers for rows of TOKENS: an actor of predict.

N targets of a batch, K likeliest tokens, V vocabulary.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from cluster.store.artifact import Artifact
from jobs.contracts.learning import MISSING
from jobs.data.tokenizer import tokenizer_of
from jobs.data.training_rows import row_length
from jobs.losses.answers import likeliest
from jobs.objectives.distilled_language import masked_by
from jobs.objectives.language import join_batches
from jobs.objectives.pretrained import load_base, objective_of
from jobs.training.parallel import computing_in

LEAST = 1e-7
"""Half precision's smallest share; less than that is left for the tokens that are not kept."""


class AnswerTokens:
    """Holds the model and answers for rows: number = row · draws + draw."""

    def __init__(self, model: Artifact, tokens: Artifact, settings: Mapping[str, Any], threads: int, precision: str) -> None:
        torch.set_num_threads(threads)
        self.precision, self.settings = precision, settings
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        named, tokenizer = settings["objective"], tokenizer_of(tokens)
        self.model = load_base(model, named, tokenizer, row_length(tokens)).eval().to(self.device)
        masks = (settings["mask_probability"], settings["masking"])
        self.objective = objective_of(named, tokens, tokenizer, self.model.model.config, *masks)

    def __call__(self, asked: dict[str, np.ndarray]) -> dict[str, Any]:
        """Per row: its number, ids and log-shares of the K likeliest tokens of each target, log-share of all others."""
        draws, seed = self.settings["draws"], self.settings["seed"]
        numbers = asked["id"]
        rows = self.objective.train.rows(numbers // draws)
        made = [
            masked_by(self.objective, row_T, seed, int(number) // draws, int(number) % draws)
            for row_T, number in zip(rows, numbers, strict=True)
        ]
        batch = join_batches(made)
        on_device = {key: value.to(self.device) for key, value in batch.items()}
        with torch.inference_mode():
            with computing_in(self.precision):
                _, logits_NV = self.model(**on_device, answers=True)
            shares_NK, ids_NK = likeliest(logits_NV.float(), self.settings["top_k"], self.settings["temperature"])
            rest_N = (1 - shares_NK.double().exp().sum(-1)).clamp(min=LEAST).log()
        ends = (batch["labels"] != MISSING).sum(1).cumsum(0).tolist()
        cuts = list(zip([0, *ends[:-1]], ends, strict=True))
        ids, shares, rest = (value.cpu().numpy() for value in (ids_NK.int(), shares_NK.half(), rest_N.half()))
        return {
            "number": numbers,
            "ids": _lists([ids[start:end].ravel() for start, end in cuts]),
            "log_shares": _lists([shares[start:end].ravel() for start, end in cuts]),
            "log_rest": _lists([rest[start:end] for start, end in cuts]),
        }


def _lists(arrays: list[np.ndarray]) -> np.ndarray:
    """Arrays of different lengths as one column, also where they happen to be alike."""
    column = np.empty(len(arrays), dtype=object)
    column[:] = arrays
    return column
