"""One slow, obvious function per multiclass loss: the exact value, gradient row and Hessian diagonal of one sample.

What the library is held to are functions of the differences d_k = z_k - max z, rounded once to the working dtype
(hinges: of the difference between the best other class and the true one).  From these differences on everything here
is exact: 240 bits, and sums of positive terms wherever a tail must not drown beside 1.  The derivatives are closed
forms; test_oracle_multiclass.py takes them from the losses once more, by differences with thousands of bits.

Every number comes with the largest of the terms it is added up from.  Errors are counted in ulps of that: it is the
number itself, except where the numerics contract allows a cancellation (soft targets, z_loss, margins, projections,
and the Hessians of losses that are not convex).
"""

import inspect
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from mpmath import mp, mpf
from yardstick import _pack

ORACLES: dict[str, "Oracle"] = {}
PRECISION = 240
COMMON = {"class_weight": None, "ignore_index": None}
"""Parameters of every multiclass loss that become sample weights, and are no part of a formula."""


@dataclass(frozen=True)
class Oracle:
    """A loss's exact function, and where it is worth testing."""

    name: str
    function: Callable
    grid: tuple = ()
    """Parameter sets worth testing besides the defaults."""
    soft: bool = False
    """Whether (n, K) targets are allowed."""
    margin: bool = False
    """Whether the loss sees the scores as margins against the true class, not as differences from the largest."""
    projection: bool = False
    """Whether the loss projects the scores on the simplex (else, if no margin, it is made of their softmax)."""

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


def oracle_for(name, **where):
    def register(function):
        ORACLES[name] = Oracle(name, function, **where)
        return function

    return register


# one row of scores ----------------------------------------------------------------------------------------------


class Row:
    """Scores of one sample, as differences from the largest, and the softmax of these.

    The probability of everything else, ``rest[k] / total``, is a sum of its own: 1 - p would lose it.
    """

    def __init__(self, z):
        self.z = z
        top = z.max()
        with np.errstate(all="ignore"):
            self.rounded = np.where(z == top, z.dtype.type(0), z - top)  # equal infinities are ties
        self.top = mpf(float(top))
        self.d = [mpf(float(x)) for x in self.rounded]
        self.masked = np.isneginf(z)
        e = [mp.exp(x) for x in self.d]
        before, after = [mpf(0), *accumulate(e[:-1])], [mpf(0), *accumulate(e[:0:-1])][::-1]
        rest = [a + b for a, b in zip(before, after, strict=True)]
        total = before[-1] + e[-1]
        self.p = [x / total for x in e]
        self.q = [x / total for x in rest]
        self.minus_log_p = [mp.log1p(r / x) if x else mp.inf for r, x in zip(rest, e, strict=True)]
        # log(total) of the row's largest: what was added to it is not lost, however small
        self.log_total = self.minus_log_p[int(np.argmax(self.rounded))]

    def __len__(self):
        return len(self.d)


_ROWS: OrderedDict = OrderedDict()


def row_of(z):
    """The `Row` of an array of K scores, remembered because many losses look at the same; None where all is NaN."""
    if np.isnan(z).any() or np.isneginf(z).all():
        return None
    key = z.dtype.str, z.tobytes()
    if key not in _ROWS:
        while len(_ROWS) > 3000:
            _ROWS.popitem(last=False)
        with mp.workprec(PRECISION):
            _ROWS[key] = Row(z)
    return _ROWS[key]


def times(a, b):
    """The product, with 0 * inf = 0: what has no probability contributes nothing."""
    return a * b if a and b else mpf(0)


def itself(value):
    """A number that is its own largest term."""
    return value, abs(value)


def added(terms):
    """A sum, beside its largest term."""
    return sum(terms), max(abs(term) for term in terms)


# losses of the softmax ------------------------------------------------------------------------------------------


@oracle_for(
    "cross_entropy",
    soft=True,
    grid=(
        {"label_smoothing": 0.1},
        {"z_loss": 1e-3},
        {"label_smoothing": 0.6, "z_loss": 0.05},
    ),
)
def cross_entropy(row, y, *, label_smoothing=0.0, z_loss=0.0):
    unmasked = len(row) - int(row.masked.sum())
    one_hot = np.ndim(y) == 0
    labels = [mpf(int(k == y)) for k in range(len(row))] if one_hot else [mpf(float(v)) for v in y]
    spread = label_smoothing / unmasked
    targets = [
        (1 - label_smoothing) * v + (0 if hidden else spread) for v, hidden in zip(labels, row.masked, strict=True)
    ]
    mass = sum(targets)
    lse = row.top + row.log_total
    lse_size = max(abs(row.top), row.log_total)  # lse itself is a difference of these two, when top is negative
    loss = sum(times(t, v) for t, v in zip(targets, row.minus_log_p, strict=True)), times(z_loss, lse**2)
    exact_tail = one_hot and not label_smoothing and not z_loss
    gradient, hessian = [], []
    for p, q, t in zip(row.p, row.q, targets, strict=True):
        pull = times(z_loss, times(2 * lse, p)), times(z_loss, times(2 * lse_size, p))
        if exact_tail:
            gradient.append(itself(-q if t else p))
        else:
            gradient.append((p * mass - t + pull[0], max(p * mass, t, pull[1])))
        hessian.append(
            (
                mass * p * q + times(pull[0], q) + 2 * z_loss * p * p,
                max(mass * p * q, times(pull[1], q), 2 * z_loss * p * p),
            )
        )
    return (sum(loss), max(loss[0], times(z_loss, lse_size**2))), gradient, hessian


def function_of_p(row, y, loss, slope, bends):
    """A loss that is a function of p_y alone, from its value and its derivatives along log p.

    ``slope`` is -dloss/dlog p, ``bends`` the terms that add up to dslope/dlog p.
    """
    gradient, hessian = [], []
    for k, (p, q) in enumerate(zip(row.p, row.q, strict=True)):
        toward = -q if k == y else p  # -dlog p_y / dz_k
        gradient.append(itself(slope * toward))
        hessian.append(added([slope * p * q, *(-times(bend, toward * toward) for bend in bends)]))
    return itself(loss), gradient, hessian


@oracle_for("multiclass_focal", grid=({"gamma": 0.0}, {"gamma": 0.5}, {"gamma": 1.0}, {"gamma": 5.0}))
def multiclass_focal(row, y, *, gamma=2.0):
    p, q, cost = row.p[y], row.q[y], row.minus_log_p[y]
    if not q:  # certain and right: everything vanishes (q^(gamma-2) below does not, but what it is multiplied with)
        return function_of_p(row, y, mpf(0), mpf(not gamma), [mpf(0)])
    if not p:  # certain and wrong: cross-entropy
        return function_of_p(row, y, mp.inf, mpf(1), [mpf(0)])
    slope = q**gamma + gamma * p * q ** (gamma - 1) * cost
    bends = [
        -2 * gamma * p * q ** (gamma - 1),
        gamma * p * q ** (gamma - 1) * cost,
        -gamma * (gamma - 1) * p * p * q ** (gamma - 2) * cost,
    ]
    return function_of_p(row, y, q**gamma * cost, slope, bends)


@oracle_for("generalized_cross_entropy", grid=({"q": 0.1}, {"q": 1.0}, {"q": 0.01}))
def generalized_cross_entropy(row, y, *, q=0.7):
    if not row.p[y]:
        return function_of_p(row, y, 1 / q, mpf(0), [mpf(0)])
    slope = mp.exp(-q * row.minus_log_p[y])  # p^q
    return function_of_p(row, y, -mp.expm1(-q * row.minus_log_p[y]) / q, slope, [q * slope])


# margins --------------------------------------------------------------------------------------------------------


def margin(z, y):
    """(1 + best other score - score of y, the classes that have the best other score)."""
    others = np.delete(np.arange(z.size), y)
    if not others.size:
        return mpf(0), []
    best = z[others].max()
    with np.errstate(all="ignore"):
        difference = z.dtype.type(best - z[y])
    return 1 + mpf(float(difference)), [int(k) for k in others if z[k] == best]


def hinge_of(row, y, loss, slope, bend):
    """A function of the margin, from its value, slope and second derivative; ties share the subgradient."""
    height, rivals = margin(row.z, y)
    zero = mpf(0), mpf(1)
    gradient, hessian = [zero] * len(row), [zero] * len(row)
    if height <= 0:
        return zero, gradient, hessian
    for k, share in [(y, mpf(-1)), *((k, mpf(1) / len(rivals)) for k in rivals)]:
        gradient[k] = slope(height) * share, abs(slope(max(height, 1)) * share)
        hessian[k] = itself(bend * share * share)
    return (loss(height), loss(max(height, 1))), gradient, hessian


@oracle_for("multiclass_hinge", margin=True)
def multiclass_hinge(row, y):
    return hinge_of(row, y, lambda h: h, lambda h: mpf(1), 0)


@oracle_for("multiclass_squared_hinge", margin=True)
def multiclass_squared_hinge(row, y):
    return hinge_of(row, y, lambda h: h * h, lambda h: 2 * h, 2)


# projections on the simplex -------------------------------------------------------------------------------------


def projected(row, y, p, entropy, curvature):
    """The Fenchel-Young loss of a projection p; all errors are measured beside 1."""
    loss = entropy + sum(times(v, d) for v, d in zip(p, row.d, strict=True)) - row.d[y]
    gradient = [(v - (k == y), mpf(1)) for k, v in enumerate(p)]
    return (loss, max(abs(row.d[y]), 1)), gradient, [(v, mpf(1)) for v in curvature]


@oracle_for("sparsemax", projection=True)
def sparsemax(row, y):
    threshold, total = None, mpf(0)
    for k, x in enumerate(sorted(row.d, reverse=True), 1):
        total += x
        if 1 + k * x > total:
            threshold = (total - 1) / k
    p = [max(x - threshold, mpf(0)) for x in row.d]
    size = sum(v > 0 for v in p)
    entropy = (1 - sum(v * v for v in p)) / 2
    return projected(row, y, p, entropy, [1 - mpf(1) / size if v else mpf(0) for v in p])


@oracle_for("entmax15", projection=True)
def entmax15(row, y):
    half = [x / 2 for x in row.d]
    threshold, total, squares = None, mpf(0), mpf(0)
    for k, x in enumerate(sorted(half, reverse=True), 1):
        total, squares = total + x, squares + x * x
        mean = total / k
        room = (1 - (squares - k * mean * mean)) / k
        if not mp.isfinite(x) or room < 0 or mean - mp.sqrt(room) > x:
            break
        threshold = mean - mp.sqrt(room)
    s = [max(x - threshold, mpf(0)) for x in half]
    p, size = [v * v for v in s], sum(s)
    entropy = mpf(4) / 3 * (1 - sum(v**3 for v in s))
    return projected(row, y, p, entropy, [v - v * v / size for v in s])


# exact values and their yardsticks -------------------------------------------------------------------------------


def exact(name, y, z, **params):
    """(loss, gradient row, Hessian row) of one sample, each number as (exact value, largest term).

    ``z`` is an array of K scores in the working dtype, ``y`` a label or K soft targets; ``params`` are rounded to
    the working dtype here.
    """
    spec, row = ORACLES[name], row_of(z)
    if row is None:
        nothing = mp.nan, mp.nan
        return nothing, [nothing] * z.size, [nothing] * z.size
    with mp.workprec(PRECISION):
        known = {k: mpf(float(z.dtype.type(v))) for k, v in (spec.defaults | params).items()}
        return spec.function(row, int(y) if np.ndim(y) == 0 else y, **known)


def reference(name, params, y, raw):
    """The three `yardstick.Reference` of samples of one loss; those of gradient and Hessian are flat, row by row."""
    columns = [], [], []
    for yi, zi in zip(y, raw, strict=True):
        loss, gradient, hessian = exact(name, yi, zi, **params)
        for column, values in zip(columns, ([loss], gradient, hessian), strict=True):
            column.extend(values)
    # a factor 1/q multiplies what was below the smallest normal number, too
    return [packed(column, raw.dtype, 1 / params.get("q", 1.0)) for column in columns]


def packed(column, dtype, factor=1.0):
    """A `yardstick.Reference` from (exact value, largest term) pairs."""
    return _pack(column, dtype, factor)


def softmax_functions(raw):
    """{name: `Reference`} of softmax, log_softmax and logsumexp along the rows of raw."""
    columns = {"softmax": [], "log_softmax": [], "logsumexp": []}
    for z in raw:
        row = row_of(z)
        if row is None:
            nan = (mp.nan, mp.nan)
            columns["softmax"] += [nan] * z.size
            columns["log_softmax"] += [nan] * z.size
            columns["logsumexp"].append(nan if np.isnan(z).any() else (-mp.inf, mp.inf))
            continue
        with mp.workprec(PRECISION):
            columns["softmax"] += [itself(v) for v in row.p]
            columns["log_softmax"] += [itself(-v) for v in row.minus_log_p]
            columns["logsumexp"].append((row.top + row.log_total, max(abs(row.top), row.log_total)))
    return {name: packed(column, raw.dtype) for name, column in columns.items()}
