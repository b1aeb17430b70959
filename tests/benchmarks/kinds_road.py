"""The road of BENCH=kinds: teachers of three seeds; the first learns on, and a distilled student in int8 is judged beside it.

    run = Run.of("banking77", SETS["banking77"], source, place)          # its rows alone
    list(run.winner())

A recipe that runs as any other does.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.store.artifact import Artifact
from jobs.core.recipe import Recipe, parse_recipe
from jobs.core.stage import Refused
from jobs.data.training_rows import read_examples
from jobs.judging.results import read_report
from jobs.running.execute import execute
from serve.tasks.protocol import Item
from tests.benchmarks.kinds_floor import floors
from tests.benchmarks.kinds_scores import MEASURES, Measure, apart
from tests.benchmarks.kinds_sets import DataSet

SEEDS = (0, 1, 2)
KEPT, FASTER = 0.97, 8
THREADS = int(os.environ.get("THREADS", "2"))
"""Of either side, and of all that is trained."""
SHOWN = ("score", "interval", "kept", "speedup", "size_ratio", "latency_p50_ms")
TARGETS = {
    "classification": "label",
    "multi_label": "labels",
    "regression": "value",
    "ordinal": "label",
    "several": "category.label",
}
"""The column of EXAMPLES that holds what is right."""
SAID: dict[str, Callable[[Any], Any]] = {
    "classification": lambda answer: answer.label,
    "multi_label": lambda answer: list(answer.labels),
    "regression": lambda answer: answer.value,
    "ordinal": lambda answer: answer.label,
}
"""Of an answer, what is judged."""


@dataclass(frozen=True)
class Run:
    """What has been made of a set."""

    name: str
    data: DataSet
    recipe: Recipe
    place: str
    source: Mapping[str, str]
    rows: Artifact
    base: Artifact | None

    @classmethod
    def of(cls, name: str, data: DataSet, source: Mapping[str, str], place: str) -> "Run":
        """Prepare the rows, and pretrain the base where the set has none."""
        # It has floors of its own (kinds_floor.py), of every kind, to compare the teachers with.
        recipe = parse_recipe({"name": name, "steps": steps(data, source), "floor": False})
        base = [made(recipe, step, place) for step in base_steps(data, source)][-1] if data.base is not None else None
        return cls(name, data, recipe, place, source, made(recipe, "rows", place), base)

    def teacher(self, seed: int) -> Artifact:
        """The one of that seed, trained when it is first asked for."""
        return made(self.recipe, f"teacher_{seed}", self.place)

    @property
    def measure(self) -> Measure:
        """How answers are judged."""
        return MEASURES[self.data.kind]

    def split(self, name: str) -> dict[str, list[Any]]:
        """The labelled rows of a split: their texts and their targets."""
        columns = read_examples(self.rows, name).to_pydict()
        texts = zip(columns["text"], *([columns["pair"]] if "pair" in columns else []), strict=True)
        both = [
            (own, target) for own, target in zip(texts, columns[TARGETS[self.data.kind]], strict=True) if target is not None
        ]
        return {"texts": [list(own) for own, _ in both], "target": [target for _, target in both]}

    @property
    def names(self) -> tuple[str, ...]:
        """The labels in the order of the outputs; none where answers are numbers."""
        from jobs.tasks import spec_of

        return tuple(getattr(spec_of(self.rows), "labels", ()))

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The ends of a scale of numbers."""
        task = self.data.prepare["task"]
        return (task["least"], task["greatest"]) if "least" in task else None

    def arrays(self, values: Any) -> np.ndarray:
        """Answers or targets as they are judged."""
        return self.measure.arrays(values, self.names)

    def said(self, model: Artifact) -> np.ndarray:
        """What a model answers for the test rows. RuntimeError where its own figure is not the one taken here."""
        from jobs.tasks import learning_of
        from serve.engines.engine import load_engine

        engine = load_engine(model.local(), "torch", threads=THREADS)
        test = read_examples(self.rows, "test").to_pydict()
        items = [Item(tuple(own)) for own in self.split("test")["texts"]]
        outputs, learning = engine.settled(items), learning_of(engine.task.kind)
        said = self.arrays([SAID[self.data.kind](answer) for answer in engine.task.answers(outputs, items)])
        judged = learning.judged(engine.task, outputs, learning.truth(engine.task, test)).figure(self.measure.name)
        taken = self.measure.of(self.truth(), said)
        if abs(judged - taken) > 1e-9:
            raise RuntimeError(f"{self.measure.name} is {judged} by the jobs and {taken} by scikit-learn")
        return said

    def truth(self) -> np.ndarray:
        """What is right for the test rows."""
        return self.arrays(self.split("test")["target"])

    def stated(self) -> dict[str, Any]:
        """What was trained, and how long."""
        data = self.data
        rows = {split: len(self.split(split)["target"]) for split in ("train", "validation", "test")}
        rows["unlabelled"] = read_examples(self.rows, "train").num_rows - rows["train"]
        keys = ("model", "max_length", "batch_size", "rate", "steps", "further_epochs", "student_epochs")
        return {
            "rows": rows,
            "seeds": list(SEEDS),
            "threads": THREADS,
            **{key: getattr(data, key) for key in keys},
            "student": dict(data.student),
        }

    def winner(self) -> Iterator[dict[str, Any]]:
        """Whether the teacher is above its floors, and what the winner keeps of it."""
        rows = {split: self.split(split) for split in ("train", "validation", "test")}
        teacher, truth = self.said(made(self.recipe, "teacher", self.place)), self.truth()
        above: dict[str, dict[str, Any]] = {}
        for name, answers in floors(self.data.kind, rows).items():
            said = self.arrays(answers)
            points, interval = apart(self.measure, truth, [(teacher, said)])
            above[name] = {
                self.measure.name: round(self.measure.of(truth, said), 4),
                "teacher_better_by": round(points, 2),
                "interval": [round(bound, 2) for bound in interval],
            }
        clear = all(floor["interval"][0] > 0 for floor in above.values())
        yield from self._judged({"teacher_above_its_floors": clear, "floors": above})

    def _judged(self, detail: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for step in ("soft", "student", "small", "judged"):
            last = made(self.recipe, step, self.place)
        candidates = {row["candidate"]: row for row in read_report(last)["rows"]}
        shown = {name: {key: _rounded(row[key]) for key in SHOWN} for name, row in candidates.items()}
        try:
            chosen = made(self.recipe, "winner", self.place).manifest.details["winner"]
        except Refused as refused:
            # Told of all the same: it is what would have won.
            chosen = "small:int8"
            detail["refused"] = str(refused).split("\n  this verdict")[0]
        row, detail = candidates[chosen], {**detail, "winner": chosen, "candidates": shown}
        goal = KEPT if detail["teacher_above_its_floors"] else None
        yield _line(f"{self.name}_winner_kept", row["kept"], goal, "of the teacher's score", detail)
        yield _line(f"{self.name}_winner_faster", row["speedup"], FASTER, "times the teacher's speed", {"winner": chosen})


def made(recipe: Recipe, step: str, place: str) -> Artifact:
    """A step's artifact; what the step prints goes to stderr, for stdout has the lines alone."""
    with redirect_stdout(sys.stderr):
        return execute(recipe, step, place)


def labelled(source: Mapping[str, str]) -> dict[str, str]:
    """The source without what a base is pretrained on."""
    return {split: file for split, file in source.items() if split != "corpus"}


def begun(data: DataSet, rows: str) -> dict[str, Any]:
    """What a training says of where it begins."""
    if data.base is None:
        return {"inputs": {"examples": rows}, "model": data.model}
    return {"inputs": {"examples": rows, "init": "base"}}


def base_steps(data: DataSet, source: Mapping[str, str]) -> dict[str, Any]:
    """The steps of a base that is pretrained here."""
    if data.base is None:
        return {}
    tokens = {"source": source["corpus"], "tokenizer": {"train": "characters", "vocab_size": 4000}}
    return {
        "corpus": {"stage": "prepare", **tokens, "max_length": data.max_length, "split": {"validation": 0.02}},
        "base": {"stage": "pretrain", "inputs": {"tokens": "corpus"}, **data.base, "resources": {"cpus": THREADS}},
    }


def steps(data: DataSet, source: Mapping[str, str]) -> dict[str, Any]:
    """The recipe's steps."""
    examples, cores = {"examples": "rows"}, {"resources": {"cpus": THREADS}}
    alike = {"batch_size": data.batch_size, "max_length": data.max_length, "evaluations": 1, **cores}
    trained = {"stage": "finetune", "optimizer": {"learning_rate": data.rate}, "keep": "last", **alike}
    compared = {**trained, **begun(data, "rows"), "epochs": 1000, "max_steps": data.steps}
    further = {**trained, "inputs": {**examples, "init": "teacher_0"}, "epochs": data.further_epochs}
    soft = {**examples, "teacher": "soft"}
    student = {"inputs": {**soft, "init": "teacher"}, "epochs": data.student_epochs, "student": dict(data.student)}
    return {
        **base_steps(data, source),
        "rows": {"stage": "prepare", "source": labelled(source), **data.prepare},
        **{f"teacher_{seed}": {**compared, "seed": seed} for seed in SEEDS},
        "teacher": further,
        "soft": {"stage": "predict", "inputs": {**examples, "model": "teacher"}, **cores},
        "student": {"stage": "distill", "optimizer": {"learning_rate": 3e-4}, **student, **alike},
        "small": {"stage": "compress", "inputs": {**soft, "model": "student"}, "max_length": data.max_length}
        | {"vocabulary": "used"},
        "judged": {"stage": "evaluate", "inputs": {**examples, "teacher": "teacher", "candidates": ["small"]}},
        "winner": {"stage": "select", "inputs": {"report": "judged"}, "minimum_kept": KEPT, "minimum_speedup": FASTER},
    }


def _line(name: str, value: float, goal: float | None, unit: str, detail: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "value": _rounded(value), "goal": goal, "better": "higher", "unit": unit, "detail": detail}


def _rounded(value: Any) -> Any:
    return [round(one, 4) for one in value] if isinstance(value, list) else round(value, 4)
