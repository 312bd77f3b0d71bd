"""Checks of how a loss answers: its methods against each other, blocks against single samples, dtypes, weights, NaN."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastloss.check.lines import EPS, number
from fastloss.check.shape import Outcome
from fastloss.check.survey import Survey
from fastloss.losses import Loss

#: Samples that are asked for one at a time.
SINGLE = 48
EPS32 = float(np.finfo(np.float32).eps)


class Sample:
    """A block of ordinary samples from the lines, with the loss's own answer."""

    def __init__(self, survey: Survey, rng: np.random.Generator) -> None:
        self.lines = survey.lines
        at = rng.permutation(np.flatnonzero(survey.ordinary))[: 8 if self.lines.batch else 4 * SINGLE]
        self.i, self.t = survey.i[at], survey.t[at]
        self.y, self.raw = self.lines.samples(self.i, self.t)
        self.value = survey.value[at]
        # Libraries of vectorised functions differ by an ulp between the bulk of an array and its rest.
        self.noise, self.slope_noise = survey.value_noise[at], survey.slope_noise[at]
        self.allowed = 1e-10 * np.abs(self.value) + 64 * self.noise
        self.allowed_slope = 1e-10 * survey.length[at] + 64 * self.slope_noise

    def differ(self, what: str, got: NDArray, expected: NDArray, allowed: NDArray, why: str) -> list[str]:
        """A message if the two are not equal up to rounding."""
        got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
        if got.shape != expected.shape:
            return [f"{what} has shape {got.shape}, expected {expected.shape}"]
        off = np.abs(got - expected)
        off = off.reshape(len(off), -1).max(axis=1)
        bad = np.flatnonzero(~(off <= allowed[: len(off)]))
        if not len(bad):
            return []
        k = bad[0]
        text = f"{what} at {self.lines.place(self.i[k], self.t[k])} is {number(got[k])}, expected {number(expected[k])}"
        return [f"{text} ({why}); wrong at {len(bad)} of {len(off)} samples"]


def methods(loss: Loss, sample: Sample) -> Outcome:
    """loss, gradient, loss_gradient and gradient_hessian say the same."""
    if sample.lines.batch:
        return Outcome(
            len(sample.i), [t for y, raw in zip(sample.y, sample.raw, strict=True) for t in _one(loss, y, raw)]
        )
    value, gradient = loss.loss_gradient(sample.y, sample.raw, reduction="none")
    problems: list[str] = []
    for name, got in _others(loss, sample.y, sample.raw, reduction="none").items():
        expected, allowed = (value, sample.allowed) if name == "loss()" else (gradient, sample.allowed_slope)
        problems += sample.differ(name, got, expected, allowed, "as loss_gradient() says")
    return Outcome(len(sample.i), problems[:3])


def _others(loss: Loss, y: NDArray, raw: NDArray, **keywords: Any) -> dict[str, Any]:
    """What loss_gradient's answers are compared with."""
    found = {"loss()": loss.loss(y, raw, **keywords), "gradient()": loss.gradient(y, raw, **keywords)}
    with suppress(ValueError):  # it has no hessian
        found["gradient_hessian()'s gradient"] = loss.gradient_hessian(y, raw, **keywords)[0]
    return found


def _one(loss: Loss, y: NDArray, raw: NDArray) -> list[str]:
    """The same for one batch."""
    value, gradient = loss.loss_gradient(y, raw)
    return [
        f"{name} is {number(got)}, loss_gradient() says {number(expected)}"
        for name, got in _others(loss, y, raw).items()
        for expected in (value if name == "loss()" else gradient,)
        if not np.allclose(got, expected, rtol=1e-9, atol=1e-12)
    ]


def blocks(loss: Loss, sample: Sample) -> Outcome:
    """A sample's loss does not depend on its neighbours, on their order or on their number."""
    if sample.lines.batch:
        return Outcome(0, [])
    y, raw = sample.y, sample.raw
    value, gradient = loss.loss_gradient(y, raw, reduction="none")
    singles = [loss.loss_gradient(y[k : k + 1], raw[k : k + 1], reduction="none") for k in range(min(SINGLE, len(y)))]
    alone = np.concatenate([f for f, _ in singles]), np.concatenate([g for _, g in singles])
    backwards = loss.loss_gradient(y[::-1], raw[::-1], reduction="none")
    times = 10_000 // len(y) + 1
    many = loss.loss_gradient(np.concatenate([y] * times), np.concatenate([raw] * times), reduction="none")
    problems = []
    count = len(singles)
    for f, g, of, why in (
        (*alone, slice(0, count), "in a block of others; alone it is that"),
        (backwards[0][::-1], backwards[1][::-1], slice(None), "as in the reverse order"),
        (many[0][-len(y) :], many[1][-len(y) :], slice(None), "as at the end of a long array"),
    ):
        problems += sample.differ("loss", value[of], f, sample.allowed, why)
        problems += sample.differ("gradient", gradient[of], g, sample.allowed_slope, why)
    return Outcome(len(y), problems[:2])


def reductions(loss: Loss, sample: Sample) -> Outcome:
    """Sum and mean are those of the samples, weights multiply, and weight 0 is no sample, be it NaN."""
    if sample.lines.batch:
        return Outcome(0, [])
    y, raw = sample.y, sample.raw
    value, gradient = loss.loss_gradient(y, raw, reduction="none")
    weight = np.resize([1.0, 2.0, 0.0, 0.5], len(y))
    problems = _weighted(loss, sample, value, gradient, weight)
    one_weight = dict(getattr(loss, "params", None) or {}).get("class_weight") is None
    total = weight.sum()
    for how, f, g in (
        ("sum", (weight * value).sum(), _scaled(gradient, weight)),
        ("mean", (weight * value).sum() / total, _scaled(gradient, weight / total)),
    ):
        if how == "mean" and not one_weight:  # the denominator is then a sum over classes
            continue
        got_f, got_g = loss.loss_gradient(y, raw, weight, reduction=how)  # type: ignore[arg-type]
        if not np.isclose(got_f, f, rtol=1e-9, atol=float(sample.allowed.sum())):
            problems.append(f'reduction="{how}" with weights is {number(got_f)}, expected {number(f)}')
        problems += sample.differ(f'gradient, reduction="{how}"', got_g, g, sample.allowed_slope, "weighted")
    return Outcome(len(y), problems[:2])


def _scaled(gradient: NDArray, weight: NDArray) -> NDArray:
    return gradient * (weight if gradient.ndim == 1 else weight[:, None])


def _weighted(loss: Loss, sample: Sample, value: NDArray, gradient: NDArray, weight: NDArray) -> list[str]:
    raw = sample.raw.copy()
    raw[weight == 0] = np.nan
    f, g = loss.loss_gradient(sample.y, raw, weight, reduction="none")
    problems = sample.differ("loss with weights 1, 2, 0, ½", f, weight * value, 2 * sample.allowed, "weight · loss")
    why = "weight · gradient"
    return problems + sample.differ(
        "gradient with weights", g, _scaled(gradient, weight), 2 * sample.allowed_slope, why
    )


def not_a_number(loss: Loss, sample: Sample) -> Outcome:
    """A raw prediction that is NaN makes its own sample NaN, and no other.

    A comparison with NaN is false: the branches of a user's plain formula give a number, which is only noted.
    """
    if sample.lines.batch:
        return Outcome(0, [])
    value, gradient = loss.loss_gradient(sample.y, sample.raw, reduction="none")
    raw = sample.raw.copy()
    hit = np.arange(len(raw)) % 3 == 1
    raw.reshape(len(raw), -1)[hit, 0] = np.nan
    f, g = loss.loss_gradient(sample.y, raw, reduction="none")
    problems: list[str] = []
    notes: list[str] = []
    for name, got, before in (("loss", f, value), ("gradient", g, gradient)):
        known = np.flatnonzero(hit & ~np.isnan(got.reshape(len(got), -1)).any(axis=1))
        if len(known):
            k = known[0]
            found = problems if loss._registered else notes
            found.append(
                f"{name} at y = {number(sample.y[k])}, raw = {number(raw[k])} is {number(got[k])}, expected nan"
            )
        spoilt = np.flatnonzero(~hit & np.isnan(got.reshape(len(got), -1)).any(axis=1))
        if len(spoilt):
            k = spoilt[0]
            place = sample.lines.place(sample.i[k], sample.t[k])
            problems.append(f"{name} at {place} is nan because another sample is; alone it is {number(before[k])}")
    return Outcome(len(raw), problems, notes[:1])


# ------------------------------------------------------------------------------------------------- float32
def single_precision(loss: Loss, survey: Survey, sample: Sample) -> Outcome:
    """float32 gives what float64 gives for the same numbers, to float32's precision."""
    batch = sample.lines.batch
    keywords: dict[str, Any] = {} if batch else {"reduction": "none"}
    y, raw = (sample.y[0], sample.raw[0]) if batch else (sample.y, sample.raw)
    raw = raw.astype(np.float32)
    y = y if y.dtype.kind in "iu" else y.astype(np.float32)
    try:
        got = loss.loss_gradient(y, raw, **keywords)
    except (ValueError, TypeError) as error:  # parameters that float32 does not hold, a callback for float64 only
        return Outcome(0, [] if "float32" in str(error) else [f"float32: {error}"])
    if got[1].dtype != np.float32:
        return Outcome(len(raw), [f"gradient of float32 raw predictions has dtype {got[1].dtype}, expected float32"])
    exact = _pinned(loss)
    y, raw = y if y.dtype.kind in "iu" else y.astype(np.float64), raw.astype(np.float64)
    if batch:
        return Outcome(len(raw), _compared_batch(got, exact.loss_gradient(y, raw)))
    return Outcome(len(raw), _compared(exact, survey, sample, y, raw, got))


def _pinned(loss: Loss) -> Loss:
    """The loss with float32's number in both dtypes where None stands for a number of the dtype, as an epsilon."""
    specs = getattr(loss, "parameters", None) or {}
    given = dict(getattr(loss, "params", None) or {})
    of_dtype = {name: getattr(spec, "none", None) for name, spec in specs.items() if given.get(name, 0) is None}
    numbers = {name: none(np.dtype(np.float32)) for name, none in of_dtype.items() if none}
    pinned = {name: number for name, number in numbers.items() if number > 0}  # else a mark, not a parameter
    return type(loss)(**{**given, **pinned}) if pinned else loss


def _compared_batch(got: Any, exact: Any) -> list[str]:
    largest = np.abs(exact[1]).max()
    right = np.allclose(got[1], exact[1], rtol=1e-3, atol=1e-4 * largest)
    right &= bool(np.isclose(got[0], exact[0], rtol=1e-4, atol=1e-5))
    return [] if right else [f"float32: loss {got[0]:.6g}, in float64 {exact[0]:.6g}; or else the gradients differ"]


def _compared(loss: Loss, survey: Survey, sample: Sample, y: NDArray, raw: NDArray, got: Any) -> list[str]:
    """float32 may move the raw prediction by its rounding, and lose 1e-5 of the line's ordinary size."""
    reach = sample.lines.reach(sample.i, sample.t)
    shift = 4 * EPS32 * (reach if raw.ndim == 1 else reach[:, None])
    nearby = [loss.loss_gradient(y, raw + sign * shift, reduction="none") for sign in (0, -1, 1)]
    problems = []
    for k, (name, sizes, noise) in enumerate(
        (("loss", survey.value, sample.noise), ("gradient", survey.length, sample.slope_noise))
    ):
        values, found = np.stack([n[k] for n in nearby]), np.asarray(got[k], np.float64)
        lost = 1e-5 * np.minimum(1.0, _largest(survey, sizes)[sample.i]) + 16 * EPS32 / EPS * noise
        allowed = 1e-4 * np.abs(values).max(axis=0) + (lost if found.ndim == 1 else lost[:, None])
        fine = (found >= values.min(axis=0) - allowed) & (found <= values.max(axis=0) + allowed)
        fine |= np.isinf(found) & (np.abs(values[0]) > 1e37)
        bad = np.flatnonzero(~fine.reshape(len(fine), -1).all(axis=1) & np.isfinite(nearby[0][0]))
        if len(bad):
            at = bad[0]
            place = sample.lines.place(sample.i[at], sample.t[at])
            text = f"float32 {name} at {place} is {number(found[at])}, in float64 {number(values[0][at])}"
            problems.append(f"{text}; differs at {len(bad)} of {len(fine)} samples")
    return problems


def _largest(survey: Survey, sizes: NDArray) -> NDArray:
    """The largest of ordinary numbers, per line."""
    largest = np.zeros(len(survey.lines.y))
    np.maximum.at(largest, survey.i[survey.ordinary], np.abs(sizes[survey.ordinary]))
    return largest
