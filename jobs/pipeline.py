"""pipeline: a recipe's steps in order, each as a Ray job of its own; what is done already is skipped.

    ray job submit --working-dir . -- python -m jobs.pipeline jobs/recipes/spam.yaml
    python -m jobs.pipeline jobs/recipes/spam.yaml --plan      which steps would run, why, where and for how much; runs nothing

The log has a line whenever a step's state or figures change; its last line is a JSON summary.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.artifact import Artifact
from cluster.connect import attach_or_start
from cluster.follow import has_ended
from cluster.runs import record_run
from cluster.storage import absolute, join, read_bytes, write_bytes
from cluster.submit import result, running_with, stop, stop_children, submit
from cluster.waiting import Waiting
from jobs.core.cli import add_recipe_arguments, connect, guarded
from jobs.core.execute import Place, locate
from jobs.core.preflight import preflight
from jobs.core.recipe import Recipe, load_recipe
from jobs.core.stage import PROGRESS_MARK, Context
from jobs.plan import print_plan

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

POLL_SECONDS = 0.5
PROGRESS_SECONDS = 3.0
TAIL_LINES = 40
SUMMARY = "summary.json"
REPORT = "report.html"
SCORES = ("winner", "winner_score", "teacher_score", "speedup", "size_ratio")
"""What `python -m cluster.runs list` shows of a run."""


class StepFailed(Exception):
    """A step's job did not succeed; holds its exit code."""

    def __init__(self, step: str, exit_code: int) -> None:
        super().__init__(f"step {step} failed")
        self.exit_code = exit_code


def main() -> None:
    """Run or plan a recipe; exits with 2 for bad input, 3 where select refused, 1 for other failures."""
    parser = argparse.ArgumentParser(prog="python -m jobs.pipeline", description="run a recipe's steps as Ray jobs")
    add_recipe_arguments(parser)
    parser.add_argument(
        "--plan", action="store_true", help="say which steps would run, why, where and for how much; run nothing"
    )
    parser.add_argument("--cluster", help="with --plan: a cluster's file (cluster.yaml) to plan for; none has to run")
    parser.add_argument("--prices", help="with --plan: a price table in place of cluster/prices.yaml")
    arguments = parser.parse_intermixed_args()
    guarded(lambda: print_plan(arguments) if arguments.plan else _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    recipe, storage = load_recipe(arguments.recipe, arguments.overrides), absolute(arguments.storage)
    with attach_or_start() as cluster:
        connect()
        preflight(recipe, storage)
        pipeline = Pipeline(recipe, storage, cluster.jobs(), _command(arguments, storage))
        try:
            artifacts = pipeline.run()
        except StepFailed as failure:
            print(f"{failure}; submit the recipe again to go on from there", file=sys.stderr)
            return failure.exit_code
    publish_report(recipe, storage, artifacts, time.monotonic() - began)
    return 0


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

    def run(self) -> dict[str, Artifact]:
        """Run all steps that are not done; returns every step's artifact."""
        for name in self.recipe.steps:
            place = locate(self.recipe, self.storage)[name]
            if place.runs:
                self._run_step(place)
            elif place.artifact is not None:
                self._settle(place, place.artifact)
                self._line(place, "complete", place.artifact.manifest.seconds, headline(place, place.artifact))
        places = locate(self.recipe, self.storage)
        return {name: place.artifact for name, place in places.items() if place.artifact is not None}

    def _settle(self, place: Place, artifact: Artifact) -> None:
        if place.step.stage.settle is not None:
            context = Context(self.storage, self.recipe.name, place.step.name, artifact.uri, "", place.step.resources)
            place.step.stage.settle(artifact, context)

    def _run_step(self, place: Place) -> None:
        name, began = place.step.name, time.monotonic()
        job, ours = self._job(place)
        try:
            self._watch(place, job, began)
        except BaseException:
            if ours:
                stop(self.client, job)
                stop_children(self.client, job)
                self._line(place, "stopped", time.monotonic() - began, "")
            raise
        ended = result(self.client, job)
        seconds = time.monotonic() - began
        if not ended.succeeded:
            self._line(place, "failed", seconds, f"job {job}")
            lines = [line for line in self.client.get_job_logs(job).splitlines() if PROGRESS_MARK not in line]
            print("\n".join(f"    {line}" for line in lines[-TAIL_LINES:] or [ended.message]), flush=True)
            raise StepFailed(name, ended.exit_code if ended.exit_code in (2, 3) else 1)
        artifact = locate(self.recipe, self.storage)[name].artifact
        assert artifact is not None, f"{name} succeeded without an artifact"
        self._line(place, "done", seconds, headline(place, artifact))

    def _job(self, place: Place) -> tuple[str, bool]:
        """The job that makes the step, and whether it is this pipeline's to stop.

        A pipeline that was killed leaves its step running: that job is gone on with, not run a second time beside it.
        """
        metadata = {"recipe": self.recipe.name, "step": place.step.name, "artifact": place.uri or ""}
        found = running_with(self.client, metadata)
        if found is None:
            job = submit(self.client, self.command(place), metadata=metadata)
            self._line(place, "submitted", 0.0, place.reason)
            return job, True
        job, parent = found
        orphan = parent is None or has_ended(self.client, parent)
        owner = "that an earlier pipeline left" if orphan else f"of {parent}"
        self._line(place, "joined", 0.0, f"job {job} {owner}, which runs already")
        return job, orphan

    def _watch(self, place: Place, job: str, began: float) -> None:
        """Show the step's figures as they change, or what it waits for and since when, until its job has ended."""
        shown, spoken, waiting = "", 0.0, Waiting(self.client, job)
        while not has_ended(self.client, job):
            time.sleep(POLL_SECONDS)
            if time.monotonic() - spoken < PROGRESS_SECONDS:
                continue
            waits = waiting.look()
            line = waits or describe_progress(latest_progress(self.client.get_job_logs(job).splitlines()))
            line = line or str(self.client.get_job_status(job).value).lower()
            if line != shown:
                self._line(place, "waiting" if waits else "running", time.monotonic() - began, line)
                shown = line
            spoken = time.monotonic()

    def _line(self, place: Place, state: str, seconds: float, text: str) -> None:
        print(step_line(place.step.name, place.step.stage.name, state, seconds, text), flush=True)


def step_line(step: str, stage: str, state: str, seconds: float, text: str) -> str:
    """One line of the pipeline's log; jobs/demo.py reads it back."""
    return f"[{step}] {stage:<9} {state:<9} {seconds:6.0f} s  {text}"


def headline(place: Place, artifact: Artifact) -> str:
    """The main figures of a finished step."""
    manifest = artifact.manifest
    words = [str(manifest.details[key]) for key in ("winner", "url") if key in manifest.details]
    if "trials" in manifest.details:
        words.append(f"best of {len(manifest.details['trials'])} trials")
    words += [f"{key} {value:.5g}" for key in place.step.stage.headline if (value := manifest.metrics.get(key)) is not None]
    if not words:
        words = [f"{key} {value:.4f}" for key, value in manifest.metrics.items()]
    return "  ".join(words)


def latest_progress(lines: Sequence[str]) -> dict[str, Any]:
    """The figures of a log's last progress line; those of a search also say how many trials have spoken."""
    found = [json.loads(line.rsplit(PROGRESS_MARK, 1)[1]) for line in lines if PROGRESS_MARK in line and line.endswith("}")]
    if not found:
        return {}
    trials = {figures["trial"] for figures in found if "trial" in figures}
    return found[-1] | ({"trials": len(trials)} if trials else {})


def describe_progress(figures: dict[str, Any]) -> str:
    """Progress in a few words: step 120/400, loss, steps/s, the latest evaluation."""
    words = [str(figures["state"])] if "state" in figures else []
    if "trials" in figures:
        words.append(f"trial {figures['trials']}")
    if "steps" in figures:
        words.append(f"step {figures['step']}/{figures['steps']}")
    for key, form in (("rows", "rows {:.0f}"), ("loss", "loss {:.4f}"), ("macro_f1", "macro_f1 {:.4f}")):
        if key in figures:
            words.append(form.format(figures[key]))
    if "perplexity" in figures:
        words.append(f"perplexity {figures['perplexity']:.1f}")
    if "steps_per_second" in figures:
        words.append(f"{figures['steps_per_second']:.2f} steps/s")
    return "  ".join(words)


def publish_report(recipe: Recipe, storage: str, artifacts: dict[str, Artifact], seconds: float) -> None:
    """Write the run's record, summary.json and, where there is an evaluation, report.html; print the table and the summary."""
    from jobs.report.page import write_page
    from jobs.report.tables import comparison_table

    root = join(storage, recipe.name)
    summary: dict[str, Any] = {"recipe": recipe.name, "seconds": round(seconds, 1)}
    by_stage = {artifact.manifest.stage: artifact for artifact in artifacts.values()}
    if "evaluate" in by_stage:
        with tempfile.TemporaryDirectory() as directory:
            page = Path(directory) / REPORT
            write_page(recipe.name, artifacts, page)
            write_bytes(join(root, REPORT), page.read_bytes())
        report = json.loads(read_bytes(by_stage["evaluate"].file("report.json")))
        winner = by_stage["select"].manifest.details["winner"] if "select" in by_stage else None
        print("\n" + comparison_table(report, winner) + "\n")
        summary |= _figures(report, winner) | {"report": join(root, REPORT)}
    if "deploy" in by_stage:
        details = by_stage["deploy"].manifest.details
        summary |= {"url": details["url"], "answers": details["answers"]}
    scores = {key: summary[key] for key in SCORES if key in summary}
    record_run(storage, recipe.name, artifacts, seconds, scores)
    write_bytes(join(root, SUMMARY), json.dumps(summary, ensure_ascii=False, indent=1).encode())
    print(json.dumps(summary, ensure_ascii=False), flush=True)


def _figures(report: dict[str, Any], winner: str | None) -> dict[str, Any]:
    teacher = report["rows"][0]
    figures = {"metric": report["metric"], "teacher_score": teacher["score"]}
    row = next((row for row in report["rows"] if row["candidate"] == winner), None)
    if row is None:
        return figures
    return {
        "winner": winner,
        **figures,
        "winner_score": row["score"],
        "speedup": round(row["speedup"], 2),
        "size_ratio": round(row["size_ratio"], 2),
    }


if __name__ == "__main__":
    main()
