"""What a kind of task says of its learning: the jobs half. From rows to targets, from outputs to losses, figures and reports.

    learning = learning_of(spec.kind)                 # jobs/tasks/__init__.py
    criterion = learning.criterion(spec, settings, truth)
    learning.judged(spec, outputs, truth).figure("macro_f1", weights_N)

Beside it stands the serve half (serve/tasks/protocol.py): `spec` is always one of its tasks. Nothing here imports torch before
something is trained: recipes are checked by the same classes.

A target is what a row should have been answered with, the truth of an item; training may cut it to what each window can show.
N items, W windows, T tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from jobs.contracts.suspicions import Suspicions
from jobs.core.config import Config, Problem
from jobs.core.metric import Metric
from serve.tasks import task_type
from serve.tasks.protocol import Fitted, Item, Output, Outputs, Task

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from tokenizers import Encoding
    from torch import Tensor
    from transformers import PreTrainedConfig

    from cluster.store.artifact import Artifact
    from jobs.report.html import Html

Truth = np.ndarray | Sequence[Any]
"""A target an item."""
Columns = Mapping[str, Sequence[Any]]
"""Columns of EXAMPLES by name."""
Statistics = Mapping[str, Mapping[str, float]]
"""By split, and then by name: sums over its rows."""
Batch = dict[str, "Tensor"]
"""Tensors by name, the rows of a batch along their first axis."""
Call = Callable[..., Any]
"""A model: token tensors by name → what transformers' model gives."""
MISSING = -100
"""The number of a target that is not there; torch's losses pass over it."""


def targets_at(truth: Truth, places: Sequence[int] | np.ndarray) -> Truth:
    """The targets at these places: an array of an array, else a list."""
    return truth[np.asarray(places, dtype=np.int64)] if isinstance(truth, np.ndarray) else [truth[place] for place in places]


def shown_rows(report: Mapping[str, Any], winner: str | None) -> list[Mapping[str, Any]]:
    """The rows of a report of which a section tells more: the yardstick's and the winner's."""
    rows = report["rows"]
    return [row for place, row in enumerate(rows) if not place or row["candidate"] == winner]


class TaskSettings(Config):
    """What a recipe says below `task`; each kind has its own keys."""

    kind: str
    """The kind of task: a Literal, without a default in kinds of other packages, or a `task` that names no kind could mean
    them."""


class NoLoss(Config):
    """The loss has nothing to set."""


@dataclass(frozen=True)
class Targets:
    """What rows should be answered with."""

    columns: dict[str, list[Any]]
    """The target columns of EXAMPLES; None in all of them for a row that says nothing, which is then left out and counted.
    (Rows without a target come from `source: {unlabelled: …}` and from augmentation, and nothing is asked of those
    here.)"""
    wrong: dict[int, str] = field(default_factory=dict)
    """Rows whose target means nothing, by their place, each with the reason."""


class Criterion(Protocol):
    """How far outputs are from their targets."""

    splits: bool
    """Whether the loss of a batch is the sum of those of its parts."""

    def loss(self, outputs: Any, batch: Batch) -> "Tensor":
        """The sum of the losses of a batch's targets, which are `batch["labels"]`; one that is MISSING has none."""
        ...

    def count(self, batch: Batch) -> float:
        """How many targets a batch has, or what they weigh: what the loss is divided by, that of soft labels too. So rows
        without a target count like the others."""
        ...


class SoftCriterion(Protocol):
    """How far outputs are from those of teachers."""

    def loss(self, outputs: Any, batch: Batch, temperature: "Tensor") -> "Tensor":
        """The sum over a batch; `batch["teacher"]` has what `window_soft` made of the teachers' outputs, BK…; weights_K sum
        to 1."""
        ...


class Judged(Protocol):
    """What outputs are worth against the truth. Figures take whole numbers as weights, how often each item counts: a resample
    is the same figure with other weights."""

    goodness_N: np.ndarray
    """How right each item is answered, in [0, 1]."""

    def figure(self, metric: str, weights_N: np.ndarray | None = None) -> float:
        """A metric of the kind over all items."""
        ...


class Blocks(Protocol):
    """What a report page can draw for any kind; None where there is nothing to draw."""

    def confusion(self, report: Mapping[str, Any], winner: str | None) -> "Html | None":
        """Which labels are taken for which, by the yardstick and the winner: `labels` of the report, `confusion` of rows."""
        ...

    def figures(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> "Html | None":
        """A table under a title; the first cell of each row names it."""
        ...

    def under(self, title: str, parts: "Sequence[Html | None]") -> "Html | None":
        """Sections that belong together, under a title."""
        ...


class Learning:
    """The jobs half of a kind. Kinds derive from it; what has a default is right for one text, one output of one shape."""

    kind: ClassVar[str]
    """The name under which both halves are found."""
    Settings: ClassVar[type[TaskSettings]]
    """What a recipe says below `task`."""
    Loss: ClassVar[type[Config]] = NoLoss
    """What a recipe says of finetune's loss: `label_smoothing` and `class_weights` where it has such fields, all others
    below `loss`."""
    metrics: ClassVar[tuple[Metric, ...]]
    """Figures that models are compared by; the first is the score where nothing else is asked for."""
    by_request: ClassVar[tuple[str, ...]] = ()
    """Names of figures, or how these are made, that `metric` finds too, and that are measured only where one is asked for."""
    soft_losses: ClassVar[tuple[str, ...]]
    """How answers of student and teacher may be compared; the first is usual."""
    softens: ClassVar[bool] = True
    """Whether a temperature does something to that."""
    lists: ClassVar[tuple[str, ...]] = ()
    """Keys of `paths` whose columns may hold lists; all others hold single values."""
    augments: ClassVar[bool] = True
    """Whether words of a text may be left out and moved, and mean something still."""
    calibrates: ClassVar[bool] = False
    """Whether `further` gives a calibration_error."""

    def metrics_in(self, settings: Any) -> tuple[Metric, ...]:
        """The figures of such a task, known from the recipe alone; just those of its `metrics_of`."""
        return self.metrics

    def metrics_of(self, spec: Any) -> tuple[Metric, ...]:
        """The figures of this very task."""
        return self.metrics

    def loss_in(self, settings: Any) -> type[Config]:
        """What a recipe may say of the loss of such a task."""
        return self.Loss

    def loss_of(self, spec: Any) -> type[Config]:
        """What may be said of the loss of this very task; just that of its `loss_in`."""
        return self.Loss

    def soft_losses_in(self, settings: Any) -> tuple[str, ...]:
        """How answers of such a task may be compared."""
        return self.soft_losses

    def soft_losses_of(self, spec: Any) -> tuple[str, ...]:
        """How answers of this very task may be; just those of its `soft_losses_in`."""
        return self.soft_losses

    def softens_in(self, settings: Any) -> bool:
        """Whether a temperature does something to how they are compared."""
        return self.softens

    def lists_in(self, settings: Any) -> tuple[str, ...]:
        """Those keys of `paths` whose columns may hold lists."""
        return self.lists

    def augments_in(self, settings: Any) -> bool:
        """Whether words of such a task's texts may be left out and moved."""
        return self.augments

    def calibrates_in(self, settings: Any) -> bool:
        """Whether `further` gives a calibration_error of such a task."""
        return self.calibrates

    def says_how_sure_in(self, settings: Any) -> bool:
        """Whether answers of such a task have a confidence."""
        return task_type(self.kind).confidence is not Task.confidence

    def stands_alone(self, settings: Any) -> str | None:
        """Why such a task cannot be one of several that are the heads of one model; None where it can. What depends on
        settings, a kind says itself."""
        task = task_type(self.kind)
        if task.per_token is True or task.windows is True:
            return "it speaks of parts of a text, not of the text as a whole"
        if task.dense is False or task.width is Task.width or type(self).forward is not Learning.forward:
            return "what its model gives is not one row of numbers for each text"
        return None

    def metric(self, spec: Any, name: str | None) -> Metric:
        """The metric of this name, the score where None; KeyError where the task has none such."""
        metrics = self.metrics_of(spec)
        return metrics[0] if name is None else {metric.name: metric for metric in metrics}[name]

    def metric_in(self, settings: Any, name: str) -> Metric:
        """The metric of this name as far as the recipe alone tells; KeyError, with the reason, where there is none such."""
        return {metric.name: metric for metric in self.metrics_in(settings)}[name]

    def fitted_keys(self, settings: Any) -> tuple[str, ...]:
        """The keys below `task` that do nothing without a validation split, on which something is fitted for them."""
        return ()

    # Rows to examples

    def fields(self, settings: Any, text: str) -> dict[str, str]:
        """The column of the source for each field of an item; `text` is the recipe's own key, whose column must be there, so
        that some field should have it."""
        return {"text": text}

    def paths(self, settings: Any) -> dict[str, str]:
        """Columns of the source that must be there besides the text, by the key of the recipe that names each."""
        return {}

    def groups(self, settings: Any) -> tuple[tuple[str, ...], ...]:
        """Keys of `paths`, of which each row of a source needs the columns of one group alone: in the frame of `targets`,
        `attrs[LACKING]` says where others are not there. Empty where all of `paths` must be."""
        return ()

    def types(self, settings: Any) -> "dict[str, pa.DataType]":
        """The target columns of EXAMPLES, with their types."""
        raise NotImplementedError

    def targets(self, settings: Any, frame: "pd.DataFrame") -> Targets:
        """What the rows of a source should be answered with; the frame has its columns as they are, texts not cleaned yet,
        booleans as true and false, and None for what is not there."""
        raise NotImplementedError

    def statistics(self, settings: Any, columns: Columns) -> dict[str, float]:
        """Of rows of one split, what adds up: how often each label is there, sums of a number."""
        raise NotImplementedError

    def summary(self, spec: Any, statistics: Mapping[str, float]) -> dict[str, float]:
        """What the data report says of a split's statistics, by name."""
        return dict(statistics)

    def stratum(self, settings: Any) -> str | None:
        """The target column of EXAMPLES by whose values `split: {stratify: true}` divides rows, a value a row or a list
        of them; None where targets, such as spans of a text, have no values that many rows share."""
        return None

    def check(self, settings: Any, statistics: Statistics) -> list[Problem]:
        """What is wrong with the splits together; paths are below the step. Rows whose split is not known yet are under ""."""
        return []

    def spec(self, settings: Any, statistics: Statistics) -> Task:
        """The serve half; BadInput where the training split does not make one."""
        raise NotImplementedError

    def truth(self, spec: Any, columns: Columns) -> Truth:
        """The target of each row of EXAMPLES, whose texts are among the columns; one that has none is MISSING, or None."""
        raise NotImplementedError

    def missing(self, spec: Any) -> np.ndarray:
        """The target of a row that has none, in the shape and type that `truth` has, where that is an array."""
        return np.array(MISSING)

    def known(self, truth: Truth) -> np.ndarray:
        """Which rows have a target."""
        return np.array([target is not None and not np.array_equal(target, MISSING) for target in truth], dtype=bool)

    def taught(self, spec: Any, truth: Truth) -> np.ndarray:
        """Which of the rows with a target are trained on."""
        return self.known(truth)

    def suspicious(self, spec: Any, columns: Columns, most: int) -> Suspicions | None:
        """Rows of the training split whose target looks wrong, at most so many, by a model that takes seconds and no GPU; None
        where the kind has none. The rows are in an order that says nothing of them: where there are too many, the first are
        an even sample. Long texts are cut off."""
        return None

    # Training

    def head(self, spec: Any) -> dict[str, Any]:
        """What transformers' config says of a model with the head of this task."""
        raise NotImplementedError

    def knows(self, spec: Any, config: "PreTrainedConfig") -> bool:
        """Whether a model without a card has learned just this task, so that its head is kept."""
        return False

    def window_targets(self, spec: Any, target: Any, item: Item, windows: "Sequence[Encoding]") -> list[np.ndarray]:
        """The target of each window of an item, in the type that the loss takes: a number or an array of one shape; where the
        kind is `per_token` one a token. The item's own may be MISSING or None: students learn from such items too."""
        return [np.asarray(target)] * len(windows)

    def criterion(self, spec: Any, settings: Any, truth: Truth) -> Criterion:
        """The loss of fine-tuning; `truth` is that of the training split. BadInput where the settings do not fit it."""
        raise NotImplementedError

    def soft_criterion(self, spec: Any, mix: Any, weights_K: "Tensor") -> SoftCriterion:
        """The loss that compares student and teachers, by one of `soft_losses` (`mix.loss`)."""
        raise NotImplementedError

    def floor(self, spec: Any, examples: "Artifact", directory: Path) -> dict[str, float]:
        """Make the cheapest model of a task without a `width` in a directory: card and files, which an engine loads; returns
        its figures on the validation split."""
        raise NotImplementedError

    def forward(self, call: Call, inputs: Batch) -> Any:
        """What the losses take: the model's output of these token tensors."""
        return call(**inputs).logits

    def arrays(self, outputs: Any) -> list[np.ndarray]:
        """The same as arrays, in the order of the task's graph outputs."""
        return [outputs.float().cpu().numpy()]

    def window_soft(self, spec: Any, output: Output, item: Item, windows: "Sequence[Encoding]") -> list[np.ndarray]:
        """A teacher's output of an item, as what each window of the student is to say. Not asked of kinds whose items have one
        window and one shape: there it is the output itself. Where a kind is `per_token` the first axis is the window's tokens,
        and shorter windows are filled up with 0: what tells the two apart is part of it."""
        return [np.asarray(output)] * len(windows)

    # Judging

    def judged(self, spec: Any, outputs: Outputs, truth: Truth) -> Judged:
        """What settled outputs are worth."""
        raise NotImplementedError

    def losses(self, spec: Any, outputs: Outputs, truth: Truth) -> np.ndarray:
        """A loss an item that has one, whose mean is the validation loss."""
        raise NotImplementedError

    def part(self, spec: Any, outputs: Outputs, truth: Truth) -> Any:
        """Of some validation items, what `measured` needs: small, for it is sent between workers."""
        return list(outputs), list(truth), self.losses(spec, outputs, truth)

    def measured(self, spec: Any, parts: Sequence[Any]) -> dict[str, float]:
        """All metrics and validation_loss, from the parts of all workers."""
        outputs = spec.stacked([output for part in parts for output in part[0]])
        truth = [target for part in parts for target in part[1]]
        judged = self.judged(spec, spec.settled(outputs, {}), truth)
        loss = float(np.concatenate([part[2] for part in parts]).mean()) if truth else 0.0
        return {metric.name: judged.figure(metric.name) for metric in self.metrics_of(spec)} | {"validation_loss": loss}

    def fit(self, spec: Any, outputs: Outputs, truth: Truth) -> tuple[Fitted, dict[str, float]]:
        """What is fitted on held-out items, from outputs as the model gives them; and figures of that."""
        return {}, {}

    def doubtful(self, spec: Any, figures: Mapping[str, float], named: str = "") -> list[str]:
        """What a person must know of what was fitted, a sentence each: from the figures of `fit`, which stand behind that
        name."""
        return []

    def further(self, spec: Any, raw: Outputs, settled: Outputs, truth: Truth) -> dict[str, Any]:
        """Further figures of a candidate, for its row of the report, under names that nothing else there has."""
        return {}

    def slices(self, spec: Any, truth: Truth) -> dict[str, np.ndarray]:
        """Parts of a split by their targets, as masks_N by name."""
        return {}

    def training_answers(self, spec: Any, truth: Truth) -> list[str]:
        """What the training items' answers would have been, in the words of `Task.said`, which therefore must be known from
        targets alone; for drift."""
        return []

    def expected(self, spec: Any, target: Any) -> str:
        """A target in a few words, as a person would say it."""
        raise NotImplementedError

    def is_right(self, spec: Any, answer: Mapping[str, Any], target: Any) -> bool:
        """Whether an answer that came over HTTP is what was expected."""
        raise NotImplementedError

    def questions(self, spec: Any, truth: Truth, count: int) -> list[int]:
        """So many items that show what the model can do, by their places."""
        return list(range(min(count, len(truth))))

    def sections(self, report: Mapping[str, Any], winner: str | None, blocks: Blocks) -> "list[Html | None]":
        """Sections of the report page that only this kind has, of the blocks that the page gives. `report["rows"]` has the
        candidates: `candidate`, `score`, the metrics by their names, and what `further` gave; `report["task"]` the task."""
        return []
