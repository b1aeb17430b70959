"""The section of the report page about the winner with the teacher behind it: quality against cost, over thresholds."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from jobs.report.html import Html, element, table
from jobs.report.svg import ACCENT, MUTED, caption, draw_svg
from jobs.report.tables import fraction, metric_name, percent, significant

SIZE = (560, 300)


def section(report: Mapping[str, Any], winner: Mapping[str, Any] | None) -> Html | None:
    """None where evaluate has not looked at cascades."""
    found = (winner or {}).get("cascade")
    if not found:
        return None
    said = (
        f"The winner answers; texts of which it is less sure than a threshold go on to the teacher. The threshold "
        f"{found['threshold']:.3f} was fitted on validation to keep {percent(found['kept'])} of the teacher’s score there. "
        "Points are other thresholds, on the judged split."
    )
    header = ["threshold", "go to the teacher", metric_name(report["metric"]), "ms for a text"]
    points = [*found["curve"], found["judged"]]
    points.sort(key=lambda point: point["threshold"])
    body = (
        [f"{point['threshold']:.3f}", percent(point["asked"]), fraction(point["score"]), significant(point["ms"])]
        for point in points
    )
    drawn = Html(plot(found, report["metric"]))
    numbers = table(header, body, best=points.index(found["judged"]))
    return element("section", element("h2", "A cascade"), element("p", said, class_="note"), drawn, numbers)


def plot(cascade: Mapping[str, Any], metric: str) -> str:
    """Score against milliseconds a text; the fitted threshold's point is named."""
    points, fitted = cascade["curve"], cascade["judged"]

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot([point["ms"] for point in points], [point["score"] for point in points], "o-", color=MUTED, markersize=3)
        axes.plot(fitted["ms"], fitted["score"], "o", color=ACCENT, markersize=8)
        text = f"{fraction(fitted['score'])}: {percent(fitted['asked'])} go to the teacher"
        place, middle = (fitted["ms"], fitted["score"]), (points[0]["ms"] + points[-1]["ms"]) / 2
        across, aligned = (8, "left") if fitted["ms"] < middle else (-8, "right")
        axes.annotate(text, place, (across, -14), textcoords="offset points", ha=aligned, color=ACCENT, weight="bold")
        axes.set_xlabel("ms for a text: left the winner alone, right the teacher asked for all")
        axes.margins(x=0.06, y=0.25)
        caption(axes, metric_name(metric))

    return draw_svg("cascade", "quality of the cascade against its cost, over thresholds", SIZE, paint)
