"""The Loss face: parameters, evaluation, prediction.  What a loss *is* stands in its own class, in the other files."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, dataclass_transform

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastloss._kernels import dispatch

if TYPE_CHECKING:
    from fastloss.boosting import BoostingHessian, LightGBMObjective, XGBoostObjective

Reduction = Literal["mean", "sum", "none"]
Hessian = Literal["exact", "fisher", "upper_bound"]
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


# ------------------------------------------------------------------------------------------------- parameters
@dataclass(frozen=True)
class ParameterSpec:
    """Default, bounds and encoding of one loss parameter."""

    default: float | bool | None
    above: float = -math.inf
    at_least: float = -math.inf
    below: float = math.inf
    at_most: float = math.inf
    excluded: tuple[float, float] | None = None
    squared: bool = False
    none: Callable[[np.dtype], float] | None = None

    def describe(self) -> str:
        """What values are allowed, in words."""
        if isinstance(self.default, bool):
            return "True or False"
        bounds = [
            (self.above > -math.inf, f"> {self.above:g}"),
            (self.at_least > -math.inf, f">= {self.at_least:g}"),
            (self.below < math.inf, f"< {self.below:g}"),
            (self.at_most < math.inf, f"<= {self.at_most:g}"),
            (
                self.excluded is not None,
                f"not between {self.excluded[0]:g} and {self.excluded[1]:g}" if self.excluded else "",
            ),
        ]
        words = " and ".join(text for given, text in bounds if given) or "any finite number"
        return words + (" or None" if self.none else "")

    def check(self, owner: str, name: str, value: object) -> float | bool | None:
        """The value as a float (bool, None), or an error naming the parameter, what it got and what it wanted."""
        if value is None and self.none:
            return None
        if isinstance(self.default, bool):
            if isinstance(value, (bool, np.bool_)):
                return bool(value)
            raise TypeError(f"{owner}: {name} must be {self.describe()}, got {value!r}")
        if isinstance(value, (bool, str, bytes, complex)) or not hasattr(value, "__float__"):
            raise TypeError(f"{owner}: {name} must be a number ({self.describe()}), got {value!r}")
        number = float(value)
        if not self._allows(number):
            raise ValueError(f"{owner}: {name} must be {self.describe()}, got {value!r}")
        return number

    def _allows(self, x: float) -> bool:
        inside = self.above < x < self.below and self.at_least <= x <= self.at_most
        return math.isfinite(x) and inside and not (self.excluded and self.excluded[0] < x < self.excluded[1])

    def encode(self, value: float | bool | None, dtype: np.dtype) -> float:
        """The number a kernel gets; NaN if the parameter does not survive the rounding to `dtype`."""
        if value is None:
            assert self.none is not None
            return self.none(dtype)
        info = np.finfo(dtype)
        with np.errstate(over="ignore", under="ignore"):
            rounded = float(dtype.type(value))
        normal = info.smallest_normal <= (rounded * rounded if self.squared else abs(rounded)) <= info.max
        survives = normal or (rounded == value and not self.squared)
        return rounded if survives and (self._allows(rounded) or isinstance(value, bool)) else math.nan


def Parameter(  # noqa: N802 - reads as the field it declares
    *,
    default: float | bool | None,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
    excluded: tuple[float, float] | None = None,
    squared: bool = False,
    none: Callable[[np.dtype], float] | None = None,
) -> Any:
    """Declare a parameter of a loss in its class body.

    Parameters
    ----------
    default : float, bool or None
        Value when the parameter is not given; a bool default makes it a flag.
    above, at_least, below, at_most : float
        Bounds, open (above, below) or closed.
    excluded : (float, float), optional
        An open interval that is not allowed.
    squared : bool
        The formula squares the parameter: the square must be a normal number of the working dtype.
    none : callable, optional
        Allows None; ``none(dtype)`` is the number that kernels then get.
    """
    return ParameterSpec(default, above, at_least, below, at_most, excluded, squared, none)


@dataclass(frozen=True)
class OptionSpec:
    """A parameter that is no number of a formula: it acts on labels and weights, before the kernels."""

    default: Any
    words: str
    read: Callable[[str, Any], Any]

    def describe(self) -> str:
        """What values are allowed, in words."""
        return self.words

    def check(self, owner: str, name: str, value: object) -> Any:
        """The value in its stored form, or an error naming the parameter, what it got and what it wanted."""
        return self.default if value is self.default else self.read(f"{owner}: {name} must be {self.words}", value)


def _read_flag(message: str, value: object) -> bool:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"{message}, got {value!r}")


def _read_index(message: str, value: object) -> int:
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{message}, got {value!r}")
    return operator.index(value)


def _read_class_weight(message: str, value: Any) -> tuple[float, ...]:
    try:
        weights = np.asarray(value)
        real = weights.dtype.kind in "fiub"
    except ValueError:
        real = False
    if not real or weights.ndim != 1 or isinstance(value, (str, bytes)):
        raise TypeError(f"{message}, got {value!r}")
    if not np.all(np.isfinite(weights)):
        raise ValueError(f"{message}, got {value!r}")
    return tuple(weights.astype(float).tolist())


def ClassWeight() -> Any:  # noqa: N802
    """Declare `class_weight`: None, or a factor of the sample weight for every class."""
    return OptionSpec(None, "None or a sequence of one finite number >= 0 per class", _read_class_weight)


def Index() -> Any:  # noqa: N802
    """Declare an optional label."""
    return OptionSpec(None, "None or an integer", _read_index)


def Flag() -> Any:  # noqa: N802
    """Declare an option that is on or off."""
    return OptionSpec(False, "True or False", _read_flag)


# ------------------------------------------------------------------------------------------------- the face
@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Parameter, ClassWeight, Index, Flag))
class Loss:
    """A per-sample loss: its value, (sub)gradient and hessian diagonal in fused, threaded passes.

    Not made directly: take a subclass, e.g. ``fastloss.losses.Huber(delta=1.35)``, or ``fastloss.get_loss("huber")``.
    Instances are immutable, compare equal by parameters and can be pickled.

    Attributes
    ----------
    name : str
        The string :func:`fastloss.get_loss` takes.
    kind : {"regression", "binary", "multiclass", "multitask", "batch"}
        What `y_true` is; "multiclass" losses have K scores per sample, "multitask" ones a loss for every column,
        "batch" losses one value for all samples.
    target : str
        The values of `y_true` the loss is defined for, in words.
    link : {"identity", "log", "logit", "sign", "softmax", "argmax"}
        How a raw prediction becomes what the loss estimates, see :meth:`predict`.
    convex : bool
        Whether the loss, with its parameters, is convex in the raw prediction.
    piecewise_linear : bool
        Whether the hessian is 0 wherever it exists.
    parameters : dict of str to ParameterSpec or OptionSpec
        Declared parameters, with defaults and bounds.
    params : dict of str to float
        The values of this instance.

    Examples
    --------
    >>> import fastloss
    >>> loss = fastloss.losses.Huber(delta=2.0)
    >>> loss.loss_gradient([0.0, 0.0], [1.0, 4.0], reduction="none")
    (array([0.5, 6. ]), array([1., 2.]))
    >>> loss.name, loss.convex, loss.curvature()
    ('huber', True, 1.0)
    """

    name: ClassVar[str] = ""
    kind: ClassVar[Literal["regression", "binary", "multiclass", "multitask", "batch"]] = "regression"
    target: ClassVar[str] = "any real number"
    link: ClassVar[Literal["identity", "log", "logit", "sign", "softmax", "argmax"]] = "identity"
    always_convex: ClassVar[bool] = True
    piecewise_linear: ClassVar[bool] = False
    parameters: ClassVar[dict[str, ParameterSpec | OptionSpec]] = {}

    _masks_nan: ClassVar[bool] = False  # whether a NaN target is no target, rather than a NaN loss
    _couples_columns: ClassVar[bool] = False  # whether a sample's hessian has more than its diagonal
    _gradient_is_slope: ClassVar[bool] = True  # else the gradient is a definition of its own, not the value's slope
    __array_ufunc__ = None  # a NumPy number times a loss is the loss's business

    params: ClassVar[Mapping[str, Any]]
    _kernel: ClassVar[dispatch.Kernel]

    def __init_subclass__(cls) -> None:
        own = {name: spec for name, spec in vars(cls).items() if isinstance(spec, (ParameterSpec, OptionSpec))}
        for name in own:
            delattr(cls, name)  # an instance's attribute holds the value
        cls.parameters = {**cls.parameters, **own}
        if "__init__" in vars(cls):
            return
        keyword = inspect.Parameter.KEYWORD_ONLY
        arguments = [inspect.Parameter(n, keyword, default=s.default) for n, s in cls.parameters.items()]
        cls.__signature__ = inspect.Signature(arguments)  # type: ignore[attr-defined]

    def __init__(self, **params: object) -> None:
        unknown = sorted(set(params) - set(self.parameters))
        if unknown:
            known = ", ".join(self.parameters) or "none"
            raise TypeError(
                f"{self.name or type(self).__name__}: unknown parameter {unknown[0]!r}; its parameters: {known}"
            )
        values = {n: spec.check(self.name, n, params.get(n, spec.default)) for n, spec in self.parameters.items()}
        self.__dict__.update(values, params=MappingProxyType(values))
        self.__dict__["_kernel"] = self._make_kernel(values)

    def _make_kernel(self, values: dict[str, Any]) -> dispatch.Kernel:
        kernel = self._compiled(self.name, values)
        if self.kind == "multiclass":
            signed = values.get("allow_negative_weight", False)
            if not signed and min(values["class_weight"] or (0,)) < 0:
                described = self.parameters["class_weight"].describe()
                raise ValueError(f"{self.name}: class_weight must be {described}, got {values['class_weight']!r}")
            kernel.set_scores(
                values["class_weight"], values["ignore_index"], getattr(self, "soft_targets", False), signed
            )
        return kernel

    def _evaluated(self, *arguments: Any) -> Any:
        """What all methods end in: `dispatch.evaluate` of these arguments beside the kernel."""
        return dispatch.evaluate(self._kernel, *arguments)

    def _groups(self, group: ArrayLike | None) -> dict[str, Any]:
        """The argument `group` of the methods, for the losses that have it."""
        if group is not None:
            raise TypeError(f"group is for ranking losses: {self.name} has no groups")
        return {}

    def _for_training(self, n_columns: int | None = None) -> Loss:
        """The loss as it is trained on y with so many columns (None: not known yet); raises where it cannot be."""
        return self

    def _envelope(self, step: float) -> dispatch.Kernel:
        """Compiled Moreau envelope, min over p of loss(p) + (raw − p)²/(2 step); needs a `proximal_slope`.

        Its gradient is the loss's slope at the proximal point: the implicit gradient step of length `step`.
        """
        return self._compiled(f"{self.name}_moreau", self.params, step=step)

    def _compiled(self, name: str, values: Mapping[str, Any], **more: float) -> dispatch.Kernel:
        """The kernels of a name, with the loss's parameters and then more of them."""
        formula = {n: spec for n, spec in self.parameters.items() if isinstance(spec, ParameterSpec)}
        single, double = (
            [*(spec.encode(values[n], dtype) for n, spec in formula.items()), *more.values()] for dtype in FLOATS
        )
        given = {**{n: values[n] for n in formula}, **more}
        return dispatch.Kernel(name, self.target, self.kind == "binary", single, double, given)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable; make a new one: {type(self).__name__}({name}=...)")

    def __repr__(self) -> str:
        given = (f"{n}={self.params[n]!r}" for n, s in self.parameters.items() if self.params[n] != s.default)
        return f"{type(self).__name__}({', '.join(given)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Loss) and type(self) is type(other) and self.params == other.params

    def __hash__(self) -> int:
        return hash((type(self), *self.params.items()))

    def __reduce__(self) -> tuple[Callable[..., Loss], tuple[type[Loss], dict[str, Any]]]:
        return _rebuild, (type(self), dict(self.params))

    # --------------------------------------------------------------------------------------------- composition
    def __mul__(self, factor: object) -> Loss:
        from fastloss.composite import weighted  # which builds on this module

        return weighted(factor, self)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Loss:
        return self * (1.0 / divisor)

    def __add__(self, other: object) -> Loss:
        from fastloss.composite import added

        return added(self, other)

    def __radd__(self, other: object) -> Loss:
        return self if isinstance(other, int) and other == 0 else NotImplemented  # what `sum` begins with

    def tempered(self, temperature: float) -> Loss:
        """The loss at raw / temperature: of scores that are flatter (temperature > 1) or sharper than the raw ones.

        Parameters
        ----------
        temperature : float
            > 0 and finite.

        Returns
        -------
        Loss
            For binary and multiclass losses; the gradient is with respect to the raw prediction before the division.

        Examples
        --------
        >>> import fastloss
        >>> fastloss.get_loss("log_loss").tempered(2.0).loss_gradient([1.0], [-2.0])
        (1.3132616875182228, array([-0.36552929]))
        """
        from fastloss.composite import tempered

        return tempered(self, temperature)

    # --------------------------------------------------------------------------------------------- evaluation
    def loss(
        self,
        y_true: ArrayLike,
        raw_prediction: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        reduction: Reduction = "mean",
        loss_out: NDArray | None = None,
        n_threads: int | None = None,
    ) -> Any:
        """Value of the loss.

        Parameters
        ----------
        y_true : array-like of shape (n,) or (n, T)
            Targets. Numbers of any real dtype; see :attr:`target` for the domain. For a multiclass loss labels (n,),
            or (n, K) targets where it takes them.
        raw_prediction : array-like of the same shape; (n, K) for a multiclass loss
            Raw predictions (before any link). float32 and float64 are taken as they are, with any strides, and set
            the working dtype; other real types are read as float64.
        sample_weight : array-like of shape (n,), optional
            Weights >= 0. A sample of weight 0 contributes exactly 0, also where its raw prediction is NaN or inf.
        reduction : {"mean", "sum", "none"}
            sum(w * l) / sum(w), sum(w * l), or the array of w * l.
        loss_out : ndarray of shape (n,), optional
            Receives the per-sample losses (working dtype, any strides); only with ``reduction="none"``.
        n_threads : int, optional
            Number of threads; None for as many as are useful. The result does not depend on it.

        Returns
        -------
        float, or ndarray of shape (n,) for ``reduction="none"``
            With (n, T) targets, the losses of the T outputs of a sample are added.

        Raises
        ------
        ValueError, TypeError
            For wrong shapes, dtypes, labels, weights or options; the message names the argument, what it got and what
            was expected.
        """
        return self._evaluated(
            dispatch.LOSS,
            y_true,
            raw_prediction,
            sample_weight,
            reduction,
            loss_out,
            None,
            None,
            n_threads,
        )

    def gradient(
        self,
        y_true: ArrayLike,
        raw_prediction: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        reduction: Reduction = "mean",
        gradient_out: NDArray | None = None,
        n_threads: int | None = None,
    ) -> NDArray:
        """Gradient (at a kink: the smallest subgradient) with respect to the raw prediction.

        Parameters are those of :meth:`loss`; `gradient_out` (of raw_prediction's shape and dtype, any strides)
        receives the result for every reduction.

        Returns
        -------
        ndarray of raw_prediction's shape
            Of the mean (each sample's gradient times w / sum(w)), of the sum, or per sample, by `reduction`; "sum" and
            "none" agree.
        """
        return self._evaluated(
            dispatch.GRADIENT,
            y_true,
            raw_prediction,
            sample_weight,
            reduction,
            None,
            gradient_out,
            None,
            n_threads,
        )

    def loss_gradient(
        self,
        y_true: ArrayLike,
        raw_prediction: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        reduction: Reduction = "mean",
        loss_out: NDArray | None = None,
        gradient_out: NDArray | None = None,
        n_threads: int | None = None,
    ) -> tuple[Any, NDArray]:
        """Loss and gradient in one pass over the data; see :meth:`loss` and :meth:`gradient`.

        Returns
        -------
        loss : float or ndarray of shape (n,)
        gradient : ndarray of raw_prediction's shape
        """
        want = dispatch.LOSS | dispatch.GRADIENT
        return self._evaluated(
            want,
            y_true,
            raw_prediction,
            sample_weight,
            reduction,
            loss_out,
            gradient_out,
            None,
            n_threads,
        )

    def gradient_hessian(
        self,
        y_true: ArrayLike,
        raw_prediction: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        reduction: Reduction = "mean",
        gradient_out: NDArray | None = None,
        hessian_out: NDArray | None = None,
        hessian: Hessian = "exact",
        n_threads: int | None = None,
    ) -> tuple[NDArray, NDArray]:
        """Gradient and diagonal of the hessian in one pass.

        Parameters
        ----------
        y_true, raw_prediction, sample_weight, reduction, gradient_out, n_threads
            As in :meth:`loss` and :meth:`gradient`.
        hessian_out : ndarray of raw_prediction's shape, optional
            Receives the hessian diagonal.
        hessian : {"exact", "fisher", "upper_bound"}
            "exact": the second derivative where it exists (0 at a kink). "fisher": its expectation under the model,
            for losses that are log-likelihoods; never negative. "upper_bound": the constant :meth:`curvature`; for
            piecewise linear losses, which have none, 1 (the convention of LightGBM and scikit-learn).

        Returns
        -------
        gradient, hessian : ndarray of raw_prediction's shape

        Raises
        ------
        ValueError
            Also when the loss has no such hessian; the message says which it has.
        """
        want = dispatch.GRADIENT | dispatch.HESSIAN
        return self._evaluated(
            want,
            y_true,
            raw_prediction,
            sample_weight,
            reduction,
            None,
            gradient_out,
            hessian_out,
            n_threads,
            self._hessian_policy(hessian),
        )

    def _hessian_policy(self, hessian: str) -> float | str:
        """What dispatch takes: "exact", "fisher", or the constant of "upper_bound"."""
        if hessian == "exact" or (hessian == "fisher" and self._has_fisher):
            return hessian
        bound = self._hessian_bound()
        if hessian == "upper_bound" and bound < math.inf:
            return bound
        has = ["'exact'", *["'fisher'"] * self._has_fisher, *["'upper_bound'"] * (bound < math.inf)]
        raise ValueError(f"hessian={hessian!r}: {self.name} has {', '.join(has)}")

    # ------------------------------------------- what solvers and policies ask; sums and own losses have their answers
    @property
    def _registered(self) -> str:
        """The name, by which special cases know a built-in loss; own losses may have any name, and have none here.

        Sums have theirs as long as no term is an own loss: no special case has a sum's name.
        """
        return self.name

    @property
    def _declares_convex(self) -> bool:
        """Whether the loss says that it is convex; of own losses solvers assume it unless they say otherwise."""
        return self.convex

    @property
    def _has_fisher(self) -> bool:
        """Whether there are kernels of the expected hessian."""
        return hasattr(self, "fisher")

    def _hessian_bound(self) -> float:
        """The constant of hessian="upper_bound"."""
        return 1.0 if self.piecewise_linear else self.curvature()

    @property
    def _kinked(self) -> bool:
        """Whether the slope jumps, and `_envelope` is what solvers have to use: those of "auto" and of streams."""
        return self.piecewise_linear

    @property
    def _hessian_jumps(self) -> bool:
        """Whether the second derivative does: losses with a closed proximal step are made of parabolas and lines.

        Newton's decrement is then no certificate for "auto".
        """
        return hasattr(self, "proximal_slope") and self._registered != "squared_error"

    @property
    def _has_closed_envelope(self) -> bool:
        """Whether `_envelope` is compiled from a formula; that of other losses is searched for."""
        return hasattr(self, "proximal_slope")

    @property
    def _crosses_zero(self) -> bool:
        """Whether values have either sign, so that they are no scale for a distance from the optimum.

        In a sum with losses of y itself the best constant may also lie outside the range of y.
        """
        return self.link == "log"

    @property
    def _estimates_side_only(self) -> bool:
        """Whether :meth:`predict` gives sides or classes, not probabilities."""
        return self.link in ("sign", "argmax") and type(self)._estimate is Loss._estimate

    # --------------------------------------------------------------------------------------------- boosting
    def as_lightgbm(self, hessian: BoostingHessian = "auto", *, n_threads: int | None = None) -> LightGBMObjective:
        """The loss as LightGBM's objective, in LightGBM's conventions.

        Parameters
        ----------
        hessian : {"auto", "exact", "fisher", "upper_bound"}
            "auto": LightGBM's own for a loss it has, else one that is positive wherever the gradient is not zero,
            for losses that are not convex too (see docs/boosting.md). The others as in :meth:`gradient_hessian`, where
            they are positive.
        n_threads : int, optional
            Number of threads of the loss; None for as many as are useful.

        Returns
        -------
        LightGBMObjective
            To be called as ``f(y_pred, Dataset)`` (``params["objective"]`` of ``lightgbm.train``) or as
            ``f(y_true, y_pred[, weight[, group]])`` (``objective=`` of LightGBM's estimators). LightGBM does not start
            from the average for an objective that is given to it: pass ``init_score(y, weight)`` to it and add it to
            the predictions. With ``predict`` for what the loss estimates and ``metric`` for ``feval=``.

        Examples
        --------
        >>> import fastloss
        >>> objective = fastloss.get_loss("huber", delta=2.0).as_lightgbm()
        >>> objective([0.0, 0.0], [1.0, 5.0], weight=[1.0, 3.0])
        (array([1., 6.]), array([1., 3.]))
        >>> objective.init_score([0.0, 1.0, 5.0])
        array([2., 2., 2.])
        """
        from fastloss.boosting import LightGBMObjective

        return LightGBMObjective(self, hessian, n_threads)

    def as_xgboost(self, hessian: BoostingHessian = "auto", *, n_threads: int | None = None) -> XGBoostObjective:
        """The loss as XGBoost's objective, in XGBoost's conventions.

        Parameters
        ----------
        hessian : {"auto", "exact", "fisher", "upper_bound"}
            "auto": XGBoost's own for a loss it has, else as in :meth:`as_lightgbm`.
        n_threads : int, optional
            Number of threads of the loss; None for as many as are useful.

        Returns
        -------
        XGBoostObjective
            To be called as ``f(y_pred, DMatrix)`` (``obj=`` of ``xgboost.train``) or as
            ``f(y_true, y_pred[, sample_weight])`` (``objective=`` of XGBoost's estimators). ``init_score(y, weight)``
            is the base margin, ``params`` what XGBoost sets with an objective of its own, ``metric`` for
            ``custom_metric=``, ``predict`` what the loss estimates.

        Examples
        --------
        >>> import fastloss
        >>> objective = fastloss.get_loss("poisson").as_xgboost()
        >>> objective([0.0, 3.0], [0.0, 0.0])
        (array([ 1., -2.]), array([2.01375271, 2.01375271]))
        >>> objective.params["max_delta_step"]
        0.7
        """
        from fastloss.boosting import XGBoostObjective

        return XGBoostObjective(self, hessian, n_threads)

    # --------------------------------------------------------------------------------------------- modelling
    @property
    def convex(self) -> bool:
        """Whether the loss, with its parameters, is convex in the raw prediction."""
        return self.always_convex

    def curvature(self) -> float:
        """An upper bound of the second derivative over all y and raw predictions; inf where there is none.

        The least one for pointwise losses; for losses over K scores a bound of the hessian's largest eigenvalue.
        """
        return math.inf

    def predict(
        self, raw_prediction: ArrayLike, link: Literal["loss", "identity", "sigmoid", "exp"] = "loss"
    ) -> NDArray:
        """What the loss estimates at these raw predictions.

        Parameters
        ----------
        raw_prediction : array-like
            Raw predictions.
        link : {"loss", "identity", "sigmoid", "exp"}
            "loss": the quantity whose population minimiser the raw prediction is: the mean (squared error; counts,
            through exp), the median, a quantile ..., or the probability of the positive class, corrected for
            `pos_weight`, label smoothing and the focal factor; losses that estimate only the side give 0 or 1. For a
            multiclass loss the probabilities of the classes, corrected likewise (`class_weight` acts as sample weights
            do and is not undone). The other values apply that function alone.

        Returns
        -------
        ndarray of raw_prediction's shape and (floating) dtype
        """
        raw = dispatch.as_floating(raw_prediction, "raw_prediction")
        if link == "loss":
            return self._estimate(raw)
        if link not in LINKS:
            raise ValueError(f"link must be one of 'loss', {', '.join(map(repr, LINKS))}, got {link!r}")
        return LINKS[link](raw)

    def _estimate(self, raw: NDArray) -> NDArray:
        return LINKS[{"identity": "identity", "log": "exp", "logit": "sigmoid", "sign": "sign"}[self.link]](raw)


def sigmoid(raw: NDArray) -> NDArray:
    """1 / (1 + exp(-raw)), in raw's dtype, without overflow."""
    from scipy.special import expit

    return expit(raw)


def _exp(raw: NDArray) -> NDArray:
    with np.errstate(over="ignore"):
        return np.exp(raw)


def _positive_side(raw: NDArray) -> NDArray:
    return (raw > 0).astype(raw.dtype)


LINKS: dict[str, Callable[[NDArray], NDArray]] = {
    "identity": np.copy,
    "sigmoid": sigmoid,
    "exp": _exp,
    "sign": _positive_side,
}


def _rebuild(cls: type[Loss], params: dict[str, Any]) -> Loss:
    return cls(**params)
