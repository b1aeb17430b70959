"""What every engine does with items, whatever runs its model: cut, run in batches, joined, settled, answered.

    engine.answers([Item(("Win a prize now",))])[0].label

Engines of one kind of model say how texts are cut and windows run (engine.py: transformers; bag_engine.py: bags of features);
nothing above them knows which one it has. B batch, D numbers of a vector.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel
from tokenizers import Encoding

from serve.engines.card import Card, EngineError
from serve.engines.lengths import BatchBudget, batches
from serve.tasks.protocol import Item, Output, Outputs

# Items tokenised and sorted together: long enough to make even batches, short enough to bound memory.
TOGETHER_BATCHES = 64


class Engine(ABC):
    """A model ready to answer. Calls from several threads at once are safe, but gain nothing over one at a time."""

    def __init__(self, card: Card, variant: str, budget: BatchBudget, threads: int, embeds: bool) -> None:
        assert card.task is not None, "the caller has looked"
        self.card, self.task = card, card.task
        self.variant = variant
        self.fitted = card.variants[variant].fitted
        self.budget = budget
        self.threads = threads
        self.embeds = embeds
        """Whether `embed` has anything to give."""
        # Then a batch of windows is a batch of items.
        self.plain = self.task.dense and not self.task.windows

    @abstractmethod
    def tokenise(self, items: Sequence[Item]) -> list[list[Encoding]]:
        """The windows of each item, cleaned as the model's training texts were and cut at its length. Offsets are places in
        the items as they are: from here on nothing knows that they were cleaned."""

    @abstractmethod
    def forward(self, windows: Sequence[Encoding]) -> Outputs:
        """What the model says of each window of one batch, run as it is."""

    @abstractmethod
    def embed(self, windows: Sequence[Encoding]) -> np.ndarray:
        """float32 vectors_BD of one batch, scaled to length 1; asked only where it `embeds`."""

    @abstractmethod
    def describe(self, directory: Path) -> dict[str, Any]:
        """What the model is: its shape in words, and its number of parameters."""

    def outputs(self, items: Sequence[Item]) -> Outputs:
        """What the model says of each item, as it says it: nothing that was fitted is applied. Batches are of like length."""
        found: list[Output] = []
        together = TOGETHER_BATCHES * self.budget.texts
        for start in range(0, len(items), together):
            found += self._outputs(items[start : start + together])
        return self.task.stacked(found)

    def settled(self, items: Sequence[Item]) -> Outputs:
        """The same with what was fitted for the variant applied: what the engine answers by."""
        return self.task.settled(self.outputs(items), self.fitted)

    def answers(self, items: Sequence[Item], options: BaseModel | None = None) -> list[Any]:
        """One answer an item, in their order; without options all that can be said."""
        return self.task.answers(self.settled(items), items, options) if items else []

    def run(self, windows: Sequence[Encoding]) -> Outputs:
        """`forward`, for `joined`: where a window is an item, what was fitted is applied to all at once."""
        return self.task.settled(self.forward(windows), self.fitted) if self.plain else self.forward(windows)

    def joined(self, item: Item, windows: Sequence[Encoding], outputs: Sequence[Output]) -> Output:
        """The settled output of an item from what `run` gave for its windows."""
        if self.plain:
            return outputs[0]
        return self.task.settled(self.task.stacked([self.task.combine(windows, outputs, item)]), self.fitted)[0]

    def joined_vectors(self, item: Item, windows: Sequence[Encoding], vectors: Sequence[np.ndarray]) -> np.ndarray:
        """The vector of an item: the mean of its windows', each counted by its tokens."""
        if len(vectors) == 1:
            return vectors[0]
        shares = np.array([len(window) for window in windows], dtype=np.float32)
        return of_length_1((shares[:, None] * np.stack(vectors)).sum(0, keepdims=True))[0]

    def warm_up(self) -> None:
        """Run a short and a full-length text, and raise EngineError unless the outputs are numbers that fit the task."""
        full = " ".join(["a"] * self.card.max_length)
        for text in ("a", full, "a"):
            item = Item((text,) * len(self.task.fields))
            tokens = max(len(window) for window in self.tokenise([item])[0])
            try:
                output = self.outputs([item])[0]
            except Exception as error:
                raise EngineError(f"the variant {self.variant} fails on a text of {tokens} tokens: {error}") from error
            if wrong := self.task.wrong_output(output):
                raise EngineError(f"the variant {self.variant} gives for one text what does not fit: {wrong}; export it anew")
            arrays = output.values() if isinstance(output, dict) else [output]
            if not all(np.isfinite(array).all() for array in arrays):
                raise EngineError(
                    f"the variant {self.variant} gives {np.asarray(output).tolist()}, not numbers; its weights are damaged"
                )

    def _outputs(self, items: Sequence[Item]) -> list[Output]:
        windows = self.tokenise(items)
        places = [(item, number) for item, own in enumerate(windows) for number in range(len(own))]
        flat = [window for own in windows for window in own]
        said: list[list[Output]] = [[None] * len(own) for own in windows]
        for rows in batches([len(window) for window in flat], self.budget):
            for row, output in zip(rows, self.forward([flat[row] for row in rows]), strict=True):
                item, number = places[row]
                said[item][number] = output
        if self.plain:
            return [outputs[0] for outputs in said]
        return [self.task.combine(*each) for each in zip(windows, said, items, strict=True)]


def of_length_1(vectors_BD: np.ndarray) -> np.ndarray:
    """The vectors, each divided by its length."""
    return vectors_BD / np.maximum(np.linalg.norm(vectors_BD, axis=1, keepdims=True), 1e-12)
