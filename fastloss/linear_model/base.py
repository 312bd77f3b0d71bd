"""What both estimators share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from fastloss._kernels.sgd import Trainer
from fastloss.linear_model import schedules
from fastloss.linear_model.checks import (
    check_bool,
    check_choice,
    check_int,
    check_real,
    check_sample_weight,
    start_values,
)
from fastloss.linear_model.problem import Problem, product
from fastloss.linear_model.schedules import PASSIVE, Progress, State, warn_about
from fastloss.losses import Loss, get_loss

# What X may be, in scikit-learn's words.
ROWS: dict[str, Any] = {
    "accept_sparse": "csr",
    "accept_large_sparse": True,
    "dtype": [np.float64, np.float32],
}

LEARNING_RATES = ("constant", "optimal", "invscaling", "adaptive", *PASSIVE)
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


class BaseSGD(BaseEstimator):
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
        check_int("batch_size", self.batch_size, 1)
        if self.tol is not None:
            check_real("tol", self.tol, 0.0)
        for name in ("fit_intercept", "shuffle", "early_stopping", "warm_start"):
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

    def _check_passive(self) -> None:
        name = self.loss.name if isinstance(self.loss, Loss) else self.loss
        if name != self._passive_loss:
            raise ValueError(
                f"learning_rate={self.learning_rate!r} needs loss={self._passive_loss!r} in {type(self).__name__}, "
                f"got loss={self.loss!r}"
            )
        if self.batch_size > 1:
            raise ValueError(f"learning_rate={self.learning_rate!r} needs batch_size=1, got {self.batch_size}")

    def _check_training_data(self, X: Any, y: Any, *, first: bool = True, **options: Any) -> tuple[Any, np.ndarray]:
        """X and y for training; a later batch is of the first one's dtype."""
        rows = ROWS if first else {**ROWS, "dtype": self.coef_.dtype}
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

    def _validation_scores(self, problem: Problem, raw: NDArray[Any]) -> NDArray[np.float64]:
        """A score per model on these rows, larger is better."""
        raise NotImplementedError

    def _fit_problem(self, problem: Problem, coef_init: Any, intercept_init: Any, **attributes: Any) -> None:
        """Train from start values, and set the attributes of the fitted estimator."""
        if self.warm_start and hasattr(self, "coef_"):
            coef_init = self._dense_coef() if coef_init is None else coef_init
            intercept_init = self.intercept_ if intercept_init is None else intercept_init
        state = State(
            start_values("coef_init", coef_init, (problem.n_scores, problem.X.shape[1]), problem.X.dtype),
            start_values("intercept_init", intercept_init, (problem.n_scores,), np.float64),
        )
        rows = validate = None
        if self.early_stopping:
            rows, validate = self._hold_out(problem)
        progress = schedules.train(problem, state, self, max_iter=self.max_iter, rows=rows, validate=validate)
        self._store(progress, state, problem, **attributes)
        warn_about(progress, self.max_iter)

    def _partial_fit_problem(self, problem: Problem, **attributes: Any) -> None:
        """One epoch on from where the last call ended."""
        state = (
            self._state.copy()
            if hasattr(self, "coef_")
            else State(np.zeros((problem.n_scores, problem.X.shape[1]), problem.X.dtype), np.zeros(problem.n_scores))
        )
        if hasattr(self, "coef_") and not self.average:
            # what the attributes say counts, also where the user changed them
            state.coef = np.array(self._dense_coef().reshape(state.coef.shape), order="C")
            state.intercept = np.array(self.intercept_, dtype=np.float64)
        progress = [Progress(self.tol, self.n_iter_no_change)]
        if problem.sample_weight is None or problem.sample_weight.any():
            progress = schedules.train(problem, state, self, max_iter=1)
        self._store(progress, state, problem, **attributes)

    def _hold_out(self, problem: Problem) -> tuple[NDArray[np.intp], Callable[[Trainer], NDArray[np.float64]]]:
        """The rows left for training, and the function that scores a model on the others."""
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
        validation = problem.take(others)
        compatible = problem.losses[0].name in SCIKIT_LEARN_LOSSES

        def validate(trainer: Trainer) -> NDArray[np.float64]:
            coef, intercept = trainer.snapshot()
            if compatible:
                coef = trainer.coefficients()
            return self._validation_scores(validation, validation.raw(coef, intercept))

        return rows, validate

    def _store(self, progress: list[Progress], state: State, problem: Problem, **attributes: Any) -> None:
        """Set the attributes of a finished fit, all together."""
        self.__dict__.update(attributes)
        self.n_iter_ = max(p.n_iter for p in progress)
        self.t_ = state.t
        self._state = state
        self._losses = problem.losses
        for name in ("_standard_coef", "_standard_intercept", "_average_coef", "_average_intercept"):
            self.__dict__.pop(name, None)
        coef: Any = state.coef
        intercept: Any = state.intercept
        if self.average:
            # under the names of scikit-learn, which subclasses of its estimators use
            self._standard_coef, self._standard_intercept = state.coef, state.intercept
            self._average_coef, self._average_intercept = state.average_coef, state.average_intercept
            if self.average <= state.t - 1:
                coef, intercept = state.average_coef, state.average_intercept
        self.coef_ = self._public_coef(coef)
        self.intercept_ = intercept.astype(coef.dtype)

    def _public_coef(self, coef: NDArray[Any]) -> NDArray[Any]:
        """`coef_` for coefficients (n_scores, d)."""
        return coef.copy()

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
            self.coef_ = self._public_coef(self.coef_.toarray())
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
