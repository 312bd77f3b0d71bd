"""fastloss: fused loss and gradient kernels for CPUs, and scikit-learn estimators on top of them."""

from __future__ import annotations

from fastloss import losses
from fastloss._config import show_config
from fastloss._softmax import log_softmax, logsumexp, softmax
from fastloss._version import __version__
from fastloss.functional import gradient, gradient_hessian, loss, loss_gradient
from fastloss.losses import get_loss, list_losses
from fastloss.multitask import MultiTaskLoss
from fastloss.objective import LinearObjective

__all__ = [
    "LinearObjective",
    "MultiTaskLoss",
    "SGDLossClassifier",
    "SGDLossRegressor",
    "__version__",
    "check_loss",
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
