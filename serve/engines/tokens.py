"""A published model's tokens: how texts are cut into them, and what its files say of them."""

import json
import re
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, pre_tokenizers

from serve.engines.card import EngineError


def as_text(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer, which from now on reads a special token that stands in a text as the characters it is written with: no
    text ends itself by [SEP]. What frames texts is added as before.
    """
    tokenizer.encode_special_tokens = True
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    # Models that look words up, Unigram above all, have them among their own words: these must not reach them whole.
    found = [name for name in special if name[1:] and _found(tokenizer, name)]
    cuts = "|".join(f"{re.escape(name[0])}(?={re.escape(name[1:])})" for name in found)
    if cuts:
        split, before = pre_tokenizers.Split(Regex(cuts), "merged_with_previous"), tokenizer.pre_tokenizer
        tokenizer.pre_tokenizer = split if before is None else pre_tokenizers.Sequence([before, split])
    return tokenizer


def _found(tokenizer: Tokenizer, name: str) -> bool:
    """Whether the model makes this special token of its characters."""
    return tokenizer.token_to_id(name) in tokenizer.encode(f"{name} a{name}a {name}", add_special_tokens=False).ids


def pad_id(directory: Path, tokenizer: Tokenizer) -> int:
    """The id that fills short rows. The model's config comes first: RoBERTa and decoders find the text's end by it."""
    configured = read_json(directory / "config.json").get("pad_token_id")
    if configured is not None:
        return int(configured)
    token = read_json(directory / "tokenizer_config.json").get("pad_token")
    found = tokenizer.token_to_id(token["content"] if isinstance(token, dict) else token) if token else None
    if found is None:
        raise EngineError(
            f"{directory}: neither config.json nor tokenizer_config.json names a padding token; add pad_token_id"
        )
    return found


def read_json(place: Path) -> dict[str, Any]:
    """A file of settings; empty where it is not there, EngineError where it is damaged."""
    try:
        return json.loads(place.read_bytes()) if place.is_file() else {}
    except ValueError as error:
        raise EngineError(f"{place} is damaged: {error}; publish the model again") from error
