"""Optimizers and learning-rate schedules from their settings."""

import math

from torch import nn, optim

from jobs.training.settings import Optimizer, Schedule


def make_optimizer(model: nn.Module, settings: Optimizer) -> optim.Optimizer:
    """The optimizer over all weights that train; vectors (biases, norms) have no weight decay."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in trained if weight.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [weight for weight in trained if weight.ndim < 2], "weight_decay": 0.0},
    ]
    betas = (settings.beta1, settings.beta2)
    if settings.name == "adamw":
        return optim.AdamW(groups, lr=settings.learning_rate, betas=betas, fused=True)
    if settings.name == "adam":
        return optim.Adam(groups, lr=settings.learning_rate, betas=betas, fused=True)
    if settings.name == "sgd":
        return optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)
    return optim.Adagrad(groups, lr=settings.learning_rate)


def learning_rate_factor(step: int, total: int, settings: Schedule) -> float:
    """What the learning rate is multiplied by at a step (counted from 0); a function of the step alone."""
    warm = math.ceil(total * settings.warmup)
    if step < warm:
        return (step + 1) / warm
    if settings.name == "constant":
        return 1.0
    done = (step - warm) / max(1, total - warm)
    return 1.0 - done if settings.name == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
