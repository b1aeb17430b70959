"""This host's processor: its name, and how it multiplies the int8 numbers of a quantised model.

    described()         # "AMD EPYC", or "AMD EPYC without VNNI: int8 as U8U8"

int8 graphs multiply unsigned activations with signed weights (U8S8). x86 without VNNI adds such products up in 16 bits, which
saturate; there the sessions of serve.backends have ONNX Runtime turn the weights to unsigned ones (U8U8), whose sums are
exact. Answers are the same, and a product takes longer.
"""

import platform
from functools import cache
from pathlib import Path

X86 = ("x86_64", "amd64")
VNNI = frozenset({"avx512_vnni", "avx_vnni"})
"""As Linux names them; either adds products up in 32 bits."""


@cache
def name() -> str:
    """The processor as the operating system names it."""
    return _field("model name") or platform.processor() or platform.machine()


@cache
def int8_products() -> str:
    """U8S8, or U8U8 where signed weights would saturate; on x86 that is not Linux, where it is not known, U8U8 too."""
    saturates = platform.machine().lower() in X86 and not VNNI & set(_field("flags").split())
    return "U8U8" if saturates else "U8S8"


def described() -> str:
    """Both in a few words, as figures of speed name the processor that they were taken on."""
    return name() if int8_products() == "U8S8" else f"{name()} without VNNI: int8 as U8U8"


def _field(wanted: str) -> str:
    """What /proc/cpuinfo says of the first processor; empty where there is no such file or line."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == wanted), "")
