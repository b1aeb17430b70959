"""Prepare's rows on a real cluster: nothing is dropped uncounted, what is bad is named. `pytest tests/jobs/test_loading.py`"""

import json
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from cluster.connection.connect import Cluster
from jobs.core.config import BadInput
from jobs.core.stage import Context, Inputs, Outcome
from jobs.data.records import SLICE_BYTES
from jobs.prepare import PrepareConfig, check, run
from jobs.tasks import CLEANING_FILE

LEFT_OUT = ("rows_bad", "rows_without_text", "rows_without_target", "rows_empty", "rows_duplicate")


def prepared(place: Path, **settings: Any) -> Outcome:
    """What prepare makes of it."""
    directory = place / "made"
    directory.mkdir()
    context = Context(str(place), "tiny", "rows", str(place / "out"), "a", directory=directory)
    return run(PrepareConfig.model_validate(settings), Inputs(), context)


def kept(outcome: Outcome) -> float:
    """The rows of all splits, with a target or without."""
    names = ("train_rows", "validation_rows", "test_rows", "unlabelled_rows")
    return sum(outcome.metrics.get(name, 0) for name in names)


def test_each_row_is_kept_or_counted_by_its_reason(ray_driver: Cluster, tmp_path: Path) -> None:
    good = [{"text": f"good text {n}", "label": n % 2 == 0, "shop": None if n % 3 else f"shop {n % 5}"} for n in range(40)]
    lines = [json.dumps(row) for row in good]
    lines += ["{broken", '{"text": null, "label": true}', '{"text": "NA", "label": true}', '{"text": "no label at all"}']
    lines += ["", '{"text": "\\u200b", "label": true}', json.dumps(good[3]), "[1]", '{"text": [1], "label": true}']
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    (tmp_path / "more.csv").write_text("text\nwithout a label one\n\nwithout a label two\n,\nNA\n")
    source = {"train": str(tmp_path / "rows.jsonl"), "unlabelled": str(tmp_path / "more.csv")}
    names = {"true": "yes", "false": "no"}
    outcome = prepared(
        tmp_path,
        source=source,
        task={"label": "label", "names": names},
        slices=["shop"],
        bad_rows=0.1,
        split={"validation": 0.2},
    )
    metrics, told = outcome.metrics, outcome.details["bad_rows"]
    assert metrics["rows_read"] == 52 == kept(outcome) + sum(metrics[name] for name in LEFT_OUT)
    assert [metrics[name] for name in LEFT_OUT] == [3, 4, 1, 1, 1]
    assert told["by_reason"] == {
        "no text": 4, "no target": 1, "empty after cleaning": 1, "no JSON": 1, "no JSON object": 1, "no single value": 1,
    }  # fmt: skip
    found = [(Path(one["file"]).name, one["row"], one["line"], one["reason"]) for one in told["first"]]
    assert found == [
        ("rows.jsonl", 41, 41, "no JSON"),
        ("rows.jsonl", 47, 48, "no JSON object"),
        ("rows.jsonl", 48, 49, "no single value"),
    ]
    assert kept(outcome) == 42 and set(outcome.details["labels"]["train"]) == {"yes", "no"}


def test_lists_of_words_are_joined_and_how_texts_were_cleaned_is_kept(ray_driver: Cluster, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": ["a", "<b>", f"text{n}", "</b>", "."], "label": n % 2} for n in range(20)]
    rows += [{"text": ["这", "电影", "，", "很", "好", str(n)], "label": n % 2} for n in range(20)]
    rows += [{"text": [], "label": 1}, {"text": [["a"], "b"], "label": 1}, {"text": "whole already", "label": 1}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {"source": str(tmp_path / "rows.jsonl"), "task": {"label": "label"}, "bad_rows": 0.1, "split": {"test": 0}}
    outcome = prepared(tmp_path, **settings, clean={"strip_tags": True, "join_words": True, "min_characters": 3})
    parts = [parquet.read_table(tmp_path / "out" / path) for path in outcome.files if path.endswith(".parquet")]
    texts = {text for part in parts for text in part["text"].to_pylist()}
    assert texts == {f"a text{n} ." for n in range(20)} | {f"这电影，很好{n}" for n in range(20)} | {"whole already"}
    assert outcome.metrics["rows_without_text"] == 1
    assert outcome.details["bad_rows"]["by_reason"] == {"no text": 1, "no single value": 1}
    kept_in = tmp_path / "made" / CLEANING_FILE
    assert json.loads(kept_in.read_text()) == {
        "unicode": True, "strip_tags": True, "join_words": True, "max_characters": 100_000, "masks": [],
        "phone_regions": ["US", "GB", "CN"],
    }  # fmt: skip
    (problem,) = check(PrepareConfig.model_validate(settings))
    assert problem.path == "text" and "holds a list" in problem.reason and "clean: {join_words: true}" in problem.remedy


def test_large_files_are_read_in_pieces_and_rows_are_named_through_them(ray_driver: Cluster, tmp_path: Path) -> None:
    filler = " ".join(f"word{n}" for n in range(100))
    rows = [f'"text {n},\n{filler}",{n % 2}' for n in range(40_000)]
    rows[39_990] = "too,many,fields"
    content = "\n".join(["text,label", *rows])
    assert len(content) > SLICE_BYTES
    (tmp_path / "rows.csv").write_text(content)
    outcome = prepared(tmp_path, source=str(tmp_path / "rows.csv"), task={"label": "label"})
    assert (outcome.metrics["rows_read"], kept(outcome)) == (40_000, 39_999)
    (named,) = outcome.details["bad_rows"]["first"]
    assert (named["row"], named["line"], named["detail"]) == (39_991, 2 + 2 * 39_990, "3 fields under a header of 2")


def test_more_bad_rows_than_are_allowed_are_refused_where_no_check_has_seen_them(ray_driver: Cluster, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label,part\na,1,train\nb,2,train\nc,1,holdout\n")
    with pytest.raises(
        BadInput, match="1 of 3 rows that were read are bad.*row 3, line 4: no name of a split .part is 'holdout'"
    ):
        prepared(tmp_path, source=str(tmp_path / "rows.csv"), task={"label": "label"}, split={"by": "part"})


def test_a_data_set_of_the_hub_is_read_by_its_parts(ray_driver: Cluster, tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    (tmp_path / "hub" / "data").mkdir(parents=True)
    for part in range(3):
        table = pa.table({"text": [f"text {part} {n}" for n in range(20)], "label": [n % 2 for n in range(20)]})
        parquet.write_table(table, tmp_path / "hub" / "data" / f"train-0000{part}-of-00003.parquet")
    outcome = prepared(tmp_path, source=f"hub:{tmp_path}/hub", task={"label": "label", "names": {0: "a", 1: "b"}})
    assert kept(outcome) == outcome.metrics["rows_read"] == 60
    assert set(outcome.details["labels"]["train"]) == {"a", "b"} and "bad_rows" not in outcome.details
