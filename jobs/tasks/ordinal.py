"""Ordinal: one of several labels that have an order. How it is learned and judged: a yes or no a step, quadratic kappa.

    task: {kind: ordinal, label: stars}                                # whole numbers are in their own order
    task: {kind: ordinal, label: grade, order: [bad, fair, good]}      # from the lowest on

C labels, K teachers, N items, R steps from a label to the next one.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from jobs.contracts.learning import MISSING, Blocks, Columns, Statistics, Targets, Truth
from jobs.contracts.suspicions import Suspicions
from jobs.core.config import BadInput, Problem
from jobs.core.metric import Metric
from jobs.data.clean import value_name
from jobs.data.values import is_single, written_as
from jobs.tasks.label_settings import in_turns, label_numbers, labels_without_training
from jobs.tasks.number_targets import number_of
from jobs.tasks.one_label import LABEL, OneLabelLearning, OneLabelSettings
from jobs.tasks.rank_figures import JudgedRanks
from jobs.tasks.temperature import confidence_error, fit_temperature
from jobs.tasks.yes_or_no import SOFT_DECISIONS, EachDecision, SigmoidCriterion, decision_losses
from serve.tasks.ordinal import Ordinal
from serve.tasks.protocol import Fitted, Item, Outputs
from serve.tasks.shared.probabilities import TEMPERATURE

if TYPE_CHECKING:
    import pandas as pd
    from tokenizers import Encoding
    from torch import Tensor
    from transformers import PreTrainedConfig

    from jobs.report.html import Html


class OrdinalSettings(OneLabelSettings):
    """What the labelled rows are for: one of several labels that have an order, for a text or for a pair of texts."""

    kind: Literal["ordinal"]
    """ordinal: one of several labels that have an order."""
    label: str = "label"
    """The column that holds the label."""
    order: tuple[str, ...] | None = Field(None, min_length=2)
    """All labels by the names that they have from here on, from the lowest to the highest. Whole numbers need none: they have
    an order."""

    @field_validator("order", mode="before")
    @classmethod
    def _order_as_in_files(cls, order: Any) -> Any:
        """Numbers and booleans as YAML has them, by the texts that files have for them."""
        if not isinstance(order, list | tuple):
            return order
        return [value_name(written_as(label)) if is_single(label) else label for label in order]

    @field_validator("order")
    @classmethod
    def _each_once(cls, order: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if twice := [label for label, count in Counter(order or ()).items() if count > 1]:
            raise ValueError(f"{twice[0]!r} stands in it twice")
        if order is not None and "" in order:
            raise ValueError("a label has no name")
        return order


class OrdinalLearning(OneLabelLearning):
    """The jobs half."""

    kind: ClassVar = "ordinal"
    Settings: ClassVar = OrdinalSettings
    metrics: ClassVar = (
        Metric("quadratic_weighted_kappa", short="kappa", highest=1.0, lowest=-1.0),
        Metric("accuracy", short="acc", highest=1.0),
        Metric("within_one", highest=1.0),
        Metric("rank_mae", mode="min"),
    )
    soft_losses: ClassVar = SOFT_DECISIONS
    calibrates: ClassVar = True

    def targets(self, settings: Any, frame: "pd.DataFrame") -> Targets:
        """The label by its name from here on; an empty one is none, and one without a place in the order is wrong."""
        made = Targets({LABEL: []})
        for place, value in enumerate(frame[settings.label]):
            name = value_name(value)
            label, reason = _placed(settings.names.get(name, name), settings.order)
            made.columns[LABEL].append(label or None)
            if reason is not None:
                made.wrong[place] = reason
        return made

    def check(self, settings: Any, statistics: Statistics) -> list[Problem]:
        """Labels that train lacks, where nothing else says which there are."""
        return labels_without_training(statistics) if settings.order is None else []

    def spec(self, settings: Any, statistics: Statistics) -> Ordinal:
        """The labels in their order: all that the settings name, or the whole numbers of the training split."""
        train = set(statistics.get("train", {}))
        if len(train) < 2:
            reason = "the training split has fewer than two labels"
            raise BadInput([Problem("task.label", sorted(train), reason, "Give more rows.")])
        if problems := self.check(settings, statistics):
            raise BadInput(problems)
        labels = settings.order or sorted(train, key=int)
        return Ordinal(labels=tuple(labels), pairs=settings.pair is not None, long=settings.long, pooling=settings.pooling)

    def truth(self, spec: Any, columns: Columns) -> np.ndarray:
        """The place of each label, from 0; MISSING without one."""
        places: dict[str | None, int] = {None: MISSING}
        places |= {label: place for place, label in enumerate(spec.labels)}
        return np.array([places[label] for label in columns[LABEL]], dtype=np.int64)

    def suspicious(self, spec: Any, columns: Columns, most: int) -> Suspicions:
        """Labels that look wrong to a linear model which has not seen them."""
        from jobs.tasks.confident_learning import wrong_labels_of

        return wrong_labels_of(spec, columns, self.truth(spec, columns), most)

    def head(self, spec: Any) -> dict[str, Any]:
        """The steps, and that several of them may have been made."""
        steps = label_numbers([f"above {label}" for label in spec.labels[:-1]])
        return {**steps, "problem_type": "multi_label_classification"}

    def knows(self, spec: Any, config: "PreTrainedConfig") -> bool:
        """Whether the config names these steps."""
        return list((config.id2label or {}).values()) == list(self.head(spec)["id2label"].values())

    def window_targets(self, spec: Any, target: Any, item: Item, windows: "Sequence[Encoding]") -> list[np.ndarray]:
        """steps_R: 1 for each that leads up to the label; MISSING where nobody has said."""
        steps_R = np.full(spec.steps, MISSING) if target == MISSING else _steps(np.asarray(target), spec.steps)
        return [steps_R.astype(np.int64)] * len(windows)

    def criterion(self, spec: Any, settings: Any, truth: Truth) -> EachDecision:
        """Binary cross-entropy a step."""
        return EachDecision()

    def soft_criterion(self, spec: Any, mix: Any, weights_K: "Tensor") -> SigmoidCriterion:
        """KL of each step's yes and no, or squared differences of the logits. The mean of teachers' probabilities of a step is
        that of what they say of the labels."""
        return SigmoidCriterion(mix.loss, weights_K)

    def judged(self, spec: Any, outputs: Outputs, truth: Truth) -> JudgedRanks:
        """Answers against the truth."""
        return JudgedRanks(np.asarray(truth, dtype=np.int64), self._places(spec, outputs), len(spec.labels))

    def losses(self, spec: Any, outputs: Outputs, truth: Truth) -> np.ndarray:
        """Binary cross-entropy of each, a mean over steps."""
        return decision_losses(np.asarray(outputs), _steps(np.asarray(truth, dtype=np.int64), spec.steps))

    def fit(self, spec: Any, outputs: Outputs, truth: Truth) -> tuple[Fitted, dict[str, float]]:
        """The temperature at which the probabilities of the steps hold."""
        logits_M = np.asarray(spec.settled(spec.stacked(list(outputs)), {})).reshape(-1)
        made_M = _steps(np.asarray(truth, dtype=np.int64), spec.steps).reshape(-1)
        # A yes or no by its logit is one of two labels, of which the other's logit is 0.
        fitted = {TEMPERATURE: fit_temperature(np.stack([np.zeros_like(logits_M), logits_M], axis=1), made_M)}
        return fitted, {
            **fitted,
            "calibration_error": self._error(spec, outputs, fitted, truth),
            "calibration_error_unscaled": self._error(spec, outputs, {}, truth),
        }

    def further(self, spec: Any, raw: Outputs, settled: Outputs, truth: Truth) -> dict[str, Any]:
        """How far confidence is from accuracy, with the temperature and without, and which labels are taken for which."""
        from sklearn.metrics import confusion_matrix

        said_N, labels = self._places(spec, settled), range(len(spec.labels))
        return {
            "calibration_error": confidence_error(spec.confidence(settled), said_N == np.asarray(truth)),
            "calibration_error_unscaled": self._error(spec, raw, {}, truth),
            "confusion": confusion_matrix(np.asarray(truth), said_N, labels=labels).tolist(),
        }

    def slices(self, spec: Any, truth: Truth) -> dict[str, np.ndarray]:
        """Each label's items."""
        truth_N = np.asarray(truth)
        return {f"label {spec.labels[place]}": truth_N == place for place in np.unique(truth_N).tolist()}

    def training_answers(self, spec: Any, truth: Truth) -> list[str]:
        """The labels."""
        return [spec.labels[place] for place in np.asarray(truth).tolist() if place != MISSING]

    def expected(self, spec: Any, target: Any) -> str:
        """The label."""
        return str(spec.labels[int(target)])

    def is_right(self, spec: Any, answer: Mapping[str, Any], target: Any) -> bool:
        """Whether the label is the one."""
        return bool(answer["label"] == spec.labels[int(target)])

    def questions(self, spec: Any, truth: Truth, count: int) -> list[int]:
        """In turns from each label, from the lowest on."""
        return in_turns(np.asarray(truth).tolist(), count)

    def sections(self, report: Mapping[str, Any], winner: str | None, blocks: Blocks) -> "list[Html | None]":
        """Confusion matrices of the teacher and of the winner."""
        return [blocks.confusion(report, winner)]

    def _places(self, spec: Any, outputs: Outputs) -> np.ndarray:
        return np.asarray(spec.places(spec.stacked(list(outputs))), dtype=np.int64)

    def _error(self, spec: Any, raw: Outputs, fitted: Fitted, truth: Truth) -> float:
        settled = spec.settled(spec.stacked(list(raw)), fitted)
        return confidence_error(spec.confidence(settled), spec.places(settled) == np.asarray(truth))


LEARNING = OrdinalLearning()


def _steps(truth: np.ndarray, steps: int) -> np.ndarray:
    """1 for each step that leads up to a label, 0 for those above it, by the label's place."""
    return (truth[..., None] > np.arange(steps)).astype(np.int64)


def _placed(name: str, order: Sequence[str] | None) -> tuple[str, str | None]:
    """A label as the order has it, whole numbers without what they may be written with; and why it has no place there."""
    if not name or (order is not None and name in order):
        return name, None
    try:
        number = number_of(name)
    except ValueError:
        number = None
    plain = str(int(number)) if number is not None and number.is_integer() else None
    if plain is not None and (order is None or plain in order):
        return plain, None
    if order is None:
        return "", f"the label {name!r} is no whole number, so nothing says where it stands: write order: [lowest, …, highest]"
    return "", f"the label {name!r} is not in order: [{', '.join(order)}]; put it there, or rename it by names"
