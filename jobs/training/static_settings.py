"""What a recipe may say of a step whose student is static: what it trains by, where its vectors come from, what it has not.

    encoder = encoder_of(config.model, inputs)        # a name, another step's model, or None: vectors of chance

No torch in here.
"""

from collections.abc import Mapping
from typing import Any

from cluster.store.artifact import Artifact
from jobs.architectures.settings import StaticStudent
from jobs.core.config import BadInput, Problem
from jobs.core.idle import Rule
from jobs.core.stage import Inputs, Resources

USUAL_KEYS = {"epochs": 10.0, "batch_size": 64}
USUAL_RATE = 3e-3
"""A static student has few weights, and most of them move in few steps: it trains faster, and longer, than a transformer."""
ENCODER_KEYS = ("inputs.teacher_model", "inputs.init", "model")
TRANSFORMERS_OWN = {
    "match": "it has no inner states that could be like the teacher's",
    "adapter": "it has no matrices that adapters would stand beside",
    "freeze": "it has no layers to freeze",
    "dropout": "it has none but student.token_dropout",
    "compile": "there is nothing to compile in it",
    "activation_checkpointing": "it keeps next to nothing for the backward pass",
    "optimizer.layer_decay": "it has no layers whose rates could differ",
}
"""Keys that say something of transformers alone, each with why a static student has no use for it."""

STATIC_RULES = (
    *(
        Rule(key, ("student",), lambda config, _: not isinstance(config.student, StaticStudent), reason, "Leave it out.")
        for key, reason in TRANSFORMERS_OWN.items()
    ),
    Rule(
        "max_length",
        ("student",),
        lambda config, _: not isinstance(config.student, StaticStudent) or config.student.features == "tokens",
        "it counts tokens, and the student reads words or grams",
        "Leave it out, or use student.features: tokens.",
    ),
    Rule(
        "student.vocabulary",
        ("student.features",),
        lambda config, _: config.student.features == "tokens",
        "it is for features: tokens; words and grams are those of the training texts",
        "Leave it out.",
    ),
    Rule(
        "student.rows",
        ("student.features",),
        lambda config, _: config.student.features == "grams",
        "it is for features: grams; tokens and words have a row each",
        "Leave it out.",
    ),
    Rule(
        "student.weights",
        ("student.features",),
        lambda config, _: getattr(config.student, "features", None) != "grams",
        "grams share rows by their hash, so that all vectors are of chance",
        "Leave it out.",
    ),
    Rule(
        "student.smoothing",
        ("student.mean",),
        lambda config, _: config.student.mean == "learned",
        "in a plain mean all count alike",
        "Leave it out, or use mean: learned.",
    ),
)
"""What keys are none of a static student's."""


def with_static_defaults(given: Any) -> Any:
    """What a recipe says, with what is usual for static students where it says nothing."""
    student = given.get("student") if isinstance(given, Mapping) else None
    kind = student.get("kind") if isinstance(student, Mapping) else getattr(student, "kind", None)
    if kind != "static":
        return given
    filled, optimizer = {**USUAL_KEYS, **given}, given.get("optimizer", {})
    if isinstance(optimizer, Mapping):
        filled["optimizer"] = {"learning_rate": USUAL_RATE, **optimizer}
    return filled


def encoder_of(model: str | None, inputs: Inputs) -> str | Artifact | None:
    """Where vectors come from; None: from nowhere."""
    return inputs.maybe("teacher_model") or inputs.maybe("init") or model


def given_encoders(model: str | None, inputs: Any) -> list[str]:
    """The keys that name an encoder."""
    given = [key for key in ENCODER_KEYS[:2] if inputs.get(key.removeprefix("inputs."))]
    return [*given, "model"] if model is not None else given


def encoder_problems(student: StaticStudent, model: str | None, inputs: Any) -> list[Problem]:
    """Several encoders, or none where one is needed, as far as a recipe says it."""
    given = given_encoders(model, inputs)
    if len(given) > 1:
        reason = "a static student has its vectors from one encoder"
        return [Problem(key, None, reason, f"Leave out all but one of {', '.join(given)}.") for key in given[1:]]
    if not given and student.features == "tokens":
        remedy = f"Name one in {', '.join(ENCODER_KEYS)}, or set student.features: words or grams."
        reason = "tokens are those of an encoder's tokenizer, and there is no encoder"
        return [Problem("student.features", "tokens", reason, remedy)]
    if not given and student.features == "words" and "weights" in student.model_fields_set and student.weights == "copied":
        remedy = f"Name an encoder in {', '.join(ENCODER_KEYS)}, or leave it out: vectors of chance learn too."
        return [Problem("student.weights", "copied", "there is no encoder to copy from", remedy)]
    if given and student.features == "grams":
        reason = "grams share rows by their hash, so no vector comes from an encoder"
        return [Problem(given[0], None, reason, "Leave it out, or use student.features: tokens or words.")]
    return []


def spreading_problems(resources: Resources) -> list[Problem]:
    """A model without layers is not cut among workers."""
    if resources.parallel == "ddp" or resources.workers == 1:
        return []
    reason = "a static student has no layers that workers could share"
    return [Problem("resources.parallel", resources.parallel, reason, "Use ddp.")]


def check_static(student: StaticStudent, model: str | None, inputs: Inputs, resources: Resources) -> None:
    """BadInput for what the recipe says and cannot be."""
    if problems := encoder_problems(student, model, inputs) + spreading_problems(resources):
        raise BadInput(problems)
