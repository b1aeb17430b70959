"""What the objectives' batches hold, that they learn, what they publish. `pytest tests/jobs/test_objectives.py`"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)

from jobs.contracts.learning import MISSING
from jobs.core.config import BadInput
from jobs.objectives.causal import CausalObjective
from jobs.objectives.corruption import SpanCorruption, noise_spans
from jobs.objectives.language import LanguageObjective
from jobs.objectives.pairs import PairObjective, segments
from jobs.training.loop import fit
from jobs.training.settings import Training
from tests.jobs.language_runs import ALIKE, language_model, language_objective, language_tokenizer, publish_language
from tests.jobs.training_runs import QUICK, Recorded

CPU = torch.device("cpu")


# Batches


def test_the_next_token_is_the_label_inside_a_document(causal: CausalObjective) -> None:
    """By hand: [CLS] is 2, [SEP] 3, padding 0; the row begins in the middle of a document."""
    ids = np.array([[20, 21, 3, 2, 30, 31, 3, 2, 40, 3, 0, 0]])
    batch = causal.make(ids, np.random.default_rng(0))
    none = MISSING
    assert batch["labels"].tolist() == [[21, 3, none, 30, 31, 3, none, 40, 3, none, none, none]]
    assert batch["documents"].tolist() == [[1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 0, 0]]
    assert torch.equal(batch["input_ids"], torch.from_numpy(ids))
    assert causal.count(batch) == 7 and causal.tokens(batch) == 10


def test_spans_are_taken_out_and_written_by_the_decoder(span_corruption: SpanCorruption) -> None:
    """Putting what the decoder writes in the sentinels' places gives each document back."""
    ids_BT = span_corruption.train.rows(np.arange(8))
    batch = span_corruption.make(ids_BT, np.random.default_rng(0))
    sentinels, taken, text = span_corruption.sentinels, 0, 0
    assert sentinels == list(range(5, 13))
    for row, ids_T in enumerate(ids_BT):
        documents_T = span_corruption.documents(ids_T[None])[0]
        for document in range(1, documents_T.max() + 1):
            read = batch["input_ids"][row][batch["documents"][row] == document].tolist()
            here = batch["decoder_documents"][row] == document
            wrote, before = batch["labels"][row][here].tolist(), batch["decoder_input_ids"][row][here].tolist()
            if wrote:
                assert wrote[-1] == 3 and before == [0, *wrote[:-1]], "shifted by one, from the decoder's start token"
            spans: dict[int, list[int]] = {}
            for token in wrote[:-1]:
                if token in sentinels:
                    spans[token] = []
                else:
                    spans[list(spans)[-1]].append(token)
            assert list(spans) == sentinels[: len(spans)] == [token for token in read if token in sentinels]
            whole = [token for one in read for token in spans.get(one, [one])]
            assert whole == ids_T[documents_T == document].tolist()
            taken += sum(map(len, spans.values()))
            text += int((~span_corruption.special_V[ids_T] & (documents_T == document)).sum())
    assert taken / text == pytest.approx(0.15, abs=0.05)


@pytest.mark.parametrize(("length", "probability"), [(100, 0.15), (7, 0.15), (40, 0.5), (2, 0.9)])
def test_spans_have_their_share_and_a_mean_of_three_tokens(length: int, probability: float) -> None:
    generator = np.random.default_rng(0)
    drawn = [noise_spans(length, probability, 100, generator) for _ in range(2000)]
    share = np.mean([(one >= 0).mean() for one in drawn])
    least, most = 1 / length, 1 - 1 / length
    assert share == pytest.approx(min(most, max(least, probability)), abs=0.012)
    for one in drawn[:200]:
        edges = np.diff(np.concatenate([[-1], one, [-1]]))
        assert one.max() + 1 == (edges > 0).sum(), "spans never touch"
    if length == 100:
        assert np.mean([(one >= 0).sum() / (one.max() + 1) for one in drawn]) == pytest.approx(3, abs=0.2)
        ends = np.mean([[one[0] >= 0, one[-1] >= 0, one[50] >= 0] for one in drawn], axis=0)
        assert (ends > 0.02).all(), "any token may be taken, also the first and the last"
    assert (noise_spans(1, 0.5, 9, generator) == -1).all() and len(noise_spans(0, 0.5, 9, generator)) == 0
    assert noise_spans(100, 0.5, 4, generator).max() == 3, "no more spans than sentinels"


def test_exchanged_segments_are_the_same_sentences(masked_sentence_order: PairObjective) -> None:
    masked_sentence_order.probability, probability = 1e-9, masked_sentence_order.probability
    try:
        numbers = np.arange(20)
        rows = masked_sentence_order.train.rows(numbers)
        batch = masked_sentence_order.batch(numbers, 0, 0)
        labels = batch["pair_labels"].tolist()
        assert 4 < sum(labels) < 16
        for row, label, shown, types, real in zip(
            rows, labels, batch["input_ids"].numpy(), batch["token_type_ids"], batch["attention_mask"], strict=True
        ):
            first, second = segments(row, masked_sentence_order.frame)
            wanted = (second, first) if label else (first, second)
            assert [one.tolist() for one in segments(shown, masked_sentence_order.frame)] == [one.tolist() for one in wanted]
            a, b = map(len, wanted)
            assert types.tolist() == [0] * (a + 2) + [1] * (b + 1) + [0] * (len(row) - a - b - 3)
            assert real.sum() == a + b + 3
        other = masked_sentence_order.batch(numbers, 0, 1)["pair_labels"].tolist()
        assert other != labels, "each step draws anew which are exchanged"
    finally:
        masked_sentence_order.probability = probability


def test_a_false_b_is_another_rows_b_of_a_like_length(tmp_path: Path) -> None:
    objective = language_objective("masked_next_sentence", publish_language(tmp_path, "masked_next_sentence"))
    assert isinstance(objective, PairObjective)
    objective.probability = 1e-9
    everything = objective.train.rows(np.arange(objective.size))
    seconds = {tuple(segments(row, objective.frame)[1]) for row in everything}
    lengths: dict[int, list[int]] = {0: [], 1: []}
    changed = 0
    for step in range(40):
        numbers = np.arange(objective.size)
        batch = objective.batch(numbers, 0, step)
        for row, label, shown in zip(everything, batch["pair_labels"].tolist(), batch["input_ids"].numpy(), strict=True):
            (first, second), (own, true) = segments(shown, objective.frame), segments(row, objective.frame)
            assert (first == own).all() and tuple(second) in seconds, "whole sentences, never cut"
            assert label or (second == true).all()
            changed += label and not np.array_equal(second, true)
            lengths[label].append(len(second))
    assert changed > 0.8 * len(lengths[1])
    assert np.mean(lengths[1]) == pytest.approx(np.mean(lengths[0]), abs=0.4), "the length does not tell"


def test_the_pairs_loss_is_a_mean_however_rows_are_divided(masked_sentence_order: PairObjective) -> None:
    """By hand: the sum over parts, divided by the masked tokens, is mean masked loss + mean pair loss."""
    model = language_model("masked_sentence_order", masked_sentence_order.tokenizer, 0.0).eval()
    batch = masked_sentence_order.batch(np.arange(15), 0, 0)
    count = masked_sentence_order.count(batch)
    with torch.inference_mode():
        stock = model.model(
            batch["input_ids"],
            attention_mask=batch["attention_mask"],
            token_type_ids=batch["token_type_ids"],
            labels=batch["labels"],
            next_sentence_label=batch["pair_labels"],
        )
        parts = [{key: value[part::4] for key, value in batch.items()} for part in range(4)]
        found = sum(float(masked_sentence_order.loss(model, part)) for part in parts) / count
    assert found == pytest.approx(float(stock.loss), abs=1e-5)


# Learning and publishing

CASES: list[tuple[str, dict[str, Any], int]] = [
    ("masked", {"masking": "whole_words"}, 150),
    ("masked", {"masking": "spans"}, 150),
    ("causal", {}, 150),
    ("span_corruption", {}, 130),
    ("masked_next_sentence", {}, 400),
    ("masked_sentence_order", {}, 200),
]
"""Objective, its settings, and the steps that it takes to learn it."""
LOADERS: dict[str, Any] = {
    "masked": AutoModelForMaskedLM,
    "masked_next_sentence": AutoModelForPreTraining,
    "masked_sentence_order": AutoModelForPreTraining,
    "causal": AutoModelForCausalLM,
    "span_corruption": AutoModelForSeq2SeqLM,
}


def guessing(objective: LanguageObjective) -> float:
    """The loss of one who knows how frequent each token is and nothing else: the entropy of the text."""
    ids = objective.train.rows(np.arange(objective.size))
    counts = np.bincount(ids[~objective.special_V[ids]])
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


@pytest.mark.parametrize(("name", "settings", "steps"), CASES)
def test_it_learns_and_publishes_what_stock_code_loads(
    name: str, settings: dict[str, Any], steps: int, tmp_path: Path
) -> None:
    alike = name == "masked_next_sentence"
    layout: dict[str, Any] = {"documents": ALIKE, "length": 12} if alike else {}
    tokens = publish_language(tmp_path, name, **layout)
    objective = language_objective(name, tokens, **settings)
    model = language_model(name, objective.tokenizer, 0.0)
    asked = {**QUICK, "max_steps": steps, "epochs": 999, "optimizer": {"learning_rate": 2e-3 if alike else 5e-3}}
    fitted = fit(model, objective, Training.model_validate({**asked, "batch_size": 24, "keep": "last"}), Recorded())
    assert fitted.metrics["validation_loss"] < 0.7 * guessing(objective)
    assert fitted.metrics["perplexity"] == pytest.approx(np.exp(fitted.metrics["validation_loss"]))
    if "sentence" in name:
        assert fitted.metrics["pair_accuracy"] >= 0.85
    figures = objective.save(model, tmp_path / "model")
    stock = LOADERS[name].from_pretrained(tmp_path / "model")
    assert figures == {"parameters": sum(weight.numel() for weight in stock.parameters()), "new_parameters": 0}
    assert stock.dtype == torch.float32 and stock.state_dict().keys() == model.model.state_dict().keys()
    assert all(torch.equal(weight, model.model.state_dict()[key]) for key, weight in stock.state_dict().items())
    assert len(AutoTokenizer.from_pretrained(tmp_path / "model")) == len(objective.tokenizer)
    if name == "causal":
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
        prompt = tokenizer("at first the horse", return_tensors="pt")
        assert prompt["input_ids"][0].tolist()[0] == 2 and 3 not in prompt["input_ids"], "begun, not ended"
        said = stock.generate(**prompt, max_new_tokens=6, do_sample=False)[0]
        assert str(tokenizer.decode(said, skip_special_tokens=True)).startswith("at first the horse sleeps at home")
        assert stock.generation_config.eos_token_id == 3, "a generation ends where a document does"


@pytest.mark.parametrize("name", ["causal", "span_corruption", "masked_sentence_order"])
def test_evaluation_is_always_the_same_however_rows_are_shared_out(name: str, request: pytest.FixtureRequest) -> None:
    objective = request.getfixturevalue(name)
    model = language_model(name, objective.tokenizer, 0.0).eval()
    numbers = np.arange(objective.validation_size)
    with torch.inference_mode():
        whole, again = (objective.measure([objective.evaluate(model, numbers, CPU)]) for _ in range(2))
        shared = objective.measure([objective.evaluate(model, numbers[rank::3], CPU) for rank in range(3)])
    assert whole == again
    assert shared == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("name", ["causal", "span_corruption", "masked_sentence_order"])
def test_batches_come_from_the_seed_alone(name: str, request: pytest.FixtureRequest) -> None:
    objective = request.getfixturevalue(name)
    first, again, other = (objective.batch(np.arange(12), 0, step) for step in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert {len(value) for value in first.values()} == {12}
    same = all(first[key].shape == other[key].shape and torch.equal(first[key], other[key]) for key in first)
    assert same == (name == "causal"), "where anything is random, each step draws anew"


# What cannot be


@pytest.mark.parametrize(("laid_out", "asked"), [("masked", "masked_sentence_order"), ("masked_next_sentence", "causal")])
def test_pairs_and_packed_text_are_not_mistaken(laid_out: str, asked: str, tmp_path: Path) -> None:
    tokens = publish_language(tmp_path, laid_out)
    needs = "pairs" if "sentence" in asked else "packed"
    with pytest.raises(BadInput, match=f"objective = '{asked}': {asked} reads segments: {needs}, .* Prepare the text with"):
        language_objective(asked, tokens)


def test_span_corruption_needs_sentinels(tmp_path: Path) -> None:
    tokens = publish_language(tmp_path, "span_corruption", language_tokenizer(tmp_path / "own", sentinels=0))
    with pytest.raises(BadInput, match=r"no sentinel tokens .* Train one with tokenizer.sentinels: 100"):
        language_objective("span_corruption", tokens)
