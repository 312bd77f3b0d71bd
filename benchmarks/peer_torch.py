"""PyTorch on the CPU, eager: the functional loss, then ``backward``. Measured when it is installed."""

from __future__ import annotations

import warnings

import scipy.sparse as sp
import torch
from torch.nn import functional

from benchmarks.peers import NotAvailable

NAME = "torch"
KERNEL_NOTE = "mean loss forward and backward, eager"
OBJECTIVE_NOTE = "linear (for CSR its sparse product), the loss and backward, eager"


def version() -> str:
    return torch.__version__


#: Our loss -> the torch expression of (y, raw, reduction, parameters). Binary y is 0 or 1.
LOSSES = {
    "squared_error": lambda y, raw, how, p: 0.5 * functional.mse_loss(raw, y, reduction=how),
    "absolute_error": lambda y, raw, how, p: functional.l1_loss(raw, y, reduction=how),
    "huber": lambda y, raw, how, p: functional.huber_loss(raw, y, delta=p["delta"], reduction=how),
    "poisson": lambda y, raw, how, p: functional.poisson_nll_loss(raw, y, log_input=True, reduction=how),
    "log_loss": lambda y, raw, how, p: functional.binary_cross_entropy_with_logits(raw, y, reduction=how),
    "cross_entropy": lambda y, raw, how, p: functional.cross_entropy(raw, y, reduction=how),
    "hinge": lambda y, raw, how, p: _reduce(functional.relu(1 - (2 * y - 1) * raw), how),
    "squared_hinge": lambda y, raw, how, p: _reduce(functional.relu(1 - (2 * y - 1) * raw).square(), how),
    "quantile": lambda y, raw, how, p: _reduce(_pinball(y - raw, p["quantile"]), how),
}


def _pinball(u, level):
    return torch.maximum(level * u, (level - 1) * u)


def _reduce(values, how):
    return values.mean() if how == "mean" else values


class _Kernel:
    threaded = True
    loss_note = ""

    def __init__(self, function, params):
        self.function, self.params = function, params
        self.bound = None

    def _tensors(self, y, raw):
        return torch.from_numpy(y), torch.from_numpy(raw).requires_grad_()

    def per_sample(self, y, raw):
        y, raw = self._tensors(y, raw)
        loss = self.function(y, raw, "none", self.params)
        loss.sum().backward()
        return loss.detach().numpy(), raw.grad.numpy()

    def bind(self, y, raw, n_threads):
        if self.bound is None or self.bound[0] is not raw:
            self.bound = raw, self._tensors(y, raw)  # one gradient for all numbers of threads
        y, raw = self.bound[1]

        def mean_and_gradient():
            torch.set_num_threads(n_threads or torch.get_num_threads())
            raw.grad = None
            loss = self.function(y, raw, "mean", self.params)
            loss.backward()
            return loss.item(), raw.grad.numpy()

        return mean_and_gradient


def kernel(loss, params):
    if loss not in LOSSES:
        raise NotAvailable("no torch version of this loss written")
    return _Kernel(LOSSES[loss], params)


def objective(problem, n_threads):
    X = problem.X
    one = problem.loss == "log_loss"
    coef, intercept = (torch.tensor(part, requires_grad=True) for part in (problem.coef, problem.intercept))
    y = torch.from_numpy(problem.y.astype(X.dtype) if one else problem.y)
    sparse = sp.issparse(X)
    data = _csr(X) if sparse else torch.from_numpy(X)

    def value_and_gradient():
        torch.set_num_threads(n_threads)
        coef.grad = intercept.grad = None
        raw = data @ coef.T + intercept if sparse else functional.linear(data, coef, intercept)
        loss = functional.binary_cross_entropy_with_logits(raw[:, 0], y) if one else functional.cross_entropy(raw, y)
        loss = loss + problem.alpha / 2 * coef.square().sum()
        loss.backward()
        return loss.item(), coef.grad.numpy(), intercept.grad.numpy()

    return value_and_gradient


def _csr(X):
    with warnings.catch_warnings(action="ignore"):  # "in beta state"
        parts = (torch.from_numpy(part) for part in (X.indptr, X.indices, X.data))
        return torch.sparse_csr_tensor(*parts, X.shape, check_invariants=False)


def logistic(X, y, alpha, gtol, iterations, n_threads):
    raise NotAvailable("torch has no logistic regression")


def estimator(fit, n_threads):
    raise NotAvailable("torch has no SGD estimator")


def optimisers(problem, n):
    return {}


def solution(estimator, problem, n):
    raise NotAvailable("torch has no estimators")
