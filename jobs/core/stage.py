"""Stage: one kind of step. A function, its Config, its named inputs with their kinds, its output kind, a version.

A module `jobs/<name>.py` defines `STAGE` and ends with `if __name__ == "__main__": main(STAGE)`.
"""

import importlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from pydantic import Field, model_validator

from cluster.store.artifact import OTHERS, Artifact, File, Kind
from cluster.store.storage import join
from jobs.core.config import Config, Problem
from jobs.core.idle import Rule
from jobs.core.metric import Metric
from jobs.core.tracking_settings import Tracking

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

STAGES = ("prepare", "floor", "pretrain", "finetune", "predict", "distill", "compress", "evaluate", "select", "deploy")

PROGRESS_MARK = "@progress "

CHANGEABLE = (
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "optimizer.beta1",
    "optimizer.beta2",
    "optimizer.momentum",
    "clip_norm",
)
"""What may change while any model trains: neither its shape nor the order or number of its steps."""


class Resources(Config):
    """What a step asks of the cluster. Never part of a step's identity: other hardware, the same step."""

    workers: int = Field(1, ge=1)
    """Processes that train together (Ray Train; one alone trains in a task) or actors that predict side by side."""
    min_workers: int | None = Field(None, ge=1)
    """Training: go on with as few as this when workers are lost and no others are to be had (elastic)."""
    parallel: Literal["ddp", "fsdp", "tensor"] = "ddp"
    """Training on several workers: ddp keeps the whole model in each; fsdp (FSDP2) a shard in each, for large models; tensor
    has them compute each layer together (architectures that transformers has a plan for: llama, qwen3, …)."""
    cpus: float = Field(1, gt=0)
    """CPUs for each worker."""
    gpus: float = Field(0, ge=0)
    """GPUs for each worker."""
    max_failures: int = Field(2, ge=0)
    """How often lost workers are started again from the last checkpoint."""

    @model_validator(mode="after")
    def _fewest_are_fewer(self) -> "Resources":
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers {self.min_workers} is more than workers {self.workers}; lower it")
        return self


class Refused(Exception):
    """A step did its work and its answer is no (no candidate within the budget). Exit code 3."""


@dataclass(frozen=True)
class Implied:
    """How an input is made that a recipe has not named: by a step that need not be written down."""

    stage: str
    """The stage that makes it, of what the step has under the names of that stage's own inputs."""
    lacking: Callable[[Any, Mapping[str, Any]], str | None]
    """Why it cannot be made for a step, of these steps of the recipe; None where it can."""


@dataclass(frozen=True)
class Input:
    """A named input of a stage."""

    kind: Kind
    meaning: str
    many: bool = False
    optional: bool = False
    alias: bool = False
    """Whether it names an alias of the registry (spam/production) and no step: the model that this points at, or none yet."""
    implied: Implied | None = None
    """Where a recipe names none and does not say `false` under the input's name: the step that makes it."""


class Pointed(NamedTuple):
    """What an input has of the registry: the alias, and the variant of the model that it points at."""

    alias: str
    variant: str


class Inputs(dict[str, list[Artifact]]):
    """The artifacts that a step was given, by input name."""

    pointed: Mapping[str, Pointed] = {}
    """Of the inputs that name an alias which points at something."""

    def one(self, name: str) -> Artifact:
        """The single artifact of an input that is always there."""
        return self[name][0]

    def maybe(self, name: str) -> Artifact | None:
        """The artifact of an optional input."""
        return self[name][0] if self.get(name) else None


@dataclass(frozen=True)
class Outcome:
    """What a stage found out: figures for people and searches, details for the report."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, File] = field(default_factory=dict)
    """Files that workers have put below the output's URI themselves."""
    others: "tuple[Outcome, ...]" = ()
    """Further outputs of the same step (the next best trials' models), whose files lie below `other_place(output, number)`,
    numbered from 2."""


class Trial(Protocol):
    """A trial of a search, as the training in it sees it."""

    checkpoints: str
    """A URI of the trial's own for its checkpoints."""

    def evaluated(self, figures: Mapping[str, float], state: Callable[[], Any]) -> None:
        """Tell the search; it may keep the state, and may end the trial here."""
        ...

    def start(self) -> Any | None:
        """The state that the search has the trial begin from (another trial's, in population-based training)."""
        ...


def print_progress(**figures: Any) -> None:
    """Say how far a step is, on its log: the pipeline shows the latest figures as the step's live line."""
    print(PROGRESS_MARK + json.dumps(figures), flush=True)


@dataclass(frozen=True)
class Context:
    """Where and with what a step runs; nothing of it is part of the step's identity."""

    storage: str
    """Root of all runs, registry and aliases."""
    recipe: str
    step: str
    output: str
    """The URI that the step's artifact will have."""
    attempt: str
    """Unique for this execution: distributed writers put it into their paths."""
    resources: Resources = Resources()
    tracking: Tracking = Tracking()
    """Where a training run can be watched."""
    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="raystill-")))
    """Local directory; what a stage leaves in it is published at the top of the output."""
    report: Callable[..., None] = print_progress
    """Called with figures during training: prints progress, or reports to a search."""
    trial: "Trial | None" = None
    """The trial of a search that this is: then training runs inside this process."""

    @property
    def scratch(self) -> str:
        """A URI that all workers share for what the step needs while it runs (checkpoints, trials).

        That of a further output is below the first one's, and goes with it.
        """
        parent, _, name = self.output.rpartition("/")
        if parent.endswith(f"/{OTHERS}"):
            name = join(parent.split("/")[-2], name)
        return join(self.storage, ".scratch", self.recipe, name)


def _no_sources(_: Any) -> Mapping[str, str]:
    return {}


def _no_check(_: Any) -> list[Problem]:
    return []


@dataclass(frozen=True)
class Preflight:
    """What a config says before anything of it runs."""

    sources: Callable[[Any], Mapping[str, str]] = _no_sources
    """The fingerprints of outside data and models that a config names; they are part of the step's identity."""
    check: Callable[[Any], list[Problem]] = _no_check
    """What would go wrong with a config, found without running it (files, columns, labels)."""
    rules: tuple[Rule, ...] = ()
    """What keys need to do something; a recipe that gives one in vain is refused."""


@dataclass(frozen=True)
class Searchable:
    """How keys of a config may be search spaces; a search improves the stage's score."""

    changeable: tuple[str, ...] = CHANGEABLE
    """The keys that population-based training may change while the model trains."""
    shaped_by: tuple[str, ...] = ()
    """The keys that make the model's shape, where `shape` can build it."""
    shape: "Callable[[Any, Inputs], tuple[PreTrainedModel, PreTrainedTokenizerBase]] | None" = None
    """The model that a config would train, with random weights, and its tokenizer."""
    write_shape: "Callable[[Any, Inputs, Path], bool] | None" = None
    """Where a config would train no transformer: writes such a MODEL, with random weights and in all its forms, into a
    directory, and says that it did."""


@dataclass(frozen=True)
class Completion:
    """What follows once a step's artifact is there."""

    headline: tuple[str, ...] = ()
    """What the pipeline shows besides its metrics when a step of this stage is done."""
    page: str | None = None
    """The file of its artifact that a person opens in a browser."""
    settle: Callable[[Artifact, Context], None] | None = None
    """What must hold outside then (an alias); called also when the artifact was found complete."""
    effect: bool = False
    """Whether the step acts on the world (a deployment) and so runs even if its artifact is there."""


@dataclass(frozen=True)
class Stage:
    """One kind of step."""

    name: str
    purpose: str
    config: type[Config]
    run: Callable[[Any, Inputs, Context], Outcome]
    output: Kind | Callable[[Any], Kind]
    """What it makes; a function of the config where that decides."""
    version: int
    """Raised when the stage's meaning changes, so that what older code made is made again."""
    inputs: Mapping[str, Input] = field(default_factory=dict)
    metrics: "tuple[Metric, ...] | Callable[[Any, Mapping[str, Any]], tuple[Metric, ...]]" = ()
    """The figures by which what it makes is compared, the first being the score; a function of the step and the recipe's steps
    where its inputs decide."""
    preflight: Preflight = Preflight()
    searchable: Searchable | None = None
    """None where it has no score to search by."""
    completion: Completion = Completion()


def load_stage(name: str) -> Stage:
    """The stage of that name, from its module."""
    stage = importlib.import_module(f"jobs.{name}").STAGE
    assert isinstance(stage, Stage)
    return stage
