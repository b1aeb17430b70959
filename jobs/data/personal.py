"""Personal data in the texts of a source: masked, or the row dropped, where a recipe asks for it.

    personal: {email: mask, phone: mask, card: drop}       # in prepare
    for sieve in Personal(email="mask").sieves(): …         # counts texts_masked_email

What is found, and what is not, serve/cleaning/personal.py says.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import field_validator

from jobs.core.config import Config, nearest
from jobs.data.rows import Sieve
from serve.cleaning.changes import Cleaned
from serve.cleaning.masks import PERSONAL_KINDS, REGIONS
from serve.cleaning.personal import find_personal, masks
from serve.cleaning.phones import known_regions

Action = Literal["mask", "drop"]


class Personal(Config):
    """What becomes of personal data; of a kind that is not named nothing. mask: a word such as <EMAIL> takes its place. drop:
    the row goes. Each is counted by its kind. It is a help, and no guarantee."""

    email: Action | None = None
    """E-mail addresses."""
    phone: Action | None = None
    """Phone numbers: any that begin with a +, and those of `regions` in the form that is usual there or after a word such as
    phone."""
    card: Action | None = None
    """Numbers of payment cards, by their check digit."""
    ip: Action | None = None
    """IPv4 and IPv6 addresses."""
    id: Action | None = None
    """Numbers of persons: resident identity cards and social credit codes of China, by their check digits; social security
    numbers of the USA, National Insurance and NHS numbers of the UK."""
    regions: tuple[str, ...] = REGIONS
    """Whose phone numbers are found without a +: ISO codes of countries."""

    @field_validator("regions")
    @classmethod
    def _regions_are_known(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        for code in codes:
            if code not in known_regions():
                raise ValueError(f"{code} is no country whose phone numbers are known. {nearest(code, known_regions())}")
        return codes

    @property
    def actions(self) -> dict[str, Action]:
        """What is asked for, by kind."""
        asked: dict[str, Action | None] = {kind: getattr(self, kind) for kind in PERSONAL_KINDS}
        return {kind: action for kind, action in asked.items() if action is not None}

    @property
    def masked(self) -> tuple[str, ...]:
        """The kinds that are masked."""
        return tuple(kind for kind, action in self.actions.items() if action == "mask")

    @property
    def rewrites(self) -> str | None:
        """The key that changes texts, if there is one."""
        return next((f"personal.{kind}" for kind in self.masked), None)

    def sieves(self) -> list[Sieve]:
        """What texts go through once they are cleaned and filtered."""
        return [WithoutPersonal(self.actions, self.regions)] if self.actions else []


@dataclass(frozen=True)
class WithoutPersonal:
    """Masks personal data of some kinds, and drops texts that hold some of others."""

    actions: Mapping[str, Action]
    regions: tuple[str, ...]

    def sift(self, texts: Sequence[str], tally: "Counter[str]") -> tuple[list[str], dict[int, str]]:
        """Counts rows_dropped_ and the first kind for which a row goes, texts_masked_ and each kind that a text has."""
        names = {"mask": "texts_masked", "drop": "rows_dropped"}
        tally.update({f"{names[action]}_{kind}": 0 for kind, action in self.actions.items()})
        kept, gone = list(texts), dict[int, str]()
        for place, text in enumerate(texts):
            found = find_personal(text, tuple(self.actions), self.regions)
            held = dict.fromkeys(one.kind for one in found)
            dropped = next((kind for kind in held if self.actions[kind] == "drop"), None)
            if dropped is not None:
                gone[place] = f"personal data: {dropped}"
                tally[f"rows_dropped_{dropped}"] += 1
            elif found:
                kept[place] = Cleaned(text).replace(masks(found)).text
                tally.update(f"texts_masked_{kind}" for kind in held)
        return kept, gone
