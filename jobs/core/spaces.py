"""Search spaces: any number or choice in a step may be one, and then Ray Tune runs the step.

learning_rate: {loguniform: [1.0e-5, 1.0e-3]}
temperature:   {uniform: [1, 8]}
epochs:        {randint: [1, 5]}          # both ends count
layers:        {choice: [2, 4]}
alpha:         {grid: [0.0, 0.5, 1.0]}    # every value is tried
"""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from jobs.core.config import Config, Problem
from jobs.core.idle import Rule

SHAPE = "shape"
"""The space that stands for several, once the shapes that are too slow are gone."""
GOLDEN = (math.sqrt(5) - 1) / 2
"""What lies so far between two whole numbers is no whole number."""
SPACE_KINDS = ("loguniform", "uniform", "randint", "choice", "grid")
QuantizeKind = Literal[
    "dynamic", "rowwise", "reduced_range", "unsigned", "blockwise", "static", "int4", "power_of_two", "fp16"
]
"""What quantises a file; jobs/compression/settings.py says what each is."""


class Budget(Config):
    """What a shape may take. Before any trial trains, each shape of the search is built with random weights, exported,
    quantised and timed by the serving engine on texts of the validation split; those over the budget never become trials."""

    maximum_p95_ms: float = Field(gt=0)
    """Highest p95 latency of a single text."""
    quantize: Literal["none", QuantizeKind] = "dynamic"
    """What will be deployed: none is the ONNX variant in float, the others as in compress."""
    threads: int = Field(1, ge=1)
    """CPU threads of the engine."""
    texts: int = Field(100, ge=20)
    """Texts that are timed; each counts with the fastest of three turns."""


class Tune(Config):
    """How the search spaces of a step are searched."""

    trials: int = Field(4, ge=1)
    """Configurations to try: with a grid, for each combination of its values; with pbt, the population."""
    scheduler: Literal["asha", "halving", "pbt", "none"] = "asha"
    """asha stops weak trials early (Li et al. 2018); halving does it in step: all wait for each other before some are stopped,
    which takes less of a small cluster (Jamieson & Talwalkar 2016); pbt has weak trials go on from strong ones' weights, with
    their values changed a little (Jaderberg et al. 2017); none runs all to the end."""
    algorithm: Literal["auto", "optuna", "random"] = "auto"
    """optuna proposes by TPE (Bergstra et al. 2011), random draws independently; auto: random beside a grid, for pbt and for
    halving, which proposals by results do not fit, else optuna."""
    seed: int = Field(0, ge=0)
    """Seed of the proposals."""
    grace_reports: int = Field(1, ge=1)
    """asha, halving: evaluations that every trial may report before it may be stopped."""
    reduction_factor: int = Field(3, ge=2)
    """asha, halving: one in so many trials is kept at each rung."""
    perturb_every: int = Field(1, ge=1)
    """pbt: evaluations between two turns at which a trial may take over another's weights."""
    quantile_fraction: float = Field(0.25, gt=0, le=0.5)
    """pbt: the share of the population that is weak, and the share that it takes over from."""
    resample_probability: float = Field(0.25, ge=0, le=1)
    """pbt: how often a value is drawn anew, where it would else be multiplied by 0.8 or 1.2 (a choice: the one beside it)."""
    max_concurrent: int | None = Field(None, ge=1)
    """Trials at once; by default as many as the cluster's nodes hold, or will hold once it has grown."""
    keep: int = Field(1, ge=1)
    """The best trials whose models go on, the best one of each shape first: compress and evaluate take all of them, other
    stages the best. asha then compares trials of one shape alone."""
    budget: Budget | None = None
    """What a shape may take; those over it are left out before any trial trains."""

    @model_validator(mode="after")
    def _some_to_keep(self) -> "Tune":
        if self.keep > 1 and self.scheduler == "pbt":
            raise ValueError("the models of a population come from each other: keep one, or use scheduler: asha")
        if self.keep > 1 and self.scheduler == "halving":
            raise ValueError("halving compares all trials, of whatever shape: keep one, or use scheduler: asha")
        return self

    @property
    def in_turns(self) -> bool:
        """Whether all trials must be there to be compared, and pause for each other."""
        return self.scheduler in ("pbt", "halving")


TUNE_RULES = (
    *(
        Rule(
            key,
            (),
            lambda tune, _: tune.scheduler in ("asha", "halving"),
            "only asha and halving stop trials at rungs",
            "Leave it out, or use one of them.",
        )
        for key in ("grace_reports", "reduction_factor")
    ),
    *(
        Rule(
            key,
            (),
            lambda tune, _: tune.scheduler == "pbt",
            "only pbt has trials take over others' weights",
            "Leave it out, or use scheduler: pbt.",
        )
        for key in ("perturb_every", "quantile_fraction", "resample_probability")
    ),
)
"""What keys of `Tune` need to do something."""


@dataclass(frozen=True)
class Space:
    """One search space: its kind and its bounds or values."""

    kind: str
    values: tuple[Any, ...]

    def examples(self) -> tuple[Any, ...]:
        """Values that must all be valid for the space to be: both bounds, or every choice."""
        return self.values

    def between(self) -> float | None:
        """A number with a fraction that may be drawn; None where there is none."""
        if self.kind not in ("uniform", "loguniform"):
            return None
        low, high = self.values
        return float(low + (high - low) * GOLDEN)

    def problem(self, path: str) -> Problem | None:
        """What is wrong with the space itself, if anything."""
        if not self.values:
            return Problem(path, None, f"{self.kind} has no values", "List at least one.")
        if self.kind in ("choice", "grid"):
            return None
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)
        if len(self.values) != 2 or not numbers or self.values[0] >= self.values[1]:
            return Problem(path, list(self.values), f"{self.kind} needs two numbers, the lower first", "Write [low, high].")
        if self.kind == "loguniform" and self.values[0] <= 0:
            return Problem(path, list(self.values), "loguniform needs bounds above 0", "Raise the lower bound.")
        if self.kind == "randint" and not all(isinstance(value, int) for value in self.values):
            return Problem(path, list(self.values), "randint needs whole numbers", "Use uniform for others.")
        return None

    def domain(self) -> Any:
        """The same space in Ray Tune's terms."""
        from ray import tune

        if self.kind == "grid":
            return tune.grid_search(list(self.values))
        if self.kind == "choice":
            return tune.choice(list(self.values))
        if self.kind == "randint":
            return tune.randint(self.values[0], self.values[1] + 1)
        return getattr(tune, self.kind)(*self.values)


def count_trials(tune: Tune, spaces: Mapping[str, Space]) -> tuple[int, int]:
    """Draws for each combination of grid values, and trials in all; drawing a bare grid twice would repeat its trials."""
    combinations = math.prod(len(space.values) for space in spaces.values() if space.kind == "grid")
    draws = tune.trials if any(space.kind != "grid" for space in spaces.values()) else 1
    return draws, draws * combinations


def shape_spaces(spaces: Mapping[str, Space], keys: Collection[str]) -> dict[str, Space]:
    """The spaces at or below the keys that make a model's shape."""
    return {path: space for path, space in spaces.items() if any(f"{path}.".startswith(f"{key}.") for key in keys)}


def budget_problems(
    tune: Tune, spaces: Mapping[str, Space], shaped_by: Collection[str], stage: str, path: str
) -> list[Problem]:
    """What keeps the shapes of a search from being timed beforehand."""
    if tune.budget is None:
        return []
    if not shaped_by:
        remedy = "Leave it out, or search a stage that has: distill, finetune."
        return [Problem(f"{path}.tune.budget", None, f"{stage} has no shape that is known beforehand", remedy)]
    shapes, found = shape_spaces(spaces, shaped_by), []
    for key, space in shapes.items():
        if space.kind not in ("choice", "grid"):
            reason = "each shape is timed before the search, and these are endless"
            found.append(Problem(f"{path}.{key}", space.kind, reason, "Write a choice of values, or leave out tune.budget."))
    if not found and len({space.kind for space in shapes.values()}) > 1:
        reason = "shapes that are left are drawn together, so their keys are searched in one way"
        found.append(Problem(f"{path}.tune.budget", sorted(shapes), reason, "Make all of them choice, or all of them grid."))
    return found


def search_problems(
    tune: Tune, spaces: Mapping[str, Space], changeable: Collection[str], evaluations: int, path: str
) -> list[Problem]:
    """What does not go together in a step's search; `changeable` are the keys that may change while a model trains."""
    grids = [key for key, space in spaces.items() if space.kind == "grid"]
    problems = []
    if tune.algorithm == "optuna" and (grids or tune.in_turns):
        too_early = f"{tune.scheduler} draws all its trials before there are results"
        reason = "proposals by results do not fit a grid" if grids else too_early
        remedy = "Write choice for grid, or algorithm: random." if grids else "Set algorithm: random, or scheduler: asha."
        problems.append(Problem(f"{path}.tune.algorithm", tune.algorithm, reason, remedy))
    if tune.in_turns and tune.max_concurrent is not None and tune.max_concurrent < tune.trials:
        reason = f"all {tune.trials} trials wait for each other and train in turns"
        remedy = "Leave it out: what the cluster does not hold at once waits for its turn."
        problems.append(Problem(f"{path}.tune.max_concurrent", tune.max_concurrent, reason, remedy))
    if tune.scheduler != "pbt":
        return problems
    for key in grids:
        problems.append(Problem(f"{path}.{key}", "grid", "pbt changes values, a grid's are fixed", "Write choice for grid."))
    for key in (key for key in spaces if key not in grids and key not in changeable):
        reason = "pbt trains on with another trial's weights, and this key cannot change then"
        remedy = f"Give it one value, or use scheduler: asha; pbt may change {', '.join(changeable)}."
        problems.append(Problem(f"{path}.{key}", spaces[key].kind, reason, remedy))
    if tune.trials < 2:
        reason = "a population of one has nobody to take over from"
        problems.append(Problem(f"{path}.tune.trials", tune.trials, reason, "Raise it (4 or more), or use scheduler: none."))
    if evaluations <= 2 * tune.perturb_every:
        reason = (
            f"pbt ranks the trials at one turn and changes them at the next, and a turn takes {tune.perturb_every} of them"
        )
        remedy = f"Raise it above {2 * tune.perturb_every}, or use scheduler: asha."
        problems.append(Problem(f"{path}.evaluations", evaluations, reason, remedy))
    return problems


def find_spaces(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Space]:
    """The search spaces in a step's raw config, by dotted path."""
    return {path: Space(kind, values) for path, kind, values in _walk(tree, prefix)}


def _walk(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if not isinstance(value, Mapping):
            continue
        if len(value) == 1 and next(iter(value)) in SPACE_KINDS:
            kind, values = next(iter(value.items()))
            yield path, kind, tuple(values) if isinstance(values, list | tuple) else (values,)
        else:
            yield from _walk(value, path + ".")


def fill(tree: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a raw config with values set at dotted paths; parts that are not there are made."""
    filled: dict[str, Any] = {key: fill(value, {}) if isinstance(value, Mapping) else value for key, value in tree.items()}
    for path, value in values.items():
        *parents, last = path.split(".")
        place = filled
        for parent in parents:
            if not isinstance(place.get(parent), dict):
                place[parent] = {}
            place = place[parent]
        place[last] = value
    return filled
