"""What a recipe says of compressing a model: what is taken out of it, how it is quantised, how it heals. No torch in here.

prune: {feed_forward: 0.33, layers: 2, steps: 3}
vocabulary: used
factorize: {energy: 0.9}
quantize: [dynamic, static]
calibration: {examples: 256}
allowed_loss: 0.5
heal: {epochs: 1, loss: reverse_kl, temperature: 4, temperature_end: 1}
"""

from collections.abc import Collection
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from jobs.core.config import Config
from jobs.core.idle import Rule
from jobs.core.spaces import QuantizeKind
from jobs.losses.settings import MIX_RULES, Mix
from jobs.training.settings import RULES, Optimizer, Training

Measure = Literal["taylor", "magnitude"]
ROUNDED_TO = 16
"""Kept neurons are a multiple of this: matrix kernels work in blocks."""
Method = Literal["minmax", "entropy", "percentile"]


def kept_neurons(width: int, share_removed: float) -> int:
    """How many of a layer's neurons stay."""
    return min(width, max(ROUNDED_TO, round(width * (1 - share_removed) / ROUNDED_TO) * ROUNDED_TO))


class Prune(Config):
    """What is taken out. Feed-forward neurons, heads and layers really go: what is left is a smaller stock model."""

    feed_forward: float = Field(0.0, ge=0, lt=1)
    """Share of each layer's feed-forward neurons to remove, the least important ones."""
    heads: float = Field(0.0, ge=0, lt=1)
    """Share of each attention's heads to remove, where the architecture's config can say it (llama, mistral, qwen2, qwen3, t5,
    mt5); heads that share keys and values go together."""
    layers: float = Field(0.0, ge=0)
    """Layers to remove, the least important ones: a number, or a share below 1. t5 loses so many in each of its stacks."""
    weights: float = Field(0.0, ge=0, lt=1)
    """Share of the weights of each matrix in the layers to set to 0, the smallest ones (unstructured). Smaller only after
    compression (gzip), not in memory, and no faster."""
    importance: Measure = "taylor"
    """taylor: how much the loss would rise without it, to first order (Molchanov et al. 2017); magnitude: the length of its
    weights, which needs no data. Single weights always go by magnitude."""
    steps: int = Field(1, ge=1)
    """Remove in so many steps, each followed by healing: equal parts, but weights by the cubic schedule (Zhu & Gupta 2017)."""
    calibration_batches: int = Field(16, ge=1)
    """Training batches over which importance is measured, at each step."""

    @field_validator("layers")
    @classmethod
    def _whole_number(cls, layers: float) -> float:
        if layers >= 1 and not layers.is_integer():
            raise ValueError("a number of layers is whole, and a share of them is below 1")
        return layers

    @model_validator(mode="after")
    def _something_in_steps(self) -> "Prune":
        if self.steps > 1 and not self.asked:
            raise ValueError("steps are for something to remove: give feed_forward, heads, layers or weights")
        return self

    @property
    def asked(self) -> bool:
        """Whether anything is to be taken out."""
        return max(self.feed_forward, self.heads, self.layers, self.weights) > 0


class Factorize(Config):
    """Matrices of the layers become products of two thin ones (singular value decomposition), in the exported variants."""

    energy: float = Field(0.9, gt=0, lt=1)
    """Each matrix keeps as many singular values as hold this share of the sum of their squares; a matrix that two would not
    make smaller stays."""


class Calibration(Config):
    """How the fixed scales of static int8 are found: the float model runs over training examples."""

    examples: int = Field(128, ge=1)
    """Training examples that are run."""
    method: Method = "minmax"
    """minmax: the whole range that was seen. entropy (least information lost) and percentile (99.999 %) cut outliers off,
    and with them what some BERT-like models live on: judge before you use them."""


class Quantization(Config):
    """Which quantised variants are made, and what they may cost."""

    quantize: tuple[QuantizeKind, ...] = ("dynamic",)
    """One kind, a list of them or none; each makes a variant that is judged as a candidate of its own. dynamic (int8): int8
    weights and embeddings, activations scaled while running. rowwise (int8_row): a scale for each token, near float's
    answers whatever the batch mates and the processor, and hardly slower. reduced_range (int8_reduced), unsigned
    (int8_unsigned): dynamic with weights of 7 bits, or unsigned ones, which x86 without VNNI runs as they are. blockwise
    (int8_block): scales for each 64 values of a row, nearest to float, slower than rowwise, and without VNNI than float.
    static (int8_static): scales fixed beforehand. int4 (int4): 4-bit weights, the smallest file, hardly faster than float.
    power_of_two (pow2): weights of 15 values, run as int8, for hardware that shifts. fp16 (fp16): half the file, float's
    answers and speed."""
    calibration: Calibration = Calibration()
    """How the fixed scales of static int8 are found."""
    allowed_loss: float | None = Field(None, ge=0)
    """Points of the score on the validation split that `dynamic` may cost against float. Beyond it the nodes that int8 hurts
    most stay float, then rowwise is tried, blockwise, static int8, then training for int8 with the settings of heal."""
    batching: Literal["free", "same"] = "free"
    """same: answers are the same alone and in a batch to 0.001 in probability; dynamic int8 then runs texts one at a time."""

    embeddings: bool = False
    """Whether the ONNX variants give their last hidden states too, so that the service answers POST /v1/embeddings."""

    @field_validator("quantize", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        if isinstance(value, str):
            return () if value == "none" else (value,)
        return value

    @model_validator(mode="after")
    def _allowance_of_dynamic(self) -> "Quantization":
        if len(set(self.quantize)) != len(self.quantize):
            raise ValueError("quantize names a kind twice: name each once")
        if self.allowed_loss is not None and "dynamic" not in self.quantize:
            raise ValueError("allowed_loss is about dynamic int8: add dynamic to quantize, or leave it out")
        return self


class HealOptimizer(Optimizer):
    """What moves the weights."""

    learning_rate: float = Field(5e-5, gt=0, le=10)
    """The highest rate, reached after warm-up."""


class Heal(Mix, Training):
    """Training after each removal, to win back what was lost; from the teacher's soft labels where there are any."""

    optimizer: HealOptimizer = HealOptimizer()
    """What moves the weights."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the training split."""


def _has_fixed_scales(config: Any, inputs: Collection[str]) -> bool:
    return "static" in config.quantize or config.allowed_loss is not None


def _prunes_units(config: Any, inputs: Collection[str]) -> bool:
    return bool({"feed_forward", "heads", "layers"} & config.prune.model_fields_set)


NO_LABELS = "without inputs.examples this is a language model, which is exported and quantised as it is"
COMPRESS_RULES = (
    *(rule.below("heal") for rule in (*RULES, *MIX_RULES)),
    *(
        Rule(
            f"heal.{key}",
            (),
            lambda _, inputs: "teacher" in inputs,
            "there are no soft labels to weigh: the labels alone heal",
            "Give inputs.teacher, or leave it out.",
        )
        for key in Mix.model_fields
    ),
    *(
        Rule(
            f"calibration.{key}",
            (),
            _has_fixed_scales,
            "only static int8 has fixed scales",
            "Add static to quantize, or leave it out.",
        )
        for key in Calibration.model_fields
    ),
    Rule("prune.importance", (), _prunes_units, "single weights go by magnitude, and nothing else goes", "Leave it out."),
    Rule(
        "prune.calibration_batches",
        (),
        lambda config, inputs: _prunes_units(config, inputs) and config.prune.importance == "taylor",
        "nothing that goes is measured over batches",
        "Leave it out: it is for feed_forward, heads and layers by importance: taylor.",
    ),
    *(
        Rule(key, (), lambda _, inputs: "examples" in inputs, NO_LABELS, "Leave it out, or name the labelled rows.")
        for key in ("heal", "max_length")
    ),
    Rule(
        "inputs.tokens",
        (),
        lambda _, inputs: "examples" not in inputs,
        "a model of a task is judged on its own rows",
        "Leave it out: it is for language models, which have no inputs.examples.",
    ),
)
"""What keys and inputs of compress need to do something."""
