"""Smooth problems: L-BFGS-B in coordinates where the hessian is close to the identity, round by round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, cg

from fastloss._kernels import dispatch, linear
from fastloss.linear_model.optimum.columns import Moments, moments, raw_predictions
from fastloss.linear_model.optimum.coordinates import Coordinates
from fastloss.linear_model.optimum.task import (
    Model,
    PassesUsedUp,
    Task,
    Watch,
    always,
    rows_of,
    shifted,
    some_rows,
    undefined,
)

Target = Callable[[float], float]

# Full second moments while they cost about as much as ten evaluations; otherwise variances alone.
FULL_COLUMNS, FULL_CLASSES = 1000, 30
# Iterations between two looks at whether fresh coordinates are needed.  Rough ones gain less than the pairs of L-BFGS
# that are lost with them: softmax on raw mnist took 644 passes with rounds of 60 and 10 pairs, 359 with these.
ROUND_EXACT, ROUND_ROUGH = 8, 150
PAIRS, FEWER_PAIRS, MANY_COORDINATES = 20, 10, 100_000  # more cost more time than they save passes
# Where few rows have curvature the hessian of an envelope says nothing about most directions, and its other rows do not
# stay without curvature: this share is added as if all had it.  kddcup99 with the hinge did not converge without.
DAMPING = 1e-3
POLISHED = {np.dtype(np.float32): 1e-10, np.dtype(np.float64): 1e-22}
POLISHING, CONJUGATE_STEPS = 8, 200
FEW = 4  # evaluations of a round that made no progress
LEAST_WINDOW = 5  # iterations whose gains are added up
# An estimate of the distance from the optimum is trusted to this factor.
CAUTION = 0.25


class Smooth:
    """A smooth objective: factor·mean(kernel(y, stretch·raw)) + tilt·mean(raw) + ridge/2·‖coef‖² + constant.

    `stretch` and `factor` turn sparsemax into the envelope of the multiclass hinge, `tilt` the absolute error into
    quantile losses, each of the one with the other's kernel.
    """

    def __init__(self, task: Task, kernel: Any, watch: Watch, *, offset: NDArray | None = None, factor: float = 1.0,
                 stretch: float = 1.0, tilt: NDArray | None = None, means: NDArray | None = None,
                 constant: float = 0.0, reported: bool = True, steepest: float = 0.0) -> None:  # fmt: skip
        self.task, self.kernel, self.watch, self.offset = task, kernel, watch, offset
        self.factor, self.stretch, self.tilt, self.means, self.constant = factor, stretch, tilt, means, constant
        self.reported = reported  # whether its values are the objective's
        self.jumps = task.loss._hessian_jumps or not reported
        self.steepest = steepest if steepest > 0 else task.loss.curvature()
        self.compiled = task.compiled(kernel, offset)
        self.last: tuple[Model, tuple[float, NDArray, NDArray]] | None = None

    def __call__(self, model: Model) -> tuple[float, NDArray, NDArray]:
        """Value, and gradients by coef and intercept; what was asked last is known without another pass."""
        if self.last is None or not all(map(np.array_equal, model, self.last[0])):
            self.last = (model[0].copy(), model[1].copy()), self._evaluate(*model)
        return self.last[1]

    def _evaluate(self, coef: NDArray, intercept: NDArray) -> tuple[float, NDArray, NDArray]:
        self.watch.pass_over()
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
        if not self.task.loss._registered:
            self._look_for_nan(value, by_coef, by_intercept)
        return value, by_coef, by_intercept

    def _look_for_nan(self, value: float, *slopes: NDArray) -> None:
        """An own loss may be NaN far away, where no minimum is; it must not have a finite value and no slope."""
        self.watch.undefined |= bool(np.isnan(value))
        if np.isfinite(value) and any(np.isnan(slope).any() for slope in slopes):
            raise undefined(self.task.loss, "as gradient of finite losses")

    def hessian_times(self, model: Model, direction: Model) -> tuple[NDArray, NDArray]:
        """The hessian at a model times a direction; one pass."""
        self.watch.pass_over()
        _, by_coef, by_intercept = self.compiled.evaluate(linear.PRODUCT, model, direction)
        return by_coef + self.task.ridge * direction[0], by_intercept

    def curvatures(self, model: Model) -> Callable[[slice, Any], NDArray]:
        """Second derivatives of the rows of a block, divided by the sum of the weights: what `moments` takes."""

        def of_rows(place: slice, block: Any) -> NDArray:
            hess = self.second_derivatives(place, raw_predictions(block, *model))
            weight = rows_of(self.task.weight, place)
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
        raw = self.task.for_loss(np.ascontiguousarray(shifted(raw, self.offset, place), self.task.dtype))
        return dispatch.evaluate(self.kernel, want, self.task.y[place], raw, None, "none", None, None, None, 1, "exact")


def fresh_coordinates(smooth: Smooth, model: Model, last: Coordinates) -> Coordinates:
    """Coordinates from the hessian at a model; one pass over X."""
    task = smooth.task
    smooth.watch.pass_over()
    present = moments(task.X, smooth.curvatures(model), task.K, full=is_exact(task, last))
    return damped(smooth, Coordinates(present, last.overall, task.ridge, task.fit_intercept, task.dtype))


def wants_full(task: Task) -> bool:
    """Whether coordinates are made from full second moments."""
    plain = task.lasso == 0 and task.bounds is None
    n, d = task.X.shape
    return plain and d <= min(FULL_COLUMNS, max(n, 50)) and task.K <= FULL_CLASSES


def is_exact(task: Task, coordinates: Coordinates) -> bool:
    """Whether coordinates are made from the hessian of every score, and can be made afresh."""
    return coordinates.factors is not None and refreshable(task)


def refreshable(task: Task) -> bool:
    """Whether full second moments of every score are worth their time."""
    return task.X.shape[1] * task.K <= 2000


class Descent:
    """The course of a minimisation, and what it says about the distance that is left."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.begin = 0  # of the present round
        self.slope = np.inf  # half the squared slope at the latest evaluation

    def remaining(self) -> float:
        """What the coming iterations will still gain: about what the last quarter of the iterations did.

        A distance that shrinks like a power p of the number of iterations leaves 3 (p = 1), 1.3 (p = 2), 0.7 (p = 3)
        times that, one that shrinks geometrically less.
        """
        values = self.values
        w = max(LEAST_WINDOW, len(values) // 4)
        if len(values) <= w or len(values) - self.begin < LEAST_WINDOW:
            return np.inf
        return values[-w - 1] - values[-1]


def descend(smooth: Smooth, model: Model, coordinates: Coordinates, target: Target, *, certify: bool = True,
            strict: bool = True) -> tuple[Model, float, float, Coordinates]:  # fmt: skip
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
    strict : bool
        Whether that decrement counts no curvature but the hessian's own.

    Returns
    -------
    model, value, gap, coordinates
        The last coordinates are those that are best now.
    """
    exact = is_exact(smooth.task, coordinates)
    caution = CAUTION if exact else 2 * CAUTION
    course = Descent()
    value = np.inf
    while True:
        before, last, last_model = smooth.watch.passes, value, model
        model, value, gap, stuck = one_round(smooth, model, coordinates, lambda f: caution * target(f), course)
        wanted = caution * target(value)
        if value > last:  # rounding: from a model to ill-conditioned coordinates and back
            model, value, stuck = last_model, last, True
        stuck = smooth.watch.adapt(stuck and gap > wanted, stuck) and smooth.watch.passes - before <= FEW
        unsteady = 0.0 < smooth.watch.damping < 1.0
        stuck = stuck or (not unsteady and last - value <= 8 * np.finfo(smooth.task.dtype).eps * abs(value))
        if gap <= wanted and not (exact and certify):
            break
        coordinates = fresh_coordinates(smooth, model, coordinates)
        if exact:
            value, decrement = newton_decrement(smooth, model, undamped(smooth, coordinates) if strict else coordinates)
            # of coupled scores the decrement knows each score's own hessian only, of one that jumps the part it is in
            partly = smooth.kernel.scores or (smooth.jumps and smooth.reported)
            gap = max(decrement, gap) if partly and np.isfinite(gap) else decrement
        if gap <= wanted or stuck:
            break
    return model, value, gap, coordinates


def polish(smooth: Smooth, model: Model, coordinates: Coordinates) -> tuple[Model, float, float]:
    """Newton's steps from close to the minimum, until rounding makes slopes no smaller: model, value, gap."""
    coordinates = undamped(smooth, coordinates)
    value, gap = newton_decrement(smooth, model, coordinates)
    least = POLISHED[smooth.task.dtype] * abs(value)  # rounding decides below that
    for _ in range(POLISHING):
        if gap <= least:
            break
        slope = coordinates.gradient(*smooth(model)[1:])
        try:
            moved = coordinates.model(coordinates.place(*model) - newton_step(smooth, model, coordinates, slope))
            moved_value, moved_gap = newton_decrement(smooth, moved, coordinates)
        except PassesUsedUp:
            break
        if not moved_gap < 0.9 * gap:
            break
        model, value, gap = moved, moved_value, moved_gap
        smooth.watch.note(value, always(model))
    return model, value, gap


def newton_step(smooth: Smooth, model: Model, coordinates: Coordinates, slope: NDArray) -> NDArray:
    """The inverse hessian times the slope, in coordinates: where scores are coupled by conjugate gradients."""
    if not smooth.kernel.scores:
        return slope

    def product(v: NDArray) -> NDArray:
        return coordinates.gradient(*smooth.hessian_times(model, coordinates.model(v)))

    operator = LinearOperator((len(slope), len(slope)), matvec=product, dtype=np.float64)
    return cg(operator, slope, rtol=1e-8, maxiter=CONJUGATE_STEPS)[0]


def damped(smooth: Smooth, coordinates: Coordinates) -> Coordinates:
    """Coordinates for steps: where the hessian jumps, as if all rows had some curvature."""
    mean = float(coordinates.present.total.max())
    most = smooth.steepest if np.isfinite(smooth.steepest) else mean
    damping = DAMPING * mean * smooth.jumps + smooth.watch.damping * most
    return _with_damping(smooth, coordinates, damping)


def undamped(smooth: Smooth, coordinates: Coordinates) -> Coordinates:
    """Coordinates that say what is known: with damping, directions without curvature look as if they had some."""
    return _with_damping(smooth, coordinates, 0.0)


def _with_damping(smooth: Smooth, coordinates: Coordinates, damping: float) -> Coordinates:
    if coordinates.damping == damping:
        return coordinates
    task = smooth.task
    return Coordinates(coordinates.present, coordinates.overall, task.ridge, task.fit_intercept, task.dtype, damping)


def newton_decrement(smooth: Smooth, model: Model, coordinates: Coordinates) -> tuple[float, float]:
    """Value at a model, and ½·slope·(inverse hessian)·slope by the hessian that the coordinates were made from."""
    value, *by = smooth(model)
    slope = coordinates.gradient(*by)
    return value, 0.5 * float(slope @ slope)


def one_round(smooth: Smooth, model: Model, coordinates: Coordinates, target: Target, course: Descent
              ) -> tuple[Model, float, float, bool]:  # fmt: skip
    """Some iterations of L-BFGS-B from a model: the new model, its value, the distance left, whether it got stuck."""
    exact = is_exact(smooth.task, coordinates)
    problem = InCoordinates(smooth, coordinates)
    course.begin = len(course.values)
    start = problem.place(model)
    value, slope = problem.at(model, start)
    # L-BFGS-B begins with a step of length 1, which is Newton's step if the slope has that length
    unit = float(np.linalg.norm(slope))
    if unit**2 == 0.0:
        course.values.append(value)
        smooth.watch.note(value, always(model), report=smooth.reported)
        return model, value, 0.0, True
    known = [(value, slope)]

    def function(v: NDArray) -> tuple[float, NDArray]:
        first = len(known) > 0 and np.array_equal(v, start / unit)
        value, slope = known.pop() if first else problem(unit * v)
        course.slope = 0.5 * float(slope @ slope)
        return value / unit**2, slope / unit

    def after_step(intermediate_result: Any) -> None:
        at = unit * intermediate_result.x
        course.values.append(float(intermediate_result.fun) * unit**2 - problem.overlap(at))
        smooth.watch.note(course.values[-1], lambda: problem.model(at), report=smooth.reported)
        wanted = target(course.values[-1])
        if course.remaining() <= wanted or (exact and course.slope <= CAUTION * wanted):
            raise StopIteration

    iterations = ROUND_EXACT if exact else ROUND_ROUGH
    pairs = PAIRS if problem.size <= MANY_COORDINATES else FEWER_PAIRS
    limit = 10 * iterations + 20
    options = {"maxiter": iterations, "maxfun": limit, "ftol": 0, "gtol": 0, "maxcor": pairs, "maxls": 12}
    limits = problem.limits if problem.limits is None else problem.limits / unit
    result = minimize(
        function, start / unit, jac=True, method="L-BFGS-B", bounds=limits, callback=after_step, options=options
    )
    stuck = result.nit < iterations and course.remaining() > target(course.values[-1] if course.values else value)
    gap = distance_left(result, limits, course, unit)
    model = problem.model(unit * result.x)
    return model, float(result.fun) * unit**2 - problem.overlap(unit * result.x), gap, stuck


class InCoordinates:
    """A smooth objective plus L1, of coordinates (with L1: of their positive and negative parts)."""

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
        return self.at(self.model(v), v)

    def at(self, model: Model, v: NDArray) -> tuple[float, NDArray]:
        """Value and gradient at v, whose model is known."""
        value, *by = self.smooth(model)
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


def first_coordinates(smooth: Smooth, model: Model, spread: Moments) -> Coordinates:
    """Coordinates from the moments of X and the mean second derivative at a model without coefficients."""
    task = smooth.task
    rows = some_rows(task)
    raw = np.broadcast_to(model[1], (len(task.y[rows]), task.K))
    hess = smooth.second_derivatives(rows, raw)
    weight = np.ones(len(hess)) if task.weight is None else task.weight[rows]
    mean = np.maximum(weight @ hess / max(weight.sum(), np.finfo(float).tiny), 1e-8)
    every = np.zeros(task.K, np.intp)
    spreads = spread.spread
    if spreads.ndim == 3 and not refreshable(task):
        spreads = np.einsum("kjj->kj", spreads)
    whole = Moments(mean, spread.mean[every], spreads[every])
    return Coordinates(whole, spread, task.ridge, task.fit_intercept, task.dtype)
