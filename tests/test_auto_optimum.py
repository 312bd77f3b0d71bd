"""learning_rate="auto" ends close to the optimum of its own objective, whatever the data, and never claims it wrongly.

Every fit is compared with `reference_optimum`.  `converged_` must be true only within tol of it; where it is false,
there must have been a warning.
"""

import functools
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from reference_optimum import objective, optimum, softmax_optimum
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning

from fastloss import SGDLossClassifier, SGDLossRegressor

WANTED = 1e-3
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
    "kddcup99_10pct": lambda y: y != kdd_normal(),
    "mnist": lambda y: y % 2 == 1,
}
BINARY_SETS = (*BUNDLED, *TWO_CLASSES)
REGRESSION_SETS = ("diabetes", "linnerud", "california_housing", "bike_sharing_hour", "abalone", "nycflights13")


def kdd_normal():
    """The class of kddcup99 that is no attack."""
    names = real("kddcup99_10pct")[2]
    found = [i for i, name in enumerate(names.get("classes", ())) if "normal" in str(name)]
    return found[0] if found else 0


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
        for loss in (*REGRESSION, *(("poisson",) if name in ("diabetes", "linnerud", "bike_sharing_hour", "abalone") else ()))
    ]
