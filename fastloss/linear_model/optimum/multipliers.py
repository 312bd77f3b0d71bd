"""Losses with kinks: the method of multipliers, a sequence of smooth problems and a lower bound of the optimum."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastloss.linear_model.optimum.columns import Moments, raw_predictions, row_blocks
from fastloss.linear_model.optimum.smooth import CAUTION, Smooth, descend, first_coordinates
from fastloss.linear_model.optimum.task import (
    Certificate,
    Model,
    PassesUsedUp,
    Scale,
    Task,
    Watch,
    always,
    at_constant,
    rows_of,
    shifted,
    some_rows,
)
from fastloss.losses import get_loss

# The envelope's step: this fraction of the loss's value over its squared slope.  covtype, a9a, electricity with the
# hinge: 1 takes 49-62 passes to a gap of 1e-3, 0.3 takes 28-35, 0.1 takes 18-46.
FIRST_STEP, SHORTER, SHORTENINGS = 0.3, 0.5, 4
# Further ones where the gap shrinks by less than this factor: residuals much smaller than the best constant's.
SLOW, MOST_SHORTENINGS = 0.5, 7
ROUGHLY = 0.05  # part of the present gap that a relaxed problem's own distance from its minimum may have
# Slopes of float32 rows are too inexact to be held against the ridge alone; for closer tolerances they have to be.
STRICT_FROM = 1e-3
PATIENCE = 4  # relaxed problems in a row that brought objective and bound no closer
# The part of the tolerance that a relaxed problem's own distance from its minimum may have.
INNER_SHARE = 0.25


class Relaxed:
    """The relaxed problems of a loss with kinks: envelopes shifted by step·multipliers, kept as one array (n, K)."""

    def __init__(self, task: Task, means: NDArray) -> None:
        self.task = task
        self.factor, self.tilt, self.means, self.level = 1.0, None, None, 0.0
        self.loss = task.loss
        self.hinge_of_classes = task.loss._registered == "multiclass_hinge"
        if task.quantiles is not None:
            # quantile·u for u > 0, (quantile − 1)·u else, with u = y − raw, is ½|u| + (quantile − ½)·u
            self.loss, self.factor, self.tilt, self.means = get_loss("absolute_error"), 0.5, 0.5 - task.quantiles, means
            self.level = float(self.tilt @ (_mean(task, task.offset) - _mean(task, task.y)))
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
                      stretch=stretch, tilt=self.tilt, means=self.means, constant=self._constant(step) + self.level,
                      reported=False, steepest=self.factor / step)  # fmt: skip

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
            mean += float(self.tilt @ (coef @ self.means + intercept)) + self.level
        return mean

    def _loss_of(self, place: slice, raw: NDArray) -> float:
        task = self.task
        raw = task.for_loss(np.ascontiguousarray(shifted(raw, task.offset, place), task.dtype))
        weight = rows_of(task.weight, place)
        return self.factor * self.loss.loss(task.y[place], raw, weight, reduction="sum", n_threads=1)


def descend_by_multipliers(task: Task, model: Model, spread: Moments, tol: float, scale: Scale, watch: Watch
                           ) -> tuple[Model, Certificate]:  # fmt: skip
    """Minimise the mean of a loss with kinks; `spread` are the moments of X under the sample weights."""
    relaxed = Relaxed(task, spread.mean[0])
    step, shortenings = first_step(task, model), 0
    coordinates = None
    best, best_model, bound, last_gap = np.inf, model, -np.inf, np.inf
    share, stalls, exhausted, confirmed, certified = INNER_SHARE, 0, False, False, False
    while not exhausted and stalls < PATIENCE:
        smooth = relaxed.smooth(step, watch)
        coordinates = coordinates or first_coordinates(smooth, model, spread)
        # no closer than the multipliers are right: the first problems are far from the last
        known = last_gap if np.isfinite(last_gap) else (0.0 if confirmed else scale.constant)
        target = max(share * tol * scale(best if np.isfinite(best) else scale.constant), ROUGHLY * known)
        gap = np.inf
        watch.reserve = 1
        try:
            model, value, gap, coordinates = descend(
                smooth,
                model,
                coordinates,
                always(target),
                certify=confirmed,
                strict=scale.separable(best) or tol < STRICT_FROM or task.dtype == np.float64,
            )
            bound = max(bound, value - gap)
        except PassesUsedUp:
            model, exhausted = watch.latest(), True
        watch.reserve = 0
        if watch.passes >= watch.max_passes:
            break
        most = MOST_SHORTENINGS if task.loss.kind == "regression" and task.K == 1 else SHORTENINGS
        slow = best - bound > SLOW * last_gap and shortenings < most
        if shortenings < SHORTENINGS or slow:
            step, shortenings = step * SHORTER, shortenings + 1
        objective = relaxed.update(smooth, model, step, watch) + task.penalty(model[0])
        gain = best - objective
        if objective < best:
            best, best_model = objective, model
        watch.note(best, always(best_model))
        stalls = stalls + 1 if tol > 0 and best - bound > 0.95 * last_gap else 0
        last_gap = best - bound
        if tol == 0 or last_gap > tol * scale(best):
            continue
        # The bound leans on an estimate.  Minimising four times as closely must neither lower the objective much nor
        # the bound: on kddcup99 the first claim of 3e-4 was in truth 6e-3.
        certified = confirmed and gap <= target and gain <= share * tol * scale(best)
        if certified:
            break
        if not confirmed:
            share, bound, last_gap, confirmed = CAUTION * INNER_SHARE, -np.inf, np.inf, True
    # a bound that was not confirmed is none
    return best_model, Certificate(best, best - bound if certified else np.inf, scale(best))


def _mean(task: Task, array: NDArray | None) -> NDArray:
    """Weighted means of the columns of an array over the samples."""
    if array is None:
        return np.zeros(task.K)
    weight = np.ones(len(array)) if task.weight is None else task.weight
    return (weight @ array) / task.total_weight


def first_step(task: Task, model: Model) -> float:
    """FIRST_STEP of the mean loss over the mean squared slope, at a model without coefficients."""
    y, raw, weight = at_constant(task, model, some_rows(task))
    loss = task.loss if task.quantiles is None else get_loss("absolute_error")
    value = loss.loss(y, raw, weight, reduction="sum", n_threads=1)
    slopes = loss.gradient(y, raw, reduction="none", n_threads=1).reshape(len(y), -1)
    squares = float(np.einsum("ij,ij,i->", slopes, slopes, np.ones(len(y)) if weight is None else weight))
    return FIRST_STEP * value / squares if value > 0 and squares > 0 else 1.0
