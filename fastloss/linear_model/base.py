"""What both estimators share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from fastloss._kernels.sgd import Design, RowOrder, Trainer
from fastloss.linear_model.checks import check_bool, check_choice, check_int, check_real, check_sample_weight
from fastloss.linear_model.schedules import Progress, overflow, run_epochs, warn_about
from fastloss.losses import Loss, get_loss

# scikit-learn steps the intercept a hundred times slower on sparse rows: it changes with every row, a coefficient only
# with the rows that have the feature.  Explicit schedules keep its conventions.
SPARSE_INTERCEPT_RATE = 0.01

# What X may be, in scikit-learn's words.
ROWS: dict[str, Any] = {
    "accept_sparse": "csr",
    "accept_large_sparse": True,
    "dtype": [np.float64, np.float32],
    "order": "C",
}

LEARNING_RATES = ("constant", "optimal", "invscaling", "adaptive")
PENALTIES = ("l2", None)

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
    def _check_parameters(self) -> None:
        check_choice("penalty", self.penalty, PENALTIES)
        check_choice("learning_rate", self.learning_rate, LEARNING_RATES)
        check_real("alpha", self.alpha, 0.0)
        check_real("eta0", self.eta0, 0.0, above=True)
        check_real("power_t", self.power_t)
        check_int("max_iter", self.max_iter, 1)
        check_int("n_iter_no_change", self.n_iter_no_change, 1)
        if self.tol is not None:
            check_real("tol", self.tol, 0.0)
        check_bool("fit_intercept", self.fit_intercept)
        check_bool("shuffle", self.shuffle)
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
    ) -> list[Progress]:
        """Train the rows of `coef` and the elements of `intercept`, in place."""
        design = Design(X)
        rng = check_random_state(self.random_state)
        seed = int(rng.randint(np.iinfo(np.int32).max)) if self.shuffle else None
        intercept64 = intercept.astype(np.float64)
        trainer = Trainer(
            design,
            loss._kernel,
            targets,
            check_sample_weight(sample_weight, X.shape[0]),
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
            progress = run_epochs(
                trainer,
                max_iter=self.max_iter,
                tol=self.tol,
                patience=self.n_iter_no_change,
                adaptive=self.learning_rate == "adaptive",
                verbose=self.verbose,
            )
            intercept[:] = intercept64
        if not (np.isfinite(coef).all() and np.isfinite(intercept).all()):
            raise overflow(max(p.n_iter for p in progress))
        return progress

    def _store(self, progress: list[Progress], n_samples: int, loss: Loss, **attributes: Any) -> None:
        """Set the attributes of a finished fit, all together; only then warn, as a warning may be made an error."""
        self.n_iter_ = max(p.n_iter for p in progress)
        self.t_ = 1.0 + self.n_iter_ * n_samples
        self._fitted_loss = loss
        self.__dict__.update(attributes)
        warn_about(progress, self.max_iter)

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
