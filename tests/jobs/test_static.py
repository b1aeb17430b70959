"""Static students: made from an encoder, trained by the loop, published as tables that answer as the trained model does.

pytest tests/jobs/test_static.py
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import AutoModel, PreTrainedTokenizerBase

from cluster.store.artifact import Artifact
from jobs.architectures.settings import StaticStudent
from jobs.architectures.static_model import StaticModel, StaticShape
from jobs.compression.static_features import features_of
from jobs.compression.static_student import outputs_of
from jobs.compression.static_task import TABLE_FILES, StaticExportError, StaticTask
from jobs.core.config import BadInput
from jobs.core.idle import idle_problems
from jobs.core.recipe import parse_recipe
from jobs.core.stage import Inputs, Resources
from jobs.distill import DISTILL_RULES, DistillConfig, build
from jobs.search.shapes import time_shapes
from jobs.tasks import learning_of
from jobs.tasks.distilled import Distilled
from jobs.training.loop import fit
from jobs.training.static_settings import check_static, encoder_of
from jobs.training.static_vectors import encoded, frequency_weights, principal
from serve.engines.base import Engine
from serve.engines.card import read_card
from serve.engines.engine import load_engine
from serve.tasks.protocol import Item
from serve.tasks.regression import Regression
from tests.jobs.tiny import (
    LABELS,
    MESSAGES,
    publish_classifier,
    publish_examples,
    publish_predictions,
    same_weights,
)
from tests.jobs.training_runs import Recorded

TRAIN, VALIDATION = MESSAGES[:58], MESSAGES[58:]
FEATURES = ("tokens", "words", "grams")
QUICK = {"precision": "fp32", "batch_size": 16, "epochs": 20, "optimizer": {"learning_rate": 1e-2}}
characters = st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("aB ı İß\t\n我们🙂é'0_𠀀ひらカナ"))
texts = st.text(characters, max_size=60)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("static")


@pytest.fixture(scope="module")
def examples(root: Path) -> Artifact:
    return publish_examples(root, {"train": TRAIN, "validation": VALIDATION})


@pytest.fixture(scope="module")
def soft(root: Path) -> Artifact:
    """A teacher that is sure of every label."""
    return publish_predictions(root, {text: [3.0, -3.0] if label == LABELS[0] else [-3.0, 3.0] for text, label in MESSAGES})


@pytest.fixture(scope="module")
def teacher(root: Path, tokenizer: PreTrainedTokenizerBase) -> Artifact:
    return publish_classifier(root, tokenizer)


def config_of(features: str = "tokens", more: Mapping[str, Any] | None = None, **student: Any) -> DistillConfig:
    own = {"kind": "static", "features": features, "dimension": 16, "hidden": 8} | student
    return DistillConfig.model_validate({"student": own, **QUICK, **(more or {})})


def given_to(examples: Artifact, soft: Artifact, teacher: Artifact | None, features: str = "tokens") -> Inputs:
    given = {"examples": [examples], "teacher": [soft]}
    return Inputs(given if teacher is None or features == "grams" else {**given, "teacher_model": [teacher]})


@pytest.fixture(scope="module", params=FEATURES)
def trained(
    request: pytest.FixtureRequest, root: Path, examples: Artifact, soft: Artifact, teacher: Artifact
) -> tuple[Path, StaticModel, StaticTask]:
    config = config_of(request.param)
    torch.manual_seed(0)
    model, learner = build(config, given_to(examples, soft, teacher, request.param))
    fitted = fit(model, learner, config, Recorded())
    assert fitted.metrics["accuracy"] > 0.9
    directory = root / f"published-{request.param}"
    directory.mkdir()
    figures = learner.save(model, directory)
    assert figures["export_difference"] < 1e-5 and figures["int8_difference"] < figures["int4_difference"]
    assert isinstance(model, StaticModel) and isinstance(learner, Distilled) and isinstance(learner.inner, StaticTask)
    return directory, model, learner.inner


def test_every_variant_answers_as_the_trained_model(trained: tuple[Path, StaticModel, StaticTask]) -> None:
    directory, model, task = trained
    items = [*task.validation.items, Item(("",)), Item((" ",)), Item(("ΩΨ ᚠ",))]
    windows = task.validation
    with torch.inference_mode():
        batch = windows.batch(np.arange(len(windows.items)), task.inputs)
        logits_NK = task.forward(model, batch).numpy()
    card = read_card(directory)
    assert set(card.variants) == set(TABLE_FILES) and card.default == "numpy" and card.is_bag
    allowed = {"numpy": 1e-5, "fp16": 1e-2, "int8": 0.1, "int4": 1.5}
    for name in TABLE_FILES:
        engine = load_engine(directory, name)
        outputs_NK = np.asarray(engine.outputs(items))
        assert np.isfinite(outputs_NK).all()
        assert np.abs(outputs_NK[: len(windows.items)] - logits_NK).max() < allowed[name] * max(1.0, np.abs(logits_NK).max())
        alone = np.concatenate([np.asarray(engine.outputs([item])) for item in items])
        assert np.abs(alone - outputs_NK).max() < 1e-5
        assert all(0 < answer.probability <= 1 for answer in engine.answers(items))
        right = [answer.label == label for answer, (_, label) in zip(engine.answers(items), VALIDATION, strict=False)]
        assert np.mean(right) > 0.8, name
        assert card.variants[name].fitted["temperature"] > 0
    assert not list(directory.rglob("*.bin")) and not (directory / "config.json").exists()


def test_each_variant_is_fitted_by_its_own_answers(trained: tuple[Path, StaticModel, StaticTask]) -> None:
    directory, _, task = trained
    card, learning = read_card(directory), learning_of("classification")
    for name, variant in card.variants.items():
        fitted, _ = learning.fit(task.spec, load_engine(directory, name).outputs(task.validation.items), task.validation.truth)
        assert variant.fitted == dict(fitted)


def test_what_training_texts_were_like_is_told_as_the_engine_counts(trained: tuple[Path, StaticModel, StaticTask]) -> None:
    directory, _, task = trained
    card = read_card(directory)
    assert card.training is not None
    assert card.training.labels == pytest.approx(dict.fromkeys(LABELS, 0.5), abs=0.1)
    lengths = [len(window) for (window,) in load_engine(directory).tokenise(task.train.items)]
    found = np.searchsorted(card.training.length_edges, lengths)
    shares = np.bincount(found, minlength=len(card.training.length_shares)) / len(lengths)
    assert shares.tolist() == pytest.approx(list(card.training.length_shares))


def test_embeddings_have_length_1_and_tell_texts_apart(trained: tuple[Path, StaticModel, StaticTask]) -> None:
    directory, _, task = trained
    engine = load_engine(directory)
    assert engine.embeds
    windows = [one for (one,) in engine.tokenise(task.validation.items)]
    vectors_ND = engine.embed(windows)
    assert vectors_ND.shape == (len(windows), 16)
    assert np.linalg.norm(vectors_ND, axis=1) == pytest.approx(1.0, abs=1e-5)
    labels = np.array([label for _, label in VALIDATION])
    alike = vectors_ND @ vectors_ND.T
    same = labels[:, None] == labels[None]
    assert alike[same].mean() > alike[~same].mean()


@pytest.fixture(scope="module")
def engine(trained: tuple[Path, StaticModel, StaticTask]) -> Engine:
    return load_engine(trained[0], "int4")


@given(texts)
@settings(max_examples=60, deadline=None)
def test_any_text_gets_a_finite_answer(engine: Engine, text: str) -> None:
    (answer,) = engine.answers([Item((text,))])
    assert answer.label in LABELS and 0 < answer.probability <= 1


# Where vectors come from


def test_a_token_begins_as_the_encoder_reads_it_alone(
    examples: Artifact, teacher: Artifact, tokenizer: PreTrainedTokenizerBase
) -> None:
    settings = StaticStudent(kind="static", dimension=16, vocabulary="all")
    features = features_of(settings, tokenizer, [text for text, _ in TRAIN], 24)
    assert features.sequences is not None
    found_VH = encoded(teacher, features.sequences, int(tokenizer.pad_token_id))
    encoder = AutoModel.from_pretrained(teacher.local()).eval()
    for token in ("free", "dinner", "我", "##e"):
        number = tokenizer.get_vocab().get(token)
        if number is None:
            continue
        ids = [tokenizer.cls_token_id, number, tokenizer.sep_token_id]
        with torch.inference_mode():
            states = encoder(input_ids=torch.tensor([ids])).last_hidden_state[0]
        assert found_VH[number] == pytest.approx(states.mean(0).numpy(), abs=1e-4)


def test_principal_components_keep_what_there_is() -> None:
    draw = np.random.default_rng(3)
    flat = draw.normal(size=(50, 4)) @ draw.normal(size=(4, 12)) + 5
    found = principal(flat.astype(np.float32), 4)
    assert float(np.mean(found.astype(np.float64) ** 2)) == pytest.approx(1, abs=1e-4)
    centred = flat - flat.mean(0)
    distances = (np.linalg.norm(points[:, None] - points[None], axis=2) for points in (centred, found))
    one, other = (each[np.triu_indices(50, 1)] for each in distances)
    assert (one / other).std() < 1e-3 * (one / other).mean()
    assert np.array_equal(principal(flat.astype(np.float32), 4), found)


def test_frequent_features_count_less() -> None:
    weights = frequency_weights(np.array([0, 1, 99]), 0.1)
    assert weights == pytest.approx([1, 0.1 / 0.11, 0.1 / 1.09])


def test_the_vocabulary_is_cut_to_what_the_training_texts_use(
    examples: Artifact, teacher: Artifact, tokenizer: PreTrainedTokenizerBase
) -> None:
    few = [text for text, _ in TRAIN if text.isascii()][:6]
    used, whole = (features_of(StaticStudent(kind="static", vocabulary=kept), tokenizer, few, 24) for kept in ("used", "all"))
    assert sum(used.cutter.rows) < sum(whole.cutter.rows) == len(tokenizer)
    for text in few:
        (one,), (other,) = used.cutter([text], False), whole.cutter([text], False)
        assert used.sequences is not None and whole.sequences is not None
        read = [
            sorted(tuple((features.sequences or ())[row]) for row in np.repeat(*(part.astype(int) for part in cut.found[0])))
            for features, cut in ((used, one), (whole, other))
        ]
        assert read[0] == read[1]


def test_the_same_step_begins_and_ends_with_the_same_weights(examples: Artifact, soft: Artifact, teacher: Artifact) -> None:
    made = []
    for _ in range(2):
        config = config_of(more={"epochs": 2})
        torch.manual_seed(config.seed)
        model, learner = build(config, given_to(examples, soft, teacher))
        fit(model, learner, config, Recorded())
        made.append(model.state_dict())
    assert same_weights(*made) == 0


def test_a_run_that_was_killed_ends_with_the_same_weights(
    examples: Artifact, soft: Artifact, teacher: Artifact, tmp_path: Path
) -> None:
    config = config_of(more={"epochs": 4, "checkpoint_steps": 3}, token_dropout=0.3)

    def run(hooks: Recorded) -> dict[str, torch.Tensor]:
        torch.manual_seed(config.seed)
        model, learner = build(config, given_to(examples, soft, teacher))
        fit(model, learner, config, hooks)
        return model.state_dict()

    whole = run(Recorded())
    with pytest.raises(KeyboardInterrupt):
        run(Recorded(tmp_path / "state", dies_at=7))
    assert same_weights(whole, run(Recorded(tmp_path / "state"))) == 0


# The model in torch


def test_parts_of_a_batch_are_read_apart() -> None:
    torch.manual_seed(0)
    vectors, weights = torch.randn(7, 4), torch.rand(7) + 0.1
    model = StaticModel(vectors, weights, StaticShape(texts=2, sorts=2, outputs=3, hidden=5)).eval()
    ids, types = torch.tensor([[1, 2, 3, 6, 0]]), torch.tensor([[0, 0, 1, 2, 3]])
    mask = torch.tensor([[1, 1, 1, 1, 0]])

    def mean(rows: list[int]) -> torch.Tensor:
        own = weights[rows, None]
        return (vectors[rows] * own).sum(0) / own.sum()

    first, second = mean([1, 2]) + mean([3]), mean([6])
    read = torch.cat([first, second, (first - second).abs(), first * second])
    by_hand = model.layers[1](torch.relu(model.layers[0](read)))
    with torch.inference_mode():
        assert model(ids, mask, types).logits[0] == pytest.approx(by_hand.detach(), abs=1e-5)
        empty = model(torch.zeros((2, 0), dtype=torch.long), torch.zeros((2, 0)), torch.zeros((2, 0))).logits
    assert torch.isfinite(empty).all() and torch.equal(empty[0], empty[1])


# What is refused


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ({"layers": [0]}, "no such key|Extra inputs"),
        ({"feed_forward": 0.5}, "Extra inputs"),
        ({"every": 2}, "Extra inputs"),
        ({"dimension": 33}, "multiple of 2"),
    ],
)
def test_keys_that_mean_nothing_are_refused(student: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DistillConfig.model_validate({"student": {"kind": "static", **student}})


@pytest.mark.parametrize(
    ("student", "key"),
    [
        ({"features": "words", "vocabulary": "all"}, "student.vocabulary"),
        ({"rows": 100}, "student.rows"),
        ({"features": "grams", "weights": "random"}, "student.weights"),
        ({"mean": "plain", "smoothing": 0.1}, "student.smoothing"),
    ],
)
def test_keys_that_do_nothing_are_refused(student: dict[str, Any], key: str) -> None:
    config = DistillConfig.model_validate({"student": {"kind": "static", **student}})
    assert [problem.path for problem in idle_problems(config, ("init",), (), DISTILL_RULES)] == [key]


@pytest.mark.parametrize(
    "given",
    [
        {"match": {"last": {"what": "hidden"}}, "adapter": {"rank": 2}, "dropout": 0.1, "optimizer": {"layer_decay": 0.9}},
        {"freeze": {"embeddings": True}, "compile": True, "activation_checkpointing": True},
    ],
)
def test_keys_of_transformers_are_refused_together(given: dict[str, Any]) -> None:
    config = DistillConfig.model_validate({"student": {"kind": "static"}, **given})
    found = {problem.path for problem in idle_problems(config, ("init", "teacher_model"), (), DISTILL_RULES)}
    assert found == {"optimizer.layer_decay" if key == "optimizer" else key for key in given}


def test_one_encoder_or_none(examples: Artifact, soft: Artifact, teacher: Artifact) -> None:
    both = Inputs({"examples": [examples], "teacher": [soft], "teacher_model": [teacher], "init": [teacher]})
    none = Inputs({"examples": [examples], "teacher": [soft]})
    words = StaticStudent(kind="static", features="words")
    cases = [(StaticStudent(kind="static"), both, "from one encoder"), (StaticStudent(kind="static"), none, "no encoder")]
    cases += [(StaticStudent(kind="static", features="grams"), both, "one encoder")]
    cases += [(StaticStudent(kind="static", features="words", weights="copied"), none, "no encoder to copy from")]
    for student, inputs, said in cases:
        with pytest.raises(BadInput, match=said):
            check_static(student, None, inputs, Resources())
    check_static(words, None, none, Resources())
    assert encoder_of(None, none) is None and encoder_of(None, both) is teacher
    with pytest.raises(BadInput, match="Use ddp"):
        check_static(words, None, none, Resources(workers=2, parallel="fsdp"))


def test_more_numbers_than_the_encoder_has(examples: Artifact, soft: Artifact, teacher: Artifact) -> None:
    with pytest.raises(BadInput, match="vectors have 32 numbers"):
        build(config_of(dimension=64), given_to(examples, soft, teacher))


@pytest.mark.parametrize("features", FEATURES)
def test_an_empty_vocabulary_is_told(features: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(BadInput, match="the vocabulary is empty"):
        features_of(StaticStudent(kind="static", features=features), tokenizer, ["  ", "\t"], 24)


def test_a_task_of_more_than_a_row_of_numbers() -> None:
    assert outputs_of(Regression(mean=0.0, deviation=1.0)) == 1
    tagged = type("Tagged", (Regression,), {"per_token": True, "__module__": __name__})
    with pytest.raises(BadInput, match="one row of numbers"):
        outputs_of(tagged(mean=0.0, deviation=1.0))


def test_an_engine_that_answers_otherwise_is_found(
    trained: tuple[Path, StaticModel, StaticTask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model, task = trained
    wrong = StaticModel(model.vectors.detach() + 0.1, model.log_weights.detach().exp(), model.shape)
    wrong.layers.load_state_dict(model.layers.state_dict())
    from jobs.compression import static_task

    write = static_task.write_tables
    monkeypatch.setattr(static_task, "write_tables", lambda _, features, directory: write(wrong, features, directory))
    with pytest.raises(StaticExportError, match="other than those"):
        task.save(model, tmp_path)


def test_what_is_usual_for_static_students_gives_way_to_the_recipe() -> None:
    usual = DistillConfig.model_validate({"student": {"kind": "static"}})
    assert (usual.epochs, usual.batch_size, usual.optimizer.learning_rate) == (10, 64, 3e-3)
    said = {"student": {"kind": "static"}, "epochs": 2, "optimizer": {"learning_rate": 1e-4, "weight_decay": 0.1}}
    own = DistillConfig.model_validate(said)
    assert (own.epochs, own.optimizer.learning_rate, own.optimizer.weight_decay) == (2, 1e-4, 0.1)
    part = DistillConfig.model_validate({"student": {"every": 2}})
    assert (part.epochs, part.optimizer.learning_rate) == (3, 1e-4)
    assert DistillConfig.model_validate(usual.model_dump()) == usual


def test_what_is_published_needs_no_torch(trained: tuple[Path, StaticModel, StaticTask]) -> None:
    directory, _, _ = trained
    kinds = {json.loads((directory / "bag.json").read_text())["kind"]}
    assert kinds == {"static"} and {path.suffix for path in directory.iterdir()} == {".json", ".safetensors"}


def test_shapes_are_timed_before_anything_trains(examples: Artifact, teacher: Artifact, soft: Artifact) -> None:
    """Of each dimension a model with vectors of chance, in the precision that would be deployed."""
    student = {"kind": "static", "dimension": {"grid": [16, 32]}, "hidden": 8}
    rows = {"stage": "prepare", "source": "unused.csv", "task": {"kind": "classification", "label": "label"}}
    steps: dict[str, Any] = {
        "rows": rows,
        "teacher": {"stage": "finetune", "inputs": {"examples": "rows"}, "model": "sample:minilm_l6"},
        "soft": {"stage": "predict", "inputs": {"model": "teacher", "examples": "rows"}},
        "static": {"stage": "distill", "inputs": {"examples": "rows", "teacher": "soft", "teacher_model": "teacher"}}
        | {"student": student, "tune": {"scheduler": "none", "budget": {"maximum_p95_ms": 1e6, "texts": 20}}},
    }
    step = parse_recipe({"name": "tiny", "steps": steps}).steps["static"]
    timed = time_shapes(step, given_to(examples, soft, teacher))
    assert [row["values"] for row in timed] == [{"student.dimension": 16}, {"student.dimension": 32}]
    assert all(row["fits"] and 0 < row["p50_ms"] <= row["p95_ms"] for row in timed)
    assert timed[0]["parameters"] < timed[1]["parameters"] and timed[0]["bytes"] < timed[1]["bytes"]
