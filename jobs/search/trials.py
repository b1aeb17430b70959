"""The trials of a search that has ended: a table of all, and the best one's output.

rows = table(step, results, context)      # [{"name", "values", "score", "status", "reports", "seconds", …}, …]
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from cluster.storage import copy_file, exists, join, list_files, read_bytes
from jobs.core.recipe import Step
from jobs.core.stage import Context, Outcome
from jobs.search.trial import MODEL, OUTCOME, read_record, trial_place

if TYPE_CHECKING:
    from ray.tune import ResultGrid


def table(step: Step, results: "ResultGrid", context: Context) -> list[dict[str, Any]]:
    """One row a trial, in the order in which they began.

    Its values (pbt: the last), score, how it ended and why, evaluations, seconds; pbt: its schedule.
    """
    rows = []
    for result in (results[number] for number in range(len(results))):
        name, error = PurePosixPath(result.path).name, str(result.error) if result.error else None
        record = read_record(trial_place(context, name))
        rows.append((record.get("born", math.inf), _row(step, name, record, error, context)))
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def _row(step: Step, name: str, record: Mapping[str, Any], error: str | None, context: Context) -> dict[str, Any]:
    assert step.stage.score is not None
    place, path = trial_place(context, name), record.get("path", [])
    done = exists(join(place, OUTCOME))
    score = path[-1]["score"] if path else None
    if done:
        score = json.loads(read_bytes(join(place, OUTCOME)))["metrics"][step.stage.score]
    error = None if done else record.get("error") or error
    row = {
        "name": name,
        "values": record.get("values", {}),
        "score": score if score is not None and math.isfinite(score) else None,
        "status": "finished" if done else "failed" if error else "stopped",
        "reports": path[-1]["evaluation"] if path else 0,
        "seconds": round(float(record.get("seconds", 0.0)), 1),
    }
    if error:
        row["error"] = (error.strip().splitlines() or ["unknown"])[-1]  # of a traceback, what was raised
    if step.tune.scheduler == "pbt":
        row["schedule"] = schedule(path)
    return row


def schedule(path: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A path evaluation by evaluation as stretches: in which trial, with which values, up to which score."""
    stretches: list[dict[str, Any]] = []
    for point in path:
        last = stretches[-1] if stretches else None
        if last is not None and (last["trial"], last["values"]) == (point["trial"], point["values"]):
            last |= {"until": point["evaluation"], "score": point["score"]}
        else:
            begin = last["until"] if last is not None else 0
            made = {"from": begin, "until": point["evaluation"], "score": point["score"]}
            stretches.append({"trial": point["trial"], "values": dict(point["values"]), **made})
    return stretches


def best_of(step: Step, trials: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The finished trial with the best score."""
    finished = [trial for trial in trials if trial["status"] == "finished" and trial["score"] is not None]
    sign = 1 if step.stage.mode == "max" else -1
    return max(finished, key=lambda trial: sign * trial["score"], default=None)


def adopt(step: Step, best: Mapping[str, Any], trials: Sequence[dict[str, Any]], context: Context) -> Outcome:
    """Bring the best trial's output here and tell of all trials."""
    place = trial_place(context, best["name"])
    model = join(place, MODEL)
    for stat in list_files(model):
        copy_file(join(model, stat.path), str(context.directory / stat.path))
    record = json.loads(read_bytes(join(place, OUTCOME)))
    details = {**record["details"], "trials": list(trials), "best": best["values"], "best_trial": best["name"]}
    details["mode"] = step.stage.mode
    if "schedule" in best:
        details["schedule"] = schedule(_published(step, read_record(place)["path"]))
    return Outcome(metrics=record["metrics"], details=details)


def _published(step: Step, path: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The part of a path that the published weights went: up to the best evaluation where that is what is kept."""
    settings = step.config.model_dump()
    if settings.get("keep") != "best" or settings.get("monitor") not in (None, step.stage.score):
        return path
    sign = 1 if step.stage.mode == "max" else -1
    best = max(range(len(path)), key=lambda number: sign * path[number]["score"])
    return path[: best + 1]
