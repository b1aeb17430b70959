"""Share of a GPU's peak (MFU) in bf16 pretraining: BERT-base at 512 tokens, GPT-2 at 1024. Nothing where there is no GPU.

python -m tests.benchmarks.gpu masked|causal [SHAPE]      one run; prints its share (or, without a GPU, its tokens a second)
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch

from tests.benchmarks import masked_rows
from tests.benchmarks.peers import PAIRS, Clock, figure

STEPS, SKIPPED = 60, 2
RUNS: dict[str, dict[str, Any]] = {
    "masked": {"architecture": "bert", "length": 512, "batch_size": 64},
    "causal": {"architecture": "gpt2", "length": 1024, "batch_size": 32},
}
BASE_SIZE = {"layers": 12, "hidden": 768, "heads": 12, "dropout": 0.0}


def measures() -> Iterator[dict[str, Any]]:
    """One share for each kind of pretraining."""
    if not torch.cuda.is_available():
        return
    for kind, run in RUNS.items():
        shares = [figure("tests.benchmarks.gpu", kind) for _ in range(PAIRS)]
        detail = {**BASE_SIZE, **run, "runs": shares, "gpu": torch.cuda.get_device_name()}
        shared = {"goal": 0.5, "better": "higher", "unit": "share of the GPU's bf16 peak", "detail": detail}
        yield {"name": f"mfu_{kind}_pretraining", "value": round(median(shares), 3), **shared}


class Speeds(Clock):
    """Hooks that keep the figures of speed."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[dict[str, float]] = []

    def progress(self, figures: dict[str, float]) -> None:
        self.told.append(figures)


def main() -> None:
    """Print the median share over the run, the first figures left out."""
    from cluster.store.artifact import open_artifact
    from jobs.core.stage import Inputs
    from jobs.pretrain import PretrainConfig, build
    from jobs.training.loop import fit

    kind = sys.argv[1]
    run, size = RUNS[kind], json.loads(sys.argv[2]) if len(sys.argv) > 2 else BASE_SIZE
    steps = STEPS if torch.cuda.is_available() else 3 * SKIPPED
    with tempfile.TemporaryDirectory() as directory:
        masked_rows.publish_rows(directory, rows=steps * run["batch_size"], length=run["length"])
        config = PretrainConfig.model_validate(
            {"objective": kind, "model": {"architecture": run["architecture"], **size}, "batch_size": run["batch_size"]}
            | {"epochs": 1, "precision": "bf16"}
        )
        model, learner = build(config, Inputs(tokens=[open_artifact(directory)]))
        fit(model, learner, config, speeds := Speeds())
    name = "mfu" if "mfu" in speeds.told[-1] else "tokens_per_second"
    print(json.dumps(median(figures[name] for figures in speeds.told[SKIPPED:])))


if __name__ == "__main__":
    main()
