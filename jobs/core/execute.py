"""Running a step: validate, return the artifact if it is there, else run and publish. Three callers, no copies:
`python -m jobs.<stage>` calls it once, the pipeline for each step, a search inside each trial calls the stage.

    places = locate(recipe, storage)                # which steps are done, where, and why the others are not
    artifact = execute(recipe, "teacher", storage)
"""

import os
import platform
import shutil
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cluster.store.artifact import (
    OTHERS,
    Artifact,
    ArtifactError,
    Manifest,
    digest,
    find_artifact,
    other_place,
    publish,
    with_others,
)
from cluster.store.storage import absolute, delete, exists, join, list_directories
from jobs.core.config import BadInput, Problem, identifying
from jobs.core.recipe import Recipe, Step
from jobs.core.stage import Context, Inputs, Outcome
from jobs.running.remarks import remarks

VERSIONED = ("ray", "torch", "transformers", "onnxruntime", "datasets", "accelerate", "pyarrow")


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
        return self.artifact is None or self.step.stage.effect


def default_storage() -> str:
    """Where runs are kept unless the command line says otherwise."""
    return absolute(os.environ.get("RAYSTILL_STORAGE", "~/raystill"))


def locate(recipe: Recipe, storage: str) -> dict[str, Place]:
    """Every step's place, in order; nothing is run."""
    places: dict[str, Place] = {}
    for name, step in recipe.steps.items():
        waiting = sorted({parent for names in step.inputs.values() for parent in names if places[parent].artifact is None})
        if waiting:
            before = _latest(recipe, step, storage)
            changed = _differences(step, before) if before else []
            reason = "; ".join([*changed, f"new parent {', '.join(waiting)}"])
            places[name] = Place(step, None, None, reason, before.seconds if before else None)
        else:
            places[name] = _place(recipe, step, storage, gather(step, places))
    return places


def gather(step: Step, places: Mapping[str, Place]) -> Inputs:
    """The artifacts that a step is given, of those of its parents that are done."""
    inputs = Inputs()
    for key, names in step.inputs.items():
        artifacts = [artifact for name in names if (artifact := places[name].artifact) is not None]
        many = step.stage.inputs[key].many
        inputs[key] = [one for artifact in artifacts for one in (with_others(artifact) if many else [artifact])]
    return inputs


def _place(recipe: Recipe, step: Step, storage: str, inputs: Inputs) -> Place:
    uri = join(storage, recipe.name, f"{step.name}-{identity(step, inputs)[:8]}")
    artifact = find_artifact(uri)
    if artifact is not None:
        reason = "acts on the cluster, so it runs each time" if step.stage.effect else "complete"
        return Place(step, uri, artifact, reason, artifact.manifest.seconds)
    before = _latest(recipe, step, storage)
    if before is None:
        return Place(step, uri, None, "never run")
    changed = _differences(step, before) + _new_parents(inputs, before)
    return Place(step, uri, None, "; ".join(changed) or _outside(step, before), before.seconds)


def identity(step: Step, inputs: Mapping[str, list[Artifact]]) -> str:
    """What the step is: its stage and version, config but for speed and memory, outside data and parents by content."""
    return digest(
        {
            "stage": step.stage.name,
            "version": step.stage.version,
            "config": step.identifying(),
            "sources": sources_of(step),
            "parents": {key: [artifact.fingerprint for artifact in artifacts] for key, artifacts in inputs.items()},
        }
    )


def sources_of(step: Step) -> dict[str, str]:
    """The outside data and models that a step names, by content; with a search over models, each of them."""
    first, *more = step.named()
    found = dict(step.stage.sources(first))
    for number, config in enumerate(more, 2):
        found |= {f"{key}.{number}": mark for key, mark in step.stage.sources(config).items() if mark != found.get(key)}
    return found


def _latest(recipe: Recipe, step: Step, storage: str) -> Manifest | None:
    """The newest finished artifact of a step of this name, whatever its config was."""
    root = join(storage, recipe.name)
    if not exists(root):
        return None
    names = [name for name in list_directories(root) if name.rpartition("-")[0] == step.name]
    found = [artifact.manifest for name in names if (artifact := find_artifact(join(root, name)))]
    return max(found, key=lambda manifest: manifest.created, default=None)


def _differences(step: Step, before: Manifest) -> list[str]:
    """Each key of the config that differs from an earlier run's, of those that say what the step is."""
    if before.stage != step.stage.name:
        return [f"stage {before.stage} → {step.stage.name}"]
    old, new = _flatten(identifying(before.config, step.stage.config)), _flatten(step.identifying())
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


def _outside(step: Step, before: Manifest) -> str:
    """Why a step runs again that has the config and the parents of before."""
    if before.sources != sources_of(step):
        return "its outside data changed"
    return "its parents' order, or what counts as the same step, is another than when it last ran"


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value})
    return flat


def execute(recipe: Recipe, name: str, storage: str) -> Artifact:
    """Run one step whose parents are done, unless its artifact is there already; returns the artifact."""
    places = locate(recipe, storage)
    place = places[name]
    if place.uri is None:
        missing = [f"{parent}" for names in place.step.inputs.values() for parent in names if places[parent].artifact is None]
        remedy = f"Run it first: python -m jobs.pipeline with this recipe, or its own stage with --step {missing[0]}."
        raise BadInput([Problem(f"steps.{name}.inputs", missing, "this step has not been run", remedy)])
    inputs = gather(place.step, places)
    context = Context(storage, recipe.name, name, place.uri, uuid.uuid4().hex[:8], place.step.resources, place.step.tracking)
    try:
        artifact = place.artifact if place.artifact is not None and not place.runs else _run(place, inputs, context)
        if place.step.stage.settle is not None:
            place.step.stage.settle(artifact, context)
        return artifact
    finally:
        shutil.rmtree(context.directory, ignore_errors=True)


def _run(place: Place, inputs: Inputs, context: Context) -> Artifact:
    for artifacts in inputs.values():
        for artifact in artifacts:
            artifact.verify()
    step, began = place.step, time.monotonic()
    for line in remarks(step, inputs):
        print(line, flush=True)
    delete(join(context.output, OTHERS))  # of an attempt that ended before its manifest
    if step.spaces:
        from jobs.search.run import search

        outcome = search(step, inputs, context)
    else:
        outcome = step.stage.run(step.config, inputs, context)
    record = {
        "kind": step.kind,
        "step": step.name,
        "stage": step.stage.name,
        "stage_version": step.stage.version,
        "config": step.resolved(),
        "sources": sources_of(step),
        "parents": {key: [artifact.as_parent() for artifact in artifacts] for key, artifacts in inputs.items()},
        "metrics": dict(outcome.metrics),
        "details": dict(outcome.details),
        "versions": versions(),
        "hardware": hardware(),
        "seconds": round(time.monotonic() - began, 2),
        "created": datetime.now(UTC),
    }
    if step.stage.effect and place.artifact is not None:
        delete(join(context.output, "manifest.json"))
    _publish_others(outcome, record, context)
    artifact = publish(context.directory, context.output, record, outcome.files)
    delete(context.scratch)
    return artifact


def _publish_others(outcome: Outcome, record: dict[str, Any], context: Context) -> None:
    """The step's further outputs, each an artifact of its own, before the one that names them."""
    for number, other in enumerate(outcome.others, 2):
        own = {"step": f"{context.step}-{number}", "metrics": dict(other.metrics), "details": dict(other.details)}
        with tempfile.TemporaryDirectory() as nothing:
            publish(Path(nothing), other_place(context.output, number), record | own, other.files)
    if outcome.others:
        record["details"] = {**record["details"], OTHERS: len(outcome.others)}


def versions() -> dict[str, str]:
    """What made an artifact: the code's commit and the libraries' versions."""
    return {"code": os.environ.get("RAYSTILL_COMMIT", "unknown"), **{name: version(name) for name in VERSIONED}}


def hardware() -> dict[str, Any]:
    """The host that drove the step, and the cluster's resources where one is connected."""
    found: dict[str, Any] = {"machine": platform.machine(), "cpus": os.cpu_count()}
    import ray

    if ray.is_initialized():
        total = ray.cluster_resources()
        found["cluster"] = {key: total[key] for key in ("CPU", "GPU") if key in total}
    return found


def output_of(recipe: Recipe, name: str, storage: str) -> Artifact:
    """The finished artifact of a step; ArtifactError if it has not been run."""
    artifact = locate(recipe, storage)[name].artifact
    if artifact is None:
        raise ArtifactError(f"step {name} of {recipe.name} has no artifact below {storage}; run it first")
    return artifact
