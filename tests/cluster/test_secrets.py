"""Tokens that are sent, and secrets that are not: what goes to a cluster, and what may not."""

from pathlib import Path

import pytest

from cluster.connection.connect import Cluster, ConnectError, _token_mode, attach
from cluster.ray_private import JOB_CONFIG
from cluster.store.redact import REDACTED, redacted, secret_in
from cluster.submit import SubmitError, submit

AWAY = "http://192.0.2.1:8265"
"""An address of the block that is reserved for documents: nothing answers there."""
SECRETS = [
    ("s3://KEY:hunter2@bucket/runs", "hunter2"),
    ("python train.py --password=hunter2", "hunter2"),
    ("WANDB_API_KEY=0123456789", "0123456789"),
    ("AWS_SECRET_ACCESS_KEY: wJalrXUtnFEMI", "wJalrXUtnFEMI"),
    ("{'aws_access_key_id': 'AKIAIOSFODNN7EXAMPLE'}", "AKIAIOSFODNN7EXAMPLE"),
    ("login hf_" + "a" * 34, "hf_" + "a" * 34),
    ("clone with ghp_" + "b" * 36, "ghp_" + "b" * 36),
    ("https://account.blob.core.windows.net/c?sv=1&sig=abc%3D", "abc%3D"),
    ("-----BEGIN RSA PRIVATE KEY-----\nMIIE", "MIIE"),
]
PLAIN = [
    "s3://bucket/raystill",
    "abfs://account@container/raystill",
    "https://user@host/path",
    "python -m jobs.distill spam.yaml --step student temperature=4",
    "tokens=corpus max_tokens=64",
    "RAY_AUTH_TOKEN_PATH=/home/me/.ray/auth_token",
    "http://127.0.0.1:8265",
]


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_secrets_are_found_and_hidden(text: str, secret: str) -> None:
    assert secret_in(text) is not None
    assert secret not in redacted(text)
    assert REDACTED in redacted(text)


@pytest.mark.parametrize("text", PLAIN)
def test_plain_text_is_let_through(text: str) -> None:
    assert secret_in(text) is None
    assert redacted(text) == text


def test_the_dashboard_never_sees_a_secret(ray_cluster: Cluster, tmp_path: Path) -> None:
    client = ray_cluster.jobs()
    before = len(client.list_jobs())
    tries = [
        (["python", "x.py", "--token", "hf_" + "a" * 34], {}, {}),
        (["python", "x.py"], {"name": "api_key=hunter2hunter2"}, {}),
        (["python", "x.py"], {}, {"WANDB_API_KEY": "hunter2hunter2"}),
    ]
    for command, metadata, environment in tries:
        with pytest.raises(SubmitError, match=r"\[secret\].*credentials come from the environment") as caught:
            submit(client, command, str(tmp_path), metadata, environment)
        assert "hunter2" not in str(caught.value)
        assert "aaaa" not in str(caught.value)
    assert len(client.list_jobs()) == before


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No mode and no token in the environment; returns where a token would be looked for."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", JOB_CONFIG):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "auth_token"))
    return tmp_path / "auth_token"


def test_beyond_loopback_a_token_is_sent_unless_that_is_turned_off(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _token_mode("http://127.0.0.1:8265") == {}
    with pytest.raises(ConnectError, match="no token is known here.*RAY_AUTH_MODE=disabled"):
        attach(AWAY)
    outside.write_text("0" * 64)
    assert _token_mode(AWAY) == {"RAY_AUTH_MODE": "token"}
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    outside.unlink()
    assert _token_mode(AWAY) == {}
