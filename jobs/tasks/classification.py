"""Classification: one label for a text, or for two texts together. How it is learned and judged: cross-entropy, macro-F1.

    task: {kind: classification, label: spam}
    task: {label: entailment, pair: hypothesis}           # text and the column `hypothesis` are classified together

B batch, C classes, K teachers, N items.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from jobs.contracts.learning import (
    MISSING,
    Batch,
    Blocks,
    Columns,
    Statistics,
    Suspicions,
    Targets,
    Truth,
)
from jobs.core.config import Config, Problem
from jobs.core.metric import Metric
from jobs.data.clean import value_name, value_names
from jobs.tasks.figures import accuracy, macro_f1
from jobs.tasks.label_settings import (
    LABEL,
    LabelNames,
    in_turns,
    label_numbers,
    label_weights,
    labels_without_training,
    training_labels,
)
from jobs.tasks.temperature import calibrated, calibration_error
from jobs.tasks.two_texts import TwoTextLearning, TwoTextSettings
from serve.tasks.classification import Classification
from serve.tasks.protocol import Fitted, Outputs
from serve.tasks.shared.probabilities import TEMPERATURE, softmax

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from torch import Tensor
    from transformers import PreTrainedConfig

    from jobs.report.html import Html


class ClassificationSettings(TwoTextSettings, LabelNames):
    """What the labelled rows are for: classification, one label for a text or for a pair of texts."""

    kind: Literal["classification"] = "classification"
    """classification: one label for a text, or for two."""
    label: str = "label"
    """The column that holds the label."""


class ClassificationLoss(Config):
    """What may be set of the loss."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target that is spread over all labels (Szegedy et al. 2016)."""
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """What an example of a label counts."""

    _as_read = field_validator("class_weights")(value_names)


class CrossEntropy:
    """The usual loss, with label smoothing and weights."""

    splits = True

    def __init__(self, label_smoothing: float = 0.0, weights_C: "Tensor | None" = None) -> None:
        self.label_smoothing, self.weights_C = label_smoothing, weights_C

    def loss(self, outputs: "Tensor", batch: Batch) -> "Tensor":
        """Summed over the batch; those without a label have none."""
        from torch.nn import functional

        from jobs.losses.answers import in_full

        logits_BC = in_full(outputs)
        weights_C = None if self.weights_C is None else self.weights_C.to(logits_BC.device)
        return functional.cross_entropy(
            logits_BC,
            batch["labels"],
            weights_C,
            reduction="sum",
            ignore_index=MISSING,
            label_smoothing=self.label_smoothing,
        )

    def count(self, batch: Batch) -> float:
        """One target an example, or the weight of its label."""
        return len(batch["labels"]) if self.weights_C is None else float(self.weights_C[batch["labels"]].sum())


class SoftLabelCriterion:
    """How far the student's answers are from the teachers' (Hinton et al. 2015, and the others in jobs/losses/answers.py)."""

    def __init__(self, mix: Any, weights_K: "Tensor") -> None:
        from functools import partial

        from jobs.losses import answers

        self.weights_K, self.averaged = weights_K, mix.loss == "mse"
        skewed = partial(answers.skewed_kl, skew=mix.skew)
        self.compare: Any = skewed if mix.loss == "skewed_kl" else answers.ANSWER_LOSSES[mix.loss]

    def loss(self, outputs: "Tensor", batch: Batch, temperature: "Tensor") -> "Tensor":
        """Summed over the batch; the teachers' logits are BKC."""
        compared: Tensor = self.compare(outputs, self._target(batch["teacher"], temperature), temperature)
        return compared

    def _target(self, teachers_BKC: "Tensor", temperature: "Tensor") -> "Tensor":
        """The logits_BC that the student is to come to."""
        from jobs.losses.answers import mixture

        if teachers_BKC.shape[1] == 1:
            return teachers_BKC[:, 0]
        weights_K = self.weights_K.to(teachers_BKC.device)
        if self.averaged:
            return (teachers_BKC * weights_K[:, None]).sum(1)
        return mixture(teachers_BKC, weights_K, temperature)


class JudgedLabels:
    """Labels against the truth."""

    def __init__(self, truth_N: np.ndarray, predicted_N: np.ndarray) -> None:
        self.truth_N, self.predicted_N = truth_N, predicted_N
        self.goodness_N = (truth_N == predicted_N).astype(np.float64)

    def figure(self, metric: str, weights_N: np.ndarray | None = None) -> float:
        """macro_f1 or accuracy."""
        figure = {"macro_f1": macro_f1, "accuracy": accuracy}[metric]
        return figure(self.truth_N, self.predicted_N, weights_N)


class ClassificationLearning(TwoTextLearning):
    """The jobs half."""

    kind: ClassVar = "classification"
    Settings: ClassVar = ClassificationSettings
    Loss: ClassVar = ClassificationLoss
    metrics: ClassVar = (Metric("macro_f1", highest=1.0), Metric("accuracy", short="acc", highest=1.0))
    soft_losses: ClassVar = ("forward_kl", "reverse_kl", "symmetric_kl", "skewed_kl", "jensen_shannon", "mse")
    calibrates: ClassVar = True

    def paths(self, settings: Any) -> dict[str, str]:
        """The label's column, and the second text's."""
        return {"task.label": settings.label} | super().paths(settings)

    def types(self, settings: Any) -> "dict[str, pa.DataType]":
        """The label is a string."""
        import pyarrow as pa

        return {LABEL: pa.string()}

    def targets(self, settings: Any, frame: "pd.DataFrame") -> Targets:
        """The label by its name from here on; an empty one is none."""
        names = (settings.names.get(name, name) for name in map(value_name, frame[settings.label]))
        return Targets({LABEL: [name or None for name in names]})

    def statistics(self, settings: Any, columns: Columns) -> dict[str, float]:
        """How often each label is there."""
        return dict(Counter(label for label in columns[LABEL] if label is not None))

    def stratum(self, settings: Any) -> str:
        """The label."""
        return LABEL

    def check(self, settings: Any, statistics: Statistics) -> list[Problem]:
        """Labels that train lacks."""
        return labels_without_training(statistics)

    def spec(self, settings: Any, statistics: Statistics) -> Classification:
        """The labels of the training split, in the order of their names."""
        labels = training_labels(statistics, "task.label", "Give more rows.")
        return Classification(labels=labels, pairs=settings.pair is not None)

    def truth(self, spec: Any, columns: Columns) -> np.ndarray:
        """The number of each label; MISSING without one."""
        numbers: dict[str | None, int] = {None: MISSING}
        numbers |= {label: number for number, label in enumerate(spec.labels)}
        return np.array([numbers[label] for label in columns[LABEL]], dtype=np.int64)

    def known(self, truth: Truth) -> np.ndarray:
        """Those with a label."""
        return np.asarray(truth) != MISSING

    def suspicious(self, spec: Any, columns: Columns, most: int) -> Suspicions:
        """Labels that look wrong to a linear model which has not seen them."""
        from jobs.tasks.confident_learning import wrong_labels_of

        return wrong_labels_of(spec, columns, self.truth(spec, columns), most)

    def head(self, spec: Any) -> dict[str, Any]:
        """The labels, in their order."""
        return label_numbers(spec.labels)

    def knows(self, spec: Any, config: "PreTrainedConfig") -> bool:
        """Whether the config names these labels, in this order."""
        return list((config.id2label or {}).values()) == list(spec.labels)

    def criterion(self, spec: Any, settings: Any, truth: Truth) -> CrossEntropy:
        """Cross-entropy; BadInput for a weight of a label that is not there."""
        balanced = partial(_balanced, spec.labels, np.asarray(truth))
        return CrossEntropy(settings.label_smoothing, label_weights(settings.class_weights, spec.labels, balanced))

    def soft_criterion(self, spec: Any, mix: Any, weights_K: "Tensor") -> SoftLabelCriterion:
        """By one of the losses of jobs/losses/answers.py."""
        return SoftLabelCriterion(mix, weights_K)

    def judged(self, spec: Any, outputs: Outputs, truth: Truth) -> JudgedLabels:
        """The most probable labels against the truth."""
        return JudgedLabels(np.asarray(truth), _predicted(outputs))

    def losses(self, spec: Any, outputs: Outputs, truth: Truth) -> np.ndarray:
        """Cross-entropy of each."""
        import torch
        from torch.nn import functional

        if not len(outputs):
            return np.zeros(0, dtype=np.float32)
        logits_NC = torch.from_numpy(np.asarray(outputs, dtype=np.float32))
        return functional.cross_entropy(logits_NC, torch.from_numpy(np.asarray(truth)), reduction="none").numpy()

    def part(self, spec: Any, outputs: Outputs, truth: Truth) -> Any:
        """Labels and losses: no logits."""
        return _predicted(outputs), np.asarray(truth), self.losses(spec, outputs, truth)

    def measured(self, spec: Any, parts: Sequence[Any]) -> dict[str, float]:
        """macro_f1, accuracy and the mean cross-entropy."""
        predicted_N, truth_N, losses_N = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        judged = JudgedLabels(truth_N, predicted_N)
        return {metric.name: judged.figure(metric.name) for metric in self.metrics_of(spec)} | {
            "validation_loss": float(losses_N.mean())
        }

    def fit(self, spec: Any, outputs: Outputs, truth: Truth) -> tuple[Fitted, dict[str, float]]:
        """The temperature at which probabilities hold (Guo et al. 2017)."""
        temperature, figures = calibrated(np.asarray(outputs), np.asarray(truth))
        return {TEMPERATURE: temperature}, figures

    def further(self, spec: Any, raw: Outputs, settled: Outputs, truth: Truth) -> dict[str, Any]:
        """How far confidence is from accuracy, with the temperature and without, and which labels are taken for which."""
        from sklearn.metrics import confusion_matrix

        truth_N = np.asarray(truth)
        return {
            "calibration_error": calibration_error(softmax(np.asarray(settled)), truth_N),
            "calibration_error_unscaled": calibration_error(softmax(np.asarray(raw)), truth_N),
            "confusion": confusion_matrix(truth_N, _predicted(settled), labels=range(len(spec.labels))).tolist(),
        }

    def slices(self, spec: Any, truth: Truth) -> dict[str, np.ndarray]:
        """Each label's items."""
        truth_N = np.asarray(truth)
        named = sorted((spec.labels[number], number) for number in np.unique(truth_N).tolist())
        return {f"label {label}": truth_N == number for label, number in named}

    def training_answers(self, spec: Any, truth: Truth) -> list[str]:
        """The labels."""
        return [spec.labels[number] for number in np.asarray(truth).tolist() if number != MISSING]

    def expected(self, spec: Any, target: Any) -> str:
        """The label."""
        return str(spec.labels[int(target)])

    def is_right(self, spec: Any, answer: Mapping[str, Any], target: Any) -> bool:
        """Whether the label is the one."""
        return bool(answer["label"] == spec.labels[int(target)])

    def questions(self, spec: Any, truth: Truth, count: int) -> list[int]:
        """In turns from each label, by its name."""
        return in_turns([spec.labels[number] for number in np.asarray(truth).tolist()], count)

    def sections(self, report: Mapping[str, Any], winner: str | None, blocks: Blocks) -> "list[Html | None]":
        """Confusion matrices of the teacher and of the winner."""
        return [blocks.confusion(report, winner)]


LEARNING = ClassificationLearning()


def _predicted(outputs: Outputs) -> np.ndarray:
    return np.asarray(outputs).argmax(-1) if len(outputs) else np.zeros(0, dtype=np.int64)


def _balanced(labels: Sequence[str], train_N: np.ndarray) -> "Tensor":
    import torch

    counts_C = np.bincount(train_N, minlength=len(labels))
    return torch.from_numpy(len(train_N) / (len(labels) * counts_C)).float()
