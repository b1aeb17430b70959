"""Tokenizers: trained on the corpus, or taken from an existing model.

tokenizer: {train: wordpiece, vocab_size: 8000}
tokenizer: {model: sample:minilm_l6}
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from jobs.core.config import Config
from jobs.data.sources import model_directory

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}

CONTINUED = "##"
ALPHABET_SHARE = 4
"""Single characters may take up to one in so many places of a WordPiece vocabulary, twice: as beginnings and continued."""


class Tokenizer(Config):
    """Which tokenizer the corpus is cut with."""

    train: Literal["wordpiece", "bpe", "unigram", "characters"] | None = None
    """Train one on the corpus: characters makes every character a token (for Chinese)."""
    vocab_size: int = Field(8000, ge=100)
    """Tokens of a trained tokenizer."""
    lowercase: bool = True
    """Whether a trained tokenizer folds case."""
    model: str | None = None
    """Take the tokenizer of this model instead: sample:NAME, a directory or a hub's name."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "Tokenizer":
        if (self.train is None) == (self.model is None):
            raise ValueError("give either train or model")
        return self


def train_tokenizer(settings: Tokenizer, texts: Iterable[str], max_length: int, target: Path) -> int:
    """Train a tokenizer, save it as a Hugging Face tokenizer directory, return its number of tokens.

    The texts are gone through twice. The same texts give the same tokenizer, but for unigram: its trainer sums in no
    fixed order, so that scores differ in their last digits.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = list(SPECIAL_TOKENS.values())
    shared: dict[str, Any] = {"vocab_size": settings.vocab_size, "special_tokens": special, "show_progress": False}
    unknown = SPECIAL_TOKENS["unk_token"]
    split: Any = pre_tokenizers.BertPreTokenizer()
    decoder: Any = None
    model: Any
    trainer: Any
    if settings.train == "wordpiece":
        model, trainer = (
            models.BPE(unk_token=unknown, continuing_subword_prefix=CONTINUED),
            _wordpiece_trainer(settings, texts),
        )
        decoder = decoders.WordPiece()
    elif settings.train == "bpe":
        model, trainer = models.BPE(unk_token=unknown), trainers.BpeTrainer(**shared)
    elif settings.train == "unigram":
        model, trainer = models.Unigram(), trainers.UnigramTrainer(unk_token=unknown, **shared)
        split, decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    else:
        model, trainer = models.WordLevel(unk_token=unknown), trainers.WordLevelTrainer(**shared)
        split = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(tokenizers.Regex("."), "isolated")]
        )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = _normalizer(settings)
    tokenizer.pre_tokenizer = split
    if decoder is not None:
        tokenizer.decoder = decoder
    tokenizer.train_from_iterator(texts, trainer)
    if settings.train == "wordpiece":
        tokenizer = _as_wordpiece(tokenizer, unknown)
    ids = [(name, tokenizer.token_to_id(name)) for name in (SPECIAL_TOKENS["cls_token"], SPECIAL_TOKENS["sep_token"])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **SPECIAL_TOKENS)
    wrapped.save_pretrained(target)
    return len(wrapped)


def _normalizer(settings: Tokenizer) -> Any:
    from tokenizers import normalizers

    return normalizers.BertNormalizer(lowercase=settings.lowercase)


def _wordpiece_trainer(settings: Tokenizer, texts: Iterable[str]) -> Any:
    """A trainer that finds the same pieces each time.

    The library numbers continued characters in the order in which a hash map gives them, and breaks ties by these
    numbers. Named beforehand as special tokens, they have fixed ones.
    """
    from tokenizers import trainers

    normalize = _normalizer(settings).normalize_str
    counts = Counter(character for text in texts for character in normalize(text) if not character.isspace())
    common = sorted(counts, key=lambda character: (-counts[character], character))[: settings.vocab_size // ALPHABET_SHARE]
    alphabet = sorted(common)
    return trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        special_tokens=[*SPECIAL_TOKENS.values(), *alphabet, *(CONTINUED + character for character in alphabet)],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=CONTINUED,
        show_progress=False,
    )


def _as_wordpiece(trained: Any, unknown: str) -> Any:
    """A tokenizer that looks the trained pieces up longest first, as WordPiece does, with only the usual special tokens."""
    import tokenizers
    from tokenizers import models

    made = tokenizers.Tokenizer(models.WordPiece(trained.get_vocab(), unk_token=unknown))
    made.normalizer, made.pre_tokenizer = trained.normalizer, trained.pre_tokenizer
    if trained.decoder is not None:
        made.decoder = trained.decoder
    return made


def copy_tokenizer(model: str, target: Path) -> int:
    """Save an existing model's tokenizer as a directory, return its number of tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_directory(model))
    tokenizer.save_pretrained(target)
    return len(tokenizer)
