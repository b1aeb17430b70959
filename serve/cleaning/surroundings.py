"""A text as personal data is looked for in it: signs in narrow form, what was found covered, what stands before a place."""

import re

_NARROW: dict[int, int | str] = {
    **{0xFF01 + place: 0x21 + place for place in range(94)},  # full width
    **{ord(sign): "-" for sign in "‐‑‒–−"},
    **{ord(sign): " " for sign in "\u00a0\u2009\u202f\u3000"},
    **{0x0660 + digit: str(digit) for digit in range(10)},
    **{0x06F0 + digit: str(digit) for digit in range(10)},
}
_COVER = re.compile(r"<[A-Z_]*>")
MOST_BEFORE = 30
"""Characters before a place by which is told what stands there."""


def narrow(text: str) -> str:
    """The text with a sign for each of its own: what is of full width, dashes, spaces and Arabic digits in ASCII."""
    return text if text.isascii() else text.translate(_NARROW)


def covered(text: str, start: int, end: int) -> str:
    """The text with something of the same length in the place of what was found, that is read as a mask is."""
    return f"{text[:start]}<{'_' * (end - start - 2)}>{text[end:]}"


def left_of(text: str, start: int) -> str:
    """The last characters before a place on its line; what was found there takes as little room as any mask, so that a text
    says the same once it is masked."""
    line = text[max(text.rfind("\n", 0, start) + 1, start - 8 * MOST_BEFORE) : start]
    return _COVER.sub("<>", line)[-MOST_BEFORE:]
