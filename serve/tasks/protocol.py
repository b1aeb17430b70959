"""What a kind of task says of its answers: the serve half. Everything that stands between a request and a model asks it.

    task.encode(tokenizer, items)                    # windows of each item, for the graph
    outputs = task.settled(raw, variant.fitted)      # one output an item, with what was fitted applied
    task.answers(outputs, items, options)            # what goes out

A task is a frozen model whose fields say what the answers mean (its labels, a scale). It stands in EXAMPLES and, unchanged, in
the card of every model that learned from them: tasks that are equal are the same task.

An output is what a model says of one item, in the item's own units: an array, or several by name. Outputs of several items are
a sequence of them. Kinds whose outputs all have one shape are `dense`: theirs are one array, its first axis the items.
N items, W windows, T tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, ClassVar, Literal, cast

import numpy as np
from pydantic import BaseModel, ConfigDict
from tokenizers import Encoding, Tokenizer

from serve.cleaning.changes import Cleaned
from serve.tasks.shared.cutting import cut_pair
from serve.tasks.shared.explain import split, without
from serve.tasks.shared.sent import SentWindow

Output = Any
"""np.ndarray, or Mapping[str, np.ndarray] where a graph has several outputs."""
Outputs = Sequence[Any] | np.ndarray
"""One output an item; a single array where the kind is dense."""
Fitted = Mapping[str, float]
"""What was fitted for one variant of one model, by name."""
ITEM_BYTES = 16
"""Of an item's key."""
View = Literal["labels", "list", "number", "heads"]
"""How a page shows an answer. labels: `label` and `probabilities` ({label, probability}). list: `labels`, any number of them,
and `probabilities`. number: `value`, and `text` where an item's part is meant. An explanation's `Whole` has a `label` or
`value`. heads: several answers by name, each in its own view (`Task.views`); the `Whole` has the name as `head`, and that
answer's own as `whole`."""


@dataclass(frozen=True, slots=True)
class Item:
    """What is asked once: the texts of the task's fields, in their order."""

    values: tuple[str, ...]
    options: str = ""
    """Those options that change what the model computes, as JSON; others only shape the answer."""

    @property
    def key(self) -> bytes:
        """A hash that no other item shares: each text stands behind its length, so that none runs into the next."""
        hashed = blake2b(digest_size=ITEM_BYTES)
        for value in (*self.values, self.options):
            content = value.encode("utf-8", "surrogatepass")
            hashed.update(len(content).to_bytes(8, "big"))
            hashed.update(content)
        return hashed.digest()

    @property
    def characters(self) -> int:
        """Of all its texts together."""
        return sum(map(len, self.values))


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of one of an item's texts: values[field][start:end], in characters (code points)."""

    field: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a part does for an answer."""

    attribution: float
    """By how much the answer falls without the part; below 0 the part speaks against it."""


@dataclass(frozen=True, slots=True)
class Explained:
    """What is explained of an answer, and what each part does for it."""

    whole: Mapping[str, Any]
    """Of the answer: what the kind's `Whole` has."""
    parts: Sequence[Evidence]


class NoOptions(BaseModel):
    """Nothing can be asked of the answers besides them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Task(BaseModel):
    """A task of some kind. Kinds derive from it; whatever has a default here is right for kinds of one text, one window."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    kind: str
    """The name under which the kind is found."""

    Options: ClassVar[type[BaseModel]] = NoOptions
    """What a request may ask of the answers; its defaults are those of HTTP. `inputs` and `model` are names that requests
    have. Its class variable `changing`, where it has one, names those that change what the model computes (dimensions, a
    seed): they are part of the item, all others are not."""
    Answer: ClassVar[type]
    """A dataclass, or a pydantic model: an answer as it goes out. (Here the name hides the class: annotate `answers` by
    Any.)"""
    Target: ClassVar[type[BaseModel]] = NoOptions
    """What of an answer a request may have explained."""
    Whole: ClassVar[type | None] = None
    """A dataclass with what an explanation says of the whole answer; None where the kind explains nothing."""
    Evidence: ClassVar[type[Evidence]] = Evidence
    """What it says of each part."""
    view: ClassVar[View]
    """How the page shows an answer."""
    summary: ClassVar[str] = "Answer"
    """What POST /v1/predict does, in a few words."""
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    """The class of transformers that has the head."""
    graph_outputs: ClassVar[tuple[str, ...]] = ("logits",)
    """What the model gives, by the names that transformers and the exported graph have for it."""
    per_token: ClassVar[bool] = False
    """Whether it gives something for each token: T is then the second axis, and is cut to the window's tokens."""
    dense: ClassVar[bool] = True
    """Whether all outputs have one shape."""
    windows: ClassVar[bool] = False
    """Whether an item may have several windows."""
    offsets: ClassVar[bool] = False
    """Whether windows must know where their tokens stand in the texts: those of the item as it was sent, however they were
    cleaned before the model read them."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of an item's texts, in their order."""
        return ("text",)

    @property
    def width(self) -> int | None:
        """How many numbers an output is, where it is an array of the shape (width,) and just what the graph gave for the text:
        then other tasks may have columns beside these in one model. None where it is not."""
        return None

    @property
    def graph_parts(self) -> tuple[tuple[str, int], ...]:
        """Where an exported graph gives its only output in parts, one after another in its last axis: the name of each, and
        how many columns it has. Empty where the graph gives what transformers' model gives."""
        return ()

    @property
    def views(self) -> Mapping[str, View]:
        """How the page shows each of several answers, by name; empty where there is one."""
        return {}

    def named(self, item: Item) -> dict[str, str]:
        """An item's texts by name."""
        return dict(zip(self.fields, item.values, strict=True))

    def as_input(self, item: Item) -> str | dict[str, str]:
        """An item as a request has it: of one field its text, of several an object."""
        return self.named(item) if len(self.fields) > 1 else item.values[0]

    def cut(self, tokenizer: Tokenizer, max_length: int, direction: str) -> None:
        """Have the tokenizer cut texts to so many tokens: of two the longer one first."""
        tokenizer.enable_truncation(max_length=max_length, direction=direction)

    def encode(self, tokenizer: Tokenizer, items: Sequence[Item]) -> list[list[Encoding]]:
        """The windows of each item, by a tokenizer that was told where to `cut`: `tokenizer.truncation` has the length.

        Any text of any field may be longer than that (a model is warmed up with such), and none may be refused: what `cut`
        does not shorten is shortened here. Threads share the tokenizer; nothing in it is changed.
        """
        many = tokenizer.encode_batch if self.offsets else tokenizer.encode_batch_fast
        texts: Any = [item.values[0] if len(item.values) == 1 else cut_pair(tokenizer, item.values) for item in items]
        return [[encoding] for encoding in many(texts)]

    def as_sent(self, windows: Sequence[Encoding], texts: Sequence[Cleaned]) -> list[Encoding]:
        """The windows of a cleaned item, with offsets into its texts as they were sent: `combine` takes them with that item,
        so that outputs and answers are in its units. Right wherever sequence n of a window is of text n.

        Asked where the kind needs `offsets` and cleaning has changed something.
        """
        return [cast(Encoding, SentWindow(window, texts)) for window in windows]

    def window_output(self, rows: Sequence[np.ndarray], tokens: int) -> Output:
        """The output of a window of so many tokens, from its row of each array that the graph gave: without its padding."""
        own = [row[:tokens] if self.per_token else row for row in rows]
        return own[0] if len(own) == 1 else dict(zip(self.graph_outputs, own, strict=True))

    def combine(self, windows: Sequence[Encoding], outputs: Sequence[Output], item: Item) -> Output:
        """The output of an item from those of its windows, which run over just a window's tokens where the kind is
        `per_token`.

        Not asked of dense kinds of one window: there it is the output itself.
        """
        return outputs[0]

    def stacked(self, outputs: Sequence[Output]) -> Outputs:
        """Outputs one after another as what they are together: of dense kinds one array."""
        return np.stack(outputs) if self.dense and len(outputs) else list(outputs)

    def wrong_output(self, output: Output) -> str | None:
        """Why no model of this task can have said this; None where one can."""
        return None

    def wrong_fitted(self, fitted: Fitted) -> str | None:
        """Why nothing like this can have been fitted for a model of this task; None where it can."""
        return f"nothing is fitted for it, and {', '.join(sorted(fitted))} is given" if fitted else None

    def settled(self, outputs: Outputs, fitted: Fitted) -> Outputs:
        """The outputs with what was fitted for the variant applied: from here on variants of a task are alike."""
        return outputs

    def answers(self, outputs: Outputs, items: Sequence[Item], options: BaseModel | None = None) -> list[Any]:
        """The answer to each item, from settled outputs; without options everything that can be said."""
        raise NotImplementedError

    def confidence(self, outputs: Outputs) -> np.ndarray | None:
        """How sure each settled output is, in [0, 1]; None, also of no outputs, where the kind has no such thing."""
        return None

    def same(self, left: Outputs, right: Outputs) -> np.ndarray:
        """Whether two settled outputs say the same, item by item."""
        raise NotImplementedError

    def distance(self, left: Outputs, right: Outputs) -> np.ndarray:
        """How far two outputs are apart, item by item, from 0 on; of probabilities the largest change of one."""
        raise NotImplementedError

    def gap(self, left: Outputs, right: Outputs) -> np.ndarray:
        """How far the second is from the first in what the first says, for a mean over many items."""
        return self.distance(left, right)

    def said(self, outputs: Outputs) -> list[str]:
        """A few words a settled output, to count by: a label, a range. It is what drift counts, and how answers changed."""
        raise NotImplementedError

    @property
    def sayings(self) -> tuple[str, ...]:
        """All that `said` may say, in order."""
        raise NotImplementedError

    def unlike(self, other: "Task") -> str | None:
        """Why outputs of another task's model cannot be compared with those of this one; None where they can."""
        return None if self == other else "they are not of the same task"

    def aligned(self, outputs: Outputs, other: "Task") -> Outputs:
        """Outputs of a model of another task that is not `unlike`, as one of this task would give them."""
        return outputs

    def parts(self, item: Item) -> list[Part]:
        """What is left out, one after another, to explain an answer: words; of Chinese and Japanese, characters."""
        spans = ((place, span) for place, text in enumerate(item.values) for span in split(text, len(item.values)))
        return [Part(place, span.start, span.end) for place, span in spans]

    def without(self, item: Item, parts: Sequence[Part]) -> list[Item]:
        """The item once for each part, without it.

        `evidence` compares their outputs with those of the whole item: where they are counted in words, what is left out must
        leave something in its place, or be told from the items.
        """
        return [_replaced(item, part.field, without(item.values[part.field], [part])[0]) for part in parts]

    def wrong_target(self, target: BaseModel, item: Item) -> tuple[str, str] | None:
        """The field of a target that does not fit this task or this item, and why; None where all fit."""
        return None

    def evidence(self, outputs: Outputs, items: Sequence[Item], target: BaseModel) -> Explained:
        """What each part does for the answer, from settled outputs of these items: the whole one, then without each part."""
        raise NotImplementedError

    def right_example(self) -> Any:
        """What a person may say is right, in JSON, for the service's documentation; None where the kind takes nothing of the
        sort: then the next three are not asked."""
        return None

    @property
    def choices(self) -> tuple[str, ...]:
        """What a right answer may name, in order; none where it names nothing, such as a number."""
        return ()

    def right(self, said: Any) -> dict[str, Any]:
        """What somebody says is right, in JSON, as the target columns of a row for `prepare`, by the names that they have by
        default in the kind's settings: {"label": "spam"}. ValueError: why it cannot be right, to that person."""
        raise NotImplementedError

    def goodness(self, answer: Mapping[str, Any], right: Mapping[str, Any]) -> float:
        """How good an answer that came over HTTP is where this is `right`, in [0, 1]: 1 only where nothing is wrong."""
        raise NotImplementedError

    def columns(self, wide: bool) -> dict[str, type]:
        """The columns that answers have in a file, with their types, the answer itself first; with `wide` all there is."""
        raise NotImplementedError

    def cells(self, answer: Any, wide: bool) -> dict[str, Any]:
        """An answer as the values of these columns."""
        raise NotImplementedError

    def brief(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """The main values of an answer that came over HTTP, for a summary."""
        return {name: value for name, value in answer.items() if not isinstance(value, list | dict)}

    def told(self, answer: Mapping[str, Any]) -> str:
        """An answer that came over HTTP in a few words, for a person."""
        return ", ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in self.brief(answer).values())

    def examples(self) -> list[Item]:
        """Two items to show in the service's documentation; of several fields each has the same text unless the kind has
        others."""
        return [Item((text,) * len(self.fields)) for text in ("I would buy it again.", "It broke after a week.")]


def _replaced(item: Item, place: int, text: str) -> Item:
    return Item((*item.values[:place], text, *item.values[place + 1 :]), item.options)
