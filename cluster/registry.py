"""The registry: names that people use (`spam/production`) for artifacts, moved and never copied.

move(storage, "spam/winner", target)     # the one before stays in the history
read(storage, "spam/winner").uri
"""

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from cluster.storage import exists, join, read_bytes, write_bytes


class RegistryError(Exception):
    """An alias is not there; the message names it."""


class Target(BaseModel):
    """What an alias points at: one variant of one published model."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    uri: str
    fingerprint: str
    variant: str
    moved: datetime


class Alias(BaseModel):
    """A name and everything that it has pointed at, the newest last."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    history: tuple[Target, ...]

    @property
    def target(self) -> Target:
        return self.history[-1]


def move(storage: str, name: str, uri: str, fingerprint: str, variant: str) -> Alias:
    """Point an alias at a model; nothing is written if it points there already."""
    before = read(storage, name) if exists(_place(storage, name)) else None
    if before is not None and (before.target.fingerprint, before.target.variant) == (fingerprint, variant):
        return before
    target = Target(uri=uri, fingerprint=fingerprint, variant=variant, moved=datetime.now(UTC))
    alias = Alias(name=name, history=(*(before.history if before else ()), target))
    write_bytes(_place(storage, name), alias.model_dump_json(indent=1).encode())
    return alias


def read(storage: str, name: str) -> Alias:
    """The alias of that name; RegistryError if it was never set."""
    if not exists(_place(storage, name)):
        raise RegistryError(f"{storage} has no alias {name}; select or deploy sets it")
    return Alias.model_validate_json(read_bytes(_place(storage, name)))


def _place(storage: str, name: str) -> str:
    return join(storage, "registry", f"{name}.json")
