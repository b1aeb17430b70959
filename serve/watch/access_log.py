"""The access log: one JSON object a line for each request, without its texts.

    log = AccessLog(directory / "access.jsonl")
    log.note(exchange)
    log.flush()                      # every moment or so: writing each line by itself would cost a tenth of the speed

{"time": "2026-…Z", "request_id": "…", "method": "POST", "path": "/v1/predict", "status": 200, "ms": 1.9, "key": "mobile",
 "model": "spam", "texts": 1, "characters": 42}
"""

import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path

from serve.models.exchange import Exchange

MAX_BYTES = 100_000_000
KEPT = 5
MAX_WAITING = 10_000_000
"""Characters of lines that wait where the file cannot be written; beyond that the oldest lines are lost, and counted."""
LOGGER = logging.getLogger("ray.serve")


class AccessLog:
    """Lines kept until they are flushed into a file, which is turned over when it is large."""

    def __init__(self, file: Path, with_texts: bool = False) -> None:
        self.file, self.with_texts = file, with_texts
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lines: list[str] = []
        self._lost = 0

    def note(self, exchange: Exchange) -> None:
        """Take in a request that was answered."""
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "request_id": exchange.request_id,
            "method": exchange.method,
            "path": exchange.path,
            "status": exchange.status,
            "ms": round(exchange.seconds * 1e3, 3),
            "key": exchange.key,
            "model": exchange.model,
            "texts": len(exchange.items),
            "characters": sum(item.characters for item in exchange.items),
        }
        if self.with_texts and exchange.task is not None:
            line["inputs"] = [exchange.task.as_input(item) for item in exchange.items]
        self._lines.append(json.dumps(line, ensure_ascii=False))

    def flush(self) -> None:
        """Write what came since the last time; where that fails (OSError) the lines wait for the next time."""
        if not self._lines:
            return
        try:
            size = self._write()
        except OSError:
            self._lose_what_is_too_much()
            raise
        self._lines = []
        if self._lost:
            LOGGER.error(f"{self._lost} lines of the access log {self.file} are lost: it could not be written for long")
            self._lost = 0
        if size > MAX_BYTES:
            for number in range(KEPT - 1, 0, -1):
                older = self.file.with_suffix(f".{number}.jsonl")
                if older.exists():
                    os.replace(older, self.file.with_suffix(f".{number + 1}.jsonl"))
            os.replace(self.file, self.file.with_suffix(".1.jsonl"))

    def _lose_what_is_too_much(self) -> None:
        """The oldest lines go until the rest may wait."""
        excess, lost = sum(map(len, self._lines)) - MAX_WAITING, 0
        while excess > 0:
            excess -= len(self._lines[lost])
            lost += 1
        self._lines = self._lines[lost:]
        self._lost += lost

    def _write(self) -> int:
        """Append the lines, all or none; returns the size of the file."""
        with open(self.file, "ab", buffering=0) as target:
            before = target.tell()
            data = ("\n".join(self._lines) + "\n").encode("utf-8", "backslashreplace")
            written = 0
            try:
                while written < len(data):
                    written += target.write(data[written:])
            except OSError:
                if written:
                    target.truncate(before)
                raise
        return before + len(data)
