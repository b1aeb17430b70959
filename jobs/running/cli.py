"""The command line that every stage shares.

python -m jobs.finetune jobs/recipes/spam.yaml --step teacher optimizer.learning_rate=1e-4
python -m jobs.finetune --help              every key with its type, default and meaning
"""

import argparse
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType

from cluster.connection.connect import ConnectError, driver_address
from cluster.connection.embedded import StartError
from cluster.connection.follow import Lost
from cluster.connection.upload import UploadError
from cluster.fleet.prices import PriceError
from cluster.fleet.supply import SupplyError
from cluster.store.artifact import ArtifactError
from cluster.store.registry import RegistryError
from cluster.store.storage import NO_SPACE, StorageError, absolute
from cluster.submit import SubmitError
from jobs.core.config import BadInput, Problem, describe_config, nearest
from jobs.core.places import default_storage
from jobs.core.recipe import Recipe, Step, load_recipe
from jobs.core.spaces import Tune
from jobs.core.stage import Refused, Resources, Stage
from jobs.core.tracking_settings import Tracking
from jobs.running.execute import execute
from jobs.running.preflight import preflight
from jobs.training.spike_guard import Diverged

EXPECTED = (
    ArtifactError,
    ConnectError,
    Diverged,
    PriceError,
    RegistryError,
    StartError,
    StorageError,
    SubmitError,
    SupplyError,
    UploadError,
)
"""Errors whose message says what to do; a traceback would hide it."""


def main(stage: Stage) -> None:
    """Run one step of a recipe; exits with 2 for bad input, 1 for a failure, 0 when the artifact is there."""
    parser = argparse.ArgumentParser(
        prog=f"python -m jobs.{stage.name}",
        description=stage.purpose,
        epilog=_keys(stage),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_recipe_arguments(parser)
    parser.add_argument("--step", help=f"the recipe's step to run (default: its only {stage.name} step)")
    parser.add_argument(
        "--recipe-override", action="append", default=[], help="an override of another step, steps.NAME.key=value"
    )
    arguments = parser.parse_intermixed_args()
    guarded(lambda: _run(stage, arguments))


def _run(stage: Stage, arguments: argparse.Namespace) -> int:
    recipe = load_recipe(arguments.recipe, arguments.recipe_override)
    step = _choose(recipe, stage, arguments.step)
    own = [f"steps.{step.name}.{override}" for override in arguments.overrides]
    recipe = load_recipe(arguments.recipe, [*arguments.recipe_override, *own])
    storage = absolute(arguments.storage)
    connect()
    preflight(recipe, storage, only=step.name)
    artifact = execute(recipe, step.name, storage)
    figures = "  ".join(f"{key} {value:.4g}" for key, value in artifact.manifest.metrics.items())
    print(f"{step.name}: {artifact.uri}\n  {figures}")
    if (page := step.stage.completion.page) in artifact.manifest.files:
        print(f"  look at {artifact.file(str(page))}")
    return 0


def connect() -> None:
    """Attach this process to the cluster it runs in or that RAY_ADDRESS names, or start one inside it."""
    # Lines of different workers that look alike are progress of their own, not repetitions.
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    import ray

    if not ray.is_initialized():
        address = driver_address(os.environ.get("RAY_ADDRESS"))
        ray.init(address=address, log_to_driver=True, logging_level=logging.WARNING)


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that a stage and the pipeline have in common."""
    parser.add_argument("recipe", help="a YAML file, e.g. jobs/recipes/spam.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the recipe's, dotted")
    parser.add_argument(
        "--storage", default=default_storage(), help="where runs are kept, a path or URI (default: %(default)s)"
    )


def guarded(action: Callable[[], int]) -> None:
    """Call the action and exit with its code; what the user did wrong is printed without a traceback, exit code 2."""

    stop_on_sigterm()
    try:
        code = action()
    except BadInput as error:
        print(f"{len(error.problems)} problem(s), nothing was run:", file=sys.stderr)
        for problem in error.problems:
            print(f"  {problem}", file=sys.stderr)
        code = 2
    except Lost as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except EXPECTED as error:
        # Of one that came out of a task Ray makes an error of both classes, whose words are the whole traceback.
        print(f"error: {(_told_by_worker(error) if hasattr(error, 'cause') else None) or error}", file=sys.stderr)
        code = 2
    except Refused as error:
        print(f"refused: {error}", file=sys.stderr)
        code = 3
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        code = 130
    except Exception as error:
        told = _told_by_worker(error)
        if told is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        code = 2
    sys.stderr.flush()
    sys.exit(code)


def stop_on_sigterm() -> None:
    """Have SIGTERM do what Ctrl-C does; to be called again after ray.init(), which has it end the process at once."""

    def stopped(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stopped)


def _told_by_worker(error: Exception) -> str | None:
    """What a worker said whose error is one of EXPECTED, or that its disk is full; None for any other.

    Ray Data, Train and Tune wrap it in errors of their own; what they all keep is the traceback's text.
    """
    text = "".join(traceback.format_exception(error))
    names = "|".join(re.escape(f"{each.__module__}.{each.__name__}") for each in EXPECTED)
    told = re.findall(rf"^(?:{names}): (.+)$", text, re.MULTILINE)
    full = re.findall(r"^OSError: (\[Errno 28\] .+)$", text, re.MULTILINE)
    return told[-1] if told else f"{NO_SPACE} ({full[-1]})" if full else None


def _choose(recipe: Recipe, stage: Stage, name: str | None) -> Step:
    """The named step, or the only one of this stage."""
    own = [step for step in recipe.steps.values() if step.stage.name == stage.name]
    if name is None and len(own) == 1:
        return own[0]
    names = [step.name for step in own]
    if name is None:
        raise BadInput([Problem("--step", None, f"the recipe has {len(own)} {stage.name} steps", nearest("", names))])
    if name not in names:
        raise BadInput([Problem("--step", name, f"the recipe has no {stage.name} step of this name", nearest(name, names))])
    return recipe.steps[name]


def _keys(stage: Stage) -> str:
    """Every key of a step of this stage, for --help."""
    lines = [f"inputs (makes {stage.output if isinstance(stage.output, str) else 'tokens or examples'}):"]
    for name, spec in stage.inputs.items():
        extra = ", optional" * spec.optional + ", a list" * spec.many
        lines.append(f"  inputs.{name:<22} {spec.kind}{extra}: {spec.meaning}")
    lines.append("\nkeys (any number or choice may be a search space):" if stage.searchable else "\nkeys:")
    for section, prefix in ((stage.config, ""), (Tune, "tune."), (Resources, "resources."), (Tracking, "tracking.")):
        if section is Tune and not stage.searchable:
            continue
        for key, kind, default, meaning in describe_config(section, prefix):
            lines.append(f"  {key:<30} {kind}{f', default {default}' if default not in ('', 'required') else ''}")
            lines.append(f"  {'':<30} {'(required) ' if default == 'required' else ''}{meaning}")
    return "\n".join(lines)
