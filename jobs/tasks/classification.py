"""Classification: one label for a text, or for two texts together. How it is learned and judged: cross-entropy, macro-F1.

    task: {kind: classification, label: spam}
    task: {label: entailment, pair: hypothesis}           # text and the column `hypothesis` are classified together
    task: {label: spam, require: {spam: {precision: 0.99}}, none: {keep: 0.95}}

Of rows that a task with `none` calls out of scope the number is C. B batch, C classes, K teachers, N items.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from jobs.contracts.learning import MISSING, Batch, Blocks, Columns, Statistics, Targets, Truth
from jobs.contracts.suspicions import Suspicions
from jobs.core.config import BadInput, Config, Problem
from jobs.core.metric import Metric
from jobs.data.clean import value_name, value_names
from jobs.tasks.decision_settings import DecisionSettings, decision_problems
from jobs.tasks.label_figures import ANSWERED, BY_REQUEST, COST, USUAL, JudgedLabels, named_metric
from jobs.tasks.label_rates import rates_by_label, rates_sections
from jobs.tasks.label_settings import (
    in_turns,
    label_numbers,
    label_weights,
    labels_without_training,
    training_labels,
)
from jobs.tasks.label_thresholds import fit_thresholds, requirements_on, requirements_section, told_of
from jobs.tasks.one_label import LABEL, OneLabelLearning
from jobs.tasks.temperature import calibrated, calibration_error
from serve.tasks.classification import Classification
from serve.tasks.protocol import Fitted, Outputs
from serve.tasks.shared.probabilities import TEMPERATURE, softmax

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor
    from transformers import PreTrainedConfig

    from jobs.report.html import Html


class ClassificationSettings(DecisionSettings):
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


class ClassificationLearning(OneLabelLearning):
    """The jobs half."""

    kind: ClassVar = "classification"
    Settings: ClassVar = ClassificationSettings
    Loss: ClassVar = ClassificationLoss
    metrics: ClassVar = USUAL
    by_request: ClassVar = BY_REQUEST
    soft_losses: ClassVar = ("forward_kl", "reverse_kl", "symmetric_kl", "skewed_kl", "jensen_shannon", "mse")
    calibrates: ClassVar = True

    def metrics_in(self, settings: Any) -> tuple[Metric, ...]:
        """Those of every report; the cost where mistakes have one, and what is answered where texts may be out of scope."""
        return (*USUAL, *([COST] if settings.costs else []), *(ANSWERED if settings.none is not None else []))

    def metrics_of(self, spec: Any) -> tuple[Metric, ...]:
        """The same of the task."""
        return self.metrics_in(spec)

    def metric(self, spec: Any, name: str | None) -> Metric:
        """One of these, or of those that are measured where they are asked for."""
        return super().metric(spec, name) if name in (None, *_names(self.metrics_of(spec))) else _asked(str(name), spec.labels)

    def metric_in(self, settings: Any, name: str) -> Metric:
        """The same, whatever labels there are."""
        return super().metric_in(settings, name) if name in _names(self.metrics_in(settings)) else _asked(name, None)

    def fitted_keys(self, settings: Any) -> tuple[str, ...]:
        """Those that thresholds are fitted for."""
        return (*(["require"] if settings.require else []), *(["none"] if settings.none is not None else []))

    def targets(self, settings: Any, frame: "pd.DataFrame") -> Targets:
        """The label by its name from here on; an empty one is none."""
        names = (settings.names.get(name, name) for name in map(value_name, frame[settings.label]))
        return Targets({LABEL: [name or None for name in names]})

    def check(self, settings: Any, statistics: Statistics) -> list[Problem]:
        """Labels that train lacks, and labels that are held to something or cost something and are not there."""
        labels = {label for own in statistics.values() for label in own} - _out_of_scope(settings)
        named = decision_problems(settings, sorted(labels)) if labels else []
        return [*labels_without_training(statistics, _out_of_scope(settings)), *named]

    def spec(self, settings: Any, statistics: Statistics) -> Classification:
        """The labels of the training split, in the order of their names."""
        labels = training_labels(statistics, "task.label", "Give more rows.", _out_of_scope(settings))
        if problems := decision_problems(settings, labels):
            raise BadInput(problems)
        decided = {"require": settings.require, "costs": settings.costs, "none": settings.none}
        read = {"long": settings.long, "pooling": settings.pooling}
        return Classification(labels=labels, pairs=settings.pair is not None, **decided, **read)

    def truth(self, spec: Any, columns: Columns) -> np.ndarray:
        """The number of each label; MISSING without one."""
        numbers: dict[str | None, int] = {None: MISSING}
        numbers |= {label: number for number, label in enumerate(spec.sayings)}
        return np.array([numbers[label] for label in columns[LABEL]], dtype=np.int64)

    def taught(self, spec: Any, truth: Truth) -> np.ndarray:
        """Those that are in scope."""
        return _in_scope(spec, truth)

    def suspicious(self, spec: Any, columns: Columns, most: int) -> Suspicions:
        """Labels that look wrong to a linear model which has not seen them."""
        from jobs.tasks.confident_learning import wrong_labels_of

        truth_N = self.truth(spec, columns)
        return wrong_labels_of(spec, columns, np.where(_in_scope(spec, truth_N), truth_N, MISSING), most)

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
        """What is answered against the truth."""
        logits_NC = spec.logits(outputs) if len(outputs) else np.zeros((0, len(spec.labels)))
        return JudgedLabels(spec.labels, np.asarray(truth), _decided(spec, outputs), logits_NC, spec.cost_KK)

    def losses(self, spec: Any, outputs: Outputs, truth: Truth) -> np.ndarray:
        """Cross-entropy of each that is in scope."""
        import torch
        from torch.nn import functional

        if not (scoped_N := _in_scope(spec, truth)).any():
            return np.zeros(0, dtype=np.float32)
        logits_NC = torch.from_numpy(np.asarray(outputs, dtype=np.float32)[scoped_N])
        return functional.cross_entropy(logits_NC, torch.from_numpy(np.asarray(truth)[scoped_N]), reduction="none").numpy()

    def part(self, spec: Any, outputs: Outputs, truth: Truth) -> Any:
        """What is answered, and losses: no logits."""
        answered_N = _decided(spec, spec.settled(outputs, {}) if len(outputs) else outputs)
        return answered_N, np.asarray(truth), self.losses(spec, outputs, truth)

    def measured(self, spec: Any, parts: Sequence[Any]) -> dict[str, float]:
        """The figures of every report, before thresholds are fitted, and the mean cross-entropy. Others need logits."""
        answered_N, truth_N, losses_N = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        judged = JudgedLabels(spec.labels, truth_N, answered_N, cost_KK=spec.cost_KK)
        found = {metric.name: judged.figure(metric.name) for metric in self.metrics_of(spec)}
        return found | {"validation_loss": float(losses_N.mean()) if len(losses_N) else 0.0}

    def fit(self, spec: Any, outputs: Outputs, truth: Truth) -> tuple[Fitted, dict[str, float]]:
        """The temperature at which probabilities hold (Guo et al. 2017), then thresholds of labels."""
        logits_NC, truth_N, scoped_N = np.asarray(outputs), np.asarray(truth), _in_scope(spec, truth)
        temperature, figures = calibrated(logits_NC[scoped_N], truth_N[scoped_N])
        if not spec.thresholds:
            return {TEMPERATURE: temperature}, figures
        thresholds, reached = fit_thresholds(spec, logits_NC / np.float32(temperature), truth_N)
        return {TEMPERATURE: temperature, **thresholds}, figures | reached

    def doubtful(self, spec: Any, figures: Mapping[str, float], named: str = "") -> list[str]:
        """What validation did not show of what labels are held to."""
        return told_of(spec, figures, named)

    def further(self, spec: Any, raw: Outputs, settled: Outputs, truth: Truth) -> dict[str, Any]:
        """How far confidence is from accuracy, with the temperature and without, which labels are taken for which, what each
        label comes to, and whether what it is held to is kept."""
        from sklearn.metrics import confusion_matrix

        truth_N, answered_N, names = np.asarray(truth), _decided(spec, settled), spec.sayings
        scoped_N = _in_scope(spec, truth)
        counts = JudgedLabels(spec.labels, truth_N, answered_N).counts()
        held = {"requirements": requirements_on(spec, answered_N, truth_N)} if spec.require else {}
        return {
            "calibration_error": calibration_error(softmax(spec.logits(settled))[scoped_N], truth_N[scoped_N]),
            "calibration_error_unscaled": calibration_error(softmax(np.asarray(raw))[scoped_N], truth_N[scoped_N]),
            "confusion": confusion_matrix(truth_N, answered_N, labels=range(len(names))).tolist(),
            "by_label": rates_by_label(names, *(count_K[: len(names)] for count_K in counts)),
            **held,
        }

    def slices(self, spec: Any, truth: Truth) -> dict[str, np.ndarray]:
        """Each label's items, and those out of scope."""
        truth_N = np.asarray(truth)
        named = sorted((spec.sayings[number], number) for number in np.unique(truth_N).tolist())
        return {f"label {label}": truth_N == number for label, number in named}

    def training_answers(self, spec: Any, truth: Truth) -> list[str]:
        """The labels; where texts may be out of scope, that of every so many which `keep` does not keep."""
        labels = [spec.labels[number] for number in np.asarray(truth)[_in_scope(spec, truth)].tolist()]
        if spec.none is None:
            return labels
        left = np.floor(np.arange(len(labels) + 1) * (1 - spec.none.keep) + 1e-9)
        return [
            spec.none.label if after > before else label for label, before, after in zip(labels, left, left[1:], strict=False)
        ]

    def expected(self, spec: Any, target: Any) -> str:
        """The label."""
        return str(spec.sayings[int(target)])

    def is_right(self, spec: Any, answer: Mapping[str, Any], target: Any) -> bool:
        """Whether the label is the one."""
        return bool(answer["label"] == spec.sayings[int(target)])

    def questions(self, spec: Any, truth: Truth, count: int) -> list[int]:
        """In turns from each label, by its name."""
        return in_turns([spec.sayings[number] for number in np.asarray(truth).tolist()], count)

    def sections(self, report: Mapping[str, Any], winner: str | None, blocks: Blocks) -> "list[Html | None]":
        """Confusion matrices of the teacher and of the winner, their tables by label, and what labels are held to."""
        return [
            blocks.confusion(report, winner),
            *rates_sections(report, winner, blocks),
            requirements_section(report, blocks),
        ]


LEARNING = ClassificationLearning()


def _decided(spec: Classification, outputs: Outputs) -> np.ndarray:
    return spec.decided(outputs) if len(outputs) else np.zeros(0, dtype=np.int64)


def _in_scope(spec: Classification, truth: Truth) -> np.ndarray:
    """Which rows have one of the labels."""
    truth_N = np.asarray(truth)
    return (truth_N != MISSING) & (truth_N < len(spec.labels))


def _out_of_scope(settings: ClassificationSettings) -> set[str]:
    """What rows of no label are labelled as."""
    return set() if settings.none is None else {settings.none.label}


def _names(metrics: Sequence[Metric]) -> list[str]:
    return [metric.name for metric in metrics]


def _asked(name: str, labels: Sequence[str] | None) -> Metric:
    """KeyError with the reason where there is none such."""
    try:
        return named_metric(name, labels)
    except ValueError as error:
        raise KeyError(str(error)) from None


def _balanced(labels: Sequence[str], train_N: np.ndarray) -> "Tensor":
    import torch

    counts_C = np.bincount(train_N, minlength=len(labels))
    return torch.from_numpy(len(train_N) / (len(labels) * counts_C)).float()
