"""The HTTP application of models in this process, without Ray: the same routes, engines and batching, started in a second.

with serving({"spam": LocalModel(…), "teacher": LocalModel(…)}) as url: requests.get(url + "/v1/models")
"""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import Message

from serve.engines.engine import load_engine
from serve.http.application import build_application
from serve.http.auth import Guard
from serve.http.example import example_of
from serve.http.gate import Gate
from serve.models.exchange import Exchange
from serve.models.local import LocalModel
from serve.models.model import Model, Models, ServedModel
from serve.settings import FeedbackSettings, ModelSettings
from serve.watch.drift import DriftWindow, note_asked
from serve.watch.feedback import FeedbackBook, Question
from serve.watch.questions import Questions

REQUEST_TIMEOUT_SECONDS = 30.0


def local_model(directory: Path, name: str, variant: str) -> LocalModel:
    """A variant of a published model under a name."""
    engine = load_engine(directory, variant)
    served = ServedModel(name=name, fingerprint="0" * 64, variant=variant)
    return LocalModel(engine, served, ModelSettings(model=str(directory), variant=variant))


def face_of(
    models: Mapping[str, Model],
    engine_of: LocalModel,
    keys: str | None = None,
    drift_windows: Mapping[str, DriftWindow] | None = None,
    feedback: FeedbackSettings | None = None,
) -> Gate:
    """The ASGI application of the models; the first one is the default, whose engine is `engine_of`'s."""
    default, card = next(iter(models)), engine_of.engine.card
    drift_windows = drift_windows or {name: DriftWindow(model.task, card.training) for name, model in models.items()}
    named = Models(models, default)
    finished: list[Callable[[Exchange], None]] = [partial(note_asked, drift_windows)]
    kept = None
    if feedback is not None:
        questions = Questions(named, feedback)
        kept = FeedbackHere(feedback, questions)
        finished.append(questions.note)
    application = build_application(named, example_of(engine_of.engine), drift_windows[default].report, feedback=kept)
    return Gate(application, REQUEST_TIMEOUT_SECONDS, Guard(keys, lambda: 1), finished)


class FeedbackHere(FeedbackBook):
    """The book in the process that is asked."""

    def __init__(self, settings: FeedbackSettings, questions: Questions) -> None:
        super().__init__(settings)
        self._questions_here = questions

    async def find(self, request_id: str) -> Question | None:
        """As FeedbackBook.find, of what was asked until now."""
        await self.note(self._questions_here.take())
        return await super().find(request_id)


async def asked(application: Gate, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """The status and the JSON that it answers, in this very event loop."""
    told: list[Message] = []
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET" if body is None else "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }

    async def receive() -> Message:
        return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

    async def send(message: Message) -> None:
        told.append(message)

    await application(scope, receive, send)
    return told[0]["status"], json.loads(b"".join(message["body"] for message in told[1:]))


@contextlib.contextmanager
def serving(
    models: Mapping[str, Model], engine_of: LocalModel, keys: str | None = None, feedback: FeedbackSettings | None = None
) -> Iterator[str]:
    """The URL of the models; the first one is the default, whose engine is `engine_of`'s."""
    application = face_of(models, engine_of, keys, feedback=feedback)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(application, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server ended before it was ready"
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
