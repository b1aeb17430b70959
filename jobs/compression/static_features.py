"""What a static student reads: its features, how the serving engine cuts texts into them, what the encoder is to read of each.

    features = features_of(settings, tokenizer, texts, max_length)
    features.cutter                        # as the engine's
    features.sequences                     # framed token ids of each feature, for the encoder; None: it has none
    features.write(directory)              # tokenizer.json or grams.json

Texts are those of the training split: nothing else is looked at.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from jobs.architectures.settings import StaticStudent
from jobs.compression.vocabulary import reduced_tokenizer
from jobs.core.config import BadInput, Problem
from jobs.data.tokenizer import served
from jobs.training.gram_choice import READ_CHARACTERS
from serve.engines.bag_reading import Cutter, GramCutter, GramFeatures, TokenCutter, TokenFeatures
from serve.engines.card import GRAMS_FILE, TOKENIZER_FILE
from serve.engines.grams import GramSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STATIC_WORDS, STATIC_CHARACTERS = (1, 1), (3, 5)
"""How many words and characters in a row are features."""


@dataclass(frozen=True)
class StaticFeatures:
    """The features of one student."""

    described: TokenFeatures | GramFeatures
    cutter: Cutter
    max_length: int
    """Tokens, or characters where features are words or grams."""
    sequences: Sequence[Sequence[int]] | None
    """What the encoder reads of each, by its row; None where rows have no text of their own."""
    file: tuple[str, str] | None
    """The name and the content of what they are listed in."""

    def write(self, directory: Path) -> None:
        """Leave there what the engine needs to cut texts."""
        if self.file is not None:
            (directory / self.file[0]).write_text(self.file[1], encoding="utf-8")


def features_of(
    settings: StaticStudent, tokenizer: "PreTrainedTokenizerBase | None", texts: Sequence[str], max_length: int | None
) -> StaticFeatures:
    """The features that the settings ask for; BadInput where these texts have none. `tokenizer`: the encoder's, where there
    is one; `max_length`: in tokens."""
    if settings.features == "grams":
        described = GramFeatures(words=STATIC_WORDS, characters=STATIC_CHARACTERS, hashed=settings.rows)
        cutter = GramCutter(described, None, READ_CHARACTERS)
        _check_any(any(map(str.strip, texts)), "character that is no space")
        return StaticFeatures(described, cutter, READ_CHARACTERS, None, None)
    if settings.features == "words":
        return _words(tokenizer, texts)
    assert tokenizer is not None and max_length is not None, "the step has looked"
    return _tokens(settings, tokenizer, texts, max_length)


def _words(tokenizer: "PreTrainedTokenizerBase | None", texts: Sequence[str]) -> StaticFeatures:
    described = GramFeatures(words=STATIC_WORDS, characters=None)
    cut = GramSettings(words=STATIC_WORDS, characters=None).cut
    counts = Counter(word for text in texts for word in cut(text[:READ_CHARACTERS])["words"])
    _check_any(bool(counts), "word")
    words = [word for word, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))]
    listed = {"words": words}
    sequences = None
    if tokenizer is not None:
        sequences = [one.ids for one in _served(tokenizer).encode_batch_fast(words)]
    content = json.dumps(listed, ensure_ascii=False)
    return StaticFeatures(
        described, GramCutter(described, listed, READ_CHARACTERS), READ_CHARACTERS, sequences, (GRAMS_FILE, content)
    )


def _tokens(
    settings: StaticStudent, tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], max_length: int
) -> StaticFeatures:
    whole = _served(tokenizer)
    smaller, numbers = whole, list(range(whole.get_vocab_size()))
    if settings.vocabulary == "used":
        reduced, places = reduced_tokenizer(tokenizer, texts)
        smaller, numbers = _served(reduced), sorted(places, key=lambda number: places[number])
    _check_any(any(smaller.encode(text, add_special_tokens=False).ids for text in texts), "token")
    before, after = _frame(whole)
    sequences = [[*before, number, *after] for number in numbers]
    content = smaller.to_str()
    cutter = TokenCutter(smaller, max_length)
    return StaticFeatures(TokenFeatures(), cutter, max_length, sequences, (TOKENIZER_FILE, content))


def _served(tokenizer: "PreTrainedTokenizerBase") -> Tokenizer:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        reason = f"{type(tokenizer).__name__} has no tokenizer.json, which serving reads"
        raise BadInput([Problem("model", None, reason, "Take a model with a fast tokenizer, or student.features: words.")])
    return served(backend)


def _frame(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens before and after a text."""
    encoding = tokenizer.encode("a")
    special = encoding.special_tokens_mask
    inside = [place for place, one in enumerate(special) if not one]
    if not inside:
        return list(encoding.ids), []
    return encoding.ids[: inside[0]], encoding.ids[inside[-1] + 1 :]


def _check_any(there: bool, named: str) -> None:
    if not there:
        reason = f"the vocabulary is empty: no training text has a {named}"
        raise BadInput([Problem("inputs.examples", None, reason, "Give texts that have some, or another student.")])
