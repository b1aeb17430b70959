"""predict: a MODEL answers for all EXAMPLES once; its logits are the soft labels that every student learns from.

    ray job submit --working-dir . -- python -m jobs.predict jobs/recipes/spam.yaml --step soft

Ray Data runs `serve.engine` on a pool of actors, `resources.workers` of them.
"""

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from cluster.artifact import Artifact, File, Kind, write_by_content
from cluster.storage import filesystem
from jobs.core.cli import main
from jobs.core.config import Config
from jobs.core.stage import Context, Input, Inputs, Outcome, Stage

if TYPE_CHECKING:
    import pandas as pd

ROWS_PER_FILE = 50_000
BLOCKS_PER_WORKER = 4


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
    done = 0
    batch: Any
    for batch in answered.iter_batches(batch_format="pyarrow", batch_size=ROWS_PER_FILE):
        name, file = _write(batch, context.output)
        files[name] = file
        done += batch.num_rows
        context.report(rows=done)
    return Outcome(metrics={"rows": float(done)}, files=files)


def _write(table: Any, output: str) -> tuple[str, File]:
    import pyarrow.parquet as parquet

    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    return write_by_content(output, "logits", ".parquet", buffer.getvalue())


STAGE = Stage(
    name="predict",
    purpose="answer for a whole data set once with Ray Data (soft labels)",
    config=PredictConfig,
    run=run,
    inputs={"model": Input(Kind.MODEL, "the teacher"), "examples": Input(Kind.EXAMPLES, "the rows to answer for")},
    output=Kind.PREDICTIONS,
    version=1,
    headline=("rows",),
)

if __name__ == "__main__":
    main(STAGE)
