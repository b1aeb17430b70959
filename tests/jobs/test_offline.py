"""Answering for files: what a row and a split are, bad rows, a run that is killed. `pytest tests/jobs/test_offline.py`"""

import csv
import datetime
import decimal
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from openpyxl import Workbook
from pyarrow import csv as arrow_csv
from pyarrow import parquet
from pydantic import ValidationError
from transformers import PreTrainedTokenizerBase

from cluster.connection.connect import Cluster
from cluster.store import storage
from jobs.core.config import BadInput
from jobs.data import records as pieces
from jobs.data.formats import Files
from jobs.data.pieces import Row
from jobs.data.records import read, scan
from jobs.offline.answering import answer_files
from jobs.offline.command import parser, request_of
from jobs.offline.request import Request
from serve.cleaning.cleaning import Cleaning
from serve.engines.card import read_card, write_card
from serve.engines.engine import load_engine
from serve.tasks.shared.probabilities import softmax
from tests.conftest import s3_environment
from tests.jobs.pairs import ITEMS, publish_pair_model
from tests.jobs.tiny import items_of
from tests.serve.tiny_model import LABELS, TEXTS, publish_tiny

ROWS_PER_FILE = 400


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a temperature, which is part of its answers."""
    directory = tmp_path_factory.mktemp("offline") / "tiny"
    publish_tiny(directory)
    card = read_card(directory)
    warm = {name: variant.model_copy(update={"fitted": {"temperature": 2.0}}) for name, variant in card.variants.items()}
    write_card(directory, card.model_copy(update={"variants": warm}))
    return directory


@pytest.fixture
def cut_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "SMALLEST_ROWS", 2)
    monkeypatch.setattr(pieces, "LARGEST_ROWS", 2)


def rows_by_pieces(file: Path) -> list[Row]:
    """Each piece read on its own; their numbers are checked on the way."""
    scanned = scan(str(file), Files())
    rows: list[Row] = []
    for piece in scanned.pieces:
        assert piece.first == len(rows)
        rows += read(piece, Files())
        assert len(rows) == piece.first + len(piece)
    return rows


@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.usefixtures("cut_small")
def test_csv_is_cut_between_records_never_inside_one(tmp_path: Path, ending: str, line_end: str) -> None:
    lines = ["\ufefftext,label", '"two', 'lines, ""quoted""",a', "", "这部,b", "x,y,z", "last,c"]
    content = line_end.join(lines).encode()
    file = tmp_path / f"rows.{ending}"
    file.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    rows = rows_by_pieces(file)
    assert [dict(row.values) for row in rows] == [
        {"text": f'two{line_end}lines, "quoted"', "label": "a"},
        {"text": "这部", "label": "b"},
        {"line": "x,y,z"},
        {"text": "last", "label": "c"},
    ]
    assert [row.fault and row.fault.detail for row in rows] == [None, None, "3 fields under a header of 2", None]
    assert [row.line for row in rows] == [2, 5, 6, 7]


@pytest.mark.usefixtures("cut_small")
def test_jsonl_lines_that_are_no_objects_are_rows_with_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"text": "a"}\n[1]\n\n{"text": \n{"text": "\xff"}\n{"text": "b", "more": [1]}')
    rows = rows_by_pieces(file)
    assert [row.fault and row.fault.reason for row in rows] == [None, "no JSON object", "no JSON", "not utf-8", None]
    assert rows[3].fault is not None and rows[3].fault.detail == "byte 40 of the file, 0xff, is no utf-8"
    assert [row.line for row in rows] == [1, 2, 4, 5, 6]
    assert rows[-1].values == {"text": "b", "more": [1]}
    assert set(scan(str(file), Files()).columns) == {"text", "more"}


@pytest.mark.usefixtures("cut_small")
def test_parquet_is_cut_across_row_groups(tmp_path: Path) -> None:
    file, table = tmp_path / "rows.parquet", pa.table({"text": [f"t{n}" for n in range(9)], "n": range(9)})
    parquet.write_table(table, file, row_group_size=3)
    assert [dict(row.values) for row in rows_by_pieces(file)] == table.to_pylist()


def write_files(directory: Path, count: int) -> list[str]:
    """CSV files of real texts, each with one bad row; all their good texts in order."""
    texts = []
    directory.mkdir()
    for number in range(count):
        with open(directory / f"{number:02}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "text"])
            for place in range(ROWS_PER_FILE):
                text = "" if place == number else f"{TEXTS[place % len(TEXTS)]} {number} {place}"
                writer.writerow([f"{number}-{place}", text])
                texts += [text] if text else []
    return texts


def request(model: Path, **more: Any) -> Request:
    return Request.model_validate({"model": str(model), "workers": 1, **more})


def test_answers_are_the_engines_and_bad_rows_stand_apart(ray_driver: Cluster, model: Path, tmp_path: Path) -> None:
    texts, output = write_files(tmp_path / "in", 2), tmp_path / "out"
    said: list[str] = []
    summary = answer_files(
        request(model, input=[str(tmp_path / "in")], output=str(output), probabilities=True), "", said.append
    )
    parts = sorted(output.glob("part-*.csv"))
    table = pa.concat_tables([arrow_csv.read_csv(part) for part in parts])
    assert table.column("text").to_pylist() == texts
    probabilities_NC = softmax(np.asarray(load_engine(model).settled(items_of(texts))))
    assert table.column("predicted").to_pylist() == [LABELS[column] for column in probabilities_NC.argmax(1)]
    found_NC = np.array([table.column(f"probability_{label}").to_pylist() for label in LABELS]).T
    assert found_NC == pytest.approx(probabilities_NC, abs=1e-5)
    bad = [json.loads(line) for line in (output / "bad_rows.jsonl").read_text().splitlines()]
    assert [(one["file"][-6:], one["row"], one["reason"], one["content"]["id"]) for one in bad] == [
        ("00.csv", 1, "blank", "0-0"),
        ("01.csv", 2, "blank", "1-1"),
    ]
    assert (summary["rows"], summary["answered"], summary["bad"]) == (800, 798, {"blank": 2})
    assert said[-1].startswith("800 of 800 rows (100.0%)") and said[-1].endswith("2 bad")
    assert not (output / ".unfinished").exists()


def test_texts_are_cleaned_and_lists_of_words_joined_as_the_card_says(
    ray_driver: Cluster, model: Path, tmp_path: Path
) -> None:
    card = read_card(shutil.copytree(model, tmp_path / "model"))
    cleaning = Cleaning(strip_tags=True, join_words=True)
    write_card(tmp_path / "model", card.model_copy(update={"cleaning": cleaning}))
    lists = [
        ["Win", "a", "<b>", "prize", "</b>", "now", "!"],
        ["这部", "电影", "，", "很", "好看"],
        ["a", None],
        [["a"]],
        ["<br>"],
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in [*lists, "Win a\r\n<i>prize</i>"]))
    asked = {"input": [str(tmp_path / "rows.jsonl")], "probabilities": True}
    answer_files(request(tmp_path / "model", output=str(tmp_path / "out"), **asked), "", print)
    rows = [json.loads(line) for part in sorted((tmp_path / "out").glob("part-*")) for line in part.open()]
    clean = ["Win a prize now!", "这部电影，很好看", ".", "Win a\n prize"]
    expected_NC = softmax(np.asarray(load_engine(model).settled(items_of(clean))))
    found_NC = np.array([[row[f"probability_{label}"] for label in LABELS] for row in rows])
    assert found_NC == pytest.approx(expected_NC, abs=1e-5)
    assert rows[0]["text"] == lists[0], "what was given is what comes back"
    bad = [json.loads(line) for line in (tmp_path / "out" / "bad_rows.jsonl").read_text().splitlines()]
    assert [(one["row"], one["reason"]) for one in bad] == [(3, "not a string"), (4, "not a string")]
    answer_files(request(model, output=str(tmp_path / "other"), **asked), "", print)
    bad = [json.loads(line) for line in (tmp_path / "other" / "bad_rows.jsonl").read_text().splitlines()]
    assert [one["row"] for one in bad] == [1, 2, 3, 4, 5], "a card that says nothing of lists takes none"


def test_a_killed_run_goes_on_where_it_was(ray_cluster: Cluster, model: Path, tmp_path: Path) -> None:
    write_files(tmp_path / "in", 24)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = ["--model", str(model), "--input", str(tmp_path / "in" / "*.csv"), "--workers", "1", "--keep", "id"]
    command = [sys.executable, "-m", "jobs.predict", *options]
    assert ray_cluster.address is not None
    environment = {**os.environ, "RAY_ADDRESS": ray_cluster.address}
    process = subprocess.Popen([*command, "--output", str(killed)], env=environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list((killed / ".unfinished").glob("0*.json")):
        assert process.poll() is None and time.monotonic() < deadline, "no split was done"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(2)  # What its actors still write is written: Ray ends them soon after their driver.
    done = {part.name: part.stat().st_mtime_ns for part in killed.glob("part-*")}
    records = len(list((killed / ".unfinished").glob("0*.json")))
    assert 0 < records < 24, "it was killed too late to show anything"
    for output in (killed, whole):
        ended = subprocess.run([*command, "--output", str(output)], env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        if output == killed:
            assert f"going on: {records} of 24 pieces are done" in ended.stdout
    names = sorted(part.name for part in whole.glob("part-*"))
    assert len(names) == 24
    assert [(whole / name).read_bytes() for name in names] == [(killed / name).read_bytes() for name in names]
    kept = [name for name, at in done.items() if (killed / name).stat().st_mtime_ns == at]
    assert len(kept) >= records, "what was done is not done again"
    summaries = [json.loads((output / "summary.json").read_text()) for output in (whole, killed)]
    assert summaries[0]["bad"] == summaries[1]["bad"] == {"blank": 24}


def test_from_and_to_s3_with_the_types_of_parquet(ray_cluster: Cluster, model: Path, s3_uri: str, s3_server: str) -> None:
    import ray

    table = pa.table({"text": ["Win a prize", None, "这部电影"], "n": pa.array([1, 2, 3], pa.int16())})
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    storage.write_bytes(f"{s3_uri}/in/rows.parquet", sink.getvalue().to_pybytes())
    ray.init(ray_cluster.address, log_to_driver=False, runtime_env={"env_vars": s3_environment(s3_server)})
    try:
        asked = request(model, input=[f"{s3_uri}/in/*.parquet"], output=f"{s3_uri}/out")
        summary = answer_files(asked, "", lambda line: None)
        assert answer_files(asked, "", lambda line: None) == summary, "a finished run is not done again"
        with pytest.raises(BadInput, match="another run is there"):
            answer_files(asked.model_copy(update={"keep": ("n",)}), "", lambda line: None)
    finally:
        ray.shutdown()
    answered = parquet.read_table(pa.BufferReader(storage.read_bytes(f"{s3_uri}/out/part-00000.parquet")))
    assert answered.schema.field("n").type == pa.int16()
    assert answered.column("n").to_pylist() == [1, 3]
    assert summary["bad"] == {"missing": 1}


def test_any_kind_of_file_and_of_value_is_answered_for(ray_driver: Cluster, model: Path, tmp_path: Path) -> None:
    place = tmp_path / "in"
    place.mkdir()
    (place / "a.csv").write_bytes("text,n\r\nWin a prize,1\r\n这部电影,2\r\n".encode("utf-16"))
    (place / "b.json").write_text(json.dumps([{"text": "call now"}, {"text": "NA"}, {"text": " "}]))
    book = Workbook()
    for cells in (["text", "n"], ["see you at six", 7]):
        book.active.append(cells)
    book.save(place / "c.xlsx")
    day, price = datetime.date(2024, 1, 5), decimal.Decimal("10.50")
    odd = {
        "text": [b"bring the keys", b"\xff"],
        "day": [day, day],
        "price": [price, None],
        "score": [float("nan"), float("inf")],
    }
    parquet.write_table(pa.table(odd), place / "d.parquet")
    asked = request(model, input=[str(place)], output=str(tmp_path / "out"))
    summary = answer_files(asked, "", lambda line: None)
    assert (summary["rows"], summary["answered"]) == (8, 5)
    assert summary["bad"] == {"missing": 1, "blank": 1, "not a string": 1}
    parts = [part.read_text() for part in sorted((tmp_path / "out").glob("part-*.jsonl"))]
    rows = [json.loads(line, parse_constant=pytest.fail) for part in parts for line in part.splitlines()]
    assert [row["text"] for row in rows] == ["Win a prize", "这部电影", "call now", "see you at six", "bring the keys"]
    assert (rows[0]["n"], rows[3]["n"], rows[4]["day"], rows[4]["price"], rows[4]["score"]) == (
        "1", 7, "2024-01-05", "10.50", None,
    )  # fmt: skip
    table = asked.model_copy(update={"output": str(tmp_path / "table"), "format": "csv", "input": (str(place / "d.parquet"),)})
    answer_files(table, "", lambda line: None)
    with open(tmp_path / "table" / "part-00000.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["text"], row["day"], row["price"], row["score"]) == ("bring the keys", "2024-01-05", "10.50", "")


def test_how_files_are_written_is_an_option(ray_driver: Cluster, model: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes('1;这部电影\n2;"再见\n'.encode("gb18030"))
    written = ["--encoding", "gb18030", "--delimiter", ";", "--quoting", "none", "--file-columns", "id", "text"]
    options = ["--model", str(model), "--input", str(tmp_path / "rows.csv"), "--output", str(tmp_path / "out"), *written]
    summary = answer_files(request_of(parser().parse_args(options)), "", lambda line: None)
    assert (summary["answered"], summary["bad"]) == (2, {})
    with open(tmp_path / "out" / "part-00000.csv", newline="", encoding="utf-8") as file:
        assert [(row["id"], row["text"]) for row in csv.DictReader(file)] == [("1", "这部电影"), ("2", '"再见')]
    with pytest.raises(BadInput, match="no such encoding is known"):
        request_of(parser().parse_args([*options, "--encoding", "gbq"]))


def test_two_columns_are_answered_for_together(
    ray_driver: Cluster, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    pairs, output = publish_pair_model(tmp_path, tokenizer), tmp_path / "out"
    rows: list[dict[str, Any]] = [{"question": text, "answer": other} for text, other in (item.values for item in ITEMS)]
    for place, change in ((1, {"answer": None}), (3, {"answer": " "}), (5, {"question": 7}), (6, {"question": "x" * 20_001})):
        rows[place] = {**rows[place], **change}
    del rows[8]["answer"]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    columns = ["text=question", "pair=answer"]
    asked = request(
        Path(pairs.uri), input=[str(tmp_path / "rows.jsonl")], output=str(output), columns=columns, keep=["answer"]
    )
    summary = answer_files(asked, "", lambda line: None)
    assert summary["asked"]["column"] == {"text": "question", "pair": "answer"}
    bad = [json.loads(line) for line in (output / "bad_rows.jsonl").read_text().splitlines()]
    assert [(one["row"], one["reason"], one["detail"]) for one in bad] == [
        (2, "missing", "answer is null"),
        (4, "blank", "answer is empty or only whitespace"),
        (6, "not a string", "question is of type int"),
        (7, "too long", "question has 20,001 characters, 20,000 are allowed"),
        (9, "missing", "answer is not there"),
    ]
    good = [item for place, item in enumerate(ITEMS) if place not in (1, 3, 5, 6, 8)]
    found = [json.loads(line) for line in (output / "part-00000.jsonl").read_text().splitlines()]
    wanted = load_engine(pairs.local()).answers(good)
    assert [list(row) for row in found] == [["answer", "predicted", "probability"]] * len(good)
    assert [(row["answer"], row["predicted"]) for row in found] == [
        (item.values[1], answer.label) for item, answer in zip(good, wanted, strict=True)
    ]
    assert [row["probability"] for row in found] == pytest.approx([answer.probability for answer in wanted], abs=1e-6)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"column": "question"}, r"--column = 'question': the model reads 2 texts: text, pair. Write --columns text=COLUMN"),
        ({"columns": ["text=question"]}, r"--columns = 'pair': .*rows.csv has no such column"),
        ({"columns": ["text=question", "reply=answer"]}, r"--columns = 'reply=answer': the model reads no reply"),
    ],
)
def test_columns_that_do_not_fit_the_models_texts_are_told(
    ray_driver: Cluster, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, change: dict[str, Any], found: str
) -> None:
    (tmp_path / "rows.csv").write_text("question,answer\na,b\n")
    pairs, file = publish_pair_model(tmp_path, tokenizer), str(tmp_path / "rows.csv")
    with pytest.raises(BadInput, match=found):
        answer_files(request(Path(pairs.uri), input=[file], output=str(tmp_path / "out"), **change), "", lambda line: None)
    assert not (tmp_path / "out").exists()


def test_columns_are_written_as_the_command_line_has_them() -> None:
    asked = {"model": "m", "input": ["a.csv"], "output": "out"}
    assert Request.model_validate({**asked, "columns": ["text=a", "pair=b=c"]}).columns == {"text": "a", "pair": "b=c"}
    for wrong in (["text"], ["text=a", "text=b"]):
        with pytest.raises(ValidationError, match="is no FIELD=COLUMN|name each once"):
            Request.model_validate({**asked, "columns": wrong})


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"column": "texts"}, "text"),
        ({"keep": ("idd",)}, "no file has such a column"),
        ({"model": "spam/production"}, "no model is there"),
        ({"variant": "int3"}, "int3"),
        ({"input": ("nowhere/*.csv",)}, "no file matches"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is(
    ray_driver: Cluster, model: Path, tmp_path: Path, change: dict[str, Any], found: str
) -> None:
    (tmp_path / "rows.csv").write_text("id,text\n1,a\n")
    asked = request(model, input=[str(tmp_path / "rows.csv")], output=str(tmp_path / "out"))
    with pytest.raises(BadInput, match=found):
        answer_files(asked.model_copy(update=change), str(tmp_path), lambda line: None)
    assert not (tmp_path / "out").exists()


def test_an_option_that_is_not_written_is_not_asked_for() -> None:
    asked = ["--model", "m", "--input", "a.csv", "b.csv", "--output", "o"]
    least = request_of(parser().parse_args(asked))
    assert least.model_fields_set == {"model", "input", "output", "probabilities"}
    assert least == Request(model="m", input=("a.csv", "b.csv"), output="o")
    pairs = request_of(parser().parse_args([*asked, "--columns", "text=question", "pair=answer", "--cpus", "2"]))
    assert pairs.columns == {"text": "question", "pair": "answer"} and pairs.cpus == 2
    assert "column" not in pairs.model_fields_set, "a model of several texts refuses it"
