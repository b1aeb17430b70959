"""Where each step of a recipe stands: its URI, its artifact where it is done, and why it would run where it is not.

places = locate(recipe, storage)
identity(step, inputs)                          # what the step is: other figures, another place
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cluster.store.artifact import (
    Artifact,
    ArtifactError,
    Manifest,
    digest,
    find_artifact,
    sibling,
    with_others,
)
from cluster.store.registry import AliasTarget, has_alias, read
from cluster.store.storage import absolute, exists, join, list_directories
from jobs.core.config import identifying, leaves
from jobs.core.recipe import Recipe, Step
from jobs.core.stage import Inputs, Pointed


@dataclass(frozen=True)
class Place:
    """Where a step stands: its URI once its parents are known, its artifact once it is done, else why it will run."""

    step: Step
    uri: str | None
    artifact: Artifact | None
    reason: str
    seconds: float | None = None
    """What the step took when it last ran to its end, with whatever config."""

    @property
    def runs(self) -> bool:
        """Whether a pipeline would run the step."""
        return self.artifact is None or self.step.stage.completion.effect


def default_storage() -> str:
    """Where runs are kept unless the command line says otherwise."""
    return absolute(os.environ.get("RAYSTILL_STORAGE", "~/raystill"))


def locate(recipe: Recipe, storage: str) -> dict[str, Place]:
    """Every step's place, in order; nothing is run."""
    places: dict[str, Place] = {}
    for name, step in recipe.steps.items():
        if step.once and (kept := _kept(recipe, step, storage)) is not None:
            reason = f"made once, on {kept.manifest.created:%Y-%m-%d}, and kept"
            places[name] = Place(step, kept.uri, kept, reason, kept.manifest.seconds)
            continue
        waiting = sorted({parent for names in step.inputs.values() for parent in names if places[parent].artifact is None})
        if waiting:
            before = _latest(recipe, step, storage)
            changed = _differences(step, before) if before else []
            reason = "; ".join([*changed, f"new parent {', '.join(waiting)}"])
            places[name] = Place(step, None, None, reason, before.seconds if before else None)
        else:
            places[name] = _place(recipe, step, storage, gather(step, places, storage))
    return places


def gather(step: Step, places: Mapping[str, Place], storage: str) -> Inputs:
    """The artifacts that a step is given, of those of its parents that are done, and of the registry."""
    inputs = Inputs()
    for key, names in step.inputs.items():
        artifacts = [artifact for name in names if (artifact := places[name].artifact) is not None]
        many = step.stage.inputs[key].many
        inputs[key] = [one for artifact in artifacts for one in (with_others(artifact) if many else [artifact])]
    own = {artifact.fingerprint for artifacts in inputs.values() for artifact in artifacts}
    for key, alias in step.aliases.items():
        target = _pointed_at(storage, alias, own)
        inputs[key] = [] if target is None else [_open_target(storage, alias, target)]
        inputs.pointed = {**inputs.pointed, **({key: Pointed(alias, target.variant)} if target is not None else {})}
    return inputs


def _pointed_at(storage: str, alias: str, own: Collection[str]) -> AliasTarget | None:
    """What an alias pointed at last that is none of the step's other inputs.

    So a step that compares its candidates with what was there before them stays the same step once one of them is there.
    """
    history = read(storage, alias).history if has_alias(storage, alias) else ()
    return next((target for target in reversed(history) if target.fingerprint not in own), None)


def _open_target(storage: str, alias: str, target: AliasTarget) -> Artifact:
    found = find_artifact(sibling(join(storage, alias), target.uri))
    if found is None or found.fingerprint != target.fingerprint:
        there = "it is not there" if found is None else "another model is there now"
        remedy = "put it back, point the alias at another model, or leave this input out for one run"
        raise ArtifactError(f"{alias} points at {target.uri}, and {there}: {remedy}")
    return found


def _place(recipe: Recipe, step: Step, storage: str, inputs: Inputs) -> Place:
    uri = join(storage, recipe.name, f"{step.name}-{identity(step, inputs)[:8]}")
    artifact = find_artifact(uri)
    if artifact is not None:
        reason = "acts on the cluster, so it runs each time" if step.stage.completion.effect else "complete"
        return Place(step, uri, artifact, reason, artifact.manifest.seconds)
    before = _latest(recipe, step, storage)
    if before is None:
        return Place(step, uri, None, "never run")
    changed = _differences(step, before) + _new_parents(inputs, before)
    return Place(step, uri, None, "; ".join(changed) or _outside(step, inputs, before), before.seconds)


def identity(step: Step, inputs: Mapping[str, list[Artifact]]) -> str:
    """What the step is: its stage and version, config but for speed and memory, outside data and parents by content."""
    return digest(
        {
            "stage": step.stage.name,
            "version": step.stage.version,
            "config": step.identifying(),
            "sources": sources_of(step, inputs),
            "parents": {key: [artifact.fingerprint for artifact in artifacts] for key, artifacts in inputs.items()},
        }
    )


def sources_of(step: Step, inputs: Mapping[str, list[Artifact]] | None = None) -> dict[str, str]:
    """The outside data and models that a step names, by content; with a search over models, each of them; and which variants
    the registry's aliases point at."""
    first, *more = map(step.stage.preflight.sources, step.named())
    found = dict(first)
    for number, marks in enumerate(more, 2):
        found |= {f"{key}.{number}": mark for key, mark in marks.items() if mark != found.get(key)}
    pointed = inputs.pointed if isinstance(inputs, Inputs) else {}
    return found | {f"inputs.{key}": one.variant for key, one in pointed.items()}


def made_before(storage: str, recipe: str, step: str) -> list[Artifact]:
    """The finished artifacts of a step of this name, whatever its config and its parents were, the newest first."""
    root = join(storage, recipe)
    if not exists(root):
        return []
    names = [name for name in list_directories(root) if name.rpartition("-")[0] == step]
    found = [artifact for name in names if (artifact := find_artifact(join(root, name)))]
    return sorted(found, key=lambda artifact: artifact.manifest.created, reverse=True)


def _kept(recipe: Recipe, step: Step, storage: str) -> Artifact | None:
    """Of a step that is run once: the newest that it made with this config, by this version of its stage."""
    found = (one for one in made_before(storage, recipe.name, step.name) if not _differences(step, one.manifest))
    return next(found, None)


def _latest(recipe: Recipe, step: Step, storage: str) -> Manifest | None:
    """What the newest of them says of itself."""
    return next((artifact.manifest for artifact in made_before(storage, recipe.name, step.name)), None)


def _differences(step: Step, before: Manifest) -> list[str]:
    """Each key of the config that differs from an earlier run's, of those that say what the step is."""
    if before.stage != step.stage.name:
        return [f"stage {before.stage} → {step.stage.name}"]
    old, new = leaves(identifying(before.config, step.stage.config)), leaves(step.identifying())
    changed = [
        f"{key} {old.get(key)} → {new.get(key)}" for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)
    ]
    if before.stage_version != step.stage.version:
        changed.append(f"stage version {before.stage_version} → {step.stage.version}")
    return changed


def _new_parents(inputs: Inputs, before: Manifest) -> list[str]:
    changed = []
    for key, artifacts in inputs.items():
        old = {parent.fingerprint for parent in before.parents.get(key, [])}
        changed += [f"new parent {a.manifest.step}" for a in artifacts if a.fingerprint not in old]
    return changed


def _outside(step: Step, inputs: Inputs, before: Manifest) -> str:
    """Why a step runs again that has the config and the parents of before."""
    if before.sources != sources_of(step, inputs):
        return "its outside data changed"
    return "its parents' order, or what counts as the same step, is another than when it last ran"


def output_of(recipe: Recipe, name: str, storage: str) -> Artifact:
    """The finished artifact of a step; ArtifactError if it has not been run."""
    artifact = locate(recipe, storage)[name].artifact
    if artifact is None:
        raise ArtifactError(f"step {name} of {recipe.name} has no artifact below {storage}; run it first")
    return artifact
