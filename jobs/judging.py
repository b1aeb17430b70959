"""Judging candidates: quality with its interval, latency and throughput in turns, size, agreement with the teacher, and how
much an answer depends on what it is batched with.

N texts, C classes, R resamples.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from sklearn.metrics import confusion_matrix

from cluster.artifact import Artifact
from jobs.calibration import calibration_error
from jobs.slices import accuracies, slices_of
from serve.answers import softmax
from serve.card import variant_files
from serve.engine import Engine, load_engine

INTERVAL = (2.5, 97.5)


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
            "kept": self.figures["score"] / teacher.figures["score"] if teacher.figures["score"] else 0.0,
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

    `columns` are those by whose values texts are looked at apart, besides label and length.
    """
    classes = len(candidate.engine.card.labels)
    numbers = {label: number for number, label in enumerate(candidate.engine.card.labels)}
    truth_N = np.array([numbers[label] for label in labels])
    logits_NC = candidate.engine.logits(texts)
    probabilities_NC = softmax(logits_NC / candidate.engine.temperature)
    candidate.predicted, candidate.shares_NC = probabilities_NC.argmax(-1), softmax(logits_NC)
    confusion_CC = confusion_matrix(truth_N, candidate.predicted, labels=range(classes))
    spread = bootstrap(truth_N, candidate.predicted, classes, metric, resamples)
    kept = bootstrap_kept(truth_N, candidate.predicted, teacher.predicted, classes, metric, resamples)
    accuracy, macro_f1 = (float(score_of(confusion_CC, name)) for name in ("accuracy", "macro_f1"))
    candidate.figures = {
        "score": accuracy if metric == "accuracy" else macro_f1,
        "interval": [float(bound) for bound in np.percentile(spread, INTERVAL)],
        "kept_interval": [float(bound) for bound in np.percentile(kept, INTERVAL)],
        "accuracy": accuracy,
        "macro_f1": macro_f1,
        "agreement": float((candidate.predicted == teacher.predicted).mean()),
        "slices": accuracies(slices_of(texts, labels, columns), candidate.predicted == truth_N),
        "calibration_error": calibration_error(probabilities_NC, truth_N),
        "calibration_error_unscaled": calibration_error(candidate.shares_NC, truth_N),
        "confusion": confusion_CC.tolist(),
    }


def score_of(confusion: np.ndarray, metric: str) -> np.ndarray:
    """Accuracy or macro-F1 of confusion matrices (…, true, predicted)."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    if metric == "accuracy":
        return right.sum(-1) / confusion.sum((-2, -1))
    both = confusion.sum(-1) + confusion.sum(-2)
    return (2 * right / np.maximum(both, 1)).mean(-1)


def macro_f1(engine: Engine, texts: Sequence[str], labels: Sequence[str]) -> float:
    """The macro-F1 of an engine over these texts."""
    predicted = [engine.card.labels[number] for number in engine.logits(texts).argmax(-1)]
    return float(score_of(confusion_matrix(labels, predicted, labels=engine.card.labels), "macro_f1"))


def bootstrap(truth_N: np.ndarray, predicted_N: np.ndarray, classes: int, metric: str, resamples: int) -> np.ndarray:
    """scores_R over resamples of the texts (Efron 1979)."""
    counts_CC = np.bincount(truth_N * classes + predicted_N, minlength=classes**2)
    # Drawing N texts with replacement is drawing their cells of the confusion matrix from a multinomial.
    drawn = np.random.default_rng(0).multinomial(len(truth_N), counts_CC / len(truth_N), size=resamples)
    return score_of(drawn.reshape(resamples, classes, classes), metric)


def bootstrap_kept(
    truth_N: np.ndarray, predicted_N: np.ndarray, teacher_N: np.ndarray, classes: int, metric: str, resamples: int
) -> np.ndarray:
    """The share of the teacher's score that is kept, over the same resamples of the texts for both.

    What makes a resample hard is hard for both, so this is narrower than what two intervals would say.
    """
    answers = np.stack([truth_N * classes + predicted_N, truth_N * classes + teacher_N])
    (cells_U, theirs_U), counts_U = np.unique(answers, axis=1, return_counts=True)
    drawn_RU = np.random.default_rng(0).multinomial(len(truth_N), counts_U / len(truth_N), size=resamples)
    scores = []
    for cells in (cells_U, theirs_U):
        confusion = np.stack([np.bincount(cells, weights=row_U, minlength=classes**2) for row_U in drawn_RU])
        scores.append(score_of(confusion.reshape(resamples, classes, classes), metric))
    return scores[0] / np.maximum(scores[1], np.finfo(np.float64).tiny)


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
