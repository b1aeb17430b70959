"""What fills short rows: the model's own padding token, or another where it has none, as GPT-2 and Llama are published.

given = give_padding(tokenizer, config, "gpt2")       # "<|endoftext|>"; None where the model has a token of its own
"""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.core.config import BadInput, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

STAND_INS = ("eos_token", "sep_token", "bos_token", "cls_token")
"""What may pad in place of a padding token: what a text hardly has inside, since decoders find a text's last token by it."""


def give_padding(tokenizer: "PreTrainedTokenizerBase", config: "PreTrainedConfig", named: str) -> str | None:
    """Have tokenizer and config agree on a token that the model has an embedding of; BadInput where there is none.

    Padding is masked, so that any such token will do. Returns the one that was taken where the tokenizer has no usable one.
    """
    own = tokenizer.pad_token_id
    given: str | None = None
    if not has_embedding(own, config):
        given = _stand_in(tokenizer, config)
        if given is None:
            has = "no padding token" if own is None else f"a padding token, {own}, that it has no embedding of"
            reason = f"it has {has}, and no token for the end or the beginning of a text to take its place"
            raise BadInput([Problem("model", named, reason, "Set pad_token in its tokenizer_config.json.")])
        tokenizer.pad_token = given
    config.pad_token_id = tokenizer.pad_token_id
    return given


def has_embedding(number: int | None, config: "PreTrainedConfig") -> bool:
    """Whether this is the id of a token that a model of this config knows."""
    if number is None:
        return False
    # A model of characters has an embedding of each, and no table of words.
    return 0 <= number < getattr(config.get_text_config(), "vocab_size", math.inf)


def plainly_padded(directory: Path) -> bool:
    """Whether a model's files name a padding token that it has an embedding of. Seen without torch; false says nothing."""
    places = [directory / name for name in ("config.json", "tokenizer_config.json", "tokenizer.json")]
    if not all(place.is_file() for place in places):
        return False
    try:
        config, settings, tokens = (json.loads(place.read_bytes()) for place in places)
        named = settings.get("pad_token")
        padding = named["content"] if isinstance(named, dict) else named
        numbers = [token["id"] for token in tokens.get("added_tokens", ()) if token["content"] == padding]
        return bool(numbers) and numbers[0] < config.get("vocab_size", 0)
    except (ValueError, TypeError, KeyError, AttributeError):
        return False  # Damaged, which is told by who reads them in earnest.


def _stand_in(tokenizer: "PreTrainedTokenizerBase", config: "PreTrainedConfig") -> str | None:
    """The token that the model's config names, since RoBERTa's kin count positions by it; else an end, else a beginning."""
    named = config.pad_token_id
    numbers = [named, *(getattr(tokenizer, f"{name}_id") for name in STAND_INS)]
    tokens = (tokenizer.convert_ids_to_tokens([number])[0] for number in numbers if has_embedding(number, config))
    return next((token for token in tokens if token is not None), None)
