"""How much memory a variant needs to answer: the peak of a process of its own that loads it and answers a full batch.

    python -m serve.engines.memory out/spam/small-1a2b3c4d --variant int8        # prints bytes

    peak_memory(directory, "int8", threads=1, max_batch=32)              # the same, measured in a new process

Interpreter and libraries are in it: it is what a server of this one model needs, without its HTTP side.
"""

import argparse
import resource
import subprocess
import sys
from pathlib import Path

from serve.engines.card import EngineError
from serve.engines.engine import load_engine
from serve.tasks.protocol import Item

ROOT = Path(__file__).parents[2]
STATUS = Path("/proc/self/status")


def peak_memory(directory: Path, variant: str, threads: int = 1, max_batch: int = 32) -> int:
    """Bytes of resident memory at their peak; EngineError where the model cannot be run."""
    command = [sys.executable, "-m", "serve.engines.memory", str(directory), "--variant", variant]
    command += ["--threads", str(threads), "--max-batch", str(max_batch)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise EngineError(f"{directory}: the variant {variant} did not run in a process of its own: {reason}")
    return int(done.stdout.split()[-1])


def resident_peak() -> int:
    """The most bytes that this process has held in memory so far."""
    if STATUS.exists():
        # Unlike getrusage, it does not begin at the peak of the process that started this one.
        lines = STATUS.read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m serve.engines.memory", description="Print the peak memory of a loaded model."
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--variant")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-batch", type=int, default=32)
    given = parser.parse_args()
    try:
        engine = load_engine(given.directory, given.variant, given.threads, given.max_batch)
    except EngineError as error:
        parser.exit(1, f"{error}\n")
    full = " ".join(["a"] * engine.card.max_length)
    engine.outputs([Item((full,) * len(engine.task.fields))] * given.max_batch)
    print(resident_peak())


if __name__ == "__main__":
    _main()
