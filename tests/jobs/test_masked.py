"""Masked language modelling: which tokens are hidden, and what their loss is. `pytest tests/jobs/test_masked.py`"""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from jobs.training.masked import IGNORED, MaskedModel, MaskedObjective
from jobs.training.models import Shape, load_classifier, new_masked_model

CPU = torch.device("cpu")


def wide_model(masked: MaskedObjective, architecture: str) -> PreTrainedModel:
    """Random weights so large that every choice of positions has another loss."""
    torch.manual_seed(0)
    shape = Shape.model_validate({"architecture": architecture, "layers": 2, "hidden": 32, "heads": 2, "dropout": 0.0})
    model = new_masked_model(shape, masked.tokenizer, 16).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return model


def test_shares_of_what_becomes_of_tokens(masked: MaskedObjective) -> None:
    size = len(masked.tokenizer)
    ids_BT = np.random.default_rng(0).integers(5, size, (2000, 64))
    batch = masked._masked(ids_BT, np.random.default_rng(1))
    shown_BT, chosen_BT = batch["input_ids"].numpy(), batch["labels"].numpy() != IGNORED
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
    batch = masked.batch(last, (0, 0))
    special_BT = torch.isin(ids_BT, torch.from_numpy(masked.special))
    assert (ids_BT == 0).any() and (ids_BT == 2).any(), "the row has padding and begins of documents"
    assert (batch["labels"][special_BT] == IGNORED).all()
    assert torch.equal(batch["input_ids"][special_BT], ids_BT[special_BT])
    assert torch.equal(batch["attention_mask"], (ids_BT != 0).long())
    assert masked.count(batch) == (batch["labels"] != IGNORED).sum() > 0


def test_masks_come_from_the_seed_alone_and_differ_by_step(masked: MaskedObjective) -> None:
    numbers = np.arange(16)
    first, again, other = (masked.batch(numbers, seed) for seed in ((0, 3), (0, 3), (0, 4)))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["labels"], other["labels"])


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_the_head_on_masked_positions_alone_has_the_full_models_loss(masked: MaskedObjective, architecture: str) -> None:
    model = wide_model(masked, architecture)
    batch = masked.batch(np.arange(masked.size)[-8:], (0, 0))
    with torch.inference_mode():
        wanted = model(**batch).loss
        found = masked.loss(MaskedModel(model), batch) / masked.count(batch)
    assert wanted > 1
    assert float(found) == pytest.approx(float(wanted), abs=1e-5)


def test_validation_does_not_depend_on_how_rows_are_shared_out(masked: MaskedObjective) -> None:
    model = MaskedModel(wide_model(masked, "bert"))
    numbers = np.arange(masked.validation_size)
    with torch.inference_mode():
        whole = masked.measure([masked.evaluate(model, numbers, CPU)])
        shared = masked.measure([masked.evaluate(model, numbers[rank::3], CPU) for rank in range(3)])
    assert shared == pytest.approx(whole, rel=1e-5)


def test_the_published_base_becomes_a_classifier_with_its_weights(masked: MaskedObjective, tmp_path: Path) -> None:
    model = wide_model(masked, "bert")
    figures = masked.save(MaskedModel(model), tmp_path)
    assert figures["parameters"] == sum(weight.numel() for weight in model.parameters())
    classifier, tokenizer = load_classifier(str(tmp_path), ["ham", "spam", "其他"])
    assert classifier.config.id2label == {0: "ham", 1: "spam", 2: "其他"}
    encoder = {name: weight for name, weight in classifier.state_dict().items() if ".encoder." in name}
    assert len(encoder) == 32 and all(torch.equal(weight, model.state_dict()[name]) for name, weight in encoder.items())
    assert tokenizer("中奖了")["input_ids"] == masked.tokenizer("中奖了")["input_ids"]
    assert load_classifier(str(tmp_path), ["a", "b"], dropout=0.3)[0].config.hidden_dropout_prob == 0.3
