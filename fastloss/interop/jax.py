"""The losses for JAX: one fused pass on the CPU gives a loss and its gradient to ``jax.grad``, inside ``jit`` too.

Arguments come in the order of JAX's libraries, predictions first, as in :mod:`fastloss.interop.torch`. The kernels are
called back from compiled code: on the CPU they read JAX's arrays where these are, and their results are copied once.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastloss import losses
from fastloss.losses._base import Reduction

__all__ = ["loss"]

#: What a call is about, beside its arrays: the loss, the reduction, the number of threads.
Settings = tuple[losses.Loss, Reduction, int | None]


def loss(
    name: str | losses.Loss,
    raw: jax.Array,
    y: jax.Array,
    sample_weight: jax.Array | None = None,
    reduction: Reduction = "mean",
    *,
    n_threads: int | None = None,
    **params: Any,
) -> jax.Array:
    """A loss of JAX arrays, differentiable (once, in reverse mode) by `raw`.

    Parameters
    ----------
    name : str or Loss
        One of :func:`fastloss.list_losses`, or a Loss.
    raw : Array of shape (n,) or (n, T); (n, K) for a multiclass loss
        Raw predictions, float32 or (with ``jax_enable_x64``) float64.
    y : Array of shape (n,) or raw's shape
        Targets or labels; not differentiable.
    sample_weight : Array of shape (n,), optional
        Weights; not differentiable.
    reduction : {"mean", "sum", "none"}
        As everywhere in fastloss: sum(w·l)/sum(w), sum(w·l), or the array of w·l.
    n_threads : int, optional
        Number of threads; None for as many as are useful.
    **params
        Parameters of the loss.

    Returns
    -------
    Array
        Of raw's dtype: a scalar, or of shape (n,) for ``reduction="none"``.

    Raises
    ------
    TypeError, ValueError
        For raw predictions of another dtype, for derivatives by y or sample_weight. What is wrong with values comes as
        JAX's error of a callback, with our message in it.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from fastloss.interop.jax import loss
    >>> slope = jax.grad(lambda raw: loss("huber", raw, jnp.array([0.0, 0.0]), delta=1.0))
    >>> slope(jnp.array([0.5, 3.0])).tolist()
    [0.25, 0.5]
    """
    raw, y = jnp.asarray(raw), jnp.asarray(y)
    if raw.dtype not in (jnp.float32, jnp.float64):
        raise TypeError(f"raw must be float32 or float64, got dtype {raw.dtype}")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    weight = None if sample_weight is None else jnp.asarray(sample_weight)
    return _fused((losses.get_loss(name, **params), reduction, n_threads), raw, y, weight)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(settings: Settings, raw: jax.Array, y: jax.Array, weight: jax.Array | None) -> jax.Array:
    def value(*arrays: Any) -> Any:
        return np.asarray(_call(settings, "loss", *arrays), raw.dtype)

    return jax.pure_callback(value, _value_like(settings, raw), raw, y, weight, vmap_method="sequential")


def _forward(settings: Settings, raw: Any, y: Any, weight: Any) -> tuple[jax.Array, jax.Array]:
    for name, argument in (("y", y), ("sample_weight", weight)):
        if argument is not None and argument.perturbed:
            raise TypeError(f"a derivative by {name} is asked for, but only that by raw is computed")
    z = raw.value

    def both(*arrays: Any) -> Any:
        value, gradient = _call(settings, "loss_gradient", *arrays)
        return np.asarray(value, z.dtype), gradient

    shapes = _value_like(settings, z), jax.ShapeDtypeStruct(z.shape, z.dtype)
    arrays = z, y.value, None if weight is None else weight.value
    return jax.pure_callback(both, shapes, *arrays, vmap_method="sequential")


def _backward(settings: Settings, gradient: jax.Array, outer: Any) -> tuple[jax.Array, None, None]:
    if isinstance(outer, jax.custom_derivatives.SymbolicZero):
        return jnp.zeros_like(gradient), None, None
    return gradient * (outer if outer.ndim == gradient.ndim or outer.ndim == 0 else outer[:, None]), None, None


_fused.defvjp(_forward, _backward, symbolic_zeros=True)


def _value_like(settings: Settings, raw: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(raw.shape[:1] if settings[1] == "none" else (), raw.dtype)


def _call(settings: Settings, method: str, raw: Any, y: Any, weight: Any) -> Any:
    fused, reduction, n_threads = settings
    return getattr(fused, method)(y, raw, weight, reduction=reduction, n_threads=n_threads)
