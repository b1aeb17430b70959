"""gc deletes what nothing needs and nothing else, whatever lies in a storage and wherever an earlier version has put it."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster import gc, runs
from cluster.gc import find_garbage, remove
from cluster.store.artifact import MANIFEST, Artifact, Parent, find_artifact, other_place
from cluster.store.registry import Alias, AliasTarget, aliases, move, read, record_verdict, verdicts
from cluster.store.run_records import RunRecord, list_runs, record_run, write_run
from cluster.store.storage import delete, exists, join, read_bytes, write_bytes
from tests.cluster.outputs import LONG_AGO, NOW, put

ROOT = Path(__file__).resolve().parents[2]
WEEK = timedelta(days=7)
NAMES = ("spam/production", "spam/winner", "ham/production", "verdicts/winner")


@dataclass(frozen=True)
class Output:
    """A step's outputs: which contents, made from which (output, number) before it."""

    recipe: str
    step: str
    contents: tuple[str, ...]
    parents: tuple[tuple[int, int], ...]
    young: bool


@dataclass(frozen=True)
class Pointer:
    """An alias with what it pointed at, each (output, number), and the model behind its newest."""

    history: tuple[tuple[int, int], ...]
    second: tuple[int, int] | None
    earlier: bool
    """Whether it lies where aliases lay before."""


@dataclass(frozen=True)
class Story:
    """What came to pass in a storage."""

    outputs: tuple[Output, ...]
    runs: tuple[tuple[str, tuple[int, ...], bool], ...]
    """Recipe, outputs, whether it is marked; the newest last."""
    pointers: dict[str, Pointer]
    left: tuple[tuple[str, bool], ...]
    """Directories that were left unfinished, and whether that was just now."""
    keep: int
    moved: bool
    """Whether the storage was renamed since: then every URI in it names its old place."""


@st.composite
def stories(draw: st.DrawFn) -> Story:
    outputs: list[Output] = []
    for _ in range(draw(st.integers(1, 7))):
        before = [(index, number) for index, output in enumerate(outputs) for number in range(1, len(output.contents) + 1)]
        outputs.append(
            Output(
                draw(st.sampled_from(["spam", "ham"])),
                draw(st.sampled_from(["base", "small"])),
                tuple(draw(st.lists(st.sampled_from(["x", "y", "z", "w"]), min_size=1, max_size=3))),
                tuple(draw(st.lists(st.sampled_from(before), max_size=2))) if before else (),
                draw(st.integers(0, 5)) == 0,
            )
        )
    known = [(index, number) for index, output in enumerate(outputs) for number in range(1, len(output.contents) + 1)]
    made = []
    for _ in range(draw(st.integers(0, 5))):
        recipe = draw(st.sampled_from(["spam", "ham"]))
        own = [index for index, output in enumerate(outputs) if output.recipe == recipe]
        if own:
            made.append((recipe, tuple(draw(st.lists(st.sampled_from(own), unique=True, max_size=3))), draw(st.booleans())))
    pointer = st.builds(
        Pointer,
        st.lists(st.sampled_from(known), min_size=1, max_size=4).map(tuple),
        st.none() | st.sampled_from(known),
        st.booleans(),
    )
    places = ["spam/half-0a0a0a0a", ".scratch/spam/half-0a0a0a0a", ".scratch/ham/base-0b0b0b0b"]
    left = draw(st.lists(st.tuples(st.sampled_from(places), st.booleans()), unique_by=lambda one: one[0]))
    pointers = draw(st.dictionaries(st.sampled_from(NAMES), pointer))
    return Story(tuple(outputs), tuple(made), pointers, tuple(left), draw(st.integers(0, 2)), draw(st.booleans()))


def tell(story: Story, storage: str) -> list[list[Artifact]]:
    """Make it all, as the jobs do; returns each step's outputs."""
    made: list[list[Artifact]] = []
    for index, output in enumerate(story.outputs):
        parents = [made[parent][number - 1] for parent, number in output.parents]
        created = (NOW - timedelta(days=1) if output.young else LONG_AGO) + timedelta(minutes=index)
        made.append(put(storage, output.step, f"{index}", output.contents, parents, output.recipe, created))
    for index, (recipe, chosen, kept) in enumerate(story.runs):
        named = {str(one): made[one][0].as_parent() for one in chosen}
        ended = LONG_AGO + timedelta(hours=index)
        write_run(
            storage, RunRecord(recipe=recipe, name=f"{recipe}-{index}", ended=ended, seconds=1, artifacts=named, kept=kept)
        )
    for name, pointer in story.pointers.items():
        point(storage, name, pointer, made)
    for place, young in story.left:
        write_bytes(join(storage, place, "checkpoints", "1.bin"), b"half")
        touched = (NOW - timedelta(days=1 if young else 60)).timestamp()
        for path in [Path(storage, place), *Path(storage, place).rglob("*")]:
            os.utime(path, (touched, touched))
    return made


def point(storage: str, name: str, pointer: Pointer, made: list[list[Artifact]]) -> None:
    """An alias and a verdict on it, where this version writes them or where earlier ones did."""
    targets = [made[index][number - 1] for index, number in pointer.history]
    config: dict[str, Any] | None = None
    if pointer.second is not None:
        second = made[pointer.second[0]][pointer.second[1] - 1]
        config = {"name": "x", "args": {"model": targets[-1].uri, "others": {"teacher": {"model": second.uri}}}}
    history = [
        AliasTarget(uri=one.uri, fingerprint=one.fingerprint, variant=str(turn), moved=NOW + timedelta(seconds=turn))
        for turn, one in enumerate(targets)
    ]
    history[-1] = history[-1].model_copy(update={"config": config})
    alias = Alias(name=name, history=tuple(history))
    if pointer.earlier:
        write_bytes(join(storage, "registry", f"{name}.json"), alias.model_dump_json().encode())
        verdict = join(storage, "registry", name, "verdicts", "20250101T101010123456-0123456789ab.json")
        write_bytes(verdict, b'{"winner": null}')
    else:
        for target in history:
            move(storage, name, target.uri, target.fingerprint, target.variant, target.config)
        record_verdict(storage, name, {"winner": name})


def needed(story: Story) -> set[int]:
    """Which outputs something needs, by the rules as they are documented."""
    found = {index for index, output in enumerate(story.outputs) if output.young}
    for pointer in story.pointers.values():
        found |= {index for index, _ in pointer.history[-2:]} | ({pointer.second[0]} if pointer.second else set())
    for recipe in ("spam", "ham"):
        own = [run for run in story.runs if run[0] == recipe]
        newest = own[len(own) - min(story.keep, len(own)) :]
        found |= {index for run in [*newest, *(run for run in own if run[2])] for index in run[1]}
        if not own or any(young and place.split("/")[-2] == recipe for place, young in story.left):
            by_age = sorted((output.young, index) for index, output in enumerate(story.outputs) if output.recipe == recipe)
            found |= set({story.outputs[index].step: index for _, index in by_age}.values())
    while more := {parent for index in found for parent, _ in story.outputs[index].parents} - found:
        found |= more
    return found


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(stories())
def test_what_is_needed_loads_and_nothing_else_is_left(story: Story) -> None:
    with tempfile.TemporaryDirectory() as directory:
        storage = join(directory, "first")
        made = tell(story, storage)
        if story.moved:
            os.rename(storage, join(directory, "second"))
            storage = join(directory, "second")
        before = [read(storage, name) for name in story.pointers], list_runs(storage) if story.runs else []
        for garbage in find_garbage(storage, story.keep, WEEK, NOW)[0]:
            remove(garbage)
        for index, outputs in enumerate(made):
            for output in outputs:
                here = storage + output.uri.removeprefix(join(directory, "first"))
                found = find_artifact(here)
                assert (found is not None) == (index in needed(story)), here
                if found is not None:
                    found.verify()
                else:
                    assert not exists(here), "no half of it is left"
        assert {place: exists(join(storage, place)) for place, _ in story.left} == dict(story.left)
        assert ([read(storage, name) for name in story.pointers], list_runs(storage)) == before
        assert {alias.name for alias in aliases(storage)} == set(story.pointers)
        assert all(len(verdicts(storage, name)) == 1 for name in story.pointers)
        assert find_garbage(storage, story.keep, WEEK, NOW)[0] == []


def test_the_command_after_a_selection(tmp_path: Path) -> None:
    storage = str(tmp_path)
    (model,) = put(storage, "small", "a", ["weights"], created=datetime.now(UTC))
    record_verdict(storage, "spam/winner", {"winner": "small", "verdicts": [{"candidate": "small", "qualifies": True}]})
    move(storage, "spam/winner", model.uri, model.fingerprint, "int8")
    ran = subprocess.run([sys.executable, "-m", "cluster.gc", storage], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "nothing to delete; 1 kept\n", "")


def served_by_a_further_output(storage: str) -> dict[str, list[Artifact]]:
    """A front of two steps with further outputs; production serves a further one, three newer runs came after it."""
    students = put(storage, "students", "a", ["s1", "s2"])
    small = put(storage, "small", "b", ["c1", "c2", "c3"], students)
    winner = small[2]
    move(storage, "spam/production", winner.uri, winner.fingerprint, "int8")
    other = put(storage, "other", "c", ["o"])
    record_run(storage, "spam", {"students": students[0], "small": small[0]}, 1.0, {})
    for _ in range(3):
        record_run(storage, "spam", {"other": other[0]}, 1.0, {})
    return {"students": students, "small": small, "other": other}


def test_the_model_that_production_serves_stays_though_it_is_a_further_output(storage_uri: str) -> None:
    made = served_by_a_further_output(storage_uri)
    garbage, kept = find_garbage(storage_uri, 3, WEEK, NOW)
    assert garbage == []
    assert kept[made["small"][0].uri] == "alias spam/production"
    assert kept[made["students"][0].uri].startswith("parent of small")
    delete(join(storage_uri, ".aliases"))
    garbage = find_garbage(storage_uri, 3, WEEK, NOW)[0]
    assert {item.uri: item.size for item in garbage} == {made["small"][0].uri: 6, made["students"][0].uri: 4}


def test_a_further_output_that_is_needed_stays_though_its_step_s_first_is_gone(storage_uri: str) -> None:
    made = served_by_a_further_output(storage_uri)
    delete(join(made["small"][0].uri, MANIFEST))
    assert find_garbage(storage_uri, 3, WEEK, NOW)[0] == []


def test_the_teacher_behind_a_cascade_stays(storage_uri: str) -> None:
    ((small,), (teacher,), (other,)) = [put(storage_uri, step, "a", [step]) for step in ("small", "teacher", "other")]
    record_run(storage_uri, "spam", {"other": other}, 1.0, {})
    second = {"teacher": {"model": "s3://elsewhere/spam/gone-12345678", "fingerprint": teacher.fingerprint}}
    move(storage_uri, "spam/production", small.uri, small.fingerprint, "int8", {"args": {"others": second}})
    assert find_garbage(storage_uri, 1, WEEK, NOW)[0] == []


def test_what_came_just_now_stays_though_it_was_made_long_ago(tmp_path: Path) -> None:
    """As an import's artifacts are before its run's record is written."""
    storage = str(tmp_path)
    (first,) = put(storage, "small", "a", ["a"], created=datetime.now(UTC) - timedelta(days=100))
    record_run(storage, "spam", {}, 1.0, {})
    (garbage, kept), later = find_garbage(storage, 1, WEEK, datetime.now(UTC)), datetime.now(UTC) + timedelta(days=8)
    assert (garbage, kept) == ([], {first.uri: "young"})
    assert [item.uri for item in find_garbage(storage, 1, WEEK, later)[0]] == [first.uri]


def test_what_a_long_run_made_first_stays_while_it_makes_the_rest(tmp_path: Path) -> None:
    """Its record comes at its end, and its first step may have ended more than a week ago."""
    storage = str(tmp_path)
    (before,), (base,) = (
        put(storage, "base", name, [name], created=LONG_AGO + timedelta(days=n)) for n, name in enumerate("ab")
    )
    record_run(storage, "spam", {}, 1.0, {})
    assert [item.uri for item in find_garbage(storage, 1, WEEK, NOW)[0]] == [before.uri, base.uri]
    checkpoint = tmp_path / ".scratch" / "spam" / "teacher-cccccccc" / "1.bin"
    write_bytes(str(checkpoint), b"half")
    os.utime(checkpoint, ((NOW - timedelta(hours=1)).timestamp(),) * 2)
    garbage, kept = find_garbage(storage, 1, WEEK, NOW)
    assert [item.uri for item in garbage] == [before.uri]
    assert kept == {base.uri: "newest base of spam, in which a run goes on"}


def test_a_directory_that_a_run_has_just_made_stays_and_an_old_empty_one_goes(tmp_path: Path) -> None:
    scratch, old = tmp_path / ".scratch" / "spam" / "base-aaaaaaaa", tmp_path / ".scratch" / "spam" / "base-bbbbbbbb"
    for place in (scratch, old):
        place.mkdir(parents=True)
    os.utime(old, (0, 0))
    assert [item.uri for item in find_garbage(str(tmp_path), 1, WEEK, datetime.now(UTC))[0]] == [str(old)]


def test_rows_that_were_cleaned_before_stay_with_what_was_made_of_them(tmp_path: Path) -> None:
    storage, details = str(tmp_path), {"cleaned": "spam/rows-aaaaaaaaaaaaaaaa"}
    put(storage, "rows", "a", ["a"], created=LONG_AGO, details=details)
    blocks = [tmp_path / ".rows" / "spam" / f"rows-{letter * 16}" / "00" / "block.parquet" for letter in "ab"]
    for block in blocks:
        write_bytes(str(block), b"rows")
        os.utime(block, (0, 0))
        os.utime(block.parents[1], (0, 0))
    garbage, _ = find_garbage(storage, 1, WEEK, NOW)
    assert [(item.uri, item.reason) for item in garbage] == [(str(blocks[1].parents[1]), "cleaned rows of no kept step")]
    record_run(storage, "spam", {}, 1.0, {})
    assert {item.uri for item in find_garbage(storage, 1, WEEK, NOW)[0]} > {str(block.parents[1]) for block in blocks}


TARGET = b'{"uri": "/a", "fingerprint": "", "variant": "", "moved": "2030-01-01T00:00:00Z"}'
ALIAS = b'{"name": "spam/production", "history": [%s]}' % TARGET
RUN = b'{"recipe": "spam", "name": "a", "ended": "2030-01-01T00:00:00", "seconds": 1, "artifacts": {}}'


@pytest.mark.parametrize(
    ("place", "content"),
    [
        (".aliases/spam/production.json", b"{}"),
        (".aliases/spam/production.json", ALIAS[:-30]),
        (".aliases/spam/production.json", ALIAS.replace(b"00Z", b"00")),
        (".aliases/spam/production.json", ALIAS.replace(TARGET, b"")),
        ("registry/spam/production.json", b"\xff\xfe"),
        ("registry/spam/production/verdicts.json", b"[]"),
        (".runs/spam/spam-1.json", b"[1]"),
        (
            ".runs/spam/spam-1.json",
            b'{"recipe": "spam", "name": "a", "ended": "2030-01-01T00:00:00", "seconds": 1, "artifacts": {}}',
        ),
        (f"spam/small-aaaaaaaa/{MANIFEST}", b"{}"),
        (f"spam/small-aaaaaaaa/others/2/{MANIFEST}", b"\x00"),
    ],
)
def test_a_control_file_that_cannot_be_read_is_named_and_nothing_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, content: bytes
) -> None:
    storage = str(tmp_path)
    put(storage, "small", "a", ["one", "two"])
    put(storage, "small", "b", ["three"])
    write_bytes(join(storage, place), content)
    assert gc.main([storage, "--keep", "0", "--days", "-2000", "--delete"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {join(storage, place)} is not") and told.count("\n") == 1
    assert exists(join(storage, "spam", "small-bbbbbbbb", "model.bin"))
    assert runs.main(["list", storage]) == (0 if place.startswith((".aliases", "registry", "spam")) else 2)
    assert "Traceback" not in capsys.readouterr().err


def test_a_manifest_whose_time_has_no_zone_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (made,) = put(str(tmp_path), "small", "a", ["one"])
    place = join(made.uri, MANIFEST)
    write_bytes(place, read_bytes(place).replace(b'"2029-01-01T00:00:00Z"', b'"2029-01-01T00:00:00"'))
    assert gc.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {place} is not a manifest: Input should have timezone info")


def test_runs_are_listed_whatever_uris_they_name(storage_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = put(storage_uri, "small", "a", ["a" * 2**20, "b" * 2**21])
    run = record_run(storage_uri, "spam", {"small": made[0]}, 1.0, {})
    assert runs.main(["list", storage_uri]) == 0
    assert "3 MiB" in capsys.readouterr().out, "the further output belongs to its step"
    further = Parent(uri=other_place("s3://elsewhere/spam/small-aaaaaaaa", 2), fingerprint="")
    write_run(storage_uri, run.model_copy(update={"artifacts": {"a": further, "b": Parent(uri="x", fingerprint="")}}))
    assert runs.main(["list", storage_uri]) == 0
    told = capsys.readouterr().out
    assert "3 MiB" in told and "(1 of its artifacts are gone)" in told
