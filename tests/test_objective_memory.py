"""Promise: no vector of n numbers, no n x K array, no copy of X: an evaluation takes tiles and a few gradients.

Resident memory of a fresh process is measured, because the memory of C is what matters and tracemalloc does not see it.
"""

import pytest
from resident import PRELUDE, needs_linux

MEASURE = (
    PRELUDE
    + """
import os
import numpy as np
import scipy.sparse as sp
from fastloss import LinearObjective

rng = np.random.default_rng(0)

def run(*args, **options):
    found = LinearObjective(*args, n_threads=2, **options)
    w = np.full(found.size, 0.01)
    value, gradient = found(w)
    assert np.isfinite(value) and gradient.any()
    assert np.isfinite(found.hessp(w, w)).all() and np.isfinite(found.hessian_diag(w)).all()

small = rng.normal(size=(1000, 4))
run(small, small[:, 0])  # threads and libraries are there from here on
run(small.astype("f4"), np.arange(1000) % 3, "cross_entropy")

{setup}
before = start()
{work}
print((kilobytes("VmHWM") - before) / 1024)
"""
)

pytestmark = needs_linux


def peak(run_python, setup, work, timeout=120):
    """Megabytes that `work` took at most beyond what `setup` left."""
    done = run_python(MEASURE.format(setup=setup, work=work), timeout=timeout, OPENBLAS_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout)


ONE_VECTOR = 15
"""Megabytes below one float64 vector of the 2 million rows below (16 MB), let alone one of X's 160 MB."""

ROWS = {
    "C": ("X = np.full((2_000_000, 10), 0.5)", "run(X, y)"),
    "F": ("X = np.full((2_000_000, 10), 0.5, order='F')", "run(X, y)"),
    "every second row": ("X = np.full((4_000_000, 10), 0.5)[::2]", "run(X, y)"),
    "every second column": ("X = np.full((2_000_000, 20), 0.5)[:, ::2]", "run(X, y)"),
    "int8": ("X = np.full((2_000_000, 10), 1, np.int8)", "run(X, y)"),
    "half": ("X = np.full((2_000_000, 10), 0.5, np.float16)", "run(X, y)"),
    "big endian": ("X = np.full((2_000_000, 10), 0.5, '>f8')", "run(X, y)"),
    "integer labels": ("X, y = np.full((2_000_000, 10), 0.5), y.astype(np.int8)", "run(X, y, 'log_loss')"),
    "weights and offset": (
        "X, s, o = np.full((2_000_000, 10), 0.5, np.float32), y.astype('f4'), y.astype('i1')",
        "run(X, y, 'poisson', sample_weight=s, offset=o, alpha=1.0)",
    ),
    "three classes": (
        "X, y = np.full((2_000_000, 10), 0.5), np.resize(np.arange(3, dtype=np.int8), 2_000_000)",
        "run(X, y, 'cross_entropy', sample_weight=np.broadcast_to(0.5, len(y)))",
    ),
    "ten classes in float32": (
        "X, y = np.full((2_000_000, 10), 0.5, np.float32), np.resize(np.arange(10), 2_000_000)",
        "run(X, y, 'cross_entropy')",
    ),
    "two outputs": ("X, y = np.full((2_000_000, 10), 0.5), np.ones((2_000_000, 2), np.float32)", "run(X, y, 'huber')"),
}


@pytest.mark.parametrize("what", ROWS)
def test_many_rows(what, run_python):
    setup, work = ROWS[what]
    assert peak(run_python, "y = np.ones(2_000_000)\n" + setup, work) < ONE_VECTOR


def test_classes_times_rows(run_python):
    """8192 x 32000 float32 logits would be 1 GB; coefficients, gradient and their packed copies are 33 MB each."""
    setup = """
X = rng.normal(size=(8192, 256)).astype(np.float32)
found = LinearObjective(X, np.arange(8192) % 32_000, "cross_entropy", n_classes=32_000, n_threads=2)
w = np.full(found.size, 0.01, np.float32)
"""
    assert peak(run_python, setup, "value, gradient = found(w)\nassert abs(value - np.log(32_000)) < 1e-3") < 400


SPARSE = """
n, per_row = 1_000_000, 20
data, indices = np.ones(n * per_row), np.resize(np.arange(97, dtype=np.{index})[::-1], n * per_row)
X = sp.csr_array((data, indices, np.arange(0, n * per_row + 1, per_row, dtype=np.{index})), shape=(n, 100))
y = np.resize(np.arange(2, dtype=np.int8), n)
"""


@pytest.mark.parametrize("index", ["int32", "int64"])
@pytest.mark.parametrize("entries", ["unsorted", "duplicates"])
@pytest.mark.parametrize("part", ["gradient", "hessian_diag"])
def test_sparse(part, entries, index, run_python):
    """160 MB of data and 80 or 160 MB of indices stay where they are, as they are; a vector of n is 8 MB."""
    setup = SPARSE.format(index=index) + ("indices[1::2] = indices[::2]" if entries == "duplicates" else "")
    work = "found = LinearObjective(X, y, 'log_loss', n_threads=2)\nw = np.full(found.size, 0.01)\n"
    work += "found(w), found.hessp(w, w)" if part == "gradient" else "found.hessian_diag(w)"
    assert peak(run_python, setup, work) < 7


@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_mapped(order, run_python):
    """400 MB on disk, read before the count starts, so that only what lies beside them counts; n float32 are 8 MB."""
    setup = f"""
X = np.lib.format.open_memmap("X.npy", "w+", np.float32, (2_000_000, 50), fortran_order={order == "F"})
X[...] = 0.5
del X
X = np.load("X.npy", mmap_mode="r")
os.remove("X.npy")  # on Linux the mapping lives on
assert np.sum(X[::7, ::3]) > 0 and X.max() == 0.5
y = np.ones(len(X), np.float32)
"""
    assert peak(run_python, setup, "run(X, y)") < 7


def test_fortran_order_of_400_megabytes(run_python):
    setup = "X, y = np.full((500_000, 100), 0.5, order='F'), np.resize(np.arange(10), 500_000)"
    assert peak(run_python, setup, "run(X, y, 'cross_entropy')") < 40


def test_wide_rows(run_python):
    """1.1 million features: a few gradients of 9 MB, never sixteen of them, nor X's 440 MB."""
    setup = """
X, y = np.full((50, 1_100_000), 1e-6), np.resize([0.0, 1.0], 50)
found = LinearObjective(X, y, "log_loss", n_threads=2)
w = np.full(found.size, 0.01)
"""
    assert peak(run_python, setup, "found(w)") < 60


def test_nothing_leaks(run_python):
    """Hundreds of evaluations, errors among them, leave memory where it was."""
    setup = """
X, Y = rng.normal(size=(300, 50)), np.arange(300) % 40
dense = LinearObjective(X, Y, "cross_entropy", n_threads=2)
sparse = LinearObjective(sp.csr_array(X), Y, "cross_entropy", n_threads=2)
w = np.zeros(dense.size)

def work(times):
    for _ in range(times):
        for found in (dense, sparse):
            found(w), found.hessp(w, w), found.hessian_diag(w)
            try:
                found(w[1:])
            except ValueError:
                pass
        try:
            LinearObjective(X, Y + 1000, "cross_entropy", n_classes=40)
        except ValueError:
            pass

work(50)
"""
    assert peak(run_python, setup, "work(300)") < 3
