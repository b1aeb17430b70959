"""Old names of modules that scripts import: the same modules, with a note. In processes of their own, as a script is one."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("script", "new"),
    [
        ("from cluster import embedded as old", "cluster.connection.embedded"),
        ("import cluster.storage as old", "cluster.store.storage"),
        ("import serve.engine as old", "serve.engines.engine"),
        ("import importlib; old = importlib.import_module('serve.card')", "serve.engines.card"),
    ],
)
def test_an_old_name_is_the_same_module_and_says_so(script: str, new: str) -> None:
    told = f"{script}; import sys, {new}; same = old is sys.modules['{new}']; print(same, old.__spec__.name, old.__name__)"
    ran = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["True", new, new]
    assert f"is {new} now; the old name goes with the next version" in ran.stderr


def test_a_name_that_never_was_is_no_module() -> None:
    ran = subprocess.run([sys.executable, "-c", "import cluster.never"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and "No module named 'cluster.never'" in ran.stderr
