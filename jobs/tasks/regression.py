"""Regression: a number for a text, or for two texts together. How it is learned and judged: squared errors, RMSE.

    task: {kind: regression, value: score}
    task: {kind: regression, value: relatedness, pair: sentence_B, least: 1, greatest: 5}

Models learn standardised numbers: those of the training split have mean 0 and standard deviation 1 there, so that rates,
losses and the teacher's weight beside the targets mean the same whatever is measured. B batch, K teachers, N items.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from jobs.contracts.learning import Batch, Blocks, Columns, Statistics, Targets, Truth, shown_rows
from jobs.core.config import BadInput, Config, Problem
from jobs.core.metric import Metric
from jobs.tasks.number_figures import JudgedNumbers, errors_by_range
from jobs.tasks.number_targets import number_of
from jobs.tasks.two_texts import TwoTextLearning, TwoTextSettings
from serve.tasks.protocol import Item, Outputs
from serve.tasks.regression import Regression, check_bounds

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from tokenizers import Encoding
    from torch import Tensor

    from jobs.report.html import Html

VALUE = "value"
COUNT, SUM, SQUARES = "numbers", "sum", "sum of squares"
SCALE_DIGITS = 6
"""Of mean and deviation: sums of the same rows in another order differ further behind."""
LEAST_SPREAD = 1e-10
"""The share that the variance must have in the mean square: of less, rounding in the sums leaves nothing."""
RIGHT = 0.5
"""An answer is what was expected where it is no more than so many standard deviations away."""


class RegressionSettings(TwoTextSettings):
    """What the labelled rows are for: a number for a text or for a pair of texts."""

    kind: Literal["regression"]
    """regression: a number for a text, or for two."""
    value: str = "value"
    """The column that holds the number."""
    least: float | None = Field(None, allow_inf_nan=False)
    """No number is below it: a row whose is, is wrong, and no answer is."""
    greatest: float | None = Field(None, allow_inf_nan=False)
    """No number is above it, likewise."""

    @model_validator(mode="after")
    def _bounds_apart(self) -> Self:
        check_bounds(self.least, self.greatest)
        return self


class RegressionLoss(Config):
    """What may be set of the loss."""

    huber_delta: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Errors above so many standard deviations of the training numbers count in a line and not squared, so that rows that are
    far off pull less (Huber 1964; 1 is usual). Without it all are squared."""


class NumberCriterion:
    """Squared errors, or Huber's, of standardised numbers."""

    splits = True

    def __init__(self, huber_delta: float | None = None) -> None:
        self.huber_delta = huber_delta

    def loss(self, outputs: "Tensor", batch: Batch) -> "Tensor":
        """Summed over the batch; rows without a number have none."""
        wanted_B = batch["labels"]
        known_B = ~wanted_B.isnan()
        return _apart(outputs[:, 0][known_B], wanted_B[known_B], self.huber_delta)

    def count(self, batch: Batch) -> float:
        """A number a row."""
        return float(len(batch["labels"]))


class TeachersNumbers:
    """How far the student's numbers are from the teachers' mean."""

    def __init__(self, loss: str, weights_K: "Tensor") -> None:
        self.huber_delta, self.weights_K = 1.0 if loss == "huber" else None, weights_K

    def loss(self, outputs: "Tensor", batch: Batch, temperature: "Tensor") -> "Tensor":
        """Summed over the batch; the teachers' numbers are BK1. No temperature softens a number."""
        teachers_BK1 = batch["teacher"]
        wanted_B = (teachers_BK1[:, :, 0] * self.weights_K.to(teachers_BK1.device)).sum(1)
        return _apart(outputs[:, 0], wanted_B, self.huber_delta)


class RegressionLearning(TwoTextLearning):
    """The jobs half."""

    kind: ClassVar = "regression"
    Settings: ClassVar = RegressionSettings
    Loss: ClassVar = RegressionLoss
    metrics: ClassVar = (
        Metric("rmse", mode="min"),
        Metric("mae", mode="min"),
        Metric("pearson", highest=1.0, lowest=-1.0),
        Metric("spearman", highest=1.0, lowest=-1.0),
    )
    soft_losses: ClassVar = ("mse", "huber")
    softens: ClassVar = False

    def paths(self, settings: Any) -> dict[str, str]:
        """The number's column, and the second text's."""
        return {"task.value": settings.value} | super().paths(settings)

    def types(self, settings: Any) -> "dict[str, pa.DataType]":
        """A number."""
        import pyarrow as pa

        return {VALUE: pa.float64()}

    def targets(self, settings: Any, frame: "pd.DataFrame") -> Targets:
        """The numbers; an empty one is none."""
        made = Targets({VALUE: []})
        for place, value in enumerate(frame[settings.value]):
            try:
                number = number_of(value)
            except ValueError as error:
                number, made.wrong[place] = None, str(error)
            if number is not None and (reason := _outside(number, settings)):
                number, made.wrong[place] = None, reason
            made.columns[VALUE].append(number)
        return made

    def statistics(self, settings: Any, columns: Columns) -> dict[str, float]:
        """How many numbers there are, their sum and that of their squares."""
        known = [number for number in columns[VALUE] if number is not None]
        return {COUNT: len(known), SUM: math.fsum(known), SQUARES: math.fsum(number * number for number in known)}

    def summary(self, spec: Any, statistics: Mapping[str, float]) -> dict[str, float]:
        """How many numbers there are, their mean and standard deviation."""
        if not statistics[COUNT]:
            return {COUNT: 0}
        mean, deviation = _moments(statistics)
        return {COUNT: statistics[COUNT], "mean": mean, "standard deviation": deviation}

    def check(self, settings: Any, statistics: Statistics) -> list[Problem]:
        """Training numbers that are all the same."""
        return _one_number(settings, statistics) if statistics.get("train", {}).get(COUNT) else []

    def spec(self, settings: Any, statistics: Statistics) -> Regression:
        """The scale of the training numbers."""
        if not statistics.get("train", {}).get(COUNT):
            reason = "no row of the training split has a number"
            raise BadInput([Problem("task.value", settings.value, reason, "Give more rows.")])
        if problems := _one_number(settings, statistics):
            raise BadInput(problems)
        mean, deviation = _moments(statistics["train"])
        decimals = SCALE_DIGITS - 1 - math.floor(math.log10(deviation))
        return Regression(
            mean=round(mean, decimals), deviation=round(deviation, decimals),
            least=settings.least, greatest=settings.greatest, pairs=settings.pair is not None,
        )  # fmt: skip

    def truth(self, spec: Any, columns: Columns) -> np.ndarray:
        """The numbers in the user's units; NaN without one, for every number may be a target."""
        return np.array([math.nan if number is None else number for number in columns[VALUE]], dtype=np.float64)

    def missing(self, spec: Any) -> np.ndarray:
        """NaN."""
        return np.array(math.nan)

    def known(self, truth: Truth) -> np.ndarray:
        """Those with a number."""
        return ~np.isnan(np.asarray(truth, dtype=np.float64))

    def head(self, spec: Any) -> dict[str, Any]:
        """One output, that is a number."""
        return {"id2label": {0: VALUE}, "label2id": {VALUE: 0}, "problem_type": "regression"}

    def window_targets(self, spec: Any, target: Any, item: Item, windows: "Sequence[Encoding]") -> list[np.ndarray]:
        """The standardised number."""
        return [np.asarray((target - spec.mean) / spec.deviation, dtype=np.float32)] * len(windows)

    def criterion(self, spec: Any, settings: Any, truth: Truth) -> NumberCriterion:
        """Squared errors, or Huber's."""
        return NumberCriterion(settings.huber_delta)

    def soft_criterion(self, spec: Any, mix: Any, weights_K: "Tensor") -> TeachersNumbers:
        """The same from the teachers' numbers; Huber's from one standard deviation on."""
        return TeachersNumbers(mix.loss, weights_K)

    def judged(self, spec: Any, outputs: Outputs, truth: Truth) -> JudgedNumbers:
        """Answers against the truth, in the user's units."""
        return JudgedNumbers(np.asarray(truth, dtype=np.float64), spec.values(outputs), spec.deviation)

    def losses(self, spec: Any, outputs: Outputs, truth: Truth) -> np.ndarray:
        """The squared error of each, standardised."""
        raw_N = np.asarray(outputs, dtype=np.float64).reshape(-1)
        return ((raw_N - (np.asarray(truth, dtype=np.float64) - spec.mean) / spec.deviation) ** 2).astype(np.float32)

    def further(self, spec: Any, raw: Outputs, settled: Outputs, truth: Truth) -> dict[str, Any]:
        """How far answers are off, by ranges of the truth."""
        truth_N = np.asarray(truth, dtype=np.float64)
        return {"by_range": errors_by_range(self.judged(spec, settled, truth_N), spec.ranges(truth_N), spec.sayings)}

    def slices(self, spec: Any, truth: Truth) -> dict[str, np.ndarray]:
        """Items by the range that their number is in."""
        ranges_N = np.array(spec.ranges(np.asarray(truth)), dtype=object)
        return {f"value {name}": ranges_N == name for name in spec.sayings if (ranges_N == name).any()}

    def training_answers(self, spec: Any, truth: Truth) -> list[str]:
        """The ranges."""
        truth_N = np.asarray(truth)
        return list(spec.ranges(truth_N[self.known(truth_N)]))

    def expected(self, spec: Any, target: Any) -> str:
        """The number."""
        return str(spec.written(float(target)))

    def is_right(self, spec: Any, answer: Mapping[str, Any], target: Any) -> bool:
        """Whether it is within half a standard deviation."""
        return bool(abs(answer["value"] - target) <= RIGHT * spec.deviation)

    def questions(self, spec: Any, truth: Truth, count: int) -> list[int]:
        """From the lowest number to the highest, in even steps of their order."""
        order_N = np.argsort(np.asarray(truth), kind="stable")
        steps = np.linspace(0, len(order_N) - 1, min(count, len(order_N))).round().astype(int)
        return [int(place) for place in order_N[steps]]

    def sections(self, report: Mapping[str, Any], winner: str | None, blocks: Blocks) -> "list[Html | None]":
        """The errors of the yardstick and of the winner by ranges."""
        header = ("truth", "examples", "mean error", "MAE")
        return [
            blocks.figures(f"By range: {row['candidate']}", header, [_cells(one) for one in row["by_range"]])
            for row in shown_rows(report, winner)
            if row.get("by_range")
        ]


LEARNING = RegressionLearning()


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (row["range"], f"{row['examples']:,}", f"{row['mean_error']:+.3g}", f"{row['mae']:.3g}")


def _outside(number: float, settings: RegressionSettings) -> str | None:
    """Why a number is outside of the bounds; None where it is not."""
    if settings.least is not None and number < settings.least:
        return f"{number:g} is below least: {settings.least:g}"
    if settings.greatest is not None and number > settings.greatest:
        return f"{number:g} is above greatest: {settings.greatest:g}"
    return None


def _moments(sums: Mapping[str, float]) -> tuple[float, float]:
    """The mean and the standard deviation."""
    mean = sums[SUM] / sums[COUNT]
    return mean, math.sqrt(max(0.0, sums[SQUARES] / sums[COUNT] - mean * mean))


def _one_number(settings: RegressionSettings, statistics: Statistics) -> list[Problem]:
    """That the training numbers are all the same, or nearly so beside their size."""
    sums = statistics["train"]
    if _moments(sums)[1] ** 2 > LEAST_SPREAD * sums[SQUARES] / sums[COUNT]:
        return []
    mean, count = sums[SUM] / sums[COUNT], f"{sums[COUNT]:,.0f}"
    reason = f"the {count} training numbers are all about {mean:g}, and nothing can be learned of that"
    remedy = "Name another column; of numbers that differ far behind, take off what they have in common."
    return [Problem("task.value", settings.value, reason, remedy)]


def _apart(said_B: "Tensor", wanted_B: "Tensor", huber_delta: float | None) -> "Tensor":
    from torch.nn import functional

    from jobs.losses.answers import in_full

    said_B, wanted_B = in_full(said_B), in_full(wanted_B)
    if huber_delta is None:
        return functional.mse_loss(said_B, wanted_B, reduction="sum")
    return functional.huber_loss(said_B, wanted_B, reduction="sum", delta=huber_delta)
