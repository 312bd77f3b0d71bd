"""Sums, multiples and temperatures of losses: what their terms give, added up, everywhere a loss is taken."""

import copy
import itertools
import math
import pickle
import warnings

import numpy as np
import pytest
from bits import differing, results
from grids import everyday
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize, minimize_scalar
from scipy.special import expit, softmax

import fastloss
from fastloss import LinearObjective, SGDLossClassifier, SGDLossRegressor, _kernels, losses
from fastloss._kernels import dispatch
from fastloss.composite import WeightedSum

REGRESSION, BINARY = fastloss.list_losses(kind="regression"), fastloss.list_losses(kind="binary")
COUNTS = ("poisson", "gamma", "tweedie", "negative_binomial")
PAIRS = [
    *zip(REGRESSION, (*REGRESSION[1:], REGRESSION[0]), strict=True),
    *zip(BINARY, (*BINARY[1:], BINARY[0]), strict=True),
]
CLASSES = fastloss.list_losses(kind="multiclass")
PARTS = ("loss", "gradient", "hessian")


def ids(pair):
    return "+".join(pair)


def pair_data(pair, n, dtype, seed=0):
    """Targets in the domain of both losses, and raw predictions."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=n)
    if pair[0] in BINARY:
        y = rng.integers(0, 2, n)
    else:
        y = rng.uniform(0.1, 3, n)
        raw = np.abs(raw) - 0.5  # msle needs > -1
    return y.astype(dtype), raw.astype(dtype)


def parts(loss, y, raw, weight=None, **options):
    value, gradient = loss.loss_gradient(y, raw, weight, reduction="none", **options)
    return value, gradient, loss.gradient_hessian(y, raw, weight, reduction="none", **options)[1]


def assert_sums(got, terms, eps, ulps=4):
    """Got is the sum of the terms, to a few ulp of the sum of their sizes."""
    terms = [np.asarray(term, np.float64) for term in terms]
    room = ulps * eps * sum(np.abs(term) for term in terms)
    error = np.abs(np.asarray(got, np.float64) - sum(terms))
    assert np.all(error <= room), float(np.max(error / np.maximum(room, np.finfo(float).tiny)))


# values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS, ids=ids)
def test_a_sum_is_the_sum_of_its_terms(pair, dtype):
    a, b = map(fastloss.get_loss, pair)
    y, raw = pair_data(pair, 700, dtype)  # more than one piece, and a rest
    weight = np.random.default_rng(1).uniform(0, 2, len(y))
    for p, q, w in ((0.5, 3.0, None), (1.0, 0.25, weight), (0.7, 1.0, weight)):
        total = p * a + q * b
        one, two = parts(a, y, raw, w), parts(b, y, raw, w)
        factors = dtype.type(p), dtype.type(q)
        for got, x, z in zip(parts(total, y, raw, w), one, two, strict=True):
            assert got.dtype == dtype
            assert_sums(got, [float(factors[0]) * x.astype(float), float(factors[1]) * z.astype(float)],
                        np.finfo(dtype).eps)  # fmt: skip
        mean, gradient = total.loss_gradient(y, raw, w)
        assert mean == pytest.approx(
            p * a.loss(y, raw, w) + q * b.loss(y, raw, w), rel=1e-5 if dtype == "f4" else 1e-13
        )
        mean_gradient = p * a.gradient(y, raw, w) + q * b.gradient(y, raw, w)
        np.testing.assert_allclose(gradient, mean_gradient, rtol=0, atol=1e2 * np.finfo(dtype).eps / len(y) * 10)


def test_every_instruction_set(isa, dtype):
    a, b, c = losses.Huber(delta=0.7), losses.LogCosh(), losses.Expectile(expectile=0.2)
    y, raw = pair_data(("huber", "log_cosh"), 1000, dtype)
    total = 0.5 * a + b + 2 * c
    terms = zip(
        *([dtype.type(f) * part for part in parts(x, y, raw)] for f, x in ((0.5, a), (1, b), (2, c))), strict=True
    )
    for got, expected in zip(parts(total, y, raw), terms, strict=True):
        assert_sums(got, expected, np.finfo(dtype).eps)


def test_a_live_sum_follows_a_switch_of_the_instruction_set():
    total = losses.LogLoss() + 0.5 * losses.Focal()
    y, raw = pair_data(("log_loss", "focal"), 300, np.float64)
    for name in _kernels.available_isas():
        with _kernels.use_isa(name):
            fresh = losses.LogLoss() + 0.5 * losses.Focal()
            assert not differing(results(total, y, raw), results(fresh, y, raw))


def test_outputs_are_added_as_for_any_loss():
    y, raw = (np.random.default_rng(k).normal(size=(300, 3)) for k in range(2))
    total = losses.Huber() + losses.AbsoluteError()
    expected = losses.Huber().loss(y, raw, reduction="none") + losses.AbsoluteError().loss(y, raw, reduction="none")
    np.testing.assert_allclose(total.loss(y, raw, reduction="none"), expected, rtol=1e-14)


def test_python_adds_up_and_divides():
    parts = [losses.Huber(), losses.SquaredError(), losses.LogCosh()]
    assert sum(parts) == parts[0] + parts[1] + parts[2]
    assert sum(parts) / 4 == 0.25 * parts[0] + 0.25 * parts[1] + 0.25 * parts[2]
    for wrong in (lambda: 1 + parts[0], lambda: 0.5 + parts[0], lambda: parts[0] / "2", lambda: 1 / parts[0]):
        with pytest.raises(TypeError, match="unsupported operand"):
            wrong()
    with pytest.raises(ZeroDivisionError):
        parts[0] / 0
    with pytest.raises(ValueError, match="must be"):
        parts[0] / -2


@pytest.mark.parametrize("total", [0.3 * losses.Huber() + losses.AbsoluteError(), 0.5 * losses.Tukey() + losses.Fair()],
                         ids=str)  # fmt: skip
def test_same_bits_for_any_threads_and_layout(total, dtype):
    rng = np.random.default_rng(0)
    y, raw, weight = rng.normal(size=(40_000, 2)), rng.normal(size=(40_000, 2)).astype(dtype), rng.uniform(0, 1, 40_000)
    first = results(total, y, raw, weight, n_threads=1)
    for n_threads in (2, 3, 4):
        assert not differing(first, results(total, y, raw, weight, n_threads=n_threads))
    strided = np.asfortranarray(np.repeat(raw, 2, axis=0))[::2]
    assert not differing(first, results(total, np.asfortranarray(y), strided, weight, n_threads=2))


def test_factor_zero_is_exactly_nothing(dtype):
    y, raw = np.zeros(3, dtype), np.array([1.0, 800.0, np.inf], dtype)
    alone = losses.SquaredError()
    for total in (0 * losses.Poisson() + alone, alone + 0 * losses.Poisson()):
        for got, expected in zip(parts(total, y, raw), parts(alone, y, raw), strict=True):
            np.testing.assert_array_equal(got, expected)
    nothing = 0 * losses.Poisson()
    for got in parts(nothing, y, raw):
        np.testing.assert_array_equal(got, 0)
    with pytest.raises(ValueError, match=r"y_true\[1\] = -1.0: poisson needs"):
        nothing.loss([1.0, -1.0], [0.0, 0.0])


def test_infinities_and_nan_are_those_of_the_terms():
    raw, y = np.array([np.inf, -np.inf, np.nan, 1.0, 0.0]), np.array([0.0, 0.0, 0.0, np.nan, 0.0])
    value, gradient = (losses.SquaredError() + losses.AbsoluteError()).loss_gradient(y, raw, reduction="none")
    np.testing.assert_array_equal(value, [np.inf, np.inf, np.nan, np.nan, 0])
    np.testing.assert_array_equal(gradient, [np.inf, -np.inf, np.nan, np.nan, 0])
    weighted = (2 * losses.Huber()).loss(y, raw, [0, 0, 0, 0, 1.0])
    assert weighted == 0.0


def test_empty_and_single():
    total = losses.Huber() + losses.LogCosh()
    assert total.loss([], [], reduction="sum") == 0.0
    assert total.gradient([], [], reduction="none").shape == (0,)
    assert total.loss([0.0], [3.0]) == pytest.approx(2.5 + math.log(math.cosh(3.0)))


@given(st.lists(st.tuples(st.floats(0, 10), st.sampled_from(REGRESSION)), min_size=1, max_size=6), st.integers(0, 600))
def test_any_sum_of_any_length(terms, n):
    y, raw = pair_data((REGRESSION[0],), n, np.float64, seed=n)
    total = WeightedSum(terms)
    assert len(total.terms) == len(terms)
    for got, *expected in zip(
        parts(total, y, raw), *(parts(fastloss.get_loss(x), y, raw) for _, x in terms), strict=True
    ):
        assert_sums(got, [f * part for (f, _), part in zip(terms, expected, strict=True)], 2.3e-16, ulps=len(terms) + 3)


# temperature ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_divides_the_scores(name, temperature, dtype):
    y, raw = pair_data((name,), 600, dtype)
    loss, T = fastloss.get_loss(name), dtype.type(temperature)
    value, gradient, hessian = parts(loss, y, raw / T)
    eps = np.finfo(dtype).eps
    for got, expected in zip(
        parts(loss.tempered(temperature), y, raw), (value, gradient / T, hessian / T / T), strict=True
    ):
        assert_sums(got, [expected], eps, 6)


def test_temperatures_multiply_and_keep_their_factor():
    loss = (0.5 * losses.LogLoss()).tempered(2.0).tempered(1.5)
    assert loss.terms == ((0.5, losses.LogLoss(), 3.0),)
    assert repr(loss) == "0.5*LogLoss().tempered(3.0)"


def test_tempered_probabilities(dtype):
    raw = np.array([-50.0, -1.0, 0.0, 2.0, 60.0], dtype)
    np.testing.assert_allclose(losses.LogLoss().tempered(2.0).predict(raw), expit(raw / 2), rtol=1e-6)
    scores = np.random.default_rng(0).normal(size=(20, 4)).astype(dtype)
    got = losses.CrossEntropy().tempered(0.3).predict(scores)
    np.testing.assert_allclose(got, softmax(scores.astype(float) / 0.3, axis=1), rtol=1e-4 if dtype == "f4" else 1e-12)


# K classes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("K", [3, 300])  # lanes are samples, lanes are classes
def test_sums_over_classes(name, K, dtype):
    rng = np.random.default_rng(K)
    raw, y = rng.normal(size=(90, K)).astype(dtype), rng.integers(0, K, 90)
    options = {"class_weight": tuple(rng.uniform(0.5, 2, K)), "ignore_index": 2}
    a, b = fastloss.get_loss("cross_entropy", **options), fastloss.get_loss(name, **options)
    T = dtype.type(2)
    eps = np.finfo(dtype).eps
    total = (0.25 * a + 2.0 * b).tempered(2.0)
    found = parts(total, y, raw)
    hot, cold = parts(a, y, raw / T), parts(b, y, raw / T)
    for k, (got, x, z) in enumerate(zip(found, hot, cold, strict=True)):
        assert_sums(got, [0.25 * x / 2.0**k, 2.0 * z / 2.0**k], eps, 6)
    assert total.loss(y, raw) == pytest.approx(0.25 * a.loss(y, raw / T) + 2 * b.loss(y, raw / T), rel=1e-5)
    ten = results(total, y, raw, n_threads=1)
    assert not differing(ten, results(total, y, np.asfortranarray(raw), n_threads=3))


def test_sums_over_classes_with_targets():
    rng = np.random.default_rng(0)
    raw, y = rng.normal(size=(50, 4)), rng.dirichlet(np.ones(4), 50)
    total = 0.5 * losses.CrossEntropy() + losses.CrossEntropy(label_smoothing=0.1)
    expected = 0.5 * losses.CrossEntropy().loss(y, raw) + losses.CrossEntropy(label_smoothing=0.1).loss(y, raw)
    assert total.loss(y, raw) == pytest.approx(expected, rel=1e-14)
    with pytest.raises(ValueError, match="needs labels"):
        (losses.CrossEntropy() + losses.MulticlassHinge()).loss(y, raw)


@pytest.mark.parametrize("K", [3, 300])
def test_linear_objective_of_classes(K):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 2)), rng.integers(0, K, 40)
    a, b = losses.CrossEntropy(), losses.MulticlassFocal()
    total = LinearObjective(X, y, 0.3 * a + 2 * b, n_classes=K)
    w, v = rng.normal(size=(2, total.size))
    one, two = (LinearObjective(X, y, loss, n_classes=K) for loss in (a, b))
    assert total(w)[0] == pytest.approx(0.3 * one(w)[0] + 2 * two(w)[0], rel=1e-13)
    np.testing.assert_allclose(total(w)[1], 0.3 * one(w)[1] + 2 * two(w)[1], atol=1e-14)
    np.testing.assert_allclose(total.hessp(w, v), 0.3 * one.hessp(w, v) + 2 * two.hessp(w, v), atol=1e-14)
    nothing = LinearObjective(X, y, 0 * a, n_classes=K)
    assert nothing(w)[0] == 0.0
    assert not nothing.hessp(w, v).any()


# what a sum is ----------------------------------------------------------------------------------------------------


def test_operators():
    huber, absolute = losses.Huber(delta=1.35), losses.AbsoluteError()
    total = 0.5 * huber + absolute * 2
    assert isinstance(total, WeightedSum)
    assert total.terms == ((0.5, huber, 1.0), (2.0, absolute, 1.0))
    assert (3 * total + huber).terms == ((1.5, huber, 1.0), (6.0, absolute, 1.0), (1.0, huber, 1.0))
    assert np.float32(0.5) * huber + np.float64(2) * absolute == total
    assert np.array(0.5) * huber == 0.5 * huber
    assert 1 * huber != huber
    for wrong in ("2", [1.0, 2.0], np.ones(2), True, 1j, None, huber):
        with pytest.raises(TypeError):
            wrong * huber
    with pytest.raises(TypeError):
        huber + 1.0
    with pytest.raises(TypeError):
        1.0 + huber


@pytest.mark.parametrize("factor", [-1, -0.5, math.inf, math.nan])
def test_bad_factors(factor):
    with pytest.raises(ValueError, match=r"the factor of a loss must be finite and >= 0, got"):
        factor * losses.Huber()


def test_a_negative_factor_is_told_why():
    with pytest.raises(ValueError, match="rewards errors"):
        -1 * losses.Huber()


TOTALS = [
    0.5 * losses.Huber(delta=1.35) + losses.SquaredError(),
    1 * losses.Quantile(quantile=0.2),
    (0.3 * losses.LogLoss(pos_weight=2.0) + losses.Hinge()).tempered(2.0),
    0.3 * losses.CrossEntropy(class_weight=(1.0, 2.0)) + 2 * losses.MulticlassFocal(class_weight=(1.0, 2.0)),
]


@pytest.mark.parametrize("total", TOTALS, ids=str)
def test_repr_equality_copies(total):
    assert eval(repr(total), vars(losses)) == total
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(total, protocol)) == total
    for again in (copy.copy(total), copy.deepcopy(total), type(total)(**total.params)):
        assert again == total
        assert hash(again) == hash(total)
        assert again.kind == total.kind
    assert total != 2 * total
    assert fastloss.get_loss(total) is total
    with pytest.raises(AttributeError):
        total.terms = ()
    assert all(total.name != term.loss.name for term in total.terms)


def test_repr_text():
    assert repr(TOTALS[0]) == "0.5*Huber(delta=1.35) + SquaredError()"
    assert TOTALS[0].name == "0.5*huber + squared_error"


def test_a_sum_is_not_listed():
    assert not any("+" in name or "*" in name for name in fastloss.list_losses())


def test_bad_sums():
    with pytest.raises(ValueError, match="huber is of kind 'regression', hinge of kind 'binary'"):
        losses.Huber() + losses.Hinge()
    with pytest.raises(ValueError, match="at least one loss"):
        WeightedSum([])
    with pytest.raises(ValueError, match="temperature: huber is of kind 'regression'"):
        losses.Huber().tempered(2.0)
    for bad in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="temperature must be > 0, got"):
            losses.LogLoss().tempered(bad)
    with pytest.raises(TypeError, match="temperature must be a number"):
        losses.LogLoss().tempered("2")
    with pytest.raises(ValueError, match=r"same class_weight: cross_entropy has None, multiclass_focal \(1.0, 2.0\)"):
        losses.CrossEntropy() + losses.MulticlassFocal(class_weight=(1.0, 2.0))
    with pytest.raises(ValueError, match="same ignore_index"):
        losses.CrossEntropy() + losses.MulticlassFocal(ignore_index=1)
    with pytest.raises(ValueError, match="same allow_negative_weight"):
        losses.CrossEntropy(allow_negative_weight=True) + losses.MulticlassFocal()


def test_bad_targets_name_the_term():
    total = losses.SquaredError() + 0.5 * losses.Gamma()
    with pytest.raises(ValueError, match=r"y_true\[2\] = -3.0: gamma needs"):
        total.loss([1.0, 2.0, -3.0, -4.0], np.zeros(4))
    y = np.ones((900, 2))
    y[700, 1] = y[800, 0] = -3.0
    with pytest.raises(ValueError, match=r"y_true\[700, 1\] = -3.0: gamma needs"):
        total.loss(y, np.zeros((900, 2)))
    with pytest.raises(ValueError, match=r"y\[1\] = -3.0: gamma needs"):
        SGDLossRegressor(total).fit([[0.0], [1.0]], [1.0, -3.0])
    hard = losses.LogLoss() + losses.Hinge()
    with pytest.raises(ValueError, match=r"y_true\[0\] = 0.5: hinge needs labels in \{0, 1\} or \{-1, 1\}"):
        hard.loss([0.5], [0.0])
    with pytest.raises(ValueError, match=r"mixes label -1 with labels in \[0, 1\)"):
        hard.loss([0, -1], [0.0, 0.0])


def test_factors_out_of_the_range_of_float32():
    total = 1e300 * losses.Huber()
    assert total.loss([0.0], [1.0]) == 5e299
    with pytest.raises(ValueError, match="factor or temperature of huber is out of the range of float32"):
        total.loss([0.0], np.ones(1, np.float32))
    with pytest.raises(ValueError, match=r"delta = 1e\+300 is out of the range of float32"):
        (losses.Huber(delta=1e300) + losses.Fair()).loss([0.0], np.ones(1, np.float32))


def test_properties_follow_from_the_terms():
    smooth, kinked, robust = losses.SquaredError(), losses.AbsoluteError(), losses.Tukey()
    assert (smooth + kinked).convex
    assert not (smooth + robust).convex
    assert (smooth + 0 * robust).convex
    assert (2 * kinked + losses.Quantile(quantile=0.2)).piecewise_linear
    assert not (smooth + kinked).piecewise_linear
    assert (2 * smooth + 3 * losses.Huber()).curvature() == 5.0
    assert (smooth + kinked).curvature() == math.inf
    assert (8 * losses.LogLoss()).tempered(2.0).curvature() == 0.5
    assert (0 * kinked).curvature() == 0.0
    assert (0.5 * losses.Poisson() + losses.Gamma()).link == "log"
    assert (losses.Poisson() + smooth).link == "identity"
    assert (losses.Hinge() + losses.Perceptron()).link == "sign"
    assert (losses.Hinge() + losses.LogLoss()).link == "logit"
    assert (losses.CrossEntropy() + losses.MulticlassHinge()).link == "softmax"


def test_hessian_policies():
    y, raw = np.array([1.0, 3.0]), np.array([0.2, -0.4])
    total = 0.5 * losses.Poisson() + 2 * losses.Gamma()
    expected = [f * loss.gradient_hessian(y, raw, reduction="none", hessian="fisher")[1]
                for f, loss in ((0.5, losses.Poisson()), (2.0, losses.Gamma()))]  # fmt: skip
    found = total.gradient_hessian(y, raw, reduction="none", hessian="fisher")[1]
    np.testing.assert_allclose(found, sum(expected), rtol=1e-15)
    kinked = 0.5 * losses.AbsoluteError() + 2 * losses.Huber(delta=2.0)
    found = kinked.gradient_hessian(y, raw, reduction="none", hessian="upper_bound")[1]
    np.testing.assert_array_equal(found, 2.5)  # 1 by convention for the piecewise linear term
    with pytest.raises(
        ValueError, match=r"hessian='fisher': 0.5\*absolute_error \+ 2.0\*huber has 'exact', 'upper_bound'"
    ):
        kinked.gradient_hessian(y, raw, hessian="fisher")
    classes, scores = np.array([0, 1]), np.array([[0.1, 0.4], [2.0, 0.0]])
    total = 2 * losses.CrossEntropy()
    exact, fisher = (total.gradient_hessian(classes, scores, hessian=h)[1] for h in ("exact", "fisher"))
    np.testing.assert_array_equal(exact, fisher)


@pytest.mark.parametrize(
    "total", [0.3 * losses.LogCosh() + losses.Cauchy(scale=2.0), losses.Poisson() + losses.Huber()], ids=str
)
def test_derivatives(total):
    y, raw = pair_data(("huber",), 50, np.float64)
    h = 1e-6
    up, down = (total.loss_gradient(y, raw + s, reduction="none") for s in (h, -h))
    _, gradient, hessian = parts(total, y, raw)
    np.testing.assert_allclose((up[0] - down[0]) / (2 * h), gradient, atol=1e-8)
    smooth = np.abs(np.abs(raw - y) - 1.0) > 1e-3
    np.testing.assert_allclose(((up[1] - down[1]) / (2 * h))[smooth], hessian[smooth], atol=1e-8)


# predictions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [
    losses.LogLoss(pos_weight=3.0) + 0.5 * losses.Focal(gamma=1.0),
    losses.LogLoss(label_smoothing=0.1) + losses.Exponential(),
    losses.LogLoss() + losses.SquaredHinge().tempered(2.0),
], ids=str)  # fmt: skip
def test_a_probability_is_the_one_whose_minimiser_the_score_is(total):
    for p in (0.05, 0.3, 0.5, 0.9):
        risk = lambda z, p=p: p * total.loss([1.0], [z]) + (1 - p) * total.loss([0.0], [z])  # noqa: E731
        best = minimize_scalar(risk, bounds=(-8, 8), method="bounded", options={"xatol": 1e-10}).x
        assert float(total.predict([best])[0]) == pytest.approx(p, abs=1e-5)


def test_predictions_of_equal_terms_are_theirs(dtype):
    raw = np.linspace(-800, 800, 41).astype(dtype)
    for loss in (
        losses.LogLoss(pos_weight=2.0),
        losses.SquaredHinge(),
        losses.Hinge(),
        losses.Poisson(),
        losses.Huber(),
    ):
        np.testing.assert_array_equal((0.3 * loss + 2 * loss).predict(raw), loss.predict(raw))
    two = losses.LogLoss() + losses.Exponential()
    found = two.predict(np.array([[-np.inf, -800.0], [800.0, np.nan]], dtype))
    np.testing.assert_array_equal(found, [[0, 0], [1, np.nan]])
    np.testing.assert_array_equal((losses.Hinge() + losses.Perceptron()).predict(raw), raw > 0)
    np.testing.assert_array_equal((losses.Poisson() + losses.Gamma()).predict(raw[20:22]), np.exp(raw[20:22]))
    np.testing.assert_array_equal((losses.Poisson() + losses.Huber()).predict(raw), raw)
    scores = np.random.default_rng(0).normal(size=(9, 3)).astype(dtype)
    hinges = losses.MulticlassHinge() + losses.MulticlassSquaredHinge()
    np.testing.assert_array_equal(hinges.predict(scores), losses.MulticlassHinge().predict(scores))
    mixed = losses.CrossEntropy() + losses.MulticlassHinge()
    np.testing.assert_allclose(mixed.predict(scores).sum(axis=1), 1, rtol=1e-6)
    with pytest.raises(ValueError, match="must have shape"):
        mixed.predict(raw)


# envelopes --------------------------------------------------------------------------------------------------------

CLOSED = [name for name in (*REGRESSION, *BINARY) if hasattr(fastloss.get_loss(name), "proximal_slope")]


def at(kernel, y, raw, want=dispatch.LOSS | dispatch.GRADIENT):
    return dispatch.evaluate(kernel, want, y, raw, None, "none", None, None, None, 1)


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("step", [1e-3, 0.3, 1.0, 100.0])
def test_the_numerical_envelope_is_the_closed_one(name, step, dtype):
    loss = fastloss.get_loss(name)
    rng = np.random.default_rng(0)
    y = rng.uniform(0.5, 5, 3000)
    if loss.kind == "binary":
        y = np.where(rng.random(3000) < 0.5, -1.0, 1.0)
    raw = np.concatenate(
        [rng.normal(size=1500) * 5, (y[1500:] + rng.normal(size=1500) * 10.0 ** rng.uniform(-17, 3, 1500))]
    )
    y, raw = y.astype(dtype), raw.astype(dtype)
    value, slope = at(dispatch.EnvelopeKernel((1.0 * loss)._kernel, step), y, raw)
    exact_value, exact_slope = at(loss._envelope(step), y.astype(float), raw.astype(float))
    eps = np.finfo(dtype).eps
    size = 1 + np.abs(exact_slope) + np.abs(raw.astype(float)) / step * (dtype == "f8")
    assert np.all(np.abs(slope - exact_slope) <= 20 * eps * size)
    assert np.all(np.abs(value - exact_value) <= 20 * eps * (1 + np.abs(exact_value)))


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_envelope_of_a_multiple_is_closed(factor, temperature):
    loss = factor * losses.Hinge().tempered(temperature)
    y, raw = np.repeat([-1.0, 1.0], 50), np.tile(np.linspace(-4, 4, 50), 2)
    closed, numerical = at(loss._envelope(0.7), y, raw), at(dispatch.EnvelopeKernel(loss._kernel, 0.7), y, raw)
    assert not isinstance(loss._envelope(0.7), dispatch.EnvelopeKernel)
    np.testing.assert_allclose(closed[0], numerical[0], atol=1e-14)
    np.testing.assert_allclose(closed[1], numerical[1], atol=1e-14)


SUMS = [
    0.3 * losses.Quantile(quantile=0.1)
    + 0.7 * losses.Quantile(quantile=0.8)
    + 0.2 * losses.EpsilonInsensitive(epsilon=1.0),
    0.5 * losses.AbsoluteError() + 0.5 * losses.SquaredError(),
    losses.AbsoluteError() + 2.0 * losses.LogCosh(),
    losses.Quantile(quantile=0.9) + losses.SmoothQuantile(quantile=0.2, delta=0.5),
    losses.EpsilonInsensitive(epsilon=0.5) + losses.PseudoHuber(delta=0.1),
    losses.Poisson() + losses.AbsoluteError(),
]


@given(st.sampled_from(SUMS), st.floats(0, 5), st.floats(-20, 20), st.floats(-4, 3))
def test_the_envelope_of_a_sum_is_a_minimum(total, y, raw, exponent):
    step = 10.0**exponent
    value, slope = (float(part[0]) for part in at(total._envelope(step), np.array([y]), np.array([raw])))
    p = raw - step * slope
    around = p + np.concatenate([[0.0], np.outer([-1, 1], 10.0 ** np.arange(-6, 2)).ravel()])
    relaxed = total.loss(np.full_like(around, y), around, reduction="none") + (raw - around) ** 2 / (2 * step)
    room = 1e-12 * (1 + abs(value) + raw**2 / step)
    assert value <= relaxed.min() + room
    assert value == pytest.approx(relaxed[0], abs=1e-9 * (1 + abs(value)) + room)


# estimators -------------------------------------------------------------------------------------------------------


def table(n=400, d=3, seed=0, scale=True):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * (10.0 ** rng.uniform(-2, 3, d) if scale else 1.0)
    return X, X @ (rng.normal(size=d) / X.std(axis=0)) + 1 + rng.standard_t(3, size=n)


def objective_of(model, X, y, loss, alpha):
    w = np.column_stack([np.atleast_2d(model.coef_), model.intercept_]).astype(float)
    objective = LinearObjective(X, y, loss, alpha=alpha)
    return objective(w)[0], objective, w.ravel()


@pytest.mark.parametrize("total", SUMS[:5], ids=str)
def test_auto_finds_the_optimum_of_sums_with_kinks(total):
    X, y = table(scale=False)
    model = SGDLossRegressor(total, alpha=1e-3).fit(X, y)
    value, objective, w = objective_of(model, X, y, total, 1e-3)
    assert model.converged_
    best = value
    for _ in range(4):  # a method without derivatives, from the fit, started afresh: it finds what is left
        found = minimize(lambda v: objective(v)[0], w, method="Nelder-Mead", options={"maxiter": 2000, "fatol": 1e-13})
        best, w = min(best, found.fun), found.x
    assert value - best <= 1e-3 * best


def test_auto_against_linear_programming():
    """Quantile losses added up: min sum of a_k (tau_k u_k + (1 - tau_k) v_k), u - v = y - X w - b."""
    X, y = table(n=120, scale=True)
    factors, levels = (0.3, 0.7, 0.5), (0.1, 0.8, 0.5)
    total = WeightedSum([(f, losses.Quantile(quantile=q)) for f, q in zip(factors, levels, strict=True)])
    model = SGDLossRegressor(total, penalty=None, tol=1e-5).fit(X, y)
    n, d = X.shape
    design, eye, zero = np.column_stack([X / X.std(axis=0), np.ones(n)]), np.eye(n), np.zeros((n, n))
    rows, cost = [], [np.zeros(d + 1)]
    for k, (f, q) in enumerate(zip(factors, levels, strict=True)):
        blocks = [zero] * 6
        blocks[2 * k : 2 * k + 2] = [eye, -eye]
        rows.append(np.hstack([design, *blocks]))
        cost += [np.full(n, f * q), np.full(n, f * (1 - q))]
    found = linprog(np.concatenate(cost) / n, A_eq=np.vstack(rows), b_eq=np.tile(y, 3),
                    bounds=[(None, None)] * (d + 1) + [(0, None)] * 6 * n)  # fmt: skip
    value = objective_of(model, X, y, total, 0.0)[0]
    assert model.converged_
    assert -1e-12 <= value - found.fun <= 1e-5 * found.fun


@pytest.mark.parametrize("total", [0.5 * losses.Huber() + losses.LogCosh(), losses.Tukey() + losses.Huber()], ids=str)
@pytest.mark.parametrize("sparse", [False, True])
def test_auto_finds_the_optimum_of_smooth_sums(total, sparse, dtype):
    from scipy.sparse import csr_matrix

    X, y = table()
    data = X.astype(dtype)
    model = SGDLossRegressor(total, alpha=1e-3).fit(csr_matrix(data) if sparse else data, y)
    value, objective, w = objective_of(model, X, y, total, 1e-3)
    assert model.converged_
    assert value <= objective.minimize(start=w, options={"ftol": 1e-15}).fun * (1 + 1e-3)


@pytest.mark.parametrize("total", [
    losses.Hinge() + losses.LogLoss(), 3 * losses.Hinge().tempered(0.5),
    losses.LogLoss().tempered(2.0) + losses.SquaredHinge(),
], ids=str)  # fmt: skip
def test_auto_with_two_classes(total):
    X, y = table(scale=False)
    model = SGDLossClassifier(total, alpha=1e-3).fit(X, y > 1)
    value, objective, w = objective_of(model, X, y > 1, total, 1e-3)
    assert model.converged_
    found = minimize(lambda v: objective(v)[0], w, method="Nelder-Mead", options={"maxiter": 2000, "fatol": 1e-13})
    assert value <= found.fun * (1 + 1e-3)
    assert hasattr(model, "predict_proba") == ("log_loss" in total.name)
    assert model.score(X, y > 1) > 0.7


@pytest.mark.parametrize("total", [
    0.7 * losses.CrossEntropy() + 0.3 * losses.MulticlassSquaredHinge(), losses.CrossEntropy().tempered(3.0),
    losses.CrossEntropy() + losses.MulticlassHinge(), 2 * losses.MulticlassHinge(),
], ids=str)  # fmt: skip
def test_auto_with_classes_is_right_or_warns(total):
    X, y = table(n=600, scale=False)
    y = np.digitize(y, [0.0, 1.0, 2.0])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = SGDLossClassifier(total, alpha=1e-3, max_iter=200).fit(X, y)
    value, objective, w = objective_of(model, X, y, total, 1e-3)
    best = min(objective.minimize(start=start, options={"maxiter": 500}).fun for start in (w, objective.initial))
    assert model.converged_ != bool(said)
    if model.converged_:
        assert value <= best * (1 + 1e-3)


def test_an_intercept_alone_of_losses_of_y_and_of_its_logarithm():
    """Between the best constants of both, far below every target."""
    y = np.random.default_rng(0).uniform(1000, 1002, 200)
    total = losses.Poisson() + 1e-3 * losses.SquaredError()
    model = SGDLossRegressor(total, penalty=None).fit(np.zeros((200, 1)), y)
    best = minimize_scalar(lambda b: total.loss(y, np.full(200, b)), bounds=(0, 20), method="bounded",
                           options={"xatol": 1e-12}).x  # fmt: skip
    assert float(model.intercept_[0]) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize(
    "total", [0.5 * losses.Huber() + losses.SquaredError(), losses.AbsoluteError() + losses.Fair()], ids=str
)
def test_sgd_steps_are_those_of_the_gradient(total, dtype):
    """Plain gradient steps in storage order, by hand."""
    X, y = table(n=60, scale=False)
    X, y = X.astype(dtype), y.astype(dtype)
    model = SGDLossRegressor(
        total, penalty=None, learning_rate="constant", eta0=0.02, shuffle=False, max_iter=2, tol=None
    )
    model.fit(X, y)
    w, b = np.zeros(X.shape[1]), 0.0
    for x, target in itertools.chain(*(zip(X.astype(float), y, strict=True) for _ in range(2))):
        slope = float(total.gradient([target], [x @ w + b])[0])
        w, b = w - 0.02 * slope * x, b - 0.02 * slope
    np.testing.assert_allclose(model.coef_, w, rtol=1e-12 if dtype == "f8" else 1e-4)
    assert float(model.intercept_[0]) == pytest.approx(b, rel=1e-12 if dtype == "f8" else 1e-4)


@pytest.mark.parametrize(
    "total", [0.5 * losses.Huber() + losses.SquaredError(), losses.AbsoluteError() + 0.1 * losses.Fair()], ids=str
)
def test_streams_come_close(total):
    X, y = table(n=3000)
    model = SGDLossRegressor(total, alpha=1e-4, random_state=0)
    for _ in range(10):
        model.partial_fit(X, y)
    best = SGDLossRegressor(total, alpha=1e-4).fit(X, y)
    value, least = (objective_of(m, X, y, total, 1e-4)[0] for m in (model, best))
    assert least <= value <= 1.01 * least


def test_soft_labels_and_class_weights_of_sums():
    X, y = table(scale=False)
    soft = expit(y - 1)
    total = 0.5 * losses.LogLoss() + 0.5 * losses.LogLoss()
    model, plain = (SGDLossClassifier(loss, alpha=1e-3, tol=1e-6).fit(X, soft) for loss in (total, "log_loss"))
    np.testing.assert_allclose(model.coef_, plain.coef_, rtol=1e-3)
    with pytest.raises(ValueError, match="Unknown label type"):
        SGDLossClassifier(losses.LogLoss() + losses.Hinge()).fit(X, soft)


@pytest.mark.parametrize("learning_rate", ["auto", "optimal"])
@pytest.mark.parametrize(
    "weighted", [lambda w: losses.CrossEntropy(class_weight=w), lambda w: 2 * losses.CrossEntropy(class_weight=w)]
)
def test_class_weights_of_a_loss_count_once(learning_rate, weighted):
    X, y = table(scale=False)
    y, weights = np.digitize(y, [0.0, 1.0]), (1.0, 2.0, 4.0)
    options = {"learning_rate": learning_rate, "random_state": 0, "max_iter": 50, "tol": 1e-4, "alpha": 1e-3}
    one = SGDLossClassifier(weighted(weights), **options).fit(X, y)
    other = SGDLossClassifier(weighted(None), class_weight=dict(enumerate(weights)), **options).fit(X, y)
    np.testing.assert_allclose(one.coef_, other.coef_, rtol=1e-6)
    if learning_rate == "auto":
        value, objective, w = objective_of(one, X, y, weighted(weights), 1e-3)
        assert value <= objective.minimize(start=w, options={"ftol": 1e-15}).fun * (1 + 1e-4)


def test_cloning_an_estimator():
    from sklearn.base import clone

    model = SGDLossRegressor(0.5 * losses.Huber() + losses.SquaredError())
    assert clone(model).loss == model.loss


def test_everyday_values_of_a_multiple(hard_case, dtype):
    """2·loss is to the bit twice the loss, whatever the loss."""
    name, params = hard_case
    loss = fastloss.get_loss(name, **params)
    y, raw = everyday(name, params, n=300, dtype=dtype)
    for got, one in zip(parts(2 * loss, y, raw), parts(loss, y, raw), strict=True):
        np.testing.assert_array_equal(got, 2 * one)
