"""demo: a recipe from its raw text to answers over HTTP, on the cluster that is there or one of its own.

    make demo
    python -m jobs.demo jobs/recipes/questions.yaml            keeps serving until Ctrl-C
    python -m jobs.demo jobs/recipes/questions.yaml --exit     shuts down what it started and leaves

The recipe's pipeline is submitted as a Ray job; here the events on its log become one live line a step. The very last line
on standard output is the summary as JSON.
"""

import argparse
import json
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from cluster.connection.connect import attach_or_start
from cluster.store.storage import absolute
from cluster.submit import follow, result, stop, stop_children, submit
from jobs.core.config import BadInput, Problem
from jobs.core.recipe import load_recipe
from jobs.running.cli import add_recipe_arguments, guarded
from jobs.running.events import EVENT_MARK, RunEnded, StepChanged, StepLog, StepState, read_event

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

NOISE = re.compile(r"\sINFO |worker\.py:|Running entrypoint for job|RayDeprecationWarning")
LONGEST_SHOWN = 200
"""Characters of a text in the line that shows how to ask."""
MARKS: dict[StepState, str] = {
    "done": "✓",
    "complete": "✓",
    "failed": "✗",
    "stopped": "■",
    "submitted": "…",
    "joined": "…",
    "waiting": "…",
    "running": "…",
}


def main() -> None:
    """Run the recipe; exits as the pipeline does."""
    parser = argparse.ArgumentParser(prog="python -m jobs.demo", description="run a recipe and serve its winner")
    add_recipe_arguments(parser)
    parser.add_argument(
        "--address", help="a cluster to use (host:port or dashboard URL; default: RAY_ADDRESS, else one of its own)"
    )
    parser.add_argument("--exit", action="store_true", help="shut down when done instead of serving until Ctrl-C")
    parser.add_argument("--began", type=float, help="when the work began (Unix time), where set-up is to be counted in")
    arguments = parser.parse_args()
    guarded(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    began = arguments.began or time.time()
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    storage = absolute(arguments.storage)
    screen = Screen(sys.stdout)
    print(f"Raystill: {len(recipe.steps)} steps of {recipe.name}; runs are kept in {storage}", flush=True)
    with attach_or_start(arguments.address) as cluster:
        print(
            f"cluster {cluster.address or ''} {'(embedded)' if cluster.owned else ''}  dashboard {cluster.dashboard}",
            flush=True,
        )
        command = ["python", "-m", "jobs.pipeline", arguments.recipe, *arguments.overrides, "--storage", storage]
        code, summary = run_job(cluster.jobs(), command, {"recipe": recipe.name, "step": "pipeline"}, screen)
        if summary is None:
            return code or 1
        summary = {**summary, "seconds": round(time.time() - began, 1)}
        show(summary)
        stays = not arguments.exit and sys.stdout.isatty() and "url" in summary
        if stays:
            print(f"\nserving until Ctrl-C; jobs and logs: {cluster.dashboard}")
            if cluster.owned:
                print("  " + " ".join(f"{key}={value}" for key, value in cluster.environment.items()))
        print(json.dumps(summary, ensure_ascii=False), flush=True)
        if stays:
            with suppress(KeyboardInterrupt):
                while True:
                    time.sleep(3600)
            print("shutting down", file=sys.stderr)
    return code


def run_job(
    client: "JobSubmissionClient", command: list[str], metadata: dict[str, str], screen: "Screen"
) -> tuple[int, dict[str, Any] | None]:
    """Submit the pipeline, show its events, return its exit code and its summary, which it has when a step refused, too.

    Ctrl-C stops it with its steps.
    """
    job = submit(client, [*command, "--log-format", "events"], metadata=metadata)
    try:
        summary = screen.show(follow(client, job))
        ended = result(client, job)
    except KeyboardInterrupt:
        print(f"\nstopping {job} and its steps", file=sys.stderr)
        stop(client, job)
        stop_children(client, job)
        raise
    if ended.succeeded:
        return 0, summary
    if not ended.exit_code:
        raise BadInput([Problem(job, None, ended.message, "See the job's log on the dashboard.")])
    return ended.exit_code, summary


@dataclass
class Screen:
    """One line a step: rewritten in place on a terminal, printed as it changes elsewhere."""

    out: TextIO
    places: dict[str, int] = field(default_factory=dict)
    """The row of the screen on which each step's line stands, counted from the first that was written."""
    rows: int = 0

    def show(self, log: Iterable[str]) -> dict[str, Any] | None:
        """Show a pipeline's log of events until it ends; returns the summary that its last one has."""
        summary = None
        for line in log:
            # Elsewhere than at a line's start it is what someone else has printed.
            if not line.startswith(EVENT_MARK):
                self._others(line)
                continue
            match read_event(line.removeprefix(EVENT_MARK)):
                case StepChanged() as change:
                    self._step(change)
                case StepLog() as said:
                    self._others(f"    {said.text}")
                case RunEnded() as ended:
                    summary = ended.summary
        return summary

    def _step(self, event: StepChanged) -> None:
        step, mark = event.step, MARKS[event.state]
        line = f"{mark} {step:<12} {event.stage:<9} {event.state:<9} {event.seconds:5.0f} s  {event.text}"
        if not self.out.isatty():
            if event.state != "submitted":
                print(line, file=self.out, flush=True)
            return
        size = shutil.get_terminal_size()
        line = line[: size.columns - 1]
        below = self.rows - self.places.get(step, self.rows)
        if 0 < below < size.lines:
            # Up to the step's line, over it, and back down.
            print(f"\x1b[{below}A\r\x1b[2K{line}\x1b[{below}B\r", end="", file=self.out, flush=True)
        else:
            self.places[step] = self.rows
            self._print(line)

    def _others(self, text: str) -> None:
        """Print what is no state of a step, without Ray's own words."""
        for line in text.split("\n"):
            if not _is_noise(line):
                self._print(line)

    def _print(self, line: str) -> None:
        print(line, file=self.out, flush=True)
        # A long line goes on in the next row.
        self.rows += 1 + max(0, len(line) - 1) // shutil.get_terminal_size().columns


def _is_noise(line: str) -> bool:
    """Ray's own words about uploads, connections and the job's entrypoint."""
    return NOISE.search(line) is not None


def show(summary: dict[str, Any]) -> None:
    """The questions with what came back, where the report is, how to ask."""
    if summary.get("answers"):
        print("asked over HTTP:")
    for answer in summary.get("answers", []):
        shown = "  ".join(repr(text if len(text) <= 76 else text[:75] + "…") for text in _texts(answer["asked"]).values())
        print(f"  {shown}\n    → {answer['said']}, labelled {answer['expected']}")
    if "url" in summary and summary.get("answers"):
        asked = summary["answers"][0]["asked"]
        short = {name: text[:LONGEST_SHOWN] for name, text in _texts(asked).items()}
        body = json.dumps({"inputs": short if isinstance(asked, dict) else short[""]}, ensure_ascii=False)
        print(f"\nask it yourself:\n  curl -s {summary['url']} -H 'Content-Type: application/json' -d {shlex.quote(body)}")
    elif "url" in summary:
        print(f"\nit answers at {summary['url']}")
    if "report" in summary:
        print(f"report: {summary['report']}", flush=True)


def _texts(asked: str | dict[str, str]) -> dict[str, str]:
    """The texts of a question, by name where there are several."""
    return asked if isinstance(asked, dict) else {"": asked}


if __name__ == "__main__":
    main()
