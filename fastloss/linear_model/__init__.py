"""Linear models with scikit-learn's face, trained on any loss.

Order of reading: `fit` of an estimator (`classifier`, `regressor`), `problem`, `_fit_problem` and `_store` of `base`,
`schedules`.
"""

from fastloss.linear_model.classifier import SGDLossClassifier
from fastloss.linear_model.regressor import SGDLossRegressor

__all__ = ["SGDLossClassifier", "SGDLossRegressor"]
