"""Values that carry their first and second derivative, over mpmath numbers of any precision.

An oracle writes only the *loss*; gradient and Hessian follow from the rules here, so a wrong derivative in the
library cannot be repeated in its test.  At a kink every rule chooses the subgradient of smallest norm, which is
the library's promise too.
"""

from mpmath import mp, mpf


class Jet:
    """A function's value ``v``, derivative ``d1`` and second derivative ``d2`` with respect to one variable.

    ``s2`` is the largest term that was added up to make ``d2``: the yardstick where those terms cancel.
    """

    __slots__ = ("d1", "d2", "s2", "v")

    def __init__(self, v, d1=0, d2=0, s2=None):
        self.v, self.d1, self.d2 = mpf(v), mpf(d1), mpf(d2)
        self.s2 = abs(self.d2) if s2 is None else s2

    def __repr__(self):
        return f"Jet({mp.nstr(self.v, 20)}, {mp.nstr(self.d1, 20)}, {mp.nstr(self.d2, 20)})"

    def chain(self, f, f1, f2):
        """The jet of F(self) from F, F' and F'' at ``self.v``."""
        bend = f2 * self.d1 * self.d1
        return Jet(f, f1 * self.d1, bend + f1 * self.d2, max(abs(bend), abs(f1) * self.s2))

    # arithmetic
    def __add__(self, other):
        other = jet(other)
        return Jet(self.v + other.v, self.d1 + other.d1, self.d2 + other.d2, max(self.s2, other.s2))

    def __neg__(self):
        return Jet(-self.v, -self.d1, -self.d2, self.s2)

    def __mul__(self, other):
        other = jet(other)
        cross = 2 * self.d1 * other.d1
        return Jet(
            self.v * other.v,
            self.d1 * other.v + self.v * other.d1,
            self.d2 * other.v + cross + self.v * other.d2,
            max(self.s2 * abs(other.v), abs(cross), abs(self.v) * other.s2),
        )

    def __pow__(self, power):
        v = self.v
        return self.chain(v**power, power * v ** (power - 1), power * (power - 1) * v ** (power - 2))

    def __sub__(self, other):
        return self + -jet(other)

    def __rsub__(self, other):
        return jet(other) + -self

    def __truediv__(self, other):
        if not isinstance(other, Jet):  # x / x is exactly 1, unlike x * (1 / x)
            return Jet(self.v / other, self.d1 / other, self.d2 / other, self.s2 / abs(other))
        return self * other.chain(1 / other.v, -1 / other.v**2, 2 / other.v**3)

    __radd__ = __add__
    __rmul__ = __mul__

    def __abs__(self):
        return maximum(self, -self)

    # comparisons look at the value alone
    def __lt__(self, other):
        return self.v < jet(other).v

    def __le__(self, other):
        return self.v <= jet(other).v

    def __gt__(self, other):
        return self.v > jet(other).v

    def __ge__(self, other):
        return self.v >= jet(other).v


def jet(x):
    return x if isinstance(x, Jet) else Jet(x)


def maximum(a, b):
    """max(a, b); at a tie the subgradient of smallest norm between the two slopes."""
    a, b = jet(a), jet(b)
    if a.v != b.v:
        return a if a.v > b.v else b
    if a.d1 * b.d1 <= 0:
        return Jet(a.v)
    return a if abs(a.d1) <= abs(b.d1) else b


def relu(x):
    return maximum(x, 0)


def sqrt(x):
    root = mp.sqrt(x.v)
    return x.chain(root, 1 / (2 * root), -1 / (4 * root**3))


FAR = 10_000
"""exp(+-FAR) lies beyond every double, also after a product with one: from there on only the order matters."""


def power_of_e(x):
    """exp(x); beyond +-FAR a number that grows as surely but costs less than thousands of digits of exponent."""
    if abs(x) > FAR:
        x = mp.sign(x) * (FAR + 1000 * mp.log(abs(x) / FAR, 2))
    return mp.exp(x)


def exp(x):
    value = power_of_e(x.v)
    return x.chain(value, value, value)


def expm1(x):
    value = power_of_e(x.v)
    return x.chain(mp.expm1(x.v) if abs(x.v) < 1 else value - 1, value, value)


def log1p(x):
    slope = 1 / (1 + x.v)
    return x.chain(mp.log1p(x.v), slope, -slope * slope)


def softplus(x):
    """log(1 + exp(x)), arranged so that no digits cancel."""
    return x + log1p(exp(-x)) if x.v > 0 else log1p(exp(x))


def sigmoid(x):
    return exp(-softplus(-x))
