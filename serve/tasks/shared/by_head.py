"""What heads of one model are called, and what stands behind their names: columns, figures, what was fitted.

wrong_head_name("topic.de")                     # why that is none
of_head({"topic.temperature": 1.3, "other.temperature": 2.0}, "topic")          # {"temperature": 1.3}
"""

from collections.abc import Mapping, Sequence
from keyword import iskeyword
from typing import TypeVar
from unicodedata import normalize

import numpy as np
from pydantic import BaseModel

V = TypeVar("V")
OF = "."
"""What stands between a head's name and what is its own; no name has it."""
TAKEN = frozenset({"changing", "feedback", "head", "inputs", "items", "model", "pair", "text", "weights", "words"})
"""Names that requests, replies, rows or the loss have for something else."""


def wrong_head_name(name: str) -> str | None:
    """Why a head cannot have this name; None where it can."""
    if not name.isidentifier() or name.startswith("_") or normalize("NFKC", name) != name:
        return "a head's name has letters of any script, digits and _, and begins with a letter"
    if name in TAKEN or iskeyword(name) or hasattr(BaseModel, name):
        return "requests have this name for something else"
    return None


def of_head(named: Mapping[str, V], head: str) -> dict[str, V]:
    """Of what stands behind heads' names: one head's, without its name."""
    return {name.removeprefix(head + OF): value for name, value in named.items() if name.startswith(head + OF)}


def behind(named: Mapping[str, V], head: str) -> dict[str, V]:
    """What is a head's own, behind its name."""
    return {f"{head}{OF}{name}": value for name, value in named.items()}


def said_together(each: Sequence[Sequence[str]]) -> list[str]:
    """What several heads say of the same texts, by text."""
    return [", ".join(own) for own in zip(*each, strict=True)]


def side_by_side(each: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Arrays as the fields of one of this shape, with which all their shapes begin."""
    together = np.zeros(shape, dtype=[(name, own.dtype, own.shape[len(shape) :]) for name, own in each.items()])
    for name, own in each.items():
        together[name] = own
    return together
