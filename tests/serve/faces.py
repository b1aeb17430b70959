"""The HTTP face of models in this very process, without Ray: the same routes, engines and batching, started in a second.

with serving({"spam": LocalModel(…), "teacher": LocalModel(…)}) as url: requests.get(url + "/v1/models")
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import uvicorn

from serve.auth import Guard
from serve.engine import load_engine
from serve.explain import split, without
from serve.face import build_face
from serve.gate import Gate
from serve.local import LocalModel
from serve.models import Model, Models
from serve.routes import EXAMPLE_TEXTS, Example
from serve.schema import ServedModel
from serve.settings import ModelSettings

REQUEST_TIMEOUT_SECONDS = 30.0


def local_model(directory: Path, name: str, variant: str) -> LocalModel:
    """A variant of a published model under a name."""
    engine = load_engine(directory, variant)
    served = ServedModel(name=name, fingerprint="0" * 64, variant=variant)
    return LocalModel(engine, served, ModelSettings(model=str(directory), variant=variant))


@contextlib.contextmanager
def serving(models: Mapping[str, Model], engine_of: LocalModel, keys: str | None = None) -> Iterator[str]:
    """The URL of the models; the first one is the default, whose engine is `engine_of`'s."""
    text = EXAMPLE_TEXTS[0]
    left_out = engine_of.engine.logits([text, *without(text, split(text))])
    example = Example(engine_of.engine.predict(EXAMPLE_TEXTS), [], left_out)
    face = build_face(Models(models, next(iter(models))), example, engine_of.watch.report)
    application = Gate(face, REQUEST_TIMEOUT_SECONDS, Guard(keys, lambda: 1))
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
