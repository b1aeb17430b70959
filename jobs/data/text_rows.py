"""Rows of files that are text: plain, JSON, CSV and TSV."""

import contextlib
import io
from collections.abc import Iterator, Mapping
from typing import Any

from jobs.core.config import BadInput, Problem
from jobs.data.delimited import UNCLOSED, DelimitedRecord, QuotingRule, Width, header_names, records
from jobs.data.formats import (
    BUFFER_BYTES,
    DELIMITED,
    FilePart,
    Files,
    encoding_remedy,
    ends_lines_by_bytes,
    opened,
    skip,
    stream_encoding,
)
from jobs.data.json_rows import array_rows, json_object
from jobs.data.lines import Fault, Line, lines_of, texts_of
from jobs.data.pieces import UNREAD, Found, Piece, Row

TEXT_COLUMN = "text"
"""The only column of a .txt file."""
HEADER_LINES = 100
"""A header that has not ended after so many lines will not."""


@contextlib.contextmanager
def text_rows(part: FilePart, files: Files, piece: Piece | None = None, parse: bool = True) -> Iterator[Found]:
    """The rows of a file, or of a stretch of its bytes. Without `parse` those of JSON are only counted."""
    with opened(part) as stream:
        encoding, mark = stream_encoding(stream, files)
        stretch = piece if piece is not None and piece.by_bytes else None
        start, end, line = (stretch.start, stretch.end, stretch.line) if stretch is not None else (mark, None, 0)
        skip(stream, start)
        by_bytes = ends_lines_by_bytes(encoding)
        if part.format == "json" and stretch is None and _begins_with_bracket(stream, encoding):
            yield Found(None, (_element(*found) for found in array_rows(texts_of(stream, encoding), encoding)))
            return
        lines = lines_of(stream, encoding, start, end)
        if part.format not in DELIMITED:
            json = part.format != "text"
            yield Found(None if json else (TEXT_COLUMN,), _line_rows(lines, json, parse, start, line), by_bytes, start, line)
            return
        rule = QuotingRule.of(part.format, files)
        header = (stretch.header if stretch is not None else ()) or files.columns
        if not header:
            header, size, line = _header(part, lines, rule)
            start += size
        rows = _delimited_rows(lines, rule, header, start, line)
        yield Found(tuple(header), rows, by_bytes, start, line)


def _begins_with_bracket(stream: io.BufferedReader, encoding: str) -> bool:
    head = stream.peek(BUFFER_BYTES).decode(encoding, "ignore").lstrip("\ufeff \t\r\n")
    return head.startswith("[")


def _element(found: Mapping[str, Any] | Fault, text: str, line: int) -> Row:
    return Row({UNREAD: text}, found, line) if isinstance(found, Fault) else Row(found, None, line)


def _line_rows(lines: Iterator[Line], json: bool, parse: bool, place: int, number: int) -> Iterator[Row]:
    """A row a line; empty ones are none."""
    for text, size, fault in lines:
        place += size
        number += 1
        if not text.strip():
            continue
        if fault is not None:
            yield Row({UNREAD: text.rstrip("\r\n")}, fault, number, place, number + 1)
        elif not json:
            yield Row({TEXT_COLUMN: text.rstrip("\r\n")}, None, number, place, number + 1)
        elif not parse:
            yield Row({}, None, number, place, number + 1)
        else:
            found = json_object(text)
            if isinstance(found, Fault):
                yield Row({UNREAD: text.rstrip("\r\n")}, found, number, place, number + 1)
            else:
                yield Row(found, None, number, place, number + 1)


def _header(part: FilePart, lines: Iterator[Line], rule: QuotingRule) -> tuple[tuple[str, ...], int, int]:
    """The first record that has something in it, how many bytes it ends behind, and how many lines; empty where all is."""
    size = count = 0
    for record in _first_records(lines, rule):
        size, count = size + record.size, count + record.lines
        if record.fault is not None:
            remedy = "Mend it." if record.fault == UNCLOSED else encoding_remedy(part, size)
            raise BadInput([Problem("source", part.name, f"its header cannot be read: {record.fault.detail}", remedy)])
        if record.fields:
            return tuple(record.fields), size, count
    return (), size, count


def _first_records(lines: Iterator[Line], rule: QuotingRule) -> Iterator[DelimitedRecord]:
    """Line by line as long as that will do, so that nothing behind the header is taken from the lines."""
    for line in lines:
        taken = [line]
        record = next(records(iter(taken), rule))
        while record.fault is not None and len(taken) < HEADER_LINES and (more := next(lines, None)) is not None:
            taken.append(more)
            record = next(records(iter(taken), rule))
        yield record


def _delimited_rows(
    lines: Iterator[Line], rule: QuotingRule, header: tuple[str, ...], place: int, number: int
) -> Iterator[Row]:
    names, width = header_names(header), Width.of(header)
    for fields, size, count, text, fault in records(lines, rule, width):
        place += size
        begun, number = number + 1, number + count
        if fields:
            yield Row(dict(zip(names, fields, strict=True)), None, begun, place, number + 1)
        elif fault is not None:
            yield Row({UNREAD: text.rstrip("\r\n")}, fault, begun, place, number + 1)
