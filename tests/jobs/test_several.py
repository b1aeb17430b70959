"""Several answers of one encoder: what holds for a head by itself holds for it beside others.

pytest tests/jobs/test_several.py
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from pydantic import ValidationError

from jobs.compression.export import Signature, export_onnx
from jobs.contracts.learning import MISSING
from jobs.core.config import BadInput
from jobs.core.metric import Metric
from jobs.data.pieces import Row
from jobs.data.rows import Items
from jobs.losses.settings import Mix
from jobs.prepare import PrepareConfig, reading_of
from jobs.tasks import learning_of
from jobs.tasks.judged_heads import heads_metrics, mean_score
from jobs.tasks.several import LEARNING, SeveralSettings
from serve.engines.backends import OnnxBackend
from serve.tasks.classification import Classification
from serve.tasks.multi_label import MultiLabel
from serve.tasks.ordinal import Ordinal
from serve.tasks.protocol import Item
from serve.tasks.regression import Regression
from serve.tasks.several import Head, Several
from serve.tasks.shared.by_head import behind, of_head
from serve.tasks.shared.decisions import NoneOfThese, Requirement
from tests.jobs.tiny import source_problems, tiny_classifier
from tests.spotting.installed import installed, seen

TOPIC = Classification(labels=("书籍", "平板", "水果"))
TAGS = MultiLabel(labels=("cheap", "fast"))
SCOPED = Classification(labels=TOPIC.labels, none=NoneOfThese(keep=0.7), require={"书籍": Requirement(recall=0.5)})
GRADES = Ordinal(labels=("差", "中", "好", "很好"))
PRICES = Regression(mean=10.0, deviation=4.0, least=0.0)
SPEC = Several(heads=(Head(name="topic", task=TOPIC), Head(name="标签", task=TAGS)))
ITEM, WINDOWS = Item(("a",)), list[Any]([None])
HEADS: dict[str, Any] = {"topic": {"kind": "classification", "label": "cat"}, "mood": {"label": "stars"}}


@pytest.fixture
def spotting(tmp_path: Path) -> Iterator[None]:
    """A kind of another package, whose outputs are ragged."""
    with seen(installed(tmp_path)):
        yield


def settings_of(heads: dict[str, Any] = HEADS) -> SeveralSettings:
    return SeveralSettings(kind="several", heads=heads)


def case(seed: int, items: int, missing: float) -> tuple[np.ndarray, dict[str, list[Any]]]:
    """logits_NK of SPEC, and columns of EXAMPLES in which each head lacks some targets."""
    draw = np.random.default_rng(seed)
    logits_NK = (2 * draw.normal(size=(items, 5))).astype(np.float32)
    labels = [None if draw.random() < missing else str(draw.choice(TOPIC.labels)) for _ in range(items)]
    tags = [
        None if draw.random() < missing else sorted(draw.choice(TAGS.labels, draw.integers(0, 3), False)) for _ in range(items)
    ]
    return logits_NK, {"text": ["a"] * items, "topic.label": labels, "标签.labels": tags}


@settings(max_examples=40, deadline=None)
@drawn(st.integers(0, 10_000), st.integers(1, 30), st.sampled_from([0.0, 0.3, 0.8]))
def test_each_head_is_judged_as_it_is_by_itself(seed: int, items: int, missing: float) -> None:
    logits_NK, columns = case(seed, items, missing)
    weights_N = np.random.default_rng(seed).integers(0, 3, size=items)
    truth = LEARNING.truth(SPEC, columns)
    fitted = {"topic.temperature": 1.7, "标签.threshold fast": 0.3}
    judged = LEARNING.judged(SPEC, SPEC.settled(logits_NK, fitted), truth)
    scores = list[float | None]()
    for name, task, own, ours in (
        ("topic", TOPIC, slice(0, 3), {"temperature": 1.7}),
        ("标签", TAGS, slice(3, 5), {"threshold fast": 0.3}),
    ):
        learning = learning_of(task.kind)
        alone: Any = learning.truth(task, of_head(columns, name))
        known_N = learning.known(alone)
        assert [bool(there) for there in np.asarray(truth)["."][:, len(scores)]] == known_N.tolist()
        if not known_N.any():
            assert judged.figure(f"{name}.macro_f1") == 0.0
            scores.append(None)
            continue
        by_itself = learning.judged(task, task.settled(logits_NK[known_N, own], ours), alone[known_N])
        for metric in learning.metrics:
            assert judged.figure(f"{name}.{metric.name}") == by_itself.figure(metric.name)
            if weights_N[known_N].any():
                expected = by_itself.figure(metric.name, weights_N[known_N])
                assert judged.figure(f"{name}.{metric.name}", weights_N) == pytest.approx(expected, abs=1e-12)
        scores.append(by_itself.figure(learning.metrics[0].name))
    known = [score for score in scores if score is not None]
    assert judged.figure("mean_score") == pytest.approx(np.mean(known) if known else 0.0)
    assert {metric.name for metric in LEARNING.metrics_of(SPEC)} >= {"mean_score", "topic.accuracy", "标签.hamming_loss"}


@settings(max_examples=25, deadline=None)
@drawn(st.integers(0, 10_000), st.sampled_from([TOPIC, TAGS, SCOPED, GRADES, PRICES]))
def test_a_single_head_learns_says_and_is_judged_as_without_the_frame(seed: int, task: Any) -> None:
    draw, spec = np.random.default_rng(seed), Several(heads=(Head(name="only", task=task),))
    learning = learning_of(task.kind)
    logits_NC = draw.normal(size=(8, task.width)).astype(np.float32)
    column, values = drawn_targets(draw, task)
    own, framed = learning.truth(task, {column: values}), LEARNING.truth(spec, {f"only.{column}": values})
    fitted, figures = learning.fit(task, logits_NC, own)
    assert LEARNING.fit(spec, logits_NC, framed) == (behind(fitted, "only"), behind(figures, "only"))
    settled, alone = spec.settled(logits_NC, behind(fitted, "only")), task.settled(logits_NC, fitted)
    assert [answer.only for answer in spec.answers(settled, [])] == task.answers(alone, [])
    for name in ("confidence", "said"):
        np.testing.assert_array_equal(getattr(spec, name)(settled), getattr(task, name)(alone))
    assert spec.sayings == task.sayings and LEARNING.training_answers(spec, framed) == learning.training_answers(task, own)
    other, beside = spec.settled(logits_NC[::-1], {}), task.settled(logits_NC[::-1], {})
    for name in ("same", "distance", "gap"):
        np.testing.assert_array_equal(getattr(spec, name)(settled, other), getattr(task, name)(alone, beside))
    measured = LEARNING.measured(spec, [LEARNING.part(spec, logits_NC, framed)])
    expected = learning.measured(task, [learning.part(task, logits_NC, own)])
    assert {name.removeprefix("only."): value for name, value in measured.items() if name != "mean_score"} == expected
    np.testing.assert_allclose(LEARNING.losses(spec, logits_NC, framed), learning.losses(task, logits_NC, own), rtol=1e-6)
    ours, theirs = LEARNING.criterion(spec, LEARNING.loss_of(spec)(), framed), learning.criterion(task, learning.Loss(), own)
    batch = {"labels": torch.from_numpy(np.stack([LEARNING.window_targets(spec, one, ITEM, WINDOWS)[0] for one in framed]))}
    taught_N = torch.from_numpy(learning.taught(task, own))
    asked = [learning.window_targets(task, one, ITEM, WINDOWS)[0] for one in own]
    usual = {"labels": torch.from_numpy(np.stack(asked))[taught_N]}
    said = torch.from_numpy(logits_NC)
    torch.testing.assert_close(
        ours.loss(said, batch) / ours.count(batch), theirs.loss(said[taught_N], usual) / theirs.count(usual)
    )
    teacher = {"teacher": torch.from_numpy(logits_NC[:, None] * 0.5)}
    softly = LEARNING.soft_criterion(spec, Mix(loss="own"), torch.ones(1)).loss(said, batch | teacher, torch.tensor(2.0))
    mix, hard = Mix(loss=learning.soft_losses[0]), torch.tensor(2.0)
    expected_soft = learning.soft_criterion(task, mix, torch.ones(1)).loss(said, usual | teacher, hard)
    each = theirs.count(usual) / len(usual["labels"])
    torch.testing.assert_close(softly / ours.count(batch), expected_soft / (len(said) * each))


def drawn_targets(draw: np.random.Generator, task: Any) -> tuple[str, list[Any]]:
    """The column of a task's targets, and eight of them, the first of which teaches something."""
    if task is TAGS:
        return "labels", [[str(draw.choice(task.labels))] for _ in range(8)]
    if task is PRICES:
        return "value", [float(draw.normal(12, 5)) for _ in range(8)]
    return "label", [task.labels[0], *(str(draw.choice(task.sayings)) for _ in range(7))]


def batch_of(truth: np.ndarray) -> dict[str, torch.Tensor]:
    return {"labels": torch.from_numpy(np.stack([LEARNING.window_targets(SPEC, one, ITEM, WINDOWS)[0] for one in truth]))}


def test_a_batch_loses_what_its_parts_lose_and_heads_count_by_their_weights() -> None:
    logits_NK, columns = case(3, 40, 0.4)
    truth, said = LEARNING.truth(SPEC, columns), torch.from_numpy(logits_NK)
    given = LEARNING.known(truth)
    truth, said = truth[given], said[torch.from_numpy(given)]
    loss = LEARNING.loss_of(SPEC).model_validate({"weights": {"topic": 3}, "topic": {"label_smoothing": 0.1}})
    criterion, batch = LEARNING.criterion(SPEC, loss, truth), batch_of(truth)
    parts = [batch_of(truth[:7]), batch_of(truth[7:20]), batch_of(truth[20:])]
    summed = sum(
        criterion.loss(part, own) for part, own in zip(torch.split(said, [7, 13, len(truth) - 20]), parts, strict=True)
    )
    torch.testing.assert_close(criterion.loss(said, batch), torch.as_tensor(summed))
    assert criterion.count(batch) == sum(map(criterion.count, parts)) == len(truth)
    # Over all training rows it is the mean of the heads' own means, 3 to 1.
    own = []
    for (_, task, columns_K), rest in zip(SPEC.cuts, ({"label_smoothing": 0.1}, {}), strict=True):
        learning, name = learning_of(task.kind), "topic" if task is TOPIC else "标签"
        known = learning.known(truth[name])
        alone = learning.criterion(task, learning.Loss(**rest), truth[name][known])
        labels = {"labels": torch.from_numpy(truth[name][known])}
        own.append(alone.loss(said[torch.from_numpy(known)][:, columns_K], labels) / alone.count(labels))
    torch.testing.assert_close(criterion.loss(said, batch) / criterion.count(batch), (3 * own[0] + own[1]) / 4)


def test_settings_of_a_heads_loss_that_do_not_fit_are_told_by_the_head() -> None:
    truth = LEARNING.truth(SPEC, case(0, 20, 0.0)[1])
    loss = LEARNING.loss_of(SPEC).model_validate({"标签": {"class_weights": {"slow": 2.0}}})
    with pytest.raises(BadInput, match=r"loss\.标签\.class_weights\.slow: no such label"):
        LEARNING.criterion(SPEC, loss, truth)
    with pytest.raises(ValidationError, match="mood"):
        LEARNING.loss_of(SPEC).model_validate({"weights": {"mood": 2.0}})


def test_answers_are_compared_by_what_all_heads_have() -> None:
    assert LEARNING.soft_losses_of(SPEC) == ("own", "mse")
    two = Several(heads=(Head(name="a", task=TOPIC), Head(name="b", task=Classification(labels=("x", "y")))))
    assert LEARNING.soft_losses_of(two)[:2] == ("own", "forward_kl")
    said, teacher = torch.randn(4, 5), {"teacher": torch.randn(4, 1, 5), "labels": torch.full((4, 3), float(MISSING))}
    by_logits = LEARNING.soft_criterion(SPEC, Mix(loss="mse"), torch.ones(1)).loss(said, teacher, torch.tensor(9.0))
    square = (said - teacher["teacher"][:, 0]).square()
    torch.testing.assert_close(by_logits, (square[:, :3].mean(1).sum() + square[:, 3:].mean(1).sum()) / 2)


def test_a_score_of_which_less_is_better_counts_between_0_and_1() -> None:
    f1, error = Metric("f1", highest=1.0), Metric("error", mode="min")
    assert mean_score([(f1, 0.8), (error, 0.25)]) == pytest.approx((0.8 + 1 / 1.25) / 2)
    assert mean_score([(f1, 0.8), (error, 0.2)]) > mean_score([(f1, 0.8), (error, 0.3)])
    mean, *_ = heads_metrics({"a": [f1], "b": [error]})
    assert (mean.name, mean.mode, mean.highest) == ("mean_score", "max", 1.0)


def test_rows_are_counted_by_head_and_wrong_targets_told_by_it() -> None:
    asked = settings_of({"mood": {"label": "stars"}, "tags": {"kind": "multi_label", "labels": "tags"}})
    frame = pd.DataFrame({"stars": ["good", None, "bad"], "tags": pd.Series([["a"], ["b"], [["a"]]], dtype=object)})
    found = LEARNING.targets(asked, frame)
    assert found.columns == {"mood.label": ["good", None, "bad"], "tags.labels": [["a"], ["b"], []]}
    assert found.wrong == {2: "head tags: a label is ['a'], and single values are asked for"}
    counted = LEARNING.statistics(asked, {"mood.label": ["good", None], "tags.labels": [["a"], None]})
    assert counted == {"mood": 1, "mood.good": 1, "tags": 1, "tags.a": 1}
    assert LEARNING.paths(asked) == {"task.heads.mood.label": "stars", "task.heads.tags.labels": "tags"}
    assert LEARNING.lists_in(asked) == ("task.heads.tags.labels",)


def test_targets_that_are_there_are_what_is_expected() -> None:
    columns: dict[str, list[Any]] = {
        "text": ["a", "b", "c"],
        "topic.label": ["书籍", None, None],
        "标签.labels": [["fast"], [], None],
    }
    truth = LEARNING.truth(SPEC, columns)
    assert LEARNING.known(truth).tolist() == [True, True, False]
    assert (
        LEARNING.expected(SPEC, truth[0]) == "topic: 书籍; 标签: fast"
        and LEARNING.expected(SPEC, truth[1]) == "标签: no label"
    )
    answer = {"topic": {"label": "平板"}, "标签": {"labels": []}}
    assert [LEARNING.is_right(SPEC, answer, one) for one in truth[:2]] == [False, True]
    assert LEARNING.questions(SPEC, truth[:2], 3) == [0] and LEARNING.questions(SPEC, truth[1:2], 3) == [0]
    assert {name: mask.tolist() for name, mask in LEARNING.slices(SPEC, truth[:2]).items()} == {
        "topic: label 书籍": [True, False],
        "标签: label fast": [True, False],
        "标签: no label": [False, True],
    }
    assert LEARNING.training_answers(SPEC, truth) == ["书籍, fast"]


def test_the_graph_has_an_output_a_head_and_says_what_torch_says(tmp_path: Path) -> None:
    model = tiny_classifier("bert", classes=5, vocabulary=60)
    signature = Signature(parts=SPEC.graph_parts)
    assert export_onnx(model, tmp_path / "model.onnx", signature) < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    assert [(node.name, node.shape[1]) for node in session.get_outputs()] == [("logits_topic", 3), ("logits_标签", 2)]
    names = [name for name, _ in SPEC.graph_parts]
    backend = OnnxBackend(tmp_path / "model.onnx", ("logits",), 1, "cpu", names)
    ids = torch.randint(5, 60, (3, 9))
    feeds = {"input_ids": ids.numpy(), "attention_mask": np.ones((3, 9), dtype=np.int64)}
    (found,) = backend(feeds)
    with torch.inference_mode():
        np.testing.assert_allclose(found, model(ids, attention_mask=torch.ones_like(ids)).logits.numpy(), atol=1e-5)


def test_columns_of_heads_have_names_in_the_models_config() -> None:
    head = LEARNING.head(SPEC)
    assert list(head["id2label"].values()) == ["topic.书籍", "topic.平板", "topic.水果", "标签.cheap", "标签.fast"]
    config = tiny_classifier("bert", classes=5, vocabulary=60).config
    assert not LEARNING.knows(SPEC, config)
    config.id2label = head["id2label"]
    assert LEARNING.knows(SPEC, config)


@pytest.mark.parametrize(
    ("heads", "told"),
    [
        ({}, "at least 1 item"),
        ({"a.b": {"label": "x"}}, "a head's name has letters of any script, digits and _"),
        ({"inputs": {"label": "x"}}, "requests have this name for something else"),
        ({"3": {"label": "x"}}, "begins with a letter"),
        ({"class": {"label": "x"}}, "requests have this name for something else"),
        ({"json": {"label": "x"}}, "requests have this name for something else"),
        ({"a": {"label": "x"}, "b": {"label": "x"}}, "it is just the head a"),
        ({"a": {"labl": "x"}}, "no such key"),
        ({"a": {"kind": "weather"}}, "weather is no kind of task here"),
        ({"a": "label"}, "a head is a task"),
        ({"a": {"label": "x"}, "b": {"label": "y", "pair": "z"}}, "it reads other texts than the head a"),
        ({"a": {"label": "x"}, "b": {"kind": "several", "heads": HEADS}}, "several needs a model to itself"),
        ({"a": {"label": "x"}, "b": {"kind": "spotting", "answer": "y"}}, "spotting needs a model to itself"),
    ],
)
def test_heads_that_cannot_be_are_refused(heads: dict[str, Any], told: str, spotting: None) -> None:
    with pytest.raises(ValidationError, match=told):
        settings_of(heads)


def test_heads_may_be_named_in_any_script_and_keep_their_order() -> None:
    found = settings_of({"话题": {"label": "x"}, "mood_2": {"kind": "multi_label"}, "Thème": {"label": "y"}})
    assert list(found.heads) == ["话题", "mood_2", "Thème"]
    again = SeveralSettings.model_validate(found.model_dump(mode="json"))
    assert again == found and list(again.heads) == list(found.heads)
    config = PrepareConfig.model_validate({"source": "rows.csv", "task": found.model_dump(mode="json")})
    assert config.model_dump(mode="json")["task"]["heads"]["mood_2"]["labels"] == "labels"


def write(tmp_path: Path, **splits: list[tuple[str, str]]) -> dict[str, str]:
    for name, rows in splits.items():
        columns = {
            "text": [f"{name} {n}" for n in range(len(rows))],
            "cat": [c for c, _ in rows],
            "stars": [s for _, s in rows],
        }
        pd.DataFrame(columns).to_csv(tmp_path / f"{name}.csv", index=False)
    return {name: str(tmp_path / f"{name}.csv") for name in splits}


def test_a_label_of_another_head_is_told(tmp_path: Path) -> None:
    rows = [("书籍", "good"), ("水果", "bad")]
    source = write(tmp_path, train=rows, validation=rows, test=[("书籍", "good"), ("bad", "水果"), ("平板", "bad")])
    told = source_problems(source, {"kind": "several", "heads": HEADS})
    assert {(one.path, one.value): one.reason for one in told} == {
        ("source.test", "bad"): "it stands in cat, the column of the head topic, and belongs to the head mood",
        ("source.test", "平板"): "head topic: this label is not in the training set",
        ("source.test", "水果"): "it stands in stars, the column of the head mood, and belongs to the head topic",
    }


def test_a_split_without_a_target_of_a_head_is_told(tmp_path: Path) -> None:
    rows = [("书籍", "good"), ("水果", "bad")]
    source = write(tmp_path, train=rows, test=[("书籍", ""), ("水果", "")])
    (problem,) = source_problems(source, {"kind": "several", "heads": HEADS})
    assert (problem.path, problem.reason) == ("task.heads.mood", "no row of test has a target of this head")


@pytest.mark.parametrize(
    ("heads", "told"),
    [
        ("{topic: {label: cat}, topic: {label: stars}}", "this key stands twice"),
        ("{a.b: {label: cat}}", "steps.rows.task.heads.a.b = "),
        ("{topic: {label: category}}", "steps.rows.task.heads.topic.label = 'category'"),
        ("{topic: {labell: cat}}", "Did you mean label?"),
    ],
)
def test_the_command_refuses_such_heads_before_anything_runs(tmp_path: Path, heads: str, told: str) -> None:
    source = write(tmp_path, train=[("书籍", "good"), ("水果", "bad")])
    recipe = tmp_path / "recipe.yaml"
    task = f"{{kind: several, heads: {heads}}}"
    recipe.write_text(f"name: heads\nsteps:\n  rows: {{stage: prepare, source: {source['train']}, task: {task}}}\n")
    command = [sys.executable, "-m", "jobs.pipeline", str(recipe), "--plan", "--storage", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stdout + done.stderr
    assert told in done.stdout + done.stderr, done.stdout + done.stderr


def test_files_may_have_the_columns_of_some_heads_alone(tmp_path: Path) -> None:
    labels, tags = ("书籍", "水果") * 4, ("x;y", "") * 4
    pd.DataFrame({"text": [f"a {n}" for n in range(8)], "cat": labels}).to_csv(tmp_path / "a.csv", index=False)
    pd.DataFrame({"text": [f"b {n}" for n in range(8)], "tags": tags}).to_csv(tmp_path / "b.csv", index=False)
    heads = {"topic": {"label": "cat"}, "tags": {"kind": "multi_label", "labels": "tags", "separator": ";"}}
    task, source = {"kind": "several", "heads": heads}, {"train": str(tmp_path / "*.csv")}
    assert source_problems(source, task) == []
    (tmp_path / "c.csv").write_text("text,label\nc 1,x\n")
    told = source_problems(source, task)
    assert [one.path for one in told] == ["task.heads.topic.label", "task.heads.tags.labels"]
    assert all("c.csv has no such column" in one.reason for one in told)


def test_a_column_that_no_file_has_is_told(tmp_path: Path) -> None:
    rows = [("书籍", "good"), ("水果", "bad")]
    heads = {"topic": {"label": "cat"}, "mood": {"label": "star"}}
    for source in (write(tmp_path, train=rows), {"train": str(tmp_path / "train.jsonl")}):
        pd.read_csv(tmp_path / "train.csv").to_json(tmp_path / "train.jsonl", orient="records", lines=True)
        (problem,) = source_problems(source, {"kind": "several", "heads": heads})
        told = ("task.heads.mood.label", "star", "no file has such a column", "Did you mean stars?")
        assert (problem.path, problem.value, problem.reason, problem.remedy) == told


def test_a_row_that_lacks_a_column_says_nothing_of_its_head_and_an_empty_cell_says_none() -> None:
    lines: list[dict[str, Any]] = [
        {"text": "a", "cat": "书籍"},
        {"text": "b", "tags": []},
        {"text": "c", "cat": "水果", "tags": ["x"]},
    ]
    lines += [{"text": "d", "tags": None}, {"text": "e"}]
    heads = {"topic": {"label": "cat"}, "tags": {"kind": "multi_label", "labels": "tags"}}
    config = PrepareConfig.model_validate({"source": "rows.jsonl", "task": {"kind": "several", "heads": heads}})
    items = Items(reading_of(config), "train", {"train"})
    made = items.values([Row(values=line) for line in lines])
    assert made.targets == {
        "topic.label": ["书籍", None, "水果", None, None],
        "tags.labels": [None, [], ["x"], [], None],
    }
    assert {place: fault.reason for place, fault in made.faults.items()} == {4: "no target"}
