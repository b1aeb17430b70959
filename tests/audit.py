"""audit: known vulnerabilities of the pinned dependencies, by pip-audit. Part of `make lint`.

    python -m tests.audit

A known vulnerability fails it. Where the advisory service cannot be reached it says so, loudly, and passes, since that says
nothing about the code; with RAYSTILL_AUDIT=required (a release) it fails then too.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
SECONDS = 180


def main() -> int:
    """Ask, print, and return the exit code."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(CONSTRAINTS), "--no-deps", "--disable-pip"]
    required = os.environ.get("RAYSTILL_AUDIT") == "required"
    try:
        ran = subprocess.run([*command, "--format", "json"], capture_output=True, text=True, check=False, timeout=SECONDS)
        report = json.loads(ran.stdout)
    except subprocess.TimeoutExpired:
        report, reason = {}, f"no answer in {SECONDS} s"
    except json.JSONDecodeError:
        report, reason = {}, (ran.stderr.strip().splitlines() or ["no answer"])[-1]
    else:
        reason = "the advisory service knows none of these packages here"
    lines, code = verdict(report, required, reason)
    print("\n".join(lines))
    return code


def verdict(report: Mapping[str, Any], required: bool, reason: str) -> tuple[list[str], int]:
    """What a report of pip-audit means: lines to print, and the exit code."""
    packages = report.get("dependencies", [])
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    vulnerable = [package for package in packages if package.get("vulns")]
    lines = [
        f"{package['name']} {package['version']}: {vulnerability['id']}, "
        f"mended in {', '.join(vulnerability['fix_versions']) or 'no version yet'}"
        for package in vulnerable
        for vulnerability in package["vulns"]
    ]
    looked_at = len(packages) - len(skipped)
    if looked_at == 0:
        return [f"audit: NOT DONE, {reason}; run it where the service can be reached"], int(required)
    lines.append(f"audit: {looked_at} packages looked at, {len(vulnerable)} with known vulnerabilities")
    if skipped:
        lines.append(f"audit: {len(skipped)} NOT looked at: {', '.join(skipped[:10])}{', …' if len(skipped) > 10 else ''}")
    return lines, int(bool(vulnerable) or (required and bool(skipped)))


if __name__ == "__main__":
    sys.exit(main())
