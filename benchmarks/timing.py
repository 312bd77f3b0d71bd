"""How a call is timed: warmed up, on stated cores, in turn with its rivals, garbage collection off."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

from threadpoolctl import threadpool_limits

from benchmarks.report import Missing

#: After a call with several threads their pool spins for some milliseconds and would disturb the next call.
REST = 0.02

#: A measurement of a short call repeats it for about this long.
BATCH = 0.004


@dataclass(frozen=True)
class Contestant:
    """A call to time. ``key`` names its result; ``threads`` is the number of threads the call uses."""

    key: Hashable
    call: Callable[[], object]
    threads: int = 1


@dataclass(frozen=True)
class Timing:
    """Seconds per call, one figure per round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def as_json(self) -> dict:
        return {"median": self.median, "min": min(self.seconds), "max": max(self.seconds), "all": self.seconds}


def keep_freed_memory() -> bool:
    """Let this process keep memory that is freed; False where the C library has no such setting.

    Without it every large temporary (NumPy's, torch's) is handed back to the system and its pages are faulted in
    again by the next call, at a cost that varies tenfold from run to run. With it temporaries are charged little.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


@contextlib.contextmanager
def cores(threads: int) -> Iterator[None]:
    """Run the block on ``threads`` cores: one means this thread is pinned to one core, where the system can.

    Libraries that size their pools themselves (BLAS, OpenMP) are limited to ``threads`` too, so that none
    starts a pool while pinned: its threads would inherit the one core.
    """
    with threadpool_limits(threads), pinned() if threads == 1 else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """Pin this thread to the last core it may use (the first one serves most interrupts)."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def alternate(
    contestants: Sequence[Contestant], rounds: int, budget: float, least: int = 3, batch: bool = False
) -> dict[Hashable, Timing | Missing]:
    """Time the contestants in turn, round after round; each round starts with another one.

    Parameters
    ----------
    contestants : sequence of Contestant
    rounds : int
        Rounds wanted.
    budget : float
        Seconds after which no round is begun, once ``least`` rounds are done.
    batch : bool
        Repeat a call within a measurement until it lasts `BATCH` seconds: for calls of microseconds.

    Returns
    -------
    dict
        key -> Timing, or Missing("failed", message) for a call that raised.
    """
    results: dict[Hashable, Timing | Missing] = {}
    alive, repeats = [], {}
    for contestant in contestants:
        try:
            with cores(contestant.threads):
                first = _measure(contestant.call, 1)  # warm-up: buffers touched, code and threads in place
                repeats[contestant.key] = max(1, int(BATCH / max(first, 1e-7))) if batch else 1
            alive.append(contestant)
        except Exception as error:
            results[contestant.key] = Missing.failed(error)
    seconds: dict[Hashable, list[float]] = {contestant.key: [] for contestant in alive}
    gc_was_on = gc.isenabled()
    gc.disable()
    try:
        end = time.perf_counter() + budget
        for turn in range(rounds):
            if turn >= least and time.perf_counter() > end:
                break
            first = turn % max(len(alive), 1)
            for contestant in alive[first:] + alive[:first]:
                with cores(contestant.threads):
                    seconds[contestant.key].append(_measure(contestant.call, repeats[contestant.key]))
                if contestant.threads > 1:
                    time.sleep(REST)
    finally:
        if gc_was_on:
            gc.enable()
    return results | {key: Timing(tuple(values)) for key, values in seconds.items()}


def _measure(call: Callable[[], object], repeats: int) -> float:
    """Seconds per call over ``repeats`` calls."""
    turns = range(repeats)
    start = time.perf_counter()
    for _ in turns:
        call()
    return (time.perf_counter() - start) / repeats
