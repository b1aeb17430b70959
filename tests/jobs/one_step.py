"""Pipelines over a recipe of one step, whose job says what the test wants and publishes an artifact that is empty.

python -m tests.jobs.one_step FILE STORAGE DIRECTORY SECONDS      one that meets another in this directory before it submits
"""

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ray.job_submission import JobSubmissionClient

from cluster.connection.connect import attach_or_start
from jobs.core.places import Place
from jobs.core.recipe import load_recipe
from jobs.core.stage import PROGRESS_MARK
from jobs.pipeline import Pipeline, publish_report
from jobs.running.cli import connect, guarded, stop_on_sigterm
from tests.story.tiny_world import write_recipe

SPEAKS = r"""
import sys, time
mark, lines, seconds, more = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]
for number in range(lines):
    print(mark + '{"step": %d, "steps": %d}' % (number, lines), flush=True)
    print(mark + '{"step": %d, "st' % number + mark + '{"ste\n' + mark + '7\nno progress', number, flush=True)
    time.sleep(seconds / lines)
if more:
    sys.stdout.buffer.write("André\n".encode(more[0]))
    sys.stdout.flush()
    time.sleep(float(more[1]))
"""
PUBLISHES = """
import json, sys, tempfile
from datetime import UTC, datetime
from pathlib import Path
from cluster.store.artifact import publish
publish(Path(tempfile.mkdtemp()), sys.argv[1], {**json.loads(sys.argv[2]), "created": datetime.now(UTC)})
"""


def write_one_step(directory: Path, *more: str) -> str:
    """The recipe's file, and the text that its step (and further ones of these names) reads."""
    (directory / "corpus.txt").write_text("\n".join(f"the old river carried the bridge {n}" for n in range(200)))
    corpus = {"stage": "prepare", "source": str(directory / "corpus.txt"), "max_length": 32}
    corpus["tokenizer"] = {"train": "wordpiece", "vocab_size": 200}
    return write_recipe(directory / "small.yaml", {"name": "small", "steps": dict.fromkeys(("corpus", *more), corpus)})


def speaks(lines: int, seconds: float, *more: str) -> list[str]:
    """A command that prints progress, whole and mangled, for so long; then a word in some encoding, and sleeps."""
    return [sys.executable, "-c", SPEAKS, PROGRESS_MARK, str(lines), str(seconds), *more]


def publishing(place: Place) -> list[str]:
    """A command that publishes the step's artifact."""
    record = {"kind": place.step.kind, "step": place.step.name, "stage": place.step.stage.name, "seconds": 1.0}
    record |= {"stage_version": place.step.stage.version, "config": place.step.resolved(), "metrics": {"rows": 200}}
    return [sys.executable, "-c", PUBLISHES, str(place.uri), json.dumps(record)]


def made(
    file: str, storage: str, client: JobSubmissionClient, before: Sequence[str], met: Callable[[], object] = lambda: None
) -> Pipeline:
    """A pipeline whose step runs this command before it publishes; `met` is called just before its job is submitted."""

    def command(place: Place) -> list[str]:
        met()
        return ["bash", "-c", f"{shlex.join(before)} && {shlex.join(publishing(place))}"]

    return Pipeline(load_recipe(file), storage, client, command)


def statuses(client: JobSubmissionClient, storage: str) -> list[str]:
    """How the jobs over this storage stand."""
    return [job.status.value for job in client.list_jobs() if job.submission_id and storage in job.entrypoint]


def meet(directory: str) -> None:
    """Wait for the other process to come here as often as this one; it may be done, and never come."""
    here = Path(directory)
    (here / f"{os.getpid()}-{time.time_ns()}").touch()
    deadline, own = time.monotonic() + 15, len(list(here.glob(f"{os.getpid()}-*")))
    while len(list(here.iterdir())) < 2 * own and time.monotonic() < deadline:
        time.sleep(0.01)


def main(file: str, storage: str, directory: str, seconds: str) -> int:
    """Run it as `python -m jobs.pipeline` does."""
    with attach_or_start() as cluster:
        connect()
        stop_on_sigterm()
        pipeline = made(file, storage, cluster.jobs(), speaks(10, float(seconds)), lambda: meet(directory))
        pipeline.run()
        print(json.dumps(publish_report(pipeline.recipe, storage, pipeline.artifacts(), 1.0)))
    return 0


if __name__ == "__main__":
    guarded(lambda: main(*sys.argv[1:]))
