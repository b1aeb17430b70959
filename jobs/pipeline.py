"""pipeline: a recipe's steps in order, each as a Ray job of its own; what is done already is skipped.

    ray job submit --working-dir . -- python -m jobs.pipeline jobs/recipes/spam.yaml
    python -m jobs.pipeline jobs/recipes/spam.yaml --plan      which steps would run, why, where and for how much; runs nothing
    python -m jobs.pipeline jobs/recipes/spam.yaml --events events.jsonl      tells scripts what happens, see running/events.py

The log has a line whenever a step's state or figures change; its last line is a JSON summary. A step's job is stopped by
Ctrl-C and SIGTERM alone, whatever the dashboard answers meanwhile.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from cluster.connection.connect import attach_or_start
from cluster.connection.follow import SECONDS_AWAY, SubmitError, in_a_line, patiently, watch
from cluster.connection.waiting import Waiting
from cluster.store.artifact import Artifact
from cluster.store.run_records import record_run
from cluster.store.storage import absolute, join, read_bytes, write_bytes
from cluster.submit import JobResult, Submitted, find_job, result, stop, stop_children, submit_or_join, submitter
from jobs.core.places import Place, locate
from jobs.core.recipe import Recipe, load_recipe
from jobs.core.stage import Context
from jobs.judging.results import AGAINST_FLOOR
from jobs.running.cli import add_recipe_arguments, connect, guarded, stop_on_sigterm
from jobs.running.events import (
    EVENT_MARK,
    Event,
    EventWriter,
    Figures,
    LogFormat,
    RunStarted,
    RunStep,
    StepChanged,
    StepLog,
    StepState,
    finite,
    print_words,
)
from jobs.running.plan import print_plan
from jobs.running.preflight import preflight
from jobs.running.progress import Progress

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

PROGRESS_SECONDS = 3.0
STOP_SECONDS = 20.0
TAIL_LINES = 40
SUMMARY = "summary.json"
REPORT = "report.html"
SCORES = ("winner", "winner_score", "teacher_score", "speedup", "size_ratio")
"""What `python -m cluster.runs list` shows of a run."""


REFUSED = 3
"""The exit code of a step that says no: a result like any other, and reported like one."""


class StepFailed(Exception):
    """A step's job did not succeed; holds its exit code."""

    def __init__(self, step: str, exit_code: int) -> None:
        super().__init__(f"step {step} {'refused' if exit_code == REFUSED else 'failed'}")
        self.step, self.exit_code = step, exit_code


def main() -> None:
    """Run or plan a recipe; exits with 2 for bad input, 3 where select refused, 1 for other failures."""
    parser = argparse.ArgumentParser(prog="python -m jobs.pipeline", description="run a recipe's steps as Ray jobs")
    add_recipe_arguments(parser)
    parser.add_argument(
        "--plan", action="store_true", help="say which steps would run, why, where and for how much; run nothing"
    )
    parser.add_argument("--cluster", help="with --plan: a cluster's file (cluster.yaml) to plan for; none has to run")
    parser.add_argument("--prices", help="with --plan: a price table in place of cluster/prices.yaml")
    _add_event_arguments(parser)
    arguments = parser.parse_intermixed_args()
    if arguments.plan:
        if arguments.events is not None:
            parser.error("--events: a plan runs nothing, so that nothing happens; leave out one of the two")
        guarded(lambda: print_plan(arguments))
    else:
        with EventWriter(arguments.log_format, arguments.events) as events:
            guarded(lambda: _run(arguments, events))


def _add_event_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--events",
        metavar="FILE",
        help="write what happens into this local file as it happens, each event as a line of JSON; "
        "a file that is there is begun anew",
    )
    parser.add_argument(
        "--log-format",
        choices=get_args(LogFormat),
        default="text",
        help=f"what the log has: text for people, or in its place the events, each behind '{EVENT_MARK}', "
        "for programs that follow the log of a job (default: %(default)s)",
    )


def _run(arguments: argparse.Namespace, events: EventWriter) -> int:
    events.open()
    began, refused = time.monotonic(), None
    recipe, storage = load_recipe(arguments.recipe, arguments.overrides), absolute(arguments.storage)
    for line in recipe.not_implied:
        print(line, flush=True)
    steps = tuple(RunStep(step=step.name, stage=step.stage.name) for step in recipe.steps.values())
    events.write(RunStarted(recipe=recipe.name, storage=storage, steps=steps))
    # Ray would end this process a minute after its cluster has gone, and without a word on what becomes of the step.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", f"{2 * SECONDS_AWAY:.0f}")
    with attach_or_start() as cluster:
        connect()
        stop_on_sigterm()
        preflight(recipe, storage)
        pipeline = Pipeline(recipe, storage, cluster.jobs(), _command(arguments, storage), events.write)
        try:
            pipeline.run()
        except StepFailed as failure:
            if failure.exit_code != REFUSED:
                print(f"{failure}; submit the recipe again to go on from there", file=sys.stderr)
                return failure.exit_code
            print(failure, file=sys.stderr)
            refused = failure.step
    events.summary = publish_report(recipe, storage, pipeline.artifacts(), time.monotonic() - began, refused)
    return REFUSED if refused else 0


def _command(arguments: argparse.Namespace, storage: str) -> Callable[[Place], list[str]]:
    """The command line that runs one step: the same recipe, with the overrides that are the step's own."""

    def command(place: Place) -> list[str]:
        prefix = f"steps.{place.step.name}."
        own = [override.removeprefix(prefix) for override in arguments.overrides if override.startswith(prefix)]
        others = [override for override in arguments.overrides if not override.startswith(prefix)]
        overriding = [f"--recipe-override={override}" for override in others]
        module = ["python", "-m", f"jobs.{place.step.stage.name}", arguments.recipe, *own]
        return [*module, "--step", place.step.name, "--storage", storage, *overriding]

    return command


@dataclass
class Pipeline:
    """One run of a recipe."""

    recipe: Recipe
    storage: str
    client: "JobSubmissionClient"
    command: Callable[[Place], list[str]]
    tell: Callable[[Event], None] = print_words
    """Called with what happens."""

    def run(self) -> None:
        """Run all steps that are not done."""
        for name in self.recipe.steps:
            # In this order: what ends between the two is either done or joined, and not run again.
            jobs = patiently(self.client.list_jobs, name)
            place = locate(self.recipe, self.storage)[name]
            if place.runs:
                self._run_step(place, jobs)
            elif place.artifact is not None:
                self._settle(place, place.artifact)
                self._made(place, "complete", place.artifact.manifest.seconds, place.artifact)

    def artifacts(self) -> dict[str, Artifact]:
        """What every step made, of those that are done."""
        places = locate(self.recipe, self.storage)
        return {name: place.artifact for name, place in places.items() if place.artifact is not None}

    def _settle(self, place: Place, artifact: Artifact) -> None:
        if (settle := place.step.stage.completion.settle) is not None:
            context = Context(self.storage, self.recipe.name, place.step.name, artifact.uri, "", place.step.resources)
            settle(artifact, context)

    def _run_step(self, place: Place, jobs: "Sequence[JobDetails]") -> None:
        name, began, job = place.step.name, time.monotonic(), None
        try:
            job = self._job(place, jobs)
            ended, tail = self._watch(place, job.id, began)
        # A person's word, and nothing else: no error of the dashboard, nor one of this program, stops a job.
        except KeyboardInterrupt:
            self._stop(place, job, began)
            raise
        except Exception:
            if job is not None:
                then = "submitting the recipe again joins it if it still runs, and else goes on from there"
                print(f"step {name}: {job.id} was not stopped; {then}", file=sys.stderr)
            raise
        seconds = time.monotonic() - began
        if not ended.succeeded:
            self._change(place, "failed", seconds, f"job {job.id}", job.id, exit_code=ended.exit_code)
            for line in tail or [ended.message]:
                self.tell(StepLog(step=name, text=line))
            raise StepFailed(name, ended.exit_code if ended.exit_code in (2, REFUSED) else 1)
        artifact = locate(self.recipe, self.storage)[name].artifact
        assert artifact is not None, f"{name} succeeded without an artifact"
        self._made(place, "done", seconds, artifact, job.id)

    def _job(self, place: Place, jobs: "Sequence[JobDetails]") -> Submitted:
        """The job that makes the step: this pipeline's, or one that another pipeline runs or has left running."""
        metadata = {"recipe": self.recipe.name, "step": place.step.name, "artifact": place.uri or ""}
        job = submit_or_join(self.client, self.command(place), metadata, jobs)
        if job.parent == submitter():
            self._change(place, "submitted", 0.0, place.reason, job.id)
        else:
            owner = "that an earlier pipeline left" if self._is_orphan(job) else f"of {job.parent}"
            self._change(place, "joined", 0.0, f"job {job.id} {owner}, which runs already", job.id)
        return job

    def _is_orphan(self, job: Submitted, seconds: float | None = None) -> bool:
        """Whether the pipeline that submitted the job has ended."""
        found = job.parent and patiently(lambda: find_job(self.client, str(job.parent)), job.id, seconds)
        return not found or found.status.is_terminal()

    def _stop(self, place: Place, job: Submitted | None, began: float) -> None:
        """Stop the step's job, unless it is that of another pipeline which still runs."""
        try:
            if job is None:
                # Interrupted while it was submitted: it may have come through.
                stop_children(self.client, str(submitter()), STOP_SECONDS)
            elif job.parent == submitter() or self._is_orphan(job, STOP_SECONDS):
                stop(self.client, job.id, STOP_SECONDS)
                stop_children(self.client, job.id, STOP_SECONDS)
                self._change(place, "stopped", time.monotonic() - began, "", job.id)
        except SubmitError as error:
            print(f"step {place.step.name}: its job could not be stopped, and may go on ({error})", file=sys.stderr)

    def _watch(self, place: Place, job: str, began: float) -> tuple[JobResult, Sequence[str]]:
        """Show the step's figures as they change, or what it waits for and since when, until its job has ended.

        Returns how it ended and, unless it succeeded, the last lines of its log without those of progress.
        """
        shown, spoken, waiting = "", 0.0, Waiting(self.client, job)
        progress, tail = Progress(), deque[str](maxlen=TAIL_LINES)
        outcome = None
        with closing(watch(self.client, job)) as log:
            for lines, ended in log:
                tail.extend(line for line in lines if not progress.read(line))
                if ended:
                    outcome = outcome or result(self.client, job)
                    if outcome.succeeded:
                        break
                elif time.monotonic() - spoken >= PROGRESS_SECONDS:
                    state, text, figures = self._look(job, progress, waiting)
                    if text != shown:
                        self._change(place, state, time.monotonic() - began, text, job, figures=figures)
                        shown = text
                    spoken = time.monotonic()
        return outcome or result(self.client, job), tail

    def _look(self, job: str, progress: Progress, waiting: Waiting) -> tuple[StepState, str, Figures]:
        """What a job does, as a state, in words and in figures."""
        try:
            if waits := waiting.look():
                return "waiting", waits, {}
            words = progress.words() or str(self.client.get_job_status(job).value).lower()
            return "running", words, finite(progress.figures)
        # A line less in the log is no reason to leave the job alone.
        except Exception as error:  # noqa: BLE001
            return "running", f"not known for now ({in_a_line(error)})", {}

    def _made(self, place: Place, state: StepState, seconds: float, artifact: Artifact, job: str | None = None) -> None:
        figures = finite(artifact.manifest.metrics)
        self._change(place, state, seconds, headline(place, artifact), job, figures=figures, uri=artifact.uri)

    def _change(
        self,
        place: Place,
        state: StepState,
        seconds: float,
        text: str,
        job: str | None,
        figures: Figures | None = None,
        uri: str | None = None,
        exit_code: int | None = None,
    ) -> None:
        change = StepChanged(
            step=place.step.name,
            stage=place.step.stage.name,
            state=state,
            seconds=seconds,
            text=text,
            figures=figures or {},
            job=job,
            uri=uri,
            exit_code=exit_code,
        )
        self.tell(change)


def headline(place: Place, artifact: Artifact) -> str:
    """The main figures of a finished step."""
    manifest = artifact.manifest
    words = [str(manifest.details[key]) for key in ("winner", "url") if key in manifest.details]
    if "trials" in manifest.details:
        words.append(f"best of {len(manifest.details['trials'])} trials")
    shown = (*(metric.name for metric in place.step.metrics), *place.step.stage.completion.headline)
    words += [f"{key} {value:.5g}" for key in shown if (value := manifest.metrics.get(key)) is not None]
    if not words:
        words = [f"{key} {value:.4f}" for key, value in manifest.metrics.items()]
    if (page := place.step.stage.completion.page) in manifest.files:
        words.append(f"look at {artifact.file(str(page))}")
    if AGAINST_FLOOR in manifest.details and manifest.stage == "evaluate":
        words.append(manifest.details[AGAINST_FLOOR])
    return "  ".join(words)


def publish_report(
    recipe: Recipe, storage: str, artifacts: dict[str, Artifact], seconds: float, refused: str | None = None
) -> dict[str, Any]:
    """Write the run's record, summary.json and, where there is an evaluation, report.html; print the table.

    Returns the summary. `refused` is the step that said no, where one has.
    """
    from jobs.report.page import write_page
    from jobs.report.tables import comparison_table
    from jobs.select import SelectConfig, read_refusal

    root = join(storage, recipe.name)
    summary: dict[str, Any] = {"recipe": recipe.name, "seconds": round(seconds, 1)}
    by_stage = {artifact.manifest.stage: artifact for artifact in artifacts.values()}
    choice = by_stage["select"].manifest.details if "select" in by_stage else {}
    if refused is not None:
        summary["refused"] = refused
        step = recipe.steps[refused]
        if isinstance(step.config, SelectConfig):
            choice = read_refusal(storage, recipe.name, step.config, artifacts[step.inputs["report"][0]].uri)
    if "evaluate" in by_stage:
        with tempfile.TemporaryDirectory() as directory:
            page = Path(directory) / REPORT
            write_page(recipe.name, artifacts, page, choice)
            write_bytes(join(root, REPORT), page.read_bytes())
        report = json.loads(read_bytes(by_stage["evaluate"].file("report.json")))
        winner = choice.get("winner")
        print("\n" + comparison_table(report, winner) + "\n")
        summary |= ({"winner": winner} if choice else {}) | _figures(report, winner) | {"report": join(root, REPORT)}
    if "deploy" in by_stage:
        details = by_stage["deploy"].manifest.details
        summary |= {"url": details["url"], "answers": details["answers"]}
    scores = {key: summary[key] for key in SCORES if summary.get(key) is not None}
    record_run(storage, recipe.name, artifacts, seconds, scores)
    write_bytes(join(root, SUMMARY), json.dumps(summary, ensure_ascii=False, indent=1).encode())
    return summary


def _figures(report: dict[str, Any], winner: str | None) -> dict[str, Any]:
    teacher = report["rows"][0]
    figures = {"metric": report["metric"], "teacher_score": teacher["score"]}
    scores = {row["candidate"]: row["score"] for row in report["rows"]}
    if floor := report.get("floor"):
        figures |= {"floor_score": scores[floor["candidate"]], AGAINST_FLOOR: floor["verdict"]}
    row = next((row for row in report["rows"] if row["candidate"] == winner), None)
    if row is None:
        return figures
    return {
        **figures,
        "winner_score": row["score"],
        "speedup": round(row["speedup"], 2),
        "size_ratio": round(row["size_ratio"], 2),
    }


if __name__ == "__main__":
    main()
