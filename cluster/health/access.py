"""Who may use a cluster: its token, and whether its dashboard can be reached from outside.

findings = access_findings("http://127.0.0.1:8265", outside=[])
"""

import os
import stat
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from cluster.connection.connect import LOOPBACK_HOSTS, token_file, token_of
from cluster.health.findings import Finding, Level

MAKE = "Make one with `ray get-auth-token --generate`, and export RAY_AUTH_MODE=token before `ray start` on every node"
PASS = "Copy the cluster's own to ~/.ray/auth_token (mode 600) or to RAY_AUTH_TOKEN_PATH, and export RAY_AUTH_MODE=token"


def access_findings(dashboard: str, outside: Sequence[str]) -> list[Finding]:
    """What is wrong with the access to a dashboard's URL; `outside` are addresses beyond loopback on which it answers."""
    findings = [*token_file_findings(os.environ)]
    where = urlsplit(dashboard).netloc
    answer = ask(dashboard, None)
    open_to_all = answer == 200
    far = bool(outside) or urlsplit(dashboard).hostname not in LOOPBACK_HOSTS
    if open_to_all:
        level = Level.ERROR if outside else Level.WARNING
        text = "the jobs API answers without a token: whoever reaches it runs commands on the cluster"
        findings.append(Finding(level, "token", where, text, MAKE))
    else:
        own = token_of(os.environ)
        if own is None or ask(dashboard, own) in (401, 403):
            text = "no token is known here" if own is None else "the cluster refuses the token that is set here"
            findings.append(Finding(Level.ERROR, "token", where, text, PASS))
    if outside and far:
        text = f"the dashboard can be reached at {', '.join(outside)}"
        mend = (
            "Start the head with --dashboard-host=127.0.0.1 and reach it by a tunnel (`ray dashboard`, kubectl port-forward)"
        )
        findings.append(Finding(Level.WARNING, "dashboard", where, text, mend))
    return findings


def ask(dashboard: str, token: str | None) -> int | None:
    """The HTTP status of the jobs API; None where nothing answers."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"{dashboard.rstrip('/')}/api/jobs/", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def token_file_findings(environment: Mapping[str, str]) -> list[Finding]:
    """A token that others on this machine can read."""
    file = token_file(environment)
    if not file.is_file() or not stat.S_IMODE(file.stat().st_mode) & 0o077:
        return []
    text = f"others on this machine can read it (mode {stat.S_IMODE(file.stat().st_mode):o})"
    return [Finding(Level.WARNING, "token", str(file), text, f"chmod 600 {file}")]
