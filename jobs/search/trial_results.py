"""The trials of a search that has ended: a table of all, and the best one's output.

rows = trial_rows(step, results, context)      # [{"name", "values", "score", "status", "reports", "seconds", …}, …]
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from cluster.store.artifact import File, other_place
from cluster.store.storage import FileStat, copy_file, exists, join, list_files, read_bytes
from jobs.core.recipe import Step
from jobs.core.spaces import shape_spaces
from jobs.core.stage import Context, Outcome
from jobs.search.records import TRIAL_NAME, read_record
from jobs.search.trial import MODEL, OUTCOME, trial_place

if TYPE_CHECKING:
    from ray.tune import ResultGrid


def trial_rows(step: Step, results: "ResultGrid", context: Context) -> list[dict[str, Any]]:
    """One row a trial, in the order in which they began.

    Its values (pbt: the last), score, how it ended and why, evaluations, seconds; pbt: its schedule.
    """
    rows = []
    for result in (results[number] for number in range(len(results))):
        name = (result.config or {}).get(TRIAL_NAME) or PurePosixPath(result.path).name
        error = str(result.error) if result.error else None
        record = read_record(trial_place(context, name))
        rows.append((record.get("born", math.inf), _row(step, name, record, error, context)))
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def _row(step: Step, name: str, record: Mapping[str, Any], error: str | None, context: Context) -> dict[str, Any]:
    place, path = trial_place(context, name), record.get("path", [])
    done = exists(join(place, OUTCOME))
    score = path[-1]["score"] if path else None
    if done:
        score = json.loads(read_bytes(join(place, OUTCOME)))["metrics"][step.score.name]
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


def kept_of(step: Step, trials: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The finished trials that go on, at most `tune.keep`: the best, the best of each other shape, then what is next best."""
    finished = [trial for trial in trials if trial["status"] == "finished" and trial["score"] is not None]
    sign = step.score.sign
    ranked = sorted(finished, key=lambda trial: -sign * trial["score"])
    seen: set[str] = set()
    firsts: list[dict[str, Any]] = []
    for trial in ranked:
        shape = {path: value for path, value in trial["values"].items() if shape_spaces({path: value}, step.shaped_by)}
        if (name := json.dumps(shape, sort_keys=True)) not in seen:
            seen.add(name)
            firsts.append(trial)
    return [*firsts, *(trial for trial in ranked if trial not in firsts)][: step.tune.keep]


def adopt(
    step: Step, kept: Sequence[dict[str, Any]], trials: Sequence[dict[str, Any]], context: Context, more: Mapping[str, Any]
) -> Outcome:
    """Bring the best trial's output here, the others that are kept to their places, and tell of all trials."""
    best, *others = kept
    for stat, source in _model(best, context):
        copy_file(source, str(context.directory / stat.path))
    record = _outcome(best, context)
    details = {**record["details"], **more, "trials": list(trials), "best": best["values"], "best_trial": best["name"]}
    details["mode"] = step.score.mode
    if "schedule" in best:
        details["schedule"] = schedule(_published(step, read_record(trial_place(context, best["name"]))["path"]))
    further = tuple(_other(trial, number, context) for number, trial in enumerate(others, 2))
    return Outcome(metrics=record["metrics"], details=details, others=further)


def _other(trial: Mapping[str, Any], number: int, context: Context) -> Outcome:
    """A further trial's output, copied to its place below the step's."""
    place, record = other_place(context.output, number), _outcome(trial, context)
    files = {
        stat.path: File(size=stat.size, sha256=copy_file(source, join(place, stat.path)))
        for stat, source in _model(trial, context)
    }
    details = {**record["details"], "best": trial["values"], "best_trial": trial["name"]}
    return Outcome(metrics=record["metrics"], details=details, files=files)


def _model(trial: Mapping[str, Any], context: Context) -> list[tuple[FileStat, str]]:
    """The files of a trial's model, each with its URI."""
    model = join(trial_place(context, trial["name"]), MODEL)
    return [(stat, join(model, stat.path)) for stat in list_files(model)]


def _outcome(trial: Mapping[str, Any], context: Context) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(read_bytes(join(trial_place(context, trial["name"]), OUTCOME)))
    return record


def _published(step: Step, path: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The part of a path that the published weights went: up to the best evaluation where that is what is kept."""
    settings = step.config.model_dump()
    if settings.get("keep") != "best" or settings.get("monitor") not in (None, step.score.name):
        return path
    sign = step.score.sign
    best = max(range(len(path)), key=lambda number: sign * path[number]["score"])
    return path[: best + 1]
