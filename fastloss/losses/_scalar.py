"""What the names in a loss's formula mean, one number at a time.

The formulas in this package are compiled (see ``fastloss/_kernels/_render.py``); these plain functions let the same
formulas run in Python, to be stepped through, tested and read.  The compiled ones are in ``_kernels/_math.pxd``.
"""

from __future__ import annotations

import math
from fractions import Fraction
from math import copysign, sqrt

__all__ = [
    "INF",
    "atanh_rest_unit",
    "copysign",
    "exp",
    "exp_sum",
    "expm1",
    "expm1_sum",
    "fma",
    "log",
    "log1p",
    "log1p_unit",
    "log1p_unit_rest",
    "log_cosh",
    "log_sum",
    "log_sum_rest",
    "power",
    "product_error",
    "sign",
    "sqrt",
    "stage",
    "unless_nan",
]

INF = math.inf


def _or_inf(function, x: float) -> float:
    try:
        return function(x)
    except OverflowError:
        return INF


def exp(x: float) -> float:
    """Exponential of x; overflows to inf."""
    return _or_inf(math.exp, x)


def expm1(x: float) -> float:
    """Exponential of x, minus 1; overflows to inf."""
    return _or_inf(math.expm1, x)


def exp_sum(high: float, low: float) -> float:
    """exp(high + low) where low is the rounding error of high."""
    return exp(high) * (1.0 + low)


def expm1_sum(high: float, low: float) -> float:
    """exp(high + low) - 1 where low is the rounding error of high."""
    return expm1(high) + low * exp(high)


def log_sum(a: float, x: float) -> float:
    """log(a + x) for a >= 0 without losing either; for x < 0, a is 0 or 1."""
    if math.isnan(a) or math.isnan(x) or a + x < 0:
        return math.nan
    if a + x == 0:
        return -INF
    return math.log1p(x) if a == 1 else math.log1p(a) if x == 1 else math.log(a + x)


def log_sum_rest(a: float, x: float, value: float) -> float:
    """What the last rounding of value = log_sum(a, x) left out: below what a plain float tells."""
    return 0.0


def log(x: float) -> float:
    """Natural logarithm; 0 gives -inf, below 0 NaN."""
    return log_sum(0.0, x)


def log1p(x: float) -> float:
    """log(1 + x)."""
    return log_sum(1.0, x)


def log1p_unit(x: float) -> float:
    """log(1 + x) for x in [0, 1]."""
    return math.log1p(x)


def log1p_unit_rest(x: float, value: float) -> float:
    """What the last rounding of value = log1p_unit(x) left out: below what a plain float tells."""
    return 0.0


def atanh_rest_unit(z: float) -> float:
    """2 atanh(s)/s - 2 for z = s*s in [0, 1/9]: log(1 + f) = f - s (f - this) with s = f/(2 + f)."""
    return 2 * sum(z**k / (2 * k + 1) for k in range(1, 20))


def log_cosh(x: float) -> float:
    """Logarithm of cosh x."""
    a = abs(x)
    return (
        math.log1p(math.expm1(a) ** 2 / (2 * math.exp(a))) if a < 1 else a - math.log(2) + math.log1p(math.exp(-2 * a))
    )


def power(x: float, y: float) -> float:
    """x**y for x >= 0; 0 to a negative power is inf."""
    if x == 0 and y < 0:
        return INF
    try:
        return math.pow(x, y)
    except OverflowError:
        return INF


def product_error(a: float, b: float, p: float) -> float:
    """a*b - p, exactly."""
    if not all(map(math.isfinite, (a, b, p))):
        return math.nan
    return float(Fraction(a) * Fraction(b) - Fraction(p))


def fma(a: float, b: float, c: float) -> float:
    """a*b + c; compiled with a single rounding where the CPU has it."""
    return a * b + c


def sign(x: float) -> float:
    """-1, 0 or 1; NaN stays NaN."""
    return 1.0 if x > 0 else (-1.0 if x < 0 else x)


def stage(x: float) -> float:
    """x; compiled, a value computed in a loop of its own (see ``_kernels/_render.py``)."""
    return x


def unless_nan(x: float, value: float) -> float:
    """Value, but NaN where x is."""
    return value if x == x else x
