"""The Pareto front of a report: the candidates that no other beats in quality, p95 latency and bytes at once.

pareto_front(report["rows"], mode=report["mode"])       # ["teacher", "small:int8"]
front_of(report)                                        # what front.json holds
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.core.metric import Metric, Mode

LOWER = ("latency_p95_ms", "bytes")
"""The figures that are to be low, besides the score: that is to be high or low, by the metric's mode."""
FRONT_KEYS = (
    "candidate",
    "step",
    "variant",
    "uri",
    "fingerprint",
    "score",
    "interval",
    "kept",
    "latency_p50_ms",
    "latency_p95_ms",
    "bytes",
    "speedup",
    "size_ratio",
    "shape",
    "made",
    "floor",
)


def metric_of(report: Mapping[str, Any]) -> Metric:
    """The metric that a report compares by; of older ones more is better."""
    return Metric(report["metric"], report.get("mode", "max"))


def pareto_front(rows: Sequence[Mapping[str, Any]], lower: Sequence[str] = LOWER, mode: Mode = "max") -> list[str]:
    """Names of the candidates that no other beats: score up or down by its mode, the `lower` keys down; equals stay together,
    in row order.
    """
    return [row["candidate"] for row in rows if not beaten_by(row, rows, lower, mode)]


def beaten_by(
    row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], lower: Sequence[str] = LOWER, mode: Mode = "max"
) -> list[str]:
    """Names of the candidates that are at least as good as this one in everything, and better in something."""
    own = _point(row, lower, mode)
    points = ((other["candidate"], _point(other, lower, mode)) for other in rows)
    return [name for name, point in points if point != own and all(a <= b for a, b in zip(point, own, strict=True))]


def front_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """The front, fastest first, who beats the others, which candidates are controls, and what all is worth above the floor."""
    rows, mode = report["rows"], metric_of(report).mode
    beaters = {row["candidate"]: beaten_by(row, rows, mode=mode) for row in rows}
    best = sorted((row for row in rows if not beaters[row["candidate"]]), key=lambda row: row["latency_p95_ms"])
    beaten = [{"candidate": name, "by": by} for name, by in beaters.items() if by]
    return {
        "metric": report["metric"],
        "split": report["split"],
        "examples": report["examples"],
        "conditions": report["conditions"],
        "axes": {"score": "higher" if mode == "max" else "lower", **dict.fromkeys(LOWER, "lower")},
        "front": [{key: row[key] for key in FRONT_KEYS if key in row} for row in best],
        "beaten": beaten,
        "controls": {name: [row["candidate"] for row in controls(rows, name)] for name in ("distilled", "pruned")},
        **({"floor": report["floor"]} if "floor" in report else {}),
    }


def controls(rows: Sequence[Mapping[str, Any]], without: str) -> list[Mapping[str, Any]]:
    """The students that were made without one thing (`distilled`, `pruned`): what they lack is what it is worth."""
    teacher, *students = rows
    return [row for row in students if "made" in row and without not in row["made"] and _is_student(row, teacher)]


def _is_student(row: Mapping[str, Any], teacher: Mapping[str, Any]) -> bool:
    """The teacher's own variants are no students, and the floor is no student of a teacher's kind."""
    return not row.get("floor") and bool(row["parameters"] < teacher["parameters"])


def _point(row: Mapping[str, Any], lower: Sequence[str], mode: Mode) -> tuple[float, ...]:
    return (-row["score"] if mode == "max" else row["score"], *(row[key] for key in lower))
