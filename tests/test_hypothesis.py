"""Properties that hold for any input: entry points agree bit by bit, and nothing crashes."""

import numpy as np
import pytest
from bits import METHODS, REDUCTIONS, differing, results
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracle import ORACLES

import fastloss

LOSSES = fastloss.list_losses(kind="regression") + fastloss.list_losses(kind="binary")


@st.composite
def laid_out(draw, values):
    """The same values with some strides: gaps, reversals, transposed axes, an odd start."""
    steps = [draw(st.sampled_from([1, 1, 2, 3, -1, -2])) for _ in values.shape]
    order = draw(st.permutations(range(values.ndim)))
    moved = values.transpose(order)
    room = np.zeros([max(1, n * abs(steps[axis])) for n, axis in zip(moved.shape, order, strict=True)], values.dtype)
    shift = draw(st.integers(0, 3))
    room = np.concatenate([np.zeros(shift, values.dtype), room.ravel()])[shift:].reshape(room.shape)
    view = room[tuple(slice(None, None, steps[axis]) for axis in order)]
    view = view[tuple(slice(0, n) for n in moved.shape)]
    view[...] = moved
    return view.transpose(np.argsort(order))


@st.composite
def problems(draw):
    """(loss, y, raw, weight, the same three laid out differently, n_threads)."""
    name = draw(st.sampled_from(LOSSES))
    spec = ORACLES[name]
    params = draw(st.sampled_from(spec.parameter_sets))
    known = {**spec.defaults, **params}
    dtype = np.dtype(draw(st.sampled_from(["float32", "float64"])))
    shape = draw(st.one_of(st.tuples(st.integers(1, 40)), st.tuples(st.integers(1, 20), st.integers(1, 4))))
    width = dtype.itemsize * 8
    numbers = st.floats(width=width, allow_subnormal=True)
    raw = draw(hnp.arrays(dtype, shape, elements=numbers))
    if spec.kind == "binary":
        labels = [0, 1, 0.25, 1e-30] if spec.soft and draw(st.booleans()) else draw(st.sampled_from([[0, 1], [-1, 1]]))
    elif spec.takes == "difference":
        labels = [0, 1, -1e30, 1e-40, np.inf, -np.inf, np.nan, float(np.finfo(dtype).max)]
    else:
        labels = [*spec.targets(**known), np.nan]
    with np.errstate(under="ignore"):
        y = draw(hnp.arrays(dtype, shape, elements=st.sampled_from(np.array(labels, dtype).tolist())))
    weight = draw(
        st.one_of(st.none(), hnp.arrays(float, shape[:1], elements=st.sampled_from([0.0, 1.0, 0.3, 1e-300, 1e30])))
    )
    other = [x if x is None else draw(laid_out(x)) for x in (y, raw, weight)]
    return fastloss.get_loss(name, **params), (y, raw, weight), other, draw(st.integers(1, 4))


def possible_reductions(weight):
    return REDUCTIONS if weight is None or weight.any() else ("sum", "none")


@settings(max_examples=600)
@given(problems())
def test_layout_and_threads_change_no_bit(problem):
    loss, plain, other, n_threads = problem
    reductions = possible_reductions(plain[2])
    assert not differing(
        results(loss, *plain, reductions=reductions), results(loss, *other, reductions=reductions, n_threads=n_threads)
    )


@settings(max_examples=400)
@given(problems())
def test_entry_points_agree(problem):
    loss, (y, raw, weight), _, n_threads = problem
    found = results(loss, y, raw, weight, reductions=possible_reductions(weight), n_threads=n_threads)
    for reduction in possible_reductions(weight):
        assert found["loss", "loss", reduction] == found["loss_gradient", "loss", reduction]
        assert len({v for (_, part, r), v in found.items() if (part, r) == ("gradient", reduction)}) == 1


@settings(max_examples=400)
@given(problems())
def test_samples_do_not_see_each_other(problem):
    """Per-sample results are those of every sample alone, wherever it stands in a block."""
    loss, (y, raw, weight), _, _ = problem
    value, gradient = loss.loss_gradient(y, raw, weight, reduction="none")
    for i in range(len(raw)):
        one = slice(i, i + 1)
        alone = loss.loss_gradient(y[one], raw[one], None if weight is None else weight[one], reduction="none")
        np.testing.assert_array_equal(alone[0], value[one])
        np.testing.assert_array_equal(alone[1], gradient[one])


@settings(max_examples=400)
@given(problems())
def test_infinite_or_nan_only_where_it_must_be(problem):
    """NaN comes from NaN in y or raw, from equal infinities, or from a raw prediction out of the domain."""
    loss, (y, raw, _), _, _ = problem
    value, gradient = loss.loss_gradient(y, raw, reduction="none")
    spec = ORACLES[loss.name]
    known = {**spec.defaults, **loss.params}
    with np.errstate(invalid="ignore", over="ignore"):
        allowed = np.isnan(y) | np.isnan(raw) | np.isnan(raw - y) & np.isinf(y)
    out = np.array([not spec.domain(a, b, **known) for a, b in zip(y.ravel(), raw.ravel(), strict=True)]).reshape(
        raw.shape
    )
    assert not np.any(np.isnan(gradient) & ~allowed & ~out)
    assert np.all(np.isnan(gradient) | ~allowed)
    rows = (allowed | out) if raw.ndim == 1 else (allowed | out).any(axis=1)
    if raw.ndim == 1:
        assert not np.any(np.isnan(value) & ~rows)


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=2)), max_size=4),
    hnp.arrays(
        st.sampled_from(["f2", "f4", "f8", "g", "c8", "i1", "u8", "?", "O", "U2", "M8[s]", ">f4"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    ),
)


@settings(max_examples=1500)
@given(
    st.sampled_from(LOSSES),
    st.sampled_from(METHODS),
    JUNK,
    JUNK,
    JUNK,
    st.fixed_dictionaries(
        {}, optional={"reduction": JUNK, "n_threads": st.one_of(st.none(), st.integers(-2, 3)), "gradient_out": JUNK}
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


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=60)
@given(st.data())
def test_parameters_at_the_edge(name, data):
    """Any parameter is refused with a text or gives a loss without NaN at ordinary points."""
    from fastloss.losses import get_class

    numbers = st.one_of(st.floats(), st.sampled_from([0.0, 1.0, 2.0, 1e-300, 1e300, 0.5, 1e-9, 1 - 1e-9, -0.0]))
    given_params = {
        key: data.draw(st.booleans() if isinstance(declared.default, bool) else numbers)
        for key, declared in get_class(name).parameters.items()
    }
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    y, raw = np.array([1.0, 1, 1], dtype), np.array([0.5, 1, 0.25], dtype)
    try:
        value, gradient = fastloss.loss_gradient(name, y, raw, reduction="none", **given_params)
    except ValueError as error:
        assert str(error)  # noqa: PT017 - a result is as good
        return
    assert not np.isnan(value).any()
    assert not np.isnan(gradient).any()
