"""What can be known to fail before anything runs: sources, columns, models, storage, the cluster's size."""

from cluster.storage import StorageError, check_writable, trouble
from jobs.core.config import BadInput, Problem
from jobs.core.recipe import Recipe, Step
from jobs.core.tracking import check as check_tracking


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
    for step in recipe.steps.values():
        if only is None or step.name == only:
            problems += [_prefixed(step, problem) for problem in step.stage.check(step.config)]
            problems += [_prefixed(step, problem) for problem in check_tracking(step.tracking)] if step.stage.score else []
            problems += _check_resources(step)
    problems += _check_hosts(storage)
    if problems:
        raise BadInput(problems)


def _prefixed(step: Step, problem: Problem) -> Problem:
    return Problem(f"steps.{step.name}.{problem.path}", problem.value, problem.reason, problem.remedy)


def _check_resources(step: Step) -> list[Problem]:
    """What the step asks for against what the connected cluster has and can grow to."""
    import ray

    if not ray.is_initialized():
        return []
    if ray._private.state.state.get_max_resources_from_cluster_config() is not None:
        return []  # an autoscaler runs: nodes that fit may still come
    total = ray.cluster_resources()
    resources, problems = step.resources, []
    for key, name, each in (("cpus", "CPU", resources.cpus), ("gpus", "GPU", resources.gpus)):
        wanted = each * resources.workers
        has = total.get(name, 0)
        if wanted > has:
            reason = f"{resources.workers} worker(s) with {each:g} {name} need {wanted:g}, the cluster has {has:g}"
            remedy = f"Lower workers or {key}, or use a cluster with more."
            problems.append(Problem(f"steps.{step.name}.resources.{key}", each, reason, remedy))
    return problems


def _check_hosts(storage: str) -> list[Problem]:
    import ray

    from cluster.connect import local_storage_problem

    problem = local_storage_problem(storage) if ray.is_initialized() else None
    return [Problem("--storage", storage, problem, "Give s3://…, gs://… or a shared file system.")] if problem else []
