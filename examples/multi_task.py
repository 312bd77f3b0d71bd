"""Three targets of different kinds, with gaps, in one linear model: a loss of its own for every column.

Run: ``python examples/multi_task.py``.
"""

import numpy as np

import fastloss
from fastloss.losses import AbsoluteError, SquaredError

LOSS = fastloss.MultiTaskLoss(
    [
        (1.0, 0.5 * AbsoluteError() + 0.5 * SquaredError(), 0),  # minutes, with outliers
        (1.0, "log_loss", 1),  # late or not
        (1.0, "poisson", 2),  # a count
    ]
)


def data(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Deliveries: their distance, hour and load; minutes, late or not, parcels returned. Synthetic."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.uniform(1e3, 3e4, n), rng.integers(6, 22, n), rng.gamma(2.0, 50.0, n)])
    minutes = 10 + X[:, 0] / 600 + 0.1 * X[:, 2] + 3 * rng.standard_t(3, n)
    late = rng.random(n) < 1 / (1 + np.exp(-(minutes - 45) / 5))
    returned = rng.poisson(np.exp(-1 + 0.004 * X[:, 2]))
    return X, np.column_stack([minutes, late, returned]).astype(float)


def main() -> dict[str, float]:
    """Print and return, for new deliveries, the median error of minutes, the share of right sides, the mean count."""
    X, y = data(20_000, seed=0)
    known = y.copy()
    known[np.random.default_rng(2).random(y.shape) < 0.4] = np.nan  # two of five targets were never written down
    model = fastloss.SGDLossRegressor(LOSS, penalty=None).fit(X, known)
    X_new, y_new = data(20_000, seed=1)
    minutes, late, returned = model.predict(X_new).T  # a median and mean, a probability, an expected count
    found = {
        "error of minutes": float(np.median(np.abs(minutes - y_new[:, 0]))),
        "right about late": float(np.mean((late > 0.5) == y_new[:, 1])),
        "returned, predicted / true": float(returned.mean() / y_new[:, 2].mean()),
    }
    for name, value in found.items():
        print(f"{name:<27} {value:.3f}")
    print(f"converged: {model.converged_}, {model.n_iter_} passes over X for {LOSS.n_columns} columns")
    return found


if __name__ == "__main__":
    main()
