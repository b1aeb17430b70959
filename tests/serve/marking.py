"""A kind of task that no user has: it marks the token of a text that says most, as places in the text.

    publish_marking(directory, Cleaning(strip_tags=True))        # a tiny model with a head for tokens

An output has a figure for each character: that of the token which it is part of. T tokens, C characters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel
from tokenizers import Encoding
from transformers import BertConfig, BertForTokenClassification

from serve.cleaning.cleaning import Cleaning
from serve.engines.card import Card, Variant, write_card
from serve.tasks import protocol
from serve.tasks.protocol import Explained, Item, Output, Outputs, Task, View
from tests.serve.tiny_model import MAX_LENGTH, train_tokenizer


@dataclass(frozen=True, slots=True)
class Answer:
    """What is marked: text[start:end]."""

    value: float
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Whole:
    """What is explained."""

    value: float


class Marking(Task):
    """The token with the highest figure."""

    kind: Literal["marking"] = "marking"

    Answer: ClassVar = Answer
    Whole: ClassVar = Whole
    view: ClassVar[View] = "number"
    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    per_token: ClassVar[bool] = True
    dense: ClassVar[bool] = False
    windows: ClassVar[bool] = True
    offsets: ClassVar[bool] = True

    @property
    def sayings(self) -> tuple[str, ...]:
        return ("below 0", "0 and more")

    def combine(self, windows: Sequence[Encoding], outputs: Sequence[Output], item: Item) -> Output:
        found_C = np.full(len(item.values[0]), -1e9, dtype=np.float32)
        for (start, end), (figure,) in zip(windows[0].offsets, outputs[0], strict=True):
            found_C[start:end] = figure
        return found_C

    def answers(self, outputs: Outputs, items: Sequence[Item], options: BaseModel | None = None) -> list[Any]:
        made = []
        for found_C, item in zip(outputs, items, strict=True):
            start = int(found_C.argmax())
            end = start + int((np.append(found_C[start:], np.inf) != found_C[start]).argmax())
            made.append(Answer(float(found_C[start]), item.values[0][start:end], start, end))
        return made

    def same(self, left: Outputs, right: Outputs) -> np.ndarray:
        return np.array([one.argmax() == other.argmax() for one, other in zip(left, right, strict=True)])

    def distance(self, left: Outputs, right: Outputs) -> np.ndarray:
        return np.array([abs(one - other).max() for one, other in zip(left, right, strict=True)])

    def said(self, outputs: Outputs) -> list[str]:
        return [self.sayings[int(found_C.max() >= 0)] for found_C in outputs]

    def evidence(self, outputs: Outputs, items: Sequence[Item], target: BaseModel) -> Explained:
        whole, *left_out = (float(found_C.max()) for found_C in outputs)
        return Explained({"value": whole}, [protocol.Evidence(whole - value) for value in left_out])


TASK = Marking


def publish_marking(directory: Path, cleaning: Cleaning | None) -> None:
    """A tiny model of this kind, with random weights."""
    tokenizer = train_tokenizer()
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "num_labels": 1,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    model = BertForTokenClassification(
        BertConfig(vocab_size=len(tokenizer), max_position_embeddings=MAX_LENGTH, initializer_range=0.5, **sizes)
    )
    model.eval().save_pretrained(directory)
    card = Card(
        task=Marking(),
        cleaning=cleaning,
        max_length=MAX_LENGTH,
        variants={"torch": Variant(backend="torch", file="model.safetensors", precision="fp32")},
        default="torch",
        parameters=1,
    )
    write_card(directory, card)
