"""Files behind URIs: one small face over pyarrow.fs.

A URI is a `str`: a local path, or s3://bucket/…, gs://bucket/…, abfs://…, hdfs://…. Credentials come from the
environment, as pyarrow reads them (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, …).

    write_bytes("s3://bucket/runs/a.json", b"{}")
    list_files("s3://bucket/runs")
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import urlsplit

from fsspec.utils import glob_translate
from pyarrow import fs

from cluster.store.redact import REMEDY, redacted
from cluster.store.s3 import PatientS3, passing_trouble

CHUNK_BYTES = 8 << 20
SPOOL_BYTES = 64 << 20
"""What is written to an object store is gathered on this host first: in memory up to this size, then on disk."""

NO_SPACE = "no space is left; make room there, then run the same command again: what is done is kept"


class StorageError(Exception):
    """A URI could not be read or written; the message names it and the remedy."""


@dataclass(frozen=True)
class FileStat:
    """One file below a URI: its path relative to it, and its size in bytes."""

    path: str
    size: int
    modified: float


def is_local(uri: str) -> bool:
    """Whether the URI is a path on this host."""
    return urlsplit(uri).scheme in ("", "file")


def absolute(uri: str) -> str:
    """The URI with `~` and relative local paths resolved; remote URIs unchanged but for a trailing slash."""
    if not is_local(uri):
        _check_secret(uri)
        return uri.rstrip("/")
    return str(Path(uri.removeprefix("file://")).expanduser().absolute())


def join(uri: str, *parts: str) -> str:
    """The URI of something below this one."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The pyarrow file system behind a URI and the path inside it."""
    if is_local(uri):
        return fs.LocalFileSystem(), absolute(uri)
    _check_secret(uri)
    scheme, _, path = uri.partition("://")  # Not urlsplit: ? and # are letters of an object's name.
    owner, _, below = path.partition("/")
    system, root = _remote(f"{scheme}://{owner}")
    return system, join(root, below).rstrip("/")


def _check_secret(uri: str) -> None:
    """URIs go into manifests and logs, and so may hold no password."""
    if ":" in uri.partition("://")[2].partition("/")[0].rpartition("@")[0]:
        raise StorageError(
            f"{redacted(uri)}: this URI holds a password, which would be written into manifests and logs. {REMEDY}"
        )


@lru_cache(maxsize=32)
def _remote(root: str) -> tuple[fs.FileSystem, str]:
    """The file system, and the bucket or container in it: abfs:// names an account besides."""
    try:
        if root.startswith("s3://"):
            return PatientS3(), root.removeprefix("s3://")
        return fs.FileSystem.from_uri(root)
    except (ValueError, OSError) as error:
        raise StorageError(
            f"{root}: no such storage can be opened ({error}); use a local path, s3://, gs:// or abfs://"
        ) from error


def exists(uri: str) -> bool:
    """Whether a file or directory is there."""
    system, path = filesystem(uri)
    with _named(uri, "read"):
        return system.get_file_info(path).type != fs.FileType.NotFound


def is_directory(uri: str) -> bool:
    """Whether a directory is there (in an object store: whether anything is below the URI)."""
    system, path = filesystem(uri)
    with _named(uri, "read"):
        return system.get_file_info(path).type == fs.FileType.Directory


def modified(uri: str) -> float | None:
    """When a file or directory itself was last changed; None where none is there and for directories of object stores."""
    system, path = filesystem(uri)
    with _named(uri, "read"):
        changed = system.get_file_info(path).mtime
    return changed.timestamp() if changed else None


def read_bytes(uri: str) -> bytes:
    """The whole content of a small file."""
    with open_input(uri) as stream:
        return stream.read()


@contextlib.contextmanager
def open_input(uri: str) -> Iterator[BinaryIO]:
    """A file opened for reading, as bytes."""
    system, path = filesystem(uri)
    with _named(uri, "read"), system.open_input_stream(path, compression=None) as stream:
        yield stream


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file whole or not at all: a reader never sees a part of it."""
    with open_output(uri) as stream:
        stream.write(data)


@contextlib.contextmanager
def open_output(uri: str) -> Iterator[BinaryIO]:
    """A file opened for writing that appears under its name only when the block ends without an error."""
    system, path = filesystem(uri)
    with _named(uri, "write"):
        if not isinstance(system, fs.LocalFileSystem):
            with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
                yield cast(BinaryIO, spool)
                spool.seek(0)
                _upload(cast(BinaryIO, spool), system, path)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        draft = f"{path}.{uuid.uuid4().hex[:8]}.part"
        try:
            with open(draft, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        finally:
            Path(draft).unlink(missing_ok=True)


def _upload(file: BinaryIO, system: fs.FileSystem, path: str) -> None:
    stream = system.open_output_stream(path, compression=None)
    try:
        shutil.copyfileobj(file, stream, CHUNK_BYTES)
    except BaseException:
        # pyarrow cannot abandon an upload: even a forgotten stream publishes the part that was sent: remove that.
        with contextlib.suppress(OSError):
            stream.close()
        with contextlib.suppress(OSError):
            system.delete_file(path)
        raise
    stream.close()


def list_files(uri: str) -> list[FileStat]:
    """All files below a URI, sorted by path; empty where nothing is there. Unfinished `.part` drafts are left out."""
    system, root = filesystem(uri)
    with _named(uri, "list"):
        found = system.get_file_info(fs.FileSelector(root, allow_not_found=True, recursive=True))
    prefix = root.rstrip("/") + "/"
    stats = [
        FileStat(info.path.removeprefix(prefix), info.size, info.mtime.timestamp() if info.mtime else 0.0)
        for info in found
        if info.type == fs.FileType.File and not info.path.endswith(".part")
    ]
    return sorted(stats, key=lambda stat: stat.path)


def glob(pattern: str) -> list[str]:
    """The files that a pattern matches, as URIs, sorted: * and ? stay inside a directory, ** crosses them."""
    system, path = filesystem(pattern)
    scheme = "" if is_local(pattern) else f"{urlsplit(pattern).scheme}://"
    root = re.split(r"[*?[]", path, maxsplit=1)[0].rpartition("/")[0] or "/"
    matches, levels = re.compile(glob_translate(path)).match, path.count("/") - root.rstrip("/").count("/")
    with _named(pattern, "list"):
        names = sorted(name for name in _walk(system, root, None if "**" in path else levels) if matches(name))
    return [scheme + name for name in names]


def _walk(system: fs.FileSystem, root: str, levels: int | None) -> Iterator[str]:
    """The files below a directory, a directory at a time: the details of 100,000 files at once would take 50 MB."""
    for info in system.get_file_info(fs.FileSelector(root, allow_not_found=True)):
        if info.type == fs.FileType.File:
            yield info.path
        elif levels is None or levels > 1:
            yield from _walk(system, info.path, levels and levels - 1)


def list_directories(uri: str) -> list[str]:
    """The names of the directories directly below a URI, sorted."""
    system, root = filesystem(uri)
    with _named(uri, "list"):
        found = system.get_file_info(fs.FileSelector(root, allow_not_found=True))
    return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)


def delete(uri: str) -> None:
    """Remove a file or a directory with all below it; silent where nothing is there."""
    system, path = filesystem(uri)
    with _named(uri, "delete"):
        kind = system.get_file_info(path).type
        if kind == fs.FileType.Directory:
            system.delete_dir(path)
        elif kind == fs.FileType.File:
            system.delete_file(path)


def copy_file(source: str, target: str) -> str:
    """Copy one file between any two URIs and return the sha256 of what was read."""
    digest = hashlib.sha256()
    with open_input(source) as reader, open_output(target) as writer:
        while chunk := reader.read(CHUNK_BYTES):
            digest.update(chunk)
            writer.write(chunk)
    return digest.hexdigest()


def sha256(uri: str) -> str:
    """The hash of a file's content, read in chunks."""
    digest = hashlib.sha256()
    with open_input(uri) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def cache_directory() -> Path:
    """Where this host keeps remote artifacts' files: RAYSTILL_CACHE, or a place of one's own among temporary files."""
    default = Path(tempfile.gettempdir()) / f"raystill-cache-{os.getuid()}"
    return Path(os.environ.get("RAYSTILL_CACHE", default))


def check_writable(uri: str) -> None:
    """Raise StorageError unless a file can be written below the URI, read back and deleted."""
    probe = join(uri, f".probe-{uuid.uuid4().hex[:8]}")
    write_bytes(probe, b"raystill")
    if read_bytes(probe) != b"raystill":
        raise StorageError(f"{uri}: what was written is not what is read back; choose another --storage")
    delete(probe)


def trouble(uri: str) -> str | None:
    """Why an object store does not answer just now; None where it does, and where it never will.

    What is read and written meanwhile is tried for a minute or two before it fails.
    """
    return passing_trouble(filesystem(uri)[1]) if uri.startswith("s3://") else None


def free_bytes(uri: str) -> int | None:
    """Free space below a local path; None where the storage is remote and has no such number."""
    if not is_local(uri):
        return None
    place = Path(absolute(uri))
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


@contextlib.contextmanager
def _named(uri: str, verb: str) -> Iterator[None]:
    """Turn the file system's own errors into one that names the URI and what to do."""
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError as error:
        raise StorageError(f"{uri}: not found; check the path or the bucket's name ({error})") from error
    except PermissionError as error:
        raise StorageError(f"{uri}: no permission to {verb} it ({error}); choose another place or mend its rights") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(f"{uri}: {NO_SPACE} ({error})") from error
        raise StorageError(f"{uri}: could not {verb} it: {error}") from error
