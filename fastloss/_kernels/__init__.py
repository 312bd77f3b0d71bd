"""The compiled half: which instruction set's kernels are in use.

One module per instruction set holds the same functions; the best one this CPU runs is chosen at import.  The
environment variable ``FASTLOSS_ISA`` forces one.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from fastloss._kernels import dispatch

__all__ = ["available_isas", "current_isa", "dispatch", "use_isa"]

ISAS = ("baseline", "avx2", "avx512")


def _built(isa: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"fastloss._kernels.isa_{isa}")
    except ModuleNotFoundError:
        return None


def _load() -> dict[str, ModuleType]:
    runnable = {"baseline", *dispatch.cpu_features()}  # a module's very first instruction may be a foreign one
    modules = ((isa, _built(isa)) for isa in ISAS if isa in runnable)
    return {isa: module for isa, module in modules if module is not None}


_MODULES = _load()
_current = ""


def available_isas() -> tuple[str, ...]:
    """Instruction sets that were built and that this CPU runs, from the plainest to the best."""
    return tuple(_MODULES)


def current_isa() -> str:
    """The instruction set in use."""
    return _current


def _use(isa: str) -> None:
    global _current
    if isa not in _MODULES:
        why = "this CPU does not run it" if isa in ISAS and _MODULES else "there is no such instruction set"
        raise ValueError(f"FASTLOSS_ISA={isa!r}: {why}; available: {', '.join(_MODULES)}")
    dispatch.set_table(_MODULES[isa].TABLE)
    _current = isa


@contextmanager
def use_isa(isa: str) -> Iterator[None]:
    """Switch every loss to another instruction set, for tests and benchmarks (not thread-safe)."""
    previous = _current
    _use(isa)
    try:
        yield
    finally:
        _use(previous)


_use(os.environ.get("FASTLOSS_ISA") or available_isas()[-1])
