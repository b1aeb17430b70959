"""select: of the candidates on the front that meet the budget one wins, and the registry's alias moves to it.

    ray job submit --working-dir . -- python -m jobs.select jobs/recipes/spam.yaml --step winner

Where none qualifies, nothing moves, and the error says what each one misses and by how much: so too where the evaluation has
compared them with what is in production (`inputs.against`), and each may be worse than that by more than `maximum_loss`.
The floor, the cheapest model of the kind, is a candidate like any other.
Either way the verdict is a file in the registry: {storage}/.verdicts/{recipe}/winner/.
"""

import json
from typing import Any, Literal

from pydantic import Field

from cluster.store.artifact import Artifact, Kind
from cluster.store.registry import move, record_verdict, verdicts
from jobs.core.metric import Metric
from jobs.core.stage import Completion, Context, Input, Inputs, Outcome, Refused, Stage
from jobs.judging.pareto import metric_of, pareto_front
from jobs.judging.requirements import Requirements, doubts
from jobs.judging.results import AGAINST_FLOOR, judged_on, read_report, read_verdict
from jobs.running.cli import main


class SelectConfig(Requirements):
    """The budget, and which wins of those within it."""

    prefer: Literal["fastest", "smallest", "best"] = "fastest"
    """Which of those on the front that meet the budget wins: the lowest p95 latency, the fewest bytes or the best score."""
    minimum_kept: float = Field(0.97, ge=0, le=2)
    """Share of the teacher's score that a winner must keep."""
    maximum_p95_ms: float | None = Field(None, gt=0)
    """Highest p95 latency of a single text."""
    maximum_bytes: int | None = Field(None, gt=0)
    """Largest size on disk."""
    minimum_speedup: float | None = Field(None, gt=0)
    """How many times faster than the teacher at least."""


def run(config: SelectConfig, inputs: Inputs, context: Context) -> Outcome:
    """Judge each candidate against the budget, write verdict.json."""
    report = read_report(inputs.one("report"))
    rows, metric = report["rows"], metric_of(report)
    if "floor" in report:
        print(report["floor"]["verdict"], flush=True)
    verdicts = [
        {"candidate": row["candidate"], "qualifies": not (reasons := shortfalls(row, rows[0], config)), "reasons": reasons}
        for row in rows[1:]
    ]
    fit = [row for row, verdict in zip(rows[1:], verdicts, strict=True) if verdict["qualifies"]]
    if not fit:
        lines = [f"{verdict['candidate']}: {'; '.join(verdict['reasons'])}" for verdict in verdicts]
        told = {"winner": None, "budget": config.model_dump(), "verdicts": verdicts, "report": inputs.one("report").uri}
        told |= _of_report(report)
        place = record_verdict(context.storage, _alias(context), told)
        refusal = "no candidate is within the budget, the alias has not moved:\n  " + "\n  ".join(lines)
        raise Refused(f"{refusal}\n  this verdict is kept in {place}")
    # Of equals in what is preferred, one that nothing else beats.
    best = pareto_front(fit, mode=metric.mode)
    winner = min((row for row in fit if row["candidate"] in best), key=lambda row: _order(row, config.prefer, metric))
    details = {"winner": winner["candidate"], "budget": config.model_dump(), "verdicts": verdicts, **_of_report(report)}
    if "against" in winner:
        told = winner["against"]
        low, high = told["gain_interval"]
        print(f"{winner['candidate']} against {told['candidate']}: better by {told['gain']:+.4f} ({low:+.4f} to {high:+.4f})")
    (context.directory / "verdict.json").write_text(json.dumps({**details, "row": winner, "teacher": rows[0]}, indent=1))
    figures = {key: float(winner[key]) for key in ("score", "kept", "speedup", "size_ratio", "latency_p50_ms")}
    return Outcome(metrics=figures, details=details)


def _of_report(report: dict[str, Any]) -> dict[str, Any]:
    """For the verdict: the kind of processor that was judged on; and where the evaluation has judged them, the row of what was
    in production, and what all is worth above the floor."""
    floor = {AGAINST_FLOOR: report["floor"]["verdict"]} if "floor" in report else {}
    against = {"against": report["against"]} if "against" in report else {}
    return {"judged_on": judged_on(report), **against, **floor}


def _order(row: dict[str, Any], prefer: str, metric: Metric) -> float:
    key = {"fastest": "latency_p95_ms", "smallest": "bytes"}.get(prefer)
    return float(-metric.sign * row["score"] if key is None else row[key])


def shortfalls(row: dict[str, Any], teacher: dict[str, Any], budget: SelectConfig) -> list[str]:
    """What keeps a candidate from the budget, each with by how much."""
    found = doubts(row, teacher, budget)
    if row["kept"] < budget.minimum_kept:
        short = 100 * (budget.minimum_kept - row["kept"])
        asked = f"{budget.minimum_kept:.1%} are asked ({short:.2g} points more)"
        found.append(f"keeps {row['kept']:.1%} of the teacher's score, {asked}")
    if budget.maximum_p95_ms is not None and row["latency_p95_ms"] > budget.maximum_p95_ms:
        over = row["latency_p95_ms"] - budget.maximum_p95_ms
        found.append(f"p95 is {row['latency_p95_ms']:.2f} ms, allowed are {budget.maximum_p95_ms:g} ({over:.2g} less)")
    if budget.maximum_bytes is not None and row["bytes"] > budget.maximum_bytes:
        over = row["bytes"] - budget.maximum_bytes
        found.append(f"has {row['bytes']:,} bytes, allowed are {budget.maximum_bytes:,} ({over:,} less)")
    if budget.minimum_speedup is not None and row["speedup"] < budget.minimum_speedup:
        short = budget.minimum_speedup - row["speedup"]
        asked = f"{budget.minimum_speedup:g} are asked ({short:.2g} more)"
        found.append(f"is {row['speedup']:.1f} times faster than the teacher, {asked}")
    return found


def read_refusal(storage: str, recipe: str, config: SelectConfig, report: str) -> dict[str, Any]:
    """The verdict by which a selection with this budget refused all candidates of the report (its URI); {} if it did not."""
    asked = config.model_dump(mode="json")
    told = [
        verdict
        for verdict in verdicts(storage, f"{recipe}/winner")
        if verdict["winner"] is None and (verdict["budget"], verdict["report"]) == (asked, report)
    ]
    return told[-1] if told else {}


def settle(artifact: Artifact, context: Context) -> None:
    """The alias {recipe}/winner points at the winner, also where the selection was found complete."""
    verdict = read_verdict(artifact)
    row = verdict["row"]
    keys = ("winner", "budget", "verdicts", "judged_on", "against", AGAINST_FLOOR)
    told: dict[str, Any] = {key: verdict[key] for key in keys if key in verdict}
    reports = [parent.uri for parent in artifact.manifest.parents.get("report", [])]
    record_verdict(context.storage, _alias(context), {**told, "report": next(iter(reports), None)})
    kind = verdict.get("judged_on")
    move(context.storage, _alias(context), row["uri"], row["fingerprint"], row["variant"], judged_on=kind)


def _alias(context: Context) -> str:
    return f"{context.recipe}/winner"


STAGE = Stage(
    name="select",
    purpose="choose a candidate on the front within the budget and move the alias",
    config=SelectConfig,
    run=run,
    inputs={"report": Input(Kind.REPORT, "the figures from evaluate")},
    output=Kind.REPORT,
    version=3,
    completion=Completion(headline=("kept", "speedup", "size_ratio"), settle=settle),
)

if __name__ == "__main__":
    main(STAGE)
