"""Promise: wrong input is a ValueError or TypeError that names the argument, what it got and what it wanted."""

from contextlib import contextmanager

import numpy as np
import pytest
from bits import METHODS, REDUCTIONS
from grids import everyday

import fastloss
from fastloss.losses import get_class

N = 6
Y, RAW = np.zeros(N), np.linspace(-1, 1, N)
WRONG = (ValueError, TypeError)


@contextmanager
def refused(kind, *words):
    """The block raises an error of this kind whose message mentions every word."""
    with pytest.raises(kind) as error:
        yield
    text = str(error.value)
    missing = [word for word in words if str(word) not in text]
    assert not missing, f"{text!r} does not mention {missing}"


# lengths, dimensions, dtypes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("y", "raw", "words"),
    [
        (np.zeros(5), RAW, ["y_true", "5", "6"]),
        (Y, np.zeros(4), ["y_true", "raw_prediction", "6", "4"]),
        (np.zeros(1), RAW, ["y_true", "1", "6"]),
        (0.0, RAW, ["y_true"]),
        (Y, 1.0, ["raw_prediction"]),
        (np.zeros((N, 1)), RAW, ["y_true", "(6, 1)", "(6,)"]),
        (Y, RAW[:, None], ["y_true", "(6,)", "(6, 1)"]),
        (np.zeros((N, 2)), np.zeros((N, 3)), ["y_true", "(6, 2)", "(6, 3)"]),
        (np.zeros((2, N)), np.zeros((N, 2)), ["y_true", "(2, 6)", "(6, 2)"]),
        (np.zeros((N, 2, 2)), np.zeros((N, 2, 2)), ["raw_prediction", "(6, 2, 2)"]),
        (np.zeros((1, 1, N)), RAW, ["y_true"]),
    ],
    ids=lambda x: str(np.shape(x)) if not isinstance(x, list) else "",
)
def test_wrong_length_or_ndim(method, y, raw, words):
    with refused(ValueError, *words):
        getattr(fastloss, method)("huber", y, raw)


BAD_DTYPES = {
    "object": np.array([None] * N, object),
    "object of numbers": np.array([1.0] * N, object),
    "string": np.array(["1.0"] * N),
    "bytes": np.array([b"1"] * N),
    "complex": np.zeros(N, complex),
    "date": np.zeros(N, "datetime64[s]"),
    "duration": np.zeros(N, "timedelta64[s]"),
    "record": np.zeros(N, [("a", float)]),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("argument", ["y_true", "raw_prediction", "sample_weight"])
@pytest.mark.parametrize("bad", BAD_DTYPES)
def test_wrong_dtype(method, argument, bad):
    arguments = {"y_true": Y, "raw_prediction": RAW, "sample_weight": np.ones(N)} | {argument: BAD_DTYPES[bad]}
    with refused(WRONG, argument, np.asarray(BAD_DTYPES[bad]).dtype if bad != "record" else ""):
        getattr(fastloss, method)("huber", **arguments)


@pytest.mark.parametrize("argument", ["y_true", "raw_prediction", "sample_weight"])
@pytest.mark.parametrize("bad", [None, {}, "huber", [[1.0], [1.0, 2.0]], slice(3)], ids=repr)
def test_not_an_array(argument, bad):
    if argument == "sample_weight" and bad is None:
        assert fastloss.loss("huber", Y, RAW, None) == fastloss.loss("huber", Y, RAW)
        return
    arguments = {"y_true": Y, "raw_prediction": RAW} | {argument: bad}
    with refused(WRONG, argument):
        fastloss.loss("huber", **arguments)


def test_sparse_input_is_refused():
    from scipy import sparse

    with refused(WRONG, "raw_prediction"):
        fastloss.loss("huber", Y, sparse.csr_array(RAW[:, None]))


# weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [-1.0, -1e-300, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_bad_weight_names_the_first(method, bad, n_threads):
    n = 5000
    weight = np.ones(n)
    weight[[3210, 77, 4999]] = bad
    with refused(ValueError, "sample_weight[77]", f"{bad:g}"[:4]):
        getattr(fastloss, method)("huber", np.zeros(n), np.ones(n), weight, n_threads=n_threads)


@pytest.mark.parametrize("shape", [(N + 1,), (1,), (N, 1), (), (0,)])
def test_wrong_weight_shape(shape):
    with refused(ValueError, "sample_weight", N):
        fastloss.loss("huber", Y, RAW, np.ones(shape))


def test_weights_of_outputs_are_refused():
    with refused(ValueError, "sample_weight", "(6, 2)"):
        fastloss.loss("huber", np.zeros((N, 2)), np.zeros((N, 2)), np.ones((N, 2)))


def test_weights_that_sum_to_nothing():
    zeros = np.zeros(N)
    for method in METHODS:
        with refused(ValueError, "weights are 0", "mean"):
            getattr(fastloss, method)("huber", Y, RAW, zeros)
    assert fastloss.loss("huber", Y, RAW, zeros, reduction="sum") == 0.0
    value, gradient = fastloss.loss_gradient("huber", Y, RAW, zeros, reduction="none")
    assert not value.any()
    assert not gradient.any()
    assert value.shape == gradient.shape == (N,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_weight_zero_silences_a_sample(name, dtype, isa, bad, reduction):
    """Also where its raw prediction is NaN or infinite: it contributes exactly 0 and gets gradient 0."""
    loss = fastloss.get_loss(name)
    y, raw = everyday(name, n=40, dtype=dtype)
    weight = np.random.default_rng(0).uniform(0.5, 1.5, 40)
    silent = [0, 13, 39]
    weight[silent] = 0
    wanted = loss.loss_gradient(
        np.delete(y, silent), np.delete(raw, silent), np.delete(weight, silent), reduction=reduction
    )
    raw[silent] = bad
    value, gradient = loss.loss_gradient(y, raw, weight, reduction=reduction)
    assert not gradient[silent].any()
    np.testing.assert_array_equal(np.delete(gradient, silent), wanted[1])
    if reduction == "none":
        assert not value[silent].any()
        np.testing.assert_array_equal(np.delete(value, silent), wanted[0])
    else:
        assert value == pytest.approx(wanted[0], rel=1e-14)
    slope, bend = loss.gradient_hessian(y, raw, weight, reduction=reduction)
    assert not slope[silent].any()
    assert not bend[silent].any()


def test_weight_zero_silences_a_nan_target(dtype, isa):
    y, raw, weight = np.array([np.nan, 1.0], dtype), np.array([1.0, 3.0], dtype), np.array([0.0, 2.0])
    value, gradient = fastloss.loss_gradient("squared_error", y, raw, weight)
    assert value == 2.0
    assert gradient.tolist() == [0, 2]


# labels and targets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", fastloss.list_losses(kind="binary"))
@pytest.mark.parametrize("bad", [2.0, -2.0, np.nan, np.inf, -np.inf, 1.0000001, -0.5, 1e300])
@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_bad_label_names_the_lowest(name, dtype, isa, bad, n_threads):
    n = 70_000
    y, raw = np.ones(n), np.zeros(n, dtype)
    y[[69_999, 50_001, 4321]] = bad
    shown = repr(bad) if dtype == np.float64 or not np.isfinite(bad) else ""
    with refused(ValueError, f"y_true[4321] = {shown}", name, "{0, 1}", "{-1, 1}"):
        fastloss.loss_gradient(name, y, raw, n_threads=n_threads)


@pytest.mark.parametrize("name", fastloss.list_losses(kind="binary"))
def test_soft_labels_only_where_the_formula_allows(name):
    y, raw = np.array([0.0, 0.25, 1.0]), np.zeros(3)
    if "[0, 1]" in get_class(name).target:
        assert name in ("log_loss", "focal")
        assert np.isfinite(fastloss.loss(name, y, raw))
    else:
        with refused(ValueError, "y_true[1]", "0.25", name):
            fastloss.loss(name, y, raw)


@pytest.mark.parametrize("name", fastloss.list_losses(kind="binary"))
@pytest.mark.parametrize("n_threads", [1, 4])
@pytest.mark.parametrize("order", ["minus one first", "zero first"])
def test_mixed_labels(name, n_threads, order):
    """-1 and 0 in one array contradict each other, wherever the two stand."""
    n = 200_000
    y = np.ones(n)
    first, second = (-1, 0) if order == "minus one first" else (0, -1)
    y[17], y[n - 1] = first, second
    with refused(ValueError, "y_true", "-1", "0", name):
        fastloss.loss(name, y, np.zeros(n), n_threads=n_threads)


def test_label_error_in_several_outputs():
    y = np.ones((5000, 3))
    y[[4000, 1234], [0, 2]] = 7
    for n_threads in (1, 4):
        with refused(ValueError, "y_true[1234", "2]", "7"):
            fastloss.loss("hinge", y, np.zeros((5000, 3)), n_threads=n_threads)


BAD_TARGETS = [
    ("poisson", {}, -1.0),
    ("poisson", {}, -1e-300),
    ("poisson", {}, -np.inf),
    ("gamma", {}, 0.0),
    ("gamma", {}, -1.0),
    ("tweedie", {}, -1.0),
    ("tweedie", {"power": 1.0}, -1.0),
    ("tweedie", {"power": 2.0}, 0.0),
    ("tweedie", {"power": 3.0}, 0.0),
    ("negative_binomial", {}, -0.5),
    ("msle", {}, -1.0),
    ("msle", {}, -7.0),
]


@pytest.mark.parametrize(("name", "params", "bad"), BAD_TARGETS)
@pytest.mark.parametrize("n_threads", [1, 3])
def test_target_out_of_domain(name, params, bad, n_threads, dtype, isa):
    if dtype == np.float32 and abs(bad) < 1e-200:
        bad = -1e-40  # still a number in float32
    y, raw = np.ones(30_000, dtype), np.ones(30_000, dtype)
    y[[29_998, 11_111]] = bad
    with refused(ValueError, "y_true[11111]", name):
        fastloss.gradient(name, y, raw, n_threads=n_threads, **params)


def test_tweedie_takes_any_target_for_power_0():
    assert fastloss.loss("tweedie", [-3.0], [0.0], power=0.0) == pytest.approx(0.0)


@pytest.mark.parametrize("name", fastloss.list_losses(kind="regression"))
def test_nan_target_is_nan_for_that_sample_only(name, dtype, isa):
    loss = fastloss.get_loss(name)
    y, raw = everyday(name, n=50, dtype=dtype)
    clean = loss.loss_gradient(y, raw, reduction="none")
    for broken in (y, raw):
        kept = broken[[0, 31]].copy()
        broken[[0, 31]] = np.nan
        for got, want in zip(loss.loss_gradient(y, raw, reduction="none"), clean, strict=True):
            assert np.isnan(got[[0, 31]]).all()
            np.testing.assert_array_equal(np.delete(got, [0, 31]), np.delete(want, [0, 31]))
        assert np.isnan(loss.loss(y, raw))
        broken[[0, 31]] = kept


@pytest.mark.parametrize("name", fastloss.list_losses(kind="binary"))
def test_nan_raw_is_nan_for_that_sample_only(name, dtype, isa):
    loss = fastloss.get_loss(name)
    y, raw = everyday(name, n=50, dtype=dtype)
    clean = loss.loss_gradient(y, raw, reduction="none")
    raw[[0, 31]] = np.nan
    for got, want in zip(loss.loss_gradient(y, raw, reduction="none"), clean, strict=True):
        assert np.isnan(got[[0, 31]]).all()
        np.testing.assert_array_equal(np.delete(got, [0, 31]), np.delete(want, [0, 31]))


# empty input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0,), (0, 3), (0, 1)])
def test_no_samples(name, dtype, shape):
    loss = fastloss.get_loss(name)
    y = raw = np.zeros(shape, dtype)
    for weight in (None, np.zeros(0)):
        for method in METHODS:
            with refused(ValueError, "mean"):
                getattr(loss, method)(y, raw, weight)
        assert loss.loss(y, raw, weight, reduction="sum") == 0.0
        value, gradient = loss.loss_gradient(y, raw, weight, reduction="none")
        assert value.shape == (0,)
        assert gradient.shape == shape
        assert gradient.dtype == dtype
        slope, bend = loss.gradient_hessian(y, raw, weight, reduction="sum")
        assert slope.shape == bend.shape == shape


def test_no_outputs():
    with refused(ValueError, "raw_prediction", "(4, 0)"):
        fastloss.loss("huber", np.zeros((4, 0)), np.zeros((4, 0)), reduction="none")


# options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("n_threads", "kind"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError), ([2], TypeError), (2.0, TypeError)],
    ids=repr,
)
def test_bad_n_threads(method, n_threads, kind):
    with refused(kind, "n_threads", repr(n_threads)):
        getattr(fastloss, method)("huber", Y, RAW, n_threads=n_threads)


@pytest.mark.parametrize("n_threads", [1000, 10**9, 2**31, 2**40, 10**30])
@pytest.mark.parametrize("n", [10, 300_000])
def test_absurdly_many_threads(n_threads, n):
    """More threads than work, or than an int holds: the usual result or a clear error, never a crash."""
    y, raw = np.zeros(n), np.linspace(-1, 1, n)
    try:
        assert fastloss.loss("huber", y, raw, n_threads=n_threads) == fastloss.loss("huber", y, raw, n_threads=1)
    except ValueError as error:
        assert "n_threads" in str(error)  # noqa: PT017 - one of two allowed outcomes
        assert n_threads > 1000


def test_n_threads_may_be_any_integer_type():
    for two in (2, np.int64(2), np.uint8(2)):
        assert fastloss.loss("huber", Y, RAW, n_threads=two) == fastloss.loss("huber", Y, RAW)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", ["average", "", "MEAN", None, 1, b"mean", ["mean"]], ids=repr)
def test_bad_reduction(method, bad):
    with refused(WRONG, "reduction", "mean", "sum", "none", repr(bad)):
        getattr(fastloss, method)("huber", Y, RAW, reduction=bad)


@pytest.mark.parametrize("bad", ["approximate", None, 1], ids=repr)
def test_bad_hessian(bad):
    with refused(WRONG, "hessian", "exact", repr(bad)):
        fastloss.gradient_hessian("huber", Y, RAW, hessian=bad)


def test_unknown_argument():
    with refused(TypeError, "threads"):
        fastloss.get_loss("huber").loss(Y, RAW, threads=3)


# output buffers -------------------------------------------------------------------------------------------------

BUFFERS = [("loss_gradient", "loss_out"), ("loss_gradient", "gradient_out"), ("gradient_hessian", "hessian_out")]
BUFFERS += [("loss", "loss_out"), ("gradient", "gradient_out"), ("gradient_hessian", "gradient_out")]


def frozen(x):
    x.flags.writeable = False
    return x


BAD_BUFFERS = {
    "too short": (lambda: np.zeros(N - 1), ["(5,)", "(6,)"]),
    "too long": (lambda: np.zeros(N + 1), ["(7,)", "(6,)"]),
    "column": (lambda: np.zeros((N, 1)), ["(6, 1)", "(6,)"]),
    "scalar": (lambda: np.zeros(()), ["(6,)"]),
    "float32": (lambda: np.zeros(N, np.float32), ["float32", "float64"]),
    "int": (lambda: np.zeros(N, int), ["int64", "float64"]),
    "complex": (lambda: np.zeros(N, complex), ["complex128", "float64"]),
    "big endian": (lambda: np.zeros(N, ">f8"), [">f8"]),
    "read-only": (lambda: frozen(np.zeros(N)), ["read-only"]),
    "list": (lambda: [0.0] * N, ["list"]),
    "string": (lambda: "out", ["str"]),
}


@pytest.mark.parametrize(("method", "argument"), BUFFERS)
@pytest.mark.parametrize("bad", BAD_BUFFERS)
def test_bad_buffer(method, argument, bad):
    make, words = BAD_BUFFERS[bad]
    with refused(WRONG, argument, *words):
        getattr(fastloss, method)("huber", Y, RAW, reduction="none", **{argument: make()})


@pytest.mark.parametrize(("method", "argument"), BUFFERS)
@pytest.mark.parametrize("of", ["y_true", "raw_prediction", "sample_weight"])
@pytest.mark.parametrize("shift", [0, 1, -1])
def test_buffer_that_overlaps_an_input(method, argument, of, shift):
    room = np.ones(N + 2)
    arguments = {"y_true": Y.copy(), "raw_prediction": RAW.copy(), "sample_weight": np.ones(N)}
    arguments[of] = room[1 : N + 1]
    with refused(ValueError, argument, of, "shares memory"):
        getattr(fastloss, method)("huber", **arguments, reduction="none", **{argument: room[1 + shift : N + 1 + shift]})
    assert np.all(room == 1), "the input was written to"


@pytest.mark.parametrize(
    ("method", "one", "other"),
    [("loss_gradient", "loss_out", "gradient_out"), ("gradient_hessian", "gradient_out", "hessian_out")],
)
def test_buffers_that_overlap_each_other(method, one, other):
    room = np.zeros(N + 1)
    with refused(ValueError, one, other, "shares memory"):
        getattr(fastloss, method)("huber", Y, RAW, reduction="none", **{one: room[:N], other: room[1:]})


def test_buffer_that_overlaps_itself():
    inside = np.lib.stride_tricks.as_strided(np.zeros(1), (N,), (0,))
    with refused(ValueError, "gradient_out", "stride 0"):
        fastloss.gradient("huber", Y, RAW, gradient_out=inside)


def test_interleaved_buffers_do_not_overlap():
    room = np.zeros(2 * N)
    room[::2] = RAW
    fastloss.gradient("huber", Y, room[::2], reduction="sum", gradient_out=room[1::2])
    np.testing.assert_array_equal(room[::2], RAW)
    np.testing.assert_array_equal(room[1::2], fastloss.gradient("huber", Y, RAW, reduction="sum"))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_out_only_per_sample(reduction):
    with refused(ValueError, "loss_out", "none", reduction):
        fastloss.loss("huber", Y, RAW, reduction=reduction, loss_out=np.zeros(N))


def test_buffer_shape_for_several_outputs():
    y = raw = np.zeros((N, 2))
    with refused(ValueError, "loss_out", "(6, 2)", "(6,)"):
        fastloss.loss("huber", y, raw, reduction="none", loss_out=np.zeros((N, 2)))
    with refused(ValueError, "gradient_out", "(2, 6)", "(6, 2)"):
        fastloss.gradient("huber", y, raw, gradient_out=np.zeros((2, N)))


def test_valid_after_an_error():
    """An error leaves nothing behind: the next call is right."""
    good = fastloss.loss("log_loss", Y, RAW)
    for _ in range(3):
        with refused(ValueError, "y_true[0]"):
            fastloss.loss("log_loss", Y + 5, RAW, n_threads=3)
        assert fastloss.loss("log_loss", Y, RAW, n_threads=3) == good


# names and parameters -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unknown", ["hubert", "", "Huber", "huber "])
def test_unknown_loss_lists_the_known(unknown):
    for call in (lambda: fastloss.get_loss(unknown), lambda: fastloss.loss(unknown, Y, RAW)):
        with refused(ValueError, repr(unknown), *fastloss.list_losses()):
            call()


@pytest.mark.parametrize("bad", [None, 3, np.float64, ["huber"]], ids=repr)
def test_not_a_loss(bad):
    with refused(TypeError, repr(bad)):
        fastloss.get_loss(bad)


RANGES = {
    "huber": {"delta": [0, -1]},
    "pseudo_huber": {"delta": [0, -1]},
    "cauchy": {"scale": [0, -1]},
    "fair": {"scale": [0, -1]},
    "welsch": {"scale": [0, -1]},
    "tukey": {"scale": [0, -1]},
    "quantile": {"quantile": [-0.1, 1.1, 2]},
    "smooth_quantile": {"quantile": [-0.1, 1.1], "delta": [0, -1]},
    "expectile": {"expectile": [-0.1, 1.1]},
    "epsilon_insensitive": {"epsilon": [-0.1]},
    "squared_epsilon_insensitive": {"epsilon": [-0.1]},
    "mape": {"epsilon": [-1]},
    "tweedie": {"power": [0.5, 0.999, 1e-9]},
    "negative_binomial": {"theta": [-1, 0]},
    "log_loss": {"pos_weight": [-1], "neg_weight": [-1], "label_smoothing": [-0.1, 1.5]},
    "smooth_hinge": {"gamma": [0, -1]},
    "focal": {"gamma": [-1], "alpha": [-0.1, 1.1]},
}
OUT_OF_RANGE = [
    (name, parameter, value)
    for name, parameters in RANGES.items()
    for parameter, values in parameters.items()
    for value in (*values, float("nan"), float("inf"))
]


@pytest.mark.parametrize(("name", "parameter", "value"), OUT_OF_RANGE)
def test_parameter_out_of_range(name, parameter, value):
    with refused(ValueError, name, parameter, repr(value)):
        fastloss.get_loss(name, **{parameter: value})


def numeric_parameters():
    for name in fastloss.list_losses():
        for parameter, declared in get_class(name).parameters.items():
            if parameter != "class_weight":  # a vector: test_multiclass_validation.py
                yield name, parameter, isinstance(declared.default, bool)


@pytest.mark.parametrize(("name", "parameter", "flag"), list(numeric_parameters()))
@pytest.mark.parametrize("bad", ["1", [1.0], 1j, object], ids=repr)
def test_parameter_of_wrong_type(name, parameter, flag, bad):
    with refused(TypeError, name, parameter, repr(bad)):
        fastloss.get_loss(name, **{parameter: bad})


def test_unknown_parameter(name):
    with refused(TypeError, name, "lengthscale", *get_class(name).parameters):
        fastloss.get_loss(name, lengthscale=1.0)


def test_parameter_lost_in_float32():
    """A parameter that float64 can hold and float32 cannot is not silently turned into 0 or infinity."""
    loss = fastloss.get_loss("huber", delta=1e-60)
    assert loss.loss(Y, RAW) == pytest.approx(1e-60 * np.abs(RAW).mean())
    with refused(ValueError, "delta", "float32", "1e-60"):
        loss.loss(Y, RAW.astype(np.float32))


@pytest.mark.parametrize("bad", ["probability", None, 3], ids=repr)
def test_bad_link(bad):
    with refused(WRONG, "link", "loss", "sigmoid", repr(bad)):
        fastloss.get_loss("log_loss").predict(RAW, link=bad)


@pytest.mark.parametrize("bad", [np.array(["a"]), np.zeros(3, complex), np.array([None])], ids=repr)
def test_bad_prediction_input(bad):
    with refused(WRONG, "raw_prediction"):
        fastloss.get_loss("log_loss").predict(bad)
