"""Door 1, the kernels: mean loss and gradient of n samples; speed and error in one row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

import fastloss
from benchmarks import accuracy, machine, peer_fastloss, problems, timing
from benchmarks.comparison import OURS, errors_of, implementations_of, peer_columns, ratios, timed, wrong
from benchmarks.peers import Kernel, Run
from benchmarks.report import Column, Missing, Row, Table, percent, significant, ulp_pair
from fastloss.losses import Loss

#: Up to this length a call takes microseconds: it is timed on one core, with threads left to the library.
SHORT = 10_000

CHEAP = ("squared_error", "absolute_error", "huber", "quantile", "hinge")


@dataclass(frozen=True)
class Plan:
    """What is measured; ``losses`` empty means every loss the library lists."""

    losses: tuple[str, ...]
    sizes: tuple[int, ...]
    dtypes: tuple[str, ...] = ("float64", "float32")
    rounds: int = 7
    least: int = 5  # the first rounds of code with large temporaries may pay for memory the system had taken back
    budget: float = 1.2  # seconds per case, beyond the least number of rounds
    points: int = 2000  # samples whose error is measured


PLANS = {
    "quick": Plan(("log_loss", "huber"), (1_000_000, 1000), rounds=3, least=3, budget=0.2, points=400),
    "default": Plan(("log_loss", "poisson", *CHEAP), (10_000_000, 1000)),
    "full": Plan((), (10_000_000, 1_000_000, 100_000, 1000), rounds=15, budget=6.0),
}


@dataclass(frozen=True)
class Case:
    loss: str
    dtype: str
    n: int

    @property
    def labels(self) -> Row:
        return {"loss": self.loss, "dtype": self.dtype, "n": self.n, "cores": 1}


def cases(plan: Plan) -> list[Case]:
    losses = plan.losses or fastloss.list_losses("regression") + fastloss.list_losses("binary")
    return [Case(loss, dtype, n) for n in plan.sizes for loss in losses for dtype in plan.dtypes]


def measure(case: Case, plan: Plan, run: Run) -> list[Row]:
    """One row per number of threads (one row for short arrays)."""
    loss = fastloss.get_loss(case.loss, **problems.PARAMS.get(case.loss, {}))
    y, raw = problems.arrays(loss, case.n, case.dtype)
    threads: tuple[int | None, ...] = run.threads if case.n > SHORT else (None,)
    implementations, absent = implementations_of(case.loss, loss.params, run.peers)
    calls = {
        (name, t): kernel.bind(y, raw, t)
        for name, kernel in implementations.items()
        for t in (threads if kernel.threaded else threads[:1])
    }
    results = _times(calls, case, plan, threads)
    results |= wrong(implementations, {key: call for key, call in calls.items() if timed(results[key])}, y, raw)
    errors = _errors(implementations, loss, case.dtype, plan.points)
    notes = [kernel.loss_note for kernel in implementations.values() if kernel.loss_note]
    rows = []
    for t in threads:
        row = case.labels | {"cores": t or 1, "params": loss.params, "notes": notes}
        for name in [OURS, *(peer.NAME for peer in run.peers)]:
            key = (name, t) if (name, t) in results else (name, threads[0])
            row |= _figures(name, absent.get(name) or results[key], errors.get(name), case)
        row |= ratios(row, run.peers)
        _bandwidth(row, results.get(("triad", t)), case)
        rows.append(row)
    return rows


def _times(calls, case: Case, plan: Plan, threads) -> dict:
    contestants = [timing.Contestant(key, call, key[1] or 1) for key, call in calls.items()]
    if not _in_cache(case):
        contestants += [_triad(case.n).contestant(t) for t in threads]
    return timing.alternate(contestants, plan.rounds, plan.budget, plan.least, batch=True)


@cache
def _triad(n: int) -> machine.Triad:
    return machine.Triad(n)


def _in_cache(case: Case) -> bool:
    """Whether the three arrays may stay in the last-level cache between calls: then memory limits nobody."""
    return case.n <= SHORT or _streamed(case) < 2 * machine.last_level_cache()


def _streamed(case: Case) -> int:
    """Bytes that have to move: y and raw are read, the gradient is written."""
    return 3 * case.n * np.dtype(case.dtype).itemsize


# ---- correctness of what was timed ----------------------------------------------------------------


def _errors(implementations: dict[str, Kernel], loss: Loss, dtype: str, count: int) -> dict[str, tuple]:
    """Largest errors of loss and gradient in ulp, by implementation; None without an exact value."""
    return errors_of(implementations, _exact(loss, dtype, count), *problems.points(loss, count, dtype))


@cache
def _exact(loss: Loss, dtype: str, count: int) -> accuracy.Exact | None:
    try:
        return accuracy.Exact(loss.name, loss.params, *problems.points(loss, count, dtype))
    except (ImportError, KeyError):
        return None  # shown as dashes, with a note


# ---- rows -----------------------------------------------------------------------------------------


def _figures(name: str, time: timing.Timing | Missing, errors, case: Case) -> Row:
    if isinstance(time, Missing):
        return {f"{name}_time": time}
    unit = 1e6 if case.n <= SHORT else 1e3
    return {
        f"{name}_time": time.median * unit,
        f"{name}_rate": case.n / time.median / 1e6,
        f"{name}_errors": errors,
        f"{name}_seconds": time.as_json(),
    }


def _bandwidth(row: Row, triad: timing.Timing | Missing | None, case: Case) -> None:
    if isinstance(triad, timing.Timing) and f"{OURS}_seconds" in row:
        own = _streamed(case) / row[f"{OURS}_seconds"]["median"]
        row["triad"] = own / _triad(case.n).bandwidth(triad.median)
        row["triad_seconds"] = triad.as_json()


def failed(case: Case, error: Exception) -> Row:
    return case.labels | {f"{OURS}_time": Missing.failed(error)}


# ---- tables ---------------------------------------------------------------------------------------


def tables(rows: list[Row], plan: Plan, run: Run) -> list[Table]:
    long, short = [r for r in rows if r["n"] > SHORT], [r for r in rows if r["n"] <= SHORT]
    found = []
    if long:
        found.append(
            Table(
                "kernels",
                "Kernels: mean loss and gradient",
                _columns(run, short=False),
                long,
                _notes(long, plan, run),
            )
        )
    if short:
        title = "Kernels: one call on a short array, one core"
        note = "us: fastloss chooses its threads itself, scikit-learn has n_threads=1"
        found.append(Table("kernels_short", title, _columns(run, short=True), short, [note]))
    return found


def _columns(run: Run, short: bool) -> list[Column]:
    unit = "us" if short else "ms"
    labels = [Column("loss", "loss", left=True), Column("dtype", "dtype", left=True)]
    labels += [Column("n", "n", _count, left=True)]
    labels += [] if short else [Column("cores", "cores", left=True)]
    ours = [Column(f"{OURS}_time", unit, significant(3), OURS)]
    if not short:
        ours += [
            Column(f"{OURS}_rate", "M/s", significant(3), OURS),
            Column("triad", "triad", percent, OURS),
        ]
    ours += [Column(f"{OURS}_errors", "ulp", ulp_pair, OURS)]
    return labels + ours + peer_columns(run.peers, unit, Column("errors", "ulp", ulp_pair))


def _count(n: int) -> str:
    exponent = len(str(n)) - 1
    return f"1e{exponent}" if n == 10**exponent else str(n)


def _notes(rows: list[Row], plan: Plan, run: Run) -> list[str]:
    lines = [
        f"ms: median of up to {plan.rounds} alternating runs in one process (fewer when a case takes long, each a "
        "batch of calls when they are short; JSON has each run). ratio: the peer's time / fastloss's. M/s: million "
        "elements a second.",
        "triad: bytes moved per second (y and raw read, gradient written) as a share of the triad "
        "a = b + s*c of the same length, timed in the same rounds on as many cores; blank where the arrays "
        "may stay in cache.",
        "ulp: largest error of loss / gradient per sample against the exact value (mpmath), in units in the "
        f"last place, over {plan.points} of the samples (a quarter of them the smallest and largest scores).",
        ". ".join(f"{peer.NAME}: {peer.KERNEL_NOTE}" for peer in (peer_fastloss, *run.peers)) + ".",
        "The timed call's result is checked in the same run; one that differs is shown as failed.",
    ]
    lines += [f"- in place of an error: {note}" for note in sorted({n for row in rows for n in row.get("notes", ())})]
    if all(row.get(f"{OURS}_errors") in (None, (None, None)) for row in rows):
        lines.append("No errors: they need mpmath and the tests folder.")
    return lines
