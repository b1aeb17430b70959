"""Fine-tuning as an example script does it: transformers' model and tokenizer, torch's AdamW, a loop. It imports no job.

    python -m tests.benchmarks.kinds_loop DIRECTORY      # prints what it answers for each test text, as JSON

DIRECTORY has the initial weights with their tokenizer (model/), rows.json (by split, texts and targets) and
loop.json: `Given` below. Each batch is padded to its longest text. B batch, C labels, N texts.
"""

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Given:
    """What both sides have in common."""

    kind: str
    names: tuple[str, ...]
    """The labels in their order; none where answers are numbers."""
    bounds: tuple[float, float] | None
    """Of numbers: the scale's ends."""
    order: list[list[int]]
    """The rows of each step."""
    rate: float
    warmup: float
    weight_decay: float
    clip_norm: float
    max_length: int
    bf16: bool
    threads: int
    seed: int


class Script:
    """The rows, the model, and the steps over them."""

    def __init__(self, directory: Path) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.given = Given(**json.loads((directory / "loop.json").read_text()))
        self.rows: dict[str, dict[str, list[Any]]] = json.loads((directory / "rows.json").read_text())
        model = AutoModelForSequenceClassification.from_pretrained(directory / "model", dtype="float32")
        self.model: Any = model
        self.tokenizer = AutoTokenizer.from_pretrained(directory / "model")
        written = self.rows["train"]["target"]
        if self.given.kind == "regression":
            self.mean, self.deviation = float(np.mean(written)), float(np.std(written))
        self.targets = self._targets(written)

    def train(self) -> None:
        """One step for each batch of the order."""
        optimizer, schedule = self._optimizer()
        self.model.train()
        for rows in self.given.order:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.given.bf16):
                loss = self._loss(self._logits("train", rows), self.targets[rows])
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.given.clip_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()

    def logits(self, split: str) -> np.ndarray:
        """logits_NC of a split."""
        self.model.eval()
        count, found = len(self.rows[split]["target"]), []
        with torch.inference_mode():
            for start in range(0, count, 64):
                found.append(self._logits(split, range(start, min(start + 64, count))).float())
        return torch.cat(found).numpy()

    def answers(self) -> list[Any]:
        """Of each test text: its label, its labels, or its number."""
        test_NC = self.logits("test")
        if self.given.kind == "classification":
            return [self.given.names[number] for number in test_NC.argmax(-1)]
        if self.given.kind == "ordinal":
            return [self.given.names[reached] for reached in (test_NC > 0).sum(-1)]
        if self.given.kind == "regression":
            assert self.given.bounds is not None
            numbers: list[float] = np.clip(self.mean + self.deviation * test_NC[:, 0], *self.given.bounds).tolist()
            return numbers
        thresholds_C = _best_thresholds(self.logits("validation"), self._targets(self.rows["validation"]["target"]).numpy())
        return [[name for name, yes in zip(self.given.names, row, strict=True) if yes] for row in test_NC > thresholds_C]

    def _targets(self, written: Sequence[Any]) -> Tensor:
        names = self.given.names
        if self.given.kind == "classification":
            return torch.tensor([names.index(name) for name in written])
        if self.given.kind == "ordinal":
            return torch.tensor([[float(names.index(name) > step) for step in range(len(names) - 1)] for name in written])
        if self.given.kind == "regression":
            return torch.tensor([[(number - self.mean) / self.deviation] for number in written])
        return torch.tensor([[float(name in own) for name in names] for own in written])

    def _loss(self, logits_BC: Tensor, targets: Tensor) -> Tensor:
        if self.given.kind == "classification":
            return nn.functional.cross_entropy(logits_BC.float(), targets)
        if self.given.kind == "regression":
            return nn.functional.mse_loss(logits_BC.float(), targets)
        return nn.functional.binary_cross_entropy_with_logits(logits_BC.float(), targets)

    def _logits(self, split: str, rows: Sequence[int]) -> Tensor:
        texts = [[column[row] for row in rows] for column in self.rows[split]["texts"]]
        # As BERT's own tokenizer does of pairs, in whichever form this one was saved.
        typed = len(texts) > 1 and getattr(self.model.config, "type_vocab_size", 0) > 1
        cut = {"truncation": True, "max_length": self.given.max_length, "padding": True, "return_tensors": "pt"}
        encoded = self.tokenizer(*texts, **cut, return_token_type_ids=typed)
        logits: Tensor = self.model(**encoded).logits
        return logits

    def _optimizer(self) -> tuple[torch.optim.Optimizer, Any]:
        weights = list(self.model.parameters())
        groups = [
            {"params": [one for one in weights if one.ndim >= 2], "weight_decay": self.given.weight_decay},
            {"params": [one for one in weights if one.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.given.rate)
        total = len(self.given.order)
        warm = math.ceil(total * self.given.warmup)

        def factor(step: int) -> float:
            return (step + 1) / warm if step < warm else 1 - (step - warm) / max(1, total - warm)

        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _best_thresholds(logits_NC: np.ndarray, truth_NC: np.ndarray) -> np.ndarray:
    """For each label the logit from which on giving it has the best F1."""
    from sklearn.metrics import precision_recall_curve

    found = []
    for logits_N, truth_N in zip(logits_NC.T, truth_NC.T, strict=True):
        if not truth_N.any():
            found.append(0.0)
            continue
        precision, recall, thresholds = precision_recall_curve(truth_N, logits_N)
        best = int((precision * recall / np.maximum(precision + recall, 1e-12))[:-1].argmax())
        below = thresholds[best - 1] if best else -np.inf
        found.append(float(thresholds[best] + below) / 2)
    return np.array(found)


def main() -> None:
    """Train, answer, print."""
    directory = Path(sys.argv[1])
    script = Script(directory)
    torch.set_num_threads(script.given.threads)
    torch.manual_seed(script.given.seed)
    began = time.perf_counter()
    script.train()
    seconds = time.perf_counter() - began
    print(json.dumps({"answers": script.answers(), "seconds": seconds}))


if __name__ == "__main__":
    main()
