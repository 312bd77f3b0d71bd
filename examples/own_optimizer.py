"""An optimiser of one's own on the kernels: SciPy's L-BFGS minimises a robust linear model.

Run: ``python examples/own_optimizer.py``.
"""

import numpy as np
from scipy.optimize import OptimizeResult, minimize

import fastloss


def fit(X: np.ndarray, y: np.ndarray, loss: fastloss.losses.Loss, alpha: float = 0.0) -> OptimizeResult:
    """Minimise mean loss + alpha/2 |w|² over the coefficients w of the raw prediction X @ w."""
    gradient = np.empty(len(y))  # written again in every evaluation: nothing else of length n is allocated

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        value, _ = loss.loss_gradient(y, X @ w, gradient_out=gradient)
        return value + alpha / 2 * (w @ w), X.T @ gradient + alpha * w

    return minimize(objective, np.zeros(X.shape[1]), jac=True, method="L-BFGS-B", options={"gtol": 1e-8})


def main() -> dict[str, float]:
    """Fit data with gross errors by two losses; print and return the distances from the true coefficients."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 20))
    truth = rng.normal(size=20)
    y = X @ truth + rng.normal(size=20_000)
    y[:1000] += 50.0 * np.sign(X[:1000, 0])  # 5 % gross errors that follow a column
    distances = {}
    for loss in (fastloss.losses.SquaredError(), fastloss.losses.Huber(delta=1.35)):
        result = fit(X, y, loss)
        distances[loss.name] = float(np.linalg.norm(result.x - truth))
        print(f"{loss!r:<20} {result.nfev:3d} evaluations, {distances[loss.name]:.3f} from the truth")
    return distances


if __name__ == "__main__":
    main()
