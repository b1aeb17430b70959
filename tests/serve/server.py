"""Applications on a Ray of their own until stdin closes: python -m tests.serve.server PORT METRICS DIRECTORY HOST APPLICATIONS

APPLICATIONS is a JSON list of entries of a Serve config. A process of its own, so that it meets no other cluster that the
tests hold, and ends with them however they end. It takes applications anew, one JSON list a line on stdin.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from cluster.connection.embedded import free_ports
from cluster.ingress import ingress_environment
from cluster.ray_private import serve_controller

REPOSITORY = Path(__file__).parents[2]
PATIENCE_SECONDS = 180


def main(port: int, metrics_port: int, place: str, host: str, applications: str) -> None:
    """Deploy by a Serve config, as `serve deploy` does; print "ready" when the applications run."""
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY", "1") == "1":
        # What the test set in the environment comes first.
        os.environ |= ingress_environment(Path(place), *free_ports(2)) | os.environ
    import ray
    from ray import serve

    environment = {"env_vars": {"PYTHONPATH": str(REPOSITORY)}}
    try:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            _temp_dir=place,
            _metrics_export_port=metrics_port,
            runtime_env=environment,
        )
        serve.start(http_options={"host": host, "port": port})
        while applications:
            deploy([entry | {"runtime_env": environment} for entry in json.loads(applications)])
            print("ready", flush=True)
            applications = sys.stdin.readline()
        serve.shutdown()
    finally:
        ray.shutdown()


def deploy(applications: list[dict[str, Any]]) -> None:
    """Return when all of them run; RuntimeError with Serve's own message when they cannot."""
    from ray import serve
    from ray.serve.schema import ServeDeploySchema

    serve_controller().deploy_apps(ServeDeploySchema.model_validate({"applications": applications}))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        time.sleep(0.2)
        states = dict(serve.status().applications)
        if all((state := states.get(entry["name"])) and state.status == "RUNNING" for entry in applications):
            return
        failed = [state for state in states.values() if state.status in ("DEPLOY_FAILED", "UNHEALTHY")]
        if failed or time.monotonic() > deadline:
            raise RuntimeError(f"the applications do not run: {failed or states}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
