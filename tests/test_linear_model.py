"""The SGD estimators: what they accept, compute, refuse and say.  Parity with scikit-learn has its own file."""

import pickle
import signal
import threading
import time
import tracemalloc
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.preprocessing import StandardScaler

import fastloss
from fastloss import SGDLossClassifier, SGDLossRegressor, _kernels
from fastloss._kernels.sgd import Design, RowOrder
from fastloss.linear_model.checks import encode_labels
from fastloss.losses import Huber

CLASSIFIER_LOSSES = [
    *fastloss.list_losses("binary"),
    "squared_error",
    "huber",
    "epsilon_insensitive",
    "squared_epsilon_insensitive",
]
REGRESSOR_LOSSES = [name for name in fastloss.list_losses("regression") if name != "msle"]
BOTH = pytest.mark.parametrize("how", ["auto", "schedule"])
"""For behaviour that does not depend on how a model is trained."""

PROBABILISTIC = ["log_loss", "modified_huber", "exponential", "focal", "poly1"]


@pytest.fixture
def two_classes():
    """Gaussian columns, two overlapping classes."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 6))
    return X, (X @ rng.standard_normal(6) + 0.5 * rng.standard_normal(400) > 0.3).astype(int)


@pytest.fixture
def three_classes():
    X, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(X), y


@pytest.fixture
def line():
    """A linear relation with noise, targets above 0.3."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((500, 5))
    y = X @ np.array([0.5, -0.25, 0.0, 0.75, 0.1]) + 0.05 * rng.standard_normal(500)
    return X, y - y.min() + 0.3


def classifier(how="schedule", loss="hinge", **parameters):
    """A classifier trained to the optimum (how="auto"), by scikit-learn's default schedule, or by the one named."""
    return SGDLossClassifier(loss, learning_rate="optimal" if how == "schedule" else how, **parameters)


def regressor(how="schedule", loss="squared_error", **parameters):
    """Likewise a regressor."""
    return SGDLossRegressor(loss, learning_rate="invscaling" if how == "schedule" else how, **parameters)


def quiet(estimator, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(*args, **kwargs)


def complaints(estimator, X, y):
    """What a fit says: texts of its warnings and of its error."""
    texts = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator.fit(X, y)
        except ValueError as error:
            texts.append(str(error))
    return texts + [str(warning.message) for warning in caught]


def read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


def assert_same_model(a, b):
    assert a.n_iter_ == b.n_iter_
    np.testing.assert_array_equal(a.coef_, b.coef_)
    np.testing.assert_array_equal(a.intercept_, b.intercept_)


# --------------------------------------------------------------------------------------------------------------
# Losses
# --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("loss", CLASSIFIER_LOSSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("learning_rate", ["auto", "invscaling"])
def test_every_classifier_loss_separates(loss, dtype, learning_rate, two_classes):
    X, y = two_classes
    model = quiet(SGDLossClassifier(loss=loss, learning_rate=learning_rate, random_state=0), X.astype(dtype), y)
    assert model.score(X, y) > 0.85
    assert model.coef_.dtype == model.intercept_.dtype == dtype
    assert (model.coef_.shape, model.intercept_.shape) == ((1, 6), (1,))


@pytest.mark.parametrize("loss", REGRESSOR_LOSSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@BOTH
def test_every_regressor_loss_lowers_itself(how, loss, dtype, line):
    X, y = line
    X, y = X.astype(dtype), y.astype(dtype)
    model = quiet(regressor(how, loss=loss, max_iter=200, random_state=0), X, y)
    objective = fastloss.get_loss(loss, **({"delta": 0.1} if loss == "huber" else {}))
    raw = X @ model.coef_ + model.intercept_
    constants = [objective.loss(y, np.full_like(y, c)) for c in np.linspace(-1, 4, 101)]
    assert objective.loss(y, raw) < min(constants)
    assert model.coef_.dtype == model.intercept_.dtype == model.predict(X).dtype == dtype
    assert (model.coef_.shape, model.intercept_.shape) == ((5,), (1,))


@BOTH
def test_loss_objects_and_names_agree(how, line):
    X, y = line
    by_name = regressor(how, loss="huber", epsilon=0.7, random_state=0).fit(X, y)
    assert_same_model(by_name, regressor(how, loss=Huber(delta=0.7), random_state=0).fit(X, y))
    assert_same_model(by_name, regressor(how, loss="huber", loss_params={"delta": 0.7}, random_state=0).fit(X, y))


def test_epsilon_reaches_only_the_losses_it_belongs_to():
    assert SGDLossRegressor(loss="huber", epsilon=0.7)._make_loss().delta == 0.7
    assert SGDLossRegressor(loss="epsilon_insensitive", epsilon=0.7)._make_loss().epsilon == 0.7
    assert SGDLossRegressor(loss="squared_epsilon_insensitive", epsilon=0.7)._make_loss().epsilon == 0.7
    assert SGDLossRegressor(loss="mape", epsilon=0.7)._make_loss().epsilon is None
    assert SGDLossClassifier(loss="poly1", epsilon=0.7)._make_loss().epsilon == 1.0
    assert SGDLossRegressor(loss="smooth_quantile", quantile=0.7)._make_loss().quantile == 0.7


@BOTH
def test_quantile_covers_its_share(how, line):
    X, y = line
    for quantile in (0.1, 0.8):
        model = quiet(regressor(how, loss="quantile", quantile=quantile, tol=1e-6, max_iter=300, random_state=0), X, y)
        assert abs((y <= model.predict(X)).mean() - quantile) < 0.06


@BOTH
def test_count_losses_predict_through_the_log_link(how):
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (2000, 2))
    mean = np.exp(0.5 + X @ [1.0, -0.5])
    y = rng.poisson(mean)
    model = regressor(how, loss="poisson", random_state=0).fit(X, y)
    np.testing.assert_allclose(model.coef_, [1.0, -0.5], atol=0.15)
    np.testing.assert_allclose(model.predict(X), np.exp(X @ model.coef_ + model.intercept_), rtol=1e-12)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (SGDLossRegressor(loss="msle"), "msle.*SGDLossRegressor; it takes.*huber"),
        (SGDLossRegressor(loss="hinge"), "'hinge' is not a loss of SGDLossRegressor"),
        (SGDLossRegressor(loss=fastloss.get_loss("hinge")), "kind 'binary', which SGDLossRegressor cannot train"),
        (SGDLossClassifier(loss="poisson"), "'poisson' is not a loss of SGDLossClassifier; it takes.*hinge"),
        (SGDLossClassifier(loss=fastloss.get_loss("poisson")), "kind 'regression', which SGDLossClassifier cannot"),
        (SGDLossClassifier(loss="logloss"), "'logloss' is not a loss"),
        (SGDLossRegressor(loss=Huber(), loss_params={"delta": 2.0}), "loss_params needs a loss given by name"),
        (SGDLossRegressor(loss="huber", epsilon=-1.0), "epsilon must be >= 0"),
        (SGDLossRegressor(loss="huber", epsilon=0), "huber: delta"),
        (SGDLossRegressor(loss="quantile", quantile=1.5), "quantile: quantile"),
    ],
)
def test_unsuitable_losses_are_refused_by_name(estimator, message, two_classes):
    with pytest.raises(ValueError, match=message):
        estimator.fit(*two_classes)


def test_wrong_kinds_of_loss_arguments(two_classes):
    with pytest.raises(TypeError, match="loss must be a name or a fastloss Loss, got 3"):
        SGDLossClassifier(loss=3).fit(*two_classes)
    with pytest.raises(TypeError, match="loss_params must be a dict"):
        SGDLossRegressor(loss_params=["delta"]).fit(*two_classes)
    with pytest.raises(TypeError, match="unknown parameter 'detla'"):
        SGDLossRegressor(loss="huber", loss_params={"detla": 2.0}).fit(*two_classes)


def test_targets_outside_the_domain_are_named():
    X = np.ones((5, 2))
    with pytest.raises(ValueError, match=r"y\[3\] = -1.0: poisson"):
        SGDLossRegressor(loss="poisson").fit(X, [1.0, 2.0, 0.0, -1.0, -2.0])
    with pytest.raises(ValueError, match=r"y\[0\] = 0.0: gamma"):
        SGDLossRegressor(loss="gamma").fit(X, np.zeros(5))


@BOTH
def test_msle_object_is_accepted(how, line):
    X, y = line
    model = quiet(regressor(how, loss=fastloss.get_loss("msle"), max_iter=200, tol=1e-5, random_state=0), X, y)
    assert model.score(X, y) > 0.9


@BOTH
def test_loss_parameter_that_float32_cannot_hold(how):
    X, y = np.ones((4, 1)), np.arange(4.0)
    model = regressor(how, loss=Huber(delta=1e-60), max_iter=2, tol=None)
    model.fit(X, y)
    with pytest.raises(ValueError, match="delta"):
        model.fit(X.astype(np.float32), y)


# --------------------------------------------------------------------------------------------------------------
# Data: formats, dtypes, the sparse pitfalls of PEERS
# --------------------------------------------------------------------------------------------------------------
def sparse_data(seed=0, n=300, d=40):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * (rng.random((n, d)) < 0.15)
    X[[0, 17, n - 1]] = 0  # rows without any element
    return X, X @ rng.standard_normal(d) + 0.1 * rng.standard_normal(n)


@pytest.mark.parametrize("alpha", [1e-4, 1e-3])
@BOTH
def test_p12_csr_follows_dense(how, alpha):
    """The stopping rule sees the same norm for CSR and dense rows (scikit-learn 1.9: 17 epochs against 21)."""
    X, y = sparse_data()
    for penalty in ("l2", None):
        model = regressor(how, fit_intercept=False, alpha=alpha, penalty=penalty, random_state=3)
        dense = clone(model).fit(X, y)
        sparse = clone(model).fit(sp.csr_matrix(X), y)
        assert dense.n_iter_ == sparse.n_iter_
        np.testing.assert_allclose(sparse.coef_, dense.coef_, rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@BOTH
def test_p15_int64_indices(how, dtype):
    X, y = sparse_data()
    X = sp.csr_matrix(X.astype(dtype))
    wide = sp.csr_matrix(X)
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    mixed = sp.csr_matrix(X)
    mixed.indptr = mixed.indptr.astype(np.int64)
    model = regressor(how, random_state=0).fit(X, y)
    assert_same_model(model, regressor(how, random_state=0).fit(wide, y))
    assert_same_model(model, regressor(how, random_state=0).fit(mixed, y))
    np.testing.assert_array_equal(model.predict(X), model.predict(wide))


@BOTH
def test_p16_float32_end_to_end(how, three_classes):
    X, y = three_classes
    X = X.astype(np.float32)
    for data in (X, sp.csr_matrix(X)):
        for labels in (y, y == 1):
            model = classifier(how, loss="log_loss", random_state=0).fit(data, labels)
            outputs = [model.decision_function(data), model.predict_proba(data), model.predict_log_proba(data)]
            assert {a.dtype for a in [model.coef_, model.intercept_, *outputs]} == {np.dtype(np.float32)}
        model = regressor(how, random_state=0).fit(data, y)
        assert {a.dtype for a in [model.coef_, model.intercept_, model.predict(data)]} == {np.dtype(np.float32)}


@BOTH
def test_float32_follows_float64(how, line):
    X, y = line
    model = regressor(how, tol=None, max_iter=5, random_state=0)
    for convert in (np.asarray, sp.csr_matrix):
        wide = clone(model).fit(convert(X), y)
        narrow = clone(model).fit(convert(X.astype(np.float32)), y)
        np.testing.assert_allclose(narrow.coef_, wide.coef_, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [sp.csc_matrix, sp.coo_matrix, sp.csr_array, sp.lil_matrix, sp.csc_array])
@BOTH
def test_other_sparse_formats_are_converted(how, make):
    X, y = sparse_data()
    model = regressor(how, random_state=0).fit(sp.csr_matrix(X), y)
    other = regressor(how, random_state=0).fit(make(X), y)
    assert_same_model(model, other)
    np.testing.assert_array_equal(model.predict(X), other.predict(X))
    np.testing.assert_allclose(model.predict(make(X)), other.predict(X), rtol=1e-12, atol=1e-12)


@BOTH
def test_unsorted_and_duplicate_indices_add_up(how):
    X, y = sparse_data()
    whole = sp.coo_matrix(X)
    shuffled = np.random.default_rng(0).permutation(2 * whole.nnz)
    rows, columns = np.tile(whole.row, 2)[shuffled], np.tile(whole.col, 2)[shuffled]
    halves = np.concatenate([0.25 * whole.data, 0.75 * whole.data])[shuffled]
    order = np.argsort(rows, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(X)))])
    messy = sp.csr_matrix((halves[order], columns[order], indptr), shape=X.shape)
    assert not messy.has_canonical_format
    model = regressor(how, fit_intercept=False, random_state=0)
    clean, other = clone(model).fit(sp.csr_matrix(X), y), clone(model).fit(messy, y)
    assert messy.nnz == 2 * whole.nnz
    assert clean.n_iter_ == other.n_iter_
    np.testing.assert_allclose(clean.coef_, other.coef_, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("attribute", "position", "value", "message"),
    [
        ("indices", 7, 40, r"X\.indices\[7\] = 40 is not a column of X, which has 40"),
        ("indices", 7, -1, r"X\.indices\[7\] = -1"),
        ("indptr", 3, -5, r"X\.indptr\[3\] = -5"),
        ("indptr", 300, 10**6, r"X\.indptr\[300\] = 1000000"),
        ("indptr", 0, -2, r"X\.indptr"),
    ],
)
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_broken_csr_is_refused(attribute, position, value, message, index):
    X = sp.csr_matrix(sparse_data()[0])
    X.indices, X.indptr = X.indices.astype(index), X.indptr.astype(index)
    getattr(X, attribute)[position] = value
    with pytest.raises(ValueError, match=message):
        Design(X)


@pytest.mark.parametrize(
    "convert",
    [
        lambda X: X.tolist(),
        np.asfortranarray,
        lambda X: np.repeat(X, 2, axis=1)[:, ::2],
        read_only,
        lambda X: X.astype(">f8"),
    ],
    ids=["list", "fortran", "strided", "readonly", "big-endian"],
)
@BOTH
def test_any_layout_gives_the_same_bits(how, convert, line):
    X, y = line
    model = regressor(how, random_state=0).fit(X, y)
    assert_same_model(model, regressor(how, random_state=0).fit(convert(X), y))


@BOTH
def test_c_order_input_is_not_copied(how):
    X = np.random.default_rng(0).standard_normal((100_000, 50))
    y = X[:, 0] > 0
    model = classifier(how, tol=None, max_iter=1)
    model.fit(X[:100], y[:100])
    tracemalloc.start()
    model.fit(X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.15 * X.nbytes


@BOTH
def test_column_names_are_checked(how, line):
    pd = pytest.importorskip("pandas")
    X, y = line
    frame = pd.DataFrame(X, columns=list("abcde"))
    model = regressor(how, random_state=0).fit(frame, y)
    assert list(model.feature_names_in_) == list("abcde")
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[list("edcba")])


# --------------------------------------------------------------------------------------------------------------
# Order, threads, instruction sets
# --------------------------------------------------------------------------------------------------------------
def test_row_order_is_a_fresh_uniform_permutation():
    order = RowOrder(1000, 5)
    first, second = order.permutation(), order.permutation()
    np.testing.assert_array_equal(np.sort(first), np.arange(1000))
    np.testing.assert_array_equal(np.sort(second), np.arange(1000))
    assert (first != second).mean() > 0.99
    np.testing.assert_array_equal(RowOrder(1000, 5).permutation(), first)
    np.testing.assert_array_equal(RowOrder(4).permutation(), np.arange(4))
    small = RowOrder(4, 0)
    counts = np.unique([small.permutation() @ [64, 16, 4, 1] for _ in range(24_000)], return_counts=True)[1]
    assert len(counts) == 24
    assert ((counts - 1000) ** 2 / 1000).sum() < 60  # chi-square, 23 degrees of freedom: 60 has probability 4e-5


def test_random_state_and_shuffle(two_classes):
    X, y = two_classes
    model = classifier(loss="log_loss", random_state=1)
    assert_same_model(clone(model).fit(X, y), clone(model).fit(X, y))
    assert_same_model(clone(model).fit(X, y), clone(model).set_params(random_state=np.random.RandomState(1)).fit(X, y))
    assert (clone(model).fit(X, y).coef_ != clone(model).set_params(random_state=2).fit(X, y).coef_).any()
    fixed = classifier(loss="log_loss", shuffle=False)
    assert_same_model(
        clone(fixed).set_params(random_state=1).fit(X, y), clone(fixed).set_params(random_state=2).fit(X, y)
    )


@pytest.mark.parametrize("convert", [np.asarray, sp.csr_matrix])
@BOTH
def test_n_threads_does_not_change_a_bit(how, convert):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((8000, 30))  # enough for threads to be used
    y = (X @ rng.standard_normal((30, 7))).argmax(axis=1)
    model = classifier(how, loss="log_loss", random_state=0, max_iter=6)
    one = quiet(clone(model).set_params(n_threads=1), convert(X), y)
    for n_threads in (None, 2, 3, 8):
        assert_same_model(one, quiet(clone(model).set_params(n_threads=n_threads), convert(X), y))


def test_the_optimum_does_not_depend_on_row_order_parameters(two_classes):
    X, y = two_classes
    for loss in ("log_loss", "hinge"):
        model = SGDLossClassifier(loss, random_state=1).fit(X, y)
        assert_same_model(model, SGDLossClassifier(loss, random_state=2, shuffle=False, batch_size=7).fit(X, y))


def test_one_vs_rest_to_the_optimum_is_one_binary_fit_per_class(three_classes):
    """The certificate is about the sum of the objectives, so the binary fits may be a little closer or farther."""
    X, y = three_classes
    for loss in ("log_loss", "hinge", "squared_hinge"):
        model = SGDLossClassifier(loss, tol=1e-5, alpha=1e-3, max_iter=10_000).fit(X, y)
        total = best = 0.0
        for k in range(3):
            binary = SGDLossClassifier(loss, tol=1e-5, alpha=1e-3, max_iter=10_000).fit(X, y == k)
            objective = fastloss.LinearObjective(X, np.where(y == k, 1, -1), loss, alpha=1e-3)
            total += objective(np.append(model.coef_[k], model.intercept_[k]))[0]
            best += objective(np.append(binary.coef_, binary.intercept_))[0]
        assert abs(total - best) <= 1e-4 * best


def test_one_vs_rest_is_one_binary_fit_per_class(three_classes):
    """Same row order for all classes, so each of the models is exactly the binary one."""
    X, y = three_classes
    model = classifier(loss="log_loss", random_state=0).fit(X, y)
    assert (model.coef_.shape, model.intercept_.shape) == ((3, 4), (3,))
    binary = [classifier(loss="log_loss", random_state=0).fit(X, y == k) for k in range(3)]
    np.testing.assert_array_equal(model.coef_, np.vstack([b.coef_ for b in binary]))
    np.testing.assert_array_equal(model.intercept_, np.concatenate([b.intercept_ for b in binary]))
    assert model.n_iter_ == max(b.n_iter_ for b in binary)
    assert model.t_ == 1 + 150 * model.n_iter_
    assert model.score(X, y) > 0.8


def test_instruction_sets_agree(two_classes):
    X, y = two_classes
    models = []
    for isa in _kernels.available_isas():
        with _kernels.use_isa(isa):
            models.append(SGDLossClassifier(loss="log_loss", learning_rate="invscaling", random_state=0).fit(X, y))
    for model in models:
        np.testing.assert_allclose(model.coef_, models[0].coef_, rtol=1e-10)


@pytest.mark.parametrize("isa", _kernels.available_isas())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [1, 3, 16, 23, 54, 300])
@pytest.mark.parametrize("loss", ["log_loss", "hinge"])
def test_groups_of_rows_are_plain_sgd(loss, d, dtype, isa):
    """Dense rows are updated in groups, sparse ones one by one.  The penalty is so strong that scales are folded."""
    rng = np.random.default_rng(d)
    X = (rng.standard_normal((203, d)) / np.sqrt(d)).astype(dtype)
    y = (X @ rng.standard_normal((d, 3))).argmax(axis=1)
    weight = rng.uniform(0.2, 2.0, 203)
    model = SGDLossClassifier(
        loss=loss, learning_rate="constant", eta0=0.3, alpha=0.1, fit_intercept=False, random_state=0, max_iter=20
    )
    for data in (y, y == y[0]):
        for tol in (None, 1e-3):
            with _kernels.use_isa(isa):
                dense = quiet(clone(model).set_params(tol=tol), X, data, sample_weight=weight)
                sparse = quiet(clone(model).set_params(tol=tol), sp.csr_matrix(X), data, sample_weight=weight)
            assert dense.n_iter_ == sparse.n_iter_
            rounding = 1e-4 if dtype == np.float32 else 1e-11
            np.testing.assert_allclose(dense.coef_, sparse.coef_, rtol=0, atol=rounding * np.abs(sparse.coef_).max())


# --------------------------------------------------------------------------------------------------------------
# Weights
# --------------------------------------------------------------------------------------------------------------
def test_weights_scale_the_step(line):
    X, y = line
    model = SGDLossRegressor(learning_rate="constant", penalty=None, tol=None, max_iter=3, shuffle=False)
    halved = clone(model).set_params(eta0=0.005).fit(X, y)
    np.testing.assert_allclose(clone(model).fit(X, y, sample_weight=np.full(500, 0.5)).coef_, halved.coef_, rtol=1e-12)
    np.testing.assert_allclose(clone(model).fit(X, y, sample_weight=0.5).coef_, halved.coef_, rtol=1e-12)


@BOTH
def test_zero_weight_rows_do_not_pull(how, line):
    X, y = line
    weight = np.ones(500)
    weight[::3] = 0
    spoiled = np.where(weight == 0, 1e6, y)
    model = regressor(how, tol=None, max_iter=3, shuffle=False)
    assert_same_model(clone(model).fit(X, y, sample_weight=weight), clone(model).fit(X, spoiled, sample_weight=weight))


@BOTH
def test_class_weight_moves_the_boundary(how, two_classes):
    X, y = two_classes
    model = classifier(how, loss="log_loss", random_state=0)
    shares = [clone(model).set_params(class_weight=w).fit(X, y).predict(X).mean() for w in ({0: 5.0}, None, {1: 5.0})]
    assert shares[0] < shares[1] < shares[2]


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1.0, -1.0, 1.0, -2.0], r"sample_weight\[1\] = .*-1.0.* is negative"),
        ([1.0, np.nan, 1.0, 1.0], "sample_weight contains NaN"),
        ([1.0, np.inf, 1.0, 1.0], "sample_weight contains infinity"),
        ([0.0, 0.0, 0.0, 0.0], "all of sample_weight is zero"),
        ([1.0, 1.0, 1.0], "sample_weight has 3 elements, X has 4 rows"),
        (np.ones((4, 1)), r"sample_weight must be 1D array or scalar, got shape \(4, 1\)"),
        (["a", "b", "c", "d"], "could not convert string to float"),
    ],
)
def test_bad_weights(weight, message):
    X = np.array([[0.0], [1.0], [2.0], [3.0]])
    for model in (SGDLossRegressor(), SGDLossClassifier()):
        with pytest.raises(ValueError, match=message):
            model.fit(X, [0, 0, 1, 1], sample_weight=weight)


def test_weights_that_float32_cannot_hold():
    X, y = np.ones((4, 1), dtype=np.float32), np.arange(4.0)
    for weight, eta0 in ((1e-60, 1e58), (1e60, 1e-62)):
        model = SGDLossRegressor(learning_rate="constant", eta0=eta0, penalty=None, tol=None, max_iter=3, shuffle=False)
        unweighted = clone(model).set_params(eta0=0.01).fit(X, y)
        weighted = model.fit(X, y, sample_weight=np.full(4, weight))
        np.testing.assert_allclose(weighted.coef_, unweighted.coef_, rtol=1e-5)


def test_bad_class_weight(two_classes):
    for bad in ({0: -1.0}, {0: np.nan}):
        with pytest.raises(ValueError, match="class_weight must be >= 0 and finite"):
            SGDLossClassifier(class_weight=bad).fit(*two_classes)
    with pytest.raises(ValueError, match="class_weight"):
        SGDLossClassifier(class_weight="unbalanced").fit(*two_classes)


# --------------------------------------------------------------------------------------------------------------
# Stopping and diverging
# --------------------------------------------------------------------------------------------------------------
@BOTH
def test_running_out_of_epochs_is_said(how, line):
    X, y = line
    with pytest.warns(ConvergenceWarning, match="max_iter=2"):
        model = regressor(how, max_iter=2).fit(X, y)
    assert (model.n_iter_, model.t_) == (2, 1001.0)


def test_tol_none_runs_all_epochs_silently(line):
    X, y = line
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert regressor(max_iter=23, tol=None).fit(X, y).n_iter_ == 23


def test_patience_and_adaptive_steps(line):
    X, y = line
    quick = regressor(n_iter_no_change=1, random_state=0).fit(X, y)
    slow = regressor(n_iter_no_change=10, random_state=0).fit(X, y)
    assert quick.n_iter_ < slow.n_iter_
    adaptive = regressor("adaptive", eta0=0.1, random_state=0).fit(X, y)
    assert adaptive.n_iter_ >= 5 * 8  # 0.1 is divided by 5 eight times before it is below 1e-6


@pytest.mark.parametrize("loss", ["squared_error", "squared_hinge"])
def test_p8_a_diverged_classifier_says_so(loss):
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    for seed in range(3):
        with pytest.warns(ConvergenceWarning, match="diverged.*1e12.*eta0"):
            classifier(loss=loss, random_state=seed).fit(X, y)


@pytest.mark.parametrize("scale", [100.0, 1e3, 1e5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_p9_a_diverged_regressor_says_so(scale, dtype, line):
    X, y = line
    assert any("diverged" in text for text in complaints(regressor(random_state=0), (scale * X).astype(dtype), y))


@BOTH
def test_overflow_is_an_error_and_leaves_the_last_model(how, line):
    X, y = line
    model = regressor(how, random_state=0).fit(X, y)
    before = model.coef_
    epoch = r"\d+" if how == "auto" else "1"
    with pytest.raises(ValueError, match=rf"overflow occurred at epoch #{epoch}\..*StandardScaler.*diverged"):
        model.fit(1e200 * X, y)
    assert model.coef_ is before


@BOTH
def test_warnings_as_errors_leave_a_whole_model(how, three_classes, line):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for model, (X, y) in ((classifier(how, max_iter=2), three_classes), (regressor(how, max_iter=2), line)):
            with pytest.raises(ConvergenceWarning):
                model.fit(X, y)
            assert model.predict(X).shape == y.shape
            assert model.n_iter_ == 2


@BOTH
def test_warning_points_at_the_caller(how, line):
    with pytest.warns(ConvergenceWarning) as caught:
        regressor(how, max_iter=2).fit(*line)
    assert caught[0].filename == __file__


@BOTH
def test_control_c_stops_a_long_fit(how):
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread only")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20_000, 50))
    labels = X[:, :5].argmax(axis=1)
    for model, data, y in (
        (classifier(how), X, X[:, 0] > 0),
        (classifier(how), X, labels),
        (classifier(how, "cross_entropy", penalty="l1", batch_size=100_000), X, labels),
        (classifier(how, "cross_entropy"), np.asfortranarray(X), labels),
        (classifier(how, penalty="elasticnet", average=True), sp.csr_matrix(X), labels),
    ):
        model.set_params(tol=None, max_iter=10**6)
        timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
        timer.start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            model.fit(data, y)
        assert time.monotonic() - started < 1.3
        timer.join()
        with pytest.raises(NotFittedError):
            model.predict(data)
        model.set_params(max_iter=2).fit(data, y).predict(data)


@BOTH
def test_control_c_leaves_the_last_model(how):
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread only")
    X = np.random.default_rng(0).standard_normal((20_000, 50))
    model = regressor(how, tol=None, max_iter=2, average=True, penalty="l1", warm_start=True).fit(X, X[:, 0])
    before = pickle.dumps(model)
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        model.set_params(max_iter=10**6).fit(X, X[:, 1])
    timer.join()
    model.set_params(max_iter=2)
    same = pickle.loads(before)
    np.testing.assert_array_equal(model.predict(X), same.predict(X))
    model.set_params(random_state=0).partial_fit(X, X[:, 0])
    np.testing.assert_array_equal(model.coef_, same.set_params(random_state=0).partial_fit(X, X[:, 0]).coef_)


@BOTH
def test_verbose_writes_a_line_per_epoch(how, line, three_classes, capsys):
    for model, loss, data in ((regressor, "log_cosh", line), (classifier, "log_loss", three_classes)):
        fitted = quiet(model(how, max_iter=6, tol=None, verbose=1).set_params(loss=loss), *data)
        output = capsys.readouterr()
        lines = output.err.splitlines()
        assert output.out == ""
        assert len(lines) == len(fitted.objective_curve_) > 1
        assert f"epoch {fitted.n_iter_}: " in lines[-1]
        assert all(text in lines[-1] for text in ("loss ", "objective "))
        assert ("step size " in lines[-1]) == (how == "schedule")
        assert "nan" not in output.err


# --------------------------------------------------------------------------------------------------------------
# Predictions
# --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("loss", PROBABILISTIC)
@pytest.mark.parametrize("learning_rate", ["auto", "invscaling"])
def test_probabilities(loss, learning_rate, two_classes, three_classes):
    for X, y in (two_classes, three_classes):
        model = quiet(SGDLossClassifier(loss=loss, learning_rate=learning_rate, random_state=0), X, y)
        probability = model.predict_proba(X)
        np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-12)
        assert ((probability >= 0) & (probability <= 1)).all()
        np.testing.assert_array_equal(np.exp(model.predict_log_proba(X)) > 0, probability > 0)
        if len(model.classes_) == 2:
            np.testing.assert_array_equal(model.predict(X), probability.argmax(axis=1))


@pytest.mark.parametrize("loss", [name for name in CLASSIFIER_LOSSES if name not in PROBABILISTIC])
def test_no_probabilities(loss, two_classes):
    model = SGDLossClassifier(loss=loss)
    assert not hasattr(model, "predict_proba")
    assert not hasattr(model, "predict_log_proba")
    with pytest.raises(AttributeError):
        model.predict_proba(two_classes[0])


@BOTH
def test_p42_probabilities_of_huge_margins(how, three_classes):
    """Rows sum to 1 also where every one-vs-rest probability is 0."""
    X, y = three_classes
    for loss in ("modified_huber", "log_loss"):
        model = classifier(how, loss=loss, random_state=0).fit(X, y)
        model.intercept_ = np.full(3, -1e308)
        np.testing.assert_allclose(model.predict_proba(X), 1 / 3)
        model.intercept_ = np.full(3, 1e308)
        np.testing.assert_allclose(model.predict_proba(X), 1 / 3)


@pytest.mark.parametrize("labels", [["ham", "spam"], [-1, 1], [False, True], [3.0, 7.0], [10, 20, 30]])
@BOTH
def test_any_labels(how, labels):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, len(labels)))
    y = np.array(labels)[X.argmax(axis=1)]
    model = classifier(how, random_state=0).fit(X, y)
    np.testing.assert_array_equal(model.classes_, np.unique(y))
    assert model.predict(X).dtype == y.dtype
    assert model.score(X, y) > 0.8


@pytest.mark.parametrize(
    "y",
    [
        np.array([127, -128, 0, 127, -128, 0], dtype=np.int8),
        np.array([250, 0, 250, 0], dtype=np.uint8),
        np.array([2**63 - 2, 2**63 - 1] * 3),
        np.array([-(2**63), 2**63 - 1] * 3),
        np.array([2**64 - 1, 2**64 - 2] * 3, dtype=np.uint64),
        np.array([True, False, True, True]),
        np.array([5, 3, 3, 9, 3, 5, 100_000]),
        np.array([5.0, 3.0, 3.0, 5.0]),
        np.array(["b", "a", "b"]),
        np.array(["b", "a", "b"], dtype=object),
    ],
    ids=str,
)
def test_labels_are_encoded_as_numpy_unique_does(y):
    classes, codes = encode_labels(y)
    expected_classes, expected_codes = np.unique(y, return_inverse=True)
    assert classes.dtype == y.dtype
    assert codes.dtype == np.int32
    np.testing.assert_array_equal(classes, expected_classes)
    np.testing.assert_array_equal(codes, expected_codes)


def test_integers_that_look_like_a_regression_target_are_warned_about():
    X = np.random.default_rng(0).standard_normal((30, 2))
    with pytest.warns(UserWarning, match="unique classes is greater than 50%"):
        SGDLossClassifier(max_iter=2, tol=None).fit(X, np.arange(30))


def test_predictions_need_a_fit(line):
    for model, method in [
        (SGDLossRegressor(), "predict"),
        (SGDLossClassifier(), "predict"),
        (SGDLossClassifier(), "decision_function"),
        (SGDLossClassifier(loss="log_loss"), "predict_proba"),
    ]:
        with pytest.raises(NotFittedError):
            getattr(model, method)(line[0])


@BOTH
def test_changing_parameters_after_fit_keeps_predictions(how, line):
    X, y = line
    model = regressor(how, loss="poisson", random_state=0).fit(X, y)
    before = model.predict(X)
    np.testing.assert_array_equal(model.set_params(loss="huber").predict(X), before)


# --------------------------------------------------------------------------------------------------------------
# Edges of data
# --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("model", [SGDLossClassifier(), SGDLossRegressor()])
def test_nan_and_inf_are_refused(bad, model):
    X, y = np.arange(8.0).reshape(4, 2), np.array([0.0, 1.0, 0.0, 1.0])
    broken = X.copy()
    broken[2, 1] = bad
    for data in (broken, sp.csr_matrix(broken), broken.astype(np.float32)):
        with pytest.raises(ValueError, match="Input X contains"):
            model.fit(data, y)
    with pytest.raises(ValueError, match=r"Input y contains|Unknown label type"):
        model.fit(X, np.array([0.0, bad, 0.0, 1.0]))
    with pytest.raises(ValueError, match="Input X contains"):
        model.fit(X, y).predict(broken)


def test_one_class_is_an_error():
    with pytest.raises(ValueError, match="at least two classes, got one class"):
        SGDLossClassifier().fit(np.eye(3), [1, 1, 1])


def test_continuous_labels_are_an_error():
    with pytest.raises(ValueError, match="Unknown label type"):
        SGDLossClassifier().fit(np.eye(3), [0.1, 0.2, 0.3])


@pytest.mark.parametrize("model", [SGDLossClassifier(), SGDLossRegressor()])
def test_impossible_shapes(model):
    with pytest.raises(ValueError, match="0 feature"):
        model.fit(np.empty((4, 0)), [0, 1, 0, 1])
    with pytest.raises(ValueError, match="0 feature"):
        model.fit(sp.csr_matrix((4, 0)), [0, 1, 0, 1])
    with pytest.raises(ValueError, match="0 sample"):
        model.fit(np.empty((0, 3)), [])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(np.eye(3), [0, 1])
    if isinstance(model, SGDLossClassifier):
        with pytest.raises(ValueError, match="y should be a 1d array"):
            model.fit(np.eye(3), np.eye(3))
    with pytest.raises(ValueError, match="dim"):
        model.fit(np.eye(3), np.ones((3, 2, 2)))
    model.fit(np.eye(4), [0, 1, 0, 1])
    with pytest.raises(ValueError, match="expecting 4 features"):
        model.predict(np.eye(3))


@BOTH
def test_constant_columns_and_constant_targets(how):
    X = np.column_stack([np.ones(50), np.zeros(50), np.linspace(-1, 1, 50)])
    model = regressor(how, random_state=0).fit(X, np.full(50, 3.0))
    assert np.isfinite(model.coef_).all()
    assert model.coef_[1] == 0
    np.testing.assert_allclose(model.predict(X), 3.0, atol=0.2)
    for loss in ("huber", "absolute_error", "quantile"):
        assert np.isfinite(quiet(regressor(how, loss=loss, random_state=0), X, np.full(50, 3.0)).coef_).all()
    assert np.isfinite(classifier(how, random_state=0).fit(X, X[:, 2] > 0).coef_).all()


@BOTH
def test_single_sample_and_single_column(how):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = regressor(how, random_state=0, tol=None).fit([[2.0]], [4.0])
    np.testing.assert_allclose(model.predict([[2.0]]), 4.0, atol=0.05)
    empty = regressor(how, random_state=0).fit(sp.csr_matrix((5, 3)), np.ones(5))
    np.testing.assert_array_equal(empty.coef_, np.zeros(3))


@pytest.mark.parametrize("alpha", [0.0, 1e-300, 1e-12, 1e6, 1e300])
@BOTH
def test_extreme_alpha(how, alpha, line):
    X, y = line
    model = regressor(how, alpha=alpha, random_state=0).fit(X, y)
    assert np.isfinite(model.coef_).all()
    if alpha >= 1e6:
        assert np.abs(model.coef_).max() < 0.1
    else:
        assert model.score(X, y) > 0.95


def test_extreme_alpha_with_the_optimal_schedule(two_classes):
    X, y = two_classes
    for alpha in (1e-12, 1e6):
        assert np.isfinite(quiet(classifier(alpha=alpha, max_iter=5, random_state=0), X, y).coef_).all()


# --------------------------------------------------------------------------------------------------------------
# Parameters and start values
# --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"penalty": "l3"}, ValueError, "penalty must be one of 'l2', 'l1', 'elasticnet', None, got 'l3'"),
        ({"learning_rate": "fast"}, ValueError, "learning_rate must be one of 'auto', 'constant', 'optimal'"),
        ({"learning_rate": 3}, ValueError, "learning_rate must be one of"),
        ({"alpha": -1.0}, ValueError, r"alpha must be >= 0 and finite, got -1\.0"),
        ({"alpha": np.nan}, ValueError, "alpha must be >= 0 and finite, got nan"),
        ({"alpha": "1"}, TypeError, "alpha must be a real number, got '1'"),
        ({"alpha": 0, "learning_rate": "optimal"}, ValueError, "alpha must be > 0 with learning_rate='optimal'"),
        ({"eta0": 0.0}, ValueError, "eta0 must be > 0"),
        ({"power_t": np.inf}, ValueError, "power_t must be finite"),
        ({"max_iter": 0}, ValueError, "max_iter must be >= 1"),
        ({"max_iter": 2.5}, TypeError, "max_iter must be an integer"),
        ({"tol": -1e-3}, ValueError, "tol must be >= 0"),
        ({"n_iter_no_change": 0}, ValueError, "n_iter_no_change must be >= 1"),
        ({"fit_intercept": "yes"}, TypeError, "fit_intercept must be True or False"),
        ({"shuffle": None}, TypeError, "shuffle must be True or False"),
        ({"n_threads": 0}, ValueError, "n_threads"),
        ({"n_threads": 1.5}, TypeError, "n_threads"),
        ({"random_state": "seed"}, ValueError, "seed"),
    ],
)
@BOTH
def test_bad_parameters_are_named(how, parameters, error, message, line):
    X, y = line
    with pytest.raises(error, match=message):
        regressor(how).set_params(**parameters).fit(X, y)
    with pytest.raises(error, match=message):
        classifier(how).set_params(**parameters).fit(X, y > 1)


def test_start_values_continue_a_fit(line):
    X, y = line
    model = regressor("constant", shuffle=False, tol=None)
    first = clone(model).set_params(max_iter=2).fit(X, y)
    coef = first.coef_.copy()
    second = clone(model).set_params(max_iter=3).fit(X, y, coef_init=coef, intercept_init=first.intercept_)
    np.testing.assert_array_equal(coef, first.coef_)  # the caller's array is left alone
    whole = clone(model).set_params(max_iter=5).fit(X, y)
    np.testing.assert_allclose(second.coef_, whole.coef_, rtol=1e-12)
    np.testing.assert_allclose(second.intercept_, whole.intercept_, rtol=1e-12)


def test_bad_start_values(line, three_classes):
    X, y = line
    with pytest.raises(ValueError, match=r"coef_init has shape \(3,\).*expected \(1, 5\)"):
        SGDLossRegressor().fit(X, y, coef_init=np.ones(3))
    with pytest.raises(ValueError, match="intercept_init has shape"):
        SGDLossRegressor().fit(X, y, intercept_init=np.ones(2))
    with pytest.raises(ValueError, match="coef_init contains NaN"):
        SGDLossRegressor().fit(X, y, coef_init=np.full(5, np.nan))
    with pytest.raises(ValueError, match=r"coef_init has shape \(4, 3\).*expected \(3, 4\)"):
        SGDLossClassifier().fit(*three_classes, coef_init=np.ones((4, 3)))


@BOTH
def test_intercept_is_left_alone_without_fit_intercept(how, line):
    X, y = line
    assert regressor(how, fit_intercept=False).fit(X, y).intercept_ == 0
    assert regressor(how, fit_intercept=False).fit(X, y, intercept_init=[0.5]).intercept_ == 0.5


@BOTH
def test_pickle_and_clone(how, three_classes, line):
    for model, (X, y) in [
        (classifier(how, loss=fastloss.get_loss("focal", gamma=1.0), random_state=0), three_classes),
        (regressor(how, loss="tweedie", loss_params={"power": 1.3}, random_state=0), line),
    ]:
        quiet(model, X, y)
        restored = pickle.loads(pickle.dumps(model))
        assert_same_model(model, restored)
        np.testing.assert_array_equal(model.predict(X), restored.predict(X))
        copy = clone(model)
        assert copy.get_params() == model.get_params()
        assert not hasattr(copy, "coef_")
        assert_same_model(model, quiet(copy, X, y))


@BOTH
def test_refit_forgets(how, line):
    X, y = line
    model = regressor(how, random_state=0).fit(X[:, :2], 10 * y)
    assert_same_model(model.fit(X, y), regressor(how, random_state=0).fit(X, y))
