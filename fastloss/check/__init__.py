"""`check_loss`: whether a loss is what it says, by looking at its numbers.

`lines` says where to look, `survey` measures what a loss looks like there, `shape` and `calls` judge.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastloss.check import calls, shape
from fastloss.check.lines import lines_of, number
from fastloss.check.shape import Outcome
from fastloss.check.survey import Survey
from fastloss.losses import Loss, get_loss

__all__ = ["LossReport", "check_loss"]

#: Kinks that a report keeps.
KINKS = 10

SLOPE, CONVEX = "the gradient is the loss's slope", "convex, if declared"
TANGENTS = "above its tangents, if declared convex"
SHAPES: dict[str, Callable[[Loss, list[Survey]], Outcome]] = {
    "finite raw predictions give finite losses": shape.finite,
    SLOPE: shape.gradient,
    "the hessian is the gradient's slope": shape.hessian,
    "hessians for optimisers are not negative": shape.policies,
    "the loss does not jump": shape.continuity,
    CONVEX: shape.convexity,
    TANGENTS: shape.subgradient,
    "piecewise linear, if declared": shape.piecewise,
    "curvature() bounds the second derivative": shape.curvature,
    "bounded below": shape.bounded,
    "infinite raw predictions give the limit": shape.infinities,
}
#: Checks that compare gradients with the value, or the value with its neighbours.
OF_SLOPES = (SLOPE, "the hessian is the gradient's slope", "the loss does not jump")
NO_SLOPE = "its gradients are a definition of their own, not slopes of its value: derivatives and jumps are not checked"
CALLS: dict[str, Callable[[Loss, calls.Sample], Outcome]] = {
    "all methods agree": calls.methods,
    "samples do not depend on each other": calls.blocks,
    "reductions and weights": calls.reductions,
    "NaN stays with its sample": calls.not_a_number,
}


class Kink(NamedTuple):
    """Where a slope jumps: a target, a raw prediction (a row for several scores), the slopes on both sides."""

    y: Any
    raw: Any
    left: float
    right: float


@dataclass(frozen=True)
class LossReport:
    """What :func:`check_loss` found.  Printed, it is a table of the checks, followed by the problems.

    Attributes
    ----------
    loss : str
        The loss, as it prints itself.
    problems : tuple of str
        What is wrong, where, and what was expected; empty if nothing is.
    ok : bool
        Whether there is no problem.
    convex : bool
        Whether nothing found speaks against convexity in the raw prediction. A loss need not be convex.
    smooth : bool
        Whether no kink was found.
    kinks : tuple of Kink
        Some places where the slope jumps: ``y``, ``raw``, and the slopes ``left`` and ``right``.
    lipschitz : float
        The largest length of a gradient found; inf if it grows without end.
    curvature : float
        The largest second derivative found, a Lipschitz constant of the gradient; inf if it grows without end, or the
        gradient jumps.
    lower_bound : float
        The least loss found; -inf if it falls without end.
    checks : tuple of (str, int, int)
        Every check: its name, how many points it looked at (0: it does not apply), how many problems it found.
    notes : tuple of str
        What is worth knowing and no problem: that the formula of an own loss is NaN at an infinite raw prediction, or a
        number where that is NaN; why checks do not apply that apply to others.

    Examples
    --------
    >>> import fastloss
    >>> report = fastloss.check_loss("hinge")
    >>> report.ok, report.lipschitz, report.lower_bound, report.kinks[0].raw
    (True, 1.0, 0.0, -1.0)
    """

    loss: str
    problems: tuple[str, ...]
    convex: bool
    smooth: bool
    kinks: tuple[Kink, ...]
    lipschitz: float
    curvature: float
    lower_bound: float
    checks: tuple[tuple[str, int, int], ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def __str__(self) -> str:
        count = len(self.problems)
        lines = [f"{self.loss}: " + ("ok" if self.ok else f"{count} problem" + "s" * (count > 1))]
        for name, points, wrong in self.checks:
            verdict = "PROBLEM" if wrong else "ok" if points else "does not apply"
            lines.append(f"  {name:<42} {points or '':>8}  {verdict}")
        if self.checks:  # else nothing was found: the loss could not be evaluated
            lines += self._found()
        lines += [f"  note: {text}" for text in self.notes]
        return "\n".join([*lines, *(f"{k}. {text}" for k, text in enumerate(self.problems, 1))])

    def _found(self) -> list[str]:
        shape = f"{'convex' if self.convex else 'not convex'}, {'smooth' if self.smooth else 'with kinks'}"
        return [
            f"  found: {shape}, Lipschitz constant {self.lipschitz:.6g}, curvature {self.curvature:.6g}, "
            f"least loss {self.lower_bound:.6g}",
            *(
                f"  kink at y = {number(k.y)}, raw = {number(k.raw)}: slope {k.left:.6g}, then {k.right:.6g}"
                for k in self.kinks[:3]
            ),
        ]


def check_loss(
    loss: str | Loss,
    *,
    y: ArrayLike | None = None,
    raw: ArrayLike | None = None,
    random_state: int | np.random.Generator = 0,
    raise_on_error: bool = False,
) -> LossReport:
    """Check whether a loss is what it says: derivatives, convexity, limits, agreement of its methods.

    Everything is looked at from outside, through the loss's own methods: the gradient against differences of the loss
    (at a kink it must lie between the slopes of the two sides), the hessian against differences of the gradient,
    jumps, convexity, tangents, boundedness and growth far out, infinities and NaN, float32 against float64, single
    samples against blocks, weights and reductions, and what the loss declares: ``convex``, ``piecewise_linear`` and
    ``curvature()``.

    Parameters
    ----------
    loss : str or Loss
        A loss of any kind: a built-in one, a composed one, your own.
    y : array-like of shape (n,) or (n, D), optional
        Targets to look at, for a loss that is not defined for the usual ones. By default those of some usual values
        that the loss takes. For a batch loss: its targets.
    raw : array-like of shape (n,) or (n, D), optional
        Raw predictions to look at, each with each target. By default from 1e-5 to 1e6 with both signs, and infinity;
        where a raw prediction estimates y itself and y is restricted, so is it. With rows of D scores lines through
        these are looked at.
    random_state : int or Generator, default 0
        Some of the points are random.
    raise_on_error : bool, default False
        Whether problems raise a ValueError with the report as its text.

    Returns
    -------
    LossReport
        ``report.ok``, ``report.problems``, ``report.convex`` and more; ``print(report)`` shows all of it. Not being
        convex is no problem, unless the loss declares that it is. NaN at an infinite raw prediction is one of a
        built-in loss, of an own loss it is noted (``report.notes``).

    Examples
    --------
    >>> import fastloss
    >>> report = fastloss.check_loss("quantile")
    >>> report.ok, report.convex, report.smooth, report.lipschitz
    (True, True, False, 0.5)
    >>> report.kinks[0]
    Kink(y=-3.0, raw=-3.0, left=-0.5, right=...)
    """
    checked = get_loss(loss)
    if not isinstance(raise_on_error, (bool, np.bool_)):
        raise TypeError(f"raise_on_error must be True or False, got {raise_on_error!r}")
    with np.errstate(all="ignore"):
        report = _report(checked, y, raw, np.random.default_rng(random_state))
    if raise_on_error and not report.ok:
        raise ValueError(str(report))
    return report


def _report(loss: Loss, y: ArrayLike | None, raw: ArrayLike | None, rng: np.random.Generator) -> LossReport:
    surveys = [Survey(lines) for lines in lines_of(loss, y, raw, rng)]
    broken = _guarded(_evaluates, loss, surveys)
    if broken.problems:
        return LossReport(repr(loss), tuple(broken.problems), False, False, (), math.nan, math.nan, math.nan, ())
    samples = [calls.Sample(survey, rng) for survey in surveys]
    outcomes = {
        name: _guarded(check, loss, surveys) if _has_slopes(loss) or name not in OF_SLOPES else Outcome(0, [])
        for name, check in SHAPES.items()
    }
    if outcomes[SLOPE].problems:  # what follows from a wrong gradient is no news
        outcomes[TANGENTS] = Outcome(0, [])
        outcomes[CONVEX] = _guarded(shape.convexity, loss, surveys, False)
    for name, answer in CALLS.items():
        outcomes[name] = _joined([_guarded(answer, loss, sample) for sample in samples])
    outcomes["float32 agrees with float64"] = _joined(
        [_guarded(calls.single_precision, loss, *pair) for pair in zip(surveys, samples, strict=True)]
    )
    return _summary(loss, surveys, outcomes)


def _evaluates(loss: Loss, surveys: list[Survey]) -> Outcome:
    nowhere = not all(survey.usable.any() for survey in surveys)
    return Outcome(0, ["at no point is the loss finite"] * nowhere)


def _has_slopes(loss: Loss) -> bool:
    """Whether the loss's gradients are meant to be slopes of its value."""
    return getattr(loss, "_gradient_is_slope", True)


def _guarded(check: Callable[..., Outcome], *arguments: object) -> Outcome:
    """A check's outcome; what the loss raises meanwhile is a problem of the loss."""
    try:
        return check(*arguments)
    except Exception as error:
        return Outcome(0, [f"{type(error).__name__}: {error}"])


def _joined(outcomes: list[Outcome]) -> Outcome:
    notes = [text for o in outcomes for text in o.notes]
    return Outcome(sum(o.points for o in outcomes), [text for o in outcomes for text in o.problems], notes[:1])


def _summary(loss: Loss, surveys: list[Survey], outcomes: dict[str, Outcome]) -> LossReport:
    slopes_hold = _has_slopes(loss) and not outcomes[SLOPE].problems
    kinks = tuple(kink for survey in surveys for kink in _kinks(survey))
    curved = shape.most_curved(surveys)
    return LossReport(
        loss=repr(loss),
        problems=tuple(dict.fromkeys(text for outcome in outcomes.values() for text in outcome.problems)),
        convex=shape.is_convex(surveys, slopes_hold),
        smooth=not kinks,
        kinks=kinks[:KINKS],
        lipschitz=shape.steepest(surveys),
        curvature=math.inf if kinks else curved,
        lower_bound=shape.least(surveys, not outcomes["bounded below"].problems),
        checks=tuple((name, outcome.points, len(outcome.problems)) for name, outcome in outcomes.items()),
        notes=(
            *[NO_SLOPE] * (not _has_slopes(loss)),
            *(text for outcome in outcomes.values() for text in outcome.notes),
        ),
    )


def _kinks(survey: Survey) -> list[Kink]:
    found = []
    for i, a, b, left, right in zip(*survey.kinks, strict=True):
        y, raw = survey.lines.samples(np.array([i]), np.array([0.5 * (a + b)]))
        found.append(Kink(_plain(y[0]), _plain(raw[0]), float(left), float(right)))
    return found


def _plain(x: Any) -> Any:
    """A number, or a tuple of numbers."""
    values = np.asarray(x)
    return values.item() if values.ndim == 0 else tuple(values.tolist())
