"""What nodes' reports mean: findings with their mends. Pure functions.

for finding in node_findings(reports): print(finding.level, finding.text, finding.mend)
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from cluster.fleet.placement import size
from cluster.health.probes import NodeReport

LEAST_DISK = 10 << 30
LEAST_SHARED = 256 << 20
LEAST_FILES = 4096
SKEW_WARNING, SKEW_ERROR = 1.0, 30.0
"""Seconds: manifests and leases are compared by time; object stores refuse requests of clocks that are minutes off."""


class Level(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    level: Level
    check: str
    where: str
    text: str
    mend: str

    def __str__(self) -> str:
        return f"{self.level}: {self.check} on {self.where}: {self.text}. {self.mend}"


CHECKS = ("versions", "storage", "clock", "disk", "shared memory", "files", "gpu", "ports")
"""What is looked at on each node, in the order of the table."""


def node_findings(reports: Mapping[str, NodeReport], skews: Mapping[str, float], gpus: Mapping[str, float]) -> list[Finding]:
    """All that is wrong with the nodes; `skews` in seconds, `gpus` as Ray counts them, all by the node's name."""
    findings = _version_findings(reports)
    for node, report in reports.items():
        findings += _node(node, report, skews.get(node, 0.0), gpus.get(node, 0.0))
    return findings


def _version_findings(reports: Mapping[str, NodeReport]) -> list[Finding]:
    findings = []
    for package in sorted({name for report in reports.values() for name in report.versions}):
        found = {node: report.versions.get(package, "not installed") for node, report in reports.items()}
        common = Counter(found.values()).most_common(1)[0][0]
        for node, version in found.items():
            if version != common:
                text = f"{package} is {version}, on most nodes {common}"
                mend = "Start all nodes from one image or environment (constraints.txt), then start this one again"
                findings.append(Finding(Level.ERROR, "versions", node, text, mend))
    return findings


def _node(node: str, report: NodeReport, skew: float, gpus: float) -> list[Finding]:
    found: list[Finding] = []

    def add(level: Level, check: str, text: str, mend: str) -> None:
        found.append(Finding(level, check, node, text, mend))

    if report.storage_problem:
        mend = "Give a storage that every node reaches (s3://…, gs://…), and its machine a role that may read and write it"
        add(Level.ERROR, "storage", report.storage_problem, mend)
    if abs(skew) > SKEW_WARNING:
        level = Level.ERROR if abs(skew) > SKEW_ERROR else Level.WARNING
        add(
            level,
            "clock",
            f"is {abs(skew):.1f} s {'ahead' if skew > 0 else 'behind'}",
            "Turn on time synchronisation (chrony)",
        )
    if report.disk_free < LEAST_DISK:
        text = f"{size(report.disk_free)} of {size(report.disk_total)} are free for temporary files"
        add(Level.WARNING, "disk", text, "Make room or give the node a larger disk: objects and checkpoints spill there")
    if report.shared_free < LEAST_SHARED:
        mend = "Give the container more (docker run --shm-size=8g, an emptyDir of medium Memory): the object store lives there"
        add(Level.WARNING, "shared memory", f"{size(report.shared_free)} are free in /dev/shm", mend)
    if report.open_files < LEAST_FILES:
        mend = "Put `ulimit -n 65536` before `ray start`"
        add(Level.WARNING, "files", f"a process may open {report.open_files} files", mend)
    if report.gpu_problem:
        add(Level.ERROR, "gpu", report.gpu_problem, "Install the torch build for this driver, or use the GPU image")
    elif len(report.gpus) < gpus:
        text = f"Ray hands out {gpus:g} GPU(s), torch can use {len(report.gpus)}"
        add(Level.ERROR, "gpu", text, "Check `nvidia-smi` and the container's GPU runtime, then start the node again")
    if report.closed:
        text = f"cannot reach {', '.join(report.closed)}"
        add(Level.ERROR, "ports", text, "Let the nodes' security group admit its own members on all ports")
    return found
