"""What runs in the replicas of an application: the default model with its HTTP application, and the other models."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from cluster.ray_private import serve_controller, serve_logs_directory
from serve.deployment.chores import start_chore
from serve.deployment.feedback_desk import HANDED_OVER_SECONDS, RemoteFeedback
from serve.engines.engine import load_engine
from serve.engines.processor import unlike_judged
from serve.engines.published import open_model
from serve.http.application import build_application
from serve.http.auth import Guard, check_exposure
from serve.http.example import example_of
from serve.http.gate import Gate
from serve.models.exchange import Exchange
from serve.models.local import LocalModel
from serve.models.model import Model, Models
from serve.models.remote import Described, RemoteModel
from serve.models.rollout.canary import Canary, Seen
from serve.models.rollout.cascade import Cascade
from serve.models.rollout.shadow import Shadow
from serve.models.spread import Bulk, Spread
from serve.settings import Arguments, ModelSettings
from serve.tasks.protocol import Item, Outputs
from serve.watch.access_log import AccessLog
from serve.watch.drift import DriftWindow, note_asked
from serve.watch.metrics import DriftMetrics, ModelMetrics, RequestMetrics, SecondMetrics
from serve.watch.questions import Questions

LOGGER = logging.getLogger("ray.serve")
CHORE_SECONDS = 1.0
SLOW_CHORE_SECONDS = 10.0
"""How often what costs more is done: reading the keys again, counting over the window of drift, asking for replicas."""


class ModelReplica:
    """One replica of a model that others ask."""

    def __init__(self, settings: ModelSettings, described: Described) -> None:
        self.model = load_local(settings, described)
        self.metrics = ModelMetrics(self.model)
        self._chores = [start_chore("The metrics of the model", CHORE_SECONDS, self.metrics.flush)]

    async def predict(self, items: list[Item]) -> tuple[Outputs, int, list[int]]:
        """The outcome's outputs, how many requests shared a batch, and the items' lengths in tokens."""
        outcome = await self.model.predict(items)
        return outcome.outputs, outcome.batch_requests, list(outcome.lengths)

    async def embeddings(self, items: list[Item]) -> tuple[Outputs, int, list[int]]:
        """The same for embeddings."""
        outcome = await self.model.embeddings(items)
        return outcome.outputs, outcome.batch_requests, list(outcome.lengths)

    async def check_health(self) -> None:
        """Called by Serve every few seconds; a replica that fails it is replaced."""
        await self.model.check()


class ModelServer(ModelReplica):
    """One replica of the default model, with the HTTP application around it."""

    def __init__(
        self,
        arguments: Arguments,
        described: Described,
        others: Mapping[str, tuple[Described, DeploymentHandle]],
        bulk: tuple[Described, DeploymentHandle] | None,
        desk: DeploymentHandle | None,
    ) -> None:
        check_exposure(serve_controller().http_config.host, arguments.keys)
        super().__init__(arguments, described)
        self.arguments = arguments
        self.requests = RequestMetrics()
        known = {arguments.default_name: described, **{name: told for name, (told, _) in others.items()}}
        self.drift_windows = {name: DriftWindow(told.task, told.training) for name, told in known.items()}
        self.replicas = max(1, arguments.min_replicas)
        self.guard = Guard(arguments.keys, lambda: self.replicas)
        context = serve.get_replica_context()
        siblings = serve.get_deployment_handle(context.deployment, context.app_name)
        model: Model = Spread(self.model, RemoteModel(described, siblings), lambda: self.replicas)
        if arguments.bulk is not None and bulk is not None:
            model = Bulk(model, RemoteModel(*bulk), arguments.bulk.from_texts)
        beside: dict[str, Model] = {name: RemoteModel(told, handle) for name, (told, handle) in others.items()}
        self.cascade: Cascade | None = None
        if arguments.cascade is not None:
            model = self.cascade = Cascade(model, beside[arguments.cascade.model], arguments.cascade)
        self.canary: Canary | None = None
        if arguments.canary is not None:
            model = self.canary = Canary(model, beside[arguments.canary.model], arguments.canary)
        self.models = Models({arguments.default_name: model, **beside}, arguments.default_name)
        self.log = _access_log(arguments)
        self.questions: Questions | None = None
        self.feedback: RemoteFeedback | None = None
        if arguments.feedback is not None and desk is not None:
            self.questions = Questions(self.models, arguments.feedback)
            self.feedback = RemoteFeedback(desk, arguments.feedback, self.questions)
        self.shadow: Shadow | None = None
        if arguments.shadow is not None:
            asked = self.models.get(arguments.shadow.model)
            self.shadow = Shadow(asked, model, arguments.shadow, arguments.request_timeout_seconds)
        self.second_models = [
            SecondMetrics(what, about, one.settings.model, one.counts)
            for what, about, one in (
                ("shadow", "Texts shown to a shadow.", self.shadow),
                ("cascade", "Texts by whether the larger model answered.", self.cascade),
            )
            if one is not None
        ]
        self._start_chores()

    def _start_chores(self) -> None:
        self._chores += [
            start_chore("The metrics of requests", CHORE_SECONDS, self._flush_requests),
            start_chore("Drift", SLOW_CHORE_SECONDS, DriftMetrics(self.drift_windows).flush, in_thread=True),
            start_chore("The API keys", SLOW_CHORE_SECONDS, self.guard.reload, in_thread=True),
            start_chore("The number of replicas", SLOW_CHORE_SECONDS, self._count_replicas, in_thread=True),
        ]
        if self.feedback is not None:
            self._chores.append(start_chore("What was asked", HANDED_OVER_SECONDS, self.feedback.hand_over))
        if self.log is not None:
            self._chores.append(start_chore(f"The access log {self.log.file}", CHORE_SECONDS, self.log.flush))

    # Serve's hook: see cluster/ray_private.py.
    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The ASGI application, once the model is loaded and warm."""
        example = example_of(self.model.engine)
        drift = self.drift_windows[self.arguments.default_name].report
        shadow = self.shadow.report if self.shadow else None
        application = build_application(self.models, example, drift, shadow, self.feedback, self.arguments.judged_on)
        finished: list[Callable[[Exchange], None]] = [self.requests.note, partial(note_asked, self.drift_windows)]
        finished += [one.note for one in (self.log, self.shadow, self.questions) if one is not None]
        return Gate(application, self.arguments.request_timeout_seconds, self.guard, finished)

    async def seen(self) -> tuple[str, Seen]:
        """The replica's id, and what the versions were asked here while one is tried."""
        seen = self.canary.seen if self.canary else Seen()
        if self.shadow is not None:
            disagreed = self.shadow.counts.disagreed
            seen = replace(seen, compared_texts=self.shadow.counts.agreed + disagreed, disagreed_texts=disagreed)
        return serve.get_replica_context().replica_tag, seen

    def _flush_requests(self) -> None:
        self.requests.flush()
        for metrics in self.second_models:
            metrics.flush()

    def _count_replicas(self) -> None:
        self.replicas = max(1, _running_replicas())

    def __del__(self) -> None:
        """Serve's call at the end of a drained replica: what the last second brought is not lost."""
        if log := getattr(self, "log", None):
            log.flush()


def load_local(settings: ModelSettings, described: Described) -> LocalModel:
    """Fetch, check, load and warm the model on this host."""
    directory = open_model(settings.model, settings.fingerprint).fetch(settings.variant)
    engine = load_engine(
        directory, settings.variant, settings.threads, settings.max_batch_size, settings.device, settings.max_batch_tokens
    )
    if warning := unlike_judged(settings.judged_on):
        LOGGER.warning(f"{described.served.name} ({described.served.variant}): {warning}")
    return LocalModel(engine, described.served, settings)


def _running_replicas() -> int:
    context = serve.get_replica_context()
    application = serve.status().applications.get(context.app_name)
    deployment = application.deployments.get(context.deployment) if application else None
    states = deployment.replica_states if deployment else {}
    return sum(count for state, count in states.items() if state == "RUNNING")


def _access_log(arguments: Arguments) -> AccessLog | None:
    if arguments.access_log == "off":
        return None
    context: Any = serve.get_replica_context()
    name = f"access_{context.app_name}_{context.replica_tag}.jsonl"
    return AccessLog(serve_logs_directory() / name, arguments.access_log == "texts")
