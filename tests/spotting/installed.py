"""The kind of task of raystill_spotting, as pip would install it: it lives in tests alone, and is found by its entry point.

with seen(installed(directory)):                   # by this process, and by all that it starts
    task_type("spotting")
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.tasks import learning_of, usual_kind
from serve.tasks import GROUP, kinds, task_type

PACKAGE = Path(__file__).with_name("raystill_spotting")
KIND = "spotting"


def installed(directory: Path) -> Path:
    """The directory, with the package and what says how it is found."""
    shutil.copytree(PACKAGE, directory / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    about = directory / f"{PACKAGE.name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE.name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{GROUP}]\n{KIND} = {PACKAGE.name}\n")
    return directory


@contextmanager
def seen(directory: Path) -> Iterator[None]:
    """What is installed there is found, here and in processes that are started meanwhile."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(directory), before]))
    sys.path.insert(0, str(directory))
    _forget()
    try:
        yield
    finally:
        sys.path.remove(str(directory))
        os.environ.pop("PYTHONPATH")
        os.environ.update({} if before is None else {"PYTHONPATH": before})
        _forget()


def _forget() -> None:
    """Which kinds there are is looked up once a process."""
    for looked_up in (kinds, task_type, learning_of, usual_kind):
        looked_up.cache_clear()
