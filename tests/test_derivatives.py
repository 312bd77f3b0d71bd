"""Promise: the gradient is the derivative of the loss, the Hessian that of the gradient.

Independent of the oracle: only public results are compared with each other, by a five-point difference.
"""

import numpy as np
from grids import everyday, smooth
from oracle import ORACLES

import fastloss


def difference(function, x, h):
    """Derivative of a function at x with an error of order h**4."""
    return (8 * (function(x + h) - function(x - h)) - (function(x + 2 * h) - function(x - 2 * h))) / (12 * h)


def setup(case, dtype):
    name, params, soft = case
    y, raw, step = smooth(name, params, dtype=dtype, seed=7)
    if soft:
        y = np.random.default_rng(8).uniform(0, 1, y.size).astype(dtype).astype(float)
    known = {**ORACLES[name].defaults, **params}
    rounded = {k: v if v is None or isinstance(v, bool) else float(dtype.type(v)) for k, v in known.items()}
    if name == "mape" and rounded["epsilon"] is None:
        rounded["epsilon"] = float(np.finfo(dtype).eps)
    return fastloss.get_loss(name, **params), fastloss.get_loss(name, **rounded), y, raw, step


def close(got, derivative, of, step, dtype):
    """Equal up to the rounding of `got` and of the function whose differences were taken."""
    relative = 1e-7 if dtype == np.float64 else 2e-5
    noise = 1e-12 / step * np.max(np.abs(of)) if of.size else 0
    scale = np.abs(derivative) + np.abs(of) / (1e3 * step)
    bad = ~(np.abs(got - derivative) <= relative * scale + noise)
    return bad


def report(name, y, raw, got, wanted, bad):
    i = int(np.flatnonzero(bad)[0]) if bad.any() else None
    return (
        ""
        if i is None
        else f"{name}: {bad.sum()} wrong, first y={y[i]!r} raw={raw[i]!r}: {got[i]!r}, difference {wanted[i]!r}"
    )


def test_gradient(case, dtype, isa):
    loss, double, y, raw, step = setup(case, dtype)
    assert y.size > 50
    got = loss.gradient(y.astype(dtype), raw.astype(dtype), reduction="none").astype(float)
    wanted = difference(lambda x: double.loss(y, x, reduction="none"), raw, step)
    bad = close(got, wanted, double.loss(y, raw, reduction="none"), step, dtype)
    assert not bad.any(), report(loss, y, raw, got, wanted, bad)


def test_hessian(case, dtype, isa):
    loss, double, y, raw, step = setup(case, dtype)
    got = loss.gradient_hessian(y.astype(dtype), raw.astype(dtype), reduction="none")[1].astype(float)
    wanted = difference(lambda x: double.gradient(y, x, reduction="none"), raw, step)
    bad = close(got, wanted, double.gradient(y, raw, reduction="none"), step, dtype)
    assert not bad.any(), report(loss, y, raw, got, wanted, bad)


def test_gradient_of_the_mean_and_the_sum(name, isa):
    """Directional difference of the reduced, weighted loss over (n, T) predictions."""
    loss = fastloss.get_loss(name)
    rng = np.random.default_rng(3)
    y, raw, step = smooth(name, n=400)
    n = y.size // 2
    y, raw = y[: 2 * n].reshape(n, 2), raw[: 2 * n].reshape(n, 2)
    weight, direction = rng.uniform(0, 2, n), rng.choice([-1.0, 1.0], (n, 2))
    for reduction in ("mean", "sum"):
        slope = np.sum(loss.gradient(y, raw, weight, reduction=reduction) * direction)
        wanted = difference(lambda t: loss.loss(y, raw + t * direction, weight, reduction=reduction), 0.0, step)  # noqa: B023
        assert abs(slope - wanted) <= 1e-8 * max(1, abs(loss.loss(y, raw, weight, reduction=reduction))) / (1e3 * step)


def test_hessian_policies(hard_case, dtype, isa):
    """An upper bound is one; a Fisher information is never negative; what a loss lacks is named."""
    name, params = hard_case
    loss = fastloss.get_loss(name, **params)
    y, raw = everyday(name, params, 300, dtype)
    gradient, exact = loss.gradient_hessian(y, raw, reduction="none")
    offered = 0
    for policy in ("fisher", "upper_bound"):
        try:
            same, other = loss.gradient_hessian(y, raw, reduction="none", hessian=policy)
        except ValueError as error:
            assert "'exact'" in str(error)  # noqa: PT017 - a loss need not have every policy
            assert name in str(error)  # noqa: PT017
            continue
        offered += 1
        np.testing.assert_array_equal(same, gradient)
        assert np.all(other >= 0)
        if policy == "upper_bound":
            assert np.all(other >= exact * (1 - 8 * np.finfo(dtype).eps))
            assert np.unique(other).size == 1
    if loss.piecewise_linear:
        assert offered
        assert np.all(exact == 0)


def test_fisher_is_the_expected_hessian_of_poisson_and_gamma():
    raw = np.linspace(-2, 2, 9)
    for name, expected in [("poisson", np.exp(raw)), ("gamma", np.ones_like(raw))]:
        loss = fastloss.get_loss(name)
        try:
            fisher = loss.gradient_hessian(np.full(9, 0.3), raw, reduction="none", hessian="fisher")[1]
        except ValueError as error:
            raise AssertionError(f"{name} is a log-likelihood but has no Fisher information") from error
        np.testing.assert_allclose(fisher, expected, rtol=1e-14)
