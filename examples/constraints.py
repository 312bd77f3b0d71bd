"""Coefficients that must not be negative, or must lie in an interval.

Run: ``python examples/constraints.py``.
"""

import numpy as np

import fastloss


def data(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Sales that follow from spending on four channels, two of which always rise together."""
    rng = np.random.default_rng(0)
    spending = rng.gamma(2.0, 500.0, size=(n, 4))
    spending[:, 1] = spending[:, 0] + rng.normal(0, 20, n)
    sales = spending @ [0.06, 0.0, 0.03, 0.0] + 200 + rng.laplace(0, 30, n)
    return spending, sales


def main() -> dict[str, np.ndarray]:
    """Print and return the coefficients without and with constraints."""
    X, y = data(2_000)
    coefficients = {}
    for title, options in {
        "free": {},
        "positive": {"positive": True},
        "bounds": {"bounds": (0.0, [0.05, 0.05, np.inf, np.inf])},  # a number, or one per column
    }.items():
        model = fastloss.SGDLossRegressor("absolute_error", penalty=None, **options).fit(X, y)
        coefficients[title] = model.coef_
        print(f"{title:<8} {np.array2string(model.coef_, precision=4, suppress_small=True)}")
    return coefficients


if __name__ == "__main__":
    main()
