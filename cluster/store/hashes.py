"""Hashes of local files, each made once: what was read is remembered on this host until the file changes.

    sha256_of("corpus/part-1.jsonl")      # reads it
    sha256_of("corpus/part-1.jsonl")      # does not, in this process nor in another

Only files of a megabyte and more are remembered, by path, size, inode and times of change. One that changed within the last
two seconds is not: a file system whose clock is that coarse could change it again unseen.
"""

import os
import sqlite3
import sys
import time
from functools import lru_cache
from pathlib import Path

from cluster.store import storage

REMEMBERED_BYTES = 1 << 20
SETTLED_SECONDS = 2.0
BUSY_SECONDS = 60.0
_TABLE = "CREATE TABLE IF NOT EXISTS hashes (path TEXT PRIMARY KEY, seen TEXT NOT NULL, sha256 TEXT NOT NULL)"


def sha256_of(file: str) -> str:
    """The sha256 of a local file's content."""
    path, before = _seen(file)
    if (known := _known(path, before)) is not None:
        return known
    found = storage.sha256(path)
    # What was changed while it was read has a hash of neither.
    if before is not None and _seen(file)[1] == before:
        _asked("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?)", path, before, found)
    return found


def known_sha256(file: str) -> str | None:
    """The same where it is remembered, so that nothing is read; else None."""
    return _known(*_seen(file))


def _known(path: str, seen: str | None) -> str | None:
    if seen is None:
        return None
    rows = _asked("SELECT sha256 FROM hashes WHERE path = ? AND seen = ?", path, seen)
    return rows[0][0] if rows else None


def _seen(file: str) -> tuple[str, str | None]:
    """The absolute path, and what tells one state of the file from another; None of a file that is not remembered."""
    path = os.path.realpath(storage.absolute(file))
    try:
        stat = os.stat(path)
    except OSError:
        return path, None
    settled = max(stat.st_mtime, stat.st_ctime) < time.time() - SETTLED_SECONDS
    if stat.st_size < REMEMBERED_BYTES or not settled:
        return path, None
    return path, f"{stat.st_size} {stat.st_ino} {stat.st_mtime_ns} {stat.st_ctime_ns}"


def _asked(statement: str, *values: str) -> list[tuple[str]]:
    """The rows of a statement; none where the memory cannot be used, which is said once."""
    place = storage.cache_directory() / "hashes.sqlite"
    try:
        return _opened(place, os.getpid()).execute(statement, values).fetchall()
    except (sqlite3.Error, OSError) as error:
        _say_once(
            f"{place}: hashes cannot be remembered there ({error}), so large files are read again by each step; delete it"
        )
        return []


@lru_cache(maxsize=4)
def _opened(place: Path, process: int) -> sqlite3.Connection:
    """Of this very process: no connection outlives a fork."""
    place.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(place, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection.execute(_TABLE)
    return connection


@lru_cache(maxsize=1)
def _say_once(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
