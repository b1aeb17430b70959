"""MiniLM 6×384 with a classification head: int8 ONNX against torch fp32, one thread, single texts in turns."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch

from jobs.compression.export import export_onnx
from jobs.compression.quantize import quantize_dynamic_int8
from jobs.tasks.classification import save_classifier
from jobs.training.models import load_classifier
from serve.card import Variant, read_card, variant_files, write_card
from serve.engine import Engine, load_engine

ROUNDS, PER_ROUND, LENGTH = 7, 20, 64
SENTENCE = "the delivery was late but the people at the desk were kind and helped us at once "


def measures() -> Iterator[dict[str, Any]]:
    """Ratios of p50 latency and of bytes on disk."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        model, tokenizer = load_classifier("sample:minilm_l6", ["negative", "positive"])
        save_classifier(model, tokenizer, ["negative", "positive"], 128, directory)
        export_onnx(model, directory / "onnx" / "model.onnx")
        quantize_dynamic_int8(directory / "onnx" / "model.onnx", directory / "onnx" / "model.int8.onnx")
        card = read_card(directory)
        int8 = Variant(backend="onnx", file="onnx/model.int8.onnx", precision="int8")
        card = card.model_copy(update={"variants": {**card.variants, "int8": int8}})
        write_card(directory, card)
        size = {kind: sum(path.stat().st_size for path in variant_files(directory, card, kind)) for kind in ("torch", "int8")}
        torch_engine, int8_engine = load_engine(directory, "torch", threads=1), load_engine(directory, "int8", threads=1)
        pairs = [(_milliseconds(torch_engine), _milliseconds(int8_engine)) for _ in range(ROUNDS)]
    shared = {"better": "higher", "unit": "ratio"}
    detail = {"texts_of_tokens": LENGTH, "pairs_ms": [[round(value, 2) for value in pair] for pair in pairs]}
    ratio = round(median(slow / fast for slow, fast in pairs), 2)
    yield {"name": "int8_latency_against_torch_fp32", "value": ratio, "goal": 2.5, **shared, "detail": detail}
    smaller = round(size["torch"] / size["int8"], 2)
    yield {"name": "int8_bytes_against_torch_fp32", "value": smaller, "goal": 3.5, **shared, "detail": size}


def _milliseconds(engine: Engine) -> float:
    """The median of single texts of LENGTH tokens."""
    text = " ".join((SENTENCE * 10).split()[: LENGTH - 2])
    seconds = []
    for _ in range(PER_ROUND):
        began = time.perf_counter()
        engine.logits([text])
        seconds.append(time.perf_counter() - began)
    return median(seconds) * 1e3
