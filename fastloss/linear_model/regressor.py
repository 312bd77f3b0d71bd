"""SGDLossRegressor."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.model_selection import ShuffleSplit
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from fastloss._kernels.sgd import check_targets
from fastloss.constants import best_constant
from fastloss.linear_model.base import BaseSGD
from fastloss.linear_model.checks import check_real, names_of_validation_data
from fastloss.linear_model.problem import Problem
from fastloss.linear_model.record import with_callbacks
from fastloss.losses import Loss, get_loss, list_losses
from fastloss.multitask import MultiTaskLoss

# Regression losses not offered by name: msle's domain (raw > -1) is no natural one for a linear model.
REGRESSOR_EXCLUDED_LOSSES = ("msle",)

# Losses whose parameter `quantile` may be several numbers.
QUANTILE_LOSSES = ("quantile", "smooth_quantile")


class SGDLossRegressor(RegressorMixin, BaseSGD):
    """Linear regression with any regression loss: the optimum by default, or stochastic gradient descent.

    Minimises ``mean(loss(y, X @ coef + intercept)) + penalty``.  The parameters are those of scikit-learn's
    ``SGDRegressor`` and some more.  By default ``learning_rate="auto"`` finds the optimum, for columns of any scale;
    with an explicit `learning_rate` and ``shuffle=False`` float64 coefficients follow scikit-learn's to rounding.
    Different then, on CSR data: the L1 penalty also reaches the coefficients a row does not touch, so that CSR and
    dense data give the same result, and `tol` looks at the right norm.

    Parameters
    ----------
    loss : str or Loss, default="squared_error"
        A regression or count loss, see ``fastloss.list_losses("regression")``; "msle" only as an object.  Sums of
        losses, and a ``fastloss.MultiTaskLoss`` for outputs with losses of their own, see docs/composition.md.
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
        ``delta`` of "huber"; ``epsilon`` of "epsilon_insensitive" and "squared_epsilon_insensitive".  In y's units.
    quantile : float or sequence of float, default=0.5
        The quantile that "quantile" and "smooth_quantile" estimate; several: one model each, all in the same passes
        over X.
    loss_params : dict or None, default=None
        Parameters of a loss given by name, for instance ``{"power": 1.9}`` for "tweedie"; wins over `epsilon` and
        `quantile`.
    random_state : int, RandomState instance or None, default=None
        Seeds the row order and the choice of rows for `early_stopping`; with "auto" a `fit` on all rows is not random.
    learning_rate : {"auto", "constant", "optimal", "invscaling", "adaptive", "pa1", "pa2"}, default="auto"
        "auto": `fit` finds the optimum of the objective for columns of any scale, with nothing to tune, and says by a
        certificate whether it did (see Notes); `partial_fit` and `fit_stream` take implicit steps of a length that
        follows from the data.  The others are scikit-learn's step sizes of update t (t = 1, 2, ... over
        all epochs): "constant" `eta0`; "optimal" ``1 / (alpha * (t0 + t - 1))`` with t0 such that the first one is
        ``alpha ** -0.25``; "invscaling" ``eta0 / t**power_t``; "adaptive" `eta0`, divided by 5 whenever training would
        stop, until it is below 1e-6 (`partial_fit` goes on with it, and never lowers it).  "pa1" and "pa2" are
        passive-aggressive: a step goes as far as the sample's loss asks for, but in "pa1" at most `eta0`, in "pa2"
        shortened by ``1 / (2 * eta0)`` in the denominator; only for loss="epsilon_insensitive".
    eta0 : float, default=0.01
        See `learning_rate`; > 0.  "auto" ignores it.
    power_t : float, default=0.25
        See `learning_rate`.  "auto" ignores it.
    early_stopping : bool, default=False
        Whether to hold out a part of the rows (or take `X_val`), score them after every pass, and end training
        when the score stalls.  With explicit schedules and the losses that scikit-learn has, the number of epochs is
        that of scikit-learn 1.9.
    validation_fraction : float, default=0.1
        Share of the rows that `early_stopping` holds out.
    n_iter_no_change : int, default=5
        Number of stalls in a row that end training.  "auto" looks at it with `early_stopping` only.
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
        Threads of "auto"'s passes over X, and of explicit schedules for several outputs or quantiles; None: as many
        as useful.  The result does not depend on it.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,), (n_outputs, n_features) or (n_quantiles, n_features)
        Coefficients, in X's dtype.
    intercept_ : ndarray of shape (1,), (n_outputs,) or (n_quantiles,)
        Intercepts, in X's dtype.
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
    >>> import numpy as np
    >>> from fastloss import SGDLossRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(0, [1e-3, 1e4], size=(2000, 2))    # columns of any scale
    >>> y = X @ [5e3, 1e-3] + rng.standard_t(2, size=2000)
    >>> model = SGDLossRegressor(loss="quantile", quantile=[0.1, 0.5, 0.9], penalty=None).fit(X, y)
    >>> model.converged_, (y[:, None] <= model.predict(X)).mean(axis=0).round(2)
    (True, array([0.1, 0.5, 0.9]))
    """

    def __init__(
        self,
        loss="squared_error",
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
        quantile=0.5,
        loss_params=None,
        random_state=None,
        learning_rate="auto",
        eta0=0.01,
        power_t=0.25,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=5,
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
        self.quantile = quantile
        self.loss_params = loss_params
        self.random_state = random_state
        self.learning_rate = learning_rate
        self.eta0 = eta0
        self.power_t = power_t
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.average = average
        self.batch_size = batch_size
        self.positive = positive
        self.bounds = bounds
        self.restore_best = restore_best
        self.n_threads = n_threads

    _passive_loss = "epsilon_insensitive"

    @staticmethod
    def _loss_names() -> tuple[str, ...]:
        return tuple(name for name in list_losses("regression") if name not in REGRESSOR_EXCLUDED_LOSSES)

    @staticmethod
    def _accepts(loss: Loss) -> bool:
        return loss.kind in ("regression", "multitask")

    def _several_quantiles(self) -> bool:
        return self.loss in QUANTILE_LOSSES and np.ndim(self.quantile) == 1

    def _make_losses(self, y: Any) -> tuple[Loss, ...]:
        """The loss, or one for each of several quantiles or of the columns of y."""
        if not self._several_quantiles():
            loss = self._make_loss()
            if isinstance(loss, MultiTaskLoss):
                loss = loss._for_training(y.shape[1] if y.ndim == 2 else 1)
            return loss.column_losses if isinstance(loss, MultiTaskLoss) else (loss,)
        quantiles = list(self.quantile)
        if not quantiles:
            raise ValueError("quantile must be a number or at least one number, got an empty sequence")
        for quantile in quantiles:
            check_real("quantile", quantile, 0.0)
        return tuple(get_loss(self.loss, **{"quantile": q, **(self.loss_params or {})}) for q in quantiles)

    @with_callbacks
    def fit(
        self, X, y, coef_init=None, intercept_init=None, sample_weight=None, *, offset=None, X_val=None, y_val=None
    ):
        """Train on X and y from scratch, or from given start values.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Dense rows or CSR (other sparse formats are converted); float32 and float64 are used as they are.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets, in the domain of the loss ("poisson": >= 0, ...).  Every output gets its own coefficients, all in
            the same passes over X.  With a ``MultiTaskLoss`` NaN are gaps: targets that are not known.
        coef_init : array-like of the shape of `coef_`, default=None
            Start values of the coefficients; None: zeros, or with `warm_start` those of the last fit.
        intercept_init : array-like of the shape of `intercept_`, default=None
            Start values of the intercepts; None: likewise.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights >= 0 of the samples.  With an explicit `learning_rate` they are factors on the samples' steps, and
            not in the objective that `tol` looks at, as in scikit-learn.
        offset : array-like of shape (n_samples,), default=None
            Added to the raw predictions, for instance the logarithm of an exposure with "poisson".
        X_val, y_val : array-like, default=None
            Validation data, of the same form as X and y: the score on them becomes `validation_curve_`, decides when to
            stop with `early_stopping`, and what is the best with `restore_best`.

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
        problem = self._make_problem(X, y, sample_weight, offset, first=True, allow_zero=False)
        validation = None
        if X_val is not None and y_val is not None:
            with names_of_validation_data():
                validation = self._make_problem(X_val, y_val, None, None, first=False, allow_zero=False, like=problem)
        elif X_val is not None or y_val is not None:
            raise ValueError("X_val and y_val must be given together")
        self._fit_problem(
            problem,
            coef_init,
            intercept_init,
            data=(X, y, sample_weight),
            validation=validation,
            _flat=self._is_flat(problem),
        )
        return self

    def partial_fit(self, X, y, sample_weight=None, *, offset=None):
        """Train one epoch on a batch, on from where the last call ended.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            A batch.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Factors >= 0 on the samples' steps; all zero: nothing is learnt.
        offset : array-like of shape (n_samples,), default=None
            Added to the raw predictions.

        Returns
        -------
        self : SGDLossRegressor

        Raises
        ------
        ValueError
            Bad parameter or data (the message names it), or the coefficients overflowed.
        """
        self._check_parameters(streaming=True)
        first = not hasattr(self, "coef_")
        problem = self._make_problem(X, y, sample_weight, offset, first=first, allow_zero=True)
        if not first and problem.n_scores != len(self._state.coef):
            raise ValueError(f"y has {problem.n_scores} outputs, earlier batches had {len(self._state.coef)}")
        self._partial_fit_problem(problem, _flat=self._is_flat(problem) if first else self._flat)
        return self

    def _make_problem(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        offset: Any,
        *,
        first: bool,
        allow_zero: bool,
        like: Problem | None = None,
    ) -> Problem:
        """Checked data as a training problem; validation data are `like` the training data."""
        y, unknown = self._without_gaps(y)
        losses = self._make_losses(y)
        X, y = self._check_training_data(
            X,
            y,
            first=first,
            dtype=None if like is None else like.X.dtype,
            multi_output=not self._several_quantiles(),
        )
        sample_weight = self._check_weight(sample_weight, X.shape[0], allow_zero=allow_zero)
        y = self._checked_targets(losses, np.ascontiguousarray(y, dtype=X.dtype), unknown)
        if like is not None and y.shape[1:] != like.targets.shape[1:]:
            raise ValueError(f"y_val has shape {y.shape}, but y has shape {like.targets.shape}")
        n_scores = len(losses) if self._several_quantiles() else (y.shape[1] if y.ndim == 2 else 1)
        return Problem(X, y, losses, n_scores, sample_weight, _check_offset(offset, X.shape[0]))

    def _without_gaps(self, y: Any) -> tuple[Any, NDArray[np.bool_] | None]:
        """Zeros for NaN in y where the loss masks these, for scikit-learn's checks, and where they were."""
        if not isinstance(self.loss, MultiTaskLoss):
            return y, None
        y = np.asarray(y, dtype=np.float64)
        unknown = np.isnan(y)
        return (np.where(unknown, 0.0, y), unknown) if unknown.any() else (y, None)

    def _checked_targets(
        self, losses: tuple[Loss, ...], y: NDArray[Any], unknown: NDArray[np.bool_] | None
    ) -> NDArray[Any]:
        """The targets with their gaps, once every loss accepts its own."""
        if not isinstance(self.loss, MultiTaskLoss):
            for loss in losses:
                check_targets(loss._kernel, y)
            return y
        if y.ndim != 2 or y.shape[1] != len(losses):
            raise ValueError(f"y has shape {y.shape}: loss={self.loss!r} needs ({len(y)}, {len(losses)})")
        if unknown is not None:
            if unknown.all():
                raise ValueError("y has no known target: all are NaN")
            y[unknown] = np.nan
        try:
            self.loss.loss(y, np.broadcast_to(y.dtype.type(0), y.shape), reduction="sum", n_threads=self.n_threads)
        except ValueError as error:
            raise ValueError(str(error).replace("y_true[", "y[", 1)) from None
        return y

    def _is_flat(self, problem: Problem) -> bool:
        """Whether `coef_` and predictions have one dimension less."""
        return problem.targets.ndim == 1 and not self._several_quantiles()

    def _validation_rows(self, problem: Problem) -> NDArray[np.intp]:
        splitter = ShuffleSplit(test_size=self.validation_fraction, random_state=self.random_state)
        return next(splitter.split(np.zeros((problem.X.shape[0], 1))))[1]

    def _validation_score(self, problem: Problem, raw: NDArray[Any]) -> float:
        return float(np.mean(self._validation_scores(problem, raw)))

    def _validation_scores(self, problem: Problem, raw: NDArray[Any]) -> NDArray[np.float64]:
        return np.array([_score(problem, k, raw[:, k]) for k in range(problem.n_scores)])

    def _raw(self, X: Any, offset: Any) -> NDArray[Any]:
        scores = self._scores(X)
        offset = _check_offset(offset, len(scores))
        return scores if offset is None else scores + offset[:, None].astype(scores.dtype)

    def predict(self, X, *, offset=None):
        """What the loss estimates (mean, median, quantile, expected count, ...).

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        offset : array-like of shape (n_samples,), default=None
            Added to the raw predictions, as in `fit`.

        Returns
        -------
        y : ndarray of shape (n_samples,), (n_samples, n_outputs) or (n_samples, n_quantiles)
            In X's dtype; for losses with a log link ("poisson", "gamma", ...) on the scale of y, not of its logarithm.
        """
        check_is_fitted(self)
        raw = self._raw(X, offset)
        losses = self._losses if len(self._losses) > 1 else self._losses * raw.shape[1]
        columns = [loss.predict(np.ascontiguousarray(raw[:, k])) for k, loss in enumerate(losses)]
        return columns[0] if self._flat else np.column_stack(columns)

    def score(self, X, y, sample_weight=None, *, offset=None):
        """How much better than the best constant the predictions are: 1 is perfect, 0 no better.

        R² for most losses; for count losses and quantiles the same with the loss in place of the squared error,
        D² = 1 - (loss - smallest possible loss) / (loss of the best constant - smallest possible loss).

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            True targets.
        sample_weight : array-like of shape (n_samples,), default=None
        offset : array-like of shape (n_samples,), default=None
            Added to the raw predictions, as in `fit`.

        Returns
        -------
        score : float
            The mean over outputs or quantiles.
        """
        check_is_fitted(self)
        raw = self._raw(X, offset)
        y, unknown = self._without_gaps(y)
        y = np.ascontiguousarray(check_array(y, ensure_2d=False, dtype=raw.dtype, input_name="y"))
        if y.shape[0] != raw.shape[0]:
            raise ValueError(f"y has {y.shape[0]} elements, X has {raw.shape[0]} rows")
        y = self._checked_targets(self._losses, y, unknown)
        weight = self._check_weight(sample_weight, len(raw), allow_zero=False)
        problem = Problem(raw, y, self._losses, raw.shape[1], weight)
        return float(np.mean([_score(problem, k, raw[:, k]) for k in range(problem.n_scores)]))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _check_offset(offset: Any, n: int) -> NDArray[np.float64] | None:
    if offset is None:
        return None
    offset = check_array(offset, ensure_2d=False, dtype=np.float64, order="C", input_name="offset")
    if offset.shape != (n,):
        raise ValueError(f"offset must have one element per row of X, ({n},), got shape {offset.shape}")
    return offset


def _score(problem: Problem, k: int, raw: NDArray[Any]) -> float:
    """R² or D² of one output."""
    loss, y, weight = problem.loss_of(k), np.ascontiguousarray(problem.target_of(k)), problem.sample_weight
    raw = np.ascontiguousarray(raw)
    if loss._masks_nan:
        known = ~np.isnan(y)
        y, raw, weight = y[known], raw[known], None if weight is None else weight[known]
    if loss.link == "log":
        constant = np.log(np.average(y, weights=weight))
        with np.errstate(divide="ignore"):
            smallest = loss.loss(y, np.log(np.maximum(y, 0)), weight)
    elif loss._registered in QUANTILE_LOSSES or loss.kind == "binary":
        constant, smallest = best_constant(loss, y, 1, weight, most=len(y))[0], 0.0
    else:
        return r2_score(y, loss.predict(raw), sample_weight=weight)
    excess = loss.loss(y, raw, weight) - smallest
    of_constant = loss.loss(y, np.full_like(y, constant), weight) - smallest
    if of_constant <= 0:
        return 1.0 if excess <= 0 else 0.0
    return 1.0 - excess / of_constant
