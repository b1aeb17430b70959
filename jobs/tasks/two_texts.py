"""What kinds have in common whose items have one text, or two that are read together: the column of the second one."""

from typing import Any

from jobs.contracts.learning import Learning, TaskSettings


class TwoTextSettings(TaskSettings):
    """Settings of a task of texts or pairs of texts."""

    pair: str | None = None
    """The column of a second text: the two are read together (does the one follow from the other, do they answer each other,
    how alike are they)."""


class TwoTextLearning(Learning):
    """The jobs half of such a kind."""

    def fields(self, settings: Any, text: str) -> dict[str, str]:
        """The text, and of pairs the second one."""
        return {"text": text} | ({"pair": settings.pair} if settings.pair is not None else {})

    def paths(self, settings: Any) -> dict[str, str]:
        """The second text's column, where there is one."""
        return {"task.pair": settings.pair} if settings.pair is not None else {}
