"""Runs of recipes: which there are, how large and how good; keeping them, and moving them elsewhere.

python -m cluster.runs list STORAGE                    every run, the newest first
python -m cluster.runs keep STORAGE RUN                cluster.gc will not touch what it needs; `release` takes that back
python -m cluster.runs export STORAGE RUN FILE.tar     one archive with all its artifacts and their parents
python -m cluster.runs import STORAGE FILE.tar         into another storage; every file is checked by its hash
"""

import argparse
import sys
from collections.abc import Sequence

from cluster.fleet.placement import size
from cluster.store.archive import ArchiveError, export_run, import_run
from cluster.store.artifact import ArtifactError, find_outputs
from cluster.store.run_records import RunError, RunRecord, artifact_size, find_run, list_runs, run_places, write_run
from cluster.store.storage import StorageError, absolute


def table(storage: str, runs: Sequence[RunRecord]) -> list[str]:
    """A row for each run: when, how long, how large, how good."""
    rows = [("run", "ended", "took", "size", "kept", "scores")]
    for run in runs:
        places = list(run_places(storage, run).values())
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
