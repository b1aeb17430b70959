"""Running a step: the artifact is returned if it is there, else the step is run and its artifact published.

    artifact = execute(recipe, "teacher", storage)

A stage's own command line calls it, as do the jobs of a pipeline; a search calls the stage itself in each trial.
"""

import math
import os
import platform
import shutil
import tempfile
import time
import uuid
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cluster.store.artifact import OTHERS, Artifact, other_place, publish
from cluster.store.storage import delete, join
from cluster.store.verifying import AT_ONCE_BYTES, Verifying
from jobs.core.config import BadInput, Problem
from jobs.core.places import Place, gather, locate, sources_of
from jobs.core.recipe import Recipe, Step
from jobs.core.stage import Context, Inputs, Outcome
from jobs.running.remarks import remarks

VERSIONED = ("ray", "torch", "transformers", "onnxruntime", "datasets", "accelerate", "pyarrow")


def execute(recipe: Recipe, name: str, storage: str) -> Artifact:
    """Run one step whose parents are done, unless its artifact is there already; returns the artifact."""
    places = locate(recipe, storage)
    place = places[name]
    if place.uri is None:
        missing = [f"{parent}" for names in place.step.inputs.values() for parent in names if places[parent].artifact is None]
        remedy = f"Run it first: python -m jobs.pipeline with this recipe, or its own stage with --step {missing[0]}."
        raise BadInput([Problem(f"steps.{name}.inputs", missing, "this step has not been run", remedy)])
    inputs = gather(place.step, places, storage)
    context = Context(storage, recipe.name, name, place.uri, uuid.uuid4().hex[:8], place.step.resources, place.step.tracking)
    try:
        artifact = place.artifact if place.artifact is not None and not place.runs else _run(place, inputs, context)
        if (settle := place.step.stage.completion.settle) is not None:
            settle(artifact, context)
        return artifact
    finally:
        shutil.rmtree(context.directory, ignore_errors=True)


def _run(place: Place, inputs: Inputs, context: Context) -> Artifact:
    step, began = place.step, time.monotonic()
    # What acts on the world is not to act before all is known to be sound.
    at_once = math.inf if step.stage.completion.effect else AT_ONCE_BYTES
    with Verifying((artifact for artifacts in inputs.values() for artifact in artifacts), at_once):
        outcome = _outcome(step, inputs, context)
    record = {
        "kind": step.kind,
        "step": step.name,
        "stage": step.stage.name,
        "stage_version": step.stage.version,
        "config": step.resolved(),
        "sources": sources_of(step, inputs),
        "parents": {key: [artifact.as_parent() for artifact in artifacts] for key, artifacts in inputs.items()},
        "metrics": dict(outcome.metrics),
        "details": dict(outcome.details),
        "versions": versions(),
        "hardware": host_hardware(),
        "seconds": round(time.monotonic() - began, 2),
        "created": datetime.now(UTC),
    }
    if step.stage.completion.effect and place.artifact is not None:
        delete(join(context.output, "manifest.json"))
    _publish_others(outcome, record, context)
    artifact = publish(context.directory, context.output, record, outcome.files)
    delete(context.scratch)
    return artifact


def _outcome(step: Step, inputs: Inputs, context: Context) -> Outcome:
    for line in remarks(step, inputs):
        print(line, flush=True)
    delete(join(context.output, OTHERS))  # of an attempt that ended before its manifest
    if step.spaces:
        from jobs.search.driver import search

        return search(step, inputs, context)
    return step.stage.run(step.config, inputs, context)


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


def host_hardware() -> dict[str, Any]:
    """The host that drove the step, and the cluster's resources where one is connected."""
    found: dict[str, Any] = {"machine": platform.machine(), "cpus": os.cpu_count()}
    import ray

    if ray.is_initialized():
        total = ray.cluster_resources()
        found["cluster"] = {key: total[key] for key in ("CPU", "GPU") if key in total}
    return found
