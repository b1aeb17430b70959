"""Figures of answers, and how far they may be from what other texts would have said.

    score = macro_f1(truth_N, predicted_N)
    drawn_R = bootstrap(partial(macro_f1, truth_N, predicted_N), len(truth_N), resamples=1000)
    low, high = bootstrap_interval(drawn_R, score)

Every figure takes how often each text counts, in whole numbers: so a resample is the same figure with other weights, and
figures of the same texts are drawn together. N texts, C labels, R resamples.
"""

from collections.abc import Callable

import numpy as np

PERCENTILES = (2.5, 97.5)


def accuracy(truth_N: np.ndarray, predicted_N: np.ndarray, weights_N: np.ndarray | None = None) -> float:
    """The share of the texts that is right."""
    return float(np.average(truth_N == predicted_N, weights=weights_N)) if len(truth_N) else 0.0


def macro_f1(truth_N: np.ndarray, predicted_N: np.ndarray, weights_N: np.ndarray | None = None) -> float:
    """The mean F1 of the labels that some text has or was given; of others there is nothing to say."""
    classes = 1 + int(max(truth_N.max(initial=-1), predicted_N.max(initial=-1)))
    right_N = truth_N == predicted_N
    right_C = _counts(truth_N[right_N], None if weights_N is None else weights_N[right_N], classes)
    both_C = _counts(truth_N, weights_N, classes) + _counts(predicted_N, weights_N, classes)
    return float((2 * right_C / np.maximum(both_C, 1)).sum() / max(1, (both_C > 0).sum()))


def _counts(labels_N: np.ndarray, weights_N: np.ndarray | None, classes: int) -> np.ndarray:
    return np.bincount(labels_N, weights_N, minlength=classes)


def bootstrap(figure: Callable[[np.ndarray], float], texts: int, resamples: int) -> np.ndarray:
    """figures_R over resamples of so many texts (Efron 1979). `figure` takes weights_N, how often each text was drawn.

    The resamples are the same for every figure: what two of them come to belongs together, one by one.
    """
    generator, drawn = np.random.default_rng(0), []
    for _ in range(resamples):
        drawn.append(figure(np.bincount(generator.integers(texts, size=texts), minlength=texts)))
    return np.array(drawn)


def bootstrap_interval(drawn_R: np.ndarray, figure: float, highest: float = np.inf, lowest: float = 0.0) -> list[float]:
    """The 95 % interval of a figure from its resamples, which are moved so that their mean is the figure itself.

    A resample lacks some of what is rare, so that F1 comes out lower in it than in the texts it was drawn from: the mean
    difference is the bootstrap's estimate of that bias (Efron & Tibshirani 1993, chapter 10). What no text was wrong in has no
    spread: the interval says nothing of errors that the texts do not show.
    """
    low, high = np.percentile(drawn_R - drawn_R.mean(), PERCENTILES) + figure
    return [float(np.clip(min(low, figure), lowest, highest)), float(np.clip(max(high, figure), lowest, highest))]
