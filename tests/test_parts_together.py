"""Own losses, sums, losses of columns, batch losses, boosting, check_loss and torch, where they meet."""

import copy
import ctypes
import math
import pickle
import types
from concurrent.futures import ThreadPoolExecutor

import numba_blocks
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

import fastloss
from fastloss import CustomLoss, LinearObjective, MultiTaskLoss, SGDLossClassifier, SGDLossRegressor, _kernels, get_loss
from fastloss._kernels import dispatch
from fastloss.losses import AbsoluteError, CrossEntropy, Hinge, Huber, LogLoss, SquaredError

STEPS = {"learning_rate": "invscaling", "eta0": 0.01, "max_iter": 5, "tol": None, "random_state": 0}


def squares(y, raw):
    r = raw - y
    return 0.5 * r * r, r


def squares_with_hessian(y, raw):
    return *squares(y, raw), np.ones_like(raw)


def absolute(y, raw):
    r = raw - y
    return np.abs(r), np.sign(r)


def hinge(y, raw):
    s = np.where(y > 0, 1.0, -1.0).astype(raw.dtype)
    return np.maximum(1 - s * raw, 0), np.where(s * raw < 1, -s, 0)


def logistic(y, raw):
    s = np.where(y > 0, 1.0, -1.0).astype(raw.dtype)
    p = np.exp(-np.logaddexp(0, s * raw))
    return np.logaddexp(0, -s * raw), -s * p, p * (1 - p)


def softmax(y, raw):
    p = np.exp(raw - raw.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    at = np.arange(len(y)), y
    loss = -np.log(p[at])
    gradient = p.copy()
    gradient[at] -= 1
    return loss, gradient, p * (1 - p)


@pytest.fixture(scope="module")
def compiled():
    """The same by numba."""
    numba = pytest.importorskip("numba", reason="numba is not installed")

    def squares(y, raw, loss, grad, hess, n, params, data):
        for i in range(n):
            grad[i] = raw[i] - y[i]
            loss[i] = grad[i] * grad[i] / 2
        return n

    @numba.cfunc(fastloss.cfunc_signature("float64"))
    def absolute(y, raw, loss, grad, hess, n, params, data):
        for i in range(n):
            r = raw[i] - y[i]
            loss[i] = abs(r)
            grad[i] = (1.0 if r > 0 else 0.0) - (1.0 if r < 0 else 0.0)
        return n

    @numba.cfunc(fastloss.cfunc_signature("float64"))
    def returns(y, raw, loss, grad, hess, n, params, data):
        for i in range(n):
            grad[i] = raw[i] - y[i]
            loss[i] = grad[i] * grad[i] / 2
            if raw[i] > params[0]:
                return i if params[1] == 0 else n + np.intp(params[1])
        return n

    softmax = numba.cfunc(fastloss.cfunc_signature("float64", multiclass=True))(numba_blocks.softmax)

    both = {dtype: numba.cfunc(fastloss.cfunc_signature(dtype))(squares) for dtype in ("float64", "float32")}
    return types.SimpleNamespace(
        squares=both["float64"], both=both, absolute=absolute, returns=returns, softmax=softmax
    )


@pytest.fixture(params=["numba", "both dtypes", "python", "python with hessian"])
def own(request):
    """½r² as an own loss."""
    if request.param.startswith("python"):
        with_hessian = request.param != "python"
        return CustomLoss(squares_with_hessian if with_hessian else squares, name="mine", hessian=with_hessian)
    functions = request.getfixturevalue("compiled")
    return CustomLoss(functions.squares if request.param == "numba" else functions.both, name="mine")


@pytest.fixture
def kinked(own, request):
    """|r| as an own loss, made as `own` is."""
    function = absolute if own._kernel.python else request.getfixturevalue("compiled").absolute
    return CustomLoss(function, name="kinked", piecewise_linear=True)


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1500, 3))
    return X, X @ [1.0, -2.0, 0.5] + 0.3 + rng.standard_t(3, size=1500)


def points(n, width=None, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    y, raw = (rng.normal(size=n if width is None else (n, width)) for _ in range(2))
    return y, raw.astype(dtype), rng.uniform(0, 2, n)


def nested(one, kink):
    """A sum of sums, and what it should be."""
    return 0.25 * (2.0 * one + Huber()) + 0.5 * (0.5 * (kink + one) + one)


def close(got, expected, dtype):
    eps = 16 * np.finfo(dtype).eps
    np.testing.assert_allclose(got, expected, rtol=eps, atol=eps)


# ------------------------------------------------------------------------------------------------- terms of sums
@pytest.mark.parametrize("n", [0, 1, 300, 9000])
def test_sums_are_those_of_the_built_in(own, kinked, n, dtype):
    y, raw, weight = points(n, dtype=dtype)
    total, expected = nested(own, kinked), nested(SquaredError(), AbsoluteError())
    for got, right in zip(
        *(one.loss_gradient(y, raw, weight, reduction="none") for one in (total, expected)), strict=True
    ):
        close(got, right, dtype)
    bits = [total.loss_gradient(y, raw, weight, reduction="sum", n_threads=k) for k in (1, 2, 3, 4)]
    assert all(one[0] == bits[0][0] and one[1].tobytes() == bits[0][1].tobytes() for one in bits)
    assert bits[0][0] == pytest.approx(
        expected.loss(y, raw, weight, reduction="sum"), rel=1e-6 if raw.itemsize == 4 else 1e-12
    )


@settings(max_examples=20)
@given(st.integers(0, 3000), st.integers(1, 4), st.sampled_from("CF"), st.booleans(), st.booleans())
def test_any_layout(n, width, order, strided, single):
    y, raw, _ = points(n, width, np.float32 if single else np.float64)
    raw = np.array(raw, order=order)
    if strided:
        raw = raw[::2]
        y = y[::2]
    total, right = 0.3 * CustomLoss(squares) + AbsoluteError(), 0.3 * SquaredError() + AbsoluteError()
    close(total.gradient(y, raw, reduction="none"), right.gradient(y, raw, reduction="none"), raw.dtype)
    columns = MultiTaskLoss([(2.0, CustomLoss(squares), slice(0, width))])
    close(columns.gradient(y, raw, reduction="none"), 2 * (raw - y), raw.dtype)


@pytest.mark.parametrize("width", [None, 2])
def test_python_functions_get_whole_blocks(width):
    calls = []

    def counted(y, raw):
        calls.append(len(y))
        return squares(y, raw)

    y, raw, _ = points(100_000, width)
    one = CustomLoss(counted)
    total = 0.5 * one + Huber() if width is None else MultiTaskLoss([(1.0, one, 0), (1.0, "huber", 1)])
    total.loss_gradient(y, raw)
    assert len(calls) <= math.ceil(y.size / 4096)
    assert sum(calls) == 100_000


def test_sums_over_classes(request):
    rng = np.random.default_rng(0)
    label, scores = rng.integers(0, 4, 700), rng.normal(size=(700, 4))
    right = 0.3 * CrossEntropy() + 0.7 * CrossEntropy(label_smoothing=0.1)
    ways = [CustomLoss(softmax, "multiclass", hessian=True)]
    ways.append(CustomLoss(request.getfixturevalue("compiled").softmax, "multiclass", name="mine"))
    for one in ways:
        total = 0.3 * one + 0.7 * CrossEntropy(label_smoothing=0.1)
        for raw in (scores, scores.astype(np.float32), np.asfortranarray(scores)):
            close(total.gradient(label, raw), right.gradient(label, raw), raw.dtype)
            np.testing.assert_allclose(total.loss(label, raw), right.loss(label, raw), rtol=1e-5)
    np.testing.assert_allclose(
        (0.3 * ways[0] + 0.7 * ways[0]).gradient_hessian(label, scores)[1],
        CrossEntropy().gradient_hessian(label, scores)[1],
        rtol=1e-12,
    )
    with pytest.raises(ValueError, match="mine has no hessian"):
        total.gradient_hessian(label, scores)
    model = SGDLossClassifier(0.5 * ways[0] + 0.5 * CrossEntropy(), alpha=0.01).fit(scores, label)
    expected = SGDLossClassifier("cross_entropy", alpha=0.01).fit(scores, label)
    np.testing.assert_allclose(model.predict_proba(scores), expected.predict_proba(scores), atol=1e-4)


# ------------------------------------------------------------------------------------------------- hessians
def test_hessians_of_sums(own, kinked, table):
    X, y = table
    total = 0.5 * own + 0.25 * kinked + SquaredError()
    objective = LinearObjective(X, y, total)
    tasks = MultiTaskLoss([(1.0, "huber", 0), (2.0, own, 1)])
    calls = (
        lambda: total.gradient_hessian(y, y + 1, reduction="none")[1],
        lambda: objective.hessian_diag(objective.initial) - objective.hessian_diag(objective.initial),
        lambda: objective.hessp(objective.initial, np.ones(4)) - objective.hessp(objective.initial, np.ones(4)),
        lambda: tasks.gradient_hessian(np.c_[y, y], np.c_[y, y])[1],
        lambda: total.as_lightgbm("exact")(y, y + 1)[1],
    )
    if own._hessian:
        np.testing.assert_array_equal(calls[0](), 1.5)  # 0 of the straight one
        np.testing.assert_allclose(total.as_xgboost()(y, y + 1)[1], 1.5)
    for call in calls:
        if own._hessian:
            call()
        else:
            with pytest.raises(ValueError, match="hessian='exact': mine has no hessian: pass hessian=True"):
                call()
    np.testing.assert_array_equal((0.0 * own + SquaredError()).gradient_hessian([0.0], [1.0])[1], [1.0])
    np.testing.assert_array_equal((2.0 * kinked).gradient_hessian([0.0, 1.0], [1.0, 1.0])[1], [0.0, 0.0])


def test_bounds_of_sums(table):
    one = CustomLoss(squares, curvature=1.0)
    total = 2.0 * one + Huber()
    assert total.curvature() == 3.0
    np.testing.assert_array_equal(total.gradient_hessian([0.0], [1.0], reduction="none", hessian="upper_bound")[1], [3])
    np.testing.assert_array_equal(total.as_lightgbm()([0.0], [1.0])[1], [3.0])
    assert CustomLoss(squares).as_xgboost()([0.0], [1.0])[1] == 1  # nothing known


# ------------------------------------------------------------------------------------------------- losses of columns
def test_columns(own, kinked, dtype):
    y, raw, weight = points(5000, 4, dtype)
    y[np.random.default_rng(1).random(y.shape) < 0.3] = np.nan
    y[:, 3] = y[:, 3] > 0
    tasks = [(2.0, own, 0), (0.5, kinked, 1), (1.0, 0.5 * own + Huber(), 2), (1.0, "log_loss", 3)]
    plain = [(2.0, "squared_error", 0), (0.5, "absolute_error", 1), (1.0, 0.5 * SquaredError() + Huber(), 2), tasks[3]]
    got, right = (MultiTaskLoss(one).loss_gradient(y, raw, weight, reduction="none") for one in (tasks, plain))
    for one, expected in zip(got, right, strict=True):
        close(one, expected, dtype)
    first = MultiTaskLoss(tasks).gradient(y, raw, weight, n_threads=1)
    for k in (2, 3, 4):
        assert MultiTaskLoss(tasks).gradient(y, raw, weight, n_threads=k).tobytes() == first.tobytes()
    learned, other = (MultiTaskLoss(one, weighting="uncertainty") for one in (tasks, plain))
    s = np.array([0.5, -0.5, 0.1, 0.0])
    for one, expected in zip(*(x.loss_gradient(y, raw, log_variances=s) for x in (learned, other)), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-5)


def test_functions_are_not_asked_about_nothing():
    """Blocks of gaps alone: nobody's function has to take arrays without elements."""

    def picky(y, raw):
        y.max()
        return squares(y, raw)

    loss = MultiTaskLoss([(1.0, CustomLoss(picky), 0), (1.0, "squared_error", 1)])
    y, raw, _ = points(9000, 2)
    y[:5000, 0] = np.nan
    np.testing.assert_array_equal(loss.gradient(y, raw, reduction="none"), np.where(np.isnan(y), 0, raw - y))


@pytest.mark.parametrize("parameters", [{}, STEPS], ids=["auto", "steps"])
def test_fits_of_columns(own, kinked, table, parameters):
    X, y = table
    Y = np.column_stack([y, y, y])
    Y[::7, 1] = np.nan
    models = [
        SGDLossRegressor(MultiTaskLoss([(1.0, a, 0), (2.0, b, 1), (1.0, "huber", 2)]), batch_size=16, **parameters).fit(
            X, Y
        )
        if parameters
        else SGDLossRegressor(MultiTaskLoss([(1.0, a, 0), (2.0, b, 1), (1.0, "huber", 2)])).fit(X, Y)
        for a, b in ((own, kinked), (SquaredError(), AbsoluteError()))
    ]
    np.testing.assert_allclose(models[0].coef_, models[1].coef_, atol=2e-3 if not parameters else 1e-10)


# ------------------------------------------------------------------------------------------------- linear models
@pytest.mark.parametrize("convert", [np.asarray, sp.csr_matrix, np.float32, np.asfortranarray])
def test_linear_objectives(own, kinked, table, convert):
    X, y = table
    given_X, weight = convert(X), np.linspace(0, 2, len(y))
    w = np.array([0.5, -1.0, 0.2, 0.1])
    found, right = (
        LinearObjective(given_X, y, loss, sample_weight=weight, alpha=0.1)(w)
        for loss in (nested(own, kinked), nested(SquaredError(), AbsoluteError()))
    )
    for one, expected in zip(found, right, strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-5 if convert is np.float32 else 1e-12, atol=1e-6)


@pytest.mark.parametrize("parameters", [{}, {**STEPS, "batch_size": 32}, {"penalty": "l1", "alpha": 0.01}], ids=str)
@pytest.mark.parametrize("convert", [np.asarray, sp.csr_matrix, np.float32])
def test_regressors(own, kinked, table, parameters, convert):
    X, y = table
    total, right = nested(own, kinked), nested(SquaredError(), AbsoluteError())
    models = [SGDLossRegressor(loss, **parameters).fit(convert(X), y) for loss in (total, right)]
    exactly = "learning_rate" in parameters
    np.testing.assert_allclose(models[0].coef_, models[1].coef_, atol=1e-5 if exactly else 3e-3)
    assert exactly or models[0].converged_
    again = clone(models[0]).set_params(learning_rate="auto", batch_size=None, max_iter=1000, tol=1e-3, penalty=None)
    again.partial_fit(convert(X), y)
    np.testing.assert_allclose(again.coef_, [1.0, -2.0, 0.5], atol=0.25)


@pytest.mark.parametrize("parameters", [{}, {**STEPS, "batch_size": 32}], ids=["auto", "steps"])
def test_classifiers(table, parameters):
    X, y = table
    label = np.where(y > 0, "yes", "no")
    total = 0.5 * CustomLoss(logistic, "binary", hessian=True, link="logit") + 0.5 * CustomLoss(
        hinge, "binary", piecewise_linear=True
    )
    models = [SGDLossClassifier(loss, **parameters).fit(X, label) for loss in (total, 0.5 * LogLoss() + 0.5 * Hinge())]
    np.testing.assert_allclose(models[0].coef_, models[1].coef_, atol=5e-3)
    np.testing.assert_allclose(models[0].predict_proba(X), models[1].predict_proba(X), atol=5e-3)
    SGDLossClassifier(total).partial_fit(X, label, classes=["no", "yes"])


# ------------------------------------------------------------------------------------------------- envelopes
@pytest.mark.parametrize("step", [1e-3, 0.7, 30.0])
@pytest.mark.parametrize("n", [1, 63, 4097])
def test_envelopes(own, kinked, dtype, step, n):
    """A kinked term's and a sum's: those of the built-in."""
    y, raw, _ = points(n, dtype=dtype)
    raw[::3] = y[::3]
    want = dispatch.LOSS | dispatch.GRADIENT
    for mine, right in (
        (kinked, AbsoluteError()),
        (0.3 * own + 0.7 * kinked, 0.3 * SquaredError() + 0.7 * AbsoluteError()),
    ):
        got, exact = (
            dispatch.evaluate(one._envelope(step), want, y, raw, None, "none", None, None, None, 1)
            for one in (mine, right)
        )
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(got[1], exact[1], atol=8 * eps * (1 + np.abs(raw).max() / step))
        np.testing.assert_allclose(got[0], exact[0], rtol=32 * eps, atol=32 * eps)


def test_envelopes_of_functions_for_float32_only(compiled):
    """They are searched for in float64."""
    one = CustomLoss({"float32": compiled.both["float32"]}, name="mine", piecewise_linear=True)
    for loss in (one, one + AbsoluteError()):
        with pytest.raises(ValueError, match="mine has a callback for float32 only"):
            SGDLossRegressor(loss).fit(np.ones((20, 1), np.float32), np.arange(20, dtype=np.float32))


@pytest.mark.parametrize("n_threads", [1, 4])
@pytest.mark.parametrize("last", [1, 2, 4])
def test_failures_inside_a_search(last, n_threads):
    calls = []
    boom = StopError("in the search")

    def f(y, raw):
        calls.append(len(y))
        if len(calls) >= last:
            raise boom
        return absolute(y, raw)

    y, raw, _ = points(30_000)
    envelope = (CustomLoss(f) + 0.5 * AbsoluteError())._envelope(0.5)
    for _ in range(2):  # it is as good as new afterwards
        calls.clear()
        with pytest.raises(StopError) as caught:
            dispatch.evaluate(envelope, dispatch.GRADIENT, y, raw, None, "none", None, None, None, n_threads)
        assert caught.value is boom
        assert len(calls) == last


# ------------------------------------------------------------------------------------------------- failures
class StopError(Exception):
    """Raised by Python functions below."""


class Switch:
    """½r² until it is told to fail: at raw predictions above a level, by default not in the checks before a fit."""

    def __init__(self):
        self.error, self.level = None, 0.02

    def __call__(self, y, raw):
        if self.error is not None and (raw > self.level).any():
            raise self.error
        return squares(y, raw)


WRAPPED = {
    "alone": lambda one: one,
    "a multiple": lambda one: 0.5 * one,
    "a sum": lambda one: 0.5 * one + Huber(),
    "the last of a sum": lambda one: Huber() + 0.5 * (SquaredError() + one),
    "without a factor": lambda one: 0.0 * one + Huber(),
    "a sum with kinks": lambda one: 0.5 * one + AbsoluteError(),
    "the first column": lambda one: MultiTaskLoss([(1.0, one, 0), (1.0, "squared_error", 1)]),
    "the second column": lambda one: MultiTaskLoss([(1.0, "squared_error", 0), (1.0, one, 1)]),
    "a sum in a column": lambda one: MultiTaskLoss([(1.0, "huber", 0), (0.5, AbsoluteError() + 0.5 * one, 1)]),
    "a column without a weight": lambda one: MultiTaskLoss([(1.0, "huber", 0), (0.0, one, 1)]),
}


def passes(loss, X, y):
    """Ways to go over the data; those after the first need no particular loss."""
    raw = y + 1.0
    yield lambda: loss.loss_gradient(y, raw, n_threads=1)
    yield lambda: loss.loss(y, raw.astype(np.float32), n_threads=4)
    objective = LinearObjective(X, y, loss, n_threads=4)
    yield lambda: objective(np.ones(objective.size))
    yield lambda: SGDLossRegressor(loss).fit(X, y)
    yield lambda: SGDLossRegressor(loss).fit(sp.csr_matrix(X.astype(np.float32)), y)
    yield lambda: SGDLossRegressor(loss, **STEPS).fit(X, y)
    yield lambda: SGDLossRegressor(loss, n_threads=2, batch_size=7, **STEPS).fit(X, y)
    yield lambda: SGDLossRegressor(loss).partial_fit(X, y)
    yield lambda: loss.as_xgboost()(y, raw)
    if y.ndim == 1:
        yield lambda: loss.as_lightgbm()(y, raw)


@pytest.mark.parametrize("how", WRAPPED)
@pytest.mark.parametrize("kind", [StopError, KeyboardInterrupt])
def test_exceptions_come_out_as_they_are(how, kind, table):
    X, y = table[0][:400], table[1][:400]
    switch, boom = Switch(), kind("as it is")
    loss = WRAPPED[how](CustomLoss(switch))
    if how == "a column without a weight":  # whose model stays where it is
        switch.level = -1.0
    targets = np.c_[y, y] if loss.kind == "multitask" else y
    for call in passes(loss, X, targets):
        call()
        switch.error = boom
        with pytest.raises(kind) as caught:
            call()
        assert caught.value is boom
        switch.error = None
        call()


def test_exceptions_end_the_pass():
    """Nobody else's function is called any more."""
    calls = []

    def other(y, raw):
        calls.append(len(y))
        return squares(y, raw)

    def boom(y, raw):
        raise StopError

    y, raw, _ = points(500_000)
    for loss in (CustomLoss(other) + CustomLoss(boom), CustomLoss(boom) + CustomLoss(other)):
        calls.clear()
        with pytest.raises(StopError):
            loss.loss(y, raw)
        assert len(calls) <= 1
    label, scores = np.zeros(500_000, int), np.zeros((500_000, 2))

    def other_scores(y, raw):
        calls.append(len(y))
        return np.zeros(len(y)), np.zeros_like(raw)

    calls.clear()
    with pytest.raises(StopError):
        (CustomLoss(other_scores, "multiclass") + CustomLoss(boom, "multiclass")).loss(label, scores)
    assert len(calls) == 1


@pytest.mark.parametrize("n_threads", [1, 4])
@pytest.mark.parametrize(("more", "returned"), [(0, 70), (3, 1027), (-5000, -3976)], ids=["index", "n + 3", "negative"])
def test_return_values(compiled, more, returned, n_threads):
    """Any value but n is a refusal, also one above n and a negative one; it is the function's own in the message."""
    one = CustomLoss(compiled.returns, params=[4.0, more], name="mine")
    y, raw = np.zeros(1024), np.zeros(1024)
    raw[70] = 5.0
    place = 70 if more == 0 else 0
    with pytest.raises(
        ValueError, match=rf"y_true\[{place}\] = 0.0: mine refused it: its callback returned {returned}"
    ):
        one.loss(y, raw, n_threads=n_threads)
    for loss in (0.5 * one, one + Huber(), Huber() + 2.0 * one, 0.0 * one + Huber()):
        with pytest.raises(
            ValueError, match=rf"y_true\[{place}\] = 0.0: mine refused it: its callback returned -?\d+ "
        ):
            loss.gradient(y, raw, n_threads=n_threads)
    tasks = MultiTaskLoss([(1.0, "huber", 0), (1.0, one, 1)])
    with pytest.raises(ValueError, match=rf"y_true\[{place}, 1\] = 0.0: mine refused it: its callback returned"):
        tasks.gradient(np.c_[y, y], np.c_[y, raw], n_threads=n_threads)
    kinked = (one + AbsoluteError())._envelope(0.3)
    with pytest.raises(ValueError, match=r"y_true\[\d+\] = 0.0: mine refused it: its callback returned"):
        dispatch.evaluate(kinked, dispatch.LOSS, y, raw, None, "none", None, None, None, n_threads)
    far = (one + AbsoluteError())._envelope(10.0)  # whose search looks beyond 4 for a solution between -1 and 0
    with pytest.raises(ValueError, match=r"y_true\[0\] = 0.0: mine refused it: its callback returned"):
        dispatch.evaluate(far, dispatch.LOSS, y, y - 1.0, None, "none", None, None, None, n_threads)


def test_refusals_while_training(compiled, table):
    X, y = table
    one = CustomLoss(compiled.returns, params=[0.5, 0], name="mine")
    wide = CustomLoss(compiled.returns, params=[1e9, 0], name="wide")
    Y = np.c_[y, y]
    for loss, targets in (
        (0.5 * one + Huber(), y),
        (one + AbsoluteError(), y),
        (MultiTaskLoss([(1.0, one, 0), (1.0, wide, 1)]), Y),
        (MultiTaskLoss([(1.0, wide, 0), (1.0, one, 1)]), Y),
        (MultiTaskLoss([(1.0, wide, 0), (1.0, Huber() + one, 1)]), Y),
    ):
        for model in (SGDLossRegressor(loss), SGDLossRegressor(loss, **STEPS)):
            for fit in (model.fit, model.partial_fit):
                with pytest.raises(ValueError, match="mine refused it: its callback returned"):
                    fit(X, targets)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_nan(table):
    one = CustomLoss(
        lambda y, raw: (np.where(raw > 1, np.nan, raw - raw), np.where(raw > 1, np.nan, raw - raw)), name="mine"
    )
    y, raw, _ = points(3000)
    bad = raw > 1
    for loss in (0.5 * one + Huber(), Huber() + 2 * one):
        value, gradient = loss.loss_gradient(y, raw, reduction="none")
        np.testing.assert_array_equal(np.isnan(value), bad)
        np.testing.assert_array_equal(np.isnan(gradient), bad)
        with pytest.raises(ValueError, match="not finite for the raw prediction"):
            loss.as_lightgbm()(y, raw)
    assert not np.isnan((0.0 * one + Huber()).gradient(y, raw)).any()
    tasks = MultiTaskLoss([(1.0, "huber", 0), (1.0, one, 1)])
    gradient = tasks.gradient(np.c_[y, y], np.c_[raw, raw], reduction="none")
    np.testing.assert_array_equal(np.isnan(gradient), np.c_[np.zeros_like(bad), bad])
    envelope = (one + AbsoluteError())._envelope(0.1)
    found = dispatch.evaluate(envelope, dispatch.GRADIENT, y, raw, None, "none", None, None, None, 1)
    assert np.isnan(found[bad]).all()
    with pytest.raises(ValueError, match="mine"):
        SGDLossRegressor(CustomLoss(lambda y, raw: (raw * np.nan, raw * np.nan), name="mine") + AbsoluteError()).fit(
            *table
        )


@pytest.mark.parametrize("how", WRAPPED)
def test_failures_stay_in_their_thread(how):
    """One object, many threads, every other call fails."""

    def f(y, raw):
        if y[0] < 0:
            raise StopError(f"{y[0]}")
        return squares(y, raw)

    loss = WRAPPED[how](CustomLoss(f))
    width = (2,) if loss.kind == "multitask" else ()
    right = [loss.loss(np.full((1, *width), float(k)), np.full((1, *width), k + 1.0)) for k in range(20)]

    def call(k):
        y = np.full((9000, *width), float(k))
        try:
            return loss.loss(y, y + 1, n_threads=1 + k % 4)
        except StopError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(call, range(-20, 20)))
    assert found[:20] == [f"{float(k)}" for k in range(-20, 0)]
    np.testing.assert_allclose(found[20:], right, rtol=1e-12)


def test_fits_in_several_threads(table):
    X, y = table[0][:500], table[1][:500]

    def f(target, raw):
        if (target > 1e6).any() and (raw != 0).any():
            raise StopError
        return absolute(target, raw)

    loss = CustomLoss(f, piecewise_linear=True) + 0.1 * SquaredError()
    right = SGDLossRegressor(loss).fit(X, y).coef_

    def fit(k):
        try:
            return SGDLossRegressor(loss).fit(X, y if k % 2 else y + 2e6 * (y > 0)).coef_
        except StopError:
            return None

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(fit, range(6)))
    assert [one is None for one in found] == [True, False] * 3
    for one in found[1::2]:
        np.testing.assert_array_equal(one, right)


# ------------------------------------------------------------------------------------------------- objects
def objects(one):
    total = 0.5 * one + 0.5 * (Huber() + 2 * one)
    return (
        total,
        MultiTaskLoss([(1.0, total, 0), (2.0, one, 1)]),
        total.as_lightgbm(),
        (2.0 * one).as_xgboost("upper_bound"),
    )


def test_copies_and_pickles(table):
    for one in objects(CustomLoss(squares, curvature=1.0)):
        for other in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one)), clone(one, safe=False)):
            assert other == one
            assert hash(other) == hash(one)
    X, y = table
    for loss in objects(CustomLoss(squares, curvature=1.0))[:1]:
        model = SGDLossRegressor(loss).fit(X, y)
        again = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(again.predict(X), model.predict(X))
        np.testing.assert_array_equal(clone(model).fit(X, y).coef_, model.coef_)
        np.testing.assert_array_equal(again.fit(X, y).coef_, model.coef_)


def test_compiled_functions_are_copied_but_not_pickled(compiled):
    for one in objects(CustomLoss(compiled.squares, curvature=1.0, name="mine")):
        assert copy.deepcopy(one) == one
        assert clone(one, safe=False) == one
        with pytest.raises(TypeError, match="mine cannot be pickled: its function is compiled"):
            pickle.dumps(one)


def test_functions_live_as_long_as_what_holds_them():
    def make():
        def f(y, raw):
            return squares(y, raw)

        kind = ctypes.CFUNCTYPE(
            ctypes.c_ssize_t, *[ctypes.POINTER(ctypes.c_double)] * 5, ctypes.c_ssize_t,
            ctypes.POINTER(ctypes.c_double), ctypes.c_void_p,
        )  # fmt: skip

        def block(y, raw, loss, grad, hess, n, params, data):
            for i in range(n):
                loss[i] = grad[i] = raw[i] - y[i]
            return n

        return 0.5 * CustomLoss(f) + CustomLoss(kind(block))

    total = make()
    tasks, envelope = MultiTaskLoss([(1.0, make(), 0)]), make()._envelope(0.5)
    assert total.loss([0.0], [2.0]) == 3.0
    assert tasks.loss([[0.0]], [[2.0]]) == 3.0
    dispatch.evaluate(envelope, dispatch.LOSS, [0.0], [2.0], None, "none", None, None, None, 1)


def test_instruction_sets(own, kinked):
    """A switch reaches sums, columns and envelopes that exist already."""
    y, raw, _ = points(2000)
    total = nested(own, kinked)
    tasks, envelope = MultiTaskLoss([(1.0, total, [0, 1])]), total._envelope(0.4)
    found = []
    for isa in _kernels.available_isas():
        with _kernels.use_isa(isa):
            found.append(
                np.concatenate(
                    [
                        total.gradient(y, raw, reduction="none"),
                        tasks.gradient(np.c_[y, y], np.c_[raw, raw], reduction="none").ravel(),
                        dispatch.evaluate(envelope, dispatch.GRADIENT, y, raw, None, "none", None, None, None, 2),
                    ]
                )
            )
    for one in found[1:]:
        np.testing.assert_allclose(one, found[0], rtol=1e-13, atol=1e-13)


# ------------------------------------------------------------------------------------------------- boosting
def test_boosting_objectives(own, kinked):
    y, raw, weight = points(200)
    for mine, right in (
        (own, SquaredError()),
        (0.5 * own + 0.5 * own, SquaredError()),
        (kinked, AbsoluteError()),
        (own + 2.0 * kinked, SquaredError() + 2.0 * AbsoluteError()),
    ):
        for host in ("as_lightgbm", "as_xgboost"):
            got, expected = (getattr(loss, host)() for loss in (mine, right))
            np.testing.assert_allclose(got(y, raw, weight)[0], expected(y, raw, weight)[0], rtol=1e-14)
            assert (got(y, raw, weight)[1] >= 0).all()
            np.testing.assert_allclose(got.init_score(y, weight), expected.init_score(y, weight), atol=1e-6)
            assert got._value(y, raw, weight, None) == pytest.approx(mine.loss(y, raw, weight), rel=1e-14)
    columns = MultiTaskLoss([(1.0, own, 0), (2.0, kinked, 1)]).as_xgboost()
    assert columns.init_score(np.c_[y, y]).shape == (200, 2)
    np.testing.assert_allclose(columns(np.c_[y, y], np.c_[raw, raw])[0], np.c_[raw - y, 2 * np.sign(raw - y)])


def test_whole_boosted_models(table):
    lgb = pytest.importorskip("lightgbm", reason="LightGBM is not installed")
    xgb = pytest.importorskip("xgboost", reason="XGBoost is not installed")
    X, y = table
    mine = 0.25 * CustomLoss(squares_with_hessian, hessian=True) + 0.75 * SquaredError()
    params = {"verbose": -1, "num_threads": 1}
    trees = [
        lgb.train({**params, "objective": loss.as_lightgbm()}, lgb.Dataset(X, y), 5).predict(X)
        for loss in (mine, SquaredError())
    ]
    np.testing.assert_allclose(*trees, atol=1e-6)
    trees = [
        xgb.train({"nthread": 1, **loss.as_xgboost().params}, xgb.DMatrix(X, y), 5, obj=loss.as_xgboost()).predict(
            xgb.DMatrix(X)
        )
        for loss in (mine, SquaredError())
    ]
    np.testing.assert_allclose(*trees, atol=1e-5)

    def boom(y, raw):
        raise StopError("in a tree")

    with pytest.raises(StopError, match="in a tree"):
        lgb.train({**params, "objective": (CustomLoss(boom) + Huber()).as_lightgbm()}, lgb.Dataset(X, y), 2)
    with pytest.raises(StopError, match="in a tree"):
        xgb.train({}, xgb.DMatrix(X, y), 2, obj=(CustomLoss(boom) + Huber()).as_xgboost())


# ------------------------------------------------------------------------------------------------- check_loss
def test_check_loss_of_what_is_right(own, kinked):
    for loss in (
        0.5 * own + 0.25 * kinked + Huber(),
        MultiTaskLoss([(1.0, own, 0), (2.0, kinked, 1), (1.0, "poisson", 2)]),
    ):
        report = fastloss.check_loss(loss)
        assert report.ok, str(report)
        assert not report.smooth


def test_check_loss_finds_a_wrong_term():
    wrong = CustomLoss(lambda y, raw: (squares(y, raw)[0], -squares(y, raw)[1]), name="wrong")
    doubled = CustomLoss(lambda y, raw: (squares(y, raw)[0], 2 * squares(y, raw)[1]), name="doubled")
    for one in (wrong, doubled):
        for loss in (Huber() + 0.5 * one, MultiTaskLoss([(1.0, "huber", 0), (1.0, one, 1)])):
            report = fastloss.check_loss(loss)
            assert any("gradient at" in text for text in report.problems), str(report)
    mistaken = CustomLoss(lambda y, raw: (*squares(y, raw), 3 * np.ones_like(raw)), hessian=True)
    assert any("hessian" in text for text in fastloss.check_loss(mistaken + Huber()).problems)
    bent = CustomLoss(squares, piecewise_linear=True)
    assert any("hessian" in text or "linear" in text for text in fastloss.check_loss(bent + AbsoluteError()).problems)


def test_check_loss_where_a_function_raises():
    def boom(y, raw):
        raise StopError("as it is")

    for loss in (CustomLoss(boom) + Huber(), MultiTaskLoss([(1.0, CustomLoss(boom), 0)])):
        with pytest.raises(ValueError, match="StopError: as it is"):
            fastloss.check_loss(loss)


# ------------------------------------------------------------------------------------------------- torch
def test_torch(own, kinked):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from fastloss.interop import torch as ours

    y, raw, weight = (torch.from_numpy(array) for array in points(50))
    for loss in (own, nested(own, kinked)):
        x = raw.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda z, loss=loss: ours.loss(loss, z, y, weight), x)
    x = torch.stack([raw, raw], 1).requires_grad_()
    tasks = ours.Loss(MultiTaskLoss([(1.0, own, 0), (2.0, kinked, 1)]), "sum")
    tasks(x, torch.stack([y, y], 1)).backward()
    np.testing.assert_allclose(x.grad, np.c_[raw - y, 2 * np.sign(raw - y)])

    def boom(y, raw):
        raise StopError("as it is")

    with pytest.raises(StopError, match="as it is"):
        ours.loss(CustomLoss(boom) + Huber(), raw.clone().requires_grad_(), y)


def test_torch_with_groups():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from fastloss.interop import torch as ours

    rng = np.random.default_rng(0)
    grade, raw = torch.from_numpy(rng.integers(0, 3, 30)), torch.from_numpy(rng.normal(size=30)).requires_grad_()
    sizes = [10, 5, 15]
    for name in ("pairwise_logistic", "listnet"):
        assert torch.autograd.gradcheck(lambda z, name=name: ours.loss(name, z, grade, group=sizes), raw)
    assert torch.autograd.gradcheck(lambda z: ours.Loss("soft_fbeta")(z, (grade > 0).double()), raw)
    value = ours.Loss("lambdarank", "sum")(raw, grade, group=torch.tensor(sizes))
    value.backward()
    right = get_loss("lambdarank").gradient(grade.numpy(), raw.detach().numpy(), group=sizes, reduction="sum")
    np.testing.assert_array_equal(raw.grad, right)
    with pytest.raises(TypeError, match="group is for ranking losses: huber has no groups"):
        ours.loss("huber", raw, grade, group=sizes)
    with pytest.raises(TypeError, match="group is for ranking losses: soft_fbeta has no groups"):
        ours.loss("soft_fbeta", raw, grade > 0, group=sizes)


# ------------------------------------------------------------------------------------------------- batch losses
@pytest.mark.parametrize("name", fastloss.list_losses(kind="batch"))
def test_batch_losses_are_no_terms(name):
    loss = get_loss(name)
    for make in (lambda: loss + loss, lambda: LogLoss() + loss, lambda: 2.0 * loss, lambda: loss.tempered(2.0)):
        with pytest.raises(
            ValueError, match=r"cannot be a term of a sum .* is of kind 'batch', one value for all samples"
        ):
            make()
    with pytest.raises(ValueError, match=r"tasks\[0\] has .* of kind 'batch'; a column's loss must be"):
        MultiTaskLoss([(1.0, loss, 0)])
    with pytest.raises(ValueError, match="kind must be one of 'regression', 'binary', 'multiclass', got 'batch'"):
        CustomLoss(squares, "batch")


@pytest.mark.parametrize("name", fastloss.list_losses(kind="batch"))
@pytest.mark.parametrize("host", ["as_lightgbm", "as_xgboost"])
def test_batch_losses_in_boosting(name, host):
    """Ranking losses are sums over groups; of the others the mean counts once per sample."""
    rng = np.random.default_rng(0)
    y, raw, weight = rng.integers(0, 2, 40), rng.normal(size=40), rng.uniform(0.5, 2, 40)
    loss, sizes = get_loss(name), [25, 15]
    gradient, hessian = getattr(loss, host)()(y, raw, weight, sizes)
    if loss.grouped:
        right = loss.gradient(y, raw, weight, group=sizes, reduction="sum")
    else:
        right = loss.gradient(y, raw, weight) * weight.sum()
    np.testing.assert_allclose(gradient, right, rtol=1e-12)
    assert (hessian > 0).all()
    policy = (
        "upper_bound"
        if name in ("approx_ndcg", "dice", "jaccard", "lovasz_hinge", "soft_fbeta", "tversky")
        else "exact"
    )
    same = getattr(loss, host)(policy)(y, raw, weight, sizes)[1]
    np.testing.assert_array_equal(hessian, same)
    again = pickle.loads(pickle.dumps(getattr(loss, host)()))
    np.testing.assert_array_equal(again(y, raw, weight, sizes)[0], gradient)
    np.testing.assert_array_equal(again.init_score(y), 0)


@pytest.mark.parametrize("name", fastloss.list_losses(kind="batch"))
def test_check_loss_of_batch_losses(name):
    report = fastloss.check_loss(name)
    assert report.ok, str(report)
