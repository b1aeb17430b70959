"""--plan: what would run, where and for how much, with no cluster running."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.fleet.placement import Supply, place
from jobs.core.recipe import load_recipe
from jobs.running.sizing import model_shape, recipe_demands
from tests.jobs.test_training_memory import BASE

ROOT = Path(__file__).parents[2]
SPAM = "jobs/recipes/spam.yaml"


def plan(*arguments: str, storage: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "jobs.pipeline", SPAM, *arguments, "--plan", "--storage", str(storage)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> str:
    ran = plan("--cluster", "cluster.yaml", "steps.student.temperature=4", storage=tmp_path_factory.mktemp("storage"))
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_every_step_has_a_row_with_what_it_asks_and_starts(planned: str) -> None:
    rows = {line.split()[0]: line for line in planned.splitlines() if line.strip()}
    assert set(load_recipe(SPAM).steps) <= set(rows)
    assert "4 of 4" in rows["teacher"]
    assert "1 cpu" in rows["teacher"]
    assert "2 × 1 CPU, about" in rows["base"]
    assert "never run" in rows["corpus"]
    assert "new parent corpus" in rows["base"]
    assert "may grow  4 × cpu (m7i.4xlarge): 16 CPU, 64.0 GiB" in planned
    assert "costs at the most" in planned


def test_the_last_line_is_the_command_that_does_it(planned: str) -> None:
    words = shlex.split(planned.splitlines()[-1])
    assert words[:8] == ["ray", "job", "submit", "--working-dir", ".", "--", "python", "-m"]
    assert words[8:11] == ["jobs.pipeline", SPAM, "steps.student.temperature=4"]
    assert "--plan" not in words
    assert "--cluster" not in words


def test_a_step_that_can_never_be_placed_is_refused_before_anything_runs(tmp_path: Path) -> None:
    recipe = (ROOT / SPAM).read_text().replace("resources: {workers: 2}", "resources: {workers: 2, gpus: 8}", 1)
    (tmp_path / "large.yaml").write_text(recipe)
    command = [sys.executable, "-m", "jobs.pipeline", str(tmp_path / "large.yaml"), "--plan", "--cluster", "cluster.yaml"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 2
    assert "steps.base.resources: a worker asks for 8 GPU, and the largest node, gpu" in ran.stderr
    assert "ray job submit" not in ran.stdout


def test_the_clouds_recipe_is_the_laptops_but_for_a_few_keys_and_can_be_placed(tmp_path: Path) -> None:
    laptop, cloud = load_recipe(SPAM), load_recipe("jobs/recipes/spam_cloud.yaml")
    assert [(step.name, step.stage.name, step.inputs) for step in cloud.steps.values()] == [
        (step.name, step.stage.name, step.inputs) for step in laptop.steps.values()
    ]
    command = [sys.executable, "-m", "jobs.pipeline", "jobs/recipes/spam_cloud.yaml", "--plan", "--storage", str(tmp_path)]
    for file in ("cluster.yaml", "cluster/kuberay/cluster.yaml"):
        ran = subprocess.run([*command, "--cluster", file], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert ran.returncode == 0, ran.stderr
        rows = {line.split()[0]: line for line in ran.stdout.splitlines() if line.strip()}
        assert "4 × 3 CPU, 1 GPU" in rows["base"]
        assert "6 of 8" in rows["teacher"]
        assert "4 gpu-spot, 2 gpu-on-demand" in rows["teacher"]


def test_models_are_sized_by_the_steps_that_make_them() -> None:
    recipe = load_recipe(SPAM)
    student, base = (model_shape(recipe, recipe.steps[name]) for name in ("student", "base"))
    assert student == base
    assert base is not None
    assert (base.layers, base.hidden, base.vocabulary, base.positions) == (3, 192, 8000, 64)
    shortened = recipe_demands(load_recipe(SPAM, ["steps.student.student={every: 2}"]))["student"]
    whole = recipe_demands(recipe)["student"]
    assert shortened.memory is not None
    assert whole.memory is not None
    assert shortened.memory < whole.memory


def test_a_named_model_on_a_gpu_takes_its_memory_there() -> None:
    changes = ["steps.teacher.model=google-bert/bert-base-uncased", "steps.teacher.resources={gpus: 1, cpus: 4}"]
    demand = recipe_demands(load_recipe(SPAM, changes))["teacher"]
    assert demand.gpu_memory is not None
    assert demand.gpu_memory > 16 * BASE.parameters
    assert place(demand, Supply(())).refused == "a worker asks for 4 CPU, and no node has any"
