"""Learning a task by a static student: read as the serving engine reads, published as a bag of features in four precisions.

    task = StaticTask(examples, spec, features, calibrate)
    figures = task.save(model, directory)

What is published is read back by the engine, and its answers are compared with those of the model that was trained.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cluster.store.artifact import Artifact
from jobs.architectures.static_model import ACTIVATION, StaticModel
from jobs.compression.static_features import StaticFeatures
from jobs.contracts.learning import Truth
from jobs.tasks.supervised import EVALUATION_BATCH, TaskObjective
from jobs.tasks.telling import TEXTS_CUT
from serve.engines.bag import WEIGHTS, Bag
from serve.engines.bag_reading import Cutter
from serve.engines.bag_table import packed
from serve.engines.card import BAG_FILE, Card, Variant, write_card
from serve.engines.engine import load_engine
from serve.tasks.protocol import Item, Task
from serve.watch.drift import training_data

Calibrate = Callable[[Path, Iterable[str], Sequence[Item], Truth], dict[str, float]]
"""Fits what the task fits for each variant, and enters it in the card."""
DEFAULT_TABLE = "numpy"
TABLE_FILES = {
    DEFAULT_TABLE: ("bag.safetensors", "fp32"),
    "fp16": ("bag.fp16.safetensors", "fp16"),
    "int8": ("bag.int8.safetensors", "int8"),
    "int4": ("bag.int4.safetensors", "int4"),
}
"""The variants: the file of each, and its precision."""
COLUMNS_OF_A_SCALE = 32
"""Columns of whole numbers that have a scale together, where the dimension has such groups: the first principal components
are far larger than the last."""
COMPARED_ITEMS = 256
OUTPUT_TOLERANCE = 1e-5
"""By how much fp32's outputs may be other than those in torch, beside their size."""


class StaticExportError(Exception):
    """The engine's answers are not those of the model that was trained."""


@dataclass(frozen=True, slots=True)
class FeatureWindow:
    """An item as rows of the table, each as often as it is there."""

    ids: list[int]
    type_ids: list[int]
    """Which text each is of, and of which sort: text × sorts + sort."""
    length: int
    """As the engine counts it."""
    overflowing: bool

    def __len__(self) -> int:
        return len(self.ids)


class StaticTask(TaskObjective):
    """A task's loss over bags of features."""

    def __init__(self, examples: Artifact, spec: Task, features: StaticFeatures, calibrate: Calibrate) -> None:
        """Rows without a target are read too."""
        self.features, self.calibrate = features, calibrate
        inputs = ("input_ids", "attention_mask", "token_type_ids")[: 2 if self.parts(spec) == 1 else 3]
        read = partial(read_bags, features.cutter)
        super().__init__(examples, spec, read, 0, inputs, unlabelled=True)

    def parts(self, spec: Task) -> int:
        """Into how many bags the features of an item go."""
        return len(spec.fields) * len(self.features.cutter.rows)

    @property
    def counts_V(self) -> np.ndarray:  # noqa: N802  the shape of an array is part of its name
        """How often each feature is in the training texts."""
        rows = [row for window in self.train.feeds["input_ids"] for row in window]
        return np.bincount(np.array(rows, dtype=np.int64), minlength=sum(self.features.cutter.rows))

    def save(self, model: nn.Module, directory: Path) -> dict[str, float]:
        """Write tables, features and card; what is fitted is fitted for each variant by its own answers."""
        assert isinstance(model, StaticModel)
        model.float().eval().cpu()
        self.features.write(directory)
        dense = write_tables(model, self.features, directory)
        answers = self.learning.training_answers(self.spec, self.train.truth)
        lengths = [window.length for (window,) in read_bags(self.features.cutter, self.train.items)]
        card = Card(
            task=self.spec,
            cleaning=self.cleaning,
            max_length=self.features.max_length,
            inputs=(),
            variants={
                name: Variant(backend="numpy", file=file, precision=precision, hidden_states=True)
                for name, (file, precision) in TABLE_FILES.items()
            },
            default=DEFAULT_TABLE,
            parameters=dense,
            training=training_data(answers, lengths) if answers else None,
        )
        write_card(directory, card)
        figures = self._compared(model, directory)
        fitted = self.calibrate(directory, TABLE_FILES, self.validation.items, self.validation.truth)
        figures |= {name.removeprefix(f"{DEFAULT_TABLE}_"): value for name, value in fitted.items()}
        cut = {TEXTS_CUT: self.train.cut} if self.train.cut else {}
        return figures | cut | {"parameters": float(dense), "features": float(len(model.vectors))}

    def _compared(self, model: StaticModel, directory: Path) -> dict[str, float]:
        """By how much each variant's outputs are other than those in torch, over validation items, or training ones."""
        windows = self.validation if self.validation.items else self.train
        items = windows.items[:COMPARED_ITEMS]
        with torch.inference_mode():
            said = [
                self.learning.arrays(self.forward(model, windows.batch(np.array(rows), self.inputs)))[0]
                for rows in _batches(len(items))
            ]
        outputs_NK = np.concatenate(said)
        found = {}
        for name in TABLE_FILES:
            engine_NK = np.asarray(load_engine(directory, name).outputs(items), dtype=np.float32)
            found[f"{name}_difference"] = float(np.abs(engine_NK - outputs_NK).max())
        difference, size = found.pop(f"{DEFAULT_TABLE}_difference"), float(np.abs(outputs_NK).max())
        if difference > OUTPUT_TOLERANCE * max(1.0, size):
            raise StaticExportError(
                f"the engine's outputs are up to {difference:.2g} other than those of the model that was trained"
            )
        return {"export_difference": difference, **found}


def read_bags(cutter: Cutter, items: Sequence[Item]) -> list[list[FeatureWindow]]:
    """The one window of each item."""
    texts = iter(cutter([value for item in items for value in item.values], False))
    sorts = len(cutter.rows)
    made = []
    for item in items:
        own = list(islice(texts, len(item.values)))
        rows, types = list[int](), list[int]()
        for place, text in enumerate(own):
            for sort, (rows_K, counts_K) in enumerate(text.found):
                repeated = np.repeat(rows_K, counts_K.astype(np.int64)).tolist()
                rows += repeated
                types += [place * sorts + sort] * len(repeated)
        length, cut = sum(text.length for text in own), any(text.overflowing for text in own)
        made.append([FeatureWindow(rows, types, length, cut)])
    return made


def write_tables(model: StaticModel, features: StaticFeatures, directory: Path) -> int:
    """Write bag.json and each variant's tensors; returns the number of parameters."""
    from safetensors.numpy import save_file

    vectors_VD = model.vectors.detach().numpy()
    learned = model.shape.learned
    widths = (vectors_VD.shape[1], *(int(layer.weight.shape[0]) for layer in model.linear))
    activation = ACTIVATION if len(widths) > 2 else None
    weighting = "learned" if learned else "mean"
    bag = Bag(kind="static", features=features.described, weighting=weighting, widths=widths, activation=activation)
    (directory / BAG_FILE).write_text(bag.model_dump_json(indent=1) + "\n", encoding="utf-8")
    dense = _dense(model)
    for file, precision in TABLE_FILES.values():
        group = COLUMNS_OF_A_SCALE if widths[0] % COLUMNS_OF_A_SCALE == 0 else None
        save_file({**packed(vectors_VD, precision, group), **dense}, directory / file)
    return int(vectors_VD.size + sum(array.size for array in dense.values()))


def _dense(model: StaticModel) -> Mapping[str, np.ndarray]:
    """What every variant has in fp32: the features' weights, and the layers, as the engine multiplies."""
    found = {WEIGHTS: model.log_weights.detach().exp().numpy()} if model.shape.learned else {}
    for number, layer in enumerate(model.linear):
        found[f"head.{number}.weight"] = np.ascontiguousarray(layer.weight.detach().numpy().T)
        found[f"head.{number}.bias"] = layer.bias.detach().numpy()
    return found


def _batches(items: int) -> Iterator[list[int]]:
    for start in range(0, items, EVALUATION_BATCH):
        yield list(range(start, min(items, start + EVALUATION_BATCH)))
