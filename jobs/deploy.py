"""deploy: the selected winner answers over HTTP on Ray Serve, and is asked real questions at once.

    ray job submit --working-dir . -- python -m jobs.deploy jobs/recipes/spam.yaml --step served
    ray job submit --working-dir . -- python -m jobs.deploy jobs/recipes/spam.yaml --rollback      # the version before

The application is given to Serve as a config, the same as `serve deploy FILE` would; the file is in the artifact, and the
registry keeps each version's entry beside the alias {recipe}/production (rollback.py goes back).
"""

import sys
from typing import Annotated, Any

import numpy as np
import requests
import yaml
from pydantic import AfterValidator, Field

from cluster.store.artifact import Artifact, Kind
from cluster.store.registry import has_alias, move, read, record_verdict
from jobs.contracts.learning import targets_at
from jobs.core.config import BadInput, Config, Problem
from jobs.core.stage import Completion, Context, Input, Inputs, Outcome, Refused, Stage
from jobs.deploying.canary_decision import CanaryConfig, try_out
from jobs.deploying.carry import IDENTITY, carry_over, check_name, tell
from jobs.deploying.serve_client import HOST, PORT, ServeClient
from jobs.judging.results import read_verdict
from jobs.running.cli import main
from jobs.tasks import learning_of, spec_of

BATCH = 32
"""Texts in a batch at most, where evaluate has not tried several sizes."""


class DeployConfig(Config):
    """Where and how the winner answers."""

    route: str = Field("/", pattern="^/")
    """The application's route prefix."""
    host: str = HOST
    """The address that the HTTP proxy listens on."""
    port: int = Field(PORT, ge=1, le=65535)
    """The HTTP port; the next free one is taken where it is not free and Serve does not run yet."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of each replica (default: what evaluate found best for the winner, where it tried several, else 1)."""
    cpus: float | None = Field(None, ge=0)
    """CPUs that each replica reserves (default: as many as threads); with 0 it shares them with whatever else runs."""
    replicas: int = Field(1, ge=1)
    """Replicas that answer."""
    cascade: bool = False
    """Have the teacher answer where the winner is unsure, below the threshold that evaluate has fitted (its `cascade`)."""
    canary: CanaryConfig | None = None
    """Where another version runs: try this one on a share of the requests first, and go back unless it is as good."""
    drop: tuple[Annotated[str, AfterValidator(check_name)], ...] = ()
    """What was set in the running service by hand and is to go, such as [keys] or [others.large]; all else stays."""
    questions: int = Field(4, ge=0)
    """Items of the test split that are asked at once, to see that it answers."""


def run(config: DeployConfig, inputs: Inputs, context: Context) -> Outcome:
    """Deploy, wait until it runs, ask, move the alias {recipe}/production; Refused where a canary is rolled back."""
    from jobs.judging.operating_points import fastest_point
    from serve.app import Arguments, deployment_config

    verdict = read_verdict(inputs.one("winner"))
    row = verdict["row"]
    point = fastest_point(row["points"]) if "points" in row else {"threads": 1, "batch_size": BATCH}
    arguments = Arguments(
        model=row["uri"],
        fingerprint=row["fingerprint"],
        variant=row["variant"],
        name=context.recipe,
        judged_on=verdict.get("judged_on"),
        threads=config.threads or point["threads"],
        max_batch_size=point["batch_size"],
        max_ongoing_requests=2 * point["batch_size"],
        cpus=config.cpus,
        min_replicas=config.replicas,
        max_replicas=config.replicas,
        **(behind(verdict, config) if config.cascade else {}),
    )
    version = deployment_config(context.recipe, arguments, config.route)
    client = ServeClient()
    before = _version_before(context)
    if config.canary is not None:
        _try_out(client, before, version, config.canary, context)
    entry, carried = carry_over(version, client.entry(context.recipe), named(config, row), config.drop, before)
    tell(carried)
    address = client.http_address(config.host, config.port)
    wanted = client.config_with(entry, address)
    (context.directory / "serve.yaml").write_text(yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True))
    client.apply(wanted, context.recipe, lambda state: context.report(state=state))
    url = f"http://{address[0]}:{address[1]}{entry['route_prefix'].rstrip('/')}/v1/predict"
    answers = _ask(url, inputs.maybe("examples"), config.questions)
    move(
        context.storage,
        f"{context.recipe}/production",
        row["uri"],
        row["fingerprint"],
        row["variant"],
        version,
        arguments.judged_on,
    )
    details = {"url": url, "model": row["candidate"], "answers": answers, "carried_over": list(carried)}
    return Outcome(metrics={"answered": float(len(answers))}, details=details)


def named(config: DeployConfig, row: dict[str, Any]) -> frozenset[str]:
    """The keys of the entry that the recipe or a measurement sets; of the others the step has only defaults."""
    keys = set(IDENTITY)
    if "points" in row:
        keys |= {"threads", "max_batch_size", "max_ongoing_requests"}
    for given, meant in (("threads", "threads"), ("cpus", "cpus"), ("route", "route_prefix")):
        if given in config.model_fields_set:
            keys.add(meant)
    if "replicas" in config.model_fields_set:
        keys |= {"min_replicas", "max_replicas"}
    return frozenset(keys)


def behind(verdict: dict[str, Any], config: DeployConfig) -> dict[str, Any]:
    """The arguments that put the teacher behind the winner; BadInput where evaluate has fitted no threshold."""
    from serve.settings import CascadeSettings, ModelSettings

    row, teacher = verdict["row"], verdict["teacher"]
    if "cascade" not in row:
        remedy = "Give evaluate `cascade`, the share of the teacher's score to keep, such as 0.99."
        raise BadInput([Problem("cascade", True, "evaluate has fitted no threshold for the winner", remedy)])
    large = ModelSettings(
        model=teacher["uri"],
        fingerprint=teacher["fingerprint"],
        variant=teacher["variant"],
        judged_on=verdict.get("judged_on"),
        cpus=config.cpus,
    )
    return {"others": {"teacher": large}, "cascade": CascadeSettings(model="teacher", threshold=row["cascade"]["threshold"])}


def _version_before(context: Context) -> dict[str, Any] | None:
    """The newest version that ran, as the registry keeps it."""
    name = f"{context.recipe}/production"
    return read(context.storage, name).target.config if has_alias(context.storage, name) else None


def _try_out(
    client: ServeClient, before: dict[str, Any] | None, entry: dict[str, Any], config: CanaryConfig, context: Context
) -> None:
    """Nothing where no other version runs; Refused, with the one before running alone again, where it is not as good."""
    if before is None or client.entry(context.recipe) is None or before == entry:
        return
    name = f"{context.recipe}/production"
    decision = try_out(client, before, entry, config, lambda state: context.report(state=state))
    told = {"winner": entry["args"]["model"] if decision.verdict == "promote" else None, "reasons": decision.reasons}
    place = record_verdict(context.storage, name, {**told, "canary": config.model_dump(), "before": before["args"]["model"]})
    if decision.verdict != "promote":
        reasons = "\n  ".join(decision.reasons)
        raise Refused(f"the canary was rolled back, the version before answers alone again:\n  {reasons}\n  kept in {place}")


def _ask(url: str, examples: Artifact | None, count: int) -> list[dict[str, Any]]:
    """Items of the test split that show what the model can do, with what came back."""
    if examples is None or count == 0:
        return []
    from jobs.data.training_rows import read_examples

    spec = spec_of(examples)
    learning = learning_of(spec.kind)
    table = read_examples(examples, "test")
    columns = table.to_pydict()
    truth = learning.truth(spec, columns)
    known = np.flatnonzero(learning.known(truth)).tolist()
    truth = targets_at(truth, known)
    answers = []
    for place in learning.questions(spec, truth, count):
        fields = {name: columns[name][known[place]] for name in spec.fields}
        asked = fields if len(fields) > 1 else next(iter(fields.values()))
        reply = requests.post(url, json={"inputs": asked}, timeout=30)
        reply.raise_for_status()
        answer = reply.json()["answers"][0]
        judged = {"expected": learning.expected(spec, truth[place]), "right": learning.is_right(spec, answer, truth[place])}
        answers.append({**fields, **spec.brief(answer), "asked": asked, "said": spec.told(answer), **judged})
    return answers


STAGE = Stage(
    name="deploy",
    purpose="serve the winner over HTTP on Ray Serve",
    config=DeployConfig,
    run=run,
    inputs={
        "winner": Input(Kind.REPORT, "the verdict from select"),
        "examples": Input(Kind.EXAMPLES, "rows whose test split is asked", optional=True),
    },
    output=Kind.REPORT,
    version=2,
    completion=Completion(headline=("answered",), effect=True),
)

if __name__ == "__main__":
    if "--rollback" in sys.argv[1:]:
        from jobs.deploying.rollback import main as roll_back

        roll_back(sys.argv[1:])
    main(STAGE)
