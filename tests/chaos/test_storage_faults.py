"""Storage that fails for a while, and a disk that is full: nothing is half-published, and the work goes on."""

import hashlib
import os
import pickle
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.connection.connect import Cluster, attach_or_start
from cluster.store import storage
from cluster.store.artifact import Artifact
from cluster.store.s3 import PatientS3
from jobs.core.places import locate
from jobs.core.recipe import load_recipe
from tests.chaos.faults import ROUNDS, note, nothing_is_left
from tests.chaos.faulty_s3 import Proxy, faulty_s3
from tests.story.running import run_job
from tests.story.tiny_world import recipe, write_recipe, write_world

LONG = pytest.mark.skipif(ROUNDS < 2, reason="make chaos runs it")


def steps(directory: Path, *names: str, **changes: Any) -> str:
    """A recipe of some of the tiny world's steps."""
    tree = recipe(write_world(directory), **changes)
    tree["steps"] = {name: tree["steps"][name] for name in names}
    return write_recipe(directory / "tiny.yaml", tree)


def artifacts(file: str, uri: str) -> dict[str, Artifact]:
    places = locate(load_recipe(file), uri)
    return {name: place.artifact for name, place in places.items() if place.artifact is not None}


@pytest.fixture
def faulty(s3_uri: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The tests' S3 server behind a proxy with faults; this process's environment leads there."""
    with faulty_s3(s3_server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        storage._remote.cache_clear()
        yield proxy
    storage._remote.cache_clear()


def test_errors_that_pass_are_waited_for(faulty: Proxy, s3_uri: str) -> None:
    """Reading, writing, listing and deleting, also through a file system that was sent to another process."""
    content = os.urandom(12 << 20)  # of several parts
    place = storage.join(s3_uri, "a.bin")
    storage.write_bytes(place, content)
    sent: PatientS3 = pickle.loads(pickle.dumps(storage.filesystem(s3_uri)[0]))
    assert storage.trouble(s3_uri) is None
    faulty.fail(4)
    time.sleep(0.5)
    began = time.monotonic()
    assert "503" in (storage.trouble(s3_uri) or "")
    done: list[str] = []

    def outlive(name: str, action: Any) -> None:
        action()
        done.append(name)

    actions = {
        "read": lambda: hashlib.sha256(storage.read_bytes(place)).digest() == hashlib.sha256(content).digest() or 1 / 0,
        "write": lambda: storage.write_bytes(storage.join(s3_uri, "b.bin"), content),
        "sent": lambda: sent.get_file_info(storage.filesystem(place)[1]).size == len(content) or 1 / 0,
    }
    threads = [threading.Thread(target=outlive, args=action) for action in actions.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(done) == ["read", "sent", "write"] and time.monotonic() - began > 2
    assert storage.read_bytes(storage.join(s3_uri, "b.bin")) == content


@LONG
def test_half_a_minute_of_errors(faulty: Proxy, s3_uri: str, tmp_path: Path) -> None:
    """Every kind of step meets an outage of its own: Ray Data, Ray Train and Ray Tune outlive it."""
    file = steps(tmp_path, "corpus", "base", "messages", "teacher", base={"checkpoint_steps": 5})
    with attach_or_start("local", cpus=2) as cluster:
        # Seconds until the outage: messages are prepared within six.
        for module, step, after in (
            ("prepare", "corpus", 5),
            ("pretrain", "base", 5),
            ("prepare", "messages", 2),
            ("finetune", "teacher", 5),
        ):
            faults = threading.Timer(after, faulty.fail, (30,))
            faults.start()
            began = time.monotonic()
            ran = run_job(cluster, f"jobs.{module}", file, "--step", step, "--storage", s3_uri)
            assert ran.exit_code == 0, ran.text
            seconds = time.monotonic() - began
            assert seconds > 30, "it was over before the storage failed"
            note("storage answers errors for 30 s", f"{module} asks again until it answers", seconds - after - 30)
            faults.join()
        made = artifacts(file, s3_uri)
        assert list(made) == ["corpus", "base", "messages", "teacher"]
        for artifact in made.values():
            artifact.verify()
        assert not storage.list_files(storage.join(s3_uri, ".scratch"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB: what a search keeps of its trials fits, a ballast fills the rest."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk needs the right to mount: {mounted.stderr.decode()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path, but: int) -> None:
    """Leave so many bytes."""
    space = os.statvfs(disk)
    (disk / "ballast").write_bytes(bytes(space.f_bavail * space.f_frsize - but))


@pytest.mark.parametrize(
    ("module", "step"),
    [("prepare", "corpus"), pytest.param("pretrain", "base", marks=LONG), pytest.param("finetune", "teacher", marks=LONG)],
)
def test_a_full_disk(ray_driver: Cluster, small_disk: Path, tmp_path: Path, module: str, step: str) -> None:
    """A clear error, nothing half-published; with room again, the same command goes on."""
    file, runs = steps(tmp_path, "corpus", "base", "messages", "teacher"), str(small_disk / "runs")

    def run(module: str, step: str) -> Any:
        return run_job(ray_driver, f"jobs.{module}", file, "--step", step, "--storage", runs)

    for needed in {"base": ["corpus"], "teacher": ["messages"]}.get(step, []):
        assert run("prepare", needed).exit_code == 0
    before = artifacts(file, runs)
    fill(small_disk, 12_000)
    ran = run(module, step)
    print(ran.text)
    assert ran.exit_code not in (0, None)
    assert "no space is left; make room there" in ran.lines[-1], ran.text
    assert artifacts(file, runs) == before and not list(Path(runs).rglob("*.part"))
    (small_disk / "ballast").unlink()
    began = time.monotonic()
    ran = run(module, step)
    assert ran.exit_code == 0, ran.text
    note(
        "the disk is full", f"{module} says so and fails; with room again, the same command goes on", time.monotonic() - began
    )
    made = artifacts(file, runs)
    assert list(made) == [*before, step]
    made[step].verify()
    nothing_is_left(ray_driver, runs)
