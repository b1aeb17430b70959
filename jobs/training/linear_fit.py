"""Fitting a linear model: any loss of its outputs, the weights drawn to 0, by L-BFGS over all rows at once.

    fit = LinearProblem(matrix_NR, loss, outputs=2)
    weights_RK, bias_K = fit.solve(strength=10.0)

    minimise   loss(X W + b)  +  |W|² / (2 · strength)

With cross-entropy that is scikit-learn's LogisticRegression(C=strength) of three labels and more. Of two that has one column,
and here are two that stand against each other: the same as its C=2 · strength. With squared errors it is Ridge of
alpha 1 / (2 · strength). K outputs, N items, R rows of the table.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy import sparse
    from torch import Tensor

MOST_STEPS, FEWEST_STEPS, WORK = 200, 20, 4_000_000_000
"""Steps to a solution: as many as so many products of an item's feature with a weight allow, which take some ten seconds."""
SLOPE, GAIN = 1e-6, 1e-7
"""It is done where no slope of the mean loss is steeper, or a step makes it by no more than this less."""
MEMORY_NUMBERS = 20_000_000
"""Of what L-BFGS remembers, at most so many numbers (Liu & Nocedal 1989)."""


class LinearProblem:
    """What is minimised. One that was solved is the start of the next solution."""

    def __init__(self, matrix_NR: "sparse.csr_matrix", loss: Callable[["Tensor"], "Tensor"], outputs: int) -> None:
        """`loss`: the sum over all items of outputs_NK, float32 as the matrix is."""
        # Both ways, since products with a matrix that lies the other way take longer.
        self.matrix_NR, self.turned_RN = matrix_NR, matrix_NR.T.tocsr()
        self.steps = int(np.clip(WORK // max(1, matrix_NR.nnz * outputs), FEWEST_STEPS, MOST_STEPS))
        self.loss, self.outputs = loss, outputs
        self.start = np.zeros((matrix_NR.shape[1] + 1) * outputs)

    def slopes(self, bias_K: np.ndarray) -> np.ndarray:
        """d loss / d outputs_NK of a model that knows no feature."""
        return self._valued(np.tile(bias_K, (self.matrix_NR.shape[0], 1)))[1]

    def solve(self, strength: float) -> tuple[np.ndarray, np.ndarray]:
        """weights_RK and bias_K, float64."""
        import torch

        flat = torch.from_numpy(self.start.copy()).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [flat],
            max_iter=self.steps,
            history_size=int(np.clip(MEMORY_NUMBERS // (2 * len(self.start)), 3, 10)),
            tolerance_grad=SLOPE,
            tolerance_change=GAIN,
            line_search_fn="strong_wolfe",
        )

        def closure() -> "Tensor":
            value, slopes = self._objective(flat.detach().numpy(), strength)
            flat.grad = torch.from_numpy(slopes)
            return torch.tensor(value, dtype=torch.float64)

        optimizer.step(closure)
        self.start = flat.detach().numpy()
        found = self.start.reshape(-1, self.outputs)
        return found[:-1], found[-1]

    def constant(self) -> np.ndarray:
        """bias_K of the best model that knows no feature."""
        from scipy.optimize import minimize

        def objective(bias_K: np.ndarray) -> tuple[float, np.ndarray]:
            items = self.matrix_NR.shape[0]
            loss, slopes_NK = self._valued(np.tile(bias_K, (items, 1)))
            return loss / items, slopes_NK.sum(0) / items

        found: np.ndarray = minimize(objective, np.zeros(self.outputs), jac=True, method="L-BFGS-B").x
        return found

    def _objective(self, flat: np.ndarray, strength: float) -> tuple[float, np.ndarray]:
        """The mean over items, and its slope along each number."""
        weights_RK, bias_K = flat.reshape(-1, self.outputs)[:-1], flat[-self.outputs :]
        items = self.matrix_NR.shape[0]
        loss, slopes_NK = self._valued(self.matrix_NR @ weights_RK.astype(np.float32) + bias_K)
        value = loss + float(np.vdot(weights_RK, weights_RK)) / (2 * strength)
        slopes_RK = self.turned_RN @ slopes_NK + weights_RK / strength
        return value / items, np.concatenate([slopes_RK.ravel(), slopes_NK.sum(0, dtype=np.float64)]) / items

    def _valued(self, outputs_NK: np.ndarray) -> tuple[float, np.ndarray]:
        import torch

        outputs = torch.from_numpy(np.ascontiguousarray(outputs_NK, dtype=np.float32)).requires_grad_()
        loss = self.loss(outputs)
        loss.backward()
        assert outputs.grad is not None
        return float(loss.detach()), outputs.grad.numpy()
