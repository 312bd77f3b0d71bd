"""The machine sheet: everything a figure depends on, and the bandwidth of this machine's memory."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np

import fastloss
from benchmarks import timing

#: Bytes per element of the triad a = b + s*c, counted as STREAM does: two reads, one write.
TRIAD_BYTES = 24


def usable_cores() -> int:
    """Cores this process may use: affinity, container quota and ``OMP_NUM_THREADS`` respected."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    cores = joblib.cpu_count()
    return min(cores, int(wanted)) if wanted.isdigit() and int(wanted) > 0 else cores


class Triad:
    """STREAM's triad on three float64 arrays of n elements, in compiled code."""

    def __init__(self, n: int):
        self.n = n
        self.a, self.b, self.c = np.zeros(n), np.full(n, 1.0), np.full(n, 2.0)

    def call(self, n_threads: int) -> Callable[[], None]:
        from fastloss._kernels.dispatch import _triad

        return lambda: _triad(self.a, self.b, self.c, 3.0, n_threads)

    def contestant(self, n_threads: int) -> timing.Contestant:
        return timing.Contestant(("triad", n_threads), self.call(n_threads), n_threads)

    def bandwidth(self, seconds: float) -> float:
        """Bytes per second."""
        return TRIAD_BYTES * self.n / seconds


class Read:
    """Reading without writing: x·x of n float64 numbers, by BLAS on as many cores as it is given."""

    def __init__(self, n: int):
        self.x = np.full(n, 1.0)

    def contestant(self, n_threads: int) -> timing.Contestant:
        return timing.Contestant(("read", n_threads), lambda: np.dot(self.x, self.x), n_threads)

    def bandwidth(self, seconds: float) -> float:
        """Bytes per second."""
        return self.x.nbytes / seconds


def read_bandwidth(threads: tuple[int, ...], n: int) -> dict[int, float]:
    """Median read bandwidth in bytes per second for each number of threads."""
    read = Read(n)
    times = timing.alternate([read.contestant(t) for t in threads], rounds=9, budget=2.0)
    return {t: read.bandwidth(times["read", t].median) for t in threads}


def triad_bandwidth(threads: tuple[int, ...], n: int) -> dict[int, float]:
    """Median triad bandwidth in bytes per second for each number of threads."""
    triad = Triad(n)
    times = timing.alternate([triad.contestant(t) for t in threads], rounds=9, budget=2.0)
    medians = {t: times["triad", t].median for t in threads}
    return {t: triad.bandwidth(median) for t, median in medians.items()}


def triad_size() -> int:
    """Elements per array: four times the last-level cache, as STREAM asks, between 1e7 and 6e7."""
    return min(max(10_000_000, 4 * last_level_cache() // 8), 60_000_000)


def sheet(threads: tuple[int, ...], triad: dict[int, float], read: dict[int, float]) -> dict[str, str]:
    """Label -> value, in the order to show; the bandwidths are those of `triad_bandwidth` and `read_bandwidth`."""
    config = fastloss.show_config()
    openmp = f"OpenMP {config['openmp']}" if config["openmp"] else "without OpenMP: one thread"
    compiler = f"{config['compiler']}, {openmp}"
    return {
        "CPU": cpu_model() + (" (virtual machine)" if "hypervisor" in cpu_flags() else ""),
        "cores": f"{os.cpu_count()} in the machine, {joblib.cpu_count()} usable, {usable_cores()} used",
        "last-level cache": f"{last_level_cache() / 2**20:.0f} MiB" if last_level_cache() else "unknown",
        "instruction set": instruction_sets(),
        "threads measured": ", ".join(map(str, threads)) + thread_note(),
        "compiler": compiler,
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "system": platform.platform(),
        "other load": load(),
        "triad bandwidth": _bandwidths(triad),
        "read bandwidth": _bandwidths(read),
    }


def _bandwidths(figures: dict[int, float]) -> str:
    return ", ".join(f"{figure / 1e9:.1f} GB/s on {_cores(threads)}" for threads, figure in figures.items())


def instruction_sets() -> str:
    from fastloss import _kernels

    forced = os.environ.get("FASTLOSS_ISA")
    chosen = f"FASTLOSS_ISA={forced}" if forced else "best available"
    return f"{_kernels.current_isa()} ({chosen}; available: {', '.join(_kernels.available_isas())})"


def thread_note() -> str:
    how = "pinned to one core" if hasattr(os, "sched_setaffinity") else "not pinned: the system cannot"
    return f" (1: the calling thread, {how}; more: n_threads, not pinned)"


def versions() -> dict[str, str]:
    names = ("numpy", "scipy", "scikit-learn")
    return (
        {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in names}
        | {"fastloss": fastloss.__version__}
    )


def load(seconds: float = 0.3) -> str:
    """How busy the cores are while this process sleeps: figures taken beside other work mean little."""
    before = _busy_and_total()
    time.sleep(seconds)
    after = _busy_and_total()
    if before is None or after is None or after[1] == before[1]:
        return "unknown"
    share = (after[0] - before[0]) / (after[1] - before[1])
    return f"{share:.0%} of all cores before the start" + (": BUSY, do not trust the figures" if share > 0.1 else "")


def _busy_and_total() -> tuple[int, int] | None:
    """Ticks since boot that the cores worked (or were taken away by the host), and all ticks."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    ticks = [int(part) for part in path.read_text().splitlines()[0].split()[1:9]]
    idle = ticks[3] + ticks[4]  # idle and waiting for a disk
    return sum(ticks) - idle, sum(ticks)


def cpu_model() -> str:
    if platform.system() == "Darwin":
        return _first_line(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.processor()
    found = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def cpu_flags() -> set[str]:
    found = re.search(r"^flags\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return set(found[1].split()) if found else set()


def last_level_cache() -> int:
    """Bytes of the largest cache of the first core, 0 when unknown."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        found = re.fullmatch(r"(\d+)([KM]?)", path.read_text().strip())
        if found:
            sizes.append(int(found[1]) * {"": 1, "K": 2**10, "M": 2**20}[found[2]])
    return max(sizes, default=0)


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def _first_line(command: list[str]) -> str:
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    except OSError:
        return ""
    return output.splitlines()[0].strip() if output else ""


def _cores(threads: int) -> str:
    return "1 core" if threads == 1 else f"{threads} cores"
