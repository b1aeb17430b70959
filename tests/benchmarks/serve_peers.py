"""What the service is measured against, each a process of its own: python -m tests.benchmarks.serve_peers KIND MODEL PORT

pipeline   FastAPI around transformers' pipeline, torch fp32: the usual way
litserve   LitServe around the same ONNX file, with its batching
loop       the bare engine in a plain loop: texts a second, 32 at a time; no server

BentoML is in serve_bento.py, for it has an environment of its own. Every server answers POST /v1/predict.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import requests

REPOSITORY = Path(__file__).parents[2]
THREADS = 1
STARTS_WITHIN_SECONDS = 120
LOOP_SECONDS = 4.0


@contextmanager
def peer(kind: str, directory: Path, port: int) -> Iterator[str]:
    """The URL of a server of this kind while it runs."""
    command = [sys.executable, "-m", "tests.benchmarks.serve_peers", kind, str(directory), str(port)]
    with answering(command, port, {}, {"inputs": "a"}) as url:
        yield url


@contextmanager
def answering(command: Sequence[str], port: int, surroundings: Mapping[str, str], body: Any) -> Iterator[str]:
    """The URL of a server while it runs, once it answers this body."""
    url = f"http://127.0.0.1:{port}/v1/predict"
    process = subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, **surroundings}, stdout=sys.stderr)
    try:
        _wait(url, body, process)
        yield url
    finally:
        workers = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.kill()
        process.wait()


def _wait(url: str, body: Any, process: "subprocess.Popen[bytes]") -> None:
    """Until it has answered."""
    deadline = time.monotonic() + STARTS_WITHIN_SECONDS
    while True:
        try:
            if requests.post(url, json=body, timeout=30).status_code == 200:
                return
        except requests.ConnectionError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{process.args!r} does not answer")
        time.sleep(0.2)


def pipeline(directory: str, port: int) -> None:
    """One process, as the tutorials have it: a plain `def` route, which FastAPI runs in its thread pool."""
    import torch
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel
    from transformers import pipeline

    torch.set_num_threads(THREADS)
    classify = pipeline("text-classification", model=directory, tokenizer=directory, device="cpu", top_k=None)
    application = FastAPI()

    class Wanted(BaseModel):
        inputs: str | list[str]

    @application.post("/v1/predict")
    def predict(wanted: Wanted) -> Any:
        return {"answers": classify(wanted.inputs, truncation=True, max_length=128)}

    uvicorn.run(application, host="127.0.0.1", port=port, log_level="warning")


def litserve(directory: str, port: int) -> None:
    """The same engine in LitServe, batching up to 32 of what waits."""
    import litserve

    from tests.benchmarks.serve_litserve import Predict

    litserve.LitServer(Predict(directory, THREADS), accelerator="cpu", workers_per_device=1).run(
        host="127.0.0.1", port=port, generate_client_file=False, log_level="warning", num_api_servers=1
    )


def loop(directory: str, batch: int) -> None:
    """Print the bare engine's texts a second, with so many texts in each call."""
    from serve.engines.engine import load_engine
    from serve.tasks.protocol import Item
    from tests.benchmarks.served_models import texts

    engine = load_engine(Path(directory), "int8", threads=THREADS)
    asked = [Item((text,)) for text in texts()[:1984]]
    lists = [asked[start : start + batch] for start in range(0, len(asked), batch)]
    done, began = 0, time.perf_counter()
    while (seconds := time.perf_counter() - began) < LOOP_SECONDS:
        done += len(engine.answers(lists[done // batch % len(lists)]))
    print(json.dumps(done / seconds))


if __name__ == "__main__":
    {"pipeline": pipeline, "litserve": litserve, "loop": loop}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
