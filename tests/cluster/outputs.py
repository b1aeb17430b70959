"""Outputs of steps for tests of what lies in a storage: small artifacts with parents and further outputs."""

import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cluster.store.artifact import OTHERS, Artifact, Kind, other_place, publish
from cluster.store.storage import join

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=365)


def put(
    storage: str,
    step: str,
    identity: str,
    contents: Iterable[str],
    parents: Iterable[Artifact] = (),
    recipe: str = "spam",
    created: datetime = LONG_AGO,
    details: Mapping[str, str] | None = None,
) -> list[Artifact]:
    """A step's outputs, one for each content, published as steps do: the further ones first; returned with the best first."""
    first, *further = contents
    uri = join(storage, recipe, f"{step}-{identity * 8}")
    made = [_publish(other_place(uri, n), f"{step}-{n}", text, parents, created, {}) for n, text in enumerate(further, 2)]
    told: dict[str, str | int] = {**(details or {}), **({OTHERS: len(made)} if made else {})}
    return [_publish(uri, step, first, parents, created, told), *made]


def _publish(
    uri: str, step: str, text: str, parents: Iterable[Artifact], created: datetime, details: Mapping[str, str | int]
) -> Artifact:
    record = {
        "kind": Kind.MODEL,
        "step": step,
        "stage": "finetune",
        "stage_version": 1,
        "config": {},
        "parents": {"models": [parent.as_parent() for parent in parents]},
        "details": dict(details),
        "seconds": 1.0,
        "created": created,
    }
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "model.bin").write_text(text)
        return publish(Path(directory), uri, record)
