"""int8 answers are the same on every processor: here, and on one without VNNI. `pytest tests/serve/test_processor.py`

The second is emulated (`apt-get install qemu-user`), and its arithmetic is written down in numpy: where sums in 16 bits begin
to saturate is seen without such a processor and without an emulator.
"""

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from jobs.compression.forms import FROM_WEIGHTS, PRODUCTS
from jobs.compression.quantize import quantize_static_int8
from serve.engines import processor
from serve.engines.backends import open_session

EMULATOR = "qemu-x86_64"
WITHOUT_VNNI = "Haswell"
WIDE = ("dynamic", "static")
"""Kinds whose plain graphs saturate."""
ROUNDED = 0.01
"""What rounding to 8 bits costs, as a share of the products' spread; to 7 bits it is twice that."""
PRECISE = "session.x64quantprecision"
PRODUCT_KINDS = ("MatMulInteger", "MatMulIntegerToFloat")


def added_up_in_16_bits(left_MK: np.ndarray, right_KN: np.ndarray) -> np.ndarray:
    """The product of unsigned with signed numbers as `vpmaddubsw` and `vpmaddwd` make it: neighbours along K are added up in
    16 bits, which saturate, and these sums in 32."""
    products_MKN = left_MK.astype(np.int32)[:, :, None] * right_KN.astype(np.int32)[None]
    pairs_MPN = products_MKN[:, ::2] + products_MKN[:, 1::2]
    whole: np.ndarray = pairs_MPN.clip(-(2**15), 2**15 - 1).sum(axis=1)
    return whole


def exact(left_MK: np.ndarray, right_KN: np.ndarray) -> np.ndarray:
    whole: np.ndarray = left_MK.astype(np.int32) @ right_KN.astype(np.int32)
    return whole


def full_range(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of 8 bits that use all of them."""
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (16, 64), dtype=np.uint8), draw.integers(-127, 128, (64, 32)).astype(np.int8)


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
    for kind in ("dynamic", *PRODUCTS):
        FROM_WEIGHTS[kind](place / "float.onnx", place / f"{kind}.onnx")  # type: ignore[index]
    quantize_static_int8(place / "float.onnx", place / "static.onnx", [{"rows": rows_MK}])
    return place


def multiplied(file: Path, rows_MK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The int8 numbers that a graph multiplies, for these rows."""
    model = onnx.load(str(file))
    (node,) = [node for node in model.graph.node if node.op_type in PRODUCT_KINDS]
    model.graph.output.append(onnx.ValueInfoProto(name=node.input[0]))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    matrices = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return session.run([node.input[0]], {"rows": rows_MK})[0], matrices[node.input[1]]


@given(st.integers(0, 255), st.integers(-128, 127))
def test_where_saturation_begins(left: int, right: int) -> None:
    """Two products of the largest numbers: 255 with 64 fits, with 65 it does not; 127 with any of 8 bits does."""
    left_MK, right_KN = np.full((1, 2), left, dtype=np.uint8), np.full((2, 1), right, dtype=np.int8)
    right_one = added_up_in_16_bits(left_MK, right_KN) == exact(left_MK, right_KN)
    assert right_one.all() == (-(2**15) <= 2 * left * right < 2**15)
    assert right_one.all() or (left > 127 and abs(right) > 64)


def test_weights_at_full_range_saturate_and_narrow_ones_do_not(products: Path) -> None:
    rows_MK = np.load(products / "rows.npy")
    off = {}
    for kind in ("dynamic", *PRODUCTS):
        left_MK, right_KN = multiplied(products / f"{kind}.onnx", rows_MK)
        if PRODUCTS.get(kind) == "unsigned":
            # Unsigned with unsigned numbers are widened first, and added up in 32 bits.
            assert left_MK.dtype == right_KN.dtype == np.uint8
            continue
        assert (left_MK.dtype, right_KN.dtype) == (np.uint8, np.int8)
        whole_MN = exact(left_MK, right_KN)
        off[kind] = float(np.abs(added_up_in_16_bits(left_MK, right_KN) - whole_MN).mean() / whole_MN.std())
    assert off.pop("dynamic") > 0.05, "this product does not saturate: the test shows nothing"
    assert off == {"rowwise": 0, "reduced_range": 0}


def errors(place: Path) -> dict[str, float]:
    """How far int8 is from float, as a share of the products' spread: in the sessions of serve, and in plain ones."""
    rows_MK = np.load(place / "rows.npy")
    exact_MN = open_session(place / "float.onnx", 1, "cpu").run(None, {"rows": rows_MK})[0]
    found = {}
    for kind in (*WIDE, *PRODUCTS):
        plain = onnxruntime.InferenceSession(str(place / f"{kind}.onnx"), providers=["CPUExecutionProvider"])
        served = open_session(place / f"{kind}.onnx", 1, "cpu", exact=kind in PRODUCTS)
        for name, session in ((kind, served), (f"plain {kind}", plain)):
            apart_MN = np.abs(session.run(None, {"rows": rows_MK})[0] - exact_MN)
            found[name] = float(apart_MN.mean() / exact_MN.std())
    return found


def is_near(found: dict[str, float], kind: str) -> bool:
    return found[kind] < (2 * ROUNDED if PRODUCTS.get(kind) == "narrow" else ROUNDED)


def product_here(seed: int) -> np.ndarray:
    """ONNX Runtime's own product of numbers at full range."""
    left_MK, right_KN = full_range(seed)
    numbers = [helper.make_tensor_value_info("a", TensorProto.UINT8, left_MK.shape)]
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["c"])],
        "product",
        numbers,
        [helper.make_tensor_value_info("c", TensorProto.INT32, [16, 32])],
        [numpy_helper.from_array(right_KN, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    made: np.ndarray = session.run(None, {"a": left_MK})[0]
    return made


def test_int8_is_near_float_here_and_what_is_said_of_this_processor_is_true(products: Path) -> None:
    found = errors(products)
    assert all(is_near(found, kind) for kind in (*WIDE, *PRODUCTS)), found
    saturates = min(found[f"plain {kind}"] for kind in WIDE) > 0.05
    assert saturates == processor.saturates() == (processor.int8_products() == "U8U8"), found
    assert processor.int8_products("narrow") == "U8S8" and processor.int8_products("unsigned") == "U8U8"
    options = open_session(products / "dynamic.onnx", 1, "cpu").get_session_options()
    if not saturates:
        with pytest.raises(RuntimeError):  # U8U8 takes a third longer with VNNI, and is no more right.
            options.get_session_config_entry(PRECISE)
    assert processor.name() and processor.described().startswith(processor.name())
    assert ("without VNNI" in processor.described()) == saturates == processor.kind().saturating


@pytest.mark.skipif(not processor.saturates(), reason="this processor adds products up in 32 bits (VNNI, or no x86)")
def test_the_real_kernel_saturates_as_the_arithmetic_says() -> None:
    np.testing.assert_array_equal(product_here(1), added_up_in_16_bits(*full_range(1)))


@pytest.fixture(scope="module")
def emulated(products: Path) -> dict[str, Any]:
    """What a processor without VNNI says of itself and of the products."""
    if platform.machine() != "x86_64":
        pytest.skip("this Python is no x86 program")
    if shutil.which(EMULATOR) is None:
        pytest.skip(f"{EMULATOR} is not installed: apt-get install qemu-user")
    command = [EMULATOR, "-cpu", WITHOUT_VNNI, sys.executable, "-m", "tests.serve.test_processor", str(products)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


def test_int8_is_as_near_where_plain_sessions_saturate(emulated: dict[str, Any]) -> None:
    found = emulated["errors"]
    assert emulated["saturates"] and "without VNNI" in emulated["described"] and emulated["kind"] == "avx2"
    assert min(found[f"plain {kind}"] for kind in WIDE) > 0.05, "this processor does not saturate: the test shows nothing"
    assert all(is_near(found, kind) for kind in (*WIDE, *PRODUCTS)), found
    assert all(found[f"plain {kind}"] == found[kind] for kind in PRODUCTS), "they run as they are"


def test_its_kernel_saturates_as_the_arithmetic_says(emulated: dict[str, Any]) -> None:
    whole_MN, found_MN = exact(*full_range(1)), np.array(emulated["product"])
    np.testing.assert_array_equal(found_MN, added_up_in_16_bits(*full_range(1)))
    assert (found_MN != whole_MN).mean() > 0.5
    if not processor.saturates():
        np.testing.assert_array_equal(product_here(1), whole_MN)


if __name__ == "__main__":
    told = {"saturates": processor.saturates(), "described": processor.described(), "kind": processor.kind()}
    print(json.dumps({**told, "errors": errors(Path(sys.argv[1])), "product": product_here(1).tolist()}))
