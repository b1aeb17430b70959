"""The engine: items → outputs → answers, for any published model of a task. It judges candidates and it serves them.

    engine = load_engine(Path("out/spam/small-1a2b3c4d"), variant="int8")
    engine.answers([Item(("Win a prize now",))])[0].label

Numbers in fp32 are the same alone and in a batch up to rounding. A dynamically quantised graph scales its activations
over the whole batch, so its outputs do move a little with padding and with batch mates, unless the card says that texts
are run alone.

Shapes: B batch, T tokens, D hidden units, N items.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from serve.engines.backends import Backend, Device, OnnxBackend, TorchBackend
from serve.engines.bag import load_bag
from serve.engines.bag_engine import BagEngine
from serve.engines.base import Engine, of_length_1
from serve.engines.card import Card, EngineError, read_card, variant_files
from serve.engines.lengths import BatchBudget
from serve.engines.reading import as_read
from serve.engines.tokens import as_text, pad_id, read_json
from serve.tasks.protocol import Item, Outputs


class TransformerEngine(Engine):
    """A transformer ready to answer."""

    def __init__(
        self, card: Card, variant: str, tokenizer: Tokenizer, pad_id: int, backend: Backend, budget: BatchBudget, threads: int
    ) -> None:
        super().__init__(card, variant, budget, threads, backend.embeds)
        self.tokenizer = tokenizer
        self.pad_id = pad_id
        self.backend = backend

    def tokenise(self, items: Sequence[Item]) -> list[list[Encoding]]:
        """The windows of each item, cleaned as the model's training texts were and cut at its length. Offsets are places in
        the items as they are: from here on nothing knows that they were cleaned."""
        read = [as_read(item, self.card.cleaning) for item in items]
        encoded = self.task.encode(self.tokenizer, [one.item for one in read])
        if not self.task.offsets:
            return encoded
        return [self.task.as_sent(own, one.texts) if one.texts else own for own, one in zip(encoded, read, strict=True)]

    def forward(self, windows: Sequence[Encoding]) -> Outputs:
        """What the model says of each window of one batch, run as it is."""
        arrays = self.backend(self._feeds(windows))
        if self.plain and len(arrays) == 1:
            return arrays[0]
        return [self.task.window_output([array[row] for array in arrays], len(window)) for row, window in enumerate(windows)]

    def embed(self, windows: Sequence[Encoding]) -> np.ndarray:
        """float32 vectors_BD of one batch: the mean of the last hidden states of each window's tokens, scaled to length 1."""
        feeds = self._feeds(windows)
        mask_BT = feeds["attention_mask"].astype(np.float32)
        sums_BD = np.einsum("btd,bt->bd", self.backend.hidden(feeds), mask_BT)
        return of_length_1(sums_BD / mask_BT.sum(axis=1, keepdims=True))

    def describe(self, directory: Path) -> dict[str, Any]:
        """What the model is: its shape in words, from the config in its directory, and its number of parameters."""
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(directory)
        shape = f"{config.num_hidden_layers} × {config.hidden_size}"
        neurons = getattr(config, "intermediate_size", None)
        shape = shape if neurons is None else f"{shape}, {neurons} neurons"
        return {"shape": shape, "parameters": self.card.parameters}

    def _feeds(self, windows: Sequence[Encoding]) -> dict[str, np.ndarray]:
        """int64 arrays of shape BT, padded to the longest, for just the inputs that the graph has."""
        shape = (len(windows), max(len(window) for window in windows))
        ids_BT = np.full(shape, self.pad_id, dtype=np.int64)
        mask_BT = np.zeros(shape, dtype=np.int64)
        for row, window in enumerate(windows):
            ids_BT[row, : len(window)] = window.ids
            mask_BT[row, : len(window)] = 1
        feeds = {"input_ids": ids_BT, "attention_mask": mask_BT}
        if "token_type_ids" in self.backend.inputs:
            types_BT = np.zeros(shape, dtype=np.int64)
            for row, window in enumerate(windows):
                types_BT[row, : len(window)] = window.type_ids
            feeds["token_type_ids"] = types_BT
        return feeds


def load_engine(
    directory: Path,
    variant: str | None = None,
    threads: int = 1,
    max_batch: int = 32,
    device: Device = "auto",
    max_tokens: int = 4096,
) -> Engine:
    """Load a variant (the card's default when None) of the published model in a directory and warm it up.

    A batch has `max_batch` texts and `max_tokens` tokens, padding included, at most. `threads` is the CPU threads of one
    forward pass; torch keeps that number for the whole process. `auto` means the GPU for torch, if there is one, and the
    CPU for ONNX; `cuda` and `tensorrt` are asked for by name. Raises EngineError where the model is missing, damaged or unfit.
    """
    card = read_card(directory)
    if card.task is None:
        raise EngineError(f"{directory}: it is a language model, which answers for no task; ask it with serve.generation")
    name, chosen = card.variant(variant)
    files = variant_files(directory, card, name)
    # Read by the tokenizer's Rust side at each call: one thread for the model means one for its tokens too.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if threads > 1 else "false")
    together = 1 if chosen.batching == "alone" else max_batch
    engine: Engine
    if chosen.backend == "numpy":
        bag = load_bag(directory, chosen.file, card.max_length, len(card.task.fields))
        engine = BagEngine(card, name, bag, BatchBudget(together, max_tokens, padded=False), threads)
    else:
        engine = _transformer(directory, card, name, BatchBudget(together, max_tokens), threads, device)
    try:
        engine.warm_up()
    except EngineError as error:
        raise EngineError(f"{directory} ({len(files)} files): {error}") from error
    return engine


def _transformer(
    directory: Path, card: Card, name: str, budget: BatchBudget, threads: int, device: Device
) -> TransformerEngine:
    assert card.task is not None
    chosen, tokenizer = card.variants[name], _load_tokenizer(directory, card)
    backend: Backend
    if chosen.backend == "onnx":
        parts, exact = [name for name, _ in card.task.graph_parts], chosen.products != "wide"
        backend = OnnxBackend(directory / chosen.file, card.task.graph_outputs, threads, device, parts, exact)
    else:
        backend = TorchBackend(directory, card, chosen, threads, device)
    return TransformerEngine(card, name, tokenizer, pad_id(directory, tokenizer), backend, budget, threads)


def _load_tokenizer(directory: Path, card: Card) -> Tokenizer:
    assert card.task is not None
    place = directory / "tokenizer.json"
    side = read_json(directory / "tokenizer_config.json").get("truncation_side", "right")
    try:
        tokenizer = as_text(Tokenizer.from_file(str(place)))
        tokenizer.no_padding()
        card.task.cut(tokenizer, card.max_length, side)
    except Exception as error:
        raise EngineError(
            f"{place}: not a tokenizer for texts of {card.max_length} tokens ({error}); publish the model again"
        ) from error
    return tokenizer
