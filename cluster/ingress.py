"""How requests reach replicas: HAProxy in front of replicas that speak HTTP themselves.

    eval "$(python -m cluster.ingress)" && ray start --head …                   # on every node of a cluster

    os.environ |= ingress_environment(directory, metrics_port, stats_port)     # several clusters on one machine

Ray reads these when a node starts. It is the fastest of the ways that docs/serving.md has figures of; the others are
Ray's default proxy, plain and throughput-optimized. `make bench BENCH=serve` measures them.
HAProxy's metrics and stats ports listen on all addresses and cannot be told otherwise: close them to other hosts.
"""

import shlex
from pathlib import Path

INGRESS_ENVIRONMENT = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    # One thread of HAProxy fills four cores' worth of small models; more of them take cores from the replicas.
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    # The replica's own code never blocks its event loop, so it needs no second one, and no hop between the two.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    # How long a replica that is to go still takes requests of proxies that have not heard of it.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
    # A replica that is gone is found out by its refused connection; the request goes to another one.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
}


def ingress_environment(directory: Path, metrics_port: int, stats_port: int) -> dict[str, str]:
    """The environment of a node whose files and ports are its own, so that several clusters fit on one machine."""
    place = directory / "haproxy"
    return {
        **INGRESS_ENVIRONMENT,
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(place / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(place / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(place / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(place),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(place / "server-state"),
    }


if __name__ == "__main__":
    print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in INGRESS_ENVIRONMENT.items()))
