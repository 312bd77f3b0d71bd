"""Promise, for multiclass losses: wrong input is an error that names the argument, what it got and what it wanted."""

from contextlib import contextmanager

import numpy as np
import pytest
from bits import METHODS, REDUCTIONS
from grids_multiclass import everyday, everyday_soft
from oracle_multiclass import ORACLES

import fastloss
from fastloss.losses import get_class

MULTICLASS = fastloss.list_losses(kind="multiclass")
LABELS_ONLY = [name for name in MULTICLASS if not ORACLES[name].soft]
WRONG = (ValueError, TypeError)
N, K = 6, 3
Y, RAW = np.array([0, 1, 2, 0, 1, 2]), np.linspace(-1, 1, N * K).reshape(N, K)
SOFT = np.full((N, K), 1 / 3)


@pytest.fixture(params=MULTICLASS)
def name(request):
    """Every multiclass loss, with default parameters (instead of the pointwise ones of conftest.py)."""
    return request.param


@contextmanager
def refused(kind, *words):
    """The block raises an error of this kind whose message mentions every word."""
    with pytest.raises(kind) as error:
        yield
    text = str(error.value)
    missing = [word for word in words if str(word) not in text]
    assert not missing, f"{text!r} does not mention {missing}"


# labels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [1, 2, 3, 4])
@pytest.mark.parametrize("bad", [3, 7, -1, -100, 2**31, -(2**31), 2**62, -(2**63)])
def test_label_out_of_range_names_the_lowest(name, isa, bad, n_threads):
    n = 50_000
    y = np.zeros(n, np.int64)
    y[[49_999, 30_001, 4321]] = bad
    y[7], y[8] = 2, 1
    raw = np.zeros((n, 3))
    for reduction in REDUCTIONS:
        with refused(ValueError, f"y_true[4321] = {bad}:", name, "0 ... 2"):
            fastloss.loss_gradient(name, y, raw, n_threads=n_threads, reduction=reduction)


def test_the_message_word_for_word():
    with pytest.raises(ValueError, match=r"^y_true\[3\] = 7: cross_entropy needs labels in 0 \.\.\. 2"):
        fastloss.loss("cross_entropy", [0, 1, 2, 7], np.zeros((4, 3)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_threads", [1, 2, 3, 4])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.5, -1.0, 2.0000001, 3.0, 1e300, -1e-300])
def test_float_label_that_is_none_names_the_lowest(name, method, bad, n_threads):
    n = 9000
    y = np.ones(n)
    y[[8999, 5001, 1234]] = bad
    with refused(ValueError, f"y_true[1234] = {bad!r}", name, "0 ... 2"):
        getattr(fastloss, method)(name, y, np.zeros((n, 3)), n_threads=n_threads)


@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "g", ">i4", ">f8"])
def test_label_out_of_range_in_any_dtype(name, kind):
    y = np.zeros(100, kind)
    y[[41, 17]] = 120
    for labels in (y, np.repeat(y, 3)[::3], y[::-1].copy()[::-1]):
        with refused(ValueError, "y_true[17] = ", "120", name, "0 ... 119"):
            fastloss.loss(name, labels, np.zeros((100, 120)))
    assert np.isfinite(fastloss.loss(name, y, np.zeros((100, 121))))


def test_bool_label_with_one_class(name):
    with refused(ValueError, "y_true[1]", name, "0 ... 0"):
        fastloss.loss(name, np.array([False, True]), np.zeros((2, 1)))


def test_labels_are_not_taken_modulo_anything(name):
    """A label that a narrower type would wrap into the range is refused."""
    for kind, bad in (("i8", 2**32), ("i8", 256), ("u8", 2**64 - 1), ("u8", 2**63), ("i4", 65536)):
        y = np.array([0, 1, bad], kind)
        with refused(ValueError, f"y_true[2] = {bad}:"):
            fastloss.loss(name, y, np.zeros((3, 2)))
    for bad in (2.0**32, 2.0**64, -(2.0**63)):
        with refused(ValueError, f"y_true[2] = {bad!r}"):
            fastloss.loss(name, np.array([0, 1, bad]), np.zeros((3, 2)))


def test_bad_label_of_weight_zero(name):
    """Weight 0 silences scores; a label is checked in any case, so that the same call is right for any weights."""
    weight = np.array([1.0, 0.0, 1.0])
    try:
        value = fastloss.loss(name, np.array([0, 9, 1]), np.zeros((3, 2)), weight)
    except ValueError as error:
        assert "y_true[1] = 9" in str(error)  # noqa: PT017 - one of two allowed outcomes
    else:
        assert value == fastloss.loss(name, np.array([0, 1]), np.zeros((2, 2)))


def test_ignored_label_is_not_refused(name):
    y = Y.copy()
    y[2] = -100
    assert np.isfinite(fastloss.loss(name, y, RAW, ignore_index=-100))
    with refused(ValueError, "y_true[2] = -100", "0 ... 2"):
        fastloss.loss(name, y, RAW, ignore_index=-1)
    y = Y.astype(float)
    y[[2, 4]] = np.nan
    with refused(ValueError, "y_true[2] = nan"):
        fastloss.loss(name, y, RAW, ignore_index=-100)


@pytest.mark.parametrize("labels", [["a", "b", "c"] * 2, np.array(["0"] * 6), np.array([b"0"] * 6)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_strings_are_no_labels(name, method, labels):
    with refused(WRONG, "y_true"):
        getattr(fastloss, method)(name, labels, RAW)


BAD_DTYPES = {
    "object": np.array([0] * N, object),
    "None": [None] * N,
    "complex": np.zeros(N, complex),
    "date": np.zeros(N, "datetime64[s]"),
    "duration": np.zeros(N, "timedelta64[s]"),
    "record": np.zeros(N, [("a", int)]),
}


@pytest.mark.parametrize("bad", BAD_DTYPES)
def test_wrong_label_dtype(name, bad):
    with refused(WRONG, "y_true", np.asarray(BAD_DTYPES[bad]).dtype if bad != "record" else ""):
        fastloss.loss(name, BAD_DTYPES[bad], RAW)


def test_masked_labels_are_refused(name):
    y = np.ma.array(Y, mask=[False, True] * 3)
    with refused(WRONG, "y_true"):
        fastloss.loss(name, y, RAW)


@pytest.mark.parametrize("name", LABELS_ONLY)
@pytest.mark.parametrize("method", METHODS)
def test_soft_targets_only_where_the_formula_allows(name, method):
    for target in (SOFT, np.eye(3)[Y], np.eye(3, dtype=int)[Y], SOFT[:, :2], Y[:, None]):
        with refused(ValueError, "y_true", name, str(target.shape)):
            getattr(fastloss, method)(name, target, RAW)


# soft targets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [1, 2, 3, 4])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -0.25, -1e-30])
@pytest.mark.parametrize("order", ["C", "F"])
def test_bad_soft_target_names_the_lowest(dtype, isa, bad, n_threads, order):
    y, raw = everyday_soft(20_000, 3, dtype)
    y[[19_999, 12_001, 3333, 3333], [0, 1, 2, 1]] = bad
    y = np.asarray(y, order=order)
    shown = repr(float(dtype.type(bad))) if dtype == np.float64 or bad != -1e-30 else "-1"
    for reduction in REDUCTIONS:
        with refused(ValueError, f"y_true[3333, 1] = {shown}", "cross_entropy"):
            fastloss.loss_gradient("cross_entropy", y, raw, n_threads=n_threads, reduction=reduction)


def test_the_message_of_soft_targets_word_for_word():
    y = SOFT.copy()
    y[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"^y_true\[3, 1\] = nan: cross_entropy needs "):
        fastloss.loss("cross_entropy", y, RAW)


@pytest.mark.parametrize("K", [1, 2, 10, 65, 1000])
def test_bad_soft_target_in_any_place(K):
    raw = everyday(9, K)[1]
    for row, column in ((0, 0), (8, K - 1), (4, K // 2)):
        y = np.full((9, K), 1 / K)
        y[row, column] = -1
        with refused(ValueError, f"y_true[{row}, {column}] = -1.0"):
            fastloss.loss("cross_entropy", y, raw)
        with refused(ValueError, f"y_true[{row}, {column}] = -1:"):
            fastloss.loss("cross_entropy", np.sign(y).astype(np.int8), raw)


def test_bad_soft_target_in_another_dtype_is_shown_as_it_is():
    y = SOFT.astype(np.float32)
    y[2, 0] = -np.inf
    for given in (y, y.astype(np.float16), y.astype(np.longdouble), y.astype(">f4"), y.tolist()):
        with refused(ValueError, "y_true[2, 0] = ", "-inf"):
            fastloss.loss("cross_entropy", given, RAW)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(N, K + 1), (N, K - 1), (N, 1), (K, N), (1, K), (N + 1, K)])
def test_soft_targets_of_another_shape(method, shape):
    with refused(ValueError, "y_true", "raw_prediction", str(shape), str(RAW.shape)):
        getattr(fastloss, method)("cross_entropy", np.ones(shape), RAW)


@pytest.mark.parametrize("method", METHODS)
def test_soft_targets_cannot_be_ignored(method):
    with refused(ValueError, "ignore_index", "-100"):
        getattr(fastloss, method)("cross_entropy", SOFT, RAW, ignore_index=-100)


@pytest.mark.parametrize("bad", [np.full((N, K), None), np.full((N, K), "a"), np.zeros((N, K), complex)], ids=str)
def test_wrong_soft_target_dtype(bad):
    with refused(WRONG, "y_true", bad.dtype):
        fastloss.loss("cross_entropy", bad, RAW)


# shapes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("y", "raw", "words"),
    [
        (Y[:5], RAW, ["y_true", "raw_prediction", "5", "(6, 3)"]),
        (Y, RAW[:4], ["y_true", "raw_prediction", "6", "(4, 3)"]),
        (Y[:1], RAW, ["y_true", "(1,)", "(6, 3)"]),
        (Y, RAW[:1], ["y_true", "(6,)", "(1, 3)"]),
        (0, RAW, ["y_true"]),
        (Y, RAW[:, 0], ["raw_prediction", "(6,)"]),
        (Y, 1.0, ["raw_prediction"]),
        (Y, RAW[..., None], ["raw_prediction", "(6, 3, 1)"]),
        (Y, np.zeros((N, 0)), ["raw_prediction", "(6, 0)"]),
        (np.zeros((N, K, 1)), RAW, ["y_true", "(6, 3, 1)"]),
        (np.zeros(0, int), RAW, ["y_true", "(0,)", "(6, 3)"]),
        (Y, np.zeros((0, K)), ["y_true", "(6,)", "(0, 3)"]),
    ],
    ids=lambda x: str(np.shape(x)) if not isinstance(x, list) else "",
)
def test_wrong_length_or_ndim(name, method, y, raw, words):
    with refused(ValueError, *words):
        getattr(fastloss, method)(name, y, raw)


@pytest.mark.parametrize("argument", ["y_true", "raw_prediction", "sample_weight"])
@pytest.mark.parametrize("bad", [{}, "huber", [[1.0], [1.0, 2.0]], slice(3), 1j], ids=repr)
def test_not_an_array(name, argument, bad):
    arguments = {"y_true": Y, "raw_prediction": RAW} | {argument: bad}
    with refused(WRONG, argument):
        fastloss.loss(name, **arguments)


@pytest.mark.parametrize("bad", [np.full((N, K), None), np.full((N, K), "a"), np.zeros((N, K), complex)], ids=str)
def test_wrong_raw_dtype(name, bad):
    with refused(WRONG, "raw_prediction", bad.dtype):
        fastloss.loss(name, Y, bad)
    with refused(WRONG, "raw_prediction", bad.dtype):
        fastloss.get_loss(name).predict(bad)


def test_sparse_scores_are_refused(name):
    from scipy import sparse

    with refused(WRONG, "raw_prediction"):
        fastloss.loss(name, Y, sparse.csr_array(RAW))


@pytest.mark.parametrize("shape", [(N,), (), (N, 2, 2), (N, 0)])
def test_wrong_shape_to_predict(name, shape):
    with refused(ValueError, "raw_prediction", str(shape)):
        fastloss.get_loss(name).predict(np.zeros(shape))


# weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [1, 2, 3, 4])
@pytest.mark.parametrize("bad", [-1.0, -1e-300, np.nan, np.inf, -np.inf])
def test_bad_weight_names_the_first(name, bad, n_threads):
    n = 5000
    weight = np.ones(n)
    weight[[3210, 77, 4999]] = bad
    for params in ({}, {"class_weight": [1, 0, 2]}, {"ignore_index": 0}):
        with refused(ValueError, "sample_weight[77]", f"{bad:g}"[:4]):
            fastloss.loss_gradient(name, np.ones(n, int), np.zeros((n, 3)), weight, n_threads=n_threads, **params)


@pytest.mark.parametrize("shape", [(N + 1,), (1,), (N, 1), (N, K), (K,), (), (0,)])
def test_wrong_weight_shape(name, shape):
    with refused(ValueError, "sample_weight", N):
        fastloss.loss(name, Y, RAW, np.ones(shape))


@pytest.mark.parametrize("length", [1, 2, 4, 100])
@pytest.mark.parametrize("method", METHODS)
def test_class_weight_of_wrong_length(name, method, length):
    loss = fastloss.get_loss(name, class_weight=np.ones(length))
    with refused(ValueError, "class_weight", length, K):
        getattr(loss, method)(Y, RAW)
    if ORACLES[name].soft:
        with refused(ValueError, "class_weight", length, K):
            getattr(loss, method)(SOFT, RAW)
    with refused(ValueError, "class_weight", length, K):
        getattr(loss, method)(np.zeros(0, int), np.zeros((0, K)), reduction="sum")


@pytest.mark.parametrize("bad", [-1.0, -1e-300, np.nan, np.inf, -np.inf])
def test_class_weight_out_of_range(name, bad):
    with refused(ValueError, name, "class_weight", f"{bad:g}"[:4]):
        fastloss.get_loss(name, class_weight=[1.0, bad, 1.0])
    with refused(ValueError, name, "class_weight"):
        get_class(name)(class_weight=np.array([1.0, bad]))


BAD_CLASS_WEIGHTS = ["balanced", 1.0, 3, {0: 1.0, 1: 2.0}, [1.0, None], [1.0, "2"], [[1.0, 2.0]], [1j, 1.0], object]


@pytest.mark.parametrize("bad", BAD_CLASS_WEIGHTS, ids=repr)
def test_class_weight_that_is_no_vector(name, bad):
    with refused(WRONG, name, "class_weight"):
        fastloss.get_loss(name, class_weight=bad)


@pytest.mark.parametrize("bad", [1.5, "1", 1.0, [1], True, object, np.float64(2)], ids=repr)
def test_ignore_index_that_is_no_integer(name, bad):
    for equal in (1, 2):  # a loss remembered from before does not make its equals right
        fastloss.get_loss(name, ignore_index=equal)
    with refused(TypeError, name, "ignore_index", repr(bad)):
        fastloss.get_loss(name, ignore_index=bad)


@pytest.mark.parametrize("huge", [2**63, -(2**63) - 1, 10**30])
def test_ignore_index_beyond_every_label(name, huge):
    """No label can be that: it ignores nothing, or is refused by name; it does not wrap."""
    try:
        value = fastloss.loss(name, Y, RAW, ignore_index=huge)
    except ValueError as error:
        assert "ignore_index" in str(error)  # noqa: PT017 - one of two allowed outcomes
    else:
        assert value == fastloss.loss(name, Y, RAW)


# parameters -----------------------------------------------------------------------------------------------------

RANGES = {
    "cross_entropy": {"label_smoothing": [-0.1, 1.5], "z_loss": [-1e-3]},
    "multiclass_focal": {"gamma": [-1]},
    "generalized_cross_entropy": {"q": [0, -0.5, 1.1]},
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


@pytest.mark.parametrize(("name", "parameter"), [(name, p) for name, ps in RANGES.items() for p in ps])
@pytest.mark.parametrize("bad", ["1", [1.0], 1j, object, None], ids=repr)
def test_parameter_of_wrong_type(name, parameter, bad):
    with refused(TypeError, name, parameter, repr(bad)):
        fastloss.get_loss(name, **{parameter: bad})


@pytest.mark.parametrize("bad", [1, 0.0, "yes", None], ids=repr)
def test_allow_negative_weight_is_a_flag(bad):
    for equal in (False, True):
        fastloss.get_loss("cross_entropy", allow_negative_weight=equal)
    with refused(TypeError, "cross_entropy", "allow_negative_weight", repr(bad)):
        fastloss.get_loss("cross_entropy", allow_negative_weight=bad)


def test_unknown_parameter(name):
    with refused(TypeError, name, "temperature", *get_class(name).parameters):
        fastloss.get_loss(name, temperature=1.0)
    if name != "cross_entropy":
        with refused(TypeError, name, "label_smoothing"):
            fastloss.get_loss(name, label_smoothing=0.1)


def test_bad_options(name):
    for bad in ("average", None, 1):
        with refused(WRONG, "reduction", "mean", "sum", "none", repr(bad)):
            fastloss.loss(name, Y, RAW, reduction=bad)
    for bad in (0, -1, 1.5, "2"):
        with refused(WRONG, "n_threads", repr(bad)):
            fastloss.loss(name, Y, RAW, n_threads=bad)
    with refused(WRONG, "hessian", "exact", "approximate"):
        fastloss.gradient_hessian(name, Y, RAW, hessian="approximate")


# output buffers -------------------------------------------------------------------------------------------------


def frozen(x):
    x.flags.writeable = False
    return x


def misaligned(shape):
    return np.zeros(8 * int(np.prod(shape)) + 1, np.uint8)[1:].view(np.float64).reshape(shape)


BUFFERS = [("loss", "loss_out"), ("loss_gradient", "loss_out"), ("loss_gradient", "gradient_out")]
BUFFERS += [("gradient", "gradient_out"), ("gradient_hessian", "gradient_out"), ("gradient_hessian", "hessian_out")]
BAD_BUFFERS = {
    "too short": (lambda shape: np.zeros((shape[0] - 1, *shape[1:])), ["(5", "(6"]),
    "one more axis": (lambda shape: np.zeros((*shape, 1)), ["1)", "(6"]),
    "turned": (lambda shape: np.zeros((K, N)), ["(3, 6)", "(6"]),
    "float32": (lambda shape: np.zeros(shape, np.float32), ["float32", "float64"]),
    "int": (lambda shape: np.zeros(shape, int), ["int64", "float64"]),
    "big endian": (lambda shape: np.zeros(shape, ">f8"), [">f8"]),
    "read-only": (lambda shape: frozen(np.zeros(shape)), ["read-only"]),
    "misaligned": (misaligned, ["aligned"]),
    "list": (lambda shape: np.zeros(shape).tolist(), ["list"]),
    "stride 0": (lambda shape: np.lib.stride_tricks.as_strided(np.zeros(1), shape, (0,) * len(shape)), ["stride 0"]),
}


def room_for(argument):
    return (N,) if argument == "loss_out" else (N, K)


@pytest.mark.parametrize(("method", "argument"), BUFFERS)
@pytest.mark.parametrize("bad", BAD_BUFFERS)
def test_bad_buffer(name, method, argument, bad):
    make, words = BAD_BUFFERS[bad]
    with refused(WRONG, argument, *words):
        getattr(fastloss, method)(name, Y, RAW, reduction="none", **{argument: make(room_for(argument))})


@pytest.mark.parametrize(("method", "argument"), BUFFERS)
@pytest.mark.parametrize("of", ["y_true", "raw_prediction", "sample_weight"])
@pytest.mark.parametrize("shift", [0, 1, -1])
def test_buffer_that_overlaps_an_input(name, method, argument, of, shift):
    room = np.ones(N * K + 2)
    shapes = {"y_true": (N,), "raw_prediction": (N, K), "sample_weight": (N,)}
    arguments = {"y_true": Y.astype(float), "raw_prediction": RAW.copy(), "sample_weight": np.ones(N)}

    def part(shape, start):
        return room[start : start + int(np.prod(shape))].reshape(shape)

    arguments[of] = part(shapes[of], 1)
    with refused(ValueError, argument, of, "shares memory"):
        getattr(fastloss, method)(
            name, **arguments, reduction="none", **{argument: part(room_for(argument), 1 + shift)}
        )
    assert np.all(room == 1), "the input was written to"


def test_buffer_that_overlaps_soft_targets():
    y = SOFT.copy()
    with refused(ValueError, "gradient_out", "y_true", "shares memory"):
        fastloss.gradient("cross_entropy", y, RAW, gradient_out=y)
    np.testing.assert_array_equal(y, SOFT)


@pytest.mark.parametrize(
    ("method", "one", "other"),
    [("loss_gradient", "loss_out", "gradient_out"), ("gradient_hessian", "gradient_out", "hessian_out")],
)
def test_buffers_that_overlap_each_other(name, method, one, other):
    room = np.zeros(N * K + 1)
    first = room[:N] if one == "loss_out" else room[: N * K].reshape(N, K)
    with refused(ValueError, one, other, "shares memory"):
        getattr(fastloss, method)(name, Y, RAW, reduction="none", **{one: first, other: room[1:].reshape(N, K)})


def test_interleaved_buffers_do_not_overlap(name):
    room = np.zeros((N, 2 * K))
    room[:, ::2] = RAW
    fastloss.gradient(name, Y, room[:, ::2], reduction="sum", gradient_out=room[:, 1::2])
    np.testing.assert_array_equal(room[:, ::2], RAW)
    np.testing.assert_array_equal(room[:, 1::2], fastloss.gradient(name, Y, RAW, reduction="sum"))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_out_only_per_sample(name, reduction):
    with refused(ValueError, "loss_out", "none", reduction):
        fastloss.loss(name, Y, RAW, reduction=reduction, loss_out=np.zeros(N))


def test_valid_after_an_error(name):
    """An error leaves nothing behind: the next call is right."""
    good = fastloss.loss(name, Y, RAW)
    for _ in range(3):
        with refused(ValueError, "y_true[0] = 5"):
            fastloss.loss(name, Y + 5, RAW, n_threads=3)
        assert fastloss.loss(name, Y, RAW, n_threads=3) == good
