"""evaluate: the teacher and all candidates are judged side by side, through the engine that would serve them.

    ray job submit --working-dir . -- python -m jobs.evaluate jobs/recipes/spam.yaml --step judged

Each variant (torch, onnx, int8, …) of each model is a candidate of its own. Latencies are taken in turns, so that
whatever else the machine does falls on all alike.
"""

import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from cluster.artifact import Artifact, Kind
from jobs.core.cli import main
from jobs.core.config import BadInput, Config, Problem
from jobs.core.controls import made_with
from jobs.core.stage import Context, Input, Inputs, Outcome, Stage
from jobs.front import front_of, pareto_front

if TYPE_CHECKING:
    from jobs.judging import Candidate

Count = Annotated[int, Field(ge=1)]
ROUNDS = 10
MATE_ROUNDS = 3
"""Times that texts are put into batches with other mates."""


class EvaluateConfig(Config):
    """What is measured."""

    split: Literal["test", "validation"] = "test"
    """The split that no candidate has learned from."""
    metric: Literal["macro_f1", "accuracy"] = "macro_f1"
    """The figure by which candidates are compared."""
    threads: tuple[Count, ...] = Field((1,), min_length=1)
    """CPU threads of the engine, the same for all; of a list the first. ONNX candidates on the front are also timed with the
    others, and deploy takes what suits the winner best."""
    batch_size: tuple[Count, ...] = Field((32,), min_length=1)
    """Texts in a batch where throughput is measured; of a list the first, as with threads."""
    latency_texts: int = Field(200, ge=20)
    """Single texts over which latency is measured, for each candidate, and how much an answer depends on batch mates."""
    resamples: int = Field(1000, ge=100)
    """Bootstrap resamples behind the 95 % interval of the score (Efron 1979)."""

    cascade: float | None = Field(None, gt=0)
    """Also put the teacher behind each candidate: the threshold that keeps this share of the teacher's score on
    validation, and quality and cost over thresholds."""

    @field_validator("threads", "batch_size", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value


def run(config: EvaluateConfig, inputs: Inputs, context: Context) -> Outcome:
    """Measure all candidates in one worker process; write report.json and, beside it, front.json."""
    import ray

    resources = context.resources
    remote = ray.remote(_evaluate).options(
        num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=resources.max_failures
    )
    report: dict[str, Any] = ray.get(remote.remote(config, inputs, context))
    for name, content in (("report.json", report), ("front.json", front_of(report))):
        (context.directory / name).write_text(json.dumps(content, ensure_ascii=False, indent=1))
    scores = {f"{row['candidate']}_{config.metric}": row["score"] for row in report["rows"]}
    return Outcome(metrics=scores)


def _evaluate(config: EvaluateConfig, inputs: Inputs, context: Context) -> dict[str, Any]:
    from jobs.data.loader import read_examples
    from jobs.data.rows import SLICE
    from jobs.judging import judge_quality, measure_batch_mates, measure_latency, measure_parity, measure_throughput
    from jobs.operating import operating_points
    from serve.memory import peak_memory

    table = read_examples(inputs.one("examples"), config.split)
    texts, labels = table["text"].to_pylist(), table["label"].to_pylist()
    columns = {name.removeprefix(SLICE): table[name].to_pylist() for name in table.column_names if name.startswith(SLICE)}
    if not texts:
        remedy = "Give prepare a test split (split.test, or a source for test)."
        raise BadInput([Problem("split", config.split, "the examples have no such split", remedy)])
    candidates = _candidates(config, inputs)
    for candidate in candidates:
        context.report(state=f"judging {candidate.name}")
        judge_quality(candidate, texts, labels, candidates[0], config.metric, config.resamples, columns)
        measure_batch_mates(candidate, texts, config.batch_size[0], config.latency_texts, MATE_ROUNDS)
    measure_parity(candidates)
    context.report(state="measuring memory")
    for candidate in candidates:
        held = peak_memory(candidate.artifact.local(), candidate.variant, config.threads[0], config.batch_size[0])
        candidate.figures["memory_bytes"] = held
    context.report(state="measuring latency")
    measure_latency(candidates, texts, config.latency_texts, ROUNDS)
    measure_throughput(candidates, texts, config.batch_size[0], ROUNDS)
    rows = [candidate.row(candidates[0]) | _origin(candidate.artifact) for candidate in candidates]
    if len(config.threads) > 1 or len(config.batch_size) > 1:
        context.report(state="measuring threads and batches")
        best = pareto_front(rows)
        front = [candidate for candidate in candidates if candidate.name in best]
        points = operating_points(front, texts, config.threads, config.batch_size, config.latency_texts, ROUNDS)
        rows = [row | ({"points": points[row["candidate"]]} if row["candidate"] in points else {}) for row in rows]
    if config.cascade is not None:
        context.report(state="measuring cascades")
        found = _cascades(config, config.cascade, inputs, candidates)
        rows[1:] = [row | {"cascade": cascade} for row, cascade in zip(rows[1:], found, strict=True)]
    return {
        "metric": config.metric,
        "labels": list(candidates[0].engine.card.labels),
        "split": config.split,
        "examples": len(texts),
        "conditions": {"threads": config.threads[0], "batch_size": config.batch_size[0], "cpu": cpu_name()},
        "rows": rows,
    }


def _cascades(config: EvaluateConfig, kept: float, inputs: Inputs, candidates: "list[Candidate]") -> list[dict[str, Any]]:
    """Of each candidate but the teacher: the threshold fitted on validation, what it brings there, and on the judged split."""
    from jobs.cascade import cascades_of
    from jobs.data.loader import read_examples

    validation, judged = (read_examples(inputs.one("examples"), split) for split in ("validation", config.split))
    if not validation.num_rows:
        remedy = "Give prepare a validation split (split.validation), or leave `cascade` out."
        raise BadInput([Problem("cascade", kept, "the threshold is fitted on validation, and there is none", remedy)])
    splits = [(table["text"].to_pylist(), table["label"].to_pylist()) for table in (validation, judged)]
    return cascades_of(candidates, splits, config.metric, kept)


def _candidates(config: EvaluateConfig, inputs: Inputs) -> "list[Candidate]":
    """The teacher as it was trained (torch, fp32), which is the yardstick; then every variant of the others."""
    from jobs.judging import Candidate
    from serve.card import read_card

    teacher = inputs.one("teacher")
    named = [(teacher, "torch")]
    named += [(one, name) for one in inputs.get("candidates", []) for name in read_card(one.local()).variants]
    return [Candidate.load(artifact, name, config.threads[0], config.batch_size[0]) for artifact, name in named]


def _origin(artifact: Artifact) -> dict[str, Any]:
    """What a candidate is and how it was made: its shape in words, and whether it was distilled or pruned."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(artifact.local())
    shape = f"{config.num_hidden_layers} × {config.hidden_size}"
    neurons = getattr(config, "intermediate_size", None)
    return {"shape": shape if neurons is None else f"{shape}, {neurons} neurons", "made": sorted(made_with(artifact))}


def cpu_name() -> str:
    """The processor as the operating system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def read_report(artifact: Artifact) -> dict[str, Any]:
    """The report.json of an evaluation."""
    return json.loads((artifact.local(["report.json"]) / "report.json").read_text())


STAGE = Stage(
    name="evaluate",
    purpose="judge all candidates through the serving engine on the test split",
    config=EvaluateConfig,
    run=run,
    inputs={
        "examples": Input(Kind.EXAMPLES, "labelled rows with a test split"),
        "teacher": Input(Kind.MODEL, "the yardstick"),
        "candidates": Input(Kind.MODEL, "the models to judge, with all their variants", many=True),
    },
    output=Kind.REPORT,
    version=4,
)

if __name__ == "__main__":
    main(STAGE)
