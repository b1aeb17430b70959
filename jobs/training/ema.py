"""An exponential moving average of the weights (Polyak & Juditsky 1992), to judge and to publish.

ema = ExponentialMovingAverage(model, 0.999)
ema.update(model)
with ema.applied(model): …
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """The running average of the weights that train; early steps have a shorter memory, so that it starts near them."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.values = {name: weight.detach().clone() for name, weight in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the weights as they are now."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, weight in model.named_parameters():
            self.values[name].lerp_(weight.detach(), 1 - decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model with the average in the place of its weights."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        for name, weight in model.named_parameters():
            now = weight.detach().clone()
            weight.copy_(self.values[name])
            self.values[name].copy_(now)

    @torch.no_grad()
    def load_into(self, model: nn.Module) -> None:
        """The average becomes the model's weights."""
        for name, weight in model.named_parameters():
            weight.copy_(self.values[name])

    def load(self, values: Mapping[str, Tensor], updates: int) -> None:
        """Go on from a checkpoint."""
        self.updates = updates
        for name, value in values.items():
            self.values[name].copy_(value)
