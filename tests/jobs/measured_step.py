"""Trains for two steps in a process of its own and prints how much memory that took at the most.

python -m tests.jobs.measured_step '{"architecture": "bert", "layers": 4, …}' 8000 32 128 fp32

What torch, transformers and an empty process take is measured first and taken off.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from jobs.architectures.new import _NAMES, NewModelConfig
from jobs.training.optim import make_optimizer
from jobs.training.parallel import Parallelism
from jobs.training.settings import Optimizer, Training


def peak_bytes() -> int:
    """The most that this process has had in memory since the mark was last reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Measure."""
    shape, vocabulary, batch, tokens = NewModelConfig(**json.loads(sys.argv[1])), *map(int, sys.argv[2:5])
    checkpointing = len(sys.argv) > 6
    torch.set_num_threads(1)
    parallelism = Parallelism("ddp", Training(precision=sys.argv[5], activation_checkpointing=checkpointing), unused=False)
    torch.nn.Linear(8, 8)(torch.zeros(2, 8)).sum().backward()
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_bytes()
    named = _NAMES[shape.architecture](shape, shape.feed_forward or 4 * shape.hidden, tokens)
    config = AutoConfig.for_model(shape.architecture, vocab_size=vocabulary, num_labels=2, **named)
    made = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    model, optimizer = parallelism.prepare(made.train(), lambda module: make_optimizer(module, Optimizer()))
    ids_BT = torch.randint(5, vocabulary, (batch, tokens))
    for _ in range(2):
        output = model(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), labels=torch.zeros(batch, dtype=torch.long))
        parallelism.accelerator.backward(output.loss)
        parallelism.clip(model, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    parameters = sum(weight.numel() for weight in model.parameters())
    print(json.dumps({"bytes": peak_bytes() - before, "parameters": parameters}))


if __name__ == "__main__":
    main()
