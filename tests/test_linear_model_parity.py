"""With the same parameters and ``shuffle=False``, float64 coefficients follow scikit-learn 1.9 to 1e-10.

Dense: every shared loss x every penalty x schedule x average x intercept x weights x stopping rule.  CSR: only without
intercept, without L1 and with ``tol=None``, because scikit-learn's stopping rule there sees the wrong norm of the
coefficients (only the current sample's features), and its L1 penalty does not reach the others; `test_linear_model`
says what ours does instead.

The data are continuous, so no margin is exactly 1 and no residual exactly epsilon after the first step: at such kinks
fastloss takes the subgradient of smallest norm, scikit-learn the steep side.

Not compared: ``learning_rate="auto"``, our default, finds the optimum and follows nobody.

The steps fit the data, so that rounding errors are not amplified.  Where they do not (the default "optimal" schedule
begins with steps of length 10; on standardised columns the first updates of log_loss or huber expand), a trajectory is
chaotic, and scikit-learn does not follow itself either: with the columns of breast_cancer in reverse order its
coefficients change by 1e-2 (log_loss) and 3e-1 (huber), relative.
"""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import SGDClassifier, SGDRegressor

from fastloss import SGDLossClassifier, SGDLossRegressor

pytestmark = pytest.mark.skipif(
    not sklearn.__version__.startswith("1.9."),
    reason=f"trajectories are those of scikit-learn 1.9, not {sklearn.__version__}",
)

REGRESSION = ["squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive"]
BINARY = ["hinge", "squared_hinge", "perceptron", "log_loss", "modified_huber"]
SCHEDULES = ["constant", "optimal", "invscaling", "adaptive"]
PASSIVE_LOSS = {"classifier": "hinge", "regressor": "epsilon_insensitive"}
TOLERANCE = 1e-10


def make_data(task, seed=0, n=160, d=7, n_classes=2):
    """Columns of size about 0.3: with the steps used here no loss diverges, so rounding errors stay rounding errors."""
    rng = np.random.default_rng(seed)
    X = 0.3 * rng.standard_normal((n, d)) + 0.1
    scores = X @ rng.standard_normal((d, n_classes)) + 0.3 * rng.standard_normal((n, n_classes))
    y = scores[:, 0] + 0.2 if task == "regressor" else scores.argmax(axis=1)
    return X, y, rng.uniform(0.2, 2.0, n)


DEFAULT = {SGDLossClassifier: "optimal", SGDLossRegressor: "invscaling"}
"""scikit-learn's default schedules: ours is the optimum itself."""


def fit_both(task, loss, X, y, sample_weight=None, **parameters):
    """The two fitted estimators; whether the epochs ran out is not the question here."""
    ours, theirs = (SGDLossClassifier, SGDClassifier) if task == "classifier" else (SGDLossRegressor, SGDRegressor)
    parameters = {"alpha": 0.02, "eta0": 0.05, "shuffle": False, "epsilon": 0.15, **parameters}
    parameters.setdefault("learning_rate", DEFAULT[ours])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return (
            ours(loss=loss, **parameters).fit(X, y, sample_weight=sample_weight),
            theirs(loss=loss, **parameters).fit(X, y, sample_weight=sample_weight),
        )


def difference(ours, theirs):
    """Largest difference of a coefficient or intercept, relative to the largest coefficient."""
    a = np.append(ours.coef_.ravel(), ours.intercept_)
    b = np.append(theirs.coef_.ravel(), theirs.intercept_)
    assert a.dtype == np.float64
    assert ours.coef_.shape == theirs.coef_.shape
    assert ours.intercept_.shape == theirs.intercept_.shape
    return np.abs(a - b).max() / np.abs(b).max()


def assert_follows(ours, theirs):
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.t_ == theirs.t_
    assert np.abs(theirs.coef_).max() > 1e-3
    assert difference(ours, theirs) < TOLERANCE


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("task", "loss"), [("classifier", x) for x in BINARY + REGRESSION] + [("regressor", x) for x in REGRESSION]
)
@pytest.mark.parametrize("penalty", ["l2", None])
def test_dense_follows_scikit_learn(task, loss, schedule, penalty):
    X, y, weight = make_data(task)
    for fit_intercept in (True, False):
        for sample_weight in (None, weight):
            for stop in ({"tol": 1e-4, "max_iter": 300}, {"tol": None, "max_iter": 11}):
                assert_follows(
                    *fit_both(
                        task,
                        loss,
                        X,
                        y,
                        sample_weight,
                        fit_intercept=fit_intercept,
                        learning_rate=schedule,
                        penalty=penalty,
                        **stop,
                    )
                )


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("task", "loss"), [("classifier", x) for x in BINARY + REGRESSION] + [("regressor", x) for x in REGRESSION]
)
@pytest.mark.parametrize("penalty", ["l1", "elasticnet", "l2"])
def test_penalties_averages_and_early_stopping_follow_scikit_learn(task, loss, schedule, penalty):
    for n_classes in (2, 3) if task == "classifier" else (2,):
        X, y, weight = make_data(task, n_classes=n_classes)
        for average, sample_weight in ((False, None), (False, weight), (True, weight), (100, None)):
            for early_stopping in (False, True):
                for stop in ({"tol": 1e-3, "max_iter": 25}, {"tol": None, "max_iter": 7}):
                    parameters = {
                        "learning_rate": schedule,
                        "penalty": penalty,
                        "average": average,
                        "early_stopping": early_stopping,
                        "random_state": 3,
                        **stop,
                    }
                    ours, theirs = fit_both(task, loss, X, y, sample_weight, **parameters)
                    assert (ours.n_iter_, ours.t_) == (theirs.n_iter_, theirs.t_)
                    assert difference(ours, theirs) < TOLERANCE


@pytest.mark.parametrize("schedule", ["pa1", "pa2"])
@pytest.mark.parametrize("task", ["classifier", "regressor"])
@pytest.mark.parametrize("penalty", ["l1", "elasticnet", "l2", None])
def test_passive_aggressive_follows_scikit_learn(task, schedule, penalty):
    """Few epochs: these steps do not shrink, so that rounding errors grow (scikit-learn's as well, see above)."""
    for n_classes in (2, 3) if task == "classifier" else (2,):
        X, y, weight = make_data(task, n_classes=n_classes)
        X[[3, 50]] = 0  # rows that "pa1" leaves out, without counting them
        for average in (False, True):
            for sample_weight in (None, weight):
                parameters = {
                    "learning_rate": schedule,
                    "penalty": penalty,
                    "average": average,
                    "max_iter": 3,
                    "tol": 1e-3,
                }
                assert_follows(*fit_both(task, PASSIVE_LOSS[task], X, y, sample_weight, **parameters))


@pytest.mark.parametrize("schedule", [*SCHEDULES, "pa1", "pa2"])
@pytest.mark.parametrize("task", ["classifier", "regressor"])
@pytest.mark.parametrize("average", [False, 40])
@pytest.mark.parametrize("penalty", ["l2", None])
def test_partial_fit_follows_scikit_learn(task, schedule, penalty, average):
    X, y, weight = make_data(task)
    ours, theirs = (SGDLossClassifier, SGDClassifier) if task == "classifier" else (SGDLossRegressor, SGDRegressor)
    parameters = {
        "alpha": 0.02,
        "eta0": 0.05,
        "shuffle": False,
        # scikit-learn's classifier forgets, between calls, the intercept that its average is made from
        "fit_intercept": task == "regressor" or not average,
        "loss": PASSIVE_LOSS[task],
        "learning_rate": schedule,
        "penalty": penalty,
        "average": average,
    }
    ours, theirs = ours(**parameters), theirs(**parameters)
    first = {"classes": [0, 1]} if task == "classifier" else {}
    for rows in (slice(0, 30), slice(30, 31), slice(31, 110), slice(110, 160)):
        ours.partial_fit(X[rows], y[rows], sample_weight=weight[rows], **first)
        theirs.partial_fit(X[rows], y[rows], sample_weight=weight[rows], **first)
        assert_follows(ours, theirs)


@pytest.mark.parametrize("loss", ["hinge", "log_loss"])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 0.5, 1: 3.0, 2: 1.25}])
def test_one_vs_rest_follows_scikit_learn(loss, class_weight):
    X, y, weight = make_data("classifier", n_classes=3)
    for sample_weight in (None, weight):
        assert_follows(*fit_both("classifier", loss, X, y, sample_weight, class_weight=class_weight, tol=1e-4))


@pytest.mark.parametrize("class_weight", ["balanced", {0: 0.5, 1: 3.0}])
def test_class_weight_follows_scikit_learn(class_weight):
    X, y, weight = make_data("classifier")
    assert_follows(*fit_both("classifier", "log_loss", X, y, weight, class_weight=class_weight))


def test_other_powers_and_default_parameters_follow_scikit_learn():
    X, y, _ = make_data("regressor")
    for power_t in (0.0, 0.25, 0.5, 0.6, 1.0):
        assert_follows(*fit_both("regressor", "huber", X, y, learning_rate="invscaling", power_t=power_t))
    ours = SGDLossRegressor(shuffle=False, learning_rate="invscaling").fit(X, y)
    assert_follows(ours, SGDRegressor(shuffle=False).fit(X, y))
    X, y, _ = make_data("classifier")
    ours = SGDLossClassifier(shuffle=False, learning_rate="optimal").fit(X, y)
    assert_follows(ours, SGDClassifier(shuffle=False).fit(X, y))


def test_start_values_follow_scikit_learn():
    X, y, _ = make_data("regressor")
    init = {"coef_init": np.linspace(-1, 1, X.shape[1]), "intercept_init": [0.7]}
    parameters = {"shuffle": False, "tol": None, "max_iter": 3, "learning_rate": "invscaling"}
    assert_follows(SGDLossRegressor(**parameters).fit(X, y, **init), SGDRegressor(**parameters).fit(X, y, **init))


@pytest.mark.parametrize("alpha", [0.5, 5.0])
def test_strong_penalty_folds_the_scale_as_scikit_learn_does(alpha):
    """The scale of the weight vector shrinks below its smallest value, or to zero, many times per epoch."""
    X, y, _ = make_data("regressor")
    for eta0 in (0.3, 1.9):
        for tol in (None, 1e-4):
            assert_follows(
                *fit_both(
                    "regressor", "huber", X, y, alpha=alpha, eta0=eta0, learning_rate="constant", tol=tol, max_iter=20
                )
            )


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("task", "loss"), [("classifier", x) for x in BINARY] + [("regressor", x) for x in REGRESSION])
def test_csr_follows_scikit_learn(task, loss, schedule):
    X, y, weight = make_data(task, d=20)
    X[np.random.default_rng(1).random(X.shape) < 0.7] = 0
    parameters = {"fit_intercept": False, "tol": None, "max_iter": 11, "learning_rate": schedule}
    for sample_weight in (None, weight):
        assert_follows(*fit_both(task, loss, sp.csr_matrix(X), y, sample_weight, **parameters))


def test_csr_intercept_decay_follows_scikit_learn():
    X, y, _ = make_data("classifier", d=20)
    for average in (False, True, 200):
        parameters = {"tol": None, "max_iter": 11, "average": average}
        assert_follows(*fit_both("classifier", "log_loss", sp.csr_matrix(X), y, **parameters))


def test_csr_early_stopping_follows_scikit_learn():
    X, y, _ = make_data("regressor", d=20)
    parameters = {"tol": 1e-3, "early_stopping": True, "random_state": 1}
    assert_follows(*fit_both("regressor", "huber", sp.csr_matrix(X), y, **parameters))
