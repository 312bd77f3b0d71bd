"""The losses as functions of a name: the same methods without an object.

Every function takes the name (or a Loss), the arguments of the method of that name in
:class:`fastloss.losses.Loss`, and the loss's own parameters as keywords; `group` is for ranking losses.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike, NDArray

from fastloss.losses import Loss, get_loss
from fastloss.losses._base import Hessian, Reduction

__all__ = ["gradient", "gradient_hessian", "loss", "loss_gradient"]


def loss(
    name: str | Loss,
    y_true: ArrayLike,
    raw_prediction: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    group: ArrayLike | None = None,
    reduction: Reduction = "mean",
    loss_out: NDArray | None = None,
    n_threads: int | None = None,
    **params: Any,
) -> Any:
    """Value of a loss; see :meth:`fastloss.losses.Loss.loss`.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.loss("huber", [0.0, 0.0], [0.5, 3.0], delta=1.0)
    1.3125
    """
    instance = get_loss(name, **params)
    return instance.loss(
        y_true,
        raw_prediction,
        sample_weight,
        reduction=reduction,
        loss_out=loss_out,
        n_threads=n_threads,
        **instance._groups(group),
    )


def gradient(
    name: str | Loss,
    y_true: ArrayLike,
    raw_prediction: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    group: ArrayLike | None = None,
    reduction: Reduction = "mean",
    gradient_out: NDArray | None = None,
    n_threads: int | None = None,
    **params: Any,
) -> NDArray:
    """Gradient of a loss; see :meth:`fastloss.losses.Loss.gradient`.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.gradient("quantile", [1.0, -1.0], [0.0, 0.0], quantile=0.75, reduction="sum")
    array([-0.75,  0.25])
    """
    instance = get_loss(name, **params)
    return instance.gradient(
        y_true,
        raw_prediction,
        sample_weight,
        reduction=reduction,
        gradient_out=gradient_out,
        n_threads=n_threads,
        **instance._groups(group),
    )


def loss_gradient(
    name: str | Loss,
    y_true: ArrayLike,
    raw_prediction: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    group: ArrayLike | None = None,
    reduction: Reduction = "mean",
    loss_out: NDArray | None = None,
    gradient_out: NDArray | None = None,
    n_threads: int | None = None,
    **params: Any,
) -> tuple[Any, NDArray]:
    """Loss and gradient in one pass; see :meth:`fastloss.losses.Loss.loss_gradient`.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.loss_gradient("log_loss", [1, 0], [0.0, 0.0], pos_weight=3.0)
    (1.3862943611198906, array([-0.75,  0.25]))
    """
    instance = get_loss(name, **params)
    return instance.loss_gradient(
        y_true,
        raw_prediction,
        sample_weight,
        reduction=reduction,
        loss_out=loss_out,
        gradient_out=gradient_out,
        n_threads=n_threads,
        **instance._groups(group),
    )


def gradient_hessian(
    name: str | Loss,
    y_true: ArrayLike,
    raw_prediction: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    group: ArrayLike | None = None,
    reduction: Reduction = "mean",
    gradient_out: NDArray | None = None,
    hessian_out: NDArray | None = None,
    hessian: Hessian = "exact",
    n_threads: int | None = None,
    **params: Any,
) -> tuple[NDArray, NDArray]:
    """Gradient and hessian diagonal in one pass; see :meth:`fastloss.losses.Loss.gradient_hessian`.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.gradient_hessian("poisson", [1.0], [0.0])
    (array([0.]), array([1.]))
    """
    instance = get_loss(name, **params)
    return instance.gradient_hessian(
        y_true,
        raw_prediction,
        sample_weight,
        reduction=reduction,
        gradient_out=gradient_out,
        hessian_out=hessian_out,
        hessian=hessian,
        n_threads=n_threads,
        **instance._groups(group),
    )
