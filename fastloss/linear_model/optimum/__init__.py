"""learning_rate="auto": the optimum of the objective, found without tuning and certified.

The objective is the weighted mean of the loss plus alpha·[(1 − l1_ratio)/2·‖coef‖² + l1_ratio·‖coef‖₁].

Smooth losses (``descend``): L-BFGS in coordinates where the hessian is close to the identity (``coordinates``), each
evaluation one pass of the linear objective; where progress slows, the coordinates are made afresh from the hessian at
the present point, so that the next steps are close to Newton's.  L1 and bounds become bounds of L-BFGS-B: zeros are
true zeros.

Losses with kinks (``descend_by_multipliers``): the method of multipliers.  raw_i = z_i is relaxed with multipliers u_i
and a quadratic term 1/(2 step); minimised over z that is the loss's Moreau envelope at raw + step·u: a smooth problem
for ``descend`` of the same form.  The new multipliers are the envelope's slopes.  For any u the relaxed problem's
minimum is a lower bound of the optimum (it is the augmented dual function), so the distance between objective and
bound is a duality gap.  No step size has to vanish, so the problems stay well conditioned.

Certificates: ``Certificate`` says what is known about the distance from the optimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import threadpoolctl

from fastloss.linear_model.optimum.columns import Moments, weighted_moments
from fastloss.linear_model.optimum.coordinates import Coordinates
from fastloss.linear_model.optimum.multipliers import descend_by_multipliers
from fastloss.linear_model.optimum.smooth import CAUTION, Smooth, descend, first_coordinates, polish, wants_full
from fastloss.linear_model.optimum.task import Certificate, Model, PassesUsedUp, Report, Scale, Task, Watch, undefined

__all__ = ["Certificate", "Model", "Optimum", "Task", "minimise"]


# Numbers of X (times scores) up to which a smooth problem is solved to rounding, so that equivalent data (a row twice,
# or once with weight 2) give equal models: that takes milliseconds.
SMALL, MORE_PASSES, CLOSELY = 1_000_000, 200, 1e-7


@dataclass
class Optimum:
    """What `minimise` found.

    Attributes
    ----------
    model : tuple
        Coefficients (K, d) and intercepts (K,).
    certificate : Certificate
    passes : int
        Over X.
    moments : Moments or None
        Of the columns of X; None where no pass was allowed.
    stopped : bool
        Whether `report` asked for the end.
    """

    model: Model
    certificate: Certificate
    passes: int
    moments: Moments | None
    stopped: bool


def minimise(task: Task, constant: Model, start: Model | None = None, *, tol: float | None, max_passes: int,
             report: Report | None = None) -> Optimum:  # fmt: skip
    """The model of least objective.

    Parameters
    ----------
    task : Task
    constant : tuple
        Zero coefficients, and the intercepts of the best constant (zeros without intercept).
    start : tuple, optional
        Where to start, if not there.
    tol : float or None
        Relative distance from the optimum; None: as close as `max_passes` allow.
    max_passes : int
        Largest number of passes over X.
    report : callable, optional
        Called with (passes, objective, function that returns the model) after every iteration; True ends the fit.

    Returns
    -------
    Optimum
    """
    watch = Watch(max_passes, start or constant, report)
    scale = Scale(task, constant)
    wanted = 0.0 if tol is None else tol
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        try:
            model, certificate = _minimise(task, start or constant, wanted, scale, watch)
        except PassesUsedUp:
            objective = watch.objective if np.isfinite(watch.objective) else scale.constant
            model, certificate = watch.latest(), Certificate(objective, np.inf, scale(objective))
    if watch.undefined and tol is not None and not certificate.within(tol) and not watch.stopped:
        raise undefined(task.loss, "on the way, and no optimum was found beside it")
    return Optimum(model, certificate, watch.passes, watch.moments, watch.stopped)


def _to_rounding(smooth: Smooth, model: Model, coordinates: Coordinates, scale: Scale) -> tuple[Model, float, float]:
    """A small problem solved on, as far as some more passes bring it."""
    watch = smooth.watch
    watch.reserve = max(0, watch.max_passes - watch.passes - MORE_PASSES)
    try:
        if smooth.jumps:  # Newton's steps alone need not get through the jumps of a hessian
            model, _, _, coordinates = descend(smooth, model, coordinates, lambda f: CLOSELY * scale(f))
    except PassesUsedUp:
        model = watch.latest()
    watch.reserve = 0
    return polish(smooth, model, coordinates)


def _minimise(task: Task, model: Model, tol: float, scale: Scale, watch: Watch) -> tuple[Model, Certificate]:
    watch.pass_over()
    spread = watch.moments = weighted_moments(task.X, task.weight, full=wants_full(task))
    if task.loss._kinked:
        return descend_by_multipliers(task, model, spread, tol, scale, watch)
    smooth = Smooth(task, task.loss._kernel, watch, offset=task.offset)
    coordinates = first_coordinates(smooth, model, spread)
    value = scale.constant
    while True:
        before, passes = value, watch.passes
        model, value, gap, coordinates = descend(smooth, model, coordinates, lambda f: tol * scale(f))
        done = gap <= tol * scale(value) or before - value <= CAUTION * tol * scale(value)
        if tol > 0 and done:
            if coordinates.factors is not None and task.X.shape[0] * task.X.shape[1] * task.K <= SMALL:
                model, value, gap = _to_rounding(smooth, model, coordinates, scale)
            return model, Certificate(value, gap, scale(value))
        if watch.passes == passes:  # tol=None at the minimum: all passes that were asked for are made
            smooth.last = None
