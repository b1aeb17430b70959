"""Several labels for a text, or none. How they are learned and judged: a yes or no a label, macro F1.

    task: {kind: multi_label, labels: emotions}                        # a column of lists, in JSON Lines or Parquet
    task: {kind: multi_label, labels: emotions, separator: ";"}        # of texts such as "joy;love", in CSV

Rows without any label are rows: nothing is to be said of their texts. C labels, K teachers, N items.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from jobs.contracts.learning import MISSING, Blocks, Columns, Learning, Statistics, Targets, Truth
from jobs.core.config import Config, Problem
from jobs.core.metric import Metric
from jobs.data.clean import value_name, value_names
from jobs.data.values import is_single
from jobs.tasks.label_rates import rates_sections
from jobs.tasks.label_sets import JudgedSets, best_thresholds, rates_of_sets
from jobs.tasks.label_settings import (
    LabelNames,
    in_windows,
    label_numbers,
    label_weights,
    labels_without_training,
    training_labels,
)
from jobs.tasks.yes_or_no import SOFT_DECISIONS, EachDecision, SigmoidCriterion, decision_losses
from serve.tasks.multi_label import NONE_OF_THEM, MultiLabel, given
from serve.tasks.protocol import Fitted, Outputs
from serve.tasks.shared.labels import THRESHOLD

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from torch import Tensor
    from transformers import PreTrainedConfig

    from jobs.report.html import Html

LABELS = "labels"
SEPARATORS = (";", "|", ",", "/", "\t", "；", "，", "、")
"""Signs that people put between labels; the last ones in Chinese."""


class MultiLabelSettings(LabelNames):
    """What the labelled rows are for: several labels for a text, or none."""

    kind: Literal["multi_label"]
    """multi_label: any number of labels for a text."""
    labels: str = "labels"
    """The column that holds the labels: lists, or texts."""
    separator: str | None = Field(None, min_length=1)
    """What parts the labels in a text of that column, as in CSV files; without it such a text is one label."""


class MultiLabelLoss(Config):
    """What may be set of the loss."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each yes and no that goes to the other."""
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """What a text that has a label counts for it, where one that has it not counts 1. balanced: both alike in sum."""

    _as_read = field_validator("class_weights")(value_names)


class MultiLabelLearning(Learning):
    """The jobs half."""

    kind: ClassVar = "multi_label"
    Settings: ClassVar = MultiLabelSettings
    Loss: ClassVar = MultiLabelLoss
    metrics: ClassVar = (
        Metric("macro_f1", highest=1.0),
        Metric("micro_f1", highest=1.0),
        Metric("sample_f1", highest=1.0),
        Metric("exact_match", short="exact", highest=1.0),
        Metric("hamming_loss", mode="min", short="hamming", highest=1.0),
    )
    soft_losses: ClassVar = SOFT_DECISIONS
    lists: ClassVar = ("task.labels",)

    def stands_alone(self, settings: Any) -> str | None:
        """Where it reads windows, too."""
        return in_windows(settings) or super().stands_alone(settings)

    def paths(self, settings: Any) -> dict[str, str]:
        """The column of the labels."""
        return {"task.labels": settings.labels}

    def types(self, settings: Any) -> "dict[str, pa.DataType]":
        """Labels are a list of strings."""
        import pyarrow as pa

        return {LABELS: pa.list_(pa.string())}

    def targets(self, settings: Any, frame: "pd.DataFrame") -> Targets:
        """The labels by their names from here on, each once, in the order of their names."""
        made, wrong = [], {}
        for place, value in enumerate(frame[settings.labels]):
            own = [] if value is None else list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
            if nested := [one for one in own if one is not None and not is_single(one)]:
                wrong[place] = f"a label is {nested[0]!r}, and single values are asked for"
                own = []
            parts = [part for one in own for part in _parts(one, settings.separator)]
            names = {settings.names.get(name, name) for name in map(value_name, parts)}
            made.append(sorted(names - {"", NONE_OF_THEM}))
        return Targets({LABELS: made}, wrong)

    def statistics(self, settings: Any, columns: Columns) -> dict[str, float]:
        """How often each label is there, and how many rows have none."""
        rows = [own for own in columns[LABELS] if own is not None]
        none = sum(not own for own in rows)
        return dict(Counter(label for own in rows for label in own)) | ({NONE_OF_THEM: none} if none else {})

    def stratum(self, settings: Any) -> str:
        """The labels."""
        return LABELS

    def check(self, settings: Any, statistics: Statistics) -> list[Problem]:
        """A separator that is missing or another; labels that train lacks."""
        labels = {label for own in statistics.values() for label in own if label != NONE_OF_THEM}
        if (sign := _separator_of(labels, settings.separator)) is not None:
            example = next(label for label in sorted(labels) if sign in label)
            reason = f"the label {example!r} is several that {sign!r} parts"
            return [Problem("task.separator", settings.separator, reason, f"Write separator: {sign!r}.")]
        return labels_without_training(statistics, (NONE_OF_THEM,))

    def spec(self, settings: Any, statistics: Statistics) -> MultiLabel:
        """The labels of the training split, in the order of their names."""
        remedy = "Give more rows, or take classification."
        labels = training_labels(statistics, "task.labels", remedy, (NONE_OF_THEM,))
        return MultiLabel(labels=labels, long=settings.long, pooling=settings.pooling)

    def truth(self, spec: Any, columns: Columns) -> np.ndarray:
        """truth_NC: 1 for each label that a row has, 0 for the others; MISSING where nobody has said."""
        numbers = {label: number for number, label in enumerate(spec.labels)}
        truth_NC = np.zeros((len(columns[LABELS]), len(spec.labels)), dtype=np.int64)
        for row, own in enumerate(columns[LABELS]):
            if own is None:
                truth_NC[row] = MISSING
            else:
                truth_NC[row, [numbers[label] for label in own]] = 1
        return truth_NC

    def missing(self, spec: Any) -> np.ndarray:
        """MISSING for each label."""
        return np.full(len(spec.labels), MISSING)

    def known(self, truth: Truth) -> np.ndarray:
        """Those of which somebody has said what labels they have."""
        return np.asarray(truth)[:, 0] != MISSING

    def head(self, spec: Any) -> dict[str, Any]:
        """The labels, in their order, and that several may be right."""
        return {**label_numbers(spec.labels), "problem_type": "multi_label_classification"}

    def knows(self, spec: Any, config: "PreTrainedConfig") -> bool:
        """Whether the config names these labels, in this order, and that several may be right."""
        several = config.problem_type == "multi_label_classification"
        return several and list((config.id2label or {}).values()) == list(spec.labels)

    def criterion(self, spec: Any, settings: Any, truth: Truth) -> EachDecision:
        """Binary cross-entropy; BadInput for a weight of a label that is not there."""
        balanced = partial(_balanced, np.asarray(truth))
        return EachDecision(settings.label_smoothing, label_weights(settings.class_weights, spec.labels, balanced))

    def soft_criterion(self, spec: Any, mix: Any, weights_K: "Tensor") -> SigmoidCriterion:
        """KL of each label's yes and no (Hinton et al. 2015 with a sigmoid a label), or squared differences of the logits."""
        return SigmoidCriterion(mix.loss, weights_K)

    def judged(self, spec: Any, outputs: Outputs, truth: Truth) -> JudgedSets:
        """The labels that are given against the truth."""
        return JudgedSets(np.asarray(truth), self._given(spec, outputs))

    def losses(self, spec: Any, outputs: Outputs, truth: Truth) -> np.ndarray:
        """Binary cross-entropy of each text, a mean over labels."""
        return decision_losses(np.asarray(outputs), np.asarray(truth))

    def part(self, spec: Any, outputs: Outputs, truth: Truth) -> Any:
        """What is given, and losses: no logits."""
        return self._given(spec, spec.settled(outputs, {})), np.asarray(truth), self.losses(spec, outputs, truth)

    def measured(self, spec: Any, parts: Sequence[Any]) -> dict[str, float]:
        """All metrics, at thresholds of a half, and the mean loss."""
        given_NC, truth_NC, losses_N = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        judged = JudgedSets(truth_NC, given_NC)
        found = {metric.name: judged.figure(metric.name) for metric in self.metrics_of(spec)}
        return found | {"validation_loss": float(losses_N.mean())}

    def fit(self, spec: Any, outputs: Outputs, truth: Truth) -> tuple[Fitted, dict[str, float]]:
        """For each label the threshold with the highest F1."""
        before = self.judged(spec, spec.settled(outputs, {}), truth).figure("macro_f1")
        found = best_thresholds(np.asarray(outputs), np.asarray(truth))
        fitted = {f"{THRESHOLD}{label}": one for label, one in zip(spec.labels, found, strict=True) if one is not None}
        after = self.judged(spec, spec.settled(outputs, fitted), truth).figure("macro_f1")
        return fitted, {"macro_f1_at_thresholds": after, "macro_f1_at_a_half": before}

    def further(self, spec: Any, raw: Outputs, settled: Outputs, truth: Truth) -> dict[str, Any]:
        """Precision, recall, F1 and support by label."""
        return {"by_label": rates_of_sets(spec.labels, np.asarray(truth), self._given(spec, settled))}

    def slices(self, spec: Any, truth: Truth) -> dict[str, np.ndarray]:
        """Each label's items, and those without any."""
        truth_NC = np.asarray(truth)
        each = {f"label {label}": truth_NC[:, number] == 1 for number, label in enumerate(spec.labels)}
        return {name: mask_N for name, mask_N in {**each, NONE_OF_THEM: truth_NC.sum(1) == 0}.items() if mask_N.any()}

    def training_answers(self, spec: Any, truth: Truth) -> list[str]:
        """The first label of each."""
        return [spec.first(row == 1) for row in np.asarray(truth)[self.known(truth)]]

    def expected(self, spec: Any, target: Any) -> str:
        """The labels."""
        return ", ".join(self._names(spec, target)) or NONE_OF_THEM

    def is_right(self, spec: Any, answer: Mapping[str, Any], target: Any) -> bool:
        """Whether all labels are the same."""
        return set(answer["labels"]) == set(self._names(spec, target))

    def sections(self, report: Mapping[str, Any], winner: str | None, blocks: Blocks) -> "list[Html | None]":
        """The table by label of the yardstick and of the winner."""
        return rates_sections(report, winner, blocks)

    def _given(self, spec: Any, settled: Outputs) -> np.ndarray:
        return given(settled) if len(settled) else np.zeros((0, len(spec.labels)), dtype=bool)

    def _names(self, spec: Any, target: Any) -> list[str]:
        return [label for label, yes in zip(spec.labels, np.asarray(target).tolist(), strict=True) if yes == 1]


LEARNING = MultiLabelLearning()


def _parts(value: Any, separator: str | None) -> list[Any]:
    return value.split(separator) if separator is not None and isinstance(value, str) else [value]


def _separator_of(labels: set[str], written: str | None) -> str | None:
    """A sign that parts labels and is not the one that is written; what it parts stands there by itself too."""
    for sign in SEPARATORS:
        several = [label.split(sign) for label in labels if sign in label]
        counted = Counter(part.strip() for parts in several for part in parts)
        known = labels | {part for part, count in counted.items() if count > 1}
        if sign != written and several and all(part.strip() in known for parts in several for part in parts):
            return sign
    return None


def _balanced(train_NC: np.ndarray) -> "Tensor":
    import torch

    known_NC = train_NC[train_NC[:, 0] != MISSING]
    with_C = known_NC.sum(0)
    return torch.from_numpy((len(known_NC) - with_C) / np.maximum(with_C, 1)).float()
