"""This host's processor: its name, and how it multiplies the int8 numbers of a quantised model.

    described()         # "AMD EPYC", or "AMD EPYC without VNNI: int8 as U8U8"

int8 graphs multiply unsigned activations with signed weights (U8S8). x86 without VNNI adds such products up in 16 bits, which
saturate; there the engine's sessions have ONNX Runtime turn the weights to unsigned ones (U8U8), whose sums are
exact. Answers are the same, and a product takes longer: so it is done only where a product that is tried comes out wrong.
"""

import platform
from functools import cache
from pathlib import Path

import numpy as np

# ONNX: product (1 × 16, int32) = MatMulInteger(left (1 × 64, uint8), right (64 × 16, int8)), opset 10. As bytes, since the
# package onnx would take more memory than many a model that is served.
PRODUCT = (
    b'\x08\x08\x12\x00:\\\n\x18\n\x01a\n\x01b\x12\x01c"\rMatMulInteger\x12\x01pZ\x13\n\x01a\x12\x0e\n\x0c\x08\x02\x12\x08'
    b"\n\x02\x08\x01\n\x02\x08@Z\x13\n\x01b\x12\x0e\n\x0c\x08\x03\x12\x08\n\x02\x08@\n\x02\x08\x10b\x13\n\x01c\x12\x0e"
    b"\n\x0c\x08\x06\x12\x08\n\x02\x08\x01\n\x02\x08\x10B\x04\n\x00\x10\n"
)


@cache
def name() -> str:
    """The processor as the operating system names it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


@cache
def saturates() -> bool:
    """Whether ONNX Runtime's products of unsigned with signed numbers come out too small here: the largest ones are tried."""
    import onnxruntime

    session = onnxruntime.InferenceSession(PRODUCT, providers=["CPUExecutionProvider"])
    left, right = np.full((1, 64), 255, dtype=np.uint8), np.full((64, 16), 127, dtype=np.int8)
    product = session.run(None, {"a": left, "b": right})[0]
    return not np.array_equal(product, left.astype(np.int32) @ right.astype(np.int32))


def int8_products() -> str:
    """U8S8, or U8U8 where signed weights would saturate."""
    return "U8U8" if saturates() else "U8S8"


def described() -> str:
    """Both in a few words, as figures of speed name the processor that they were taken on."""
    return f"{name()} without VNNI: int8 as U8U8" if saturates() else name()
