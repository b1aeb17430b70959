"""What a published model's files say of its tokens."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from serve.engines.card import EngineError


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
