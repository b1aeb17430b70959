"""A calculation, not a measure: one epoch of masked pretraining over 1 TB of text on 64 GPUs. Where time and money go, and
what breaks first. All inputs are printed; only the speed of cutting text into tokens is measured here.

    python -m tests.benchmarks.at_scale
"""

import json
import time
from dataclasses import asdict, dataclass

from cluster.prices import Machine, read_prices
from jobs.core.memory import Load, ModelShape, training_memory

HOUR = 3600
TEXT_FILE = "docs/training.md"
FULL_SIZE = ModelShape(layers=12, hidden=768, heads=12, feed_forward=3072, vocabulary=30522)


@dataclass(frozen=True)
class Inputs:
    """What is assumed."""

    text_bytes: float = 1e12
    bytes_per_token: float = 4.3
    """English in word pieces."""
    gpus: int = 64
    row_tokens: int = 128
    rows_per_gpu: int = 256
    token_bytes: int = 2
    utilisation: float = 0.3
    """Share of the GPUs' peak that training reaches."""
    packers: int = 1
    """Processes that cut text into tokens: `resources.workers` of `prepare`."""
    disk_bytes: float = 200e9
    """cluster/fleet.yaml's disk of a node."""

    @property
    def tokens(self) -> float:
        return self.text_bytes / self.bytes_per_token


@dataclass(frozen=True)
class Node:
    """A machine of the price table, and what its data sheet says of half precision and of the network, in bytes a second."""

    machine: str
    peak_flops: float
    network: float

    @property
    def known(self) -> Machine:
        return read_prices().machines[self.machine]


NODES = (Node("g6.xlarge", 121e12, 2.5e9 / 8), Node("g6.12xlarge", 121e12, 40e9 / 8), Node("p5.48xlarge", 989e12, 3200e9 / 8))


def step_seconds(shape: ModelShape, given: Inputs, node: Node) -> tuple[float, float]:
    """One step's arithmetic (6 operations a weight and token, as in Kaplan et al. 2020), and its sum of gradients.

    A ring sends each node's gradients twice; GPUs of one node add theirs up inside it first.
    """
    work = 6 * shape.parameters * given.row_tokens * given.rows_per_gpu / (node.peak_flops * given.utilisation)
    nodes = given.gpus / node.known.gpus
    return work, 2 * (nodes - 1) / nodes * shape.parameters * 4 / node.network


def training_row(shape: ModelShape, given: Inputs, node: Node, accumulated: int) -> dict[str, object]:
    """Hours and dollars of an epoch; gradients of so many parts are added up before they are sent."""
    work, network = step_seconds(shape, given, node)
    steps = given.tokens / (given.gpus * given.rows_per_gpu * given.row_tokens)
    hours = steps * (work + network / accumulated) / HOUR
    nodes = given.gpus // node.known.gpus
    prices = (node.known.spot or node.known.on_demand, node.known.on_demand)
    load = Load(given.rows_per_gpu, given.row_tokens, "bf16", predicted=0.15, fused_attention=True)
    return {
        "machine": node.machine,
        "gradient_accumulation": accumulated,
        "rows_a_step": given.rows_per_gpu * given.gpus * accumulated,
        "hours": round(hours, 1),
        "waits_for_the_network": round(network / accumulated / (work + network / accumulated), 2),
        "usd": [round(nodes * price * hours) for price in prices],
        "gpu_memory_gib": round(training_memory(shape, load).total / 2**30, 1),
    }


def packing_rate(seconds: float = 3.0) -> float:
    """Bytes of text that one process cuts into tokens in a second, by the demo's tokenizer."""
    from transformers import AutoTokenizer

    from jobs.data.samples import fetch_sample

    tokenizer = AutoTokenizer.from_pretrained(str(fetch_sample("minilm_l6")))
    with open(TEXT_FILE, encoding="utf-8") as file:
        texts = [line for line in file.read().splitlines() if len(line) > 40] * 20
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        tokenizer(texts, add_special_tokens=False)
        done += sum(len(text.encode()) for text in texts)
    return done / (time.perf_counter() - began)


def limits(given: Inputs, rate: float) -> dict[str, object]:
    """What does not grow with the number of GPUs."""
    tokens_bytes = given.tokens * given.token_bytes
    return {
        "prepare_hours": round(given.text_bytes / (rate * given.packers) / HOUR, 1),
        "packers_for_a_day": round(given.text_bytes / rate / (24 * HOUR), 1),
        "tokens_gb": round(tokens_bytes / 1e9),
        "fits_on_a_node_s_disk": tokens_bytes < given.disk_bytes,
        "checkpoint_gb": round(12 * FULL_SIZE.parameters / 1e9, 2),
    }


def main() -> None:
    """Print inputs, training on each kind of node, and the limits."""
    given, rate = Inputs(), packing_rate()
    print(json.dumps({"inputs": asdict(given), "model": asdict(FULL_SIZE), "prices_of": str(read_prices().date)}))
    print(json.dumps({"nodes": [asdict(node) for node in NODES], "packing_mb_a_second": round(rate / 1e6, 2)}))
    for node in NODES:
        for accumulated in (1, 8):
            print(json.dumps(training_row(FULL_SIZE, given, node, accumulated)))
    print(json.dumps(limits(given, rate)))


if __name__ == "__main__":
    main()
