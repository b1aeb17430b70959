"""Low rank: a matrix of a layer becomes the product of two thin ones, where that makes it smaller.

    figures = factorize(model, energy=0.9)     # in place; train on, and the rank stays
    stock = multiplied(model)                  # the same function as a stock model, at full size

A stock architecture has no place for two matrices, so the published torch weights are their product, and only what is
exported from the factorised model is smaller and faster. Both give the same answers.

I inputs, O outputs, R rank.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from jobs.compression.sparsity import layer_matrices
from jobs.core.config import BadInput, Problem


class LowRank(nn.Module):
    """y = (x · inner_RI') · outer_OR' + bias."""

    def __init__(self, weight_OI: Tensor, rank: int, bias_O: Tensor | None, transposed: bool) -> None:
        super().__init__()
        left_OR, values_R, right_RI = torch.linalg.svd(weight_OI, full_matrices=False)
        roots_R = values_R[:rank].sqrt()  # Halved between the two, so that both train at one pace.
        self.outer = nn.Parameter(left_OR[:, :rank] * roots_R)
        self.inner = nn.Parameter(roots_R[:, None] * right_RI[:rank])
        self.bias = None if bias_O is None else nn.Parameter(bias_O.clone())
        self.transposed = transposed

    @property
    def weight(self) -> Tensor:
        """The product, as the matrix whose place this takes (T5 asks for its type)."""
        product_OI = self.outer @ self.inner
        return product_OI.T.contiguous() if self.transposed else product_OI

    def forward(self, x: Tensor) -> Tensor:
        """Two thin products."""
        return nn.functional.linear(nn.functional.linear(x, self.inner), self.outer, self.bias)


def rank_of(weight_OI: Tensor, energy: float) -> int:
    """The fewest singular values that hold this share of the sum of their squares."""
    squares_R = torch.linalg.svdvals(weight_OI).square()
    held_R = squares_R.cumsum(0) / squares_R.sum()
    return min(int((held_R < energy).sum()) + 1, len(squares_R))


@torch.no_grad()
def ranks_of(model: PreTrainedModel, energy: float) -> dict[str, int]:
    """The ranks of the matrices in the layers that two thin ones would make smaller; BadInput where there are none."""
    ranks, matrices = {}, layer_matrices(model)
    for name, matrix in matrices.items():
        weight_OI = _as_linear(matrix)
        rank = rank_of(weight_OI, energy)
        if rank * sum(weight_OI.shape) < weight_OI.numel():
            ranks[name] = rank
    if not ranks:
        reason = f"none of the {len(matrices)} matrices in the layers of this {model.config.model_type} would be smaller"
        raise BadInput([Problem("factorize.energy", energy, reason, "Lower it, or leave it out.")])
    return ranks


@torch.no_grad()
def factorize(model: PreTrainedModel, energy: float) -> dict[str, float]:
    """Factorise the layers' matrices in place, where that makes them smaller (Denton et al. 2014, Noach & Goldberg 2020)."""
    before, matrices = parameter_count(model), layer_matrices(model)
    ranks = ranks_of(model, energy)
    for name, rank in ranks.items():
        matrix, (parent, _, own) = matrices[name], name.rpartition(".")
        made = LowRank(_as_linear(matrix), rank, matrix.bias, isinstance(matrix, Conv1D))
        setattr(model.get_submodule(parent), own, made.to(matrix.weight.device))
    return {
        "factorized_matrices": float(len(ranks)),
        "factorized_of": float(len(matrices)),
        "rank_mean": sum(ranks.values()) / len(ranks),
        "parameters_unfactorized": float(before),
        "parameters_factorized": float(parameter_count(model)),
    }


def _as_linear(matrix: Any) -> Tensor:
    """weight_OI, whichever way round the matrix has it."""
    weight: Tensor = matrix.weight.detach().float()
    return weight.T if isinstance(matrix, Conv1D) else weight


def parameter_count(model: nn.Module) -> int:
    """Numbers that are learned."""
    return sum(weight.numel() for weight in model.parameters())


@torch.no_grad()
def multiplied(model: PreTrainedModel) -> PreTrainedModel:
    """A stock model that computes the same; the given one stays as it is."""
    stock = copy.deepcopy(model)
    for name, module in list(stock.named_modules()):
        if isinstance(module, LowRank):
            parent, _, own = name.rpartition(".")
            outputs, inputs = module.outer.shape[0], module.inner.shape[1]
            whole = Conv1D(outputs, inputs) if module.transposed else nn.Linear(inputs, outputs, bias=module.bias is not None)
            whole.weight = nn.Parameter(module.weight.detach().clone())
            if module.bias is not None:
                whole.bias = nn.Parameter(module.bias.detach().clone())
            setattr(stock.get_submodule(parent), own, whole)
    return stock
