"""Second-order optimisers on LinearObjective: a Hessian-vector product is one pass over the table, as a gradient is.

Run: ``python examples/newton_cg.py``.
"""

import numpy as np
from scipy.optimize import OptimizeResult, minimize
from sklearn.datasets import load_iris
from sklearn.preprocessing import StandardScaler

import fastloss


def fit(objective: fastloss.LinearObjective, method: str) -> OptimizeResult:
    """Minimise with SciPy's Newton-CG or trust-ncg."""
    return minimize(objective, objective.initial, jac=True, hessp=objective.hessp, method=method)


def softmax() -> dict[str, float]:
    """Three species of iris; the share of right labels for each method."""
    X, y = load_iris(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    objective = fastloss.LinearObjective(X, y, "cross_entropy", alpha=1e-2)
    right = {}
    for method in ("Newton-CG", "trust-ncg"):
        result = fit(objective, method)
        coef, intercept = objective.unpack(result.x)
        right[method] = float(np.mean(np.argmax(X @ coef.T + intercept, axis=1) == y))
        print(f"{method:<9} softmax: objective {result.fun:.6f}, {result.nfev} gradients, {result.nhev} products")
    return right


def rates() -> float:
    """Counts that grow with exposure: log(exposure) is an offset of the raw prediction, not a feature."""
    rng = np.random.default_rng(0)
    X, exposure = rng.normal(size=(20_000, 3)), rng.uniform(0.1, 10, 20_000)
    truth = np.array([0.5, -0.3, 0.1])
    y = rng.poisson(exposure * np.exp(X @ truth - 1))
    objective = fastloss.LinearObjective(X, y, "poisson", offset=np.log(exposure))
    coef, intercept = objective.unpack(fit(objective, "trust-ncg").x)
    error = float(np.max(np.abs(np.append(coef - truth, intercept + 1))))
    print(f"trust-ncg poisson: {error:.3f} from the true coefficients")
    return error


def main() -> dict[str, float]:
    """Run both; return the shares of right labels and the error of the rates."""
    return {**softmax(), "rates": rates()}


if __name__ == "__main__":
    main()
