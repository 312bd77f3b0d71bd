"""One pass over the rows of X in blocks: column statistics, second moments, raw predictions.

The blocks are NumPy arrays of some thousand rows, so nothing of the size of X is ever copied, whatever its layout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg.blas import dsyrk, ssyrk

NEGLIGIBLE = 1e-2  # of the mean weight of a block's rows
BLOCK_BYTES = 1 << 21  # of a dense block: at home in a second or third level cache


def working_dtype(X: Any) -> np.dtype:
    """float32 for float32 data, else float64."""
    return np.dtype(np.float32 if X.dtype.newbyteorder("=") == np.float32 else np.float64)


def row_blocks(X: Any, *, dense: bool = True) -> Iterator[tuple[slice, Any]]:
    """Blocks of rows in the working dtype: arrays, or CSR matrices where X is sparse and `dense` is false."""
    dtype, (n, d) = working_dtype(X), X.shape
    rows = max(BLOCK_BYTES // (dtype.itemsize * max(d, 1)), 16)
    if sp.issparse(X) and not dense:
        rows = max(BLOCK_BYTES // (16 * (X.nnz // max(n, 1) + 1)), 16)
    for begin in range(0, n, rows):
        place = slice(begin, min(begin + rows, n))
        block = X[place]
        if not sp.issparse(X):
            yield place, np.ascontiguousarray(block, dtype)
        elif dense:
            yield place, block.toarray()  # adds duplicates up
        else:
            block.sum_duplicates()  # the block is a copy
            yield place, block


class MomentsOverflowError(ArithmeticError):
    """Squares of the numbers of X overflow."""


@dataclass
class Moments:
    """Weighted sums over the rows, for one or more columns of row weights.

    Attributes
    ----------
    total : ndarray of shape (K,)
        Sums of the row weights.
    mean : ndarray of shape (K, d)
        Weighted means of the columns.
    spread : ndarray of shape (K, d, d) or (K, d)
        Weighted covariances, or only their diagonals.
    """

    total: NDArray
    mean: NDArray
    spread: NDArray


def moments(X: Any, weights: Callable[[slice, Any], NDArray] | None, K: int, *, full: bool) -> Moments:
    """Weighted means and (co)variances of the columns in one pass.

    Parameters
    ----------
    X : array or CSR matrix of shape (n, d)
    weights : callable or None
        From rows (a slice, and their block) to their (rows, K) weights; None: all 1, with K = 1.
    K : int
    full : bool
        Covariances (d, d) rather than variances (d,); sparse blocks are then made dense.
    """
    d = X.shape[1]
    total, first = np.zeros(K), np.zeros((K, d))
    second = np.zeros((K, d, d) if full else (K, d))
    shift: NDArray | None = None
    for place, block in row_blocks(X, dense=full):
        # sums of squares lose their digits where a mean is large: sums about a point inside the data do not
        if shift is None:
            shift = np.zeros(d, block.dtype) if sp.issparse(X) else block.mean(axis=0)
        moved = block if sp.issparse(X) else block - shift
        rows = weights(place, block) if weights is not None else np.ones((block.shape[0], 1))
        total += rows.sum(axis=0)
        if full:
            for k in range(K):
                scaled, root = _scaled(moved, rows[:, k]) if weights is not None else (moved, rows.astype(block.dtype))
                first[k] += (scaled.T @ root)[:, 0]
                second[k] += _squares(scaled)
        else:
            rows = rows.astype(block.dtype)
            first += (moved.T @ rows).T
            squared = moved.multiply(moved).tocsr() if sp.issparse(moved) else moved * moved
            second += (squared.T @ rows).T
    safe = np.where(total > 0, total, 1.0)[:, None]
    first /= safe
    second /= safe[:, :, None] if full else safe
    if not np.isfinite(second).all():
        raise MomentsOverflowError
    if full:
        second = _symmetric(second)
    second -= first[:, :, None] * first[:, None, :] if full else first * first
    return Moments(total, first + (0 if shift is None else shift), second)


def weighted_moments(X: Any, weight: NDArray | None, *, full: bool) -> Moments:
    """`moments` under the sample weights, (n,) or None, with K = 1."""
    return moments(X, None if weight is None else lambda place, _: weight[place][:, None], 1, full=full)


def _scaled(moved: NDArray, weight: NDArray) -> tuple[NDArray, NDArray]:
    """Rows times the roots of their weights, and these.

    Rows that weigh next to nothing are left out.  Of mnist's ten one-vs-rest hinges a few per cent of the rows have a
    curvature, of its softmax a fifth have nearly all: that much less work.
    """
    heavy = weight > NEGLIGIBLE * weight.mean()
    if 2 * np.count_nonzero(heavy) < len(heavy):
        moved, weight = moved[heavy], weight[heavy]
    root = np.sqrt(weight)[:, None].astype(moved.dtype)
    return moved * root, root


def _squares(rows: NDArray) -> NDArray:
    """The upper triangle of transposed rows times rows, half the work of a general product."""
    product = ssyrk if rows.dtype == np.float32 else dsyrk
    return product(1.0, rows.T) if rows.shape[1] else np.zeros((0, 0))


def _symmetric(matrices: NDArray) -> NDArray:
    """Upper triangles (K, d, d) completed."""
    upper = np.triu(matrices)
    return upper + np.triu(matrices, 1).swapaxes(1, 2)


def raw_predictions(block: Any, coef: NDArray, intercept: NDArray) -> NDArray:
    """(rows, K) raw predictions of a block, in its dtype."""
    return block @ coef.T.astype(block.dtype) + intercept.astype(block.dtype)
