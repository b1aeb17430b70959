"""Keeps an embedded cluster from outliving its owner: runs a command and, in the end, ends all that came of it.

    python cluster/connection/guard.py DIRECTORY ray start --head --block …      # started by cluster/connection/embedded.py

Standard input is a pipe whose other end the owner holds. It closes when the owner closes the cluster, and also when
the owner crashes or is killed; either way nothing is left behind, and DIRECTORY is removed.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import psutil

MARK = "RAYSTILL_EMBEDDED"
"""Environment variable that every process of the cluster inherits; its value is the cluster's directory."""


def members(directory: str, session: int) -> list[psutil.Process]:
    """The living processes of the cluster in `directory`, but for the guard itself, which leads their session."""
    found = []
    for process in psutil.process_iter():
        # A process that ends while it is looked at, or that belongs to another user, is none of ours.
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid not in (session, os.getpid()) and _belongs(process, directory, session):
                found.append(process)
    return found


def _belongs(process: psutil.Process, directory: str, session: int) -> bool:
    if process.status() == psutil.STATUS_ZOMBIE:
        return False
    # Job drivers have a session of their own, and Ray's renamed workers lose their environment: only both find all.
    return os.getsid(process.pid) == session or process.environ().get(MARK) == directory


def end(directory: str, session: int, patience: float = 3.0) -> None:
    """SIGTERM to all members, SIGKILL to those left after `patience` seconds; RuntimeError if some survive even that."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        told: set[psutil.Process] = set()
        deadline = time.monotonic() + patience
        while left := members(directory, session):
            if time.monotonic() > deadline:
                break
            for process in set(left) - told:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(kind)
                told.add(process)
            time.sleep(0.05)
        else:
            return
    names = ", ".join(f"{process.pid} ({process.name()})" for process in left)
    raise RuntimeError(f"processes of {directory} survived SIGKILL: {names}; end them by hand")


def main(arguments: Sequence[str]) -> int:
    """Run the command until it ends or the owner lets go; returns the command's exit code, or 0."""
    directory, *command = arguments
    owner = os.getppid()
    session = os.getsid(0)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, env={**os.environ, MARK: directory}, cwd=directory)
    while child.poll() is None and not _let_go(owner):
        pass
    code = child.poll()
    end(directory, session)
    if code is None:
        # Where the command ended by itself the owner still wants to read its log, and removes the directory after that.
        shutil.rmtree(directory, ignore_errors=True)
    return code or 0


def _let_go(owner: int) -> bool:
    """Wait up to half a second for the owner's pipe to close; a fork of the owner may hold it open after its death."""
    readable, _, _ = select.select([sys.stdin], [], [], 0.5)
    return bool(readable) or os.getppid() != owner


if __name__ == "__main__":
    # Ctrl-C and a polite kill are for the owner to answer; the guard goes by the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(main(sys.argv[1:]))
