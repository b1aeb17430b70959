"""What the hardware can do and what a run gets out of it: floating-point operations, MFU, memory.

    result, flops = count_flops(lambda: step(batch))         # forward and backward
    mfu(flops * steps_per_second, device, "bf16")             # 0.41; None where the peak is not known
    memory_bytes(device)
    keep_freed_memory()

MFU is the share of the peak that the model's own operations make use of (Chowdhery et al. 2022, PaLM, appendix B).
"""

import ctypes
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

T = TypeVar("T")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's malloc.h"""
LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Peak:
    """The most that one device does, in 10¹² operations a second, dense: sparsity doubles figures that no model here meets."""

    fp32: float
    tf32: float | None = None
    fp16: float | None = None
    bf16: float | None = None


# From the vendors' data sheets as of November 2026; where they give figures with sparsity, half of those.
# The first pattern that is found in torch.cuda.get_device_name counts.
PEAKS: tuple[tuple[str, Peak], ...] = (
    (r"\bMIG\b", Peak(0)),  # A slice of a device: no sheet says what it does.
    (r"\bGB200\b", Peak(80, 1250, 2500, 2500)),
    (r"\bB200\b", Peak(75, 1100, 2250, 2250)),
    (r"\bGH200\b", Peak(67, 494.7, 989.4, 989.4)),
    (r"\bH200 NVL\b", Peak(60, 417.5, 835.5, 835.5)),
    (r"\bH200\b", Peak(67, 494.7, 989.4, 989.4)),
    (r"\bH100 NVL\b", Peak(60, 417.5, 835.5, 835.5)),
    (r"\bH100 PCIe\b", Peak(51, 378, 756, 756)),
    (r"\bH100\b", Peak(67, 494.7, 989.4, 989.4)),
    (r"\bH20\b", Peak(44, 74, 148, 148)),
    (r"\bA100\b", Peak(19.5, 156, 312, 312)),
    (r"\bA40\b", Peak(37.4, 74.8, 149.7, 149.7)),
    (r"\bA30\b", Peak(10.3, 82, 165, 165)),
    (r"\bA10G\b", Peak(35, 35, 70, 70)),
    (r"\bA10\b", Peak(31.2, 62.5, 125, 125)),
    (r"\bL40S\b", Peak(91.6, 183, 362, 362)),
    (r"\bL40\b", Peak(90.5, 90.5, 181, 181)),
    (r"\bL4\b", Peak(30.3, 60, 121, 121)),
    (r"\bT4\b", Peak(8.1, None, 65, None)),
    (r"\bV100S", Peak(16.4, None, 130, None)),
    (r"\bV100-PCIE", Peak(14, None, 112, None)),
    (r"\bV100\b", Peak(15.7, None, 125, None)),
    (r"\bMI300X\b", Peak(163.4, 653.7, 1307.4, 1307.4)),
)


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Operations a second of a device at best in fp32, bf16 or fp16; None for CPUs and for devices not in the table."""
    if device.type != "cuda":
        return None
    return named_peak(torch.cuda.get_device_name(device), precision, torch.get_float32_matmul_precision() != "highest")


def named_peak(name: str, precision: str, tf32: bool = False) -> float | None:
    """As `peak_flops`, of a device by its name; tf32: whether fp32 multiplications may be shortened to it."""
    peak = next((peak for pattern, peak in PEAKS if re.search(pattern, name)), None)
    if peak is None:
        return None
    fp32 = peak.tf32 if tf32 and peak.tf32 else peak.fp32
    value = {"fp32": fp32, "fp16": peak.fp16, "bf16": peak.bf16}[precision]
    return value * 1e12 if value else None


def mfu(flops_per_second: float, device: torch.device, precision: str) -> float | None:
    """The share of one device's peak that these operations a second are; None where the peak is not known."""
    peak = peak_flops(device, precision)
    return flops_per_second / peak if peak else None


def memory_bytes(device: torch.device) -> int:
    """The most that was allocated on a GPU at a time so far; on a CPU what the process holds now."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def keep_freed_memory() -> bool:
    """Have glibc keep what this process frees for its next allocations; returns whether this machine has glibc.

    By default a large tensor's memory goes back to the system and comes again, zeroed page by page, at each step; in a
    thread, where Ray runs its workers, still more often. For the whole process, until it ends.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_THRESHOLD, LARGEST) and libc.mallopt(M_TRIM_THRESHOLD, LARGEST))


def count_flops(run: Callable[[], T]) -> tuple[T, int]:
    """Run and count the floating-point operations of matrix products, convolutions and attention in it.

    A multiplication with its addition counts as two, attention as if nothing were masked. What a compiled model does
    inside its kernels is not seen: count before compiling. Counting slows the call down a few times: do it once.
    """
    # torch leaves attention's CPU kernel out of its table.
    cpu_attention: dict[Any, Any] = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    }
    with FlopCounterMode(display=False, custom_mapping=cpu_attention) as counter:
        result = run()
    return result, counter.get_total_flops()


def _attention_flops(q_shape: Any, k_shape: Any, v_shape: Any, *rest: Any, **others: Any) -> int:
    return int(sdpa_flop_count(q_shape, k_shape, v_shape))


def _attention_backward_flops(gradient_shape: Any, q_shape: Any, k_shape: Any, v_shape: Any, *rest: Any, **others: Any) -> int:
    return int(sdpa_backward_flop_count(gradient_shape, q_shape, k_shape, v_shape))
