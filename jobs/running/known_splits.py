"""Which splits a step's rows have, as far as the recipe alone says it.

has_split(recipe.steps, recipe.steps["judged"], "test")      # True, False, or None where only the data says it
"""

from collections.abc import Mapping
from typing import Any

from jobs.core.recipe import Step


def has_split(steps: Mapping[str, Step], step: Step, split: str) -> bool | None:
    """Whether the step's examples or tokens have rows for a split; None where only the data says it."""
    names = [name for key in ("examples", "tokens") for name in step.inputs.get(key, ())]
    found = [divides(steps[name].config, split) for name in names]
    return None if None in found or not found else any(found)


def divides(config: Any, split: str) -> bool | None:
    """Whether a prepare step with this config makes rows for a split; None where only the data says it."""
    named = () if isinstance(config.source, str) else tuple(config.source)
    if split in named:
        return True
    if config.split.by != "hash":
        return None
    if split == "train":
        return not named or bool({"train", "unlabelled"} & set(named))
    if split == "test":
        return not named and config.split.test > 0
    return (not named or "train" in named) and config.split.validation > 0
