"""Door 2, the estimators: SGD on real tables, one explicit schedule, a fixed number of epochs, one core."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn import metrics

from benchmarks import peer_fastloss, peer_numpy, problems, timing
from benchmarks.peers import Fit, NotAvailable, Run
from benchmarks.report import Column, Missing, Row, Table, ratio, significant

OURS = "fastloss"
THREADS = 1

#: Step sizes, both of them scikit-learn's defaults for the task.
OPTIMAL = {"learning_rate": "optimal"}
INVSCALING = {"learning_rate": "invscaling", "eta0": 0.01, "power_t": 0.25}


@dataclass(frozen=True)
class Case:
    """A fit of one dataset; ``score`` names an entry of `SCORES`."""

    data: str
    fit: Fit
    dtype: str = "float64"
    score: str = "accuracy"

    @property
    def labels(self) -> Row:
        return {"data": self.data, "loss": self.fit.loss, "dtype": self.dtype, "epochs": self.fit.epochs}


@dataclass(frozen=True)
class Plan:
    cases: tuple[Case, ...]
    rounds: int = 5
    budget: float = 3.0  # seconds per case, beyond the least number of rounds


def _classify(data: str, loss: str, epochs: int, dtype: str = "float64", score: str = "accuracy", task="binary"):
    return Case(data, Fit(task, loss, epochs=epochs, schedule=OPTIMAL), dtype, score)


def _regress(data: str, loss: str, epochs: int, dtype: str = "float64", score: str = "R2", **params: float):
    return Case(data, Fit("regression", loss, params, epochs, schedule=INVSCALING), dtype, score)


_QUICK = (
    _classify("a9a", "log_loss", 10),
    _regress("california_housing", "huber", 10, delta=1.0),
)
_DEFAULT = (
    _classify("covtype", "log_loss", 5),
    _classify("covtype", "log_loss", 5, "float32"),
    _classify("covtype", "hinge", 5, "float32"),
    _classify("creditcard", "log_loss", 5, score="AUC"),
    _classify("mnist", "hinge", 5, "float32"),
    _classify("a9a", "log_loss", 20),
    _classify("a9a", "log_loss", 20, "float32"),
    _regress("california_housing", "squared_error", 20),
    _regress("california_housing", "huber", 20, delta=1.0),
)
_FULL = (
    *_DEFAULT,
    _classify("mnist", "hinge", 5),
    _classify("mnist 10 classes", "hinge", 3, "float32", task="multiclass"),
    _classify("kddcup99_10pct", "log_loss", 5),
    _classify("kddcup99_10pct", "log_loss", 5, "float32"),
    _classify("news20_multiclass", "log_loss", 5, task="multiclass"),
    _classify("electricity", "modified_huber", 20),
    _regress("bike_sharing_hour", "squared_error", 20),
    _regress("nycflights13", "huber", 5, delta=10.0, score="D2 absolute"),
    _regress("nycflights13", "quantile", 5, quantile=0.75, score="D2 absolute"),
    _regress("freMTPL2", "poisson", 5, score="D2 Poisson"),
)
PLANS = {
    "quick": Plan(_QUICK, rounds=3, budget=0.5),
    "default": Plan(_DEFAULT),
    "full": Plan(_FULL, rounds=9, budget=20.0),
}


def cases(plan: Plan) -> list[Case]:
    return list(plan.cases)


def measure(case: Case, plan: Plan, run: Run) -> list[Row]:
    data = problems.dataset(case.data, case.dtype)
    rows, columns = data.X.shape
    row = case.labels | {"data": data.label, "rows": rows, "columns": columns, "score": case.score}
    row |= {"schedule": dict(case.fit.schedule), "alpha": case.fit.alpha, "params": dict(case.fit.params)}
    fits: dict[str, _Fitted] = {}
    for peer in (peer_fastloss, *run.peers):
        try:
            fits[peer.NAME] = _Fitted(peer.estimator(case.fit, THREADS), data)
        except NotAvailable as reason:
            row[f"{peer.NAME}_time"] = Missing("n/a", str(reason))
    times = timing.alternate(
        [timing.Contestant(name, fitted, THREADS) for name, fitted in fits.items()], plan.rounds, plan.budget
    )
    for name, fitted in fits.items():
        row |= _figures(name, times[name], fitted, case, data)
    ours = row[f"{OURS}_time"]
    for name in fits.keys() - {OURS}:
        theirs = row[f"{name}_time"]
        if not isinstance(ours, Missing) and not isinstance(theirs, Missing):
            row[f"{name}_ratio"] = theirs / ours
    return [row]


class _Fitted:
    """A fit to be timed; calling it fits, and the estimator and its warnings remain for the figures."""

    def __init__(self, estimator, data: problems.Dataset):
        self.estimator, self.X, self.y = estimator, data.X, data.y
        self.warnings: list[str] = []

    def __call__(self):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.estimator.fit(self.X, self.y)
        self.warnings = [warning.category.__name__ for warning in caught]


def _figures(name: str, time: timing.Timing | Missing, fitted: _Fitted, case: Case, data: problems.Dataset) -> Row:
    if isinstance(time, Missing):
        return {f"{name}_time": _diverged_or_failed(time)}
    start, end = (
        _objective(fitted.estimator, case.fit, data, zero=True),
        _objective(fitted.estimator, case.fit, data),
    )
    row = {
        f"{name}_time": 1e3 * time.median / case.fit.epochs,
        f"{name}_rate": len(data.y) * case.fit.epochs / time.median / 1e6,
        f"{name}_seconds": time.as_json(),
        f"{name}_objective": end,
        f"{name}_warnings": fitted.warnings,
    }
    if not end <= start:
        problem = Missing("diverged", f"objective {end:.3g}, with all coefficients zero {start:.3g}")
        return row | {f"{name}_objective": problem, f"{name}_score": problem}
    row[f"{name}_score"] = SCORES[case.score](fitted.estimator, data, case.fit)
    if "ConvergenceWarning" in fitted.warnings:
        row[f"{name}_score"] = Missing("not converged", f"score {row[f'{name}_score']:.4f}")
    return row


def _diverged_or_failed(time: Missing) -> Missing:
    """Divergence that the estimator itself found and raised is not a failure to run."""
    overflow = any(word in time.reason.lower() for word in ("overflow", "diverge"))
    return Missing("diverged", time.reason) if overflow else time


def _objective(estimator, fit: Fit, data: problems.Dataset, zero: bool = False) -> float:
    """Mean loss + alpha/2 |coef|^2 on the training part in float64; averaged over one-vs-rest fits.

    By the NumPy peer, from nothing of the estimator but its coefficients; ``zero`` puts zeros in their place.
    """
    coef = np.atleast_2d(np.asarray(estimator.coef_, dtype=np.float64))
    intercept = np.atleast_1d(np.asarray(estimator.intercept_, dtype=np.float64))
    if zero:
        coef, intercept = np.zeros_like(coef), np.zeros_like(intercept)
    params = _params(fit)
    loss = peer_numpy.kernel(fit.loss, params)
    with np.errstate(all="ignore"):
        raw = np.asarray(data.X @ coef.T) + intercept
        values = [
            float(np.mean(loss.per_sample(y, np.ascontiguousarray(raw[:, k]))[0]))
            + fit.alpha / 2 * float(coef[k] @ coef[k])
            for k, y in enumerate(_targets(estimator, fit, data.y))
        ]
    return float(np.mean(values))


def _targets(estimator, fit: Fit, y: np.ndarray):
    """The y of each fit: itself, or 0 and 1 for each class that has coefficients of its own."""
    if fit.task == "regression":
        return [y.astype(np.float64)]
    classes = estimator.classes_[1:] if fit.task == "binary" else estimator.classes_
    return [(y == value).astype(np.float64) for value in classes]


def _params(fit: Fit) -> dict[str, Any]:
    import fastloss

    return fastloss.get_loss(fit.loss, **fit.params).params


#: Score on the held-out part, higher is better: estimator, data, fit -> number.
SCORES = {
    "accuracy": lambda e, d, fit: metrics.accuracy_score(d.y_test, e.predict(d.X_test)),
    "AUC": lambda e, d, fit: metrics.roc_auc_score(d.y_test, e.decision_function(d.X_test)),
    "R2": lambda e, d, fit: metrics.r2_score(d.y_test, e.predict(d.X_test)),
    "D2 absolute": lambda e, d, fit: metrics.d2_pinball_score(
        d.y_test, e.predict(d.X_test), alpha=fit.params.get("quantile", 0.5)
    ),
    "D2 Poisson": lambda e, d, fit: metrics.d2_tweedie_score(d.y_test, e.predict(d.X_test), power=1),
}


def failed(case: Case, error: Exception) -> Row:
    return case.labels | {f"{OURS}_time": Missing.failed(error)}


# ---- table ----------------------------------------------------------------------------------------


def tables(rows: list[Row], plan: Plan, run: Run) -> list[Table]:
    if not rows:
        return []
    shown = [OURS, *(p.NAME for p in run.peers if any(_offers(row, p.NAME) for row in rows))]
    return [Table("estimators", "Estimators: SGD, time per epoch on one core", _columns(shown), rows, _notes(plan))]


def _offers(row: Row, name: str) -> bool:
    time = row.get(f"{name}_time")
    return time is not None and not (isinstance(time, Missing) and time.kind == "n/a")


def _columns(names: list[str]) -> list[Column]:
    columns = [
        Column("data", "data", left=True),
        Column("rows", "rows"),
        Column("columns", "columns"),
        Column("loss", "loss", left=True),
        Column("dtype", "dtype", left=True),
        Column("epochs", "epochs"),
    ]
    for name in names:
        columns.append(Column(f"{name}_time", "ms", significant(3), name))
        if name == OURS:
            columns.append(Column(f"{name}_rate", "M rows/s", significant(3), name))
        else:
            columns.append(Column(f"{name}_ratio", "ratio", ratio, name))
        columns.append(Column(f"{name}_objective", "objective", significant(4), name))
        columns.append(Column(f"{name}_score", "score", "{:.4f}".format, name))
    return [*columns, Column("score", "score is", left=True)]


def _notes(plan: Plan) -> list[str]:
    return [
        f"ms: fit time / epochs, median of up to {plan.rounds} alternating fits in one process, pinned to "
        "one core; checks and set-up of the fit are in it. ratio: the peer's time / fastloss's.",
        'Same schedule, epochs, alpha and seed on both sides (classifiers: learning_rate="optimal"; '
        'regressors: "invscaling", eta0=0.01; tol=None: no early stop); row orders drawn from the seed differ.',
        "objective: mean loss + alpha/2 |coef|^2 on the training rows, in float64, from the coefficients "
        "by the NumPy code. score: on the test part (an official one, or a fifth of the rows held out).",
        "diverged: the objective is not below that of all-zero coefficients.",
        "Tables come from the folder FASTLOSS_DATA; one that is not there is replaced as its name says.",
    ]
