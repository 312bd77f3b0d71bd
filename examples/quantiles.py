"""Several quantiles in the same passes over the table, with an interval and its coverage.

Run: ``python examples/quantiles.py``.
"""

import numpy as np

import fastloss

LEVELS = [0.1, 0.5, 0.9]


def data(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Delays in minutes: a trend, and errors with a long right tail that grow with the distance in metres."""
    rng = np.random.default_rng(seed)
    distance, hour = rng.uniform(1e5, 3e6, n), rng.integers(0, 24, n)
    y = 5 + 0.8 * hour + distance / 1e6 * rng.lognormal(0, 1, n) * 4
    return np.column_stack([distance, hour]), y


def main() -> dict[str, float]:
    """Print and return the share of new targets below each quantile, and in the interval between the outer ones."""
    X, y = data(30_000, seed=0)
    X_new, y_new = data(30_000, seed=1)
    model = fastloss.SGDLossRegressor("quantile", quantile=LEVELS, penalty=None).fit(X, y)
    prediction = model.predict(X_new)  # a column per level
    shares = {f"{q:g}": float(np.mean(y_new <= column)) for q, column in zip(LEVELS, prediction.T, strict=True)}
    shares["interval"] = float(np.mean((prediction[:, 0] <= y_new) & (y_new <= prediction[:, -1])))
    for name, share in shares.items():
        print(f"{name:>8}: {100 * share:5.1f} % of new targets")
    print(f"{model.n_iter_} passes over X for {len(LEVELS)} quantiles")
    return shares


if __name__ == "__main__":
    main()
