"""What becomes of a package's members: questions of which few keep their type. `pytest tests/jobs/test_samples.py`"""

import json
from collections import Counter
from pathlib import Path

from jobs.data.samples import LABELS_A_TYPE, QUESTION_TYPES, SAMPLES, TEST_QUESTIONS

MARKS = {"ABBR": 90, "DESC": 400, "ENTY": 400, "HUM": 400, "LOC": 400, "NUM": 400}
"""Questions of each mark: as in the package, one type is rare."""


def finished(name: str, directory: Path) -> Path:
    """A sample made of questions of our own, each of them there twice."""
    directory.mkdir()
    lines = [f"{mark}:kind {mark} question number {n} ?" for mark, count in MARKS.items() for n in range(count)]
    (directory / "question_labels.txt").write_text("\n".join([*lines, "", *lines]) + "\n", encoding="utf-8")
    sample = SAMPLES[name]
    assert sample.finish is not None and list(sample.members.values()) == ["question_labels.txt"]
    sample.finish(directory)
    (file,) = directory.iterdir()
    return file


def test_of_each_type_few_questions_keep_their_label(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in finished("question_types", tmp_path / "few").read_text().splitlines()]
    assert len({row["text"] for row in rows}) == len(rows)
    found = Counter((row["split"], row["label"]) for row in rows)
    for label in QUESTION_TYPES.values():
        assert (found["train", label], found["validation", label]) == (15, 5) and found["test", label] > 10
    assert found.total() == TEST_QUESTIONS + len(QUESTION_TYPES) * LABELS_A_TYPE
    assert all(row["label"] == QUESTION_TYPES[row["text"].split()[0]] for row in rows), "each its own"


def test_all_others_are_there_without_a_label_and_none_twice(tmp_path: Path) -> None:
    few = [json.loads(line)["text"] for line in finished("question_types", tmp_path / "few").read_text().splitlines()]
    others = finished("questions", tmp_path / "others").read_text().splitlines()
    assert len({*few, *others}) == len(few) + len(others) == sum(MARKS.values())
