"""How many stars: how it answers. An output is one number."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel

from serve.tasks.protocol import Item, Outputs, Task, View


@dataclass(frozen=True, slots=True)
class Answer:
    """A number of stars."""

    value: float


class Stars(Task):
    """How many stars a text gives."""

    kind: Literal["stars"] = "stars"
    Answer: ClassVar = Answer
    view: ClassVar[View] = "number"

    def answers(self, outputs: Outputs, items: Sequence[Item], options: BaseModel | None = None) -> list[Any]:
        """The numbers."""
        return [Answer(float(output[0])) for output in outputs]

    def same(self, left: Outputs, right: Outputs) -> np.ndarray:
        """Whether they are the same number of whole stars."""
        return np.asarray(np.rint(np.asarray(left)) == np.rint(np.asarray(right)))[:, 0]

    def distance(self, left: Outputs, right: Outputs) -> np.ndarray:
        """In stars."""
        return np.asarray(np.abs(np.asarray(left) - np.asarray(right)))[:, 0]


TASK = Stars
