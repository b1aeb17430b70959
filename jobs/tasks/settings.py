"""What a recipe says of a task. No torch in here, so that recipes are checked fast."""

from typing import Literal

from jobs.core.config import Config


class Task(Config):
    """What the labelled rows are for."""

    kind: Literal["classification"] = "classification"
    """classification: one label for a text."""
    label: str = "label"
    """The column that holds the label."""
