"""Where scikit-learn's SGD went wrong and learning_rate="auto" must not: a test per number in the project's list."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from reference_optimum import objective
from sklearn.datasets import load_breast_cancer, load_iris, make_regression
from sklearn.linear_model import ElasticNet
from sklearn.preprocessing import StandardScaler

from fastloss import SGDLossClassifier, SGDLossRegressor

PARAMETERS = {"squared_error": {}, "huber": {"delta": 0.1}, "quantile": {"quantile": 0.5}}


@pytest.fixture(autouse=True)
def no_warnings():
    """None of these fits has a reason to warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def numbers():
    """Gaussian columns, y nearly linear in them."""
    return make_regression(1000, 20, noise=5.0, random_state=0)


@pytest.fixture(scope="module")
def sparse_rows():
    """500 rows of 30 columns, a tenth of them not zero, and y with some noise."""
    rng = np.random.default_rng(0)
    X = sp.random(500, 30, 0.1, "csr", random_state=rng, data_rvs=rng.standard_normal)
    return X, X @ rng.normal(size=30) + 0.1 * rng.normal(size=500)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("loss", ["squared_error", "squared_hinge"])
def test_p8_classifier_with_quadratic_losses(loss, seed):
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    model = SGDLossClassifier(loss, random_state=seed).fit(X, y)
    assert model.score(X, y) >= 0.93
    assert np.abs(model.coef_).max() < 10
    assert model.converged_


@pytest.mark.parametrize("factor", [1e-5, 1.0, 100.0, 1e3, 1e5, 1e8])
@pytest.mark.parametrize("loss", ["squared_error", "huber", "quantile"])
def test_p9_columns_of_any_scale(numbers, loss, factor):
    X, y = numbers
    # 1e-5 squared is so little curvature that the penalty would rule
    model = SGDLossRegressor(loss, alpha=0.0 if factor < 1 else 1e-4).fit(X * factor, y)
    assert model.converged_
    assert 1 - np.sum((model.predict(X * factor) - y) ** 2) / np.sum((y - y.mean()) ** 2) > 0.99


@pytest.mark.parametrize("shift", [100.0, 1e4, -1e4])
def test_p10_huber_far_from_zero(numbers, shift):
    X, y = numbers
    model = SGDLossRegressor("huber").fit(X, y + shift)
    assert model.converged_
    assert model.score(X, y + shift) > 0.99


@pytest.mark.parametrize("loss", ["squared_error", "huber", "quantile"])
@pytest.mark.parametrize("factor", [1e-3, 1e-12, 1e6])
def test_p11_scale_of_weights(numbers, loss, factor):
    X, y = numbers
    plain, scaled = (
        SGDLossRegressor(loss).fit(X, y, sample_weight=weight) for weight in (None, np.full(len(y), factor))
    )
    assert scaled.converged_
    a, b = (objective(loss, X, y, m.coef_, m.intercept_, alpha=1e-4, **PARAMETERS[loss]) for m in (plain, scaled))
    assert a == pytest.approx(b, rel=1e-3 if loss == "quantile" else 1e-9)
    if loss != "quantile":
        np.testing.assert_allclose(scaled.coef_, plain.coef_, rtol=1e-5)


@pytest.mark.parametrize("alpha", [1e-4, 1e-3])
@pytest.mark.parametrize("intercept", [False, True])
def test_p12_sparse_and_dense_end_alike(sparse_rows, alpha, intercept):
    X, y = sparse_rows
    a, b = (SGDLossRegressor(alpha=alpha, fit_intercept=intercept, random_state=0).fit(x, y) for x in (X, X.toarray()))
    assert a.n_iter_ == b.n_iter_
    np.testing.assert_allclose(a.coef_, b.coef_, atol=1e-6)


@pytest.mark.parametrize("penalty", ["l1", "elasticnet"])
@pytest.mark.parametrize("alpha", [1e-3, 1e-2, 1e-1])
def test_p12b_l1_is_exact_on_sparse_and_dense(sparse_rows, penalty, alpha):
    X, y = sparse_rows
    ratio = 1.0 if penalty == "l1" else 0.5
    exact = ElasticNet(alpha=alpha, l1_ratio=ratio, tol=1e-12, max_iter=100_000).fit(X.toarray(), y)

    def value(model):
        penalties = alpha * ratio * np.abs(model.coef_).sum()
        return objective("squared_error", X, y, model.coef_, model.intercept_, alpha=alpha * (1 - ratio)) + penalties

    for x in (X, X.toarray()):
        model = SGDLossRegressor(penalty=penalty, alpha=alpha, l1_ratio=0.5, tol=1e-6).fit(x, y)
        assert model.converged_
        assert value(model) <= value(exact) * (1 + 1e-6)
        np.testing.assert_array_equal(model.coef_ == 0, exact.coef_ == 0)


@pytest.mark.parametrize("sparse", [False, True])
def test_p13_l1_in_chunks(sparse_rows, sparse):
    X, y = sparse_rows
    X = X if sparse else X.toarray()
    options = {"penalty": "l1", "alpha": 0.01, "learning_rate": "invscaling", "shuffle": False}
    whole = SGDLossRegressor(max_iter=1, tol=None, **options).fit(X, y)
    parts = SGDLossRegressor(**options)
    for rows in np.array_split(np.arange(500), 50):
        parts.partial_fit(X[rows], y[rows])
    np.testing.assert_array_equal(parts.coef_ == 0, whole.coef_ == 0)
    np.testing.assert_allclose(parts.coef_, whole.coef_, rtol=1e-10, atol=1e-12)


def test_p13_l1_in_chunks_without_a_schedule(sparse_rows):
    """Chunks or one batch: nearly the same zeros."""
    X, y = sparse_rows
    whole = SGDLossRegressor(penalty="l1", alpha=0.05, shuffle=False).partial_fit(X, y)
    parts = SGDLossRegressor(penalty="l1", alpha=0.05, shuffle=False)
    for rows in np.array_split(np.arange(500), 50):
        parts.partial_fit(X[rows], y[rows])
    assert abs(np.count_nonzero(parts.coef_) - np.count_nonzero(whole.coef_)) <= 3


@pytest.mark.parametrize("loss", ["log_loss", "hinge", "squared_hinge"])
def test_p14_intercept_of_rare_classes(sparse_rows, loss):
    X, y = sparse_rows
    labels = y > np.quantile(y, 0.9)
    a, b = (SGDLossClassifier(loss, alpha=1e-2, tol=1e-5).fit(x, labels) for x in (X, X.toarray()))
    assert a.intercept_ == pytest.approx(b.intercept_, abs=0.01)
    np.testing.assert_allclose(a.coef_, b.coef_, atol=0.05)


def test_p14_intercept_of_noise_is_the_prior():
    rng = np.random.default_rng(0)
    X, y = sp.random(2000, 10, 0.2, "csr", random_state=rng), np.arange(2000) % 10 == 0
    for x in (X, X.toarray()):
        model = SGDLossClassifier("log_loss", alpha=1.0).fit(x, y)
        assert model.intercept_[0] == pytest.approx(-np.log(9), abs=0.02)


@pytest.mark.parametrize("loss", ["log_loss", "hinge", "cross_entropy"])
def test_p15_long_indices(sparse_rows, loss):
    X, y = sparse_rows
    long = sp.csr_array((X.data, X.indices.astype(np.int64), X.indptr.astype(np.int64)), shape=X.shape)
    assert long.indices.dtype == np.int64
    a, b = (SGDLossClassifier(loss).fit(x, y > 0) for x in (X, long))
    np.testing.assert_array_equal(a.coef_, b.coef_)
    np.testing.assert_array_equal(a.predict(X), b.predict(long))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("loss", ["log_loss", "hinge", "cross_entropy", "modified_huber"])
def test_p16_single_precision_everywhere(sparse_rows, loss, sparse):
    X, y = sparse_rows
    X = X.astype(np.float32) if sparse else X.toarray().astype(np.float32)
    model = SGDLossClassifier(loss).fit(X, y > 0)
    outputs = [model.coef_, model.intercept_, model.decision_function(X)]
    outputs += [] if loss == "hinge" else [model.predict_proba(X)]
    number = SGDLossRegressor("huber").fit(X, y)
    outputs += [number.coef_, number.intercept_, number.predict(X)]
    assert {found.dtype for found in outputs} == {np.dtype(np.float32)}


def test_p34_probabilities_as_targets():
    X, y = load_breast_cancer(return_X_y=True)
    p = 0.05 + 0.9 * y
    columns = np.column_stack([1 - p, p])
    one, two = (SGDLossClassifier("log_loss").fit(X, t) for t in (p, columns))
    np.testing.assert_array_equal(one.coef_, two.coef_)
    np.testing.assert_array_equal(two.classes_, [0, 1])
    assert two.score(X, y) > 0.9
    named = SGDLossClassifier("log_loss").fit(X, columns, classes=["bad", "good"])
    assert set(named.predict(X)) == {"bad", "good"}
    assert named.predict_proba(X)[:, 1].mean() == pytest.approx(p.mean(), abs=0.01)


def test_p34_probabilities_of_three_classes():
    X, y = load_iris(return_X_y=True)
    model = SGDLossClassifier("cross_entropy").fit(X, 0.9 * np.eye(3)[y] + 0.1 / 3)
    assert model.score(X, y) > 0.9


@pytest.mark.parametrize("loss", ["huber", "quantile", "absolute_error", "epsilon_insensitive", "squared_error"])
@pytest.mark.parametrize("value", [0.0, 1.0, -1e6])
def test_p41_constant_targets(numbers, loss, value):
    X, _ = numbers
    model = SGDLossRegressor(loss).fit(X, np.full(len(X), value))
    np.testing.assert_allclose(model.predict(X), value, atol=0.11 if "epsilon" in loss else 1e-6 * max(1, abs(value)))
    assert model.converged_


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ["modified_huber", "log_loss", "cross_entropy"])
def test_p42_probabilities_sum_to_one(loss, dtype):
    X, y = load_iris(return_X_y=True)
    X = X.astype(dtype)
    model = SGDLossClassifier(loss).fit(X, y)
    huge = 1e38 if dtype == "float32" else 1e308
    with np.errstate(over="ignore"):
        p = np.vstack([model.predict_proba(X), model.predict_proba(np.full((1, 4), -1.0, dtype))])
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-6)
    model.coef_[:] = 0
    for margins in ([huge] * 3, [-huge] * 3, [huge, -huge, 0.0], [-huge, -huge, huge]):
        model.intercept_[:] = margins
        p = model.predict_proba(X[:1])
        assert np.isfinite(p).all()
        assert p.sum() == pytest.approx(1, rel=1e-6)
