"""Giving Ray Serve an application's config and waiting until it answers: what deploy and rollback have in common.

client = ServeClient()
address = client.http_address("127.0.0.1", 8000)
entry, carried = carry_over(entry, client.entry("spam"), named)      # what was set by hand stays
client.apply(client.config_with(entry, address), "spam", print)      # DeployError is Serve's own message
"""

import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from cluster.connection.connect import attach
from cluster.ray_private import serve_rest_client
from cluster.submit import inherited_working_dir
from jobs.deploying.carry import CODE_PACKAGE

HOST, PORT = "127.0.0.1", 8000
APPLICATION_START_SECONDS = 180.0
RUNNING_STATE = "RUNNING"
FAILED_STATES = ("DEPLOY_FAILED", "UNHEALTHY")


class DeployError(Exception):
    """The application did not start; the message is Serve's own."""


class ServeClient:
    """Serve on the cluster that this process is connected to, by the dashboard's REST interface."""

    def __init__(self) -> None:
        import ray

        self._client = serve_rest_client(attach(ray.get_runtime_context().gcs_address).dashboard)

    def http_address(self, host: str = HOST, port: int = PORT) -> tuple[str, int]:
        """Where Serve listens already, or the first free port from the wanted one on."""
        details = self._client.get_serve_details()
        running = details.get("http_options")
        if running and details.get("proxies"):
            return running["host"], int(running["port"])
        for free in range(port, port + 100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", free)) != 0:
                    return host, free
        raise DeployError(f"no port from {port} to {port + 99} is free; give another with port=…")

    def entry(self, name: str) -> dict[str, Any] | None:
        """What Serve was last told of this application, whether it runs or not; None where it knows none."""
        found: dict[str, Any] | None = self._applications().get(name, {}).get("deployed_app_config")
        return found

    def config_with(self, entry: Mapping[str, Any], address: tuple[str, int]) -> dict[str, Any]:
        """A Serve config with this entry, run by this job's own code, beside the applications that run already.

        A config replaces all of them, so they are named again, and so is what else was said of Serve as a whole. Serve takes
        code from remote packages only; where this job came without one, the cluster's image has it.
        """
        others = [told for name in self._applications() if name != entry["name"] and (told := self.entry(name))]
        package = inherited_working_dir()
        code = {"working_dir": package} if package.startswith(CODE_PACKAGE) else {}
        applications = [*others, {**entry, "runtime_env": {**entry.get("runtime_env", {}), **code}}]
        details = self._client.get_serve_details()
        running = {key: details[key] for key in ("proxy_location", "grpc_options", "target_capacity") if details.get(key)}
        http = {**(details.get("http_options") or {}), "host": address[0], "port": address[1]}
        return {**running, "http_options": http, "applications": applications}

    def apply(self, config: dict[str, Any], name: str, report: Callable[[str], object]) -> None:
        """Give Serve the config and wait until the application runs; `report` is told its state meanwhile."""
        self._client.deploy_applications(config)
        limit = time.monotonic() + APPLICATION_START_SECONDS
        while time.monotonic() < limit:
            application = self._applications().get(name, {})
            status = application.get("status")
            if status == RUNNING_STATE:
                return
            if status in FAILED_STATES:
                raise DeployError(f"Serve could not start {name}: {application.get('message', status)}")
            report(f"serve: {status}")
            time.sleep(0.5)
        raise DeployError(
            f"{name} was not running after {APPLICATION_START_SECONDS:.0f} s; see the Serve page of the dashboard"
        )

    def _applications(self) -> dict[str, Any]:
        found: dict[str, Any] = self._client.get_serve_details().get("applications", {})
        return found
