"""Promise: whatever holds real numbers is read, as it lies in memory, and means the same."""

import array

import numpy as np
import pytest
from bits import differing, results
from grids import everyday

import fastloss

FLOATS = [np.dtype(np.float32), np.dtype(np.float64)]


def plain(name, y, raw, weight=None):
    """Results for contiguous arrays of the working dtype."""
    return results(fastloss.get_loss(name), y, raw, weight)


@pytest.mark.parametrize("kind", [list, tuple, array.array])
def test_python_sequences_are_float64(name, kind):
    y, raw = everyday(name, n=30)
    make = (lambda x: array.array("d", x)) if kind is array.array else (lambda x: kind(x.tolist()))
    assert not differing(plain(name, y, raw), plain(name, make(y), make(raw)))
    value, gradient = fastloss.loss_gradient(name, make(y), make(raw))
    assert isinstance(value, float)
    assert isinstance(gradient, np.ndarray)
    assert gradient.dtype == np.float64


@pytest.mark.parametrize(
    "raw_dtype", [np.float16, np.longdouble, np.int8, np.int32, np.int64, np.uint8, np.uint64, bool]
)
def test_other_real_predictions_become_float64(isa, raw_dtype):
    raw = np.array([0, 1, 1, 0, 1], raw_dtype)
    y = np.array([0.0, 0.5, 1, 3, 3])
    value, gradient = fastloss.loss_gradient("squared_error", y, raw, reduction="none")
    assert value.dtype == gradient.dtype == np.float64
    assert gradient.tolist() == (raw.astype(float) - y).tolist()


@pytest.mark.parametrize(
    "y_dtype",
    ["f2", "f4", "f8", "g", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", ">f4", ">f8", ">i4", ">u2", ">f2"],
)
@pytest.mark.parametrize("weight_dtype", ["f4", "i8"])
def test_targets_and_weights_of_any_real_dtype(dtype, isa, y_dtype, weight_dtype):
    """They are read in the dtype of raw_prediction, which is the dtype of the result."""
    rng = np.random.default_rng(0)
    raw = rng.normal(size=3000).astype(dtype)
    y = rng.integers(0, 2, 3000).astype(y_dtype)
    weight = rng.integers(1, 5, 3000).astype(weight_dtype)
    for name in ("squared_error", "log_loss", "poisson"):
        found = plain(name, y, raw, weight)
        assert not differing(plain(name, y.astype(dtype), raw, weight.astype(float)), found)
        assert not differing(found, plain(name, y[::-1].copy()[::-1], raw, weight[::-1].copy()[::-1]))


@pytest.mark.parametrize("code", [">f4", ">f8", "<f4", "<f8"])
def test_byte_order_of_predictions(isa, code):
    y, raw = everyday("huber", n=1000)
    native = np.dtype(code[1:])
    found = plain("huber", y, raw.astype(code))
    assert not differing(plain("huber", y, raw.astype(native)), found)


def test_float64_target_is_rounded_once_to_float32(isa):
    y, raw = np.array([0.1, 1e-50, 1e300]), np.array([0.1, 0, 0], np.float32)
    with np.errstate(over="ignore"):
        rounded = y.astype(np.float32)
    assert not differing(plain("absolute_error", rounded, raw), plain("absolute_error", y, raw))


def test_big_integers_are_read_by_value(isa):
    """uint64 and int64 beyond 2**53 and 2**63 are rounded, never wrapped."""
    y = np.array([2**64 - 1, 2**63, 2**53 + 1], np.uint64)
    gradient = fastloss.gradient("squared_error", y, np.zeros(3), reduction="none")
    assert gradient.tolist() == [-float(2**64 - 1), -float(2**63), -float(2**53 + 1)]
    negative = np.array([-(2**63)], np.int64)
    assert fastloss.gradient("squared_error", negative, np.zeros(1)).tolist() == [2.0**63]


def test_bool_labels_and_weights(dtype, isa):
    raw = np.array([0.5, -1, 2, 0], dtype)
    y, weight = np.array([True, False, False, True]), np.array([True, True, False, True])
    found = plain("log_loss", y, raw, weight)
    assert not differing(plain("log_loss", y.astype(dtype), raw, weight.astype(float)), found)


def test_pandas_columns(name, dtype):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    y, raw = everyday(name, n=300, dtype=dtype)
    weight = np.random.default_rng(1).uniform(1, 2, 300)
    frame = pandas.DataFrame({"y": y, "raw": raw, "w": weight}, index=np.arange(300)[::-1])
    wanted = plain(name, y, raw, weight)
    assert not differing(wanted, plain(name, frame["y"], frame["raw"], frame["w"]))
    assert not differing(
        wanted, plain(name, frame.y.astype("Float64" if dtype == np.float64 else "Float32"), raw, weight)
    )
    # a frame of several outputs, whose columns pandas may store in any order
    y, raw = everyday(name, n=100, dtype=dtype, outputs=3)
    assert not differing(plain(name, y, raw), plain(name, pandas.DataFrame(y), pandas.DataFrame(raw)))


def test_pandas_missing_value_is_nan_or_an_error():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    y = pandas.Series([1.0, None, 2.0], dtype="Float64")
    try:
        value = fastloss.loss("squared_error", y, np.zeros(3), reduction="none")
    except (TypeError, ValueError) as error:
        assert "y_true" in str(error)  # noqa: PT017 - a NaN is as good
    else:
        assert np.isnan(value[1])
        assert value[[0, 2]].tolist() == [0.5, 2.0]


def test_pandas_categories_are_refused():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    with pytest.raises((TypeError, ValueError), match="y_true"):
        fastloss.loss("hinge", pandas.Series(["yes", "no"], dtype="category"), np.zeros(2))


def test_polars_columns(name, dtype):
    polars = pytest.importorskip("polars", reason="polars is not installed")
    y, raw = everyday(name, n=300, dtype=dtype)
    weight = np.random.default_rng(1).uniform(1, 2, 300)
    frame = polars.DataFrame({"y": y, "raw": raw, "w": weight})
    assert not differing(plain(name, y, raw, weight), plain(name, frame["y"], frame["raw"], frame["w"]))


def test_memory_map_is_not_read_whole_and_not_written(tmp_path, dtype):
    raw = np.memmap(tmp_path / "raw", dtype, "w+", shape=(5000, 2), order="F")
    raw[:] = np.random.default_rng(0).normal(size=(5000, 2))
    raw.flush()
    frozen = np.memmap(tmp_path / "raw", dtype, "r", shape=(5000, 2), order="F")
    y = np.zeros((5000, 2), dtype)
    assert not differing(plain("log_cosh", y, np.array(raw)), plain("log_cosh", y, frozen))
    out = np.memmap(tmp_path / "out", dtype, "w+", shape=(5000, 2))
    gradient = fastloss.gradient("log_cosh", y, frozen, gradient_out=out)
    assert gradient is out
    np.testing.assert_array_equal(out, fastloss.gradient("log_cosh", y, np.array(raw)))


class Wrapped:
    """An array behind numpy's protocol."""

    def __init__(self, x):
        self.x = x

    def __array__(self, dtype=None, copy=None):
        return self.x if dtype is None else self.x.astype(dtype)


def test_array_protocol():
    y, raw = everyday("huber", n=20)
    assert not differing(plain("huber", y, raw), plain("huber", Wrapped(y), Wrapped(raw)))


def test_subclasses_and_masks():
    y, raw = everyday("huber", n=20)
    assert not differing(plain("huber", y, raw), plain("huber", y.view(np.ma.MaskedArray), raw.view(np.recarray)))


def test_a_masked_value_is_not_silently_used():
    """Numpy's masked entries are missing: using the number below would be silent garbage."""
    y = np.ma.array([1.0, 777.0], mask=[False, True])
    with pytest.raises((TypeError, ValueError), match="y_true"):
        fastloss.loss("squared_error", y, np.zeros(2))


def test_matrix_keeps_its_two_dimensions():
    y, raw = np.zeros((4, 1)), np.ones((4, 1))
    value = fastloss.loss("squared_error", y.view(np.matrix), raw.view(np.matrix), reduction="none")
    assert value.shape == (4,)
    assert value.tolist() == [0.5] * 4


def test_inputs_are_not_changed(name, dtype):
    y, raw = everyday(name, n=200, dtype=dtype)
    weight = np.ones(200)
    before = [x.tobytes() for x in (y, raw, weight)]
    plain(name, y, raw, weight)
    assert [x.tobytes() for x in (y, raw, weight)] == before


@pytest.mark.parametrize("field", ["raw", "y"])
def test_fields_of_records(dtype, field):
    """Strides that are no multiple of the item size."""
    packed = np.zeros(500, np.dtype([("flag", "i1"), ("raw", dtype), ("y", dtype), ("tail", "S3")]))
    y, raw = everyday("huber", n=500, dtype=dtype)
    packed["raw"], packed["y"] = raw, y
    assert not differing(plain("huber", y, raw), plain("huber", packed["y"], packed["raw"]))
    with pytest.raises(ValueError, match=r"gradient_out.*(shares memory|aligned)"):
        fastloss.gradient("huber", packed["y"], packed["raw"], gradient_out=packed[field])


def test_stride_zero_inputs(name, dtype, isa):
    """Broadcast views: one number seen n times."""
    y, raw = everyday(name, n=1, dtype=dtype)
    y, raw = np.broadcast_to(y, 3000), np.broadcast_to(raw, 3000)
    assert not differing(plain(name, y.copy(), raw.copy()), plain(name, y, raw, np.broadcast_to(1.0, 3000)))


class Capsule:
    """An array of some other library: all it offers is DLPack."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_dlpack(name, dtype):
    y, raw = everyday(name, n=50, dtype=dtype)
    weight = np.linspace(0, 2, 50)
    assert not differing(plain(name, y, raw, weight), plain(name, Capsule(y), Capsule(raw), Capsule(weight)))


def test_dlpack_that_cannot_be_read():
    class Elsewhere(Capsule):
        def __dlpack_device__(self):
            return 2, 0  # a CUDA device

        def __dlpack__(self, **options):
            raise BufferError("its memory is on a GPU")

    with pytest.raises(TypeError, match="raw_prediction cannot be read as an array: "):
        fastloss.loss("huber", np.zeros(3), Elsewhere(np.zeros(3)))


def test_array_that_is_part_of_a_graph():
    """As torch's tensors are, whose gradient would be lost without a word."""

    class Node(Capsule):
        requires_grad = True

    with pytest.raises(TypeError, match=r"y_true requires a gradient: fastloss\.interop\.torch .*y_true\.detach\(\)"):
        fastloss.loss("huber", Node(np.zeros(3)), np.zeros(3))
