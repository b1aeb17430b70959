"""The sections of the report page about the front: who is on it, who beats the others, what the controls say, which shapes
were too slow to be tried, and how many threads suit whom."""

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.store.artifact import Artifact
from jobs.judging.pareto import beaten_by, controls, metric_of
from jobs.report.html import Html, element, section, table
from jobs.report.tables import NO_VALUE, count, fraction, megabytes, metric_name, percent, significant, times

PLAIN = {"distilled": "without distillation", "pruned": "nothing pruned"}


def against(report: Mapping[str, Any]) -> Html | None:
    """How each candidate compares with what is in production, on the same rows."""
    production = report.get("against")
    if production is None:
        return None
    found = [(row["candidate"], row["against"]) for row in report["rows"]]
    gains = [(f"{own['gain']:+.4f}", _bounds(own["gain_interval"], "+.4f")) for _, own in found]
    kept = [(percent(own["kept"]), _bounds(own["kept_interval"], ".1%")) for _, own in found]
    body = ([name, *more, *share] for (name, _), more, share in zip(found, gains, kept, strict=True))
    learned = production["learned_rows"]
    told = f"{production['candidate']} has {metric_name(report['metric'])} {fraction(production['score'])} on the same rows. "
    told += "Above 0 the candidate is better; the intervals are of the paired difference. "
    if learned is None:
        told += "Whether it has learned from some of these rows is not known: what it learned from is gone."
    else:
        told += f"Of these rows it has learned from {learned}."
    header = ["candidate", "better by", "95 %", "keeps of it", "95 %"]
    return section("Against what is in production", element("p", told, class_="note"), table(header, body))


def _bounds(bounds: Sequence[float], form: str) -> str:
    return f"{bounds[0]:{form}} to {bounds[1]:{form}}"


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
            "the floor" if row.get("floor") else ", ".join(PLAIN[trait] for trait in PLAIN if row in controls(rows, trait)),
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
