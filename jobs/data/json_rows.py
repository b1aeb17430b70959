"""Rows of JSON: an object a line, or the objects of one array, which is read part by part."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jobs.data.lines import Fault, broken_in

READ_AHEAD = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},]', re.DOTALL)


def _nothing(constant: str) -> None:
    """NaN and Infinity, which are no JSON and which some programs write where there is no number."""


_decoder = json.JSONDecoder(parse_constant=_nothing)


def json_object(text: str) -> Mapping[str, Any] | Fault:
    """A row, or why it is none."""
    try:
        found = _decoder.decode(text)
    except (ValueError, RecursionError) as error:
        return Fault("no JSON", str(error))
    return found if isinstance(found, dict) else Fault("no JSON object", f"it is {_short(text)}")


def array_rows(texts: Iterator[str], encoding: str) -> Iterator[tuple[Mapping[str, Any] | Fault, str, int]]:
    """The elements of an array: each as a row or why it is none, as it stands in the file, and the line where it begins.
    ValueError where the array does not end: how many rows are lost then nobody knows."""
    stream = _Array(texts)
    stream.take("[", "it does not begin with a bracket")
    while stream.sign() != "]":
        line = stream.line
        text = stream.element()
        yield broken_in(text, encoding) or json_object(text), text, line
        if stream.sign() != "]":
            stream.take(",", f"the array does not end: look at the row that begins in line {line}, and at what follows it")
    stream.take("]", "")
    if stream.sign():
        yield Fault("no JSON", "something follows the array"), _short(stream.text[stream.place :]), stream.line


class _Array:
    """The text of a file as far as it has been read, without what has been taken from it."""

    def __init__(self, texts: Iterator[str]) -> None:
        self.texts, self.text, self.place = texts, "", 0
        self.line = 1
        """The one that `place` is in."""

    def sign(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            found = _SPACE.match(self.text, self.place)
            assert found is not None
            self._pass(found.end())
            if self.place < len(self.text):
                return self.text[self.place]
            if not self._more(READ_AHEAD):
                return ""

    def take(self, sign: str, otherwise: str) -> None:
        """Take this sign; ValueError where another one stands here."""
        if self.sign() != sign:
            raise ValueError(otherwise)
        self.place += 1

    def element(self) -> str:
        """Take the element that begins here."""
        least = READ_AHEAD
        while (end := _element_end(self.text, self.place)) is None and self._more(least):
            least *= 2
        start, end = self.place, len(self.text) if end is None else end
        self._pass(end)
        return self.text[start:end]

    def _pass(self, end: int) -> None:
        self.line += self.text.count("\n", self.place, end)
        self.place = end

    def _more(self, least: int) -> bool:
        """Read on; False at the end."""
        parts, size = [self.text[self.place :]], 0
        while size < least and (text := next(self.texts, None)) is not None:
            parts.append(text)
            size += len(text)
        self.text, self.place = "".join(parts), 0
        return size > 0


def _element_end(text: str, start: int) -> int | None:
    """Where the element ends that begins there: before the comma or bracket behind it; None where the text does not say."""
    try:
        _, end = _decoder.raw_decode(text, start)
    except (ValueError, RecursionError):
        end = start
    if end > start:
        found = _SPACE.match(text, end)
        assert found is not None
        if text[found.end() : found.end() + 1] in (",", "]") and found.end() < len(text):
            return end
    depth = 0
    for token in _TOKEN.finditer(text, start):
        sign = token.group()
        if depth == 0 and sign in (",", "]"):
            return token.start()
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(sign, 0)
    return None


def _short(text: str, limit: int = 60) -> str:
    text = text.strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"
