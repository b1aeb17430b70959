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
from pydantic import BaseModel
from tokenizers import Encoding, Tokenizer

from serve.engines.backends import Backend, Device, OnnxBackend, TorchBackend
from serve.engines.card import Card, EngineError, read_card, variant_files
from serve.engines.lengths import BatchBudget, batches
from serve.engines.reading import as_read
from serve.engines.tokens import as_text, pad_id, read_json
from serve.tasks.protocol import Item, Output, Outputs

# Items tokenised and sorted together: long enough to make even batches, short enough to bound memory.
TOGETHER_BATCHES = 64


class Engine:
    """A model ready to answer. Calls from several threads at once are safe, but gain nothing over one at a time."""

    def __init__(
        self, card: Card, variant: str, tokenizer: Tokenizer, pad_id: int, backend: Backend, budget: BatchBudget, threads: int
    ) -> None:
        assert card.task is not None, "the caller has looked"
        self.card, self.task = card, card.task
        self.variant = variant
        self.fitted = card.variants[variant].fitted
        self.tokenizer = tokenizer
        self.pad_id = pad_id
        self.backend = backend
        self.budget = budget
        self.threads = threads
        # Then a batch of windows is a batch of items.
        self.plain = self.task.dense and not self.task.windows

    def outputs(self, items: Sequence[Item]) -> Outputs:
        """What the model says of each item, as it says it: nothing that was fitted is applied. Batches are of like length."""
        found: list[Output] = []
        together = TOGETHER_BATCHES * self.budget.texts
        for start in range(0, len(items), together):
            found += self._outputs(items[start : start + together])
        return self.task.stacked(found)

    def settled(self, items: Sequence[Item]) -> Outputs:
        """The same with what was fitted for the variant applied: what the engine answers by."""
        return self.task.settled(self.outputs(items), self.fitted)

    def answers(self, items: Sequence[Item], options: BaseModel | None = None) -> list[Any]:
        """One answer an item, in their order; without options all that can be said."""
        return self.task.answers(self.settled(items), items, options) if items else []

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

    def run(self, windows: Sequence[Encoding]) -> Outputs:
        """`forward`, for `joined`: where a window is an item, what was fitted is applied to all at once."""
        return self.task.settled(self.forward(windows), self.fitted) if self.plain else self.forward(windows)

    def joined(self, item: Item, windows: Sequence[Encoding], outputs: Sequence[Output]) -> Output:
        """The settled output of an item from what `run` gave for its windows."""
        if self.plain:
            return outputs[0]
        return self.task.settled(self.task.stacked([self.task.combine(windows, outputs, item)]), self.fitted)[0]

    def embed(self, windows: Sequence[Encoding]) -> np.ndarray:
        """float32 vectors_BD of one batch: the mean of the last hidden states of each window's tokens, scaled to length 1."""
        feeds = self._feeds(windows)
        mask_BT = feeds["attention_mask"].astype(np.float32)
        sums_BD = np.einsum("btd,bt->bd", self.backend.hidden(feeds), mask_BT)
        return _of_length_1(sums_BD / mask_BT.sum(axis=1, keepdims=True))

    def joined_vectors(self, item: Item, windows: Sequence[Encoding], vectors: Sequence[np.ndarray]) -> np.ndarray:
        """The vector of an item: the mean of its windows', each counted by its tokens."""
        if len(vectors) == 1:
            return vectors[0]
        shares = np.array([len(window) for window in windows], dtype=np.float32)
        return _of_length_1((shares[:, None] * np.stack(vectors)).sum(0, keepdims=True))[0]

    def warm_up(self) -> None:
        """Run a short and a full-length text, and raise EngineError unless the outputs are numbers that fit the task."""
        full = " ".join(["a"] * self.card.max_length)
        for text in ("a", full, "a"):
            item = Item((text,) * len(self.task.fields))
            tokens = max(len(window) for window in self.tokenise([item])[0])
            try:
                output = self.outputs([item])[0]
            except Exception as error:
                raise EngineError(f"the variant {self.variant} fails on a text of {tokens} tokens: {error}") from error
            if wrong := self.task.wrong_output(output):
                raise EngineError(f"the variant {self.variant} gives for one text what does not fit: {wrong}; export it anew")
            arrays = output.values() if isinstance(output, dict) else [output]
            if not all(np.isfinite(array).all() for array in arrays):
                raise EngineError(
                    f"the variant {self.variant} gives {np.asarray(output).tolist()}, not numbers; its weights are damaged"
                )

    def describe(self, directory: Path) -> dict[str, Any]:
        """What the model is: its shape in words, from the config in its directory, and its number of parameters."""
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(directory)
        shape = f"{config.num_hidden_layers} × {config.hidden_size}"
        neurons = getattr(config, "intermediate_size", None)
        shape = shape if neurons is None else f"{shape}, {neurons} neurons"
        return {"shape": shape, "parameters": self.card.parameters}

    def _outputs(self, items: Sequence[Item]) -> list[Output]:
        windows = self.tokenise(items)
        places = [(item, number) for item, own in enumerate(windows) for number in range(len(own))]
        flat = [window for own in windows for window in own]
        said: list[list[Output]] = [[None] * len(own) for own in windows]
        for rows in batches([len(window) for window in flat], self.budget):
            for row, output in zip(rows, self.forward([flat[row] for row in rows]), strict=True):
                item, number = places[row]
                said[item][number] = output
        if self.plain:
            return [outputs[0] for outputs in said]
        return [self.task.combine(*each) for each in zip(windows, said, items, strict=True)]

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
    tokenizer = _load_tokenizer(directory, card)
    backend: Backend
    if chosen.backend == "onnx":
        parts, exact = [name for name, _ in card.task.graph_parts], chosen.products != "wide"
        backend = OnnxBackend(directory / chosen.file, card.task.graph_outputs, threads, device, parts, exact)
    else:
        backend = TorchBackend(directory, card, chosen, threads, device)
    together = BatchBudget(1 if chosen.batching == "alone" else max_batch, max_tokens)
    engine = Engine(card, name, tokenizer, pad_id(directory, tokenizer), backend, together, threads)
    try:
        engine.warm_up()
    except EngineError as error:
        raise EngineError(f"{directory} ({len(files)} files): {error}") from error
    return engine


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


def _of_length_1(vectors_BD: np.ndarray) -> np.ndarray:
    return vectors_BD / np.maximum(np.linalg.norm(vectors_BD, axis=1, keepdims=True), 1e-12)
