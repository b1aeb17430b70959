"""A recipe that is run again when its source has grown: what is new is done, what is old stays, and what is in production is
compared with. `pytest tests/jobs/test_next_month.py`      # Ray on two CPUs
"""

import csv
import dataclasses
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster.connection.connect import Cluster
from cluster.store.artifact import Artifact, ArtifactError
from cluster.store.registry import move, read, verdicts
from cluster.store.storage import delete
from jobs import predict
from jobs.core.config import BadInput
from jobs.core.places import gather, locate
from jobs.core.recipe import Recipe, parse_recipe
from jobs.core.stage import Context, Refused, Resources
from jobs.data.training_rows import read_examples
from jobs.judging.requirements import doubts
from jobs.judging.results import read_report, read_verdict
from jobs.report.page import render_page
from jobs.report.tables import comparison_table
from jobs.running.execute import execute
from jobs.running.parents import parent_problems
from jobs.select import SelectConfig
from jobs.tasks import spec_of
from jobs.tasks.soft_labels import SoftLabels
from serve.tasks.protocol import Item
from tests.story.tiny_world import OFFERS, TALK, write_base

TRAINING = {"max_length": 32, "batch_size": 16, "optimizer": {"learning_rate": 2e-3}, "evaluations": 1}
SPLITS = ("train", "validation", "test")


def messages(first: int, count: int) -> list[tuple[str, str]]:
    """Messages of which each has a number of its own."""
    draw, made = random.Random(first), []
    for number in range(first, first + count):
        words = OFFERS if number % 3 == 0 else TALK
        made.append((f"{draw.choice(words)} {draw.choice(words)} {number}", "spam" if words is OFFERS else "ham"))
    return made


def append(file: Path, rows: Iterable[tuple[str, str]]) -> None:
    begun = file.exists()
    with open(file, "a", newline="") as stream:
        csv.writer(stream).writerows([] if begun else [("text", "label")])
        csv.writer(stream).writerows(rows)


def recipe(directory: Path, **changes: dict[str, Any]) -> Recipe:
    """A teacher that is made once, its student, and the comparison with what is in production."""
    examples, base = {"examples": "rows"}, {"model": str(directory / "base"), **TRAINING}
    steps: dict[str, dict[str, Any]] = {
        "rows": {"stage": "prepare", "source": str(directory / "rows.csv"), "task": {"kind": "classification"}}
        | {"split": {"validation": 0.15, "test": 0.25}},
        "teacher": {"stage": "finetune", "inputs": examples, "once": True, **base, "epochs": 6},
        "soft": {"stage": "predict", "inputs": {**examples, "model": "teacher"}, "precision": "fp32"},
        "student": {"stage": "distill", "inputs": {**examples, "teacher": "soft"}, **base, "epochs": 6},
        "judged": {"stage": "evaluate", "latency_texts": 20, "resamples": 200}
        | {"inputs": {**examples, "teacher": "teacher", "candidates": "student", "against": "tiny/production"}},
        "winner": {"stage": "select", "inputs": {"report": "judged"}, "minimum_kept": 0},
    }
    for name, keys in changes.items():
        own = steps[name]
        steps[name] = {**own, **keys, "inputs": {**own.get("inputs", {}), **keys.get("inputs", {})}}
    return parse_recipe({"name": "tiny", "steps": steps, "floor": False})


def run(chosen: Recipe, storage: Path) -> dict[str, Artifact]:
    return {name: execute(chosen, name, str(storage)) for name in chosen.steps}


def waiting(chosen: Recipe, storage: Path) -> list[str]:
    return [name for name, place in locate(chosen, str(storage)).items() if place.runs]


def deploy(made: dict[str, Artifact], storage: Path) -> None:
    """Move the alias as deploy does once the winner answers."""
    row = read_verdict(made["winner"])["row"]
    move(str(storage), "tiny/production", row["uri"], row["fingerprint"], row["variant"], {"args": {"model": row["uri"]}})


def by_split(examples: Artifact) -> dict[str, str]:
    """The split of each row, by key."""
    return {key: split for split in SPLITS for key in read_examples(examples, split)["key"].to_pylist()}


def said(soft: Artifact, examples: Artifact, keys: Iterable[str]) -> np.ndarray:
    return np.stack([*SoftLabels(soft, list(keys), spec_of(examples))])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"judged": {"inputs": {"against": "student"}}},
            r"steps.judged.inputs.against = 'student': this input names an alias",
        ),
        ({"judged": {"inputs": {"against": ["a/b", "c/d"]}}}, r"inputs.against = 'a/b, c/d': .* Write RECIPE/production"),
        ({"judged": {"inputs": {"against": "../b"}}}, r"this input names an alias of the registry"),
        (
            {"student": {"inputs": {"teacher": "tiny/soft"}}},
            r"steps.student.inputs.teacher = 'tiny/soft': no step has this name",
        ),
    ],
)
def test_an_alias_stands_where_one_is_meant(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        recipe(tmp_path, **changes)


def test_a_loss_against_nothing_is_refused(tmp_path: Path) -> None:
    asked = {"winner": {"maximum_loss": 0.05}}
    assert parent_problems(recipe(tmp_path, **asked), ["winner"]) == []
    chosen = recipe(tmp_path, **asked)
    alone = {**chosen.steps, "judged": dataclasses.replace(chosen.steps["judged"], aliases={})}
    (problem,) = parent_problems(Recipe("tiny", alone), ["winner"])
    assert problem.path == "steps.winner.maximum_loss" and "inputs: {against: tiny/production}" in problem.remedy


@pytest.mark.parametrize(
    ("low", "asked", "passes"), [(0.981, None, True), (0.979, None, False), (0.979, 0.03, True), (1.0, 0.0, True)]
)
def test_the_lower_end_of_what_is_kept_decides(low: float, asked: float | None, passes: bool) -> None:
    against = {"candidate": "tiny/production", "gain": 0.01, "gain_interval": [-0.02, 0.03], "kept_interval": [low, 1.02]}
    row = {"against": against, "kept_interval": [0.0, 1.0], "slices": {}}
    reasons = doubts(row, row, SelectConfig(maximum_loss=asked))
    assert reasons == [] if passes else "keeps between 97.9% and 102.0% of the score of tiny/production" in reasons[0]


@pytest.fixture(scope="module")
def months(ray_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterable[tuple[Path, list[dict[str, Artifact]]]]:
    """Two months of one recipe, the first one's winner in production; this process stays connected as a driver."""
    import ray

    directory = tmp_path_factory.mktemp("months")
    storage = directory / "runs"
    ray.init(ray_cluster.address, log_to_driver=False)
    try:
        write_base(directory / "base", [*OFFERS, *TALK])
        append(directory / "rows.csv", messages(0, 400))
        first = run(recipe(directory), storage)
        deploy(first, storage)
        append(directory / "rows.csv", messages(400, 60))
        yield directory, [first, run(recipe(directory), storage)]
    finally:
        ray.shutdown()


Months = tuple[Path, list[dict[str, Artifact]]]


def test_the_teacher_answers_for_new_rows_alone(months: Months) -> None:
    directory, (first, second) = months
    assert second["teacher"] == first["teacher"]
    asked = [{key for key, split in by_split(one["rows"]).items() if split != "test"} for one in (first, second)]
    metrics = [one["soft"].manifest.metrics for one in (first, second)]
    assert (metrics[0]["answers_new"], metrics[0]["answers_reused"]) == (len(asked[0]), 0)
    assert metrics[1]["answers_reused"] == len(asked[0]) and metrics[1]["answers_new"] == len(asked[1] - asked[0]) > 30
    old = sorted(asked[0])
    before, now = (said(one["soft"], one["rows"], old) for one in (first, second))
    assert before.tobytes() == now.tobytes(), "what was answered before is what it was, bit for bit"

    # From zero, by the same teacher: other batches, so that what is rounded to half precision may be the next number.
    anew = Context(str(directory / "zero"), "tiny", "soft", str(directory / "zero" / "soft"), "a", Resources())
    inputs = gather(locate(recipe(directory), str(directory / "runs"))["soft"].step, second_places(directory), "")
    outcome = predict.run(predict.PredictConfig(precision="fp32"), inputs, anew)
    assert (outcome.metrics["answers_new"], outcome.metrics["answers_reused"]) == (len(asked[1]), 0)
    zero = Artifact(anew.output, second["soft"].manifest.model_copy(update={"files": dict(outcome.files)}))
    every = sorted(asked[1])
    apart = np.abs(said(zero, second["rows"], every) - said(second["soft"], second["rows"], every))
    assert apart.max() < 5e-3


def second_places(directory: Path) -> Any:
    return locate(recipe(directory), str(directory / "runs"))


def test_rows_that_were_there_stay_in_their_split(months: Months) -> None:
    _, (first, second) = months
    before, now = by_split(first["rows"]), by_split(second["rows"])
    assert {key: now[key] for key in before} == before and len(now) == 460
    new = [now[key] for key in now.keys() - before.keys()]
    assert set(new) == set(SPLITS), "new rows come to all splits"
    metrics = second["rows"].manifest.metrics
    assert {split: metrics[f"new_{split}_rows"] for split in SPLITS} == Counter(new)
    assert [metrics[f"{name}_rows"] for name in ("gone", "moved", "left_test", "learned_test")] == [0, 0, 0, 0]


def test_new_rows_alone_are_cleaned_and_all_is_as_from_zero(months: Months, tmp_path: Path) -> None:
    directory, (first, second) = months
    counts = [[one["rows"].manifest.metrics[name] for name in ("new_rows", "reused_rows")] for one in (first, second)]
    assert counts == [[400, 0], [60, 400]]
    zero = execute(recipe(directory), "rows", str(tmp_path))
    assert zero.fingerprint == second["rows"].fingerprint and zero.manifest.metrics["reused_rows"] == 0
    assert zero.manifest.files == second["rows"].manifest.files, "the data report too"
    assert zero.uri.rpartition("/")[2] == second["rows"].uri.rpartition("/")[2]


def test_the_new_winner_is_compared_with_production_on_the_same_rows(months: Months) -> None:
    directory, (first, second) = months
    assert "against" not in read_report(first["judged"]), "there was nothing in production yet"
    report = read_report(second["judged"])
    production = report["against"]
    assert production["candidate"] == "tiny/production" and production["fingerprint"] == first["student"].fingerprint
    assert production["learned_rows"] == 0 and report["examples"] == sum(
        s == "test" for s in by_split(second["rows"]).values()
    )
    (_, student) = report["rows"]
    compared = student["against"]
    assert compared["gain"] == pytest.approx(student["score"] - production["score"])
    assert compared["gain_interval"][0] <= compared["gain"] <= compared["gain_interval"][1]
    table = comparison_table(report, "student")
    assert "tiny/production: in production, on the same rows" in table and table.count("tiny/producti") == 2
    page = render_page("tiny", second)
    assert "Against what is in production" in page and "Of these rows it has learned from 0" in page
    (parent,) = second["judged"].manifest.parents["against"]
    assert parent.fingerprint == first["student"].fingerprint
    assert read_verdict(second["winner"])["against"] == production
    storage = directory / "runs"
    assert read(str(storage), "tiny/winner").target.fingerprint == second["student"].fingerprint
    assert waiting(recipe(directory), storage) == []
    deploy(second, storage)
    # What is in production now is the candidate itself: nothing is judged again for that.
    assert waiting(recipe(directory), storage) == []
    assert read_report(run(recipe(directory), storage)["judged"]) == report


def test_a_worse_winner_leaves_the_alias_where_it_is(months: Months, capfd: pytest.CaptureFixture[str]) -> None:
    directory, (first, second) = months
    storage = directory / "runs"
    move(str(storage), "tiny/production", first["student"].uri, first["student"].fingerprint, "torch", {"args": {}})
    worse = recipe(directory, student={"epochs": 1, "max_steps": 1, "optimizer": {"learning_rate": 1e-6}})
    with pytest.raises(
        Refused, match=r"of the score of tiny/production on the same rows \(better by -0\.\d+.*98.0% are asked"
    ):
        run(worse, storage)
    assert read(str(storage), "tiny/winner").target.fingerprint == second["student"].fingerprint
    verdict = verdicts(str(storage), "tiny/winner")[-1]
    assert verdict["moved"] is False and verdict["against"]["fingerprint"] == first["student"].fingerprint
    lenient = recipe(directory, student={**worse.steps["student"].raw}, winner={"maximum_loss": 1.0})
    assert "learned" not in capfd.readouterr().out and waiting(lenient, storage) == ["winner"]
    assert execute(lenient, "winner", str(storage)).manifest.details["winner"] == "student"


def test_earlier_answers_that_are_gone_or_damaged_are_given_again(
    months: Months, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    directory, (first, second) = months
    place = locate(recipe(directory), str(directory / "runs"))["soft"]
    inputs = gather(place.step, second_places(directory), "")
    context = Context(str(tmp_path), "tiny", "soft", str(tmp_path / "tiny" / "soft-00000000"), "a", Resources())

    def answered() -> tuple[float, float]:
        metrics = predict.run(predict.PredictConfig(precision="fp32"), inputs, context).metrics
        return metrics["answers_new"], metrics["answers_reused"]

    rows = second["soft"].manifest.metrics["rows"]
    earlier = tmp_path / "tiny" / "soft-11111111"
    for path in ["manifest.json", *first["soft"].manifest.files]:
        (earlier / path).parent.mkdir(parents=True, exist_ok=True)
        (earlier / path).write_bytes(Path(first["soft"].uri, path).read_bytes())
    assert answered() == (rows - first["soft"].manifest.metrics["rows"], first["soft"].manifest.metrics["rows"])
    (file,) = earlier.glob("soft/*.arrow")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    assert answered() == (rows, 0)
    assert "earlier answers are not used, and all rows are asked" in capfd.readouterr().out
    delete(str(earlier / "soft"))
    assert answered() == (rows, 0)
    delete(str(earlier))
    assert answered() == (rows, 0)
    other = dataclasses.replace(context, step="other")
    assert predict._earlier(predict.PredictConfig(), inputs.one("model"), other) is None


def test_answers_are_found_by_all_that_a_model_reads(months: Months) -> None:
    """Rows of one key, which differ in case, are asked apart."""
    from jobs.tasks.soft_labels import EarlierAnswers, packed

    _, (first, _) = months
    task = spec_of(first["rows"])
    logits = np.arange(6, dtype=np.float32).reshape(3, 2)
    items = [Item(("Call Mum",)), Item(("中奖了",)), Item(("call mum",))]
    content, _ = packed(task, ["a", "b", "a"], logits, items)
    assert pa.ipc.open_file(pa.py_buffer(content)).read_all().column_names[:2] == ["key", "item"]
    place = Path(first["soft"].uri).parent / "by-hand"
    (place / "soft").mkdir(parents=True)
    (place / "soft" / "one.arrow").write_bytes(content)
    files = {"soft/one.arrow": next(iter(first["soft"].manifest.files.values()))}
    earlier = EarlierAnswers(Artifact(str(place), first["soft"].manifest.model_copy(update={"files": files})), task)
    found = earlier.find([Item(("CALL MUM",)), *reversed(items), Item(("中奖了",), options="{}")])
    assert {number: output.tolist() for number, output in found.items()} == {1: [4.0, 5.0], 2: [2.0, 3.0], 3: [0.0, 1.0]}
    delete(str(place))


def test_an_alias_whose_model_is_gone_is_told(months: Months) -> None:
    directory, _ = months
    before = read(str(directory / "runs"), "tiny/production").target
    move(str(directory / "runs"), "tiny/production", str(directory / "nowhere"), "f" * 64, "torch")
    with pytest.raises(ArtifactError, match=r"tiny/production points at \S+nowhere, and it is not there: put it back, point"):
        second_places(directory)
    move(str(directory / "runs"), "tiny/production", before.uri, before.fingerprint, before.variant)
    assert second_places(directory)["judged"].artifact is not None
