"""The clock of a run: how fast it goes, how long it waited for data, when it last saved.

clock = StepClock(step=0, tokens=0, seconds=0.0)
"""

import time

PREEMPTION_POLL_SECONDS = 2.0
"""How often to ask whether a node is about to be taken away; clouds say so 30 s to 2 minutes before."""


class StepClock:
    """Times of one run in this process; seconds of earlier processes of the run are added."""

    def __init__(self, step: int, tokens: int, seconds: float) -> None:
        self.earlier, self.began = seconds, time.monotonic()
        self.asked = self.last_save = self.marked = self.began
        self.step, self.tokens, self.first = step, tokens, step

    def seconds(self) -> float:
        """Of the whole run so far."""
        return self.earlier + time.monotonic() - self.began

    def ready(self) -> None:
        """The next batch is asked for."""
        self.asked = time.monotonic()

    def waited(self) -> float:
        """Seconds since it was asked for."""
        return time.monotonic() - self.asked

    def saved(self) -> None:
        """A checkpoint was handed over."""
        self.last_save = time.monotonic()

    def since_save(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self.last_save

    def steps_between_polls(self, step: int) -> int:
        """How many steps of this process's mean length fit into PREEMPTION_POLL_SECONDS; one at least."""
        mean = (time.monotonic() - self.began) / max(1, step - self.first)
        return max(1, int(PREEMPTION_POLL_SECONDS / max(mean, 1e-9)))

    def since(self, step: int, tokens: int) -> dict[str, float]:
        """Steps and tokens a second since this was last asked."""
        now = time.monotonic()
        seconds = max(now - self.marked, 1e-9)
        figures = {
            "steps_per_second": round((step - self.step) / seconds, 3),
            "tokens_per_second": round((tokens - self.tokens) / seconds, 1),
        }
        self.marked, self.step, self.tokens = now, step, tokens
        return figures
