"""Load from a process of its own: wrk, with real texts.

figures = load("http://127.0.0.1:8000/v1/predict", bodies, connections=16, seconds=5)
"""

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import requests

STARTS_WITHIN_SECONDS = 30
REMEDY = "wrk is not here; install it (Debian: apt-get install wrk; macOS: brew install wrk) and run the bench again"

SCRIPT = """
local bodies = {}
for line in io.lines("%(bodies)s") do bodies[#bodies + 1] = line end
local at = 0
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
request = function()
  at = at %% #bodies + 1
  return wrk.format(nil, nil, nil, bodies[at])
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('{"requests": %%d, "microseconds": %%d, "p50": %%d, "p99": %%d, "errors": %%d}\\n', summary.requests,
    summary.duration, latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """What a server did under load."""

    requests: int
    per_second: float
    p50_ms: float
    p99_ms: float
    errors: int


def load(url: str, bodies: Sequence[object], connections: int, seconds: float) -> Load:
    """Ask with so many connections at once, each with the next body as soon as it has its answer; no error is allowed."""
    if shutil.which("wrk") is None:
        raise SystemExit(REMEDY)
    _wait(url, bodies[0])
    with tempfile.TemporaryDirectory() as name:
        lines, script = Path(name) / "bodies", Path(name) / "load.lua"
        lines.write_text("".join(json.dumps(body) + "\n" for body in bodies))
        script.write_text(SCRIPT % {"bodies": lines})
        command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds:.0f}s"]
        told = subprocess.run(
            [*command, "--timeout", "30s", "--script", str(script), url], capture_output=True, text=True, check=True
        ).stdout
    figures = json.loads(told.strip().splitlines()[-1])
    if figures["errors"]:
        raise SystemExit(f"{url}: {figures['errors']} of {figures['requests']} requests failed:\n{told}")
    rate = figures["requests"] / figures["microseconds"] * 1e6
    return Load(figures["requests"], rate, figures["p50"] / 1e3, figures["p99"] / 1e3, figures["errors"])


def _wait(url: str, body: object) -> None:
    """Until it answers: HAProxy hears of a new replica a moment after Serve says that the application runs."""
    deadline = time.monotonic() + STARTS_WITHIN_SECONDS
    while (status := requests.post(url, json=body, timeout=30).status_code) != 200:
        if time.monotonic() > deadline:
            raise SystemExit(f"{url} answers with {status}")
        time.sleep(0.1)
