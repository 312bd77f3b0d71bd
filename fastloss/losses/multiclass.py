"""Losses for several classes.  raw has one score z_k per class and sample, shape (n, K).

Labels are classes 0 ... K−1, p = softmax(z), p_y the probability given to the true class. The differences
d_k = z_k − max z are formed once, in the working dtype; what follows is within a few ulp of the exact value.

A class here says which ``family`` of kernels its formula belongs to (see ``_kernels/multiclass.pxi``):

* ``true_class``: a function f of −log p_y. ``sample`` receives ``d`` (the true class's difference), ``own`` = exp(d)
  and ``others`` (the sum of the other classes' exp(d_k), not rounded against ``own``), so that
  −log p_y = log_sum(own, others) − d and 1 − p_y = others/(own + others) keep their digits at both ends;
  it returns f, f'/(own + others) and f''·(1 − p_y), derivatives by −log p_y.
* ``margin``: a function f of the margin z_y − max_{k≠y} z_k; ``sample`` returns f, f', f''.
* ``panel``: written by hand in ``multiclass.pxi``, under the loss's name.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastloss._kernels import dispatch
from fastloss.losses._base import ClassWeight, Flag, Index, Loss, Parameter
from fastloss.losses._scalar import exp_sum, expm1_sum, log_sum, log_sum_rest, power, product_error, unless_nan


class _Multiclass(Loss):
    kind = "multiclass"
    target = "labels"
    link: ClassVar[Literal["softmax", "argmax"]] = "softmax"
    family: ClassVar[str] = "true_class"
    soft_targets: ClassVar[bool] = False
    class_weight: tuple[float, ...] | None = ClassWeight()
    ignore_index: int | None = Index()

    def _estimate(self, raw: NDArray) -> NDArray:
        return dispatch.softmax(self._two_dimensional(raw), False)

    def _two_dimensional(self, raw: NDArray) -> NDArray:
        if raw.ndim != 2 or raw.shape[1] == 0:
            raise ValueError(f"raw_prediction must have shape (n, K) with K >= 1 scores, got {raw.shape}")
        return raw


class CrossEntropy(_Multiclass):
    """Cross-entropy of a softmax, −Σ y_k log p_k: multinomial logistic regression.

    Parameters
    ----------
    label_smoothing : float, default 0.0
        ε in [0, 1): targets become (1 − ε) y_k + ε/K. Masked classes (z = −inf) take no part: K counts the others.
    z_loss : float, default 0.0
        c ≥ 0: adds c·(log Σ exp z)², which keeps the scores' common offset near 0.
    class_weight : array-like of shape (K,), optional
        Factors of the sample weights, by the label (soft targets: Σ class_weight_k y_k); ≥ 0. They are part of the
        weights' sum in a mean.
    ignore_index : int, optional
        Samples with this label have weight 0.
    allow_negative_weight : bool, default False
        Allows negative sample and class weights, for policy gradients: REINFORCE is the sum with the advantages as
        weights. A mean then needs weights with a positive sum.

    Notes
    -----
    Labels, or targets (n, K) of finite numbers ≥ 0 whose rows may sum to anything. Gradient p_k Σy − y_k (for a label
    exactly −Σ_{k≠y} p_k at y), hessian diagonal Σy p_k (1 − p_k); the largest eigenvalue of the hessian is at most ½.
    C. Szegedy et al., Rethinking the Inception Architecture, CVPR 2016 (smoothing). For two classes the same as
    :class:`LogLoss` of the scores' difference.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.CrossEntropy().loss_gradient([1], [[2.0, 0.0, -1.0]])
    (2.169846..., array([[ 0.8437..., -0.8858...,  0.0420...]]))
    >>> fastloss.losses.CrossEntropy().loss([0], [[40.0, 0.0]])
    4.248354255291589e-18
    """

    name = "cross_entropy"
    family = "panel"
    target = "labels or targets"
    soft_targets = True
    label_smoothing: float = Parameter(default=0.0, at_least=0, below=1)
    z_loss: float = Parameter(default=0.0, at_least=0)
    allow_negative_weight: bool = Flag()

    @property
    def convex(self) -> bool:
        """For z_loss = 0."""
        return self.z_loss == 0

    def curvature(self) -> float:
        return 0.5 if self.z_loss == 0 else math.inf

    def _hessian_policy(self, hessian: str) -> float | str:
        # A log-likelihood whose hessian does not depend on y: expected and exact are the same.
        return super()._hessian_policy("exact" if hessian == "fisher" and self.z_loss == 0 else hessian)

    def _estimate(self, raw: NDArray) -> NDArray:
        p = super()._estimate(raw)
        if self.label_smoothing == 0:
            return p
        unmasked = np.sum(raw > -np.inf, axis=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            p = np.maximum(p - (self.label_smoothing / unmasked).astype(raw.dtype), 0)
            return p / p.sum(axis=1, keepdims=True)


class MulticlassFocal(_Multiclass):
    """Focal loss over K classes, (1 − p_y)^gamma · (−log p_y): easy samples count less.

    Parameters
    ----------
    gamma : float, default 2.0
        Focusing exponent; ≥ 0. 0 gives :class:`CrossEntropy`.
    class_weight : array-like of shape (K,), optional
        Factors of the sample weights, by the label.
    ignore_index : int, optional
        Samples with this label have weight 0.

    Notes
    -----
    Not convex for gamma > 0. T.-Y. Lin et al., Focal Loss for Dense Object Detection, ICCV 2017. :meth:`predict` gives
    the probabilities for which the raw predictions are the minimiser.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.MulticlassFocal(gamma=2.0).loss([0], [[0.0, 0.0]])
    0.173286795...
    """

    name = "multiclass_focal"
    always_convex = False
    gamma: float = Parameter(default=2.0, at_least=0)

    @staticmethod
    def sample(d, own, others, gamma):
        total = own + others
        cost = log_sum(own, others) - d
        focus = power(others / total, gamma)
        # cost / (1 - p_y) tends to 1 where p_y does; p_y cost to 0 where p_y does
        ratio = 1.0 if others == 0.0 else cost / others
        pull = 0.0 if own == 0.0 else own * ratio
        slope = focus * (1.0 + gamma * pull) / total
        bend = focus * (gamma * (own / total)) * (2.0 + (gamma - 1.0) * pull - (0.0 if own == 0.0 else cost))
        return focus * cost, slope, 0.0 if own == 0.0 else bend

    @property
    def convex(self) -> bool:
        """For gamma = 0."""
        return self.gamma == 0

    def curvature(self) -> float:
        return 0.5 if self.gamma == 0 else math.inf

    def _estimate(self, raw: NDArray) -> NDArray:
        p = super()._estimate(raw)
        log_p = dispatch.softmax(raw, True)
        miss = -np.expm1(log_p)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            pull = np.where(miss > 0, -p * log_p / miss, 1)
            slope = miss**self.gamma * (1 + self.gamma * np.where(p > 0, pull, 0))
            return _normalised(p / slope, p).astype(raw.dtype, copy=False)


class GeneralizedCrossEntropy(_Multiclass):
    """Generalized cross-entropy, (1 − p_y^q)/q: between cross-entropy (q → 0) and 1 − p_y (q = 1), for noisy labels.

    Parameters
    ----------
    q : float, default 0.7
        In (0, 1]; the larger, the less a wrong label costs.
    class_weight : array-like of shape (K,), optional
        Factors of the sample weights, by the label.
    ignore_index : int, optional
        Samples with this label have weight 0.

    Notes
    -----
    Bounded by 1/q; not convex. Gradient p_y^q (p_k − y_k). Z. Zhang and M. Sabuncu, Generalized Cross Entropy Loss for
    Training Deep Neural Networks with Noisy Labels, NeurIPS 2018. :meth:`predict` gives the probabilities for which the
    raw predictions are the minimiser, p^(1−q) normalised (q = 1: the likeliest class alone).

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.GeneralizedCrossEntropy(q=1.0).loss([0], [[0.0, 0.0]])
    0.5
    """

    name = "generalized_cross_entropy"
    always_convex = False
    q: float = Parameter(default=0.7, above=0, at_most=1)

    @staticmethod
    def sample(d, own, others, q):
        # q log p_y = q d - q log(total), and with one log(total) more for the slope, each in two parts: the exponential
        # magnifies an argument's error by its size.
        rest = log_sum(own, others)
        rest_low = log_sum_rest(own, others, rest)
        large = q * d
        off = product_error(q, d, large)
        small = q * rest
        held = large - small
        lost = (large - held) - small if small < -large else large - (held + small)
        low = lost + off - product_error(q, rest, small)
        more = q * rest + rest
        scaled = large - more
        left = (large - scaled) - more if more < -large else large - (scaled + more)
        # `more` rounds twice: once as q rest, once as the sum
        more_off = product_error(q, rest, small) + (small - (more - rest) if rest > small else rest - (more - small))
        slope = exp_sum(scaled, left + off - more_off - (1.0 + q) * rest_low)
        return -expm1_sum(held, low) / q, slope, -q * slope * others

    def curvature(self) -> float:
        return 0.5

    def _estimate(self, raw: NDArray) -> NDArray:
        if self.q == 1:
            return _likeliest(self._two_dimensional(raw))
        return dispatch.softmax(self._two_dimensional(raw) * raw.dtype.type(1 - self.q), False)


class MulticlassHinge(_Multiclass):
    """Crammer–Singer hinge loss, max(0, 1 + max_{k≠y} z_k − z_y): the multiclass support vector machine.

    Parameters
    ----------
    class_weight : array-like of shape (K,), optional
        Factors of the sample weights, by the label.
    ignore_index : int, optional
        Samples with this label have weight 0.

    Notes
    -----
    Subgradient −1 at y and 1 at the runner-up (shared equally by ties) for margins below 1, else 0. Hessian 0.
    K. Crammer and Y. Singer, On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines, JMLR 2
    (2001). Estimates the likeliest class only, no probabilities.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.MulticlassHinge().loss_gradient([0], [[0.5, 0.0, -1.0]])
    (0.5, array([[-1.,  1.,  0.]]))
    """

    name = "multiclass_hinge"
    family = "margin"
    link = "argmax"
    piecewise_linear = True

    @staticmethod
    def sample(margin):
        slope = -1.0 if margin < 1.0 else (0.0 if margin >= 1.0 else margin)
        return 0.0 if margin >= 1.0 else 1.0 - margin, slope, unless_nan(margin, 0.0)

    def _estimate(self, raw: NDArray) -> NDArray:
        return _likeliest(self._two_dimensional(raw))


class MulticlassSquaredHinge(_Multiclass):
    """Square of the Crammer–Singer hinge loss, max(0, 1 + max_{k≠y} z_k − z_y)².

    Parameters
    ----------
    class_weight : array-like of shape (K,), optional
        Factors of the sample weights, by the label.
    ignore_index : int, optional
        Samples with this label have weight 0.

    Notes
    -----
    Gradient twice the hinge times the hinge's subgradient; not differentiable where runners-up tie. The hessian's
    largest eigenvalue is at most 4. Estimates the likeliest class only, no probabilities.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.MulticlassSquaredHinge().loss_gradient([0], [[0.5, 0.0, -1.0]])
    (0.25, array([[-1.,  1.,  0.]]))
    """

    name = "multiclass_squared_hinge"
    family = "margin"
    link = "argmax"

    @staticmethod
    def sample(margin):
        h = 0.0 if margin >= 1.0 else 1.0 - margin
        return h * h, -2.0 * h, unless_nan(margin, 2.0 if margin < 1.0 else 0.0)

    def curvature(self) -> float:
        return 4.0

    def _estimate(self, raw: NDArray) -> NDArray:
        return _likeliest(self._two_dimensional(raw))


class Sparsemax(_Multiclass):
    """Sparsemax loss, ½ Σ_S (z_k² − τ²) + ½ − z_y with S the support of p = [z − τ]₊, Σp = 1.

    Parameters
    ----------
    class_weight : array-like of shape (K,), optional
        Factors of the sample weights, by the label.
    ignore_index : int, optional
        Samples with this label have weight 0.

    Notes
    -----
    Convex, 0 from a margin of 1 on. Gradient p_k − y_k, where p is the projection of z on the simplex and has exact
    zeros; :meth:`predict` gives p. A. Martins and R. Astudillo, From Softmax to Sparsemax, ICML 2016.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.Sparsemax().loss_gradient([0], [[0.5, 0.0, -1.0]])
    (0.0625, array([[-0.25,  0.25,  0.  ]]))
    """

    name = "sparsemax"
    family = "panel"

    def curvature(self) -> float:
        return 1.0

    def _estimate(self, raw: NDArray) -> NDArray:
        return _projection(self, self._two_dimensional(raw))


class Entmax15(_Multiclass):
    """1.5-entmax loss: the Fenchel–Young loss of Tsallis' 1.5-entropy, between cross-entropy and sparsemax.

    Parameters
    ----------
    class_weight : array-like of shape (K,), optional
        Factors of the sample weights, by the label.
    ignore_index : int, optional
        Samples with this label have weight 0.

    Notes
    -----
    (p − y)·z + 4/3 (1 − Σ p^1.5) with p = [z/2 − τ]₊², Σp = 1. Convex, 0 from a margin of 2 on. Gradient p_k − y_k,
    largest eigenvalue of the hessian at most √½; :meth:`predict` gives p. B. Peters, V. Niculae and A. Martins, Sparse
    Sequence-to-Sequence Models, ACL 2019.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.Entmax15().loss([0], [[2.0, 0.0, -1.0]])
    0.0
    """

    name = "entmax15"
    family = "panel"

    def curvature(self) -> float:
        return math.sqrt(0.5)  # two classes at ½: s₁ s₂ · 2/(s₁ + s₂)

    def _estimate(self, raw: NDArray) -> NDArray:
        return _projection(self, self._two_dimensional(raw))


def _projection(loss: Loss, raw: NDArray) -> NDArray:
    """p, from the gradient p − onehot with label 0."""
    p = type(loss)().gradient(np.zeros(len(raw), np.int8), raw, reduction="none")
    p[:, 0] = np.clip(1 + p[:, 0], 0, 1)  # 1 - the sum of the others
    return p


def _likeliest(raw: ArrayLike) -> NDArray:
    """1 at the largest score, shared equally by ties; NaN for a row with NaN or nothing above -inf."""
    raw = np.asarray(raw)
    empty = (np.isneginf(raw) | np.isnan(raw)).all(axis=1) | np.isnan(raw).any(axis=1)
    top = raw == raw.max(axis=1, keepdims=True, initial=-np.inf)
    with np.errstate(invalid="ignore"):
        share = top.astype(raw.dtype) / top.sum(axis=1, keepdims=True).astype(raw.dtype)
    share[empty] = np.nan
    return share


def _normalised(odds: NDArray, otherwise: NDArray) -> NDArray:
    """Rows divided by their sums; rows whose sum is not a positive number as in `otherwise`."""
    total = odds.sum(axis=1, keepdims=True)
    return np.where(np.isfinite(total) & (total > 0), odds / total, otherwise)
