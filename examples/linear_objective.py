"""Logistic regression by L-BFGS on LinearObjective: loss and gradient in one pass over the table.

Run: ``python examples/linear_objective.py``.
"""

import numpy as np
from scipy.optimize import minimize
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import fastloss


def main() -> dict[str, float]:
    """Fit, compare with scikit-learn's optimum; print and return both objectives and the share of right labels."""
    X, y = load_breast_cancer(return_X_y=True)
    X, alpha = StandardScaler().fit_transform(X), 1e-3
    objective = fastloss.LinearObjective(X, y, "log_loss", alpha=alpha)
    result = minimize(objective, objective.initial, jac=True, method="L-BFGS-B", options={"gtol": 1e-6, "maxiter": 500})
    coef, intercept = objective.unpack(result.x)

    # scikit-learn minimises C times the sum of the losses + ½‖coef‖²: the same times C·n for alpha = 1 / (C·n)
    peer = LogisticRegression(C=1 / (alpha * len(y)), tol=1e-8, max_iter=1000).fit(X, y)
    theirs, _ = objective(np.append(peer.coef_, peer.intercept_))

    right = float(np.mean((X @ coef + intercept > 0) == y))
    print(f"objective {result.fun:.8f} after {result.nfev} evaluations, scikit-learn's {theirs:.8f}")
    print(f"{100 * right:.1f} % of the labels are right")
    return {"ours": float(result.fun), "scikit-learn": theirs, "right": right}


if __name__ == "__main__":
    main()
