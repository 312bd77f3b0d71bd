"""CustomLoss: a user's own function does what a built-in of the same formula does, and its mistakes are errors."""

import copy
import ctypes
import gc
import math
import os
import pickle
import shutil
import subprocess
import sys
import sysconfig
import types
from pathlib import Path

import numba_blocks
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf
from scipy import LowLevelCallable
from sklearn.base import clone

import fastloss
from fastloss import CustomLoss, LinearObjective, SGDLossClassifier, SGDLossRegressor
from fastloss._kernels import dispatch

COMPILER = shutil.which(os.environ.get("CC", "cc"))
FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fPIC", "-shared"]
SIGNATURE = (
    "Py_ssize_t (double const *, double const *, double *, double *, double *, Py_ssize_t, double const *, void *)"
)
need_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """tests/callbacks.c, compiled."""
    if COMPILER is None:
        pytest.skip("no C compiler")
    out = tmp_path_factory.mktemp("callbacks") / "callbacks.so"
    source = Path(__file__).with_name("callbacks.c")
    command = [COMPILER, "-Wall", "-Wextra", "-Werror", *FLAGS, f"-I{fastloss.get_include()}", str(source)]
    subprocess.run([*command, "-o", str(out), "-lm"], check=True)
    return ctypes.CDLL(str(out))


@pytest.fixture(scope="module")
def numba():
    return pytest.importorskip("numba", reason="numba is not installed")


@pytest.fixture(scope="module")
def numba_losses(numba):
    """Functions compiled by numba."""

    @numba.cfunc(fastloss.cfunc_signature("float64"))
    def huber(y, raw, loss, grad, hess, n, params, data):
        delta = params[0]
        for i in range(n):
            r = raw[i] - y[i]
            a = abs(r)
            grad[i] = r if a <= delta else (delta if r > 0 else -delta)
            loss[i] = 0.5 * r * r if a <= delta else delta * (a - 0.5 * delta)
        return n

    @numba.cfunc(fastloss.cfunc_signature("float64"))
    def log_cosh(y, raw, loss, grad, hess, n, params, data):
        for i in range(n):
            a = abs(raw[i] - y[i])
            e = math.exp(-2 * a)
            loss[i] = a + math.log1p(e) - 0.6931471805599453
            grad[i] = math.copysign((1 - e) / (1 + e), raw[i] - y[i])
        return n

    @numba.cfunc(fastloss.cfunc_signature("float64"))
    def raises(y, raw, loss, grad, hess, n, params, data):
        for i in range(n):
            if y[i] > 5:
                raise ValueError("too large")
            loss[i] = grad[i] = 0.0
        return n

    @numba.cfunc(fastloss.cfunc_signature("float32"))
    def squares32(y, raw, loss, grad, hess, n, params, data):
        for i in range(n):
            grad[i] = raw[i] - y[i]
            loss[i] = np.float32(0.5) * grad[i] * grad[i]
        return n

    softmax = numba.cfunc(fastloss.cfunc_signature("float64", multiclass=True))(numba_blocks.softmax)

    return types.SimpleNamespace(**{k: v for k, v in locals().items() if k != "numba"})


def numpy_huber(y, raw, delta):
    r = raw - y
    a = np.abs(r)
    return np.where(a <= delta, 0.5 * r * r, delta * (a - 0.5 * delta)), np.clip(r, -delta, delta)


def numpy_squares(y, raw):
    r = raw - y
    return 0.5 * r * r, r


def numpy_absolute(y, raw):
    return np.abs(raw - y), np.sign(raw - y)


def numpy_logistic(y, raw):
    s = np.where(y > 0, 1.0, -1.0).astype(raw.dtype)
    m = s * raw
    p = np.exp(-np.logaddexp(0, m))
    return np.logaddexp(0, -m), -s * p


def numpy_softmax(y, raw):
    p = np.exp(raw - raw.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    target = y
    if y.ndim == 1:
        target = np.zeros_like(raw)
        target[np.arange(len(y)), y] = 1
    mass = target.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        return -np.where(target == 0, 0, target * np.log(p)).sum(axis=1), mass * p - target


def huber_in_every_way(request, way):
    if way == "python":
        return CustomLoss(numpy_huber, params={"delta": 1.25})
    if way == "numba":
        return CustomLoss(request.getfixturevalue("numba_losses").huber, params=[1.25])
    library = request.getfixturevalue("library")
    if way == "both":
        function = {"float64": ctypes.cast(library.huber, ctypes.c_void_p), np.float32: library.huberf}
        return CustomLoss(function, params=[1.25], name="huber")
    return CustomLoss(library.huber, params=(1.25,), signature="float64")


@pytest.fixture(params=["python", "numba", "c", "both"])
def huber(request):
    return huber_in_every_way(request, request.param)


def points(n, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=n)
    return y.astype(dtype), (y + 2 * rng.standard_t(2, n)).astype(dtype)


# the same as a built-in -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("n", [0, 1, 2, 1023, 1025, 50_000])
def test_huber_is_the_built_in(huber, dtype, n):
    y, raw = points(n, dtype)
    weight = np.random.default_rng(1).integers(0, 3, n).astype(float)
    built_in = fastloss.get_loss("huber", delta=1.25)
    for reduction in ("none", "sum", *["mean"] * (n > 1)):
        got = huber.loss_gradient(y, raw, weight, reduction=reduction)
        want = built_in.loss_gradient(y, raw, weight, reduction=reduction)
        for a, b in zip(got, want, strict=True):
            a, b = np.asarray(a), np.asarray(b)
            assert a.dtype == b.dtype
            # a float32 block is computed in float64 by a function of float64, with one rounding where we have two
            assert np.all(np.abs(a - b) <= 4 * np.spacing(np.abs(b).astype(dtype)))
    exact = built_in.gradient(y, raw, reduction="none")
    np.testing.assert_allclose(huber.gradient(y, raw, reduction="none"), exact, rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(huber.loss(y, raw, reduction="sum"), huber.loss_gradient(y, raw, reduction="sum")[0])


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_tails_and_infinities(huber):
    y = np.zeros(7)
    raw = np.array([0.0, 1e-300, 1e300, -1e300, np.inf, -np.inf, np.nan])
    got = huber.loss_gradient(y, raw, reduction="none")
    want = fastloss.get_loss("huber", delta=1.25).loss_gradient(y, raw, reduction="none")
    np.testing.assert_array_equal(got[0], want[0])
    if huber.function.__class__.__name__ != "CFunc":  # that one calls NaN negative
        np.testing.assert_array_equal(got[1], want[1])
    assert huber.loss(y, raw, np.array([1, 1, 0, 0, 0, 0, 0])) < 1e-290  # weight 0 beats infinity and NaN


@pytest.mark.parametrize("n_threads", [1, 2, 3, 4])
def test_threads_do_not_change_a_bit(huber, dtype, n_threads):
    y, raw = points(100_001, dtype)
    one, many = (huber.loss_gradient(y, raw, n_threads=k) for k in (1, n_threads))
    assert one[0] == many[0]
    np.testing.assert_array_equal(one[1], many[1])


@settings(max_examples=25)
@given(st.integers(0, 5000), st.integers(1, 5), st.sampled_from("CF"), st.booleans(), st.booleans())
def test_any_layout(n, width, order, strided, single):
    """(n, T) arrays of any order and stride, against the formula in NumPy."""
    dtype = np.float32 if single else np.float64
    y, raw = (np.asarray(a.reshape(n, width), order=order) for a in points(n * width, dtype))
    if strided:
        y, raw = y[::2], raw[::-2][: len(y)][::-1]
        y = y[: len(raw)]
    loss, gradient = CustomLoss(numpy_huber, params=[1.25]).loss_gradient(y, raw, reduction="none")
    want = numpy_huber(y, raw, 1.25)
    np.testing.assert_allclose(loss, want[0].sum(axis=1), rtol=1e-5 if single else 1e-12)
    np.testing.assert_array_equal(gradient, want[1])


def test_log_cosh_by_numba_and_by_our_header(library, numba_losses):
    y = np.zeros(20_001)
    raw = np.concatenate([np.linspace(-40, 40, 20_000), [1e-9]])
    built_in = fastloss.get_loss("log_cosh").loss_gradient(y, raw, reduction="none")
    for got, want in zip(
        CustomLoss(numba_losses.log_cosh).loss_gradient(y, raw, reduction="none"), built_in, strict=True
    ):
        assert np.abs(got - want).max() <= 1e-13
    ours = CustomLoss(library.log_cosh, signature="float64").loss_gradient(y, raw, reduction="none")
    for got, want in zip(ours, built_in, strict=True):
        assert np.all(np.abs(got - want) <= 4 * np.spacing(np.abs(want)))


def every_softmax(request, way):
    if way == "python":
        return CustomLoss(numpy_softmax, "multiclass", link="softmax", soft_targets=True)
    if way == "numba":
        return CustomLoss(request.getfixturevalue("numba_losses").softmax, "multiclass", link="softmax")
    library = request.getfixturevalue("library")
    return CustomLoss(library.softmax, "multiclass", signature="float64", link="softmax", soft_targets=True)


@pytest.fixture(params=["python", "numba", "c"])
def softmax(request):
    return every_softmax(request, request.param)


@pytest.mark.parametrize("K", [1, 2, 10, 300])
@pytest.mark.parametrize("order", ["C", "F"])
def test_softmax_is_the_built_in(softmax, dtype, K, order):
    rng = np.random.default_rng(K)
    n = 5000 if K <= 10 else 40
    raw = np.asarray(rng.normal(size=(n, K)) * 3, dtype, order=order)
    label = rng.integers(0, K, n)
    weight = rng.random(n)
    tolerance = {"rtol": 2e-5, "atol": 2e-6} if dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-13}
    built_in = fastloss.get_loss("cross_entropy")
    for reduction in ("none", "mean"):
        got = softmax.loss_gradient(label, raw, weight, reduction=reduction)
        want = built_in.loss_gradient(label, raw, weight, reduction=reduction)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, **tolerance)
    np.testing.assert_allclose(softmax.predict(raw), built_in.predict(raw))
    for k in (2, 4):
        np.testing.assert_array_equal(softmax.gradient(label, raw, n_threads=k), softmax.gradient(label, raw))


def test_soft_targets(request):
    rng = np.random.default_rng(0)
    raw, soft = rng.normal(size=(300, 4)), rng.dirichlet(np.ones(4), 300)
    want = fastloss.get_loss("cross_entropy").loss_gradient(soft, raw)
    for way in ("python", "c"):
        got = every_softmax(request, way).loss_gradient(soft, raw)
        np.testing.assert_allclose(got[0], want[0], rtol=1e-12)
        np.testing.assert_allclose(got[1], want[1], atol=1e-15)
    with pytest.raises(ValueError, match="numpy_softmax needs labels of shape"):
        CustomLoss(numpy_softmax, "multiclass").loss(soft, raw)
    with pytest.raises(ValueError, match=r"y_true\[2\] = 4: numpy_softmax needs labels in 0 \.\.\. 3"):
        CustomLoss(numpy_softmax, "multiclass").loss([0, 1, 4], raw[:3])


@pytest.mark.parametrize("order", ["C", "F"])
def test_many_classes_in_one_sample(order):
    raw = np.asarray(np.random.default_rng(0).normal(size=(3, 70_000)), order=order)
    got = CustomLoss(numpy_softmax, "multiclass").gradient([0, 1, 69_999], raw)
    np.testing.assert_allclose(got, fastloss.get_loss("cross_entropy").gradient([0, 1, 69_999], raw), atol=1e-15)


# parameters, user data, hessians --------------------------------------------------------------------------------------
def test_any_number_of_params_as_they_are(library):
    params = [0.0] * 99 + [1 / 3]
    loss = CustomLoss(library.squares, params=params, signature="float64", name="squares")
    for dtype in (np.float64, np.float32):
        np.testing.assert_array_equal(loss.gradient([0.0], np.ones(1, dtype), reduction="none"), [dtype(1 / 3)])
    assert loss.params["params[99]"] == 1 / 3

    seen = []

    def f(y, raw, a, b):
        seen.append((a, b))
        return numpy_squares(y, raw)

    CustomLoss(f, params={"b": 1, "a": np.float32(2)}).loss([0.0], [1.0])
    assert seen == [(1.0, 2.0)]
    assert isinstance(seen[0][1], float)


def test_user_data_is_kept_alive(library):
    def make():
        factor = ctypes.c_double(7.0)
        function = library.squares
        data = ctypes.cast(ctypes.pointer(factor), ctypes.c_void_p)
        data.factor = factor
        return CustomLoss(LowLevelCallable(function, data, signature=SIGNATURE), name="squares")

    loss = make()
    gc.collect()
    assert loss.gradient([0.0], [1.0], reduction="none") == 7.0


def test_hessians(library):
    y, raw = points(3000)
    raw[0] = y[0] + 1.25
    loss = CustomLoss(library.huber_with_hessian, params=[1.25], hessian=True, signature="float64", name="huber")
    want = fastloss.get_loss("huber", delta=1.25).gradient_hessian(y, raw, reduction="none")
    for dtype in (np.float64, np.float32):
        got = loss.gradient_hessian(y, raw.astype(dtype), reduction="none")
        away = np.abs(np.abs(raw - y) - 1.25) > 1e-5
        np.testing.assert_allclose(got[0], want[0], atol=1e-6 if dtype == np.float32 else 0)
        np.testing.assert_array_equal(got[1][away], want[1][away])
    for call in (loss.loss, loss.gradient):  # room for hessians that nobody wants
        np.testing.assert_array_equal(
            call(y, raw), getattr(fastloss.get_loss("huber", delta=1.25), call.__name__)(y, raw)
        )
        np.testing.assert_array_equal(call(y[:3], raw[:3]), call(y[:3], raw[:3]))


def test_hessians_that_are_not_there():
    loss = CustomLoss(numpy_squares, name="mine")
    with pytest.raises(ValueError, match="hessian='exact': mine has no hessian: pass hessian=True"):
        loss.gradient_hessian([0.0], [1.0])
    with pytest.raises(ValueError, match="hessian='fisher': mine has"):
        loss.gradient_hessian([0.0], [1.0], hessian="fisher")
    objective = LinearObjective([[1.0]], [1.0], loss)
    for call in (lambda: objective.hessp([0.0, 0.0], [1.0, 0.0]), lambda: objective.hessian_diag([0.0, 0.0])):
        with pytest.raises(ValueError, match="mine has no hessian"):
            call()
    bounded = CustomLoss(numpy_squares, curvature=1.0)
    assert bounded.curvature() == 1.0
    np.testing.assert_array_equal(bounded.gradient_hessian([0.0], [1.0], hessian="upper_bound")[1], [1.0])
    kinked = CustomLoss(numpy_absolute, piecewise_linear=True)
    np.testing.assert_array_equal(kinked.gradient_hessian([0.0], [1.0], hessian="upper_bound")[1], [1.0])


def differences(loss, y, raw, dtype):
    want = dispatch.GRADIENT | dispatch.HESSIAN
    return dispatch.evaluate(loss._kernel, want, y, raw.astype(dtype), None, "none", None, None, None, 1)[1]


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 5e-4)])
def test_differences_of_gradients(library, dtype, tolerance):
    """What the solver gets where a function gives no hessian."""
    raw = np.concatenate([np.linspace(-30, 30, 2000), [0.0, 1e-9]])
    y = np.zeros_like(raw)
    got = differences(CustomLoss(library.log_cosh, signature="float64"), y, raw, dtype)
    np.testing.assert_allclose(got, np.cosh(raw) ** -2.0, atol=tolerance)

    scores, label = np.random.default_rng(0).normal(size=(50, 4)), np.arange(50) % 4
    for loss in (
        CustomLoss(library.softmax, "multiclass", signature="float64"),
        CustomLoss(numpy_softmax, "multiclass"),
    ):
        p = fastloss.softmax(scores)
        np.testing.assert_allclose(differences(loss, label, scores, dtype), p * (1 - p), atol=tolerance)


def test_products_of_the_hessian(softmax):
    """The multiclass hessian times a direction, for those who declare a hessian; here its compiled half alone."""
    from fastloss._kernels import linear

    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(400, 3)), rng.integers(0, 4, 400)
    w, v = (rng.normal(size=(4, 3)), rng.normal(size=4)), (rng.normal(size=(4, 3)), rng.normal(size=4))
    products = [
        LinearObjective(X, y, loss)._compiled.evaluate(linear.PRODUCT, w, v) for loss in (softmax, "cross_entropy")
    ]
    for got, want in zip(products[0][1:], products[1][1:], strict=True):
        np.testing.assert_allclose(got, want, atol=1e-10)
    nothing = (np.zeros((4, 3)), np.zeros(4))
    assert not LinearObjective(X, y, softmax)._compiled.evaluate(linear.PRODUCT, w, nothing)[1].any()


def test_a_declared_hessian_reaches_the_objective():
    def f(y, raw):
        return 0.5 * (raw - y) ** 2, raw - y, np.ones_like(raw)

    rng = np.random.default_rng(0)
    X, y, w, v = rng.normal(size=(500, 3)), rng.normal(size=500), rng.normal(size=4), rng.normal(size=4)
    own = LinearObjective(X, y, CustomLoss(f, hessian=True), alpha=0.1)
    built_in = LinearObjective(X, y, "squared_error", alpha=0.1)
    np.testing.assert_allclose(own.hessp(w, v), built_in.hessp(w, v), rtol=1e-12)
    np.testing.assert_allclose(own.hessian_diag(w), built_in.hessian_diag(w), rtol=1e-12)


# the envelope of losses with kinks ------------------------------------------------------------------------------------
def pinball(y, raw):
    u = y - raw
    return np.maximum(0.8 * u, -0.2 * u), np.where(u > 0, -0.8, np.where(u < 0, 0.2, 0.0))


def hinge(y, raw):
    s = np.where(y > 0, 1.0, -1.0)
    inside = s * raw < 1
    return np.where(inside, 1 - s * raw, 0.0), np.where(inside, -s, 0.0)


def insensitive(y, raw):
    r = raw - y
    return np.maximum(np.abs(r) - 0.1, 0), np.sign(r) * (np.abs(r) > 0.1)


@pytest.mark.parametrize("step", [1e-3, 0.3, 20.0])
@pytest.mark.parametrize(
    ("function", "built_in"),
    [
        (numpy_absolute, fastloss.get_loss("absolute_error")),
        (pinball, fastloss.get_loss("quantile", quantile=0.8)),
        (hinge, fastloss.get_loss("hinge")),
        (insensitive, fastloss.get_loss("epsilon_insensitive")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_envelopes(function, built_in, step, dtype):
    """The search finds what the closed forms say, on kinks and on straight pieces."""
    y, raw = points(3000, dtype)
    if built_in.kind == "binary":
        y = np.sign(y)
    raw[:3] = y[:3]
    loss = CustomLoss(function, built_in.kind, piecewise_linear=True)
    want = dispatch.LOSS | dispatch.GRADIENT
    got, exact = (
        dispatch.evaluate(one._envelope(step), want, y, raw, None, "none", None, None, None, 1)
        for one in (loss, built_in)
    )
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(got[1], exact[1], atol=8 * eps * (1 + np.abs(raw).max() / step))
    np.testing.assert_allclose(got[0], exact[0], rtol=16 * eps, atol=16 * eps)


# estimators -----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1500, 4)) * [1.0, 10.0, 0.1, 1.0] + [0, 3, 0, 0]
    y = X @ [1.0, 0.1, -5.0, 0.0] + rng.standard_t(3, 1500)
    return X, y


@pytest.mark.parametrize("convert", [np.asarray, sp.csr_matrix, np.asfortranarray, np.float32])
def test_auto_finds_the_same_optimum(huber, table, convert):
    X, y = convert(table[0]), table[1]
    own, built_in = (
        SGDLossRegressor(loss, alpha=0.01, tol=1e-6).fit(X, y) for loss in (huber, fastloss.losses.Huber(delta=1.25))
    )
    assert own.converged_
    assert own.objective_curve_[-1] == pytest.approx(built_in.objective_curve_[-1], rel=2e-6)
    np.testing.assert_allclose(own.predict(X), built_in.predict(X), atol=0.01)


@pytest.mark.parametrize("parameters", [{}, {"batch_size": 32}, {"average": True}, {"penalty": "l1", "alpha": 0.01}])
@pytest.mark.parametrize("convert", [np.asarray, sp.csr_matrix, np.float32])
def test_schedules_take_the_same_steps(request, table, convert, parameters):
    X, y = convert(table[0]), table[1]
    parameters = {
        "learning_rate": "invscaling",
        "eta0": 1e-3,
        "max_iter": 3,
        "tol": None,
        "random_state": 0,
    } | parameters
    want = SGDLossRegressor(fastloss.losses.Huber(delta=1.25), **parameters).fit(X, y)
    for way in ("c", "both"):
        got = SGDLossRegressor(huber_in_every_way(request, way), **parameters).fit(X, y)
        np.testing.assert_allclose(got.coef_, want.coef_, rtol=1e-5 if X.dtype == np.float32 else 1e-12)


def test_python_functions_imply_batches(table):
    X, y = table
    sizes = []

    def f(y, raw):
        sizes.append(len(y))
        return numpy_squares(y, raw)

    parameters = {"learning_rate": "constant", "eta0": 1e-4, "max_iter": 2, "tol": None, "random_state": 0}
    model = SGDLossRegressor(CustomLoss(f), **parameters).fit(X, y)
    assert set(sizes[2:]) == {256, 1500 % 256}
    assert model.t_ == 1 + 2 * 6
    np.testing.assert_allclose(
        model.coef_, SGDLossRegressor("squared_error", batch_size=256, **parameters).fit(X, y).coef_, rtol=1e-12
    )
    sizes.clear()
    SGDLossRegressor(CustomLoss(f), batch_size=1, **parameters).fit(X[:50], y[:50])
    assert sizes[-1] == 1
    assert SGDLossRegressor("squared_error", **parameters).fit(X, y).t_ == 1 + 2 * 1500


def test_python_functions_get_long_blocks_on_the_calling_thread():
    import threading

    calls = []

    def f(y, raw):
        calls.append((len(y), threading.get_ident()))
        return numpy_squares(y, raw)

    loss = CustomLoss(f)
    loss.loss_gradient(*points(20_000), n_threads=4)
    objective = LinearObjective(np.ones((20_000, 3)), np.ones(20_000), loss, n_threads=4)
    objective(np.zeros(4))
    assert {ident for _, ident in calls} == {threading.get_ident()}
    assert sorted({size for size, _ in calls}) == [20_000 % 4096, 4096]
    one, four = (LinearObjective(np.ones((20_000, 3)), np.ones(20_000), loss, n_threads=k)(np.ones(4)) for k in (1, 4))
    assert one[0] == four[0]


@pytest.mark.parametrize("learning_rate", ["auto", "invscaling"])
def test_classifiers(softmax, learning_rate):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(900, 3))
    y = np.digitize(X @ [1.0, -1.0, 0.5] + rng.logistic(size=900), [-1, 1])
    parameters = {"learning_rate": learning_rate, "max_iter": 200 if learning_rate == "auto" else 5, "random_state": 0}
    if learning_rate != "auto":
        parameters |= {"tol": None, "batch_size": 16}
    own, built_in = (SGDLossClassifier(loss, **parameters).fit(X, y) for loss in (softmax, "cross_entropy"))
    np.testing.assert_allclose(own.predict_proba(X), built_in.predict_proba(X), atol=1e-6)
    logistic = CustomLoss(numpy_logistic, "binary", link="logit")
    for labels in (y > 0, y):
        own, built_in = (SGDLossClassifier(loss, **parameters).fit(X, labels) for loss in (logistic, "log_loss"))
        np.testing.assert_allclose(own.predict_proba(X), built_in.predict_proba(X), atol=1e-6)
    with pytest.raises(AttributeError, match="predict_proba"):
        SGDLossClassifier(CustomLoss(numpy_logistic, "binary")).fit(X, y > 0).predict_proba(X)
    with pytest.raises(ValueError, match="of kind 'regression', which SGDLossClassifier cannot train"):
        SGDLossClassifier(CustomLoss(numpy_squares)).fit(X, y)


# labels ---------------------------------------------------------------------------------------------------------------
def zero_one(y, raw):
    assert set(np.unique(y)) <= {0, 1}
    with np.errstate(over="ignore"):
        return np.logaddexp(0, raw) - y * raw, 1 / (1 + np.exp(-raw)) - y


def margins(y, raw):
    assert set(np.unique(y)) <= {-1, 0, 1}
    with np.errstate(over="ignore"):
        return np.logaddexp(0, -y * raw), -y / (1 + np.exp(y * raw))


def only_signs(y, raw):
    if not set(np.unique(y)) <= {-1, 1}:
        raise ValueError("-1 and 1 only")
    return margins(y, raw)


def numba_labels(numba, signs, raises=False):
    @numba.cfunc(fastloss.cfunc_signature("float64"))
    def f(y, raw, loss, grad, hess, n, params, data):
        for i in range(n):
            label = y[i]
            if raises and label == 0:
                return i
            m = label * raw[i] if signs else (2 * label - 1) * raw[i]
            loss[i] = max(-m, 0.0) + math.log1p(math.exp(-abs(m)))
            grad[i] = -(label if signs else 2 * label - 1) / (1 + math.exp(m))
        return n

    return f


@pytest.fixture(
    params=["python (0, 1)", "python (-1, 1)", "python refuses 0", "numba (0, 1)", "numba (-1, 1)", "numba x"]
)
def labelled(request):
    """log_loss for either pair of labels, and the labels."""
    way, _, what = request.param.partition(" ")
    signs = what != "(0, 1)"
    if way == "python":
        return {"(0, 1)": zero_one, "(-1, 1)": margins}.get(what, only_signs), signs
    return numba_labels(request.getfixturevalue("numba"), signs, what == "x"), signs


@pytest.fixture(params=[False, True], ids=["found", "given"])
def log_loss_by_labels(request, labelled):
    function, signs = labelled
    given = {"labels": (-1, 1) if signs else (0, 1)} if request.param else {}
    loss = CustomLoss(function, "binary", link="logit", curvature=0.25, **given)
    assert loss.labels == ((-1.0, 1.0) if signs else (0.0, 1.0))
    return loss


CODINGS = {"01": np.array([0.0, 1.0]), "signs": np.array([-1.0, 1.0]), "bool": np.array([False, True])}


@pytest.mark.parametrize("coding", list(CODINGS))
@pytest.mark.parametrize("n", [1, 9000])
def test_labels_mean_the_same_in_all_methods(log_loss_by_labels, coding, n, dtype):
    rng = np.random.default_rng(n)
    y, raw = CODINGS[coding][rng.integers(0, 2, n)], (3 * rng.normal(size=n)).astype(dtype)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-14}
    for own, built_in in (
        (log_loss_by_labels, fastloss.get_loss("log_loss")),
        (
            0.5 * log_loss_by_labels + fastloss.get_loss("hinge"),
            0.5 * fastloss.get_loss("log_loss") + fastloss.get_loss("hinge"),
        ),
        (log_loss_by_labels.tempered(2.0), fastloss.get_loss("log_loss").tempered(2.0)),
    ):
        for reduction in ("none", "mean"):
            got = own.loss_gradient(y, raw, reduction=reduction)
            for a, b in zip(got, built_in.loss_gradient(y, raw, reduction=reduction), strict=True):
                np.testing.assert_allclose(a, b, **tolerance)
        np.testing.assert_allclose(own.loss(y, raw), built_in.loss(y, raw), **tolerance)
        np.testing.assert_array_equal(own.gradient(y, raw, n_threads=3), own.gradient(y, raw, n_threads=1))
    bends = [
        differences(one, y.astype(dtype), raw, dtype) for one in (log_loss_by_labels, fastloss.get_loss("log_loss"))
    ]
    np.testing.assert_allclose(*bends, atol=1e-3 if dtype == np.float32 else 1e-9)


@pytest.mark.parametrize("coding", list(CODINGS))
def test_labels_mean_the_same_in_objectives_and_boosting(log_loss_by_labels, coding, dtype):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3)).astype(dtype)
    y = CODINGS[coding][rng.integers(0, 2, 300)]
    w = rng.normal(size=4)
    for a, b in zip(*(LinearObjective(X, y, one)(w) for one in (log_loss_by_labels, "log_loss")), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4 if dtype == np.float32 else 1e-10)
    if coding == "signs":
        return  # which the hosts do not take
    for make in ("as_lightgbm", "as_xgboost"):
        got, want = (
            getattr(one, make)(hessian="upper_bound")(y.astype(float), X[:, 0])[0]
            for one in (log_loss_by_labels, fastloss.get_loss("log_loss"))
        )
        np.testing.assert_allclose(got, want, rtol=1e-5 if dtype == np.float32 else 1e-10)


@pytest.mark.parametrize("classes", [("a", "b", "c"), (-1, 1)])
@pytest.mark.parametrize("parameters", [{}, {"learning_rate": "constant", "batch_size": 16}])
def test_labels_mean_the_same_in_the_classifier(log_loss_by_labels, classes, parameters):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3))
    score = X @ [1.0, -1.0, 0.5] + rng.logistic(size=300)
    y = np.array(classes)[np.digitize(score, [-1, 1] if len(classes) == 3 else [0])]
    own, built_in = (
        SGDLossClassifier(one, eta0=0.1, random_state=0, **parameters) for one in (log_loss_by_labels, "log_loss")
    )
    np.testing.assert_allclose(own.fit(X, y).predict_proba(X), built_in.fit(X, y).predict_proba(X), atol=1e-6)
    np.testing.assert_array_equal(own.predict(X), built_in.predict(X))
    for model in (own, built_in):
        model.partial_fit(X, y)
    np.testing.assert_allclose(own.coef_, built_in.coef_, atol=1e-5)


def test_labels_that_are_found():
    def plain_hinge(y, raw):
        return np.maximum(1 - y * raw, 0), np.where(y * raw < 1, -y, 0)

    def squared(y, raw):
        return 0.5 * (raw - y) ** 2, raw - y

    assert CustomLoss(plain_hinge, "binary").labels == (-1, 1)
    assert CustomLoss(squared, "binary").labels == (0, 1)
    assert CustomLoss(squared, "binary", labels=[-1, 1]).labels == (-1, 1)
    assert CustomLoss(zero_one, "binary", soft_targets=True).labels == (0, 1)
    assert CustomLoss(squared).labels is None
    assert CustomLoss(squared, "binary", labels=(-1, 1)).loss([0.0, 1.0, 0.25], [0.0, 0.0, 0.25], [2, 0, 2]) == 0.25
    assert CustomLoss(squared, "binary") == CustomLoss(squared, "binary", labels=(0, 1))
    assert CustomLoss(squared, "binary") != CustomLoss(squared, "binary", labels=(-1, 1))
    signs = CustomLoss(module_level, "binary", labels=(-1, 1))
    again = pickle.loads(pickle.dumps(signs))
    assert again.labels == signs.labels == (-1, 1)
    assert again.loss([0.0], [0.0]) == 0.5
    X, y = np.random.default_rng(0).normal(size=(200, 2)), np.array(["in", "out"])[np.arange(200) % 2]
    own, built_in = (
        SGDLossClassifier(one, alpha=0.1).fit(X, y)
        for one in (CustomLoss(plain_hinge, "binary", piecewise_linear=True), "hinge")
    )
    np.testing.assert_allclose(own.coef_, built_in.coef_, atol=1e-2)


def test_refusals_show_the_label_as_it_was_given(library):
    loss = CustomLoss(library.refuses_negative, "binary", signature="float64", name="mine", labels=(-1, 1))
    with pytest.raises(ValueError, match=r"y_true\[1\] = 0\.0: mine refused it: its callback returned 1 instead of 3"):
        loss.loss([1.0, 0.0, 0.0], np.zeros(3))


def test_probabilities_as_targets():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2))
    p = 1 / (1 + np.exp(-X @ [1.0, -1.0]))

    def f(y, raw):
        return np.logaddexp(0, raw) - y * raw, np.exp(-np.logaddexp(0, -raw)) - y

    own, built_in = (
        SGDLossClassifier(loss, alpha=1e-3).fit(X, p)
        for loss in (CustomLoss(f, "binary", link="logit", soft_targets=True), "log_loss")
    )
    np.testing.assert_allclose(own.coef_, built_in.coef_, rtol=1e-3)


def test_losses_with_kinks_get_a_duality_gap(table):
    X, y = table
    own, built_in = (
        SGDLossRegressor(loss).fit(X, y)
        for loss in (CustomLoss(numpy_absolute, piecewise_linear=True), "absolute_error")
    )
    assert own.converged_
    assert own.objective_curve_.min() == pytest.approx(built_in.objective_curve_.min(), rel=2e-3)
    svm = SGDLossClassifier(CustomLoss(hinge, "binary", piecewise_linear=True), alpha=0.01).fit(X, y > 0)
    assert svm.converged_
    assert svm.objective_curve_.min() == pytest.approx(
        SGDLossClassifier("hinge", alpha=0.01).fit(X, y > 0).objective_curve_.min(), rel=2e-3
    )


@pytest.mark.parametrize("piecewise_linear", [False, True])
def test_streams(table, piecewise_linear):
    X, y = table
    own = (
        CustomLoss(numpy_absolute, piecewise_linear=True)
        if piecewise_linear
        else CustomLoss(numpy_squares, curvature=1.0)
    )
    models = [
        SGDLossRegressor(loss, random_state=0)
        for loss in (own, "absolute_error" if piecewise_linear else "squared_error")
    ]
    for model in models:
        for rows in (slice(0, 300), slice(300, 500)):
            model.partial_fit(X[rows], y[rows])
    np.testing.assert_allclose(models[0].coef_, models[1].coef_, rtol=1e-6)


def test_several_outputs(table):
    X, y = table
    Y = np.column_stack([y, -y])
    own, built_in = (SGDLossRegressor(loss).fit(X, Y) for loss in (CustomLoss(numpy_squares), "squared_error"))
    np.testing.assert_allclose(own.coef_, built_in.coef_, atol=2e-3)


def test_losses_below_zero(table):
    """A constant moves no optimum, nor what a gap is compared with beyond it."""

    def f(y, raw):
        loss, slope = numpy_squares(y, raw)
        return loss - 1e4, slope

    model = SGDLossRegressor(CustomLoss(f), penalty=None).fit(*table)
    assert model.converged_
    np.testing.assert_allclose(
        model.predict(table[0]), SGDLossRegressor(penalty=None).fit(*table).predict(table[0]), atol=0.2
    )


def test_names_of_built_ins_mean_nothing(table):
    """An own loss called like a built-in gets none of its special treatment."""
    for name in ("quantile", "perceptron", "poisson"):
        loss = CustomLoss(numpy_squares, name=name)
        model = SGDLossRegressor(loss).fit(*table)
        assert model.score(*table) == pytest.approx(SGDLossRegressor().fit(*table).score(*table), abs=1e-3)
    with pytest.raises(ValueError, match="needs loss='epsilon_insensitive'"):
        SGDLossRegressor(CustomLoss(numpy_squares, name="epsilon_insensitive"), learning_rate="pa1").fit(*table)


# mistakes of functions ------------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_numba_functions_that_raise(numba_losses, table):
    loss = CustomLoss(numba_losses.raises)  # numba writes the exception to stderr
    y = np.zeros(50_000)
    y[[30_000, 40_000]] = 6
    for k in (1, 2, 4):
        with pytest.raises(
            ValueError,
            match=r"y_true\[29696\] = 0.0: raises refused it: its callback returned 0 instead of 1024.*cfunc",
        ):
            loss.loss(y, y, n_threads=k)
    X, y = table
    y = np.where(np.arange(len(y)) == 900, 6.0, 0.0)
    for fit in (
        lambda: LinearObjective(X, y, loss),
        lambda: SGDLossRegressor(loss).fit(X, y),
        lambda: SGDLossRegressor(loss, learning_rate="constant").fit(X, y),
        lambda: SGDLossRegressor(loss).partial_fit(X, y),
    ):
        with pytest.raises(ValueError, match="raises refused it"):
            fit()


def test_return_values(library):
    y = np.array([1.0, 2.0, -1.0, -2.0])
    loss = CustomLoss(library.refuses_negative, signature="float64", name="mine")
    with pytest.raises(ValueError, match=r"y_true\[2\] = -1\.0: mine refused it: its callback returned 2 instead of 4"):
        loss.loss(y, y)
    with pytest.raises(ValueError, match=r"y_true\[2\] = -1\.0: mine refused it"):
        loss.loss(y, y.astype(np.float32))
    with pytest.raises(ValueError, match=r"y_true\[1, 0\] = -1\.0"):
        loss.loss(y.reshape(2, 2), y.reshape(2, 2))
    for name, value in (("returns_minus_five", -5), ("returns_too_much", 5)):
        with pytest.raises(
            ValueError, match=rf"y_true\[0\] = 1\.0: f refused it: its callback returned {value} instead of 4"
        ):
            CustomLoss(getattr(library, name), signature="float64", name="f").gradient(y, y)


def test_refusals_while_training(library, table):
    """Nobody looks at every return value in SGD, but a refusal ends the fit all the same."""
    X, y = table
    loss = CustomLoss(library.refuses_large_raw, params=[3.0], signature="float64", name="mine")
    steps = {"learning_rate": "constant", "eta0": 0.01, "max_iter": 5, "tol": None}
    for parameters in (steps, steps | {"batch_size": 7}, {"max_iter": 3}):
        with pytest.raises(ValueError, match="mine refused it"):
            SGDLossRegressor(loss, **parameters).fit(X, y)
    with pytest.raises(ValueError, match=r"raw prediction .*: mine refused it: its callback returned 0 instead of 1"):
        SGDLossRegressor(loss, **steps).fit(X.astype(np.float32), y)
    with pytest.raises(ValueError, match="mine refused it"):
        SGDLossRegressor(loss).partial_fit(X, y)
    wide = CustomLoss(library.refuses_large_raw, params=[1e6], signature="float64", name="mine")
    SGDLossRegressor(wide).fit(X, y)  # and another loss of the same function is not infected


@pytest.fixture(scope="module")
def picky(numba):
    """Squared error that refuses y > params[0] at raw predictions beyond params[1]."""

    @numba.cfunc(fastloss.cfunc_signature("float64"))
    def f(y, raw, loss, grad, hess, n, params, data):
        for i in range(n):
            if y[i] > params[0] and abs(raw[i]) > params[1]:
                return i
            grad[i] = raw[i] - y[i]
            loss[i] = 0.5 * grad[i] * grad[i]
        return n

    return f


@pytest.mark.parametrize("beyond", [-1.0, 0.5], ids=["at once", "on the way"])
@pytest.mark.parametrize("parameters", [{}, {"batch_size": 7}, {"early_stopping": True}, {"learning_rate": "auto"}])
@pytest.mark.parametrize("convert", [np.float64, np.float32])
def test_refusals_while_training_name_the_sample(picky, table, parameters, beyond, convert):
    X, y = table[0].astype(convert), np.clip(table[1], -10, 10)
    y[41], X[41] = 50.3, 3
    loss = CustomLoss(picky, params=[40, beyond], name="picky")
    model = SGDLossRegressor(loss, **{"learning_rate": "constant", "eta0": 1e-3, "random_state": 0, **parameters})
    at_once = beyond < 0 or parameters == {"learning_rate": "auto"}
    for fit in (model.fit, *[model.partial_fit] * ("early_stopping" not in parameters)):
        with pytest.raises(
            ValueError, match=r"^y(_true)?\[41\] = 50\.(3|299.*?)(:| and raw prediction .*:) picky refused it"
        ):
            fit(X, y)
    twice = y.copy()
    twice[700], X[700] = y[41], 3
    with pytest.raises(
        ValueError, match=r"y(_true)?\[41\] = 50" if at_once else r"y\[41\] = 50.* \(the first with that "
    ):
        model.fit(X, twice)
    for Y, place in ((np.column_stack([-y, y]), "41, 1"), (np.column_stack([y, -y]), "41, 0")):
        with pytest.raises(
            ValueError, match=rf"y\[{place}\] = 50" if parameters != {"learning_rate": "auto"} else "41"
        ):
            model.fit(X, Y)
    pickle.loads(pickle.dumps(_error_of(model.fit, X, y)))


def _error_of(call, *arguments):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - looked at by the caller
        call(*arguments)
    return caught.value


def test_refusals_in_the_classifier_name_the_sample(picky, table):
    labels = np.where(table[1] > 0, "up", "down")
    for classes in (labels, np.where(table[1] > 3, "far", labels)):
        loss = CustomLoss(picky, "binary", params=[0.5, 0.5], name="picky")
        with pytest.raises(
            ValueError, match=r"^y\[\d+\] = 1\.0 \(the first with that target\) and raw .*: picky refused"
        ):
            SGDLossClassifier(loss, learning_rate="constant", eta0=0.1).fit(table[0], classes)


class StopError(Exception):
    """Raised by Python functions below."""


@pytest.mark.parametrize("error", [StopError, KeyboardInterrupt])
def test_exceptions_propagate_and_end_the_pass(table, error):
    X, y = table
    calls = []
    last = 3

    def f(y, raw):
        calls.append(len(y))
        if len(calls) >= last:
            raise error("as it is")
        return numpy_squares(y, raw)

    loss = CustomLoss(f)
    steps = {"learning_rate": "constant", "eta0": 1e-3, "max_iter": 50, "tol": None}
    long = np.zeros(1_000_000)
    for call in (
        lambda: loss.loss_gradient(long, long, n_threads=2),
        lambda: LinearObjective(np.ones((200_000, 1)), long[:200_000], loss),
        lambda: SGDLossRegressor(loss, **steps).fit(X, y),
        lambda: SGDLossRegressor(loss, batch_size=1, **steps).fit(X, y),
        lambda: SGDLossRegressor(loss).fit(X, y),
        lambda: SGDLossRegressor(loss).partial_fit(X, y),
    ):
        for last in (3, 5):
            calls.clear()
            with pytest.raises(error, match="as it is"):
                call()
            assert len(calls) == last
    calls.clear()
    last = 100
    assert loss.loss([0.0], [2.0]) == 2.0  # the next call knows nothing of it
    objective = LinearObjective(np.ones((50_000, 1)), long[:50_000], loss)
    calls.clear()
    last = 2
    with pytest.raises(error, match="as it is"):
        objective(np.zeros(2))
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("function", "hessian", "error", "message"),
    [
        (lambda y, r: None, False, TypeError, r"mine: the function returned NoneType, expected \(loss, gradient\["),
        (lambda y, r: r, False, TypeError, "mine: the function returned ndarray"),
        (lambda y, r: (r, r, r, r), False, ValueError, r"returned 4 things, expected \(loss, gradient\[, hessian\]\)"),
        (lambda y, r: (r,), False, ValueError, "returned 1 things"),
        (lambda y, r: (r, r, r, r), True, ValueError, r"returned 4 things, expected \(loss, gradient, hessian\)"),
        (lambda y, r: (r, r), True, ValueError, r"returned 2 things, expected \(loss, gradient, hessian\)"),
        (lambda y, r: (r.sum(), r), False, ValueError, r"losses of shape \(\), expected \(3,\)"),
        (lambda y, r: (r, r[:2]), False, ValueError, r"gradients of shape \(2,\), expected \(3,\)"),
        (lambda y, r: (r, r, r[None]), True, ValueError, r"hessians of shape \(1, 3\), expected \(3,\)"),
        (lambda y, r: (r, r * 1j), False, TypeError, "gradients of dtype complex128, expected real numbers"),
        (lambda y, r: (r.astype(str), r), False, TypeError, "losses of dtype <U"),
        (lambda y, r: r.__iadd__(1), False, ValueError, "read-only"),
    ],
)
def test_results_are_checked(function, hessian, error, message):
    loss = CustomLoss(function, name="mine", hessian=hessian)
    with pytest.raises(error, match=message):
        loss.loss(np.zeros(3), np.zeros(3))


def test_a_third_result_nobody_asked_for():
    def f(y, raw):
        return (*numpy_squares(y, raw), "no hessian at all")

    assert CustomLoss(f).loss_gradient([0.0], [2.0]) == (2.0, [2.0])
    with pytest.raises(ValueError, match="has no hessian: pass hessian=True"):
        CustomLoss(f).gradient_hessian([0.0], [2.0])


def test_results_of_other_types_are_converted():
    loss = CustomLoss(lambda y, raw: [(raw > 0).astype(np.int8), np.asfortranarray(raw[::-1])[::-1].astype(np.float16)])
    for dtype in (np.float32, np.float64):
        got = loss.loss_gradient(np.zeros(2), np.array([1.5, -1], dtype), reduction="none")
        np.testing.assert_array_equal(got[0], [1, 0])
        np.testing.assert_array_equal(got[1], [1.5, -1])
        assert got[1].dtype == dtype


def test_a_function_may_keep_its_arguments():
    """They are copies: a block's own memory is gone after the call."""
    kept = []

    def f(y, raw):
        kept.append(raw[::2])
        return numpy_squares(y, raw)

    raw = np.arange(10_000.0)
    CustomLoss(f).loss(np.zeros(10_000), raw)
    gc.collect()
    CustomLoss(numpy_squares).loss(np.ones(10_000), raw + 1)
    np.testing.assert_array_equal(np.concatenate(kept), raw[::2])


def test_a_function_may_call_its_own_loss():
    def f(y, raw):
        if len(y) > 1:
            loss.loss(y[:1], raw[:1])
        return numpy_squares(y, raw)

    loss = CustomLoss(f)
    assert loss.loss([0.0, 0.0], [2.0, 4.0]) == 5.0


def test_one_loss_in_several_threads():
    """What goes wrong in one thread is not seen in another."""
    from concurrent.futures import ThreadPoolExecutor

    def f(y, raw):
        if y[0] < 0:
            raise StopError(f"{y[0]}")
        return numpy_squares(y, raw)

    loss = CustomLoss(f)

    def call(k):
        y = np.full(20_000, float(k))
        try:
            return loss.loss(y, y + 1)
        except StopError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(call, range(-20, 20)))
    assert found == [f"{float(k)}" if k < 0 else 0.5 for k in range(-20, 20)]


def test_nan_stays_with_its_sample():
    loss = CustomLoss(lambda y, raw: (np.where(y > 0, np.nan, raw), np.where(y > 0, np.nan, raw)))
    y, raw = np.array([0.0, 1.0, 0.0]), np.ones(3)
    np.testing.assert_array_equal(loss.gradient(y, raw, reduction="none"), [1, np.nan, 1])
    assert np.isnan(loss.loss(y, raw))
    assert loss.loss(y, raw, [1, 0, 1]) == 1.0


@pytest.mark.parametrize("where", ["everywhere", "large residuals", "far away", "gradients"])
def test_fits_end_where_a_function_gives_nan(table, where):
    X, y = table

    def f(y, raw):
        loss, slope = numpy_squares(y, raw)
        bad = {"large residuals": np.abs(raw - y) > 3, "far away": np.abs(raw) > 1, "gradients": y > 3}
        bad = bad.get(where, np.ones(len(y), bool))
        return loss if where == "gradients" else np.where(bad, np.nan, loss), np.where(bad, np.nan, slope)

    for estimator in (
        SGDLossRegressor(CustomLoss(f)),
        SGDLossRegressor(CustomLoss(f), learning_rate="constant", max_iter=30),
    ):
        with pytest.raises(ValueError, match=r"loss=CustomLoss\(f.*gave NaN"):
            estimator.fit(X, y)
    stream = SGDLossRegressor(CustomLoss(f))
    with pytest.raises(ValueError, match=r"loss=CustomLoss\(f.*gave NaN"):
        stream.partial_fit(X, y)
    assert not hasattr(stream, "coef_")


def test_nan_beside_the_optimum_is_no_error(table):
    """A step too far is taken back."""

    def f(y, raw):
        loss, slope = numpy_squares(y, raw)
        return np.where(np.abs(raw) > 1e3, np.nan, loss), slope

    assert SGDLossRegressor(CustomLoss(f)).fit(*table).converged_


# signatures -----------------------------------------------------------------------------------------------------------
def test_wrong_numba_signatures(numba):
    t = numba.types
    wrong = numba.cfunc(t.intp(t.CPointer(t.float64), t.intp))(lambda y, n: n)
    with pytest.raises(TypeError, match=r"is not the signature of a callback; expected 'Py_ssize_t \(const double \*y"):
        CustomLoss(wrong, name="f")
    scores = numba.cfunc(fastloss.cfunc_signature("float64", multiclass=True))(
        lambda y, label, raw, loss, grad, hess, n, K, params, data: n
    )
    with pytest.raises(TypeError, match="it is one of multiclass losses: see kind"):
        CustomLoss(scores, name="f")
    CustomLoss(scores, "multiclass", name="f")
    p = t.CPointer(t.float64)
    short = numba.cfunc(t.int32(p, p, p, p, p, t.int32, p, t.voidptr))(lambda y, raw, lo, g, h, n, params, data: n)
    with pytest.raises(TypeError, match="is not the signature"):
        CustomLoss(short)
    typed = numba.cfunc(t.int64(p, p, p, p, p, t.int64, p, t.CPointer(t.int32)))(
        lambda y, raw, lo, g, h, n, params, data: n
    )
    CustomLoss(typed)  # data may be any pointer


def test_cfunc_signature(numba, monkeypatch):
    t = numba.types
    assert fastloss.cfunc_signature(np.float32).args[0] == t.CPointer(t.float32)
    assert fastloss.cfunc_signature("float32").args[6] == t.CPointer(t.float64)
    assert len(fastloss.cfunc_signature("float64", multiclass=True).args) == 10
    with pytest.raises(ValueError, match="dtype must be 'float64' or 'float32', got 'int8'"):
        fastloss.cfunc_signature("int8")
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ImportError, match="cfunc_signature needs numba"):
        fastloss.cfunc_signature("float64")


def test_a_numba_function_for_float32_only(numba_losses):
    loss = CustomLoss(numba_losses.squares32)
    assert loss.loss(np.zeros(3), np.ones(3, np.float32)) == 0.5
    with pytest.raises(
        ValueError, match=r"squares32 has a callback for float32 only.*would lose digits of float64 data"
    ):
        loss.loss(np.zeros(3), np.ones(3))
    with pytest.raises(ValueError, match="float32 only"):
        LinearObjective(np.ones((2, 1)), np.ones(2), loss)


def test_ctypes(library):
    p, n = ctypes.POINTER(ctypes.c_double), ctypes.c_ssize_t
    address = ctypes.cast(library.huber, ctypes.c_void_p).value
    right = ctypes.CFUNCTYPE(n, p, p, p, p, p, n, p, ctypes.c_void_p)(address)
    want = CustomLoss(library.huber, params=[1.0], signature="float64").loss([0.0], [3.0])
    assert want == 2.5
    for loss in (
        CustomLoss(right, params=[1.0]),
        CustomLoss(address, params=[1.0], signature=SIGNATURE),
        CustomLoss(address, params=[1.0], signature=np.float64),
        CustomLoss(LowLevelCallable(right), params=[1.0]),
        CustomLoss({"float64": address}, params=[1.0]),
    ):
        assert loss.loss([0.0], [3.0]) == want
    for bad in (
        ctypes.CFUNCTYPE(n, p, p, p, p, p, ctypes.c_int32, p, ctypes.c_void_p)(address),
        ctypes.CFUNCTYPE(None, p, p, p, p, p, n, p, ctypes.c_void_p)(address),
        ctypes.CFUNCTYPE(n, p, p, p)(address),
        ctypes.CFUNCTYPE(n, *[ctypes.c_void_p] * 5, n, p, ctypes.c_void_p)(address),
    ):
        with pytest.raises(TypeError, match=r"the ctypes function .* is not the signature of a callback"):
            CustomLoss(bad)
    with pytest.raises(TypeError, match=r"signature='float32', but the ctypes function .* is for float64"):
        CustomLoss(right, signature="float32")
    for nameless in (library.huber, address):
        with pytest.raises(TypeError, match="does not say its signature: pass signature='float64' or 'float32'"):
            CustomLoss(nameless)


def test_a_ctypes_callback_into_python_keeps_the_gil_rules():
    """Python that ctypes calls takes the GIL itself, on every thread; what it raises ends as a wrong return value."""
    p, n = ctypes.POINTER(ctypes.c_double), ctypes.c_ssize_t

    @ctypes.CFUNCTYPE(n, p, p, p, p, p, n, p, ctypes.c_void_p)
    def callback(y, raw, loss, grad, hess, count, params, data):
        r = np.ctypeslib.as_array(raw, (count,)) - np.ctypeslib.as_array(y, (count,))
        np.ctypeslib.as_array(loss, (count,))[:] = 0.5 * r * r
        np.ctypeslib.as_array(grad, (count,))[:] = r
        return count

    y, raw = points(100_000)
    want = fastloss.get_loss("squared_error").loss_gradient(y, raw)
    got = CustomLoss(callback, name="f").loss_gradient(y, raw, n_threads=4)
    assert got[0] == pytest.approx(want[0], rel=1e-14)
    np.testing.assert_array_equal(got[1], want[1])


def test_cffi(library, tmp_path):
    cffi = pytest.importorskip("cffi", reason="cffi is not installed")
    ffi = cffi.FFI()
    arguments = "(const double *y, const double *raw, double *loss, double *grad, double *hess, ssize_t n, "
    ffi.cdef(f"ssize_t huber{arguments} const double *params, void *data);")
    ffi.cdef(f"ssize_t squares{arguments} const double *params, double *data);")
    ffi.cdef("ssize_t log_cosh(const double *y, ssize_t n);")
    lib = ffi.dlopen(library._name)
    assert CustomLoss(lib.huber, params=[1.0]).loss([0.0], [3.0]) == 2.5
    factor = ffi.new("double *", 5.0)
    low_level = LowLevelCallable(ffi.cast(f"ssize_t (*){arguments} const double *, void *)", lib.squares), factor)
    assert CustomLoss(low_level).gradient([0.0], [1.0], reduction="none") == 5.0
    with pytest.raises(TypeError, match=r"the cffi function .* is not the signature of a callback"):
        CustomLoss(lib.log_cosh)
    with pytest.raises(ValueError, match="is NULL"):
        CustomLoss(ffi.cast("void *", 0), signature="float64")


def test_signatures_by_numba(library, numba_losses):
    for dtype in ("float64", "float32"):
        spelled = fastloss.cfunc_signature(dtype)
        for signature in (spelled, str(spelled)):
            function = library.huber if dtype == "float64" else library.huberf
            loss = CustomLoss(function, params=[1.0], signature=signature)
            assert loss.loss([0.0], np.array([3.0], dtype)) == 2.5
    scores = fastloss.cfunc_signature("float64", multiclass=True)
    for signature in (scores, str(scores)):
        CustomLoss(library.softmax, "multiclass", signature=signature)
        with pytest.raises(TypeError, match="is not the signature of a callback"):
            CustomLoss(library.huber, params=[1.0], signature=signature)
    assert CustomLoss(numba_losses.huber, params=[1.0], signature=fastloss.cfunc_signature()).loss([0.0], [3.0]) == 2.5
    with pytest.raises(TypeError, match=r"signature=.*but the numba cfunc .* is for float64"):
        CustomLoss(numba_losses.huber, params=[1.0], signature=fastloss.cfunc_signature("float32"))
    with pytest.raises(TypeError, match="or what cfunc_signature returns, got 3"):
        CustomLoss(library.huber, signature=3)


def test_low_level_callables_that_are_not_callbacks(library):
    with pytest.raises(TypeError, match=r"the LowLevelCallable 'double \(double\)' is not the signature"):
        CustomLoss(LowLevelCallable(library.huber, signature="double (double)"))


@pytest.mark.parametrize(
    ("text", "types"),
    [
        (SIGNATURE, ("ssize", *["double*"] * 5, "ssize", "double*", "void*")),
        ("long(*)(float *, long, void *)", ("ssize", "float*", "ssize", "void*")),
        ("npy_intp (__pyx_t_5numpy_float64_t *restrict y, long int n)", ("ssize", "double*", "ssize")),
        (
            "int64_t (unsigned long n, const double x, long double z)",
            ("ssize", "unsigned long", "double", "long double"),
        ),
        ("void (double **x)", ("void", "double**")),
        ("int (Py_ssize_t const * label)", ("int", "ssize*")),
    ],
)
def test_c_signatures_are_read(text, types):
    from fastloss._callbacks import c_types

    assert c_types(text) == types


@need_compiler
def test_an_extension_of_another_package(tmp_path):
    """Using our ABI and mathematics by cimport, out of the installed package; the function comes as a capsule."""
    cython = pytest.importorskip("Cython", reason="Cython is not installed")
    assert cython
    (tmp_path / "their_losses.pyx").write_text(
        """# cython: language_level=3, cdivision=True
from fastloss._kernels._math cimport copysign, expm1, fabs, log_cosh
from fastloss._kernels.abi cimport ABI_VERSION, kernel_f64
VERSION = ABI_VERSION
cdef api Py_ssize_t mine(const double *y, const double *raw, double *loss, double *grad, double *hess, Py_ssize_t n,
                         const double *params, void *data) noexcept nogil:
    cdef Py_ssize_t i
    cdef double r, e
    for i in range(n):
        r = raw[i] - y[i]
        e = expm1(<double>-2 * fabs(r))
        loss[i] = log_cosh(r)
        grad[i] = copysign(-e / (<double>2 + e), r)
    return n
cdef api double other(double x) noexcept nogil:
    return x
cdef kernel_f64 its_type_is_ours = mine
""",
        encoding="utf-8",
    )
    ours = str(Path(fastloss.__file__).parents[1])  # an editable installation is not on sys.path, where cython looks
    subprocess.run([sys.executable, "-m", "cython", "-I", ours, "their_losses.pyx"], cwd=tmp_path, check=True)
    include = sysconfig.get_paths()["include"]
    out = tmp_path / f"their_losses{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run([COMPILER, *FLAGS, f"-I{include}", "their_losses.c", "-o", str(out)], cwd=tmp_path, check=True)
    sys.path.insert(0, str(tmp_path))
    try:
        import their_losses
    finally:
        sys.path.remove(str(tmp_path))
    assert their_losses.VERSION == fastloss.ABI_VERSION
    y, raw = points(5000)
    want = fastloss.get_loss("log_cosh").loss_gradient(y, raw, reduction="none")
    for function in (their_losses.__pyx_capi__["mine"], LowLevelCallable.from_cython(their_losses, "mine")):
        for got, exact in zip(CustomLoss(function).loss_gradient(y, raw, reduction="none"), want, strict=True):
            assert np.all(np.abs(got - exact) <= 4 * np.spacing(np.abs(exact)))
    with pytest.raises(TypeError, match=r"the capsule 'double \(double\)' is not the signature"):
        CustomLoss(their_losses.__pyx_capi__["other"])


# the header -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["exp", "expm1", "log", "log1p", "log_cosh", "sigmoid"])
def test_functions_of_the_header(library, name, dtype):
    """2 ulp of mpmath, over the range and at its ends."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=150) * 10 ** rng.uniform(-8, 1.8, 150), [0.0, 1.0, -0.5, 1e-30]]).astype(dtype)
    if name in ("log", "log1p"):
        x = np.abs(x) + (dtype.type(1e-30) if name == "log" else 0)
    out = np.empty_like(x)
    each = getattr(library, f"each_{name}" + "f" * (dtype == np.float32))
    each(x.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_ssize_t(len(x)))
    exact = {"log_cosh": lambda v: mp.log(mp.cosh(v)), "sigmoid": lambda v: 1 / (1 + mp.exp(-v))}
    with mp.workprec(400):
        want = [exact.get(name, getattr(mp, name, None))(mpf(float(v))) for v in x]
        for got, true in zip(out, want, strict=True):
            if abs(true) > np.finfo(dtype).max:
                assert np.isinf(got)
            elif abs(true) >= float(np.finfo(dtype).tiny):
                assert abs(mpf(float(got)) - true) <= 2.5 * float(np.spacing(np.abs(dtype.type(float(true)))))
    ends = np.array([-np.inf, np.inf, np.nan], dtype)
    got = np.empty_like(ends)
    each(ends.ctypes.data_as(ctypes.c_void_p), got.ctypes.data_as(ctypes.c_void_p), ctypes.c_ssize_t(3))
    limits = {"exp": (0, np.inf), "expm1": (-1, np.inf), "log_cosh": (np.inf, np.inf), "sigmoid": (0, 1)}
    np.testing.assert_array_equal(got, [*limits.get(name, (np.nan, np.inf)), np.nan])


@pytest.mark.skipif(not (Path(__file__).parents[1] / "setup.py").exists(), reason="outside the source tree")
def test_header_refuses_what_it_cannot_write(tmp_path):
    from fastloss._kernels import _header

    path = tmp_path / "_math.pxd"
    head = 'cdef extern from * nogil:\n    """\n    """\n\n\n'
    path.write_text(head + "cdef inline real f(real x) noexcept nogil:\n    return x % 2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="cannot be written in C: x % 2"):
        _header.header(path)
    path.write_text(
        head + "cdef inline real f(real x) noexcept nogil:\n    while x:\n        x = x\n", encoding="utf-8"
    )
    with pytest.raises(ValueError, match="cannot be written in C: while x"):
        _header.header(path)


# objects --------------------------------------------------------------------------------------------------------------
def test_immutable_and_equal_by_function(library, numba_losses):
    a, b = (CustomLoss(numpy_huber, params={"delta": d}) for d in (1.0, 2.0))
    assert a == CustomLoss(numpy_huber, params={"delta": 1})
    assert a != b
    assert a != CustomLoss(numpy_huber, params=[1.0])
    assert a != CustomLoss(numpy_squares, name="numpy_huber")
    assert a != fastloss.get_loss("huber")
    assert hash(a) == hash(CustomLoss(numpy_huber, params={"delta": 1}))
    both = {"float64": library.huber, "float32": library.huberf}
    assert CustomLoss(both) == CustomLoss(dict(reversed(both.items())))
    assert hash(CustomLoss(both)) == hash(CustomLoss(dict(reversed(both.items()))))
    with pytest.raises(AttributeError, match="immutable"):
        a.name = "other"
    assert repr(a) == "CustomLoss(numpy_huber, kind='regression', params={'delta': 1.0})"
    compiled = CustomLoss(numba_losses.huber, params=[1.0])
    for loss in (a, compiled):
        assert copy.deepcopy(loss) == loss
        assert clone(SGDLossRegressor(loss)).get_params()["loss"] == loss
        assert fastloss.get_loss(loss) is loss
        assert fastloss.loss(loss, [0.0], [1.0]) == 0.5
    assert "numpy_huber" not in fastloss.list_losses()


def test_pickles(numba_losses):
    loss = CustomLoss(np.polymul, "binary", "mine", {"a": 1}, True, link="logit", curvature=2.0, target="signs")
    again = pickle.loads(pickle.dumps(loss))
    assert again == loss
    assert (again.kind, again.name, again.link, again.target) == ("binary", "mine", "logit", "signs")
    with pytest.raises(TypeError, match="huber cannot be pickled: its function is compiled, at an address"):
        pickle.dumps(CustomLoss(numba_losses.huber))
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        pickle.dumps(CustomLoss(lambda y, raw: (raw, raw)))


def test_fitted_models_pickle(table):
    model = SGDLossRegressor(CustomLoss(np.subtract)).set_params(loss=CustomLoss(module_level))
    model.fit(*table)
    sys.modules.setdefault(__name__, sys.modules[module_level.__module__])
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(table[0]), model.predict(table[0]))


def module_level(y, raw):
    return numpy_squares(y, raw)


def test_everything_is_kept_alive(run_python):
    """The function objects of losses, objectives and fits may be forgotten: no crash, and the right numbers."""
    pytest.importorskip("numba", reason="numba is not installed")
    script = """
import ctypes, gc, numba, numpy as np, fastloss
def numba_one(scale):
    @numba.cfunc(fastloss.cfunc_signature("float64"))
    def f(y, raw, loss, grad, hess, n, params, data):
        for i in range(n):
            grad[i] = scale * (raw[i] - y[i])
            loss[i] = 0.5 * grad[i] * (raw[i] - y[i])
        return n
    return fastloss.CustomLoss(f)
def python_one(scale):
    return fastloss.CustomLoss(lambda y, raw: (0.5 * scale * (raw - y) ** 2, scale * (raw - y)))
def ctypes_one(scale):
    p, n = ctypes.POINTER(ctypes.c_double), ctypes.c_ssize_t
    def f(y, raw, loss, grad, hess, n, params, data):
        for i in range(n):
            grad[i] = scale * (raw[i] - y[i])
            loss[i] = 0.5 * grad[i] * (raw[i] - y[i])
        return n
    return fastloss.CustomLoss(ctypes.CFUNCTYPE(n, p, p, p, p, p, n, p, ctypes.c_void_p)(f))
losses, objectives = [], []
for make in (numba_one, python_one, ctypes_one):
    for k in range(1, 4):
        loss = make(float(k))
        objectives.append((k, fastloss.LinearObjective(np.ones((5, 1)), np.zeros(5), loss)))
        fastloss.SGDLossRegressor(loss).fit(np.random.rand(20, 2), np.random.rand(20))
        losses.append((k, loss))
        del loss
        gc.collect()
junk = [bytearray(4096) for _ in range(1000)]
for k, loss in losses:
    assert loss.gradient([0.0], [1.0], reduction="none") == k, k
del losses
gc.collect()
for k, objective in objectives:
    assert objective(np.array([1.0, 0.0]))[0] == 0.5 * k
print("alive")
"""
    done = run_python(script)
    assert done.stdout.strip() == "alive", done.stderr


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"function": 3.5}, TypeError, "function must be a compiled function .*, a dict of them by dtype, or a Python"),
        ({"function": True}, TypeError, "function must be"),
        ({"function": "huber"}, TypeError, "function must be"),
        ({"function": {}}, ValueError, "empty dict"),
        ({"function": {"float64": numpy_squares}}, TypeError, r"function\['float64'\] must be a compiled function"),
        ({"function": {"int8": 1}}, ValueError, "dtype must be 'float64' or 'float32', got 'int8'"),
        ({"function": {"float64": 1}, "signature": "float64"}, TypeError, "beside a dict"),
        ({"function": 0, "signature": "float64"}, ValueError, "the address 0x0 is NULL"),
        ({"function": 8, "signature": "float16"}, TypeError, "signature must be None, 'float64', 'float32', a C sig"),
        ({"function": 8, "signature": "int (int)"}, TypeError, r"signature='int \(int\)' is not the signature"),
        ({"signature": "float64"}, TypeError, "signature='float64' is for compiled functions"),
        ({"kind": "counts"}, ValueError, "kind must be one of 'regression', 'binary', 'multiclass', got 'counts'"),
        ({"name": 3}, TypeError, "name must be a string or None, got 3"),
        ({"hessian": 1}, TypeError, "hessian must be True or False, got 1"),
        ({"convex": 1}, TypeError, "convex must be True or False or None, got 1"),
        ({"hessian": None}, TypeError, "hessian must be True or False, got None"),
        ({"labels": (0, 1)}, ValueError, r"labels=\(0, 1\) is for kind='binary', got kind='regression'"),
        ({"kind": "binary", "labels": (1, 2)}, ValueError, r"labels must be None, \(0, 1\) or \(-1, 1\), got \(1, 2\)"),
        ({"kind": "binary", "labels": "ab"}, ValueError, "labels must be None, .* got 'ab'"),
        (
            {"kind": "binary", "labels": (-1, 1), "soft_targets": True},
            ValueError,
            r"soft_targets=True needs probabilities, in \[0, 1\], got labels=\(-1, 1\)",
        ),
        ({"link": "softmax"}, ValueError, "link must be one of 'identity', 'log', 'logit', 'sign', got 'softmax'"),
        ({"params": "ab"}, TypeError, "params must be a sequence of numbers or a dict"),
        ({"params": [1.0, "2"]}, TypeError, r"params\[1\] must be a number, got '2'"),
        ({"params": {"a": None}}, TypeError, "a must be a number, got None"),
        ({"curvature": 0}, ValueError, "curvature must be finite and > 0, got 0"),
        ({"curvature": "1"}, TypeError, "curvature must be a number > 0 or None, got '1'"),
        ({"kind": "multiclass", "piecewise_linear": True}, ValueError, "is for convex losses of one score, got kind="),
        (
            {"convex": False, "piecewise_linear": True},
            ValueError,
            "is for convex losses of one score, got convex=False",
        ),
    ],
)
def test_arguments_are_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        CustomLoss(**{"function": numpy_squares, **arguments})


def test_predict_follows_the_link():
    raw = np.array([-1.0, 0.0, 2.0])
    for link, want in (("identity", raw), ("log", np.exp(raw)), ("logit", 1 / (1 + np.exp(-raw))), ("sign", raw > 0)):
        np.testing.assert_allclose(CustomLoss(numpy_squares, link=link).predict(raw), want)
    scores = np.array([[1.0, 2.0, 0.0], [1.0, 1.0, 0.0]])
    np.testing.assert_array_equal(CustomLoss(numpy_softmax, "multiclass").predict(scores), [[0, 1, 0], [0.5, 0.5, 0]])
    with pytest.raises(ValueError, match=r"raw_prediction must have shape \(n, K\)"):
        CustomLoss(numpy_softmax, "multiclass").predict(raw)
