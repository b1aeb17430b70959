"""What can be known to fail before anything runs: sources, columns, models, storage, the cluster's size."""

from collections.abc import Iterable
from dataclasses import replace

from cluster.fleet.placement import Placement, place
from cluster.fleet.supply import CLUSTER_FILE, connected_supply
from cluster.store.storage import StorageError, check_writable, trouble
from jobs.core.config import BadInput, Problem
from jobs.core.idle import idle_problems
from jobs.core.recipe import Recipe, Step
from jobs.core.spaces import TUNE_RULES
from jobs.core.tracking_settings import tracking_problems as check_tracking
from jobs.judging.controls import missing_controls
from jobs.running.parents import parent_problems
from jobs.running.sizing import recipe_demands


def preflight(recipe: Recipe, storage: str, only: str | None = None) -> None:
    """Raise BadInput with everything that is wrong with the recipe's outside: all steps, or the named one."""
    problems: list[Problem] = []
    found = trouble(storage)
    if found is not None:
        print(f"{storage} does not answer ({found}); trying on for a minute or two", flush=True)
    try:
        check_writable(storage)
    except StorageError as error:
        problems.append(Problem("--storage", storage, str(error), "Give a place that every node can write."))
    steps = [step for step in recipe.steps.values() if only is None or step.name == only]
    problems += recipe_problems(steps) + parent_problems(recipe, [step.name for step in steps])
    problems += _check_places(recipe, steps)
    problems += missing_controls(recipe) if only is None else []
    problems += _check_hosts(storage)
    if problems:
        raise BadInput({str(problem): problem for problem in problems}.values())


def recipe_problems(steps: Iterable[Step]) -> list[Problem]:
    """What is wrong with these steps whatever the storage and the cluster are."""
    problems: list[Problem] = []
    for step in steps:
        problems += [_prefixed(step, problem) for config in step.named() for problem in step.stage.preflight.check(config)]
        problems += [_prefixed(step, problem) for problem in _idle(step)]
        problems += [_prefixed(step, problem) for problem in check_tracking(step.tracking)] if step.stage.searchable else []
    return problems


def _idle(step: Step) -> list[Problem]:
    """What the step gives in vain."""
    tuned = [replace(problem, path=f"tune.{problem.path}") for problem in idle_problems(step.tune, (), (), TUNE_RULES)]
    return idle_problems(step.config, step.inputs, step.spaces, step.stage.preflight.rules) + tuned


def placement_problem(placement: Placement) -> Problem:
    """Why a step can never run, as a problem of its recipe."""
    remedy = (
        "Lower it in the step's resources, or use a cluster with larger nodes or more of them. "
        f"Nodes that an autoscaler may start are known from the cluster file that {CLUSTER_FILE} names on its nodes."
    )
    return Problem(f"steps.{placement.demand.step}.resources", None, placement.refused or "", remedy)


def _prefixed(step: Step, problem: Problem) -> Problem:
    return Problem(f"steps.{step.name}.{problem.path}", problem.value, problem.reason, problem.remedy)


def _check_places(recipe: Recipe, steps: Iterable[Step]) -> list[Problem]:
    """Whether each step's workers find CPUs and GPUs on the connected cluster, or on what it can grow to.

    Memory is left to --plan: it is an estimate, and a run is not refused for one.
    """
    import ray

    if not ray.is_initialized():
        return []
    supply, demands = connected_supply(), recipe_demands(recipe)
    placements = [place(replace(demands[step.name], memory=None, gpu_memory=None), supply) for step in steps]
    return [placement_problem(placement) for placement in placements if placement.refused]


def _check_hosts(storage: str) -> list[Problem]:
    import ray

    from cluster.connection.connect import local_storage_problem

    problem = local_storage_problem(storage) if ray.is_initialized() else None
    return [Problem("--storage", storage, problem, "Give s3://…, gs://… or a shared file system.")] if problem else []
