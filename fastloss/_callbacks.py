"""Compiled functions of a user: where they are, and whether they have the block signature.

Everything that compiles functions describes them in its own way: numba and ctypes by type objects, cffi and Cython by C
text.  All of it is brought to one form, the list of the result's and the arguments' types as ``double``, ``float*``,
``ssize`` ..., and compared with the four signatures of ``_kernels/abi.pxd``.  An address alone says nothing of itself.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

DTYPES = ("float64", "float32")
_C_NAMES = {"float64": "double", "float32": "float"}
_POINTWISE = (
    "Py_ssize_t (const T *y, const T *raw, T *loss, T *grad, T *hess, Py_ssize_t n, const double *params, void *data)"
)
_SCORES = (
    "Py_ssize_t (const T *y, const Py_ssize_t *label, const T *raw, T *loss, T *grad, T *hess, Py_ssize_t n, "
    "Py_ssize_t K, const double *params, void *data)"
)
# Names of a signed integer of the size of a pointer, where they are that.
_SIZES = {"Py_ssize_t", "ssize_t", "ptrdiff_t", "intptr_t", "npy_intp", "intp_t", "intp"}
_SIZES |= {"int64_t", "npy_int64", "longlong", "int64"} if ctypes.sizeof(ctypes.c_void_p) == 8 else {"int32_t", "int"}
_SIZES |= {"long"} if ctypes.sizeof(ctypes.c_long) == ctypes.sizeof(ctypes.c_void_p) else set()
_TYPE_WORDS = {"int", "long", "short", "char", "double", "float", "unsigned", "signed"}
_FLOATS = dict.fromkeys(("double", "float64", "float64_t", "npy_float64", "npy_double"), "double")
_FLOATS |= dict.fromkeys(("float", "float32", "float32_t", "npy_float32", "npy_float"), "float")

_FUNCTION_POINTER = ctypes.CFUNCTYPE(None).__bases__[0]
_capsule_name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", ctypes.pythonapi))
_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_capsule_context = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(("PyCapsule_GetContext", ctypes.pythonapi))


@dataclass(frozen=True)
class Compiled:
    """A function in memory.

    Attributes
    ----------
    address, data : int
        Of the function and of what it gets as `data`; 0 is NULL.
    types : tuple of str or None
        The result's and the arguments' types in the common form; None: unknown.
    text : str
        What kind of object it is, and its signature as it is written there.
    """

    address: int
    data: int
    types: tuple[str, ...] | None
    text: str


def signature_text(dtype: str, multiclass: bool) -> str:
    """The C signature of a callback."""
    return (_SCORES if multiclass else _POINTWISE).replace("T *", f"{_C_NAMES[dtype]} *")


def dtype_name(dtype: Any) -> str:
    """The name, "float64" or "float32"."""
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = ""
    if name not in DTYPES:
        raise ValueError(f"dtype must be 'float64' or 'float32', got {dtype!r}")
    return name


def compiled(function: Any) -> Compiled | None:
    """What is known of a compiled function; None for an object that is none."""
    if isinstance(function, bool):
        return None
    for recognise in (_numba, _low_level, _capsule, _cffi, _ctypes, _address):
        found = recognise(function)
        if found is not None:
            return found
    return None


def checked_dtype(owner: str, found: Compiled, multiclass: bool, signature: Any) -> str:
    """The dtype of the blocks a function takes; TypeError where it is not one of the block signature."""
    known = {dtype: c_types(signature_text(dtype, multiclass)) for dtype in DTYPES}
    declared = _declared(owner, signature, known, multiclass)
    if found.types is None:
        if declared is None:
            raise TypeError(
                f"{owner}: {found.text} does not say its signature: pass signature='float64' or 'float32' for "
                f"{signature_text('float64', multiclass)!r} (float: the same with float)"
            )
        return declared
    for dtype, types in known.items():
        if _agree(found.types, types):
            if declared not in (None, dtype):
                raise TypeError(f"{owner}: signature={signature!r}, but {found.text} is for {dtype}")
            return dtype
    wanted = signature_text("float64", multiclass)
    other = any(_agree(found.types, c_types(signature_text(dtype, not multiclass))) for dtype in DTYPES)
    hint = f" (it is one of {'pointwise' if multiclass else 'multiclass'} losses: see kind)" if other else ""
    raise TypeError(
        f"{owner}: {found.text} is not the signature of a callback{hint}; expected {wanted!r}, or the same with float "
        "for double where it is not params"
    )


def _declared(owner: str, signature: Any, known: Mapping[str, Any], multiclass: bool) -> str | None:
    """The dtype that `signature` names or spells."""
    if signature is None:
        return None
    declared = _spelled(signature)
    if declared is not None:
        for dtype, types in known.items():
            if _agree(declared, types):
                return dtype
        raise TypeError(
            f"{owner}: signature={signature!r} is not the signature of a callback; expected "
            f"{signature_text('float64', multiclass)!r}, or the same with float for double where it is not params"
        )
    try:
        return dtype_name(signature)
    except ValueError:
        raise TypeError(
            f"{owner}: signature must be None, 'float64', 'float32', a C signature or what cfunc_signature returns, "
            f"got {signature!r}"
        ) from None


def _spelled(signature: Any) -> tuple[str, ...] | None:
    """The types of a signature that spells them: C text, a numba signature, or the text of one."""
    if hasattr(signature, "return_type") and hasattr(signature, "args"):
        return tuple(_numba_type(kind) for kind in (signature.return_type, *signature.args))
    if not isinstance(signature, str) or "(" not in signature:
        return None
    arguments, _, result = signature.rpartition("->")  # numba writes the result last
    return c_types(result + arguments if arguments else signature)


def _agree(types: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """Whether types are the wanted ones; the last, `data`, may be any pointer."""
    return types[:-1] == wanted[:-1] and types[-1].endswith("*")


# ------------------------------------------------------------------------------------------------- types in one form
def c_types(text: str) -> tuple[str, ...]:
    """Result and arguments of a C signature such as "double (float const *, Py_ssize_t n)"."""
    result, _, arguments = text.replace("(*)", " ").partition("(")
    return tuple(_c_type(part) for part in [result, *arguments.rpartition(")")[0].split(",")])


def _c_type(text: str) -> str:
    stars = text.count("*")
    words = re.findall(r"\w+", text.partition("*")[0])
    words = [word for word in words if word not in ("const", "restrict", "volatile", "struct")]
    if len(words) > 1 and words[-1] not in _TYPE_WORDS:
        words.pop()  # the argument's name
    base = " ".join(words)
    base = {"long int": "long", "long long": "longlong", "long long int": "longlong"}.get(base, base)
    base = re.sub(r"^__pyx_t_\d+\w*?_(?=float\d+_t$|intp_t$|int64_t$)", "", base)  # a typedef cimported by Cython
    return _name(base) + "*" * stars


def _name(base: str) -> str:
    return "ssize" if base in _SIZES else _FLOATS.get(base, base or "?")


def _ctypes_type(kind: Any) -> str:
    if kind is None:
        return "void"
    if kind is ctypes.c_void_p:
        return "void*"
    target = getattr(kind, "_type_", None)
    if isinstance(target, type):
        return _ctypes_type(target) + "*"
    return _name(kind.__name__.removeprefix("c_"))


def _numba_type(kind: Any) -> str:
    target = getattr(kind, "dtype", None) if type(kind).__name__ == "CPointer" else None
    if target is not None:
        return _numba_type(target) + "*"
    name = str(kind)
    return {"float64": "double", "float32": "float", "void*": "void*", "none": "void"}.get(name, _name(name))


# ------------------------------------------------------------------------------------------------- objects
def _numba(function: Any) -> Compiled | None:
    module = sys.modules.get("numba.core.ccallback")
    if module is None or not isinstance(function, module.CFunc):
        return None
    signature = function._sig
    types = tuple(_numba_type(kind) for kind in (signature.return_type, *signature.args))
    return Compiled(function.address, 0, types, f"the numba cfunc {signature}")


def _low_level(function: Any) -> Compiled | None:
    module = sys.modules.get("scipy._lib._ccallback")
    if module is None or not isinstance(function, module.LowLevelCallable):
        return None
    found = _capsule(tuple.__getitem__(function, 0))
    assert found is not None
    return Compiled(found.address, found.data, found.types, f"the LowLevelCallable {function.signature!r}")


def _capsule(function: Any) -> Compiled | None:
    if type(function).__name__ != "PyCapsule":
        return None
    name = _capsule_name(function)
    address = _capsule_pointer(function, name)
    text = (name or b"").decode()
    types = c_types(text) if "(" in text else None
    return Compiled(address or 0, _capsule_context(function) or 0, types, f"the capsule {text!r}")


def _cffi(function: Any) -> Compiled | None:
    if "_cffi_backend" not in sys.modules or not isinstance(function, sys.modules["_cffi_backend"]._CDataBase):
        return None
    backend: Any = sys.modules["_cffi_backend"]
    kind = backend.typeof(function)
    address = int(backend.cast(backend.new_primitive_type("uintptr_t"), function))
    if kind.kind != "function":
        return Compiled(address, 0, None, f"the cffi object {kind.cname!r}")
    types = tuple(_c_type(part.cname) for part in (kind.result, *kind.args))
    return Compiled(address, 0, types, f"the cffi function {kind.cname!r}")


def _ctypes(pointer: Any) -> Compiled | None:
    if not isinstance(pointer, _FUNCTION_POINTER):
        return None
    function: Any = pointer
    address = ctypes.cast(function, ctypes.c_void_p).value or 0
    if function.argtypes is None:
        return Compiled(address, 0, None, f"the ctypes function {function!r} without argtypes")
    kinds = (function.restype, *function.argtypes)
    text = ", ".join(getattr(kind, "__name__", str(kind)) for kind in kinds[1:])
    types = tuple(_ctypes_type(kind) for kind in kinds)
    return Compiled(address, 0, types, f"the ctypes function {getattr(kinds[0], '__name__', 'void')} ({text})")


def _address(function: Any) -> Compiled | None:
    if isinstance(function, ctypes.c_void_p):
        function = function.value or 0
    if not isinstance(function, int | np.integer):
        return None
    return Compiled(int(function), 0, None, f"the address {int(function):#x}")
