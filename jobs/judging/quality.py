"""Judging candidates: quality with its interval, latency and throughput in turns, size, agreement with the yardstick, and how
much an answer depends on what it is batched with.

    rows = Rows.read(examples, "test", yardstick.task)
    judge_quality(candidate, rows, yardstick, metric, resamples=1000)

What is measured is asked of the task: its figures, what it means that two outputs say the same, how far two are apart.

N items, R resamples.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from cluster.store.artifact import Artifact
from jobs.contracts.learning import Judged, Learning, Truth
from jobs.core.config import BadInput, Problem
from jobs.core.metric import Metric
from jobs.data.rows import SLICE
from jobs.data.training_rows import read_examples
from jobs.judging.slices import goodness, slices_of
from jobs.tasks import learning_of
from jobs.tasks.figures import bootstrap, bootstrap_interval
from serve.engines.base import Engine
from serve.engines.card import Card, read_card, variant_files
from serve.engines.engine import load_engine
from serve.tasks.protocol import Item, Outputs, Task
from serve.tasks.shared.cutting import cut_short

ROUNDS = 10
"""In so many parts candidates take their turns where speed is measured."""


@dataclass(frozen=True)
class Rows:
    """The items of a split, and what they should be answered with."""

    items: Sequence[Item]
    truth: Truth
    columns: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    """Columns by whose values items are looked at apart."""

    @classmethod
    def read(cls, examples: Artifact, split: str, task: Task) -> "Rows":
        """Those of EXAMPLES, with targets as this task counts them."""
        columns = read_examples(examples, split).to_pydict()
        items = [Item(values) for values in zip(*(columns[name] for name in task.fields), strict=True)]
        slices = {name.removeprefix(SLICE): values for name, values in columns.items() if name.startswith(SLICE)}
        return cls(items, learning_of(task.kind).truth(task, columns), slices)


@dataclass
class Candidate:
    """One variant of one model, with what was measured of it."""

    name: str
    artifact: Artifact
    variant: str
    engine: Engine
    bytes: int
    raw: Outputs = ()
    """What it says of the judged items, without what was fitted for the variant: what an export must keep."""
    settled: Outputs = ()
    """The same with what was fitted: what it answers by. Both as a model of the yardstick's task would say it."""
    judged: Judged | None = None
    drawn_R: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """Its score over the resamples, which are the same for all candidates."""
    figures: dict[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    @classmethod
    def load(cls, artifact: Artifact, variant: str, threads: int, batch_size: int) -> "Candidate":
        """The candidate, ready to answer."""
        directory = artifact.local()
        engine = load_engine(directory, variant, threads=threads, max_batch=batch_size)
        step = artifact.manifest.step
        name = step if variant == as_trained(engine.card) else f"{step}:{variant}"
        size = sum(path.stat().st_size for path in variant_files(directory, engine.card, variant))
        return cls(name, artifact, variant, engine, size)

    @property
    def task(self) -> Task:
        """What it answers."""
        return self.engine.task

    @property
    def learning(self) -> Learning:
        """How such a task is judged."""
        return learning_of(self.task.kind)

    def says(self, items: Sequence[Item], yardstick: Task) -> tuple[Outputs, Outputs]:
        """Its outputs without and with what was fitted, as a model of the yardstick's task would say them."""
        raw = self.engine.outputs(items)
        settled = self.task.settled(raw, self.engine.fitted)
        return yardstick.aligned(raw, self.task), yardstick.aligned(settled, self.task)

    def cut_texts(self, items: Sequence[Item]) -> dict[str, float]:
        """The share of the items that it does not read to their end, where it cuts any at all."""
        share = float(cut_short(self.task, self.engine.tokenise(items)).mean())
        return {"texts_cut": share} if share else {}

    def row(self, yardstick: "Candidate") -> dict[str, Any]:
        """Everything measured, as a row of the report."""
        p50, p95 = np.percentile(self.seconds, [50, 95])
        return {
            "candidate": self.name,
            "step": self.artifact.manifest.step,
            "variant": self.variant,
            "uri": self.artifact.uri,
            "fingerprint": self.artifact.fingerprint,
            **self.figures,
            "latency_p50_ms": float(p50) * 1e3,
            "latency_p95_ms": float(p95) * 1e3,
            "texts_per_second": float(np.median(self.rates)),
            "bytes": self.bytes,
            **self.engine.describe(self.artifact.local()),
            "speedup": float(np.median(yardstick.seconds) / p50),
            "size_ratio": yardstick.bytes / self.bytes,
        }


def as_trained(card: Card) -> str:
    """The variant that was trained, from which the others were made: torch's, or the first that the card has."""
    return next((name for name, variant in card.variants.items() if variant.backend == "torch"), next(iter(card.variants)))


def variants_of(artifact: Artifact) -> list[str]:
    """All variants of a model; the first is the one that was trained."""
    card = read_card(artifact.local())
    first = as_trained(card)
    return [first, *(name for name in card.variants if name != first)]


def judge_quality(candidate: Candidate, rows: Rows, yardstick: Candidate, metric: Metric, resamples: int) -> None:
    """Figures, intervals, agreement and slices of a candidate over all rows; the yardstick is judged first."""
    task, learning = yardstick.task, yardstick.learning
    candidate.raw, candidate.settled = candidate.says(rows.items, task)
    candidate.judged = learning.judged(task, candidate.settled, rows.truth)
    named = dict.fromkeys([*(one.name for one in learning.metrics_of(task)), metric.name])
    figures = {name: candidate.judged.figure(name) for name in named}
    score = figures[metric.name]
    candidate.drawn_R = bootstrap(partial(candidate.judged.figure, metric.name), len(rows.items), resamples)
    reference = score if candidate is yardstick else yardstick.figures["score"]
    kept = metric.kept(score, reference)
    kept_R = np.array([metric.kept(*drawn) for drawn in zip(candidate.drawn_R, yardstick.drawn_R, strict=True)])
    slices = slices_of([item.characters for item in rows.items], learning.slices(task, rows.truth), rows.columns)
    candidate.figures = {
        "score": score,
        "interval": bootstrap_interval(candidate.drawn_R, score, metric.highest, metric.lowest),
        **figures,
        "agreement": float(task.same(candidate.settled, yardstick.settled).mean()),
        "slices": goodness(slices, candidate.judged.goodness_N),
        **learning.further(task, candidate.raw, candidate.settled, rows.truth),
        "kept": kept,
        "kept_interval": bootstrap_interval(kept_R, kept),
    }


def check_tasks(candidates: Sequence[Candidate], examples: Task) -> None:
    """BadInput unless outputs of all can be compared with those of the first, the yardstick, and it answers the examples."""
    yardstick, problems = candidates[0], []
    if reason := yardstick.task.unlike(examples):
        reason = f"they are not for the task of the yardstick, {yardstick.name}: {reason}"
        problems.append(Problem("inputs.examples", None, reason, "Judge models of the task that the examples are for."))
    for candidate in candidates[1:]:
        if reason := yardstick.task.unlike(candidate.task):
            reason = f"its answers cannot be compared with those of {yardstick.name}: {reason}"
            problems.append(Problem("inputs.candidates", candidate.name, reason, "Judge models of one task."))
    if problems:
        raise BadInput(problems)


def measure_parity(candidates: Sequence[Candidate]) -> None:
    """How far each variant is from the same model as it was trained, which `parity_reference` names: `parity_change` is the
    largest distance of an output, without what was fitted, as each variant has its own; `parity_flips` the share of the items
    for which they do not say the same.
    """
    task = candidates[0].task
    trained = {one.artifact.fingerprint: one for one in candidates if one.variant == as_trained(one.engine.card)}
    for candidate in candidates:
        reference = trained[candidate.artifact.fingerprint]
        candidate.figures |= {
            "parity_reference": reference.name,
            "parity_change": float(task.distance(candidate.raw, reference.raw).max(initial=0.0)),
            "parity_flips": float((~task.same(candidate.settled, reference.settled)).mean()),
        }


class LatencySubject(Protocol):
    """What takes its turns when latency is measured."""

    engine: Engine
    seconds: list[float]


class ThroughputSubject(Protocol):
    """The same for throughput."""

    engine: Engine
    rates: list[float]


def measure_latency(candidates: Sequence[LatencySubject], items: Sequence[Item], count: int, rounds: int) -> None:
    """Seconds of single items, the candidates taking turns."""
    chosen = np.random.default_rng(0).choice(len(items), size=min(count, len(items)), replace=False)
    for part in np.array_split(chosen, min(rounds, len(chosen))):
        for candidate in candidates:
            candidate.engine.outputs([items[part[0]]])
            for place in part:
                began = time.perf_counter()
                candidate.engine.outputs([items[place]])
                candidate.seconds.append(time.perf_counter() - began)


def measure_throughput(candidates: Sequence[ThroughputSubject], items: Sequence[Item], batch_size: int, rounds: int) -> None:
    """Items a second in batches of this size, the candidates taking turns."""
    generator = np.random.default_rng(1)
    for _ in range(rounds):
        batch = [items[place] for place in generator.choice(len(items), size=batch_size)]
        for candidate in candidates:
            began = time.perf_counter()
            candidate.engine.outputs(batch)
            candidate.rates.append(batch_size / (time.perf_counter() - began))


def measure_batch_mates(candidate: Candidate, items: Sequence[Item], batch_size: int, count: int, rounds: int) -> None:
    """How much answers change with what they are batched with: items alone against padded batches with random mates.

    `batch_change` is the largest distance of a settled output, `batch_flips` the share of those that say something else.
    """
    generator, engine, task = np.random.default_rng(2), candidate.engine, candidate.task
    chosen = [items[place] for place in generator.choice(len(items), size=min(count, len(items)), replace=False)]
    alone = [engine.settled([item])[0] for item in chosen]
    change, flips = 0.0, []
    for _ in range(rounds):
        order = generator.permutation(len(chosen))
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            together = engine.settled([chosen[place] for place in places])
            apart = task.stacked([alone[place] for place in places])
            change = max(change, float(task.distance(together, apart).max()))
            flips += (~task.same(together, apart)).tolist()
    candidate.figures |= {"batch_change": change, "batch_flips": float(np.mean(flips))}
