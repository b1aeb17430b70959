"""This project's side of the masked pretraining benchmark: the loop in a plain process, without Ray."""

import json
import sys
import time
from collections.abc import Callable

import torch

from cluster.artifact import open_artifact
from jobs.objectives.heads import LanguageModel
from jobs.objectives.masked import MaskedObjective
from jobs.training.loop import fit
from jobs.training.objective import State
from jobs.training.settings import Training
from tests.benchmarks.masked_model import make
from tests.benchmarks.train import BATCH, LENGTH, STEPS, WARM_UP


class Clock:
    """Hooks that note when each step is done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def progress(self, figures: dict[str, float]) -> None:
        self.times.append(time.perf_counter())

    def note(self, text: str) -> None: ...

    def evaluated(self, figures: dict[str, float], state: Callable[[], State]) -> None: ...

    def save(self, state: Callable[[], State]) -> None: ...

    def restore(self) -> State | None:
        return None


def main() -> None:
    """Print tokens a second over the steps after warm-up."""
    torch.set_num_threads(1)
    model, tokenizer = make()
    objective = MaskedObjective(open_artifact(sys.argv[1]), tokenizer, probability=0.15)
    clock = Clock()
    fit(LanguageModel(model), objective, Training(epochs=1, batch_size=BATCH), clock)
    print(json.dumps(STEPS * BATCH * LENGTH / (clock.times[-1] - clock.times[WARM_UP - 1])))


if __name__ == "__main__":
    main()
