"""What was made, from what, with what: an Artifact is a directory behind a URI with a manifest that is written last.

artifact = open_artifact("s3://bucket/runs/spam/teacher-1a2b3c4d")
artifact.manifest.metrics["f1"]
directory = artifact.local()          # a path on this host; what was downloaded is checked against its hash
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from cluster.store import storage

MANIFEST = "manifest.json"
OTHERS = "others"
"""In a manifest's details: how many further outputs the step has; and the directory in which they are."""
EARLIER_REGISTRY = "registry"
"""Below a storage: where aliases and verdicts lay before they had roots of their own, see cluster.store.registry."""
RESERVED = (EARLIER_REGISTRY, OTHERS)
"""No recipe may have these names. Other control files lie under roots that begin with a dot, which no name can."""
NUMBER = re.compile(r"[1-9][0-9]*")


class ArtifactError(Exception):
    """An artifact is missing, incomplete or not what its manifest says; the message names it."""


class Kind(StrEnum):
    """What an artifact holds."""

    TOKENS = "tokens"
    EXAMPLES = "examples"
    MODEL = "model"
    PREDICTIONS = "predictions"
    REPORT = "report"


class File(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    size: int
    sha256: str


class Parent(BaseModel):
    """An artifact that this one was made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    uri: str
    fingerprint: str


class Manifest(BaseModel):
    """The record beside every output. Its stage, config and parents replay the step."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Kind
    step: str
    stage: str
    stage_version: int
    config: dict[str, Any]
    sources: dict[str, str] = Field(default_factory=dict, description="outside data and models, by content")
    parents: dict[str, list[Parent]] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    details: dict[str, Any] = Field(default_factory=dict, description="trials, curves, the path taken")
    files: dict[str, File]
    versions: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, Any] = Field(default_factory=dict)
    seconds: float
    created: AwareDatetime

    @field_validator("files")
    @classmethod
    def _stay_inside(cls, files: dict[str, File]) -> dict[str, File]:
        """Paths come from outside and become paths on this host."""
        for path in files:
            parts = path.split("/")
            if {"", ".", ".."} & set(parts) or "\\" in path or any(character < " " for character in path):
                raise ValueError(f"file {path!r} would lie outside of the artifact, or is no plain path")
            if _is_own(parts[0]):
                raise ValueError(f"file {path!r} would be read as the artifact's own {parts[0].lower()}")
        return files

    @property
    def fingerprint(self) -> str:
        """Identity by content: the hash over the kind and every file's path and hash."""
        return digest({"kind": self.kind, "files": {path: file.sha256 for path, file in self.files.items()}})


def digest(value: Any) -> str:
    """The sha256 of a JSON value in canonical form; raises TypeError for what JSON cannot say."""
    return hashlib.sha256(_canonical(value)).hexdigest()


def digest_each(values: Iterable[Any]) -> str:
    """`digest` of the list of these, of which one is held at a time."""
    hashed = hashlib.sha256(b"[")
    for number, value in enumerate(values):
        hashed.update(b"," * bool(number) + _canonical(value))
    hashed.update(b"]")
    return hashed.hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Artifact:
    """A URI and its manifest."""

    uri: str
    manifest: Manifest

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    def as_parent(self) -> Parent:
        return Parent(uri=self.uri, fingerprint=self.fingerprint)

    def file(self, path: str) -> str:
        """The URI of one of its files; raises ArtifactError if the manifest has none of that name."""
        if path not in self.manifest.files:
            known = ", ".join(sorted(self.manifest.files)[:8])
            raise ArtifactError(f"{self.uri} has no file {path}; it has {known}")
        return storage.join(self.uri, path)

    def files(self, prefix: str = "", suffix: str = "") -> list[str]:
        """Paths of its files that begin and end as given, sorted."""
        return sorted(path for path in self.manifest.files if path.startswith(prefix) and path.endswith(suffix))

    def verify(self) -> None:
        """Read every file and raise ArtifactError naming the first that is missing or whose content is not the manifest's."""
        for path, file in self.manifest.files.items():
            try:
                found = storage.sha256(storage.join(self.uri, path))
            except storage.StorageError as error:
                raise ArtifactError(f"{error}. The manifest lists it; delete {self.uri} and run its step again") from error
            _check(self.uri, path, file, found)

    def local(self, only: Iterable[str] | None = None) -> Path:
        """A directory on this host with its files (or only those named).

        Remote ones are downloaded once per host and checked; local ones stay where they are, see `verify`.
        """
        if storage.is_local(self.uri):
            return Path(storage.absolute(self.uri))
        place = storage.cache_directory() / self.fingerprint
        wanted = set(self.manifest.files) if only is None else set(only)
        with _locked(place.with_suffix(".lock")):
            for path in sorted(wanted):
                target = place / path
                if not target.exists():
                    _fetch(self.uri, path, self.manifest.files[path], target)
        return place


def open_artifact(uri: str) -> Artifact:
    """Read the manifest at a URI; ArtifactError if it is missing (an unfinished step) or not a manifest."""
    place = storage.join(uri, MANIFEST)
    if not storage.exists(place):
        raise ArtifactError(f"{uri}: no {MANIFEST} there, so the step that makes it has not finished; run it first")
    try:
        return Artifact(uri, Manifest.model_validate_json(storage.read_bytes(place)))
    except ValidationError as error:
        raise ArtifactError(f"{place} is not a manifest: {error.errors()[0]['msg']}; delete it to make it again") from error


def find_artifact(uri: str) -> Artifact | None:
    """The artifact at a URI, or None where no finished one is."""
    return open_artifact(uri) if storage.exists(storage.join(uri, MANIFEST)) else None


def other_place(uri: str, number: int) -> str:
    """Where a step's further outputs are, numbered from 2: artifacts of their own below the first one's URI."""
    return storage.join(uri, OTHERS, str(number))


def first_place(uri: str) -> str:
    """The URI of the step's first output, in whose directory its further ones are, for the URI of any of them."""
    first, between, number = uri.rpartition(f"/{OTHERS}/")
    return first if between and NUMBER.fullmatch(number) else uri


def split_place(uri: str) -> tuple[str, str]:
    """The storage that an artifact is in, and its place there: recipe/step, for a further output with /others/2 after it."""
    *above, recipe, step = ["", "", *first_place(uri).rsplit("/", 2)]
    return above[-1], f"{recipe}/{step}{uri.removeprefix(first_place(uri))}"


def sibling(uri: str, other: str) -> str:
    """Another artifact's URI beside this one's: what came from another storage still names its old one."""
    moved = storage.join(split_place(uri)[0], split_place(other)[1])
    return moved if storage.exists(moved) else other


def with_others(artifact: Artifact) -> list[Artifact]:
    """An artifact and the further outputs of its step, the best first."""
    count = artifact.manifest.details.get(OTHERS, 0)
    if not isinstance(count, int):
        raise ArtifactError(f"{artifact.uri}: its details name {count!r} further outputs, which is no number; make it again")
    return [artifact, *(open_artifact(other_place(artifact.uri, number)) for number in range(2, count + 2))]


def find_outputs(uri: str) -> list[Artifact]:
    """What is there of a step's outputs, the first one's place given: the further ones alone where it has not ended."""
    numbers = [name for name in storage.list_directories(storage.join(uri, OTHERS)) if NUMBER.fullmatch(name)]
    places = [uri, *(other_place(uri, number) for number in sorted(map(int, numbers)))]
    return [artifact for place in places if (artifact := find_artifact(place)) is not None]


def publish(directory: Path, uri: str, record: Mapping[str, Any], already: Mapping[str, File] | None = None) -> Artifact:
    """Copy a finished local directory to its URI and write the manifest last.

    `record` holds the manifest's fields but `files`. `already` names files that distributed writers have put
    below the URI themselves. If another attempt has published there meanwhile, its artifact is returned.
    """
    other = find_artifact(uri)
    if other is not None:
        return other
    if own := [path.name for path in directory.iterdir() if _is_own(path.name)]:
        raise ArtifactError(f"{directory} has a {own[0]} of its own, which would be read as this artifact's; leave it out")
    files = {**(already or {}), **upload(directory, uri)}
    manifest = Manifest(files=dict(sorted(files.items())), **record)
    storage.write_bytes(storage.join(uri, MANIFEST), manifest.model_dump_json(indent=1).encode())
    return Artifact(uri, manifest)


def upload(directory: Path, uri: str) -> dict[str, File]:
    """Copy a local directory's files below a URI, without a manifest; returns them by relative path."""
    files = {}
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        name = path.relative_to(directory).as_posix()
        files[name] = File(size=path.stat().st_size, sha256=storage.copy_file(str(path), storage.join(uri, name)))
    return files


def write_by_content(output: str, directory: str, suffix: str, data: bytes) -> tuple[str, File]:
    """Write a file below an output under the name of its own hash: (relative path, size and hash).

    Distributed writers cannot clash, and the same content always has the same name.
    """
    found = hashlib.sha256(data).hexdigest()
    path = f"{directory}/{found[:16]}{suffix}"
    storage.write_bytes(storage.join(output, path), data)
    return path, File(size=len(data), sha256=found)


def listed_sizes(artifact: Artifact) -> dict[str, int]:
    """The size of each of an artifact's files, none of which is read; ArtifactError names the first that is missing or has
    another size than the manifest says."""
    try:
        there = {stat.path: stat.size for stat in storage.list_files(artifact.uri)}
    except storage.StorageError as error:
        raise ArtifactError(f"{error}. Delete {artifact.uri} and run its step again") from error
    for path, file in artifact.manifest.files.items():
        if there.get(path) != file.size:
            found = "not there" if path not in there else f"{there[path]} bytes long, the manifest says {file.size}"
            raise ArtifactError(f"{artifact.file(path)}: {found}. Delete {artifact.uri} and run its step again")
    return {path: file.size for path, file in artifact.manifest.files.items()}


def check_hash(artifact: Artifact, path: str, found: str) -> None:
    """ArtifactError unless this is the hash that the manifest has for one of its files."""
    _check(artifact.uri, path, artifact.manifest.files[path], found)


def _is_own(name: str) -> bool:
    """Whether a name at an artifact's top is kept for itself; some file systems do not tell capitals apart."""
    return name.casefold() in (MANIFEST, OTHERS)


def _check(uri: str, path: str, file: File, found: str) -> None:
    if found != file.sha256:
        raise ArtifactError(
            f"{storage.join(uri, path)}: its sha256 is {found[:12]}…, the manifest says {file.sha256[:12]}…; the file was "
            f"changed or damaged after it was published. Delete {uri} and run its step again"
        )


def _fetch(uri: str, path: str, file: File, target: Path) -> None:
    draft = target.with_name(target.name + ".fetching")
    try:
        _check(uri, path, file, storage.copy_file(storage.join(uri, path), str(draft)))
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process of this host at a time: several workers often want the same model at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
