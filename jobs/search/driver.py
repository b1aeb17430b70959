"""tune: any stage as the trials of a search. A step with a search space is run here; its output is the best trial's.

    optimizer: {learning_rate: {loguniform: [2.0e-5, 4.0e-4]}}
    tune: {trials: 4, scheduler: asha, algorithm: optuna}

The training loop runs inside the trial's own process, so a trial starts in seconds. A search that was stopped or killed
goes on when its step is run again: trials that have ended are not repeated.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cluster.store.storage import delete, filesystem, is_local
from jobs.core.recipe import Step
from jobs.core.spaces import count_trials
from jobs.core.stage import Context, Inputs, Outcome

if TYPE_CHECKING:
    from jobs.search.records import Record


class SearchFailed(Exception):
    """No trial of a search came to an end; the message holds the first trial's error."""


def search(step: Step, inputs: Inputs, context: Context) -> Outcome:
    """Run the step's trials, leave the best one's output in the context's directory, return its outcome and all trials."""
    from ray import tune

    from jobs.search.records import records, trials_place
    from jobs.search.resume import apply_settings, place_of, restored
    from jobs.search.setup import demand
    from jobs.search.shapes import within_budget
    from jobs.search.trial import trial_function
    from jobs.search.trial_results import adopt, kept_of, trial_rows

    apply_settings()
    step, timed = within_budget(step, inputs, context)
    trainable = tune.with_resources(trial_function(step, inputs, context), demand(step.resources))
    asked, known = count_trials(step.tune, step.spaces)[1], records(context)
    tuner = restored(trainable, context, known)
    if tuner is not None or known:
        print(f"{step.name}: going on with the search that was stopped", flush=True)
    results = (tuner or _new_tuner(trainable, step, context, known)).fit()
    if tuner is not None and len(results) != asked:
        # Its snapshot was of two moments: what was drawn in between is in neither of them.
        delete(place_of(context))
        results = _new_tuner(trainable, step, context, records(context)).fit()
    trials = trial_rows(step, results, context)
    kept = kept_of(step, trials)
    if not kept or len(trials) != asked:
        # Whoever runs the step again has changed something: then all is tried again, but for what has come to an end.
        delete(place_of(context))
    if not kept:
        delete(trials_place(context))
    if len(trials) != asked:
        raise SearchFailed(f"{len(trials)} trials were run where {asked} were asked for; run the step again")
    if not kept:
        raise SearchFailed(f"none of {len(trials)} trials came to an end; the first said: {trials[0].get('error', 'stopped')}")
    return adopt(step, kept, trials, context, {"shapes": timed} if timed else {})


def _new_tuner(trainable: Any, step: Step, context: Context, known: "Sequence[Record]") -> Any:
    from ray import tune
    from ray.tune.logger import JsonLoggerCallback

    from jobs.search.resume import Remember, place_of
    from jobs.search.setup import trials_at_once, tune_config
    from jobs.search.trial import KEPT_STATES

    remote = not is_local(context.scratch)
    config = tune_config(step, trials_at_once(step), known)
    remembered = [Remember(config.scheduler)] if step.tune.scheduler == "asha" and config.scheduler else []
    return tune.Tuner(
        trainable,
        param_space={path: space.domain() for path, space in step.spaces.items()},
        tune_config=config,
        run_config=tune.RunConfig(
            name=place_of(context).rsplit("/", 1)[1],
            storage_path=filesystem(context.scratch)[1] if remote else context.scratch,
            storage_filesystem=filesystem(context.scratch)[0] if remote else None,
            failure_config=tune.FailureConfig(max_failures=context.resources.max_failures),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=KEPT_STATES if step.tune.in_turns else None),
            callbacks=[JsonLoggerCallback(), *remembered],
            verbose=0,
        ),
    )
