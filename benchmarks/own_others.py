"""Calls that time what is made of losses beside the other way to the same result."""

from __future__ import annotations

from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np

import fastloss
from benchmarks import own_numpy, problems
from benchmarks.comparison import OURS
from benchmarks.own_call import Call, as_it_is
from benchmarks.own_functions import package

OTHER = "other"

#: Rows of a group of the ranking losses, and groups that the loop in NumPy does: its time is scaled up to all.
GROUP, LOOPED = 100, 100

IN_NUMPY = {
    "pairwise_auc hinge": partial(own_numpy.pairwise_auc, power=1),
    "pairwise_auc squared_hinge": partial(own_numpy.pairwise_auc, power=2),
    "lovasz_hinge": own_numpy.lovasz_hinge,
    "soft_fbeta": own_numpy.soft_f1,
    "listnet": own_numpy.listnet,
    "approx_ndcg": own_numpy.approx_ndcg,
    "lambdarank": own_numpy.lambdarank,
}


# ---- losses over a whole batch --------------------------------------------------------------------


def batch(name: str, n: int, dtype: str, threads: int) -> dict[str, Call]:
    """A loss of two classes, one in five positive; ``name`` may have a surrogate after a space."""
    rng = np.random.default_rng(0)
    y = (rng.random(n) < 0.2).astype(dtype)
    raw = (rng.normal(size=n) + y).astype(dtype)
    loss, *surrogate = name.split()
    function = fastloss.get_loss(loss, **({"surrogate": surrogate[0]} if surrogate else {})).loss_gradient
    ours = partial(function, y, raw, gradient_out=np.empty_like(raw), n_threads=threads)
    return {OURS: Call(ours), OTHER: Call(partial(IN_NUMPY[name], y, raw))}


def ranking(name: str, n: int, dtype: str, threads: int) -> dict[str, Call]:
    """Groups of `GROUP` rows; what is compared are the gradients of those which the loop in NumPy does."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, n).astype(dtype)
    raw = (rng.normal(size=n) + y / 2).astype(dtype)
    group = np.full(n // GROUP, GROUP)
    rows = min(n, LOOPED * GROUP)
    ours = partial(
        fastloss.get_loss(name).loss_gradient,
        y,
        raw,
        group=group,
        reduction="sum",
        gradient_out=np.empty_like(raw),
        n_threads=threads,
    )
    loop = partial(own_numpy.by_group, IN_NUMPY[name], y[:rows], raw[:rows], GROUP)
    return {OURS: Call(ours, lambda found: found[1][:rows]), OTHER: Call(loop, lambda found: found[1], n / rows)}


# ---- losses made of losses ------------------------------------------------------------------------


def weighted_sum(n: int, dtype: str, threads: int, add: bool) -> dict[str, Call]:
    """0.5*huber + 0.5*squared_error beside a call for each, with or without the addition of what they give."""
    terms = fastloss.get_loss("huber"), fastloss.get_loss("squared_error")
    y, raw = problems.arrays(terms[0], n, dtype)
    first, second = np.empty_like(raw), np.empty_like(raw)

    def two_calls():
        a, _ = terms[0].loss_gradient(y, raw, gradient_out=first, n_threads=threads)
        b, _ = terms[1].loss_gradient(y, raw, gradient_out=second, n_threads=threads)
        if add:
            np.add(first, second, out=first)
            np.multiply(first, 0.5, out=first)
        return 0.5 * (a + b), first

    together = (0.5 * terms[0] + 0.5 * terms[1]).loss_gradient
    ours = partial(together, y, raw, gradient_out=np.empty_like(raw), n_threads=threads)
    result = as_it_is if add else itemgetter(0)
    return {OURS: Call(ours, result), OTHER: Call(two_calls, result)}


def tasks(n: int, dtype: str, threads: int) -> dict[str, Call]:
    """Three columns, each with its own loss, beside a call for each column where it lies."""
    parts = [fastloss.get_loss(name) for name in ("huber", "squared_error", "log_loss")]
    columns = [problems.arrays(loss, n, dtype) for loss in parts]
    y, raw = (np.stack([column[side] for column in columns], axis=1) for side in (0, 1))
    output, apart = np.empty_like(raw), np.empty_like(raw)
    together = fastloss.MultiTaskLoss([(1.0, loss, k) for k, loss in enumerate(parts)])

    def three_calls():
        values = [
            loss.loss_gradient(y[:, k], raw[:, k], gradient_out=apart[:, k], n_threads=threads)[0]
            for k, loss in enumerate(parts)
        ]
        return sum(values), apart

    ours = partial(together.loss_gradient, y, raw, gradient_out=output, n_threads=threads)
    return {OURS: Call(ours), OTHER: Call(three_calls)}


# ---- torch's graph --------------------------------------------------------------------------------


def torch(n: int, classes: int, dtype: str, threads: int) -> dict[str, Call]:
    """Mean cross-entropy of (n, classes) logits in torch's graph, forward and backward."""
    library = package("torch")
    from fastloss.interop.torch import loss as ours

    y, scores = map(library.from_numpy, problems.class_arrays(n, classes, dtype))
    raw = scores.requires_grad_()

    def call(forward) -> Call:
        def forward_and_backward():
            library.set_num_threads(threads)
            raw.grad = None
            value = forward()
            value.backward()
            return value.item(), raw.grad.numpy()

        return Call(forward_and_backward)

    return {
        OURS: call(lambda: ours("cross_entropy", raw, y, n_threads=threads)),
        OTHER: call(lambda: library.nn.functional.cross_entropy(raw, y)),
    }


# ---- boosting -------------------------------------------------------------------------------------

COLUMNS, TREES = 10, 50
#: Rows whose raw predictions are compared.
PREDICTED = 10_000


def _table(n: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, COLUMNS)).astype(dtype)
    return X, (X[:, 0] + X[:, 1] * X[:, 2] + rng.logistic(size=n) > 1).astype(dtype)


def lightgbm(n: int, dtype: str, threads: int) -> dict[str, Call]:
    """50 trees for the log loss; the data are binned beforehand."""
    host = package("lightgbm")
    X, y = _table(n, dtype)
    objective = fastloss.get_loss("log_loss").as_lightgbm(n_threads=threads)
    start = objective.init_score(y)
    usual = {"verbose": -1, "num_threads": threads, "seed": 0, "deterministic": True, "force_row_wise": True}

    def call(params: dict[str, Any], data, offset: float) -> Call:
        data.construct()

        def raw_predictions(model):
            return model.predict(X[:PREDICTED], raw_score=True) + offset

        return Call(lambda: host.train({**usual, **params}, data, TREES), raw_predictions)

    return {
        OURS: call(objective.params, host.Dataset(X, y, init_score=start, params=usual), start[0]),
        OTHER: call({"objective": "binary"}, host.Dataset(X, y, params=usual), 0.0),
    }


def xgboost(n: int, dtype: str, threads: int) -> dict[str, Call]:
    """50 trees for the log loss, depth 6."""
    host = package("xgboost")
    X, y = _table(n, dtype)
    objective = fastloss.get_loss("log_loss").as_xgboost(n_threads=threads)
    usual = {"verbosity": 0, "nthread": threads, "seed": 0, "max_depth": 6}
    seen = host.DMatrix(X[:PREDICTED])
    own = {**usual, **objective.params, "base_score": float(objective.init_score(y)[0])}
    built_in = {**usual, "objective": "binary:logistic"}

    def call(params: dict[str, Any], **given: Any) -> Call:
        data = host.QuantileDMatrix(X, y, nthread=threads)

        def raw_predictions(model):
            return model.predict(seen, output_margin=True)

        return Call(lambda: host.train(params, data, TREES, **given), raw_predictions)

    return {OURS: call(own, obj=objective), OTHER: call(built_in)}
