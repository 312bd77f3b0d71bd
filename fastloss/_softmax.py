"""softmax, log_softmax and logsumexp: the pieces of cross-entropy, with its accuracy."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastloss._kernels import dispatch

__all__ = ["log_softmax", "logsumexp", "softmax"]


def softmax(raw: ArrayLike, axis: int = -1, *, out: NDArray | None = None, n_threads: int | None = None) -> NDArray:
    """Softmax along an axis, exp(raw) / Σ exp(raw).

    Parameters
    ----------
    raw : array-like of at least one dimension
        Scores. float32 and float64 are taken as they are, with any strides; other real types are read as float64.
    axis : int, default -1
        The axis of the classes; it must not be empty.
    out : ndarray of raw's shape and (floating) dtype, optional
        Receives the result; any strides.
    n_threads : int, optional
        Number of threads; None for as many as are useful. The result does not depend on it.

    Returns
    -------
    ndarray of raw's shape
        Each within 4 ulp of the softmax of the rounded differences raw − max(raw). Several +inf share the probability
        equally; a NaN, or nothing but −inf, makes its whole line NaN.

    Raises
    ------
    ValueError, TypeError
        For a wrong axis, shape, dtype or buffer.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.softmax([0.0, 0.0])
    array([0.5, 0.5])
    """
    return _elementwise(raw, axis, out, n_threads, logarithm=False)


def log_softmax(raw: ArrayLike, axis: int = -1, *, out: NDArray | None = None, n_threads: int | None = None) -> NDArray:
    """Logarithm of the softmax along an axis, raw − log Σ exp(raw), exact also where a class is all but certain.

    Parameters, errors and accuracy are those of :func:`softmax`.

    Returns
    -------
    ndarray of raw's shape

    Examples
    --------
    >>> import fastloss
    >>> fastloss.log_softmax([40.0, 0.0])
    array([-4.24835426e-18, -4.00000000e+01])
    """
    return _elementwise(raw, axis, out, n_threads, logarithm=True)


def logsumexp(raw: ArrayLike, axis: int = -1, *, out: NDArray | None = None, n_threads: int | None = None) -> Any:
    """Logarithm of the sum of exponentials along an axis, log Σ exp(raw), without overflow.

    Parameters are those of :func:`softmax`, but `out` has raw's shape without the axis.

    Returns
    -------
    ndarray of raw's shape without the axis, or a scalar where raw has one dimension
        max + log(1 + Σ exp(others − max)), within 4 ulp of its largest term. +inf where some score is, −inf where all
        are, NaN for a line with NaN.

    Examples
    --------
    >>> import fastloss
    >>> float(fastloss.logsumexp([1000.0, 1000.0]))
    1000.6931471805599
    """
    scores = _scores(raw, axis)
    shape = scores.shape[:-1]
    result = np.empty(shape, scores.dtype) if out is None else _checked(out, shape, scores.dtype)
    lines = result[None] if scores.ndim == 1 else result
    for index in np.ndindex(scores.shape[:-2]):
        part = scores[index] if scores.ndim > 1 else scores[None]
        dispatch.softmax(part, True, None, lines[index], n_threads)
    return result if out is not None or scores.ndim > 1 else result[()]


def _elementwise(raw: ArrayLike, axis: int, out: NDArray | None, n_threads: int | None, logarithm: bool) -> NDArray:
    scores = _scores(raw, axis)
    given = np.asarray(raw)
    if out is None:
        # the memory order of the scores, so that the result is written as it is read
        result = np.empty_like(given, dtype=scores.dtype, subok=False)
    else:
        result = _checked(out, given.shape, scores.dtype)
    lines = np.moveaxis(result, axis, -1)
    if not scores.size:
        return result
    for index in np.ndindex(scores.shape[:-2]):
        part, to = (scores[index], lines[index]) if scores.ndim > 1 else (scores[None], lines[None])
        dispatch.softmax(part, logarithm, to, None, n_threads)
    return result


def _scores(raw: ArrayLike, axis: int) -> NDArray:
    """The array with the classes on the last axis (a view); not float32 or float64 becomes float64."""
    scores = dispatch.as_floating(raw, "raw")
    scores = scores if scores.dtype.isnative else scores.astype(scores.dtype.newbyteorder("="))
    if scores.ndim == 0:
        raise ValueError("raw must have at least one dimension, got a scalar")
    try:
        place = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis must be an integer, got {axis!r}") from None
    if not -scores.ndim <= place < scores.ndim:
        raise ValueError(f"axis = {axis} is not one of the {scores.ndim} of raw, of shape {scores.shape}")
    if scores.shape[place] == 0:
        raise ValueError(f"raw has no scores along axis {axis}: shape {scores.shape}")
    return np.moveaxis(scores, place, -1)


def _checked(out: NDArray, shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a numpy array, got {type(out).__name__}")
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}, expected {shape}")
    if out.dtype != dtype:
        raise TypeError(f"out has dtype {out.dtype}, expected {dtype}")
    return out
