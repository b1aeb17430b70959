"""Which of ONNX Runtime's providers a device means, and what is said where one is not there."""

from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from serve.engines.backends import Device, OnnxBackend
from serve.engines.card import EngineError
from serve.engines.engine import load_engine
from serve.engines.processor import saturates

ALL = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


class Session:
    """Notes the providers that it is asked for."""

    asked: list[str] = []
    works: list[str] = ALL

    def __init__(self, file: str, options: Any, providers: list[str]) -> None:
        Session.asked = providers

    def get_providers(self) -> list[str]:
        return [name for name in Session.asked if name in Session.works]

    def get_inputs(self) -> list[Any]:
        return []

    def get_outputs(self) -> list[Any]:
        return [type("Output", (), {"name": "logits"})]


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> type[Session]:
    saturates()  # Asked once a process, of a real session.
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ALL)
    monkeypatch.setattr(Session, "works", ALL)
    return Session


@pytest.mark.parametrize(("device", "providers"), [("auto", ALL[2:]), ("cpu", ALL[2:]), ("cuda", ALL[1:]), ("tensorrt", ALL)])
def test_providers_of_each_device(sessions: type[Session], device: Device, providers: list[str]) -> None:
    OnnxBackend(Path("model.onnx"), ("logits",), 1, device)
    assert sessions.asked == providers


@pytest.mark.parametrize(("device", "missing"), [("cuda", ALL[1]), ("tensorrt", ALL[0])])
def test_a_provider_that_is_not_built_in_is_named(device: Device, missing: str) -> None:
    with pytest.raises(EngineError, match=f"no {missing}; install onnxruntime-gpu"):
        OnnxBackend(Path("model.onnx"), ("logits",), 1, device)


def test_a_provider_that_does_not_start_is_not_replaced_in_silence(
    sessions: type[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "works", ALL[1:])
    with pytest.raises(EngineError, match="TensorrtExecutionProvider does not start here"):
        OnnxBackend(Path("model.onnx"), ("logits",), 1, "tensorrt")


def test_torch_variants_do_not_run_on_tensorrt(model_directory: Path) -> None:
    with pytest.raises(EngineError, match="TensorRT runs ONNX graphs"):
        load_engine(model_directory, "torch", device="tensorrt")
