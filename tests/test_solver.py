"""The parts of the solver of learning_rate="auto": statistics of columns, coordinates, envelopes, best constants."""

import numpy as np
import pytest
import scipy.sparse as sp
from conftest import LOSSES
from scipy.optimize import minimize_scalar

from fastloss import get_loss
from fastloss._kernels import dispatch
from fastloss.constants import best_constant
from fastloss.linear_model.optimum import Task, minimise, smooth
from fastloss.linear_model.optimum.columns import moments, raw_predictions, row_blocks, weighted_moments
from fastloss.linear_model.optimum.coordinates import Coordinates
from fastloss.linear_model.optimum.task import Watch

TIGHT = {"float32": 2e-5, "float64": 1e-11}


# ------------------------------------------------------------------------------------------------- columns
def matrix(kind, dtype, n=1000, d=7):
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(n, d)) * (rng.random((n, d)) < 0.6) * 10.0 ** np.arange(-3, d - 3)).astype(dtype)
    if kind == "csr":
        return X, sp.csr_matrix(X)
    if kind == "duplicates":
        half = sp.csr_matrix(X)
        twice = sp.csr_matrix((np.repeat(half.data / 2, 2), np.repeat(half.indices, 2), 2 * half.indptr), X.shape)
        assert not twice.has_canonical_format
        return X, twice
    return X, {"C": X, "F": np.asfortranarray(X), "strided": np.repeat(X, 2, axis=0)[::2]}[kind]


KINDS = ["C", "F", "strided", "csr", "duplicates"]


@pytest.mark.parametrize("dtype", TIGHT)
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_row_blocks_are_the_rows(kind, dense, dtype, monkeypatch):
    monkeypatch.setattr("fastloss.linear_model.optimum.columns.BLOCK_BYTES", 2000)
    plain, X = matrix(kind, dtype)
    places, blocks = zip(*row_blocks(X, dense=dense), strict=True)
    assert len(places) > 5
    assert [p.start for p in places] == [0, *(p.stop for p in places[:-1])]
    assert places[-1].stop == len(plain)
    dense_blocks = [b.toarray() if sp.issparse(b) else b for b in blocks]
    assert all(b.dtype == dtype for b in blocks)
    np.testing.assert_allclose(np.vstack(dense_blocks), plain)


@pytest.mark.parametrize("block", [1500, 1 << 21])
@pytest.mark.parametrize("dtype", TIGHT)
@pytest.mark.parametrize("K", [0, 1, 3])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_moments(kind, full, K, dtype, block, monkeypatch):
    monkeypatch.setattr("fastloss.linear_model.optimum.columns.BLOCK_BYTES", block)
    plain, X = matrix(kind, dtype)
    weights = np.random.default_rng(1).random((len(plain), max(K, 1))) if K else np.ones((len(plain), 1))
    found = moments(X, (lambda place, rows: weights[place]) if K else None, max(K, 1), full=full)
    A = plain.astype(np.float64)
    for k in range(max(K, 1)):
        share = weights[:, k] / weights[:, k].sum()
        mean = share @ A
        wanted = (A - mean).T @ ((A - mean) * share[:, None])
        size = np.sqrt(np.diag(wanted))
        assert found.total[k] == pytest.approx(weights[:, k].sum())
        np.testing.assert_allclose(found.mean[k] / size, mean / size, atol=TIGHT[dtype])
        if full:
            np.testing.assert_allclose(found.spread[k] / np.outer(size, size), wanted / np.outer(size, size),
                                       atol=TIGHT[dtype])  # fmt: skip
        else:
            np.testing.assert_allclose(found.spread[k], np.diag(wanted), rtol=2 * TIGHT[dtype])


@pytest.mark.parametrize("full", [False, True])
def test_moments_of_columns_far_from_zero(full):
    """1e4 standard deviations away in float32, where sums of squares about 0 would have no digit left."""
    X = (1e4 + np.random.default_rng(0).normal(size=(5000, 2))).astype(np.float32)
    spread = moments(X, None, 1, full=full).spread[0]
    wanted = np.cov(X.astype(np.float64).T, bias=True)
    np.testing.assert_allclose(spread, wanted if full else np.diag(wanted), rtol=1e-3, atol=1e-3)


def test_moments_without_weight():
    found = moments(np.ones((3, 2)), lambda place, rows: np.zeros((3, 1)), 1, full=True)
    assert found.total[0] == 0
    assert np.isfinite(found.mean).all()
    assert np.isfinite(found.spread).all()


def test_raw_predictions():
    plain, X = matrix("csr", "float64")
    coef, intercept = np.arange(14.0).reshape(2, 7), np.array([1.0, -1.0])
    np.testing.assert_allclose(raw_predictions(X, coef, intercept), plain @ coef.T + intercept)


# ------------------------------------------------------------------------------------------------- coordinates
def some_coordinates(full, K, intercept, ridge=1e-3):
    rng = np.random.default_rng(2)
    X, weights = (
        rng.normal(size=(400, 5)) @ rng.normal(size=(5, 5)) * 10.0 ** np.arange(-3, 2) + 3.0,
        rng.random((400, K)),
    )
    weights /= 400
    present = moments(X, lambda place, rows: weights[place], K, full=full)
    overall = moments(X, None, 1, full=full)
    return X, weights, Coordinates(present, overall, ridge, intercept, np.dtype(np.float64))


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("full", [False, True])
def test_coordinates_round_trip(full, K, intercept):
    _, _, found = some_coordinates(full, K, intercept)
    v = np.random.default_rng(0).normal(size=found.size)
    np.testing.assert_allclose(found.place(*found.model(v)), v, atol=1e-9)
    assert found.size == K * (5 + intercept)


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("full", [False, True])
def test_gradient_in_coordinates_is_the_transpose_of_the_model(full, K, intercept):
    """The model is linear in v: <gradient(g), v> = <g, model(v)>."""
    rng = np.random.default_rng(0)
    _, _, found = some_coordinates(full, K, intercept)
    by_coef, by_intercept, v = rng.normal(size=(K, 5)), rng.normal(size=K), rng.normal(size=found.size)
    coef, b = found.model(v)
    wanted = np.vdot(by_coef, coef) + intercept * by_intercept @ b
    assert found.gradient(by_coef, by_intercept) @ v == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("intercept", [False, True])
def test_hessian_in_coordinates_is_the_identity(intercept):
    X, weights, found = some_coordinates(True, 1, intercept)
    hessian = np.empty((found.size, found.size))
    for j, v in enumerate(np.eye(found.size)):
        coef, b = found.model(v)
        slopes = weights[:, 0] * (X @ coef[0] + b[0])
        hessian[j] = found.gradient((slopes @ X + 1e-3 * coef[0])[None], np.array([slopes.sum()]))
    np.testing.assert_allclose(hessian, np.eye(found.size), atol=1e-6)


def test_constant_columns_stay_where_they_are():
    X = np.column_stack([np.full(100, 1e6), np.random.default_rng(0).normal(size=100)])
    overall = moments(X, None, 1, full=True)
    found = Coordinates(overall, overall, 1e-4, True, np.dtype(np.float64))
    coef, _ = found.model(np.ones(3))
    assert coef[0, 0] == 0
    assert coef[0, 1] != 0


@pytest.mark.parametrize("dtype", TIGHT)
def test_columns_without_curvature_spoil_no_others(dtype):
    """Rounding of their covariances, divided by variances of nearly 0, is no correlation: slopes must keep size."""
    rng = np.random.default_rng(0)
    rare = rng.integers(1, 17, (1000, 20)) * (rng.random((1000, 20)) < 0.05)
    X = (1e6 * np.column_stack([rng.normal(size=(1000, 3)), rare])).astype(dtype)
    weights = np.where(rare.any(axis=1, keepdims=True), 0.0, 1e-3 * rng.random((1000, 1)))
    ridge = 1e-4
    present, overall = moments(X, lambda place, rows: weights[place], 1, full=True), moments(X, None, 1, full=True)
    found = Coordinates(present, overall, ridge, True, np.dtype(dtype))
    A = X.astype(float)
    centred = A - (weights[:, 0] @ A) / weights.sum()
    hessian = (centred.T * weights[:, 0]) @ centred + ridge * np.eye(23)
    for j in range(3):
        slope = np.zeros(23)
        slope[j] = 1e6
        # with no slope of the intercept about the centre
        moved = found.gradient(slope[None], np.zeros(1))
        assert moved @ moved == pytest.approx(slope @ np.linalg.solve(hessian, slope), rel=0.01)


# ------------------------------------------------------------------------------------------------- envelopes
PARAMETERS = {
    "huber": [{}, {"delta": 0.3}],
    "quantile": [{"quantile": 0.2}],
    "smooth_quantile": [{"quantile": 0.8, "delta": 0.5}],
    "expectile": [{"expectile": 0.2}],
    "epsilon_insensitive": [{}, {"epsilon": 0.0}],
    "squared_epsilon_insensitive": [{"epsilon": 0.4}],
    "mape": [{"epsilon": 0.1}],
}
PROXIMAL = [
    (name, parameters)
    for name in LOSSES
    if hasattr(get_loss(name), "proximal_slope")
    for parameters in PARAMETERS.get(name, [{}])
]


def test_there_are_envelopes():
    names = {name for name, _ in PROXIMAL}
    assert {"hinge", "squared_hinge", "squared_error", "absolute_error", "huber", "quantile"} <= names
    assert {name for name in LOSSES if get_loss(name).piecewise_linear} <= names


@pytest.mark.parametrize("step", [1e-3, 0.3, 1.0, 50.0])
@pytest.mark.parametrize(("name", "parameters"), PROXIMAL)
def test_envelopes_by_brute_force(name, parameters, step, dtype, isa):
    """The least loss(p) + (raw − p)²/(2 step), and as its derivative (raw − p)/step."""
    loss = get_loss(name, **parameters)
    rng = np.random.default_rng(0)
    raw = np.concatenate([np.linspace(-3, 3, 25), 10 * rng.normal(size=15), [0.0, 1.0, -1.0]]).astype(dtype)
    y = (
        (rng.integers(0, 2, raw.size) * 2.0 - 1)
        if loss.kind == "binary"
        else np.round(2 * rng.normal(size=raw.size), 1)
    )
    y = y.astype(dtype)
    value, slope = dispatch.evaluate(
        loss._envelope(step), dispatch.LOSS | dispatch.GRADIENT, y, raw, None, "none", None, None, None, 1, "exact"
    )
    y, raw, slope = y.astype(float), raw.astype(float), slope.astype(float)

    def relaxed(p):
        return loss.loss(y, p, reduction="none") + (raw - p) ** 2 / (2 * step)

    # convex; the least point is within step · slope of raw, and slopes at it are no larger than at raw
    reach = 1.0 + step * (np.abs(loss.gradient(y, raw, reduction="none")) + 2.0)
    low, high = raw - reach, raw + reach
    for _ in range(150):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        less = relaxed(left) < relaxed(right)
        low, high = np.where(less, low, left), np.where(less, right, high)
    least = np.minimum(relaxed(low), relaxed(high))
    tolerance = 1e-13 if dtype == np.float64 else 1e-6
    np.testing.assert_allclose(value, least, rtol=tolerance, atol=tolerance * (1 + np.abs(raw).max()))
    # the point that the slope leads to is as good
    np.testing.assert_allclose(
        relaxed(raw - step * slope), least, rtol=20 * tolerance, atol=20 * tolerance * (1 + step)
    )


@pytest.mark.parametrize(("name", "parameters"), PROXIMAL)
def test_slopes_of_envelopes_are_derivatives(name, parameters, isa):
    envelope = get_loss(name, **parameters)._envelope(0.7)
    raw, h = np.linspace(-4.03, 4.01, 101), 1e-6
    y = np.where(np.arange(101) % 2, 1.0, -1.0)

    def at(z, want=dispatch.LOSS | dispatch.GRADIENT):
        return dispatch.evaluate(envelope, want, y, z, None, "none", None, None, None, 1, "exact")

    slope = at(raw)[1]
    np.testing.assert_allclose(slope, (at(raw + h)[0] - at(raw - h)[0]) / (2 * h), atol=2e-6)
    curvature = at(raw, dispatch.GRADIENT | dispatch.HESSIAN)[1]
    difference = (at(raw + h)[1] - at(raw - h)[1]) / (2 * h)
    smooth = np.abs(difference - curvature) < 1e-4
    assert smooth.mean() > 0.95  # all but points beside a kink of the slope


# ------------------------------------------------------------------------------------------------- constants
CONSTANTS = [
    *PROXIMAL,
    *((name, {}) for name in ("log_loss", "poisson", "gamma", "tweedie", "log_cosh", "pseudo_huber")),
]


@pytest.mark.parametrize("with_offset", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("name", "parameters"), CONSTANTS)
def test_best_constant(name, parameters, weighted, with_offset):
    loss = get_loss(name, **parameters)
    rng = np.random.default_rng(0)
    y = np.exp(rng.normal(size=101)) if loss.link == "log" else 5.0 + 2 * rng.normal(size=101)
    y = np.where(y > 4, 1.0, -1.0) if loss.kind == "binary" else y
    weight = rng.integers(0, 3, 101).astype(float) if weighted else None
    offset = 0.5 * rng.normal(size=101) if with_offset else None
    shift = np.zeros(101) if offset is None else offset

    def at(c):
        return loss.loss(y, c + shift, weight)

    grid = np.linspace(-30, 30, 6001)
    start = grid[np.argmin([at(c) for c in grid])]
    least = minimize_scalar(at, bounds=(start - 0.02, start + 0.02), method="bounded", options={"xatol": 1e-12}).fun
    found = best_constant(loss, y, 1, weight, offset)
    assert found.shape == (1,)
    assert at(found[0]) <= least + 1e-7 * max(1.0, abs(least))


def test_best_constant_of_class_codes():
    y = np.array([0, 0, 0, 1, 2, 2])
    found = best_constant(get_loss("cross_entropy"), y, 3)
    np.testing.assert_allclose(np.exp(found) / np.exp(found).sum(), [1 / 2, 1 / 6, 1 / 3])
    soft = best_constant(get_loss("cross_entropy"), np.eye(3)[y], 3, np.array([1.0, 1, 1, 3, 1, 1]))
    np.testing.assert_allclose(np.exp(soft) / np.exp(soft).sum(), [3 / 8, 3 / 8, 2 / 8])


@pytest.mark.parametrize("name", ["hinge", "log_loss", "squared_hinge"])
def test_best_constant_of_signs(name):
    """int8 labels, several columns: one-vs-rest."""
    signs = np.where(np.arange(60)[:, None] % np.array([2, 3, 10]) == 0, np.int8(1), np.int8(-1))
    found = best_constant(get_loss(name), signs, 3)
    for k in range(3):
        assert found[k] == pytest.approx(best_constant(get_loss(name), signs[:, k].astype(float), 1)[0], abs=1e-9)


def test_a_round_that_ends_worse_is_taken_back(monkeypatch):
    """Ill-conditioned coordinates may lose digits on the way from a model and back."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 3))
    task = Task(X, X @ [1.0, 2.0, 3.0] + 1.0, get_loss("huber"))
    constant = (np.zeros((1, 3)), np.zeros(1))
    solved = minimise(task, constant, tol=1e-6, max_passes=100)
    worse = (solved.model[0] + 1.0, solved.model[1])
    rounds = iter([(solved.model, solved.certificate.objective, 1.0, False), (worse, 9.0, 1.0, False)])
    monkeypatch.setattr(smooth, "one_round", lambda *_: next(rounds))
    problem = smooth.Smooth(task, task.loss._kernel, Watch(100, constant, None))
    problem.watch.damping = 1.0  # nothing more to try
    coordinates = smooth.first_coordinates(problem, constant, weighted_moments(X, None, full=True))
    model, value, *_ = smooth.descend(problem, constant, coordinates, lambda _: -1.0)
    np.testing.assert_array_equal(model[0], solved.model[0])
    assert value == pytest.approx(solved.certificate.objective)
