"""What a step will do with what it is given, checked over the whole recipe: no step runs whose child would refuse its result.

problems = parent_problems(recipe, recipe.steps)

Only what the recipe itself says is looked at; what data and weights say is checked by the steps as they come to it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from jobs.architectures.language_models import ANSWERING_OBJECTIVES, PAIR_OBJECTIVES
from jobs.architectures.settings import StaticStudent
from jobs.core.config import Problem
from jobs.core.recipe import Recipe, Step
from jobs.judging.against import idle_loss
from jobs.losses.settings import Mix, TokenMix
from jobs.running.bags import bag_problems, learns_bag
from jobs.running.known_splits import divides, has_split
from jobs.running.max_length import length_problems
from jobs.running.nesting import EXCLUDE, nesting_problems
from jobs.running.students import inner_state_problems, layer_problems, static_problems
from jobs.tasks.checks import (
    calibration_problems,
    judged_problems,
    loss_problems,
    other_cleaning,
    other_task,
    soft_loss_problems,
    unfitted_problems,
)
from jobs.training.settings import Training
from serve.engines.card import WRITING_OBJECTIVES

OF_PAIRS = "pair_accuracy"
"""The figure that objectives over pairs alone have."""
A_TASK = "a task"
"""What a model of a task has learned, where a language model has its objective."""
CUTTING = ("source", "text", "clean", "split", "limit", "tokenizer")
"""What decides which tokenizer a prepare step trains."""


def parent_problems(recipe: Recipe, names: Collection[str]) -> list[Problem]:
    """What the named steps cannot do with what they are given, each told once, and splits that do not nest."""
    found: dict[str, Problem] = {}
    for name in names:
        step = recipe.steps[name]
        for problem in (*_of_stage(recipe, step), *bag_problems(recipe, step), *length_problems(recipe, step)):
            told = Problem(f"steps.{name}.{problem.path}", problem.value, problem.reason, problem.remedy)
            found.setdefault(str(told), told)
    return [*found.values(), *nesting_problems(recipe, names)]


def _of_stage(recipe: Recipe, step: Step) -> Iterator[Problem]:
    configs: list[Any] = [*step.variants()]
    if isinstance(configs[0], Training):
        for config in configs:
            yield from _training(step, config)
    if step.stage.name in CHECKS_BY_STAGE:
        for config in configs:
            yield from CHECKS_BY_STAGE[step.stage.name](recipe, step, config)
    if step.spaces and has_split(recipe.steps, step, "validation") is False:
        reason = "a search compares its trials on the validation split, and there is none"
        yield Problem("tune", sorted(step.spaces), reason, "Give prepare one (split.validation), or give single values.")


def learned_by(recipe: Recipe, step: Step) -> str:
    """What a step's model has learned: its objective, or a task."""
    config: Any = step.config
    if step.stage.name == "pretrain":
        return str(config.objective)
    if step.stage.name == "compress":
        found = {learned_by(recipe, recipe.steps[name]) for name in step.inputs["model"]}
        return next((objective for objective in found if objective in WRITING_OBJECTIVES), A_TASK)
    return A_TASK


def _one_origin(step: Step, config: Any, keys: tuple[str, ...]) -> Iterator[Problem]:
    given = [key for key in keys if getattr(config, key) is not None] + ["inputs.init"] * ("init" in step.inputs)
    if len(given) != 1:
        known = f"{', '.join(keys)} or inputs.init"
        reason = f"a model comes from one of {known}, and {len(given)} are given"
        yield Problem(keys[0], given or None, reason, "Give exactly one of them.")


def _training(step: Step, config: Training) -> Iterator[Problem]:
    workers = step.resources.workers
    if step.resources.parallel != "tensor" and step.resources.min_workers is None and config.batch_size < workers:
        reason = f"a batch of {config.batch_size} cannot be divided among {workers} workers"
        yield Problem("batch_size", config.batch_size, reason, "Raise it, or lower resources.workers.")
    if config.precision == "fp16" and step.resources.gpus == 0:
        reason = "the step asks for no GPU, and CPUs do not train in fp16"
        yield Problem("precision", "fp16", reason, "Use auto, or give resources.gpus.")
    yield from _monitor(step, config, "monitor")


def _monitor(step: Step, config: Training, path: str) -> Iterator[Problem]:
    """A figure to judge evaluations by that they do not have."""
    known = [metric.name for metric in step.metrics]
    if step.stage.name != "pretrain":
        known += ["validation_loss"]
    elif getattr(config, "objective", None) not in PAIR_OBJECTIVES:
        known.remove(OF_PAIRS)
    if config.monitor is not None and step.metrics and config.monitor not in known:
        yield Problem(path, config.monitor, "this task has no such figure", f"Known here: {', '.join(known)}.")


def _pretrain(recipe: Recipe, step: Step, config: Any) -> Iterator[Problem]:
    yield from _one_origin(step, config, ("model", "base"))
    tokens = recipe.steps[step.inputs["tokens"][0]]
    cut: Any = tokens.config
    needs = "pairs" if config.objective in PAIR_OBJECTIVES else "packed"
    if cut.segments != needs:
        reason = f"{config.objective} reads segments: {needs}, and {tokens.name} is prepared with segments: {cut.segments}"
        yield Problem("objective", config.objective, reason, f"Prepare the text with segments: {needs}.")
    if config.objective == "span_corruption" and cut.tokenizer.train is not None and not cut.tokenizer.sentinels:
        reason = f"the tokenizer of {tokens.name} has no sentinel tokens"
        yield Problem("objective", config.objective, reason, "Train one with tokenizer.sentinels: 100, or take a T5 model's.")
    if config.masking == "whole_words" and cut.tokenizer.train == "characters":
        reason = f"the tokenizer of {tokens.name} does not mark which tokens continue a word"
        remedy = "Use masking: tokens or spans, or a wordpiece, bpe or unigram tokenizer."
        yield Problem("masking", config.masking, reason, remedy)
    yield from _other_tokens(recipe, step, tokens)
    if "teacher" in step.inputs:
        yield from _token_teacher(recipe, step, config, recipe.steps[step.inputs["teacher"][0]])
    elif config.mix != TokenMix():
        yield Problem("mix", None, "there is no teacher to weigh", "Give inputs.teacher, or leave mix out.")


def _other_tokens(recipe: Recipe, step: Step, tokens: Step) -> Iterator[Problem]:
    """A base whose tokenizer is another one than that of the text."""
    cut: Any = tokens.config
    if cut.tokenizer.train is None:
        return
    config: Any = step.config
    reason = f"its tokenizer is not the one that {tokens.name} is cut with, which is trained on that text"
    # A directory may hold what an earlier run has made, over the same text: the step compares the two tokenizers.
    if config.base is not None and not Path(config.base).exists():
        remedy = f"Prepare the text with tokenizer: {{model: {config.base}}}."
        yield Problem("base", config.base, reason, remedy)
    for name in step.inputs.get("init", ()):
        own = _tokens_of(recipe, recipe.steps[name])
        if own is not None and own.name != tokens.name and _cutting(own) != _cutting(tokens):
            remedy = f"Go on with the tokens of {own.name}, or give the text tokenizer: {{model: …}}, the directory of {name}."
            yield Problem("inputs.init", name, reason, remedy)


def _cutting(step: Step) -> dict[str, Any]:
    kept = {key: value for key, value in step.config.model_dump(mode="json").items() if key in CUTTING}
    return kept | {EXCLUDE: step.inputs.get(EXCLUDE, ())}


def _tokens_of(recipe: Recipe, step: Step) -> Step | None:
    """The prepare step whose tokenizer a model has; None where it comes from outside, or was cut."""
    config: Any = step.config
    if step.inputs.get("init"):
        return _tokens_of(recipe, recipe.steps[step.inputs["init"][0]])
    if step.stage.name == "compress":
        return None if config.vocabulary is not None else _tokens_of(recipe, recipe.steps[step.inputs["model"][0]])
    return recipe.steps[step.inputs["tokens"][0]] if step.stage.name == "pretrain" and config.base is None else None


def _token_teacher(recipe: Recipe, step: Step, config: Any, soft: Step) -> Iterator[Problem]:
    """Soft labels for other tokens, another objective or other masks than the student's."""
    asked: Any = soft.config
    if "tokens" not in soft.inputs:
        reason, remedy = "these are answers for a task", "Give a language model's: predict over tokens."
        yield Problem("inputs.teacher", soft.name, reason, remedy)
        return
    if soft.inputs["tokens"] != step.inputs["tokens"]:
        reason = f"it answers for other tokens than those of {step.inputs['tokens'][0]}"
        yield Problem("inputs.teacher", soft.name, reason, "Predict over the tokens that the student learns from.")
    said = learned_by(recipe, recipe.steps[soft.inputs["model"][0]])
    if said not in ANSWERING_OBJECTIVES:
        return  # told at that step
    if said != config.objective:
        reason = f"the teacher answers by {said}, the student learns by {config.objective}"
        yield Problem("objective", config.objective, reason, f"Use objective: {said}, or another teacher.")
    elif said == "masked":
        remedy = "Give both steps the same: the student must see the masks that the teacher saw."
        for key in ("mask_probability", "masking"):
            own, theirs = getattr(config, key), getattr(asked.language, key)
            if own != theirs:
                yield Problem(key, own, f"the teacher's answers are for {theirs}", remedy)


def _prepare(recipe: Recipe, step: Step, config: Any) -> Iterator[Problem]:
    for name in step.inputs.get(EXCLUDE, ()):
        if not any(divides(recipe.steps[name].config, split) in (True, None) for split in ("test", "validation")):
            remedy = "Give it one (split.test, split.validation), or leave it out here."
            yield Problem(f"inputs.{EXCLUDE}", name, "it has neither a test nor a validation split to take out", remedy)
    yield from unfitted_problems(config, divides(config, "validation"))


def _finetune(recipe: Recipe, step: Step, config: Any) -> Iterator[Problem]:
    yield from _one_origin(step, config, ("model",))
    yield from layer_problems(recipe, step, config)
    yield from loss_problems(recipe, step, config)


def _distill(recipe: Recipe, step: Step, config: Any) -> Iterator[Problem]:
    if isinstance(config.student, StaticStudent):
        yield from static_problems(step, config.student, config)
    elif not learns_bag(config):
        yield from _one_origin(step, config, ("model",))
        yield from layer_problems(recipe, step, config)
        yield from inner_state_problems(step, config)
    yield from soft_loss_problems(recipe, step, config, "loss")
    teachers = step.inputs["teacher"]
    yield from _soft_labels(recipe, step)
    if config.teacher_weights is not None and len(config.teacher_weights) != len(teachers):
        reason = f"{len(config.teacher_weights)} weights for {len(teachers)} teachers in inputs.teacher"
        yield Problem("teacher_weights", list(config.teacher_weights), reason, "Give one for each, in their order.")


def _soft_labels(recipe: Recipe, step: Step) -> Iterator[Problem]:
    """Teachers that did not answer for the training split of examples."""
    for name in step.inputs.get("teacher", ()):
        soft = recipe.steps[name]
        asked: Any = soft.config
        yield from other_task(recipe, step, name, "inputs.teacher")
        if "examples" not in soft.inputs:
            reason = "these are answers for tokens, and the student learns from examples"
            yield Problem("inputs.teacher", name, reason, "Predict over the same examples.")
        elif "train" not in asked.splits:
            reason = f"{name} answers for {', '.join(asked.splits)} alone, and the student learns from train"
            yield Problem("inputs.teacher", name, reason, f"Add train to splits in {name}.")
        elif soft.inputs["examples"] != step.inputs.get("examples", ()):
            own, theirs = (recipe.steps[one.inputs["examples"][0]] for one in (step, soft))
            made: Any = own.config
            asked = theirs.config
            if made.augment is not None and made.augment != asked.augment:
                reason = f"{name} answers for the texts of {theirs.name}, and {own.name} makes others from them (augment)"
                yield Problem("inputs.teacher", name, reason, f"Predict over {own.name}.")


def _compress(recipe: Recipe, step: Step, config: Any) -> Iterator[Problem]:
    learned = {learned_by(recipe, recipe.steps[name]) for name in step.inputs["model"]}
    if learned & set(WRITING_OBJECTIVES):
        yield from _compress_language(step, config)
    if not learned <= set(WRITING_OBJECTIVES):
        if "examples" not in step.inputs:
            yield Problem("inputs.examples", None, "a model of a task is compressed on its rows", "Name their step.")
        yield from _soft_labels(recipe, step)
        for name in step.inputs["model"]:
            yield from other_task(recipe, step, name, "inputs.model")
            yield from other_cleaning(recipe, step, name)
        yield from soft_loss_problems(recipe, step, config.heal, "heal.loss")
        yield from _monitor(step, config.heal, "heal.monitor")
        if "teacher" not in step.inputs:
            for key in sorted(config.heal.model_fields_set & Mix.model_fields.keys()):
                reason = "there are no soft labels to weigh: the labels alone heal"
                yield Problem(f"heal.{key}", getattr(config.heal, key), reason, "Give inputs.teacher.")
        if config.allowed_loss is not None and has_split(recipe.steps, step, "validation") is False:
            remedy = "Give prepare a validation split (split.validation), or leave allowed_loss out."
            yield Problem("allowed_loss", config.allowed_loss, "there is nothing to measure the loss on", remedy)


def _compress_language(step: Step, config: Any) -> Iterator[Problem]:
    """What cannot be asked of a language model (the stage itself says the rest)."""
    untouched, remedy = "nothing is taken out of a language model here", "Leave it out: export and quantize are done."
    for key in ("vocabulary", "prune", "factorize"):
        value = getattr(config, key)
        if value is not None and value != type(config).model_fields[key].default:
            yield Problem(key, value if isinstance(value, str) else None, untouched, remedy)
    for name in ("examples", "teacher"):
        for given in step.inputs.get(name, ()):
            yield Problem(f"inputs.{name}", given, "a language model has no task", "Leave it out.")
    for key, usual in (("allowed_loss", None), ("embeddings", False), ("batching", "free")):
        if (value := getattr(config, key)) != usual:
            yield Problem(key, value, "it is for models of a task", "Leave it out for a language model.")
    for kind in config.quantize:
        if kind == "static":
            reason = "its scales come from examples of a task, which a language model has none of"
            yield Problem("quantize", kind, reason, "Use another kind.")


def _predict(recipe: Recipe, step: Step, config: Any) -> Iterator[Problem]:
    given = [name for name in ("examples", "tokens") if name in step.inputs]
    if len(given) != 1:
        reason = f"a model answers for examples or for tokens, and {len(given)} of them are given"
        yield Problem("inputs", given or None, reason, "Give inputs.examples or inputs.tokens.")
        return
    name = step.inputs["model"][0]
    learned = learned_by(recipe, recipe.steps[name])
    if given == ["examples"]:
        if learned != A_TASK:
            reason = f"it has learned {learned}, and no task to answer for"
            yield Problem("inputs.model", name, reason, "Name a model of the task, or predict over tokens.")
        yield from other_task(recipe, step, name, "inputs.model")
        if all(has_split(recipe.steps, step, split) is False for split in config.splits):
            reason = f"{step.inputs['examples'][0]} has no rows in these splits"
            yield Problem("splits", list(config.splits), reason, "Name splits that are there.")
        return
    if learned not in ANSWERING_OBJECTIVES:
        reason = f"it has learned {learned}, and neither fills in hidden tokens nor says the next one"
        yield Problem("inputs.model", name, reason, "Use a masked or a causal model from pretrain.")
    cut: Any = recipe.steps[step.inputs["tokens"][0]].config
    if cut.tokenizer.train is not None and config.language.top_k > cut.tokenizer.vocab_size:
        reason = f"the model knows {cut.tokenizer.vocab_size} tokens at the most"
        yield Problem("language.top_k", config.language.top_k, reason, "Lower it: 8 to 64 are usual.")


def _evaluate(recipe: Recipe, step: Step, config: Any) -> Iterator[Problem]:
    if has_split(recipe.steps, step, config.split) is False:
        remedy = f"Give prepare a {config.split} split (split.{config.split}, or a source for {config.split})."
        yield Problem("split", config.split, f"{step.inputs['examples'][0]} has no such split", remedy)
    if config.cascade is not None and has_split(recipe.steps, step, "validation") is False:
        remedy = "Give prepare a validation split (split.validation), or leave `cascade` out."
        yield Problem("cascade", config.cascade, "the threshold is fitted on validation, and there is none", remedy)
    for key in ("teacher", "candidates", "floor"):
        for name in step.inputs.get(key, ()):
            learned = learned_by(recipe, recipe.steps[name])
            if learned != A_TASK:
                reason = f"{name} has learned {learned}, and no task to be judged by"
                yield Problem(f"inputs.{key}", name, reason, "Name a model of the task.")
            yield from other_task(recipe, step, name, f"inputs.{key}")
    yield from judged_problems(recipe, step, config)


def _select(recipe: Recipe, step: Step, config: Any) -> Iterator[Problem]:
    report = recipe.steps[step.inputs["report"][0]]
    if report.stage.name != "evaluate":
        yield Problem("inputs.report", report.name, "that step judges no candidates", "Name an evaluate step.")
        return
    yield from idle_loss(recipe, report, config)
    yield from calibration_problems(recipe, report, config)


def _deploy(recipe: Recipe, step: Step, config: Any) -> Iterator[Problem]:
    winner = recipe.steps[step.inputs["winner"][0]]
    if winner.stage.name != "select":
        yield Problem("inputs.winner", winner.name, "that step selects no winner", "Name a select step.")
        return
    report = recipe.steps[winner.inputs["report"][0]]
    if report.stage.name != "evaluate":
        return  # told at that step
    judged: Any = report.config
    if config.cascade and judged.cascade is None:
        remedy = f"Give {report.name} `cascade`, the share of the teacher's score to keep, such as 0.99."
        yield Problem("cascade", True, f"{report.name} fits no threshold for the winner", remedy)


CHECKS_BY_STAGE: Mapping[str, Callable[[Recipe, Step, Any], Iterator[Problem]]] = {
    "prepare": _prepare,
    "pretrain": _pretrain,
    "finetune": _finetune,
    "distill": _distill,
    "compress": _compress,
    "predict": _predict,
    "evaluate": _evaluate,
    "select": _select,
    "deploy": _deploy,
}
"""What each stage asks of what it is given."""
