"""Door 4, the objective of a linear model: one evaluation of value and gradient, and whole fits by L-BFGS."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from benchmarks import machine, peer_fastloss, peer_numpy, problems, timing
from benchmarks.comparison import OURS, peer_columns, ratios
from benchmarks.peers import Linear, Minimum, NotAvailable, Run
from benchmarks.report import Column, Missing, Row, Table, percent, ratio, significant

#: Relative difference of value and gradient from the reference beyond which a call computes something else.
TOLERANCE = {"float64": 1e-9, "float32": 1e-3}

#: Fits must end within that of scikit-learn's objective.
WITHIN = 1e-6

#: Numbers of a tile of rows of the reference.
TILE = 1 << 24


@dataclass(frozen=True)
class Case:
    """One evaluation. ``storage`` is "C", "F", or the number of nonzeros in each row of a CSR matrix."""

    loss: str
    n: int
    d: int
    classes: int = 2
    dtype: str = "float64"
    storage: str = "C"
    title: str = ""
    without: tuple[str, ...] = ()  # peers left out
    most_cores: bool = False  # only on the largest number of threads, in as few rounds as there may be

    @property
    def labels(self) -> Row:
        kind = f"{self.storage} order" if self.storage in "CF" else f"CSR, {self.storage} a row"
        row = {"evaluation": self.title or self.loss, "X": kind, "dtype": self.dtype}
        return row | {"n": self.n, "d": self.d, "classes": self.classes, "cores": 1}


@dataclass(frozen=True)
class Descent:
    """A logistic regression of one table, from zero to the stopping rule."""

    data: str
    dtype: str = "float64"
    alpha: float = 1e-3
    gtol: float = 1e-4

    @property
    def labels(self) -> Row:
        return {"fit": self.data, "dtype": self.dtype, "alpha": self.alpha, "gtol": self.gtol}


@dataclass(frozen=True)
class Plan:
    evaluations: tuple[Case, ...]
    descents: tuple[Descent, ...]
    rounds: int = 7
    least: int = 3
    budget: float = 1.5  # seconds per evaluation, beyond the least number of rounds
    fit_rounds: int = 3
    fit_budget: float = 3.0  # seconds per fit, beyond the first round
    iterations: int = 1000


def _both(*case: Any, **options: Any) -> tuple[Case, ...]:
    return tuple(Case(*case, dtype=dtype, **options) for dtype in ("float64", "float32"))


SPARSE = Case("log_loss", 1_000_000, 5000, storage="40")
FUSED = Case("cross_entropy", 8192, 256, 32_000, "float32", title="fused linear cross-entropy")
_QUICK = (
    *_both("log_loss", 20_000, 100),
    Case("log_loss", 20_000, 100, storage="F"),
    Case("log_loss", 20_000, 5000, storage="40"),
    Case("cross_entropy", 10_000, 100, 10),
    Case("cross_entropy", 256, 64, 1000, "float32", title=FUSED.title),
)
_DEFAULT = (
    *_both("log_loss", 1_000_000, 100),
    *_both("log_loss", 5_000_000, 20),
    *_both("log_loss", 100_000, 1000),
    Case("log_loss", 1_000_000, 100, storage="F"),
    Case("cross_entropy", 500_000, 100, 10),
    replace(SPARSE, without=("torch",)),
    replace(FUSED, without=("scikit-learn",), most_cores=True),
)
_FULL = (
    *_DEFAULT[:-2],
    SPARSE,
    replace(SPARSE, dtype="float32"),
    Case("cross_entropy", 500_000, 100, 10, "float32"),
    Case("cross_entropy", 500_000, 100, 10, storage="F"),
    Case("cross_entropy", 1_000_000, 5000, 10, storage="40"),
    FUSED,
)
_DESCENTS = (
    Descent("covtype", alpha=1e-4, gtol=1e-6),
    Descent("covtype 7 classes"),
    Descent("mnist 10 classes"),
)
PLANS = {
    "quick": Plan(_QUICK, (Descent("a9a"),), rounds=3, least=3, budget=0.2, fit_rounds=2, fit_budget=0.5),
    "default": Plan(_DEFAULT, _DESCENTS),
    "full": Plan(
        _FULL,
        (
            *_DESCENTS,
            Descent("covtype", "float32", alpha=1e-4, gtol=1e-5),
            Descent("covtype 7 classes", "float32"),
            Descent("covtype 7 classes", alpha=1e-4, gtol=1e-5),
            Descent("mnist 10 classes", "float32"),
            Descent("a9a", alpha=1e-4, gtol=1e-5),
            Descent("news20_multiclass", alpha=1e-4),
        ),
        rounds=15,
        least=5,
        budget=10.0,
        fit_rounds=5,
        fit_budget=60.0,
    ),
}


def cases(plan: Plan) -> list[Case | Descent]:
    return [*plan.evaluations, *plan.descents]


def measure(case: Case | Descent, plan: Plan, run: Run) -> list[Row]:
    return _evaluation(case, plan, run) if isinstance(case, Case) else [_fit(case, plan, run)]


def failed(case: Case | Descent, error: Exception) -> Row:
    return case.labels | {f"{OURS}_time": Missing.failed(error)}


# ---- one evaluation -------------------------------------------------------------------------------


def _evaluation(case: Case, plan: Plan, run: Run) -> list[Row]:
    """One row per number of threads."""
    problem = problems.linear(case.loss, case.n, case.d, case.classes, case.dtype, case.storage)
    reference = _reference(problem)
    threads = run.threads[-1:] if case.most_cores else run.threads
    calls, absent = {}, {}
    for peer in (peer_fastloss, *run.peers):
        if peer.NAME in case.without:
            absent[peer.NAME] = Missing("n/a", "takes long here: measured by --full only")
            continue
        try:
            calls |= {(peer.NAME, t): _Last(peer.objective(problem, t)) for t in threads}
        except NotAvailable as reason:
            absent[peer.NAME] = Missing("n/a", str(reason))
    contestants = [timing.Contestant(key, call, key[1]) for key, call in calls.items()]
    if _bytes(problem.X) >= 2 * machine.last_level_cache():
        contestants += [_read().contestant(t) for t in threads]
    least = 1 if case.most_cores else plan.least
    results = timing.alternate(contestants, least if case.most_cores else plan.rounds, plan.budget, least, batch=True)
    rows = []
    for t in threads:
        row = case.labels | {"cores": t, "alpha": problem.alpha, "bytes": _bytes(problem.X)}
        for name in [OURS, *(peer.NAME for peer in run.peers)]:
            if name in absent:
                row[f"{name}_time"] = absent[name]
            else:
                row |= _figures(name, results[name, t], calls[name, t], reference, case)
        row |= ratios(row, run.peers)
        row |= _bandwidth(row, results.get(("read", t)))
        rows.append(row)
    return rows


class _Last:
    """A call that keeps what it returned last: what was timed is what is compared."""

    def __init__(self, call: Callable[[], tuple]):
        self.call = call

    def __call__(self) -> None:
        self.result = self.call()


@functools.cache
def _read() -> machine.Read:
    return machine.Read(machine.triad_size())


def _bytes(X) -> int:
    """What an evaluation has to read."""
    return X.data.nbytes + X.indices.nbytes + X.indptr.nbytes if sp.issparse(X) else X.nbytes


def _reference(problem: Linear) -> tuple[float, np.ndarray]:
    """Value and gradient (K, d + 1) by the NumPy code in float64, a tile of rows after the other."""
    loss = peer_numpy.kernel(problem.loss, {})
    coef, intercept = problem.coef.astype(np.float64), problem.intercept.astype(np.float64)
    total, (K, d), n = 0.0, coef.shape, problem.X.shape[0]
    gradient = np.zeros((K, d + 1))
    rows = max(1, TILE // max(K, d))
    for start in range(0, n, rows):
        X, y = problem.X[start : start + rows].astype(np.float64), problem.y[start : start + rows]
        raw = X @ coef.T + intercept
        losses, slopes = loss.per_sample(y, raw) if K > 1 else loss.per_sample(y.astype(np.float64), raw[:, 0])
        slopes = slopes.reshape(len(y), K)
        total += float(losses.sum())
        gradient[:, :d] += (X.T @ slopes).T
        gradient[:, d] += slopes.sum(axis=0)
    gradient /= n
    gradient[:, :d] += problem.alpha * coef
    return total / n + problem.alpha / 2 * float(np.vdot(coef, coef)), gradient


def _figures(name: str, time: timing.Timing | Missing, call: _Last, reference: tuple, case: Case) -> Row:
    if isinstance(time, Missing):
        return {f"{name}_time": time}
    value, gradient = reference
    got, *parts = call.result
    difference = np.column_stack([np.asarray(part, np.float64) for part in parts]) - gradient
    agreement = abs(float(got) - value) / abs(value), float(np.linalg.norm(difference) / np.linalg.norm(gradient))
    if not max(agreement) <= TOLERANCE[case.dtype]:
        problem = f"value and gradient of the timed call differ from the reference by {_pair(agreement)}"
        return {f"{name}_time": Missing("failed", problem)}
    return {
        f"{name}_time": time.median * 1e3,
        f"{name}_agreement": agreement,
        f"{name}_seconds": time.as_json(),
    }


def _pair(agreement: tuple[float, float]) -> str:
    return " / ".join(map(significant(1), agreement))


def _bandwidth(row: Row, read: timing.Timing | Missing | None) -> Row:
    if f"{OURS}_seconds" not in row:
        return {}
    own = row["bytes"] / row[f"{OURS}_seconds"]["median"]
    found = {f"{OURS}_rate": own / 1e9}
    if isinstance(read, timing.Timing):
        found |= {"read": own / _read().bandwidth(read.median), "read_seconds": read.as_json()}
    return found


# ---- whole fits -----------------------------------------------------------------------------------


def _fit(case: Descent, plan: Plan, run: Run) -> Row:
    data = problems.dataset(case.data, case.dtype)
    threads = run.threads[-1]
    rows, columns = data.X.shape
    row = case.labels | {"fit": data.label, "rows": rows, "columns": columns}
    row |= {"classes": len(np.unique(data.y)), "cores": threads}
    fits = {}
    for peer in (peer_fastloss, *run.peers):
        try:
            call = peer.logistic(data.X, data.y, case.alpha, case.gtol, plan.iterations, threads)
            fits[peer.NAME] = _Last(_quiet(call))
        except NotAvailable as reason:
            row[f"{peer.NAME}_time"] = Missing("n/a", str(reason))
    contestants = [timing.Contestant(name, call, threads) for name, call in fits.items()]
    times = timing.alternate(contestants, plan.fit_rounds, plan.fit_budget, least=1, warm=False)
    ends = {}
    for name, call in fits.items():
        time = times[name]
        row[f"{name}_time"] = time if isinstance(time, Missing) else time.median
        if isinstance(time, timing.Timing):
            found: Minimum = call.result
            ends[name] = _objective(data, found, case.alpha)
            row |= {f"{name}_objective": ends[name], f"{name}_iterations": found.iterations}
            row |= {f"{name}_seconds": time.as_json()}
            if not found.converged:
                row[f"{name}_time"] = Missing("not converged", f"{found.iterations} iterations")
    row |= _agreed(row, ends, run)
    return row | ratios(row, run.peers)


def _quiet(call: Callable[[], Minimum]) -> Callable[[], Minimum]:
    def fit() -> Minimum:
        with warnings.catch_warnings(action="ignore"):  # no convergence: `Minimum` says so
            return call()

    return fit


def _agreed(row: Row, ends: dict[str, float], run: Run) -> Row:
    """How far above a peer's objective ours ends; too far is a failure, for a time to get elsewhere says nothing."""
    found: Row = {}
    for peer in run.peers:
        if peer.NAME in ends and OURS in ends:
            excess = (ends[OURS] - ends[peer.NAME]) / abs(ends[peer.NAME])
            found[f"{peer.NAME}_excess"] = excess
            if not excess <= WITHIN and not isinstance(row[f"{OURS}_time"], Missing):
                found[f"{OURS}_time"] = Missing("failed", f"ends {excess:.1e} above {peer.NAME}'s objective")
    return found


def _objective(data: problems.Dataset, found: Minimum, alpha: float) -> float:
    """Mean loss + alpha/2 |coef|^2 by the NumPy code in float64, of nothing but the coefficients."""
    coef, intercept = (np.asarray(part, np.float64) for part in (found.coef, found.intercept))
    y = np.unique(data.y, return_inverse=True)[1]
    loss = "cross_entropy" if len(coef) > 1 else "log_loss"
    return _reference(Linear(loss, data.X, y, coef, intercept, alpha))[0]


# ---- tables ---------------------------------------------------------------------------------------


def tables(rows: list[Row], plan: Plan, run: Run) -> list[Table]:
    evaluations, fits = [row for row in rows if "evaluation" in row], [row for row in rows if "fit" in row]
    found = []
    if evaluations:
        title = "Objective: one evaluation of a linear model's value and gradient"
        found.append(Table("objective", title, _columns(run), evaluations, _notes(plan, run)))
    if fits:
        shown = [peer.NAME for peer in run.peers if any(f"{peer.NAME}_seconds" in row for row in fits)]
        title = "Objective: logistic regression by L-BFGS, whole fits"
        found.append(Table("objective_fits", title, _fit_columns(shown), fits, _fit_notes(plan, run)))
    return found


def _columns(run: Run) -> list[Column]:
    return [
        Column("evaluation", "loss", left=True),
        Column("X", "X", left=True),
        Column("dtype", "dtype", left=True),
        Column("n", "n"),
        Column("d", "d"),
        Column("classes", "K"),
        Column("cores", "cores", left=True),
        Column(f"{OURS}_time", "ms", significant(3), OURS),
        Column(f"{OURS}_rate", "GB/s", significant(3), OURS),
        Column("read", "read", percent, OURS),
        Column(f"{OURS}_agreement", "agreement", _pair, OURS),
        *peer_columns(run.peers, "ms", Column("agreement", "agreement", _pair)),
    ]


def _fit_columns(names: list[str]) -> list[Column]:
    columns = [
        Column("fit", "data", left=True),
        Column("rows", "rows"),
        Column("columns", "columns"),
        Column("classes", "K"),
        Column("dtype", "dtype", left=True),
        Column("alpha", "alpha", "{:.0e}".format),
        Column("gtol", "gtol", "{:.0e}".format),
        Column("cores", "cores", left=True),
    ]
    for name in [OURS, *names]:
        columns.append(Column(f"{name}_time", "s", significant(3), name))
        if name != OURS:
            columns.append(Column(f"{name}_ratio", "ratio", ratio, name))
        columns.append(Column(f"{name}_iterations", "iterations", group=name))
        columns.append(Column(f"{name}_objective", "objective", "{:.7f}".format, name))
        if name != OURS:
            columns.append(Column(f"{name}_excess", "ours above", "{:.0e}".format, name))
    return columns


def _notes(plan: Plan, run: Run) -> list[str]:
    return [
        f"ms: median of up to {plan.rounds} alternating runs in one process (fewer when a case takes long, one for the "
        "longest; JSON has each run). ratio: the peer's time / fastloss's. With an intercept, alpha=0.0001.",
        "GB/s: bytes of X (CSR: with its indices) by that time. read: as a share of x·x by BLAS on "
        f"{machine.triad_size():.0e} float64 numbers, timed in the same rounds on as many cores; blank where X may "
        "stay in cache.",
        "agreement: relative difference of the timed call's value / gradient (2-norm) from the NumPy code's in float64 "
        f"on the same numbers; over {TOLERANCE['float64']:.0e} (float32: {TOLERANCE['float32']:.0e}) it has failed.",
        ". ".join(f"{peer.NAME}: {peer.OBJECTIVE_NOTE}" for peer in (peer_fastloss, *run.peers)) + ".",
    ]


def _fit_notes(plan: Plan, run: Run) -> list[str]:
    return [
        "s: the whole fit from the table and its labels, checks and set-up included, median of up to "
        f"{plan.fit_rounds} alternating fits in one process (of seconds each: one). ratio: the peer's time / ours.",
        "Both sides: SciPy's L-BFGS-B from zero, with the same stopping rule (gtol, ftol=64 eps, maxls=50, at most "
        f"{plan.iterations} iterations); fastloss: LinearObjective(...).minimize(), scikit-learn: "
        "LogisticRegression(C=1/(alpha n), tol=gtol), whose products are BLAS's and whose loss is on one core.",
        "objective: mean loss + alpha/2 |coef|^2 on the training rows, by the NumPy code in float64 from the "
        f"coefficients. ours above: relative; over {WITHIN:.0e} is shown as failed.",
        "Tables come from the folder FASTLOSS_DATA; one that is not there is replaced as its name says.",
    ]
