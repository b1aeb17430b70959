"""A model in replicas of its own, one hop away.

model = RemoteModel(described, handle)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from ray.exceptions import RayTaskError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from serve.cleaning.cleaning import Cleaning
from serve.engines.card import Card, EngineError, TrainingData
from serve.models.local import overloaded
from serve.models.model import Model, ModelOutcome, ServedModel
from serve.models.problems import Refusal
from serve.tasks.protocol import Item, Task


@dataclass(frozen=True)
class Described:
    """What is known of a model before it is loaded."""

    served: ServedModel
    task: Task
    embeds: bool
    training: TrainingData | None = None
    """What its training texts were like."""
    cleaning: Cleaning | None = None
    """How it cleans what it is asked."""

    @classmethod
    def of(cls, name: str, fingerprint: str, variant: str, card: Card) -> Self:
        """From its card; EngineError where it has no task."""
        if card.task is None:
            raise EngineError(f"{name} is a language model, which answers for no task; ask it with serve.generation")
        served = ServedModel(name=name, fingerprint=fingerprint, variant=variant)
        return cls(served, card.task, card.variants[variant].embeds, card.training, card.cleaning)


class RemoteModel:
    """A model that is asked by a handle of Serve."""

    def __init__(self, described: Described, handle: DeploymentHandle) -> None:
        self.served, self.task = described.served, described.task
        self.cleaning, self.embeds = described.cleaning, described.embeds
        self._handle = handle

    async def predict(self, items: Sequence[Item]) -> ModelOutcome:
        """As Model.predict."""
        return await self._ask("predict", items)

    async def embeddings(self, items: Sequence[Item]) -> ModelOutcome:
        """As Model.embeddings."""
        return await self._ask("embeddings", items)

    async def answerers(self, item: Item) -> Sequence[Model]:
        """As Model.answerers."""
        return [self]

    async def _ask(self, method: str, items: Sequence[Item]) -> ModelOutcome:
        try:
            outputs, requests, lengths = await getattr(self._handle, method).remote(list(items))
        except BackPressureError:
            raise overloaded() from None
        except RayTaskError as error:
            if isinstance(error.cause, Refusal):
                raise error.cause from None
            raise
        return ModelOutcome(outputs, self.served, requests, lengths)
