"""Losses for counts and positive amounts, with the logarithm as link: exp(raw) estimates the mean.

See ``regression.py`` for how a loss's class is read.  By default the terms without the raw prediction are left out, as
in optimisation; ``constants=True`` adds them and the value is half the unit deviance (0 at exp(raw) = y).
"""

from __future__ import annotations

import math

from fastloss.losses._base import Loss, Parameter
from fastloss.losses._scalar import (
    INF,
    copysign,
    exp,
    exp_sum,
    expm1,
    expm1_sum,
    log,
    log1p,
    product_error,
    stage,
    unless_nan,
)


class Poisson(Loss):
    """Poisson loss, exp(raw) − y·raw: counts, with variance equal to the mean.

    Parameters
    ----------
    constants : bool, default False
        Add y log y − y, so that the value is half the Poisson deviance.

    Notes
    -----
    Real y ≥ 0. Gradient exp(raw) − y, hessian exp(raw) (unbounded). exp(raw) overflows to inf above raw = 709.78
    (88.72 in float32).

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.Poisson().loss_gradient([0.0, 3.0], [0.0, 0.0], reduction="none")
    (array([1., 1.]), array([ 1., -2.]))
    """

    name = "poisson"
    target = "numbers >= 0"
    link = "log"
    constants: bool = Parameter(default=False)

    @staticmethod
    def domain(y):
        return not (y < 0.0)

    @staticmethod
    def sample(y, raw):
        e = exp(raw)
        linear = 0.0 if y == 0.0 else y * raw
        loss = INF if e == INF and y < INF else e - linear
        return loss, e - y, unless_nan(y, e)

    @staticmethod
    def fisher(raw):
        return exp(raw)

    @staticmethod
    def constant(y):
        return 0.0 if y == 0.0 else y * log(y) - y


class Gamma(Loss):
    """Gamma loss, raw + y·exp(−raw): positive amounts, with standard deviation proportional to the mean.

    Parameters
    ----------
    constants : bool, default False
        Add −log y − 1, so that the value is half the gamma deviance.

    Notes
    -----
    y > 0. Gradient 1 − y exp(−raw), hessian y exp(−raw), its expectation 1. The exponential is taken of raw/2 and
    used twice, so that y exp(−raw) overflows only where it must.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.Gamma(constants=True).loss([2.0], [0.0])
    0.3068528...
    """

    name = "gamma"
    target = "numbers > 0"
    link = "log"
    constants: bool = Parameter(default=False)

    @staticmethod
    def domain(y):
        return not (y <= 0.0)

    @staticmethod
    def sample(y, raw):
        half = exp(-0.5 * raw)
        share = y * half * half
        return INF if share == INF and y < INF else raw + share, 1.0 - share, share

    @staticmethod
    def fisher(raw):
        return raw - raw + 1.0

    @staticmethod
    def constant(y):
        return -log(y) - 1.0


class Tweedie(Loss):
    """Tweedie loss with log link: expm1((2−p)·raw)/(2−p) − y·expm1((1−p)·raw)/(1−p) with p = power.

    Parameters
    ----------
    power : float, default 1.5
        The variance is proportional to mean**power. Between 1 and 2: amounts with exact zeros (y ≥ 0); 2 and above:
        y > 0; 0 and below: any y. Nothing is defined between 0 and 1.
    constants : bool, default False
        Add the terms without raw, so that the value is half the Tweedie deviance.

    Notes
    -----
    Gradient exp((2−p) raw) − y exp((1−p) raw). Continuous in `power`: poisson − 1 at p = 1, gamma − y at p = 2,
    because differences of powers are formed by expm1. Expected hessian exp((2−p) raw). Overflows to inf where
    exp((2−p) raw) or y exp((1−p) raw) does.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.Tweedie(power=1.5).gradient([0.0, 4.0], [0.0, 0.0], reduction="none")
    array([ 1., -3.])
    """

    name = "tweedie"
    target = "numbers >= 0 for 1 <= power < 2, numbers > 0 for power >= 2, any number for power <= 0"
    link = "log"
    power: float = Parameter(default=1.5, excluded=(0.0, 1.0))
    constants: bool = Parameter(default=False)

    @property
    def convex(self) -> bool:
        """For 1 <= power <= 2."""
        return 1 <= self.power <= 2

    @staticmethod
    def domain(y, power):
        return not ((y < 0.0 and power >= 1.0) or (y == 0.0 and power >= 2.0))

    @staticmethod
    def sample(y, raw, power):
        a = 2.0 - power
        b = 1.0 - power
        # Beyond 1e30 every exponential is saturated (and 0 * inf would be NaN).
        z = min(max(raw, -1e30), 1e30)
        # The products' rounding errors are carried along: exponentials would magnify them.
        az = a * z
        bz = b * z
        az_low = product_error(a, z, az)
        bz_low = product_error(b, z, bz)
        # Exponentials of half the argument, used twice, overflow only where the product with y or 1/a does.
        a_half = stage(exp_sum(0.5 * az, 0.5 * az_low))
        b_half = stage(exp_sum(0.5 * bz, 0.5 * bz_low))
        a_one = stage(expm1_sum(az, az_low))
        b_one = stage(expm1_sum(bz, bz_low))
        # expm1(a z)/a is z to all digits for small a z (a = 0 included); far up, the 1 is lost beside the exponential.
        first = raw if abs(az) < 1e-30 else (a_half * (a_half / a) if az > 80.0 else a_one / a)
        slope = y * raw if abs(bz) < 1e-30 else (y / b * b_half * b_half if bz > 80.0 else y * (b_one / b))
        second = 0.0 if y == 0.0 else slope
        rising = a_half * a_half
        falling = 0.0 if y == 0.0 else y * b_half * b_half
        rise_bend = a * a_half * a_half
        fall_bend = 0.0 if y == 0.0 else b * y * b_half * b_half
        # Where both terms overflow, exp(raw) against y decides which is the larger.
        mean = stage(exp(raw))
        loss = first - second
        between = a * b == 0.0
        loss = loss if loss == loss else copysign(INF, (1.0 if between else b) * mean - (0.0 if between else a) * y)
        grad = rising - falling
        grad = grad if grad == grad else copysign(INF, mean - y)
        hess = rise_bend - fall_bend
        hess = hess if hess == hess else copysign(INF, a * mean - b * y)
        given = unless_nan(y, raw)
        loss = unless_nan(given, loss)
        grad = unless_nan(given, grad)
        hess = unless_nan(given, hess)
        return loss, grad, hess

    @staticmethod
    def fisher(raw, power):
        return exp((2.0 - power) * raw)

    @staticmethod
    def constant(y, power):
        a = 2.0 - power
        b = 1.0 - power
        # y^a / (a b) + 1/a - y/b, in the form that stays finite at b = 0 or at a = 0; (1 - y)²/2 for power 0.
        positive = max(y, 0.0)
        logarithm = log(positive)
        by_b = logarithm if b == 0.0 else expm1(b * logarithm) / b
        by_a = logarithm if a == 0.0 else expm1(a * logarithm) / a
        near_one = (y * (by_b - 1.0) + 1.0) / a
        near_two = (by_a + 1.0 - y) / b
        power_term = near_one if abs(power - 1.0) < 0.5 else near_two
        rest = 1.0 / a - (0.0 if y == 0.0 else y / b)
        return 0.5 * (1.0 - y) * (1.0 - y) if power == 0.0 else (rest if positive == 0.0 else power_term)


class NegativeBinomial(Loss):
    """Negative binomial loss, (y + 1/theta)·log(1 + theta·exp(raw)) − y·raw: counts with more variance than Poisson.

    Parameters
    ----------
    theta : float, default 1.0
        Overdispersion: the variance is mean + theta·mean²; > 0. Towards 0 the loss becomes Poisson.
    constants : bool, default False
        Add y log y − (y + 1/theta) log(1 + theta y), so that the value is half the deviance.

    Notes
    -----
    Real y ≥ 0. Gradient (exp(raw) − y) / (1 + theta exp(raw)), between −y and 1/theta. Exponentials only of −|raw|, so
    nothing overflows.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.NegativeBinomial(theta=1.0).gradient([0.0, 3.0], [0.0, 0.0], reduction="none")
    array([ 0.5, -1. ])
    """

    name = "negative_binomial"
    target = "numbers >= 0"
    link = "log"
    theta: float = Parameter(default=1.0, above=0)
    constants: bool = Parameter(default=False)

    @staticmethod
    def domain(y):
        return not (y < 0.0)

    @staticmethod
    def sample(y, raw, theta):
        share = theta * exp(raw)
        linear = 0.0 if y == 0.0 else y * raw
        near = (y + 1.0 / theta) * log1p(share) - linear
        # From 1e30 on, log(1 + theta exp(raw)) is raw + log(theta) to all digits, and y raw drops out.
        far = raw / theta + (y + 1.0 / theta) * log(theta)
        half = exp(-0.5 * abs(raw))
        m = half * half
        lower = m + theta if raw > 0.0 else 1.0 + theta * m
        grad = (1.0 - y * m if raw > 0.0 else m - y) / lower
        return near if share < 1e30 else far, grad, half * (1.0 + theta * y) * half / lower / lower

    @staticmethod
    def fisher(raw, theta):
        m = exp(-abs(raw))
        return 1.0 / (m + theta) if raw > 0.0 else m / (1.0 + theta * m)

    @staticmethod
    def constant(y, theta):
        return (0.0 if y == 0.0 else y * log(y)) - (y + 1.0 / theta) * log1p(theta * y)

    def curvature(self) -> float:
        return math.inf
