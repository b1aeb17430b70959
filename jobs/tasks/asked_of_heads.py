"""What may be asked of several heads of one model, from what may be asked of each: figures, losses, and what these have.

class SeveralLearning(AskedOfHeads): …
"""

from collections.abc import Sequence
from typing import Any

from jobs.contracts.learning import Learning
from jobs.core.config import Config
from jobs.core.metric import Metric
from jobs.tasks.head_settings import each_setting, head_path, heads_loss
from jobs.tasks.judged_heads import behind_head, heads_metrics
from jobs.tasks.known_heads import each_head
from serve.tasks.shared.by_head import of_head

OWN_LOSS = "own"
"""Each head's answers are compared in its kind's usual way."""


class AskedOfHeads(Learning):
    """Learning of a task whose settings and spec have heads."""

    def metrics_in(self, settings: Any) -> tuple[Metric, ...]:
        """The mean score, and each head's own."""
        return heads_metrics({name: learning.metrics_in(own) for name, learning, own in each_setting(settings)})

    def metrics_of(self, spec: Any) -> tuple[Metric, ...]:
        """The same of this very task."""
        return heads_metrics({name: learning.metrics_of(task) for name, learning, task in each_head(spec)})

    def metric(self, spec: Any, name: str | None) -> Metric:
        """One of these, or of those that a head measures where it is asked for them."""
        if name is None or name in {metric.name for metric in self.metrics_of(spec)}:
            return super().metric(spec, name)
        for head, learning, task in each_head(spec):
            if own := of_head({name: name}, head):
                return behind_head(learning.metric(task, next(iter(own))), head)
        raise KeyError(name)

    def metric_in(self, settings: Any, name: str) -> Metric:
        """The same as far as the recipe alone tells."""
        if name in {metric.name for metric in self.metrics_in(settings)}:
            return super().metric_in(settings, name)
        for head, learning, own_settings in each_setting(settings):
            if own := of_head({name: name}, head):
                return behind_head(learning.metric_in(own_settings, next(iter(own))), head)
        raise KeyError(name)

    def loss_in(self, settings: Any) -> type[Config]:
        """Weights of the heads, and what each head's own loss takes."""
        return heads_loss(tuple((name, learning.loss_in(own)) for name, learning, own in each_setting(settings)))

    def loss_of(self, spec: Any) -> type[Config]:
        """The same of this very task."""
        return heads_loss(tuple((name, learning.loss_of(task)) for name, learning, task in each_head(spec)))

    def soft_losses_in(self, settings: Any) -> tuple[str, ...]:
        """Each head's usual one, or one that all of them have."""
        return _common([learning.soft_losses_in(own) for _, learning, own in each_setting(settings)])

    def soft_losses_of(self, spec: Any) -> tuple[str, ...]:
        """The same of this very task."""
        return _common([learning.soft_losses_of(task) for _, learning, task in each_head(spec)])

    def lists_in(self, settings: Any) -> tuple[str, ...]:
        """Those of each head."""
        return tuple(head_path(name, key) for name, learning, own in each_setting(settings) for key in learning.lists_in(own))

    def augments_in(self, settings: Any) -> bool:
        """Whether it is so for all heads."""
        return all(learning.augments_in(own) for _, learning, own in each_setting(settings))

    def calibrates_in(self, settings: Any) -> bool:
        """Whether any head does: the error is that of the worst."""
        return any(learning.calibrates_in(own) for _, learning, own in each_setting(settings))

    def says_how_sure_in(self, settings: Any) -> bool:
        """Whether any head does."""
        return any(learning.says_how_sure_in(own) for _, learning, own in each_setting(settings))

    def fitted_keys(self, settings: Any) -> tuple[str, ...]:
        """Those of each head."""
        each = ((name, learning.fitted_keys(own)) for name, learning, own in each_setting(settings))
        return tuple(f"heads.{name}.{key}" for name, keys in each for key in keys)

    def softens_in(self, settings: Any) -> bool:
        """Whether any head does."""
        return any(learning.softens_in(own) for _, learning, own in each_setting(settings))


def _common(each: Sequence[Sequence[str]]) -> tuple[str, ...]:
    return (OWN_LOSS, *(loss for loss in each[0] if all(loss in own for own in each)))
