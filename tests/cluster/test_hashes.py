"""Hashes that are made once, and checks that go on beside the work. `pytest tests/cluster/test_hashes.py`"""

import os
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest

from cluster.store import hashes, storage
from cluster.store.artifact import Artifact, ArtifactError, Kind, publish
from cluster.store.hashes import REMEMBERED_BYTES, known_sha256, sha256_of
from cluster.store.verifying import Verifying

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYSTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled at once: their ctime cannot be set back, and no test should wait for it."""
    monkeypatch.setattr(hashes, "SETTLED_SECONDS", -60.0)


def large(path: Path, first: bytes = b"a") -> Path:
    path.write_bytes(first * REMEMBERED_BYTES)
    return path


def content_hash(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


@pytest.mark.usefixtures("settled")
def test_a_large_file_is_read_once_on_a_host_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = large(tmp_path / "file")
    assert known_sha256(str(file)) is None
    assert sha256_of(str(file)) == known_sha256(str(file)) == content_hash(file)
    told = f"from cluster.store import hashes; hashes.SETTLED_SECONDS = -60; print(hashes.known_sha256({str(file)!r}))"
    other = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == content_hash(file), "another process knows it too"
    with monkeypatch.context() as patched:
        patched.setattr(storage, "sha256", lambda uri: pytest.fail(f"{uri} is read again"))
        assert sha256_of(str(file)) == content_hash(file)
    large(file, b"b")
    assert known_sha256(str(file)) is None
    assert sha256_of(str(file)) == content_hash(file)
    (tmp_path / "other").write_bytes(b"c" * REMEMBERED_BYTES)
    os.utime(tmp_path / "other", ns=(os.stat(file).st_atime_ns, os.stat(file).st_mtime_ns))
    os.replace(tmp_path / "other", file)
    assert sha256_of(str(file)) == content_hash(file), "another file of its size and time is another"


def test_what_is_small_or_just_written_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small").write_bytes(b"a")
    fresh = large(tmp_path / "fresh")
    for file in (tmp_path / "small", fresh):
        assert sha256_of(str(file)) == content_hash(file)
        assert known_sha256(str(file)) is None
    monkeypatch.setattr(hashes, "SETTLED_SECONDS", -60.0)
    sha256_of(str(tmp_path / "small"))
    assert known_sha256(str(tmp_path / "small")) is None


@pytest.mark.usefixtures("settled")
def test_a_memory_that_is_damaged_is_named_and_hashes_are_right(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.mkdir()
    (cache / "hashes.sqlite").write_bytes(b"no data base at all" * 1000)
    file = large(tmp_path / "file")
    assert [sha256_of(str(file)) for _ in range(3)] == [content_hash(file)] * 3
    said = capsys.readouterr().err
    assert said.count(str(cache / "hashes.sqlite")) == 1 and "delete it" in said


@pytest.mark.usefixtures("settled")
def test_many_threads_and_connections_remember_side_by_side(tmp_path: Path, cache: Path) -> None:
    files = [large(tmp_path / f"file{number}", bytes([number])) for number in range(16)]
    threads = [threading.Thread(target=sha256_of, args=(str(file),)) for file in files for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [known_sha256(str(file)) for file in files] == [content_hash(file) for file in files]
    with sqlite3.connect(cache / "hashes.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM hashes").fetchall() == [(16,)]


def published(tmp_path: Path, **contents: bytes) -> Artifact:
    made = tmp_path / "made"
    made.mkdir()
    for name, content in contents.items():
        (made / name).write_bytes(content)
    record = {"kind": Kind.EXAMPLES, "step": "made", "stage": "prepare", "stage_version": 1, "config": {}, "seconds": 0.0}
    return publish(made, str(tmp_path / "published"), record | {"created": datetime.now(UTC)})


def test_what_is_missing_or_cut_is_refused_before_the_work(tmp_path: Path) -> None:
    artifact = published(tmp_path, first=b"one", second=b"two")
    Path(artifact.file("second")).write_bytes(b"tw")
    with pytest.raises(ArtifactError, match=r"second: 2 bytes long, the manifest says 3\. Delete"), Verifying([artifact]):
        pytest.fail("the work began")
    Path(artifact.file("second")).unlink()
    with pytest.raises(ArtifactError, match=r"second: not there"), Verifying([artifact]):
        pytest.fail("the work began")


def test_small_files_are_read_before_the_work_and_large_ones_beside_it(tmp_path: Path) -> None:
    artifact = published(tmp_path, small=b"one", large=b"a" * 1000)
    Path(artifact.file("large")).write_bytes(b"b" * 1000)
    worked = []
    with pytest.raises(ArtifactError, match=r"large: its sha256 is"), Verifying([artifact], at_once=10):
        worked.append(True)
    assert worked == [True]
    with pytest.raises(ArtifactError, match=r"large: its sha256 is"), Verifying([artifact], at_once=2000):
        pytest.fail("the work began")


def test_damage_is_why_the_work_failed_and_an_interrupt_waits_for_nothing(tmp_path: Path) -> None:
    artifact = published(tmp_path, large=b"a" * 1000)
    with pytest.raises(ValueError, match="of its own"), Verifying([artifact], at_once=10):
        raise ValueError("of its own")
    Path(artifact.file("large")).write_bytes(b"b" * 1000)
    with pytest.raises(ArtifactError, match=r"large: its sha256 is") as refused, Verifying([artifact], at_once=10):
        raise ValueError("no such header")
    assert isinstance(refused.value.__context__, ValueError)
    with pytest.raises(KeyboardInterrupt), Verifying([artifact], at_once=10):
        raise KeyboardInterrupt
