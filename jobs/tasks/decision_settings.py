"""What a recipe says of how single labels are answered besides the most probable one: costs, what labels are held to, and
texts of none of them.

    task: {label: kind, costs: {ham: {spam: 10}}, require: {spam: {precision: 0.99}}, none: {keep: 0.95}}
"""

from collections.abc import Sequence

from pydantic import Field, field_validator

from jobs.core.config import Problem, nearest
from jobs.data.clean import value_names
from jobs.tasks.one_label import OneLabelSettings
from serve.tasks.shared.decisions import NoneOfThese, Requirement, check_costs


class DecisionSettings(OneLabelSettings):
    """Settings of a task of one label a text, whose answer may be another than the most probable one."""

    require: dict[str, Requirement] = {}
    """Labels that are held to something, e.g. {spam: {precision: 0.99}}: spam is answered only where, on validation, 99 of 100
    such answers are right. Or a recall. The threshold is fitted for each variant, and the report says whether it holds on
    test."""
    costs: dict[str, dict[str, float]] = {}
    """What it costs to call a text of the first label the second one, e.g. {ham: {spam: 10}}; other mistakes cost 1. Answered
    is the label of the least expected cost (Elkan 2001)."""
    none: NoneOfThese | None = Field(None)
    """Texts may be of none of the labels, e.g. {keep: 0.95}: those whose most probable label is less likely than that of 95 of
    100 validation rows are answered `none of these`. Rows with that label (or another, by `label`) are not trained on, and
    count where models are judged."""

    _required_as_read = field_validator("require")(value_names)

    @field_validator("costs")
    @classmethod
    def _costs_something(cls, costs: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        found = {label: value_names(own) for label, own in value_names(costs).items()}
        check_costs(found)
        return found


def decision_problems(settings: DecisionSettings, labels: Sequence[str]) -> list[Problem]:
    """Labels that are held to something, or cost something, and are none of these; and what leaves no answer."""
    none = [] if settings.none is None else [settings.none.label]
    problems = [
        Problem(f"task.require.{label}", None, "there is no such label", nearest(label, labels))
        for label in settings.require
        if label not in labels
    ]
    named = {label: label for label in settings.costs}
    named |= {f"{label}.{said}": said for label, own in settings.costs.items() for said in own}
    problems += [
        Problem(f"task.costs.{path}", None, "there is no such label", nearest(label, [*labels, *none]))
        for path, label in named.items()
        if label not in labels and label not in none
    ]
    held = [label for label in labels if label in settings.require and settings.require[label].rate == "precision"]
    if not none and len(held) == len(labels):
        reason = "each label is held to a precision, and there is none to give where all are too unlikely"
        problems.append(Problem("task.require", held, reason, "Leave one out, or give `none`."))
    return problems
