"""Filters: which texts are kept of those that could be read. None is on unless a recipe asks for it.

    filters: {html: extract, boilerplate: true, language: [en, zh], length: {min_words: 5}, quality: gopher}     # in prepare
    for sieve in Filters(language=("en",)).sieves():                                           # in this order, each counts

Each counts what it drops under `rows_filtered_…`; a row is counted by the first filter that drops it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from jobs.core.config import Config, nearest
from jobs.data.boilerplate import PageText, WithoutBoilerplate
from jobs.data.languages import CONFIDENT, UNDETERMINED, known_languages, languages_of
from jobs.data.quality import QUALITY_RULES, Gopher, broken_rule, word_count
from jobs.data.rows import Sieve


class Length(Config):
    """How long a text must be; `clean` has limits in characters."""

    min_words: int = Field(0, ge=0)
    """Words at least; a character of a script that writes no spaces, as a Chinese one, counts as one."""
    max_words: int | None = Field(None, ge=1)
    """Words at most; longer texts are dropped, where clean.max_characters would cut them."""

    @model_validator(mode="after")
    def _some_length_fits(self) -> "Length":
        if self.max_words is not None and self.max_words < self.min_words:
            raise ValueError(f"no text has at least {self.min_words} words and at most {self.max_words}")
        return self


def _by_name(given: Any) -> Any:
    if isinstance(given, str) and given != "gopher":
        raise ValueError("of rules with a name there are gopher's alone; others are a mapping of thresholds")
    return {} if given == "gopher" else given


class Filters(Config):
    """Which texts are kept; each filter counts what it drops."""

    html: Literal["extract"] | None = None
    """extract: texts are HTML, of which the main text of the page is kept: no menus, asides and footers. Pages without one are
    dropped."""
    boilerplate: bool = False
    """Take out lines that are no content: cookie notices, copyright, JavaScript that is missing, sharing and signing in, in
    English and Chinese, and lines that stand in the text already. Texts with lorem ipsum or a curly bracket are dropped."""
    language: tuple[str, ...] = ()
    """Keep texts in these languages, by ISO 639 code: [en, zh]. A text whose language cannot be told, as a short one, is kept
    and counted by texts_language_unknown."""
    language_confidence: float = Field(CONFIDENT, gt=0, lt=1)
    """How likely a language must be for a text to count as one in it."""
    length: Length | None = None
    """How many words a text must have."""
    quality: Annotated[Gopher | None, BeforeValidator(_by_name, json_schema_input_type=Literal["gopher"] | Gopher | None)] = (
        None
    )
    """gopher: Gopher's rules of what is running text and does not repeat itself; or a mapping of those thresholds that differ
    from the paper's, as {min_words: 5}."""

    @field_validator("language")
    @classmethod
    def _languages_are_known(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        for code in codes:
            if code not in known_languages():
                raise ValueError(f"{code} is the code of no language that can be told. {nearest(code, known_languages())}")
        return codes

    @property
    def rewrites(self) -> str | None:
        """The key of a filter that changes texts, if there is one."""
        return "filters.html" if self.html else "filters.boilerplate" if self.boilerplate else None

    def pages(self) -> list[Sieve]:
        """What texts go through before they are cleaned."""
        return [PageText()] if self.html else []

    def sieves(self) -> list[Sieve]:
        """What texts go through once they are cleaned."""
        asked: list[Sieve] = [WithoutBoilerplate()] if self.boilerplate else []
        if self.language:
            asked.append(InLanguages(frozenset(self.language), self.language_confidence))
        if self.length is not None:
            asked.append(OfLength(self.length))
        if self.quality is not None:
            asked.append(OfQuality(self.quality))
        return asked


@dataclass(frozen=True)
class InLanguages:
    """Keeps texts in some languages, and those whose language cannot be told."""

    kept: frozenset[str]
    confidence: float

    def sift(self, texts: Sequence[str], tally: "Counter[str]") -> tuple[list[str], dict[int, str]]:
        """Counts rows_filtered_language, texts_language_unknown."""
        found = languages_of(texts, self.confidence)
        gone = {
            place: f"language: it is in {code}"
            for place, code in enumerate(found)
            if code not in self.kept and code != UNDETERMINED
        }
        tally.update({"rows_filtered_language": len(gone), "texts_language_unknown": found.count(UNDETERMINED)})
        return list(texts), gone


@dataclass(frozen=True)
class OfLength:
    """Keeps texts that have so many words."""

    length: Length

    def sift(self, texts: Sequence[str], tally: "Counter[str]") -> tuple[list[str], dict[int, str]]:
        """Counts rows_filtered_length."""
        gone: dict[int, str] = {}
        for place, text in enumerate(texts):
            words = word_count(text)
            if words < self.length.min_words or words > (self.length.max_words or words):
                gone[place] = f"length: it has {words} words"
        tally["rows_filtered_length"] += len(gone)
        return list(texts), gone


@dataclass(frozen=True)
class OfQuality:
    """Keeps texts that break none of Gopher's rules."""

    rules: Gopher

    def sift(self, texts: Sequence[str], tally: "Counter[str]") -> tuple[list[str], dict[int, str]]:
        """Counts rows_filtered_ and the name of the rule."""
        tally.update({f"rows_filtered_{name}": 0 for name in QUALITY_RULES if name != "stop_words" or self.rules.stop_words})
        gone: dict[int, str] = {}
        for place, text in enumerate(texts):
            if (broken := broken_rule(text, self.rules)) is not None:
                gone[place] = f"{broken[0]}: {broken[1]}"
                tally[f"rows_filtered_{broken[0]}"] += 1
        return list(texts), gone
