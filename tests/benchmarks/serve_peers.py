"""What the service is measured against, each a server process: python -m tests.benchmarks.serve_peers KIND MODEL PORT

pipeline   FastAPI around transformers' pipeline, torch fp32: the usual way
litserve   LitServe around the same ONNX file, with its batching
echo       Ray Serve's own echo: what the way to a replica costs

BentoML is in serve_bento.py, for it has an environment of its own. Every one answers POST /v1/predict with the label.
"""

import sys
from pathlib import Path
from typing import Any

THREADS = 1


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

    from serve.engine import Engine, load_engine

    class Predict(litserve.LitAPI):
        engine: Engine

        def setup(self, device: str) -> None:
            self.engine = load_engine(Path(directory), "int8", threads=THREADS)

        def decode_request(self, request: Any) -> Any:
            return request["inputs"]

        def predict(self, x: Any) -> Any:
            return self.engine.predict(x)

        def encode_response(self, output: Any) -> Any:
            return {"answers": [{"label": output.label, "probability": output.probability}]}

    api = Predict(max_batch_size=32, batch_timeout=0.001, api_path="/v1/predict")
    litserve.LitServer(api, accelerator="cpu", workers_per_device=1).run(
        host="127.0.0.1", port=port, generate_client_file=False, log_level="warning", num_api_servers=1
    )


if __name__ == "__main__":
    {"pipeline": pipeline, "litserve": litserve}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
