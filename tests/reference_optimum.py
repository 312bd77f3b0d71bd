"""The least mean(loss) + alpha/2·‖coef‖², found without any of the library's code, in float64.

Smooth losses: Newton's method with the exact dense hessian.  Losses of the form max over u in [low, high] of
u·(raw − t), which hinge, quantile and absolute error are: a primal-dual interior point method, whose duality gap is
returned.  Both on centred columns divided by their standard deviations, with the penalty's factors changed to match.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit, logsumexp

RELATIVE = 1e-10


def log_loss(y, z):
    p = expit(-y * z)
    return np.logaddexp(0, -y * z), -y * p, p * (1 - p)


def squared_hinge(y, z):
    slack = np.maximum(0, 1 - y * z)
    return slack**2, -2 * y * slack, 2.0 * (slack > 0)


def squared_error(y, z):
    return 0.5 * (z - y) ** 2, z - y, np.ones_like(z)


def huber(y, z, delta=1.0):
    u = np.clip(z - y, -delta, delta)
    return u * (z - y) - 0.5 * u**2, u, 1.0 * (np.abs(z - y) <= delta)


def poisson(y, z):
    with np.errstate(over="ignore"):
        mu = np.exp(z)
        return mu - y * z, mu - y, mu


def gamma(y, z):
    with np.errstate(over="ignore"):
        ratio = y * np.exp(-z)
        return z + ratio, 1 - ratio, ratio


def hinge(y, z):
    return np.maximum(0, 1 - y * z)


def quantile(y, z, quantile=0.5):
    return np.maximum(quantile * (y - z), (quantile - 1) * (y - z))


def absolute_error(y, z):
    return np.abs(z - y)


def epsilon_insensitive(y, z, epsilon=0.1):
    return np.maximum(0, np.abs(z - y) - epsilon)


SMOOTH = {f.__name__: f for f in (log_loss, squared_hinge, squared_error, huber, poisson, gamma)}
KINKED = {f.__name__: f for f in (hinge, quantile, absolute_error, epsilon_insensitive)}


@dataclass
class Optimum:
    """`value`: objective at (coef, intercept); it exceeds the least one by about `gap` at most."""

    value: float
    gap: float
    coef: np.ndarray
    intercept: float
    constant: float


def objective(loss, X, y, coef, intercept=0.0, *, alpha=0.0, weight=None, offset=None, **parameters):
    """The objective of a model, in float64; labels are −1 and +1, with "cross_entropy" class codes or probabilities."""
    coef, intercept = np.asarray(coef, np.float64), np.asarray(intercept, np.float64)
    penalty = 0.5 * alpha * np.vdot(coef, coef)
    raw = rows(X) @ coef.T + intercept
    raw = raw if offset is None else raw + offset
    if loss == "cross_entropy":
        values = logsumexp(raw, axis=1) - (raw * shares(y, raw.shape[1])).sum(axis=1)
    elif loss == "multiclass_hinge":
        own = shares(y, raw.shape[1])
        values = (raw + 1 - own).max(axis=1) - (raw * own).sum(axis=1)
    else:
        raw = raw.reshape(len(raw)) if raw.size == len(raw) else raw
        found = {**SMOOTH, **KINKED}[loss](np.asarray(y, np.float64), raw, **parameters)
        values = found[0] if isinstance(found, tuple) else found
    return float(np.average(values, weights=weight) + penalty)


def rows(X):
    """X in float64."""
    return X.astype(np.float64) if sp.issparse(X) else np.asarray(X, np.float64)


def shares(y, K):
    """Rows of class probabilities."""
    y = np.asarray(y)
    return y.astype(np.float64) if y.ndim == 2 else np.eye(K)[y]


def optimum(loss, X, y, *, alpha=0.0, fit_intercept=True, weight=None, offset=None, **parameters):
    """The least objective and the model that has it."""
    X = rows(X)
    X = X.toarray() if sp.issparse(X) else X
    n, d = X.shape
    y, weight = np.asarray(y, np.float64), np.ones(n) if weight is None else np.asarray(weight, np.float64)
    share, offset = weight / weight.sum(), np.zeros(n) if offset is None else np.asarray(offset, np.float64)
    mean = share @ X if fit_intercept else np.zeros(d)
    A = X - mean
    # a constant column minus its mean is rounding
    scale = np.sqrt(share @ A**2)
    scale = np.where(scale > 1e-13 * np.abs(X).max(axis=0, initial=0), scale, np.inf)
    A = np.hstack([A / scale, np.ones((n, 1))]) if fit_intercept else A / scale
    with np.errstate(divide="ignore"):
        ridge = np.append(np.where(np.isfinite(scale), alpha / scale**2, 1.0), [0.0] * fit_intercept)
    solve = _newton if loss in SMOOTH else _interior
    terms = ((SMOOTH | KINKED)[loss], parameters)
    v, gap = solve(terms, A, y, share, ridge, offset)
    constant = np.zeros((d, 1)).ravel()
    only = solve(terms, np.ones((n, 1 if fit_intercept else 0)), y, share, np.zeros(int(fit_intercept)), offset)[0]
    options = {"alpha": alpha, "weight": share, "offset": offset, **parameters}
    coef = v[:d] / scale
    intercept = float(v[d] - coef @ mean) if fit_intercept else 0.0
    value = objective(loss, X, y, coef, intercept, **options)
    return Optimum(
        value, gap, coef, intercept, objective(loss, X, y, constant, only[0] if fit_intercept else 0.0, **options)
    )


def _newton(terms, A, y, share, ridge, offset):
    loss, parameters = terms

    def at(v):
        value, slope, curvature = loss(y, A @ v + offset, **parameters)
        return share @ value + 0.5 * ridge @ v**2, slope, curvature

    v = np.zeros(A.shape[1])
    if len(v) and loss is poisson:
        v[-1] = np.log(share @ y / (share @ np.exp(offset)))
    elif len(v) and loss is gamma:
        v[-1] = np.log(share @ (y * np.exp(-offset)))
    elif len(v) and loss in (squared_error, huber):
        v[-1] = np.median(y - offset)
    decrement, damping = np.inf, 1e-14
    value, slope, curvature = at(v)
    # `damping` for where no row has curvature in some direction: Levenberg's
    for _ in range(500):
        gradient = A.T @ (share * slope) + ridge * v
        hessian = (A.T * (share * curvature)) @ A + np.diag(ridge)
        hessian[np.diag_indices(len(v))] += damping * (1e-2 + np.diag(hessian))
        step = _solve(hessian, gradient)
        decrement = float(gradient @ step)
        if decrement <= RELATIVE * 1e-3 * max(abs(value), 1e-300) or damping > 1e20:
            break
        for length in 0.5 ** np.arange(12):
            trial = at(v - length * step)
            if trial[0] < value - 1e-4 * length * decrement:
                v, (value, slope, curvature) = v - length * step, trial
                damping = max(damping / 10, 1e-14) if length == 1 else damping
                break
        else:
            damping *= 100
    return v, 0.5 * max(decrement, 0.0)


def _interior(terms, A, y, share, ridge, offset):
    """Minimise mean over rows of max over u in [low, high] of u·(raw − t), with slacks a, c of raw − t = c − a."""
    loss, parameters = terms
    if loss is epsilon_insensitive:  # half the sum of two: max(0, r − e) + max(0, −r − e)
        epsilon = parameters.get("epsilon", 0.1)
        A, share, offset = np.vstack([A, A]), np.tile(share, 2), np.tile(offset, 2)
        t = np.concatenate([y + epsilon, y - epsilon])
        low, high = np.repeat([0.0, -1.0], len(y)), np.repeat([1.0, 0.0], len(y))
    elif loss is hinge:
        t, low, high = y, np.where(y > 0, -1.0, 0.0), np.where(y > 0, 0.0, 1.0)
    else:
        q = 0.5 if loss is absolute_error else parameters.get("quantile", 0.5)
        factor = 2.0 if loss is absolute_error else 1.0
        t, low, high = y, np.full(len(y), -q * factor), np.full(len(y), (1 - q) * factor)
    keep = share > 0
    A, share, t, low, high, offset = A[keep], share[keep], t[keep], low[keep], high[keep], offset[keep]
    t = t - offset
    size = 1.0 if loss is hinge else max(np.abs(t - np.median(t)).mean(), 1e-300)
    v, u = np.zeros(A.shape[1]), 0.5 * (low + high)
    if len(v):
        v[-1] = np.median(t) if loss is not hinge else 0.0
    gap = residual = A @ v - t
    a, c = np.maximum(-residual, 0) + size, np.maximum(residual, 0) + size
    below, above = u - low, high - u
    for _ in range(200):
        residual = A @ v - t + a - c
        slope = A.T @ (share * u) + ridge * v
        products = share @ (a * below + c * above)
        gap = products + abs(slope @ v) + share @ np.abs(u * residual)
        value = share @ np.maximum(low * (A @ v - t), high * (A @ v - t)) + 0.5 * ridge @ v**2
        if gap <= RELATIVE * max(value, 1e-12 * size):
            break
        theta = a / below + c / above
        hessian = (A.T * (share / theta)) @ A + np.diag(ridge)
        hessian[np.diag_indices(len(v))] += 1e-14 * np.abs(np.diag(hessian)) + 1e-300
        factor = _factor(hessian)

        def direction(mu_a, mu_c, factor=factor, state=(v, a, c, below, above, residual, slope, theta)):
            v, a, c, below, above, residual, slope, theta = state
            right = mu_a / below - a - (mu_c / above - c) + residual
            dv = -_apply(factor, slope + A.T @ (share * right / theta)) if len(v) else v
            du = (A @ dv + right) / theta
            return dv, du, mu_a / below - a - a / below * du, mu_c / above - c + c / above * du

        def longest(du, da, dc, state=(a, c, below, above)):
            a, c, below, above = state
            limits = [1.0]
            for now, change in ((below, du), (above, -du), (a, da), (c, dc)):
                shrinks = change < 0
                if shrinks.any():
                    limits.append(float((-now[shrinks] / change[shrinks]).min()))
            return min(limits)

        _, du, da, dc = direction(0.0, 0.0)
        length = longest(du, da, dc)
        after = share @ ((a + length * da) * (below + length * du) + (c + length * dc) * (above - length * du))
        mu = 0.5 * products * (max(after, 0.0) / products) ** 3
        dv, du, da, dc = direction(mu - da * du, mu + dc * du)
        length = 0.995 * longest(du, da, dc)
        if length < 1e-9:
            break
        v, u, a, c = v + length * dv, u + length * du, a + length * da, c + length * dc
        below, above = below + length * du, above - length * du
    return v, float(gap)


def _factor(matrix):
    scale = 1 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    scaled, extra = matrix * scale * scale[:, None], 0.0
    while len(matrix):
        try:
            return cho_factor(scaled + extra * np.eye(len(matrix))), scale
        except np.linalg.LinAlgError:
            extra = max(10 * extra, 1e-14)
    return None, scale


def _apply(factor, right):
    return factor[1] * cho_solve(factor[0], factor[1] * right)


def _solve(matrix, right):
    return _apply(_factor(matrix), right) if len(right) else right


def softmax_optimum(X, y, K, *, alpha, fit_intercept=True, weight=None):
    """The optimum of cross entropy: Newton's method with the whole hessian of (K, d + 1) numbers."""
    X = np.asarray(X, np.float64)
    n, d = X.shape
    share = np.full(n, 1 / n) if weight is None else np.asarray(weight, np.float64) / np.sum(weight)
    mean = share @ X if fit_intercept else np.zeros(d)
    scale = np.sqrt(share @ (X - mean) ** 2)
    scale = np.where(scale > 1e-13 * np.abs(X).max(axis=0), scale, np.inf)
    A = np.hstack([(X - mean) / scale, np.ones((n, 1))]) if fit_intercept else (X - mean) / scale
    ridge = np.append(np.where(np.isfinite(scale), alpha / scale**2, 1.0), [1e-12] * fit_intercept)
    target, m = shares(y, K), A.shape[1]

    def at(V):
        raw = A @ V.T
        logs = logsumexp(raw, axis=1)
        value = share @ (logs - (raw * target).sum(axis=1)) + 0.5 * (ridge * V**2).sum()
        return value, np.exp(raw - logs[:, None])

    V = np.zeros((K, m))
    value, p = at(V)
    for _ in range(200):
        gradient = ((p - target) * share[:, None]).T @ A + ridge * V
        hessian = np.zeros((K, m, K, m))
        for j in range(K):
            for k in range(j + 1):
                hessian[j, :, k] = hessian[k, :, j] = (A.T * (share * p[:, j] * ((j == k) - p[:, k]))) @ A
            hessian[j, :, j] += np.diag(ridge + 1e-13)
        step = _solve(hessian.reshape(K * m, K * m), gradient.ravel()).reshape(K, m)
        decrement, length = float(np.vdot(gradient, step)), 1.0
        if decrement <= RELATIVE * value:
            break
        while True:
            trial = at(V - length * step)
            if trial[0] <= value - 1e-4 * length * decrement or length < 1e-12:
                break
            length *= 0.5
        V, (value, p) = V - length * step, trial
    coef = V[:, :d] / scale
    intercept = V[:, d] - coef @ mean if fit_intercept else np.zeros(K)
    return objective("cross_entropy", X, y, coef, intercept, alpha=alpha, weight=weight), coef, intercept
