"""Single weights set to 0 by magnitude. The file is smaller only after compression; memory and speed stay as they are.

sparse = Sparsity(model)
for step in range(1, steps + 1):
    sparse.raise_to(cubic(0.8, step, steps))      # zeros stay zeros while the model trains on
sparse.release()
"""

import gzip
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from jobs.architectures.layers import LAYER
from jobs.compression.pruning_units import MATRICES

GZIP_LEVEL = 6


def cubic(share: float, step: int, steps: int) -> float:
    """The share of zeros after a step: fast at first, slower as fewer weights are left (Zhu & Gupta 2017)."""
    return share * (1 - (1 - step / steps) ** 3)


class Sparsity:
    """The matrices of a model's layers, and which of their weights are held at 0."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.handles: list[RemovableHandle] = []

    def raise_to(self, share: float) -> None:
        """Set each matrix's smallest weights to 0, and keep their gradients at 0 so that no optimizer moves them.

        An optimizer's step from 0 with gradient 0 is 0, decay of 0 is 0: no hook in the training is needed.
        """
        self.release()
        for matrix in layer_matrices(self.model).values():
            weight = matrix.weight
            assert isinstance(weight, nn.Parameter)
            gone = torch.zeros_like(weight, dtype=torch.bool)
            smallest = weight.detach().abs().flatten().argsort()[: round(share * weight.numel())]
            gone.view(-1)[smallest] = True
            with torch.no_grad():
                weight[gone] = 0
            if weight.requires_grad:
                self.handles.append(weight.register_hook(partial(_without, gone)))

    def release(self) -> None:
        """Hold nothing any more; what is 0 stays so until the model is trained."""
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def metrics(self) -> dict[str, float]:
        """The share of the matrices' weights that is 0, and what gzip leaves of the bytes of these matrices."""
        weights = [matrix.weight.detach().float().cpu() for matrix in layer_matrices(self.model).values()]
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        content = b"".join(weight.numpy().tobytes() for weight in weights)
        packed = len(gzip.compress(content, GZIP_LEVEL))
        return {
            "weights_zero": zeros / sum(weight.numel() for weight in weights),
            "matrices_mb": len(content) / 1e6,
            "matrices_gzip_mb": packed / 1e6,
        }


def layer_matrices(model: nn.Module) -> dict[str, Any]:
    """The matrices inside the layers, by name: no embeddings, no head."""
    return {name: one for name, one in model.named_modules() if isinstance(one, MATRICES) and LAYER.search(f".{name}.")}


def _without(gone: Tensor, gradient: Tensor) -> Tensor:
    return gradient.masked_fill(gone.to(gradient.device), 0)
