"""An even sample of rows, for the data report: each block gives its part of it as it is written, small enough for one place.

    sampling = RowSampling.of(rows=200_000, fields=["text"])
    part = sampling.part(table)                 # in each task: bytes
    sample = joined(parts)                      # a table of at most about SAMPLED_ROWS rows

Whether a row is taken hangs on its key alone, so that the sample is the same however rows are divided among tasks.
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from jobs.data.words import WORDS

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLED_ROWS, WHOLE_ROWS = 50_000, 2_000
"""Of the second ones the texts are kept whole, as what a target says may need them; they are among the first."""
CUT = 1_000
"""Characters that are kept of all other texts; their lengths are those of all."""
CHARACTERS, WORD_COUNT, WHOLE = "characters", "words", "whole"
"""Columns of the sample: the lengths of a row's texts together, and whether they are whole."""


@dataclass(frozen=True)
class RowSampling:
    """Which rows are taken, and what of them."""

    share: float
    """Of the rows."""
    whole_share: float
    fields: Sequence[str]
    """The columns of texts."""
    targets: Sequence[str] = ()

    @classmethod
    def of(cls, rows: int, fields: Iterable[str], targets: Iterable[str] = ()) -> Self:
        """Of so many rows about SAMPLED_ROWS, or all."""
        share, whole = (min(1.0, count / max(1, rows)) for count in (SAMPLED_ROWS, WHOLE_ROWS))
        return cls(share, whole, tuple(fields), tuple(targets))

    def part(self, table: "pa.Table") -> bytes:
        """What is taken of these rows, as Parquet."""
        import pyarrow as pa
        import pyarrow.parquet as parquet

        taken = [place for place, key in enumerate(table["key"].to_pylist()) if position(key) < self.share]
        table = table.select(["key", *self.fields, *self.targets, "split"]).take(pa.array(taken, pa.int64()))
        texts = {name: [text or "" for text in table[name].to_pylist()] for name in self.fields}
        whole = [position(key) < self.whole_share for key in table["key"].to_pylist()]
        lengths = {CHARACTERS: [0] * len(taken), WORD_COUNT: [0] * len(taken)}
        for name, column in texts.items():
            for place, text in enumerate(column):
                lengths[CHARACTERS][place] += len(text)
                lengths[WORD_COUNT][place] += sum(1 for _ in WORDS.finditer(text))
            cut = pa.array([text if uncut else text[:CUT] for text, uncut in zip(column, whole, strict=True)], pa.string())
            table = table.set_column(table.column_names.index(name), name, cut)
        for name, numbers in lengths.items():
            table = table.append_column(name, pa.array(numbers, pa.int64()))
        table = table.append_column(WHOLE, pa.array(whole, pa.bool_()))
        buffer = io.BytesIO()
        parquet.write_table(table.replace_schema_metadata(), buffer, compression="zstd")
        return buffer.getvalue()


def joined(parts: Iterable[bytes]) -> "pa.Table":
    """All parts, in the order of the rows' positions, which says nothing of them: its first rows are a sample too."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    table = pa.concat_tables([parquet.read_table(io.BytesIO(part)) for part in parts], promote_options="permissive")
    keys = table["key"].to_pylist()
    order = sorted(range(len(keys)), key=lambda place: (position(keys[place]), keys[place]))
    return table.take(pa.array(order, pa.int64()))


def position(key: str) -> float:
    """Where a key stands between 0 and 1, by digits by which rows are neither sorted nor divided among splits."""
    return int(key[-8:], 16) / 2**32
