"""Door 2's whole fits: each contestant to the least value of its objective, in a process of its own, with a time limit.

A process is what can be stopped whatever library is at work in it. All hold their data at the same time and fit in
turn, so that a disturbance hits all of them; only the fit is timed.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import fastloss
from benchmarks import peer_fastloss, peer_numpy, problems, timing
from benchmarks.peers import ITERATIONS, Optimum, Run
from benchmarks.report import Column, Missing, Row, Table, ratio, significant

OURS = "fastloss"

#: Relative distance from the optimum that a default fit promises.
PROMISED = 1e-3

#: ``tol`` of fits, each from where the last one ended, that gaps are taken from: as many as one fit's limit of seconds
#: allows. Losses with kinks get the first two.
CLOSER = 1e-4, 1e-5, 1e-6, 1e-7
CLOSER_PASSES = 20_000

#: Seconds for a process to start and read its data, beyond which it is given up.
START = 300.0

#: Rows of the fit ahead of the first timed one.
WARM_ROWS = 300


@dataclass(frozen=True)
class Descent:
    """An objective on a table.

    ``rows``: only the first ones; ``scaled``: peers get a StandardScaler in front; ``patience``: of the plan's limit.
    """

    data: str
    problem: Optimum
    scaled: bool = False
    rows: int | None = None
    dtype: str = "float64"
    patience: float = 1.0

    @property
    def labels(self) -> Row:
        cut = f", first {self.rows}" if self.rows else ""
        return {"data": self.data + cut, "loss": self.problem.loss, "alpha": self.problem.alpha, "dtype": self.dtype}


@dataclass
class Report:
    """What a process says of a fit."""

    seconds: float
    iterations: int
    objective: float
    mean_loss: float
    problem: Optimum
    warned: bool


@dataclass
class Entry:
    """A contestant: its process, and what came of it."""

    peer: str
    title: str
    scaled: bool
    process: Any
    pipe: Connection
    reports: list[Report] = field(default_factory=list)
    missing: Missing | None = None


def measure(case: Descent, limit: float, rounds: int, budget: float, run: Run) -> list[Row]:
    """A row per contestant, ours first."""
    facts, limit = _Facts(case), case.patience * limit
    peers = [peer_fastloss, *run.peers]
    titles = [(peer, title) for peer in peers for title in peer.optimisers(case.problem, facts.n)]
    with _entries(case, titles) as entries:
        _alternate(entries, limit, rounds, budget)
    best = _best(case, entries, limit)
    rows, ours = [], None
    for entry in entries:
        row = case.labels | {"data": facts.label, "rows": facts.n, "columns": facts.d, "by": _name(entry)}
        row |= _figures(entry, best, facts)
        if ours is None:
            ours = row
        elif isinstance(row["time"], float) and isinstance(ours["time"], float):
            row["ratio"] = row["time"] / ours["time"]
        rows.append(row)
    return rows


class _Facts:
    """Size and name of a case's table, and the mean loss of its best constant where gaps are relative to that."""

    def __init__(self, case: Descent):
        data = load(case)
        self.label = data.label + (f", first {case.rows}" if case.rows else "")
        self.n, self.d = data.X.shape
        self.constant: float | None = None
        if case.problem.loss == "poisson":
            raw = np.full((self.n, 1), math.log(float(np.mean(data.y))))
            self.constant = _mean_loss(case.problem, data.y, raw)


def load(case: Descent) -> problems.Dataset:
    """The case's rows."""
    data = problems.dataset(case.data, case.dtype)
    if case.rows is None:
        return data
    return problems.Dataset(data.label, data.X[: case.rows], data.y[: case.rows], data.X_test, data.y_test)


def _name(entry: Entry) -> str:
    scaler = "StandardScaler, " if entry.scaled else ""
    return OURS if entry.peer == OURS else f"{entry.peer}: {scaler}{entry.title}"


def _figures(entry: Entry, best: dict[Any, tuple[float, bool]], facts: _Facts) -> Row:
    if entry.missing is not None:
        return {"time": entry.missing}
    last = entry.reports[-1]
    seconds = [report.seconds for report in entry.reports]
    least, close = best[_key(entry, last)]
    gap = (last.objective - least) / abs(least if facts.constant is None else facts.constant - least)
    row = {
        "time": statistics.median(seconds),
        "seconds": seconds,
        "iterations": last.iterations,
        "objective": last.objective,
        "mean_loss": last.mean_loss,
        "gap": max(gap, 0.0),
        "ended": "not converged" if last.warned else "converged",
        "params": dict(last.problem.params),
    }
    if entry.peer == OURS and not gap <= PROMISED:
        row["gap"] = Missing("failed", f"{gap:.1e} above the best known objective, promised {PROMISED:.0e}")
    elif not close and last.objective <= least:
        row["gap"] = Missing("unknown", "nothing to compare with ended in time")
    return row


# ---- contestants in processes ---------------------------------------------------------------------


@contextlib.contextmanager
def _entries(case: Descent, titles: list[tuple[Any, str]]) -> Iterator[list[Entry]]:
    """Processes that hold the data and wait; stopped at the end, whatever happens."""
    entries = [
        _start(case, peer.NAME, title, case.scaled and peer is not peer_fastloss, peer.__name__)
        for peer, title in titles
    ]
    try:
        for entry in entries:
            _receive(entry, START)
        yield entries
    finally:
        for entry in entries:
            _stop(entry)


def _start(case: Descent, name: str, title: str, scaled: bool, module: str, close: Optimum | None = None) -> Entry:
    context = multiprocessing.get_context("spawn")  # a fork would inherit thread pools that do not work in it
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, case, module, title, scaled, close), daemon=True)
    process.start()
    theirs.close()
    return Entry(name, title, scaled, process, ours)


def _stop(entry: Entry) -> None:
    if entry.process.is_alive():
        entry.process.kill()
    entry.process.join()
    entry.pipe.close()


def _receive(entry: Entry, seconds: float) -> Report | None:
    """What the process says next: a report, or None when it is ready; else, and without an answer, `missing` is set."""
    if not entry.pipe.poll(seconds):
        entry.missing = Missing("stopped", f"did not finish in {seconds:g} s")
        entry.process.kill()
        return None
    try:
        answer = entry.pipe.recv()
    except EOFError:
        answer = "its process ended"
    if isinstance(answer, str):
        entry.missing = Missing("failed" if entry.peer == OURS else "error", answer)
    return answer if isinstance(answer, Report) else None


def _alternate(entries: list[Entry], limit: float, rounds: int, budget: float) -> None:
    """Rounds of fits in turn; after the first one only while the budget lasts."""
    end = time.perf_counter() + budget
    for turn in range(rounds):
        if turn and time.perf_counter() > end:
            break
        for entry in entries[turn % len(entries) :] + entries[: turn % len(entries)]:
            if entry.missing is None:
                entry.pipe.send("fit")
                report = _receive(entry, limit)
                if report is not None:
                    entry.reports.append(report)


def _best(case: Descent, entries: list[Entry], limit: float) -> dict[Any, tuple[float, bool]]:
    """The least value known of every objective that was minimised, and whether a closer fit is among them."""
    found: dict[Any, list[Report]] = {}
    for entry in entries:
        for report in entry.reports:
            found.setdefault(_key(entry, report), []).append(report)
    best = {}
    for key, reports in found.items():
        close = _start(case, "", "", key[0], peer_fastloss.__name__, reports[0].problem)
        try:
            _receive(close, START)
            end = time.perf_counter() + limit
            while len(close.reports) < len(closer_tolerances(reports[0].problem)) and close.missing is None:
                close.pipe.send("fit")
                report = _receive(close, max(end - time.perf_counter(), 0.0))
                close.reports += [] if report is None else [report]
        finally:
            _stop(close)
        best[key] = min(r.objective for r in reports + close.reports), bool(close.reports)
    return best


def _key(entry: Entry, report: Report) -> tuple:
    """What objective a fit was after: a penalty on scaled columns is another one."""
    problem = report.problem
    scaled = entry.scaled and problem.alpha > 0
    params = tuple(sorted(problem.params.items()))
    return scaled, problem.task, problem.loss, params, problem.alpha, problem.intercept_too


# ---- in the process -------------------------------------------------------------------------------


def serve(pipe: Connection, case: Descent, module: str, title: str, scaled: bool, close: Optimum | None) -> None:
    """Load, warm up, and fit whenever asked to; an error becomes its text."""
    try:
        with timing.cores(1):
            data = load(case)
            peer = importlib.import_module(module)
            n, problem = data.X.shape[0], case.problem if close is None else close
            model = peer.optimisers(problem, n)[title] if close is None else closer(problem)
            if scaled:
                model = make_pipeline(StandardScaler(with_mean=not sp.issparse(data.X)), model)
            _fitted(clone(model), *_some_rows(data))
            pipe.send(None)
            tolerances = iter(closer_tolerances(problem))
            while pipe.recv() == "fit":
                if close is None:
                    model = clone(model)
                else:
                    set_tol(model, next(tolerances))
                pipe.send(report(model, data, peer, problem))
    except EOFError:
        pass  # nobody waits any more
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


def closer(problem: Optimum) -> Any:
    """An estimator whose results others are compared with; it goes on from where it was."""
    model = peer_fastloss.optimiser(problem, CLOSER[-1], CLOSER_PASSES).set_params(warm_start=True)
    return make_pipeline(FunctionTransformer(_with_ones, accept_sparse=True), model) if problem.intercept_too else model


def closer_tolerances(problem: Optimum) -> tuple[float, ...]:
    """Its tolerances, one fit after the other."""
    return CLOSER[:2] if fastloss.get_loss(problem.loss, **problem.params).piecewise_linear else CLOSER


def set_tol(model: Any, tol: float) -> None:
    """Set that of the last step of pipelines."""
    while isinstance(model, Pipeline):
        model = model[-1]
    model.set_params(tol=tol)


def _with_ones(X: Any) -> Any:
    ones = np.ones((X.shape[0], 1), X.dtype)
    return sp.hstack([X, ones], format="csr") if sp.issparse(X) else np.hstack([X, ones])


def _some_rows(data: problems.Dataset) -> tuple[Any, np.ndarray]:
    """The first rows, and with few different targets one of each."""
    values, first = np.unique(data.y, return_index=True)
    rows = np.arange(min(WARM_ROWS, len(data.y)))
    if len(values) <= WARM_ROWS:
        rows = np.union1d(rows, first)
    return data.X[rows], data.y[rows]


def _fitted(model: Any, X: Any, y: np.ndarray) -> tuple[float, bool]:
    """Seconds of a fit, and whether it warned that it had not converged."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        start = time.perf_counter()
        model.fit(X, y)
        seconds = time.perf_counter() - start
    return seconds, any(warning.category.__name__ == "ConvergenceWarning" for warning in caught)


def report(model: Any, data: problems.Dataset, peer: Any, problem: Optimum) -> Report:
    """Fit, and evaluate what the fit was after; behind transformers that is an objective of transformed columns."""
    seconds, warned = _fitted(model, data.X, data.y)
    X = data.X
    while isinstance(model, Pipeline):
        X, model = model[:-1].transform(X), model[-1]
    found = peer.solution(model, problem, X.shape[0])
    coef, intercept = np.asarray(found.coef, np.float64), np.asarray(found.intercept, np.float64)
    mean = _mean_loss(found.problem, data.y, np.asarray(X @ coef.T) + intercept)
    square = float(np.vdot(coef, coef)) + found.problem.intercept_too * float(intercept @ intercept)
    models = 1 if found.problem.loss == "cross_entropy" else len(coef)
    objective = mean + found.problem.alpha / 2 * square / models
    return Report(seconds, found.iterations, objective, mean, found.problem, warned)


def _mean_loss(problem: Optimum, y: np.ndarray, raw: np.ndarray) -> float:
    """By the NumPy code in float64; one-vs-rest: the mean over the classes."""
    loss = peer_numpy.kernel(problem.loss, _params(problem))
    if problem.task == "regression":
        return float(np.mean(loss.per_sample(y.astype(np.float64), np.ascontiguousarray(raw[:, 0]))[0]))
    classes, codes = np.unique(y, return_inverse=True)
    if problem.loss == "cross_entropy":
        return float(np.mean(loss.per_sample(codes, raw)[0]))
    positive = [1] if len(classes) == 2 else range(len(classes))
    return float(
        np.mean(
            [
                np.mean(loss.per_sample((codes == c).astype(np.float64), np.ascontiguousarray(raw[:, k]))[0])
                for k, c in enumerate(positive)
            ]
        )
    )


def _params(problem: Optimum) -> dict[str, Any]:
    return fastloss.get_loss(problem.loss, **problem.params).params


# ---- table ----------------------------------------------------------------------------------------


def table(rows: list[Row], limit: float, rounds: int) -> Table:
    columns = [
        Column("data", "data", left=True),
        Column("rows", "rows"),
        Column("columns", "columns"),
        Column("loss", "loss", left=True),
        Column("alpha", "alpha", significant(1)),
        Column("dtype", "dtype", left=True),
        Column("by", "by", left=True),
        Column("time", "s", significant(3)),
        Column("ratio", "ratio", ratio),
        Column("iterations", "iterations"),
        Column("ended", "ended", left=True),
        Column("mean_loss", "mean loss", "{:.6f}".format),
        Column("objective", "objective", "{:.6f}".format),
        Column("gap", "gap", significant(2)),
    ]
    notes = [
        f"s: one fit on one core, checks and scaling included; median of up to {rounds} alternating fits (long ones: "
        "one), each contestant in a process of its own. ratio: the peer's time / fastloss's. stopped: after "
        f"the limit, {limit:g} s unless said.",
        "fastloss: the estimator's defaults but for loss, alpha and one thread, on the columns as they are. Peers: "
        f"their default tol, at most {ITERATIONS} iterations. A loss of two classes meets more of them "
        "one-vs-rest.",
        "objective: mean loss + alpha/2 |coef|^2 on the training rows in float64, by the NumPy code from the "
        "coefficients; behind a StandardScaler the coefficients of the scaled columns, which is another objective. "
        "LinearSVC and liblinear penalise the intercept too: so does theirs. HuberRegressor also finds a scale: its "
        "objective is the Huber loss with the delta that follows from it.",
        "gap: (objective - best known value of that same objective) / that value (poisson: / its distance from the "
        f"best constant's). Best known: the least of all fits and of those by fastloss with tol={CLOSER[0]:g} down to "
        f"{CLOSER[-1]:g} (losses with kinks: {CLOSER[1]:g}), as far as the limit allows. Ours over {PROMISED:g} is "
        "shown as failed.",
        "iterations: fastloss: passes over X; peers: what they call so. ended: whether there was a ConvergenceWarning.",
    ]
    return Table("estimators_optima", "Estimators: whole fits to the same objective, one core", columns, rows, notes)
