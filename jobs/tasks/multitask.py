"""Several tasks on one encoder: a step belongs to one task, drawn by the tasks' sizes and a temperature.

The first task is the one that is published; the others are there to teach the encoder (Liu et al. 2019).
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from jobs.architectures.adapter import stock_of
from jobs.contracts.learning import Batch
from jobs.contracts.objective import Objective
from jobs.tasks.supervised import Supervised


class MultitaskModel(nn.Module):
    """One encoder, with the main task's adapters where it has some, under the heads of several tasks."""

    def __init__(self, main: nn.Module, others: Sequence[PreTrainedModel]) -> None:
        super().__init__()
        for other in others:
            setattr(other, other.base_model_prefix, stock_of(main).base_model)
        self.tasks = nn.ModuleList([main, *others])

    def forward(self, task: int, **inputs: Tensor) -> Any:
        """What the task's model says."""
        return self.tasks[task](**inputs)


class Multitask(Objective):
    """Every task's own loss; a task of n examples is drawn with a chance ∝ n^(1 / temperature) (Arivazhagan et al. 2019)."""

    skips_weights = True

    def __init__(self, main: Supervised, others: Mapping[str, Supervised], temperature: float) -> None:
        self.tasks, self.names = [main, *others.values()], ["", *others]
        self.score, self.mode, self.measures = main.score, main.mode, main.measures
        self.lengths: Sequence[int] | None = None
        self.splits = all(task.splits for task in self.tasks)
        sizes = np.array([task.size for task in self.tasks], dtype=float)
        self.chances = sizes ** (1 / temperature) / (sizes ** (1 / temperature)).sum()
        self.starts = np.concatenate([[0], np.cumsum([task.size for task in self.tasks])])
        self.validation_starts = np.concatenate([[0], np.cumsum([task.validation_size for task in self.tasks])])
        # Which weights are best is the main task's to say: without rows to judge it on, nothing is judged.
        self.size, self.validation_size = int(self.starts[-1]), int(self.validation_starts[-1]) if main.validation_size else 0

    def steps_per_epoch(self, batch_size: int) -> int:
        """As many as the tasks' own epochs have together."""
        return sum(task.steps_per_epoch(batch_size) for task in self.tasks)

    def epoch(self, number: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
        """The steps' examples, numbered through all tasks; each task goes through its own epochs in its own order."""
        before = np.zeros(len(self.tasks), dtype=int)
        for earlier in range(number):
            before += np.bincount(self._drawn(earlier, batch_size, seed), minlength=len(self.tasks))
        streams = [_stream(task, batch_size, seed, int(done)) for task, done in zip(self.tasks, before, strict=True)]
        for task in self._drawn(number, batch_size, seed):
            yield next(streams[task]) + self.starts[task]

    def _drawn(self, number: int, batch_size: int, seed: int) -> np.ndarray:
        generator = np.random.default_rng([seed, number, len(self.tasks)])
        return generator.choice(len(self.tasks), self.steps_per_epoch(batch_size), p=self.chances)

    def batch(self, indices: np.ndarray, seed: int, step: int) -> Batch:
        """The examples, all of one task, and which task it is."""
        task = int(np.searchsorted(self.starts, indices[0], side="right")) - 1
        rows = self.tasks[task].batch(indices - self.starts[task], seed, step)
        return {**rows, "task": torch.full((len(indices),), task)}

    def count(self, batch: Batch) -> float:
        """The task's own."""
        return self._task(batch).count(batch)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The task's own."""
        return self._task(batch).loss(cast(nn.Module, partial(model, int(batch["task"][0]))), batch)

    def _task(self, batch: Batch) -> Supervised:
        return self.tasks[int(batch["task"][0])]

    def evaluate(self, model: nn.Module, indices: np.ndarray, device: torch.device) -> Any:
        """Each task's part."""
        bounds = zip(self.validation_starts, self.validation_starts[1:], strict=False)
        shares = [indices[(start <= indices) & (indices < end)] - start for start, end in bounds]
        # Through the whole model, not its parts: shards are gathered at its own forward pass.
        whole = [cast(nn.Module, partial(model, number)) for number in range(len(self.tasks))]
        return [task.evaluate(own, mine, device) for task, own, mine in zip(self.tasks, whole, shares, strict=True)]

    def measure(self, parts: Sequence[Any]) -> dict[str, float]:
        """The main task's figures under their names, the others' with .TASK behind."""
        figures: dict[str, float] = {}
        for place, (name, task) in enumerate(zip(self.names, self.tasks, strict=True)):
            own = task.measure([part[place] for part in parts]) if task.validation_size else {}
            figures |= {f"{key}.{name}" if name else key: value for key, value in own.items()}
        return figures

    def save(self, model: nn.Module, directory: Path) -> dict[str, float]:
        """Write the main task's model."""
        assert isinstance(model, MultitaskModel)
        return self.tasks[0].save(model.tasks[0], directory)


def _stream(task: Supervised, batch_size: int, seed: int, done: int) -> Iterator[np.ndarray]:
    """A task's batches from one of its steps on, epoch after epoch."""
    epoch, skipped = divmod(done, task.steps_per_epoch(batch_size))
    while True:
        for place, indices in enumerate(task.epoch(epoch, batch_size, seed)):
            if place >= skipped:
                yield indices
        epoch, skipped = epoch + 1, 0
