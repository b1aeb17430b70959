"""Whether the texts that are asked look like those that the model was trained on: their labels and their lengths.

    watch = Watch(card.labels, card.training)
    watch.note(lengths_B, logits_BC)
    watch.report().labels          # population stability index: below 0.1 alike, above 0.25 another population
    note_asked({"spam": watch}, exchange)         # once a request is answered

Each text that a client asked to classify counts once, whether it was run or known already; nothing else does that models run.
The index is the sum of (now - then) · ln(now / then) over the bins (Siddiqi 2006). Shapes: B texts, C classes, K bins.
"""

import math
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from serve.card import TrainingData
from serve.exchange import Exchange

WINDOW_TEXTS = 2000
ENOUGH_TEXTS = 300
"""With fewer, chance alone moves the index of ten bins by more than 0.03."""
ALARM = 0.25
SMOOTHING = 0.5


@dataclass(frozen=True)
class Drift:
    """The newest texts of one replica against the training texts."""

    texts: int
    label_shares: dict[str, float]
    labels: float | None
    """Index over the labels; None with too few texts, or where the card does not know the training texts."""
    lengths: float | None
    """Index over the lengths in tokens."""

    @property
    def alarm(self) -> bool:
        """Whether either index says another population."""
        return max(self.labels or 0.0, self.lengths or 0.0) > ALARM


class Watch:
    """Labels and lengths of the texts that were asked last."""

    def __init__(self, labels: Sequence[str], training: TrainingData | None) -> None:
        self.names, self.training = labels, training
        self._seen: deque[tuple[int, int]] = deque(maxlen=WINDOW_TEXTS)

    def note(self, lengths_B: Sequence[int], logits_BC: np.ndarray) -> None:
        """Take in the texts of one request."""
        self._seen.extend(zip(logits_BC.argmax(axis=-1).tolist(), lengths_B, strict=True))

    def report(self) -> Drift:
        """How far the window is from training."""
        seen = list(self._seen)
        labels = Counter(label for label, _ in seen)
        shares = {name: labels[column] / len(seen) for column, name in enumerate(self.names)} if seen else {}
        if self.training is None or len(seen) < ENOUGH_TEXTS:
            return Drift(len(seen), shares, None, None)
        edges = self.training.length_edges
        bins = Counter(bisect_left(edges, length) for _, length in seen)
        by_label = [self.training.labels.get(name, 0.0) for name in self.names]
        return Drift(
            len(seen),
            shares,
            stability_index(by_label, [labels[column] for column in range(len(self.names))]),
            stability_index(self.training.length_shares, [bins[place] for place in range(len(edges) + 1)]),
        )


def note_asked(watches: Mapping[str, Watch], exchange: Exchange) -> None:
    """Take in a request, where it asked one of these models to classify, with the answers that it got."""
    watch = watches.get(exchange.model or "")
    if exchange.outcome is not None and watch is not None:
        watch.note(exchange.outcome.lengths, exchange.outcome.values)


def stability_index(then_K: Sequence[float], counts_K: Sequence[int]) -> float:
    """The index of counts against the shares that there were; bins without a text count as half a text."""
    total = sum(counts_K) + SMOOTHING * len(counts_K)
    floor = SMOOTHING / total
    pairs = [(max(then, floor), (count + SMOOTHING) / total) for then, count in zip(then_K, counts_K, strict=True)]
    return sum((now - then) * math.log(now / then) for then, now in pairs)


def training_data(labels: Sequence[str], lengths: Sequence[int], bins: int = 10) -> TrainingData:
    """What the card keeps of training texts: the share of each label, and of lengths (tokens) in bins of equal share."""
    edges = sorted({int(edge) for edge in np.quantile(lengths, np.arange(1, bins) / bins, method="lower")})
    counts = Counter(bisect_left(edges, length) for length in lengths)
    return TrainingData(
        labels={label: count / len(labels) for label, count in sorted(Counter(labels).items())},
        length_edges=tuple(edges),
        length_shares=tuple(counts[place] / len(lengths) for place in range(len(edges) + 1)),
    )
