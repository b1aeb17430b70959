"""Controls: what a candidate was made with, and the students without it that show what it was worth.

made_with(artifact)              # {"distilled", "pruned"}: from its manifests, back to its base
missing_controls(recipe)         # what a recipe that searches for a front lacks
"""

from collections.abc import Iterator, Mapping
from typing import Any

from cluster.store.artifact import Artifact, open_artifact, sibling
from jobs.core.config import Problem
from jobs.core.recipe import Recipe, Step
from jobs.core.spaces import SPACE_KINDS, fill

REMOVED = ("feed_forward", "heads", "layers", "weights")
BASES = ("model", "init")
"""The inputs from which a model's own weights come."""
MADE_FROM = "made_from"
"""In a manifest's details, of a step that makes one model of each that it is given: the URI of this one's."""


def traits(stage: str, config: Mapping[str, Any], taught: bool) -> set[str]:
    """What a step with this config does to its model; where a key is searched, what it may do.

    `taught`: whether it reads a teacher's answers.
    """
    found = set()
    removed = [part.get("feed_forward") for part in _values(config.get("student")) if isinstance(part, Mapping)]
    removed += [config.get("prune", {}).get(key) for key in REMOVED] if stage == "compress" else []
    if any(value for node in removed for value in _values(node)):
        found.add("pruned")
    learns = stage == "distill" and (_listens(config) or config.get("match"))
    if learns or (stage == "compress" and taught and "pruned" in found and _listens(config["heal"])):
        found.add("distilled")
    return found


def made_with(artifact: Artifact) -> set[str]:
    """What was done to a model, from its own manifest and those of the models that it came from."""
    manifest = artifact.manifest
    config = fill(manifest.config, manifest.details.get("best", {}))
    found = traits(manifest.stage, config, "teacher" in manifest.parents)
    own = manifest.details.get(MADE_FROM)
    for parent in (parent for key in BASES for parent in manifest.parents.get(key, [])):
        if own is None or parent.uri == own:
            found |= made_with(open_artifact(sibling(artifact.uri, parent.uri)))
    return found


def missing_controls(recipe: Recipe) -> list[Problem]:
    """The controls that an evaluation of a searched front (`tune.keep` above 1) has not: then nobody could say what distilling
    and pruning were worth."""
    problems = []
    for step in recipe.steps.values():
        names = step.inputs.get("candidates", ()) if step.stage.name == "evaluate" else ()
        chains = [chain for name in names for chain in _chains(recipe, name)]
        if not any(one.tune.keep > 1 for chain in chains for one in chain):
            continue
        made = [set[str]().union(*map(_step_traits, chain)) for chain in chains]
        for trait, remedy in (
            ("distilled", "Add a distill step with alpha: 0 (or finetune), else like the student's, to candidates."),
            ("pruned", "Add a student of which nothing is pruned to candidates."),
        ):
            if any(trait in one for one in made) and all(trait in one for one in made):
                reason = f"each candidate is {trait}, so the front has no control that says what that is worth"
                problems.append(Problem(f"steps.{step.name}.inputs.candidates", list(names), reason, remedy))
    return problems


def _step_traits(step: Step) -> set[str]:
    return traits(step.stage.name, step.resolved(), "teacher" in step.inputs)


def _chains(recipe: Recipe, name: str) -> Iterator[list[Step]]:
    """For each model that a step makes: the step, and those that the model's weights come from."""
    step = recipe.steps[name]
    parents = [parent for key in BASES for parent in step.inputs.get(key, ())]
    if not parents:
        yield [step]
    for parent in parents:
        yield from ([step, *chain] for chain in _chains(recipe, parent))


def _listens(config: Mapping[str, Any]) -> bool:
    """Whether the teacher's answers count at any time."""
    return any(any(_values(config.get(key))) for key in ("alpha", "alpha_end"))


def _values(node: Any) -> list[Any]:
    """The values that a key has or, where it is searched, may have."""
    if isinstance(node, Mapping) and len(node) == 1 and next(iter(node)) in SPACE_KINDS:
        return list(next(iter(node.values())))
    return [node]
