"""Losses as objectives of gradient boosting: LightGBM and XGBoost, with the conventions of each.

Made by :meth:`Loss.as_lightgbm` and :meth:`Loss.as_xgboost`. What a host does for its built-in objectives and not for
one of ours is here: starting scores, the scale of hessians, parameters that come with an objective, the metric. What
was read off the hosts is in the tables `LIGHTGBM` and `XGBOOST`; tests/test_boosting_parity.py compares whole models
with those of LightGBM 4.7 and XGBoost 3.2. Neither host is imported.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastloss._kernels import dispatch
from fastloss.constants import best_constant
from fastloss.losses import Loss
from fastloss.losses._base import sigmoid

BoostingHessian = Literal["auto", "exact", "fisher", "upper_bound"]
Derivatives = tuple[NDArray, NDArray]
FLOOR = 1e-16  # of a hessian, times the weight: leaf values divide by sums of them. XGBoost's, for its log losses
LEAST_SHARE = 1e-15  # of a class: LightGBM's
# Losses over a batch that are not convex, whose exact hessian is one of pairs of log losses; LightGBM's.
NEVER_NEGATIVE = ("lambdarank",)


# ------------------------------------------------------------------------------------------------- host conventions
@dataclass(frozen=True)
class Convention:
    """What a host does with a loss that it has built in.

    Parameters
    ----------
    hessian : {"exact", "upper_bound", "straight"}
        One of :meth:`Loss.gradient_hessian`'s, or that of :func:`_straight`.
    factor : float
        Multiplies the hessian (beside what the host does for all losses over K scores).
    floor : float
        Least hessian.
    start : callable, optional
        f(loss, y, K, weight) -> (K,) starting scores; the best constant without it.
    params : mapping
        Parameters of training that the host sets with the objective.
    """

    hessian: str = "exact"
    factor: float = 1.0
    floor: float = FLOOR
    start: Callable[[Loss, NDArray, int, NDArray | None], NDArray] = best_constant
    params: Mapping[str, Any] = field(default_factory=dict)


def _mean(loss: Loss, y: NDArray, K: int, weight: NDArray | None) -> NDArray:
    return np.atleast_1d(np.average(y, axis=0, weights=weight))


def _log_odds(loss: Loss, y: NDArray, K: int, weight: NDArray | None) -> NDArray:
    share = np.clip(_mean(loss, np.maximum(y, 0), K, weight), LEAST_SHARE, 1 - LEAST_SHARE)
    return np.log(share) - np.log1p(-share)


def _log_shares(loss: Loss, y: NDArray, K: int, weight: NDArray | None) -> NDArray:
    mass = np.bincount(y.astype(np.intp), weight, K)
    return np.log(np.maximum(mass / mass.sum(), LEAST_SHARE))


def _zero(loss: Loss, y: NDArray, K: int, weight: NDArray | None) -> NDArray:
    return np.zeros(K)


def _newton_step(loss: Loss, y: NDArray, K: int, weight: NDArray | None) -> NDArray:
    """From 0, for each output."""
    gradient, hessian = XGBoostObjective(loss).gradient_hessian(y, np.zeros(y.shape), weight)
    return np.atleast_1d(-gradient.sum(axis=0) / hessian.sum(axis=0))


def _log_odds_or_step(loss: Loss, y: NDArray, K: int, weight: NDArray | None) -> NDArray:
    return (_log_odds if loss.params["pos_weight"] == 1 else _newton_step)(loss, np.maximum(y, 0), K, weight)


POISSON = math.exp(0.7)  # of poisson_max_delta_step (LightGBM) or max_delta_step (XGBoost), by default 0.7

LIGHTGBM = {
    "squared_error": Convention(start=_mean),
    "huber": Convention("upper_bound", start=_mean),
    "fair": Convention(start=_mean),
    "poisson": Convention(factor=POISSON),
    "gamma": Convention(),
    "tweedie": Convention(),
    "log_loss": Convention(start=_log_odds),
    "cross_entropy": Convention(start=_log_shares),
}
XGBOOST = {
    "squared_error": Convention(start=_mean),
    "pseudo_huber": Convention(start=_newton_step),
    "msle": Convention(floor=1e-6, start=_newton_step),
    "poisson": Convention(factor=POISSON, params={"max_delta_step": 0.7}),
    "gamma": Convention(),
    "tweedie": Convention(),
    "log_loss": Convention(start=_log_odds_or_step),
    "hinge": Convention("straight", floor=float(np.finfo(np.float32).tiny), start=_zero),
    "cross_entropy": Convention(),
}


def _lookup(table: Mapping[str, Convention], loss: Loss) -> Convention | None:
    """The host's convention, if the host has this loss with these parameters."""
    if not type(loss).__module__.startswith("fastloss.losses"):  # one of the same name from elsewhere
        return None
    given = loss.params
    beyond = given.get("label_smoothing") or given.get("z_loss") or given.get("neg_weight", 1) != 1
    outside = loss.name == "tweedie" and not loss.convex
    return None if beyond or outside else table.get(loss.name)


# ------------------------------------------------------------------------------------------------- hessians
def _has(loss: Loss, hessian: str) -> bool:
    try:
        loss._hessian_policy(hessian)
    except ValueError:
        return False
    return True


def _positive(hessian: NDArray, factor: float, floor: float, weight: NDArray | None) -> NDArray:
    """The hessian times a factor, at least `floor` times the weight, and 0 for samples of weight 0.

    It is changed in place: beside a loss of 1.5 ns a sample, every array that is made here would be seen.
    """
    if factor != 1:
        hessian *= hessian.dtype.type(factor)
    if weight is None:
        return np.maximum(hessian, hessian.dtype.type(floor), out=hessian)
    np.maximum(hessian, (floor * weight.reshape(-1, *[1] * (hessian.ndim - 1))).astype(hessian.dtype), out=hessian)
    hessian[weight == 0] = 0  # also where the raw prediction is NaN
    return hessian


def _spread(constant: float, raw: NDArray, weight: NDArray | None) -> NDArray:
    """A constant times the weights, in the shape and dtype of raw."""
    weights = np.ones(len(raw)) if weight is None else weight
    return np.broadcast_to(constant * weights.reshape(-1, *[1] * (raw.ndim - 1)), raw.shape).astype(raw.dtype)


def _straight(loss: Loss, y: NDArray, raw: NDArray, weight: NDArray | None, n_threads: int | None) -> Derivatives:
    """The second derivative; where the loss is a straight line and not level, the bound of the second derivative."""
    gradient, hessian = loss.gradient_hessian(y, raw, weight, reduction="none", n_threads=n_threads)
    bound = 1.0 if loss.piecewise_linear else loss.curvature()
    if bound == math.inf:
        return gradient, abs(hessian)
    return gradient, np.where((hessian <= 0) & (gradient != 0), _spread(bound, raw, weight), hessian)


def _secant(loss: Loss, y: NDArray, raw: NDArray, weight: NDArray | None, n_threads: int | None) -> Derivatives:
    """The larger of the second derivative and gradient/(raw − y), within the former's bound.

    The quotient is the curvature of the parabola that touches the loss at raw and has its vertex at y. It lies above
    every loss that is a concave function of the squared residual (iteratively reweighted least squares rests on that),
    and is positive where the second derivative is negative or has died away.
    """
    gradient, hessian = loss.gradient_hessian(y, raw, weight, reduction="none", n_threads=n_threads)
    bound = _spread(loss.curvature(), raw, weight)
    with np.errstate(divide="ignore", invalid="ignore"):
        secant = np.where(raw == y, bound, gradient / (raw - y))
    return gradient, np.minimum(np.maximum(hessian, secant), bound).astype(raw.dtype, copy=False)


def _log_loss_curvature(
    loss: Loss, y: NDArray, raw: NDArray, weight: NDArray | None, n_threads: int | None
) -> Derivatives:
    """f'·c'' for a loss f(c), c the log loss of the true class: f is taken as straight, c keeps its curvature."""
    gradient, fall, rise = (
        loss.gradient(labels, raw, weight, reduction="none", n_threads=n_threads)
        for labels in (y, np.ones_like(y), np.zeros_like(y))
    )
    share = np.maximum(y, 0).astype(raw.dtype)
    return gradient, share * abs(fall) * sigmoid(raw) + (1 - share) * abs(rise) * sigmoid(-raw)


def _cross_entropy_curvature(
    loss: Loss, y: NDArray, raw: NDArray, weight: NDArray | None, n_threads: int | None
) -> Derivatives:
    """The same over K classes: f' is in the gradient f'·(p − onehot), the diagonal f'·p·(1 − p)."""
    gradient = loss.gradient(y, raw, weight, reduction="none", n_threads=n_threads)
    p = dispatch.softmax(raw, False)
    own = y[:, None] == np.arange(raw.shape[1])
    return gradient, np.where(gradient == 0, 0, abs(gradient) * np.where(own, p, 1 - p))  # 0: ignored, p may be NaN


def _of(hessian: str) -> Callable[..., Derivatives]:
    """One of the loss's own hessians."""

    def derivatives(loss: Loss, y: NDArray, raw: NDArray, weight: NDArray | None, n_threads: int | None) -> Derivatives:
        return loss.gradient_hessian(
            y,
            raw,
            weight,
            reduction="none",
            hessian=hessian,  # type: ignore[arg-type]
            n_threads=n_threads,
        )

    return derivatives


def _ones(loss: Loss, y: NDArray, raw: NDArray, weight: NDArray | None, n_threads: int | None) -> Derivatives:
    """For a loss without any hessian."""
    return loss.gradient(y, raw, weight, reduction="none", n_threads=n_threads), _spread(1.0, raw, weight)


def _best(loss: Loss) -> Callable[..., Derivatives]:
    """Derivatives of which trees can be made: hessians that are positive where the gradient is not zero."""
    if loss.piecewise_linear:
        return _of("upper_bound")
    if _has(loss, "fisher"):
        return _of("fisher")
    if not _has(loss, "exact"):
        return _of("upper_bound") if _has(loss, "upper_bound") else _ones
    if not loss.convex and loss.kind == "binary" and loss.link == "logit":
        return _log_loss_curvature
    if not loss.convex and getattr(loss, "family", "") == "true_class":
        return _cross_entropy_curvature
    if loss.kind == "regression" and loss.link == "identity" and loss.curvature() < math.inf:
        return _secant
    if not loss.convex and _has(loss, "upper_bound"):
        return _of("upper_bound")
    return _straight


# ------------------------------------------------------------------------------------------------- the face
@dataclass(frozen=True)
class BoostingObjective:
    """A loss in the form that a boosting library calls.

    Not made directly: see :meth:`Loss.as_lightgbm` and :meth:`Loss.as_xgboost`. Instances are immutable, compare equal
    by loss and options, can be copied and pickled (what the hosts and scikit-learn's ``clone`` do with them).

    Attributes
    ----------
    loss : Loss
    hessian : {"auto", "exact", "fisher", "upper_bound"}
    n_threads : int or None
    metric : callable
        The mean loss, in the form of the host's own evaluation functions.
    params : dict
        Parameters of training that belong to the objective.

    Examples
    --------
    >>> import fastloss
    >>> objective = fastloss.get_loss("log_loss").as_xgboost()
    >>> objective.gradient_hessian([0, 1], [0.0, 0.0])
    (array([ 0.5, -0.5]), array([0.25, 0.25]))
    >>> objective.predict(objective.init_score([0, 0, 0, 1]))
    array([0.25, 0.25, 0.25, 0.25])
    """

    loss: Loss
    hessian: BoostingHessian = "auto"
    n_threads: int | None = None

    host: ClassVar[str]
    conventions: ClassVar[Mapping[str, Convention]]

    def __post_init__(self) -> None:
        if self.hessian not in get_args(BoostingHessian):
            options = ", ".join(map(repr, get_args(BoostingHessian)))
            raise ValueError(f"hessian must be one of {options}, got {self.hessian!r}")
        if self.hessian != "auto" and self.loss.kind != "batch":  # whose hessians are more than constants
            self.loss._hessian_policy(self.hessian)
        self.loss._for_training()

    def gradient_hessian(
        self,
        y_true: ArrayLike,
        raw_prediction: ArrayLike,
        weight: ArrayLike | None = None,
        group: ArrayLike | None = None,
    ) -> Derivatives:
        """Gradient and hessian diagonal of the sum of losses, times the weights, in the host's convention.

        Parameters
        ----------
        y_true : array-like of shape (n,) or, where the host has several outputs, (n, T)
        raw_prediction : array-like of y_true's shape, or (n, K) for a loss over K scores
        weight : array-like of shape (n,), optional
        group : array-like of int, optional
            Sizes of consecutive groups; for ranking losses.

        Returns
        -------
        gradient, hessian : ndarray of raw_prediction's shape
            The hessian is at least 1e-16 times the weight.

        Raises
        ------
        ValueError
            For wrong shapes, labels outside the loss's domain, or a derivative that is not finite.
        """
        y, weights = np.asarray(y_true), _optional(weight)
        raw = self._scores(y, dispatch.as_floating(raw_prediction, "raw_prediction"))
        gradient, hessian = self._derivatives(y, raw, weights, _optional(group))
        self._check_finite(y, raw, gradient, hessian)
        return gradient, hessian

    def init_score(
        self, y_true: ArrayLike, weight: ArrayLike | None = None, *, n_classes: int | None = None
    ) -> NDArray[np.float64]:
        """Starting scores: what the host starts from for its own objectives, and not for one that is given to it.

        Parameters
        ----------
        y_true : array-like of shape (n,) or (n, T)
        weight : array-like of shape (n,), optional
        n_classes : int, optional
            Of a loss over K scores; by default the largest label and 1.

        Returns
        -------
        ndarray of shape (n,), (n, T) or (n, K)
            The same in all rows. For a loss that the host has built in, the host's own start; else the best constant:
            a mean, quantile, log-odds, logarithms of class shares ... For a loss for each column, those of each
            without NaN; 0 for losses over a whole batch.
        """
        y, weights = self._targets(np.asarray(y_true)), _optional(weight)
        weights = None if weights is None else weights.astype(np.float64)  # what is summed here
        if len(y) == 0 or (weights is not None and not weights.any()):
            raise ValueError("no starting score without samples whose weight is above 0, got none")
        if self.loss.kind == "batch":
            return np.zeros(y.shape)
        if n_classes is not None and operator.index(n_classes) < 1:
            raise ValueError(f"n_classes must be None or an integer >= 1, got {n_classes}")
        shape = (len(y), n_classes or _classes(y)) if self.loss.kind == "multiclass" and y.ndim == 1 else y.shape
        # For the errors of labels and weights.
        self.loss.loss(y, np.zeros(shape), weights, reduction="sum", n_threads=self.n_threads)
        trained = self.loss._for_training(shape[1] if len(shape) == 2 else 1)
        if columns := getattr(trained, "column_losses", None):
            return np.broadcast_to(self._column_starts(columns, y, weights), shape).astype(np.float64)
        if self.loss.kind == "multiclass":
            y, weights = _counted(self.loss, y, weights)
        else:
            y = y.astype(np.float64)
        K = shape[1] if len(shape) == 2 else 1
        convention = _lookup(self.conventions, self.loss) or Convention()
        if convention.start is best_constant or (y.ndim == 2 and self.loss.kind == "multiclass"):
            start = best_constant(self.loss, y, K, weights, most=len(y))
        else:
            start = convention.start(self.loss, y, K, weights)
        return np.broadcast_to(start if len(shape) == 2 else start[0], shape).astype(np.float64)

    def predict(self, raw_prediction: ArrayLike) -> NDArray:
        """What the loss estimates (mean, probability ...) at raw predictions that include the starting score.

        See :meth:`Loss.predict`.
        """
        return self.loss.predict(raw_prediction)

    @property
    def params(self) -> dict[str, Any]:
        """Parameters of training that belong to the objective."""
        convention = _lookup(self.conventions, self.loss)
        return dict(convention.params) if convention else {}

    # --------------------------------------------------------------------------------------------- parts
    def _column_starts(self, losses: Sequence[Loss], y: NDArray, weight: NDArray | None) -> list[float]:
        starts = []
        for loss, column in zip(losses, y.T, strict=True):
            known = ~np.isnan(column)
            own = replace(self, loss=loss, hessian="auto")
            weights = None if weight is None else weight[known]
            starts.append(float(own.init_score(column[known], weights)[0]) if known.any() else 0.0)
        return starts

    def _targets(self, y: NDArray) -> NDArray:
        if y.ndim not in (1, 2):
            raise ValueError(f"y_true must have shape (n,) or (n, T), got {y.shape}")
        return y

    def _scores(self, y: NDArray, raw: NDArray) -> NDArray:
        """Raw predictions in the shape that belongs to y."""
        y, name = self._targets(y), self.loss.name
        if self.loss.kind == "multiclass":
            if raw.ndim != 2 or len(raw) != len(y):
                raise ValueError(
                    f"{name} has K scores per sample: raw_prediction must have shape ({len(y)}, K), got {raw.shape}; "
                    f"num_class among {self.host}'s parameters sets K"
                )
        elif raw.shape != y.shape:
            raise ValueError(
                f"{name} has one score per target: raw_prediction must have y_true's shape {y.shape}, got {raw.shape}; "
                f"num_class among {self.host}'s parameters is for losses over K scores"
            )
        return raw

    def _derivatives(self, y: NDArray, raw: NDArray, weight: NDArray | None, group: NDArray | None) -> Derivatives:
        loss, floor, factor = self.loss, FLOOR, 1.0
        if loss.kind == "batch":
            gradient, hessian = _whole(loss, self.hessian, y, raw, weight, group, self.n_threads)
        elif self.hessian != "auto":
            gradient, hessian = _of(self.hessian)(loss, y, raw, weight, self.n_threads)
        else:
            find, convention = _best(loss), _lookup(self.conventions, loss)
            if convention:
                find = _straight if convention.hessian == "straight" else _of(convention.hessian)
                floor, factor = convention.floor, convention.factor
            if loss.kind == "multiclass" and not loss.piecewise_linear:
                factor *= self._factor(raw.shape[1])
            gradient, hessian = find(loss, y, raw, weight, self.n_threads)
        return gradient, _positive(hessian, factor, floor, weight)

    def _factor(self, K: int) -> float:
        """Of the hessian's diagonal: K trees that do not know of each other would step too far together."""
        raise NotImplementedError

    def _check_finite(self, y: NDArray, raw: NDArray, gradient: NDArray, hessian: NDArray) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(gradient.sum() + hessian.sum()):  # one pass without arrays of its own: most often all
                return
        finite = np.isfinite(gradient) & np.isfinite(hessian)
        if not finite.all():
            at = tuple(int(i) for i in np.argwhere(~finite)[0])
            raise ValueError(
                f"{self.loss!r}: gradient {gradient[at]:g} and hessian {hessian[at]:g} of sample {at[0]} not finite "
                f"for the raw prediction {raw[at]:g} and the target {y[at[: y.ndim]]}"
            )

    def _value(self, y_true: ArrayLike, raw_prediction: ArrayLike, weight: Any, group: Any) -> float:
        """The mean loss."""
        y = np.asarray(y_true)
        raw = self._scores(y, dispatch.as_floating(raw_prediction, "raw_prediction"))
        groups = _group(self.loss, _optional(group))
        return float(self.loss.loss(y, raw, _optional(weight), n_threads=self.n_threads, **groups))


@dataclass(frozen=True)
class LightGBMObjective(BoostingObjective):
    """A loss as LightGBM's objective; see :meth:`Loss.as_lightgbm`."""

    host = "LightGBM"
    conventions = LIGHTGBM

    def __call__(
        self, y_true: Any, y_pred: Any, weight: ArrayLike | None = None, group: ArrayLike | None = None
    ) -> Derivatives:
        """Gradient and hessian, from (y_true, y_pred[, weight[, group]]) or from (y_pred, Dataset)."""
        y, raw, weights, groups = _arguments(y_true, y_pred, weight, group)
        gradient, hessian = self.gradient_hessian(y, raw, weights, groups)
        return (gradient.ravel("F"), hessian.ravel("F")) if np.ndim(raw) == 1 else (gradient, hessian)

    @property
    def metric(self) -> LightGBMMetric:
        """The mean loss as LightGBM's ``feval`` or ``eval_metric``."""
        return LightGBMMetric(self)

    @property
    def params(self) -> dict[str, Any]:
        """The objective itself, under its name."""
        return {"objective": self, **super().params}

    def _targets(self, y: NDArray) -> NDArray:
        if y.ndim != 1:
            raise ValueError(f"y_true must have shape (n,): LightGBM trains a single output; got {y.shape}")
        return y

    def _scores(self, y: NDArray, raw: NDArray) -> NDArray:
        # Before LightGBM 4 scores of K classes came as one vector, class after class.
        if self.loss.kind == "multiclass" and raw.ndim == 1 and 0 < y.size < raw.size and raw.size % y.size == 0:
            raw = raw.reshape(y.size, -1, order="F")
        return super()._scores(y, raw)

    def _factor(self, K: int) -> float:
        return K / (K - 1) if K > 1 else 1.0


@dataclass(frozen=True)
class XGBoostObjective(BoostingObjective):
    """A loss as XGBoost's objective; see :meth:`Loss.as_xgboost`."""

    host = "XGBoost"
    conventions = XGBOOST

    def __call__(
        self, y_true: Any, y_pred: Any, sample_weight: ArrayLike | None = None, group: ArrayLike | None = None
    ) -> Derivatives:
        """Gradient and hessian, from (y_true, y_pred[, sample_weight[, group]]) or from (y_pred, DMatrix)."""
        return self.gradient_hessian(*_arguments(y_true, y_pred, sample_weight, group))

    @property
    def metric(self) -> XGBoostMetric:
        """The mean loss as XGBoost's ``custom_metric`` or ``eval_metric``."""
        return XGBoostMetric(self)

    @property
    def params(self) -> dict[str, Any]:
        """No metric of another loss, and what XGBoost sets with its own objective of this loss."""
        return {"disable_default_eval_metric": True, **super().params}

    def _factor(self, K: int) -> float:
        return 2.0


@dataclass(frozen=True)
class LightGBMMetric:
    """The mean loss as LightGBM's evaluation function."""

    objective: LightGBMObjective

    @property
    def __name__(self) -> str:
        return self.objective.loss.name

    def __call__(
        self, y_true: Any, y_pred: Any, weight: ArrayLike | None = None, group: ArrayLike | None = None
    ) -> tuple[str, float, bool]:
        """(name, value, False), from (y_true, y_pred[, weight[, group]]) or from (y_pred, Dataset)."""
        return self.__name__, self.objective._value(*_arguments(y_true, y_pred, weight, group)), False


@dataclass(frozen=True)
class XGBoostMetric:
    """The mean loss as XGBoost's evaluation function."""

    objective: XGBoostObjective

    @property
    def __name__(self) -> str:
        return self.objective.loss.name

    def __call__(
        self, y_true: Any, y_pred: Any, sample_weight: ArrayLike | None = None, group: ArrayLike | None = None
    ) -> tuple[str, float] | float:
        """(name, value) from (y_pred, DMatrix); the value alone from (y_true, y_pred[, sample_weight[, group]])."""
        value = self.objective._value(*_arguments(y_true, y_pred, sample_weight, group))
        return (self.__name__, value) if hasattr(y_pred, "get_label") else value


# ------------------------------------------------------------------------------------------------- arguments
def _optional(array: ArrayLike | None) -> NDArray | None:
    """An array, or None for what the hosts mean by it: nothing, or an empty array."""
    found = None if array is None else np.asarray(array)
    return None if found is None or found.size == 0 else found


def _arguments(first: Any, second: Any, weight: ArrayLike | None, group: ArrayLike | None) -> tuple[Any, ...]:
    """y_true, raw_prediction, weight, group: from these themselves, or from predictions and the host's data set."""
    if not hasattr(second, "get_label"):
        return first, second, weight, group
    groups, weights = _optional(second.get_group()), _optional(second.get_weight())
    y = np.asarray(second.get_label())
    if weights is not None and groups is not None and len(weights) == len(groups) != len(y):
        weights = np.repeat(weights, groups)  # XGBoost's rankers have a weight for each group
    return y, first, weights, groups


def _ranks(loss: Loss) -> bool:
    """Whether groups mean anything to the loss."""
    return getattr(loss, "grouped", False)


def _group(loss: Loss, group: NDArray | None) -> dict[str, Any]:
    """The keyword argument, for those losses that take it."""
    return {"group": group} if group is not None and _ranks(loss) else {}


def _whole(
    loss: Loss,
    hessian: str,
    y: NDArray,
    raw: NDArray,
    weight: NDArray | None,
    group: NDArray | None,
    n_threads: int | None,
) -> Derivatives:
    """Derivatives of a loss over a whole batch.

    Ranking losses are summed over the groups, as the hosts do it; of others it is the mean, times the sum of weights.
    """
    options = _group(loss, group)
    if _ranks(loss):
        options["reduction"] = "sum"

    def derivatives(policy: Any) -> Derivatives:
        return loss.gradient_hessian(y, raw, weight, hessian=policy, n_threads=n_threads, **options)

    if hessian == "auto":
        curved = (loss.convex or loss.name in NEVER_NEGATIVE) and not loss.piecewise_linear
        first, second = ("exact", "upper_bound") if curved else ("upper_bound", "exact")
        try:
            gradient, found = derivatives(first)
        except ValueError:  # it has no such hessian; what is wrong otherwise comes again
            gradient, found = derivatives(second)
        found = abs(found)
    else:
        gradient, found = derivatives(hessian)
    if _ranks(loss):
        return gradient, found
    total = raw.dtype.type(len(y) if weight is None else weight.sum(dtype=np.float64))
    return gradient * total, found * total


def _classes(y: NDArray) -> int:
    """By the largest label; labels that are none are refused later."""
    return int(y[np.isfinite(y)].max(initial=0)) + 1


def _counted(loss: Loss, y: NDArray, weight: NDArray | None) -> tuple[NDArray, NDArray | None]:
    """Labels that count, with the weights that they have in the loss."""
    ignored, of_class = (getattr(loss, name, None) for name in ("ignore_index", "class_weight"))
    if y.ndim == 1 and ignored is not None:
        counts = y != ignored
        y, weight = y[counts], None if weight is None else weight[counts]
    if of_class is not None:
        factors = np.asarray(of_class)
        factors = y @ factors if y.ndim == 2 else factors[y.astype(np.intp)]
        weight = factors if weight is None else weight * factors
    return y, weight
