"""How far a computed array is from the exact values, in units in the last place."""

from dataclasses import dataclass

import numpy as np
from mpmath import mp, mpf
from oracle import exact

ORDERS = ("loss", "gradient", "hessian")
MULTIPLIERS = ("pos_weight", "neg_weight", "epsilon")  # of log_loss and poly1


@dataclass
class Reference:
    """Exact values of one order of one loss, ready for comparison with arrays of ``dtype``.

    The exact value is ``high + low``; ``unit`` is one ulp of the largest term (of the value itself for losses that
    do not cancel); ``exact`` keeps the numbers for messages.  Infinite limits and values beyond the largest number
    have ``high`` infinite.
    """

    dtype: np.dtype
    high: np.ndarray
    low: np.ndarray
    unit: np.ndarray
    limit: np.ndarray
    exact: list
    factor: float = 1.0

    def ulps(self, got):
        """Error of every element in ulp; inf where a NaN, an infinity or a sign is wrong."""
        info = np.finfo(self.dtype)
        got = np.asarray(got, np.float64)
        tiny, huge = float(info.tiny), float(info.max)
        almost = huge * (1 - 8 * float(info.eps))
        with np.errstate(all="ignore"):
            distance = np.abs((got - self.high) - self.low)
            error = distance / self.unit
        # below the smallest normal number the promise is absolute; a parameter that multiplies the loss multiplies
        # what was below it
        error[(np.abs(self.high) < self.factor * tiny) & (distance < tiny)] = 0
        error[np.isnan(error)] = np.inf
        # a value within a few ulp of the largest number may round to either side of it
        top = (np.abs(self.high) >= almost) & (np.abs(got) >= almost) & (np.sign(got) == np.sign(self.high))
        error[top] = 0
        error[self.limit & ~np.isinf(got)] = np.inf
        # the largest term exceeds every number: nothing but "not NaN" can be asked
        error[np.isinf(self.unit) & ~np.isnan(got) & ~self.limit] = 0
        error[np.isnan(self.high)] = np.where(np.isnan(got[np.isnan(self.high)]), 0, np.inf)
        return error


def ulp(x, dtype):
    """Unit in the last place of ``dtype`` at the magnitude of x; inf beyond its largest number."""
    info = np.finfo(dtype)
    if mp.isnan(x) or mp.mag(x) > info.maxexp if x else False:
        return np.inf
    exponent = max(mp.mag(x) - 1 if x else info.minexp, info.minexp)
    return float(mpf(2) ** (exponent - info.nmant))


def reference(name, params, dtype, y, raw):
    """The three `Reference` (loss, gradient, Hessian) for samples of one loss."""
    dtype = np.dtype(dtype)
    columns = ([], [], [])
    for yi, ri in zip(y, raw, strict=True):
        for column, pair in zip(columns, exact(name, yi, ri, dtype, **params), strict=True):
            column.append(pair)
    return [_pack(column, dtype, multiplier(params)) for column in columns]


def multiplier(params):
    """The largest factor among the parameters, at least 1."""
    return max([1.0, *(abs(float(params[key])) for key in MULTIPLIERS if params.get(key) is not None)])


def _pack(column, dtype, factor):
    beyond = mpf(2) ** np.finfo(dtype).maxexp
    high, low, unit = (np.empty(len(column)) for _ in range(3))
    for i, (value, largest) in enumerate(column):
        if mp.isnan(value):
            high[i], low[i], unit[i] = np.nan, 0, 1
            continue
        out = abs(value) >= beyond
        high[i] = (np.inf if value > 0 else -np.inf) if out else float(value)
        low[i] = float(value - high[i]) if np.isfinite(high[i]) else 0
        unit[i] = ulp(max(abs(value), largest), dtype) if np.isfinite(high[i]) else 1
    values = [value for value, _ in column]
    return Reference(dtype, high, low, unit, np.array([bool(mp.isinf(v)) for v in values]), values, factor)


def doubles(dtype, values, factor=1.0):
    """A `Reference` for ``dtype`` from float64 values that are exact enough."""
    values = np.asarray(values, np.float64)
    info = np.finfo(dtype)
    with np.errstate(divide="ignore"):
        exponent = np.frexp(values)[1] - 1
    exponent = np.clip(exponent, info.minexp, info.maxexp)
    unit = np.ldexp(1.0, exponent - info.nmant)
    return Reference(np.dtype(dtype), values, np.zeros_like(values), unit, np.isinf(values), values, factor)


def worst(ref, got, y, raw, limit, count=8, excused=False):
    """'' if every error is within ``limit`` ulp, else a table of the worst points."""
    error = ref.ulps(got)
    bad = np.flatnonzero((error > limit) & ~np.asarray(excused))
    if not bad.size:
        return ""
    order = bad[np.argsort(-error[bad], kind="stable")][:count]
    lines = [f"{bad.size} of {error.size} points are more than {limit} ulp off; the worst:"]
    for i in order:
        lines.append(
            f"  y={y[i]!r} raw={raw[i]!r}: got {got[i]!r}, exact {mp.nstr(ref.exact[i], 20)}, {error[i]:.3g} ulp"
        )
    return "\n".join(lines)
