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

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
import threadpoolctl
from numpy.typing import NDArray

from fastloss._kernels import dispatch, linear
from fastloss.linear_model.columns import Moments, moments, raw_predictions, row_blocks, working_dtype
from fastloss.linear_model.coordinates import Coordinates
from fastloss.losses import Loss, get_loss
from fastloss.objective import _parts

Model = tuple[NDArray, NDArray]  # coef (K, d), intercept (K,), float64
Report = Callable[[int, float, Callable[[], Model]], bool]
Target = Callable[[float], float]

# Full second moments while they cost about as much as ten evaluations; otherwise variances alone.
FULL_COLUMNS, FULL_CLASSES = 1000, 30
# Evaluations between two looks at whether fresh coordinates are needed.
ROUND_EXACT, ROUND_ROUGH = 12, 150
FEW = 4  # evaluations of a round that made no progress
# The envelope's step: this fraction of the loss's value over its squared slope.  covtype, a9a, electricity with the
# hinge: 1 takes 49-62 passes to a gap of 1e-3, 0.3 takes 28-35, 0.1 takes 18-46.
FIRST_STEP, SHORTER, SHORTENINGS = 0.3, 0.5, 4
PATIENCE = 4  # relaxed problems in a row that brought objective and bound no closer
# The part of the tolerance that a relaxed problem's own distance from its minimum may have.
INNER_SHARE = 0.25
LEAST_WINDOW = 5  # iterations whose gains are added up
# An estimate of the distance from the optimum is trusted to this factor.
CAUTION = 0.25


class PassesUsedUp(Exception):  # noqa: N818 - ends a fit, is not an error
    """The passes over X that were allowed are used up."""


@dataclass
class Task:
    """What is to be minimised.

    Attributes
    ----------
    X : array or CSR matrix (n, d)
    y : targets as `LinearObjective` takes them
    loss : Loss
    K : int
        Scores of a sample.
    weight, offset : ndarray or None
        Sample weights (n,); offsets (n,), or (n, K).
    quantiles : ndarray (K,) or None
        With loss "quantile": one level per score.
    ridge, lasso : float
        Factors of ½‖coef‖² and ‖coef‖₁.
    bounds : tuple of ndarray (d,) or None
        Least and greatest coefficients.
    fit_intercept : bool
    n_threads : int or None
    """

    X: Any
    y: NDArray
    loss: Loss
    K: int = 1
    weight: NDArray | None = None
    offset: NDArray | None = None
    quantiles: NDArray | None = None
    ridge: float = 0.0
    lasso: float = 0.0
    bounds: tuple[NDArray, NDArray] | None = None
    fit_intercept: bool = True
    n_threads: int | None = None

    def __post_init__(self) -> None:
        self.dtype = working_dtype(self.X)
        self.parts = _parts(self.X) if sp.issparse(self.X) else self.X
        self.total_weight = float(self.X.shape[0] if self.weight is None else self.weight.sum())

    def compiled(self, kernel: Any, offset: NDArray | None) -> linear.Linear:
        """The mean of a kernel's loss over the rows, as a function of the model."""
        single = self.dtype == np.float32
        return linear.Linear(kernel, self.parts, self.y, self.weight, offset, self.K, single, self.n_threads)

    def rows_of(self, array: NDArray | None, place: slice) -> NDArray | None:
        """A block's rows of an array over the samples."""
        return None if array is None else array[place]

    def penalty(self, coef: NDArray) -> float:
        """ridge/2·‖coef‖² + lasso·‖coef‖₁."""
        return 0.5 * self.ridge * float(np.vdot(coef, coef)) + self.lasso * float(np.abs(coef).sum())


@dataclass
class Certificate:
    """What a fit knows about its distance from the optimum.

    Attributes
    ----------
    objective : float
        At the returned model.
    gap : float
        Estimated distance of `objective` from the optimum; for losses with kinks objective − dual bound.
    scale : float
        What `gap` is relative to.
    """

    objective: float
    gap: float
    scale: float

    def within(self, tol: float) -> bool:
        """Whether the relative gap is at most `tol`."""
        return self.gap <= tol * self.scale


class Watch:
    """Counts passes over X, keeps the latest model, and ends a fit that has used up its passes."""

    def __init__(self, max_passes: int, model: Model, report: Report | None) -> None:
        self.max_passes, self.report = max_passes, report
        self.passes = 0
        self.reserve = 0  # passes kept back for what follows the present minimisation
        self.latest: Callable[[], Model] = lambda: model
        self.objective = np.inf

    def pass_over(self) -> None:
        """Take note of a pass that is about to start."""
        if self.passes + self.reserve >= self.max_passes:
            raise PassesUsedUp
        self.passes += 1

    def note(self, objective: float, model: Callable[[], Model], *, report: bool = True) -> None:
        """Keep a model, and report its objective."""
        self.latest, self.objective = model, objective
        if report and self.report is not None and self.report(self.passes, objective, model):
            raise PassesUsedUp


# --------------------------------------------------------------------------------------------- smooth problems
class Smooth:
    """A smooth objective: factor·mean(kernel(y, stretch·raw)) + tilt·mean(raw) + ridge/2·‖coef‖² + constant.

    `stretch` and `factor` turn sparsemax into the envelope of the multiclass hinge, `tilt` the absolute error into
    quantile losses, each of the one with the other's kernel.
    """

    def __init__(self, task: Task, kernel: Any, watch: Watch, *, offset: NDArray | None = None, factor: float = 1.0,
                 stretch: float = 1.0, tilt: NDArray | None = None, means: NDArray | None = None,
                 constant: float = 0.0, reported: bool = True) -> None:  # fmt: skip
        self.task, self.kernel, self.watch, self.offset = task, kernel, watch, offset
        self.factor, self.stretch, self.tilt, self.means, self.constant = factor, stretch, tilt, means, constant
        self.reported = reported  # whether its values are the objective's
        self.compiled = task.compiled(kernel, offset)

    def __call__(self, model: Model) -> tuple[float, NDArray, NDArray]:
        """Value, and gradients by coef and intercept."""
        self.watch.pass_over()
        coef, intercept = model
        with np.errstate(over="ignore"):  # a step too far is inf, and L-BFGS takes a shorter one
            value, by_coef, by_intercept = self.compiled.evaluate(
                linear.VALUE, (self.stretch * coef, self.stretch * intercept)
            )
        value = self.factor * value + self.constant + 0.5 * self.task.ridge * float(np.vdot(coef, coef))
        by_coef = self.factor * self.stretch * by_coef + self.task.ridge * coef
        by_intercept = self.factor * self.stretch * by_intercept
        if self.tilt is not None and self.means is not None:
            value += float(self.tilt @ (coef @ self.means + intercept))
            by_coef = by_coef + self.tilt[:, None] * self.means
            by_intercept = by_intercept + self.tilt
        return value, by_coef, by_intercept

    def curvatures(self, model: Model) -> Callable[[slice, Any], NDArray]:
        """Second derivatives of the rows of a block, divided by the sum of the weights: what `moments` takes."""

        def of_rows(place: slice, block: Any) -> NDArray:
            hess = self.second_derivatives(place, raw_predictions(block, *model))
            weight = self.task.rows_of(self.task.weight, place)
            return (hess if weight is None else hess * weight[:, None]) / self.task.total_weight

        return of_rows

    def second_derivatives(self, place: slice, raw: NDArray) -> NDArray:
        """Second derivatives by raw, (rows, K), unweighted; where a loss is not convex they are kept positive."""
        hess = self._per_sample(dispatch.GRADIENT | dispatch.HESSIAN, place, self.stretch * raw)[1]
        hess = np.asarray(hess, np.float64).reshape(len(raw), -1) * (self.factor * self.stretch**2)
        return np.maximum(np.nan_to_num(hess, nan=0.0, posinf=1e300), 0.0 if self.task.loss.convex else 1e-3)

    def slopes(self, place: slice, raw: NDArray) -> NDArray:
        """Slopes by raw of a block's rows, unweighted."""
        grad = self._per_sample(dispatch.GRADIENT, place, self.stretch * raw)
        return self.factor * self.stretch * np.asarray(grad, np.float64).reshape(raw.shape)

    def _per_sample(self, want: int, place: slice, raw: NDArray) -> Any:
        offset = self.task.rows_of(self.offset, place)
        if offset is not None:
            raw = raw + offset.reshape(len(raw), -1)
        y = self.task.y[place]
        raw = np.ascontiguousarray(raw, self.task.dtype)
        if y.ndim == 1 and not self.kernel.scores:
            raw = raw[:, 0]
        return dispatch.evaluate(self.kernel, want, y, raw, None, "none", None, None, None, 1, "exact")


def fresh_coordinates(smooth: Smooth, model: Model, last: Coordinates) -> Coordinates:
    """Coordinates from the hessian at a model; one pass over X."""
    task = smooth.task
    smooth.watch.pass_over()
    present = moments(task.X, smooth.curvatures(model), task.K, full=last.factors is not None and refreshable(task))
    if last.factors is not None and present.spread.ndim == 2:
        every = np.zeros(task.K, np.intp)
        ratio = np.sqrt(np.maximum(present.spread, 0) / np.maximum(np.einsum("kjj->kj", last.overall.spread), 1e-300))
        present.spread = last.overall.spread[every] * ratio[:, :, None] * ratio[:, None, :]
    return Coordinates(present, last.overall, task.ridge, task.fit_intercept, task.dtype)


def wants_full(task: Task) -> bool:
    """Whether coordinates are made from full second moments."""
    plain = task.lasso == 0 and task.bounds is None
    n, d = task.X.shape
    return plain and d <= min(FULL_COLUMNS, max(n, 50)) and task.K <= FULL_CLASSES


def refreshable(task: Task) -> bool:
    """Whether full second moments of every score are worth their time."""
    return task.X.shape[1] * task.K <= 1000


class Descent:
    """The course of a minimisation, and what it says about the distance that is left."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.slope = np.inf  # half the squared slope at the latest evaluation

    def remaining(self) -> float:
        """What the coming iterations will still gain: about what the last third of the iterations did.

        A distance that shrinks like a power p of the number of iterations leaves 2 (p = 1), 0.8 (p = 2), 0.4 (p = 3)
        times that, one that shrinks geometrically less.
        """
        values = self.values
        w = max(LEAST_WINDOW, len(values) // 3)
        return values[-w - 1] - values[-1] if len(values) > w else np.inf


def descend(smooth: Smooth, model: Model, coordinates: Coordinates, target: Target, *, certify: bool = True
            ) -> tuple[Model, float, float, Coordinates]:  # fmt: skip
    """Minimise a smooth objective, plus L1, within bounds, until the estimated distance from the minimum is `target`.

    Parameters
    ----------
    smooth : Smooth
    model : Model
        Where to start.
    coordinates : Coordinates
    target : callable
        From the present value to the distance that is wanted.
    certify : bool
        Whether the distance must be Newton's decrement where coordinates are made from full second moments, rather
        than an estimate from the course of the minimisation.

    Returns
    -------
    model, value, gap, coordinates
        The last coordinates are those that are best now.
    """
    exact = coordinates.factors is not None and refreshable(smooth.task)
    # the hessian of coupled scores is not that of each score alone, which coordinates are made from
    caution = CAUTION if smooth.kernel.scores and exact else 2 * CAUTION
    course = Descent()
    while True:
        before = smooth.watch.passes
        model, value, gap, stuck = one_round(smooth, model, coordinates, lambda f: caution * target(f), course)
        wanted = caution * target(value)
        stuck = stuck and smooth.watch.passes - before <= FEW
        if gap <= wanted and not (exact and certify):
            break
        coordinates = fresh_coordinates(smooth, model, coordinates)
        if exact:
            value, gap = newton_decrement(smooth, model, coordinates)
        if gap <= wanted or stuck:
            break
    return model, value, gap, coordinates


def newton_decrement(smooth: Smooth, model: Model, coordinates: Coordinates) -> tuple[float, float]:
    """Value at a model, and ½·slope·(inverse hessian)·slope by the hessian that the coordinates were made from."""
    value, *by = smooth(model)
    slope = coordinates.gradient(*by)
    return value, 0.5 * float(slope @ slope)


def one_round(smooth: Smooth, model: Model, coordinates: Coordinates, target: Target, course: Descent
              ) -> tuple[Model, float, float, bool]:  # fmt: skip
    """Some iterations of L-BFGS-B from a model: the new model, its value, the distance left, whether it got stuck."""
    from scipy.optimize import minimize  # a third of a second to import

    exact = coordinates.factors is not None and refreshable(smooth.task)
    problem = InCoordinates(smooth, coordinates)
    start = problem.place(model)
    value, slope = problem(start)
    # L-BFGS-B begins with a step of length 1, which is Newton's step if the slope has that length
    unit = max(float(np.linalg.norm(slope)), np.finfo(float).tiny)
    known = [(value, slope)]

    def function(v: NDArray) -> tuple[float, NDArray]:
        first = len(known) > 0 and np.array_equal(v, start / unit)
        value, slope = known.pop() if first else problem(unit * v)
        course.slope = 0.5 * float(slope @ slope)
        return value / unit**2, slope / unit

    def after_step(intermediate_result: Any) -> None:
        course.values.append(float(intermediate_result.fun) * unit**2)
        at = unit * intermediate_result.x
        smooth.watch.note(course.values[-1], lambda: problem.model(at), report=smooth.reported)
        wanted = target(course.values[-1])
        if course.remaining() <= wanted or (exact and course.slope <= CAUTION * wanted):
            raise StopIteration

    iterations = ROUND_EXACT if exact else ROUND_ROUGH
    options = {"maxiter": iterations, "maxfun": 10 * iterations + 20, "ftol": 0, "gtol": 0, "maxcor": 10}
    limits = problem.limits if problem.limits is None else problem.limits / unit
    result = minimize(
        function, start / unit, jac=True, method="L-BFGS-B", bounds=limits, callback=after_step, options=options
    )
    stuck = result.nit < iterations and course.remaining() > target(course.values[-1] if course.values else value)
    gap = distance_left(result, limits, course, unit)
    model = problem.model(unit * result.x)
    return model, float(result.fun) * unit**2 - problem.overlap(unit * result.x), gap, stuck


class InCoordinates:
    """A smooth objective plus L1 as a function of coordinates: themselves, or for L1 positive parts and negative ones."""

    def __init__(self, smooth: Smooth, coordinates: Coordinates) -> None:
        task = smooth.task
        self.smooth, self.coordinates, self.size = smooth, coordinates, coordinates.size
        self.split = task.lasso > 0
        table = np.zeros((task.K, task.X.shape[1] + task.fit_intercept))
        table[:, : task.X.shape[1]] = task.lasso * coordinates.scale
        self.lasso = table.ravel()
        self.limits = coordinate_bounds(task, coordinates)

    def joined(self, v: NDArray) -> NDArray:
        """The coordinates themselves."""
        return v[: self.size] - v[self.size :] if self.split else v

    def model(self, v: NDArray) -> Model:
        """The model at v."""
        return self.coordinates.model(self.joined(v))

    def place(self, model: Model) -> NDArray:
        """The v of a model."""
        v = self.coordinates.place(*model)
        return np.concatenate([np.maximum(v, 0), np.maximum(-v, 0)]) if self.split else v

    def __call__(self, v: NDArray) -> tuple[float, NDArray]:
        """Value and gradient."""
        value, *by = self.smooth(self.model(v))
        slope = self.coordinates.gradient(*by)
        if self.split:
            value += float(self.lasso @ (v[: self.size] + v[self.size :]))
            slope = np.concatenate([self.lasso + slope, self.lasso - slope])
        if not np.isfinite(value):
            value = np.sqrt(np.finfo(float).max)
        return value, np.nan_to_num(slope)

    def overlap(self, v: NDArray) -> float:
        """By how much L1 of the two parts exceeds that of their difference."""
        return float(2 * self.lasso @ np.minimum(v[: self.size], v[self.size :])) if self.split else 0.0


def distance_left(result: Any, limits: Any, course: Descent, unit: float) -> float:
    """The larger of two estimates: half of slope·(inverse hessian of L-BFGS)·slope, and gains going on as they did."""
    slope = np.array(result.jac, float)
    if limits is not None:
        held = ((result.x <= limits[:, 0]) & (slope > 0)) | ((result.x >= limits[:, 1]) & (slope < 0))
        slope[held] = 0.0
    decrement = 0.5 * float(slope @ result.hess_inv.dot(slope)) * unit**2 if slope.any() else 0.0
    left = course.remaining()
    return max(decrement, left if np.isfinite(left) else 4 * decrement)


def coordinate_bounds(task: Task, coordinates: Coordinates) -> NDArray | None:
    """Bounds of the coordinates, (size, 2) (twice that for L1: positive parts, then negative ones)."""
    if task.bounds is None and task.lasso == 0:
        return None
    table = np.tile([-np.inf, np.inf], (task.K, task.X.shape[1] + task.fit_intercept, 1))
    if task.bounds is not None:
        moves = coordinates.scale > 0
        for side, bound in enumerate(task.bounds):
            scaled = np.divide(bound, coordinates.scale, out=np.full_like(coordinates.scale, 0.0), where=moves)
            table[:, : task.X.shape[1], side] = np.where(moves, scaled, table[:, : task.X.shape[1], side])
    table = table.reshape(-1, 2)
    if task.lasso == 0:
        return table
    low, high = table[:, 0], table[:, 1]
    positive = np.column_stack([np.maximum(low, 0), np.maximum(high, 0)])
    negative = np.column_stack([np.maximum(-high, 0), np.maximum(-low, 0)])
    return np.vstack([positive, negative])


# --------------------------------------------------------------------------------------------- losses with kinks
class Relaxed:
    """The relaxed problems of a loss with kinks: envelopes shifted by step·multipliers, kept as one array (n, K)."""

    def __init__(self, task: Task, means: NDArray) -> None:
        self.task = task
        self.factor, self.tilt, self.means = 1.0, None, None
        self.loss = task.loss
        self.hinge_of_classes = task.loss.name == "multiclass_hinge"
        if task.quantiles is not None:
            # quantile·u for u > 0, (quantile − 1)·u else, with u = y − raw, is ½|u| + (quantile − ½)·u
            self.loss, self.factor, self.tilt, self.means = get_loss("absolute_error"), 0.5, 0.5 - task.quantiles, means
        n = task.X.shape[0]
        self.shift = np.zeros((n, task.K) if task.K > 1 or self.hinge_of_classes else n, task.dtype)

    def smooth(self, step: float, watch: Watch) -> Smooth:
        """The relaxed problem with the present multipliers."""
        task, offset = self.task, self.shift
        if self.hinge_of_classes:
            # With p on the simplex: max of p·(raw + 1[k ≠ y]) − raw_y − step/2·|p − e_y|² is step·sparsemax at
            # (raw + 1[k ≠ y] + step·1[k = y]) / step.
            offset = offset + 1.0
            offset[np.arange(len(offset)), task.y.astype(np.intp)] += step - 1.0
            offset = (offset if task.offset is None else offset + task.offset) / task.dtype.type(step)
            kernel, factor, stretch = get_loss("sparsemax", **self._weights())._kernel, step, 1.0 / step
        else:
            if task.offset is not None:
                offset = offset + task.offset
            kernel, factor, stretch = self.loss._envelope(step), self.factor, 1.0
        return Smooth(task, kernel, watch, offset=offset.astype(task.dtype, copy=False), factor=factor,
                      stretch=stretch, tilt=self.tilt, means=self.means, constant=self._constant(step),
                      reported=False)  # fmt: skip

    def _weights(self) -> dict[str, Any]:
        return {name: getattr(self.task.loss, name) for name in ("class_weight", "ignore_index")}

    def _constant(self, step: float) -> float:
        """− step/2·mean |u|², times the factor, for u = shift / step."""
        shift = self.shift.reshape(len(self.shift), -1)
        squares = np.einsum("ij,ij->i", shift, shift, dtype=np.float64)
        weight = self.task.weight
        mean = (squares.sum() if weight is None else squares @ weight) / self.task.total_weight
        return -0.5 * self.factor * mean / step

    def update(self, smooth: Smooth, model: Model, step: float, watch: Watch) -> float:
        """Set the multipliers to the slopes at a model (times the coming step); returns the mean loss there."""
        watch.pass_over()
        task, total = self.task, 0.0
        for place, block in row_blocks(task.X, dense=False):
            raw = raw_predictions(block, *model)
            slopes = smooth.slopes(place, raw) / self.factor
            self.shift[place] = (step * slopes).reshape(self.shift[place].shape)
            total += self._loss_of(place, raw)
        mean = total / task.total_weight
        if self.tilt is not None and self.means is not None:
            coef, intercept = model
            mean += float(self.tilt @ (coef @ self.means + intercept))
        return mean

    def _loss_of(self, place: slice, raw: NDArray) -> float:
        task = self.task
        if task.offset is not None:
            raw = raw + task.offset[place].reshape(len(raw), -1)
        raw = np.ascontiguousarray(raw, task.dtype)
        flat = raw[:, 0] if task.y.ndim == 1 and not self.loss._kernel.scores else raw
        weight = task.rows_of(task.weight, place)
        return self.factor * self.loss.loss(task.y[place], flat, weight, reduction="sum", n_threads=1)


def descend_by_multipliers(task: Task, model: Model, spread: Moments, tol: float, scale: Scale, watch: Watch
                           ) -> tuple[Model, Certificate]:  # fmt: skip
    """Minimise the mean of a loss with kinks; `spread` are the moments of X under the sample weights."""
    relaxed = Relaxed(task, spread.mean[0])
    step, shortenings = first_step(task, model), 0
    coordinates = first_coordinates(relaxed.smooth(step, watch), model, spread)
    best, best_model, bound, last_gap = np.inf, model, -np.inf, np.inf
    share, stalls, exhausted, confirmed = INNER_SHARE, 0, False, False
    while not exhausted and stalls < PATIENCE:
        smooth = relaxed.smooth(step, watch)
        target = share * tol * scale(best if np.isfinite(best) else scale.constant)
        watch.reserve = 1
        try:
            model, value, gap, coordinates = descend(
                smooth, model, coordinates, partial(_first, target), certify=confirmed
            )
            bound = max(bound, value - gap)
        except PassesUsedUp:
            model, exhausted = watch.latest(), True
        watch.reserve = 0
        if watch.passes >= watch.max_passes:
            break
        if shortenings < SHORTENINGS:
            step, shortenings = step * SHORTER, shortenings + 1
        objective = relaxed.update(smooth, model, step, watch) + task.penalty(model[0])
        gain = best - objective
        if objective < best:
            best, best_model = objective, model
        kept = best_model
        watch.note(best, partial(_first, kept))
        stalls = stalls + 1 if tol > 0 and best - bound > 0.95 * last_gap else 0
        last_gap = best - bound
        if last_gap > tol * scale(best):
            continue
        # The bound leans on an estimate.  Minimising four times as closely must neither lower the objective much nor
        # the bound: on kddcup99 the first claim of 3e-4 was in truth 6e-3.
        if confirmed and gain <= share * tol * scale(best):
            break
        share, bound, last_gap, confirmed = CAUTION * INNER_SHARE, -np.inf, np.inf, True
    return best_model, Certificate(best, best - bound, scale(best))


def _first(value: Any, *_: Any) -> Any:
    return value


# --------------------------------------------------------------------------------------------- the start
class Scale:
    """What a gap is relative to: the objective, or what was gained on the best constant where objectives cross zero."""

    def __init__(self, task: Task, constant: Model) -> None:
        self.signed = task.loss.link == "log"
        self.constant = _mean_at_constant(task, constant)
        # an objective of 0, or close to it, is known to rounding of the terms it is made of
        self.least = 1e3 * np.finfo(task.dtype).eps * abs(self.constant) + np.finfo(float).tiny

    def __call__(self, objective: float) -> float:
        """What a gap at this objective is relative to."""
        return max(self.constant - objective if self.signed else objective, self.least)


def _at_constant(task: Task, model: Model, rows: slice) -> tuple[NDArray, NDArray, NDArray | None]:
    """y, raw predictions of a model without coefficients, and weights, of some rows."""
    y, weight, offset = task.y[rows], task.rows_of(task.weight, rows), task.rows_of(task.offset, rows)
    raw = np.broadcast_to(model[1], (len(y), task.K))
    if offset is not None:
        raw = raw + offset.reshape(len(y), -1)
    return y, raw[:, 0] if y.ndim == 1 and task.loss.kind != "multiclass" else raw, weight


def _mean_at_constant(task: Task, model: Model) -> float:
    y, raw, weight = _at_constant(task, model, slice(None))
    if task.quantiles is None:
        return task.loss.loss(y, raw, weight, n_threads=1)
    return sum(
        get_loss("quantile", quantile=q).loss(y[:, k], raw[:, k], weight, n_threads=1)
        for k, q in enumerate(task.quantiles)
    )


def _some(task: Task) -> slice:
    """Rows enough to set a scale by."""
    return slice(0, None, max(1, task.X.shape[0] // 100_000))


def first_step(task: Task, model: Model) -> float:
    """FIRST_STEP of the mean loss over the mean squared slope, at a model without coefficients."""
    y, raw, weight = _at_constant(task, model, _some(task))
    loss = task.loss if task.quantiles is None else get_loss("absolute_error")
    value = loss.loss(y, raw, weight, reduction="sum", n_threads=1)
    slopes = loss.gradient(y, raw, reduction="none", n_threads=1).reshape(len(y), -1)
    squares = float(np.einsum("ij,ij,i->", slopes, slopes, np.ones(len(y)) if weight is None else weight))
    return FIRST_STEP * value / squares if value > 0 and squares > 0 else 1.0


def first_coordinates(smooth: Smooth, model: Model, spread: Moments) -> Coordinates:
    """Coordinates from the moments of X and the mean second derivative at a model without coefficients."""
    task = smooth.task
    rows = _some(task)
    raw = np.broadcast_to(model[1], (len(task.y[rows]), task.K))
    hess = smooth.second_derivatives(rows, raw)
    weight = np.ones(len(hess)) if task.weight is None else task.weight[rows]
    mean = np.maximum(weight @ hess / max(weight.sum(), np.finfo(float).tiny), 1e-8)
    every = np.zeros(task.K, np.intp)
    whole = Moments(mean, spread.mean[every], spread.spread[every])
    return Coordinates(whole, spread, task.ridge, task.fit_intercept, task.dtype)


# --------------------------------------------------------------------------------------------- the whole
def minimise(task: Task, constant: Model, start: Model | None = None, *, tol: float | None, max_passes: int,
             report: Report | None = None) -> tuple[Model, Certificate, int]:  # fmt: skip
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
    model : tuple
    certificate : Certificate
    passes : int
    """
    watch = Watch(max_passes, start or constant, report)
    scale = Scale(task, constant)
    wanted = 0.0 if tol is None else tol
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        try:
            model, certificate = _minimise(task, start or constant, wanted, scale, watch)
        except PassesUsedUp:
            model, certificate = watch.latest(), Certificate(watch.objective, np.inf, scale(watch.objective))
    return model, certificate, watch.passes


def _minimise(task: Task, model: Model, tol: float, scale: Scale, watch: Watch) -> tuple[Model, Certificate]:
    watch.pass_over()
    full = wants_full(task)
    weight = task.weight
    rows = None if weight is None else lambda place, block: weight[place][:, None]
    spread = moments(task.X, rows, 1, full=full)
    if has_kinks(task.loss):
        return descend_by_multipliers(task, model, spread, tol, scale, watch)
    smooth = Smooth(task, task.loss._kernel, watch, offset=task.offset)
    coordinates = first_coordinates(smooth, model, spread)
    value = scale.constant
    while True:
        before = value
        model, value, gap, coordinates = descend(smooth, model, coordinates, lambda f: tol * scale(f))
        done = gap <= tol * scale(value) or before - value <= CAUTION * tol * scale(value)
        if tol > 0 and done:
            return model, Certificate(value, gap, scale(value))


def has_kinks(loss: Loss) -> bool:
    """Whether the loss needs the method of multipliers."""
    return loss.piecewise_linear
