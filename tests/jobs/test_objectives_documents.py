"""Packed documents are read as if each stood alone, in every architecture. `pytest tests/jobs/test_objectives_documents.py`"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from jobs.core.config import BadInput
from jobs.data.pack import Bounds
from jobs.objectives.documents import DocumentReader, check_documents_part, document_numbers, positions_of
from jobs.objectives.target_head import SpanModel

ENCODERS = ("bert", "roberta", "distilbert", "electra", "modernbert", "albert")
DECODERS = ("gpt2", "llama", "qwen3")
SIZES: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "max_position_embeddings": 40,
    "pad_token_id": 0, "initializer_range": 0.3,
}  # fmt: skip
MORE: dict[str, dict[str, Any]] = {
    "electra": {"embedding_size": 32, "intermediate_size": 64},
    "distilbert": {"hidden_dim": 64},
    "albert": {"embedding_size": 16, "intermediate_size": 64},
    "modernbert": {"intermediate_size": 64, "local_attention": 6, "global_attn_every_n_layers": 2}
    | {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
    "gpt2": {"bos_token_id": 1, "eos_token_id": 2},
    "llama": {"intermediate_size": 64, "num_key_value_heads": 2},
    "qwen3": {"intermediate_size": 64, "num_key_value_heads": 1, "head_dim": 16}
    | {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    "t5": {"d_kv": 16, "d_ff": 64, "decoder_start_token_id": 0},
}
FIRST, SECOND, THIRD = [5, 20, 21, 22, 23, 24, 25, 26], [5, 30, 31], [5, 40, 41, 42, 43]
BOUNDS = Bounds(begin=5, end=6, pad=0)


def tiny(architecture: str, auto: Any = AutoModel, attention: str = "eager") -> PreTrainedModel:
    """Three layers with weights so large that whatever is looked at shows; sliding windows of a few tokens."""
    torch.manual_seed(0)
    sizes = {key: value for key, value in SIZES.items() if architecture != "t5" or key != "max_position_embeddings"}
    config = AutoConfig.for_model(architecture, **(sizes | MORE.get(architecture, {})))
    return auto.from_config(config, attn_implementation=attention).eval()


def packed(*documents: list[int]) -> tuple[Tensor, Tensor]:
    """A row of documents, padded, and their numbers."""
    row = np.array([sum(documents, []) + [0] * 3])
    return torch.from_numpy(row), torch.from_numpy(document_numbers(row, BOUNDS))


def states(model: PreTrainedModel, reader: DocumentReader, *documents: list[int]) -> list[Tensor]:
    """The hidden states of each document in a packed row."""
    ids_BT, documents_BT = packed(*documents)
    body = model.get_encoder() if model.config.is_encoder_decoder else model
    with torch.inference_mode():
        hidden_TD = body(input_ids=ids_BT, **reader.inputs(documents_BT)).last_hidden_state[0]
    return [hidden_TD[documents_BT[0] == number] for number in range(documents_BT.min() + 1, len(documents) + 2)][
        -len(documents) :
    ]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("architecture", [*ENCODERS, *DECODERS, "t5"])
def test_a_documents_states_are_the_same_alone_and_packed(architecture: str, attention: str) -> None:
    """Alone: the stock model without any mask or positions. ModernBERT and Qwen3 have layers with sliding windows."""
    model = tiny(architecture, attention=attention)
    reader = DocumentReader(model, architecture in DECODERS)
    found = states(model, reader, FIRST, SECOND, THIRD)
    body = model.get_encoder() if architecture == "t5" else model
    for document, hidden_TD in zip((FIRST, SECOND, THIRD), found, strict=True):
        with torch.inference_mode():
            alone_TD = body(input_ids=torch.tensor([document])).last_hidden_state[0]
        assert float((alone_TD - hidden_TD).abs().max()) < 1e-5
    changed = states(model, reader, FIRST, [5, 50, 31], THIRD)
    assert torch.equal(changed[0], found[0]) and torch.equal(changed[2], found[2])
    assert float((changed[1] - found[1]).abs().max()) > 1e-2
    with torch.inference_mode():
        mixed_TD = body(input_ids=packed(FIRST, SECOND, THIRD)[0]).last_hidden_state[0, 8:11]
    assert float((mixed_TD - found[1]).abs().max()) > 1e-2, "without the mask documents would change each other"


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_decoders_document_sees_its_own_encoder_document_alone(attention: str) -> None:
    from transformers import AutoModelForSeq2SeqLM

    model = SpanModel(tiny("t5", AutoModelForSeq2SeqLM, attention))
    ids_BT, documents_BT = packed(FIRST, SECOND)
    answers_BT = torch.tensor([[0, 50, 51, 0, 52, 0]])
    answered_BT = torch.tensor([[2, 2, 2, 3, 3, 0]])
    labels_BT = torch.tensor([[50, 51, 6, 52, 6, -100]])

    def loss(ids: Tensor, documents: Tensor, answers: Tensor, answered: Tensor, labels: Tensor) -> float:
        with torch.inference_mode():
            return float(model(ids, documents, answers, answered, labels))

    both = loss(ids_BT, documents_BT, answers_BT, answered_BT, labels_BT)
    with torch.inference_mode():
        stock = [
            model.model(input_ids=torch.tensor([document]), decoder_input_ids=answers_BT[:, a:b], labels=labels_BT[:, a:b])
            for document, a, b in ((FIRST, 0, 3), (SECOND, 3, 5))
        ]
    assert both == pytest.approx(float(stock[0].loss * 3 + stock[1].loss * 2), abs=1e-4)


def test_document_numbers_and_positions_by_hand() -> None:
    begins = Bounds(begin=1, end=2, pad=0)
    ids = np.array([[7, 2, 1, 8, 2, 1, 9, 0], [1, 7, 8, 9, 7, 8, 9, 2]])
    assert document_numbers(ids, begins).tolist() == [[1, 1, 2, 2, 2, 3, 3, 0], [2] * 8]
    ends = Bounds(begin=None, end=2, pad=0)
    assert document_numbers(ids, ends).tolist() == [[1, 1, 2, 2, 2, 3, 3, 0], [1] * 8]
    same = Bounds(begin=None, end=2, pad=2, appended=True)
    row = np.array([[7, 8, 2, 9, 2, 2, 2]])
    assert document_numbers(row, same).tolist() == [[1, 1, 1, 2, 2, 3, 4]], "padding is documents of one token"
    assert document_numbers(row, None).tolist() == [[1] * 7]
    documents = torch.tensor([[1, 1, 2, 2, 2, 3, 3, 0]])
    assert positions_of(documents).tolist() == [[0, 1, 0, 1, 2, 0, 1, 0]]
    assert positions_of(documents, 2).tolist() == [[2, 3, 2, 3, 4, 2, 3, 2]]


def test_a_decoder_sees_nothing_that_comes_later() -> None:
    model = tiny("llama")
    reader = DocumentReader(model, True)
    whole, changed = (states(model, reader, FIRST, [5, 30, last])[1] for last in (31, 50))
    assert torch.equal(whole[:2], changed[:2]) and not torch.equal(whole[2], changed[2])


def stranger(architecture: str, auto: Any, **sizes: Any) -> PreTrainedModel:
    """A model of an architecture that nothing here was written for."""
    torch.manual_seed(0)
    asked = {**SIZES, "intermediate_size": 64, "ffn_dim": 64, "word_embed_proj_dim": 32, "n_head": 2, "n_layer": 2, **sizes}
    return auto.from_config(AutoConfig.for_model(architecture, **asked), attn_implementation="eager")


@pytest.mark.parametrize("architecture", ["deberta-v2", "fnet", "bloom"])
def test_bases_that_would_mix_documents_are_refused(architecture: str) -> None:
    """DeBERTa takes no such mask, FNet has no attention, BLOOM's positions come from a mask of another form."""
    causal = architecture == "bloom"
    model = stranger(architecture, AutoModelForCausalLM if causal else AutoModelForMaskedLM).train()
    with pytest.raises(BadInput, match=f"base = 'some/base': {type(model).__name__}: it .* Take a base of another") as told:
        check_documents_part(model, DocumentReader(model, causal), 32, "some/base")
    assert "\n" not in str(told.value) and model.training


@pytest.mark.parametrize("architecture", ["mpnet", "opt", "gpt_neox"])
def test_bases_of_other_architectures_that_keep_documents_apart_are_taken(architecture: str) -> None:
    causal = architecture != "mpnet"
    model = stranger(architecture, AutoModelForCausalLM if causal else AutoModelForMaskedLM)
    check_documents_part(model, DocumentReader(model, causal), 32, "some/base")


def test_a_causal_mask_on_an_encoder_is_noticed() -> None:
    model = stranger("bert", AutoModelForMaskedLM)
    with pytest.raises(BadInput, match="does not read a document in packed rows as it does alone"):
        check_documents_part(model, DocumentReader(model, True), 32, "some/base")


def test_a_window_that_our_mask_would_take_away_is_refused() -> None:
    model = stranger("mistral", AutoModelForCausalLM, num_key_value_heads=2, sliding_window=16)
    check_documents_part(model, DocumentReader(model, True), 16, "some/base")
    with pytest.raises(BadInput, match="a window of 16 tokens.*max_length 16 at most"):
        check_documents_part(model, DocumentReader(model, True), 32, "some/base")
