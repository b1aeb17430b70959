"""Masked language modelling: which tokens are hidden, and what their loss is. `pytest tests/jobs/test_masked.py`"""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from jobs.architectures.new import NewModelConfig, new_model
from jobs.contracts.learning import MISSING
from jobs.core.config import BadInput
from jobs.objectives.masked import MaskedObjective
from jobs.objectives.masking import NONE, WordMarks, hide, span_units, token_units, word_units
from jobs.objectives.target_head import LanguageModel
from tests.jobs.language_runs import language_objective, language_tokenizer, publish_language
from tests.jobs.tiny import load_classifier

CPU = torch.device("cpu")


def wide_model(masked: MaskedObjective, architecture: str) -> PreTrainedModel:
    """Random weights so large that every choice of positions has another loss."""
    torch.manual_seed(0)
    shape = NewModelConfig.model_validate(
        {"architecture": architecture, "layers": 2, "hidden": 32, "heads": 2, "dropout": 0.0}
    )
    model = new_model(shape, "masked", masked.tokenizer, 16).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return model


def test_shares_of_what_becomes_of_tokens(masked: MaskedObjective) -> None:
    size = len(masked.tokenizer)
    ids_BT = np.random.default_rng(0).integers(5, size, (2000, 64))
    batch = masked.make(ids_BT, np.random.default_rng(1))
    shown_BT, chosen_BT = batch["input_ids"].numpy(), batch["labels"].numpy() != MISSING
    assert chosen_BT.mean() == pytest.approx(0.15, abs=0.005)
    assert (batch["labels"].numpy()[chosen_BT] == ids_BT[chosen_BT]).all(), "the label is the token that was hidden"
    assert (shown_BT[~chosen_BT] == ids_BT[~chosen_BT]).all(), "what is not to be predicted stays"
    hidden = shown_BT[chosen_BT] == masked.tokenizer.mask_token_id
    kept = shown_BT[chosen_BT] == ids_BT[chosen_BT]
    assert hidden.mean() == pytest.approx(0.8, abs=0.015)
    # Another token is by chance the same in one of `size - 5` cases.
    assert kept.mean() == pytest.approx(0.1 + 0.1 / (size - 5), abs=0.01)
    others = shown_BT[chosen_BT][~hidden & ~kept]
    assert others.min() >= 5 and len(np.unique(others)) > 0.9 * (size - 5), "any word may stand in, no special token"


def test_special_tokens_are_never_hidden_and_padding_is_not_read(masked: MaskedObjective) -> None:
    masked = copy.copy(masked)
    masked.probability = 0.999
    last = np.arange(masked.size)[-2:]
    ids_BT = torch.from_numpy(masked.train.rows(last))
    batch = masked.batch(last, 0, 0)
    special_BT = torch.from_numpy(masked.special_V)[ids_BT]
    assert (ids_BT == 0).any() and (ids_BT == 2).any(), "the row has padding and begins of documents"
    assert (batch["labels"][special_BT] == MISSING).all()
    assert torch.equal(batch["input_ids"][special_BT], ids_BT[special_BT])
    assert torch.equal(batch["documents"] == 0, ids_BT == 0)
    assert masked.tokens(batch) == (ids_BT != 0).sum()
    assert masked.count(batch) == (batch["labels"] != MISSING).sum() > 0


def test_masks_come_from_the_seed_alone_and_differ_by_step(masked: MaskedObjective) -> None:
    numbers = np.arange(16)
    first, again, other = (masked.batch(numbers, 0, step) for step in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["labels"], other["labels"])
    assert not torch.equal(first["labels"], masked.batch(numbers, 3, 0)["labels"])
    # A run that was begun by older code goes on with the same masks.
    made = masked.make(masked.train.rows(numbers), np.random.default_rng([0, 3, 1]))
    assert all(torch.equal(first[key], made[key]) for key in first)


def test_validation_does_not_depend_on_how_rows_are_shared_out(masked: MaskedObjective) -> None:
    model = LanguageModel(wide_model(masked, "bert"))
    numbers = np.arange(masked.validation_size)
    with torch.inference_mode():
        whole = masked.measure([masked.evaluate(model, numbers, CPU)])
        shared = masked.measure([masked.evaluate(model, numbers[rank::3], CPU) for rank in range(3)])
    assert shared == pytest.approx(whole, rel=1e-5)


def test_the_published_base_becomes_a_classifier_with_its_weights(masked: MaskedObjective, tmp_path: Path) -> None:
    model = wide_model(masked, "bert")
    figures = masked.save(LanguageModel(model), tmp_path)
    assert figures == {"parameters": sum(weight.numel() for weight in model.parameters()), "new_parameters": 0}
    classifier, tokenizer = load_classifier(str(tmp_path), ["ham", "spam", "其他"])
    assert classifier.config.id2label == {0: "ham", 1: "spam", 2: "其他"}
    encoder = {name: weight for name, weight in classifier.state_dict().items() if ".encoder." in name}
    assert len(encoder) == 32 and all(torch.equal(weight, model.state_dict()[name]) for name, weight in encoder.items())
    assert tokenizer("中奖了")["input_ids"] == masked.tokenizer("中奖了")["input_ids"]
    assert load_classifier(str(tmp_path), ["a", "b"], dropout=0.3)[0].config.hidden_dropout_prob == 0.3


# Whole words and spans


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("wordpiece", "the sleepings. at home", ["the", "sleepings", ".", "at", "home"]),
        ("bpe", "the sleepings. at\nhome", ["the", " sleepings", ".", " at", "\n", "home"]),
        ("bpe", "we 我们 go", ["we", " ", "我", "们", " go"]),
        ("unigram", "the sleepings. at home", ["the", "sleepings", ".", "at", "home"]),
        ("wordpiece", "at我们home", ["at", "[UNK]", "[UNK]", "home"]),
    ],
)
def test_words_are_found_from_the_tokenizers_marks(tmp_path: Path, kind: str, text: str, words: list[str]) -> None:
    tokenizer = language_tokenizer(tmp_path, train=kind, vocab_size=330 if kind == "bpe" else 150)
    marks = WordMarks.of(tokenizer)
    assert marks is not None
    ids_T = np.array(tokenizer(text)["input_ids"])
    assert len(ids_T) > len(words) + 2 or "UNK" in str(words), "some words have several tokens"
    free_BT = ~np.isin(ids_T, [tokenizer.cls_token_id, tokenizer.sep_token_id])[None]
    starts_T = marks.starts(ids_T[None], np.ones((1, len(ids_T)), dtype=int), free_BT)[0]
    starts = [*np.flatnonzero(starts_T)[1:], len(ids_T)]
    assert [tokenizer.decode(ids_T[a:b]) for a, b in zip(starts, starts[1:], strict=False)][:-1] == words


def test_a_word_stays_in_its_document_and_its_row() -> None:
    marks = WordMarks(np.array([False, True, True]), np.zeros(3, dtype=bool))
    ids, free = np.array([[1, 1, 1, 0], [1, 2, 1, 1]]), np.ones((2, 4), dtype=bool)
    documents = np.array([[1, 1, 2, 2], [1, 1, 1, 1]])
    assert marks.starts(ids, documents, free).tolist() == [[True, False, True, True], [True, False, False, False]]


def test_tokenizers_that_do_not_mark_words_are_refused(tmp_path: Path) -> None:
    tokens = publish_language(tmp_path, "masked", train="characters", vocab_size=150)
    with pytest.raises(BadInput, match="masking = 'whole_words': the tokenizer does not mark .*Use masking: tokens or spans"):
        language_objective("masked", tokens, masking="whole_words")
    assert language_objective("masked", tokens, masking="spans").make(np.full((1, 8), 20), np.random.default_rng(0))


STARTS = np.tile([True, False, True, True, True, False, False, True] * 8, (1000, 1))
"""Words of two, one, one, three and one tokens."""


@pytest.mark.parametrize("kind", ["tokens", "whole_words", "spans"])
@pytest.mark.parametrize("probability", [0.15, 0.4])
def test_the_share_of_hidden_tokens_is_the_same_for_all_kinds(kind: str, probability: float) -> None:
    generator = np.random.default_rng(0)
    free_BT, documents_BT = np.ones_like(STARTS), np.repeat([[1] * 40 + [2] * 24], 1000, 0)
    free_BT[:, ::32] = False
    units_BT = {
        "tokens": lambda: token_units(free_BT, probability, generator),
        "whole_words": lambda: word_units(STARTS, free_BT, probability, generator),
        "spans": lambda: span_units(STARTS, documents_BT, free_BT, probability, generator),
    }[kind]()
    assert not (units_BT[~free_BT] != NONE).any()
    assert (units_BT != NONE).sum() / free_BT.sum() == pytest.approx(probability, abs=0.008)
    if kind != "tokens":
        hidden_BT = units_BT != NONE
        inside_BT = free_BT[:, 1:] & free_BT[:, :-1] & ~STARTS[:, 1:]
        assert (hidden_BT[:, 1:] == hidden_BT[:, :-1])[inside_BT].all(), "words are hidden whole or not at all"


def test_spans_are_geometric_stay_in_their_document_and_share_one_fate() -> None:
    generator = np.random.default_rng(0)
    single, documents_BT = np.ones((25, 4096), dtype=bool), np.repeat([[1] * 2000 + [2] * 2096], 25, 0)
    units_BT = span_units(single, documents_BT, single, 0.05, generator)
    sizes = np.bincount(units_BT[units_BT != NONE])
    shares = np.array([0.2 * 0.8**n for n in range(10)])
    assert sizes.max() == 10 and sizes.mean() == pytest.approx((shares * np.arange(1, 11)).sum() / shares.sum(), abs=0.25)
    for unit in np.unique(units_BT[units_BT != NONE])[:300]:
        row, places = np.nonzero(units_BT == unit)
        assert len(set(row)) == 1 and (np.diff(places) == 1).all() and len(set(documents_BT[row, places])) == 1
    ids_BT = generator.integers(5, 100, single.shape)
    shown_BT = hide(ids_BT, units_BT, 4, np.arange(100, 200), generator)
    fates = [
        {"masked": (shown == 4).all(), "changed": (shown >= 100).all(), "same": (shown == was).all()}
        for unit in np.unique(units_BT[units_BT != NONE])
        for shown, was in [(shown_BT[units_BT == unit], ids_BT[units_BT == unit])]
    ]
    assert all(sum(fate.values()) == 1 for fate in fates), "a span has one fate"
    for fate, share in (("masked", 0.8), ("changed", 0.1), ("same", 0.1)):
        assert np.mean([one[fate] for one in fates]) == pytest.approx(share, abs=0.04)
    assert (shown_BT[units_BT == NONE] == ids_BT[units_BT == NONE]).all()
