"""Promise: wrong arguments of LinearObjective are errors that name them; a broken sparse X is never read."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_linear import few, objective
from test_validation import refused

import fastloss
from fastloss import LinearObjective

# wrong arguments ------------------------------------------------------------------------------------------------

X10, Y10 = np.ones((10, 3)), np.zeros(10)


def build_and_call(*args, **options):
    found = LinearObjective(*args, **options)
    found(found.initial)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array], ids=["dense", "csr"])
@pytest.mark.parametrize(
    ("y", "loss", "options", "words"),
    [
        (np.zeros(9), "huber", {}, ["y", "9", "10"]),
        (np.zeros(11), "huber", {}, ["y", "11", "10"]),
        (np.zeros((10, 2, 2)), "huber", {}, ["y", "(10, 2, 2)"]),
        (0.0, "huber", {}, ["y"]),
        (np.zeros(9, int), "cross_entropy", {}, ["y", "9", "10"]),
        (np.ones((9, 3)), "cross_entropy", {}, ["y", "9", "10"]),
        (np.ones((10, 3)), "multiclass_hinge", {}, ["y", "multiclass_hinge"]),
        (np.ones((10, 3)), "cross_entropy", {"n_classes": 4}, ["n_classes", "4", "3"]),
        (Y10, "huber", {"sample_weight": np.ones(9)}, ["sample_weight", "9", "10"]),
        (Y10, "huber", {"sample_weight": np.ones((10, 1))}, ["sample_weight", "(10, 1)"]),
        (Y10, "huber", {"sample_weight": 2.0}, ["sample_weight"]),
        (Y10, "huber", {"offset": np.ones(9)}, ["offset", "9", "10"]),
        (Y10, "huber", {"offset": np.ones((10, 2))}, ["offset", "(10, 2)"]),
        (np.zeros((10, 2)), "huber", {"offset": np.ones((10, 3))}, ["offset", "(10, 3)"]),
        (np.zeros(10, int), "cross_entropy", {"n_classes": 3, "offset": np.ones((10, 2))}, ["offset", "(10, 2)"]),
        (np.zeros(10, int), "cross_entropy", {"n_classes": 3, "offset": np.ones((3, 10))}, ["offset", "(3, 10)"]),
        (Y10, "huber", {"alpha": -1.0}, ["alpha", "-1"]),
        (Y10, "huber", {"alpha": np.nan}, ["alpha", "nan"]),
        (Y10, "huber", {"alpha": np.inf}, ["alpha", "inf"]),
        (Y10, "huber", {"n_threads": 0}, ["n_threads", "0"]),
        (Y10, "huber", {"n_threads": -2}, ["n_threads", "-2"]),
        (np.zeros(10, int), "cross_entropy", {"n_classes": 0}, ["n_classes", "0"]),
        (np.zeros(10, int), "cross_entropy", {"n_classes": -3}, ["n_classes", "-3"]),
        (Y10, "hubert", {}, ["hubert"]),
        (
            np.zeros(10, int),
            fastloss.get_loss("cross_entropy", class_weight=[1, 2]),
            {"n_classes": 3},
            ["class_weight"],
        ),
        (np.ones((10, 3)) / 3, fastloss.get_loss("cross_entropy", ignore_index=1), {}, ["ignore_index"]),
    ],
    ids=lambda x: f"array{x.shape}" if isinstance(x, np.ndarray) else repr(x)[:50],
)
def test_wrong_shapes_and_options(form, y, loss, options, words):
    with refused(ValueError, *words):
        build_and_call(form(X10), y, loss, **options)


@pytest.mark.parametrize("argument", ["X", "y", "sample_weight", "offset"])
@pytest.mark.parametrize("dtype", ["complex", "object", "U3", "S1", "M8[s]"])
def test_wrong_dtypes(argument, dtype):
    arguments = {"X": X10, "y": Y10, "sample_weight": np.ones(10), "offset": Y10}
    shape = arguments[argument].shape
    arguments[argument] = np.full(shape, None) if dtype == "object" else np.zeros(shape, dtype)
    with refused((ValueError, TypeError), argument):
        build_and_call(loss="huber", **arguments)


def test_complex_sparse():
    with refused((ValueError, TypeError), "X", "complex"):
        build_and_call(sp.csr_array(X10.astype(complex)), Y10)


@pytest.mark.parametrize("X", [np.ones(10), np.ones((10, 3, 1)), 1.0, "X", None], ids=lambda x: str(np.shape(x)))
def test_wrong_ndim(X):
    with refused((ValueError, TypeError), "X"):
        build_and_call(X, Y10)


@pytest.mark.parametrize("X", [np.ones((0, 3)), sp.csr_array((0, 3))], ids=["dense", "csr"])
@pytest.mark.parametrize("loss", ["huber", "cross_entropy"])
def test_no_rows(X, loss):
    with refused(ValueError, "X", "(0, 3)"):
        build_and_call(X, np.zeros(0, int), loss, **({"n_classes": 2} if loss == "cross_entropy" else {}))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0])
@pytest.mark.parametrize("name", ["huber", "cross_entropy"])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_bad_weight_names_the_first(value, name, n_threads):
    n = 5000
    weight = np.ones(n)
    weight[[3210, 77, 4999]] = value
    with refused(ValueError, "sample_weight[77]", f"{value:g}"[:4]):
        build_and_call(np.ones((n, 2)), np.zeros(n, int), name, sample_weight=weight, n_threads=n_threads)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_signed_weights_are_finite(value):
    loss = fastloss.get_loss("cross_entropy", allow_negative_weight=True)
    weight = np.ones(10)
    weight[4] = value
    with refused(ValueError, "sample_weight[4]", f"{value:g}"):
        build_and_call(X10, np.zeros(10, int), loss, sample_weight=weight)


def test_weights_that_sum_to_nothing():
    with refused(ValueError, "weight", "0"):
        build_and_call(X10, Y10, sample_weight=np.zeros(10))
    with refused(ValueError, "weight"):
        build_and_call(X10, np.zeros(10, int), fastloss.get_loss("cross_entropy", class_weight=[0, 1]), n_classes=2)
    with pytest.raises(ValueError, match=r"ignore|weight"):
        build_and_call(X10, np.zeros(10, int), fastloss.get_loss("cross_entropy", ignore_index=0), n_classes=2)
    signed = fastloss.get_loss("cross_entropy", allow_negative_weight=True)
    with refused(ValueError, "weight"):
        build_and_call(X10, np.zeros(10, int), signed, sample_weight=-np.ones(10), n_classes=2)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("form", [np.asarray, np.asfortranarray, sp.csr_array], ids=["C", "F", "csr"])
@pytest.mark.parametrize(
    ("loss", "value", "options"),
    [
        ("log_loss", 2.0, {}),
        ("log_loss", np.nan, {}),
        ("hinge", 0.5, {}),
        ("poisson", -1.0, {}),
        ("gamma", 0.0, {}),
        ("cross_entropy", 3, {"n_classes": 3}),
        ("cross_entropy", -1, {}),
        ("cross_entropy", -1, {"n_classes": 3}),
        ("cross_entropy", 0.5, {"n_classes": 3}),
        ("cross_entropy", np.nan, {"n_classes": 3}),
        ("cross_entropy", 2**40, {"n_classes": 3}),
        ("sparsemax", 7, {"n_classes": 3}),
    ],
)
def test_bad_label_names_the_first(loss, value, options, form, n_threads):
    n = 5000
    y = np.ones(n, type(value))
    y[[3210, 77, 4999]] = value
    with pytest.raises(ValueError, match=r"y(_true)?\[77\] = .*" + loss) as error:
        build_and_call(form(np.ones((n, 2))), y, loss, n_threads=n_threads, **options)
    assert str(error.value).partition(" = ")[2].startswith((f"{value}:", f"{value:g}:"))  # 2 or 2.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.5])
def test_bad_soft_target_names_its_place(value):
    n = 3000
    y = np.full((n, 3), 1 / 3)
    y[[2000, 1234], [0, 1]] = value
    with pytest.raises(ValueError, match=r"y(_true)?\[1234, 1\]"):
        build_and_call(np.ones((n, 2)), y, "cross_entropy")


def test_bad_label_of_several_outputs():
    y = np.zeros((3000, 4))
    y[[2000, 1234], [0, 2]] = 0.5
    with pytest.raises(ValueError, match=r"y(_true)?\[1234"):
        build_and_call(np.ones((3000, 2)), y, "hinge")


@pytest.mark.parametrize("n_classes", [2.5, "3", [3], True], ids=repr)
def test_n_classes_is_an_integer(n_classes):
    with refused((ValueError, TypeError), "n_classes"):
        build_and_call(X10, np.zeros(10, int), "cross_entropy", n_classes=n_classes)


@pytest.mark.parametrize("shape", [(3,), (5,), (), (4, 1), (1, 5), (2, 2), (1, 1, 4), (0,)])
def test_wrong_size_of_w(shape):
    found = LinearObjective(X10, Y10)
    good = np.zeros(4)
    bad = np.zeros(shape)
    for call in (found, found.hessian_diag, found.unpack, lambda w: found.hessp(w, good)):
        with refused(ValueError, "w", "4"):
            call(bad)
    with refused(ValueError, "v", "4"):
        found.hessp(good, bad)


@pytest.mark.parametrize("shape", [(11,), (13,), (4, 3), (3, 3), (2, 6), (12, 1), (3, 4, 1)])
def test_wrong_size_of_w_for_classes(shape):
    found = LinearObjective(X10, np.arange(10) % 3, "cross_entropy")
    for call in (found, found.hessian_diag, found.unpack):
        with refused(ValueError, "w", "12"):
            call(np.zeros(shape))


@pytest.mark.parametrize("w", [None, "w", np.zeros(4, complex), np.full(4, None)], ids=lambda w: str(type(w)))
def test_wrong_kind_of_w(w):
    found = LinearObjective(X10, Y10)
    with refused((ValueError, TypeError), "w"):
        found(w)
    with refused((ValueError, TypeError), "v"):
        found.hessp(np.zeros(4), w)


def test_nan_in_w_is_nan_not_a_crash(dtype):
    """An optimiser may step to nowhere; the value says so."""
    for p in few(300, 4, dtype):
        for bad in (np.nan, np.inf):
            w = np.full_like(p.w, bad)
            value, gradient = objective(p)(w)
            assert not np.isfinite(value)
            assert gradient.shape == w.shape


def break_indices(place, value):
    def change(X):
        X.indices[place] = value

    return change


def break_indptr(place, value):
    def change(X):
        X.indptr[place] = value

    return change


def cut(part, length):
    def change(X):
        setattr(X, part, getattr(X, part)[:length])

    return change


BROKEN = {
    "index too large": break_indices(5, 3),
    "index far too large": break_indices(5, 2**31 - 1),
    "index negative": break_indices(29, -1),
    "last row's end too large": break_indptr(-1, 31),
    "last row's end far too large": break_indptr(-1, 2**30),
    "a row's end beyond the data": break_indptr(4, 1000),
    "rows run backwards": break_indptr(4, 2),
    "row start negative": break_indptr(1, -5),
    "first row does not start at 0": break_indptr(0, 1),
    "first row starts before 0": break_indptr(0, -1),
    "indices cut off": cut("indices", 20),
    "data cut off": cut("data", 20),
    "indptr cut off": cut("indptr", 5),
    "indptr empty": cut("indptr", 0),
}


@pytest.mark.parametrize("wide", [False, True], ids=["int32", "int64"])
@pytest.mark.parametrize("how", BROKEN)
def test_broken_csr(how, wide):
    X = sp.csr_array(X10)
    if wide:
        X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    BROKEN[how](X)
    for loss, y in (("huber", Y10), ("cross_entropy", np.arange(10) % 3)):
        with refused(ValueError, "X"):
            build_and_call(X, y, loss)


def test_the_bad_index_is_named():
    X = sp.csr_array(np.ones((3000, 3)))
    X.indices[3 * 1234 + 1] = 17
    with refused(ValueError, "X", "17", "3"):
        build_and_call(X, np.zeros(3000))


JUNK = st.one_of(
    st.none(), st.integers(-3, 3), st.floats(), st.text(max_size=2), st.just([]), st.just([[]]),
    st.just([[1.0], [2.0]]), st.just(np.ones((2, 1))), st.just(np.array([0, 1])), st.just(np.array([0.5, np.nan])),
    st.just(np.ones(2, complex)),
    st.just(np.full((2, 1), None)), st.just(sp.csr_array(np.ones((2, 1)))), st.just(np.ones((2, 2))),
    st.just(object()),
)  # fmt: skip


@settings(max_examples=400)
@given(
    st.sampled_from(["squared_error", "log_loss", "cross_entropy", None, "no loss"]),
    st.fixed_dictionaries(
        {"X": JUNK, "y": JUNK},
        optional={key: JUNK for key in ("alpha", "sample_weight", "offset", "n_classes", "n_threads", "fit_intercept")},
    ),
    JUNK,
)
def test_junk_never_crashes(loss, arguments, w):
    """Any call returns or raises ValueError or TypeError with a text."""
    try:
        found = LinearObjective(loss=loss, **arguments)
        found(found.initial)
        found.hessp(found.initial, w)
        found(w)
    except (ValueError, TypeError) as error:
        assert str(error)  # noqa: PT017 - a result is as good
