"""What the doors that time a call share: who offers it, whether the timed call gives what was checked, the ratios."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import accuracy, peer_fastloss, timing
from benchmarks.peers import Kernel, NotAvailable, Peer
from benchmarks.report import Column, Missing, Row, ratio, significant

OURS = "fastloss"

#: Samples of a timed call's gradient that are looked at, and about how many numbers at most.
CHECKED = 1000
CHECKED_NUMBERS = 1_000_000


def implementations_of(loss: str, params: dict, peers: Sequence[Peer]) -> tuple[dict[str, Kernel], dict[str, Missing]]:
    """Kernels of a loss by name, ours first, and who has none."""
    found: dict[str, Kernel] = {OURS: peer_fastloss.kernel(loss, params)}
    absent = {}
    for peer in peers:
        try:
            found[peer.NAME] = peer.kernel(loss, params)
        except NotAvailable as reason:
            absent[peer.NAME] = Missing("n/a", str(reason))
    return found, absent


def errors_of(implementations: dict[str, Kernel], exact: accuracy.Exact | None, y, raw) -> dict[str, tuple]:
    """Largest errors of loss and gradient in ulp, by implementation; None without an exact value."""
    errors: dict[str, tuple] = {}
    for name, kernel in implementations.items():
        try:
            found = exact.errors(*kernel.per_sample(y, raw)) if exact else (None, None)
        except Exception:  # the timed call has failed too, and says why
            continue
        errors[name] = (None if kernel.loss_note else found[0], found[1])
    return errors


def timed(result: timing.Timing | Missing) -> bool:
    """Whether there is a figure."""
    return isinstance(result, timing.Timing)


def wrong(implementations: dict[str, Kernel], calls: dict, y: np.ndarray, raw: np.ndarray) -> dict[Any, Missing]:
    """The calls that do not give what ``per_sample`` gives, whose errors the row shows.

    Each is run once more: its mean loss must be that of our per-sample losses, its gradient that of its own
    ``per_sample`` at every k-th sample.
    """
    mean = float(np.mean(implementations[OURS].per_sample(y, raw)[0], dtype=np.float64))
    at = slice(None, None, max(1, len(y) // CHECKED, raw.size // CHECKED_NUMBERS))
    found = {}
    for (name, t), call in calls.items():
        kernel = implementations[name]
        try:
            expected = kernel.per_sample(y[at].copy(), raw[at].copy())[1]
            loss, gradient = call()
            problem = _disagreement(loss, gradient, at, None if kernel.loss_note else mean, expected)
        except Exception as error:
            found[name, t] = Missing.failed(error)
            continue
        if problem:
            found[name, t] = Missing("failed", problem)
    return found


def _disagreement(loss, gradient, at: slice, mean: float | None, expected: np.ndarray) -> str:
    """Empty when a timed call's result is right; with a scalar loss the gradient is that of the mean."""
    eps = np.finfo(gradient.dtype).eps
    scale = len(gradient) if np.ndim(loss) == 0 else 1
    got = gradient[at].astype(np.float64) * scale
    if not np.allclose(got, expected, rtol=16 * eps, atol=16 * eps * np.abs(expected).max()):
        return "the timed call's gradient is not the one that was checked"
    loss = float(np.mean(loss, dtype=np.float64))
    if mean is not None and not np.isclose(loss, mean, rtol=1000 * eps):
        return f"mean loss {loss!r} instead of {mean!r}"
    return ""


def ratios(row: Row, peers: Sequence[Peer]) -> Row:
    """Each peer's time by ours, where there are both."""
    ours = row[f"{OURS}_time"]
    theirs = {peer.NAME: row.get(f"{peer.NAME}_time") for peer in peers}
    if isinstance(ours, Missing):
        return {}
    return {f"{name}_ratio": time / ours for name, time in theirs.items() if isinstance(time, int | float)}


def peer_columns(peers: Sequence[Peer], unit: str, last: Column) -> list[Column]:
    """Under each peer's name its time, the ratio, and the column ``last``."""
    return [
        column
        for peer in peers
        for column in (
            Column(f"{peer.NAME}_time", unit, significant(3), peer.NAME),
            Column(f"{peer.NAME}_ratio", "ratio", ratio, peer.NAME),
            Column(f"{peer.NAME}_{last.key}", last.heading, last.write, peer.NAME),
        )
    ]
