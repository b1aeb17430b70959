"""The route POST /v1/explain: which words of an item its answer rests on.

application.include_router(explain_route(models, example))
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from serve.engines.reading import parts_of
from serve.http.body import Reader
from serve.http.example import Example
from serve.http.routes import REFUSALS, body_of, json_response, problem, replies
from serve.http.schema import explain_form, explanation_form
from serve.models.deadline import left
from serve.models.exchange import exchange_of
from serve.models.model import Model, ModelOutcome, Models, ServedModel
from serve.models.problems import FieldError, Refusal
from serve.tasks.protocol import Explained, Item, Part, Task

LOGGER = logging.getLogger("ray.serve")
NOTHING_TO_EXPLAIN = "This model's kind of answer is not explained"


def explain_route(models: Models, example: Example) -> APIRouter:
    """The route; the example has what the default model says of its first item without each of its words."""
    router = APIRouter()
    default = models.get(None)
    task, first = default.task, example.items[0]
    responses: dict[int | str, dict[str, Any]] = {status: problem(why) for status, why in REFUSALS.items()}
    if any(model.task.Whole is None for model in models.by_name.values()):
        responses[409] = problem(NOTHING_TO_EXPLAIN)
    if task.Whole is not None:
        left_out = [first, *task.without(first, example.parts)]
        explained = task.evidence(example.left_out, left_out, task.Target())
        shown = explanation_of(task, first, example.parts, explained, default.served)
        responses |= replies(shown, "What is explained and what each word does for it")
    reader = Reader(models, explain_form)

    @router.post(
        "/v1/explain",
        summary="Which words an answer rests on",
        responses=responses,
        openapi_extra=body_of(explain_form(task), {"inputs": task.as_input(first)}),
    )
    async def explain(request: Request) -> Response:
        wanted, model = await reader.read(request)
        task, (item,) = model.task, wanted.items
        exchange_of(request).note(model, [item])
        _check(task, wanted, item, model.served)
        asked, outcome = await _answers_of_one(await model.answerers(item), task, item)
        explained = task.evidence(task.aligned(outcome.outputs, asked.model.task), asked.items, wanted)
        return json_response(explanation_of(task, item, asked.parts, explained, outcome.model))

    return router


@dataclass(frozen=True)
class _Asked:
    """What a model is asked to explain an answer: the item, and it without each of the parts that it reads."""

    model: Model
    parts: Sequence[Part]
    items: Sequence[Item]

    @classmethod
    def of(cls, model: Model, task: Task, item: Item) -> Self:
        """To explain its answer to this item."""
        parts = parts_of(task, item, model.cleaning)
        return cls(model, parts, [item, *task.without(item, parts)])


async def _answers_of_one(answerers: Sequence[Model], task: Task, item: Item) -> tuple[_Asked, ModelOutcome]:
    """All outputs that explain an answer, by a single model, or they would not compare: the first one that answers, and what
    it was asked."""
    *others, last = (_Asked.of(model, task, item) for model in answerers)
    for asked in others:
        try:
            # Where it gives no answer, the one after it needs time for its own.
            async with asyncio.timeout(left() / 2):
                return asked, await asked.model.predict(asked.items)
        except Exception as error:  # noqa: BLE001  whatever it is, there is a model that can explain
            LOGGER.warning(f"{asked.model.served.name} does not explain its answer, {last.model.served.name} may: {error!r}")
    return last, await last.model.predict(last.items)


def explanation_of(task: Task, item: Item, parts: Sequence[Part], explained: Explained, served: ServedModel) -> BaseModel:
    """The explanation: what is explained of the answer to this item, and what each of its parts does for it."""
    words = []
    for part, evidence in zip(parts, explained.parts, strict=True):
        place = {"start": part.start, "end": part.end, "text": item.values[part.field][part.start : part.end]}
        named = {"field": task.fields[part.field]} if len(task.fields) > 1 else {}
        words.append({**named, **place, **asdict(evidence)})
    return explanation_form(task)(model=served, words=words, **explained.whole)


def _check(task: Task, wanted: BaseModel, item: Item, served: ServedModel) -> None:
    """Refusal 409 where there is nothing to explain, 422 where the task has no such target."""
    if task.Whole is None:
        message = f"{served.name} gives answers of a kind that is not explained; ask POST /v1/predict alone"
        raise Refusal(409, NOTHING_TO_EXPLAIN, [FieldError(field="model", message=message)])
    if wrong := task.wrong_target(wanted, item):
        field, message = wrong
        raise Refusal(422, "The request does not fit", [FieldError(field=field, message=message)])
