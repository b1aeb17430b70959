"""The step `floor`, which every evaluation implies: where it is, where it is not, and what a recipe may say of it.

pytest tests/jobs/test_implied_floor.py
"""

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import yaml

from jobs.core.config import BadInput
from jobs.core.places import locate
from jobs.core.recipe import Recipe, load_recipe, parse_recipe
from jobs.running.floorless import no_floor
from jobs.running.parents import parent_problems
from jobs.running.plan import print_plan
from jobs.running.sizing import recipe_demands
from jobs.tasks import learning_of
from jobs.tasks.floors import has_floor
from jobs.tasks.resolved import task_settings
from tests.jobs.stars import installed

RECIPES = sorted((Path(__file__).parents[2] / "jobs" / "recipes").glob("*.yaml"))


def steps(**more: Any) -> dict[str, Any]:
    """A short road, with these steps put in, or in the place of others."""
    return {
        "rows": {"stage": "prepare", "source": "a.csv", "task": {"kind": "classification"}, "split": {"test": 0.2}},
        "teacher": {"stage": "finetune", "model": "sample:minilm_l6", "inputs": {"examples": "rows"}},
        "small": {"stage": "compress", "inputs": {"model": "teacher", "examples": "rows"}},
        "judged": judging("rows"),
        **more,
    }


def judging(examples: str, **more: Any) -> dict[str, Any]:
    inputs = {"examples": examples, "teacher": "teacher", "candidates": "small", **more.pop("inputs", {})}
    return {"stage": "evaluate", "inputs": inputs, **more}


def parse(named: dict[str, Any], **tree: Any) -> Recipe:
    return parse_recipe({"name": "tiny", "steps": named, **tree})


def told(named: dict[str, Any], **tree: Any) -> list[str]:
    with pytest.raises(BadInput) as caught:
        parse(named, **tree)
    return [str(problem) for problem in caught.value.problems]


def test_it_comes_right_after_its_examples_and_goes_into_the_evaluation(tmp_path: Path) -> None:
    recipe = parse(steps())
    assert list(recipe.steps) == ["rows", "floor", "teacher", "small", "judged"] and recipe.not_implied == ()
    floor = recipe.steps["floor"]
    assert (floor.stage.name, floor.inputs, floor.metrics[0].name) == ("floor", {"examples": ("rows",)}, "macro_f1")
    assert recipe.steps["judged"].inputs["floor"] == ("floor",)
    assert not parent_problems(recipe, recipe.steps)
    demand = recipe_demands(recipe)["floor"]
    assert (demand.cpus, demand.gpus, demand.workers) == (1, 0, 1) and demand.memory is not None
    (tmp_path / "a.csv").write_text("text,label\nfine,ham\nfree prize,spam\n")
    there = parse(steps(rows=steps()["rows"] | {"source": str(tmp_path / "a.csv")}))
    assert list(locate(there, str(tmp_path))) == list(recipe.steps)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_whose_kind_has_one_has_one(path: Path) -> None:
    recipe = load_recipe(str(path))
    judged = [step for step in recipe.steps.values() if step.stage.name == "evaluate"]
    assert judged
    for step in judged:
        settings = task_settings(step, recipe.steps)
        assert settings is not None and step.inputs.get("floor") == (("floor",) if has_floor(settings.kind) else None)
    assert bool(recipe.not_implied) == ("floor" not in recipe.steps)
    assert load_recipe(str(path), ["floor=false"]).steps.keys() == recipe.steps.keys() - {"floor"}


def test_two_evaluations_share_one_over_the_same_examples() -> None:
    recipe = parse(steps(again=judging("rows", split="validation")))
    assert [step.inputs["floor"] for step in recipe.steps.values() if step.stage.name == "evaluate"] == [("floor",)] * 2
    assert [name for name, step in recipe.steps.items() if step.stage.name == "floor"] == ["floor"]


def test_over_other_examples_each_has_its_own() -> None:
    recipe = parse(steps(more=steps()["rows"], again=judging("more")))
    assert recipe.steps["again"].inputs["floor"] == ("floor_more",) and recipe.steps["judged"].inputs["floor"] == ("floor",)
    assert recipe.steps["floor_more"].inputs == {"examples": ("more",)}


def test_a_step_of_that_name_is_not_taken_for_it_unless_it_is_one() -> None:
    recipe = parse(steps(floor={"stage": "predict", "inputs": {"model": "teacher", "examples": "rows"}}))
    assert recipe.steps["judged"].inputs["floor"] == ("floor_rows",)
    taken = {"floor": steps()["teacher"], "floor_rows": steps()["teacher"]}
    assert parse(steps(**taken)).steps["judged"].inputs["floor"] == ("floor_rows_2",)


def test_one_that_is_written_down_is_taken_wherever_it_stands() -> None:
    own = {"stage": "floor", "inputs": {"examples": "rows"}, "resources": {"cpus": 2}}
    recipe = parse(steps(cheap=own))
    assert recipe.steps["judged"].inputs["floor"] == ("cheap",) and "floor" not in recipe.steps
    assert list(recipe.steps).index("cheap") < list(recipe.steps).index("judged")
    other, judged = own | {"inputs": {"examples": "more"}}, judging("rows", inputs={"floor": "cheap"})
    named = parse(steps(more=steps()["rows"], cheap=other, judged=judged))
    assert named.steps["judged"].inputs["floor"] == ("cheap",) and "floor" not in named.steps


@pytest.mark.parametrize(
    ("tree", "judged", "there"),
    [
        ({}, {}, True),
        ({"floor": True}, {}, True),
        ({"floor": False}, {}, False),
        ({}, {"floor": False}, False),
        ({"floor": True}, {"floor": False}, False),
        ({"floor": False}, {"floor": True}, True),
    ],
)
def test_it_is_left_out_by_a_key_of_the_recipe_or_of_the_step(tree: Any, judged: Any, there: bool) -> None:
    recipe = parse(steps(judged=judging("rows", **judged)), **tree)
    assert ("floor" in recipe.steps, "floor" in recipe.steps["judged"].inputs) == (there, there)
    assert not recipe.not_implied, "who has said it need not be told"


def test_what_is_wrong_with_the_key_is_told() -> None:
    assert told(steps(judged=judging("rows", floor="no")), floor=0) == [
        "floor = 0: it is true or false. Write floor: false, or leave it out.",
        "steps.judged.floor = 'no': it is true or false. Write floor: false, or leave it out.",
    ]
    (said,) = told(steps(teacher=steps()["teacher"] | {"floor": False}))
    assert said.startswith("steps.teacher.floor = False: this step judges nothing. Give it to an evaluate step")
    (said,) = told(steps(judged=judging("rows", floor=False, inputs={"floor": "teacher"})))
    assert said.endswith("teacher is named as its floor. Leave out one of the two: floor: false, or inputs.floor.")
    (said,) = told(steps(judged=judging("rows", inputs={"floor": "nothing"})))
    assert said.startswith("steps.judged.inputs.floor = 'nothing': no step has this name")


def test_rows_without_labels_to_learn_from_have_none() -> None:
    gold = steps()["rows"] | {"source": {"test": "gold.csv"}}
    recipe = parse(steps(gold=gold, again=judging("gold")))
    assert recipe.not_implied == ("again has no floor: gold has no labelled rows to learn from",)
    assert "floor" not in recipe.steps["again"].inputs and "floor" in recipe.steps["judged"].inputs
    raw = gold | {"source": {"unlabelled": "raw.txt", "test": "gold.csv"}}
    assert parse(steps(rows=raw)).not_implied == ("judged has no floor: rows has no labelled rows to learn from",)
    by_column = gold | {"split": {"by": "part"}}
    assert parse(steps(rows=by_column)).not_implied == (), "only the data says it"


def test_a_kind_whose_outputs_have_no_one_width_has_none(tmp_path_factory: pytest.TempPathFactory) -> None:
    recipe = parse(steps(), floor=False)
    with installed(tmp_path_factory.mktemp("installed")):
        task = learning_of("stars").Settings.model_validate({"kind": "stars"})
        config = recipe.steps["rows"].config.model_copy(update={"task": task})
        of_stars: Any = SimpleNamespace(config=config, inputs={})
        reason = no_floor(recipe.steps["judged"], {**recipe.steps, "rows": of_stars})
    assert reason is not None and reason.startswith("of stars, what its model gives is not one row of numbers for each text")


def test_the_plan_shows_it_and_says_where_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "gold"):
        (tmp_path / f"{name}.csv").write_text(
            "\n".join(["text,label", *(f"{name} {number},{number % 2}" for number in range(40))])
        )
    rows = steps()["rows"] | {"source": str(tmp_path / "a.csv")}
    gold = rows | {"source": {"test": str(tmp_path / "gold.csv")}}
    file = tmp_path / "tiny.yaml"
    tree = {"name": "tiny", "steps": steps(rows=rows, gold=gold, again=judging("gold"))}
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    given = Namespace(recipe=str(file), overrides=[], storage=str(tmp_path / "runs"), cluster=None, prices=None)
    try:
        assert print_plan(given) == 0
    finally:
        ray.shutdown()  # It asks the cluster that other tests run, where there is one.
    lines = capsys.readouterr().out.splitlines()
    planned = [line.split() for line in lines[1:8]]
    assert [line[:3] for line in planned][:2] == [["rows", "prepare", "run"], ["floor", "floor", "run"]]
    assert "again has no floor: gold has no labelled rows to learn from" in lines


def test_a_floor_of_another_task_is_refused() -> None:
    other = steps()["rows"] | {"task": {"kind": "multi_label"}, "source": "b.csv"}
    cheap = {"stage": "floor", "inputs": {"examples": "other"}}
    recipe = parse(steps(other=other, cheap=cheap, judged=judging("rows", inputs={"floor": "cheap"})))
    (problem,) = parent_problems(recipe, ["judged"])
    assert problem.path == "steps.judged.inputs.floor" and "it answers multi_label of text" in problem.reason
