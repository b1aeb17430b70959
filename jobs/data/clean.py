"""Cleaning text: what a model should never see is taken out before it is split, counted or trained on."""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from jobs.core.config import Config

_SPACES = re.compile(r"[^\S\n]+")
_BLANK_LINES = re.compile(r"\n{3,}")
_TAGS = re.compile(r"<(?:/?[a-zA-Z][^<>]{0,200}|!--.*?--)>", re.DOTALL)
_NOT_WORD = re.compile(r"[\W_]+")


class Clean(Config):
    """How text is cleaned."""

    unicode: bool = True
    """Normalise to NFC and drop control and zero-width characters."""
    strip_tags: bool = False
    """Take HTML tags out."""
    min_characters: int = Field(1, ge=0)
    """Shorter texts are dropped."""
    max_characters: int = Field(100_000, ge=1)
    """Longer texts are cut."""


def clean_text(text: str, settings: Clean) -> str:
    """The cleaned text; empty if it is to be dropped."""
    if settings.unicode:
        text = unicodedata.normalize("NFC", text)
        # Form feeds and the like are control characters, but they part words.
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        if not text.isprintable():
            text = text.translate({ord(c): None for c in set(text) if not c.isspace() and unicodedata.category(c)[0] == "C"})
    if settings.strip_tags:
        text = _TAGS.sub(" ", text)
    text = _BLANK_LINES.sub("\n\n", _SPACES.sub(" ", text)).strip()[: settings.max_characters].rstrip()
    return text if len(text) >= settings.min_characters else ""


def text_key(text: str) -> str:
    """What two texts share if they are duplicates: a hash over their letters and digits in one case.

    Texts without any letter or digit are told apart by all their characters.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    letters = _NOT_WORD.sub(" ", folded).strip()
    return hashlib.blake2b((letters or folded).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def item_key(texts: Sequence[str]) -> str:
    """The same for all the texts of an item together; of one text its own."""
    if len(texts) == 1:
        return text_key(texts[0])
    return hashlib.blake2b("".join(map(text_key, texts)).encode(), digest_size=16).hexdigest()


def value_name(value: Any) -> str:
    """A value of a column as a name, empty where there is none; whole numbers that came as floats lose their point."""
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
