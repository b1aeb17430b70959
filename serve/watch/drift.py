"""Whether the texts that are asked look like those that the model was trained on: what is answered, and their lengths.

    window = DriftWindow(card.task, card.training)
    window.note(lengths_B, outputs)
    window.report().labels          # population stability index: below 0.1 alike, above 0.25 another population
    note_asked({"spam": window}, exchange)         # once a request is answered

Each text that a client asked an answer for counts once, whether it was run or known already; nothing else does that models
run. What is answered is counted by what its task says of it in a few words, such as a label. The index is the sum of
(now - then) · ln(now / then) over the bins (Siddiqi 2006). Shapes: B texts, K bins.
"""

import math
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from serve.engines.card import TrainingData
from serve.models.exchange import Exchange
from serve.tasks.protocol import Outputs, Task

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
    """Index over what is answered; None with too few texts, or where the card does not know the training texts."""
    lengths: float | None
    """Index over the lengths in tokens."""

    @property
    def alarm(self) -> bool:
        """Whether either index says another population."""
        return max(self.labels or 0.0, self.lengths or 0.0) > ALARM


class DriftWindow:
    """Answers to the texts that were asked last, and these texts' lengths."""

    def __init__(self, task: Task, training: TrainingData | None) -> None:
        self.task, self.training = task, training
        self._seen: deque[tuple[str, int]] = deque(maxlen=WINDOW_TEXTS)

    def note(self, lengths_B: Sequence[int], outputs: Outputs) -> None:
        """Take in the texts of one request, with their settled outputs."""
        self._seen.extend(zip(self.task.said(outputs), lengths_B, strict=True))

    def report(self) -> Drift:
        """How far the window is from training."""
        seen, names = list(self._seen), self.task.sayings
        labels = Counter(label for label, _ in seen)
        shares = {name: labels[name] / len(seen) for name in names} if seen else {}
        if self.training is None or len(seen) < ENOUGH_TEXTS:
            return Drift(len(seen), shares, None, None)
        edges = self.training.length_edges
        bins = Counter(bisect_left(edges, length) for _, length in seen)
        by_label = [self.training.labels.get(name, 0.0) for name in names]
        return Drift(
            len(seen),
            shares,
            stability_index(by_label, [labels[name] for name in names]),
            stability_index(self.training.length_shares, [bins[place] for place in range(len(edges) + 1)]),
        )


def note_asked(drift_windows: Mapping[str, DriftWindow], exchange: Exchange) -> None:
    """Take in a request, where it asked one of these models for answers, with those that it got."""
    window = drift_windows.get(exchange.model or "")
    if exchange.outcome is not None and window is not None:
        window.note(exchange.outcome.lengths, exchange.outcome.outputs)


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
