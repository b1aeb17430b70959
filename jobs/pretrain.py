"""pretrain: TOKENS become a base MODEL with Ray Train, from scratch or from a base to go on from.

    ray job submit --working-dir . -- python -m jobs.pretrain jobs/recipes/spam.yaml --step base

The objective says what is learned: hidden tokens, also with pairs of segments, the next token, spans taken out.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from cluster.store.artifact import Artifact, Kind
from jobs.architectures.language_models import PAIR_OBJECTIVES
from jobs.architectures.models import check_model
from jobs.architectures.new import ARCHITECTURES_BY_OBJECTIVE, NewModelConfig
from jobs.core.config import BadInput, Problem
from jobs.core.idle import Rule
from jobs.core.metric import Metric
from jobs.core.stage import Completion, Context, Input, Inputs, Outcome, Preflight, Searchable, Stage
from jobs.data.sources import model_fingerprint
from jobs.losses.settings import TokenMix
from jobs.running.cli import main
from jobs.training.settings import RULES, StepSkipping, Training
from serve.engines.card import ObjectiveName

if TYPE_CHECKING:
    from torch import nn

    from jobs.contracts.objective import Learner


class PretrainStepSkipping(StepSkipping):
    """When a step is thrown away: here spikes too, unless spike is null."""

    spike: float | None = Field(3.0, gt=1)
    """Skip a step whose loss is more than so many times the running mean of the losses before."""


class PretrainConfig(Training):
    """What is learned and by what model."""

    objective: ObjectiveName = "masked"
    """masked: predict hidden tokens (BERT). masked_next_sentence, masked_sentence_order: and whether B follows A (BERT),
    whether A and B were exchanged (ALBERT). causal: the next token (GPT). span_corruption: spans taken out (T5)."""
    masking: Literal["tokens", "whole_words", "spans"] = "tokens"
    """What the masked objectives hide at once; spans as SpanBERT does."""
    mask_probability: float = Field(0.15, gt=0, lt=1)
    """Share of the tokens to predict; causal predicts all."""
    model: NewModelConfig | None = None
    """A new model's shape; leave it out to go on from a base."""
    base: str | None = None
    """The model to go on from: sample:NAME, a directory or a hub's name; inputs.init names a step's instead."""

    mix: TokenMix = TokenMix()
    """With inputs.teacher: what its answers count beside the text."""
    stability: PretrainStepSkipping = PretrainStepSkipping()
    """When a step is thrown away."""

    @model_validator(mode="after")
    def _fits(self) -> "PretrainConfig":
        if self.model is not None and self.base is not None:
            raise ValueError("give model (a new one) or base (one to go on from), not both")
        fitting = ARCHITECTURES_BY_OBJECTIVE[self.objective]
        if self.model is not None and self.model.architecture not in fitting:
            raise ValueError(f"a new {self.model.architecture} cannot learn by {self.objective}; use {', '.join(fitting)}")
        if self.masking != "tokens" and not self.objective.startswith("masked"):
            raise ValueError(f"masking: {self.masking} is for the masked objectives, not for {self.objective}")
        return self


def sources(config: PretrainConfig) -> dict[str, str]:
    """The fingerprint of a base from outside."""
    return {} if config.base is None else {"base": model_fingerprint(config.base)}


def check(config: PretrainConfig) -> list[Problem]:
    """A base that is not there or has no weights."""
    return [] if config.base is None else check_model(config.base, "base")


def origin(config: PretrainConfig, inputs: Inputs) -> NewModelConfig | str | Artifact:
    """A new model's shape or where the base is; BadInput unless exactly one is given."""
    given = [one for one in (config.model, config.base, inputs.maybe("init")) if one is not None]
    if len(given) != 1:
        reason = "a model comes from one of model (a new one's shape), base and inputs.init"
        raise BadInput([Problem("model", None, f"{reason}, and {len(given)} are given", "Give exactly one.")])
    return given[0]


def build(config: PretrainConfig, inputs: Inputs) -> tuple["nn.Module", "Learner"]:
    """The model, with fresh weights or the base's, and its objective."""
    from jobs.architectures.new import new_model
    from jobs.data.tokenizer import tokenizer_of
    from jobs.data.training_rows import row_length
    from jobs.objectives.pretrained import load_base, objective_of, wrapped

    tokens = inputs.one("tokens")
    _check_layout(config, tokens)
    tokenizer = tokenizer_of(tokens)
    length = row_length(tokens)
    begun = origin(config, inputs)
    if isinstance(begun, NewModelConfig):
        model = wrapped(new_model(begun, config.objective, tokenizer, length), config.objective, length)
    else:
        model = load_base(begun, config.objective, tokenizer, length)
    masks = (config.mask_probability, config.masking)
    objective = objective_of(config.objective, tokens, tokenizer, model.model.config, *masks)
    teacher = inputs.maybe("teacher")
    if teacher is None:
        return model, objective
    from jobs.objectives.distilled_language import DistilledLanguage

    return model, DistilledLanguage(objective, teacher, config.mix)


def _check_layout(config: PretrainConfig, tokens: Artifact) -> None:
    """BadInput where the objective needs pairs and the text is packed, or the other way round."""
    has = tokens.manifest.details.get("segments", "packed")
    needs = "pairs" if config.objective in PAIR_OBJECTIVES else "packed"
    if has != needs:
        reason = f"{config.objective} reads segments: {needs}, and {tokens.manifest.step} was prepared with segments: {has}"
        raise BadInput([Problem("objective", config.objective, reason, f"Prepare the text with segments: {needs}.")])


def _check_teacher(config: PretrainConfig, inputs: Inputs) -> None:
    """BadInput where there is no teacher to weigh, or one that says nothing of what the student learns."""
    from jobs.objectives.distilled_language import check_soft

    teacher = inputs.maybe("teacher")
    if teacher is not None:
        masks = {"mask_probability": config.mask_probability, "masking": config.masking}
        check_soft(teacher, inputs.one("tokens"), config.objective, masks)
    elif config.mix != TokenMix():
        raise BadInput([Problem("mix", None, "there is no teacher to weigh", "Give inputs.teacher, or leave mix out.")])


def run(config: PretrainConfig, inputs: Inputs, context: Context) -> Outcome:
    """Train, and publish the model with its tokenizer."""
    from jobs.data.training_rows import row_length
    from jobs.training.ray_train import train

    origin(config, inputs)
    _check_layout(config, inputs.one("tokens"))
    _check_teacher(config, inputs)
    outcome = train(build, config, inputs, context)
    # The card says it too; older code reads it here.
    return replace(outcome, details={**outcome.details, "max_length": row_length(inputs.one("tokens"))})


PRETRAIN_RULES = (
    *RULES,
    *(
        Rule(key, (), lambda _, inputs: "init" not in inputs, "inputs.init names a base already", "Leave out one of them.")
        for key in ("model", "base")
    ),
    Rule(
        "mask_probability",
        ("objective",),
        lambda config, _: config.objective != "causal",
        "causal hides nothing and predicts every token",
        "Leave it out, or use another objective.",
    ),
    Rule(
        "mix",
        (),
        lambda _, inputs: "teacher" in inputs,
        "there is no teacher to weigh",
        "Give inputs.teacher, or leave mix out.",
    ),
    Rule(
        "mix.annealing",
        ("mix.alpha_end",),
        lambda config, _: config.mix.alpha_end is not None,
        "alpha stays over the run",
        "Give mix.alpha_end, or leave it out.",
    ),
)
"""What keys need to do something."""

STAGE = Stage(
    name="pretrain",
    purpose="pretrain a language model with Ray Train, from scratch or from a base",
    config=PretrainConfig,
    run=run,
    inputs={
        "tokens": Input(Kind.TOKENS, "text from prepare, cut into tokens"),
        "teacher": Input(Kind.PREDICTIONS, "a language model's soft labels for these tokens, from predict", optional=True),
        "init": Input(Kind.MODEL, "the model to go on from, where base does not name one", optional=True),
    },
    output=Kind.MODEL,
    version=3,
    metrics=(Metric("validation_loss", mode="min"), Metric("perplexity", mode="min"), Metric("pair_accuracy")),
    preflight=Preflight(sources, check, PRETRAIN_RULES),
    searchable=Searchable(),
    completion=Completion(headline=("steps_per_second",)),
)

if __name__ == "__main__":
    main(STAGE)
