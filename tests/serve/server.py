"""Serve a model directory on a Ray of its own until stdin closes: python -m tests.serve.server DIRECTORY PORT

A process of its own, so that it meets no other cluster that the tests hold, and ends with them however they end.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from serve.app import Arguments, deployment_config

REPOSITORY = Path(__file__).parents[2]
PATIENCE_SECONDS = 180


def main(directory: str, port: int) -> None:
    """Deploy by a Serve config, as `serve deploy` does; print "ready" when the application runs."""
    # Unix sockets' paths must be short.
    place = tempfile.mkdtemp(prefix="rs", dir="/tmp")
    environment = {"env_vars": {"PYTHONPATH": str(REPOSITORY)}}
    try:
        ray.init(address="local", num_cpus=2, include_dashboard=False, _temp_dir=place, runtime_env=environment)
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        arguments = Arguments(model=directory, batch_wait_seconds=0.05)
        entry = deployment_config("tiny", arguments, "/tiny") | {"runtime_env": environment}
        client = _get_global_client()
        assert client is not None
        client.deploy_apps(ServeDeploySchema.model_validate({"applications": [entry]}))
        wait_until_running()
        print("ready", flush=True)
        sys.stdin.read()
        serve.shutdown()
    finally:
        ray.shutdown()
        shutil.rmtree(place, ignore_errors=True)


def wait_until_running() -> None:
    """Return when the application runs; RuntimeError with Serve's own message when it cannot."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        application = serve.status().applications.get("tiny")
        if application is not None and application.status == "RUNNING":
            return
        failed = application is not None and application.status in ("DEPLOY_FAILED", "UNHEALTHY")
        if failed or time.monotonic() > deadline:
            raise RuntimeError(f"the application does not run: {application}")
        time.sleep(0.2)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
