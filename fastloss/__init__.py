"""fastloss: fused loss and gradient kernels for CPUs, and scikit-learn estimators on top of them."""

from __future__ import annotations

from pathlib import Path

from fastloss import losses
from fastloss._config import show_config
from fastloss._kernels import dispatch
from fastloss._softmax import log_softmax, logsumexp, softmax
from fastloss._version import __version__
from fastloss.custom import CustomLoss, cfunc_signature
from fastloss.functional import gradient, gradient_hessian, loss, loss_gradient
from fastloss.losses import get_loss, list_losses
from fastloss.multitask import MultiTaskLoss
from fastloss.objective import LinearObjective

#: Version of the block signature and of the tables in ``_kernels/abi.pxd``.
ABI_VERSION = dispatch.ABI

__all__ = [
    "ABI_VERSION",
    "CustomLoss",
    "LinearObjective",
    "MultiTaskLoss",
    "SGDLossClassifier",
    "SGDLossRegressor",
    "__version__",
    "cfunc_signature",
    "check_loss",
    "get_include",
    "get_loss",
    "gradient",
    "gradient_hessian",
    "list_losses",
    "log_softmax",
    "logsumexp",
    "loss",
    "loss_gradient",
    "losses",
    "show_config",
    "softmax",
]


def get_include() -> str:
    """The folder of ``fastloss_math.h``, for a C compiler's -I.

    Returns
    -------
    str

    Examples
    --------
    >>> import fastloss, os
    >>> os.listdir(fastloss.get_include())
    ['fastloss_math.h']
    """
    return str(Path(__file__).parent / "include")


def __getattr__(name: str) -> object:
    # scikit-learn takes a second to import; who only wants kernels need not wait for it.
    if name in ("SGDLossClassifier", "SGDLossRegressor"):
        from fastloss import linear_model

        return getattr(linear_model, name)
    if name == "check_loss":
        from fastloss.check import check_loss

        return check_loss
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
