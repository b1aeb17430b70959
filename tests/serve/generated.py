"""Requests made from an OpenAPI file, right and wrong ones, by schemathesis.

ask_generated("http://127.0.0.1:8000/spam/openapi.json", examples=30)
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKS = "not_a_server_error,content_type_conformance,response_schema_conformance,status_code_conformance"


def ask_generated(openapi: str, examples: int) -> int:
    """Ask every route with up to so many requests of each kind; returns how many there were.

    AssertionError shows the request where one is answered with 5xx, or not as the file says.
    """
    with tempfile.TemporaryDirectory() as name:
        report = Path(name) / "report.json"
        command = [sys.executable, "-m", "schemathesis.cli", "run", openapi, "--checks", CHECKS, "--no-color"]
        # The same requests in each run; no file of examples in the working directory.
        command += ["--max-examples", str(examples), "--seed", "0", "--generation-database", "none"]
        command += ["--report-json-path", str(report)]
        done = subprocess.run(command, cwd=name, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        return int(json.loads(report.read_text())["test_cases"]["generated"])
