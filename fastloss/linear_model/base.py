"""What both estimators share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from fastloss._kernels.sgd import Trainer
from fastloss.linear_model import auto, schedules, stream
from fastloss.linear_model.checks import (
    check_bool,
    check_choice,
    check_int,
    check_real,
    check_sample_weight,
    start_values,
)
from fastloss.linear_model.optimum.columns import MomentsOverflowError
from fastloss.linear_model.problem import Problem, naming_samples, product
from fastloss.linear_model.record import CallbackSupport, Record
from fastloss.linear_model.schedules import PASSIVE, Progress, State, warn_about
from fastloss.losses import BatchLoss, Loss, get_loss, list_losses

# What X may be, in scikit-learn's words.
ROWS: dict[str, Any] = {
    "accept_sparse": "csr",
    "accept_large_sparse": True,
    "dtype": [np.float64, np.float32],
}

LEARNING_RATES = ("auto", "constant", "optimal", "invscaling", "adaptive", *PASSIVE)
PENALTIES = ("l2", "l1", "elasticnet", None)

# With these, early stopping ends after the same number of epochs as in scikit-learn 1.9, which scores the coefficients
# before their scale (the shrinkage by the L2 penalty so far) is multiplied in, with log_loss against labels of which it
# never finds a negative one.  Other losses have nobody to agree with, and get the score of the model.
SCIKIT_LEARN_LOSSES = (
    "hinge",
    "squared_hinge",
    "perceptron",
    "log_loss",
    "modified_huber",
    "squared_error",
    "huber",
    "epsilon_insensitive",
    "squared_epsilon_insensitive",
)

# Which estimator parameter feeds which parameter of a loss given by name; `loss_params` overrides.
PARAMETER_SOURCES = {
    "huber": {"delta": "epsilon"},
    "epsilon_insensitive": {"epsilon": "epsilon"},
    "squared_epsilon_insensitive": {"epsilon": "epsilon"},
    "quantile": {"quantile": "quantile"},
    "smooth_quantile": {"quantile": "quantile"},
}


class BaseSGD(CallbackSupport, BaseEstimator):
    """Parameters, their checks, and training of one or more weight vectors on the same rows."""

    # The one loss that passive-aggressive steps are defined for.
    _passive_loss: str

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
        if isinstance(self.loss, BatchLoss) or self.loss in list_losses("batch"):
            raise ValueError(
                f"loss={self.loss!r} is a loss over the whole batch, no sum over samples that {type(self).__name__} "
                "could take steps on; minimise it with fastloss.LinearObjective(X, y, loss=...)"
            )
        if isinstance(self.loss, Loss):
            if self.loss_params:
                raise ValueError(f"loss_params needs a loss given by name; {self.loss!r} already has its parameters")
            if not self._accepts(self.loss):
                raise ValueError(
                    f"loss={self.loss!r} is of kind {self.loss.kind!r}, which {type(self).__name__} cannot train; "
                    f"it takes {', '.join(self._loss_names())}"
                )
            return self.loss._for_training()
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
            check_real(source, value, 0.0)
            parameters[target] = value
        return {**parameters, **(self.loss_params or {})}

    # -- checks ------------------------------------------------------------------------------------------------
    def _check_parameters(self, streaming: bool = False) -> None:
        check_choice("penalty", self.penalty, PENALTIES)
        check_choice("learning_rate", self.learning_rate, LEARNING_RATES)
        check_real("alpha", self.alpha, 0.0)
        if self.l1_ratio is not None:
            check_real("l1_ratio", self.l1_ratio, 0.0, 1.0)
        elif self.penalty == "elasticnet":
            raise ValueError("l1_ratio must be set when penalty is 'elasticnet', got None")
        check_real("eta0", self.eta0, 0.0, above=True)
        check_real("power_t", self.power_t)
        if self.power_t < 0:
            warnings.warn(
                "Negative values for `power_t` are deprecated, as in scikit-learn: step sizes would grow.",
                FutureWarning,
                stacklevel=3,
            )
        check_int("max_iter", self.max_iter, 1)
        check_int("n_iter_no_change", self.n_iter_no_change, 1)
        if self.batch_size is not None:
            check_int("batch_size", self.batch_size, 1)
        if self.tol is not None:
            check_real("tol", self.tol, 0.0)
        for name in ("fit_intercept", "shuffle", "early_stopping", "warm_start", "positive", "restore_best"):
            check_bool(name, getattr(self, name))
        check_real("validation_fraction", self.validation_fraction, 0.0, 1.0, above=True, below=True)
        if not isinstance(self.average, bool | np.bool_):
            check_int("average", self.average, 0)
        if self.early_stopping and streaming:
            raise ValueError("early_stopping should be False with partial_fit, which sees no whole data set to split")
        if self.learning_rate == "optimal" and self.alpha == 0:
            raise ValueError("alpha must be > 0 with learning_rate='optimal', which divides by it")
        if self.learning_rate in PASSIVE:
            self._check_passive()
        if self.positive or self.bounds is not None:
            self._check_constrained("positive" if self.positive else "bounds")
        check_random_state(self.random_state)

    def _loss_name(self) -> str:
        """The name of the loss the parameters ask for, if it is one."""
        return self.loss._registered if isinstance(self.loss, Loss) else self.loss

    def _check_constrained(self, name: str) -> None:
        if self.learning_rate != "auto":
            raise ValueError(f"{name} needs learning_rate='auto', got learning_rate={self.learning_rate!r}")
        if self._loss_name() == "perceptron":
            raise ValueError(f"{name}: loss='perceptron' is trained by an algorithm that knows no constraints")

    def _limits(self, d: int) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Least and greatest coefficients, by `positive` and `bounds`."""
        if self.bounds is None:
            return (np.zeros(d), np.full(d, np.inf)) if self.positive else None
        try:
            low, high = (
                np.broadcast_to(np.asarray(infinity if side is None else side, np.float64), (d,))
                for side, infinity in zip(self.bounds, (-np.inf, np.inf), strict=True)
            )
        except (TypeError, ValueError):
            raise ValueError(
                f"bounds must be None or (least, greatest), each None, a number or {d} numbers, got {self.bounds!r}"
            ) from None
        if self.positive:
            low = np.maximum(low, 0.0)
        if not ((low <= high) & (low < np.inf) & (high > -np.inf)).all():
            raise ValueError(
                f"bounds must be (least, greatest) with least <= greatest, and room between them, got {self.bounds!r}"
            )
        return low, high

    def _check_passive(self) -> None:
        if self._loss_name() != self._passive_loss:
            raise ValueError(
                f"learning_rate={self.learning_rate!r} needs loss={self._passive_loss!r} in {type(self).__name__}, "
                f"got loss={self.loss!r}"
            )
        if self.batch_size is not None and self.batch_size > 1:
            raise ValueError(f"learning_rate={self.learning_rate!r} needs batch_size=1, got {self.batch_size}")

    def _check_training_data(
        self, X: Any, y: Any, *, first: bool = True, dtype: Any = None, **options: Any
    ) -> tuple[Any, np.ndarray]:
        """X and y for training; a later batch is of the first one's dtype, validation data are of `dtype`."""
        rows = ROWS if first else {**ROWS, "dtype": self.coef_.dtype if dtype is None else dtype}
        options.setdefault("y_numeric", isinstance(self, RegressorMixin))
        X, y = validate_data(self, X, y, reset=first, **options, **rows)
        if self.learning_rate in PASSIVE and sp.issparse(X) and not X.has_canonical_format:
            # the length of a step depends on the row's norm, in which elements of the same place count as their sum
            X = X.copy()
            X.sum_duplicates()
        return X, y

    def _check_rows(self, X: Any) -> Any:
        """X for predictions of a fitted model."""
        return validate_data(self, X, reset=False, **ROWS)

    def _check_weight(self, sample_weight: Any, n: int, *, allow_zero: bool) -> NDArray[np.float64] | None:
        # with all weights zero, early stopping complains about its validation set instead
        return check_sample_weight(sample_weight, n, allow_zero=allow_zero or self.early_stopping)

    def __sklearn_is_fitted__(self) -> bool:
        # not the presence of any attribute: an interrupted or refused first fit leaves n_features_in_
        return hasattr(self, "coef_")

    # -- training ----------------------------------------------------------------------------------------------
    def _validation_rows(self, problem: Problem) -> NDArray[np.intp]:
        """Rows to hold out for early stopping."""
        raise NotImplementedError

    def _validation_score(self, problem: Problem, raw: NDArray[Any]) -> float:
        """What `score` gives on these rows."""
        raise NotImplementedError

    def _validation_scores(self, problem: Problem, raw: NDArray[Any]) -> NDArray[np.float64]:
        """A score per model on these rows, larger is better."""
        raise NotImplementedError

    def _fit_problem(
        self,
        problem: Problem,
        coef_init: Any,
        intercept_init: Any,
        *,
        data: tuple[Any, Any, Any],
        validation: Problem | None = None,
        **attributes: Any,
    ) -> None:
        """Train from start values, and set the attributes of the fitted estimator.

        `data` are X, y and sample_weight as the user gave them, for callbacks; `validation` the user's own validation
        data; `attributes` those that predictions need beside the coefficients.
        """
        state, warm = self._start(problem, coef_init, intercept_init)
        attributes["_losses"] = problem.losses

        def reconstruct(coef: NDArray[Any], intercept: NDArray[Any]) -> dict[str, Any]:
            return {**attributes, **self._public(coef, intercept, problem.X.dtype, attributes)}

        callbacks = self._begin_callbacks(
            data[0], data[1], max_iter=self.max_iter, reconstruct=reconstruct, sample_weight=data[2]
        )
        train = self._train_auto if self._wants_optimum(problem) else self._train_scheduled
        with np.errstate(over="ignore", invalid="ignore"), naming_samples(problem):
            record, found, warn = train(problem, state, validation, callbacks, warm)
        if record.best is not None:
            state.coef, state.intercept = record.best[0].astype(state.coef.dtype), record.best[1].astype(np.float64)
            state.average_coef = state.average_intercept = None
        self._store(state, problem, **attributes, **found, **record.attributes())
        if callbacks is not None:
            callbacks.finish()
        if not record.stopped:
            warn()

    def _wants_optimum(self, problem: Problem) -> bool:
        # the perceptron's objective is least for the zero model: it is an algorithm rather than an objective
        return self.learning_rate == "auto" and problem.losses[0]._registered != "perceptron"

    def _schedule(self) -> schedules.Settings:
        """The parameters of an explicit schedule."""
        if self.learning_rate == "auto":
            return clone(self).set_params(learning_rate="constant", eta0=1.0)
        return self

    def _start(self, problem: Problem, coef_init: Any, intercept_init: Any) -> tuple[State, bool]:
        """Start values, and whether anybody asked for them."""
        if self.warm_start and hasattr(self, "coef_"):
            coef_init = self._dense_coef() if coef_init is None else coef_init
            intercept_init = self.intercept_ if intercept_init is None else intercept_init
        state = State(
            start_values("coef_init", coef_init, (problem.n_scores, problem.X.shape[1]), problem.X.dtype),
            start_values("intercept_init", intercept_init, (problem.n_scores,), np.float64),
        )
        return state, coef_init is not None or intercept_init is not None

    def _record(self, validate: Callable[..., float] | None, callbacks: Any) -> Record:
        return Record(
            max_iter=self.max_iter,
            verbose=self.verbose,
            validate=validate,
            restore_best=self.restore_best,
            callbacks=callbacks,
        )

    def _train_scheduled(
        self, problem: Problem, state: State, validation: Problem | None, callbacks: Any, warm: bool
    ) -> tuple[Record, dict[str, Any], Callable[[], None]]:
        """Train by a schedule: the record, attributes of the fitted estimator, and what says how it went."""
        rows = validate = None
        if self.early_stopping and validation is not None:
            validate = self._validator(validation)
        elif self.early_stopping:
            rows, validation = self._hold_out(problem)
            validate = self._validator(validation)
        record = self._record(None if validation is None else self._scorer(validation), callbacks)
        with record:
            progress = schedules.train(
                problem, state, self._schedule(), max_iter=self.max_iter, rows=rows, validate=validate, record=record
            )
        converged = all(p.converged for p in progress) and not any(p.n_clipped for p in progress)
        found = {"n_iter_": max(p.n_iter for p in progress), "converged_": converged}
        return record, found, lambda: warn_about(progress, self.max_iter)

    def _train_auto(
        self, problem: Problem, state: State, validation: Problem | None, callbacks: Any, warm: bool
    ) -> tuple[Record, dict[str, Any], Callable[[], None]]:
        """Find the optimum; returns what `_train_scheduled` does."""
        if self.early_stopping and validation is None:
            rows, validation = self._hold_out(problem)
            problem = problem.take(rows)
        record = self._record(None if validation is None else self._scorer(validation), callbacks)
        progress = Progress(self.tol, self.n_iter_no_change)

        def monitor(passes: int, loss: float, objective: float, model: Callable[[], auto.Model]) -> bool:
            stop = record.epoch(n_iter=passes, loss=loss, objective=objective, step_size=np.nan, snapshot=model)
            if self.early_stopping and record.validation_curve:
                progress.converged = progress.after_epoch(-record.validation_curve[-1], 0, validated=True)
            return stop or progress.converged

        limits = self._limits(problem.X.shape[1])
        with record:
            try:
                outcome = auto.train(problem, state, self, warm=warm, bounds=limits, monitor=monitor)
            except MomentsOverflowError:
                raise schedules.overflow(1, problem.losses[0]) from None
        if not (np.isfinite(state.coef).all() and np.isfinite(state.intercept).all()):
            raise schedules.overflow(outcome.n_iter, problem.losses[0])
        n = problem.X.shape[0]
        state.t = 1.0 + outcome.n_iter * n
        if outcome.moments is not None:
            state.fitted = stream.Statistics.of(outcome.moments, n), n
        found = {"n_iter_": outcome.n_iter, "converged_": outcome.converged}
        return record, found, lambda: None if progress.converged else auto.warn_about(outcome, self)

    def _scorer(self, validation: Problem) -> Callable[[NDArray[Any], NDArray[Any]], float]:
        """The mean score over models on validation data."""

        def score(coef: NDArray[Any], intercept: NDArray[Any]) -> float:
            raw = validation.raw(coef.astype(validation.X.dtype, copy=False), intercept)
            return self._validation_score(validation, raw)

        return score

    def _partial_fit_problem(self, problem: Problem, **attributes: Any) -> None:
        """One epoch on from where the last call ended."""
        state = (
            self._state.copy()
            if hasattr(self, "coef_")
            else State(np.zeros((problem.n_scores, problem.X.shape[1]), problem.X.dtype), np.zeros(problem.n_scores))
        )
        averaged = self.average or (self.learning_rate == "auto" and state.stream is not None)
        if hasattr(self, "coef_") and not averaged:
            # what the attributes say counts, also where the user changed them
            state.coef = np.array(self._dense_coef().reshape(state.coef.shape), order="C")
            state.intercept = np.array(self.intercept_, dtype=np.float64)
        if problem.sample_weight is None or problem.sample_weight.any():
            with naming_samples(problem):
                if self._wants_optimum(problem):
                    stream.train(problem, state, self, self._limits(problem.X.shape[1]))
                else:
                    schedules.train(problem, state, self._schedule(), max_iter=1)
        self._store(state, problem, _losses=problem.losses, n_iter_=1, **attributes)

    def fit_stream(self, batches, epochs=1, **arguments):
        """Train from scratch on batches that need not fit into memory together: one `partial_fit` after the other.

        With an explicit `learning_rate`, ``shuffle=False`` and ``tol=None`` the result is that of `fit` with
        ``max_iter=epochs`` on all rows in the same order.

        Parameters
        ----------
        batches : iterable of (X, y) or (X, y, sample_weight), or a function that returns one
            Read once per epoch.  For several epochs it must be a sequence or another object that can be iterated over
            again, or a function; a generator can be read only once.
        epochs : int, default=1
            How often to read the batches.
        **arguments
            Passed on to `partial_fit`: `classes` of a classifier.  Without it the batches are read once more, in front,
            to find the labels.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            No batch, a batch that does not fit the others, or an iterator that has to be read again.

        Examples
        --------
        >>> import numpy as np
        >>> from fastloss import SGDLossRegressor
        >>> X = np.arange(8.0).reshape(4, 2)
        >>> halves = [(X[:2], X[:2, 0]), (X[2:], X[2:, 0])]
        >>> SGDLossRegressor(random_state=0).fit_stream(halves, epochs=5).n_iter_
        5
        """
        self._check_parameters(streaming=True)
        check_int("epochs", epochs, 1)
        source = stream.Batches(batches)
        arguments = self._stream_arguments(source, arguments)
        fresh = clone(self)
        with Record(max_iter=epochs, verbose=self.verbose) as record:
            for epoch in range(1, epochs + 1):
                for X, y, weight in source:
                    fresh.partial_fit(X, y, sample_weight=weight, **arguments)
                record.epoch(
                    n_iter=epoch, loss=np.nan, objective=np.nan, step_size=np.nan, snapshot=lambda: (np.nan, np.nan)
                )
        # only now: an interrupted call leaves the last model
        self.__dict__.update({name: value for name, value in vars(fresh).items() if name not in self.get_params()})
        self.n_iter_ = epochs
        return self

    def _stream_arguments(self, source: stream.Batches, arguments: dict[str, Any]) -> dict[str, Any]:
        """Arguments of partial_fit that have to be known before the first batch."""
        return arguments

    def _hold_out(self, problem: Problem) -> tuple[NDArray[np.intp], Problem]:
        """The rows left for training, and the others as a problem of their own."""
        n, weight = problem.X.shape[0], problem.sample_weight
        held_out = np.zeros(n, dtype=bool)
        held_out[self._validation_rows(problem)] = True
        rows, others = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        if weight is not None and not weight[others].any():
            raise ValueError(
                "The sample weights for validation set are all zero, consider using a different random state."
            )
        if weight is not None and not weight[rows].any():
            raise ValueError("sample_weight is zero for all rows that the validation set leaves for training")
        return rows, problem.take(others)

    def _validator(self, validation: Problem) -> Callable[[Trainer], NDArray[np.float64]]:
        """A score per model on validation data, from a trainer."""
        compatible = validation.losses[0]._registered in SCIKIT_LEARN_LOSSES

        def validate(trainer: Trainer) -> NDArray[np.float64]:
            coef, intercept = trainer.snapshot()
            if compatible:
                coef = trainer.coefficients()
            return self._validation_scores(validation, validation.raw(coef, intercept))

        return validate

    def _store(self, state: State, problem: Problem, **attributes: Any) -> None:
        """Set the attributes of a finished fit, all together."""
        self.t_ = state.t
        self._state = state
        for name in ("_standard_coef", "_standard_intercept", "_average_coef", "_average_intercept"):
            self.__dict__.pop(name, None)
        coef: Any = state.coef
        intercept: Any = state.intercept
        if state.average_coef is not None:
            # under the names of scikit-learn, which subclasses of its estimators use
            self._standard_coef, self._standard_intercept = state.coef, state.intercept
            self._average_coef, self._average_intercept = state.average_coef, state.average_intercept
            if state.stream is not None or self.average <= state.t - 1:
                coef, intercept = state.average_coef, state.average_intercept
        self.__dict__.update(attributes)
        self.__dict__.update(self._public(coef, intercept, state.coef.dtype, attributes))

    def _public(
        self, coef: NDArray[Any], intercept: NDArray[Any], dtype: Any, attributes: Mapping[str, Any]
    ) -> dict[str, Any]:
        """`coef_` and `intercept_` for coefficients (n_scores, d) and intercepts (n_scores,)."""
        coef = coef.astype(dtype)
        flat = coef.shape[0] == 1 and attributes.get("_flat", False)
        return {"coef_": coef[0] if flat else coef, "intercept_": intercept.astype(dtype)}

    # -- sparse coefficients -----------------------------------------------------------------------------------
    def _dense_coef(self) -> NDArray[Any]:
        coef: Any = self.coef_
        return coef.toarray() if sp.issparse(coef) else coef

    def sparsify(self):
        """Make `coef_` a CSR matrix: smaller, and faster to predict with, where most of it is zero.

        Returns
        -------
        self
        """
        check_is_fitted(self)
        self.coef_ = sp.csr_matrix(np.atleast_2d(self._dense_coef()))
        return self

    def densify(self):
        """Make `coef_` an ndarray again, which it is after `fit`.

        Returns
        -------
        self
        """
        check_is_fitted(self)
        if sp.issparse(self.coef_):
            dense = self.coef_.toarray()
            self.coef_ = dense[0] if getattr(self, "_flat", False) and len(dense) == 1 else dense
        return self

    # -- prediction --------------------------------------------------------------------------------------------
    def _scores(self, X: Any) -> np.ndarray:
        """Raw predictions, one column per weight vector, in X's dtype."""
        check_is_fitted(self)
        X = self._check_rows(X)
        coef = self.coef_ if sp.issparse(self.coef_) else np.atleast_2d(self.coef_)
        return product(X, coef.astype(X.dtype, copy=False)) + self.intercept_.astype(X.dtype, copy=False)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
