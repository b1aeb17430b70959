"""An item as a model reads it: its texts cleaned as those were that it learned from.

read = as_read(item, card.cleaning)
read.item, read.texts                        # for the tokenizer; the way back, where anything was changed
parts_of(task, item, card.cleaning)          # what is left out to explain an answer: places in what was sent
"""

from collections.abc import Sequence
from dataclasses import dataclass

from serve.cleaning.changes import Cleaned
from serve.cleaning.cleaning import Cleaning
from serve.tasks.protocol import Item, Part, Task
from serve.tasks.shared.explain import NOTHING_LEFT


@dataclass(frozen=True, slots=True)
class ReadItem:
    """An item, cleaned."""

    item: Item
    texts: Sequence[Cleaned]
    """Its texts with the way back; none where nothing was changed."""


def as_read(item: Item, cleaning: Cleaning | None) -> ReadItem:
    """The item as a model reads it that learned from texts which were cleaned so; None: as they were.

    Of a text that cleaning leaves nothing of a full stop is read: some tokenizers make nothing of an empty one.
    """
    if cleaning is None:
        return ReadItem(item, ())
    texts = [cleaning.cleaned(value) for value in item.values]
    if not any(text.changed for text in texts):
        return ReadItem(item, ())
    texts = [text if text.text else text.replace([(0, 0, NOTHING_LEFT)]) for text in texts]
    return ReadItem(Item(tuple(text.text for text in texts), item.options), texts)


def parts_of(task: Task, item: Item, cleaning: Cleaning | None) -> list[Part]:
    """The parts of what is read of an item, as places in what was sent: no part is of a tag, or of half an é."""
    read = as_read(item, cleaning)
    parts = task.parts(read.item)
    return [Part(part.field, *read.texts[part.field].span(part.start, part.end)) for part in parts] if read.texts else parts
