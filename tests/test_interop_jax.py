"""fastloss.interop.jax: jax.grad gets the kernels' numbers, inside jit too; what it cannot give is refused."""

import re
from pathlib import Path

import numpy as np
import pytest

import fastloss

jax = pytest.importorskip("jax", reason="jax is not installed")
interop = pytest.importorskip("fastloss.interop.jax")
loss = interop.loss
jnp = jax.numpy


def arrays(name, n=30, width=None, seed=0):
    """(y, raw, weights) in float32."""
    rng = np.random.default_rng(seed)
    kind = fastloss.get_loss(name).kind
    width = 4 if kind == "multiclass" else width
    raw = rng.normal(size=n if width is None else (n, width)).astype(np.float32)
    if kind == "multiclass":
        y = rng.integers(0, 4, n)
    else:
        y = rng.integers(0, 2, raw.shape).astype(np.float32) if kind == "binary" else rng.gamma(2.0, size=raw.shape)
    return y.astype(np.int32 if kind == "multiclass" else np.float32), raw, rng.uniform(0, 2, n).astype(np.float32)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ["huber", "log_loss", "poisson", "cross_entropy", "sparsemax"])
def test_same_bits_as_the_kernels(name, reduction, jit):
    y, raw, w = arrays(name)

    def total(x):
        return loss(name, x, jnp.array(y), jnp.array(w), reduction).sum()

    value, gradient = (jax.jit(jax.value_and_grad(total)) if jit else jax.value_and_grad(total))(jnp.array(raw))
    expected, slope = fastloss.loss_gradient(name, y, raw, w, reduction=reduction)
    np.testing.assert_array_equal(gradient, slope)
    assert float(value) == pytest.approx(float(np.sum(expected)), rel=1e-6)
    assert gradient.dtype == jnp.float32


def test_without_a_gradient():
    y, raw, _ = arrays("huber")
    assert float(loss("huber", jnp.array(raw), jnp.array(y))) == pytest.approx(fastloss.loss("huber", y, raw))
    assert loss("huber", jnp.array(raw), jnp.array(y), reduction="none").shape == (30,)


def test_chain_rule():
    y, raw, _ = arrays("huber", width=3)
    outer = jnp.linspace(0, 1, 30)
    got = jax.grad(lambda x: (outer * loss("huber", 2 * x, jnp.array(y), reduction="none")).sum())(jnp.array(raw))
    expected = 2 * np.asarray(outer)[:, None] * fastloss.gradient("huber", y, 2 * raw, reduction="none")
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_jaxs_own():
    y, raw, _ = arrays("cross_entropy")

    def own(x):
        return -jnp.mean(jax.nn.log_softmax(x)[jnp.arange(30), y])

    got = jax.grad(lambda x: loss("cross_entropy", x, jnp.array(y)))(jnp.array(raw))
    np.testing.assert_allclose(got, jax.grad(own)(jnp.array(raw)), rtol=1e-4, atol=1e-7)


def test_double_precision():
    y, raw, _ = (a.astype(float) for a in arrays("log_cosh"))
    with jax.enable_x64(True):
        got = jax.grad(lambda x: loss("log_cosh", x, jnp.array(y)))(jnp.array(raw))
        assert got.dtype == jnp.float64
        np.testing.assert_array_equal(got, fastloss.gradient("log_cosh", y, raw))


def test_what_is_refused():
    y, raw, w = (jnp.array(a) for a in arrays("huber"))
    with pytest.raises(TypeError, match="a derivative by sample_weight is asked for"):
        jax.grad(lambda w: loss("huber", raw, y, w))(w)
    with pytest.raises(TypeError, match="a derivative by y is asked for"):
        jax.grad(lambda y: loss("huber", raw, y))(y)
    with pytest.raises(TypeError, match="raw must be float32 or float64, got dtype int32"):
        loss("huber", jnp.arange(3), y)
    with pytest.raises(ValueError, match="reduction must be 'mean', 'sum' or 'none', got 'max'"):
        loss("huber", raw, y, reduction="max")
    with pytest.raises(Exception, match=r"y_true\[0\] = 9"):
        loss("cross_entropy", jnp.zeros((1, 3)), jnp.array([9])).block_until_ready()
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: loss("huber", x, y), (raw,), (raw,))


def test_methods_take_jax_arrays():
    y, raw, w = arrays("huber")
    got = fastloss.loss_gradient("huber", jnp.array(y), jnp.array(raw), jnp.array(w))
    expected = fastloss.loss_gradient("huber", y, raw, w)
    assert got[0] == expected[0]
    np.testing.assert_array_equal(got[1], expected[1])
    with pytest.raises(TypeError, match="raw_prediction cannot be read as an array"):
        jax.jit(lambda x: fastloss.loss("huber", y, x))(jnp.array(raw))


def test_blocks_of_the_page():
    """The block of docs/interop.md that needs JAX runs, and gives what the kernels give."""
    page = Path(__file__).resolve().parents[1] / "docs" / "interop.md"
    if not page.exists():
        pytest.skip("the documentation lives in the source tree")
    section = page.read_text(encoding="utf-8").partition("## JAX")[2].partition("\n## ")[0]
    (block,) = re.findall(r"(?ms)^```python\n(.*?)^```$", section)
    names = {}
    exec(block, names)
    expected = fastloss.loss("huber", np.arange(5.0), np.zeros(5), delta=1.35)
    assert float(names["value"]) == pytest.approx(expected, rel=1e-6)
    assert names["gradient"].shape == (2,)
