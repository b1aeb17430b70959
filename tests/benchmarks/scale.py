"""From one core to two, from 10 files to 100,000, and what the pipeline costs beside Ray Jobs.

make bench BENCH=scale              some ten minutes; with PART=0.01 a hundredth of the work, to see that all of it runs
python -m tests.benchmarks.scale cores 1|2 [STEP …]           seconds of each step at two sizes, on so many cores
python -m tests.benchmarks.scale files 10|100000 DIRECTORY    the most memory that prepare's driver had, in MB

Efficiency is the time of one core over twice the time of two. What does not grow with the data (the start of processes) is
taken off: each step runs at two sizes, and its time is the difference. Of training only the loop's own time counts, as what is
around it varies by more than the loop takes. One core is this machine with all of Ray on its first.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import psutil
import yaml

from tests.story.running import ROOT, run_job
from tests.story.tiny_world import OBJECTS, OFFERS, SUBJECTS, TALK, VERBS

if TYPE_CHECKING:
    from cluster.connection.connect import Cluster

PART = float(os.environ.get("PART", "1"))
ROUNDS = 2
EFFICIENCY = 0.85
LARGE = {"lines": 600_000, "messages": 20_000, "steps": 70}
SMALL_SHARE = 0.1
LEAST = {"lines": 2_000, "messages": 400, "steps": 2}
STEPS = ("corpus", "base", "messages", "teacher", "soft")
TRAINED = "base"
MEASURED = {"corpus": "prepare", "base": "train", "teacher": "tune", "soft": "predict"}
CORPUS_FILES = 8
FILES = (10, 100_000)
FILES_GROWTH_MB = 32
TRIVIAL_STEPS = 4
OVERHEAD_SECONDS = 2.0


def measures() -> Iterator[dict[str, Any]]:
    """The pipeline's own seconds, memory by files, efficiency of four kinds of steps."""
    yield _pipeline()
    yield _files()
    yield from _cores()


def _cores() -> Iterator[dict[str, Any]]:
    sides = [_side("cores", cores) for cores in ("1", "2")]
    for step, name in MEASURED.items():
        one, two = (side["large"][step] - side["small"][step] for side in sides)
        yield {
            "name": f"{name}_efficiency_from_one_core_to_two",
            "value": round(one / (2 * two), 3),
            "goal": EFFICIENCY,
            "better": "higher",
            "unit": "share of twice the speed",
            "detail": {name: [round(side[name][step], 1) for side in sides] for name in ("small", "large")},
        }


def _files() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        held = {number: _side("files", str(number), directory)["mb"] for number in FILES}
    few, many = held.values()
    return {
        "name": "prepare_driver_memory_growth_10_to_100000_files",
        "value": round(many - few, 1),
        "goal": FILES_GROWTH_MB,
        "better": "lower",
        "unit": "MB",
        "detail": held,
    }


def _pipeline() -> dict[str, Any]:
    """The same trivial steps through the pipeline, and as jobs of their own, one after another."""
    from cluster.connection.connect import attach_or_start

    pairs = []
    with tempfile.TemporaryDirectory() as directory, attach_or_start("local", cpus=2) as cluster:
        file = _trivial(directory)
        for number in range(ROUNDS):
            pairs.append((_run_pipeline(file, f"{directory}/{number}-a"), _run_jobs(cluster, file, f"{directory}/{number}-b")))
    return {
        "name": "pipeline_seconds_a_step_beyond_rays",
        "value": round(median((through - beside) / TRIVIAL_STEPS for through, beside in pairs), 2),
        "goal": OVERHEAD_SECONDS,
        "better": "lower",
        "unit": "s",
        "detail": {"seconds_of_pipeline_and_jobs": [[round(each, 1) for each in pair] for pair in pairs]},
    }


def _side(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.scale", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def cores(number: int, steps: Sequence[str] = STEPS) -> dict[str, dict[str, float]]:
    """Seconds of each step at both sizes; `steps` are these and what they read."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:number])  # Whatever is started inherits it.
    import ray

    from cluster.connection.connect import attach_or_start
    from jobs.core.recipe import load_recipe
    from jobs.running.execute import execute

    seconds: dict[str, dict[str, float]] = {}
    with (
        tempfile.TemporaryDirectory() as directory,
        attach_or_start("local", cpus=number) as cluster,
        ray.init(cluster.address, log_to_driver=False),
    ):
        for name, share in (("small", SMALL_SHARE), ("large", 1.0)):
            recipe = load_recipe(_recipe(Path(directory, name), share, number))
            seconds[name] = {}
            for step in steps:
                began = time.monotonic()
                figures = execute(recipe, step, f"{directory}/runs").manifest.metrics
                whole = time.monotonic() - began
                seconds[name][step] = figures["steps"] / figures["steps_per_second"] if step == TRAINED else whole
    return seconds


def _recipe(directory: Path, share: float, workers: int) -> str:
    """A corpus, a model pretrained on it, messages, a search over fine-tuning, and answers for all messages."""
    directory.mkdir()
    size = {name: max(LEAST[name], round(number * share * PART)) for name, number in LARGE.items()}
    _write_texts(directory, size["lines"], size["messages"])
    each = {"resources": {"workers": workers}}
    steps: dict[str, Any] = {
        "corpus": {"stage": "prepare", "source": f"{directory}/corpus-*.txt", "max_length": 64}
        | {"tokenizer": {"train": "wordpiece", "vocab_size": 2000}},
        "base": {"stage": "pretrain", "inputs": {"tokens": "corpus"}, "max_steps": size["steps"]}
        | {"model": {"layers": 4, "hidden": 256, "heads": 4}, "batch_size": 32, "evaluations": 1, "epochs": 99}
        | {"precision": "fp32", **each},
        "messages": {"stage": "prepare", "source": f"{directory}/messages.csv"}
        | {"task": {"kind": "classification", "label": "kind"}},
        "teacher": {"stage": "finetune", "inputs": {"examples": "messages", "init": "base"}, "epochs": 0.15, "evaluations": 1}
        | {
            "max_length": 64,
            "optimizer": {"learning_rate": {"loguniform": [1e-4, 1e-3]}},
            "tune": {"trials": 4, "scheduler": "none"},
        },
        "soft": {"stage": "predict", "inputs": {"model": "teacher", "examples": "messages"}, **each},
    }
    file = directory / "recipe.yaml"
    file.write_text(yaml.safe_dump({"name": directory.name, "steps": steps}, sort_keys=False))
    return str(file)


def _write_texts(directory: Path, lines: int, messages: int) -> None:
    for part in range(CORPUS_FILES):
        numbers = range(part, lines, CORPUS_FILES)
        texts = (f"{SUBJECTS[n % 6]} {VERBS[n % 8]} {OBJECTS[n % 7]} in the year {n} of the river" for n in numbers)
        (directory / f"corpus-{part}.txt").write_text("\n".join(texts))
    kinds = ((OFFERS, "spam"), (TALK, "ham"))
    rows = [f"{kinds[n % 2][0][n % 5]} {n} {kinds[n % 2][0][n % 4]},{kinds[n % 2][1]}" for n in range(messages)]
    (directory / "messages.csv").write_text("\n".join(["text,kind", *rows]))


def files(number: int, directory: str) -> dict[str, float]:
    """The most memory of its own that prepare's driver had, over the same documents in so many files."""
    from cluster.connection.connect import attach_or_start

    documents, number = max(1000, round(max(FILES) * PART)), max(10, round(number * PART))
    place, recipe = Path(directory, f"files-{number}"), Path(directory, f"{number}.yaml")
    place.mkdir()
    for n in range(number):
        texts = (f"boat {k} of town {k % 97} crossed river {k * 7 % 1013}" for k in range(n, documents, number))
        (place / f"{n:06d}.txt").write_text("\n".join(texts))
    step = {"stage": "prepare", "source": f"{place}/*.txt", "tokenizer": {"train": "wordpiece", "vocab_size": 400}}
    recipe.write_text(yaml.safe_dump({"name": "files", "steps": {"corpus": step}}))
    log = Path(directory, f"{number}.log")
    with tempfile.TemporaryDirectory() as storage, attach_or_start("local", cpus=2), log.open("w") as said:
        command = [sys.executable, "-m", "jobs.prepare", str(recipe), "--storage", storage]
        driver = psutil.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        most = 0
        while driver.poll() is None:
            try:
                most = max(most, driver.memory_full_info().uss)
            except psutil.Error:
                break  # It has ended since.
            time.sleep(0.1)
        if driver.wait():
            raise RuntimeError(log.read_text()[-2000:])
    return {"mb": round(most / 1e6, 1)}


def _trivial(directory: str) -> str:
    """Steps that have next to nothing to do."""
    text, recipe = Path(directory, "few.csv"), Path(directory, "trivial.yaml")
    text.write_text("text,kind\n" + "\n".join(f"message {n},{'ab'[n % 2]}" for n in range(40)))
    step = {"stage": "prepare", "source": str(text), "task": {"kind": "classification", "label": "kind"}}
    steps = {f"step{number}": step | {"max_length": 64 + number} for number in range(TRIVIAL_STEPS)}
    recipe.write_text(yaml.safe_dump({"name": "trivial", "steps": steps}))
    return str(recipe)


def _run_pipeline(file: str, storage: str) -> float:
    """Seconds between its first step's submission and its last step's end."""
    command = [sys.executable, "-m", "jobs.pipeline", file, "--storage", storage]
    pipeline = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert pipeline.stdout is not None
    began = ended = 0.0
    said = []
    for line in pipeline.stdout:
        said.append(line)
        if line.startswith("[step0]") and " submitted " in line:
            began = time.monotonic()
        if line.startswith(f"[step{TRIVIAL_STEPS - 1}]") and " done " in line:
            ended = time.monotonic()
    if pipeline.wait():
        raise RuntimeError("".join(said)[-2000:])
    return ended - began


def _run_jobs(cluster: "Cluster", file: str, storage: str) -> float:
    """The same, as jobs that are submitted and waited for here."""
    began = time.monotonic()
    for number in range(TRIVIAL_STEPS):
        ran = run_job(cluster, "jobs.prepare", file, "--step", f"step{number}", "--storage", storage)
        if ran.exit_code:
            raise RuntimeError(ran.text[-2000:])
    return time.monotonic() - began


if __name__ == "__main__":
    asked, size, *rest = sys.argv[1:]
    print(json.dumps(cores(int(size), rest or STEPS) if asked == "cores" else files(int(size), rest[0])))
