"""Tokenizers: trained on the corpus, or taken from an existing model.

tokenizer: {train: wordpiece, vocab_size: 8000}
tokenizer: {model: sample:minilm_l6}
"""

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
    """Train a tokenizer, save it as a Hugging Face tokenizer directory, return its number of tokens."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = list(SPECIAL_TOKENS.values())
    shared: dict[str, Any] = {"vocab_size": settings.vocab_size, "special_tokens": special, "show_progress": False}
    unknown = SPECIAL_TOKENS["unk_token"]
    split: Any = pre_tokenizers.BertPreTokenizer()
    decoder: Any = None
    model: Any
    trainer: Any
    if settings.train == "wordpiece":
        model, trainer = models.WordPiece(unk_token=unknown), trainers.WordPieceTrainer(**shared)
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
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=settings.lowercase)
    tokenizer.pre_tokenizer = split
    if decoder is not None:
        tokenizer.decoder = decoder
    tokenizer.train_from_iterator(texts, trainer)
    ids = [(name, tokenizer.token_to_id(name)) for name in (SPECIAL_TOKENS["cls_token"], SPECIAL_TOKENS["sep_token"])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **SPECIAL_TOKENS)
    wrapped.save_pretrained(target)
    return len(wrapped)


def copy_tokenizer(model: str, target: Path) -> int:
    """Save an existing model's tokenizer as a directory, return its number of tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_directory(model))
    tokenizer.save_pretrained(target)
    return len(tokenizer)
