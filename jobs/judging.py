"""Judging candidates: quality with its interval, latency and throughput in turns, size, agreement with the teacher, and how
much an answer depends on what it is batched with.

N texts, C classes, R resamples.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
from sklearn.metrics import confusion_matrix

from cluster.artifact import Artifact
from jobs.calibration import calibration_error
from jobs.core.config import BadInput, Problem
from jobs.figures import bootstrap, interval, score_of
from jobs.slices import accuracies, slices_of
from serve.answers import softmax
from serve.card import variant_files
from serve.engine import Engine, load_engine


@dataclass
class Candidate:
    """One variant of one model, with what was measured of it."""

    name: str
    artifact: Artifact
    variant: str
    engine: Engine
    bytes: int
    predicted: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    shares_NC: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    """The softmax of its logits, before the temperature: what an export must keep."""
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
        name = artifact.manifest.step if variant == "torch" else f"{artifact.manifest.step}:{variant}"
        size = sum(path.stat().st_size for path in variant_files(directory, engine.card, variant))
        return cls(name, artifact, variant, engine, size)

    def row(self, teacher: "Candidate") -> dict[str, Any]:
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
            "parameters": self.engine.card.parameters,
            "speedup": float(np.median(teacher.seconds) / p50),
            "size_ratio": teacher.bytes / self.bytes,
        }


def judge_quality(
    candidate: Candidate,
    texts: Sequence[str],
    labels: Sequence[str],
    teacher: Candidate,
    metric: str,
    resamples: int,
    columns: Mapping[str, Sequence[str | None]] | None = None,
) -> None:
    """Score, intervals, confusion, agreement and slices of a candidate over the whole split; the teacher is judged first.

    Labels are numbered as the teacher's are. `columns` are those by whose values texts are looked at apart, besides label
    and length.
    """
    order = teacher.engine.card.labels
    truth_N = _numbers(labels, order)
    logits_NC = candidate.engine.logits(texts)[:, columns_of(candidate, order)]
    probabilities_NC = softmax(logits_NC / candidate.engine.temperature)
    candidate.predicted, candidate.shares_NC = probabilities_NC.argmax(-1), softmax(logits_NC)
    scores = {name: score_of(name, truth_N, candidate.predicted) for name in ("accuracy", "macro_f1")}
    candidate.drawn_R = bootstrap(partial(score_of, metric, truth_N, candidate.predicted), len(truth_N), resamples)
    kept_R = np.divide(candidate.drawn_R, teacher.drawn_R, out=np.zeros(resamples), where=teacher.drawn_R > 0)
    candidate.figures = {
        "score": scores[metric],
        "interval": interval(candidate.drawn_R, scores[metric], highest=1.0),
        **scores,
        "agreement": float((candidate.predicted == teacher.predicted).mean()),
        "slices": accuracies(slices_of(texts, labels, columns), candidate.predicted == truth_N),
        "calibration_error": calibration_error(probabilities_NC, truth_N),
        "calibration_error_unscaled": calibration_error(candidate.shares_NC, truth_N),
        "confusion": confusion_matrix(truth_N, candidate.predicted, labels=range(len(order))).tolist(),
    }
    candidate.figures["kept"] = scores[metric] / teacher.figures["score"] if teacher.figures["score"] else 0.0
    candidate.figures["kept_interval"] = interval(kept_R, candidate.figures["kept"])


def check_labels(candidates: Sequence[Candidate], labels: Sequence[str]) -> None:
    """BadInput unless all candidates have the labels of the first one, the teacher, in whatever order, and it has these."""
    order, problems = candidates[0].engine.card.labels, []
    if unknown := sorted(set(labels) - set(order)):
        reason = f"the teacher, {candidates[0].name}, has no label {unknown[0]!r}, which some of the texts have"
        problems.append(Problem("inputs.examples", unknown[0], reason, f"Its labels: {', '.join(order)}."))
    for candidate in candidates[1:]:
        if apart := sorted(set(candidate.engine.card.labels) ^ set(order)):
            whose = "the teacher" if apart[0] in order else candidate.name
            reason = f"only {whose} has the label {apart[0]!r}, so that their answers cannot be compared"
            problems.append(Problem("inputs.candidates", candidate.name, reason, "Judge models of one task."))
    if problems:
        raise BadInput(problems)


def columns_of(candidate: Candidate, order: Sequence[str]) -> list[int]:
    """Where these labels stand among the candidate's outputs: two models of one task may number them differently."""
    return [candidate.engine.card.labels.index(label) for label in order]


def macro_f1_of(engine: Engine, texts: Sequence[str], labels: Sequence[str]) -> float:
    """The macro-F1 of an engine over these texts."""
    return score_of("macro_f1", _numbers(labels, engine.card.labels), engine.logits(texts).argmax(-1))


def _numbers(labels: Sequence[str], order: Sequence[str]) -> np.ndarray:
    numbers = {label: number for number, label in enumerate(order)}
    return np.array([numbers[label] for label in labels], dtype=np.int64)


def measure_parity(candidates: Sequence[Candidate]) -> None:
    """How far each variant is from the same model in torch: `parity_change` is the largest change of a probability,
    `parity_flips` the share of texts with another label. Temperatures are left out: each variant has its own.
    """
    torch_of = {candidate.artifact.fingerprint: candidate for candidate in candidates if candidate.variant == "torch"}
    for candidate in candidates:
        reference = torch_of[candidate.artifact.fingerprint]
        candidate.figures |= {
            "parity_change": float(np.abs(candidate.shares_NC - reference.shares_NC).max(initial=0.0)),
            "parity_flips": float((candidate.predicted != reference.predicted).mean()),
        }


class Timed(Protocol):
    """What takes its turns when latency is measured."""

    engine: Engine
    seconds: list[float]


class Rated(Protocol):
    """The same for throughput."""

    engine: Engine
    rates: list[float]


def measure_latency(candidates: Sequence[Timed], texts: Sequence[str], count: int, rounds: int) -> None:
    """Seconds of single texts, the candidates taking turns."""
    chosen = [texts[i] for i in np.random.default_rng(0).choice(len(texts), size=min(count, len(texts)), replace=False)]
    for part in np.array_split(np.array(chosen, dtype=object), min(rounds, len(chosen))):
        for candidate in candidates:
            candidate.engine.logits([str(part[0])])
            for text in part:
                began = time.perf_counter()
                candidate.engine.logits([text])
                candidate.seconds.append(time.perf_counter() - began)


def measure_throughput(candidates: Sequence[Rated], texts: Sequence[str], batch_size: int, rounds: int) -> None:
    """Texts a second in batches of this size, the candidates taking turns."""
    generator = np.random.default_rng(1)
    for _ in range(rounds):
        batch = [texts[i] for i in generator.choice(len(texts), size=batch_size)]
        for candidate in candidates:
            began = time.perf_counter()
            candidate.engine.logits(batch)
            candidate.rates.append(batch_size / (time.perf_counter() - began))


def measure_batch_mates(candidate: Candidate, texts: Sequence[str], batch_size: int, count: int, rounds: int) -> None:
    """How much answers change with what they are batched with: texts alone against padded batches with random mates.

    `batch_change` is the largest change of a probability, `batch_flips` the share of answers that have another label.
    """
    generator, engine = np.random.default_rng(2), candidate.engine
    chosen = generator.choice(len(texts), size=min(count, len(texts)), replace=False)
    alone_NC = softmax(np.concatenate([engine.scaled_logits([texts[i]]) for i in chosen]))
    change, flips = 0.0, []
    for _ in range(rounds):
        order = generator.permutation(len(chosen))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            together_NC = softmax(engine.scaled_logits([texts[i] for i in chosen[rows]]))
            change = max(change, float(np.abs(together_NC - alone_NC[rows]).max()))
            flips += (together_NC.argmax(-1) != alone_NC[rows].argmax(-1)).tolist()
    candidate.figures |= {"batch_change": change, "batch_flips": float(np.mean(flips))}
