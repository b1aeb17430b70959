"""Cleaning text: what a model should never see is taken out before it is split, counted or trained on.

What no reader sees goes, unless the text reads otherwise without it: joiners stay where they join (Unicode Standard Annex 31,
2.3), tags where they make a flag. Characters that this Python's Unicode does not know yet stay: the next emoji are among them.
Private use goes: what stands there only a font knows.
"""

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from pydantic import Field

from jobs.core.config import Config
from jobs.data.values import written_as

_SPACES = re.compile(r"[^\S\n]+")
_BLANK_LINES = re.compile(r"\n{3,}")
_TAGS = re.compile(r"<(?:/?[a-zA-Z][^<>]{0,200}|!--.*?--)>", re.DOTALL)

_NOISE = (
    r"\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\ud800-\udfff\ufeff"  # controls, soft hyphens, half pairs, byte order marks
    r"\u061c\u200e\u200f\u202a-\u202e\u2060-\u206f\ufff9-\ufffb"  # directions, word joiners, annotations
    r"\ue000-\uf8ff\U000f0000-\U0010ffff"  # private use
    r"\ufdd0-\ufdef\ufffe\uffff"  # no characters
)
_INVISIBLE = r"\u180e\u200b-\u200d\U000e0000-\U000e00ff"
"""What may join or part letters, and tags."""
_JOINED = r"\u0600-\u1cff\ua800-\uabff\ufb50-\ufdff\ufe70-\ufefc\U00010800-\U00011fff\U0001e800-\U0001efff"
"""Scripts whose letters change their shape beside each other: Arabic, those of India and their kin."""
_UNPARTED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
"""Scripts that write no spaces and may part words by one of no width: Thai, Lao, Burmese, Khmer."""
_PICTURE = r"\xa9\xae\u2030-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001ffff"
_DRAWN = _PICTURE + r"\ufe0f\U000e007f"
"""What an emoji ends with."""

_DROPPED = re.compile(f"[{_NOISE}]")
_SUSPECT = re.compile(f"[{_NOISE}{_INVISIBLE}]")
_JOINERS = re.compile(
    # Each with what of it stays; the last with nothing.
    rf"([{_PICTURE}]\ufe0f?[\U000e0020-\U000e007e]+\U000e007f)"
    rf"|(?<=[{_DRAWN}])(\u200d)\u200d*(?=[{_PICTURE}])"
    rf"|(?<=[{_JOINED}])(\u200d)[\u200c\u200d]*"
    rf"|(?<=[{_JOINED}])([\u180e\u200c])[\u180e\u200c\u200d]*(?=\w)"
    rf"|(?<=\w)([\u200c\u200d])[\u200c\u200d]*(?=[{_JOINED}])"
    rf"|(?<=[{_UNPARTED}])(\u200b)\u200b*(?=[{_UNPARTED}])"
    rf"|[{_INVISIBLE}]"
)

T = TypeVar("T")


class Clean(Config):
    """How text is cleaned."""

    unicode: bool = True
    """Normalise to NFC and drop controls and what no reader sees, but what joins letters or emoji."""
    strip_tags: bool = False
    """Take HTML tags out."""
    min_characters: int = Field(1, ge=0)
    """Shorter texts are dropped."""
    max_characters: int = Field(100_000, ge=1)
    """Longer texts are cut."""


def clean_text(text: str, settings: Clean) -> str:
    """The cleaned text; empty if it is to be dropped."""
    if settings.unicode:
        # Form feeds and the like are control characters, but they part words.
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        if not text.isprintable() and _SUSPECT.search(text):
            text = _JOINERS.sub(r"\1\2\3\4\5\6", _DROPPED.sub("", text))
        # After that, for marks stand beside other letters now.
        text = unicodedata.normalize("NFC", text)
    if settings.strip_tags:
        text = _TAGS.sub(" ", text)
    text = _BLANK_LINES.sub("\n\n", _SPACES.sub(" ", text)).strip()[: settings.max_characters].rstrip()
    return text if len(text) >= settings.min_characters else ""


def text_key(text: str) -> str:
    """What two texts share if they are duplicates: a hash over all their characters, with one space for any, in one case.

    Signs count, for C++ is not C#; case does not, for to many a model it is none, and no text may be in two splits.
    """
    folded = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    return hashlib.blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def item_key(texts: Sequence[str]) -> str:
    """The same for all the texts of an item together; of one text its own."""
    if len(texts) == 1:
        return text_key(texts[0])
    return hashlib.blake2b("".join(map(text_key, texts)).encode(), digest_size=16).hexdigest()


def value_name(value: Any) -> str:
    """A value of a column as a name, in NFC, empty where there is none; whole numbers that came as floats lose their point."""
    return "" if value is None or value != value else unicodedata.normalize("NFC", written_as(value).strip())


def value_names(named: T) -> T:
    """What a recipe says of values by their names; these are then found whichever of its forms an é was typed in."""
    if not isinstance(named, Mapping):
        return named
    return cast(T, {value_name(name): value_name(of) if isinstance(of, str) else of for name, of in named.items()})
