"""Door 3, several classes: mean loss and gradient of scores of shape (n, K); speed and error in one row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

import fastloss
from benchmarks import accuracy, machine, peer_fastloss, problems, timing
from benchmarks.comparison import OURS, errors_of, implementations_of, peer_columns, ratios, timed, wrong
from benchmarks.peers import Run
from benchmarks.report import Column, Missing, Row, Table, percent, significant, ulp_pair
from fastloss.losses import Loss


@dataclass(frozen=True)
class Case:
    loss: str
    n: int
    classes: int
    dtype: str = "float64"

    @property
    def labels(self) -> Row:
        return {"loss": self.loss, "dtype": self.dtype, "n": self.n, "classes": self.classes, "cores": 1}

    @property
    def streamed(self) -> int:
        """Bytes that have to move: the scores are read, the gradient is written (labels are few beside them)."""
        return 2 * self.n * self.classes * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Plan:
    """What is measured: the cases, and every loss the library lists at each size of ``every``."""

    named: tuple[Case, ...]
    every: tuple[tuple[int, int], ...] = ()
    rounds: int = 7
    least: int = 3
    budget: float = 1.5  # seconds per case, beyond the least number of rounds
    points: int = 400  # samples whose error is measured ...
    numbers: int = 20_000  # ... and of their scores at most about that many: each exact value takes 0.1 ms


def _cross_entropy(*sizes: tuple[int, int], dtypes=("float64", "float32")) -> tuple[Case, ...]:
    return tuple(Case("cross_entropy", n, classes, dtype) for n, classes in sizes for dtype in dtypes)


_DEFAULT = (
    *_cross_entropy((1_000_000, 10), (100_000, 1000)),
    *_cross_entropy((2000, 50_000), dtypes=("float32",)),
)
PLANS = {
    "quick": Plan(_cross_entropy((20_000, 10), (200, 1000)), rounds=3, least=3, budget=0.2, points=100, numbers=2000),
    "default": Plan(_DEFAULT),
    "full": Plan(_DEFAULT, every=((1_000_000, 10), (100_000, 100)), rounds=9, least=3, budget=6.0),
}


def cases(plan: Plan) -> list[Case]:
    every = (
        Case(loss, n, classes, dtype)
        for n, classes in plan.every
        for loss in fastloss.list_losses("multiclass")
        for dtype in ("float64", "float32")
    )
    return list(dict.fromkeys([*plan.named, *every]))


def measure(case: Case, plan: Plan, run: Run) -> list[Row]:
    """One row per number of threads."""
    loss = fastloss.get_loss(case.loss)
    y, raw = problems.class_arrays(case.n, case.classes, case.dtype)
    implementations, absent = implementations_of(case.loss, loss.params, run.peers)
    calls = {
        (name, t): kernel.bind(y, raw, t)
        for name, kernel in implementations.items()
        for t in (run.threads if kernel.threaded else run.threads[:1])
    }
    contestants = [timing.Contestant(key, call, key[1]) for key, call in calls.items()]
    if case.streamed >= 2 * machine.last_level_cache():
        contestants += [_triad().contestant(t) for t in run.threads]
    results = timing.alternate(contestants, plan.rounds, plan.budget, plan.least, batch=True)
    results |= wrong(implementations, {key: call for key, call in calls.items() if timed(results[key])}, y, raw)
    points = case.classes, max(1, min(plan.points, plan.numbers // case.classes)), case.dtype
    errors = errors_of(implementations, _exact(loss, *points), *problems.class_points(*points))
    rows = []
    for t in run.threads:
        row = case.labels | {"cores": t, "params": dict(loss.params), "points": points[1]}
        for name in [OURS, *(peer.NAME for peer in run.peers)]:
            key = (name, t) if (name, t) in results else (name, run.threads[0])
            row |= _figures(name, absent.get(name) or results[key], errors.get(name), case)
        row |= ratios(row, run.peers)
        row |= _bandwidth(row, results.get(("triad", t)), case)
        rows.append(row)
    return rows


@cache
def _triad() -> machine.Triad:
    return machine.Triad(machine.triad_size())


@cache
def _exact(loss: Loss, classes: int, count: int, dtype: str) -> accuracy.Exact | None:
    try:
        return accuracy.Exact(loss.name, loss.params, *problems.class_points(classes, count, dtype))
    except (ImportError, KeyError):
        return None  # shown as dashes, with a note


def _figures(name: str, time: timing.Timing | Missing, errors, case: Case) -> Row:
    if isinstance(time, Missing):
        return {f"{name}_time": time}
    return {
        f"{name}_time": time.median * 1e3,
        f"{name}_rate": case.n * case.classes / time.median / 1e6,
        f"{name}_errors": errors,
        f"{name}_seconds": time.as_json(),
    }


def _bandwidth(row: Row, triad: timing.Timing | Missing | None, case: Case) -> Row:
    if not isinstance(triad, timing.Timing) or f"{OURS}_seconds" not in row:
        return {}
    own = case.streamed / row[f"{OURS}_seconds"]["median"]
    return {"triad": own / _triad().bandwidth(triad.median), "triad_seconds": triad.as_json()}


def failed(case: Case, error: Exception) -> Row:
    return case.labels | {f"{OURS}_time": Missing.failed(error)}


# ---- table ----------------------------------------------------------------------------------------


def tables(rows: list[Row], plan: Plan, run: Run) -> list[Table]:
    if not rows:
        return []
    columns = [
        Column("loss", "loss", left=True),
        Column("dtype", "dtype", left=True),
        Column("n", "n"),
        Column("classes", "K"),
        Column("cores", "cores", left=True),
        Column(f"{OURS}_time", "ms", significant(3), OURS),
        Column(f"{OURS}_rate", "M logits/s", significant(3), OURS),
        Column("triad", "triad", percent, OURS),
        Column(f"{OURS}_errors", "ulp", ulp_pair, OURS),
        *peer_columns(run.peers, "ms", Column("errors", "ulp", ulp_pair)),
    ]
    title = "Several classes: mean loss and gradient of scores (n, K)"
    return [Table("classes", title, columns, rows, _notes(rows, plan, run))]


def _notes(rows: list[Row], plan: Plan, run: Run) -> list[str]:
    lines = [
        f"ms: median of up to {plan.rounds} alternating runs in one process (fewer when a case takes long; JSON has "
        "each run). ratio: the peer's time / fastloss's. M logits/s: million scores a second. Scores in C order, "
        "labels int64 (scikit-learn: of the scores' dtype).",
        "triad: bytes moved per second (scores read, gradient written) as a share of the triad a = b + s*c of "
        f"{machine.triad_size():.0e} float64, timed in the same rounds on as many cores; blank where the arrays may "
        "stay in cache.",
        "ulp: largest error of loss / gradient per sample against the exact value (mpmath), in units in the last "
        f"place, over up to {plan.points} samples (for many classes fewer: some {plan.numbers} scores; half of them "
        "those with the smallest and largest margins).",
        ". ".join(f"{peer.NAME}: {peer.KERNEL_NOTE}" for peer in (peer_fastloss, *run.peers)) + ".",
        "The timed call's result is checked in the same run; one that differs is shown as failed.",
    ]
    if all(row.get(f"{OURS}_errors") in (None, (None, None)) for row in rows):
        lines.append("No errors: they need mpmath and the tests folder.")
    return lines
