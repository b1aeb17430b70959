"""What runs in the replicas of an application: the default model with the HTTP face around it, and the other models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from ray.exceptions import RayTaskError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from serve.card import Card
from serve.engine import load_engine
from serve.face import build_face
from serve.local import LocalModel, overloaded
from serve.models import Model, Models, Outcome
from serve.problems import Refusal
from serve.published import find_model
from serve.routes import EXAMPLE_TEXTS, Example
from serve.schema import DEFAULT_TOP_K, ServedModel
from serve.settings import Arguments, ModelSettings


@dataclass(frozen=True)
class Described:
    """What is known of a model before it is loaded."""

    served: ServedModel
    labels: tuple[str, ...]
    embeds: bool

    @classmethod
    def of(cls, name: str, fingerprint: str, variant: str, card: Card) -> Self:
        """From its card."""
        served = ServedModel(name=name, fingerprint=fingerprint, variant=variant)
        return cls(served, card.labels, card.variants[variant].embeds)


class RemoteModel:
    """A model in replicas of its own."""

    def __init__(self, described: Described, handle: DeploymentHandle) -> None:
        self.served, self.labels, self.embeds = described.served, described.labels, described.embeds
        self._handle = handle

    async def logits(self, texts: Sequence[str]) -> Outcome:
        """As Model.logits."""
        return await self._ask("logits", texts)

    async def embeddings(self, texts: Sequence[str]) -> Outcome:
        """As Model.embeddings."""
        return await self._ask("embeddings", texts)

    async def _ask(self, method: str, texts: Sequence[str]) -> Outcome:
        try:
            values, requests = await getattr(self._handle, method).remote(list(texts))
        except BackPressureError:
            raise overloaded() from None
        except RayTaskError as error:
            if isinstance(error.cause, Refusal):
                raise error.cause from None
            raise
        return Outcome(values, self.served, requests)


class ModelReplica:
    """One replica of a model that others ask."""

    def __init__(self, settings: ModelSettings, described: Described) -> None:
        self.model = load_local(settings, described)

    async def logits(self, texts: list[str]) -> tuple[np.ndarray, int]:
        """The outcome's values and how many requests shared a batch."""
        outcome = await self.model.logits(texts)
        return outcome.values, outcome.batch_requests

    async def embeddings(self, texts: list[str]) -> tuple[np.ndarray, int]:
        """The same for embeddings."""
        outcome = await self.model.embeddings(texts)
        return outcome.values, outcome.batch_requests


class ModelServer(ModelReplica):
    """One replica of the default model, with the HTTP face of the application around it."""

    def __init__(
        self, arguments: Arguments, described: Described, others: Mapping[str, tuple[Described, DeploymentHandle]]
    ) -> None:
        super().__init__(arguments, described)
        self.arguments = arguments
        by_name: dict[str, Model] = {arguments.default_name: self.model}
        by_name |= {name: RemoteModel(told, handle) for name, (told, handle) in others.items()}
        self.models = Models(by_name, arguments.default_name)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The ASGI application, once the model is loaded and warm."""
        engine = self.model.engine
        vectors = engine.embed(engine.tokenise(EXAMPLE_TEXTS[:1])).round(4).tolist() if self.model.embeds else []
        example = Example(engine.predict(EXAMPLE_TEXTS, DEFAULT_TOP_K), vectors)
        return build_face(self.models, example, self.arguments.request_timeout_seconds)


def load_local(settings: ModelSettings, described: Described) -> LocalModel:
    """Fetch, check, load and warm the model on this host."""
    directory = find_model(settings.model, settings.fingerprint).fetch(settings.variant)
    engine = load_engine(
        directory, settings.variant, settings.threads, settings.max_batch_size, settings.device, settings.max_batch_tokens
    )
    return LocalModel(engine, described.served, settings)
