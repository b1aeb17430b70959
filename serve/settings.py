"""What an application of Ray Serve is told: which models, how many replicas of each, how much may wait.

    Arguments(model="s3://bucket/runs/spam/small-1a2b3c4d", others={"teacher": ModelSettings(model="s3://…")})

It is the `args` of an application in a Serve config file. The limits of a request stand here too, all of them: whoever reads
texts keeps to them, over HTTP or from files. No Ray in here.
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cluster.store.storage import absolute
from serve.engines.backends import Device
from serve.engines.processor import ProcessorKind

MAX_BODY_BYTES = 1 << 20
MAX_TEXTS = 256
"""Of one request; of several fields each item counts once."""
MAX_CHARACTERS = 20_000
"""Of each text."""


class Settings(BaseModel):
    """Frozen, typed, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ModelSettings(Settings):
    """A model and the replicas that answer for it."""

    model: str = Field(min_length=1)
    """URI of a published model, or a plain local directory."""
    fingerprint: str | None = None
    """The fingerprint that the model must have; by default the one that it has when it is deployed."""
    variant: str | None = None
    """The variant to serve; the card's default when not given."""
    judged_on: ProcessorKind | None = None
    """The kind of processor that it was judged on; where a replica runs on another one, its log and /readyz say so."""
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
    """Texts in one forward pass, and in the round that passes of like length are cut from."""
    max_batch_tokens: int = Field(default=4096, ge=1)
    """Tokens in one forward pass, padding included."""
    batch_wait_seconds: float = Field(default=0.0, ge=0)
    """How long the first text of a batch waits for more; with 0 a batch takes those that came during the batch before."""
    max_waiting_texts: int = Field(default=2048, ge=MAX_TEXTS)
    """Texts that wait in a replica before more requests are refused with 503."""
    cache_texts: int = Field(default=0, ge=0)
    """Answers that a replica keeps, the least recently used going first; 0 keeps none."""

    @model_validator(mode="after")
    def _replicas_in_order(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is below min_replicas {self.min_replicas}; raise it")
        return self

    def scaling(self) -> dict[str, Any]:
        """The deployment's options of Serve for replicas and what they reserve."""
        cpus = self.threads if self.cpus is None else self.cpus
        options: dict[str, Any] = {"ray_actor_options": {"num_cpus": cpus, "num_gpus": self.gpus}}
        if self.max_replicas == self.min_replicas:
            return options | {"num_replicas": self.min_replicas}
        scaling = {
            "min_replicas": self.min_replicas,
            "max_replicas": self.max_replicas,
            "target_ongoing_requests": self.target_ongoing_requests,
        }
        return options | {"autoscaling_config": scaling}


class BulkSettings(ModelSettings):
    """Replicas of the default model on other hardware, for long lists of texts."""

    from_texts: int = Field(default=16, ge=2)
    """Requests with so many texts or more go there."""
    max_batch_size: int = Field(default=256, ge=1)
    """As above; lists come here alone, and nobody waits for a single text."""


class ShadowSettings(Settings):
    """A model that sees a share of the default model's traffic after the answers went out."""

    model: str
    """One of `others`, such as the teacher or a candidate."""
    share: float = Field(default=0.1, gt=0, le=1)
    """The share of the texts, chosen by their hash."""
    max_waiting_texts: int = Field(default=256, ge=1)
    """Texts that wait for it in a replica; more are dropped, and counted."""


class CascadeSettings(Settings):
    """A larger model that answers the texts of which the default model is unsure."""

    model: str
    """One of `others`, such as the teacher."""
    threshold: float = Field(ge=0)
    """Texts of whose answer the default model is less sure than that, by its task's confidence, go on to the larger model."""
    timeout_seconds: float = Field(default=5.0, gt=0)
    """Where the larger model has not answered by then, the default model's answers stand."""


class CanarySettings(Settings):
    """A model that answers a share of the default model's requests."""

    model: str
    """One of `others`."""
    share: float = Field(default=0.1, gt=0, lt=1)
    """The share of the requests, chosen by the hash of their texts."""
    timeout_seconds: float = Field(default=5.0, gt=0)
    """A request that it has not answered by then is a failure of its, and is answered by the default model."""
    paused_shadow: ShadowSettings | None = None
    """A shadow that comes back once it is decided; until then the new version is the shadow."""


class FeedbackSettings(Settings):
    """What people say is right: what was asked is kept for a while, and what they say of it for good."""

    place: str = Field(min_length=1)
    """URI of a directory that every host of the cluster reaches. `rows` in it is what people said, a source of `prepare`;
    `asked` is what was asked, texts as the model read them, until it is forgotten."""
    hours: float = Field(default=24, gt=0)
    """How long what was asked is kept for somebody to say what is right."""
    texts: int = Field(default=10_000, ge=MAX_TEXTS)
    """How many texts are kept at most, the oldest requests going first."""
    columns: dict[str, str] = {}
    """What columns of `rows` are called where the task's own names are not those of the rows that it learns from, such as
    {text: body, label: category}."""

    @field_validator("columns")
    @classmethod
    def _are_apart(cls, columns: dict[str, str]) -> dict[str, str]:
        if len(set(columns.values())) < len(columns):
            raise ValueError("two columns get the same name; give each its own")
        return columns


class Arguments(ModelSettings):
    """An application: its default model, whose replicas take the requests, and others beside it."""

    name: str | None = None
    """The default model's name in requests and replies; by default the last part of its URI."""
    others: dict[str, ModelSettings] = {}
    """More models, by name, each with replicas of its own."""
    bulk: BulkSettings | None = None
    """More replicas of the default model that long lists go to, such as {model: …, variant: torch, device: cuda, gpus: 1}."""
    cascade: CascadeSettings | None = None
    """Where the default model is unsure, another one answers in its name."""
    canary: CanarySettings | None = None
    """A new version that is tried; jobs.deploy sets it, watches, and promotes or rolls back."""
    shadow: ShadowSettings | None = None
    """A model whose disagreement with the default one is counted: GET /v1/shadow."""
    feedback: FeedbackSettings | None = None
    """Take what people say is right: POST /v1/feedback."""
    keys: str | None = None
    """URI of the API keys (python -m serve.keys); may be left out only where Serve listens on loopback."""
    access_log: Literal["on", "texts", "off"] = "on"
    """One line of JSON for each request, in Serve's log directory; with `texts` what was asked stands in it too."""
    max_ongoing_requests: int = Field(default=1024, ge=1)
    """Requests that a replica holds at once."""
    max_queued_requests: int = Field(default=256, ge=-1)
    """Requests beyond those that wait for a replica before more are refused with 503; -1 for no limit."""
    request_timeout_seconds: float = Field(default=30.0, gt=0)
    """A request that takes longer is given up with 504; a client asks for less by the header X-Request-Timeout."""
    by_step: dict[str, Any] = {}
    """What jobs.deploy has put here; whatever else stands here was set by hand, and stays when it deploys again."""

    @property
    def default_name(self) -> str:
        """The default model's name."""
        return self.name or absolute(self.model).rsplit("/", 1)[-1]

    @model_validator(mode="after")
    def _second_models_are_there(self) -> Self:
        for what, settings in (("cascade", self.cascade), ("canary", self.canary), ("shadow", self.shadow)):
            if settings is not None and settings.model not in self.others:
                names = ", ".join(self.others)
                raise ValueError(f"{what}.model {settings.model} is none of others ({names}); add it there")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if self.default_name in self.others:
            raise ValueError(f"others has a model named {self.default_name}, which is the default model's name; rename one")
        return self
