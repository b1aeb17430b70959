"""How fast models answer that are no transformers, on one core: a single message, its cutting included, and many at once.

    make bench BENCH=front
    python -m tests.benchmarks.front_speed DIRECTORY numpy        # one measure: {"p50_ms": …, "per_second": …}

Weights are random: the speed is the same as after training. Figures are of the processor that is named beside them.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from serve.engines import processor
from serve.engines.card import Card, Variant, write_card
from serve.engines.engine import load_engine
from serve.tasks.protocol import Item
from tests.benchmarks.peers import printed
from tests.benchmarks.served_models import TASK, texts

DIMENSION, MAX_LENGTH = 256, 64
TEXTS, TOGETHER, TURNS = 2_000, 64, 5
STATIC_MS = 0.2 if processor.saturates() else 0.086
STATIC_PER_SECOND = 20_000.0


def speeds() -> Iterator[dict[str, Any]]:
    """For each table of a static model the median of single messages, and messages a second in batches."""
    with tempfile.TemporaryDirectory(prefix="raystill-bench-") as name:
        variants = publish_static(Path(name))
        for variant in variants:
            found = printed("tests.benchmarks.front_speed", name, variant)
            detail = {"processor": processor.described(), "dimension": DIMENSION, "texts": TEXTS}
            single = {"goal": STATIC_MS, "better": "lower", "unit": "ms", "detail": detail}
            yield {"name": f"static_{variant}_single_p50", "value": round(found["p50_ms"], 4), **single}
            many = {"goal": STATIC_PER_SECOND, "better": "higher", "unit": "texts/s per core", "detail": detail}
            yield {"name": f"static_{variant}_in_batches", "value": round(found["per_second"]), **many}


def publish_static(directory: Path) -> tuple[str, ...]:
    """A static model of the messages' vocabulary; returns the names of its tables."""
    import torch

    from jobs.architectures.models import read_base
    from jobs.architectures.settings import StaticStudent
    from jobs.architectures.static_model import StaticModel, StaticShape
    from jobs.compression.static_features import features_of
    from jobs.compression.static_task import DEFAULT_TABLE, TABLE_FILES, write_tables
    from jobs.training.static_vectors import chance

    settings = StaticStudent(kind="static", dimension=DIMENSION)
    features = features_of(settings, read_base("sample:minilm_l6").tokenizer, texts(), MAX_LENGTH)
    vectors = torch.from_numpy(chance(sum(features.cutter.rows), DIMENSION, 0))
    model = StaticModel(vectors, torch.ones(len(vectors)), StaticShape(1, 1, len(TASK.labels), settings.hidden))
    features.write(directory)
    parameters = write_tables(model, features, directory)
    variants = {
        name: Variant(backend="numpy", file=file, precision=precision, hidden_states=True)
        for name, (file, precision) in TABLE_FILES.items()
    }
    card = Card(task=TASK, max_length=MAX_LENGTH, inputs=(), variants=variants, default=DEFAULT_TABLE, parameters=parameters)
    write_card(directory, card)
    return tuple(variants)


def main() -> None:
    """One measure; of batches the best of a few turns, in seconds of this process's CPU."""
    directory, variant = Path(sys.argv[1]), sys.argv[2]
    engine = load_engine(directory, variant, threads=1, max_batch=TOGETHER)
    items = [Item((text,)) for text in texts()[:TEXTS]]
    seconds = []
    for item in items:
        began = time.perf_counter()
        engine.answers([item])
        seconds.append(time.perf_counter() - began)
    turns = []
    for _ in range(TURNS):
        began = time.process_time()
        engine.outputs(items)
        turns.append(time.process_time() - began)
    print(json.dumps({"p50_ms": float(np.median(seconds)) * 1e3, "per_second": len(items) / min(turns)}))


if __name__ == "__main__":
    main()
