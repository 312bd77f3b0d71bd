"""Losses over a whole batch, as their papers write them: slow, obvious, in long double; derivatives by differences.

``value(name, y, raw, weight, group, **params)`` is the mean.  ``frozen`` returns it as a function of raw alone, with
what the loss holds fixed (LambdaRank's order and weights) taken at the given scores.
"""

import math

import numpy as np

LONG = np.longdouble
ZERO, ONE = LONG(0), LONG(1)
SURROGATES = {
    "squared_hinge": lambda d: np.maximum(ZERO, ONE - d) ** 2,
    "hinge": lambda d: np.maximum(ZERO, ONE - d),
    "logistic": lambda d: np.logaddexp(ZERO, -d),
}


def sigmoid(x):
    return ONE / (ONE + np.exp(-x))


def pairwise_auc(y, raw, w, surrogate="squared_hinge"):
    up, down = y > 0, y <= 0
    pairs = np.outer(w[up], w[down])
    return np.sum(pairs * SURROGATES[surrogate](raw[up][:, None] - raw[down][None, :])) / np.sum(pairs)


def dcg(gains, ranks, upto=math.inf):
    return sum((g / np.log2(ONE + r) for g, r in zip(gains, ranks, strict=True) if r <= upto), start=ZERO)


def pairwise_logistic(y, w):
    def at(s):
        total = ZERO
        for i in range(len(y)):
            for j in range(len(y)):
                if y[i] > y[j]:
                    total += w[i] * w[j] * np.logaddexp(ZERO, s[j] - s[i])
        return total

    return at


def lambdarank(y, w, s0, truncation=30, sigmoid=1.0, normalize=True):
    """The pairs' weights are found at s0; LightGBM's rank_objective.hpp, pair by pair."""
    n, gains = len(y), LONG(2) ** y - 1
    order = sorted(range(n), key=lambda i: -s0[i])  # stable, as LightGBM's
    rank = {row: place + 1 for place, row in enumerate(order)}
    best = dcg(sorted(gains, reverse=True), range(1, n + 1), truncation)
    pairs, slopes = [], ZERO
    for i in range(n):
        for j in range(n):
            if y[i] > y[j] and min(rank[i], rank[j]) <= truncation:
                change = (gains[i] - gains[j]) * abs(1 / np.log2(ONE + rank[i]) - 1 / np.log2(ONE + rank[j])) / best
                if normalize and max(s0) != min(s0):
                    change /= LONG(0.01) + abs(s0[i] - s0[j])
                pairs.append((i, j, change))
                slopes += 2 * sigmoid * change / (ONE + np.exp(sigmoid * (s0[i] - s0[j])))
    factor = np.log2(ONE + slopes) / slopes if normalize and slopes > 0 else ONE

    def at(s):
        terms = (w[i] * w[j] * c * np.logaddexp(ZERO, -sigmoid * (s[i] - s[j])) for i, j, c in pairs)
        return factor * sum(terms, start=ZERO)

    return at


def listnet(y, w, targets="softmax"):
    mass = w * (np.exp(y) if targets == "softmax" else LONG(2) ** y - 1)

    def at(s):
        if not mass.sum() > 0:
            return ZERO
        first = w * np.exp(s - s.max())
        return -np.sum(mass / mass.sum() * np.log(first / first.sum()))

    return at


def approx_ndcg(y, w, temperature=0.1):
    gains = w * (LONG(2) ** y - 1)
    best = dcg(sorted(gains, reverse=True), range(1, len(y) + 1))

    def at(s):
        if not best > 0:
            return ZERO
        beaten = sigmoid((s[None, :] - s[:, None]) / LONG(temperature))
        ranks = ONE + beaten.sum(axis=1) - np.diag(beaten)
        return ONE - dcg(gains, ranks) / best

    return at


def overlap(y, raw, w, alarm, miss, hit, smooth):
    """From the norms: the intersection is half of |y| + |p| - |y - p|."""
    p = sigmoid(raw)
    hits = (np.sum(w * y) + np.sum(w * p) - np.sum(w * abs(y - p))) / 2
    alarms, misses = np.sum(w * p) - hits, np.sum(w * y) - hits
    return ONE - (hit * hits + smooth) / (hit * hits + alarm * alarms + miss * misses + smooth)


def lovasz_hinge(y, raw, w):
    """Berman's algorithm 1: errors sorted, differences of the Jaccard loss of the first k rows as the mistakes."""
    error = ONE - np.where(y > 0, raw, -raw)
    order = sorted(range(len(y)), key=lambda i: -error[i])
    positive = np.where(y > 0, w, ZERO)

    def jaccard(rows):
        inside = positive.sum() - sum((positive[i] for i in rows), start=ZERO)
        union = positive.sum() + sum((w[i] for i in rows if y[i] <= 0), start=ZERO)
        return ONE - inside / union if union > 0 else ZERO

    return sum(
        (max(ZERO, error[i]) * (jaccard(order[: k + 1]) - jaccard(order[:k])) for k, i in enumerate(order)), start=ZERO
    )


RANKING = {"pairwise_logistic": pairwise_logistic, "listnet": listnet, "approx_ndcg": approx_ndcg}
# What a group adds to the mean's denominator, where that is not 1.
SIZES = {
    "pairwise_logistic": lambda y, w: np.sum(np.outer(w, w) * (y[:, None] > y[None, :])),
    "lambdarank": lambda y, w: np.mean(w) ** 2,
}
COSTS = {
    "soft_fbeta": lambda beta=1.0: (ONE, LONG(beta) ** 2, ONE + LONG(beta) ** 2),
    "dice": lambda: (ONE, ONE, ONE * 2),
    "tversky": lambda alpha=0.5, beta=0.5: (LONG(alpha), LONG(beta), ONE),
    "jaccard": lambda: (ONE, ONE, ONE),
}


def frozen(name, y, raw, weight=None, group=None, **params):
    """The mean loss as a function of raw."""
    n = len(raw)
    w = np.ones(n, LONG) if weight is None else np.asarray(weight, LONG)
    there, y, raw = w > 0, np.asarray(y, LONG), np.asarray(raw, LONG)
    if name not in RANKING and name != "lambdarank":
        y = np.maximum(y, 0)
        if name == "pairwise_auc":
            return lambda s: pairwise_auc(y[there], s[there], w[there], **params)
        if name == "lovasz_hinge":
            return lambda s: lovasz_hinge(y[there], s[there], w[there])
        smooth = params.pop("smooth", 0.0)
        costs = COSTS[name](**params)
        return lambda s: overlap(y[there], s[there], w[there], *costs, LONG(smooth))
    ends = np.cumsum([n] if group is None else group)
    parts, divisor = [], ZERO
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        rows = np.arange(start, end)[there[start:end]]
        if len(rows):
            about = (y[rows], w[rows], raw[rows]) if name == "lambdarank" else (y[rows], w[rows])
            parts.append((rows, (lambdarank if name == "lambdarank" else RANKING[name])(*about, **params)))
            divisor += SIZES.get(name, lambda y, w: ONE)(y[rows], w[rows])
    return lambda s: sum((at(s[rows]) for rows, at in parts), start=ZERO) / divisor


def value(name, y, raw, weight=None, group=None, **params):
    return float(frozen(name, y, raw, weight, group, **params)(np.asarray(raw, LONG)))


def derivatives(name, y, raw, weight=None, group=None, **params):
    """Gradient and diagonal of the hessian, by central differences of 4th order in long double."""
    at, raw = frozen(name, y, raw, weight, group, **params), np.asarray(raw, LONG)
    h = LONG(2) ** -11
    gradient, hessian = np.zeros(len(raw)), np.zeros(len(raw))
    for i in range(len(raw)):
        step = np.zeros(len(raw), LONG)
        step[i] = h
        f = [at(raw + k * step) for k in (-2, -1, 0, 1, 2)]
        gradient[i] = (f[0] - 8 * f[1] + 8 * f[3] - f[4]) / (12 * h)
        hessian[i] = (-f[0] + 16 * f[1] - 30 * f[2] + 16 * f[3] - f[4]) / (12 * h * h)
    return gradient, hessian
