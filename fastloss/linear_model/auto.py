"""learning_rate="auto": a training problem handed to the solver of `optimum`, score by score where it must be."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from fastloss.linear_model.constants import best_constant
from fastloss.linear_model.optimum import Model, Optimum, Task, minimise
from fastloss.linear_model.optimum.columns import Moments
from fastloss.linear_model.optimum.task import mean_at_constant
from fastloss.linear_model.problem import Problem
from fastloss.linear_model.schedules import Settings, State, penalties

# Multipliers of losses with kinks, and labels of one-vs-rest, are arrays (n, K): with more elements than this, scores
# are trained in groups.
LARGEST_TABLE = 50_000_000


Monitor = Callable[[int, float, float, Callable[[], Model]], bool]


@dataclass
class Outcome:
    """How a fit ended.

    Attributes
    ----------
    n_iter : int
        Passes over X.
    converged : bool
        Whether every certificate is within tol.
    gap : float
        The largest relative distance from the optimum that is certified.
    moments : Moments or None
        Means and variances of the columns.
    """

    n_iter: int
    converged: bool
    gap: float
    moments: Moments | None = None


def train(
    problem: Problem,
    state: State,
    settings: Settings,
    *,
    warm: bool = False,
    bounds: tuple[NDArray, NDArray] | None = None,
    monitor: Monitor | None = None,
) -> Outcome:
    """Set the coefficients and intercepts of `state` to the optimum.

    Parameters
    ----------
    problem : Problem
    state : State
    settings : Settings
    warm : bool
        Whether to start from `state`, not from the best constant.
    bounds : tuple of ndarray (d,), or None
    monitor : callable, or None
        Called with (passes, loss, objective, function that returns the model) as a fit goes on; True ends it.
    """
    outcome = Outcome(0, settings.tol is not None, 0.0)
    done = penalties_done = 0.0
    for scores, task in tasks(problem, settings, bounds):
        fixed = state.intercept[scores].copy()
        if not settings.fit_intercept and fixed.any():
            task.offset = _with_intercepts(task, fixed)
        start = (state.coef[scores].astype(np.float64), fixed * settings.fit_intercept) if warm else None
        later = _untrained(problem, task, scores) if monitor is not None else 0.0
        others = (done - penalties_done + later, done + later)
        watched = None if monitor is None else partial(_whole, monitor, state, scores, outcome.n_iter, others)
        found = solve(task, settings, start, max(settings.max_iter - outcome.n_iter, 1), watched)
        coef, intercept = found.model
        if problem.joint and settings.fit_intercept:
            intercept = intercept - intercept.mean()  # a common shift of all scores changes no loss
        state.coef[scores] = coef if bounds is None else np.clip(coef, *bounds)
        state.intercept[scores] = intercept if settings.fit_intercept else fixed
        done += found.certificate.objective
        penalties_done += task.penalty(coef)
        outcome.n_iter += found.passes
        outcome.gap = max(outcome.gap, found.certificate.gap / found.certificate.scale)
        outcome.converged &= settings.tol is not None and found.certificate.within(settings.tol)
        outcome.moments = found.moments
        if found.stopped:
            break
    return outcome


def _untrained(problem: Problem, task: Task, scores: slice) -> float:
    """What the scores that come later have as objectives: those of their best constants."""
    if scores.stop == problem.n_scores:
        return 0.0
    if len(problem.losses) == 1:
        # one loss: as much each as these on average
        return (problem.n_scores - scores.stop) / task.K * mean_at_constant(task, _constant_model(task))
    later = [
        replace(task, y=_targets(problem, slice(k, k + 1)), loss=problem.losses[k])
        for k in range(scores.stop, problem.n_scores)
    ]
    return sum(mean_at_constant(one, _constant_model(one)) for one in later)


def _whole(
    monitor: Monitor,
    state: State,
    scores: slice,
    passes_before: int,
    others: tuple[float, float],
    passes: int,
    loss: float,
    objective: float,
    model: Callable[[], Model],
) -> bool:
    """What some scores report, as a report on all."""

    def all_scores() -> Model:
        coef, intercept = state.coef.astype(np.float64), state.intercept.copy()
        coef[scores], intercept[scores] = model()
        return coef, intercept

    whole = model if scores.stop - scores.start == len(state.coef) else all_scores
    return monitor(passes_before + passes, others[0] + loss, others[1] + objective, whole)


def solve(task: Task, settings: Settings, start: Model | None, max_passes: int, monitor: Monitor | None) -> Optimum:
    """The optimum of one task."""

    def report(passes: int, objective: float, model: Callable[[], Model]) -> bool:
        assert monitor is not None
        present = model()
        return monitor(passes, objective - task.penalty(present[0]), objective, lambda: present)

    return minimise(
        task,
        _constant_model(task),
        start,
        tol=settings.tol,
        max_passes=max_passes,
        report=None if monitor is None else report,
    )


def _constant_model(task: Task) -> Model:
    """No coefficients, and the best intercepts."""
    coef = np.zeros((task.K, task.X.shape[1]))
    if not task.fit_intercept:
        return coef, np.zeros(task.K)
    if task.quantiles is None:
        return coef, best_constant(task.loss, task.y, task.K, task.weight, task.offset)
    constants = [
        best_constant(type(task.loss)(quantile=q), task.y[:, k], 1, task.weight, task.offset)[0]
        for k, q in enumerate(task.quantiles)
    ]
    return coef, np.array(constants)


def tasks(problem: Problem, settings: Settings, bounds: tuple[NDArray, NDArray] | None) -> Iterator[tuple[slice, Task]]:
    """The tasks a problem is made of, and which scores each has."""
    lasso, ridge = penalties(settings)
    n, K = problem.X.shape[0], problem.n_scores
    loss, weight = problem.losses[0], _normal_weights(problem)
    several = len(problem.losses) > 1
    quantiles = np.array([one.params["quantile"] for one in problem.losses]) if several else None
    size = K if problem.joint else max(1, min(K, LARGEST_TABLE // max(n, 1)))
    if several and loss._registered != "quantile":
        size = 1  # a kernel has the same parameters for all outputs
    for begin in range(0, K, size):
        scores = slice(begin, min(begin + size, K))
        count = scores.stop - begin
        together = quantiles is not None and size > 1
        y = _targets(problem, scores)
        if together:
            y = np.broadcast_to(y[:, None] if y.ndim == 1 else y, (n, count))
        yield (
            scores,
            Task(
                problem.X,
                y,
                problem.losses[begin] if several else loss,
                count,
                weight=weight,
                offset=_offsets(problem.offset, count),
                quantiles=quantiles[scores] if together and quantiles is not None else None,
                ridge=ridge,
                lasso=lasso,
                bounds=bounds,
                fit_intercept=settings.fit_intercept,
                n_threads=settings.n_threads,
            ),
        )


def _with_intercepts(task: Task, fixed: NDArray) -> NDArray:
    """Intercepts that are not trained are offsets."""
    n = task.X.shape[0]
    if task.offset is None:
        return np.broadcast_to(fixed, (n, task.K)) if task.K > 1 else np.broadcast_to(fixed[0], (n,))
    return task.offset + fixed


def _offsets(offset: NDArray | None, count: int) -> NDArray | None:
    return offset if offset is None or count == 1 else np.broadcast_to(offset[:, None], (len(offset), count))


def _targets(problem: Problem, scores: slice) -> NDArray:
    """Targets of some scores: labels of a joint loss, ±1 for the classes, or numbers."""
    y = problem.targets
    if problem.joint:
        return y
    if problem.positive is not None:
        signs = np.where(y[:, None] == np.array(problem.positive[scores], y.dtype), np.int8(1), np.int8(-1))
        return signs[:, 0] if signs.shape[1] == 1 else signs
    if y.ndim == 1:
        return y
    return y[:, scores.start] if scores.stop - scores.start == 1 else y[:, scores]


def row_weights(problem: Problem) -> NDArray[np.float64] | None:
    """Sample weights times class weights: of a sample's own class, for every one-vs-rest model."""
    weight, classes, y = problem.sample_weight, problem.class_weight, problem.targets
    if classes is None:
        return weight
    if problem.soft:
        own = classes[0, 0] + (classes[0, 1] - classes[0, 0]) * y.astype(np.float64)
    else:
        own = (classes[0] if len(classes) == 1 else classes[:, 1])[y]
    return own if weight is None else own * weight


def _normal_weights(problem: Problem) -> NDArray[np.float64] | None:
    """Weights with a mean of 1: their scale is nobody's business, but rounding would let it in."""
    weight = row_weights(problem)
    return None if weight is None else weight * (np.count_nonzero(weight) / weight.sum())


def warn_about(outcome: Outcome, settings: Settings) -> None:
    """Say so when the optimum was not reached."""
    if settings.tol is None or outcome.converged:
        return
    if outcome.n_iter < settings.max_iter:
        cause = "The objective could not be brought closer to its optimum: rounding, or a problem without an optimum."
    else:
        # the first words are scikit-learn's: there is code that filters by them
        cause = (
            "Maximum number of iteration reached before convergence. Consider increasing max_iter to improve the fit."
        )
    known = f"the certified distance is {outcome.gap:.1e}" if np.isfinite(outcome.gap) else "no distance is certified"
    warnings.warn(
        f"{cause} ({outcome.n_iter} passes over X of at most max_iter={settings.max_iter}; {known}, tol={settings.tol} "
        "wanted)",
        ConvergenceWarning,
        stacklevel=6,
    )
