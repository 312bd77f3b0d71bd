"""Where `check_loss` looks: straight lines through the space of raw predictions, each with its target.

A loss of one raw prediction, of K scores, or of a whole batch becomes a family of functions of one number t, with
value, slope and (along an axis) second derivative: every check of shape is written once, for these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastloss._kernels import dispatch
from fastloss.losses import Loss

EPS = float(np.finfo(np.float64).eps)
#: Sizes of raw predictions at which every loss should be finite: exp(30) is no overflow in float32 either.
MODERATE = 30.0
RAYS = 10.0 ** np.linspace(2, 6, 9)
#: Targets tried on a loss of real numbers; those it refuses are not in its domain.
TARGETS = (0.0, 1.0, -1.0, 0.5, -3.0, 17.0, 0.1, 100.0)
CLASSES = (2, 3, 5)


class Lines:
    """Lines base + t·direction, each with a target, and the points t on them.

    Parameters
    ----------
    loss : Loss
        What is looked at.
    y : ndarray of shape (m,) or (m, D)
        The target of each line.
    base, direction : ndarray of shape (m, D)
        The lines; directions have length 1.
    points : sequence of m arrays
        The t to look at, per line.
    flat : bool
        Whether the loss takes raw predictions of shape (n,), D = 1.
    rays : bool
        Whether the points go far out on both sides, so that limits can be asked for.
    """

    batch = False
    #: Intervals on which jumps are searched, at most.
    intervals = 4000

    def __init__(
        self,
        loss: Loss,
        y: NDArray,
        base: NDArray,
        direction: NDArray,
        points: Sequence[NDArray],
        flat: bool = False,
        rays: bool = True,
    ) -> None:
        self.loss, self.y, self.base, self.direction = loss, y, base, direction
        self.flat, self.rays = flat, rays
        sorted_points = [np.unique(p) for p in points]
        self.i = np.repeat(np.arange(len(y)), [len(p) for p in sorted_points])
        self.t = np.concatenate([*sorted_points, np.empty(0)])
        along = np.abs(direction) == 1
        self.axis = np.where(along.any(axis=1), along.argmax(axis=1), -1)

    # ---------------------------------------------------------------------------------------- evaluation
    def samples(self, i: NDArray, t: NDArray) -> tuple[NDArray, NDArray]:
        """Targets and raw predictions of points, as the loss takes them."""
        raw = self.base[i] + t[:, None] * self.direction[i]
        return self.y[i], raw[:, 0] if self.flat else raw

    def value(self, i: NDArray, t: NDArray) -> NDArray:
        """The loss at points."""
        return np.asarray(self.loss.loss(*self.samples(i, t), reduction="none"), np.float64)

    def value_slope(self, i: NDArray, t: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Loss, its claimed derivative along the line, and the length of its claimed gradient."""
        value, gradient = self.loss.loss_gradient(*self.samples(i, t), reduction="none")
        gradient = self._rows(gradient, len(t))
        return np.asarray(value, np.float64), self._along(gradient, i), np.linalg.norm(gradient, axis=1)

    def slope(self, i: NDArray, t: NDArray) -> NDArray:
        """The loss's claimed derivative along the line."""
        return self.value_slope(i, t)[1]

    def bend(self, i: NDArray, t: NDArray) -> NDArray:
        """The claimed second derivative, on lines along an axis."""
        hessian = self.loss.gradient_hessian(*self.samples(i, t), reduction="none")[1]
        return self._rows(hessian, len(t))[np.arange(len(t)), self.axis[i]]

    def _rows(self, values: ArrayLike, count: int) -> NDArray:
        return np.asarray(values, np.float64).reshape(count, self.base.shape[1])

    def _along(self, gradient: NDArray, i: NDArray) -> NDArray:
        direction = self.direction[i]
        return np.where(direction == 0, 0.0, gradient * direction).sum(axis=1)

    # ---------------------------------------------------------------------------------------- rounding
    def reach(self, i: NDArray, t: NDArray) -> NDArray:
        """Size of the numbers that enter a point's value."""
        y, raw = self.samples(i, t)
        sizes = [np.abs(a).reshape(len(t), a.size // max(len(t), 1)).max(axis=1, initial=0.0) for a in (y, raw)]
        return sizes[0] + sizes[1]

    # ---------------------------------------------------------------------------------------- words
    def place(self, i: int, t: float) -> str:
        """A point, in words."""
        y, raw = self.samples(np.array([i]), np.array([t]))
        return f"y = {number(y[0])}, raw = {number(raw[0])}"


class BatchLines(Lines):
    """Lines of a loss whose value is that of a whole batch: y and raw predictions of a line are one batch."""

    batch = True
    intervals = 60

    def value(self, i: NDArray, t: NDArray) -> NDArray:
        """The loss at points."""
        return np.array([float(self.loss.loss(*self._one(j, s))) for j, s in zip(i, t, strict=True)])

    def value_slope(self, i: NDArray, t: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Loss, its claimed derivative along the line, and the length of its claimed gradient."""
        found = [self.loss.loss_gradient(*self._one(j, s)) for j, s in zip(i, t, strict=True)]
        gradient = self._rows([g for _, g in found], len(t))
        return np.array([float(f) for f, _ in found]), self._along(gradient, i), np.linalg.norm(gradient, axis=1)

    def bend(self, i: NDArray, t: NDArray) -> NDArray:
        """The claimed second derivative, on lines along an axis."""
        found = [self.loss.gradient_hessian(*self._one(j, s))[1] for j, s in zip(i, t, strict=True)]
        return self._rows(found, len(t))[np.arange(len(t)), self.axis[i]]

    def _one(self, i: int, t: float) -> tuple[NDArray, NDArray]:
        return self.y[i], self.base[i] + t * self.direction[i]


def number(x: ArrayLike) -> str:
    """A number or a row of numbers, short."""
    values = np.asarray(x, np.float64) + 0.0  # no -0
    if values.ndim == 0:
        return f"{values:.6g}"
    shown = [f"{v:.6g}" for v in values[:8]]
    return "[" + ", ".join(shown) + (", ..." if len(values) > 8 else "") + "]"


# ------------------------------------------------------------------------------------------------- which lines
def lines_of(loss: Loss, y: ArrayLike | None, raw: ArrayLike | None, rng: np.random.Generator) -> list[Lines]:
    """The lines on which a loss is looked at; a ValueError when no target is found that it takes."""
    targets, scores = _given("y", y), _given("raw", raw)
    widths = [a.shape[1] for a in (targets, scores) if a is not None and a.ndim == 2]
    if len(set(widths)) > 1:
        raise ValueError(f"y has rows of {widths[0]}, raw of {widths[1]}")
    scores = None if scores is None else scores.astype(np.float64)
    if getattr(loss, "kind", None) == "batch":
        return [_batch(loss, targets, scores, rng)]
    if loss.kind == "multitask" and targets is None:
        targets = _columns(loss)
    if any(a is not None and a.ndim == 2 for a in (targets, scores)) or loss.kind == "multiclass":
        return _rows(loss, targets, scores, rng)
    return [_pointwise(loss, targets, scores, rng)]


def _given(name: str, values: ArrayLike | None) -> NDArray | None:
    """An argument as an array of finite real numbers."""
    if values is None:
        return None
    array = dispatch.as_real(values, name)
    if array.ndim not in (1, 2):
        raise ValueError(f"{name} must have one or two dimensions, got shape {array.shape}")
    if array.size == 0:
        raise ValueError(f"{name} must hold at least one number, got shape {array.shape}")
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        place = ", ".join(map(str, wrong[0]))
        raise ValueError(f"{name}[{place}] = {array[tuple(wrong[0])]}: finite numbers are needed")
    return array


def _refusal(loss: Loss, y: Any, raw: Any) -> Exception | None:
    """Why the loss does not take this sample; None if it does."""
    try:
        loss.loss_gradient(np.array([y]), np.array([raw]), reduction="none")
    except Exception as error:  # of whatever sort: a user's function raises what it likes
        return error
    return None


def _accepted(loss: Loss, candidates: Sequence[Any], raw_of: Any) -> list[Any]:
    refusals = [_refusal(loss, c, raw_of(c)) for c in candidates]
    accepted = [c for c, refusal in zip(candidates, refusals, strict=True) if refusal is None]
    if not accepted:
        shown = ", ".join(number(c) for c in candidates[:8])
        raise ValueError(f"no target of {shown} is taken; give y=. The last was refused so: {_named(refusals[-1])}")
    return accepted


def _named(error: Exception | None) -> str:
    return f"{type(error).__name__}: {error}"


def _lengths(loss: Loss) -> NDArray:
    """Numbers among the parameters: kinks often stand there."""
    given = getattr(loss, "params", ())
    values = given.values() if hasattr(given, "values") else given
    return np.array([abs(float(v)) for v in values if isinstance(v, float) and 0 < abs(v) < 1e6])


def _both_signs(sizes: NDArray) -> NDArray:
    return np.concatenate([-sizes, [0.0], sizes])


def _pointwise(loss: Loss, y: NDArray | None, raw: NDArray | None, rng: np.random.Generator) -> Lines:
    identity = loss.kind == "regression" and loss.link == "identity"
    if y is None:
        y = _usual_targets(loss)
    y = _some(np.unique(np.asarray(y, np.float64)), 16)
    if raw is not None:
        points = [_some(np.unique(raw), 200)] * len(y)
    else:
        sizes = np.concatenate([10.0 ** np.linspace(-5, 3 if identity else 1.4, 24), [0.5, 1.0, 2.0], _lengths(loss)])
        around = np.concatenate([_both_signs(np.append(sizes, RAYS)), rng.uniform(-5, 5, 16)])
        if loss.kind == "binary":  # margins of 1 are special to many
            around = np.concatenate([around, *(m + _both_signs(sizes[sizes < 1]) for m in (-1, 1))])
        points = [np.concatenate([around, target + around]) if identity else around for target in y]
        points = [_in_domain(loss, p) for p in points] if identity and loss.target != Loss.target else points
    ones = np.ones((len(y), 1))
    return Lines(loss, y, 0 * ones, ones, points, flat=True, rays=raw is None)


def _usual_targets(loss: Loss) -> NDArray:
    """Those of some usual targets that a loss of one raw prediction takes."""
    candidates = list(TARGETS)
    if loss.kind == "binary":
        soft = "[0, 1]" in loss.target or getattr(loss, "soft_targets", False)
        candidates = [*(getattr(loss, "labels", None) or (0.0, 1.0)), *([0.3, 0.97] if soft else [])]
    identity = loss.kind == "regression" and loss.link == "identity"
    return np.array(_accepted(loss, candidates, (lambda c: c) if identity else (lambda c: 0.0)))


def _columns(loss: Any) -> NDArray:
    """Three rows of targets for a loss that has one of its own for every column."""
    if loss.n_columns is None:
        raise ValueError(f"{loss!r} has as many columns as its data; give y=")
    rows = np.zeros((3, loss.n_columns))
    for task in loss.tasks:
        count, columns = len(task.columns), list(task.columns)
        if task.loss.kind == "multiclass":
            rows[:, columns] = [np.eye(count)[0], np.eye(count)[-1], np.full(count, 1 / count)]
        else:
            rows[:, columns] = np.resize(_usual_targets(task.loss), 3)[:, None]
    return rows


def _in_domain(loss: Loss, points: NDArray) -> NDArray:
    """A raw prediction that estimates y itself is looked at where it could be a y."""
    return np.array([p for p in points if _refusal(loss, p, p) is None])


def _rows(loss: Loss, y: NDArray | None, raw: NDArray | None, rng: np.random.Generator) -> list[Lines]:
    """Lines through rows of scores."""
    if raw is not None or (y is not None and y.ndim == 2):
        width = int((y if raw is None else raw).shape[1])  # type: ignore[union-attr]
        widths: tuple[int, ...] = (width,)
    else:
        weights = getattr(loss, "params", {}).get("class_weight")
        widths = CLASSES if weights is None else (len(weights),)
    groups = []
    for width in widths:
        starts = _starts(width, rng) if raw is None else _some(raw.reshape(-1, width), 12)
        kinds = [_labels(loss, width)] if y is None else [_some(y, 12)]
        soft = rng.dirichlet(np.ones(width), 3)
        if y is None and width == 3 and _refusal(loss, soft[0], starts[0]) is None:
            kinds.append(soft)
        groups += [_through(loss, targets, starts, rng, rays=raw is None) for targets in kinds]
    return groups


def _starts(width: int, rng: np.random.Generator) -> NDArray:
    """Ties, ordinary scores, far apart ones, and a common offset that some losses are indifferent to."""
    normal = rng.normal(size=(3, width))
    return np.stack([np.zeros(width), 2 * normal[0], 8 * normal[1], normal[2] - 1000])


def _labels(loss: Loss, width: int) -> NDArray:
    known = getattr(loss, "params", {})
    known = known if hasattr(known, "get") else {}
    weights = known.get("class_weight")
    labels = [c for c in range(width) if c != known.get("ignore_index") and (weights is None or weights[c] > 0)]
    return np.array(_accepted(loss, sorted({labels[0], labels[len(labels) // 2], labels[-1]}), lambda c: [0.0] * width))


def _through(
    loss: Loss, targets: NDArray, starts: NDArray, rng: np.random.Generator, rays: bool, make: type[Lines] = Lines
) -> Lines:
    """Every target with every start: along the first and the last axis, between these two, in a random direction."""
    width = starts.shape[1]
    first, last = np.eye(width)[[0, -1]]
    others = np.stack([first - last if width > 1 else first, rng.normal(size=width)])
    directions = np.concatenate([[first, last], others / np.linalg.norm(others, axis=1, keepdims=True)])
    which = np.array([(a, b, c) for a in range(len(targets)) for b in range(len(starts)) for c in range(4)])
    sizes = 10.0 ** np.linspace(-3, 1.4, 14)
    points = np.concatenate([_both_signs(np.append(sizes, RAYS) if rays else sizes[sizes <= 1]), rng.uniform(-5, 5, 8)])
    chosen = targets[which[:, 0]], starts[which[:, 1]], directions[which[:, 2]]
    return make(loss, *chosen, [points] * len(which), rays=rays)


def _batch(loss: Loss, y: NDArray | None, raw: NDArray | None, rng: np.random.Generator) -> Lines:
    count = len(y) if y is not None else len(raw) if raw is not None else 12
    if y is None:
        grades = [rng.integers(0, top, count).astype(float) for top in (2, 5)]
        y = _accepted_batch(loss, grades, rng.normal(size=count))
    starts = raw[None] if raw is not None else np.stack([np.linspace(-1, 1, count), rng.normal(size=count)])
    return _through(loss, np.asarray(y)[None], starts, rng, rays=raw is None, make=BatchLines)


def _accepted_batch(loss: Loss, candidates: Sequence[NDArray], raw: NDArray) -> NDArray:
    refused: Exception | None = None
    for y in candidates:
        try:
            loss.loss_gradient(y, raw)
        except Exception as error:
            refused = error
        else:
            return y
    raise ValueError(
        f"neither labels 0, 1 nor grades 0 ... 4 are taken; give y=. They were refused so: {_named(refused)}"
    )


def _some(values: NDArray, most: int) -> NDArray:
    """At most that many, spread evenly, both ends included."""
    return values[np.unique(np.linspace(0, len(values) - 1, min(most, len(values))).astype(int))]
