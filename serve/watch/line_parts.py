"""Lines in files below a directory, here or in an object store: more come, and one that is there may be replaced.

    parts = LineParts("s3://bucket/feedback/rows")
    place = parts.add('{"text": "…"}')
    parts.replace(place, '{"text": "…", "label": "spam"}')
    write_all(parts.changed())               # may run in a thread; what cannot be written is told by StorageError

A file is written whole, so that a reader never sees a part of a line, and is closed when it is long. Its name says when it
was begun: names in order are files in order. Files are this process's own until it `take`s over others that lie there.
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from cluster.store import storage

MOST_LINES, MOST_CHARACTERS = 500, 1 << 20
"""Where a file is closed: the open one is written anew whenever a line comes."""
ENDING = ".jsonl"


@dataclass(frozen=True, slots=True)
class LinePlace:
    """Where a line stands."""

    name: str
    """Of the file."""
    number: int
    """Of the line, from 0."""


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be written."""

    uri: str
    lines: tuple[str, ...] | None
    """None where the file is to go."""


class LineParts:
    """The files of one directory, as this process knows them. Only what is open or changed is in memory."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._own: set[str] = set()
        """Names of files that this process has begun."""
        self._taken: dict[str, tuple[int, float]] = {}
        """Size and time of others' files when they were taken over."""
        self._open, self._size = "", 0
        self._lines: dict[str, list[str]] = {}
        self._dirty: dict[str, None] = {}

    def add(self, line: str) -> LinePlace:
        """One more line, in the open file."""
        if not self._open or len(self._lines[self._open]) >= MOST_LINES or self._size > MOST_CHARACTERS:
            self._open, self._size = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(3)}{ENDING}", 0
            self._lines[self._open] = []
            self._own.add(self._open)
        lines = self._lines[self._open]
        lines.append(line)
        self._size += len(line)
        self._dirty[self._open] = None
        return LinePlace(self._open, len(lines) - 1)

    def replace(self, place: LinePlace, line: str) -> None:
        """Another line in the place of one; StorageError where its file cannot be read."""
        if place.name not in self._lines:
            self._lines[place.name] = self.read(place.name)
        self._lines[place.name][place.number] = line
        self._dirty[place.name] = None

    def forget(self, name: str) -> None:
        """Have a file deleted."""
        self._lines.pop(name, None)
        self._dirty[name] = None
        self._open = "" if name == self._open else self._open

    def changed(self) -> list[Change]:
        """What is to be written of what happened since the last time."""
        changes = []
        for name in self._dirty:
            lines = self._lines.get(name)
            changes.append(Change(storage.join(self.directory, name), None if lines is None else tuple(lines)))
        self._dirty = {}
        self._lines = {name: lines for name, lines in self._lines.items() if name == self._open}
        return changes

    def unwritten(self, changes: Iterable[Change]) -> None:
        """These could not be written: they are to be tried again, but where something newer is to be written anyway."""
        for change in changes:
            name = change.uri.rpartition("/")[2]
            if change.lines is not None:
                self._lines.setdefault(name, list(change.lines))
            self._dirty[name] = None

    def take(self) -> list[str]:
        """The names of files of others, in order, that are new or have changed since the last time."""
        files = [file for file in storage.list_files(self.directory) if file.path.endswith(ENDING)]
        there = {file.path: (file.size, file.modified) for file in files if file.path not in self._own}
        new = [name for name, state in there.items() if self._taken.get(name) != state]
        self._taken = there
        return new

    def read(self, name: str) -> list[str]:
        """The lines of a file; none where it has gone meanwhile."""
        uri = storage.join(self.directory, name)
        try:
            content = storage.read_bytes(uri)
        except storage.StorageError:
            if storage.exists(uri):
                raise
            return []
        # Not splitlines: a text may hold other signs that end lines.
        return content.decode().removesuffix("\n").split("\n")


def write_all(changes: Iterable[Change]) -> None:
    """Write, or delete, files; StorageError at the first that cannot be."""
    for change in changes:
        if change.lines is None:
            storage.delete(change.uri)
        else:
            storage.write_bytes(change.uri, "".join(f"{line}\n" for line in change.lines).encode())
