"""The registry: names that people use (`spam/production`) for artifacts, moved and never copied; and the verdicts on them.

move(storage, "spam/winner", uri, fingerprint, variant)     # the one before stays in the history
read(storage, "spam/winner").target.uri
record_verdict(storage, "spam/winner", {"winner": None, "verdicts": […]})     # returns where it lies

Like all control files these lie under roots that begin with a dot, which no recipe's name does: {storage}/.aliases, .verdicts.
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from cluster.store.artifact import EARLIER_REGISTRY, digest
from cluster.store.storage import exists, join, list_files, read_bytes, write_bytes

ALIASES = ".aliases"
VERDICTS = ".verdicts"
EARLIER_VERDICT = re.compile(r"(?:.+/)?verdicts/\d{8}T\d{12}-[0-9a-f]{12}\.json")
"""Below the earlier registry, where verdicts lay among the aliases."""


class RegistryError(Exception):
    """An alias is not there, or it or a verdict cannot be read; the message names it."""


class AliasTarget(BaseModel):
    """What an alias points at: one variant of one published model."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    uri: str
    fingerprint: str
    variant: str
    moved: AwareDatetime
    config: dict[str, Any] | None = None
    """Of a deployment: the application's entry in a Serve config, without where its code lies."""
    judged_on: str | None = None
    """The kind of processor that it was judged on, such as vnni+bf16; None where the evaluation did not say it."""

    def models(self) -> list[tuple[str, str]]:
        """URI and fingerprint of each model that it needs: its own and those that its config names, such as a cascade's."""
        return [(self.uri, self.fingerprint), *_models(self.config)]


class Alias(BaseModel):
    """A name and everything that it has pointed at, the newest last."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    history: tuple[AliasTarget, ...] = Field(min_length=1)

    @property
    def target(self) -> AliasTarget:
        return self.history[-1]


def has_alias(storage: str, name: str) -> bool:
    """Whether an alias of that name was ever set."""
    return any(exists(place) for place in _places(storage, name))


def move(
    storage: str,
    name: str,
    uri: str,
    fingerprint: str,
    variant: str,
    config: Mapping[str, Any] | None = None,
    judged_on: str | None = None,
) -> Alias:
    """Point an alias at a model and how it is served; nothing is written if it points there already."""
    before = read(storage, name) if has_alias(storage, name) else None
    wanted = None if config is None else dict(config)
    if before is not None:
        now = before.target
        if (now.fingerprint, now.variant, now.config, now.judged_on) == (fingerprint, variant, wanted, judged_on):
            return before
    target = AliasTarget(
        uri=uri, fingerprint=fingerprint, variant=variant, moved=datetime.now(UTC), config=wanted, judged_on=judged_on
    )
    alias = Alias(name=name, history=(*(before.history if before else ()), target))
    write_bytes(_places(storage, name)[0], alias.model_dump_json(indent=1).encode())
    return alias


def read(storage: str, name: str) -> Alias:
    """The alias of that name; RegistryError if it was never set."""
    # In two places where it has moved since aliases have a root of their own: the one that moved last is right.
    found = [_read_alias(place) for place in _places(storage, name) if exists(place)]
    if not found:
        raise RegistryError(f"{storage} has no alias {name}; select or deploy sets it")
    return max(found, key=lambda alias: alias.target.moved)


def aliases(storage: str) -> list[Alias]:
    """Every alias; RegistryError names the file that cannot be read."""
    earlier = {path for path in _paths(join(storage, EARLIER_REGISTRY)) if not EARLIER_VERDICT.fullmatch(path)}
    paths = earlier | set(_paths(join(storage, ALIASES)))
    return [read(storage, path.removesuffix(".json")) for path in sorted(paths)]


def record_verdict(storage: str, name: str, verdict: Mapping[str, Any]) -> str:
    """Keep why an alias moves or stays, under the time and the verdict's content; the same verdict again is not written twice.

    Returns the URI of the file.
    """
    end = f"-{digest(dict(verdict))[:12]}.json"
    known = [place for place in _verdicts(storage, name) if place.endswith(end)]
    if known:
        return known[-1]
    now = datetime.now(UTC)
    place = join(storage, VERDICTS, name, f"{now:%Y%m%dT%H%M%S%f}{end}")
    content = {"alias": name, "moved": verdict.get("winner") is not None, "decided": now.isoformat(), **verdict}
    write_bytes(place, json.dumps(content, ensure_ascii=False, indent=1).encode())
    return place


def verdicts(storage: str, name: str) -> list[dict[str, Any]]:
    """Every verdict on an alias, the oldest first; RegistryError names the file that cannot be read."""
    return [_read_verdict(place) for place in _verdicts(storage, name)]


def _models(config: Any) -> Iterator[tuple[str, str]]:
    if isinstance(config, Mapping):
        if isinstance(config.get("model"), str):
            yield config["model"], str(config.get("fingerprint") or "")
        config = list(config.values())
    for value in config if isinstance(config, list) else []:
        yield from _models(value)


def _places(storage: str, name: str) -> tuple[str, str]:
    """Where an alias is written, and where it lay before aliases had a root of their own."""
    return join(storage, ALIASES, f"{name}.json"), join(storage, EARLIER_REGISTRY, f"{name}.json")


def _verdicts(storage: str, name: str) -> list[str]:
    """The URIs of an alias's verdicts, the oldest first: those from before they had a root of their own are older."""
    directories = join(storage, EARLIER_REGISTRY, name, "verdicts"), join(storage, VERDICTS, name)
    return [join(directory, path) for directory in directories for path in _paths(directory) if "/" not in path]


def _paths(directory: str) -> list[str]:
    return [stat.path for stat in list_files(directory) if stat.path.endswith(".json")]


def _read_alias(place: str) -> Alias:
    try:
        return Alias.model_validate_json(read_bytes(place))
    except ValidationError as error:
        remedy = "put back a whole copy of it, or delete it and select or deploy again"
        raise RegistryError(f"{place} is not an alias: {error.errors()[0]['msg']}; {remedy}") from error


def _read_verdict(place: str) -> dict[str, Any]:
    try:
        return dict(json.loads(read_bytes(place)))
    except (ValueError, TypeError) as error:  # no JSON, no UTF-8, no mapping
        raise RegistryError(f"{place} is not a verdict: {error}; delete it") from error
