"""SGDLossClassifier."""

from __future__ import annotations

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils import compute_class_weight
from sklearn.utils.metaestimators import available_if

from fastloss.linear_model.base import BaseSGD
from fastloss.linear_model.checks import encode_labels, start_values
from fastloss.losses import Loss, list_losses

# Regression losses that are of use on targets -1 and +1 (scikit-learn's classifier offers the same four).
CLASSIFIER_REGRESSION_LOSSES = ("squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive")

# squared_hinge could give (raw + 1)/2, but scikit-learn's classifier does not, and scorers and ensembles take another
# path where predict_proba exists.
WITHOUT_PROBABILITY = ("squared_hinge",)


def _has_probability(estimator: SGDLossClassifier) -> bool:
    """For `available_if`: names the loss when it has none."""
    loss = estimator._make_loss()
    only_the_side = loss.link == "sign" and type(loss)._estimate is Loss._estimate
    if loss.kind != "binary" or only_the_side or loss.name in WITHOUT_PROBABILITY:
        raise AttributeError(f"{type(estimator).__name__} has no probabilities with loss={estimator.loss!r}")
    return True


class SGDLossClassifier(ClassifierMixin, BaseSGD):
    """Linear classifier trained by stochastic gradient descent, with any binary loss.

    Minimises ``mean(loss(y, X @ coef + intercept)) + alpha/2 * ||coef||**2`` one sample at a time.  With more than two
    classes it trains one model per class against all others (one-vs-rest).  The parameters are those of scikit-learn's
    ``SGDClassifier``; with ``shuffle=False`` float64 coefficients follow it to rounding on dense data.

    Parameters
    ----------
    loss : str or Loss, default="hinge"
        A binary loss (see ``fastloss.list_losses("binary")``), or one of "squared_error", "huber",
        "epsilon_insensitive", "squared_epsilon_insensitive", which then see targets -1 and +1.
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
        1 prints a line per epoch and model.
    epsilon : float, default=0.1
        ``delta`` of "huber"; ``epsilon`` of "epsilon_insensitive" and "squared_epsilon_insensitive".
    loss_params : dict or None, default=None
        Parameters of a loss given by name, for instance ``{"gamma": 1.0}`` for "focal"; wins over `epsilon`.
    n_jobs : int or None, default=None
        Accepted for compatibility and ignored; see `n_threads`.
    random_state : int, RandomState instance or None, default=None
        Seeds the row order.
    learning_rate : {"optimal", "constant", "invscaling", "adaptive"}, default="optimal"
        Step size of update t (t = 1, 2, ... over all epochs): "constant" `eta0`; "optimal"
        ``1 / (alpha * (t0 + t - 1))`` with t0 such that the first one is ``alpha ** -0.25``; "invscaling"
        ``eta0 / t**power_t``; "adaptive" `eta0`, divided by 5 whenever training would stop, until it is below 1e-6.
    eta0 : float, default=0.01
        See `learning_rate`; > 0.
    power_t : float, default=0.5
        See `learning_rate`.
    n_iter_no_change : int, default=5
        Number of stalls in a row that end training.
    class_weight : dict, "balanced" or None, default=None
        Factor on the steps of a class's samples; "balanced" is ``n_samples / (n_classes * count)``.
    n_threads : int or None, default=None
        Threads for the models of a one-vs-rest fit; None: as many as useful.  The result does not depend on it.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Coefficients, in X's dtype.
    intercept_ : ndarray of shape (1,) or (n_classes,)
        Intercepts, in X's dtype.
    classes_ : ndarray of shape (n_classes,)
        Class labels; with two, the second is the positive one.
    n_iter_ : int
        Epochs run; with several models the largest number.
    t_ : float
        ``1 + n_iter_ * n_samples``.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of str
        Names of those columns, when X had names.

    Examples
    --------
    >>> import numpy as np
    >>> from fastloss import SGDLossClassifier
    >>> X = np.array([[-1.0, -1.0], [-2.0, -1.0], [1.0, 1.0], [2.0, 1.0]])
    >>> model = SGDLossClassifier(loss="log_loss", random_state=0).fit(X, ["no", "no", "yes", "yes"])
    >>> model.predict([[-0.8, -1.0], [3.0, 2.0]])
    array(['no', 'yes'], dtype='<U3')
    """

    def __init__(
        self,
        loss="hinge",
        *,
        penalty="l2",
        alpha=0.0001,
        fit_intercept=True,
        max_iter=1000,
        tol=1e-3,
        shuffle=True,
        verbose=0,
        epsilon=0.1,
        loss_params=None,
        n_jobs=None,
        random_state=None,
        learning_rate="optimal",
        eta0=0.01,
        power_t=0.5,
        n_iter_no_change=5,
        class_weight=None,
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
        self.loss_params = loss_params
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.learning_rate = learning_rate
        self.eta0 = eta0
        self.power_t = power_t
        self.n_iter_no_change = n_iter_no_change
        self.class_weight = class_weight
        self.n_threads = n_threads

    @staticmethod
    def _loss_names() -> tuple[str, ...]:
        return (*list_losses("binary"), *CLASSIFIER_REGRESSION_LOSSES)

    @staticmethod
    def _accepts(loss: Loss) -> bool:
        return loss.kind == "binary" or loss.name in CLASSIFIER_REGRESSION_LOSSES

    def fit(self, X, y, coef_init=None, intercept_init=None, sample_weight=None):
        """Train on X and y from scratch, or from given start values.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Dense rows or CSR (other sparse formats are converted); float32 and float64 are used as they are.
        y : array-like of shape (n_samples,)
            Class labels: numbers, strings or anything `numpy.unique` sorts; at least two classes.
        coef_init : array-like of the shape of `coef_`, default=None
            Start values of the coefficients; None: zeros.
        intercept_init : array-like of the shape of `intercept_`, default=None
            Start values of the intercepts; None: zeros.
        sample_weight : array-like of shape (n_samples,), default=None
            Factors >= 0 on the samples' steps; not in the objective that `tol` looks at.

        Returns
        -------
        self : SGDLossClassifier

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
        classes, codes = encode_labels(y)
        if len(classes) < 2:
            raise ValueError(f"y must hold at least two classes, got one class: {classes[0]!r}")
        positive = [1] if len(classes) == 2 else list(range(len(classes)))
        coef = start_values("coef_init", coef_init, (len(positive), X.shape[1]), X.dtype)
        intercept = start_values("intercept_init", intercept_init, (len(positive),), X.dtype)
        progress = self._train(
            X,
            codes,
            sample_weight,
            coef,
            intercept,
            loss=loss,
            positive=positive,
            class_weight=self._model_weights(classes, y),
        )
        self._store(progress, X.shape[0], loss, coef_=coef, intercept_=intercept, classes_=classes)
        return self

    def _model_weights(self, classes: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(negative, positive) weight for every model; one-vs-rest weighs only its own class."""
        weight = compute_class_weight(self.class_weight, classes=classes, y=y)
        if not (np.isfinite(weight).all() and (weight >= 0).all()):
            raise ValueError(f"class_weight must be >= 0 and finite, got {self.class_weight!r}")
        if len(classes) == 2:
            return weight.reshape(1, 2)
        return np.column_stack([np.ones(len(classes)), weight])

    def decision_function(self, X):
        """Raw scores.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_classes)
            With two classes, above 0 means ``classes_[1]``.  In X's dtype.
        """
        scores = self._scores(X)
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, X):
        """Class labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,)
            The class with the largest score.
        """
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(np.intp) if scores.ndim == 1 else scores.argmax(axis=1)]

    @available_if(_has_probability)
    def predict_proba(self, X):
        """Class probabilities; only there when the loss defines them.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        probability : ndarray of shape (n_samples, n_classes)
            Rows sum to 1.  With more than two classes the one-vs-rest probabilities, divided by their sum (all zero:
            uniform).  In X's dtype.
        """
        scores = self._scores(X)
        probability = np.empty((len(scores), len(self.classes_)), dtype=scores.dtype)
        if scores.shape[1] == 1:
            probability[:, 1] = self._fitted_loss.predict(np.ascontiguousarray(scores[:, 0]))
            probability[:, 0] = 1 - probability[:, 1]
            return probability
        for k in range(scores.shape[1]):
            probability[:, k] = self._fitted_loss.predict(np.ascontiguousarray(scores[:, k]))
        total = probability.sum(axis=1, keepdims=True)
        probability[total[:, 0] == 0] = 1
        return probability / np.where(total == 0, len(self.classes_), total)

    @available_if(_has_probability)
    def predict_log_proba(self, X):
        """Logarithm of `predict_proba`; a probability of 0 gives -inf.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        log_probability : ndarray of shape (n_samples, n_classes)
        """
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))
