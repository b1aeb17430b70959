"""What a search refuses before anything runs, and how many trials run at once. No cluster."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jobs.core.config import BadInput, Problem
from jobs.core.recipe import Recipe, Step, parse_recipe
from jobs.core.spaces import Tune, count_trials, find_spaces
from jobs.search.resume import place_of, restored
from jobs.search.setup import trials_at_once
from jobs.search.trial import _Trial
from tests.jobs.hill import ALONE, STAGE

RATE = {"loguniform": [1e-5, 1e-3]}


def parse(tune: dict[str, Any], **keys: Any) -> Recipe:
    rows = {"stage": "prepare", "source": "a.csv", "task": {"kind": "classification"}}
    tuned = {"stage": "finetune", "model": "sample:minilm_l6", "inputs": {"examples": "rows"}, "tune": tune}
    return parse_recipe({"name": "tiny", "steps": {"rows": rows, "tuned": tuned | keys}})


def problems(tune: dict[str, Any], **keys: Any) -> dict[str, Problem]:
    with pytest.raises(BadInput) as caught:
        parse(tune, **keys)
    assert all(problem.reason and problem.remedy for problem in caught.value.problems)
    return {problem.path: problem for problem in caught.value.problems}


def test_pbt_as_it_should_be() -> None:
    step = parse({"scheduler": "pbt", "trials": 4}, optimizer={"learning_rate": RATE}, evaluations=6).steps["tuned"]
    assert step.resolved()["tune"]["perturb_every"] == 1
    # What a manifest holds can be run again.
    parse(step.resolved()["tune"], optimizer={"learning_rate": RATE}, evaluations=6)


@pytest.mark.parametrize(
    ("tune", "keys", "path", "said"),
    [
        ({}, {"optimizer": {"learning_rate": {"grid": [1e-4]}}}, "optimizer.learning_rate", "a grid's are fixed"),
        ({"algorithm": "optuna"}, {}, "tune.algorithm", "before there are results"),
        ({"trials": 1}, {}, "tune.trials", "nobody to take over from"),
        ({}, {"evaluations": 2}, "evaluations", "changes them at the next"),
        ({"perturb_every": 3}, {}, "evaluations", "a turn takes 3"),
        ({"max_concurrent": 2}, {}, "tune.max_concurrent", "train in turns"),
        ({}, {"batch_size": {"choice": [8, 16]}}, "batch_size", "cannot change then"),
        ({}, {"seed": {"randint": [0, 9]}}, "seed", "cannot change then"),
        ({}, {"optimizer": {"learning_rate": RATE, "name": {"choice": ["adam", "sgd"]}}}, "optimizer.name", "cannot change"),
    ],
)
def test_pbt_refuses(tune: dict[str, Any], keys: dict[str, Any], path: str, said: str) -> None:
    given = {"optimizer": {"learning_rate": RATE}, "evaluations": 6} | keys
    found = problems({"scheduler": "pbt"} | tune, **given)
    assert list(found) == [f"steps.tuned.{path}"]
    assert said in found[f"steps.tuned.{path}"].reason


@pytest.mark.parametrize(
    ("tune", "path", "said"),
    [
        ({"algorithm": "optuna"}, "tune.algorithm", "before there are results"),
        ({"max_concurrent": 2}, "tune.max_concurrent", "train in turns"),
        ({"keep": 2}, "tune", "keep one"),
    ],
)
def test_halving_refuses(tune: dict[str, Any], path: str, said: str) -> None:
    found = problems({"scheduler": "halving"} | tune, optimizer={"learning_rate": RATE}, evaluations=6)
    assert list(found) == [f"steps.tuned.{path}"]
    assert said in found[f"steps.tuned.{path}"].reason


def test_optuna_does_not_go_with_a_grid() -> None:
    grid = {"optimizer": {"learning_rate": {"grid": [1e-4, 1e-3]}}}
    assert list(problems({"algorithm": "optuna"}, **grid)) == ["steps.tuned.tune.algorithm"]
    parse({}, **grid)


def test_a_bare_grid_is_run_once() -> None:
    grid = find_spaces({"a": {"grid": [1, 2, 3]}, "b": {"grid": [1, 2]}})
    assert count_trials(Tune(trials=4), grid) == (1, 6)
    assert count_trials(Tune(trials=4), grid | find_spaces({"c": {"uniform": [0, 1]}})) == (4, 24)
    assert count_trials(Tune(trials=4), find_spaces({"c": {"uniform": [0, 1]}})) == (4, 4)


@pytest.mark.parametrize(
    ("nodes", "grown", "resources", "asked", "expected"),
    [
        ([2], None, {}, {}, 2),
        ([3, 3], None, {"cpus": 2}, {}, 2),  # each node holds one; six CPUs would hold three
        ([0.5], None, {}, {}, 1),  # none fits: one waits for the cluster to change
        ([4], None, {"cpus": 0.1}, {}, 20),  # no more than there are
        ([16], None, {}, {"max_concurrent": 3}, 3),
        ([2], {"CPU": 66, "GPU": 8}, {"gpus": 1}, {}, 8),  # GPU nodes come while trials wait for them
    ],
)
def test_trials_at_once(
    monkeypatch: pytest.MonkeyPatch,
    nodes: list[float],
    grown: dict[str, float] | None,
    resources: dict[str, float],
    asked: dict[str, int],
    expected: int,
) -> None:
    import ray

    alive = [{"Alive": True, "Resources": {"CPU": float(cpus)}} for cpus in nodes]
    monkeypatch.setattr(ray, "nodes", lambda: [*alive, {"Alive": False, "Resources": {"CPU": 64.0}}])
    state = SimpleNamespace(get_max_resources_from_cluster_config=lambda: grown)
    monkeypatch.setattr(ray._private.state, "state", state)
    step = parse({"trials": 20} | asked, optimizer={"learning_rate": RATE}, resources=resources).steps["tuned"]
    assert trials_at_once(step) == expected


def test_a_snapshot_of_code_that_is_no_more_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The project was brought up to date while a search was stopped."""
    for gone in (b"cjobs.search.plan\nno_such_name\n.", b"cjobs.no_such_module\nname\n."):
        context = cast(Any, SimpleNamespace(scratch=str(tmp_path)))
        place = Path(place_of(context))
        place.mkdir()
        trial = json.dumps({"trial_id": "a", "config": {}})
        (place / "experiment_state-1.json").write_text(json.dumps({"trial_data": [[trial, "{}"]]}))
        (place / "tuner.pkl").write_bytes(gone)
        assert restored(None, context, []) is None
        assert "another version" in capsys.readouterr().out
        assert not place.exists(), "the search begins anew there"


@pytest.mark.parametrize(("said", "goes_on_at"), [("own", 5), ("dropped", 5), ("donor", 9), ("donor's dropped", None)])
def test_a_trial_of_a_killed_population_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, goes_on_at: int | None
) -> None:
    """Tune remembers a state of the trial's own, which may be older than those that it has kept, or another trial's."""
    step = Step("walk", STAGE, {"evaluations": 10}, {}, {}, Tune(scheduler="pbt"), ALONE)
    own, donor = (_Trial(step, name, str(tmp_path / name), {}) for name in ("own", "donor"))
    for evaluation in range(1, 10):
        donor._keep({"step": evaluation})
        if evaluation <= 5:
            own._keep({"step": evaluation})
    known = {"own": own._states()[-1], "donor": donor._states()[-1]}
    known |= {"dropped": str(tmp_path / "own/states/000000.pt"), "donor's dropped": str(tmp_path / "donor/states/000000.pt")}
    monkeypatch.setattr(own, "_pointer", lambda: {"state": known[said], "told": 1})
    assert own.start() == (None if goes_on_at is None else {"step": goes_on_at})
