"""The sets of BENCH=front: which files of DATA each one needs, its rows, few of them with a label, and how its teacher learns.

    SETS["banking77"].write(Path("data"), Path("rows"), limit=None)       # the recipe's source, by split

IMDB comes through pip; no text of the others is in this repository. Rows are chosen by their hashes, so that they are the same
whatever order they come in.
"""

import csv
import gzip
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.benchmarks.kinds_sets import MINILM, SMALL_BASE, Row, Unfit, lowest_hashes, table_rows

UNLABELLED, TESTED = 6000, 2000
"""Rows whose labels are kept back, and rows that are judged by, at most."""


@dataclass(frozen=True)
class FrontSet:
    """One set with few labels."""

    files: tuple[str, ...]
    """What the directory has of it; none where it comes through pip."""
    read: Callable[[Path], tuple[list[Row], list[Row]]]
    """Its rows with text and label: those to learn from, and those to test with (none: they are taken of the others)."""
    labelled: int
    """So many of the rows to learn from keep their label,"""
    by_label: bool = False
    """of each label."""
    max_length: int = 64
    """As many tokens as its texts need: of none but IMDB's are more than a tenth longer."""
    base: Mapping[str, Any] | None = None
    """What the recipe says of the base where it is pretrained here, on the texts without a label."""
    rates: tuple[float, ...] = (1e-4, 2e-4, 4e-4)
    epochs: int = 6
    """Of the teacher; the student's are over more rows and fewer."""
    student_epochs: int = 4
    student: Mapping[str, Any] = field(default_factory=lambda: {"layers": [0, 2, 5]})
    """The small transformer: layers of the teacher."""
    model: str = MINILM

    def tried(self) -> "FrontSet":
        """The same with next to no training: to see that it runs."""
        return replace(self, rates=self.rates[:1], epochs=1, student_epochs=1)

    def write(self, directory: Path | None, place: Path, limit: int | None) -> dict[str, str]:
        """Its rows as JSON Lines; returns the recipe's source. Unfit where files are missing."""
        if missing := [name for name in self.files if directory is None or not (directory / name).is_file()]:
            raise Unfit(f"DATA={directory or ''} lacks {', '.join(missing)}; this set has {', '.join(self.files)}")
        rows, test = self.read(directory or Path())
        rows = lowest_hashes(rows, len(rows))
        if not test:
            rows, test = rows[TESTED:], rows[:TESTED]
        labelled, others = self._labelled(rows)
        parts = {"train": labelled, "unlabelled": [{"text": row["text"]} for row in others[:UNLABELLED]], "test": test}
        source = {}
        for split, own in parts.items():
            source[split] = str(place / f"{split}.jsonl")
            # Those with a label are few as it is, and each label must be among them.
            most = len(own) if limit is None or split == "train" else limit
            lines = (json.dumps(row, ensure_ascii=False) for row in lowest_hashes(own, most))
            Path(source[split]).write_text("".join(f"{line}\n" for line in lines))
        return source

    def _labelled(self, rows: list[Row]) -> tuple[list[Row], list[Row]]:
        """The rows that keep their label, and all others."""
        seen: Counter[str] = Counter()
        kept, others = list[Row](), list[Row]()
        for row in rows:
            counted = row["label"] if self.by_label else ""
            (kept if seen[counted] < self.labelled else others).append(row)
            seen[counted] += 1
        return kept, others


def _imdb(_: Path) -> tuple[list[Row], list[Row]]:
    from jobs.data.samples import fetch_sample

    with open(fetch_sample("imdb") / "imdb.csv", encoding="utf-8", newline="") as file:
        rows = [{"text": row["review"].replace("<br />", " "), "label": row["sentiment"]} for row in csv.DictReader(file)]
    return rows, []


def _sst2(directory: Path) -> tuple[list[Row], list[Row]]:
    """Training rows of fewer words than sentences have are phrases cut out of them, and are left out."""
    train, test = (
        [{"text": row["sentence"].strip(), "label": row["label"]} for row in table_rows(directory / file, "\t")]
        for file in ("train.tsv.gz", "dev.tsv")
    )
    return [row for row in train if len(row["text"].split()) >= LEAST_WORDS], test


def _banking77(directory: Path) -> tuple[list[Row], list[Row]]:
    return [{"text": row["text"], "label": row["category"]} for row in table_rows(directory / "train.csv.gz", ",")], []


def _online_shopping(directory: Path) -> tuple[list[Row], list[Row]]:
    rows = table_rows(directory / "online_shopping_10_cats.csv.gz", ",")
    found = {row["review"].strip(): "good" if row["label"] == "1" else "bad" for row in rows}
    return [{"text": text, "label": label} for text, label in found.items() if text], []


def _inews(directory: Path) -> tuple[list[Row], list[Row]]:
    """Chinese news of three tones: the title and how the news begins."""

    def rows(file: str) -> list[Row]:
        lines = gzip.decompress((directory / file).read_bytes()).decode().splitlines()
        return [{"text": f"{row['title']} {row['content']}", "label": str(row["label"])} for row in map(json.loads, lines)]

    return rows("train.jsonl.gz"), rows("dev.jsonl.gz")


LEAST_WORDS = 10
CHINESE_BASE: dict[str, Any] = {**SMALL_BASE, "model": {"layers": 4, "hidden": 256, "heads": 4, "dropout": 0.1}}

SETS: dict[str, FrontSet] = {
    "imdb": FrontSet((), _imdb, 1000, max_length=256, rates=(1e-4, 3e-4), epochs=4, student_epochs=2),
    "sst2": FrontSet(("train.tsv.gz", "dev.tsv"), _sst2, 2000, epochs=4),
    "banking77": FrontSet(("train.csv.gz",), _banking77, 10, by_label=True, rates=(2e-4, 4e-4), epochs=20, student_epochs=8),
    "online_shopping": FrontSet(
        ("online_shopping_10_cats.csv.gz",),
        _online_shopping,
        2000,
        base=CHINESE_BASE,
        rates=(2e-4, 5e-4),
        student={"layers": [0, 1]},
        model="pretrained here",
    ),
    "inews": FrontSet(
        ("train.jsonl.gz", "dev.jsonl.gz"),
        _inews,
        2000,
        max_length=256,
        base=CHINESE_BASE,
        rates=(2e-4, 5e-4),
        student={"layers": [0, 1]},
        model="pretrained here",
    ),
}
