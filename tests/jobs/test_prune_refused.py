"""What pruning would silently not do is refused by name, and nothing is changed. `pytest tests/jobs/test_prune_refused.py`"""

import copy
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from jobs.compress import CompressConfig
from jobs.compression.prune import Pruner
from jobs.compression.settings import Prune
from jobs.core.config import BadInput
from tests.jobs.small_models import small_model


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta", "electra", "distilbert", "modernbert", "gpt2"])
def test_heads_whose_size_follows_from_their_number(architecture: str) -> None:
    model = small_model(architecture)
    with pytest.raises(BadInput, match=rf"prune\.heads = 0\.5: {architecture} derives the size of a head"):
        Pruner(model, Prune(heads=0.5))


@pytest.mark.parametrize("settings", [{"feed_forward": 0.5}, {"layers": 1}, {"heads": 0.5}])
def test_architectures_that_are_not_known(settings: dict[str, Any]) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("deberta-v2", **sizes))
    (key,) = settings
    with pytest.raises(BadInput, match=rf"prune\.{key} = .*it is not known where deberta-v2 keeps.*known are bert, roberta"):
        Pruner(model, Prune(**settings))


@pytest.mark.parametrize(
    ("architecture", "settings", "message"),
    [
        ("bert", {"layers": 3}, r"prune\.layers = 3\.0: bert has 3 layers in encoder\.layer, and one has to stay\. Give 2"),
        ("t5", {"layers": 2}, r"t5 has 2 layers in decoder\.block"),
        ("bert", {"layers": 0.1}, r"this share of the 3 layers in encoder\.layer of bert is less than half a layer"),
        ("bert", {"weights": 1e-5}, r"this share of the 2048 weights of bert's largest matrix is less than half a weight"),
        ("bert", {"feed_forward": 0.05}, r"bert has 64 neurons in a layer, and keeps a multiple of 16: none would go"),
        ("llama", {"heads": 0.1}, r"the nearest number of llama's 2 groups of heads that may stay is 2: none would go"),
    ],
)
def test_shares_that_would_take_out_nothing_or_everything(architecture: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Pruner(small_model(architecture), Prune(**settings))


def test_attention_that_is_scaled_by_the_number_of_its_layer() -> None:
    with pytest.raises(BadInput, match="this gpt2 scales attention by the layer's number"):
        Pruner(small_model("gpt2", scale_attn_by_inverse_layer_idx=True), Prune(layers=1))


def test_everything_wrong_is_told_at_once_and_nothing_is_touched() -> None:
    model = small_model("bert")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(BadInput) as error:
        Pruner(model, Prune(feed_forward=0.01, heads=0.5, layers=9))
    assert [problem.path for problem in error.value.problems] == ["prune.feed_forward", "prune.heads", "prune.layers"]
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prune": {"steps": 3}}, "steps are for something to remove"),
        ({"prune": {"layers": 1.5}}, "a number of layers is whole"),
        ({"prune": {"weights": 0.5}, "factorize": {"energy": 0.9}}, "choose one"),
        ({"prune": {"weights": 0.5}, "allowed_loss": 1.0}, "allowed_loss may train on"),
        ({"vocabulary_min_count": 3}, "vocabulary_min_count is for vocabulary: used"),
    ],
)
def test_settings_that_do_not_fit_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CompressConfig.model_validate(settings)
