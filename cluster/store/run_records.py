"""Runs of recipes: what each made, how large it is and how good, kept as records beside the artifacts.

python -m cluster.runs list STORAGE                    every run, the newest first
python -m cluster.runs keep STORAGE RUN                cluster.gc will not touch what it needs; `release` takes that back
python -m cluster.runs export STORAGE RUN FILE.tar     one archive with all its artifacts and their parents
python -m cluster.runs import STORAGE FILE.tar         into another storage; every file is checked by its hash
"""

import argparse
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from cluster.fleet.placement import size
from cluster.store.artifact import (
    Artifact,
    ArtifactError,
    Parent,
    find_outputs,
    first_place,
    open_artifact,
    sibling,
    with_others,
)
from cluster.store.storage import StorageError, absolute, exists, join, list_files, read_bytes, write_bytes

RUNS = ".runs"


class RunError(Exception):
    """A run is not there or cannot be read; the message names it."""


class Run(BaseModel):
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
) -> Run:
    """Write down a run that has ended."""
    ended = datetime.now(UTC)
    run = Run(
        recipe=recipe,
        name=f"{recipe}-{ended:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}",
        ended=ended,
        seconds=round(seconds, 1),
        artifacts={step: artifact.as_parent() for step, artifact in artifacts.items()},
        scores=dict(scores),
    )
    write_run(storage, run)
    return run


def write_run(storage: str, run: Run) -> None:
    """Put a run's record in its place, whole."""
    write_bytes(_place(storage, run.recipe, run.name), run.model_dump_json(indent=1).encode())


def has_run(storage: str, run: Run) -> bool:
    """Whether this very run is there, marked as kept or not; RunError where another one has its name."""
    place = _place(storage, run.recipe, run.name)
    if not exists(place):
        return False
    if _read(place).model_copy(update={"kept": run.kept}) != run:
        raise RunError(f"{place} is there already and tells of another run; import into another storage")
    return True


def list_runs(storage: str) -> list[Run]:
    """All runs, the newest first."""
    root = join(storage, RUNS)
    if not exists(root):
        return []
    runs = [_read(join(root, stat.path)) for stat in list_files(root) if stat.path.endswith(".json")]
    return sorted(runs, key=lambda run: run.ended, reverse=True)


def find_run(storage: str, name: str) -> Run:
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


def run_artifacts(storage: str, run: Run) -> dict[str, Artifact]:
    """All that a run made or found made, by step; ArtifactError where one is missing."""
    return {step: open_artifact(uri) for step, uri in _places(storage, run).items()}


def artifact_size(artifact: Artifact) -> int:
    """Bytes of its files."""
    return sum(file.size for file in artifact.manifest.files.values())


def _places(storage: str, run: Run) -> dict[str, str]:
    """Where the first output of each of a run's steps is."""
    beside = join(storage, run.recipe, "x")
    return {step: first_place(sibling(beside, made.uri)) for step, made in run.artifacts.items()}


def _place(storage: str, recipe: str, name: str) -> str:
    return join(storage, RUNS, recipe, f"{name}.json")


def _read(uri: str) -> Run:
    try:
        return Run.model_validate_json(read_bytes(uri))
    except ValidationError as error:
        raise RunError(f"{uri} is not a run's record: {error.errors()[0]['msg']}; delete it") from error


def table(storage: str, runs: Sequence[Run]) -> list[str]:
    """A row for each run: when, how long, how large, how good."""
    rows = [("run", "ended", "took", "size", "kept", "scores")]
    for run in runs:
        places = list(_places(storage, run).values())
        found = {artifact.uri: artifact for place in places for artifact in find_outputs(place)}
        missing = sum(place not in found for place in places)
        scores = "  ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in run.scores.items()
        )
        rows.append(
            (
                run.name,
                f"{run.ended:%Y-%m-%d %H:%M}",
                f"{run.seconds / 60:.0f} min" if run.seconds >= 90 else f"{run.seconds:.0f} s",
                size(sum(artifact_size(artifact) for artifact in found.values())),
                "kept" if run.kept else "",
                scores + (f"  ({missing} of its artifacts are gone)" if missing else ""),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip() for row in rows
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    from cluster.store.archive import ArchiveError, export_run, import_run

    options = _parse(arguments)
    storage = absolute(options.storage)
    try:
        if options.command == "list":
            runs = list_runs(storage)
            print("\n".join(table(storage, runs)) if runs else f"no runs in {storage}")
        elif options.command in ("keep", "release"):
            write_run(storage, find_run(storage, options.run).model_copy(update={"kept": options.command == "keep"}))
        elif options.command == "export":
            count, total = export_run(storage, find_run(storage, options.run), options.file)
            print(f"{options.file}: the outputs of {count} step(s), {size(total)}")
        else:
            run, made = import_run(options.file, storage)
            print(f"{run.name}: the outputs of {made} step(s) were new to {storage}")
    except (ArchiveError, ArtifactError, RunError, StorageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m cluster.runs", description="Runs of recipes, and moving them elsewhere.")
    commands = parser.add_subparsers(dest="command", required=True)
    about = {
        "list": "every run, the newest first",
        "keep": "have cluster.gc leave what a run needs alone",
        "release": "take that back",
        "export": "write a run and all that it needs into one archive",
        "import": "take a run out of an archive, checking every file",
    }
    for name, meaning in about.items():
        command = commands.add_parser(name, help=meaning, description=meaning)
        command.add_argument("storage", help="where runs are kept, a path or URI")
        if name in ("keep", "release", "export"):
            command.add_argument("run", help="a run's name, see list")
        if name in ("export", "import"):
            command.add_argument("file", help="the archive, a tar file on this machine")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
