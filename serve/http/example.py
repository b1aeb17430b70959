"""What the default model says of its task's examples, for the service's documentation.

example = example_of(engine)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serve.engines.base import Engine
from serve.engines.reading import parts_of
from serve.tasks.protocol import Item, Outputs, Part


@dataclass(frozen=True)
class Example:
    """A model's answers to its task's examples."""

    items: Sequence[Item]
    answers: Sequence[Any]
    embeddings: list[list[float]]
    """Of the first item alone; empty where it has none."""
    parts: Sequence[Part]
    """Of the first item, those that an explanation leaves out; none where nothing is explained."""
    left_out: Outputs
    """Settled outputs of the first item, and then of it without each of its parts; empty where nothing is explained."""


def example_of(engine: Engine) -> Example:
    """The example of a model that is loaded."""
    task = engine.task
    items = task.examples()
    first = items[0]
    vectors = []
    if engine.embeds:
        (windows,) = engine.tokenise([first])
        vectors = [engine.joined_vectors(first, windows, list(engine.embed(windows))).round(4).tolist()]
    parts = [] if task.Whole is None else parts_of(task, first, engine.card.cleaning)
    explained = [] if task.Whole is None else [first, *task.without(first, parts)]
    return Example(items, engine.answers(items, task.Options()), vectors, parts, engine.settled(explained))
