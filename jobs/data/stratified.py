"""Stratified splits: of each label's rows exact shares validate and test, on any cluster and in any order of the files.

    rows = stratify(rows, "label", shares)               # shares: a Split; rows without duplicates

Within a label rows stand in the order of their keys' hashes: the first test, the next validate, the rest train. Two passes,
and no text is moved: one collects labels and hashes, 8 bytes a row on the driver, the other sets the split.
"""

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

Cuts = Mapping[str, tuple[int, int]]
"""By label: the place below which its rows test, and the one below which the others validate."""


def stratify(rows: "Dataset", column: str, shares: Split) -> "Dataset":
    """The rows, those of the training split that have a value in this column divided anew, each value by itself."""
    collect = cast(Any, partial(places_by_stratum, column=column))
    strata: dict[str, list[np.ndarray]] = {}
    for found in rows.map_batches(collect, batch_format="pandas", batch_size=None).iter_rows():
        strata.setdefault(found["stratum"], []).append(np.frombuffer(found["places"], dtype=np.uint64))
    cuts = cut_points({stratum: np.concatenate(places) for stratum, places in strata.items()}, shares)
    divide = cast(Any, partial(divide_strata, column=column, cuts=cuts))
    return rows.map_batches(divide, batch_format="pandas", batch_size=None)


def places_by_stratum(frame: "pd.DataFrame", column: str) -> "pa.Table":
    """The places of the rows that are to be divided, as bytes, a row a stratum."""
    import pyarrow as pa

    places: dict[str, list[int]] = {}
    for stratum, place in zip(*_strata(frame, column), strict=True):
        places.setdefault(stratum, []).append(place)
    content = [np.array(found, dtype=np.uint64).tobytes() for found in places.values()]
    schema = pa.schema({"stratum": pa.string(), "places": pa.large_binary()})
    return pa.table({"stratum": list(places), "places": content}, schema=schema)


def cut_points(strata: Mapping[str, np.ndarray], shares: Split) -> dict[str, tuple[int, int]]:
    """Where the rows of each stratum are cut, whose places are given in any order."""
    cuts = {}
    for stratum, (test, validation) in held_rows({name: len(places) for name, places in strata.items()}, shares).items():
        place = np.sort(strata[stratum])
        cuts[stratum] = int(place[test]), int(place[test + validation])
    return cuts


def divide_strata(frame: "pd.DataFrame", column: str, cuts: Cuts) -> "pd.DataFrame":
    """The rows with the split that their stratum's cuts give them."""
    splits = []
    for stratum, place in zip(*_strata(frame, column), strict=True):
        test, validation = cuts[stratum]
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


def _strata(frame: "pd.DataFrame", column: str) -> tuple[list[str], list[int]]:
    """Stratum and place of each row that is to be divided."""
    part = frame[_divisible(frame, column)]
    return [written_as(value) for value in part[column]], [place_of(key) for key in part["key"]]
