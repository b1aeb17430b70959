"""Search spaces: any number or choice in a step may be one, and then Ray Tune runs the step.

learning_rate: {loguniform: [1.0e-5, 1.0e-3]}
temperature:   {uniform: [1, 8]}
epochs:        {randint: [1, 5]}          # both ends count
layers:        {choice: [2, 4]}
alpha:         {grid: [0.0, 0.5, 1.0]}    # every value is tried
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from jobs.core.config import Config, Problem

KINDS = ("loguniform", "uniform", "randint", "choice", "grid")


class Tune(Config):
    """How the search spaces of a step are searched."""

    trials: int = Field(4, ge=1)
    """Configurations to try (for each combination of grid values)."""
    scheduler: Literal["asha", "none"] = "asha"
    """asha stops weak trials early (Li et al. 2018); none runs all to the end."""
    algorithm: Literal["optuna", "random"] = "optuna"
    """optuna proposes by TPE (Bergstra et al. 2011); random draws independently."""
    seed: int = 0
    """Seed of the proposals."""
    grace_reports: int = Field(1, ge=1)
    """Evaluations that every trial may report before asha may stop it."""
    reduction_factor: int = Field(3, ge=2)
    """asha keeps one in so many trials at each rung."""
    max_concurrent: int | None = Field(None, ge=1)
    """Trials at once; by default as many as the cluster can hold."""


@dataclass(frozen=True)
class Space:
    """One search space: its kind and its bounds or values."""

    kind: str
    values: tuple[Any, ...]

    def examples(self) -> tuple[Any, ...]:
        """Values that must all be valid for the space to be: both bounds, or every choice."""
        return self.values

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


def find_spaces(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Space]:
    """The search spaces in a step's raw config, by dotted path."""
    return {path: Space(kind, values) for path, kind, values in _walk(tree, prefix)}


def _walk(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if not isinstance(value, Mapping):
            continue
        if len(value) == 1 and next(iter(value)) in KINDS:
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
