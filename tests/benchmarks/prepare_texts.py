"""Made-up documents for the benchmarks of prepare: words of a vocabulary as often as in natural text, from a seed.

python -m tests.benchmarks.prepare_texts FILE BYTES      write a CSV of text and label; some of its rows are nearly others
"""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

VOCABULARY, WORDS = 30_000, 80
SAME, NEAR = 0.02, 0.05
"""Shares of the rows that are another one again, and but for one word."""
BATCH = 2_000


def vocabulary(script: str, draw: np.random.Generator) -> np.ndarray:
    """Units of text, the most frequent first: words of English letters, or Chinese characters."""
    if script == "chinese":
        return np.array([chr(0x4E00 + number) for number in range(6_000)], dtype=object)
    letters, lengths = draw.integers(97, 123, (2 * VOCABULARY, 9), dtype=np.uint8), draw.integers(2, 10, 2 * VOCABULARY)
    words = dict.fromkeys(bytes(row[:length]).decode() for row, length in zip(letters, lengths, strict=True))
    return np.array(list(words)[:VOCABULARY], dtype=object)


def units(count: int, known: int, draw: np.random.Generator) -> np.ndarray:
    """Numbers of so many units: each as often as its rank says (Zipf 1935)."""
    return (known ** draw.random(count)).astype(np.int64) - 1


def documents(size: int, seed: int = 0) -> Iterator[list[str]]:
    """English documents of some 500 characters, of so many bytes together, some thousand at a time."""
    draw = np.random.default_rng(seed)
    words, made = vocabulary("english", draw), 0
    while made < size:
        rows = words[units(BATCH * WORDS, len(words), draw)].reshape(BATCH, WORDS)
        again = draw.random(BATCH)
        sources = draw.integers(0, BATCH, BATCH)
        near = np.flatnonzero(again < SAME + NEAR)
        rows[near] = rows[sources[near]]
        changed = np.flatnonzero(again < NEAR)
        rows[changed, draw.integers(0, WORDS, len(changed))] = words[draw.integers(0, len(words), len(changed))]
        texts = [" ".join(row) for row in rows.tolist()]
        made += sum(map(len, texts))
        yield texts


def write_csv(file: Path, size: int) -> int:
    """Documents as rows of a CSV; returns how many."""
    rows = 0
    with open(file, "w", newline="", encoding="utf-8") as target:
        writer = csv.writer(target)
        writer.writerow(["text", "label"])
        for texts in documents(size):
            writer.writerows((text, "early" if text < "m" else "late") for text in texts)
            rows += len(texts)
    return rows


def planted(script: str, pairs: int, seed: int = 0) -> list[tuple[str, str]]:
    """Pairs of texts, the second changed at rates that make them similar from 0.6 up to nearly 1."""
    draw = np.random.default_rng(seed)
    known = vocabulary(script, draw)
    glue, made = "" if script == "chinese" else " ", []
    for rate in draw.uniform(0.0, 0.12, pairs):
        first = units(int(draw.integers(40, 200)), len(known), draw)
        second = np.where(draw.random(len(first)) < rate, units(len(first), len(known), draw), first)
        if (first != second).any():
            made.append((glue.join(known[first]), glue.join(known[second])))
    return made


if __name__ == "__main__":
    print(write_csv(Path(sys.argv[1]), int(float(sys.argv[2]))))
