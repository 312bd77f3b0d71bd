"""The losses, by class and by name."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

from fastloss.losses._base import Loss
from fastloss.losses._batch import BatchLoss
from fastloss.losses.batch import *  # noqa: F403 - a new class is public without a line here; __all__ below
from fastloss.losses.binary import *  # noqa: F403
from fastloss.losses.counts import *  # noqa: F403
from fastloss.losses.multiclass import *  # noqa: F403
from fastloss.losses.regression import *  # noqa: F403

Kind = Literal["regression", "binary", "multiclass", "batch"]
KINDS = ("regression", "binary", "multiclass", "batch")


def _concrete(cls: type[Loss]) -> dict[str, type[Loss]]:
    found = {cls.name: cls} if cls.name else {}
    for subclass in cls.__subclasses__():
        # A user's subclass is not registered.
        if subclass.__module__.startswith(__name__):
            found.update(_concrete(subclass))
    return found


_CLASSES = dict(sorted(_concrete(Loss).items()))

__all__ = ["BatchLoss", "Loss", "get_class", "get_loss", "list_losses"]
__all__ += sorted(cls.__name__ for cls in _CLASSES.values())


def list_losses(kind: Kind | None = None) -> tuple[str, ...]:
    """Names of the per-sample losses, or of one kind of losses, sorted.

    Parameters
    ----------
    kind : {"regression", "binary", "multiclass", "batch"}, optional
        Only those for this kind of target; "batch": the losses over a whole batch, which are listed only then.

    Examples
    --------
    >>> import fastloss
    >>> "huber" in fastloss.list_losses(kind="regression")
    True
    """
    if kind not in (None, *KINDS):
        raise ValueError(f"kind must be 'regression', 'binary', 'multiclass', 'batch' or None, got {kind!r}")
    return tuple(name for name, cls in _CLASSES.items() if cls.kind == kind or (kind is None and cls.kind != "batch"))


def get_class(name: str) -> type[Loss]:
    """The class of a loss's name.

    Raises
    ------
    ValueError
        For an unknown name; the message lists the known ones.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.losses.get_class("huber")(delta=2.0)
    Huber(delta=2.0)
    """
    if not isinstance(name, str):
        raise TypeError(f"loss must be a name or a Loss, got {name!r}")
    if name not in _CLASSES:
        raise ValueError(f"unknown loss {name!r}; the losses are {', '.join(_CLASSES)}")
    return _CLASSES[name]


def get_loss(loss: str | Loss, **params: Any) -> Loss:
    """A loss object from its name and parameters.

    Parameters
    ----------
    loss : str or Loss
        A name of :func:`list_losses`, or a Loss, which is returned as it is (and then takes no parameters).
    **params
        The loss's parameters.

    Returns
    -------
    Loss

    Raises
    ------
    ValueError
        For an unknown name or a parameter out of range.
    TypeError
        For an unknown parameter, or one of a wrong type.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.get_loss("huber", delta=1.35)
    Huber(delta=1.35)
    """
    if isinstance(loss, Loss):
        if params:
            raise TypeError(f"parameters {sorted(params)} given beside the finished loss {loss!r}")
        return loss
    cls = get_class(loss)
    try:
        return _cached(cls.name, tuple(sorted((name, type(value), value) for name, value in params.items())))
    except TypeError:  # an unhashable value: let the class say what is wrong with it
        return cls(**params)


@lru_cache(maxsize=256)
def _cached(name: str, params: tuple[tuple[str, type, Any], ...]) -> Loss:
    # The types are part of the key: 1, 1.0 and True are equal, but not all are allowed everywhere.
    # Making a loss takes 10 µs, a call on a thousand samples 5: the function forms would mostly be making losses.
    return _CLASSES[name](**{parameter: value for parameter, _, value in params})
