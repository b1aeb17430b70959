"""Recipes: what is right is read, everything that is wrong is told at once. `pytest tests/jobs/test_recipe.py`"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.core.config import BadInput, Problem
from jobs.core.recipe import Recipe, load_recipe, parse_recipe

ROOT = Path(__file__).parents[2]
SPAM = str(ROOT / "jobs" / "recipes" / "spam.yaml")


def good_steps() -> dict[str, Any]:
    """A short recipe without errors, for tests to break."""
    return {
        "rows": {"stage": "prepare", "source": "a.csv", "task": {"kind": "classification"}},
        "teacher": {"stage": "finetune", "model": "sample:minilm_l6", "inputs": {"examples": "rows"}},
        "soft": {"stage": "predict", "inputs": {"model": "teacher", "examples": "rows"}},
        "student": {"stage": "distill", "model": "./base", "inputs": {"examples": "rows", "teacher": "soft"}},
    }


def parse(steps: dict[str, Any], name: Any = "tiny") -> Recipe:
    return parse_recipe({"name": name, "steps": steps})


def problems(steps: dict[str, Any], **tree: Any) -> dict[str, Problem]:
    with pytest.raises(BadInput) as caught:
        parse_recipe({"name": "tiny", "steps": steps, **tree})
    found = caught.value.problems
    assert all(problem.reason and problem.remedy for problem in found)
    assert len({problem.path for problem in found}) == len(found), f"told twice: {caught.value}"
    return {problem.path: problem for problem in found}


@pytest.mark.parametrize("path", sorted((ROOT / "jobs" / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_recipe_is_right(path: Path) -> None:
    recipe = load_recipe(str(path))
    seen: set[str] = set()
    for step in recipe.steps.values():
        assert {parent for names in step.inputs.values() for parent in names} <= seen, f"{step.name} comes before its inputs"
        json.dumps(step.resolved())
        seen.add(step.name)


@pytest.mark.parametrize("name", ["registry", "others", ".runs", ".aliases", "-x", "", "a/b", "..", "Spam", "spam\n", None, 7])
def test_a_name_that_storages_keep_or_that_is_none_is_told(name: Any) -> None:
    (problem,) = problems(good_steps(), name=name).values()
    rule = "a recipe's name is lower-case letters, digits, - and _, and does not begin with -"
    kept = "storages keep this name for themselves"
    assert (problem.path, problem.reason) == ("name", kept if name in ("registry", "others") else rule)


def test_a_name_that_storages_keep_ends_a_job_with_2(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps({"name": "registry", "steps": good_steps()}))
    command = [sys.executable, "-m", "jobs.prepare", str(file), "--storage", str(tmp_path / "runs")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 2 and "name = 'registry': storages keep this name for themselves. Give" in ran.stderr
    assert not (tmp_path / "runs").exists()


def test_a_step_s_name_is_no_option_of_a_command_line() -> None:
    assert list(problems(good_steps() | {"-x": good_steps()["rows"]})) == ["steps.-x"]


@pytest.mark.parametrize("name", ["_x", "2024", "registry_2", "my-others", "x-"])
def test_names_that_a_recipe_may_have(name: str) -> None:
    assert parse(good_steps(), name).name == name


def test_everything_wrong_with_a_recipe_is_told_at_once() -> None:
    found = problems(
        {
            "rows": {"stage": "prepare", "source": "a.csv", "task": {"kind": "classification"}, "clean": {"strip_tag": True}},
            "teacher": {"stage": "finetune", "model": "m", "inputs": {"examples": "rows"}, "epochs": "many"},
            "soft": {"stage": "predict", "inputs": {"model": "teacher", "examples": "rows"}, "batch_size": 0},
            "student": {
                "stage": "distill",
                "inputs": {"examples": "rows", "techer": "soft", "init": "teachr"},
                "temperature": {"loguniform": [1, 800]},
                "alpha": {"uniform": [0.9, 0.1]},
            },
            "small": {"stage": "compress", "inputs": {"model": "soft", "examples": "rows"}, "resources": {"gpu": 1}},
            "slow": {"stage": "predict", "inputs": {"model": "teacher", "examples": "rows"}, "batch_size": {"choice": [1, 2]}},
            "tuned": {"stage": "finetune", "model": "m", "inputs": {"examples": "rows"}, "tune": {"trials": 2}},
            "odd": {"stage": "fintune", "inputs": {"examples": "rows"}},
        },
        nmae="x",
    )
    expected = {
        "nmae": ("no such key in a recipe", "Did you mean name?"),
        "steps.rows.clean.strip_tag": ("no such key", "Did you mean strip_tags?"),
        "steps.teacher.epochs": ("valid number", ""),
        "steps.soft.batch_size": ("greater than or equal to 1", ""),
        "steps.student.alpha": ("lower first", "[low, high]"),
        "steps.student.inputs.teacher": ("needs this input", "predictions"),
        "steps.student.inputs.techer": ("no such input", "Did you mean teacher?"),
        "steps.student.inputs.init": ("no step has this name", "Did you mean teacher?"),
        "steps.small.inputs.model": ("makes predictions, this input takes model", ""),
        "steps.small.resources.gpu": ("no such key", "Did you mean gpus?"),
        "steps.slow": ("no score", "single values"),
        "steps.tuned.tune": ("no search space", ""),
        "steps.odd.stage": ("no such stage", "Did you mean finetune?"),
    }
    assert found.keys() == expected.keys()
    for path, (reason, remedy) in expected.items():
        assert reason in found[path].reason and remedy in found[path].remedy, found[path]
    assert "'many'" in str(found["steps.teacher.epochs"]), "the value that is wrong is shown"


def test_the_bound_of_a_search_space_must_be_a_value_that_the_key_takes() -> None:
    steps = good_steps()
    steps["student"] |= {"temperature": {"loguniform": [1, 800]}, "optimizer": {"learning_rate": {"choice": [1e-4, "fast"]}}}
    found = problems(steps)
    assert found.keys() == {"steps.student.temperature", "steps.student.optimizer.learning_rate"}
    assert found["steps.student.temperature"].value == 800
    assert found["steps.student.optimizer.learning_rate"].value == "fast"


@pytest.mark.parametrize(
    ("space", "reason"),
    [
        ({"uniform": [3]}, "two numbers"),
        ({"loguniform": [0, 3]}, "above 0"),
        ({"randint": [1.5, 3]}, "whole numbers"),
        ({"choice": []}, "no values"),
        ({"uniform": ["1", "2"]}, "two numbers"),
    ],
)
def test_a_search_space_that_is_none(space: dict[str, Any], reason: str) -> None:
    steps = good_steps()
    steps["student"]["temperature"] = space
    assert reason in problems(steps)["steps.student.temperature"].reason


@pytest.mark.parametrize("wrong", ["soft", "rows"])
def test_an_input_of_the_wrong_kind_is_told_also_of_a_step_without_settings(wrong: str) -> None:
    steps = good_steps()
    steps["student"]["inputs"] = {"examples": "soft" if wrong == "soft" else "rows", "teacher": wrong}
    found = problems(steps)
    path = "steps.student.inputs.examples" if wrong == "soft" else "steps.student.inputs.teacher"
    assert found.keys() == {path}
    assert "this input takes" in found[path].reason


def test_steps_that_wait_for_each_other_are_told_with_the_other_errors() -> None:
    steps = good_steps()
    steps["teacher"] = {"stage": "finetune", "inputs": {"examples": "rows", "init": "student"}, "epochs": -1}
    found = problems(steps)
    assert found.keys() == {"steps.teacher.epochs", "steps"}
    assert set(str(found["steps"].value).split(" → ")) == {"teacher", "soft", "student"}


def test_several_workers_and_a_search_do_not_go_together() -> None:
    steps = good_steps()
    steps["student"] |= {"temperature": {"uniform": [1, 8]}, "resources": {"workers": 2}}
    assert problems(steps).keys() == {"steps.student.resources.workers"}


def test_rules_over_several_keys_name_the_place() -> None:
    steps = good_steps()
    steps["rows"]["split"] = {"validation": 0.6, "test": 0.5}
    steps["rows"]["tokenizer"] = {"train": "bpe", "model": "sample:minilm_l6"}
    found = problems(steps)
    assert "nothing to train on" in found["steps.rows.split"].reason
    assert "either train or model" in found["steps.rows.tokenizer"].reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [("a: [1", "not YAML"), ("just text", "mapping with name and steps"), ("name: x", "needs steps"), ("", "mapping")],
)
def test_files_that_are_no_recipe(tmp_path: Path, content: str, reason: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(BadInput, match=reason):
        load_recipe(str(file))
    with pytest.raises(BadInput, match="no such recipe file"):
        load_recipe(str(tmp_path / "none.yaml"))


def test_overrides_replace_single_values_and_are_checked_like_the_file() -> None:
    plain = load_recipe(SPAM)
    changed = load_recipe(
        SPAM, ["steps.student.temperature=4", "steps.base.model.layers=2", "steps.teacher.optimizer.name=adam"]
    )
    student, base, teacher = (changed.steps[name] for name in ("student", "base", "teacher"))
    assert "temperature" not in student.spaces and student.resolved()["temperature"] == 4
    assert base.resolved()["model"] == plain.steps["base"].resolved()["model"] | {"layers": 2}
    assert teacher.resolved()["optimizer"]["name"] == "adam"
    assert teacher.spaces == plain.steps["teacher"].spaces, "the search space beside it stays"
    with pytest.raises(BadInput, match=r"steps\.student\.temperatur = 4: no such key\. Did you mean temperature\?"):
        load_recipe(SPAM, ["steps.student.temperatur=4"])
    with pytest.raises(BadInput, match="key=value"):
        load_recipe(SPAM, ["temperature"])


def test_order_is_the_recipes_own_but_after_inputs() -> None:
    steps = good_steps()
    order = ["soft", "rows", "other", "student", "teacher"]
    steps["other"] = {"stage": "prepare", "source": "b.csv", "task": {"kind": "classification"}}
    assert list(parse({name: steps[name] for name in order}).steps) == ["rows", "other", "teacher", "soft", "student"]


def test_resolved_holds_defaults_and_spaces_but_nothing_of_the_hardware() -> None:
    steps = good_steps()
    steps["student"] |= {"temperature": {"loguniform": [1, 8]}, "tune": {"trials": 2, "max_concurrent": 1}}
    steps["student"]["resources"] = {"gpus": 1}
    resolved = parse(steps).steps["student"].resolved()
    assert resolved["temperature"] == {"loguniform": [1, 8]}
    assert resolved["alpha"] == 0.9 and resolved["optimizer"]["weight_decay"] == 0.01
    assert resolved["tune"]["trials"] == 2 and "max_concurrent" not in resolved["tune"]
    assert "resources" not in resolved and "inputs" not in resolved
    assert "tune" not in parse(good_steps()).steps["student"].resolved()
