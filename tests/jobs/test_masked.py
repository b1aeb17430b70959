"""Masked language modelling: which tokens are hidden, and what their loss is. `pytest tests/jobs/test_masked.py`"""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from cluster.artifact import Artifact
from jobs.training.masked import IGNORED, MaskedModel, MaskedObjective
from jobs.training.models import Shape, load_classifier, new_masked_model
from tests.jobs.tiny import publish_tokens, tiny_tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    root = tmp_path_factory.mktemp("tokens")
    return publish_tokens(root, tiny_tokenizer(root / "tokenizer"))


@pytest.fixture(scope="module")
def objective(tokens: Artifact) -> MaskedObjective:
    return MaskedObjective(tokens, AutoTokenizer.from_pretrained(tokens.local() / "tokenizer"), 0.15)


def wide_model(objective: MaskedObjective, architecture: str) -> PreTrainedModel:
    """Random weights so large that every choice of positions has another loss."""
    torch.manual_seed(0)
    shape = Shape.model_validate({"architecture": architecture, "layers": 2, "hidden": 32, "heads": 2, "dropout": 0.0})
    model = new_masked_model(shape, objective.tokenizer, 16).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return model


def test_shares_of_what_becomes_of_tokens(objective: MaskedObjective) -> None:
    size = len(objective.tokenizer)
    ids_BT = np.random.default_rng(0).integers(5, size, (2000, 64))
    batch = objective._masked(ids_BT, np.random.default_rng(1))
    shown_BT, chosen_BT = batch["input_ids"].numpy(), batch["labels"].numpy() != IGNORED
    assert chosen_BT.mean() == pytest.approx(0.15, abs=0.005)
    assert (batch["labels"].numpy()[chosen_BT] == ids_BT[chosen_BT]).all(), "the label is the token that was hidden"
    assert (shown_BT[~chosen_BT] == ids_BT[~chosen_BT]).all(), "what is not to be predicted stays"
    hidden = shown_BT[chosen_BT] == objective.tokenizer.mask_token_id
    kept = shown_BT[chosen_BT] == ids_BT[chosen_BT]
    assert hidden.mean() == pytest.approx(0.8, abs=0.015)
    # Another token is by chance the same in one of `size - 5` cases.
    assert kept.mean() == pytest.approx(0.1 + 0.1 / (size - 5), abs=0.01)
    others = shown_BT[chosen_BT][~hidden & ~kept]
    assert others.min() >= 5 and len(np.unique(others)) > 0.9 * (size - 5), "any word may stand in, no special token"


def test_special_tokens_are_never_hidden_and_padding_is_not_read(objective: MaskedObjective) -> None:
    objective = copy.copy(objective)
    objective.probability = 0.999
    last = np.arange(objective.size)[-1:]
    ids_BT = torch.from_numpy(objective.train.rows(last))
    batch = objective.batch(last, (0, 0))
    special_BT = torch.isin(ids_BT, torch.from_numpy(objective.special))
    assert (ids_BT == 0).any() and (ids_BT == 2).any(), "the row has padding and begins of documents"
    assert (batch["labels"][special_BT] == IGNORED).all()
    assert torch.equal(batch["input_ids"][special_BT], ids_BT[special_BT])
    assert torch.equal(batch["attention_mask"], (ids_BT != 0).long())
    assert objective.count(batch) == (batch["labels"] != IGNORED).sum() > 0


def test_masks_come_from_the_seed_alone_and_differ_by_step(objective: MaskedObjective) -> None:
    numbers = np.arange(16)
    first, again, other = (objective.batch(numbers, seed) for seed in ((0, 3), (0, 3), (0, 4)))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["labels"], other["labels"])


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_the_head_on_masked_positions_alone_has_the_full_models_loss(objective: MaskedObjective, architecture: str) -> None:
    model = wide_model(objective, architecture)
    batch = objective.batch(np.arange(objective.size)[-8:], (0, 0))
    with torch.inference_mode():
        wanted = model(**batch).loss
        found = objective.loss(MaskedModel(model), batch) / objective.count(batch)
    assert wanted > 1
    assert float(found) == pytest.approx(float(wanted), abs=1e-5)


def test_validation_does_not_depend_on_how_rows_are_shared_out(objective: MaskedObjective) -> None:
    model = MaskedModel(wide_model(objective, "bert"))
    numbers = np.arange(objective.validation_size)
    with torch.inference_mode():
        whole = objective.measure([objective.evaluate(model, numbers, CPU)])
        shared = objective.measure([objective.evaluate(model, numbers[rank::3], CPU) for rank in range(3)])
    assert shared == pytest.approx(whole, rel=1e-5)


def test_the_published_base_becomes_a_classifier_with_its_weights(objective: MaskedObjective, tmp_path: Path) -> None:
    model = wide_model(objective, "bert")
    figures = objective.save(MaskedModel(model), tmp_path)
    assert figures["parameters"] == sum(weight.numel() for weight in model.parameters())
    classifier, tokenizer = load_classifier(str(tmp_path), ["ham", "spam", "其他"])
    assert classifier.config.id2label == {0: "ham", 1: "spam", 2: "其他"}
    for name, weight in classifier.base_model.encoder.state_dict().items():
        assert torch.equal(weight, model.base_model.encoder.state_dict()[name])
    assert tokenizer("中奖了")["input_ids"] == objective.tokenizer("中奖了")["input_ids"]
    assert load_classifier(str(tmp_path), ["a", "b"], dropout=0.3)[0].config.hidden_dropout_prob == 0.3
