"""Linear models trained by stochastic gradient descent, with scikit-learn's face.

Here: parameters, checks, the rules between epochs (when to stop, when to lower the step, what to say about a fit that
diverged), predictions.  The epochs themselves run in `fastloss._kernels.sgd`.

Order of reading: `fit` of an estimator → `_train` → `_run_epochs` → `_store`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array, check_random_state, compute_class_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from fastloss._kernels.sgd import Design, RowOrder, Trainer, check_targets
from fastloss.losses import Loss, get_loss, list_losses

__all__ = ["SGDLossClassifier", "SGDLossRegressor"]

# scikit-learn steps the intercept a hundred times slower on sparse rows: it changes with every row, a coefficient only
# with the rows that have the feature.  Explicit schedules keep its conventions.
SPARSE_INTERCEPT_RATE = 0.01

# "adaptive" stops instead of lowering a step size that is already below this.
SMALLEST_ADAPTIVE_STEP = 1e-6

# What X may be, in scikit-learn's words.
ROWS: dict[str, Any] = {
    "accept_sparse": "csr",
    "accept_large_sparse": True,
    "dtype": [np.float64, np.float32],
    "order": "C",
}

LEARNING_RATES = ("constant", "optimal", "invscaling", "adaptive")
PENALTIES = ("l2", None)

# Regression losses that are of use on targets -1 and +1 (scikit-learn's classifier offers the same four).
CLASSIFIER_REGRESSION_LOSSES = ("squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive")

# Regression losses not offered by name: msle's domain (raw > -1) is no natural one for a linear model.
REGRESSOR_EXCLUDED_LOSSES = ("msle",)

# squared_hinge could give (raw + 1)/2, but scikit-learn's classifier does not, and scorers and ensembles take another
# path where predict_proba exists.
WITHOUT_PROBABILITY = ("squared_hinge",)

# Which estimator parameter feeds which parameter of a loss given by name; `loss_params` overrides.
PARAMETER_SOURCES = {
    "huber": {"delta": "epsilon"},
    "epsilon_insensitive": {"epsilon": "epsilon"},
    "squared_epsilon_insensitive": {"epsilon": "epsilon"},
    "quantile": {"quantile": "quantile"},
    "smooth_quantile": {"quantile": "quantile"},
}


# --------------------------------------------------------------------------------------------------------------
# Rules between epochs
# --------------------------------------------------------------------------------------------------------------
@dataclass
class _Progress:
    """How one model's training goes; `after_epoch` decides whether it goes on."""

    tol: float | None
    patience: int
    best: float = math.inf
    stalls: int = 0
    n_iter: int = 0
    converged: bool = False
    n_clipped: int = 0
    last_clipped_epoch: int = 0

    def after_epoch(self, objective: float, n_clipped: int) -> bool:
        """Take note of an epoch; True when the last `patience` epochs each failed to gain `tol`."""
        self.n_iter += 1
        if n_clipped:
            self.n_clipped += n_clipped
            self.last_clipped_epoch = self.n_iter
        if self.tol is None:
            return False
        self.stalls = self.stalls + 1 if objective > self.best - self.tol else 0
        self.best = min(self.best, objective)
        return self.stalls >= self.patience


def _run_epochs(
    trainer: Trainer, *, max_iter: int, tol: float | None, patience: int, adaptive: bool, verbose: int
) -> list[_Progress]:
    """Train until every model converged or `max_iter` epochs are over."""
    progress = [_Progress(tol, patience) for _ in range(trainer.n_models)]
    active = set(range(trainer.n_models))
    for epoch in range(1, max_iter + 1):
        trainer.epoch()
        for k in sorted(active):
            if not trainer.finite(k):
                raise _overflow(epoch)
            stalled = progress[k].after_epoch(trainer.objective(k), trainer.n_clipped(k))
            if verbose:
                _report(trainer, k, epoch)
            if not stalled:
                continue
            if adaptive and trainer.eta(k) > SMALLEST_ADAPTIVE_STEP:
                trainer.set_eta(k, trainer.eta(k) / 5)
                progress[k].stalls = 0
            else:
                progress[k].converged = True
                trainer.stop(k)
                active.discard(k)
        if not active:
            break
    trainer.finish()
    return progress


def _report(trainer: Trainer, k: int, epoch: int) -> None:
    model = f" model {k}" if trainer.n_models > 1 else ""
    print(
        f"epoch {epoch}{model}: loss {trainer.loss(k):.6g}, objective {trainer.objective(k):.6g}, "
        f"|coef| {trainer.norm(k):.4g}, intercept {trainer.current_intercept(k):.4g}"
    )


def _overflow(epoch: int) -> ValueError:
    return ValueError(
        f"Floating-point overflow in epoch {epoch}: the coefficients are not finite any more, the fit diverged. "
        "Scale the columns of X (sklearn.preprocessing.StandardScaler) or lower eta0."
    )


def _warn_about(progress: Iterable[_Progress], max_iter: int) -> None:
    """Say so when the result is not one: diverged, or out of epochs."""
    progress = list(progress)
    n_clipped = sum(p.n_clipped for p in progress)
    if n_clipped:
        last, n_iter = max(p.last_clipped_epoch for p in progress), max(p.n_iter for p in progress)
        warnings.warn(
            f"The fit diverged: in {n_clipped} updates (the last in epoch {last} of {n_iter}) the loss had a derivative"
            " beyond 1e12, which was clipped; the coefficients mean nothing. "
            "Scale the columns of X (sklearn.preprocessing.StandardScaler) or lower eta0.",
            ConvergenceWarning,
            stacklevel=4,
        )
    elif any(p.tol is not None and not p.converged for p in progress):
        warnings.warn(
            f"No convergence within max_iter={max_iter} epochs (tol={progress[0].tol}); "
            "raise max_iter to improve the fit.",
            ConvergenceWarning,
            stacklevel=4,
        )


# --------------------------------------------------------------------------------------------------------------
# Checks of arguments
# --------------------------------------------------------------------------------------------------------------
def _check_real(name: str, value: Any, low: float = -math.inf, *, above: bool = False) -> None:
    """`value` must be a finite real number >= low, or > low when `above`."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    if not math.isfinite(value) or value < low or (above and value == low):
        wanted = "finite" if low == -math.inf else f"{'>' if above else '>='} {low:g} and finite"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")


def _check_int(name: str, value: Any, low: int) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < low:
        raise ValueError(f"{name} must be >= {low}, got {value!r}")


def _check_bool(name: str, value: Any) -> None:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def _check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _check_sample_weight(sample_weight: Any, n: int) -> np.ndarray | None:
    """Weights as an array of float64 (whatever X's dtype: 1e-60 is a weight, not zero); None stays None."""
    if sample_weight is None:
        return None
    if isinstance(sample_weight, Real):
        sample_weight = np.full(n, sample_weight, dtype=np.float64)
    weight = check_array(
        sample_weight, accept_sparse=False, ensure_2d=False, dtype=np.float64, order="C", input_name="sample_weight"
    )
    if weight.ndim != 1:
        raise ValueError(f"sample_weight must be 1D array or scalar, got shape {weight.shape}")
    if weight.shape[0] != n:
        raise ValueError(f"sample_weight has {weight.shape[0]} elements, X has {n} rows")
    if (weight < 0).any():
        i = int(np.argmax(weight < 0))
        raise ValueError(f"sample_weight[{i}] = {weight[i]!r} is negative; weights must be >= 0")
    if not weight.any():
        raise ValueError("Sample weights must contain at least one non-zero number: all of sample_weight is zero")
    return weight


def _start_values(name: str, init: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A fresh array of start values: a copy of `init`, or zeros."""
    if init is None:
        return np.zeros(shape, dtype=dtype)
    values = check_array(init, ensure_2d=False, allow_nd=True, dtype=dtype, order="C", copy=True, input_name=name)
    if values.size != math.prod(shape) or (values.ndim > 1 and len(shape) > 1 and values.shape != shape):
        raise ValueError(f"{name} has shape {values.shape}, which does not fit X and y: expected {shape}")
    return values.reshape(shape)


# --------------------------------------------------------------------------------------------------------------
# What both estimators share
# --------------------------------------------------------------------------------------------------------------
class _BaseSGD(BaseEstimator):
    """Parameters, their checks, and training of one or more weight vectors on the same rows."""

    # -- the loss ----------------------------------------------------------------------------------------------
    @staticmethod
    def _loss_names() -> tuple[str, ...]:
        """Names of losses this estimator accepts."""
        raise NotImplementedError

    @staticmethod
    def _accepts(loss: Loss) -> bool:
        """Whether a loss object is one this estimator can train on."""
        raise NotImplementedError

    def _make_loss(self) -> Loss:
        """The loss the parameters ask for."""
        if isinstance(self.loss, Loss):
            if self.loss_params:
                raise ValueError(f"loss_params needs a loss given by name; {self.loss!r} already has its parameters")
            if not self._accepts(self.loss):
                raise ValueError(
                    f"loss={self.loss!r} is of kind {self.loss.kind!r}, which {type(self).__name__} cannot train; "
                    f"it takes {', '.join(self._loss_names())}"
                )
            return self.loss
        if not isinstance(self.loss, str):
            raise TypeError(f"loss must be a name or a fastloss Loss, got {self.loss!r}")
        if self.loss not in self._loss_names():
            raise ValueError(
                f"loss={self.loss!r} is not a loss of {type(self).__name__}; it takes {', '.join(self._loss_names())}"
            )
        return get_loss(self.loss, **self._loss_parameters())

    def _loss_parameters(self) -> dict[str, Any]:
        if self.loss_params is not None and not isinstance(self.loss_params, Mapping):
            raise TypeError(f"loss_params must be a dict or None, got {self.loss_params!r}")
        parameters = {}
        for target, source in PARAMETER_SOURCES.get(self.loss, {}).items():
            value = getattr(self, source)
            _check_real(source, value, 0.0)
            parameters[target] = value
        return {**parameters, **(self.loss_params or {})}

    # -- checks ------------------------------------------------------------------------------------------------
    def _check_parameters(self) -> None:
        _check_choice("penalty", self.penalty, PENALTIES)
        _check_choice("learning_rate", self.learning_rate, LEARNING_RATES)
        _check_real("alpha", self.alpha, 0.0)
        _check_real("eta0", self.eta0, 0.0, above=True)
        _check_real("power_t", self.power_t)
        _check_int("max_iter", self.max_iter, 1)
        _check_int("n_iter_no_change", self.n_iter_no_change, 1)
        if self.tol is not None:
            _check_real("tol", self.tol, 0.0)
        _check_bool("fit_intercept", self.fit_intercept)
        _check_bool("shuffle", self.shuffle)
        if self.learning_rate == "optimal" and self.alpha == 0:
            raise ValueError("alpha must be > 0 with learning_rate='optimal', which divides by it")

    def _check_training_data(self, X: Any, y: Any) -> tuple[Any, np.ndarray]:
        """X and y for training."""
        return validate_data(self, X, y, y_numeric=isinstance(self, RegressorMixin), **ROWS)

    def _check_rows(self, X: Any) -> Any:
        """X for predictions of a fitted model."""
        return validate_data(self, X, reset=False, **ROWS)

    def __sklearn_is_fitted__(self) -> bool:
        # not the presence of any attribute: an interrupted or refused first fit leaves n_features_in_
        return hasattr(self, "coef_")

    # -- training ----------------------------------------------------------------------------------------------
    def _train(
        self,
        X: Any,
        targets: np.ndarray,
        sample_weight: Any,
        coef: np.ndarray,
        intercept: np.ndarray,
        *,
        loss: Loss,
        positive: Sequence[int] = (1,),
        class_weight: Any = None,
    ) -> list[_Progress]:
        """Train the rows of `coef` and the elements of `intercept`, in place."""
        design = Design(X)
        rng = check_random_state(self.random_state)
        seed = int(rng.randint(np.iinfo(np.int32).max)) if self.shuffle else None
        intercept64 = intercept.astype(np.float64)
        trainer = Trainer(
            design,
            loss._kernel,
            targets,
            _check_sample_weight(sample_weight, X.shape[0]),
            RowOrder(design.n_rows, seed),
            coef,
            intercept64,
            positive=positive,
            class_weight=class_weight,
            learning_rate=self.learning_rate,
            alpha=self.alpha,
            eta0=self.eta0,
            power_t=self.power_t,
            l2=self.alpha if self.penalty == "l2" else 0.0,
            intercept_rate=(SPARSE_INTERCEPT_RATE if design.sparse else 1.0) if self.fit_intercept else 0.0,
            want_objective=self.tol is not None or bool(self.verbose),
            n_threads=self.n_threads,
        )
        with np.errstate(over="ignore"):
            progress = _run_epochs(
                trainer,
                max_iter=self.max_iter,
                tol=self.tol,
                patience=self.n_iter_no_change,
                adaptive=self.learning_rate == "adaptive",
                verbose=self.verbose,
            )
            intercept[:] = intercept64
        if not (np.isfinite(coef).all() and np.isfinite(intercept).all()):
            raise _overflow(max(p.n_iter for p in progress))
        return progress

    def _store(self, progress: list[_Progress], n_samples: int, loss: Loss, **attributes: Any) -> None:
        """Set the attributes of a finished fit, all together; only then warn, as a warning may be made an error."""
        self.n_iter_ = max(p.n_iter for p in progress)
        self.t_ = 1.0 + self.n_iter_ * n_samples
        self._fitted_loss = loss
        self.__dict__.update(attributes)
        _warn_about(progress, self.max_iter)

    # -- prediction --------------------------------------------------------------------------------------------
    def _scores(self, X: Any) -> np.ndarray:
        """Raw predictions, one column per weight vector, in X's dtype."""
        check_is_fitted(self)
        X = self._check_rows(X)
        coef = np.atleast_2d(self.coef_).astype(X.dtype, copy=False)
        return X @ coef.T + self.intercept_.astype(X.dtype, copy=False)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


# --------------------------------------------------------------------------------------------------------------
# Classification
# --------------------------------------------------------------------------------------------------------------
def _has_probability(estimator: SGDLossClassifier) -> bool:
    """For `available_if`: names the loss when it has none."""
    loss = estimator._make_loss()
    only_the_side = loss.link == "sign" and type(loss)._estimate is Loss._estimate
    if loss.kind != "binary" or only_the_side or loss.name in WITHOUT_PROBABILITY:
        raise AttributeError(f"{type(estimator).__name__} has no probabilities with loss={estimator.loss!r}")
    return True


class SGDLossClassifier(ClassifierMixin, _BaseSGD):
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
        check_classification_targets(y)
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y must hold at least two classes, got one class: {classes[0]!r}")
        positive = [1] if len(classes) == 2 else list(range(len(classes)))
        coef = _start_values("coef_init", coef_init, (len(positive), X.shape[1]), X.dtype)
        intercept = _start_values("intercept_init", intercept_init, (len(positive),), X.dtype)
        progress = self._train(
            X,
            codes.astype(np.int32, copy=False),
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


# --------------------------------------------------------------------------------------------------------------
# Regression
# --------------------------------------------------------------------------------------------------------------
class SGDLossRegressor(RegressorMixin, _BaseSGD):
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
        coef = _start_values("coef_init", coef_init, (1, X.shape[1]), X.dtype)
        intercept = _start_values("intercept_init", intercept_init, (1,), X.dtype)
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
