"""The road of BENCH=front: a teacher of few labels, and students of three sorts, each with and without its answers.

    run = FrontRun.of("banking77", SETS["banking77"], source, place)          # all steps, as any recipe's
    list(run.lines())

K candidates, N test rows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.store.artifact import Artifact
from jobs.core.recipe import Recipe, parse_recipe
from jobs.data.training_rows import read_examples
from jobs.judging.results import read_report
from serve.tasks.protocol import Item
from tests.benchmarks.front_sets import FrontSet
from tests.benchmarks.kinds_road import THREADS, labelled, made
from tests.benchmarks.kinds_scores import MEASURES, apart

KEPT = 0.97
BARS = {"100x": (100, 20), "10x": (10, 1)}
"""How many times as fast as the teacher, and how many times as small, a winner is to be."""
STUDENTS: dict[str, Mapping[str, Any]] = {"static": {"kind": "static"}, "linear": {"kind": "linear"}}
"""Beside the small transformer, whose layers the set names."""
ALONE = "_alone"
SHOWN = ("score", "interval", "kept", "speedup", "size_ratio", "latency_p50_ms", "texts_per_second", "bytes")


@dataclass(frozen=True)
class FrontRun:
    """What has been made of a set."""

    name: str
    data: FrontSet
    recipe: Recipe
    place: str
    source: Mapping[str, str]

    @classmethod
    def of(cls, name: str, data: FrontSet, source: Mapping[str, str], place: str) -> "FrontRun":
        """Its recipe; steps run when they are asked for."""
        return cls(name, data, parse_recipe({"name": name, "steps": steps(data, source)}), place, source)

    def made(self, step: str) -> Artifact:
        """A step's artifact."""
        return made(self.recipe, step, self.place)

    def stated(self) -> dict[str, Any]:
        """What was learned from, and how long."""
        rows = {split: read_examples(self.made("few"), split).num_rows for split in ("train", "validation", "test")}
        rows["unlabelled"] = read_examples(self.made("rows"), "train").num_rows - rows["train"]
        keys = ("model", "max_length", "rates", "epochs", "student_epochs")
        return {"rows": rows, "threads": THREADS, **{key: getattr(self.data, key) for key in keys}}

    def lines(self) -> Iterator[dict[str, Any]]:
        """Of the teacher, of the front, and of what the texts without a label bring."""
        for step in self.recipe.steps:
            last = self.made(step)
        report = read_report(last)
        teacher, floor = report["rows"][0], next(row for row in report["rows"] if row.get("floor"))
        points, (low, high) = self._apart(self.made("teacher"), self.made("floor"))
        above = low > 0
        detail: dict[str, Any] = {"interval": [round(low, 2), round(high, 2)], "teacher": round(teacher["score"], 4)}
        detail |= {"floor": round(floor["score"], 4), "rate": self.made("teacher").manifest.details["best"]}
        yield self._line("teacher_above_floor", points, None, "points of macro F1", detail)
        yield from self._fronts(report)
        for student in ("small", *STUDENTS):
            points, (low, high) = self._apart(self._model(student), self._model(f"{student}{ALONE}"))
            told = {"interval": [round(low, 2), round(high, 2)], "teacher_above_its_floor": above}
            unit = "points of macro F1 that texts without a label bring, at the lower end"
            yield self._line(
                f"{student}_unlabelled_brings", low, 0.0 if above else None, unit, told | {"mean": round(points, 2)}
            )

    def _fronts(self, report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """For each bar, what is kept by the best that is as fast and small."""
        rows = report["rows"]
        shown = {row["candidate"]: {key: _rounded(row[key]) for key in SHOWN} for row in rows}
        for bar, (faster, smaller) in BARS.items():
            fit = [row for row in rows[1:] if row["speedup"] >= faster and row["size_ratio"] >= smaller]
            best = max(fit, key=lambda row: row["kept"], default=None)
            unit = f"of the teacher's score, at {faster} × its speed and {smaller} × smaller"
            detail = {"winner": best and best["candidate"], "front": shown, "verdict": report["floor"]["verdict"]}
            yield self._line(f"best_{bar}", best["kept"] if best else 0.0, KEPT, unit, detail)

    def _model(self, student: str) -> Artifact:
        return self.made(f"{student}_int8" if student.startswith("small") else student)

    def _apart(self, left: Artifact, right: Artifact) -> tuple[float, tuple[float, float]]:
        measure = MEASURES["classification"]
        return apart(measure, self._truth(), [(self._said(left), self._said(right))])

    def _truth(self) -> np.ndarray:
        return np.array(self._test()["label"])

    def _said(self, model: Artifact) -> np.ndarray:
        from serve.engines.engine import load_engine

        engine = load_engine(model.local(), threads=THREADS)
        return np.array([answer.label for answer in engine.answers([Item((text,)) for text in self._test()["text"]])])

    def _test(self) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = read_examples(self.made("few"), "test").to_pydict()
        return columns

    def _line(self, name: str, value: float, goal: float | None, unit: str, detail: dict[str, Any]) -> dict[str, Any]:
        line = {"name": f"{self.name}_{name}", "value": _rounded(value), "goal": goal, "better": "higher"}
        return {**line, "unit": unit, "detail": detail}


def steps(data: FrontSet, source: Mapping[str, str]) -> dict[str, Any]:
    """The recipe's steps."""
    cores, task = {"resources": {"cpus": THREADS}}, {"task": {"kind": "classification", "label": "label"}}
    few = {split: file for split, file in source.items() if split != "unlabelled"}
    prepared = {"stage": "prepare", **task, "split": {"validation": 0.15}}
    alike = {"max_length": data.max_length, **cores}
    begun = {"model": data.model} if data.base is None else {"init": "base"}
    teacher = {"optimizer": {"learning_rate": {"grid": list(data.rates)}}, "epochs": data.epochs, **alike}
    return {
        **_base(data, source),
        "rows": {**prepared, "source": labelled(source)},
        "few": {**prepared, "source": few},
        "teacher": {"stage": "finetune", **_from({"examples": "few"}, begun), **teacher, "batch_size": 16},
        "soft": {"stage": "predict", "inputs": {"examples": "rows", "model": "teacher"}, **cores},
        "soft_few": {"stage": "predict", "inputs": {"examples": "few", "model": "teacher"}, **cores},
        **_students(data, alike, _lines(source, "train", "unlabelled") / _lines(source, "train")),
        "judged": {
            "stage": "evaluate",
            "inputs": {"examples": "few", "teacher": "teacher", "candidates": _candidates()},
        },
    }


def _students(data: FrontSet, alike: Mapping[str, Any], more: float) -> dict[str, Any]:
    """Each student of both sets of rows, of which one has so many times the other's: with as many steps over either."""
    found: dict[str, Any] = {}
    for name, student in {"small": dict(data.student), **STUDENTS}.items():
        for suffix, rows, soft in (("", "rows", "soft"), (ALONE, "few", "soft_few")):
            inputs = {"examples": rows, "teacher": soft}
            step: dict[str, Any] = {"stage": "distill", "inputs": inputs, "student": dict(student)}
            epochs = {"epochs": data.student_epochs * (more if suffix else 1)}
            step |= {"alpha": 0.0} if suffix else {}
            if name == "small":
                step |= {"inputs": {**inputs, "init": "teacher"}, **alike, **epochs, "optimizer": {"learning_rate": 3e-4}}
                found[f"{name}{suffix}_int8"] = {
                    "stage": "compress",
                    "inputs": {"model": f"{name}{suffix}", "examples": rows, "teacher": soft},
                    "max_length": data.max_length,
                    "vocabulary": "used",
                }
            if name == "static":
                step |= {"inputs": {**inputs, "init": "teacher"}, **alike, **epochs}
            found[f"{name}{suffix}"] = step
    return found


def _lines(source: Mapping[str, str], *splits: str) -> int:
    return sum(Path(source[split]).read_text().count("\n") for split in splits)


def _candidates() -> list[str]:
    names = [f"{name}{suffix}" for name in ("small", *STUDENTS) for suffix in ("", ALONE)]
    return [f"{name}_int8" if name.startswith("small") else name for name in names]


def _base(data: FrontSet, source: Mapping[str, str]) -> dict[str, Any]:
    if data.base is None:
        return {}
    tokens = {"source": source["unlabelled"], "tokenizer": {"train": "characters", "vocab_size": 4000}}
    return {
        "corpus": {"stage": "prepare", **tokens, "max_length": data.max_length, "split": {"validation": 0.02}},
        "base": {"stage": "pretrain", "inputs": {"tokens": "corpus"}, **data.base, "resources": {"cpus": THREADS}},
    }


def _from(inputs: Mapping[str, Any], begun: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a step that begins with a base, wherever that comes from."""
    if "init" in begun:
        return {"inputs": {**inputs, **begun}}
    return {"inputs": dict(inputs), **begun}


def _rounded(value: Any) -> Any:
    return [round(one, 4) for one in value] if isinstance(value, list) else round(value, 4)
