"""Where a training run can be watched. Never part of a step's identity: a run is the same whoever looks on.

    tracking: {mlflow: {uri: "http://mlflow:5000"}, wandb: {project: spam, mode: offline}}

`jobs.training.tracking` writes what is said here. No torch, no MLflow and no W&B in this file.
"""

import netrc
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from pydantic import Field

from jobs.core.config import Config, Problem

MLFLOW_SCHEMES = ("http", "https", "databricks", "sqlite", "postgresql", "mysql", "mssql")
WANDB_SERVER = "https://api.wandb.ai"


class Mlflow(Config):
    """An MLflow server or database; its user and password come from MLflow's own environment variables."""

    uri: str = Field(default_factory=lambda: os.environ.get("MLFLOW_TRACKING_URI", ""))
    """http(s)://…, sqlite:////file.db or another database; MLFLOW_TRACKING_URI unless given."""
    experiment: str | None = None
    """The experiment's name; the recipe's unless given."""


class Wandb(Config):
    """Weights & Biases; the key comes from WANDB_API_KEY or `wandb login`."""

    project: str = "raystill"
    """The project's name."""
    entity: str | None = None
    """The team or user; your default one unless given."""
    mode: Literal["online", "offline", "disabled"] = Field(
        default_factory=lambda: cast(Any, os.environ.get("WANDB_MODE", "online"))
    )
    """offline: files beside TensorBoard's, to send with `wandb sync`; WANDB_MODE unless given."""


class Tracking(Config):
    """Where the figures of a training run go besides the log."""

    tensorboard: bool = True
    """Write TensorBoard's files below {storage}/.tracking."""
    mlflow: Mlflow | None = None
    """Log to MLflow too; needs the extra `mlflow`."""
    wandb: Wandb | None = None
    """Log to Weights & Biases too; needs the extra `wandb`."""


def tracking_problems(tracking: Tracking) -> list[Problem]:
    """What is wrong with the settings, found before anything runs and without asking a server."""
    problems = []
    for name in ("mlflow", "wandb"):
        if getattr(tracking, name) is not None and find_spec(name) is None:
            remedy = f"Run pip install 'raystill[{name}]' (on a cluster on every node), or remove the key."
            problems.append(Problem(f"tracking.{name}", None, f"the package {name} is not installed", remedy))
    if tracking.mlflow is not None:
        problems += _check_mlflow(tracking.mlflow)
    if tracking.wandb is not None and tracking.wandb.mode == "online" and not _wandb_knows_a_key():
        remedy = "Set WANDB_API_KEY, run wandb login, or use mode offline."
        problems.append(Problem("tracking.wandb.mode", "online", "no W&B key is known here", remedy))
    return problems


def _check_mlflow(settings: Mlflow) -> list[Problem]:
    path, remedy = "tracking.mlflow.uri", "Give a server (http://host:5000) or a database (sqlite:////path/mlflow.db)."
    if not settings.uri:
        return [Problem(path, None, "no MLflow server is named, and MLFLOW_TRACKING_URI is not set", remedy)]
    scheme = urlsplit(settings.uri).scheme.partition("+")[0] or settings.uri
    if scheme not in MLFLOW_SCHEMES:
        # MLflow itself refuses directories since 3.x.
        return [Problem(path, settings.uri, "neither a server nor a database", remedy)]
    return []


def _wandb_knows_a_key() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    host = urlsplit(os.environ.get("WANDB_BASE_URL", WANDB_SERVER)).hostname or ""
    try:
        return netrc.netrc(str(file)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
