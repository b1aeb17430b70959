"""What a reader gives and is given: rows, and pieces of files that hold rows which follow each other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jobs.data.delimited import header_names
from jobs.data.formats import FilePart
from jobs.data.lines import Fault

UNREAD = "line"
"""The column under which a row stands that could not be read."""


class Row(NamedTuple):
    """A row as it was found. `fault` says why it could not be read; then `values` has only the line."""

    values: Mapping[str, Any]
    fault: Fault | None = None
    line: int = 0
    """Where it begins in the file, from 1; of Excel files the number of the row in the sheet; 0 for Parquet."""
    end: int = 0
    """Where the bytes behind it begin; only where a file is cut by bytes."""
    next_line: int = 0
    """And the line behind it."""
    unlabelled: bool = False
    """Whether the tool that it comes from says that nobody has annotated it."""


@dataclass(frozen=True)
class Piece:
    """Rows of a file that follow each other."""

    part: FilePart
    first: int = 0
    """The number of its first row in the file, from 0."""
    rows: int | None = None
    """None: all that follow."""
    header: tuple[str, ...] = ()
    """The columns of a file that names them at its top, as they stand there."""
    start: int = 0
    end: int | None = None
    """Where its bytes are in the unpacked file; 0 and None where it is cut by rows."""
    line: int = 0
    """How many lines are before it."""

    def __len__(self) -> int:
        assert self.rows is not None, "only a scan knows it"
        return self.rows

    @property
    def by_bytes(self) -> bool:
        """Whether it is a stretch of bytes."""
        return self.end is not None


@dataclass(frozen=True)
class Scanned:
    """A file's columns in their order (of JSON: all that any row has), and what it is cut into."""

    columns: tuple[str, ...]
    pieces: tuple[Piece, ...]
    types: str = ""
    """The schema of a Parquet file."""
    twice: tuple[str, ...] = ()
    """Columns that stand in the header more than once."""


class Found(NamedTuple):
    """What was opened."""

    header: tuple[str, ...] | None
    """The columns as they stand in the file; None where each row has its own."""
    rows: Iterator[Row]
    by_bytes: bool = False
    """Whether it can be cut between any two rows."""
    start: int = 0
    """Where the first row begins, behind a mark and a header."""
    line: int = 0
    """How many lines are before it."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns under which values are found, where the file names them."""
        return header_names(self.header or ())

    @property
    def twice(self) -> tuple[str, ...]:
        """Columns that the header has more than once."""
        return repeated(self.columns)


def repeated(names: Sequence[str]) -> tuple[str, ...]:
    """Those that are there more than once."""
    return tuple(dict.fromkeys(name for name in names if names.count(name) > 1))
