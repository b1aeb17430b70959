"""How much memory a variant needs to answer: the peak of a process of its own that loads it and answers a full batch.

    python -m serve.engines.memory out/spam/small-1a2b3c4d:int8 out/spam/teacher-5e6f7a8b:torch     # prints bytes, a line each

    peak_memories([(directory, "int8")], threads=1, max_batch=32)              # the same, measured in new processes

Interpreter and libraries are in it: it is what a server of this one model needs, without its HTTP side. Importing torch takes
longer than all else: so the variants of one backend have a process that imports its libraries once, and forks for each.
"""

import argparse
import importlib
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from serve.engines.card import EngineError, read_card
from serve.engines.engine import load_engine
from serve.tasks.protocol import Item

ROOT = Path(__file__).parents[2]
STATUS, MAPPED = Path("/proc/self/status"), Path("/proc/self/smaps")
BACKEND_LIBRARIES = {"onnx": ("onnxruntime",), "torch": ("torch", "transformers")}
"""What a backend imports when it is chosen."""
Subject = tuple[Path, str]
"""A published model's directory, and one of its variants."""


def peak_memories(subjects: Sequence[Subject], threads: int = 1, max_batch: int = 32) -> list[int]:
    """Bytes of resident memory at their peak, of each; EngineError where a model cannot be run."""
    found: dict[Subject, int] = {}
    backends = [_backend(*subject) for subject in subjects]
    for backend in dict.fromkeys(backends):
        own = [subject for subject, its in zip(subjects, backends, strict=True) if its == backend]
        found |= zip(own, _measured(own, threads, max_batch), strict=True)
    return [found[subject] for subject in subjects]


def _measured(subjects: Sequence[Subject], threads: int, max_batch: int) -> list[int]:
    """Those of one backend, in one new process."""
    named = [f"{directory}:{variant}" for directory, variant in subjects]
    command = [sys.executable, "-m", "serve.engines.memory", *named, "--threads", str(threads), "--max-batch", str(max_batch)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise EngineError(f"a variant did not run in a process of its own: {reason}")
    return [int(line) for line in done.stdout.split()]


def resident_peak() -> int:
    """The most bytes that this process has held in memory so far."""
    if STATUS.exists():
        # Unlike getrusage, it does not begin at the peak of the process that started this one.
        lines = STATUS.read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def resident_files() -> dict[str, int]:
    """Bytes in memory of each part of a file that is mapped into this process, by its addresses."""
    found, place = dict[str, int](), ""
    for line in MAPPED.read_text().splitlines() if MAPPED.exists() else ():
        words = line.split()
        if not words[0].endswith(":"):
            place = words[0] if words[4] != "0" else ""  # without an inode it is no file
        elif words[0] == "Rss:" and place:
            found[place] = 1024 * int(words[1])
    return found


def _backend(directory: Path, variant: str) -> str:
    return read_card(directory).variant(variant)[1].backend


def _answer(subject: Subject, threads: int, max_batch: int) -> None:
    engine = load_engine(*subject, threads, max_batch)
    full = " ".join(["a"] * engine.card.max_length)
    engine.outputs([Item((full,) * len(engine.task.fields))] * max_batch)


def _forked_peak(subject: Subject, threads: int, max_batch: int) -> int | None:
    """The peak of a child that answers; None where it fails, which it tells on stderr."""
    before = resident_files()
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            _answer(subject, threads, max_batch)
            # A child sees of its parent's libraries only those pages that it reads itself; by itself it would have read all.
            after = resident_files()
            unread = sum(max(0, size - after.get(place, 0)) for place, size in before.items())
            os.write(writing, str(resident_peak() + unread).encode())
        except Exception as error:  # noqa: BLE001  a fork must not go on with what its parent does; it is told, and ends
            print(
                f"{'' if isinstance(error, EngineError) else type(error).__name__ + ': '}{error}", file=sys.stderr, flush=True
            )
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        peak = told.read()
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if ended != 0:
        print(f"{subject[0]}:{subject[1]}: its process was ended by signal {-ended}", file=sys.stderr, flush=True)
    return int(peak) if peak else None


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m serve.engines.memory", description="Print the peak memory of loaded models of one backend."
    )
    parser.add_argument("subjects", nargs="+", metavar="DIRECTORY:VARIANT")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-batch", type=int, default=32)
    given = parser.parse_args()
    split = [one.rpartition(":") for one in given.subjects]
    subjects = [(Path(directory), variant) for directory, _, variant in split]
    try:
        backends = {_backend(*subject) for subject in subjects}
    except EngineError as error:
        parser.exit(1, f"{error}\n")
    if len(backends) > 1:
        parser.error(f"these have several backends ({', '.join(sorted(backends))}), whose libraries would all be counted")
    for library in BACKEND_LIBRARIES.get(backends.pop(), ()):
        importlib.import_module(library)
    for subject in subjects:
        if (peak := _forked_peak(subject, given.threads, given.max_batch)) is None:
            parser.exit(1)
        print(peak, flush=True)


if __name__ == "__main__":
    _main()
