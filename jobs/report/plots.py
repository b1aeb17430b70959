"""The figures of a report as inline SVG: quality against latency, learning curves, trials of a search, confusion, lengths.

    quality_plot(report["rows"], metric_of(report), winner="small:int8", minimum_kept=0.97)    # "<svg …>"

Each figure is one panel, drawn small; the page lays panels side by side or below each other.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from jobs.core.metric import Metric
from jobs.judging.pareto import pareto_front
from jobs.report.label_placement import Label, place_labels
from jobs.report.svg import ACCENT, CARD, FAINT, INK, MUTED, SECOND_ACCENT, caption, draw_svg
from jobs.report.tables import fraction, megabytes, metric_name, shorten, significant

BUBBLE_POINTS = 50
"""Diameter of the largest candidate's bubble; areas are in proportion to bytes, down to a dot that can be seen."""
SMALLEST_POINTS = 6
LOG_FROM = 20
"""A searched value whose largest is so many times its smallest is shown on a log axis."""
FEW_VALUES = 5
"""A searched whole number with so few values is shown as a choice between them."""
NARROW_PIXELS = 600
"""Figures narrower than this, in pixels, name their points more briefly."""
MANY = 12
"""More bubbles than these could not all be named without names on top of each other."""
MOST_NUMBERED_LABELS = 12
NOT_SCORES = frozenset({"step", "loss", "learning_rate", "epoch", "seconds", "tokens_per_second", "gradient_norm"})
PANEL = (330, 250)


def quality_plot(
    rows: Sequence[Mapping[str, Any]],
    metric: Metric,
    winner: str | None = None,
    minimum_kept: float | None = None,
    size: tuple[int, int] = (1000, 460),
    name: str = "quality",
    floor: Mapping[str, Any] | None = None,
) -> str:
    """Score against p95 latency (log), bubbles by bytes, the front of the two axes as a line, the budget as a dashed one.

    `rows[0]` is the teacher: the budget keeps `minimum_kept` of its score. Candidates on the front of score, latency
    and bytes are solid, beaten ones faint. The floor (what a report says under this name) is a square that says what it is,
    with a dotted line at its score.
    """
    best, alone = set(pareto_front(rows, mode=metric.mode)), pareto_front(rows, ("latency_p95_ms",), metric.mode)
    edge = sorted((row for row in rows if row["candidate"] in alone), key=_latency)
    named = metric_name(metric.name) if metric.mode == "max" else f"{metric_name(metric.name)} (less is better)"

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot([_latency(row) for row in edge], [row["score"] for row in edge], color=FAINT, linewidth=1.2, zorder=1)
        for row in rows:
            won, kept = row["candidate"] == winner, row["candidate"] in best
            colour = ACCENT if won else MUTED if kept else FAINT
            if row.get("interval"):
                axes.plot([_latency(row)] * 2, row["interval"], color=colour, linewidth=1, alpha=0.55, zorder=2)
            face: dict[str, Any] = {"alpha": 0.9 if won else 0.42 if kept else 0.2, "edgecolors": colour, "linewidths": 1.2}
            face["marker"] = "s" if row.get("floor") else "o"
            axes.scatter(_latency(row), row["score"], s=_points(row, rows) ** 2, c=colour, zorder=4 if won else 3, **face)
            if floor and row["candidate"] == floor["candidate"]:
                axes.axhline(row["score"], color=MUTED, linewidth=1.1, dashes=(1, 3), zorder=0, gid="floor")
        caption(axes, f"{named}, with its interval")
        axes.set_xlabel("p95 latency, ms (log scale): faster to the left")
        _logarithmic(axes, [_latency(row) for row in rows], 0.2 if size[0] < NARROW_PIXELS else 0.13)
        asked = None if minimum_kept is None else metric.keeping(minimum_kept, rows[0]["score"])
        shown = _roomy(axes, rows, asked)
        budget = _budget_line(axes, asked, minimum_kept) if shown and asked and minimum_kept else None
        _label_bubbles(axes, rows, best, edge, winner, budget, floor)

    return draw_svg(name, f"{metric_name(metric.name)} against latency, bubble area by size on disk", size, paint)


def curves_plot(step: str, curve: Sequence[Mapping[str, Any]], metric: str | None = None) -> str:
    """One training step: loss against optimiser step, and below it the validation score where it was measured."""
    score = score_key(curve, metric)

    def paint(figure: Figure) -> None:
        panels = figure.subplots(2 if score else 1, 1, sharex=True, squeeze=False)[:, 0]
        _line(panels[0], [point for point in curve if point.get("loss") is not None], "loss", MUTED)
        caption(panels[0], "training loss")
        if score:
            measured = [point for point in curve if point.get(score) is not None]
            _line(panels[1], measured, score, ACCENT)
            panels[1].plot([p["step"] for p in measured], [p[score] for p in measured], "o", color=ACCENT, markersize=3.5)
            caption(panels[1], f"validation {metric_name(score).removeprefix('validation ')}")
        panels[-1].set_xlabel("step")
        panels[-1].xaxis.set_major_locator(MaxNLocator(5, integer=True))

    return draw_svg(f"curve-{step}", f"learning curve of {step}", PANEL, paint)


def trials_plot(
    step: str, path: str, trials: Sequence[Mapping[str, Any]], mode: str = "max", winner: str | None = None
) -> str | None:
    """Score against one searched value; stopped trials hollow, the best named. None where no trial has both."""
    shown = [trial for trial in trials if trial.get("score") is not None and path in trial["values"]]
    if not shown:
        return None
    top = (max if mode == "max" else min)(shown, key=lambda trial: trial["score"])
    best = next((trial for trial in shown if trial["name"] == winner), top)

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        places = _value_axis(axes, [trial["values"][path] for trial in shown])
        for place, trial in zip(places, shown, strict=True):
            colour = ACCENT if trial is best else MUTED
            face = colour if trial.get("status") == "finished" else CARD
            axes.scatter(place, trial["score"], s=52, c=face, edgecolors=colour, linewidths=1.4, zorder=3)
        axes.margins(y=0.2)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        mark = (places[shown.index(best)], best["score"])
        _note(axes, fraction(best["score"]), mark, (0, 8), ha="center", color=ACCENT, weight="bold")
        axes.set_xlabel(path)
        caption(axes, "score")

    return draw_svg(f"trials-{step}-{path}", f"score of the trials of {step} against {path}", (PANEL[0], 220), paint)


def confusion_plot(name: str, labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Counts of true (rows) against predicted (columns) labels, shaded by the share of the true label."""
    classes = len(labels)
    side = max(220, min(470, 110 + 62 * classes))
    numbered = classes <= MOST_NUMBERED_LABELS

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for row, line in enumerate(counts):
            for column, number in enumerate(line):
                share = number / max(1, sum(line))
                box = Rectangle(
                    (column - 0.5, row - 0.5), 1, 1, linewidth=0, facecolor=ACCENT if row == column else SECOND_ACCENT
                )
                box.set_alpha(0.05 + 0.85 * share)
                axes.add_patch(box)
                if numbered:
                    look: dict[str, Any] = {"color": CARD if share > 0.5 else INK, "fontsize": 13 if classes < 5 else 10}
                    axes.text(column, row, f"{number:,}", ha="center", va="center", **look)
        axes.set(xlim=(-0.5, classes - 0.5), ylim=(classes - 0.5, -0.5), aspect="equal")
        axes.grid(False)
        axes.spines[:].set_visible(False)
        shown = range(classes) if classes <= 30 else range(0, classes, math.ceil(classes / 30))
        names = [shorten(labels[position], 14) for position in shown]
        size = 10.5 if numbered else max(6, 10.5 - classes / 8)
        turned = classes > 4 or max(map(len, names)) > 9
        axes.set_xticks(list(shown), names, fontsize=size, rotation=90 if turned else 0)
        axes.set_yticks(list(shown), names, fontsize=size)
        axes.tick_params(length=0)
        axes.set_xlabel("predicted")
        caption(axes, "true")

    return draw_svg(f"confusion-{name}", f"confusion matrix of {name}", (side, side), paint)


def histogram_plot(unit: str, edges: Sequence[int], counts: Sequence[int]) -> str:
    """How many rows have which length; the axis of lengths is logarithmic, as are the steps between the edges."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        widths = [high - low for low, high in pairwise(edges)]
        axes.bar(edges[:-1], counts, widths, align="edge", color=ACCENT, alpha=0.75, edgecolor=CARD, linewidth=0.6)
        _logarithmic(axes, edges, 0.02)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlabel(f"{unit} (log scale)")
        caption(axes, "rows")

    return draw_svg(f"lengths-{unit}", f"how many rows have how many {unit}", (430, 230), paint)


def score_key(curve: Sequence[Mapping[str, Any]], metric: str | None = None) -> str | None:
    """Under which key a curve keeps its validation score: the report's metric, else its first figure that is no loss."""
    keys = [key for point in curve for key, value in point.items() if isinstance(value, int | float) and key not in NOT_SCORES]
    return metric if metric in keys else keys[0] if keys else None


def _latency(row: Mapping[str, Any]) -> float:
    return float(row["latency_p95_ms"])


def _line(axes: Axes, points: Sequence[Mapping[str, Any]], key: str, colour: str) -> None:
    """A line with its last value written at its end, in place of a legend."""
    if not points:
        return
    axes.plot([point["step"] for point in points], [point[key] for point in points], color=colour, linewidth=1.6)
    last = points[-1]
    text = fraction(last[key]) if key != "loss" else significant(last[key])
    _note(axes, text, (last["step"], last[key]), (6, 0), va="center", color=colour, weight="bold", annotation_clip=False)
    axes.margins(x=0.02, y=0.15)
    axes.yaxis.set_major_locator(MaxNLocator(3))


def _note(axes: Axes, text: str, place: tuple[float, float], offset: tuple[float, float], **style: Any) -> None:
    axes.annotate(text, place, offset, textcoords="offset points", **style)


def _logarithmic(axes: Axes, values: Sequence[float], margin: float) -> None:
    """A log axis with a margin on both sides and ticks at 1, 2, 5, 10 … in plain figures."""
    low, high = math.log10(min(values)), math.log10(max(values))
    pad = margin * max(high - low, 0.5)
    axes.set_xscale("log")
    axes.set_xlim(10 ** (low - pad), 10 ** (high + pad))
    axes.xaxis.set_major_locator(LogLocator(10, (1, 2, 5) if high - low < 1.3 else (1, 3) if high - low < 2.5 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _plainest(value)))
    axes.xaxis.set_minor_locator(NullLocator())


def _plainest(value: float) -> str:
    """0.5, 20, 3e-5: without the zero of 3e-05, and without a row of zeros."""
    return f"{value:g}" if value >= 0.001 else f"{value:.0e}".replace("e-0", "e-")


def _roomy(axes: Axes, rows: Sequence[Mapping[str, Any]], budget: float | None) -> bool:
    """Limits that hold every interval, and the budget too where that costs less than half the height: whether it did."""
    bounds = [bound for row in rows for bound in row.get("interval") or [row["score"]]]
    low, high = min(bounds), max(bounds)
    span = max(high - low, 0.02 * max(abs(high), 0.01))
    shown = budget is not None and low - span < budget < high + span
    if budget is not None and shown:
        low, high = min(low, budget), max(high, budget)
    axes.set_ylim(low - 0.12 * span, high + 0.12 * span)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    return shown


def _points(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> float:
    """The diameter of a candidate's bubble."""
    largest = max(other["bytes"] for other in rows)
    return float(max(SMALLEST_POINTS, BUBBLE_POINTS * math.sqrt(row["bytes"] / largest)))


def _budget_line(axes: Axes, score: float, kept: float) -> Annotation:
    text = f"budget: keep {100 * kept:g}% of the teacher"
    axes.axhline(score, color=SECOND_ACCENT, linewidth=1.1, dashes=(5, 4), zorder=0)
    place: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "gid": "budget"}
    return axes.annotate(text, (1, score), (-3, -4), ha="right", va="top", color=SECOND_ACCENT, fontsize=11.5, **place)


def _value_axis(axes: Axes, values: Sequence[Any]) -> list[float]:
    """Where the values stand on the x axis: numbers by size (log where they span far), all else one after another."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    distinct = sorted(set(values)) if numbers else []
    few = len(distinct) == 1 or len(distinct) <= FEW_VALUES and all(isinstance(value, int) for value in distinct)
    if numbers and not few:
        if min(values) > 0 and max(values) >= LOG_FROM * min(values):
            _logarithmic(axes, values, 0.12)
        else:
            axes.margins(x=0.1)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}".replace("e-0", "e-")))
        return [float(value) for value in values]
    names = [str(value) for value in (distinct if numbers else dict.fromkeys(values))]
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.xaxis.set_major_locator(FixedLocator(range(len(names))))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: shorten(names[round(place)], 16)))
    return [float(names.index(str(value))) for value in values]


def _label_bubbles(
    axes: Axes,
    rows: Sequence[Mapping[str, Any]],
    best: set[str],
    edge: Sequence[Mapping[str, Any]],
    winner: str | None,
    budget: Annotation | None,
    floor: Mapping[str, Any] | None,
) -> None:
    """Name and size beside each bubble, the winner's first; the error bars and the budget's text stay readable. The floor's
    name also says what it is.

    Of many bubbles those on the front, the teacher and the floor alone are named; the table has the others.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    # The layout is final now: drawn again, long labels would move the axes below the places chosen for them.
    figure.set_layout_engine("none")
    labels, narrow = [], figure.bbox.width < NARROW_PIXELS
    reserved = [budget.get_window_extent()] if budget else []
    always = {*best, winner, rows[0]["candidate"], floor and floor["candidate"]}
    named = [row for row in rows if len(rows) <= MANY or row["candidate"] in always]
    for row in sorted(named, key=lambda row: row["candidate"] != winner):
        won = row["candidate"] == winner
        colour = ACCENT if won else INK if row["candidate"] in best else MUTED
        style = {"color": colour, "fontsize": 12, "weight": "bold" if won else "normal"}
        size = "" if narrow else f" · {megabytes(row['bytes'])} MB"
        text = shorten(row["candidate"], 16 if narrow else 26)
        if floor and row["candidate"] == floor["candidate"]:
            text += f": {floor['what']}"
            level = axes.transData.transform((_latency(row), row["score"]))[1]
            reserved.append(Bbox.from_extents(axes.bbox.x0, level - 1.5, axes.bbox.x1, level + 1.5))
        labels.append(Label(text + size, _latency(row), row["score"], _points(row, rows) / 2, style))
        if row.get("interval"):
            x, low = axes.transData.transform((_latency(row), row["interval"][0]))
            high = axes.transData.transform((_latency(row), row["interval"][1]))[1]
            reserved.append(Bbox.from_extents(x - 1.5, low, x + 1.5, high))
    place_labels(axes, labels, [*reserved, *_along(axes, edge)])


def _along(axes: Axes, edge: Sequence[Mapping[str, Any]]) -> Iterator[Bbox]:
    """Small boxes along the front's line, so that no label is struck through by it."""
    corners = [axes.transData.transform((_latency(row), row["score"])) for row in edge]
    for (x1, y1), (x2, y2) in pairwise(corners):
        pieces = max(1, round(math.hypot(x2 - x1, y2 - y1) / 6))
        for piece in range(pieces):
            share = (piece + 0.5) / pieces
            yield Bbox.from_bounds(x1 + share * (x2 - x1) - 3, y1 + share * (y2 - y1) - 1.5, 6, 3)
