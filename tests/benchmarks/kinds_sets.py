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
    steps: int = 150
    """Of each training that is compared with the loop."""
    rate: float = 2e-4
    further_epochs: int = 3
    """The teacher of the student learns on from the first of these for so long."""
    student_epochs: int = 4
    student: Mapping[str, Any] = field(default_factory=lambda: {"layers": [0, 1, 2], "feed_forward": 0.5})
    """What the recipe says of the student."""
    base: Mapping[str, Any] | None = None
    """What the recipe says of the base where it is pretrained here, on the texts of the split `corpus`."""
    parts: tuple[str, ...] = ("against_loop", "winner")
    """What is measured: kinds.py says by what."""
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


def table_rows(file: Path, delimiter: str, names: list[str] | None = None) -> list[dict[str, str]]:
    """The rows of a table; without names its first line has them."""
    content = file.read_bytes()
    text = (gzip.decompress(content) if file.suffix == ".gz" else content).decode("utf-8-sig")
    quoting: Any = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    return list(csv.DictReader(io.StringIO(text, newline=""), names, delimiter=delimiter, quoting=quoting))


def _goemotions(directory: Path) -> dict[str, list[Row]]:
    names = (directory / "labels.txt").read_text().split()

    def rows(file: str) -> list[Row]:
        found = table_rows(directory / file, "\t", ["text", "numbers", "id"])
        return [{"text": row["text"], "labels": [names[int(one)] for one in row["numbers"].split(",")]} for row in found]

    train = lowest_hashes(rows("train.tsv.gz"), EMOTIONS + UNLABELLED)
    unlabelled = [{"text": row["text"]} for row in train[EMOTIONS:]]
    return {"train": train[:EMOTIONS], "unlabelled": unlabelled, "test": rows("dev.tsv.gz")}


def _banking77(directory: Path) -> dict[str, list[Row]]:
    rows = [{"text": row["text"], "label": row["category"]} for row in table_rows(directory / "train.csv.gz", ",")]
    rows = lowest_hashes(rows, len(rows))
    return {"train": rows[:INTENTS], "unlabelled": [{"text": row["text"]} for row in rows[INTENTS:]]}


def _sick(directory: Path) -> dict[str, list[Row]]:
    def rows(file: str) -> list[Row]:
        names = ("sentence_A", "sentence_B", "relatedness_score")
        found = [{name: row[name].strip() for name in names} for row in table_rows(directory / file, "\t")]
        return [{**row, "rounded": str(round(float(row["relatedness_score"])))} for row in found]

    return {"train": rows("train.tsv.gz"), "test": rows("trial.tsv")}


def _banking77_none(directory: Path) -> dict[str, list[Row]]:
    """Rows of the intents that are kept out are there in the test alone."""
    rows = [row for row in _banking77(directory)["train"] if "label" in row]
    intents = sorted({row["label"] for row in rows}, key=lambda name: hashlib.sha256(name.encode()).digest())
    known = [row for row in rows if row["label"] not in intents[:KEPT_OUT]]
    unknown = [{**row, "label": NONE} for row in rows if row["label"] in intents[:KEPT_OUT]]
    cut = len(known) // 5
    return {"train": known[cut:], "test": known[:cut] + unknown}


def _reviews(directory: Path) -> dict[str, list[Row]]:
    """Each text once; those that stand there with two answers are left out."""
    found: dict[str, set[tuple[str, str]]] = {}
    for row in table_rows(directory / "online_shopping_10_cats.csv.gz", ","):
        if text := row["review"].strip():
            found.setdefault(text, set()).add((row["cat"], "好评" if row["label"] == "1" else "差评"))
    made = [(text, *next(iter(said))) for text, said in found.items() if len(said) == 1]
    rows = [
        {"text": text, "category": category, "sentiment": sentiment, "both": [category, sentiment]}
        for text, category, sentiment in made
    ]
    rows = lowest_hashes(rows, REVIEWS + TESTED + CORPUS)
    corpus = [{"text": row["text"]} for row in rows[REVIEWS + TESTED :]]
    return {"train": rows[:REVIEWS], "test": rows[REVIEWS : REVIEWS + TESTED], "corpus": corpus}


EMOTIONS, UNLABELLED = 6000, 4000
"""Of GoEmotions: rows with their labels, and texts without from which the student learns too."""
INTENTS = 6000
"""Of BANKING77: rows with their labels; of the others the student learns without."""
KEPT_OUT, NONE = 10, "none of these"
"""So many intents are kept out, and how questions with them are labelled."""
REVIEWS, TESTED, CORPUS = 6000, 2000, 10_000
"""Of the reviews: rows to learn from, rows to test with, and texts that the base is pretrained on."""
SMALL_BASE: dict[str, Any] = {
    "model": {"layers": 3, "hidden": 192, "heads": 3, "dropout": 0.1},
    "optimizer": {"learning_rate": 1e-3},
    "epochs": 2,
    "evaluations": 1,
}
"""As jobs/recipes/reviews_zh.yaml has its student's."""
REVIEW_FILES = ("online_shopping_10_cats.csv.gz",)
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
    "banking77_none": DataSet(
        ("train.csv.gz",),
        _banking77_none,
        {"task": {"kind": "classification", "label": "label", "none": {"keep": 0.95}}, "split": {"validation": 0.15}},
        steps=400,
        parts=("none_of_these",),
        note=f"{KEPT_OUT} intents are in the test alone",
    ),
    "online_shopping": DataSet(
        REVIEW_FILES,
        _reviews,
        {
            "task": {
                "kind": "several",
                "heads": {
                    "category": {"kind": "classification", "label": "category"},
                    "sentiment": {"kind": "classification", "label": "sentiment"},
                },
            },
            "split": {"validation": 0.1},
        },
        model="pretrained here",
        steps=300,
        rate=5e-4,
        base=SMALL_BASE,
        parts=("heads",),
        note="Chinese; the base is a small one, pretrained on 10,000 other reviews for two epochs",
    ),
    "online_shopping_labels": DataSet(
        REVIEW_FILES,
        _reviews,
        {"task": {"kind": "multi_label", "labels": "both"}, "split": {"validation": 0.1}},
        model="pretrained here",
        rate=5e-4,
        student={"layers": [0, 1]},
        base=SMALL_BASE,
        note="Chinese; the labels are made: a review's category and whether it is a good one; the base as for online_shopping",
    ),
}
