"""The sections of the report page about the front: who is on it, who beats the others, what the controls say, which shapes
were too slow to be tried, and how many threads suit whom."""

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.store.artifact import Artifact
from jobs.judging.pareto import beaten_by, controls, metric_of
from jobs.report.html import Html, element, table
from jobs.report.tables import NO_VALUE, count, fraction, megabytes, metric_name, percent, significant, times

PLAIN = {"distilled": "without distillation", "pruned": "nothing pruned"}


def front_table(report: Mapping[str, Any], winner: str | None) -> Html:
    """The front from the fastest up, then the candidates that are beaten, each with by whom."""
    rows = report["rows"]
    beaten = {row["candidate"]: beaten_by(row, rows, mode=metric_of(report).mode) for row in rows}
    ordered = sorted(rows, key=lambda row: (bool(beaten[row["candidate"]]), row["latency_p95_ms"]))
    names = [row["candidate"] for row in ordered]
    header = [
        "candidate",
        "shape",
        metric_name(report["metric"]),
        "kept",
        "p95 ms",
        "MB",
        "faster",
        "smaller",
        "control",
        "beaten by",
    ]
    body = (
        [
            row["candidate"],
            row.get("shape", NO_VALUE),
            fraction(row["score"]),
            percent(row.get("kept")),
            significant(row["latency_p95_ms"]),
            megabytes(row["bytes"]),
            times(row.get("speedup")),
            times(row.get("size_ratio")),
            ", ".join(PLAIN[trait] for trait in PLAIN if row in controls(rows, trait)),
            ", ".join(beaten[row["candidate"]][:3]),
        ]
        for row in ordered
    )
    return element(
        "section",
        element("h2", "The front"),
        element("p", _what_is_missing(rows), class_="note"),
        table(header, body, best=names.index(winner) if winner in names else None),
    )


def _what_is_missing(rows: Sequence[Mapping[str, Any]]) -> str:
    said = "First those that no other beats, the fastest on top; the same is in front.json beside the report."
    lacking = [
        words
        for trait, words in PLAIN.items()
        if any(trait in row.get("made", ()) for row in rows) and not controls(rows, trait)
    ]
    return f"{said} No control is among them {' and '.join(lacking)}." if lacking else said


def timed_shapes(artifacts: Mapping[str, Artifact]) -> Html | None:
    """The shapes that each search timed before it trained anything, and those that it left out."""
    parts = []
    for name, artifact in artifacts.items():
        shapes = artifact.manifest.details.get("shapes") or []
        if shapes:
            budget = artifact.manifest.config["tune"]["budget"]
            said = f"{name}: built with random weights and timed before any trial trained, p95 at most"
            parts.append(element("p", f"{said} {budget['maximum_p95_ms']:g} ms ({budget['quantize']}).", class_="note"))
            rows = (
                [row["name"], count(row["parameters"]), megabytes(row["bytes"]), significant(row["p50_ms"])]
                + [significant(row["p95_ms"]), "trained" if row["fits"] else "left out"]
                for row in shapes
            )
            parts.append(table(["shape", "parameters", "MB", "p50 ms", "p95 ms", ""], rows))
    return element("section", element("h2", "Shapes timed beforehand"), *parts) if parts else None


def operating_points(report: Mapping[str, Any]) -> Html | None:
    """How the candidates on the front do with other threads and batches, where several were tried."""
    rows = [(row["candidate"], point) for row in report["rows"] for point in row.get("points", [])]
    if not rows:
        return None
    sizes = list(rows[0][1]["texts_per_second"])
    header = ["candidate", "threads", "p50 ms", "p95 ms", *(f"texts/s, batch {size}" for size in sizes)]
    body = (
        [name, str(point["threads"]), significant(point["latency_p50_ms"]), significant(point["latency_p95_ms"])]
        + [significant(point["texts_per_second"][size]) for size in sizes]
        for name, point in rows
    )
    return element("section", element("h2", "Threads and batches"), table(header, body))
