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
def _yardstick():
    """The test suite's ``yardstick`` module, which imports its neighbours by bare name."""
    sys.path.insert(0, str(TESTS))
    try:
        return importlib.import_module("yardstick")
    finally:
        sys.path.remove(str(TESTS))


class Exact:
    """Exact loss and gradient of some samples.

    Raises
    ------
    ImportError
        mpmath or the tests are not there.
    KeyError
        The oracle does not know the loss.
    """

    def __init__(self, loss: str, params: Mapping[str, Any], y: np.ndarray, raw: np.ndarray):
        self._loss, self._gradient, _ = _yardstick().reference(loss, params, raw.dtype, y, raw)

    def errors(self, loss: np.ndarray, gradient: np.ndarray) -> tuple[float, float]:
        """Largest error of loss and of gradient, in ulp (of the largest term, for losses that cancel by nature)."""
        return float(self._loss.ulps(loss).max()), float(self._gradient.ulps(gradient).max())
