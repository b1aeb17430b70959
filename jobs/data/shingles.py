"""Texts as sets of shingles, and MinHash over these: a whole batch at once, no Python for each shingle.

    found = shingles([("win a free prize now",), ("win a free prize today",)], words=2, characters=3)
    mins_KN = minhash(found, 60)         # K functions, N items: the share that two have alike is their sets' similarity

A shingle is a run of words, or of characters in a text that is mostly in a script without spaces. It is known by a hash of 64
bits, made of those that pandas gives its words. Case and kinds of white space tell no texts apart.
MinHash: Broder 1997, "On the resemblance and containment of documents"; the functions are a·x + b of 32 bits.

K functions, N items, B bands.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jobs.data.training_rows import mixed_bits
from serve.cleaning.scripts import UNPARTED

_UNSPACED = (
    r"\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\uf900-\ufaff\uff66-\uff9f\U00020000-\U000323af" + UNPARTED  # Chinese and Japanese
)
_ALONE = re.compile(f"[{_UNSPACED}]")
_UNIT = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
HASH_SEED = 20_240_229


class Shingles(NamedTuple):
    """The shingles of items, one behind the other, as they come."""

    hashes: np.ndarray
    starts: np.ndarray
    """Where those of each item begin; each has one at least."""

    def sets(self) -> "Shingles":
        """Each once, sorted in each item."""
        owners = np.repeat(np.arange(len(self.starts)), np.diff(self.starts, append=len(self.hashes)))
        order = np.lexsort((self.hashes, owners))
        hashes, owners = self.hashes[order], owners[order]
        first = np.ones(len(hashes), dtype=bool)
        first[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
        return Shingles(hashes[first], np.searchsorted(owners[first], np.arange(len(self.starts))))


def shingles(items: Sequence[Sequence[str]], words: int, characters: int) -> Shingles:
    """The shingles of each item's texts: runs of so many words or characters, or the whole of a shorter text. The same words
    in another of the item's texts are another shingle."""
    from pandas.util import hash_array

    fields = len(items[0]) if items else 1
    cut = [_units(text) for item in items for text in item]
    units = hash_array(np.array([unit for own, _ in cut for unit in own], dtype=object), categorize=False)
    counts = np.array([len(own) for own, _ in cut], dtype=np.int64)
    widths = np.minimum([characters if unspaced else words for _, unspaced in cut], counts)
    made = np.maximum(1, counts - widths + 1)
    of_item = made.reshape(-1, fields).sum(axis=1)
    # Of each shingle: its text, the first of its units, and how many they are.
    owners = np.repeat(np.arange(len(cut)), made)
    first = np.arange(len(owners)) + np.repeat(np.cumsum(counts) - counts - np.cumsum(made) + made, made)
    width = widths[owners]
    hashes = (owners % fields).astype(np.uint64)
    factors = np.random.default_rng(HASH_SEED).integers(2**63, size=max(words, characters), dtype=np.uint64) * 2 + 1
    for place in range(int(widths.max(initial=0))):
        going = slice(None) if place < widths.min() else np.flatnonzero(width > place)
        hashes[going] += units[first[going] + place] * factors[place]
    return Shingles(mixed_bits(hashes), np.cumsum(of_item) - of_item)


def minhash(sets: Shingles, functions: int) -> np.ndarray:
    """mins_KN (uint32): of each item the least value of each function over its shingles."""
    draw = np.random.default_rng(HASH_SEED + 1)
    factors = draw.integers(2**31, size=functions, dtype=np.uint32) * 2 + 1
    terms = draw.integers(2**32, size=functions, dtype=np.uint32)
    values, hashed = (sets.hashes >> np.uint64(32)).astype(np.uint32), np.empty(len(sets.hashes), dtype=np.uint32)
    mins_KN = np.empty((functions, len(sets.starts)), dtype=np.uint32)
    for number, (factor, term) in enumerate(zip(factors, terms, strict=True)):
        np.multiply(values, factor, out=hashed)
        np.add(hashed, term, out=hashed)
        np.minimum.reduceat(hashed, sets.starts, out=mins_KN[number])
    return mins_KN


def band_hashes(mins_KN: np.ndarray, rows: int) -> np.ndarray:
    """hashes_BN: items whose least values are alike in a band of so many functions share its hash."""
    bands = len(mins_KN) // rows
    hashes_BN = np.repeat(np.arange(bands, dtype=np.uint64)[:, None], mins_KN.shape[1], axis=1)
    for row in range(rows):
        hashes_BN = mixed_bits(hashes_BN) + mins_KN[row : bands * rows : rows]
    return mixed_bits(hashes_BN)


def _units(text: str) -> tuple[list[str], bool]:
    """The words of a text, characters of scripts without spaces each by itself; and whether most of them are such."""
    if text.isascii():
        return text.lower().split(), False
    folded = unicodedata.normalize("NFC", text).casefold()
    units = _UNIT.findall(folded)
    return units, 2 * len(_ALONE.findall(folded)) > len(units)
