"""How many stars: how it is learned and judged. The fewer stars answers are away, the better."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from jobs.contracts.learning import Columns, Learning, Statistics, Targets, TaskSettings, Truth
from jobs.core.config import Config
from jobs.core.metric import Metric
from serve.tasks.protocol import Outputs
from tests.jobs.stars.answer import Stars

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


class Settings(TaskSettings):
    """Stars for a text."""

    kind: Literal["stars"]
    """stars: how many a text gives."""
    value: str = "value"
    """The column that holds the number."""


class Loss(Config):
    """The loss of Huber."""

    delta: float = Field(1.0, gt=0)
    """From this error on it grows in a line."""


class Judged:
    """Stars against the truth."""

    def __init__(self, errors_N: np.ndarray) -> None:
        self.errors_N, self.goodness_N = errors_N, 1 / (1 + errors_N)

    def figure(self, metric: str, weights_N: np.ndarray | None = None) -> float:
        """mean_error or largest_error."""
        if metric == "mean_error":
            return float(np.average(self.errors_N, weights=weights_N))
        return float(self.errors_N.max() if weights_N is None else self.errors_N[weights_N > 0].max())


class StarsLearning(Learning):
    """The jobs half."""

    kind: ClassVar = "stars"
    Settings: ClassVar = Settings
    Loss: ClassVar = Loss
    metrics: ClassVar = (Metric("mean_error", mode="min"), Metric("largest_error", mode="min", short="most"))
    soft_losses: ClassVar = ("huber",)

    def paths(self, settings: Any) -> dict[str, str]:
        """The number's column."""
        return {"task.value": settings.value}

    def types(self, settings: Any) -> "dict[str, pa.DataType]":
        """A number."""
        import pyarrow as pa

        return {"value": pa.float64()}

    def targets(self, settings: Any, frame: "pd.DataFrame") -> Targets:
        """The numbers as they are."""
        return Targets({"value": frame[settings.value].astype(float).tolist()})

    def statistics(self, settings: Any, columns: Columns) -> dict[str, float]:
        """How many there are."""
        return {"rows": len(columns["value"])}

    def spec(self, settings: Any, statistics: Statistics) -> Stars:
        """Stars are stars."""
        return Stars()

    def truth(self, spec: Any, columns: Columns) -> Truth:
        """The numbers."""
        return np.array(columns["value"], dtype=np.float64)

    def judged(self, spec: Any, outputs: Outputs, truth: Truth) -> Judged:
        """By how far each is off."""
        return Judged(np.abs(np.asarray(outputs)[:, 0] - np.asarray(truth)))


LEARNING = StarsLearning()
