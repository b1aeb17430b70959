"""The front, its controls and operating points, and a search that keeps several shapes. No cluster.
`pytest tests/jobs/test_front.py`"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from cluster.store.artifact import Artifact, Kind, open_artifact
from jobs.core.metric import Metric
from jobs.core.recipe import Recipe, Step, parse_recipe
from jobs.core.stage import Context, Inputs, Refused
from jobs.judging.controls import MADE_FROM, made_with, missing_controls, traits
from jobs.judging.operating_points import fastest_point
from jobs.judging.pareto import beaten_by, controls, front_of, pareto_front
from jobs.search.schedulers import ShapeWise
from jobs.search.setup import tune_config
from jobs.search.shapes import FILE, shapes_of, within_budget
from jobs.search.trial_results import kept_of
from jobs.select import SelectConfig, _order
from tests.jobs.tiny import publish_directory

GRID = {"layers": {"grid": [[0], [0, 3]]}, "feed_forward": {"grid": [0.0, 0.5]}}
NAMES = [f"student.layers {layers}, student.feed_forward {share}" for layers in ("[0]", "[0, 3]") for share in (0.0, 0.5)]


def row(candidate: str, score: float, p95: float, size: int, made: list[str] | None = None, **more: Any) -> dict[str, Any]:
    known = {"candidate": candidate, "score": score, "latency_p95_ms": p95, "bytes": size, "parameters": size, **more}
    return known if made is None else known | {"made": made}


ROWS = [
    row("teacher", 0.95, 20, 90, []),
    row("small", 0.94, 4, 12, ["distilled", "pruned"]),
    row("smaller", 0.90, 2, 9, ["distilled", "pruned"]),
    row("plain", 0.92, 5, 12, ["pruned"]),
    row("whole", 0.94, 6, 20, ["distilled"]),
    row("twin", 0.94, 4, 12, ["distilled", "pruned"]),
    row("int8", 0.945, 8, 90, []),
]


def test_who_beats_whom() -> None:
    """Worse in nothing and better in something; equals do not beat each other."""
    found = {one["candidate"]: beaten_by(one, ROWS) for one in ROWS}
    assert found["plain"] == found["whole"] == ["small", "twin"]
    assert not any(found[name] for name in ("teacher", "small", "smaller", "twin", "int8"))
    assert pareto_front(ROWS, lower=("bytes",)) == ["teacher", "small", "smaller", "twin"], "int8 is only faster"


def test_the_front_as_a_file() -> None:
    report = {"metric": "accuracy", "split": "test", "examples": 9, "conditions": {"threads": 1}, "rows": ROWS}
    front = json.loads(json.dumps(front_of(report)))
    assert [one["candidate"] for one in front["front"]] == ["smaller", "small", "twin", "int8", "teacher"], "fastest first"
    assert front["beaten"] == [{"candidate": name, "by": ["small", "twin"]} for name in ("plain", "whole")]
    assert front["axes"] == {"score": "higher", "latency_p95_ms": "lower", "bytes": "lower"}
    assert front["controls"] == {"distilled": ["plain"], "pruned": ["whole"]}
    # The teacher's own int8 is as large as the teacher in parameters: no student, so no control.
    assert [one["candidate"] for one in controls(ROWS, "pruned")] == ["whole"]


@pytest.mark.parametrize(("prefer", "first"), [("fastest", "smaller"), ("smallest", "smaller"), ("best", "int8")])
def test_which_of_the_front_is_preferred(prefer: Any, first: str) -> None:
    order = SelectConfig(prefer=prefer).prefer
    assert min(ROWS[1:], key=lambda one: _order(one, order, Metric("accuracy")))["candidate"] == first


def test_the_threads_and_batch_that_suit_a_candidate_best() -> None:
    """Threads by the latency of one text, the batch by throughput with them."""
    points = [
        {"threads": 1, "latency_p95_ms": 3.0, "texts_per_second": {"8": 900.0, "32": 700.0}},
        {"threads": 2, "latency_p95_ms": 2.0, "texts_per_second": {"8": 400.0, "32": 500.0}},
    ]
    assert fastest_point(points) == {"threads": 2, "batch_size": 32}


@pytest.mark.parametrize(
    ("stage", "config", "taught", "wanted"),
    [
        ("finetune", {}, False, set()),
        ("distill", {"alpha": 0.9, "student": {"layers": [0]}}, True, {"distilled"}),
        ("distill", {"alpha": 0.0, "student": {"feed_forward": 0.5}}, True, {"pruned"}),
        ("distill", {"alpha": 0.0, "alpha_end": 0.5}, True, {"distilled"}),
        ("distill", {"alpha": 0.0, "match": {"last": {"what": "hidden"}}}, True, {"distilled"}),
        ("distill", {"alpha": {"uniform": [0.0, 1.0]}, "student": {"feed_forward": {"grid": [0, 0.5]}}}, True,
         {"distilled", "pruned"}),
        ("compress", {"prune": {"heads": 0.25}, "heal": {"alpha": 0.9}}, True, {"distilled", "pruned"}),
        ("compress", {"prune": {"layers": 1}, "heal": {"alpha": 0.9}}, False, {"pruned"}),
        ("compress", {"prune": {"feed_forward": 0.0}, "heal": {"alpha": 0.9}}, True, set()),
    ],
)  # fmt: skip
def test_what_a_step_does_to_its_model(stage: str, config: dict[str, Any], taught: bool, wanted: set[str]) -> None:
    assert traits(stage, config, taught) == wanted


def recipe(candidates: list[str], **students: Any) -> Recipe:
    distill = {"stage": "distill", "inputs": {"examples": "rows", "teacher": "soft", "init": "teacher"}}
    half = {"layers": [0, 3], "feed_forward": 0.5}
    steps = {
        "rows": {"stage": "prepare", "source": "a.csv", "task": {"kind": "classification"}},
        "teacher": {"stage": "finetune", "model": "sample:minilm_l6", "inputs": {"examples": "rows"}},
        "soft": {"stage": "predict", "inputs": {"model": "teacher", "examples": "rows"}},
        "students": distill | {"student": GRID, "tune": {"scheduler": "none", "keep": 4}} | students,
        "undistilled": distill | {"student": half, "alpha": 0.0},
        "unpruned": distill | {"student": {"layers": [0, 3]}},
        "half": distill | {"student": half},
        "small": {"stage": "compress", "inputs": {"model": ["students", "half"], "examples": "rows"}},
        "controls": {"stage": "compress", "inputs": {"model": ["undistilled", "unpruned"], "examples": "rows"}},
        "judged": {
            "stage": "evaluate",
            "inputs": {"examples": "rows", "teacher": "teacher", "candidates": candidates},
        },
    }
    return parse_recipe({"name": "tiny", "steps": steps})


@pytest.mark.parametrize(
    ("candidates", "lacking"),
    [
        (["small"], ["distilled", "pruned"]),
        (["small", "undistilled"], ["pruned"]),
        (["small", "unpruned"], ["distilled"]),
        (["small", "undistilled", "unpruned"], []),
        (["small", "controls"], []),
        (["half"], []),
    ],
)
def test_a_front_without_a_control_is_told_before_anything_runs(candidates: list[str], lacking: list[str]) -> None:
    found = missing_controls(recipe(candidates))
    assert [problem.path for problem in found] == ["steps.judged.inputs.candidates"] * len(lacking)
    assert all(f"is {trait}," in problem.reason for trait, problem in zip(lacking, found, strict=True))


def searched(**tune: Any) -> Step:
    return recipe(["half"], tune={"scheduler": "none", "keep": 4, **tune}).steps["students"]


def test_every_shape_of_a_search_has_a_name() -> None:
    shapes = shapes_of(searched())
    assert list(shapes) == NAMES
    assert shapes[NAMES[1]] == {"student.layers": [0], "student.feed_forward": 0.5}


def found_before(step: Step, fitting: list[str], place: Path) -> Context:
    """A context in which the shapes were timed already, as they are in a search that goes on."""
    shapes = shapes_of(step).items()
    rows = [
        {"name": name, "values": values, "p95_ms": 1.0 + number, "fits": name in fitting}
        for number, (name, values) in enumerate(shapes)
    ]
    context = Context(str(place), "tiny", "students", str(place / "out"), "a", step.resources)
    scratch = Path(context.scratch)
    scratch.mkdir(parents=True)
    (scratch / FILE).write_text(json.dumps(rows))
    return context


def test_shapes_over_the_budget_never_become_trials(tmp_path: Path) -> None:
    step = searched(budget={"maximum_p95_ms": 2.5})
    left, timed = within_budget(step, Inputs(), found_before(step, NAMES[:2], tmp_path))
    assert [one["name"] for one in timed] == NAMES, "those that were left out are told too"
    assert list(left.spaces) == ["shape"] and left.spaces["shape"].values == tuple(NAMES[:2])
    assert left.configure({"shape": NAMES[1]}).model_dump()["student"] == {
        "every": None, "layers": (0,), "feed_forward": 0.5, "weights": "copied",
    }  # fmt: skip


def test_a_budget_that_no_shape_meets_is_refused_with_the_nearest(tmp_path: Path) -> None:
    step = searched(budget={"maximum_p95_ms": 0.5})
    said = r"no shape answers within p95 0\.5 ms; the fastest of 4, student\.layers \[0\], .* 1\.00 ms"
    with pytest.raises(Refused, match=said):
        within_budget(step, Inputs(), found_before(step, [], tmp_path))


def test_without_a_budget_nothing_is_timed(tmp_path: Path) -> None:
    step = searched()
    context = Context(str(tmp_path), "tiny", "students", str(tmp_path / "out"), "a", step.resources)
    assert within_budget(step, Inputs(), context) == (step, [])


def test_the_best_of_each_shape_goes_on_before_seconds() -> None:
    def trial(name: str, layers: list[int], score: float | None, status: str = "finished") -> dict[str, Any]:
        return {"name": name, "values": {"student.layers": layers, "alpha": 0.5}, "score": score, "status": status}

    trials = [
        trial("small", [0], 0.80), trial("large", [0, 3], 0.90), trial("large too", [0, 3], 0.89),
        trial("small too", [0], 0.70), trial("stopped", [3], 0.95, "stopped"), trial("broken", [3], None),
    ]  # fmt: skip
    for keep, wanted in ((1, ["large"]), (2, ["large", "small"]), (3, ["large", "small", "large too"])):
        assert [one["name"] for one in kept_of(searched(keep=keep), trials)] == wanted
    assert len(kept_of(searched(keep=9), trials)) == 4, "no more than came to their end"


def test_asha_compares_trials_of_one_shape_alone() -> None:
    """Small shapes score less at every rung; alone they would all be stopped at the first."""
    asha = partial(ASHAScheduler, time_attr="evaluation", max_t=4, grace_period=1, reduction_factor=2)
    told = [([0, 3], 0.9), ([0, 3], 0.8), ([0], 0.5), ([0], 0.6), ([0], 0.4)]

    def fates(scheduler: TrialScheduler) -> list[str]:
        scheduler.set_search_properties("macro_f1", "max")
        controller: Any = None  # asha asks it nothing
        found = []
        for layers, score in told:
            trial = Trial("train", config={"student.layers": layers, "alpha": 0.1}, stub=True)
            scheduler.on_trial_add(controller, trial)
            found.append(scheduler.on_trial_result(controller, trial, {"evaluation": 1, "macro_f1": score}))
        return found

    assert fates(ShapeWise(asha, ["student.layers"])) == ["CONTINUE", "STOP", "CONTINUE", "CONTINUE", "STOP"]
    assert fates(asha()) == ["CONTINUE", "STOP", "STOP", "STOP", "STOP"]


@pytest.mark.parametrize(("keep", "wanted"), [(1, ASHAScheduler), (2, ShapeWise)])
def test_a_search_that_keeps_several_is_shape_wise(keep: int, wanted: type) -> None:
    assert type(tune_config(searched(scheduler="asha", keep=keep), 1).scheduler) is wanted


def test_each_model_of_a_step_that_makes_several_has_its_own_origin(tmp_path: Path) -> None:
    """All of them have the same parents in their manifests."""

    def made(name: str, stage: str, config: dict[str, Any], **more: Any) -> Artifact:
        (tmp_path / "nothing").mkdir(exist_ok=True)
        return publish_directory(tmp_path / "nothing", tmp_path / name, Kind.MODEL, name, stage=stage, config=config, **more)

    half = {"alpha": 0.0, "student": {"feed_forward": 0.5}}
    bases = [made("half", "distill", half), made("taught", "distill", {"alpha": 0.9, "student": {"layers": [0]}})]
    parents = {"model": [base.as_parent() for base in bases]}
    unpruned = {"prune": {"feed_forward": 0.0}, "heal": {"alpha": 0.9}}
    for base, wanted in zip(bases, ({"pruned"}, {"distilled"}), strict=True):
        details = {MADE_FROM: base.uri}
        small = made(f"small-{base.manifest.step}", "compress", unpruned, parents=parents, details=details)
        assert made_with(small) == wanted


def test_where_a_model_came_from_is_known_also_of_one_that_was_moved(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    first = tmp_path / "first" / "spam"
    config = {"alpha": 0.0, "student": {"feed_forward": 0.5}}
    base = publish_directory(tmp_path / "nothing", first / "base-1a2b3c4d", Kind.MODEL, "base", stage="distill", config=config)
    parents = {"model": [base.as_parent()]}
    unpruned = {"prune": {"feed_forward": 0.0}, "heal": {}}
    place = first / "small-1a2b3c4d"
    publish_directory(tmp_path / "nothing", place, Kind.MODEL, "small", stage="compress", config=unpruned, parents=parents)
    (tmp_path / "first").rename(tmp_path / "second")
    assert made_with(open_artifact(str(tmp_path / "second" / "spam" / "small-1a2b3c4d"))) == {"pruned"}
