"""Writing text with a published language model: a decoder goes on with a text, an encoder-decoder answers it.

    python -m serve.generation out/story/small-1a2b3c4d "Once upon a time" --variant int4 --temperature 0.8 --top-k 40

    generator = load_generator(Path("out/story/small-1a2b3c4d"), variant="int4")
    generator.generate(["Once upon a time"], Sampling(max_new_tokens=40))      # what was written, without the prompt

Runs the model's ONNX variants with a cache of what was read. What is written after one text never depends on its batch mates:
each has a random generator of its own (dynamic int8 scales activations over a batch, so that it may).

B batch, T tokens, N texts, V vocabulary.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from serve.engines.backends import Device
from serve.engines.card import Card, EngineError, read_card, variant_files
from serve.engines.decoder import Cache, OnnxDecoder
from serve.engines.tokens import as_text, pad_id, read_json
from serve.tasks.shared.probabilities import softmax

MAX_BATCH = 8


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    max_new_tokens: int = 64
    """Tokens to write at most; fewer where the model says that it has ended."""
    temperature: float = 0.0
    """0: always the likeliest token (greedy); 1: tokens as likely as the model says; higher: bolder."""
    top_k: int | None = None
    """Choose among so many likeliest tokens alone."""
    seed: int = 0
    """The same seed writes the same text."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or (self.top_k is not None and self.top_k < 1):
            raise ValueError(f"{self}: max_new_tokens and top_k are 1 or more, temperature is 0 or more")


class Generator:
    """A language model ready to write."""

    def __init__(self, card: Card, variant: str, tokenizer: Tokenizer, decoder: OnnxDecoder, special: "Special") -> None:
        self.card, self.variant, self.tokenizer, self.decoder, self.special = card, variant, tokenizer, decoder, special

    def generate(self, texts: Sequence[str], sampling: Sampling | None = None, max_batch: int = MAX_BATCH) -> list[str]:
        """What the model writes after each text, or for each where it has an encoder; in their order, `max_batch` at once.

        Prompts that leave no room for max_new_tokens lose their beginning; ValueError where nothing of them would be left.
        """
        sampling = sampling or Sampling()
        prompts = [self._prompt(text, sampling) for text in texts]
        written: list[str] = []
        for start in range(0, len(prompts), max_batch):
            part = prompts[start : start + max_batch]
            for prompt, ids in zip(part, self.tokens(part, sampling, start), strict=True):
                written.append(self._text(prompt, ids))
        return written

    def tokens(self, prompts: Sequence[Sequence[int]], sampling: Sampling, first: int = 0) -> list[list[int]]:
        """The tokens written after these, up to the one that ends the text; `first` is the number of the first prompt."""
        cache, logits_BV = self._begin(prompts)
        generators = [np.random.default_rng([sampling.seed, first + row]) for row in range(len(prompts))]
        written: list[list[int]] = [[] for _ in prompts]
        running = np.ones(len(prompts), dtype=bool)
        for count in range(1, sampling.max_new_tokens + 1):
            chosen = [choose(row_V, sampling, generator) for row_V, generator in zip(logits_BV, generators, strict=True)]
            for row, token in enumerate(chosen):
                if running[row] and token not in self.special.ends:
                    written[row].append(token)
                running[row] &= token not in self.special.ends
            if not running.any() or count == sampling.max_new_tokens:
                break
            logits_BV = self.decoder.read(cache, np.array(chosen)[:, None], [-1])[:, -1]
        return written

    def warm_up(self) -> None:
        """Read a prompt; EngineError unless the logits are numbers for the tokenizer's tokens."""
        try:
            _, logits_BV = self._begin([[self.special.pad] * 3])
        except Exception as error:
            raise EngineError(f"the variant {self.variant} fails on a prompt of 3 tokens: {error}") from error
        if logits_BV.shape[1] < self.tokenizer.get_vocab_size() or not np.isfinite(logits_BV).all():
            raise EngineError(
                f"the variant {self.variant} gives logits of shape {logits_BV.shape}, or no numbers, and the tokenizer has "
                f"{self.tokenizer.get_vocab_size()} tokens; publish the model again"
            )

    def _begin(self, prompts: Sequence[Sequence[int]]) -> tuple[Cache, np.ndarray]:
        """The prompts read, and logits_BV of what comes next. Padding stands in front."""
        longest = max(map(len, prompts))
        ids_BT = np.full((len(prompts), longest), self.special.pad, dtype=np.int64)
        mask_BT = np.zeros_like(ids_BT)
        for row, prompt in enumerate(prompts):
            ids_BT[row, longest - len(prompt) :] = prompt
            mask_BT[row, longest - len(prompt) :] = 1
        if self.decoder.encoder is None:
            cache = self.decoder.begin(mask_BT)
            return cache, self.decoder.read(cache, ids_BT, [-1])[:, -1]
        cache = self.decoder.begin(mask_BT, ids_BT)
        start_B1 = np.full((len(prompts), 1), self.special.start, dtype=np.int64)
        return cache, self.decoder.read(cache, start_B1, [-1])[:, -1]

    def _prompt(self, text: str, sampling: Sampling) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text).ids
        if self.decoder.encoder is not None:
            return ids[: self.card.max_length] or [self.special.pad]
        room = self.card.max_length - sampling.max_new_tokens
        if room < 1:
            raise ValueError(
                f"max_new_tokens {sampling.max_new_tokens} leaves no room for a prompt: the model holds "
                f"{self.card.max_length} tokens in all; lower it"
            )
        # A text of nothing is begun with what ends a text, as the model has seen it stand before one.
        return ids[-room:] or [next(iter(self.special.ends), self.special.pad)]

    def _text(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        if self.decoder.encoder is not None:
            return self.tokenizer.decode(list(ids))
        # Decoded together: by itself a first token may lose the space before it.
        before, whole = self.tokenizer.decode(list(prompt)), self.tokenizer.decode([*prompt, *ids])
        return whole[len(before) :] if whole.startswith(before) else self.tokenizer.decode(list(ids))


@dataclass(frozen=True)
class Special:
    """Tokens with a meaning of their own."""

    pad: int
    ends: frozenset[int]
    """Each of them ends a text."""
    start: int
    """What an encoder-decoder's decoder begins with."""


def choose(logits_V: np.ndarray, sampling: Sampling, generator: np.random.Generator) -> int:
    """The next token."""
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    scaled_V = logits_V.astype(np.float64) / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < len(scaled_V):
        lowest = np.partition(scaled_V, -sampling.top_k)[-sampling.top_k]
        scaled_V = np.where(scaled_V >= lowest, scaled_V, -np.inf)
    return int(generator.choice(len(scaled_V), p=softmax(scaled_V)))


def load_generator(directory: Path, variant: str | None = None, threads: int = 1, device: Device = "auto") -> Generator:
    """Load a variant (the card's default when None) of a published language model; EngineError where it cannot write."""
    card = read_card(directory)
    if card.language is None:
        raise EngineError(f"{directory}: it answers for a task, and is no language model; ask it with the engine")
    if not card.language.writes:
        raise EngineError(f"{directory}: it fills in what is hidden in a text, and does not write; fine-tune it for a task")
    name, chosen = card.variant(variant)
    if chosen.backend != "onnx":
        there = ", ".join(key for key, one in card.variants.items() if one.backend == "onnx") or "none"
        raise EngineError(f"the variant {name} is for {chosen.backend}; text is written by onnx variants: {there}")
    variant_files(directory, card, name)
    encoder = directory / chosen.encoder if chosen.encoder is not None else None
    decoder = OnnxDecoder(directory / chosen.file, encoder, threads, device)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    if card.language is None or card.language.objective != "span_corruption":
        # A model of spans is asked by its sentinels, which stay what they are.
        tokenizer = as_text(tokenizer)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    generator = Generator(card, name, tokenizer, decoder, _special(directory, tokenizer))
    generator.warm_up()
    return generator


def _special(directory: Path, tokenizer: Tokenizer) -> Special:
    """What generation_config.json says, else config.json, as transformers reads them."""
    settings: dict[str, Any] = {**read_json(directory / "config.json")}
    settings |= {key: value for key, value in read_json(directory / "generation_config.json").items() if value is not None}
    ends = settings.get("eos_token_id")
    pad = settings.get("pad_token_id")
    ends = frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
    pad = int(pad) if pad is not None else min(ends) if ends else pad_id(directory, tokenizer)
    start = settings.get("decoder_start_token_id")
    return Special(pad, ends, pad if start is None else int(start))


def _main() -> None:
    from serve.engines.published import open_model

    parser = argparse.ArgumentParser(prog="python -m serve.generation", description="Write on after a text.")
    parser.add_argument("model", help="the URI of a published language model")
    parser.add_argument("texts", nargs="+", help="prompts; each is written on after")
    parser.add_argument("--variant", help="default: the card's")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0, help="0: always the likeliest token")
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    try:
        sampling = Sampling(given.max_new_tokens, given.temperature, given.top_k, given.seed)
        generator = load_generator(open_model(given.model).fetch(given.variant), given.variant, given.threads)
        written = generator.generate(given.texts, sampling)
    except (EngineError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    for text, more in zip(given.texts, written, strict=True):
        print(text + more if generator.decoder.encoder is None else more)


if __name__ == "__main__":
    _main()
