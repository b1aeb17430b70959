"""What a recipe says of training; pretrain, finetune, distil and healing share it. No torch in here."""

from typing import Literal

from pydantic import Field

from jobs.core.config import SPEED_ONLY, Config
from jobs.core.idle import Rule


class Optimizer(Config):
    """What moves the weights."""

    name: Literal["adamw", "adam", "sgd", "adagrad"] = "adamw"
    """adamw: Loshchilov & Hutter 2019."""
    learning_rate: float = Field(1e-4, gt=0, le=10)
    """The highest rate, reached after warm-up."""
    weight_decay: float = Field(0.01, ge=0)
    """Decay of weight matrices; biases and norms are spared. adamw decouples it, the others add it to the gradient (L2)."""
    l1: float = Field(0.0, ge=0)
    """After each step weight matrices are drawn to 0 by learning rate × l1 (soft thresholding): many end at 0."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Each layer's rate is the one above's times this, the head has the whole rate (Clark et al. 2020)."""
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


class Freeze(Config):
    """Which weights stay as they are."""

    embeddings: bool = False
    """The embeddings stay."""
    layers: int = Field(0, ge=0)
    """So many layers from the bottom stay, and the embeddings with them."""
    gradual: float = Field(0.0, ge=0, le=1)
    """Share of the run in which layers are freed one after another, from the top; the head learns from the first step
    (Howard & Ruder 2018)."""


class StepSkipping(Config):
    """When a step is thrown away. Steps whose gradient is not finite always are."""

    spike: float | None = Field(None, gt=1)
    """Skip a step whose loss is more than so many times the running mean of the losses before."""
    window: int = Field(50, ge=2)
    """The running mean goes over about so many steps, and nothing is called a spike before so many."""
    limit: int = Field(10, ge=0)
    """The run is stopped when more steps than this were skipped."""


class Training(Config):
    """How long, how much at once, how exact."""

    optimizer: Optimizer = Optimizer()
    """What moves the weights."""
    schedule: Schedule = Schedule()
    """How the learning rate moves."""
    freeze: Freeze = Freeze()
    """Which weights stay as they are."""
    stability: StepSkipping = StepSkipping()
    """When a step is thrown away."""
    epochs: float = Field(3.0, gt=0)
    """Passes over the training split."""
    max_steps: int | None = Field(None, ge=1)
    """Stop after so many steps whatever epochs says."""
    batch_size: int = Field(32, ge=1)
    """Examples in one step, over all workers and accumulated parts."""
    gradient_accumulation: int = Field(1, ge=1, json_schema_extra=SPEED_ONLY)
    """Parts into which each worker's share of a step is cut."""
    clip_norm: float = Field(1.0, gt=0)
    """Gradients longer than this are shortened to it."""
    average: float | None = Field(None, gt=0, lt=1)
    """Judge and publish an exponential moving average of the weights with this decay, e.g. 0.999."""
    activation_checkpointing: bool = Field(False, json_schema_extra=SPEED_ONLY)
    """Compute activations again in the backward pass instead of keeping them: less memory, about a third slower."""
    compile: bool = Field(False, json_schema_extra=SPEED_ONLY)
    """Compile the model (torch.compile): slow to start; pays on GPUs in long runs."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the hardware computes in it, else fp32. fp16 needs a GPU."""
    seed: int = Field(0, ge=0)
    """Seed of order, masking, dropout and new weights."""
    evaluations: int = Field(3, ge=1)
    """Evaluations on the validation split, evenly spread; the last is at the end."""
    monitor: str | None = None
    """The figure that says which evaluation is best (default: the task's own), e.g. accuracy or validation_loss."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many evaluations without a better one."""
    keep: Literal["best", "last"] = "best"
    """Which weights are published."""
    checkpoint_seconds: float = Field(60.0, gt=0, json_schema_extra=SPEED_ONLY)
    """A checkpoint is written at least this often (when workers are lost, training goes on from there)."""
    checkpoint_steps: int | None = Field(None, ge=1, json_schema_extra=SPEED_ONLY)
    """Write a checkpoint every so many steps instead."""


RULES = (
    *(
        Rule(
            f"optimizer.{beta}",
            ("optimizer.name",),
            lambda config, _: config.optimizer.name in ("adamw", "adam"),
            "only adamw and adam have it",
            "Leave it out, or use adamw or adam.",
        )
        for beta in ("beta1", "beta2")
    ),
    Rule(
        "optimizer.momentum",
        ("optimizer.name",),
        lambda config, _: config.optimizer.name == "sgd",
        "only sgd has it",
        "Leave it out, or use sgd.",
    ),
    Rule(
        "stability.window",
        ("stability.spike",),
        lambda config, _: config.stability.spike is not None or "spike" in config.stability.model_fields_set,
        "no step is skipped for its loss unless spike says from where on",
        "Give stability.spike too, or leave it out.",
    ),
    Rule(
        "checkpoint_seconds",
        ("checkpoint_steps",),
        lambda config, _: config.checkpoint_steps is None,
        "checkpoint_steps takes its place",
        "Leave out one of them.",
    ),
    Rule(
        "patience",
        ("evaluations", "patience"),
        lambda config, _: config.patience < config.evaluations - 1,
        "the run is over before so many evaluations can have followed the best one",
        "Raise evaluations (to patience + 2 or more), or lower it.",
    ),
    Rule(
        "monitor",
        ("keep", "patience"),
        lambda config, _: config.keep == "best" or config.patience is not None,
        "the last weights are published, and nothing stops the run before",
        "Leave it out, or set keep: best or a patience.",
    ),
)
"""What keys of `Training` need to do something."""
