"""What mean, sum and none say, with and without weights, for one output and several."""

import math

import numpy as np
import pytest
from bits import bits
from grids import everyday

import fastloss

N = 3001


def problem(name, dtype, outputs):
    """A loss, data, and float64 weights that float32 holds too (weights are read in the working dtype)."""
    y, raw = everyday(name, n=N, dtype=dtype, outputs=outputs)
    weight = np.random.default_rng(1).uniform(0, 4, N).astype(np.float32).astype(float)
    return fastloss.get_loss(name), y, raw, weight


@pytest.fixture(params=[None, 1, 3], ids=lambda t: f"outputs={t}")
def outputs(request):
    return request.param


def as_rows(weight, raw):
    return weight.reshape(-1, *[1] * (raw.ndim - 1))


def test_shapes_and_types(name, dtype, isa, outputs):
    loss, y, raw, weight = problem(name, dtype, outputs)
    for w in (None, weight):
        for reduction in ("mean", "sum"):
            value, gradient = loss.loss_gradient(y, raw, w, reduction=reduction)
            assert type(value) is float
            assert gradient.shape == raw.shape
            assert gradient.dtype == dtype
        value, gradient = loss.loss_gradient(y, raw, w, reduction="none")
        assert value.shape == (N,)
        assert value.dtype == dtype
        assert gradient.shape == raw.shape
        assert loss.loss(y, raw, w) == loss.loss(y, raw, w, reduction="mean")  # the default


def test_sum_and_mean_of_losses(name, dtype, isa, outputs):
    """In float64, whatever the working dtype: the error is that of a few additions, not of N."""
    loss, y, raw, weight = problem(name, dtype, outputs)
    each = loss.loss(y, raw, reduction="none").astype(float)
    if outputs == 3:  # per-sample sums of three are rounded to the working dtype, totals are not
        each = sum(loss.loss(y[:, j], raw[:, j], reduction="none").astype(float) for j in range(3))
    for w in (None, weight):
        terms = each if w is None else w * each
        total, size = math.fsum(terms), math.fsum(np.abs(terms))
        count = N if w is None else math.fsum(w)
        assert abs(loss.loss(y, raw, w, reduction="sum") - total) <= 1e-13 * size
        assert abs(loss.loss(y, raw, w) - total / count) <= 1e-13 * size / count


def test_gradients_of_sum_and_mean(name, dtype, isa, outputs):
    loss, y, raw, weight = problem(name, dtype, outputs)
    each = loss.gradient(y, raw, reduction="none").astype(float)
    eps, tiny = np.finfo(dtype).eps, np.finfo(dtype).tiny
    for w in (None, weight):
        factor = np.ones(N) if w is None else w
        wanted = each * as_rows(factor, raw)
        np.testing.assert_allclose(loss.gradient(y, raw, w, reduction="sum"), wanted, rtol=2 * eps, atol=tiny)
        np.testing.assert_allclose(loss.gradient(y, raw, w), wanted / math.fsum(factor), rtol=3 * eps, atol=tiny)
        assert bits(loss.gradient(y, raw, w, reduction="sum")) == bits(loss.gradient(y, raw, w, reduction="none"))


def test_hessians_of_sum_and_mean(name, dtype, isa, outputs):
    loss, y, raw, weight = problem(name, dtype, outputs)
    each = loss.gradient_hessian(y, raw, reduction="none")[1].astype(float)
    eps, tiny = np.finfo(dtype).eps, np.finfo(dtype).tiny
    for w in (None, weight):
        factor = np.ones(N) if w is None else w
        wanted = each * as_rows(factor, raw)
        for reduction, divisor in (("none", 1), ("sum", 1), ("mean", math.fsum(factor))):
            got = loss.gradient_hessian(y, raw, w, reduction=reduction)[1]
            np.testing.assert_allclose(got, wanted / divisor, rtol=3 * eps, atol=tiny)


def test_weighted_losses_per_sample(name, dtype, isa):
    loss, y, raw, weight = problem(name, dtype, None)
    each = loss.loss(y, raw, reduction="none").astype(float)
    eps, tiny = np.finfo(dtype).eps, np.finfo(dtype).tiny
    np.testing.assert_allclose(loss.loss(y, raw, weight, reduction="none"), weight * each, rtol=2 * eps, atol=tiny)


def test_unit_weights_are_no_weights(name, dtype, isa, outputs):
    loss, y, raw, _ = problem(name, dtype, outputs)
    ones = np.ones(N)
    for reduction in ("sum", "none"):
        for a, b in zip(
            loss.loss_gradient(y, raw, reduction=reduction),
            loss.loss_gradient(y, raw, ones, reduction=reduction),
            strict=True,
        ):
            assert bits(a) == bits(b)
    assert loss.loss(y, raw) == pytest.approx(loss.loss(y, raw, ones), rel=1e-15)


def test_weights_repeat_samples(name, isa):
    """An integer weight is the same as that many copies of the sample."""
    loss, y, raw, _ = problem(name, np.float64, None)
    weight = np.random.default_rng(2).integers(0, 4, N)
    copies = loss.loss(np.repeat(y, weight), np.repeat(raw, weight))
    assert loss.loss(y, raw, weight) == pytest.approx(copies, rel=1e-12)
    assert loss.loss(y, raw, weight, reduction="sum") == pytest.approx(copies * weight.sum(), rel=1e-12)


@pytest.mark.parametrize("scale", [2.0**-1000, 1e-3, 3.0, 2.0**900])
def test_mean_does_not_know_the_scale_of_weights(isa, scale):
    loss, y, raw, weight = problem("log_loss", np.float64, None)
    value, gradient = loss.loss_gradient(y, raw, weight)
    other, slope = loss.loss_gradient(y, raw, scale * weight)
    assert other == pytest.approx(value, rel=1e-14)
    np.testing.assert_allclose(slope, gradient, rtol=1e-14)


def test_float32_mean_with_weights_beyond_float32(isa):
    """Weights stay float64: their normalisation does not overflow the working dtype."""
    loss, y, raw, weight = problem("log_loss", np.float32, None)
    value, gradient = loss.loss_gradient(y, raw, weight)
    for scale in (1e60, 1e-60):
        other, slope = loss.loss_gradient(y, raw, scale * weight)
        assert other == pytest.approx(value, rel=1e-6)
        np.testing.assert_allclose(slope, gradient, rtol=1e-6, atol=np.finfo(np.float32).tiny)


def test_mean_over_outputs_is_over_samples(isa):
    """Multi-output: summed over outputs, averaged over samples."""
    y, raw = np.zeros((4, 3)), np.arange(12.0).reshape(4, 3)
    value, gradient = fastloss.loss_gradient("squared_error", y, raw)
    assert value == (raw**2).sum() / 2 / 4
    np.testing.assert_array_equal(gradient, raw / 4)


def test_one_output_column_is_one_output(name, dtype, isa):
    loss, y, raw, weight = problem(name, dtype, None)
    for reduction in ("mean", "sum", "none"):
        flat = loss.loss_gradient(y, raw, weight, reduction=reduction)
        column = loss.loss_gradient(y[:, None], raw[:, None], weight, reduction=reduction)
        assert bits(flat[0]) == bits(column[0])
        assert bits(flat[1]) == bits(column[1][:, 0])


def test_infinite_loss_makes_an_infinite_mean(isa):
    y, raw = np.ones(5000), np.zeros(5000)
    raw[4321] = -np.inf
    value, gradient = fastloss.loss_gradient("log_loss", y, raw)
    assert value == math.inf
    assert gradient[4321] == pytest.approx(-1 / 5000)
    assert np.isfinite(gradient).all()
