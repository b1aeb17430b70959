"""The engine of a bag of features: numpy alone, one window an item, nothing padded.

    engine = BagEngine(card, "numpy", load_bag(directory, "bag.safetensors", card.max_length, fields=1), budget, threads=1)

B batch, D columns of the table, N items.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from tokenizers import Encoding

from serve.engines.bag import BagModel
from serve.engines.bag_reading import BagWindow
from serve.engines.base import TOGETHER_BATCHES, Engine, of_length_1
from serve.engines.card import Card
from serve.engines.lengths import BatchBudget
from serve.engines.reading import as_read
from serve.tasks.protocol import Item, Outputs


class BagEngine(Engine):
    """A bag ready to answer."""

    def __init__(self, card: Card, variant: str, bag: BagModel, budget: BatchBudget, threads: int) -> None:
        super().__init__(card, variant, budget, threads, embeds=card.variants[variant].hidden_states)
        self.bag = bag

    def outputs(self, items: Sequence[Item]) -> Outputs:
        """As Engine.outputs. No item costs another anything, so they are run as they come."""
        together = TOGETHER_BATCHES * self.budget.texts
        if self.plain and 0 < len(items) <= together:
            return self.bag(self._windows(items))
        return super().outputs(items)

    def tokenise(self, items: Sequence[Item]) -> list[list[Encoding]]:
        """As Engine.tokenise: an item has one window, which knows how long it is and not where its features stand."""
        return [[cast(Encoding, window)] for window in self._windows(items)]

    def forward(self, windows: Sequence[Encoding]) -> Outputs:
        """As Engine.forward."""
        outputs_NK = self.bag(cast(Sequence[BagWindow], windows))
        return outputs_NK if self.plain else list(outputs_NK)

    def embed(self, windows: Sequence[Encoding]) -> np.ndarray:
        """As Engine.embed: the sum that the bag has for a text, of several their mean."""
        sums_BD = np.stack([self.bag.sums(window).mean(axis=0) for window in cast(Sequence[BagWindow], windows)])
        return of_length_1(sums_BD)

    def describe(self, directory: Path) -> dict[str, Any]:
        """As Engine.describe."""
        return {"shape": self.bag.described(), "parameters": self.card.parameters}

    def _windows(self, items: Sequence[Item]) -> list[BagWindow]:
        cleaning = self.card.cleaning
        return self.bag.reader([as_read(item, cleaning).item.values for item in items])
