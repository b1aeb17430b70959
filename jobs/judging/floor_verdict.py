"""What the teacher and the best candidate are worth above the floor, the cheapest model of the kind: figures and a sentence.

    told = against_floor(candidates, floor, None, metric, rows=931, what="a linear model")
    told["verdict"]            # "the teacher is 4.1 points above a linear model (interval 2.8 to 5.4)"

The differences are paired: all answer the same rows, and their resamples are the same ones (jobs/judging/against.py).

- The teacher is above the floor where the whole 95 % interval of teacher - floor is above 0.
- The floor does as well where that interval is below 0, or where the lower end of the share of the teacher's score that it
  keeps is at least 1 - MAY_LACK, over rows enough to show an error that one answer in 1 / MAY_LACK has.
- Else these rows cannot tell the two apart.

The best of the others is taken by its score on these very rows, which flatters it a little: it is named only where it says
something else than the teacher.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jobs.core.metric import Metric
from jobs.judging.against import compared
from jobs.tasks.figures import PERCENTILES

if TYPE_CHECKING:
    from jobs.judging.quality import Candidate

FloorOutcome = Literal["teacher above", "floor as good", "cannot be told apart"]
MAY_LACK = 0.02
"""The share of the teacher's score that a floor may lack, and does as well all the same."""
SHOWN_BY = 3
"""What none of N rows shows may still be in 3 of N, in 95 of 100 cases (Hanley & Lippman-Hand 1983)."""


def against_floor(
    candidates: "Sequence[Candidate]",
    floor: "Candidate",
    production: "Candidate | None",
    metric: Metric,
    rows: int,
    what: str,
) -> dict[str, Any]:
    """For the report: how teacher, best candidate and what is in production compare with the floor, and what follows.

    `candidates`: the teacher first, none of them of the floor's model; `what` it is, in words.
    """
    teacher, *others = candidates
    best = max(others, key=lambda one: metric.sign * one.figures["score"], default=None)
    told = {
        role: compared(one, floor, metric) | {"candidate": one.name, "gain_interval": _interval(one, floor, metric)}
        for role, one in (("teacher", teacher), ("best", best), ("production", production))
        if one is not None
    }
    scores = {role: one.figures for role, one in (("teacher", teacher), ("floor", floor))}
    outcome = outcome_of(told["teacher"], scores["floor"], rows)
    verdict = sentence(outcome, what, told, scores, metric, rows)
    return {"candidate": floor.name, "what": what, "outcome": outcome, "verdict": verdict, **told}


def what_it_is(floor: "Candidate") -> str:
    """A floor in words: the step's name, where a recipe has named a model of its own."""
    if floor.artifact.manifest.stage != "floor":
        return floor.name
    return "a linear model" if floor.task.width is not None else "the cheapest model"


def outcome_of(teacher: dict[str, Any], floor: dict[str, Any], rows: int) -> FloorOutcome:
    """Which of the two is the better one, by the teacher's gain over the floor, and by what the floor keeps."""
    low, high = teacher["gain_interval"]
    if low > 0:
        return "teacher above"
    keeps = rows * MAY_LACK >= SHOWN_BY and floor["kept_interval"][0] >= 1 - MAY_LACK
    return "floor as good" if high < 0 or keeps else "cannot be told apart"


def sentence(
    outcome: FloorOutcome,
    what: str,
    told: dict[str, dict[str, Any]],
    scores: dict[str, dict[str, Any]],
    metric: Metric,
    rows: int,
) -> str:
    """The verdict, in one sentence."""
    teacher, best = scores["teacher"], told.get("best")
    above = best is not None and best["gain_interval"][0] > 0
    also = f", but {_lead(best, what, metric)}" if best is not None and above else ""
    if outcome == "teacher above":
        short = "" if best is None or above else f"; {best['candidate']}, the best of the others, is not clearly above it"
        return _lead(told["teacher"] | {"candidate": "the teacher"}, what, metric) + short
    low, high = (_score(bound) for bound in scores["floor"]["interval"])
    floor, unit = _score(scores["floor"]["score"]), "" if _is_share(metric) else f"{metric.name} "
    if outcome == "floor as good":
        figures = f"{unit}{floor}, {low}–{high}, against {_score(teacher['score'])} of the teacher"
        return f"{what} does as well ({figures}){also or ': distilling brings nothing here'}"
    figures = f"{unit}{_score(teacher['score'])} against {floor}, a gain of {_bounds(told['teacher'], metric)}"
    return f"the teacher and {what} cannot be told apart on so few test rows ({rows:,}: {figures}){also}"


def _interval(one: "Candidate", floor: "Candidate", metric: Metric) -> list[float]:
    """The 95 % interval of the paired difference, as it is drawn and as it is moved by its bias: what either of them holds.

    Where the two differ in three rows at the most, some resamples lack all of them: their end is 0, and no bias.
    """
    drawn_R = metric.sign * (one.drawn_R - floor.drawn_R)
    ends = [*map(float, np.percentile(drawn_R, PERCENTILES)), *compared(one, floor, metric)["gain_interval"]]
    return [min(ends[::2]), max(ends[1::2])]


def _lead(one: dict[str, Any], what: str, metric: Metric) -> str:
    """How far a candidate is above the floor."""
    interval = f"(interval {_bounds(one, metric)})"
    if _is_share(metric):
        return f"{one['candidate']} is {100 * one['gain']:.1f} points above {what} {interval}"
    return f"{one['candidate']} is better than {what} by {one['gain']:.3g} of {metric.name} {interval}"


def _bounds(one: dict[str, Any], metric: Metric) -> str:
    low, high = one["gain_interval"]
    return f"{100 * low:.1f} to {100 * high:.1f}" if _is_share(metric) else f"{low:.3g} to {high:.3g}"


def _is_share(metric: Metric) -> bool:
    """Whether a figure is said in percent, so that differences of it are points."""
    return (metric.mode, metric.lowest, metric.highest) == ("max", 0.0, 1.0)


def _score(value: float) -> str:
    return f"{value:.3f}" if abs(value) <= 1 else f"{value:.3g}"
