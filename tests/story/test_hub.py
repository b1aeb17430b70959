"""`hub:` sources go through `datasets.load_dataset`; here over a directory in the hub's format, without a network."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from jobs.data.hub import hub_parts, hub_rows, hub_shards
from jobs.data.sources import fingerprint
from tests.jobs.tiny import source_problems


def texts(source: str) -> list[str]:
    return [row.values["text"] for shard in hub_shards(source) for row in hub_rows(shard)]


def write(directory: Path, parts: Mapping[str, Mapping[str, Sequence[object]]]) -> None:
    (directory / "data").mkdir()
    for name, columns in parts.items():
        parquet.write_table(pa.table(dict(columns)), directory / "data" / f"{name}.parquet")


def test_a_split_of_a_data_set_is_read(tmp_path: Path) -> None:
    train = {f"train-0000{n}-of-00002": {"text": [f"one {n}", f"two {n}"]} for n in range(2)}
    write(tmp_path, {**train, "test-00000-of-00001": {"text": ["三"]}})
    assert texts(f"hub:{tmp_path}#test") == ["三"]
    assert texts(f"hub:{tmp_path}") == ["one 0", "two 0", "one 1", "two 1"]
    assert len(hub_shards(f"hub:{tmp_path}")) == 2, "a task a file"
    assert texts(f"hub:{tmp_path}#train[1:3]") == texts(f"hub:{tmp_path}#train[25%:75%]") == ["two 0", "one 1"]
    assert texts(f"hub:{tmp_path}#test+train[:1]") == ["三", "one 0"]
    before = fingerprint(f"hub:{tmp_path}")
    assert before != fingerprint(f"hub:{tmp_path}#test")
    parquet.write_table(pa.table({"text": ["other"]}), tmp_path / "data" / "train-00000-of-00002.parquet")
    assert fingerprint(f"hub:{tmp_path}") != before


def test_columns_and_splits_are_checked_before_anything_runs(tmp_path: Path) -> None:
    write(tmp_path, {"train-00000-of-00001": {"sentence": ["one", "two"], "kind": ["a", "b"]}})
    found = source_problems(f"hub:{tmp_path}", {"label": "label"}, text="sentense")
    assert [(one.path, one.remedy) for one in found] == [
        ("text", "Did you mean sentence?"),
        ("task.label", "Known here: kind, sentence."),
    ]
    (problem,) = source_problems(f"hub:{tmp_path}#trian", {"label": "kind"}, text="sentence")
    assert problem.path == "source" and "cannot be read" in problem.reason and "trian" in str(problem)
    assert source_problems(f"hub:{tmp_path}", {"label": "kind"}, text="sentence") == []


def test_classes_have_their_names(tmp_path: Path) -> None:
    write(tmp_path, {"train-00000-of-00001": {"text": ["one", "two", "three"], "label": [1, 0, -1]}})
    names = "class_label: {names: {'0': dull, '1': bright}}"
    features = f"[{{name: text, dtype: string}}, {{name: label, dtype: {{{names}}}}}]"
    (tmp_path / "README.md").write_text(f"---\ndataset_info: {{features: {features}}}\n---\n")
    rows = [row.values["label"] for shard in hub_shards(f"hub:{tmp_path}") for row in hub_rows(shard)]
    assert rows == ["bright", "dull", None]


def test_lists_of_classes_have_their_names(tmp_path: Path) -> None:
    write(tmp_path, {"train-00000-of-00001": {"text": ["one", "two", "three"], "labels": [[1, 0], [], [1]]}})
    names = "list: {class_label: {names: {'0': dull, '1': bright}}}"
    features = f"[{{name: text, dtype: string}}, {{name: labels, {names}}}]"
    (tmp_path / "README.md").write_text(f"---\ndataset_info: {{features: {features}}}\n---\n")
    rows = [row.values["labels"] for shard in hub_shards(f"hub:{tmp_path}") for row in hub_rows(shard)]
    assert rows == [["bright", "dull"], [], ["bright"]]
    assert source_problems(f"hub:{tmp_path}", {"kind": "multi_label"}) == []


@pytest.mark.parametrize(
    ("source", "parts"),
    [("hub:imdb", ("imdb", None, "train")), ("hub:nyu-mll/glue:sst2#validation", ("nyu-mll/glue", "sst2", "validation"))],
)
def test_how_a_hub_source_is_written(source: str, parts: tuple[str, str | None, str]) -> None:
    assert hub_parts(source) == parts
