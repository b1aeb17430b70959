"""A candidate against the model that is in production, on the same rows: by how much it is better, and how sure that is.

    compared(candidate, production, metric)          # {"candidate", "gain", "gain_interval", "kept", "kept_interval"}
    learned_rows(artifact, keys)                     # how many of these rows production has learned from

Both answer the same items, and their resamples are the same ones: each difference is one of answers to equal questions, and
what is hard in these rows is hard for both.
"""

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.store.artifact import Artifact, find_artifact, sibling
from jobs.core.config import Problem
from jobs.core.metric import Metric
from jobs.core.recipe import Recipe, Step
from jobs.data.training_rows import read_examples
from jobs.judging.controls import BASES
from jobs.tasks.figures import bootstrap_interval

if TYPE_CHECKING:
    from jobs.judging.quality import Candidate

LEARNED_FROM = ("examples", "auxiliary")
"""The inputs from which a model learns rows."""


def compared(candidate: "Candidate", production: "Candidate", metric: Metric) -> dict[str, Any]:
    """The paired difference of the scores, above 0 where the candidate is better, and the share of production's that it keeps;
    each with its 95 % interval."""
    score, reference = candidate.figures["score"], production.figures["score"]
    gain, kept = metric.sign * (score - reference), metric.kept(score, reference)
    gain_R = metric.sign * (candidate.drawn_R - production.drawn_R)
    kept_R = np.array([metric.kept(*drawn) for drawn in zip(candidate.drawn_R, production.drawn_R, strict=True)])
    return {
        "candidate": production.name,
        "gain": gain,
        "gain_interval": bootstrap_interval(gain_R, gain, lowest=-np.inf),
        "kept": kept,
        "kept_interval": bootstrap_interval(kept_R, kept),
    }


def idle_loss(recipe: Recipe, report: Step, config: Any) -> Iterator[Problem]:
    """A loss against what is in production that a selection allows, over a report that compares with none."""
    if config.maximum_loss is not None and not report.aliases:
        reason = f"{report.name} compares no candidate with what is in production"
        remedy = f"Give {report.name} inputs: {{against: {recipe.name}/production}}."
        yield Problem("maximum_loss", config.maximum_loss, reason, remedy)


def learned_rows(model: Artifact, keys: Collection[str]) -> int | None:
    """How many of these rows the model, or one that its weights came from, has learned from; None where it is not known, as
    what it learned from is gone."""
    found, known = set(keys), set[str]()
    for examples in _learned_from(model):
        if examples is None:
            return None
        known |= found & set(read_examples(examples, "train")["key"].to_pylist())
    return len(known)


def _learned_from(model: Artifact) -> Iterator[Artifact | None]:
    for key, parents in model.manifest.parents.items():
        for parent in parents:
            if key in LEARNED_FROM:
                yield find_artifact(sibling(model.uri, parent.uri))
            elif key in BASES:
                base = find_artifact(sibling(model.uri, parent.uri))
                yield from (None,) if base is None else _learned_from(base)
