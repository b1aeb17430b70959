"""How far a step is, read back from its log: `print_progress` writes there, workers and libraries besides.

progress = Progress()
progress.read(line)        # each line once; whether it was one of progress
progress.words()           # "step 30/450  loss 6.2500  4.50 steps/s"
"""

import json
from itertools import islice
from typing import Any

from jobs.core.stage import PROGRESS_MARK

FORMS = {"rows": "rows {:.0f}", "loss": "loss {:.4f}", "perplexity": "perplexity {:.1f}"}
FORMS |= {"steps_per_second": "{:.2f} steps/s"}
NO_SCORES = {"step", "steps", "trial", "validation_loss", *FORMS}
_decoder = json.JSONDecoder()


class Progress:
    """The latest figures of a log. What cannot be read (cut off, two writers in one line) counts for nothing."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}
        self.trials: set[str] = set()
        """Those of a search that have spoken."""

    def read(self, line: str) -> bool:
        """Take a line in; returns whether it speaks of progress."""
        _, *parts = line.split(PROGRESS_MARK)
        for part in parts:
            try:
                found, _ = _decoder.raw_decode(part)
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict):
                self.figures = found
                self.trials |= {str(found["trial"])} if "trial" in found else set()
        return bool(parts)

    def words(self) -> str:
        """The figures in a few words: step 120/400, loss, steps/s, the latest evaluation."""
        figures = self.figures
        words = [str(figures["state"])] if "state" in figures else []
        if self.trials:
            words.append(f"trial {len(self.trials)}")
        if "steps" in figures:
            words.append(f"step {figures.get('step')}/{figures['steps']}")
        numbers = {key: value for key in FORMS if isinstance(value := figures.get(key), int | float)}
        told = [FORMS[key].format(value) for key, value in numbers.items()]
        return "  ".join([*words, *(told or self._score())])

    def _score(self) -> list[str]:
        """The first figure of an evaluation that is no loss: what the model is judged by."""
        found = self.figures.items() if "steps" in self.figures and "state" not in self.figures else ()
        scores = (f"{key} {value:.4f}" for key, value in found if key not in NO_SCORES and isinstance(value, float))
        return list(islice(scores, 1))
