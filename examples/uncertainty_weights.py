"""Weights of tasks that are learned: one hidden feature for three targets in units of their own.

With equal weights the target in the largest unit gets the feature to itself.  With a log-variance for every task,
minimised like the coefficients, units do not matter (Kendall, Gal and Cipolla, CVPR 2018).

Run: ``python examples/uncertainty_weights.py``.
"""

import numpy as np
from scipy.optimize import minimize

import fastloss

TASKS = [(1.0, "squared_error", 0), (1.0, "log_loss", 1), (1.0, "huber", 2)]
LOSS = fastloss.MultiTaskLoss(TASKS, weighting="uncertainty")


def data(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy target in grams, a label, a precise target in metres, of the same sum of features. Synthetic."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 20))
    hidden = X @ np.random.default_rng(0).normal(size=20) / np.sqrt(20)
    grams = 1000 * (0.3 * hidden + 2 * rng.normal(size=n))
    label = rng.random(n) < 1 / (1 + np.exp(-2 * hidden))
    metres = hidden + 0.1 * rng.normal(size=n)
    return X, np.column_stack([grams, label, metres])


def fit(X: np.ndarray, y: np.ndarray, learned: bool) -> np.ndarray:
    """Minimise over the hidden feature u, its factors a and b for every target, and the log-variances s."""
    d, T = X.shape[1], y.shape[1]

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        u, a, b, s = np.split(parameters, [d, d + T, d + 2 * T])
        hidden = X @ u
        loss, gradient, by_s = LOSS.loss_gradient(y, np.outer(hidden, a) + b, log_variances=s)
        by_u = X.T @ (gradient @ a)
        return loss, np.concatenate([by_u, hidden @ gradient, gradient.sum(axis=0), by_s * learned])

    constants = np.nan_to_num(np.where([True, False, True], y.mean(axis=0), 0.0))
    s = np.zeros(T)
    if learned:  # from where the constants are best
        s = LOSS.best_log_variances(y, np.tile(constants, (len(y), 1)))
    start = np.concatenate([np.full(d, 0.1), np.full(T, 0.1), constants, s])
    return minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x


def main() -> dict[str, float]:
    """Print and return how well the feature of each fit is correlated with the one in the data."""
    X, y = data(500, seed=1)
    X_new, _ = data(5000, seed=2)
    truth = X_new @ np.random.default_rng(0).normal(size=20)
    found = {}
    for name, learned in (("equal weights", False), ("learned weights", True)):
        parameters = fit(X, y, learned)
        found[name] = float(abs(np.corrcoef(X_new @ parameters[: X.shape[1]], truth)[0, 1]))
        print(f"{name:<16} correlation with the hidden feature {found[name]:.3f}")
    deviations = np.exp(parameters[-2 - 1 :] / 2)
    print("standard deviations of the tasks, learned:", ", ".join(f"{value:.3g}" for value in deviations))
    found["grams"] = float(deviations[0])
    return found


if __name__ == "__main__":
    main()
