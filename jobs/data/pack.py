"""Packing: documents become one stream of tokens, the stream becomes rows of one length.

    bounds = document_bounds(tokenizer)                    # which token begins or ends each document
    ids_NT = pack(documents_of(texts, text_cutter(tokenizer), bounds), 128, bounds.pad, len(tokenizer))

Every document begins or ends with a token of its own, so that its bounds are found again in a row.

N rows, T tokens.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.store.artifact import File, write_by_content
from jobs.core.config import BadInput, Problem
from jobs.data.tokenizer import Cut

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Bounds:
    """The tokens that say where a document begins or ends, and what fills the last row up."""

    begin: int | None
    end: int | None
    pad: int
    appended: bool = False
    """Whether `end` is put there by prepare, because the tokenizer adds neither."""

    def details(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)

    @classmethod
    def from_details(cls, details: Mapping[str, Any]) -> "Bounds | None":
        """What a manifest says; None where it says nothing of documents."""
        return cls(**details["bounds"]) if "bounds" in details else None


def document_bounds(tokenizer: "PreTrainedTokenizerBase") -> Bounds:
    """How this tokenizer frames a text; BadInput where it neither does nor has an end token to frame it with."""
    ids = list(tokenizer("a")["input_ids"])
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    begin = ids[0] if len(ids) > 1 and ids[0] in special else None
    end = ids[-1] if len(ids) > 1 and ids[-1] in special else None
    appended = begin is None and end is None
    if appended:
        end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    if begin is None and end is None:
        reason = "it marks neither the beginning nor the end of a text, and has no token to do so"
        remedy = "Set eos_token or sep_token in its tokenizer_config.json."
        raise BadInput([Problem("tokenizer.model", tokenizer.name_or_path, reason, remedy)])
    # Any token will do where there is none for padding: an end token at the end is a document without text.
    pad = next(number for number in (tokenizer.pad_token_id, end, begin) if number is not None)
    return Bounds(begin, end, pad, appended)


def documents_of(texts: Sequence[str], cut: Cut, bounds: Bounds) -> list[list[int]]:
    """The tokens of each text, framed."""
    documents = cut(texts, True)
    return documents if not bounds.appended or bounds.end is None else [[*ids, bounds.end] for ids in documents]


def pack(documents: Iterable[Sequence[int]], length: int, pad: int, vocab_size: int) -> np.ndarray:
    """Rows ids_NT of the documents' tokens, end to end; only the last row is padded."""
    kind = row_type(vocab_size)
    parts = [np.asarray(document, dtype=kind) for document in documents]
    stream = np.concatenate(parts) if parts else np.empty(0, dtype=kind)
    rows = -(-len(stream) // length)
    ids_NT = np.full((rows, length), pad, dtype=kind)
    ids_NT.reshape(-1)[: len(stream)] = stream
    return ids_NT


def row_type(vocab_size: int) -> type[np.uint16] | type[np.int32]:
    """The smallest type that holds every id."""
    return np.uint16 if vocab_size <= 2**16 else np.int32


def write_rows(ids_NT: np.ndarray, output: str, directory: str) -> tuple[str, File]:
    """Write rows as one .npy file below the output, named by its content: (relative path, size and hash)."""
    buffer = io.BytesIO()
    np.save(buffer, ids_NT)
    return write_by_content(output, directory, ".npy", buffer.getvalue())
