"""Soft labels for language models: a teacher's likeliest tokens at each target, made once by predict, learned from here.

    objective = DistilledLanguage(MaskedObjective(tokens, tokenizer, 0.15), soft, TokenMix(alpha=0.5))

A masked teacher has answered for masks that were drawn from (its seed, row, draw) alone, and the student is shown those very
masks: `masked_by` makes them on both sides. A row that is seen again is shown under another of its draws, where there are
several. A causal teacher's rows have one draw: nothing is hidden in them.

B batch, T tokens of a row, M targets of a row at most, N targets of a batch, K likeliest tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import torch
from torch import Tensor, nn

from cluster.store.artifact import Artifact
from jobs.contracts.learning import MISSING, Batch
from jobs.contracts.objective import Wrapping
from jobs.core.config import BadInput, Problem
from jobs.losses.answers import top_k_kl
from jobs.losses.settings import TokenMix, annealed
from jobs.objectives.language import LanguageObjective, join_batches

SOFT = "soft/"
"""Where predict puts what a language model says."""


def masked_by(objective: LanguageObjective, row_T: np.ndarray, seed: int, row: int, draw: int) -> Batch:
    """The batch of one row as the teacher saw it under this draw."""
    return objective.make(row_T[None], np.random.default_rng([seed, row, draw, 3]))


class SoftTokens:
    """What a teacher said of every target of the training rows."""

    def __init__(self, soft: Artifact, rows: int) -> None:
        self.settings: dict[str, Any] = dict(soft.manifest.details["language"])
        self.k, self.draws = int(self.settings["top_k"]), int(self.settings["draws"])
        paths = soft.files(SOFT, ".parquet")
        directory = soft.local(paths)
        table = parquet.read_table([directory / path for path in paths])
        lengths = np.zeros(rows * self.draws, dtype=np.int64)
        numbers = table["number"].to_numpy()
        # Each row's answers, one after another, in the order of their numbers.
        ids, shares, rest = (table[name].combine_chunks() for name in ("ids", "log_shares", "log_rest"))
        lengths[numbers] = np.diff(rest.offsets.to_numpy())
        if len(numbers) != len(lengths) or (np.diff(numbers) != 1).any():
            reason = f"it has answers for {len(numbers)} of {len(lengths)} rows"
            raise BadInput([Problem("inputs.teacher", soft.uri, reason, "Predict over the same tokens.")])
        self.ends = np.cumsum(lengths)
        self.ids_NK = ids.flatten().to_numpy().reshape(-1, self.k)
        self.shares_NK = shares.flatten().to_numpy(zero_copy_only=False).reshape(-1, self.k)
        self.rest_N = rest.flatten().to_numpy(zero_copy_only=False)

    def of(self, numbers: Sequence[int]) -> Batch:
        """ids_BMK, log-shares_BMK and the log-share of all others_BM of rows with these numbers, filled up with 0."""
        places = [slice(int(self.ends[number - 1]) if number else 0, int(self.ends[number])) for number in numbers]
        most = max([1, *(place.stop - place.start for place in places)])
        ids_BMK = np.zeros((len(numbers), most, self.k), dtype=np.int64)
        shares_BMK, rest_BM = np.zeros(ids_BMK.shape, dtype=np.float32), np.zeros(ids_BMK.shape[:2], dtype=np.float32)
        for row, place in enumerate(places):
            count = place.stop - place.start
            ids_BMK[row, :count], shares_BMK[row, :count] = self.ids_NK[place], self.shares_NK[place]
            rest_BM[row, :count] = self.rest_N[place]
        made = {"teacher_ids": ids_BMK, "teacher_shares": shares_BMK, "teacher_rest": rest_BM}
        return {name: torch.from_numpy(values) for name, values in made.items()}


class DistilledLanguage(Wrapping):
    """loss of a target = alpha · KL over the teacher's likeliest tokens + (1 − alpha) · cross-entropy.

    Validation is the objective's own, so that it compares with a student that had no teacher.
    """

    def __init__(self, objective: LanguageObjective, soft: Artifact, mix: TokenMix) -> None:
        super().__init__(objective)
        self.objective, self.mix, self.steps = objective, mix, 1
        self.soft = SoftTokens(soft, objective.size)
        self.temperature, self.seed = float(self.soft.settings["temperature"]), int(self.soft.settings["seed"])

    def begin(self, steps: int) -> None:
        """Alpha ends at the last step."""
        self.steps = steps

    def batch(self, indices: np.ndarray, seed: int, step: int) -> Batch:
        """Rows as the teacher saw them, what it said of their targets, and the step's alpha beside each."""
        draws = np.random.default_rng([seed, step, 4]).integers(self.soft.draws, size=len(indices))
        rows = self.objective.train.rows(indices)
        asked = list(zip(rows, indices.tolist(), draws.tolist(), strict=True))
        made = [masked_by(self.objective, row_T, self.seed, row, draw) for row_T, row, draw in asked]
        alpha = annealed(self.mix.alpha, self.mix.alpha_end, self.mix.annealing, step / max(1, self.steps - 1))
        soft = self.soft.of([row * self.soft.draws + draw for _, row, draw in asked])
        return {**join_batches(made), **soft, "alpha": torch.full((len(indices),), alpha)}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mixed loss, summed over the targets."""
        own = {key: value for key, value in batch.items() if key != "alpha" and not key.startswith("teacher_")}
        hard, logits_NV = model(**own, answers=True)
        alpha = batch["alpha"][0]
        targets_B = (batch["labels"] != MISSING).sum(1)
        there_BM = torch.arange(batch["teacher_rest"].shape[1], device=targets_B.device) < targets_B[:, None]
        shares_NK, ids_NK = batch["teacher_shares"][there_BM], batch["teacher_ids"][there_BM]
        soft = top_k_kl(logits_NV, shares_NK, ids_NK, self.temperature, batch["teacher_rest"][there_BM])
        return alpha * soft + (1 - alpha) * hard


def check_soft(soft: Artifact, tokens: Artifact, objective: str, masks: dict[str, Any]) -> None:
    """BadInput where the teacher answered for other tokens, another objective or other masks than the student's."""
    details = soft.manifest.details
    where, named = "inputs.teacher", soft.manifest.step
    if "language" not in details:
        raise BadInput(
            [Problem(where, named, "these are answers for a task", "Give a language model's: predict over tokens.")]
        )
    problems = []
    if details["tokens"] != tokens.fingerprint:
        reason = f"it answered for other tokens than those of {tokens.manifest.step}"
        problems.append(Problem(where, named, reason, "Predict over the tokens that the student learns from."))
    said = details["language"]
    if said["objective"] != objective:
        reason = f"the teacher answers by {said['objective']}, the student learns by {objective}"
        problems.append(Problem("objective", objective, reason, f"Use objective: {said['objective']}, or another teacher."))
    elif objective == "masked":
        remedy = "Give both steps the same: the student must see the masks that the teacher saw."
        problems += [
            Problem(key, value, f"the teacher's answers are for {said[key]}", remedy)
            for key, value in masks.items()
            if said[key] != value
        ]
    if problems:
        raise BadInput(problems)
