"""What the applications on Serve say of themselves: whether they answer on the kind of processor that they were judged on.

findings = service_findings("http://127.0.0.1:8265")
"""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from cluster.health.findings import Finding, Level
from cluster.ray_private import serve_rest_client

CHECK = "service"
MOST_ASKED = 16
"""Each question reaches one replica that Serve chooses: as many are asked as there are replicas, but no more than so many."""
WITHOUT_ADDRESS = ("", "0.0.0.0", "::")
READY_SECONDS = 5.0


def service_findings(dashboard: str) -> list[Finding]:
    """Warnings of each application's own; none where Serve does not run."""
    details = serve_rest_client(dashboard).get_serve_details()
    http = details.get("http_options") or {}
    if not details.get("applications"):
        return []
    host = "127.0.0.1" if http.get("host", "") in WITHOUT_ADDRESS else http["host"]
    found = []
    for name, application in sorted(details["applications"].items()):
        if application.get("status") == "RUNNING" and application.get("route_prefix"):
            url = f"http://{host}:{http['port']}{application['route_prefix'].rstrip('/')}/readyz"
            found += list(_findings(name, url, _replicas(application)))
    return found


def _findings(name: str, url: str, replicas: int) -> Iterator[Finding]:
    told: dict[str, None] = {}
    for _ in range(min(replicas, MOST_ASKED)):
        answer = _asked(url)
        if answer is None:
            mend = "Ask it from a host that reaches Serve's HTTP: what it says of its processor is in its log too"
            yield Finding(Level.WARNING, CHECK, name, f"{url} does not answer here", mend)
            return
        if warning := answer.get("warning"):
            told[str(warning)] = None
    for warning in told:
        mend = "Run the pipeline again for that kind of processor, or have replicas on hosts of the kind that was judged"
        yield Finding(Level.WARNING, CHECK, name, warning, mend)


def _asked(url: str) -> dict[str, Any] | None:
    """What it answers; None where nothing does. An application that is no Raystill's has nothing to say."""
    try:
        with urllib.request.urlopen(url, timeout=READY_SECONDS) as reply:
            answer = json.loads(reply.read())
    except (urllib.error.HTTPError, ValueError):
        return {}
    except OSError:
        return None
    return answer if isinstance(answer, dict) else {}


def _replicas(application: Mapping[str, Any]) -> int:
    """Those of the deployment that takes the requests."""
    deployment = application.get("deployments", {}).get("model", {})
    return max(1, len(deployment.get("replicas", ())))
