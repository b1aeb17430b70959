"""A language model's decoder in ONNX Runtime, with the cache of what it has read.

    decoder = OnnxDecoder(directory / "onnx/model.onnx", threads=1)
    cache = decoder.begin(mask_BT)                       # an encoder-decoder: begin(mask_BS, source_BS)
    logits_BKV = decoder.read(cache, ids_BT, [-1])       # reads on, and says what comes after the last token
    logits_BKV = decoder.read(cache, next_B1, [-1])

One graph serves the prompt and each token after it: its keys and values of the past may have length 0, so no weight is
there twice. Keys and values stay ONNX Runtime's own from step to step, and are not copied to numpy.

B batch, T tokens read at once, P tokens read before, S tokens of an encoder, K positions asked for, V vocabulary, H heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serve.engines.backends import PUBLISH_AGAIN, Device, open_session
from serve.engines.card import EngineError

TOKENS, MASK, POSITIONS, LOGITS = "input_ids", "attention_mask", "positions", "logits"


@dataclass
class Cache:
    """What was read of a batch of texts so far."""

    mask_BP: np.ndarray
    """Which tokens are text: those of the encoder, or those that the decoder has read."""
    past: dict[str, Any]
    """The decoder's keys and values."""
    source: dict[str, Any]
    """Keys and values of the encoder's tokens."""


class OnnxDecoder:
    """The graphs of a language model, ready to run."""

    def __init__(self, file: Path, encoder: Path | None = None, threads: int = 1, device: Device = "auto") -> None:
        self.session = open_session(file, threads, device)
        self.encoder = open_session(encoder, threads, device) if encoder is not None else None
        inputs = {node.name: node for node in self.session.get_inputs()}
        self.past = [name for name in inputs if name.startswith("past_")]
        self.outputs = [LOGITS, *(name.replace("past_", "present_") for name in self.past)]
        expected = {TOKENS, MASK, POSITIONS, *self.past, *(self._source_names())}
        if not self.past or expected != set(inputs) or {node.name for node in self.session.get_outputs()} != set(self.outputs):
            raise EngineError(f"{file}: it is no decoder with a cache: its inputs are {', '.join(inputs)}. {PUBLISH_AGAIN}.")
        self.shapes = {name: (inputs[name].shape[1], inputs[name].shape[3]) for name in self.past}

    def begin(self, mask: np.ndarray, source_BS: np.ndarray | None = None) -> Cache:
        """A cache of nothing read. mask_BT says which tokens of the first `read` are text; padding stands before it.

        For an encoder-decoder it is the mask_BS of the encoder's tokens `source_BS`, which are read now.
        """
        from onnxruntime import OrtValue

        empty = {
            name: OrtValue.ortvalue_from_numpy(np.zeros((len(mask), heads, 0, size), np.float32))
            for name, (heads, size) in self.shapes.items()
        }
        if self.encoder is None:
            return Cache(mask.astype(np.int64), empty, {})
        assert source_BS is not None, "an encoder reads something"
        feeds = {TOKENS: _value(source_BS), MASK: _value(mask)}
        names = self._source_names()
        found = self.encoder.run_with_ort_values(names, feeds)
        return Cache(mask.astype(np.int64), empty, dict(zip(names, found, strict=True)))

    def read(self, cache: Cache, ids_BT: np.ndarray, positions: Sequence[int]) -> np.ndarray:
        """Read these tokens; returns logits_BKV (float32) of what follows each of the positions (of T, or from its end)."""
        length = ids_BT.shape[1]
        if self.encoder is None and cache.past[self.past[0]].shape()[2]:
            cache.mask_BP = np.concatenate([cache.mask_BP, np.ones_like(ids_BT, dtype=np.int64)], axis=1)
        asked_K = np.array([position % length for position in positions], dtype=np.int64)
        feeds = {TOKENS: _value(ids_BT), MASK: _value(cache.mask_BP), POSITIONS: _value(asked_K), **cache.past, **cache.source}
        logits, *present = self.session.run_with_ort_values(self.outputs, feeds)
        cache.past = dict(zip(self.past, present, strict=True))
        return logits.numpy().astype(np.float32, copy=False)

    def _source_names(self) -> list[str]:
        return [] if self.encoder is None else [node.name for node in self.encoder.get_outputs()]


def _value(array: np.ndarray) -> Any:
    from onnxruntime import OrtValue

    return OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array, dtype=np.int64))
