"""The worked examples of the page the project began from, number by number."""

import itertools

import numpy as np
import pytest

import fastloss


def per_sample(name, y, raw, dtype, **params):
    value, gradient = fastloss.loss_gradient(name, np.array(y, dtype), np.array(raw, dtype), reduction="none", **params)
    return value, gradient


def test_2_cross_entropy_from_a_logit(dtype, isa):
    digits = 7
    value, gradient = per_sample("log_loss", [1], [-1], dtype)
    assert round(float(value[0]), digits) == pytest.approx(1.3132617, abs=2e-7 if dtype == np.float32 else 1e-12)
    assert round(float(gradient[0]), digits) == pytest.approx(-0.7310586, abs=2e-7 if dtype == np.float32 else 1e-12)
    probability = fastloss.get_loss("log_loss").predict(np.array([-1], dtype))
    assert float(probability[0]) == pytest.approx(0.2689414, abs=1e-7)


def test_3_hinge(dtype, isa):
    value, gradient = per_sample("hinge", [1, 1, -1], [2.0, 0.2, 0.3], dtype)
    one, fifth, third = (dtype.type(x) for x in (1, 0.2, 0.3))
    assert value.tolist() == [0, one - fifth, one + third]
    np.testing.assert_allclose(value, [0, 0.8, 1.3], rtol=np.finfo(dtype).eps)
    assert gradient.tolist() == [0, -1, 1]


def test_4_squared_and_absolute_error(dtype, isa):
    y, raw = [3, -2, 0.5, 4], [5, -3, 0.5, 1]
    value, gradient = per_sample("squared_error", y, raw, dtype)
    assert value.tolist() == [2, 0.5, 0, 4.5]
    assert gradient.tolist() == [2, -1, 0, -3]
    value, gradient = per_sample("absolute_error", y, raw, dtype)
    assert value.tolist() == [2, 1, 0, 3]
    assert gradient.tolist() == [1, -1, 0, -1]


def test_6_hinge_margins(dtype, isa):
    value, gradient = per_sample("hinge", [1, -1, -1], [1.2, -0.4, 2.0], dtype)
    np.testing.assert_allclose(value, [0, 0.6, 3.0], rtol=2 * np.finfo(dtype).eps)
    assert gradient.tolist() == [0, 1, 1]
    value, gradient = per_sample("hinge", [1, -1], [1, -1], dtype)  # margin exactly 1
    assert value.tolist() == [0, 0]
    assert gradient.tolist() == [0, 0]


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (3.0, 1.0), (0.25, 2.0)])
def test_7_weighted_cross_entropy(isa, alpha, beta):
    z = np.array([-1.0, 0.0, 0.7, 3.0])
    p = 1 / (1 + np.exp(-z))
    for y in (0.0, 1.0, 0.3):
        value, gradient = per_sample("log_loss", np.full(4, y), z, float, pos_weight=alpha, neg_weight=beta)
        np.testing.assert_allclose(value, -(alpha * y * np.log(p) + beta * (1 - y) * np.log(1 - p)), rtol=1e-14)
        np.testing.assert_allclose(gradient, -alpha * y * (1 - p) + beta * (1 - y) * p, rtol=1e-14, atol=1e-15)


def test_7_class_weights_are_not_sample_weights(isa):
    """pos_weight belongs to the formula: unlike a sample weight it does not enter the denominator of the mean."""
    y, z = np.array([1.0, 0.0]), np.array([0.3, -0.4])
    positive, negative = (float(v) for v in fastloss.loss("log_loss", y, z, reduction="none"))
    assert fastloss.loss("log_loss", y, z, pos_weight=3.0) == pytest.approx((3 * positive + negative) / 2, rel=1e-15)
    weighted = fastloss.loss("log_loss", y, z, np.array([3.0, 1.0]))
    assert weighted == pytest.approx((3 * positive + negative) / 4, rel=1e-15)


@pytest.mark.parametrize("smoothing", [0.1, 0.3, 0.9])
def test_8_label_smoothing_is_the_same_soft_target(dtype, isa, smoothing):
    z = np.linspace(-5, 5, 31).astype(dtype)
    for y in (0.0, 1.0, 0.25):
        soft = (1 - smoothing) * y + smoothing / 2
        one = per_sample("log_loss", np.full(31, y), z, dtype, label_smoothing=smoothing)
        other = per_sample("log_loss", np.full(31, soft), z, dtype)
        eps = np.finfo(dtype).eps
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=8 * eps, atol=8 * eps)


@pytest.mark.parametrize("delta", [1.0, 2.0, 0.5])
def test_9_huber(dtype, isa, delta):
    r = np.array([0, 0.25, delta, 1.5 * delta, 4 * delta, -delta, -4 * delta])
    value, gradient = per_sample("huber", np.zeros(7), r, dtype, delta=delta)
    a = np.abs(r)
    assert value.tolist() == np.where(a <= delta, r * r / 2, delta * (a - delta / 2)).tolist()
    assert gradient.tolist() == np.clip(r, -delta, delta).tolist()


# through the linear objective ------------------------------------------------------------------------------------


def test_1_empirical_risk_and_its_gradient(dtype):
    """Model w·x on (1, 2), (2, 3) at w = 1: risk (½ + ½) / 2, gradient (−1·1 − 1·2) / 2."""
    X, y, w = np.array([[1], [2]], dtype), np.array([2, 3], dtype), np.array([1.0])
    value, gradient = fastloss.LinearObjective(X, y, "squared_error", fit_intercept=False)(w)
    assert value == 0.5
    assert gradient.tolist() == [-1.5]


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("name", ["squared_error", "huber", "log_loss", "hinge", "cross_entropy"])
def test_12_mini_batches_are_unbiased(name, size):
    """The mean of value and gradient over all batches of a size is that of the full data."""
    rng = np.random.default_rng(0)
    X, w = rng.normal(size=(7, 3)), rng.normal(size=(3, 4) if name == "cross_entropy" else 4)
    y = np.array([0, 1, 1, 0, 1, 2 if name == "cross_entropy" else 0, 1])

    def risk(rows):
        more = {"n_classes": 3} if name == "cross_entropy" else {}
        return fastloss.LinearObjective(X[rows], y[rows], name, alpha=0.1, **more)(w)

    batches = [risk(list(rows)) for rows in itertools.combinations(range(7), size)]
    value, gradient = risk(list(range(7)))
    assert np.mean([batch[0] for batch in batches]) == pytest.approx(value, rel=1e-14)
    np.testing.assert_allclose(np.mean([batch[1] for batch in batches], axis=0), gradient, rtol=1e-13, atol=1e-15)


def test_5_softmax_cross_entropy(dtype, isa):
    z = np.array([[2, 0, -1]], dtype)
    digits = 2e-7 if dtype == np.float32 else 5e-8
    p = fastloss.softmax(z)[0]
    np.testing.assert_allclose(p, [0.8437947, 0.1141952, 0.0420101], rtol=0, atol=digits)
    np.testing.assert_array_equal(fastloss.get_loss("cross_entropy").predict(z)[0], p)
    value, gradient = per_sample("cross_entropy", [1], z, dtype)
    assert float(value[0]) == pytest.approx(2.1698460, abs=2 * digits)
    np.testing.assert_allclose(gradient[0], p - np.array([0, 1, 0]), rtol=0, atol=digits)
    one_hot = fastloss.loss_gradient("cross_entropy", [[0, 1, 0]], z, reduction="none")
    np.testing.assert_allclose(one_hot[0], value, rtol=4 * np.finfo(dtype).eps)


def test_7_class_weighted_cross_entropy(dtype, isa):
    """-w_c log p_c; unlike pos_weight the weights of classes are part of the mean's denominator."""
    weights = [0.5, 2.0, 1.0]
    z = np.array([[2, 0, -1], [0.3, 0.1, 0], [1, 1, 1], [-2, 0, 5]], dtype)
    y = np.array([1, 0, 2, 1])
    p = np.exp(z.astype(float)) / np.exp(z.astype(float)).sum(axis=1, keepdims=True)
    w = np.array(weights)[y]
    wanted = -w * np.log(p[np.arange(4), y])
    value, gradient = per_sample("cross_entropy", y, z, dtype, class_weight=weights)
    np.testing.assert_allclose(value, wanted, rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(gradient, w[:, None] * (p - np.eye(3)[y]), rtol=0, atol=8 * np.finfo(dtype).eps)
    mean = fastloss.loss("cross_entropy", y, z, class_weight=weights)
    assert mean == pytest.approx(wanted.sum() / w.sum(), rel=4 * float(np.finfo(dtype).eps))


@pytest.mark.parametrize("smoothing", [0.1, 0.3, 0.9])
@pytest.mark.parametrize("K", [2, 3, 7])
def test_8_label_smoothing_over_classes(dtype, isa, smoothing, K):
    rng = np.random.default_rng(K)
    y, z = rng.integers(0, K, 31), (3 * rng.normal(size=(31, K))).astype(dtype)
    soft = (1 - smoothing) * np.eye(K)[y] + smoothing / K
    one = per_sample("cross_entropy", y, z, dtype, label_smoothing=smoothing)
    other = per_sample("cross_entropy", soft, z, dtype)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=8 * np.finfo(dtype).eps, atol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("z", [(1000, 1000), (-1000, -1000), (1e4, 0)])
def test_11_log_sum_exp(dtype, isa, z):
    a = max(z)
    rest = np.log(sum(np.exp(x - a) for x in z))
    log_p = np.array(z) - a - rest
    row = np.array([z], dtype)
    eps = float(np.finfo(dtype).eps)
    assert float(fastloss.logsumexp(row)[0]) == pytest.approx(a + rest, rel=eps)
    np.testing.assert_allclose(fastloss.log_softmax(row)[0], log_p, rtol=4 * eps)
    np.testing.assert_allclose(fastloss.softmax(row)[0], np.exp(log_p), rtol=4 * eps)
    for y in (0, 1):
        value, gradient = per_sample("cross_entropy", [y], row, dtype)
        assert float(value[0]) == pytest.approx(-log_p[y], rel=4 * eps, abs=0)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize(("first", "second"), [(1.0, 1.0), (0.7, 3.0)])
def test_10_several_tasks(dtype, isa, first, second):
    """L = λ₁L₁ + λ₂L₂ over different outputs: squared error of one, cross-entropy from a logit of the other."""
    loss = fastloss.MultiTaskLoss([(first, "squared_error", 0), (second, "log_loss", 1)])
    eps = float(np.finfo(dtype).eps)
    value, gradient = loss.loss_gradient(np.array([[3, 1]]), np.array([[5, -1]], dtype))
    assert value == pytest.approx(first * 2 + second * 1.3132616875182228, rel=8 * eps)
    np.testing.assert_allclose(gradient, [[first * 2, second * -0.7310585786300049]], rtol=8 * eps)
    masked = loss.loss_gradient(np.array([[3, np.nan]]), np.array([[5, -1]], dtype))
    assert masked[0] == pytest.approx(first * 2, rel=8 * eps)
    assert masked[1][0, 1] == 0
    learned = fastloss.MultiTaskLoss([(first, "squared_error", 0), (second, "log_loss", 1)], weighting="uncertainty")
    value, gradient, by_s = learned.loss_gradient(
        np.array([[3, 1]]), np.array([[5, -1]], dtype), log_variances=[np.log(2.0), np.log(4.0)]
    )
    halves = 0.5 * np.log(8.0)
    assert value == pytest.approx(first + second * 1.3132616875182228 / 4 + halves, rel=8 * eps)
    np.testing.assert_allclose(gradient, [[first, second * -0.7310585786300049 / 4]], rtol=8 * eps)
    np.testing.assert_allclose(by_s, [0.5 - first, 0.5 - second * 1.3132616875182228 / 4], rtol=20 * eps)
