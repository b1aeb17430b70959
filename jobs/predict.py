"""predict: a MODEL answers for all EXAMPLES once; its logits are the soft labels that every student learns from.

    ray job submit --working-dir . -- python -m jobs.predict jobs/recipes/spam.yaml --step soft

With --model it answers for files instead, see jobs/offline/command.py:

    ray job submit --working-dir . -- python -m jobs.predict --model spam/production --input s3://bucket/*.csv --output …

Ray Data runs `serve.engine` on a pool of actors, `resources.workers` of them, each with `resources.gpus`. Logits are kept in
half precision unless that loses something.

B batch, C classes, N rows.
"""

import io
import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from cluster.artifact import Artifact, File, Kind, write_by_content
from cluster.storage import filesystem
from jobs.core.cli import main
from jobs.core.config import BadInput, Config, Problem
from jobs.core.stage import Context, Input, Inputs, Outcome, Stage
from serve.card import CARD

if TYPE_CHECKING:
    import pandas as pd

ROWS_PER_FILE = 50_000
BLOCKS_PER_WORKER = 4
LOST_IN_HALF = 1e-3
"""Logits are kept in single precision where half precision would move an answer by more than this (KL, in nats)."""


class PredictConfig(Config):
    """What is asked of the model."""

    splits: tuple[str, ...] = ("train", "validation")
    """The splits to answer for."""
    batch_size: int = Field(64, ge=1)
    """Texts that go through the model together."""


class Answer:
    """An actor that holds the model and answers for blocks of texts."""

    def __init__(self, model: Artifact, batch_size: int, threads: int) -> None:
        from serve.engine import load_engine

        self.engine = load_engine(model.local(), threads=threads, max_batch=batch_size)

    def __call__(self, frame: "pd.DataFrame") -> "pd.DataFrame":
        import pandas as pd

        logits_BC = self.engine.logits(frame["text"].tolist())
        return pd.DataFrame({"key": frame["key"].tolist(), "logits": list(logits_BC.astype(np.float32))})


def run(config: PredictConfig, inputs: Inputs, context: Context) -> Outcome:
    """Answer for the splits and write key and logits as Parquet."""
    import ray.data

    examples, model = inputs.one("examples"), inputs.one("model")
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    paths = [examples.file(path) for split in config.splits for path in examples.files(f"{split}/", ".parquet")]
    if not paths:
        reason = f"{examples.manifest.step} has no rows in these splits"
        raise BadInput([Problem("splits", list(config.splits), reason, "Name splits that are there.")])
    system = filesystem(examples.uri)[0]
    rows = ray.data.read_parquet(
        [filesystem(path)[1] for path in paths],
        filesystem=system,
        columns=["key", "text"],
    )
    # Read before the actors start: they may fill the cluster, and tasks that read would then wait for ever.
    rows = rows.repartition(BLOCKS_PER_WORKER * context.resources.workers).materialize()
    answered = rows.map_batches(
        Answer,
        fn_constructor_args=(model, config.batch_size, max(1, int(context.resources.cpus))),
        batch_format="pandas",
        batch_size=8 * config.batch_size,
        compute=ray.data.ActorPoolStrategy(size=context.resources.workers),
        num_cpus=context.resources.cpus,
        num_gpus=context.resources.gpus,
    )
    files: dict[str, File] = {}
    done, lost = 0, 0.0
    batch: Any
    for batch in answered.iter_batches(batch_format="pandas", batch_size=ROWS_PER_FILE):
        logits_NC, most = halved(np.stack(batch["logits"].tolist()))
        name, file = _write(batch["key"].tolist(), logits_NC, context.output)
        files[name] = file
        done, lost = done + len(batch), max(lost, most)
        context.report(rows=done)
    labels = json.loads((model.local([CARD]) / CARD).read_text())["labels"]
    return Outcome(metrics={"rows": float(done), "kl_lost": lost}, files=files, details={"labels": labels})


def halved(logits_NC: np.ndarray) -> tuple[np.ndarray, float]:
    """The logits in half precision, or as they are where that would lose something; and the most that an answer lost (KL)."""
    with np.errstate(over="ignore"):
        half_NC = logits_NC.astype(np.float16)
    if not np.isfinite(half_NC).all():
        return logits_NC, 0.0
    exact, kept = _log_shares(logits_NC), _log_shares(half_NC)
    most = float((np.exp(exact) * (exact - kept)).sum(-1).max(initial=0.0))
    return (half_NC, max(most, 0.0)) if most <= LOST_IN_HALF else (logits_NC, 0.0)


def _log_shares(logits_NC: np.ndarray) -> np.ndarray:
    shifted_NC = logits_NC.astype(np.float64)
    shifted_NC -= shifted_NC.max(-1, keepdims=True)
    return shifted_NC - np.log(np.exp(shifted_NC).sum(-1, keepdims=True))


def _write(keys: list[str], logits_NC: np.ndarray, output: str) -> tuple[str, File]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    starts = np.arange(0, logits_NC.size + 1, logits_NC.shape[1], dtype=np.int32)
    lists = pa.ListArray.from_arrays(pa.array(starts), pa.array(logits_NC.ravel()))
    buffer = io.BytesIO()
    parquet.write_table(pa.table({"key": keys, "logits": lists}), buffer)
    return write_by_content(output, "logits", ".parquet", buffer.getvalue())


STAGE = Stage(
    name="predict",
    purpose="answer with Ray Data for a whole data set (soft labels), or with --model for files of your own",
    config=PredictConfig,
    run=run,
    inputs={"model": Input(Kind.MODEL, "the teacher"), "examples": Input(Kind.EXAMPLES, "the rows to answer for")},
    output=Kind.PREDICTIONS,
    version=2,
    headline=("rows",),
)

if __name__ == "__main__":
    if any(argument.split("=")[0] == "--model" for argument in sys.argv[1:]):
        from jobs.offline.command import main as answer_for_files

        answer_for_files(sys.argv[1:])
    main(STAGE)
