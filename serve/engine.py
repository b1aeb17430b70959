"""The engine: texts → logits → answers, for any published model. It judges candidates and it serves them.

    engine = load_engine(Path("out/spam/small-1a2b3c4d"), variant="int8")
    engine.predict(["Win a prize now"])[0].label

Numbers in fp32 are the same alone and in a batch up to rounding. A dynamically quantised graph scales its activations
over the whole batch, so its logits do move a little with padding and with batch mates, unless the card says that texts
are run alone.

Shapes: B batch, T tokens, C classes, D hidden units, N texts.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Encoding, Tokenizer

from serve.answers import Answer, classify
from serve.backends import Backend, Device, OnnxBackend, TorchBackend
from serve.card import Card, EngineError, read_card, variant_files
from serve.lengths import Budget, batches
from serve.tokens import pad_id, read_json

# Texts tokenised and sorted together: long enough to make even batches, short enough to bound memory.
WINDOW_BATCHES = 64


class Engine:
    """A model ready to answer. Calls from several threads at once are safe, but gain nothing over one at a time."""

    def __init__(
        self, card: Card, variant: str, tokenizer: Tokenizer, pad_id: int, backend: Backend, budget: Budget, threads: int
    ) -> None:
        self.card = card
        self.variant = variant
        self.tokenizer = tokenizer
        self.pad_id = pad_id
        self.backend = backend
        self.budget = budget
        self.threads = threads
        self.temperature = np.float32(card.variants[variant].temperature)

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """float32 logits_NC in the order of the texts, computed in batches of texts of like length."""
        logits_NC = np.empty((len(texts), len(self.card.labels)), dtype=np.float32)
        window = WINDOW_BATCHES * self.budget.texts
        for start in range(0, len(texts), window):
            encodings = self.tokenise(list(texts[start : start + window]))
            for rows in batches([len(encoding) for encoding in encodings], self.budget):
                logits_NC[[start + row for row in rows]] = self.forward([encodings[row] for row in rows])
        return logits_NC

    def tokenise(self, texts: list[str]) -> list[Encoding]:
        """The tokens of each text, cut at the model's length."""
        return self.tokenizer.encode_batch_fast(texts)

    def forward(self, encodings: Sequence[Encoding]) -> np.ndarray:
        """float32 logits_BC of one batch, run as it is."""
        return self.backend(self._feeds(encodings))

    def embed(self, encodings: Sequence[Encoding]) -> np.ndarray:
        """float32 vectors_BD of one batch: the mean of the last hidden states of each text's tokens, scaled to length 1."""
        feeds = self._feeds(encodings)
        mask_BT = feeds["attention_mask"].astype(np.float32)
        sums_BD = np.einsum("btd,bt->bd", self.backend.hidden(feeds), mask_BT)
        vectors_BD = sums_BD / mask_BT.sum(axis=1, keepdims=True)
        return vectors_BD / np.maximum(np.linalg.norm(vectors_BD, axis=1, keepdims=True), 1e-12)

    def predict(self, texts: Sequence[str], top_k: int | None = None) -> list[Answer]:
        """One answer a text, in their order, with its top_k labels (all when None)."""
        return classify(self.scaled_logits(texts), self.card.labels, top_k)

    def scaled_logits(self, texts: Sequence[str]) -> np.ndarray:
        """logits_NC whose softmax is what the engine answers: divided by the temperature in the card."""
        return self.logits(texts) / self.temperature

    def scaled_forward(self, encodings: Sequence[Encoding]) -> np.ndarray:
        """The same of one batch, logits_BC, run as it is."""
        return self.forward(encodings) / self.temperature

    def warm_up(self) -> None:
        """Run a short and a full-length text, and raise EngineError unless the logits are numbers that fit the card."""
        full = " ".join(["a"] * self.card.max_length)
        for text in ("a", full, "a"):
            encodings = self.tokenise([text])
            tokens = len(encodings[0])
            try:
                logits_BC = self.forward(encodings)
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
    if card.task != "classification":
        raise EngineError(f"{directory}: it is a model for {card.task}, which has no labels; ask it with serve.generation")
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
    together = Budget(1 if chosen.batching == "alone" else max_batch, max_tokens)
    engine = Engine(card, name, tokenizer, pad_id(directory, tokenizer), backend, together, threads)
    try:
        engine.warm_up()
    except EngineError as error:
        raise EngineError(f"{directory} ({len(files)} files): {error}") from error
    return engine


def _load_tokenizer(directory: Path, max_length: int) -> Tokenizer:
    place = directory / "tokenizer.json"
    side = read_json(directory / "tokenizer_config.json").get("truncation_side", "right")
    try:
        tokenizer = Tokenizer.from_file(str(place))
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length=max_length, direction=side)
    except Exception as error:
        raise EngineError(
            f"{place}: not a tokenizer for texts of {max_length} tokens ({error}); publish the model again"
        ) from error
    return tokenizer
