"""Tokenizers: trained on the corpus, or taken from an existing model.

tokenizer: {train: wordpiece, vocab_size: 8000}
tokenizer: {train: unigram, sentinels: 100}          # for span corruption
tokenizer: {model: sample:minilm_l6}

A trained one frames each text as [CLS] … [SEP]. These are its begin and end of sequence too, so that decoders and
encoder-decoders can use it; a causal model is published with a tokenizer that leaves the end for the model to say.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field, model_validator

from jobs.core.config import Config
from jobs.data.sources import model_directory
from serve.engines.tokens import as_text

if TYPE_CHECKING:
    import tokenizers
    from transformers import PreTrainedTokenizerBase

    from cluster.store.artifact import Artifact

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
    "bos_token": "[CLS]",
    "eos_token": "[SEP]",
}
SENTINEL = "<extra_id_{}>"
"""T5's names of the tokens that stand for a span that was taken out."""

CONTINUED = "##"
BYTES = 256
ALPHABET_SHARE = 4
"""Single characters may take up to one in so many places of a WordPiece vocabulary, twice: as beginnings and continued."""


class Tokenizer(Config):
    """Which tokenizer the corpus is cut with."""

    train: Literal["wordpiece", "bpe", "unigram", "characters"] | None = None
    """Train one on the corpus: bpe is over bytes, so that any text comes back exactly; characters makes every character a
    token (for Chinese)."""
    vocab_size: int = Field(8000, ge=100)
    """Tokens of a trained tokenizer, special ones included."""
    train_characters: int = Field(200_000_000, ge=1_000_000)
    """A trained tokenizer learns from so many characters; where there are more, from texts chosen by their hash."""
    lowercase: bool = True
    """Whether a trained tokenizer folds case; wordpiece and characters then take the accents off Latin letters, too."""
    sentinels: int = Field(0, ge=0)
    """Sentinel tokens of a trained tokenizer, for span corruption (T5 has 100)."""
    model: str | None = None
    """Take the tokenizer of this model instead: sample:NAME, a directory or a hub's name."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "Tokenizer":
        if (self.train is None) == (self.model is None):
            raise ValueError("give either train or model")
        if self.sentinels and self.model is not None:
            raise ValueError("sentinels are for trained tokenizers; an existing one keeps the tokens that its model knows")
        least = len(set(SPECIAL_TOKENS.values())) + self.sentinels + (BYTES if self.train == "bpe" else 0)
        if self.train is not None and self.vocab_size <= least:
            raise ValueError(f"vocab_size {self.vocab_size} leaves no room beside {least} special tokens and bytes")
        return self

    @property
    def special(self) -> list[str]:
        """The special tokens of a trained tokenizer, in the order of their ids."""
        return [*dict.fromkeys(SPECIAL_TOKENS.values()), *(SENTINEL.format(number) for number in range(self.sentinels))]


def tokenizer_of(tokens: "Artifact") -> "PreTrainedTokenizerBase":
    """The tokenizer that TOKENS were cut with; nothing else of them is fetched."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tokens.local(tokens.files("tokenizer/")) / "tokenizer")
    return tokenizer


Cut = Callable[[Sequence[str], bool], list[list[int]]]
"""The ids of each text, framed or not."""


def text_cutter(tokenizer: "PreTrainedTokenizerBase") -> Cut:
    """How this tokenizer cuts texts, at any length: special tokens that stand in them are text, as they are in serving."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        plain: Any = partial(cast(Any, tokenizer), split_special_tokens=True, verbose=False)
        return lambda texts, framed: plain(list(texts), add_special_tokens=framed)["input_ids"] if texts else []
    own = served(backend)
    return lambda texts, framed: [one.ids for one in own.encode_batch_fast(list(texts), add_special_tokens=framed)]


def served(backend: Any) -> "tokenizers.Tokenizer":
    """A copy of a tokenizer's backend as the engine loads it, before it is told where to cut texts off."""
    import tokenizers

    made = as_text(tokenizers.Tokenizer.from_str(backend.to_str()))
    made.no_padding()
    made.no_truncation()
    return made


def train_tokenizer(settings: Tokenizer, texts: Iterable[str], max_length: int, target: Path) -> int:
    """Train a tokenizer, save it as a Hugging Face tokenizer directory, return its number of tokens.

    The texts are gone through twice. The same texts give the same tokenizer, but for unigram: its trainer sums in no
    fixed order, so that scores differ in their last digits.
    """
    import tokenizers
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    model, trainer = _model_and_trainer(settings, texts)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = _normalizer(settings)
    tokenizer.pre_tokenizer = _splitter(settings)
    decoder = _decoder(settings)
    if decoder is not None:
        tokenizer.decoder = decoder
    tokenizer.train_from_iterator(texts, trainer)
    if settings.train == "wordpiece":
        tokenizer = _as_wordpiece(tokenizer, settings)
    begin, end = SPECIAL_TOKENS["cls_token"], SPECIAL_TOKENS["sep_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} $B:1 {end}:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in (begin, end)],
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        extra_special_tokens=settings.special[len(set(SPECIAL_TOKENS.values())) :],
        **SPECIAL_TOKENS,
    )
    wrapped.save_pretrained(target)
    return len(wrapped)


def _model_and_trainer(settings: Tokenizer, texts: Iterable[str]) -> tuple[Any, Any]:
    from tokenizers import models, pre_tokenizers, trainers

    unknown = SPECIAL_TOKENS["unk_token"]
    shared: dict[str, Any] = {
        "vocab_size": settings.vocab_size, "special_tokens": settings.special, "show_progress": False,
    }  # fmt: skip
    if settings.train == "wordpiece":
        return models.BPE(unk_token=unknown, continuing_subword_prefix=CONTINUED), _wordpiece_trainer(settings, texts)
    if settings.train == "bpe":
        return models.BPE(), trainers.BpeTrainer(initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), **shared)
    if settings.train == "unigram":
        return models.Unigram(), trainers.UnigramTrainer(unk_token=unknown, **shared)
    return models.WordLevel(unk_token=unknown), trainers.WordLevelTrainer(**shared)


def _splitter(settings: Tokenizer) -> Any:
    """What cuts a text into the pieces within which tokens are found."""
    from tokenizers import Regex, pre_tokenizers

    if settings.train == "bpe":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if settings.train == "unigram":
        return pre_tokenizers.Metaspace()
    if settings.train == "characters":
        return pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("."), "isolated")])
    return pre_tokenizers.BertPreTokenizer()


def _decoder(settings: Tokenizer) -> Any:
    from tokenizers import decoders

    made = {"wordpiece": decoders.WordPiece, "bpe": decoders.ByteLevel, "unigram": decoders.Metaspace}
    return made[settings.train]() if settings.train in made else None


def _normalizer(settings: Tokenizer) -> Any:
    from tokenizers import Regex, normalizers

    # These two say any text: no spaces around Chinese, no accents taken off. Unigram folds forms as SentencePiece does.
    if settings.train in ("bpe", "unigram"):
        folds = [normalizers.NFKC()] if settings.train == "unigram" else []
        return normalizers.Sequence(folds + ([normalizers.Lowercase()] if settings.lowercase else []))
    cleaned = normalizers.BertNormalizer(lowercase=False)
    if not settings.lowercase:
        return cleaned
    # BertNormalizer would take off whatever mark there is: パ would be ハ, and vowels of Hindi would be gone.
    accents = normalizers.Replace(Regex(r"(?<=\p{Latin})[\u0300-\u036f]+"), "")
    return normalizers.Sequence([cleaned, normalizers.Lowercase(), normalizers.NFD(), accents, normalizers.NFC()])


def _wordpiece_trainer(settings: Tokenizer, texts: Iterable[str]) -> Any:
    """A trainer that finds the same pieces each time.

    The library numbers continued characters in the order in which a hash map gives them, and breaks ties by these
    numbers. Named beforehand as special tokens, they have fixed ones.
    """
    from tokenizers import trainers

    normalize = _normalizer(settings).normalize_str
    raw: Counter[str] = Counter()
    for text in texts:
        raw.update(text)
    # The normalizer goes character by character: what it makes of each is asked once, not once an occurrence.
    counts: Counter[str] = Counter()
    for character, times in raw.items():
        for made in normalize(character):
            if not made.isspace():
                counts[made] += times
    common = sorted(counts, key=lambda character: (-counts[character], character))[: settings.vocab_size // ALPHABET_SHARE]
    alphabet = sorted(common)
    return trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        special_tokens=[*settings.special, *alphabet, *(CONTINUED + character for character in alphabet)],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=CONTINUED,
        show_progress=False,
    )


def _as_wordpiece(trained: Any, settings: Tokenizer) -> Any:
    """A tokenizer that looks the trained pieces up longest first, as WordPiece does, with only the usual special tokens."""
    import tokenizers
    from tokenizers import models

    made = tokenizers.Tokenizer(models.WordPiece(trained.get_vocab(), unk_token=SPECIAL_TOKENS["unk_token"]))
    made.normalizer, made.pre_tokenizer, made.decoder = trained.normalizer, trained.pre_tokenizer, trained.decoder
    return made


def copy_tokenizer(model: str, target: Path) -> int:
    """Save an existing model's tokenizer as a directory, return its number of tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_directory(model))
    tokenizer.save_pretrained(target)
    return len(tokenizer)
