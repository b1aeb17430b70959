"""pretrain: TOKENS become a base MODEL, from scratch, by masked language modelling with Ray Train.

ray job submit --working-dir . -- python -m jobs.pretrain jobs/recipes/spam.yaml --step base
"""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cluster.artifact import Kind
from jobs.core.cli import main
from jobs.core.stage import Context, Input, Inputs, Outcome, Stage
from jobs.training.models import Shape
from jobs.training.settings import Training

if TYPE_CHECKING:
    from torch import nn

    from jobs.training.worker import Learner


class PretrainConfig(Training):
    """What is learned and by what model."""

    objective: Literal["masked"] = "masked"
    """masked: predict hidden tokens (BERT)."""
    model: Shape = Shape()
    """The new model's shape."""
    mask_probability: float = Field(0.15, gt=0, lt=1)
    """Share of the tokens to predict."""


def build(config: PretrainConfig, inputs: Inputs) -> tuple["nn.Module", "Learner"]:
    """The model with fresh weights and its objective."""
    from transformers import AutoTokenizer

    from jobs.training.masked import MaskedModel, MaskedObjective
    from jobs.training.models import new_masked_model

    tokens = inputs.one("tokens")
    directory = tokens.local(tokens.files("tokenizer/"))
    tokenizer = AutoTokenizer.from_pretrained(directory / "tokenizer")
    model = new_masked_model(config.model, tokenizer, int(tokens.manifest.details["max_length"]))
    return MaskedModel(model), MaskedObjective(tokens, tokenizer, config.mask_probability)


def run(config: PretrainConfig, inputs: Inputs, context: Context) -> Outcome:
    """Train, and publish the model with its tokenizer."""
    from jobs.training.worker import train

    return train(build, config, inputs, context)


STAGE = Stage(
    name="pretrain",
    purpose="pretrain a language model from scratch with Ray Train",
    config=PretrainConfig,
    run=run,
    inputs={"tokens": Input(Kind.TOKENS, "packed text from prepare")},
    output=Kind.MODEL,
    version=1,
    headline=("perplexity", "validation_loss", "steps_per_second"),
    score="validation_loss",
    mode="min",
)

if __name__ == "__main__":
    main(STAGE)
