"""A kind of task that no user has: a question to a long text, read in several windows, with an output of as many rows.

    engine = windowed_engine(directory)           # of a tiny model's graph

An output has a row a window: what the graph says of it. An answer is the highest figure of any window, and where that is.
W windows, C columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel
from tokenizers import Encoding, Tokenizer

from serve.engines.base import Engine
from serve.engines.card import Variant, read_card, write_card
from serve.engines.engine import load_engine
from serve.tasks import protocol
from serve.tasks.protocol import Explained, Fitted, Item, Output, Outputs, Task, View
from tests.serve.tiny_model import publish_tiny

QUESTION_CHARACTERS = 16
QUESTION = "bring the keys"
LONG = "see you at the station, bring the keys, the film was a joy from the first minute to the last, " * 2
ITEMS = [
    Item(("a prize", "win a prize now")),
    Item((QUESTION, LONG)),
    Item(("这部", "质量太差，用了一天就坏了。这部电影很好看，我非常喜欢。")),
    Item((QUESTION, LONG * 2 + "and at six")),
]


@dataclass(frozen=True, slots=True)
class Answer:
    """The highest figure."""

    value: float
    text: str


@dataclass(frozen=True, slots=True)
class Whole:
    """What is explained."""

    value: float


class Windowed(Task):
    """The highest figure of all windows."""

    kind: Literal["windowed"] = "windowed"

    Answer: ClassVar = Answer
    Whole: ClassVar = Whole
    view: ClassVar[View] = "number"
    summary: ClassVar[str] = "Find the highest figure"
    dense: ClassVar[bool] = False
    windows: ClassVar[bool] = True

    @property
    def fields(self) -> tuple[str, ...]:
        return ("question", "context")

    @property
    def sayings(self) -> tuple[str, ...]:
        return ("below 1", "1 and more")

    def cut(self, tokenizer: Tokenizer, max_length: int, direction: str) -> None:
        tokenizer.enable_truncation(max_length, strategy="only_second")

    def encode(self, tokenizer: Tokenizer, items: Sequence[Item]) -> list[list[Encoding]]:
        # Of a longer question its beginning, so that there is room beside it.
        texts = [(item.values[0][:QUESTION_CHARACTERS], item.values[1]) for item in items]
        return [[first, *first.overflowing] for first in tokenizer.encode_batch(texts)]

    def combine(self, windows: Sequence[Encoding], outputs: Sequence[Output], item: Item) -> Output:
        return np.stack(outputs)

    def wrong_fitted(self, fitted: Fitted) -> str | None:
        return None

    def settled(self, outputs: Outputs, fitted: Fitted) -> Outputs:
        return [output_WC + fitted.get("offset", 0.0) for output_WC in outputs]

    def answers(self, outputs: Outputs, items: Sequence[Item], options: BaseModel | None = None) -> list[Any]:
        return [Answer(float(output_WC.max()), f"of {len(output_WC)} windows") for output_WC in outputs]

    def same(self, left: Outputs, right: Outputs) -> np.ndarray:
        return np.array([one == other for one, other in zip(self.said(left), self.said(right), strict=True)])

    def distance(self, left: Outputs, right: Outputs) -> np.ndarray:
        return np.array([abs(one - other).max() for one, other in zip(left, right, strict=True)])

    def said(self, outputs: Outputs) -> list[str]:
        return [self.sayings[int(output_WC.max() >= 1)] for output_WC in outputs]

    def evidence(self, outputs: Outputs, items: Sequence[Item], target: BaseModel) -> Explained:
        whole, *left_out = (float(output_WC.max()) for output_WC in outputs)
        return Explained({"value": whole}, [protocol.Evidence(whole - value) for value in left_out])


TASK = Windowed


def publish_windowed(directory: Path) -> None:
    """The tiny model with a card of this kind, by which something was fitted for its onnx variant."""
    publish_tiny(directory)
    card = read_card(directory)
    onnx = card.variants["onnx"].model_copy(update={"fitted": {"offset": 0.5}})
    variants: dict[str, Variant] = {**card.variants, "onnx": onnx}
    write_card(directory, card.model_copy(update={"task": Windowed(), "variants": variants}))


def windowed_engine(directory: Path, max_batch: int = 32) -> Engine:
    """It, loaded; where the kind is known."""
    return load_engine(directory, "onnx", max_batch=max_batch)
