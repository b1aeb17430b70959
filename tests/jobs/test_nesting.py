"""No model is judged on what it has read: splits of several steps over one source nest. `pytest tests/jobs/test_nesting.py`"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cluster.connection.connect import Cluster
from cluster.store.artifact import Artifact
from jobs.core.config import BadInput, Problem
from jobs.core.recipe import Recipe, load_recipe, parse_recipe
from jobs.data.decontamination import held_out
from jobs.data.dedup import index_of, kept_rows
from jobs.data.formats import Files
from jobs.data.rows import Items, Sieve
from jobs.data.sources import each, resolve
from jobs.data.tokenizer import tokenizer_of
from jobs.data.training_rows import TokenRows, read_examples
from jobs.data.units import rows_of
from jobs.prepare import PrepareConfig, divided_shares, reading_of
from jobs.running.execute import execute
from jobs.running.parents import parent_problems
from jobs.running.preflight import preflight
from tests.jobs.test_splits import stratified

ROOT = Path(__file__).parents[2]
RECIPES = sorted([*(ROOT / "jobs" / "recipes").glob("*.yaml"), *(ROOT / "tests" / "benchmarks").glob("*.yaml")])
CHARACTERS = {"train": "characters", "vocab_size": 400}


def recipe(corpus: dict[str, Any], rows: dict[str, Any], **more: Any) -> Recipe:
    """A model that is pretrained on the corpus and fine-tuned on the rows."""
    return parse_recipe(
        {
            "name": "tiny",
            "steps": {
                "corpus": {"stage": "prepare", "tokenizer": CHARACTERS, **corpus},
                "base": {"stage": "pretrain", "inputs": {"tokens": "corpus"}, "model": {}},
                "rows": {"stage": "prepare", "task": {"kind": "classification"}, **rows},
                "teacher": {"stage": "finetune", "inputs": {"examples": "rows", "init": "base"}},
                **more,
            },
        }
    )


def problems(made: Recipe) -> list[Problem]:
    return parent_problems(made, made.steps)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four files of data in the current directory, with one row each."""
    (tmp_path / "data").mkdir()
    for name in ("train", "test", "other"):
        (tmp_path / "data" / f"{name}.csv").write_text(f"text,label,part,customer\nhello {name},a,train,1\n")
    (tmp_path / "data" / "more.txt").write_text("hello\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_splits_of_every_recipe_here_nest(path: Path) -> None:
    assert not problems(load_recipe(str(path)))


def test_texts_that_a_model_is_judged_on_are_not_pretrained_on() -> None:
    """The whole of a corpus but for two percent, and the reviews in it that are tests."""
    override = "steps.corpus.split={validation: 0.02}"
    told = problems(load_recipe(str(ROOT / "jobs" / "recipes" / "reviews_zh.yaml"), [override]))
    assert len(told) == 1, "both bases and all that comes of them meet the same two steps"
    assert told[0].path == "steps.corpus.split" and told[0].value == {"validation": 0.02}
    assert "reviews, which holds out 0.15 of the same texts" in told[0].reason
    assert told[0].remedy == "Write split: {test: 0.1, validation: 0.05}, or inputs: {exclude: reviews}."


A, B = "data/train.csv", "data/test.csv"
EXCLUDING = {"inputs": {"exclude": ["rows"]}}


@pytest.mark.parametrize(
    ("corpus", "rows", "said"),
    [
        ({"source": A}, {"source": A}, None),
        ({"source": A}, {"source": A, "split": {"test": 0.1}}, "split: {test: 0.1, validation: 0.1}"),
        ({"source": A, "split": {"validation": 0.2}}, {"source": A, "split": {"test": 0.1}}, None),
        ({"source": "data/*.csv"}, {"source": A, "split": {"validation": 0.2}}, "split: {validation: 0.2}"),
        ({"source": "data"}, {"source": "./data/../data/train.csv", "split": {"validation": 0.2}}, "split: {validation: 0.2}"),
        ({"source": "data/more.txt"}, {"source": A, "split": {"test": 0.4}}, None),
        # Of a source for train no test split is taken, and none at all where validation has a source.
        ({"source": {"train": A}, "split": {"test": 0.2}}, {"source": A, "split": {"test": 0.1}}, "split: {validation: 0.2}"),
        ({"source": {"train": A, "validation": B}}, {"source": A}, "Write source and split as in rows"),
        ({"source": A}, {"source": {"train": A, "test": B}}, None),
        ({"source": A}, {"source": {"train": A, "validation": B, "test": "data/other.csv"}}, None),
        ({"source": "data/*.csv"}, {"source": {"train": A, "test": B}}, "source: {…, test: data/test.csv}"),
        ({"source": B}, {"source": {"train": A, "test": B}}, "source: {…, test: data/test.csv}"),
        ({"source": {"train": A, "test": B}}, {"source": {"train": A, "test": B}}, None),
        ({"source": {"train": "data/*.csv", "test": B}}, {"source": {"train": A, "test": B}}, None),
        ({"source": A}, {"source": {"train": B, "unlabelled": A}}, None),
        # A pattern stands for each of its files: one that tests does not speak for the others.
        ({"source": {"train": A, "test": B}}, {"source": "data/t*.csv"}, None),
        (
            {"source": {"train": A, "test": B}},
            {"source": "data/t*.csv", "split": {"test": 0.1}},
            "Write split: {validation: 0.2}, or",
        ),
        ({"source": {"train": A, "test": B}}, {"source": "data/t*.csv", "split": {"by": "part"}}, "split: {by: part}"),
        ({"source": A}, {"source": A, "split": {"by": "part"}}, "split: {by: part}"),
        ({"source": A, "split": {"by": "part"}}, {"source": A, "split": {"by": "part"}}, None),
        ({"source": A, "split": {"by": "part"}}, {"source": A}, "split: {validation: 0.1}"),
        # Groups nest in groups by the same column, by their shares; hashes of texts and groups do not nest.
        ({"source": A, "split": {"group": "customer"}}, {"source": A, "split": {"group": "customer"}}, None),
        ({"source": A, "split": {"group": "customer", "test": 0.2}}, {"source": A, "split": {"group": "customer"}}, None),
        (
            {"source": A, "split": {"group": "customer"}},
            {"source": A, "split": {"group": "customer", "test": 0.2}},
            "split: {group: customer, test: 0.2, validation: 0.1}, or inputs: {exclude: rows}",
        ),
        (
            {"source": A, "split": {"group": "customer"}},
            {"source": A, "split": {"group": "part"}},
            "split: {group: part, validation: 0.1}",
        ),
        ({"source": A, "split": {"group": "customer"}}, {"source": A}, "Write split: {validation: 0.1}, or"),
        ({"source": A}, {"source": A, "split": {"group": "customer"}}, "Write split: {group: customer, validation: 0.1}"),
        ({"source": A, "split": {"by": "part"}}, {"source": A, "split": {"group": "customer"}}, "split: {group: customer"),
        ({"source": A, "split": {"group": "customer"}}, {"source": A, "split": {"by": "part"}}, "split: {by: part}"),
        ({"source": {"train": B, "test": A}}, {"source": A, "split": {"group": "customer"}}, None),
        ({"source": A}, {"source": A, "split": {"group": "customer", "validation": 0}}, None),
        # What is stratified hangs on all rows of a label.
        ({"source": A}, {"source": A, "split": {"stratify": True}}, "Write inputs: {exclude: rows}, or divide rows by a hash"),
        (
            {"source": A, "split": {"test": 0.5}},
            {"source": A, "split": {"stratify": True}},
            "Write inputs: {exclude: rows}, or divide rows by a hash",
        ),
        ({"source": {"train": B, "test": A}}, {"source": A, "split": {"stratify": True}}, None),
        # What is left out by what it says may stand in any file.
        ({"source": A, **EXCLUDING}, {"source": A, "split": {"test": 0.2}}, None),
        ({"source": A, **EXCLUDING}, {"source": A, "split": {"stratify": True}}, None),
        ({"source": A, **EXCLUDING}, {"source": A, "split": {"by": "part"}}, None),
        ({"source": "data/*.csv", **EXCLUDING}, {"source": {"train": A, "test": B}}, None),
        (
            {"source": A, **EXCLUDING, "clean": {"strip_tags": True}},
            {"source": A, "split": {"test": 0.2}},
            "strip_tags: False",
        ),
        ({"source": B, **EXCLUDING, "clean": {"strip_tags": True}}, {"source": {"train": A, "test": B}}, "strip_tags: False"),
        # One content under two names.
        ({"source": "data/copy.csv"}, {"source": A, "split": {"test": 0.1}}, "split: {test: 0.1, validation: 0.1}"),
        ({"source": "elsewhere"}, {"source": {"train": A, "test": B}}, "source: {…, test: data/test.csv}"),
        ({"source": "elsewhere/*.csv"}, {"source": {"train": A, "test": B}}, "source: {…, test: data/test.csv}"),
        ({"source": "data/other.csv"}, {"source": {"train": A, "test": B}}, None),
        ({"source": A, "text": "title"}, {"source": A, "split": {"test": 0.2}}, None),
        ({"source": "sample:sms_spam"}, {"source": "sample:sms_spam", "split": {"test": 0.2}}, "{test: 0.2, validation: 0.1}"),
        ({"source": "sample:wikitext2"}, {"source": "sample:sms_spam", "split": {"test": 0.2}}, None),
        ({"source": "hub:imdb"}, {"source": "hub:imdb", "split": {"validation": 0.3}}, "{validation: 0.3}"),
        ({"source": "hub:a#b-c.d"}, {"source": "hub:a#b-c.d", "split": {"validation": 0.3}}, "{validation: 0.3}"),
        (
            {"source": "hub:imdb#train+test"},
            {"source": {"train": "hub:imdb", "test": "hub:imdb#test"}},
            "test: hub:imdb#test}",
        ),
        ({"source": "hub:imdb"}, {"source": {"train": "hub:imdb", "test": "hub:imdb#test"}}, None),
        (
            {"source": "hub:imdb#train[:90%]"},
            {"source": {"train": "hub:imdb#train[:90%]", "test": "hub:imdb#train[90%:]"}},
            None,
        ),
        (
            {"source": "hub:imdb"},
            {"source": {"train": "hub:imdb#train[:90%]", "test": "hub:imdb#train[90%:]"}},
            "test: hub:imdb#train[90%:]}",
        ),
        # Cleaned otherwise, a text has another hash, and with it another split.
        ({"source": A, "clean": {"strip_tags": True}}, {"source": A}, "strip_tags: False"),
        ({"source": A, "clean": {"max_characters": 10}}, {"source": A}, "max_characters: 100000"),
        ({"source": A, "personal": {"email": "mask"}}, {"source": A}, "the same, personal"),
        ({"source": A, "personal": {"email": "drop"}}, {"source": A}, None),
        ({"source": A}, {"source": A, "filters": {"boilerplate": True}}, "boilerplate: True"),
        ({"source": A}, {"source": A, "filters": {"language": ["en"]}}, None),
        ({"source": A, "clean": {"min_characters": 40}}, {"source": A}, None),
        ({"source": A, "clean": {"strip_tags": True}}, {"source": A, "split": {"validation": 0}}, None),
    ],
)
def test_which_splits_nest(corpus: dict[str, Any], rows: dict[str, Any], said: str | None, files: Path) -> None:
    (files / "elsewhere").mkdir()
    for copy, name in (("data/copy.csv", A), ("elsewhere/b.csv", B)):
        (files / copy).write_bytes((files / name).read_bytes())
    told = problems(recipe(corpus, rows))
    if said is None:
        assert not told
        return
    assert len(told) == 1 and said in told[0].remedy, told
    assert told[0].path.startswith("steps.corpus.")


def test_pairs_are_divided_by_both_texts_which_no_corpus_is(files: Path) -> None:
    (files / "data" / "train.csv").write_text("text,second,label,part\nhello,there,a,train\n")
    pairs = {"source": A, "task": {"pair": "second"}, "split": {"test": 0.1}}
    (problem,) = problems(recipe({"source": A, "split": {"test": 0.2}}, pairs))
    assert problem.path == "steps.corpus.split" and "text and second together" in problem.reason
    assert problem.remedy.startswith("Divide both by a column that says the split")
    for text, told in (("second", 1), ("label", 0)):
        assert len(problems(recipe({"source": A, "text": text, "split": {"test": 0.2}}, pairs))) == told
    excluding = recipe({"source": A, "split": {"test": 0.2}, **EXCLUDING}, pairs)
    assert not problems(excluding)
    by_column = {"split": {"by": "part"}}
    assert not problems(recipe({"source": A, **by_column}, {**pairs, **by_column}))


def test_steps_whose_models_never_meet_may_divide_as_they_like(files: Path) -> None:
    made = recipe({"source": B}, {"source": A, "split": {"test": 0.2}}, more={"stage": "prepare", "source": A,
        "tokenizer": CHARACTERS})  # fmt: skip
    assert not problems(made)


def test_a_teacher_of_other_examples_teaches_no_test_text(files: Path) -> None:
    """The leak may come by soft labels, and by candidates that are judged together."""
    labelled = {"stage": "prepare", "source": A, "task": {"kind": "classification"}}
    steps: dict[str, Any] = {
        "all": {**labelled, "split": {"validation": 0.05}},
        "rows": {**labelled, "split": {"test": 0.1, "validation": 0.05}},
        "teacher": {"stage": "finetune", "model": "sample:minilm_l6", "inputs": {"examples": "all"}},
        "soft": {"stage": "predict", "inputs": {"model": "teacher", "examples": "rows"}},
    }
    told = problems(parse_recipe({"name": "tiny", "steps": steps}))
    assert [problem.path for problem in told] == ["steps.all.split"]
    assert "rows, which holds out 0.15" in told[0].reason


SHARE = st.sampled_from((0.0, 0.1, 0.2, 0.4))
COMMON = [{}, {"group": "customer"}, {"group": "shop"}]
DIVISION = st.sampled_from([*COMMON, {"by": "part"}])
SOURCE = st.sampled_from(["a.csv", "copy.csv", "b.csv", "[ab].csv", {"train": "a.csv", "test": "b.csv"},
                          {"train": "b.csv", "validation": "a.csv"}])  # fmt: skip


@st.composite
def steps_of_one_source(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A corpus and labelled rows, each divided in any way."""
    made = []
    for division in (DIVISION, st.one_of(DIVISION, st.just({"stratify": True}))):
        split = draw(division)
        shares = {} if "by" in split else {"test": draw(SHARE), "validation": draw(SHARE)}
        made.append({"source": draw(SOURCE), "split": {**split, **shares}})
    return made[0] | draw(st.sampled_from([{}, {}, EXCLUDING])), made[1]


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of rows, among them texts that stand there several times, and one of them under another name."""
    place = tmp_path_factory.mktemp("shops")
    for name, count in (("a", 300), ("b", 120)):
        lines = ["text,label,part,customer,shop"]
        for number in range(count):
            text = number if number % 5 else number // 25  # A fifth are texts of others.
            part = ("train", "train", "validation", "test")[text % 4]
            lines.append(f"{name} 第{text}条,{text % 3},{part},{number % 40 or ''},{number % 11}")
        (place / f"{name}.csv").write_text("\n".join(lines), encoding="utf-8")
    (place / "copy.csv").write_bytes((place / "a.csv").read_bytes())
    return place


def divide(config: PrepareConfig, sieves: Sequence[Sieve] = ()) -> pd.DataFrame:
    """The rows of a step with their splits, without a cluster."""
    reading = replace(reading_of(config), sieves=sieves)
    sources, targets = each(config.source), list(reading.labelling.types) if reading.labelling is not None else []
    frames = []
    for named, source in sources.items():
        items = Items(reading, named, set(sources))
        frames += [
            items.frame(list(rows))[0] for file in resolve(source) for _, _, rows in rows_of(file, Files(), items.needed)
        ]
    rows_read = pd.concat(frames, ignore_index=True)
    stays, _ = kept_rows(index_of(rows_read, targets, list(reading.fields)), reading.conflicts)
    kept = rows_read[stays]
    return stratified([kept], divided_shares(config)) if config.split.stratify else kept


@given(steps=steps_of_one_source())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_where_the_check_says_nothing_no_text_is_judged_on_and_learned_from(
    steps: tuple[dict[str, Any], dict[str, Any]], shops: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shops)
    corpus, rows = steps
    assume(corpus["split"].get("test", 0) + corpus["split"].get("validation", 0) > 0 or "by" in corpus["split"])
    made = recipe(corpus, rows)
    told = [problem for problem in problems(made) if problem.path.startswith("steps.corpus")]
    assume(not told)
    configs: dict[str, Any] = {name: made.steps[name].config for name in ("corpus", "rows")}
    examples = divide(configs["rows"])
    held = examples[examples["split"] != "train"]
    sieves = [held_out({"rows": held["text"].tolist()})] if "inputs" in corpus else []
    read = divide(configs["corpus"], sieves)
    assert not set(held["key"]) & set(read[read["split"] == "train"]["key"])


@pytest.mark.parametrize(
    ("other", "nests"),
    [
        ({}, True),
        ({"slices": ["part"]}, True),
        ({"split": {"stratify": True, "validation": 0.2}}, False),
        ({"source": "data"}, False),
        ({"limit": 10}, False),
        ({"clean": {"strip_tags": True}}, False),
        ({"task": {"kind": "classification", "label": "part"}}, False),
        (EXCLUDING, True),
    ],
)
def test_what_is_stratified_nests_with_itself_alone(other: dict[str, Any], nests: bool, files: Path) -> None:
    rows = {"stage": "prepare", "source": A, "task": {"kind": "classification"}, "split": {"stratify": True}}
    for name in ("other", "test"):
        (files / "data" / f"{name}.csv").unlink()
    (files / "data" / "more.txt").unlink()
    teacher = {"stage": "finetune", "model": "sample:minilm_l6", "inputs": {"examples": "all"}}
    soft = {"stage": "predict", "inputs": {"model": "teacher", "examples": "rows"}}
    steps = {"rows": rows, "all": {**rows, **other}, "teacher": teacher, "soft": soft}
    told = problems(parse_recipe({"name": "tiny", "steps": steps}))
    assert [problem.path for problem in told] == ([] if nests else ["steps.all.split"])


@pytest.mark.parametrize(
    "mended", [{}, {"split": {"test": 0.1, "validation": 0.05}}, EXCLUDING], ids=["not mended", "split", "exclude"]
)
def test_what_is_judged_is_not_in_the_text_that_is_read(mended: dict[str, Any], tmp_path: Path, ray_driver: Cluster) -> None:
    """Both steps are run: the check refuses just what lets a text through, and either remedy keeps it out."""
    lines = [
        {"text": f"第{number:04d}号：{'很好' if number % 2 else '不好'}", "label": str(number % 2)} for number in range(400)
    ]
    source = tmp_path / "reviews.jsonl"
    source.write_text("\n".join(json.dumps(line) for line in lines))
    rows = {"source": str(source), "split": {"test": 0.1, "validation": 0.05}}
    made = recipe({"source": str(source), "split": {"validation": 0.02}, **mended}, rows)
    storage = str(tmp_path / "runs")
    if mended:
        preflight(made, storage)
    else:
        with pytest.raises(BadInput, match=r"steps\.corpus\.split .* Write split: \{test: 0\.1, validation: 0\.05\}, or"):
            preflight(made, storage, only="teacher")
    examples, corpus = execute(made, "rows", storage), execute(made, "corpus", storage)
    read = text_of(corpus)
    held = [text for name in ("test", "validation") for text in read_examples(examples, name)["text"].to_pylist()]
    assert len(held) > 30 and len(read) > 1000
    assert [text for text in read_examples(examples, "train")["text"].to_pylist() if text in read], "it is read as it stands"
    leaked = [text for text in held if text in read]
    assert not leaked if mended else len(leaked) > 20


def text_of(tokens: Artifact) -> str:
    """The text of the training split."""
    ids = [number for row in TokenRows(tokens, "train").parts for number in row.ravel().tolist()]
    return str(tokenizer_of(tokens).decode(ids)).replace(" ", "")


def test_what_a_teacher_is_asked_teaches_nobody(files: Path) -> None:
    """It may answer for all texts at once, for students that learn from some of them."""
    whole = {"stage": "prepare", "source": "data/train.csv", "task": {"kind": "classification"}}
    soft = {"stage": "predict", "inputs": {"model": "teacher", "examples": "whole"}}
    student = {"stage": "distill", "inputs": {"examples": "rows", "teacher": "soft", "init": "base"}}
    corpus, rows = {"source": "data/more.txt"}, {"source": "data/train.csv", "split": {"test": 0.1}}
    everything = {**whole, "split": {"validation": 0, "test": 0}}
    assert not problems(recipe(corpus, rows, whole=everything, soft=soft, student=student))
    own = {"stage": "distill", "inputs": {"examples": "whole", "teacher": "soft", "init": "base"}}
    told = problems(recipe(corpus, rows, whole={**whole, "split": {"validation": 0.3}}, soft=soft, student=own))
    assert [problem.path for problem in told] == ["steps.rows.split"]  # By way of the teacher, which learned from them.
