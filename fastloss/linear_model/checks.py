"""Checks of the estimators' arguments."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils import check_array
from sklearn.utils.multiclass import check_classification_targets

LABEL_TABLE = 1 << 16  # integers so far apart are looked up in a table: 256 kB, at home in a cache


def check_real(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, above: bool = False, below: bool = False
) -> None:
    """`value` must be a finite real number >= low (> low when `above`) and <= high (< high when `below`)."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    number = float(value)
    if not math.isfinite(number) or number < low or (above and number == low):
        wanted = "finite" if low == -math.inf else f"{'>' if above else '>='} {low:g} and finite"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    if number > high or (below and number == high):
        raise ValueError(f"{name} must be {'<' if below else '<='} {high:g}, got {value!r}")


def check_int(name: str, value: Any, low: int) -> None:
    """`value` must be an integer >= low."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < low:
        raise ValueError(f"{name} must be >= {low}, got {value!r}")


def check_bool(name: str, value: Any) -> None:
    """`value` must be True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """`value` must be one of `choices`."""
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_sample_weight(sample_weight: Any, n: int, *, allow_zero: bool = False) -> np.ndarray | None:
    """Weights as an array of float64 (whatever X's dtype: 1e-60 is a weight, not zero); None stays None."""
    if sample_weight is None:
        return None
    if isinstance(sample_weight, Real):
        sample_weight = np.full(n, sample_weight, dtype=np.float64)
    weight = check_array(
        sample_weight, accept_sparse=False, ensure_2d=False, dtype=np.float64, order="C", input_name="sample_weight"
    )
    if weight.ndim != 1:
        raise ValueError(f"sample_weight must be 1D array or scalar, got shape {weight.shape}")
    if weight.shape[0] != n:
        raise ValueError(f"sample_weight has {weight.shape[0]} elements, X has {n} rows")
    if (weight < 0).any():
        i = int(np.argmax(weight < 0))
        raise ValueError(f"sample_weight[{i}] = {weight[i]!r} is negative; weights must be >= 0")
    if not weight.any() and not allow_zero:
        raise ValueError("Sample weights must contain at least one non-zero number: all of sample_weight is zero")
    return weight


def encode_labels(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sorted classes of y and, as int32, every label's position among them; a y that holds no labels is an error.

    Integers close together are looked up in a table: sorting the 581,012 of covtype, as `numpy.unique` does, and
    looking for them again in the check took 26 ms, nearly an epoch; the table takes 1.
    """
    if y.dtype.kind in "ib" and y.size:
        low, high = int(y.min()), int(y.max())
        if high - low < LABEL_TABLE:
            position = y.astype(np.intp) - low
            table = np.zeros(high - low + 1, dtype=np.int32)
            table[position] = 1
            present = np.flatnonzero(table)
            # with more classes the check below warns that this looks like regression
            if 2 * present.size <= y.size:
                table[present] = np.arange(present.size)
                return (present + low).astype(y.dtype), table[position]
    check_classification_targets(y)
    classes, codes = np.unique(y, return_inverse=True)
    return classes, codes.astype(np.int32, copy=False)


def start_values(name: str, init: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A fresh array of start values: a copy of `init`, or zeros."""
    if init is None:
        return np.zeros(shape, dtype=dtype)
    init = np.atleast_1d(init) if isinstance(init, Real) or np.ndim(init) == 0 else init
    values = check_array(init, ensure_2d=False, allow_nd=True, dtype=dtype, order="C", copy=True, input_name=name)
    if values.size != math.prod(shape) or (values.ndim > 1 and len(shape) > 1 and values.shape != shape):
        raise ValueError(f"Provided {name} does not match dataset: {name} has shape {values.shape}, expected {shape}")
    return values.reshape(shape)


@contextmanager
def names_of_validation_data() -> Iterator[None]:
    """Errors about elements of X and y name X_val and y_val."""
    try:
        yield
    except ValueError as error:
        raise ValueError(re.sub(r"\b([Xy])(?=\[)", r"\1_val", str(error))) from None
