"""A model as the HTTP application sees it, wherever it runs: in this very replica or in another one.

    outcome = await models.get("teacher").predict([Item(("Win a prize now",))])

What stands between a request and a model (a canary, a cascade) is a Model itself, made of others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from serve.cleaning.cleaning import Cleaning
from serve.models.problems import FieldError, Refusal
from serve.tasks.protocol import Item, Outputs, Task


class ServedModel(BaseModel):
    """Which model answered."""

    model_config = ConfigDict(frozen=True)
    name: str
    fingerprint: str
    variant: str


@dataclass(frozen=True, slots=True)
class ModelOutcome:
    """What a model gave for the items of one request."""

    outputs: Outputs
    """Settled outputs of the model's task, or vectors of length 1."""
    model: ServedModel
    """The model that answered."""
    batch_requests: int = 1
    """How many requests shared a forward pass with it, at most."""
    lengths: Sequence[int] = ()
    """Of each item in tokens, as the model read it."""


class Model(Protocol):
    """A model that answers."""

    @property
    def served(self) -> ServedModel:
        """Its name and version."""

    @property
    def task(self) -> Task:
        """What its outputs mean."""

    @property
    def cleaning(self) -> Cleaning | None:
        """How it cleans what it is asked."""

    @property
    def embeds(self) -> bool:
        """Whether it has embeddings."""

    async def predict(self, items: Sequence[Item]) -> ModelOutcome:
        """The settled output of each item, in their order."""

    async def embeddings(self, items: Sequence[Item]) -> ModelOutcome:
        """The mean of the last hidden states of each item's tokens, scaled to length 1."""

    async def answerers(self, item: Item) -> "Sequence[Model]":
        """The single model whose answer to this item is given, and those that answer where it fails."""


@dataclass(frozen=True, slots=True)
class Models:
    """The models of one application, by name."""

    by_name: Mapping[str, Model]
    default: str
    """The name of the one that answers when a request names none."""

    def get(self, name: str | None) -> Model:
        """The model of this name; Refusal 404 that names those that are there."""
        found = self.by_name.get(self.default if name is None else name)
        if found is None:
            message = f"There is no model {name!r}; there are {', '.join(self.by_name)}"
            raise Refusal(404, "No such model", [FieldError(field="model", message=message)])
        return found
