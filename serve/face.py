"""The HTTP face of a model: POST /v1/predict, GET /healthz, GET /docs, GET /openapi.json. Knows no Ray.

    face = build_face(model, labels, answer, example)      # an ASGI application; `answer` computes the logits

Every refusal is application/problem+json and names the field. Shapes: B batch, C classes.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from serve.answers import classify
from serve.docs import docs_page
from serve.schema import (
    DEFAULT_TOP_K,
    MAX_BODY_BYTES,
    PROBLEM_TYPE,
    BadRequest,
    Health,
    PredictRequest,
    Problem,
    Reply,
    ServedModel,
    parse_request,
    too_large,
)

EXAMPLE_TEXTS = ["I would buy it again.", "It broke after a week."]
BATCH_HEADER = "x-batch-requests"
REFUSALS = {400: "The body is not JSON", 413: "The body is over 1 MiB", 422: "A field is missing or does not fit"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the engine gave for one request, and how many requests it was run for at once."""

    logits_BC: np.ndarray
    batch_requests: int


def build_face(
    model: ServedModel,
    labels: Sequence[str],
    answer: Callable[[list[str]], Awaitable[Outcome]],
    example_logits_BC: np.ndarray,
) -> FastAPI:
    """The ASGI application around a model; `example_logits_BC` are its own logits for EXAMPLE_TEXTS, for the docs."""
    face = FastAPI(title=model.name, version=model.fingerprint[:12], docs_url=None, redoc_url=None)
    face.add_exception_handler(BadRequest, _refuse)
    face.add_exception_handler(HTTPException, _refuse_route)
    example = Reply(model=model, answers=classify(example_logits_BC, labels, DEFAULT_TOP_K))

    @face.post("/v1/predict", summary="Classify texts", responses=_responses(example), openapi_extra=_request_schema())
    async def predict(request: Request) -> Response:
        wanted = parse_request(await _read_body(request))
        outcome = await answer(wanted.texts)
        reply = Reply(model=model, answers=classify(outcome.logits_BC, labels, wanted.top_k))
        headers = {BATCH_HEADER: str(outcome.batch_requests)}
        return Response(reply.model_dump_json(), media_type="application/json", headers=headers)

    @face.get("/healthz", summary="Whether the model is loaded")
    async def health() -> Health:
        return Health(status="ok", model=model)

    @face.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(face.openapi()))

    return face


async def _read_body(request: Request) -> bytes:
    """The body, or BadRequest 413 as soon as it is known to be over the limit: the rest is dropped, never kept or parsed."""
    declared = request.headers.get("content-length", "")
    size = int(declared) if declared.isascii() and declared.isdigit() else 0
    chunks: list[bytes] = []
    received = 0
    if size <= MAX_BODY_BYTES:
        async for chunk in request.stream():
            received += len(chunk)
            if received > MAX_BODY_BYTES:
                break
            chunks.append(chunk)
    if max(size, received) > MAX_BODY_BYTES:
        raise too_large()
    return b"".join(chunks)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, BadRequest)
    return _problem(error.problem)


async def _refuse_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = f"{error.detail}: {request.method} {request.url.path}"
    return _problem(Problem(title=title, status=error.status_code), error.headers)


def _problem(problem: Problem, headers: Any = None) -> Response:
    return Response(problem.model_dump_json(), problem.status, headers, PROBLEM_TYPE)


def _request_schema() -> dict[str, Any]:
    example = {"inputs": EXAMPLE_TEXTS, "top_k": DEFAULT_TOP_K}
    content = {"application/json": {"schema": PredictRequest.model_json_schema(), "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def _responses(example: Reply) -> dict[int | str, dict[str, Any]]:
    """The reply with the model's own answers as its example, and each refusal."""
    problem = {PROBLEM_TYPE: {"schema": Problem.model_json_schema(ref_template="#/components/schemas/{model}")}}
    answered = {"application/json": {"example": example.model_dump(mode="json")}}
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": why, "content": problem} for status, why in REFUSALS.items()
    }
    return {200: {"model": Reply, "description": "One answer a text", "content": answered}, **responses}
