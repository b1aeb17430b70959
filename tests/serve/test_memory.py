"""The memory of served models, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from serve.engines.card import EngineError
from serve.engines.memory import ROOT, peak_memories

BY_ITSELF = """
import sys
from pathlib import Path
from serve.engines.memory import _answer, resident_peak
_answer((Path(sys.argv[1]), sys.argv[2]), 1, 32)
print(resident_peak())
"""


def test_torch_needs_more_memory_than_onnx_runtime(model_directory: Path) -> None:
    onnx, torch, again = peak_memories([(model_directory, name) for name in ("onnx", "torch", "onnx")])
    assert 30e6 < onnx < 0.7 * torch < 5e9, "libraries are counted"
    assert again == onnx
    with pytest.raises(EngineError, match="no variant none"):
        peak_memories([(model_directory, "onnx"), (model_directory, "none")])


@pytest.mark.parametrize("variant", ["onnx", "torch"])
def test_a_fork_is_measured_as_a_process_that_nothing_was_imported_for(model_directory: Path, variant: str) -> None:
    command = [sys.executable, "-c", BY_ITSELF, str(model_directory), variant]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert peak_memories([(model_directory, variant)]) == [pytest.approx(int(ran.stdout.split()[-1]), rel=0.06)]


def test_a_model_that_does_not_run_is_told(model_directory: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    subprocess.run(["cp", "-r", str(model_directory), str(broken)], check=True)
    for file in broken.rglob("*.onnx"):
        file.write_bytes(b"no graph")
    with pytest.raises(EngineError, match="a variant did not run in a process of its own: .*ONNX Runtime cannot load it"):
        peak_memories([(model_directory, "onnx"), (broken, "onnx")])
