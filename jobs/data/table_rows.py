"""Rows of files whose values have types: Parquet and Excel."""

import contextlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from jobs.data.delimited import header_names
from jobs.data.formats import FilePart, Files, opened_anywhere
from jobs.data.lines import Fault
from jobs.data.pieces import UNREAD, Found, Piece, Row

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet

PARQUET_ROWS = 1_024
"""Rows that are made of a Parquet file at once."""


@contextlib.contextmanager
def parquet_rows(part: FilePart, piece: Piece | None, columns: Sequence[str] | None) -> Iterator[Found]:
    """The rows of a file, or those of a piece from the row groups that it lies in; only the columns that are needed."""
    with opened_parquet(part) as file:
        names = tuple(file.schema_arrow.names)
        wanted = None if columns is None else [name for name in names if any(_holds(name, column) for column in columns)]
        yield Found(names, _parquet_rows(file, piece, wanted))


@contextlib.contextmanager
def opened_parquet(part: FilePart) -> Iterator["parquet.ParquetFile"]:
    """Its schema, the sizes of its row groups, their rows."""
    from pyarrow import parquet

    with opened_anywhere(part) as raw, parquet.ParquetFile(raw) as file:
        yield file


def _holds(name: str, column: str) -> bool:
    return name == column or column.startswith(f"{name}.")


def _parquet_rows(file: "parquet.ParquetFile", piece: Piece | None, columns: list[str] | None) -> Iterator[Row]:
    first, rows = (piece.first, piece.rows) if piece is not None else (0, None)
    groups, before, skipped = [], 0, first
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        if before + count <= first:
            skipped = first - before - count
        elif rows is None or before < first + rows:
            groups.append(group)
        before += count
    if columns == []:  # Without columns Arrow forgets how many rows there are.
        yield from (Row({}) for _ in range(before - first if rows is None else rows))
        return
    batches = file.iter_batches(PARQUET_ROWS, groups, columns)
    yield from islice(_each(batches), skipped, None if rows is None else skipped + rows)


def _each(batches: "Iterator[pa.RecordBatch]") -> Iterator[Row]:
    for batch in batches:
        for values in batch.to_pylist():
            yield Row(values)


@contextlib.contextmanager
def sheet_rows(part: FilePart, files: Files) -> Iterator[Found]:
    """The rows of an Excel file's first sheet; rows without anything in them are none."""
    from openpyxl import load_workbook

    with opened_anywhere(part) as raw:
        book = load_workbook(raw, read_only=True, data_only=True)
        try:
            sheet = book.worksheets[0]
            # Some programs write a wrong size of the sheet into it.
            sheet.reset_dimensions()
            rows = _filled(sheet.iter_rows(values_only=True))
            header = files.columns
            if header is None:
                header = tuple("" if name is None else str(name) for name in _trimmed(next(rows, (0, ()))[1]))
            yield Found(header, _sheet_rows(rows, header))
        finally:
            book.close()


def _filled(rows: Iterator[tuple[Any, ...]]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    for number, values in enumerate(rows, 1):
        if any(value is not None for value in values):
            yield number, values


def _trimmed(values: Sequence[Any]) -> Sequence[Any]:
    """Without the empty cells at the end, which are no columns."""
    return values[: max(place for place, value in enumerate((0, *values)) if place == 0 or value is not None)]


def _sheet_rows(rows: Iterator[tuple[int, tuple[Any, ...]]], header: tuple[str, ...]) -> Iterator[Row]:
    names = header_names(header)
    columns = len(names)
    for number, values in rows:
        if any(value is not None for value in values[columns:]):
            fault = Fault("wrong number of columns", f"{len(_trimmed(values))} cells under a header of {columns}")
            yield Row({UNREAD: list(values)}, fault, number)
        else:
            cells = (*values[:columns], *[None] * (columns - len(values)))
            yield Row(dict(zip(names, cells, strict=True)), None, number)
