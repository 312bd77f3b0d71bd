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


class Span(NamedTuple):
    """A slice whose columns depend on how many there are."""

    start: int | None
    stop: int | None
    step: int | None

    def __repr__(self) -> str:
        return f"slice({self.start!r}, {self.stop!r}, {self.step!r})"


class Task(NamedTuple):
    """``weight`` times a loss, for some columns."""

    weight: float
    loss: Loss
    columns: tuple[int, ...] | Span


class MultiTaskLoss(Loss):
    """A loss of its own for every column of (n, T) targets: Σ_k weight_k · Σ_{c in columns_k} loss_k(y_c, raw_c).

    Parameters
    ----------
    tasks : sequence of (weight, loss, columns)
        Weights are finite and >= 0. Losses are names or objects, for regression or two classes (sums and temperatures
        too), or one over K classes that takes soft targets (n, K), for K columns. Columns are an int, a slice, or a
        sequence of ints, negative ones counted from the end; together they name every column 0 ... T − 1 exactly once.
        With a slice that ends with the table, such as ``slice(1, None)``, T is that of each call's data.
    weighting : {"fixed", "uncertainty"}, default "fixed"
        "uncertainty": :meth:`loss` and :meth:`loss_gradient` take log-variances s_k, one per task, and the loss of a
        sample is Σ_k (weight_k · exp(−s_k) · L_k + s_k/2), with L_k the sum over the task's columns. Minimised over s
        too, it weighs tasks by how well they are met, whatever their units.

    Attributes
    ----------
    tasks : tuple of (weight, loss, columns)
    n_tasks : int
    n_columns : int or None
        T; None where it is that of the data.

    Notes
    -----
    `y_true` and `raw_prediction` have shape (n, T). **NaN targets are masked**: they contribute 0 to loss, gradient and
    hessian, whatever the raw prediction is, also in columns of labels; with log-variances the s_k/2 of a sample counts
    by the share of the task's columns that is known. A row that has a NaN among the K targets of a loss over K classes
    is masked in all of these columns. A sample's loss is the sum over its columns; "mean" divides by the sum of the
    sample weights, so samples with gaps count whole; without any known target it is an error.
    ``hessian="upper_bound"`` is one number for all columns, the largest of their bounds, masked elements included.

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
    n_columns: int | None
    weighting: Literal["fixed", "uncertainty"]
    _of_width: dict[int, MultiTaskLoss]  # where the data decide the number of columns: the loss for each met so far

    def __init__(self, tasks: Iterable[Any], weighting: str = "fixed") -> None:
        if not isinstance(weighting, str) or weighting not in WEIGHTINGS:
            raise ValueError(f"weighting must be one of {', '.join(map(repr, WEIGHTINGS))}, got {weighting!r}")
        found = tuple(_read_task(k, task) for k, task in enumerate(_sequence(tasks)))
        n_columns = _count_columns(found)
        if n_columns is not None:
            found = _resolved(found, n_columns)
        self.__dict__.update(
            tasks=found,
            weighting=weighting,
            n_tasks=len(found),
            n_columns=n_columns,
            params=MappingProxyType({"tasks": found, "weighting": weighting}),
            name="MultiTaskLoss",
            piecewise_linear=all(task.loss.piecewise_linear for task in found),
            _couples_columns=any(task.loss.kind == "multiclass" for task in found),
            _of_width={},
        )
        if n_columns is not None:
            self.__dict__["_kernel"] = self._compose(None)

    def _compose(self, log_variances: NDArray | None) -> dispatch.CompositeKernel:
        """The compiled half; log-variances give every known target its share of their halves."""
        levels = np.zeros(self.n_tasks) if log_variances is None else 0.5 * log_variances
        assert self.n_columns is not None
        terms = [
            (
                task.loss._kernel,
                rounded(FACTOR, task.weight),
                (1.0, 1.0),
                together,
                level * len(together) / len(columns),
            )
            for (task, columns), level in zip(self._task_columns(), levels.tolist(), strict=True)
            for together in ([columns] if task.loss.kind == "multiclass" else [(column,) for column in columns])
        ]
        return dispatch.CompositeKernel(self.name, self.target, False, terms, self.n_columns)

    def _task_columns(self) -> Iterable[tuple[Task, tuple[int, ...]]]:
        """Tasks of a loss that knows its number of columns, and their columns."""
        for task in self.tasks:
            assert not isinstance(task.columns, Span)
            yield task, task.columns

    def _with_columns(self, n_columns: int) -> MultiTaskLoss:
        """The loss for tables of so many columns; made once."""
        if self.n_columns is not None:
            return self
        if n_columns not in self._of_width:
            self._of_width[n_columns] = MultiTaskLoss(_resolved(self.tasks, n_columns), self.weighting)
        return self._of_width[n_columns]

    def _for_table(self, raw_prediction: ArrayLike) -> MultiTaskLoss:
        """The loss for tables with as many columns as this one."""
        if self.n_columns is not None:
            return self
        shape = np.shape(raw_prediction)
        if len(shape) != 2:
            raise ValueError(
                f"raw_prediction has shape {shape}, expected (n, T): {self.name} has a loss for each column"
            )
        return self._with_columns(shape[1])

    def _evaluated(self, *arguments: Any) -> Any:
        _, y_true, raw_prediction, sample_weight, reduction, *_ = arguments
        found = dispatch.evaluate(self._for_table(raw_prediction)._kernel, *arguments)
        _check_mean(found[0] if isinstance(found, tuple) else found, y_true, sample_weight, reduction)
        return found

    def _for_training(self, n_columns: int | None = None) -> MultiTaskLoss:
        if self.weighting == "uncertainty":
            raise ValueError(
                "a MultiTaskLoss with weighting='uncertainty' has log-variances beside the coefficients, which nothing "
                "would learn here: pass loss.at(log_variances), and alternate with loss.best_log_variances(y, raw)"
            )
        return self if n_columns is None else self._with_columns(n_columns)

    def __repr__(self) -> str:
        columns = (t.columns if isinstance(t.columns, Span) else list(t.columns) for t in self.tasks)
        tasks = ", ".join(repr((t.weight, t.loss, c)) for t, c in zip(self.tasks, columns, strict=True))
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
        own = self._for_table(raw_prediction)
        totals, known = own._task_totals(
            own._kernel, dispatch.LOSS, y_true, raw_prediction, sample_weight, "sum", None, n_threads
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
        kernel = self._for_table(raw_prediction).at(variances)._compose(variances)
        out = (loss_out, None, None)
        value = dispatch.evaluate(
            kernel, dispatch.LOSS, y_true, raw_prediction, sample_weight, reduction, *out, n_threads
        )
        _check_mean(value, y_true, sample_weight, reduction)
        return value

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
        own, want = self._for_table(raw_prediction), dispatch.LOSS | dispatch.GRADIENT
        gradient, totals, known = own._task_totals(
            own.at(variances)._kernel, want, y_true, raw_prediction, sample_weight, reduction, gradient_out, n_threads
        )
        _check_mean(known, y_true, sample_weight, reduction)
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
        assert self.n_columns is not None
        columns, y_true = np.zeros((2, self.n_columns)), self._whole_rows(y_true)
        out = (None, gradient_out, None)
        found = dispatch.evaluate(
            kernel, want, y_true, raw_prediction, sample_weight, reduction, *out, n_threads, "exact", columns
        )
        totals = np.array([columns[0, list(these)].sum() for _, these in self._task_columns()])
        known = np.array([columns[1, list(these)].mean() for _, these in self._task_columns()])
        return found[1] if want & dispatch.GRADIENT else found, totals, known

    def _whole_rows(self, y_true: ArrayLike) -> ArrayLike:
        """Targets in which a loss over K classes knows all K of a row or none, as known targets are counted."""
        for task, columns in self._task_columns():
            if task.loss.kind != "multiclass":
                continue
            y = dispatch.as_real(y_true, "y_true")
            if y.ndim != 2 or y.shape[1] != self.n_columns:
                break  # an error soon
            gaps = np.isnan(y[:, list(columns)])
            if (gaps.any(axis=1) != gaps.all(axis=1)).any():
                y_true = y = y.copy()
                y[np.ix_(gaps.any(axis=1), list(columns))] = np.nan
        return y_true

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
        """The loss of every column, with its weight, as estimators train it; NaN targets masked.

        Raises
        ------
        ValueError
            For a loss over K classes, whose columns have none of their own, or where data decide how many there are.
        """
        if self.n_columns is None:
            raise ValueError(f"{self!r} has as many columns as its data: give y a shape (n, T), or the slice a stop")
        for k, task in enumerate(self.tasks):
            if task.loss.kind == "multiclass":
                raise ValueError(
                    f"tasks[{k}] has {task.loss!r} for {len(task.columns)} columns together, not one for each: only "
                    "fastloss.LinearObjective trains it"
                )
        by_column = {column: task for task, columns in self._task_columns() for column in columns}
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
        return all(_has_fisher(task.loss) for task in self.tasks)

    def _estimate(self, raw: NDArray) -> NDArray:
        if raw.ndim != 2 or raw.shape[1] != (self.n_columns or raw.shape[1]):
            raise ValueError(f"raw_prediction must have shape (n, {self.n_columns or 'T'}), got {raw.shape}")
        estimates = np.empty_like(raw)
        for task, columns in self._for_table(raw)._task_columns():
            if task.loss.kind == "multiclass":
                estimates[:, list(columns)] = task.loss.predict(np.ascontiguousarray(raw[:, list(columns)]))
                continue
            for column in columns:
                estimates[:, column] = task.loss.predict(np.ascontiguousarray(raw[:, column]))
        return estimates


def _has_fisher(loss: Loss) -> bool:
    if loss.kind != "multiclass":
        return loss._has_fisher
    try:
        return loss._hessian_policy("fisher") == "exact"  # which is then what a row's kernel computes
    except ValueError:
        return False


# ------------------------------------------------------------------------------------------------- arguments
def _check_mean(found: Any, y_true: ArrayLike, sample_weight: ArrayLike | None, reduction: str) -> None:
    """A mean that is all 0 may be one of no known target.

    A gradient's first rows say mostly that it is not; `any` would read all of it.
    """
    if reduction != "mean" or np.any(found if np.isscalar(found) else found[:64]) or np.any(found):
        return
    y = dispatch.as_real(y_true, "y_true")
    if np.isnan(y if sample_weight is None else y[np.asarray(sample_weight) > 0]).all():
        raise ValueError("reduction='mean' is not defined: all targets are NaN; use 'sum' or 'none'")


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
    found, where = get_loss(loss), _read_columns(k, columns)
    if found.kind not in ("regression", "binary", "multiclass") or isinstance(found, Masked):
        raise ValueError(
            f"tasks[{k}] has {found!r} of kind {found.kind!r}; a column's loss must be for regression or two classes, "
            "or over the classes of several columns"
        )
    if found.kind == "multiclass":
        _check_classes(k, found, where)
    return Task(checked_factor(number), found, where)


def _check_classes(k: int, loss: Loss, columns: tuple[int, ...] | Span) -> None:
    """Whether a loss over K classes can be that of K columns of targets."""
    if not getattr(loss, "soft_targets", False):
        raise ValueError(f"tasks[{k}] has {loss!r}, which takes labels only; columns hold (n, K) targets")
    for option in ("class_weight", "ignore_index"):
        if getattr(loss, option, None) is not None:
            raise ValueError(f"tasks[{k}] has {loss!r}: {option} acts on whole samples, not on a task's columns")
    if not isinstance(columns, Span) and len(columns) == 1:
        raise ValueError(f"tasks[{k}] has {loss!r} over K classes, and one column; it must have one for each class")


def _read_columns(k: int, columns: Any) -> tuple[int, ...] | Span:
    wanted = f"the columns of tasks[{k}] must be an int, a slice with a step > 0, or ints, got {columns!r}"
    if isinstance(columns, (slice, Span)):
        parts = (columns.start, columns.stop, columns.step)
        if not all(part is None or _is_int(part) for part in parts):
            raise TypeError(wanted)
        start, stop, step = (None if part is None else operator.index(part) for part in parts)
        if step is not None and step < 1:
            raise ValueError(wanted)
        if stop is None or stop < 0 or (start or 0) < 0:
            return Span(start, stop, step)
        found = tuple(range(start or 0, stop, step or 1))
    else:
        several = isinstance(columns, Iterable) and not isinstance(columns, (str, bytes))
        entries = list(columns) if several else [columns]
        if not all(map(_is_int, entries)):
            raise TypeError(wanted)
        found = tuple(map(operator.index, entries))
    if not found:
        raise ValueError(wanted)
    return found


def _is_int(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, (bool, np.bool_))


def _count_columns(tasks: Sequence[Task]) -> int | None:
    """The number of columns; None where a slice leaves it to the data."""
    named: list[int] = []
    for task in tasks:
        if isinstance(task.columns, Span):
            return None
        named += task.columns
    # Negative ones are counted from the end of as many as are named, if each is named once.
    return max(named) + 1 if min(named) >= 0 else max(len(named), max(named) + 1)


def _resolved(tasks: Sequence[Task], n_columns: int) -> tuple[Task, ...]:
    """The tasks of a table of so many columns, each of which must have one loss."""
    owner: dict[int, int] = {}
    found = []
    for k, task in enumerate(tasks):
        columns = task.columns
        if isinstance(columns, Span):
            columns = tuple(range(*slice(*columns).indices(n_columns)))
            if not columns:
                raise ValueError(f"tasks[{k}] has none of the {n_columns} columns: its columns are {task.columns!r}")
        for column in columns:
            if not -n_columns <= column < n_columns:
                raise ValueError(f"tasks[{k}] has column {column}, but there are {n_columns} columns")
        columns = tuple(column % n_columns for column in columns)
        for column in columns:
            if column in owner:
                raise ValueError(f"column {column} is in tasks[{owner[column]}] and tasks[{k}]; it must have one loss")
            owner[column] = k
        if task.loss.kind == "multiclass":
            _check_classes(k, task.loss, columns)
        found.append(task._replace(columns=columns))
    for column in range(n_columns):
        if column not in owner:
            raise ValueError(f"column {column} has no loss; to leave it out, leave it out of y_true and raw_prediction")
    return tuple(found)
