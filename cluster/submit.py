"""A command becomes a Ray job: submit it, follow its log, learn its real exit code, stop it with its children.

    python -m cluster.submit -- python -m jobs.finetune recipe.yaml
    python -m cluster.submit --address http://head:8265 --name nightly -- python -m jobs.pipeline recipe.yaml

The command line submits to the cluster that --address or RAY_ADDRESS names, or else to an embedded one; it prints the
job's log, stops the job and its children on Ctrl-C, and exits with the exit code of the job's driver.
"""

import argparse
import hashlib
import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import requests

from cluster.connection.connect import ConnectError, attach_or_start
from cluster.connection.embedded import StartError
from cluster.connection.follow import POLL_SECONDS, Lost, SubmitError, follow, has_ended, is_unknown, patiently
from cluster.connection.upload import UploadError, check_upload
from cluster.ray_private import JOB_CONFIG, quiet_uploads
from cluster.store.redact import REMEDY, redacted, secret_in

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

PARENT = "parent"
"""Metadata key: who submitted this job, see `submitter`."""
HEAD_SECONDS = 600.0
"""How long a head that died is waited for."""
COMMIT = "RAYSTILL_COMMIT"
"""Environment variable of a job: the commit of the code that it runs, with `-dirty` where files were changed."""


@dataclass(frozen=True)
class JobResult:
    """How a job ended."""

    status: str
    """SUCCEEDED, FAILED or STOPPED."""
    exit_code: int | None
    """The driver's own; None where it was stopped or never started."""
    message: str

    @property
    def succeeded(self) -> bool:
        return self.status == "SUCCEEDED"


@dataclass(frozen=True)
class Submitted:
    """A job, and by whom it was submitted: see `submitter`."""

    id: str
    parent: str | None


def submit(
    client: "JobSubmissionClient",
    command: Sequence[str] | str,
    working_dir: str | None = None,
    metadata: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    job_id: str | None = None,
) -> str:
    """Submit a command and return its job id, made readable by the metadata `recipe` and `step`, or `name`.

    `working_dir` is a local directory (uploaded but for what .gitignore names) or a URI; by default that of the job
    this runs in, else the current directory. The new job's `parent` is this process's job. Raises SubmitError or
    UploadError.
    """
    line = command if isinstance(command, str) else shlex.join(command)
    _check_secret(line, metadata or {}, environment or {})
    place = working_dir or inherited_working_dir()
    if "://" not in place:
        quiet_uploads()
        print(f"uploading {place}: {check_upload(Path(place))}", file=sys.stderr)
    details = dict(metadata or {})
    parent = submitter()
    if parent is not None:
        details.setdefault(PARENT, parent)
    variables = {**_commit(place), **(environment or {})}
    # Ids may never be used twice on a cluster, hence the random end.
    name = job_id or f"{_readable(details)}-{secrets.token_hex(3)}"

    def sent() -> str:
        try:
            environ = {"working_dir": place, "env_vars": variables}
            return client.submit_job(entrypoint=line, submission_id=name, runtime_env=environ, metadata=details)
        except (RuntimeError, requests.RequestException) as error:
            # It may have reached the cluster all the same, or an earlier try or another process under this id has.
            if find_job(client, name) is not None:
                return name
            if "status code 4" in str(error):
                raise SubmitError(f"{name}: the cluster refused the job: {error}") from error
            raise

    return patiently(sent, name)


def submit_or_join(
    client: "JobSubmissionClient",
    command: Sequence[str] | str,
    metadata: Mapping[str, str],
    jobs: "Sequence[JobDetails]",
) -> Submitted:
    """Submit a command that no other job with this metadata may run beside; returns the one that runs.

    `jobs` are the cluster's (`list_jobs`) from before it was looked whether the work is done already: then two that come
    at once submit under the same id, the n-th of this metadata, and the cluster takes one. The other one joins it, even if
    it has ended meanwhile. Raises SubmitError or UploadError.
    """
    known = {job.submission_id: job for job in jobs}
    mark = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode()).hexdigest()[:10]
    ids = (f"{_readable(metadata)}-{mark}-{number}" for number in count(1))
    job_id = next(name for name in ids if name not in known or not known[name].status.is_terminal())
    job = known.get(job_id)
    if job is None:
        submit(client, command, metadata=metadata, job_id=job_id)
        job = patiently(lambda: client.get_job_info(job_id), job_id)
    return Submitted(job_id, (job.metadata or {}).get(PARENT))


def find_job(client: "JobSubmissionClient", job_id: str) -> "JobDetails | None":
    """What the cluster knows of a job; None where it knows none of this id."""
    try:
        return client.get_job_info(job_id)
    except RuntimeError as error:
        if is_unknown(error):
            return None
        raise


def result(client: "JobSubmissionClient", job_id: str) -> JobResult:
    """How the job ended; waits until it has."""
    while not has_ended(client, job_id):
        time.sleep(POLL_SECONDS)
    job = patiently(lambda: client.get_job_info(job_id), job_id)
    return JobResult(job.status.value, job.driver_exit_code, job.message or "")


def stop(client: "JobSubmissionClient", job_id: str, timeout: float = 20.0) -> None:
    """Ask the job's driver to end (SIGTERM, SIGKILL after Ray's 3 s) and wait until it has; silent if it had ended."""
    deadline = time.monotonic() + timeout
    while not has_ended(client, job_id, timeout):
        if time.monotonic() > deadline:
            raise SubmitError(f"{job_id} has not stopped within {timeout:.0f} s; look at its node, or end it there by hand")
        # Asked again and again, since a job that is just being started does not hear it.
        patiently(lambda: client.stop_job(job_id), job_id, timeout)
        time.sleep(POLL_SECONDS)


def children(client: "JobSubmissionClient", parent_id: str, running: bool = True, timeout: float | None = None) -> list[str]:
    """The ids of the jobs that this job submitted: those that have not ended, or all."""
    jobs = patiently(client.list_jobs, parent_id, timeout)
    jobs = [job for job in jobs if (job.metadata or {}).get(PARENT) == parent_id and job.submission_id]
    return [str(job.submission_id) for job in jobs if not running or not job.status.is_terminal()]


def stop_children(client: "JobSubmissionClient", parent_id: str, timeout: float = 20.0) -> list[str]:
    """Stop every running descendant of a job, each before its own children so that it starts no more; returns their ids."""
    stopped: list[str] = []
    # An ended child may have left children running, so the ended ones are visited too.
    for child in children(client, parent_id, running=False, timeout=timeout):
        if not has_ended(client, child, timeout):
            stop(client, child, timeout)
            stopped.append(child)
        stopped += stop_children(client, child, timeout)
    return stopped


def current_job_id() -> str | None:
    """The id of the Ray job whose driver this process is, or None."""
    return _job_config().get("metadata", {}).get("job_submission_id")


def submitter() -> str | None:
    """The id by which the cluster knows this process: the job's, or where it is connected (ray.init) that of its driver."""
    job = current_job_id()
    if job is None and "ray" in sys.modules:
        import ray

        job = ray.get_runtime_context().get_job_id() if ray.is_initialized() else None
    return job


def inherited_working_dir() -> str:
    """The uploaded working directory (a gcs:// URI) of the job that this process belongs to, else the current directory.

    A job's own directory is a copy on one node; its children must run the package that it was itself made from.
    """
    place = _job_config().get("runtime_env", {}).get("working_dir")
    if place is None and "ray" in sys.modules:
        import ray

        # A task or actor has no job config in its environment.
        place = ray.get_runtime_context().runtime_env.get("working_dir") if ray.is_initialized() else None
    return place or str(Path.cwd())


def _job_config() -> dict[str, Any]:
    """What Ray tells a job's driver about the job; empty outside of one."""
    config: dict[str, Any] = json.loads(os.environ.get(JOB_CONFIG, "{}"))
    return config


def _check_secret(line: str, *pairs: Mapping[str, str]) -> None:
    """The dashboard shows every job's command line, metadata and environment variables."""
    for text in (line, *(f"{key}={value}" for each in pairs for key, value in each.items())):
        found = secret_in(text)
        if found is not None:
            raise SubmitError(f"{redacted(text)}: it holds {found}, which the dashboard would show to all its users. {REMEDY}")


def _readable(metadata: Mapping[str, str]) -> str:
    parts = [metadata[key] for key in ("recipe", "step") if key in metadata] or [metadata.get("name", "job")]
    return re.sub(r"[^A-Za-z0-9]+", "-", "-".join(["raystill", *parts]))


def _commit(working_dir: str) -> dict[str, str]:
    if COMMIT in os.environ:
        return {COMMIT: os.environ[COMMIT]}
    if "://" in working_dir:
        return {}
    command = ["git", "-C", working_dir, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git on this machine
        return {}
    return {COMMIT: found.stdout.strip()} if found.returncode == 0 else {}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parse(arguments)
    # A terminal that closes or a polite kill stops the job as Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)
    with attach_or_start(options.address) as cluster:
        client = cluster.jobs()
        for more in reversed(range(options.again + 1)):
            try:
                job_id, ended = _run(client, options)
                break
            except Lost as error:
                if not more:
                    raise
                print(f"{error}. Submitting again as soon as it answers", file=sys.stderr)
                _wait_for_head(client)
    if ended is None:
        return 128 + signal.SIGINT
    print(f"{job_id} {ended.status}", file=sys.stderr)
    return _exit_code(ended)


def _run(client: "JobSubmissionClient", options: argparse.Namespace) -> tuple[str, JobResult | None]:
    """Submit the command and print its log to the end; None where it was interrupted, and so stopped."""
    job_id = submit(client, options.command, options.working_dir, {"name": options.name or _name(options.command)})
    print(f"submitted {job_id} to {client.get_address()}", file=sys.stderr)
    try:
        for line in follow(client, job_id):
            print(line, flush=True)
        return job_id, result(client, job_id)
    except KeyboardInterrupt:
        print(f"stopping {job_id} and its children", file=sys.stderr)
        stop(client, job_id)
        stop_children(client, job_id)
        return job_id, None


def _wait_for_head(client: "JobSubmissionClient") -> None:
    """Wait until the jobs API answers; Lost if it does not within HEAD_SECONDS."""
    deadline = time.monotonic() + HEAD_SECONDS
    while True:
        try:
            client.list_jobs()
            return
        except (requests.RequestException, RuntimeError) as error:
            if time.monotonic() > deadline:
                raise Lost(f"the cluster has not come back within {HEAD_SECONDS / 60:.0f} minutes: {error}") from error
            time.sleep(POLL_SECONDS)


def _exit_code(ended: JobResult) -> int:
    if ended.succeeded:
        return 0
    if not ended.exit_code:
        print(ended.message, file=sys.stderr)
        return 1
    # A driver that was ended by signal N has the code -N; shells say 128 + N.
    return ended.exit_code if ended.exit_code > 0 else 128 - ended.exit_code


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m cluster.submit", description="Run a command as a Ray job and follow it.")
    parser.add_argument("--address", help="GCS host:port or dashboard URL; default RAY_ADDRESS, else an embedded cluster")
    parser.add_argument("--working-dir", help="directory to upload; default the current one")
    parser.add_argument("--name", help="what the job's id shall say; default from the command")
    parser.add_argument(
        "--again",
        type=int,
        default=0,
        metavar="N",
        help="where the head dies: wait until it is back and submit again, N times",
    )
    parser.add_argument("command", nargs="+", metavar="-- command", help="what to run")
    return parser.parse_args(arguments)


def _name(command: Sequence[str]) -> str:
    """`python -m jobs.finetune …` is called finetune, `python train.py …` train, `echo …` echo."""
    words = [word for word in command if not word.startswith("-")]
    word = words[1] if len(words) > 1 and Path(words[0]).name.startswith("python") else words[0]
    return Path(word).name.removesuffix(".py").rpartition(".")[2]


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ConnectError, StartError, SubmitError, UploadError) as problem:
        sys.exit(f"error: {problem}")
