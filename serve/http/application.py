"""The HTTP application: one of ASGI, around the models of an application of Serve. Knows no Ray.

    application = build_application(models, example, window.report)       # GET /docs lists its routes

One file a concern: routes.py has the routes of models, gate.py what every request passes, problems.py how it is refused.
"""

from collections.abc import Awaitable, Callable, Sequence

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.engines.processor import ProcessorKind, unlike_judged
from serve.http.docs import docs_page
from serve.http.example import Example
from serve.http.explaining import explain_route
from serve.http.feedback_routes import feedback_routes
from serve.http.routes import listing_route, model_routes
from serve.http.schema import Health, Readiness
from serve.models.exchange import KEY
from serve.models.model import Models
from serve.models.problems import Problem, Refusal, problem_response
from serve.models.rollout.shadow import Disagreement
from serve.page import page_routes
from serve.watch.drift import Drift
from serve.watch.feedback import Feedback

Endpoint = Callable[[Request], Awaitable[Response]]


class HttpApplication:
    """FastAPI, and a way past it to the routes of models, which take a request as it is and give a whole response.

    FastAPI describes them all the same; only its search for the route and for what an endpoint wants costs more than
    everything else that is done in Python for a short text.
    """

    def __init__(self, application: FastAPI, straight: Sequence[APIRouter]) -> None:
        self._application: ASGIApp = application
        self._endpoints: dict[tuple[str, str], Endpoint] = {}
        for router in straight:
            application.include_router(router)
            for route in router.routes:
                assert isinstance(route, APIRoute)
                self._endpoints |= {(method, route.path): route.endpoint for method in route.methods or ()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            # What GET would say, but its body.
            scope, send = {**scope, "method": "GET"}, _without_body(send)
        endpoint = self._endpoints.get((scope["method"], scope[KEY].path)) if scope["type"] == "http" else None
        if endpoint is None:
            await self._application(scope, receive, send)
            return
        response = await endpoint(Request(scope, receive))
        await response(scope, receive, send)


def build_application(
    models: Models,
    example: Example,
    drift: Callable[[], Drift],
    shadow: Callable[[], Disagreement] | None = None,
    feedback: Feedback | None = None,
    judged_on: ProcessorKind | None = None,
) -> HttpApplication:
    """The ASGI application.

    `drift` tells how far the default model's texts are from its training, `shadow` how often its shadow disagrees.
    `feedback` keeps what people say is right, `judged_on` is the kind of processor that the default model was judged on.
    """
    ready = {"judged_on": judged_on, "warning": unlike_judged(judged_on)}
    default = models.get(None)
    application = FastAPI(title=default.served.name, version=default.served.fingerprint[:12], docs_url=None, redoc_url=None)
    application.add_exception_handler(Refusal, _refuse)
    application.add_exception_handler(HTTPException, _refuse_route)
    application.include_router(listing_route(models, feedback is not None))
    application.include_router(page_routes())

    @application.get("/healthz", summary="Whether the process is alive")
    async def health() -> Health:
        return Health(status="ok", model=default.served)

    @application.get("/readyz", summary="Whether the default model is loaded and warm")
    async def readiness() -> Readiness:
        return Readiness(status="ready", model=default.served, **ready)

    @application.get("/v1/drift", summary="How far this replica's newest texts are from the training texts")
    async def drifted() -> Drift:
        return drift()

    if shadow is not None:

        @application.get("/v1/shadow", summary="How often the shadow disagrees with this replica's default model")
        async def shadowed() -> Disagreement:
            return shadow()

    if feedback is not None:
        application.include_router(feedback_routes(models, example, feedback))

    @application.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(application.openapi()))

    return HttpApplication(application, [model_routes(models, example), explain_route(models, example)])


def _without_body(send: Send) -> Send:
    async def sent(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return sent


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return problem_response(error.problem, error.headers)


async def _refuse_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = f"{error.detail}: {request.method} {request.url.path}"
    return problem_response(Problem(title=title, status=error.status_code), error.headers)
