"""The routes of models: POST /v1/predict, POST /v1/embeddings, GET /v1/models.

face.include_router(listing_route(models))
Face(face, [model_routes(models, example)])
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from serve.answers import Answer, classify
from serve.body import read_body
from serve.exchange import exchange_of
from serve.models import Models
from serve.problems import PROBLEM_TYPE, Problem
from serve.schema import (
    DEFAULT_TOP_K,
    Embedded,
    ListedModel,
    Listing,
    PredictRequest,
    Reply,
    TextsRequest,
    parse_request,
)

EXAMPLE_TEXTS = ["I would buy it again.", "It broke after a week."]
BATCH_HEADER = "x-batch-requests"
REFUSALS = {
    400: "The body is not JSON",
    401: "The API key is missing or wrong, where one is asked for",
    404: "There is no model of this name",
    413: "The body is over 1 MiB",
    422: "A field is missing or does not fit",
    429: "This API key asks too often",
    503: "Too many requests wait",
    504: "The answer took longer than allowed",
}


@dataclass(frozen=True)
class Example:
    """What the default model answers to EXAMPLE_TEXTS, for the docs."""

    answers: list[Answer]
    embeddings: list[list[float]]
    """Of the first text alone; empty where it has none."""
    left_out: np.ndarray
    """Logits of the first text, and then of it without each of its words."""


def model_routes(models: Models, example: Example) -> APIRouter:
    """The routes, documented with the default model's own answers."""
    router = APIRouter()
    default = models.get(None).served
    answered = Reply(model=default, answers=example.answers)
    embedded = Embedded(model=default, embeddings=example.embeddings)

    @router.post(
        "/v1/predict",
        summary="Classify texts",
        responses=replies(answered, "One answer a text"),
        openapi_extra=body_of(PredictRequest, {"inputs": EXAMPLE_TEXTS, "top_k": DEFAULT_TOP_K}),
    )
    async def predict(request: Request) -> Response:
        wanted = parse_request(await read_body(request), PredictRequest)
        model = models.get(wanted.model)
        exchange_of(request).note(model.served.name, wanted.texts)
        outcome = exchange_of(request).outcome = await model.logits(wanted.texts)
        reply = Reply(model=outcome.model, answers=classify(outcome.values, model.labels, wanted.top_k))
        return json_response(reply, {BATCH_HEADER: str(outcome.batch_requests)})

    @router.post(
        "/v1/embeddings",
        summary="Vectors of texts, mean pooled and of length 1",
        responses=replies(embedded, "One vector a text") | {409: _problem("This variant gives no hidden states")},
        openapi_extra=body_of(TextsRequest, {"inputs": EXAMPLE_TEXTS[0]}),
    )
    async def embeddings(request: Request) -> Response:
        wanted = parse_request(await read_body(request), TextsRequest)
        model = models.get(wanted.model)
        exchange_of(request).note(model.served.name, wanted.texts)
        outcome = await model.embeddings(wanted.texts)
        reply = Embedded(model=outcome.model, embeddings=outcome.values.tolist())
        return json_response(reply, {BATCH_HEADER: str(outcome.batch_requests)})

    return router


def listing_route(models: Models) -> APIRouter:
    """GET /v1/models."""
    router = APIRouter()

    @router.get("/v1/models", summary="The models that answer")
    async def listing() -> Listing:
        return Listing(
            models=[
                ListedModel(
                    **model.served.model_dump(), default=name == models.default, labels=model.labels, embeddings=model.embeds
                )
                for name, model in models.by_name.items()
            ]
        )

    return router


def json_response(reply: BaseModel, headers: dict[str, str] | None = None) -> Response:
    """The reply as JSON."""
    return Response(reply.model_dump_json(), media_type="application/json", headers=headers)


def body_of(kind: type[TextsRequest], example: dict[str, Any]) -> dict[str, Any]:
    """A request's body, as OpenAPI describes it."""
    content = {"application/json": {"schema": kind.model_json_schema(), "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def replies(example: BaseModel, description: str) -> dict[int | str, dict[str, Any]]:
    """The reply with its example, and each refusal."""
    content = {"application/json": {"example": example.model_dump(mode="json")}}
    answered: dict[int | str, dict[str, Any]] = {200: {"model": type(example), "description": description, "content": content}}
    return answered | {status: _problem(why) for status, why in REFUSALS.items()}


def _problem(description: str) -> dict[str, Any]:
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"description": description, "content": {PROBLEM_TYPE: {"schema": schema}}}
