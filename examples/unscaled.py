"""Columns of any scale, no step size to tune: the optimum, how far from it a fit may be, and how it got there.

Run: ``python examples/unscaled.py``.
"""

import numpy as np

import fastloss


def data(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Like a table of terrain: metres, degrees, shares and flags side by side, some columns far from zero."""
    rng = np.random.default_rng(0)
    metres = rng.normal(3000, 280, size=(n, 1))
    degrees = rng.uniform(0, 360, size=(n, 1))
    distances = rng.exponential(2000, size=(n, 3))
    shares = rng.beta(8, 2, size=(n, 2))
    flags = rng.random((n, 5)) < [0.5, 0.2, 0.05, 0.01, 0.002]
    X = np.hstack([metres, degrees, distances, shares, flags])
    score = (metres[:, 0] - 3000) / 200 - distances[:, 0] / 2000 + 3 * shares[:, 0] + flags @ [0.5, 1.0, -1.0, 2.0, 0.0]
    return X, score + rng.logistic(size=n) > 2


def main() -> dict[str, float]:
    """Fit twice, to the default tolerance and a thousand times closer; print and return what came of it."""
    X, y = data(50_000)
    found = {}
    for name, tol in (("default", 1e-3), ("closer", 1e-6)):
        model = fastloss.SGDLossClassifier(loss="log_loss", alpha=1e-5, tol=tol).fit(X, y)
        found[name] = model.objective_curve_[-1]
        curve = ", ".join(f"{value:.4f}" for value in model.objective_curve_[:5])
        print(f"tol={tol:g}: {model.n_iter_} passes over X, converged: {model.converged_}; objective {curve}, ...")
    found["gap"] = (found["default"] - found["closer"]) / found["closer"]
    found["right"] = float(model.score(X, y))
    print(f"The default fit is {found['gap']:.1e} above the closer one; {100 * found['right']:.1f} % of labels right")
    return found


if __name__ == "__main__":
    main()
