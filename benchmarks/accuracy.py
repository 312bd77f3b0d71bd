"""Errors in ulp against the exact value: the oracle and the yardstick of the test suite, computed with mpmath."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).resolve().parent.parent / "tests"


@cache
def _from_tests(name: str):
    """A module of the test suite, which imports its neighbours by bare name."""
    sys.path.insert(0, str(TESTS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(TESTS))


class Exact:
    """Exact loss and gradient of some samples; raw of shape (n, K) is for a loss of several classes.

    Raises
    ------
    ImportError
        mpmath or the tests are not there.
    KeyError
        The oracle does not know the loss.
    """

    def __init__(self, loss: str, params: Mapping[str, Any], y: np.ndarray, raw: np.ndarray):
        if raw.ndim == 1:
            self._loss, self._gradient, _ = _from_tests("yardstick").reference(loss, params, raw.dtype, y, raw)
            return
        oracle = _from_tests("oracle_multiclass")
        formula = oracle.ORACLES[loss].defaults  # the other parameters act on labels and weights
        params = {name: value for name, value in params.items() if name in formula}
        self._loss, self._gradient, _ = oracle.reference(loss, params, y, raw)

    def errors(self, loss: np.ndarray, gradient: np.ndarray) -> tuple[float, float]:
        """Largest error of loss and of gradient, in ulp (of the largest term, for losses that cancel by nature)."""
        return float(self._loss.ulps(loss).max()), float(self._gradient.ulps(gradient.ravel()).max())
