"""The same engine in LitServe, which starts it in a process of its own and so needs it by its import path."""

from pathlib import Path
from typing import Any

import litserve

from serve.engines.base import Engine
from serve.engines.engine import load_engine
from serve.tasks.protocol import Item


class Predict(litserve.LitAPI):
    """One text a request; up to 32 that wait are run together."""

    engine: Engine

    def __init__(self, directory: str, threads: int) -> None:
        super().__init__(max_batch_size=32, batch_timeout=0.001, api_path="/v1/predict")
        self.directory, self.threads = directory, threads

    def setup(self, device: str) -> None:
        """Load the model, in the worker."""
        self.engine = load_engine(Path(self.directory), "int8", threads=self.threads)

    def decode_request(self, request: dict[str, Any]) -> Any:
        """The text of a request."""
        return request["inputs"]

    def predict(self, x: Any) -> Any:
        """An answer for each of the texts that were batched."""
        return self.engine.answers([Item((text,)) for text in x])

    def encode_response(self, output: Any) -> Any:
        """The reply of one request."""
        return {"label": output.label, "probability": output.probability}
