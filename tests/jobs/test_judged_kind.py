"""A report holds for one kind of processor, from `evaluate` to who serves. `pytest tests/jobs/test_judged_kind.py`"""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests
from pydantic import ValidationError

from cluster.connection.connect import Cluster
from cluster.health.findings import Level
from cluster.health.services import service_findings
from cluster.store import registry
from cluster.store.artifact import Artifact, Kind, publish
from jobs.core.config import BadInput
from jobs.core.places import _place
from jobs.core.recipe import Recipe, Step
from jobs.core.spaces import Tune
from jobs.core.stage import Context, Inputs, Resources
from jobs.deploying.serve_client import ServeClient
from jobs.evaluate import STAGE, EvaluateConfig, run
from jobs.judging.hosts import kinds_of, strategy_for
from jobs.judging.results import judged_on
from jobs.select import STAGE as SELECT
from jobs.select import SelectConfig, settle
from jobs.select import run as choose
from serve.app import deployment_config
from serve.engines.processor import ProcessorKind, kind, unlike_judged
from serve.settings import Arguments
from tests.chaos.second_node import second_node
from tests.jobs.tiny import (
    LABELS,
    MESSAGES,
    publish_directory,
    publish_examples,
    save_classifier,
    tiny_classifier,
    tiny_tokenizer,
)
from tests.serve.tiny_model import publish_tiny

ANOTHER = next(one for one in (ProcessorKind.AVX2, ProcessorKind.VNNI) if one is not kind())
QUICK = {"latency_texts": 20, "resamples": 100}


def judging(directory: Path) -> tuple[Inputs, Context]:
    """A teacher and a student with the rows to judge them by."""
    tokenizer = tiny_tokenizer(directory / "tokenizer")
    models = []
    for seed, name in enumerate(("teacher", "student")):
        save_classifier(tiny_classifier("bert", 2, len(tokenizer), seed=seed), tokenizer, LABELS, directory / name)
        models.append(publish_directory(directory / name, directory / f"{name}-made", Kind.MODEL, name))
    inputs = Inputs(examples=[publish_examples(directory, {"test": MESSAGES})], teacher=models[:1], candidates=models[1:])
    context = Context(str(directory), "tiny", "judged", str(directory / "unused"), "1", directory=directory / "report")
    context.directory.mkdir()
    return inputs, context


def published(step: Step, uri: str) -> Artifact:
    """An empty artifact of the step, there."""
    nothing = Path(uri).parent / "nothing"
    nothing.mkdir(parents=True, exist_ok=True)
    record = {"kind": step.kind, "step": step.name, "stage": step.stage.name, "stage_version": step.stage.version}
    record |= {"config": step.resolved(), "metrics": {}, "seconds": 1.0, "created": datetime.now(UTC)}
    return publish(nothing, uri, record)


def test_the_report_of_another_kind_does_not_count_and_the_plan_says_why(tmp_path: Path) -> None:
    own, another = (Step("judged", STAGE, raw, {}, {}, Tune(), Resources()) for raw in ({}, {"for": str(ANOTHER)}))
    recipe = Recipe("tiny", {"judged": own})
    first = _place(recipe, own, str(tmp_path), Inputs())
    assert first.uri is not None and first.reason == "never run"
    published(own, first.uri)
    assert not _place(recipe, own, str(tmp_path), Inputs()).runs
    same = Step("judged", STAGE, {"for": str(kind())}, {}, {}, Tune(), Resources())
    assert not _place(recipe, same, str(tmp_path), Inputs()).runs, "named, and as it is by default"
    other = _place(recipe, another, str(tmp_path), Inputs())
    assert other.runs and other.uri != first.uri and other.reason == f"for {kind()} → {ANOTHER}"


def test_the_key_is_told_by_its_name_and_only_kinds_fit() -> None:
    with pytest.raises(ValidationError, match="(?s)for\n.*'vnni'.*'avx2'"):
        EvaluateConfig.model_validate({"for": "sse"})
    dumped = EvaluateConfig.model_validate({"for": "avx2"}).model_dump(mode="json")
    assert dumped["for"] == "avx2" and EvaluateConfig.model_validate(dumped).judged_for is ProcessorKind.AVX2


def test_judged_selected_and_kept_with_its_kind_and_refused_on_another(ray_driver: Cluster, tmp_path: Path) -> None:
    inputs, context = judging(tmp_path)
    with pytest.raises(
        BadInput, match=f"for = '{ANOTHER}'.*: the host that would measure is of the kind {kind()}".replace("+", r"\+")
    ):
        run(EvaluateConfig.model_validate({**QUICK, "for": ANOTHER}), inputs, context)
    assert list(context.directory.iterdir()) == [], "nothing was measured"
    run(EvaluateConfig.model_validate(QUICK), inputs, context)
    report = json.loads((context.directory / "report.json").read_text())
    assert judged_on(report) == kind()
    made = publish_directory(context.directory, tmp_path / "judged-made", Kind.REPORT, "judged")
    verdict = replace(context, step="winner", directory=tmp_path / "verdict")
    verdict.directory.mkdir()
    choose(SelectConfig(minimum_kept=0), Inputs(report=[made]), verdict)
    told = json.loads((verdict.directory / "verdict.json").read_text())
    assert told["judged_on"] == kind()
    settle(publish_directory(verdict.directory, tmp_path / "winner-made", Kind.REPORT, "winner"), verdict)
    assert registry.read(str(tmp_path), "tiny/winner").target.judged_on == kind()
    assert registry.verdicts(str(tmp_path), "tiny/winner")[-1]["judged_on"] == kind()
    assert SELECT.version == 3


def test_a_kind_that_no_host_has_is_told_before_anything_runs(ray_driver: Cluster) -> None:
    assert STAGE.preflight.check(EvaluateConfig()) == []
    (problem,) = STAGE.preflight.check(EvaluateConfig.model_validate({"for": ANOTHER}))
    assert str(problem).startswith(f"for = '{ANOTHER}': no host of this cluster is of that kind: they are {kind()}. ")


def test_of_several_hosts_each_is_asked_of_which_kind_it_is(ray_driver: Cluster) -> None:
    import ray

    with second_node(ray_driver, cpus=1):
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        assert len(nodes) >= 2 and kinds_of(nodes) == dict.fromkeys(nodes, kind())
        assert strategy_for(kind(), cpus=1) == strategy_for(ANOTHER, cpus=1) == "DEFAULT", "all are alike, or none is such"


def test_who_serves_it_elsewhere_is_told(serving_cluster: Cluster, ray_driver: Cluster, tmp_path: Path) -> None:
    publish_tiny(tmp_path / "tiny")
    client = ServeClient()
    address = client.http_address()
    found = {}
    for judged in (ANOTHER, kind()):
        entry = deployment_config("tiny", Arguments(model=str(tmp_path / "tiny"), judged_on=judged, cpus=0), "/tiny")
        entry["runtime_env"] = {"env_vars": {"PYTHONPATH": str(Path(__file__).parents[2])}}
        client.apply(client.config_with(entry, address), "tiny", lambda state: None)
        ready = requests.get(f"http://{address[0]}:{address[1]}/tiny/readyz", timeout=30).json()
        found[judged] = (ready, service_findings(serving_cluster.dashboard))
    ready, (finding,) = found[ANOTHER]
    assert ready["judged_on"] == ANOTHER and ready["status"] == "ready"
    assert ready["warning"] == finding.text == unlike_judged(ANOTHER)
    assert (finding.level, finding.check, finding.where) == (Level.WARNING, "service", "tiny") and finding.mend
    ready, findings = found[kind()]
    assert ready["warning"] is None and ready["judged_on"] == kind() and findings == []
