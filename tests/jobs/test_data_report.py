"""The report that prepare writes about its data: what is on it adds up, and what is in a text does no harm there.
`pytest tests/jobs/test_data_report.py`"""

import json
import random
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster.connection.connect import Cluster
from cluster.store.artifact import Kind
from jobs.contracts.learning import Columns
from jobs.core.places import locate
from jobs.core.recipe import load_recipe
from jobs.core.stage import Context, Inputs, Outcome
from jobs.data import row_sample
from jobs.data.clean import text_key
from jobs.data.row_sample import RowSampling, joined
from jobs.judging.data_report import DATA_PAGE, DATA_RECORD, SHOWN_CHARACTERS, Counted, data_report, shown
from jobs.pipeline import headline
from jobs.prepare import PrepareConfig, run
from jobs.report.data_page import data_report_files, render_data_page
from jobs.tasks.classification import ClassificationLearning
from serve.tasks.classification import Classification
from tests.jobs.one_step import write_one_step
from tests.jobs.tiny import MESSAGES, publish_directory

SPEC = Classification(labels=("ham", "spam"))
ODD = [
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    '"><style>body{display:none}</style></q>',
    "‮gnp.exe is read backwards",
    "שלום עולם, this goes both ways",
    "nothing to break at " + "x" * 5_000,
    "很长的一句话" * 300,
    "controls \x00\x07 and\ttabs\nand lines",
]


def table(rows: Sequence[tuple[str, str | None]], split: str = "train") -> pa.Table:
    """Rows as prepare has them."""
    columns = {"key": [text_key(text) for text, _ in rows], "text": [text for text, _ in rows]}
    types = pa.schema([("key", pa.string()), ("text", pa.string()), ("label", pa.string()), ("split", pa.string())])
    return pa.table({**columns, "label": [label for _, label in rows], "split": [split] * len(rows)}, schema=types)


def files_of(blocks: list[pa.Table], rows: int = 0) -> dict[str, str]:
    """The report's files of these blocks."""
    sampling = RowSampling.of(rows or sum(block.num_rows for block in blocks), ["text"], ["label"])
    metrics = {"rows_read": 90, "rows_duplicate": 10, "train_rows": 60, "validation_rows": 20}
    statistics = {"train": {"ham": 30, "spam": 30}, "validation": {"ham": 10, "spam": 10}}
    counted = Counted(metrics, {}, {"train": 60, "validation": 20}, statistics)
    return data_report_files(counted, [sampling.part(block) for block in blocks], ["text"], SPEC)


class Page(HTMLParser):
    """The elements of a page and what stands in its tables' cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.quoted: list[str] = []
        self.directions: set[str | None] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        if tag == "q":
            self.quoted.append("")
            self.directions.add(dict(attrs).get("dir"))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1] == "q":
            self.quoted[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.elements.append(f"/{tag}")


def test_blocks_make_no_difference() -> None:
    train, validation = MESSAGES[:60], MESSAGES[60:]
    whole = files_of([table(train), table(validation, "validation")])
    shuffled = list(train)
    random.Random(3).shuffle(shuffled)
    parts = [table(validation[:1], "validation"), table(shuffled[:7]), table([]), table(shuffled[7:])]
    assert files_of([*parts, table(validation[1:], "validation")]) == whole
    assert set(whole) == {DATA_PAGE, DATA_RECORD}
    found = json.loads(whole[DATA_RECORD])
    assert sum(found["lengths"]["characters"]["counts"]) == 80 == found["sampled"]
    assert {split: sum(own.values()) for split, own in found["languages"].items()} == {"train": 60, "validation": 20}


def test_a_sample_is_even_over_splits_and_starts_of_keys_and_no_larger_than_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_sample, "SAMPLED_ROWS", 400)
    rows = sorted((text_key(f"text {number}"), number) for number in range(8_000))
    # As prepare has them under a limit: the first by their keys.
    columns = {"key": [key for key, _ in rows[:4_000]], "text": [f"text {number}" for _, number in rows[:4_000]]}
    blocks = pa.table({**columns, "split": ["train"] * 4_000})
    sampling = RowSampling.of(4_000, ["text"])
    sample = joined([sampling.part(blocks.slice(start, 500)) for start in range(0, 4_000, 500)])
    # Five standard deviations of 4,000 draws at a tenth.
    assert abs(sample.num_rows - 400) < 95
    assert abs(np.mean([int(key[16], 16) < 8 for key in sample["key"].to_pylist()]) - 0.5) < 0.13


def test_lengths_are_those_of_whole_texts_and_a_chinese_character_is_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_sample, "WHOLE_ROWS", 0)
    rows: list[tuple[str, str | None]] = [("word " * 3_000, "ham"), ("我们 meet 六点", "spam")]
    sample = joined([RowSampling.of(2, ["text"], ["label"]).part(table(rows))])
    lengths = {row["label"]: (row["characters"], row["words"], len(row["text"])) for row in sample.to_pylist()}
    assert lengths == {"ham": (15_000, 3_000, row_sample.CUT), "spam": (10, 5, 10)}


@pytest.mark.parametrize("text", ODD)
def test_what_is_shown_of_a_text_is_one_short_line(text: str) -> None:
    line = shown(text)
    assert len(line) <= SHOWN_CHARACTERS and line.isprintable()
    assert "\u202e" not in line


def test_texts_are_texts_on_the_page() -> None:
    odd: list[tuple[str, str | None]] = [(text, "ham" if number % 2 else "<b>spam</b>") for number, text in enumerate(ODD)]
    rows = [*((text, "ham" if label == "ham" else "<b>spam</b>") for text, label in MESSAGES), *odd]
    spec = Classification(labels=("<b>spam</b>", "ham"))
    sample = joined([RowSampling.of(len(rows), ["text"], ["label"]).part(table(rows))])
    pair = {"dropped": ODD[0], "kept": ODD[3], "similarity": 0.91}
    bad = {"by_reason": {"no JSON": 1}, "first": [{"file": "/a/<i>.jsonl", "row": 1, "reason": "no JSON", "detail": ODD[0]}]}
    counted = Counted(
        {"rows_read": 88, "rows_bad": 1, "rows_<u>": 3, "train_rows": 87}, {"near_duplicates": [pair], "bad_rows": bad},
        {"train": 87}, {"train": {"<b>spam</b>": 44, "ham": 43}},
    )  # fmt: skip
    found = data_report(counted, sample, ["text"], spec)
    found["samples"]["train"] = [{"texts": [shown(text)], "target": "ham"} for text in ODD]
    written = render_data_page(found)
    page = Page(written)
    assert not {"script", "img", "b", "i", "u"} & set(page.elements)
    assert page.elements.count("style") == 1 + page.elements.count("svg"), "the page's own and one of each figure"
    assert page.directions == {"auto"}
    assert {shown(text) for text in ODD} <= set(page.quoted)
    assert "/a/" not in written, "where files lie makes no other report"
    for name in ("q", "table", "section", "span", "div"):
        assert page.elements.count(name) == page.elements.count(f"/{name}")


def test_each_count_is_on_the_page_and_in_one_sum() -> None:
    metrics = {
        "rows_read": 100, "rows_duplicate": 5, "rows_near_duplicate": 9, "rows_near_conflicting": 2, "rows_filtered_length": 4,
        "rows_dropped_email": 3, "texts_masked_phone": 11, "texts_language_unknown": 6, "train_rows": 79, "seconds": 3.5,
    }  # fmt: skip
    sample = joined([RowSampling.of(80, ["text"], ["label"]).part(table(MESSAGES))])
    found = data_report(Counted(metrics, {}, {"train": 79}), sample, ["text"], SPEC)
    assert accounted(found)
    page = render_data_page(found)
    for words in ("nearly the same as another row", "filtered: length", "dropped for personal data: email"):
        assert f"{words}</th>" in page
    for words in ("2 nearly the same as another row and at odds with it", "11 texts with personal data masked: phone"):
        assert words in page
    assert "6 texts whose language cannot be told" in page


def test_a_target_is_told_of_whole_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_sample, "WHOLE_ROWS", 20)
    asked: list[int] = []
    truth = ClassificationLearning.truth

    def noted(learning: ClassificationLearning, spec: Any, columns: Columns) -> np.ndarray:
        asked.extend(len(text) for text in columns["text"])
        return truth(learning, spec, columns)

    monkeypatch.setattr(ClassificationLearning, "truth", noted)
    rows = [(f"{number} " * 2_000, "ham" if number % 2 else "spam") for number in range(100, 200)]
    found = data_report(
        Counted({}, {}, {}), joined([RowSampling.of(100, ["text"], ["label"]).part(table(rows))]), ["text"], SPEC
    )
    told = [row["target"] for row in found["samples"]["train"]]
    assert told == sorted(told) and {"ham", "spam"} == set(told)
    for_samples, for_suspicions = asked[:-100], asked[-100:]
    # Five standard deviations of 100 draws at a fifth.
    assert 0 < len(for_samples) < 40 and set(for_samples) == {8_000}
    assert for_suspicions.count(row_sample.CUT) == 100 - len(for_samples)


def test_pairs_of_segments_say_which_documents_gave_no_row() -> None:
    metrics = {"rows_read": 80, "train_rows": 12, "train_tokens": 900, "train_documents_left_out": 1234}
    sample = joined([RowSampling.of(80, ["text"], ["label"]).part(table(MESSAGES))])
    page = render_data_page(data_report(Counted(metrics, {}, {"train": 80}), sample, ["text"]))
    assert "documents without a row" in page and "<td>1,234</td>" in page and "<td>75.0</td>" in page


def test_a_finished_step_says_where_the_page_is(tmp_path: Path) -> None:
    place = locate(load_recipe(write_one_step(tmp_path)), str(tmp_path / "runs"))["corpus"]
    (tmp_path / "draft").mkdir()
    (tmp_path / "draft" / DATA_PAGE).write_text("a page")
    artifact = publish_directory(tmp_path / "draft", str(place.uri), Kind.TOKENS, metrics={"train_rows": 5})
    assert headline(place, artifact) == f"train_rows 5  look at {place.uri}/{DATA_PAGE}"


def prepared(place: Path, name: str, **settings: Any) -> tuple[Outcome, dict[str, Any], str]:
    """What prepare makes of it, and its report."""
    directory = place / name
    directory.mkdir()
    context = Context(str(place), "tiny", name, str(place / f"{name}-out"), "a", directory=directory)
    outcome = run(PrepareConfig.model_validate(settings), Inputs(), context)
    return outcome, json.loads((directory / DATA_RECORD).read_text()), (directory / DATA_PAGE).read_text()


def accounted(found: dict[str, Any]) -> bool:
    """Whether the rows that came are those that are kept and those that are left out."""
    rows = found["rows"]
    return bool(rows["read"] + rows["made"] == sum(rows["kept"].values()) + sum(rows["left_out"].values()))


def test_examples_have_a_report_that_adds_up(ray_driver: Cluster, tmp_path: Path) -> None:
    wrong = MESSAGES[0][0], "spam"
    rows = [*MESSAGES[1:], *((text.upper(), label) for text, label in MESSAGES[1:9]), wrong]
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    lines += ["{broken", '{"text": null, "label": "ham"}', '{"text": "in two minds", "label": "ham"}']
    lines += ['{"text": "in two minds", "label": "spam"}', '{"text": "no label"}']
    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(lines))
    settings: dict[str, Any] = {"source": str(source), "task": {"kind": "classification"}, "bad_rows": 0.1}
    settings |= {"split": {"validation": 0.2}, "augment": {"copies": 2}}
    outcome, found, page = prepared(tmp_path, "rows", **settings)
    metrics = outcome.metrics
    assert accounted(found)
    assert (found["rows"]["read"], found["rows"]["made"]) == (metrics["rows_read"], metrics["rows_made"]) and metrics[
        "rows_made"
    ]
    assert found["rows"]["kept"] == {
        "train": metrics["train_rows"] + metrics["unlabelled_rows"], "validation": metrics["validation_rows"],
    }  # fmt: skip
    assert found["rows"]["left_out"] == {
        name: value for name, value in metrics.items() if name.startswith("rows_") and name not in ("rows_read", "rows_made")
    }
    assert found["rows"]["left_out"]["rows_conflicting"] == 2 and found["rows"]["left_out"]["rows_bad"] == 1
    assert {split: sum(own.values()) for split, own in found["targets"].items()} == found["rows"]["targeted"]
    assert found["sampled"] == sum(found["rows"]["kept"].values())
    assert found["suspicious"]["looked_at"] == metrics["train_rows"]
    assert found["suspicious"]["rows"][0]["texts"] == [wrong[0]] and found["suspicious"]["rows"][0]["likely"] == "ham"
    assert "rows.jsonl" in page and str(tmp_path) not in page
    limited, found, _ = prepared(tmp_path, "limited", **settings, limit=30)
    assert accounted(found) and sum(found["rows"]["kept"].values()) == 30 and found["rows"]["left_out"]["rows_over_the_limit"]


def test_tokens_have_one_too_and_it_is_the_same_again(ray_driver: Cluster, tmp_path: Path) -> None:
    texts = [f"the old river {number} carried the bridge" for number in range(120)] + [
        "我们六点见面",
        "the old river 7 carried the bridge",
    ]
    pages = set()
    for name, cut in (("one", [texts]), ("three", [texts[:50], texts[50:51], texts[51:]])):
        (tmp_path / f"{name}-source").mkdir()
        for number, part in enumerate(cut):
            (tmp_path / f"{name}-source" / f"{number}.txt").write_text("\n".join(part))
        settings: dict[str, Any] = {
            "source": str(tmp_path / f"{name}-source"),
            "tokenizer": {"train": "wordpiece", "vocab_size": 200},
        }
        outcome, found, page = prepared(tmp_path, name, **settings, max_length=32)
        pages.add(page)
        assert accounted(found) and found["rows"]["left_out"]["rows_duplicate"] == 1
        assert sum(found["rows"]["kept"].values()) == 121 == found["sampled"]
        assert found["tokens"]["train"]["tokens"] == outcome.metrics["train_tokens"]
        assert found["suspicious"] is None and found["targets"] == {}
    assert len(pages) == 1
