"""Checkpoints of a run: written beside the training, verified by hash, the newest sound one is gone on from.

    checkpoints = Checkpoints("s3://bucket/.scratch/spam/base-1a2b3c4d/checkpoints")
    checkpoints.save(120, state)         # returns at once; the state is copied first
    name, state = checkpoints.latest()   # the newest that is whole; None where there is none
    checkpoints.close()                  # waits for what is being written

Each is a directory of its own, `step-00000120-<nonce>`, with `state.pt` and, written last, `state.json`: size and hash.
"""

import hashlib
import io
import json
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from cluster.store import storage
from jobs.contracts.objective import State

KEPT_CHECKPOINTS = 2
"""The newest checkpoints that stay; should the last be damaged, the one before is there."""
STATE, SEAL = "state.pt", "state.json"


class Damaged(Exception):
    """A checkpoint is not what was written; the message says how."""


class Checkpoints:
    """The checkpoints below a URI; one process writes, any may read."""

    def __init__(self, uri: str, say: Callable[[str], None]) -> None:
        self.uri, self.say = uri, say
        self.writer: ThreadPoolExecutor | None = None
        self.pending: Future[None] | None = None
        self.damaged: set[str] = set()
        """Passed over. What training writes from before them on has lower numbers, and is newer all the same."""

    def save(self, step: int, state: State) -> None:
        """Begin to write; waits only for the checkpoint before. A failure to write is told, training goes on."""
        self._wait()
        self.writer = self.writer or ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.pending = self.writer.submit(self._write, step, _copied(state))

    def latest(self) -> tuple[str, State] | None:
        """The newest checkpoint that is whole, name and state; damaged ones are told and passed over for the one before.

        StorageError where the storage does not answer: what it holds may be sound, and is not given up.
        """
        for name in self._names():
            try:
                return name, self.load(name)
            except Damaged as error:
                self.damaged.add(name)
                self.say(f"checkpoint {name}: {error}; going on from the one before it")
        return None

    def load(self, name: str) -> State:
        """The state of a checkpoint; Damaged unless it is what was written."""
        place = storage.join(self.uri, name)
        try:
            seal = json.loads(storage.read_bytes(storage.join(place, SEAL)))
            size, wanted = seal["size"], seal["sha256"]
        except (ValueError, KeyError) as error:
            raise Damaged(f"{SEAL} is damaged ({error})") from error
        if not storage.exists(storage.join(place, STATE)):
            raise Damaged(f"{STATE} is not there")
        content = storage.read_bytes(storage.join(place, STATE))
        if len(content) != size or hashlib.sha256(content).hexdigest() != wanted:
            raise Damaged(f"{STATE} is damaged: {len(content)} of {size} bytes, or another hash")
        loaded: State = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        return loaded

    def close(self) -> None:
        """Wait until the last checkpoint is written."""
        self._wait()
        if self.writer is not None:
            self.writer.shutdown()
            self.writer = None

    def _wait(self) -> None:
        if self.pending is None:
            return
        try:
            self.pending.result()
        except storage.StorageError as error:
            self.say(f"a checkpoint could not be written ({error}); training goes on without it")
        self.pending = None

    def _write(self, step: int, state: State) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        place = storage.join(self.uri, f"step-{step:08d}-{uuid.uuid4().hex[:8]}")
        storage.write_bytes(storage.join(place, STATE), content)
        seal = {"step": step, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        storage.write_bytes(storage.join(place, SEAL), json.dumps(seal).encode())
        sound = [name for name in self._names() if name not in self.damaged]
        for name in [*self.damaged, *sound[KEPT_CHECKPOINTS:]]:
            storage.delete(storage.join(self.uri, name))
        self.damaged.clear()

    def _names(self) -> list[str]:
        """Sealed checkpoints, the newest first."""
        if not storage.exists(self.uri):
            return []
        names = sorted(storage.list_directories(self.uri), reverse=True)
        return [name for name in names if storage.exists(storage.join(self.uri, name, SEAL))]


def _copied(value: Any) -> Any:
    """The state on the CPU and apart from the weights that training goes on to change."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value
