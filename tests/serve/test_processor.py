"""int8 answers are the same on every processor: here, and on one without VNNI. `pytest tests/serve/test_processor.py`

The second is emulated (`apt-get install qemu-user`).
"""

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from jobs.compression.quantize import quantize_dynamic_int8, quantize_static_int8
from serve.engines import processor
from serve.engines.backends import open_session

EMULATOR = "qemu-x86_64"
WITHOUT_VNNI = "Haswell"
KINDS = ("dynamic", "static")
PRECISE = "session.x64quantprecision"


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One product in float and in int8, of weights and activations that use the whole range, and what it is given."""
    place, draw = tmp_path_factory.mktemp("products"), np.random.default_rng(0)
    weight_KN = draw.uniform(-1, 1, (256, 64)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["rows", "weight"], ["product"], "product")],
        "product",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["M", 256])],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, ["M", 64])],
        [numpy_helper.from_array(weight_KN, "weight")],
    )
    rows_MK = draw.uniform(0, 1, (16, 256)).astype(np.float32)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), place / "float.onnx")
    np.save(place / "rows.npy", rows_MK)
    quantize_dynamic_int8(place / "float.onnx", place / "dynamic.onnx")
    quantize_static_int8(place / "float.onnx", place / "static.onnx", [{"rows": rows_MK}])
    return place


def errors(place: Path) -> dict[str, float]:
    """How far int8 is from float, as a share of the products' spread: in the sessions of serve, and in plain ones."""
    rows_MK = np.load(place / "rows.npy")
    exact_MN = open_session(place / "float.onnx", 1, "cpu").run(None, {"rows": rows_MK})[0]
    found = {}
    for kind in KINDS:
        plain = onnxruntime.InferenceSession(str(place / f"{kind}.onnx"), providers=["CPUExecutionProvider"])
        for name, session in ((kind, open_session(place / f"{kind}.onnx", 1, "cpu")), (f"plain {kind}", plain)):
            apart_MN = np.abs(session.run(None, {"rows": rows_MK})[0] - exact_MN)
            found[name] = float(apart_MN.mean() / exact_MN.std())
    return found


def test_int8_is_near_float_here_and_what_is_said_of_this_processor_is_true(products: Path) -> None:
    found = errors(products)
    assert max(found[kind] for kind in KINDS) < 0.01, found
    saturates = min(found[f"plain {kind}"] for kind in KINDS) > 0.05
    assert saturates == processor.saturates() == (processor.int8_products() == "U8U8"), found
    options = open_session(products / "dynamic.onnx", 1, "cpu").get_session_options()
    if not saturates:
        with pytest.raises(RuntimeError):  # U8U8 takes a third longer with VNNI, and is no more right.
            options.get_session_config_entry(PRECISE)
    assert processor.name() and processor.described().startswith(processor.name())
    assert ("without VNNI" in processor.described()) == saturates


@pytest.mark.skipif(shutil.which(EMULATOR) is None, reason=f"{EMULATOR} is not installed: apt-get install qemu-user")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="this Python is no x86 program")
def test_int8_is_as_near_where_plain_sessions_saturate(products: Path) -> None:
    command = [EMULATOR, "-cpu", WITHOUT_VNNI, sys.executable, "-m", "tests.serve.test_processor", str(products)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads(ended.stdout)
    assert found.pop("saturates") and "without VNNI" in found.pop("described")
    assert min(found[f"plain {kind}"] for kind in KINDS) > 0.05, "this processor does not saturate: the test shows nothing"
    assert max(found[kind] for kind in KINDS) < 0.01, found


if __name__ == "__main__":
    told = {"saturates": processor.saturates(), "described": processor.described()}
    print(json.dumps(errors(Path(sys.argv[1])) | told))
