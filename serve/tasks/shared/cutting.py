"""Long texts: which are cut, and two of them cut before a tokenizer cuts them.

    tokenizer.encode_batch_fast([cut_pair(tokenizer, pair)])      # the same tokens
    cut_short(task, task.encode(tokenizer, items))                # which items are not read to their end

A tokenizer makes an encoding of each stretch that it cuts of the one text with each that it cuts of the other: of two texts
at HTTP's limit that are seconds, and of the 128 that an explanation asks for, minutes.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from tokenizers import Encoding, Tokenizer

MOST_CHARACTERS = 4
"""Texts of fewer characters for each token that is kept are left as they are: little of them is cut."""


class CutsTexts(Protocol):
    """A task, as far as it says how it reads."""

    @property
    def windows(self) -> bool:
        """Whether the rest of a text goes into further windows."""


def cut_short(task: CutsTexts, encoded: Sequence[Sequence[Encoding]]) -> np.ndarray:
    """Which items, by their windows, have tokens that no window has."""
    return np.array([not task.windows and any(window.overflowing for window in windows) for windows in encoded], dtype=bool)


def cut_pair(tokenizer: Tokenizer, pair: tuple[str, ...]) -> tuple[str, ...]:
    """The texts without most of what the tokenizer would cut. What it keeps is the same: words stay whole, and of the two the
    longer one the longer."""
    cutting = tokenizer.truncation
    if cutting is None or max(map(len, pair)) <= MOST_CHARACTERS * cutting["max_length"]:
        return pair
    limit, left = cutting["max_length"], cutting["direction"] == "left"
    # Each alone: what is cut of it is as long as itself.
    stretches = [[whole, *whole.overflowing] for whole in tokenizer.encode_batch(list(pair), add_special_tokens=False)]
    lengths = [sum(map(len, stretch)) for stretch in stretches]
    shorter = int(lengths[1] < lengths[0])
    text, tokens = _cut(pair[shorter], stretches[shorter], limit, left)
    # Longer by far: a word where a text is cut may be read as a token more or less.
    other, _ = _cut(pair[1 - shorter], stretches[1 - shorter], tokens + limit, left)
    return (other, text) if shorter else (text, other)


def _cut(text: str, stretches: Sequence[Encoding], enough: int, left: bool) -> tuple[str, int]:
    """The text up to the word in which it has enough tokens, from its end where its beginning is cut; and its tokens."""
    last, edge, tokens = None, 0, 0
    for word, (start, end) in _tokens(stretches, left):
        # Where a tokenizer knows no words, somewhere further on.
        if (tokens >= enough and word != last) or tokens >= 2 * enough:
            return (text[edge:] if left else text[:edge]), tokens
        last, edge, tokens = word, start if left else end, tokens + 1
    return text, tokens


def _tokens(stretches: Sequence[Encoding], left: bool) -> Iterator[tuple[int | None, tuple[int, int]]]:
    """The word and the place of each token, from the side that is kept."""
    for stretch in stretches:
        pairs = list(zip(stretch.word_ids, stretch.offsets, strict=True))
        yield from reversed(pairs) if left else pairs
