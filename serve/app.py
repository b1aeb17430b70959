"""A published model on Ray Serve.

    from ray import serve
    serve.run(build(Arguments(model="s3://bucket/runs/spam/small-1a2b3c4d")), name="spam", route_prefix="/spam")

or as an entry of a Serve config file, `serve deploy FILE`:

    applications:
      - {name: spam, route_prefix: /spam, import_path: "serve.app:build", args: {model: s3://…, variant: int8}}

Requests that wait at the same time are answered by one call of the engine. Shapes: N texts, C classes.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Self

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, model_validator
from ray import serve
from ray.serve import Application

from cluster.storage import absolute
from serve.backends import Device
from serve.engine import load_engine
from serve.face import EXAMPLE_TEXTS, Outcome, build_face
from serve.published import find_model
from serve.schema import ServedModel

IMPORT_PATH = "serve.app:build"
RETRY_AFTER_SECONDS = 1


class Arguments(BaseModel):
    """What an application of a model needs to know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    model: str = Field(min_length=1)
    """URI of a published model, or a plain local directory."""
    fingerprint: str | None = None
    """The fingerprint that the model must have; by default the one that it has when it is deployed."""
    variant: str | None = None
    """The variant to serve; the card's default when not given."""
    name: str | None = None
    """The model's name in replies; by default the last part of its URI."""
    device: Device = "auto"
    """auto: the GPU for a torch variant where there is one, else the CPU."""
    threads: int = Field(default=1, ge=1)
    """CPU threads of one forward pass."""
    cpus: float | None = Field(default=None, ge=0)
    """CPUs reserved for each replica; as many as threads when not given."""
    gpus: float = Field(default=0, ge=0)
    """GPUs reserved for each replica."""
    min_replicas: int = Field(default=1, ge=0)
    """Replicas that are always there."""
    max_replicas: int = Field(default=1, ge=1)
    """Replicas under load; above min_replicas, Serve scales between the two."""
    target_ongoing_requests: float = Field(default=8, gt=0)
    """Requests in work for each replica that scaling aims at."""
    max_batch_size: int = Field(default=32, ge=1)
    """Requests answered by one call of the engine, and texts in one forward pass."""
    batch_wait_seconds: float = Field(default=0.0, ge=0)
    """How long a batch waits for more requests; with 0 it takes those that came during the batch before."""
    max_ongoing_requests: int = Field(default=64, ge=1)
    """Requests that a replica holds at once."""
    max_queued_requests: int = Field(default=256, ge=-1)
    """Requests that wait for a replica before more are refused with 503; -1 for no limit."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is below min_replicas {self.min_replicas}; raise it")
        if self.max_ongoing_requests < self.max_batch_size:
            raise ValueError(
                f"max_ongoing_requests {self.max_ongoing_requests} is below max_batch_size {self.max_batch_size}, "
                "so no batch would ever be full; raise it, or lower max_batch_size"
            )
        return self


class ModelServer:
    """One replica: the engine, and the HTTP face around it."""

    def __init__(self, arguments: Arguments) -> None:
        published = find_model(arguments.model, arguments.fingerprint)
        directory = published.fetch(arguments.variant)
        self.engine = load_engine(directory, arguments.variant, arguments.threads, arguments.max_batch_size, arguments.device)
        name = arguments.name or absolute(arguments.model).rsplit("/", 1)[-1]
        self.model = ServedModel(name=name, fingerprint=published.fingerprint, variant=self.engine.variant)
        batched = serve.batch(max_batch_size=arguments.max_batch_size, batch_wait_timeout_s=arguments.batch_wait_seconds)
        self.answer: Callable[[list[str]], Awaitable[Outcome]] = batched(self.answer_together)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_face(self.model, self.engine.card.labels, self.answer, self.engine.logits(EXAMPLE_TEXTS))

    async def answer_together(self, requests: list[list[str]]) -> list[Outcome]:
        """The logits of several requests, each a list of texts, from one call of the engine."""
        texts = [text for request in requests for text in request]
        # In a thread, so that the replica's event loop goes on taking requests and answering health checks.
        logits_NC = await asyncio.to_thread(self.engine.logits, texts)
        ends = np.cumsum([len(request) for request in requests])
        return [Outcome(part_BC, len(requests)) for part_BC in np.split(logits_NC, ends[:-1])]


def build(arguments: Arguments) -> Application:
    """The Serve application of a model; EngineError at once if the model or the variant is not there."""
    published = find_model(arguments.model, arguments.fingerprint)
    published.card().variant(arguments.variant)
    # All replicas, also those started later, must answer with the bytes that lie there now.
    pinned = arguments.model_copy(update={"fingerprint": published.fingerprint})
    return serve.deployment(**_options(pinned))(serve.ingress()(ModelServer)).bind(pinned)


def deployment_config(name: str, arguments: Arguments, route_prefix: str, working_dir: str | None = None) -> dict[str, Any]:
    """The application's entry in a Serve config file.

    `working_dir` is the URI of a package with this repository's code, where the cluster's image does not have it;
    Serve takes remote ones only (gcs://, s3://, https://…).
    """
    runtime_env = {} if working_dir is None else {"working_dir": working_dir}
    return {
        "name": name,
        "route_prefix": route_prefix,
        "import_path": IMPORT_PATH,
        "runtime_env": runtime_env,
        "args": arguments.model_dump(mode="json", exclude_none=True),
    }


def _options(arguments: Arguments) -> dict[str, Any]:
    cpus = arguments.threads if arguments.cpus is None else arguments.cpus
    options: dict[str, Any] = {
        "name": "model",
        "ray_actor_options": {"num_cpus": cpus, "num_gpus": arguments.gpus},
        "max_ongoing_requests": arguments.max_ongoing_requests,
        "max_queued_requests": arguments.max_queued_requests,
        "backpressure_config": {"status_code": 503, "retry_after_s": RETRY_AFTER_SECONDS},
    }
    if arguments.max_replicas == arguments.min_replicas:
        return options | {"num_replicas": arguments.min_replicas}
    scaling = {
        "min_replicas": arguments.min_replicas,
        "max_replicas": arguments.max_replicas,
        "target_ongoing_requests": arguments.target_ongoing_requests,
    }
    return options | {"autoscaling_config": scaling}
