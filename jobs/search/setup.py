"""How Ray Tune is set up for a step's search: algorithm, scheduler, how many trials at once.

TuneConfig = tune_config(step, trials_at_once(step, resources))

Time is counted in evaluations, as a share of the trial's own: it goes on where a trial goes on from a checkpoint.
"""

import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import BasicVariantGenerator

from cluster.ray_private import growable_resources, name_trials
from cluster.store.artifact import digest
from jobs.core.recipe import Step
from jobs.core.spaces import SHAPE, Space, count_trials, shape_spaces
from jobs.core.stage import Resources
from jobs.search.records import DrawnBefore, Record
from jobs.search.schedulers import Halving, ShapeWise

if TYPE_CHECKING:
    from ray.tune import TuneConfig

EVALUATION = "evaluation"
"""How far a trial is; told with every evaluation, and asha's clock."""
TURN = "turn"
"""pbt's clock: the evaluation's number where the trial goes on after it, else 0."""
MOST_RANDOM = 10
"""Optuna's own number of random draws before its model begins; fewer in short searches, which else would be all random."""
FEW_STEPS = 20
"""A whole number with no more values than this is perturbed to the one beside it: times 1.2 it might stay what it is."""


def demand(resources: Resources) -> dict[str, float]:
    """What one trial asks of the cluster."""
    return {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})


def trials_at_once(step: Step) -> int:
    """As many trials as the nodes hold, each for itself, or as the cluster may grow to; no more than are asked for.

    What others hold just now (Serve's replicas, other jobs) is not taken off: a trial without a place waits for one and
    keeps none from ending, so no number can hang a search. Proposing more than can run has a price all the same: they
    are drawn before there are results to learn from.
    """
    import ray

    each = demand(step.resources)
    holds = sum(_holds(node["Resources"], each) for node in ray.nodes() if node["Alive"])
    most = growable_resources()
    if most is not None:
        holds = max(holds, _holds(most, each))
    return max(1, min(holds, count_trials(step.tune, step.spaces)[1], step.tune.max_concurrent or holds))


def _holds(has: Mapping[str, float], each: Mapping[str, float]) -> int:
    return min(int(has.get(name, 0) / amount + 1e-9) for name, amount in each.items())


def tune_config(step: Step, at_once: int, known: Sequence[Record] = ()) -> "TuneConfig":
    """Algorithm and scheduler, as the step's settings say; trials that have begun before are the first to be drawn again."""
    settings = step.tune
    plain = settings.in_turns or settings.algorithm == "random" or any(space.kind == "grid" for space in step.spaces.values())
    return tune.TuneConfig(
        metric=step.score.name,
        mode=step.score.mode,
        search_alg=_plain(step, at_once) if plain else _optuna(step, known),
        scheduler=_scheduler(step),
        num_samples=count_trials(settings, step.spaces)[0],
        max_concurrent_trials=None if settings.in_turns else at_once,
        # Paused and stopped trials leave their process, with its imports done, to the next.
        reuse_actors=True,
        trial_dirname_creator=_name,
    )


def _name(trial: Any) -> str:
    return str(trial.trial_id)


def _plain(step: Step, at_once: int) -> BasicVariantGenerator:
    settings = step.tune
    # Those that are compared with each other must all be there; they train in turns.
    generator = BasicVariantGenerator(random_state=settings.seed, max_concurrent=0 if settings.in_turns else at_once)
    # Ray would name the trials of each search otherwise; by their own names they find what they have left before.
    name_trials(generator, digest({"step": step.name, "config": step.identifying()})[:5] + "_")
    return generator


def _optuna(step: Step, known: Sequence[Record]) -> DrawnBefore:
    """TPE (Bergstra et al. 2011)."""
    from optuna import logging
    from optuna.samplers import TPESampler

    logging.set_verbosity(logging.WARNING)
    settings = step.tune
    sampler = TPESampler(seed=settings.seed, n_startup_trials=min(MOST_RANDOM, -(-settings.trials // 3)))
    return DrawnBefore(known, step.spaces, sampler=sampler)


def _scheduler(step: Step) -> TrialScheduler | None:
    settings = step.tune
    if settings.scheduler == "asha":
        asha = partial(
            ASHAScheduler,
            time_attr=EVALUATION,
            max_t=max(most_evaluations(step), settings.grace_reports + 1),
            grace_period=settings.grace_reports,
            reduction_factor=settings.reduction_factor,
        )
        shapes = shape_spaces(step.spaces, (SHAPE, *step.shaped_by))
        return ShapeWise(asha, shapes) if settings.keep > 1 and shapes else asha()
    if settings.scheduler == "halving":
        return Halving(settings, count_trials(settings, step.spaces)[1], most_evaluations(step), EVALUATION)
    if settings.scheduler == "pbt":
        # Ray draws what pbt needs from the process's own generator.
        random.seed(settings.seed)
        # Not in step (`synch`): there a trial that ends early or fails keeps all others waiting for ever.
        return PopulationBasedTraining(
            time_attr=TURN,
            perturbation_interval=settings.perturb_every,
            hyperparam_mutations={path: _mutations(space) for path, space in step.spaces.items()},
            quantile_fraction=settings.quantile_fraction,
            resample_probability=settings.resample_probability,
            custom_explore_fn=partial(inside, dict(step.spaces)),
            log_config=False,
        )
    return None


def most_evaluations(step: Step) -> int:
    """The evaluations of a trial, or of the longest where they are searched themselves."""
    space = step.spaces.get("evaluations")
    values = space.values if space is not None else (step.config.model_dump().get("evaluations", 1),)
    return max(int(value) for value in values)


def _mutations(space: Space) -> Any:
    """A space as pbt changes it: a list is walked along, anything else multiplied."""
    if space.kind == "choice":
        return list(space.values)
    if space.kind == "randint" and space.values[1] - space.values[0] < FEW_STEPS:
        return list(range(space.values[0], space.values[1] + 1))
    return space.domain()


def inside(spaces: Mapping[str, Space], values: dict[str, Any]) -> dict[str, Any]:
    """Perturbed values brought back into their spaces: what lies outside was not asked for, and may not be valid."""
    bounded = {path: space.values for path, space in spaces.items() if space.kind != "choice"}
    return {**values, **{path: min(max(values[path], low), high) for path, (low, high) in bounded.items()}}
