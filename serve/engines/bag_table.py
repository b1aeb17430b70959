"""The table of a bag: a row of numbers a feature, as fp32, fp16, int8 or 4 bits.

    tensors = packed(table_FD, "int8")                 # {"table": int8 FD, "scale": fp16 FG}
    Table(tensors).rows(np.array([3, 17]))             # float32 KD: only rows that are asked for are made

Whole numbers are symmetric around 0 and have a scale a row, or for each of a row's groups of columns. Of 4 bits two neighbours
share a byte, the first in its lower half, 8 above what they are. F features, D columns, G groups, K rows.
"""

from collections.abc import Mapping

import numpy as np

TABLE, SCALE = "table", "scale"
FLOATS = {"fp32": np.float32, "fp16": np.float16}
LARGEST_NUMBERS = {"int8": 127, "int4": 7}
"""Whole numbers go from minus this to this."""
ZERO_OF_4_BITS = 8


def packed(table_FD: np.ndarray, precision: str, group: int | None = None) -> dict[str, np.ndarray]:
    """The tensors of a table in one precision; `group`: columns that have a scale together, all of a row where None."""
    if precision in FLOATS:
        return {TABLE: np.ascontiguousarray(table_FD, dtype=FLOATS[precision])}
    features, columns = table_FD.shape
    size = columns if group is None else group
    if columns % size or (precision == "int4" and columns % 2):
        raise ValueError(f"{columns} columns are not whole groups of {size}, or no pairs, as 4 bits need")
    parts_FGS = np.asarray(table_FD, dtype=np.float32).reshape(features, -1, size)
    largest = LARGEST_NUMBERS[precision]
    scale_FG = (np.abs(parts_FGS).max(axis=2) / largest).astype(np.float16)
    # Rounded up, so that nothing is cut off; rows of zeros have some scale.
    scale_FG = np.nextafter(np.maximum(scale_FG, np.float16(1e-7)), np.float16(np.inf))
    numbers = np.rint(parts_FGS / scale_FG.astype(np.float32)[:, :, None]).clip(-largest, largest)
    whole_FD = numbers.reshape(features, columns).astype(np.int8)
    if precision == "int4":
        halves = (whole_FD + ZERO_OF_4_BITS).astype(np.uint8)
        whole_FD = halves[:, ::2] | (halves[:, 1::2] << 4)
    return {TABLE: np.ascontiguousarray(whole_FD), SCALE: scale_FG}


class Table:
    """A packed table, of which rows are read as they are needed."""

    def __init__(self, tensors: Mapping[str, np.ndarray]) -> None:
        self.table, self.scale_FG = tensors[TABLE], tensors.get(SCALE)
        self.halves = self.table.dtype == np.uint8

    @property
    def shape(self) -> tuple[int, int]:
        """Features and columns."""
        return len(self.table), self.table.shape[1] * (2 if self.halves else 1)

    def rows(self, places_K: np.ndarray) -> np.ndarray:
        """float32 KD of these features."""
        found = self.table[places_K]
        if self.scale_FG is None:
            return found.astype(np.float32, copy=False)
        if self.halves:
            found = np.stack([found & 15, found >> 4], axis=2).reshape(len(found), -1)
        whole_KD = found.astype(np.float32)
        if self.halves:
            whole_KD -= ZERO_OF_4_BITS
        scale_KG = self.scale_FG[places_K].astype(np.float32)
        if scale_KG.shape[1] == 1:
            return np.multiply(whole_KD, scale_KG, out=whole_KD)
        parts_KGS = whole_KD.reshape(len(found), scale_KG.shape[1], -1)
        return (parts_KGS * scale_KG[:, :, None]).reshape(whole_KD.shape)
