"""API keys: made, found, revoked, limited; and where none are needed."""

from pathlib import Path

import pytest

from serve import keys
from serve.http.auth import ExposureError, Guard, check_exposure
from serve.keys import KeysError, main, read_keys
from serve.models.problems import Refusal

PATH = "/v1/predict"


def bearer(key: str) -> dict[bytes, bytes]:
    return {b"authorization": f"Bearer {key}".encode()}


def status(guard: Guard, headers: dict[bytes, bytes], path: str = PATH) -> int:
    try:
        guard.admit(headers, path)
    except Refusal as refusal:
        assert refusal.problem.errors[0].field == "Authorization"
        return refusal.problem.status
    return 200


def test_the_command_line_makes_lists_and_revokes(storage_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = f"{storage_uri}/keys.json"
    assert main(["add", "mobile", "--file", file, "--per-minute", "60"]) == 0
    made = capsys.readouterr().out.strip()
    assert made not in read_keys(file).model_dump_json(), "the key itself is kept nowhere"
    found = read_keys(file).find(made)
    assert found is not None and (found.name, found.per_minute) == ("mobile", 60)
    assert read_keys(file).find(made + "x") is None
    assert main(["add", "mobile", "--file", file]) == 2
    assert main(["add", "a b", "--file", file]) == 2
    assert main(["list", "--file", file]) == 0
    assert capsys.readouterr().out.startswith("mobile\t60")
    assert main(["revoke", "mobile", "--file", file]) == 0
    assert read_keys(file).keys == ()
    assert main(["revoke", "mobile", "--file", file]) == 2
    assert "no key named mobile" in capsys.readouterr().err


def test_a_request_needs_a_good_key_and_a_revoked_one_is_none(tmp_path: Path) -> None:
    file = str(tmp_path / "keys.json")
    first, second = keys.add(file, "first", None), keys.add(file, "second", None)
    guard = Guard(file)
    assert guard.admit(bearer(first), PATH) == "first"
    assert guard.admit({b"x-api-key": second.encode()}, PATH) == "second"
    for headers in ({}, bearer("rs_wrong"), bearer(""), {b"authorization": b"Basic " + first.encode()}):
        assert status(guard, headers) == 401
    assert status(guard, {}, "/healthz") == status(guard, {}, "/readyz") == 200
    keys.revoke(file, "first")
    guard.reload()
    assert (status(guard, bearer(first)), status(guard, bearer(second))) == (401, 200)
    Path(file).write_text("{")
    guard.reload()
    assert (status(guard, bearer(first)), status(guard, bearer(second))) == (401, 200), "a damaged file opens nothing"


def test_a_key_has_its_rate_shared_by_the_replicas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = str(tmp_path / "keys.json")
    limited, free = keys.add(file, "limited", 60), keys.add(file, "free", None)
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    guard = Guard(file, shares=lambda: 2)
    # 60 a minute over two replicas: one in two seconds, and five at once after a pause.
    assert [status(guard, bearer(limited)) for _ in range(6)] == [200] * 5 + [429]
    assert status(guard, bearer(free)) == 200
    with pytest.raises(Refusal) as caught:
        guard.admit(bearer(limited), PATH)
    assert caught.value.headers == {"retry-after": "2"}
    now += 2.0
    assert [status(guard, bearer(limited)) for _ in range(2)] == [200, 429]


def test_without_keys_only_loopback_is_served(tmp_path: Path) -> None:
    for inside in ("127.0.0.1", "localhost", "::1", "127.0.0.9"):
        check_exposure(inside, None)
    for outside in ("0.0.0.0", None, "::", "10.0.0.5", "example.org"):
        check_exposure(outside, "keys.json")
        with pytest.raises(ExposureError, match=r"python -m serve\.keys add"):
            check_exposure(outside, None)
    assert Guard(None).admit({}, PATH) is None
    with pytest.raises(KeysError, match="cannot be read"):
        Guard(str(tmp_path / "missing.json"))
