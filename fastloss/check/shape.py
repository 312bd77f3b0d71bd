"""Checks of what a loss looks like; each returns how many points it looked at, and its problems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastloss.check.lines import EPS, number
from fastloss.check.survey import Estimate, Survey
from fastloss.losses import Loss

#: Relative differences that count as wrong: far above what differences leave, far below any mistake.
TOLERANCE = 1e-5
#: A last finite value below this, beside an infinite one, is no overflow of the loss but of a term of its formula.
EARLY = 1e100


class Outcome(NamedTuple):
    """Points looked at, problems found, and what is worth knowing but none."""

    points: int
    problems: list[str]
    notes: Sequence[str] = ()


def worst(survey: Survey, what: str, at: NDArray, got: NDArray, expected: NDArray, why: str, of: int) -> str:
    """A message about wrong numbers: the clearest one, and where the others are."""
    with np.errstate(all="ignore"):
        relative = np.abs(got - expected) / (np.abs(got) + np.abs(expected))
        ratio = got / expected
    relative = np.where(np.isfinite(relative), relative, 2.0)
    clear = np.flatnonzero(relative >= 0.9 * relative.max())
    k = clear[np.argmin(np.abs(np.log(np.abs(survey.t[at[clear]]) + 1e-300)))]
    text = f"{what} at {survey.lines.place(survey.i[at[k]], survey.t[at[k]])} is {number(got[k])}, "
    text += f"expected {number(expected[k])} ({why})"
    if len(at) == 1:
        return text
    text += f"; wrong at {len(at)} of {of} points"
    if np.all(np.isfinite(ratio)) and np.ptp(ratio) < 1e-3 * abs(ratio[0]):
        return text + f", {ratio[k]:.4g} times what it should be at all of them"
    if survey.lines.flat:
        text += f", raw from {number(survey.t[at].min())} to {number(survey.t[at].max())}"
    return text


def _outside(
    got: NDArray, sides: tuple[Estimate, Estimate], tolerance: float, noise: NDArray
) -> tuple[NDArray, NDArray, NDArray]:
    """Which numbers are not between the two one-sided estimates, the nearer estimate, and which could be judged."""
    left, right = sides
    with np.errstate(all="ignore"):
        sizes = [tolerance * (np.abs(got) + np.abs(e.value)) + 4 * e.error + noise for e in sides]
        low = np.minimum(left.value - sizes[0], right.value - sizes[1])
        high = np.maximum(left.value + sizes[0], right.value + sizes[1])
        known = np.isfinite(low) & np.isfinite(high)
        outside = known & ~((got >= low) & (got <= high))
        nearer = np.where(np.abs(got - left.value) <= np.abs(got - right.value), left.value, right.value)
    return outside, nearer, known


# ------------------------------------------------------------------------------------------------- derivatives
def gradient(loss: Loss, surveys: list[Survey]) -> Outcome:
    """The gradient is the loss's slope; at a kink it lies between the slopes of the two sides."""
    points, problems = 0, []
    for survey in surveys:
        outside, expected, known = _outside(survey.slope, survey.sides, TOLERANCE, 16 * survey.slope_noise)
        known &= survey.usable
        points += int(known.sum())
        at = np.flatnonzero(outside & survey.usable)
        if len(at):
            got = survey.slope[at]
            problems.append(worst(survey, "gradient", at, got, expected[at], "slope of the loss", int(known.sum())))
        elif not known.any():
            problems.append("gradient: at no point do differences of the loss settle, so nothing confirms it")
    return Outcome(points, problems)


def hessian(loss: Loss, surveys: list[Survey]) -> Outcome:
    """The hessian's diagonal is the gradient's derivative, and not negative where the loss says it is convex."""
    points, problems = 0, []
    for survey in surveys:
        if survey.bend is None or not len(survey.on_axis):
            continue
        outside, expected, known = _outside(
            survey.bend, survey.bend_sides, 1e-4, 64 * EPS * survey.steepening[survey.on_axis]
        )
        outside &= _also_beside(survey)
        points += int(known.sum())
        broken = np.flatnonzero(np.isnan(survey.bend))
        negative = np.flatnonzero(survey.bend < 0) if loss._declares_convex else broken[:0]
        of = int(known.sum())
        for wrong, wanted, why in (
            (np.flatnonzero(outside), expected, "derivative of the gradient"),
            (negative, 0 * survey.bend, "the loss is declared convex: 0 or more"),
            (broken, expected, "a number"),
        ):
            if len(wrong):
                got = survey.bend[wrong]
                problems.append(worst(survey, "hessian", survey.on_axis[wrong], got, wanted[wrong], why, of))
                break
    return Outcome(points, problems)


def _also_beside(survey: Survey) -> NDArray:
    """Whether the claimed hessian is much the same on a side: not that of a single point, by convention."""
    assert survey.bend is not None
    i, t = survey.i[survey.on_axis], survey.t[survey.on_axis]
    beside = [survey.lines.bend(i, t + sign * 1e-7 * np.maximum(1.0, np.abs(t))) for sign in (-1, 1)]
    return np.any([~(np.abs(b - survey.bend) > 0.1 * np.abs(survey.bend) + 0.1 * np.abs(b)) for b in beside], axis=0)


def policies(loss: Loss, surveys: list[Survey]) -> Outcome:
    """Hessians meant for optimisers are never negative."""
    points, problems = 0, []
    for survey in surveys:
        at = np.flatnonzero(survey.ordinary)
        for policy in ("fisher", "upper_bound"):
            if survey.lines.batch:
                continue
            try:
                y, raw = survey.lines.samples(survey.i[at], survey.t[at])
                found = loss.gradient_hessian(y, raw, reduction="none", hessian=policy)[1]
            except ValueError:  # it has none such
                continue
            bend = np.asarray(found, np.float64).reshape(len(at), -1).min(axis=1)
            points += len(at)
            bad = np.flatnonzero(~(bend >= 0))
            if len(bad):
                name = f'hessian="{policy}"'
                problems.append(worst(survey, name, at[bad], bend[bad], 0 * bend[bad], "0 or more", len(at)))
    return Outcome(points, problems)


def continuity(loss: Loss, surveys: list[Survey]) -> Outcome:
    """The loss does not jump."""
    points, problems = 0, []
    for survey in surveys:
        points += len(survey.gaps)
        if len(survey.breaks.i):
            i, _, b, left, right = (x[0] for x in survey.breaks)
            problems.append(
                f"the loss jumps from {number(left)} to {number(right)} at {survey.lines.place(i, b)}"
                + (f", and at {len(survey.breaks.i) - 1} other places" if len(survey.breaks.i) > 1 else "")
            )
    return Outcome(points, problems)


# ------------------------------------------------------------------------------------------------- convexity
def is_convex(surveys: list[Survey], slopes_hold: bool) -> bool:
    """Whether no chord, and no slope where slopes can be trusted, speaks against convexity."""
    return not any(np.any(s.humps) or (slopes_hold and np.any(s.falls)) for s in surveys)


def convexity(loss: Loss, surveys: list[Survey], slopes_hold: bool = True) -> Outcome:
    """A loss that is declared convex lies below its chords, and its slope, where it can be trusted, never falls."""
    if not loss._declares_convex:
        return Outcome(0, [])
    points, problems = 0, []
    for survey in surveys:
        points += len(survey.gaps)
        if np.any(survey.humps):
            k = survey.gaps[np.argmax(survey.humps)]
            middle = 0.5 * (survey.t[k] + survey.t[k + 1])
            problems.append(
                f"declared convex, but at {survey.lines.place(survey.i[k], middle)} the loss is "
                f"{number(survey.humps.max())} above the chord from {number(survey.t[k])} to {number(survey.t[k + 1])}"
            )
        elif slopes_hold and np.any(survey.falls):
            k = survey.gaps[np.argmax(survey.falls)]
            problems.append(
                f"declared convex, but the gradient falls from {number(survey.slope[k])} at "
                f"{survey.lines.place(survey.i[k], survey.t[k])} to {number(survey.slope[k + 1])} at "
                f"{survey.lines.place(survey.i[k], survey.t[k + 1])}"
            )
    return Outcome(points, problems[:1])


def subgradient(loss: Loss, surveys: list[Survey]) -> Outcome:
    """Where the loss is declared convex, f(b) >= f(a) + g(a)·(b − a) for every two points of a line."""
    if not loss._declares_convex:
        return Outcome(0, [])
    points, problems = 0, []
    for survey in surveys:
        noise = survey.value_noise
        for line in range(len(survey.lines.y)):
            on = np.flatnonzero((survey.i == line) & survey.usable & (np.abs(survey.t) <= 1e3))
            f, s, t = survey.value[on], survey.slope[on], survey.t[on]
            rise = s[:, None] * (t - t[:, None])
            allowed = 1e-9 * (np.abs(f[:, None]) + np.abs(f) + np.abs(rise)) + 64 * (noise[on][:, None] + noise[on])
            allowed += 16 * survey.slope_noise[on][:, None] * np.abs(t - t[:, None])
            excess = np.where(f[:, None] + rise - f > allowed, f[:, None] + rise - f, 0)
            points += excess.size
            if np.any(excess):
                a, b = np.unravel_index(np.argmax(excess), excess.shape)
                problems.append(
                    f"declared convex, but the tangent at {survey.lines.place(line, t[a])} with gradient {number(s[a])}"
                    f" is {number(excess.max())} above the loss, {number(f[b])}, at {survey.lines.place(line, t[b])}"
                )
                break
    return Outcome(points, problems[:1])


def piecewise(loss: Loss, surveys: list[Survey]) -> Outcome:
    """A loss that is declared piecewise linear has no curvature between its kinks."""
    if not getattr(loss, "piecewise_linear", False):
        return Outcome(0, [])
    points, problems = 0, []
    for survey in surveys:
        points += len(survey.gaps)
        k = survey.gaps
        rise = survey.chords * (survey.t[k + 1] - survey.t[k])
        bent = np.flatnonzero(rise > 1e-6 * (np.abs(survey.slope[k]) + np.abs(survey.slope[k + 1])))
        if len(bent):
            at = bent[np.argmin(np.abs(survey.t[k[bent]]))]
            place = survey.lines.place(survey.i[k[at]], survey.t[k[at]])
            problems.append(
                f"declared piecewise linear, but near {place} its second derivative is {survey.chords[at]:.6g}"
            )
    return Outcome(points, problems[:1])


# ------------------------------------------------------------------------------------------------- size
def finite(loss: Loss, surveys: list[Survey]) -> Outcome:
    """Finite raw predictions give finite losses, as far as these are numbers; never NaN."""
    points, problems = 0, []
    for survey in surveys:
        points += len(survey.t)
        for name, found in (("loss", survey.value), ("gradient", survey.length)):
            broken = np.flatnonzero(np.isnan(found) | (survey.moderate & ~np.isfinite(found)))
            if len(broken):
                nearest = broken[np.argmin(np.abs(survey.t[broken]))]
                problems.append(
                    f"{name} at {survey.lines.place(survey.i[nearest], survey.t[nearest])} is {found[nearest]}"
                    + (f", and at {len(broken) - 1} points further out" if len(broken) > 1 else "")
                )
        problems += _early_overflow(survey)
    return Outcome(points, problems)


def _early_overflow(survey: Survey) -> list[str]:
    """Infinite right beyond an ordinary number: a term of the formula overflows, not the loss."""
    for line, far in survey.ends():
        infinite = np.flatnonzero(np.isinf(survey.value[far]))
        if not len(infinite) or infinite[0] == 0:
            continue
        inside, beyond = survey.t[far[infinite[0] - 1]], survey.t[far[infinite[0]]]
        at = np.array([line])
        for _ in range(70):
            middle = 0.5 * (inside + beyond)
            infinite_there = np.isinf(survey.lines.value(at, np.array([middle]))[0])
            inside, beyond = (inside, middle) if infinite_there else (middle, beyond)
        last = survey.lines.value(at, np.array([inside]))[0]
        if abs(last) < EARLY:
            place = survey.lines.place(line, beyond)
            return [f"loss at {place} is infinite, but just before {number(last)}: a term of the formula overflows"]
    return []


def bounded(loss: Loss, surveys: list[Survey]) -> Outcome:
    """The loss does not fall without end far out."""
    points, problems = 0, []
    for survey in surveys:
        for line, far in survey.ends():
            f = survey.value[far]
            points += len(far)
            if np.isneginf(f).any() or (f[-1] < f[-3] < f[-5] and f[-5] - f[-1] > 1e-3 * (1 + abs(f[-5]))):
                problems.append(
                    f"not bounded below: the loss is {number(f[-5])} at {survey.lines.place(line, survey.t[far[-5]])} "
                    f"and {number(f[-1])} at {survey.lines.place(line, survey.t[far[-1]])}"
                )
                break
    return Outcome(points, problems[:1])


def least(surveys: list[Survey], is_bounded: bool) -> float:
    """The least loss found; -inf where it falls without end."""
    found = [float(np.nanmin(s.value[s.usable])) for s in surveys if s.usable.any()]
    return min(found) if found and is_bounded else -np.inf


def steepest(surveys: list[Survey]) -> float:
    """The largest length of a gradient; inf if it grows along a ray."""
    found = [float(s.length[s.usable].max()) for s in surveys if s.usable.any()]
    grows = any(_grows(s.length[far]) for s in surveys for _, far in s.ends())
    return np.inf if grows or not found else max(found)


def most_curved(surveys: list[Survey]) -> float:
    """The largest second derivative where there is one; inf if it grows along a ray."""
    found = [0.0]
    for survey in surveys:
        found.append(float(np.max(survey.chords, initial=0.0)))
        if survey.bend is not None and len(survey.bend):
            found.append(float(np.nanmax(survey.bend)))
            everywhere = np.full(len(survey.t), np.nan)
            everywhere[survey.on_axis] = survey.bend
            if any(_grows(everywhere[far]) or not survey.usable[far[-1]] for _, far in survey.ends()):
                return np.inf
    return max(found)


def _grows(sizes: NDArray) -> bool:
    """Whether numbers along a ray end in infinity or still grow like a power of the distance."""
    return bool(np.isposinf(sizes).any() or sizes[-1] > 1.5 * sizes[-3] > 0)


def curvature(loss: Loss, surveys: list[Survey]) -> Outcome:
    """No second derivative exceeds what the loss declares."""
    if not hasattr(loss, "curvature") or getattr(loss, "kind", None) == "batch":
        return Outcome(0, [])
    weights = dict(getattr(loss, "params", None) or {}).get("class_weight")
    bound = loss.curvature() * (1.0 if weights is None else max(weights))
    if not np.isfinite(bound):
        return Outcome(0, [])
    points, problems = 0, []
    for survey in surveys:
        candidates = [(survey.gaps, survey.chords)]
        if survey.bend is not None:
            candidates.append((survey.on_axis, survey.bend))
        for at, sizes in candidates:
            points += len(at)
            if len(at) and np.nanmax(sizes) > bound * (1 + 1e-6):
                k = int(np.nanargmax(sizes))
                place = survey.lines.place(survey.i[at[k]], survey.t[at[k]])
                problems.append(
                    f"curvature() is {number(bound)}, but at {place} the second derivative is {sizes[k]:.6g}"
                )
    return Outcome(points, problems[:1])


# ------------------------------------------------------------------------------------------------- limits
def infinities(loss: Loss, surveys: list[Survey]) -> Outcome:
    """At an infinite raw prediction the loss is its limit; NaN there, in a user's plain formula, is only noted."""
    points, problems, notes = 0, [], []
    for survey in surveys:
        if survey.lines.batch:
            continue
        for line, far in survey.ends():
            axis = survey.lines.axis[line]
            if axis < 0 or not survey.usable[far[-1]]:
                continue
            points += 1
            problem, no_number = _limit(survey, line, axis, far)
            if problem and no_number and not loss._registered:
                notes.append(problem)
            elif problem:
                problems.append(problem)
                break
    return Outcome(points, problems, notes[:1])


def _limit(survey: Survey, line: int, axis: int, far: NDArray) -> tuple[str, bool]:
    """What is wrong at the end of a ray, "" if nothing is, and whether it is NaN."""
    y, raw = survey.lines.samples(np.array([line]), survey.t[far[-1:]])
    raw.reshape(1, -1)[0, axis] = np.copysign(np.inf, survey.t[far[-1]])
    value, slope = survey.lines.loss.loss_gradient(y, raw, reduction="none")
    got, last, before = float(value[0]), survey.value[far[-1]], survey.value[far[-3]]
    place = f"y = {number(y[0])}, raw = {number(raw[0])}"
    flat = abs(last - before) <= 1e-9 * abs(last)
    masks = not survey.lines.flat and survey.t[far[-1]] < 0  # a score of -inf may take a class out
    if (
        np.isnan(got)
        or (np.isfinite(got) and not masks and abs(got - last) > 1e-3 * (1 + abs(last)))
        or (np.isinf(got) and flat)
    ):
        end = f"raw = {number(survey.t[far[-1]])}" if survey.lines.flat else "a score of 1e6"
        text = f"loss at {place} is {number(got)}, but {number(last)} at {end}: expected the limit"
        return text, bool(np.isnan(got))
    if np.isnan(slope).any():
        along = f"{number(survey.slope[far[-1]])} along the line at 1e6"
        return f"gradient at {place} is nan, but {along}: expected the limit", True
    return "", False
