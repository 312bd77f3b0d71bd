"""What is to be minimised, what is known of a result, how many passes over X it took."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from fastloss._kernels import linear
from fastloss.linear_model.optimum.columns import Moments, working_dtype
from fastloss.losses import Loss, get_loss
from fastloss.objective import csr_parts

Model = tuple[NDArray, NDArray]  # coef (K, d), intercept (K,), float64
Report = Callable[[int, float, Callable[[], Model]], bool]


# An objective below this part of the best constant's.
NEARLY_SEPARABLE, NEARLY_EXACT, DOUBT = 0.05, 0.01, 0.05


LEAST_DAMPING = 1e-4  # of the largest curvature a row can have


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
        self.parts = csr_parts(self.X) if sp.issparse(self.X) else self.X
        self.total_weight = float(self.X.shape[0] if self.weight is None else self.weight.sum())

    def compiled(self, kernel: Any, offset: NDArray | None) -> linear.Linear:
        """The mean of a kernel's loss over the rows, as a function of the model."""
        single = self.dtype == np.float32
        return linear.Linear(kernel, self.parts, self.y, self.weight, offset, self.K, single, self.n_threads)

    def for_loss(self, raw: NDArray) -> NDArray:
        """Raw predictions (rows, K) in the shape the loss takes: (rows,) where y is (n,) and there is one score."""
        return raw[:, 0] if self.y.ndim == 1 and self.loss.kind != "multiclass" else raw

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
        return bool(np.isfinite(self.gap) and self.gap <= tol * self.scale)


class Watch:
    """The course of a fit: passes over X, the latest model, the damping of steps; ends it when passes are used up."""

    def __init__(self, max_passes: int, model: Model, report: Report | None) -> None:
        self.max_passes, self.report = max_passes, report
        self.passes = 0
        self.reserve = 0  # passes kept back for what follows the present minimisation
        self.latest: Callable[[], Model] = always(model)
        self.objective = np.inf
        self.stopped = False
        self.damping = 0.0  # of the coordinates, grows where steps fail
        self.moments: Moments | None = None
        self.undefined = False  # whether an own loss was NaN somewhere on the way

    def pass_over(self) -> None:
        """Take note of a pass that is about to start."""
        if self.passes + self.reserve >= self.max_passes:
            raise PassesUsedUp
        self.passes += 1

    def adapt(self, failed: bool, stuck: bool) -> bool:
        """Damp coordinates more where steps fail, less where they do not; whether a fit is stuck all the same."""
        if failed and self.damping < 1.0:
            # a step into rows that have no curvature here but have it there: shorter ones from now on
            self.damping = max(100 * self.damping, LEAST_DAMPING)
            return False
        self.damping = 0.1 * self.damping if self.damping > LEAST_DAMPING else 0.0
        return stuck

    def note(self, objective: float, model: Callable[[], Model], *, report: bool = True) -> None:
        """Keep a model, and report its objective."""
        self.latest, self.objective = model, objective
        if report and self.report is not None and self.report(self.passes, objective, model):
            self.stopped = True
            raise PassesUsedUp


class Scale:
    """What a gap is relative to: the objective, or what was gained on the best constant where objectives cross zero."""

    def __init__(self, task: Task, constant: Model) -> None:
        self.doubtful = NEARLY_EXACT if task.loss.kind == "regression" else NEARLY_SEPARABLE
        self.constant = mean_at_constant(task, constant)
        if np.isnan(self.constant) and not task.loss._registered:
            raise undefined(task.loss, "at the best constant")
        self.signed = task.loss._crosses_zero or self.constant < 0
        # an objective of 0, or close to it, is known to rounding of the terms it is made of
        self.least = 1e3 * np.finfo(task.dtype).eps * abs(self.constant) + np.finfo(float).tiny

    def separable(self, objective: float) -> bool:
        """Whether an objective is one of nearly separable classes, or of targets that are met nearly exactly."""
        return not self.signed and objective < self.doubtful * self.constant

    def __call__(self, objective: float) -> float:
        """What a gap at this objective is relative to."""
        distance = max(self.constant - objective if self.signed else objective, self.least)
        # Nearly separable data: estimates from the few rows that have a slope were found wrong by up to this factor.
        return distance * DOUBT if self.separable(objective) else distance


def undefined(loss: Loss, where: str) -> ValueError:
    """The error of an own loss that gives NaN."""
    return ValueError(
        f"loss={loss!r} gave NaN {where}: there is nothing to minimise (fastloss.check_loss looks for it)"
    )


def always(value: Any) -> Callable[..., Any]:
    """A function that returns a value, whatever it is asked."""
    return lambda *_: value


def rows_of(array: NDArray | None, place: slice) -> NDArray | None:
    """A block's rows of an array over the samples."""
    return None if array is None else array[place]


def shifted(raw: NDArray, offset: NDArray | None, place: slice) -> NDArray:
    """Raw predictions of a block with their offsets, (n,) or (n, K)."""
    return raw if offset is None else raw + offset[place].reshape(len(raw), -1)


def at_constant(task: Task, model: Model, rows: slice) -> tuple[NDArray, NDArray, NDArray | None]:
    """y, raw predictions of a model without coefficients, and weights, of some rows."""
    y = task.y[rows]
    raw = shifted(np.broadcast_to(model[1], (len(y), task.K)), task.offset, rows)
    return y, task.for_loss(raw), rows_of(task.weight, rows)


def mean_at_constant(task: Task, model: Model) -> float:
    """Mean loss of a model without coefficients."""
    y, raw, weight = at_constant(task, model, slice(None))
    if task.quantiles is None:
        return task.loss.loss(y, raw, weight, n_threads=1)
    return sum(
        get_loss("quantile", quantile=q).loss(y[:, k], raw[:, k], weight, n_threads=1)
        for k, q in enumerate(task.quantiles)
    )


def some_rows(task: Task) -> slice:
    """Rows enough to set a scale by."""
    return slice(0, None, max(1, task.X.shape[0] // 100_000))
