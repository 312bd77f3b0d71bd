"""Stochastic gradient descent as plainly as possible: what the compiled trainer must compute."""

import numpy as np


def step_size(t, *, learning_rate, alpha, eta0, power_t):
    if learning_rate == "optimal":
        return 1 / (alpha * (1 / (alpha ** (-0.25) * alpha) + t - 1))
    return eta0 / t**power_t if learning_rate == "invscaling" else eta0


def slow_sgd(
    X, y, losses, *, K=None, weight=None, offset=None, batch_size=1, epochs=2, l1=0.0, l2=0.0, average=0, **how
):
    """Coefficients (T, d) and intercepts (T,) after `epochs` passes in storage order.

    `losses`: one multiclass loss (K scores), or one loss per column of y.
    """
    X = np.asarray(X, dtype=np.float64)
    n, d = X.shape
    joint = losses[0].kind == "multiclass"
    T = K if joint else len(losses)
    weight = np.ones(n) if weight is None else weight
    offset = np.zeros(n) if offset is None else offset
    coef, intercept, owed, paid = np.zeros((T, d)), np.zeros(T), 0.0, np.zeros((T, d))
    mean_coef, mean_intercept, t = np.zeros((T, d)), np.zeros(T), 1
    for _ in range(epochs):
        for begin in range(0, n, batch_size):
            rows = slice(begin, begin + batch_size)
            raw = X[rows] @ coef.T + intercept + offset[rows, None]
            if joint:
                gradient = losses[0].gradient(y[rows], raw, reduction="none")
            else:
                gradient = np.column_stack(
                    [loss.gradient(y[rows, k], raw[:, k], reduction="none") for k, loss in enumerate(losses)]
                )
            eta = step_size(t, **how)
            gradient = gradient * weight[rows, None] / len(raw)
            coef = coef * max(0.0, 1 - eta * l2) - eta * gradient.T @ X[rows]
            intercept = intercept - eta * gradient.sum(axis=0)
            if average and t >= average:
                mean_coef += (coef - mean_coef) / (t - average + 1)
                mean_intercept += (intercept - mean_intercept) / (t - average + 1)
            if l1:
                owed += l1 * eta
                before = coef
                coef = np.where(coef > 0, np.maximum(0, coef - (owed + paid)), np.minimum(0, coef + (owed - paid)))
                coef = np.where(before == 0, 0, coef)
                paid = paid + coef - before
            t += 1
    return (mean_coef, mean_intercept) if average and t > average else (coef, intercept)
