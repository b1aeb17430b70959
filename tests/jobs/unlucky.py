"""What meets with a fault while it works, in whatever process that is: models that train, actors that answer.

build = partial(unlucky, marks, die, 2, 0.0)      # of the processes that train it, the first two are killed at STEP
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import nn

from jobs.contracts.learning import Batch
from jobs.contracts.objective import Learner
from jobs.core.config import BadInput, Problem
from jobs.core.stage import Inputs
from jobs.pretrain import PretrainConfig, build

STEP = 16


def die() -> None:
    """As a machine that runs out of memory has it."""
    os.kill(os.getpid(), signal.SIGKILL)


def stumble() -> None:
    """An error of the training itself."""
    raise RuntimeError("the cosmic ray hit")


def unlucky(
    marks: str, fault: Callable[[], None], often: int, pause: float, config: PretrainConfig, inputs: Inputs
) -> tuple[nn.Module, Learner]:
    """A model and what it learns; so often, each time in a new process, a fault meets it at STEP. Each process leaves a file
    with the steps that it made batches for."""
    model, learner = build(config, inputs)
    mark = Path(marks, f"{time.time_ns()}")
    mark.touch()
    number, batch = len(list(Path(marks).iterdir())), learner.batch

    def made(indices: np.ndarray, seed: int, step: int) -> Batch:
        with mark.open("a") as steps:
            steps.write(f"{step}\n")
        time.sleep(pause)
        if step == STEP and number <= often:
            fault()
        return batch(indices, seed, step)

    learner.batch = made  # type: ignore[method-assign]
    return model, learner


def refuse(config: PretrainConfig, inputs: Inputs) -> tuple[nn.Module, Learner]:
    """Says no, and leaves a mark each time that it is asked."""
    with Path(inputs.one("tokens").uri + "-asked").open("a") as file:
        file.write("asked\n")
    raise BadInput([Problem("model", None, "it is no good", "Take another.")])


class Mortal:
    """An actor that says by which process a piece was done; the first one that does piece `fatal` is killed."""

    def __init__(self, mark: str, fatal: int) -> None:
        if fatal < 0:
            raise BadInput([Problem("fatal", fatal, "pieces are counted from 0", "Give another.")])
        self.mark, self.fatal = Path(mark), fatal

    def answer(self, number: int) -> int:
        time.sleep(0.05)
        if number == self.fatal and not self.mark.exists():
            self.mark.touch()
            die()
        return os.getpid()
