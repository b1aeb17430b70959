"""A recipe that extends another one, and secrets that may be in neither."""

from pathlib import Path

import pytest

from jobs.core.config import BadInput
from jobs.core.recipe_file import merge, read_tree

BASE = """
name: base
steps:
  rows: {stage: prepare, source: data/*.csv, task: {kind: classification, text: text, label: label}}
  model:
    stage: finetune
    inputs: {examples: rows}
    optimizer: {learning_rate: {loguniform: [1.0e-5, 1.0e-3]}, weight_decay: 0.1}
    tune: {trials: 4}
"""


@pytest.fixture
def write(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path


def read(directory: Path, text: str, *overrides: str) -> dict[str, object]:
    (directory / "own.yaml").write_text(text)
    return read_tree(str(directory / "own.yaml"), overrides)


def test_mappings_go_into_one_another_and_null_takes_away() -> None:
    before = {"a": {"b": 1, "c": [1, 2]}, "d": 4, "lr": {"loguniform": [1, 2]}}
    changed = merge(before, {"a": {"c": [3]}, "d": None, "lr": {"uniform": [0, 1]}})
    assert changed == {"a": {"b": 1, "c": [3]}, "lr": {"uniform": [0, 1]}}
    assert before["d"] == 4


def test_a_recipe_extends_the_one_beside_it_and_the_command_line_comes_last(write: Path) -> None:
    text = "extends: base.yaml\nname: own\nsteps: {model: {optimizer: {weight_decay: 0.2}, epochs: 2}}"
    tree = read(write, text, "steps.model.epochs=3")
    assert tree["name"] == "own"
    model = tree["steps"]["model"]  # type: ignore[index]
    assert model["optimizer"] == {"learning_rate": {"loguniform": [1.0e-5, 1.0e-3]}, "weight_decay": 0.2}
    assert (model["epochs"], model["tune"]) == (3, {"trials": 4})
    # The last search space is gone, and so is the search.
    searched = read(write, text, "steps.model.optimizer.learning_rate=0.001")
    assert "tune" not in searched["steps"]["model"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("extends: none.yaml", "no such recipe file"),
        ("extends: own.yaml", "these recipes extend each other"),
        ("extends: [base.yaml]", "it names one recipe file"),
    ],
)
def test_what_cannot_be_extended_is_told(write: Path, text: str, told: str) -> None:
    with pytest.raises(BadInput, match=told) as caught:
        read(write, text)
    assert "own.yaml: extends" in str(caught.value)


def test_a_secret_in_a_recipe_or_an_override_is_refused_and_not_repeated(write: Path) -> None:
    for text, overrides, place in (
        ("extends: base.yaml\nsteps: {rows: {source: 's3://key:hunter2hunter2@bucket/x.csv'}}", [], "steps.rows.source"),
        ("extends: base.yaml\ntracking: {wandb: {api_key: hunter2hunter2}}", [], "tracking.wandb.api_key"),
        ("extends: base.yaml", ["tracking.wandb.api_key=hunter2hunter2"], "tracking.wandb.api_key"),
    ):
        with pytest.raises(BadInput, match="credentials come from the environment") as caught:
            read(write, text, *overrides)
        assert [problem.path for problem in caught.value.problems] == [place]
        assert "hunter2" not in str(caught.value)
