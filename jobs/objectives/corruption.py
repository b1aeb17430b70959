"""Span corruption (T5, Raffel et al. 2020): spans are taken out of a document, a sentinel in place of each; the decoder
says which sentinel stood for what.

    document   Thank you for inviting me to your party last week </s>
    encoder    Thank you <0> me to your party <1> week </s>
    decoder    <0> for inviting <1> last </s>

B batch, T tokens of a row, S tokens that the encoder reads, U tokens that the decoder writes.
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from cluster.store.artifact import Artifact
from jobs.contracts.learning import MISSING, Batch
from jobs.core.config import BadInput, Problem
from jobs.data.tokenizer import SENTINEL
from jobs.objectives.documents import PADDING
from jobs.objectives.language import LanguageObjective
from serve.engines.card import Language

MEAN_SPAN = 3.0


class SpanCorruption(LanguageObjective):
    """Each document of a row is corrupted by itself, and has sentinels from the first on.

    `start` is the token with which the model's decoder begins.
    """

    def __init__(self, tokens: Artifact, tokenizer: PreTrainedTokenizerBase, probability: float, start: int) -> None:
        super().__init__(tokens, tokenizer)
        self.probability, self.start = probability, start
        self.sentinels = sentinel_ids(tokenizer)
        end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        if not self.sentinels or end is None:
            reason = "the tokenizer has no sentinel tokens (<extra_id_0>, …)" if end is not None else "it has no end token"
            remedy = "Train one with tokenizer.sentinels: 100, or take a T5 model's."
            raise BadInput([Problem("objective", "span_corruption", reason, remedy)])
        self.end = int(end)
        if tokenizer.unk_token_id is not None:  # an unknown word is text: left out, it would tear a span apart
            self.special_V[tokenizer.unk_token_id] = False

    @property
    def learned(self) -> Language:
        """Spans taken out."""
        return Language(objective="span_corruption")

    def make(self, ids_BT: np.ndarray, generator: np.random.Generator) -> Batch:
        """Rows with spans taken out, and the spans."""
        documents_BT = self.documents(ids_BT)
        rows = [self._row(ids_T, of_T, generator) for ids_T, of_T in zip(ids_BT, documents_BT, strict=True)]
        names = ("input_ids", "documents", "decoder_input_ids", "decoder_documents", "labels")
        fills = (PADDING, PADDING, self.start, PADDING, MISSING)
        columns = zip(*rows, strict=True)
        return {name: _filled(values, fill) for name, values, fill in zip(names, columns, fills, strict=True)}

    def _row(self, ids_T: np.ndarray, documents_T: np.ndarray, generator: np.random.Generator) -> tuple[list[int], ...]:
        read: list[int] = []
        read_of: list[int] = []
        before: list[int] = []
        written: list[int] = []
        written_of: list[int] = []
        for document in np.unique(documents_T[documents_T != PADDING]).tolist():
            kept, taken = self._corrupt(ids_T[documents_T == document], generator)
            read += kept
            read_of += [document] * len(kept)
            before += [self.start, *taken[:-1]] if taken else []
            written += taken
            written_of += [document] * len(taken)
        return read, read_of, before, written_of, written

    def _corrupt(self, ids_T: np.ndarray, generator: np.random.Generator) -> tuple[list[int], list[int]]:
        """What is left of a document, and what was taken out of it (nothing, where it has less than two tokens of text)."""
        kept: list[int] = []
        taken: list[int] = []
        text = np.flatnonzero(~self.special_V[ids_T])
        span_T = np.full(len(ids_T), -1)
        span_T[text] = noise_spans(len(text), self.probability, len(self.sentinels), generator)
        last = -1
        for token, span in zip(ids_T.tolist(), span_T.tolist(), strict=True):
            if span < 0:
                kept.append(token)
                continue
            if span != last:
                kept.append(self.sentinels[span])
                taken.append(self.sentinels[span])
                last = span
            taken.append(token)
        return kept, [*taken, self.end] if taken else []


def noise_spans(length: int, probability: float, most: int, generator: np.random.Generator) -> np.ndarray:
    """For each token of a text the number of the span that it is taken out with, or -1.

    The share is exact to a token, spans are three tokens long on average, and never touch.
    """
    span_T = np.full(length, -1)
    if length < 2:
        return span_T
    # Rounded up as often as down, so that short documents have the same share as long ones.
    noise = int(np.clip(np.floor(length * probability + generator.random()), 1, length - 1))
    spans = int(np.clip(round(noise / MEAN_SPAN), 1, min(noise, length - noise + 1, most)))
    lengths = _parts(noise, spans, generator)
    # Between two spans at least one token stays; before the first and after the last there may be none.
    gaps = _parts(length - noise + 2, spans + 1, generator)
    place = gaps[0] - 1
    for number, (size, gap) in enumerate(zip(lengths, gaps[1:], strict=True)):
        span_T[place : place + size] = number
        place += size + gap
    return span_T


def _parts(total: int, count: int, generator: np.random.Generator) -> list[int]:
    """`total` divided at random into so many parts of at least one."""
    cuts = np.sort(generator.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff([0, *cuts, total]).tolist()


def sentinel_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The sentinels in the order of their numbers; empty where the tokenizer has none."""
    vocabulary = tokenizer.get_vocab()
    names = (SENTINEL.format(number) for number in range(len(vocabulary)))
    found: list[int] = []
    for name in names:
        if name not in vocabulary:
            break
        found.append(vocabulary[name])
    return found


def _filled(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    filled = torch.full((len(rows), max([1, *map(len, rows)])), fill)
    for number, row in enumerate(rows):
        filled[number, : len(row)] = torch.tensor(row, dtype=torch.long)
    return filled
