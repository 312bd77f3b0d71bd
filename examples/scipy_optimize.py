"""The losses under scipy.optimize: a linear model by three methods, and a curve of one's own by the chain rule.

Run: ``python examples/scipy_optimize.py``.
"""

import numpy as np
from scipy.optimize import least_squares, minimize
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import StandardScaler

import fastloss


def linear_model() -> dict[str, float]:
    """A robust linear model: LinearObjective is the function, its gradient and its hessian products in one object."""
    X, y = load_diabetes(return_X_y=True)
    objective = fastloss.LinearObjective(StandardScaler().fit_transform(X), y, fastloss.losses.PseudoHuber(delta=50.0))
    values = {}
    for method in ("L-BFGS-B", "trust-ncg", "Newton-CG"):
        products = {} if method == "L-BFGS-B" else {"hessp": objective.hessp}
        result = minimize(objective, objective.initial, jac=True, method=method, **products)
        values[method] = float(result.fun)
        print(f"{method:<9} {result.fun:.6f} after {result.nit} iterations")
    return values


def curve(theta: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The raw prediction a·exp(-b·t) + c at times t, and its derivatives by (a, b, c)."""
    a, b, c = theta
    decay = np.exp(-b * t)
    return a * decay + c, np.stack([decay, -a * t * decay, np.ones_like(t)], axis=1)


def decaying_curve() -> dict[str, np.ndarray]:
    """A decay with gross errors: the kernels' gradient by the raw prediction, times that by the parameters."""
    rng = np.random.default_rng(0)
    t = rng.uniform(0, 5, 2000)
    truth = np.array([3.0, 1.2, 0.5])
    y = curve(truth, t)[0] + 0.1 * rng.normal(size=t.size)
    y[rng.random(t.size) < 0.1] += 4
    loss = fastloss.losses.Huber(delta=0.2)

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        raw, jacobian = curve(theta, t)
        value, gradient = loss.loss_gradient(y, raw)  # of the mean loss, by raw
        return value, jacobian.T @ gradient

    def product(theta: np.ndarray, v: np.ndarray) -> np.ndarray:
        raw, jacobian = curve(theta, t)  # Gauss and Newton's: the curve's own bend is left out
        return jacobian.T @ (loss.gradient_hessian(y, raw)[1] * (jacobian @ v))

    start = np.array([1.0, 1.0, 0.0])
    squares = least_squares(lambda theta: curve(theta, t)[0] - y, start)
    peer = least_squares(lambda theta: curve(theta, t)[0] - y, start, loss="huber", f_scale=loss.delta, xtol=1e-12)
    found = {"truth": truth, "least squares": squares.x, "SciPy's Huber": peer.x}
    found["L-BFGS-B"] = minimize(objective, start, jac=True, method="L-BFGS-B", options={"gtol": 1e-9, "ftol": 0}).x
    found["trust-ncg"] = minimize(objective, start, jac=True, hessp=product, method="trust-ncg", tol=1e-9).x
    for name, theta in found.items():
        print(f"{name:<14}" + "".join(f"{value:9.4f}" for value in theta))
    return found


def main() -> dict[str, dict]:
    """Run both; return the values of the first and the parameters of the second."""
    return {"linear": linear_model(), "curve": decaying_curve()}


if __name__ == "__main__":
    main()
