"""Files behind URIs: the same behaviour on a local directory and on a real S3 server."""

import gc
import hashlib
import json
import time
import urllib.request
from pathlib import Path

import pytest

from cluster.store import storage


def test_what_is_written_is_read(storage_uri: str) -> None:
    place = storage.join(storage_uri, "runs", "a.json")
    assert not storage.exists(place)
    storage.write_bytes(place, b"{}")
    storage.write_bytes(place, b'{"again": 1}')
    assert storage.read_bytes(place) == b'{"again": 1}'
    assert storage.exists(place)
    storage.check_writable(storage_uri)


@pytest.mark.parametrize(
    ("uri", "inside"),
    [
        ("gs://bucket/raystill/spam", "bucket/raystill/spam"),
        ("abfs://account@container/raystill", "container/raystill"),
        ("abfs://container@account.dfs.core.windows.net/raystill", "container/raystill"),
        ("s3://bucket/a?b#c/", "bucket/a?b#c"),
    ],
)
def test_a_uri_s_path_begins_with_its_bucket(uri: str, inside: str) -> None:
    assert storage.filesystem(uri)[1] == inside


def test_a_password_in_a_uri_is_refused_and_not_repeated() -> None:
    for ask in (storage.absolute, storage.exists):
        with pytest.raises(storage.StorageError, match="holds a password.*credentials come from the environment") as caught:
            ask("s3://AKIAEXAMPLE:hunter2@bucket/raystill")
        assert "hunter2" not in str(caught.value)


def test_listing_is_sorted_relative_and_recursive(storage_uri: str) -> None:
    assert storage.list_files(storage_uri) == []
    for name in ("b.txt", "a/deep/c.txt", "a/b.txt"):
        storage.write_bytes(storage.join(storage_uri, name), name.encode())
    assert [(stat.path, stat.size) for stat in storage.list_files(storage_uri)] == [
        ("a/b.txt", 7),
        ("a/deep/c.txt", 12),
        ("b.txt", 5),
    ]
    assert all(abs(stat.modified - time.time()) < 60 for stat in storage.list_files(storage_uri))
    assert storage.list_directories(storage_uri) == ["a"]


def test_delete_takes_files_directories_and_nothing(storage_uri: str) -> None:
    for name in ("keep.txt", "a/1.txt", "a/b/2.txt"):
        storage.write_bytes(storage.join(storage_uri, name), b"x")
    storage.delete(storage.join(storage_uri, "a"))
    storage.delete(storage.join(storage_uri, "a"))
    assert [stat.path for stat in storage.list_files(storage_uri)] == ["keep.txt"]
    storage.delete(storage.join(storage_uri, "keep.txt"))
    assert storage.list_files(storage_uri) == []


@pytest.mark.parametrize("size", [10, 12 << 20])  # below and above one part of an upload
def test_a_write_that_fails_is_never_seen(storage_uri: str, size: int) -> None:
    new, old = storage.join(storage_uri, "new.bin"), storage.join(storage_uri, "old.bin")
    storage.write_bytes(old, b"old")
    for place in (new, old):
        with pytest.raises(ZeroDivisionError), storage.open_output(place) as stream:
            stream.write(b"x" * size)
            raise ZeroDivisionError
    gc.collect()  # a forgotten pyarrow stream would complete its upload here
    assert [stat.path for stat in storage.list_files(storage_uri)] == ["old.bin"]
    assert storage.read_bytes(old) == b"old"


def test_an_upload_that_is_interrupted_leaves_no_torn_object(s3_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(reader: object, writer: storage.BinaryIO, _: int) -> None:
        writer.write(b"x" * (12 << 20))
        raise KeyboardInterrupt

    place = storage.join(s3_uri, "model.bin")
    with monkeypatch.context() as patch:
        patch.setattr(storage.shutil, "copyfileobj", interrupted)
        with pytest.raises(KeyboardInterrupt):
            storage.write_bytes(place, b"x" * (20 << 20))
    gc.collect()
    assert not storage.exists(place)


def test_copying_between_storages_keeps_content_and_tells_its_hash(storage_uri: str, tmp_path: Path) -> None:
    content = bytes(range(256)) * 80_000  # 20 MB: several parts
    source = tmp_path / "source.bin"
    source.write_bytes(content)
    expected = hashlib.sha256(content).hexdigest()
    place = storage.join(storage_uri, "copy.bin")
    assert storage.copy_file(str(source), place) == expected
    assert storage.sha256(place) == expected
    assert storage.copy_file(place, str(tmp_path / "back.bin")) == expected
    assert (tmp_path / "back.bin").read_bytes() == content


def test_compressed_files_are_read_as_they_are(storage_uri: str) -> None:
    place = storage.join(storage_uri, "data.gz")
    storage.write_bytes(place, b"not really gzip")
    assert storage.read_bytes(place) == b"not really gzip"


def test_errors_name_the_uri_and_the_remedy(storage_uri: str) -> None:
    missing = storage.join(storage_uri, "nope.txt")
    with pytest.raises(storage.StorageError, match=r"nope\.txt: not found; check the path"):
        storage.read_bytes(missing)
    with pytest.raises(storage.StorageError, match=r"ftp://host: no such storage .*use a local path"):
        storage.read_bytes("ftp://host/file")


def test_a_bucket_that_is_not_there_is_named(s3_uri: str) -> None:
    with pytest.raises(storage.StorageError, match=r"s3://raystill-elsewhere/x"):
        storage.write_bytes("s3://raystill-elsewhere/x", b"")


def test_objects_are_where_other_tools_look(s3_uri: str, s3_server: str) -> None:
    storage.write_bytes(storage.join(s3_uri, "a.json"), b'{"seen": true}')
    with urllib.request.urlopen(f"{s3_server}/{s3_uri.removeprefix('s3://')}/a.json") as reply:
        assert json.load(reply) == {"seen": True}


def test_local_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("runs") == str(tmp_path / "runs")
    assert storage.absolute("file:///data/x") == "/data/x"
    assert storage.absolute("s3://bucket/x/") == "s3://bucket/x"
    storage.write_bytes("file://" + str(tmp_path / "a"), b"1")
    assert storage.read_bytes("a") == b"1"
    free = storage.free_bytes("not/yet/there")
    assert free is not None
    assert free > 0
    assert storage.free_bytes("s3://bucket/x") is None
