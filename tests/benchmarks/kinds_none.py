"""BENCH=kinds, questions of none of the labels: how many of them are told of as such, where most of the others are answered.

lines = list(none_of_these(run))          # of a task with `none`, whose test rows of no label are labelled as that says
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tests.benchmarks.kinds_road import SEEDS, THREADS, Run
from tests.benchmarks.kinds_scores import INTERVAL, RESAMPLES
from tests.benchmarks.kinds_sets import NONE

KEEP, TOLD = 0.95, 0.7


def none_of_these(run: Run) -> Iterator[dict[str, Any]]:
    """The share of the unknown questions that are none of these, a mean over the seeds: where just 95 % of the known test
    questions are answered, and in the detail at the threshold that validation gave."""
    from sklearn.metrics import roc_auc_score

    unknown_N = np.array([label == NONE for label in run.split("test")["target"]])
    sure, fitted = [], []
    for seed in SEEDS:
        answers = _answers(run, seed)
        told_N = np.array([answer.label == NONE for answer in answers])
        sure.append(np.array([answer.probability for answer in answers]))
        fitted.append([round(float(share), 4) for share in (1 - told_N[~unknown_N].mean(), told_N[unknown_N].mean())])
    drawn, generator = [], np.random.default_rng(0)
    for _ in range(RESAMPLES):
        chosen_N = generator.integers(len(unknown_N), size=len(unknown_N))
        drawn.append(_told([sure_N[chosen_N] for sure_N in sure], unknown_N[chosen_N]))
    detail = {
        "interval": [round(bound, 4) for bound in np.percentile(drawn, INTERVAL).tolist()],
        "by_seed": [round(_told([sure_N], unknown_N), 4) for sure_N in sure],
        "known_answered_and_unknown_told_as_fitted": fitted,
        "auc": [round(float(roc_auc_score(~unknown_N, sure_N)), 4) for sure_N in sure],
        "test": {"known": int((~unknown_N).sum()), "unknown": int(unknown_N.sum())},
    }
    yield {
        "name": f"{run.name}_unknown_told",
        "value": round(_told(sure, unknown_N), 4),
        "goal": TOLD,
        "better": "higher",
        "unit": f"of the unknown questions, where {KEEP:.0%} of the known ones are answered",
        "detail": detail,
    }


def _told(sure: Sequence[np.ndarray], unknown_N: np.ndarray) -> float:
    shares = [(sure_N[unknown_N] < np.quantile(sure_N[~unknown_N], 1 - KEEP)).mean() for sure_N in sure]
    return float(np.mean(shares))


def _answers(run: Run, seed: int) -> list[Any]:
    from serve.engines.engine import load_engine
    from serve.tasks.protocol import Item

    engine = load_engine(run.teacher(seed).local(), "torch", threads=THREADS)
    return engine.answers([Item(tuple(texts)) for texts in run.split("test")["texts"]])
