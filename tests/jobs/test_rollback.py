"""Which version a rollback goes back to, by the registry's history and by what Serve was last told."""

from pathlib import Path
from typing import Any

import pytest

from cluster.store.registry import Alias, RegistryError, move, read
from jobs.deploying.rollback import version_before


def entry(threads: int) -> dict[str, Any]:
    return {"name": "spam", "route_prefix": "/", "args": {"model": "/runs/small", "threads": threads}}


def deployed(storage: Path, *configs: dict[str, Any] | None) -> Alias:
    """An alias that was moved to the same model with each of these configs."""
    for config in configs:
        move(str(storage), "spam/production", "/runs/small", "f" * 64, "int8", config)
    return read(str(storage), "spam/production")


def test_another_config_of_the_same_model_is_another_version(tmp_path: Path) -> None:
    alias = deployed(tmp_path, entry(1), entry(1), entry(2), entry(1))
    assert [target.config for target in alias.history] == [entry(1), entry(2), entry(1)]


def test_a_second_rollback_undoes_the_first(tmp_path: Path) -> None:
    alias = deployed(tmp_path, entry(1), entry(2), entry(3))
    running = alias.target.config
    seen = []
    for _ in range(3):
        assert running is not None
        running = version_before(alias, {**running, "runtime_env": {"working_dir": "gcs://code.zip"}}).config
        assert running is not None
        seen.append(running["args"]["threads"])
        alias = deployed(tmp_path, running)
    assert seen == [2, 3, 2]


def test_a_version_that_never_started_is_left_for_the_newest_that_did(tmp_path: Path) -> None:
    alias = deployed(tmp_path, entry(1), entry(2))
    assert version_before(alias, entry(99)).config == entry(2)
    assert version_before(alias, None).config == entry(1), "nothing is deployed, so the newest is what went wrong"


@pytest.mark.parametrize(
    ("configs", "words"),
    [([entry(1)], "one version alone"), ([None, entry(1)], "version 1, /runs/small, was deployed without")],
)
def test_where_there_is_nothing_to_go_back_to(tmp_path: Path, configs: list[dict[str, Any] | None], words: str) -> None:
    alias = deployed(tmp_path, *configs)
    with pytest.raises(RegistryError, match=words):
        version_before(alias, alias.target.config)
