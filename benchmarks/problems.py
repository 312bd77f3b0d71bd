"""The data that is measured: seeded random arrays for calls, real tables for fits.

Real tables are ``<name>.npz`` files in the folder that the environment variable ``FASTLOSS_DATA`` names. One
that is not there is replaced by one of scikit-learn's bundled sets or by seeded synthetic data of the same
shape, and its name in the report says so. A file holds ``y`` and either ``X`` or the CSR parts ``data``,
``indices``, ``indptr``, ``shape``; the same names with ``test_`` before them are its official test part.
"""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn import datasets
from sklearn.feature_extraction.text import TfidfVectorizer

from benchmarks.peers import Linear
from fastloss.losses import Loss

# ---- kernels --------------------------------------------------------------------------------------

#: Random samples drawn; longer arrays repeat them.
BLOCK = 1 << 20

#: Parameters measured where the default would be a special case. Exact in float32: the same for every peer.
PARAMS: dict[str, dict[str, float]] = {"quantile": {"quantile": 0.75}, "expectile": {"expectile": 0.75}}


def arrays(loss: Loss, n: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return y and raw prediction, of shape (n,) and the given dtype, in the loss's domain."""
    y, raw = _block(loss, dtype)
    return np.resize(y, n), np.resize(raw, n)


@lru_cache(maxsize=1)
def _block(loss: Loss, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """The samples that `arrays` repeats; what they look like follows from the loss's kind, link and target."""
    rng = np.random.default_rng(0)
    if loss.kind == "binary":
        raw = rng.normal(0, 4, BLOCK)
        y = (rng.random(BLOCK) < 1 / (1 + np.exp(-raw / 2))).astype(float)
    elif loss.link == "log":
        raw = rng.normal(0, 1.5, BLOCK)
        mean = np.exp(raw + rng.normal(0, 0.5, BLOCK))
        zero_allowed = not loss.target.startswith("numbers > 0")
        y = rng.poisson(mean).astype(float) if zero_allowed else mean * rng.gamma(2.0, 0.5, BLOCK)
    elif loss.target != Loss.target:  # not any real number
        y = rng.lognormal(0, 1, BLOCK)
        raw = y * rng.lognormal(0, 0.5, BLOCK)
    else:
        y = rng.normal(0, 3, BLOCK)
        raw = y + np.clip(rng.standard_t(3, BLOCK), -30, 30)
        y, raw = _on_grid(y.astype(dtype)), _on_grid(raw.astype(dtype))
    return y.astype(dtype), raw.astype(dtype)


def _on_grid(x: np.ndarray) -> np.ndarray:
    """Round to a grid on which raw - y is exact (below 64): all errors then have the same reference."""
    step = x.dtype.type(2.0 ** (6 - np.finfo(x.dtype).nmant))
    return np.round(x / step) * step


def points(loss: Loss, count: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """About ``count`` samples to check against the exact value, from the block that `arrays` repeats.

    Three quarters at random, the rest where the score is smallest and largest: the distance from y for a regression
    loss with identity link, the raw prediction otherwise. Scores of exactly 0 are left out: where the loss has a kink
    there, more than one subgradient is right.
    """
    y, raw = _block(loss, dtype)
    score = np.abs(raw - y if loss.kind == "regression" and loss.link == "identity" else raw)
    order = np.argsort(score, kind="stable")[np.count_nonzero(score == 0) :]
    ends = count // 8
    random = np.random.default_rng(1).choice(order, count - 2 * ends, replace=False)
    at = np.unique(np.concatenate([order[:ends], order[-ends:], random]))
    return y[at], raw[at]


# ---- several classes ------------------------------------------------------------------------------


def class_arrays(n: int, classes: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels, of shape (n,), and scores, of shape (n, classes) and the given dtype, in C order."""
    y, raw = _class_block(classes, dtype)
    return np.resize(y, n), np.resize(raw, (n, classes))


@lru_cache(maxsize=1)
def _class_block(classes: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """The samples that `class_arrays` repeats: the scores favour the label, not always."""
    rng = np.random.default_rng(0)
    raw = rng.normal(0, 3, (max(1, BLOCK // classes), classes)).astype(dtype)
    y = np.argmax(raw / 2 + rng.gumbel(size=raw.shape), axis=1)
    return y, raw


def class_points(classes: int, count: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """About ``count`` samples to check against the exact value, from the block that `class_arrays` repeats.

    Half of them at random, the rest where the label's score is furthest below the best other one, and furthest above.
    """
    y, raw = _class_block(classes, dtype)
    order = np.argsort(margins(y, raw), kind="stable")
    ends = min(count, len(y)) // 4
    middle = order[ends : len(order) - ends]
    random = np.random.default_rng(1).choice(middle, min(max(count - 2 * ends, 0), len(middle)), replace=False)
    chosen = np.unique(np.concatenate([order[:ends], order[len(order) - ends :], random]))
    return y[chosen], raw[chosen]


def margins(y: np.ndarray, raw: np.ndarray) -> np.ndarray:
    """By how much the label's score exceeds the best other one."""
    at = np.arange(len(y)), y
    others = raw.copy()
    others[at] = -np.inf
    return raw[at] - others.max(axis=1)


# ---- linear models --------------------------------------------------------------------------------


def linear(loss: str, n: int, d: int, classes: int, dtype: str, storage: str) -> Linear:
    """A linear model of seeded random data, evaluated halfway between zero and the coefficients that made the labels.

    ``storage`` is "C", "F", or the number of random columns in each row of a CSR matrix.
    """
    rng = np.random.default_rng(0)
    scores = classes if classes > 2 else 1
    rows = min(n, max(1, BLOCK // (d if storage in "CF" else int(storage))))
    X = rng.normal(size=(rows, d)) if storage in "CF" else _random_csr(rng, rows, d, int(storage))
    X = X.astype(dtype)
    coef, intercept = rng.normal(size=(scores, d)) / np.sqrt(X.nnz / rows if sp.issparse(X) else d), np.zeros(scores)
    noisy = (
        X @ (2 * coef.T).astype(dtype) + rng.gumbel(size=(rows, scores)) - (scores == 1) * rng.gumbel(size=(rows, 1))
    )
    y = noisy.argmax(axis=1) if scores > 1 else (noisy[:, 0] > 0).astype(np.int64)
    return Linear(loss, _repeated(X, n, storage), np.resize(y, n), coef.astype(dtype), intercept.astype(dtype))


def _random_csr(rng, rows: int, d: int, per_row: int) -> sp.csr_matrix:
    columns = np.sort(rng.integers(0, d, (rows, per_row), dtype=np.int32), axis=1)
    X = sp.csr_matrix(
        (rng.normal(size=columns.size), columns.ravel(), np.arange(rows + 1, dtype=np.int32) * per_row), shape=(rows, d)
    )
    X.sum_duplicates()
    return X


def _repeated(X, n: int, storage: str):
    """The first n rows of X, X, X, ..."""
    times, rest = divmod(n, X.shape[0])
    if sp.issparse(X):
        return sp.vstack([X] * times + [X[:rest]] * (rest > 0), format="csr", dtype=X.dtype)
    result = np.empty((n, X.shape[1]), X.dtype, order=storage)
    for start in range(0, n, len(X)):
        result[start : start + len(X)] = X[: n - start]
    return result


# ---- tables ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dataset:
    """A table, scaled, split and cast. ``label`` names it in the report and says when it is a substitute."""

    label: str
    X: Any
    y: np.ndarray
    X_test: Any
    y_test: np.ndarray


def _as_is(y: np.ndarray) -> np.ndarray:
    return y


@dataclass(frozen=True)
class Recipe:
    """How a table becomes a problem, and what takes its place when its file is not there."""

    scale: str  # "standard": columns to mean 0, variance 1; "max": columns divided by their largest size; "none"
    substitute: Callable[[], tuple[str, Any, np.ndarray]]  # label, X, y; y is the target already
    target: Callable[[np.ndarray], np.ndarray] = _as_is  # from the file's y
    whole: bool = False  # all rows are for training; the test part is the same


def _bundled(name: str, target: Callable[[np.ndarray], np.ndarray] = _as_is):
    def load():
        X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        return f"{name} (scikit-learn's)", X, target(y)

    return load


def _synthetic(
    name: str,
    rows: int,
    columns: int,
    nonzeros: int | None = None,
    classes: int = 2,
    counts: bool = False,
    scales: bool = False,
):
    """Seeded data of the named table's shape.

    ``classes=0`` makes a regression target with a heavy tail; ``scales`` gives columns means and sizes of their own, up
    to thousands.
    """

    def make():
        rng = np.random.default_rng(0)
        if nonzeros is None:
            X = rng.standard_normal((rows, columns), dtype=np.float32)
        else:
            X = _synthetic_csr(rng, rows, columns, nonzeros)
        weights = rng.standard_normal((columns, max(classes, 1))) / np.sqrt(nonzeros or columns)
        score = X @ weights
        if counts:
            y = rng.poisson(np.exp(score[:, 0] - 1)).astype(float)
        elif not classes:
            y = score[:, 0] + 0.5 * rng.standard_t(3, rows)
        elif classes == 2:
            y = (score[:, 0] + 0.5 * rng.standard_normal(rows) > 0).astype(int)
        else:
            y = np.argmax(score + 0.5 * rng.standard_normal(score.shape), axis=1)
        if scales:
            X = (X + rng.uniform(-3, 3, columns)) * 10 ** rng.uniform(-1, 3, columns)
        return f"{name}-like (synthetic)", X, y

    return make


def _synthetic_csr(rng, rows, columns, nonzeros):
    """About ``nonzeros`` ones per row, frequent columns first, as one-hot tables have them."""
    column = np.minimum(rng.exponential(columns / 6, (rows, nonzeros)), columns - 1).astype(np.int32)
    X = sp.csr_matrix(
        (
            np.ones(rows * nonzeros, np.float32),
            column.ravel(),
            np.arange(rows + 1, dtype=np.int32) * nonzeros,
        ),
        shape=(rows, columns),
    )
    X.sum_duplicates()
    np.minimum(X.data, 1, out=X.data)
    return X


def _random_rows(rows: int, columns: int, per_row: int):
    """Sparse rows of random columns and values."""

    def make():
        rng = np.random.default_rng(0)
        X = _random_csr(rng, rows, columns, per_row)
        score = X @ rng.standard_normal(columns)
        return f"{per_row} random columns a row (synthetic)", X, (score > 0).astype(int)

    return make


def _odd(y: np.ndarray) -> np.ndarray:
    return (y % 2).astype(int)


def _is_second(y: np.ndarray) -> np.ndarray:
    return (y == 2).astype(int)


RECIPES = {
    "covtype": Recipe("standard", _synthetic("covtype", 581012, 54), _is_second),
    "covtype raw": Recipe("none", _synthetic("covtype", 581012, 54, scales=True), _is_second),
    "covtype 7 classes": Recipe("standard", _synthetic("covtype", 581012, 54, classes=7)),
    "creditcard": Recipe("standard", _bundled("breast_cancer")),
    "mnist": Recipe("max", _bundled("digits", _odd), _odd),
    "mnist 10 classes": Recipe("max", _bundled("digits")),
    "mnist 10 classes raw": Recipe("none", _bundled("digits")),
    "a9a": Recipe("none", _synthetic("a9a", 32561, 123, 14)),
    "kddcup99_10pct": Recipe("max", _synthetic("kddcup99_10pct", 494021, 119, 13), lambda y: (y != 16).astype(int)),
    "news20_multiclass": Recipe("max", _synthetic("news20", 15935, 62061, 80, classes=20)),
    "20newsgroups TF-IDF": Recipe("none", _synthetic("20newsgroups", 11314, 130107, 150, classes=20)),
    "random sparse": Recipe("none", _random_rows(250_000, 10_000, 38)),
    "electricity": Recipe("standard", _synthetic("electricity", 45312, 6)),
    "california_housing": Recipe("standard", _bundled("diabetes")),
    "california_housing raw": Recipe("none", _bundled("diabetes")),
    "bike_sharing_hour": Recipe("standard", _synthetic("bike_sharing_hour", 17379, 59, classes=0)),
    "bike_sharing_hour raw": Recipe("none", _synthetic("bike_sharing_hour", 17379, 59, counts=True)),
    "nycflights13": Recipe("max", _synthetic("nycflights13", 327346, 147, 10, classes=0)),
    "nycflights13 raw": Recipe("none", _synthetic("nycflights13", 327346, 147, 10, classes=0), whole=True),
    "freMTPL2": Recipe("max", _synthetic("freMTPL2", 678013, 57, 9, counts=True)),
    "freMTPL2 raw": Recipe("none", _synthetic("freMTPL2", 678013, 57, 9, counts=True)),
}


@lru_cache(maxsize=1)
def dataset(name: str, dtype: str) -> Dataset:
    """The named problem. Without an official test part, a seeded fifth of the rows is held out."""
    recipe = RECIPES[name]
    parts = _from_texts(name.split()[0]) if "TF-IDF" in name else _from_file(name.split()[0])
    if parts is None:
        label, *parts = recipe.substitute()
        target = _as_is
    else:
        label, target = name, recipe.target
    if recipe.whole and len(parts) == 2:
        parts = [*parts, *parts]
    X, y, X_test, y_test = parts if len(parts) == 4 else _split(*parts)
    X, X_test = _scaled(recipe.scale, X, X_test)
    return Dataset(label, X.astype(dtype), target(y), X_test.astype(dtype), target(y_test))


def _path(file: str) -> Path | None:
    """A file of the folder of real tables, if it is there."""
    folder = os.environ.get("FASTLOSS_DATA")
    path = Path(folder) / file if folder else None
    return path if path is not None and path.exists() else None


def _from_texts(name: str):
    """TF-IDF of ``<name>_bydate.jsonl.xz``, whose lines have a ``text``, a label ``y`` and a ``split``."""
    path = _path(f"{name}_bydate.jsonl.xz")
    if path is None:
        return None
    with lzma.open(path, "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    train, test = ([r for r in records if (r["split"] == "train") == wanted] for wanted in (True, False))
    vectorizer = TfidfVectorizer()
    X, X_test = vectorizer.fit_transform([r["text"] for r in train]), vectorizer.transform([r["text"] for r in test])
    return [X, np.array([r["y"] for r in train]), X_test, np.array([r["y"] for r in test])]


def _from_file(name: str):
    """[X, y], with [X_test, y_test] after them where there is a test part, or None when there is no such file."""
    path = _path(f"{name}.npz")
    if path is None:
        return None
    with np.load(path, allow_pickle=False) as file:
        parts = dict(file)
    return [part for prefix in ("", "test_") for part in _part(parts, prefix) if part is not None]


def _part(parts: dict[str, np.ndarray], prefix: str):
    if prefix + "indptr" in parts:
        data, indices, indptr = (parts[prefix + key] for key in ("data", "indices", "indptr"))
        X = sp.csr_matrix((data, indices, indptr), shape=tuple(parts[prefix + "shape"]))
    else:
        X = parts.get(prefix + "X")
    return X, parts.get(prefix + "y")


def _split(X, y):
    order = np.random.default_rng(0).permutation(len(y))
    train, test = np.sort(order[len(y) // 5 :]), np.sort(order[: len(y) // 5])
    return X[train], y[train], X[test], y[test]


def _scaled(how: str, X, X_test):
    """Both parts scaled by what the training part says; columns that do not vary are left alone."""
    if how == "none":
        return X, X_test
    if how == "standard":
        X, X_test = X.astype(np.float64), X_test.astype(np.float64)
        mean, size = X.mean(axis=0), X.std(axis=0)
        X, X_test = X - mean, X_test - mean
    else:
        size = abs(X).max(axis=0)
        size = size.toarray().ravel() if sp.issparse(size) else size.astype(np.float64)
    size = np.where(size > 0, size, 1.0)
    if sp.issparse(X):
        inverse = sp.diags_array(1 / size)
        return (X @ inverse).tocsr(), (X_test @ inverse).tocsr()
    return X / size, X_test / size
