"""XGBoost with expectiles: how many bicycles to have ready when a missing one costs more than an idle one.

The 0.9-expectile weighs what is missing nine times as much as what is left over. XGBoost 3.2 has no such objective.

Run: ``python examples/expectile_boosting.py``. The table is ``bike_sharing_hour.npz`` in the folder that the
environment variable FASTLOSS_DATA names; without it, synthetic data. Needs XGBoost.
"""

import os
from pathlib import Path

import numpy as np

import fastloss

try:
    import xgboost as xgb
except ImportError:
    xgb = None

PARAMS = {"nthread": 1, "seed": 0, "max_depth": 5, "eta": 0.1}


def data() -> tuple[np.ndarray, np.ndarray, str]:
    """Bicycles rented in an hour, with weather and calendar; or something like it."""
    path = Path(os.environ.get("FASTLOSS_DATA", "")) / "bike_sharing_hour.npz"
    if path.is_file():
        with np.load(path) as file:
            return file["X"], file["y"], "bike_sharing_hour"
    rng = np.random.default_rng(0)
    X = rng.random((17_000, 6))
    mean = 200 * (1 + np.sin(6 * X[:, 0])) * X[:, 1] + 20
    return X, rng.gamma(3, mean / 3), "synthetic data (FASTLOSS_DATA has no bike_sharing_hour.npz)"


def main() -> dict[float, float] | None:
    """Train three expectiles; print and return which part of the misses, in bicycles, was too few."""
    if xgb is None:
        print("XGBoost is not installed")
        return None
    X, y, name = data()
    held = np.random.default_rng(0).random(len(y)) < 0.3
    test = xgb.DMatrix(X[held])
    print(f"{name}: {len(y)} rows, mean {y.mean():.0f}")
    found = {}
    for level in (0.1, 0.5, 0.9):
        objective = fastloss.get_loss("expectile", expectile=level).as_xgboost(n_threads=1)
        start = {"base_score": objective.init_score(y[~held])[0]}  # as a parameter it stays in the model
        train = xgb.DMatrix(X[~held], y[~held])
        model = xgb.train({**PARAMS, **objective.params, **start}, train, num_boost_round=100, obj=objective)
        missing = y[held] - model.predict(test)
        found[level] = float(missing[missing > 0].sum() / abs(missing).sum())
        print(f"expectile {level}: {100 * found[level]:.0f} % of the misses are bicycles too few")
    return found


if __name__ == "__main__":
    main()
