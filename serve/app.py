"""Published models on Ray Serve.

    from ray import serve
    serve.run(build(Arguments(model="s3://bucket/runs/spam/small-1a2b3c4d")), name="spam", route_prefix="/spam")

or as an entry of a Serve config file, `serve deploy FILE`:

    applications:
      - {name: spam, route_prefix: /spam, import_path: "serve.app:build", args: {model: s3://…, variant: int8}}

The replicas of the default model take the requests and answer them in the same process. Every other model has a deployment
of its own, one hop away: it can be slow, scale to zero or fail without the default model's requests noticing.
"""

from typing import Any, TypeVar

from ray import serve
from ray.serve import Application

from serve.deployment.feedback_desk import FeedbackDesk
from serve.deployment.replica import ModelReplica, ModelServer
from serve.engines.card import EngineError
from serve.engines.published import open_model
from serve.models.local import RETRY_AFTER_SECONDS
from serve.models.remote import Described
from serve.settings import Arguments, ModelSettings

IMPORT_PATH = "serve.app:build"
DEPLOYMENT = "model"
"""The name of the default model's deployment."""
SHUTDOWN_SECONDS = 5
"""What a replica that is to go has beyond the longest request before it is killed."""
S = TypeVar("S", bound=ModelSettings)


def build(arguments: Arguments) -> Application:
    """The Serve application; EngineError at once if a model or a variant is not there."""
    pinned, described = _pin(arguments, arguments.default_name)
    others = {}
    for name, settings in arguments.others.items():
        other, told = _pin(settings, name)
        replicas = serve.deployment(**_deployment(f"model-{name}", other, arguments))(ModelReplica)
        others[name] = (told, replicas.bind(other, told))
    for what, second in (("cascade", arguments.cascade), ("canary", arguments.canary), ("shadow", arguments.shadow)):
        if second is not None:
            _check_comparable(what, described, others[second.model][0])
    if arguments.cascade is not None:
        _check_confidence(described)
    bulk = None
    if arguments.bulk is not None:
        large, told = _pin(arguments.bulk, arguments.default_name)
        if told.task != described.task:
            raise EngineError(
                f"{arguments.bulk.model} has not learned the task of {arguments.default_name}, but takes its long lists; "
                "give `bulk` the same model"
            )
        bulk = (told, serve.deployment(**_deployment("model-bulk", large, arguments))(ModelReplica).bind(large, told))
    desk = None
    if arguments.feedback is not None:
        desk = serve.deployment(**FeedbackDesk.OPTIONS)(FeedbackDesk).bind(arguments.feedback)
    options = _deployment(DEPLOYMENT, pinned, arguments)
    return serve.deployment(**options)(serve.ingress()(ModelServer)).bind(pinned, described, others, bulk, desk)


def deployment_config(name: str, arguments: Arguments, route_prefix: str) -> dict[str, Any]:
    """The application's entry in a Serve config file."""
    return {
        "name": name,
        "route_prefix": route_prefix,
        "import_path": IMPORT_PATH,
        "args": arguments.model_dump(mode="json", exclude_none=True, exclude={"by_step"}),
    }


def _pin(settings: S, name: str) -> tuple[S, Described]:
    """The settings with the fingerprint of what lies there now: replicas started later must answer with those bytes too."""
    published = open_model(settings.model, settings.fingerprint)
    card = published.card()
    variant, _ = card.variant(settings.variant)
    pinned = settings.model_copy(update={"fingerprint": published.fingerprint, "variant": variant})
    return pinned, Described.of(name, published.fingerprint, variant, card)


def _check_comparable(what: str, default: Described, second: Described) -> None:
    """EngineError where the two models' outputs cannot be compared."""
    if why := default.task.unlike(second.task):
        told = "; ".join(f"{one.served.name} answers {', '.join(one.task.sayings)}" for one in (default, second))
        raise EngineError(
            f"{second.served.name} cannot be the {what} of {default.served.name}: {why} ({told}); a cascade, canary or shadow "
            "needs a model that has learned the same"
        )


def _check_confidence(default: Described) -> None:
    """EngineError where nobody can tell which answers are unsure."""
    if default.task.confidence(default.task.stacked([])) is None:
        raise EngineError(
            f"{default.served.name} does not say how sure its answers are, so that no cascade can pass on those that are not; "
            "deploy it without one"
        )


def _deployment(name: str, settings: ModelSettings, arguments: Arguments) -> dict[str, Any]:
    return {
        "name": name,
        "max_ongoing_requests": arguments.max_ongoing_requests,
        "max_queued_requests": arguments.max_queued_requests,
        "graceful_shutdown_timeout_s": arguments.request_timeout_seconds + SHUTDOWN_SECONDS,
        # It has an access log of its own.
        "logging_config": {"enable_access_log": False},
        "backpressure_config": {"status_code": 503, "retry_after_s": RETRY_AFTER_SECONDS},
        **settings.scaling(),
    }
