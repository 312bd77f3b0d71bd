"""Promise: LinearObjective is the mean loss of a linear model, with the gradient and the Hessian that belong to it.

What is right comes from `slow_linear`, with bounds on the rounding error of the working dtype.
"""

import numpy as np
import pytest
import scipy.sparse as sp
import threadpoolctl
from bits import bits
from oracle import ORACLES
from scipy.optimize import minimize
from slow_linear import (
    CLASSES,
    FEW,
    MULTICLASS,
    POINTWISE,
    check,
    few,
    objective,
    options_for,
    problem,
    reference,
    result_bits,
)
from test_derivatives import difference

import fastloss
from fastloss import LinearObjective

MULTICLASS_CASES = [
    *((name, {}) for name in CLASSES),
    *((name, {"class_weight": [0.5, 2.0, 0.25], "ignore_index": 1}) for name in CLASSES),
    ("cross_entropy", {"label_smoothing": 0.1}),
    ("cross_entropy", {"label_smoothing": 0.3, "class_weight": [1.0, 0.0, 3.0], "ignore_index": 0}),
    ("cross_entropy", {"z_loss": 0.01}),
    ("cross_entropy", {"z_loss": 0.1, "label_smoothing": 0.2, "ignore_index": -1}),
    ("multiclass_focal", {"gamma": 1.0}),
    ("multiclass_focal", {"gamma": 3.7}),
    ("generalized_cross_entropy", {"q": 1.0}),
    ("generalized_cross_entropy", {"q": 0.1}),
]

POINTWISE_CASES = [(name, params) for name in POINTWISE for params in ORACLES[name].parameter_sets]


def name_of(case):
    name, params = case
    return "-".join([name, *(f"{k}={v}" for k, v in params.items())])


# the reference --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [*POINTWISE_CASES, *MULTICLASS_CASES], ids=name_of)
def test_the_reference_is_its_own_derivative(case):
    name, params = case
    p = problem(name, n=12, d=3, params=params, K=3, seed=1)
    options = options_for(p, weighted=True, shifted=True, alpha=0.3)
    direction = np.random.default_rng(3).normal(size=p.w.size)
    slope = np.sum(reference(p, **options).gradient.ravel() * direction)
    wanted = difference(lambda t: reference(p, w=p.w + t * direction, **options).value, 0.0, 1e-6)
    assert slope == pytest.approx(wanted, rel=1e-7, abs=1e-8)


def test_every_multiclass_loss_has_a_reference():
    assert set(CLASSES) == set(MULTICLASS)


def test_the_reference_by_hand():
    """Softmax, sparsemax and entmax of (0, 0), and the two hinges, where everything is a small fraction."""
    z, first = np.zeros((1, 2)), np.array([[1.0, 0.0]])
    for name, loss in [("cross_entropy", np.log(2)), ("sparsemax", 0.25), ("entmax15", 4 / 3 * (1 - 0.5**0.5))]:
        value, gradient, *_ = MULTICLASS[name](z, first)
        np.testing.assert_allclose(value, loss, rtol=1e-14)
        np.testing.assert_allclose(gradient, [[-0.5, 0.5]], rtol=1e-14)
    z = np.array([[0.0, 0.5, -1.0]])
    first = np.array([[1.0, 0, 0]])
    assert MULTICLASS["multiclass_hinge"](z, first)[0] == 1.5
    assert MULTICLASS["multiclass_hinge"](z, first)[1].tolist() == [[-1, 1, 0]]
    assert MULTICLASS["multiclass_squared_hinge"](z, first)[0] == 2.25
    assert MULTICLASS["multiclass_squared_hinge"](z, first)[1].tolist() == [[-3, 3, 0]]
    value, gradient, *_ = MULTICLASS["sparsemax"](np.array([[3.0, 0.0]]), np.array([[0.0, 1.0]]))
    assert (value.tolist(), gradient.tolist()) == ([3.0 - 0.5 + 0.5 - 0.0], [[1, -1]]) or value == pytest.approx(3.0)


# every loss -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("intercept", [True, False], ids=["intercept", "no intercept"])
@pytest.mark.parametrize("case", POINTWISE_CASES, ids=name_of)
def test_pointwise(case, dtype, isa, intercept):
    name, params = case
    for n, d in ((1, 1), (131, 7)):
        p = problem(name, n, d, dtype, params=params, intercept=intercept)
        check(objective(p), p.w, reference(p))
        options = options_for(p, weighted=True, shifted=True, alpha=0.1)
        check(objective(p, **options), p.w, reference(p, **options))


@pytest.mark.parametrize("name", POINTWISE)
def test_several_outputs(name, dtype, isa):
    """With y (n, T) every output has its coefficients; a sample's losses are added, then averaged over samples."""
    for outputs, n in ((1, 9), (2, 40), (5, 131), (20, 30)):
        p = problem(name, n, 4, dtype, outputs=outputs)
        options = options_for(p, weighted=True, shifted=outputs > 1, alpha=0.1)
        check(objective(p, **options), p.w, reference(p, **options))
        assert objective(p).n_scores == outputs


@pytest.mark.parametrize("intercept", [True, False], ids=["intercept", "no intercept"])
@pytest.mark.parametrize("case", MULTICLASS_CASES, ids=name_of)
def test_multiclass(case, dtype, isa, intercept):
    name, params = case
    for n, d in ((5, 1), (131, 7)):
        p = problem(name, n, d, dtype, params=params, intercept=intercept)
        p.y[0] = 2  # whatever is ignored or weighs nothing, this row stays
        check(objective(p), p.w, reference(p))
        options = options_for(p, weighted=True, shifted=True, alpha=0.1)
        check(objective(p, **options), p.w, reference(p, **options))


@pytest.mark.parametrize(
    "params",
    [{}, {"label_smoothing": 0.2}, {"class_weight": [0.5, 2.0, 0.25]}, {"z_loss": 0.05, "label_smoothing": 0.1}],
    ids=repr,
)
@pytest.mark.parametrize("y_dtype", ["f8", "f4", "f2", ">f8", "g"])
def test_soft_targets(params, y_dtype, dtype, isa):
    p = problem("cross_entropy", 67, 5, dtype, params=params, soft=True)
    p.y = np.asfortranarray(p.y.astype(y_dtype))
    options = options_for(p, weighted=True, shifted=True, alpha=0.1)
    check(objective(p, **options), p.w, reference(p, **options))


def test_soft_targets_need_not_sum_to_one(dtype):
    p = problem("cross_entropy", 67, 5, dtype, soft=True)
    p.y = p.y * np.linspace(0, 3, 67)[:, None]
    check(objective(p), p.w, reference(p))


@pytest.mark.parametrize("y_dtype", ["i1", "u2", "i4", "i8", "u8", ">i4", "f4", "f8"])
def test_label_dtypes(y_dtype, dtype):
    p = problem("cross_entropy", 67, 5, dtype)
    plain = result_bits(objective(p), p.w)
    p.y = p.y.astype(y_dtype)
    assert result_bits(objective(p), p.w) == plain
    p.y = np.repeat(p.y, 3)[::3]
    assert result_bits(objective(p), p.w) == plain


def test_two_classes_as_bool(dtype):
    p = problem("cross_entropy", 67, 5, dtype, K=2)
    plain = result_bits(objective(p), p.w)
    p.y = p.y.astype(bool)
    assert result_bits(objective(p), p.w) == plain


def test_number_of_classes(dtype):
    """n_classes, or the largest label + 1; more classes than labels occur are fine."""
    p = problem("cross_entropy", 40, 3, dtype, K=4)
    p.y[:4] = range(4)
    assert LinearObjective(p.X, p.y, "cross_entropy").n_scores == 4
    assert result_bits(LinearObjective(p.X, p.y, "cross_entropy"), p.w) == result_bits(objective(p), p.w)
    wide = problem("cross_entropy", 40, 3, dtype, K=9)
    wide.y = p.y
    assert objective(wide).n_scores == 9
    check(objective(wide), wide.w, reference(wide))


def test_one_class(dtype):
    """Nothing to learn: loss 0, gradient that of the penalty."""
    X = np.random.default_rng(0).normal(size=(10, 2)).astype(dtype)
    w = np.array([0.5, -1.0, 3.0])
    value, gradient = LinearObjective(X, np.zeros(10, int), "cross_entropy", alpha=2.0)(w)
    assert value == 1.25
    assert gradient.tolist() == [1.0, -2.0, 0.0]


@pytest.mark.parametrize("signed", ["all", "some"])
def test_negative_weights(signed, dtype, isa):
    """Cross-entropy takes signed weights where it is asked to; their sum must stay positive."""
    p = problem("cross_entropy", 67, 5, dtype, params={"allow_negative_weight": True})
    weight = np.random.default_rng(0).normal(size=67)
    if signed == "some":
        weight = np.where(np.arange(67) % 5 == 0, weight, np.abs(weight))
    weight[0] += 1 + abs(weight.sum())
    check(objective(p, sample_weight=weight), p.w, reference(p, sample_weight=weight))


# shapes ---------------------------------------------------------------------------------------------------------

ROWS = [1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1000, 5000]
COLUMNS = [1, 2, 3, 7, 8, 9, 15, 16, 17, 20, 31, 32, 33, 63, 64, 65, 100, 130, 1000]
SCORES = [2, 3, 10, 16, 17, 33, 65, 200]


def check_forms(p):
    wanted = reference(p)
    for X in (p.X, np.asfortranarray(p.X), sp.csr_array(p.X)):
        check(objective(p, X), p.w, wanted)


@pytest.mark.parametrize("n", ROWS)
def test_rows(n, dtype, isa):
    for p in (problem("log_loss", n, 7, dtype), problem("cross_entropy", n, 7, dtype), *few(n, 20, dtype)):
        check_forms(p)
    p = problem("cross_entropy", n, 3, dtype, K=17)
    check(objective(p), p.w, reference(p))


@pytest.mark.parametrize("d", COLUMNS)
def test_columns(d, dtype, isa):
    for n in (1, 17, 129):
        for p in few(n, d, dtype):
            check_forms(p)


@pytest.mark.parametrize("K", SCORES)
def test_scores(K, dtype, isa):
    for n, d in ((1, 1), (70, 9), (130, 33)):
        for p in (problem("cross_entropy", n, d, dtype, K=K), problem("huber", n, d, dtype, outputs=K)):
            check_forms(p)


@pytest.mark.parametrize("K", SCORES[:4])
@pytest.mark.parametrize("name", [name for name in CLASSES if name != "cross_entropy"])
def test_scores_of_other_multiclass_losses(name, K, dtype):
    p = problem(name, 70, 9, dtype, K=K)
    check(objective(p), p.w, reference(p))


def test_no_columns(dtype):
    """The model is its intercept."""
    for p in few(50, 0, dtype):
        for X in (p.X, sp.csr_array(p.X)):
            assert objective(p, X).n_features == 0
            check(objective(p, X, alpha=3.0), p.w, reference(p, alpha=3.0))


# weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["C", "F", "csr"])
@pytest.mark.parametrize("case", FEW, ids=name_of)
def test_weight_zero_is_an_absent_row(case, form, dtype, isa):
    """Also where its target is NaN or its raw prediction overflows: nothing of it reaches the result."""
    name, params = case
    p = problem(name, 200, 6, dtype, params=params)
    make = {"C": np.copy, "F": np.asfortranarray, "csr": sp.csr_array}[form]
    weight = np.random.default_rng(0).uniform(0.5, 2, 200)
    silent = np.arange(200) % 7 == 3
    weight[silent] = 0
    plain = result_bits(objective(p, make(p.X), sample_weight=weight), p.w)
    X, y = p.X.copy(), p.y
    X[silent] = np.finfo(dtype).max * np.where(p.w.reshape(-1, 7)[0, :6] > 0, 1, -1)
    p.X = X
    if name in ("squared_error", "poisson"):
        p.y = np.where(silent, np.nan, y)
    assert result_bits(objective(p, make(X), sample_weight=weight), p.w) == plain
    p.X, p.y = X[~silent], y[~silent]
    check(objective(p, make(p.X), sample_weight=weight[~silent]), p.w, reference(p, sample_weight=weight[~silent]))
    p.X, p.y = np.where(silent[:, None], 0, X), y
    wanted = reference(p, sample_weight=weight)
    check(objective(p, make(X), sample_weight=weight), p.w, wanted)


def test_ignored_is_absent(dtype):
    p = problem("cross_entropy", 200, 6, dtype, params={"ignore_index": 1})
    keep = p.y != 1
    found = objective(p)
    p.X, p.y = p.X[keep], p.y[keep]
    check(found, p.w, reference(p))


def test_ignore_index_may_be_no_class(dtype):
    """-100, as elsewhere: such labels are no classes and raise no error, with and without n_classes."""
    p = problem("cross_entropy", 200, 6, dtype, params={"ignore_index": -100})
    p.y[::3] = -100
    p.y[1] = 2
    assert LinearObjective(p.X, p.y, p.loss).n_scores == 3
    check(objective(p), p.w, reference(p))


def test_class_weight_is_a_sample_weight(dtype):
    p = problem("cross_entropy", 200, 6, dtype, params={"class_weight": [0.5, 2.0, 0.25]})
    weight = np.random.default_rng(0).uniform(0.5, 2, 200)
    found = result_bits(objective(p, sample_weight=weight), p.w)
    plain = problem("cross_entropy", 200, 6, dtype)
    assert result_bits(objective(plain, sample_weight=weight * np.array([0.5, 2.0, 0.25])[p.y]), p.w) == found


def test_scale_of_weights_does_not_matter(dtype):
    """The mean is weighted: twice every weight is the same objective."""
    for p in few(200, 6, dtype):
        weight = np.random.default_rng(0).uniform(0.5, 2, 200)
        found = result_bits(objective(p, sample_weight=weight), p.w)
        assert result_bits(objective(p, sample_weight=4 * weight), p.w) == found  # a power of 2: no bit differs
        check(objective(p, sample_weight=1e-30 * weight), p.w, reference(p, sample_weight=weight))


def test_offset_is_an_intercept_per_row(dtype):
    """A constant offset is the intercept; an offset alone, with d = 0 features used, is the raw prediction."""
    p = problem("log_loss", 200, 6, dtype)
    w = p.w.copy()
    w[-1] = 0
    value, gradient = objective(p, offset=np.full(200, 0.75))(w)
    w[-1] = 0.75
    wanted = reference(p, w=w)
    assert abs(value - wanted.value) <= wanted.value_error
    assert np.all(np.abs(gradient - wanted.gradient[0]) <= wanted.gradient_error[0])
    p.w = np.zeros(7)
    offset = np.random.default_rng(0).normal(size=200).astype(dtype)
    value, _ = objective(p, offset=offset)(p.w)
    assert value == pytest.approx(fastloss.loss("log_loss", p.y, offset), rel=1e-15)


def test_the_intercept_is_not_penalised(dtype):
    p = problem("squared_error", 50, 3, dtype)
    w = np.array([1.0, -2.0, 3.0, 1000.0])
    plain, penalised = objective(p)(w), objective(p, alpha=0.5)(w)
    np.testing.assert_allclose(penalised[0] - plain[0], 0.25 * 14, rtol=1e-4 if dtype == np.float32 else 1e-9)
    difference = penalised[1] - plain[1]
    np.testing.assert_allclose(difference[:3], 0.5 * w[:3], rtol=1e-3 if dtype == np.float32 else 1e-9)
    assert difference[3] == 0


# w and what comes back ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("w_dtype", [np.float32, np.float64])
def test_gradient_has_the_dtype_of_w(w_dtype, dtype):
    for p in few(131, 7, dtype):
        w = p.w.astype(w_dtype)
        for X in (p.X, np.asfortranarray(p.X), sp.csr_array(p.X)):
            found = objective(p, X)
            assert found(w)[1].dtype == w_dtype
            assert found.hessp(w, w).dtype == w_dtype
            assert found.hessian_diag(w).dtype == w_dtype
            check(found, w, reference(p, w=w))


@pytest.mark.parametrize("code", ["i4", "f2", "g", ">f8", "?"])
def test_other_dtypes_of_w(code):
    p = problem("log_loss", 67, 4)
    w = np.array([1, 0, 2, -1, 1]).astype(code)
    value, gradient = objective(p)(w)
    assert gradient.dtype == np.float64
    assert (bits(value), bits(gradient)) == result_bits(objective(p), w.astype(float))
    assert result_bits(objective(p), w.tolist()) == result_bits(objective(p), w.astype(float))


def test_w_as_a_matrix(dtype):
    """(K, d + 1) is accepted in any layout; gradient and products have its shape."""
    p = problem("cross_entropy", 67, 4, dtype)
    found, flat = objective(p), p.w
    value, gradient = found(flat)
    W = flat.reshape(3, 5)
    for w in (W, np.asfortranarray(W), np.repeat(W, 2, axis=1)[:, ::2], W[::-1].copy()[::-1]):
        before = w.copy()
        other_value, other = found(w)
        assert other.shape == (3, 5)
        assert (bits(other_value), bits(other)) == (bits(value), bits(gradient.reshape(3, 5)))
        np.testing.assert_array_equal(found.hessp(w, w), found.hessp(flat, flat).reshape(3, 5))
        np.testing.assert_array_equal(found.hessian_diag(w).ravel(), found.hessian_diag(flat))
        for a, b in zip(found.unpack(w), found.unpack(flat), strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(w, before)
    w = flat.copy()
    w.flags.writeable = False
    assert result_bits(found, w) == (bits(value), bits(gradient))
    assert result_bits(found, np.repeat(flat, 3)[::3]) == (bits(value), bits(gradient))


def test_results_are_the_callers(dtype):
    """An optimiser keeps the last gradient while it asks for the next one."""
    for p in few(67, 4, dtype):
        found = objective(p)
        for call in (lambda w: found(w)[1], lambda w: found.hessp(w, w), found.hessian_diag):  # noqa: B023 - used here
            first = call(p.w)
            kept = first.copy()
            second = call(p.w / 3)
            assert not np.shares_memory(first, second)
            np.testing.assert_array_equal(first, kept)
            first[...] = np.nan
            np.testing.assert_array_equal(call(p.w), kept)


def test_attributes(dtype):
    X = np.zeros((10, 4), dtype)
    y = np.arange(10) % 3
    for fit_intercept in (True, False):
        columns = 4 + fit_intercept
        for loss, target, K in [
            ("huber", y.astype(float), 1),
            ("cross_entropy", y, 3),
            ("huber", np.zeros((10, 2)), 2),
            ("cross_entropy", np.ones((10, 5)), 5),
        ]:
            found = LinearObjective(X, target, loss, fit_intercept=fit_intercept)
            assert (found.n_features, found.n_scores, found.size) == (4, K, K * columns)
            assert found.dtype == dtype
            assert found.loss == fastloss.get_loss(loss)
            assert found.initial.shape == (K * columns,)
            assert not found.initial.any()
            assert np.isfinite(found(found.initial)[0])


def test_default_loss_and_instances(dtype):
    p = problem("squared_error", 67, 4, dtype)
    assert result_bits(LinearObjective(p.X, p.y), p.w) == result_bits(objective(p), p.w)
    huber = fastloss.losses.Huber(delta=0.5)
    found = LinearObjective(p.X, p.y, huber)
    assert found.loss is huber
    p.loss = huber
    check(found, p.w, reference(p))


def test_unpack(dtype):
    X, y = np.zeros((10, 2), dtype), np.arange(10) % 3
    coef, intercept = LinearObjective(X, y.astype(float)).unpack(np.array([1.0, 2, 3]))
    assert coef.tolist() == [1, 2]
    assert isinstance(intercept, float)
    assert intercept == 3
    coef, intercept = LinearObjective(X, y.astype(float), fit_intercept=False).unpack(np.array([1.0, 2]))
    assert coef.tolist() == [1, 2]
    assert intercept == 0
    found = LinearObjective(X, y, "cross_entropy")
    coef, intercept = found.unpack(np.arange(9.0))
    assert coef.tolist() == [[0, 1], [3, 4], [6, 7]]
    assert intercept.tolist() == [2, 5, 8]
    assert found.unpack(np.arange(9, dtype=np.float32))[0].dtype == np.float32
    coef, intercept = LinearObjective(X, y, "cross_entropy", fit_intercept=False).unpack(np.arange(6.0))
    assert coef.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert np.all(np.asarray(intercept) == 0)


def test_unpacked_coefficients_predict(dtype):
    """The raw prediction X @ coef.T + intercept is the one whose loss is the value."""
    for p in few(67, 4, dtype):
        found = objective(p)
        coef, intercept = found.unpack(p.w)
        value = p.loss.loss(p.y, p.X.astype(float) @ coef.T + intercept)
        assert abs(value - found(p.w)[0]) <= 2 * reference(p).value_error


# Hessian --------------------------------------------------------------------------------------------------------

SMOOTH = [
    *((name, {}) for name in POINTWISE if not fastloss.get_loss(name).piecewise_linear),
    *((name, {}) for name in CLASSES if not fastloss.get_loss(name).piecewise_linear),
    ("cross_entropy", {"label_smoothing": 0.1, "z_loss": 0.1}),
    ("cross_entropy", {"class_weight": [0.5, 2.0, 0.25], "ignore_index": 1}),
    ("multiclass_focal", {"gamma": 1.0}),
    ("generalized_cross_entropy", {"q": 1.0}),
]


def hessp_bound(p, v, **options):
    """Rounding errors of a Hessian-vector product.

    Those of the gradient, whose bound has the second derivatives among its terms, times the largest of the X @ v that
    they are multiplied by; the change of the second derivative with the rounding of its score is of the same size.
    """
    V = np.abs(v.reshape(p.K, -1))
    ahead = np.abs(p.X).astype(float) @ V[:, : p.X.shape[1]].T + V.max()
    unit = np.finfo(p.X.dtype).eps
    return (1 + ahead.max()) * reference(p, **options).gradient_error + 8 * unit * options.get("alpha", 0) * V


@pytest.mark.parametrize("case", [("hinge", {}), ("quantile", {}), ("multiclass_hinge", {}), *SMOOTH], ids=name_of)
def test_hessp_is_the_derivative_of_the_gradient(case, dtype, isa):
    name, params = case
    for n, d in ((7, 1), (131, 5)):
        p = problem(name, n, d, dtype, params=params, seed=2)
        if p.loss.kind == "multiclass":
            p.y[0] = 2
        v = np.random.default_rng(4).normal(size=p.w.size)
        for options in ({}, options_for(p, weighted=True, shifted=True, alpha=0.3)):
            # five-point differences of the exact gradient, 1e-5 apart: error 1e-20 f'''''' + 1e-16 / 1e-5
            wanted = difference(lambda t: reference(p, w=p.w + t * v, **options).gradient, 0.0, 1e-5).ravel()  # noqa: B023
            bound = hessp_bound(p, v, **options).ravel()
            noise = 1e-9 * (1 + np.max(np.abs(reference(p, **options).gradient)))
            for X in (p.X, np.asfortranarray(p.X), sp.csr_array(p.X)):
                got = objective(p, X, **options).hessp(p.w, v)
                assert got.shape == v.shape
                assert np.all(np.abs(got - wanted) <= bound + noise), (got - wanted, bound)


@pytest.mark.parametrize("case", SMOOTH, ids=name_of)
def test_hessian_is_symmetric(case, isa):
    name, params = case
    p = problem(name, 67, 5, params=params, seed=6)
    p.y[0] = 2 if p.loss.kind == "multiclass" else p.y[0]
    rng = np.random.default_rng(0)
    found = objective(p, alpha=0.1)
    u, v = rng.normal(size=(2, p.w.size))
    one, other = u @ found.hessp(p.w, v), v @ found.hessp(p.w, u)
    size = np.abs(u) @ np.abs(found.hessp(p.w, v)) + np.abs(v) @ np.abs(found.hessp(p.w, u))
    assert abs(one - other) <= 1e-13 * size
    assert size > 1e-6  # there is something to compare


@pytest.mark.parametrize("case", [("hinge", {}), ("multiclass_hinge", {}), *SMOOTH], ids=name_of)
def test_hessian_diag(case, dtype, isa):
    """Entry by entry what hessp gives for unit vectors, intercepts included."""
    name, params = case
    p = problem(name, 67, 4, dtype, params=params, seed=6)
    p.y[0] = 2 if p.loss.kind == "multiclass" else p.y[0]
    for options in ({}, options_for(p, weighted=True, shifted=True, alpha=0.3)):
        for X in (p.X, np.asfortranarray(p.X), sp.csr_array(p.X)):
            found = objective(p, X, **options)
            diagonal = found.hessian_diag(p.w)
            units = np.eye(p.w.size)
            wanted = np.array([found.hessp(p.w, unit) @ unit for unit in units])
            size = np.max(np.abs(wanted)) + np.max(np.abs(reference(p, **options).gradient))
            np.testing.assert_allclose(diagonal, wanted, rtol=0, atol=64 * np.finfo(dtype).eps * size)


def test_hessp_of_the_penalty_alone():
    """A piecewise linear loss has the penalty's Hessian, which spares the intercept."""
    for name, more in (("absolute_error", {}), ("absolute_error", {"outputs": 2}), ("multiclass_hinge", {})):
        p = problem(name, 40, 3, **more)
        v = np.random.default_rng(0).normal(size=p.w.size)
        wanted = 0.5 * v.reshape(-1, 4)
        wanted[:, 3] = 0
        assert objective(p, alpha=0.5).hessp(p.w, v).tolist() == wanted.ravel().tolist()
        assert objective(p, alpha=0.5).hessian_diag(p.w).tolist() == ([0.5, 0.5, 0.5, 0.0] * (p.w.size // 4))


def test_hessp_is_linear_in_v(dtype):
    for p in few(67, 4, dtype):
        v = np.random.default_rng(0).normal(size=p.w.size)
        found = objective(p, alpha=0.1)
        assert not found.hessp(p.w, np.zeros_like(v)).any()
        np.testing.assert_array_equal(found.hessp(p.w, 4 * v), 4 * found.hessp(p.w, v))


# optimisers -----------------------------------------------------------------------------------------------------

METHODS = {
    "L-BFGS-B": {"gtol": 1e-9, "ftol": 0.0, "maxiter": 2000, "maxcor": 20},
    "Newton-CG": {"xtol": 1e-10, "maxiter": 200},
    "trust-ncg": {"gtol": 1e-9, "maxiter": 200},
}


def optimum(found, method):
    """The minimiser SciPy finds."""
    hessp = None if method == "L-BFGS-B" else found.hessp
    result = minimize(found, found.initial, jac=True, hessp=hessp, method=method, options=METHODS[method])
    assert np.max(np.abs(found(result.x)[1])) < 1e-6
    return result


@pytest.mark.parametrize("method", METHODS)
def test_minimize_is_scipys(table_of_labels, method):
    """The same iterates as a plain call, hessian products included."""
    X, y = table_of_labels
    found = fastloss.LinearObjective(X, y, "log_loss", alpha=1e-2)
    plain = optimum(found, method)
    ours = found.minimize(method, options=METHODS[method])
    np.testing.assert_allclose(ours.x, plain.x, rtol=1e-9, atol=1e-12)
    assert ours.nit == plain.nit
    start = np.full(found.size, 0.1)
    assert found.minimize(method, start=start, options={"maxiter": 1}).nit <= 1


def test_minimize_gives_blas_its_threads_back(table_of_labels):
    X, y = table_of_labels
    found, seen = fastloss.LinearObjective(X, y, "log_loss", alpha=1e-2), []

    def blas_threads():
        return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]

    before = blas_threads()
    found.minimize(callback=lambda w: seen.append(blas_threads()))
    assert blas_threads() == before
    assert set(map(tuple, seen)) == {(1,) * len(before)}


@pytest.fixture(scope="module")
def table_of_labels():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(300, 4))
    return X, (X @ [1.0, -1.0, 0.5, 0.0] + rng.normal(size=300) > 0).astype(int)


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 6)) * [1, 2, 0.5, 1, 1, 3]
    return X, X @ rng.normal(size=6) + 0.5 + rng.normal(size=400)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", [np.copy, np.asfortranarray, sp.csr_array], ids=["C", "F", "csr"])
def test_binary_optimum(method, form, table):
    """scikit-learn minimises C times the sum of losses + ½‖w‖²: alpha = 1 / (C n)."""
    from sklearn.linear_model import LogisticRegression

    X, score = table
    y = (score > 0).astype(int)
    alpha = 0.01
    peer = LogisticRegression(C=1 / (alpha * len(y)), solver="newton-cholesky", tol=1e-12).fit(X, y)
    found = LinearObjective(form(X), y, "log_loss", alpha=alpha)
    result = optimum(found, method)
    coef, intercept = found.unpack(result.x)
    np.testing.assert_allclose(coef, peer.coef_[0], atol=1e-5)
    np.testing.assert_allclose(intercept, peer.intercept_[0], atol=1e-5)
    assert result.fun <= found(np.append(peer.coef_, peer.intercept_))[0] + 1e-11


@pytest.mark.parametrize("method", METHODS)
def test_multinomial_optimum(method, table):
    from sklearn.linear_model import LogisticRegression

    X, score = table
    y = np.digitize(score, [-2, 0, 3])
    alpha = 0.01
    peer = LogisticRegression(C=1 / (alpha * len(y)), solver="lbfgs", tol=1e-10, max_iter=5000).fit(X, y)
    found = LinearObjective(X, y, "cross_entropy", alpha=alpha)
    result = optimum(found, method)
    coef, intercept = found.unpack(result.x)
    np.testing.assert_allclose(coef, peer.coef_, atol=1e-4)
    # a number added to every intercept changes nothing
    np.testing.assert_allclose(intercept - intercept.mean(), peer.intercept_ - peer.intercept_.mean(), atol=1e-4)
    theirs = found(np.hstack([peer.coef_, peer.intercept_[:, None]]))[0]
    assert result.fun == pytest.approx(theirs, rel=1e-9)
    assert result.fun <= theirs + 1e-11


@pytest.mark.parametrize("method", METHODS)
def test_ridge_optimum(method, table):
    """Normal equations of centred data, weighted."""
    X, y = table
    weight, alpha = np.linspace(0.5, 2, len(y)), 0.1
    share = weight / weight.sum()
    Xc, yc = X - share @ X, y - share @ y
    wanted = np.linalg.solve(Xc.T @ (share[:, None] * Xc) + alpha * np.eye(6), Xc.T @ (share * yc))
    found = LinearObjective(X, y, "squared_error", alpha=alpha, sample_weight=weight)
    coef, intercept = found.unpack(optimum(found, method).x)
    np.testing.assert_allclose(coef, wanted, atol=1e-6)
    np.testing.assert_allclose(intercept, share @ y - (share @ X) @ wanted, atol=1e-6)
    found = LinearObjective(X, np.column_stack([y, -2 * y]), alpha=alpha, sample_weight=weight)
    coef, _ = found.unpack(optimum(found, method).x)
    np.testing.assert_allclose(coef, [wanted, -2 * wanted], atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_poisson_optimum(method, table):
    """Rates with exposure: scikit-learn's weights and frequencies are the offset's model of counts."""
    from sklearn.linear_model import PoissonRegressor

    X, score = table
    X = X / 3
    rng = np.random.default_rng(1)
    exposure = rng.uniform(0.5, 5, len(X))
    counts = rng.poisson(exposure * np.exp(score / 10)).astype(float)
    alpha = 0.05
    peer = PoissonRegressor(alpha=alpha, tol=1e-10, solver="newton-cholesky").fit(
        X, counts / exposure, sample_weight=exposure
    )
    # their mean divides by the total exposure, ours by the number of rows
    found = LinearObjective(X, counts, "poisson", alpha=alpha * exposure.sum() / len(X), offset=np.log(exposure))
    coef, intercept = found.unpack(optimum(found, method).x)
    np.testing.assert_allclose(coef, peer.coef_, atol=1e-5)
    np.testing.assert_allclose(intercept, peer.intercept_, atol=1e-5)


def test_float32_optimum(table):
    """X in float32 finds the optimum as far as its gradients tell."""
    X, score = table
    y = np.digitize(score, [-2, 0, 3])
    double = LinearObjective(X, y, "cross_entropy", alpha=0.01)
    single = LinearObjective(X.astype(np.float32), y, "cross_entropy", alpha=0.01)
    result = minimize(single, single.initial, jac=True, method="L-BFGS-B", options={"gtol": 1e-5, "maxiter": 500})
    # a gradient of 1e-5 in 28 coordinates at curvature 0.01: value within 28e-10 / (2 * 0.01)
    assert double(result.x)[0] == pytest.approx(optimum(double, "L-BFGS-B").fun, abs=1e-6)
