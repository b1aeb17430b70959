"""Artifacts: published whole or not at all, checked by content, downloaded once."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cluster.store import storage
from cluster.store.artifact import (
    MANIFEST,
    Artifact,
    ArtifactError,
    Kind,
    digest,
    digest_each,
    find_artifact,
    first_place,
    open_artifact,
    publish,
    split_place,
)

ROOT = Path(__file__).parents[2]


def record(**changes: Any) -> dict[str, Any]:
    """The fields of a manifest but for the files."""
    fields = {"kind": Kind.MODEL, "step": "teacher", "stage": "finetune", "stage_version": 1, "config": {"epochs": 2}}
    return {**fields, "seconds": 1.0, "created": datetime.now(UTC), **changes}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """What a step has left behind, ready to be published."""
    place = tmp_path / "made"
    (place / "onnx").mkdir(parents=True)
    (place / "config.json").write_text("{}")
    (place / "model.safetensors").write_bytes(os.urandom(100_000))
    (place / "onnx" / "model.onnx").write_bytes(b"graph")
    return place


@pytest.fixture
def published(directory: Path, storage_uri: str) -> Artifact:
    return publish(directory, storage.join(storage_uri, "spam", "teacher-1a2b3c4d"), record(metrics={"f1": 0.9}))


def test_published_is_opened_and_verified(published: Artifact) -> None:
    opened = open_artifact(published.uri)
    assert opened == published
    assert opened.manifest.metrics == {"f1": 0.9}
    assert opened.files() == ["config.json", "model.safetensors", "onnx/model.onnx"]
    assert opened.files(prefix="onnx/", suffix=".onnx") == ["onnx/model.onnx"]
    assert storage.read_bytes(opened.file("onnx/model.onnx")) == b"graph"
    opened.verify()


def test_a_changed_file_is_refused_by_name(published: Artifact) -> None:
    weights = published.file("model.safetensors")
    content = bytearray(storage.read_bytes(weights))
    content[50_000] ^= 1
    storage.write_bytes(weights, bytes(content))
    with pytest.raises(ArtifactError, match=r"model\.safetensors: its sha256 is .* run its step again"):
        published.verify()


def test_a_missing_file_is_refused_by_name(published: Artifact) -> None:
    storage.delete(published.file("onnx/model.onnx"))
    with pytest.raises(ArtifactError, match=r"onnx/model\.onnx: not found.* run its step again"):
        published.verify()


def test_an_unfinished_step_is_not_an_artifact(storage_uri: str) -> None:
    storage.write_bytes(storage.join(storage_uri, "half", "model.safetensors"), b"x")
    assert find_artifact(storage.join(storage_uri, "half")) is None
    with pytest.raises(ArtifactError, match=r"half: no manifest\.json there, so the step .* has not finished"):
        open_artifact(storage.join(storage_uri, "half"))


def test_the_first_of_two_attempts_stands(published: Artifact, directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"another attempt")
    again = publish(directory, published.uri, record(metrics={"f1": 0.1}))
    assert again == published
    published.verify()


def test_the_fingerprint_is_the_content_and_nothing_else(directory: Path, tmp_path: Path) -> None:
    first = publish(directory, str(tmp_path / "a"), record())
    same = publish(directory, str(tmp_path / "b"), record(step="other", seconds=9.0, metrics={"f1": 1.0}))
    (directory / "config.json").write_text("{ }")
    other = publish(directory, str(tmp_path / "c"), record())
    assert first.fingerprint == same.fingerprint
    assert first.fingerprint != other.fingerprint


def test_a_manifest_that_was_damaged_is_said_to_be(published: Artifact) -> None:
    storage.write_bytes(storage.join(published.uri, MANIFEST), b'{"kind": "model"}')
    with pytest.raises(ArtifactError, match=r"is not a manifest: .*delete it to make it again"):
        open_artifact(published.uri)


@pytest.mark.parametrize("path", ["../outside", "a/../../outside", "/etc/outside"])
def test_a_manifest_cannot_reach_out_of_its_directory(published: Artifact, path: str) -> None:
    text = storage.read_bytes(storage.join(published.uri, MANIFEST)).decode()
    storage.write_bytes(storage.join(published.uri, MANIFEST), text.replace("config.json", path).encode())
    with pytest.raises(ArtifactError, match="would lie outside of the artifact"):
        open_artifact(published.uri)


@pytest.mark.parametrize("path", ["manifest.json", "Manifest.JSON", "manifest.json/a", "others/2/manifest.json", "OTHERS/2/a"])
def test_a_file_cannot_stand_for_a_manifest_or_a_further_output(published: Artifact, path: str) -> None:
    text = storage.read_bytes(storage.join(published.uri, MANIFEST)).decode()
    storage.write_bytes(storage.join(published.uri, MANIFEST), text.replace("config.json", path).encode())
    with pytest.raises(ArtifactError, match="would be read as the artifact's own (manifest.json|others)"):
        open_artifact(published.uri)


@pytest.mark.parametrize("name", [MANIFEST, "MANIFEST.json", "others/2/model.bin"])
def test_a_manifest_among_the_files_is_refused(directory: Path, tmp_path: Path, name: str) -> None:
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text("{}")
    with pytest.raises(ArtifactError, match="of its own"):
        publish(directory, str(tmp_path / "a"), record())
    assert not storage.exists(str(tmp_path / "a" / "config.json"))


@pytest.mark.parametrize(
    ("uri", "root", "place", "first"),
    [
        ("s3://b/runs/spam/small-1a2b3c4d", "s3://b/runs", "spam/small-1a2b3c4d", "s3://b/runs/spam/small-1a2b3c4d"),
        ("/r/spam/small-1a2b3c4d/others/7", "/r", "spam/small-1a2b3c4d/others/7", "/r/spam/small-1a2b3c4d"),
        ("/others/7/spam/small-1a2b3c4d", "/others/7", "spam/small-1a2b3c4d", "/others/7/spam/small-1a2b3c4d"),
        ("/r/others/small-1a2b3c4d/others/2", "/r", "others/small-1a2b3c4d/others/2", "/r/others/small-1a2b3c4d"),
        ("teacher", "", "/teacher", "teacher"),
    ],
)
def test_a_place_is_told_from_its_storage(uri: str, root: str, place: str, first: str) -> None:
    assert split_place(uri) == (root, place)
    assert first_place(uri) == first


KILLED = """
import os, signal, sys
from pathlib import Path
from cluster import artifact, storage

copy, copied = storage.copy_file, []

def copy_then_die(source, target):
    if copied:
        os.kill(os.getpid(), signal.SIGKILL)
    copied.append(target)
    return copy(source, target)

storage.copy_file = copy_then_die
artifact.publish(Path(sys.argv[1]), sys.argv[2], {})
"""


def test_a_publisher_killed_in_the_middle_leaves_no_artifact(directory: Path, storage_uri: str) -> None:
    uri = storage.join(storage_uri, "spam", "teacher-1a2b3c4d")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(directory), uri], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [stat.path for stat in storage.list_files(uri)] == ["config.json"]
    assert find_artifact(uri) is None
    publish(directory, uri, record()).verify()


def test_a_remote_artifact_is_downloaded_once_and_checked(
    directory: Path, s3_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSTILL_CACHE", str(tmp_path / "cache"))
    artifact = publish(directory, storage.join(s3_uri, "teacher"), record())
    place = artifact.local(only=["config.json"])
    assert [path.name for path in place.rglob("*") if path.is_file()] == ["config.json"]
    assert artifact.local() == place
    assert (place / "model.safetensors").read_bytes() == (directory / "model.safetensors").read_bytes()
    storage.delete(s3_uri)
    assert (artifact.local() / "onnx" / "model.onnx").read_bytes() == b"graph"


def test_a_damaged_download_is_refused_and_not_kept(
    directory: Path, s3_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSTILL_CACHE", str(tmp_path / "cache"))
    artifact = publish(directory, storage.join(s3_uri, "teacher"), record())
    storage.write_bytes(artifact.file("model.safetensors"), b"damaged")
    with pytest.raises(ArtifactError, match=r"model\.safetensors: its sha256 is"):
        artifact.local()
    assert [path.name for path in (tmp_path / "cache").rglob("*.safetensors*")] == []


def test_a_local_artifact_stays_where_it_is(directory: Path, tmp_path: Path) -> None:
    assert publish(directory, str(tmp_path / "a"), record()).local() == tmp_path / "a"


@pytest.mark.parametrize("values", [[], [["a.csv", "0f"]], [{"b": 1, "a": "é"}, None, [2.5]]])
def test_values_are_digested_one_by_one_as_together(values: list[Any]) -> None:
    assert digest_each(iter(values)) == digest(values)
