"""NumPy: each loss as a careful user would vectorise it. Stable in the tails, few temporaries, one thread."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from benchmarks.peers import NotAvailable

NAME = "NumPy"
KERNEL_NOTE = "mean loss and gradient of the mean; always one core, shown in every row"
OBJECTIVE_NOTE = "two products by BLAS (SciPy's for CSR, on one core), the loss of the other tables between them"


def version() -> str:
    return np.__version__


# ---- per-sample loss and gradient; binary y is 0 or 1


def squared_error(y, raw):
    r = raw - y
    return 0.5 * r * r, r


def absolute_error(y, raw):
    r = raw - y
    return np.abs(r), np.sign(r)


def huber(y, raw, delta):
    r = raw - y
    gradient = np.clip(r, -delta, delta)
    return gradient * (r - 0.5 * gradient), gradient


def pseudo_huber(y, raw, delta):
    r = raw - y
    root = np.sqrt(1 + (r / delta) ** 2)
    return r * r / (root + 1), r / root


def log_cosh(y, raw):
    r = raw - y
    a = np.abs(r)
    return a + np.log1p(np.exp(-2 * a)) - np.log(2.0).astype(r.dtype), np.tanh(r)


def cauchy(y, raw, scale):
    r = raw - y
    square = (r / scale) ** 2
    return 0.5 * scale**2 * np.log1p(square), r / (1 + square)


def fair(y, raw, scale):
    r = raw - y
    a = np.abs(r) / scale
    return scale**2 * (a - np.log1p(a)), r / (1 + a)


def welsch(y, raw, scale):
    r = raw - y
    square = (r / scale) ** 2
    return -0.5 * scale**2 * np.expm1(-square), r * np.exp(-square)


def tukey(y, raw, scale):
    r = raw - y
    square = np.minimum((r / scale) ** 2, 1)
    return scale**2 / 6 * square * (3 - square * (3 - square)), r * (1 - square) ** 2


def quantile(y, raw, quantile):
    u = y - raw
    return np.maximum(quantile * u, (quantile - 1) * u), _sided(u, 1 - quantile, -quantile)


def smooth_quantile(y, raw, quantile, delta):
    loss, gradient = huber(y, raw, delta)
    weight = _sided(y - raw, 1 - quantile, quantile) / delta
    return weight * loss, weight * gradient


def expectile(y, raw, expectile):
    r = raw - y
    gradient = _sided(-r, 1 - expectile, expectile) * r
    return 0.5 * gradient * r, gradient


def epsilon_insensitive(y, raw, epsilon):
    r = raw - y
    loss = np.maximum(np.abs(r) - epsilon, 0)
    return loss, np.sign(r) * (loss > 0)


def squared_epsilon_insensitive(y, raw, epsilon):
    r = raw - y
    excess = np.maximum(np.abs(r) - epsilon, 0)
    return excess * excess, 2 * np.copysign(excess, r)


def mape(y, raw, epsilon):
    r = raw - y
    scale = np.maximum(np.abs(y), np.finfo(r.dtype).eps if epsilon is None else epsilon)
    return np.abs(r) / scale, np.sign(r) / scale


def msle(y, raw):
    difference = np.log1p(raw) - np.log1p(y)
    return 0.5 * difference * difference, difference / (1 + raw)


def poisson(y, raw):
    mean = np.exp(raw)
    return mean - y * raw, mean - y


def gamma(y, raw):
    scaled = y * np.exp(-raw)
    return raw + scaled, 1 - scaled


def tweedie(y, raw, power):
    a, b = np.expm1((2 - power) * raw), np.expm1((1 - power) * raw)
    return a / (2 - power) - y * (b / (1 - power)), (1 + a) - y * (1 + b)


def negative_binomial(y, raw, theta):
    mean = theta * np.exp(raw)
    return (y + 1 / theta) * np.log1p(mean) - y * raw, (mean / theta - y) / (1 + mean)


def log_loss(y, raw):
    sign, wrong = _against(y, raw)
    e = np.exp(-np.abs(wrong))
    return np.maximum(wrong, 0) + np.log1p(e), sign * np.where(wrong > 0, 1, e) / (1 + e)


def hinge(y, raw):
    sign, wrong = _against(y, raw)
    loss = np.maximum(1 + wrong, 0)
    return loss, sign * (loss > 0)


def squared_hinge(y, raw):
    sign, wrong = _against(y, raw)
    excess = np.maximum(1 + wrong, 0)
    return excess * excess, 2 * sign * excess


def smooth_hinge(y, raw, gamma):
    sign, wrong = _against(y, raw)
    excess = np.maximum(1 + wrong, 0)
    slope = np.minimum(excess / gamma, 1)
    return slope * (excess - 0.5 * gamma * slope), sign * slope


def modified_huber(y, raw):
    sign, wrong = _against(y, raw)
    excess = np.maximum(1 + wrong, 0)
    return np.where(wrong <= 1, excess * excess, 4 * wrong), sign * np.minimum(2 * excess, 4)


def perceptron(y, raw):
    sign, wrong = _against(y, raw)
    return np.maximum(wrong, 0), sign * (wrong >= 0)


def exponential(y, raw):
    sign, wrong = _against(y, raw)
    loss = np.exp(wrong)
    return loss, sign * loss


def focal(y, raw, gamma):
    sign, wrong = _against(y, raw)
    e = np.exp(-np.abs(wrong))
    cross_entropy = np.maximum(wrong, 0) + np.log1p(e)
    miss, hit = np.where(wrong > 0, 1, e) / (1 + e), np.where(wrong > 0, e, 1) / (1 + e)
    power = miss**gamma
    return power * cross_entropy, sign * power * (gamma * hit * cross_entropy + miss)


def poly1(y, raw, epsilon):
    sign, wrong = _against(y, raw)
    e = np.exp(-np.abs(wrong))
    miss, hit = np.where(wrong > 0, 1, e) / (1 + e), np.where(wrong > 0, e, 1) / (1 + e)
    return np.maximum(wrong, 0) + np.log1p(e) + epsilon * miss, sign * miss * (1 + epsilon * hit)


def _sided(u, below, above):
    """``below`` where u < 0, ``above`` where u > 0, 0 at 0, in the dtype of u."""
    return np.where(u < 0, u.dtype.type(below), u.dtype.type(above)) * (u != 0)


def _against(y, raw):
    """The sign with which the score counts against the label, and the negative margin."""
    sign = 1 - 2 * y
    return sign, sign * raw


# ---- several classes: per-sample losses; scale times their gradients go to ``out``, of raw's shape too


def cross_entropy(y, raw, out, scale):
    at = np.arange(len(y)), y
    own, _, total = _exponentials(at, raw, out)
    out *= (scale / total)[:, None]
    out[at] -= scale
    return np.log(total) - own


def multiclass_focal(y, raw, out, scale, gamma):
    at = np.arange(len(y)), y
    own, e, total = _exponentials(at, raw, out)
    out[at] = 0
    others = out.sum(axis=1)
    loss = np.log(total) - own
    hit, miss = e / total, others / total
    slope = scale * (miss**gamma + gamma * hit * miss ** (gamma - 1) * loss)
    out *= (slope / total)[:, None]
    out[at] = -slope * miss
    return miss**gamma * loss


def generalized_cross_entropy(y, raw, out, scale, q):
    at = np.arange(len(y)), y
    own, _, total = _exponentials(at, raw, out)
    log_hit = own - np.log(total)
    slope = scale * np.exp(q * log_hit)
    out *= (slope / total)[:, None]
    out[at] -= slope
    return -np.expm1(q * log_hit) / q


def multiclass_hinge(y, raw, out, scale):
    loss, at, rival = _margin(y, raw, out)
    slope = scale * (loss > 0)
    out[at], out[rival] = -slope, slope
    return loss


def multiclass_squared_hinge(y, raw, out, scale):
    loss, at, rival = _margin(y, raw, out)
    slope = 2 * scale * loss
    out[at], out[rival] = -slope, slope
    return loss * loss


def sparsemax(y, raw, out, scale):
    at = np.arange(len(y)), y
    np.subtract(raw, raw.max(axis=1, keepdims=True), out=out)
    ordered = np.sort(out, axis=1)[:, ::-1]
    excess = np.cumsum(ordered, axis=1) - 1
    size = np.count_nonzero(ordered * _counts(ordered) > excess, axis=1)
    threshold = excess[at[0], size - 1] / size.astype(raw.dtype)
    own = out[at]
    p = np.maximum(out - threshold[:, None], 0)
    loss = (1 - np.einsum("ij,ij->i", p, p)) / 2 + np.einsum("ij,ij->i", p, out) - own
    np.multiply(p, scale, out=out)
    out[at] -= scale
    return loss


def entmax15(y, raw, out, scale):
    at = np.arange(len(y)), y
    np.subtract(raw, raw.max(axis=1, keepdims=True), out=out)
    half = np.sort(out, axis=1)[:, ::-1] / 2
    counts = _counts(half)
    mean = np.cumsum(half, axis=1) / counts
    spread = np.cumsum(half * half, axis=1) - counts * mean * mean
    thresholds = mean - np.sqrt(np.maximum((1 - spread) / counts, 0))
    size = np.count_nonzero(thresholds <= half, axis=1)
    own = out[at]
    root = np.maximum(out / 2 - thresholds[at[0], size - 1][:, None], 0)
    p = root * root
    loss = 4 * (1 - np.einsum("ij,ij->i", root, p)) / 3 + np.einsum("ij,ij->i", p, out) - own
    np.multiply(p, scale, out=out)
    out[at] -= scale
    return loss


def _exponentials(at, raw, out):
    """Exponentials of the scores less their largest, into ``out``: the class's score and exponential, and the sum."""
    np.subtract(raw, raw.max(axis=1, keepdims=True), out=out)
    own = out[at]
    np.exp(out, out=out)
    return own, out[at], out.sum(axis=1)


def _margin(y, raw, out):
    """The hinge loss, the places of the class and of the best other one, and zeros in ``out``."""
    rows = np.arange(len(y))
    np.copyto(out, raw)
    out[rows, y] = -np.inf
    best = out.argmax(axis=1)
    loss = np.maximum(1 + out[rows, best] - raw[rows, y], 0)
    out.fill(0)
    return loss, (rows, y), (rows, best)


def _counts(x):
    return np.arange(1, x.shape[1] + 1, dtype=x.dtype)


CLASSES = {
    function.__name__: function
    for function in (
        cross_entropy,
        multiclass_focal,
        generalized_cross_entropy,
        multiclass_hinge,
        multiclass_squared_hinge,
        sparsemax,
        entmax15,
    )
}

FUNCTIONS = {
    function.__name__: function
    for function in (
        squared_error,
        absolute_error,
        huber,
        pseudo_huber,
        log_cosh,
        cauchy,
        fair,
        welsch,
        tukey,
        quantile,
        smooth_quantile,
        expectile,
        epsilon_insensitive,
        squared_epsilon_insensitive,
        mape,
        msle,
        poisson,
        gamma,
        tweedie,
        negative_binomial,
        log_loss,
        hinge,
        squared_hinge,
        smooth_hinge,
        modified_huber,
        perceptron,
        exponential,
        focal,
        poly1,
    )
}

#: Parameters of ours that the functions above leave at these values.
FIXED = {
    "pos_weight": 1.0,
    "neg_weight": 1.0,
    "label_smoothing": 0.0,
    "z_loss": 0.0,
    "class_weight": None,
    "ignore_index": None,
    "allow_negative_weight": False,
    "alpha": None,
    "constants": False,
}


class _Kernel:
    threaded = False
    loss_note = ""

    def __init__(self, function, params):
        self.function, self.params = function, params

    def per_sample(self, y, raw):
        return self.function(y, raw, **self.params)

    def bind(self, y, raw, n_threads):
        scale = raw.dtype.type(1 / len(raw))

        def mean_and_gradient():
            loss, gradient = self.per_sample(y, raw)
            gradient *= scale
            return loss.mean(), gradient

        return mean_and_gradient


class _ClassesKernel(_Kernel):
    def per_sample(self, y, raw):
        out = np.empty_like(raw)
        return self.function(y, raw, out, raw.dtype.type(1), **self.params), out

    def bind(self, y, raw, n_threads):
        out, scale = np.empty_like(raw), raw.dtype.type(1 / len(raw))
        return lambda: (self.function(y, raw, out, scale, **self.params).mean(), out)


def kernel(loss, params):
    if loss not in FUNCTIONS and loss not in CLASSES:
        raise NotAvailable("no NumPy version of this loss written")
    for name in FIXED.keys() & params.keys():
        if params[name] != FIXED[name]:
            raise NotAvailable(f"no NumPy version of {loss} with {name}={params[name]} written")
    params = {k: v for k, v in params.items() if k not in FIXED}
    return _ClassesKernel(CLASSES[loss], params) if loss in CLASSES else _Kernel(FUNCTIONS[loss], params)


def objective(problem, n_threads):
    X, coef, intercept = problem.X, problem.coef, problem.intercept
    alpha, scale = X.dtype.type(problem.alpha), X.dtype.type(1 / X.shape[0])

    def penalised(loss, gradient, intercept_gradient):
        gradient += alpha * coef
        return loss.mean() + alpha / 2 * np.vdot(coef, coef), gradient, intercept_gradient

    def one_score():
        raw = X @ coef[0]
        raw += intercept[0]
        loss, slope = log_loss(y, raw)
        slope *= scale
        return penalised(loss, (X.T @ slope)[None], slope.sum(keepdims=True))

    def scores():
        raw = X @ coef.T
        raw += intercept
        loss = cross_entropy(y, raw, raw, scale)
        return penalised(loss, (X.T @ raw).T if sp.issparse(X) else raw.T @ X, raw.sum(axis=0))

    y = problem.y.astype(X.dtype) if problem.loss == "log_loss" else problem.y
    return {"log_loss": one_score, "cross_entropy": scores}[problem.loss]


def logistic(X, y, alpha, gtol, iterations, n_threads):
    raise NotAvailable("NumPy has no logistic regression")


def estimator(fit, n_threads):
    raise NotAvailable("NumPy has no estimators")


def optimisers(problem, n):
    return {}


def solution(estimator, problem, n):
    raise NotAvailable("NumPy has no estimators")
