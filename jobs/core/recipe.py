"""A recipe: named steps in YAML, each a stage with its inputs and settings, checked as a whole before anything runs.

recipe = load_recipe("jobs/recipes/spam.yaml", ["steps.student.temperature=4"])
recipe.steps["student"].inputs         # {"examples": ("messages",), …}
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from graphlib import CycleError, TopologicalSorter
from itertools import zip_longest
from typing import Any

from pydantic import BaseModel, ValidationError

from cluster.store.artifact import RESERVED, Kind
from jobs.core.config import BadInput, Config, Problem, identifying, nearest, problems_of
from jobs.core.implied import FLOOR, switch_problems, with_implied
from jobs.core.metric import Metric
from jobs.core.recipe_file import read_tree
from jobs.core.spaces import SHAPE, Space, Tune, budget_problems, fill, find_spaces, search_problems
from jobs.core.stage import STAGES, Resources, Stage, load_stage
from jobs.core.tracking_settings import Tracking

RECIPE_KEYS = ("name", "steps", "tracking", FLOOR)
STEP_KEYS = ("stage", "inputs", "once", "tune", "resources", "tracking", FLOOR)
NAME_PATTERN = re.compile(r"[a-z0-9_][a-z0-9_-]*")
ALIAS = re.compile(rf"{NAME_PATTERN.pattern}/{NAME_PATTERN.pattern}")
NAME_RULE = "lower-case letters, digits, - and _, and does not begin with -"


@dataclass(frozen=True)
class Step:
    """One step of a recipe, checked."""

    name: str
    stage: Stage
    raw: Mapping[str, Any]
    spaces: Mapping[str, Space]
    inputs: Mapping[str, tuple[str, ...]]
    tune: Tune
    resources: Resources
    tracking: Tracking = Tracking()
    shapes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """In a search with a budget: the shapes within it by name, each with its values by path."""
    metrics: tuple[Metric, ...] = ()
    """The figures by which what it makes is compared, the first being the score."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Inputs that name an alias of the registry, by their names."""
    once: bool = False
    """Whether what it has made with this config stays its output, whatever its inputs have become since."""

    @property
    def score(self) -> Metric:
        """What a search improves."""
        return self.metrics[0]

    def configure(self, values: Mapping[str, Any]) -> Config:
        """The step's config with these values in the place of its search spaces."""
        return self.stage.config.model_validate(fill(self.raw, self.spread(values)))

    def spread(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values by the config's own paths: a shape's name stands for several."""
        shape = self.shapes.get(values.get(SHAPE, ""), {})
        return {**{path: value for path, value in values.items() if path != SHAPE or not shape}, **shape}

    def named(self) -> list[Config]:
        """Configs that between them name each model that a search may take: the first, and one for each further name."""
        return self.variants(lambda value: isinstance(value, str))

    def variants(self, among: Callable[[Any], bool] = lambda _: True) -> list[Config]:
        """The config, and for each further value of a search space (of those `among` says) one that has it beside the first
        values of the others. Where it does not go together with these there is none: no trial can be so."""
        made = [self.config]
        first = {path: space.examples()[0] for path, space in self.spaces.items()}
        for path, space in self.spaces.items():
            for value in filter(among, space.examples()[1:]):
                try:
                    made.append(self.configure(first | {path: value}))
                except ValidationError:
                    continue
        return made

    @property
    def config(self) -> Config:
        """The config, with the first value of each search space standing in for it."""
        return self.configure({path: space.examples()[0] for path, space in self.spaces.items()})

    @property
    def kind(self) -> Kind:
        """What the step makes."""
        return self.stage.output if isinstance(self.stage.output, Kind) else self.stage.output(self.config)

    @property
    def shaped_by(self) -> tuple[str, ...]:
        """The keys that make its model's shape."""
        return () if self.stage.searchable is None else self.stage.searchable.shaped_by

    def resolved(self) -> dict[str, Any]:
        """Every key with its value or search space, as JSON: what replays the step."""
        dumped = self.config.model_dump(mode="json")
        resolved = fill(dumped, {path: {space.kind: list(space.values)} for path, space in self.spaces.items()})
        if self.spaces:
            resolved["tune"] = self.tune.model_dump(mode="json", exclude={"max_concurrent"})
        return resolved

    def identifying(self) -> dict[str, Any]:
        """Those of them that say what the step is: not what only changes its speed or its memory."""
        return identifying(self.resolved(), self.stage.config)


@dataclass(frozen=True)
class Recipe:
    """A recipe, checked: its steps in an order in which each comes after its inputs, and those that it implies among them."""

    name: str
    steps: Mapping[str, Step]
    not_implied: tuple[str, ...] = ()
    """Which steps would have been implied and were not, and why, a line each."""


def load_recipe(path: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read and check a recipe; BadInput lists everything that is wrong with it."""
    return parse_recipe(read_tree(path, overrides))


def parse_recipe(tree: Mapping[str, Any]) -> Recipe:
    """Check a recipe's tree; BadInput lists everything that is wrong with it."""
    problems = [
        Problem(str(key), value, "no such key in a recipe", nearest(str(key), RECIPE_KEYS))
        for key, value in tree.items()
        if key not in RECIPE_KEYS
    ]
    name = tree.get("name")
    if not _is_name(name):
        problems.append(Problem("name", name, f"a recipe's name is {NAME_RULE}", "Give it such a name."))
    elif name in RESERVED:
        problems.append(Problem("name", name, "storages keep this name for themselves", "Give the recipe another one."))
    raw_steps = tree.get("steps")
    if not isinstance(raw_steps, Mapping) or not raw_steps:
        raise BadInput([*problems, Problem("steps", raw_steps, "a recipe needs steps", "Add at least one step.")])
    tree = {**tree, "steps": {str(key): value for key, value in raw_steps.items()}}
    steps: dict[str, Step] = {}
    for step_name, raw in tree["steps"].items():
        step, found = _parse_step(step_name, raw, tree.get("tracking", {}))
        problems += found
        if step is not None:
            steps[step.name] = step
    problems += switch_problems(tree, steps) + _check_edges(steps, set(tree["steps"]))
    order, found = _order(steps)
    if problems + found:
        raise BadInput(problems + found)
    steps, told = with_implied(steps, tree, partial(_implied, watched=tree.get("tracking", {})))
    order, _ = _order(steps)
    return Recipe(str(name), {step_name: _judged(steps[step_name], steps) for step_name in order}, tuple(told))


def _judged(step: Step, steps: Mapping[str, Step]) -> Step:
    """The step with its metrics: what it learns from may decide them."""
    metrics = step.stage.metrics
    return replace(step, metrics=metrics if isinstance(metrics, tuple) else metrics(step, steps))


def _implied(name: str, stage: Stage, inputs: Mapping[str, tuple[str, ...]], watched: Any) -> Step:
    """A step that no one has written down: with its stage's own settings, tracked like the recipe."""
    return Step(name, stage, {}, {}, inputs, Tune(), Resources(), _parse_tracking(watched, {}, "")[0])


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and NAME_PATTERN.fullmatch(value) is not None


def _parse_step(name: str, raw: Any, watched: Any) -> tuple[Step | None, list[Problem]]:
    path = f"steps.{name}"
    if not _is_name(name):
        return None, [Problem(path, None, f"a step's name is {NAME_RULE}", "Rename it.")]
    if not isinstance(raw, Mapping):
        return None, [Problem(path, raw, "a step is a mapping with a stage and its settings", "Write {stage: …}.")]
    if raw.get("stage") not in STAGES:
        return None, [Problem(f"{path}.stage", raw.get("stage"), "no such stage", nearest(str(raw.get("stage")), STAGES))]
    stage = load_stage(raw["stage"])
    settings = {str(key): value for key, value in raw.items() if key not in STEP_KEYS}
    spaces = find_spaces(settings)
    problems = _check_settings(stage, settings, spaces, path)
    inputs, found = _parse_inputs(raw.get("inputs", {}), path)
    problems += found
    aliases = {key: ", ".join(inputs.pop(key)) for key in [*inputs] if key in stage.inputs and stage.inputs[key].alias}
    problems += [_no_alias(f"{path}.inputs.{key}", name) for key, name in aliases.items() if not ALIAS.fullmatch(name)]
    problems += _once_problems(stage, raw.get("once", False), path)
    tune, found = _parse_section(Tune, raw.get("tune", {}), f"{path}.tune")
    problems += found
    resources, found = _parse_section(Resources, raw.get("resources", {}), f"{path}.resources")
    problems += found
    tracking, found = _parse_tracking(watched, raw, path)
    problems += found
    if spaces and stage.searchable is None:
        problems.append(Problem(path, sorted(spaces), f"{stage.name} has no score to search by", "Give single values."))
    if spaces and isinstance(resources, Resources) and resources.workers > 1:
        remedy = "Set workers to 1: trials run side by side instead."
        problems.append(Problem(f"{path}.resources.workers", resources.workers, "each trial trains in one worker", remedy))
    if "tune" in raw and not spaces:
        problems.append(Problem(f"{path}.tune", raw["tune"], "the step has no search space", "Add one, or remove tune."))
    if not problems and spaces and isinstance(tune, Tune) and (search := stage.searchable) is not None:
        evaluations = Step(name, stage, settings, spaces, inputs, tune, Resources()).config.model_dump().get("evaluations", 1)
        problems += search_problems(tune, spaces, search.changeable, evaluations, path)
        problems += budget_problems(tune, spaces, search.shaped_by, stage.name, path)
    if problems or not isinstance(tune, Tune) or not isinstance(resources, Resources):
        # The step stays in the graph, so that its edges are checked too and all errors come at once.
        return Step(name, stage, {}, {}, inputs, Tune(), Resources()), problems
    return Step(name, stage, settings, spaces, inputs, tune, resources, tracking, {}, (), aliases, bool(raw.get("once"))), []


def _no_alias(path: str, name: str) -> Problem:
    remedy = "Write RECIPE/production, which deploy moves, or RECIPE/winner, which select moves."
    return Problem(path, name, "this input names an alias of the registry", remedy)


def _once_problems(stage: Stage, given: Any, path: str) -> list[Problem]:
    if not isinstance(given, bool):
        return [Problem(f"{path}.once", given, "it is true or false", "Write once: true, or leave it out.")]
    if given and (stage.completion.effect or stage.completion.settle is not None):
        reason = f"{stage.name} acts on what its inputs are now"
        return [Problem(f"{path}.once", given, reason, "Give it to the step whose output is to stay, such as the teacher.")]
    return []


def _parse_tracking(whole: Any, raw: Mapping[str, Any], path: str) -> tuple[Tracking, list[Problem]]:
    """The recipe's tracking, key by key given way to by the step's own."""
    own = raw.get("tracking", {})
    where = f"{path}.tracking" if own else "tracking"
    if not isinstance(whole, Mapping) or not isinstance(own, Mapping):
        value = own if isinstance(whole, Mapping) else whole
        return Tracking(), [Problem(where, value, "tracking is a mapping", "Write {mlflow: {uri: …}}.")]
    tracking, problems = _parse_section(Tracking, {**whole, **own}, where)
    return tracking if isinstance(tracking, Tracking) else Tracking(), problems


def _parse_section(section: type[BaseModel], raw: Any, path: str) -> tuple[BaseModel | None, list[Problem]]:
    try:
        return section.model_validate(raw), []
    except ValidationError as error:
        return None, problems_of(error, section, path)


def _check_settings(stage: Stage, settings: Mapping[str, Any], spaces: Mapping[str, Space], path: str) -> list[Problem]:
    """Validate with every bound of every search space in its place; the same problem is told once."""
    problems = [problem for where, space in spaces.items() if (problem := space.problem(f"{path}.{where}"))]
    if problems:
        return problems
    columns = zip_longest(*(space.examples() for space in spaces.values()))
    firsts = [space.examples()[0] for space in spaces.values()]
    for row in [*columns] or [()]:
        values = [first if value is None else value for value, first in zip(row, firsts, strict=True)]
        problems += _invalid(stage, settings, dict(zip(spaces, values, strict=True)), path)
    if not problems:
        # Bounds of a key that takes whole numbers may be whole, and what is drawn between them not.
        drawn = [
            first if (value := space.between()) is None else value
            for space, first in zip(spaces.values(), firsts, strict=True)
        ]
        problems = _invalid(stage, settings, dict(zip(spaces, drawn, strict=True)), path)
    return list({str(problem): problem for problem in problems}.values())


def _invalid(stage: Stage, settings: Mapping[str, Any], values: Mapping[str, Any], path: str) -> list[Problem]:
    """What is wrong with the settings with these values in the place of their search spaces."""
    try:
        stage.config.model_validate(fill(settings, values))
    except ValidationError as error:
        found = problems_of(error, stage.config, path)
        inputs = {f"{path}.{name}": f"It is an input: write inputs: {{{name}: …}}." for name in stage.inputs}
        unknown = stage.inputs.keys() - stage.config.model_fields.keys()
        return [
            replace(problem, remedy=inputs[problem.path]) if problem.path.removeprefix(f"{path}.") in unknown else problem
            for problem in found
        ]
    return []


def _parse_inputs(raw: Any, path: str) -> tuple[dict[str, tuple[str, ...]], list[Problem]]:
    if not isinstance(raw, Mapping):
        return {}, [
            Problem(f"{path}.inputs", raw, "inputs map a name to a step or a list of steps", "Write {examples: corpus}.")
        ]
    inputs = {}
    for key, value in raw.items():
        names = value if isinstance(value, list) else [value]
        if not names or not all(isinstance(name, str) for name in names):
            return {}, [
                Problem(f"{path}.inputs.{key}", value, "an input is the name of a step, or a list of them", "Mend it.")
            ]
        inputs[str(key)] = tuple(names)
    return inputs, []


def _check_edges(steps: Mapping[str, Step], named: set[str]) -> list[Problem]:
    problems = []
    for step in steps.values():
        path = f"steps.{step.name}.inputs"
        for key, spec in step.stage.inputs.items():
            if key not in step.inputs and not spec.optional:
                remedy = f"Name a step that makes {spec.kind}: {spec.meaning}."
                problems.append(Problem(f"{path}.{key}", None, f"{step.stage.name} needs this input", remedy))
        for key, names in step.inputs.items():
            if key not in step.stage.inputs:
                remedy = nearest(key, step.stage.inputs)
                problems.append(Problem(f"{path}.{key}", list(names), f"{step.stage.name} has no such input", remedy))
                continue
            spec = step.stage.inputs[key]
            if len(names) > 1 and not spec.many:
                problems.append(Problem(f"{path}.{key}", list(names), "this input takes one step", "Name one."))
            problems += [p for name in names if (p := _check_edge(f"{path}.{key}", name, spec.kind, steps, named))]
    return problems


def _check_edge(path: str, name: str, kind: Kind, steps: Mapping[str, Step], named: set[str]) -> Problem | None:
    if name not in named:
        return Problem(path, name, "no step has this name", nearest(name, named))
    made = _made(steps[name]) if name in steps else None
    if made is not None and made != kind:
        return Problem(path, name, f"that step makes {made}, this input takes {kind}", "Name another step.")
    return None


def _made(step: Step) -> Kind | None:
    """What a step makes; None where its config decides and has errors of its own, which are told already."""
    if isinstance(step.stage.output, Kind):
        return step.stage.output
    return step.kind if step.raw else None


def _order(steps: Mapping[str, Step]) -> tuple[list[str], list[Problem]]:
    """The recipe's own order, but each step after its inputs."""
    graph = {
        name: sorted({parent for names in step.inputs.values() for parent in names if parent in steps})
        for name, step in steps.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = " → ".join(error.args[1])
        return [], [Problem("steps", circle, "these steps wait for each other", "Break the circle.")]
    order: list[str] = []
    while len(order) < len(graph):
        order += [name for name in graph if name not in order and set(graph[name]) <= set(order)][:1]
    return order, []
