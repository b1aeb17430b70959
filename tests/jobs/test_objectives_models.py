"""New models have the asked shape; heads on targets alone have the full models' losses.

pytest tests/jobs/test_objectives_models.py
"""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerBase

from jobs.architectures.new import ARCHITECTURES_BY_OBJECTIVE, Architecture, NewModelConfig, new_model
from jobs.contracts.learning import MISSING
from jobs.objectives.target_head import LanguageModel, SpanModel
from jobs.pretrain import PretrainConfig
from serve.engines.card import ObjectiveName
from tests.jobs.language_runs import language_tokenizer
from tests.jobs.test_objectives_documents import DECODERS, ENCODERS, tiny


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return language_tokenizer(tmp_path_factory.mktemp("tokenizer"))


EVERY = [(objective, name) for objective, names in ARCHITECTURES_BY_OBJECTIVE.items() for name in names]


@pytest.mark.parametrize(("objective", "architecture"), EVERY)
def test_a_new_model_has_the_asked_shape(
    objective: ObjectiveName, architecture: Architecture, own: PreTrainedTokenizerBase
) -> None:
    shape = NewModelConfig(architecture=architecture, layers=3, hidden=48, heads=4, feed_forward=80, dropout=0.25)
    model = new_model(shape, objective, own, 40)
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (48, 3, 4)
    assert model.get_input_embeddings().weight.shape == (len(own), 48)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight, "small models tie them"
    layers = [module for module in model.modules() if type(module).__name__.endswith(("Layer", "Block"))]
    whole = [layer for layer in layers if not any(layer in other.modules() for other in layers if other is not layer)]
    widths = {size for weight in model.parameters() if weight.ndim == 2 for size in weight.shape}
    assert 80 in widths or 160 in widths, "ModernBERT's feed-forward has its gate in the same matrix"
    assert not widths & {192, 3072, 1152, 128, 512, 768, 64, 40960}, "no width is left at its default"
    probabilities = {module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    attention = {m.attention_dropout for m in model.modules() if isinstance(getattr(m, "attention_dropout", None), float)}
    assert probabilities | attention == {0.25}
    assert len(whole) == (6 if architecture == "t5" else 3)
    assert config.pad_token_id == own.pad_token_id and config.eos_token_id == own.sep_token_id
    rows = torch.randint(5, len(own), (2, 40))
    answers = {"decoder_input_ids": rows} if architecture == "t5" else {}
    assert model(input_ids=rows, **answers)[0].shape[:2] == (2, 40), "it takes rows of the asked length"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"objective": "causal", "model": {}}, "a new bert cannot learn by causal; use gpt2, llama, qwen3"),
        ({"objective": "masked", "model": {"architecture": "t5"}}, "a new t5 cannot learn by masked; use bert, roberta"),
        ({"objective": "span_corruption", "model": {"architecture": "gpt2"}}, "gpt2 cannot learn by span_corruption; use t5"),
        ({"objective": "masked_sentence_order", "model": {"architecture": "electra"}}, "use bert"),
        ({"model": {}, "base": "sample:minilm_l6"}, "not both"),
        ({"objective": "causal", "masking": "spans", "base": "gpt2"}, "masking: spans is for the masked objectives"),
        ({"model": {"architecture": "llama", "hidden": 36, "heads": 4}}, "hidden / heads must be even"),
        ({"model": {"hidden": 30, "heads": 4}}, "4 heads do not divide hidden 30"),
    ],
)
def test_what_does_not_fit_is_told_when_the_recipe_is_read(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        PretrainConfig.model_validate(settings)


def batch_of(rows: int = 3, length: int = 12) -> dict[str, torch.Tensor]:
    """Rows of one document each, a third of the tokens targets."""
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(5, 60, (rows, length), generator=generator)
    chosen_BT = torch.rand((rows, length), generator=generator) < 0.3
    labels_BT = torch.where(chosen_BT, torch.randint(5, 60, (rows, length), generator=generator), MISSING)
    return {"input_ids": ids_BT, "documents": torch.ones_like(ids_BT), "labels": labels_BT}


def stock_loss(architecture: str, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The library's own loss; its causal models shift the labels themselves."""
    labels_BT = batch["labels"]
    if architecture in DECODERS:
        labels_BT = torch.cat([torch.full_like(labels_BT[:, :1], MISSING), labels_BT[:, :-1]], 1)
    if architecture == "t5":
        return model(input_ids=batch["input_ids"], decoder_input_ids=batch["decoder_input_ids"], labels=labels_BT).loss
    return model(input_ids=batch["input_ids"], labels=labels_BT).loss


def both(architecture: str) -> tuple[Any, nn.Module, dict[str, torch.Tensor]]:
    """A stock model, the same with its head on targets, and a batch."""
    batch = batch_of()
    auto: Any = AutoModelForCausalLM if architecture in DECODERS else AutoModelForMaskedLM
    if architecture == "t5":
        model = tiny("t5", AutoModelForSeq2SeqLM)
        batch |= {"decoder_input_ids": batch["input_ids"].flip(1), "decoder_documents": batch["documents"]}
        return model, SpanModel(model), batch
    model = tiny(architecture, auto)
    return model, LanguageModel(model, architecture in DECODERS), batch


@pytest.mark.parametrize("architecture", [*ENCODERS, *DECODERS, "t5"])
def test_the_head_on_targets_alone_has_the_full_models_loss_and_gradients(architecture: str) -> None:
    model, thin, batch = both(architecture)
    count = int((batch["labels"][:, :-1] if architecture in DECODERS else batch["labels"]).ne(MISSING).sum())
    if architecture in DECODERS:
        batch["labels"][:, -1] = MISSING
    wanted = stock_loss(architecture, model, batch)
    wanted.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    found = thin(**batch) / count
    found.backward()
    assert wanted.item() > 1 and found.item() == pytest.approx(wanted.item(), abs=1e-5)
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            assert torch.allclose(weight.grad, gradients[name], atol=1e-5 * max(1.0, float(gradients[name].abs().max()))), name
    with torch.no_grad():
        sizes: list[int] = []
        head = model.get_output_embeddings()
        handle = head.register_forward_hook(lambda module, given, output: sizes.append(output.shape[:-1].numel()))
        thin(**batch)
        handle.remove()
        assert sizes == [count], "the vocabulary is scored at the targets alone"
        assert model(**{k: v for k, v in batch.items() if "input_ids" in k}).logits.shape[:2] == (3, 12), "stock use stays"


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "llama", "t5"])
def test_autocast_gives_a_loss_in_float32_and_rows_without_targets_give_none(architecture: str) -> None:
    _, thin, batch = both(architecture)
    with torch.autocast("cpu", torch.bfloat16):
        rough = thin(**batch)
        batch["labels"][:] = MISSING
        nothing = thin(**batch)
    assert rough.dtype == torch.float32
    exact = thin(**both(architecture)[2])
    assert rough.item() == pytest.approx(exact.item(), rel=0.03)
    assert nothing.item() == 0
    nothing.backward()
    given = [weight.grad for weight in thin.parameters() if weight.grad is not None]
    assert len(given) > 10 and all(not gradient.any() for gradient in given), "DDP hears of every weight"
