"""Words that came apart, as in CoNLL files, become a text again: one rule a script.

    join_words(["I", "like", "手机", "，", "真的"])          # "I like 手机，真的", and where each word stands

Words stand apart by a space where their scripts have one. Chinese, Japanese, Thai and their kin have none between their words;
beside a word of another script they keep it, which is how such texts are mostly written, but numbers and signs stand close to
Han and kana. Closing signs stand close to what is before them, opening ones to what follows. A list that was cut into single
characters, some of them of a script without spaces, is joined without any.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from serve.cleaning.scripts import CHARACTERS, UNPARTED, WIDE_SIGNS

_MARKS = r"\u0300-\u036f\u3099\u309a\ufe00-\ufe0f\U000e0100-\U000e01ef"
"""What belongs to the character before it."""
_WORDS_OF = {
    "character": re.compile(f"[{CHARACTERS}]"),
    "unparted": re.compile(f"[{UNPARTED}]"),
    "wide": re.compile(f"[{WIDE_SIGNS}]"),
    "letter": re.compile(r"[^\W\d_]"),
}
_LAST = re.compile(f"([^{_MARKS}])[{_MARKS}]*$", re.DOTALL)
_OPENING = re.compile(r"[(\[{¿¡«‹“‘]+")
_CLOSING = re.compile(r"[.,;:!?…)\]}»›”’%]+|['’](?:s|re|ve|ll|m|d|t)|n['’]t", re.IGNORECASE)
_PARTED_BY_NOTHING = {"character", "unparted"}


@dataclass(frozen=True)
class JoinedWords:
    """A text that was made of words."""

    text: str
    spans: tuple[tuple[int, int], ...]
    """Where each word stands: text[start:end], in characters."""


def join_words(words: Sequence[str]) -> JoinedWords:
    """The text of these words; each is in it as it is."""
    cut = _is_cut_into_characters(words)
    parts, spans, length, before = list[str](), list[tuple[int, int]](), 0, ""
    for word in words:
        if before and word and not cut and _stand_apart(before, word):
            parts.append(" ")
            length += 1
        spans.append((length, length + len(word)))
        parts.append(word)
        length += len(word)
        before = word or before
    return JoinedWords("".join(parts), tuple(spans))


def _stand_apart(left: str, right: str) -> bool:
    """Whether a space is between two words."""
    if _OPENING.fullmatch(left) or _CLOSING.fullmatch(right):
        return False
    last = _LAST.search(left)
    ends, begins = _kind(last[1] if last else left[-1]), _kind(right[0])
    if "wide" in (ends, begins) or {ends, begins} <= _PARTED_BY_NOTHING:
        return False
    return not ("character" in (ends, begins) and "sign" in (ends, begins))


def _kind(character: str) -> str:
    """Of which kind of script it is; `sign` is a number, punctuation, a picture."""
    return next((kind for kind, pattern in _WORDS_OF.items() if pattern.match(character)), "sign")


def _is_cut_into_characters(words: Sequence[str]) -> bool:
    if any(len(word) > 1 and not _LAST.fullmatch(word) for word in words):
        return False
    return any(word and _kind(word[0]) in _PARTED_BY_NOTHING for word in words)
