"""The route POST /v1/explain: which words of a text its answer rests on.

face.include_router(explain_route(models, example.left_out))
"""

import asyncio
import logging
from collections.abc import Sequence

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from serve.answers import softmax
from serve.body import read_body
from serve.deadline import left
from serve.exchange import exchange_of
from serve.explain import Span, evidence_of, split, without
from serve.models import Model, Models, Outcome
from serve.problems import FieldError, Refusal
from serve.routes import EXAMPLE_TEXTS, body_of, json_response, replies
from serve.schema import ServedModel, Text, TextsRequest, parse_request

LOGGER = logging.getLogger("ray.serve")


class ExplainRequest(TextsRequest):
    """A text to explain the answer of."""

    inputs: Text
    """A text of 1 to 20,000 characters, not all whitespace."""
    label: str | None = None
    """The label that is explained; by default the most probable one."""


class Word(BaseModel):
    """A word, or a run of them in a long text, and what it does for the label."""

    start: int
    end: int
    """Where it stands: inputs[start:end], in characters (Unicode code points)."""
    text: str
    attribution: float
    """By how much the label's log-odds fall without it; above 0 it speaks for the label, below 0 against it."""
    probability_without: float
    """The label's probability without it."""


class Explanation(BaseModel):
    """The model that explains its own answer, the label that is explained, and each word's part in it."""

    model: ServedModel
    label: str
    probability: float
    words: Sequence[Word]


def explain_route(models: Models, left_out: np.ndarray) -> APIRouter:
    """The route; `left_out` are the default model's logits of EXAMPLE_TEXTS[0] and of it without each word, for the docs."""
    router = APIRouter()
    default, text = models.get(None), EXAMPLE_TEXTS[0]
    example = explanation_of(ExplainRequest(inputs=text), split(text), Outcome(left_out, default.served), default.labels)

    @router.post(
        "/v1/explain",
        summary="Which words an answer rests on",
        responses=replies(example, "The label and what each word does for it"),
        openapi_extra=body_of(ExplainRequest, {"inputs": text}),
    )
    async def explain(request: Request) -> Response:
        wanted = parse_request(await read_body(request), ExplainRequest)
        model = models.get(wanted.model)
        exchange_of(request).note(model.served.name, wanted.texts)
        _check_label(wanted.label, model.labels)
        spans = split(wanted.inputs)
        answerers = await model.answerers(wanted.inputs)
        one, outcome = await _answers_of_one(answerers, [wanted.inputs, *without(wanted.inputs, spans)])
        return json_response(explanation_of(wanted, spans, outcome, one.labels))

    return router


async def _answers_of_one(answerers: Sequence[Model], texts: Sequence[str]) -> tuple[Model, Outcome]:
    """All texts' logits by a single model, or they would not compare: the first one that answers, and which it is."""
    *others, last = answerers
    for model in others:
        try:
            # Where it gives no answer, the one after it needs time for its own.
            async with asyncio.timeout(left() / 2):
                return model, await model.logits(texts)
        except Exception as error:  # noqa: BLE001  whatever it is, there is a model that can explain
            LOGGER.warning(f"{model.served.name} does not explain its answer, {answerers[-1].served.name} may: {error!r}")
    return last, await last.logits(texts)


def explanation_of(wanted: ExplainRequest, spans: Sequence[Span], outcome: Outcome, labels: Sequence[str]) -> Explanation:
    """The explanation, from the logits of the text and then of it without each span."""
    column = int(outcome.values[0].argmax()) if wanted.label is None else list(labels).index(wanted.label)
    evidence = evidence_of(outcome.values, column)
    words = [
        Word(
            start=span.start,
            end=span.end,
            text=wanted.inputs[span.start : span.end],
            attribution=found.attribution,
            probability_without=found.probability_without,
        )
        for span, found in zip(spans, evidence, strict=True)
    ]
    probability = float(softmax(outcome.values[:1])[0, column])
    return Explanation(model=outcome.model, label=labels[column], probability=probability, words=words)


def _check_label(label: str | None, labels: Sequence[str]) -> None:
    if label is not None and label not in labels:
        message = f"The model has no label {label!r}; it has {', '.join(labels)}"
        raise Refusal(422, "The request does not fit", [FieldError(field="label", message=message)])
