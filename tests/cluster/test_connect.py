"""A real embedded cluster: jobs run in it, fail with their own exit code, are stopped with their children; then it is gone."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.connection import embedded, guard
from cluster.connection.connect import (
    Cluster,
    ConnectError,
    attach,
    attach_or_start,
    capacity,
    driver_address,
    local_storage_problem,
)
from cluster.connection.upload import UploadError, check_upload, upload_sizes
from cluster.submit import children, current_job_id, follow, inherited_working_dir, result, stop, stop_children, submit

ROOT = Path(__file__).parents[2]

FAMILY = """
import os, sys, time
sys.path.insert(0, {root!r})
from cluster.connection.connect import attach
from cluster.submit import submit
depth = int(sys.argv[1])
print("depth", depth, "in", os.path.basename(os.getcwd()), flush=True)
if depth:
    with attach(os.environ["RAY_ADDRESS"]) as cluster:
        print("child", submit(cluster.jobs(), ["python", "family.py", str(depth - 1)]), flush=True)
time.sleep(600)
"""


THREE = """
import sys
print('first')
print('zweite Zeile: ä')
print('no newline', end='')
sys.exit(3)
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A working directory with a few programs in it."""
    place = tmp_path / "work"
    place.mkdir()
    (place / "family.py").write_text(FAMILY.format(root=str(ROOT)))
    (place / "three.py").write_text(THREE)
    return place


def wait_for(what: Callable[[], Any], seconds: float = 30) -> Any:
    """The first true answer, or a failed test."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)
    return answer


def test_a_job_prints_and_its_own_exit_code_comes_back(ray_cluster: Cluster, work: Path) -> None:
    client = ray_cluster.jobs()
    job_id = submit(client, ["python", "three.py"], str(work), {"recipe": "spam", "step": "big teacher"})
    assert job_id.startswith("raystill-spam-big-teacher-")
    # On a busy machine Ray's own line comes late: behind others, or at the end of one that has none of its own.
    log = re.sub(r"Running entrypoint for job .*", "", "\n".join(follow(client, job_id)))
    assert log.splitlines()[-3:] == ["first", "zweite Zeile: ä", "no newline"], log
    ended = result(client, job_id)
    assert (ended.status, ended.exit_code, ended.succeeded) == ("FAILED", 3, False)
    assert "no newline" in ended.message


def test_the_log_comes_while_the_job_runs_and_whole(ray_cluster: Cluster, work: Path) -> None:
    code = "import pathlib, time\nprint('early')\nwhile not pathlib.Path({!r}).exists(): time.sleep(0.1)\n"
    (work / "slow.py").write_text(code.format(str(work / "go")) + "for i in range(5000): print('line', i)\n")
    client = ray_cluster.jobs()
    job_id = submit(client, "python slow.py", str(work))
    log = follow(client, job_id)
    assert any(line == "early" for line in log)
    assert not client.get_job_status(job_id).is_terminal()
    (work / "go").touch()
    # On a busy machine Ray's own line may come behind the job's first one.
    assert [line for line in log if not line.startswith("Running entrypoint")] == [f"line {i}" for i in range(5000)]
    assert result(client, job_id).exit_code == 0


def test_a_parent_is_stopped_with_all_its_descendants(ray_cluster: Cluster, work: Path) -> None:
    client = ray_cluster.jobs()
    parent = submit(client, ["python", "family.py", "2"], str(work), {"name": "family"})
    (child,) = wait_for(lambda: children(client, parent))
    (grandchild,) = wait_for(lambda: children(client, child))
    wait_for(lambda: "depth 0" in client.get_job_logs(grandchild))
    # All of them run the one package that was uploaded.
    packages = {(client.get_job_info(job).runtime_env or {})["working_dir"] for job in (parent, child, grandchild)}
    assert len(packages) == 1
    assert packages.pop().startswith("gcs://")

    stop(client, parent)
    assert stop_children(client, parent) == [child, grandchild]
    assert [result(client, job).status for job in (parent, child, grandchild)] == ["STOPPED"] * 3
    assert children(client, parent) == []
    assert children(client, parent, running=False) == [child]
    wait_for(lambda: not _named("family.py"), seconds=10)


def _named(word: str) -> list[psutil.Process]:
    return [process for process in psutil.process_iter(["cmdline"]) if word in (process.info["cmdline"] or [])]


def test_a_job_knows_the_commit_of_its_code(ray_cluster: Cluster, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYSTILL_COMMIT", raising=False)
    git = ["git", "-C", str(work), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    (work / "three.py").write_text("import os; print('commit', os.environ['RAYSTILL_COMMIT'], os.environ['EXTRA'])")
    client = ray_cluster.jobs()
    job_id = submit(client, ["python", "three.py"], str(work), environment={"EXTRA": "more"})
    assert f"commit {commit}-dirty more" in list(follow(client, job_id))


def test_outside_of_a_job_there_is_no_parent() -> None:
    assert current_job_id() is None
    assert inherited_working_dir() == os.getcwd()


def test_the_command_line_exits_with_the_driver_s_code(ray_cluster: Cluster, work: Path) -> None:
    command = [sys.executable, "-m", "cluster.submit", "--working-dir", str(work), "--", "python", "three.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "zweite Zeile: ä" in done.stdout
    assert f"uploading {work}: 2 files, 0.0 MiB" in done.stderr
    assert "submitted raystill-three-" in done.stderr


def test_ctrl_c_stops_the_job_and_its_children(ray_cluster: Cluster, work: Path) -> None:
    command = [sys.executable, "-m", "cluster.submit", "--working-dir", str(work), "--", "python", "family.py", "1"]
    client = ray_cluster.jobs()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = next(line.split()[1] for line in process.stdout if line.startswith("child "))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    parent = (client.get_job_info(child).metadata or {})["parent"]
    assert [client.get_job_status(job).value for job in (parent, child)] == ["STOPPED", "STOPPED"]


def test_a_driver_in_this_process_sees_the_cluster(ray_driver: Cluster) -> None:
    found = capacity()
    assert (found.nodes, found.cpus, found.gpus) == (1, 2.0, 0.0)
    assert found.largest is not None
    assert found.largest.memory == found.memory > 1e9
    assert local_storage_problem("/data/runs") is None
    assert local_storage_problem("s3://bucket/runs") is None


def node(host: str, address: str, cpus: float = 2.0, alive: bool = True) -> dict[str, Any]:
    """A node as ray.nodes() tells of it."""
    return {"Alive": alive, "NodeManagerHostname": host, "NodeManagerAddress": address, "Resources": {"CPU": cpus}}


@pytest.mark.parametrize(
    ("nodes", "problem"),
    [
        ([node("a", "10.0.0.1"), node("a", "10.0.0.1")], None),
        ([node("a", "10.0.0.1"), node("b", "10.0.0.2", alive=False)], None),
        ([node("a", "10.0.0.1"), node("b", "10.0.0.2")], "2 hosts"),
        ([node("clone", "10.0.0.1"), node("clone", "10.0.0.2")], "2 hosts"),
        ([node("head", "10.0.0.1", cpus=0)], "no CPU for tasks"),
    ],
)
def test_a_local_path_cannot_serve_several_hosts(
    nodes: list[dict[str, Any]], problem: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several hosts cannot be had here: this is what ray.nodes() says of them.
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    found = local_storage_problem("/data/runs")
    assert (found is None) if problem is None else (found is not None and problem in found and "s3://" in found)


def test_attaching_leaves_the_cluster_running(ray_cluster: Cluster) -> None:
    assert ray_cluster.address is not None
    for address in (ray_cluster.address, ray_cluster.dashboard):
        with attach_or_start(address) as found:
            assert not found.owned
            assert found.dashboard == ray_cluster.dashboard
    with attach_or_start() as found:  # RAY_ADDRESS is set
        assert not found.owned
    assert ray_cluster.jobs().list_jobs() is not None


def test_what_is_no_cluster_is_said_to_be_none() -> None:
    with pytest.raises(ConnectError, match=r"127\.0\.0\.1:1: no Ray cluster answers there"):
        attach("127.0.0.1:1")
    with pytest.raises(ConnectError, match=r"http://127\.0\.0\.1:1: its jobs API cannot be used"):
        attach("http://127.0.0.1:1")
    with pytest.raises(ConnectError, match=r"use the GCS address"):
        attach("ray://127.0.0.1:10001")


def test_a_driver_is_told_of_a_wrong_address_before_ray_looks_for_it() -> None:
    with pytest.raises(ConnectError, match=r"RAY_ADDRESS is https://10\.0\.0\.1:8265, a dashboard's URL; .*host:6379"):
        driver_address("https://10.0.0.1:8265")
    for nowhere in ("127.0.0.1:1", "127.0.0.1:123456", "no.such.host.invalid:6379", "6379"):
        with pytest.raises(ConnectError, match=f"{nowhere}: no Ray cluster answers there"):
            driver_address(nowhere)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        there = f"127.0.0.1:{listening.getsockname()[1]}"
        assert [driver_address(address) for address in (there, "auto", "local", None)] == [there, "auto", "local", None]


def test_the_embedded_cluster_is_closed_to_others(ray_cluster: Cluster) -> None:
    listening = {
        connection.laddr.ip
        for process in _processes(ray_cluster)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-m", "cluster.submit", "--address", ray_cluster.dashboard, "--", "echo", "hello"]
    refused = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH" in refused.stderr
    assert ray_cluster.temp_dir is not None
    assert (Path(ray_cluster.temp_dir) / "token").stat().st_mode & 0o077 == 0


def _processes(cluster: Cluster) -> list[psutil.Process]:
    assert cluster._embedded is not None
    return cluster._embedded.processes


OWNER = """
import os, sys, time
from cluster.connection.connect import attach_or_start
from cluster.submit import submit
with attach_or_start("local", cpus=1) as cluster:
    client = cluster.jobs()
    job = submit(client, "sleep 7331", sys.argv[1])
    while client.get_job_status(job).value != "RUNNING":
        time.sleep(0.1)
    print(cluster.temp_dir, cluster._embedded._guard.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("ending", ["SIGINT", "SIGKILL"])
def test_nothing_is_left_when_the_owner_ends(ending: str, work: Path) -> None:
    """Jobs included: the driver's session is not the cluster's."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", OWNER, str(work)]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        try:
            directory, session = owner.stdout.readline().split()
            # A job is called running a moment before its process is there.
            wait_for(lambda: bool(_named("7331")), seconds=15)
            owner.send_signal(getattr(signal, ending))
            owner.wait(30)
        finally:
            owner.kill()
    wait_for(lambda: not guard.members(directory, int(session)) and not psutil.pid_exists(int(session)), seconds=15)
    assert not _named("7331")
    assert not Path(directory).exists()


def test_a_cluster_that_does_not_start_shows_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    directory = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setattr(embedded.tempfile, "mkdtemp", lambda **_: str(directory))
    with pytest.raises(embedded.StartError, match=r"(?s)ray start ended with code 1 .*must be nonnegative"):
        embedded.start(cpus=-1)
    assert not directory.exists()


def test_a_path_to_the_checkout_is_not_passed_on(monkeypatch: pytest.MonkeyPatch, work: Path, tmp_path: Path) -> None:
    monkeypatch.chdir(work)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(work), str(tmp_path)]))
    assert embedded._inherited(tmp_path)["PYTHONPATH"] == str(tmp_path)


def test_only_what_git_would_keep_is_uploaded(tmp_path: Path) -> None:
    unwanted = (".git/config", ".venv/lib/big.py", "out/model.bin", "package/__pycache__/x.pyc")
    for name in (*unwanted, "code.py", "package/deep.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / ".gitignore").write_text("/out/\n")
    assert set(upload_sizes(tmp_path)) == {".gitignore", "code.py", "package/deep.py"}
    ours = upload_sizes(ROOT)
    assert "cluster/submit.py" in ours
    assert not [path for path in ours if path.startswith((".venv", ".git/")) or "__pycache__" in path]


def test_a_working_directory_that_is_too_large_names_its_largest_files(tmp_path: Path) -> None:
    with open(tmp_path / "weights.bin", "wb") as file:
        file.truncate(120 << 20)  # a hole: no disk is used
    (tmp_path / "code.py").write_text("x")
    with pytest.raises(UploadError, match=r"would upload 120 MiB, .* 100 MiB .*weights\.bin \(120\.0 MiB\).*\.gitignore"):
        check_upload(tmp_path)
    (tmp_path / ".rayignore").write_text("*.bin\n")
    assert check_upload(tmp_path) == "2 files, 0.0 MiB"
    with pytest.raises(UploadError, match="no such directory"):
        check_upload(tmp_path / "elsewhere")


def test_what_git_does_not_know_is_named_before_it_is_uploaded(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("x")
    (tmp_path / ".gitignore").write_text("*.log\n")
    (tmp_path / "train.log").write_text("x")
    for arguments in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    assert check_upload(tmp_path) == "2 files, 0.0 MiB"
    (tmp_path / "notes.txt").write_text("x")
    assert check_upload(tmp_path) == "3 files, 0.0 MiB; 1 of them are not in git: notes.txt"
