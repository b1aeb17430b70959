"""Files cut into pieces of rows that any worker can read on its own, and the rows of a piece.

    scanned = scan("s3://bucket/reviews.csv")          # one pass: its columns, its rows, where each piece begins
    for row in read(scanned.pieces[3]): row.values, row.fault

CSV and JSONL are cut after records, never inside a quoted line break. A .gz file is cut at places of what it unpacks to, so
a worker unpacks what lies before its piece. Parquet is cut by row numbers.
"""

import contextlib
import csv
import gzip
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from cluster.store import storage
from jobs.core.config import BadInput, Problem
from jobs.data.sources import file_format

SMALLEST_ROWS, LARGEST_ROWS, PIECES_PER_FILE = 2_048, 65_536, 128
"""A piece is done whole or again, and is one file of the output: neither too many of them nor too much to lose."""
LARGEST_FIELD = 2**31 - 1
BUFFER_BYTES = 1 << 20
DELIMITERS = {"csv": ",", "tsv": "\t"}
TEXT_COLUMN = "text"
"""The only column of a .txt file."""
UNREAD = "line"
"""The column under which a row stands that could not be read."""


@dataclass(frozen=True)
class Piece:
    """Rows of a file that follow each other."""

    file: str
    first: int
    """The number of its first row in the file, from 0; headers and empty lines are no rows."""
    rows: int
    header: tuple[str, ...] = ()
    """The columns of a file that names them at its top."""
    start: int = 0
    end: int = 0
    """Where its bytes are in the unpacked file; not for Parquet."""


@dataclass(frozen=True)
class Scanned:
    """A file's columns in their order (of JSONL: all that any row has), and what it is cut into."""

    columns: tuple[str, ...]
    pieces: tuple[Piece, ...]
    types: str = ""
    """The schema of a Parquet file."""


@dataclass(frozen=True)
class Row:
    """A row as it was found. `fault` says why it could not be read; then `values` has only the line."""

    values: Mapping[str, Any]
    fault: str | None = None


def scan(file: str) -> Scanned:
    """One pass over a file; BadInput where it cannot be cut into rows."""
    kind = file_format(file)
    with _named(file):
        if kind == "parquet":
            return _scan_parquet(file)
        with _opened(file) as stream:
            lines = _Lines(stream)
            header = _header(file, lines, DELIMITERS[kind]) if kind in DELIMITERS else ()
            columns, bounds = dict.fromkeys(header), [lines.offset]
            for row in _rows(lines, kind, header):
                columns.update(dict.fromkeys(() if row.fault else row.values))
                bounds.append(lines.offset)
    pieces = [Piece(file, first, rows, header, bounds[first], bounds[first + rows]) for first, rows in _cuts(len(bounds) - 1)]
    return Scanned(tuple(columns), tuple(pieces))


def read(piece: Piece) -> list[Row]:
    """The rows of a piece, those too that cannot be read."""
    kind = file_format(piece.file)
    with _named(piece.file):
        if kind == "parquet":
            return _read_parquet(piece)
        with _opened(piece.file) as stream:
            stream.seek(piece.start)
            return list(_rows(_Lines(stream, piece.start, piece.end), kind, piece.header))


def _cuts(rows: int) -> list[tuple[int, int]]:
    """(first row, number of rows) of each piece."""
    size = min(LARGEST_ROWS, max(SMALLEST_ROWS, -(-rows // PIECES_PER_FILE)))
    return [(first, min(size, rows - first)) for first in range(0, rows, size)]


class _Lines:
    """The lines of a stream as text up to `end`, and how far it has been read. What is no UTF-8 stays as surrogates."""

    def __init__(self, stream: BinaryIO, start: int = 0, end: int | None = None) -> None:
        self.stream = stream
        self.offset = start
        self.end = end

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = b"" if self.end is not None and self.offset >= self.end else self.stream.readline()
        if not line:
            raise StopIteration
        text = line.decode("utf-8", "surrogateescape")
        if self.offset == 0:
            text = text.removeprefix("\ufeff")
        self.offset += len(line)
        return text


def _rows(lines: _Lines, kind: str | None, header: tuple[str, ...]) -> Iterator[Row]:
    """Each record as soon as its last line was read, so that `lines.offset` is then its end."""
    if kind in DELIMITERS:
        csv.field_size_limit(LARGEST_FIELD)
        for fields in csv.reader(lines, delimiter=DELIMITERS[kind]):
            if fields and len(fields) != len(header):
                yield Row({UNREAD: fields}, f"{len(fields)} fields under a header of {len(header)}")
            elif fields:
                yield Row(dict(zip(header, fields, strict=True)))
        return
    for line in lines:
        if not line.strip():
            continue
        yield _json_row(line) if kind == "json" else Row({TEXT_COLUMN: line.rstrip("\r\n")})


def _json_row(line: str) -> Row:
    try:
        values = json.loads(line)
    except ValueError as error:
        return Row({UNREAD: line.rstrip("\r\n")}, f"no JSON: {error}")
    return Row(values) if isinstance(values, dict) else Row({UNREAD: line.rstrip("\r\n")}, "no JSON object")


def _header(file: str, lines: _Lines, delimiter: str) -> tuple[str, ...]:
    names = tuple(next(csv.reader(lines, delimiter=delimiter), ()))
    if not names or len(set(names)) != len(names):
        found = "an empty first line" if not names else "two columns of the same name"
        raise BadInput([Problem("--input", file, f"the header has {found}", "Give each column a name of its own.")])
    return names


def _scan_parquet(file: str) -> Scanned:
    from pyarrow import parquet

    system, path = storage.filesystem(file)
    with parquet.ParquetFile(path, filesystem=system) as opened:
        schema = opened.schema_arrow
        pieces = [Piece(file, first, rows, tuple(schema.names)) for first, rows in _cuts(opened.metadata.num_rows)]
    return Scanned(tuple(schema.names), tuple(pieces), schema.remove_metadata().to_string())


def _read_parquet(piece: Piece) -> list[Row]:
    """The row groups that the piece lies in, cut to it."""
    from pyarrow import parquet

    system, path = storage.filesystem(piece.file)
    with parquet.ParquetFile(path, filesystem=system) as opened:
        groups, before, first = [], 0, 0
        for group in range(opened.num_row_groups):
            rows = opened.metadata.row_group(group).num_rows
            if before + rows <= piece.first:
                first = before + rows
            elif before < piece.first + piece.rows:
                groups.append(group)
            before += rows
        table = opened.read_row_groups(groups).slice(piece.first - first, piece.rows)
    return [Row(values) for values in table.to_pylist()]


@contextlib.contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    system, path = storage.filesystem(file)
    with system.open_input_file(path) as raw, io.BufferedReader(raw, BUFFER_BYTES) as stream:
        if not file.endswith(".gz"):
            yield stream
            return
        with gzip.GzipFile(fileobj=stream) as unpacked:
            yield cast(BinaryIO, unpacked)


@contextlib.contextmanager
def _named(file: str) -> Iterator[None]:
    """Whatever a reader finds wrong with a file as one error that names it."""
    try:
        yield
    except (csv.Error, EOFError, OSError, ValueError) as error:
        kind = file_format(file)
        raise BadInput([Problem("--input", file, f"it cannot be read as {kind}: {error}", "Mend or remove it.")]) from error
