"""BENCH=kinds, several answers of one encoder: against a model for each of them, in what they answer and in time.

lines = list(heads(run))          # of a task of the kind `several`, whose heads are classifications

Models are trained in turns, and answer single texts in turns. All begin with the same base, and see the same rows.
"""

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from cluster.store.artifact import Artifact
from jobs.core.recipe import parse_recipe
from jobs.data.training_rows import read_examples
from serve.tasks.protocol import Item
from tests.benchmarks.kinds_road import SEEDS, THREADS, Run, labelled, made, steps
from tests.benchmarks.kinds_scores import MEASURES, apart

POINTS, TIMES = 0.5, 1.1
ROUNDS, LATENCY_TEXTS = 10, 200


def heads(run: Run) -> Iterator[dict[str, Any]]:
    """By how much each head is worse than a model of its own, and how much more time both take than one."""
    tasks: Mapping[str, Any] = run.data.prepare["task"]["heads"]
    recipe = parse_recipe({"name": run.name, "steps": steps(run.data, run.source) | _alone(run, tasks)})
    rows = {name: made(recipe, f"{name}_rows", run.place) for name in tasks}
    trained: list[dict[str, Artifact]] = []
    for seed in SEEDS:
        alone = {name: made(recipe, f"{name}_{seed}", run.place) for name in tasks}
        trained.append({"both": run.teacher(seed), **alone})
    for name in tasks:
        yield _worse(run, name, rows[name], trained)
    yield _training_time(run, trained, list(tasks))
    small = {name: made(recipe, f"{name}_small", run.place) for name in ("both", *tasks)}
    yield _served_time(run, small, list(tasks))


def _alone(run: Run, tasks: Mapping[str, Any]) -> dict[str, Any]:
    """The steps of a model for each head, and the int8 forms of the first seed's models."""
    found = {}
    trained = steps(run.data, run.source)
    for name, task in tasks.items():
        rows = {"stage": "prepare", "source": labelled(run.source), **run.data.prepare, "task": task}
        found[f"{name}_rows"] = rows
        for seed in SEEDS:
            own = trained[f"teacher_{seed}"]
            found[f"{name}_{seed}"] = {**own, "inputs": {**own["inputs"], "examples": f"{name}_rows"}}
    for name, model, rows_step in (("both", "teacher_0", "rows"), *((name, f"{name}_0", f"{name}_rows") for name in tasks)):
        small = {"stage": "compress", "inputs": {"model": model, "examples": rows_step}}
        found[f"{name}_small"] = {**small, "max_length": run.data.max_length}
    return found


def _worse(run: Run, head: str, rows: Artifact, trained: list[dict[str, Artifact]]) -> dict[str, Any]:
    from jobs.tasks import spec_of

    measure, columns = MEASURES["classification"], read_examples(rows, "test").to_pydict()
    if columns["text"] != read_examples(run.rows, "test")["text"].to_pylist():
        raise RuntimeError(f"the test rows of {head} alone are not those of both heads")
    names: Any = spec_of(rows)
    items, truth = [Item((text,)) for text in columns["text"]], measure.arrays(columns["label"], names.labels)
    pairs = []
    for models in trained:
        both = [getattr(answer, head).label for answer in _answers(models["both"], items)]
        alone = [answer.label for answer in _answers(models[head], items)]
        pairs.append((measure.arrays(alone, names.labels), measure.arrays(both, names.labels)))
    points, (low, high) = apart(measure, truth, pairs)
    scores = {
        side: [round(measure.of(truth, pair[place]), 4) for pair in pairs] for place, side in enumerate(("alone", "both"))
    }
    detail = {"interval": [round(low, 2), round(high, 2)], "holds_0": low <= 0 <= high, measure.name: scores}
    return _line(f"{run.name}_{head}_worse_with_two_heads", points, POINTS, "points of macro F1", detail)


def _answers(model: Artifact, items: list[Item]) -> list[Any]:
    from serve.engines.engine import load_engine

    return load_engine(model.local(), "torch", threads=THREADS).answers(items)


def _training_time(run: Run, trained: list[dict[str, Artifact]], tasks: list[str]) -> dict[str, Any]:
    """Of a step; the pairs are of one seed, whose models were trained one after another."""
    rates = [{name: model.manifest.metrics["steps_per_second"] for name, model in models.items()} for models in trained]
    times = [rate[name] / rate["both"] for rate in rates for name in tasks]
    detail = {"steps_per_second": [{name: round(rate, 2) for name, rate in one.items()} for one in rates]}
    return _line(f"{run.name}_step_with_two_heads", median(times), TIMES, "times a step with one", detail)


def _served_time(run: Run, small: Mapping[str, Artifact], tasks: list[str]) -> dict[str, Any]:
    """Of the int8 forms, a single text, one thread."""
    from jobs.judging.quality import Candidate, measure_latency

    candidates = {name: Candidate.load(model, "int8", 1, 32) for name, model in small.items()}
    items = [Item((text,)) for text in read_examples(run.rows, "test")["text"].to_pylist()]
    measure_latency(list(candidates.values()), items, LATENCY_TEXTS, ROUNDS)
    both = candidates["both"].seconds
    times = [mine / own for name in tasks for mine, own in zip(both, candidates[name].seconds, strict=True)]
    detail = {"p50_ms": {name: round(1e3 * median(one.seconds), 3) for name, one in candidates.items()}}
    return _line(f"{run.name}_served_with_two_heads", median(times), TIMES, "times the latency with one", detail)


def _line(name: str, value: float, goal: float, unit: str, detail: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "value": round(value, 3), "goal": goal, "better": "lower", "unit": unit, "detail": detail}
