"""A model in replicas of its own, one hop away.

model = RemoteModel(described, handle)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from ray.exceptions import RayTaskError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from serve.card import Card, TrainingData
from serve.local import overloaded
from serve.models import Model, Outcome
from serve.problems import Refusal
from serve.schema import ServedModel


@dataclass(frozen=True)
class Described:
    """What is known of a model before it is loaded."""

    served: ServedModel
    labels: tuple[str, ...]
    embeds: bool
    training: TrainingData | None = None
    """What its training texts were like."""

    @classmethod
    def of(cls, name: str, fingerprint: str, variant: str, card: Card) -> Self:
        """From its card."""
        served = ServedModel(name=name, fingerprint=fingerprint, variant=variant)
        return cls(served, card.labels, card.variants[variant].embeds, card.training)


class RemoteModel:
    """A model that is asked by a handle of Serve."""

    def __init__(self, described: Described, handle: DeploymentHandle) -> None:
        self.served, self.labels, self.embeds = described.served, described.labels, described.embeds
        self._handle = handle

    async def logits(self, texts: Sequence[str]) -> Outcome:
        """As Model.logits."""
        return await self._ask("logits", texts)

    async def embeddings(self, texts: Sequence[str]) -> Outcome:
        """As Model.embeddings."""
        return await self._ask("embeddings", texts)

    async def answerers(self, text: str) -> Sequence[Model]:
        """As Model.answerers."""
        return [self]

    async def _ask(self, method: str, texts: Sequence[str]) -> Outcome:
        try:
            values, requests, lengths = await getattr(self._handle, method).remote(list(texts))
        except BackPressureError:
            raise overloaded() from None
        except RayTaskError as error:
            if isinstance(error.cause, Refusal):
                raise error.cause from None
            raise
        return Outcome(values, self.served, requests, lengths)
