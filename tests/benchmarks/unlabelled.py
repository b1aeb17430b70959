"""What texts without a label bring a student, and what augmented ones do where there are none. `make bench BENCH=unlabelled`

Students of one teacher, alike in settings and number of steps: some learn from the labelled texts, some from those and changed
copies of them, some from those and other texts of the same kind; each once as layers of the teacher, and once from random
weights. Its data: labelled.py.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.store.artifact import Artifact
from jobs.core.recipe import load_recipe
from jobs.data.training_rows import read_examples
from jobs.judging.results import read_report
from jobs.running.execute import execute
from tests.benchmarks.labelled import line, on_labelled_texts, source

RECIPE = str(Path(__file__).with_suffix(".yaml"))
EPOCHS = 12
"""Over the labelled texts; of the larger sets as many steps are fewer epochs."""
STARTS = {"": "layers of the teacher", "new_": "random weights"}
FURTHER = ("augmented", "more")


def measures() -> Iterator[dict[str, Any]]:
    """The points of accuracy that either kind of further texts brings."""
    yield from on_labelled_texts(_measures)


def _measures(name: str, place: str) -> Iterator[dict[str, Any]]:
    given = [f"steps.{step}.source={source(place, 'train', 'test')}" for step in ("texts", "augmented")]
    given.append(f"steps.more.source={source(place)}")
    recipe = load_recipe(RECIPE, given)
    texts = {step: _texts(execute(recipe, step, place)) for step in ("texts", *FURTHER)}
    given += [f"steps.{start}from_{step}.epochs={EPOCHS * texts['texts'] / texts[step]}" for start in STARTS for step in texts]
    recipe = load_recipe(RECIPE, given)
    made = {step: execute(recipe, step, place) for step in recipe.steps}
    report = read_report(made["judged"])
    accuracy = {row["candidate"].split(":")[0]: row["accuracy"] for row in report["rows"]}
    for start in STARTS:
        for step in FURTHER:
            yield _line(start, step, accuracy, {"data": name, "test_texts": report["examples"], "texts": texts})


def _texts(artifact: Artifact) -> int:
    return read_examples(artifact, "train").num_rows


def _line(start: str, step: str, accuracy: dict[str, float], detail: dict[str, Any]) -> dict[str, Any]:
    alone, student = f"{start}from_texts", f"{start}from_{step}"
    chosen = {key: round(accuracy[key], 4) for key in ("teacher", alone, student)}
    points = round(100 * (accuracy[student] - accuracy[alone]), 2)
    unit = "points of accuracy more than from the labelled texts alone"
    return line(f"unlabelled_{student}", points, None, unit, {**detail, "student": STARTS[start], "accuracy": chosen})
