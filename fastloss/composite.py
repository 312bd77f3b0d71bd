"""Sums of losses, written ``0.7 * a + 0.3 * b``, and losses with a temperature, ``a.tempered(2.0)``.

The results are losses like any other: one pass over the data, all methods, :class:`fastloss.LinearObjective` and the
estimators.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastloss._kernels import dispatch
from fastloss.losses import Loss, get_loss
from fastloss.losses._base import FLOATS, LINKS, ParameterSpec

__all__ = ["WeightedSum"]

FACTOR = ParameterSpec(default=1.0, at_least=0.0)
TEMPERATURE = ParameterSpec(default=1.0, above=0.0)

# Options of losses over K classes; they act on labels and weights before any kernel, so that a sum has them once.
SHARED_OPTIONS = ("class_weight", "ignore_index", "allow_negative_weight")


class Term(NamedTuple):
    """``factor * loss(y, raw / temperature)``."""

    factor: float
    loss: Loss
    temperature: float = 1.0


# ------------------------------------------------------------------------------------------------- operators
def weighted(factor: Any, loss: Loss) -> Any:
    """What ``factor * loss`` is."""
    if isinstance(factor, (bool, np.bool_, str, bytes, complex, Loss)) or not hasattr(factor, "__float__"):
        return NotImplemented
    if np.ndim(factor) > 0:
        return NotImplemented
    number = checked_factor(factor)
    return WeightedSum(term._replace(factor=number * term.factor) for term in _terms(loss))


def added(loss: Loss, other: object) -> Any:
    """What ``loss + other`` is."""
    return WeightedSum(_terms(loss) + _terms(other)) if isinstance(other, Loss) else NotImplemented


def tempered(loss: Loss, temperature: float) -> WeightedSum:
    """What ``loss.tempered(temperature)`` is."""
    number = TEMPERATURE.check(loss.name, "temperature", temperature)
    assert isinstance(number, float)
    return WeightedSum(term._replace(temperature=number * term.temperature) for term in _terms(loss))


def _terms(loss: Loss) -> tuple[Term, ...]:
    return loss.terms if isinstance(loss, WeightedSum) else (Term(1.0, loss),)


def checked_factor(value: Any) -> float:
    number = float(value)
    if not 0.0 <= number < math.inf:
        raise ValueError(
            f"the factor of a loss must be finite and >= 0, got {value!r}"
            + ": a negative multiple of a loss rewards errors" * (number < 0)
        )
    return number


# ------------------------------------------------------------------------------------------------- sums
class WeightedSum(Loss):
    """A sum of losses of the same targets and raw predictions, Σ factor · loss(y, raw / temperature).

    Made by ``0.7 * loss1 + 0.3 * loss2`` and ``loss.tempered(2.0)``, rarely directly.

    Parameters
    ----------
    terms : iterable of (factor, loss) or (factor, loss, temperature)
        Factors are finite and >= 0; a term with factor 0 contributes exactly 0, but `y_true` must still be in its
        loss's domain. The losses are all for regression, all for two classes, or all for K classes; those for K classes
        with the same `class_weight`, `ignore_index` and `allow_negative_weight`. Only losses for classes take a
        temperature.

    Attributes
    ----------
    terms : tuple of (factor, loss, temperature)
        Sums of sums are taken apart.
    convex, piecewise_linear : bool
        Whether all terms are.
    link : str
        That of the terms if it is the same for all, else "identity". For two classes "logit" as soon as one term
        estimates a probability.

    Notes
    -----
    Values and derivatives are the sums of those of the terms, accumulated in the working dtype. Hessians: "exact",
    "fisher" if all terms have it, "upper_bound" as the sum of the terms' bounds. :meth:`curvature` is the sum of the
    terms' and may be larger than the least bound.

    :meth:`predict` gives for two classes the probability p at which p·L'(y=1) + (1 − p)·L'(y=0) = 0: that for which the
    raw prediction is the minimiser, whatever the terms. For K classes it is the common estimate of equal terms, else
    the softmax of the raw predictions.

    Examples
    --------
    >>> import fastloss
    >>> loss = 0.5 * fastloss.losses.AbsoluteError() + 0.25 * fastloss.losses.SquaredError()
    >>> loss
    0.5*AbsoluteError() + 0.25*SquaredError()
    >>> loss.loss_gradient([0.0, 0.0], [2.0, -4.0], reduction="none")
    (array([1.5, 4. ]), array([ 1. , -1.5]))
    """

    terms: tuple[Term, ...]
    class_weight: tuple[float, ...] | None
    ignore_index: int | None
    soft_targets: bool
    _kernel: ClassVar[dispatch.CompositeKernel]

    def __init__(self, terms: Iterable[Any]) -> None:
        found = tuple(flat for term in terms for flat in _flattened(*term))
        if not found:
            raise ValueError("terms: a sum needs at least one loss, got none")
        self._describe(found)
        self.__dict__["_kernel"] = self._composed([term.loss._kernel for term in found], found)

    def _describe(self, terms: tuple[Term, ...]) -> None:
        """Set all attributes but the kernel."""
        losses = [term.loss for term in terms]
        kind = _common_kind(terms)
        options = {name: _common_option(name, losses) for name in SHARED_OPTIONS if kind == "multiclass"}
        self.__dict__.update(
            options,
            terms=terms,
            params=MappingProxyType({"terms": terms}),
            name=_text(terms, [term.loss.name for term in terms]),
            kind=kind,
            target="; ".join(dict.fromkeys(loss.target for loss in losses)),
            link=_common_link(kind, losses),
            piecewise_linear=all(loss.piecewise_linear for loss in losses),
            soft_targets=all(getattr(loss, "soft_targets", False) for loss in losses),
        )

    def _composed(self, kernels: Sequence[dispatch.Kernel], terms: Sequence[Term]) -> dispatch.CompositeKernel:
        kernel = dispatch.CompositeKernel(
            self.name,
            self.target,
            self.kind == "binary",
            [
                (kernel, rounded(FACTOR, term.factor), rounded(TEMPERATURE, term.temperature), (0,), 0.0)
                for kernel, term in zip(kernels, terms, strict=True)
            ],
        )
        if self.kind == "multiclass":
            kernel.set_scores(
                self.class_weight, self.ignore_index, self.soft_targets, getattr(self, "allow_negative_weight", False)
            )
        return kernel

    def __repr__(self) -> str:
        return _text(self.terms, [repr(term.loss) for term in self.terms])

    def _envelope(self, step: float) -> dispatch.Kernel:
        if self._has_closed_envelope:
            # with q = p / T:  a l(p/T) + (raw - p)²/(2 step)  =  a [l(q) + (raw/T - q)² / (2 a step / T²)]
            (term,) = self._active
            inner = term.loss._envelope(term.factor * step / term.temperature**2)
            return self._composed([inner], [term])
        return dispatch.EnvelopeKernel(self._kernel, step)

    # ----------------------------------------------------------------------------------------- from the terms
    @property
    def _active(self) -> tuple[Term, ...]:
        return tuple(term for term in self.terms if term.factor > 0)

    @property
    def convex(self) -> bool:
        """Whether all terms are."""
        return all(term.loss.convex for term in self._active)

    @property
    def _declares_convex(self) -> bool:
        return all(term.loss._declares_convex for term in self._active)

    def curvature(self) -> float:
        """The sum of the terms' bounds of the second derivative."""
        return sum(term.factor / term.temperature**2 * term.loss.curvature() for term in self._active)

    def _hessian_bound(self) -> float:
        return sum(term.factor / term.temperature**2 * term.loss._hessian_bound() for term in self._active)

    def _hessian_policy(self, hessian: str) -> float | str:
        if hessian == "fisher" and self.kind == "multiclass":  # only losses whose exact hessian it is
            return {term.loss._hessian_policy(hessian) for term in self.terms}.pop()
        if hessian == "exact":
            for term in self._active:
                term.loss._hessian_policy(hessian)  # raises for an own loss without one
        return super()._hessian_policy(hessian)

    @property
    def _has_fisher(self) -> bool:
        return all(term.loss._has_fisher for term in self.terms)

    @property
    def _registered(self) -> str:
        return self.name if all(term.loss._registered for term in self.terms) else ""

    @property
    def _kinked(self) -> bool:
        return self.kind != "multiclass" and self.convex and any(term.loss._kinked for term in self._active)

    @property
    def _hessian_jumps(self) -> bool:
        return any(term.loss._hessian_jumps for term in self._active)

    @property
    def _has_closed_envelope(self) -> bool:
        return len(self._active) == 1 and self._active[0].loss._has_closed_envelope

    @property
    def _crosses_zero(self) -> bool:
        return any(term.loss._crosses_zero for term in self._active)

    @property
    def _estimates_side_only(self) -> bool:
        return all(term.loss._estimates_side_only for term in self.terms)

    # ----------------------------------------------------------------------------------------- prediction
    def _estimate(self, raw: NDArray) -> NDArray:
        if len({(term.loss, term.temperature) for term in self._active}) == 1:
            term = self._active[0]
            return term.loss._estimate(raw / raw.dtype.type(term.temperature))
        if self.kind == "binary":
            return super()._estimate(raw) if self._estimates_side_only else self._probability(raw)
        if self.kind == "multiclass":
            return get_loss("multiclass_hinge" if self.link == "argmax" else "cross_entropy")._estimate(raw)
        return super()._estimate(raw)

    def _probability(self, raw: NDArray) -> NDArray:
        """The p with p·L'(y=1) + (1 − p)·L'(y=0) = 0."""
        flat = raw.ravel()
        rise = self.gradient(np.zeros_like(flat), flat, reduction="none")
        fall = self.gradient(np.ones_like(flat), flat, reduction="none")
        with np.errstate(invalid="ignore"):
            share = rise / (rise - fall)
        # both slopes vanish or overflow: far out, where the probability is that of the side
        share = np.where(np.isnan(share) & ~np.isnan(flat), LINKS["sign"](flat), share)
        return np.clip(share, 0, 1).reshape(raw.shape)


class Masked(WeightedSum):
    """``factor * loss`` where the target is known, 0 where it is NaN: a column of a MultiTaskLoss on its own."""

    _masks_nan = True

    def __init__(self, terms: Iterable[Any]) -> None:
        (term,) = (Term(*term) for term in terms)
        self._describe((term,))
        self.__dict__["name"] += " or NaN"
        self.__dict__["_kernel"] = self._composed([term.loss._kernel], [term])

    def _composed(self, kernels: Sequence[dispatch.Kernel], terms: Sequence[Term]) -> dispatch.CompositeKernel:
        columns = [(kernels[0], rounded(FACTOR, terms[0].factor), (1.0, 1.0), (0,), 0.0)]
        return dispatch.CompositeKernel(self.name, self.target, self.kind == "binary", columns, 1, True)

    def __repr__(self) -> str:
        return f"Masked({super().__repr__()})"


def _text(terms: Sequence[Term], names: Sequence[str]) -> str:
    """The sum as it is written in Python; never the name of a term alone."""
    parts = [
        ("" if term.factor == 1.0 else f"{term.factor!r}*")
        + name
        + ("" if term.temperature == 1.0 else f".tempered({term.temperature!r})")
        for term, name in zip(terms, names, strict=True)
    ]
    return f"1.0*{parts[0]}" if parts == list(names[:1]) else " + ".join(parts)


def _flattened(factor: Any, loss: Any, temperature: Any = 1.0) -> tuple[Term, ...]:
    loss = get_loss(loss)
    scale = TEMPERATURE.check(loss.name, "temperature", temperature)
    assert isinstance(scale, float)
    number = checked_factor(factor)
    return tuple(Term(number * f, inner, scale * t) for f, inner, t in _terms(loss))


def rounded(spec: ParameterSpec, value: float) -> tuple[float, float]:
    """A number as kernels of both dtypes get it."""
    single, double = (spec.encode(value, dtype) for dtype in FLOATS)
    return single, double


def _common_kind(terms: Sequence[Term]) -> str:
    first = terms[0].loss
    for term in terms:
        if term.loss.kind not in ("regression", "binary", "multiclass") or isinstance(term.loss, Masked):
            batch = ", one value for all samples: add the values and gradients themselves"
            raise ValueError(
                f"{term.loss!r} cannot be a term of a sum or have a temperature: it is of kind {term.loss.kind!r}"
                + batch * (term.loss.kind == "batch")
            )
        if term.loss.kind != first.kind:
            raise ValueError(
                f"losses of different kinds cannot be added: {first.name} is of kind {first.kind!r}, {term.loss.name} "
                f"of kind {term.loss.kind!r}"
            )
        if term.temperature != 1.0 and term.loss.kind == "regression":
            raise ValueError(
                f"temperature: {term.loss.name} is of kind 'regression', where raw / temperature would be another "
                "prediction of y; a temperature is for the scores of classes"
            )
    return first.kind


def _common_option(name: str, losses: Sequence[Loss]) -> Any:
    values = [getattr(loss, name, False if name == "allow_negative_weight" else None) for loss in losses]
    for loss, value in zip(losses, values, strict=True):
        if value != values[0]:
            raise ValueError(
                f"losses that are added must have the same {name}: {losses[0].name} has {values[0]!r}, {loss.name} "
                f"{value!r}"
            )
    return values[0]


def _common_link(kind: str, losses: Sequence[Loss]) -> str:
    links = {loss.link for loss in losses}
    if kind == "binary":
        return "sign" if all(loss._estimates_side_only for loss in losses) else "logit"
    if kind == "multiclass":
        return "argmax" if links == {"argmax"} else "softmax"
    return links.pop() if len(links) == 1 else "identity"
