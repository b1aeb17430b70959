"""What is read as one, wherever it lies: a file, a piece of a large one, a part of a hub's data set."""

from collections.abc import Iterator, Sequence

from jobs.data.formats import Files, parts_of
from jobs.data.hub import Shard, hub_rows
from jobs.data.pieces import Piece, Row
from jobs.data.records import read

Unit = str | Piece | Shard


def rows_of(unit: Unit, files: Files, columns: Sequence[str]) -> Iterator[tuple[str, int, Iterator[Row]]]:
    """The rows, of each file that is in it: its name, the number of its first row, and they. `columns` are needed."""
    if isinstance(unit, Shard):
        yield unit.name, unit.first, hub_rows(unit)
        return
    for piece in [unit] if isinstance(unit, Piece) else [Piece(part) for part in parts_of(unit)]:
        yield piece.part.name, piece.first, read(piece, files, columns)
