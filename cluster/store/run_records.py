"""Records of runs: what each run of a recipe made, in what time and how good, kept beside the artifacts.

run = record_run(storage, "spam", {"teacher": teacher, "student": student}, seconds=125.0, scores={"accuracy": 0.98})
list_runs(storage)[0]                                   # the newest
needed_artifacts(run_artifacts(storage, run).values())  # all that it made, and all that these were made from
"""

import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from cluster.store.artifact import Artifact, Parent, first_place, open_artifact, sibling, with_others
from cluster.store.storage import exists, join, list_files, read_bytes, write_bytes

RUNS = ".runs"


class RunError(Exception):
    """A run is not there or cannot be read; the message names it."""


class RunRecord(BaseModel):
    """One finished run of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    recipe: str
    name: str
    """Unique in its storage; sorts by time."""
    ended: AwareDatetime
    seconds: float
    artifacts: dict[str, Parent]
    """What every step made, or found made."""
    scores: dict[str, str | float] = {}
    kept: bool = False
    """Whether cluster.gc must leave what it needs alone, however many runs come after it."""


def record_run(
    storage: str, recipe: str, artifacts: Mapping[str, Artifact], seconds: float, scores: Mapping[str, str | float]
) -> RunRecord:
    """Write down a run that has ended."""
    ended = datetime.now(UTC)
    run = RunRecord(
        recipe=recipe,
        name=f"{recipe}-{ended:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}",
        ended=ended,
        seconds=round(seconds, 1),
        artifacts={step: artifact.as_parent() for step, artifact in artifacts.items()},
        scores=dict(scores),
    )
    write_run(storage, run)
    return run


def write_run(storage: str, run: RunRecord) -> None:
    """Put a run's record in its place, whole."""
    write_bytes(_place(storage, run.recipe, run.name), run.model_dump_json(indent=1).encode())


def has_run(storage: str, run: RunRecord) -> bool:
    """Whether this very run is there, marked as kept or not; RunError where another one has its name."""
    place = _place(storage, run.recipe, run.name)
    if not exists(place):
        return False
    if _read(place).model_copy(update={"kept": run.kept}) != run:
        raise RunError(f"{place} is there already and tells of another run; import into another storage")
    return True


def list_runs(storage: str) -> list[RunRecord]:
    """All runs, the newest first."""
    root = join(storage, RUNS)
    if not exists(root):
        return []
    runs = [_read(join(root, stat.path)) for stat in list_files(root) if stat.path.endswith(".json")]
    return sorted(runs, key=lambda run: run.ended, reverse=True)


def find_run(storage: str, name: str) -> RunRecord:
    """The run of that name; RunError if there is none."""
    runs = {run.name: run for run in list_runs(storage)}
    if name not in runs:
        known = ", ".join(list(runs)[:5]) or "none"
        raise RunError(f"{storage} has no run {name}; the newest are: {known}")
    return runs[name]


def needed_artifacts(artifacts: Iterable[Artifact]) -> dict[str, Artifact]:
    """These artifacts and all that they were made from, by URI; ArtifactError where one is missing.

    Parents come first. A step's further outputs belong to it and come before its first one, as they are published.
    """
    found: dict[str, Artifact] = {}

    def visit(first: Artifact) -> None:
        if first.uri in found:
            return
        outputs = [*with_others(first)[1:], first]
        for parent in (parent for output in outputs for parents in output.manifest.parents.values() for parent in parents):
            visit(open_artifact(first_place(sibling(first.uri, parent.uri))))
        found.update({output.uri: output for output in outputs})

    for artifact in artifacts:
        visit(artifact)
    return found


def run_artifacts(storage: str, run: RunRecord) -> dict[str, Artifact]:
    """All that a run made or found made, by step; ArtifactError where one is missing."""
    return {step: open_artifact(uri) for step, uri in run_places(storage, run).items()}


def run_places(storage: str, run: RunRecord) -> dict[str, str]:
    """Where the first output of each of a run's steps is."""
    beside = join(storage, run.recipe, "x")
    return {step: first_place(sibling(beside, made.uri)) for step, made in run.artifacts.items()}


def artifact_size(artifact: Artifact) -> int:
    """Bytes of its files."""
    return sum(file.size for file in artifact.manifest.files.values())


def _place(storage: str, recipe: str, name: str) -> str:
    return join(storage, RUNS, recipe, f"{name}.json")


def _read(uri: str) -> RunRecord:
    try:
        return RunRecord.model_validate_json(read_bytes(uri))
    except ValidationError as error:
        raise RunError(f"{uri} is not a run's record: {error.errors()[0]['msg']}; delete it") from error
