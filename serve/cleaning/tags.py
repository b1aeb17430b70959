"""HTML tags and comments in a text.

tags('<a title="<b>">good</a>')              # [(0, 15, " "), (19, 23, " ")]
"""

import re

from serve.cleaning.changes import Edit
from serve.cleaning.masks import MASKS

LONGEST_TAG = 200
"""Characters of a tag, without white space; what is longer was hardly meant as one."""
_MASK_WORDS = frozenset(MASKS.values())
_SIGN = re.compile("[<>]")
_PLAIN = re.compile("</?[a-zA-Z][^<>]*+>")
_NAMED = re.compile("/?[a-zA-Z]")


def tags(text: str) -> list[Edit]:
    """Each tag becomes a space. A tag may have others in it: none appears where one is taken out, and what is left has none.

    Each sign is looked at once, however many stand in each other.
    """
    plain = list(_PLAIN.finditer(text))
    if len(plain) == text.count("<") and all(match.end() - match.start() <= LONGEST_TAG for match in plain):
        return [(match.start(), match.end(), " ") for match in plain if match[0] not in _MASK_WORDS]
    found: list[Edit] = []
    # Of each `<` that may still begin a tag: its place, the characters counted behind it, and up to where.
    opened: list[tuple[int, int, int]] = []
    place, comments = 0, "<!--" in text
    while (sign := _SIGN.search(text, place)) is not None:
        start, place = sign.start(), sign.end()
        if comments and text.startswith("<!--", start):
            end = text.find("-->", place + 3)
            comments = end >= 0
            if comments:
                place = end + len("-->")
                _take_out(text, start, place, found, opened)
                continue
        mask = next((mask for mask in _MASK_WORDS if text.startswith(mask, start)), None)
        if mask is not None:
            place = start + len(mask)
            opened.clear()  # All that began before it has its signs in it.
        elif sign[0] == "<":
            opened.append((start, 0, place))
        elif opened:
            begin, count, counted = opened.pop()
            if _NAMED.match(text, begin + 1) and count + _shown(text[counted:start]) <= LONGEST_TAG:
                _take_out(text, begin, place, found, opened)
            else:
                opened.clear()  # So here.
    return found


def _take_out(text: str, start: int, end: int, found: list[Edit], opened: list[tuple[int, int, int]]) -> None:
    while found and found[-1][0] >= start:
        found.pop()
    found.append((start, end, " "))
    if opened:
        begin, count, counted = opened[-1]
        opened[-1] = begin, count + _shown(text[counted:start]), end


def _shown(text: str) -> int:
    """Characters that are no white space: so many are left however that is folded."""
    return len("".join(text.split()))
