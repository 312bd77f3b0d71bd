"""Comparing results bit by bit, and calling every entry point of a loss."""

import numpy as np

METHODS = ("loss", "gradient", "loss_gradient", "gradient_hessian")
REDUCTIONS = ("mean", "sum", "none")


def bits(x):
    """The bits of a float or array, with every NaN made the same and strides forgotten."""
    x = np.array(x, order="C")
    x[np.isnan(x)] = np.nan
    return x.dtype.str, x.shape, x.tobytes()


def results(loss, y, raw, weight=None, *, methods=METHODS, reductions=REDUCTIONS, **options):
    """{(method, part, reduction): bits} of every entry point."""
    found = {}
    for reduction in reductions:
        for method in methods:
            out = getattr(loss, method)(y, raw, weight, reduction=reduction, **options)
            for part, value in zip(method.split("_"), out if isinstance(out, tuple) else (out,), strict=True):
                found[method, part, reduction] = bits(value)
    return found


def differing(one, other):
    """The entry points whose bits differ."""
    return [key for key in one if one[key] != other[key]]
