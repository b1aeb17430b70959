"""Checkpoints: written beside the training, verified, a damaged one passed over. `pytest tests/jobs/test_checkpoint.py`"""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.store import storage
from jobs.training import checkpoint
from jobs.training.checkpoint import SEAL, STATE, Checkpoints, Damaged


def state(step: int) -> dict[str, Any]:
    return {"model": {"weight": torch.full((3,), float(step))}, "run": {"step": step, "curve": [{"loss": 1.5}]}}


def written(uri: str, *steps: int) -> tuple[Checkpoints, list[str]]:
    told: list[str] = []
    checkpoints = Checkpoints(uri, told.append)
    for step in steps:
        checkpoints.save(step, state(step))
    checkpoints.close()
    return checkpoints, told


def step_of(checkpoints: Checkpoints) -> int | None:
    found = checkpoints.latest()
    if found is None:
        return None
    assert torch.equal(found[1]["model"]["weight"], torch.full((3,), float(found[1]["run"]["step"])))
    return int(found[1]["run"]["step"])


def test_the_newest_is_found_and_two_are_kept(storage_uri: str) -> None:
    """On this host and in an object store."""
    checkpoints, told = written(f"{storage_uri}/checkpoints", 9, 10, 100)
    assert step_of(checkpoints) == 100 and told == []
    assert [name[:13] for name in checkpoints._names()] == ["step-00000100", "step-00000010"]
    assert step_of(written(f"{storage_uri}/none")[0]) is None


@pytest.mark.parametrize(
    ("name", "harm", "why"),
    [
        (STATE, lambda data: data[: len(data) // 2], "state.pt is damaged"),
        (STATE, lambda data: data[:-9] + b"x" + data[-8:], "another hash"),
        (STATE, None, "cannot be read|no such file|not found|does not exist"),
        (SEAL, lambda data: data[:5], "state.json is damaged"),
        (SEAL, lambda data: b"{}", "state.json is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, name: str, harm: Any, why: str) -> None:
    checkpoints, told = written(str(tmp_path), 5, 6)
    place = tmp_path / checkpoints._names()[0] / name
    content = place.read_bytes()
    place.unlink()
    if harm is not None:
        place.write_bytes(harm(content))
    assert step_of(checkpoints) == 5
    assert len(told) == 1 and told[0].startswith("checkpoint step-00000006-") and "going on from the one before" in told[0]
    if name == SEAL or harm is not None:
        with pytest.raises(Damaged, match=why):
            checkpoints.load(place.parent.name)


def spoil(root: Path) -> None:
    """Half of every checkpoint's state is gone."""
    for place in root.glob(f"*/{STATE}"):
        place.write_bytes(place.read_bytes()[: place.stat().st_size // 2])


def test_what_is_written_after_all_were_damaged_stays(tmp_path: Path) -> None:
    """Training began anew, so its checkpoints have lower numbers than the damaged ones, which go."""
    written(str(tmp_path), 100, 110)
    spoil(tmp_path)
    told: list[str] = []
    checkpoints = Checkpoints(str(tmp_path), told.append)
    assert checkpoints.latest() is None and len(told) == 2
    for step in (10, 20, 30):
        checkpoints.save(step, state(step))
        checkpoints.close()
        assert step_of(Checkpoints(str(tmp_path), told.append)) == step
    assert [name[:13] for name in checkpoints._names()] == ["step-00000030", "step-00000020"] and len(told) == 2


def test_damaged_ones_that_cannot_be_deleted_count_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(str(tmp_path), 100, 110)
    spoil(tmp_path)
    delete = storage.delete

    def refusing(uri: str) -> None:
        if "step-000001" in uri:
            raise storage.StorageError(f"{uri}: no permission to delete it")
        delete(uri)

    monkeypatch.setattr(checkpoint.storage, "delete", refusing)
    checkpoints = Checkpoints(str(tmp_path), print)
    assert checkpoints.latest() is None
    for step in (10, 20, 30):
        checkpoints.save(step, state(step))
    checkpoints.close()
    assert step_of(Checkpoints(str(tmp_path), print)) == 30


def test_storage_that_does_not_answer_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that began anew for it would lose what was trained; raised, it is tried again by whoever runs the step."""
    written(str(tmp_path), 5, 6)
    read = storage.read_bytes

    def failing(uri: str) -> bytes:
        if uri.endswith(STATE):
            raise storage.StorageError(f"{uri}: could not read it: SLOW_DOWN")
        return read(uri)

    checkpoints = Checkpoints(str(tmp_path), print)
    with monkeypatch.context() as broken:
        broken.setattr(checkpoint.storage, "read_bytes", failing)
        with pytest.raises(storage.StorageError, match="SLOW_DOWN"):
            checkpoints.latest()
    assert step_of(checkpoints) == 6


def test_one_whose_seal_was_never_written_is_not_there(tmp_path: Path) -> None:
    """kill -9 in the middle of writing leaves a state without its seal."""
    checkpoints, told = written(str(tmp_path), 5, 6)
    (tmp_path / checkpoints._names()[0] / SEAL).unlink()
    assert step_of(checkpoints) == 5 and told == []
    assert step_of(written(str(tmp_path), 7)[0]) == 7


def test_writing_does_not_hold_up_training_and_keeps_what_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`save` returns while the file is not yet written; weights changed meanwhile do not get into it."""
    may_write, write = threading.Event(), storage.write_bytes

    def slow(uri: str, data: bytes) -> None:
        assert may_write.wait(20)
        write(uri, data)

    monkeypatch.setattr(checkpoint.storage, "write_bytes", slow)
    checkpoints, live = Checkpoints(str(tmp_path), print), state(3)
    checkpoints.save(3, live)
    assert checkpoints.latest() is None
    live["model"]["weight"].fill_(-1)
    live["run"]["curve"][0]["loss"] = -1
    may_write.set()
    checkpoints.close()
    found = checkpoints.latest()
    assert found is not None and found[1]["run"] == {"step": 3, "curve": [{"loss": 1.5}]} and step_of(checkpoints) == 3


def test_storage_that_fails_is_told_and_training_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    _, told = written(str(tmp_path / "file"), 1, 2)
    assert len(told) == 2 and all("could not be written" in line for line in told)
