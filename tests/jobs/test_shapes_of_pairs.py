"""A shape of a task of two texts, built and timed in this process. `pytest tests/jobs/test_shapes_of_pairs.py`"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedTokenizerBase

from jobs.compression import variants
from jobs.compression.quantize import Feeds
from jobs.compression.worst_nodes import worst_nodes
from jobs.core.recipe import parse_recipe
from jobs.core.stage import Inputs
from jobs.search import shapes
from jobs.search.shapes import time_shapes
from tests.jobs.pairs import PAIRS, publish_pairs
from tests.jobs.tiny import MAX_LENGTH


def test_a_shape_reads_both_texts_and_is_scaled_on_them(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Static int8 takes its scales from feeds that say which text each token is of, and so do the nodes that it hurts most."""
    tokenizer.save_pretrained(tmp_path / "base")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = AutoConfig.for_model("bert", vocab_size=len(tokenizer), max_position_embeddings=64, **sizes)
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path / "base")
    examples = publish_pairs(tmp_path, {"train": PAIRS[:40], "validation": PAIRS[40:70]})
    student: dict[str, Any] = {"layers": {"grid": [[0], [0, 1]]}}
    budget = {"maximum_p95_ms": 1e6, "texts": 20, "quantize": "static"}
    steps: dict[str, Any] = {
        "rows": {"stage": "prepare", "source": "unused.csv", "task": {"pair": "pair"}},
        "soft": {"stage": "predict", "inputs": {"model": "teacher", "examples": "rows"}},
        "teacher": {"stage": "finetune", "inputs": {"examples": "rows"}, "model": str(tmp_path / "base")},
        "students": {"stage": "distill", "inputs": {"examples": "rows", "teacher": "soft"}, "student": student}
        | {"model": str(tmp_path / "base"), "max_length": MAX_LENGTH, "tune": {"scheduler": "none", "budget": budget}},
    }  # fmt: skip
    given: list[Feeds] = []
    made: list[list[str]] = []
    real = variants.quantize

    def quantize(kind: Any, source: Path, target: Path, feeds: list[Feeds], settings: Any) -> None:
        given.extend(feeds)
        made.append(worst_nodes(source, feeds))
        real(kind, source, target, feeds, settings)

    monkeypatch.setattr(variants, "quantize", quantize)
    monkeypatch.setattr(shapes, "TURNS", 1)
    rows = time_shapes(parse_recipe({"name": "tiny", "steps": steps}).steps["students"], Inputs(examples=[examples]))
    assert [row["values"] for row in rows] == [{"student.layers": [0]}, {"student.layers": [0, 1]}]
    assert all(row["fits"] and row["p95_ms"] > 0 for row in rows) and rows[0]["parameters"] < rows[1]["parameters"]
    assert {name for feed in given for name in feed} == {"input_ids", "attention_mask", "token_type_ids"}
    assert all(set(np.unique(feed["token_type_ids"])) == {0, 1} for feed in given) and len(given) == 40
    assert len(made[0]) < len(made[1]), "each layer has nodes of its own"
