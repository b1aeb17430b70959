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

from cluster.artifact import Artifact

GROUPED_BATCHES = 32
"""Batches whose examples are sorted by length together: enough to save padding, few enough to stay random."""
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


def read_examples(examples: Artifact, split: str) -> pa.Table:
    """The rows of one split: key, text, label; empty where the split is not there."""
    paths = examples.files(f"{split}/", ".parquet")
    directory = examples.local(paths)
    tables = [parquet.read_table(directory / path) for path in paths]
    if not tables:
        return pa.table(
            {"key": pa.array([], pa.string()), "text": pa.array([], pa.string()), "label": pa.array([], pa.string())}
        )
    return pa.concat_tables(tables).combine_chunks()


def steps_per_epoch(size: int, batch_size: int) -> int:
    """Whole batches in an epoch; the rest is seen in other epochs, since each has an order of its own."""
    return max(1, size // batch_size)


def epoch_batches(
    size: int, batch_size: int, seed: int, epoch: int, lengths: Sequence[int] | None = None
) -> Iterator[np.ndarray]:
    """The batches of one epoch as arrays of example numbers; with lengths, batches of similar length."""
    generator = np.random.default_rng([seed, epoch])
    count = steps_per_epoch(size, batch_size)
    # What an epoch leaves out is cut off before the grouping, which would always leave out the longest.
    order = generator.permutation(size)[: count * batch_size]
    if lengths is not None:
        sizes = np.asarray(lengths)
        span = GROUPED_BATCHES * batch_size
        groups = [order[start : start + span] for start in range(0, len(order), span)]
        order = np.concatenate([group[np.argsort(sizes[group], kind="stable")] for group in groups])
    numbers = generator.permutation(count) if lengths is not None else np.arange(count)
    for number in numbers:
        yield order[number * batch_size : (number + 1) * batch_size]


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
