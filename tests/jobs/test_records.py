"""Files as rows: every format, encoding and packing, whole and cut anywhere, and what is bad in them.

pytest tests/jobs/test_records.py
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openpyxl import Workbook
from pyarrow import parquet
from pydantic import ValidationError

from jobs.core.config import BadInput
from jobs.data import lines, records
from jobs.data.formats import FilePart, Files, parts_of
from jobs.data.pieces import Row
from jobs.data.records import read, scan, slices
from jobs.data.sources import resolve
from jobs.data.values import is_absent, value_at
from jobs.prepare import PrepareConfig
from tests.jobs.tiny import source_problems

Table = list[dict[str, str]]
FORMATS = ("csv", "tsv", "jsonl", "json", "xlsx", "parquet", "txt")


def packed(data: bytes, packing: str, name: str) -> bytes:
    """The bytes as the packing's own program would write them."""
    if packing == "zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, data)
            archive.writestr(f"__MACOSX/._{name}", b"\0\5\x16\7")
            archive.writestr("LICENSE", "free")
        return buffer.getvalue()
    if packing == "zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(data)
        return sink.getvalue().to_pybytes()
    by: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "": bytes}
    return by[packing](data)


def written(table: Table, ending: str, encoding: str, end: str) -> bytes:
    """The table in a format, as other programs write it."""
    names = list(table[0])
    if ending in ("csv", "tsv"):
        text = io.StringIO(newline="")
        # Where lines end at \r, Python's writer leaves a \n in a cell unquoted.
        quoting: Any = csv.QUOTE_ALL if end == "\r" else csv.QUOTE_MINIMAL
        writer = csv.writer(text, delimiter="\t" if ending == "tsv" else ",", lineterminator=end, quoting=quoting)
        writer.writerows([names, *(list(row.values()) for row in table)])
        return text.getvalue().encode(encoding)
    if ending == "txt":
        return end.join(row["text"] for row in table).encode(encoding)
    if ending == "jsonl":
        return end.join(json.dumps(row, ensure_ascii=False) for row in table).encode(encoding)
    if ending == "json":
        return json.dumps(table, ensure_ascii=False, indent=1).encode(encoding)
    buffer = io.BytesIO()
    if ending == "parquet":
        parquet.write_table(pa.table({name: [row[name] for row in table] for name in names}), buffer, row_group_size=3)
        return buffer.getvalue()
    book = Workbook()
    for row in [names, *(list(row.values()) for row in table)]:
        book.active.append(row)
    for cell in (cell for row in book.active.iter_rows() for cell in row if cell.data_type == "f"):
        cell.data_type = "s"  # A text that begins with a sign of equality, and no formula.
    book.save(buffer)
    return buffer.getvalue()


def whole(file: Path, files: Files) -> list[Row]:
    """All rows, as the check and small files are read."""
    return [row for part in parts_of(str(file)) for row in read(records.Piece(part), files)]


def in_pieces(file: Path, files: Files) -> list[list[Row]]:
    """The rows as answering for files reads them, and as prepare reads large files."""
    scanned = [row for piece in scan(str(file), files).pieces for row in read(piece, files)]
    return [scanned, [row for piece in slices(str(file), files) for row in read(piece, files)]]


def plain(rows: list[Row]) -> list[Any]:
    return [(dict(row.values), row.fault and row.fault.reason, row.line) for row in rows]


LETTERS = st.characters(codec="gb18030", exclude_categories=("Cs", "Cc"))
SIGNS = st.sampled_from([*",\t\";' {]\\\x0c\x85\u2028é中😀", '""', "\n", "\r\n"])
NAMES = st.lists(st.sampled_from(["text", "label", "列"]), min_size=1, unique=True)
CELL = st.lists(st.one_of(LETTERS, SIGNS), max_size=8).map("".join)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_written_is_read_whole_and_in_pieces_of_any_size(
    data: st.DataObject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending = data.draw(st.sampled_from(FORMATS))
    names = ["text"] if ending == "txt" else data.draw(NAMES)
    cells = data.draw(st.lists(st.lists(CELL, min_size=len(names), max_size=len(names)), min_size=1, max_size=9))
    table = [{name: shaped(cell, ending) for name, cell in zip(names, row, strict=True)} for row in cells]
    if ending in ("txt", "xlsx"):
        table = [row for row in table if any(value.strip() if ending == "txt" else value for value in row.values())] or [
            dict.fromkeys(names, "x")
        ]
    encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "gb18030", "utf-16-le", "cp1252"]))
    if ending in ("parquet", "xlsx"):
        encoding = "utf-8"
    if encoding == "cp1252":
        table = [{name: western(value, "é") for name, value in row.items()} for row in table]
        table = [{("col" if name == "列" else name): value for name, value in row.items()} for row in table]
    packing = data.draw(st.sampled_from(["", "gz", "bz2", "xz", "zst", "zip"]))
    end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    name = f"rows.{ending}"
    file = tmp_path / (f"{name}.{packing}" if packing else name)
    file.write_bytes(packed(written(table, ending, encoding, end), packing, name))
    said = None if encoding.startswith("utf-8") or encoding == "utf-16" else encoding
    files = Files(encoding=said, quoting="standard" if ending == "tsv" else None)
    size = data.draw(st.integers(1, 5))
    monkeypatch.setattr(records, "SMALLEST_ROWS", size)
    monkeypatch.setattr(records, "LARGEST_ROWS", size)
    monkeypatch.setattr(records, "SLICE_BYTES", data.draw(st.integers(1, 40)))
    monkeypatch.setattr(lines, "BUFFER_BYTES", data.draw(st.integers(1, 30)))
    found = whole(file, files)
    assert [row.fault for row in found] == [None] * len(found)
    assert [dict(row.values) for row in found] == [as_read(row, ending) for row in table]
    for pieces in in_pieces(file, files):
        assert plain(pieces) == plain(found)


def western(text: str, otherwise: str) -> str:
    """Without what cp1252 has no sign for; the other where it leaves nothing that is seen."""
    left = text.encode("cp1252", "ignore").decode("cp1252")
    return left if left.strip() else otherwise


def shaped(cell: str, ending: str) -> str:
    """What the format can hold: a line of text, a cell without signs that Excel has no place for."""
    if ending == "txt":
        return cell.replace("\n", "").replace("\r", "") or "x"
    if ending == "xlsx":
        return "".join(sign for sign in cell if sign.isprintable()).replace("_x", "")
    return cell


def as_read(row: dict[str, str], ending: str) -> dict[str, Any]:
    """An empty cell of Excel is none."""
    return {name: value or None for name, value in row.items()} if ending == "xlsx" else dict(row)


SCRAPS = st.sampled_from([*'a,"\n\r\té[]', '""', "\udcff", '{"text": 1}'])
BROKEN = st.lists(st.lists(SCRAPS, max_size=7).map("".join), max_size=14)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=BROKEN, ending=st.sampled_from(["csv", "tsv", "jsonl", "txt"]), size=st.integers(1, 4), cut=st.integers(1, 20))
def test_whatever_is_broken_is_the_same_whole_and_in_pieces(
    parts: list[str], ending: str, size: int, cut: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / f"rows.{ending}"
    file.write_bytes("\n".join(["x,text", *parts]).encode("utf-8", "surrogateescape"))
    monkeypatch.setattr(records, "SMALLEST_ROWS", size)
    monkeypatch.setattr(records, "LARGEST_ROWS", size)
    monkeypatch.setattr(records, "SLICE_BYTES", cut)
    found = whole(file, Files())
    for pieces in in_pieces(file, Files()):
        assert plain(pieces) == plain(found)


def test_a_stray_quotation_mark_swallows_no_other_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    rows = [f"text {number},a" for number in range(9)]
    rows[2], rows[5], rows[7] = '"stray,a', '"two\nlines",a', 'five" wide,a'
    file.write_text("\n".join(["text,label", *rows, '"never closed,a', "last,b"]))
    found = whole(file, Files())
    assert [(row.line, row.fault.reason) for row in found if row.fault] == [
        (4, "stray quotation mark"),
        (12, "stray quotation mark"),
    ]
    kept = [row.values["text"] for row in found if not row.fault]
    assert kept == ["text 0", "text 1", "text 3", "text 4", "two\nlines", "text 6", 'five" wide', "text 8", "last"]


@pytest.mark.parametrize(
    ("line", "quoting", "read_as"),
    [
        ('"all of it"\ta', None, "all of it"),
        ('"a ""word"" of it"\ta', None, 'a "word" of it'),
        ('"said he\ta', None, '"said he'),
        ('"yes" or "no"\ta', None, '"yes" or "no"'),
        ('"with a\ttab"\ta', None, "with a\ttab"),
        ('"all of it"\ta', "none", '"all of it"'),
        ('"two\nlines"\ta', "standard", "two\nlines"),
    ],
)
def test_quotation_marks_in_tsv_files(tmp_path: Path, line: str, quoting: Any, read_as: str) -> None:
    (tmp_path / "rows.tsv").write_text(f"text\tlabel\nfirst\tb\n{line}\nlast\tb\n")
    found = whole(tmp_path / "rows.tsv", Files(quoting=quoting))
    assert [row.values.get("text") for row in found] == ["first", read_as, "last"]


def test_columns_without_a_name_and_rows_of_other_lengths(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("\n text ,label,,\na,b\nc,d,,\ne,f,,,,\ng,h,,,x\ni\nj,k,l,m\n")
    found = whole(file, Files())
    assert [row.fault and row.fault.detail for row in found] == [None] * 3 + [
        "5 fields under a header of 4", "1 fields under a header of 4", None,
    ]  # fmt: skip
    assert found[0].values == {"text": "a", "label": "b", "column_3": "", "column_4": ""}
    assert found[-1].values["column_4"] == "m"


def test_files_without_a_header_and_with_other_delimiters(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("good, really;1\nbad;0\n")
    found = whole(file, Files(delimiter=";", columns=("text", "label")))
    assert [dict(row.values) for row in found] == [{"text": "good, really", "label": "1"}, {"text": "bad", "label": "0"}]
    for wrong in ({"delimiter": "\n"}, {"delimiter": ";;"}, {"encoding": "gbq"}, {"columns": ["a", "a"]}, {"quoting": "some"}):
        with pytest.raises(ValidationError):
            Files.model_validate(wrong)


def test_an_array_is_read_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.data import json_rows

    monkeypatch.setattr(json_rows, "READ_AHEAD", 3)
    monkeypatch.setattr(lines, "BUFFER_BYTES", 2)
    file = tmp_path / "rows.json"
    rows = ['{"text": "a ] , \\" {"}', '{"text": NaN, "n": [1, {"a": 2}]}', '{"text": oops, "x": [1]}, 7', '{"text": "b"}']
    file.write_text("\n [ " + ",\n".join(rows) + "]\n")
    found = whole(file, Files())
    assert [(row.fault and row.fault.reason, row.line) for row in found] == [
        (None, 2), (None, 3), ("no JSON", 4), ("no JSON object", 4), (None, 5),
    ]  # fmt: skip
    assert [row.values.get("text") for row in found] == ['a ] , " {', None, None, None, "b"]
    assert whole_of("[]", file) == [] and whole_of("", file) == []
    assert [row.fault.reason for row in whole_of('[{"a": 1}] more', file) if row.fault] == ["no JSON"]
    assert [row.fault.reason for row in whole_of('[{"text": "a"} {"text": "b"}, {"text": "c"}]', file) if row.fault] == [
        "no JSON"
    ]
    file.write_bytes(b'[{"text": "a"},\n{"text": "\xff"}, {"text": "\\ud800 b"}]')
    assert [(row.fault and tuple(row.fault), row.line) for row in whole(file, Files())] == [
        (None, 1), (("not utf-8", "the byte 0xff at place 11 of the row"), 2), (None, 2),
    ]  # fmt: skip
    for cut in ('[{"text": "a"}, {"text": "b"', '[{"text": "a", {"text": "b"}]', '[{"text": "a"}'):
        with pytest.raises(BadInput, match="the array does not end"):
            whole_of(cut, file)


def whole_of(text: str, file: Path) -> list[Row]:
    file.write_text(text)
    return whole(file, Files())


def test_json_files_may_have_an_object_a_line_and_nested_fields(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    rows = [{"data": {"body": f"text {n}", "by": {"id": n}}, "kind": bool(n % 2)} for n in range(4)]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert [value_at(row.values, "data.by.id") for row in whole(file, Files())] == [0, 1, 2, 3]
    assert value_at({"a.b": 1, "a": {"b": 2}}, "a.b") == 1 and value_at({"a": 1}, "a.b") is None
    task = {"label": "kind", "names": {True: "spam", False: "ham"}}
    assert source_problems(str(file), task, text="data.body") == []
    (problem,) = source_problems(str(file), task, text="data.bodi")
    assert problem.path == "text" and "no such column" in problem.reason
    table = pa.table({"data": [{"body": "x"}, {"body": "y"}], "kind": ["a", "b"]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    assert source_problems(str(tmp_path / "rows.parquet"), {"label": "kind"}, text="data.body") == []


def test_a_zip_has_files_of_its_own(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name, text in (
            ("b/2.csv", "text\nb\n"),
            ("a/1.CSV", "text\na\n"),
            ("b/.old.csv", "text\nold\n"),
            ("b/notes.md", "x"),
        ):
            archive.writestr(name, text)
    assert [part.name for part in parts_of(str(tmp_path / "all.zip"))] == [
        f"{tmp_path}/all.zip/a/1.CSV",
        f"{tmp_path}/all.zip/b/2.csv",
    ]
    assert [row.values["text"] for row in whole(tmp_path / "all.zip", Files())] == ["a", "b"]
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
        archive.writestr("notes.md", "x")
    with pytest.raises(BadInput, match="the zip has no data files"):
        parts_of(str(tmp_path / "none.zip"))


def test_how_a_file_is_packed_is_seen_in_it(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(gzip.compress(b"text\na\n"))
    (tmp_path / "rows.csv.gz").write_bytes(b"text\nb\n")
    (tmp_path / "words.txt").write_bytes(b"BZh is no word\n")
    with zipfile.ZipFile(tmp_path / "named.csv", "w") as archive:
        archive.writestr("inner", "text\nc\n")
    for name, text in (("rows.csv", "a"), ("rows.csv.gz", "b"), ("words.txt", "BZh is no word"), ("named.csv", "c")):
        assert [row.values["text"] for row in whole(tmp_path / name, Files())] == [text]


def test_which_files_are_data(tmp_path: Path) -> None:
    for name in ("a.csv", ".hidden.csv", ".ipynb_checkpoints/a.csv", "__MACOSX/._a.csv", "b [final].csv", "C.CSV", "x*y.csv"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text("text\na\n")
    there = [f"{tmp_path}/data/{name}" for name in ("C.CSV", "a.csv", "b [final].csv", "x*y.csv")]
    assert resolve(f"{tmp_path}/data") == there
    assert resolve(f"{tmp_path}/data/**") == there
    assert resolve(there[2]) == there[2:3] and resolve(there[3]) == there[3:], "a file that is there is meant"
    (tmp_path / "data" / "README.txt").write_text("about")
    (problem,) = source_problems(f"{tmp_path}/data", None)
    assert "README.txt" in problem.reason and "different kinds" in problem.reason


CHINESE = "text,label\n" + "".join(f"第{n}个水壶很好用，我很喜欢它,好评\n" for n in range(40))


@pytest.mark.parametrize(
    ("name", "content", "files", "told"),
    [
        ("gbk.csv", CHINESE.encode("gb18030"), {}, ("gb18030", "not utf-8", "row 1, line 2")),
        ("gbk.jsonl", '{"text": "水壶很好用，我很喜欢它，真的"}\n'.encode("gb18030") * 9, {}, ("gb18030", "line 1")),
        ("header.csv", "文本,标签\na,b\n".encode("gb18030"), {}, ("its header cannot be read", "encoding:")),
        ("unmarked.tsv", "text\tlabel\na\tb\n".encode("utf-16-le"), {}, ("utf-16-le", "unmarked.tsv")),
        ("half.csv", "text,label\na,b\n".encode("utf-16")[:-1], {}, ("half.csv", "no utf-16-le")),
        ("semicolons.csv", b"text;label\na;b\n", {}, ("a semicolon", "delimiter: ';'")),
        ("bare.csv", b"fine film,pos\nweak film,neg\nso so,pos\n", {}, ("columns: [text,",)),
        ("bare.csv", b"fine film,1\nweak film,0\n", {}, ("columns: [text,",)),
        ("array.jsonl", json.dumps([{"text": "a", "label": "b"}], indent=1).encode(), {}, ("one array", ".json")),
        ("marks.csv", b'text,label\n"a,b\nc,d\n', {}, ("stray quotation mark", "quoting: none")),
        ("twice.csv", b"text,label,label\na,b,c\n", {}, ("several columns of this name", "label")),
        ("locked.xlsx", b"\xd0\xcf\x11\xe0locked", {}, ("cannot be read as xlsx", "locked.xlsx")),
    ],
)
def test_what_cannot_be_read_is_told_with_a_remedy(
    tmp_path: Path, name: str, content: bytes, files: dict[str, Any], told: tuple[str, ...]
) -> None:
    (tmp_path / name).write_bytes(content)
    found = source_problems(str(tmp_path / name), {"label": "label"}, **files)
    said = "\n".join(f"{one.value} {one}" for one in found)
    assert all(words in said for words in told), said


@pytest.mark.parametrize(
    ("value", "absent"),
    [(None, True), (float("nan"), True), ("", True), (" \u3000\n", True), ("NA", True), (" N/A", True), ("<NA>", True)]
    + [(0, False), (False, False), ("none", False), ("Nan", False), ("nano", False), ("0", False), (float("inf"), False)],
)
def test_what_is_no_value(value: Any, absent: bool) -> None:
    assert is_absent(value) is absent


def test_bad_rows_are_allowed_up_to_their_share(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    good = [json.dumps({"text": f"text {n}", "label": n % 2}) for n in range(99)]
    file.write_text("\n".join([*good[:50], "nope", *good[50:]]))
    assert source_problems(str(file), {"label": "label"}) == []
    (problem,) = source_problems(str(file), {"label": "label"}, bad_rows=0.005)
    assert "1 of 100 rows" in problem.reason and "row 51, line 51: no JSON" in problem.reason
    with pytest.raises(ValidationError):
        PrepareConfig.model_validate({"source": "a.csv", "task": {"label": "label"}, "bad_rows": 2})


def test_values_that_are_no_single_ones_are_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": f"text {n}", "label": [n] if n == 7 else n % 2}) + "\n" for n in range(20)))
    (problem,) = source_problems(str(file), {"label": "label"})
    assert (problem.path, problem.value) == ("task.label", "label")
    assert problem.reason == f"row 8 of {file}: label holds a list, and single values are asked for"
    parquet.write_table(pa.table({"text": [b"fine", b"\xff\xfe"], "label": ["a", "b"]}), tmp_path / "rows.parquet")
    (problem,) = source_problems(str(tmp_path / "rows.parquet"), {"label": "label"})
    assert "row 2" in problem.reason and "text holds bytes that are not UTF-8" in problem.reason


def test_labels_are_the_same_however_they_are_composed_and_written(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\na,café\nb,1\nc,true\n")
    rows: list[dict[str, Any]] = [
        {"text": "d", "label": "cafe\u0301"},
        {"text": "e", "label": 1.0},
        {"text": "f", "label": True},
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = {"train": str(tmp_path / "train.csv"), "test": str(tmp_path / "test.jsonl")}
    assert source_problems(source, {"label": "label"}) == []
    rows[2]["label"] = False
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (problem,) = source_problems(source, {"label": "label"})
    assert (problem.path, problem.value) == ("source.test", "false")


def test_a_split_that_is_none_is_told_of_text_too(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,part\none,train\ntwo,holdout\n")
    (problem,) = source_problems(str(tmp_path / "rows.csv"), None, split={"by": "part"})
    assert (problem.path, problem.value) == ("split.by", "part") and "row 2" in problem.reason and "holdout" in problem.reason


def test_lines_end_at_line_ends_alone(tmp_path: Path) -> None:
    texts = ["a\u2028b", "c\x85d", "e\x0cf\x0bg", "h\x1ci", "j\u2029k"]
    (tmp_path / "rows.txt").write_text("\n".join(texts), encoding="utf-8")
    assert [row.values["text"] for row in whole(tmp_path / "rows.txt", Files())] == texts
    assert FilePart(str(tmp_path / "rows.txt"), "text").name == f"{tmp_path}/rows.txt"
