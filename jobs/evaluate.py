"""evaluate: the teacher and all candidates are judged side by side, through the engine that would serve them.

    ray job submit --working-dir . -- python -m jobs.evaluate jobs/recipes/spam.yaml --step judged

Each variant (torch, onnx, int8, …) of each model is a candidate of its own; the teacher is their yardstick. Latencies are
taken in turns, so that whatever else the machine does falls on all alike. With `inputs: {against: spam/production}` the model
that this alias points at is judged on the same rows too, and each candidate is compared with it.

The cheapest model of the kind (`inputs.floor`, which a step `floor` makes unless the recipe says `floor: false`) is judged
like them, and one sentence says what the teacher is worth above it.
Figures hold for one kind of processor: `for: avx2` names it, and the report of another kind is another report.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator

from cluster.store.artifact import Kind
from jobs.core.config import BadInput, Config, Problem
from jobs.core.metric import Metric
from jobs.core.stage import Context, Implied, Input, Inputs, Outcome, Preflight, Stage
from jobs.judging.controls import made_with
from jobs.judging.pareto import front_of, pareto_front
from jobs.judging.results import AGAINST_FLOOR
from jobs.running.cli import main
from jobs.running.floorless import no_floor
from jobs.tasks import spec_of
from jobs.tasks.checks import no_such_figure
from serve.engines import processor
from serve.engines.processor import ProcessorKind
from serve.tasks.protocol import Task

if TYPE_CHECKING:
    from jobs.contracts.learning import Learning
    from jobs.judging.quality import Candidate, Rows

Count = Annotated[int, Field(ge=1)]
MATE_ROUNDS = 3
"""Times that texts are put into batches with other mates."""


class EvaluateConfig(Config):
    """What is measured."""

    model_config = ConfigDict(serialize_by_alias=True)

    judged_for: ProcessorKind = Field(alias="for", default_factory=processor.kind)
    """The kind of processor that answers will be served on, and so is measured on: amx+bf16, vnni+bf16, vnni, avx2 (x86
    without VNNI), i8mm+bf16, i8mm, dotprod, neon. Default: that of the host which drives the pipeline. A report for another
    kind is another report: it is made anew, on a host of that kind, and refused where there is none."""
    split: Literal["test", "validation"] = "test"
    """The split that no candidate has learned from."""
    metric: str | None = None
    """The figure by which candidates are compared, one of the task's (default: its first); of classification also weighted_f1,
    mcc, auc, log_loss, f2 (any beta), top_2 (any number), or `recall spam`: precision, recall or f1 of a label."""
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

    from jobs.judging.hosts import strategy_for

    resources = context.resources
    remote = ray.remote(_evaluate).options(
        num_cpus=resources.cpus,
        num_gpus=resources.gpus,
        max_retries=resources.max_failures,
        scheduling_strategy=strategy_for(config.judged_for, resources.cpus, resources.gpus),
    )
    report: dict[str, Any] = ray.get(remote.remote(config, inputs, context))
    for name, content in (("report.json", report), ("front.json", front_of(report))):
        (context.directory / name).write_text(json.dumps(content, ensure_ascii=False, indent=1))
    scores = {f"{row['candidate']}_{report['metric']}": row["score"] for row in report["rows"]}
    if "floor" not in report:
        return Outcome(metrics=scores)
    print(report["floor"]["verdict"], flush=True)
    return Outcome(metrics=scores, details={AGAINST_FLOOR: report["floor"]["verdict"]})


def _evaluate(config: EvaluateConfig, inputs: Inputs, context: Context) -> dict[str, Any]:
    from jobs.judging.hosts import refuse_another_kind
    from jobs.judging.operating_points import measure_operating_points
    from jobs.judging.quality import ROUNDS

    refuse_another_kind(config.judged_for)
    candidates = _candidates(config, inputs)
    yardstick, production = candidates[0], _production(config, inputs, candidates[0])
    metric, rows = _metric(config, yardstick.learning, yardstick.task), _rows(config, inputs, yardstick)
    _measure(config, context, candidates, rows, metric, production)
    found = [candidate.row(yardstick) | _origin(candidate) for candidate in candidates]
    against = _compare(config, inputs, found, candidates, production, metric)
    against |= _above_floor(inputs, found, candidates, production, metric, len(rows.items))
    if len(config.threads) > 1 or len(config.batch_size) > 1:
        context.report(state="measuring threads and batches")
        best = pareto_front(found, mode=metric.mode)
        front = [candidate for candidate in candidates if candidate.name in best]
        points = measure_operating_points(front, rows.items, config.threads, config.batch_size, config.latency_texts, ROUNDS)
        found = [row | ({"points": points[row["candidate"]]} if row["candidate"] in points else {}) for row in found]
    if config.cascade is not None:
        context.report(state="measuring cascades")
        cascades = _cascades(config, config.cascade, inputs, candidates, rows, metric)
        found[1:] = [row | {"cascade": cascade} for row, cascade in zip(found[1:], cascades, strict=True)]
    labels = yardstick.task.sayings if yardstick.task.view == "labels" else ()
    return {
        "kind": yardstick.task.kind,
        "task": yardstick.task.model_dump(mode="json"),
        "fields": list(yardstick.task.fields),
        "metric": metric.name,
        "mode": metric.mode,
        "figures": {one.name: one.short for one in yardstick.learning.metrics_of(yardstick.task)},
        "yardstick": yardstick.name,
        **({"labels": list(labels)} if labels else {}),
        "split": config.split,
        "examples": len(rows.items),
        "conditions": _conditions(config),
        "rows": found,
        **against,
    }


def _conditions(config: EvaluateConfig) -> dict[str, Any]:
    """Under which speed is measured: part of what the figures mean."""
    told = {"threads": config.threads[0], "batch_size": config.batch_size[0], "cpu": processor.described()}
    return told | {"processor": str(processor.kind())}


def _measure(
    config: EvaluateConfig,
    context: Context,
    candidates: "list[Candidate]",
    rows: "Rows",
    metric: Metric,
    production: "Candidate | None",
) -> None:
    """Quality, steadiness, memory and speed, which the candidates keep, and what is in production beside them."""
    from jobs.judging.quality import (
        ROUNDS,
        judge_quality,
        measure_batch_mates,
        measure_latency,
        measure_parity,
        measure_throughput,
    )
    from serve.engines.memory import peak_memories

    threads, batch_size = config.threads[0], config.batch_size[0]
    every = candidates if production is None else [*candidates, production]
    subjects = [(candidate.artifact.local(), candidate.variant) for candidate in every]
    with ThreadPoolExecutor(1) as beside:
        # In processes of their own; whatever is timed waits for them.
        memories = beside.submit(peak_memories, subjects, threads, batch_size)
        for candidate in every:
            context.report(state=f"judging {candidate.name}")
            judge_quality(candidate, rows, candidates[0], metric, config.resamples)
            candidate.figures |= candidate.cut_texts(rows.items)
            measure_batch_mates(candidate, rows.items, batch_size, config.latency_texts, MATE_ROUNDS)
        measure_parity(candidates)
        context.report(state="measuring memory")
        for candidate, held in zip(every, memories.result(), strict=True):
            candidate.figures["memory_bytes"] = held
    context.report(state="measuring latency")
    measure_latency(every, rows.items, config.latency_texts, ROUNDS)
    measure_throughput(every, rows.items, batch_size, ROUNDS)


def _metric(config: EvaluateConfig, learning: "Learning", task: Task) -> Metric:
    """The figure to compare by; BadInput where the task has none such."""
    try:
        return learning.metric(task, config.metric)
    except KeyError as error:
        raise BadInput([no_such_figure(learning, learning.metrics_of(task), str(config.metric), error)]) from None


def _rows(config: EvaluateConfig, inputs: Inputs, yardstick: "Candidate") -> "Rows":
    """The rows to judge by; BadInput where the split has none."""
    from jobs.judging.quality import Rows

    rows = Rows.read(inputs.one("examples"), config.split, yardstick.task)
    if not rows.items:
        remedy = "Give prepare a test split (split.test, or a source for test)."
        raise BadInput([Problem("split", config.split, "the examples have no such split", remedy)])
    return rows


def _cascades(
    config: EvaluateConfig, kept: float, inputs: Inputs, candidates: "list[Candidate]", rows: "Rows", metric: Metric
) -> list[dict[str, Any]]:
    """Of each candidate but the teacher: the threshold fitted on validation, what it brings there, and on the judged split."""
    from jobs.judging.cascade_threshold import cascades_of
    from jobs.judging.quality import Rows

    validation = Rows.read(inputs.one("examples"), "validation", candidates[0].task)
    if not validation.items:
        remedy = "Give prepare a validation split (split.validation), or leave `cascade` out."
        raise BadInput([Problem("cascade", kept, "the threshold is fitted on validation, and there is none", remedy)])
    return cascades_of(candidates, validation, rows, metric, kept)


def _candidates(config: EvaluateConfig, inputs: Inputs) -> "list[Candidate]":
    """The teacher as it was trained, which is the yardstick; then every variant of the others."""
    from jobs.judging.quality import Candidate, check_tasks, variants_of

    teacher = inputs.one("teacher")
    named = [(teacher, variants_of(teacher)[0])]
    others = inputs.get("candidates", [])
    judged = {one.fingerprint for one in [teacher, *others]}  # A floor may be named among the candidates too.
    others = [*others, *(one for one in inputs.get("floor", []) if one.fingerprint not in judged)]
    named += [(one, name) for one in others for name in variants_of(one)]
    found = [Candidate.load(artifact, name, config.threads[0], config.batch_size[0]) for artifact, name in named]
    check_tasks(found, spec_of(inputs.one("examples")))
    return found


def _production(config: EvaluateConfig, inputs: Inputs, yardstick: "Candidate") -> "Candidate | None":
    """What the alias points at; None where it points at nothing yet. BadInput where its answers are to another question."""
    from jobs.judging.quality import Candidate

    pointed = inputs.pointed.get("against")
    if pointed is None:
        if "against" in inputs:
            print("inputs.against: the alias points at nothing yet, so that there is nothing to compare with", flush=True)
        return None
    found = Candidate.load(inputs.one("against"), pointed.variant, config.threads[0], config.batch_size[0])
    if reason := yardstick.task.unlike(found.task):
        reason = f"its answers cannot be compared with those of {yardstick.name}: {reason}"
        remedy = "Leave it out of this run, and look at the report before you deploy: the task has changed."
        raise BadInput([Problem("inputs.against", pointed.alias, reason, remedy)])
    return replace(found, name=pointed.alias)


def _compare(
    config: EvaluateConfig,
    inputs: Inputs,
    found: list[dict[str, Any]],
    candidates: "list[Candidate]",
    production: "Candidate | None",
    metric: Metric,
) -> dict[str, Any]:
    """Each candidate's row is told how it compares with what is in production, whose row is given back."""
    from jobs.data.training_rows import read_examples
    from jobs.judging.against import compared, learned_rows

    if production is None:
        return {}
    for row, candidate in zip(found, candidates, strict=True):
        row["against"] = compared(candidate, production, metric)
    learned = learned_rows(production.artifact, read_examples(inputs.one("examples"), config.split)["key"].to_pylist())
    if learned:
        print(f"{production.name} has learned from {learned} of these rows, and looks better by them than it is", flush=True)
    return {"against": production.row(candidates[0]) | {"learned_rows": learned}}


def _above_floor(
    inputs: Inputs,
    found: list[dict[str, Any]],
    candidates: "list[Candidate]",
    production: "Candidate | None",
    metric: Metric,
    count: int,
) -> dict[str, Any]:
    """The floor's rows are marked, and what all else is worth above it is told, where there is one."""
    from jobs.judging.floor_verdict import against_floor, what_it_is

    floor = inputs.maybe("floor")
    own = [] if floor is None else [one.artifact.fingerprint == floor.fingerprint for one in candidates]
    if not any(own[1:]):
        return {}  # There is none, or it is the yardstick itself.
    found[:] = [row | ({"floor": True} if is_floor else {}) for row, is_floor in zip(found, own, strict=True)]
    others = [one for one, is_floor in zip(candidates, own, strict=True) if not is_floor]
    first = candidates[own.index(True)]
    return {"floor": against_floor(others, first, production, metric, count, what_it_is(first))}


def _origin(candidate: "Candidate") -> dict[str, Any]:
    """How a candidate was made: whether it was distilled or pruned, and of an int8 variant in which form its products ran."""
    variant = candidate.engine.card.variants[candidate.variant]
    whole = variant.backend == "onnx" and variant.precision == "int8"
    products = {"int8_products": processor.int8_products(variant.products)} if whole else {}
    return {"made": sorted(made_with(candidate.artifact)), **products}


def check(config: EvaluateConfig) -> list[Problem]:
    """What would go wrong, found without running it."""
    from jobs.judging.hosts import kind_problems

    return kind_problems(config.judged_for)


STAGE = Stage(
    name="evaluate",
    purpose="judge all candidates through the serving engine on the test split",
    config=EvaluateConfig,
    run=run,
    inputs={
        "examples": Input(Kind.EXAMPLES, "labelled rows with a test split"),
        "teacher": Input(Kind.MODEL, "the yardstick"),
        "candidates": Input(Kind.MODEL, "the models to judge, with all their variants", many=True),
        "against": Input(Kind.MODEL, "an alias: what it points at is judged beside them", optional=True, alias=True),
        "floor": Input(
            Kind.MODEL,
            "the cheapest model of the kind, judged beside them: from a step `floor` that need not be written; "
            "`floor: false`, in this step or for the whole recipe, leaves it out",
            optional=True,
            implied=Implied("floor", no_floor),
        ),
    },
    output=Kind.REPORT,
    version=7,
    preflight=Preflight(check=check),
)

if __name__ == "__main__":
    main(STAGE)
