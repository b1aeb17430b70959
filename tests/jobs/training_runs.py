"""What the tests of training share: hooks that keep what the loop says, an objective with scripted scores, models.

model, fitted, hooks = scripted(Scripted([0.2, 0.9]), epochs=2, evaluations=2)
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from jobs.contracts.learning import Batch
from jobs.contracts.objective import Objective, State
from jobs.training.loop import TrainingResult, fit
from jobs.training.settings import Training
from tests.jobs.language_runs import language_model
from tests.jobs.tiny import LABELS, tiny_classifier

QUICK: dict[str, Any] = {"precision": "fp32", "batch_size": 16, "optimizer": {"learning_rate": 3e-3}}


@dataclass
class Recorded:
    """Hooks that keep what the loop says; with a file they checkpoint as workers do, and one step can kill or end the run."""

    file: Path | None = None
    dies_at: int | None = None
    notice_at: int | None = None
    progressed: list[dict[str, float]] = field(default_factory=list)
    scores: list[dict[str, float]] = field(default_factory=list)
    saves: int = 0
    notes: list[str] = field(default_factory=list)

    def progress(self, figures: dict[str, float]) -> None:
        self.progressed.append(figures)
        if figures["step"] == self.dies_at:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        self.notes.append(text)

    def evaluated(self, figures: dict[str, float], state: Callable[[], State]) -> None:
        self.scores.append(figures)

    def save(self, state: Callable[[], State]) -> None:
        self.saves += 1
        if self.file is not None:
            torch.save(state(), self.file)

    def preempted(self) -> bool:
        return bool(self.progressed) and self.progressed[-1]["step"] == self.notice_at

    def restore(self) -> State | None:
        if self.file is None or not self.file.exists():
            return None
        return torch.load(self.file, weights_only=True)


@dataclass
class Scripted(Objective):
    """A linear model on fixed numbers, whose validation scores are given beforehand."""

    given: Sequence[float] = ()
    size: int = 32
    validation_size: int = 4
    lengths: Sequence[int] | None = None
    score: str = "grade"
    mode: str = "max"
    poison: int | None = None
    """The step whose batch holds what no model can bear."""
    asked: list[dict[str, Tensor]] = field(default_factory=list)

    def batch(self, indices: np.ndarray, seed: int, step: int) -> Batch:
        x_BD = torch.from_numpy(np.random.default_rng(0).normal(size=(self.size, 4)))[indices].float()
        if step == self.poison:
            x_BD = x_BD * math.inf
        return {"x": x_BD, "y": torch.from_numpy(indices % 3).float()}

    def count(self, batch: Batch) -> int:
        return len(batch["y"])

    def tokens(self, batch: Batch) -> int:
        return len(batch["y"])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return (model(batch["x"]).squeeze(-1) - batch["y"]).square().sum()

    def evaluate(self, model: nn.Module, indices: np.ndarray, device: torch.device) -> Any:
        self.asked.append(copy.deepcopy(model.state_dict()))
        return self.given[len(self.asked) - 1]

    def measure(self, parts: Sequence[Any]) -> dict[str, float]:
        return {"grade": float(parts[0])}


def scripted(objective: Scripted, **settings: Any) -> tuple[nn.Linear, TrainingResult, Recorded]:
    torch.manual_seed(0)
    model, hooks = nn.Linear(4, 1), Recorded()
    fitted = fit(model, objective, Training.model_validate({**QUICK, "batch_size": 8, **settings}), hooks)
    return model, fitted, hooks


def new_model(kind: str, tokenizer: PreTrainedTokenizerBase, dropout: float) -> nn.Module:
    if kind == "classification":
        return tiny_classifier("bert", len(LABELS), len(tokenizer), dropout)
    return language_model(kind, tokenizer, dropout)
