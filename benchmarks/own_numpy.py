"""Losses over a whole batch as one writes them in NumPy: value and gradient, in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import expit, log_softmax, softmax

Value = tuple[float, np.ndarray]


# ---- two classes: (y, raw) -> value and gradient --------------------------------------------------


def pairwise_auc(y: np.ndarray, raw: np.ndarray, power: int) -> Value:
    """max(0, 1 - d)^power over the pairs, in O(n log n): one sort, then sums over what lies above a threshold."""
    order = np.argsort(raw)
    positive = y[order] > 0
    up, down = raw[order[positive]], raw[order[~positive]]
    pairs = len(up) * len(down)
    total, of_up = _over_pairs(up, down, power)
    _, of_down = _over_pairs(-down[::-1], -up[::-1], power)  # the same pairs, seen from the other side
    gradient = np.empty_like(raw)
    gradient[order[positive]] = of_up / pairs
    gradient[order[~positive]] = -of_down[::-1] / pairs
    return total / pairs, gradient


def _over_pairs(a: np.ndarray, b: np.ndarray, power: int) -> Value:
    """Sum over all a and all b above a - 1 of (1 - a + b)^power, and its derivative by each a; both are sorted."""
    first = np.searchsorted(b, a - 1, side="right")
    count = len(b) - first
    margin = 1 - a
    sums = [np.append(np.cumsum(b[::-1] ** k)[::-1], 0.0)[first] for k in range(1, power + 1)]
    if power == 1:
        return float(np.sum(count * margin + sums[0])), -count.astype(float)
    return float(np.sum(count * margin**2 + 2 * margin * sums[0] + sums[1])), -2 * (count * margin + sums[0])


def lovasz_hinge(y: np.ndarray, raw: np.ndarray) -> Value:
    """Sorted errors times the differences of the Jaccard loss (Berman's algorithm 1)."""
    sign = np.where(y > 0, 1.0, -1.0)
    error = 1 - sign * raw
    order = np.argsort(-error)
    positive, error, sign = y[order] > 0, error[order], sign[order]
    total = positive.sum()
    jaccard = 1 - (total - np.cumsum(positive)) / (total + np.cumsum(~positive))
    step = np.diff(jaccard, prepend=0.0)
    gradient = np.empty_like(raw)
    gradient[order] = np.where(error > 0, -sign * step, 0.0)
    return float(np.maximum(error, 0) @ step), gradient


def soft_f1(y: np.ndarray, raw: np.ndarray) -> Value:
    """1 - 2 sum(y p) / (sum y + sum p), for labels 0 and 1."""
    p = expit(raw)
    hits, size = float(y @ p), float(y.sum() + p.sum())
    return 1 - 2 * hits / size, (2 * hits / size - 2 * y) / size * p * (1 - p)


# ---- one group: (grades, scores) -> value and gradient --------------------------------------------


def listnet(y: np.ndarray, s: np.ndarray) -> Value:
    wanted = softmax(y)
    return float(-wanted @ log_softmax(s)), softmax(s) - wanted


def approx_ndcg(y: np.ndarray, s: np.ndarray, temperature: float = 0.1) -> Value:
    gains = np.exp2(y) - 1
    best = np.sort(gains)[::-1] @ (1 / np.log2(2.0 + np.arange(len(y))))
    beaten = expit((s[None, :] - s[:, None]) / temperature)
    np.fill_diagonal(beaten, 0.0)
    rank = 1 + beaten.sum(axis=1)
    by_rank = gains / best * np.log(2) / ((1 + rank) * np.log1p(rank) ** 2)
    slope = beaten * (1 - beaten) / temperature
    return float(1 - gains @ (1 / np.log2(1 + rank)) / best), slope @ by_rank - slope.sum(axis=1) * by_rank


def lambdarank(y: np.ndarray, s: np.ndarray, truncation: int = 30) -> Value:
    """LightGBM's, normalised: pairs of the first ``truncation`` places with all below them."""
    order = np.argsort(-s, kind="stable")
    y, s = y[order], s[order]
    gains, discount = np.exp2(y) - 1, 1 / np.log2(2.0 + np.arange(len(y)))
    best = np.sort(gains)[::-1][:truncation] @ discount[:truncation]
    top = slice(min(truncation, len(y)))
    sign = np.triu(np.sign(y[top, None] - y[None, :]), 1)
    ahead = s[top, None] - s[None, :]
    change = np.abs((gains[top, None] - gains) * (discount[top, None] - discount)) * np.abs(sign) / best
    if s[0] != s[-1]:
        change /= 0.01 + np.abs(ahead)
    slope = change * expit(-sign * ahead)
    total = 2 * slope.sum()
    factor = np.log2(1 + total) / total if total > 0 else 1.0
    pull = factor * sign * slope
    gradient = pull.sum(axis=0)
    gradient[top] -= pull.sum(axis=1)
    back = np.empty_like(s)
    back[order] = gradient
    return float(factor * np.sum(change * np.logaddexp(0, -sign * ahead))), back


def by_group(one: Callable[[np.ndarray, np.ndarray], Value], y: np.ndarray, raw: np.ndarray, size: int) -> Value:
    """Sum over groups of ``size`` rows, one after the other."""
    total, gradient = 0.0, np.empty_like(raw)
    for start in range(0, len(y), size):
        rows = slice(start, start + size)
        value, gradient[rows] = one(y[rows], raw[rows])
        total += value
    return total, gradient
