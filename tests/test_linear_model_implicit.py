"""Implicit steps: the slope is taken where the step ends, so that no step overshoots.

The compiled trainer is compared with a bisection in plain Python, for a single row and for an epoch.
"""

import math
import zlib

import numpy as np
import pytest
import scipy.sparse as sp

import fastloss
from fastloss import _kernels
from fastloss._kernels.sgd import Design, RowOrder, Trainer

POINTWISE = [name for name in fastloss.list_losses() if fastloss.get_loss(name).kind != "multiclass"]
CONVEX = [name for name in POINTWISE if fastloss.get_loss(name).convex]
OTHERS = [name for name in POINTWISE if name not in CONVEX]
JOINT = fastloss.list_losses("multiclass")
TOLERANCE = {np.float32: 2e-5, np.float64: 1e-9}
ISAS = _kernels.available_isas()


def targets_of(loss, n, rng):
    if loss.kind == "binary":
        return rng.choice([-1.0, 1.0], n)
    return rng.gamma(1.5, 1.0, n) + 0.01 if "any real" not in loss.target else rng.standard_normal(n) * 2


def derivatives(loss, y, z):
    """Slope and second derivative."""
    slope, hess = loss.gradient_hessian([y], [z], reduction="none")
    return slope[0], hess[0]


def slow_slope(loss, y, z, step):
    """The s in the subdifferential of a convex loss at z - step * s, by bisection."""
    slope = loss.gradient([y], [z], reduction="none")[0]
    low, high = min(slope, 0.0), max(slope, 0.0)
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle < loss.gradient([y], [z - step * middle], reduction="none")[0]:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def slow_step(loss, y, z, step):
    if loss.convex:
        return slow_slope(loss, y, z, step)
    slope, hess = derivatives(loss, y, z)
    curvature = loss.curvature()
    return slope / (1 + step * (curvature if math.isfinite(curvature) else abs(hess)))


def slow_epoch(X, y, losses, *, eta, weight=None, offset=None, fit_intercept=True, coef, intercept, average_from=0):
    """Coefficients, intercepts, averages and mean losses after a pass in storage order."""
    coef, intercept, total = coef.copy(), intercept.copy(), np.zeros(len(losses))
    means = [np.zeros_like(coef), np.zeros_like(intercept)]
    for i, x in enumerate(X):
        w = 1.0 if weight is None else weight[i]
        for k, loss in enumerate(losses):
            z = x @ coef[k] + intercept[k] + (0.0 if offset is None else offset[i])
            total[k] += loss.loss([y[i, k]], [z])
            s = slow_step(loss, y[i, k], z, eta * w * (x @ x + fit_intercept))
            coef[k] -= eta * w * s * x
            intercept[k] -= eta * w * s * fit_intercept
        if average_from and i + 1 >= average_from:
            means[0] += (coef - means[0]) / (i + 2 - average_from)
            means[1] += (intercept - means[1]) / (i + 2 - average_from)
    return coef, intercept, *means, total / len(X)


def pass_over(
    X, y, losses, *, eta, weight=None, offset=None, fit_intercept=True, coef, intercept, average_from=0, **options
):
    """The same, by the trainer."""
    loss, dtype = losses[0], X.dtype
    coef, intercept = coef.astype(dtype), intercept.copy()
    means = (np.zeros_like(coef), np.zeros_like(intercept))
    how = {}
    if loss.kind == "multiclass" or not loss.convex:
        how["curvature"] = loss.curvature()
    elif hasattr(loss, "proximal_slope"):
        how["envelopes"] = [one._envelope(1.0) for one in losses]
    trainer = Trainer(
        Design(X),
        [one._kernel for one in losses],
        np.ascontiguousarray(y, dtype=dtype if y.dtype.kind == "f" else np.int32),
        weight,
        RowOrder(X.shape[0]),
        coef,
        intercept,
        offset=offset,
        learning_rate="implicit",
        alpha=0.0,
        eta0=eta,
        power_t=0.0,
        l1=0.0,
        l2=0.0,
        intercept_rate=0.01 if fit_intercept else 0.0,
        average_from=average_from,
        average_coef=means[0],
        average_intercept=means[1],
        **{"want_objective": True, **how, **options},
    )
    trainer.epoch()
    found = np.array([trainer.objective(k) for k in range(trainer.n_models)])
    trainer.finish()
    return coef, intercept, *means, found


def with_repeats(X):
    """A CSR matrix equal to X whose rows hold the first element in two parts, and not in order."""
    n, d = X.shape
    columns = np.tile(np.append(np.arange(d)[::-1], 0), (n, 1))
    values = np.column_stack([X[:, ::-1], X[:, 0]]).astype(X.dtype)
    values[:, d - 1] *= 0.25
    values[:, d] *= 0.75
    return sp.csr_matrix(
        (values.ravel(), columns.ravel().astype(np.int32), np.arange(0, n * (d + 1) + 1, d + 1)), (n, d)
    )


def assert_close(found, expected, dtype, scale=1.0):
    scale = max(scale, np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[dtype] * scale)


# --------------------------------------------------------------------------------------------------------------
# One step
# --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("eta", [1e-3, 0.5, 1e6])
@pytest.mark.parametrize("form", ["dense", "csr", "repeats"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CONVEX)
def test_a_step_solves_its_equation(name, dtype, form, eta):
    loss = fastloss.get_loss(name)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    targets = targets_of(loss, 8, rng)
    for k, y in enumerate(targets.astype(dtype).astype(np.float64)):
        x = rng.standard_normal(5).astype(dtype).astype(np.float64)
        fit_intercept, weight = k % 2 == 0, float(rng.uniform(0.1, 3.0))
        coef = np.atleast_2d(rng.standard_normal(5).astype(dtype)).astype(np.float64)
        intercept = rng.standard_normal(1) if fit_intercept else np.zeros(1)
        X = {"dense": lambda x: x, "csr": sp.csr_matrix, "repeats": with_repeats}[form](x[None].astype(dtype))
        found, found_intercept, *_ = pass_over(
            X, np.array([y]), [loss], eta=eta, weight=np.array([weight]), fit_intercept=fit_intercept,
            coef=coef, intercept=intercept,
        )  # fmt: skip
        z = x @ coef[0] + intercept[0]
        reach = x @ x + fit_intercept
        s = slow_slope(loss, y, z, eta * weight * reach)
        assert_close(found[0], coef[0] - eta * weight * s * x, dtype)
        assert_close(found_intercept[0], intercept[0] - eta * weight * s * fit_intercept, dtype)
        after = x @ found[0].astype(np.float64) + found_intercept[0]
        before, now = loss.loss([y, y], [z, after], reduction="none")
        assert now <= before + TOLERANCE[dtype] * (1 + abs(before))


@pytest.mark.parametrize("name", ["log_loss", "poisson", "exponential", "pseudo_huber", "hinge", "squared_error"])
@pytest.mark.parametrize("far", [-30.0, -10.0, 10.0, 30.0])
@pytest.mark.parametrize("eta", [1e-2, 1.0, 1e3, 1e8])
def test_far_misses_are_solved_as_well(name, far, eta):
    """Where the loss is flat or steep, Newton's method alone would go round in circles, or crawl."""
    loss = fastloss.get_loss(name)
    y = 1.0
    coef, intercept, *_ = pass_over(
        np.ones((1, 1)), np.array([y]), [loss], eta=eta, fit_intercept=False, coef=np.array([[far]]),
        intercept=np.zeros(1),
    )  # fmt: skip
    s = slow_slope(loss, y, far, eta)
    assert intercept[0] == 0
    np.testing.assert_allclose(coef[0, 0], far - eta * s, rtol=1e-8, atol=1e-8)


def test_slopes_that_overflow():
    """exp(800) is infinite; the slope is clipped, and counted."""
    loss = fastloss.get_loss("poisson")
    coef, *_ = pass_over(
        np.ones((1, 1)), np.array([1.0]), [loss], eta=1.0, fit_intercept=False, coef=np.array([[800.0]]),
        intercept=np.zeros(1),
    )  # fmt: skip
    assert coef[0, 0] == pytest.approx(800 - slow_finite_slope(800.0, 1.0))


def slow_finite_slope(z, step):
    """The slope of poisson for y = 1: s = exp(z - step s) - 1."""
    low, high = 0.0, 1e12
    for _ in range(200):
        middle = 0.5 * (low + high)
        if z - step * middle > math.log1p(middle):
            low = middle
        else:
            high = middle
    return low


@pytest.mark.parametrize("name", ["hinge", "log_loss", "absolute_error", "cauchy"])
def test_rows_that_count_for_nothing(name):
    loss = fastloss.get_loss(name)
    start = {"coef": np.array([[1.0, -2.0]]), "intercept": np.array([0.5])}
    X = np.array([[0.5, 0.25], [1.0, 3.0]])
    coef, intercept, *_ = pass_over(X, np.array([1.0, -1.0]), [loss], eta=1.0, weight=np.zeros(2), **start)
    np.testing.assert_array_equal(coef, start["coef"])
    np.testing.assert_array_equal(intercept, start["intercept"])
    coef, _, _, _, objective = pass_over(0 * X, np.array([1.0, -1.0]), [loss], eta=1.0, fit_intercept=False, **start)
    np.testing.assert_array_equal(coef, start["coef"])
    assert objective[0] == pytest.approx(loss.loss([1.0, -1.0], [0.5, 0.5]))


# --------------------------------------------------------------------------------------------------------------
# Epochs
# --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("form", ["dense", "repeats"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", POINTWISE)
def test_an_epoch(name, dtype, form, isa):
    loss = fastloss.get_loss(name)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    X = (rng.standard_normal((50, 6)) / 2).astype(dtype)
    y = np.column_stack([targets_of(loss, 50, rng), targets_of(loss, 50, rng)]).astype(dtype)
    problem = {
        "weight": rng.uniform(0.2, 2.0, 50),
        "offset": rng.uniform(-1.0, 1.0, 50),
        "coef": np.zeros((2, 6)),
        "intercept": np.array([0.1, -0.1]),
        "eta": 0.7,
        "average_from": 21,
    }
    expected = slow_epoch(X.astype(np.float64), y.astype(np.float64), [loss, loss], **problem)
    with _kernels.use_isa(isa):
        found = pass_over(with_repeats(X) if form == "repeats" else X, y, [loss], **problem)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, dtype)


@pytest.mark.parametrize("name", ["hinge", "log_loss", "cauchy"])
def test_coefficients_do_not_depend_on_sums_of_the_objective(name):
    rng = np.random.default_rng(2)
    X, y = rng.standard_normal((50, 3)), rng.choice([-1.0, 1.0], 50)
    problem = {"coef": np.zeros((1, 3)), "intercept": np.zeros(1), "eta": 0.7}
    with_sums = pass_over(X, y, [fastloss.get_loss(name)], **problem)
    without = pass_over(X, y, [fastloss.get_loss(name)], want_objective=False, **problem)
    np.testing.assert_array_equal(with_sums[0], without[0])


def test_models_with_losses_of_different_parameters():
    rng = np.random.default_rng(3)
    X, y = rng.standard_normal((50, 3)), rng.standard_normal(50)
    losses = [fastloss.get_loss("quantile", quantile=q) for q in (0.1, 0.5, 0.9)]
    problem = {"coef": np.zeros((3, 3)), "intercept": np.zeros(3), "eta": 0.7}
    expected = slow_epoch(X, np.column_stack([y, y, y]), losses, **problem)
    found = pass_over(X, y, losses, **problem)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-9)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-9)


def test_the_result_does_not_depend_on_threads():
    rng = np.random.default_rng(4)
    X, y = rng.standard_normal((20_000, 40)), rng.integers(0, 4, 20_000)
    start = {"coef": np.zeros((4, 40)), "intercept": np.zeros(4), "eta": 0.1, "positive": [0, 1, 2, 3]}
    one = pass_over(X, y, [fastloss.get_loss("hinge")], n_threads=1, **start)
    two = pass_over(X, y, [fastloss.get_loss("hinge")], n_threads=2, **start)
    np.testing.assert_array_equal(one[0], two[0])


# --------------------------------------------------------------------------------------------------------------
# Losses over K scores
# --------------------------------------------------------------------------------------------------------------
def slow_joint_epoch(X, y, loss, eta, weight, coef, intercept):
    coef, intercept, total = coef.copy(), intercept.copy(), 0.0
    for x, label, w in zip(X, y, weight, strict=True):
        value, gradient = loss.loss_gradient([label], (coef @ x + intercept)[None], reduction="none")
        step, square = eta * w * (x @ x + 1), (gradient**2).sum()
        curvature = loss.curvature()
        if math.isfinite(curvature):
            gradient = gradient / (1 + step * curvature)
        elif square > 0:
            gradient = gradient / max(1.0, step * square / value[0])
        coef -= eta * w * np.outer(gradient, x)
        intercept -= eta * w * gradient[0]
        total += value[0]
    return coef, intercept, total / len(X)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", JOINT)
def test_joint_losses_take_damped_steps(name, dtype, sparse, isa):
    loss = fastloss.get_loss(name)
    rng = np.random.default_rng(5)
    X = rng.standard_normal((50, 4)).astype(dtype)
    y, weight = rng.integers(0, 3, 50), rng.uniform(0.2, 2.0, 50)
    start = {"coef": np.zeros((3, 4)), "intercept": np.array([0.3, 0.0, -0.2]), "eta": 1.0}
    coef, intercept, mean_loss = slow_joint_epoch(X.astype(np.float64), y, loss, weight=weight, **start)
    with _kernels.use_isa(isa):
        found = pass_over(with_repeats(X) if sparse else X, y, [loss], weight=weight, **start)
    assert_close(found[0], coef, dtype, 10.0)
    assert_close(found[1], intercept, dtype, 10.0)
    assert_close(found[4], mean_loss, dtype, 10.0)


@pytest.mark.parametrize("name", JOINT)
def test_joint_steps_do_not_overshoot(name):
    loss = fastloss.get_loss(name)
    if not loss.convex:
        return
    rng = np.random.default_rng(6)
    for _ in range(20):
        x, label, coef = rng.standard_normal((1, 4)), rng.integers(0, 3, 1), rng.standard_normal((3, 4))
        found, intercept, *_ = pass_over(x, label, [loss], eta=1e6, coef=coef, intercept=np.zeros(3))
        assert loss.loss(label, x @ found.T + intercept) <= loss.loss(label, x @ coef.T) + 1e-12


# --------------------------------------------------------------------------------------------------------------
# What is refused
# --------------------------------------------------------------------------------------------------------------
def test_bad_arguments():
    problem = {"coef": np.zeros((1, 2)), "intercept": np.zeros(1), "eta": 1.0}
    loss = fastloss.get_loss("hinge")
    with pytest.raises(ValueError, match="needs batch_size=1, got 4"):
        pass_over(np.ones((5, 2)), np.ones(5), [loss], batch_size=4, **problem)
    with pytest.raises(ValueError, match="envelopes must be 1"):
        pass_over(np.ones((5, 2)), np.ones(5), [loss], envelopes=[], **problem)
