"""What feedback costs a replica: predictions in turns with it off and on, and what is done beside them for each request.

    python -m tests.benchmarks.feedback_cost

One process, one thread, a tiny model, so that what is Python's share shows; times of the process's own CPU.
"""

import asyncio
import tempfile
import time
from pathlib import Path
from statistics import median

from serve.http.gate import Gate
from serve.models.model import Models
from serve.settings import FeedbackSettings
from serve.watch.feedback import FeedbackBook
from serve.watch.questions import Questions
from tests.serve.faces import asked, face_of, local_model
from tests.serve.tiny_model import publish_tiny

ROUNDS, REQUESTS = 40, 50
BODY = {"inputs": "Win a prize now", "top_k": 1}


async def milliseconds(face: Gate) -> list[float]:
    """Of CPU that each of some predictions takes."""
    taken = []
    for _ in range(REQUESTS):
        began = time.process_time()
        status, _ = await asked(face, "/v1/predict", BODY)
        taken.append(1e3 * (time.process_time() - began))
        assert status == 200
    return taken


async def main(directory: Path) -> None:
    """Print both, and what handing over and keeping a request costs."""
    publish_tiny(directory / "tiny")
    model = local_model(directory / "tiny", "tiny", "onnx")
    settings = FeedbackSettings(place=str(directory / "feedback"))
    questions = Questions(Models({"tiny": model}, "tiny"), settings)
    off, on = face_of({"tiny": model}, model), face_of({"tiny": model}, model)
    on.finished = [*on.finished, questions.note]
    times: dict[str, list[float]] = {"off": [], "on": []}
    for _ in range(ROUNDS):
        for name, face in (("off", off), ("on", on)):
            times[name] += await milliseconds(face)
    for name, own in times.items():
        print(f"a prediction with feedback {name}: {median(own):.3f} ms of CPU (median of {len(own):,})")
    began = time.process_time()
    taken = questions.take()
    handed = time.process_time()
    await FeedbackBook(settings).note(taken)
    kept = time.process_time()
    print(f"beside it, for each request: {1e6 * (handed - began) / len(taken):.0f} µs in its replica", end=", ")
    print(f"{1e6 * (kept - handed) / len(taken):.0f} µs in the process that keeps it")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(main(Path(scratch)))
