"""Keys that a step gives and that would do nothing in it, by what else it says; each is refused by name before anything runs.

    RULES = (Rule("optimizer.momentum", ("optimizer.name",), lambda config, _: config.optimizer.name == "sgd", "…", "…"),)
    idle_problems(config, inputs, searched, RULES)

What is given as 0 or null, to turn something off, makes no key idle: so controls are written.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from jobs.core.config import Problem

Works = Callable[[Any, Collection[str]], bool]
"""Whether a key does something in a config with inputs of these names."""
INPUTS = "inputs."


@dataclass(frozen=True)
class Rule:
    """What a key, or an input, needs to do something."""

    key: str
    hangs_on: tuple[str, ...]
    """The keys that `works` looks at: while one of them is searched, the key does something in some trials."""
    works: Works
    reason: str
    remedy: str

    def below(self, section: str) -> "Rule":
        """The same of a section's keys, in the config that has the section."""
        works, keys = self.works, tuple(f"{section}.{key}" for key in self.hangs_on)

        def inside(config: Any, inputs: Collection[str]) -> bool:
            return works(getattr(config, section), inputs)

        return replace(self, key=f"{section}.{self.key}", hangs_on=keys, works=inside)


def idle_problems(config: BaseModel, inputs: Collection[str], searched: Iterable[str], rules: Iterable[Rule]) -> list[Problem]:
    """The keys that are given and do nothing."""
    spaces, problems = [f"{path}." for path in searched], []
    for rule in rules:
        value = _given(config, inputs, rule.key)
        open_ones = [
            key for key in rule.hangs_on for path in spaces if f"{key}.".startswith(path) or path.startswith(f"{key}.")
        ]
        if value and not open_ones and not rule.works(config, inputs):
            shown = None if isinstance(value, BaseModel | dict | bool) else value
            problems.append(Problem(rule.key, shown, rule.reason, rule.remedy))
    return problems


def _given(config: BaseModel, inputs: Collection[str], key: str) -> Any:
    """What a recipe says under a key; None where it says nothing."""
    if key.startswith(INPUTS):
        return key.removeprefix(INPUTS) in inputs
    place: Any = config
    for part in key.split("."):
        if place is None or part not in place.model_fields_set:
            return None
        place = getattr(place, part)
    return place
