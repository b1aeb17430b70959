"""What a recipe says of a task. No torch in here, so that recipes are checked fast."""

from typing import Literal

from jobs.core.config import Config


class Task(Config):
    """What the labelled rows are for."""

    kind: Literal["classification"] = "classification"
    """classification: one label for a text."""
    label: str = "label"
    """The column that holds the label."""
    names: dict[str, str] = {}
    """What labels in that column are called from here on, e.g. {"0": ham, "1": spam}."""
