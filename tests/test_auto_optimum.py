"""learning_rate="auto" ends close to the optimum of its own objective, whatever the data, and never claims it wrongly.

Every fit is compared with `reference_optimum`.  `converged_` must be true only within tol of it; where it is false,
there must have been a warning.
"""

import functools
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import threadpoolctl
from reference_optimum import objective, optimum, softmax_optimum
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning

from fastloss import SGDLossClassifier, SGDLossRegressor

WANTED = 1e-3
# Optima below this part of the best constant's objective: nearly separable classes, more columns than rows.
NEARLY_ZERO = 1e-3


@pytest.fixture(autouse=True, scope="module")
def one_blas_thread():
    """The references' many small products wake threads that then wait for each other: minutes instead of seconds."""
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield


FOLDER = Path(os.environ.get("FASTLOSS_DATA") or Path(__file__).parents[2] / "shared" / "data")
SCALES = ("raw", "random", "1e6", "1e-6")
BINARY = ("log_loss", "hinge", "squared_hinge")
REGRESSION = ("squared_error", "huber", "quantile-0.1", "quantile-0.5", "quantile-0.9")


# ------------------------------------------------------------------------------------------------- data
@functools.cache
def real(name):
    """A table of the folder of real data: X (float32 or CSR), y, the rest."""
    path = FOLDER / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"{name}.npz is not in {FOLDER}; FASTLOSS_DATA names the folder of real tables")
    with np.load(path, allow_pickle=False) as file:
        found = dict(file)
    X = found.pop("X", None)
    if X is None:
        parts = tuple(found.pop(key) for key in ("data", "indices", "indptr"))
        X = sp.csr_matrix((parts[0].astype(np.float32), *parts[1:]), shape=tuple(found.pop("shape")))
    return X.astype(np.float32), found.pop("y"), found


BUNDLED = {
    "breast_cancer": lambda y: y == 1,
    "iris": lambda y: y == 1,
    "wine": lambda y: y == 0,
    "digits": lambda y: y % 2 == 1,
}
TWO_CLASSES = {
    "covtype": lambda y: y == 2,
    "creditcard": lambda y: y == 1,
    "a9a": lambda y: y > 0,
    "electricity": lambda y: y > 0,
    "kddcup99_10pct": lambda y: y != 16,  # 16 is "normal."
    "mnist": lambda y: y % 2 == 1,
}
BINARY_SETS = (*BUNDLED, *TWO_CLASSES)
REGRESSION_SETS = ("diabetes", "linnerud", "california_housing", "bike_sharing_hour", "abalone", "nycflights13")


@functools.cache
def table(name, most=2000):
    """X in float64 or CSR, and y (±1 for classes), of at most `most` rows evenly spread."""
    if name in BUNDLED:
        X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    elif name == "diabetes":
        X, y = datasets.load_diabetes(return_X_y=True, scaled=False)
    elif name == "linnerud":
        X, y = datasets.load_linnerud(return_X_y=True)
        y = y[:, 0]
    else:
        X, y, _ = real(name)
    if name in BINARY_SETS:
        y = np.where({**BUNDLED, **TWO_CLASSES}[name](y), 1.0, -1.0)
    if name == "mnist" and len(y) > most:
        X = X[:, ::5]  # the reference takes the cube of their number
    some = np.unique(np.linspace(0, len(y) - 1, most).astype(int)) if len(y) > most else slice(None)
    return X[some].astype(np.float64), np.asarray(y, np.float64)[some]


def scaled(X, scale):
    """X with its columns multiplied."""
    d = X.shape[1]
    factors = 10.0 ** np.random.default_rng(0).uniform(-3, 3, d) if scale == "random" else np.full(d, 1.0)
    factors = factors if scale in ("raw", "random") else np.full(d, float(scale))
    return (X @ sp.diags(factors)).tocsr() if sp.issparse(X) else X * factors


def parameters_of(loss, y):
    """The name, and the parameters of reference and of estimator."""
    if loss.startswith("quantile"):
        return "quantile", {"quantile": float(loss[9:])}, {"quantile": float(loss[9:])}
    if loss == "huber":
        delta = float(np.std(y))
        return loss, {"delta": delta}, {"epsilon": delta}
    return loss, {}, {}


# ------------------------------------------------------------------------------------------------- comparison
@dataclass
class Known:
    """What is known of an optimum."""

    value: float
    constant: float


def fitted(model, X, y, **arguments):
    """The model, fitted, and whether it warned that it did not converge; other warnings are errors."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, y, **arguments)
    others = [w for w in caught if not issubclass(w.category, ConvergenceWarning)]
    assert not others, [str(w.message) for w in others]
    return model, len(caught) > 0


def relative_gap(loss, X, y, model, best, *, signed=None, **options):
    """How far a model is from the optimum, relative to what tol is relative to."""
    coef = model.coef_.toarray() if sp.issparse(model.coef_) else model.coef_
    coef = coef[0] if coef.ndim == 2 and len(coef) == 1 else coef
    value = objective(loss, X, y, coef, model.intercept_.ravel(), **options)
    # the sum of n terms of the constant's size is known to rounding
    least = 1e3 * np.finfo(model.coef_.dtype).eps * abs(best.constant) + 1e-300
    signed = loss in ("poisson", "gamma") if signed is None else signed
    return (value - best.value) / max(best.constant - value if signed else value, least)


def check(loss, X, y, model, best, *, wanted=WANTED, **options):
    """Fit; the gap must be within `wanted`, and converged_ right.  Returns the gap."""
    given = {key: options[key] for key in ("offset",) if key in options}
    if options.get("weight") is not None:
        given["sample_weight"] = options["weight"]
    model, warned = fitted(model, X, y, **given)
    gap = relative_gap(loss, X, y, model, best, **options)
    assert warned == (model.tol is not None and not model.converged_)
    assert model.n_iter_ <= model.max_iter
    if best.value < NEARLY_ZERO * best.constant:
        wanted = np.inf  # separable classes, more columns than rows: that converged_ is right is what is promised
    if model.converged_:
        assert gap <= model.tol, f"{gap:.2e} after {model.n_iter_} passes, and yet converged_ with tol={model.tol}"
    assert gap <= wanted, f"{gap:.2e} after {model.n_iter_} passes"
    return gap


@functools.cache
def best_of(loss, name, scale, dtype, alpha, most=2000):
    X, y = table(name, most)
    X = scaled(X, scale).astype(dtype)
    y = y.astype(dtype)
    plain, of_reference, of_model = parameters_of(loss, y)
    return X, y, plain, of_reference, of_model, optimum(plain, X, y, alpha=alpha, **of_reference)


def estimator(loss, alpha=1e-4, **parameters):
    kind = SGDLossClassifier if loss in (*BINARY, "cross_entropy", "multiclass_hinge") else SGDLossRegressor
    return kind(loss, alpha=alpha, **parameters)


def cases():
    return [(loss, name) for name in BINARY_SETS for loss in BINARY] + [
        (loss, name)
        for name in REGRESSION_SETS
        for loss in (
            *REGRESSION,
            *(("poisson",) if name in ("diabetes", "linnerud", "bike_sharing_hour", "abalone") else ()),
        )
    ]


# ------------------------------------------------------------------------------------------------- every data set
SMALL = [name for name in BINARY_SETS if name not in ("mnist", "kddcup99_10pct", "creditcard")]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    ("loss", "name"), [(loss, name) for loss, name in cases() if name in (*SMALL, *REGRESSION_SETS)]
)
def test_gap_is_a_thousandth_on_any_scale(loss, name, scale, dtype):
    """At most 2000 rows of every set."""
    X, y, plain, of_reference, of_model, best = best_of(loss, name, scale, dtype, 1e-4)
    assert best.gap <= 1e-5 * abs(best.constant)  # an upper bound all the same: no fit is failed wrongly
    check(plain, X, y, estimator(plain, **of_model), best, alpha=1e-4, **of_reference)


@pytest.mark.parametrize("tol", [1e-2, 1e-4])
@pytest.mark.parametrize("scale", ["raw", "random", "1e6"])
@pytest.mark.parametrize(("loss", "name"), cases())
def test_the_certificate_never_lies(loss, name, scale, tol):
    """Also where separable classes leave hardly anything of the objective: nearly so in creditcard, kddcup99, mnist."""
    most = 300 if name == "mnist" else 1000
    for dtype in ("float32", "float64"):
        X, y, plain, of_reference, of_model, best = best_of(loss, name, scale, dtype, 1e-4, most)
        model = estimator(plain, tol=tol, **of_model)
        check(plain, X, y, model, best, wanted=np.inf, alpha=1e-4, **of_reference)


# Whole tables in float32, raw: the least objectives with alpha = 1e-4, from `optimum`, some of which take minutes.
LARGE = {
    ("electricity", "log_loss"): (0.5683302451597809, 0.6817167611525975),
    ("electricity", "hinge"): (0.6348542252527664, 0.8490907485931096),
    ("electricity", "squared_hinge"): (0.7056996264754589, 0.9772263978381401),
    ("creditcard", "log_loss"): (0.0040281364500332475, 0.012714681335936156),
    ("creditcard", "squared_hinge"): (0.00282737901808957, 0.006898005696064139),
    ("a9a", "log_loss"): (0.32441304411196165, 0.5520112931915919),
    ("a9a", "hinge"): (0.3517212194181236, 0.48161911489252085),
    ("a9a", "squared_hinge"): (0.4222262552137326, 0.731281257954697),
    ("covtype", "log_loss"): (0.5186209742824793, 0.6928395905020593),
    ("covtype", "hinge"): (0.585225451967375, 0.975198446847966),
    ("covtype", "squared_hinge"): (0.6951805469193504, 0.9993848829612444),
    ("kddcup99_10pct", "log_loss"): (0.01728563588945962, 0.4960897443900485),
    ("kddcup99_10pct", "squared_hinge"): (0.013923610480885197, 0.6325474022010925),
    ("nycflights13", "squared_error"): (152.02279377852514, 996.0623206991754),
    ("nycflights13", "huber"): (144.11105924336272, 580.9066401457918),
    ("nycflights13", "quantile-0.1"): (2.4384284076113936, 4.10196855926171),
    ("nycflights13", "quantile-0.9"): (3.516427441707853, 10.443300972060173),
    ("nycflights13", "quantile-0.5"): (6.278032705470733, 12.732655966476894),
}


@pytest.mark.parametrize(("name", "loss"), LARGE)
def test_whole_tables(name, loss):
    X, y = table(name, sys.maxsize)
    X, y = X.astype(np.float32), y.astype(np.float32)
    value, constant = LARGE[name, loss]
    plain, of_reference, of_model = parameters_of(loss, y)
    best = Known(value, constant)
    check(plain, X, y, estimator(plain, **of_model), best, alpha=1e-4, **of_reference)
    table.cache_clear()


@pytest.mark.parametrize("loss", REGRESSION)
@pytest.mark.parametrize("name", ["california_housing", "bike_sharing_hour", "abalone"])
def test_whole_small_tables(name, loss):
    X, y, plain, of_reference, of_model, best = best_of(loss, name, "raw", "float32", 1e-4, sys.maxsize)
    check(plain, X, y, estimator(plain, **of_model), best, alpha=1e-4, **of_reference)


def test_claim_counts_with_exposure():
    """freMTPL2, 100,000 rows of it: `offset` is the logarithm of the exposure."""
    X, y, extra = real("freMTPL2")
    some = slice(0, None, 7)
    X, y, offset = X[some], y[some].astype(np.float32), np.log(extra["exposure"][some].astype(np.float64))
    best = optimum("poisson", X, y, alpha=1e-4, offset=offset)
    check("poisson", X, y, estimator("poisson"), best, alpha=1e-4, offset=offset)


# ------------------------------------------------------------------------------------------------- kinds of data
KINDS = {}


def kind_of_data(function):
    KINDS[function.__name__] = function
    return function


def everyday(n=300, d=5, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * 10.0 ** rng.integers(-2, 3, d) + rng.normal(size=d)
    target = (X / X.std(axis=0)) @ rng.normal(size=d)
    return X, target - np.median(target) + 0.5 * rng.normal(size=n)


@kind_of_data
def sorted_by_target():
    X, y = everyday()
    return X[np.argsort(y)], np.sort(y)


@kind_of_data
def sorted_by_feature():
    X, y = everyday()
    order = np.argsort(X[:, 0])
    return X[order], y[order]


@kind_of_data
def nearly_separable():
    X, y = everyday()
    return np.column_stack([X, np.where(y > 0, 1.0, -1.0) + 0.1 * X[:, 0] / X[:, 0].std()]), y


@kind_of_data
def duplicate_columns():
    X, y = everyday()
    return np.hstack([X, X, 2 * X[:, :1]]), y


@kind_of_data
def one_hot_columns():
    X, y = everyday()
    return np.hstack([np.eye(4)[np.arange(len(y)) % 4], X]), y


@kind_of_data
def constant_columns():
    X, y = everyday()
    return np.column_stack([np.full(len(y), 3.0), X, np.zeros(len(y)), np.ones(len(y))]), y


@kind_of_data
def large_constant_columns():
    X, y = everyday()
    return np.column_stack([np.full(len(y), 1e6), X, np.full(len(y), -1e6), np.full(len(y), 1e-6)]), y


@kind_of_data
def columns_far_from_zero():
    X, y = everyday()
    return (X - X.mean(axis=0)) / X.std(axis=0) + 1000.0, y


@kind_of_data
def one_column():
    X, y = everyday()
    return X[:, 1:2], y


@kind_of_data
def fewer_rows_than_columns():
    return everyday(n=20, d=50)


@kind_of_data
def two_rows():
    return np.array([[1.0, 2.0], [3.0, -1.0]]), np.array([1.0, -1.0])


@kind_of_data
def equal_rows():
    _, y = everyday(n=50)
    return np.ones((50, 2)), y


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", [*BINARY, *REGRESSION, "poisson", "absolute_error", "epsilon_insensitive"])
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_data(kind, loss, dtype, sparse):
    X, y = KINDS[kind]()
    X = X.astype(dtype)
    y = np.where(y > 0, 1.0, -1.0) if loss in BINARY else np.floor(np.exp(0.5 * y)) if loss == "poisson" else y
    y = y.astype(dtype)
    plain, of_reference, of_model = parameters_of(loss, y)
    best = optimum(plain, X, y, alpha=1e-3, **of_reference)
    model = estimator(plain, 1e-3, **of_model)
    check(plain, sp.csr_matrix(X) if sparse else X, y, model, best, alpha=1e-3, **of_reference)


@pytest.mark.parametrize("loss", [*BINARY, "squared_error", "huber", "quantile-0.9", "poisson"])
@pytest.mark.parametrize("alpha", [1e6, 1.0, 1e-12, 0.0])
def test_alpha(loss, alpha):
    X, y = everyday()
    labels = np.where(y + np.sin(np.arange(300)) > 0, 1.0, -1.0)
    y = labels if loss in BINARY else np.floor(np.exp(0.5 * y)) if loss == "poisson" else y
    plain, of_reference, of_model = parameters_of(loss, y)
    best = optimum(plain, X, y, alpha=alpha, **of_reference)
    check(plain, X, y, estimator(plain, alpha, **of_model), best, alpha=alpha, **of_reference)


@pytest.mark.parametrize("loss", [*BINARY, "squared_error", "huber", "quantile-0.9", "poisson"])
def test_without_intercept(loss):
    X, y = everyday()
    y = np.where(y > 0, 1.0, -1.0) if loss in BINARY else np.floor(np.exp(0.5 * y)) if loss == "poisson" else y
    plain, of_reference, of_model = parameters_of(loss, y)
    best = optimum(plain, X, y, alpha=1e-3, fit_intercept=False, **of_reference)
    model = estimator(plain, 1e-3, fit_intercept=False, **of_model)
    check(plain, X, y, model, best, alpha=1e-3, **of_reference)
    assert not model.intercept_.any()


def test_no_features_are_refused():
    with pytest.raises(ValueError, match="0 feature"):
        SGDLossClassifier("log_loss").fit(np.zeros((4, 0)), [0, 1, 0, 1])


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="at least two classes, got one class"):
        SGDLossClassifier("log_loss").fit(np.ones((4, 2)), [1, 1, 1, 1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["X", "y", "sample_weight", "offset"])
def test_bad_numbers_are_refused(where, bad):
    X, y = everyday(n=10)
    given = {"X": X, "y": y, "sample_weight": np.ones(10), "offset": np.zeros(10)}
    given[where] = given[where].copy()
    given[where].flat[3] = bad
    with pytest.raises(ValueError, match=f"{where} contains"):
        SGDLossRegressor().fit(**given)
    if where in ("X", "sample_weight"):
        del given["offset"]
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            SGDLossClassifier().fit(**{**given, "y": y > 0})


# ------------------------------------------------------------------------------------------------- weights, offsets
def weighted(loss, seed=0):
    X, y = everyday(n=200)
    y = np.where(y > 0, 1.0, -1.0) if loss in BINARY else np.floor(np.exp(0.5 * y)) if loss == "poisson" else y
    return X, y, np.random.default_rng(seed).integers(0, 4, 200).astype(float)


SOME = [*BINARY, "squared_error", "huber", "quantile-0.9", "poisson"]


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("loss", SOME)
def test_weights_are_counts(loss, sparse):
    """Weight 0 is a row left out, weight 2 is a row twice, and scaling all changes nothing."""
    X, y, weight = weighted(loss)
    plain, of_reference, of_model = parameters_of(loss, y)
    best = optimum(plain, X, y, alpha=1e-3, weight=weight, **of_reference)
    kind = sp.csr_matrix if sparse else np.asarray
    repeated = np.repeat(np.arange(200), weight.astype(int))
    fits = [
        fitted(estimator(plain, 1e-3, **of_model), kind(X), y, sample_weight=weight)[0],
        fitted(estimator(plain, 1e-3, **of_model), kind(X), y, sample_weight=1e-5 * weight)[0],
        fitted(estimator(plain, 1e-3, **of_model), kind(X[repeated]), y[repeated])[0],
        fitted(estimator(plain, 1e-3, **of_model), kind(X[weight > 0]), y[weight > 0],
               sample_weight=7.0 * weight[weight > 0])[0],
    ]  # fmt: skip
    for model in fits:
        assert model.converged_
        assert relative_gap(plain, X, y, model, best, alpha=1e-3, weight=weight, **of_reference) <= WANTED
    if plain not in ("hinge", "quantile"):
        spread = X.std(axis=0)
        for model in fits[1:]:
            np.testing.assert_allclose(model.coef_ * spread, fits[0].coef_ * spread, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("loss", BINARY)
def test_class_weight(loss):
    X, y, weight = weighted(loss)
    for given, factors in (({-1.0: 1.0, 1.0: 9.0}, (1.0, 9.0)), ("balanced", None)):
        factors = [100 / np.sum(y < 0), 100 / np.sum(y > 0)] if factors is None else factors
        total = weight * np.where(y > 0, factors[1], factors[0])
        best = optimum(loss, X, y, alpha=1e-3, weight=total)
        model, _ = fitted(estimator(loss, 1e-3, class_weight=given), X, y, sample_weight=weight)
        assert model.converged_
        assert relative_gap(loss, X, y, model, best, alpha=1e-3, weight=total) <= WANTED


@pytest.mark.parametrize("loss", ["poisson", "gamma", "squared_error", "quantile-0.9", "huber"])
def test_offset(loss):
    X, y = everyday()
    y = np.floor(np.exp(0.5 * y)) if loss == "poisson" else np.exp(0.5 * y) if loss == "gamma" else y
    offset = np.random.default_rng(1).normal(size=300)
    plain, of_reference, of_model = parameters_of(loss, y)
    best = optimum(plain, X, y, alpha=1e-3, offset=offset, **of_reference)
    check(plain, X, y, estimator(plain, 1e-3, **of_model), best, alpha=1e-3, offset=offset, **of_reference)


# ------------------------------------------------------------------------------------------------- several scores
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["iris", "wine", "digits"])
def test_cross_entropy(name, scale, dtype):
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    X, y = (X[::3], y[::3]) if name == "digits" else (X, y)
    X = scaled(X, scale).astype(dtype)
    value, *_ = softmax_optimum(X, y, y.max() + 1, alpha=1e-3)
    model = estimator("cross_entropy", 1e-3)
    check("cross_entropy", X, y, model, Known(value, np.log(y.max() + 1)), alpha=1e-3)


def test_cross_entropy_against_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    X, y = datasets.load_wine(return_X_y=True)
    X = X / X.std(axis=0)
    peer = LogisticRegression(C=1 / (1e-3 * len(y)), solver="newton-cg", tol=1e-9, max_iter=1000).fit(X, y)
    value = objective("cross_entropy", X, y, peer.coef_, peer.intercept_, alpha=1e-3)
    assert softmax_optimum(X, y, 3, alpha=1e-3)[0] == pytest.approx(value, rel=1e-6)
    check("cross_entropy", X, y, estimator("cross_entropy", 1e-3), Known(value, np.log(3)), alpha=1e-3)


@pytest.mark.parametrize("name", ["iris", "wine", "digits"])
def test_multiclass_hinge(name):
    """LinearSVC has this objective without an intercept."""
    from sklearn.svm import LinearSVC

    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    X, alpha = X / X.max(axis=0).clip(1), 1e-2
    peer = LinearSVC(C=1 / (alpha * len(y)), multi_class="crammer_singer", fit_intercept=False, tol=1e-7,
                     max_iter=100_000, random_state=0).fit(X, y)  # fmt: skip
    value = objective("multiclass_hinge", X, y, peer.coef_, alpha=alpha)
    model = estimator("multiclass_hinge", alpha, fit_intercept=False)
    check("multiclass_hinge", X, y, model, Known(value, 1.0), alpha=alpha)


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("loss", BINARY)
@pytest.mark.parametrize("name", ["iris", "digits"])
def test_one_against_the_rest(name, loss, balanced):
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    weight = len(y) / ((y.max() + 1) * np.bincount(y))[y] if balanced else np.ones(len(y))
    model, warned = fitted(estimator(loss, 1e-2, class_weight="balanced" if balanced else None), X, y)
    assert model.converged_
    assert not warned
    least, found = 0.0, 0.0
    for k in model.classes_:
        labels = np.where(y == k, 1.0, -1.0)
        least += optimum(loss, X, labels, alpha=1e-2, weight=weight).value
        found += objective(loss, X, labels, model.coef_[k], model.intercept_[k], alpha=1e-2, weight=weight)
    assert (found - least) / found <= WANTED


def test_soft_labels_are_weighted_hard_ones():
    X, y = everyday()
    p = 1 / (1 + np.exp(-y))
    twice, labels, weight = np.vstack([X, X]), np.repeat([1.0, -1.0], 300), np.concatenate([p, 1 - p])
    best = optimum("log_loss", twice, labels, alpha=1e-3, weight=weight)
    for given in (p, np.column_stack([1 - p, p])):
        model, _ = fitted(estimator("log_loss", 1e-3), X, given)
        assert model.converged_
        assert relative_gap("log_loss", twice, labels, model, best, alpha=1e-3, weight=weight) <= WANTED
    hard, _ = fitted(estimator("log_loss", 1e-3), twice, labels, sample_weight=weight)
    np.testing.assert_allclose(hard.coef_ * X.std(axis=0), model.coef_ * X.std(axis=0), atol=1e-5)


def test_soft_labels_and_smoothing_of_cross_entropy():
    X, y = datasets.load_iris(return_X_y=True)
    soft = 0.8 * np.eye(3)[y] + 0.2 / 3
    value, *_ = softmax_optimum(X, soft, 3, alpha=1e-3)
    given = fitted(estimator("cross_entropy", 1e-3), X, soft)[0]
    smoothed = fitted(estimator("cross_entropy", 1e-3, loss_params={"label_smoothing": 0.2}), X, y)[0]
    for model in (given, smoothed):
        assert model.converged_
        assert relative_gap("cross_entropy", X, soft, model, Known(value, np.log(3)), alpha=1e-3) <= WANTED


def test_label_smoothing_of_log_loss():
    X, y = everyday()
    labels = np.where(y > 0, 1.0, -1.0)
    twice, weight = np.vstack([X, X]), np.repeat([0.9, 0.1], 300)
    both = np.concatenate([labels, -labels])
    best = optimum("log_loss", twice, both, alpha=1e-3, weight=weight)
    model, _ = fitted(estimator("log_loss", 1e-3, loss_params={"label_smoothing": 0.2}), X, labels)
    assert model.converged_
    assert relative_gap("log_loss", twice, both, model, best, alpha=1e-3, weight=weight) <= WANTED


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_several_quantiles_are_separate_fits(dtype):
    X, y = everyday()
    X, levels = X.astype(dtype), [0.1, 0.5, 0.9]
    model, _ = fitted(SGDLossRegressor("quantile", quantile=levels), X, y)
    assert model.converged_
    least = [optimum("quantile", X, y, alpha=1e-4, quantile=q).value for q in levels]
    found = [
        objective("quantile", X, y, model.coef_[k], model.intercept_[k], alpha=1e-4, quantile=q)
        for k, q in enumerate(levels)
    ]
    assert (sum(found) - sum(least)) / sum(found) <= WANTED


@pytest.mark.parametrize("loss", ["squared_error", "huber", "quantile-0.5", "absolute_error"])
def test_several_outputs_are_separate_fits(loss):
    X, Y = datasets.load_linnerud(return_X_y=True)
    plain, of_reference, of_model = parameters_of(loss, Y)
    model, _ = fitted(estimator(plain, **of_model), X, Y)
    assert model.converged_
    least = sum(optimum(plain, X, Y[:, k], alpha=1e-4, **of_reference).value for k in range(3))
    found = sum(
        objective(plain, X, Y[:, k], model.coef_[k], model.intercept_[k], alpha=1e-4, **of_reference) for k in range(3)
    )
    assert (found - least) / found <= WANTED


# ------------------------------------------------------------------------------------------------- passes
@pytest.mark.parametrize("max_iter", [1, 2, 5])
@pytest.mark.parametrize("loss", [*SOME, "cross_entropy", "multiclass_hinge"])
def test_few_passes(loss, max_iter):
    X, y = datasets.load_wine(return_X_y=True)
    classes = y if loss in ("cross_entropy", "multiclass_hinge") else np.where(y > 0, 1.0, -1.0)
    y = classes if loss in (*BINARY, "cross_entropy", "multiclass_hinge") else X[:, 0] + y
    plain, _, of_model = parameters_of(loss, y)
    model, warned = fitted(estimator(plain, max_iter=max_iter, tol=1e-9, **of_model), X, y)
    assert 1 <= model.n_iter_ <= max_iter
    assert warned == (not model.converged_)
    assert np.isfinite(model.coef_).all()
    assert np.isfinite(model.intercept_).all()
    if loss != "squared_error":  # one Newton step may be enough
        assert warned


@pytest.mark.parametrize("max_iter", [1, 7, 40])
@pytest.mark.parametrize("loss", [*SOME, "cross_entropy", "multiclass_hinge"])
def test_without_tol_all_passes_are_run(loss, max_iter):
    X, y = datasets.load_wine(return_X_y=True)
    classes = y if loss in ("cross_entropy", "multiclass_hinge") else np.where(y > 0, 1.0, -1.0)
    y = classes if loss in (*BINARY, "cross_entropy", "multiclass_hinge") else X[:, 0] + y
    plain, _, of_model = parameters_of(loss, y)
    model, warned = fitted(estimator(plain, max_iter=max_iter, tol=None, **of_model), X, y)
    assert model.n_iter_ == max_iter
    assert not warned


@pytest.mark.parametrize("loss", ["log_loss", "hinge"])
def test_one_against_the_rest_counts_every_pass(loss):
    X, y = datasets.load_digits(return_X_y=True)
    model, _ = fitted(estimator(loss, max_iter=9, tol=None), X, y)
    assert model.n_iter_ == 9
