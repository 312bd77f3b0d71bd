"""Losses for two classes.  See ``regression.py`` for how a loss's class is read.

Labels are {0, 1}, {−1, +1} or bool, and where the formula allows anything in [0, 1].  s is the label as ±1,
m = s·raw the margin, p = 1/(1 + exp(−raw)) and p_t the probability given to the true class.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from fastloss.losses._base import Loss, Parameter, sigmoid
from fastloss.losses._scalar import exp, exp_sum, fma, log1p_unit, log1p_unit_rest, product_error, stage, unless_nan


class _HardLabels(Loss):
    kind = "binary"
    target = "labels in {0, 1} or {-1, 1}"
    link: ClassVar[Literal["identity", "log", "logit", "sign"]] = "sign"

    @staticmethod
    def domain(y):
        return y == 1.0 or y == 0.0 or y == -1.0


class _SoftLabels(Loss):
    kind = "binary"
    target = "labels in {0, 1}, {-1, 1} or [0, 1]"
    link = "logit"

    @staticmethod
    def domain(y):
        return (y >= 0.0 and y <= 1.0) or y == -1.0


class LogLoss(_SoftLabels):
    """Logistic loss from logits, −[pos_weight·y·log p + neg_weight·(1 − y)·log(1 − p)].

    Parameters
    ----------
    pos_weight, neg_weight : float, default 1.0
        Factors of the two terms (not of the weights' sum in a mean); > 0.
    label_smoothing : float, default 0.0
        ε in [0, 1): y is replaced by (1 − ε) y + ε/2.

    Notes
    -----
    Also binary cross-entropy, log-likelihood of logistic regression (scikit-learn's ``HalfBinomialLoss``). Soft labels
    in [0, 1] are allowed. With e = exp(−|raw|), loss = (weights)·log(1 + e) + (weight of the wrong side)·|raw|: every
    term is positive, so that losses of 1e-300 keep their digits. Gradient neg_weight (1−y) p − pos_weight y (1−p).
    Hessian at most a quarter of the greater weight.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.LogLoss().loss_gradient([1.0], [-1.0])
    (1.3132616875182228, array([-0.73105858]))
    >>> fastloss.losses.LogLoss().loss([1.0], [40.0])
    4.248354255291589e-18
    """

    name = "log_loss"
    pos_weight: float = Parameter(default=1.0, above=0)
    neg_weight: float = Parameter(default=1.0, above=0)
    label_smoothing: float = Parameter(default=0.0, at_least=0, below=1)

    @staticmethod
    def sample(y, raw, pos_weight, neg_weight, label_smoothing):
        t = max(y, 0.0)
        positive = pos_weight * ((1.0 - label_smoothing) * t + 0.5 * label_smoothing)
        negative = neg_weight * ((1.0 - label_smoothing) * (1.0 - t) + 0.5 * label_smoothing)
        a = abs(raw)
        e = stage(exp(-a))
        wrong = negative if raw > 0.0 else positive
        rest = stage(log1p_unit(e))
        loss = (positive + negative) * rest + (0.0 if wrong == 0.0 else wrong * a)
        near = 1.0 / (1.0 + e)
        far = e * near
        rise = near if raw > 0.0 else far
        fall = far if raw > 0.0 else near
        return loss, negative * rise - positive * fall, (positive + negative) * far * near

    @staticmethod
    def fisher(y, raw, pos_weight, neg_weight, label_smoothing):
        t = max(y, 0.0)
        positive = pos_weight * ((1.0 - label_smoothing) * t + 0.5 * label_smoothing)
        negative = neg_weight * ((1.0 - label_smoothing) * (1.0 - t) + 0.5 * label_smoothing)
        e = exp(-abs(raw))
        return (positive + negative) * e / ((1.0 + e) * (1.0 + e))

    def curvature(self) -> float:
        half = self.label_smoothing / 2
        at_one = self.pos_weight * (1 - half) + self.neg_weight * half
        at_zero = self.pos_weight * half + self.neg_weight * (1 - half)
        return max(at_one, at_zero) / 4

    def _estimate(self, raw: NDArray) -> NDArray:
        # Minimiser for P(y=1) = η and smoothed η': p = α η' / (α η' + β (1 − η')).
        smoothed = sigmoid(raw - raw.dtype.type(math.log(self.pos_weight / self.neg_weight)))
        eps = self.label_smoothing
        return np.clip((smoothed - raw.dtype.type(eps / 2)) / raw.dtype.type(1 - eps), 0, 1) if eps else smoothed


class Hinge(_HardLabels):
    """Hinge loss, max(0, 1 − m): the support vector machine.

    Notes
    -----
    Subgradient −s for m < 1, 0 from m = 1 on. Hessian 0. Estimates the likelier side only, no probability.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.Hinge().loss_gradient([1, 1, -1], [2.0, 0.2, 0.3], reduction="none")
    (array([0. , 0.8, 1.3]), array([ 0., -1.,  1.]))
    """

    name = "hinge"
    piecewise_linear = True

    @staticmethod
    def sample(y, raw):
        s = 1.0 if y > 0.0 else -1.0
        m = s * raw
        return 0.0 if m >= 1.0 else 1.0 - m, -s if m < 1.0 else (0.0 if m >= 1.0 else m), unless_nan(m, 0.0)

    @staticmethod
    def proximal_slope(y, raw, step):
        s = 1.0 if y > 0.0 else -1.0
        return -s * max(0.0, min(1.0, (1.0 - s * raw) / step))


class SquaredHinge(_HardLabels):
    """Squared hinge loss, max(0, 1 − m)².

    Notes
    -----
    Gradient −2 s max(0, 1 − m), hessian 2 for m < 1. Its minimiser is 2 P(y=1) − 1, so :meth:`predict` gives
    (raw + 1)/2, clipped to [0, 1].

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.SquaredHinge().gradient([1, 0], [0.5, 0.5], reduction="none")
    array([-1.,  3.])
    """

    name = "squared_hinge"

    @staticmethod
    def sample(y, raw):
        s = 1.0 if y > 0.0 else -1.0
        m = s * raw
        d = 0.0 if m >= 1.0 else 1.0 - m
        return d * d, -2.0 * s * d, unless_nan(m, 2.0 if m < 1.0 else 0.0)

    @staticmethod
    def proximal_slope(y, raw, step):
        s = 1.0 if y > 0.0 else -1.0
        return -s * (2.0 * max(0.0, 1.0 - s * raw) / (1.0 + 2.0 * step))

    def curvature(self) -> float:
        return 2.0

    def _estimate(self, raw: NDArray) -> NDArray:
        return _clipped_half(raw)


class SmoothHinge(_HardLabels):
    """Smoothed hinge: 0 for m ≥ 1, (1−m)²/(2 gamma) for 1 − gamma ≤ m < 1, else 1 − m − gamma/2.

    Parameters
    ----------
    gamma : float, default 1.0
        Width of the quadratic part; > 0.

    Notes
    -----
    Gradient −s min(1, max(0, 1 − m)/gamma); hessian 1/gamma on the quadratic part. S. Shalev-Shwartz and T. Zhang,
    Stochastic Dual Coordinate Ascent, JMLR 14 (2013).

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.SmoothHinge().loss([1, 1], [0.5, -1.0], reduction="none")
    array([0.125, 1.5  ])
    """

    name = "smooth_hinge"
    gamma: float = Parameter(default=1.0, above=0)

    @staticmethod
    def sample(y, raw, gamma):
        s = 1.0 if y > 0.0 else -1.0
        m = s * raw
        d = 0.0 if m >= 1.0 else 1.0 - m
        c = gamma if d > gamma else d
        share = c / gamma
        hess = unless_nan(m, 1.0 / gamma if m < 1.0 and d <= gamma else 0.0)
        return share * (d - 0.5 * c), -s * share, hess

    @staticmethod
    def proximal_slope(y, raw, step, gamma):
        s = 1.0 if y > 0.0 else -1.0
        return -s * max(0.0, min(1.0, (1.0 - s * raw) / (gamma + step)))

    def curvature(self) -> float:
        return 1.0 / self.gamma


class ModifiedHuber(_HardLabels):
    """Modified Huber loss: max(0, 1 − m)² for m ≥ −1, −4 m below; tolerant of outliers.

    Notes
    -----
    Gradient −2 s (1 − m) between −1 and 1, −4 s below. Its minimiser is 2 P(y=1) − 1, so :meth:`predict` gives
    (raw + 1)/2, clipped to [0, 1]. T. Zhang, Statistical behavior and consistency of classification methods based on
    convex risk minimization, Annals of Statistics 32 (2004).

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.ModifiedHuber().loss([1, 1], [0.5, -2.0], reduction="none")
    array([0.25, 8.  ])
    """

    name = "modified_huber"

    @staticmethod
    def sample(y, raw):
        s = 1.0 if y > 0.0 else -1.0
        m = s * raw
        d = 1.0 - m
        quadratic = m >= -1.0
        loss = 0.0 if m >= 1.0 else (d * d if quadratic else -4.0 * m)
        grad = 0.0 if m >= 1.0 else (-2.0 * s * d if quadratic else (-4.0 * s if m < -1.0 else m))
        return loss, grad, unless_nan(m, 2.0 if quadratic and m < 1.0 else 0.0)

    @staticmethod
    def proximal_slope(y, raw, step):
        s = 1.0 if y > 0.0 else -1.0
        return -s * max(0.0, min(4.0, 2.0 * (1.0 - s * raw) / (1.0 + 2.0 * step)))

    def curvature(self) -> float:
        return 2.0

    def _estimate(self, raw: NDArray) -> NDArray:
        return _clipped_half(raw)


class Perceptron(_HardLabels):
    """Perceptron loss, max(0, −m).

    Notes
    -----
    Subgradient −s for m ≤ 0, 0 beyond: at m = 0 it is −s, not 0, or learning could not leave w = 0. Hessian 0.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.Perceptron().gradient([1, 1, -1], [0.0, 2.0, 2.0], reduction="none")
    array([-1.,  0.,  1.])
    """

    name = "perceptron"
    piecewise_linear = True

    @staticmethod
    def sample(y, raw):
        s = 1.0 if y > 0.0 else -1.0
        m = s * raw
        return 0.0 if m >= 0.0 else -m, -s if m <= 0.0 else (0.0 if m > 0.0 else m), unless_nan(m, 0.0)

    @staticmethod
    def proximal_slope(y, raw, step):
        s = 1.0 if y > 0.0 else -1.0
        return -s * max(0.0, min(1.0, -s * raw / step))


class Exponential(_HardLabels):
    """Exponential loss, exp(−m): AdaBoost's.

    Notes
    -----
    Gradient −s exp(−m), hessian exp(−m) (unbounded). Its minimiser is half the log-odds, so :meth:`predict` gives
    1/(1 + exp(−2 raw)). scikit-learn's ``ExponentialLoss`` is the same with {0, 1} labels.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.Exponential().gradient([1, 0], [0.0, 0.0], reduction="none")
    array([-1.,  1.])
    """

    name = "exponential"
    link = "logit"

    @staticmethod
    def sample(y, raw):
        s = 1.0 if y > 0.0 else -1.0
        e = exp(-s * raw)
        return e, -s * e, e

    def _estimate(self, raw: NDArray) -> NDArray:
        with np.errstate(over="ignore"):  # an infinite logit is a probability of 0 or 1
            return sigmoid(raw + raw)


class Focal(_SoftLabels):
    """Focal loss, (1 − p_t)^gamma · (−log p_t): easy samples count less.

    Parameters
    ----------
    gamma : float, default 2.0
        Focusing exponent; ≥ 0. 0 gives :class:`LogLoss`.
    alpha : float or None, default None
        Weight of the positive class in [0, 1], with 1 − alpha for the negative one; None for 1 and 1.

    Notes
    -----
    Not convex for gamma > 0. Soft labels weight the two classes' terms. The powers are exponentials of
    gamma·log(1 − p_t), whose argument is carried in two parts so that the tails keep their digits. T.-Y. Lin et al.,
    Focal Loss for Dense Object Detection, ICCV 2017. :meth:`predict` inverts the factor: it is the probability for
    which the raw prediction is the minimiser.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.Focal(gamma=2.0).loss([1], [0.0])
    0.173286795...
    """

    name = "focal"
    always_convex = False
    gamma: float = Parameter(default=2.0, at_least=0)
    alpha: float | None = Parameter(default=None, at_least=0, at_most=1, none=lambda dtype: -1.0)

    @staticmethod
    def sample(y, raw, gamma, alpha):
        t = max(y, 0.0)
        positive = (1.0 if alpha < 0.0 else alpha) * t
        negative = (1.0 if alpha < 0.0 else 1.0 - alpha) * (1.0 - t)
        direction = 1.0 if raw > 0.0 else -1.0
        right = positive if raw > 0.0 else negative
        wrong = negative if raw > 0.0 else positive
        a = min(abs(raw), 1e30)
        e = stage(exp(-a))
        rest = stage(log1p_unit(e))
        near = 1.0 / (1.0 + e)
        far = e / (1.0 + e)
        # near^gamma = exp(-gamma rest);  far^gamma = exp(-gamma (a + rest)), the sum and the products in two parts.
        product = gamma * rest
        low = product_error(gamma, rest, product) + gamma * log1p_unit_rest(e, rest)
        large = gamma * a
        total = large + product
        lost = product - (total - large) if large > product else large - (total - product)
        near_power = stage(exp_sum(-product, -low))
        far_power = stage(exp_sum(-total, -(lost + low + product_error(gamma, a, large))))
        # `right`: the class on whose side raw is, p_t = near; `wrong`: the other, p_t = far.
        cost = abs(raw) + rest
        loss = right * (far_power * rest) + (0.0 if wrong == 0.0 else wrong * (near_power * cost))
        surprise = a + rest
        # γ near rest + far and γ far surprise + near, over their common denominator: fewer roundings.
        right_slope = far_power * (fma(gamma, rest, e) / (1.0 + e))
        wrong_slope = near_power * (fma(gamma * e, surprise, 1.0) / (1.0 + e))
        right_bend = far_power * near * (gamma * rest * (gamma * near - far) + 2.0 * gamma * far + far)
        wrong_bend = near_power * far * (gamma * surprise * (gamma * far - near) + 2.0 * gamma * near + near)
        return loss, direction * (wrong * wrong_slope - right * right_slope), wrong * wrong_bend + right * right_bend

    @property
    def convex(self) -> bool:
        """For gamma = 0."""
        return self.gamma == 0

    def _estimate(self, raw: NDArray) -> NDArray:
        raw = np.clip(raw, -1e4, 1e4)  # far beyond where both slopes are 0
        p = sigmoid(raw)
        q = sigmoid(-raw)
        g = self.gamma
        log_p = -np.logaddexp(0, -raw)
        log_q = -np.logaddexp(0, raw)
        # Slopes of the two classes' losses in raw: for P(y=1) = η the minimiser has η·up = (1 − η)·down.
        up = np.exp(g * log_q) * (q - g * p * log_p) * (1 if self.alpha is None else self.alpha)
        down = np.exp(g * log_p) * (p - g * q * log_q) * (1 if self.alpha is None else 1 - self.alpha)
        with np.errstate(invalid="ignore"):
            return np.where(up + down > 0, down / (up + down), p).astype(raw.dtype, copy=False)


class Poly1(_HardLabels):
    """Poly-1 loss, −log p_t + epsilon·(1 − p_t): cross-entropy with its leading polynomial term adjusted.

    Parameters
    ----------
    epsilon : float, default 1.0
        ≥ −1; 0 gives :class:`LogLoss`.

    Notes
    -----
    Gradient −s (1 − p_t)(1 + epsilon p_t). Convex for |epsilon| ≤ 1. Z. Leng et al., PolyLoss, ICLR 2022.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.Poly1(epsilon=1.0).gradient([1], [0.0])
    array([-0.75])
    """

    name = "poly1"
    link = "logit"
    always_convex = False
    epsilon: float = Parameter(default=1.0, at_least=-1)

    @property
    def convex(self) -> bool:
        """For |epsilon| <= 1."""
        return abs(self.epsilon) <= 1

    @staticmethod
    def sample(y, raw, epsilon):
        s = 1.0 if y > 0.0 else -1.0
        m = s * raw
        a = abs(m)
        e = stage(exp(-a))
        far = e / (1.0 + e)
        near = 1.0 - far
        p = near if m > 0.0 else far
        q = far if m > 0.0 else near
        loss = log1p_unit(e) + (0.0 if m > 0.0 else a) + epsilon * q
        return loss, -s * (q * fma(epsilon, p, 1.0)), p * q * (1.0 + epsilon * (p - q))

    def curvature(self) -> float:
        # p q (1 + ε (p − q)) with p = (1 + t)/2: (1 − t²)(1 + ε t)/4, greatest where 3 ε t² + 2 t − ε = 0.
        eps = self.epsilon
        t = eps / (1 + math.sqrt(1 + 3 * eps * eps))
        return (1 - t * t) * (1 + eps * t) / 4

    def _estimate(self, raw: NDArray) -> NDArray:
        p, q = sigmoid(raw), sigmoid(-raw)
        up, down = q * (1 + self.epsilon * p), p * (1 + self.epsilon * q)
        with np.errstate(invalid="ignore"):
            return np.where(up + down > 0, down / (up + down), p).astype(raw.dtype, copy=False)


def _clipped_half(raw: NDArray) -> NDArray:
    return (np.clip(raw, -1, 1) + 1) / 2
