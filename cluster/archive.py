"""One run as one tar file: its record, and all artifacts that it needs, with their manifests first.

    export_run(storage, run, "spam.tar")
    import_run("spam.tar", "s3://other/raystill")

Nothing in an archive is trusted: a member that no manifest in it names is refused, so that no path outside the storage can
be written; each file must have the size and hash of its manifest; an artifact appears only when all its files are there.
"""

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from pydantic import ValidationError

from cluster.artifact import MANIFEST, Artifact, File, Manifest, find_artifact
from cluster.runs import Run, artifact_size, needed_artifacts, run_artifacts, write_run
from cluster.storage import CHUNK_BYTES, join, open_input, open_output, write_bytes

RECORD = "run.json"
PLACE = re.compile(r"^[a-z0-9_-]+/[a-z0-9_-]+$")
LARGEST_RECORD = 64 << 20
"""Records and manifests are small; what claims to be larger is not read into memory."""


class ArchiveError(Exception):
    """An archive cannot be used; the message names it, the member and the reason."""


def export_run(storage: str, run: Run, file: str) -> tuple[int, int]:
    """Write the archive; returns how many artifacts it has and their bytes."""
    artifacts = needed_artifacts(run_artifacts(storage, run).values())
    with tarfile.open(file, "w") as archive:
        _add(archive, RECORD, run.model_dump_json(indent=1).encode())
        for artifact in artifacts.values():
            place = "/".join(artifact.uri.rsplit("/", 2)[1:])
            _add(archive, f"{place}/{MANIFEST}", artifact.manifest.model_dump_json(indent=1).encode())
            for path, entry in artifact.manifest.files.items():
                member = tarfile.TarInfo(f"{place}/{path}")
                member.size = entry.size
                with open_input(artifact.file(path)) as stream:
                    archive.addfile(member, _Checked(stream, entry, f"{artifact.uri}/{path}"))
    return len(artifacts), sum(artifact_size(artifact) for artifact in artifacts.values())


def import_run(file: str, storage: str) -> tuple[Run, int]:
    """Take the run into a storage; returns it, and how many of its artifacts were new there."""
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


def _import(archive: tarfile.TarFile, file: str, storage: str) -> tuple[Run, int]:
    members = iter(archive)
    run = _record(archive, next(members, None), file)
    new, current = 0, None
    for member in members:
        name = _safe_name(member, file)
        place = name.removesuffix(f"/{MANIFEST}")
        if place != name and PLACE.match(place):
            new += _finish(current, storage, file)
            current = _begin(archive, member, place, storage, file)
        elif current is None or name not in current.waiting:
            raise ArchiveError(
                f"{file}: {name} is named by no manifest before it, so it was not written; do not trust this file"
            )
        else:
            entry = current.waiting.pop(name)
            if not current.there:
                _write(archive, member, entry, join(storage, name), file)
    new += _finish(current, storage, file)
    write_run(storage, run)
    return run, new


def _begin(archive: tarfile.TarFile, member: tarfile.TarInfo, place: str, storage: str, file: str) -> _Incoming:
    manifest = _manifest(archive, member, file)
    waiting = {f"{place}/{path}": entry for path, entry in manifest.files.items()}
    return _Incoming(place, manifest, waiting, _already(storage, place, manifest, file))


def _finish(incoming: _Incoming | None, storage: str, file: str) -> int:
    """Publish an artifact whose files are all there; returns how many were published."""
    if incoming is None:
        return 0
    if incoming.waiting:
        missing = f"{len(incoming.waiting)} file(s) of {incoming.place} are missing, such as {next(iter(incoming.waiting))}"
        raise ArchiveError(f"{file}: {missing}; fetch the archive again")
    if incoming.there:
        return 0
    write_bytes(join(storage, incoming.place, MANIFEST), incoming.manifest.model_dump_json(indent=1).encode())
    return 1


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
    if not member.isreg() or name.startswith("/") or "\\" in name or {"", ".", ".."} & set(name.split("/")):
        raise ArchiveError(f"{file}: {name} is no plain file inside the archive, so nothing of it was written")
    return name


def _small(archive: tarfile.TarFile, member: tarfile.TarInfo, file: str) -> bytes:
    stream = archive.extractfile(member)
    if stream is None or member.size > LARGEST_RECORD:
        raise ArchiveError(f"{file}: {member.name} has {member.size} bytes, which no record or manifest has")
    return stream.read()


def _record(archive: tarfile.TarFile, member: tarfile.TarInfo | None, file: str) -> Run:
    if member is None or member.name != RECORD or not member.isreg():
        raise ArchiveError(f"{file}: its first member is not {RECORD}; make it with `python -m cluster.runs export`")
    try:
        run = Run.model_validate_json(_small(archive, member, file))
    except ValidationError as error:
        raise ArchiveError(f"{file}: {RECORD} is not a run's record: {error.errors()[0]['msg']}") from error
    if not PLACE.match(f"{run.recipe}/{run.name}"):
        raise ArchiveError(f"{file}: {run.recipe}/{run.name} is not a run's name")
    return run


def _manifest(archive: tarfile.TarFile, member: tarfile.TarInfo, file: str) -> Manifest:
    try:
        return Manifest.model_validate_json(_small(archive, member, file))
    except ValidationError as error:
        raise ArchiveError(f"{file}: {member.name} is not a manifest: {error.errors()[0]['msg']}") from error


def _already(storage: str, place: str, manifest: Manifest, file: str) -> bool:
    """Whether the storage has this very artifact; ArchiveError where it has another one in its place."""
    there: Artifact | None = find_artifact(join(storage, place))
    if there is not None and there.fingerprint != manifest.fingerprint:
        raise ArchiveError(f"{file}: {join(storage, place)} is there already with other content; import into another storage")
    return there is not None


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
