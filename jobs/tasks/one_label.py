"""What kinds whose rows have one label have in common: its column, how often each label is there, which rows have none."""

from collections import Counter
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import model_validator

from jobs.contracts.learning import MISSING, Columns, Truth
from jobs.tasks.label_settings import LabelNames, in_windows
from jobs.tasks.two_texts import TwoTextLearning, TwoTextSettings

if TYPE_CHECKING:
    import pyarrow as pa

LABEL = "label"
"""The column of EXAMPLES."""


class OneLabelSettings(TwoTextSettings, LabelNames):
    """Settings of a task of one label for a text, or for two texts."""

    @model_validator(mode="after")
    def _whole_texts_of_pairs(self) -> Self:
        if self.pair is not None and self.long == "windows":
            raise ValueError("windows are of one text, and of several texts each would have a part: leave long out")
        return self


class OneLabelLearning(TwoTextLearning):
    """The jobs half of such a kind."""

    def stands_alone(self, settings: Any) -> str | None:
        """Where it reads windows, too."""
        return in_windows(settings) or super().stands_alone(settings)

    def paths(self, settings: Any) -> dict[str, str]:
        """The label's column, and the second text's."""
        return {"task.label": settings.label} | super().paths(settings)

    def types(self, settings: Any) -> "dict[str, pa.DataType]":
        """The label is a string."""
        import pyarrow as pa

        return {LABEL: pa.string()}

    def statistics(self, settings: Any, columns: Columns) -> dict[str, float]:
        """How often each label is there."""
        return dict(Counter(label for label in columns[LABEL] if label is not None))

    def stratum(self, settings: Any) -> str:
        """The label."""
        return LABEL

    def known(self, truth: Truth) -> np.ndarray:
        """Those with a label."""
        return np.asarray(truth) != MISSING
