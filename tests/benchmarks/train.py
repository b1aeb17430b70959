"""Training: this loop against transformers' Trainer, and under Ray Train against without it. `make bench BENCH=train`

Each pair trains the same model on the same data with the same batch, one thread each, in turns, in processes of their
own: the ratio is of that pair. The peers' scripts stand beside this file.
"""

import tempfile
from collections.abc import Iterator
from typing import Any

from tests.benchmarks import finetune_side, gpu, masked_rows, ray_overhead
from tests.benchmarks.peers import PAIRS, figure, ratio


def measures() -> Iterator[dict[str, Any]]:
    """Masked pretraining, torch.compile, fine-tuning, Ray Train, and GPUs where there are any."""
    yield from _masked()
    yield from _compiled()
    yield from _finetuning()
    yield from ray_overhead.measures()
    yield from gpu.measures()


def _masked() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as directory:
        masked_rows.publish_rows(directory)
        pairs = [[figure(f"tests.benchmarks.masked_{who}", directory) for who in ("loop", "trainer")] for _ in range(PAIRS)]
    yield ratio("masked_pretraining_against_trainer", 2.0, "tokens/s", pairs, threads=1)


def _compiled() -> Iterator[dict[str, Any]]:
    """The same pretraining with torch.compile against without, once it is compiled, and how long that takes."""
    side = "tests.benchmarks.masked_loop"
    with tempfile.TemporaryDirectory() as directory:
        masked_rows.publish_rows(directory)
        pairs = [[figure(side, directory, "compiled"), figure(side, directory)] for _ in range(PAIRS)]
        first = figure(side, directory, "compiling")
    yield ratio("compiled_pretraining_against_plain", 1.0, "tokens/s", pairs, threads=1, seconds_of_first_step=round(first, 1))


def _finetuning() -> Iterator[dict[str, Any]]:
    """Against the Trainer as it comes, and as fast as its arguments make it."""
    rounds = [[figure("tests.benchmarks.finetune_side", side) for side in finetune_side.SIDES] for _ in range(PAIRS)]
    data = {"threads": 1, "model": finetune_side.MODEL, "texts": finetune_side.TEXTS, "batch": finetune_side.BATCH}
    defaults = [(loop, plain) for loop, plain, _ in rounds]
    yield ratio("finetuning_against_trainer_defaults", 1.4, "texts/s", defaults, **data)
    best = [(loop, best) for loop, _, best in rounds]
    yield ratio("finetuning_against_trainer_best", 1.0, "texts/s", best, **data)
