"""The proof: what distilling, pruning and int8 make of MiniLM 6×384, and what each part is worth. `make bench BENCH=compress`

    python -m tests.benchmarks.compress int8      # the teacher and its int8 forms alone

The recipe beside this file runs as any recipe does: first to the end of the search, then with the values that it found.
Its data: labelled.py.
"""

import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from cluster.store.artifact import Artifact
from jobs.core.recipe import Recipe, load_recipe
from jobs.judging.results import read_report
from jobs.running.execute import execute
from tests.benchmarks import teacher_inside
from tests.benchmarks.labelled import CPUS, MORE, line, on_labelled_texts, source

RECIPE = str(Path(__file__).with_suffix(".yaml"))
PAIRS, PER_PAIR = 5, 60
FASTER = (10, 20, 30)
CONTROLS = {
    "undistilled": "labels alone (alpha 0)",
    "unpretrained": "random weights in place of the teacher's layers",
    "unpruned": "all neurons of the 3 layers",
    "smaller": "2 whole layers in place of 3 with half of their neurons: as many multiplications",
}
"""Each differs from `pruned` (3 layers, half of their neurons, distilled) in this alone."""
INT8 = {"int8_alone": "int8", "int8_blockwise_alone": "int8_block"}
"""Variants of the teacher, as their figures are named."""


def measures() -> Iterator[dict[str, Any]]:
    """The winner, int8 alone, the front, the search, each control."""
    yield from on_labelled_texts(_measures)


def _measures(name: str, place: str) -> Iterator[dict[str, Any]]:
    data = [f"steps.texts.source={source(place)}"]
    recipe = load_recipe(RECIPE, data)
    search = {step: execute(recipe, step, place) for step in ("texts", "teacher", "soft", "searched")}
    inside = teacher_inside.recipe(recipe, "searched")
    recipe = load_recipe(RECIPE, [*data, *_found(search["searched"], _budget(search["teacher"], search["texts"]))])
    made = {step: execute(recipe, step, place) for step in recipe.steps if step != "winner"}
    report = read_report(made["judged"])
    yield from _int8(name, made, report, Path(place))
    yield from _winner(name, made, report, recipe, place)
    yield from _front(name, report)
    yield from _controls(name, report)
    yield _search(name, search, execute(inside, teacher_inside.STEP, place))


def _int8_measures(name: str, place: str) -> Iterator[dict[str, Any]]:
    recipe = load_recipe(RECIPE, [f"steps.texts.source={source(place)}", "steps.judged.inputs.candidates=[int8]"])
    made = {step: execute(recipe, step, place) for step in ("texts", "teacher", "int8", "judged")}
    yield from _int8(name, made, read_report(made["judged"]), Path(place))


def _search(name: str, made: Mapping[str, Artifact], inside: Artifact) -> dict[str, Any]:
    """Eight trials, halved in step, with answers made once, against eight whole trials that each run the teacher."""
    ours, theirs = made["searched"].manifest, inside.manifest
    seconds = {"soft_labels": made["soft"].manifest.seconds, "search": ours.seconds, "teacher_inside": theirs.seconds}
    fates = [trial["status"] for trial in ours.details["trials"]]
    scores = {"search": ours.metrics["macro_f1"], "teacher_inside": theirs.metrics["macro_f1"]}
    detail = {
        "data": name,
        "seconds": {key: round(value, 1) for key, value in seconds.items()},
        "trials": len(fates),
        "stopped_early": fates.count("stopped"),
        "best_validation_macro_f1": {key: round(value, 4) for key, value in scores.items()},
        "points_lost": round(100 * (scores["teacher_inside"] - scores["search"]), 2),
        "points_allowed": 0.5,
    }
    share = (seconds["soft_labels"] + seconds["search"]) / seconds["teacher_inside"]
    return line("search_time_against_teacher_inside", share, 0.25, "share of the wall time", detail, better="lower")


def _found(searched: Artifact, budget: float) -> list[str]:
    """The values that the search found, for the students and controls, and the budget for their shapes."""
    best = searched.manifest.details["best"]
    steps = ("students", "pruned", *CONTROLS)
    values = [f"steps.{step}.{path}={value!r}" for step in steps for path, value in best.items()]
    return [*values, f"steps.students.tune.budget.maximum_p95_ms={budget:.2f}"]


def _budget(teacher: Artifact, texts: Artifact) -> float:
    """A tenth of the teacher's p95 latency in torch, in ms: no shape that is slower is trained."""
    import numpy as np

    from jobs.data.training_rows import read_examples

    seconds = _turns([_engine(teacher, "torch")], read_examples(texts, "validation")["text"].to_pylist())[0]
    return float(np.percentile([second for turn in seconds for second in turn], 95)) * 1e3 / FASTER[0]


def _int8(name: str, made: Mapping[str, Artifact], report: Mapping[str, Any], place: Path) -> Iterator[dict[str, Any]]:
    teacher = report["rows"][0]
    more = [json.loads(line) for line in (place / f"{MORE}.jsonl").read_text().splitlines()]
    before = _accuracy(made["teacher"], "torch", more)
    for figure, variant in INT8.items():
        row = _row(report, f"int8:{variant}")
        detail = {
            "data": name,
            "points_lost": round(100 * (teacher["accuracy"] - row["accuracy"]), 2),
            "points_allowed": 0.5,
            "test_texts": report["examples"],
            "points_lost_on_more_texts": round(100 * (before - _accuracy(made["int8"], variant, more)), 2),
            "more_texts": len(more),
            "agreement": round(row["agreement"], 4),
            "batch_change": round(row["batch_change"], 4),
            "smaller": round(row["size_ratio"], 2),
        }
        yield _faster(figure, made["int8"], variant, made, 2.5, detail)


def _accuracy(artifact: Artifact, variant: str, rows: Sequence[Mapping[str, str]]) -> float:
    """Of one variant on labelled texts, each run alone."""
    from serve.engines.engine import load_engine
    from serve.tasks.protocol import Item

    engine = load_engine(artifact.local(), variant, threads=CPUS, max_batch=1)
    answers = engine.answers([Item((row["text"],)) for row in rows])
    right = [answer.label == row["label"] for answer, row in zip(answers, rows, strict=True)]
    return sum(right) / len(rows)


def _winner(
    name: str, made: Mapping[str, Artifact], report: Mapping[str, Any], recipe: Recipe, place: str
) -> Iterator[dict[str, Any]]:
    from cluster.store.artifact import open_artifact
    from jobs.core.stage import Refused

    try:
        chosen = execute(recipe, "winner", place).manifest.details["winner"]
    except Refused as refused:
        yield line("winner", 0.0, 0.97, "share of the teacher's accuracy kept", {"data": name, "refused": str(refused)})
        return
    row = _row(report, chosen)
    detail = {
        "data": name,
        "winner": chosen,
        "shape": row["shape"],
        "accuracy": round(row["accuracy"], 4),
        "teacher": round(report["rows"][0]["accuracy"], 4),
        "interval": [round(bound, 4) for bound in row["interval"]],
        "test_texts": report["examples"],
    }
    yield line("winner_kept", row["kept"], 0.97, "share of the teacher's accuracy", detail)
    yield _faster("winner", open_artifact(row["uri"]), row["variant"], made, FASTER[0], {"data": name})
    yield line(
        "winner_smaller", row["size_ratio"], 8, "times fewer bytes than the teacher", {"data": name, "bytes": row["bytes"]}
    )


def _front(name: str, report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The best score at ten, twenty and thirty times the teacher's speed, as judged."""
    for times in FASTER:
        rows = [row for row in report["rows"] if row["speedup"] >= times]
        best = max(rows, key=lambda row: row["accuracy"], default=None)
        detail: dict[str, Any] = {"data": name}
        if best is not None:
            detail |= {key: best[key] for key in ("candidate", "shape", "made", "bytes")} | {
                "speedup": round(best["speedup"], 1)
            }
        yield line(f"front_at_{times}x", best["kept"] if best else 0.0, None, "share of the teacher's accuracy", detail)


def _controls(name: str, report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What each control loses against the student that it differs from in one thing; below 0 it is the better one."""
    numbers = dict(zip(("pruned", *CONTROLS), ("", "-2", "-3", "-4", "-5"), strict=True))
    rows = {control: _row(report, f"controls{number}:int8") for control, number in numbers.items()}
    for control, what in CONTROLS.items():
        row, pruned = rows[control], rows["pruned"]
        detail: dict[str, Any] = {"data": name, "control": what}
        for key in ("accuracy", "latency_p50_ms", "bytes"):
            detail[key] = {"pruned": round(pruned[key], 4), control: round(row[key], 4)}
        lost = 100 * (pruned["accuracy"] - row["accuracy"])
        if control == "smaller":
            detail["pruning"] = "pays" if lost > 0 else "does not pay here: the smaller student is as good or better"
        yield line(f"control_{control}", lost, None, "points of accuracy that the control loses", detail)


def _row(report: Mapping[str, Any], candidate: str) -> dict[str, Any]:
    return next(row for row in report["rows"] if row["candidate"] == candidate)


def _faster(
    name: str, artifact: Artifact, variant: str, made: Mapping[str, Artifact], goal: float, detail: dict[str, Any]
) -> dict[str, Any]:
    """Against the teacher in torch fp32, single test texts, one thread, in turns."""
    from jobs.data.training_rows import read_examples

    texts = read_examples(made["texts"], "test")["text"].to_pylist()
    slow, fast = _turns([_engine(made["teacher"], "torch"), _engine(artifact, variant)], texts)
    pairs = [(median(one) * 1e3, median(other) * 1e3) for one, other in zip(slow, fast, strict=True)]
    detail = {**detail, "pairs_p50_ms": [[round(figure, 2) for figure in pair] for pair in pairs]}
    ratio = median(one / other for one, other in pairs)
    return line(f"{name}_faster", ratio, goal, "ratio of p50 latency, batch 1", detail)


def _engine(artifact: Artifact, variant: str) -> Callable[[str], Any]:
    from serve.engines.engine import load_engine
    from serve.tasks.protocol import Item

    engine = load_engine(artifact.local(), variant, threads=1, max_batch=1)
    return lambda text: engine.outputs([Item((text,))])


def _turns(engines: Sequence[Callable[[str], Any]], texts: Sequence[str]) -> list[list[list[float]]]:
    """Seconds by engine, turn and text; in each turn all engines answer for the same texts."""
    seconds: list[list[list[float]]] = [[] for _ in engines]
    chosen = random.Random(0).sample(list(texts), min(len(texts), PAIRS * PER_PAIR))
    for turn in range(PAIRS):
        for engine, times in zip(engines, seconds, strict=True):
            engine(chosen[0])
            times.append([])
            for text in chosen[turn::PAIRS]:
                began = time.perf_counter()
                engine(text)
                times[-1].append(time.perf_counter() - began)
    return seconds


def main() -> int:
    """Print the lines of int8 alone."""
    if sys.argv[1:] != ["int8"]:
        print("usage: python -m tests.benchmarks.compress int8; all the rest is make bench BENCH=compress", file=sys.stderr)
        return 2
    for measure in on_labelled_texts(_int8_measures):
        print(json.dumps(measure), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
