"""What is counted of a training step against numbers made by hand, and the table of peaks."""

import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.parallel import DistributedDataParallel

from jobs.training.hardware import count_flops, memory_bytes, mfu, named_peak, peak_flops

# B batch, T tokens, D hidden, H heads, C classes
B, T, D, H, C = 2, 16, 32, 4, 3
CPU = torch.device("cpu")

PROJECTIONS = 2 * B * T * D * (3 * D)
ATTENTION = 2 * (2 * B * T * T * D)
HEAD = 2 * B * T * D * C
FORWARD = PROJECTIONS + ATTENTION + HEAD
# Each product costs two more backward, one for its weights and one for its input, except that nobody asks for the
# gradient of the model's own input; attention costs 5 products for 2, since it makes its scores again.
BACKWARD = PROJECTIONS + ATTENTION * 5 // 2 + 2 * HEAD


class Attention(nn.Module):
    """A layer of self-attention and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.head = nn.Linear(D, 3 * D), nn.Linear(D, C)

    def forward(self, x_BTD: Tensor) -> Tensor:
        q, k, v = (part.view(B, T, H, D // H).transpose(1, 2) for part in self.project(x_BTD).chunk(3, -1))
        mixed_BTD = scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, T, D)
        return self.head(mixed_BTD).float().square().mean()


def step(model: nn.Module) -> Callable[[], Tensor]:
    """Forward and backward of a batch."""

    def run() -> Tensor:
        loss: Tensor = model(torch.randn(B, T, D))
        loss.backward()
        return loss.detach()

    return run


def test_a_linear_layer_by_hand() -> None:
    layer, x = nn.Linear(D, C), torch.randn(B, D)
    result, flops = count_flops(lambda: layer(x))
    assert result.shape == (B, C) and flops == 2 * B * D * C
    # Backward: the weights' gradient; then with the input's gradient too.
    assert count_flops(lambda: layer(x).sum().backward())[1] == 2 * (2 * B * D * C)
    assert count_flops(lambda: layer(x.requires_grad_()).sum().backward())[1] == 3 * (2 * B * D * C)


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "autocast-bf16"])
def test_an_attention_model_by_hand(bf16: bool) -> None:
    model = Attention()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        with torch.no_grad():
            assert count_flops(lambda: model(torch.randn(B, T, D)))[1] == FORWARD
        assert count_flops(step(model))[1] == FORWARD + BACKWARD


def test_counting_changes_nothing() -> None:
    model = Attention()
    batch = torch.randn(B, T, D)
    model(batch).backward()
    plain = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    count_flops(lambda: model(batch).backward())
    for parameter, before in zip(model.parameters(), plain, strict=True):
        assert parameter.grad is not None and torch.equal(parameter.grad, before)


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "autocast-bf16"])
def test_under_ddp(process_group: None, bf16: bool) -> None:
    model = DistributedDataParallel(Attention())
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        assert count_flops(step(model))[1] == FORWARD + BACKWARD
        assert count_flops(step(model))[1] == FORWARD + BACKWARD


def test_peaks_by_name() -> None:
    assert named_peak("NVIDIA A100-SXM4-80GB", "bf16") == 312e12
    assert named_peak("NVIDIA A100-SXM4-80GB", "fp32") == 19.5e12
    assert named_peak("NVIDIA A100-SXM4-80GB", "fp32", tf32=True) == 156e12
    assert named_peak("NVIDIA A10G", "bf16") == 70e12
    assert named_peak("NVIDIA A10", "bf16") == 125e12
    assert named_peak("NVIDIA L4", "bf16") == 121e12 and named_peak("NVIDIA L40S", "bf16") == 362e12
    assert named_peak("NVIDIA H100 80GB HBM3", "bf16") == 989.4e12
    assert named_peak("NVIDIA H100 PCIe", "bf16") == 756e12
    assert named_peak("NVIDIA H200", "fp16") == 989.4e12
    assert named_peak("Tesla T4", "fp16") == 65e12 and named_peak("Tesla T4", "fp32", tf32=True) == 8.1e12
    assert named_peak("Tesla T4", "bf16") is None, "it has none"
    assert named_peak("Tesla V100-SXM2-16GB", "fp16") == 125e12 and named_peak("Tesla V100-PCIE-16GB", "fp16") == 112e12
    assert named_peak("NVIDIA B200", "bf16") == 2250e12
    assert named_peak("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16") is None, "a slice"
    assert named_peak("NVIDIA GeForce GTX 1080", "fp32") is None


def test_a_cpu_has_no_peak_but_memory() -> None:
    assert peak_flops(CPU, "fp32") is None and mfu(1e9, CPU, "bf16") is None
    before = memory_bytes(CPU)
    block = torch.ones(64 << 20, dtype=torch.uint8)
    assert memory_bytes(CPU) - before > 32 << 20
    del block


def test_mfu_is_the_share_of_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.training.hardware.peak_flops", lambda device, precision: 100e12)
    assert mfu(25e12, CPU, "bf16") == 0.25


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    device = torch.device("cuda")
    model = Attention().to(device)
    torch.cuda.reset_peak_memory_stats()

    def run() -> None:
        model(torch.randn(B, T, D, device=device)).backward()

    with torch.autocast("cuda", torch.bfloat16):
        assert count_flops(run)[1] == FORWARD + BACKWARD
    assert memory_bytes(device) >= sum(4 * parameter.numel() for parameter in model.parameters())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_memory_that_was_freed_is_not_asked_for_again() -> None:
    """In a process of its own: the setting stays."""
    told = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    before, after = map(int, told.split())
    assert before > 10 * max(after, 1), (before, after)


FAULTS = """
import resource, torch
from jobs.training.hardware import keep_freed_memory

def faults():
    for _ in range(6):
        torch.ones(8 << 20)
    began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(8 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - began

before = faults()
assert keep_freed_memory()
print(before, faults())
"""
