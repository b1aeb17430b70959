"""What the training benchmarks share: turns of processes that each print one figure, and the clock of a training loop."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from transformers import TrainerCallback

from jobs.contracts.objective import State

PAIRS = 3


class Clock:
    """Hooks that note when each step is done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def progress(self, figures: dict[str, float]) -> None:
        self.times.append(time.perf_counter())

    def note(self, text: str) -> None: ...

    def evaluated(self, figures: dict[str, float], state: Callable[[], State]) -> None: ...

    def save(self, state: Callable[[], State]) -> None: ...

    def preempted(self) -> bool:
        return False

    def restore(self) -> State | None:
        return None


class TrainerClock(TrainerCallback):
    """The same for transformers' Trainer."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(time.perf_counter())


def figure(module: str, *arguments: str) -> float:
    """The number that a module prints on its last line, run in a process of its own."""
    return float(printed(module, *arguments))


def printed(module: str, *arguments: str) -> Any:
    """The JSON that a module prints on its last line, run in a process of its own."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def ratio(name: str, goal: float, unit: str, rounds: Sequence[Sequence[float]], **detail: Any) -> dict[str, Any]:
    """A measure: the median over the rounds of the first figure to the second."""
    return {
        "name": name,
        "value": round(median(ours / theirs for ours, theirs in rounds), 3),
        "goal": goal,
        "better": "higher",
        "unit": f"ratio of {unit}",
        "detail": {"pairs": [[round(figure, 1) for figure in pair] for pair in rounds], **detail},
    }
