"""From logits to probabilities. N rows, C classes."""

import numpy as np


def softmax(logits_NC: np.ndarray) -> np.ndarray:
    """Probabilities of each class, float64, each row summing to 1."""
    shifted_NC = logits_NC.astype(np.float64) - logits_NC.max(axis=-1, keepdims=True)
    powers_NC = np.exp(shifted_NC)
    return powers_NC / powers_NC.sum(axis=-1, keepdims=True)
