"""What a step asks of its task that such a task has not: losses, figures, confidence, models of other tasks.

problems = list(judged_problems(recipe, recipe.steps["judged"], config))

Only what the recipe itself says is looked at; jobs/running/parents.py asks it for each step.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from jobs.contracts.learning import Learning, TaskSettings
from jobs.core.config import Config, Problem, nearest, problems_of
from jobs.core.metric import Metric
from jobs.core.recipe import Recipe, Step
from jobs.tasks import learning_of
from jobs.tasks.resolved import task_metrics, task_settings
from serve.cleaning.cleaning import Cleaning

TEMPERATURES = ("temperature", "temperature_end")
BESIDE = ("label_smoothing", "class_weights")
"""Keys of finetune that say something of the loss and stand beside `loss`."""


def loss_problems(recipe: Recipe, step: Step, config: Any) -> Iterator[Problem]:
    """What finetune says of a loss that no task of the step has, or that a task's loss does not take."""
    learned = _learned(recipe, step)
    losses = list({loss: None for _, loss in learned})
    kinds = ", ".join(sorted({kind for kind, _ in learned}))
    for key in BESIDE:
        usual = type(config).model_fields[key].default
        if losses and (value := getattr(config, key)) != usual and not any(key in loss.model_fields for loss in losses):
            reason = f"the loss of {kinds} has nothing like it"
            yield Problem(key, value if isinstance(value, str | float) else None, reason, "Leave it out.")
    yield from _unknown(kinds, losses, config)
    for loss in losses:
        yield from _not_taken(loss, config)


def _unknown(kinds: str, losses: Sequence[type[Config]], config: Any) -> Iterator[Problem]:
    """Keys that no task's loss has."""
    known = {key for loss in losses for key in loss.model_fields} - {*BESIDE}
    for key, value in config.loss.items() if losses else ():
        if key in BESIDE:
            yield Problem(f"loss.{key}", value, "it stands beside loss, not in it", "Move it out of loss.")
        elif key not in known:
            yield Problem(f"loss.{key}", value, f"the loss of {kinds} has no such key", nearest(key, known))


def _not_taken(loss: type[Config], config: Any) -> Iterator[Problem]:
    """Values that a task's loss does not take."""
    known = [key for key in loss.model_fields if key not in BESIDE]
    own = {key: value for key in BESIDE if key in loss.model_fields and (value := getattr(config, key)) is not None}
    try:
        loss.model_validate(own | {key: value for key, value in config.loss.items() if key in known})
    except ValidationError as error:
        for problem in problems_of(error, loss, ""):
            path = problem.path if problem.path.split(".")[0] in BESIDE else f"loss.{problem.path}"
            yield Problem(path, problem.value, problem.reason, problem.remedy)


def soft_loss_problems(recipe: Recipe, step: Step, mix: Any, path: str) -> Iterator[Problem]:
    """A way to compare answers with the teachers' that the task has not, or a temperature that does nothing to it."""
    settings = task_settings(step, recipe.steps)
    if settings is None:
        return
    learning = learning_of(settings.kind)
    known = learning.soft_losses_in(settings)
    if mix.loss is not None and mix.loss not in known:
        yield Problem(path, mix.loss, f"answers of {settings.kind} cannot be compared so", nearest(mix.loss, known))
    # Of mse a rule of every kind's recipes tells it.
    for key in () if learning.softens_in(settings) or mix.loss == "mse" else TEMPERATURES:
        if key in mix.model_fields_set and getattr(mix, key) is not None:
            value = getattr(mix, key) if isinstance(getattr(mix, key), int | float) else None
            reason = f"answers of {settings.kind} have no probabilities that it could soften"
            yield Problem(path.removesuffix("loss") + key, value, reason, "Leave it out.")


def judged_problems(recipe: Recipe, step: Step, config: Any) -> Iterator[Problem]:
    """What evaluate asks for and the task has not: a figure, a cascade."""
    settings = task_settings(step, recipe.steps)
    if settings is None:
        return
    learning = learning_of(settings.kind)
    if config.metric is not None:
        try:
            learning.metric_in(settings, config.metric)
        except KeyError as error:
            yield no_such_figure(learning, task_metrics(step, recipe.steps), config.metric, error)
    if config.cascade is not None and not learning.says_how_sure_in(settings):
        yield unsure_of_nothing(settings.kind, config.cascade)


def no_such_figure(learning: Learning, metrics: Sequence[Metric], name: str, error: KeyError) -> Problem:
    """A figure that a task does not have, with why, where `Learning.metric` has said it."""
    said = str(error.args[0])
    reason = "this task has no such figure" if said == name else said
    return Problem("metric", name, reason, nearest(name, [*(metric.name for metric in metrics), *learning.by_request]))


def unfitted_problems(config: Any, validates: bool | None) -> Iterator[Problem]:
    """What prepare's task asks for and a validation split alone could give, where there is none."""
    if config.task is None or validates is not False:
        return
    for key in learning_of(config.task.kind).fitted_keys(config.task):
        reason = "its threshold is fitted on the validation split, and there is none"
        yield Problem(f"task.{key}", None, reason, "Give one (split.validation, or a source for validation), or leave it out.")


def calibration_problems(recipe: Recipe, report: Step, config: Any) -> Iterator[Problem]:
    """A highest calibration error where the task of a report has no probabilities."""
    settings = task_settings(report, recipe.steps)
    most = config.maximum_calibration_error
    if settings is not None and most is not None and not learning_of(settings.kind).calibrates_in(settings):
        reason = f"answers of {settings.kind} have no probabilities, so nothing is measured of how well these hold"
        yield Problem("maximum_calibration_error", most, reason, "Leave it out.")


def unsure_of_nothing(kind: str, value: Any) -> Problem:
    """A cascade of a kind whose answers have no confidence."""
    reason = f"answers of {kind} do not say how sure they are, so none can go on for being unsure"
    return Problem("cascade", value, reason, "Leave it out.")


def other_task(recipe: Recipe, step: Step, name: str, path: str) -> Iterator[Problem]:
    """A step's examples are for another kind of task, or of other texts, than what it is given answers."""
    own, theirs = task_settings(step, recipe.steps), answered_by(recipe.steps[name], recipe.steps)
    if own is not None and theirs is not None and _said(own) != _said(theirs):
        reason = f"it answers {_said(theirs)}, and {step.inputs['examples'][0]} is for {_said(own)}"
        yield Problem(path, name, reason, "Name one of the same task.")


def other_cleaning(recipe: Recipe, step: Step, name: str) -> Iterator[Problem]:
    """A step's examples are cleaned otherwise than those that the model which it is given learned from."""
    own, theirs = (_cleaned_by(one, recipe.steps) for one in (step, recipe.steps[name]))
    if own is not None and theirs is not None:
        yield from cleaned_otherwise(name, theirs, step.inputs["examples"][0], own)


def cleaned_otherwise(model: str, learned: Cleaning, examples: str, given: Cleaning) -> Iterator[Problem]:
    """Examples that were not cleaned as those that a model learned from, and as it cleans what it is asked."""
    if apart := learned.apart(given):
        reason = f"its texts are not cleaned as those that {model} learned from ({apart})"
        remedy = "Give the examples that it learned from, or others that are prepared with the same `clean`."
        yield Problem("inputs.examples", examples, reason, remedy)


def _cleaned_by(step: Step, steps: Mapping[str, Step]) -> Cleaning | None:
    """How the texts are cleaned that a step's model learned from, or else its examples."""
    if step.stage.name == "compress" or not (names := step.inputs.get("model", ())):
        prepared: Any = [steps[name].config for name in step.inputs.get("examples", ())]
        return prepared[0].cleaning if prepared else None
    return _cleaned_by(steps[names[0]], steps)


def answered_by(step: Step, steps: Mapping[str, Step]) -> TaskSettings | None:
    """The settings of the task that a step's model answers, or that its answers are for; None where it has none."""
    if names := step.inputs.get("model", ()):
        return answered_by(steps[names[0]], steps)
    return task_settings(step, steps)


def _said(settings: TaskSettings) -> str:
    return f"{settings.kind} of {' and '.join(learning_of(settings.kind).fields(settings, ''))}"


def _learned(recipe: Recipe, step: Step) -> list[tuple[str, type[Config]]]:
    """The kind of each of a step's tasks, and what may be said of its loss."""
    names = [*step.inputs.get("examples", ()), *step.inputs.get("auxiliary", ())]
    found = (task_settings(recipe.steps[name], recipe.steps) for name in names)
    return [(one.kind, learning_of(one.kind).loss_in(one)) for one in found if one is not None]
