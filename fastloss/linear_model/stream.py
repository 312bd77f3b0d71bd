"""partial_fit with learning_rate="auto": implicit steps in coordinates that the stream's own statistics set.

A call makes one pass over its batch.  Column means and spreads of all batches so far give standardised coordinates (of
sparse rows only the scale: their zeros must stay zeros); the model is re-expressed in them, so that its raw
coefficients do not jump when the statistics move.  In them a step of length ``1 / (curvature·(1 + d))`` suits any data,
and implicit steps (the slope is taken at the end of the step) cannot overshoot.  The model that is kept is an average
of the steps' ends that forgets the beginning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from fastloss._kernels import dispatch
from fastloss._kernels.sgd import Design, RowOrder, Trainer
from fastloss.constants import best_constant
from fastloss.linear_model.auto import row_weights
from fastloss.linear_model.optimum.columns import Moments, weighted_moments
from fastloss.linear_model.problem import Problem
from fastloss.linear_model.schedules import Settings, State, overflow, penalties

LEAST_ROWS, BLOCK_ROWS = 64, 4096  # copied, in coordinates, at a time; the step is the same for all of them
# Steps shrink like rows**-DECAY after STEADY·(1 + d) rows.  One pass over covtype ends 2e-4 above the optimum; with
# constant steps 1e-2, with a power of 0.5, 0.75: 2.1e-4, 1.8e-4.  Rows with outliers ask for the larger power
# (california_housing, squared error: 0.56, 0.18), losses with kinks for the smaller (quantile there: 2e-3, 2e-2).
DECAY, STEADY = 2.0 / 3.0, 10.0
# The penalty is applied block by block.  Within a block the model must not have the time to forget it, nor lose more
# than a part of itself: steps times rows times curvature and penalty are at most WITHIN, unless the penalty is below
# the part SLIGHT of every column's curvature.  With blocks of an eighth of all rows the optimum's 0 was 0.24.
WITHIN, SLIGHT, FEWEST_ROWS = 0.5, 1e-3, 8
SETTLED = 256  # rows from which on the curvature is not looked at any more
CURVATURE = 1.0  # where a loss has none: a piecewise linear one in units of its own scale
FORGET = 3.0  # the average weighs row t like t**FORGET


class Batches:
    """What `fit_stream` reads, epoch by epoch."""

    def __init__(self, batches: Any) -> None:
        if not callable(batches) and not hasattr(batches, "__iter__"):
            raise TypeError(
                f"batches must be an iterable of (X, y) or (X, y, sample_weight), or a function that returns one, "
                f"got {batches!r}"
            )
        self._source = batches
        self._readings = 0

    def __iter__(self) -> Iterator[tuple[Any, Any, Any]]:
        return self.once("several epochs")

    def once(self, purpose: str) -> Iterator[tuple[Any, Any, Any]]:
        """The batches, checked one by one."""
        readable = self._source() if callable(self._source) else self._source
        if iter(readable) is readable and not callable(self._source) and self._readings:
            raise ValueError(f"batches is an iterator that was read to its end: {purpose} needs a list or a function")
        self._readings += 1
        count = 0
        for batch in readable:
            if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
                raise ValueError(f"batch {count} must be (X, y) or (X, y, sample_weight), got {type(batch).__name__}")
            count += 1
            yield batch[0], batch[1], batch[2] if len(batch) == 3 else None
        if count == 0:
            raise ValueError("batches has no batch to learn from")


@dataclass
class Statistics:
    """Sum of the weights, means and variances of the columns of a stream; the number of rows of a weight."""

    weight: float
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    rows: float = 0.0

    @classmethod
    def of(cls, moments: Moments, rows: float) -> Statistics:
        """Statistics of the rows of a fit."""
        spread = moments.spread[0]
        variance = spread if spread.ndim == 1 else np.diag(spread).copy()
        return cls(float(moments.total[0]), moments.mean[0], variance, rows)

    def add(self, X: Any, weight: NDArray[np.float64] | None) -> None:
        """Take a batch in (Chan, Golub and LeVeque's update)."""
        batch = weighted_moments(X, weight, full=False)
        total = self.weight + float(batch.total[0])
        share = float(batch.total[0]) / total
        shift = batch.mean[0] - self.mean
        self.variance = (1 - share) * self.variance + share * batch.spread[0] + share * (1 - share) * shift**2
        self.mean = self.mean + share * shift
        self.weight = total
        self.rows += X.shape[0] if weight is None else np.count_nonzero(weight)

    def coordinates(self, centred: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centre and scale of the columns; a column that never varied has scale 0."""
        centre = self.mean if centred else np.zeros_like(self.mean)
        square = self.variance if centred else self.variance + self.mean**2
        scale = np.sqrt(np.maximum(square, 0.0))
        scale[scale <= 1e-12 * np.abs(self.mean)] = 0.0
        return centre, scale


@dataclass
class Stream:
    """What partial_fit keeps from batch to batch."""

    statistics: Statistics
    curvature: float
    average: tuple[NDArray[np.float64], NDArray[np.float64]]
    seen: float = 0.0


def train(problem: Problem, state: State, settings: Settings, limits: tuple[NDArray[Any], NDArray[Any]] | None) -> None:
    """One pass over a batch, from the model in `state`.

    Parameters
    ----------
    problem : Problem
    state : State
    settings : Settings
    limits : tuple of ndarray (d,), or None
        Least and greatest coefficients.
    """
    if state.stream is None or state.stream.seen < SETTLED:
        _look_at(problem, state, settings)
    stream: Stream = state.stream
    stream.statistics.add(problem.X, row_weights(problem))
    coef, intercept = state.coef.astype(np.float64), state.intercept
    rng = check_random_state(settings.random_state)
    begin, n = 0, problem.X.shape[0]
    while begin < n:
        place = slice(begin, min(begin + _rows_at_once(problem, coef, stream, settings), n))
        coef, intercept, averages = _pass(problem, place, coef, intercept, stream, settings, limits, rng)
        begin, rows = place.stop, place.stop - place.start
        state.t += rows
        stream.seen += rows
        _average(stream, averages, rows, stream.seen)
    if not (np.isfinite(coef).all() and np.isfinite(intercept).all()):
        raise overflow(1, problem.losses[0])
    state.coef, state.intercept = coef.astype(state.coef.dtype), intercept
    state.average_coef, state.average_intercept = stream.average


def step_length(stream: Stream, d: int) -> float:
    """1 / (curvature·(1 + d)), and shorter and shorter: a constant step ends in a cloud around the optimum."""
    return (1.0 + stream.seen / (STEADY * (1.0 + d))) ** -DECAY / (stream.curvature * (1.0 + d))


def _look_at(problem: Problem, state: State, settings: Settings) -> None:
    """Learn from a first batch where to start, and from the first ones how long steps may be."""
    constants = list(_constants(problem))
    if state.stream is None:
        d = problem.X.shape[1]
        if settings.fit_intercept and not state.coef.any() and not state.intercept.any():
            for scores, _, constant in constants:
                state.intercept[scores] = constant
        fitted, rows = state.fitted or (Statistics(0.0, np.zeros(d), np.zeros(d)), 0)
        state.stream = Stream(fitted, 0.0, (state.coef.astype(np.float64), state.intercept.copy()), rows)
    found = max(_curvature(problem, k, constant) for _, k, constant in constants)
    state.stream.curvature = max(found, state.stream.curvature)


def _constants(problem: Problem) -> Iterator[tuple[slice, int, NDArray[np.float64]]]:
    """Scores of every model, its number, and its best constant on a batch."""
    weight = row_weights(problem)
    for k in range(problem.n_models):
        loss = problem.loss_of(k)
        y = problem.targets if problem.joint else problem.target_of(k)
        count = problem.n_scores if problem.joint else 1
        constant = best_constant(loss, y, count, weight, problem.offset)
        if loss.kind != "regression":
            # a class that a small batch does not have is not impossible
            most = np.log1p(len(y))
            constant = np.clip(constant, -most, most)
        yield slice(None) if problem.joint else slice(k, k + 1), k, constant


def _curvature(problem: Problem, k: int, constant: NDArray[np.float64]) -> float:
    """The loss's bound; without one, its mean curvature at the best constant; with kinks, squared slope over value."""
    loss = problem.loss_of(k)
    if 0 < loss.curvature() < np.inf and not loss.piecewise_linear:
        return loss.curvature()
    y = problem.targets if problem.joint else np.ascontiguousarray(problem.target_of(k), np.float64)
    raw = np.ascontiguousarray(np.broadcast_to(constant, (len(y), len(constant))))
    raw = raw if problem.joint else raw[:, 0]
    want = dispatch.GRADIENT | dispatch.HESSIAN  # not gradient_hessian: own losses may have differences only
    slopes, bends = dispatch.evaluate(loss._kernel, want, y, raw, None, "none", None, None, None, None)
    mean = float(bends.mean())
    if not loss.piecewise_linear and 0 < mean < np.inf:
        return mean
    value = float(loss.loss(y, raw))
    squares = float((slopes**2).mean())
    return squares / value if value > 0 and squares > 0 else CURVATURE


def _rows_at_once(problem: Problem, coef: NDArray[np.float64], stream: Stream, settings: Settings) -> int:
    """Rows of the next block: few at first, and where a penalty matters so few that it acts before they are done."""
    rows = min(max(LEAST_ROWS, stream.seen / 8), BLOCK_ROWS)
    _, scale = _coordinates(problem, stream, settings)
    lasso, ridge = penalties(settings)
    decay = ridge / min(scale[scale > 0], default=np.inf) ** 2
    eta = step_length(stream, len(scale))
    if lasso or decay > SLIGHT * stream.curvature:
        rows = min(rows, WITHIN / (eta * (stream.curvature + decay)))
    if lasso:
        rows = min(rows, WITHIN * np.abs(coef * scale**2).max(initial=0.0) / (eta * lasso))
    return max(int(rows), FEWEST_ROWS)


def _coordinates(
    problem: Problem, stream: Stream, settings: Settings
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return stream.statistics.coordinates(settings.fit_intercept and not sp.issparse(problem.X))


def _in_coordinates(X: Any, place: slice, centre: NDArray[Any], scale: NDArray[Any]) -> Any:
    """A copy of some rows, in coordinates."""
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0).astype(X.dtype)
    block = X[place]
    if not sp.issparse(block):
        return np.ascontiguousarray((block - centre.astype(X.dtype)) * inverse)
    block = block.copy()
    block.sum_duplicates()  # the length of a step depends on the row's norm
    block.data *= inverse[block.indices]
    return block


def _pass(
    problem: Problem,
    place: slice,
    coef: NDArray[np.float64],
    intercept: NDArray[np.float64],
    stream: Stream,
    settings: Settings,
    limits: tuple[NDArray[Any], NDArray[Any]] | None,
    rng: np.random.RandomState,
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[NDArray[Any], NDArray[Any]]]:
    """Steps along some rows: the model after them, and the mean of the models on the way."""
    X, dtype, loss = problem.X, problem.X.dtype, problem.losses[0]
    centre, scale = _coordinates(problem, stream, settings)
    eta = step_length(stream, X.shape[1])
    # half of the penalty before the rows, half after them: the models on the way lie between
    length = 0.5 * eta * (place.stop - place.start) / np.where(scale > 0, scale, 1.0) ** 2
    coef, intercept = _with_coef((coef, intercept), _penalised(coef, length, settings, limits), centre)
    block = _in_coordinates(X, place, centre, scale)
    inside = np.ascontiguousarray((coef * scale).astype(dtype))
    level = intercept + coef @ centre
    mean_inside, mean_level = np.zeros_like(inside), np.zeros_like(level)
    design = Design(block)
    trainer = Trainer(
        design,
        [one._kernel for one in problem.losses],
        problem.targets[place],
        _relative_weights(problem, place, stream),
        RowOrder(design.n_rows, int(rng.randint(np.iinfo(np.int32).max)) if settings.shuffle else None),
        inside,
        level,
        positive=problem.positive,
        class_weight=problem.class_weight,
        soft=problem.soft,
        offset=None if problem.offset is None else problem.offset[place],
        learning_rate="implicit",
        alpha=settings.alpha,
        eta0=eta,
        power_t=0.0,
        l1=0.0,
        l2=0.0,
        intercept_rate=1.0 if settings.fit_intercept else 0.0,
        want_objective=False,
        average_from=1.0,
        average_coef=mean_inside,
        average_intercept=mean_level,
        envelopes=[one._envelope(1.0) for one in problem.losses] if hasattr(loss, "proximal_slope") else None,
        curvature=None if _must_be_solved(problem) else stream.curvature,
        n_threads=settings.n_threads,
    )
    trainer.epoch()
    trainer.finish()
    ends = _raw_model(inside, level, coef, centre, scale)
    ends = _with_coef(ends, _penalised(ends[0], length, settings, limits), centre)
    means = _raw_model(mean_inside, mean_level, coef, centre, scale)
    if limits is not None:
        means = _with_coef(means, np.clip(means[0], *limits), centre)
    return *ends, means


def _must_be_solved(problem: Problem) -> bool:
    """Whether steps are bracketed: where slopes jump and there is no closed step, a curvature tells nothing."""
    convex = not problem.joint and all(loss.convex for loss in problem.losses)
    return convex and any(loss._kinked and not hasattr(loss, "proximal_slope") for loss in problem.losses)


def _raw_model(
    inside: NDArray[Any],
    level: NDArray[np.float64],
    coef: NDArray[np.float64],
    centre: NDArray[np.float64],
    scale: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients and intercepts of a model in coordinates; columns that never varied keep their `coef`."""
    raw = np.divide(inside.astype(np.float64), scale, out=coef.copy(), where=scale > 0)
    return raw, level - raw @ centre


def _with_coef(
    model: tuple[NDArray[np.float64], NDArray[np.float64]], coef: NDArray[np.float64], centre: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A model with other coefficients, and the same prediction at the centre."""
    return coef, model[1] + (model[0] - coef) @ centre


def _penalised(
    coef: NDArray[np.float64],
    length: NDArray[np.float64],
    settings: Settings,
    limits: tuple[NDArray[Any], NDArray[Any]] | None,
) -> NDArray[np.float64]:
    """The proximal step of the penalty, of a length for every column, and of the limits."""
    lasso, ridge = penalties(settings)
    shrunk = coef / (1.0 + ridge * length)
    shrunk = np.sign(shrunk) * np.maximum(np.abs(shrunk) - lasso * length, 0.0)
    return shrunk if limits is None else np.clip(shrunk, *limits)


def _relative_weights(problem: Problem, place: slice, stream: Stream) -> NDArray[np.float64] | None:
    """Weights over the stream's mean weight, so that a common factor changes nothing."""
    statistics = stream.statistics
    factor = statistics.rows / statistics.weight if statistics.weight > 0 else 1.0
    if problem.sample_weight is not None:
        return problem.sample_weight[place] * factor
    return None if factor == 1.0 else np.full(place.stop - place.start, factor)


def _average(stream: Stream, latest: tuple[NDArray[Any], NDArray[Any]], rows: int, seen: float) -> None:
    """Take the mean of a block's models into the average: row t weighs like t**FORGET."""
    share = min(1.0, (FORGET + 1.0) * rows / (seen + FORGET * rows))
    coef, intercept = stream.average
    stream.average = coef + share * (latest[0] - coef), intercept + share * (latest[1] - intercept)
