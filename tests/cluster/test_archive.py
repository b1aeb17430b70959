"""What an archive may hold: the outputs of its run's recipe. Whatever else someone puts into one writes nothing."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster import runs
from cluster.store.archive import RECORD, ArchiveError, export_run, import_run
from cluster.store.artifact import MANIFEST, Artifact, find_artifact, other_place, with_others
from cluster.store.registry import move, read, record_verdict
from cluster.store.run_records import RunError, RunRecord, find_run, list_runs, record_run, write_run
from cluster.store.storage import exists, join, list_files, write_bytes
from tests.cluster.outputs import put


@pytest.fixture
def front(storage_uri: str) -> dict[str, list[Artifact]]:
    """A run of two steps with further outputs, and one that was made from a further one of each."""
    students = put(storage_uri, "students", "a", ["s1", "s2"])
    small = put(storage_uri, "small", "b", ["c1", "c2", "c3"], students)
    judged = put(storage_uri, "judged", "c", ["j"], [students[1], small[2]])
    record_run(storage_uri, "spam", {"judged": judged[0]}, 1.0, {})
    return {"students": students, "small": small, "judged": judged}


def test_further_outputs_go_along_and_do_not_collide(
    front: dict[str, list[Artifact]], storage_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = list_runs(storage_uri)
    file, other = str(tmp_path / "run.tar"), str(tmp_path / "other")
    assert runs.main(["export", storage_uri, run.name, file]) == 0
    assert "the outputs of 3 step(s)" in capsys.readouterr().out
    assert import_run(file, other) == (run, 3)
    for step, outputs in front.items():
        moved = find_artifact(join(other, "spam", outputs[0].uri.rpartition("/")[2]))
        assert moved is not None
        assert [output.fingerprint for output in with_others(moved)] == [output.fingerprint for output in outputs], step
        for output in with_others(moved):
            output.verify()
    assert import_run(file, other) == (run, 0)
    again = str(tmp_path / "again.tar")
    assert export_run(other, run, again)[0] == 3, "parents are found beside it, whose URIs are of the first storage"
    assert members(again) == members(file)


def members(file: str) -> list[str]:
    with tarfile.open(file) as archive:
        return archive.getnames()


@dataclass
class Forgery:
    """An archive as someone who means harm can write it: every hash and size in it is right."""

    recipe: str = "spam"
    name: str | None = None
    ended: datetime = field(default_factory=lambda: datetime.now(UTC))
    members: list[tuple[str, bytes]] = field(default_factory=list)
    made: dict[str, dict[str, str]] = field(default_factory=dict)

    def artifact(self, place: str, files: dict[str, bytes], step: str | None = None, **more: Any) -> "Forgery":
        """Add one with its files; its step is its place's unless another is given."""
        own = place.split("/")[1].rpartition("-")[0] + (f"-{place.rpartition('/')[2]}" if "/others/" in place else "")
        described = {path: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for path, data in files.items()}
        manifest = {
            "kind": "model",
            "step": step or own,
            "stage": "finetune",
            "stage_version": 1,
            "config": {},
            "files": described,
            "seconds": 1,
            "created": "2025-01-01T00:00:00Z",
            **more,
        }
        self.members.append((f"{place}/{MANIFEST}", json.dumps(manifest).encode()))
        self.members += [(f"{place}/{path}", data) for path, data in files.items()]
        return self

    def member(self, name: str, data: bytes) -> "Forgery":
        self.members.append((name, data))
        return self

    def write(self, file: Path) -> str:
        record = {
            "recipe": self.recipe,
            "name": self.name or f"{self.recipe}-20250101-000000-abcd",
            "ended": self.ended.isoformat(),
            "seconds": 1,
            "artifacts": self.made,
        }
        with tarfile.open(file, "w") as archive:
            for name, data in [(RECORD, json.dumps(record).encode()), *self.members]:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return str(file)


EVIL = json.dumps(
    {"name": "spam/production", "history": [{"uri": "s3://evil/model", "fingerprint": "", "variant": "", "moved": 4e9}]}
).encode()
SMALL = "spam/small-1a2b3c4d"


def model(place: str = SMALL, **more: Any) -> Forgery:
    """An archive with nothing wrong in it so far."""
    return Forgery().artifact(place, {"model.bin": b"weights"}, **more)


def made_from(uri: str) -> dict[str, Any]:
    return {"parents": {"model": [{"uri": uri, "fingerprint": "0"}]}}


FORGERIES: dict[str, Callable[[], Forgery]] = {
    "the registry as a recipe": lambda: Forgery("registry").artifact("registry/spam-1a2b3c4d", {"production.json": EVIL}),
    "an alias of before": lambda: Forgery().artifact("registry/spam", {"production.json": EVIL}, "spam"),
    "an alias of before, with a hash": lambda: Forgery().artifact("registry/spam-1a2b3c4d", {"production.json": EVIL}),
    "an alias": lambda: Forgery().artifact(".aliases/spam", {"production.json": EVIL}, "spam"),
    "an alias as a recipe": lambda: Forgery(".aliases").artifact(".aliases/spam-1a2b3c4d", {"production.json": EVIL}),
    "an alias below an artifact": lambda: model().member(".aliases/spam/production.json", EVIL),
    "a verdict": lambda: Forgery().artifact(".verdicts/spam", {"production/1.json": b"{}"}, "spam"),
    "a run": lambda: Forgery(".runs").artifact(".runs/spam", {"spam-1.json": b"{}"}, "spam"),
    "checkpoints": lambda: Forgery(".scratch").artifact(".scratch/spam-1a2b3c4d", {"1.bin": b""}),
    "tracking": lambda: Forgery(".tracking").artifact(".tracking/spam-1a2b3c4d", {"1.bin": b""}),
    "others as a recipe": lambda: Forgery("others").artifact("others/small-1a2b3c4d", {"1.bin": b""}),
    "others as a place": lambda: Forgery("others").artifact("others/2", {"1.bin": b""}, "2"),
    "another recipe's place": lambda: model("ham/small-1a2b3c4d"),
    "a place without a hash": lambda: model("spam/small"),
    "a place with capitals": lambda: model("spam/SMALL-1a2b3c4d"),
    "a place that ends with a line": lambda: model("spam/small-1a2b3c4d\n", step="small"),
    "another step's manifest": lambda: model(step="teacher"),
    "a kind that is none": lambda: model(kind="alias"),
    "a manifest as a file": lambda: Forgery().artifact(SMALL, {"manifest.json": b"{}"}),
    "a manifest as a file, in capitals": lambda: Forgery().artifact(SMALL, {"MANIFEST.json": b"{}"}),
    "a manifest as a directory": lambda: Forgery().artifact(SMALL, {"manifest.json/a": b"{}"}),
    "a further output as files": lambda: Forgery().artifact(SMALL, {"others/2/manifest.json": b"{}", "others/2/a": b""}),
    "a further output as files, in capitals": lambda: Forgery().artifact(SMALL, {"Others/2/manifest.json": b"{}"}),
    "a further output that comes late": lambda: model().artifact(f"{SMALL}/others/2", {"a": b""}),
    "a further output that is none of two": lambda: model(f"{SMALL}/others/3").artifact(
        SMALL, {"a": b""}, details={"others": 1}
    ),
    "a further output of another kind": lambda: model(f"{SMALL}/others/2", kind="report").artifact(
        SMALL, {"a": b""}, details={"others": 1}
    ),
    "a further output of another step": lambda: model(f"{SMALL}/others/2", step="small").artifact(
        SMALL, {"a": b""}, details={"others": 1}
    ),
    "a further output of a further output": lambda: model(f"{SMALL}/others/2/others/2"),
    "a further output of nothing": lambda: model(f"{SMALL}/others/2"),
    "further outputs that are no number": lambda: model(details={"others": "many"}),
    "further outputs that do not come": lambda: model(details={"others": 10**9}),
    "parents elsewhere": lambda: model(**made_from("s3://evil/spam/teacher-1a2b3c4d")),
    "itself as its parent": lambda: model(**made_from(f"/x/{SMALL}")),
    "a parent that is no URI": lambda: model(**made_from("x")),
    "a run that made what is elsewhere": lambda: Forgery(made={"small": {"uri": f"s3://evil/{SMALL}", "fingerprint": "0"}}),
    "a run that made what is no URI": lambda: Forgery(made={"small": {"uri": "../..", "fingerprint": "0"}}),
    "a run of another name": lambda: Forgery(name="ham-20250101-000000-abcd"),
    "a run with a path": lambda: Forgery(name="../../.aliases/spam/production"),
    "a run with a line": lambda: Forgery(name="spam-20250101-000000-abcd\n"),
    "a run to come": lambda: Forgery(ended=datetime.now(UTC) + timedelta(days=400)),
    "a second record": lambda: model().member(RECORD, b"{}"),
    "a file with a zero": lambda: Forgery().artifact(SMALL, {"a\0b": b""}),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_a_forged_archive_is_refused_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    storage = str(tmp_path / "storage")
    move(storage, "spam/production", "/models/good", "f", "int8")
    record_verdict(storage, "spam/production", {"winner": "good"})
    write_bytes(join(storage, "registry", "spam", "winner.json"), EVIL.replace(b"s3://evil", b"/models"))
    before = contents(storage)
    archive = FORGERIES[what]().write(tmp_path / "evil.tar")
    assert runs.main(["import", storage, archive]) == 2
    assert capsys.readouterr().err.startswith(f"error: {archive}: ")
    after = contents(storage)
    assert {path: after.get(path) for path in before} == before
    assert all(path.startswith("spam/small-1a2b3c4d/") for path in after.keys() - before), "no control file, no other place"
    assert list_runs(storage) == [] and read(storage, "spam/production").target.uri == "/models/good"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(storage)][1:]


def contents(storage: str) -> dict[str, bytes]:
    return {stat.path: Path(storage, stat.path).read_bytes() for stat in list_files(storage)}


def test_the_forger_s_archive_is_taken_where_nothing_is_wrong_with_it(tmp_path: Path) -> None:
    """Or the test above would show nothing."""
    further = model(f"{SMALL}/others/2").artifact(SMALL, {"others.bin": b"", "sub/manifest.json": b""}, details={"others": 1})
    further.artifact("spam/judged-1a2b3c4d", {"run.json": b"{}"}, **made_from(f"s3://elsewhere/{SMALL}/others/2"))
    further.made = {"judged": {"uri": "s3://elsewhere/spam/judged-1a2b3c4d", "fingerprint": "0"}}
    run, made = import_run(further.write(tmp_path / "good.tar"), str(tmp_path / "storage"))
    assert made == 2 and find_run(str(tmp_path / "storage"), run.name) == run


def test_no_further_output_is_added_to_a_step_that_is_there(tmp_path: Path) -> None:
    storage = str(tmp_path / "storage")
    import_run(model().write(tmp_path / "first.tar"), storage)
    more = model(f"{SMALL}/others/2").artifact(SMALL, {"model.bin": b"weights"}, details={"others": 1})
    more.name = "spam-20250101-000000-abce"
    with pytest.raises(ArchiveError, match="there already without this further output"):
        import_run(more.write(tmp_path / "second.tar"), storage)
    assert not exists(other_place(join(storage, SMALL), 2))


def test_a_run_is_not_written_over_another_one_and_its_mark_stays(tmp_path: Path) -> None:
    storage, archive = str(tmp_path / "storage"), model().write(tmp_path / "run.tar")
    run, _ = import_run(archive, storage)
    write_run(storage, run.model_copy(update={"kept": True}))
    assert import_run(archive, storage) == (run, 0)
    assert find_run(storage, run.name).kept, "what was marked here stays marked"
    other = RunRecord(recipe="spam", name=run.name, ended=run.ended, seconds=2, artifacts={})
    write_run(storage, other)
    with pytest.raises(RunError, match="tells of another run"):
        import_run(archive, storage)
    assert find_run(storage, run.name) == other


def test_an_export_that_fails_leaves_no_file(front: dict[str, list[Artifact]], storage_uri: str, tmp_path: Path) -> None:
    write_bytes(front["small"][0].file("model.bin"), b"c9")
    (run,) = list_runs(storage_uri)
    with pytest.raises(ArchiveError, match="not what its manifest says"):
        export_run(storage_uri, run, str(tmp_path / "run.tar"))
    assert list(tmp_path.glob("*.tar*")) == []


def test_where_no_export_can_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = str(tmp_path / "storage")
    run, _ = import_run(model().write(tmp_path / "run.tar"), storage)
    assert runs.main(["export", storage, run.name, str(tmp_path / "run.tar" / "below.tar")]) == 2
    assert "below.tar: could not write it" in capsys.readouterr().err
