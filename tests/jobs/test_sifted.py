"""Filters and personal data in prepare, on a real cluster: what is left, and that all else is counted and named.

pytest tests/jobs/test_sifted.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

from cluster.connection.connect import Cluster
from jobs.core.config import BadInput
from jobs.core.recipe import parse_recipe
from jobs.core.stage import Context, Inputs, Outcome
from jobs.data.clean import Clean
from jobs.data.filters import Filters
from jobs.data.left_out import LeftOut
from jobs.data.pieces import Row
from jobs.data.rows import Items, Reading
from jobs.data.splits import Split
from jobs.prepare import PrepareConfig, run
from tests.jobs.articles import CHINESE, ENGLISH, page
from tests.spotting.installed import KIND, installed

ROOT = Path(__file__).parents[2]


def prepared(place: Path, **settings: Any) -> tuple[Outcome, list[dict[str, Any]]]:
    """What prepare makes of it, and the rows of all splits."""
    directory = place / "made"
    directory.mkdir()
    context = Context(str(place), "tiny", "rows", str(place / "out"), "a", directory=directory)
    outcome = run(PrepareConfig.model_validate(settings), Inputs(), context)
    return outcome, [row for path in outcome.files for row in parquet.read_table(place / "out" / path).to_pylist()]


def test_each_row_is_kept_or_counted_by_the_filter_that_drops_it(ray_driver: Cluster, tmp_path: Path) -> None:
    german = "Der Regen hörte gegen Mittag auf, und alle klappten ihre Schirme wieder zu, nur der alte Mann am Hafen nicht."
    texts = [
        *(f"{article}\n\n{number}" for number in range(6) for article in (ENGLISH, CHINESE)),
        page(ENGLISH + "\n\nSaid on page one.", chinese=False),
        page(CHINESE + "\n\n第一版。", chinese=True),
        "<html><body><nav><a href='/'>Home</a></nav></body></html>",
        german,
        german + " So war es.",
        "ok",
        f"{ENGLISH}\n\nTom Ellery can be reached by ellery@example.com or on +44 20 7946 0958, and by ann@example.com.",
        f"{CHINESE}\n\n托马斯的手机号是13812345678,卡号4111 1111 1111 1111。",
        "win a prize now " * 30,
        f"{ENGLISH}\n\nlorem ipsum",
        f"{ENGLISH}\n\n© 2024 Harbour Times. All rights reserved.",
        ENGLISH,
        ENGLISH,
        "",
        None,
    ]
    lines = [json.dumps({"text": text, "label": "ab"[number % 2]}, ensure_ascii=False) for number, text in enumerate(texts)]
    (tmp_path / "rows.jsonl").write_text("\n".join([*lines, "{broken"]), encoding="utf-8")
    outcome, rows = prepared(
        tmp_path,
        source=str(tmp_path / "rows.jsonl"),
        task={"label": "label"},
        bad_rows=0.1,
        filters={"html": "extract", "boilerplate": True, "language": ["en", "zh"], "quality": "gopher"},
        personal={"email": "mask", "phone": "mask", "card": "drop"},
    )
    metrics = outcome.metrics
    gone = {name: count for name, count in metrics.items() if name.startswith("rows_") and name != "rows_read" and count}
    assert gone == {
        "rows_bad": 1,
        "rows_without_text": 2,
        "rows_filtered_html": 1,
        "rows_filtered_boilerplate": 1,
        "rows_filtered_language": 2,
        "rows_filtered_words": 1,
        "rows_filtered_top_ngrams": 1,
        "rows_dropped_card": 1,
        "rows_conflicting": 1,
        "rows_duplicate": 1,
    }
    assert metrics["rows_read"] == len(texts) + 1 == len(rows) + sum(gone.values())
    changed = {name: count for name, count in metrics.items() if name.startswith("texts_")}
    assert changed == {
        "texts_language_unknown": 1, "texts_without_boilerplate": 1, "texts_masked_email": 1, "texts_masked_phone": 1,
    }  # fmt: skip
    kept = {row["text"] for row in rows}
    assert {f"{ENGLISH}\n\nSaid on page one.", f"{CHINESE}\n\n第一版。"} <= kept
    assert f"{ENGLISH}\n\nTom Ellery can be reached by <EMAIL> or on <PHONE>, and by <EMAIL>." in kept


def test_the_first_rows_that_are_sifted_out_are_named_by_reason() -> None:
    filters = Filters.model_validate({"language": ["zh"], "length": {"min_words": 3}})
    reading = Reading({"text": "text"}, Clean(), Split(), sieves=filters.sieves())
    rows = [Row({"text": text}) for text in (*[ENGLISH] * 20, "好", CHINESE, *["一二"] * 5)]
    made, left_out = Items(reading, "", set()), LeftOut()
    frame, faults = made.frame(rows)
    left_out.add("a.txt", 100, rows, faults)
    left_out.tally.update(made.tally)
    both = LeftOut.joined([left_out.as_json(), left_out.as_json()])
    told = both.details()
    assert len(frame) == 1 and told["bad_rows"]["by_reason"] == {"filtered language": 40, "filtered length": 12}
    assert [(one["row"], one["detail"]) for one in told["sifted_rows"]] == [
        (101, "text: language: it is in en"),
        (102, "text: language: it is in en"),
        (121, "text: length: it has 1 words"),
        (123, "text: length: it has 2 words"),
    ]
    assert str(both) == "40 filtered language, 12 filtered length"


def test_a_page_is_seen_whole_however_short_texts_are_cut() -> None:
    reading = Reading({"text": "text"}, Clean(max_characters=40), Split(), pages=Filters(html="extract").pages())
    long = page(ENGLISH, chinese=False).replace("<script>", f"<script>{'x' * 1_000}")
    frame, faults = Items(reading, "", set()).frame([Row({"text": long})])
    assert not faults and frame["text"].tolist() == [ENGLISH[:40].rstrip()]


def test_without_any_text_left_it_is_told_which_filter_was_it(ray_driver: Cluster, tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("\n".join(f"the text of row {number}" for number in range(5)))
    with pytest.raises(BadInput, match="no text is left of 5 rows: 5 filtered length"):
        source, tokenizer = str(tmp_path / "rows.txt"), {"train": "wordpiece"}
        prepared(tmp_path, source=source, tokenizer=tokenizer, filters={"length": {"min_words": 9}})


@pytest.mark.parametrize(
    ("personal", "path", "told"),
    [
        ({"passport": "mask"}, "passport", "no such key"),
        ({"email": "hide"}, "email", "'mask' or 'drop'"),
        ({"phone": "mask", "regions": ["UK"]}, "regions", "UK is no country whose phone numbers are known"),
    ],
)
def test_personal_data_that_is_none_is_refused(personal: dict[str, Any], path: str, told: str) -> None:
    with pytest.raises(BadInput) as caught:
        steps = {"rows": {"stage": "prepare", "source": "a.csv", "tokenizer": {"train": "wordpiece"}, "personal": personal}}
        parse_recipe({"name": "tiny", "steps": steps})
    (problem,) = caught.value.problems
    assert problem.path == f"steps.rows.personal.{path}" and told in problem.reason


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        ({"filters": {"boilerplate": True}}, "filters.boilerplate"),
        ({"personal": {"card": "drop", "email": "mask"}}, "personal.email"),
        ({"filters": {"language": ["en"]}, "personal": {"card": "drop"}}, None),
    ],
)
def test_texts_whose_words_are_counted_are_not_changed(tmp_path: Path, asked: dict[str, Any], key: str | None) -> None:
    step = {"source": "a.csv", "task": {"kind": KIND, "passage": "passage", "answer": "answer"}, **asked}
    code = "import json, sys; from jobs.prepare import PrepareConfig; PrepareConfig.model_validate(json.loads(sys.argv[1]))"
    path = f"{installed(tmp_path)}{os.pathsep}{ROOT}"
    command = [sys.executable, "-c", code, json.dumps(step)]
    ran = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert (ran.returncode == 0) == (key is None), ran.stderr
    assert key is None or f"mean nothing once they are moved: leave out {key}" in ran.stderr
