"""Thresholds of single labels, fitted on validation: labels held to a precision or a recall, and texts of none of them.

    thresholds, figures = fit_thresholds(spec, logits_NC, truth_N)          # logits at their temperature
    requirements_on(spec, predicted_N, truth_N)                             # what is kept of them on other texts
    told_of(spec, figures)                                                  # sentences about what could not be shown

Of all thresholds that keep what is required, a precision has the lowest, which gives its label to the most texts, and a recall
the highest. Where none does, it is the one that comes nearest, and that is told. N texts, C labels.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.contracts.learning import Blocks
from jobs.tasks.label_rates import divided
from serve.tasks.shared.decisions import DecidingTask, Requirement, scope
from serve.tasks.shared.labels import THRESHOLD
from serve.tasks.shared.probabilities import softmax

if TYPE_CHECKING:
    from jobs.report.html import Html

FITTING_ROUNDS = 10
"""Times that each label's threshold is fitted to those of the others."""
USUALLY_SURE = 0.95
"""How sure lower ends are, where nobody says."""
LOW, ROWS = " low", " rows"


def fit_thresholds(
    spec: DecidingTask, logits_NC: np.ndarray, truth_N: np.ndarray
) -> tuple[dict[str, float], dict[str, float]]:
    """The thresholds by name; and for each label that is held to something what it comes to on these texts, the lower end of
    that, and on how many texts it was counted."""
    fitted: dict[str, float] = {}
    if spec.none is not None and (truth_N < len(spec.labels)).any():
        sure_N = scope(softmax(logits_NC))[truth_N < len(spec.labels)]
        fitted[f"{THRESHOLD}{spec.none.label}"] = keeping(sure_N, spec.none.keep)
    # Those that take texts from others come first.
    order = sorted(spec.require, key=lambda label: spec.require[label].rate == "precision")
    for _ in range(FITTING_ROUNDS):
        before = dict(fitted)
        for label in order:
            _fit(spec, label, logits_NC, truth_N, fitted)
        if fitted == before:
            break
    predicted_N = spec.worths(logits_NC, fitted).argmax(axis=1)
    figures = {} if spec.none is None else {"answered": _mean((predicted_N < len(spec.labels))[truth_N < len(spec.labels)])}
    for found in requirements_on(spec, predicted_N, truth_N):
        name = f"{found['rate']} {found['label']}"
        figures |= {name: found["reached"], name + LOW: found["low"], name + ROWS: float(found["rows"])}
    return fitted, figures


def requirements_on(spec: DecidingTask, predicted_N: np.ndarray, truth_N: np.ndarray) -> list[dict[str, Any]]:
    """What each label that is held to something comes to on these texts: whether that holds, its 95 % interval, the one-sided
    lower end, and over how many texts it is a share."""
    found = []
    for label, required in spec.require.items():
        given_N, true_N = predicted_N == spec.labels.index(label), truth_N == spec.labels.index(label)
        right, rows = int((given_N & true_N).sum()), int((given_N if required.precision is not None else true_N).sum())
        reached = right / rows if rows else 0.0
        low = lower_end(right, rows, required.sure or USUALLY_SURE)
        found.append(
            {
                "label": label,
                "rate": required.rate,
                "least": required.least,
                "reached": reached,
                "interval": list(share_interval(right, rows)),
                "low": low,
                "rows": rows,
                "holds": rows > 0 and (low if required.sure is not None else reached) >= required.least,
            }
        )
    return found


def told_of(spec: DecidingTask, figures: Mapping[str, float], named: str = "") -> list[str]:
    """What the validation rows did not show of what is required; `figures` are those of `fit_thresholds`, behind that name."""
    told = []
    for label, required in spec.require.items():
        name = f"{named}{required.rate} {label}"
        if name not in figures:
            continue
        reached, low, rows = figures[name], figures[name + LOW], figures[name + ROWS]
        asked = f"{required.rate} {required.least:g} is required of {label!r}"
        shown = f"{reached:.3f} on {rows:.0f} validation rows (at least {low:.3f}, {required.sure or USUALLY_SURE:.0%} sure)"
        if not rows:
            told.append(f"{asked}, and no validation row says anything of it")
        elif (low if required.sure is not None else reached) < required.least:
            told.append(f"{asked}, and no threshold keeps it: {shown}")
        elif low < required.least:
            told.append(f"{asked}, and its rows are too few to be sure of it: {shown}")
    return told


def requirements_section(report: Mapping[str, Any], blocks: Blocks) -> "Html | None":
    """Whether each candidate keeps what its labels are held to, on the texts that it is judged by."""
    held = [(row["candidate"], found) for row in report["rows"] for found in row.get("requirements", ())]
    header = ("candidate", "label", "required", "reached", "95 % interval", "texts", "holds")
    return blocks.figures("What labels are held to", header, [(name, *_cells(found)) for name, found in held])


def keeping(values_N: np.ndarray, share: float) -> float:
    """The threshold that at least this share of the values reaches, and as few more as there can be; halfway to the next
    one."""
    sorted_N = np.sort(values_N)[::-1]
    last = max(1, int(np.ceil(share * len(sorted_N) - 1e-9))) - 1
    below_N = sorted_N[sorted_N < sorted_N[last]]
    return float((sorted_N[last] + (below_N[0] if len(below_N) else 0.0)) / 2)


def lower_end(right: int, rows: int, sure: float) -> float:
    """What a share is at least, so sure (Clopper and Pearson 1934); 0 of no rows."""
    from scipy.stats import beta

    return float(beta.ppf(1 - sure, right, rows - right + 1)) if right else 0.0


def share_interval(right: int, rows: int) -> tuple[float, float]:
    """The 95 % interval of a share, by the same; all of it of no rows."""
    return lower_end(right, rows, 0.975), 1 - lower_end(rows - right, rows, 0.975) if rows else 1.0


def _fit(spec: DecidingTask, label: str, logits_NC: np.ndarray, truth_N: np.ndarray, fitted: dict[str, float]) -> None:
    """Fit the threshold of one label, the others being as they are; there is none where a recall is kept without."""
    column, required, name = spec.labels.index(label), spec.require[label], f"{THRESHOLD}{label}"
    probability_N, right_N = softmax(logits_NC)[:, column], truth_N == column
    wherever_N = spec.worths(logits_NC, {**fitted, name: 0.0}).argmax(axis=1) == column
    found: float | None
    if required.precision is not None:
        found = _lowest(required, probability_N[wherever_N], right_N[wherever_N])
    else:
        rest = {key: value for key, value in fitted.items() if key != name}
        anyway_N = spec.worths(logits_NC, rest).argmax(axis=1) == column
        more_N = wherever_N & ~anyway_N
        have = int((anyway_N & right_N).sum())
        found = _highest(required, probability_N[more_N], right_N[more_N], have, int(right_N.sum()))
    if found is None:
        fitted.pop(name, None)
    else:
        fitted[name] = found


def _lowest(required: Requirement, probability_N: np.ndarray, right_N: np.ndarray) -> float:
    """The lowest threshold with the precision; 1, which is as good as never, where no text says what it comes to."""
    order_N = np.argsort(-probability_N, kind="stable")
    cuts = _cuts(probability_N[order_N])
    if not cuts:
        return 1.0
    right_N, given_N = right_N[order_N].cumsum(), np.arange(1, len(order_N) + 1)
    shares = [_share(required, int(right_N[last]), int(given_N[last])) for last, _ in cuts]
    kept = [place for place, share in enumerate(shares) if share >= required.least]
    best = kept[-1] if kept else len(shares) - 1 - int(np.argmax(shares[::-1]))
    return cuts[best][1]


def _highest(required: Requirement, probability_N: np.ndarray, right_N: np.ndarray, have: int, rows: int) -> float | None:
    """The highest threshold with the recall, where so many of the rows have it anyway; None where that is enough or all there
    is."""
    if not rows or _share(required, have, rows) >= required.least:
        return None
    order_N = np.argsort(-probability_N, kind="stable")
    right_N = have + right_N[order_N].cumsum()
    cuts = _cuts(probability_N[order_N])
    for last, threshold in cuts:
        if _share(required, int(right_N[last]), rows) >= required.least:
            return threshold
    return cuts[-1][1] if cuts else None


def _share(required: Requirement, right: int, rows: int) -> float:
    return right / rows if required.sure is None else lower_end(right, rows, required.sure)


def _cuts(sorted_N: np.ndarray) -> list[tuple[int, float]]:
    """The places behind which a threshold can be, each with it, halfway to the next probability: equal ones stay together."""
    values: Sequence[float] = [*sorted_N.tolist(), 0.0]
    return [(place, (own + next_) / 2) for place, (own, next_) in enumerate(pairwise(values)) if next_ < own]


def _mean(values_N: np.ndarray) -> float:
    return float(divided(values_N.sum(), np.array(len(values_N))))


def _cells(found: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = found["interval"]
    asked, holds = f"{found['rate']} {found['least']:g}", "yes" if found["holds"] else "no"
    return (found["label"], asked, f"{found['reached']:.3f}", f"{low:.3f}–{high:.3f}", f"{found['rows']:,}", holds)
