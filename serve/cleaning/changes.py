"""A text that was changed, step by step, and from where in the text that was sent each of its characters is.

    text = Cleaned("<b>good</b>\r\nfilm").replace([(0, 3, " "), (7, 11, " "), (11, 13, "\n")])
    text.text, text.span(1, 5)                   # " good \nfilm", (3, 7)

Whatever replaces stretches of a text can go on from there: masks, for one. The way back is found when somebody asks for it.
"""

import os.path
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

Edit = tuple[int, int, str]
"""text[start:end] becomes a string. Several stand in their order, do not overlap, and all speak of the text before them."""
SURELY_FIRST = "\u0300"
"""Characters before it are composed with none that stand before them."""


class Cleaned:
    """A text, what was sent, and the changes between the two."""

    __slots__ = ("_changes", "_places", "sent", "text")

    def __init__(self, sent: str, text: str | None = None, changes: tuple[Iterable[Edit], ...] = ()) -> None:
        self.sent, self.text, self._changes = sent, sent if text is None else text, changes
        self._places: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def changed(self) -> bool:
        """Whether anything was replaced."""
        return bool(self._changes)

    def replace(self, edits: Sequence[Edit]) -> "Cleaned":
        """With stretches of it replaced; itself where there are none."""
        if not edits:
            return self
        parts, done = [], 0
        for start, end, new in edits:
            parts += [self.text[done:start], new]
            done = end
        parts.append(self.text[done:])
        return Cleaned(self.sent, "".join(parts), (*self._changes, edits))

    def composed(self) -> "Cleaned":
        """In NFC; itself where it is."""
        if self.text.isascii() or unicodedata.is_normalized("NFC", self.text):
            return self
        return Cleaned(self.sent, unicodedata.normalize("NFC", self.text), (*self._changes, Compositions(self.text)))

    @property
    def starts(self) -> np.ndarray:
        """Of each character the first one that was sent for it; never falls."""
        return self._found()[0]

    @property
    def ends(self) -> np.ndarray:
        """The one behind the last; never falls."""
        return self._found()[1]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where in what was sent text[start:end] is from: all characters that became one of these, and what is between."""
        if not self._changes:
            return start, end
        starts, ends = self._found()
        if start >= end:
            place = int(starts[start]) if start < len(starts) else int(ends[-1]) if len(ends) else len(self.sent)
            return place, place
        return int(starts[start]), int(ends[end - 1])

    def _found(self) -> tuple[np.ndarray, np.ndarray]:
        if self._places is None:
            count = len(self.sent)
            places = np.arange(count), np.arange(1, count + 1)
            for edits in self._changes:
                places = _moved(*places, edits, count)
            assert len(places[0]) == len(self.text), "each character is from somewhere"
            self._places = places
        return self._places


class Compositions:
    """What NFC changes in a text, stretch by stretch: each is composed by itself as it is beside the others."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __iter__(self) -> Iterator[Edit]:
        text, begin, last = self.text, 0, 0
        for place in range(1, len(text) + 1):
            if place < len(text) and not _may_begin(text[place]):
                continue
            # text[last:place] is a letter with its marks. Some letters, of Hangul and of India, are composed with others.
            if last > begin and _apart(text[begin:last], text[last:place]):
                yield from _composed(text, begin, last)
                begin = last
            last = place
        yield from _composed(text, begin, last)


def _may_begin(character: str) -> bool:
    """Whether it is no mark; some characters that count as none are made of marks."""
    return character < SURELY_FIRST or unicodedata.combining(unicodedata.normalize("NFD", character)[0]) == 0


def _apart(left: str, right: str) -> bool:
    """Whether NFC leaves two stretches to themselves."""
    if right[0] < SURELY_FIRST:
        return True
    alone = unicodedata.normalize("NFC", left) + unicodedata.normalize("NFC", right)
    return alone == unicodedata.normalize("NFC", left + right)


def _composed(text: str, start: int, end: int) -> Iterator[Edit]:
    old = text[start:end]
    new = unicodedata.normalize("NFC", old)
    if new != old:
        same = len(os.path.commonprefix([old, new]))  # a space before marks, for one
        yield start + same, end, new[same:]


def _moved(starts: np.ndarray, ends: np.ndarray, edits: Iterable[Edit], sent: int) -> tuple[np.ndarray, np.ndarray]:
    """The places of a text's characters after these edits, from those before. What is put between two characters stands for
    what was between them."""
    first, last, done = [], [], 0
    for start, end, new in edits:
        first.append(starts[done:start])
        last.append(ends[done:start])
        if new:
            begins = starts[start] if start < end else ends[start - 1] if start else 0
            stops = ends[end - 1] if start < end else starts[start] if start < len(starts) else sent
            first.append(np.full(len(new), begins))
            last.append(np.full(len(new), stops))
        done = end
    first.append(starts[done:])
    last.append(ends[done:])
    return np.concatenate(first), np.concatenate(last)
