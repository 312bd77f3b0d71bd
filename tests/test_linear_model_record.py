"""The training record: curves, the best epoch, what is displayed, scikit-learn's callbacks."""

import contextlib
import importlib.util
import inspect
import io
import os
import pickle
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted, validate_data

from fastloss.linear_model import record as module
from fastloss.linear_model.record import CallbackSupport, Record, with_callbacks

need_callbacks = pytest.mark.skipif(
    importlib.util.find_spec("sklearn.callback") is None, reason="scikit-learn has callbacks since 1.9"
)


def start():
    return np.zeros((1, 2)), np.zeros(1)


def run(record, objectives, snapshot=start):
    """One epoch for every objective; the loss is half of it, the step size 1/epoch."""
    for n_iter, objective in enumerate(objectives, start=1):
        record.epoch(n_iter=n_iter, loss=objective / 2, objective=objective, step_size=1 / n_iter, snapshot=snapshot)


# -- curves and the best epoch ---------------------------------------------------------------------------------


def test_curves():
    record = Record(max_iter=5)
    run(record, [4.0, 2.0, 3.0])
    assert record.loss_curve == [2.0, 1.0, 1.5]
    assert record.objective_curve == [4.0, 2.0, 3.0]
    assert record.step_size_curve == [1.0, 1 / 2, 1 / 3]
    assert record.validation_curve is None
    assert record.best_iter == 2
    assert record.best is None
    assert not record.stopped


def test_attributes_are_arrays_of_their_own():
    record = Record(max_iter=5, validate=lambda coef, intercept: 0.5)
    run(record, [4.0, 2.0])
    attributes = record.attributes()
    assert set(attributes) == {"loss_curve_", "objective_curve_", "validation_curve_", "step_size_curve_", "best_iter_"}
    for name in ("loss_curve_", "objective_curve_", "validation_curve_", "step_size_curve_"):
        assert attributes[name].dtype == np.float64
        assert attributes[name].shape == (2,)
    run(record, [1.0])
    assert attributes["objective_curve_"].tolist() == [4.0, 2.0]
    assert attributes["best_iter_"] == 1  # the earliest of equals


def test_attributes_without_validation_and_without_epochs():
    attributes = Record(max_iter=5).attributes()
    assert attributes["validation_curve_"] is None
    assert attributes["best_iter_"] is None
    assert attributes["loss_curve_"].shape == (0,)


def test_numpy_scalars_become_floats():
    record = Record(max_iter=1, validate=lambda coef, intercept: np.float32(0.5))
    record.epoch(
        n_iter=1, loss=np.float32(1), objective=np.float32(2), step_size=np.array(0.5), snapshot=lambda: start()
    )
    curves = (record.loss_curve, record.objective_curve, record.step_size_curve, record.validation_curve)
    assert all(type(curve[0]) is float for curve in curves)


def test_validation_decides_which_epoch_is_best():
    scores = iter([0.1, 0.9, 0.9, 0.3])
    record = Record(max_iter=5, validate=lambda coef, intercept: next(scores))
    run(record, [4.0, 3.0, 2.0, 1.0])
    assert record.validation_curve == [0.1, 0.9, 0.9, 0.3]
    assert record.best_iter == 2


def test_validation_sees_the_snapshot():
    coef, intercept = start()
    seen = []

    def validate(coef, intercept):
        seen.append((coef.copy(), intercept.copy()))
        return 0.0

    def snapshot():
        return coef, intercept

    record = Record(max_iter=5, validate=validate)
    for n_iter in (1, 2):
        coef += 1
        intercept -= 1
        record.epoch(n_iter=n_iter, loss=0.0, objective=0.0, step_size=1.0, snapshot=snapshot)
    assert [c.tolist() for c, _ in seen] == [[[1, 1]], [[2, 2]]]
    assert [b.tolist() for _, b in seen] == [[-1], [-2]]


@pytest.mark.parametrize("validated", [False, True])
def test_restore_best_keeps_a_copy(validated):
    """Trained in place, as solvers do: the best coefficients must not move on with the others."""
    coef, intercept = start()

    def snapshot():
        return coef, intercept

    record = Record(
        max_iter=5,
        validate=(lambda coef, intercept: -abs(coef[0, 0] - 2)) if validated else None,
        restore_best=True,
    )
    for n_iter, objective in enumerate([3.0, 1.0, 2.0], start=1):
        coef += 1
        intercept -= 1
        record.epoch(n_iter=n_iter, loss=objective, objective=objective, step_size=1.0, snapshot=snapshot)
    assert record.best_iter == 2
    best_coef, best_intercept = record.best
    assert best_coef.tolist() == [[2, 2]]
    assert best_intercept.tolist() == [-2]
    assert best_coef.dtype == coef.dtype


def test_restore_best_keeps_the_dtype():
    record = Record(max_iter=1, restore_best=True)
    run(record, [1.0], snapshot=lambda: (np.ones((1, 2), np.float32), np.ones(1, np.float32)))
    assert [part.dtype for part in record.best] == [np.float32, np.float32]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_objective_is_recorded_but_never_best(bad):
    record = Record(max_iter=5, restore_best=True)
    run(record, [bad, 2.0, bad, 3.0])
    np.testing.assert_array_equal(record.objective_curve, [bad, 2.0, bad, 3.0])
    assert record.best_iter == 2
    record = Record(max_iter=5, restore_best=True)
    run(record, [bad, bad])
    assert record.best_iter is None
    assert record.best is None
    assert record.attributes()["best_iter_"] is None


def test_a_nan_score_is_never_best():
    scores = iter([np.nan, 0.5, np.nan])
    record = Record(max_iter=5, validate=lambda coef, intercept: next(scores))
    run(record, [3.0, 2.0, 1.0])
    assert record.best_iter == 2


def test_snapshot_is_taken_only_when_somebody_looks():
    def forbidden():
        raise AssertionError("nobody asked for the coefficients")

    run(Record(max_iter=5), [3.0, 2.0], snapshot=forbidden)

    taken = []

    def counted():
        taken.append(1)
        return start()

    run(Record(max_iter=5, restore_best=True), [3.0, 4.0, 2.0], snapshot=counted)
    assert len(taken) == 2  # epoch 2 is worse
    taken.clear()
    run(Record(max_iter=5, restore_best=True, validate=lambda coef, intercept: 0.0), [3.0, 4.0], snapshot=counted)
    assert len(taken) == 2  # once an epoch for both


# -- display ---------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A terminal without a size: 80 columns are assumed."""

    def isatty(self):
        return True

    def screen(self):
        """The lines a user sees."""
        lines = []
        for line in self.getvalue().split("\n"):
            cells = []
            for text in line.split("\r"):
                cells[: len(text)] = text
            lines.append("".join(cells).rstrip())
        return lines


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def set_stderr(monkeypatch, stream):
    """For the module alone: pytest has its own plans for the real one."""
    monkeypatch.setattr(module, "sys", SimpleNamespace(stderr=stream))
    return stream


@pytest.fixture
def terminal(monkeypatch):
    return set_stderr(monkeypatch, Terminal())


@pytest.fixture
def log(monkeypatch):
    return set_stderr(monkeypatch, io.StringIO())


def test_silent_without_verbose(terminal):
    with Record(max_iter=3, verbose=0) as record:
        run(record, [3.0, 2.0])
    assert terminal.getvalue() == ""


def test_lines_where_there_is_no_terminal(log):
    with Record(max_iter=3, verbose=1) as record:
        run(record, [3.0, 2.0])
    assert log.getvalue() == (
        "epoch 1: loss 1.5, objective 3, step size 1\nepoch 2: loss 1, objective 2, step size 0.5\n"
    )


def test_lines_show_label_validation_and_nan(log):
    with Record(max_iter=3, verbose=1, label="fold 2", validate=lambda coef, intercept: 0.25) as record:
        run(record, [np.nan])
    assert log.getvalue() == "fold 2: epoch 1: loss nan, objective nan, step size 1, validation 0.25\n"


def test_verbose_2_writes_lines_on_a_terminal(terminal):
    with Record(max_iter=3, verbose=2) as record:
        run(record, [3.0])
    assert terminal.getvalue() == "epoch 1: loss 1.5, objective 3, step size 1\n"


def test_stdout_stays_clean(capsys):
    with Record(max_iter=3, verbose=1) as record:
        run(record, [3.0, 2.0])
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 2


def test_redirected_stderr_is_respected():
    with contextlib.redirect_stderr(io.StringIO()) as log, Record(max_iter=3, verbose=True) as record:
        run(record, [3.0])
    assert log.getvalue().startswith("epoch 1: ")


def test_bar(terminal, clock):
    with Record(max_iter=4, verbose=1) as record:
        record.epoch(n_iter=1, loss=1.5, objective=3.0, step_size=1.0, snapshot=start)
        assert terminal.screen() == ["epoch 1/4 [====>           ] objective 3, 0.0 s"]
        clock.now += 1.25
        record.epoch(n_iter=3, loss=1.0, objective=2.0, step_size=0.5, snapshot=start)
        assert terminal.screen() == ["epoch 3/4 [============>   ] objective 2, 1.2 s"]
        clock.now += 100
        record.epoch(n_iter=4, loss=0.5, objective=1.0, step_size=0.5, snapshot=start)
        assert terminal.screen() == ["epoch 4/4 [================] objective 1, 1 min 41 s"]
    assert terminal.screen() == ["4 epochs: loss 0.5, objective 1, step size 0.5, 1 min 41 s", ""]
    assert set(terminal.getvalue()) - {"\r", "\n"} <= set(map(chr, range(32, 127)))


def test_bar_shows_label_and_validation(terminal, clock):
    with Record(max_iter=2, verbose=1, label="polish", validate=lambda coef, intercept: 0.25) as record:
        run(record, [3.0])
        assert terminal.screen() == ["polish: epoch 1/2 [========>       ] objective 3, validation 0.25, 0.0 s"]
    assert terminal.screen()[0].startswith("polish: 1 epoch: loss 1.5, objective 3, step size 1, validation 0.25")


def test_bar_is_drawn_ten_times_a_second_at_most(terminal, clock):
    record = Record(max_iter=1000, verbose=1)
    for n_iter in range(1, 1001):
        clock.now += 0.001
        record.epoch(n_iter=n_iter, loss=1.0, objective=2.0, step_size=0.5, snapshot=start)
    assert 9 <= terminal.getvalue().count("\r") <= 11
    record.finish()
    assert terminal.screen()[0].startswith("1000 epochs: ")


def test_bar_beyond_its_end(terminal, clock):
    with Record(max_iter=1, verbose=1) as record:
        record.epoch(n_iter=3, loss=1.0, objective=2.0, step_size=0.5, snapshot=start)
        assert terminal.screen() == ["epoch 3/1 [================] objective 2, 0.0 s"]


def test_a_shorter_line_wipes_out_the_longer_one(terminal, clock):
    record = Record(max_iter=9, verbose=1)
    run(record, [-1.23456e-12])
    clock.now += 1
    record.epoch(n_iter=2, loss=1.0, objective=2.0, step_size=0.5, snapshot=start)
    assert terminal.screen() == ["epoch 2/9 [===>            ] objective 2, 1.0 s"]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="pseudo-terminals are a Unix thing")
def test_bar_fits_in_a_narrow_terminal(monkeypatch, clock):
    fcntl, struct, termios = (pytest.importorskip(name) for name in ("fcntl", "struct", "termios"))
    reader, writer = os.openpty()

    def resize(columns):
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    with open(writer, "w", encoding="ascii") as stream:
        set_stderr(monkeypatch, stream)
        resize(30)
        with Record(max_iter=9, verbose=1, label="narrow") as record:
            run(record, [1.0])
            resize(20)
            clock.now += 1
            run(record, [2.0])
            resize(0)  # of unknown size
        drawn = ""
        while "\n" not in drawn:
            drawn += os.read(reader, 10_000).decode()
    os.close(reader)
    assert [len(line) for line in re.split(r"[\r\n]+", drawn)] == [0, 29, 19, 56, 0]
    assert drawn.startswith("\rnarrow: epoch 1/9 [")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_exception_ends_the_bar(terminal, clock, error):
    def interrupted():
        with Record(max_iter=4, verbose=1) as record:
            run(record, [3.0, 2.0])  # the second comes too soon to be drawn
            raise error

    with pytest.raises(error):
        interrupted()
    assert terminal.screen() == ["epoch 2/4 [========>       ] objective 2, 0.0 s", ""]


def test_an_exception_before_the_first_epoch_shows_nothing(terminal):
    with pytest.raises(KeyboardInterrupt), Record(max_iter=4, verbose=1):
        raise KeyboardInterrupt
    assert terminal.getvalue() == ""


def test_an_exception_of_validate_ends_the_bar(terminal, clock):
    scores = iter([0.5])
    with pytest.raises(StopIteration), Record(max_iter=4, verbose=1, validate=lambda *_: next(scores)) as record:
        run(record, [3.0, 2.0])
    assert terminal.screen()[0].startswith("epoch 1/4")
    assert terminal.getvalue().endswith("\n")


def test_finish_twice(terminal):
    record = Record(max_iter=4, verbose=1)
    run(record, [3.0])
    record.finish()
    once = terminal.getvalue()
    record.finish()
    assert terminal.getvalue() == once


class Broken(io.StringIO):
    """A pipe whose reader has gone."""

    def write(self, text):
        raise BrokenPipeError


class BrokenTerminal(Broken):
    """A terminal that was closed."""

    def isatty(self):
        return True


class Minimal:
    """What some programs put in the place of stderr: it can write, and nothing else."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        """Nothing is held back."""


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


def ascii_only():
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii")


@pytest.mark.parametrize("verbose", [1, 2])
@pytest.mark.parametrize("make", [lambda: None, closed, Broken, BrokenTerminal, ascii_only])
def test_a_stream_that_fails_does_not_stop_the_fit(monkeypatch, verbose, make):
    set_stderr(monkeypatch, make())
    with Record(max_iter=4, verbose=verbose, label="größte") as record:
        run(record, [3.0, 2.0])
    assert record.best_iter == 2


def test_a_stream_without_isatty_gets_lines(monkeypatch):
    stream = set_stderr(monkeypatch, Minimal())
    with Record(max_iter=4, verbose=1) as record:
        run(record, [3.0])
    assert stream.text == "epoch 1: loss 1.5, objective 3, step size 1\n"


# -- callbacks -------------------------------------------------------------------------------------------------


class Descent(CallbackSupport, RegressorMixin, BaseEstimator):
    """Least squares by gradient descent: what an estimator does with a record, and nothing else."""

    def __init__(self, step_size=0.1, max_iter=20, verbose=0, restore_best=False, fail_at=None):
        self.step_size = step_size
        self.max_iter = max_iter
        self.verbose = verbose
        self.restore_best = restore_best
        self.fail_at = fail_at

    @with_callbacks
    def fit(self, X, y, sample_weight=None, X_val=None, y_val=None):
        X, y = validate_data(self, X, y, dtype=np.float64)
        weight = np.ones(len(y)) if sample_weight is None else sample_weight

        def score(coef, intercept):
            return -np.mean((X_val @ coef[0] + intercept[0] - y_val) ** 2)

        coef, intercept = start = np.zeros((1, X.shape[1])), np.zeros(1)
        callbacks = self._begin_callbacks(
            X, y, max_iter=self.max_iter, reconstruct=self._shaped, sample_weight=sample_weight
        )
        with Record(
            max_iter=self.max_iter,
            verbose=self.verbose,
            validate=None if X_val is None else score,
            restore_best=self.restore_best,
            callbacks=callbacks,
        ) as record:
            n_iter = 0
            while n_iter < self.max_iter:
                record.begin_epoch()
                n_iter += 1
                if n_iter == self.fail_at:
                    raise KeyboardInterrupt
                residual = X @ coef[0] + intercept[0] - y
                loss = 0.5 * np.average(residual**2, weights=weight)
                coef -= self.step_size * np.average(residual[:, None] * X, axis=0, weights=weight)
                intercept -= self.step_size * np.average(residual, weights=weight)
                if record.epoch(
                    n_iter=n_iter, loss=loss, objective=loss, step_size=self.step_size, snapshot=lambda: start
                ):
                    break
        if record.best is not None:
            coef, intercept = record.best
        self.n_iter_ = n_iter
        self.__dict__.update(self._shaped(coef, intercept))
        self.__dict__.update(record.attributes())
        if callbacks is not None:
            callbacks.finish()
        return self

    @staticmethod
    def _shaped(coef, intercept):
        return {"coef_": coef.ravel(), "intercept_": intercept}

    def predict(self, X):
        check_is_fitted(self, "coef_")
        return validate_data(self, X, reset=False) @ self.coef_ + self.intercept_


@pytest.fixture
def line():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 3))
    return X, X @ np.array([1.0, -2.0, 0.5]) + 3.0


class Observer:
    """A callback that keeps what it hears; it stops training after `stop_after` epochs."""

    def __init__(self, stop_after=None):
        self.heard = []
        self.estimators = []
        self.stop_after = stop_after

    def setup(self, estimator, context):
        self.heard.append(("setup", context.task_name))

    def teardown(self, estimator, context):
        self.heard.append(("teardown", context.task_name))

    def on_fit_task_begin(self, estimator, context):
        self.heard.append(("begin", context.task_name))

    def on_fit_task_end(self, estimator, context, *, X, y, metadata, fitted_estimator):
        self.heard.append(("end", context.task_name))
        self.estimators.append(fitted_estimator)
        if fitted_estimator is not None:
            self.last = context.max_subtasks, X, y, metadata
        return context.task_name == "epoch" and context.task_id + 1 == self.stop_after


class Propagated(Observer):
    """One that meta-estimators hand on."""

    max_propagation_depth = None


def test_the_estimator_without_callbacks(line):
    X, y = line
    model = Descent(max_iter=30).fit(X, y)
    assert model.loss_curve_.shape == (30,)
    assert model.validation_curve_ is None
    assert (np.diff(model.objective_curve_) < 0).all()
    assert model.best_iter_ == 30
    assert not any("callback" in name for name in vars(model))
    assert list(inspect.signature(model.fit).parameters) == ["X", "y", "sample_weight", "X_val", "y_val"]


def test_the_estimator_restores_its_best_epoch(line):
    """A step size that first helps, then diverges, on validation data that like the first epochs."""
    X, y = line
    model = Descent(step_size=0.3, max_iter=40, restore_best=True).fit(X, y, X_val=X, y_val=0.5 * y)
    assert 1 < model.best_iter_ < 40
    assert model.validation_curve_.argmax() + 1 == model.best_iter_
    assert -np.mean((model.predict(X) - 0.5 * y) ** 2) == pytest.approx(model.validation_curve_.max())


@need_callbacks
def test_callbacks_hear_of_every_epoch(line):
    X, y = line
    observer = Observer()
    weight = np.arange(50.0)
    Descent(max_iter=3).set_callbacks(observer).fit(X, y, sample_weight=weight)
    epoch = [("begin", "epoch"), ("end", "epoch")]
    assert observer.heard == [("setup", "fit"), ("begin", "fit"), *3 * epoch, ("end", "fit"), ("teardown", "fit")]
    max_subtasks, seen_X, seen_y, metadata = observer.last
    assert max_subtasks == 3
    np.testing.assert_array_equal(seen_X, X)
    np.testing.assert_array_equal(seen_y, y)
    np.testing.assert_array_equal(metadata["sample_weight"], weight)


@need_callbacks
def test_callbacks_see_the_estimator_as_it_was_after_each_epoch(line):
    X, y = line
    observer = Observer()
    model = Descent(max_iter=4).set_callbacks(observer).fit(X, y)
    for n_iter, seen in enumerate(observer.estimators[:4], start=1):
        np.testing.assert_array_equal(seen.coef_, Descent(max_iter=n_iter).fit(X, y).coef_)
    np.testing.assert_array_equal(observer.estimators[4].coef_, model.coef_)


@need_callbacks
def test_a_callback_stops_training(line):
    X, y = line
    observer = Observer(stop_after=2)
    model = Descent(max_iter=9).set_callbacks(observer).fit(X, y)
    assert model.n_iter_ == 2
    assert len(model.loss_curve_) == 2
    assert observer.heard[-2:] == [("end", "fit"), ("teardown", "fit")]


@need_callbacks
def test_callbacks_are_torn_down_by_an_interrupt(line):
    observer = Observer()
    model = Descent(max_iter=9, fail_at=3).set_callbacks(observer)
    with pytest.raises(KeyboardInterrupt):
        model.fit(*line)
    assert observer.heard[-2:] == [("begin", "epoch"), ("teardown", "fit")]
    observer.heard.clear()
    model.set_params(fail_at=None).fit(*line)
    assert observer.heard.count(("end", "epoch")) == 9


class TestFitCallbacks:
    """The tasks of a context, without an estimator's loop around them."""

    pytestmark = need_callbacks

    @pytest.fixture
    def observer(self):
        return Observer()

    @pytest.fixture
    def record(self, observer, line):
        model = Descent().set_callbacks(observer)
        shapes = {"coef_": np.zeros(3), "intercept_": np.zeros(1), "n_features_in_": 3}
        callbacks = model._begin_callbacks(*line, max_iter=2, reconstruct=lambda coef, intercept: shapes)
        observer.heard.clear()
        return Record(max_iter=2, callbacks=callbacks)

    def test_an_epoch_without_begin(self, record, observer):
        run(record, [1.0, 2.0])
        assert observer.heard == 2 * [("begin", "epoch"), ("end", "epoch")]

    def test_begin_twice(self, record, observer):
        record.begin_epoch()
        record.begin_epoch()
        assert observer.heard == [("begin", "epoch")]

    def test_an_epoch_that_was_not_made_is_ended_without_an_estimator(self, record, observer):
        with record:
            record.begin_epoch()
        assert observer.heard == [("begin", "epoch"), ("end", "epoch")]
        assert observer.estimators == [None]

    def test_after_an_exception_no_callback_is_called(self, record, observer):
        def interrupted():
            with record:
                record.begin_epoch()
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert observer.heard == [("begin", "epoch")]

    def test_the_record_knows_that_a_callback_stopped_it(self, record, observer):
        observer.stop_after = 2
        arguments = {"loss": 1.0, "objective": 1.0, "step_size": 1.0, "snapshot": start}
        assert record.epoch(n_iter=1, **arguments) is False
        assert record.stopped is False
        assert record.epoch(n_iter=2, **arguments) is True
        assert record.stopped is True

    def test_more_epochs_than_announced(self, record, observer):
        run(record, [1.0, 2.0, 3.0])
        assert observer.heard == 2 * [("begin", "epoch"), ("end", "epoch")]
        assert len(record.loss_curve) == 3


@need_callbacks
def test_no_snapshot_for_callbacks_that_want_no_estimator(line):
    class Blind(Observer):
        def on_fit_task_end(self, estimator, context):
            return False

    model = Descent().set_callbacks(Blind())
    callbacks = model._begin_callbacks(*line, max_iter=2, reconstruct=lambda coef, intercept: {})
    taken = []
    run(Record(max_iter=2, callbacks=callbacks), [1.0], snapshot=lambda: taken.append(1) or start())
    assert not taken


@need_callbacks
def test_scoring_monitor(line):
    from sklearn.callback import ScoringMonitor

    X, y = line
    monitor = ScoringMonitor(scoring="neg_mean_squared_error")
    model = Descent(max_iter=5).set_callbacks(monitor).fit(X, y)
    epochs = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    # the loss an epoch reports is that of the coefficients it began with: the next epoch's is the one scored
    after = Descent(max_iter=6).fit(X, y).loss_curve_[1:]
    np.testing.assert_allclose([-row["neg_mean_squared_error"] / 2 for row in epochs], after)
    assert model.n_iter_ == 5


@need_callbacks
def test_scoring_monitor_weighs(line):
    from sklearn.callback import ScoringMonitor

    X, y = line
    weight = np.arange(50.0)
    monitor = ScoringMonitor(scoring="r2")
    model = Descent(max_iter=5).set_callbacks(monitor).fit(X, y, sample_weight=weight)
    (last,) = (row for row in monitor.get_logs().data if row["task_name"] == "fit")
    assert last["r2"] == pytest.approx(model.score(X, y, sample_weight=weight))


@need_callbacks
@pytest.mark.parametrize("max_iter", [5, 1])
def test_progress_bar(line, capsys, max_iter):
    pytest.importorskip("rich", reason="scikit-learn's progress bar is drawn by rich")
    from sklearn.callback import ProgressBar

    Descent(max_iter=max_iter).set_callbacks(ProgressBar()).fit(*line)
    assert "Descent - fit" in capsys.readouterr().out


@need_callbacks
def test_callbacks_come_down_from_a_pipeline(line):
    observer = Propagated()
    pipeline = make_pipeline(StandardScaler(), Descent(max_iter=2)).set_callbacks(observer)
    pipeline.fit(*line)
    assert observer.heard.count(("end", "epoch")) == 2
    assert observer.heard.count(("end", "fit")) == 3  # the pipeline, its scaler, its model
    assert observer.heard.count(("teardown", "fit")) == 1


@need_callbacks
def test_clone_and_pickle_keep_what_they_should(line):
    observer = Observer()
    model = clone(Descent(max_iter=2).set_callbacks(observer)).fit(*line)
    assert observer.heard.count(("end", "epoch")) == 2
    model.set_callbacks()
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(line[0]), model.predict(line[0]))


@need_callbacks
def test_only_callbacks_are_accepted():
    with pytest.raises(TypeError, match="FitCallback protocol"):
        Descent().set_callbacks(print)


@pytest.fixture
def old_scikit_learn(monkeypatch):
    """The module as it is with a scikit-learn that has no callbacks."""
    monkeypatch.setitem(sys.modules, "sklearn.callback", None)
    spec = importlib.util.spec_from_file_location("record_without_callbacks", module.__file__)
    old = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(old)
    return old


def test_without_callbacks_in_scikit_learn(old_scikit_learn, line):
    class Plain(old_scikit_learn.CallbackSupport, RegressorMixin, BaseEstimator):
        @old_scikit_learn.with_callbacks
        def fit(self, X, y, sample_weight=None):
            """The docstring."""
            self.callbacks = self._begin_callbacks(X, y, max_iter=2, reconstruct=dict)
            return self

    model = Plain().fit(*line)
    assert model.callbacks is None
    assert not hasattr(model, "set_callbacks")
    assert list(inspect.signature(model.fit).parameters) == ["X", "y", "sample_weight"]
    assert model.fit.__doc__ == "The docstring."


def test_the_decorator_adds_one_frame_with_and_without_callbacks(old_scikit_learn):
    """Warnings of a fit point at the user's line by counting frames."""

    def depth(self):
        return len(inspect.stack())

    here = depth(None)
    assert with_callbacks(depth)(object()) == here + 1
    assert old_scikit_learn.with_callbacks(depth)(object()) == here + 1
