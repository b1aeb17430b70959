"""Numbers as people read them, and the comparison as a terminal table.

print(comparison_table(report, winner="small:int8"))
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from textwrap import wrap
from typing import Any

from jobs.judging.pareto import metric_of, pareto_front
from jobs.tasks import learning_of, usual_kind

TABLE_WIDTH = 120
GAP = "  "
NO_VALUE = "–"
ABBREVIATIONS = ("auc", "f1", "bleu", "em", "mae", "map", "mcc", "rmse")


def comparison_table(report: Mapping[str, Any], winner: str | None = None) -> str:
    """All candidates of a report as an aligned table of at most 120 columns; the winner carries a `*`, the front a `+`, the
    floor a `_`, and what all else is worth above it stands below."""
    others = other_figures(report)
    heads = [short or metric_name(name) for name, short in others.items()]
    shown = [*report["rows"], *([report["against"]] if "against" in report else [])]
    header, *rows = [_header(report["metric"], heads), *(_cells(row, others) for row in shown)]
    widths = [max(display_width(line[column]) for line in [header, *rows]) for column in range(1, len(header))]
    floors = {row["candidate"] for row in report["rows"] if row.get("floor")}
    room = max(12, TABLE_WIDTH - sum(widths) - len(GAP) * len(widths) - (3 if floors else 2))
    names = [shorten(line[0], room) for line in [header, *rows]]
    widths.insert(0, max(map(display_width, names)))
    lines, best = [], pareto_front(report["rows"], mode=metric_of(report).mode)
    for name, cells in zip(names, [header, *rows], strict=True):
        mark = "*" if winner is not None and cells[0] == winner else "+" if cells[0] in best else " "
        mark += ("_ " if cells[0] in floors else "  ") if floors else " "
        numbers = [_pad(cell, width, right=True) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        lines.append(mark + GAP.join([_pad(name, widths[0], right=False), *numbers]))
    rule = "─" * max(map(display_width, lines))
    notes = [shorten(conditions_sentence(report), TABLE_WIDTH)]
    notes.append(f"+ the front: no other is at least as good in {metric_name(report['metric'])}, p95 latency and size")
    if "against" in report:
        notes.append(f"  {shorten(report['against']['candidate'], TABLE_WIDTH - 30)}: in production, on the same rows")
    if floor := report.get("floor"):
        notes.append(f"_ the floor: {floor['what']}")
    if winner is not None:
        notes.append(f"* {shorten(winner, TABLE_WIDTH - 16)}: the winner")
    if floor:
        notes += wrap(floor["verdict"], TABLE_WIDTH)
    return "\n".join([lines[0], rule, *lines[1:], rule, *notes])


def other_figures(report: Mapping[str, Any]) -> dict[str, str]:
    """The figures of a report's task besides its score, by name, each as it is called where there is little room."""
    found: dict[str, str] | None = report.get("figures")
    if found is None:  # Older reports say nothing of it.
        found = {metric.name: metric.short for metric in learning_of(usual_kind()).metrics}
    return {name: short for name, short in found.items() if name != report["metric"]}


def conditions_sentence(report: Mapping[str, Any]) -> str:
    """On what and how the figures were measured, in one line."""
    conditions = dict(report.get("conditions") or {})
    parts = [f"{metric_name(report['metric'])} on {report['examples']:,} examples of the {report['split']} split"]
    threads, batch = conditions.pop("threads", None), conditions.pop("batch_size", None)
    if threads is not None:
        parts.append(f"{threads} thread{'' if threads == 1 else 's'}")
    if batch is not None:
        parts.append(f"batches of {batch}")
    cpu = conditions.pop("cpu", None)
    parts += [f"{key.replace('_', ' ')} {value}" for key, value in conditions.items()]
    return ", ".join(parts if cpu is None else [*parts, str(cpu)])


def metric_name(metric: str) -> str:
    """`macro_f1` as it is written in a sentence: macro F1."""
    return " ".join(word.upper() if word in ABBREVIATIONS else word for word in metric.split("_"))


def significant(value: float | None) -> str:
    """A positive quantity with about three significant digits, never in exponent form above 0.001."""
    if value is None:
        return NO_VALUE
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 or value == 0 else f"{value:.2g}"


def fraction(value: float | None) -> str:
    """A score between 0 and 1 with three decimals; larger scores (perplexity, BLEU) with three digits."""
    if value is None:
        return NO_VALUE
    return f"{value:.3f}" if abs(value) <= 1 else significant(value)


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal."""
    return NO_VALUE if value is None else f"{100 * value:.1f}%"


def times(value: float | None) -> str:
    """A ratio such as a speed-up."""
    return NO_VALUE if value is None else f"{value:,.0f}×" if value >= 100 else f"{value:.1f}×"


def megabytes(value: float | None) -> str:
    """Bytes as decimal megabytes, without the unit."""
    return NO_VALUE if value is None else significant(value / 1e6)


def count(value: float | None) -> str:
    """A number of parameters: 22.7M, 310K."""
    if value is None:
        return NO_VALUE
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= size:
            return f"{value / size:.3g}{letter}" if value < 999.5 * size else f"{value / size:.0f}{letter}"
    return f"{value:.0f}"


def interval_text(bounds: Sequence[float] | None) -> str:
    """The two bounds of a confidence interval."""
    return "" if not bounds else f"{fraction(bounds[0])}–{fraction(bounds[1])}"


def display_width(text: str) -> int:
    """Terminal columns of a text: two for wide (Chinese, Japanese, Korean) characters, none for combining ones."""
    return sum(_columns(character) for character in text)


def shorten(text: str, width: int) -> str:
    """The text on one line, cut with an ellipsis where it is wider than so many columns."""
    text = " ".join(text.split())
    if display_width(text) <= width:
        return text
    kept = ""
    for character in text:
        if display_width(kept + character) > width - 1:
            break
        kept += character
    return kept + "…"


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - display_width(text))
    return space + text if right else text + space


def _header(metric: str, others: Sequence[str]) -> list[str]:
    figures = ["kept", *others, "p50/p95 ms", "texts/s", "MB", "params", "agree", "batch ±p", "faster", "smaller"]
    return ["candidate", shorten(metric_name(metric), 19), *figures]


def _cells(row: Mapping[str, Any], others: Iterable[str]) -> list[str]:
    return [
        row["candidate"],
        f"{fraction(row['score'])} {interval_text(row.get('interval'))}".strip(),
        percent(row.get("kept")),
        *(fraction(row.get(name)) for name in others),
        f"{significant(row.get('latency_p50_ms'))}/{significant(row.get('latency_p95_ms'))}",
        significant(row.get("texts_per_second")),
        megabytes(row.get("bytes")),
        count(row.get("parameters")),
        percent(row.get("agreement")),
        fraction(row.get("batch_change")),
        times(row.get("speedup")),
        times(row.get("size_ratio")),
    ]
