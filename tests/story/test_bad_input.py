"""What a user gets wrong is told before any step has run, all at once, with exit code 2 and nothing lost."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.connection.connect import Cluster
from tests.story.running import ROOT
from tests.story.tiny_world import recipe, write_recipe, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    directory = tmp_path_factory.mktemp("bad")
    return directory, write_world(directory)


def run(file: str, storage: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The pipeline in a plain process; it reaches the test's cluster through the environment."""
    command = [sys.executable, "-m", "jobs.pipeline", file, *arguments, "--storage", storage]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ), timeout=120)


def refused(tree: dict[str, Any], directory: Path, storage: str | None = None) -> str:
    """Run a bad recipe, assert that it was refused before any step, return what was said."""
    done = run(write_recipe(directory / "bad.yaml", tree), storage or str(directory / "runs"))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "submitted" not in done.stdout
    return done.stderr


def test_errors_of_the_outside_come_all_at_once(ray_cluster: Cluster, world: tuple[Path, dict[str, str]]) -> None:
    directory, paths = world
    empty, weightless, unseen = directory / "empty.txt", directory / "weightless", directory / "unseen.csv"
    empty.write_text("")
    weightless.mkdir()
    (weightless / "config.json").write_text("{}")
    unseen.write_text("body,kind\nhello there,ham\nwin money,advert\n")
    tree = recipe(
        paths,
        corpus={"source": str(empty)},
        messages={"source": {"train": paths["messages"], "test": str(unseen)}},
        teacher={"model": str(weightless)},
        undistilled={"resources": {"gpus": 1}},
    )
    tree["steps"]["more"] = recipe(paths)["steps"]["messages"] | {"text": "bodi"}
    tree["steps"]["absent"] = recipe(paths)["steps"]["corpus"] | {"source": str(directory / "absent.txt")}
    said = refused(tree, directory)
    assert "6 problem(s)" in said
    for words in (
        "steps.corpus.source",
        "it has no rows",
        "'advert': this label is not in the training set",
        "has no weights (model.safetensors)",
        "a worker asks for 1 GPU, and no node has any",
        "steps.more.text = 'bodi'",
        "Did you mean body?",
        "no such file or directory",
    ):
        assert words in said, (words, said)


def test_errors_inside_the_recipe_come_all_at_once(world: tuple[Path, dict[str, str]]) -> None:
    directory, paths = world
    tree = recipe(paths, student={"temprature": 3, "alpha": 1.5}, base={"inputs": {"tokens": "corpse"}})
    tree["steps"]["corpus"]["tokenizer"]["vocab_size"] = "many"
    said = refused(tree, directory)
    assert "4 problem(s)" in said
    for words in (
        "Did you mean temperature?",
        "steps.student.alpha = 1.5",
        "Did you mean corpus?",
        "steps.corpus.tokenizer.vocab_size",
    ):
        assert words in said, (words, said)


def test_storage_that_cannot_be_written(ray_cluster: Cluster, world: tuple[Path, dict[str, str]]) -> None:
    directory, paths = world
    (directory / "file").write_text("a file, not a directory")
    said = refused(recipe(paths), directory, str(directory / "file" / "runs"))
    assert "--storage" in said
    assert "could not write" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent.yaml"], "no such recipe file"),
        (["jobs/recipes/spam.yaml", "steps.x"], "an override is written key=value"),
        (["jobs/recipes/spam.yaml", "--events", "/absent/e"], "--events = '/absent/e': it cannot be written (No such file"),
        (["jobs/recipes/spam.yaml", "--events", "/dev/full"], "--events = '/dev/full': it cannot be written (No space left"),
        (["jobs/recipes/spam.yaml", "--events", "e", "--plan"], "--events: a plan runs nothing"),
    ],
)
def test_a_wrong_command_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = run(arguments[0], str(tmp_path), *arguments[1:])
    assert done.returncode == 2
    assert words in done.stderr
