"""Decontamination: documents that hold what another step tests or validates on are taken out.

    sieve = StoredSieve.put(held_out({"messages": texts}))       # texts of its test and validation splits
    documents, gone = sieve.sift(documents, tally)               # gone: {place: why}; tally["rows_excluded"]

A document goes if it shares 13 words in a row with a held-out text, as in Brown et al. 2020 (appendix C), in any case and
whatever stands between the words. Scripts that write no spaces are read sign by sign: 20 signs of Chinese or Japanese in a
row, for a word of English makes about one and a half of Chinese. A shorter text is looked for as a whole: within a document
from 8 words or 12 signs on (Brown et al. take no fewer); below that a document must be that text and nothing else, or a "see
you" would take out all that say so.

C characters, U units (words, or signs of Chinese and Japanese), D documents, M hashes.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import numpy as np

from jobs.data.clean import text_key
from jobs.data.rows import Sieve

WORDS, SIGNS = 13, 20
"""How long n-grams are."""
LEAST_WORDS_WITHIN, LEAST_SIGNS_WITHIN = 8, 12
"""How long a text is that has no n-gram and is yet looked for within documents."""
CHUNK_CHARACTERS = 1 << 20
"""What is looked at together, in arrays of 8 bytes a character and more."""
EXCERPT_CHARACTERS = 200
_SIGN_RANGES = (
    (0x3005, 0x3007), (0x3021, 0x3029), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF), (0x20000, 0x323AF),
)  # fmt: skip
"""Han, Hiragana and Katakana. Korean has spaces; in Thai and its kin what stands between two of them counts as a word."""
_LAST_LETTER = 0x323AF
_VARIATION_SELECTORS = slice(0xFE00, 0xFE10)
_APOSTROPHES = str.maketrans("", "", "'’")
"""They part no word: don't is one."""
_NOTHING, _LETTER, _SIGN = 0, 1, 2
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class HeldOut:
    """What is held out of which steps, as hashes: a Sieve."""

    steps: tuple[str, ...]
    hashes_M: np.ndarray
    """Of n-grams and of whole texts, sorted (uint64)."""
    owners_M: np.ndarray
    """The step that each is from, as its number (uint16)."""
    lengths: tuple[int, ...]
    """How many units those are long that are looked for within documents."""

    def sift(self, texts: Sequence[str], tally: "Counter[str]") -> tuple[list[str], dict[int, str]]:
        """The texts, and of those that hold something held out, what that is."""
        gone: dict[int, str] = {}
        first = 0
        for chunk in _chunks(texts):
            gone |= {first + place: why for place, why in self._found(chunk).items()}
            first += len(chunk)
        tally["rows_excluded"] += len(gone)
        return list(texts), gone

    def _found(self, texts: Sequence[str]) -> dict[int, str]:
        """Why texts go, by their place."""
        units = Units(texts)
        found: dict[int, str] = {}
        for place, step in self._known(units.wholes()):
            found[place] = f"it is what {step} holds out"
        for length, starts_W, hashes_W in units.windows(self.lengths):
            for window, step in self._known(hashes_W):
                start = int(starts_W[window])
                shown = units.text(start, length)
                found.setdefault(int(units.documents_U[start]), f"shares {shown!r} with what {step} holds out")
        return found

    def _known(self, hashes: np.ndarray) -> Iterator[tuple[int, str]]:
        """Place and step of each that is held out."""
        if not len(self.hashes_M):
            return
        # In their order they are looked up many times faster: neighbours are near each other in memory.
        asked = np.sort(hashes)
        at = np.minimum(np.searchsorted(self.hashes_M, asked), len(self.hashes_M) - 1)
        found = self.hashes_M[at] == asked
        owners = dict(zip(asked[found].tolist(), self.owners_M[at[found]].tolist(), strict=True))
        for place in np.flatnonzero(np.isin(hashes, asked[found])).tolist() if owners else ():
            yield place, self.steps[owners[int(hashes[place])]]


def held_out(texts_by_step: Mapping[str, Iterable[str]]) -> HeldOut:
    """The hashes of these texts; what several steps hold out is told of the first."""
    hashes: list[np.ndarray] = []
    owners: list[np.ndarray] = []
    lengths = {WORDS, SIGNS}
    for number, texts in enumerate(texts_by_step.values()):
        for chunk in _chunks(texts):
            units = Units(chunk)
            grams, own = units.grams()
            lengths |= own
            for found in (units.wholes(), *grams):
                hashes.append(found)
                owners.append(np.full(len(found), number, dtype=np.uint16))
    together = np.concatenate(hashes) if hashes else np.zeros(0, dtype=np.uint64)
    hashes_M, first = np.unique(together, return_index=True)
    owners_M = np.concatenate(owners)[first] if owners else np.zeros(0, dtype=np.uint16)
    return HeldOut(tuple(texts_by_step), hashes_M, owners_M, tuple(sorted(lengths)))


@dataclass(frozen=True)
class StoredSieve:
    """A Sieve that lies once in Ray's object store, where each task looks at it in place."""

    reference: Any

    @classmethod
    def put(cls, sieve: Sieve) -> Self:
        """The same sieve, stored."""
        import ray

        return cls(ray.put(sieve))

    def sift(self, texts: Sequence[str], tally: "Counter[str]") -> tuple[list[str], dict[int, str]]:
        """What the sieve itself says."""
        import ray

        sieve: Sieve = ray.get(self.reference)
        return sieve.sift(texts, tally)


class Units:
    """Words and signs of texts, by their hashes, which are the same in any case and between any marks."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        folded = [unicodedata.normalize("NFKC", text).casefold().translate(_APOSTROPHES) + "\n" for text in texts]
        self.folded = "".join(folded)
        codes_C = np.frombuffer(self.folded.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        classes_C = _classes()[np.minimum(codes_C, _LAST_LETTER + 1)]
        letter_C = classes_C == _LETTER
        sign_C = classes_C == _SIGN
        before_C = np.concatenate([[False], letter_C[:-1]])
        after_C = np.concatenate([letter_C[1:], [False]])
        self.starts_U = np.flatnonzero(sign_C | (letter_C & ~before_C))
        self.ends_U = np.flatnonzero(sign_C | (letter_C & ~after_C)) + 1
        self.signs_U = sign_C[self.starts_U]
        self.hashes_U = self._hashes(codes_C, letter_C | sign_C)
        ends_D = np.cumsum([len(text) for text in folded])
        self.documents_U = np.searchsorted(ends_D, self.starts_U, side="right")
        """The text that each is of, by its number."""

    def _hashes(self, codes_C: np.ndarray, unit_C: np.ndarray) -> np.ndarray:
        """Of each unit a hash over its characters and their places in it."""
        if not len(self.starts_U):
            return np.zeros(0, dtype=np.uint64)
        lengths_U = self.ends_U - self.starts_U
        places = np.arange(int(lengths_U.sum())) - np.repeat(np.cumsum(lengths_U) - lengths_U, lengths_U)
        mixed = _mixed(codes_C[unit_C].astype(np.uint64) + (places.astype(np.uint64) << np.uint64(21)))
        return _mixed(np.add.reduceat(mixed, np.cumsum(lengths_U) - lengths_U))

    def windows(self, lengths: Iterable[int]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Of each length: it, the first unit of each run of so many in one text, and the run's hash."""
        wanted = set(lengths)
        hashes = np.zeros(len(self.hashes_U), dtype=np.uint64)
        for length in range(1, max(wanted, default=0) + 1):
            count = len(self.hashes_U) - length + 1
            if count <= 0:
                return
            # Horner's rule: each step makes all runs one unit longer.
            hashes = hashes[:count] * _FACTOR + self.hashes_U[length - 1 :]
            if length in wanted:
                starts = np.flatnonzero(self.documents_U[:count] == self.documents_U[length - 1 :])
                yield length, starts, _mixed(hashes[starts])

    def grams(self) -> tuple[list[np.ndarray], set[int]]:
        """What these texts are found by within documents, as hashes; and how long those are that are no n-grams."""
        counts_D, signs_D = self._counts()
        signs_U = np.concatenate([[0], np.cumsum(self.signs_U)])
        has_gram_D, grams = np.zeros(len(self.texts), dtype=bool), []
        for length, starts, hashes in self.windows((WORDS, SIGNS)):
            signs = signs_U[starts + length] - signs_U[starts]
            kept = signs == 0 if length == WORDS else signs > 0
            has_gram_D[self.documents_U[starts[kept]]] = True
            grams.append(hashes[kept])
        least_D = np.where(signs_D > 0, LEAST_SIGNS_WITHIN, LEAST_WORDS_WITHIN)
        short_D = ~has_gram_D & (counts_D >= least_D)
        own = set(counts_D[short_D].tolist())
        for length, starts, hashes in self.windows(own):
            documents = self.documents_U[starts]
            grams.append(hashes[short_D[documents] & (counts_D[documents] == length)])
        return grams, own

    def wholes(self) -> np.ndarray:
        """A hash of each text as a whole, which no run of units has; of one without units that of its characters."""
        counts_D, _ = self._counts()
        firsts_D = np.cumsum(counts_D) - counts_D
        places = np.arange(len(self.hashes_U)) - np.repeat(firsts_D, counts_D)
        sums = np.zeros(len(self.texts), dtype=np.uint64)
        np.add.at(sums, self.documents_U, _mixed(self.hashes_U + places.astype(np.uint64) * _FACTOR))
        hashes = _mixed(sums ^ _FACTOR)
        for number in np.flatnonzero(counts_D == 0).tolist():
            content = hashlib.blake2b(text_key(self.texts[number]).encode(), digest_size=8).digest()
            hashes[number] = np.frombuffer(content, dtype=np.uint64)[0]
        return hashes

    def text(self, start: int, length: int) -> str:
        """So many units from this one on, as they stand in their text."""
        found = self.folded[self.starts_U[start] : self.ends_U[start + length - 1]]
        return found if len(found) <= EXCERPT_CHARACTERS else f"{found[:EXCERPT_CHARACTERS]}…"

    def _counts(self) -> tuple[np.ndarray, np.ndarray]:
        """How many units, and how many signs among them, each text has."""
        size = len(self.texts)
        return np.bincount(self.documents_U, minlength=size), np.bincount(self.documents_U[self.signs_U], minlength=size)


@cache
def _classes() -> np.ndarray:
    """What each character is: nothing, of a word, or a sign that counts by itself."""
    classes = np.zeros(_LAST_LETTER + 2, dtype=np.uint8)
    for code in range(_LAST_LETTER + 1):
        if unicodedata.category(chr(code))[0] in "LMN":
            classes[code] = _LETTER
    for first, last in _SIGN_RANGES:
        part = classes[first : last + 1]
        part[part == _LETTER] = _SIGN
    classes[_VARIATION_SELECTORS] = _NOTHING
    return classes


def _mixed(values: np.ndarray) -> np.ndarray:
    """Numbers in whose bits no order is left."""
    from pandas.util import hash_array

    return hash_array(values)


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts of about CHUNK_CHARACTERS together."""
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
