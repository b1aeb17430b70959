"""ONNX export of language models with their cache: decoders (GPT-2, Llama, Qwen, …) and encoder-decoders (T5).

    export_language(model, directory / "onnx/model.onnx")        # and encoder.onnx, model.onnx.data

A decoder is one graph for the prompt and for each token after it: keys and values of the past go in and come out, and at first
there are none. An encoder-decoder's encoder is a graph of its own, which also makes the keys and values that the decoder's
cross-attention reads, once a text. All graphs of a model have their weights in one file, each weight once.

B batch, T tokens, P past tokens, S tokens of an encoder, K positions asked for, D hidden, V vocabulary.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from jobs.compression.graph import FREE, TOLERANCE, ExportError, share_weights, write_graph
from serve.engines.decoder import OnnxDecoder

ENCODER_DECODERS = ("t5", "mt5")
"""Architectures whose cross-attention is known here."""
PROMPTS = (9, 4, 1)
"""Lengths of the prompts that are checked, together and each alone."""
CHECKED_TOKENS = 12
"""Tokens that are written after each prompt, one at a time."""


def export_language(model: PreTrainedModel, target: Path) -> float:
    """Write the graphs; returns the largest difference of a logit from torch. ExportError beyond TOLERANCE.

    The check reads prompts of several lengths, together and alone, and writes on through the cache what torch's own greedy
    generation writes; each logit on the way is compared.
    """
    model = model.float().cpu().eval()
    target.parent.mkdir(parents=True, exist_ok=True)
    kind = model.config.model_type
    encoder = encoder_of(target) if model.config.is_encoder_decoder else None
    if encoder is not None and kind not in ENCODER_DECODERS:
        known = ", ".join(ENCODER_DECODERS)
        raise ExportError(f"the cross-attention of {kind} is not known here, only that of {known}; serve the torch variant")
    if encoder is not None:
        _write_encoder_decoder(model, encoder, target)
    else:
        _write_decoder(model, target)
    share_weights([target, *([encoder] if encoder is not None else [])], data_of(target))
    return check_language_parity(model, target)


def encoder_of(target: Path) -> Path:
    """The encoder's graph beside a decoder's: model.int8.onnx → encoder.int8.onnx."""
    return target.with_name(f"encoder{target.name.removeprefix('model')}")


def data_of(target: Path) -> Path:
    """The file of the weights."""
    return target.with_name(f"{target.name}.data")


class _Decoder(torch.nn.Module):
    """ids_BT, mask_B(P+T), positions_K, keys and values of P tokens → logits_BKV, keys and values of P + T."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor, past: list[Tensor]) -> tuple[Tensor, ...]:
        # Texts are padded in front: a token's place is counted from the text's first one.
        places = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, past[0].shape[2] :]
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=places,
            past_key_values=_cache(past),
            use_cache=True,
            logits_to_keep=positions,
        )
        return (output.logits, *_flat(output.past_key_values))


class _Encoder(torch.nn.Module):
    """ids_BS, mask_BS → keys and values of each of the decoder's layers, for S tokens."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        model: Any = self.model
        hidden_BSD = model.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        attentions = [block.layer[1].EncDecAttention for block in model.decoder.block]
        return tuple(
            made(hidden_BSD).unflatten(-1, (-1, attention.key_value_proj_dim)).transpose(1, 2)
            for attention in attentions
            for made in (attention.k, attention.v)
        )


class _CrossDecoder(torch.nn.Module):
    """ids_BT, mask_BS, positions_K, keys and values of S and of P tokens → logits_BKV, keys and values of P + T."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor, source: list[Tensor], past: list[Tensor]
    ) -> tuple[Tensor, ...]:
        cache = EncoderDecoderCache(_cache(past), _cache(source))
        # Said here, since under tracing the cache cannot tell that it is filled.
        cache.is_updated = dict.fromkeys(range(len(source) // 2), True)
        # Only the shape of the encoder's output is looked at: its keys and values are there.
        output = self.model(
            decoder_input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_outputs=BaseModelOutput(last_hidden_state=attention_mask[..., None].to(source[0].dtype)),
            past_key_values=cache,
            use_cache=True,
        )
        return (output.logits[:, positions], *_flat(output.past_key_values.self_attention_cache))


def _cache(states: list[Tensor]) -> DynamicCache:
    return DynamicCache(list(zip(states[::2], states[1::2], strict=True)))


def _flat(cache: Any) -> list[Tensor]:
    return [state for layer in cache.layers for state in (layer.keys, layer.values)]


def _write_decoder(model: PreTrainedModel, target: Path) -> None:
    with torch.inference_mode():
        read = model(input_ids=torch.ones(1, 2, dtype=torch.long), use_cache=True).past_key_values
    # Layers with a window keep a part of the past by themselves; here all of them are given all of it, and mask it.
    past = [torch.randn(2, state.shape[1], 6, state.shape[3]) for state in _flat(read)]
    # Padded, as a mask of ones would be folded away.
    mask_BP = torch.ones(2, 10, dtype=torch.long)
    mask_BP[1, :3] = 0
    two, four = {0: FREE, 1: FREE}, {0: FREE, 2: FREE}
    inputs = {
        "input_ids": (torch.randint(model.config.vocab_size, (2, 4)), two),
        "attention_mask": (mask_BP, two),
        "positions": (torch.tensor([1, 3]), {0: FREE}),
        "past": (past, [four] * len(past)),
    }
    names = _names("past", len(past))
    named = f"a {model.config.model_type} decoder"
    outputs = ["logits", *_names("present", len(past))]
    write_graph(_Decoder(model), named, target, inputs, outputs, [*list(inputs)[:-1], *names])


def _write_encoder_decoder(model: PreTrainedModel, encoder: Path, target: Path) -> None:
    config: Any = model.config
    two, four = {0: FREE, 1: FREE}, {0: FREE, 2: FREE}
    ids_BS = torch.randint(config.vocab_size, (2, 7))
    mask_BS = torch.ones_like(ids_BS)
    mask_BS[1, 5:] = 0
    states = 2 * config.num_decoder_layers
    read = {"input_ids": (ids_BS, two), "attention_mask": (mask_BS, two)}
    source = _names("source", states)
    write_graph(_Encoder(model), f"a {config.model_type} encoder", encoder, read, source)
    shape = (2, config.num_heads, 7, config.d_kv)
    inputs = {
        "input_ids": (torch.randint(config.vocab_size, (2, 3)), two),
        "attention_mask": (mask_BS, two),
        "positions": (torch.tensor([0, 2]), {0: FREE}),
        "source": ([torch.randn(shape) for _ in source], [four] * states),
        "past": ([torch.randn(shape)[:, :, :4] for _ in source], [four] * states),
    }
    names = [*list(inputs)[:-2], *source, *_names("past", states)]
    outputs = ["logits", *_names("present", states)]
    write_graph(_CrossDecoder(model), f"a {config.model_type} decoder", target, inputs, outputs, names)


def _names(what: str, states: int) -> list[str]:
    return [f"{what}_{part}_{layer}" for layer in range(states // 2) for part in ("key", "value")]


def check_language_parity(model: PreTrainedModel, target: Path, tolerance: float = TOLERANCE) -> float:
    """The largest difference of a logit from torch's, in units of the largest logit where that is above 1."""
    encoder = encoder_of(target) if model.config.is_encoder_decoder else None
    decoder = OnnxDecoder(target, encoder)
    generator = torch.Generator().manual_seed(0)
    longest = max(PROMPTS)
    ids_BT = torch.randint(5, model.config.vocab_size, (len(PROMPTS), longest), generator=generator)
    mask_BT = (torch.arange(longest)[None] >= longest - torch.tensor(PROMPTS)[:, None]).long()
    apart = [_apart(model, decoder, ids_BT, mask_BT)]
    apart += [_apart(model, decoder, ids_BT[[row], -size:], mask_BT[[row], -size:]) for row, size in enumerate(PROMPTS)]
    if max(apart) > tolerance:
        worst = max(apart)
        raise ExportError(
            f"{target.name}: its logits differ from torch by {worst:.2g}, allowed are {tolerance:g}; do not serve it"
        )
    return max(apart)


def _apart(model: PreTrainedModel, decoder: OnnxDecoder, ids_BT: Tensor, mask_BT: Tensor) -> float:
    """How far both are apart over prompts and what torch writes after them."""
    generation: Any = model
    with torch.inference_mode():
        # Passed each time: the model's own settings may sample.
        found = generation.generate(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            max_new_tokens=CHECKED_TOKENS,
            min_new_tokens=CHECKED_TOKENS,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            pad_token_id=model.config.pad_token_id or 0,
            return_dict_in_generate=True,
            output_logits=True,
        )
    wanted_NBV = torch.stack(found.logits).numpy()
    if model.config.is_encoder_decoder:
        cache, written = decoder.begin(mask_BT.numpy(), ids_BT.numpy()), found.sequences[:, :-1].numpy()
        reads = [written[:, [place]] for place in range(written.shape[1])]
    else:
        cache, written = decoder.begin(mask_BT.numpy()), found.sequences[:, ids_BT.shape[1] : -1].numpy()
        reads = [ids_BT.numpy(), *(written[:, [place]] for place in range(written.shape[1]))]
    got_NBV = np.stack([decoder.read(cache, read, [-1])[:, 0] for read in reads])
    return float(np.abs(got_NBV - wanted_NBV).max()) / max(1.0, float(np.abs(wanted_NBV).max()))
