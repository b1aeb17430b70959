"""gc: which artifacts nothing needs any more; lists them, and deletes them when told to.

    python -m cluster.gc STORAGE                lists what would go, and why
    python -m cluster.gc STORAGE --delete       deletes it

Kept is what an alias points at (and what it pointed at before), what a recipe's newest runs and the kept ones made, all that
these were made from, and whatever is younger than --days: a run may still be going on. A recipe without recorded runs (its
steps were run one by one) keeps the newest artifact of each step.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cluster.artifact import MANIFEST, Artifact, ArtifactError, find_artifact
from cluster.plan import size
from cluster.registry import Alias
from cluster.runs import Run, RunError, artifact_size, list_runs
from cluster.storage import StorageError, absolute, delete, exists, join, list_directories, list_files, read_bytes

STEP = re.compile(r"^(?P<step>.+)-[0-9a-f]{8}$")
SCRATCH = ".scratch"
REGISTRY = "registry"
ALIAS_DEPTH = 2
"""An alias keeps what it points at and the one before, so that it can be moved back."""


@dataclass(frozen=True)
class Garbage:
    """Something that nothing needs."""

    uri: str
    size: int
    age: timedelta
    reason: str


def find_garbage(storage: str, keep: int, younger: timedelta, now: datetime) -> tuple[list[Garbage], dict[str, str]]:
    """What can go, and why each artifact that stays does, by URI."""
    artifacts, unfinished = _survey(storage)
    kept = _kept(storage, artifacts, keep)
    for artifact in artifacts.values():
        if now - artifact.manifest.created < younger:
            kept.setdefault(artifact.uri, "young")
    _follow_parents(artifacts, kept)
    garbage = [
        Garbage(uri, artifact_size(artifact), now - artifact.manifest.created, "no alias and no kept run needs it")
        for uri, artifact in artifacts.items()
        if uri not in kept
    ]
    return garbage + list(_leftovers(unfinished, younger, now)), kept


def remove(garbage: Garbage) -> None:
    """Delete it, its manifest first: whatever happens in between, no half of it is taken for a whole."""
    manifest = join(garbage.uri, MANIFEST)
    if exists(manifest):
        delete(manifest)
    delete(garbage.uri)


def _survey(storage: str) -> tuple[dict[str, Artifact], list[str]]:
    """All finished artifacts by URI, and the directories of unfinished ones and of scratch."""
    artifacts, unfinished = {}, []
    for recipe in list_directories(storage) if exists(storage) else []:
        if recipe.startswith(".") or recipe == REGISTRY:
            continue
        for name in list_directories(join(storage, recipe)):
            uri = join(storage, recipe, name)
            artifact = find_artifact(uri)
            if artifact is not None:
                artifacts[uri] = artifact
            elif STEP.match(name):
                unfinished.append(uri)
    scratch = join(storage, SCRATCH)
    for recipe in list_directories(scratch) if exists(scratch) else []:
        unfinished += [join(scratch, recipe, name) for name in list_directories(join(scratch, recipe))]
    return artifacts, unfinished


def _kept(storage: str, artifacts: Mapping[str, Artifact], keep: int) -> dict[str, str]:
    """What aliases and runs name, with the reason."""
    kept: dict[str, str] = {}
    by_content = {artifact.fingerprint: uri for uri, artifact in artifacts.items()}

    def hold(uri: str, fingerprint: str, reason: str) -> None:
        # What was moved to another storage is found by its content.
        found = uri if uri in artifacts else by_content.get(fingerprint)
        if found is not None:
            kept.setdefault(found, reason)

    for alias in _aliases(storage):
        for target in alias.history[-ALIAS_DEPTH:]:
            hold(target.uri, target.fingerprint, f"alias {alias.name}")
    runs = list_runs(storage)
    for run in _kept_runs(runs, keep):
        for made in run.artifacts.values():
            hold(made.uri, made.fingerprint, f"run {run.name}")
    recorded = {run.recipe for run in runs}
    for uri, artifact in _newest(artifacts).items():
        recipe = uri.rsplit("/", 2)[1]
        if recipe not in recorded:
            kept.setdefault(uri, f"newest {artifact.manifest.step} of {recipe}, which has no recorded runs")
    return kept


def _kept_runs(runs: Iterable[Run], keep: int) -> Iterator[Run]:
    """Each recipe's newest runs (they come newest first), and those that are marked."""
    seen: dict[str, int] = {}
    for run in runs:
        seen[run.recipe] = seen.get(run.recipe, 0) + 1
        if run.kept or seen[run.recipe] <= keep:
            yield run


def _newest(artifacts: Mapping[str, Artifact]) -> dict[str, Artifact]:
    newest: dict[tuple[str, str], Artifact] = {}
    for uri, artifact in artifacts.items():
        key = (uri.rsplit("/", 2)[1], artifact.manifest.step)
        if key not in newest or newest[key].manifest.created < artifact.manifest.created:
            newest[key] = artifact
    return {artifact.uri: artifact for artifact in newest.values()}


def _aliases(storage: str) -> list[Alias]:
    root = join(storage, REGISTRY)
    if not exists(root):
        return []
    return [
        Alias.model_validate_json(read_bytes(join(root, stat.path)))
        for stat in list_files(root)
        if stat.path.endswith(".json")
    ]


def _follow_parents(artifacts: Mapping[str, Artifact], kept: dict[str, str]) -> None:
    by_content = {artifact.fingerprint: uri for uri, artifact in artifacts.items()}
    waiting = list(kept)
    while waiting:
        child = artifacts[waiting.pop()]
        for parent in (parent for parents in child.manifest.parents.values() for parent in parents):
            uri = parent.uri if parent.uri in artifacts else by_content.get(parent.fingerprint)
            if uri is not None and uri not in kept:
                kept[uri] = f"parent of {child.manifest.step}"
                waiting.append(uri)


def _leftovers(directories: Iterable[str], younger: timedelta, now: datetime) -> Iterator[Garbage]:
    """Unfinished outputs and checkpoints that nothing has touched for long: no run goes on from them any more."""
    for uri in directories:
        files = list(list_files(uri))
        touched = max((stat.modified for stat in files), default=0.0)
        age = now - datetime.fromtimestamp(touched, UTC)
        if age > younger:
            yield Garbage(uri, sum(stat.size for stat in files), age, "left by a run that never ended")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser("python -m cluster.gc", description="List, then delete, what nothing needs any more.")
    parser.add_argument("storage", help="where runs are kept, a path or URI")
    parser.add_argument("--keep", type=int, default=3, help="runs of each recipe to keep (default: %(default)s)")
    parser.add_argument("--days", type=float, default=7, help="keep whatever is younger (default: %(default)s)")
    parser.add_argument("--delete", action="store_true", help="delete what is listed")
    options = parser.parse_args(arguments)
    try:
        garbage, kept = find_garbage(absolute(options.storage), options.keep, timedelta(days=options.days), datetime.now(UTC))
        for item in garbage:
            print(f"{size(item.size):>10}  {item.age.days:>4} days  {item.uri}  {item.reason}")
            if options.delete:
                remove(item)
    except (ArtifactError, RunError, StorageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    total = size(sum(item.size for item in garbage))
    verb = "deleted" if options.delete else "would go; add --delete to delete them"
    print(
        f"{len(garbage)} of {len(garbage) + len(kept)}, {total}: {verb}" if garbage else f"nothing to delete; {len(kept)} kept"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
