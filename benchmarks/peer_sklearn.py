"""scikit-learn: its private ``sklearn._loss`` and ``LinearModelLoss`` for calls, its estimators for fits."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import sklearn
from sklearn._loss import loss as sk
from sklearn.linear_model import (
    HuberRegressor,
    LogisticRegression,
    PoissonRegressor,
    QuantileRegressor,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.linear_model._linear_loss import LinearModelLoss
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import LinearSVC

from benchmarks.peers import ITERATIONS, Minimum, NotAvailable, Output, Solution

NAME = "scikit-learn"
KERNEL_NOTE = "per-sample losses and gradients, into preallocated arrays (averaging is not charged to it)"
OBJECTIVE_NOTE = "LinearModelLoss.loss_gradient, what its LogisticRegression minimises"


def version() -> str:
    return sklearn.__version__


#: Our loss -> scikit-learn's, from our parameters.
LOSSES = {
    "squared_error": lambda p: sk.HalfSquaredError(),
    "absolute_error": lambda p: sk.AbsoluteError(),
    "huber": lambda p: sk.HuberLoss(delta=p["delta"]),
    "quantile": lambda p: sk.PinballLoss(quantile=p["quantile"]),
    "poisson": lambda p: sk.HalfPoissonLoss(),
    "gamma": lambda p: sk.HalfGammaLoss(),
    "tweedie": lambda p: sk.HalfTweedieLoss(power=p["power"]),
    "log_loss": lambda p: sk.HalfBinomialLoss(),
    "exponential": lambda p: sk.ExponentialLoss(),
}
NOTES = {"tweedie": "scikit-learn's loss differs from ours by terms without the prediction"}


class _Kernel:
    threaded = True

    def __init__(self, loss, note):
        self.function, self.loss_note = loss.loss_gradient, note
        self.loss, self.gradient = Output(), Output()

    def bind(self, y, raw, n_threads):
        """``loss_gradient`` into preallocated arrays; there is no call for the mean, so it is not charged."""
        return partial(
            self.function,
            y,
            raw,
            loss_out=self.loss.like(raw),
            gradient_out=self.gradient.like(raw),
            n_threads=n_threads or 1,
        )

    def per_sample(self, y, raw):
        return self.function(y, raw)


class _Multinomial:
    """HalfMultinomialLoss, whose labels are numbers of the scores' dtype."""

    threaded = True
    loss_note = ""

    def __init__(self):
        self.loss, self.gradient = Output(), Output()

    def bind(self, y, raw, n_threads):
        y = y.astype(raw.dtype)
        return partial(
            sk.HalfMultinomialLoss(n_classes=raw.shape[1]).loss_gradient,
            y,
            raw,
            loss_out=self.loss.like(y),
            gradient_out=self.gradient.like(raw),
            n_threads=n_threads or 1,
        )

    def per_sample(self, y, raw):
        return sk.HalfMultinomialLoss(n_classes=raw.shape[1]).loss_gradient(y.astype(raw.dtype), raw)


def kernel(loss, params):
    if loss == "cross_entropy":
        return _Multinomial()
    if loss not in LOSSES:
        raise NotAvailable("sklearn._loss has no such loss")
    return _Kernel(LOSSES[loss](params), NOTES.get(loss, ""))


def objective(problem, n_threads):
    X, K = problem.X, len(problem.coef)
    one = problem.loss == "log_loss"
    model = LinearModelLoss(sk.HalfBinomialLoss() if one else sk.HalfMultinomialLoss(n_classes=K), fit_intercept=True)
    table = np.column_stack([problem.coef, problem.intercept])
    coef = table[0] if one else np.asfortranarray(table)
    y = problem.y.astype(X.dtype)

    def value_and_gradient():
        value, gradient = model.loss_gradient(coef, X, y, l2_reg_strength=problem.alpha, n_threads=n_threads)
        gradient = np.atleast_2d(gradient)
        return value, gradient[:, :-1], gradient[:, -1]

    return value_and_gradient


def logistic(X, y, alpha, gtol, iterations, n_threads):
    model = LogisticRegression(C=1 / (alpha * len(y)), solver="lbfgs", tol=gtol, max_iter=iterations)

    def fit():
        model.fit(X, y)
        done = int(model.n_iter_.max())
        return Minimum(model.coef_, model.intercept_, done, done < iterations)

    return fit


#: Our name -> scikit-learn's, and which of our parameters its ``epsilon`` is.
CLASSIFIERS = {name: None for name in ("hinge", "log_loss", "squared_hinge", "modified_huber", "perceptron")}
REGRESSORS = {
    "squared_error": None,
    "huber": "delta",
    "epsilon_insensitive": "epsilon",
    "squared_epsilon_insensitive": "epsilon",
}


def estimator(fit, n_threads):
    cls, names = (SGDRegressor, REGRESSORS) if fit.task == "regression" else (SGDClassifier, CLASSIFIERS)
    if fit.loss not in names:
        raise NotAvailable(f"{cls.__name__} has no {fit.loss} loss")
    options = dict(fit.schedule)
    if names[fit.loss]:
        options["epsilon"] = fit.params[names[fit.loss]]
    if cls is SGDClassifier:
        options["n_jobs"] = n_threads
    return cls(loss=fit.loss, alpha=fit.alpha, max_iter=fit.epochs, tol=None, **options)


def optimisers(problem, n):
    loss, alpha = problem.loss, problem.alpha
    if problem.task == "regression":
        return _regressors(problem)
    C = 1 / (alpha * n)
    if loss == "cross_entropy":
        return {"LogisticRegression": LogisticRegression(C=C, max_iter=ITERATIONS)}
    if loss == "hinge":
        return {"LinearSVC": LinearSVC(loss="hinge", C=C, random_state=0)}
    if loss != "log_loss":
        return {}
    found = {}
    for solver in ("lbfgs", "liblinear"):
        model = LogisticRegression(C=C, solver=solver, max_iter=ITERATIONS)
        title = "LogisticRegression" + (f"({solver})" if solver != "lbfgs" else "")
        several = problem.task == "multiclass"
        found[title] = OneVsRestClassifier(model) if several else model
    return found


def _regressors(problem):
    if problem.loss == "huber" and problem.alpha == 0:
        return {"HuberRegressor": HuberRegressor(alpha=0.0, max_iter=ITERATIONS)}
    if problem.loss == "quantile" and problem.alpha == 0:  # its penalty is another
        return {"QuantileRegressor": QuantileRegressor(quantile=problem.params["quantile"], alpha=0.0)}
    if problem.loss == "poisson":
        solvers = "lbfgs", "newton-cholesky"
        return {
            "PoissonRegressor" + (f"({solver})" if solver != "lbfgs" else ""): PoissonRegressor(
                alpha=problem.alpha, solver=solver, max_iter=ITERATIONS
            )
            for solver in solvers
        }
    return {}


def solution(estimator, problem, n):
    parts = estimator.estimators_ if isinstance(estimator, OneVsRestClassifier) else [estimator]
    coef = np.vstack([np.atleast_2d(part.coef_) for part in parts])
    intercept = np.hstack([np.atleast_1d(part.intercept_) for part in parts])
    if getattr(parts[0], "solver", "") == "liblinear" or isinstance(estimator, LinearSVC):
        problem = replace(problem, intercept_too=True)
    if isinstance(estimator, HuberRegressor):
        # it estimates a scale s too: for that s its objective is, but for a factor, Huber's with delta = epsilon·s
        problem = replace(problem, params={"delta": float(estimator.epsilon * estimator.scale_)})
    return Solution(coef, intercept, int(max(np.max(part.n_iter_) for part in parts)), problem)
