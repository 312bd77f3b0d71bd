"""The metric itself, by black-box search: from the solutions of surrogates to the largest F1, and the least 0-1 error.

A metric of decisions is a step function of the coefficients: its gradient is 0 or does not exist, and a search has to
go by values alone. That works in few dimensions, so the search is in the space that the surrogates' models span: a
weight for each model's scores, and a threshold.

Frauds among card payments, if the folder FASTLOSS_DATA has ``creditcard.npz``; else synthetic ones.

Run: ``python examples/black_box_metric.py``.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.optimize import differential_evolution

import fastloss

SURROGATES = ("log_loss", "soft_fbeta", "pairwise_auc")


def payments() -> tuple[str, np.ndarray, np.ndarray]:
    """Name, standardised columns and rare labels."""
    file = Path(os.environ.get("FASTLOSS_DATA", "")) / "creditcard.npz"
    if file.is_file():
        table = np.load(file)
        X, y = table["X"].astype(np.float64), table["y"] == 1
        return "creditcard", (X - X.mean(axis=0)) / X.std(axis=0), y
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40_000, 10))
    kind = rng.random(len(X)) < 0.5  # two kinds of positives: no logistic model is the truth
    score = np.where(kind, X[:, 0] + X[:, 1], 2 * X[:, 0] - X[:, 2] ** 2)
    return "synthetic payments", X, score + rng.normal(size=len(X)) > 3


def lost_f1(y: np.ndarray, decision: np.ndarray) -> float:
    """1 - F1 = (FP + FN) / (2 TP + FP + FN)."""
    wrong = np.count_nonzero(y != decision)
    return wrong / (wrong + 2 * np.count_nonzero(y & decision)) if wrong else 0.0


def error(y: np.ndarray, decision: np.ndarray) -> float:
    """Share of wrong decisions."""
    return np.count_nonzero(y != decision) / len(y)


def search(
    metric: Callable[[np.ndarray, np.ndarray], float], y: np.ndarray, scores: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """Weights of the scores (n, k) and a threshold, (k + 1,), of the least metric found; never worse than `start`."""

    def value(weights: np.ndarray) -> float:
        return metric(y, scores @ weights[:-1] > weights[-1])

    bounds = [(-2.0, 2.0)] * scores.shape[1] + [(-8.0, 8.0)]
    return differential_evolution(value, bounds, x0=start, maxiter=25, popsize=8, polish=False, rng=0).x


def main() -> dict[str, tuple[float, float]]:
    """Search on half of the rows; print and return each metric on the other half, before and after."""
    name, X, y = payments()
    train = np.random.default_rng(1).random(len(y)) < 0.5
    print(f"{name}: {len(y)} rows, {100 * y.mean():.2f} % positive")
    scores, start = np.empty((len(y), len(SURROGATES))), None
    for k, loss in enumerate(SURROGATES):
        objective = fastloss.LinearObjective(X[train], y[train], loss, alpha=1e-5)
        # The overlaps are not convex: they start from the log loss's solution.
        start_here = start if loss == "soft_fbeta" else None
        solution = objective.minimize(start=start_here, options={"maxiter": 30}).x
        start = solution if start is None else start
        coef, intercept = objective.unpack(solution)
        raw = X @ coef + intercept
        scores[:, k] = raw / raw[train].std() if loss == "pairwise_auc" else raw
    before = scores[:, 0] > 0  # the log loss's own decision, p > 1/2
    found = {}
    for title, metric in (("1 - F1", lost_f1), ("0-1 error", error)):
        weights = search(metric, y[train], scores[train], np.array([1.0, 0.0, 0.0, 0.0]))
        after = scores @ weights[:-1] > weights[-1]
        found[title] = (metric(y[~train], before[~train]), metric(y[~train], after[~train]))
        print(f"{title:9s}  {found[title][0]:.5f} -> {found[title][1]:.5f} on held-out rows")
    return found


if __name__ == "__main__":
    main()
