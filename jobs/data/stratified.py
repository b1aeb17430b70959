"""Stratified splits: of each label's rows exact shares validate and test, on any cluster and in any order of the files.

    rows = stratify(rows, "label", shares)               # shares: a Split; rows without duplicates

Within a label rows stand in the order of their keys' hashes: the first test, the next validate, the rest train. A row of
several labels counts as one of its rarest: what there is little of is divided exactly, and frequent labels come near their
shares by themselves (Sechidis et al. 2011 begin with the rarest too). Two passes, and no text is moved: one collects labels
and hashes, 8 bytes a row on the driver, the other sets the split.
"""

from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from jobs.data.splits import Split, place_of
from jobs.data.values import written_as

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from ray.data import Dataset

RowValues = tuple[str, ...]
"""The labels of a row; of kinds of one label a row, that one."""
Cuts = Mapping[RowValues, tuple[int, int]]
"""By the labels of rows: the place below which such rows test, and the one below which the others validate."""


def stratify(rows: "Dataset", column: str, shares: Split) -> "Dataset":
    """The rows, those of the training split that have a value in this column divided anew, each value by itself. Of lists, by
    the rarest value of each."""
    collect = cast(Any, partial(places_by_values, column=column))
    places: dict[RowValues, list[np.ndarray]] = {}
    for found in rows.map_batches(collect, batch_format="pandas", batch_size=None).iter_rows():
        places.setdefault(tuple(found["values"]), []).append(np.frombuffer(found["places"], dtype=np.uint64))
    cuts = cut_points({values: np.concatenate(own) for values, own in places.items()}, shares)
    divide = cast(Any, partial(divide_strata, column=column, cuts=cuts))
    return rows.map_batches(divide, batch_format="pandas", batch_size=None)


def places_by_values(frame: "pd.DataFrame", column: str) -> "pa.Table":
    """The places of the rows that are to be divided, as bytes, by the values that rows have."""
    import pyarrow as pa

    places: dict[RowValues, list[int]] = {}
    for values, place in zip(*_values_and_places(frame, column), strict=True):
        places.setdefault(values, []).append(place)
    content = [np.array(found, dtype=np.uint64).tobytes() for found in places.values()]
    schema = pa.schema({"values": pa.list_(pa.string()), "places": pa.large_binary()})
    return pa.table({"values": [list(values) for values in places], "places": content}, schema=schema)


def cut_points(places: Mapping[RowValues, np.ndarray], shares: Split) -> dict[RowValues, tuple[int, int]]:
    """Where rows are cut, by the values that they have; their places are given in any order."""
    strata: dict[str, list[RowValues]] = {}
    for values, stratum in _rarest({values: len(own) for values, own in places.items()}).items():
        strata.setdefault(stratum, []).append(values)
    sizes = {stratum: sum(len(places[values]) for values in each) for stratum, each in strata.items()}
    cuts: dict[RowValues, tuple[int, int]] = {}
    for stratum, (test, validation) in held_rows(sizes, shares).items():
        place = np.sort(np.concatenate([places[values] for values in strata[stratum]]))
        cuts |= dict.fromkeys(strata[stratum], (int(place[test]), int(place[test + validation])))
    return cuts


def divide_strata(frame: "pd.DataFrame", column: str, cuts: Cuts) -> "pd.DataFrame":
    """The rows with the split that the cuts give them."""
    splits = []
    for values, place in zip(*_values_and_places(frame, column), strict=True):
        test, validation = cuts[values]
        splits.append("test" if place < test else "validation" if place < validation else "train")
    frame = frame.copy()
    frame.loc[_divisible(frame, column), "split"] = splits
    return frame


def held_rows(sizes: Mapping[str, int], shares: Split) -> dict[str, tuple[int, int]]:
    """How many rows of each stratum test and validate.

    Each number is its share rounded up or down: over the strata, by name, so that the numbers of all come to the share of all,
    and small strata are not all rounded to none. At least one row trains, so that a stratum of one row does.
    """
    wanted = [Fraction(str(shares.test)), Fraction(str(shares.validation))]
    counted, before, held = 0, [0, 0], {}
    for stratum in sorted(sizes):
        size = sizes[stratum]
        counted += size
        upto = [_rounded(counted * share) for share in wanted]
        taken = [now - earlier for now, earlier in zip(upto, before, strict=True)]
        before = upto
        while sum(taken) >= size:
            above = [count - size * share for count, share in zip(taken, wanted, strict=True)]
            taken[above.index(max(above))] -= 1
        held[stratum] = (taken[0], taken[1])
    return held


def _rounded(number: Fraction) -> int:
    return int(number + Fraction(1, 2))


def _divisible(frame: "pd.DataFrame", column: str) -> np.ndarray:
    found: np.ndarray = ((frame["split"] == "train") & frame[column].notna()).to_numpy(dtype=bool)
    return found


def _rarest(rows: Mapping[RowValues, int]) -> dict[RowValues, str]:
    """The value that the fewest rows have, of equally rare ones the first by name; rows without any are a stratum too."""
    counts: Counter[str] = Counter()
    for values, count in rows.items():
        counts.update(dict.fromkeys(values, count))
    return {values: min(values, key=lambda value: (counts[value], value), default="") for values in rows}


def _values_and_places(frame: "pd.DataFrame", column: str) -> tuple[list[RowValues], list[int]]:
    """Of each row that is to be divided."""
    part = frame[_divisible(frame, column)]
    return [_values(value) for value in part[column]], [place_of(key) for key in part["key"]]


def _values(value: Any) -> RowValues:
    return tuple(map(written_as, value)) if isinstance(value, list | tuple | np.ndarray) else (written_as(value),)
