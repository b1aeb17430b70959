"""Records of CSV and TSV files, put together from their lines.

A stray quotation mark never swallows other rows: a record that does not close, or that strict reading does not take, is one
bad record made of its first line, and reading goes on with the next line.
"""

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from jobs.data.formats import Files
from jobs.data.lines import Fault, Line

LONGEST_RECORD = 64 << 20
"""Characters: one that is longer is taken for one whose quotation mark does not close."""
LARGEST_FIELD = 2**31 - 1
UNCLOSED = Fault("stray quotation mark", "a field begins with a quotation mark and does not end with one")
_INSIDE = re.compile(r'(?:[^"]|"")*')


class DelimitedRecord(NamedTuple):
    """A record; `fields` is empty for a line without anything on it, and for one that has a fault."""

    fields: Sequence[str]
    size: int
    lines: int
    text: str
    """As it stands in the file."""
    fault: Fault | None = None


@dataclass(frozen=True)
class QuotingRule:
    """How fields are parted and quoted."""

    delimiter: str
    quoting: Literal["standard", "line", "none"]
    """line: a field is unquoted only where it is quoted as a whole, on one line."""

    @classmethod
    def of(cls, kind: str, files: Files) -> "QuotingRule":
        """The usual one of csv or tsv, unless the files are said to be written otherwise."""
        usual: tuple[str, Literal["standard", "line"]] = ("\t", "line") if kind == "tsv" else (",", "standard")
        return cls(files.delimiter or usual[0], files.quoting or usual[1])


@dataclass(frozen=True)
class Width:
    """How many fields a record has."""

    columns: int
    named: int
    """Those behind it have no name: they may be left out."""

    @classmethod
    def of(cls, header: Sequence[str]) -> "Width":
        """Of the fields of a header."""
        return cls(len(header), max((place for place, name in enumerate(header, 1) if name.strip()), default=0))

    def fitted(self, fields: Sequence[str]) -> Sequence[str] | Fault:
        """The fields, so many as there are columns; a fault where some are missing or too many."""
        if len(fields) == self.columns:
            return fields
        if self.named <= len(fields) < self.columns:
            return [*fields, *[""] * (self.columns - len(fields))]
        if len(fields) > self.columns and not any(field.strip() for field in fields[self.columns :]):
            return fields[: self.columns]
        return Fault("wrong number of columns", f"{len(fields)} fields under a header of {self.columns}")


def header_names(fields: Sequence[str]) -> tuple[str, ...]:
    """The columns that a header names, those without a name by their place."""
    return tuple(name.strip() or f"column_{place}" for place, name in enumerate(fields, 1))


def records(lines: Iterator[Line], rule: QuotingRule, width: Width | None = None) -> Iterator[DelimitedRecord]:
    """Each record with the fields that fit the width, or a fault; without a width whatever there is."""
    csv.field_size_limit(LARGEST_FIELD)
    again: deque[Line] = deque()
    quotes = rule.quoting != "none"
    while (line := again.popleft() if again else next(lines, None)) is not None:
        if line.fault is not None:
            yield DelimitedRecord((), line.size, 1, line.text, line.fault)
            continue
        bare = line.text.rstrip("\r\n")
        if not bare:
            yield DelimitedRecord((), line.size, 1, line.text)
        elif not quotes or '"' not in bare:
            yield _fitted(bare.split(rule.delimiter), line, width)
        elif rule.quoting == "line":
            yield _fitted(_line_fields(bare, rule.delimiter, width), line, width)
        else:
            yield _quoted(line, lines, again, rule.delimiter, width)


def _fitted(fields: Sequence[str], line: Line, width: Width | None) -> DelimitedRecord:
    found = fields if width is None else width.fitted(fields)
    if isinstance(found, Fault):
        return DelimitedRecord((), line.size, 1, line.text, found)
    return DelimitedRecord(found, line.size, 1, line.text)


def _line_fields(bare: str, delimiter: str, width: Width | None) -> Sequence[str]:
    """The fields of a line of a TSV file; only where there are more than columns a quoted field may have tabs in it."""
    fields = [_unquoted(field) for field in bare.split(delimiter)]
    if width is not None and isinstance(width.fitted(fields), Fault):
        strictly = _parsed([bare], delimiter)
        if strictly is not None and not isinstance(width.fitted(strictly), Fault):
            return strictly
    return fields


def _unquoted(field: str) -> str:
    if len(field) < 2 or field[0] != '"' or field[-1] != '"':
        return field
    inner = field[1:-1].replace('""', "\0")
    return field if '"' in inner else field[1:-1].replace('""', '"')


def _parsed(lines: Sequence[str], delimiter: str) -> list[str] | None:
    """The fields of one record; None where strict reading does not take it."""
    try:
        return next(csv.reader(lines, delimiter=delimiter, strict=True), [])
    except csv.Error:
        return None


def _quoted(line: Line, lines: Iterator[Line], again: deque[Line], delimiter: str, width: Width | None) -> DelimitedRecord:
    """The record that begins with a line that has quotation marks. What was read ahead in vain goes to `again`."""
    taken = [line]
    state, size = _after(line.text, delimiter, False), len(line.text)
    while state == "open" and size < LONGEST_RECORD:
        following = again.popleft() if again else next(lines, None)
        if following is None:
            break
        taken.append(following)
        size += len(following.text)
        state = _after(following.text, delimiter, True) if following.fault is None else "wrong"
    fields = (
        _parsed([*(one.text for one in taken[:-1]), taken[-1].text.rstrip("\r\n")], delimiter) if state == "closed" else None
    )
    found = UNCLOSED if fields is None else fields if width is None else width.fitted(fields)
    if isinstance(found, Fault):
        again.extendleft(reversed(taken[1:]))
        # Of several lines it was put together in vain: what is wrong is the first one's mark.
        return DelimitedRecord((), line.size, 1, line.text, found if len(taken) == 1 else UNCLOSED)
    return DelimitedRecord(found, sum(one.size for one in taken), len(taken), "".join(one.text for one in taken))


def _after(text: str, delimiter: str, inside: bool) -> Literal["open", "closed", "wrong"]:
    """What a record is after a further line of it, which begins inside of a quoted field or outside."""
    bare, place = text.rstrip("\r\n"), 0
    while True:
        if not inside:
            if not bare.startswith('"', place):
                place = bare.find(delimiter, place) + 1
                if not place:
                    return "closed"
                continue
            place += 1
        found = _INSIDE.match(bare, place)
        assert found is not None
        place = found.end() + 1
        if found.end() == len(bare):
            return "open"
        if place == len(bare):
            return "closed"
        if bare[place] != delimiter:
            return "wrong"
        inside, place = False, place + 1
