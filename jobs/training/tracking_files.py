"""TensorBoard's files below the storage: `tensorboard --logdir {storage}/.tracking`.

One directory is one run. A run that goes on after a kill writes another file into the same directory, which begins with a
mark that tells readers to forget the points that will be made again.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import yaml
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar, text

from cluster.store.storage import absolute, copy_file, is_local, join
from jobs.training.tracking import Run

COPY_SECONDS = 30.0


class Mirror:
    """A directory on this host whose files also stand at a URI; where the URI is local, it is that directory."""

    def __init__(self, uri: str, seconds: float = COPY_SECONDS) -> None:
        self._uri, self._seconds, self._local = uri, seconds, is_local(uri)
        self.path = Path(absolute(uri)) if self._local else Path(tempfile.mkdtemp(prefix="raystill-tracking-"))
        self.path.mkdir(parents=True, exist_ok=True)
        self._copied: dict[Path, tuple[int, int]] = {}
        self._last = time.monotonic()

    def copy(self, now: bool = False) -> None:
        """Copy what has changed: an object store takes files only whole, so not after each point unless asked."""
        if self._local or (not now and time.monotonic() - self._last < self._seconds):
            return
        for file in sorted(path for path in self.path.rglob("*") if path.is_file() and not path.is_symlink()):
            stat = file.stat()
            seen = (stat.st_size, stat.st_mtime_ns)
            if self._copied.get(file) != seen:
                copy_file(str(file), join(self._uri, file.relative_to(self.path).as_posix()))
                self._copied[file] = seen
        self._last = time.monotonic()

    def close(self) -> None:
        """Copy for the last time and remove the copy on this host."""
        self.copy(now=True)
        if not self._local:
            shutil.rmtree(self.path, ignore_errors=True)


class TensorBoardTracker:
    """Event files, one scalar for each figure, and the config as text."""

    def __init__(self, run: Run, resume_step: int) -> None:
        self._mirror = Mirror(run.directory)
        # Not tensorboardX's SummaryWriter: its own thread dies of a full disk without a word, and then blocks its caller.
        # The suffix keeps a run that is back within the same second from overwriting what it wrote before.
        self._writer = EventsWriter(str(self._mirror.path / "events"), f".{resume_step}.{os.getpid()}")
        forget_from = resume_step + 1 if resume_step else 0
        self._write(Event(step=forget_from, session_log=SessionLog(status=SessionLog.START)))
        if not resume_step:
            config = "\n".join(f"    {line}" for line in yaml.safe_dump(dict(run.config), sort_keys=False).splitlines())
            self._write(Event(step=0, summary=text("config", f"{run.artifact}\n\n{config}")))
        self.flush()

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._write(Event(step=step, summary=scalar(name, value)))
        self._writer.flush()
        self._mirror.copy()

    def flush(self) -> None:
        self._writer.flush()
        self._mirror.copy(now=True)

    def close(self, failed: bool = False) -> None:
        self._writer.close()
        self._mirror.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)
