"""Steps that a recipe implies: an input that it does not name is made by a step that need not be written down.

    steps, told = with_implied(steps, tree, blank)       # with `floor`, which every evaluation stands on; told: what has none

Which inputs these are, and of what they are made, the stages say themselves (`Input.implied`).
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from itertools import chain, count
from typing import TYPE_CHECKING, Any

from jobs.core.config import Problem
from jobs.core.stage import Stage, load_stage

if TYPE_CHECKING:
    from jobs.core.recipe import Step

FLOOR = "floor"
"""The key, of a recipe or of a step, by which the input of this name is left out (false) where it would be implied."""
Blank = Callable[[str, Stage, Mapping[str, tuple[str, ...]]], "Step"]
"""A step of this name and stage over these inputs, with nothing else said of it."""


def switch_problems(tree: Mapping[str, Any], steps: Mapping[str, "Step"]) -> list[Problem]:
    """What is wrong with `floor`, of the recipe and of its steps."""
    given: dict[str, tuple[Any, bool, tuple[str, ...]]] = {FLOOR: (tree[FLOOR], True, ())} if FLOOR in tree else {}
    for name, step in steps.items():
        if FLOOR in (raw := tree["steps"][name]):
            implies = FLOOR in step.stage.inputs and step.stage.inputs[FLOOR].implied is not None
            given[f"steps.{name}.{FLOOR}"] = (raw[FLOOR], implies, step.inputs.get(FLOOR, ()))
    problems = []
    for path, (value, implies, named) in given.items():
        if not implies:
            problems.append(Problem(path, value, "this step judges nothing", "Give it to an evaluate step, or to the recipe."))
        elif not isinstance(value, bool):
            problems.append(Problem(path, value, "it is true or false", f"Write {FLOOR}: false, or leave it out."))
        elif named and not value:
            remedy = f"Leave out one of the two: {FLOOR}: false, or inputs.{FLOOR}."
            problems.append(Problem(path, value, f"{', '.join(named)} is named as its {FLOOR}", remedy))
    return problems


def with_implied(steps: Mapping[str, "Step"], tree: Mapping[str, Any], blank: Blank) -> tuple[dict[str, "Step"], list[str]]:
    """The steps with those that they imply; and why others are not implied, a line each.

    One that is there already, of the same stage and over the same inputs, is taken; a new one comes right after its inputs.
    """
    found, told = dict(steps), []
    for step in steps.values():
        for key, implied in [(key, one.implied) for key, one in step.stage.inputs.items() if one.implied is not None]:
            if key in step.inputs or tree["steps"][step.name].get(key, tree.get(key, True)) is False:
                continue
            if (reason := implied.lacking(step, steps)) is not None:
                told.append(f"{step.name} has no {key}: {reason}")
                continue
            stage = load_stage(implied.stage)
            inputs = {name: step.inputs[name] for name in stage.inputs if name in step.inputs}
            alike = (one.name for one in found.values() if one.stage.name == stage.name and one.inputs == inputs)
            name = next(alike, None) or _free_name(stage.name, inputs, found)
            if name not in found:
                found = _after(found, blank(name, stage, inputs))
            found[step.name] = replace(step, inputs={**step.inputs, key: (name,)})
    return found, told


def _free_name(stage: str, inputs: Mapping[str, tuple[str, ...]], taken: Collection[str]) -> str:
    """The stage's name, else with what it is made of behind it, else numbered too."""
    longer = "_".join([stage, *(name for names in inputs.values() for name in names)])
    names = chain([stage, longer], (f"{longer}_{number}" for number in count(2)))
    return next(name for name in names if name not in taken)


def _after(steps: Mapping[str, "Step"], new: "Step") -> dict[str, "Step"]:
    """The steps with a new one right after the last of its inputs."""
    parents = {name for names in new.inputs.values() for name in names}
    place = 1 + max((number for number, name in enumerate(steps) if name in parents), default=-1)
    ordered = [*steps.values()]
    return {step.name: step for step in [*ordered[:place], new, *ordered[place:]]}
