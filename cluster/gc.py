"""gc: which artifacts nothing needs any more; lists them, and deletes them when told to.

    python -m cluster.gc STORAGE                lists what would go, and why
    python -m cluster.gc STORAGE --delete       deletes it

Kept is what an alias points at (and what it pointed at before) with the models that its deployment's config names, what a
recipe's newest runs and the kept ones made, all that these were made from, and whatever is younger than --days: a run may
still be going on. A recipe without recorded runs (its steps were run one by one) keeps the newest output of each step, as does
one in which a run goes on: something younger is unfinished. What is kept or goes is a step's whole directory, with all its
outputs. Aliases, verdicts and runs' records stay; rows that were cleaned before stay as long as what was made of them does.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cluster.fleet.placement import size
from cluster.store.artifact import EARLIER_REGISTRY, MANIFEST, Artifact, ArtifactError, find_outputs, first_place, split_place
from cluster.store.registry import RegistryError, aliases
from cluster.store.run_records import RunError, RunRecord, artifact_size, list_runs
from cluster.store.storage import StorageError, absolute, delete, exists, join, list_directories, list_files, modified

STEP = re.compile(r"^(?P<step>.+)-[0-9a-f]{8}$")
SCRATCH = ".scratch"
CLEANED_ROWS = ".rows"
"""What prepare keeps of rows, for when their source has grown; its manifest names the directory under `cleaned`."""
ALIAS_DEPTH = 2
"""An alias keeps what it points at and the one before, so that it can be moved back."""


@dataclass(frozen=True)
class Garbage:
    """Something that nothing needs."""

    uri: str
    size: int
    age: timedelta
    reason: str


class _Survey:
    """What steps have made in a storage, as far as it is there when this is looked at."""

    def __init__(self, storage: str) -> None:
        self.storage = storage
        self.made: dict[str, list[Artifact]] = {}
        """The outputs of each step that has ended, by the URI of its directory."""
        self.unfinished: dict[str, list[Artifact]] = {}
        """The further outputs, if any, in each directory of a step that has not."""
        for recipe in list_directories(storage) if exists(storage) else []:
            if not recipe.startswith(".") and recipe != EARLIER_REGISTRY:
                for name in list_directories(join(storage, recipe)):
                    self._look(join(storage, recipe, name), name)
        everything = [artifact for outputs in (self.made | self.unfinished).values() for artifact in outputs]
        self.by_uri = {artifact.uri: artifact for artifact in everything}
        self.by_content = {artifact.fingerprint: artifact for artifact in reversed(everything)}

    def _look(self, uri: str, name: str) -> None:
        outputs = find_outputs(uri)
        if outputs and outputs[0].uri == uri:
            self.made[uri] = outputs
        elif outputs or STEP.match(name):
            self.unfinished[uri] = outputs

    def outputs(self, directory: str) -> list[Artifact]:
        return self.made[directory] if directory in self.made else self.unfinished[directory]

    def directories(self, uri: str, fingerprint: str) -> set[str]:
        """The directories that must stay where this artifact is needed.

        What was moved to another storage is found by its place; what was made again since, or lies elsewhere, by its content.
        """
        placed = self.by_uri.get(uri) or self.by_uri.get(join(self.storage, split_place(uri)[1]))
        same = placed if placed and placed.fingerprint == fingerprint else self.by_content.get(fingerprint)
        return {first_place(artifact.uri) for artifact in (placed, same) if artifact is not None}


def find_garbage(storage: str, keep: int, younger: timedelta, now: datetime) -> tuple[list[Garbage], dict[str, str]]:
    """What can go, and why each step's directory that stays does, by URI."""
    survey = _Survey(storage)
    left = [*survey.unfinished, *_below(storage, SCRATCH)]
    going_on = {uri.rsplit("/", 2)[1] for uri in set(left) - {item.uri for item in _leftovers(left, younger, now)}}
    # After the survey: what is named meanwhile is known, and what is made meanwhile is not looked at.
    kept = _kept(storage, survey, keep, going_on)
    for uri, outputs in survey.made.items():
        if uri not in kept and now - _published(outputs[0]) < younger:
            kept[uri] = "young"
    _follow_parents(survey, kept)
    garbage = [
        Garbage(uri, sum(map(artifact_size, outputs)), now - outputs[0].manifest.created, "no alias and no kept run needs it")
        for uri, outputs in survey.made.items()
        if uri not in kept
    ]
    garbage += _leftovers([uri for uri in left if uri not in kept], younger, now)
    stay = {str(survey.made[uri][0].manifest.details.get("cleaned")) for uri in kept if uri in survey.made}
    rows = [uri for uri in _below(storage, CLEANED_ROWS) if "/".join(uri.rsplit("/", 2)[1:]) not in stay]
    return garbage + list(_leftovers(rows, younger, now, "cleaned rows of no kept step")), kept


def _published(artifact: Artifact) -> datetime:
    """When it came to lie here: an imported one was made long before, and its run's record comes last."""
    here = modified(join(artifact.uri, MANIFEST)) or 0.0
    return max(artifact.manifest.created, datetime.fromtimestamp(here, UTC))


def remove(garbage: Garbage) -> None:
    """Delete it, its manifest first: whatever happens in between, no half of it is taken for a whole."""
    manifest = join(garbage.uri, MANIFEST)
    if exists(manifest):
        delete(manifest)
    delete(garbage.uri)


def _below(storage: str, name: str) -> Iterator[str]:
    """The directories of recipes' steps below a root of the storage."""
    root = join(storage, name)
    for recipe in list_directories(root) if exists(root) else []:
        yield from (join(root, recipe, step) for step in list_directories(join(root, recipe)))


def _kept(storage: str, survey: _Survey, keep: int, going_on: Set[str]) -> dict[str, str]:
    """What aliases and runs name, with the reason."""
    kept: dict[str, str] = {}

    def hold(uri: str, fingerprint: str, reason: str) -> None:
        for directory in survey.directories(uri, fingerprint):
            kept.setdefault(directory, reason)

    for alias in aliases(storage):
        for target in alias.history[-ALIAS_DEPTH:]:
            for uri, fingerprint in target.models():
                hold(uri, fingerprint, f"alias {alias.name}")
    runs = list_runs(storage)
    for run in _kept_runs(runs, keep):
        for made in run.artifacts.values():
            hold(made.uri, made.fingerprint, f"run {run.name}")
    recorded = {run.recipe for run in runs}
    for artifact in _newest(outputs[0] for outputs in survey.made.values()):
        recipe = _recipe(artifact)
        if recipe not in recorded or recipe in going_on:
            why = "in which a run goes on" if recipe in going_on else "which has no recorded runs"
            kept.setdefault(artifact.uri, f"newest {artifact.manifest.step} of {recipe}, {why}")
    return kept


def _recipe(artifact: Artifact) -> str:
    return artifact.uri.rsplit("/", 2)[1]


def _kept_runs(runs: Iterable[RunRecord], keep: int) -> Iterator[RunRecord]:
    """Each recipe's newest runs (they come newest first), and those that are marked."""
    seen: dict[str, int] = {}
    for run in runs:
        seen[run.recipe] = seen.get(run.recipe, 0) + 1
        if run.kept or seen[run.recipe] <= keep:
            yield run


def _newest(artifacts: Iterable[Artifact]) -> list[Artifact]:
    newest: dict[tuple[str, str], Artifact] = {}
    for artifact in artifacts:
        key = (_recipe(artifact), artifact.manifest.step)
        if key not in newest or newest[key].manifest.created < artifact.manifest.created:
            newest[key] = artifact
    return list(newest.values())


def _follow_parents(survey: _Survey, kept: dict[str, str]) -> None:
    waiting = list(kept)
    while waiting:
        for child in survey.outputs(waiting.pop()):
            for parent in (parent for parents in child.manifest.parents.values() for parent in parents):
                for directory in survey.directories(parent.uri, parent.fingerprint) - kept.keys():
                    kept[directory] = f"parent of {child.manifest.step}"
                    waiting.append(directory)


def _leftovers(
    directories: Iterable[str], younger: timedelta, now: datetime, reason: str = "left by a run that never ended"
) -> Iterator[Garbage]:
    """Unfinished outputs, checkpoints and the like that nothing has touched for long: no run goes on from them any more."""
    for uri in directories:
        files = list(list_files(uri))
        # A run that has just begun has directories before files.
        touched = max([modified(uri) or 0.0, *(stat.modified for stat in files)])
        age = now - datetime.fromtimestamp(touched, UTC)
        if age > younger:
            yield Garbage(uri, sum(stat.size for stat in files), age, reason)


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
    except (ArtifactError, RegistryError, RunError, StorageError) as error:
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
