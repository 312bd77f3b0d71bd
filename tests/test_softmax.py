"""`softmax`, `log_softmax`, `logsumexp`: exact to 4 ulp, along any axis, into any buffer, with any thread count."""

import inspect

import numpy as np
import pytest
from bits import bits
from grids_multiclass import ROWS, everyday, scores
from oracle_multiclass import softmax_functions
from scipy import special
from test_multiclass_accuracy import complaint

import fastloss

FUNCTIONS = ("softmax", "log_softmax", "logsumexp")
INF, NAN = np.inf, np.nan
_exact: dict = {}


@pytest.fixture(params=FUNCTIONS)
def function(request):
    return request.param


def call(name, *args, **options):
    return getattr(fastloss, name)(*args, **options)


def exact(dtype, K):
    """(rows, references), made once."""
    key = np.dtype(dtype).str, K
    if key not in _exact:
        raw = scores(K, dtype, seed=5)
        _exact[key] = raw, softmax_functions(raw)
    return _exact[key]


# accuracy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["rows", "columns", "gaps"])
def test_ulps(function, dtype, isa, layout):
    """Differences from the largest are rounded once; logsumexp is measured by the larger of maximum and logarithm."""
    for K in ROWS:
        raw, references = exact(dtype, K)
        x = {"rows": raw, "columns": np.asfortranarray(raw), "gaps": np.repeat(raw, 3, axis=1)[:, ::3]}[layout]
        got = call(function, x)
        assert got.dtype == dtype
        assert got.shape == (raw.shape[:1] if function == "logsumexp" else raw.shape)
        message = complaint(references[function], got, np.zeros(len(raw), int), raw, 4)
        if message:
            pytest.fail(f"{function} K={K} {dtype} {isa} {layout}: {message}", pytrace=False)


@pytest.mark.parametrize("gap", [17.0, 20.0, 40.0, 85.0])
def test_log_softmax_keeps_the_tail(dtype, isa, gap):
    """SciPy's log_softmax rounds these to 0 (scipy #19521)."""
    got = fastloss.log_softmax(np.array([gap, 0.0], dtype))
    assert got[0] == pytest.approx(-np.log1p(np.exp(-gap)), rel=4 * float(np.finfo(dtype).eps))
    assert got[1] == pytest.approx(-gap - np.exp(-gap), rel=4 * float(np.finfo(dtype).eps))


def test_agrees_with_scipy(function, isa):
    _, raw = everyday(300, 7)
    wanted = getattr(special, function)(raw, axis=1)
    np.testing.assert_allclose(call(function, raw, axis=1), wanted, rtol=1e-13, atol=1e-14)


SPECIAL = [
    ([INF, 0.0, INF], [0.5, 0, 0.5], INF),
    ([INF, -INF], [1, 0], INF),
    ([INF, INF, INF, INF], [0.25] * 4, INF),
    ([-INF, 0.0, 0.0], [0, 0.5, 0.5], np.log(2)),
    ([0.0, -INF, -INF], [1, 0, 0], 0.0),
    ([-INF, -INF], [NAN, NAN], -INF),
    ([NAN, 0.0, 1.0], [NAN] * 3, NAN),
    ([1.0, 2.0, NAN], [NAN] * 3, NAN),
    ([NAN, INF], [NAN] * 2, NAN),
    ([3.0], [1], 3.0),
    ([-INF], [NAN], -INF),
    ([INF], [1], INF),
]


@pytest.mark.parametrize(("raw", "probability", "total"), SPECIAL, ids=str)
def test_special_values(dtype, isa, raw, probability, total):
    x = np.array(raw, dtype)
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_array_equal(fastloss.softmax(x), np.array(probability, dtype))
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(fastloss.log_softmax(x), np.log(probability), rtol=2 * eps)
    np.testing.assert_allclose(fastloss.logsumexp(x), total, rtol=2 * eps)


def test_special_rows_leave_the_others_alone(function, dtype, isa):
    """Rows side by side in the lanes of a vector."""
    _, raw = everyday(70, 5, dtype)
    clean = call(function, raw)
    for bad in (NAN, INF, -INF):
        x = raw.copy()
        x[[0, 13, 69]] = bad
        got = call(function, x)
        assert bits(np.delete(got, [0, 13, 69], axis=0)) == bits(np.delete(clean, [0, 13, 69], axis=0))


def test_probabilities_sum_to_one(dtype, isa):
    for K in (2, 7, 1000):
        p = fastloss.softmax(everyday(100, K, dtype)[1])
        assert np.all((p >= 0) & (p <= 1))
        np.testing.assert_allclose(p.astype(float).sum(axis=1), 1, rtol=4 * np.finfo(dtype).eps)


# axes, shapes ---------------------------------------------------------------------------------------------------


def test_arguments(function):
    parameters = inspect.signature(getattr(fastloss, function)).parameters
    assert list(parameters) == ["raw", "axis", "out", "n_threads"]
    assert parameters["axis"].default == -1
    assert parameters["axis"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in ("out", "n_threads"))


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 4), (3, 1, 2, 5), (1, 1), (2, 1, 130)])
def test_every_axis_is_the_last_one_moved(function, dtype, isa, shape):
    x = np.random.default_rng(1).normal(size=shape).astype(dtype) * 4
    for order in ("C", "F"):
        given = np.asarray(x, order=order)
        assert bits(call(function, given)) == bits(call(function, given, axis=-1))
        for axis in range(-x.ndim, x.ndim):
            moved = np.ascontiguousarray(np.moveaxis(x, axis, -1))
            wanted = call(function, moved.reshape(-1, moved.shape[-1]))
            if function == "logsumexp":
                wanted = wanted.reshape(moved.shape[:-1])
            else:
                wanted = np.moveaxis(wanted.reshape(moved.shape), -1, axis)
            got = call(function, given, axis=axis)
            assert bits(got) == bits(wanted), (order, axis)


def test_one_dimension_and_positional_axis(function):
    x = np.array([0.5, 1.0, -2.0])
    got = call(function, x, 0)
    assert np.shape(got) == (() if function == "logsumexp" else (3,))
    assert bits(np.asarray(got)) == bits(np.asarray(call(function, x[None, :], 1))[0])


@pytest.mark.parametrize("shape", [(0, 3), (0, 1), (2, 0, 4)])
def test_no_rows(function, dtype, shape):
    got = call(function, np.zeros(shape, dtype))
    assert got.shape == (shape[:-1] if function == "logsumexp" else shape)
    assert got.dtype == dtype


# what is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["f2", "g", "i1", "i8", "u8", "?", ">f8"])
def test_other_real_types_become_float64(function, isa, kind):
    x = np.array([[0, 1, 1], [1, 0, 0]]).astype(kind)
    got = call(function, x)
    assert got.dtype == np.float64
    assert bits(got) == bits(call(function, x.astype(np.float64)))


def test_big_endian_float32_and_lists(function):
    x = everyday(9, 3, np.float32)[1]
    swapped = call(function, x.astype(">f4"))
    assert swapped.dtype == np.float32
    assert bits(swapped) == bits(call(function, x))
    assert bits(call(function, [[1, 2], [3, 4]])) == bits(call(function, np.array([[1.0, 2.0], [3.0, 4.0]])))


def test_read_only_memory_maps_and_views(function, dtype, isa, tmp_path):
    raw = everyday(50, 6, dtype)[1]
    wanted = bits(call(function, raw))
    np.save(tmp_path / "raw.npy", np.asfortranarray(raw))
    frozen = raw.copy()
    frozen.flags.writeable = False
    wide = np.zeros((100, 13), dtype)
    wide[::2, 1::2] = raw
    backwards = np.ascontiguousarray(raw[::-1, ::-1])[::-1, ::-1]
    for other in (np.load(tmp_path / "raw.npy", mmap_mode="r"), frozen, wide[::2, 1::2], backwards):
        assert bits(call(function, other)) == wanted
    row = np.broadcast_to(raw[0], (40, 6))
    assert bits(call(function, row)) == bits(call(function, row.copy()))


def test_input_is_not_changed(function):
    x = everyday(50, 6)[1]
    before = x.tobytes()
    call(function, x)
    call(function, x, axis=0)
    assert x.tobytes() == before


# threads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 3), (40_001, 10), (3001, 129), (3, 100_003)])
def test_threads_change_no_bit(function, dtype, isa, shape):
    x = np.random.default_rng(2).normal(size=shape).astype(dtype)
    alone = bits(call(function, x, n_threads=1))
    for n_threads in (2, 3, 8, None):
        assert bits(call(function, x, n_threads=n_threads)) == alone


def test_a_row_does_not_see_its_neighbours(function, dtype, isa):
    for K in (1, 2, 3, 10, 65, 300):
        x = everyday(70, K, dtype)[1]
        together = call(function, x)
        for i in range(70):
            assert bits(np.asarray(call(function, x[i]))) == bits(np.asarray(together[i])), (K, i)


# buffers --------------------------------------------------------------------------------------------------------


def room_for(function, shape):
    return shape[:-1] if function == "logsumexp" else shape


def test_out(function, dtype, isa):
    raw = everyday(40, 5, dtype)[1]
    shape = room_for(function, raw.shape)
    wanted = call(function, raw)
    spread = np.full([3 * n for n in shape], 7, dtype)
    places = tuple(slice(None, None, 3) for _ in shape)
    for out in (np.empty(shape, dtype), np.empty(shape, dtype, order="F"), spread[places]):
        assert call(function, raw, out=out) is out
        np.testing.assert_array_equal(out, wanted)
    rest = np.ones(spread.shape, bool)
    rest[places] = False
    assert np.all(spread[rest] == 7)
    along = call(function, raw, axis=0)
    first = np.empty(along.shape, dtype)
    assert call(function, raw, axis=0, out=first) is first
    np.testing.assert_array_equal(first, along)


def frozen(x):
    x.flags.writeable = False
    return x


BAD_BUFFERS = {
    "too short": (lambda shape: np.zeros((shape[0] - 1, *shape[1:])), ["("]),
    "one more axis": (lambda shape: np.zeros((*shape, 1)), ["("]),
    "float32": (lambda shape: np.zeros(shape, np.float32), ["float32", "float64"]),
    "int": (lambda shape: np.zeros(shape, int), ["int64", "float64"]),
    "read-only": (lambda shape: frozen(np.zeros(shape)), ["read-only"]),
    "list": (lambda shape: np.zeros(shape).tolist(), ["list"]),
    "stride 0": (lambda shape: np.lib.stride_tricks.as_strided(np.zeros(1), shape, (0,) * len(shape)), ["stride 0"]),
}


@pytest.mark.parametrize("bad", BAD_BUFFERS)
def test_bad_out(function, bad):
    make, words = BAD_BUFFERS[bad]
    with pytest.raises((ValueError, TypeError), match=r"\bout\b") as error:
        call(function, np.zeros((6, 4)), out=make(room_for(function, (6, 4))))
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("shift", [1, -1, 3])
def test_out_that_overlaps_the_input(function, shift):
    room = np.ones(30)
    raw = room[3:27].reshape(6, 4)
    size = 6 if function == "logsumexp" else 24
    out = room[3 + shift : 3 + shift + size].reshape(room_for(function, (6, 4)))
    with pytest.raises(ValueError, match=r"\bout\b.*shares memory"):
        call(function, raw, out=out)
    assert np.all(room == 1)


# errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [2, -3, 100])
def test_axis_that_is_not_there(function, axis):
    with pytest.raises(ValueError, match=rf"axis.*{axis}"):
        call(function, np.zeros((2, 3)), axis=axis)


@pytest.mark.parametrize("axis", [1.0, "0", None, (0, 1)], ids=repr)
def test_axis_that_is_no_integer(function, axis):
    with pytest.raises(TypeError, match="axis"):
        call(function, np.zeros((2, 3)), axis=axis)


BAD_SCORES = [1.0, np.zeros(()), np.zeros(3, complex), np.array(["a"]), None, [[1], [1, 2]]]


@pytest.mark.parametrize("bad", BAD_SCORES, ids=repr)
def test_bad_raw(function, bad):
    with pytest.raises((ValueError, TypeError), match=r"\braw\b"):
        call(function, bad)


@pytest.mark.parametrize("n_threads", [0, -1, 1.5, "2"])
def test_bad_n_threads(function, n_threads):
    with pytest.raises((ValueError, TypeError), match="n_threads"):
        call(function, np.zeros((2, 3)), n_threads=n_threads)
