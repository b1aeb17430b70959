"""The registry: names that people use (`spam/production`) for artifacts, moved and never copied; and the verdicts on them.

move(storage, "spam/winner", uri, fingerprint, variant)     # the one before stays in the history
read(storage, "spam/winner").target.uri
record_verdict(storage, "spam/winner", {"winner": None, "verdicts": […]})     # returns where it lies
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from cluster.artifact import digest
from cluster.storage import exists, join, list_files, read_bytes, write_bytes


class RegistryError(Exception):
    """An alias is not there; the message names it."""


class Target(BaseModel):
    """What an alias points at: one variant of one published model."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    uri: str
    fingerprint: str
    variant: str
    moved: datetime
    config: dict[str, Any] | None = None
    """Of a deployment: the application's entry in a Serve config, without where its code lies."""


class Alias(BaseModel):
    """A name and everything that it has pointed at, the newest last."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    history: tuple[Target, ...]

    @property
    def target(self) -> Target:
        return self.history[-1]


def has_alias(storage: str, name: str) -> bool:
    """Whether an alias of that name was ever set."""
    return exists(_place(storage, name))


def move(storage: str, name: str, uri: str, fingerprint: str, variant: str, config: Mapping[str, Any] | None = None) -> Alias:
    """Point an alias at a model and how it is served; nothing is written if it points there already."""
    before = read(storage, name) if has_alias(storage, name) else None
    wanted = None if config is None else dict(config)
    if before is not None:
        now = before.target
        if (now.fingerprint, now.variant, now.config) == (fingerprint, variant, wanted):
            return before
    target = Target(uri=uri, fingerprint=fingerprint, variant=variant, moved=datetime.now(UTC), config=wanted)
    alias = Alias(name=name, history=(*(before.history if before else ()), target))
    write_bytes(_place(storage, name), alias.model_dump_json(indent=1).encode())
    return alias


def read(storage: str, name: str) -> Alias:
    """The alias of that name; RegistryError if it was never set."""
    if not has_alias(storage, name):
        raise RegistryError(f"{storage} has no alias {name}; select or deploy sets it")
    return Alias.model_validate_json(read_bytes(_place(storage, name)))


def record_verdict(storage: str, name: str, verdict: Mapping[str, Any]) -> str:
    """Keep why an alias moves or stays, under the time and the verdict's content; the same verdict again is not written twice.

    Returns the URI of the file.
    """
    end = f"-{digest(dict(verdict))[:12]}.json"
    directory = join(storage, "registry", name, "verdicts")
    known = [stat.path for stat in list_files(directory) if stat.path.endswith(end)] if exists(directory) else []
    if known:
        return join(directory, max(known))
    now = datetime.now(UTC)
    place = join(directory, f"{now:%Y%m%dT%H%M%S%f}{end}")
    content = {"alias": name, "moved": verdict.get("winner") is not None, "decided": now.isoformat(), **verdict}
    write_bytes(place, json.dumps(content, ensure_ascii=False, indent=1).encode())
    return place


def verdicts(storage: str, name: str) -> list[dict[str, Any]]:
    """Every verdict on an alias, the oldest first."""
    directory = join(storage, "registry", name, "verdicts")
    if not exists(directory):
        return []
    return [json.loads(read_bytes(join(directory, path))) for path in sorted(stat.path for stat in list_files(directory))]


def _place(storage: str, name: str) -> str:
    return join(storage, "registry", f"{name}.json")
