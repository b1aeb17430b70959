"""Cleaning in prepare: the recipe's keys, what two texts share that are duplicates, and values of columns as names.

How text is cleaned is said in serve/cleaning, which models that answer use too.
"""

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from pydantic import Field

from jobs.core.config import Config
from jobs.data.values import written_as
from serve.cleaning.cleaning import Cleaning, TextCleaning
from serve.cleaning.masks import REGIONS

T = TypeVar("T")


class Clean(TextCleaning, Config):
    """How text is cleaned. Models keep all of it but `min_characters`, which is for rows."""

    min_characters: int = Field(1, ge=0)
    """Shorter texts are dropped."""

    def kept(self, masks: Sequence[str] = (), phone_regions: Sequence[str] = REGIONS) -> Cleaning:
        """What models keep of it, with the kinds of personal data that were masked."""
        own = self.model_dump(include=set(TextCleaning.model_fields))
        return Cleaning(masks=tuple(masks), phone_regions=tuple(phone_regions), **own)


def clean_text(text: str, settings: Clean) -> str:
    """The cleaned text; empty if it is to be dropped."""
    text = settings.cleaned(text).text
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
