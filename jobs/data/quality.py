"""Gopher's rules: texts that are no running text, or repeat themselves.

    filters: {quality: gopher}                             # in prepare; {min_words: 5} in its place changes one threshold
    broken_rule(text, Gopher())                            # None, or the rule that the text breaks and how

Rules and thresholds are those of Rae et al. 2021 ("Scaling Language Models: Methods, Analysis & Insights from Training
Gopher", A.1.1 and table A1). Of scripts that write no spaces each character counts as a word, with the signs after it; the
rule of word lengths is for words between spaces alone, and the n-grams of such a text are twice as long, since a Chinese word
mostly has two characters.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field, field_validator

from jobs.core.config import Config
from serve.cleaning.scripts import CHARACTERS, UNPARTED

UNSPACED = UNPARTED + CHARACTERS
"""Scripts that write no spaces: Thai, Lao, Burmese, Khmer, kana and Han."""
_WORD = re.compile(rf"[{UNSPACED}][^\w\s]*|[^\s{UNSPACED}]+")
_ONE_UNSPACED = re.compile(f"[{UNSPACED}]")
_SYMBOL = re.compile(r"#|\u2026+|\.{3,}")
_BULLET = re.compile(r"\s*[-*\u2022\u2023\u25e6\u25aa\u25a0\u25a1\u25cf\u25cb\u25c6\u25c7\u00b7\uff0a]")
_ELLIPSIS = ("\u2026", "...", "\u3002\u3002\u3002")
_PUNCTUATION = re.compile(r"[-.,;:!?()\[\]\"'@%&\u2010-\u2026\u3001-\u3011\uff01-\uff0f\uff1a-\uff1f]+")
"""What is no word where signs stand by themselves between spaces, as in text that was cut into words for counting."""
STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
STOP_CHARACTERS = frozenset("的是在了和有不人")
"""For texts of Han characters, which have no such list in the paper: eight of the most frequent ones."""

Share = Annotated[float, Field(ge=0, le=1)]


class Gopher(Config):
    """What a text must be like, as the paper has it; shares are of all lines, words or characters of a text."""

    min_words: int = Field(50, ge=0)
    """Words at least; a Chinese character counts as one."""
    max_words: int = Field(100_000, ge=1)
    """Words at most."""
    min_word_length: float = Field(3, ge=0)
    """Characters of a word at least, on average; for texts of words between spaces."""
    max_word_length: float = Field(10, ge=1)
    """Characters of a word at most, on average; for texts of words between spaces."""
    symbols: float = Field(0.1, ge=0)
    """Hash signs, and ellipses, for each word, at most."""
    bullets: Share = 0.9
    """Lines that begin with a bullet, at most."""
    ellipses: Share = 0.3
    """Lines that end with an ellipsis, at most."""
    letters: Share = 0.8
    """Words that have a letter, at least."""
    stop_words: int = Field(0, ge=0, le=8)
    """How many of the, be, to, of, and, that, have, with must be there; of a text in Chinese 的, 是, 在, 了, 和, 有,
    不, 人. The paper has 2; none is asked for unless it is set, for other languages have neither."""
    repeated_lines: Share = 0.3
    """Lines that have been there before in the text, at most."""
    repeated_line_characters: Share = 0.2
    """Characters in such lines, at most."""
    repeated_paragraphs: Share = 0.3
    """Paragraphs that have been there before, at most."""
    repeated_paragraph_characters: Share = 0.2
    """Characters in such paragraphs, at most."""
    top_ngrams: dict[int, float] = {2: 0.20, 3: 0.18, 4: 0.16}
    """Characters in the most frequent n-gram of words, at most, by n."""
    repeated_ngrams: dict[int, float] = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
    """Characters in n-grams of words that have been there before, at most, by n."""

    @field_validator("top_ngrams", "repeated_ngrams")
    @classmethod
    def _shares_of_ngrams(cls, shares: dict[int, float]) -> dict[int, float]:
        for n, share in shares.items():
            if not 1 <= n <= 100 or not 0 <= share <= 1:
                raise ValueError(f"{n}: {share:g} is no share, from 0 to 1, for n-grams of 1 to 100 words")
        return shares


def word_count(text: str) -> int:
    """How many words a text has, and characters of scripts that write no spaces."""
    return sum(1 for _ in _WORD.finditer(text))


def broken_rule(text: str, rules: Gopher) -> tuple[str, str] | None:
    """The name of the first of QUALITY_RULES that a text breaks, and what it has and should have; None where it keeps all."""
    for name, found, least, most in _measured(text, rules):
        if not least <= found <= most:
            return name, f"{found:.3g}, less than {least:g}" if found < least else f"{found:.3g}, more than {most:g}"
    return None


QUALITY_RULES = (
    *("words", "word_length", "symbols", "bullets", "ellipses", "letters", "stop_words"),
    *("repeated_lines", "repeated_paragraphs", "top_ngrams", "repeated_ngrams"),
)

_Measured = Iterator[tuple[str, float, float, float]]
"""The name of a rule, what the text has, what it should have at least and at most; cheap rules first."""


def _measured(text: str, rules: Gopher) -> _Measured:
    words = _WORD.findall(text)
    yield "words", len(words), rules.min_words, rules.max_words
    if not words:
        return
    spaced = [word for word in words if not _ONE_UNSPACED.match(word)]
    unspaced = len(spaced) * 2 < len(words)
    if not unspaced:
        yield "word_length", sum(map(len, spaced)) / len(spaced), rules.min_word_length, rules.max_word_length
    yield "symbols", max(_symbols(text)) / len(words), 0, rules.symbols
    lines = [line for line in text.split("\n") if line.strip()]
    yield "bullets", sum(_BULLET.match(line) is not None for line in lines) / len(lines), 0, rules.bullets
    yield "ellipses", sum(line.rstrip().endswith(_ELLIPSIS) for line in lines) / len(lines), 0, rules.ellipses
    bare = [word for word in words if not word[0].isalpha() and not any(map(str.isalpha, word))]
    lettered, signs = len(words) - len(bare), sum(_PUNCTUATION.fullmatch(word) is not None for word in bare)
    yield "letters", lettered / max(1, len(words) - signs), rules.letters, 1
    if rules.stop_words:
        stops = set(text) & STOP_CHARACTERS if unspaced else set(text.lower().split()) & STOP_WORDS
        yield "stop_words", len(stops), rules.stop_words, len(STOP_WORDS)
    yield from _parts("repeated_lines", lines, rules.repeated_lines, rules.repeated_line_characters)
    paragraphs = [part for part in text.split("\n\n") if part.strip()]
    yield from _parts("repeated_paragraphs", paragraphs, rules.repeated_paragraphs, rules.repeated_paragraph_characters)
    yield from _ngrams(words, 2 if unspaced else 1, rules)


def _symbols(text: str) -> tuple[int, int]:
    """How many hash signs, how many ellipses."""
    found = _SYMBOL.findall(text)
    hashes = found.count("#")
    return hashes, len(found) - hashes


def _parts(name: str, parts: Sequence[str], number: float, characters: float) -> _Measured:
    """Lines or paragraphs that have been there before: their share of all, and of all characters."""
    seen: set[str] = set()
    again = [part for part in map(str.strip, parts) if part in seen or seen.add(part)]  # type: ignore[func-returns-value]
    yield name, len(again) / len(parts), 0, number
    yield name, sum(map(len, again)) / sum(map(len, parts)), 0, characters


def _ngrams(words: Sequence[str], factor: int, rules: Gopher) -> _Measured:
    """Shares of characters in n-grams; n is a multiple of what the rules say by `factor`.

    An n-gram that is there once repeats nothing, however short the text.
    """
    names: dict[str, int] = {}
    ids_W = np.array([names.setdefault(word, len(names)) for word in words], dtype=np.int64)
    # Where the characters of each word begin, and at last where they end.
    begins_W1 = np.concatenate([[0], np.cumsum(np.fromiter(map(len, words), np.int64, len(words)))])
    top = [(n * factor, "top_ngrams", most) for n, most in rules.top_ngrams.items()]
    again = [(n * factor, "repeated_ngrams", most) for n, most in rules.repeated_ngrams.items()]
    grams, length = ids_W, 1
    for n, kind, most in sorted(top + again):
        while length < min(n, len(ids_W)):
            # Each n-gram gets a number of its own: that of the one that is shorter by its last word, and this word's.
            pairs = grams[:-1] * len(names) + ids_W[length:]
            grams, length = np.unique(pairs, return_inverse=True)[1], length + 1
        if n > len(ids_W) or grams.max() == len(grams) - 1:
            return  # None is there twice, and of longer ones none can be.
        share = _top if kind == "top_ngrams" else _again
        yield kind, min(1.0, share(grams, n, begins_W1) / float(begins_W1[-1])), 0, most


def _top(grams: np.ndarray, n: int, begins_W1: np.ndarray) -> float:
    """Characters of all n-grams that are the one that has the most of them."""
    _, firsts, counts = np.unique(grams, return_index=True, return_counts=True)
    sizes = begins_W1[firsts + n] - begins_W1[firsts]
    return float((counts * (counts > 1) * sizes).max())


def _again(grams: np.ndarray, n: int, begins_W1: np.ndarray) -> float:
    """Characters of all n-grams that have been there before, each counted once."""
    later = np.ones(len(grams), dtype=bool)
    later[np.unique(grams, return_index=True)[1]] = False
    change_W1 = np.zeros(len(begins_W1), dtype=np.int64)
    change_W1[:-n] += later
    change_W1[n:] -= later
    return float(np.diff(begins_W1)[np.cumsum(change_W1)[:-1] > 0].sum())
