"""doctor: what is wrong with a cluster, and how to mend it.

    python -m cluster.doctor s3://bucket/raystill                                  the cluster of RAY_ADDRESS
    ray job submit --working-dir . -- python -m cluster.doctor s3://bucket/raystill     from inside it

Looks at every node: versions, storage, clock, disk, shared memory, GPUs, ports; at the token and the dashboard; and asks what
runs on Serve whether it answers on the kind of processor that it was judged on.
Exit code 0: nothing wrong (warnings apart); 1: something is; 2: the cluster cannot be looked at.
"""

import argparse
import logging
import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.connection.connect import Cluster, ConnectError, attach_or_start, token_of
from cluster.connection.embedded import StartError
from cluster.health.access import access_findings, ask
from cluster.health.findings import CHECKS, Finding, Level, node_findings
from cluster.health.probes import MARKER, NodeReport, Probe
from cluster.health.services import service_findings
from cluster.store.storage import StorageError, absolute, delete, exists, join, write_bytes
from cluster.submit import current_job_id
from cluster.submit import main as submit_and_follow

NODE_ANSWER_SECONDS = 60.0
CLOCK_CALLS = 3
SIGNS = {Level.ERROR: "✗", Level.WARNING: "!"}


@dataclass
class Examination:
    """What has been learned of a cluster's nodes so far."""

    reports: dict[str, NodeReport] = field(default_factory=dict)
    skews: dict[str, float] = field(default_factory=dict)
    silent: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    """Addresses beyond loopback on which the dashboard answers."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser("python -m cluster.doctor", description="What is wrong with a cluster, and the mend.")
    default = os.environ.get("RAYSTILL_STORAGE", "~/raystill")
    parser.add_argument("storage", nargs="?", default=default, help="the storage that jobs shall use (default: %(default)s)")
    parser.add_argument("--address", help="GCS host:port or dashboard URL; default RAY_ADDRESS, else an embedded cluster")
    options = parser.parse_args(arguments)
    address = options.address or os.environ.get("RAY_ADDRESS", "")
    if urlsplit(address).scheme in ("http", "https"):
        return _from_outside(address, options.storage)
    try:
        with attach_or_start(options.address) as cluster:
            findings = examine(cluster, absolute(options.storage))
    except (ConnectError, StartError) as error:
        print(f"error: {error}")
        return 2
    return conclude(findings)


def examine(cluster: Cluster, storage: str) -> list[Finding]:
    """Look at every node of a cluster and at its doors; prints a row for each node as it answers."""
    import ray

    # A job has its code with it; from elsewhere the nodes get this package.
    package = None if current_job_id() else {"py_modules": [str(Path(__file__).parent)]}
    ray.init(cluster.address, runtime_env=package, log_to_driver=False, logging_level=logging.ERROR)
    try:
        nodes = {_name(node): node for node in ray.nodes() if node["Alive"]}
        findings = _examine_nodes(nodes, storage, found := Examination(), urlsplit(cluster.dashboard).port or 8265)
    finally:
        ray.shutdown()
    return findings + access_findings(cluster.dashboard, found.outside) + service_findings(cluster.dashboard)


def conclude(findings: Sequence[Finding]) -> int:
    """Print the findings, the worst first, and return the exit code."""
    for finding in sorted(findings, key=lambda finding: finding.level != Level.ERROR):
        print(f"\n{SIGNS[finding.level]} {finding.check} ({finding.where}): {finding.text}\n  → {finding.mend}")
    errors = sum(finding.level == Level.ERROR for finding in findings)
    print(f"\n{errors} error(s), {len(findings) - errors} warning(s)" if findings else "\nnothing is wrong")
    return 1 if errors else 0


def _from_outside(dashboard: str, storage: str) -> int:
    """Through a dashboard's URL: check the door here, then let a job look inside."""
    findings = [finding for finding in access_findings(dashboard, []) if finding.level == Level.ERROR]
    if ask(dashboard, token_of(os.environ)) is None:
        print(f"error: {dashboard}: nothing answers; is the cluster up, and the tunnel (`ray dashboard cluster.yaml`)?")
        return 2
    if findings:
        return conclude(findings)
    return submit_and_follow(["--address", dashboard, "--name", "doctor", "--", "python", "-m", "cluster.doctor", storage])


def _examine_nodes(nodes: Mapping[str, Any], storage: str, found: Examination, port: int) -> list[Finding]:
    place = join(storage, f".doctor-{uuid.uuid4().hex[:8]}")
    files = {name: join(place, f"node-{number}") for number, name in enumerate(nodes)}
    findings = []
    try:
        write_bytes(join(place, MARKER), b"doctor")
    except StorageError as error:
        mend = "Give a storage that exists and may be written, as jobs will"
        findings.append(Finding(Level.ERROR, "storage", "the doctor's own host", str(error), mend))
    try:
        for name in _ask_all(nodes, files, join(place, MARKER), port, found):
            _print_row(name, found, nodes)
        findings += [] if findings else _unseen(files, found)
    finally:
        _clean(place)
    gpus = {name: node["Resources"].get("GPU", 0.0) for name, node in nodes.items()}
    mend = "Look at its raylet.log; a node that is being started answers later"
    findings += [
        Finding(Level.ERROR, "node", name, f"no answer in {NODE_ANSWER_SECONDS:.0f} s", mend) for name in found.silent
    ]
    return findings + node_findings(found.reports, found.skews, gpus)


def _ask_all(nodes: Mapping[str, Any], files: Mapping[str, str], marker: str, port: int, found: Examination) -> Iterator[str]:
    """Place a probe on each node and yield the nodes' names as they answer."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    names = list(nodes)
    actor: Any = ray.remote(Probe)
    probes, waiting = {}, {}
    for number, name in enumerate(names):
        strategy = NodeAffinitySchedulingStrategy(nodes[name]["NodeID"], soft=False)
        probes[name] = actor.options(num_cpus=0, scheduling_strategy=strategy).remote()
        # Each node tries the next one's doors: in a circle all are tried, and n nodes make n connections.
        peers = _doors(names[(number + 1) % len(names)], nodes) if len(names) > 1 else []
        waiting[probes[name].examine.remote(marker, files[name], peers)] = name
    _print_head(names)
    deadline = time.monotonic() + NODE_ANSWER_SECONDS
    while waiting and time.monotonic() < deadline:
        for ready in ray.wait(list(waiting), timeout=1)[0]:
            name = waiting.pop(ready)
            try:
                found.reports[name] = ray.get(ready)
                found.skews[name] = _skew(probes[name])
                if "node:__internal_head__" in nodes[name]["Resources"]:
                    found.outside = ray.get(probes[name].outside_addresses.remote(port))
                yield name
            except ray.exceptions.RayError:
                found.silent.append(name)
    found.silent += waiting.values()


def _skew(probe: Any) -> float:
    """How far a node's clock is off at least, in seconds: what the call itself took cannot be told from it."""
    import ray

    off = []
    for _ in range(CLOCK_CALLS):
        before = time.time()
        there = ray.get(probe.clock.remote())
        off.append(max(there - time.time(), min(there - before, 0.0), key=abs) if not before <= there <= time.time() else 0.0)
    return min(off, key=abs)


def _doors(name: str, nodes: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    node = nodes[name]
    host = node["NodeManagerAddress"]
    return [("raylet", host, node["NodeManagerPort"]), ("object store", host, node["ObjectManagerPort"])]


def _unseen(files: Mapping[str, str], found: Examination) -> list[Finding]:
    """Nodes that wrote to a place of the same name which is not the same place."""
    findings = []
    for name, report in found.reports.items():
        if report.storage_problem is None and not exists(files[name]):
            text = "what it writes cannot be seen here"
            findings.append(
                Finding(Level.ERROR, "storage", name, text, "Use one storage that all nodes reach, such as s3://…")
            )
    return findings


def _clean(place: str) -> None:
    try:
        delete(place)
    except StorageError as error:
        print(f"left behind: {error}", file=sys.stderr)


def _name(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} {node['NodeManagerAddress']}:{node['NodeManagerPort']}"


def _print_head(names: Sequence[str]) -> None:
    print("  ".join([" " * max(map(len, names)), *CHECKS]), flush=True)


def _print_row(name: str, found: Examination, nodes: Mapping[str, Any]) -> None:
    """A node's row: versions are compared with those that have answered before it."""
    gpus = {name: nodes[name]["Resources"].get("GPU", 0.0)}
    own = [finding for finding in node_findings(found.reports, found.skews, gpus) if finding.where == name]
    cells = []
    for check in CHECKS:
        levels = [finding.level for finding in own if finding.check == check]
        sign = SIGNS[Level.ERROR if Level.ERROR in levels else Level.WARNING] if levels else "✓"
        cells.append(sign.ljust(len(check)))
    print("  ".join([name.ljust(max(map(len, nodes))), *cells]).rstrip(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
