"""The stage compress, all of it in one step, without Ray. `pytest tests/jobs/test_compress_stage.py`"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from cluster.store.artifact import Kind, open_artifact, other_place
from jobs.compress import CompressConfig, _build, _checked, _compress, _prune
from jobs.compression.heal import Healing
from jobs.core.config import BadInput
from jobs.core.stage import Context, Inputs, Outcome
from jobs.data.clean import item_key
from jobs.judging.controls import traits
from jobs.tasks.soft_labels import packed
from jobs.training import hooks
from serve.cleaning.cleaning import Cleaning
from serve.engines.card import read_card
from serve.engines.engine import load_engine
from serve.tasks.protocol import Item
from tests.jobs.pairs import ITEMS, PAIR_TASK, publish_pair_model, publish_pairs
from tests.jobs.small_models import parameters
from tests.jobs.tiny import (
    LABELS,
    MAX_LENGTH,
    MESSAGES,
    items_of,
    publish_directory,
    publish_examples,
    same_weights,
    save_classifier,
    tiny_classifier,
    tiny_tokenizer,
)

CONFIG: dict[str, Any] = {
    "vocabulary": "used",
    "prune": {"feed_forward": 0.5, "layers": 1, "steps": 2, "calibration_batches": 2},
    "factorize": {"energy": 0.6},
    "heal": {"epochs": 1, "evaluations": 1, "batch_size": 16, "precision": "fp32"},
    "max_length": MAX_LENGTH,
}


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome, int]:
    """What the stage makes of a BERT of two layers, what it says of it, and the parameters before."""
    root = tmp_path_factory.mktemp("compress")
    tokenizer = tiny_tokenizer(root / "tokenizer")
    model = tiny_classifier("bert", 2, len(tokenizer))
    cleaning = Cleaning(strip_tags=True)
    save_classifier(model, tokenizer, LABELS, root / "draft", cleaning=cleaning)
    # The last texts of each label have characters that others have not.
    splits = {"train": MESSAGES[:30], "validation": MESSAGES[30:44], "test": MESSAGES[44:]}
    examples = publish_examples(root, splits, cleaning=cleaning)
    inputs = Inputs(model=[publish_directory(root / "draft", root / "model", Kind.MODEL)], examples=[examples])
    context = Context(str(root), "recipe", "small", str(root / "small"), "1")
    return root / "small", _compress(CompressConfig.model_validate(CONFIG), inputs, context), parameters(model)


def test_what_is_left_cleans_as_the_model_did(compressed: tuple[Path, Outcome, int]) -> None:
    place, _, _ = compressed
    card = read_card(place)
    assert card.cleaning == Cleaning(strip_tags=True)
    engine = load_engine(place, "onnx")
    sent, clean = np.asarray(engine.settled(items_of(["<b>win</b> a free\r\n prize now", "win a free\n prize now"])))
    assert sent == pytest.approx(clean, abs=1e-5)


def test_what_is_left_is_a_stock_model_and_its_export_says_the_same(compressed: tuple[Path, Outcome, int]) -> None:
    place, outcome, before = compressed
    model = AutoModelForSequenceClassification.from_pretrained(place).eval()
    tokenizer = AutoTokenizer.from_pretrained(place)
    config = model.config
    assert (config.intermediate_size, config.num_hidden_layers, config.vocab_size) == (32, 1, len(tokenizer))
    assert parameters(model) == read_card(place).parameters == outcome.metrics["parameters"] < before
    texts = [text for text, _ in MESSAGES]
    with torch.inference_mode():
        wanted_BC = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.numpy()
    for variant in ("torch", "onnx"):
        assert np.abs(load_engine(place, variant).outputs(items_of(texts)) - wanted_BC).max() < 1e-4
    tables = [
        tensor.dims for tensor in onnx.load(str(place / "onnx" / "model.onnx")).graph.initializer if len(tensor.dims) == 2
    ]
    thin = outcome.metrics["parameters_factorized"]
    assert sum(int(np.prod(dims)) for dims in tables) < thin < outcome.metrics["parameters_unfactorized"]


def test_healing_that_was_killed_goes_on_and_ends_with_the_same_weights(
    compressed: tuple[Path, Outcome, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed in the second of two healings: the first is found done, the second goes on in its middle."""
    root = compressed[0].parent
    settings = {"heal": {**CONFIG["heal"], "batch_size": 4, "checkpoint_steps": 1}}
    config = CompressConfig.model_validate({**CONFIG, **settings, "vocabulary": None, "factorize": None})
    inputs = Inputs(model=[open_artifact(str(root / "model"))], examples=[open_artifact(str(root / "examples"))])
    trainings = 0

    def dying(**figures: Any) -> None:
        nonlocal trainings
        trainings += "feed_forward_kept" in figures
        if trainings == 2 and figures.get("step") == 3:
            raise KeyboardInterrupt

    def pruned(output: str, report: Callable[..., None]) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
        context = Context(str(tmp_path), "recipe", "small", str(tmp_path / output), "1", report=report)
        model, _, learner, _ = _build(config, inputs)
        healing = Healing(config.heal, learner, context)
        _prune(config, model, learner, healing)
        return model.state_dict(), healing.curve

    undisturbed, curve = pruned("a", lambda **figures: None)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(hooks, "REPORT_SECONDS", 0.0)
        pruned("b", dying)
    capsys.readouterr()
    again, its_curve = pruned("b", lambda **figures: None)
    assert capsys.readouterr().out.count("going on from checkpoint step-0000000") == 2
    assert same_weights(undisturbed, again) == 0 and curve == its_curve


def test_models_that_are_healed_side_by_side_keep_their_checkpoints_apart(tmp_path: Path) -> None:
    first = Context(str(tmp_path), "recipe", "small", str(tmp_path / "recipe" / "small-1"), "1")
    second, third = (replace(first, output=other_place(first.output, number)).scratch for number in (2, 3))
    assert second != third and second.startswith(f"{first.scratch}/") and third.startswith(f"{first.scratch}/")


def test_healing_is_weighed_as_distillation_is() -> None:
    heal = {"loss": "reverse_kl", "temperature": 4, "temperature_end": 1, "annealing": "cosine", "alpha": 0.5}
    config = CompressConfig.model_validate({"heal": heal})
    assert config.heal.loss == "reverse_kl" and config.heal.temperature_end == 1 and config.heal.epochs == 1
    for alpha, alpha_end in ((0.5, 0), (0, 0.5), (0, None)):
        asked = {"prune": {"layers": 1}, "heal": {"alpha": alpha, "alpha_end": alpha_end}}
        made = traits("compress", CompressConfig.model_validate(asked).model_dump(), taught=True)
        assert ("distilled" in made) == bool(alpha or alpha_end), "a control is what never listened to a teacher"


def test_soft_labels_that_are_not_there_cannot_be_weighed(compressed: tuple[Path, Outcome, int]) -> None:
    root = compressed[0].parent
    inputs = Inputs(model=[open_artifact(str(root / "model"))], examples=[open_artifact(str(root / "examples"))])
    with pytest.raises(BadInput, match=r"(?s)heal\.alpha.*heal\.loss"):
        _checked(CompressConfig.model_validate({"heal": {"alpha": 0.5, "loss": "mse"}, "max_length": MAX_LENGTH}), inputs)


def test_each_variant_answers_with_a_temperature(compressed: tuple[Path, Outcome, int]) -> None:
    place, outcome, _ = compressed
    for name, variant in read_card(place).variants.items():
        figures = outcome.metrics
        assert variant.fitted["temperature"] == figures["temperature" if name == "torch" else f"{name}_temperature"] != 1
        prefix = "" if name == "torch" else f"{name}_"
        assert figures[f"{prefix}calibration_error"] <= figures[f"{prefix}calibration_error_unscaled"]


def test_its_figures_say_what_was_done(compressed: tuple[Path, Outcome, int]) -> None:
    _, outcome, _ = compressed
    figures = outcome.metrics
    assert (figures["feed_forward_before"], figures["feed_forward_kept"]) == (64, 32)
    assert (figures["layers_before"], figures["layers_kept"]) == (2, 1)
    assert figures["vocabulary_kept"] < figures["vocabulary_before"]
    assert 0 <= figures["vocabulary_test_changed"] <= 1
    assert figures["export_difference"] < 1e-4 and "macro_f1" in figures
    steps = [point["step"] for point in outcome.details["curve"]]
    assert steps == sorted(steps) and len(set(steps)) == len(steps), "one curve through all healing"


WORDS = [(text, label) for text, label in MESSAGES if text.isascii()]
SIGNS = [(text, label) for text, label in MESSAGES if not any(sign.isascii() for sign in text.replace(" ", ""))]
MIXED = [
    (text, other, "same" if label == of_other else "mixed")
    for place, (text, label) in enumerate(SIGNS)
    for other, of_other in WORDS[place : place + 2]
]
"""Pairs of which only the second text has words that are more than one sign."""


@pytest.fixture(scope="module")
def of_pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome, PreTrainedTokenizerBase]:
    """What the stage makes of a model that reads two texts, with soft labels to heal from."""
    root = tmp_path_factory.mktemp("pairs")
    tokenizer = tiny_tokenizer(root / "tokenizer")
    model = publish_pair_model(root, tokenizer)
    examples = publish_pairs(root, {"train": MIXED[:20], "validation": MIXED[20:26], "test": MIXED[26:]})
    said = np.asarray(load_engine(model.local()).outputs([Item(pair[:2]) for pair in MIXED]))
    content, _ = packed(PAIR_TASK, [item_key(pair[:2]) for pair in MIXED], said)
    (root / "soft-draft" / "soft").mkdir(parents=True)
    (root / "soft-draft" / "soft" / "all.arrow").write_bytes(content)
    details = {"task": PAIR_TASK.model_dump(mode="json")}
    soft = publish_directory(root / "soft-draft", root / "soft", Kind.PREDICTIONS, details=details)
    asked = {
        **CONFIG,
        "factorize": None,
        "quantize": ["dynamic", "static"],
        "allowed_loss": 50,
        "calibration": {"examples": 8},
    }
    inputs = Inputs(model=[model], examples=[examples], teacher=[soft])
    context = Context(str(root), "recipe", "small", str(root / "small"), "1")
    config = CompressConfig.model_validate(asked)
    assert _checked(config, inputs) is _compress
    return root / "small", _compress(config, inputs, context), tokenizer


def test_a_model_of_pairs_is_compressed_with_both_texts_and_which_is_which(
    of_pairs: tuple[Path, Outcome, PreTrainedTokenizerBase],
) -> None:
    place, outcome, _ = of_pairs
    card, figures = read_card(place), outcome.metrics
    assert card.task == PAIR_TASK and card.inputs == ("input_ids", "attention_mask", "token_type_ids")
    assert set(card.variants) == {"torch", "onnx", "int8", "int8_static"}
    assert figures["export_difference"] < 1e-4
    exact = np.asarray(load_engine(place, "torch").outputs(ITEMS))
    assert np.abs(np.asarray(load_engine(place, "onnx").outputs(ITEMS)) - exact).max() < 1e-4 < np.abs(exact).max()
    for name in ("int8", "int8_static"):
        apart = np.abs(np.asarray(load_engine(place, name).outputs(ITEMS)) - exact)
        assert 1e-6 < apart.mean() < 0.2 * exact.std(), name
        assert card.variants[name].fitted["temperature"] == figures[f"{name}_temperature"]
    turned = [Item((other, text)) for text, other in (item.values for item in ITEMS)]
    assert np.abs(np.asarray(load_engine(place, "int8").outputs(turned)) - exact).max() > 0.05
    (tried,) = outcome.details["int8_tries"]
    assert tried["kept"] and 0 <= tried["score"] <= 1


def test_the_vocabulary_that_stays_is_that_of_both_columns(of_pairs: tuple[Path, Outcome, PreTrainedTokenizerBase]) -> None:
    place, outcome, before = of_pairs
    after = AutoTokenizer.from_pretrained(place)
    assert len(after) == outcome.metrics["vocabulary_kept"] < len(before)
    for text, other, _ in MIXED[:26]:
        assert after.tokenize(text) == before.tokenize(text) and after.tokenize(other) == before.tokenize(other)
    first, second = ({token for pair in MIXED[:26] for token in after.tokenize(pair[column])} for column in (0, 1))
    assert {token for token in second - first if token.isalpha() and len(token) > 2}, "words of the second text alone"
