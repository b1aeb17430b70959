"""What kinds say alike whose items have one text, or two that are read together."""

from serve.tasks.protocol import Task


class TwoTextTask(Task):
    """A task of texts, or of pairs of texts."""

    pairs: bool = False
    """Whether an item has two texts."""

    @property
    def fields(self) -> tuple[str, ...]:
        """text, and of pairs pair."""
        return ("text", "pair") if self.pairs else ("text",)
