"""The routes of /v1/feedback: what people say is right is taken, and how good the answers of each version are by it.

application.include_router(feedback_routes(models, example, feedback))
"""

from dataclasses import asdict, is_dataclass
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from serve.http.body import read_body
from serve.http.example import Example
from serve.http.gate import sound_id
from serve.http.routes import REFUSALS, body_of, json_response, problem, replies
from serve.http.schema import FeedbackReply, FeedbackRequest, parse_request
from serve.models.exchange import exchange_of
from serve.models.model import Models
from serve.models.problems import FieldError, Refusal
from serve.tasks.protocol import Task
from serve.watch.feedback import Feedback, Question, Said, Score

NOT_TAKEN = "Of this model's kind of answer no right one is taken"
UNKNOWN = "Nothing is known of this request"


class Scores(BaseModel):
    """How good the newest answers of each version are, by what people said of them; the version last spoken of first."""

    scores: list[Score]


def feedback_routes(models: Models, example: Example, feedback: Feedback) -> APIRouter:
    """POST and GET /v1/feedback, documented with the default model's own answer."""
    router = APIRouter()
    responses: dict[int | str, dict[str, Any]] = {status: problem(why) for status, why in REFUSALS.items()}
    if any(model.task.right_example() is None for model in models.by_name.values()):
        responses[409] = problem(NOT_TAKEN)
    task, body = models.get(None).task, {"request_id": "order-17", "index": 0, "right": None}
    if (shown := task.right_example()) is not None:
        body["right"] = shown
        responses |= replies(_shown(models, example, shown), "What was answered, and how good that was")
    responses[404] = problem(UNKNOWN)

    @router.post(
        "/v1/feedback",
        summary="Say what is right",
        responses=responses,
        openapi_extra=body_of(FeedbackRequest, body),
    )
    async def say(request: Request) -> Response:
        wanted = parse_request(await read_body(request), FeedbackRequest)
        question = await _asked(feedback, sound_id(wanted.request_id.encode()), exchange_of(request).key)
        index, task = _index(wanted, question), models.get(question.asked).task
        if task.right_example() is None:
            message = f"{question.asked} gives answers of a kind of which no right one is taken"
            raise Refusal(409, NOT_TAKEN, [FieldError(field="request_id", message=message)])
        right, answer = _right(task, wanted.right), question.answers[index]
        goodness, names = task.goodness(answer, right), feedback.settings.columns
        row = {names.get(name, name): value for name, value in {**question.inputs[index], **right}.items()}
        said = Said(id=question.id, index=index, model=question.model, row=row, answer=answer, goodness=goodness)
        replaced = await feedback.keep(said)
        return json_response(
            FeedbackReply(model=question.model, answer=answer, right=right, goodness=goodness, replaced=replaced)
        )

    @router.get("/v1/feedback", summary="How good the newest answers of each version are, by what people said of them")
    async def scored() -> Scores:
        return Scores(scores=await feedback.scores())

    return router


async def _asked(feedback: Feedback, request_id: str, key: str | None) -> Question:
    """What was asked under an id with this API key; Refusal 404 where nothing was, as far as is known."""
    question = await feedback.find(request_id)
    if question is None or question.key != key:
        kept = feedback.settings
        message = (
            f"No request {request_id!r} with this API key was answered, or it is forgotten: requests are kept for "
            f"{kept.hours:g} hours, those of the newest {kept.texts:,} texts"
        )
        raise Refusal(404, UNKNOWN, [FieldError(field="request_id", message=message)])
    return question


def _index(wanted: FeedbackRequest, question: Question) -> int:
    """Which of the inputs is meant; Refusal 422 where it does not say, or there is none."""
    count = len(question.inputs)
    if wanted.index is None and count == 1:
        return 0
    if wanted.index is None or wanted.index >= count:
        message = f"That request had {count} inputs: say which is meant, from 0 to {count - 1}"
        raise Refusal(422, "The request does not fit", [FieldError(field="index", message=message)])
    return wanted.index


def _right(task: Task, said: Any) -> dict[str, Any]:
    try:
        return task.right(said)
    except ValueError as error:
        raise Refusal(422, "The request does not fit", [FieldError(field="right", message=str(error))]) from error


def _shown(models: Models, example: Example, said: Any) -> FeedbackReply:
    """What is replied where this is said to be right of the first example."""
    default = models.get(None)
    answer, right = example.answers[0], default.task.right(said)
    told = asdict(answer) if is_dataclass(answer) and not isinstance(answer, type) else answer.model_dump(mode="json")
    goodness = default.task.goodness(told, right)
    return FeedbackReply(model=default.served, answer=told, right=right, goodness=goodness, replaced=False)
