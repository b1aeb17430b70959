"""Runs: listed, kept, collected as garbage, moved as one archive; on disk and in an object store."""

import io
import tarfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster import gc, runs
from cluster.gc import find_garbage
from cluster.store.archive import RECORD, ArchiveError, export_run, import_run
from cluster.store.artifact import MANIFEST, Artifact, ArtifactError, find_artifact, publish
from cluster.store.registry import move
from cluster.store.run_records import RunRecord, find_run, list_runs, record_run
from cluster.store.storage import delete, exists, join, write_bytes

NOW = datetime(2030, 1, 1, tzinfo=UTC)
WEEK = timedelta(days=7)


def make(storage: str, directory: Path, step: str, identity: str, parents: Mapping[str, Artifact] | None = None) -> Artifact:
    """A finished artifact of one step, a year old."""
    directory.mkdir(exist_ok=True)
    (directory / "sub").mkdir(exist_ok=True)
    (directory / "data.txt").write_text(f"{step} {identity}")
    (directory / "sub" / "more.bin").write_bytes(identity.encode() * 1000)
    record: dict[str, Any] = {
        "kind": "model",
        "step": step,
        "stage": "finetune",
        "stage_version": 1,
        "config": {},
        "parents": {key: [parent.as_parent()] for key, parent in (parents or {}).items()},
        "seconds": 1.0,
        "created": NOW - timedelta(days=365),
    }
    return publish(directory, join(storage, "spam", f"{step}-{identity * 8}"), record)


@pytest.fixture
def story(storage_uri: str, tmp_path: Path) -> dict[str, Artifact]:
    """Two runs of a recipe of two steps, the second with another teacher."""
    data = make(storage_uri, tmp_path / "made", "data", "a")
    old = make(storage_uri, tmp_path / "made", "teacher", "b", {"examples": data})
    new = make(storage_uri, tmp_path / "made", "teacher", "c", {"examples": data})
    record_run(storage_uri, "spam", {"data": data, "teacher": old}, 300.0, {"winner": "old", "winner_score": 0.9})
    record_run(storage_uri, "spam", {"data": data, "teacher": new}, 30.0, {"winner": "new", "winner_score": 0.95})
    return {"data": data, "old": old, "new": new}


def garbage(storage: str, keep: int = 1) -> set[str]:
    return {item.uri for item in find_garbage(storage, keep, WEEK, NOW)[0]}


def test_runs_are_listed_with_size_and_scores(
    story: dict[str, Artifact], storage_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.main(["list", join(storage_uri, "elsewhere")]) == 0
    assert "no runs in" in capsys.readouterr().out
    assert runs.main(["list", storage_uri]) == 0
    head, newest, oldest = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "ended", "took", "size", "kept", "scores"]
    assert "winner new  winner_score 0.95" in newest
    assert "30 s" in newest
    assert "5 min" in oldest
    delete(story["old"].uri)
    runs.main(["list", storage_uri])
    assert "(1 of its artifacts are gone)" in capsys.readouterr().out.splitlines()[2]


def test_what_only_an_old_run_made_goes_and_its_parents_stay(story: dict[str, Artifact], storage_uri: str) -> None:
    assert garbage(storage_uri) == {story["old"].uri}
    assert garbage(storage_uri, keep=2) == set()


def test_an_alias_a_mark_and_youth_keep(story: dict[str, Artifact], storage_uri: str) -> None:
    oldest = list_runs(storage_uri)[-1]
    assert runs.main(["keep", storage_uri, oldest.name]) == 0
    assert garbage(storage_uri) == set()
    assert runs.main(["release", storage_uri, oldest.name]) == 0
    assert garbage(storage_uri) == {story["old"].uri}
    assert {item.uri for item in find_garbage(storage_uri, 1, timedelta(days=500), NOW)[0]} == set()
    move(storage_uri, "spam/production", story["old"].uri, story["old"].fingerprint, "torch")
    assert garbage(storage_uri) == set()


def test_the_parents_of_what_an_alias_needs_stay_although_no_run_is_kept(story: dict[str, Artifact], storage_uri: str) -> None:
    move(storage_uri, "spam/production", story["new"].uri, story["new"].fingerprint, "torch")
    assert garbage(storage_uri, keep=0) == {story["old"].uri}


def test_a_recipe_without_recorded_runs_keeps_its_newest(storage_uri: str, tmp_path: Path) -> None:
    only = make(storage_uri, tmp_path / "made", "teacher", "b")
    assert garbage(storage_uri) == set()
    assert find_garbage(storage_uri, 1, WEEK, NOW)[1][only.uri].startswith("newest teacher of spam")


def test_what_a_run_left_unfinished_goes_when_it_is_old(story: dict[str, Artifact], storage_uri: str) -> None:
    half = join(storage_uri, "spam", f"student-{'d' * 8}")
    scratch = join(storage_uri, ".scratch", "spam", f"student-{'d' * 8}")
    for uri in (half, scratch):
        write_bytes(join(uri, "checkpoints", "1.bin"), b"half")
    assert {half, scratch} <= garbage(storage_uri)
    assert garbage_now(storage_uri).isdisjoint({half, scratch})


def garbage_now(storage: str) -> set[str]:
    return {item.uri for item in find_garbage(storage, 1, WEEK, datetime.now(UTC))[0]}


def test_it_lists_and_deletes_only_when_told(
    story: dict[str, Artifact], storage_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [storage_uri, "--keep", "1", "--days", "-2000"]
    assert gc.main(command) == 0
    listed = capsys.readouterr().out
    assert story["old"].uri in listed
    assert "add --delete" in listed
    assert exists(story["old"].uri)
    assert gc.main([*command, "--delete"]) == 0
    assert not exists(story["old"].uri)
    for name in ("data", "new"):
        story[name].verify()
    capsys.readouterr()
    assert gc.main(command) == 0
    assert "nothing to delete" in capsys.readouterr().out


def exported(story: dict[str, Artifact], storage: str, file: Path) -> RunRecord:
    run = list_runs(storage)[0]
    assert export_run(storage, run, str(file))[0] == 2
    return run


def test_a_run_moves_to_another_storage_and_back_to_life(story: dict[str, Artifact], storage_uri: str, tmp_path: Path) -> None:
    file, other = tmp_path / "run.tar", str(tmp_path / "other")
    run = exported(story, storage_uri, file)
    assert import_run(str(file), other) == (run, 2)
    assert find_run(other, run.name) == run
    moved = find_artifact(join(other, "spam", f"teacher-{'c' * 8}"))
    assert moved is not None
    moved.verify()
    assert moved.fingerprint == story["new"].fingerprint
    assert import_run(str(file), other) == (run, 0)  # a second time adds nothing
    assert garbage(other, keep=1) == set()
    again = tmp_path / "again.tar"
    delete(story["new"].uri)
    delete(story["data"].uri)
    assert export_run(other, find_run(other, run.name), str(again))[0] == 2  # parents are found beside it
    assert import_run(str(again), storage_uri) == (run, 2)


def rewritten(source: Path, target: Path, change: Any) -> str:
    """The archive with each member's (info, content) changed; None leaves the member out."""
    with tarfile.open(source) as before, tarfile.open(target, "w") as after:
        for member in before:
            stream = before.extractfile(member)
            assert stream is not None
            found = change(member, stream.read())
            if found is not None:
                info, data = found
                info.size = len(data)
                after.addfile(info, io.BytesIO(data))
    return str(target)


def renamed(name: str) -> Any:
    def change(member: tarfile.TarInfo, data: bytes) -> Any:
        if member.name.endswith("data.txt"):
            member.name = name
        return member, data

    return change


@pytest.mark.parametrize("name", ["../../escaped.txt", "/tmp/escaped.txt", "spam/../../escaped.txt", "spam/other-1/new.txt"])
def test_no_path_outside_the_storage_is_written(
    story: dict[str, Artifact], storage_uri: str, tmp_path: Path, name: str
) -> None:
    exported(story, storage_uri, tmp_path / "run.tar")
    bad = rewritten(tmp_path / "run.tar", tmp_path / "bad.tar", renamed(name))
    with pytest.raises(ArchiveError, match=r"was not written|nothing of it was written"):
        import_run(bad, str(tmp_path / "deep" / "other"))
    assert not list(tmp_path.rglob("escaped.txt"))
    assert not Path("/tmp/escaped.txt").exists()
    assert list_runs(str(tmp_path / "deep" / "other")) == []


def test_a_link_in_an_archive_is_refused(story: dict[str, Artifact], storage_uri: str, tmp_path: Path) -> None:
    exported(story, storage_uri, tmp_path / "run.tar")

    def link(member: tarfile.TarInfo, data: bytes) -> Any:
        if member.name.endswith("data.txt"):
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            return member, b""
        return member, data

    with pytest.raises(ArchiveError, match="no plain file"):
        import_run(rewritten(tmp_path / "run.tar", tmp_path / "bad.tar", link), str(tmp_path / "other"))


def test_damaged_and_incomplete_archives_are_refused(story: dict[str, Artifact], storage_uri: str, tmp_path: Path) -> None:
    exported(story, storage_uri, tmp_path / "run.tar")
    changes = {
        "is damaged": lambda member, data: (member, data.replace(b"teacher c", b"teacher d")),
        "its manifest says": lambda member, data: (member, data + b"!" if member.name.endswith("more.bin") else data),
        "are missing": lambda member, data: None if member.name.endswith("more.bin") else (member, data),
        "is not a manifest": lambda member, data: (member, b"{}" if member.name.endswith(MANIFEST) else data),
        "its first member is not": lambda member, data: None if member.name == RECORD else (member, data),
    }
    for number, (told, change) in enumerate(changes.items()):
        other = str(tmp_path / f"other{number}")
        with pytest.raises(ArchiveError, match=told):
            import_run(rewritten(tmp_path / "run.tar", tmp_path / "bad.tar", change), other)
        assert find_artifact(join(other, "spam", f"teacher-{'c' * 8}")) is None
    (tmp_path / "cut.tar").write_bytes((tmp_path / "run.tar").read_bytes()[:3000])
    with pytest.raises(ArchiveError):
        import_run(str(tmp_path / "cut.tar"), str(tmp_path / "cut"))


def test_what_is_damaged_in_the_storage_is_not_exported(story: dict[str, Artifact], storage_uri: str, tmp_path: Path) -> None:
    write_bytes(story["new"].file("data.txt"), b"teacher X")
    with pytest.raises(ArchiveError, match="not what its manifest says"):
        exported(story, storage_uri, tmp_path / "run.tar")


def test_unknown_runs_and_missing_parents_are_told(
    story: dict[str, Artifact], storage_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.main(["keep", storage_uri, "spam-1"]) == 2
    assert "has no run spam-1; the newest are: spam-" in capsys.readouterr().err
    delete(story["data"].uri)
    with pytest.raises(ArtifactError, match="data-aaaaaaaa"):
        export_run(storage_uri, list_runs(storage_uri)[0], str(tmp_path / "run.tar"))
