"""Probabilities that hold: how far confidence is from accuracy, and the temperature that brings them together.

    temperature = fit_temperature(logits_NC, truth_N)            # on the validation split
    calibration_error(softmax(logits_NC / temperature), truth_N)

The temperature stands in the card, and the engine divides by it whenever it answers; labels stay as they are, and so do the
logits that students learn from.

N texts, C classes.
"""

import numpy as np

from serve.tasks.shared.probabilities import softmax

BINS = 15
HIGHEST = 20.0
"""Temperatures are sought between 1 / HIGHEST and HIGHEST."""
HALVINGS = 50


def calibration_error(probabilities_NC: np.ndarray, truth_N: np.ndarray) -> float:
    """How far confidence is from accuracy, over bins of the confidence: ECE (Naeini et al. 2015; Guo et al. 2017)."""
    return confidence_error(probabilities_NC.max(axis=-1), probabilities_NC.argmax(axis=-1) == truth_N)


def confidence_error(confidence_N: np.ndarray, right_N: np.ndarray) -> float:
    """The same of answers that need not be the most probable ones: how sure each was, and whether it was right."""
    bins_N = np.minimum((confidence_N * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins_N, weights=right_N - confidence_N)
    return float(np.abs(gaps).sum() / max(1, len(right_N)))


def fit_temperature(logits_NC: np.ndarray, truth_N: np.ndarray) -> float:
    """The temperature with the lowest cross-entropy (Guo et al. 2017); 1 where there is nothing to fit it on.

    Each target keeps a little for the other labels, as if each had been seen once more (Platt 1999): where every label was
    right, the plain optimum would be a confidence without bounds.
    """
    count, classes = logits_NC.shape
    if not count:
        return 1.0
    logits_NC = logits_NC.astype(np.float64)
    target_NC = np.full(logits_NC.shape, 1 / (count + classes))
    target_NC[np.arange(count), truth_N] += count / (count + classes)
    low, high = -np.log(HIGHEST), np.log(HIGHEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        # The cross-entropy is convex in 1 / temperature, and this is its slope there.
        slope = float(((softmax(logits_NC * np.exp(middle)) - target_NC) * logits_NC).sum())
        low, high = (low, middle) if slope > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


def calibrated(logits_NC: np.ndarray, truth_N: np.ndarray) -> tuple[float, dict[str, float]]:
    """The temperature, and figures: it, and the calibration error on these texts with it and without."""
    temperature = fit_temperature(logits_NC, truth_N)
    return temperature, {
        "temperature": temperature,
        "calibration_error": calibration_error(softmax(logits_NC / temperature), truth_N),
        "calibration_error_unscaled": calibration_error(softmax(logits_NC), truth_N),
    }
