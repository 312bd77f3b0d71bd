"""The linear objective, slowly and obviously: matrix products in long double, closed forms of the multiclass losses.

``evaluate`` gives value and gradient with bounds on the rounding error of a calculation in the working dtype, so that
tests need no tolerances of their own.  Pointwise losses come from the kernels, sample by sample in float64: they are
held to mpmath elsewhere.
"""

from types import SimpleNamespace

import numpy as np
from bits import bits
from grids import everyday
from oracle import ORACLES

import fastloss

POINTWISE = (*fastloss.list_losses(kind="regression"), *fastloss.list_losses(kind="binary"))
CLASSES = fastloss.list_losses(kind="multiclass")
POSITIVE = tuple(name for name in POINTWISE if not ORACLES[name].domain(-2.0, -2.0, **ORACLES[name].defaults))
"""Losses whose raw predictions must not be negative."""


FEW = (("squared_error", {}), ("log_loss", {}), ("poisson", {}), ("cross_entropy", {"label_smoothing": 0.1}))
"""One loss of each kind, for tests in which the loss is not what is tested."""


# multiclass losses: f(z (n, K), one-hot or soft targets (n, K), **params) -> loss (n,), gradient, sizes of both -----

MULTICLASS = {}


def slow(function):
    MULTICLASS[function.__name__] = function
    return function


def log_softmax(z):
    d = z - z.max(axis=1, keepdims=True)
    return d - np.log(np.sum(np.exp(d), axis=1, keepdims=True))


def at_label(x, target):
    return np.sum(x * target, axis=1)


@slow
def cross_entropy(z, target, *, label_smoothing=0.0, z_loss=0.0):
    target = (1 - label_smoothing) * target + label_smoothing / z.shape[1]
    log_p = log_softmax(z)
    p, total = np.exp(log_p), target.sum(axis=1, keepdims=True)
    lse = z[:, :1] - log_p[:, :1]
    loss = -at_label(log_p, target) + z_loss * lse[:, 0] ** 2
    gradient = p * total - target + 2 * z_loss * lse * p
    reach = 1 + np.abs(z).max(axis=1)
    return (
        loss,
        gradient,
        (1 + total[:, 0]) * reach + z_loss * lse[:, 0] ** 2,
        p * (total + 8 * z_loss * abs(lse)) + target,
    )


def of_probability(z, target, loss, slope):
    """A loss of u = log p_y, from its value and its derivative as functions of u and p."""
    log_p = log_softmax(z)
    u = at_label(log_p, target)
    p = np.exp(u)
    chain = slope(u, p)[:, None]
    softmax = np.exp(log_p)
    size = (1 + np.abs(chain)) * (softmax + target)
    return loss(u, p), chain * (target - softmax), 1 + np.abs(z).max(axis=1), size


@slow
def multiclass_focal(z, target, *, gamma=2.0):
    return of_probability(
        z,
        target,
        lambda u, p: -((1 - p) ** gamma) * u,
        lambda u, p: gamma * (1 - p) ** (gamma - 1) * p * u - (1 - p) ** gamma,
    )


@slow
def generalized_cross_entropy(z, target, *, q=0.7):
    return of_probability(z, target, lambda u, p: (1 - p**q) / q, lambda u, p: -(p**q))


def runner_up(z, target):
    """max(0, 1 + z of the best wrong class - z of the right one), and its gradient."""
    others = np.where(target > 0, -np.inf, z)
    best = np.zeros_like(z)
    best[np.arange(len(z)), np.argmax(others, axis=1)] = 1
    h = np.maximum(0, 1 + others.max(axis=1) - at_label(z, target))
    return h, (h > 0)[:, None] * (best - target)


@slow
def multiclass_hinge(z, target):
    h, direction = runner_up(z, target)
    return h, direction, 1 + np.abs(z).max(axis=1), np.abs(direction) + 1


@slow
def multiclass_squared_hinge(z, target):
    h, direction = runner_up(z, target)
    size = 1 + np.abs(z).max(axis=1)
    return h**2, 2 * h[:, None] * direction, size**2, size[:, None] * np.ones_like(z)


def threshold(sums, order):
    """The tau of the largest support k for which the k-th largest number is still above it."""
    support = np.sum(order > sums, axis=1)
    return sums[np.arange(len(sums)), support - 1]


@slow
def sparsemax(z, target):
    order = -np.sort(-z, axis=1)
    count = np.arange(1, z.shape[1] + 1)
    tau = threshold((np.cumsum(order, axis=1) - 1) / count, order)[:, None]
    p = np.maximum(z - tau, 0)
    loss = np.sum(np.where(p > 0, z**2 - tau**2, 0), axis=1) / 2 + 0.5 - at_label(z, target)
    return loss, p - target, 1 + np.abs(z).max(axis=1) ** 2, p + 1


@slow
def entmax15(z, target):
    half = (z - z.max(axis=1, keepdims=True)) / 2
    order = -np.sort(-half, axis=1)
    count = np.arange(1, z.shape[1] + 1)
    mean = np.cumsum(order, axis=1) / count
    spread = np.cumsum(order**2, axis=1) - count * mean**2
    tau = threshold(mean - np.sqrt(np.maximum((1 - spread) / count, 0)), order)[:, None]
    p = np.maximum(half - tau, 0) ** 2
    loss = np.sum((p - target) * z, axis=1) + 4 / 3 * (1 - np.sum(p**1.5, axis=1))
    return loss, p - target, 1 + np.abs(z).max(axis=1), p + 1


def targets(y, K):
    """One-hot rows of labels, 0 where a label is none of 0 ... K-1 (ignored); soft targets as they are."""
    y = np.asarray(y)
    return y.astype(float) if y.ndim == 2 else (y[:, None] == np.arange(K)).astype(float)


def class_factor(loss, y, K):
    """What class_weight and ignore_index multiply the sample weights by."""
    factor = np.ones(len(y))
    if loss.params["class_weight"] is not None:
        factor = targets(y, K) @ np.array(loss.params["class_weight"])
    if loss.params["ignore_index"] is not None:
        factor = np.where(np.asarray(y) == loss.params["ignore_index"], 0, factor)
    return factor


# the objective --------------------------------------------------------------------------------------------------


def rounded(loss, dtype):
    """The loss with parameters as kernels of this dtype get them."""
    dtype = np.dtype(dtype)
    known = dict(loss.params)
    if loss.name == "mape" and known["epsilon"] is None:
        known["epsilon"] = float(np.finfo(dtype).eps)
    floats = {k: float(dtype.type(v)) for k, v in known.items() if isinstance(v, float)}
    return fastloss.get_loss(loss.name, **{**known, **floats})


def pointwise(loss, y, raw):
    """(loss, gradient, sizes of both, curvature) of every number of raw, shape of raw."""
    y = np.asarray(y, float).reshape(raw.shape)
    flat = y.ravel(), raw.ravel()
    value, gradient = loss.loss_gradient(*flat, reduction="none")
    hessian = loss.gradient_hessian(*flat, reduction="none")[1]
    value, gradient, hessian = (x.reshape(raw.shape) for x in (value, gradient, hessian))
    reach = 1 + np.abs(y) + np.abs(raw)
    terms = (1 + np.abs(y)) * np.exp(np.abs(raw)) if loss.link == "log" else 1.0
    value_size = np.abs(value) + np.abs(gradient) * reach + terms
    gradient_size = np.abs(gradient) + np.abs(hessian) * reach + terms
    return value, gradient, value_size, gradient_size, np.abs(hessian)


def evaluate(
    X, y, loss, w, *, alpha=0.0, fit_intercept=True, sample_weight=None, offset=None, K=1, dtype=None, size=None
):
    """Value and gradient (K, d [+ 1]) with bounds of their rounding errors in the working dtype.

    ``size`` is |X|, if it is not that of X (duplicates of a sparse matrix that cancel).
    """
    X = np.asarray(X)
    dtype = np.dtype(dtype or X.dtype)
    n, d = X.shape
    w = np.asarray(w, np.longdouble).reshape(K, -1)
    coef, intercept = (w[:, :-1], w[:, -1]) if fit_intercept else (w, np.zeros(K, np.longdouble))
    offset = np.zeros((n, 1)) if offset is None else np.asarray(offset, float).reshape(n, -1)
    exact, size = X.astype(np.longdouble), np.abs(X if size is None else size).astype(float)
    raw = np.asarray(exact @ coef.T + intercept + offset, float)
    reach = size @ np.abs(coef.T).astype(float) + np.abs(intercept).astype(float) + np.abs(offset)

    # Rounding errors of a sum of m products grow like sqrt(m) units of the sum of absolute products; 8 units for the
    # kernel (its budget is 4) and for what multiplies its result.
    unit = float(np.finfo(dtype).eps)
    off = unit * (8 + np.sqrt(d)) * reach
    weight = np.ones(n) if sample_weight is None else np.asarray(sample_weight, float)
    loss = rounded(loss, dtype)
    if loss.kind == "multiclass":
        weight = weight * class_factor(loss, y, K)
        function = MULTICLASS[loss.name]
        params = {name: loss.params[name] for name in function.__kwdefaults__ or ()}
        value, gradient, value_size, gradient_size = function(raw, targets(y, K), **params)
        off = off.max(axis=1, keepdims=True)
        value_error = np.sum(np.abs(gradient), axis=1) * off[:, 0] + 8 * unit * value_size
        gradient_error = 8 * gradient_size * (unit + off)
    else:
        value, gradient, value_size, gradient_size, curvature = pointwise(loss, y, raw)
        value_error = np.sum(np.abs(gradient) * off + 8 * unit * value_size, axis=1)
        value = np.sum(value, axis=1)
        gradient_error = curvature * off + 8 * unit * gradient_size

    silent = weight == 0
    for x in (value, gradient, value_error, gradient_error):
        x[silent] = 0
    total = np.sum(weight)
    gradient, gradient_error = gradient * weight[:, None] / total, gradient_error * np.abs(weight)[:, None] / total
    gradient_error = gradient_error + unit * (8 + np.sqrt(n)) * np.abs(gradient)
    columns = np.ones((n, int(fit_intercept)))
    full, full_size = np.hstack([exact, columns]), np.hstack([size, columns])
    penalty = np.hstack([coef, np.zeros((K, int(fit_intercept)))])
    return SimpleNamespace(
        value=float(np.sum(weight * value, dtype=np.longdouble) / total + alpha * np.sum(coef**2) / 2),
        value_error=float(np.abs(weight) @ value_error / total + 8 * unit * alpha * np.sum(coef**2)),
        gradient=np.asarray(gradient.T @ full + alpha * penalty, float),
        gradient_error=gradient_error.T @ full_size + 8 * unit * alpha * np.abs(penalty).astype(float),
        raw=raw,
    )


def check(objective, w, wanted):
    """The objective's value and gradient at w are those wanted, within the bounds."""
    value, gradient = objective(w)
    assert isinstance(value, float)
    assert gradient.shape == np.shape(w)
    assert abs(value - wanted.value) <= wanted.value_error, (value, wanted.value, wanted.value_error)
    # the gradient is rounded once more if w is narrower than the working dtype
    bound = wanted.gradient_error + np.finfo(gradient.dtype).eps * np.abs(wanted.gradient)
    error = np.abs(gradient.reshape(wanted.gradient.shape) - wanted.gradient)
    worst = np.unravel_index(np.argmax(error - bound), bound.shape)
    assert np.all(error <= bound), (worst, gradient.reshape(bound.shape)[worst], wanted.gradient[worst], bound[worst])


# problems -------------------------------------------------------------------------------------------------------


def problem(name, n=40, d=5, dtype=np.float64, *, params=(), K=3, outputs=None, soft=False, intercept=True, seed=0):
    """X (n, d), y, w of everyday size for a loss; ``given`` holds what LinearObjective and evaluate both take."""
    loss = fastloss.get_loss(name, **dict(params))
    rng = np.random.default_rng([seed, n, d, K])
    X = rng.normal(size=(n, d)).astype(dtype)
    multiclass = loss.kind == "multiclass"
    if multiclass:
        y = rng.dirichlet(np.ones(K), n) if soft else rng.integers(0, K, n)
    else:
        y, _ = everyday(name, params, n, dtype, seed, outputs)
        K = outputs or 1
        if name == "mape":  # targets at and near 0 count 1e15 times as much as the others: nothing else would be seen
            y[np.abs(y) < 1e-3] = 2
    w = rng.normal(size=(K, d + intercept))
    w[:, :d] /= np.sqrt(max(d, 1))
    if name in POSITIVE:
        X, w = np.abs(X), np.abs(w)
    if not multiclass and outputs is None:
        w = w[0]
    options = {"n_classes": K} if multiclass and not soft else {}
    return SimpleNamespace(X=X, y=y, loss=loss, w=w.ravel(), K=K, intercept=intercept, options=options)


def objective(p, X=None, **options):
    """The LinearObjective of a problem, perhaps with other options or the same X in another form."""
    X = p.X if X is None else X
    return fastloss.LinearObjective(X, p.y, p.loss, **{"fit_intercept": p.intercept, **p.options, **options})


def reference(p, X=None, w=None, **options):
    """What the objective of a problem should give."""
    X, w = (p.X if X is None else X), (p.w if w is None else w)
    return evaluate(X, p.y, p.loss, w, K=p.K, **{"fit_intercept": p.intercept, **options})


def options_for(p, *, weighted=False, shifted=False, alpha=0.0, seed=5):
    """Weights with zeros among them, and an offset, both of any dtype, as options."""
    rng = np.random.default_rng(seed)
    n = len(p.X)
    options = {"alpha": alpha}
    if weighted:
        options["sample_weight"] = rng.uniform(0.5, 2, n) * (rng.uniform(size=n) < 0.8)
        options["sample_weight"][0] = 1.0  # not all of them 0
    if shifted:
        offset = rng.uniform(0, 1, (n, p.K) if p.w.ndim == 1 and p.K > 1 else n)
        options["offset"] = offset
    return options


def few(n, d, dtype, **more):
    """A problem for each of the few losses."""
    return [problem(name, n, d, dtype, params=params, **more) for name, params in FEW]


def result_bits(objective, w):
    """The bits of value and gradient."""
    value, gradient = objective(w)
    return bits(value), bits(gradient)
