"""Learning a task from its targets, whatever its kind: the objective of fine-tuning, and what distillation wraps.

    objective = Supervised(examples, tokenizer, spec, max_length=128, inputs=inputs_of(model, spec), loss={})

B batch, T tokens, N items.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cluster.store.artifact import Artifact
from jobs.architectures.adapter import merged
from jobs.contracts.learning import Batch, targets_at
from jobs.contracts.objective import Learner
from jobs.tasks import cleaning_of, learning_of
from jobs.tasks.telling import TEXTS_CUT
from jobs.tasks.windows import ReadItems, Windows, reader
from serve.cleaning.cleaning import Cleaning
from serve.engines.card import Card, TrainingData, Variant, write_card
from serve.tasks.protocol import Fitted, Output, Outputs, Task
from serve.watch.drift import training_data

EVALUATION_BATCH = 64


class TaskObjective(Learner):
    """A task's own loss over windows; judged by its own figures over items. How the model is published, others say."""

    def __init__(
        self,
        examples: Artifact,
        spec: Task,
        read: ReadItems,
        pad: int,
        inputs: Sequence[str],
        loss: Mapping[str, Any] | None = None,
        unlabelled: bool = False,
    ) -> None:
        self.learning, self.spec, self.cleaning = learning_of(spec.kind), spec, cleaning_of(examples)
        self.inputs = tuple(inputs)
        self.train = Windows(examples, "train", self.learning, spec, read, pad, unlabelled)
        self.validation = Windows(examples, "validation", self.learning, spec, read, pad)
        self.size, self.validation_size = len(self.train), len(self.validation.items)
        self.lengths: Sequence[int] | None = self.train.lengths
        settings = self.learning.loss_of(spec).model_validate(loss or {})
        self.criterion = self.learning.criterion(spec, settings, self.train.truth)
        self.splits = self.criterion.splits
        metrics = self.learning.metrics_of(spec)
        self.score, self.mode = metrics[0].name, str(metrics[0].mode)
        self.measures = {metric.name: metric.mode for metric in metrics} | {"validation_loss": "min"}

    def batch(self, indices: np.ndarray, seed: int, step: int) -> Batch:
        """The training windows with these numbers; nothing is random."""
        return self.train.batch(indices, self.inputs)

    def count(self, batch: Batch) -> float:
        """What the task counts."""
        return self.criterion.count(batch)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The task's loss, summed over the batch."""
        return self.criterion.loss(self.forward(model, batch), batch)

    def forward(self, call: Any, batch: Batch) -> Any:
        """What the task's losses take, of a model or whatever is called like one."""
        return self.learning.forward(call, {name: batch[name] for name in self.inputs})

    def evaluate(self, model: nn.Module, indices: np.ndarray, device: torch.device) -> Any:
        """Of the validation items with these numbers, what `measure` needs."""
        order, outputs = self.outputs(model, indices, device)
        return self.learning.part(self.spec, outputs, targets_at(self.validation.truth, order))

    def measure(self, parts: Sequence[Any]) -> dict[str, float]:
        """The task's figures and the mean loss."""
        return self.learning.measured(self.spec, parts)

    def outputs(self, model: nn.Module, items: np.ndarray, device: torch.device) -> tuple[np.ndarray, Outputs]:
        """What the model says of these validation items, and their order in it: those of like length come together."""
        validation, spec = self.validation, self.spec
        lengths = validation.item_lengths
        order = np.array(sorted(items, key=lambda item: lengths[item]), dtype=np.int64)
        said: list[Output] = []
        windows = validation.windows_of(order)
        for start in range(0, len(windows), EVALUATION_BATCH):
            together = windows[start : start + EVALUATION_BATCH]
            batch = {name: one.to(device) for name, one in validation.batch(together, self.inputs).items()}
            arrays = self.learning.arrays(self.forward(model, batch))
            for row, window in enumerate(together):
                said.append(spec.window_output([array[row] for array in arrays], validation.lengths[window]))
        if validation.encodings is None:
            return order, spec.stacked(said)
        joined, place = [], 0
        for item in order.tolist():
            own = validation.encodings[item]
            joined.append(spec.combine(own, said[place : place + len(own)], validation.items[item]))
            place += len(own)
        return order, spec.stacked(joined)


class Supervised(TaskObjective):
    """The same for a transformer and its tokenizer."""

    def __init__(
        self,
        examples: Artifact,
        tokenizer: PreTrainedTokenizerBase,
        spec: Task,
        max_length: int,
        inputs: Sequence[str],
        loss: Mapping[str, Any] | None = None,
        unlabelled: bool = False,
    ) -> None:
        read = reader(tokenizer, spec, max_length)
        super().__init__(examples, spec, read, int(tokenizer.pad_token_id), inputs, loss, unlabelled)
        self.tokenizer, self.max_length = tokenizer, max_length

    def save(self, model: nn.Module, directory: Path) -> dict[str, float]:
        """Write weights, config, tokenizer and card."""
        stock = merged(model)
        assert isinstance(stock, PreTrainedModel)
        answers = self.learning.training_answers(self.spec, self.train.truth)
        training = training_data(answers, self.train.item_lengths) if answers else None
        fitted, figures = self._fitted(stock)
        rest = (self.tokenizer, self.spec, self.max_length, directory, self.inputs, fitted, training)
        # Of texts, not of tokens: where none is cut there is nothing to tell.
        cut = {TEXTS_CUT: self.train.cut} if self.train.cut else {}
        return figures | cut | save_model(stock, *rest, self.cleaning)

    def _fitted(self, model: PreTrainedModel) -> tuple[Fitted, dict[str, float]]:
        """What the task fits on the validation split, and figures of that."""
        if not self.validation_size:
            return {}, {}
        training = model.training
        model.float().eval()
        with torch.inference_mode():
            order, outputs = self.outputs(model, np.arange(self.validation_size), model.device)
        model.train(training)
        return self.learning.fit(self.spec, outputs, targets_at(self.validation.truth, order))


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    spec: Task,
    max_length: int,
    directory: Path,
    inputs: Sequence[str],
    fitted: Fitted | None = None,
    training: TrainingData | None = None,
    cleaning: Cleaning | None = None,
) -> dict[str, float]:
    """Write a MODEL directory that stock `from_pretrained` loads; returns its number of parameters."""
    for key, value in learning_of(spec.kind).head(spec).items():
        setattr(model.config, key, value)
    model.float().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    parameters = sum(weight.numel() for weight in model.parameters())
    variant = Variant(backend="torch", file="model.safetensors", precision="fp32", fitted=dict(fitted or {}))
    card = Card(
        task=spec,
        cleaning=cleaning,
        max_length=max_length,
        inputs=tuple(inputs),
        variants={"torch": variant},
        default="torch",
        parameters=parameters,
        training=training,
    )
    write_card(directory, card)
    return {"parameters": float(parameters)}
