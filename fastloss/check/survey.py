"""What a loss looks like along lines: slopes, second derivatives, kinks, jumps, convexity, growth, limits."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastloss.check.lines import EPS, MODERATE, Lines

#: Relative sizes of difference steps, each a quarter of the one before.
STEPS = 0.05 * 0.25 ** np.arange(15)


#: Near the smallest numbers rounding is absolute.
SMALL = 1e-300


class Estimate(NamedTuple):
    """Numbers, and how far they may be off."""

    value: NDArray
    error: NDArray


class Jumps(NamedTuple):
    """Places between two neighbouring numbers a and b where a function jumps."""

    i: NDArray
    a: NDArray
    b: NDArray
    left: NDArray
    right: NDArray


def one_sided(
    function: Callable[[NDArray, NDArray], NDArray], claimed: NDArray, noise: NDArray, i: NDArray, t: NDArray, sign: int
) -> Estimate:
    """Derivative from one side, by difference quotients extrapolated to step 0.

    Of a ladder of steps the smallest is taken at which neighbours agree to 1e-4 of the derivative, so that a narrow
    feature is not stepped over; where rounding lets none agree so well, the one at which they agree best. Nothing
    below the rounding of the smallest step is told apart.
    """
    unit = np.maximum(1.0, np.abs(t))
    x = t + sign * STEPS[:, None] * unit
    step = x - t  # as rounded
    here = function(i, t)
    there = function(np.tile(i, len(STEPS)), x.ravel()).reshape(x.shape)
    quotient = (there - here) / step
    better = (quotient[1:] * step[:-1] - quotient[:-1] * step[1:]) / (step[:-1] - step[1:])
    spread = np.abs(np.diff(better, axis=0))
    better = better[1:-1]
    error = np.maximum(spread[:-1], spread[1:]) + 4 * noise / np.abs(step[2:-1])
    error = np.where(np.isfinite(error), error, np.inf)
    settled = error <= 1e-4 * (np.abs(better) + np.abs(claimed))
    smallest = len(error) - 1 - settled[::-1].argmax(axis=0)
    best = np.where(settled.any(axis=0), smallest, error.argmin(axis=0)), np.arange(len(t))
    floor = np.where(settled.any(axis=0), 0.0, noise / (STEPS[-1] * unit))
    return Estimate(better[best], error[best] + floor)


def bisect(lines: Lines, i: NDArray, a: NDArray, b: NDArray, jump: Callable[..., NDArray]) -> tuple[NDArray, ...]:
    """Halve intervals down to neighbouring numbers, always towards the larger jump; (a, b, ends at a, ends at b)."""
    left, right = lines.value_slope(i, a), lines.value_slope(i, b)
    for _ in range(1100):  # as many as lie between the largest number and the smallest
        middle = 0.5 * (a + b)
        if np.all((middle == a) | (middle == b)):
            break
        inner = lines.value_slope(i, middle)
        lower = jump(a, middle, left, inner) >= jump(middle, b, inner, right)
        a, b = np.where(lower, a, middle), np.where(lower, middle, b)
        left = tuple(np.where(lower, x, y) for x, y in zip(left, inner, strict=True))  # type: ignore[assignment]
        right = tuple(np.where(lower, x, y) for x, y in zip(inner, right, strict=True))  # type: ignore[assignment]
    return a, b, left, right  # type: ignore[return-value]


def slope_jump(a: NDArray, b: NDArray, left: tuple, right: tuple) -> NDArray:
    """Difference of slopes."""
    return np.abs(right[1] - left[1])


def value_jump(a: NDArray, b: NDArray, left: tuple, right: tuple) -> NDArray:
    """Difference of values beyond what the slopes account for."""
    return np.abs(right[0] - left[0] - (b - a) * 0.5 * (left[1] + right[1]))


def _merged(jumps: Jumps) -> Jumps:
    """Jumps at one place, found from both of its sides, as one."""
    order = np.lexsort((jumps.a, jumps.i))
    i, a, b, left, right = (x[order] for x in jumps)
    new = np.ones(len(i), bool)
    new[1:] = (np.diff(i) > 0) | (np.diff(a) > 1e-9 * np.maximum(1.0, np.abs(a[1:])))
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(i))[: len(first)] - 1
    return Jumps(i[first], a[first], b[last], left[first], right[last])


class Survey:
    """Values, slopes and the rest at the points of lines, each computed when asked for, once."""

    def __init__(self, lines: Lines) -> None:
        self.lines, self.i, self.t = lines, lines.i, lines.t

    # ---------------------------------------------------------------------------------------- points
    @cached_property
    def _evaluated(self) -> tuple[NDArray, NDArray, NDArray]:
        return self.lines.value_slope(self.i, self.t)

    @property
    def value(self) -> NDArray:
        """The loss at the points."""
        return self._evaluated[0]

    @property
    def slope(self) -> NDArray:
        """Its claimed slope."""
        return self._evaluated[1]

    @property
    def length(self) -> NDArray:
        """The length of its claimed gradient."""
        return self._evaluated[2]

    @cached_property
    def usable(self) -> NDArray:
        """Where both are finite."""
        return np.isfinite(self.value) & np.isfinite(self.slope)

    @cached_property
    def ordinary(self) -> NDArray:
        """Usable points of moderate size; all usable ones where the caller gave larger ones only."""
        moderate = self.usable & self.moderate
        return moderate if moderate.any() else self.usable

    @cached_property
    def sides(self) -> tuple[Estimate, Estimate]:
        """Slopes of the loss from the left and from the right, by differences."""
        left, right = (
            one_sided(self.lines.value, self.slope, self.value_noise, self.i, self.t, sign) for sign in (-1, 1)
        )
        return left, right

    # ---------------------------------------------------------------------------------------- second derivatives
    @cached_property
    def on_axis(self) -> NDArray:
        """Points on lines along an axis, where the hessian's diagonal is the second derivative."""
        return np.flatnonzero((self.lines.axis[self.i] >= 0) & self.usable)

    @cached_property
    def bend(self) -> NDArray | None:
        """Claimed second derivatives on the axes; None if the loss has none to offer."""
        try:
            return self.lines.bend(self.i[self.on_axis], self.t[self.on_axis])
        except ValueError:
            return None

    @cached_property
    def bend_sides(self) -> tuple[Estimate, Estimate]:
        """Second derivatives from both sides, by differences of the claimed slope."""
        assert self.bend is not None
        i, t = self.i[self.on_axis], self.t[self.on_axis]
        noise = self.slope_noise[self.on_axis]
        left, right = (one_sided(self.lines.slope, self.bend, noise, i, t, sign) for sign in (-1, 1))
        return left, right

    # ---------------------------------------------------------------------------------------- between points
    @cached_property
    def gaps(self) -> NDArray:
        """Every k for which points k and k + 1 are neighbours on one line, both usable."""
        return np.flatnonzero((self.i[:-1] == self.i[1:]) & self.usable[:-1] & self.usable[1:])

    @cached_property
    def steepening(self) -> NDArray:
        """About how large second derivatives are near each point: the steepest chord of slopes of the gaps around."""
        k = self.gaps
        chord = np.abs(np.diff(self.slope)[k] / np.diff(self.t)[k])
        near = np.zeros(len(self.t) + 4)
        for shift in range(-1, 3):  # gap k touches the points k and k + 1; their neighbours count as well
            np.maximum.at(near, k + 1 + shift, chord)
        return near[1:-3]

    @cached_property
    def usual_slope(self) -> NDArray:
        """Size of the slopes that the terms of a formula have: the upper quartile on a point's line, or the median."""
        sizes = np.abs(self.slope)
        usual = np.full(len(self.lines.y), np.median(sizes[self.ordinary]) if self.ordinary.any() else 0.0)
        for line in range(len(usual)):
            on = sizes[self.ordinary & (self.i == line)]
            usual[line] = max(usual[line], np.quantile(on, 0.75) if len(on) else 0.0)
        return usual[self.i]

    @cached_property
    def _log_terms(self) -> NDArray:
        """Sizes of the terms y that cancel in slopes if the link is the logarithm; in the loss they are times raw."""
        return self.lines.reach(self.i, self.t) * (getattr(self.lines.loss, "link", "") == "log")

    @cached_property
    def value_noise(self) -> NDArray:
        """How far rounding may move the values of an ordinary formula, whose terms cancel."""
        reach, slope = self.lines.reach(self.i, self.t), np.maximum(np.abs(self.slope), self.usual_slope)
        terms = slope * reach + self._log_terms * np.maximum(1.0, np.abs(self.t))
        return 4 * EPS * (np.abs(self.value) + terms) + SMALL

    @cached_property
    def slope_noise(self) -> NDArray:
        """How far rounding may move the slopes, likewise."""
        terms = self.usual_slope + self.steepening * self.lines.reach(self.i, self.t) + self._log_terms
        return 4 * EPS * (np.abs(self.slope) + terms) + SMALL

    def jumps(self, jump: Callable[..., NDArray], allowed: NDArray) -> tuple[Jumps, NDArray]:
        """Where slope or value jump by more than is allowed on each gap; gaps that there was no time to search."""
        ends = [tuple(x[self.gaps + k] for x in (self.t, *self._evaluated)) for k in (0, 1)]
        (a, *left), (b, *right) = ends
        size = jump(a, b, left, right) / allowed
        chosen = np.flatnonzero(size > 1)
        order = np.argsort(-size[chosen], kind="stable")
        chosen, left_out = np.split(chosen[order], [self.lines.intervals])
        if not len(chosen):  # a user's function is never called without samples
            return Jumps(self.i[:0], *(self.t[:0] for _ in range(4))), left_out
        i = self.i[self.gaps[chosen]]
        a, b, at_a, at_b = bisect(self.lines, i, a[chosen], b[chosen], jump)
        found = np.flatnonzero(jump(a, b, at_a, at_b) > allowed[chosen])
        which = 1 if jump is slope_jump else 0
        kept = Jumps(i[found], a[found], b[found], at_a[which][found], at_b[which][found])
        return _merged(kept), left_out

    @property
    def kinks(self) -> Jumps:
        """Where the slope jumps."""
        return self._kinks[0]

    @cached_property
    def _kinks(self) -> tuple[Jumps, NDArray]:
        allowed = 1e-6 * np.abs(self.slope) + 16 * self.slope_noise
        return self.jumps(slope_jump, self._larger(allowed))

    @cached_property
    def breaks(self) -> Jumps:
        """Where the value jumps."""
        width = np.minimum(self.t[self.gaps + 1] - self.t[self.gaps], 1.0)
        allowed = self._larger(1e-6 * np.abs(self.value) + 16 * self.value_noise)
        return self.jumps(value_jump, allowed + 1e-6 * width * self._larger(np.abs(self.slope)) + EPS * EPS)[0]

    def _larger(self, x: NDArray) -> NDArray:
        """The larger of what belongs to a gap's two ends."""
        return np.maximum(x[self.gaps], x[self.gaps + 1]) + np.finfo(float).tiny

    @cached_property
    def falls(self) -> NDArray:
        """How far the claimed slope falls from a point to the next, beyond rounding; 0 where it does not."""
        k = self.gaps
        allowed = self._larger(2e-9 * np.abs(self.slope) + 32 * self.slope_noise)
        fall = self.slope[k] - self.slope[k + 1]
        return np.where(fall > allowed, fall, 0.0)

    @cached_property
    def humps(self) -> NDArray:
        """How far the value in the middle between two points is above their chord, beyond rounding; else 0."""
        k = self.gaps
        middle = self.lines.value(self.i[k], 0.5 * (self.t[k] + self.t[k + 1]))
        excess = middle - 0.5 * (self.value[k] + self.value[k + 1])
        allowed = self._larger(2e-10 * np.abs(self.value) + 32 * self.value_noise)
        return np.where(excess > allowed, excess, 0.0)

    @cached_property
    def chords(self) -> NDArray:
        """Differences of slopes over gaps without a kink, less what rounding may add: never above the curvature."""
        k = self.gaps
        a, b = self.t[k], self.t[k + 1]
        noise = self.slope_noise
        quotient = (self.slope[k + 1] - self.slope[k] - noise[k] - noise[k + 1]) / (b - a)
        kinked = np.zeros(len(k), bool)
        kinked[self._kinks[1]] = True  # not known
        for i, at in zip(self.kinks.i, self.kinks.a, strict=True):
            near = 1e-8 * max(1.0, abs(at))
            kinked |= (self.i[k] == i) & (a <= at + near) & (b >= at - near)
        return np.where(kinked | ~np.isfinite(quotient), -np.inf, quotient)

    # ---------------------------------------------------------------------------------------- far out
    def ends(self) -> list[tuple[int, NDArray]]:
        """(line, its points from |t| = 100 outwards) for every side that goes far out."""
        rays = []
        for line in range(len(self.lines.y)) if self.lines.rays else ():
            on = np.flatnonzero(self.i == line)
            for side in (-1, 1):
                far = on[side * self.t[on] >= 100]
                if len(far) > 4 and np.abs(self.t[far]).max() >= 1e6:
                    rays.append((line, far[np.argsort(np.abs(self.t[far]), kind="stable")]))
        return rays

    @property
    def moderate(self) -> NDArray:
        """Points at which every loss should be finite."""
        return np.abs(self.t) <= MODERATE
