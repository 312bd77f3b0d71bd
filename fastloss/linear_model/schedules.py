"""Training with an explicit `learning_rate`: what is kept between calls, and what happens between epochs."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from fastloss._kernels.sgd import Design, RowOrder, Trainer
from fastloss.linear_model.blocks import RowBlocks
from fastloss.linear_model.problem import Problem
from fastloss.losses import Loss

# "adaptive" stops instead of lowering a step size that is already below this.
SMALLEST_ADAPTIVE_STEP = 1e-6

# scikit-learn steps the intercept a hundred times slower on sparse rows: it changes with every row, a coefficient only
# with the rows that have the feature.  Explicit schedules keep its conventions.
SPARSE_INTERCEPT_RATE = 0.01

PASSIVE = ("pa1", "pa2")

PYTHON_BATCH = 256  # rows per update of a loss that is a Python function


class Settings(Protocol):
    """The estimator's parameters that training looks at."""

    penalty: str | None
    alpha: float
    l1_ratio: float | None
    fit_intercept: bool
    max_iter: int
    tol: float | None
    shuffle: bool
    verbose: int
    random_state: Any
    learning_rate: str
    eta0: float
    power_t: float
    n_iter_no_change: int
    average: bool | int
    batch_size: int | None
    n_threads: int | None


class Recorder(Protocol):
    """Takes note of every epoch."""

    def epoch(
        self,
        *,
        n_iter: int,
        loss: float,
        objective: float,
        step_size: float,
        snapshot: Callable[[], tuple[NDArray[Any], NDArray[Any]]],
    ) -> bool:
        """Take note; True ends training."""


@dataclass
class State:
    """Everything that training changes, so that it can be continued.

    `coef` (n_scores, d) and `average_coef` are of X's dtype, all else is float64; `paid` and `penalty` belong to the L1
    penalty (see ``Trainer``), `eta` to "adaptive", `stream` to partial_fit with learning_rate="auto",
    `fitted` (column statistics and number of rows of a fit) to the first such call after a fit.
    """

    coef: NDArray[Any]
    intercept: NDArray[np.float64]
    average_coef: NDArray[Any] | None = None
    average_intercept: NDArray[np.float64] | None = None
    paid: NDArray[np.float64] | None = None
    penalty: NDArray[np.float64] | None = None
    t: float = 1.0
    eta: NDArray[np.float64] | None = None
    stream: Any = None
    fitted: Any = None

    def copy(self) -> State:
        """An independent copy: an interrupted call must leave the estimator as it was."""
        return copy.deepcopy(self)


@dataclass
class Progress:
    """How one model's training goes; `after_epoch` decides whether it goes on."""

    tol: float | None
    patience: int
    best: float = math.inf
    stalls: int = 0
    n_iter: int = 0
    converged: bool = False
    n_clipped: int = 0
    last_clipped_epoch: int = 0

    def after_epoch(self, value: float, n_clipped: int, validated: bool = False) -> bool:
        """Take note of an epoch; True when the last `patience` epochs each failed to lower the best value by `tol`."""
        self.n_iter += 1
        if n_clipped:
            self.n_clipped += n_clipped
            self.last_clipped_epoch = self.n_iter
        if self.tol is None:
            return False
        # the same comparison, but each as scikit-learn rounds it: accuracies often gain exactly tol
        stalled = -value < -self.best + self.tol if validated else value > self.best - self.tol
        self.stalls = self.stalls + 1 if stalled else 0
        self.best = min(self.best, value)
        return self.stalls >= self.patience


def penalties(settings: Settings) -> tuple[float, float]:
    """Strengths of the absolute and of the squared penalty."""
    if settings.penalty is None:
        return 0.0, 0.0
    ratio = {"l1": 1.0, "l2": 0.0}.get(settings.penalty, settings.l1_ratio)
    assert ratio is not None
    return settings.alpha * ratio, settings.alpha * (1.0 - ratio)


def rows_per_update(problem: Problem, settings: Settings) -> int:
    """The batch size; unless it is set, a Python function is not called for every row."""
    return settings.batch_size or (PYTHON_BATCH if any(loss._kernel.python for loss in problem.losses) else 1)


def train(
    problem: Problem,
    state: State,
    settings: Settings,
    *,
    max_iter: int,
    rows: NDArray[np.intp] | None = None,
    validate: Callable[[Trainer], NDArray[Any]] | None = None,
    record: Recorder | None = None,
) -> list[Progress]:
    """Train `state` in place.

    Parameters
    ----------
    problem : Problem
    state : State
    settings : Settings
    max_iter : int
        Largest number of epochs.
    rows : ndarray, or None
        The rows to train on, ascending; None: all.
    validate : callable, or None
        Gives a score per model after an epoch, which then decides when to stop.
    record : Recorder, or None
    """
    X = problem.X
    rng = check_random_state(settings.random_state)
    seed = int(rng.randint(np.iinfo(np.int32).max)) if settings.shuffle else None
    blocks = None
    batch_size = rows_per_update(problem, settings)
    if not issparse(X) and not X.flags.c_contiguous:
        blocks = RowBlocks(X, rows, seed, batch_size)
    design = Design(X if blocks is None else blocks.tile)
    n = X.shape[0]
    l1, l2 = penalties(settings)
    if l1 and state.paid is None:
        state.paid, state.penalty = np.zeros(state.coef.shape), np.zeros(problem.n_models)
    if settings.average and state.average_coef is None:
        state.average_coef, state.average_intercept = np.zeros_like(state.coef), np.zeros(problem.n_scores)
    trainer = Trainer(
        design,
        [loss._kernel for loss in problem.losses],
        problem.targets,
        problem.sample_weight,
        RowOrder(n, seed, rows) if blocks is None else RowOrder(0),
        state.coef,
        state.intercept,
        positive=problem.positive,
        class_weight=problem.class_weight,
        soft=problem.soft,
        offset=problem.offset,
        learning_rate=settings.learning_rate,
        alpha=settings.alpha,
        eta0=settings.eta0,
        power_t=settings.power_t,
        l1=l1,
        l2=l2,
        intercept_rate=(SPARSE_INTERCEPT_RATE if design.sparse else 1.0) if settings.fit_intercept else 0.0,
        want_objective=record is not None,
        want_norms=settings.tol is not None,
        batch_size=batch_size,
        average_from=float(settings.average),
        average_coef=state.average_coef,
        average_intercept=state.average_intercept,
        paid=state.paid,
        penalty=state.penalty,
        blocks=blocks,
        t=state.t,
        eta=state.eta if settings.learning_rate == "adaptive" else None,
        n_threads=settings.n_threads,
    )
    with np.errstate(over="ignore", invalid="ignore"):
        progress = run_epochs(trainer, problem.losses[0], settings, max_iter=max_iter, validate=validate, record=record)
    n_iter = max(p.n_iter for p in progress)
    if not (np.isfinite(state.coef).all() and np.isfinite(state.intercept).all()):
        raise overflow(n_iter, problem.losses[0])
    # scikit-learn counts the rows held out for validation as well
    state.t += n_iter * -(-n // batch_size)
    state.eta = np.array([trainer.eta(k) for k in range(trainer.n_models)])
    return progress


def run_epochs(
    trainer: Trainer,
    loss: Loss,
    settings: Settings,
    *,
    max_iter: int,
    validate: Callable[[Trainer], NDArray[Any]] | None = None,
    record: Recorder | None = None,
) -> list[Progress]:
    """Train until every model converged or `max_iter` epochs are over."""
    progress = [Progress(settings.tol, settings.n_iter_no_change) for _ in range(trainer.n_models)]
    active = set(range(trainer.n_models))
    for epoch in range(1, max_iter + 1):
        trainer.epoch()
        for k in active:
            if not trainer.finite(k):
                raise overflow(epoch, loss)
        scores = None if validate is None else validate(trainer)
        for k in sorted(active):
            value = trainer.objective(k) if scores is None else -float(scores[k])
            stalled = progress[k].after_epoch(value, trainer.n_clipped(k), scores is not None)
            if not stalled:
                continue
            if settings.learning_rate == "adaptive" and trainer.eta(k) > SMALLEST_ADAPTIVE_STEP:
                trainer.set_eta(k, trainer.eta(k) / 5)
                progress[k].stalls = 0
            else:
                progress[k].converged = True
                trainer.stop(k)
                active.discard(k)
        if record is not None:
            models = range(trainer.n_models)
            if record.epoch(
                n_iter=epoch,
                loss=sum(trainer.loss(k) for k in models),
                objective=sum(trainer.objective(k) for k in models),
                step_size=trainer.step_size(0),
                snapshot=trainer.average_snapshot,
            ):
                break
        if not active:
            break
    trainer.finish()
    return progress


def overflow(epoch: int, loss: Loss) -> ValueError:
    """The error of a fit whose coefficients are not finite any more."""
    own = "" if loss._registered else f" Or loss={loss!r} gave NaN (fastloss.check_loss looks for it)."
    # the first words are scikit-learn's: there is code that looks for them
    return ValueError(
        f"Floating-point under-/overflow occurred at epoch #{epoch}. Scaling input data with StandardScaler or "
        "MinMaxScaler might help. The coefficients are not finite any more: the fit diverged; a lower eta0 helps too."
        + own
    )


def warn_about(progress: Iterable[Progress], max_iter: int) -> None:
    """Say so when the result is not one: diverged, or out of epochs."""
    progress = list(progress)
    n_clipped = sum(p.n_clipped for p in progress)
    if n_clipped:
        last, n_iter = max(p.last_clipped_epoch for p in progress), max(p.n_iter for p in progress)
        warnings.warn(
            f"The fit diverged: in {n_clipped} updates (the last in epoch {last} of {n_iter}) the loss had a derivative"
            " beyond 1e12, which was clipped; the coefficients mean nothing. "
            "Scale the columns of X (sklearn.preprocessing.StandardScaler) or lower eta0.",
            ConvergenceWarning,
            stacklevel=6,
        )
    elif any(p.tol is not None and not p.converged for p in progress):
        # likewise: warnings are filtered by their first words
        warnings.warn(
            "Maximum number of iteration reached before convergence. Consider increasing max_iter to improve the fit. "
            f"(max_iter={max_iter}, tol={progress[0].tol})",
            ConvergenceWarning,
            stacklevel=6,
        )
