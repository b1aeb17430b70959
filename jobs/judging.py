"""Judging candidates: quality with its interval, latency and throughput in turns, size, agreement with the teacher.

N texts, C classes, R resamples.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from cluster.artifact import Artifact
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
    candidate: Candidate, texts: Sequence[str], labels: Sequence[str], teacher: Candidate, metric: str, resamples: int
) -> None:
    """Score, interval, confusion and agreement of a candidate over the whole split."""
    classes = len(candidate.engine.card.labels)
    numbers = {label: number for number, label in enumerate(candidate.engine.card.labels)}
    truth_N = np.array([numbers[label] for label in labels])
    candidate.predicted = candidate.engine.logits(texts).argmax(-1)
    confusion_CC = confusion_matrix(truth_N, candidate.predicted, labels=range(classes))
    spread = bootstrap(truth_N, candidate.predicted, classes, metric, resamples)
    accuracy, macro_f1 = (float(score_of(confusion_CC, name)) for name in ("accuracy", "macro_f1"))
    candidate.figures = {
        "score": accuracy if metric == "accuracy" else macro_f1,
        "interval": [float(bound) for bound in np.percentile(spread, INTERVAL)],
        "accuracy": accuracy,
        "macro_f1": macro_f1,
        "agreement": float((candidate.predicted == teacher.predicted).mean()),
        "confusion": confusion_CC.tolist(),
    }


def score_of(confusion: np.ndarray, metric: str) -> np.ndarray:
    """Accuracy or macro-F1 of confusion matrices (…, true, predicted)."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    if metric == "accuracy":
        return right.sum(-1) / confusion.sum((-2, -1))
    both = confusion.sum(-1) + confusion.sum(-2)
    return (2 * right / np.maximum(both, 1)).mean(-1)


def bootstrap(truth_N: np.ndarray, predicted_N: np.ndarray, classes: int, metric: str, resamples: int) -> np.ndarray:
    """scores_R over resamples of the texts (Efron 1979)."""
    counts_CC = np.bincount(truth_N * classes + predicted_N, minlength=classes**2)
    # Drawing N texts with replacement is drawing their cells of the confusion matrix from a multinomial.
    drawn = np.random.default_rng(0).multinomial(len(truth_N), counts_CC / len(truth_N), size=resamples)
    return score_of(drawn.reshape(resamples, classes, classes), metric)


def measure_latency(candidates: Sequence[Candidate], texts: Sequence[str], count: int, rounds: int) -> None:
    """Seconds of single texts, the candidates taking turns."""
    chosen = [texts[i] for i in np.random.default_rng(0).choice(len(texts), size=min(count, len(texts)), replace=False)]
    for part in np.array_split(np.array(chosen, dtype=object), min(rounds, len(chosen))):
        for candidate in candidates:
            candidate.engine.logits([str(part[0])])
            for text in part:
                began = time.perf_counter()
                candidate.engine.logits([text])
                candidate.seconds.append(time.perf_counter() - began)


def measure_throughput(candidates: Sequence[Candidate], texts: Sequence[str], batch_size: int, rounds: int) -> None:
    """Texts a second in batches of this size, the candidates taking turns."""
    generator = np.random.default_rng(1)
    for _ in range(rounds):
        batch = [texts[i] for i in generator.choice(len(texts), size=batch_size)]
        for candidate in candidates:
            began = time.perf_counter()
            candidate.engine.logits(batch)
            candidate.rates.append(batch_size / (time.perf_counter() - began))
