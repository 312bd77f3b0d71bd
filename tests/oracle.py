"""One slow, obvious function per loss: the exact value the library is held to.

Each function is the formula of the loss and nothing else; derivatives come from `jet.Jet`.  What the function
receives is named by ``takes``:

* ``"difference"``: r = raw - y, already rounded to the working dtype (the library may round it once);
* ``"relative"``: that r, and y;
* ``"margin"``: m = s * raw with s = -1 or +1;
* ``"label"``: y in [0, 1], and raw;
* ``"target"``: y, and raw.

A function returns one jet, or the list of terms it adds up: then errors are measured in units of the largest term,
which the numerics contract allows to the losses that are by nature a difference.  Parameters arrive rounded to the
working dtype.  To add a loss, add one function here: every test of the suite then covers it.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jet import Jet, exp, expm1, jet, log1p, maximum, relu, softplus, sqrt
from mpmath import mp, mpf

ORACLES: dict[str, "Oracle"] = {}


@dataclass(frozen=True)
class Oracle:
    """A loss's exact function, and where it is worth testing."""

    name: str
    takes: str
    function: Callable
    grid: tuple = ()
    """Parameter sets worth testing besides the defaults."""
    kinks: Callable = lambda **params: ()
    """Where the function or a derivative is not smooth, in the variable it takes; both signs are tried."""
    jumps: bool = True
    """Whether the second derivative jumps at the kinks."""
    targets: Callable = lambda **params: (0.0,)
    """Values of y to pair with every raw prediction (labels and differences have their own)."""
    hard: tuple = ()
    """Variables (r, m or raw) at which an implementation once failed or came close to its limit."""
    domain: Callable = lambda y, raw, **params: True
    """False where the loss is NaN by its domain in raw."""
    soft: bool = False
    """Whether labels between 0 and 1 are allowed."""

    @property
    def defaults(self):
        return {
            p.name: p.default
            for p in inspect.signature(self.function).parameters.values()
            if p.kind is inspect.Parameter.KEYWORD_ONLY
        }

    @property
    def parameter_sets(self):
        return ({}, *self.grid)

    @property
    def kind(self):
        return "binary" if self.takes in ("margin", "label") else "regression"


def oracle_for(name, takes, **where):
    def register(function):
        ORACLES[name] = Oracle(name, takes, function, **where)
        return function

    return register


# regression -----------------------------------------------------------------------------------------------------


@oracle_for("squared_error", "difference")
def squared_error(r):
    return r * r / 2


@oracle_for("absolute_error", "difference", kinks=lambda: [0])
def absolute_error(r):
    return abs(r)


@oracle_for(
    "huber",
    "difference",
    grid=({"delta": 1.35}, {"delta": 1e-3}, {"delta": 1e3}),
    kinks=lambda delta: [delta],
)
def huber(r, *, delta=1.0):
    return r * r / 2 if abs(r) <= delta else delta * (abs(r) - delta / 2)


@oracle_for("pseudo_huber", "difference", grid=({"delta": 1.35}, {"delta": 1e-3}, {"delta": 1e3}))
def pseudo_huber(r, *, delta=1.0):
    return delta * delta * (sqrt(1 + (r / delta) ** 2) - 1)


@oracle_for("log_cosh", "difference")
def log_cosh(r):
    a = r if r >= 0 else -r  # the function is even; unlike abs(r) this has no kink
    return a + softplus(-2 * a) - mp.log(2)


@oracle_for("cauchy", "difference", grid=({"scale": 1.35}, {"scale": 1e-3}, {"scale": 1e3}), hard=(0.34483445,))
def cauchy(r, *, scale=1.0):
    return scale * scale / 2 * log1p((r / scale) ** 2)


@oracle_for(
    "fair",
    "difference",
    grid=({"scale": 1.35}, {"scale": 1e-3}, {"scale": 1e3}),
    hard=(0.031195655, 3.9679076488053386, 0.3683329, 0.98813504, 0.000481618266060983),
)
def fair(r, *, scale=1.0):
    u = (r if r >= 0 else -r) / scale  # even and smooth at 0
    return scale * scale * (u - log1p(u))


@oracle_for(
    "welsch",
    "difference",
    grid=({"scale": 1.35}, {"scale": 1e-3}, {"scale": 1e3}),
    hard=(9.438824, 12.780192, 9659.307, 9806.526),
)
def welsch(r, *, scale=1.0):
    return scale * scale / 2 * -expm1(-((r / scale) ** 2))


@oracle_for(
    "tukey",
    "difference",
    grid=({"scale": 1.0}, {"scale": 1e-3}, {"scale": 1e3}),
    kinks=lambda scale: [scale],
    jumps=False,
    hard=(2.1855386326580875, 0.0006893142229589617, 0.0006174141, 0.99508494, 15.85889),
)
def tukey(r, *, scale=4.685):
    top = scale * scale / 6
    return top * (1 - (1 - (r / scale) ** 2) ** 3) if abs(r) <= scale else jet(top)


@oracle_for(
    "quantile",
    "difference",
    grid=({"quantile": 0.1}, {"quantile": 0.95}, {"quantile": 1e-3}),
    kinks=lambda quantile: [0],
)
def quantile(r, *, quantile=0.5):
    u = -r
    return maximum(quantile * u, (quantile - 1) * u)


def tilt(level, u):
    """|level - 1{u < 0}|: how much a side of an asymmetric loss counts."""
    return 1 - level if u < 0 else level


@oracle_for(
    "smooth_quantile",
    "difference",
    grid=({"quantile": 0.1}, {"quantile": 0.9, "delta": 0.05}, {"delta": 30.0}),
    kinks=lambda quantile, delta: [0, delta],
)
def smooth_quantile(r, *, quantile=0.5, delta=1.0):
    return tilt(quantile, -r) * huber(-r, delta=delta) / delta


@oracle_for(
    "expectile",
    "difference",
    grid=({"expectile": 0.1}, {"expectile": 0.95}, {"expectile": 1e-3}),
    kinks=lambda expectile: [0],
)
def expectile(r, *, expectile=0.5):
    return tilt(expectile, -r) * r * r / 2


@oracle_for(
    "epsilon_insensitive",
    "difference",
    grid=({"epsilon": 0.0}, {"epsilon": 1.0}, {"epsilon": 1e-3}),
    kinks=lambda epsilon: [epsilon],
)
def epsilon_insensitive(r, *, epsilon=0.1):
    return relu(abs(r) - epsilon)


@oracle_for(
    "squared_epsilon_insensitive",
    "difference",
    grid=({"epsilon": 0.0}, {"epsilon": 1.0}, {"epsilon": 1e-3}),
    kinks=lambda epsilon: [epsilon],
)
def squared_epsilon_insensitive(r, *, epsilon=0.1):
    return relu(abs(r) - epsilon) ** 2


@oracle_for(
    "mape",
    "relative",
    grid=({"epsilon": 0.1}, {"epsilon": 1.0}),
    kinks=lambda epsilon: [0],
    targets=lambda epsilon: [0.0, 1.0, -3.0, 0.1, 1e-20, -1e5, 1e30],
)
def mape(r, y, *, epsilon=None):
    return abs(r) / max(abs(y), epsilon)


@oracle_for(
    "msle",
    "target",
    kinks=lambda: [-1],
    jumps=False,
    targets=lambda: [0.0, 1.0, -0.5, 0.1, 1e-6, 17.0, 1e5, 1e30, -0.999],
    domain=lambda y, raw: raw >= -1,
)
def msle(y, raw):
    if raw.v == -1:  # the edge of the domain: the value of the limit from above
        return Limit(mp.inf, -mp.inf, mp.inf)
    a, b = log1p(raw), mp.log1p(y)
    d = a - b
    # d is a difference of two logarithms: an error of one unit in the larger of them, carried through the square
    unit = max(abs(a.v), abs(b))
    return Scaled(d * d / 2, unit * abs(d.v), unit * abs(a.d1), max(a.d1**2, unit * abs(a.d2)))


# counts and amounts: the log of the mean is predicted -----------------------------------------------------------

COUNTS = [0.0, 1.0, 0.5, 3.0, 1e-5, 17.0, 1e5, 1e30]
AMOUNTS = [1.0, 0.5, 3.0, 1e-5, 17.0, 1e5, 1e30]


def xlogx(y):
    return y * mp.log(y) if y > 0 else mpf(0)


@oracle_for("poisson", "target", grid=({"constants": True},), targets=lambda constants: COUNTS)
def poisson(y, raw, *, constants=False):
    return [exp(raw), -y * raw, *([xlogx(y), -y] if constants else [])]


@oracle_for("gamma", "target", grid=({"constants": True},), targets=lambda constants: AMOUNTS)
def gamma(y, raw, *, constants=False):
    return [raw, y * exp(-raw), *([-mp.log(y), -1] if constants else [])]


def growth(rate, z):
    """expm1(rate * z) / rate, continued to rate = 0."""
    if not rate:
        return z
    return (expm1(rate * z) if isinstance(z, Jet) else mp.expm1(rate * z)) / rate


def tweedie_targets(power, constants):
    if power <= 0:
        return [*COUNTS, -1.0, -30.0]
    return COUNTS if power < 2 else AMOUNTS


@oracle_for(
    "tweedie",
    "target",
    grid=(
        *({"power": p} for p in (-0.5, 0.0, 1.0, 1 + 1e-12, 1.1, 1.9, 2.0, 2.5, 3.0)),
        *({"power": p, "constants": True} for p in (0.0, 1.0, 1.5, 2.0, 3.0)),
    ),
    targets=tweedie_targets,
)
def tweedie(y, raw, *, power=1.5, constants=False):
    terms = [growth(2 - power, raw), -y * growth(1 - power, raw)]
    if not constants:
        return terms
    # half the unit deviance, which is 0 where the mean is y; log y -> -inf is the limit for y = 0
    if y > 0:
        return [*terms, -growth(2 - power, mp.log(y)), y * growth(1 - power, mp.log(y))]
    if power == 0:  # the normal deviance, for targets of either sign
        return [*terms, (1 - y) ** 2 / 2]
    return [*terms, 1 / (2 - power), -y / (1 - power) if y else mpf(0)]


@oracle_for(
    "negative_binomial",
    "target",
    grid=({"theta": 0.1}, {"theta": 7.0}, {"constants": True}),
    targets=lambda theta, constants: COUNTS,
)
def negative_binomial(y, raw, *, theta=1.0, constants=False):
    terms = [(y + 1 / theta) * softplus(raw + mp.log(theta)), -y * raw]
    return [*terms, xlogx(y), -(y + 1 / theta) * mp.log1p(theta * y)] if constants else terms


# binary labels --------------------------------------------------------------------------------------------------


@oracle_for(
    "log_loss",
    "label",
    grid=(
        {"pos_weight": 3.0},
        {"pos_weight": 0.1, "neg_weight": 7.0},
        {"label_smoothing": 0.1},
        {"label_smoothing": 0.3, "pos_weight": 2.0},
    ),
    soft=True,
)
def log_loss(y, z, *, pos_weight=1.0, neg_weight=1.0, label_smoothing=0.0):
    y = (1 - label_smoothing) * y + label_smoothing / 2
    if y in (0, 1):
        return pos_weight * softplus(-z) if y == 1 else neg_weight * softplus(z)
    return [y * pos_weight * softplus(-z), neg_weight * softplus(z), -y * neg_weight * softplus(z)]


@oracle_for("hinge", "margin", kinks=lambda: [1])
def hinge(m):
    return relu(1 - m)


@oracle_for("squared_hinge", "margin", kinks=lambda: [1])
def squared_hinge(m):
    return relu(1 - m) ** 2


@oracle_for(
    "smooth_hinge",
    "margin",
    grid=({"gamma": 0.1}, {"gamma": 2.0}, {"gamma": 30.0}),
    kinks=lambda gamma: [1, 1 - gamma],
)
def smooth_hinge(m, *, gamma=1.0):
    if m >= 1:
        return jet(0)
    return (1 - m) ** 2 / (2 * gamma) if m >= 1 - gamma else 1 - m - gamma / 2


@oracle_for("modified_huber", "margin", kinks=lambda: [1, -1])
def modified_huber(m):
    return relu(1 - m) ** 2 if m >= -1 else -4 * m


@oracle_for("perceptron", "margin", kinks=lambda: [0])
def perceptron(m):
    return Jet(0, -m.d1) if m.v == 0 else relu(-m)


@oracle_for("exponential", "margin")
def exponential(m):
    return exp(-m)


@oracle_for(
    "focal",
    "label",
    grid=({"gamma": 0.0}, {"gamma": 0.5}, {"gamma": 1.0}, {"gamma": 3.7}, {"alpha": 0.25}),
    hard=(0.3561753820844107, 0.283015883703435, 0.29262787, 0.3214988, 0.05561812),
    soft=True,
)
def focal(y, z, *, gamma=2.0, alpha=None):
    def side(m, weight):
        return weight * exp(-gamma * softplus(m)) * softplus(-m)

    positive, negative = (1, 1) if alpha is None else (alpha, 1 - alpha)
    if y in (0, 1):
        return side(z, positive) if y == 1 else side(-z, negative)
    return [y * side(z, positive), side(-z, negative), -y * side(-z, negative)]


@oracle_for(
    "poly1", "margin", grid=({"epsilon": -0.5}, {"epsilon": 10.0}, {"epsilon": 0.0}), hard=(9.34265559365965, 89.20639)
)
def poly1(m, *, epsilon=1.0):
    return softplus(-m) + epsilon * exp(-softplus(m))


# exact values and their yardsticks -------------------------------------------------------------------------------

NEAR_INFINITY, NEARER_INFINITY = mpf("1e400"), mpf("1e500")
"""Both beyond every double: a function that still grows between them has an infinite limit."""


@dataclass
class Limit:
    """Loss, gradient and Hessian known as a limit."""

    v: object
    d1: object
    d2: object


@dataclass
class Scaled:
    """A jet whose loss, gradient and Hessian errors are measured against given magnitudes."""

    jet: Jet
    scale: object
    scale1: object
    scale2: object


@functools.singledispatch
def orders(result):
    """[(exact, largest term)] for loss, gradient and Hessian."""
    raise TypeError(result)


@orders.register
def _(result: Jet):
    return [(result.v, abs(result.v)), (result.d1, abs(result.d1)), (result.d2, result.s2)]


@orders.register
def _(result: list):
    terms = [jet(term) for term in result]
    total = functools.reduce(Jet.__add__, terms)
    largest = [max(abs(term.v) for term in terms), max(abs(term.d1) for term in terms), total.s2]
    return list(zip((total.v, total.d1, total.d2), largest, strict=True))


@orders.register
def _(result: Scaled):
    j = result.jet
    return list(zip((j.v, j.d1, j.d2), (result.scale, result.scale1, result.scale2), strict=True))


@orders.register
def _(result: Limit):
    return [(value, abs(value)) for value in (result.v, result.d1, result.d2)]


NAN_EVERYWHERE = [(mp.nan, mp.nan)] * 3


def precision(*numbers):
    """Bits that survive the worst cancellation: the square of the smallest number beside 1."""
    tiniest = min((mp.mag(x) for x in numbers if x and mp.isfinite(x)), default=0)
    return 240 + 2 * max(0, -tiniest)


def exact(loss, y, raw, dtype, **params):
    """[(exact value, largest term)] for loss, gradient and Hessian at one sample of the working dtype.

    ``y`` and ``raw`` are numbers of the working dtype; ``params`` are rounded to it here.
    """
    dtype = np.dtype(dtype).type
    spec = ORACLES[loss]
    with np.errstate(all="ignore"):
        r = float(dtype(raw) - dtype(y))
    y, raw = float(y), float(raw)
    params = {**spec.defaults, **params}
    if "epsilon" in params and params["epsilon"] is None:
        params["epsilon"] = np.finfo(dtype).eps
    params = {k: v if v is None or isinstance(v, bool) else mpf(float(dtype(v))) for k, v in params.items()}
    if np.isnan(y) or np.isnan(raw) or np.isnan(r) or not spec.domain(y, raw, **params):
        return NAN_EVERYWHERE

    def at(x):
        """The loss with its variable at x."""
        match spec.takes:
            case "difference":
                return orders(spec.function(Jet(x, 1), **params))
            case "relative":
                return orders(spec.function(Jet(x, 1), mpf(y), **params))
            case "margin":
                return orders(spec.function((1 if y > 0 else -1) * Jet(x, 1), **params))
            case "label" | "target":
                return orders(spec.function(mpf(y), Jet(x, 1), **params))

    x = r if spec.takes in ("difference", "relative") else raw
    with mp.workprec(precision(x, y, *(v for v in params.values() if isinstance(v, mpf)))):
        if np.isfinite(x):
            return at(mpf(x))
        sign = 1 if x > 0 else -1
        return [limit(*pair) for pair in zip(at(sign * NEAR_INFINITY), at(sign * NEARER_INFINITY), strict=True)]


def limit(near, nearer):
    """The limit, from values at two points close to infinity."""
    (value, largest), (next_value, _) = near, nearer
    if abs(next_value) > abs(value) * mpf("1.1"):
        return (mp.inf if next_value > 0 else -mp.inf), mp.inf
    return value, largest
