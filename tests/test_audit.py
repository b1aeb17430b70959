"""The dependency audit: what pip-audit's answers mean, and what is said where it has none."""

import os
import subprocess
import sys
from pathlib import Path

from tests.audit import verdict

ROOT = Path(__file__).parents[1]
SOUND = {"name": "sound", "version": "1.0", "vulns": []}
WEAK = {"name": "weak", "version": "2.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]}
UNKNOWN = {"name": "unknown", "skip_reason": "not found"}


def test_a_known_vulnerability_fails_and_names_its_mend() -> None:
    lines, code = verdict({"dependencies": [SOUND, WEAK]}, False, "")
    assert code == 1
    assert lines == ["weak 2.0: PYSEC-1, mended in 2.1", "audit: 2 packages looked at, 1 with known vulnerabilities"]
    assert verdict({"dependencies": [SOUND]}, True, "") == (
        ["audit: 1 packages looked at, 0 with known vulnerabilities"],
        0,
    )


def test_what_was_not_looked_at_is_said_and_fails_a_release() -> None:
    lines, code = verdict({"dependencies": [SOUND, UNKNOWN]}, False, "")
    assert (lines[-1], code) == ("audit: 1 NOT looked at: unknown", 0)
    assert verdict({"dependencies": [SOUND, UNKNOWN]}, True, "")[1] == 1
    assert verdict({"dependencies": [UNKNOWN]}, False, "why")[0][0].startswith("audit: NOT DONE, why")


def test_without_a_network_it_says_so_and_only_a_release_fails() -> None:
    for required, code in (("", 0), ("required", 1)):
        nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "RAYSTILL_AUDIT": required}
        ran = subprocess.run(
            [sys.executable, "-m", "tests.audit"],
            cwd=ROOT,
            env={**os.environ, **nowhere},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert ran.returncode == code, ran.stdout + ran.stderr
        assert ran.stdout.startswith("audit: NOT DONE, ")
