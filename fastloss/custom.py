"""CustomLoss: a loss whose formula is a user's own function, compiled or not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastloss import _callbacks
from fastloss._kernels import dispatch
from fastloss.losses._base import Loss
from fastloss.losses.multiclass import _likeliest

__all__ = ["CustomLoss", "cfunc_signature"]

# The links of a kind of loss, the default first.
_POINTWISE_LINKS = ("identity", "log", "logit", "sign")
_LINKS = {
    "regression": _POINTWISE_LINKS,
    "binary": ("sign", "logit", "identity", "log"),
    "multiclass": ("argmax", "softmax"),
}
_ZERO_ONE, _SIGNS = (0.0, 1.0), (-1.0, 1.0)


class CustomLoss(Loss):
    """A loss computed by a function of your own, at full speed where it is compiled.

    It works wherever a built-in loss does: all methods of :class:`fastloss.losses.Loss`, :class:`LinearObjective`, the
    estimators, threads, float32 and float64.

    Parameters
    ----------
    function : callable, compiled function, or dict of dtype to compiled function
        * A compiled function with the block signature (Notes): a numba ``cfunc``, a ``scipy.LowLevelCallable`` (its
          user data arrive as `data`), a capsule from a Cython module's ``__pyx_capi__``, a cffi or ctypes function
          pointer, or a bare address. One for float64 serves float32 data too (blocks are converted); a dict gives both.
        * A Python function ``f(y, raw, *params) -> (loss, gradient)``, with ``hessian=True`` ``(loss, gradient,
          hessian)``, of whole arrays: y and raw are read-only arrays (n,), or for "multiclass" labels (n,) or targets
          (n, K) and scores (n, K); losses have shape (n,), gradients and hessians that of raw.
    kind : {"regression", "binary", "multiclass"}, default "regression"
        What y is. The labels of a binary loss are recoded to those its function knows (`labels`); all else is handed on
        as the caller gave it.
    name : str, optional
        For messages; by default the function's own name.
    params : sequence of float or dict of str to float, default ()
        What the function gets as parameters, in this order, as float64.
    hessian : bool, default False
        Whether the function gives the second derivative (multiclass: the diagonal) too.
    signature : str or numba signature, optional
        "float64", "float32", C text or what :func:`cfunc_signature` returns: the signature of a bare address, or of a
        ctypes function without argtypes. There it is believed, and a wrong one crashes the process; beside a function
        that says its signature it must agree.
    link : str, optional
        What :meth:`predict` does: "identity", "log", "logit", "sign", or for "multiclass" "argmax", "softmax". By
        default the value, the side or the likeliest class.
    convex : bool, optional
        Whether the loss is convex in the raw prediction. It is believed. None: nothing is declared; solvers take it for
        convex, and :func:`check_loss` says whether it looks so.
    curvature : float, optional
        An upper bound of the second derivative; gives ``hessian="upper_bound"`` and good steps in streams.
    piecewise_linear : bool, default False
        Whether the loss is convex with a second derivative of 0 wherever there is one, like absolute error and hinge:
        ``learning_rate="auto"`` then takes its method for kinks. Not for "multiclass".
    soft_targets : bool, default False
        Whether the function takes targets between labels: probabilities of the positive class, or (n, K) targets
        (compiled functions: `label` is then NULL).
    target : str, optional
        The values of y the loss is defined for, in words.
    labels : {(0, 1), (-1, 1)}, optional
        Binary: the labels that the function is written for. The caller's negative label, 0 or −1, becomes the first of
        them before the function is called, wherever the loss is used; numbers between are handed on. By default they
        are found by one call with y = 0: (-1, 1) if all slopes there are 0, as those of a function of the margin y·raw
        are, or if the function refuses or raises; else (0, 1). With `soft_targets` they are (0, 1).

    Attributes
    ----------
    labels : tuple of float, or None
        The labels a binary loss's function gets.

    Raises
    ------
    TypeError
        For a function of another signature; the message has both.
    ValueError
        For options that contradict each other.

    Notes
    -----
    The block signature, for T = double or float::

        Py_ssize_t f(const T *y, const T *raw, T *loss, T *grad, T *hess, Py_ssize_t n,
                     const double *params, void *data)
        Py_ssize_t f(const T *y, const Py_ssize_t *label, const T *raw, T *loss, T *grad, T *hess,
                     Py_ssize_t n, Py_ssize_t K, const double *params, void *data)       /* multiclass */

    It computes n samples and returns n. Any other value is an error: the index of the first sample it refuses, or what
    a numba function that raised returns (0). `loss` and `grad` are always there to be written, `hess` exactly with
    ``hessian=True``. For multiclass losses raw, grad and hess are (n, K), C-contiguous, and one of `y` and `label` is
    given. Compiled functions are called by several threads at once, without the GIL.

    Python functions run on the calling thread, on blocks of about 4096 samples, and in SGD imply ``batch_size=256``. An
    exception ends the pass and propagates.

    Without hessians, what needs them inside (``learning_rate="auto"``) takes central differences of gradients, with
    steps 6e-6 (float32: 5e-3) times the larger of 1 and the raw prediction's size; methods that return hessians raise,
    also those of sums with such a loss. Where a loss is declared piecewise linear they are 0.

    Instances are immutable, compare equal when the function is the same object and all else is equal, and can be
    pickled when they hold a Python function that can.

    Examples
    --------
    >>> import numpy as np
    >>> import fastloss
    >>> def two_sided(y, raw, up, down):
    ...     r = raw - y
    ...     slope = np.where(r > 0, up, down) * r
    ...     return 0.5 * slope * r, slope
    >>> loss = fastloss.CustomLoss(two_sided, params={"up": 1.0, "down": 3.0})
    >>> loss.loss_gradient([0.0, 0.0], [1.0, -1.0], reduction="none")
    (array([0.5, 1.5]), array([ 1., -3.]))
    """

    name: str  # type: ignore[misc]
    kind: Literal["regression", "binary", "multiclass"]  # type: ignore[misc]
    function: Any
    soft_targets: bool
    labels: tuple[float, float] | None
    _kernel: dispatch.CallbackKernel  # type: ignore[misc]
    _hessian: bool
    _signature: Any
    _convex: bool | None
    _curvature: float | None

    def __init__(
        self,
        function: Any,
        kind: Literal["regression", "binary", "multiclass"] = "regression",
        name: str | None = None,
        params: Sequence[float] | Mapping[str, float] = (),
        hessian: bool = False,
        signature: Any = None,
        *,
        link: str | None = None,
        convex: bool | None = None,
        curvature: float | None = None,
        piecewise_linear: bool = False,
        soft_targets: bool = False,
        target: str | None = None,
        labels: tuple[float, float] | None = None,
    ) -> None:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a string or None, got {name!r}")
        name = name or getattr(function, "__name__", None) or "custom loss"
        if kind not in _LINKS:
            raise ValueError(f"{name}: kind must be one of {', '.join(map(repr, _LINKS))}, got {kind!r}")
        flags = {"hessian": hessian, "piecewise_linear": piecewise_linear, "soft_targets": soft_targets}
        for option, value in {**flags, "convex": convex}.items():
            none = " or None" if option == "convex" else ""
            if not isinstance(value, bool | np.bool_) and not (none and value is None):
                raise TypeError(f"{name}: {option} must be True or False{none}, got {value!r}")
        if link is not None and link not in _LINKS[kind]:
            raise ValueError(f"{name}: link must be one of {', '.join(map(repr, _LINKS[kind]))}, got {link!r}")
        convex = bool(piecewise_linear) or None if convex is None else bool(convex)
        if piecewise_linear and (kind == "multiclass" or not convex):
            what = "kind='multiclass'" if kind == "multiclass" else "convex=False"
            raise ValueError(f"{name}: piecewise_linear=True is for convex losses of one score, got {what}")
        self.__dict__.update(
            function=function,
            kind=kind,
            name=name,
            params=MappingProxyType(_named(name, params)),
            link=link or _LINKS[kind][0],
            piecewise_linear=bool(piecewise_linear),
            soft_targets=bool(soft_targets),
            target=target or "what its function takes",
            _hessian=bool(hessian),
            _signature=signature,
            _convex=convex,
            _curvature=_checked_curvature(name, curvature),
        )
        self.__dict__["labels"] = _checked_labels(self, labels)
        functions = _functions(name, function, kind == "multiclass", signature)
        self.__dict__["_kernel"] = self._own_kernel(functions)
        if kind == "binary":
            known = self.labels or self._found_labels(np.float32 if set(functions) == {"float32"} else np.float64)
            self.__dict__["labels"] = known
            self._kernel.set_labels(known)

    def _own_kernel(self, functions: dict[str, Any]) -> dispatch.CallbackKernel:
        constants = np.array(list(self.params.values()), np.float64)
        multiclass = self.kind == "multiclass"
        kernel = dispatch.CallbackKernel(
            self.name,
            self.target,
            self.kind == "binary",
            functions,
            constants,
            self._hessian,
            multiclass,
            self.piecewise_linear,
            self.function,
        )
        if multiclass:
            kernel.set_scores(None, None, self.soft_targets, False)
        return kernel

    def _found_labels(self, dtype: type) -> tuple[float, float]:
        """The labels the function is written for: a function of the margin y·raw has no slope at y = 0."""
        raw: NDArray[Any] = np.array([-3.0, -0.3, 0.3, 3.0], dtype)
        try:
            with np.errstate(all="ignore"):
                slopes = self.gradient(np.zeros_like(raw), raw, reduction="none")
        except Exception:  # of whatever sort: 0 is no label of it
            return _SIGNS
        return _ZERO_ONE if slopes.any() else _SIGNS

    # --------------------------------------------------------------------------------------------- what a loss is
    @property
    def _registered(self) -> str:
        return ""

    @property
    def convex(self) -> bool:
        """Whether the loss is taken for convex in the raw prediction: it was not declared otherwise."""
        return self._convex is not False

    @property
    def _declares_convex(self) -> bool:
        return self._convex is True

    def curvature(self) -> float:
        """The upper bound of the second derivative that was given; inf where none was."""
        return math.inf if self._curvature is None else self._curvature

    def _envelope(self, step: float) -> dispatch.Kernel:
        return (1.0 * self)._envelope(step)  # found numerically, as for sums

    @property
    def _hessian_jumps(self) -> bool:
        return True  # nobody knows

    @property
    def _estimates_side_only(self) -> bool:
        return self.link in ("sign", "argmax")

    def _hessian_policy(self, hessian: str) -> float | str:
        if hessian == "exact" and not self._hessian and not self.piecewise_linear:
            bound = "" if self.curvature() == math.inf else ", or take hessian='upper_bound'"
            raise ValueError(
                f"hessian='exact': {self.name} has no hessian: pass hessian=True to CustomLoss, with a function that "
                f"gives one{bound}"
            )
        return super()._hessian_policy(hessian)

    def _estimate(self, raw: NDArray) -> NDArray:
        if self.kind != "multiclass":
            return super()._estimate(raw)
        if raw.ndim != 2 or raw.shape[1] == 0:
            raise ValueError(f"raw_prediction must have shape (n, K) with K >= 1 scores, got {raw.shape}")
        return dispatch.softmax(raw, False) if self.link == "softmax" else _likeliest(raw)

    # --------------------------------------------------------------------------------------------- what an object is
    def _arguments(self) -> dict[str, Any]:
        """The constructor's arguments beside the function."""
        return {
            "kind": self.kind,
            "name": self.name,
            "params": dict(self.params),
            "hessian": self._hessian,
            "signature": self._signature,
            "link": self.link,
            "convex": self._convex,
            "curvature": self._curvature,
            "piecewise_linear": self.piecewise_linear,
            "soft_targets": self.soft_targets,
            "target": self.target,
            "labels": self.labels,
        }

    def __repr__(self) -> str:
        given = [f"{name}={value!r}" for name, value in (("kind", self.kind), ("params", dict(self.params))) if value]
        return f"CustomLoss({', '.join([self.name, *given])})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, CustomLoss)
            and self._identities() == other._identities()
            and self._arguments() == other._arguments()
        )

    def __hash__(self) -> int:
        return hash((*self._identities(), self.kind, self.name, *self.params.items()))

    def _identities(self) -> tuple[Any, ...]:
        if isinstance(self.function, Mapping):
            return tuple(sorted((_callbacks.dtype_name(dtype), id(one)) for dtype, one in self.function.items()))
        return (self.function if isinstance(self.function, int) else id(self.function),)

    def __copy__(self) -> CustomLoss:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> CustomLoss:
        return self  # immutable, and a compiled function is where it is

    def __reduce__(self) -> Any:
        if not self._kernel.python:
            raise TypeError(
                f"{self.name} cannot be pickled: its function is compiled, at an address of this process; make the "
                "CustomLoss anew in the other process"
            )
        return _rebuild, (self.function, self._arguments())


def _rebuild(function: Any, arguments: dict[str, Any]) -> CustomLoss:
    return CustomLoss(function, **arguments)


def cfunc_signature(dtype: Any = "float64", multiclass: bool = False) -> Any:
    """The numba signature of a callback, for ``@numba.cfunc(fastloss.cfunc_signature("float64"))``.

    Parameters
    ----------
    dtype : {"float64", "float32"} or dtype
        Of the blocks.
    multiclass : bool, default False
        For a loss over K scores.

    Returns
    -------
    numba signature

    Raises
    ------
    ImportError
        Where numba is not installed.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.cfunc_signature("float32")  # doctest: +SKIP
    (float32*, float32*, float32*, float32*, float32*, int64, float64*, void*) -> int64
    """
    name = _callbacks.dtype_name(dtype)
    try:
        from numba import types
    except ImportError:
        raise ImportError("cfunc_signature needs numba: pip install numba") from None
    numbers, size = types.CPointer(getattr(types, name)), types.intp
    tail = [types.CPointer(types.float64), types.voidptr]
    if multiclass:
        return size(numbers, types.CPointer(size), numbers, numbers, numbers, numbers, size, size, *tail)
    return size(numbers, numbers, numbers, numbers, numbers, size, *tail)


# ------------------------------------------------------------------------------------------------- arguments
def _functions(name: str, function: Any, multiclass: bool, signature: Any) -> dict[str, Any]:
    """What the compiled half takes: addresses by dtype, or a Python function."""
    if isinstance(function, Mapping):
        return _by_dtype(name, function, multiclass, signature)
    found = _callbacks.compiled(function)
    if found is None:
        if not callable(function):
            raise TypeError(
                f"{name}: function must be a compiled function (numba cfunc, LowLevelCallable, capsule, cffi or ctypes "
                f"pointer, address), a dict of them by dtype, or a Python function, got {function!r}"
            )
        if signature is not None:
            raise TypeError(f"{name}: signature={signature!r} is for compiled functions, got the Python {function!r}")
        return {"python": function}
    return {_callbacks.checked_dtype(name, found, multiclass, signature): _place(name, found)}


def _by_dtype(name: str, functions: Mapping[Any, Any], multiclass: bool, signature: Any) -> dict[str, Any]:
    if not functions:
        raise ValueError(f"{name}: function is an empty dict, expected compiled functions by dtype")
    if signature is not None:
        raise TypeError(f"{name}: signature={signature!r} beside a dict, whose keys say it")
    places = {}
    for dtype, one in functions.items():
        found = _callbacks.compiled(one)
        if found is None:
            raise TypeError(f"{name}: function[{dtype!r}] must be a compiled function, got {one!r}")
        key = _callbacks.dtype_name(dtype)
        _callbacks.checked_dtype(name, found, multiclass, key)
        places[key] = _place(name, found)
    return places


def _place(name: str, found: _callbacks.Compiled) -> tuple[int, int]:
    if found.address == 0:
        raise ValueError(f"{name}: {found.text} is NULL")
    return found.address, found.data


def _named(name: str, params: Any) -> dict[str, float]:
    """Parameters by name; those of a sequence are called by their places."""
    if isinstance(params, str | bytes) or not isinstance(params, Mapping | Sequence | np.ndarray):
        raise TypeError(f"{name}: params must be a sequence of numbers or a dict of them by name, got {params!r}")
    items = params.items() if isinstance(params, Mapping) else ((f"params[{k}]", x) for k, x in enumerate(params))
    values = {}
    for key, value in items:
        if isinstance(value, bool | str | bytes | complex) or not hasattr(value, "__float__"):
            raise TypeError(f"{name}: {key} must be a number, got {value!r}")
        values[str(key)] = float(value)
    return values


def _checked_labels(loss: CustomLoss, labels: Any) -> tuple[float, float] | None:
    """The labels that were given, or that follow from soft targets."""
    if labels is None:
        return _ZERO_ONE if loss.soft_targets and loss.kind == "binary" else None
    if loss.kind != "binary":
        raise ValueError(f"{loss.name}: labels={labels!r} is for kind='binary', got kind={loss.kind!r}")
    found = next((known for known in (_ZERO_ONE, _SIGNS) if np.array_equal(labels, known)), None)
    if found is None:
        raise ValueError(f"{loss.name}: labels must be None, (0, 1) or (-1, 1), got {labels!r}")
    if loss.soft_targets and found == _SIGNS:
        raise ValueError(f"{loss.name}: soft_targets=True needs probabilities, in [0, 1], got labels={labels!r}")
    return found


def _checked_curvature(name: str, curvature: Any) -> float | None:
    if curvature is None:
        return None
    if isinstance(curvature, bool | str | bytes | complex) or not hasattr(curvature, "__float__"):
        raise TypeError(f"{name}: curvature must be a number > 0 or None, got {curvature!r}")
    if not 0 < float(curvature) < math.inf:
        raise ValueError(f"{name}: curvature must be finite and > 0, got {curvature!r}")
    return float(curvature)
