"""Which tokens are hidden together: single ones, whole words, spans of words.

    words = WordMarks.of(tokenizer)                       # None where the tokenizer does not mark words
    units_BT = span_units(starts_BT, documents_BT, free_BT, 0.15, generator)
    shown_BT = hide(ids_BT, units_BT, mask, ordinary, generator)

A unit is a number that tokens hidden together share; -1 is no unit. What becomes of a unit is drawn once for it.

B batch, T tokens, V vocabulary, U units.
"""

import json
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MASKED_SHARE, CHANGED_SHARE = 0.8, 0.1
"""Of the units to predict so many become [MASK], so many another token; the rest stays (Devlin et al. 2019)."""
SPAN_PROBABILITY, LONGEST_SPAN = 0.2, 10
NONE = -1
_SPACE_MARK = "▁"
_BREAKS = (b"\n", b"\r", b"\t")
_WIDE = ("CJK", "HIRAGANA", "KATAKANA")


@dataclass(frozen=True)
class WordMarks:
    """For each token of a vocabulary, what it says of words."""

    continues_V: np.ndarray
    """Whether it goes on with the word before it."""
    breaks_V: np.ndarray
    """Whether it ends a line, so that the next token begins a word whatever it says (a space belongs to what follows)."""

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase") -> "WordMarks | None":
        """From the tokenizer's own marks: WordPiece's ##, byte-level Ġ, Metaspace's ▁; None where it has none."""
        read = _reader(tokenizer)
        if read is None:
            return None
        continues_V, breaks_V = np.zeros(len(tokenizer), dtype=bool), np.zeros(len(tokenizer), dtype=bool)
        special = set(tokenizer.all_special_ids)
        for token, number in tokenizer.get_vocab().items():
            if number not in special:
                continues_V[number], breaks_V[number] = read(token)
        return cls(continues_V, breaks_V)

    def starts(self, ids_BT: np.ndarray, documents_BT: np.ndarray, free_BT: np.ndarray) -> np.ndarray:
        """starts_BT: whether a token begins a word; a word stays in its document."""
        starts_BT = ~self.continues_V[ids_BT]
        starts_BT[:, 0] = True
        starts_BT[:, 1:] |= documents_BT[:, 1:] != documents_BT[:, :-1]
        starts_BT[:, 1:] |= ~free_BT[:, :-1] | self.breaks_V[ids_BT[:, :-1]]
        return starts_BT


def token_units(free_BT: np.ndarray, probability: float, generator: np.random.Generator) -> np.ndarray:
    """units_BT of single tokens."""
    chosen_BT = free_BT & (generator.random(free_BT.shape) < probability)
    return np.where(chosen_BT, np.arange(free_BT.size).reshape(free_BT.shape), NONE)


def word_units(starts_BT: np.ndarray, free_BT: np.ndarray, probability: float, generator: np.random.Generator) -> np.ndarray:
    """units_BT of whole words (Cui et al. 2021): each is hidden with all of its tokens or with none."""
    words_BT = starts_BT.reshape(-1).cumsum().reshape(starts_BT.shape)
    chosen_U = generator.random(int(words_BT.max(initial=0)) + 1) < probability
    return np.where(free_BT & chosen_U[words_BT], words_BT, NONE)


def span_units(
    starts_BT: np.ndarray, documents_BT: np.ndarray, free_BT: np.ndarray, probability: float, generator: np.random.Generator
) -> np.ndarray:
    """units_BT of spans of words within a document (SpanBERT, Joshi et al. 2020), to the given share of the tokens.

    Spans begin at any word that is not hidden yet; their lengths are geometric with p = 0.2, at most ten words.
    """
    units_BT = np.full(free_BT.shape, NONE)
    words_BT = starts_BT.cumsum(1)
    lengths = np.arange(1, LONGEST_SPAN + 1)
    shares = SPAN_PROBABILITY * (1 - SPAN_PROBABILITY) ** (lengths - 1)
    unit = 0
    for row, words_T in enumerate(words_BT):
        free = np.flatnonzero(free_BT[row])
        places = np.split(free, 1 + np.flatnonzero(np.diff(words_T[free]))) if len(free) else []
        room = probability * len(free)
        for first in generator.permutation(len(places)):
            if room <= 0:
                break
            document = documents_BT[row, places[first][0]]
            for word in places[first : first + generator.choice(lengths, p=shares / shares.sum())]:
                if room <= 0 or documents_BT[row, word[0]] != document or units_BT[row, word[0]] != NONE:
                    break
                # A word for which too little room is left is taken as often as makes the share exact on average.
                if len(word) <= room or generator.random() < room / len(word):
                    units_BT[row, word] = unit
                room -= len(word)
            unit += 1
    return units_BT


def hide(
    ids_BT: np.ndarray, units_BT: np.ndarray, mask: int, ordinary: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """shown_BT: the rows with 80 % of the units masked, 10 % changed to other tokens, 10 % as they are."""
    fate_BT = generator.random(int(units_BT.max(initial=NONE)) + 1)[units_BT] if (units_BT != NONE).any() else units_BT
    others_BT = generator.choice(ordinary, ids_BT.shape)
    chosen_BT = units_BT != NONE
    shown_BT = np.where(chosen_BT & (fate_BT < MASKED_SHARE), mask, ids_BT)
    return np.where(chosen_BT & (fate_BT >= 1 - CHANGED_SHARE), others_BT, shown_BT)


def _reader(tokenizer: "PreTrainedTokenizerBase") -> Any:
    """The function token → (continues a word, ends a line) of this kind of tokenizer; None where unmarked."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    state = json.loads(backend.to_str())
    if state["model"]["type"] == "WordPiece":
        prefix = state["model"]["continuing_subword_prefix"]
        return lambda token: (token.startswith(prefix), False)
    if '"ByteLevel"' in json.dumps([state["pre_tokenizer"], state["decoder"]]):
        values = {character: value for value, character in _byte_characters().items()}
        return lambda token: _bytes_continue(bytes(values.get(character, 0x20) for character in token))
    if any(token.startswith(_SPACE_MARK) for token in tokenizer.get_vocab()):
        return lambda token: (_continues(token), False)
    return None


def _byte_characters() -> dict[int, str]:
    """The character that byte-level BPE writes for each byte (Radford et al. 2019)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + place) for place, byte in enumerate(others)}


def _bytes_continue(token: bytes) -> tuple[bool, bool]:
    breaks = token[-1:] in _BREAKS
    if 0x80 <= token[0] < 0xC0:  # the middle of a character
        return True, breaks
    first = token.decode("utf-8", "replace")[0]
    if first != "\ufffd":
        return _continues(first), breaks
    return not 0xE3 <= token[0] <= 0xE9, breaks  # the first byte alone: these begin Chinese and Japanese characters


def _continues(token: str) -> bool:
    """Letters, digits and their accents go on with a word; white space, punctuation and Chinese characters begin one."""
    first = token[0]
    if unicodedata.category(first)[0] not in "LMN":
        return False
    return not unicodedata.name(first, "").startswith(_WIDE)
