"""What replicas do beside answering: a chore that fails is told once and goes on, and a full disk loses no line of the log."""

import asyncio
import json
import threading
from pathlib import Path

import pytest

from serve.deployment.chores import start_chore
from serve.http.auth import Guard
from serve.models.exchange import Exchange
from serve.watch import access_log
from serve.watch.access_log import AccessLog


def test_a_chore_that_fails_is_told_once_and_tried_again_and_one_that_hangs_holds_up_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done: list[str] = []
    outage, released = [True], threading.Event()

    def fail() -> None:
        done.append("tried")
        if outage[0]:
            raise OSError("no space left")

    async def run() -> None:
        chores = [
            start_chore("The log", 0.01, fail),
            start_chore("The keys", 0.01, released.wait, in_thread=True),
            start_chore("The metrics", 0.01, lambda: done.append("flushed")),
        ]
        await asyncio.sleep(0.5)
        assert done.count("tried") > 5 and done.count("flushed") > 5
        outage[0] = False
        await asyncio.sleep(0.1)
        released.set()
        assert not any(chore.done() for chore in chores)
        for chore in chores:
            chore.cancel()

    asyncio.run(run())
    assert [record.message for record in caplog.records] == [
        "The log: failed, and is tried again every 0.01 s",
        "The log: works again",
    ]


def lines(log: AccessLog, *ids: str) -> None:
    for request_id in ids:
        log.note(Exchange(request_id, "POST", "/v1/predict"))


def test_lines_wait_while_the_disk_is_full(tmp_path: Path) -> None:
    file = tmp_path / "access.jsonl"
    log = AccessLog(file)
    file.symlink_to("/dev/full")
    for request_id in ("first", "second"):
        lines(log, request_id)
        with pytest.raises(OSError, match="No space left"):
            log.flush()
    file.unlink()
    lines(log, "third")
    log.flush()
    log.flush()
    assert [json.loads(line)["request_id"] for line in file.read_text().splitlines()] == ["first", "second", "third"]


def test_of_more_lines_than_may_wait_the_oldest_are_lost_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(access_log, "MAX_WAITING", 1000)
    file = tmp_path / "access.jsonl"
    log = AccessLog(file)
    file.symlink_to("/dev/full")
    lines(log, *(f"request-{number}" for number in range(20)))
    with pytest.raises(OSError, match="No space left"):
        log.flush()
    file.unlink()
    log.flush()
    kept = [json.loads(line)["request_id"] for line in file.read_text().splitlines()]
    assert 0 < len(kept) < 20 and kept[-1] == "request-19"
    assert f"{20 - len(kept)} lines of the access log {file} are lost" in caplog.text


def test_keys_that_cannot_be_read_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys.json"
    file.write_text('{"keys": []}')
    guard = Guard(str(file))
    for content in ("{", "{", "{", '{"keys": []}', "{"):
        file.write_text(content)
        guard.reload()
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING", "ERROR"]
