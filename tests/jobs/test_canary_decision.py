"""What becomes of a candidate, by what was seen; test_canary.py in tests/serve has the counting and the change on Serve."""

from typing import Any

import pytest

from jobs.deploying.canary_decision import CanaryConfig, beside, decide, together
from jobs.deploying.carry import CANDIDATE
from serve.models.rollout.canary import Seen, Side
from serve.settings import Arguments

LIMITS = CanaryConfig(minimum_requests=100, maximum_seconds=60)


def side(requests: int = 100, failed: int = 0, ms: float = 5.0) -> Side:
    made = Side(requests, failed)
    made.seconds.extend([ms / 1000] * (requests - failed))
    return made


def seen(stable: Side | None = None, candidate: Side | None = None, compared: int = 100, disagreed: int = 0) -> Seen:
    return Seen(stable or side(900), candidate or side(), compared, disagreed)


@pytest.mark.parametrize(
    ("what", "seconds", "verdict", "words"),
    [
        (seen(), 5, "promote", "0 of 100 requests failed"),
        (seen(candidate=side(99)), 5, "watch", "seen 99 requests"),
        (seen(compared=99), 5, "watch", "both 99 texts"),
        (seen(candidate=side(99)), 61, "roll back", "seen 99 requests"),
        (Seen(), 0, "watch", "seen 0 requests"),
        (seen(candidate=side(100, failed=1)), 5, "promote", "1 of 100 requests failed"),
        (seen(candidate=side(100, failed=2)), 5, "roll back", "2 of 100 requests failed"),
        # Two of ten are more than one of a hundred, whatever the other ninety bring; one of ten may still be made good.
        (seen(candidate=side(10, failed=2)), 5, "roll back", "2 of 10 requests failed"),
        (seen(candidate=side(10, failed=1)), 5, "watch", "seen 10 requests"),
        (seen(side(900, failed=45), side(100, failed=6)), 5, "promote", "allowed is a share of 6.00%"),
        (seen(candidate=side(ms=20.0)), 5, "promote", "p95 is 20.0 ms, before it was 5.0"),
        (seen(candidate=side(ms=20.1)), 5, "roll back", "p95 is 20.1 ms, before it was 5.0, allowed are 20.0"),
        (seen(disagreed=5), 5, "promote", "5.00% of 100 texts got another answer"),
        (seen(disagreed=6), 5, "roll back", "6.00% of 100 texts got another answer"),
        (seen(side(200, failed=200)), 5, "promote", "p95 is 5.0 ms, before it was inf"),
    ],
)
def test_the_decision(what: Seen, seconds: float, verdict: str, words: str) -> None:
    decision = decide(what, LIMITS, seconds)
    assert decision.verdict == verdict
    assert words in "; ".join(decision.reasons)


def test_each_thing_that_is_worse_is_told() -> None:
    decision = decide(seen(candidate=side(ms=50), disagreed=10), LIMITS, 5)
    assert decision.verdict == "roll back"
    assert len(decision.reasons) == 2


def test_replicas_are_judged_together() -> None:
    total = together([seen(compared=60, disagreed=3), seen(candidate=side(50, failed=1), compared=40)])
    assert (total.stable.requests, total.candidate.requests, total.candidate.failed) == (1800, 150, 1)
    assert len(total.candidate.seconds) == 149
    assert (total.compared_texts, total.disagreed_texts) == (100, 3)


def test_the_version_before_answers_with_the_new_one_beside_it() -> None:
    def entry(**arguments: Any) -> dict[str, Any]:
        return {"name": "spam", "route_prefix": "/", "args": arguments}

    both = beside(
        entry(model="/runs/old", name="spam", threads=2, cpus=0.0),
        entry(model="/runs/new", name="spam", variant="int8", threads=4, access_log="off"),
        CanaryConfig(share=0.2),
    )
    arguments = Arguments.model_validate(both["args"])
    assert (arguments.model, arguments.threads, arguments.cpus, arguments.access_log) == ("/runs/old", 2, 0.0, "on")
    candidate = arguments.others[CANDIDATE]
    assert (candidate.model, candidate.variant, candidate.threads) == ("/runs/new", "int8", 4)
    assert arguments.canary is not None and arguments.shadow is not None
    assert (arguments.canary.model, arguments.canary.share, arguments.shadow.model) == (CANDIDATE, 0.2, CANDIDATE)
