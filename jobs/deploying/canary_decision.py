"""A new version beside the one that runs: it answers a share of the requests, and is then promoted or rolled back by figures.

    verdict = try_out(client, before, entry, config, report)      # Serve runs the version before again, unless promoted
    decide(seen, config, seconds)                                 # pure: watch on, promote or roll back, and why

The counting is done in the replicas (serve/models/rollout/canary.py), the judging here.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from jobs.core.config import BadInput, Config, Problem
from jobs.deploying.carry import CANDIDATE, IDENTITY, carry_over
from jobs.deploying.serve_client import ServeClient
from serve.models.rollout.canary import Seen, Side
from serve.settings import Arguments, CanarySettings, ModelSettings, ShadowSettings

CANARY_POLL_SECONDS = 2.0
ASKED_FOR_EACH_REPLICA = 4
"""A handle chooses the replica by itself; asked so often, none is missed for long."""


class CanaryConfig(Config):
    """How a new version is tried, and what it may do worse than the one before."""

    share: float = Field(0.1, gt=0, lt=1)
    """The share of the requests that it answers, and of the other texts that both see."""
    minimum_requests: int = Field(200, ge=20)
    """Requests that each version, and texts that both, must have seen before it is promoted."""
    maximum_seconds: float = Field(3600, gt=0)
    """Where it has not seen as many by then, it is rolled back."""
    maximum_errors: float = Field(0.01, ge=0, le=1)
    """By how much its share of failed requests may be above that of the version before."""
    maximum_slowdown: float = Field(2.0, gt=0)
    """How many times the p95 latency of the version before its own may be."""
    slack_ms: float = Field(10.0, ge=0)
    """Milliseconds added to that: while it is tried, it is one hop further away."""
    maximum_disagreement: float = Field(0.05, ge=0, le=1)
    """Share of the texts that may get another answer."""


@dataclass(frozen=True)
class Decision:
    """What is to become of a candidate."""

    verdict: Literal["watch", "promote", "roll back"]
    reasons: tuple[str, ...]
    """With the figures."""


def try_out(
    client: ServeClient,
    before: Mapping[str, Any],
    entry: Mapping[str, Any],
    config: CanaryConfig,
    report: Callable[[str], object],
) -> Decision:
    """Run both versions until it is decided; whatever else than a promotion happens, the one before runs alone again.

    `before` is as the registry keeps it; what was set in the service by hand, before or meanwhile, stays.
    """
    name, address = entry["name"], client.http_address()

    def alone() -> dict[str, Any]:
        return carry_over(before, client.entry(name), IDENTITY, recorded=before)[0]

    both = beside(alone(), entry, config)
    promoted = False
    try:
        client.apply(client.config_with(both, address), name, report)
        decision = _watch(name, config, report)
        promoted = decision.verdict == "promote"
        return decision
    finally:
        if not promoted:
            client.apply(client.config_with(alone(), address), name, report)


def beside(before: Mapping[str, Any], entry: Mapping[str, Any], config: CanaryConfig) -> dict[str, Any]:
    """The version before with the new one as its candidate, and as its shadow in the place of any other."""
    others = before["args"].get("others", {})
    if CANDIDATE in others:
        remedy = f"Give the service's model {CANDIDATE} another name: this one is for the version that is tried."
        raise BadInput([Problem("canary", CANDIDATE, "the service has a model of this name already", remedy)])
    new = {key: value for key, value in entry["args"].items() if key in ModelSettings.model_fields}
    others = {**others, CANDIDATE: new}
    canary = CanarySettings(model=CANDIDATE, share=config.share, paused_shadow=before["args"].get("shadow"))
    shadow = ShadowSettings(model=CANDIDATE, share=config.share)
    arguments = Arguments.model_validate({**before["args"], "others": others, "canary": canary, "shadow": shadow})
    return {**before, "args": arguments.model_dump(mode="json", exclude_none=True)}


def decide(seen: Seen, limits: CanaryConfig, seconds: float) -> Decision:
    """What is to become of a candidate after so many seconds. More failures than could be made good end it at once."""
    stable, candidate = seen.stable, seen.candidate
    allowed = _share(stable.failed, stable.requests) + limits.maximum_errors
    failures = f"{candidate.failed} of {candidate.requests} requests failed, allowed is a share of {allowed:.2%}"
    if candidate.failed > allowed * max(candidate.requests, limits.minimum_requests):
        return Decision("roll back", (failures,))
    if min(stable.requests, candidate.requests, seen.compared_texts) < limits.minimum_requests:
        counts = (
            f"the new version has seen {candidate.requests} requests, the one before {stable.requests}, and both "
            f"{seen.compared_texts} texts; {limits.minimum_requests} of each are asked"
        )
        return Decision("roll back" if seconds > limits.maximum_seconds else "watch", (counts,))
    p95_ms, before_ms = _p95_ms(candidate), _p95_ms(stable)
    allowed_ms = limits.maximum_slowdown * before_ms + limits.slack_ms
    disagreement = _share(seen.disagreed_texts, seen.compared_texts)
    latency = f"p95 is {p95_ms:.1f} ms, before it was {before_ms:.1f}, allowed are {allowed_ms:.1f}"
    answers = (
        f"{disagreement:.2%} of {seen.compared_texts} texts got another answer, allowed are {limits.maximum_disagreement:.2%}"
    )
    too_slow, too_different = p95_ms > allowed_ms, disagreement > limits.maximum_disagreement
    if too_slow or too_different:
        return Decision("roll back", (latency,) * too_slow + (answers,) * too_different)
    return Decision("promote", (failures, latency, answers))


def together(parts: Sequence[Seen]) -> Seen:
    """What several replicas saw."""
    total = Seen()
    for part in parts:
        for mine, more in ((total.stable, part.stable), (total.candidate, part.candidate)):
            mine.requests += more.requests
            mine.failed += more.failed
            mine.seconds = deque([*mine.seconds, *more.seconds])
        total.compared_texts += part.compared_texts
        total.disagreed_texts += part.disagreed_texts
    return total


def _watch(name: str, config: CanaryConfig, report: Callable[[str], object]) -> Decision:
    from ray import serve

    from serve.app import DEPLOYMENT

    handle = serve.get_deployment_handle(DEPLOYMENT, name)
    began, seen = time.monotonic(), dict[str, Seen]()
    while True:
        replicas = max(1, len(seen))
        asked = [handle.seen.remote() for _ in range(ASKED_FOR_EACH_REPLICA * replicas)]
        seen |= dict(answer.result(timeout_s=30) for answer in asked)
        decision = decide(together(list(seen.values())), config, time.monotonic() - began)
        if decision.verdict != "watch":
            return decision
        report(f"canary: {decision.reasons[0]}")
        time.sleep(CANARY_POLL_SECONDS)


def _p95_ms(side: Side) -> float:
    """Of no answer at all: as slow as can be."""
    return 1000 * float(np.quantile(side.seconds, 0.95)) if side.seconds else float("inf")


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
