"""Files as rows: the one reader of recipes' checks, of prepare and of answering for files.

    with opened_rows(part, files) as found:            # of a whole file
        for row in found.rows: row.values, row.fault
    scanned = scan("s3://bucket/reviews.csv", files)   # one pass: its columns, its rows, where each piece begins
    for row in read(scanned.pieces[3], files): …       # the same rows, piece by piece

Text, CSV and JSON Lines are cut at places of the (unpacked) file, always after a record, never inside a quoted line break.
Parquet, Excel, JSON arrays and UTF-16 are cut by row numbers. Headers and empty lines are no rows.
"""

import contextlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

from jobs.data.annotated import annotated
from jobs.data.formats import FilePart, Files, is_plain, naming, parts_of
from jobs.data.pieces import Found, Piece, Row, Scanned
from jobs.data.table_rows import opened_parquet, parquet_rows, sheet_rows
from jobs.data.text_rows import text_rows

SMALLEST_ROWS, LARGEST_ROWS, PIECES_PER_FILE = 2_048, 65_536, 128
"""A piece is done whole or again, and is one file of the output: neither too many of them nor too much to lose."""
SLICE_BYTES = 16 << 20
"""What one task reads of a large file."""


@contextlib.contextmanager
def opened_rows(
    part: FilePart, files: Files, piece: Piece | None = None, columns: Sequence[str] | None = None, parse: bool = True
) -> Iterator[Found]:
    """The rows of a file, or of a piece of it, as they are read. `columns` are those that are needed, where a format can leave
    out others; without `parse` rows of JSON are only counted."""
    if part.format == "parquet":
        with naming(part), parquet_rows(part, piece, columns) as found:
            yield found._replace(rows=_named(part, found.rows))
        return
    parse = parse or files.annotated_in is not None
    opening = sheet_rows(part, files) if part.format == "xlsx" else text_rows(part, files, piece, parse)
    with naming(part), opening as found:
        if files.annotated_in is not None and part.format != "xlsx":
            found = annotated(found, files.annotated_in)
        rows = _named(part, found.rows)
        if piece is not None and not piece.by_bytes:
            rows = islice(rows, piece.first, None if piece.rows is None else piece.first + piece.rows)
        yield found._replace(rows=rows)


def _named(part: FilePart, rows: Iterator[Row]) -> Iterator[Row]:
    with naming(part):
        yield from rows


def read(piece: Piece, files: Files, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of a piece, those too that cannot be read."""
    with opened_rows(piece.part, files, piece, columns) as found:
        yield from found.rows


def scan(file: str, files: Files) -> Scanned:
    """One pass over a file, or over those in a zip; BadInput where it cannot be cut into rows."""
    columns: dict[str, None] = {}
    pieces: list[Piece] = []
    types, twice = "", dict[str, None]()
    for part in parts_of(file):
        with opened_rows(part, files) as found:
            columns.update(dict.fromkeys(found.columns))
            twice.update(dict.fromkeys(found.twice))
            if part.format == "parquet":
                types, rows = _schema_and_rows(part)
                pieces += [Piece(part, first, count, found.header or ()) for first, count in _cuts(rows)]
                continue
            ends, lines = array("q", [found.start]), array("q", [found.line])
            for row in found.rows:
                columns.update(dict.fromkeys(() if row.fault or found.header is not None else row.values))
                ends.append(row.end)
                lines.append(row.next_line - 1)
            for first, count in _cuts(len(ends) - 1):
                piece = Piece(part, first, count, found.header or ())
                if found.by_bytes:
                    piece = replace(piece, start=ends[first], end=ends[first + count], line=lines[first])
                pieces.append(piece)
    return Scanned(tuple(columns), tuple(pieces), types, tuple(twice))


def slices(file: str, files: Files) -> list[Piece]:
    """A file cut into pieces of about SLICE_BYTES where any place of it can be reached at once, else whole."""
    found: list[Piece] = []
    for part in parts_of(file):
        if part.format == "parquet":
            found += _parquet_slices(part)
        elif part.format == "xlsx" or not is_plain(part):
            found.append(Piece(part))
        else:
            found += _text_slices(part, files)
    return found


def _text_slices(part: FilePart, files: Files) -> list[Piece]:
    made: list[Piece] = []
    with opened_rows(part, files, parse=False) as found:
        if not found.by_bytes:
            return [Piece(part)]
        begun, count = Piece(part, 0, None, found.header or (), found.start, None, found.line), 0
        for count, row in enumerate(found.rows, 1):
            if row.end - begun.start >= SLICE_BYTES:
                made.append(replace(begun, rows=count - begun.first, end=row.end))
                begun = replace(begun, first=count, start=row.end, line=row.next_line - 1)
        if count > begun.first:
            made.append(replace(begun, rows=count - begun.first, end=row.end))
    return made


def _parquet_slices(part: FilePart) -> list[Piece]:
    with naming(part), opened_parquet(part) as file:
        sizes = [file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups)]
        rows = file.metadata.num_rows
    size = max(1, -(-rows // max(1, -(-sum(sizes) // SLICE_BYTES))))
    return [Piece(part, first, min(size, rows - first)) for first in range(0, rows, size)]


def _schema_and_rows(part: FilePart) -> tuple[str, int]:
    with opened_parquet(part) as file:
        return file.schema_arrow.remove_metadata().to_string(), file.metadata.num_rows


def _cuts(rows: int) -> list[tuple[int, int]]:
    """(first row, number of rows) of each piece."""
    size = min(LARGEST_ROWS, max(SMALLEST_ROWS, -(-rows // PIECES_PER_FILE)))
    return [(first, min(size, rows - first)) for first in range(0, rows, size)]
