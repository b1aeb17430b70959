"""Thin matrices say what their product says, and only the export is smaller. `pytest tests/jobs/test_factorize.py`"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from jobs.compression.export import export_onnx
from jobs.compression.factorize import LowRank, factorize, multiplied, rank_of
from jobs.compression.sparsity import layer_matrices
from jobs.core.config import BadInput
from jobs.tasks.supervised import Supervised
from jobs.training.loop import fit
from jobs.training.settings import Training
from tests.jobs.small_models import logits, padded, parameters, reloaded, small_model
from tests.jobs.tiny import tiny_classifier
from tests.jobs.training_runs import Recorded


def low_rank(matrix: nn.Module, rank: int, seed: int) -> None:
    """Give the matrix this rank, all directions alike."""
    weight: Any = matrix.weight
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.linalg.qr(torch.randn(size, rank, generator=generator)).Q for size in weight.shape)
    with torch.no_grad():
        weight.copy_(left @ right.T)


def test_the_rank_is_the_fewest_values_that_hold_the_energy() -> None:
    weight = torch.diag(torch.tensor([3.0, 2.0, 1.0, 1.0]))  # energies 9, 4, 1, 1 of 15
    assert [rank_of(weight, energy) for energy in (0.5, 0.6, 0.61, 0.86, 0.87, 0.94, 0.999)] == [1, 1, 2, 2, 3, 4, 4]


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5", "llama", "modernbert"])
def test_matrices_of_low_rank_lose_nothing(architecture: str, tmp_path: Path) -> None:
    model = small_model(architecture)
    for seed, matrix in enumerate(layer_matrices(model).values()):
        low_rank(matrix, 5, seed)
    shapes = [tuple(matrix.weight.shape) for matrix in layer_matrices(model).values()]
    before = parameters(model)
    with torch.inference_mode():
        wanted_BC = logits(model, *padded())
    figures = factorize(model, 0.99)

    expected = sum(rows * columns - 5 * (rows + columns) for rows, columns in shapes if 5 * (rows + columns) < rows * columns)
    assert before - parameters(model) == expected > 0
    assert figures["parameters_factorized"] == parameters(model) and figures["rank_mean"] == 5
    stock = multiplied(model)
    with torch.inference_mode():
        assert (logits(model, *padded()) - wanted_BC).abs().max() < 1e-4
        assert (logits(stock, *padded()) - logits(model, *padded())).abs().max() < 1e-5
        loaded = reloaded(stock, architecture, tmp_path)
        assert (logits(loaded, *padded()) - logits(stock, *padded())).abs().max() < 1e-6
    assert parameters(loaded) == before and not any(isinstance(module, LowRank) for module in stock.modules())


def test_matrices_that_two_would_not_make_smaller_stay() -> None:
    model = small_model("bert")
    with torch.no_grad():
        for matrix in layer_matrices(model).values():
            nn.init.orthogonal_(matrix.weight)
    before = parameters(model)
    with pytest.raises(BadInput, match=r"factorize\.energy = 0\.9: none of the 18 matrices in the layers of this bert"):
        factorize(model, 0.9)
    assert parameters(model) == before
    low_rank(layer_matrices(model)["bert.encoder.layer.1.intermediate.dense"], 3, 0)
    figures = factorize(model, 0.9)
    assert (figures["factorized_matrices"], figures["factorized_of"]) == (1, 18)
    assert before - parameters(model) == 32 * 64 - 3 * (32 + 64)


def test_healing_keeps_the_rank_and_the_export_is_smaller(classification: Supervised, tmp_path: Path) -> None:
    model = tiny_classifier("bert", 2, len(classification.tokenizer))
    for seed, matrix in enumerate(layer_matrices(model).values()):
        low_rank(matrix, 8, seed)
    figures = factorize(model, 0.5)
    assert figures["rank_mean"] == 4
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    settings = Training.model_validate(
        {"precision": "fp32", "batch_size": 16, "epochs": 1, "optimizer": {"learning_rate": 1e-3}}
    )
    fit(model, classification, settings, Recorded())
    assert all(not torch.equal(weight, before[name]) for name, weight in model.state_dict().items() if "inner" in name)

    stock = multiplied(model)
    for matrix in layer_matrices(stock).values():
        assert torch.linalg.matrix_rank(matrix.weight.detach()) == 4
    assert export_onnx(model, tmp_path / "thin.onnx") < 1e-4
    tables = [tensor.dims for tensor in onnx.load(str(tmp_path / "thin.onnx")).graph.initializer if len(tensor.dims) == 2]
    assert sum(4 in dims for dims in tables) == 2 * 6 * 2, "two thin tables for each of six matrices in two layers"
    assert sum(int(np.prod(dims)) for dims in tables) < figures["parameters_unfactorized"] - 12_000
    session = onnxruntime.InferenceSession(str(tmp_path / "thin.onnx"), providers=["CPUExecutionProvider"])
    ids_BT, mask_BT = padded(len(classification.tokenizer))
    found_BC = session.run(["logits"], {"input_ids": ids_BT.numpy(), "attention_mask": mask_BT.numpy()})[0]
    with torch.inference_mode():
        assert np.abs(found_BC - logits(stock.cpu(), ids_BT, mask_BT).numpy()).max() < 1e-4
