"""Near duplicates: of texts that are nearly the same one stays, so that none straddles two splits.

    near_duplicates: 0.85                       # in prepare: the Jaccard similarity of their shingles from which on texts are

    parts, found = without_near_duplicates(parts, NearDuplicates(threshold=0.85), ["text"])

MinHash with banding finds candidates, which are then compared exactly. In the order test, validation, train, and in these by
key, a row goes if it is within the threshold of one that stays: no chain of small changes takes out a text unlike all that
stay, and neither the number of CPUs nor how rows are cut into parts decides anything.

Four passes, each in tasks that hand on to the next by files beside the parts: the bands of each part; which rows meet in a
band, a range of hashes a task; the shingles of those that do, grouped by what is compared with what; the comparisons.
"""

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
from pydantic import Field, model_validator

from cluster.store import storage
from jobs.core.config import Config
from jobs.data.parts import KEY_RANGES, ROW_GROUP, RowPart, FileRange, key_ranges
from jobs.data.shingles import Shingles, band_hashes, minhash, shingles

FOUND = 0.97
"""Of pairs that are just as similar as the threshold, the share that becomes candidates; of more similar ones more."""
CHANCE = 0.05
"""Of pairs half as similar, at most the share that does."""
BAND_RECORD = np.dtype([("hash", "<u8"), ("row", "<u4")])
BANDS_AT_ONCE, SHINGLES_AT_ONCE = 2_000_000, 4_000_000
"""What one task looks through: some 50 MB."""
MOST_KEPT = 100
"""Rows of a band that stay and are compared with: thousands of them share one only where no text says anything of its own."""
ROW = (1 << 32) - 1
"""A row's number in its part, of a number that has the part's above it."""
SAMPLES, SAMPLE_CHARACTERS = 10, 200


class NearDuplicates(Config):
    """What counts as nearly the same; a number alone is the threshold."""

    threshold: float = Field(0.85, ge=0.6, le=1)
    """The least Jaccard similarity of two rows' shingles."""
    words: int = Field(2, ge=1, le=20)
    """Words in a shingle."""
    characters: int = Field(3, ge=1, le=40)
    """Characters in a shingle of a text that is mostly in a script without spaces (Chinese, Japanese, Thai, …)."""

    @model_validator(mode="before")
    @classmethod
    def _threshold_alone(cls, value: Any) -> Any:
        return {"threshold": value} if isinstance(value, int | float) and not isinstance(value, bool) else value

    def bands(self) -> tuple[int, int]:
        """How many bands, and of how many functions each: the fewest that find enough and let through little else."""
        for rows in range(1, 100):
            bands = math.ceil(math.log(1 - FOUND) / math.log1p(-(min(self.threshold, 0.99) ** rows)))
            if 1 - (1 - (self.threshold / 2) ** rows) ** bands <= CHANCE:
                break
        return bands, rows


@dataclass(frozen=True)
class NearFound:
    """The rows that go, in the order of their keys."""

    count: int
    conflicting: int
    """Those of them whose target is another than that of the row that stays."""
    samples: list[dict[str, Any]]
    """Some of them: the text that goes, the one that stays, how similar they are."""


def without_near_duplicates(
    parts: Sequence[RowPart], settings: NearDuplicates, fields: Sequence[str]
) -> tuple[list[RowPart], NearFound]:
    """The parts without rows that are nearly the same as one that stays."""
    import ray

    def tasks(function: Any, given: Sequence[tuple[Any, ...]]) -> list[Any]:
        task = ray.remote(function).options(num_cpus=1)
        return list(ray.get([task.remote(*arguments) for arguments in given]))

    written = tasks(_write_bands, [(part, settings, fields) for part in parts])
    ends, shared = np.array([own for own, _ in written]), ray.put(parts)
    components = np.zeros((0, 2), dtype=np.int64)
    meeting = ray.remote(_meeting).options(num_cpus=1)
    for answer in [meeting.remote(shared, ends, *own) for own in key_ranges(ends.sum(axis=0), BANDS_AT_ONCE)]:
        components = connected(np.concatenate([components, ray.get(answer)]))
    if not len(components):
        return list(parts), NearFound(0, 0, [])
    # How many rows have so many shingles, on average.
    at_once = SHINGLES_AT_ONCE * sum(map(len, parts)) // sum(number for _, number in written) + 1
    batches, bounds = _batches(components, at_once), _bounds(components[:, 0], len(parts))
    own = [slice(start, end) for start, end in itertools.pairwise(bounds)]
    asked = [(parts[n], n, components[own[n], 0] & ROW, batches[own[n]], settings, fields) for n in range(len(parts))]
    places: dict[int, list[FileRange]] = {}
    for lies in tasks(_write_candidates, [one for one in asked if len(one[2])]):
        for batch, place in lies.items():
            places.setdefault(batch, []).append(place)
    gone = np.sort(np.concatenate(tasks(_compared, [(found, settings.threshold) for found in places.values()])), order="row")
    left = []
    for part, (start, end) in zip(parts, itertools.pairwise(_bounds(gone["row"], len(parts))), strict=True):
        stays = part.stays
        stays[gone["row"][start:end] & ROW] = False
        left.append(part.keeping(stays, part.train_characters))
    first = gone[np.lexsort((gone["low"], gone["high"]))[:SAMPLES]]
    return left, NearFound(len(gone), int(gone["conflicting"].sum()), _samples(parts, first, fields))


def _bounds(rows: np.ndarray, parts: int) -> np.ndarray:
    """Where those of each part begin among sorted rows, and where the last ones end."""
    return np.searchsorted(rows, np.arange(parts + 1, dtype=np.int64) << 32)


def _items(part: RowPart, rows: np.ndarray, fields: Sequence[str]) -> list[tuple[str, ...]]:
    """The texts of some rows of a part, whose numbers are sorted."""
    system, path = storage.filesystem(f"{part.uri}.parquet")
    found: list[tuple[str, ...]] = []
    with parquet.ParquetFile(path, filesystem=system) as file:
        for group in np.unique(rows // ROW_GROUP).tolist():
            own = rows[rows // ROW_GROUP == group] - group * ROW_GROUP
            table = file.read_row_group(group, columns=list(fields), use_threads=False).take(own)
            found += zip(*(table[name].to_pylist() for name in fields), strict=True)
    return found


def _signatures(items: Sequence[Sequence[str]], settings: NearDuplicates) -> tuple[Shingles, np.ndarray]:
    """The shingles of items, and the hashes_BN of their bands."""
    bands, rows = settings.bands()
    found = shingles(items, settings.words, settings.characters)
    return found, band_hashes(minhash(found, bands * rows), rows)


def _write_bands(part: RowPart, settings: NearDuplicates, fields: Sequence[str]) -> tuple[np.ndarray, int]:
    """The bands of the rows that stay, sorted by hash: where each range of hashes ends, and the number of shingles."""
    rows = np.flatnonzero(part.stays)
    if not len(rows):
        return np.zeros(KEY_RANGES, dtype=np.int64), 0
    found, hashes_BN = _signatures(_items(part, rows, fields), settings)
    records = np.empty(hashes_BN.size, dtype=BAND_RECORD)
    records["hash"], records["row"] = hashes_BN.ravel(), np.tile(rows, len(hashes_BN))
    records = records[np.argsort(records["hash"])]
    storage.write_bytes(f"{part.uri}.bands", records.tobytes())
    return np.searchsorted(records["hash"] >> np.uint64(56), np.arange(KEY_RANGES), side="right"), len(found.hashes)


def _meeting(parts: Sequence[RowPart], ends: np.ndarray, first: int, end: int) -> np.ndarray:
    """Of the bands in a range of hashes: each row that meets others in one, beside the first of these; rows by their part's
    number times 2³² and their own."""
    hashes, rows = [], []
    for number, part in enumerate(parts):
        start = int(ends[number, first - 1]) if first else 0
        count = int(ends[number, end - 1]) - start
        if count:
            place = FileRange(f"{part.uri}.bands", start * BAND_RECORD.itemsize, count * BAND_RECORD.itemsize)
            records = np.frombuffer(place.read(), dtype=BAND_RECORD)
            hashes.append(records["hash"])
            rows.append((np.int64(number) << 32) + records["row"].astype(np.int64))
    if not hashes:
        return np.zeros((0, 2), dtype=np.int64)
    every, owners = np.concatenate(hashes), np.concatenate(rows)
    order = np.lexsort((owners, every))
    every, owners = every[order], owners[order]
    begins = np.flatnonzero(np.append(True, every[1:] != every[:-1]))
    leaders = np.repeat(owners[begins], np.diff(begins, append=len(every)))
    apart = owners != leaders
    return np.unique(np.stack([owners[apart], leaders[apart]], axis=1), axis=0)


def connected(pairs: np.ndarray) -> np.ndarray:
    """Each thing that is in a pair, with the least of all that pairs connect it with; sorted."""
    things, places = np.unique(pairs, return_inverse=True)
    one, other = places.reshape(-1, 2).T
    labels = np.arange(len(things))
    while True:
        least = np.minimum(labels[one], labels[other])
        before = labels.copy()
        # What has a label follows it: whole components move at once.
        np.minimum.at(labels, before[one], least)
        np.minimum.at(labels, before[other], least)
        labels = labels[labels]
        if (labels == before).all():
            return np.stack([things, things[labels]], axis=1)


def _batches(components: np.ndarray, at_once: int) -> np.ndarray:
    """The number of the batch in which each row is compared: those of a component in one, about so many rows in each."""
    _, component, sizes = np.unique(components[:, 1], return_inverse=True, return_counts=True)
    return ((np.cumsum(sizes) - sizes) // at_once)[component]


def _write_candidates(
    part: RowPart, number: int, rows: np.ndarray, batches: np.ndarray, settings: NearDuplicates, fields: Sequence[str]
) -> dict[int, FileRange]:
    """Write all that is compared of a part's rows, by batch; returns where each lies."""
    index, items = part.index(), _items(part, rows, fields)
    lies: dict[int, FileRange] = {}
    with io.BytesIO() as buffer:
        for batch in np.unique(batches).tolist():
            own = np.flatnonzero(batches == batch)
            found, hashes_BN = _signatures([items[place] for place in own], settings)
            start, whole = buffer.tell(), {"rows": (np.int64(number) << 32) + rows[own], "index": index[rows[own]]}
            with io.BytesIO() as blob:
                np.savez(blob, **whole, bands=hashes_BN.T, **found.sets()._asdict())
                buffer.write(blob.getvalue())
            lies[batch] = FileRange(f"{part.uri}.candidates", start, buffer.tell() - start)
        storage.write_bytes(f"{part.uri}.candidates", buffer.getvalue())
    return lies


def _compared(places: Sequence[FileRange], threshold: float) -> np.ndarray:
    """The rows of a batch that go."""
    read = [np.load(io.BytesIO(place.read())) for place in places]
    found: Mapping[str, Any] = {name: [one[name] for one in read] for name in ("rows", "index", "bands", "hashes", "starts")}
    before = np.cumsum([0, *(len(own) for own in found["hashes"])])
    starts = np.concatenate([own + start for own, start in zip(found["starts"], before[:-1], strict=True)])
    sets = Shingles(np.concatenate(found["hashes"]), starts)
    index, rows = np.concatenate(found["index"]), np.concatenate(found["rows"])
    goes = going(index, np.concatenate(found["bands"]), sets, threshold)
    gone = np.zeros(len(goes), dtype=GONE)
    for number, (one, stays, similarity) in enumerate(goes):
        targets = index["target"][[one, stays]]
        conflicting = bool(targets.all() and targets[0] != targets[1])
        gone[number] = (rows[one], rows[stays], similarity, conflicting, index["high"][one], index["low"][one])
    return gone


GONE = np.dtype(
    [("row", "<i8"), ("stays", "<i8"), ("similarity", "<f8"), ("conflicting", "?"), ("high", "<u8"), ("low", "<u8")]
)
"""A row that goes, the one that it is nearly the same as, how similar they are, whether their targets differ; the key."""


def going(index: np.ndarray, bands_NB: np.ndarray, sets: Shingles, threshold: float) -> list[tuple[int, int, float]]:
    """Which of some rows go, for which that stays, and how similar the two are: rows in turn, each compared with those that
    stay and share a band with it."""
    ends = np.append(sets.starts[1:], len(sets.hashes))
    own = [sets.hashes[start:end] for start, end in zip(sets.starts, ends, strict=True)]
    staying: dict[int, list[int]] = {}
    goes: list[tuple[int, int, float]] = []
    for place in np.lexsort((index["low"], index["high"], index["target"] == 0, index["rank"])).tolist():
        bands = bands_NB[place].tolist()
        for other in dict.fromkeys(one for band in bands for one in staying.get(band, ())):
            similarity = jaccard(own[place], own[other], threshold)
            if similarity >= threshold:
                goes.append((place, other, similarity))
                break
        else:
            for band in bands:
                if len(known := staying.setdefault(band, [])) < MOST_KEPT:
                    known.append(place)
    return goes


def jaccard(one: np.ndarray, other: np.ndarray, threshold: float = 0.0) -> float:
    """The similarity of two sets; 0 where their sizes alone keep it below the threshold."""
    fewer, more = sorted((len(one), len(other)))
    if fewer < threshold * more:
        return 0.0
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / (fewer + more - both)


def _samples(parts: Sequence[RowPart], gone: np.ndarray, fields: Sequence[str]) -> list[dict[str, Any]]:
    def text(row: int) -> str:
        (item,) = _items(parts[row >> 32], np.array([row & ROW]), fields)
        whole = " | ".join(item)
        return whole if len(whole) <= SAMPLE_CHARACTERS else whole[: SAMPLE_CHARACTERS - 1] + "…"

    return [
        {"dropped": text(int(one["row"])), "kept": text(int(one["stays"])), "similarity": round(float(one["similarity"]), 3)}
        for one in gone
    ]
