"""tune: any stage as the trials of a search. A step with a search space is run here; its output is the best trial's.

    optimizer: {learning_rate: {loguniform: [2.0e-5, 4.0e-4]}}
    tune: {trials: 4, scheduler: asha, algorithm: optuna}

The training loop runs inside the trial's own process, so a trial starts in seconds.
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.artifact import upload
from cluster.storage import copy_file, exists, filesystem, is_local, join, list_files, read_bytes, write_bytes
from jobs.core.recipe import Step
from jobs.core.stage import Context, Inputs, Outcome

if TYPE_CHECKING:
    from ray.tune import ResultGrid, TuneConfig

OUTCOME = "outcome.json"
MODEL = "model"


class SearchFailed(Exception):
    """No trial of a search came to an end; the message holds the first trial's error."""


def search(step: Step, inputs: Inputs, context: Context) -> Outcome:
    """Run the step's trials, leave the best one's output in the context's directory, return its outcome and all trials."""
    from ray import tune

    remote = not is_local(context.scratch)
    tuner = tune.Tuner(
        tune.with_resources(_trial(step, inputs, context), _resources(context)),
        param_space={path: space.domain() for path, space in step.spaces.items()},
        tune_config=_tune_config(step, _concurrent(step, context)),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=filesystem(context.scratch)[1] if remote else context.scratch,
            storage_filesystem=filesystem(context.scratch)[0] if remote else None,
            failure_config=tune.FailureConfig(max_failures=context.resources.max_failures),
            verbose=0,
        ),
    )
    trials = _table(step, tuner.fit(), context)
    finished = [trial for trial in trials if trial["status"] == "finished"]
    if not finished:
        raise SearchFailed(f"none of {len(trials)} trials came to an end; the first said: {trials[0].get('error', 'stopped')}")
    sign = 1 if step.stage.mode == "max" else -1
    best = max(finished, key=lambda trial: sign * trial["score"])
    return _adopt(best, trials, step.stage.mode, context)


def _resources(context: Context) -> dict[str, float]:
    return {"CPU": context.resources.cpus} | ({"GPU": context.resources.gpus} if context.resources.gpus else {})


def _concurrent(step: Step, context: Context) -> int:
    """Trials at once: as many as the cluster holds, so that a search never waits for itself."""
    import ray

    total = ray.cluster_resources()
    holds = min(int(total.get(name, 0) // each) for name, each in _resources(context).items())
    return max(1, min(holds, step.tune.max_concurrent or holds))


def _tune_config(step: Step, concurrent: int) -> "TuneConfig":
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import BasicVariantGenerator
    from ray.tune.search.optuna import OptunaSearch

    settings, stage = step.tune, step.stage
    assert stage.score is not None
    grid = any(space.kind == "grid" for space in step.spaces.values())
    algorithm: Any = BasicVariantGenerator(random_state=settings.seed, max_concurrent=concurrent)
    if settings.algorithm == "optuna" and not grid:
        algorithm = OptunaSearch(metric=stage.score, mode=stage.mode, seed=settings.seed)
    scheduler = None
    if settings.scheduler == "asha":
        evaluations = max([step.config.model_dump()["evaluations"], *_values(step, "evaluations")])
        scheduler = ASHAScheduler(
            metric=stage.score,
            mode=stage.mode,
            max_t=max(evaluations, settings.grace_reports + 1),
            grace_period=settings.grace_reports,
            reduction_factor=settings.reduction_factor,
        )
    named: dict[str, Any] = {} if scheduler or settings.algorithm == "optuna" else {"metric": stage.score, "mode": stage.mode}
    return tune.TuneConfig(
        search_alg=algorithm, scheduler=scheduler, num_samples=settings.trials, max_concurrent_trials=concurrent, **named
    )


def _values(step: Step, path: str) -> tuple[Any, ...]:
    return step.spaces[path].values if path in step.spaces else ()


def _trial(step: Step, inputs: Inputs, context: Context) -> Callable[[dict[str, Any]], None]:
    """The function that a trial's process runs."""

    def trial(values: dict[str, Any]) -> None:
        from ray import tune

        score = step.stage.score
        assert score is not None
        name = tune.get_context().get_trial_id()

        def report(**figures: Any) -> None:
            context.report(**figures, trial=name)

        # Tune gives a trial a working directory of its own, where relative paths of the recipe mean nothing.
        os.chdir(os.environ.get("TUNE_ORIG_WORKING_DIR", os.getcwd()))
        with tempfile.TemporaryDirectory() as directory:
            inside = replace(
                context,
                directory=Path(directory),
                report=report,
                trial=_Trial(score, join(context.scratch, "trials", name, "checkpoints")),
            )
            outcome = step.stage.run(step.configure(values), inputs, inside)
            place = join(context.scratch, "trials", name)
            upload(Path(directory), join(place, MODEL))
        record = {"metrics": dict(outcome.metrics), "details": dict(outcome.details)}
        write_bytes(join(place, OUTCOME), json.dumps(record).encode())
        tune.report({score: outcome.metrics[score]})

    return trial


@dataclass
class _Trial:
    """What the training loop tells Ray Tune."""

    score: str
    checkpoints: str

    def evaluated(self, figures: Mapping[str, float], state: Callable[[], Any]) -> None:
        from ray import tune

        # The last evaluation is told to the search only when the model is safe: it may end the trial.
        if figures["step"] < figures["steps"]:
            tune.report({self.score: figures[self.score]})

    def start(self) -> Any | None:
        return None


def _table(step: Step, results: "ResultGrid", context: Context) -> list[dict[str, Any]]:
    """One row a trial: its values, score, how it ended."""
    assert step.stage.score is not None
    rows = []
    for number in range(len(results)):
        result = results[number]
        metrics = result.metrics or {}
        name = str(metrics.get("trial_id", number))
        done = exists(join(context.scratch, "trials", name, OUTCOME))
        row = {
            "name": name,
            "values": dict(result.config or {}),
            "score": metrics.get(step.stage.score),
            "status": "finished" if done else "failed" if result.error else "stopped",
            "reports": int(metrics.get("training_iteration", 0)),
            "seconds": round(float(metrics.get("time_total_s", 0.0)), 1),
        }
        rows.append(row | ({"error": str(result.error)} if result.error else {}))
    return rows


def _adopt(best: dict[str, Any], trials: list[dict[str, Any]], mode: str, context: Context) -> Outcome:
    """Bring the best trial's output here and tell all trials."""
    place = join(context.scratch, "trials", best["name"])
    model = join(place, MODEL)
    for stat in list_files(model):
        copy_file(join(model, stat.path), str(context.directory / stat.path))
    record = json.loads(read_bytes(join(place, OUTCOME)))
    details = {**record["details"], "trials": trials, "best": best["values"], "mode": mode}
    return Outcome(metrics=record["metrics"], details=details)
