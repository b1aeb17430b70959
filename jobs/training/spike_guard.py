"""Steps that would harm the model are not taken: a gradient that is not finite, or a loss far above the ones before.

guard = SpikeGuard(settings)
guard.refuses(step, loss, norm)        # None, or why the step must be skipped
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from jobs.training.settings import StepSkipping

SHOWN_EXAMPLES = 16
"""Numbers of examples that the error names."""


class Diverged(Exception):
    """Too many steps had to be skipped; the message names the step, its examples and the learning rate."""


@dataclass
class SpikeGuard:
    """What was skipped so far and the running mean of the losses; both are in a checkpoint."""

    settings: StepSkipping
    mean: float = 0.0
    seen: int = 0
    skipped: list[int] = field(default_factory=list)

    def refuses(self, step: int, loss: float | None, norm: float) -> str | None:
        """Why a step must be skipped, or None; losses (known where a spike is looked for) enter the running mean."""
        reason = None
        if not math.isfinite(norm):
            reason = f"the gradient's norm is {norm}"
        elif loss is not None and self._is_spike(loss):
            reason = f"the loss {loss:.4g} is {loss / self.mean:.1f} times the running mean {self.mean:.4g}"
        elif loss is not None:
            self.seen += 1
            self.mean += (loss - self.mean) / min(self.seen, self.settings.window)
        if reason is not None:
            self.skipped.append(step)
        return reason

    def _is_spike(self, loss: float) -> bool:
        assert self.settings.spike is not None
        return self.seen >= self.settings.window and loss > self.settings.spike * self.mean

    def check(self, step: int, reason: str, examples: Sequence[int], learning_rate: float) -> None:
        """Diverged where the limit is passed."""
        if len(self.skipped) <= self.settings.limit:
            return
        shown = ", ".join(map(str, examples[:SHOWN_EXAMPLES])) + (", …" if len(examples) > SHOWN_EXAMPLES else "")
        raise Diverged(
            f"step {step}: {reason} (learning rate {learning_rate:.2g}, training examples {shown}); "
            f"{len(self.skipped)} steps were skipped (the last: {self.skipped[-5:]}), stability.limit is "
            f"{self.settings.limit}. Lower optimizer.learning_rate, raise schedule.warmup, or look at these examples"
        )
