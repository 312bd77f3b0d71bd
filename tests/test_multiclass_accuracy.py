"""Promise: multiclass loss and gradient of a sample within 4 ulp of the exact value, over the whole domain.

The Hessian diagonal is held to 8 ulp of its largest term.  `oracle_multiclass` says what is exact, and where an ulp is
that of a largest term.
"""

import numpy as np
import pytest
from grids_multiclass import ROWS, every_case, everyday_soft, exact_values, label
from mpmath import mp
from oracle_multiclass import ORACLES
from yardstick import ORDERS, doubles

import fastloss

BUDGET = {"loss": 4, "gradient": 4, "hessian": 8}


def budget(name, params, what):
    """Ulps allowed: those of BUDGET, with three exceptions (docs/numerics.md)."""
    allowed = BUDGET[what]
    if name == "multiclass_focal":
        # A power multiplies the relative error of 1 - p, a sum of exponentials of up to 1 ulp (2 at the lower end of a
        # binade), by its exponent; seen 5.5 for gamma = 2, 15.1 for 5.
        return allowed + 2.5 * params.get("gamma", 2.0)
    if name == "generalized_cross_entropy" and what == "gradient":
        return 6  # (1 + q) times the error of the sum of exponentials comes along; seen 5.0 in 320,000 numbers
    if what == "gradient" and params.get("z_loss"):
        return 5  # three terms, one of them a product with lse; seen 4.1
    return allowed


def evaluate(loss, y, raw, **options):
    """{order: per-sample values}."""
    value, gradient = loss.loss_gradient(y, raw, reduction="none", **options)
    same, hessian = loss.gradient_hessian(y, raw, reduction="none", **options)
    np.testing.assert_array_equal(same, gradient)
    return {"loss": value, "gradient": gradient, "hessian": hessian}


def complaint(expected, got, y, raw, limit, excused=False, count=6):
    """'' if every error is within ``limit`` ulp, else the worst points."""
    error = expected.ulps(got.ravel())
    bad = np.flatnonzero((error > limit) & ~np.asarray(excused))
    if not bad.size:
        return ""
    lines = [f"{bad.size} of {error.size} numbers are more than {limit} ulp off; the worst:"]
    for i in bad[np.argsort(-error[bad], kind="stable")][:count]:
        row, k = (i, "") if got.ndim == 1 else (i // got.shape[1], f" class {i % got.shape[1]}")
        exact = expected.exact[i]
        lines.append(
            f"  y={shown(y[row])} raw={shown(raw[row])}{k}: got {got.ravel()[i]!r},"
            f" exact {mp.nstr(exact, 20)}, {error[i]:.3g} ulp"
        )
    return "\n".join(lines)


def shown(row):
    return np.array2string(np.asarray(row), threshold=12, edgeitems=4, floatmode="unique", max_line_width=10**6)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("case", list(every_case()), ids=label)
def test_ulps(case, dtype, isa, order):
    name, params, soft = case
    loss = fastloss.get_loss(name, **params)
    messages = []
    for K in ROWS:
        y, raw, references = exact_values(name, params, soft, dtype, K)
        got = evaluate(loss, np.asarray(y, order=order), np.asarray(raw, order=order))
        for what, expected in zip(ORDERS, references, strict=True):
            assert got[what].dtype == dtype
            assert got[what].shape == (raw.shape[:1] if what == "loss" else raw.shape)
            excused = False
            if what == "hessian":
                excused = almost_subnormal(expected, got[what])
                if name == "sparsemax":
                    excused |= beside_a_jump(y, raw, got[what]).ravel()
            message = complaint(expected, got[what], y, raw, budget(name, params, what), excused)
            if message:
                messages.append(f"K={K} {what}: {message}")
    if messages:
        pytest.fail(f"{name} {params} {dtype} {isa} {order}\n" + "\n".join(messages), pytrace=False)


def almost_subnormal(expected, got):
    """Second derivatives close to the smallest normal number, whose factors may lie below it, are held to it."""
    tiny = float(np.finfo(expected.dtype).tiny)
    with np.errstate(invalid="ignore"):
        return (np.abs(expected.high) < 1e4 * tiny) & (np.abs(got.ravel() - expected.high) < tiny)


def beside_a_jump(y, raw, got):
    """Rows of sparsemax with a score within rounding of the threshold, whose Hessian is that of either side.

    There the support, and with it 1 - 1/|support|, depends on the last bit.  Exact ties with the threshold are tested
    in test_multiclass.py.
    """
    eps = np.finfo(raw.dtype).eps
    excused = np.zeros(raw.shape, bool)
    with np.errstate(all="ignore"):
        top = raw.max(axis=1, keepdims=True)
        d = np.where(raw == top, 0, raw - top).astype(np.longdouble)
    for i in np.flatnonzero(~np.isnan(d).any(axis=1)):
        threshold = simplex_threshold(d[i])
        near = np.abs(d[i] - threshold) <= 8 * eps
        inside = (d[i] > threshold) & ~near
        sizes = np.arange(max(1, inside.sum()), inside.sum() + near.sum() + 1)
        if near.any() and not np.any(got[i][~near & ~inside]):
            allowed = np.append(1 - 1 / sizes, 0)
            distance = np.abs(got[i][:, None] - allowed).min(axis=1)
            excused[i] = np.all(distance <= 8 * eps)
    return excused


def simplex_threshold(d):
    ordered = np.sort(d[np.isfinite(d)])[::-1]
    candidates = (np.cumsum(ordered) - 1) / np.arange(1, ordered.size + 1)
    return candidates[np.flatnonzero(ordered > candidates)[-1]]


# float32 in numbers ---------------------------------------------------------------------------------------------


def many_rows(K, n):
    """Random float32 rows at scales that matter, with ordinary bit patterns."""
    rng = np.random.default_rng([K, n])
    scale = rng.choice([0.01, 1.0, 3.0, 10.0, 40.0], (n, 1))
    raw = scale * rng.normal(size=(n, K)) + rng.choice([0.0, 7.0], (n, 1))
    raw[::5] -= rng.uniform(0, 110, raw[::5].shape)
    return rng.integers(0, K, n), raw.astype(np.float32)


def differences(raw, y, margin):
    """The differences the kernel forms, in float32; exact in float64."""
    against = np.take_along_axis(raw, y[:, None], axis=1) if margin else raw.max(axis=1, keepdims=True)
    return (raw - against).astype(np.float64)


def yardsticks(name, params, y, high):
    """(loss, gradient) `Reference` from float64 values and the largest terms of each."""
    value, gradient = high["loss"], high["gradient"]
    largest, steepest = np.abs(value), np.abs(gradient)
    spec = ORACLES[name]
    if spec.margin or spec.projection:
        largest = np.where(value > 0, np.maximum(largest, 1), largest)
        floor = 1 if name == "multiclass_hinge" or spec.projection else 2
        steepest = np.where((gradient != 0) | spec.projection, np.maximum(steepest, floor), 0)
    elif params.get("label_smoothing"):
        K = gradient.shape[1]
        target = params["label_smoothing"] / K + (1 - params["label_smoothing"]) * np.eye(K)[y]
        steepest = np.maximum(gradient + target, target)
    made = []
    for numbers, sizes in ((value, largest), (gradient, steepest)):
        reference = doubles(np.float32, numbers.ravel())
        reference.unit = np.maximum(reference.unit, doubles(np.float32, sizes.ravel()).unit)
        made.append(reference)
    return made


DENSE = [(name, params) for name, params, _ in every_case(soft=False) if not params.get("z_loss")]


@pytest.mark.parametrize("case", DENSE, ids=label)
@pytest.mark.parametrize(("K", "n"), [(2, 20_000), (3, 20_000), (10, 8_000), (100, 800), (1000, 100)])
def test_dense_float32(case, isa, K, n):
    """Many float32 rows, judged by the float64 kernel that the oracle has judged, at the rounded differences."""
    name, params = case
    y, raw = many_rows(K, n)
    rounded = {k: float(np.float32(v)) for k, v in (ORACLES[name].defaults | params).items()}
    got = evaluate(fastloss.get_loss(name, **params), y, raw)
    high = evaluate(fastloss.get_loss(name, **rounded), y, differences(raw, y, ORACLES[name].margin))
    for what, expected in zip(("loss", "gradient"), yardsticks(name, rounded, y, high), strict=True):
        message = complaint(expected, got[what], y, raw, budget(name, params, what))
        if message:
            pytest.fail(f"{name} {params} K={K} {isa} {what}: {message}", pytrace=False)


@pytest.mark.parametrize("K", [2, 10, 100])
def test_dense_float32_with_soft_targets(isa, K):
    y, raw = everyday_soft(4000, K, np.float32)
    got = evaluate(fastloss.get_loss("cross_entropy"), y, raw)
    label_of_none = np.zeros(len(raw), int)
    high = evaluate(
        fastloss.get_loss("cross_entropy"), y.astype(np.float64), differences(raw, label_of_none, margin=False)
    )
    expected = doubles(np.float32, high["loss"])
    assert not complaint(expected, got["loss"], y, raw, 4)
    expected = doubles(np.float32, high["gradient"].ravel())
    largest = np.maximum(high["gradient"] + y, y)
    expected.unit = np.maximum(expected.unit, doubles(np.float32, largest.ravel()).unit)
    assert not complaint(expected, got["gradient"], y, raw, 4)


# sums and weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("K", [2, 3, 10, 65, 1000])
@pytest.mark.parametrize("name", ["cross_entropy", "multiclass_focal", "generalized_cross_entropy"])
def test_gradient_of_the_true_class_is_the_sum_of_the_others(name, dtype, isa, K):
    """The tail of a sure and right prediction: exactly 0 in sum for two classes, else to the rounding of a sum."""
    y, raw, references = exact_values(name, {}, False, dtype, K)
    gradient = fastloss.gradient(name, y, raw, reduction="none").astype(float)
    usual = np.isfinite(references[1].high).reshape(raw.shape).all(axis=1)
    gradient, y = gradient[usual], y[usual]
    own = np.take_along_axis(gradient, y[:, None], axis=1)[:, 0]
    total = gradient.sum(axis=1)
    others = total - own
    if K == 2:
        np.testing.assert_array_equal(gradient[:, 0], -gradient[:, 1])
        assert np.any((np.abs(own) < 1e-10) & (own != 0))
    bound = 8 * np.finfo(dtype).eps * np.abs(others) + K * np.finfo(dtype).tiny
    assert np.all(np.abs(own + others) <= bound)


def test_weights_multiply_once(dtype, isa):
    for K in (2, 5, 70):
        y, raw, _ = exact_values("cross_entropy", {}, False, dtype, {2: 2, 5: 3, 70: 65}[K])
        keep = (np.abs(raw) < 1e9).all(axis=1)
        y, raw = y[keep], raw[keep]
        weight = np.random.default_rng(K).uniform(0.5, 2, len(y))
        loss = fastloss.get_loss("cross_entropy")
        plain, weighted = evaluate(loss, y, raw), loss.loss_gradient(y, raw, weight, reduction="none")
        eps, tiny = np.finfo(dtype).eps, np.finfo(dtype).tiny
        np.testing.assert_allclose(weighted[0], plain["loss"].astype(float) * weight, rtol=2 * eps, atol=2 * tiny)
        wanted = plain["gradient"].astype(float) * weight[:, None]
        np.testing.assert_allclose(weighted[1], wanted, rtol=2 * eps, atol=2 * tiny)


def test_hard_labels_are_exact_where_smoothing_may_not_be(isa):
    """float64 rows whose loss is far below the smallest difference that 1 - p could show."""
    for gap in (40.0, 300.0, 700.0):
        raw = np.zeros((3, 4))
        raw[:, 1] = gap
        value, gradient = fastloss.loss_gradient("cross_entropy", [1, 1, 1], raw, reduction="none")
        tail = 3 * np.exp(-gap)
        np.testing.assert_allclose(value, tail, rtol=1e-15 if gap == 40 else 1e-14)
        np.testing.assert_allclose(gradient[:, 1], -tail, rtol=1e-14)
        np.testing.assert_allclose(gradient[:, 0], tail / 3, rtol=1e-14)
