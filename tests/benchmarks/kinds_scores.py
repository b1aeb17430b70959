"""What answers are worth, by scikit-learn and NumPy alone, and how far apart two sides are: the same for both of them.

    measure = MEASURES["macro_f1"]
    truth, said = (measure.arrays(values, names) for values in (truth, said))
    points, interval = apart(measure, truth, [(ours, theirs), ...])          # a pair of answers for each seed

Answers come as lists: a name, a list of names, or a number for each text. N texts, C names, S seeds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)


@dataclass(frozen=True)
class Measure:
    """A figure of answers."""

    name: str
    arrays: Callable[[Sequence[Any], Sequence[str]], np.ndarray]
    """Answers, or what they should have been, as an array; of those that are names, the names are given in their order."""
    of: Callable[[np.ndarray, np.ndarray], float]
    """The figure, of the truth and what was said."""
    sign: int = 1
    """-1 where less is better."""
    unit: str = "points"


def apart(
    measure: Measure, truth: np.ndarray, pairs: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[float, tuple[float, float]]:
    """By how many hundredths the first of each pair is better than the second, a mean over the pairs; and its 95 % interval
    over resamples of the texts, in which both sides are asked the same (Efron 1979)."""
    generator, drawn = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        chosen_N = generator.integers(len(truth), size=len(truth))
        drawn.append(_mean_apart(measure, truth[chosen_N], [(left[chosen_N], right[chosen_N]) for left, right in pairs]))
    low, high = np.percentile(drawn, INTERVAL).tolist()
    return _mean_apart(measure, truth, pairs), (low, high)


def apart_by_seed(
    measure: Measure, truth: np.ndarray, pairs: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[list[float], tuple[float, float]]:
    """The same of each pair, and the 95 % interval of their mean over trainings (Student's t, paired): dropout, too, moves
    what a side ends with, which resamples of the texts do not show."""
    from scipy import stats

    each = [_mean_apart(measure, truth, [pair]) for pair in pairs]
    low, high = stats.t.interval(0.95, len(each) - 1, loc=np.mean(each), scale=stats.sem(each))
    return each, (float(low), float(high))


def _mean_apart(measure: Measure, truth: np.ndarray, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    found = [measure.of(truth, left) - measure.of(truth, right) for left, right in pairs]
    return 100 * measure.sign * float(np.mean(found))


def _numbers_of_names(names: Sequence[Any], known: Sequence[str]) -> np.ndarray:
    numbers = {name: number for number, name in enumerate(known)}
    return np.array([numbers[name] for name in names], dtype=np.int64)


def _yes_or_no(sets: Sequence[Any], known: Sequence[str]) -> np.ndarray:
    return np.array([[name in own for name in known] for own in sets], dtype=np.int64)


def _as_written(values: Sequence[Any], _: Sequence[str]) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def _macro_f1(truth: np.ndarray, said: np.ndarray) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(truth, said, average="macro", zero_division=0))


def _root_mean_square(truth: np.ndarray, said: np.ndarray) -> float:
    from sklearn.metrics import root_mean_squared_error

    return float(root_mean_squared_error(truth, said))


def _quadratic_kappa(truth: np.ndarray, said: np.ndarray) -> float:
    from sklearn.metrics import cohen_kappa_score

    return float(cohen_kappa_score(truth, said, weights="quadratic"))


MEASURES = {
    "classification": Measure("macro_f1", _numbers_of_names, _macro_f1),
    "multi_label": Measure("macro_f1", _yes_or_no, _macro_f1),
    "regression": Measure("rmse", _as_written, _root_mean_square, sign=-1, unit="hundredths of the scale's unit"),
    "ordinal": Measure("quadratic_weighted_kappa", _numbers_of_names, _quadratic_kappa),
}
"""By the kind of task."""
