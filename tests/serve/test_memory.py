"""The memory of a served model, in a process of its own."""

from pathlib import Path

import pytest

from serve.engines.card import EngineError
from serve.engines.memory import peak_memory


def test_torch_needs_more_memory_than_onnx_runtime(model_directory: Path) -> None:
    onnx, torch = peak_memory(model_directory, "onnx"), peak_memory(model_directory, "torch")
    assert 30e6 < onnx < 0.7 * torch < 5e9, "libraries are counted"
    with pytest.raises(EngineError, match="variant none did not run in a process of its own: .*no variant none"):
        peak_memory(model_directory, "none")
