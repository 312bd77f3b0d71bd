"""Robust and quantile regression with SGDLossRegressor.

Run: ``python examples/robust_regression.py``.
"""

import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fastloss


def data(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Waiting times: a linear trend, errors with a long right tail that grows with the first column."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(0, 10, size=(n, 3))
    return X, X @ [2.0, -1.0, 0.5] + 10 + (0.2 + X[:, 0]) * (rng.lognormal(size=n) - 1)


def regressor(loss: str, **options):
    """Scaled columns, then SGD; ``tol`` follows the loss's own size, so it is given."""
    model = fastloss.SGDLossRegressor(loss, learning_rate="adaptive", tol=1e-4, random_state=0, **options)
    return make_pipeline(StandardScaler(), model)


def main() -> dict[str, float]:
    """Print and return the share of new targets below each model's prediction."""
    X, y = data(20_000, seed=0)
    X_new, y_new = data(20_000, seed=1)
    shares = {}
    for title, model in {
        "mean": regressor("squared_error"),
        "huber": regressor("huber", epsilon=1.0),
        "median": regressor("quantile", quantile=0.5),
        "90 %": regressor("quantile", quantile=0.9),
    }.items():
        prediction = model.fit(X, y).predict(X_new)
        shares[title] = float(np.mean(y_new <= prediction))
        print(f"{title:<7} {100 * shares[title]:5.1f} % of new targets are below the prediction")
    return shares


if __name__ == "__main__":
    main()
