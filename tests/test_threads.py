"""Promise: the GIL is released, Ctrl-C works, limits on threads are respected, and concurrent calls do not mix."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from bits import bits, results
from grids import everyday

import fastloss

LONG = 300_000_000
"""Samples of a call of a few tenths of a second; broadcast views of one element, so it takes no memory."""


def long_call(n=LONG, n_threads=1):
    y, raw = np.broadcast_to(np.float32(1), n), np.broadcast_to(np.float32(0.5), n)
    return fastloss.loss("log_loss", y, raw, n_threads=n_threads)


def test_the_gil_is_released():
    """Another thread goes on working in Python while a kernel runs."""
    ticks, done = [0], threading.Event()

    def tick():
        while not done.is_set():
            ticks[0] += 1

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        time.sleep(0.05)
        before = ticks[0]
        long_call()
        advanced = ticks[0] - before
    finally:
        done.set()
        thread.join()
    assert advanced > 10_000


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timer")
@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_long_call_can_be_interrupted(n_threads):
    """A call of a minute ends soon after the signal, with the handler's exception; the next call is right."""

    class EnoughError(Exception):
        pass

    def stop(*_):
        raise EnoughError

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        start = time.perf_counter()
        with pytest.raises(EnoughError):
            long_call(100 * LONG, n_threads)
        assert time.perf_counter() - start < 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert fastloss.loss("squared_error", [0.0], [2.0]) == 2.0


def test_concurrent_calls_do_not_mix(isa):
    """Sixteen Python threads share the loss objects, each with threads of its own."""
    names = fastloss.list_losses(kind="regression") + fastloss.list_losses(kind="binary")
    problems = [
        (fastloss.get_loss(n), *everyday(n, n=20_000, dtype=d)) for n in names for d in (np.float32, np.float64)
    ]

    def work(problem):
        return results(*problem, n_threads=2, reductions=("mean",))

    alone = [work(problem) for problem in problems]
    with ThreadPoolExecutor(16) as pool:
        for _ in range(2):
            assert list(pool.map(work, problems)) == alone


def test_an_error_in_one_thread_stays_there():
    y, raw = np.zeros(100_000), np.linspace(-1, 1, 100_000)
    bad = y.copy()
    bad[77_777] = 3
    good = fastloss.loss("log_loss", y, raw)

    def work(i):
        if i % 2:
            return fastloss.loss("log_loss", y, raw, n_threads=2)
        with pytest.raises(ValueError, match=r"y_true\[77777\]"):
            fastloss.loss("log_loss", bad, raw, n_threads=2)
        return good

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(64))) == {good}


COUNT = """
import fastloss
print(fastloss.show_config()["n_threads"])
"""


@pytest.mark.parametrize("limit", [1, 2])
def test_omp_num_threads_is_respected(run_python, limit):
    done = run_python(COUNT, OMP_NUM_THREADS=str(limit))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) <= limit


SMALL_WORK = """
import os
import numpy as np
import fastloss

before = len(os.listdir("/proc/self/task"))
for n in (1, 100, 1000):
    fastloss.loss_gradient("log_loss", np.zeros(n), np.zeros(n))
small = len(os.listdir("/proc/self/task"))
fastloss.loss_gradient("log_loss", np.zeros(3_000_000), np.zeros(3_000_000), n_threads=1)
single = len(os.listdir("/proc/self/task"))
fastloss.loss_gradient("log_loss", np.zeros(3_000_000), np.zeros(3_000_000), n_threads=3)
print(small - before, single - before, len(os.listdir("/proc/self/task")) - before, fastloss.show_config()["openmp"])
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="only Linux lists the threads of a process")
def test_small_arrays_start_no_threads(run_python):
    done = run_python(SMALL_WORK, OPENBLAS_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    small, single, three, openmp = done.stdout.split()[-4:]
    assert int(small) == int(single) == 0
    assert int(three) == (2 if openmp not in ("None", "False", "0") else 0)


def test_threadpoolctl_limits_are_respected():
    """A limit set from outside changes nothing in the result (and is obeyed, as far as n_threads=None is concerned)."""
    from threadpoolctl import threadpool_limits

    y, raw = everyday("log_loss", n=300_000)
    free = fastloss.loss_gradient("log_loss", y, raw)
    with threadpool_limits(1):
        assert fastloss.show_config()["n_threads"] == 1
        limited = fastloss.loss_gradient("log_loss", y, raw)
    assert [bits(x) for x in free] == [bits(x) for x in limited]


def test_inside_joblib_workers():
    from joblib import Parallel, delayed

    y, raw = everyday("log_loss", n=100_000)
    alone = fastloss.loss("log_loss", y, raw)
    for prefer in ("threads", "processes"):
        assert set(Parallel(n_jobs=2, prefer=prefer)(delayed(fastloss.loss)("log_loss", y, raw) for _ in range(4))) == {
            alone
        }
