"""Confident learning: which labels look wrong, from probabilities by models that have not seen the items.

    wrong_labels(texts, given_N, ("ham", "spam"), most=50)    # by the linear model of jobs/tasks/linear.py
    places, found = doubtful(probabilities_NC, given_N)       # the most doubtful first

By Northcutt et al. 2021, "Confident Learning": an item counts as one of another label if that is as likely for it as it is on
the mean for the items that bear it, so that a model which is shy of a label needs less to be believed. C classes, N items.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from jobs.contracts.learning import MISSING, Columns
from jobs.contracts.suspicions import Suspicion, Suspicions
from jobs.tasks.linear import FOLDS, affordable, out_of_fold
from serve.tasks.shared.labels import LabelledTask

HOW = (
    "A linear model that has not seen the row says otherwise than its label, and is as sure of that as it is on the mean of "
    "rows with that label (confident learning, Northcutt et al. 2021). Where these are few, others follow of which it is less "
    "sure. Some of the labels are wrong, some of the texts are hard."
)
DIGITS = 6
"""Of a margin, so that sums in another order change no rank."""


def wrong_labels_of(spec: LabelledTask, columns: Columns, truth_N: np.ndarray, most: int) -> Suspicions:
    """Those of rows of EXAMPLES, by the place of each label among the task's; MISSING where a row has none."""
    places = np.flatnonzero(truth_N != MISSING).tolist()
    items = [tuple(columns[name][place] for name in spec.fields) for place in places]
    found = wrong_labels(items, truth_N[places], spec.labels, most)
    return replace(found, rows=tuple(replace(row, place=places[row.place]) for row in found.rows))


def wrong_labels(items: Sequence[Sequence[str]], given_N: np.ndarray, labels: Sequence[str], most: int) -> Suspicions:
    """The items whose label looks wrong, among the first that a linear model can be made of in a minute. Those of labels that
    fewer than FOLDS of them have are left out: there is nothing to learn these from."""
    count = affordable(items, len(labels))
    times_C = np.bincount(given_N[:count], minlength=len(labels))
    known_C = np.flatnonzero(times_C >= FOLDS)
    places = np.flatnonzero(np.isin(given_N[:count], known_C)).tolist()
    if len(known_C) < 2:
        return Suspicions((), found=0, looked_at=0, how=HOW)
    own_N = np.searchsorted(known_C, given_N[places])
    probabilities_NC = out_of_fold([items[place] for place in places], own_N, len(known_C))
    doubted, found = doubtful(probabilities_NC, own_N)
    rows = []
    for number in doubted[:most]:
        given, told_C = own_N[number], probabilities_NC[number]
        likely = int(told_C.argmax())
        given_name, likely_name = labels[known_C[given]], labels[known_C[likely]]
        rows.append(Suspicion(places[number], given_name, float(told_C[given]), likely_name, float(told_C[likely])))
    return Suspicions(tuple(rows), found=found, looked_at=len(places), how=HOW)


def doubtful(probabilities_NC: np.ndarray, given_N: np.ndarray) -> tuple[np.ndarray, int]:
    """The places of the items whose label another one is likelier than, and how many of them, the first, are wrong: off the
    diagonal of the confident joint. These and then the others stand by how far the given label is behind (the normalised
    margin), of equal ones the first."""
    margins_N = margins(probabilities_NC, given_N)
    confident_N = confident_labels(probabilities_NC, given_N)
    wrong_N = (confident_N >= 0) & (confident_N != given_N)
    # One whose given label is the likeliest all the same is no error: a mean that is low let others pass.
    behind = np.flatnonzero(margins_N < 0)
    order = np.lexsort((margins_N[behind], ~wrong_N[behind]))
    return behind[order], int(wrong_N[behind].sum())


def margins(probabilities_NC: np.ndarray, given_N: np.ndarray) -> np.ndarray:
    """By how much the label that is given is likelier than all others."""
    places_N = np.arange(len(given_N))
    others_NC = probabilities_NC.copy()
    others_NC[places_N, given_N] = -1
    return np.round(probabilities_NC[places_N, given_N] - others_NC.max(1), DIGITS)


def confident_labels(probabilities_NC: np.ndarray, given_N: np.ndarray) -> np.ndarray:
    """The label of which a model is as sure as it is, on the mean, where that label is given; of several the likeliest, -1 for
    none."""
    classes = probabilities_NC.shape[1]
    counts_C = np.bincount(given_N, minlength=classes)
    own_N = probabilities_NC[np.arange(len(given_N)), given_N]
    thresholds_C = np.bincount(given_N, own_N, minlength=classes) / np.maximum(counts_C, 1)
    passed_NC = np.where((probabilities_NC >= thresholds_C) & (counts_C > 0), probabilities_NC, -1.0)
    return np.where(passed_NC.max(1) >= 0, passed_NC.argmax(1), -1)
