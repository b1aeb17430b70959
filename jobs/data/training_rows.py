"""Loading: packed tokens and examples, and the order in which they are seen.

The order depends on (seed, epoch) alone: global batch k is a slice of one permutation, and each worker takes
its part of the slice, so any number of workers sees the same batches.

N rows, T tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from cluster.store.artifact import Artifact

GROUPED_BATCHES = 32
"""Batches whose examples are sorted by length together: enough to save padding, few enough to stay random."""
FEISTEL_ROUNDS = 6
Asked = TypeVar("Asked")
Made = TypeVar("Made")


class TokenRows:
    """The packed rows of one split, memory-mapped: rows are read when they are asked for."""

    def __init__(self, tokens: Artifact, split: str) -> None:
        paths = tokens.files(f"{split}/", ".npy")
        directory = tokens.local(paths)
        self.parts = [np.load(directory / path, mmap_mode="r") for path in paths]
        self.ends = np.cumsum([len(part) for part in self.parts]) if self.parts else np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """ids_NT (int64) of the rows with these numbers."""
        owners = np.searchsorted(self.ends, indices, side="right")
        starts = np.concatenate([[0], self.ends[:-1]])
        return np.stack([self.parts[o][i - starts[o]] for o, i in zip(owners, indices, strict=True)]).astype(np.int64)


def row_length(tokens: Artifact) -> int:
    """The tokens of each row, padding included."""
    return int(tokens.manifest.details["max_length"])


def read_examples(examples: Artifact, split: str) -> pa.Table:
    """The rows of one split: key, the task's texts and targets, slices; empty where the split is not there."""
    paths = examples.files(f"{split}/", ".parquet")
    if not paths:
        others = [path for path in examples.manifest.files if path.endswith(".parquet")][:1]
        return parquet.read_schema(examples.local(others) / others[0]).empty_table()
    directory = examples.local(paths)
    return pa.concat_tables([parquet.read_table(directory / path) for path in paths]).combine_chunks()


def steps_per_epoch(size: int, batch_size: int) -> int:
    """Whole batches in an epoch; the rest is seen in other epochs, since each has an order of its own."""
    return max(1, size // batch_size)


def epoch_batches(
    size: int, batch_size: int, seed: int, epoch: int, lengths: Sequence[int] | None = None
) -> Iterator[np.ndarray]:
    """The batches of one epoch as arrays of example numbers; with lengths, batches of similar length."""
    count = steps_per_epoch(size, batch_size)
    if lengths is None:
        for number in range(count):
            yield shuffled(np.arange(number * batch_size, min(size, (number + 1) * batch_size)), size, (seed, epoch))
        return
    # What an epoch leaves out is cut off before the grouping, which would always leave out the longest.
    order = shuffled(np.arange(min(size, count * batch_size)), size, (seed, epoch))
    sizes, span = np.asarray(lengths), GROUPED_BATCHES * batch_size
    groups = [order[start : start + span] for start in range(0, len(order), span)]
    order = np.concatenate([group[np.argsort(sizes[group], kind="stable")] for group in groups])
    for number in shuffled(np.arange(count), count, (seed, epoch, 1)):
        yield order[number * batch_size : (number + 1) * batch_size]


def shuffled(places: np.ndarray, size: int, seed: Sequence[int]) -> np.ndarray:
    """What stands at these places of a permutation of range(size), which is never made: it costs no memory.

    A Feistel network over the next power of 4, walked until it falls inside (Black & Rogaway 2002).
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    keys = np.random.default_rng(seed).integers(2**63, size=FEISTEL_ROUNDS, dtype=np.uint64)
    values, walking = places.astype(np.uint64), np.ones(len(places), dtype=bool)
    while walking.any():
        left, right = values[walking] >> half, values[walking] & mask
        for key in keys:
            left, right = right, left ^ (mixed_bits(right ^ key) & mask)
        values[walking] = (left << half) | right
        walking = values >= size
    return values.astype(np.int64)


def mixed_bits(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al. 2014): every bit depends on every bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def ahead(asked: Iterable[Asked], make: Callable[[Asked], Made]) -> Iterator[tuple[Asked, Made]]:
    """Each thing with what is made of it; the next is made in a thread while this one is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="loader") as thread:
        pending = None
        for one in asked:
            coming = one, thread.submit(make, one)
            if pending is not None:
                yield pending[0], pending[1].result()
            pending = coming
        if pending is not None:
            yield pending[0], pending[1].result()
