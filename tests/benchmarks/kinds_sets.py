"""The sets of BENCH=kinds: which files of DATA each one needs, its rows, the task that they are for, and how it is trained.

    found = SETS["banking77"]
    found.write(Path("data"), Path("rows"), limit=None)       # train.jsonl and so on, by split

No text of theirs is in this repository. Where a set has more rows than are taken, those with the lowest hashes are.
"""

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

Row = dict[str, Any]
MINILM = "sample:minilm_l6"


class Unfit(Exception):
    """The directory is not one of this set; the message says what is missing."""


@dataclass(frozen=True)
class DataSet:
    """One set and its task."""

    files: tuple[str, ...]
    """What the directory has of it."""
    read: Callable[[Path], dict[str, list[Row]]]
    """Its rows by split."""
    prepare: Mapping[str, Any]
    """What the recipe says of the rows: text, task, split."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """How many rows are taken of a split; of others all."""
    model: str = MINILM
    max_length: int = 64
    batch_size: int = 32
    steps: int = 100
    """Of each training that is compared with the loop."""
    rate: float = 2e-4
    further_epochs: int = 3
    """The teacher of the student learns on from the first of these for so long."""
    student_epochs: int = 4
    student: Mapping[str, Any] = field(default_factory=lambda: {"layers": [0, 1, 2], "feed_forward": 0.5})
    """What the recipe says of the student."""
    note: str = ""
    """What a reader of its figures must know."""

    def tried(self) -> "DataSet":
        """The same with next to no training: to see that it runs."""
        return replace(self, steps=4, further_epochs=1, student_epochs=1)

    @property
    def kind(self) -> str:
        """The kind of its task."""
        return str(self.prepare["task"]["kind"])

    def write(self, directory: Path, place: Path, limit: int | None) -> dict[str, str]:
        """Its rows as JSON Lines, at most `limit` of a split; returns the recipe's source. Unfit where files are missing."""
        if missing := [name for name in self.files if not (directory / name).is_file()]:
            raise Unfit(f"{directory} lacks {', '.join(missing)}; this set has {', '.join(self.files)}")
        source = {}
        for split, rows in self.read(directory).items():
            most = [count for count in (self.counts.get(split), limit) if count is not None]
            chosen = lowest_hashes(rows, min(most)) if most else rows
            source[split] = str(place / f"{split}.jsonl")
            Path(source[split]).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen))
        return source


def lowest_hashes(rows: list[Row], count: int) -> list[Row]:
    """So many rows, the same ones whatever order they come in."""
    return sorted(rows, key=lambda row: hashlib.sha256(json.dumps(row, sort_keys=True).encode()).digest())[:count]


def _table(file: Path, delimiter: str, names: list[str] | None = None) -> list[dict[str, str]]:
    """The rows of a table; without names its first line has them."""
    content = file.read_bytes()
    text = (gzip.decompress(content) if file.suffix == ".gz" else content).decode("utf-8-sig")
    quoting: Any = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    return list(csv.DictReader(io.StringIO(text, newline=""), names, delimiter=delimiter, quoting=quoting))


def _goemotions(directory: Path) -> dict[str, list[Row]]:
    names = (directory / "labels.txt").read_text().split()

    def rows(file: str) -> list[Row]:
        found = _table(directory / file, "\t", ["text", "numbers", "id"])
        return [{"text": row["text"], "labels": [names[int(one)] for one in row["numbers"].split(",")]} for row in found]

    train = lowest_hashes(rows("train.tsv.gz"), EMOTIONS + UNLABELLED)
    unlabelled = [{"text": row["text"]} for row in train[EMOTIONS:]]
    return {"train": train[:EMOTIONS], "unlabelled": unlabelled, "test": rows("dev.tsv.gz")}


def _banking77(directory: Path) -> dict[str, list[Row]]:
    rows = [{"text": row["text"], "label": row["category"]} for row in _table(directory / "train.csv.gz", ",")]
    rows = lowest_hashes(rows, len(rows))
    return {"train": rows[:INTENTS], "unlabelled": [{"text": row["text"]} for row in rows[INTENTS:]]}


def _sick(directory: Path) -> dict[str, list[Row]]:
    def rows(file: str) -> list[Row]:
        names = ("sentence_A", "sentence_B", "relatedness_score")
        found = [{name: row[name].strip() for name in names} for row in _table(directory / file, "\t")]
        return [{**row, "rounded": str(round(float(row["relatedness_score"])))} for row in found]

    return {"train": rows("train.tsv.gz"), "test": rows("trial.tsv")}


EMOTIONS, UNLABELLED = 6000, 4000
"""Of GoEmotions: rows with their labels, and texts without from which the student learns too."""
INTENTS = 6000
"""Of BANKING77: rows with their labels; of the others the student learns without."""
PAIRS: dict[str, Any] = {"text": "sentence_A", "split": {"validation": 0.05}}

SETS: dict[str, DataSet] = {
    "goemotions": DataSet(
        ("train.tsv.gz", "dev.tsv.gz", "labels.txt"),
        _goemotions,
        {"task": {"kind": "multi_label", "labels": "labels"}, "split": {"validation": 0.15}},
        {"test": 2000},
        further_epochs=2,
        student_epochs=3,
    ),
    "banking77": DataSet(
        ("train.csv.gz",),
        _banking77,
        {"task": {"kind": "classification", "label": "label"}, "split": {"validation": 0.1, "test": 0.2}},
        steps=200,
    ),
    "sick": DataSet(
        ("train.tsv.gz", "trial.tsv"),
        _sick,
        PAIRS
        | {"task": {"kind": "regression", "value": "relatedness_score", "pair": "sentence_B", "least": 1, "greatest": 5}},
        student_epochs=6,
    ),
    "sick_ordinal": DataSet(
        ("train.tsv.gz", "trial.tsv"),
        _sick,
        PAIRS | {"task": {"kind": "ordinal", "label": "rounded", "pair": "sentence_B"}},
        student_epochs=6,
        note="relatedness is rounded to 1, 2, 3, 4 or 5",
    ),
}
