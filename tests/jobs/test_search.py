"""Searches on a cluster of two CPUs, over a stage that costs nothing. `pytest tests/jobs/test_search.py`"""

import itertools
import math
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from cluster.connection.connect import Cluster
from cluster.store.artifact import Artifact
from cluster.store.storage import read_bytes
from jobs.search.driver import SearchFailed
from tests.jobs.hill import BEST, STAGE, climb, gain, marks

RATE = "optimizer.learning_rate"


def trials(artifact: Artifact) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = artifact.manifest.details["trials"]
    return rows


def rates(artifact: Artifact) -> list[float]:
    return [row["values"][RATE] for row in trials(artifact)]


def test_grid_runs_every_combination_once(ray_driver: Cluster, tmp_path: Path) -> None:
    (tmp_path / "marks").mkdir()
    grid = {"optimizer": {"learning_rate": {"grid": [1e-3, 1e-2, 1e-1]}}, "width": {"grid": [1, 2]}}
    found = climb(str(tmp_path / "runs"), {"scheduler": "none"}, grid, marks=str(tmp_path / "marks"))
    ran = [(mark["rate"], mark["width"]) for mark in marks(tmp_path / "marks")]
    assert sorted(ran) == sorted(itertools.product([1e-3, 1e-2, 1e-1], [1, 2])), "each once, although tune.trials is 4"
    assert sorted((row["values"][RATE], row["values"]["width"]) for row in trials(found)) == sorted(ran)
    assert {row["status"] for row in trials(found)} == {"finished"} and {row["reports"] for row in trials(found)} == {3}
    assert found.manifest.details["best"][RATE] == BEST
    text = read_bytes(found.file("height.txt")).decode()
    assert text == f"3.000000 by {found.manifest.details['best_trial']}", "the winner's own output"


@pytest.mark.parametrize("algorithm", ["random", "optuna"])
def test_a_seed_proposes_the_same_twice(ray_driver: Cluster, tmp_path: Path, algorithm: str) -> None:
    # One at a time: what optuna proposes depends on the results that are there.
    settings = {"scheduler": "none", "algorithm": algorithm, "trials": 5, "max_concurrent": 1}
    once, again = (rates(climb(str(tmp_path / name), settings, evaluations=1)) for name in ("once", "again"))
    assert once == again and len(set(once)) == 5
    if algorithm == "random":
        other = rates(climb(str(tmp_path / "other"), settings | {"seed": 1}, evaluations=1))
        assert set(once).isdisjoint(other)


def test_tpe_draws_near_the_optimum_later(ray_driver: Cluster, tmp_path: Path) -> None:
    settings = {"scheduler": "none", "trials": 30, "max_concurrent": 1}
    late = {}
    for algorithm in ("random", "optuna"):
        drawn = rates(climb(str(tmp_path / algorithm), settings | {"algorithm": algorithm}, evaluations=1))
        late[algorithm] = mean(abs(math.log10(rate / BEST)) for rate in drawn[10:])
    assert late["optuna"] < 0.6 * late["random"], "powers of ten from the optimum, in the last 20 of 30 trials"


def test_asha_stops_the_weak_at_the_rung_and_finishes_the_strong(ray_driver: Cluster, tmp_path: Path) -> None:
    grid = {"optimizer": {"learning_rate": {"grid": [BEST, 1e-5, 2e-2, 1e-4]}}}
    settings = {"reduction_factor": 2, "max_concurrent": 1}
    found = climb(str(tmp_path), settings, grid, evaluations=4)
    fates = {row["values"][RATE]: (row["status"], row["reports"]) for row in trials(found)}
    # Rungs after 1, 2 and 4 evaluations; at each the better half of those that came before goes on.
    assert fates[BEST] == ("finished", 4), "its last evaluation ends it for asha too: not before its model is safe"
    assert fates[1e-5] == fates[1e-4] == ("stopped", 1)
    assert fates[2e-2] == ("stopped", 2), "better than the median of 1 and -0.5 at the first rung, worse than 2 at the next"
    assert {row["values"][RATE]: row["score"] for row in trials(found)}[1e-5] == pytest.approx(gain(1e-5))
    assert found.manifest.details["best"][RATE] == BEST and found.manifest.metrics["height"] == pytest.approx(4)


@pytest.mark.parametrize("evaluations", [1, 2])
def test_asha_with_few_evaluations_loses_none(ray_driver: Cluster, tmp_path: Path, evaluations: int) -> None:
    found = climb(str(tmp_path), {"trials": 3, "max_concurrent": 1}, evaluations=evaluations)
    ends = [(row["status"], row["reports"]) for row in trials(found)]
    assert ("finished", evaluations) in ends
    assert set(ends) <= {("finished", evaluations), ("stopped", 1)} and (evaluations > 1 or len(set(ends)) == 1)


def test_halving_compares_all_at_each_rung_whoever_comes_first(ray_driver: Cluster, tmp_path: Path) -> None:
    """Eight trials on two CPUs, the weakest first: asha would have let those go on."""
    (tmp_path / "marks").mkdir()
    grid = {"optimizer": {"learning_rate": {"grid": [1e-6, 1e-5, 1e-4, 1e-3, 4e-3, 2e-2, BEST, 1e-1]}}}
    settings = {"scheduler": "halving", "reduction_factor": 4}
    found = climb(str(tmp_path / "runs"), settings, grid, evaluations=8, marks=str(tmp_path / "marks"))
    fates = {row["values"][RATE]: (row["status"], row["reports"]) for row in trials(found)}
    assert fates.pop(BEST) == ("finished", 8) and fates.pop(2e-2) == ("stopped", 4)
    assert set(fates.values()) == {("stopped", 1)}
    assert found.manifest.metrics["height"] == pytest.approx(8), "it went on from where it had paused"
    starts = [mark["rate"] for mark in marks(tmp_path / "marks")]
    assert all(starts.count(rate) == 1 for rate in fates) and len(set(starts[:8])) == 8, "all before any went on"


def test_halving_goes_on_where_a_trial_fails(ray_driver: Cluster, tmp_path: Path) -> None:
    grid = {"optimizer": {"learning_rate": {"grid": [1e-4, 2e-2, BEST, 1e-3]}}}
    settings = {"scheduler": "halving", "reduction_factor": 2}
    found = climb(str(tmp_path), settings, grid, evaluations=4, fails_above=1.5e-2, fails_after=1)
    fates = {row["values"][RATE]: (row["status"], row["reports"]) for row in trials(found)}
    assert fates == {1e-4: ("stopped", 1), 1e-3: ("stopped", 1), 2e-2: ("failed", 1), BEST: ("finished", 4)}


@pytest.mark.parametrize("evaluations", [1, 2])
def test_halving_with_few_evaluations_loses_none(ray_driver: Cluster, tmp_path: Path, evaluations: int) -> None:
    found = climb(str(tmp_path), {"trials": 3, "scheduler": "halving"}, evaluations=evaluations)
    ends = sorted((row["status"], row["reports"]) for row in trials(found))
    assert ends == ([("finished", 1)] * 3 if evaluations == 1 else [("finished", 2), ("stopped", 1), ("stopped", 1)])


def test_pbt_goes_on_from_strong_weights_with_changed_values(ray_driver: Cluster, tmp_path: Path) -> None:
    """Four trials on two CPUs: they train in turns."""
    (tmp_path / "marks").mkdir()
    settings = {"scheduler": "pbt", "trials": 4, "resample_probability": 0.0}
    found = climb(str(tmp_path / "runs"), settings, evaluations=8, pause=0.05, marks=str(tmp_path / "marks"))
    first: dict[str, float] = {}
    for mark in marks(tmp_path / "marks"):
        first.setdefault(mark["trial"], mark["rate"])
    assert len(first) == len(trials(found)) == 4
    taken = [row for row in trials(found) if len(row["schedule"]) > 1]
    assert taken, "the weak took over"
    for row in trials(found):
        assert row["status"] == "finished" and row["reports"] == 8 and row["schedule"][-1]["trial"] == row["name"]
        height, rate = 0.0, first[row["schedule"][0]["trial"]]
        for stretch in row["schedule"]:
            ratio = stretch["values"][RATE] / rate
            assert min(abs(ratio - factor) for factor in (0.8, 1.0, 1.2)) < 1e-9, "the donor's rate, perturbed"
            rate = stretch["values"][RATE]
            height += (stretch["until"] - stretch["from"]) * gain(rate)
            assert stretch["score"] == pytest.approx(height), "it began from the donor's weights"
        assert row["values"] == row["schedule"][-1]["values"] and row["score"] == pytest.approx(height)
    for row in taken:
        donor = row["schedule"][0]["trial"]
        assert donor != row["name"] and gain(first[donor]) > gain(first[row["name"]])
        assert row["score"] > 8 * gain(first[row["name"]]) + 1, "its own first rate could never have come that far"
    best = next(row for row in trials(found) if row["name"] == found.manifest.details["best_trial"])
    assert found.manifest.details["schedule"] == best["schedule"] and best["score"] == max(
        row["score"] for row in trials(found)
    )


def test_pbt_stays_inside_its_spaces() -> None:
    """No cluster: what is handed to Ray brings perturbed values back."""
    from jobs.core.spaces import Space
    from jobs.search.setup import inside

    spaces = {
        "rate": Space("loguniform", (1e-3, 1e-1)),
        "count": Space("randint", (1, 5)),
        "kind": Space("choice", ("a", "b")),
    }
    assert inside(spaces, {"rate": 0.12, "count": 6, "kind": "a"}) == {"rate": 1e-1, "count": 5, "kind": "a"}
    assert inside(spaces, {"rate": 1e-4, "count": 3, "kind": "b"}) == {"rate": 1e-3, "count": 3, "kind": "b"}


def test_a_trial_whose_state_is_gone_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster: what a killed search remembers may have been dropped since."""
    from ray import tune

    from jobs.core.recipe import Step
    from jobs.core.spaces import Tune
    from jobs.core.stage import Resources
    from jobs.search.trial import _Trial

    trial = _Trial(Step("walk", STAGE, {}, {}, {}, Tune(scheduler="pbt"), Resources()), "a", str(tmp_path), {RATE: 1e-2})
    trial._went(1, 0.5)
    monkeypatch.setattr(tune, "get_checkpoint", lambda: tune.Checkpoint(str(tmp_path / "gone")))
    assert trial.start() is None and trial.path == []


def test_failed_trials_are_told_and_do_not_end_the_search(ray_driver: Cluster, tmp_path: Path) -> None:
    (tmp_path / "marks").mkdir()
    grid = {"optimizer": {"learning_rate": {"grid": [BEST, 5e-2, 9e-2]}}}
    given: dict[str, Any] = {"fails_above": 2e-2, "breaks_above": 6e-2, "marks": str(tmp_path / "marks")}
    found = climb(str(tmp_path / "runs"), {"scheduler": "none"}, grid, **given)
    rows = {row["values"][RATE]: row for row in trials(found)}
    assert rows[BEST]["status"] == "finished"
    assert rows[5e-2]["status"] == "failed" and "fell off at 0.05" in rows[5e-2]["error"]
    assert rows[5e-2]["reports"] == 1 and rows[5e-2]["score"] == pytest.approx(gain(5e-2))
    assert rows[9e-2]["status"] == "failed" and "a shoe broke" in rows[9e-2]["error"]
    assert rows[9e-2]["score"] is None and rows[9e-2]["reports"] == 0
    starts = [mark["rate"] for mark in marks(tmp_path / "marks")]
    # max_failures is 1. Divergence would only come again.
    assert starts.count(5e-2) == 1 and starts.count(9e-2) == 2


def test_a_search_without_a_finished_trial_fails_and_begins_anew(ray_driver: Cluster, tmp_path: Path) -> None:
    (tmp_path / "marks").mkdir()
    for runs in (1, 2):
        with pytest.raises(
            SearchFailed, match="none of 2 trials came to an end; the first said: FloatingPointError: fell off"
        ):
            given: dict[str, Any] = {"fails_above": 0, "fails_after": 0, "marks": str(tmp_path / "marks")}
            climb(str(tmp_path / "runs"), {"trials": 2, "scheduler": "none"}, **given)
        assert len(marks(tmp_path / "marks")) == 2 * runs
