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

#: After a call with several threads their pool spins before it sleeps, and takes a core from the next call: OpenBLAS's
#: workers for 2^26 ticks of the clock, 26 ms at 2.6 GHz. With a shorter rest the contestant after a BLAS call was seen
#: to take twice its time.
REST = 0.06

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
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))  # -1: never, whatever the size


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
    contestants: Sequence[Contestant],
    rounds: int,
    budget: float,
    least: int = 3,
    batch: bool = False,
    warm: bool = True,
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
    warm : bool
        Whether each call is made once before the first round. Without, that call is the first round: for calls of
        seconds, beside which code and threads coming up cost nothing. It may be the only one (``least=1``).

    Returns
    -------
    dict
        key -> Timing, or Missing("failed", message) for a call that raised.
    """
    results: dict[Hashable, Timing | Missing] = {}
    alive, repeats, seconds = [], {}, {}
    end = time.perf_counter() + budget
    for contestant in contestants:
        try:
            with cores(contestant.threads):
                first = _measure(contestant.call, 1)  # warm-up: buffers touched, code and threads in place
        except Exception as error:
            results[contestant.key] = Missing.failed(error)
            continue
        repeats[contestant.key] = max(1, int(BATCH / max(first, 1e-7))) if batch else 1
        seconds[contestant.key] = [] if warm else [first]
        alive.append(contestant)
        if contestant.threads > 1 and not warm:
            time.sleep(REST)
    gc_was_on = gc.isenabled()
    gc.disable()
    try:
        end = time.perf_counter() + budget if warm else end
        for turn in range(0 if warm else 1, rounds):
            if turn >= least and time.perf_counter() > end:
                break
            first = turn % max(len(alive), 1)
            for contestant in alive[first:] + alive[:first]:
                with cores(contestant.threads):
                    if contestant.threads > 1 and warm:
                        # A team that rested starts 7 ms late, on the core where its master works, as seen on Linux:
                        # the timed call is the second, as in an optimiser's or a training loop.
                        contestant.call()
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
