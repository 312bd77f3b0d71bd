"""fastloss itself, behind the interface of a peer."""

from __future__ import annotations

from functools import partial

import numpy as np

import fastloss
from benchmarks.peers import Minimum, Output, Solution

NAME = "fastloss"
KERNEL_NOTE = "mean loss and gradient of the mean, into a preallocated array"
OBJECTIVE_NOTE = "LinearObjective"


def version() -> str:
    return fastloss.__version__


class _Kernel:
    threaded = True
    loss_note = ""

    def __init__(self, loss, params):
        self.function = fastloss.get_loss(loss, **params).loss_gradient
        self.gradient = Output()

    def per_sample(self, y, raw):
        return self.function(y, raw, reduction="none")

    def bind(self, y, raw, n_threads):
        return partial(self.function, y, raw, gradient_out=self.gradient.like(raw), n_threads=n_threads)


def kernel(loss, params):
    return _Kernel(loss, params)


def objective(problem, n_threads):
    K = len(problem.coef)
    function = fastloss.LinearObjective(
        problem.X,
        problem.y,
        problem.loss,
        alpha=problem.alpha,
        n_classes=K if K > 1 else None,
        n_threads=n_threads,
    )
    w = np.column_stack([problem.coef, problem.intercept])

    def value_and_gradient():
        value, gradient = function(w)
        return value, gradient[:, :-1], gradient[:, -1]

    return value_and_gradient


def logistic(X, y, alpha, gtol, iterations, n_threads):
    # scikit-learn's options for the same optimiser: both stop by the same rule
    options = {"maxiter": iterations, "maxls": 50, "gtol": gtol, "ftol": 64 * np.finfo(float).eps}

    def fit():
        classes, labels = np.unique(y, return_inverse=True)
        loss = "log_loss" if len(classes) == 2 else "cross_entropy"
        function = fastloss.LinearObjective(X, labels, loss, alpha=alpha, n_threads=n_threads)
        found = function.minimize(start=np.zeros(function.size), options=options)
        coef, intercept = function.unpack(found.x)
        return Minimum(np.atleast_2d(coef), np.atleast_1d(intercept), found.nit, found.nit < iterations)

    return fit


def estimator(fit, n_threads):
    cls = fastloss.SGDLossRegressor if fit.task == "regression" else fastloss.SGDLossClassifier
    return cls(
        loss=fastloss.get_loss(fit.loss, **fit.params),
        alpha=fit.alpha,
        max_iter=fit.epochs,
        tol=None,
        n_threads=n_threads,
        **fit.schedule,
    )


def optimisers(problem, n):
    return {"auto": optimiser(problem)}


def optimiser(problem, tol=1e-3, max_iter=1000):
    """The estimator as it is by default; `tol` and `max_iter` for a result to compare with."""
    cls = fastloss.SGDLossRegressor if problem.task == "regression" else fastloss.SGDLossClassifier
    return cls(
        loss=fastloss.get_loss(problem.loss, **problem.params),
        penalty="l2" if problem.alpha else None,
        alpha=problem.alpha,
        fit_intercept=not problem.intercept_too,  # if so, it is the coefficient of a column of ones
        tol=tol,
        max_iter=max_iter,
        n_threads=1,
    )


def solution(estimator, problem, n):
    coef, intercept = np.atleast_2d(estimator.coef_), np.atleast_1d(estimator.intercept_)
    return Solution(coef, intercept, estimator.n_iter_, problem)
