"""Packages of kinds of tasks that are broken, or have a name that is taken: told of where they are asked for, in nobody's way.

`pytest tests/jobs/test_broken_kinds.py`
"""

import importlib
import json
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError, create_model

from jobs.core.config import Config, problems_of
from jobs.tasks.labelling import settings_type
from serve.engines.card import EngineError, read_card
from serve.tasks import GROUP, kinds, task_type
from tests.spotting.installed import KIND, installed, seen

MODULES = {
    "cannot_import": "import a_module_that_is_not_there",
    "cannot_run": "1 / 0",
    "has_nothing": "",
    "no_python": "def (",
}
OWN = tuple(kinds())
USUAL = next(iter(OWN))


def install(directory: Path, package: str, kind: str, content: str) -> None:
    """A package with this in both its halves, and its entry point."""
    importlib.invalidate_caches()
    (directory / package).mkdir()
    for name in ("__init__", "answer", "learn"):
        (directory / package / f"{name}.py").write_text("" if name == "__init__" else content + "\n")
    about = directory / f"{package}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{GROUP}]\n{kind} = {package}\n")


def recipe_config() -> type[BaseModel]:
    """What a step's config makes of `task`."""
    return create_model("Prepared", __base__=Config, task=(settings_type(), ...))


@pytest.mark.parametrize("package", MODULES)
def test_a_broken_package_is_told_of_where_its_kind_is_asked_for(package: str, tmp_path: Path) -> None:
    install(tmp_path, package, package, MODULES[package])
    card = {"task": {"kind": package}, "max_length": 8, "default": "torch", "parameters": 1}
    weights = {"backend": "torch", "file": "model.safetensors", "precision": "fp32"}
    (tmp_path / "raystill.json").write_text(json.dumps({**card, "variants": {"torch": weights}}))
    with seen(tmp_path):
        config = recipe_config()
        assert config.model_validate({"task": {"kind": USUAL, "label": "tag"}}).model_dump()["task"]["label"] == "tag"
        assert config.model_validate({"task": {"label": "tag"}}).model_dump()["task"]["kind"] == USUAL
        with pytest.raises(ValidationError) as caught:
            config.model_validate({"task": {"kind": package}})
        (problem,) = problems_of(caught.value, config, "steps.rows")
        assert problem.path == "steps.rows.task" and f"{package}.learn cannot be loaded" in problem.reason
        with pytest.raises(EngineError, match=f"the kind of task {package} is broken: {package}.answer cannot be loaded"):
            read_card(tmp_path)


def test_a_package_that_is_no_longer_there_is_told_of_too(tmp_path: Path) -> None:
    install(tmp_path, "taken_away", "taken_away", "")
    (tmp_path / "taken_away").rename(tmp_path / "elsewhere")
    with seen(tmp_path), pytest.raises(ValueError, match="taken_away is broken"):
        task_type("taken_away")


def test_a_kind_whose_name_is_taken_is_not_used_and_that_is_said(tmp_path: Path) -> None:
    install(tmp_path, "usurper", USUAL, MODULES["cannot_run"])
    with seen(tmp_path), pytest.warns(UserWarning, match="that of usurper is not used"):
        assert kinds()[USUAL] == f"serve.tasks.{USUAL}"
    with seen(tmp_path), pytest.warns(UserWarning, match="that of usurper is not used"):
        assert recipe_config().model_validate({"task": {"label": "tag"}}).model_dump()["task"]["kind"] == USUAL


def test_a_kind_that_is_not_there_is_told_of_in_one_sentence_with_those_that_are(tmp_path: Path) -> None:
    with seen(installed(tmp_path)):
        config = recipe_config()
        with pytest.raises(ValidationError) as caught:
            config.model_validate({"task": {"kind": "nothing_like_it"}})
        (problem,) = problems_of(caught.value, config, "")
        assert problem.reason == f"there is no such kind of task. Known here: {', '.join(sorted([*OWN, KIND]))}"
