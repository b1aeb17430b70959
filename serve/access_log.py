"""The access log: one JSON object a line for each request, without its texts.

    log = AccessLog(directory / "access.jsonl")
    log.note(exchange)
    log.flush()                      # every moment or so: writing each line by itself would cost a tenth of the speed

{"time": "2026-…Z", "request_id": "…", "method": "POST", "path": "/v1/predict", "status": 200, "ms": 1.9, "key": "mobile",
 "model": "spam", "texts": 1, "characters": 42}
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from serve.exchange import Exchange

MAX_BYTES = 100_000_000
KEPT = 5


class AccessLog:
    """Lines kept until they are flushed into a file, which is turned over when it is large."""

    def __init__(self, file: Path, with_texts: bool = False) -> None:
        self.file, self.with_texts = file, with_texts
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lines: list[str] = []

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
            "texts": len(exchange.texts),
            "characters": sum(map(len, exchange.texts)),
        }
        if self.with_texts:
            line["inputs"] = list(exchange.texts)
        self._lines.append(json.dumps(line, ensure_ascii=False))

    def flush(self) -> None:
        """Write what came since the last time."""
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        with open(self.file, "a", encoding="utf-8", errors="backslashreplace") as target:
            target.write("\n".join(lines) + "\n")
            size = target.tell()
        if size > MAX_BYTES:
            for number in range(KEPT - 1, 0, -1):
                older = self.file.with_suffix(f".{number}.jsonl")
                if older.exists():
                    os.replace(older, self.file.with_suffix(f".{number + 1}.jsonl"))
            os.replace(self.file, self.file.with_suffix(".1.jsonl"))
