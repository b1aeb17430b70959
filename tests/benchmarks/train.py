"""Masked pretraining of a 4×256 encoder with a 30k vocabulary: this loop against transformers' Trainer.

Both train the same architecture on the same packed tokens with the same batch, one thread each, in turns, in
processes of their own. The peer has its MLM collator, bf16 where this loop has it, and no evaluation or saving.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from cluster.artifact import Kind, publish

ROWS = "train/rows.npy"
PAIRS, STEPS, WARM_UP, BATCH, LENGTH, VOCABULARY = 3, 12, 3, 32, 128, 30_000


def measures() -> Iterator[dict[str, Any]]:
    """The ratio of tokens a second."""
    with tempfile.TemporaryDirectory() as directory:
        rows = np.random.default_rng(0).zipf(1.3, ((STEPS + WARM_UP) * BATCH, LENGTH)) % (VOCABULARY - 5) + 5
        _publish(rows.astype(np.uint16), directory)
        pairs = [[_run(who, directory) for who in ("loop", "trainer")] for _ in range(PAIRS)]
    ratios = [ours / theirs for ours, theirs in pairs]
    yield {
        "name": "masked_pretraining_against_trainer",
        "value": round(median(ratios), 3),
        "goal": 2.0,
        "better": "higher",
        "unit": "ratio of tokens/s",
        "detail": {"pairs_tokens_per_second": [[round(rate) for rate in pair] for pair in pairs], "threads": 1},
    }


def _publish(ids_NT: np.ndarray, uri: str) -> None:
    """Packed rows as prepare would leave them."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "train").mkdir()
        np.save(Path(scratch) / ROWS, ids_NT)
        made = {"kind": Kind.TOKENS, "step": "rows", "stage": "prepare", "stage_version": 1, "config": {}, "seconds": 0.0}
        publish(Path(scratch), uri, made | {"created": datetime.now(UTC)})


def _run(who: str, directory: str) -> float:
    """Tokens a second of one side, in a process of its own."""
    command = [sys.executable, "-m", f"tests.benchmarks.masked_{who}", directory]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{who} failed:\n{done.stderr[-2000:]}")
    return float(json.loads(done.stdout.splitlines()[-1]))
