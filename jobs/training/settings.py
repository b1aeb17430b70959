"""What a recipe says of training; pretrain, finetune, distil and healing share it. No torch in here."""

from typing import Literal

from pydantic import Field

from jobs.core.config import Config


class Optimizer(Config):
    """What moves the weights."""

    name: Literal["adamw", "adam", "sgd", "adagrad"] = "adamw"
    """adamw decouples weight decay (Loshchilov & Hutter 2019)."""
    learning_rate: float = Field(1e-4, gt=0, le=10)
    """The highest rate, reached after warm-up."""
    weight_decay: float = Field(0.01, ge=0)
    """Decay of weight matrices; biases and norms are spared."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """adam, adamw: decay of the gradient's mean."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """adam, adamw: decay of the gradient's square."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """sgd: momentum."""


class Schedule(Config):
    """How the learning rate moves over the run."""

    name: Literal["linear", "cosine", "constant"] = "linear"
    """After warm-up: down to 0 in a line or a cosine, or staying."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps in which the rate rises from 0."""


class Training(Config):
    """How long, how much at once, how exact."""

    optimizer: Optimizer = Optimizer()
    """What moves the weights."""
    schedule: Schedule = Schedule()
    """How the learning rate moves."""
    epochs: float = Field(3.0, gt=0)
    """Passes over the training split."""
    max_steps: int | None = Field(None, ge=1)
    """Stop after so many steps whatever epochs says."""
    batch_size: int = Field(32, ge=1)
    """Examples in one step, over all workers and accumulated parts."""
    gradient_accumulation: int = Field(1, ge=1)
    """Parts into which each worker's share of a step is cut."""
    clip_norm: float = Field(1.0, gt=0)
    """Gradients longer than this are shortened to it."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the hardware computes in it, else fp32. fp16 needs a GPU."""
    seed: int = Field(0, ge=0)
    """Seed of order, masking, dropout and new weights."""
    evaluations: int = Field(3, ge=1)
    """Evaluations on the validation split, evenly spread; the last is at the end."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many evaluations without a better one."""
    keep: Literal["best", "last"] = "best"
    """Which weights are published."""
    checkpoint_seconds: float = Field(60.0, gt=0)
    """A checkpoint is written at least this often (when workers are lost, training goes on from there)."""
    checkpoint_steps: int | None = Field(None, ge=1)
    """Write a checkpoint every so many steps instead."""
