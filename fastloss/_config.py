"""What this installation runs with."""

from __future__ import annotations

import fastloss
from fastloss._kernels import available_isas, current_isa, dispatch


def show_config() -> dict[str, object]:
    """Version, instruction sets, compiler, OpenMP and threads of this installation.

    Returns
    -------
    dict
        ``version``, ``isa`` (in use), ``isas_available``, ``compiler``, ``openmp`` (the specification's date, 0 if
        built without), ``n_threads`` (what ``n_threads=None`` uses on large arrays).

    Examples
    --------
    >>> import fastloss
    >>> sorted(fastloss.show_config())
    ['compiler', 'isa', 'isas_available', 'n_threads', 'openmp', 'version']
    """
    return {
        "version": fastloss.__version__,
        "isa": current_isa(),
        "isas_available": available_isas(),
        **dispatch.build_info(),
        "n_threads": dispatch.usable_threads(),
    }
