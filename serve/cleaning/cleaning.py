"""How text is cleaned: what a model should never see is taken out, alike where it learns and where it answers.

    cleaning = Cleaning(strip_tags=True)
    cleaning.cleaned("<b>good</b> film").text                       # "good film"
    cleaning.cleaned("<b>good</b> film").span(0, 4)                 # (3, 7): where that was sent

What no reader sees goes, unless the text reads otherwise without it: joiners stay where they join (Unicode Standard Annex 31,
2.3), tags where they make a flag. Characters that this Python's Unicode does not know yet stay: the next emoji are among them.
Private use goes: what stands there only a font knows. To clean what is clean changes nothing.
"""

import json
import re
import unicodedata

from pydantic import BaseModel, ConfigDict, Field, field_validator

from serve.cleaning.changes import Cleaned, Edit
from serve.cleaning.masks import PERSONAL_KINDS, REGIONS
from serve.cleaning.scripts import UNPARTED
from serve.cleaning.tags import tags

_LINE_ENDS = re.compile(r"\r\n?")
_SPACES = re.compile(r"[^\S\n]{2,}|[^\S\n ]")
_BLANK_LINES = re.compile(r"\n{3,}")

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
    rf"|(?<=[{UNPARTED}])(\u200b)\u200b*(?=[{UNPARTED}])"
    rf"|[{_INVISIBLE}]"
)


class TextCleaning(BaseModel):
    """How text is cleaned."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    unicode: bool = True
    """Normalise to NFC and drop controls and what no reader sees, but what joins letters or emoji."""
    strip_tags: bool = False
    """Take HTML tags out."""
    join_words: bool = False
    """A text may be a list of words, as in CoNLL files: they are joined, with spaces where their script has them. Without it
    lists are refused."""
    max_characters: int = Field(100_000, ge=1)
    """Longer texts are cut."""

    def cleaned(self, text: str) -> Cleaned:
        """The text as a model reads it, which may be empty, with the way back to this one."""
        now = Cleaned(text)
        if self._is_clean(text):
            return now
        if self.unicode:
            now = _readable(now.replace(_all_of(_LINE_ENDS, text, "\n") if "\r" in text else []))
        if self.strip_tags and "<" in now.text:
            now = now.replace(tags(now.text))
        now = now.replace(_all_of(_SPACES, now.text, " "))
        now = _stripped(now.replace(_all_of(_BLANK_LINES, now.text, "\n\n") if "\n\n\n" in now.text else []))
        if len(now.text) > self.max_characters:
            now = now.replace([(self.max_characters, len(now.text), "")])
            # What joined two characters may be the last one now.
            now = _stripped(_readable(now) if self.unicode else now)
        return now

    def _is_clean(self, text: str) -> bool:
        """Whether nothing would change, as far as a glance tells: neither line breaks nor anything invisible is printable."""
        return (
            text.isprintable()
            and len(text) <= self.max_characters
            and "  " not in text
            and not text.startswith(" ")
            and not text.endswith(" ")
            and not (self.strip_tags and "<" in text)
            and (text.isascii() or not self.unicode or unicodedata.is_normalized("NFC", text))
        )


class Cleaning(TextCleaning):
    """How text was cleaned in training, and is when a model answers."""

    masks: tuple[str, ...] = ()
    """The kinds of personal data in whose places words such as <EMAIL> stand."""
    phone_regions: tuple[str, ...] = REGIONS
    """Whose phone numbers are masked without a +."""

    @field_validator("masks")
    @classmethod
    def _kinds_are_known(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(kinds) - set(PERSONAL_KINDS)):
            raise ValueError(f"{unknown[0]} is no kind of personal data; known are {', '.join(PERSONAL_KINDS)}")
        return kinds

    def cleaned(self, text: str) -> Cleaned:
        """The same, and what is personal masked."""
        now = super().cleaned(text)
        if not self.masks:
            return now
        from serve.cleaning.personal import find_personal, masks

        return now.replace(masks(find_personal(now.text, self.masks, self.phone_regions)))

    def apart(self, other: "Cleaning") -> str:
        """What the other says otherwise, for a person; empty where the two clean alike."""
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in Cleaning.model_fields]
        return ", ".join(
            f"{name}: {json.dumps(theirs)} in place of {json.dumps(own)}" for name, own, theirs in pairs if own != theirs
        )


def _readable(now: Cleaned) -> Cleaned:
    """In NFC, without what no reader sees."""
    while not now.text.isprintable() and _SUSPECT.search(now.text):
        before = now.text
        # Form feeds and the like are control characters, but they part words.
        now = now.replace(_all_of(_DROPPED, before, ""))
        now = now.replace(_loose_joiners(now.text)).composed()
        # What a joiner stood beside may be gone, or be another character.
        if now.text == before:
            break
    return now.composed()


def _loose_joiners(text: str) -> list[Edit]:
    found = [(match, match[match.lastindex] if match.lastindex else "") for match in _JOINERS.finditer(text)]
    return [(match.start(), match.end(), kept) for match, kept in found if kept != match[0]]


def _all_of(pattern: re.Pattern[str], text: str, new: str) -> list[Edit]:
    return [(match.start(), match.end(), new) for match in pattern.finditer(text)]


def _stripped(now: Cleaned) -> Cleaned:
    """Without white space at its ends."""
    text = now.text
    end = len(text.rstrip())
    start = min(len(text) - len(text.lstrip()), end)
    return now.replace([one for one in ((0, start, ""), (end, len(text), "")) if one[0] < one[1]])
