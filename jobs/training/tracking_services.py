"""MLflow and Weights & Biases. Both are extras: `pip install 'raystill[mlflow,wandb]'`; nothing else imports this file."""

import logging
import os
import tempfile
import time
from collections.abc import Mapping
from itertools import islice
from typing import Any

from jobs.core.tracking import Mlflow, Wandb
from jobs.training.tracking import Run
from jobs.training.tracking_files import Mirror

TAG = "raystill.run"
PARAMETERS_AT_ONCE = 100
PARAMETER_LETTERS = 6000
"""Limits of MLflow's REST interface."""

WANDB_FLUSH_SECONDS = 1.0
"""How much of a run W&B may lose to a kill; its own 15 s are longer than the steps that a checkpoint has just made safe."""

WANDB_START_SECONDS = 20.0
"""W&B waits at the process's end too for a server that does not answer: by itself for 90 s."""

MLFLOW_ENVIRONMENT = {
    # Nothing is told to third parties unless the user says so.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # By default a server that is down is waited for through several minutes; the thread would hold points that long.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}


class MlflowTracker:
    """One MLflow run for a run: parameters, metrics by step, tags, and how it ended."""

    def __init__(self, settings: Mlflow, run: Run) -> None:
        for key, value in MLFLOW_ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        from mlflow.tracking import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._client = MlflowClient(settings.uri)
        self._run_id, self._known = self._find_or_start(settings.experiment or run.recipe, run)
        self._log_parameters(run)

    def _find_or_start(self, name: str, run: Run) -> tuple[str, dict[str, int]]:
        """The run's id, and the last step of each metric that it has already."""
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found is not None else self._client.create_experiment(name)
        identity = run.known_as("mlflow")
        before = self._client.search_runs([experiment], f"tags.`{TAG}` = '{identity}'", max_results=1)
        if before:
            run_id = before[0].info.run_id
            self._client.update_run(run_id, status="RUNNING")
            histories = {key: self._client.get_metric_history(run_id, key) for key in before[0].data.metrics}
            return run_id, {key: max(metric.step for metric in history) for key, history in histories.items()}
        tags = {
            TAG: identity,
            "raystill.recipe": run.recipe,
            "raystill.step": run.step,
            "raystill.artifact": run.artifact,
        }
        return self._client.create_run(experiment, run_name=run.name, tags=tags).info.run_id, {}

    def _log_parameters(self, run: Run) -> None:
        from mlflow.entities import Param

        known = self._client.get_run(self._run_id).data.params
        values = ((key, str(value)[:PARAMETER_LETTERS]) for key, value in run.parameters().items() if key not in known)
        parameters = (Param(key, value) for key, value in values)
        while part := list(islice(parameters, PARAMETERS_AT_ONCE)):
            self._client.log_batch(self._run_id, params=part)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        # MLflow forgets no point. Training resumes exactly, so those made again are the ones it has.
        now = int(time.time() * 1000)
        fresh = [Metric(key, float(value), now, step) for key, value in figures.items() if step > self._known.get(key, -1)]
        if fresh:
            self._client.log_batch(self._run_id, metrics=fresh)

    def flush(self) -> None:
        """Every point was sent when it was logged."""

    def close(self, failed: bool = False) -> None:
        self._client.set_terminated(self._run_id, "FAILED" if failed else "FINISHED")


class WandbTracker:
    """One W&B run for a run. Offline, each start of the run leaves a directory; `wandb sync` joins them by the run's id."""

    def __init__(self, settings: Wandb, run: Run) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._wandb: Any = wandb
        # Online, what it writes here is only on its way to the server.
        self._mirror = Mirror(run.directory) if settings.mode == "offline" else None
        self._passing = tempfile.TemporaryDirectory(prefix="raystill-wandb-", ignore_cleanup_errors=True)
        self._run: Any = wandb.init(
            project=settings.project,
            entity=settings.entity,
            mode=settings.mode,
            id=run.known_as("wandb"),
            resume="allow",
            name=run.name,
            group=run.recipe,
            job_type=run.step,
            dir=str(self._mirror.path) if self._mirror else self._passing.name,
            reinit="create_new",
            # It looks on: it takes neither the console, nor the code, nor samples of a machine that others use.
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                save_code=False,
                x_disable_stats=True,
                x_disable_meta=True,
                init_timeout=WANDB_START_SECONDS,
                x_transaction_log_flush_interval=WANDB_FLUSH_SECONDS,
            ),
        )
        facts = {"raystill": {"recipe": run.recipe, "step": run.step, "artifact": run.artifact}}
        self._run.config.update({**run.config, **facts}, allow_val_change=True)
        self._first = self._run.step

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        # W&B takes steps only upwards; those that it has already are the same ones, since training resumes exactly.
        if step >= self._first:
            self._run.log(dict(figures), step=step)
        if self._mirror:
            self._mirror.copy()

    def flush(self) -> None:
        if self._mirror:
            self._mirror.copy(now=True)

    def close(self, failed: bool = False) -> None:
        self._run.finish(exit_code=int(failed))
        self._wandb.teardown()  # its service process
        if self._mirror:
            self._mirror.close()
        self._passing.cleanup()
