"""The routes of models: POST /v1/predict, POST /v1/embeddings, GET /v1/models.

application.include_router(listing_route(models, feedback=True))
HttpApplication(application, [model_routes(models, example)])
"""

from typing import Any

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from serve.http.body import Reader
from serve.http.example import Example
from serve.http.schema import Embedded, ListedModel, Listing, embeddings_form, predict_form, reply_form
from serve.models.exchange import exchange_of
from serve.models.model import Model, Models
from serve.models.problems import PROBLEM_TYPE, Problem

BATCH_HEADER = "x-batch-requests"
REFUSALS = {
    400: "The body is not JSON in UTF-8",
    401: "The API key is missing or wrong, where one is asked for",
    404: "There is no model of this name",
    413: "The body is over 1 MiB",
    415: "The body is packed (Content-Encoding)",
    422: "A field is missing or does not fit",
    429: "This API key asks too often",
    503: "Too many requests wait",
    504: "The answer took longer than allowed",
}


def model_routes(models: Models, example: Example) -> APIRouter:
    """The routes, documented with the default model's own answers."""
    router = APIRouter()
    default = models.get(None)
    served, task = default.served, default.task
    answered = reply_form(task)(model=served, answers=example.answers)
    embedded = Embedded(model=served, embeddings=example.embeddings)
    inputs = [task.as_input(item) for item in example.items]
    predictions, vectors = Reader(models, predict_form), Reader(models, embeddings_form)

    @router.post(
        "/v1/predict",
        summary=task.summary,
        responses=replies(answered, "One answer a text" if len(task.fields) == 1 else "One answer an item"),
        openapi_extra=body_of(predict_form(task), {"inputs": inputs, **task.Options().model_dump(mode="json")}),
    )
    async def predict(request: Request) -> Response:
        wanted, model = await predictions.read(request)
        exchange, items = exchange_of(request), wanted.items
        exchange.note(model, items)
        outcome = exchange.outcome = await model.predict(items)
        answers = model.task.answers(outcome.outputs, items, wanted)
        reply = reply_form(model.task)(model=outcome.model, answers=answers)
        return json_response(reply, {BATCH_HEADER: str(outcome.batch_requests)})

    @router.post(
        "/v1/embeddings",
        summary="Vectors of texts, mean pooled and of length 1",
        responses=replies(embedded, "One vector a text") | {409: problem("This variant gives no hidden states")},
        openapi_extra=body_of(embeddings_form(task), {"inputs": inputs[0]}),
    )
    async def embeddings(request: Request) -> Response:
        wanted, model = await vectors.read(request)
        items = wanted.items
        exchange_of(request).note(model, items)
        outcome = await model.embeddings(items)
        reply = Embedded(model=outcome.model, embeddings=np.asarray(outcome.outputs).tolist())
        return json_response(reply, {BATCH_HEADER: str(outcome.batch_requests)})

    return router


def listing_route(models: Models, feedback: bool) -> APIRouter:
    """GET /v1/models; `feedback`: whether it is taken where a kind of task has it."""
    router = APIRouter()

    @router.get("/v1/models", summary="The models that answer")
    async def listing() -> Listing:
        return Listing(models=[_listed(one, name == models.default, feedback) for name, one in models.by_name.items()])

    return router


def _listed(model: Model, default: bool, feedback: bool) -> ListedModel:
    task = model.task
    feedback = feedback and task.right_example() is not None
    return ListedModel(
        **model.served.model_dump(),
        default=default,
        labels=task.sayings if task.view == "labels" else (),
        embeddings=model.embeds,
        kind=task.kind,
        fields=task.fields,
        view=task.view,
        views=task.views,
        explains=task.Whole is not None,
        feedback=feedback,
        choices=task.choices if feedback else (),
    )


def json_response(reply: BaseModel, headers: dict[str, str] | None = None) -> Response:
    """The reply as JSON."""
    return Response(reply.model_dump_json(), media_type="application/json", headers=headers)


def body_of(form: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    """A request's body, as OpenAPI describes it."""
    schema = form.model_json_schema()
    # Its definitions would be looked for among those of the whole description.
    content = {"application/json": {"schema": _whole(schema, schema.pop("$defs", {})), "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def replies(example: BaseModel, description: str) -> dict[int | str, dict[str, Any]]:
    """The reply with its example, and each refusal."""
    content = {"application/json": {"example": example.model_dump(mode="json")}}
    answered: dict[int | str, dict[str, Any]] = {200: {"model": type(example), "description": description, "content": content}}
    return answered | {status: problem(why) for status, why in REFUSALS.items()}


def problem(description: str) -> dict[str, Any]:
    """A refusal, as OpenAPI describes it."""
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"description": description, "content": {PROBLEM_TYPE: {"schema": schema}}}


def _whole(schema: Any, definitions: dict[str, Any]) -> Any:
    """A JSON schema with each definition in the place where it is referred to."""
    if isinstance(schema, list):
        return [_whole(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _whole(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {name: _whole(part, definitions) for name, part in schema.items()}
