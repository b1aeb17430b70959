"""A tokenizer without the tokens that texts do not need, rebuilt from its tokenizer.json; it cuts these texts as before.

kept = needed_tokens(description, counts)             # description: what tokenizer.json says
smaller, places = without_others(description, kept)   # places: old id → new id
"""

import copy
import json
from collections.abc import Mapping
from typing import Any

from tokenizers import pre_tokenizers

from jobs.core.config import BadInput, Problem

SPACE = "▁"
"""How Metaspace writes a space at a token's beginning."""
BYTE = "<0x{:02X}>"
"""The tokens of single bytes that some tokenizers fall back to."""


def needed_tokens(description: Mapping[str, Any], counts: Mapping[str, int], least: int = 1) -> set[str]:
    """The tokens that must stay: those that occur so often, special ones, and what they are put together from.

    Single characters of all texts stay too, so that a text that was not seen is cut into smaller pieces, not lost.
    """
    vocabulary = token_ids(description)
    special = {token["content"] for token in description.get("added_tokens") or ()}
    kept = special | {token for token, count in counts.items() if count >= least}
    model = description["model"]
    unknown = model.get("unk_token")
    kept |= {unknown} if unknown is not None else set()
    kept |= {BYTE.format(number) for number in range(256)}
    kind = model_kind(description)
    prefix = model.get("continuing_subword_prefix") or ""
    seen = {token for token in counts if token not in special}
    kept |= _characters(seen, prefix)
    if kind == "BPE":
        kept |= _alphabet(description)
        kept = _with_parts(kept & set(vocabulary), merges_of(model), prefix)
    elif kind == "Unigram":
        kept.add(_unknown_of_unigram(model))
        # An unknown character costs 10 more than the least likely token: without that one, texts would be cut otherwise.
        kept.add(min(model["vocab"], key=lambda piece: piece[1])[0])
    return kept & set(vocabulary)


def without_others(description: Mapping[str, Any], kept: set[str]) -> tuple[dict[str, Any], dict[int, int]]:
    """The description with only these tokens, numbered anew in their old order; and each kept token's old and new id."""
    old = {token: number for token, number in token_ids(description).items() if token in kept}
    places = {number: place for place, number in enumerate(sorted(set(old.values())))}
    made = copy.deepcopy(dict(description))
    model = made["model"]
    if model_kind(description) == "Unigram":
        if model.get("unk_id") is not None:
            model["unk_id"] = places[model["unk_id"]]
        model["vocab"] = [piece for piece in model["vocab"] if piece[0] in kept]
    else:
        model["vocab"] = {token: places[number] for token, number in model["vocab"].items() if token in kept}
    if model_kind(description) == "BPE":
        prefix = model.get("continuing_subword_prefix") or ""
        pairs = zip(model["merges"], merges_of(model), strict=True)
        model["merges"] = [raw for raw, (left, right) in pairs if {left, right, _joined(left, right, prefix)} <= kept]
    for token in made.get("added_tokens") or ():
        token["id"] = places[token["id"]]
    if made.get("padding"):
        made["padding"]["pad_id"] = places[made["padding"]["pad_id"]]
    if made.get("post_processor"):
        _renumber(made["post_processor"], places)
    return made, places


def token_ids(description: Mapping[str, Any]) -> dict[str, int]:
    """Every token's id."""
    vocabulary = description["model"]["vocab"]
    pairs = ((piece[0], number) for number, piece in enumerate(vocabulary))
    ids = dict(pairs) if isinstance(vocabulary, list) else dict(vocabulary)
    return ids | {token["content"]: token["id"] for token in description.get("added_tokens") or ()}


def model_kind(description: Mapping[str, Any]) -> str:
    """WordPiece, WordLevel, BPE or Unigram; BadInput for any other."""
    kind = description["model"].get("type")
    if kind not in ("WordPiece", "WordLevel", "BPE", "Unigram"):
        reason = f"it is not known how a tokenizer of the kind {kind} cuts texts"
        raise BadInput([Problem("vocabulary", "used", reason, "Leave it out for this model.")])
    return kind


def merges_of(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The pairs that BPE merges, in their order; older files write them as one string."""
    return [tuple(pair.split(" ", 1)) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]  # type: ignore[misc]


def partial_pieces(word: str, vocabulary: set[str], prefix: str) -> set[str]:
    """The pieces that WordPiece finds in a word before it gives it up as unknown: without them it would find others."""
    found, start = set[str](), 0
    while start < len(word):
        begin = prefix if start else ""
        ends = (end for end in range(len(word), start, -1) if begin + word[start:end] in vocabulary)
        end = next(ends, None)
        if end is None:
            break
        found.add(begin + word[start:end])
        start = end
    return found


def _characters(tokens: set[str], prefix: str) -> set[str]:
    """The characters of these tokens as tokens, at a word's beginning and within it."""
    plain = {token[len(prefix) :] if prefix and token.startswith(prefix) else token for token in tokens}
    characters = {character for token in plain for character in token}
    return characters | {prefix + character for character in characters} | {SPACE}


def _alphabet(description: Mapping[str, Any]) -> set[str]:
    """All bytes as byte-level tokenizers write them: any text can be said with them."""
    rules = json.dumps({key: value for key, value in description.items() if key not in ("model", "added_tokens")})
    return set(pre_tokenizers.ByteLevel.alphabet()) if '"ByteLevel"' in rules else set()


def _with_parts(tokens: set[str], merges: list[tuple[str, str]], prefix: str) -> set[str]:
    """These tokens and all those that merges put them together from.

    With every merge that a text went through kept, and their order, each next merge is the one that was next before.
    """
    made_from: dict[str, list[tuple[str, str]]] = {}
    for left, right in merges:
        made_from.setdefault(_joined(left, right, prefix), []).append((left, right))
    kept, open_ends = set[str](), list(tokens)
    while open_ends:
        token = open_ends.pop()
        if token not in kept:
            kept.add(token)
            open_ends += [part for pair in made_from.get(token, ()) for part in pair]
    return kept


def _joined(left: str, right: str, prefix: str) -> str:
    return left + (right[len(prefix) :] if prefix and right.startswith(prefix) else right)


def _unknown_of_unigram(model: Mapping[str, Any]) -> str:
    return model["vocab"][model.get("unk_id") or 0][0]


def _renumber(processor: dict[str, Any], places: Mapping[int, int]) -> None:
    """New ids in what puts special tokens around a text."""
    for inner in processor.get("processors") or ():
        _renumber(inner, places)
    if isinstance(processor.get("special_tokens"), dict):
        for named in processor["special_tokens"].values():
            named["ids"] = [places[number] for number in named["ids"]]
    for side in ("sep", "cls"):
        if isinstance(processor.get(side), list):
            token, number = processor[side]
            processor[side] = [token, places[number]]
