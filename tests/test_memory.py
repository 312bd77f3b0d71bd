"""Promise: no temporary proportional to n; large inputs are read block by block, whatever their dtype and strides."""

import sys
import tracemalloc

import numpy as np
import pytest

import fastloss

N = 2_000_000
SMALL = 500_000
"""Bytes that may be allocated for N samples: far below one byte per sample."""

LAYOUTS = {
    "contiguous": lambda x: x,
    "strided": lambda x: np.repeat(x, 2)[::2],
    "backwards": lambda x: x[::-1],
    "float32": lambda x: x.astype(np.float32),
    "int8": lambda x: x.astype(np.int8),
    "big endian": lambda x: x.astype(">f8"),
    "bool": lambda x: x.astype(bool),
    "half": lambda x: x.astype(np.float16),
}


def peak(call):
    """Bytes allocated at most during a call, as numpy and Python report them."""
    call()  # threads and caches exist from here on
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_temporary(layout):
    y = LAYOUTS[layout](np.resize([0.0, 1.0], N))
    raw = np.linspace(-3, 3, N)
    gradient, weight = np.empty(N), LAYOUTS[layout](np.ones(N))
    assert peak(lambda: fastloss.loss_gradient("log_loss", y, raw, gradient_out=gradient)) < SMALL
    assert peak(lambda: fastloss.loss_gradient("log_loss", y, raw, weight, gradient_out=gradient)) < SMALL
    assert peak(lambda: fastloss.gradient("log_loss", y, raw, reduction="sum", gradient_out=gradient)) < SMALL


@pytest.mark.parametrize("layout", ["contiguous", "strided", "backwards", "float32"])
def test_predictions_are_not_copied(layout):
    raw = LAYOUTS[layout](np.linspace(-3, 3, N))
    y, hessian = np.zeros(N), np.empty(N, raw.dtype)
    gradient = np.empty(N, raw.dtype)
    assert peak(lambda: fastloss.loss("huber", y, raw)) < SMALL
    assert peak(lambda: fastloss.gradient_hessian("huber", y, raw, gradient_out=gradient, hessian_out=hessian)) < SMALL
    each = np.empty(N, raw.dtype)
    assert peak(lambda: fastloss.loss("huber", y, raw, reduction="none", loss_out=each)) < SMALL


@pytest.mark.parametrize("order", ["C", "F"])
def test_several_outputs_are_not_copied(order):
    raw = np.asarray(np.random.default_rng(0).normal(size=(N // 4, 4)), order=order)
    y, gradient = np.zeros((N // 4, 4), np.float32), np.empty((N // 4, 4), order=order)
    assert peak(lambda: fastloss.loss_gradient("huber", y, raw, gradient_out=gradient)) < SMALL


def test_gradient_alone_allocates_the_gradient_alone():
    y, raw = np.zeros(N), np.linspace(-3, 3, N)
    used = peak(lambda: fastloss.loss_gradient("log_loss", y, raw))
    assert 8 * N <= used < 8 * N + SMALL


RESIDENT = """
import resource
import numpy as np
import fastloss

n = 20_000_000
y, raw, gradient = np.ones(n, np.float32), np.ones(n, np.float32), np.ones(n, np.float32)
weight = np.ones(n, np.float32)
part = slice(100_000)
fastloss.loss_gradient("log_loss", y[part], raw[part], weight[part], gradient_out=gradient[part], n_threads=2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for w in (None, weight):
    fastloss.loss_gradient("log_loss", y, raw, w, gradient_out=gradient, n_threads=2)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(after - before)
"""


def test_resident_memory_does_not_grow(run_python):
    """What tracemalloc cannot see: memory of C.  80 MB would be one float32 vector; kilobytes on Linux."""
    pytest.importorskip("resource", reason="only Unix tells the peak of resident memory")
    done = run_python(RESIDENT)
    assert done.returncode == 0, done.stderr
    grown = int(done.stdout)

    assert grown * (1 if sys.platform == "darwin" else 1024) < 8_000_000


def test_nothing_leaks(run_python):
    """Ten thousand calls, errors among them, leave resident memory where it was."""
    pytest.importorskip("resource", reason="only Unix tells the peak of resident memory")
    done = run_python(
        """
import resource
import numpy as np
import fastloss

y, raw = np.zeros(5000), np.ones(5000)
bad = y + 5

def work(times):
    for _ in range(times):
        fastloss.loss_gradient("log_loss", y, raw, reduction="none")
        try:
            fastloss.loss("log_loss", bad, raw)
        except ValueError:
            pass

work(500)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
work(10_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 3000


GUARDED = """
import ctypes, mmap
import numpy as np
import fastloss
from fastloss import _kernels

PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)

class Guarded:
    '''Memory between two pages that must not be touched.'''
    def __init__(self, pages=4):
        self.map = mmap.mmap(-1, (pages + 2) * PAGE)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        for page in (0, pages + 1):
            assert libc.mprotect(ctypes.c_void_p(self.start + page * PAGE), PAGE, 0) == 0
        self.bytes = np.frombuffer(self.map, np.uint8)[PAGE:-PAGE]

    def at(self, x, end):
        room = self.bytes[-x.nbytes:] if end else self.bytes[:x.nbytes]
        view = room.view(x.dtype).reshape(x.shape)
        view[...] = x
        return view

y_room, raw_room, w_room, loss_room, gradient_room, hessian_room = (Guarded() for _ in range(6))
rng = np.random.default_rng(0)
for isa in _kernels.available_isas():
    with _kernels.use_isa(isa):
        for name in fastloss.list_losses(kind="regression") + fastloss.list_losses(kind="binary"):
            loss = fastloss.get_loss(name)
            for dtype in (np.float32, np.float64):
                for n in (*range(1, 36), 63, 64, 65, 511, 512, 1023, 1024, 1025):
                    raw = rng.uniform(0, 1, n).astype(dtype)
                    for end in (True, False):
                        y = y_room.at(np.ones(n, dtype), end)
                        z = raw_room.at(raw, end)
                        w = w_room.at(np.ones(n, np.float32), end)
                        out = [room.at(np.zeros(n, dtype), end) for room in (loss_room, gradient_room, hessian_room)]
                        loss.loss_gradient(y, z, w, reduction="none", loss_out=out[0], gradient_out=out[1])
                        loss.gradient_hessian(y, z, gradient_out=out[1], hessian_out=out[2])
                        loss.loss(y[::-1], z[::-1])
                        loss.gradient(y_room.at(np.ones(n, np.int8), end), z, gradient_out=out[1][::-1])
print("inside")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="guard pages are set up with Linux's mprotect")
def test_nothing_is_read_or_written_beyond_the_ends(run_python):
    """Arrays lie flush against pages whose touch kills the process, at either end, for every tail length."""
    done = run_python(GUARDED, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "inside"), done.stderr[-2000:]
