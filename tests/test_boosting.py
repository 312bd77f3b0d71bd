"""Losses as boosting objectives, without the hosts: derivatives, call forms, starting scores, metrics, errors.

tests/test_boosting_parity.py compares with LightGBM and XGBoost themselves.
"""

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from sklearn.base import clone

import fastloss
from fastloss import boosting, get_loss
from fastloss.losses import Loss

HOSTS = ("lightgbm", "xgboost")
FLOOR = 1e-16


@pytest.fixture(params=HOSTS)
def host(request):
    return request.param


def adapter(host, name, hessian="auto", n_threads=None, **params):
    return getattr(get_loss(name, **params), f"as_{host}")(hessian, n_threads=n_threads)


def data(name, n=200, K=4, dtype=np.float64, seed=0):
    """Targets of every kind, raw predictions on both sides of them."""
    rng = np.random.default_rng(seed)
    loss = get_loss(name)
    raw = rng.normal(0, 2, size=n).astype(dtype)
    if loss.kind == "multiclass":
        return rng.integers(0, K, n).astype(np.float32), rng.normal(0, 2, size=(n, K)).astype(dtype)
    if loss.kind == "binary":
        return rng.integers(0, 2, n).astype(np.float32), raw
    y = rng.gamma(2, 2, size=n).astype(np.float32)
    return y, abs(raw) if name == "msle" else raw


class Table:
    """What the hosts' data sets have in common."""

    def __init__(self, label, weight=None, group=None):
        self.get_label, self.get_weight, self.get_group = (lambda a=a: a for a in (label, weight, group))


# ------------------------------------------------------------------------------------------------- every loss
@pytest.mark.parametrize("name", fastloss.list_losses())
def test_every_loss(name, host, dtype):
    """The gradient is that of the sum; the hessian is finite, and positive wherever the gradient is not zero."""
    y, raw = data(name, dtype=dtype)
    weight = np.random.default_rng(1).uniform(0.5, 2, len(y)).astype(np.float32)
    objective = adapter(host, name)
    gradient, hessian = objective(y, raw, weight)
    assert gradient.dtype == hessian.dtype == dtype
    assert gradient.shape == hessian.shape == raw.shape
    np.testing.assert_array_equal(gradient, get_loss(name).gradient(y, raw, weight, reduction="sum"))
    assert np.isfinite(hessian).all()
    assert (hessian > 0).all()
    assert (hessian[abs(gradient) > 1e-3] > 4e-7).all()
    plain = objective(y, raw)
    columns = weight[:, None] if raw.ndim == 2 else weight
    np.testing.assert_allclose(gradient, plain[0] * columns, rtol=1e-5)
    np.testing.assert_allclose(hessian, plain[1] * columns, rtol=1e-5)


@pytest.mark.parametrize("name", fastloss.list_losses())
def test_threads_and_layouts_give_the_same_bits(name, host):
    y, raw = data(name, n=5000)
    weight = np.linspace(0.1, 2, len(y))
    first = adapter(host, name, n_threads=1)(y, raw, weight)
    spread = np.zeros((*raw.shape, 2), order="F")
    spread[..., 0] = raw
    for n_threads in (2, 3, 4):
        for scores in (raw, np.asfortranarray(raw), spread[..., 0]):
            again = adapter(host, name, n_threads=n_threads)(np.repeat(y, 3)[::3], scores, weight)
            np.testing.assert_array_equal(again[0], first[0])
            np.testing.assert_array_equal(again[1], first[1])


@pytest.mark.parametrize("name", ["log_loss", "tukey", "focal", "quantile", "cross_entropy", "multiclass_focal"])
def test_weight_zero_counts_for_nothing(name, host):
    y, raw = data(name, n=3)
    raw[1] = np.nan
    gradient, hessian = adapter(host, name)(y, raw, [1.0, 0.0, 2.0])
    assert not gradient[1].any()
    assert not hessian[1].any()
    assert gradient[[0, 2]].any()


@pytest.mark.parametrize("name", ["cross_entropy", "multiclass_focal", "multiclass_squared_hinge"])
def test_ignored_labels_count_for_nothing(name, host):
    y, raw = data(name, n=3)
    y[1], raw[1] = -1, np.nan
    gradient, hessian = adapter(host, name, ignore_index=-1)(y, raw)
    assert not gradient[1].any()
    assert (hessian[1] <= 1e-15).all()


@pytest.mark.parametrize("name", ["huber", "focal", "cross_entropy", "multiclass_focal"])
def test_no_samples_and_one(name, host):
    y, raw = data(name, n=1)
    objective = adapter(host, name)
    assert objective(y[:0], raw[:0])[0].shape == raw[:0].shape
    gradient, hessian = objective(y, raw)
    assert gradient.shape == raw.shape
    assert (hessian > 0).all()


# ------------------------------------------------------------------------------------------------- hessians
RESIDUALS = np.array([-300.0, -5.0, -1.0, -1e-3, 0.0, 1e-9, 0.5, 2.0, 40.0])
WEIGHTS_OF_RESIDUALS = {
    # gradient / residual, as textbooks on robust regression have it
    "huber": lambda r: np.minimum(1, 1 / np.maximum(abs(r), 1e-300)),
    "fair": lambda r: 1 / (1 + abs(r)),
    "cauchy": lambda r: 1 / (1 + r * r),
    "welsch": lambda r: np.exp(-(r * r)),
    "tukey": lambda r: np.where(abs(r) < 4.685, (1 - (r / 4.685) ** 2) ** 2, 0),
    "log_cosh": lambda r: np.tanh(r) / np.where(r == 0, 1, r) + (r == 0),
    "pseudo_huber": lambda r: 1 / np.sqrt(1 + r * r),
    "squared_error": np.ones_like,
}


@pytest.mark.parametrize("name", WEIGHTS_OF_RESIDUALS)
def test_hessians_of_robust_losses(name):
    host = "lightgbm" if name == "pseudo_huber" else "xgboost"  # not the one that has it built in
    _, hessian = adapter(host, name)(np.full(RESIDUALS.size, 7.0), 7 + RESIDUALS)
    np.testing.assert_allclose(hessian, np.maximum(WEIGHTS_OF_RESIDUALS[name](RESIDUALS), FLOOR), rtol=1e-6)


@pytest.mark.parametrize("name", WEIGHTS_OF_RESIDUALS)
@given(r=st.floats(-50, 50), other=st.floats(-50, 50))
def test_parabola_lies_above_a_robust_loss(name, r, other):
    host = "lightgbm" if name == "pseudo_huber" else "xgboost"
    gradient, hessian = adapter(host, name)(np.zeros(1), np.array([r]))
    at, there = (get_loss(name).loss([0.0], [x]) for x in (r, other))
    step = other - r
    assert there <= at + gradient[0] * step + 0.5 * hessian[0] * step**2 + 1e-9 * (1 + at)


OUTER = [
    # (loss, parameters, its f'(c) as a function of the cross-entropy c)
    ("focal", {}, lambda c: 2 * np.exp(-c) * -np.expm1(-c) * c + np.expm1(-c) ** 2),
    ("focal", {"gamma": 0.5}, lambda c: 0.5 * np.exp(-c) * c / np.sqrt(-np.expm1(-c)) + np.sqrt(-np.expm1(-c))),
    ("poly1", {"epsilon": 4.0}, lambda c: 1 + 4 * np.exp(-c)),
    ("multiclass_focal", {}, lambda c: 2 * np.exp(-c) * -np.expm1(-c) * c + np.expm1(-c) ** 2),
    ("generalized_cross_entropy", {}, lambda c: np.exp(-0.7 * c)),
]


@pytest.mark.parametrize(("name", "params", "slope"), OUTER, ids=[f"{name}-{params}" for name, params, _ in OUTER])
def test_hessians_of_functions_of_the_cross_entropy(name, params, slope, host):
    y, raw = data(name)
    p = special.expit(raw) if raw.ndim == 1 else special.softmax(raw, axis=1)
    own = np.where(y == 1, p, 1 - p) if raw.ndim == 1 else p[np.arange(len(y)), y.astype(int)]
    factor = {"lightgbm": 4 / 3, "xgboost": 2}[host] if raw.ndim == 2 else 1
    expected = factor * slope(-np.log(own)).reshape(-1, *[1] * (raw.ndim - 1)) * p * (1 - p)
    np.testing.assert_allclose(adapter(host, name, **params)(y, raw)[1], expected, rtol=1e-9)


def test_soft_labels_of_a_loss_that_is_not_convex(host):
    raw = np.array([-2.0, 0.3, 4.0])
    soft, one, zero = (adapter(host, "focal")(np.full(3, t), raw)[1] for t in (0.3, 1.0, 0.0))
    np.testing.assert_allclose(soft, 0.3 * one + 0.7 * zero, rtol=1e-12)


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_piecewise_linear_losses_have_hessian_one(kind, host):
    names = [name for name in fastloss.list_losses(kind=kind) if get_loss(name).piecewise_linear]
    assert names
    for name in names:
        y, raw = data(name)
        gradient, hessian = adapter(host, name)(y, raw)
        flat = FLOOR if host == "lightgbm" else np.finfo(np.float32).tiny
        expected = np.where(gradient != 0, 1, flat) if (host, name) == ("xgboost", "hinge") else 1
        np.testing.assert_array_equal(hessian, np.broadcast_to(expected, raw.shape))


@pytest.mark.parametrize(("name", "bound"), [("smooth_hinge", 1.0), ("modified_huber", 2.0)])
def test_straight_pieces_take_the_bound(name, bound, host):
    margins = np.array([-30.0, -5.0, 0.5, 5.0])
    _, hessian = adapter(host, name)(np.ones(4), margins)
    np.testing.assert_array_equal(hessian, [bound, bound, bound, FLOOR])


def test_hosts_own_hessians():
    y, raw = np.array([0.0, 2.0, 1.0]), np.random.default_rng(0).normal(size=(3, 3))
    p = special.softmax(raw, axis=1)
    for host, factor in (("lightgbm", 1.5), ("xgboost", 2.0)):
        np.testing.assert_allclose(adapter(host, "cross_entropy")(y, raw)[1], factor * p * (1 - p), rtol=1e-12)
        poisson = adapter(host, "poisson")(y, raw[:, 0])[1]
        np.testing.assert_allclose(poisson, np.exp(raw[:, 0] + 0.7), rtol=1e-12)
    np.testing.assert_array_equal(adapter("lightgbm", "huber")(np.zeros(2), [0.5, 90.0])[1], [1, 1])
    pseudo = adapter("xgboost", "pseudo_huber")(np.zeros(2), [0.5, 90.0])[1]
    np.testing.assert_allclose(pseudo, (1 + np.array([0.5, 90.0]) ** 2) ** -1.5, rtol=1e-12)


def test_hessians_by_name(host):
    y, raw = data("tukey")
    expected = get_loss("tukey").gradient_hessian(y, raw, reduction="none")[1]
    assert (expected < 0).any()
    np.testing.assert_array_equal(adapter(host, "tukey", "exact")(y, raw)[1], np.maximum(expected, FLOOR))
    assert (adapter(host, "tukey", "upper_bound")(y, raw)[1] == 1).all()
    np.testing.assert_allclose(adapter(host, "gamma", "fisher")(y, raw)[1], 1)
    labels, scores = data("cross_entropy")
    p = special.softmax(scores, axis=1)
    np.testing.assert_allclose(adapter(host, "cross_entropy", "exact")(labels, scores)[1], p * (1 - p), rtol=1e-12)


@pytest.mark.parametrize("name", ["negative_binomial", "tweedie"])
def test_log_likelihoods_take_the_expected_hessian(name, host):
    y, raw = data(name)
    params = {"power": 2.5} if name == "tweedie" else {}
    np.testing.assert_array_equal(
        adapter(host, name, **params)(y, raw)[1], adapter(host, name, "fisher", **params)(y, raw)[1]
    )


class Bare(Loss):
    """A loss of somebody else's: half the squared error, with no more than the methods of the face."""

    name = "bare"
    exact: bool = False

    def _make_kernel(self, values):
        return get_loss("squared_error")._kernel

    def _hessian_policy(self, hessian):
        raise ValueError("none")


def test_loss_without_hessians(host):
    gradient, hessian = getattr(Bare(), f"as_{host}")()([1.0, 2.0], [3.0, 3.0], [1.0, 5.0])
    np.testing.assert_array_equal(gradient, [2, 5])
    np.testing.assert_array_equal(hessian, [1, 5])


def test_a_name_alone_does_not_make_a_built_in(host):
    class Poisson(Bare):
        name = "poisson"

    assert "max_delta_step" not in Poisson().as_xgboost().params
    assert getattr(Poisson(), f"as_{host}")()([1.0], [1.0])[1] == 1


# ------------------------------------------------------------------------------------------------- whole batches
class Whole(Loss):
    """Stands for ranking losses: squared errors, and a group that is only noted."""

    name = "whole"
    kind = "batch"
    grouped = True
    seen = SimpleNamespace(group=None)

    def _make_kernel(self, values):
        return get_loss("squared_error")._kernel

    def loss(self, y_true, raw_prediction, sample_weight=None, *, group=None, n_threads=None):
        self.seen.group = group
        return super().loss(y_true, raw_prediction, sample_weight)

    def gradient_hessian(
        self, y_true, raw_prediction, sample_weight=None, *, group=None, hessian, reduction, n_threads=None
    ):
        self.seen.group = group
        if hessian != "upper_bound":
            raise ValueError(f"hessian={hessian!r}: whole has 'upper_bound'")
        found = super().gradient_hessian(y_true, raw_prediction, sample_weight, reduction=reduction)
        return found[0], -found[1]  # found to be positive


def test_losses_over_a_batch(host):
    y, raw, weight = np.array([0.0, 1.0, 4.0]), np.array([1.0, 1.0, 1.0]), np.array([1.0, 2.0, 3.0])
    objective = getattr(Whole(), f"as_{host}")()
    gradient, hessian = objective(raw, Table(y, weight, np.array([1, 2])))
    np.testing.assert_allclose(gradient, weight * (raw - y), rtol=1e-15)
    np.testing.assert_allclose(hessian, weight, rtol=1e-15)
    np.testing.assert_array_equal(Whole.seen.group, [1, 2])
    objective(y, raw, None, [3])
    np.testing.assert_array_equal(Whole.seen.group, [3])
    objective.metric(raw, Table(y, None, np.array([2, 1])))
    np.testing.assert_array_equal(Whole.seen.group, [2, 1])
    np.testing.assert_array_equal(objective.init_score(y), [0, 0, 0])
    refuses("sample_weight", objective, y, raw, -weight)
    refuses("whole has 'upper_bound'", getattr(Whole(), f"as_{host}")("exact"), y, raw)


def test_a_loss_for_each_column():
    """As MultiTaskLoss has; NaN is a target that is not known."""

    class Columns(Bare):
        kind = "multitask"
        column_losses = (get_loss("squared_error"), get_loss("log_loss"), get_loss("quantile"))

    y = np.array([[1.0, 1.0, np.nan], [np.nan, 0.0, np.nan], [5.0, 1.0, np.nan]])
    start = Columns().as_xgboost().init_score(y, [1.0, 2.0, 3.0])
    np.testing.assert_allclose(start, np.tile([4.0, np.log(2), 0.0], (3, 1)), rtol=1e-14)


def test_groups_are_nothing_to_other_losses(host):
    y, raw = data("log_loss")
    grouped = adapter(host, "log_loss")(y, raw, None, [150, 50])
    np.testing.assert_array_equal(grouped[0], adapter(host, "log_loss")(y, raw)[0])


def test_weights_of_groups():
    """XGBoost's rankers have one for each group."""
    raw = np.zeros(3)
    table = Table(np.ones(3), np.array([2.0, 5.0]), np.array([1, 2]))
    np.testing.assert_array_equal(adapter("xgboost", "squared_error")(raw, table)[0], [-2, -5, -5])


# ------------------------------------------------------------------------------------------------- call forms
@pytest.mark.parametrize("name", ["huber", "log_loss", "cross_entropy"])
@pytest.mark.parametrize("weighted", [False, True])
def test_both_call_forms(name, weighted, host):
    y, raw = data(name)
    weight = np.linspace(0.5, 1.5, len(y), dtype=np.float32) if weighted else None
    expected = adapter(host, name)(y, raw, weight)
    none = None if host == "lightgbm" else np.empty(0, np.float32)  # how the hosts say that there are no weights
    table = Table(y, weight if weighted else none, none)
    for got in (adapter(host, name)(raw, table), adapter(host, name)(y.tolist(), raw.tolist(), weight)):
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1], expected[1])
    if host == "xgboost":
        keyword = adapter(host, name)(y, raw, sample_weight=weight)
        np.testing.assert_array_equal(keyword[0], expected[0])


def test_flat_scores_of_old_lightgbm():
    y, raw = data("cross_entropy")
    expected = adapter("lightgbm", "cross_entropy")(y, raw)
    got = adapter("lightgbm", "cross_entropy")(raw.ravel("F"), Table(y))
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other.ravel("F"))
    value = adapter("lightgbm", "cross_entropy").metric(raw.ravel("F"), Table(y))[1]
    assert value == get_loss("cross_entropy").loss(y, raw)


def test_several_outputs():
    rng = np.random.default_rng(0)
    y, raw, weight = rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), rng.random(5)
    gradient, hessian = adapter("xgboost", "log_cosh")(raw, Table(y, weight))
    np.testing.assert_allclose(gradient, weight[:, None] * np.tanh(raw - y), rtol=1e-12)
    np.testing.assert_allclose(hessian, weight[:, None] * np.tanh(raw - y) / (raw - y), rtol=1e-12)
    start = adapter("xgboost", "squared_error").init_score(y, weight)
    np.testing.assert_allclose(start, np.tile(np.average(y, axis=0, weights=weight), (5, 1)), rtol=1e-12)


# ------------------------------------------------------------------------------------------------- starting scores
def test_starts_of_the_hosts():
    rng = np.random.default_rng(0)
    weight, y, labels = rng.uniform(0.5, 2, 300), rng.gamma(2, 3, 300), rng.integers(0, 2, 300)
    mean, share = np.average(y, weights=weight), np.average(labels, weights=weight)
    for name in ("squared_error", "huber", "fair"):
        assert adapter("lightgbm", name).init_score(y, weight)[0] == pytest.approx(mean, rel=1e-14)
    for host in HOSTS:
        assert adapter(host, "gamma").init_score(y, weight)[0] == pytest.approx(np.log(mean), rel=1e-14)
        for y_true in (labels, 2 * labels - 1):
            assert adapter(host, "log_loss").init_score(y_true, weight)[0] == pytest.approx(special.logit(share))
    single = adapter("lightgbm", "squared_error").init_score(y, weight.astype(np.float32))[0]
    assert single == pytest.approx(np.average(y, weights=weight.astype(np.float32).astype(float)), rel=1e-14)
    # LightGBM leaves scale_pos_weight out of it, XGBoost takes a Newton step from 0
    weighted = adapter("lightgbm", "log_loss", pos_weight=3.0).init_score(labels)[0]
    assert weighted == pytest.approx(special.logit(labels.mean()))
    step = 4 * (3 * labels.sum() / (3 * labels.sum() + (1 - labels).sum()) - 0.5)
    assert adapter("xgboost", "log_loss", pos_weight=3.0).init_score(labels)[0] == pytest.approx(step)
    root = np.sqrt(1 + y * y)
    step = np.sum(y / root) / np.sum(root**-3)
    assert adapter("xgboost", "pseudo_huber").init_score(y)[0] == pytest.approx(step)


def test_starts_of_classes():
    y, weight = np.array([0, 0, 1, 3, 3, 3]), np.array([1.0, 1, 2, 1, 1, 2])
    logs = np.log(np.maximum(np.array([2, 2, 0, 4]) / 8, 1e-15))
    start = adapter("lightgbm", "cross_entropy").init_score(y, weight)
    np.testing.assert_allclose(start, np.tile(logs, (6, 1)), rtol=1e-14)
    centred = adapter("xgboost", "cross_entropy").init_score(y[:5], n_classes=4)
    assert centred.shape == (5, 4)
    assert abs(centred.sum(axis=1)).max() < 1e-12
    ignoring = adapter("lightgbm", "cross_entropy", ignore_index=3).init_score(np.array([0, 1, 1, 3]), n_classes=2)
    np.testing.assert_allclose(ignoring, np.tile(np.log([1 / 3, 2 / 3]), (4, 1)), rtol=1e-14)
    by_class = adapter("lightgbm", "cross_entropy", class_weight=[4, 1]).init_score(np.array([0, 1, 1, 1]))
    np.testing.assert_allclose(by_class[0], np.log([4 / 7, 3 / 7]), rtol=1e-14)
    soft = adapter("xgboost", "cross_entropy").init_score(np.array([[0.25, 0.75], [0.75, 0.25]]))
    np.testing.assert_allclose(soft, np.zeros((2, 2)), atol=1e-15)


OWN_START = [
    (host, name)
    for host in HOSTS
    for name in fastloss.list_losses(kind="regression") + fastloss.list_losses(kind="binary")
    if name not in getattr(boosting, host.upper()) and get_loss(name).convex
]


@pytest.mark.parametrize(("host", "name"), OWN_START)
def test_other_starts_are_the_best_constants(host, name):
    loss = get_loss(name)
    y, _ = data(name)
    start = adapter(host, name).init_score(y)
    best = loss.loss(y, start)
    assert start.shape == y.shape
    assert np.ptp(start) == 0
    for step in (1e-3, 0.1, 1.0):
        assert best <= loss.loss(y, start - step) + 1e-12
        assert best <= loss.loss(y, start + step) + 1e-12


# ------------------------------------------------------------------------------------------------- metric, predict
def test_metrics():
    y, raw = data("log_loss")
    weight = np.linspace(0.5, 1.5, len(y))
    value = get_loss("log_loss").loss(y, raw, weight)
    metric = adapter("lightgbm", "log_loss").metric
    assert metric(y, raw, weight) == metric(raw, Table(y, weight)) == ("log_loss", value, False)
    metric = adapter("xgboost", "log_loss").metric
    assert metric(y, raw, sample_weight=weight) == value
    assert metric(raw, Table(y, weight)) == ("log_loss", value)
    assert metric.__name__ == "log_loss"


def test_predictions(host):
    raw = np.array([-1.0, 0.0, 2.0])
    np.testing.assert_array_equal(adapter(host, "log_loss").predict(raw), special.expit(raw))
    np.testing.assert_array_equal(adapter(host, "poisson").predict(raw), np.exp(raw))


def test_parameters():
    objective = adapter("xgboost", "poisson")
    assert objective.params == {"disable_default_eval_metric": True, "max_delta_step": 0.7}
    assert adapter("xgboost", "huber").params == {"disable_default_eval_metric": True}
    objective = adapter("lightgbm", "poisson")
    assert objective.params == {"objective": objective}


# ------------------------------------------------------------------------------------------------- objects
def test_copies(host):
    objective = adapter(host, "focal", "auto", 2, gamma=1.5)
    for twin in (copy.deepcopy(objective), pickle.loads(pickle.dumps(objective)), clone(objective, safe=False)):
        assert twin == objective
        assert hash(twin) == hash(objective)
        np.testing.assert_array_equal(twin([1.0], [0.3]), objective([1.0], [0.3]))
        assert pickle.loads(pickle.dumps(twin.metric)) == objective.metric
    assert objective != adapter(host, "focal", gamma=1.5)
    assert "Focal(gamma=1.5)" in repr(objective)
    with pytest.raises(AttributeError):
        objective.hessian = "exact"


# ------------------------------------------------------------------------------------------------- wrong use
def refuses(text, call, *arguments, error=ValueError):
    with pytest.raises(error) as caught:
        call(*arguments)
    assert text in str(caught.value)


def test_wrong_shapes(host):
    word = {"lightgbm": "LightGBM", "xgboost": "XGBoost"}[host]
    scores = np.zeros((3, 2))
    refuses(f"(3,), got (3, 2); num_class among {word}'s", adapter(host, "huber"), np.zeros(3), scores)
    refuses(
        "raw_prediction must have shape (3, K), got (3,); num_class",
        adapter(host, "cross_entropy"),
        [0, 1, 1],
        np.zeros(3),
    )
    refuses("must have shape (4, K), got (3, 2)", adapter(host, "cross_entropy"), [0, 1, 1, 0], scores)
    refuses("raw_prediction must have y_true's shape (3,), got (4,)", adapter(host, "huber"), np.zeros(3), np.zeros(4))
    refuses("got (3,)", adapter(host, "huber").metric, np.zeros(4), np.zeros(3))
    refuses("y_true must have shape (n,", adapter(host, "huber"), np.zeros((2, 2, 2)), np.zeros((2, 2, 2)))


def test_lightgbm_has_one_output():
    objective, y = adapter("lightgbm", "huber"), np.zeros((3, 2))
    refuses("LightGBM trains a single output; got (3, 2)", objective, y, y)
    refuses("LightGBM trains a single output; got (3, 2)", objective.init_score, y)
    refuses("LightGBM trains a single output; got (3, 2)", objective.metric, y, y)


def test_targets_outside_the_domain(host):
    for call in (lambda y: adapter(host, "poisson")(y, np.zeros(3)), adapter(host, "poisson").init_score):
        refuses("numbers >= 0", call, np.array([1.0, -2.0, -3.0]))
    refuses("y_true[1]", adapter(host, "log_loss").init_score, np.array([1.0, 7.0]))
    refuses("y_true[2]", adapter(host, "cross_entropy").init_score, np.array([0, 1, -1]))
    refuses("y_true[1]", lambda: adapter(host, "cross_entropy").init_score([0, 5], n_classes=3))
    for label in (np.nan, np.inf, -np.inf, 0.5):
        refuses("y_true[1]", adapter(host, "cross_entropy").init_score, [3, label])


def test_wrong_weights(host):
    refuses("sample_weight", adapter(host, "huber"), np.zeros(2), np.zeros(2), [1.0, -1.0])
    refuses("weight is above 0, got none", adapter(host, "huber").init_score, np.zeros(2), [0.0, 0.0])
    refuses("weight is above 0, got none", adapter(host, "huber").init_score, np.zeros(0))
    refuses("sample_weight", adapter(host, "huber"), np.zeros(2), np.zeros(2), [1.0])


@pytest.mark.parametrize(
    ("name", "y", "raw"), [("huber", 0.0, np.nan), ("poisson", 1.0, 800.0), ("msle", 1.0, -1.0), ("huber", np.nan, 0.0)]
)
def test_derivatives_that_are_not_finite(name, y, raw, host):
    refuses("of sample 1 not finite", adapter(host, name), [1.0, y, y], [0.0, raw, raw])


def test_wrong_options(host):
    refuses(
        "hessian must be one of 'auto', 'exact', 'fisher', 'upper_bound', got 'newton'",
        adapter,
        host,
        "huber",
        "newton",
    )
    refuses("hessian='fisher': huber has 'exact', 'upper_bound'", adapter, host, "huber", "fisher")
    start = adapter(host, "cross_entropy").init_score
    refuses("n_classes must be None or an integer >= 1, got 0", lambda: start([0, 1], n_classes=0))
    refuses("integer", lambda: start([0, 1], n_classes=2.0), error=TypeError)
    refuses("n_threads", adapter(host, "huber", "auto", -1), [0.0], [1.0])
