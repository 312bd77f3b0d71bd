"""Losses for real targets.  One class is one loss: its documentation, parameters, formula and curvature.

``sample`` is the formula, for one sample: it is rendered into the kernels of every dtype and instruction set (see
CONTRIBUTING, "how to add a loss").  ``r = raw - y`` is formed once, in the working dtype; what follows is within 4 ulp
of the exact value, so each formula is written in the form that does not cancel or overflow early.
"""

from __future__ import annotations

import math

import numpy as np

from fastloss.losses._base import Loss, Parameter
from fastloss.losses._scalar import (
    INF,
    atanh_rest_unit,
    copysign,
    exp,
    exp_sum,
    expm1,
    expm1_sum,
    fma,
    log,
    log1p,
    log_cosh,
    log_sum,
    product_error,
    sign,
    sqrt,
    stage,
    unless_nan,
)


class SquaredError(Loss):
    """Squared error, ½ r² with r = raw − y: the loss whose minimiser is the mean.

    Notes
    -----
    Gradient r, hessian 1. Real y. The factor ½ is that of scikit-learn's ``HalfSquaredError``.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.SquaredError().loss_gradient([2.0, 3.0], [1.0, 2.0])
    (0.5, array([-0.5, -0.5]))
    """

    name = "squared_error"

    @staticmethod
    def sample(y, raw):
        r = raw - y
        return 0.5 * r * r, r, unless_nan(r, 1.0)

    @staticmethod
    def proximal_slope(y, raw, step):
        return (raw - y) / (1.0 + step)

    def curvature(self) -> float:
        return 1.0


class AbsoluteError(Loss):
    """Absolute error, |r|: the loss whose minimiser is the median.

    Notes
    -----
    Subgradient sign(r), 0 at r = 0. Hessian 0.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.AbsoluteError().gradient([1.0, 1.0, 1.0], [0.0, 1.0, 3.0], reduction="none")
    array([-1.,  0.,  1.])
    """

    name = "absolute_error"
    piecewise_linear = True

    @staticmethod
    def sample(y, raw):
        r = raw - y
        return abs(r), sign(r), unless_nan(r, 0.0)

    @staticmethod
    def proximal_slope(y, raw, step):
        return max(-1.0, min(1.0, (raw - y) / step))


class Huber(Loss):
    """Huber's loss: ½ r² for |r| ≤ delta, delta (|r| − ½ delta) beyond; robust against outliers.

    Parameters
    ----------
    delta : float, default 1.0
        Residual, in units of y, where the loss turns linear; > 0.

    Notes
    -----
    Gradient r, then ± delta; hessian 1, then 0 (1 at the join). P. J. Huber, Robust Estimation of a Location
    Parameter, Annals of Mathematical Statistics 35 (1964).

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.Huber(delta=1.0).loss_gradient([0.0, 0.0], [0.5, 3.0], reduction="none")
    (array([0.125, 2.5  ]), array([0.5, 1. ]))
    """

    name = "huber"
    delta: float = Parameter(default=1.0, above=0)

    @staticmethod
    def sample(y, raw, delta):
        r = raw - y
        a = abs(r)
        c = delta if a > delta else a
        return c * (a - 0.5 * c), copysign(c, r), unless_nan(r, 1.0 if a <= delta else 0.0)

    @staticmethod
    def proximal_slope(y, raw, step, delta):
        return max(-delta, min(delta, (raw - y) / (1.0 + step)))

    def curvature(self) -> float:
        return 1.0


class PseudoHuber(Loss):
    """Pseudo-Huber, delta² (√(1 + (r/delta)²) − 1): a smooth Huber loss.

    Parameters
    ----------
    delta : float, default 1.0
        Scale, in units of y; > 0.

    Notes
    -----
    Gradient r / √(1 + (r/delta)²). Written with the smaller over the larger of |r| and delta, so that nothing
    overflows early and small r keep all digits.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.PseudoHuber(delta=2.0).loss([0.0], [1e-9])
    5e-19
    """

    name = "pseudo_huber"
    delta: float = Parameter(default=1.0, above=0)

    @staticmethod
    def sample(y, raw, delta):
        r = raw - y
        a = abs(r)
        small = min(a, delta)
        ratio = small / max(a, delta)
        root = sqrt(1.0 + ratio * ratio)
        a_part = 1.0 if a > delta else ratio
        delta_part = ratio if a > delta else 1.0
        loss = delta * (a_part / (root + delta_part)) * a
        slope = delta_part / root
        return loss, copysign(small / root, r), slope * slope * slope

    def curvature(self) -> float:
        return 1.0


class LogCosh(Loss):
    """Log-cosh, log cosh r: ½ r² near 0, |r| − log 2 far away.

    Notes
    -----
    Gradient tanh r, hessian 1 / cosh² r.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.LogCosh().loss([0.0], [1e-4])
    4.9999999916...e-09
    """

    name = "log_cosh"

    @staticmethod
    def sample(y, raw):
        r = raw - y
        value = stage(log_cosh(r))
        t = stage(expm1(-2.0 * abs(r)))
        e = exp(-2.0 * abs(r))
        return value, copysign(t / (2.0 + t), r), 4.0 * e / ((1.0 + e) * (1.0 + e))

    def curvature(self) -> float:
        return 1.0


class Cauchy(Loss):
    """Cauchy (Lorentz), ½ scale² log(1 + (r/scale)²): outliers lose their influence.

    Parameters
    ----------
    scale : float, default 1.0
        Residual, in units of y, of greatest influence; > 0.

    Notes
    -----
    Gradient r / (1 + (r/scale)²). Not convex beyond |r| = scale. From 1e15 on, (r/scale)² could overflow; there
    1 + (r/scale)² is (r/scale)² to all digits, and the logarithm is taken of r itself.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.Cauchy(scale=2.0).gradient([0.0], [2.0])
    array([1.])
    """

    name = "cauchy"
    always_convex = False
    scale: float = Parameter(default=1.0, above=0, squared=True)

    @staticmethod
    def sample(y, raw, scale):
        r = raw - y
        a = abs(r)
        t = a / scale
        square = t * t
        # What rounding left out of the square: the quotient's own remainder, twice, and the product's.
        low = product_error(t, t, square) - 2.0 * t * (product_error(t, scale, a) / scale)
        far = t > 1e15
        value = log_sum(0.0 if far else 1.0, a if far else square)
        # Below 1e-10 the logarithm is its argument, whose square may be below the smallest normal number.
        loss = (
            0.5 * a * a
            if t < 1e-10
            else (0.5 * scale * scale) * (2.0 * (value - log(scale)) if far else value + low / (1.0 + square))
        )
        inverse = scale / r
        grad = scale * inverse if far else r / (1.0 + square)
        hess = -inverse * inverse if far else (1.0 - square) / (1.0 + square) / (1.0 + square)
        return loss, grad, hess

    def curvature(self) -> float:
        return 1.0


class Fair(Loss):
    """Fair's loss, scale² (|r|/scale − log(1 + |r|/scale)): convex, nearly linear far away.

    Parameters
    ----------
    scale : float, default 1.0
        In units of y; > 0.

    Notes
    -----
    Gradient r / (1 + |r|/scale), hessian 1 / (1 + |r|/scale)². R. C. Fair, On the robust estimation of
    econometric models, Annals of Economic and Social Measurement 3 (1974).

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.Fair().gradient([0.0, 0.0], [1.0, -3.0], reduction="none")
    array([ 0.5 , -0.75])
    """

    name = "fair"
    scale: float = Parameter(default=1.0, above=0, squared=True)

    @staticmethod
    def sample(y, raw, scale):
        r = raw - y
        a = abs(r)
        x = a / scale
        # x - log(1 + x) is s (x - W), without cancellation.
        t = min(a, scale)
        s = t / (2.0 * scale + t)
        near = scale * s * fma(-scale, atanh_rest_unit(s * s), t)
        # Beyond 1e30 the logarithm is below the last digit of a.
        far = scale * fma(-scale, log1p(min(x, 1e30)), a)
        small = min(a, scale)
        grad = copysign(small / (1.0 + small / max(a, scale)), r)
        return far if x > 1.0 else near, grad, 1.0 / (1.0 + x) / (1.0 + x)

    def curvature(self) -> float:
        return 1.0


class Welsch(Loss):
    """Welsch (Leclerc), ½ scale² (1 − exp(−(r/scale)²)): bounded, outliers have no influence at all.

    Parameters
    ----------
    scale : float, default 1.0
        In units of y; > 0.

    Notes
    -----
    Gradient r exp(−(r/scale)²). Not convex beyond |r| = scale/√2. The exponent is carried in two parts: the
    rounding error of (r/scale)², times up to 700, would otherwise show in the gradient.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.Welsch().loss([0.0, 0.0], [1e-8, 1e8], reduction="none")
    array([5.e-17, 5.e-01])
    """

    name = "welsch"
    always_convex = False
    scale: float = Parameter(default=1.0, above=0, squared=True)

    @staticmethod
    def sample(y, raw, scale):
        r = raw - y
        # exp(-40^2) is 0 in both dtypes.
        t = abs(r) / scale
        beyond = t >= 40.0
        t = min(t, 40.0)
        rest = product_error(t, scale, abs(r)) / scale
        square = t * t
        low = product_error(t, t, square) - 2.0 * t * rest
        low = 0.0 if beyond else low
        # Half the exponent, used twice: the exponential may be below the smallest normal number, r times it not.
        half = exp_sum(-0.5 * square, -0.5 * low)
        # Below 1e-10 the loss is half the square, whose parts may be below the smallest normal number.
        loss = 0.5 * r * r if t < 1e-10 else (-0.5 * scale * scale) * expm1_sum(-square, -low)
        return loss, 0.0 if beyond else r * half * half, (1.0 - 2.0 * square) * half * half

    def curvature(self) -> float:
        return 1.0


class Tukey(Loss):
    """Tukey's biweight, scale²/6 (1 − (1 − (r/scale)²)³) for |r| ≤ scale, scale²/6 beyond.

    Parameters
    ----------
    scale : float, default 4.685
        Cutoff, in units of y; > 0. 4.685 standard deviations keep 95 % efficiency for normal errors.

    Notes
    -----
    Gradient r (1 − (r/scale)²)², 0 beyond. Not convex. 1 − (r/scale)² is formed as (scale² − r²) / scale² with both
    squares exact, so that the gradient keeps its digits up to the cutoff.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.Tukey(scale=2.0).gradient([0.0, 0.0, 0.0], [1.0, 2.0, 5.0], reduction="none")
    array([0.5625, 0.    , 0.    ])
    """

    name = "tukey"
    always_convex = False
    scale: float = Parameter(default=4.685, above=0, squared=True)

    @staticmethod
    def sample(y, raw, scale):
        r = raw - y
        a = abs(r)
        # x = (c/scale)² and v = 1 − x, each in one rounding: squares, difference and reciprocal are kept in two parts.
        c = min(a, scale)
        square = c * c
        limit = scale * scale
        limit_low = product_error(scale, scale, limit)
        left = limit - square
        square_low = product_error(c, c, square)
        left_low = ((limit - left) - square) + (limit_low - square_low)
        inverse = 1.0 / limit
        inverse_low = -inverse * (product_error(limit, inverse, 1.0) + limit_low * inverse)
        v = fma(left, inverse, left_low * inverse + left * inverse_low)
        x = fma(square, inverse, square_low * inverse + square * inverse_low)
        # Below 1e-10 the loss is half the square, whose parts may be below the smallest normal number.
        loss = 0.5 * a * a if x < 1e-20 else (limit / 6.0) * (x * (3.0 - x * (3.0 - x)))
        return loss, 0.0 if a > scale else r * (v * v), v * (1.0 - 5.0 * x)

    def curvature(self) -> float:
        return 1.0


class Quantile(Loss):
    """Quantile (pinball, check) loss: with u = y − raw, max(quantile·u, (quantile − 1)·u).

    Parameters
    ----------
    quantile : float, default 0.5
        Level the raw prediction estimates, in (0, 1).

    Notes
    -----
    Subgradient −quantile where y > raw, 1 − quantile where y < raw, 0 at equality. Hessian 0. R. Koenker and
    G. Bassett, Regression Quantiles, Econometrica 46 (1978).

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.Quantile(quantile=0.75).loss([1.0, -1.0], [0.0, 0.0], reduction="none")
    array([0.75, 0.25])
    """

    name = "quantile"
    piecewise_linear = True
    quantile: float = Parameter(default=0.5, above=0, below=1)

    @staticmethod
    def sample(y, raw, quantile):
        r = raw - y
        loss = -quantile * r if r < 0.0 else (1.0 - quantile) * r
        return loss, -quantile if r < 0.0 else (1.0 - quantile if r > 0.0 else r), unless_nan(r, 0.0)

    @staticmethod
    def proximal_slope(y, raw, step, quantile):
        return max(-quantile, min(1.0 - quantile, (raw - y) / step))


class SmoothQuantile(Loss):
    """Smoothed quantile loss, |quantile − 1{u < 0}| · huber_delta(u) / delta with u = y − raw.

    Parameters
    ----------
    quantile : float, default 0.5
        Level, in (0, 1).
    delta : float, default 1.0
        Half-width of the quadratic part, in units of y; > 0. Towards 0 the loss becomes the quantile loss.

    Notes
    -----
    Continuously differentiable; the slope 1/delta makes it scale like the quantile loss.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.SmoothQuantile(quantile=0.75).gradient([2.0, 0.25], [0.0, 0.0], reduction="none")
    array([-0.75  , -0.1875])
    """

    name = "smooth_quantile"
    quantile: float = Parameter(default=0.5, above=0, below=1)
    delta: float = Parameter(default=1.0, above=0)

    @staticmethod
    def sample(y, raw, quantile, delta):
        r = raw - y
        a = abs(r)
        c = delta if a > delta else a
        side = quantile if r < 0.0 else 1.0 - quantile
        share = c / delta
        hess = unless_nan(r, side / delta if a <= delta else 0.0)
        return side * (share * (a - 0.5 * c)), side * copysign(share, r), hess

    @staticmethod
    def proximal_slope(y, raw, step, quantile, delta):
        r = raw - y
        weight = quantile if r < 0.0 else 1.0 - quantile
        return weight * max(-1.0, min(1.0, r / (delta + step * weight)))

    def curvature(self) -> float:
        return max(self.quantile, 1 - self.quantile) / self.delta


class Expectile(Loss):
    """Expectile loss, |expectile − 1{u < 0}| · ½ u² with u = y − raw: the asymmetric squared error.

    Parameters
    ----------
    expectile : float, default 0.5
        Level, in (0, 1); 0.5 gives a quarter of the squared error u².

    Notes
    -----
    W. K. Newey and J. L. Powell, Asymmetric Least Squares Estimation and Testing, Econometrica 55 (1987).

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.Expectile(expectile=0.75).gradient([1.0, -1.0], [0.0, 0.0], reduction="none")
    array([-0.75,  0.25])
    """

    name = "expectile"
    expectile: float = Parameter(default=0.5, above=0, below=1)

    @staticmethod
    def sample(y, raw, expectile):
        r = raw - y
        side = expectile if r < 0.0 else 1.0 - expectile
        return 0.5 * side * r * r, side * r, unless_nan(r, side)

    @staticmethod
    def proximal_slope(y, raw, step, expectile):
        r = raw - y
        weight = expectile if r < 0.0 else 1.0 - expectile
        return weight * r / (1.0 + step * weight)

    def curvature(self) -> float:
        return max(self.expectile, 1 - self.expectile)


class EpsilonInsensitive(Loss):
    """Epsilon-insensitive loss, max(0, |r| − epsilon): support vector regression.

    Parameters
    ----------
    epsilon : float, default 0.1
        Half-width, in units of y, of the tube without loss; >= 0.

    Notes
    -----
    Subgradient sign(r) outside the tube, 0 inside and on its edge. Hessian 0.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.EpsilonInsensitive(epsilon=0.5).loss([0.0, 0.0], [0.25, 2.0], reduction="none")
    array([0. , 1.5])
    """

    name = "epsilon_insensitive"
    piecewise_linear = True
    epsilon: float = Parameter(default=0.1, at_least=0)

    @staticmethod
    def sample(y, raw, epsilon):
        r = raw - y
        a = abs(r)
        return 0.0 if a <= epsilon else a - epsilon, 0.0 if a <= epsilon else sign(r), unless_nan(r, 0.0)

    @staticmethod
    def proximal_slope(y, raw, step, epsilon):
        r = raw - y
        return copysign(max(0.0, min(1.0, (abs(r) - epsilon) / step)), r)


class SquaredEpsilonInsensitive(Loss):
    """Squared epsilon-insensitive loss, max(0, |r| − epsilon)².

    Parameters
    ----------
    epsilon : float, default 0.1
        Half-width, in units of y, of the tube without loss; >= 0.

    Notes
    -----
    Without ½, as in scikit-learn's SGD: gradient 2 (|r| − epsilon) sign(r) outside the tube.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.SquaredEpsilonInsensitive(epsilon=0.5).gradient([0.0, 0.0], [0.25, 2.0], reduction="none")
    array([0., 3.])
    """

    name = "squared_epsilon_insensitive"
    epsilon: float = Parameter(default=0.1, at_least=0)

    @staticmethod
    def sample(y, raw, epsilon):
        r = raw - y
        a = abs(r)
        d = 0.0 if a <= epsilon else a - epsilon
        return d * d, copysign(2.0 * d, r), unless_nan(r, 2.0 if a > epsilon else 0.0)

    @staticmethod
    def proximal_slope(y, raw, step, epsilon):
        r = raw - y
        return copysign(2.0 * max(0.0, abs(r) - epsilon) / (1.0 + 2.0 * step), r)

    def curvature(self) -> float:
        return 2.0


class Mape(Loss):
    """Mean absolute percentage error, |r| / max(|y|, epsilon).

    Parameters
    ----------
    epsilon : float or None, default None
        Smallest denominator; None for the machine epsilon of the working dtype, as in scikit-learn's metric.

    Notes
    -----
    Absolute error weighted by 1/|y|: the minimiser is a weighted median, below the median. Subgradient 0 at r = 0.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.Mape().loss([2.0, 100.0], [1.0, 99.0], reduction="none")
    array([0.5 , 0.01])
    """

    name = "mape"
    piecewise_linear = True
    epsilon: float | None = Parameter(default=None, above=0, none=lambda dtype: float(np.finfo(dtype).eps))

    @staticmethod
    def sample(y, raw, epsilon):
        r = raw - y
        scale = max(abs(y), epsilon)
        return abs(r) / scale, sign(r) / scale, unless_nan(r / scale, 0.0)

    @staticmethod
    def proximal_slope(y, raw, step, epsilon):
        steepest = 1.0 / max(abs(y), epsilon)
        return max(-steepest, min(steepest, (raw - y) / step))


class Msle(Loss):
    """Squared logarithmic error, ½ (log(1 + raw) − log(1 + y))².

    Notes
    -----
    y > −1. Defined for raw > −1; inf at raw = −1, NaN below. Not convex for raw > e (1 + y) − 1. Half the square that
    scikit-learn's ``mean_squared_log_error`` averages.

    Examples
    --------
    >>> import math, fastloss
    >>> fastloss.losses.Msle().loss([0.0], [math.e - 1])
    0.5
    """

    name = "msle"
    target = "numbers > -1"
    always_convex = False

    @staticmethod
    def domain(y):
        return not (y <= -1.0)

    @staticmethod
    def sample(y, raw):
        d = log1p(raw) - log1p(y)
        u = 1.0 + raw
        infinite = d == INF
        return 0.5 * d * d, 0.0 if infinite else d / u, 0.0 if infinite else (1.0 - d) / u / u

    def curvature(self) -> float:
        return math.inf
