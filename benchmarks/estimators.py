"""Door 2, the estimators on real tables, one core.

Two tables: SGD with one explicit schedule, a fixed number of epochs; and whole fits to an optimum (``optima.py``).
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn import metrics
from sklearn.base import clone

from benchmarks import optima, peer_fastloss, peer_numpy, problems, timing
from benchmarks.optima import Descent
from benchmarks.peers import Fit, NotAvailable, Optimum, Peer, Run
from benchmarks.report import Column, Missing, Row, Table, ratio, significant

OURS = "fastloss"
THREADS = 1

#: A fit has diverged when its objective is that many times the one of all-zero coefficients, or not a number.
DIVERGED = 10


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
    descents: tuple[Descent, ...] = ()
    descent_rounds: int = 3
    descent_budget: float = 5.0  # seconds per descent, beyond the first round
    limit: float = 60.0  # seconds that one fit of a descent may take


def _classify(data: str, loss: str, epochs: int, dtype: str = "float64", score: str = "accuracy", task="binary"):
    return Case(data, Fit(task, loss, epochs=epochs), dtype, score)


def _regress(data: str, loss: str, epochs: int, dtype: str = "float64", score: str = "R2", **params: float):
    return Case(data, Fit("regression", loss, params, epochs), dtype, score)


_QUICK = (
    _classify("a9a", "log_loss", 10),
    _regress("california_housing", "huber", 10, delta=1.0),
)
_DEFAULT = (
    _classify("covtype", "log_loss", 10),
    _classify("covtype", "log_loss", 10, "float32"),
    _classify("covtype", "hinge", 10),
    _classify("covtype", "hinge", 10, "float32"),
    _classify("creditcard", "log_loss", 5, score="AUC"),
    _classify("mnist", "log_loss", 20),
    _classify("mnist", "log_loss", 20, "float32"),
    _classify("mnist", "hinge", 20),
    _classify("mnist", "hinge", 20, "float32"),
    _classify("mnist 10 classes", "hinge", 3, task="multiclass"),
    _classify("mnist 10 classes", "hinge", 3, "float32", task="multiclass"),
    _classify("random sparse", "log_loss", 5),
    _classify("random sparse", "log_loss", 5, "float32"),
    _classify("a9a", "log_loss", 20),
    _classify("a9a", "log_loss", 20, "float32"),
    _regress("california_housing", "squared_error", 20),
    _regress("california_housing", "huber", 20, delta=1.0),
)
_FULL = (
    *_DEFAULT,
    _classify("kddcup99_10pct", "log_loss", 5),
    _classify("kddcup99_10pct", "log_loss", 5, "float32"),
    _classify("news20_multiclass", "log_loss", 5, task="multiclass"),
    _classify("electricity", "modified_huber", 20),
    _regress("bike_sharing_hour", "squared_error", 20),
    _regress("nycflights13", "huber", 5, delta=10.0, score="D2 absolute"),
    _regress("nycflights13", "quantile", 5, quantile=0.75, score="D2 absolute"),
    _regress("freMTPL2", "poisson", 5, score="D2 Poisson"),
)
_BINARY, _SOFTMAX = Optimum("binary", "log_loss"), Optimum("multiclass", "cross_entropy")
_ONE_VS_REST, _HINGE = Optimum("multiclass", "log_loss"), Optimum("binary", "hinge")
_QUANTILE = Optimum("regression", "quantile", {"quantile": 0.75}, alpha=0.0)
#: About the delta that HuberRegressor finds on california_housing.
_HUBER = Optimum("regression", "huber", {"delta": 0.49}, alpha=0.0)
_POISSON = Optimum("regression", "poisson", alpha=1e-4)
_DESCENTS = (
    Descent("covtype raw", _BINARY, scaled=True),
    Descent("mnist 10 classes raw", _SOFTMAX, scaled=True, patience=3),
    Descent("a9a", _BINARY),
    Descent("20newsgroups TF-IDF", _SOFTMAX),
    Descent("20newsgroups TF-IDF", _ONE_VS_REST),
    Descent("nycflights13 raw", _QUANTILE, rows=5000),
    Descent("nycflights13 raw", _QUANTILE, rows=10_000),
    Descent("nycflights13 raw", _QUANTILE),
    Descent("covtype raw", _HINGE, scaled=True),
    Descent("a9a", _HINGE),
    Descent("california_housing raw", _HUBER, scaled=True),
    Descent("bike_sharing_hour raw", _POISSON),
    Descent("freMTPL2 raw", _POISSON),
)
PLANS = {
    "quick": Plan(
        _QUICK, rounds=3, budget=0.5, descents=(Descent("a9a", _BINARY),), descent_rounds=2, descent_budget=0.5
    ),
    "default": Plan(_DEFAULT, descents=_DESCENTS),
    "full": Plan(_FULL, rounds=9, budget=20.0, descents=_DESCENTS, descent_rounds=5, descent_budget=30.0, limit=600.0),
}


def cases(plan: Plan) -> list[Case | Descent]:
    return [*plan.cases, *plan.descents]


def measure(case: Case | Descent, plan: Plan, run: Run) -> list[Row]:
    if isinstance(case, Descent):
        return optima.measure(case, plan.limit, plan.descent_rounds, plan.descent_budget, run)
    return _epochs(case, plan, run)


def _epochs(case: Case, plan: Plan, run: Run) -> list[Row]:
    data = problems.dataset(case.data, case.dtype)
    rows, columns = data.X.shape
    row = case.labels | {"data": data.label, "rows": rows, "columns": columns, "score": case.score}
    row |= {"schedule": dict(case.fit.schedule), "alpha": case.fit.alpha, "params": dict(case.fit.params)}
    fits: dict[str, _Fits] = {}
    for peer in (peer_fastloss, *run.peers):
        try:
            fits[peer.NAME] = _Fits(peer.estimator(case.fit, THREADS), data, plan.rounds + 1)
        except NotAvailable as reason:
            row[f"{peer.NAME}_time"] = Missing("n/a", str(reason))
    times = timing.alternate(
        [timing.Contestant(name, fit, THREADS) for name, fit in fits.items()], plan.rounds, plan.budget
    )
    for name, fit in fits.items():
        row |= _figures(name, times[name], fit, case, data)
    ours = row[f"{OURS}_time"]
    for peer in run.peers:
        theirs = row[f"{peer.NAME}_time"]
        if not isinstance(ours, Missing) and not isinstance(theirs, Missing):
            row[f"{peer.NAME}_ratio"] = theirs / ours
            row[f"{peer.NAME}_difference"] = _difference(peer, case.fit, data)
    return [row]


def _difference(peer: Peer, fit: Fit, data: problems.Dataset) -> float | Missing:
    """Relative difference of the objectives after one epoch in storage order, where no chance is left."""
    fit = dataclasses.replace(fit, epochs=1)
    objectives = []
    for module in (peer_fastloss, peer):
        estimator = module.estimator(fit, THREADS).set_params(shuffle=False)
        try:
            with warnings.catch_warnings(action="ignore"):
                estimator.fit(data.X, data.y)
        except Exception as error:
            return Missing.failed(error)
        objectives.append(_objective(estimator, fit, data))
    ours, theirs = objectives
    return abs(ours - theirs) / theirs


class _Fits:
    """Fits to be timed: each call makes the next one, with the next seed, and keeps it with its warnings."""

    def __init__(self, estimator, data: problems.Dataset, count: int):
        self.X, self.y = data.X, data.y
        self.waiting = [clone(estimator).set_params(random_state=seed) for seed in reversed(range(count))]
        self.done: list[Any] = []
        self.warnings: set[str] = set()

    def __call__(self):
        estimator = self.waiting.pop()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            estimator.fit(self.X, self.y)
        self.warnings |= {warning.category.__name__ for warning in caught}
        self.done.append(estimator)


def _figures(name: str, time: timing.Timing | Missing, fits: _Fits, case: Case, data: problems.Dataset) -> Row:
    if isinstance(time, Missing):
        return {f"{name}_time": _diverged_or_failed(time)}
    start = _objective(fits.done[0], case.fit, data, zero=True)
    end = float(np.median([_objective(estimator, case.fit, data) for estimator in fits.done]))
    row = {
        f"{name}_time": 1e3 * time.median / case.fit.epochs,
        f"{name}_rate": len(data.y) * case.fit.epochs / time.median / 1e6,
        f"{name}_seconds": time.as_json(),
        f"{name}_objective": end,
        f"{name}_warnings": sorted(fits.warnings),
    }
    if not end <= DIVERGED * start:
        problem = Missing("diverged", f"objective {end:.3g}, with all coefficients zero {start:.3g}")
        return row | {f"{name}_objective": problem, f"{name}_score": problem}
    score = SCORES[case.score]
    row[f"{name}_score"] = float(np.median([score(estimator, data, case.fit) for estimator in fits.done]))
    if "ConvergenceWarning" in fits.warnings:
        row[f"{name}_score"] = Missing("not converged", f"score {row[f'{name}_score']:.4f}")
    return row


def _diverged_or_failed(time: Missing) -> Missing:
    """Divergence that scikit-learn finds, and raises, is not a failure to run."""
    return Missing("diverged", time.reason) if "under-/overflow" in time.reason else time


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


def failed(case: Case | Descent, error: Exception) -> Row:
    if isinstance(case, Descent):
        return case.labels | {"by": OURS, "time": Missing.failed(error)}
    return case.labels | {f"{OURS}_time": Missing.failed(error)}


# ---- table ----------------------------------------------------------------------------------------


def tables(rows: list[Row], plan: Plan, run: Run) -> list[Table]:
    whole = [row for row in rows if "by" in row]
    rows = [row for row in rows if "by" not in row]
    found = []
    if rows:
        shown = [OURS, *(p.NAME for p in run.peers if any(_offers(row, p.NAME) for row in rows))]
        title = "Estimators: SGD, time per epoch on one core"
        found.append(Table("estimators", title, _columns(shown), rows, _notes(plan)))
    if whole:
        found.append(optima.table(whole, plan.limit, plan.descent_rounds))
    return found


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
        if name != OURS:
            columns.append(Column(f"{name}_difference", "diff", significant(1), name))
    return [*columns, Column("score", "score is")]


def _notes(plan: Plan) -> list[str]:
    usual = Fit("binary", "log_loss")
    options = ", ".join(f"{name}={value}" for name, value in {**usual.schedule, "alpha": usual.alpha}.items())
    return [
        f"ms: fit time / epochs, median of up to {plan.rounds} alternating fits in one process, pinned to "
        "one core; checks and set-up of the fit are in it. ratio: the peer's time / fastloss's.",
        f"Both sides: {options}, tol=None (no early stop). Every fit has another seed.",
        "objective: mean loss + alpha/2 |coef|^2 on the training rows, in float64, from the coefficients by the NumPy "
        "code. score: on the test part (an official one, or a fifth of the rows held out). Both: median over the fits.",
        "diff: relative difference of the two objectives after a fit of one epoch in storage order, where both do the "
        "same steps.",
        f"diverged: the objective is over {DIVERGED} times that of all-zero coefficients, or the fit overflowed.",
        "Tables come from the folder FASTLOSS_DATA; one that is not there is replaced as its name says.",
    ]
