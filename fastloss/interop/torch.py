"""The losses for PyTorch: one fused pass on the CPU gives a loss and its gradient to torch's graph.

Arguments come in torch's order, the input first: ``loss("huber", raw, y)``, where the rest of fastloss writes
``get_loss("huber").loss(y, raw)``.  Nothing is copied on the way in or out: kernels read the tensors where they are,
with any strides, and the gradient they write is the tensor that ``backward`` hands on.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from numpy.typing import ArrayLike, NDArray

from fastloss import losses
from fastloss.losses._base import Reduction

__all__ = ["Loss", "loss"]


class _Fused(torch.autograd.Function):
    """A loss as a node of the graph; its gradient is made in the forward pass, if it is wanted at all."""

    @staticmethod
    def forward(ctx: Any, raw: torch.Tensor, arguments: tuple[Any, ...]) -> torch.Tensor:
        fused, y, weight, keywords = arguments
        given = y, _view("raw", raw), weight
        ctx.arguments = arguments
        ctx.gradient = None
        if ctx.needs_input_grad[0]:
            value, gradient = fused.loss_gradient(*given, **keywords)
            ctx.gradient = torch.from_numpy(gradient)
            ctx.save_for_backward(raw)  # a reference, for those who go back twice
        else:
            value = fused.loss(*given, **keywords)
        return torch.from_numpy(value) if keywords["reduction"] == "none" else torch.tensor(value, dtype=raw.dtype)

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor, None]:
        # The buffer is given away, to be scaled in place or taken over as some tensor's `grad`: no second array of its
        # size is made. A graph that was kept makes a new one.
        gradient, ctx.gradient = ctx.gradient, None
        if torch.is_grad_enabled():
            (raw,) = ctx.saved_tensors
            return _Final.apply(raw, outer, (ctx, gradient)), None
        return _scaled(ctx, gradient, outer), None


class _Final(torch.autograd.Function):
    """A gradient in a graph of gradients (``create_graph=True``): it cannot be differentiated, and says so."""

    @staticmethod
    def forward(
        ctx: Any, raw: torch.Tensor, outer: torch.Tensor, rest: tuple[Any, torch.Tensor | None]
    ) -> torch.Tensor:
        return _scaled(*rest, outer)

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> None:
        raise RuntimeError(
            "second derivatives of a fastloss loss are not in torch's graph; Loss.gradient_hessian has them"
        )


def _scaled(ctx: Any, gradient: torch.Tensor | None, outer: torch.Tensor) -> torch.Tensor:
    """The loss's gradient, computed again if the buffer is gone, times what comes from outside."""
    if gradient is None:
        fused, y, weight, keywords = ctx.arguments
        gradient = torch.from_numpy(fused.gradient(y, _view("raw", ctx.saved_tensors[0]), weight, **keywords))
    if outer.ndim == 0 and outer.item() == 1:
        return gradient
    return gradient.mul_(outer if outer.ndim == 0 else outer.reshape(-1, *[1] * (gradient.ndim - 1)))


def loss(
    name: str | losses.Loss,
    raw: torch.Tensor,
    y: torch.Tensor,
    sample_weight: torch.Tensor | None = None,
    reduction: Reduction = "mean",
    *,
    group: ArrayLike | None = None,
    n_threads: int | None = None,
    **params: Any,
) -> torch.Tensor:
    """A loss of torch tensors, differentiable by `raw`.

    Parameters
    ----------
    name : str or Loss
        One of :func:`fastloss.list_losses`, or a Loss.
    raw : Tensor of shape (n,) or (n, T); (n, K) for a multiclass loss
        Raw predictions, float32 or float64, on the CPU. Any strides.
    y : Tensor of shape (n,) or raw's shape
        Targets or labels; no gradient flows to them.
    sample_weight : Tensor of shape (n,), optional
        Weights; no gradient flows to them.
    reduction : {"mean", "sum", "none"}
        As everywhere in fastloss: sum(w·l)/sum(w), sum(w·l), or the tensor of w·l; losses over a whole batch have no
        "none".
    group : array-like or Tensor of shape (G,), optional
        For ranking losses: the sizes of consecutive groups of rows.
    n_threads : int, optional
        Number of threads; None for as many as are useful. The result does not depend on it.
    **params
        Parameters of the loss.

    Returns
    -------
    Tensor
        Of raw's dtype: a scalar, or of shape (n,) for ``reduction="none"``.

    Raises
    ------
    TypeError, ValueError
        For what is no CPU tensor of a suitable dtype, for targets or weights that require a gradient, and for all that
        :meth:`fastloss.losses.Loss.loss_gradient` refuses; it calls raw and y ``raw_prediction`` and ``y_true``.

    Examples
    --------
    >>> import torch
    >>> from fastloss.interop.torch import loss
    >>> raw = torch.tensor([[2.0, 0.0, -1.0]], requires_grad=True)
    >>> value = loss("cross_entropy", raw, torch.tensor([1]))
    >>> value.backward()
    >>> raw.grad
    tensor([[ 0.8438, -0.8858,  0.0420]])
    """
    fused = losses.get_loss(name, **params)
    _require_floating(raw)
    if not torch.is_grad_enabled():  # a node's inputs do not tell
        raw = raw.detach()
    keywords: dict[str, Any] = {"reduction": reduction, "n_threads": n_threads, **fused._groups(group)}
    arguments = fused, _constant("y", y), None if sample_weight is None else _constant("sample_weight", sample_weight)
    return _Fused.apply(raw, (*arguments, keywords))


class Loss(torch.nn.Module):
    """A loss as a module: ``criterion = Loss("huber", delta=1.35)``, then ``criterion(raw, y)``.

    Parameters
    ----------
    name : str or Loss
        One of :func:`fastloss.list_losses`, or a Loss.
    reduction : {"mean", "sum", "none"}
        As in :func:`loss`.
    n_threads : int, optional
        As in :func:`loss`.
    **params
        Parameters of the loss.

    Examples
    --------
    >>> import torch
    >>> from fastloss.interop.torch import Loss
    >>> criterion = Loss("quantile", quantile=0.75)
    >>> criterion
    Loss(Quantile(quantile=0.75), reduction='mean')
    >>> criterion(torch.zeros(2), torch.tensor([1.0, -1.0]))
    tensor(0.5000)
    """

    def __init__(
        self, name: str | losses.Loss, reduction: Reduction = "mean", *, n_threads: int | None = None, **params: Any
    ) -> None:
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
        self.loss = losses.get_loss(name, **params)
        self.reduction: Literal["mean", "sum", "none"] = reduction
        self.n_threads = n_threads

    def forward(
        self,
        raw: torch.Tensor,
        y: torch.Tensor,
        sample_weight: torch.Tensor | None = None,
        *,
        group: ArrayLike | None = None,
    ) -> torch.Tensor:
        """The loss of raw predictions `raw` for targets `y`; see :func:`loss`."""
        return loss(self.loss, raw, y, sample_weight, self.reduction, group=group, n_threads=self.n_threads)

    def extra_repr(self) -> str:
        """What stands in the module's representation."""
        return f"{self.loss!r}, reduction={self.reduction!r}"


# ------------------------------------------------------------------------------------------------- tensors as arrays
def _view(name: str, tensor: torch.Tensor) -> NDArray:
    """The tensor's memory as a NumPy array."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name} must be a torch tensor, got {type(tensor).__name__}")
    if tensor.device.type != "cpu":
        raise ValueError(f"{name} is on device {tensor.device}; the kernels run on the CPU: pass {name}.cpu()")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be dense, got layout {tensor.layout}: pass {name}.to_dense()")
    if tensor.is_complex() or tensor.dtype == torch.bfloat16:  # NumPy has no bfloat16
        raise TypeError(f"{name} must hold real numbers that NumPy knows, got dtype {tensor.dtype}")
    return tensor.detach().resolve_neg().numpy()


def _constant(name: str, tensor: torch.Tensor) -> NDArray:
    """Targets or weights: no derivatives by these are computed, so none may be expected."""
    if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
        raise ValueError(f"{name} requires a gradient, but only that by raw is computed: pass {name}.detach()")
    return _view(name, tensor)


def _require_floating(raw: torch.Tensor) -> None:
    if not isinstance(raw, torch.Tensor):
        raise TypeError(f"raw must be a torch tensor, got {type(raw).__name__}")
    if raw.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"raw must be float32 or float64, got dtype {raw.dtype}: pass raw.float()")
