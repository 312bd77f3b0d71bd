"""Coordinates in which a linear model's objective is well conditioned, whatever the scales of the columns of X.

The model is raw = coef·x + intercept. With a centre m and a matrix A close to the objective's hessian in coef about m,
v = L'·coef for A = L·L', and the centred intercept sqrt(h)·(intercept + coef·m) have a hessian close to the identity.
No column of X is ever changed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from fastloss.linear_model.optimum.columns import Moments

# A's diagonal is 1 when this is added.  Second moments of float32 rows are sums of a few thousand products in float32.
RIDGE = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 1e-10}
MOST_EXTRA = 0.1  # rather no correlations at all than more on their diagonal


class Coordinates:
    """v ↔ (coef, intercept), made from second moments of the columns.

    Parameters
    ----------
    present : Moments
        Whose weights are the second derivatives of the loss (divided by the sum of the sample weights).
    overall : Moments
        Under the sample weights alone, for K = 1.
    ridge : float
        Curvature of the penalty.
    fit_intercept : bool
    dtype : dtype
        In which the moments were summed.
    damping : float
        A curvature that is added as if all rows had it.
    """

    def __init__(
        self,
        present: Moments,
        overall: Moments,
        ridge: float,
        fit_intercept: bool,
        dtype: np.dtype,
        damping: float = 0.0,
    ) -> None:
        self.present, self.overall, self.fit_intercept, self.damping = present, overall, fit_intercept, damping
        self.K, self.d = present.mean.shape
        curvature = present.total[:, None]
        spread, everywhere = _second(present, fit_intercept), _diagonal(_second(overall, fit_intercept))
        # a column without variance among the rows that have curvature: what is found there is rounding
        noise = 16 * np.finfo(dtype).eps
        diagonal = curvature * (np.maximum(_diagonal(spread), 0.0) + noise * everywhere) + damping * everywhere + ridge
        self.centre = present.mean if fit_intercept else np.zeros_like(present.mean)
        # a column that is constant, up to rounding, does what the intercept does: its coefficient stays where it is
        moves = everywhere > (16 * np.finfo(dtype).eps * overall.mean) ** 2 * fit_intercept
        moves = moves & (diagonal > 0)
        self.scale = np.where(moves, 1.0 / np.sqrt(np.where(moves, diagonal, 1.0)), 0.0)
        self.intercept_scale = 1.0 / np.sqrt(np.where(present.total > 0, present.total, 1.0))
        self.factors: list[NDArray] | None = None
        if spread.ndim == 3:
            self.factors = [self._factor(k, curvature[k, 0] * spread[k], RIDGE[dtype]) for k in range(self.K)]
        elif overall.spread.ndim == 3:
            # the correlations of X for all scores, as far as curvature is the data's and not the penalty's
            share = np.where(moves, 1.0 - ridge / np.where(moves, diagonal, 1.0), 0.0).mean(axis=0, keepdims=True)
            scale = np.sqrt(np.maximum(share, 0.0) / np.where(everywhere > 0, everywhere, 1.0))
            correlation = _second(overall, fit_intercept)[0] * (scale.T * scale)
            self.factors = [_cholesky(correlation, RIDGE[dtype])]

    def _factor(self, k: int, matrix: NDArray, extra: float) -> NDArray:
        return _cholesky(matrix * self.scale[k] * self.scale[k][:, None], extra)

    def _solve(self, table: NDArray, trans: str) -> NDArray:
        """Rows divided by the factors, or by their transposes."""
        assert self.factors is not None
        if len(self.factors) == 1:
            return _divided(self.factors[0], table.T, trans).T
        return np.stack([_divided(f, row, trans) for f, row in zip(self.factors, table, strict=True)])

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return self.K * (self.d + self.fit_intercept)

    def model(self, v: NDArray) -> tuple[NDArray, NDArray]:
        """The model with coordinates v; the map is linear, so the change of a model along v as well."""
        table = v.reshape(self.K, self.d + self.fit_intercept)
        coef = table[:, : self.d]
        if self.factors is not None:
            coef = self._solve(coef, "T")
        coef = coef * self.scale
        if not self.fit_intercept:
            return coef, np.zeros(self.K)
        return coef, table[:, self.d] * self.intercept_scale - np.einsum("kj,kj->k", coef, self.centre)

    def gradient(self, coef: NDArray, intercept: NDArray) -> NDArray:
        """The gradient by v from the gradients by coef and intercept."""
        table = np.empty((self.K, self.d + self.fit_intercept))
        inner = (coef - intercept[:, None] * self.centre if self.fit_intercept else coef) * self.scale
        if self.factors is not None:
            inner = self._solve(inner, "N")
        table[:, : self.d] = inner
        if self.fit_intercept:
            table[:, self.d] = intercept * self.intercept_scale
        return table.ravel()

    def place(self, coef: NDArray, intercept: NDArray) -> NDArray:
        """The coordinates of a model."""
        table = np.empty((self.K, self.d + self.fit_intercept))
        inner = np.divide(coef, self.scale, out=np.zeros_like(coef), where=self.scale > 0)
        if self.factors is not None:
            every = self.factors * self.K if len(self.factors) == 1 else self.factors
            inner = np.stack([row @ f for f, row in zip(every, inner, strict=True)])
        table[:, : self.d] = inner
        if self.fit_intercept:
            table[:, self.d] = (intercept + np.einsum("kj,kj->k", coef, self.centre)) / self.intercept_scale
        return table.ravel()


def _second(moments: Moments, centred: bool) -> NDArray:
    """Second moments about the mean, or about 0."""
    mean, spread = moments.mean, moments.spread
    if centred:
        return spread
    return spread + (mean[:, :, None] * mean[:, None, :] if spread.ndim == 3 else mean**2)


def _diagonal(spread: NDArray) -> NDArray:
    return spread if spread.ndim == 2 else np.einsum("kjj->kj", spread)


def _cholesky(matrix: NDArray, extra: float) -> NDArray:
    """Factor of a matrix of correlations, made positive definite if rounding left it not quite so."""
    matrix = np.clip(matrix, -1.0, 1.0)
    matrix[np.diag_indices(len(matrix))] = 1.0
    while extra < MOST_EXTRA:
        try:
            return cholesky(matrix + extra * np.eye(len(matrix)), lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            extra *= 10
    return np.eye(len(matrix))


def _divided(factor: NDArray, right: NDArray, trans: str) -> NDArray:
    return solve_triangular(factor, right, trans=trans, lower=True, check_finite=False)
