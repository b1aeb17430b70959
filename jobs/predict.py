"""predict: a MODEL answers for all EXAMPLES or TOKENS once; its answers are the soft labels that every student learns from.

    ray job submit --working-dir . -- python -m jobs.predict jobs/recipes/spam.yaml --step soft

With --model it answers for files instead, see jobs/offline/command.py:

    ray job submit --working-dir . -- python -m jobs.predict --model spam/production --input s3://bucket/*.csv --output …

Ray Data runs `serve.engine` on a pool of actors, `resources.workers` of them, each with `resources.gpus`. Logits are kept in
half precision unless that loses something. A language model's answers for TOKENS are the likeliest ones at each target and
what is left for all others (jobs/objectives/answering.py).

B batch, C classes, N rows.
"""

import io
import json
import sys
from typing import TYPE_CHECKING, Any, Literal

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
TOKEN_ROWS_PER_FILE = 4_000
BLOCKS_PER_WORKER = 4
LOST_IN_HALF = 1e-3
"""Logits are kept in single precision where half precision would move an answer by more than this (KL, in nats)."""


class Language(Config):
    """What is asked of a language model, for each row of its training tokens."""

    top_k: int = Field(8, ge=1)
    """The likeliest tokens that are kept for each target."""
    temperature: float = Field(1.0, gt=0, le=100)
    """Their logits are divided by it; the student learns at this same temperature."""
    mask_probability: float = Field(0.15, gt=0, lt=1)
    """masked: share of the tokens to predict, as in pretrain."""
    masking: Literal["tokens", "whole_words", "spans"] = "tokens"
    """masked: what is hidden at once, as in pretrain."""
    draws: int = Field(1, ge=1)
    """masked: so many maskings of each row are answered for; the student sees one of them each time."""
    seed: int = Field(0, ge=0)
    """masked: what the maskings are drawn from."""


class PredictConfig(Config):
    """What is asked of the model."""

    splits: tuple[str, ...] = ("train", "validation")
    """Examples: the splits to answer for. Of tokens only train is, as nothing else is learned from."""
    batch_size: int = Field(64, ge=1)
    """Texts, or rows of tokens, that go through the model together."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """What a model in torch computes in; auto: bf16 where the hardware does, as in training, else fp32."""
    language: Language = Language()
    """With inputs.tokens: what is asked of a language model."""


class Answer:
    """An actor that holds the model and answers for blocks of texts."""

    def __init__(self, model: Artifact, batch_size: int, threads: int, precision: str) -> None:
        from serve.engine import load_engine

        self.engine, self.precision = load_engine(model.local(), threads=threads, max_batch=batch_size), precision

    def __call__(self, frame: "pd.DataFrame") -> "pd.DataFrame":
        import pandas as pd

        from jobs.training.parallel import computing_in

        with computing_in(self.precision):
            logits_BC = self.engine.logits(frame["text"].tolist())
        return pd.DataFrame({"key": frame["key"].tolist(), "logits": list(logits_BC.astype(np.float32))})


def run(config: PredictConfig, inputs: Inputs, context: Context) -> Outcome:
    """Answer for the splits and write key and logits as Parquet."""
    import ray.data

    given = [name for name in ("examples", "tokens") if inputs.get(name)]
    if len(given) != 1:
        reason = f"a model answers for examples or for tokens, and {len(given)} of them are given"
        raise BadInput([Problem("inputs", given, reason, "Give inputs.examples or inputs.tokens.")])
    if given == ["tokens"]:
        return _answer_tokens(config, inputs, context)
    examples, model = inputs.one("examples"), inputs.one("model")
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    paths = [examples.file(path) for split in config.splits for path in examples.files(f"{split}/", ".parquet")]
    if not paths:
        reason = f"{examples.manifest.step} has no rows in these splits"
        raise BadInput([Problem("splits", list(config.splits), reason, "Name splits that are there.")])
    system = filesystem(examples.uri)[0]
    rows = ray.data.read_parquet([filesystem(path)[1] for path in paths], filesystem=system).select_columns(["key", "text"])
    # Read before the actors start: they may fill the cluster, and tasks that read would then wait for ever.
    rows = rows.repartition(BLOCKS_PER_WORKER * context.resources.workers).materialize()
    answered = rows.map_batches(
        Answer,
        fn_constructor_args=(model, config.batch_size, max(1, int(context.resources.cpus)), config.precision),
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


def _answer_tokens(config: PredictConfig, inputs: Inputs, context: Context) -> Outcome:
    """Answer for every training row and write what is likely at each target."""
    import ray.data

    from jobs.data.loader import TokenRows
    from jobs.objectives.answering import AnswerTokens
    from jobs.objectives.distilled import SOFT

    model, tokens, asked = inputs.one("model"), inputs.one("tokens"), config.language
    settings = {"objective": _objective(model, asked), **asked.model_dump()}
    if settings["objective"] == "causal":
        settings["draws"] = 1
    rows = len(TokenRows(tokens, "train")) * settings["draws"]
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    answered = ray.data.range(rows, override_num_blocks=BLOCKS_PER_WORKER * context.resources.workers).map_batches(
        AnswerTokens,
        fn_constructor_args=(model, tokens, settings, max(1, int(context.resources.cpus)), config.precision),
        batch_format="numpy",
        batch_size=config.batch_size,
        compute=ray.data.ActorPoolStrategy(size=context.resources.workers),
        num_cpus=context.resources.cpus,
        num_gpus=context.resources.gpus,
    )
    files: dict[str, File] = {}
    figures = {"rows": 0.0, "targets": 0.0, "left_out": 0.0}
    batch: Any
    for place, batch in enumerate(answered.iter_batches(batch_format="numpy", batch_size=TOKEN_ROWS_PER_FILE)):
        rest_N = np.concatenate(list(batch["log_rest"])).astype(np.float64)
        name, file = _write_table(batch, f"{SOFT}{place:05d}", context.output)
        files[name] = file
        for key, more in (("rows", len(batch["number"])), ("targets", len(rest_N)), ("left_out", np.exp(rest_N).sum())):
            figures[key] += float(more)
        context.report(**figures)
    figures["left_out"] /= max(1.0, figures["targets"])
    return Outcome(metrics=figures, files=files, details={"language": settings, "tokens": tokens.fingerprint})


def _objective(model: Artifact, asked: Language) -> str:
    """masked or causal, by the model; BadInput for others."""
    from transformers import AutoConfig

    from jobs.training.models import language_kind

    config = AutoConfig.from_pretrained(model.local(["config.json"]))
    named = next(iter(config.architectures or ()), config.model_type)
    objective = "causal" if language_kind(config) == "causal" else "masked" if named.endswith("ForMaskedLM") else None
    if objective is None:
        reason = f"a {named} neither fills in hidden tokens nor says the next one"
        raise BadInput([Problem("inputs.model", model.manifest.step, reason, "Use a masked or a causal model from pretrain.")])
    if asked.top_k > config.vocab_size:
        reason = f"the model knows {config.vocab_size} tokens"
        raise BadInput([Problem("language.top_k", asked.top_k, reason, "Lower it: 8 to 64 are usual.")])
    return objective


def _write_table(batch: dict[str, np.ndarray], name: str, output: str) -> tuple[str, File]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    types = {"ids": pa.int32(), "log_shares": pa.float16(), "log_rest": pa.float16()}
    columns = {"number": pa.array(batch["number"])}
    for key, kind in types.items():
        starts = np.concatenate([[0], np.cumsum([len(values) for values in batch[key]])]).astype(np.int32)
        columns[key] = pa.ListArray.from_arrays(pa.array(starts), pa.array(np.concatenate(list(batch[key])), kind))
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns), buffer)
    return write_by_content(output, name, ".parquet", buffer.getvalue())


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
    inputs={
        "model": Input(Kind.MODEL, "the teacher"),
        "examples": Input(Kind.EXAMPLES, "the rows to answer for", optional=True),
        "tokens": Input(Kind.TOKENS, "text to answer for, in place of rows: a language model's", optional=True),
    },
    output=Kind.PREDICTIONS,
    version=4,
    headline=("rows",),
)

if __name__ == "__main__":
    if any(argument.split("=")[0] == "--model" for argument in sys.argv[1:]):
        from jobs.offline.command import main as answer_for_files

        answer_for_files(sys.argv[1:])
    main(STAGE)
