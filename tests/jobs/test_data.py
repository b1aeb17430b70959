"""From files to rows, tokens and batches, without a cluster. `pytest tests/jobs/test_data.py`"""

import gzip
import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from cluster.store import storage
from cluster.store.artifact import Kind
from jobs.core.config import Problem
from jobs.data.checking import check_source
from jobs.data.clean import Clean, clean_text, item_key, text_key
from jobs.data.formats import Files, file_format
from jobs.data.pack import pack, write_rows
from jobs.data.pieces import Row
from jobs.data.rows import Items, Reading
from jobs.data.sources import fingerprint, resolve
from jobs.data.splits import Split, split_of
from jobs.data.training_rows import TokenRows, epoch_batches, read_examples
from jobs.data.units import rows_of
from jobs.finetune import FinetuneConfig
from jobs.prepare import PrepareConfig, reading_of
from jobs.tasks import learning_of
from jobs.tasks.labelling import Labelling
from tests.jobs.tiny import publish_directory, source_problems

ROWS = [("hello there", "ham"), ("中奖了，请领取", "spam")]


@pytest.mark.parametrize(
    ("text", "settings", "cleaned"),
    [
        ("  a\u200b \t b\u00a0c\ufeff ", {}, "a b c"),
        ("one\n\n\n\n\ntwo", {}, "one\n\ntwo"),
        ("one\r\ntwo\rthree", {}, "one\ntwo\nthree"),
        ("page\x0cnext\x0bcell\x1fend\x00", {}, "page next cell end"),
        ("e\u0301te\u0301", {}, "été"),
        ("全角ＡＢＣ。　空格", {}, "全角ＡＢＣ。 空格"),
        ("<p class='x'>a<br/>b</p><!-- no\nway --> 1 < 2, 3 > 2 <3", {"strip_tags": True}, "a b 1 < 2, 3 > 2 <3"),
        ("<b>a</b>", {}, "<b>a</b>"),
        ("短", {"min_characters": 2}, ""),
        ("hello there", {"max_characters": 6}, "hello"),
        ("a\u200bb", {"unicode": False}, "a\u200bb"),
        ("\ud800 broken", {}, "broken"),
        ("e\u200b\u0301", {}, "é"),
        ("fr\u200cee mo\u200dney 中\u200d奖", {}, "free money 中奖"),
        (
            "soft\u00adly \u202eright\u202c \u2066a\u2069 wo\u2060rd \ue000icon\U000f0001 \ufdd0no\uffff",
            {},
            "softly right a word icon no",
        ),
        ("loose\U000e0067\U000e007f tags, \u200d👍\u200d at its ends\u200d", {}, "loose tags, 👍 at its ends"),
        ("می\u200c\u200c\u200fخواهم \u200cرا", {}, "می\u200cخواهم را"),
    ],
)
def test_cleaning(text: str, settings: dict[str, object], cleaned: str) -> None:
    assert clean_text(text, Clean.model_validate(settings)) == cleaned


@pytest.mark.parametrize(
    "text",
    [
        "👩🏽\u200d🚀 and 🏳️\u200d🌈, ❤️\u200d🩹",
        "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f won",
        "an emoji of tomorrow: \U0001fadf\U0001faf9, joined 🧑\u200d\U0001fbf0",
        "letters of tomorrow: \U000323b0\U000323b1",
        "نمی\u200cدانم، PDF\u200cها، ۲۰\u200cساله، ه\u200d.",
        "क्\u200dष क्\u200cष, ന്\u200d",
        "ᠰᠠᠷ\u180eᠠ",
        "ภาษา\u200bไทย",
        "葛\U000e0100, z̲̅, \u0600\u0661",
    ],
)
def test_cleaning_keeps_what_carries_meaning(text: str) -> None:
    assert clean_text(text, Clean()) == text


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Win a PRIZE now!!", "win a  prize\nnow!!"),
        ("很好，　喜欢！", "很好， 喜欢！"),
        ("Straße", "STRASSE"),
        ("cafe\u0301", "Café"),
    ],
)
def test_duplicates_share_a_key(left: str, right: str) -> None:
    assert text_key(left) == text_key(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("很好", "不好"), ("win 100", "win 1000"), (":-)", ":-("), ("👍", "👎"), ("ab c", "a bc"),
        ("so good 👍", "so good 👎"), ("I write F#", "I write F"),
        ("+3 for that", "-3 for that"), ("5 % of $", "5 $ of %"), ("really?", "really!"),
        ("a_b", "a b"), ("10² m", "102 m"), ("👨\u200d👩\u200d👧", "👨👩👧"),
    ],
)  # fmt: skip
def test_different_texts_have_different_keys(left: str, right: str) -> None:
    assert text_key(left) != text_key(right)


def test_splits_depend_on_the_text_alone_and_have_about_their_shares() -> None:
    keys = [text_key(f"text number {number}") for number in range(5000)]
    settings = Split(validation=0.1, test=0.2)
    found = [split_of(key, settings) for key in keys]
    assert found == [split_of(key, settings) for key in keys]
    shares = {name: found.count(name) / len(found) for name in ("test", "validation", "train")}
    # Four standard deviations of the shares of 5,000 draws.
    assert abs(shares["test"] - 0.2) < 0.023 and abs(shares["validation"] - 0.1) < 0.017
    more = Split(validation=0.3, test=0.2)
    assert all(split_of(key, more) == "test" for key, name in zip(keys, found, strict=True) if name == "test"), (
        "a larger validation split must not move texts of the test split"
    )


def write(place: Path, rows: Sequence[tuple[str, str]] = ROWS) -> str:
    """The rows in the format that the file's name says."""
    name = place.name.removesuffix(".gz")
    lines = {
        ".txt": [text for text, _ in rows],
        ".jsonl": [json.dumps({"text": text, "label": label}, ensure_ascii=False) for text, label in rows],
        ".csv": ["text,label", *(f'"{text}",{label}' for text, label in rows)],
        ".tsv": ["text\tlabel", *(f"{text}\t{label}" for text, label in rows)],
    }.get(Path(name).suffix)
    place.parent.mkdir(parents=True, exist_ok=True)
    if lines is None:
        parquet.write_table(pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]}), place)
    else:
        data = ("\n".join(lines) + "\n").encode()
        place.write_bytes(gzip.compress(data) if place.suffix == ".gz" else data)
    return str(place)


def texts(source: str) -> list[str]:
    return [row.values["text"] for file in resolve(source) for _, _, rows in rows_of(file, Files(), ["text"]) for row in rows]


def reason(source: str | dict[str, str], split: Split | None = None, label: str | None = "label") -> list[Problem]:
    return source_problems(source, None if label is None else {"label": label}, split=split or Split())


@pytest.mark.parametrize("ending", ["txt", "jsonl", "csv", "tsv", "parquet", "txt.gz", "jsonl.gz", "csv.gz"])
def test_each_format_is_read_as_single_file(tmp_path: Path, ending: str) -> None:
    source = write(tmp_path / f"rows.{ending}")
    assert resolve(source) == [source]
    assert texts(source) == [text for text, _ in ROWS]
    assert reason(source, label=None if ending.startswith("txt") else "label") == []


def test_line_breaks_and_quotes_inside_csv_fields(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('text,label\n"two\nlines, ""quoted""",ham\n')
    assert texts(str(tmp_path / "rows.csv")) == ['two\nlines, "quoted"']


def test_directories_and_globs_find_data_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [write(tmp_path / "data" / name, [(name, "ham")]) for name in ("a-1.csv", "a-2.csv", "b-1.csv")]
    (tmp_path / "data" / "README.md").write_text("about")
    assert resolve(str(tmp_path / "data")) == wanted
    assert resolve(str(tmp_path / "data" / "a-*.csv")) == wanted[:2]
    assert resolve(f"{tmp_path}/da*/[ab]-1.*") == [wanted[0], wanted[2]]
    deep = write(tmp_path / "data" / "b-2.csv" / "c" / "d-1.csv", [("deep", "ham")])
    assert resolve(f"{tmp_path}/data/*.csv") == resolve(f"{tmp_path}/*/?-?.csv") == wanted, "a directory is no file"
    assert resolve(f"{tmp_path}/**/d-*.csv") == resolve(f"{tmp_path}/data/*/*/d-1.*") == [deep]
    assert resolve(f"{tmp_path}/data/**") == sorted([*wanted, deep])
    monkeypatch.chdir(tmp_path / "data")
    assert resolve("a-?.csv") == resolve("./a-?.csv") == wanted[:2]
    assert resolve("b-1.csv") == wanted[2:]
    assert file_format("x.md") is None and file_format("x.tar.gz") is None


def test_sources_in_any_storage(storage_uri: str) -> None:
    """A file, a directory and a glob, on this host and in an object store."""
    for name in ("a-1.csv", "a-2.csv"):
        storage.write_bytes(f"{storage_uri}/data/{name}", f"text,label\n{name} 中奖,ham\n".encode())
    wanted = [f"{storage_uri}/data/a-1.csv", f"{storage_uri}/data/a-2.csv"]
    assert resolve(wanted[1]) == wanted[1:]
    assert resolve(f"{storage_uri}/data") == resolve(f"{storage_uri}/data/a-?.csv") == wanted
    assert texts(f"{storage_uri}/data") == ["a-1.csv 中奖", "a-2.csv 中奖"]
    before = fingerprint(f"{storage_uri}/data")
    storage.write_bytes(wanted[0], b"text,label\nother,ham\n")
    assert fingerprint(f"{storage_uri}/data") != before
    assert "no such file" in reason(f"{storage_uri}/none.csv")[0].reason


def test_the_fingerprint_is_the_contents(tmp_path: Path) -> None:
    first = fingerprint(write(tmp_path / "one" / "rows.csv"))
    assert fingerprint(write(tmp_path / "two" / "rows.csv")) == first, "the folder is not part of the data"
    assert fingerprint(write(tmp_path / "three" / "rows.csv", [*ROWS, ("more", "ham")])) != first
    assert fingerprint("sample:sms_spam") != fingerprint("sample:minilm_l6")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("none.csv", None, "no such file"),
        ("*.none", None, "no file matches"),
        ("notes.md", b"text", "no known kind of file"),
        ("empty.csv", b"", "no rows"),
        ("empty.jsonl", b"", "no rows"),
        ("empty.txt", b"\n\n", "no rows"),
        ("head.csv", b"text,label\n", "no rows"),
        ("empty.csv.gz", gzip.compress(b"", mtime=0), "no rows"),
        ("cut.csv.gz", gzip.compress(b"text,label\n" + b"hello there,1\n" * 1000, mtime=0)[:-20], "cannot be read as csv"),
        ("plain.zip", b"text,label\nhello,1\n", "it is no zip"),
        ("bad.parquet", b"not parquet at all", "cannot be read as parquet"),
        ("bad.jsonl", b'{"text": "a", "label": "x"}\nnope\n', "bad.jsonl, row 2, line 2: no JSON"),
        ("latin.txt", "café".encode("latin-1"), "byte 4 of the file, 0xe9, is no utf-8"),
        ("ragged.csv", b"text,label\na,b\nc,d,e\n", "3 fields under a header of 2"),
    ],
)
def test_sources_that_cannot_be_used_are_told_before_anything_runs(
    tmp_path: Path, name: str, content: bytes | None, told: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    (problem,) = reason(str(tmp_path / name), label=None)
    assert problem.path == "source" and told in problem.reason and problem.remedy
    assert str(tmp_path / name) in f"{problem.value} {problem.reason}", "the file is named"


def test_missing_columns_and_splits_are_told_with_the_nearest_name(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.csv")
    found = source_problems(source, {"label": "lable"}, text="txt", split=Split(by="fold"))
    assert [(problem.path, problem.remedy) for problem in found] == [
        ("text", "Did you mean text?"),
        ("task.label", "Did you mean label?"),
        ("split.by", "Known here: label, text."),
    ]
    (problem,) = source_problems(source, {"label": "label"}, slices=["sauce"])
    assert (problem.path, problem.value, problem.remedy) == ("slices.0", "sauce", "Known here: label, text.")
    (problem,) = reason({"train": source, "vaildation": source})
    assert problem.remedy == "Did you mean validation?"


def test_labels_that_train_lacks_are_told_by_file_and_by_column(tmp_path: Path) -> None:
    train, test = write(tmp_path / "train.csv"), write(tmp_path / "test.csv", [("x", "ham"), ("y", "scam"), ("z", "")])
    (problem,) = reason({"train": train, "test": test})
    assert (problem.path, problem.value) == ("source.test", "scam") and "not in the training set" in problem.reason

    column = tmp_path / "rows.csv"
    column.write_text("text,label,part\na,ham,train\nb,spam,TRAIN\nc,scam,dev\nd,,dev\n")
    (problem,) = reason(str(column), Split(by="part"))
    assert (problem.path, problem.value) == ("source.validation", "scam")
    column.write_text("text,label,part\na,ham,train\nb,spam,holdout\n")
    (problem,) = reason(str(column), Split(by="part"))
    assert (problem.path, problem.value) == ("split.by", "part") and "row 2" in problem.reason
    assert "part is 'holdout'" in problem.reason and "no name of a split" in problem.remedy


def test_pairs_need_both_texts_and_their_columns(tmp_path: Path) -> None:
    source = tmp_path / "pairs.csv"
    source.write_text("first,second,label\na man sings,a man is silent,no\na dog runs,,yes\n,,yes\nx,  ,no\n")
    task = {"label": "label", "pair": "second"}
    (problem,) = source_problems(str(source), task, text="first")
    assert (problem.path, problem.value) == ("task.pair", "second")
    assert problem.reason == f"row 2 of {source} has no pair, and 1 rows more lack one"
    missing = source_problems(str(source), {"label": "lable", "pair": "secnd"}, text="frist")
    assert [(one.path, one.value) for one in missing] == [("text", "frist"), ("task.label", "lable"), ("task.pair", "secnd")]
    source.write_text("first,second,label\na man sings,a man is silent,no\na dog runs,a dog moves,yes\n")
    assert source_problems(str(source), task, text="first") == []
    unlabelled = tmp_path / "more.csv"
    unlabelled.write_text("first\na bird flies\n")
    (problem,) = source_problems({"train": str(source), "unlabelled": str(unlabelled)}, task, text="first")
    assert (problem.path, problem.value) == ("task.pair", "second")


def test_a_text_is_no_pair_of_itself(tmp_path: Path) -> None:
    (problem,) = source_problems(write(tmp_path / "rows.csv"), {"label": "label", "pair": "text"})
    assert (problem.path, problem.value) == ("task.pair", "text") and "has this column already" in problem.reason


def test_a_wrong_target_that_stands_in_the_text_is_told_by_the_texts_key(tmp_path: Path) -> None:
    class InTheText(Labelling):
        def targets(self, frame: pd.DataFrame) -> tuple[dict[str, list[Any]], dict[int, str]]:
            return {"label": [None] * len(frame)}, {1: "no such text is meant"}

    source = write(tmp_path / "rows.csv")
    settings = learning_of("classification").Settings.model_validate({"label": "text"})
    reading = Reading({"text": "text"}, Clean(), Split(), InTheText(settings, {"text": "text"}))
    (problem,) = check_source(source, reading, {"text": "text", "task.label": "text"})
    assert (problem.path, problem.reason) == ("text", f"row 2 of {source}: no such text is meant")


def test_columns_of_lists_are_no_texts_and_no_labels(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text('{"text": ["a", "b"], "other": "x", "label": {"id": 1}}\n')
    found = source_problems(str(source), {"label": "label", "pair": "other"})
    assert [(one.path, one.value) for one in found] == [("text", "text")]
    assert found[0].reason == f"row 1 of {source}: text holds a list, and single values are asked for"


def test_items_of_two_texts_are_told_apart_by_both() -> None:
    keys = {item_key(texts) for texts in (("a b", "c"), ("a", "b c"), ("c", "a b"), ("a b c", ""), ("a b", "d"))}
    assert len(keys) == 5
    assert item_key(("Win!", "now")) == item_key(("win!", "NOW")) != item_key(("win", "now")), "as of single texts"
    assert item_key(("Win a prize",)) == text_key("Win a prize")


def test_numbers_as_labels_are_the_same_in_files_where_some_are_missing(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", [("a", "0"), ("b", "1")])
    test = write(tmp_path / "test.parquet", [])
    parquet.write_table(pa.table({"text": ["c", "d"], "label": [1.0, None]}), test)
    assert reason({"train": train, "test": test}) == []


def test_labels_are_the_same_in_whichever_form_they_were_typed(tmp_path: Path) -> None:
    decomposed = {label: unicodedata.normalize("NFD", label) for label in ("crêpe", "thé")}
    train = write(tmp_path / "train.csv", [("a", "crêpe"), ("b", "thé")])
    test = write(tmp_path / "test.csv", [("c", decomposed["crêpe"]), ("d", decomposed["thé"])])
    assert reason({"train": train, "test": test}) == []
    columns = {"text": ["a", "b"], "label": decomposed.values(), "shop": [" Zoe\u0308 ", None]}
    task = {"label": "label", "names": {decomposed["crêpe"]: decomposed["thé"], "thé": "noix"}}
    config = PrepareConfig.model_validate({"source": "x", "task": task, "slices": ["shop"]})
    rows = [Row(dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]
    kept, _ = Items(reading_of(config), "train", {"train"}).frame(rows)
    assert (kept["label"].tolist(), kept["slice_shop"][0]) == (["thé", "noix"], "Zoë")
    weights = FinetuneConfig.model_validate({"model": "x", "max_length": 16, "class_weights": {decomposed["thé"]: 2.0}})
    assert weights.class_weights == {"thé": 2.0}


def test_what_a_row_lacks_is_no_text_no_label_and_no_slice() -> None:
    columns: dict[str, list[Any]] = {
        "message": ["one", None, "three", "four", "five", float("nan"), " NA "],
        "reply": ["a", "b", "null", "d", "e", "f", "g"],
        "label": [1, 2, 1, None, 2.0, 1, 2],
        "country": [None, "x", "x", "x", "y", "x", "x"],
    }
    task = {"label": "label", "pair": "reply"}
    config = PrepareConfig.model_validate({"source": "a.csv", "text": "message", "task": task, "slices": ["country"]})
    found = [Row(dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]
    frame, faults = Items(reading_of(config), "train", {"train"}).frame(found)
    names = ["text", "pair", "label", "slice_country"]
    rows = [{"text": "one", "pair": "a", "label": "1"}, {"text": "five", "pair": "e", "label": "2", "slice_country": "y"}]
    assert pa.Table.from_pandas(frame).select(names).to_pylist() == [dict.fromkeys(names) | row for row in rows]
    reasons = {place: fault.reason for place, fault in faults.items()}
    assert reasons == {1: "no text", 2: "no text", 3: "no target", 5: "no text", 6: "no text"}


def test_packing_loses_nothing_and_pads_only_the_end() -> None:
    generator = np.random.default_rng(0)
    documents = [[2, *generator.integers(5, 300, generator.integers(0, 30)).tolist(), 3] for _ in range(57)]
    stream = [token for document in documents for token in document]
    ids_NT = pack(documents, 16, pad=0, vocab_size=300)
    assert ids_NT.shape == (-(-len(stream) // 16), 16) and ids_NT.dtype == np.uint16
    assert ids_NT.reshape(-1)[: len(stream)].tolist() == stream
    assert not ids_NT.reshape(-1)[len(stream) :].any() and (ids_NT[:-1] != 0).all()
    assert pack([], 16, 0, 300).shape == (0, 16)
    assert pack([[65_535]], 4, 0, 65_536).tolist() == [[65_535, 0, 0, 0]]
    assert pack([[65_536]], 4, 0, 65_537).tolist() == [[65_536, 0, 0, 0]]


def test_rows_of_several_files_are_found_by_number(tmp_path: Path) -> None:
    draft = tmp_path / "draft"
    parts = [
        np.arange(start, start + size * 4, dtype=np.uint16).reshape(size, 4) for start, size in ((0, 3), (100, 1), (200, 5))
    ]
    for part in parts:
        name, file = write_rows(part, str(draft), "train")
        assert (draft / name).stat().st_size == file.size
    rows = TokenRows(publish_directory(draft, tmp_path / "tokens", Kind.TOKENS), "train")
    assert len(rows) == 9
    found = rows.rows(np.arange(9))
    assert found.dtype == np.int64
    assert sorted(map(tuple, found.tolist())) == sorted(tuple(row) for part in parts for row in part.tolist())
    mixed = np.array([8, 0, 3, 3])
    assert (rows.rows(mixed) == found[mixed]).all()
    empty = TokenRows(publish_directory(draft, tmp_path / "tokens", Kind.TOKENS), "test")
    assert len(empty) == 0


def test_a_split_that_is_not_there_is_an_empty_table(tmp_path: Path) -> None:
    write(tmp_path / "draft" / "train" / "rows.parquet")
    examples = publish_directory(tmp_path / "draft", tmp_path / "examples", Kind.EXAMPLES)
    assert read_examples(examples, "train").num_rows == 2
    assert read_examples(examples, "test").schema == read_examples(examples, "train").schema


@pytest.mark.parametrize("grouped", [False, True])
def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch_alone(grouped: bool) -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 103).tolist() if grouped else None

    def order(seed: int, epoch: int, size: int = 8) -> list[list[int]]:
        return [batch.tolist() for batch in epoch_batches(103, size, seed, epoch, lengths)]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1) and order(1, 0) != order(2, 0)
    flat = [number for batch in order(1, 0) for number in batch]
    assert len(flat) == len(set(flat)) == 96, "whole batches, nothing twice"
    seen = {number for epoch in range(20) for batch in order(1, epoch) for number in batch}
    assert seen == set(range(103)), "what one epoch leaves out is seen in others"


def test_grouping_by_length_saves_padding_and_keeps_batches_in_random_order() -> None:
    lengths = np.random.default_rng(0).integers(1, 129, 2000)

    def padding(grouped: bool) -> float:
        batches = list(epoch_batches(2000, 16, 0, 0, lengths.tolist() if grouped else None))
        return sum(lengths[batch].max() * len(batch) for batch in batches) / sum(lengths[batch].sum() for batch in batches)

    assert padding(False) > 1.7 and padding(True) < 1.1
    means = [lengths[batch].mean() for batch in epoch_batches(2000, 16, 0, 0, lengths.tolist())]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3, "short texts first would be a curriculum"
