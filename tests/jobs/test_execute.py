"""Where a step's output lies, what makes a step run again, and running one. `pytest tests/jobs/test_execute.py`"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

from cluster.store.artifact import Artifact, ArtifactError, Kind
from jobs.core.config import SPEED_ONLY, BadInput, Config, identifying, nested_config
from jobs.core.places import Place, identity, locate, output_of, sources_of
from jobs.core.recipe import Recipe, Step, parse_recipe
from jobs.core.spaces import Tune
from jobs.core.stage import STAGES, Completion, Context, Input, Inputs, Outcome, Resources, Stage, load_stage
from jobs.running.execute import execute
from jobs.training.settings import Training
from tests.jobs.tiny import publish_directory


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Labelled rows and a base model's directory from outside."""
    (tmp_path / "rows.csv").write_text("text,label\nhello,ham\n中奖了,spam\n")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    return tmp_path


LESS_MEMORY = {"gradient_accumulation": 4, "activation_checkpointing": True}
FASTER: dict[str, Any] = {**LESS_MEMORY, "compile": True, "checkpoint_steps": 100}
"""All that changes only a training's speed or memory, but for `checkpoint_seconds`, which does nothing beside the last."""


def recipe(data: Path, **changes: dict[str, Any]) -> Recipe:
    """prepare → finetune → predict → distill (a search) → compress, with changes to single steps."""
    base = str(data / "base")
    examples = {"examples": "rows"}
    steps: dict[str, dict[str, Any]] = {
        "rows": {"stage": "prepare", "source": str(data / "rows.csv"), "task": {"kind": "classification"}},
        "teacher": {"stage": "finetune", "model": base, "inputs": examples},
        "soft": {"stage": "predict", "inputs": {**examples, "model": "teacher"}},
        "student": {"stage": "distill", "model": base, "inputs": {**examples, "teacher": "soft"},
                    "temperature": {"loguniform": [1, 8]}, "tune": {"trials": 2}},
        "small": {"stage": "compress", "inputs": {**examples, "model": "student", "teacher": "soft"}},
    }  # fmt: skip
    names = dict.fromkeys((*steps, *changes))
    return parse_recipe({"name": "tiny", "steps": {name: steps.get(name, {}) | changes.get(name, {}) for name in names}})


def finish(data: Path, chosen: Recipe, name: str, content: str = "") -> Artifact:
    """Publish what the step would, as if it had run."""
    place = locate(chosen, str(data / "runs"))[name]
    assert place.uri is not None and place.artifact is None, f"{name} is not waiting to run"
    draft = data / "drafts" / Path(place.uri).name
    draft.mkdir(parents=True)
    (draft / "out.txt").write_text(content or name)
    step = place.step
    parents = {
        key: [output_of(chosen, parent, str(data / "runs")).as_parent() for parent in step.inputs[key]] for key in step.inputs
    }
    record: dict[str, Any] = {
        "stage": step.stage.name,
        "stage_version": step.stage.version,
        "config": step.resolved(),
        "parents": parents,
    }
    return publish_directory(draft, place.uri, step.kind, step.name, **record)


def finish_all(data: Path, chosen: Recipe, content: str = "") -> dict[str, Artifact]:
    return {
        name: finish(data, chosen, name, content) for name, place in places(data, chosen).items() if place.artifact is None
    }


def places(data: Path, chosen: Recipe) -> dict[str, Place]:
    return locate(chosen, str(data / "runs"))


def waiting(data: Path, chosen: Recipe) -> dict[str, str]:
    """The steps that would run, with the reason."""
    return {name: place.reason for name, place in places(data, chosen).items() if place.runs}


def test_nothing_runs_twice_and_the_same_config_has_the_same_place(data: Path) -> None:
    first = recipe(data)
    assert waiting(data, first)["rows"] == "never run"
    made = finish_all(data, first)
    again = places(data, recipe(data))
    assert {place.reason for place in again.values()} == {"complete"}
    assert {name: place.uri for name, place in again.items()} == {name: artifact.uri for name, artifact in made.items()}
    # Defaults that are written out are the same step.
    assert waiting(data, recipe(data, teacher={"epochs": 3.0, "optimizer": {"learning_rate": 1e-4}})) == {}


def test_a_changed_range_runs_that_step_and_what_follows_and_says_why(data: Path) -> None:
    finish_all(data, recipe(data))
    changed = recipe(data, student={"temperature": {"loguniform": [1, 6]}})
    reasons = waiting(data, changed)
    assert reasons.keys() == {"student", "small"}
    assert reasons["student"] == "temperature.loguniform [1, 8] → [1, 6]"
    assert reasons["small"] == "new parent student"
    assert places(data, changed)["small"].uri is None, "its place is not known before its parent is made"
    fixed = recipe(data, student={"temperature": 4, "tune": {"trials": 2}} | {"alpha": {"uniform": [0, 1]}})
    assert "alpha 0.9 → None" in waiting(data, fixed)["student"] and "temperature None → 4" in waiting(data, fixed)["student"]


def test_a_parent_with_other_content_runs_its_children(data: Path) -> None:
    finish_all(data, recipe(data))
    changed = recipe(data, teacher={"epochs": 5})
    assert waiting(data, changed)["teacher"] == "epochs 3.0 → 5.0"
    finish(data, changed, "teacher", "better weights")
    reasons = waiting(data, changed)
    assert reasons == {"soft": "new parent teacher", "student": "new parent soft", "small": "new parent soft, student"}


def test_what_is_made_once_stays_whatever_its_parents_become(data: Path) -> None:
    kept = {"teacher": {"once": True}}
    first = finish_all(data, recipe(data, **kept))
    (data / "rows.csv").write_text("text,label\nhello,ham\n中奖了,spam\nand a new one,ham\n")
    assert waiting(data, recipe(data)).keys() == {"rows", "teacher", "soft", "student", "small"}
    teacher = places(data, recipe(data, **kept))["teacher"]
    assert teacher.artifact == first["teacher"] and teacher.reason.startswith("made once, on ")
    assert waiting(data, recipe(data, **kept)).keys() == {"rows", "soft", "student", "small"}
    finish(data, recipe(data, **kept), "rows", "more rows")
    soft = places(data, recipe(data, **kept))["soft"]
    assert soft.uri is not None and soft.uri != first["soft"].uri and soft.reason == "new parent rows"
    # Another config is another step, and what is made anew once is kept from then on.
    other = {"teacher": {"once": True, "epochs": 5}}
    assert waiting(data, recipe(data, **other))["teacher"] == "epochs 3.0 → 5.0; new parent rows"
    anew = finish(data, recipe(data, teacher={"once": False}), "teacher", "learned more rows")
    assert places(data, recipe(data, **kept))["teacher"].artifact == anew


def test_once_is_for_what_a_step_makes_and_not_for_what_it_does(data: Path) -> None:
    with pytest.raises(BadInput, match=r"steps.teacher.once = 'yes': it is true or false"):
        recipe(data, teacher={"once": "yes"})
    for stage, inputs in (("select", {"report": "judged"}), ("deploy", {"winner": "won"})):
        with pytest.raises(BadInput, match=rf"steps.last.once = True: {stage} acts on what its inputs are now"):
            recipe(data, last={"stage": stage, "inputs": inputs, "once": True})


def test_a_parent_that_is_made_again_with_the_same_content_stops_the_chain(data: Path) -> None:
    finish_all(data, recipe(data))
    changed = recipe(data, soft={"batch_size": 8})
    assert waiting(data, changed).keys() == {"soft", "student", "small"}
    finish(data, changed, "soft")
    assert waiting(data, changed) == {}


def test_changed_outside_data_and_models_run_their_steps(data: Path) -> None:
    finish_all(data, recipe(data))
    (data / "base" / "config.json").write_text('{"hidden_size": 32}')
    reasons = waiting(data, recipe(data))
    assert reasons.keys() == {"teacher", "soft", "student", "small"}
    assert reasons["teacher"] == "its outside data changed"
    (data / "rows.csv").write_text("text,label\nhello,spam\n")
    assert waiting(data, recipe(data))["rows"] == "its outside data changed"


def test_other_hardware_and_another_folder_are_the_same_step(data: Path) -> None:
    finish_all(data, recipe(data))
    resources = {"resources": {"workers": 4, "cpus": 8, "gpus": 1, "max_failures": 9}}
    assert waiting(data, recipe(data, teacher=resources, soft=resources, small=resources)) == {}
    assert waiting(data, recipe(data, student={"tune": {"trials": 2, "max_concurrent": 1}})) == {}
    (data / "elsewhere").mkdir()
    (data / "rows.csv").rename(data / "elsewhere" / "rows.csv")
    moved = recipe(data, rows={"source": str(data / "elsewhere" / "*.csv")})
    assert waiting(data, moved)["rows"].startswith("source"), "the way that data is named is part of the config"


def test_what_only_changes_speed_or_memory_is_the_same_step(data: Path) -> None:
    made = finish_all(data, recipe(data))
    for fast in (FASTER, {"checkpoint_seconds": 5}):
        changed = recipe(data, teacher=fast, student=fast, small={"heal": fast})
        assert waiting(data, changed) == {}
        assert {name: place.uri for name, place in places(data, changed).items()} == {n: a.uri for n, a in made.items()}
    more = places(data, recipe(data, teacher={**FASTER, "epochs": 5}))["teacher"]
    assert more.reason == "epochs 3.0 → 5.0", "it is no reason either"
    step = recipe(data, small={"heal": FASTER}).steps["small"]
    assert FASTER.items() <= step.resolved()["heal"].items(), "the manifest replays the step as it was run"
    for name, key in (("teacher", {"precision": "bf16"}), ("soft", {"batch_size": 8}), ("small", {"heal": {"seed": 1}})):
        assert waiting(data, recipe(data, **{name: key})), "it changes what comes out by more than rounding"


def test_a_search_over_what_only_changes_speed_is_another_search(data: Path) -> None:
    finish_all(data, recipe(data))
    for parts in ([1, 4], [1, 8]):
        changed = recipe(data, student={"gradient_accumulation": {"choice": parts}})
        assert waiting(data, changed)["student"].startswith("gradient_accumulation.choice")
        finish(data, changed, "student")
    assert "gradient_accumulation.choice [1, 8] → None" in waiting(data, recipe(data, student={"epochs": 4}))["student"]


def test_what_was_made_while_speed_counted_runs_again_and_the_reason_is_true(data: Path) -> None:
    chosen = recipe(data)
    finish(data, chosen, "rows")
    place = places(data, chosen)["teacher"]
    draft = data / "draft"
    draft.mkdir()
    record: dict[str, Any] = {"stage": "finetune", "stage_version": place.step.stage.version}
    record |= {"config": {**place.step.resolved(), "compile": True}, "sources": sources_of(place.step)}
    record["parents"] = {"examples": [output_of(chosen, "rows", str(data / "runs")).as_parent()]}
    publish_directory(draft, str(data / "runs" / "tiny" / "teacher-0000abcd"), place.step.kind, "teacher", **record)
    assert waiting(data, chosen)["teacher"].startswith("its parents' order, or what counts as the same step,")


def test_every_training_leaves_the_same_keys_out() -> None:
    """A config that gives one of them another default must mark it again."""
    trainings = {name: found for name in STAGES for found in _trainings(load_stage(name).config)}
    assert trainings.keys() == {"pretrain", "finetune", "distill", "compress"}
    for training in trainings.values():
        marked = {key for key, field in training.model_fields.items() if field.json_schema_extra == SPEED_ONLY}
        assert marked == {*FASTER, "checkpoint_seconds"}


def _trainings(config: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The config and those inside of it that say how something is trained."""
    if issubclass(config, Training):
        yield config
    for field in config.model_fields.values():
        if (nested := nested_config(field.annotation)) is not None:
            yield from _trainings(nested)


def test_keys_below_names_of_ones_own_are_left_out_too() -> None:
    class Part(Config):
        """One of several."""

        size: int = 1
        quick: bool = Field(False, json_schema_extra=SPEED_ONLY)

    class Whole(Config):
        """Several."""

        parts: dict[str, Part] = {}
        one: Part | None = None

    dumped = {"parts": {"left": {"size": 2, "quick": True}, "right": {"choice": [{"quick": True}]}}, "one": None}
    kept = {"parts": {"left": {"size": 2}, "right": {"choice": [{"quick": True}]}}, "one": None}
    assert identifying(dumped, Whole) == kept
    assert identifying({"one": {"size": 1, "quick": {"grid": [True, False]}}}, Whole)["one"]["quick"], "a search space stays"


def test_order_of_several_parents_and_stage_versions_count(data: Path, tmp_path: Path) -> None:
    step = stamped(tmp_path / "log").steps["copy"]
    left, right = (publish_text(tmp_path, name) for name in ("left", "right"))
    assert identity(step, {"of": [left, right]}) != identity(step, {"of": [right, left]})
    newer = stamped(tmp_path / "log", version=2).steps["copy"]
    assert identity(step, {"of": [left]}) != identity(newer, {"of": [left]})


class Copy(Config):
    """What the test's own stage does."""

    text: str = "hello"
    fails: bool = False


def publish_text(root: Path, name: str) -> Artifact:
    draft = root / f"{name}-draft"
    draft.mkdir()
    (draft / "text.txt").write_text(name)
    return publish_directory(draft, root / name, Kind.REPORT, name)


def stamped(log: Path, completion: Completion | None = None, **stage_fields: Any) -> Recipe:
    """`first` writes a text, `copy` one that depends on it; each run is noted in the log, with the directory it had."""

    def run(config: Copy, inputs: Inputs, context: Context) -> Outcome:
        with open(log, "a") as file:
            file.write(f"{context.step} {context.directory}\n")
        parent = inputs.maybe("of")
        before = (parent.local() / "text.txt").read_text() if parent else ""
        (context.directory / "text.txt").write_text(before + config.text)
        if config.fails:
            raise RuntimeError("broken on purpose")
        return Outcome(metrics={"length": float(len(before + config.text))})

    def step(name: str, raw: dict[str, Any], inputs: dict[str, tuple[str, ...]], **fields: Any) -> Step:
        spec = {"of": Input(Kind.REPORT, "what is copied", many=True)} if inputs else {}
        usual: dict[str, Any] = {"config": Copy, "run": run, "output": Kind.REPORT, "version": 1, "inputs": spec}
        stage = Stage(name="copy", purpose="", **(usual | fields))
        return Step(name, stage, raw, {}, inputs, Tune(), Resources())

    config = {"fails": stage_fields.pop("fails", False)}
    copy = step("copy", config, {"of": ("first",)}, completion=completion or Completion(), **stage_fields)
    return Recipe("stamped", {"first": step("first", {}, {}), "copy": copy})


def runs(log: Path) -> list[str]:
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def test_execute_runs_once_publishes_and_cleans_up(tmp_path: Path) -> None:
    log, storage = tmp_path / "log", str(tmp_path / "runs")
    settled: list[str] = []
    chosen = stamped(log, Completion(settle=lambda artifact, context: settled.append(artifact.uri)))
    with pytest.raises(BadInput, match="this step has not been run.*--step first"):
        execute(chosen, "copy", storage)
    first, copy = execute(chosen, "first", storage), execute(chosen, "copy", storage)
    assert (copy.local() / "text.txt").read_text() == "hellohello"
    assert copy.manifest.parents["of"][0].fingerprint == first.fingerprint
    assert copy.manifest.config == {"text": "hello", "fails": False} and copy.manifest.metrics == {"length": 10.0}
    assert execute(chosen, "copy", storage).uri == copy.uri
    assert runs(log) == ["first", "copy"], "what is there is not made again"
    assert settled == [copy.uri, copy.uri], "what must hold outside is seen to also where the artifact was found"
    assert not any(Path(line.split()[1]).exists() for line in log.read_text().splitlines()), "no scratch directory stays"


def test_a_step_that_fails_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    log, storage = tmp_path / "log", str(tmp_path / "runs")
    chosen = stamped(log, fails=True)
    execute(chosen, "first", storage)
    with pytest.raises(RuntimeError, match="on purpose"):
        execute(chosen, "copy", storage)
    assert locate(chosen, storage)["copy"].reason == "never run"
    assert not Path(log.read_text().split()[-1]).exists()
    with pytest.raises(ArtifactError, match="step copy of stamped has no artifact"):
        output_of(chosen, "copy", storage)


def test_a_damaged_parent_is_refused_before_the_step_runs(tmp_path: Path) -> None:
    log, storage = tmp_path / "log", str(tmp_path / "runs")
    chosen = stamped(log)
    first = execute(chosen, "first", storage)
    Path(first.file("text.txt")).write_text("other")
    with pytest.raises(ArtifactError, match=r"text\.txt: its sha256 is .* the manifest says"):
        execute(chosen, "copy", storage)
    assert runs(log) == ["first"]


def test_a_step_that_acts_on_the_world_runs_each_time(tmp_path: Path) -> None:
    log, storage = tmp_path / "log", str(tmp_path / "runs")
    chosen = stamped(log, Completion(effect=True))
    execute(chosen, "first", storage)
    before = execute(chosen, "copy", storage)
    after = execute(chosen, "copy", storage)
    assert runs(log) == ["first", "copy", "copy"]
    assert after.uri == before.uri and after.manifest.created > before.manifest.created
    place = locate(chosen, storage)["copy"]
    assert place.runs and place.artifact is not None
