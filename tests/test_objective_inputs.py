"""Promise: X is read as it is stored, dense or sparse, by any number of threads, and that changes no bit.

Sparse X adds in another order than dense X does, so there the bounds of `slow_linear` apply.
"""

import itertools
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse as sp
from bits import bits
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_linear import (
    CLASSES,
    MULTICLASS,
    POINTWISE,
    check,
    evaluate,
    few,
    objective,
    options_for,
    problem,
    reference,
    result_bits,
    targets,
)
from test_determinism import misaligned

from fastloss import LinearObjective

# how X is stored ------------------------------------------------------------------------------------------------


def strided(step_rows, step_columns):
    """The same numbers as every step-th row and column of a larger array; negative steps run backwards."""

    def change(X):
        room = np.full((abs(step_rows) * X.shape[0], abs(step_columns) * X.shape[1]), 99, X.dtype)
        view = room[::step_rows, ::step_columns]
        view[...] = X
        return view

    return change


def read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


LAYOUTS = {
    "Fortran": np.asfortranarray,
    "part of a wider array": lambda X: np.pad(X, ((1, 2), (3, 1)), constant_values=99)[1:-2, 3:-1],
    "part of a longer Fortran array": lambda X: np.asfortranarray(np.pad(X, ((1, 2), (3, 1))))[1:-2, 3:-1],
    "every second row": strided(2, 1),
    "every third column": strided(1, 3),
    "rows backwards": strided(-1, 1),
    "columns backwards": strided(1, -1),
    "both backwards, with gaps": strided(-2, -3),
    "Fortran, every second row": lambda X: strided(1, 2)(X.T).T,
    "Fortran, backwards": lambda X: strided(-1, -1)(X.T).T,
    "misaligned": lambda X: misaligned(X.ravel()).reshape(X.shape),
    "misaligned Fortran": lambda X: misaligned(X.ravel(order="F")).reshape(X.shape[::-1]).T,
    "one element further": lambda X: np.concatenate([X.ravel()[:1], X.ravel()])[1:].reshape(X.shape),
    "read-only": read_only,
    "read-only Fortran": lambda X: read_only(X.T).T,
    "byte-swapped": lambda X: X.astype(X.dtype.newbyteorder()),
    "list": lambda X: X if X.dtype == np.float32 else X.tolist(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_change_no_bit(layout, dtype, isa):
    change = LAYOUTS[layout]
    for n, d in ((1, 1), (2, 9), (67, 5), (300, 20), (1000, 3), (5, 600)):
        for p in few(n, d, dtype):
            plain, other = objective(p), objective(p, change(p.X))
            assert other.dtype == dtype
            assert result_bits(plain, p.w) == result_bits(other, p.w), (n, d, p.loss)
            v = np.ones_like(p.w)
            assert bits(plain.hessp(p.w, v)) == bits(other.hessp(p.w, v)), (n, d, p.loss)
            assert bits(plain.hessian_diag(p.w)) == bits(other.hessian_diag(p.w)), (n, d, p.loss)


@pytest.mark.parametrize("order", ["C", "F"])
def test_memmap(order, dtype, tmp_path):
    for p in few(300, 20, dtype):
        mapped = np.memmap(tmp_path / f"X{order}{p.loss.name}", dtype, "w+", shape=p.X.shape, order=order)
        mapped[...] = p.X
        mapped.flush()
        mapped = np.memmap(mapped.filename, dtype, "r", shape=p.X.shape, order=order)
        assert result_bits(objective(p), p.w) == result_bits(objective(p, mapped), p.w)


@pytest.mark.parametrize("code", ["f2", "g", "i1", "i4", "i8", "u1", "u8", "?", ">i2", ">f2", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_other_dtypes_are_read_as_float64(code, order, isa):
    for p in few(131, 7, np.float64):
        X = np.asarray((np.abs(p.X) * 3).astype(code), order=order)
        found = objective(p, X)
        assert found.dtype == np.float64
        assert result_bits(found, p.w) == result_bits(objective(p, X.astype(np.float64)), p.w)
        check(found, p.w, reference(p, X.astype(np.float64)))


def test_data_frame(dtype):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    for p in few(67, 5, dtype):
        frame = pandas.DataFrame(p.X)
        assert result_bits(objective(p), p.w) == result_bits(objective(p, frame), p.w)


@pytest.mark.parametrize("code", ["f2", "f4", "f8", ">f8", "i1", "i8"])
def test_dtypes_of_weight_and_offset(code, dtype):
    """Any real dtype, any strides: the same bits as the same numbers in float64."""
    for p in few(300, 5, dtype):
        weight = np.random.default_rng(0).integers(0, 4, 300).astype(code)
        offset = np.random.default_rng(1).integers(-2, 3, (300, p.K) if p.K > 1 else 300).astype(code)
        plain = result_bits(objective(p, sample_weight=weight.astype(float), offset=offset.astype(float)), p.w)
        assert result_bits(objective(p, sample_weight=weight, offset=offset), p.w) == plain
        spread = {"sample_weight": np.repeat(weight, 2)[::2], "offset": np.repeat(offset, 3, axis=0)[::3]}
        assert result_bits(objective(p, **spread), p.w) == plain
        assert result_bits(objective(p, sample_weight=weight, offset=np.asfortranarray(offset)), p.w) == plain
        check(objective(p, sample_weight=weight, offset=offset), p.w, reference(p, sample_weight=weight, offset=offset))


def test_layouts_of_several_targets(dtype):
    p = problem("huber", 131, 5, dtype, outputs=3)
    plain, y = result_bits(objective(p), p.w), p.y
    for change in (np.asfortranarray, strided(2, 3), strided(-1, -1), lambda y: y.astype(y.dtype.newbyteorder())):
        p.y = change(y)
        assert result_bits(objective(p), p.w) == plain


# sparse X -------------------------------------------------------------------------------------------------------


def sparse_numbers(n, d, dtype, density=0.2, seed=0):
    """Dense array with zeros, empty rows and empty columns."""
    rng = np.random.default_rng([seed, n, d])
    X = rng.normal(size=(n, d)) * (rng.uniform(size=(n, d)) < density)
    X[n // 3 : n // 2] = 0
    X[:, d // 3 : d // 2] = 0
    return X.astype(dtype)


def unsorted(X):
    """Every row's entries in reverse order, repeated ones included."""
    X = sp.csr_array(X)
    for start, end in itertools.pairwise(X.indptr):
        X.indices[start:end] = X.indices[start:end][::-1].copy()
        X.data[start:end] = X.data[start:end][::-1].copy()
    X.has_sorted_indices = False
    return X


def duplicated(X):
    """Every entry x as 3x and -2x, unsorted: the entries of a row are its entries twice."""
    X = sp.csr_array(X)
    lengths = np.diff(X.indptr)
    data, indices = [], []
    for start, end in itertools.pairwise(X.indptr):
        data += [3 * X.data[start:end], -2 * X.data[start:end]]
        indices += [X.indices[start:end]] * 2
    indptr = np.concatenate([[0], np.cumsum(2 * lengths)])
    Y = sp.csr_array((np.concatenate(data), np.concatenate(indices), indptr.astype(X.indptr.dtype)), shape=X.shape)
    assert Y.nnz == 2 * X.nnz
    return Y


def explicit_zeros(X):
    X = sp.csr_array(np.where(X == 0, 7, X))
    X.data[X.data == 7] = 0
    return X


def wide_indices(X):
    X = sp.csr_array(X)
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    return X


def frozen(X):
    X = sp.csr_array(X)
    for part in (X.data, X.indices, X.indptr):
        part.flags.writeable = False
    return X


SPARSE = {
    "csr_array": sp.csr_array,
    "csr_matrix": sp.csr_matrix,
    "int64 indices": wide_indices,
    "unsorted": unsorted,
    "unsorted, int64": lambda X: wide_indices(unsorted(X)),
    "duplicates": duplicated,
    "duplicates, int64": lambda X: wide_indices(duplicated(X)),
    "explicit zeros": explicit_zeros,
    "read-only": frozen,
    "csc_array": sp.csc_array,
    "csc_matrix": sp.csc_matrix,
    "coo_array": sp.coo_array,
    "coo_matrix": sp.coo_matrix,
    "lil_array": sp.lil_array,
    "dok_array": sp.dok_array,
    "bsr_array": lambda X: sp.bsr_array(X, blocksize=(1, 1)),
    "dia_array": sp.dia_array,
}


def parts(X):
    return (X.data, X.indices, X.indptr) if X.format in ("csr", "csc") else ()


@pytest.mark.filterwarnings("ignore:Constructing a DIA matrix")
@pytest.mark.parametrize("form", SPARSE)
def test_sparse(form, dtype, isa):
    """Any sparse format gives what the dense array gives, up to rounding."""
    for n, d in ((1, 1), (17, 40), (131, 20), (600, 9)):
        dense = sparse_numbers(n, d, dtype)
        X = SPARSE[form](dense)
        # the products of entries given twice, 3x and -2x, are five times those of x
        size = 5 * np.abs(dense) if "duplicates" in form else None
        for p in few(n, d, dtype):
            before = [part.copy() for part in parts(X)]
            options = options_for(p, weighted=True, shifted=True, alpha=0.1)
            found = objective(p, X, **options)
            assert found.dtype == dtype
            assert found.n_features == d
            check(found, p.w, reference(p, dense, size=size, **options))
            for part, was in zip(parts(X), before, strict=True):
                np.testing.assert_array_equal(part, was)  # sorted and summed by nobody


def test_index_type_changes_no_bit(dtype, isa):
    for p in few(600, 30, dtype):
        dense = sparse_numbers(600, 30, dtype)
        for make in (sp.csr_array, unsorted, duplicated):
            X = make(dense)
            assert result_bits(objective(p, X), p.w) == result_bits(objective(p, wide_indices(X)), p.w)


@pytest.mark.parametrize("code", ["i1", "i8", "?", "u4"])
def test_sparse_of_other_dtypes(code):
    dense = np.abs(sparse_numbers(131, 20, np.float64) * 4).astype(code)
    for p in few(131, 20, np.float64):
        found = objective(p, sp.csr_array(dense))
        assert found.dtype == np.float64
        check(found, p.w, reference(p, dense.astype(float)))


def test_nothing_stored(dtype):
    """A sparse X without entries, and rows beyond the last entry."""
    for p in few(70, 6, dtype):
        empty = np.zeros((70, 6), dtype)
        check(objective(p, sp.csr_array((70, 6), dtype=dtype)), p.w, reference(p, empty))
        empty[0, 0] = 1
        check(objective(p, sp.csr_array(empty)), p.w, reference(p, empty))


# any shape ------------------------------------------------------------------------------------------------------


@st.composite
def laid_out(draw, X):
    """The same X with other strides, as a sparse matrix, or as it is."""
    form = draw(st.sampled_from([*LAYOUTS, *SPARSE]))
    return form, (LAYOUTS.get(form) or SPARSE[form])(X)


@st.composite
def problems(draw):
    """(problem, X laid out somehow, options)."""
    name = draw(st.sampled_from([*POINTWISE, *CLASSES]))
    n, d = draw(st.integers(1, 70)), draw(st.integers(1, 40))
    K = draw(st.integers(2, 20))
    outputs = draw(st.sampled_from([None, None, 1, 2, 7]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    p = problem(
        name, n, d, dtype, K=K, outputs=None if name in CLASSES else outputs, intercept=draw(st.booleans()),
        seed=draw(st.integers(0, 1000)),
    )  # fmt: skip
    p.X *= np.random.default_rng(n).uniform(size=p.X.shape) < draw(st.sampled_from([1.0, 0.3]))
    options = options_for(
        p, weighted=draw(st.booleans()), shifted=draw(st.booleans()), alpha=draw(st.sampled_from([0, 1]))
    )
    form, X = draw(laid_out(p.X))
    return p, form, X, options, draw(st.sampled_from([None, 1, 2, 5]))


@settings(max_examples=400)
@given(problems())
def test_any_shape_and_layout(found):
    p, form, X, options, n_threads = found
    size = 5 * np.abs(p.X) if "duplicates" in form else None
    w = p.w.astype(p.X.dtype)
    laid = objective(p, X, n_threads=n_threads, **options)
    check(laid, w, reference(p, w=w, size=size, **options))
    if form in LAYOUTS:
        assert result_bits(laid, w) == result_bits(objective(p, **options), w)


# threads --------------------------------------------------------------------------------------------------------


def same_for_all_counts(p, X=None, counts=(2, 3, 4, 5, 6, 7, 8, None), w=None, **options):
    w = p.w if w is None else w
    v = np.linspace(-1, 1, p.w.size).astype(w.dtype)
    alone = None
    for n_threads in (1, *counts):
        found = objective(p, X, n_threads=n_threads, **options)
        these = (*result_bits(found, w), bits(found.hessp(w, v)), bits(found.hessian_diag(w)))
        alone = alone or these
        assert these == alone, n_threads
    return objective(p, X, **options)


@pytest.mark.parametrize("form", ["C", "F", "csr"])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (67, 3), (5000, 20)])
def test_threads(form, n, d, dtype, isa):
    for p in few(n, d, dtype):
        make = {"C": np.copy, "F": np.asfortranarray, "csr": lambda X: sp.csr_array(np.where(X > 0.5, X, 0))}[form]
        same_for_all_counts(p, make(p.X), **options_for(p, weighted=True, alpha=0.1))


def test_threads_long(dtype):
    """Rows that no tile or chunk divides, over all chunks."""
    for p in few(70_001, 3, dtype):
        for X in (p.X, np.asfortranarray(p.X), sp.csr_array(p.X)):
            same_for_all_counts(p, X, (2, 7), **options_for(p, weighted=True, alpha=0.1))


def test_threads_with_many_scores(dtype, isa):
    for p in (problem("cross_entropy", 3000, 20, dtype, K=100), problem("huber", 3000, 20, dtype, outputs=33)):
        found = same_for_all_counts(p, counts=(2, 5, 8))
        check(found, p.w, reference(p))


def test_run_to_run(dtype):
    for p in few(20_000, 20, dtype):
        found = objective(p, n_threads=8)
        first = result_bits(found, p.w)
        for _ in range(10):
            assert result_bits(found, p.w) == first


def test_concurrent_calls_do_not_mix():
    """One objective, asked by many threads at once, at different points."""
    for p in few(3000, 20, np.float64):
        found = objective(p, n_threads=2)
        points = [p.w * t for t in np.linspace(-1, 1, 8)]
        alone = [(*result_bits(found, w), bits(found.hessp(w, p.w))) for w in points]
        with ThreadPoolExecutor(8) as pool:
            for _ in range(3):
                both = pool.map(lambda w: (*result_bits(found, w), bits(found.hessp(w, p.w))), points)  # noqa: B023
                assert list(both) == alone


def test_the_gil_is_released():
    ticks, done = [0], threading.Event()

    def tick():
        while not done.is_set():
            ticks[0] += 1

    n = 30_000_000
    found = LinearObjective(np.broadcast_to(np.ones(8), (n, 8)), np.broadcast_to(1.0, n), "log_loss", n_threads=1)
    thread = threading.Thread(target=tick)
    thread.start()
    try:
        before = ticks[0]
        found(np.zeros(9))
        advanced = ticks[0] - before
    finally:
        done.set()
        thread.join()
    assert advanced > 10_000


# more coefficients than a thread may have of its own ------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
def test_many_classes_times_features(order, isa):
    """Beyond d * K = 1e6 threads own slices of the gradient."""
    p = problem("cross_entropy", 50, 300, np.float32, K=4000)
    w = p.w.astype(np.float32)
    found = same_for_all_counts(p, np.asarray(p.X, order=order), counts=(2, 3), w=w, alpha=0.1)
    check(found, w, reference(p, w=w, alpha=0.1))


def test_many_classes_times_features_in_several_tiles(dtype):
    p = problem("cross_entropy", 300, 520, dtype, K=2000)
    options = options_for(p, weighted=True, alpha=0.1)
    w = p.w.astype(dtype)
    found = same_for_all_counts(p, counts=(2,), w=w, **options)
    check(found, w, evaluate_in_double(p, w, **options))


def test_many_outputs_times_features(dtype):
    """The same for a pointwise loss."""
    p = problem("huber", 90, 600, dtype, outputs=1700)
    w = p.w.astype(dtype)
    found = same_for_all_counts(p, counts=(2, 3), w=w)
    check(found, w, reference(p, w=w))


def test_many_classes_times_sparse_features(dtype):
    p = problem("cross_entropy", 150, 9000, dtype, K=120)
    dense = sparse_numbers(150, 9000, dtype, density=0.01)
    w = p.w.astype(dtype)
    found = same_for_all_counts(p, sp.csr_array(dense), counts=(2, 3), w=w, alpha=0.1)
    used = np.flatnonzero(dense.any(axis=0))
    check_used(found, p, dense[:, used], used, w, alpha=0.1)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_million_features(order, dtype):
    p = problem("log_loss", 5, 1_100_000, dtype)
    found = same_for_all_counts(p, np.asarray(p.X, order=order), counts=(2, 3))
    check(found, p.w, reference(p))


@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_a_million_sparse_features(index, dtype):
    n, d, per_row = 300, 1_200_000, 30
    rng = np.random.default_rng(0)
    p = problem("log_loss", n, 1, dtype)
    columns = rng.integers(0, d, n * per_row).astype(index)
    columns[:2] = 0, d - 1
    data = rng.normal(size=n * per_row).astype(dtype)
    X = sp.csr_array((data, columns, np.arange(0, n * per_row + 1, per_row).astype(index)), shape=(n, d))
    p.w = rng.normal(size=d + 1)
    found = same_for_all_counts(p, X, counts=(2, 3), alpha=0.1)
    used = np.unique(columns)
    check_used(found, p, X[:, used].toarray(), used, p.w, alpha=0.1)


def check_used(found, p, part, used, w, alpha):
    """Check against the reference for the columns that have entries; the rest has the penalty's gradient alone."""
    value, gradient = found(w)
    W, G = w.reshape(p.K, -1), gradient.reshape(p.K, -1)
    few_columns = np.append(used, found.n_features)
    wanted = evaluate(part, p.y, p.loss, W[:, few_columns], K=p.K, alpha=alpha)
    rest = np.setdiff1d(np.arange(found.n_features), used)
    unit = np.finfo(part.dtype).eps
    penalty = alpha / 2 * np.sum(W[:, rest].astype(float) ** 2)
    assert abs(value - wanted.value - penalty) <= wanted.value_error + 8 * unit * penalty
    bound = wanted.gradient_error + np.finfo(G.dtype).eps * np.abs(wanted.gradient)
    assert np.all(np.abs(G[:, few_columns] - wanted.gradient) <= bound)
    np.testing.assert_allclose(G[:, rest], alpha * W[:, rest], rtol=4 * unit, atol=0)


def evaluate_in_double(p, w, **options):
    """The reference for softmax with matrix products in float64: long double would take half a minute."""
    wanted = evaluate(p.X[:, :0], p.y, p.loss, np.zeros(p.K), K=p.K, dtype=p.X.dtype, **options)
    X, W = p.X.astype(float), w.reshape(p.K, -1).astype(float)
    alpha, weight = options["alpha"], options["sample_weight"]
    raw = X @ W[:, :-1].T + W[:, -1]
    onehot = targets(p.y, p.K)
    loss, g, value_size, size = MULTICLASS[p.loss.name](raw, onehot)
    unit = float(np.finfo(p.X.dtype).eps)
    n, d = X.shape
    off = unit * (8 + np.sqrt(d)) * (np.abs(X) @ np.abs(W[:, :-1].T) + np.abs(W[:, -1])).max(axis=1, keepdims=True)
    share = (weight / weight.sum())[:, None]
    error = share * (8 * size * (unit + off) + unit * (8 + np.sqrt(n)) * np.abs(g))
    full = np.hstack([X, np.ones((n, 1))])
    penalty = W.copy()
    penalty[:, -1] = 0
    wanted.value = float(share[:, 0] @ loss + alpha / 2 * np.sum(penalty**2))
    wanted.value_error = float(
        share[:, 0] @ (np.abs(g).sum(axis=1) * off[:, 0] + 8 * unit * value_size)
        + 8 * unit * alpha * np.sum(penalty**2)
    )
    wanted.gradient = (share * g).T @ full + alpha * penalty
    wanted.gradient_error = error.T @ np.abs(full) + 8 * unit * alpha * np.abs(penalty)
    return wanted


# long evaluations, other processes ------------------------------------------------------------------------------

NO_TIMER = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timer")

INTERRUPTED = """
import signal, time
import numpy as np
import scipy.sparse as sp
from fastloss import LinearObjective

# an alarm of the system instead of a sender in another thread, which would wait for the GIL itself
signal.signal(signal.SIGALRM, signal.default_int_handler)

def interrupted(call, delay=0.2):
    '''Seconds from the signal to the exception of Ctrl-C.'''
    start = time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, delay)
    try:
        call()
    except KeyboardInterrupt:
        return time.perf_counter() - start - delay
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    raise SystemExit("the call ended by itself")

{setup}
for call in (lambda: found(w), lambda: found.hessp(w, w), lambda: found.hessian_diag(w), lambda: found(w)):
    print(interrupted(call))
"""

CSR = """
n, d = {n}, {d}
indices, indptr = np.resize(np.arange(d, dtype=np.int32), n * d), np.arange(0, n * d + 1, d, dtype=np.int32)
X = sp.csr_array((np.ones(n * d, np.float32), indices, indptr), shape=(n, d))
found = LinearObjective(X, np.arange(n) % 3000, "cross_entropy", n_classes=3000, n_threads=2)
w = np.zeros((d + 1) * 3000, np.float32)
"""

LONG = {
    "rows": """
n = 2_000_000_000  # views of one row: no memory, much work
found = LinearObjective(np.broadcast_to(np.ones(64), (n, 64)), np.broadcast_to(1.0, n), "squared_error", n_threads=2)
w = np.zeros(65)
""",
    "classes": """
n = 1_000_000
X, y = np.broadcast_to(np.ones(256, np.float32), (n, 256)), np.broadcast_to(np.int8(0), n)
found = LinearObjective(X, y, "cross_entropy", n_classes=4200, n_threads=2)
w = np.zeros(257 * 4200, np.float32)
""",
    "csr": CSR.format(n=30_000, d=300),
    "csr, threads own slices": CSR.format(n=1800, d=5000),
}


@NO_TIMER
@pytest.mark.parametrize("what", LONG)
def test_a_long_evaluation_can_be_interrupted(what, run_python):
    """Many seconds of work end within a second of Ctrl-C, whichever method runs, and again on the same object."""
    done = run_python(INTERRUPTED.format(setup=LONG[what]), OPENBLAS_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    waited = [float(line) for line in done.stdout.split()]
    assert len(waited) == 4
    assert max(waited) < 1, waited


@NO_TIMER
def test_an_interrupted_objective_stays_right():
    """Interrupted at many moments, it gives afterwards what it gave before."""

    class EnoughError(Exception):
        pass

    def stop(*_):
        raise EnoughError

    n = 20_000_000
    X = np.broadcast_to(np.linspace(-1, 1, 8), (n, 8))
    found = LinearObjective(X, np.broadcast_to(1.0, n), "log_loss", n_threads=2)
    w = np.linspace(0, 1, 9)
    wanted, stopped = result_bits(found, w), 0
    before = signal.signal(signal.SIGALRM, stop)
    try:
        for delay in (0.001, 0.01, 0.02, 0.03, 0.05, 0.08):
            try:
                signal.setitimer(signal.ITIMER_REAL, delay)
                found(w)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except EnoughError:
                stopped += 1
                assert result_bits(found, w) == wanted
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert stopped >= 2


FORK = """
import os, signal
import numpy as np
from fastloss import LinearObjective

rng = np.random.default_rng(0)
X, y = rng.normal(size=(100_000, 20)), rng.integers(0, 3, 100_000)
small = LinearObjective(X, (y > 0) * 1.0, "log_loss", n_threads={n_threads})
large = LinearObjective(X[:500].astype("f4"), np.arange(500) * 120, "cross_entropy", n_threads={n_threads})

def work():
    found = [(o(np.linspace(-1, 1, o.size)), o.hessp(o.initial, o.initial + 1)) for o in (small, large)]
    return b"".join(np.float64(v).tobytes() + g.tobytes() + h.tobytes() for (v, g), h in found)

before = work()
for _ in range(2):
    child = os.fork()
    if child == 0:
        signal.alarm(15)  # a hanging child ends
        os._exit(0 if work() == before else 7)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status
assert work() == before
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("n_threads", ["2", "None"])
def test_fork_after_threads(n_threads, run_python):
    """A forked child neither hangs nor computes something else; d * K = 1.2e6 in the second objective."""
    done = run_python(FORK.format(n_threads=n_threads), timeout=40)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr[-2000:]
