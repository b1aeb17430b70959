"""The application over real HTTP: answers, refusals by field, batches, health and docs."""

import codecs
import http.client
import json
import shutil
import socket
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from serve.app import build
from serve.engines.base import Engine
from serve.engines.card import EngineError, read_card, write_card
from serve.engines.engine import load_engine
from serve.engines.published import open_model
from serve.settings import MAX_BODY_BYTES, Arguments, BulkSettings
from serve.tasks.classification import Classification
from tests.serve.generated import ask_generated
from tests.serve.tiny_model import LABELS, TEXTS, publish_tiny, texts_as_items

PREDICT = "/v1/predict"


@pytest.fixture(scope="module")
def engine(model_directory: Path) -> Engine:
    return load_engine(model_directory)


def post(service: str, body: Any) -> requests.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return requests.post(service + PREDICT, data=data, headers={"content-type": "application/json"}, timeout=30)


def assert_same(answer: dict[str, Any], engine: Engine, text: str) -> None:
    """The answer over HTTP is the one that the engine gives in this process."""
    expected = engine.answers(texts_as_items([text]))[0]
    assert answer["label"] == expected.label
    assert answer["probability"] == pytest.approx(expected.probability, abs=1e-4)
    assert [item["label"] for item in answer["probabilities"]] == [item.label for item in expected.probabilities]


def test_one_text_and_many_are_answered_as_the_engine_does(service: str, engine: Engine, model_directory: Path) -> None:
    reply = post(service, {"inputs": TEXTS[0]})
    assert reply.status_code == 200
    assert reply.json()["model"] == {
        "name": "tiny",
        "fingerprint": open_model(str(model_directory)).fingerprint,
        "variant": "onnx",
    }
    assert_same(reply.json()["answers"][0], engine, TEXTS[0])
    many = TEXTS * 36
    answers = post(service, {"inputs": many}).json()["answers"]
    assert len(answers) == len(many)
    for answer, text in zip(answers[: len(TEXTS)], TEXTS, strict=True):
        assert_same(answer, engine, text)


def test_chinese_text_and_label(service: str, engine: Engine) -> None:
    text = "这部电影很好看，我非常喜欢。"
    answer = post(service, {"inputs": [text], "top_k": 3}).json()["answers"][0]
    assert_same(answer, engine, text)
    assert "其他" in [item["label"] for item in answer["probabilities"]]


def test_top_k_bounds_the_list(service: str) -> None:
    lengths = {k: len(post(service, {"inputs": "a", "top_k": k}).json()["answers"][0]["probabilities"]) for k in (1, 2, 99)}
    assert lengths == {1: 1, 2: 2, 99: len(LABELS)}


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"inputs": ""}, 422, "inputs"),
        ({"inputs": " \t\n\u3000"}, 422, "inputs"),
        ({"inputs": []}, 422, "inputs"),
        ({"inputs": ["good", "", 3]}, 422, "inputs.1"),
        ({"inputs": ["good", 3]}, 422, "inputs.1"),
        ({"inputs": ["good", None]}, 422, "inputs.1"),
        ({"inputs": 3}, 422, "inputs"),
        ({"inputs": None}, 422, "inputs"),
        ({"inputs": {"text": "good"}}, 422, "inputs"),
        ({"inputs": ["a"] * 257}, 422, "inputs"),
        ({"inputs": "a" * 20_001}, 422, "inputs"),
        ({}, 422, "inputs"),
        ({"text": "good"}, 422, "inputs"),
        ({"inputs": "good", "topk": 1}, 422, "topk"),
        ({"inputs": "good", "top_k": 0}, 422, "top_k"),
        ({"inputs": "good", "top_k": "2"}, 422, "top_k"),
        ({"inputs": "good", "top_k": True}, 422, "top_k"),
        ({"inputs": "good", "top_k": 1.5}, 422, "top_k"),
        (["good"], 422, "body"),
        (b"null", 422, "body"),
        (b"", 400, "body"),
        (b"inputs=good", 400, "body"),
        (b'{"inputs": "good"', 400, "body"),
        (b'{"inputs": "\xff\xfe"}', 400, "body"),
        (b'{"inputs": "\\ud800"}', 400, "body"),
        (b"[" * 100_000, 400, "body"),
        (b'{"inputs": [' + b"1," * 400_000 + b"1]}", 422, "inputs.0"),
    ],
)
def test_a_bad_request_is_refused_with_its_field(service: str, body: Any, status: int, field: str) -> None:
    reply = post(service, body)
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    assert problem["status"] == status
    assert field in [error["field"] for error in problem["errors"]]
    assert all(error["message"] for error in problem["errors"])


@pytest.mark.parametrize("text", ["a" * 20_000, "\x00", "🙂", "[PAD]", "\u200b"])
def test_odd_texts_are_answered(service: str, text: str) -> None:
    assert post(service, {"inputs": text}).status_code == 200


@pytest.mark.parametrize(
    ("body", "headers", "status", "told"),
    [
        (codecs.BOM_UTF8 + b'{"inputs": "good"}', {}, 200, ""),
        (
            '{"inputs": "很好"}'.encode("gb18030"),
            {"content-type": "text/json; charset=gb18030"},
            400,
            "not UTF-8: the byte 0xBA",
        ),
        ('{"inputs": "很好"}'.encode("utf-16"), {}, 400, "not UTF-8: the byte 0xFF at position 0"),
        (zlib.compress(b'{"inputs": "good"}'), {"content-encoding": "deflate"}, 415, "packed ('deflate')"),
        (b'{"inputs": "good"}', {"content-encoding": "br"}, 415, "packed ('br')"),
        (b'{"inputs": "good"}', {"content-encoding": "Identity"}, 200, ""),
    ],
)
def test_bodies_are_utf_8_and_not_packed(service: str, body: bytes, headers: dict[str, str], status: int, told: str) -> None:
    reply = requests.post(service + PREDICT, data=body, headers=headers, timeout=30)
    assert reply.status_code == status
    assert told in (reply.json()["errors"][0]["message"] if told else "")


def test_head_says_what_get_would_but_its_body(service: str) -> None:
    for path in ("/healthz", "/readyz", "/v1/models", "/docs", "/"):
        head, got = requests.head(service + path, timeout=30), requests.get(service + path, timeout=30)
        assert (head.status_code, head.content) == (200, b"") and got.content, path
        assert head.headers["content-type"] == got.headers["content-type"]
    for path, status in ((PREDICT, 405), ("/nothing", 404)):
        refused = requests.head(service + path, timeout=30)
        assert (refused.status_code, refused.content) == (status, b"")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_10_megabytes_is_refused(service: str, chunked: bool) -> None:
    # Valid JSON, so that only its size can be the reason.
    body = json.dumps({"inputs": "a" * 10_000_000}).encode()
    status, problem = send(service, body, chunked)
    assert status == 413
    assert problem["errors"][0]["field"] == "body"
    # The replica still answers.
    assert post(service, {"inputs": "a"}).status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_at_the_limit_is_read_and_one_byte_more_is_not(service: str, chunked: bool) -> None:
    start, end = b'{"inputs": "a"', b"}"
    body = start + b" " * (MAX_BODY_BYTES - len(start) - len(end)) + end
    assert send(service, body, chunked)[0] == 200
    assert send(service, body + b" ", chunked)[0] == 413


def test_an_endless_body_is_refused_before_its_end(service: str) -> None:
    address = urlsplit(service)
    head = f"POST {address.path}{PREDICT} HTTP/1.1\r\nHost: {address.hostname}\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=10) as connection:
        connection.sendall(head.encode())
        for _ in range(2 * MAX_BODY_BYTES // 65_536):
            connection.sendall(b"10000\r\n" + b" " * 65_536 + b"\r\n")
        assert connection.recv(4_096).startswith(b"HTTP/1.1 413")


def send(service: str, body: bytes, chunked: bool) -> tuple[int, Any]:
    """Post a body with its length declared, or in chunks without one."""
    address = urlsplit(service)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    pieces: Iterator[bytes] = (body[start : start + 65_536] for start in range(0, len(body), 65_536))
    connection.request("POST", address.path + PREDICT, body=pieces if chunked else body, encode_chunked=chunked)
    reply = connection.getresponse()
    content = json.loads(reply.read())
    connection.close()
    return reply.status, content


def test_concurrent_requests_are_answered_together(service: str, engine: Engine) -> None:
    texts = [f"{TEXTS[index % len(TEXTS)]} {index}" for index in range(32)]
    with ThreadPoolExecutor(32) as pool:
        replies = list(pool.map(lambda text: post(service, {"inputs": text}), texts))
    sizes = [int(reply.headers["x-batch-requests"]) for reply in replies]
    assert max(sizes) >= 4, f"batches of {sizes}"
    for reply, text in zip(replies, texts, strict=True):
        assert_same(reply.json()["answers"][0], engine, text)
    assert post(service, {"inputs": "a"}).headers["x-batch-requests"] == "1"


def test_health_docs_and_unknown_routes(service: str, engine: Engine) -> None:
    health = requests.get(service + "/healthz", timeout=30)
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    openapi = requests.get(service + "/openapi.json", timeout=30).json()
    operation = openapi["paths"][PREDICT]["post"]
    sent = operation["requestBody"]["content"]["application/json"]["example"]
    shown = operation["responses"]["200"]["content"]["application/json"]["example"]
    answered = post(service, sent).json()
    assert [answer["label"] for answer in answered["answers"]] == [answer["label"] for answer in shown["answers"]]
    assert answered["model"] == shown["model"]
    page = requests.get(service + "/docs", timeout=30).text
    assert PREDICT in page and "其他" in page
    assert "://" not in page, "the page must ask nothing of another host"
    for method, path, status in [("GET", "/nothing", 404), ("GET", PREDICT, 405)]:
        refused = requests.request(method, service + path, timeout=30)
        assert refused.status_code == status
        assert refused.headers["content-type"] == "application/problem+json"


def test_requests_made_from_the_openapi_file_meet_no_server_error(service: str) -> None:
    assert ask_generated(service + "/openapi.json", examples=10) >= 100


def test_build_refuses_at_once_what_cannot_be_served(model_directory: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no variant int4"):
        build(Arguments(model=str(model_directory), variant="int4"))
    with pytest.raises(EngineError, match="another model lies there"):
        build(Arguments(model=str(model_directory), fingerprint="0" * 64))
    with pytest.raises(EngineError, match="is no published model"):
        build(Arguments(model=str(tmp_path)))
    with pytest.raises(ValueError, match="below min_replicas"):
        Arguments(model=str(model_directory), min_replicas=2)


def test_a_second_model_that_has_learned_something_else_is_refused(model_directory: Path, tmp_path: Path) -> None:
    publish_tiny(tmp_path / "pairs", pairs=True)
    shutil.copytree(model_directory, tmp_path / "other")
    card = read_card(model_directory)
    write_card(tmp_path / "other", card.model_copy(update={"task": Classification(labels=("ham", "spam", "news"))}))
    shutil.copytree(model_directory, tmp_path / "turned")
    write_card(tmp_path / "turned", card.model_copy(update={"task": Classification(labels=LABELS[::-1])}))

    def arguments(second: str, what: str) -> Arguments:
        settings: dict[str, Any] = {"cascade": {"threshold": 0.9}, "canary": {}, "shadow": {}}[what]
        beside = {"others": {second: {"model": str(tmp_path / second)}}, what: {"model": second, **settings}}
        return Arguments.model_validate({"model": str(model_directory), **beside})

    for what in ("cascade", "canary", "shadow"):
        with pytest.raises(EngineError, match=f"other cannot be the {what} of tiny: only one of them has the label 'news'"):
            build(arguments("other", what))
        with pytest.raises(EngineError, match=f"pairs cannot be the {what} of tiny: they are not of the same task"):
            build(arguments("pairs", what))
        build(arguments("turned", what))
    with pytest.raises(EngineError, match="tiny answers ham, spam, 其他; other answers ham, spam, news"):
        build(arguments("other", "shadow"))
    with pytest.raises(EngineError, match="give `bulk` the same model"):
        build(Arguments(model=str(model_directory), bulk=BulkSettings(model=str(tmp_path / "turned"))))


def test_the_prefix_without_its_slash_leads_to_the_page(service: str) -> None:
    reply = requests.get(f"{service}?text=a", timeout=30)
    # The page's paths are relative: below /tiny they would lead to /page.
    assert (reply.status_code, reply.url) == (200, f"{service}/?text=a"), [step.headers for step in reply.history]
    assert "page/page.js" in reply.text
