"""What multiclass losses mean: derivatives, labels, soft targets, class weights, ignored labels, special values.

Accuracy is in test_multiclass_accuracy.py, memory layouts, threads and buffers in test_multiclass_arrays.py.
"""

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
from bits import METHODS, REDUCTIONS, bits, differing, results
from grids_multiclass import every_case, everyday, everyday_soft, label, samples
from oracle_multiclass import ORACLES

import fastloss
from fastloss import losses
from fastloss.losses import Loss, get_class

MULTICLASS = fastloss.list_losses(kind="multiclass")
SOFTMAX = [name for name in MULTICLASS if not (ORACLES[name].margin or ORACLES[name].projection)]
HARD_CASES = list(every_case(soft=False))
INF, NAN = np.inf, np.nan


@pytest.fixture(params=MULTICLASS)
def name(request):
    """Every multiclass loss, with default parameters (instead of the pointwise ones of conftest.py)."""
    return request.param


def per_sample(loss, y, raw, weight=None):
    """(loss, gradient, hessian) with reduction "none"."""
    value, gradient = loss.loss_gradient(y, raw, weight, reduction="none")
    return value, gradient, loss.gradient_hessian(y, raw, weight, reduction="none")[1]


def nearly(dtype, ulps=8):
    """Tolerances of a few ulp, of the number or of 1."""
    eps = float(np.finfo(dtype).eps)
    return {"rtol": ulps * eps, "atol": ulps * eps}


# names ----------------------------------------------------------------------------------------------------------


def test_names_and_kinds():
    promised = """cross_entropy multiclass_hinge multiclass_squared_hinge multiclass_focal generalized_cross_entropy
        sparsemax entmax15"""
    assert set(promised.split()) == set(MULTICLASS)
    assert list(MULTICLASS) == sorted(MULTICLASS)
    others = {*fastloss.list_losses(kind="regression"), *fastloss.list_losses(kind="binary")}
    assert others.isdisjoint(MULTICLASS)
    assert set(fastloss.list_losses()) >= others | set(MULTICLASS)


def test_classes(name):
    cls = get_class(name)
    assert cls.__name__ == "".join(part.capitalize() for part in name.split("_"))
    assert getattr(losses, cls.__name__) is cls
    assert cls.__name__ in losses.__all__
    assert cls.kind == "multiclass"
    assert isinstance(fastloss.get_loss(name), Loss)


@pytest.mark.parametrize("method", METHODS)
def test_functions_equal_methods(dtype, method):
    y, raw = everyday(40, 3, dtype)
    weight = np.random.default_rng(0).uniform(0, 2, 40)
    for name, params, _ in HARD_CASES:
        params = {**params, "class_weight": [1.0, 0.5, 2.0], "ignore_index": 2}
        mine = getattr(fastloss.get_loss(name, **params), method)(y, raw, weight)
        theirs = getattr(fastloss, method)(name, y, raw, weight, **params)
        pairs = zip(mine, theirs, strict=True) if isinstance(mine, tuple) else [(mine, theirs)]
        assert all(bits(a) == bits(b) for a, b in pairs)


# derivatives ----------------------------------------------------------------------------------------------------


def difference(function, h):
    """Derivative at 0 with an error of order h**4."""
    return (8 * (function(h) - function(-h)) - (function(2 * h) - function(-2 * h))) / (12 * h)


STEP = 1e-3


def smooth_points(loss, name, soft, dtype, K=4):
    """(y, raw) without a kink within two steps: the same classes have a gradient, or are in the support, all around."""
    y, raw = everyday_soft(80, K, seed=7) if soft else everyday(80, K, seed=7, scale=1.2)
    y = y.astype(dtype).astype(float) if soft else y
    raw = raw.astype(dtype).astype(float)
    if name in SOFTMAX:
        return y, raw

    def pattern(x):
        gradient = loss.gradient(y, x, reduction="none")
        if ORACLES[name].projection:
            gradient[np.arange(len(y)), y] += 1
        return gradient > 1e-12 if ORACLES[name].projection else np.sign(gradient)

    here, keep = pattern(raw), np.ones(len(y), bool)
    for k, side in itertools.product(range(K), (-1, 1)):
        keep &= (pattern(raw + 3 * side * STEP * np.eye(K)[k]) == here).all(axis=1)
    assert keep.sum() > 40
    return y[keep], raw[keep]


def in_double(name, params, dtype):
    """The loss whose parameters are those that a kernel of dtype sees."""
    return fastloss.get_loss(name, **{k: float(dtype.type(v)) for k, v in (ORACLES[name].defaults | params).items()})


@pytest.mark.parametrize("case", list(every_case()), ids=label)
def test_gradient_and_hessian_are_derivatives(case, dtype, isa):
    name, params, soft = case
    double = in_double(name, params, dtype)
    y, raw = smooth_points(double, name, soft, dtype)
    given = y.astype(dtype) if soft else y
    _, gradient, hessian = per_sample(fastloss.get_loss(name, **params), given, raw.astype(dtype))
    tolerance = 2e-9 if dtype == np.float64 else 1e-5
    size = 1 + np.abs(double.loss(y, raw, reduction="none"))
    for k in range(raw.shape[1]):
        toward = np.eye(raw.shape[1])[k]
        slope = difference(lambda t: double.loss(y, raw + t * toward, reduction="none"), STEP)  # noqa: B023
        bend = difference(lambda t: double.gradient(y, raw + t * toward, reduction="none")[:, k], STEP)  # noqa: B023
        assert np.all(np.abs(gradient[:, k] - slope) <= tolerance * size), k
        assert np.all(np.abs(hessian[:, k] - bend) <= tolerance * size), k


def test_gradient_of_the_mean_and_the_sum(name, isa):
    """Directional difference of the reduced loss, with sample and class weights."""
    loss = fastloss.get_loss(name, class_weight=[1.0, 0.3, 2.0, 0.0])
    y, raw = smooth_points(fastloss.get_loss(name), name, False, np.dtype(float))
    rng = np.random.default_rng(3)
    weight, direction = rng.uniform(0, 2, len(y)), rng.choice([-1.0, 1.0], raw.shape)
    for reduction in ("mean", "sum"):
        slope = np.sum(loss.gradient(y, raw, weight, reduction=reduction) * direction)
        wanted = difference(lambda t: loss.loss(y, raw + t * direction, weight, reduction=reduction), STEP)  # noqa: B023
        assert abs(slope - wanted) <= 1e-8 * max(1, abs(loss.loss(y, raw, weight, reduction=reduction)))


@pytest.mark.parametrize("case", list(every_case()), ids=label)
@pytest.mark.parametrize("K", [2, 3, 10, 100])
def test_gradient_rows_sum_to_zero(case, dtype, isa, K):
    """A constant added to all scores changes nothing, unless z_loss looks at it."""
    name, params, soft = case
    if params.get("z_loss"):
        return  # not a skip: the sum is 2 z_loss * lse, which test_z_loss_is_added looks at
    y, raw = everyday_soft(60, K, dtype) if soft else everyday(60, K, dtype, scale=8.0)
    gradient = fastloss.gradient(name, y, raw, reduction="none", **params)
    sums = gradient.astype(float).sum(axis=1)
    assert np.all(np.abs(sums) <= 4 * np.finfo(dtype).eps * (np.abs(gradient.astype(float)).sum(axis=1) + 1))
    if K == 2 and not soft and not params.get("label_smoothing") and not ORACLES[name].projection:
        assert not sums.any()


def test_z_loss_is_added(dtype, isa):
    y, raw = everyday(50, 6, dtype)
    plain = per_sample(fastloss.get_loss("cross_entropy"), y, raw)
    with_z = per_sample(fastloss.get_loss("cross_entropy", z_loss=0.25), y, raw)
    lse, p = fastloss.logsumexp(raw).astype(float), fastloss.softmax(raw).astype(float)
    np.testing.assert_allclose(with_z[0] - plain[0].astype(float), 0.25 * lse**2, **nearly(dtype, 64))
    np.testing.assert_allclose(with_z[1] - plain[1].astype(float), 0.5 * lse[:, None] * p, **nearly(dtype, 32))
    bend = 0.5 * (lse[:, None] * p * (1 - p) + p * p)
    np.testing.assert_allclose(with_z[2] - plain[2].astype(float), bend, **nearly(dtype, 32))


@pytest.mark.parametrize("case", HARD_CASES, ids=label)
def test_convexity_is_what_is_said(case):
    """Between any two points the gradient of a convex loss turns towards the second; of the others it somewhere fails.

    With z_loss a log-sum-exp far below 0 is pushed up, which bends the loss down.
    """
    name, params, _ = case
    loss = fastloss.get_loss(name, **params)
    rng = np.random.default_rng(4)
    n, K = 20_000, 3
    y = rng.integers(0, K, n)
    a = rng.normal(size=(n, K)) * rng.choice([0.1, 1, 4, 20], (n, 1)) - rng.choice([0, 1000, 1e5], (n, 1))
    b = a + rng.normal(size=(n, K)) * rng.choice([0.1, 1, 5], (n, 1))
    slopes = loss.gradient(y, b, reduction="none") - loss.gradient(y, a, reduction="none")
    turned = (slopes * (b - a)).sum(axis=1)
    assert loss.convex == bool(np.all(turned >= -1e-9))


def full_hessian(loss, y, raw, h=1e-5):
    """(n, K, K) by central differences of the gradient."""
    columns = []
    for toward in np.eye(raw.shape[1]):
        above, below = (loss.gradient(y, raw + s * h * toward, reduction="none") for s in (1, -1))
        columns.append((above - below) / (2 * h))
    return np.stack(columns, axis=2)


@pytest.mark.parametrize("case", HARD_CASES, ids=label)
def test_curvature_bounds_the_hessian_matrix(case):
    """`curvature` bounds the largest eigenvalue of the K x K Hessian; a finite one of a convex loss is reached."""
    name, params, _ = case
    loss = fastloss.get_loss(name, **params)
    bound, worst = loss.curvature(), 0.0
    rng = np.random.default_rng(5)
    for K in (2, 3, 5):
        n = 4000
        raw = rng.normal(size=(n, K)) * rng.choice([0.01, 0.3, 1, 3], (n, 1))
        raw[:200] = 0
        raw[:200, 0] = np.linspace(-1.9, 1.9, 200)
        y = rng.integers(0, K, n)
        eigenvalues = np.linalg.eigvalsh(full_hessian(loss, y, raw))
        if ORACLES[name].margin or name == "sparsemax":  # a difference across a kink is no second derivative
            smooth = np.ptp(np.stack([full_hessian(loss, y, raw, h) for h in (1e-5, 3e-5)]), axis=0).max(axis=(1, 2))
            eigenvalues = eigenvalues[smooth < 1e-4]
        worst = max(worst, float(eigenvalues.max()))
    assert worst <= bound + 1e-4
    if loss.convex and np.isfinite(bound):
        assert worst >= 0.98 * bound


def test_curvature_of_cross_entropy():
    assert fastloss.get_loss("cross_entropy").curvature() == 0.5
    assert fastloss.get_loss("cross_entropy", z_loss=1e-3).curvature() == INF


@pytest.mark.parametrize("case", HARD_CASES, ids=label)
def test_hessian_policies(case, dtype, isa):
    name, params, _ = case
    loss = fastloss.get_loss(name, **params)
    y, raw = everyday(60, 5, dtype)
    gradient, exact = loss.gradient_hessian(y, raw, reduction="none")
    offered = []
    for policy in ("fisher", "upper_bound"):
        try:
            same, other = loss.gradient_hessian(y, raw, reduction="none", hessian=policy)
        except ValueError as error:
            assert "'exact'" in str(error)  # noqa: PT017 - a loss need not have every policy
            assert name in str(error)  # noqa: PT017
            continue
        offered.append(policy)
        assert bits(same) == bits(gradient)
        assert np.all(other >= 0)
        if policy == "upper_bound":
            assert np.unique(other).size == 1
            assert np.all(other >= exact * (1 - 8 * np.finfo(dtype).eps))
            assert other[0, 0] == dtype.type(1 if loss.piecewise_linear else loss.curvature())
    if name == "cross_entropy":
        assert ("fisher" in offered) == ("upper_bound" in offered) == (not params.get("z_loss"))
        if not params.get("z_loss"):
            fisher = loss.gradient_hessian(y, raw, reduction="none", hessian="fisher")[1]
            assert bits(fisher) == bits(exact)
    if loss.piecewise_linear:
        assert name == "multiclass_hinge"
        assert "upper_bound" in offered
        assert not exact.any()


# entry points ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", list(every_case()), ids=label)
def test_entry_points_agree(case, dtype, isa):
    """loss, gradient, loss_gradient and gradient_hessian give the same bits, on adversarial input too."""
    name, params, soft = case
    loss = fastloss.get_loss(name, **params)
    for K in (1, 2, 3, 10, 65, 1000):
        y, raw = samples(name, dtype, K, soft)
        for weight in (None, np.random.default_rng(0).uniform(0, 2, len(raw))):
            found = results(loss, y, raw, weight)
            for reduction in REDUCTIONS:
                assert found["loss", "loss", reduction] == found["loss_gradient", "loss", reduction]
                gradients = {v for (_, part, r), v in found.items() if part == "gradient" and r == reduction}
                assert len(gradients) == 1, (K, reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_shapes_and_types(name, dtype, isa, reduction):
    for n, K in ((7, 1), (7, 2), (1, 5), (30, 130)):
        y, raw = everyday(n, K, dtype)
        loss = fastloss.get_loss(name)
        value, gradient = loss.loss_gradient(y, raw, reduction=reduction)
        slope, bend = loss.gradient_hessian(y, raw, reduction=reduction)
        assert gradient.shape == slope.shape == bend.shape == (n, K)
        assert gradient.dtype == slope.dtype == bend.dtype == dtype
        if reduction == "none":
            assert value.shape == (n,)
            assert value.dtype == dtype
        else:
            assert type(value) is float
        assert bits(loss.loss(y, raw)) == bits(loss.loss(y, raw, reduction="mean"))  # the default


# reductions and weights -----------------------------------------------------------------------------------------

CLASS_WEIGHT = (0.5, 2.0, 0.0, 1.25)
SMOOTHINGS = (0.0, 0.1)
IGNORES = (None, -100, 1)
GRID = [
    (weighted, smoothing, ignore, classes)
    for weighted in (False, True)
    for smoothing in SMOOTHINGS
    for ignore in IGNORES
    for classes in (None, CLASS_WEIGHT)
]


def grid_problem(name, dtype, weighted, ignore):
    """(y, raw, weight, which samples are ignored) with K = 4."""
    y, raw = everyday(301, 4, dtype, seed=11)
    rng = np.random.default_rng(12)
    weight = rng.uniform(0, 3, 301) if weighted else None
    if weighted:
        weight[rng.random(301) < 0.1] = 0
    if ignore == -100:
        y = np.where(rng.random(301) < 0.2, -100, y)
    return y, raw, weight, np.zeros(301, bool) if ignore is None else y == ignore


def grid_params(name, smoothing, ignore, classes):
    smoothed = {"label_smoothing": smoothing} if name == "cross_entropy" else {}
    return {**smoothed, "ignore_index": ignore, "class_weight": classes}


def grid_of(name):
    """The grid; smoothing only where the loss has it."""
    return [point for point in GRID if name == "cross_entropy" or not point[1]]


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_ignored_rows_are_removed_rows(name, dtype, isa, reduction):
    for weighted, smoothing, ignore, classes in grid_of(name):
        y, raw, weight, out = grid_problem(name, dtype, weighted, ignore)
        params = grid_params(name, smoothing, ignore, classes)
        loss = fastloss.get_loss(name, **params)
        kept = fastloss.get_loss(name, **{**params, "ignore_index": None})
        rest = None if weight is None else weight[~out]
        wanted = kept.loss_gradient(y[~out], raw[~out], rest, reduction=reduction)
        bend = kept.gradient_hessian(y[~out], raw[~out], rest, reduction=reduction)[1]
        raw = raw.copy()
        raw[np.flatnonzero(out)[::2]] = NAN  # what is ignored is not looked at
        raw[np.flatnonzero(out)[1::4]] = INF
        value, gradient = loss.loss_gradient(y, raw, weight, reduction=reduction)
        hessian = loss.gradient_hessian(y, raw, weight, reduction=reduction)[1]
        assert not gradient[out].any()
        assert not hessian[out].any()
        close = {"rtol": 4 * np.finfo(dtype).eps, "atol": np.finfo(dtype).tiny}
        np.testing.assert_allclose(gradient[~out], wanted[1], **close)
        np.testing.assert_allclose(hessian[~out], bend, **close)
        if reduction == "none":
            assert not value[out].any()
            np.testing.assert_array_equal(value[~out], wanted[0])
        else:
            assert value == pytest.approx(wanted[0], rel=1e-13)
        if reduction != "mean":
            np.testing.assert_array_equal(gradient[~out], wanted[1])


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_class_weights_are_sample_weights(name, dtype, isa, reduction):
    for weighted, smoothing, ignore, classes in grid_of(name):
        if classes is None:
            continue
        y, raw, weight, out = grid_problem(name, dtype, weighted, ignore)
        params = grid_params(name, smoothing, ignore, classes)
        per_sample_weight = np.where(out, 0, np.array(classes)[np.where(out, 0, y)])
        per_sample_weight = per_sample_weight if weight is None else weight * per_sample_weight
        plain = fastloss.get_loss(name, **{**params, "class_weight": None})
        with_classes = fastloss.get_loss(name, **params)
        for method in ("loss_gradient", "gradient_hessian"):
            ours = getattr(with_classes, method)(y, raw, weight, reduction=reduction)
            theirs = getattr(plain, method)(y, raw, per_sample_weight, reduction=reduction)
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(a, b, rtol=4 * np.finfo(dtype).eps, atol=np.finfo(dtype).tiny)


@pytest.mark.parametrize("name", ["cross_entropy"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_class_weights_of_soft_targets(name, dtype, isa, reduction):
    """A soft target weighs what its classes weigh on average."""
    y, raw = everyday_soft(200, 4, dtype)
    for smoothing, weight in itertools.product(SMOOTHINGS, (None, np.random.default_rng(1).uniform(0, 2, 200))):
        ours = fastloss.get_loss(name, class_weight=CLASS_WEIGHT, label_smoothing=smoothing)
        theirs = fastloss.get_loss(name, label_smoothing=smoothing)
        mixed = y.astype(float) @ np.array(CLASS_WEIGHT) * (1 if weight is None else weight)
        one = ours.loss_gradient(y, raw, weight, reduction=reduction)
        other = theirs.loss_gradient(y, raw, mixed, reduction=reduction)
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=16 * np.finfo(dtype).eps, atol=1e-3 * np.finfo(dtype).eps)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_one_hot_targets_are_labels(dtype, isa, reduction):
    for weighted, smoothing, ignore, classes in grid_of("cross_entropy"):
        if ignore is not None:
            continue  # soft targets cannot be ignored, test_multiclass_validation.py
        y, raw, weight, _ = grid_problem("cross_entropy", dtype, weighted, None)
        for z_loss in (0.0, 0.01):
            loss = fastloss.get_loss("cross_entropy", label_smoothing=smoothing, class_weight=classes, z_loss=z_loss)
            for target in (np.eye(4, dtype=dtype)[y], np.eye(4, dtype=np.int8)[y], np.eye(4, dtype=bool)[y]):
                for method in ("loss_gradient", "gradient_hessian"):
                    hard = getattr(loss, method)(y, raw, weight, reduction=reduction)
                    soft = getattr(loss, method)(target, raw, weight, reduction=reduction)
                    for a, b in zip(hard, soft, strict=True):
                        np.testing.assert_allclose(a, b, rtol=8 * np.finfo(dtype).eps, atol=16 * np.finfo(dtype).eps)


@pytest.mark.parametrize("smoothing", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_smoothing_is_the_same_soft_target(dtype, isa, smoothing, reduction):
    """Without class weights, whose choice looks at the unsmoothed label."""
    for K in (1, 2, 5):
        y, raw = everyday(100, K, dtype)
        weight = np.random.default_rng(1).uniform(0, 2, 100)
        one_hot, dirichlet = np.eye(K)[y], np.random.default_rng(2).dirichlet(np.ones(K), 100)
        for given, z_loss in itertools.product((y, one_hot, dirichlet), (0.0, 0.02)):
            target = (1 - smoothing) * (one_hot if given is y else given) + smoothing / K
            one = fastloss.loss_gradient(
                "cross_entropy", given, raw, weight, reduction=reduction, label_smoothing=smoothing, z_loss=z_loss
            )
            other = fastloss.loss_gradient("cross_entropy", target, raw, weight, reduction=reduction, z_loss=z_loss)
            for a, b in zip(one, other, strict=True):
                np.testing.assert_allclose(a, b, **nearly(dtype, 16))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_two_classes_are_log_loss(dtype, isa, smoothing, reduction):
    z = np.concatenate([np.linspace(-60, 60, 121), [100, -100, 300, -300, INF, -INF]]).astype(dtype)
    raw = np.stack([np.zeros_like(z), z], axis=1)
    y = np.arange(z.size) % 2 if smoothing else np.arange(z.size) // 3 % 2
    if reduction != "none" or smoothing:
        z, raw, y = z[:121], raw[:121], y[:121]  # an infinite sum says little
    for weight in (None, np.random.default_rng(1).uniform(0.5, 2, z.size)):
        ours = fastloss.loss_gradient("cross_entropy", y, raw, weight, reduction=reduction, label_smoothing=smoothing)
        theirs = fastloss.loss_gradient("log_loss", y, z, weight, reduction=reduction, label_smoothing=smoothing)
        eps, tiny = np.finfo(dtype).eps, np.finfo(dtype).tiny
        np.testing.assert_allclose(ours[0], theirs[0], rtol=12 * eps, atol=tiny)
        # smoothed gradients are differences of terms up to 1
        close = {"rtol": 12 * eps, "atol": 8 * eps if smoothing else tiny}
        np.testing.assert_allclose(ours[1][:, 1], theirs[1], **close)
        np.testing.assert_allclose(ours[1][:, 0], -theirs[1], **close)
        bend = fastloss.gradient_hessian("cross_entropy", y, raw, weight, reduction="sum", label_smoothing=smoothing)
        other = fastloss.gradient_hessian("log_loss", y, z, weight, reduction="sum", label_smoothing=smoothing)
        np.testing.assert_allclose(bend[1][:, 1], other[1], rtol=16 * eps, atol=4 * tiny)
        np.testing.assert_allclose(bend[1][:, 0], other[1], rtol=16 * eps, atol=4 * tiny)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_weight_zero_silences_a_sample(name, dtype, isa, bad, reduction):
    """By its own weight, by that of its class, or as ignored: exactly 0, whatever its scores are."""
    y, raw = everyday(90, 4, dtype, seed=3)
    silent = y == 2
    weight = np.random.default_rng(0).uniform(0.5, 1.5, 90)
    clean = fastloss.get_loss(name)
    wanted = clean.loss_gradient(y[~silent], raw[~silent], weight[~silent], reduction=reduction)
    raw[silent, 1] = bad
    raw[np.flatnonzero(silent)[::2]] = bad
    for loss, w in (
        (clean, np.where(silent, 0, weight)),
        (fastloss.get_loss(name, class_weight=[1, 1, 0, 1]), weight),
        (fastloss.get_loss(name, ignore_index=2), weight),
    ):
        value, gradient = loss.loss_gradient(y, raw, w, reduction=reduction)
        slope, bend = loss.gradient_hessian(y, raw, w, reduction=reduction)
        for silenced in (gradient[silent], slope[silent], bend[silent]):
            assert not silenced.any()
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(gradient[~silent], wanted[1], rtol=4 * eps)
        if reduction == "none":
            assert not value[silent].any()
            np.testing.assert_allclose(value[~silent], wanted[0], rtol=4 * eps)
        else:
            assert value == pytest.approx(wanted[0], rel=1e-13)


@pytest.mark.parametrize("ignore", [-100, 0, 3, 99, -1, 255])
def test_ignore_index_is_any_integer(name, isa, ignore):
    """Out of the classes' range or within it, in any dtype that can hold it."""
    y, raw = everyday(60, 4)
    labels = y.astype(np.int64)
    labels[::5] = ignore
    keep = labels != ignore
    wanted = fastloss.loss(name, labels[keep], raw[keep])
    kinds = [np.int64, np.float64, np.longdouble, np.int16, np.float16] + ([np.uint8] if ignore >= 0 else [np.int32])
    for kind in kinds:
        assert fastloss.loss(name, labels.astype(kind), raw, ignore_index=ignore) == pytest.approx(wanted, rel=1e-13)
    assert fastloss.loss(name, labels, raw, ignore_index=np.int32(ignore)) == pytest.approx(wanted, rel=1e-13)


def test_ignore_index_that_the_labels_cannot_hold(name):
    """An unsigned label is never -1, nor is 300 an int8 that wrapped: then nothing is ignored."""
    y, raw = everyday(40, 4)
    plain = fastloss.loss(name, y, raw)
    assert fastloss.loss(name, y.astype(np.uint8), raw, ignore_index=-1) == plain
    assert fastloss.loss(name, y.astype(np.uint8), raw, ignore_index=256) == plain
    assert fastloss.loss(name, y.astype(np.uint64), raw, ignore_index=-(2**63)) == plain
    assert fastloss.loss(name, y.astype(np.int8), raw, ignore_index=259) == plain
    with pytest.raises(ValueError, match=r"y_true\[2\] = 255"):
        fastloss.loss(name, np.array([0, 1, 255], np.uint8), raw[:3], ignore_index=-1)


NOTHING = {
    "no samples": lambda loss: (loss(), np.zeros(0, int), np.zeros((0, 3)), None),
    "all ignored": lambda loss: (loss(ignore_index=-1), np.full(5, -1), np.full((5, 3), NAN), None),
    "no weight": lambda loss: (loss(), np.zeros(5, int), np.full((5, 3), INF), np.zeros(5)),
    "no class weight": lambda loss: (loss(class_weight=[0, 1, 1]), np.zeros(5, int), np.zeros((5, 3)), None),
    "some of each": lambda loss: (
        loss(class_weight=[0, 1, 1], ignore_index=2),
        np.array([0, 1, 2, 0, 1]),
        np.zeros((5, 3)),
        np.array([1, 0, 1, 0, 0]),
    ),
}


@pytest.mark.parametrize("nothing", NOTHING)
def test_nothing_that_counts(name, dtype, isa, nothing):
    loss, y, raw, weight = NOTHING[nothing](get_class(name))
    raw = raw.astype(dtype)
    for method in METHODS:
        with pytest.raises(ValueError, match="mean"):
            getattr(loss, method)(y, raw, weight)
    value, gradient = loss.loss_gradient(y, raw, weight, reduction="sum")
    assert value == 0.0
    assert type(value) is float
    assert not gradient.any()
    value, gradient = loss.loss_gradient(y, raw, weight, reduction="none")
    assert value.shape == raw.shape[:1]
    assert gradient.shape == raw.shape
    assert gradient.dtype == dtype
    assert not value.any()
    assert not gradient.any()
    slope, bend = loss.gradient_hessian(y, raw, weight, reduction="none")
    assert not slope.any()
    assert not bend.any()


def test_mean_divides_by_what_counts(name, dtype, isa):
    y, raw = everyday(500, 4, dtype, seed=21)
    weight = np.random.default_rng(1).uniform(0, 3, 500)
    loss = fastloss.get_loss(name, class_weight=CLASS_WEIGHT, ignore_index=3)
    each, slope, bend = per_sample(fastloss.get_loss(name), y, raw)
    counted = np.where(y == 3, 0, weight * np.array(CLASS_WEIGHT)[y])
    total = math.fsum(counted)
    terms = each.astype(float) * counted
    value, gradient = loss.loss_gradient(y, raw, weight)
    assert value == pytest.approx(math.fsum(terms) / total, rel=1e-13)
    assert loss.loss(y, raw, weight, reduction="sum") == pytest.approx(math.fsum(terms), rel=1e-13)
    close = {"rtol": 4 * np.finfo(dtype).eps, "atol": np.finfo(dtype).tiny}
    np.testing.assert_allclose(gradient, slope * (counted / total)[:, None], **close)
    np.testing.assert_allclose(loss.gradient_hessian(y, raw, weight)[1], bend * (counted / total)[:, None], **close)


@pytest.mark.parametrize("scale", [2.0**-900, 1e-3, 2.0**800])
def test_mean_does_not_know_the_scale_of_weights(isa, scale):
    y, raw = everyday(300, 4)
    weight = np.random.default_rng(1).uniform(0, 3, 300)
    value, gradient = fastloss.loss_gradient("cross_entropy", y, raw, weight, class_weight=CLASS_WEIGHT)
    other, slope = fastloss.loss_gradient("cross_entropy", y, raw, scale * weight, class_weight=CLASS_WEIGHT)
    assert other == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(slope, gradient, rtol=1e-14)


def test_weights_repeat_samples(name, isa):
    y, raw = everyday(300, 5)
    weight = np.random.default_rng(2).integers(0, 4, 300)
    copies = fastloss.loss(name, np.repeat(y, weight), np.repeat(raw, weight, axis=0))
    assert fastloss.loss(name, y, raw, weight) == pytest.approx(copies, rel=1e-12)


def test_unit_weights_are_no_weights(name, dtype, isa):
    y, raw = everyday(300, 4, dtype)
    plain = results(fastloss.get_loss(name), y, raw, reductions=("sum", "none"))
    assert not differing(plain, results(fastloss.get_loss(name), y, raw, np.ones(300), reductions=("sum", "none")))
    unit = fastloss.get_loss(name, class_weight=[1, 1, 1, 1])
    assert not differing(plain, results(unit, y, raw, reductions=("sum", "none")))
    silent = fastloss.get_loss(name, ignore_index=-1)
    assert not differing(plain, results(silent, y, raw, reductions=("sum", "none")))


# signed weights -------------------------------------------------------------------------------------------------


def test_policy_gradient_is_weighted_cross_entropy(dtype, isa):
    """REINFORCE: minus the sum of advantages times log-probabilities of the actions."""
    actions, raw = everyday(400, 5, dtype)
    advantage = np.random.default_rng(1).normal(size=400)
    loss = fastloss.get_loss("cross_entropy", allow_negative_weight=True)
    value, gradient = loss.loss_gradient(actions, raw, advantage, reduction="sum")
    log_p = fastloss.log_softmax(raw.astype(np.float64))
    taken = log_p[np.arange(400), actions]
    size = math.fsum(np.abs(advantage * taken))
    assert abs(value + math.fsum(advantage * taken)) <= 8 * np.finfo(dtype).eps * size
    wanted = advantage[:, None] * (np.exp(log_p) - np.eye(5)[actions])
    np.testing.assert_allclose(gradient, wanted, rtol=32 * np.finfo(dtype).eps, atol=32 * np.finfo(dtype).eps)
    each = loss.loss(actions, raw, advantage, reduction="none")
    assert np.array_equal(each < 0, advantage < 0)


def test_negative_weights_negate(dtype, isa):
    y, raw = everyday(60, 4, dtype)
    loss = fastloss.get_loss("cross_entropy", allow_negative_weight=True)
    weight = np.random.default_rng(1).uniform(0.5, 2, 60)
    for method in ("loss_gradient", "gradient_hessian"):
        plus = getattr(loss, method)(y, raw, weight, reduction="none")
        minus = getattr(loss, method)(y, raw, -weight, reduction="none")
        for a, b in zip(plus, minus, strict=True):
            np.testing.assert_array_equal(a, -b)


def test_mean_of_signed_weights_needs_a_positive_sum(isa):
    y, raw = everyday(4, 3)
    loss = fastloss.get_loss("cross_entropy", allow_negative_weight=True)
    each = loss.loss(y, raw, reduction="none")
    weight = np.array([2.0, -1.0, 0.5, -0.5])
    assert loss.loss(y, raw, weight) == pytest.approx((weight * each).sum(), rel=1e-13)
    for method in METHODS:
        for bad in ([1.0, -1.0, 2.0, -2.0], [-1.0, -1.0, 0.5, 0.0]):
            with pytest.raises(ValueError, match="mean"):
                getattr(loss, method)(y, raw, np.array(bad))
            getattr(loss, method)(y, raw, np.array(bad), reduction="sum")


def test_negative_class_weights_go_with_signed_weights(isa):
    y, raw = everyday(50, 3)
    classes = (1.0, -0.5, 2.0)
    loss = fastloss.get_loss("cross_entropy", class_weight=classes, allow_negative_weight=True)
    plain = fastloss.get_loss("cross_entropy", allow_negative_weight=True)
    for reduction in ("sum", "none"):
        one = loss.loss_gradient(y, raw, reduction=reduction)
        other = plain.loss_gradient(y, raw, np.array(classes)[y], reduction=reduction)
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13)


def test_signed_weights_are_refused_unless_asked_for(name):
    y, raw = everyday(5, 3)
    weight = np.array([1.0, 1, -0.5, 1, -1])
    with pytest.raises(ValueError, match=r"sample_weight\[2\].*-0\.5"):
        fastloss.loss(name, y, raw, weight)
    with pytest.raises(ValueError, match=r"class_weight.*-0\.5"):
        fastloss.get_loss(name, class_weight=[1.0, -0.5, 2.0])
    for bad in (NAN, INF):
        allowed = {"allow_negative_weight": True} if name == "cross_entropy" else {}
        with pytest.raises(ValueError, match=r"sample_weight\[3\]"):
            fastloss.loss(name, y, raw, np.array([1.0, 1, 1, bad, 1]), **allowed)


# special values -------------------------------------------------------------------------------------------------


def one(loss, y, raw, dtype):
    """(loss, gradient, hessian) of a single sample, as a float and lists."""
    value, gradient, hessian = per_sample(loss, np.array([y]), np.array([raw], dtype))
    return float(value[0]), gradient[0].tolist(), hessian[0].tolist()


LN2 = math.log(2)
SPECIAL = [
    # the softmax family: (y, raw) -> loss, gradient
    ("cross_entropy", {}, 0, [INF, 0], 0, [0, 0]),
    ("cross_entropy", {}, 1, [INF, 0], INF, [1, -1]),
    ("cross_entropy", {}, 0, [-INF, 0], INF, [-1, 1]),
    ("cross_entropy", {}, 1, [-INF, 0], 0, [0, 0]),
    ("cross_entropy", {}, 0, [INF, INF], LN2, [-0.5, 0.5]),
    ("cross_entropy", {}, 2, [INF, 3, INF], LN2, [0.5, 0, -0.5]),
    ("cross_entropy", {}, 1, [INF, 3, INF], INF, [0.5, -1, 0.5]),
    ("cross_entropy", {}, 0, [0, -INF, 0], LN2, [-0.5, 0, 0.5]),
    ("cross_entropy", {}, 0, [5], 0, [0]),
    ("cross_entropy", {}, 0, [INF], 0, [0]),
    ("cross_entropy", {"label_smoothing": 0.5}, 0, [0, -INF, 0], LN2, [-0.25, 0, 0.25]),
    ("cross_entropy", {"label_smoothing": 0.5}, 0, [0, -INF], 0, [0, 0]),
    ("cross_entropy", {"label_smoothing": 0.5}, 1, [0, -INF], INF, [0.5, -0.5]),
    ("cross_entropy", {"label_smoothing": 0.5}, 0, [INF, 0], INF, [0.25, -0.25]),
    ("multiclass_focal", {}, 0, [INF, 0], 0, [0, 0]),
    ("multiclass_focal", {}, 1, [INF, 0], INF, [1, -1]),
    ("multiclass_focal", {}, 1, [0, -INF, 0], INF, [0.5, -1, 0.5]),
    ("multiclass_focal", {"gamma": 0.5}, 0, [INF, 0, -INF], 0, [0, 0, 0]),
    ("multiclass_focal", {"gamma": 0.0}, 0, [INF, 0], 0, [0, 0]),
    ("generalized_cross_entropy", {"q": 0.5}, 0, [INF, 0], 0, [0, 0]),
    ("generalized_cross_entropy", {"q": 0.5}, 1, [INF, 0], 2, [0, 0]),
    ("generalized_cross_entropy", {"q": 1.0}, 1, [0, -INF], 1, [0, 0]),
    ("sparsemax", {}, 0, [INF, 0], 0, [0, 0]),
    ("sparsemax", {}, 1, [INF, 0], INF, [1, -1]),
    ("sparsemax", {}, 2, [INF, 0, INF], 0.25, [0.5, 0, -0.5]),
    ("sparsemax", {}, 1, [0, -INF, 0], INF, [0.5, -1, 0.5]),
    ("sparsemax", {}, 0, [0, -INF, -INF], 0, [0, 0, 0]),
    ("entmax15", {}, 0, [INF, 0], 0, [0, 0]),
    ("entmax15", {}, 1, [INF, 0], INF, [1, -1]),
    ("entmax15", {}, 1, [0, -INF, 0, 0, 0], INF, [0.25, -1, 0.25, 0.25, 0.25]),
    ("multiclass_hinge", {}, 0, [INF, 0], 0, [0, 0]),
    ("multiclass_hinge", {}, 1, [INF, 0], INF, [1, -1]),
    ("multiclass_hinge", {}, 0, [0, -INF, -INF], 0, [0, 0, 0]),
    ("multiclass_hinge", {}, 1, [INF, 0, INF], INF, [0.5, -1, 0.5]),
    ("multiclass_hinge", {}, 0, [-INF, 0, -3], INF, [-1, 1, 0]),
    ("multiclass_squared_hinge", {}, 1, [INF, 0, INF], INF, [INF, -INF, INF]),
    ("multiclass_squared_hinge", {}, 0, [INF, 0], 0, [0, 0]),
]


@pytest.mark.parametrize(("name", "params", "y", "raw", "value", "gradient"), SPECIAL, ids=str)
def test_infinite_scores(dtype, isa, name, params, y, raw, value, gradient):
    got = one(fastloss.get_loss(name, **params), y, raw, dtype)
    assert got[0] == pytest.approx(value, rel=4 * float(np.finfo(dtype).eps), abs=0)
    np.testing.assert_allclose(got[1], gradient, rtol=4 * np.finfo(dtype).eps, atol=0)
    assert not np.isnan(got[2]).any()
    # among other rows, in the lanes of a vector, it is the same
    n, K = 37, len(raw)
    labels, rows = everyday(n, K, dtype)
    labels[[0, 17, 36]], rows[[0, 17, 36]] = y, raw
    found = per_sample(fastloss.get_loss(name, **params), labels, rows)
    for part, single in zip(found, got, strict=True):
        for i in (0, 17, 36):
            np.testing.assert_array_equal(part[i], np.array(single, dtype))


@pytest.mark.parametrize("case", list(every_case()), ids=label)
@pytest.mark.parametrize("K", [1, 2, 3, 10, 129])
def test_nan_spoils_its_row_only(case, dtype, isa, K):
    name, params, soft = case
    loss = fastloss.get_loss(name, **params)
    y, raw = everyday_soft(70, K, dtype) if soft else everyday(70, K, dtype)
    clean = per_sample(loss, y, raw)
    spoiled = [0, 13, 33, 69]
    for i, row in enumerate(spoiled):
        raw[row, [0, K // 2, K - 1, K // 3][i]] = NAN
        if i == 1:
            raw[row, 0] = NAN if K == 1 else INF
            raw[row, K // 2] = NAN
    for got, wanted in zip(per_sample(loss, y, raw), clean, strict=True):
        assert np.isnan(got[spoiled]).all()
        np.testing.assert_array_equal(np.delete(got, spoiled, axis=0), np.delete(wanted, spoiled, axis=0))
    assert math.isnan(loss.loss(y, raw))
    assert math.isnan(loss.loss(y, raw, reduction="sum"))


@pytest.mark.parametrize("name", [n for n in MULTICLASS if not ORACLES[n].margin])
@pytest.mark.parametrize("K", [1, 2, 5, 129])
def test_rows_without_any_class_are_nan(name, dtype, isa, K):
    y, raw = everyday(20, K, dtype)
    clean = per_sample(fastloss.get_loss(name), y, raw)
    raw[[3, 19]] = -INF
    for got, wanted in zip(per_sample(fastloss.get_loss(name), y, raw), clean, strict=True):
        assert np.isnan(got[[3, 19]]).all()
        np.testing.assert_array_equal(np.delete(got, [3, 19], axis=0), np.delete(wanted, [3, 19], axis=0))


def test_masked_classes_are_absent_classes(dtype, isa):
    """A score of -inf removes its class: the other classes see the same loss as without it, smoothing included."""
    y, raw = everyday(50, 4, dtype)
    wide = np.insert(raw, 2, -INF, axis=1)
    labels = y + (y >= 2)
    for name, params, _ in HARD_CASES:
        few = per_sample(fastloss.get_loss(name, **params), y, raw)
        many = per_sample(fastloss.get_loss(name, **params), labels, wide)
        np.testing.assert_allclose(many[0], few[0], **nearly(dtype))
        assert not many[1][:, 2].any()
        assert not many[2][:, 2].any()
        for a, b in zip(many[1:], few[1:], strict=True):
            np.testing.assert_allclose(np.delete(a, 2, axis=1), b, **nearly(dtype))


def test_soft_targets_with_masked_classes(dtype, isa):
    """0 * log 0 = 0; weight on a masked class costs infinitely much."""
    raw = np.array([[0, -INF, 0], [0, -INF, 0]], dtype)
    y = np.array([[0.5, 0, 0.5], [0.5, 0.25, 0.25]], dtype)
    value, gradient = fastloss.loss_gradient("cross_entropy", y, raw, reduction="none")
    np.testing.assert_allclose(value, [LN2, INF], rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(gradient, [[0, 0, 0], [0, -0.25, 0.25]], atol=4 * np.finfo(dtype).eps)


def test_soft_targets_need_not_sum_to_one(dtype, isa):
    """The loss is minus the sum of y log p; an empty target costs nothing."""
    y, raw = everyday_soft(40, 5, dtype)
    base = per_sample(fastloss.get_loss("cross_entropy"), y, raw)
    for factor in (0.0, 0.5, 4.0):  # powers of two: exact
        scaled = per_sample(fastloss.get_loss("cross_entropy"), y * dtype.type(factor), raw)
        for a, b in zip(scaled, base, strict=True):
            np.testing.assert_allclose(a, factor * b.astype(float), **nearly(dtype, 16))
    assert not any(part.any() for part in per_sample(fastloss.get_loss("cross_entropy"), np.zeros_like(y), raw))


def test_margin_exactly_one(dtype, isa):
    """At the kink the smallest subgradient, 0."""
    for name in ("multiclass_hinge", "multiclass_squared_hinge"):
        loss = fastloss.get_loss(name)
        assert one(loss, 1, [2, 3, -1], dtype) == (0, [0, 0, 0], [0, 0, 0])
        just = float(np.nextafter(dtype.type(3), dtype.type(0)))
        assert one(loss, 1, [2, just, -1], dtype)[0] > 0


def test_tied_runners_up_share(dtype, isa):
    third = float(dtype.type(1) / dtype.type(3))
    assert one(fastloss.get_loss("multiclass_hinge"), 1, [2, 1, 2, 2], dtype) == (
        2,
        [third, -1, third, third],
        [0, 0, 0, 0],
    )
    value, gradient, hessian = one(fastloss.get_loss("multiclass_squared_hinge"), 0, [0, 0.5, 0.5, -9], dtype)
    assert (value, gradient, hessian) == (2.25, [-3, 1.5, 1.5, 0], [2, 0.5, 0.5, 0])
    assert one(fastloss.get_loss("multiclass_hinge"), 0, [7, 7], dtype) == (1, [-1, 1], [0, 0])


def test_sparsemax_at_the_edge_of_the_support(dtype, isa):
    """A score that just touches the threshold has probability 0 and no part in the Hessian."""
    loss = fastloss.get_loss("sparsemax")
    assert one(loss, 0, [1, 0], dtype) == (0, [0, 0], [0, 0])
    assert one(loss, 1, [1, 0], dtype) == (1, [1, -1], [0, 0])


def test_sparsemax_by_hand(dtype, isa):
    loss = fastloss.get_loss("sparsemax")
    value, gradient, hessian = one(loss, 0, [0.5, 0, -3], dtype)  # p = (3/4, 1/4, 0)
    assert (value, gradient, hessian) == (0.0625, [-0.25, 0.25, 0], [0.5, 0.5, 0])
    value, gradient, hessian = one(loss, 2, [0.5, 0, -3], dtype)
    assert (value, gradient, hessian) == (3.5625, [0.75, 0.25, -1], [0.5, 0.5, 0])


def test_entmax_by_hand(dtype, isa):
    loss = fastloss.get_loss("entmax15")
    value, gradient, hessian = one(loss, 0, [0, 0, 0, 0], dtype)  # p = 1/4 each, s = 1/2
    assert value == pytest.approx(4 / 3 * (1 - 4 * 0.125), rel=4 * float(np.finfo(dtype).eps))
    np.testing.assert_allclose(gradient, [-0.75, 0.25, 0.25, 0.25], **nearly(dtype, 4))
    np.testing.assert_allclose(hessian, [0.5 - 0.25 / 2] * 4, **nearly(dtype, 4))
    assert one(loss, 0, [2, 0], dtype)[:2] == (0, [0, 0])  # as sure as it gets
    assert one(loss, 0, [2, 0], dtype)[2] == [0, 0]


def test_losses_are_never_negative(dtype, isa):
    for name, params, _ in HARD_CASES:
        for K in (2, 3, 10, 1000):
            y, raw = samples(name, dtype, K)
            value = fastloss.loss(name, y, raw, reduction="none", **params)
            assert np.all(np.isnan(value) | (value >= 0)), (name, params, K)


def test_certainty_costs_nothing(name, dtype, isa):
    raw = np.zeros((3, 4), dtype)
    raw[[0, 1, 2], [0, 1, 3]] = 1e5
    value, gradient, hessian = per_sample(fastloss.get_loss(name), np.array([0, 1, 3]), raw)
    assert not value.any()
    assert not gradient.any()
    assert not hessian.any()


# objects --------------------------------------------------------------------------------------------------------


def variants(name):
    """The loss with default parameters, with others, with class weights, with an ignored label."""
    grid = ORACLES[name].grid
    extra = [{"allow_negative_weight": True}] if name == "cross_entropy" else []
    common = [{"class_weight": (0.5, 1.0, 2.0)}, {"ignore_index": -100}, {"class_weight": (1.0,), "ignore_index": 0}]
    return [get_class(name)(**params) for params in ({}, *grid, *common, *extra)]


def test_repr_evaluates_to_an_equal_loss(name):
    for loss in variants(name):
        assert eval(repr(loss), vars(losses)) == loss
    assert repr(get_class(name)()) == get_class(name).__name__ + "()"
    assert "class_weight=(0.5, 1.0)" in repr(get_class(name)(class_weight=[0.5, 1]))
    assert "ignore_index=-100" in repr(get_class(name)(ignore_index=-100))


def test_equality_and_hash(name):
    one, two = variants(name), variants(name)
    for i, j in itertools.product(range(len(one)), repeat=2):
        assert (one[i] == two[j]) == (i == j)
        assert i != j or hash(one[i]) == hash(two[j])
    assert len({*one, *two}) == len(one)


def test_class_weight_is_a_tuple_of_floats(name):
    wanted = get_class(name)(class_weight=(1.0, 2.0, 0.5))
    for given in ([1, 2, 0.5], np.array([1, 2, 0.5]), np.array([1, 2, 0.5], np.float32), (np.int64(1), 2, 0.5)):
        for loss in (get_class(name)(class_weight=given), fastloss.get_loss(name, class_weight=given)):
            assert loss == wanted
            assert hash(loss) == hash(wanted)
            assert loss.class_weight == loss.params["class_weight"] == (1.0, 2.0, 0.5)
            assert all(type(c) is float for c in loss.class_weight)
    given = np.ones(3)
    loss = get_class(name)(class_weight=given)
    given[:] = 7
    assert loss.class_weight == (1.0, 1.0, 1.0)
    assert get_class(name)().class_weight is None
    integer = get_class(name)(ignore_index=np.int16(-3)).ignore_index
    assert type(integer) is int
    assert integer == -3


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(name, protocol):
    y, raw = everyday(20, 3)
    for loss in variants(name):
        again = pickle.loads(pickle.dumps(loss, protocol))
        assert again == loss
        assert dict(again.params) == dict(loss.params)
        if loss.class_weight is None or len(loss.class_weight) == 3:
            assert bits(again.loss(y, raw)) == bits(loss.loss(y, raw))


def test_copies(name):
    for loss in variants(name):
        assert copy.copy(loss) == copy.deepcopy(loss) == loss
        assert type(loss)(**loss.params) == loss


def test_losses_are_immutable(name):
    loss = get_class(name)(class_weight=[1.0, 2.0])
    for attribute in (*loss.params, "name", "something_new"):
        with pytest.raises(AttributeError):
            setattr(loss, attribute, 2.0)
    with pytest.raises(TypeError):
        get_class(name)(1.0)
