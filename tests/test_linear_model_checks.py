"""scikit-learn's own checks of an estimator's behaviour, over several configurations."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from fastloss import SGDLossClassifier, SGDLossRegressor
from fastloss.losses import Huber

REASON = (
    "under explicit step-size schedules a row of weight 0 still advances the schedule and the row order, and one of "
    "weight 2 is one long step instead of two: scikit-learn lists these two checks as expected failures of SGD as well"
)


EARLY = "scikit-learn demands (in test_sgd.py) that partial_fit with early_stopping=True is an error"


def expected_failures(estimator):
    early = dict.fromkeys(
        ["check_fit_score_takes_y", "check_n_features_in_after_fitting", "check_estimators_partial_fit_n_features"],
        EARLY,
    )
    return {
        **(early if estimator.early_stopping else {}),
        "check_sample_weight_equivalence_on_dense_data": REASON,
        "check_sample_weight_equivalence_on_sparse_data": REASON,
    }


@parametrize_with_checks(
    [
        SGDLossClassifier(),
        SGDLossClassifier(penalty="l1", average=True),
        SGDLossClassifier(loss="log_loss", penalty="elasticnet", early_stopping=True, validation_fraction=0.3),
        SGDLossClassifier(loss="cross_entropy", batch_size=4, learning_rate="adaptive", eta0=0.1),
        SGDLossClassifier(loss="multiclass_hinge", learning_rate="invscaling", eta0=0.1),
        SGDLossClassifier(learning_rate="pa1", eta0=1.0),
        SGDLossClassifier(loss="log_loss", class_weight="balanced", n_threads=2),
        SGDLossClassifier(loss="modified_huber", learning_rate="adaptive", eta0=0.1),
        SGDLossRegressor(),
        SGDLossRegressor(penalty="l1", average=True, learning_rate="constant", eta0=1e-3),
        SGDLossRegressor(loss="epsilon_insensitive", penalty="elasticnet", early_stopping=True),
        SGDLossRegressor(loss="epsilon_insensitive", learning_rate="pa2", batch_size=1),
        SGDLossRegressor(loss="quantile", quantile=0.5, batch_size=8),
        SGDLossRegressor(loss=Huber(delta=1.0), learning_rate="constant", penalty=None),
        SGDLossRegressor(loss="quantile", quantile=0.5, learning_rate="adaptive", eta0=0.1),
    ],
    expected_failed_checks=expected_failures,
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)
