"""The doctor: real clusters with faults that are provoked, and what reports mean."""

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from cluster.connection.connect import Cluster
from cluster.connection.embedded import free_ports
from cluster.doctor import conclude, examine, main
from cluster.health.access import access_findings, token_file_findings
from cluster.health.findings import Finding, Level, node_findings
from cluster.health.probes import NodeReport, outside_addresses
from tests.chaos.second_node import second_node

WELL = NodeReport("host", {"python": "3.11.9", "ray": "2.60.0"}, None, 99 << 30, 99 << 30, 9 << 30, 65536, (), None, None, ())


@pytest.fixture(scope="module")
def with_another_version(ray_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster with a second node that has another transformers."""
    place = tmp_path_factory.mktemp("packages")
    (place / "transformers-9.9.9.dist-info").mkdir()
    (place / "transformers-9.9.9.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: transformers\nVersion: 9.9.9\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(place))
        node = second_node(ray_cluster, cpus=1)
        node.__enter__()
    yield ray_cluster
    node.__exit__(None, None, None)


def test_two_nodes_one_of_which_has_another_version(
    with_another_version: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = examine(with_another_version, str(tmp_path / "storage"))
    told = [(finding.check, finding.text) for finding in findings if finding.level == Level.ERROR]
    assert len(told) == 1, findings
    assert told[0][0] == "versions"
    assert "transformers is" in told[0][1]
    assert "9.9.9" in told[0][1]
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 3  # a head line, and a row for each node
    assert "storage" in table[0]
    assert [row.count("✗") for row in table[1:]] in ([0, 1], [1, 0])
    assert list((tmp_path / "storage").iterdir()) == []


def test_a_storage_that_cannot_be_written(
    with_another_version: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("a storage cannot be below a file")
    findings = [
        finding for finding in examine(with_another_version, str(tmp_path / "file" / "runs")) if finding.check == "storage"
    ]
    assert len(findings) == 3  # here, and on both nodes
    assert all("file/runs" in finding.text for finding in findings)
    assert conclude(findings) == 1
    assert "→ Give a storage" in capsys.readouterr().out


def test_a_wrong_token_and_none(
    ray_cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    assert main([str(tmp_path), "--address", ray_cluster.dashboard]) == 1
    assert "the cluster refuses the token that is set here" in capsys.readouterr().out
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "absent"))
    assert main([str(tmp_path), "--address", ray_cluster.dashboard]) == 1
    assert "no token is known here" in capsys.readouterr().out


def test_a_cluster_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_ports(1)[0]
    assert main([str(tmp_path), "--address", f"http://127.0.0.1:{port}"]) == 2
    assert "nothing answers" in capsys.readouterr().out
    assert main([str(tmp_path), "--address", f"127.0.0.1:{port}"]) == 2


def test_a_dashboard_that_can_be_reached_from_outside(ray_cluster: Cluster) -> None:
    addresses = [a.address for entries in psutil.net_if_addrs().values() for a in entries if a.family == socket.AF_INET]
    if all(address.startswith("127.") for address in addresses):
        pytest.skip("this machine has no address beyond loopback")
    with socket.create_server(("0.0.0.0", 0)) as everywhere, socket.create_server(("127.0.0.1", 0)) as loopback:
        outside = outside_addresses(everywhere.getsockname()[1])
        assert outside
        assert outside_addresses(loopback.getsockname()[1]) == []
    (finding,) = access_findings(ray_cluster.dashboard, outside)
    assert (finding.level, finding.check) == (Level.WARNING, "dashboard")
    assert outside[0] in finding.text


def test_a_token_that_others_can_read(tmp_path: Path) -> None:
    file = tmp_path / "auth_token"
    file.write_text("secret")
    file.chmod(0o644)
    (finding,) = token_file_findings({"RAY_AUTH_TOKEN_PATH": str(file)})
    assert finding.mend == f"chmod 600 {file}"
    file.chmod(0o600)
    assert token_file_findings({"RAY_AUTH_TOKEN_PATH": str(file)}) == []


@pytest.mark.parametrize(
    ("report", "skew", "gpus", "check", "level"),
    [
        (WELL, 45.0, 0, "clock", Level.ERROR),
        (WELL, -3.0, 0, "clock", Level.WARNING),
        (replace(WELL, disk_free=1 << 30), 0, 0, "disk", Level.WARNING),
        (replace(WELL, shared_free=64 << 20), 0, 0, "shared memory", Level.WARNING),
        (replace(WELL, open_files=1024), 0, 0, "files", Level.WARNING),
        (WELL, 0, 1, "gpu", Level.ERROR),
        (replace(WELL, gpu_problem="the driver shows a GPU and torch can use none"), 0, 0, "gpu", Level.ERROR),
        (replace(WELL, closed=("raylet 10.0.0.2:7000",)), 0, 0, "ports", Level.ERROR),
        (replace(WELL, storage_problem="cannot be written from here"), 0, 0, "storage", Level.ERROR),
    ],
)
def test_each_fault_has_its_finding_and_mend(report: NodeReport, skew: float, gpus: float, check: str, level: Level) -> None:
    (finding,) = node_findings({"a": report}, {"a": skew}, {"a": gpus})
    assert (finding.check, finding.level, finding.where) == (check, level, "a")
    assert finding.mend


def test_nothing_is_found_on_nodes_that_are_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert node_findings({"a": WELL, "b": replace(WELL, gpus=("L4",), driver="550")}, {}, {"b": 1}) == []
    assert conclude([]) == 0
    assert conclude([Finding(Level.WARNING, "disk", "a", "little is free", "Make room")]) == 0
    assert "0 error(s), 1 warning(s)" in capsys.readouterr().out
