"""What door 5 times: calls that lead to one result, and how far apart their results are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


def as_it_is(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Call:
    """One way to a result."""

    run: Callable[[], Any]
    """What is timed."""

    result: Callable[[Any], Any] | None = as_it_is
    """Numbers and arrays to compare, of what ``run`` returned; None where there is nothing to compare."""

    scale: float = 1.0
    """The time shown by the time taken: below 1 for a unit of several, above where only a part is done."""

    def numbers(self) -> list[np.ndarray] | None:
        """The result of one more run, as copies: calls may share their outputs."""
        if self.result is None:
            return None
        parts = self.result(self.run())
        return [np.array(part, np.float64) for part in (parts if isinstance(parts, tuple) else (parts,))]


def difference(found: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """Largest difference in any part, relative to that part's largest entry; infinite when it cannot be told."""
    shares = []
    for a, b in zip(found, wanted, strict=True):
        if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
            return np.inf
        shares.append(float(np.abs(a - b).max() / max(np.abs(b).max(), np.finfo(float).tiny)))
    return max(shares)
