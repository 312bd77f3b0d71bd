"""What a fit reports while it runs, and what it keeps: curves, the best epoch, a progress bar, callbacks.

Both ways of training, explicit schedules and the automatic solver, call `Record.epoch` after every pass.  Callbacks are
those of scikit-learn 1.9 (its enhancement proposal SLEP023); with an older scikit-learn there are none.
"""

from __future__ import annotations

import functools
import math
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TextIO, TypeVar

import numpy as np

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn < 1.9
    Method = TypeVar("Method", bound=Callable[..., Any])

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing: without `set_callbacks`, meta-estimators know that there is no support."""

    def with_callbacks(method: Method) -> Method:
        """Give `method` the extra stack frame it has with callbacks, so that warnings can count frames."""

        @functools.wraps(method)
        def call(*args, **kwargs):
            return method(*args, **kwargs)

        return call  # type: ignore[return-value]


__all__ = ["CallbackSupport", "FitCallbacks", "Record", "with_callbacks"]

Coefficients = tuple[np.ndarray, np.ndarray]

# A terminal need not be redrawn faster than eyes read; a small fit has thousands of epochs a second.
SECONDS_BETWEEN_REDRAWS = 0.1
BAR_CELLS = 16
USUAL_WIDTH = 80


class Record:
    """The course of one fit.

    A context manager: leaving it, by an exception too, ends the progress bar.

    Parameters
    ----------
    max_iter : int
        The largest number of passes over the data, the progress bar's end.
    verbose : int
        0: silent.  1: a progress bar on `sys.stderr`, or a line per epoch where that is not a terminal.  2 and more:
        a line per epoch in any case.
    validate : callable, default=None
        ``validate(coef, intercept)`` is the score on validation data, the larger the better.
    restore_best : bool, default=False
        Keep the coefficients of the best epoch in `best`.
    callbacks : FitCallbacks, default=None
        The user's callbacks, from `CallbackSupport._begin_callbacks`.
    label : str, default=""
        Goes in front of everything that is displayed.

    Attributes
    ----------
    loss_curve, objective_curve, step_size_curve : list of float
        What `epoch` was told, one number per epoch.
    validation_curve : list of float or None
        Validation scores, one per epoch; None without `validate`.
    best_iter : int or None
        The epoch with the best validation score, without `validate` the one with the lowest objective; the first is 1,
        so that ``objective_curve[best_iter - 1]`` is its objective.  The earliest of equals; NaN never is the best,
        None if no epoch is.
    best : tuple of ndarray or None
        Copies of the coefficients and intercepts of `best_iter`; None unless `restore_best`.
    stopped : bool
        Whether a callback asked for the end of training.

    Examples
    --------
    >>> import numpy as np
    >>> from fastloss.linear_model.record import Record
    >>> w, b = np.zeros(2), np.zeros(1)
    >>> with Record(max_iter=10) as record:
    ...     for n_iter, objective in enumerate([3.0, 1.0, 2.0], start=1):
    ...         stop = record.epoch(
    ...             n_iter=n_iter, loss=objective, objective=objective, step_size=0.1, snapshot=lambda: (w, b)
    ...         )
    >>> record.objective_curve, record.best_iter
    ([3.0, 1.0, 2.0], 2)
    """

    def __init__(
        self,
        *,
        max_iter: int,
        verbose: int = 0,
        validate: Callable[[np.ndarray, np.ndarray], float] | None = None,
        restore_best: bool = False,
        callbacks: FitCallbacks | None = None,
        label: str = "",
    ):
        self.loss_curve: list[float] = []
        self.objective_curve: list[float] = []
        self.step_size_curve: list[float] = []
        self.validation_curve: list[float] | None = None if validate is None else []
        self.best_iter: int | None = None
        self.best: Coefficients | None = None
        self.stopped = False
        self._validate = validate
        self._restore_best = restore_best
        self._callbacks = callbacks
        self._display = make_display(verbose, max_iter, label)
        self._best_score = -math.inf

    def begin_epoch(self) -> None:
        """Tell callbacks that a pass begins; without this call they hear of its beginning and its end together."""
        if self._callbacks is not None:
            self._callbacks.begin_epoch()

    def epoch(
        self,
        *,
        n_iter: int,
        loss: float,
        objective: float,
        step_size: float,
        snapshot: Callable[[], Coefficients],
    ) -> bool:
        """Take note of an epoch.

        Parameters
        ----------
        n_iter : int
            Passes over the data so far.
        loss, objective : float
            Mean loss, and what is minimised: mean loss plus penalty.
        step_size : float
            The step size at the epoch's end.
        snapshot : callable
            Gives the present coefficients and intercepts.  Called at most once, and only when somebody wants to see
            them; what it returns is copied.

        Returns
        -------
        stop : bool
            Whether a callback asks for the end of training.
        """
        self.loss_curve.append(float(loss))
        self.objective_curve.append(float(objective))
        self.step_size_curve.append(float(step_size))
        current = functools.cache(lambda: _copies(snapshot()))
        score = -self.objective_curve[-1]
        if self._validate is not None and self.validation_curve is not None:
            score = float(self._validate(*current()))
            self.validation_curve.append(score)
        if score > self._best_score:
            self._best_score = score
            self.best_iter = len(self.loss_curve)
            if self._restore_best:
                self.best = current()
        if self._display is not None:
            self._display.show(n_iter, self._latest())
        if self._callbacks is not None and self._callbacks.end_epoch(current):
            self.stopped = True
        return self.stopped

    def _latest(self) -> dict[str, float]:
        """The numbers of the last epoch, under the names that are displayed."""
        latest = {
            "loss": self.loss_curve[-1],
            "objective": self.objective_curve[-1],
            "step size": self.step_size_curve[-1],
        }
        if self.validation_curve is not None:
            latest["validation"] = self.validation_curve[-1]
        if math.isnan(self.step_size_curve[-1]):  # no steps of a size: what there is
            return {name: number for name, number in latest.items() if not math.isnan(number)}
        return latest

    def finish(self, *, interrupted: bool = False) -> None:
        """End what is displayed, and a pass that callbacks saw begin but that was not made.

        Parameters
        ----------
        interrupted : bool, default=False
            Whether training ends by an exception: the bar then stays as it was, and callbacks hear no more of passes.
        """
        if self._display is not None:
            self._display.finish(interrupted)
        if self._callbacks is not None and not interrupted:
            self._callbacks.abandon_epoch()

    def __enter__(self) -> Record:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.finish(interrupted=kind is not None)

    def attributes(self) -> dict[str, Any]:
        """The curves as arrays and the best epoch, under the names an estimator gives them."""
        return {
            "loss_curve_": np.array(self.loss_curve, dtype=np.float64),
            "objective_curve_": np.array(self.objective_curve, dtype=np.float64),
            "validation_curve_": (
                None if self.validation_curve is None else np.array(self.validation_curve, dtype=np.float64)
            ),
            "step_size_curve_": np.array(self.step_size_curve, dtype=np.float64),
            "best_iter_": self.best_iter,
        }


def _copies(coefficients: Coefficients) -> Coefficients:
    coef, intercept = coefficients
    return np.array(coef), np.array(intercept)


# -- display ---------------------------------------------------------------------------------------------------


def make_display(verbose: int, max_iter: int, label: str = "") -> Lines | None:
    """A progress bar if there is a terminal to draw it on, lines elsewhere, None if nothing is to be shown."""
    stream = sys.stderr
    if not verbose or stream is None:  # no stderr: a program without a console
        return None
    if verbose == 1 and _is_terminal(stream):
        return Bar(stream, max_iter, label)
    return Lines(stream, max_iter, label)


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # a stand-in for a stream, a closed stream
        return False


class Lines:
    """A plain line per epoch, for logs, pipes and notebooks.

    Parameters
    ----------
    stream : text file
        Where to write.  When it fails, nothing more is written: a fit is worth more than its display.
    max_iter : int
        The number of passes that is 100 %.
    label : str
        Goes in front of every line.
    """

    def __init__(self, stream: TextIO, max_iter: int, label: str):
        self._stream: TextIO | None = stream
        self._max_iter = max_iter
        self._prefix = f"{label}: " if label else ""

    def show(self, n_iter: int, numbers: dict[str, float]) -> None:
        """Show the numbers after pass `n_iter`."""
        self._write(f"{self._prefix}epoch {n_iter}: {_listed(numbers)}\n")

    def finish(self, interrupted: bool) -> None:
        """Nothing is left to be done for lines."""

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # a broken pipe, a closed stream, a label the encoding does not have
            self._stream = None


class Bar(Lines):
    """A progress bar: one line of a terminal, drawn over and over; a summary takes its place at the end.

    Parameters
    ----------
    stream, max_iter, label
        As for `Lines`.
    """

    def __init__(self, stream: TextIO, max_iter: int, label: str):
        super().__init__(stream, max_iter, label)
        self._started = time.perf_counter()
        self._drawn_at = -math.inf
        self._drawn_length = 0
        self._latest: tuple[int, dict[str, float]] | None = None

    def show(self, n_iter: int, numbers: dict[str, float]) -> None:
        """Show the numbers after pass `n_iter`, unless the last redraw was just now."""
        self._latest = n_iter, numbers
        now = time.perf_counter()
        if now - self._drawn_at >= SECONDS_BETWEEN_REDRAWS:
            self._drawn_at = now
            self._draw(self._bar(n_iter, numbers))

    def finish(self, interrupted: bool) -> None:
        """Show what the last redraw left out, and go to a new line."""
        if self._latest is None:
            return
        n_iter, numbers = self._latest
        if interrupted:
            self._draw(self._bar(n_iter, numbers))
        else:
            epochs = "1 epoch" if n_iter == 1 else f"{n_iter} epochs"
            self._draw(f"{self._prefix}{epochs}: {_listed(numbers)}, {self._elapsed()}")
        self._write("\n")
        self._latest = None

    def _bar(self, n_iter: int, numbers: dict[str, float]) -> str:
        done = BAR_CELLS * n_iter // max(1, self._max_iter)
        cells = ("=" * done + ">")[:BAR_CELLS].ljust(BAR_CELLS)
        few: dict[str, float] = {name: numbers[name] for name in ("objective", "validation") if name in numbers}
        return f"{self._prefix}epoch {n_iter}/{self._max_iter} [{cells}] {_listed(few)}, {self._elapsed()}"

    def _elapsed(self) -> str:
        seconds = time.perf_counter() - self._started
        if seconds < 60:
            return f"{seconds:.1f} s"
        minutes, seconds = divmod(int(seconds), 60)
        return f"{minutes} min {seconds:02} s"

    def _draw(self, line: str) -> None:
        # Longer than the terminal is wide, a line wraps, and \r goes back to the start of its last part only.  Spaces
        # wipe out the rest of a longer line before: every terminal knows them.
        room = _width(self._stream) - 1
        line = line[:room]
        self._write("\r" + line.ljust(min(self._drawn_length, room)))
        self._drawn_length = len(line)


def _listed(numbers: dict[str, float]) -> str:
    return ", ".join(f"{name} {number:.6g}" for name, number in numbers.items())


def _width(stream: TextIO | None) -> int:
    """Columns of the terminal."""
    if stream is None:
        return USUAL_WIDTH
    try:
        return os.get_terminal_size(stream.fileno()).columns or USUAL_WIDTH
    except (AttributeError, OSError, ValueError):  # not a file, or not a terminal
        return USUAL_WIDTH


# -- callbacks -------------------------------------------------------------------------------------------------


class CallbackSupport(CallbackSupportMixin):
    """Mixin for estimators: `set_callbacks` of scikit-learn >= 1.9, and the start of a fit with callbacks.

    The method that trains must be decorated with `with_callbacks`.
    """

    def _begin_callbacks(
        self,
        X: Any,
        y: Any,
        *,
        max_iter: int,
        reconstruct: Callable[[np.ndarray, np.ndarray], dict[str, Any]],
        sample_weight: Any = None,
    ) -> FitCallbacks | None:
        """Tell the user's callbacks that the fit begins.

        Parameters
        ----------
        X, y : array-like
            The training data, y as the user gave it: callbacks pass them to `score`.
        max_iter : int
            The largest number of epochs.
        reconstruct : callable
            ``reconstruct(coef, intercept)`` is a dict of every attribute predictions need, from the coefficients and
            intercepts of a snapshot.
        sample_weight : array-like, default=None
            Weights of the samples, if the user gave any.

        Returns
        -------
        callbacks : FitCallbacks or None
            None if no callbacks are set.
        """
        if not getattr(self, "_skl_callbacks", None):
            return None
        context = self._init_callback_context(max_subtasks=max_iter)
        return FitCallbacks(self, context, X, y, sample_weight, reconstruct)


class FitCallbacks:
    """The user's callbacks during one fit: a task for the fit, and in it a task for every epoch.

    Parameters
    ----------
    estimator : estimator
        The one that is trained.
    context : sklearn.callback.CallbackContext
        The fit's.
    X, y, sample_weight, reconstruct
        As for `CallbackSupport._begin_callbacks`.
    """

    def __init__(
        self,
        estimator: Any,
        context: Any,
        X: Any,
        y: Any,
        sample_weight: Any,
        reconstruct: Callable[[np.ndarray, np.ndarray], dict[str, Any]],
    ):
        self._context = context
        self._reconstruct = reconstruct
        self._arguments = {
            "estimator": estimator,
            "X": X,
            "y": y,
            "metadata": None if sample_weight is None else {"sample_weight": sample_weight},
        }
        self._task: Any = None
        self._n_tasks = 0
        context.call_on_fit_task_begin(**self._arguments)

    def begin_epoch(self) -> None:
        """Begin an epoch's task, unless one is open."""
        # A context refuses more tasks than it announced; a solver that goes on regardless does so unobserved.
        if self._task is None and self._n_tasks < self._context.max_subtasks:
            self._task = self._context.subcontext(task_name="epoch")
            self._n_tasks += 1
            self._task.call_on_fit_task_begin(**self._arguments)

    def end_epoch(self, current: Callable[[], Coefficients]) -> bool:
        """End the epoch's task; True when a callback asks for the end of training."""
        self.begin_epoch()
        if self._task is None:
            return False
        task, self._task = self._task, None
        return task.call_on_fit_task_end(
            **self._arguments, reconstruction_attributes=lambda: self._reconstruct(*current())
        )

    def abandon_epoch(self) -> None:
        """End a task that was begun for an epoch that was not made."""
        if self._task is not None:
            task, self._task = self._task, None
            task.call_on_fit_task_end(**self._arguments)

    def finish(self) -> None:
        """End the fit's task; the estimator must have its fitted attributes by now."""
        self._context.call_on_fit_task_end(**self._arguments, reconstruction_attributes={})
