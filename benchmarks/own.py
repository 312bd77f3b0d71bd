"""Door 5, what is the user's own: losses in numba, C and NumPy; losses over batches and of losses; in other libraries.

Two tables: functions of one's own beside the built-in of the same formula, and the rest beside another way to the same
result. The calls are made by ``own_functions.py`` and ``own_others.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import fastloss
from benchmarks import accuracy, own_functions, own_others, problems, timing
from benchmarks.comparison import OURS, errors_of, timed
from benchmarks.own_call import Call, difference
from benchmarks.own_functions import ALONE, BUILT_IN
from benchmarks.own_others import OTHER
from benchmarks.peers import NotAvailable, Run
from benchmarks.report import Column, Missing, Row, Table, ratio, significant, ulp_pair

#: Relative difference of two results beyond which they are not the same.
TOLERANCE = {"float64": 1e-9, "float32": 1e-3}

EPOCH_COLUMNS, CLASSES = 54, 10


@dataclass(frozen=True)
class Function:
    """A loss of one's own: mean loss and gradient of an array, or an epoch of SGD; on one core."""

    loss: str
    language: str  # "numba", "C" or "NumPy"
    n: int
    dtype: str = "float64"
    alone: bool = False  # beside it the function without the library, block by block
    epoch: bool = False

    @property
    def labels(self) -> Row:
        what = f"SGD epoch, {EPOCH_COLUMNS} columns" if self.epoch else "loss and gradient"
        return {"loss": self.loss, "own": self.language, "what": what, "dtype": self.dtype, "n": self.n, "cores": 1}

    def calls(self, threads: int) -> dict[str, Call]:
        if self.epoch:
            return own_functions.epochs(self.loss, self.language, self.dtype, self.n, EPOCH_COLUMNS, threads)
        return own_functions.whole_array(self.loss, self.language, self.dtype, self.n, self.alone, threads)


@dataclass(frozen=True)
class Other:
    """Something else of fastloss, beside another way to the same result."""

    title: str
    beside: str
    make: Callable[..., dict[str, Call]]  # n, dtype, threads -> calls
    n: int
    dtype: str = "float64"
    one: bool = False  # only on the smallest number of threads

    @property
    def labels(self) -> Row:
        return {"what": self.title, "beside": self.beside, "dtype": self.dtype, "n": self.n, "cores": 1}

    def calls(self, threads: int) -> dict[str, Call]:
        return self.make(n=self.n, dtype=self.dtype, threads=threads)


@dataclass(frozen=True)
class Plan:
    functions: tuple[Function, ...]
    others: tuple[Other, ...]
    rounds: int = 9
    least: int = 3
    budget: float = 4.0  # seconds per case and number of threads, beyond the least number of rounds
    points: int = 400  # samples whose error is measured


def _functions(n: int, rows: int, dtypes: tuple[str, ...] = ("float64", "float32")) -> tuple[Function, ...]:
    return (
        *(Function("huber", language, n, dtype) for language in ("numba", "C") for dtype in dtypes),
        *(Function("log_cosh", "C", n, dtype) for dtype in dtypes),
        *(Function("log_cosh", "numba", n, dtype, alone=True) for dtype in dtypes),
        *(Function("huber", "NumPy", n, dtype, alone=True) for dtype in dtypes),
        *(Function("huber", language, rows, epoch=True) for language in ("numba", "C")),
    )


def _batch(name: str, n: int, one: bool = False) -> Other:
    how = "NumPy, n log n" if name.startswith(("pairwise_auc", "lovasz")) else "NumPy"
    return Other(name, how, partial(own_others.batch, name), n, one=one)


def _ranking(name: str, n: int, one: bool = False) -> Other:
    title = f"{name}, groups of {own_others.GROUP}"
    return Other(title, "NumPy, a loop", partial(own_others.ranking, name), n, one=one)


def _sums(n: int, rows: int, dtype: str, one: bool = False) -> tuple[Other, ...]:
    title = "0.5*huber + 0.5*squared_error"
    return (
        Other(title, "two calls", partial(own_others.weighted_sum, add=False), n, dtype, one),
        Other(title, "two calls, added", partial(own_others.weighted_sum, add=True), n, dtype, one),
        Other("MultiTaskLoss, 3 columns", "three calls", own_others.tasks, rows, dtype, one),
    )


def _torch(n: int, dtype: str) -> Other:
    title = f"cross_entropy in torch, {CLASSES} classes"
    return Other(title, "torch's", partial(own_others.torch, classes=CLASSES), n, dtype)


def _boosting(n: int) -> tuple[Other, ...]:
    title = f"log_loss, {own_others.TREES} trees of "
    return (
        Other(title + "LightGBM", "its own", own_others.lightgbm, n, "float32", one=True),
        Other(title + "XGBoost", "its own", own_others.xgboost, n, "float32", one=True),
    )


BATCH = ("pairwise_auc squared_hinge", "pairwise_auc hinge", "lovasz_hinge", "soft_fbeta")
RANKING = ("lambdarank", "listnet", "approx_ndcg")
_OTHERS = (
    *(_batch(name, 1_000_000) for name in BATCH),
    *(_ranking(name, 1_000_000) for name in RANKING),
    *(case for dtype in ("float64", "float32") for case in _sums(10_000_000, 3_000_000, dtype)),
    *(_torch(1_000_000, dtype) for dtype in ("float64", "float32")),
    *_boosting(200_000),
)
PLANS = {
    "quick": Plan(
        _functions(100_000, 5000, ("float64",)),
        (
            *(_batch(name, 20_000, one=True) for name in BATCH),
            *(_ranking(name, 2000, one=True) for name in RANKING),
            *_sums(100_000, 30_000, "float64", one=True),
            _torch(10_000, "float32"),
            *_boosting(1000),
        ),
        rounds=3,
        budget=0.1,
        points=100,
    ),
    "default": Plan(_functions(10_000_000, 100_000), _OTHERS),
    "full": Plan(_functions(10_000_000, 100_000), _OTHERS, rounds=21, least=5, budget=15.0, points=2000),
}


def cases(plan: Plan) -> list[Function | Other]:
    return [*plan.functions, *plan.others]


def measure(case: Function | Other, plan: Plan, run: Run) -> list[Row]:
    """One row per number of threads; a missing package or compiler is no failure."""
    threads = (1,) if isinstance(case, Function) else run.threads[:1] if case.one else run.threads
    try:
        return [_row(case, plan, t) for t in threads]
    except NotAvailable as reason:
        return [case.labels | {f"{OURS}_time": Missing("n/a", str(reason))}]


def failed(case: Function | Other, error: Exception) -> Row:
    return case.labels | {f"{OURS}_time": Missing.failed(error)}


def _row(case: Function | Other, plan: Plan, threads: int) -> Row:
    calls = case.calls(threads)
    contestants = [timing.Contestant(name, call.run, threads) for name, call in calls.items()]
    results = timing.alternate(contestants, plan.rounds, plan.budget, plan.least, batch=True)
    row = case.labels | {"cores": threads}
    for name, call in calls.items():
        result = results[name]
        row[f"{name}_time"] = result.median * 1e3 * call.scale if timed(result) else result
        row[f"{name}_seconds"] = result.as_json() if timed(result) else None
        row[f"{name}_scale"] = call.scale
    if timed(results[OURS]):
        row |= _differences(calls, {name for name in calls if timed(results[name])}, case.dtype)
        row |= _ratios(row, calls, inverse=isinstance(case, Function))
        row |= _errors(case, plan.points) if isinstance(case, Function) and not case.epoch else {}
    return row


def _differences(calls: dict[str, Call], there: set[str], dtype: str) -> Row:
    """The largest difference of our result from any other, which must be small."""
    ours = calls[OURS].numbers()
    others = {name: calls[name].numbers() for name in there - {OURS}}
    apart = {name: difference(ours, other) for name, other in others.items() if other is not None}
    row: Row = {"difference": max(apart.values(), default=None)}
    for name, share in apart.items():
        if not share <= TOLERANCE[dtype]:
            row[f"{OURS}_time"] = Missing("failed", f"the result differs from that of {name} by {share:.1g}")
    return row


def _ratios(row: Row, calls: dict[str, Call], inverse: bool) -> Row:
    """Times of the others by ours, or the ``inverse``."""
    ours = row[f"{OURS}_time"]
    if isinstance(ours, Missing):
        return {}
    others = {name: row[f"{name}_time"] for name in calls if name != OURS}
    found = {name: time for name, time in others.items() if not isinstance(time, Missing)}
    return {f"{name}_ratio": ours / time if inverse else time / ours for name, time in found.items()}


def _errors(case: Function, points: int) -> Row:
    """Largest errors in ulp of the function and of the built-in."""
    loss = fastloss.get_loss(case.loss)
    own = own_functions.own_loss(loss, case.language, case.dtype)
    kernels = {name: own_functions.Kernel(each) for name, each in ((OURS, own), (BUILT_IN, loss))}
    samples = problems.points(loss, points, case.dtype)
    found = errors_of(kernels, _exact(case.loss, case.dtype, points), *samples)
    return {f"{name}_errors": pair for name, pair in found.items()}


@cache
def _exact(name: str, dtype: str, points: int) -> accuracy.Exact | None:
    loss = fastloss.get_loss(name)
    try:
        return accuracy.Exact(name, loss.params, *problems.points(loss, points, dtype))
    except (ImportError, KeyError):
        return None  # shown as dashes


# ---- tables ---------------------------------------------------------------------------------------


def tables(rows: list[Row], plan: Plan, run: Run) -> list[Table]:
    functions = [row for row in rows if "own" in row]
    others = [row for row in rows if "own" not in row]
    found = []
    if functions:
        title = "Your own loss: a function beside the built-in of the same formula, one core"
        found.append(Table("own", title, _function_columns(), functions, _function_notes(plan)))
    if others:
        title = "Batches, sums, torch and boosting: fastloss beside another way to the same result"
        found.append(Table("own_others", title, _other_columns(), others, _other_notes(plan)))
    return found


def _function_columns() -> list[Column]:
    return [
        Column("loss", "loss", left=True),
        Column("own", "own", left=True),
        Column("what", "what", left=True),
        Column("dtype", "dtype", left=True),
        Column("n", "n"),
        Column(f"{OURS}_time", "ms", significant(3), OURS),
        Column(f"{OURS}_errors", "ulp", ulp_pair, OURS),
        Column(f"{BUILT_IN}_time", "ms", significant(3), BUILT_IN),
        Column(f"{BUILT_IN}_ratio", "ratio", ratio, BUILT_IN),
        Column(f"{BUILT_IN}_errors", "ulp", ulp_pair, BUILT_IN),
        Column(f"{ALONE}_time", "ms", significant(3), ALONE),
        Column(f"{ALONE}_ratio", "ratio", ratio, ALONE),
        Column("difference", "diff", significant(1)),
    ]


def _other_columns() -> list[Column]:
    return [
        Column("what", "what", left=True),
        Column("dtype", "dtype", left=True),
        Column("n", "n"),
        Column("cores", "cores", left=True),
        Column(f"{OURS}_time", "ms", significant(3), OURS),
        Column("beside", "beside", left=True),
        Column(f"{OTHER}_time", "ms", significant(3), OTHER),
        Column(f"{OTHER}_ratio", "ratio", ratio, OTHER),
        Column("difference", "diff", significant(1)),
    ]


def _rounds(plan: Plan) -> str:
    return f"ms: median of up to {plan.rounds} alternating runs in one process (fewer when a case takes long)."


def _function_notes(plan: Plan) -> list[str]:
    return [
        f"{_rounds(plan)} fastloss: a CustomLoss of the function named under own; mean loss and gradient, or a fit by "
        "SGD with an explicit schedule, by epoch. ratio: the own loss's time / the time of what stands beside it, so "
        "that small is good.",
        f"alone: for numba, the same cfunc called block by block ({own_functions.COMPILED_BLOCK} samples), without "
        "sums and scaling of what it gives; for NumPy, the same formula in a loop over blocks of "
        f"{own_functions.PYTHON_BLOCK}, with them. numba's log_cosh has its own exp and log1p, C's those of "
        "fastloss_math.h. The numba one cancels near 0: its errors there are small only beside 1.",
        "Goals: huber in numba or C and log_cosh in C at most 1.3x the built-in; log_cosh in numba at most 1.1x of "
        "itself alone (0.9 of its speed); NumPy less than 3x of itself alone; SGD at most 1.2x.",
        f"ulp: largest error of loss / gradient per sample against the exact value (mpmath), over {plan.points} "
        "samples: that of the function, and that of the built-in. diff: largest difference of the timed calls' results "
        "(for SGD: coefficients), relative to the largest entry.",
        f"C: compiled with {' '.join(own_functions.FLAGS)}.",
    ]


def _other_notes(plan: Plan) -> list[str]:
    groups = own_others.LOOPED
    return [
        f"{_rounds(plan)} ratio: the time of what stands beside / fastloss's, so that large is good. diff: largest "
        "difference of the two results, relative to the largest entry: of loss and gradient; ranking: gradients; two "
        "calls without adding: losses; boosting: raw predictions.",
        "Beside, where it is not another library: NumPy code in float64, on one core whatever the row says; the loop "
        f"over groups does at most {groups} of them, and its time is scaled to all.",
        "Goals: pairwise_auc of a million rows in less than 1000 ms on two cores; torch's cross_entropy (forward and "
        "backward) at least 5x; boosting about 1x.",
        f"Boosting: training alone, on {own_others.COLUMNS} columns that are binned before. --peers does not act on "
        "this table.",
    ]
