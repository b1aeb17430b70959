"""How a bag reads: texts → features, each with what it counts, as the model's table wants them.

    reader = BagReader(GramCutter(GramFeatures(), listed, max_length=10_000), "tfidf", idf_F, fields=1, compared=False)
    (window,) = reader([("Win a prize now",)])
    rows_K, weights_K = window.parts[0]

F features, K features of one text.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol
from zlib import crc32

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer

from serve.engines.grams import GramSettings

Weighting = Literal["tfidf", "mean", "learned"]
Weighed = tuple[np.ndarray, np.ndarray]
"""Rows of the table (int64), each once, and what each counts (float32)."""
TOKEN_SORT = "tokens"
OVERLAPS_OF_A_SORT, OVERLAPS_OF_TEXTS = 3, 1
"""Figures of how far two texts overlap: in the features of each sort, and besides."""


class GramFeatures(GramSettings):
    """Features are grams."""

    by: Literal["grams"] = "grams"
    hashed: int | None = Field(None, ge=1)
    """Rows of each sort, which grams share by their hash; None: they are listed in grams.json, and others count nothing."""


class TokenFeatures(BaseModel):
    """Features are the tokens of tokenizer.json, without special ones; a token's row is its number."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    by: Literal["tokens"] = "tokens"

    @property
    def sorts(self) -> tuple[str, ...]:
        """Tokens are of one sort."""
        return (TOKEN_SORT,)


@dataclass(frozen=True, slots=True)
class BagWindow:
    """An item as a bag reads it: it has one, whatever its length."""

    parts: tuple[Weighed, ...]
    """One for each text; where texts are compared one for all of them."""
    length: int
    """Tokens, or characters where features are grams."""
    overflowing: bool
    """Whether a text was cut."""

    def __len__(self) -> int:
        return self.length


@dataclass(frozen=True, slots=True)
class CutText:
    """A text cut into features."""

    found: tuple[Weighed, ...]
    """By sort: rows, and how often each is there."""
    whole: tuple[frozenset[Any], ...]
    """By sort, all features that there are, known or not; empty where nothing is compared."""
    length: int
    overflowing: bool


class Cutter(Protocol):
    """Texts to features."""

    rows: tuple[int, ...]
    """The features of each sort."""

    def __call__(self, texts: Sequence[str], whole: bool) -> list[CutText]:
        """Each text's own; `whole`: with all features that there are."""


class GramCutter:
    """Texts to grams that have a row: listed ones, or all by their hash."""

    def __init__(self, settings: GramFeatures, listed: Mapping[str, Sequence[str]] | None, max_length: int) -> None:
        self.settings, self.max_length = settings, max_length
        self.rows = tuple(settings.hashed or len((listed or {})[sort]) for sort in settings.sorts)
        starts = np.concatenate([[0], np.cumsum(self.rows)]).tolist()
        self._find = [
            _hash(number, start, end)
            if settings.hashed or listed is None
            else dict(zip(listed[sort], range(start, end), strict=True)).get
            for number, (sort, (start, end)) in enumerate(zip(settings.sorts, pairwise(starts), strict=True))
        ]

    def __call__(self, texts: Sequence[str], whole: bool) -> list[CutText]:
        """As Cutter; `max_length` is in characters."""
        return [self._cut(text, whole) for text in texts]

    def _cut(self, text: str, whole: bool) -> CutText:
        read = text[: self.max_length]
        grams = list(self.settings.cut(read).values())
        found = tuple(_counted(Counter(map(find, own))) for find, own in zip(self._find, grams, strict=True))
        return CutText(found, tuple(map(frozenset, grams)) if whole else (), len(read), len(text) > len(read))


class TokenCutter:
    """Texts to the tokens of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        self.tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length=max_length)
        self.rows: tuple[int, ...] = (tokenizer.get_vocab_size(),)

    def __call__(self, texts: Sequence[str], whole: bool) -> list[CutText]:
        """As Cutter."""
        found = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [
            CutText((_counted(Counter(one.ids)),), (frozenset(one.ids),) if whole else (), len(one), bool(one.overflowing))
            for one in found
        ]


class BagReader:
    """Items to windows: their features with what each counts."""

    def __init__(
        self, cutter: Cutter, weighting: Weighting, weights_F: np.ndarray | None, fields: int, compared: bool
    ) -> None:
        """`weights_F`: idf with tfidf, what each feature learned to count with learned; `compared`: two texts have one sum,
        over rows of either, of what both have and of how far they overlap."""
        self.cutter, self.weighting, self.fields, self.compared = cutter, weighting, fields, compared and fields == 2
        self.weights_F = None if weights_F is None else weights_F.astype(np.float32)

    @property
    def rows(self) -> int:
        """The rows that a table for it has."""
        features, sorts = sum(self.cutter.rows), len(self.cutter.rows)
        return 3 * features + OVERLAPS_OF_A_SORT * sorts + OVERLAPS_OF_TEXTS if self.compared else features

    def __call__(self, items: Sequence[Sequence[str]]) -> list[BagWindow]:
        """The window of each item's texts."""
        texts = self.cutter([value for values in items for value in values], self.compared)
        return [self._window(texts[place : place + self.fields]) for place in range(0, len(texts), self.fields)]

    def _window(self, texts: Sequence[CutText]) -> BagWindow:
        parts = tuple(self._weighed(text) for text in texts)
        if self.compared:
            parts = (self._together(parts, texts),)
        return BagWindow(parts, sum(text.length for text in texts), any(text.overflowing for text in texts))

    def _weighed(self, text: CutText) -> Weighed:
        parts = [self._of_a_sort(*found) for found in text.found]
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _of_a_sort(self, rows_K: np.ndarray, counts_K: np.ndarray) -> Weighed:
        if self.weighting == "tfidf":
            assert self.weights_F is not None
            weights_K = (np.log(counts_K) + 1) * self.weights_F[rows_K]
            return rows_K, weights_K / np.float32(max(float(weights_K @ weights_K) ** 0.5, 1e-12))
        weights_K = counts_K if self.weights_F is None else counts_K * self.weights_F[rows_K]
        return rows_K, weights_K / np.float32(max(float(weights_K.sum()), 1e-12))

    def _together(self, parts: Sequence[Weighed], texts: Sequence[CutText]) -> Weighed:
        """Rows of the first text, of the second, of what both have (by the lower of its weights), of how far they overlap."""
        (first, left), (second, right) = parts
        both, here, there = np.intersect1d(first, second, assume_unique=True, return_indices=True)
        ends, features = np.cumsum(self.cutter.rows), sum(self.cutter.rows)
        cosines = np.bincount(np.searchsorted(ends, both, side="right"), left[here] * right[there], len(ends))
        overlap = overlaps(cosines.tolist(), texts)
        rows = [first, second + features, both + 2 * features, np.arange(len(overlap)) + 3 * features]
        return np.concatenate(rows), np.concatenate([left, right, np.minimum(left[here], right[there]), overlap])


def overlaps(cosines: Sequence[float], texts: Sequence[CutText]) -> np.ndarray:
    """How far two texts overlap, from 0 to 1: of each sort the cosine of its weights, the share of all features that both
    have, and of those of the text with fewer; and the shorter text's length by the longer one's."""
    found: list[float] = []
    for cosine, one, other in zip(cosines, texts[0].whole, texts[1].whole, strict=True):
        both = len(one & other)
        found += [cosine, both / max(1, len(one | other)), both / max(1, min(len(one), len(other)))]
    shorter, longer = sorted(text.length for text in texts)
    return np.array([*found, shorter / max(1, longer)], dtype=np.float32)


def _joined(parts: Sequence[Weighed]) -> Weighed:
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([weights for _, weights in parts])


def _counted(counts: Counter[Any]) -> Weighed:
    """Rows, and how often each is there; what has none is left out."""
    counts.pop(None, None)
    found = len(counts)
    return np.fromiter(counts.keys(), np.int64, found), np.fromiter(counts.values(), np.float32, found)


def _hash(number: int, start: int, end: int) -> Callable[[str], int]:
    """Where the row of a gram is, by its hash: grams of another sort fall otherwise."""
    size = end - start
    return lambda gram: start + crc32(gram.encode("utf-8", "surrogatepass"), number) % size
