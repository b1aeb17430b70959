"""This host's processor: its name, of which kind it is, and how it multiplies the int8 numbers of a quantised model.

    kind()              # ProcessorKind.VNNI_BF16: figures of speed, and which int8 form is best, hold for one kind
    described()         # "AMD EPYC", or "AMD EPYC without VNNI: int8 as U8U8"

int8 graphs multiply unsigned activations with signed weights (U8S8). x86 without VNNI adds such products up in 16 bits, which
saturate; there the engine's sessions have ONNX Runtime turn the weights to unsigned ones (U8U8), whose sums are
exact. Answers are the same, and a product takes longer: so it is done only where a product that is tried comes out wrong, and
not for graphs whose products fit 16 bits as they are.
"""

import platform
from collections.abc import Iterator
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

# ONNX: product (1 × 16, int32) = MatMulInteger(left (1 × 64, uint8), right (64 × 16, int8)), opset 10. As bytes, since the
# package onnx would take more memory than many a model that is served.
PRODUCT = (
    b'\x08\x08\x12\x00:\\\n\x18\n\x01a\n\x01b\x12\x01c"\rMatMulInteger\x12\x01pZ\x13\n\x01a\x12\x0e\n\x0c\x08\x02\x12\x08'
    b"\n\x02\x08\x01\n\x02\x08@Z\x13\n\x01b\x12\x0e\n\x0c\x08\x03\x12\x08\n\x02\x08@\n\x02\x08\x10b\x13\n\x01c\x12\x0e"
    b"\n\x0c\x08\x06\x12\x08\n\x02\x08\x01\n\x02\x08\x10B\x04\n\x00\x10\n"
)

Products = Literal["wide", "narrow", "unsigned"]
"""How large two products of an int8 graph are together: see `Variant.products`."""


class ProcessorKind(StrEnum):
    """How a processor multiplies int8 numbers, and whether it has bf16: which of two models is the faster depends on it."""

    AMX = "amx+bf16"
    VNNI_BF16 = "vnni+bf16"
    VNNI = "vnni"
    AVX2 = "avx2"
    """x86 without VNNI, with AVX-512 or without: products are added up in 16 bits."""
    I8MM_BF16 = "i8mm+bf16"
    I8MM = "i8mm"
    DOTPROD = "dotprod"
    NEON = "neon"
    """The last four are of aarch64."""
    OTHER = "other"
    """No x86 and no aarch64."""

    def __repr__(self) -> str:
        return repr(str(self))

    @property
    def saturating(self) -> bool:
        """Whether products of unsigned with signed numbers saturate."""
        return self is ProcessorKind.AVX2


@cache
def kind() -> ProcessorKind:
    """Of this host, by what it does where that can be tried, else by what the operating system says it has."""
    flags, machine = _flags(), platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        if saturates():
            return ProcessorKind.AVX2
        if "amx_int8" in flags:
            return ProcessorKind.AMX
        return ProcessorKind.VNNI_BF16 if "avx512_bf16" in flags else ProcessorKind.VNNI
    if machine in ("aarch64", "arm64"):
        if "i8mm" in flags:
            return ProcessorKind.I8MM_BF16 if "bf16" in flags else ProcessorKind.I8MM
        return ProcessorKind.DOTPROD if "asimddp" in flags else ProcessorKind.NEON
    return ProcessorKind.OTHER


def unlike_judged(judged_on: ProcessorKind | None) -> str | None:
    """A sentence for who serves a model, where this host is of another kind than that which it was judged on."""
    if judged_on is None or (here := kind()) is judged_on:
        return None
    return (
        f"judged on {judged_on}, served on {here}: neither its speed nor that it was the best choice is known here; "
        f"evaluate with `for: {here}`, or serve on {judged_on}"
    )


@cache
def name() -> str:
    """The processor as the operating system names it."""
    return next(_told("model name"), "") or platform.processor() or platform.machine()


@cache
def saturates() -> bool:
    """Whether ONNX Runtime's products of unsigned with signed numbers come out too small here: the largest ones are tried."""
    import onnxruntime

    session = onnxruntime.InferenceSession(PRODUCT, providers=["CPUExecutionProvider"])
    left, right = np.full((1, 64), 255, dtype=np.uint8), np.full((64, 16), 127, dtype=np.int8)
    product = session.run(None, {"a": left, "b": right})[0]
    return not np.array_equal(product, left.astype(np.int32) @ right.astype(np.int32))


def int8_products(products: Products = "wide") -> str:
    """U8S8, or U8U8 where weights are unsigned, or are turned to such, as wide products of signed ones would saturate here."""
    return "U8U8" if products == "unsigned" or (products == "wide" and saturates()) else "U8S8"


def described() -> str:
    """Both in a few words, as figures of speed name the processor that they were taken on."""
    return f"{name()} without VNNI: int8 as U8U8" if saturates() else name()


def _flags() -> frozenset[str]:
    """What the operating system says that it can do; empty where it says nothing."""
    told = next(_told("flags"), None) or next(_told("Features"), "")
    return frozenset(told.split())


def _told(key: str) -> Iterator[str]:
    """The values of a key in /proc/cpuinfo."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return (line.split(":", 1)[1].strip() for line in lines if line.split(":", 1)[0].strip() == key)
