"""Where a run can be watched: TensorBoard's files below the storage, MLflow, Weights & Biases.

    tensorboard --logdir {storage}/.tracking
    pip install 'raystill[mlflow,wandb]'            # both are extras, imported where a recipe asks for them

One directory of TensorBoard's is one run. A run that goes on after a kill writes another file into it, which begins with a
mark that tells readers to forget the points that will be made again.
"""

import logging
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import yaml
from pydantic import BaseModel
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar, text

from cluster.store.storage import absolute, copy_file, exists, is_local, join, read_bytes, write_bytes
from jobs.core.config import leaves
from jobs.core.stage import Context
from jobs.core.tracking_settings import Mlflow, Wandb

COPY_SECONDS = 30.0
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


class Tracker(Protocol):
    """One place where a run can be watched."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """The figures at a step, which is the number of updates done."""
        ...

    def flush(self) -> None:
        """Bring what was logged to safety."""
        ...

    def close(self, failed: bool = False) -> None:
        """The run has ended."""
        ...


@dataclass(frozen=True)
class WatchedRun:
    """What is watched: a step of a recipe, or one trial of its search."""

    directory: str
    """A URI of the run's own below the storage's .tracking: TensorBoard's files, and the run's names elsewhere."""
    name: str
    """The step with its hash, e.g. teacher-1a2b3c4d, and the trial where there is one."""
    recipe: str
    step: str
    artifact: str
    """The URI that the step's artifact will have."""
    config: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, context: Context, config: BaseModel, trial: str = "") -> "WatchedRun":
        """The run that a context stands for."""
        name = "/".join(part for part in (context.output.rstrip("/").rsplit("/", 1)[-1], trial) if part)
        directory = join(context.storage, ".tracking", context.recipe, name)
        return cls(directory, name, context.recipe, context.step, context.output, config.model_dump(mode="json"))

    def parameters(self) -> dict[str, Any]:
        """The config's leaves by dotted path."""
        return leaves(self.config)

    def known_as(self, service: str) -> str:
        """The name that a service knows this run by: drawn at random once, kept in the run's directory."""
        # Not the step's hash: two storages may hold the same step, and each has a run of its own on a shared server.
        uri = join(self.directory, f"{service}.id")
        if not exists(uri):
            write_bytes(uri, f"{self.step}-{uuid.uuid4().hex[:12]}".encode())
        return read_bytes(uri).decode()


class Mirror:
    """A directory on this host whose files also stand at a URI; where the URI is local, it is that directory."""

    def __init__(self, uri: str, seconds: float = COPY_SECONDS) -> None:
        self._uri, self._seconds, self._local = uri, seconds, is_local(uri)
        self.path = Path(absolute(uri)) if self._local else Path(tempfile.mkdtemp(prefix="raystill-tracking-"))
        self.path.mkdir(parents=True, exist_ok=True)
        self._copied: dict[Path, tuple[int, int]] = {}
        self._last = time.monotonic()

    def copy(self, now: bool = False) -> None:
        """Copy what has changed: an object store takes files only whole, so not after each point unless asked."""
        if self._local or (not now and time.monotonic() - self._last < self._seconds):
            return
        for file in sorted(path for path in self.path.rglob("*") if path.is_file() and not path.is_symlink()):
            stat = file.stat()
            seen = (stat.st_size, stat.st_mtime_ns)
            if self._copied.get(file) != seen:
                copy_file(str(file), join(self._uri, file.relative_to(self.path).as_posix()))
                self._copied[file] = seen
        self._last = time.monotonic()

    def close(self) -> None:
        """Copy for the last time and remove the copy on this host."""
        self.copy(now=True)
        if not self._local:
            shutil.rmtree(self.path, ignore_errors=True)


class TensorBoardTracker:
    """Event files, one scalar for each figure, and the config as text."""

    def __init__(self, run: WatchedRun, resume_step: int) -> None:
        self._mirror = Mirror(run.directory)
        # Not tensorboardX's SummaryWriter: its own thread dies of a full disk without a word, and then blocks its caller.
        # The suffix keeps a run that is back within the same second from overwriting what it wrote before.
        self._writer = EventsWriter(str(self._mirror.path / "events"), f".{resume_step}.{os.getpid()}")
        forget_from = resume_step + 1 if resume_step else 0
        self._write(Event(step=forget_from, session_log=SessionLog(status=SessionLog.START)))
        if not resume_step:
            config = "\n".join(f"    {line}" for line in yaml.safe_dump(dict(run.config), sort_keys=False).splitlines())
            self._write(Event(step=0, summary=text("config", f"{run.artifact}\n\n{config}")))
        self.flush()

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._write(Event(step=step, summary=scalar(name, value)))
        self._writer.flush()
        self._mirror.copy()

    def flush(self) -> None:
        self._writer.flush()
        self._mirror.copy(now=True)

    def close(self, failed: bool = False) -> None:
        self._writer.close()
        self._mirror.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)


class MlflowTracker:
    """One MLflow run for a run: parameters, metrics by step, tags, and how it ended."""

    def __init__(self, settings: Mlflow, run: WatchedRun) -> None:
        for key, value in MLFLOW_ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        from mlflow.tracking import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._client = MlflowClient(settings.uri)
        self._run_id, self._known = self._find_or_start(settings.experiment or run.recipe, run)
        self._log_parameters(run)

    def _find_or_start(self, name: str, run: WatchedRun) -> tuple[str, dict[str, int]]:
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

    def _log_parameters(self, run: WatchedRun) -> None:
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

    def __init__(self, settings: Wandb, run: WatchedRun) -> None:
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
