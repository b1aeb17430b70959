"""What a recipe says of several heads of one model: each is a task of its own kind, under a name; and what of their losses.

heads = checked_heads({"topic": {"kind": "…", …}, "sentiment": {…}})          # each as its kind's own settings
loss = heads_loss((("topic", TopicLoss), ("sentiment", SentimentLoss)))       # {weights: {topic: 2}, topic: {…}}
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from pydantic import Field, ValidationError, create_model
from pydantic_core import InitErrorDetails, PydanticCustomError

from jobs.contracts.learning import Learning, Statistics, TaskSettings
from jobs.core.config import Config, Problem, problems_of
from jobs.tasks import learning_of, usual_kind
from serve.tasks.shared.by_head import OF, of_head, wrong_head_name


def checked_heads(given: Any) -> Any:
    """The heads with the settings of their kinds; ValidationError with all that is wrong with each, by its name."""
    if not isinstance(given, Mapping):
        return given
    made, problems = dict[str, TaskSettings](), list[tuple[tuple[str, ...], Problem]]()
    for key, raw in given.items():
        name = str(key)
        if (wrong := wrong_head_name(name)) is not None:
            problems.append(((name,), Problem("", raw, wrong, "Rename it.")))
            continue
        try:
            made[name] = _settings_of(raw)
        except ValidationError as error:
            settings = learning_of(raw.get("kind", usual_kind())).Settings
            found = problems_of(error, settings, "")
            problems += [((name, *filter(None, problem.path.split("."))), problem) for problem in found]
        except ValueError as error:
            problems.append(((name,), Problem("", raw, str(error), "See --help of prepare.")))
    problems += [((name,), problem) for name, problem in _unfit(made).items()]
    if problems:
        raise ValidationError.from_exception_data("heads", [_told(*one) for one in problems])
    return made


def _settings_of(raw: Any) -> TaskSettings:
    if isinstance(raw, TaskSettings):
        return raw
    if not isinstance(raw, Mapping):
        raise ValueError("a head is a task: {kind: …} and the keys of its kind")
    return learning_of(raw.get("kind", usual_kind())).Settings.model_validate(raw)


def _unfit(heads: Mapping[str, TaskSettings]) -> dict[str, Problem]:
    """Heads that cannot stand beside the others, by name."""
    found: dict[str, Problem] = {}
    first = next(iter(heads), None)
    for name, settings in heads.items():
        learning = learning_of(settings.kind)
        same = next((other for other in heads if other not in (name, *found) and heads[other] == settings), None)
        if (reason := learning.stands_alone(settings)) is not None:
            told = f"{settings.kind} needs a model to itself: {reason}"
            found[name] = Problem("", settings.kind, told, "Take this head out, and train it by itself.")
        elif first is not None and learning.fields(settings, "") != learning_of(heads[first].kind).fields(heads[first], ""):
            told = f"it reads other texts than the head {first}, and one encoder reads a text once for all"
            found[name] = Problem("", settings.kind, told, "Give all heads the same texts.")
        elif same is not None and list(heads).index(same) < list(heads).index(name):
            found[name] = Problem("", settings.kind, f"it is just the head {same}", "Leave one out, or name another column.")
    return found


def _told(location: tuple[str, ...], problem: Problem) -> InitErrorDetails:
    told = PydanticCustomError("head", "{reason}", {"reason": problem.reason, "remedy": problem.remedy})
    return InitErrorDetails(type=told, loc=location, input=problem.value)


@cache
def heads_loss(each: tuple[tuple[str, type[Config]], ...]) -> type[Config]:
    """What may be said of the loss of these heads, each with what may be said of its own."""
    weight: dict[str, Any] = {name: (float, Field(1.0, gt=0)) for name, _ in each}
    weights = create_model("HeadWeights", __base__=Config, **weight)
    own: dict[str, Any] = {name: (loss, loss()) for name, loss in each}
    told = "What a head's loss counts beside the others', by its name; 1 where nothing is said."
    return create_model("HeadsLoss", __base__=Config, weights=(weights, Field(weights(), description=told)), **own)


def each_setting(settings: Any) -> Iterator[tuple[str, Learning, Any]]:
    """Name, how it is learned, and its own settings."""
    for name, own in settings.heads.items():
        yield name, learning_of(own.kind), own


def head_path(name: str, key: str) -> str:
    """A key of a head's own settings, as the recipe has it."""
    return f"task.heads.{name}.{key.removeprefix('task.')}"


def statistics_of_head(statistics: Statistics, name: str) -> dict[str, dict[str, float]]:
    """One head's own."""
    return {split: of_head(own, name) for split, own in statistics.items()}


def splits_without_head(settings: Any, statistics: Statistics) -> list[Problem]:
    """Splits in which no row has a target of a head."""
    remedy = "Give it such rows, or take the head out."
    return [
        Problem(f"task.heads.{name}", None, f"no row of {split} has a target of this head", remedy)
        for name in settings.heads
        for split, own in statistics.items()
        if own and name not in own
    ]


def head_problem(problem: Problem, name: str, paths: Mapping[str, str], statistics: Statistics) -> Problem:
    """A head's problem as one of the recipe: where it is, whose it is, and whether another head has what this one lacks."""
    path = head_path(name, problem.path) if problem.path.startswith("task.") else problem.path
    named = [one.partition(OF) for one in statistics.get("train", {})]
    other = next((head for head, _, own in named if own == str(problem.value) and head != name), None)
    if other is None:
        return replace(problem, path=path, reason=f"head {name}: {problem.reason}")
    reason = f"it stands in {' and '.join(paths.values())}, the column of the head {name}, and belongs to the head {other}"
    return Problem(path, problem.value, reason, "Name each head's own column, or mend these rows.")
