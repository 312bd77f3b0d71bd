"""What is to be learnt, in the form that training takes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.utils.extmath import safe_sparse_dot

from fastloss._kernels.dispatch import RefusedSampleError
from fastloss.linear_model.optimum.columns import row_blocks
from fastloss.losses import Loss


def product(X: Any, coef: Any) -> NDArray[Any]:
    """``X @ coef.T``, (n, n_scores), without a copy of all of X."""
    if issparse(X) or X.flags.c_contiguous or X.flags.f_contiguous:
        return safe_sparse_dot(X, coef.T, dense_output=True)
    out = np.empty((X.shape[0], coef.shape[0]), dtype=X.dtype)
    for rows, block in row_blocks(X):
        out[rows] = safe_sparse_dot(block, coef.T, dense_output=True)
    return out


@dataclass(frozen=True)
class Problem:
    """Checked and encoded training data, and the losses to minimise on them.

    The objective is, for every model on its own, the weighted mean of its loss at ``X @ coef + intercept + offset``,
    plus the penalty.  A multiclass loss makes one model of all scores, others one model per score.

    Attributes
    ----------
    X : ndarray or CSR matrix of shape (n, d)
        float32 or float64.
    targets : ndarray
        int32 (n,): class codes.  X's dtype (n,): the same numbers for every model.  X's dtype (n, n_scores): a column
        per score; for a multiclass loss the classes' probabilities.
    losses : tuple of Loss
        One for all scores, or one per score, which then differ in parameters only.
    n_scores : int
        Rows of the coefficients.
    sample_weight : ndarray of float64 (n,), or None
        >= 0.  For a multiclass loss class weights are in it.
    offset : ndarray of float64 (n,), or None
        Added to every score.
    positive : tuple of int, or None
        With class codes and a loss of one score: the code whose samples have target +1 for each model; others -1.
    class_weight : ndarray of float64 (n_scores, 2), or None
        Factor on the weight of samples with a negative and a positive target, model by model.
    soft : bool
        Targets are probabilities of the positive class; class weights are then mixed by them.
    """

    X: Any
    targets: NDArray[Any]
    losses: tuple[Loss, ...]
    n_scores: int = 1
    sample_weight: NDArray[np.float64] | None = None
    offset: NDArray[np.float64] | None = None
    positive: tuple[int, ...] | None = None
    class_weight: NDArray[np.float64] | None = None
    soft: bool = False

    @property
    def joint(self) -> bool:
        """Whether one loss sees all scores of a sample."""
        return self.losses[0].kind == "multiclass"

    @property
    def n_models(self) -> int:
        """Number of models that are trained independently."""
        return 1 if self.joint else self.n_scores

    def loss_of(self, k: int) -> Loss:
        """The loss of score k."""
        return self.losses[k if len(self.losses) > 1 else 0]

    def target_of(self, k: int) -> NDArray[Any]:
        """Targets of score k, as its loss takes them."""
        if self.positive is not None:
            return np.where(self.targets == self.positive[k], 1.0, -1.0)
        return self.targets[:, k] if self.targets.ndim == 2 else self.targets

    def take(self, rows: NDArray[np.intp]) -> Problem:
        """The same problem on some of the rows."""
        weight, offset = self.sample_weight, self.offset
        return replace(
            self,
            X=self.X[rows],
            targets=self.targets[rows],
            sample_weight=None if weight is None else weight[rows],
            offset=None if offset is None else offset[rows],
        )

    def raw(self, coef: NDArray[Any], intercept: NDArray[Any]) -> NDArray[Any]:
        """Scores of all rows, (n, n_scores)."""
        scores = product(self.X, coef) + intercept.astype(coef.dtype)
        return scores if self.offset is None else scores + self.offset[:, None].astype(coef.dtype)

    def samples_with(self, y: float) -> NDArray[np.intp]:
        """Places in `targets` of the samples of which a loss was given the target y, in ascending order."""
        if self.joint:  # of soft targets the first is told
            return np.argwhere((self.targets if self.targets.ndim == 1 else self.targets[:, 0]) == y)
        same = np.stack([self.target_of(k) == y for k in range(self.n_models)], axis=1)
        return np.argwhere(same if self.targets.ndim == 2 else same.any(axis=1))


@contextmanager
def naming_samples(problem: Problem) -> Iterator[None]:
    """Say which sample a user's function refuses in the midst of training, where only its target is known."""
    try:
        yield
    except RefusedSampleError as error:
        places = problem.samples_with(error.y)
        if not len(places):
            raise
        raise error.at(tuple(places[0].tolist()), unique=len(places) == 1) from None
