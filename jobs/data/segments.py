"""Pairs of segments: each document's consecutive sentences become rows [CLS] A [SEP] B [SEP], padded.

    rows, left_out = pair_rows(sentences_of_each_document, length=128, cls=2, sep=3)

B goes on where A ends, and both are whole sentences, so that neither a row's length nor a cut sentence gives away
whether they were exchanged later. No row crosses a document.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jobs.core.config import BadInput, Problem
from jobs.data.pack import row_type
from jobs.data.tokenizer import Cut

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FRAME = 3
"""[CLS] and two [SEP]."""
_END = re.compile(r"""[.!?…]+["'”’)\]]*(?=\s)|[。！？…]+["'”’」』）]*|\n+""")


@dataclass(frozen=True)
class Frame:
    """The special tokens of a pair; no sentence has them inside."""

    cls: int
    sep: int
    pad: int


def pair_frame(tokenizer: "PreTrainedTokenizerBase") -> Frame:
    """The tokenizer's special tokens for pairs; BadInput where it lacks one."""
    names = {"cls_token": tokenizer.cls_token_id, "sep_token": tokenizer.sep_token_id, "pad_token": tokenizer.pad_token_id}
    missing = [name for name, number in names.items() if number is None]
    if missing:
        reason = f"the tokenizer has no {', '.join(missing)} to build pairs with"
        raise BadInput([Problem("segments", "pairs", reason, "Train a tokenizer, or take one of the BERT family.")])
    return Frame(*(int(number) for number in names.values()))


def sentence_tokens(text: str, cut: Cut) -> list[list[int]]:
    """The tokens of each sentence of a text."""
    return [ids for ids in cut(sentences(text), False) if ids]


def sentences(text: str) -> list[str]:
    """The sentences of an English or Chinese text: up to .!? before a space, 。！？, or the end of a line."""
    ends = [match.end() for match in _END.finditer(text)]
    pieces = (text[start:end].strip() for start, end in zip([0, *ends], [*ends, len(text)], strict=True))
    return [piece for piece in pieces if piece]


def pair_rows(documents: Iterable[Sequence[Sequence[int]]], length: int, frame: Frame) -> tuple[list[list[int]], int]:
    """The rows of documents given as sentences of tokens, and how many documents had too few sentences for any."""
    rows: list[list[int]] = []
    left_out = 0
    for document in documents:
        made = [_row(chunk, frame) for chunk in _chunks(document, length - FRAME)]
        rows += made
        left_out += not made
    return rows, left_out


def pad_rows(rows: Sequence[Sequence[int]], length: int, pad: int, vocab_size: int) -> np.ndarray:
    """ids_NT of rows that are no longer than `length`."""
    ids_NT = np.full((len(rows), length), pad, dtype=row_type(vocab_size))
    for number, row in enumerate(rows):
        ids_NT[number, : len(row)] = row
    return ids_NT


def _chunks(document: Sequence[Sequence[int]], room: int) -> list[list[Sequence[int]]]:
    """Runs of at least two consecutive sentences that fill the room as far as whole sentences do."""
    # A sentence of more than half the room is cut in parts, which count as sentences: two fit into any row.
    parts = [sentence[i : i + room // 2] for sentence in document for i in range(0, len(sentence), room // 2)]
    chunks: list[list[Sequence[int]]] = []
    size = room + 1
    for part in parts:
        if size + len(part) > room:
            chunks.append([])
            size = 0
        chunks[-1].append(part)
        size += len(part)
    if len(chunks) > 1 and len(chunks[-1]) == 1 and len(chunks[-2]) > 2:  # a last sentence alone gets company
        chunks[-1].insert(0, chunks[-2].pop())
    return [chunk for chunk in chunks if len(chunk) > 1]


def _row(chunk: Sequence[Sequence[int]], frame: Frame) -> list[int]:
    """[CLS] A [SEP] B [SEP], parted at the sentence end nearest the middle."""
    ends = np.cumsum([len(sentence) for sentence in chunk])
    cut = 1 + int(np.argmin(np.abs(ends[:-1] - ends[-1] / 2)))
    first = [token for sentence in chunk[:cut] for token in sentence]
    second = [token for sentence in chunk[cut:] for token in sentence]
    return [frame.cls, *first, frame.sep, *second, frame.sep]
