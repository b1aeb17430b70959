"""Grams: the words of a text and its characters in a row, as scikit-learn's vectorizers cut them, without scikit-learn.

    GramSettings().cut("Win a prize")      # {"words": ["win", "a", "prize", "win a", …], "characters": ["wi", "in", …]}

A character of a script that is written without spaces is a word of its own. Texts are compared in small letters.
"""

import re
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, field_validator

from serve.cleaning.scripts import CHARACTERS

WORD = rf"[{CHARACTERS}]|[^\W{CHARACTERS}]+"
"""A word, for a regular expression: words of one character too, for many of them tell (I, u, 2)."""
_FIND_WORDS = re.compile(WORD).findall
_SPACES = re.compile(r"\s\s+")

Lengths = tuple[int, int]
"""From so many to so many in a row."""


class GramSettings(BaseModel):
    """Which grams a text is cut into."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    words: Lengths | None = (1, 2)
    """Words in a row; None: no words."""
    characters: Lengths | None = (2, 5)
    """Characters in a row, spaces among them; None: none."""

    @field_validator("words", "characters")
    @classmethod
    def _rising(cls, lengths: Lengths | None) -> Lengths | None:
        if lengths is not None and not 1 <= lengths[0] <= lengths[1]:
            raise ValueError(f"{lengths[0]} to {lengths[1]} in a row: give the fewest, from 1 on, and then the most")
        return lengths

    @property
    def sorts(self) -> tuple[str, ...]:
        """The names of the sorts of grams that there are."""
        return tuple(name for name in ("words", "characters") if getattr(self, name) is not None)

    def cut(self, text: str) -> dict[str, list[str]]:
        """The grams of a text by their sort, each as often as it is there."""
        lowered, found = text.lower(), {}
        if self.words is not None:
            found["words"] = word_grams(lowered, *self.words)
        if self.characters is not None:
            found["characters"] = character_grams(lowered, *self.characters)
        return found


def word_grams(text: str, fewest: int, most: int) -> list[str]:
    """Words in a row of a text in small letters, with a space between them."""
    words = _FIND_WORDS(text)
    found: list[str] = list(words) if fewest == 1 else []
    for count in range(max(2, fewest), min(most, len(words)) + 1):
        found += map(" ".join, _in_a_row(words, count))
    return found


def character_grams(text: str, fewest: int, most: int) -> list[str]:
    """Characters in a row of a text in small letters; several spaces count as one."""
    text = _SPACES.sub(" ", text)
    length = len(text)
    found: list[str] = []
    for count in range(fewest, min(most, length) + 1):
        found += [text[place : place + count] for place in range(length - count + 1)]
    return found


def _in_a_row(words: list[str], count: int) -> Iterable[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(count)), strict=False)
