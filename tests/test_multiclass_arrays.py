"""Multiclass losses and the arrays they read and write: the same bits for any thread count, stride, order and dtype."""

import signal
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from bits import METHODS, REDUCTIONS, bits, differing, results
from grids_multiclass import everyday, everyday_soft, scores
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracle_multiclass import ORACLES

import fastloss

MULTICLASS = fastloss.list_losses(kind="multiclass")
FUSED = ("loss_gradient", "gradient_hessian")


@pytest.fixture(params=MULTICLASS)
def name(request):
    """Every multiclass loss, with default parameters (instead of the pointwise ones of conftest.py)."""
    return request.param


def problem(n, K, dtype=np.float64):
    """(labels, raw, weights)."""
    y, raw = everyday(n, K, dtype)
    return y, raw, np.random.default_rng(n).uniform(0.1, 3, n)


def targets(y, K, dtype):
    """The labels, and soft targets that are not one-hot."""
    return [y, (np.eye(K)[y] * 0.75 + np.random.default_rng(1).dirichlet(np.ones(K), len(y)) / 4).astype(dtype)]


# threads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 3), (7, 2), (1023, 3), (4099, 10), (300, 70), (65, 1000), (3, 30_000)])
def test_threads(name, dtype, isa, shape):
    y, raw, weight = problem(*shape, dtype)
    loss = fastloss.get_loss(name)
    for w in (None, weight):
        alone = results(loss, y, raw, w, n_threads=1, methods=FUSED)
        for n_threads in (2, 3, 8, None):
            assert not differing(alone, results(loss, y, raw, w, n_threads=n_threads, methods=FUSED)), n_threads


@pytest.mark.parametrize("order", ["C", "F"])
def test_threads_long(name, dtype, isa, order):
    """Thread counts 1 to 8 on a number of rows that no block or chunk divides, with everything that makes a weight."""
    y, raw, weight = problem(40_009, 5, dtype)
    raw = np.asarray(raw, order=order)
    loss = fastloss.get_loss(name, class_weight=[1, 2, 0.5, 0, 1], ignore_index=2)
    alone = results(loss, y, raw, weight, n_threads=1, methods=FUSED, reductions=("mean",))
    for n_threads in range(2, 9):
        other = results(loss, y, raw, weight, n_threads=n_threads, methods=FUSED, reductions=("mean",))
        assert not differing(alone, other), n_threads


def test_threads_with_soft_targets(dtype, isa):
    loss = fastloss.get_loss("cross_entropy", label_smoothing=0.1, z_loss=1e-3, class_weight=[1, 2, 0.5, 3])
    y, raw = everyday_soft(30_011, 4, dtype)
    alone = results(loss, y, raw, n_threads=1, methods=FUSED)
    for n_threads in (2, 5, 8):
        assert not differing(alone, results(loss, y, raw, n_threads=n_threads, methods=FUSED))


def test_run_to_run(name, isa):
    y, raw, weight = problem(30_001, 7)
    loss = fastloss.get_loss(name)
    first = bits(loss.loss(y, raw, weight, n_threads=8))
    assert all(bits(loss.loss(y, raw, weight, n_threads=8)) == first for _ in range(10))


class EnoughError(Exception):
    """Raised by the signal handler."""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timer")
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("K", [3, 300])
def test_a_long_call_can_be_interrupted(n_threads, K):
    """A call of minutes ends soon after the signal, with the handler's exception; the next call is right."""

    def stop(*_):
        raise EnoughError

    n = 20_000_000_000 // K
    y, raw = np.broadcast_to(np.int8(1), n), np.broadcast_to(np.float32(0.5), (n, K))
    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        start = time.perf_counter()
        with pytest.raises(EnoughError):
            fastloss.loss("cross_entropy", y, raw, n_threads=n_threads)
        assert time.perf_counter() - start < 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert fastloss.loss("cross_entropy", [0], [[0.0, 0.0]]) == np.log(2)


def test_concurrent_calls_do_not_mix(isa):
    """Python threads share the loss objects, each with threads of its own; an error in one stays there."""
    work = [(fastloss.get_loss(name), *problem(5000, K)) for name in MULTICLASS for K in (2, 3, 70)]
    alone = [results(*one, methods=FUSED, reductions=("mean",)) for one in work]

    def run(one):
        loss, y, raw, weight = one
        with pytest.raises(ValueError, match=r"y_true\[4999\]"):
            loss.loss(np.append(y[:-1], 99), raw, n_threads=2)
        return results(loss, y, raw, weight, methods=FUSED, reductions=("mean",), n_threads=2)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, work)) == alone


# place, stride, order -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("K", [1, 2, 3, 10, 65, 300])
def test_a_row_does_not_see_its_neighbours(name, dtype, isa, K):
    """Alone or anywhere in a block, a sample has the same bits: adversarial rows among ordinary ones."""
    rng = np.random.default_rng(K)
    raw = scores(K, dtype, count=40)[: 70 if K < 300 else 20]
    y = rng.integers(0, K, len(raw))
    loss = fastloss.get_loss(name)
    value, gradient = loss.loss_gradient(y, raw, reduction="none")
    hessian = loss.gradient_hessian(y, raw, reduction="none")[1]
    for i in range(len(raw)):
        row = slice(i, i + 1)
        alone = loss.loss_gradient(y[row], raw[row], reduction="none")
        bend = loss.gradient_hessian(y[row], raw[row], reduction="none")[1]
        for got, wanted in zip((*alone, bend), (value[row], gradient[row], hessian[row]), strict=True):
            assert bits(got) == bits(wanted), (K, i, raw[i])
    turned = rng.permutation(len(raw))
    moved = loss.loss_gradient(y[turned], raw[turned], reduction="none")
    assert bits(moved[0]) == bits(value[turned])
    assert bits(moved[1]) == bits(gradient[turned])


def misaligned(x):
    """The same numbers at an address that is no multiple of the item size."""
    view = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


ORDERINGS = {
    "Fortran": np.asfortranarray,
    "rows backwards": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "columns backwards": lambda x: np.ascontiguousarray(x[:, ::-1])[:, ::-1],
    "part of a wider array": lambda x: np.pad(x, ((1, 2), (3, 1)))[1:-2, 3:-1],
    "every second row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "every third column": lambda x: np.repeat(x, 3, axis=1)[:, ::3],
    "transposed part": lambda x: np.pad(x.T, ((2, 1), (1, 3)))[2:-1, 1:-3].T,
}
VECTORS = {
    "every seventh": lambda x: np.repeat(x, 7)[::7],
    "backwards": lambda x: x[::-1].copy()[::-1],
    "misaligned": misaligned,
}


@pytest.mark.parametrize("K", [1, 2, 3, 10, 70])
@pytest.mark.parametrize("n", [1, 7, 333])
def test_layouts(name, dtype, isa, n, K):
    y, raw, weight = problem(n, K, dtype)
    loss = fastloss.get_loss(name)
    for target in targets(y, K, dtype)[: 2 if ORACLES[name].soft else 1]:
        plain = results(loss, target, raw, weight, methods=FUSED)
        for ordering, change in {**ORDERINGS, "misaligned": misaligned}.items():
            given = change(target) if target.ndim == 2 else target
            assert not differing(plain, results(loss, given, change(raw), weight, methods=FUSED)), ordering
            same = results(loss, target, change(raw), weight, methods=FUSED, n_threads=4)
            assert not differing(plain, same), ordering
        for layout, change in VECTORS.items():
            given = change(target) if target.ndim == 1 else target
            assert not differing(plain, results(loss, given, raw, change(weight), methods=FUSED)), layout


@pytest.mark.parametrize("ordering", ORDERINGS)
@pytest.mark.parametrize("shape", [(1, 2), (70, 3), (333, 10), (20, 200)])
def test_output_layouts(name, dtype, isa, ordering, shape):
    """Results written through any buffer are those that are returned without one; nothing else is written."""
    y, raw, weight = problem(*shape, dtype)
    loss, change = fastloss.get_loss(name), ORDERINGS[ordering]
    for reduction in REDUCTIONS:
        gradient, hessian = change(np.full(shape, np.nan, dtype)), change(np.full(shape, np.nan, dtype))
        out = loss.gradient_hessian(y, raw, weight, reduction=reduction, gradient_out=gradient, hessian_out=hessian)
        assert out[0] is gradient
        assert out[1] is hessian
        wanted = loss.gradient_hessian(y, raw, weight, reduction=reduction)
        np.testing.assert_array_equal(gradient, wanted[0])
        np.testing.assert_array_equal(hessian, wanted[1])
    room = np.full(3 * shape[0], 7, dtype)
    gradient = change(np.full(shape, np.nan, dtype))
    out = loss.loss_gradient(y, raw, weight, reduction="none", loss_out=room[1::3], gradient_out=gradient)
    assert np.shares_memory(out[0], room)
    assert out[1] is gradient
    wanted = loss.loss_gradient(y, raw, weight, reduction="none")
    np.testing.assert_array_equal(room[1::3], wanted[0])
    np.testing.assert_array_equal(gradient, wanted[1])
    assert np.all(np.delete(room.reshape(-1, 3), 1, axis=1) == 7)


def test_nothing_beside_the_buffer_is_written(name, dtype, isa):
    for n, K in ((1, 1), (5, 2), (70, 3), (9, 70)):
        y, raw, _ = problem(n, K, dtype)
        for order in ("C", "F"):
            room = np.full((n + 2, K + 2), 7, dtype, order=order)
            fastloss.gradient(name, y, raw, gradient_out=room[1:-1, 1:-1])
            np.testing.assert_array_equal(room[1:-1, 1:-1], fastloss.gradient(name, y, raw))
            room[1:-1, 1:-1] = 7
            assert np.all(room == 7)


# dtypes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "g"])
def test_labels_of_any_dtype(name, dtype, isa, kind):
    """Integers, and floats that are whole numbers, in either byte order."""
    y, raw, weight = problem(300, 5, dtype)
    plain = results(fastloss.get_loss(name), y, raw, weight)
    for labels in (y.astype(kind), y.astype(np.dtype(kind).newbyteorder()), np.repeat(y.astype(kind), 3)[::3]):
        assert not differing(plain, results(fastloss.get_loss(name), labels, raw, weight))


def test_bool_labels_and_lists(name, dtype, isa):
    y, raw, weight = problem(300, 2, dtype)
    plain = results(fastloss.get_loss(name), y, raw, weight)
    for labels in (y.astype(bool), y.tolist(), tuple(y.tolist()), y.astype(bool).tolist(), y.astype(float).tolist()):
        assert not differing(plain, results(fastloss.get_loss(name), labels, raw, weight))
    assert not differing(plain, results(fastloss.get_loss(name), y, raw, weight.tolist()))


def test_more_classes_than_a_small_label_counts(name, isa):
    """Labels up to 255 in a byte, with 300 classes: read by value, not as signed bytes."""
    y = np.array([0, 127, 128, 200, 255], np.uint8)
    raw = everyday(5, 300)[1]
    assert not differing(
        results(fastloss.get_loss(name), y.astype(np.int64), raw), results(fastloss.get_loss(name), y, raw)
    )


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "g", "i1", "u8", "?", ">f4"])
def test_soft_targets_of_any_real_dtype(dtype, isa, kind):
    """Read in the working dtype."""
    raw = everyday(200, 3, dtype)[1]
    y = np.random.default_rng(0).integers(0, 2, (200, 3)).astype(kind)
    if np.dtype(kind).kind == "f":
        y = (y * 0.625).astype(kind)
    loss = fastloss.get_loss("cross_entropy", class_weight=[1, 0.5, 2])
    plain = results(loss, y.astype(dtype), raw)
    for target in (y, np.asfortranarray(y), np.repeat(y, 2, axis=1)[:, ::2]):
        assert not differing(plain, results(loss, target, raw))


@pytest.mark.parametrize("kind", ["f2", "g", "i1", "i8", "u8", "?", ">f8"])
def test_other_real_predictions_become_float64(name, isa, kind):
    raw = np.random.default_rng(0).integers(0, 2, (50, 3)).astype(kind)
    y = np.random.default_rng(1).integers(0, 3, 50)
    value, gradient = fastloss.loss_gradient(name, y, raw, reduction="none")
    assert value.dtype == gradient.dtype == np.float64
    loss = fastloss.get_loss(name)
    assert not differing(results(loss, y, raw.astype(np.float64)), results(loss, y, raw))
    assert not differing(results(loss, y, raw.astype(np.float64)), results(loss, y, np.asfortranarray(raw)))


def test_swapped_float32_and_lists(name, isa):
    y, raw, _ = problem(50, 3, np.float32)
    loss = fastloss.get_loss(name)
    assert not differing(results(loss, y, raw), results(loss, y, raw.astype(">f4")))
    assert not differing(results(loss, y, raw.astype(float)), results(loss, y, raw.tolist()))


def test_read_only_and_memory_mapped(name, dtype, tmp_path):
    y, raw, weight = problem(400, 6, dtype)
    plain = results(fastloss.get_loss(name), y, raw, weight)
    given = []
    for i, x in enumerate((y, raw, weight)):
        np.save(tmp_path / f"{i}.npy", np.asfortranarray(x))
        given.append(np.load(tmp_path / f"{i}.npy", mmap_mode="r"))
    assert not differing(plain, results(fastloss.get_loss(name), *given))
    frozen = [x.copy() for x in (y, raw, weight)]
    for x in frozen:
        x.flags.writeable = False
    assert not differing(plain, results(fastloss.get_loss(name), *frozen))
    out = np.memmap(tmp_path / "out", dtype, "w+", shape=raw.shape)
    assert fastloss.gradient(name, y, raw, weight, gradient_out=out) is out
    np.testing.assert_array_equal(out, fastloss.gradient(name, y, raw, weight))


def test_pandas(name, dtype):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    y, raw, weight = problem(100, 3, dtype)
    frame = pandas.DataFrame(raw, columns=list("abc"), index=np.arange(100)[::-1])
    column = pandas.Series(y, index=np.arange(100)[::-1])
    plain = results(fastloss.get_loss(name), y, raw, weight)
    assert not differing(plain, results(fastloss.get_loss(name), column, frame, pandas.Series(weight)))


def test_stride_zero_inputs(name, dtype, isa):
    """Broadcast views: one row, one label, one score seen many times."""
    y, raw, _ = problem(1, 4, dtype)
    label, row = np.broadcast_to(y, 500), np.broadcast_to(raw, (500, 4))
    loss = fastloss.get_loss(name)
    assert not differing(results(loss, label.copy(), row.copy()), results(loss, label, row))
    same = np.broadcast_to(dtype.type(0.5), (500, 4))
    assert not differing(results(loss, label, same.copy()), results(loss, label, same))


def test_inputs_are_not_changed(name, dtype):
    y, raw, weight = problem(200, 4, dtype)
    given = [y, raw, weight]
    before = [x.tobytes() for x in given]
    results(fastloss.get_loss(name, class_weight=[1, 2, 3, 4], ignore_index=0), *given)
    assert [x.tobytes() for x in given] == before
    if ORACLES[name].soft:
        target = np.eye(4, dtype=dtype)[y]
        before = target.tobytes()
        results(fastloss.get_loss(name, label_smoothing=0.1), target, raw, weight)
        assert target.tobytes() == before


def test_avx2_and_avx512_agree(name):
    """The wider variant does the same operations in the same order: no bit differs, on adversarial input too."""
    from fastloss import _kernels

    if not {"avx2", "avx512"} <= set(_kernels.available_isas()):
        pytest.skip("needs a machine with AVX2 and AVX-512")
    for params in ORACLES[name].parameter_sets:
        loss = fastloss.get_loss(name, **params)
        for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
            for K in (2, 3, 10, 65, 1000):
                raw = np.concatenate([scores(K, dtype, count=60), everyday(101, K, dtype)[1]])
                y = np.random.default_rng(K).integers(0, K, len(raw))
                found = []
                for isa in ("avx2", "avx512"):
                    with _kernels.use_isa(isa):
                        found.append(results(loss, y, raw, methods=FUSED))
                assert not differing(*found), (loss, dtype, K)


# memory ---------------------------------------------------------------------------------------------------------

N, K = 200_000, 10
SMALL = 500_000
"""Bytes that may be allocated beside N * K scores of 16 MB."""


def peak(call):
    """Bytes allocated at most during a call, as numpy and Python report them."""
    call()  # threads and caches exist from here on
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


MATRICES = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: x[::-1, ::-1],
    "float32": lambda x: x.astype(np.float32),
    "int8": lambda x: x.astype(np.int8),
    "half": lambda x: x.astype(np.float16),
    "big endian": lambda x: x.astype(">f8"),
}


@pytest.mark.parametrize("matrix", MATRICES)
def test_no_temporary_for_scores(name, matrix):
    raw = MATRICES[matrix](np.random.default_rng(0).normal(size=(N, K)))
    working = np.float32 if matrix == "float32" else np.float64
    gradient, hessian, each = np.empty((N, K), working), np.empty((N, K), working), np.empty(N, working)
    y, weight = np.zeros(N, np.int8), np.ones(N, np.float32)
    loss = fastloss.get_loss(name, class_weight=np.ones(K), ignore_index=5)
    assert peak(lambda: loss.loss_gradient(y, raw, gradient_out=gradient)) < SMALL
    assert peak(lambda: loss.loss_gradient(y[::-1], raw, weight, gradient_out=gradient)) < SMALL
    assert peak(lambda: loss.loss(y, raw, weight, reduction="none", loss_out=each)) < SMALL
    assert peak(lambda: loss.gradient_hessian(y, raw, gradient_out=gradient, hessian_out=hessian)) < SMALL


@pytest.mark.parametrize("matrix", ["C", "F", "strided", "float32", "half", "int8"])
def test_no_temporary_for_soft_targets(matrix):
    raw = np.random.default_rng(0).normal(size=(N, K))
    y = MATRICES[matrix](np.random.default_rng(1).uniform(1, 3, (N, K)))
    gradient = np.empty((N, K), order="F")
    loss = fastloss.get_loss("cross_entropy", label_smoothing=0.1, class_weight=np.ones(K))
    assert peak(lambda: loss.loss_gradient(y, raw, np.ones(N, np.float32), gradient_out=gradient)) < SMALL + 4 * N


@pytest.mark.parametrize("shape", [(20, 100_000), (2, 1_000_000)])
def test_no_temporary_for_many_classes(name, shape):
    raw = np.random.default_rng(0).normal(size=shape)
    y, gradient = np.arange(shape[0]), np.empty(shape)
    assert peak(lambda: fastloss.loss_gradient(name, y, raw, gradient_out=gradient)) < SMALL
    assert peak(lambda: fastloss.loss(name, y, raw)) < SMALL


@pytest.mark.parametrize("function", ["softmax", "log_softmax", "logsumexp"])
def test_no_temporary_for_softmax(function):
    raw = np.random.default_rng(0).normal(size=(N, K))
    for axis, order in ((1, "C"), (1, "F"), (0, "C")):
        x = np.asarray(raw, order=order)
        out = np.empty(N if axis else K) if function == "logsumexp" else np.empty_like(x)
        assert peak(lambda: getattr(fastloss, function)(x, axis=axis, out=out)) < SMALL  # noqa: B023


RESIDENT = """
import resource
import numpy as np
import fastloss

n, K = 2_000_000, 10
raw, gradient = np.ones((n, K), np.float32), np.ones((n, K), np.float32)
fortran = np.ones((n, K), np.float32, order="F")
y, weight = np.ones(n, np.int32), np.ones(n, np.float32)
loss = fastloss.get_loss("cross_entropy", class_weight=np.ones(K), ignore_index=0)
part = slice(50_000)
for x in (raw, fortran):
    loss.loss_gradient(y[part], x[part], weight[part], gradient_out=gradient[part], n_threads=2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for x in (raw, fortran):
    for w in (None, weight):
        loss.loss_gradient(y, x, w, gradient_out=gradient, n_threads=2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_resident_memory_does_not_grow(run_python):
    """What tracemalloc cannot see: memory of C.  80 MB would be one float32 matrix, 8 MB a vector."""
    pytest.importorskip("resource", reason="only Unix tells the peak of resident memory")
    done = run_python(RESIDENT)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * (1 if sys.platform == "darwin" else 1024) < 6_000_000


GUARDED = """
import ctypes, mmap
import numpy as np
import fastloss
from fastloss import _kernels

PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)

class Guarded:
    '''Memory between two pages that must not be touched.'''
    def __init__(self, pages=16):
        self.map = mmap.mmap(-1, (pages + 2) * PAGE)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        for page in (0, pages + 1):
            assert libc.mprotect(ctypes.c_void_p(self.start + page * PAGE), PAGE, 0) == 0
        self.bytes = np.frombuffer(self.map, np.uint8)[PAGE:-PAGE]

    def at(self, x, end, order="C"):
        room = self.bytes[-x.nbytes:] if end else self.bytes[:x.nbytes]
        view = room.view(x.dtype).reshape(x.shape, order=order)
        view[...] = x
        return view

y_room, raw_room, w_room, loss_room, gradient_room, hessian_room = (Guarded() for _ in range(6))
rng = np.random.default_rng(0)
sizes = [(n, K) for K in (1, 2, 3, 5, 8, 10, 17) for n in (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 129)]
sizes += [(n, K) for K in (31, 32, 33, 64, 65, 129) for n in (1, 2, 9, 17)] + [(1, 4000), (2, 1001), (3, 1024)]
for isa in _kernels.available_isas():
    with _kernels.use_isa(isa):
        for name in fastloss.list_losses(kind="multiclass"):
            for dtype in (np.float32, np.float64):
                for n, K in sizes:
                    raw = rng.uniform(0, 1, (n, K)).astype(dtype)
                    labels = rng.integers(0, K, n)
                    loss = fastloss.get_loss(name)
                    for end, order in ((True, "C"), (False, "C"), (True, "F"), (False, "F")):
                        y = y_room.at(labels.astype(np.int16), end)
                        z = raw_room.at(raw, end, order)
                        w = w_room.at(np.ones(n, np.float32), end)
                        out = [loss_room.at(np.zeros(n, dtype), end)]
                        out += [room.at(raw, end, order) for room in (gradient_room, hessian_room)]
                        loss.loss_gradient(y, z, w, reduction="none", loss_out=out[0], gradient_out=out[1])
                        loss.gradient_hessian(y, z, gradient_out=out[1], hessian_out=out[2])
                        loss.gradient(y[::-1], z[::-1], gradient_out=out[1][:, ::-1])
                        if name == "cross_entropy":
                            fastloss.softmax(z, axis=1, out=out[1])
                            fastloss.log_softmax(z, axis=0, out=out[2])
                            fastloss.logsumexp(z, axis=1, out=out[0])
                            loss.loss_gradient(y_room.at(raw, end, order), z, w, gradient_out=out[1])
                        bad = y_room.at(np.full(n, K, np.int16), end)
                        try:
                            loss.gradient(bad, z, gradient_out=out[1])
                        except ValueError:
                            continue
                        raise SystemExit("a label beyond the last class passed")
print("inside")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="guard pages are set up with Linux's mprotect")
def test_nothing_is_read_or_written_beyond_the_ends(run_python):
    """Arrays lie flush against pages whose touch kills the process, at either end, for every tail length."""
    done = run_python(GUARDED, timeout=180)
    assert (done.returncode, done.stdout.strip()) == (0, "inside"), done.stderr[-2000:]


# any shape, any number ------------------------------------------------------------------------------------------


@st.composite
def laid_out(draw, values):
    """The same values with some strides: gaps, reversals, transposed axes."""
    steps = [draw(st.sampled_from([1, 1, 2, 3, -1, -2])) for _ in values.shape]
    order = draw(st.permutations(range(values.ndim)))
    room = np.zeros(
        [n * abs(steps[a]) for n, a in zip(values.transpose(order).shape, order, strict=True)], values.dtype
    )
    view = room[tuple(slice(None, None, steps[a]) for a in order)]
    view[...] = values.transpose(order)
    return view.transpose(np.argsort(order))


@st.composite
def problems(draw):
    """(loss, (y, raw, weight), the same three laid out differently, n_threads)."""
    name = draw(st.sampled_from(MULTICLASS))
    spec = ORACLES[name]
    dtype = np.dtype(draw(st.sampled_from(["float32", "float64"])))
    n, K = draw(st.one_of(st.tuples(st.integers(1, 40), st.integers(1, 6)), st.tuples(st.just(3), st.integers(1, 90))))
    tiny, huge = float(np.finfo(dtype).smallest_subnormal), float(np.finfo(dtype).max)
    extremes = [0.0, -0.0, 1.0, -1.0, tiny, huge, -huge, np.inf, -np.inf, np.nan, 88.5, 709.5, -745.0, 1e4, 1e-8]
    numbers = draw(
        st.sampled_from(
            [
                st.floats(width=dtype.itemsize * 8, allow_subnormal=True),
                st.sampled_from(extremes),
                st.floats(-30, 30, width=dtype.itemsize * 8),
            ]
        )
    )
    raw = draw(hnp.arrays(dtype, (n, K), elements=numbers))
    if spec.soft and draw(st.booleans()):
        y = draw(hnp.arrays(dtype, (n, K), elements=st.sampled_from([0.0, 1.0, 0.25, 1e-30, 3.0])))
    else:
        y = draw(hnp.arrays(np.int64, n, elements=st.integers(0, K - 1)))
    weight = draw(st.one_of(st.none(), hnp.arrays(float, n, elements=st.sampled_from([0.0, 1.0, 0.3, 1e-300, 1e30]))))
    params = dict(draw(st.sampled_from(spec.parameter_sets)))
    if draw(st.booleans()):
        params["class_weight"] = draw(st.lists(st.sampled_from([0.0, 1.0, 2.5]), min_size=K, max_size=K))
    if y.ndim == 1 and draw(st.booleans()):
        params["ignore_index"] = draw(st.sampled_from([0, K - 1, -1]))
    other = [x if x is None else draw(laid_out(x)) for x in (y, raw, weight)]
    return fastloss.get_loss(name, **params), (y, raw, weight), other, draw(st.integers(1, 4))


def possible_reductions(loss, y, raw, weight):
    try:
        loss.loss(y, raw, weight)
    except ValueError as error:
        assert "mean" in str(error)  # noqa: PT017 - nothing has a weight
        return ("sum", "none")
    return REDUCTIONS


@settings(max_examples=400)
@given(problems())
def test_layout_and_threads_change_no_bit(problem):
    loss, plain, other, n_threads = problem
    reductions = possible_reductions(loss, *plain)
    found = results(loss, *plain, reductions=reductions)
    assert not differing(found, results(loss, *other, reductions=reductions, n_threads=n_threads))
    for reduction in reductions:
        assert found["loss", "loss", reduction] == found["loss_gradient", "loss", reduction]
        assert len({v for (_, part, r), v in found.items() if (part, r) == ("gradient", reduction)}) == 1


@settings(max_examples=400)
@given(problems())
def test_nan_only_where_it_must_be(problem):
    """NaN in a row, no class left, or (margins) equal infinities; a sample without weight is 0 in any case."""
    loss, (y, raw, weight), _, _ = problem
    plain = fastloss.get_loss(loss.name, **{**loss.params, "class_weight": None, "ignore_index": None})
    labels = np.where(y == -1, 0, y) if y.ndim == 1 else y
    value, gradient = plain.loss_gradient(labels, raw, reduction="none")
    hessian = plain.gradient_hessian(labels, raw, reduction="none")[1]
    spoiled = np.isnan(raw).any(axis=1) | np.isneginf(raw).all(axis=1)
    undecided = np.isinf(raw).any(axis=1) if ORACLES[loss.name].margin else np.zeros(len(raw), bool)
    certain = ~spoiled & ~undecided
    assert not np.isnan(value[certain]).any()
    assert not np.isnan(gradient[certain]).any()
    assert not np.isnan(hessian[certain]).any()
    only_nan = np.isnan(raw).any(axis=1) | (spoiled & ~undecided)
    assert np.isnan(value[only_nan]).all()
    assert np.isnan(gradient[only_nan]).all()
    silent = np.zeros(len(raw), bool) if weight is None else weight == 0
    if y.ndim == 1 and loss.ignore_index is not None:
        silent |= y == loss.ignore_index
    value, gradient = loss.loss_gradient(y, raw, weight, reduction="none")
    assert not value[silent].any()
    assert not gradient[silent].any()


@settings(max_examples=300)
@given(problems())
def test_moderate_scores_give_finite_numbers(problem):
    loss, (y, raw, weight), _, _ = problem
    raw = np.clip(np.nan_to_num(raw, nan=3.0, posinf=1e4, neginf=-1e4), -1e4, 1e4)
    for part in (*loss.loss_gradient(y, raw, reduction="none"), *loss.gradient_hessian(y, raw, reduction="none")):
        assert np.isfinite(part).all()
    assert np.isfinite(loss.loss(y, raw, weight, reduction="sum"))


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=2)), max_size=4),
    st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=2), max_size=3),
    hnp.arrays(
        st.sampled_from(["f2", "f4", "f8", "g", "c8", "i1", "u8", "?", "O", "U2", "M8[s]", ">f4"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    ),
)


@settings(max_examples=1000)
@given(
    st.sampled_from(MULTICLASS),
    st.sampled_from(METHODS),
    JUNK,
    JUNK,
    JUNK,
    st.fixed_dictionaries(
        {},
        optional={
            "reduction": JUNK,
            "n_threads": st.one_of(st.none(), st.integers(-2, 3)),
            "gradient_out": JUNK,
            "class_weight": JUNK,
            "ignore_index": JUNK,
        },
    ),
)
def test_junk_never_crashes(name, method, y, raw, weight, options):
    """Any call returns or raises ValueError or TypeError with a text."""
    if method == "loss":
        options.pop("gradient_out", None)
    try:
        getattr(fastloss, method)(name, y, raw, weight, **options)
    except (ValueError, TypeError) as error:
        assert str(error)  # noqa: PT017 - a result is as good


@settings(max_examples=300)
@given(
    st.sampled_from(["softmax", "log_softmax", "logsumexp"]), JUNK, st.one_of(st.integers(-4, 4), JUNK), st.booleans()
)
def test_junk_never_crashes_softmax(function, raw, axis, swap):
    options = {"out": axis} if swap else {"axis": axis}
    try:
        getattr(fastloss, function)(raw, **options)
    except (ValueError, TypeError) as error:
        assert str(error)  # noqa: PT017 - a result is as good
