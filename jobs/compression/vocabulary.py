"""Vocabulary pruning: a model and its tokenizer with only the tokens that texts need; its answers on them are the same.

    tokenizer, figures = prune_vocabulary(model, tokenizer, texts)

V vocabulary, N tokens that stay.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from jobs.architectures.positions import first_position
from jobs.compression.tokenizer_pruning import model_kind, needed_tokens, partial_pieces, without_others
from jobs.core.config import BadInput, Problem
from jobs.data.tokenizer import served, text_cutter

VOCABULARY_KEY = "vocabulary"
LEAVE_IT_OUT = "Leave it out for this model."


def prune_vocabulary(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], least: int = 1
) -> tuple[PreTrainedTokenizerBase, dict[str, float]]:
    """Cut the model's tables in place to the tokens that occur in the texts `least` times; returns the new tokenizer.

    With `least` 1 the texts are cut into the same tokens as before, which is checked (Abdaoui et al. 2020).
    """
    smaller, places = reduced_tokenizer(tokenizer, texts, least)
    if least == 1 and (changed := changed_texts(tokenizer, smaller, places, texts)):
        reason = f"{len(changed)} texts would be cut otherwise than before, the first is {changed[0][:80]!r}"
        raise BadInput([Problem(VOCABULARY_KEY, "used", reason, LEAVE_IT_OUT)])
    before, bytes_before = len(tokenizer), _bytes(model)
    cut_tables(model, places)
    figures = {"vocabulary_before": float(before), "vocabulary_kept": float(len(places))}
    return smaller, figures | {"vocabulary_mb_saved": (bytes_before - _bytes(model)) / 1e6}


def reduced_tokenizer(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], least: int = 1
) -> tuple[PreTrainedTokenizerBase, dict[int, int]]:
    """A tokenizer without the tokens that these texts do not need, and each kept token's old and new id."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        reason = f"{type(tokenizer).__name__} has no tokenizer.json to rebuild"
        raise BadInput([Problem(VOCABULARY_KEY, "used", reason, LEAVE_IT_OUT)])
    description = json.loads(backend.to_str())
    encodings = served(backend).encode_batch(list(texts))
    counts = Counter(token for encoding in encodings for token in encoding.tokens)
    kept = needed_tokens(description, counts, least)
    if model_kind(description) == "WordPiece":
        unknown = description["model"]["unk_token"]
        strange = [text for text, encoding in zip(texts, encodings, strict=True) if unknown in encoding.tokens]
        kept |= _given_up(backend, description["model"], strange)
    made, places = without_others(description, kept)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        tokenizer.save_pretrained(directory)
        for path in directory.iterdir():
            if path.name not in ("tokenizer_config.json", "chat_template.jinja"):
                path.unlink()  # vocab.txt and the like say again what tokenizer.json says
        _renumber_added(directory / "tokenizer_config.json", places)
        (directory / "tokenizer.json").write_text(json.dumps(made, ensure_ascii=False), encoding="utf-8")
        smaller = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    ids, known = tokenizer.get_vocab(), smaller.get_vocab()
    if known != {token: places[number] for token, number in ids.items() if token in kept}:
        reason = f"{type(tokenizer).__name__} does not number its tokens as tokenizer.json does"
        raise BadInput([Problem(VOCABULARY_KEY, "used", reason, LEAVE_IT_OUT)])
    return smaller, places


def _given_up(backend: Any, model: Mapping[str, Any], texts: Sequence[str]) -> set[str]:
    """What WordPiece finds in words of these texts before it calls them unknown."""
    vocabulary, prefix = set(model["vocab"]), model.get("continuing_subword_prefix") or ""
    plain = (backend.normalizer.normalize_str(text) if backend.normalizer else text for text in texts)
    words = {word for text in plain for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)}
    return {piece for word in words for piece in partial_pieces(word, vocabulary, prefix)}


def _renumber_added(file: Path, places: Mapping[int, int]) -> None:
    settings = json.loads(file.read_text(encoding="utf-8"))
    added = settings.get("added_tokens_decoder")
    if added:
        settings["added_tokens_decoder"] = {str(places[int(number)]): token for number, token in added.items()}
        file.write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")


def changed_texts(
    tokenizer: PreTrainedTokenizerBase, smaller: PreTrainedTokenizerBase, places: Mapping[int, int], texts: Sequence[str]
) -> list[str]:
    """The texts that the two do not cut into the same tokens."""
    if not texts:
        return []
    old, new = (text_cutter(one)(texts, True) for one in (tokenizer, smaller))
    return [
        text for text, before, after in zip(texts, old, new, strict=True) if [places.get(number) for number in before] != after
    ]


def changed_share(tokenizer: PreTrainedTokenizerBase, smaller: PreTrainedTokenizerBase, texts: Sequence[str]) -> float:
    """The share of these texts that the smaller tokenizer cuts into other tokens."""
    new = smaller.get_vocab()
    places = {number: new[token] for token, number in tokenizer.get_vocab().items() if token in new}
    return len(changed_texts(tokenizer, smaller, places, texts)) / len(texts)


def cut_tables(model: PreTrainedModel, places: Mapping[int, int]) -> None:
    """Keep these rows of the embeddings and of the head over the vocabulary, in place; the config follows."""
    _check_padding(model, places)
    kept_N = torch.tensor(sorted(places, key=lambda number: places[number]))
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(inputs, nn.Embedding)
    if int(kept_N.max()) >= inputs.num_embeddings:
        reason = f"the model has {inputs.num_embeddings} embeddings, and its tokenizer token {int(kept_N.max())}"
        raise BadInput([Problem(VOCABULARY_KEY, "used", reason, LEAVE_IT_OUT)])
    # Rows that stay go first; then transformers' own shortening keeps tied tables tied.
    _to_front(inputs.weight, kept_N)
    if outputs is not None:
        if outputs.weight is not inputs.weight:
            _to_front(outputs.weight, kept_N)
        if getattr(outputs, "bias", None) is not None:
            _to_front(outputs.bias, kept_N)
    model.resize_token_embeddings(len(places), mean_resizing=False)
    table: Any = model.get_input_embeddings()
    if table.padding_idx is not None:
        table.padding_idx = places.get(table.padding_idx)
    for config in (model.config, getattr(model, "generation_config", None)):
        if config is not None:
            _renumber_config(config, places)


def _check_padding(model: PreTrainedModel, places: Mapping[int, int]) -> None:
    """RoBERTa and its kin count positions from their padding id on: it must not move."""
    padding = first_position(model) - 1
    if padding >= 0 and places.get(padding) != padding:
        reason = f"{model.config.model_type} counts positions from its padding token's id, {padding}, which would change"
        raise BadInput([Problem(VOCABULARY_KEY, "used", reason, LEAVE_IT_OUT)])


def _to_front(table: Tensor, kept_N: Tensor) -> None:
    with torch.no_grad():
        table[: len(kept_N)] = table[kept_N.to(table.device)]


def _renumber_config(config: Any, places: Mapping[int, int]) -> None:
    """Every …_token_id of a config; one that names no token of the tokenizer has no meaning and is left out."""
    for key, value in config.to_dict().items():
        if key.endswith("_token_id") and isinstance(value, int):
            setattr(config, key, places.get(value))
        elif key.endswith("_token_id") and isinstance(value, list):
            setattr(config, key, [places[number] for number in value if number in places])


def _bytes(model: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())
