"""This project's side of the masked pretraining benchmark: the loop in a plain process, without Ray."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from jobs.training.loop import State, fit
from jobs.training.masked import MaskedModel, MaskedObjective
from jobs.training.settings import Training
from tests.benchmarks.masked_model import make
from tests.benchmarks.train import BATCH, LENGTH, STEPS, WARM_UP


class Rows:
    """Packed rows from one file, as TokenRows gives them."""

    def __init__(self, path: Path) -> None:
        self.ids_NT = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.ids_NT)

    def rows(self, indices: np.ndarray) -> np.ndarray:
        return self.ids_NT[indices]


class Clock:
    """Hooks that note when each step is done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def progress(self, figures: dict[str, float]) -> None:
        self.times.append(time.perf_counter())

    def evaluated(self, figures: dict[str, float]) -> None: ...

    def save(self, state: Callable[[], State]) -> None: ...

    def restore(self) -> State | None:
        return None


def main() -> None:
    """Print tokens a second over the steps after warm-up."""
    torch.set_num_threads(1)
    model, tokenizer = make()
    objective = MaskedObjective.__new__(MaskedObjective)
    objective.tokenizer, objective.probability = tokenizer, 0.15
    objective.train = objective.validation = Rows(Path(sys.argv[1]) / "rows.npy")  # type: ignore[assignment]
    objective.size, objective.validation_size = len(objective.train), 0
    objective.special = np.array(sorted(tokenizer.all_special_ids))
    clock = Clock()
    fit(MaskedModel(model), objective, Training(epochs=1, batch_size=BATCH), clock)
    print(json.dumps(STEPS * BATCH * LENGTH / (clock.times[-1] - clock.times[WARM_UP - 1])))


if __name__ == "__main__":
    main()
