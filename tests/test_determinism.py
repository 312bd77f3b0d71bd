"""Promise: the same bits for any number of threads, from run to run, and for any alignment, stride and order."""

import numpy as np
import pytest
from bits import REDUCTIONS, differing, results
from grids import everyday, samples
from oracle import ORACLES

import fastloss
from fastloss import _kernels

FUSED = ("loss_gradient", "gradient_hessian")
"""Enough where arrays are long: test_pitfalls proves that the other entry points agree with these."""


def problem(name, n, dtype, outputs=None):
    y, raw = everyday(name, n=n, dtype=dtype, outputs=outputs)
    return y, raw, np.random.default_rng(n).uniform(0.1, 3, n)


@pytest.mark.parametrize("n", [1, 7, 1023, 1024, 1025])
def test_threads_short(name, dtype, isa, n):
    loss = fastloss.get_loss(name)
    y, raw, weight = problem(name, n, dtype)
    for w in (None, weight):
        alone = results(loss, y, raw, w, n_threads=1)
        for n_threads in (2, 3, 8, None):
            assert not differing(alone, results(loss, y, raw, w, n_threads=n_threads))


def test_threads_around_a_chunk(name, dtype, isa):
    loss = fastloss.get_loss(name)
    for n in (65535, 65536, 65537):
        y, raw, weight = problem(name, n, dtype)
        one, three = (results(loss, y, raw, weight, n_threads=t, methods=FUSED, reductions=("mean",)) for t in (1, 3))
        assert not differing(one, three), n


def test_threads_long(name, dtype, isa):
    """Thread counts 1 to 8 on a number of samples that no block or chunk divides."""
    loss = fastloss.get_loss(name)
    y, raw, weight = problem(name, 200_003, dtype)
    for reductions, counts in ((("mean",), range(2, 9)), (("sum", "none"), (2, 7))):
        alone = results(loss, y, raw, weight, n_threads=1, methods=FUSED, reductions=reductions)
        for n_threads in counts:
            other = results(loss, y, raw, weight, n_threads=n_threads, methods=FUSED, reductions=reductions)
            assert not differing(alone, other), n_threads


def test_run_to_run(name, dtype, isa):
    loss = fastloss.get_loss(name)
    y, raw, _ = problem(name, 70_001, dtype)
    first = results(loss, y, raw, n_threads=8, methods=("loss",), reductions=("mean", "sum"))
    for _ in range(20):
        again = results(loss, y, raw, n_threads=8, methods=("loss",), reductions=("mean", "sum"))
        assert not differing(first, again)


def test_multi_output_threads(name, dtype, isa):
    loss = fastloss.get_loss(name)
    y, raw, weight = problem(name, 30_011, dtype, outputs=3)
    alone = results(loss, y, raw, weight, n_threads=1, methods=FUSED, reductions=("mean", "none"))
    for n_threads in (2, 8):
        other = results(loss, y, raw, weight, n_threads=n_threads, methods=FUSED, reductions=("mean", "none"))
        assert not differing(alone, other)


def shifted(x, elements):
    """The same numbers, ``elements`` further in memory than the allocator would put them."""
    room = np.zeros(x.size + elements, x.dtype)
    room[elements:] = x.ravel()
    return room[elements:].reshape(x.shape)


def misaligned(x):
    """The same numbers at an address that is no multiple of the item size."""
    room = np.zeros(x.nbytes + 1, np.uint8)[1:]
    view = room.view(x.dtype)
    view[:] = x
    return view


def spread(x, step):
    """The same numbers with a stride of ``step`` elements."""
    room = np.zeros((abs(step) * len(x), *x.shape[1:]), x.dtype)
    view = room[::step]
    view[:] = x
    return view


LAYOUTS = {
    "one element further": lambda x: shifted(x, 1),
    "three elements further": lambda x: shifted(x, 3),
    "misaligned": misaligned,
    "every second": lambda x: spread(x, 2),
    "every seventh": lambda x: spread(x, 7),
    "backwards": lambda x: spread(x, -1),
    "backwards, every third": lambda x: spread(x, -3),
}


@pytest.mark.parametrize("n", [1, 7, 1025, 3001])
def test_layouts(name, dtype, isa, n):
    loss = fastloss.get_loss(name)
    y, raw, weight = problem(name, n, dtype)
    plain = results(loss, y, raw, weight)
    for layout, change in LAYOUTS.items():
        assert not differing(plain, results(loss, change(y), change(raw), change(weight))), layout
        assert not differing(plain, results(loss, y, change(raw), weight, n_threads=3)), layout
        assert not differing(plain, results(loss, change(y), raw, weight)), layout


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "misaligned"])
def test_output_layouts(name, dtype, isa, layout):
    """Results written through any buffer are those that are returned without one."""
    loss = fastloss.get_loss(name)
    y, raw, weight = problem(name, 2051, dtype)
    fresh = lambda: LAYOUTS[layout](np.full(2051, np.nan, dtype))  # noqa: E731
    for reduction in REDUCTIONS:
        gradient, hessian = fresh(), fresh()
        out = loss.gradient_hessian(y, raw, weight, reduction=reduction, gradient_out=gradient, hessian_out=hessian)
        assert out[0] is gradient
        assert out[1] is hessian
        want = loss.gradient_hessian(y, raw, weight, reduction=reduction)
        np.testing.assert_array_equal(gradient, want[0])
        np.testing.assert_array_equal(hessian, want[1])
    value, gradient = fresh(), fresh()
    out = loss.loss_gradient(y, raw, weight, reduction="none", loss_out=value, gradient_out=gradient)
    assert out[0] is value
    assert out[1] is gradient
    want = loss.loss_gradient(y, raw, weight, reduction="none")
    np.testing.assert_array_equal(value, want[0])
    np.testing.assert_array_equal(gradient, want[1])


def test_misaligned_output_is_refused(dtype):
    """Inputs are read at any address; a buffer to write to must be aligned, and the error says so."""
    y, raw, _ = problem("huber", 100, dtype)
    with pytest.raises(ValueError, match=r"gradient_out.*aligned"):
        fastloss.gradient("huber", y, raw, gradient_out=misaligned(np.zeros(100, dtype)))


ORDERINGS = {
    "Fortran": np.asfortranarray,
    "rows backwards": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "columns backwards": lambda x: np.ascontiguousarray(x[:, ::-1])[:, ::-1],
    "part of a wider array": lambda x: np.pad(x, ((1, 2), (3, 1)))[1:-2, 3:-1],
    "every second column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
}


@pytest.mark.parametrize("outputs", [1, 2, 3, 10])
def test_orders(name, dtype, isa, outputs):
    loss = fastloss.get_loss(name)
    y, raw, weight = problem(name, 701, dtype, outputs)
    plain = results(loss, y, raw, weight)
    for ordering, change in ORDERINGS.items():
        assert not differing(plain, results(loss, change(y), change(raw), weight)), ordering
        assert not differing(plain, results(loss, y, change(raw), weight, n_threads=4)), ordering
        gradient = change(np.full_like(raw, np.nan))
        loss.gradient(y, raw, weight, gradient_out=gradient)
        np.testing.assert_array_equal(gradient, loss.gradient(y, raw, weight), err_msg=ordering)


@pytest.mark.skipif(
    not {"avx2", "avx512"} <= set(_kernels.available_isas()), reason="needs a machine with AVX2 and AVX-512"
)
def test_avx2_and_avx512_agree():
    """The wider variant does the same operations in the same order: no bit differs, on adversarial input too."""
    for name in fastloss.list_losses(kind="regression") + fastloss.list_losses(kind="binary"):
        for params in ORACLES[name].parameter_sets:
            loss = fastloss.get_loss(name, **params)
            for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
                for y, raw in (everyday(name, params, 5011, dtype), samples(name, params, dtype)):
                    found = []
                    for isa in ("avx2", "avx512"):
                        with _kernels.use_isa(isa):
                            found.append(results(loss, y, raw))
                    assert not differing(*found), loss
