"""What a fit records and obeys: curves, validation data, callbacks, constraints, L1; mostly of the optimum."""

import importlib.util
import pickle
import signal
import threading
import time
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import linprog, lsq_linear, minimize
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fastloss
from fastloss import SGDLossClassifier, SGDLossRegressor

need_callbacks = pytest.mark.skipif(
    importlib.util.find_spec("sklearn.callback") is None, reason="scikit-learn has callbacks since 1.9"
)

# Columns of everyday scales, none of them standardised.
SCALES = np.array([1.0, 30.0, 0.02, 5.0, 1.0, 0.4])
CURVES = ("loss_curve_", "objective_curve_", "step_size_curve_")

CLASSIFIERS = [
    SGDLossClassifier("log_loss"),
    SGDLossClassifier("log_loss", penalty="l1", alpha=1e-2),
    SGDLossClassifier("squared_hinge", penalty="elasticnet", alpha=1e-2),
    SGDLossClassifier("hinge", alpha=1e-2),
    SGDLossClassifier("cross_entropy", alpha=1e-3, class_weight="balanced"),
    SGDLossClassifier("log_loss", alpha=1e-3, class_weight={0: 2.0}, fit_intercept=False),
    SGDLossClassifier("multiclass_hinge", alpha=1e-2),
]
REGRESSORS = [
    SGDLossRegressor(),
    SGDLossRegressor("huber", epsilon=0.5, penalty="l1", alpha=1e-2),
    SGDLossRegressor("log_cosh", positive=True),
    SGDLossRegressor("squared_epsilon_insensitive", penalty=None),
    SGDLossRegressor("absolute_error", alpha=1e-3),
    SGDLossRegressor("epsilon_insensitive", alpha=1e-3, penalty="elasticnet"),
    SGDLossRegressor("quantile", quantile=[0.2, 0.7], alpha=1e-2),
    SGDLossRegressor("smooth_quantile", quantile=[0.2, 0.7], alpha=1e-2),
    SGDLossRegressor("poisson", alpha=1e-3),
    SGDLossRegressor("gamma", alpha=1e-2),
]
SCHEDULED = [
    SGDLossClassifier("log_loss", learning_rate="optimal"),
    SGDLossClassifier("hinge", learning_rate="constant", penalty="l1"),
    SGDLossClassifier("cross_entropy", learning_rate="invscaling", eta0=0.1),
    SGDLossRegressor(learning_rate="invscaling"),
    SGDLossRegressor("huber", learning_rate="adaptive", penalty="elasticnet"),
    SGDLossRegressor("quantile", quantile=[0.2, 0.7], learning_rate="constant"),
]
EVERY = [*CLASSIFIERS, *REGRESSORS, *SCHEDULED]


def make_data(model, n=240, seed=0, scales=SCALES):
    """Three overlapping classes, or positive targets with noise, on columns of different scales."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 6))
    if isinstance(model, SGDLossClassifier):
        y = (X[:, :3] + 0.5 * rng.standard_normal((n, 3))).argmax(axis=1)
    else:
        y = np.exp(X @ [0.3, -0.2, 0.0, 0.1, 0.0, 0.0] + 0.3 * rng.standard_normal(n))
    return X * scales, y


def standardised(model, **options):
    """Data that schedules can learn from."""
    return make_data(model, scales=np.ones(6), **options)


def quiet(model, *data, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(*data, **arguments)


def silently(model, *data, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return model.fit(*data, **arguments)


def loss_and_objective(model, X, y, weight=None):
    """Sums over the scores of the mean loss and of what is minimised, by matrix products in float64."""
    X = np.asarray(X.toarray() if sp.issparse(X) else X, float)
    coef = np.atleast_2d(model.coef_).astype(float)
    raw = X @ coef.T + model.intercept_
    weight = np.ones(len(X)) if weight is None else weight
    factors = np.ones(3)
    one_hot = isinstance(model, SGDLossClassifier)
    if one_hot:
        if model.class_weight == "balanced":
            factors = len(y) / (3 * np.bincount(y))
        elif model.class_weight is not None:
            factors = np.array([model.class_weight.get(k, 1.0) for k in range(3)])
        weight = weight * factors[y]
    losses = model._losses * (raw.shape[1] if len(model._losses) == 1 else 1)
    if losses[0].kind == "multiclass":
        loss = losses[0].loss(y, raw, weight)
    else:
        targets = np.where(y[:, None] == np.arange(raw.shape[1]), 1.0, -1.0)
        if not one_hot:
            targets = np.broadcast_to(np.asarray(y, float).reshape(len(y), -1), raw.shape)
        loss = sum(
            one.loss(np.ascontiguousarray(targets[:, k]), np.ascontiguousarray(raw[:, k]), weight)
            for k, one in enumerate(losses)
        )
    ratio = {"l1": 1.0, "l2": 0.0, "elasticnet": model.l1_ratio}.get(model.penalty, 0.0)
    alpha = model.alpha if model.penalty else 0.0
    return loss, loss + alpha * ((1 - ratio) / 2 * (coef**2).sum() + ratio * np.abs(coef).sum())


# -- curves ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", CLASSIFIERS + REGRESSORS, ids=str)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("convert", [np.asarray, sp.csr_matrix])
def test_the_last_of_the_curves_belongs_to_the_model(model, dtype, convert):
    X, y = make_data(model)
    X = X.astype(dtype)
    weight = np.random.default_rng(1).uniform(0.2, 2.0, len(y))
    model = quiet(clone(model), convert(X), y, sample_weight=weight)
    loss, objective = loss_and_objective(model, X, y, weight)
    rtol = 1e-6 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(model.objective_curve_[-1], objective, rtol=rtol)
    np.testing.assert_allclose(model.loss_curve_[-1], loss, rtol=rtol)


@pytest.mark.parametrize("model", CLASSIFIERS + REGRESSORS, ids=str)
def test_curves_of_the_optimum(model):
    X, y = make_data(model)
    model = quiet(clone(model), X, y)
    curves = [getattr(model, name) for name in CURVES]
    assert len({(curve.shape, curve.dtype) for curve in curves}) == 1
    assert 1 <= len(curves[0]) <= model.n_iter_ <= 1000
    assert (model.loss_curve_ <= model.objective_curve_ + 1e-12).all()
    assert model.validation_curve_ is None
    assert model.best_iter_ == model.objective_curve_.argmin() + 1


@pytest.mark.parametrize("model", SCHEDULED, ids=str)
def test_curves_of_schedules(model):
    X, y = standardised(model)
    model = clone(model).set_params(max_iter=7, tol=None, random_state=0).fit(X, y)
    assert {getattr(model, name).shape for name in CURVES} == {(7,)}
    assert (model.loss_curve_ <= model.objective_curve_).all()
    assert model.objective_curve_[-1] < model.objective_curve_[0]
    assert model.best_iter_ == model.objective_curve_.argmin() + 1
    t = len(y) * np.arange(1, 8)
    expected = {
        "constant": np.full(7, model.eta0),
        "adaptive": np.full(7, model.eta0),
        "invscaling": model.eta0 / t**model.power_t,
        "optimal": 1 / (model.alpha * (1 / (model.alpha**0.75) + t - 1)),
    }[model.learning_rate]
    np.testing.assert_allclose(model.step_size_curve_, expected, rtol=1e-2)
    final = loss_and_objective(model, X, y)
    if model.learning_rate == "optimal":
        return  # its first steps are so long that the epochs' means have little to do with the last model
    # an epoch's mean is over the models on the way
    np.testing.assert_allclose([model.loss_curve_[-1], model.objective_curve_[-1]], final, rtol=0.3)


@pytest.mark.parametrize("storage", [np.asarray, np.asfortranarray, sp.csr_matrix], ids=["C", "F", "CSR"])
@pytest.mark.parametrize("penalty", ["l2", "l1"])
@pytest.mark.parametrize("batch_size", [1, 7])
def test_without_tol_the_recorded_penalty_is_that_of_the_epochs_ends(storage, penalty, batch_size):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 5))
    y = X @ rng.normal(size=5) + rng.normal(size=90)

    def norms(epochs):
        model = SGDLossRegressor(
            learning_rate="constant", eta0=0.01, alpha=0.1, penalty=penalty, tol=None, max_iter=epochs,
            batch_size=batch_size, random_state=0,
        )  # fmt: skip
        model.fit(storage(X), y)
        w = model.coef_
        return 0.1 * (0.5 * w @ w if penalty == "l2" else np.abs(w).sum()), model

    ends = [0.0, *(norms(epochs)[0] for epochs in (1, 2, 3))]
    model = norms(3)[1]
    recorded = model.objective_curve_ - model.loss_curve_
    np.testing.assert_allclose(recorded, np.add(ends[:-1], ends[1:]) / 2, rtol=1e-9)


def test_adaptive_step_sizes_fall_in_the_curve():
    X, y = standardised(SGDLossRegressor())
    model = SGDLossRegressor(learning_rate="adaptive", eta0=0.1, random_state=0).fit(X, y)
    ratios = model.step_size_curve_[1:] / model.step_size_curve_[:-1]
    assert set(np.round(ratios, 12)) == {1.0, 0.2}


def test_curves_are_of_the_last_fit():
    model = SGDLossRegressor(random_state=0)
    X, y = make_data(model)
    model.fit(X, y, X_val=X, y_val=y)
    assert len(model.validation_curve_) == len(model.objective_curve_)
    model.fit(X, y)
    assert model.validation_curve_ is None


# -- validation data -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", EVERY, ids=str)
def test_the_last_validation_score_is_that_of_the_model(model):
    X, y = standardised(model, n=400)
    model = quiet(clone(model).set_params(random_state=0, max_iter=300), X[:250], y[:250], X_val=X[250:], y_val=y[250:])
    assert model.validation_curve_.shape == model.objective_curve_.shape
    np.testing.assert_allclose(model.validation_curve_[-1], model.score(X[250:], y[250:]), rtol=1e-9)


@pytest.mark.parametrize("model", EVERY, ids=str)
def test_restore_best_returns_the_model_with_the_best_score(model):
    X, y = standardised(model, n=200)
    few = slice(None, 30)  # so few that the fit goes too far
    model = clone(model).set_params(random_state=0, max_iter=200, restore_best=True, alpha=1e-6)
    quiet(model, X[few], y[few], X_val=X[100:], y_val=y[100:])
    assert model.best_iter_ == model.validation_curve_.argmax() + 1
    np.testing.assert_allclose(model.score(X[100:], y[100:]), model.validation_curve_.max(), rtol=1e-9)
    assert model.coef_.shape == quiet(clone(model), X, y).coef_.shape


@pytest.mark.parametrize("model", EVERY, ids=str)
def test_restore_best_without_validation_data_keeps_the_least_objective(model):
    X, y = standardised(model)
    plain = quiet(clone(model).set_params(random_state=0, max_iter=100), X, y)
    best = quiet(clone(plain).set_params(restore_best=True), X, y)
    assert best.best_iter_ == best.objective_curve_.argmin() + 1
    assert best.coef_.shape == plain.coef_.shape
    if model.learning_rate == "auto":
        objective = loss_and_objective(best, X, y)[1]
        np.testing.assert_allclose(objective, best.objective_curve_.min(), rtol=1e-6)


def test_restored_average_is_that_of_its_epoch():
    model = SGDLossClassifier("log_loss", learning_rate="constant", average=True, tol=None, shuffle=False)
    X, y = standardised(model)
    model.set_params(max_iter=30, restore_best=True).fit(X[:100], y[:100], X_val=X[100:], y_val=y[100:])
    shorter = clone(model).set_params(max_iter=model.best_iter_, restore_best=False).fit(X[:100], y[:100])
    np.testing.assert_allclose(model.coef_, shorter.coef_, rtol=1e-10)
    np.testing.assert_allclose(model.intercept_, shorter.intercept_, rtol=1e-10)


@pytest.mark.parametrize("learning_rate", ["auto", "optimal"])
def test_bad_validation_data_of_a_classifier(learning_rate):
    model = SGDLossClassifier("log_loss", learning_rate=learning_rate)
    X, y = standardised(model)
    names = np.array(["a", "b", "c"])[y]
    with pytest.raises(ValueError, match=r"is not in classes"):
        model.fit(X, y, X_val=X, y_val=y + 1)
    with pytest.raises(ValueError, match=r"'z'.*is not in classes"):
        model.fit(X, names, X_val=X[:1], y_val=["z"])
    with pytest.raises(ValueError, match="X has 5 features, but SGDLossClassifier is expecting 6"):
        model.fit(X, y, X_val=X[:, :5], y_val=y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(X, y, X_val=X, y_val=y[1:])
    for arguments in ({"X_val": X}, {"y_val": y}):
        with pytest.raises(ValueError, match="X_val and y_val must be given together"):
            model.fit(X, y, **arguments)
    broken = X.copy()
    broken[3, 2] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        model.fit(X, y, X_val=broken, y_val=y)
    with pytest.raises(ValueError, match="Unknown label type"):
        model.fit(X, y, X_val=X, y_val=y + 0.5)
    with pytest.raises(NotFittedError):
        model.predict(X)


@pytest.mark.parametrize("learning_rate", ["auto", "invscaling"])
def test_bad_validation_data_of_a_regressor(learning_rate):
    model = SGDLossRegressor("poisson", learning_rate=learning_rate)
    X, y = standardised(model)
    with pytest.raises(ValueError, match="poisson"):
        model.fit(X, y, X_val=X, y_val=-y)
    with pytest.raises(ValueError, match=r"y_val has shape \(240, 2\), but y has shape \(240,\)"):
        model.fit(X, y, X_val=X, y_val=np.column_stack([y, y]))
    with pytest.raises(ValueError, match="X has 5 features, but SGDLossRegressor is expecting 6"):
        model.fit(X, y, X_val=X[:, :5], y_val=y)
    for arguments in ({"X_val": X}, {"y_val": y}):
        with pytest.raises(ValueError, match="X_val and y_val must be given together"):
            model.fit(X, y, **arguments)
    with pytest.raises(NotFittedError):
        model.predict(X)


def test_messages_about_validation_data_name_them():
    """A message about y[0] sends people to the wrong array."""
    X, y = standardised(SGDLossRegressor())
    with pytest.raises(ValueError, match=r"y_val\[0\]"):
        SGDLossRegressor("poisson").fit(X, y, X_val=X, y_val=-y)
    with pytest.raises(ValueError, match=r"y_val\[0\]"):
        SGDLossClassifier("log_loss").fit(X, y > 1, X_val=X[:2], y_val=[7, 7])


def test_validation_data_of_other_forms_give_the_same_curve():
    X, y = standardised(SGDLossClassifier(), n=300)
    X, y, X_val, y_val = X[:200], y[:200], X[200:], y[200:]
    names = np.array(["a", "b", "c"])
    model = SGDLossClassifier("cross_entropy")
    curve = model.fit(X, y, X_val=X_val, y_val=y_val).validation_curve_
    for data in (sp.csr_matrix(X_val), sp.csc_matrix(X_val), np.asfortranarray(X_val), X_val.tolist()):
        np.testing.assert_allclose(model.fit(X, y, X_val=data, y_val=y_val).validation_curve_, curve)
    np.testing.assert_allclose(model.fit(sp.csr_matrix(X), y, X_val=X_val, y_val=y_val).validation_curve_, curve)
    np.testing.assert_allclose(model.fit(X, names[y], X_val=X_val, y_val=names[y_val]).validation_curve_, curve)
    soft = model.fit(X, np.eye(3)[y], X_val=X_val, y_val=np.eye(3)[y_val])
    np.testing.assert_allclose(soft.validation_curve_[-1], curve[-1])
    narrow = model.fit(X.astype(np.float32), y, X_val=X_val, y_val=y_val)
    assert narrow.coef_.dtype == np.float32
    np.testing.assert_allclose(narrow.validation_curve_[-1], curve[-1], atol=0.02)
    # a class without validation rows is nothing to complain about
    assert len(model.fit(X, y, X_val=X_val[y_val == 1], y_val=y_val[y_val == 1]).validation_curve_)


def test_validation_data_do_not_change_the_model():
    for model in (SGDLossClassifier("log_loss"), SGDLossRegressor("huber"), SGDLossRegressor(learning_rate="adaptive")):
        X, y = standardised(model)
        plain = clone(model).set_params(random_state=0).fit(X, y)
        seen = clone(plain).fit(X, y, X_val=X[:50], y_val=y[:50])
        np.testing.assert_array_equal(plain.coef_, seen.coef_)
        assert plain.n_iter_ == seen.n_iter_


# -- early stopping --------------------------------------------------------------------------------------------


STOPPING = [
    SGDLossClassifier("log_loss", alpha=1e-9),
    SGDLossClassifier("cross_entropy", alpha=1e-9),
    SGDLossClassifier("hinge"),
    SGDLossRegressor("poisson", alpha=1e-9),
    SGDLossRegressor("quantile", quantile=[0.2, 0.7]),
    SGDLossClassifier("log_loss", learning_rate="constant", eta0=0.1),
    SGDLossRegressor("huber", learning_rate="invscaling"),
]


@pytest.mark.parametrize("model", STOPPING, ids=str)
def test_early_stopping_on_the_users_validation_data(model):
    X, y = standardised(model, n=300)
    model = clone(model).set_params(early_stopping=True, n_iter_no_change=2, tol=1e-3, max_iter=500, random_state=0)
    silently(model, X[:60], y[:60], X_val=X[60:], y_val=y[60:])
    curve = model.validation_curve_
    assert len(curve) == len(model.objective_curve_) < 500
    # either the last two passes were no better, by tol, than the best before, or it is the optimum
    stalled = len(curve) > 2 and (curve[-2:] < np.maximum.accumulate(curve)[-3:-1] + 1e-3).all()
    assert stalled or model.converged_


@pytest.mark.parametrize("model", STOPPING, ids=str)
def test_early_stopping_holds_rows_out(model):
    X, y = standardised(model, n=300)
    model = clone(model).set_params(early_stopping=True, validation_fraction=0.3, max_iter=500, random_state=3)
    silently(model, X, y)
    assert len(model.validation_curve_) == len(model.objective_curve_)
    again = clone(model).fit(X, y)
    np.testing.assert_array_equal(model.coef_, again.coef_)
    np.testing.assert_array_equal(model.validation_curve_, again.validation_curve_)


def test_the_optimum_never_sees_the_held_out_rows():
    from sklearn.model_selection import StratifiedShuffleSplit

    X, y = standardised(SGDLossClassifier())
    rows, others = next(StratifiedShuffleSplit(test_size=0.3, random_state=0).split(X, y))
    spoilt = X.copy()
    spoilt[others] = 1e6
    model = SGDLossClassifier("log_loss", early_stopping=True, validation_fraction=0.3, random_state=0)
    model.set_params(n_iter_no_change=1000).fit(spoilt, y)
    rows = np.sort(rows)
    np.testing.assert_array_equal(model.coef_, SGDLossClassifier("log_loss").fit(X[rows], y[rows]).coef_)


def test_with_the_users_validation_data_no_row_is_held_out():
    for model in (SGDLossClassifier("log_loss"), SGDLossClassifier("log_loss", learning_rate="optimal")):
        X, y = standardised(model)
        parameters = {"n_iter_no_change": 1000, "max_iter": 20, "random_state": 0}
        whole = quiet(clone(model).set_params(**parameters), X, y)
        seen = quiet(clone(model).set_params(early_stopping=True, **parameters), X, y, X_val=X, y_val=y)
        np.testing.assert_array_equal(whole.coef_, seen.coef_)


def test_early_stopping_and_restore_best_together():
    for learning_rate in ("auto", "constant"):
        model = SGDLossClassifier("log_loss", learning_rate=learning_rate, alpha=1e-9, early_stopping=True)
        X, y = standardised(model)
        model.set_params(restore_best=True, n_iter_no_change=3, random_state=0)
        silently(model, X[:40], y[:40], X_val=X[40:], y_val=y[40:])
        assert model.score(X[40:], y[40:]) == pytest.approx(model.validation_curve_.max())


def test_validation_weights_that_are_all_zero_are_an_error():
    X, y = standardised(SGDLossRegressor())
    weight = np.zeros(len(y))
    weight[0] = 1
    for learning_rate in ("auto", "invscaling"):
        with pytest.raises(ValueError, match="sample weights for validation set are all zero"):
            SGDLossRegressor(learning_rate=learning_rate, early_stopping=True, random_state=0).fit(
                X, y, sample_weight=weight
            )


# -- what is displayed, callbacks, interruptions ---------------------------------------------------------------


@pytest.mark.parametrize("model", [SGDLossClassifier("log_loss"), SGDLossRegressor("huber", learning_rate="constant")])
def test_validation_scores_are_displayed(model, capsys):
    X, y = standardised(model)
    model = quiet(clone(model).set_params(verbose=1, max_iter=40), X, y, X_val=X, y_val=y)
    output = capsys.readouterr()
    assert output.out == ""
    lines = output.err.splitlines()
    assert len(lines) == len(model.validation_curve_)
    assert all(f"validation {score:.6g}" in text for score, text in zip(model.validation_curve_, lines, strict=True))


def test_silent_by_default(capsys):
    for model in EVERY:
        quiet(clone(model).set_params(max_iter=5), *standardised(model))
    assert capsys.readouterr() == ("", "")


class Watcher:
    """A callback that keeps what it hears, and may ask for the end."""

    def __init__(self, stop_after=None):
        self.begun = self.ended = 0
        self.fitted, self.tasks = [], []
        self.stop_after = stop_after

    def setup(self, estimator, context):
        self.tasks.append("setup")

    def teardown(self, estimator, context):
        self.tasks.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        if context.task_name == "epoch":
            self.begun += 1

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        if context.task_name != "epoch":
            return False
        self.ended += 1
        self.fitted.append(fitted_estimator)
        return self.stop_after == self.ended


@need_callbacks
@pytest.mark.parametrize("model", EVERY, ids=str)
def test_callbacks_hear_of_every_epoch(model):
    X, y = standardised(model)
    watcher = Watcher()
    plain = quiet(clone(model).set_params(random_state=0, max_iter=60), X, y)
    model = quiet(clone(plain).set_callbacks(watcher), X, y)
    np.testing.assert_array_equal(model.coef_, plain.coef_)
    assert watcher.begun == watcher.ended == len(model.objective_curve_)
    assert watcher.tasks == ["setup", "teardown"]
    for seen in (watcher.fitted[0], watcher.fitted[-1]):
        assert seen.predict(X).shape == model.predict(X).shape
        assert seen.coef_.shape == model.coef_.shape
        assert (seen.coef_.dtype, seen.intercept_.dtype) == (model.coef_.dtype, model.intercept_.dtype)
    if model.learning_rate == "auto":
        np.testing.assert_allclose(watcher.fitted[-1].predict(X), model.predict(X), rtol=1e-4)


@need_callbacks
@pytest.mark.parametrize("model", EVERY, ids=str)
def test_a_callback_ends_the_fit(model):
    X, y = make_data(model)
    if model.learning_rate != "auto":
        X, y = standardised(model)
    whole = quiet(clone(model).set_params(random_state=0, max_iter=60), X, y)
    if len(whole.objective_curve_) < 3:
        pytest.skip("over before it could be stopped")
    watcher = Watcher(stop_after=2)
    model = silently(clone(whole).set_callbacks(watcher), X, y)
    assert watcher.ended == len(model.objective_curve_) == 2
    np.testing.assert_allclose(model.objective_curve_, whole.objective_curve_[:2], rtol=1e-12)
    np.testing.assert_allclose(model.predict(X), watcher.fitted[-1].predict(X))
    assert not model.converged_


@need_callbacks
@pytest.mark.parametrize("learning_rate", ["auto", "optimal"])
@pytest.mark.parametrize("scoring", ["neg_log_loss", "accuracy"])
def test_scoring_monitor(learning_rate, scoring):
    from sklearn.callback import ScoringMonitor

    model = SGDLossClassifier("log_loss", learning_rate=learning_rate, random_state=0, max_iter=60)
    X, y = standardised(model)
    monitor = ScoringMonitor(scoring=scoring)
    quiet(model.set_callbacks(monitor), X, y)
    rows = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(rows) == len(model.objective_curve_)
    assert rows[-1][scoring] > rows[0][scoring] or rows[0][scoring] > 0.9
    (last,) = (row for row in monitor.get_logs().data if row["task_name"] == "fit")
    expected = model.score(X, y)
    if scoring == "neg_log_loss":
        expected = np.log(model.predict_proba(X)[np.arange(len(y)), y]).mean()
    np.testing.assert_allclose(last[scoring], expected, rtol=1e-6)


@need_callbacks
def test_callbacks_reach_the_models_of_a_search():
    from sklearn.callback import ScoringMonitor

    X, y = standardised(SGDLossClassifier())
    monitor = ScoringMonitor(scoring="accuracy")
    model = SGDLossClassifier("log_loss", max_iter=40).set_callbacks(monitor)
    quiet(GridSearchCV(model, {"alpha": [1e-3, 1e-1]}, cv=2), X, y)
    names = {row["task_name"] for row in monitor.get_logs(select="all")[-1].data}
    assert "epoch" in names


@pytest.mark.parametrize(
    "model",
    [
        SGDLossClassifier("log_loss", alpha=1e-12),
        SGDLossClassifier("hinge", alpha=1e-9),
        SGDLossClassifier("cross_entropy", penalty="l1", alpha=1e-6),
        SGDLossRegressor("quantile", quantile=[0.1, 0.5, 0.9]),
        SGDLossRegressor("huber", positive=True),
    ],
    ids=str,
)
def test_control_c_ends_a_search_for_the_optimum(model):
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread only")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60_000, 100))
    y = X[:, :4].argmax(axis=1) if isinstance(model, SGDLossClassifier) else X[:, 0] + rng.standard_normal(60_000)
    model = quiet(clone(model).set_params(max_iter=5), X[:500], y[:500])
    before = pickle.dumps(vars(model))
    model.set_params(tol=None, max_iter=10**6)
    timer = threading.Timer(0.4, signal.raise_signal, [signal.SIGINT])
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert time.monotonic() - started < 1.4
    timer.join()
    model.set_params(tol=1e-3, max_iter=5)
    assert pickle.dumps(vars(model)) == before


# -- estimators among others -----------------------------------------------------------------------------------


def test_pickled_models_keep_their_record():
    for model in EVERY:
        X, y = standardised(model)
        quiet(clone(model), X, y)
        fitted = quiet(clone(model).set_params(max_iter=20), X, y, X_val=X, y_val=y)
        restored = pickle.loads(pickle.dumps(fitted))
        np.testing.assert_array_equal(restored.predict(X), fitted.predict(X))
        for name in (*CURVES, "validation_curve_"):
            np.testing.assert_array_equal(getattr(restored, name), getattr(fitted, name))
        assert (restored.best_iter_, restored.converged_) == (fitted.best_iter_, fitted.converged_)


def test_bounds_and_friends_are_cloned():
    bounds = (np.zeros(6), None)
    model = SGDLossRegressor(bounds=bounds, restore_best=True)
    copy = clone(model)
    assert copy.restore_best is True
    np.testing.assert_array_equal(copy.bounds[0], bounds[0])
    assert copy.bounds[1] is None
    assert clone(SGDLossClassifier(positive=True)).positive is True
    assert model.set_params(bounds=None, positive=True).get_params()["bounds"] is None


@config_context(enable_metadata_routing=True)
def test_weights_are_routed_through_a_pipeline():
    model = SGDLossClassifier("log_loss").set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    X, y = make_data(model)
    weight = np.random.default_rng(0).uniform(0, 2, len(y))
    scaler = StandardScaler().set_fit_request(sample_weight=True)
    pipeline = make_pipeline(scaler, model).fit(X, y, sample_weight=weight)
    scaled = StandardScaler().fit(X, sample_weight=weight).transform(X)
    direct = SGDLossClassifier("log_loss").fit(scaled, y, sample_weight=weight)
    np.testing.assert_array_equal(pipeline[-1].coef_, direct.coef_)
    scores = cross_validate(pipeline, X, y, params={"sample_weight": weight}, cv=3)
    assert (scores["test_score"] > 0.6).all()


@config_context(enable_metadata_routing=True)
def test_every_argument_of_fit_can_be_requested():
    assert SGDLossClassifier().set_fit_request(X_val=True, y_val=True, classes=False, intercept_init=True)
    assert SGDLossRegressor().set_fit_request(X_val=True, y_val=True, offset=True, coef_init=None)
    requests = SGDLossRegressor().set_fit_request(offset="exposure").get_metadata_routing()
    assert requests.fit.requests["offset"] == "exposure"


def test_data_frames_give_the_model_of_the_array():
    pd = pytest.importorskip("pandas")
    for model in (SGDLossClassifier("log_loss"), SGDLossRegressor("huber")):
        X, y = make_data(model)
        frame = pd.DataFrame(X, columns=list("abcdef"))
        named = clone(model).fit(frame, pd.Series(y), X_val=frame, y_val=pd.Series(y))
        np.testing.assert_array_equal(named.coef_, clone(model).fit(X, y).coef_)
        assert list(named.feature_names_in_) == list("abcdef")
        with pytest.raises(ValueError, match="feature names"):
            clone(model).fit(frame, y, X_val=frame[list("fedcba")], y_val=y)


@pytest.mark.parametrize("model", CLASSIFIERS + REGRESSORS, ids=str)
def test_threads_and_layouts_do_not_change_a_bit(model):
    rng = np.random.default_rng(0)
    X, y = make_data(model, n=5000)
    X = X * (rng.random(X.shape) < 0.5)
    model = clone(model).set_params(max_iter=30)
    for convert in (np.asarray, np.asfortranarray, sp.csr_matrix, sp.csc_matrix):
        one = quiet(clone(model).set_params(n_threads=1), convert(X), y)
        for n_threads in (2, 3, 4, None):
            other = quiet(clone(model).set_params(n_threads=n_threads), convert(X), y)
            np.testing.assert_array_equal(one.coef_, other.coef_)
            np.testing.assert_array_equal(one.intercept_, other.intercept_)
        if convert is np.asfortranarray:
            np.testing.assert_array_equal(one.coef_, quiet(clone(one), X, y).coef_)
        if convert is sp.csc_matrix:
            wide = sp.csr_matrix(X)
            wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
            np.testing.assert_array_equal(one.coef_, quiet(clone(one), wide, y).coef_)


@pytest.mark.parametrize("model", CLASSIFIERS + REGRESSORS, ids=str)
def test_untidy_csr_is_the_dense_matrix(model):
    rng = np.random.default_rng(0)
    X, y = make_data(model, n=300)
    X = X * (rng.random(X.shape) < 0.6)
    tidy = sp.coo_matrix(X)
    order = rng.permutation(2 * tidy.nnz)
    data = np.concatenate([0.25 * tidy.data, 0.75 * tidy.data])[order]
    rows, columns = np.tile(tidy.row, 2)[order], np.tile(tidy.col, 2)[order]
    by_row = np.argsort(rows, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(X)))])
    messy = sp.csr_matrix((data[by_row], columns[by_row], indptr), shape=X.shape)
    assert not messy.has_canonical_format
    before = messy.copy()
    dense = quiet(clone(model), X, y)
    sparse = quiet(clone(model), messy, y)
    np.testing.assert_array_equal(messy.data, before.data)
    np.testing.assert_array_equal(messy.indices, before.indices)
    expected = loss_and_objective(dense, X, y)[1]
    # each is within tol of the optimum
    np.testing.assert_allclose(loss_and_objective(sparse, X, y)[1], expected, rtol=2e-3)


@pytest.mark.parametrize("convert", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize(
    "model", [m for m in CLASSIFIERS + REGRESSORS if m.loss not in ("smooth_quantile",)][::2], ids=str
)
def test_float32_stays_float32(model, convert):
    X, y = make_data(model)
    X = convert(X.astype(np.float32))
    model = quiet(clone(model), X, y)
    arrays = [model.coef_, model.intercept_]
    if isinstance(model, SGDLossClassifier):
        arrays.append(model.decision_function(X))
        if hasattr(model, "predict_proba"):
            arrays.append(model.predict_proba(X))
    else:
        arrays.append(model.predict(X))
    assert {a.dtype for a in arrays} == {np.dtype(np.float32)}


def test_a_start_at_the_optimum_is_over_soon():
    for model in (SGDLossClassifier("log_loss"), SGDLossRegressor("log_cosh"), SGDLossClassifier("hinge", alpha=0.01)):
        X, y = make_data(model)
        cold = clone(model).fit(X, y)
        warm = clone(model).fit(X, y, coef_init=cold.coef_, intercept_init=cold.intercept_)
        assert warm.n_iter_ <= cold.n_iter_
        objective = loss_and_objective(cold, X, y)[1]
        assert loss_and_objective(warm, X, y)[1] <= objective * (1 + model.tol)
        again = cold.set_params(warm_start=True).fit(X, y)
        assert again.n_iter_ == warm.n_iter_


# -- constraints -----------------------------------------------------------------------------------------------


def test_non_negative_least_squares():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 20)) * np.logspace(-3, 3, 20)
    y = X @ (rng.standard_normal(20) / np.logspace(-3, 3, 20)) + rng.standard_normal(300)
    model = SGDLossRegressor(penalty=None, positive=True, fit_intercept=False, tol=1e-5).fit(X, y)
    reference = lsq_linear(X, y, (0, np.inf), tol=1e-13)
    assert (model.coef_ >= 0).all()
    np.testing.assert_allclose(0.5 * np.mean((y - X @ model.coef_) ** 2), reference.cost / 300, rtol=1e-3)
    assert model.converged_
    np.testing.assert_array_equal(model.coef_ == 0, reference.active_mask == -1)


BOUNDS = {
    "positive": {"positive": True},
    "box": {"bounds": (-0.05, 0.1)},
    "low": {"bounds": (-0.02, None)},
    "high": {"bounds": (None, np.linspace(-0.1, 0.4, 6))},
    "mixed": {"bounds": ([-np.inf, 0, 0, -0.1, 0.2, -1], [np.inf, 0, 1, 0.1, 0.2, 1])},
    "both": {"positive": True, "bounds": (-1, 0.05)},
}


def limits(parameters, d=6):
    low, high = parameters.get("bounds", (None, None))
    low = np.broadcast_to(-np.inf if low is None else low, d).astype(float)
    high = np.broadcast_to(np.inf if high is None else high, d).astype(float)
    return np.maximum(low, 0) if parameters.get("positive") else low, high


@pytest.mark.parametrize("which", BOUNDS)
@pytest.mark.parametrize("loss", ["log_loss", "squared_hinge", "squared_error", "log_cosh", "poisson", "cross_entropy"])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_bounds_against_scipy(loss, which, fit_intercept):
    parameters = BOUNDS[which]
    cls = SGDLossClassifier if fastloss.get_loss(loss).kind != "regression" else SGDLossRegressor
    X, y = make_data(cls(), scales=np.array([1, 3, 0.2, 2, 1, 0.5]))
    labels = y if loss == "cross_entropy" else np.where(y == 0, 1, -1) if cls is SGDLossClassifier else y
    model = cls(loss, alpha=1e-3, tol=1e-5, max_iter=5000, fit_intercept=fit_intercept, **parameters)
    model.fit(X, labels)
    low, high = limits(parameters)
    coef = np.atleast_2d(model.coef_)
    objective = fastloss.LinearObjective(X, labels, loss, alpha=1e-3, fit_intercept=fit_intercept)
    K = objective.n_scores
    free = np.full((K, int(fit_intercept)), np.inf)
    low, high = (np.hstack([np.tile(side, (K, 1)), sign * free]).ravel() for side, sign in ((low, -1), (high, 1)))
    options = {"ftol": 0, "gtol": 1e-12, "maxiter": 20_000, "maxfun": 10**6}
    start = np.clip(objective.initial, low, high)
    reference = minimize(
        objective, start, jac=True, method="L-BFGS-B", bounds=np.column_stack([low, high]), options=options
    )
    found = np.hstack([coef, model.intercept_[:, None]]) if fit_intercept else coef
    np.testing.assert_allclose(objective(found.ravel())[0], reference.fun, rtol=1e-3)
    assert model.converged_
    # to the bit: who asks for a bound may go on to take a root of the distance from it
    assert (found.ravel() >= low).all()
    assert (found.ravel() <= high).all()


@pytest.mark.parametrize("parameters", [{"positive": True}, {"bounds": (-0.1, 0.2)}])
def test_bounds_of_absolute_errors_against_a_linear_programme(parameters):
    X, y = make_data(SGDLossRegressor(), n=150)
    model = SGDLossRegressor("absolute_error", penalty=None, **parameters).fit(X, y)
    n, d = X.shape
    low, high = limits(parameters)
    # residual = over - under, both >= 0
    A = np.hstack([X, np.ones((n, 1)), np.eye(n), -np.eye(n)])
    cost = np.concatenate([np.zeros(d + 1), np.full(2 * n, 1 / n)])
    box = [*zip(low, np.where(np.isinf(high), None, high), strict=True), (None, None), *[(0, None)] * (2 * n)]
    reference = linprog(cost, A_eq=A, b_eq=y, bounds=box)
    np.testing.assert_allclose(np.abs(y - model.predict(X)).mean(), reference.fun, rtol=2e-3)
    assert ((model.coef_ >= low) & (model.coef_ <= high)).all()


def test_bounds_hold_in_float32_and_for_every_output():
    X, y = make_data(SGDLossRegressor())
    high = np.float64(0.1)  # float32 rounds it upwards
    model = SGDLossRegressor("huber", bounds=(-high, high)).fit(X.astype(np.float32), np.column_stack([y, -y]))
    assert model.coef_.shape == (2, 6)
    assert (np.abs(model.coef_) <= np.float32(high)).all()
    assert (np.abs(model.coef_) == np.float32(high)).any()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"bounds": 3}, "bounds must be None or "),
        ({"bounds": (0, 1, 2)}, "bounds must be None or "),
        ({"bounds": ("a", "b")}, "bounds must be None or "),
        ({"bounds": (np.zeros(5), None)}, "bounds must be None or .* 6 numbers"),
        ({"bounds": (np.nan, 1)}, "least <= greatest"),
        ({"bounds": (1, 0)}, "least <= greatest"),
        ({"bounds": (None, -1), "positive": True}, "least <= greatest"),
        ({"bounds": (np.inf, None)}, "bounds"),
        ({"bounds": (None, -np.inf)}, "bounds"),
        ({"positive": 1}, "positive must be True or False"),
        ({"restore_best": "yes"}, "restore_best must be True or False"),
        ({"bounds": (0, 1), "learning_rate": "constant"}, "bounds needs learning_rate='auto'"),
        ({"positive": True, "learning_rate": "adaptive"}, "positive needs learning_rate='auto'"),
        ({"positive": True, "loss": "perceptron"}, "positive"),
    ],
)
def test_bad_constraints_are_named(parameters, message):
    model = SGDLossClassifier()
    X, y = make_data(model)
    with pytest.raises((ValueError, TypeError), match=message):
        model.set_params(**parameters).fit(X, y)
    assert not hasattr(model, "coef_")


# -- L1 --------------------------------------------------------------------------------------------------------


def sparse_truth(n=400, d=30, seed=0):
    """Targets of which only five columns know anything."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * np.logspace(-1, 1, d)
    signal = (X / np.logspace(-1, 1, d))[:, ::6] @ [2.0, -1.5, 1.0, 2.0, -1.0]
    return X, signal + 0.5 * rng.standard_normal(n)


@pytest.mark.parametrize("alpha", [1e-3, 0.05, 0.5])
@pytest.mark.parametrize("penalty", ["l1", "elasticnet"])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("convert", [np.asarray, sp.csr_matrix])
def test_l1_least_squares_against_coordinate_descent(alpha, penalty, positive, convert):
    X, y = sparse_truth()
    model = SGDLossRegressor(penalty=penalty, alpha=alpha, l1_ratio=0.4, positive=positive, tol=1e-6, max_iter=20_000)
    model.fit(convert(X), y)
    how = {"alpha": alpha, "positive": positive, "tol": 1e-12, "max_iter": 10**6}
    reference = (Lasso(**how) if penalty == "l1" else ElasticNet(l1_ratio=0.4, **how)).fit(X, y)
    reference._losses, reference.penalty, reference.l1_ratio = model._losses, penalty, 0.4
    best = loss_and_objective(reference, X, y)[1]
    assert loss_and_objective(model, X, y)[1] <= best * (1 + 1e-3)
    assert loss_and_objective(model, X, y)[1] >= best * (1 - 1e-9)
    if alpha > 1e-3:
        np.testing.assert_array_equal(model.coef_ == 0, reference.coef_ == 0)


@pytest.mark.parametrize("solver", ["saga", "liblinear"])
def test_l1_logistic_regression_against_scikit_learn(solver):
    X, y = sparse_truth()
    X = StandardScaler().fit_transform(X)
    y = (y > 0.3).astype(int)
    alpha, fit_intercept = 0.02, solver == "saga"  # liblinear penalises the intercept
    model = SGDLossClassifier("log_loss", penalty="l1", alpha=alpha, fit_intercept=fit_intercept, tol=1e-6).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # how L1 is asked for depends on the version
        reference = LogisticRegression(
            penalty="l1", C=1 / (len(y) * alpha), solver=solver, fit_intercept=fit_intercept, tol=1e-10, max_iter=10**5
        ).fit(X, y)
    signs = 2.0 * y - 1

    def objective(fitted):
        raw = X @ fitted.coef_[0] + fitted.intercept_
        return np.logaddexp(0, -signs * raw).mean() + alpha * np.abs(fitted.coef_).sum()

    np.testing.assert_allclose(objective(model), objective(reference), rtol=1e-3)
    np.testing.assert_array_equal(model.coef_ == 0, reference.coef_ == 0)
    assert 3 <= (model.coef_ != 0).sum() < 20


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge", "cross_entropy", "multiclass_hinge"])
def test_l1_gives_true_zeros(loss):
    X, y = sparse_truth()
    X = StandardScaler().fit_transform(X)
    model = SGDLossClassifier(loss, penalty="l1", alpha=0.05).fit(X, np.digitize(y, [-1, 1]))
    useless = np.delete(np.arange(30), np.arange(0, 30, 6))
    assert (model.coef_[:, useless] == 0).mean() > 0.5
    assert (model.coef_[:, ::6] != 0).any(axis=0).all()
    assert not np.signbit(model.coef_[model.coef_ == 0]).any()  # no -0.0 either


def test_so_much_l1_that_nothing_is_left():
    X, y = sparse_truth()
    model = SGDLossRegressor(penalty="l1", alpha=1e6).fit(X, y)
    np.testing.assert_array_equal(model.coef_, 0)
    np.testing.assert_allclose(model.intercept_, y.mean())
    assert model.converged_
