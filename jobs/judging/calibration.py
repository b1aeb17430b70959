"""What a kind of task fits (a temperature, thresholds), fitted for each variant of a published model by itself.

calibrate_variants(directory, ["onnx", "int8"], items, truth)          # the validation split's
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from jobs.contracts.learning import Truth
from jobs.tasks import learning_of
from serve.engines.card import read_card, write_card
from serve.engines.engine import load_engine
from serve.tasks.protocol import Item


def calibrate_variants(directory: Path, variants: Iterable[str], items: Sequence[Item], truth: Truth) -> dict[str, float]:
    """Fit what the task fits for each of these variants, through the engine that will answer, and enter it in the card."""
    card, figures = read_card(directory), dict[str, float]()
    if card.task is None or not items:
        return figures
    learning, found = learning_of(card.task.kind), dict(card.variants)
    for name in variants:
        fitted, of_it = learning.fit(card.task, load_engine(directory, name).outputs(items), truth)
        found[name] = found[name].model_copy(update={"fitted": dict(fitted)})
        figures |= {f"{name}_{key}": value for key, value in of_it.items()}
    write_card(directory, card.model_copy(update={"variants": found}))
    return figures
