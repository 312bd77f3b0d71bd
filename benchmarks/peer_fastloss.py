"""fastloss itself, behind the interface of a peer."""

from __future__ import annotations

from functools import partial

import numpy as np

import fastloss

NAME = "fastloss"
KERNEL_NOTE = "mean loss and gradient of the mean, into a preallocated array"


def version() -> str:
    return fastloss.__version__


class _Kernel:
    threaded = True
    loss_note = ""

    def __init__(self, loss, params):
        self.function = fastloss.get_loss(loss, **params).loss_gradient

    def per_sample(self, y, raw):
        return self.function(y, raw, reduction="none")

    def bind(self, y, raw, n_threads):
        return partial(self.function, y, raw, gradient_out=np.empty_like(raw), n_threads=n_threads)


def kernel(loss, params):
    return _Kernel(loss, params)


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
