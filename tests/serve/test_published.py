"""A model behind a URI: its fingerprint, what is fetched of it, and what is refused."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster.store.artifact import MANIFEST, Artifact, Kind, publish
from serve.engines.card import EngineError
from serve.engines.engine import load_engine
from serve.engines.published import open_model
from tests.serve.tiny_model import TEXTS, texts_as_items


def publish_model(model_directory: Path, place: Path, kind: Kind = Kind.MODEL) -> Artifact:
    record = {"kind": kind, "step": "small", "stage": "compress", "stage_version": 1, "config": {}}
    return publish(model_directory, str(place), record | {"seconds": 0.0, "created": datetime.now(UTC)})


def test_an_artifact_and_its_plain_directory_are_the_same_model(model_directory: Path, tmp_path: Path) -> None:
    artifact = publish_model(model_directory, tmp_path / "small")
    published = open_model(artifact.uri, artifact.fingerprint)
    assert published.fingerprint == artifact.fingerprint == open_model(str(model_directory)).fingerprint
    engine = load_engine(published.fetch("onnx"), "onnx")
    items = texts_as_items(TEXTS)
    assert engine.answers(items) == load_engine(model_directory, "onnx").answers(items)


def test_changed_weights_are_refused(model_directory: Path, tmp_path: Path) -> None:
    artifact = publish_model(model_directory, tmp_path / "small")
    with open(tmp_path / "small" / "model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(EngineError, match="changed or damaged"):
        open_model(artifact.uri).fetch("torch")
    # The other variant's own files are whole.
    open_model(artifact.uri).fetch("onnx")


def test_what_is_no_model_is_refused(model_directory: Path, tmp_path: Path) -> None:
    report = publish_model(model_directory, tmp_path / "report", Kind.REPORT)
    with pytest.raises(EngineError, match="holds report, not a model"):
        open_model(report.uri)
    with pytest.raises(EngineError, match="asked for"):
        open_model(str(model_directory), "0" * 64)
    shutil.copytree(model_directory, tmp_path / "damaged")
    (tmp_path / "damaged" / MANIFEST).write_text("{}")
    with pytest.raises(EngineError, match="is not a manifest"):
        open_model(str(tmp_path / "damaged"))
