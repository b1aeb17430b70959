"""Figures of a replica on Ray's own Prometheus endpoint, tagged with application, deployment and replica.

    metrics = Metrics(models)
    metrics.note(exchange)
    metrics.flush()                  # every second: what was noted becomes visible

Requests, their seconds, texts, batches, padding, what waits, the cache, and how far labels and lengths are from training.
cluster/dashboards/serve.json shows them in Grafana.
"""

import logging
from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ray.serve.metrics import Counter, Gauge, Histogram

from serve.models.batching import BatchCounts, Batcher
from serve.models.exchange import Exchange
from serve.models.local import LocalModel
from serve.models.rollout.cascade import CascadeCounts
from serve.models.rollout.shadow import ShadowCounts
from serve.watch.drift import DriftWindow
from serve.watch.feedback import Score

LOGGER = logging.getLogger("ray.serve")
SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]
BATCH_TEXTS = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]
ROUTES = frozenset({"/v1/predict", "/v1/embeddings", "/v1/explain", "/v1/models", "/v1/drift", "/v1/shadow", "/v1/feedback"})
"""Paths that have a series of their own; others are counted together, or anyone could make series without end."""


class RequestMetrics:
    """Requests of the HTTP application."""

    def __init__(self) -> None:
        self._requests = Counter("raystill_requests", "Requests answered.", ("route", "model", "status"))  # type: ignore[arg-type]
        self._seconds = Histogram("raystill_request_seconds", "From request to answer.", SECONDS, ("route",))
        self._texts = Counter("raystill_request_texts", "Texts in requests.", ("model",))
        self._noted: list[tuple[str, str, int, int, float]] = []

    def note(self, exchange: Exchange) -> None:
        """Take in a request that was answered."""
        route = exchange.path if exchange.path in ROUTES else "other"
        self._noted.append((route, tag(exchange.model or ""), exchange.status, len(exchange.items), exchange.seconds))

    def flush(self) -> None:
        """Make visible what was noted."""
        noted, self._noted = self._noted, []
        for (route, model, status), count in Tally(one[:3] for one in noted).items():
            self._requests.inc(count, {"route": route, "model": model, "status": str(status)})
        for model in {one[1] for one in noted if one[3]}:
            self._texts.inc(sum(one[3] for one in noted if one[1] == model), {"model": model})
        for route, *_, seconds in noted:
            self._seconds.observe(seconds, {"route": route})


class ModelMetrics:
    """What one model does in this replica."""

    def __init__(self, model: LocalModel) -> None:
        self.model = model
        self._tags = {"model": tag(model.served.name)}
        names: Sequence[tuple[str, str]] = (
            ("batches", "Forward passes."),
            ("texts", "Texts run."),
            ("tokens", "Tokens run, without padding."),
            ("padded_tokens", "Tokens run, with padding."),
            ("joined", "Texts that were in work already."),
            ("cached", "Texts answered from the cache."),
        )
        self._counters = {name: Counter(f"raystill_{name}", about, ("model",)) for name, about in names}
        self._sizes = Histogram("raystill_batch_texts", "Texts in a forward pass.", BATCH_TEXTS, ("model",))
        self._waiting = Gauge("raystill_waiting_texts", "Texts that wait or are being run.", ("model",))
        self._before: dict[Batcher, BatchCounts] = {}

    def flush(self) -> None:
        """Make visible what the batchers did since the last time."""
        waiting = 0
        for batcher in (self.model.outputs_batcher, self.model.embeddings_batcher):
            waiting += batcher.waiting
            now, before = batcher.counts.copy(), self._before.get(batcher, BatchCounts())
            self._before[batcher] = now
            for name, counter in self._counters.items():
                if more := getattr(now, name) - getattr(before, name):
                    counter.inc(more, self._tags)
            for size in batcher.take_sizes():
                self._sizes.observe(size, self._tags)
        self._waiting.set(waiting, self._tags)


class DriftMetrics:
    """How far what clients ask of the models is from training; where it is far, the log says so once."""

    def __init__(self, drift_windows: Mapping[str, DriftWindow]) -> None:
        self.drift_windows, self._alarmed = drift_windows, set[str]()
        self._shares = Gauge("raystill_label_share", "Share of a label.", ("model", "label", "of"))  # type: ignore[arg-type]
        self._drift = Gauge("raystill_drift", "Population stability index against training.", ("model", "what"))  # type: ignore[arg-type]

    def flush(self) -> None:
        """Label shares and the indices; not every second, for it counts over the whole window."""
        for name, window in self.drift_windows.items():
            drift, tags = window.report(), {"model": tag(name)}
            for label, share in drift.label_shares.items():
                self._shares.set(share, {**tags, "label": tag(label), "of": "requests"})
            for label, share in (window.training.labels if window.training else {}).items():
                self._shares.set(share, {**tags, "label": tag(label), "of": "training"})
            for what, index in (("labels", drift.labels), ("lengths", drift.lengths)):
                if index is not None:
                    self._drift.set(index, {**tags, "what": what})
            if drift.alarm and name not in self._alarmed:
                LOGGER.warning(
                    f"The texts asked of {name} are not like those that it was trained on: stability index {drift.labels:.2f} "
                    f"of labels, {drift.lengths:.2f} of lengths, over the newest {drift.texts} texts"
                )
            (self._alarmed.add if drift.alarm else self._alarmed.discard)(name)


class SecondMetrics:
    """Texts that a second model was asked or shown, by what became of them: `counts` has a field for each."""

    def __init__(self, what: str, about: str, model: str, counts: CascadeCounts | ShadowCounts) -> None:
        self.model, self.counts, self._before = tag(model), counts, dict[str, int]()
        self._texts = Counter(f"raystill_{what}_texts", about, ("model", "became"))  # type: ignore[arg-type]

    def flush(self) -> None:
        """Make visible what was counted since the last time."""
        now = asdict(self.counts)
        for became, count in now.items():
            if more := count - self._before.get(became, 0):
                self._texts.inc(more, {"model": self.model, "became": became})
        self._before = now


class FeedbackMetrics:
    """How good the newest answers of each version are, by what people said of them."""

    def __init__(self) -> None:
        names: Any = ("model", "version", "variant")
        self._counts = Gauge("raystill_feedbacks", "Answers that the score is of.", names)
        self._right = Gauge("raystill_feedback_right", "Mean goodness, and its interval.", (*names, "what"))

    def show(self, scores: Sequence[Score]) -> None:
        """Make them visible."""
        for score in scores:
            model = score.model
            tags = {"model": tag(model.name), "version": tag(model.fingerprint[:12]), "variant": tag(model.variant)}
            self._counts.set(score.feedbacks, tags)
            for what, value in (("mean", score.right), ("low", score.low), ("high", score.high)):
                self._right.set(value, {**tags, "what": what})


def tag(value: str) -> str:
    """A tag's value: Ray takes ASCII alone, and fails on 其他."""
    return value.encode("ascii", "backslashreplace").decode()
