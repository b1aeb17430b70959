"""Estimates of a training step's memory, against steps that are really done in a process of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.fleet.placement import ESTIMATE_FACTOR
from jobs.running.sizing import shape_of_config
from jobs.running.training_memory import Load, ModelShape, inference_memory, training_memory

ROOT = Path(__file__).parents[2]
BASE = ModelShape(12, 768, 12, 3072, 30522)


@pytest.mark.parametrize(
    ("shape", "load"),
    [
        (ModelShape(4, 256, 4, 1024, 8000, 128), Load(32, 128, "fp32")),  # activations are most of it
        (ModelShape(4, 512, 8, 2048, 30000, 16), Load(2, 16, "bf16")),  # weights, gradients and moments are
    ],
)
def test_the_estimate_is_within_the_stated_factor_of_a_measured_step(shape: ModelShape, load: Load) -> None:
    asked = {"layers": shape.layers, "hidden": shape.hidden, "heads": shape.heads}
    command = [sys.executable, "-m", "tests.jobs.measured_step", json.dumps(asked), str(shape.vocabulary)]
    command += [str(load.batch), str(load.tokens), load.precision]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    measured = json.loads(ran.stdout.splitlines()[-1])
    assert shape.parameters == pytest.approx(measured["parameters"], rel=0.05)
    estimated = training_memory(shape, load).total
    assert 1 / ESTIMATE_FACTOR < estimated / measured["bytes"] < ESTIMATE_FACTOR, (estimated, measured)


def test_bert_base_has_its_110_million_weights() -> None:
    assert BASE.parameters == pytest.approx(109e6, rel=0.03)


def test_each_setting_moves_the_part_that_it_should() -> None:
    plain = training_memory(BASE, Load(32, 128))
    assert training_memory(BASE, Load(32, 128, optimizer="sgd")).moments == plain.moments // 2
    assert training_memory(BASE, Load(64, 128)).activations == pytest.approx(2 * plain.activations, rel=1e-6)
    assert training_memory(BASE, Load(32, 128, checkpointing=True)).activations < plain.activations / 3
    assert training_memory(BASE, Load(32, 128, trained=0.02)).gradients < plain.gradients / 40
    shards = training_memory(BASE, Load(32, 128, shards=4))
    assert shards.moments == pytest.approx(plain.moments / 4, rel=1e-6)
    assert training_memory(BASE, Load(32, 128, predicted=0.15)).activations > plain.activations
    assert inference_memory(BASE, 32, 128) < plain.total


def test_a_model_s_shape_is_read_from_any_architecture_s_config() -> None:
    gpt2 = {"n_layer": 12, "n_embd": 768, "n_head": 12, "n_inner": None, "vocab_size": 50257, "n_positions": 1024}
    assert shape_of_config(gpt2) == ModelShape(12, 768, 12, 3072, 50257, 1024)
    distilbert = {"n_layers": 6, "dim": 768, "n_heads": 12, "hidden_dim": 3072, "vocab_size": 30522}
    assert shape_of_config({**distilbert, "max_position_embeddings": 512}) == ModelShape(6, 768, 12, 3072, 30522)
    assert shape_of_config({"model_type": "mystery"}) is None
