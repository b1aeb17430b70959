"""The engine: texts → logits → answers, for any published model. It judges candidates and it serves them.

    engine = load_engine(Path("out/spam/small-1a2b3c4d"), variant="int8")
    engine.predict(["Win a prize now"])[0].label

Numbers in fp32 are the same alone and in a batch up to rounding. A dynamically quantised graph scales its activations
over the whole batch, so its logits do move a little with padding and with batch mates, unless the card says that texts
are run alone.

Shapes: B batch, T tokens, C classes, N texts.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from serve.answers import Answer, classify
from serve.backends import Backend, Device, OnnxBackend, TorchBackend
from serve.card import Card, EngineError, read_card, variant_files

# Texts tokenised and sorted together: long enough to make even batches, short enough to bound memory.
WINDOW_BATCHES = 64


class Engine:
    """A model ready to answer. Calls from several threads at once are safe, but gain nothing over one at a time."""

    def __init__(self, card: Card, variant: str, tokenizer: Tokenizer, pad_id: int, backend: Backend, max_batch: int) -> None:
        self.card = card
        self.variant = variant
        self.tokenizer = tokenizer
        self.pad_id = pad_id
        self.backend = backend
        self.max_batch = max_batch

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """float32 logits_NC in the order of the texts, computed in batches of texts of like length."""
        logits_NC = np.empty((len(texts), len(self.card.labels)), dtype=np.float32)
        window = WINDOW_BATCHES * self.max_batch
        for start in range(0, len(texts), window):
            encodings = self.tokenizer.encode_batch_fast(list(texts[start : start + window]))
            order = sorted(range(len(encodings)), key=lambda index: len(encodings[index]))
            for first in range(0, len(order), self.max_batch):
                rows = order[first : first + self.max_batch]
                logits_NC[[start + row for row in rows]] = self.backend(self._feeds([encodings[row] for row in rows]))
        return logits_NC

    def predict(self, texts: Sequence[str], top_k: int | None = None) -> list[Answer]:
        """One answer a text, in their order, with its top_k labels (all when None)."""
        return classify(self.logits(texts), self.card.labels, top_k)

    def warm_up(self) -> None:
        """Run a short and a full-length text, and raise EngineError unless the logits are numbers that fit the card."""
        full = " ".join(["a"] * self.card.max_length)
        for text in ("a", full, "a"):
            feeds = self._feeds(self.tokenizer.encode_batch_fast([text]))
            tokens = feeds["input_ids"].shape[1]
            try:
                logits_BC = self.backend(feeds)
            except Exception as error:
                raise EngineError(f"the variant {self.variant} fails on a text of {tokens} tokens: {error}") from error
            if logits_BC.shape != (1, len(self.card.labels)):
                raise EngineError(
                    f"the variant {self.variant} gives logits of shape {logits_BC.shape} for one text, and the card has "
                    f"{len(self.card.labels)} labels; export it as a sequence classifier with those labels"
                )
            if not np.isfinite(logits_BC).all():
                raise EngineError(
                    f"the variant {self.variant} gives {logits_BC[0].tolist()}, not numbers; its weights are damaged"
                )

    def _feeds(self, encodings: Sequence[Encoding]) -> dict[str, np.ndarray]:
        """int64 arrays of shape BT, padded to the longest, for just the inputs that the graph has."""
        shape = (len(encodings), max(len(encoding) for encoding in encodings))
        ids_BT = np.full(shape, self.pad_id, dtype=np.int64)
        mask_BT = np.zeros(shape, dtype=np.int64)
        for row, encoding in enumerate(encodings):
            ids_BT[row, : len(encoding)] = encoding.ids
            mask_BT[row, : len(encoding)] = 1
        feeds = {"input_ids": ids_BT, "attention_mask": mask_BT}
        if "token_type_ids" in self.backend.inputs:
            types_BT = np.zeros(shape, dtype=np.int64)
            for row, encoding in enumerate(encodings):
                types_BT[row, : len(encoding)] = encoding.type_ids
            feeds["token_type_ids"] = types_BT
        return {name: array_BT for name, array_BT in feeds.items() if name in self.backend.inputs}


def load_engine(
    directory: Path, variant: str | None = None, threads: int = 1, max_batch: int = 32, device: Device = "auto"
) -> Engine:
    """Load a variant (the card's default when None) of the published model in a directory and warm it up.

    `threads` is the CPU threads of one forward pass; torch keeps that number for the whole process. `auto` means the GPU
    for torch, if there is one, and the CPU for ONNX; `cuda` and `tensorrt` are asked for by name. Raises EngineError where
    the model is missing, damaged or unfit.
    """
    card = read_card(directory)
    name, chosen = card.variant(variant)
    files = variant_files(directory, card, name)
    # Read by the tokenizer's Rust side at each call: one thread for the model means one for its tokens too.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if threads > 1 else "false")
    tokenizer = _load_tokenizer(directory, card.max_length)
    backend: Backend
    if chosen.backend == "onnx":
        backend = OnnxBackend(directory / chosen.file, threads, device)
    else:
        backend = TorchBackend(directory, chosen.file, chosen.precision, threads, device)
    together = 1 if chosen.batching == "alone" else max_batch
    engine = Engine(card, name, tokenizer, _pad_id(directory, tokenizer), backend, together)
    try:
        engine.warm_up()
    except EngineError as error:
        raise EngineError(f"{directory} ({len(files)} files): {error}") from error
    return engine


def _load_tokenizer(directory: Path, max_length: int) -> Tokenizer:
    place = directory / "tokenizer.json"
    side = _read_json(directory / "tokenizer_config.json").get("truncation_side", "right")
    try:
        tokenizer = Tokenizer.from_file(str(place))
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length=max_length, direction=side)
    except Exception as error:
        raise EngineError(
            f"{place}: not a tokenizer for texts of {max_length} tokens ({error}); publish the model again"
        ) from error
    return tokenizer


def _pad_id(directory: Path, tokenizer: Tokenizer) -> int:
    """The id that fills short rows. The model's config comes first: RoBERTa and decoders find the text's end by it."""
    configured = _read_json(directory / "config.json").get("pad_token_id")
    if configured is not None:
        return int(configured)
    token = _read_json(directory / "tokenizer_config.json").get("pad_token")
    found = tokenizer.token_to_id(token["content"] if isinstance(token, dict) else token) if token else None
    if found is None:
        raise EngineError(
            f"{directory}: neither config.json nor tokenizer_config.json names a padding token; add pad_token_id"
        )
    return found


def _read_json(place: Path) -> dict[str, Any]:
    try:
        return json.loads(place.read_bytes()) if place.is_file() else {}
    except ValueError as error:
        raise EngineError(f"{place} is damaged: {error}; publish the model again") from error
