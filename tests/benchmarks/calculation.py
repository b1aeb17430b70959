"""Where time and money would go with 64 GPUs and 1 TB of text: a calculation, printed with its inputs, for docs/scale.md.

    python -m tests.benchmarks.calculation

The rates of one core are measured first, as seconds of CPU; all else is assumed here, or comes from cluster/prices.yaml and
the table of devices in jobs/training/hardware.py.
"""

import gzip
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.fleet.prices import Machine, read_prices
from jobs.data.clean import Clean, clean_text, text_key
from jobs.data.pack import document_bounds, documents_of, pack
from jobs.data.samples import fetch_sample
from jobs.data.tokenizer import Tokenizer, text_cutter, train_tokenizer
from jobs.running.sizing import BERT_BASE
from jobs.training.hardware import named_peak

TEXT_BYTES = 1e12
GPUS, GPU_MACHINE = 64, "p5.48xlarge"
CPU_MACHINES, CPU_MACHINE = 20, "m7i.12xlarge"
LENGTH = 512
BATCH_TOKENS = 2**20
"""Of a step, over all GPUs."""
MFU = 0.25
"""Share of the GPUs' peak: what one H200 gave for BERT-base at this length, uncompiled (tests/benchmarks/gpu.py, masked)."""
STORAGE_BYTES = 2e9
"""A second, that one node reads from S3 or writes there."""
LINK_BYTES = 200e9
"""A second, that one GPU machine exchanges with others: half of what its network is sold as."""
CHECKPOINT_SECONDS = 60
SAMPLE_LINES = 20_000


def rates() -> dict[str, float]:
    """Bytes of text for each second of CPU, and for each token, of wikitext-2 with MiniLM's tokenizer."""
    from transformers import AutoTokenizer

    (file,) = fetch_sample("wikitext2").glob("*train*")
    with gzip.open(file, "rt", encoding="utf-8") as text:
        lines = [line for line in text if line.strip()][:SAMPLE_LINES]
    size = sum(len(line.encode()) for line in lines)
    tokenizer: Any = AutoTokenizer.from_pretrained(fetch_sample("minilm_l6"))
    bounds = document_bounds(tokenizer)
    cleaned = _cpu_seconds(lambda: [text_key(clean_text(line, Clean())) for line in lines])
    packed = _cpu_seconds(lambda: pack(documents_of(lines, text_cutter(tokenizer), bounds), LENGTH, 0, len(tokenizer)))
    with tempfile.TemporaryDirectory() as directory:
        settings = Tokenizer.model_validate({"train": "wordpiece", "vocab_size": 30_000})
        trained = _cpu_seconds(lambda: train_tokenizer(settings, lines, LENGTH, Path(directory)))
    tokens = sum(map(len, documents_of(lines, text_cutter(tokenizer), bounds)))
    return {"clean": size / cleaned, "tokenise": size / packed, "train": size / trained, "token": size / tokens}


def _cpu_seconds(action: Callable[[], Any]) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began


def calculation(rate: dict[str, float]) -> list[tuple[str, float, float, str]]:
    """What, hours, USD at spot prices, and what it follows from."""
    machines = read_prices().machines
    gpu, cpu = machines[GPU_MACHINE], machines[CPU_MACHINE]
    nodes = GPUS // gpu.gpus
    tokens = TEXT_BYTES / rate["token"]
    prepare = TEXT_BYTES * (1 / rate["clean"] + 1 / rate["tokenise"]) / (CPU_MACHINES * cpu.cpus) / 3600
    training = tokens * _flops_per_token() / (GPUS * MFU * _peak()) / 3600
    reading = 2 * tokens / STORAGE_BYTES / 3600
    learnt = Tokenizer(train="wordpiece").train_characters
    trained = learnt / rate["train"] / cpu.cpus / 3600
    return [
        ("clean, tokenise, pack (CPU alone)", prepare, prepare * CPU_MACHINES * _spot(cpu), f"{CPU_MACHINES} × {CPU_MACHINE}"),
        ("train a tokenizer", trained, trained * _spot(cpu), f"{learnt / 1e6:.0f} million characters, one machine"),
        ("tokens to each node's disk", reading, reading * nodes * _spot(gpu), f"{2 * tokens / 1e9:.0f} GB, uint16"),
        ("pretrain, one epoch", training, training * nodes * _spot(gpu), f"{tokens / 1e9:.0f} billion tokens"),
    ]


def bounds(rate: dict[str, float]) -> list[str]:
    """What is far from its limit, and what is not."""
    step = BATCH_TOKENS * _flops_per_token() / (GPUS * MFU * _peak())
    exchange = 2 * 4 * BERT_BASE.parameters / LINK_BYTES
    checkpoint = 3 * 4 * BERT_BASE.parameters
    written = checkpoint / STORAGE_BYTES
    a_gpu = BATCH_TOKENS / step / GPUS
    return [
        f"a step takes {step * 1e3:.0f} ms; its gradients are exchanged in {exchange * 1e3:.0f} ms, beside the backward pass",
        f"a GPU takes {a_gpu / 1e6:.2f} million tokens a second: {2 * a_gpu / 1e6:.1f} MB/s from its node's disk",
        f"a checkpoint has {checkpoint / 1e9:.1f} GB: {written:.1f} s of every {CHECKPOINT_SECONDS}, in a thread",
        f"a loss of a node without notice costs {CHECKPOINT_SECONDS / 2:.0f} s of work on average, with notice none",
    ]


def _flops_per_token() -> float:
    """Forward and backward; Narayanan et al. 2021, "Efficient Large-Scale Language Model Training on GPU Clusters"."""
    embedded = (BERT_BASE.vocabulary + BERT_BASE.positions) * BERT_BASE.hidden
    return 6.0 * (BERT_BASE.parameters - embedded) + 12.0 * BERT_BASE.layers * BERT_BASE.hidden * LENGTH


def _peak() -> float:
    peak = named_peak(read_prices().machines[GPU_MACHINE].gpu, "bf16")
    assert peak is not None
    return peak


def _spot(machine: Machine) -> float:
    return machine.spot or machine.on_demand


def main() -> None:
    """Measure, calculate, print Markdown."""
    rate = rates()
    for name, value in {"TEXT_BYTES": TEXT_BYTES, "LENGTH": LENGTH, "BATCH_TOKENS": BATCH_TOKENS, "MFU": MFU}.items():
        print(f"    {name} {value:g}")
    print("   ", ", ".join(f"{name} {value / 1e6:.2f} MB/s a core" for name, value in rate.items() if name != "token"))
    print(f"    {rate['token']:.2f} bytes a token; prices of {read_prices().date}, spot\n")
    print("| what | hours | USD | of |\n|---|---|---|---|")
    for name, hours, dollars, why in calculation(rate):
        print(f"| {name} | {hours:.2f} | {dollars:,.0f} | {why} |")
    print()
    for line in bounds(rate):
        print(f"- {line}")


if __name__ == "__main__":
    main()
