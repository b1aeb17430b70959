"""A kind of task that is judged by errors: how many stars a text gives. No labels, no probabilities.

with installed(tmp_path): …          # as a package with an entry point would be
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = "stars"


def write_entry_point(place: Path) -> Path:
    """What installing the package would leave: a directory for sys.path, or PYTHONPATH, by which the kind is found."""
    record = place / "stars-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: stars\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text(f"[raystill.tasks]\n{NAME} = {__name__}\n")
    return place


@contextmanager
def installed(place: Path) -> Iterator[None]:
    """The kind is there in this process, and gone afterwards."""
    sys.path.insert(0, str(write_entry_point(place)))
    forget()
    try:
        yield
    finally:
        sys.path.remove(str(place))
        forget()


def forget() -> None:
    """Kinds are looked for again."""
    import jobs.tasks
    import serve.tasks

    importlib.invalidate_caches()
    for known in (serve.tasks.kinds, serve.tasks.task_type, jobs.tasks.learning_of, jobs.tasks.usual_kind):
        known.cache_clear()
