"""A loss of its own for every column of a table of targets, with fixed or learned weights and gaps in the table."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastloss._kernels import dispatch
from fastloss.composite import FACTOR, Masked, checked_factor, rounded
from fastloss.losses import Loss, get_loss
from fastloss.losses._base import Reduction

__all__ = ["MultiTaskLoss"]

WEIGHTINGS = ("fixed", "uncertainty")


class Task(NamedTuple):
    """``weight`` times a loss, for some columns."""

    weight: float
    loss: Loss
    columns: tuple[int, ...]


class MultiTaskLoss(Loss):
    """A loss of its own for every column of (n, T) targets: Σ_k weight_k · Σ_{c in columns_k} loss_k(y_c, raw_c).

    Parameters
    ----------
    tasks : sequence of (weight, loss, columns)
        Weights are finite and >= 0. Losses are names or objects, for regression or two classes (sums and temperatures
        too). Columns are an int, a slice with a stop, or a sequence of ints, counted from 0; together they name every
        column 0 ... T − 1 exactly once.
    weighting : {"fixed", "uncertainty"}, default "fixed"
        "uncertainty": :meth:`loss` and :meth:`loss_gradient` take log-variances s_k, one per task, and the loss of a
        sample is Σ_k (weight_k · exp(−s_k) · L_k + s_k/2), with L_k the sum over the task's columns. Minimised over s
        too, it weighs tasks by how well they are met, whatever their units.

    Attributes
    ----------
    tasks : tuple of (weight, loss, columns)
    n_tasks, n_columns : int

    Notes
    -----
    `y_true` and `raw_prediction` have shape (n, T). **NaN targets are masked**: they contribute 0 to loss, gradient and
    hessian, whatever the raw prediction is, also in columns of labels; with log-variances the s_k/2 of a sample counts
    by the share of the task's columns that is known. A sample's loss is the sum over its columns; "mean" divides by the
    sum of the sample weights, so samples with gaps count whole. ``hessian="upper_bound"`` is one number for all
    columns, the largest of their bounds, masked elements included.

    Labels of a column may be {0, 1} or {−1, 1}; 0 and −1 both mean the negative class, and are not told apart.

    A. Kendall, Y. Gal and R. Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses, CVPR 2018.

    Examples
    --------
    >>> import fastloss, numpy as np
    >>> loss = fastloss.MultiTaskLoss([(1.0, "squared_error", 0), (0.5, "log_loss", [1, 2])])
    >>> y, raw = np.array([[1.0, 1.0, np.nan], [2.0, 0.0, 1.0]]), np.zeros((2, 3))
    >>> loss.loss_gradient(y, raw, reduction="sum")
    (3.5397..., array([[-1.  , -0.25,  0.  ],
           [-2.  ,  0.25, -0.25]]))
    """

    kind = "multitask"
    target = "targets of every column's loss"
    _masks_nan = True

    tasks: tuple[Task, ...]
    n_tasks: int
    n_columns: int
    weighting: Literal["fixed", "uncertainty"]

    def __init__(self, tasks: Iterable[Any], weighting: str = "fixed") -> None:
        if not isinstance(weighting, str) or weighting not in WEIGHTINGS:
            raise ValueError(f"weighting must be one of {', '.join(map(repr, WEIGHTINGS))}, got {weighting!r}")
        found = tuple(_read_task(k, task) for k, task in enumerate(_sequence(tasks)))
        n_columns = _check_cover(found)
        self.__dict__.update(
            tasks=found,
            weighting=weighting,
            n_tasks=len(found),
            n_columns=n_columns,
            params=MappingProxyType({"tasks": found, "weighting": weighting}),
            name="MultiTaskLoss",
            piecewise_linear=all(task.loss.piecewise_linear for task in found),
        )
        self.__dict__["_kernel"] = self._compose(None)

    def _compose(self, log_variances: NDArray | None) -> dispatch.CompositeKernel:
        """The compiled half; log-variances give every known target its share of their halves."""
        levels = np.zeros(self.n_tasks) if log_variances is None else 0.5 * log_variances
        terms = [
            (task.loss._kernel, rounded(FACTOR, task.weight), (1.0, 1.0), column, level / len(task.columns))
            for task, level in zip(self.tasks, levels.tolist(), strict=True)
            for column in task.columns
        ]
        return dispatch.CompositeKernel(self.name, self.target, False, terms, self.n_columns)

    def __repr__(self) -> str:
        tasks = ", ".join(repr((t.weight, t.loss, list(t.columns))) for t in self.tasks)
        return f"MultiTaskLoss([{tasks}]" + f", weighting={self.weighting!r}" * (self.weighting != "fixed") + ")"

    # ----------------------------------------------------------------------------------------- learned weights
    def at(self, log_variances: ArrayLike) -> MultiTaskLoss:
        """The loss with fixed weights weight_k · exp(−s_k), without the terms s_k/2.

        Parameters
        ----------
        log_variances : array-like of shape (n_tasks,)

        Returns
        -------
        MultiTaskLoss
            With ``weighting="fixed"``: for :class:`fastloss.LinearObjective` and the estimators.
        """
        factors = np.exp(-self._checked(log_variances))
        return MultiTaskLoss(
            [task._replace(weight=task.weight * f) for task, f in zip(self.tasks, factors.tolist(), strict=True)]
        )

    def best_log_variances(
        self,
        y_true: ArrayLike,
        raw_prediction: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        n_threads: int | None = None,
    ) -> NDArray[np.float64]:
        """The log-variances at which the loss of these raw predictions is least, log(2 · weight_k · mean of L_k).

        Parameters
        ----------
        y_true, raw_prediction, sample_weight, n_threads
            As in :meth:`loss`.

        Returns
        -------
        ndarray of shape (n_tasks,)

        Raises
        ------
        ValueError
            Also where a task is met exactly (or has no known target, or weight 0): there is no least loss then.
        """
        totals, known = self._task_totals(
            self._kernel, dispatch.LOSS, y_true, raw_prediction, sample_weight, "sum", None, n_threads
        )[1:]
        for k, total in enumerate(totals):
            if not total > 0:
                raise ValueError(
                    f"task {k} ({self.tasks[k].loss!r}) has a total loss of {total:g}, not > 0: its log-variance has "
                    "no best value"
                )
        return np.log(2.0 * totals / known)

    def loss(
        self,
        y_true: ArrayLike,
        raw_prediction: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        reduction: Reduction = "mean",
        loss_out: NDArray | None = None,
        n_threads: int | None = None,
        log_variances: ArrayLike | None = None,
    ) -> Any:
        """Value of the loss, see :meth:`Loss.loss`.

        Parameters
        ----------
        y_true, raw_prediction : array-like of shape (n, T)
        sample_weight, reduction, loss_out, n_threads
            As in :meth:`Loss.loss`.
        log_variances : array-like of shape (n_tasks,), optional
            With ``weighting="uncertainty"``; by default zeros.

        Returns
        -------
        float, or ndarray of shape (n,) for ``reduction="none"``
        """
        if log_variances is None:
            return super().loss(
                y_true, raw_prediction, sample_weight, reduction=reduction, loss_out=loss_out, n_threads=n_threads
            )
        variances = self._checked(log_variances)
        kernel = self.at(variances)._compose(variances)
        out = (loss_out, None, None)
        return dispatch.evaluate(
            kernel, dispatch.LOSS, y_true, raw_prediction, sample_weight, reduction, *out, n_threads
        )

    def loss_gradient(
        self,
        y_true: ArrayLike,
        raw_prediction: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        reduction: Reduction = "mean",
        loss_out: NDArray | None = None,
        gradient_out: NDArray | None = None,
        n_threads: int | None = None,
        log_variances: ArrayLike | None = None,
    ) -> Any:
        """Loss and gradient in one pass, see :meth:`Loss.loss_gradient`; with log-variances also by these.

        Parameters
        ----------
        y_true, raw_prediction : array-like of shape (n, T)
        sample_weight, reduction, loss_out, gradient_out, n_threads
            As in :meth:`Loss.loss` and :meth:`Loss.gradient`.
        log_variances : array-like of shape (n_tasks,), optional
            With ``weighting="uncertainty"`` and a reduction that adds up.

        Returns
        -------
        loss : float, or ndarray of shape (n,) for ``reduction="none"``
        gradient : ndarray of shape (n, T)
        gradient_log_variances : ndarray of shape (n_tasks,)
            Only with `log_variances`.

        Examples
        --------
        >>> import fastloss
        >>> tasks = [(1.0, "squared_error", 0), (1.0, "absolute_error", 1)]
        >>> loss = fastloss.MultiTaskLoss(tasks, weighting="uncertainty")
        >>> loss.loss_gradient([[0.0, 0.0]], [[2.0, -3.0]], log_variances=[0.0, 0.0])
        (5.0, array([[ 2., -1.]]), array([-1.5, -2.5]))
        """
        if log_variances is None:
            return super().loss_gradient(
                y_true,
                raw_prediction,
                sample_weight,
                reduction=reduction,
                loss_out=loss_out,
                gradient_out=gradient_out,
                n_threads=n_threads,
            )
        variances = self._checked(log_variances)
        if reduction == "none":
            raise ValueError("reduction='none' has no gradient with respect to log_variances; use 'mean' or 'sum'")
        if loss_out is not None:
            raise ValueError(f"loss_out is for reduction='none'; with {reduction!r} the loss is a float")
        want = dispatch.LOSS | dispatch.GRADIENT
        gradient, totals, known = self._task_totals(
            self.at(variances)._kernel, want, y_true, raw_prediction, sample_weight, reduction, gradient_out, n_threads
        )
        return float(totals.sum() + 0.5 * (variances @ known)), gradient, 0.5 * known - totals

    def _task_totals(
        self,
        kernel: dispatch.Kernel,
        want: int,
        y_true: ArrayLike,
        raw_prediction: ArrayLike,
        sample_weight: ArrayLike | None,
        reduction: Reduction,
        gradient_out: NDArray | None,
        n_threads: int | None,
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.float64]]:
        """What was asked for, every task's reduced loss, and the reduced share of its columns that is known."""
        columns = np.zeros((2, self.n_columns))
        out = (None, gradient_out, None)
        found = dispatch.evaluate(
            kernel, want, y_true, raw_prediction, sample_weight, reduction, *out, n_threads, "exact", columns
        )
        totals = np.array([columns[0, list(task.columns)].sum() for task in self.tasks])
        known = np.array([columns[1, list(task.columns)].mean() for task in self.tasks])
        return found[1] if want & dispatch.GRADIENT else found, totals, known

    def _checked(self, log_variances: ArrayLike) -> NDArray[np.float64]:
        if self.weighting != "uncertainty":
            raise ValueError(f"log_variances need weighting='uncertainty', this loss has {self.weighting!r}")
        values = dispatch.as_real(log_variances, "log_variances").astype(np.float64)
        if values.shape != (self.n_tasks,):
            raise ValueError(f"log_variances has shape {values.shape}, expected ({self.n_tasks},), one per task")
        if not np.isfinite(values).all():
            raise ValueError(f"log_variances must be finite, got {values.tolist()}")
        return values

    # ----------------------------------------------------------------------------------------- from the tasks
    @property
    def column_losses(self) -> tuple[Loss, ...]:
        """The loss of every column, with its weight, as estimators train it; NaN targets masked."""
        by_column = {column: task for task in self.tasks for column in task.columns}
        return tuple(Masked([(by_column[c].weight, by_column[c].loss)]) for c in range(self.n_columns))

    @property
    def convex(self) -> bool:
        """Whether all losses are."""
        return all(task.loss.convex for task in self.tasks if task.weight > 0)

    @property
    def _declares_convex(self) -> bool:
        return all(task.loss._declares_convex for task in self.tasks if task.weight > 0)

    @property
    def _registered(self) -> str:
        return self.name if all(task.loss._registered for task in self.tasks) else ""

    def curvature(self) -> float:
        """The largest bound of the tasks' second derivatives."""
        return max((t.weight * t.loss.curvature() for t in self.tasks if t.weight > 0), default=0.0)

    def _hessian_bound(self) -> float:
        return max((t.weight * t.loss._hessian_bound() for t in self.tasks if t.weight > 0), default=0.0)

    def _hessian_policy(self, hessian: str) -> float | str:
        if hessian == "exact":
            for task in self.tasks:
                if task.weight > 0:
                    task.loss._hessian_policy(hessian)  # raises for an own loss without one
        return super()._hessian_policy(hessian)

    @property
    def _has_fisher(self) -> bool:
        return all(task.loss._has_fisher for task in self.tasks)

    def _estimate(self, raw: NDArray) -> NDArray:
        if raw.ndim != 2 or raw.shape[1] != self.n_columns:
            raise ValueError(f"raw_prediction must have shape (n, {self.n_columns}), got {raw.shape}")
        estimates = np.empty_like(raw)
        for task in self.tasks:
            for column in task.columns:
                estimates[:, column] = task.loss.predict(np.ascontiguousarray(raw[:, column]))
        return estimates


# ------------------------------------------------------------------------------------------------- arguments
def _sequence(tasks: Any) -> Sequence[Any]:
    try:
        found = list(tasks)
    except TypeError:
        raise TypeError(f"tasks must be a sequence of (weight, loss, columns), got {tasks!r}") from None
    if not found:
        raise ValueError("tasks must be at least one (weight, loss, columns), got none")
    return found


def _read_task(k: int, task: Any) -> Task:
    try:
        weight, loss, columns = task
    except (TypeError, ValueError):
        raise ValueError(f"tasks[{k}] must be (weight, loss, columns), got {task!r}") from None
    number = FACTOR.check("MultiTaskLoss", f"the weight of tasks[{k}]", weight)
    assert isinstance(number, float)
    found = get_loss(loss)
    if found.kind not in ("regression", "binary") or isinstance(found, Masked):
        raise ValueError(
            f"tasks[{k}] has {found!r} of kind {found.kind!r}; a column's loss must be for regression or two classes"
        )
    return Task(checked_factor(number), found, _read_columns(k, columns))


def _read_columns(k: int, columns: Any) -> tuple[int, ...]:
    wanted = f"the columns of tasks[{k}] must be an int, a slice with a stop, or ints, all >= 0, got {columns!r}"
    if isinstance(columns, slice):
        parts = (columns.start or 0, columns.stop, 1 if columns.step is None else columns.step)
        if columns.stop is None or not all(hasattr(part, "__index__") and part >= 0 for part in parts) or not parts[2]:
            raise ValueError(wanted)
        found = tuple(range(*map(operator.index, parts)))
    else:
        several = isinstance(columns, Iterable) and not isinstance(columns, (str, bytes))
        entries = list(columns) if several else [columns]
        if not all(hasattr(entry, "__index__") and not isinstance(entry, (bool, np.bool_)) for entry in entries):
            raise TypeError(wanted)
        found = tuple(map(operator.index, entries))
    if not found or min(found) < 0:
        raise ValueError(wanted)
    return found


def _check_cover(tasks: Sequence[Task]) -> int:
    """The number of columns, each of which must have one loss."""
    owner: dict[int, int] = {}
    for k, task in enumerate(tasks):
        for column in task.columns:
            if column in owner:
                raise ValueError(f"column {column} is in tasks[{owner[column]}] and tasks[{k}]; it must have one loss")
            owner[column] = k
    for column in range(max(owner)):
        if column not in owner:
            raise ValueError(f"column {column} has no loss; to leave it out, leave it out of y_true and raw_prediction")
    return max(owner) + 1
