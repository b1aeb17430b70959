"""Which words an answer rests on: each is left out once, and the same engine says what that changes (leave-one-out; Li,
Monroe and Jurafsky 2016).

    spans = split(text)                # words; of Chinese and Japanese, characters
    without(text, spans)               # the text once for each of them, without it

It needs no gradients, so it explains every variant, int8 too; what a change means is the task's to say.
"""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from serve.cleaning.scripts import CHARACTER_SCRIPTS

MOST_SPANS = 128
"""A longer text is explained by runs of words, so that it costs no more forward passes than this."""
NOTHING_LEFT = "."
"""Stands for a text whose only word is left out: some tokenizers make nothing of an empty one."""
INSIDE_WORDS = "'’-_"
INSIDE_NUMBERS = ".,:"


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a text, text[start:end] in characters (code points)."""

    start: int
    end: int


class Stretch(Protocol):
    """Anything with a place in a text."""

    @property
    def start(self) -> int:
        """Its first character."""

    @property
    def end(self) -> int:
        """The one behind its last."""


def split(text: str, texts: int = 1) -> list[Span]:
    """The words of a text and its runs of symbols, at most MOST_SPANS in so many texts: of more, neighbours stand together."""
    spans = _words(text)
    size = math.ceil(len(spans) / (MOST_SPANS // texts))
    runs = [spans[first : first + size] for first in range(0, len(spans), size or 1)]
    return [Span(run[0].start, run[-1].end) for run in runs]


def without(text: str, spans: Sequence[Stretch]) -> list[str]:
    """The text once for each span, without it; two spaces do not stay where a word between them went."""
    shorter = []
    for span in spans:
        head, tail = text[: span.start], text[span.end :]
        if not head or head[-1].isspace():
            tail = tail.lstrip()
        shorter.append(head + tail if (head + tail).strip() else NOTHING_LEFT)
    return shorter


def _words(text: str) -> list[Span]:
    """Runs of characters of one kind; characters of scripts without spaces alone."""
    kinds = [_kind(character) for character in text]
    for place in range(len(kinds)):
        before, after = text[place - 1 : place], text[place + 1 : place + 2]
        if kinds[place] == "joins":
            kinds[place] = kinds[place - 1] if before else "word"
        elif _inside(text[place], before, after) and kinds[place - 1] == kinds[place + 1] == "word":
            kinds[place] = "word"
    spans: list[Span] = []
    for place, kind in enumerate(kinds):
        if kind == "space":
            continue
        goes_on = place > 0 and kinds[place - 1] == kind and (kind != "alone" or _kind(text[place]) == "joins")
        if goes_on:
            spans[-1] = Span(spans[-1].start, place + 1)
        else:
            spans.append(Span(place, place + 1))
    return spans


def _inside(character: str, before: str, after: str) -> bool:
    """Whether a sign between two characters is part of a word or number: don't, 1,000."""
    if not before or not after:
        return False
    return character in INSIDE_WORDS or (character in INSIDE_NUMBERS and before.isdigit() and after.isdigit())


def _kind(character: str) -> str:
    """space, alone, symbol, word, or joins: a mark or joiner that belongs to what stands before it."""
    category = unicodedata.category(character)
    if character.isspace():
        return "space"
    if category[0] == "M" or category == "Cf":
        return "joins"
    if any(first <= ord(character) <= last for first, last in CHARACTER_SCRIPTS):
        return "alone"
    return "symbol" if category[0] in "PS" else "word"
