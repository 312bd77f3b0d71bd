"""SGDLossClassifier."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.utils import compute_class_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets

from fastloss._kernels.sgd import check_targets
from fastloss.composite import WeightedSum
from fastloss.linear_model.base import BaseSGD
from fastloss.linear_model.checks import encode_labels, names_of_validation_data
from fastloss.linear_model.problem import Problem
from fastloss.linear_model.record import with_callbacks
from fastloss.losses import Loss, list_losses

# Regression losses that are of use on targets -1 and +1 (scikit-learn's classifier offers the same four).
CLASSIFIER_REGRESSION_LOSSES = ("squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive")

# Binary losses whose formula holds for a probability as target.
SOFT_BINARY_LOSSES = ("log_loss", "focal")

# squared_hinge could give (raw + 1)/2, but scikit-learn's classifier does not, and scorers and ensembles take another
# path where predict_proba exists.
WITHOUT_PROBABILITY = ("squared_hinge",)

# How far rows of class probabilities may be from a sum of 1.
SUM_TOLERANCE = 1e-3


def _has_probability(estimator: SGDLossClassifier) -> bool:
    """For `available_if`: names the loss when it has none."""
    loss = estimator._make_loss()
    only_the_side = loss._estimates_side_only
    if loss.kind == "multiclass":
        only_the_side = loss.link == "argmax"
    if loss.kind == "regression" or only_the_side or loss._registered in WITHOUT_PROBABILITY:
        raise AttributeError(f"probability estimates are not available for loss={estimator.loss!r}")
    return True


class SGDLossClassifier(ClassifierMixin, BaseSGD):
    """Linear classifier with any binary or multiclass loss: the optimum by default, or stochastic gradient descent.

    Minimises ``mean(loss(y, X @ coef + intercept)) + penalty``.  With more than two classes and a binary loss it trains
    one model per class against all others (one-vs-rest), all in the same passes over X; a multiclass loss sees the
    scores of all classes.  The parameters are those of scikit-learn's ``SGDClassifier`` and some more.  By default
    ``learning_rate="auto"`` finds the optimum, for columns of any scale; with an explicit `learning_rate` and
    ``shuffle=False`` float64 coefficients follow scikit-learn's to rounding.  Different then, on CSR data: the L1
    penalty also reaches the coefficients a row does not touch, so that CSR and dense data give the same result, and
    `tol` looks at the right norm.

    Parameters
    ----------
    loss : str or Loss, default="hinge"
        A binary loss (see ``fastloss.list_losses("binary")``); a multiclass one, for instance "cross_entropy"
        (multinomial logistic regression); or one of "squared_error", "huber", "epsilon_insensitive",
        "squared_epsilon_insensitive", which then see targets -1 and +1.
    penalty : {"l2", "l1", "elasticnet", None}, default="l2"
        "l2" adds ``alpha/2 * ||coef||**2`` to the objective, "l1" ``alpha * sum(|coef|)``, which makes coefficients
        exactly zero, "elasticnet" a mixture of both.  The intercept is never penalised.
    alpha : float, default=0.0001
        Strength of the penalty, >= 0; also sets the step size of ``learning_rate="optimal"`` (then > 0).
    l1_ratio : float or None, default=0.15
        Share of "l1" in "elasticnet", 0 to 1; else ignored.
    fit_intercept : bool, default=True
        Whether to train an intercept.  With an explicit schedule its steps on CSR data are a hundredth as long, as
        scikit-learn's are.
    max_iter : int, default=1000
        Largest number of passes over X.
    tol : float or None, default=1e-3
        With "auto": the distance from the optimum at which a fit is done, relative to the objective (losses with a log
        link, whose objective can cross zero: to what was gained on the best constant).  With an explicit schedule: an
        epoch that does not lower the best mean objective so far by `tol` is a stall.  None: always `max_iter` passes,
        and no warning.
    shuffle : bool, default=True
        Whether every epoch of an explicit schedule, and `partial_fit`, visit the rows in a fresh random order, else in
        storage order.
    verbose : int, default=0
        1: a progress bar with the objective on a terminal's standard error, a line per pass elsewhere; 2: lines.
    epsilon : float, default=0.1
        ``delta`` of "huber"; ``epsilon`` of "epsilon_insensitive" and "squared_epsilon_insensitive".
    loss_params : dict or None, default=None
        Parameters of a loss given by name, for instance ``{"gamma": 1.0}`` for "focal"; wins over `epsilon`.
    n_jobs : int or None, default=None
        Accepted for compatibility and ignored; see `n_threads`.
    random_state : int, RandomState instance or None, default=None
        Seeds the row order and the choice of rows for `early_stopping`; with "auto" a `fit` on all rows is not random.
    learning_rate : {"auto", "constant", "optimal", "invscaling", "adaptive", "pa1", "pa2"}, default="auto"
        "auto": `fit` finds the optimum of the objective for columns of any scale, with nothing to tune, and says by a
        certificate whether it did (see Notes); `partial_fit` and `fit_stream` take implicit steps of a length that
        follows from the data.  loss="perceptron" is the perceptron algorithm.  The others are scikit-learn's step
        sizes of update t (t = 1, 2, ... over all epochs): "constant" `eta0`; "optimal" ``1 / (alpha * (t0 + t -
        1))`` with t0 such that the first one is ``alpha ** -0.25``; "invscaling" ``eta0 / t**power_t``; "adaptive"
        `eta0`, divided by 5 whenever training would stop, until it is below 1e-6 (`partial_fit` goes on with it,
        and never lowers it).  "pa1" and "pa2" are passive-aggressive: a step goes as far as the sample's loss asks
        for, but in "pa1" at most `eta0`, in "pa2" shortened by ``1 / (2 * eta0)`` in the denominator; only for
        loss="hinge".
    eta0 : float, default=0.01
        See `learning_rate`; > 0.  "auto" ignores it.
    power_t : float, default=0.5
        See `learning_rate`.  "auto" ignores it.
    early_stopping : bool, default=False
        Whether to hold out a part of the rows of every class (or take `X_val`), score them after every pass, and
        end training when the score stalls.  With explicit schedules and the losses that scikit-learn has, the
        number of epochs is that of scikit-learn 1.9.
    validation_fraction : float, default=0.1
        Share of the rows that `early_stopping` holds out.
    n_iter_no_change : int, default=5
        Number of stalls in a row that end training.  "auto" looks at it with `early_stopping` only.
    class_weight : dict, "balanced" or None, default=None
        Factor on the weight of a class's samples; "balanced" is ``n_samples / (n_classes * count)``, in `partial_fit`
        with the numbers of all batches so far.  In one-vs-rest models "auto" gives every sample its own class's weight;
        explicit schedules weigh only the class that is against the rest, as scikit-learn does.
    warm_start : bool, default=False
        Whether `fit` starts from the coefficients of the last fit.
    average : bool or int, default=False
        With an explicit schedule: whether `coef_` and `intercept_` are the averages over all updates; an integer: over
        those from that one on.
    batch_size : int or None, default=None
        Rows per update of an explicit schedule: their mean gradient at the same coefficients is one step, and t in
        `learning_rate` counts steps.  None: 1, or for a :class:`fastloss.CustomLoss` of a Python function 256.
    positive : bool, default=False
        Whether coefficients must be >= 0; "auto" only.
    bounds : tuple (least, greatest) or None, default=None
        What the coefficients must lie between; each None (no bound), a number, or one number per column.  "auto" only.
        The intercept is free.
    restore_best : bool, default=False
        Whether to end with the coefficients of the pass with the best validation score (without validation data: with
        the least objective), not with the last ones.
    n_threads : int or None, default=None
        Threads of "auto"'s passes over X, and of explicit schedules for the models of a one-vs-rest fit; None: as
        many as useful.  The result does not depend on it.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Coefficients, in X's dtype; one row per class with a multiclass loss or more than two classes.
    intercept_ : ndarray of shape (1,) or (n_classes,)
        Intercepts, in X's dtype.
    classes_ : ndarray of shape (n_classes,)
        Class labels; with two, the second is the positive one.
    n_iter_ : int
        Passes over X, every one counted: for column statistics, hessians and certificates too.  With explicit schedules
        epochs; with several models the largest number.
    converged_ : bool
        With "auto" whether the certified distance from the optimum is within `tol`, False with ``tol=None``; with
        explicit schedules whether training ended by itself and no slope had to be clipped.  After `fit` only.
    objective_curve_, loss_curve_ : ndarray
        What is minimised, and the mean loss in it, after every iteration of "auto", which may take several passes. With
        explicit schedules means over an epoch, of each sample's loss before its update, and of the penalty before every
        update (``tol=None``: at the epoch's two ends).  With several models their sum.
    validation_curve_ : ndarray or None
        Score on the validation data at the same times; None without such data.
    step_size_curve_ : ndarray
        Step sizes at the same times; NaN with "auto", which has none.
    best_iter_ : int or None
        The place in those curves, from 1 on, with the best validation score, without validation data with the least
        objective.
    t_ : float
        Number of the next update: ``1 + n_iter_ * n_samples``, with batches ``1 + n_iter_ * n_batches``.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of str
        Names of those columns, when X had names.

    Notes
    -----
    With "auto", smooth losses are minimised by L-BFGS-B in coordinates where the objective's hessian is close to the
    identity; the columns of X are never changed.  ``converged_`` rests on Newton's decrement, or where that would cost
    too much on an estimate from the course of the minimisation.  Losses with kinks are minimised by the method of
    multipliers, whose dual function is a lower bound of the optimum: there ``converged_`` rests on a duality gap.
    docs/estimators.md in the source has the mathematics, and what the certificates do not cover.

    Weights: with "auto" the objective is the weighted mean of the loss, so weight 0 is an absent row, weight 2 a row
    that is there twice, and a common factor changes nothing.  Explicit schedules multiply a sample's step by its
    weight.

    Callbacks of scikit-learn 1.9 (``set_callbacks(ProgressBar())``) are told of every pass.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from fastloss import SGDLossClassifier
    >>> X, y = load_breast_cancer(return_X_y=True)    # columns from 1e-3 to 4e3, as they are
    >>> model = SGDLossClassifier(loss="log_loss", alpha=1e-3).fit(X, y)
    >>> model.converged_, round(float(model.score(X, y)), 2)
    (True, 0.96)
    >>> model.predict_proba(X[:1]).shape
    (1, 2)
    """

    def __init__(
        self,
        loss="hinge",
        *,
        penalty="l2",
        alpha=0.0001,
        l1_ratio=0.15,
        fit_intercept=True,
        max_iter=1000,
        tol=1e-3,
        shuffle=True,
        verbose=0,
        epsilon=0.1,
        loss_params=None,
        n_jobs=None,
        random_state=None,
        learning_rate="auto",
        eta0=0.01,
        power_t=0.5,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=5,
        class_weight=None,
        warm_start=False,
        average=False,
        batch_size=None,
        positive=False,
        bounds=None,
        restore_best=False,
        n_threads=None,
    ):
        self.loss = loss
        self.penalty = penalty
        self.alpha = alpha
        self.l1_ratio = l1_ratio
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
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.average = average
        self.batch_size = batch_size
        self.positive = positive
        self.bounds = bounds
        self.restore_best = restore_best
        self.n_threads = n_threads

    _passive_loss = "hinge"

    @staticmethod
    def _loss_names() -> tuple[str, ...]:
        return (*list_losses("binary"), *CLASSIFIER_REGRESSION_LOSSES, *list_losses("multiclass"))

    @staticmethod
    def _accepts(loss: Loss) -> bool:
        return loss.kind in ("binary", "multiclass") or loss._registered in CLASSIFIER_REGRESSION_LOSSES

    @with_callbacks
    def fit(
        self, X, y, coef_init=None, intercept_init=None, sample_weight=None, *, classes=None, X_val=None, y_val=None
    ):
        """Train on X and y from scratch, or from given start values.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Dense rows or CSR (other sparse formats are converted); float32 and float64 are used as they are.
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Class labels: numbers, strings or anything `numpy.unique` sorts; at least two classes.  With "log_loss",
            "focal" (two classes) and "cross_entropy" also probabilities of the classes, a row of which sums to 1; with
            the first two also the probability of the second class alone, if any is strictly between 0 and 1.
        coef_init : array-like of the shape of `coef_`, default=None
            Start values of the coefficients; None: zeros, or with `warm_start` those of the last fit.
        intercept_init : array-like of the shape of `intercept_`, default=None
            Start values of the intercepts; None: likewise.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights >= 0 of the samples.  With an explicit `learning_rate` they are factors on the samples' steps, and
            not in the objective that `tol` looks at, as in scikit-learn.
        classes : array-like of shape (n_classes,), default=None
            Labels of the columns of y, when y holds probabilities; None: 0, 1, ...
        X_val, y_val : array-like, default=None
            Validation data, of the same form as X and y: the accuracy on them becomes `validation_curve_`, decides when
            to stop with `early_stopping`, and what is the best with `restore_best`.

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
            The fit diverged, or `max_iter` passes were not enough.
        """
        self._check_parameters()
        loss = self._make_loss()
        data = (X, y, sample_weight)
        X, y = self._check_labels(loss, X, y, first=True)
        sample_weight = self._check_weight(sample_weight, X.shape[0], allow_zero=False)
        if _is_soft(loss, y):
            labels = _soft_classes(y, classes)
            counts = _class_masses(y)
        else:
            if classes is not None:
                raise ValueError("classes is for y of class probabilities; it is found from labels")
            labels, y = encode_labels(y)
            counts = np.bincount(y, minlength=len(labels))
        if len(labels) < 2:
            raise ValueError(f"y must hold at least two classes, got one class: {labels[0]!r}")
        problem = self._make_problem(loss, X, y, labels, counts, sample_weight)
        validation = self._validation_problem(problem, labels, counts, X_val, y_val)
        self._fit_problem(
            problem,
            coef_init,
            intercept_init,
            data=data,
            validation=validation,
            classes_=labels,
            _class_counts=counts,
        )
        return self

    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Train one epoch on a batch, on from where the last call ended.

        ``class_weight="balanced"`` weighs by the counts of all batches so far.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            A batch.
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Labels, or probabilities as in `fit`.
        classes : array-like of shape (n_classes,), default=None
            All labels that will ever occur; needed in the first call.
        sample_weight : array-like of shape (n_samples,), default=None
            Factors >= 0 on the samples' steps; all zero: nothing is learnt.

        Returns
        -------
        self : SGDLossClassifier

        Raises
        ------
        ValueError
            Bad parameter or data (the message names it), or the coefficients overflowed.
        """
        self._check_parameters(streaming=True)
        loss = self._make_loss()
        first = not hasattr(self, "coef_")
        if first and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        labels = np.unique(classes) if first else self.classes_
        if not first and classes is not None and not np.array_equal(labels, np.unique(classes)):
            raise ValueError(f"classes={classes!r} is not the same as on the last call to partial_fit: {labels!r}")
        if len(labels) < 2:
            raise ValueError(f"classes must hold at least two classes, got {classes!r}")
        X, y = self._check_labels(loss, X, y, first=first)
        sample_weight = self._check_weight(sample_weight, X.shape[0], allow_zero=True)
        counts = np.zeros(len(labels)) if first else self._class_counts
        if _is_soft(loss, y):
            if _soft_classes(y, None).shape != labels.shape:
                raise ValueError(f"y must have a probability for each of the {len(labels)} classes, got {y.shape}")
            counts = counts + _class_masses(y)
        else:
            y = _codes(y, labels)
            counts = counts + np.bincount(y, minlength=len(labels))
        problem = self._make_problem(loss, X, y, labels, counts, sample_weight)
        if sample_weight is not None and not sample_weight.any():
            counts = np.zeros(len(labels)) if first else self._class_counts  # nothing is learnt, of the classes neither
        self._partial_fit_problem(problem, classes_=labels, _class_counts=counts)
        return self

    def _stream_arguments(self, source, arguments):
        if arguments.get("classes") is None:
            labels = [np.unique(y) for _, y, _ in source.once("finding the labels (or pass classes)")]
            arguments = {**arguments, "classes": np.unique(np.concatenate(labels))}
        return arguments

    def _check_labels(self, loss: Loss, X: Any, y: Any, *, first: bool, dtype: Any = None) -> tuple[Any, NDArray[Any]]:
        """X and y for training, y still labels or probabilities."""
        shape: tuple[int, ...] = getattr(y, "shape", None) or (np.shape(y) if isinstance(y, list | tuple) else ())
        soft = len(shape) == 2 and shape[1] > 1 and _takes_probabilities(loss)
        return self._check_training_data(X, y, first=first, dtype=dtype, multi_output=soft, y_numeric=soft)

    def _validation_problem(
        self, problem: Problem, labels: NDArray[Any], counts: NDArray[Any], X_val: Any, y_val: Any
    ) -> Problem | None:
        """Validation data in the form of the training data."""
        if X_val is None and y_val is None:
            return None
        if X_val is None or y_val is None:
            raise ValueError("X_val and y_val must be given together")
        loss = problem.losses[0]
        with names_of_validation_data():
            X, y = self._check_labels(loss, X_val, y_val, first=False, dtype=problem.X.dtype)
        if _is_soft(loss, y):
            if _soft_classes(y, None).shape != labels.shape:
                raise ValueError(f"y_val must have a probability for each of the {len(labels)} classes, got {y.shape}")
        else:
            with names_of_validation_data():
                y = _codes(y, labels)
        return replace(self._make_problem(loss, X, y, labels, counts, None), sample_weight=None, class_weight=None)

    def _make_problem(
        self,
        loss: Loss,
        X: Any,
        y: NDArray[Any],
        classes: NDArray[Any],
        counts: NDArray[Any],
        sample_weight: NDArray[np.float64] | None,
    ) -> Problem:
        """The training problem for class codes, or probabilities, y."""
        soft = y.dtype.kind == "f"
        if soft and loss.kind != "multiclass" and len(classes) > 2:
            raise ValueError(f"loss={loss!r} takes the probabilities of two classes, y has {len(classes)} columns")
        factors = self._class_factors(classes, counts)
        y = np.ascontiguousarray(y, dtype=X.dtype) if soft else y.astype(np.int32, copy=False)
        if loss.kind == "multiclass":
            weight = _joint_weight(loss, y, factors, sample_weight)
            return Problem(X, y, (_without_class_weight(loss),), len(classes), weight)
        if len(classes) == 2:
            weight = None if (factors == 1).all() else factors.reshape(1, 2)
            if not soft:
                return Problem(X, y, (loss,), 1, sample_weight, positive=(1,), class_weight=weight)
            y = y if y.ndim == 1 else np.ascontiguousarray(y[:, 1])
            check_targets(loss._kernel, y)
            return Problem(X, y, (loss,), 1, sample_weight, class_weight=weight, soft=True)
        # one-vs-rest weighs only a model's own class
        weight = None if (factors == 1).all() else np.column_stack([np.ones(len(classes)), factors])
        return Problem(
            X, y, (loss,), len(classes), sample_weight, positive=tuple(range(len(classes))), class_weight=weight
        )

    def _class_factors(self, classes: NDArray[Any], counts: NDArray[Any]) -> NDArray[np.float64]:
        """The weight of every class."""
        if isinstance(self.class_weight, str) and self.class_weight == "balanced":
            # a class that did not occur yet has no samples to weigh
            return counts.sum() / (len(classes) * np.where(counts > 0, counts, counts.sum() / len(classes)))
        factors = compute_class_weight(self.class_weight, classes=classes, y=classes)
        if not (np.isfinite(factors).all() and (factors >= 0).all()):
            raise ValueError(f"class_weight must be >= 0 and finite, got {self.class_weight!r}")
        return factors

    def _validation_rows(self, problem: Problem) -> NDArray[np.intp]:
        y = problem.targets
        if y.dtype != np.int32:
            y = y.argmax(axis=1) if y.ndim == 2 else y > 0.5
        splitter = StratifiedShuffleSplit(test_size=self.validation_fraction, random_state=self.random_state)
        return next(splitter.split(np.zeros((len(y), 1)), y))[1]

    def _validation_score(self, problem: Problem, raw: NDArray[Any]) -> float:
        y = problem.targets
        if y.ndim == 2:
            y = y.argmax(axis=1)
        elif problem.positive is None and not problem.joint:
            y = y > 0.5
        found = raw[:, 0] > 0 if raw.shape[1] == 1 else raw.argmax(axis=1)
        return float(np.average(found == y, weights=problem.sample_weight))

    def _validation_scores(self, problem: Problem, raw: NDArray[Any]) -> NDArray[np.float64]:
        y = problem.targets
        if problem.joint:
            right = (raw.argmax(axis=1) == (y.argmax(axis=1) if y.ndim == 2 else y))[:, None]
        elif problem.positive is None:
            right = (raw > 0) == (y > 0.5)[:, None]
        else:
            positive = y[:, None] == np.array(problem.positive)
            right = (raw > 0) & positive if problem.losses[0]._registered == "log_loss" else (raw > 0) == positive
        return np.average(right, axis=0, weights=problem.sample_weight)

    def decision_function(self, X):
        """Raw scores.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_classes)
            With two classes, above 0 means ``classes_[1]`` (a multiclass loss: the difference of its two scores).  In
            X's dtype.
        """
        scores = self._scores(X)
        if scores.shape[1] == 2:
            return scores[:, 1] - scores[:, 0]
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
            Rows sum to 1.  With more than two classes and a binary loss the one-vs-rest probabilities, divided by their
            sum (all zero: uniform).  In X's dtype.
        """
        scores = self._scores(X)
        loss = self._losses[0]
        if loss.kind == "multiclass":
            return loss.predict(scores)
        probability = np.empty((len(scores), len(self.classes_)), dtype=scores.dtype)
        if scores.shape[1] == 1:
            probability[:, 1] = loss.predict(np.ascontiguousarray(scores[:, 0]))
            probability[:, 0] = 1 - probability[:, 1]
            return probability
        for k in range(scores.shape[1]):
            probability[:, k] = loss.predict(np.ascontiguousarray(scores[:, k]))
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


def _takes_probabilities(loss: Loss) -> bool:
    return _is_soft_binary(loss) or getattr(loss, "soft_targets", False)


def _is_soft_binary(loss: Loss) -> bool:
    """Whether a loss of one score takes probabilities: whether all terms of a sum do."""
    parts = [term.loss for term in loss.terms] if isinstance(loss, WeightedSum) else [loss]
    return loss.kind != "multiclass" and all(
        part._registered in SOFT_BINARY_LOSSES or getattr(part, "soft_targets", False) for part in parts
    )


def _is_soft(loss: Loss, y: NDArray[Any]) -> bool:
    """Whether y holds probabilities, not labels."""
    if y.ndim == 2:
        return True
    if not _is_soft_binary(loss) or y.dtype.kind != "f":
        return False
    return bool(((y > 0) & (y < 1)).any() and ((y >= 0) & (y <= 1)).all())


def _soft_classes(y: NDArray[Any], classes: Any) -> NDArray[Any]:
    """Labels of the columns of y, once y is seen to be probabilities."""
    n_classes = y.shape[1] if y.ndim == 2 else 2
    if y.ndim == 2:
        sums = y.sum(axis=1)
        bad = ~((y >= 0).all(axis=1) & (np.abs(sums - 1) <= SUM_TOLERANCE))
        if bad.any():
            i = int(np.argmax(bad))
            raise ValueError(f"y[{i}] = {y[i]} must be probabilities of the classes: >= 0, with a sum of 1")
    labels = np.arange(n_classes) if classes is None else np.asarray(classes)
    if labels.shape != (n_classes,):
        raise ValueError(f"classes must have a label for each of the {n_classes} columns of y, got {classes!r}")
    return labels


def _class_masses(y: NDArray[Any]) -> NDArray[np.float64]:
    """How many samples of each class probabilities amount to."""
    if y.ndim == 2:
        return y.sum(axis=0, dtype=np.float64)
    positive = y.sum(dtype=np.float64)
    return np.array([len(y) - positive, positive])


def _codes(y: NDArray[Any], classes: NDArray[Any]) -> NDArray[np.intp]:
    """Positions of labels among sorted classes."""
    check_classification_targets(y)
    codes = np.searchsorted(classes, y)
    codes[codes == len(classes)] = 0
    unknown = classes[codes] != y
    if unknown.any():
        i = int(np.argmax(unknown))
        raise ValueError(f"y[{i}] = {y[i]!r} is not in classes, {classes!r}")
    return codes


def _without_class_weight(loss: Loss) -> Loss:
    """The loss whose class weights are in the sample weights already."""
    if isinstance(loss, WeightedSum):
        return WeightedSum(term._replace(loss=_without_class_weight(term.loss)) for term in loss.terms)
    if "class_weight" not in loss.params:  # an own loss
        return loss
    return type(loss)(**{**loss.params, "class_weight": None})


def _joint_weight(
    loss: Loss, y: NDArray[Any], factors: NDArray[np.float64], sample_weight: NDArray[np.float64] | None
) -> NDArray[np.float64] | None:
    """Sample weights with the classes' weights, the estimator's and the loss's, multiplied in."""
    own, ignored = getattr(loss, "class_weight", None), getattr(loss, "ignore_index", None)
    if ignored is not None:
        raise ValueError(f"loss={loss!r} has an ignore_index; leave those rows out of X and y instead")
    if own is not None:
        if len(own) != len(factors):
            raise ValueError(f"loss={loss!r} has {len(own)} class weights, y has {len(factors)} classes")
        factors = factors * own
    if (factors == 1).all():
        return sample_weight
    weight = y @ factors if y.ndim == 2 else factors[y]
    return weight if sample_weight is None else weight * sample_weight
