"""SGDLossRegressor."""

from __future__ import annotations

import numpy as np
from sklearn.base import RegressorMixin

from fastloss._kernels.sgd import check_targets
from fastloss.linear_model.base import BaseSGD
from fastloss.linear_model.checks import start_values
from fastloss.losses import Loss, list_losses

# Regression losses not offered by name: msle's domain (raw > -1) is no natural one for a linear model.
REGRESSOR_EXCLUDED_LOSSES = ("msle",)


class SGDLossRegressor(RegressorMixin, BaseSGD):
    """Linear regression trained by stochastic gradient descent, with any regression loss.

    Minimises ``mean(loss(y, X @ coef + intercept)) + alpha/2 * ||coef||**2`` one sample at a time.  The parameters are
    those of scikit-learn's ``SGDRegressor``; with ``shuffle=False`` float64 coefficients follow it to rounding on dense
    data.

    Parameters
    ----------
    loss : str or Loss, default="squared_error"
        A regression or count loss, see ``fastloss.list_losses("regression")``; "msle" only as an object.
    penalty : {"l2", None}, default="l2"
        Whether ``alpha/2 * ||coef||**2`` is added to the objective.  The intercept is never penalised.
    alpha : float, default=0.0001
        Strength of the penalty, >= 0; also sets the step size of ``learning_rate="optimal"`` (then > 0).
    fit_intercept : bool, default=True
        Whether to train an intercept.  On CSR data its steps are a hundredth as long, as scikit-learn's are.
    max_iter : int, default=1000
        Largest number of epochs (passes over X).
    tol : float or None, default=1e-3
        An epoch that does not lower the best mean objective so far by `tol` is a stall.  None: always `max_iter`
        epochs.
    shuffle : bool, default=True
        Whether every epoch visits the rows in a fresh random order, else in storage order.
    verbose : int, default=0
        1 prints a line per epoch.
    epsilon : float, default=0.1
        ``delta`` of "huber"; ``epsilon`` of "epsilon_insensitive" and "squared_epsilon_insensitive".  In y's units.
    quantile : float, default=0.5
        The quantile that "quantile" and "smooth_quantile" estimate.
    loss_params : dict or None, default=None
        Parameters of a loss given by name, for instance ``{"power": 1.9}`` for "tweedie"; wins over `epsilon` and
        `quantile`.
    random_state : int, RandomState instance or None, default=None
        Seeds the row order.
    learning_rate : {"invscaling", "constant", "optimal", "adaptive"}, default="invscaling"
        Step size of update t (t = 1, 2, ... over all epochs): "constant" `eta0`; "optimal"
        ``1 / (alpha * (t0 + t - 1))`` with t0 such that the first one is ``alpha ** -0.25``; "invscaling"
        ``eta0 / t**power_t``; "adaptive" `eta0`, divided by 5 whenever training would stop, until it is below 1e-6.
    eta0 : float, default=0.01
        See `learning_rate`; > 0.
    power_t : float, default=0.25
        See `learning_rate`.
    n_iter_no_change : int, default=5
        Number of stalls in a row that end training.
    n_threads : int or None, default=None
        Accepted as everywhere in fastloss; a single weight vector is trained by one thread.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,)
        Coefficients, in X's dtype.
    intercept_ : ndarray of shape (1,)
        Intercept, in X's dtype.
    n_iter_ : int
        Epochs run.
    t_ : float
        ``1 + n_iter_ * n_samples``.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of str
        Names of those columns, when X had names.

    Examples
    --------
    >>> import numpy as np
    >>> from fastloss import SGDLossRegressor
    >>> X = np.linspace(-1, 1, 200).reshape(-1, 1)
    >>> model = SGDLossRegressor(loss="huber", epsilon=1.0, tol=1e-6, random_state=0).fit(X, 3 * X[:, 0] + 1)
    >>> float(np.round(model.predict([[0.5]])[0], 1))
    2.5
    """

    def __init__(
        self,
        loss="squared_error",
        *,
        penalty="l2",
        alpha=0.0001,
        fit_intercept=True,
        max_iter=1000,
        tol=1e-3,
        shuffle=True,
        verbose=0,
        epsilon=0.1,
        quantile=0.5,
        loss_params=None,
        random_state=None,
        learning_rate="invscaling",
        eta0=0.01,
        power_t=0.25,
        n_iter_no_change=5,
        n_threads=None,
    ):
        self.loss = loss
        self.penalty = penalty
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol
        self.shuffle = shuffle
        self.verbose = verbose
        self.epsilon = epsilon
        self.quantile = quantile
        self.loss_params = loss_params
        self.random_state = random_state
        self.learning_rate = learning_rate
        self.eta0 = eta0
        self.power_t = power_t
        self.n_iter_no_change = n_iter_no_change
        self.n_threads = n_threads

    @staticmethod
    def _loss_names() -> tuple[str, ...]:
        return tuple(name for name in list_losses("regression") if name not in REGRESSOR_EXCLUDED_LOSSES)

    @staticmethod
    def _accepts(loss: Loss) -> bool:
        return loss.kind == "regression"

    def fit(self, X, y, coef_init=None, intercept_init=None, sample_weight=None):
        """Train on X and y from scratch, or from given start values.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Dense rows or CSR (other sparse formats are converted); float32 and float64 are used as they are.
        y : array-like of shape (n_samples,)
            Targets, in the domain of the loss ("poisson": >= 0, ...).
        coef_init : array-like of shape (n_features,), default=None
            Start values of the coefficients; None: zeros.
        intercept_init : array-like of shape (1,), default=None
            Start value of the intercept; None: zero.
        sample_weight : array-like of shape (n_samples,), default=None
            Factors >= 0 on the samples' steps; not in the objective that `tol` looks at.

        Returns
        -------
        self : SGDLossRegressor

        Raises
        ------
        ValueError
            Bad parameter or data (the message names it), or the coefficients overflowed.

        Warns
        -----
        ConvergenceWarning
            The fit diverged, or `max_iter` epochs were not enough.
        """
        self._check_parameters()
        loss = self._make_loss()
        X, y = self._check_training_data(X, y)
        y = np.ascontiguousarray(y, dtype=X.dtype)
        check_targets(loss._kernel, y)
        coef = start_values("coef_init", coef_init, (1, X.shape[1]), X.dtype)
        intercept = start_values("intercept_init", intercept_init, (1,), X.dtype)
        progress = self._train(X, y, sample_weight, coef, intercept, loss=loss)
        self._store(progress, X.shape[0], loss, coef_=coef[0], intercept_=intercept)
        return self

    def predict(self, X):
        """What the loss estimates (mean, median, quantile, expected count, ...).

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,)
            In X's dtype; for losses with a log link ("poisson", "gamma", ...) on the scale of y, not of its logarithm.
        """
        scores = np.ascontiguousarray(self._scores(X)[:, 0])
        return self._fitted_loss.predict(scores)
