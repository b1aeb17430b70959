"""What the cheapest models of a kind answer: a linear model of words and characters, and the same answer for every text.

    said = floors("regression", train, held, test)["linear"]        # as kinds_scores.py takes answers

Features are those of jobs/tasks/linear.py. Where there are two texts, the model has their difference too: otherwise it cannot
see that they share a word. N items.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Rows = Mapping[str, Sequence[Any]]
"""`texts`: a tuple of texts a row. `target`: a name, a list of names, or a number."""


def floors(kind: str, rows: Mapping[str, Rows]) -> dict[str, list[Any]]:
    """The answers for the test rows of each of them, learned from the training rows; `rows` are by split."""
    features = _features(rows)
    return {"linear": _LINEAR[kind](features, rows), "constant": _CONSTANT[kind](rows)}


def _features(rows: Mapping[str, Rows]) -> dict[str, Any]:
    """The features of each split's rows, counted over all of them."""
    from scipy.sparse import hstack

    from jobs.tasks.linear import features

    items = [texts for split in rows.values() for texts in split["texts"]]
    fields = len(items[0])
    found = features([(text,) for texts in items for text in texts]).tocsr()
    if fields == 2:
        first, second = found[::2], found[1::2]
        found = hstack([first, second, abs(first - second)], format="csr")
    parts, start = {}, 0
    for name, split in rows.items():
        parts[name] = found[start : start + len(split["target"])]
        start += len(split["target"])
    return parts


def _one_name(features: Mapping[str, Any], rows: Mapping[str, Rows]) -> list[Any]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    model = OneVsRestClassifier(LogisticRegression(**_SETTINGS))
    return list(model.fit(features["train"], rows["train"]["target"]).predict(features["test"]))


def _several_names(features: Mapping[str, Any], rows: Mapping[str, Rows]) -> list[Any]:
    """With a threshold a label, fitted on validation as the models' are."""
    from sklearn.linear_model import LogisticRegression

    from jobs.tasks.label_sets import best_thresholds
    from serve.tasks.shared.probabilities import sigmoid

    names = sorted({name for own in rows["train"]["target"] for name in own})
    given: list[list[str]] = [[] for _ in rows["test"]["target"]]
    for name in names:
        yes = {split: np.array([name in own for own in part["target"]]) for split, part in rows.items()}
        if yes["train"].all() or not yes["train"].any():
            continue
        model = LogisticRegression(**_SETTINGS).fit(features["train"], yes["train"])
        held_N1 = model.decision_function(features["validation"])[:, None]
        threshold = best_thresholds(held_N1, yes["validation"][:, None])[0]
        told_N = sigmoid(model.decision_function(features["test"])) > (0.5 if threshold is None else threshold)
        for row in np.flatnonzero(told_N):
            given[row].append(name)
    return given


def _number(features: Mapping[str, Any], rows: Mapping[str, Rows]) -> list[Any]:
    """Ridge regression, as strong as validation has it."""
    from sklearn.linear_model import Ridge

    train, held = (np.array(rows[split]["target"], dtype=float) for split in ("train", "validation"))
    models = [Ridge(alpha=alpha).fit(features["train"], train) for alpha in RIDGES]
    best = min(models, key=lambda model: float(((model.predict(features["validation"]) - held) ** 2).mean()))
    said: list[Any] = best.predict(features["test"]).clip(train.min(), train.max()).tolist()
    return said


def _place(features: Mapping[str, Any], rows: Mapping[str, Rows]) -> list[Any]:
    """The number of the label, rounded; labels are whole numbers."""
    return [str(round(number)) for number in _number(features, rows)]


def _mean(rows: Mapping[str, Rows]) -> list[Any]:
    return [float(np.mean(rows["train"]["target"]))] * len(rows["test"]["target"])


def _most_frequent(rows: Mapping[str, Rows]) -> list[Any]:
    names, counts = np.unique(rows["train"]["target"], return_counts=True)
    return [str(names[counts.argmax()])] * len(rows["test"]["target"])


def _every_name(rows: Mapping[str, Rows]) -> list[Any]:
    """All labels for each text: of constant answers the one with the highest macro F1."""
    names = sorted({name for own in rows["train"]["target"] for name in own})
    return [names] * len(rows["test"]["target"])


_SETTINGS: dict[str, Any] = {"C": 3.0, "solver": "liblinear", "dual": True, "tol": 0.1, "max_iter": 30, "random_state": 0}
"""As jobs/tasks/linear.py has it."""
RIDGES = (0.3, 1.0, 3.0, 10.0, 30.0)
_LINEAR = {"classification": _one_name, "multi_label": _several_names, "regression": _number, "ordinal": _place}
_CONSTANT = {"classification": _most_frequent, "multi_label": _every_name, "regression": _mean, "ordinal": _most_frequent}
