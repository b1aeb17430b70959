"""The same ONNX file behind BentoML, in an environment of its own: its bounds and this project's cannot both be kept.

with bento(model_directory, port) as url:
    load(url, bodies, connections=16, seconds=5)
"""

import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.serve_peers import REPOSITORY, answering

ENVIRONMENT = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "raystill" / "bench-bentoml"
VERSION = "1.4.40"
NEEDED = ("numpy", "onnxruntime", "pydantic", "tokenizers")
"""What serve.engines.engine needs for an ONNX variant."""
SERVICE = """
import os
from pathlib import Path

import bentoml

from serve.engines.engine import load_engine
from serve.tasks.protocol import Item


@bentoml.service(workers=1, traffic={"timeout": 60, "max_concurrency": 1000})
class Predict:
    def __init__(self) -> None:
        self.engine = load_engine(Path(os.environ["BENCH_MODEL"]), "int8", threads=1)

    @bentoml.api(route="/v1/predict", batchable=True, max_batch_size=32, max_latency_ms=10_000)
    def predict(self, inputs: list[str]) -> list[dict]:
        answers = self.engine.answers([Item((text,)) for text in inputs])
        return [{"label": told.label, "probability": told.probability} for told in answers]
"""


@contextmanager
def bento(directory: Path, port: int) -> Iterator[str]:
    """BentoML with one worker; the URL that takes texts, each as a list of one."""
    python = _environment()
    code = ENVIRONMENT / "served.py"
    code.write_text(SERVICE)
    command = [str(python), "-m", "bentoml", "serve", "served:Predict", "--working-dir", str(ENVIRONMENT)]
    surroundings = {"PYTHONPATH": str(REPOSITORY), "BENTOML_DO_NOT_TRACK": "True", "BENCH_MODEL": str(directory)}
    # A line on the terminal for each request would be held against it.
    surroundings["BENTOML_CONFIG_OPTIONS"] = "api_server.logging.access.enabled=false"
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with answering(command, port, surroundings, {"inputs": ["a"]}) as url:
        yield url


def _environment() -> Path:
    """Its interpreter; made on the first call, and kept in the user's cache."""
    python = ENVIRONMENT / "bin" / "python"
    ready = ENVIRONMENT / f"ready-{VERSION}"
    if not ready.exists():
        print(f"installing BentoML {VERSION} into {ENVIRONMENT}", file=sys.stderr)
        venv.create(ENVIRONMENT, with_pip=True)
        install = [str(python), "-m", "pip", "install", "--quiet", f"bentoml=={VERSION}", *NEEDED]
        subprocess.run(install, check=True)
        ready.touch()
    return python
