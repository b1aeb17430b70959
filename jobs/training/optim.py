"""Optimizers and learning-rate schedules from their settings."""

import math
from collections.abc import Iterable
from itertools import product

import torch
from torch import nn, optim
from torch.distributed.tensor import DTensor

from jobs.architectures.layers import depths
from jobs.training.settings import Optimizer, Schedule


def make_optimizer(model: nn.Module, settings: Optimizer) -> optim.Optimizer:
    """The optimizer over all weights that train; vectors (biases, norms) have no weight decay.

    Each group has a `scale`: what its learning rate is of the head's, by layer-wise decay.
    """
    groups = _groups(model, settings)
    betas = (settings.beta1, settings.beta2)
    if settings.name == "adamw":
        return optim.AdamW(groups, lr=settings.learning_rate, betas=betas, fused=True)
    if settings.name == "adam":
        return optim.Adam(groups, lr=settings.learning_rate, betas=betas, fused=True)
    if settings.name == "sgd":
        return optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)
    return optim.Adagrad(groups, lr=settings.learning_rate)


def _groups(model: nn.Module, settings: Optimizer) -> list[dict[str, object]]:
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    layered = settings.layer_decay < 1
    depth = depths(model) if layered else dict.fromkeys(trained, 0)
    top = max(depth.values())
    groups = []
    for place in sorted(set(depth.values())):
        scale = settings.layer_decay ** (top - place) if layered else 1.0
        here = [weight for name, weight in trained.items() if depth[name] == place]
        # Shards and whole tensors do not go into one kernel, hence not into one group.
        for matrices, cut in product((True, False), (True, False)):
            weights = [weight for weight in here if (weight.ndim >= 2) == matrices and isinstance(weight, DTensor) == cut]
            decay = settings.weight_decay if matrices else 0.0
            groups.append({"params": weights, "weight_decay": decay, "scale": scale, "l1": settings.l1 if matrices else 0.0})
    return [group for group in groups if group["params"]]


def set_learning_rate(optimizer: optim.Optimizer, rate: float) -> None:
    """Give each group its share of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


@torch.no_grad()
def shrink(groups: Iterable[dict[str, object]]) -> None:
    """L1 by its proximal step: weights that moved in this step are drawn towards 0 by rate × l1, and stop there.

    Soft thresholding (Parikh & Boyd 2014, section 6.5.2), decoupled from the gradient as AdamW's decay is.
    """
    for group in groups:
        if not group["l1"]:
            continue
        for weight in group["params"]:  # type: ignore[attr-defined]
            if weight.grad is not None:
                weight.copy_(weight.sign() * (weight.abs() - group["lr"] * group["l1"]).clamp_(min=0))  # type: ignore[operator]


def learning_rate_factor(step: int, total: int, settings: Schedule) -> float:
    """What the learning rate is multiplied by at a step (counted from 0); a function of the step alone."""
    warm = math.ceil(total * settings.warmup)
    if step < warm:
        return (step + 1) / warm
    if settings.name == "constant":
        return 1.0
    done = (step - warm) / max(1, total - warm)
    return 1.0 - done if settings.name == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
