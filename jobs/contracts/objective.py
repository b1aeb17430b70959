"""What the training loop is given: an objective (what is learned) and hooks (where its figures and checkpoints go)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from jobs.contracts.learning import Batch
from jobs.data.training_rows import epoch_batches, steps_per_epoch

State = dict[str, Any]


class Preempted(Exception):
    """The run ends here because a node of it is about to be taken away; a checkpoint of this very step is there."""


class Objective(Protocol):
    """What is learned: how examples become batches, what a batch costs, how well a model does.

    Objectives inherit from it: the order of examples is the same for nearly all of them.
    """

    size: int
    lengths: Sequence[int] | None
    validation_size: int
    score: str
    mode: str
    measures: Mapping[str, str] = MappingProxyType({"validation_loss": "min"})
    """What `measure` returns that may say which evaluation is best, and whether more is better (max) or less (min)."""
    skips_weights: bool = False
    """Whether a step may leave some weights without a gradient (heads of other tasks)."""
    splits: bool = True
    """Whether a batch's loss is the sum of its parts', however it is cut; not so where rows are compared with each other."""

    def begin(self, steps: int) -> None:
        """Told before the first batch how many steps the whole run has, for what moves over it."""
        return

    def steps_per_epoch(self, batch_size: int) -> int:
        """Whole batches in a pass over the training examples."""
        return steps_per_epoch(self.size, batch_size)

    def epoch(self, number: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
        """The batches of an epoch as numbers of examples; a function of the seed and the epoch alone."""
        return epoch_batches(self.size, batch_size, seed, number, self.lengths)

    def batch(self, indices: np.ndarray, seed: int, step: int) -> Batch:
        """The rows of these training examples; what is random comes from the seed and the step's number (from 0) alone."""
        ...

    def count(self, batch: Batch) -> float:
        """How many targets a batch has (or their weights' sum): the loss is a mean over them."""
        ...

    def tokens(self, batch: Batch) -> int:
        """How many tokens a model reads in a batch, without padding."""
        return int(batch["attention_mask"].sum())

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The sum of the losses of a batch's targets."""
        ...

    def evaluate(self, model: nn.Module, indices: np.ndarray, device: torch.device) -> Any:
        """What the model says of these validation examples, in a form that can be sent between workers."""
        ...

    def measure(self, parts: Sequence[Any]) -> dict[str, float]:
        """The figures over all workers' parts."""
        ...


class Learner(Objective, Protocol):
    """An objective that also knows how its model is published."""

    def save(self, model: nn.Module, directory: Path) -> dict[str, float]:
        """Write the model's directory; returns figures about it (parameters)."""
        ...


class Wrapping(Learner):
    """What another objective learns, by a loss of its own: all that it does not say itself is the other's."""

    def __init__(self, inner: Learner) -> None:
        self.inner = inner
        self.size, self.lengths, self.validation_size = inner.size, inner.lengths, inner.validation_size
        self.score, self.mode, self.measures = inner.score, inner.mode, inner.measures
        self.skips_weights, self.splits = inner.skips_weights, inner.splits

    def begin(self, steps: int) -> None:
        """The other is told too."""
        self.inner.begin(steps)

    def steps_per_epoch(self, batch_size: int) -> int:
        """The other's."""
        return self.inner.steps_per_epoch(batch_size)

    def epoch(self, number: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
        """The other's."""
        return self.inner.epoch(number, batch_size, seed)

    def batch(self, indices: np.ndarray, seed: int, step: int) -> Batch:
        """The other's rows."""
        return self.inner.batch(indices, seed, step)

    def count(self, batch: Batch) -> float:
        """As the other counts."""
        return self.inner.count(batch)

    def tokens(self, batch: Batch) -> int:
        """As the other counts."""
        return self.inner.tokens(batch)

    def evaluate(self, model: nn.Module, indices: np.ndarray, device: torch.device) -> Any:
        """As the other does: its figures compare with those of a model that learned by it alone."""
        return self.inner.evaluate(model, indices, device)

    def measure(self, parts: Sequence[Any]) -> dict[str, float]:
        """The other's figures."""
        return self.inner.measure(parts)

    def save(self, model: nn.Module, directory: Path) -> dict[str, float]:
        """As the other does."""
        return self.inner.save(model, directory)


class Hooks(Protocol):
    """Where the loop runs: what becomes of its figures and checkpoints. All workers call each of them alike."""

    def progress(self, figures: dict[str, float]) -> None:
        """A line for people."""
        ...

    def note(self, text: str) -> None:
        """Something that a person should know."""
        ...

    def evaluated(self, figures: dict[str, float], state: Callable[[], State]) -> None:
        """An evaluation is done; a search may keep the state, or stop the run here."""
        ...

    def save(self, state: Callable[[], State]) -> None:
        """Keep a checkpoint."""
        ...

    def preempted(self) -> bool:
        """Whether a node of this run is about to be taken away."""
        ...

    def restore(self) -> State | None:
        """The last checkpoint of this run, if it is going on."""
        ...
