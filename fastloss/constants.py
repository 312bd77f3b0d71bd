"""The best constant: where intercepts and boosting start, what objectives that cross zero are compared with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastloss.losses import Loss

SAMPLE = 100_000  # targets that are looked at: a start does not have to be exact
WIDEST = 30.0  # of log-odds and the like: exp(-30) is 1e-13
BISECTIONS = 60


def best_constant(
    loss: Loss,
    y: NDArray,
    K: int,
    weight: NDArray | None = None,
    offset: NDArray | None = None,
    *,
    most: int = SAMPLE,
) -> NDArray:
    """Intercepts of the best model without coefficients: the mean, a quantile, log-odds, class frequencies ...

    Parameters
    ----------
    loss : Loss
    y : ndarray of shape (n,) or (n, K)
        As the loss takes them.
    K : int
    weight : ndarray of shape (n,), optional
    offset : ndarray of shape (n,) or (n, K), optional
    most : int
        About so many samples are looked at; labels and means are counted exactly.

    Returns
    -------
    ndarray of shape (K,)
    """
    if loss.kind == "multiclass":
        return _log_frequencies(y, K, weight)
    columns = y.reshape(len(y), -1)
    offsets = None if offset is None else offset.reshape(len(y), -1)
    return np.array(
        [
            _pointwise(
                loss,
                columns[:, k],
                weight,
                None if offsets is None else offsets[:, min(k, offsets.shape[1] - 1)],
                most,
            )
            for k in range(K)
        ]
    )


def _log_frequencies(y: NDArray, K: int, weight: NDArray | None) -> NDArray:
    weights = np.ones(len(y)) if weight is None else weight
    mass = weights @ y if y.ndim == 2 else np.bincount(y.astype(np.intp), weights, K)
    logs = np.log(np.maximum(mass / mass.sum(), np.exp(-WIDEST)))
    return logs - logs.mean()


def _pointwise(loss: Loss, y: NDArray, weight: NDArray | None, offset: NDArray | None, most: int) -> float:
    if loss._masks_nan:
        there = ~np.isnan(y) if weight is None else ~np.isnan(y) & (weight > 0)
        if not there.any():
            return 0.0
        y, weight, offset = y[there], *(None if array is None else array[there] for array in (weight, offset))
    if loss.link == "log" and offset is None:
        return _log_mean(y, weight)
    y, weight, offset = _reduced(y, weight, offset, most)
    known = weight > 0
    y, weight, offset = y[known], weight[known], offset[known]
    if not loss.convex and loss.kind == "regression":
        return float(np.median(y - offset))  # where robust losses have their best minimum, or close to it
    if loss.link == "log":
        middle, widest = _log_mean(y, weight), float(np.abs(offset).max())
        low, high = middle - widest, middle + widest
    elif loss.kind == "regression":
        low, high = float((y - offset).min()), float((y - offset).max())
    else:
        low, high = -WIDEST - float(offset.max()), WIDEST - float(offset.min())

    def slope(at: float) -> float:
        return float(weight @ loss.gradient(y, offset + at, reduction="none", n_threads=1))

    if loss._crosses_zero and loss.link != "log":  # a sum of losses of y and of its logarithm
        low, high = min(low, -WIDEST), max(high, WIDEST)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        there = slope(middle)
        if there == 0.0:
            return middle
        low, high = (low, middle) if there > 0 else (middle, high)
    return 0.5 * (low + high)


def _log_mean(y: NDArray, weight: NDArray | None) -> float:
    weights = np.ones(len(y)) if weight is None else weight
    mean = float(weights @ y) / float(weights.sum())
    return float(np.log(mean)) if mean > 0 else -WIDEST


def _reduced(y: NDArray, weight: NDArray | None, offset: NDArray | None, most: int) -> tuple[NDArray, NDArray, NDArray]:
    """Two labels with the sums of their weights; or some of the samples."""
    if offset is None and y.dtype == np.int8:
        weights = np.ones(len(y)) if weight is None else weight
        positive = float(weights[y > 0].sum())
        return np.array([1.0, -1.0]), np.array([positive, float(weights.sum()) - positive]), np.zeros(2)
    some = slice(None, None, max(1, len(y) // most))
    if weight is not None and not weight[some].any():
        some = slice(None)
    y = np.asarray(y[some], np.float64)
    return (
        y,
        np.ones(len(y)) if weight is None else weight[some],
        np.zeros(len(y)) if offset is None else offset[some],
    )
