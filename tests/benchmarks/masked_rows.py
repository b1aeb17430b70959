"""The packed rows that both sides of the masked pretraining benchmark read, and the tokenizer of their words."""

import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from cluster.store.artifact import Kind, publish
from jobs.data.tokenizer import SPECIAL_TOKENS

ROWS = "train/rows.npy"
STEPS, WARM_UP, BATCH, LENGTH, VOCABULARY = 12, 3, 32, 128, 30_000
FIRST, LAST = 2, 3
DOCUMENT = 60
"""Tokens of a document, about."""


def publish_rows(directory: str, rows: int = (STEPS + WARM_UP) * BATCH, length: int = LENGTH) -> None:
    """TOKENS as prepare leaves them: documents end to end, with their first and last token, words by Zipf's law."""
    generator = np.random.default_rng(0)
    ids_NT = generator.zipf(1.3, (rows, length)) % (VOCABULARY - 5) + 5
    ends = generator.random(ids_NT.shape) < 1 / DOCUMENT
    ids_NT[ends] = LAST
    ids_NT[:, 1:][ends[:, :-1]] = FIRST
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "train").mkdir()
        np.save(Path(scratch) / ROWS, ids_NT.astype(np.uint16))
        made = {"kind": Kind.TOKENS, "step": "rows", "stage": "prepare", "stage_version": 1, "config": {}, "seconds": 0.0}
        make_tokenizer().save_pretrained(Path(scratch) / "tokenizer")
        bounds = {"begin": FIRST, "end": LAST, "pad": 0}
        details = {"max_length": length, "segments": "packed", "bounds": bounds}
        publish(Path(scratch), directory, made | {"created": datetime.now(UTC), "details": details})


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word for each number."""
    special = dict.fromkeys(SPECIAL_TOKENS.values())
    words = [*special, *(f"w{number}" for number in range(VOCABULARY - len(special)))]
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, **SPECIAL_TOKENS)
