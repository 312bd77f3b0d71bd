"""LightGBM with the focal loss, on a table where one row in 600 is a fraud.

Custom objectives lose what LightGBM does for its own: the starting score, the probability, the metric. The adapter has
them, and a hessian that is positive although the focal loss is not convex.

Run: ``python examples/focal_boosting.py``. The table is ``creditcard.npz`` in the folder that the environment variable
FASTLOSS_DATA names; without it, synthetic data of the same kind. Needs LightGBM.
"""

import os
from pathlib import Path

import numpy as np
from sklearn.datasets import make_classification
from sklearn.metrics import average_precision_score

import fastloss

try:
    import lightgbm as lgb
except ImportError:
    lgb = None

PARAMS = {"num_threads": 1, "seed": 0, "verbose": -1, "num_leaves": 15, "learning_rate": 0.1, "min_data_in_leaf": 50}


def data() -> tuple[np.ndarray, np.ndarray, str]:
    """Every fourth row of the table of credit card payments, or something like it."""
    path = Path(os.environ.get("FASTLOSS_DATA", "")) / "creditcard.npz"
    if path.is_file():
        with np.load(path) as file:
            return file["X"][::4], file["y"][::4], "creditcard"
    X, y = make_classification(60_000, 30, n_informative=8, weights=[0.997], flip_y=0.001, random_state=0)
    return X, y, "synthetic data (FASTLOSS_DATA has no creditcard.npz)"


def main() -> dict[str, float] | None:
    """Train with the log loss and the focal loss; print and return average precision on rows not seen."""
    if lgb is None:
        print("LightGBM is not installed")
        return None
    X, y, name = data()
    held = np.random.default_rng(0).random(len(y)) < 0.4
    print(f"{name}: {len(y)} rows, {100 * y.mean():.2f} % positive")
    found = {}
    for loss in (fastloss.get_loss("log_loss"), fastloss.get_loss("focal", gamma=2.0)):
        objective = loss.as_lightgbm(n_threads=1)
        start = objective.init_score(y[~held])
        train = lgb.Dataset(X[~held], y[~held], init_score=start)
        model = lgb.train({**PARAMS, **objective.params}, train, num_boost_round=60)
        probability = objective.predict(model.predict(X[held]) + start[0])
        found[loss.name] = float(average_precision_score(y[held], probability))
        print(
            f"{loss.name:8} average precision {found[loss.name]:.3f}; positives expected "
            f"{probability.sum():.0f}, found {y[held].sum():.0f}"
        )
    return found


if __name__ == "__main__":
    main()
