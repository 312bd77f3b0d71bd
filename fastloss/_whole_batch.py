"""A linear model under a loss over the whole batch: all raw predictions, the loss, then the products with X again."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastloss._kernels import batch, linear
from fastloss.losses import BatchLoss, get_loss

__all__ = ["WholeBatch"]


class WholeBatch:
    """Stands in for ``linear.Linear`` where the loss is no sum over samples: two passes over X, with its tiles.

    Parameters
    ----------
    loss : BatchLoss
    X : ndarray (n, d), or tuple (data, indices, indptr, n, d) of checked CSR arrays
    y : ndarray (n,)
    sample_weight, offset : ndarray, or None
    single : bool
        Whether float32 is the working dtype of the products; the loss works in float64.
    n_threads : int or None
    group : array-like (G,), or None
    """

    def __init__(
        self,
        loss: BatchLoss,
        X: NDArray | tuple[NDArray, NDArray, NDArray, int, int],
        y: NDArray,
        sample_weight: NDArray | None,
        offset: NDArray | None,
        single: bool,
        n_threads: int | None,
        group: ArrayLike | None,
    ) -> None:
        if y.ndim != 1:
            raise ValueError(f"y has shape {y.shape}: {loss.name} needs one target per row, ({y.shape[0]},)")
        self.loss, self.n_threads = loss, n_threads
        self.data = loss._batch(y, sample_weight, group)
        self.factor, _ = loss._factors(self.data)
        if not self.factor < np.inf:
            raise ValueError(f"the mean loss is not defined: {loss._no_mean(self.data)}")
        # Only its products are used: any per-sample loss would do.
        nothing, zeros = get_loss("squared_error")._kernel, np.broadcast_to(0.0, y.shape)
        self.products = linear.Linear(nothing, X, zeros, None, offset, 1, single, n_threads)
        self.dtype = np.dtype(np.float32 if single else np.float64)

    def evaluate(
        self, mode: int, w: tuple[NDArray, NDArray], v: tuple[NDArray, NDArray] | None = None
    ) -> tuple[float, NDArray, NDArray]:
        """Mean loss, and its gradient by coefficients (1, d) and intercept (1,), float64."""
        if mode != linear.VALUE:
            raise ValueError(
                f"{self.loss.name} is a loss over the whole batch: its hessian couples all rows, and there are no "
                "products with it; use a method that takes gradients alone, such as 'L-BFGS-B'"
            )
        data, scores = self.data, np.empty(self.data.n, self.dtype)
        self.products.evaluate(linear.SCORES, w, whole=scores)
        value, slopes, _ = self.loss._terms(data, data.rows(scores), batch.NO_HESSIAN, self.n_threads)
        scores[:] = 0
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            scores[slice(None) if data.kept is None else data.kept] = slopes * self.factor
        _, coef, intercept = self.products.evaluate(linear.SLOPES, w, whole=scores)
        return value * self.factor, coef, intercept
