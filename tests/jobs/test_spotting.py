"""A kind of task of another package in its two halves: two texts, windows, ragged outputs, ranks, soft labels of its own.

pytest tests/jobs/test_spotting.py
"""

import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cluster.store.artifact import Artifact, Kind
from jobs.contracts.learning import MISSING
from jobs.core.config import BadInput
from jobs.data.checking import check_source
from jobs.data.clean import Clean, item_key
from jobs.data.rows import Reading
from jobs.data.splits import Split
from jobs.losses.settings import Mix
from jobs.tasks import learning_of, spec_of
from jobs.tasks.distilled import Distilled
from jobs.tasks.heads import inputs_of
from jobs.tasks.labelling import Labelling
from jobs.tasks.soft_labels import DIRECTORY, SUFFIX, TASK_DETAIL, SoftLabels, packed
from jobs.tasks.supervised import Supervised
from jobs.tasks.windows import engine_tokenizer
from jobs.training.loop import fit
from jobs.training.settings import Training
from serve.cleaning.cleaning import Cleaning
from serve.engines.base import Engine
from serve.engines.card import read_card, write_card
from serve.engines.engine import load_engine
from serve.tasks import kinds, task_of
from serve.tasks.protocol import Item, Task
from tests.jobs.tiny import publish_directory, same_weights
from tests.jobs.training_runs import QUICK, Recorded
from tests.spotting.installed import KIND, installed, seen
from tests.spotting.world import MAX_LENGTH, Row, publish_rows, rows, tiny_model, world_tokenizer

TRAIN, VALIDATION = rows(240), rows(60, seed=1)
CUT = ("wordpiece", "bpe", "characters")
WORDS = st.lists(st.text("aeklnorst,.'!é你好Ω7", min_size=1, max_size=9), min_size=1, max_size=40)
RUNS: dict[str, Any] = {**QUICK, "epochs": 9, "evaluations": 6}


@pytest.fixture(scope="module", autouse=True)
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with seen(installed(tmp_path_factory.mktemp("installed"))):
        yield


@pytest.fixture
def spec() -> Task:
    return task_of({"kind": KIND})


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PreTrainedTokenizerBase]:
    return {train: world_tokenizer(tmp_path_factory.mktemp(train), train) for train in CUT}


@pytest.fixture(scope="module")
def tokenizer(tokenizers: dict[str, PreTrainedTokenizerBase]) -> PreTrainedTokenizerBase:
    return tokenizers["wordpiece"]


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory, _installed: None) -> Artifact:
    return publish_rows(tmp_path_factory.mktemp("rows"), {"train": TRAIN, "validation": VALIDATION})


def objective(
    examples: Artifact,
    tokenizer: PreTrainedTokenizerBase,
    unlabelled: bool = False,
    loss: Any = None,
    length: int = MAX_LENGTH,
) -> Supervised:
    """The objective of fine-tuning."""
    spec = spec_of(examples)
    return Supervised(examples, tokenizer, spec, length, inputs_of(tiny_model(tokenizer), spec), loss, unlabelled)


@dataclass(frozen=True)
class Taught:
    """A model that has learned the world, and as the engine loads it."""

    task: Supervised
    model: PreTrainedModel
    figures: dict[str, float]
    directory: Path
    engine: Engine


@pytest.fixture(scope="module")
def taught(examples: Artifact, tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory) -> Taught:
    task, model, directory = objective(examples, tokenizer), tiny_model(tokenizer), tmp_path_factory.mktemp("taught")
    figures = fit(model, task, Training.model_validate(RUNS), Recorded()).metrics
    figures |= task.save(model, directory)
    return Taught(task, model, figures, directory, load_engine(directory))


def items_of(some: Sequence[Row]) -> list[Item]:
    return [Item(row[:2]) for row in some]


def settings_of(**keys: Any) -> Any:
    return learning_of(KIND).Settings.model_validate({"kind": KIND, **keys})


def test_the_kind_is_found_by_its_entry_point_while_it_is_installed() -> None:
    assert kinds()[KIND] == "raystill_spotting.answer"
    assert type(task_of({"kind": KIND})).__module__ == "raystill_spotting.answer"
    assert type(learning_of(KIND)).__module__ == "raystill_spotting.learn"


# Windows, and what they come to


@given(WORDS, st.text("abk ?", min_size=1, max_size=60), st.integers(16, 48), st.sampled_from(CUT), st.data())
@settings(max_examples=200, deadline=None)
def test_words_scores_depend_on_neither_the_tokenizer_nor_the_windows(
    tokenizers: dict[str, PreTrainedTokenizerBase], words: list[str], question: str, length: int, cut: str, data: st.DataObject
) -> None:
    """A model is imagined that says of each token what its word deserves, and of all else what would spoil it."""
    spec, passage = task_of({"kind": KIND}), data.draw(st.sampled_from((" ", "  ", "\n"))).join(words)
    item, deserved_S = Item((question, passage)), np.random.default_rng(len(words)).normal(size=len(words)).astype(np.float32)
    (windows,) = spec.encode(engine_tokenizer(tokenizers[cut], spec, length), [item])
    assert all(len(window) <= length for window in windows)
    said = []
    for window in windows:
        logits_T1 = np.full((len(window), 1), 100, dtype=np.float32)
        for token, ((start, end), sequence) in enumerate(zip(window.offsets, window.sequence_ids, strict=True)):
            if sequence == 1 and passage[start:end].strip():
                logits_T1[token] = deserved_S[len(passage[:end].split()) - 1]
        said.append(logits_T1)
    assert np.array_equal(spec.combine(windows, said, item), deserved_S)


def test_the_highest_token_of_all_windows_is_a_words_score(spec: Task, tokenizer: PreTrainedTokenizerBase) -> None:
    item = Item(("which city is it?", "crimson otter " * 12 + "unheard-of"))
    (windows,) = spec.encode(engine_tokenizer(tokenizer, spec, 16), [item])
    assert len(windows) > 2
    said = [np.random.default_rng(number).normal(size=(len(window), 1)) for number, window in enumerate(windows)]
    found_S = spec.combine(windows, said, item)
    last = [
        logits_T1[token, 0]
        for window, logits_T1 in zip(windows, said, strict=True)
        for token, (start, _) in enumerate(window.offsets)
        if window.sequence_ids[token] == 1 and start >= item.values[1].index("unheard-of")
    ]
    assert len(found_S) == 25 and len(last) > 1
    assert found_S[-1] == np.float32(max(last))


def test_a_question_longer_than_a_window_is_cut_and_the_passage_is_not(spec: Task, tokenizer: PreTrainedTokenizerBase) -> None:
    item = Item(("which otter " * 200, " ".join(str(number) for number in range(40))))
    (windows,) = spec.encode(engine_tokenizer(tokenizer, spec, 16), [item])
    shown = {place for window in windows for place, one in zip(window.offsets, window.sequence_ids, strict=True) if one == 1}
    assert max(map(len, windows)) <= 16
    assert {item.values[1][start:end] for start, end in shown} >= set("0123456789")
    assert max(end for _, end in shown) == len(item.values[1])
    assert np.isfinite(spec.combine(windows, [np.ones((len(window), 1)) for window in windows], item)).all()


# Answers


def test_the_most_probable_words_are_the_answer(spec: Task) -> None:
    items = [Item(("which?", "one two, three")), Item(("which?", "only"))]
    scores = [np.log(np.array([0.2, 0.5, 0.3], dtype=np.float32)), np.zeros(1, dtype=np.float32)]
    first, second = spec.answers(spec.settled(scores, {}), items, spec.Options.model_validate({"most": 2}))
    assert (first.value, first.text, first.probability) == (2, "two,", pytest.approx(0.5))
    assert [(word.value, word.text) for word in first.words] == [(2, "two,"), (3, "three")]
    assert (second.value, second.text, second.probability, len(second.words)) == (1, "only", 1.0, 1)
    assert len(spec.answers(scores, items)[0].words) == 3, "without options all that can be said"
    assert spec.confidence(scores) == pytest.approx([0.5, 1.0])


def test_what_is_fitted_sharpens_the_answers_and_is_checked(spec: Task) -> None:
    scores = [np.array([0.0, 1.0], dtype=np.float32)]
    (settled,) = spec.settled(scores, {"sharpness": 3.0})
    assert settled.tolist() == [0, 3]
    assert spec.wrong_fitted({"sharpness": 2.0}) is None
    assert "not above 0" in str(spec.wrong_fitted({"sharpness": 0.0}))
    assert "temperature" in str(spec.wrong_fitted({"temperature": 1.0}))
    assert spec.wrong_output(np.zeros(3)) is None
    assert "(3, 2)" in str(spec.wrong_output(np.zeros((3, 2))))


def test_the_words_of_a_passage_keep_their_numbers_where_one_is_left_out(spec: Task) -> None:
    item = Item(("which city?", "the, otter saw Lisbon"))
    parts = spec.parts(item)
    for part, shorter in zip(parts, spec.without(item, parts), strict=True):
        assert shorter != item
        assert len(shorter.values[1].split()) == 4
        assert shorter.values[1 - part.field] == item.values[1 - part.field]
    assert {part.field for part in parts} == {0, 1}


# What is learned


def test_rows_become_targets_and_wrong_ones_say_why() -> None:
    frame = pd.DataFrame({"place": [1, None, 4, 0, 2.5], "context": ["one two"] * 5})
    found = learning_of(KIND).targets(settings_of(passage="context", answer="place"), frame)
    assert found.columns["answer"][:2] == [1, None]
    assert {place: reason.split(";")[0] for place, reason in found.wrong.items()} == {
        2: "there is no word 4 in a passage of 2",
        3: "there is no word 0 in a passage of 2",
        4: "2.5 is no number of a word",
    }


@pytest.mark.parametrize(
    ("content", "path", "reason"),
    [
        ("question,context\nwhich?,a b\n", "task.answer", "has no such column"),
        ("question,place\nwhich?,1\n", "task.passage", "has no such column"),
        (
            "question,context,place\nwhich?,a b,2\nwhich?,a b,3\n",
            "task.answer",
            "row 2 of .*: there is no word 3 in a passage of 2",
        ),
        ("question,context,place\nwhich?,,2\n", "task.passage", "row 1 of .* has no passage"),
        ("question,context,place\n,a b,2\n", "text", "row 1 of .* has no question"),
    ],
)
def test_a_source_that_makes_no_items_is_told_by_the_recipes_key(tmp_path: Path, content: str, path: str, reason: str) -> None:
    (tmp_path / "rows.csv").write_text(content)
    labelling = Labelling.of(settings_of(passage="context", answer="place"), "question")
    columns = {"text": "question", **labelling.paths}
    (problem,) = check_source(str(tmp_path / "rows.csv"), Reading(labelling.fields, Clean(), Split(), labelling), columns)
    assert problem.path == path
    assert pd.Series([problem.reason]).str.contains(reason).all(), problem.reason


def test_a_training_split_without_an_answer_makes_no_task() -> None:
    learning = learning_of(KIND)
    assert learning.spec(settings_of(), {"train": learning.statistics(None, {"answer": [2, None]})}).kind == KIND
    with pytest.raises(BadInput, match="no row of the training split has an answer"):
        learning.spec(settings_of(), {"train": learning.statistics(None, {"answer": [None]}), "test": {"answers": 3}})


def test_sharpness_is_found_again(spec: Task) -> None:
    """Truths are drawn from the softmax at a sharpness of 3."""
    draw = np.random.default_rng(0)
    scores = [draw.normal(size=draw.integers(2, 9)).astype(np.float32) for _ in range(2000)]
    shares = [np.exp(3 * scores_S) / np.exp(3 * scores_S).sum() for scores_S in scores]
    truth = np.array([draw.choice(len(share_S), p=share_S) for share_S in shares])
    learning = learning_of(KIND)
    fitted, figures = learning.fit(spec, scores, truth)
    assert fitted["sharpness"] == pytest.approx(3, rel=0.1) and figures["sharpness"] == fitted["sharpness"]
    losses = [learning.losses(spec, spec.settled(scores, one), truth).mean() for one in ({}, fitted)]
    assert losses[1] < losses[0]
    always_right = learning.fit(spec, [np.array([0.0, 1.0], dtype=np.float32)] * 9, np.ones(9, dtype=int))[0]
    assert 1 < always_right["sharpness"] < 20
    assert learning.fit(spec, [], np.zeros(0, dtype=int))[0]["sharpness"] == 1


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12).filter(any), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_figure_of_weighted_items_is_that_of_repeated_ones(weights: list[int], seed: int) -> None:
    draw, spec, learning = np.random.default_rng(seed), task_of({"kind": KIND}), learning_of(KIND)
    scores = [draw.integers(0, 4, size=draw.integers(1, 6)).astype(np.float32) for _ in weights]
    truth = np.array([draw.integers(len(scores_S)) for scores_S in scores])
    repeated = [number for number, weight in enumerate(weights) for _ in range(weight)]
    weighted = learning.judged(spec, scores, truth)
    plain = learning.judged(spec, [scores[number] for number in repeated], truth[repeated])
    for metric in learning.metrics:
        assert weighted.figure(metric.name, np.array(weights)) == pytest.approx(plain.figure(metric.name)), metric.name
    assert ((weighted.goodness_N >= 0) & (weighted.goodness_N <= 1)).all()


def test_a_word_is_found_in_what_was_sent_however_that_was_cleaned(taught: Taught, tmp_path: Path) -> None:
    """The kind knows nothing of cleaning: that scores are those of the words that were sent comes from the windows."""
    cleaning = Cleaning(strip_tags=True)
    shutil.copytree(taught.directory, tmp_path / "cleaned")
    write_card(tmp_path / "cleaned", read_card(taught.directory).model_copy(update={"cleaning": cleaning}))
    engine, draw = load_engine(tmp_path / "cleaned"), random.Random(0)
    dressed = [
        " \r\n".join(draw.choice(("{}", "<b>{}</b>", "\ufeff{}\xad", "<i>{}")).format(word) for word in row.passage.split())
        for row in VALIDATION
    ]
    sent = engine.answers([Item((f"<p>{row.question}", text)) for row, text in zip(VALIDATION, dressed, strict=True)])
    plain = [row._replace(passage=cleaning.cleaned(text).text) for row, text in zip(VALIDATION, dressed, strict=True)]
    for answer, expected, text in zip(sent, taught.engine.answers(items_of(plain)), dressed, strict=True):
        assert (answer.value, answer.probability) == (expected.value, pytest.approx(expected.probability, abs=1e-5))
        assert answer.text == text.split()[answer.value - 1]
    assert any(answer.text != cleaning.cleaned(answer.text).text for answer in sent), "some stood in tags"


def test_ranks_count_from_one_and_equals_share_theirs(spec: Task) -> None:
    scores = [np.array(of, dtype=np.float32) for of in ([3, 1, 2], [3, 1, 2], [0, 0, 0])]
    judged = learning_of(KIND).judged(spec, scores, np.array([0, 1, 2]))
    assert judged.figure("mean_rank") == pytest.approx((1 + 3 + 2) / 3)
    assert judged.figure("first") == pytest.approx(1 / 3)


# Training


def test_it_learns_which_word_is_asked_for(taught: Taught) -> None:
    chance = np.mean([(len(row.passage.split()) + 1) / 2 for row in VALIDATION])
    assert chance > 8
    assert taught.figures["mean_rank"] < 1.3, "by chance it were 8, and 2 for what any of the questions may ask for"
    assert taught.figures["first"] > 0.8
    assert taught.task.size > 1.5 * len(TRAIN), "it is trained on windows"
    assert taught.task.validation_size == len(VALIDATION), "and judged by items"


def test_the_engine_says_of_each_item_what_training_measured(taught: Taught) -> None:
    with torch.inference_mode():
        order, outputs = taught.task.outputs(taught.model, np.arange(len(VALIDATION)), torch.device("cpu"))
    again = taught.engine.outputs([taught.task.validation.items[item] for item in order])
    for scores_S, again_S in zip(outputs, again, strict=True):
        assert scores_S == pytest.approx(again_S, abs=1e-4)


def test_a_saved_model_answers_with_what_was_fitted(taught: Taught) -> None:
    spec, items, truth = taught.engine.task, items_of(VALIDATION), np.array([(row.answer or 0) - 1 for row in VALIDATION])
    card = read_card(taught.directory)
    assert card.task == spec and card.inputs[-1] == "token_type_ids"
    assert taught.engine.fitted == {"sharpness": taught.figures["sharpness"]}
    answers, learning = taught.engine.answers(items), learning_of(KIND)
    right = [learning.is_right(spec, {"value": answer.value}, word) for answer, word in zip(answers, truth, strict=True)]
    assert np.mean(right) > 0.8
    assert answers[0].text == VALIDATION[0].passage.split()[answers[0].value - 1]
    settled = taught.engine.settled(items)
    assert learning.judged(spec, settled, truth).figure("mean_rank") == pytest.approx(taught.figures["mean_rank"], abs=0.1)
    assert card.training is not None and set(card.training.labels) <= set(spec.sayings)


def test_an_explanation_rests_on_the_word_and_on_what_is_asked(taught: Taught) -> None:
    spec, item = taught.engine.task, Item(("which city is it?", "the otter was once seen near Lisbon by two friends"))
    parts = spec.parts(item)
    items = [item, *spec.without(item, parts)]
    explained = spec.evidence(taught.engine.settled(items), items, spec.Target())
    assert explained.whole["value"] == 7
    by_text = {item.values[part.field][part.start : part.end]: one for part, one in zip(parts, explained.parts, strict=True)}
    assert max(by_text, key=lambda text: by_text[text].attribution) in ("Lisbon", "city")
    assert by_text["Lisbon"].attribution > 3


@pytest.mark.parametrize("changed", [{"gradient_accumulation": 4}, {"activation_checkpointing": True}])
def test_what_saves_memory_changes_no_weight(
    examples: Artifact, tokenizer: PreTrainedTokenizerBase, changed: dict[str, Any]
) -> None:
    ends, task = [], objective(examples, tokenizer)
    plain = {**QUICK, "optimizer": {"name": "sgd", "learning_rate": 0.05}, "max_steps": 6, "epochs": 9, "keep": "last"}
    for more in ({}, changed):
        model = tiny_model(tokenizer)
        fit(model, task, Training.model_validate({**plain, **more}), hooks := Recorded())
        ends.append((model.state_dict(), [figures["loss"] for figures in hooks.progressed]))
    assert same_weights(ends[0][0], ends[1][0]) < 1e-5
    assert ends[0][1] == pytest.approx(ends[1][1], abs=1e-5)
    assert same_weights(ends[0][0], tiny_model(tokenizer).state_dict()) > 1e-3


def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(
    examples: Artifact, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    task = objective(examples, tokenizer)
    chosen = Training.model_validate({**QUICK, "max_steps": 9, "checkpoint_steps": 4, "evaluations": 2})
    whole, again = tiny_model(tokenizer, dropout=0.2), tiny_model(tokenizer, dropout=0.2)
    fit(whole, task, chosen, Recorded())
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_model(tokenizer, dropout=0.2), task, chosen, Recorded(tmp_path / "state.pt", dies_at=7))
    fit(again, task, chosen, Recorded(tmp_path / "state.pt"))
    assert same_weights(whole.state_dict(), again.state_dict()) == 0


def test_a_wrong_words_token_counts_as_the_recipe_says(examples: Artifact, tokenizer: PreTrainedTokenizerBase) -> None:
    losses = []
    for others in (0.1, 0.4):
        task = objective(examples, tokenizer, loss={"others": others})
        batch = task.batch(np.arange(8), 0, 0)
        silent = torch.zeros(*batch["labels"].shape, 1)
        losses.append(float(task.criterion.loss(silent, batch)))
    labels = batch["labels"]
    assert losses[1] - losses[0] == pytest.approx(0.3 * np.log(2) * int((labels == 0).sum()), rel=1e-5)
    assert losses[0] == pytest.approx(np.log(2) * (int((labels == 1).sum()) + 0.1 * int((labels == 0).sum())), rel=1e-5)
    assert int((labels == MISSING).sum()) > 8 * 5, "question, special tokens and padding"


# Soft labels


def publish_soft(root: Path, spec: Task, some: Sequence[Row], outputs: Any, blocks: int = 2) -> tuple[Artifact, float]:
    """PREDICTIONS in blocks, and the most that an output lost."""
    (root / DIRECTORY).mkdir(parents=True)
    keys, losses = [item_key(row[:2]) for row in some], []
    for number in range(blocks):
        own = slice(number, None, blocks)
        content, lost = packed(spec, keys[own], outputs[own])
        (root / DIRECTORY / f"{number}{SUFFIX}").write_bytes(content)
        losses.append(lost)
    details = {TASK_DETAIL: spec.model_dump(mode="json")}
    return publish_directory(root, root.with_name(f"{root.name}-made"), Kind.PREDICTIONS, details=details), max(losses)


def test_ragged_soft_labels_are_read_as_they_were_written(spec: Task, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    outputs = [draw.normal(size=len(row.passage.split())).astype(np.float32) for row in TRAIN[:40]]
    made, lost = publish_soft(tmp_path / "soft", spec, TRAIN[:40], outputs)
    soft = SoftLabels(made, [item_key(row[:2]) for row in reversed(TRAIN[:40])], spec)
    assert 0 < lost < 1e-3
    for found_S, wanted_S in zip(soft, reversed(outputs), strict=True):
        assert found_S.dtype == np.float32
        assert np.array_equal(found_S, wanted_S.astype(np.float16).astype(np.float32))


def test_soft_labels_that_half_precision_would_change_are_kept_in_full(spec: Task, tmp_path: Path) -> None:
    outputs = [np.array([5000.0, 5000.4], dtype=np.float32), np.array([1.0], dtype=np.float32)]
    made, lost = publish_soft(tmp_path / "soft", spec, TRAIN[:2], outputs, blocks=1)
    assert lost == 0
    assert np.array_equal(SoftLabels(made, [item_key(TRAIN[0][:2])], spec)[0], outputs[0])


def test_the_soft_loss_is_none_where_both_say_the_same_and_kl_where_not(examples: Artifact, taught: Taught) -> None:
    task = objective(examples, taught.task.tokenizer, unlabelled=True)
    learning, spec, windows = task.learning, task.spec, task.train
    draw = np.random.default_rng(0)
    for number in range(6):
        item, own = windows.items[number], (windows.encodings or [])[number]
        scores_S = draw.normal(size=len(item.values[1].split())).astype(np.float32)
        for said_T2 in learning.window_soft(spec, scores_S, item, own):
            teacher = torch.from_numpy(said_T2)[None, None]
            shown = torch.from_numpy(said_T2[:, 1] > 0)
            student_T = torch.from_numpy(draw.normal(size=len(said_T2)).astype(np.float32))
            compare = learning.soft_criterion(spec, Mix(loss="listwise"), torch.ones(1))
            same = compare.loss(teacher[0, :, :, :1], {"teacher": teacher}, torch.tensor(2.0))
            other = compare.loss(student_T[None, :, None], {"teacher": teacher}, torch.tensor(2.0))
            p, q = (torch.softmax(one[shown] / 2, 0) for one in (teacher[0, 0, :, 0], student_T))
            assert float(same) == pytest.approx(0, abs=1e-5)
            assert float(other) == pytest.approx(4 * float((p * (p / q).log()).sum()), rel=1e-4)


def test_a_student_that_cuts_otherwise_learns_from_a_teachers_words_alone(
    taught: Taught, tokenizers: dict[str, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    """Rows without an answer, other tokens, shorter windows: all that it hears of the answers is the teacher's."""
    silent = [row._replace(answer=None) for row in rows(240, seed=2)]
    examples = publish_rows(tmp_path, {"train": [*silent, TRAIN[0]], "validation": VALIDATION})
    spec, asked = spec_of(examples), [*silent, TRAIN[0]]
    soft, _ = publish_soft(tmp_path / "soft", spec, asked, taught.engine.outputs(items_of(asked)))
    student = tokenizers["bpe"]
    task = objective(examples, student, unlabelled=True, length=20)
    learner = Distilled(task, [soft], Mix(alpha=1.0, temperature=1.0))
    assert learner.count(learner.batch(np.arange(16), 0, 0)) == 16
    figures = fit(tiny_model(student), learner, Training.model_validate(RUNS), Recorded()).metrics
    assert figures["mean_rank"] < 1.5, figures


def test_two_teachers_are_weighed_by_their_probabilities(taught: Taught, tmp_path: Path) -> None:
    spec, right = taught.engine.task, taught.engine.outputs(items_of(TRAIN))
    soft = [
        publish_soft(tmp_path / name, spec, TRAIN, said)[0] for name, said in (("a", right), ("b", [-one for one in right]))
    ]
    learner = Distilled(taught.task, soft, Mix(alpha=1.0, temperature=1.0), weights=(1, 3))
    batch, wanted = learner.batch(np.arange(32), 0, 0), 0.0
    with torch.inference_mode():
        student_BT = taught.model(**{name: batch[name] for name in taught.task.inputs}).logits[..., 0]
        for said_KT2, student_T in zip(batch["teacher"], student_BT, strict=True):
            shown_T = said_KT2[0, :, 1] > 0
            p = torch.tensor([0.25, 0.75]) @ torch.softmax(said_KT2[:, shown_T, 0], -1)
            wanted += float((p * (p.log() - torch.log_softmax(student_T[shown_T], 0))).sum())
        assert float(learner.loss(taught.model, batch)) == pytest.approx(wanted, rel=1e-3)
