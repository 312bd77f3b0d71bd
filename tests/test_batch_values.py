"""Losses over a whole batch are what their papers say, and their derivatives are derivatives."""

import mpmath
import numpy as np
import pytest
import slow_batch
from batch_cases import BATCH, CASES, OVERLAPS, batch, label
from hypothesis import given, settings
from hypothesis import strategies as st

import fastloss


@pytest.fixture(params=CASES, ids=label)
def batch_case(request):
    return request.param


def both(name, params, y, raw, weight, **keywords):
    """Ours and the textbook's (value, gradient, hessian)."""
    loss = fastloss.get_loss(name, **params)
    value, gradient = loss.loss_gradient(y, raw, weight, **keywords)
    hessian = loss.gradient_hessian(y, raw, weight, **keywords)[1]
    given = (y, np.asarray(raw, float), weight, keywords.get("group"))
    return (value, gradient, hessian), (
        slow_batch.value(name, *given, **params),
        *slow_batch.derivatives(name, *given, **params),
    )


def test_every_loss_has_a_case():
    assert {name for name, _ in CASES} == set(BATCH)


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_value_and_derivatives(batch_case, dtype, isa, weighted):
    name, params = batch_case
    y, raw, weight, keywords = batch(name, 23, seed=1, dtype=dtype)
    ours, textbook = both(name, params, y, raw, weight if weighted else None, **keywords)
    rounding = np.finfo(dtype).eps
    assert ours[0] == pytest.approx(textbook[0], rel=1e-13)
    assert ours[1].dtype == ours[2].dtype == dtype
    for mine, exact in zip(ours[1:], textbook[1:], strict=True):
        scale = np.abs(exact).max() + abs(textbook[0])
        np.testing.assert_allclose(mine, exact, rtol=rounding, atol=1e-10 * scale)


def in_groups(group, *arrays):
    """The parts of the arrays, group by group."""
    return list(zip(*(np.split(np.asarray(array), np.cumsum(group)[:-1]) for array in arrays), strict=True))


@settings(max_examples=60)
@given(data=st.data())
def test_any_batch(data):
    """Small batches of any labels, grades, ties, weights and groups."""
    name, params = data.draw(st.sampled_from(CASES))
    loss = fastloss.get_loss(name, **params)
    n = data.draw(st.integers(1, 9))
    y = data.draw(st.lists(st.integers(0, 3 if loss.grouped else 1), min_size=n, max_size=n))
    raw = np.array(data.draw(st.lists(st.integers(-12, 12), min_size=n, max_size=n))) / 4
    weight = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))) / 2
    keywords = {}
    if loss.grouped:
        cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=3)))
        keywords["group"] = np.diff([0, *cuts, n])
    total = loss.loss(y, raw, weight, reduction="sum", **keywords)
    assert np.isfinite(total)
    counts = weight > 0
    if name in ("pairwise_auc", "pairwise_logistic"):
        defined = any(len(set(part[there])) > 1 for part, there in in_groups(keywords.get("group", [n]), y, counts))
    else:
        defined = counts.any()
    if not defined:
        assert total == 0
        with pytest.raises(ValueError, match="reduction='mean' is not defined"):
            loss.loss(y, raw, weight, **keywords)
        return
    exact = slow_batch.value(name, y, raw, weight, keywords.get("group"), **params)
    if name in OVERLAPS and not np.any(np.array(y)[counts]) and not params.get("smooth"):
        exact = 1.0
    assert loss.loss(y, raw, weight, **keywords) == pytest.approx(exact, rel=1e-12, abs=1e-14)


# the ROC curve --------------------------------------------------------------------------------------------------


def pairs_one_by_one(y, raw, weight, surrogate):
    """Value, gradient and hessian over the matrix of all pairs."""
    up, down = np.flatnonzero(y > 0), np.flatnonzero(y <= 0)
    margin = raw[up][:, None].astype(float) - raw[down][None, :]  # rounded once; all that follows in long double
    slack = 1 - margin.astype(np.longdouble)
    w = np.outer(weight[up], weight[down])
    w = w / w.sum()
    lost, slope, bend = {
        "squared_hinge": (np.maximum(slack, 0) ** 2, -2 * np.maximum(slack, 0), 2.0 * (slack > 0)),
        "hinge": (np.maximum(slack, 0), -1.0 * (slack > 0), 0 * slack),
    }[surrogate]
    gradient, hessian = np.zeros(len(y)), np.zeros(len(y))
    gradient[up], gradient[down] = (w * slope).sum(axis=1), -(w * slope).sum(axis=0)
    hessian[up], hessian[down] = (w * bend).sum(axis=1), (w * bend).sum(axis=0)
    return float((w * lost).sum()), gradient, hessian


SCORES = {
    "spread": lambda rng, n: rng.normal(size=n),
    "ties": lambda rng, n: rng.integers(-12, 12, n) / 4,
    "tenths": lambda rng, n: np.round(rng.normal(size=n), 1),  # many margins of 1, up to rounding
    "all equal": lambda rng, n: np.full(n, 0.3),
    "offset": lambda rng, n: rng.normal(size=n) + 1e9,
    "far apart": lambda rng, n: rng.normal(size=n) * 1e8,
    "nearly separated": lambda rng, n: rng.normal(size=n) * 1e3,
    "heavy tails": lambda rng, n: rng.standard_cauchy(n) ** 3,
    "tiny": lambda rng, n: rng.normal(size=n) * 1e-200,
}


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("surrogate", ["squared_hinge", "hinge"])
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_auc_by_sorting_is_the_sum_over_all_pairs(scores, surrogate, weighted, dtype):
    n = 2000
    rng = np.random.default_rng(3)
    y = rng.random(n) < 0.3
    raw = SCORES[scores](rng, n)
    if scores == "nearly separated":  # few pairs count, each little: where differences of large sums would fail
        raw = np.where(y, abs(raw), -abs(raw)) + rng.normal(size=n)
    raw = raw.astype(dtype)
    weight = rng.integers(0, 4, n) * rng.random(n) if weighted else np.ones(n)
    value, gradient, hessian = pairs_one_by_one(y, raw, weight, surrogate)
    loss = fastloss.get_loss("pairwise_auc", surrogate=surrogate)
    mine = loss.loss_gradient(y, raw, weight)
    assert mine[0] == pytest.approx(value, rel=1e-12, abs=0)
    rounding = max(1e-12, np.finfo(dtype).eps)
    np.testing.assert_allclose(mine[1], gradient, rtol=rounding, atol=1e-300 if dtype == "float64" else 1e-45)
    np.testing.assert_allclose(loss.gradient_hessian(y, raw, weight)[1], hessian, rtol=rounding)
    assert abs(mine[1].sum(dtype=float)) <= rounding * np.abs(mine[1]).sum(dtype=float)


def test_auc_of_a_million_rows():
    """Scores of few values: the exact sums are those over pairs of values, in integers."""
    rng = np.random.default_rng(0)
    y, step = rng.random(1_000_000) < 0.3, rng.integers(-200, 200, 1_000_000)
    values = np.arange(-200, 200)
    up, down = (np.bincount(step[side] + 200, minlength=400).astype(object) for side in (y, ~y))
    slack = np.maximum(64 - (values[:, None] - values[None, :]), 0).astype(object)  # in units of 1/64
    total = int(up @ (slack**2 @ down))
    value, gradient = fastloss.loss_gradient("pairwise_auc", y, step / 64, reduction="sum")
    assert value == pytest.approx(total / 64**2, rel=1e-12)
    slopes = -2 * (slack @ down).astype(float) / 64
    np.testing.assert_allclose(gradient[y], slopes[step[y] + 200], rtol=1e-12)
    assert abs(gradient.sum()) < 1e-12 * np.abs(gradient).sum()


@pytest.mark.parametrize("offset", [0.0, 0.1, 0.7, 1e3 / 3, -1e7 / 7])
def test_margin_of_exactly_one_has_no_gradient(offset):
    """The rounded difference of a pair decides."""
    rng = np.random.default_rng(0)
    below = offset + rng.integers(0, 50, 400) / 10
    above = np.concatenate([below + 1, np.nextafter(below + 1, -np.inf), np.nextafter(below + 1, np.inf)])
    y, raw = np.repeat([0, 1], [len(below), len(above)]), np.concatenate([below, above])
    counts = above[:, None] - below[None, :] < 1
    gradient = fastloss.gradient("pairwise_auc", y, raw, surrogate="hinge", reduction="sum")
    assert gradient[: len(below)].tolist() == counts.sum(axis=0).tolist()
    assert gradient[len(below) :].tolist() == (-counts.sum(axis=1)).tolist()


@pytest.mark.parametrize("surrogate", ["squared_hinge", "hinge"])
def test_no_loss_is_no_gradient(surrogate, dtype):
    """Value, gradient and hessian of a pair are those of the same rounded margin."""
    loss = fastloss.get_loss("pairwise_auc", surrogate=surrogate)
    tenths = np.arange(-20, 21) / 10
    for low in tenths.astype(dtype):
        for high in (tenths + 1).astype(dtype):
            raw = np.array([high, low], dtype)
            value, gradient = loss.loss_gradient([1, 0], raw)
            short = float(high) - float(low) < 1
            assert (value > 0) == short
            assert gradient.any() == short
            bend = loss.gradient_hessian([1, 0], raw)[1]
            assert bend.tolist() == [2.0 * (short and surrogate == "squared_hinge")] * 2
    assert loss.loss_gradient([1, 0], [0.3, -0.7])[1].tolist() == [0, 0]


@pytest.mark.parametrize("shares", [(3, 5000), (5000, 3), (700, 900), (1, 1)])
def test_logistic_auc(shares):
    """Blocks, stretches and which class is the rarer make no difference."""
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat([1, 0], shares))
    raw, weight = rng.normal(size=len(y)) * 3, rng.random(len(y))
    up, down = y > 0, y == 0
    d = raw[up][:, None] - raw[down][None, :]
    w = np.outer(weight[up], weight[down])
    slope = -w / (1 + np.exp(d))
    loss = fastloss.get_loss("pairwise_auc", surrogate="logistic")
    value, gradient = loss.loss_gradient(y, raw, weight, reduction="sum")
    assert value == pytest.approx(np.sum(w * np.logaddexp(0, -d)), rel=1e-13)
    np.testing.assert_allclose(gradient[up], slope.sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(gradient[down], -slope.sum(axis=0), rtol=1e-12)
    hessian = loss.gradient_hessian(y, raw, weight, reduction="sum")[1]
    np.testing.assert_allclose(hessian[up], (w / (2 + 2 * np.cosh(d))).sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(hessian[down], (w / (2 + 2 * np.cosh(d))).sum(axis=0), rtol=1e-12)


def test_hinges_bound_the_area():
    """The mean over pairs of a surrogate that is nowhere below 1{d <= 0} is nowhere below 1 - AUC."""
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    for scale in (0.1, 1, 10):
        y, weight = rng.integers(0, 2, 300), rng.random(300)
        raw = scale * (rng.normal(size=300) + y)
        lost = 1 - roc_auc_score(y, raw, sample_weight=weight)
        for surrogate in ("hinge", "squared_hinge"):
            assert fastloss.loss("pairwise_auc", y, raw, weight, surrogate=surrogate) >= lost


def test_huge_scores_overflow_to_infinity():
    """Not to NaN, the difference of two infinities."""
    for raw, expected in (([-1e200, 1e200, 1e200, 2e200], np.inf), ([-1e308, 1e308, 1e308, -1e308], np.inf)):
        assert fastloss.loss("pairwise_auc", [1, 0, 0, 0], raw) == expected
    assert fastloss.loss("pairwise_auc", [1, 0], [-1e300, 1e300], surrogate="hinge") == 2e300
    assert fastloss.loss("pairwise_auc", [1, 0], [1e308, -1e308]) == 0


# ranking --------------------------------------------------------------------------------------------------------


def test_ndcg_is_approached():
    """With a low temperature and distinct scores the smooth NDCG is scikit-learn's."""
    from sklearn.metrics import ndcg_score

    rng = np.random.default_rng(0)
    groups = [3, 12, 40]
    y = rng.integers(0, 5, sum(groups))
    raw = rng.permutation(sum(groups)) / 4.0
    ends = np.cumsum(groups)
    spans = [slice(end - size, end) for size, end in zip(groups, ends, strict=True)]
    lost = [1 - ndcg_score([2.0 ** y[span] - 1], [raw[span]]) for span in spans]
    loss = fastloss.get_loss("approx_ndcg", temperature=1e-3)
    assert loss.loss(y, raw, group=groups) == pytest.approx(np.mean(lost), rel=1e-12)
    assert loss.loss(y, raw, group=groups, reduction="sum") == pytest.approx(np.sum(lost), rel=1e-12)


def test_long_groups_are_cut_into_blocks():
    """Groups longer than a block of the kernel: the pairs of both are the sums over blocks."""
    rng = np.random.default_rng(0)
    n = 2500
    y, raw = rng.integers(0, 3, n), rng.normal(size=n)
    higher = y[:, None] > y[None, :]
    d = raw[:, None] - raw[None, :]
    slope = np.where(higher, -1 / (1 + np.exp(d)), 0)
    value, gradient = fastloss.loss_gradient("pairwise_logistic", y, raw)
    assert value == pytest.approx(np.mean(np.logaddexp(0, -d[higher])), rel=1e-12)
    slopes = (slope.sum(axis=1) - slope.sum(axis=0)) / higher.sum()
    np.testing.assert_allclose(gradient, slopes, rtol=1e-11, atol=1e-11 / higher.sum())

    ranks = 1 + (1 / (1 + np.exp(d / 0.1))).sum(axis=1) - 0.5
    gains = 2.0**y - 1
    ideal = np.sum(np.sort(gains)[::-1] / np.log2(np.arange(2, n + 2)))
    assert fastloss.loss("approx_ndcg", y, raw) == pytest.approx(
        1 - np.sum(gains / np.log2(1 + ranks)) / ideal, rel=1e-12
    )

    rank = np.argsort(np.argsort(-raw))
    discount = 1 / np.log2(2 + rank)
    top = np.sum(np.sort(gains)[::-1][:30] / np.log2(np.arange(2, 32)))
    counts = higher & (np.minimum(rank[:, None], rank[None, :]) < 30)
    change = abs(gains[:, None] - gains[None, :]) * abs(discount[:, None] - discount[None, :]) / top
    slope = np.where(counts, -change / (1 + np.exp(d)), 0)
    gradient = fastloss.gradient("lambdarank", y, raw, normalize=False)
    np.testing.assert_allclose(gradient, slope.sum(axis=1) - slope.sum(axis=0), rtol=1e-10, atol=1e-12)


def row_by_row(y, raw, change_of):
    """Value, and gradient, of pairs (grade i > grade j) with weights change_of(i), by rows of the matrix of pairs."""
    value, gradient = 0.0, np.zeros(len(y))
    for i in range(len(y)):
        lower = np.flatnonzero(y < y[i])
        d, weight = raw[i] - raw[lower], change_of(i)[lower]
        slope = -weight / (1 + np.exp(d))
        value += np.sum(weight * np.logaddexp(0, -d))
        gradient[i] += slope.sum()
        gradient[lower] -= slope
    return value, gradient


def test_long_groups_are_walked_in_stretches():
    """A group of more pairs than are computed between two looks at pending signals, beside short ones."""
    rng = np.random.default_rng(0)
    n = 6000
    y, raw = rng.integers(0, 3, n), rng.normal(size=n)
    value, gradient = row_by_row(y, raw, lambda i: np.ones(n))
    two = np.append(y, [1, 0]), np.append(raw, [0, 0])
    mine = fastloss.loss_gradient("pairwise_logistic", *two, group=[n, 2], reduction="sum")
    assert mine[0] == pytest.approx(value + np.log(2), rel=1e-12)
    np.testing.assert_allclose(mine[1], np.append(gradient, [-0.5, 0.5]), rtol=1e-10, atol=1e-10)

    gains, rank = 2.0**y - 1, np.argsort(np.argsort(-raw))
    discount, best = 1 / np.log2(2 + rank), np.sum(np.sort(gains)[::-1] / np.log2(np.arange(2, n + 2)))
    exact = row_by_row(y, raw, lambda i: abs((gains[i] - gains) * (discount[i] - discount)) / best)
    mine = fastloss.loss_gradient("lambdarank", y, raw, normalize=False, truncation=n)
    assert mine[0] == pytest.approx(exact[0], rel=1e-12)
    np.testing.assert_allclose(mine[1], exact[1], rtol=1e-9, atol=1e-13)

    sharp = 4 * raw  # temperature 1/4
    ranks = np.array([0.5 + np.sum(1 / (1 + np.exp(s - sharp))) for s in sharp])
    slope = gains / best / np.log2(1 + ranks) ** 2 / ((1 + ranks) * np.log(2))
    value, gradient = fastloss.loss_gradient("approx_ndcg", y, raw, temperature=0.25)
    assert value == pytest.approx(1 - np.sum(gains / np.log2(1 + ranks)) / best, rel=1e-12)
    exact = [np.sum((slope - slope[i]) / (2 + 2 * np.cosh(sharp - sharp[i]))) * 4 for i in range(0, n, 50)]
    np.testing.assert_allclose(gradient[::50], exact, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("normalize", [True, False])
def test_lambdarank_is_lightgbms(normalize):
    """As a custom objective it grows LightGBM's own trees (whose sigmoids come from a table, in float32)."""
    lgb = pytest.importorskip("lightgbm", reason="compares with LightGBM's own lambdarank")
    rng = np.random.default_rng(0)
    groups = rng.integers(1, 40, 60)
    n = int(groups.sum())
    X = rng.normal(size=(n, 5))
    y = np.clip(np.round(X[:, 0] + rng.normal(size=n)), 0, 4).astype(int)
    loss = fastloss.get_loss("lambdarank", normalize=normalize, truncation=10)
    shared = {"verbose": -1, "num_threads": 1, "min_data_in_leaf": 5, "num_leaves": 7, "deterministic": True, "seed": 0}

    def objective(raw, data):
        return loss.gradient_hessian(y, raw, group=groups, reduction="sum")

    trees = {}
    for name, params in {
        "theirs": {"objective": "lambdarank", "lambdarank_truncation_level": 10, "lambdarank_norm": normalize},
        "ours": {"objective": objective},
    }.items():
        data = lgb.Dataset(X, y, group=groups, params={"verbose": -1})
        trees[name] = lgb.train({**shared, **params}, data, num_boost_round=10).predict(X, raw_score=True)
    np.testing.assert_allclose(trees["ours"], trees["theirs"], atol=2e-4 * np.ptp(trees["theirs"]))


def test_zeros_of_both_signs_are_equal_scores():
    """Ranked in the order of rows."""
    y = [0, 1, 0, 2]
    expected = fastloss.gradient("lambdarank", y, [0.0, 0.0, 0.0, 1.0])
    for raw in ([-0.0, 0.0, -0.0, 1.0], [0.0, -0.0, 0.0, 1.0]):
        assert fastloss.gradient("lambdarank", y, raw).tolist() == expected.tolist()


def test_truncation_may_be_any_number():
    y, raw = [0, 2, 1], [0.3, 0.2, 0.1]
    assert fastloss.loss("lambdarank", y, raw, truncation=10**30) == fastloss.loss("lambdarank", y, raw, truncation=3)


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_pairwise_logistic_of_two_grades_is_the_logistic_auc(weighted):
    y, raw, weight, _ = batch("pairwise_auc", 60)
    weight = weight if weighted else None
    for reduction in ("mean", "sum"):
        mine = fastloss.loss_gradient("pairwise_logistic", y, raw, weight, reduction=reduction)
        other = fastloss.loss_gradient("pairwise_auc", y, raw, weight, surrogate="logistic", reduction=reduction)
        assert mine[0] == pytest.approx(other[0], rel=1e-13)
        np.testing.assert_allclose(mine[1], other[1], rtol=1e-12, atol=1e-15 * np.abs(other[1]).max())


@pytest.mark.parametrize("targets", ["softmax", "gains"])
def test_least_value_of_listnet_is_the_entropy_of_the_targets(targets):
    """With weights as without: at the scores whose distribution is that of the targets."""
    rng = np.random.default_rng(0)
    y, weight = rng.integers(1, 5, 12).astype(float), rng.random(12) * np.repeat([1e-8, 1.0, 1e8], 4)
    loss = fastloss.get_loss("listnet", targets=targets)
    best = y if targets == "softmax" else np.log(2**y - 1)
    for w in (None, weight, 1e-3 * weight):
        t = np.exp(best) * (1 if w is None else w)
        t = t / t.sum()
        value, gradient = loss.loss_gradient(y, best, w)
        assert value == pytest.approx(-np.sum(t * np.log(t)), rel=1e-13)
        np.testing.assert_allclose(gradient, 0, atol=1e-15)
        assert loss.loss(y, best + 0.1 * rng.normal(size=12), w) > value


def test_grades_of_listnet_may_be_large():
    assert fastloss.loss("listnet", [1000.0, 999.0], [0.0, 0.0]) == pytest.approx(np.log(2))


# overlaps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OVERLAPS)
def test_soft_labels_are_met_exactly(name):
    """0, the minimum, where the probabilities are the targets; the product form would want p = 1 for y > 1/2."""
    from scipy.special import logit

    rng = np.random.default_rng(0)
    y = rng.uniform(0.01, 0.99, 200)
    weight = rng.random(200)
    loss = fastloss.get_loss(name)
    assert loss.loss(y, logit(y), weight) == pytest.approx(0, abs=1e-15)
    assert loss.loss([0.5, 0.5], [0.0, 0.0]) == 0.0
    assert not loss.gradient([0.5, 0.5], [0.0, 0.0]).any()
    for _ in range(20):
        assert loss.loss(y, logit(y) + 0.1 * rng.normal(size=200), weight) > 1e-3


@pytest.mark.parametrize("name", OVERLAPS)
@pytest.mark.parametrize("score", [3.0, 20.0, 40.0, 300.0, 700.0])
def test_nearly_perfect_predictions_keep_their_digits(name, score):
    """The loss of a batch that is all but right is a small number, not the rest of 1 - 1."""
    y, raw = [1, 0, 1, 0, 0], [score, -score, score + 1, -score, -score - 2]
    with mpmath.workprec(2000):
        p = [1 / (1 + mpmath.exp(-mpmath.mpf(r))) for r in raw]
        hits = sum(q for q, t in zip(p, y, strict=True) if t)
        alarms, misses = sum(p) - hits, 2 - hits
        alarm, miss, hit = map(float, slow_batch.COSTS[name]())
        exact = (alarm * alarms + miss * misses) / (hit * hits + alarm * alarms + miss * misses)
    value, gradient = fastloss.loss_gradient(name, y, raw)
    assert value == pytest.approx(float(exact), rel=1e-14)
    assert gradient[0] < 0 < gradient[1]
    assert gradient[0] == pytest.approx(-float(1 / (1 + mpmath.exp(score))) * miss / hit / 2, rel=0.2)


@pytest.mark.parametrize("name", OVERLAPS)
def test_batches_without_positives(name):
    """Without smoothing the overlap is 0 whatever is predicted; with it, predictions are pushed down."""
    value, gradient = fastloss.loss_gradient(name, [0, 0], [1.0, -1.0])
    assert value == pytest.approx(1.0)
    assert not gradient.any()
    value, gradient = fastloss.loss_gradient(name, [0, 0], [1.0, -1.0], smooth=1.0)
    assert 0 < value < 1
    assert (gradient > 0).all()
    assert fastloss.loss(name, [0, 0], [-np.inf, -np.inf]) == 0.0
    assert fastloss.loss(name, [1, 0], [np.inf, -np.inf]) == 0.0
    assert fastloss.loss(name, [1, 0], [-np.inf, np.inf]) == 1.0


def test_fbeta_is_scikit_learns_where_predictions_are_sure():
    from sklearn.metrics import fbeta_score, jaccard_score

    rng = np.random.default_rng(0)
    y, guess, weight = rng.integers(0, 2, 200), rng.integers(0, 2, 200), rng.random(200)
    raw = np.where(guess, 50.0, -50.0)
    for beta in (0.5, 1.0, 3.0):
        expected = 1 - fbeta_score(y, guess, beta=beta, sample_weight=weight)
        assert fastloss.loss("soft_fbeta", y, raw, weight, beta=beta) == pytest.approx(expected)
        tversky = fastloss.loss("tversky", y, raw, weight, alpha=1 / (1 + beta**2), beta=beta**2 / (1 + beta**2))
        assert tversky == pytest.approx(expected)
    expected = 1 - jaccard_score(y, guess, sample_weight=weight)
    assert fastloss.loss("jaccard", y, raw, weight) == pytest.approx(expected)
    # The Lovász hinge at errors of 0 and 2: twice the Jaccard loss of the mistakes.
    assert fastloss.loss("lovasz_hinge", y, np.where(guess, 1.0, -1.0), weight) == pytest.approx(2 * expected)


def test_lovasz_at_kinks():
    """The hinge at margin 1 has slope 0; of rows with equal errors the first counts first."""
    gradient = fastloss.gradient("lovasz_hinge", [1, 0, 1, 0], [1.0, -1.0, 0.0, -3.0])
    assert gradient.tolist() == [0, 0, -0.5, 0]
    for y in ([1, 0], [0, 1]):  # a mistake on the only positive leaves nothing, one on the negative half
        signs = np.where(y, -1, 1)
        first = 1.0 if y[0] else 0.5
        assert fastloss.gradient("lovasz_hinge", y, [0.0, 0.0]).tolist() == (signs * [first, 1 - first]).tolist()


# hessians for boosting ------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(data=st.data())
def test_upper_bound_is_one(data):
    """Never negative, and nowhere below the exact diagonal."""
    name, params = data.draw(st.sampled_from(CASES))
    y, raw, weight, keywords = batch(name, data.draw(st.integers(2, 30)), seed=data.draw(st.integers(0, 10**6)))
    loss = fastloss.get_loss(name, **params)
    gradient, exact = loss.gradient_hessian(y, raw, weight, **keywords)
    same, bound = loss.gradient_hessian(y, raw, weight, hessian="upper_bound", **keywords)
    assert (same == gradient).all()
    assert (bound >= 0).all()
    assert (bound >= exact * (1 - 1e-12) - 1e-15).all()
    if loss.convex or name == "lambdarank":
        assert (exact >= 0).all()


@pytest.mark.parametrize("name", [name for name in BATCH if fastloss.get_loss(name).convex])
def test_convex_losses_are(name):
    rng = np.random.default_rng(0)
    y, raw, weight, keywords = batch(name, 30)
    for params in [params for other, params in CASES if other == name]:
        loss = fastloss.get_loss(name, **params)
        for _ in range(50):
            a, b = raw + rng.normal(size=30), raw + rng.normal(size=30)
            value, gradient = loss.loss_gradient(y, a, weight, **keywords)
            assert loss.loss(y, b, weight, **keywords) >= value + gradient @ (b - a) - 1e-12 * (1 + abs(value))
