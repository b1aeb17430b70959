"""Frozen weights: embeddings, the first layers, or all layers until their turn comes (gradual unfreezing).

freezing = Freezing(model, settings)
freezing.at(model, step, total)      # before each step
"""

from torch import nn

from jobs.architectures.layers import depths
from jobs.core.config import BadInput, Problem
from jobs.training.settings import Freeze


class Freezing:
    """Which weights train at a step; a function of the step alone, so that a resumed run needs no memory of it."""

    def __init__(self, model: nn.Module, settings: Freeze) -> None:
        self.share = settings.gradual
        self.turns: dict[str, float] = {}
        if not (settings.embeddings or settings.layers or settings.gradual):
            return
        depth = depths(model)
        head = max(depth.values())
        if settings.layers >= head:
            reason = f"the model has only {head - 1} layers"
            raise BadInput([Problem("freeze.layers", settings.layers, reason, "Lower it.")])
        stays = settings.layers if settings.layers else (0 if settings.embeddings else -1)
        later = {name for name, weight in model.named_parameters() if weight.requires_grad and stays < depth[name] < head}
        for name, weight in model.named_parameters():
            weight.requires_grad_(weight.requires_grad and depth[name] > stays)
        # From the top down, one depth after another; the embeddings are the last.
        places = sorted({depth[name] for name in later}, reverse=True)
        self.turns = {name: (places.index(depth[name]) + 1) / len(places) for name in later}

    def at(self, model: nn.Module, step: int, total: int) -> None:
        """Free what is due at this step (counted from 0), freeze what is not."""
        if self.share:
            for name, weight in model.named_parameters():
                if name in self.turns:
                    weight.requires_grad_(step >= round(self.turns[name] * self.share * total))
