"""One run as one tar file: its record, and all artifacts that it needs, with their manifests first.

    export_run(storage, run, "spam.tar")
    import_run("spam.tar", "s3://other/raystill")

Nothing in an archive is trusted. Its members are files of artifacts and nothing else: each is named by a manifest before it
and has that manifest's size and hash; each artifact is an output of a step of the run's own recipe, in that step's place; its
parents and the further outputs of its step come before it, and it appears only when all its files are there. So nothing is
written outside of the recipe's directory but the run's record, and that under a name that no other run has.
"""

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from cluster.store.artifact import (
    MANIFEST,
    OTHERS,
    RESERVED,
    Artifact,
    File,
    Manifest,
    find_artifact,
    first_place,
    other_place,
    split_place,
)
from cluster.store.run_records import RunRecord, artifact_size, has_run, needed_artifacts, run_artifacts, write_run
from cluster.store.storage import CHUNK_BYTES, join, open_input, open_output, write_bytes

RECORD = "run.json"
PLACE = re.compile(r"(?P<recipe>[a-z0-9_-]+)/(?P<step>[a-z0-9_-]+)-[0-9a-f]{8}(?:/others/(?P<number>[1-9][0-9]*))?")
RUN = re.compile(r"(?P<recipe>[a-z0-9_-]+)-\d{8}-\d{6}-[0-9a-f]{4}")
CLOCKS = timedelta(days=1)
"""By so much the clocks of two machines may differ. A run that ended later would be the newest of its recipe for ever."""
LARGEST_RECORD = 64 << 20
"""Records and manifests are small; what claims to be larger is not read into memory."""


class ArchiveError(Exception):
    """An archive cannot be used; the message names it, the member and the reason."""


def export_run(storage: str, run: RunRecord, file: str) -> tuple[int, int]:
    """Write the archive; returns of how many steps it has the outputs, and their bytes."""
    artifacts = needed_artifacts(run_artifacts(storage, run).values())
    with open_output(str(Path(file).absolute())) as whole, tarfile.open(fileobj=whole, mode="w") as archive:
        _add(archive, RECORD, run.model_dump_json(indent=1).encode())
        for artifact in artifacts.values():
            place = split_place(artifact.uri)[1]
            _add(archive, f"{place}/{MANIFEST}", artifact.manifest.model_dump_json(indent=1).encode())
            for path, entry in artifact.manifest.files.items():
                member = tarfile.TarInfo(f"{place}/{path}")
                member.size = entry.size
                with open_input(artifact.file(path)) as stream:
                    archive.addfile(member, _Checked(stream, entry, f"{artifact.uri}/{path}"))
    return len({first_place(uri) for uri in artifacts}), sum(artifact_size(artifact) for artifact in artifacts.values())


def import_run(file: str, storage: str) -> tuple[RunRecord, int]:
    """Take the run into a storage; returns it, and of how many steps the outputs were new there."""
    try:
        with tarfile.open(file, "r:") as archive:
            return _import(archive, file, storage)
    except (OSError, tarfile.TarError) as error:
        raise ArchiveError(f"{file}: not a whole tar file: {error}") from error


@dataclass
class _Incoming:
    """An artifact whose files are being read."""

    place: str
    manifest: Manifest
    waiting: dict[str, File]
    """Its files that are still to come, by their names in the archive."""
    there: bool
    """Whether the storage has it already, so that nothing is written."""


@dataclass
class _Archive:
    """An archive that is being read."""

    tar: tarfile.TarFile
    file: str
    storage: str
    recipe: str
    seen: dict[str, Manifest] = field(default_factory=dict)
    """What has come of artifacts, by place."""

    def begin(self, member: tarfile.TarInfo, place: str) -> _Incoming:
        """An artifact's manifest has come; ArchiveError unless it fits its place and what came before it."""
        manifest = _manifest(self.tar, member, self.file)
        self._check(place, manifest)
        self.seen[place] = manifest
        waiting = {f"{place}/{path}": entry for path, entry in manifest.files.items()}
        return _Incoming(place, manifest, waiting, self._already(place, manifest))

    def _check(self, place: str, manifest: Manifest) -> None:
        found = PLACE.fullmatch(place)
        assert found is not None, "only what is a place begins an artifact"
        if found["recipe"] != self.recipe:
            raise self.error(f"{place} is not of the run's recipe, {self.recipe}")
        step = found["step"] + (f"-{found['number']}" if found["number"] else "")
        if manifest.step != step:
            raise self.error(f"the manifest in {place} is of a step {manifest.step!r}, that place is for {step}")
        parents = [parent.uri for parents in manifest.parents.values() for parent in parents]
        if strange := [uri for uri in parents if split_place(uri)[1] not in self.seen]:
            raise self.error(f"{place} is made from {strange[0]}, which does not come before it")
        further = {other: one for other, one in self.seen.items() if first_place(other) == place}
        count = manifest.details.get(OTHERS, 0)
        if count != len(further) or further.keys() != {other_place(place, number) for number in range(2, len(further) + 2)}:
            raise self.error(f"{place} tells of {count!r} further outputs, before it come {', '.join(further) or 'none'}")
        if any((one.kind, one.stage) != (manifest.kind, manifest.stage) for one in further.values()):
            raise self.error(f"a further output of {place} is not what that one is, {manifest.kind} of {manifest.stage}")

    def _already(self, place: str, manifest: Manifest) -> bool:
        """Whether the storage has this very artifact; ArchiveError where it has another one in its place."""
        uri = join(self.storage, place)
        there: Artifact | None = find_artifact(uri)
        if there is None and first_place(uri) != uri and find_artifact(first_place(uri)) is not None:
            raise self.error(f"{first_place(uri)} is there already without this further output; import into another storage")
        if there is not None and there.fingerprint != manifest.fingerprint:
            raise self.error(f"{uri} is there already with other content; import into another storage")
        return there is not None

    def end(self, run: RunRecord) -> None:
        """All has come; ArchiveError where the run names what did not, or a further output has no first one."""
        places = [split_place(made.uri)[1] for made in run.artifacts.values()] + [first_place(place) for place in self.seen]
        if missing := [place for place in places if place not in self.seen]:
            raise self.error(f"{missing[0]} is missing; fetch or export the archive again")

    def error(self, reason: str) -> ArchiveError:
        """An error that names the file."""
        return ArchiveError(f"{self.file}: {reason}")


def _import(tar: tarfile.TarFile, file: str, storage: str) -> tuple[RunRecord, int]:
    members = iter(tar)
    run = _record(tar, next(members, None), file)
    known = has_run(storage, run)
    archive = _Archive(tar, file, storage, run.recipe)
    new, current = 0, None
    for member in members:
        name = _safe_name(member, file)
        place = name.removesuffix(f"/{MANIFEST}")
        if place != name and PLACE.fullmatch(place):
            new += _finish(current, storage, file)
            current = archive.begin(member, place)
        elif current is None or name not in current.waiting:
            raise archive.error(f"{name} is named by no manifest before it, so it was not written; do not trust this file")
        else:
            entry = current.waiting.pop(name)
            if not current.there:
                _write(tar, member, entry, join(storage, name), file)
    new += _finish(current, storage, file)
    archive.end(run)
    if not known:
        write_run(storage, run)
    return run, new


def _finish(incoming: _Incoming | None, storage: str, file: str) -> int:
    """Publish an artifact whose files are all there; returns how many steps have their outputs by that."""
    if incoming is None:
        return 0
    if incoming.waiting:
        missing = f"{len(incoming.waiting)} file(s) of {incoming.place} are missing, such as {next(iter(incoming.waiting))}"
        raise ArchiveError(f"{file}: {missing}; fetch the archive again")
    if incoming.there:
        return 0
    write_bytes(join(storage, incoming.place, MANIFEST), incoming.manifest.model_dump_json(indent=1).encode())
    return int(first_place(incoming.place) == incoming.place)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


class _Checked(io.RawIOBase):
    """A file that is hashed as it is read, and must in the end be what its manifest says."""

    def __init__(self, stream: IO[bytes], entry: File, uri: str) -> None:
        self.stream, self.entry, self.uri, self.digest, self.left = stream, entry, uri, hashlib.sha256(), entry.size

    def read(self, size: int = -1) -> bytes:
        chunk = self.stream.read(size)
        self.digest.update(chunk)
        self.left -= len(chunk)
        if self.left <= 0 and self.digest.hexdigest() != self.entry.sha256:
            raise ArchiveError(f"{self.uri} is not what its manifest says; delete its artifact and run the step again")
        return chunk


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def _safe_name(member: tarfile.TarInfo, file: str) -> str:
    """A member's name, unless the member is anything but a plain file at a plain relative path."""
    name = member.name
    if not member.isreg() or member.issparse() or "\\" in name or {"", ".", ".."} & set(name.split("/")):
        raise ArchiveError(f"{file}: {name} is no plain file inside the archive, so nothing of it was written")
    return name


def _small(archive: tarfile.TarFile, member: tarfile.TarInfo, file: str) -> bytes:
    stream = archive.extractfile(member)
    if stream is None or member.size > LARGEST_RECORD:
        raise ArchiveError(f"{file}: {member.name} has {member.size} bytes, which no record or manifest has")
    return stream.read()


def _record(archive: tarfile.TarFile, member: tarfile.TarInfo | None, file: str) -> RunRecord:
    if member is None or member.name != RECORD or not member.isreg():
        raise ArchiveError(f"{file}: its first member is not {RECORD}; make it with `python -m cluster.runs export`")
    try:
        run = RunRecord.model_validate_json(_small(archive, member, file))
    except ValidationError as error:
        raise ArchiveError(f"{file}: {RECORD} is not a run's record: {error.errors()[0]['msg']}") from error
    name = RUN.fullmatch(run.name)
    if name is None or name["recipe"] != run.recipe:
        raise ArchiveError(f"{file}: {run.name!r} is not the name of a run of the recipe {run.recipe!r}")
    if run.recipe in RESERVED:
        raise ArchiveError(
            f"{file}: a storage keeps the name {run.recipe} for itself, no recipe has it; do not trust this file"
        )
    if run.ended > datetime.now(UTC) + CLOCKS:
        raise ArchiveError(f"{file}: {run.name} ended at {run.ended}, which is still to come; do not trust this file")
    return run


def _manifest(archive: tarfile.TarFile, member: tarfile.TarInfo, file: str) -> Manifest:
    try:
        return Manifest.model_validate_json(_small(archive, member, file))
    except ValidationError as error:
        raise ArchiveError(f"{file}: {member.name} is not a manifest: {error.errors()[0]['msg']}") from error


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, entry: File, target: str, file: str) -> None:
    stream, digest = archive.extractfile(member), hashlib.sha256()
    assert stream is not None, "a plain file has content"
    if member.size != entry.size:
        raise ArchiveError(f"{file}: {member.name} has {member.size} bytes, its manifest says {entry.size}")
    with open_output(target) as writer:
        for chunk in _chunks(stream):
            digest.update(chunk)
            writer.write(chunk)
        if digest.hexdigest() != entry.sha256:
            raise ArchiveError(f"{file}: {member.name} is damaged: its sha256 is not its manifest's; fetch the archive again")
