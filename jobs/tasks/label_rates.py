"""Precision, recall and F1 of each label, with their averages: of kinds that give a text one label, or several.

    rates_by_label(labels, right_C, true_C, given_C)      # from counts: [{"label": "ham", "precision": …}, …]
    rates_sections(report, winner, blocks)                # the tables of the yardstick and of the winner

Where there is nothing to divide by a rate is 0, as scikit-learn's `zero_division=0` has it. C labels.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.contracts.learning import Blocks

if TYPE_CHECKING:
    from jobs.report.html import Html

RATES = ("precision", "recall", "f1")
HEADER = ("label", "precision", "recall", "F1", "support")


def rates_by_label(
    labels: Sequence[str], right_C: np.ndarray, true_C: np.ndarray, given_C: np.ndarray
) -> list[dict[str, Any]]:
    """Each label's rates and its support, from how often it was given rightly, was true, and was given."""
    rates_C3 = np.stack([divided(right_C, given_C), divided(right_C, true_C), divided(2 * right_C, true_C + given_C)], axis=1)
    return [
        {"label": label, **dict(zip(RATES, own, strict=True)), "support": int(support), "given": int(given)}
        for label, own, support, given in zip(labels, rates_C3.tolist(), true_C, given_C, strict=True)
    ]


def averages(rates: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The mean over labels that some text has or was given, each alike (macro), and by how many texts have it (weighted)."""
    support = sum(one["support"] for one in rates)
    # Older reports do not say how often a label was given.
    seen = [one for one in rates if one["support"] or one.get("given", 1)]

    def row(name: str, weights: Sequence[float]) -> dict[str, Any]:
        means = {key: _mean([one[key] for one in seen], weights) for key in RATES}
        return {"label": name, **means, "support": support}

    return [row("macro average", [1] * len(seen)), row("weighted average", [one["support"] for one in seen])]


def rates_sections(report: Mapping[str, Any], winner: str | None, blocks: Blocks) -> "list[Html | None]":
    """The table by label of the yardstick and of the winner."""
    rows = report["rows"]
    shown = [row for row in rows if row.get("by_label") and (row is rows[0] or row["candidate"] == winner)]
    return [
        blocks.figures(
            f"By label: {row['candidate']}", HEADER, [_cells(one) for one in (*row["by_label"], *averages(row["by_label"]))]
        )
        for row in shown
    ]


def divided(part: Any, whole: Any) -> Any:
    """part / whole, 0 where there is nothing to divide by."""
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=np.asarray(whole) > 0)


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return float(np.average(values, weights=weights)) if sum(weights) else 0.0


def _cells(rates: Mapping[str, Any]) -> tuple[str, ...]:
    return (rates["label"], *(f"{rates[key]:.3f}" for key in RATES), f"{rates['support']:,}")
