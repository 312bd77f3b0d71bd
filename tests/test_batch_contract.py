"""Losses over a whole batch keep the promises of every loss: methods, weights, reductions, threads, errors."""

import pickle
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import slow_batch
from batch_cases import BATCH, CASES, OVERLAPS, batch, label
from bits import bits

import fastloss
from fastloss import losses

METHODS = ("loss", "gradient", "loss_gradient", "gradient_hessian")
RANKING = [name for name in BATCH if fastloss.get_loss(name).grouped]
WITHOUT_GROUPS = [name for name in BATCH if name not in RANKING]


@pytest.fixture(params=CASES, ids=label)
def batch_case(request):
    name, params = request.param
    return name, fastloss.get_loss(name, **params)


def everything(loss, *data, **keywords):
    return (*loss.loss_gradient(*data, **keywords), *loss.gradient_hessian(*data, **keywords))


def same(first, second):
    return all(bits(a) == bits(b) for a, b in zip(first, second, strict=True))


# methods and names ----------------------------------------------------------------------------------------------


def test_names():
    assert set(BATCH) == {
        *("pairwise_auc", "lambdarank", "listnet", "approx_ndcg", "pairwise_logistic"),
        *("soft_fbeta", "dice", "tversky", "jaccard", "lovasz_hinge"),
    }
    assert not set(BATCH) & set(fastloss.list_losses())
    for name in BATCH:
        loss = fastloss.get_loss(name)
        assert type(loss).__name__ == "".join(part.capitalize() for part in name.split("_"))
        assert getattr(losses, type(loss).__name__) is type(loss)
        assert isinstance(loss, losses.BatchLoss)
        assert loss.kind == "batch"
        assert loss.name == name
        text = type(loss).__doc__
        assert ">>>" in text
        for parameter in loss.parameters:
            assert re.search(rf"(?m)^ *({parameter}|.*\b{parameter},.*|.*, {parameter}) : ", text), (name, parameter)


def test_every_loss_stands_in_the_docs():
    page = Path(__file__).parents[1] / "docs" / "batch_losses.md"
    if not page.exists():
        pytest.skip("the documentation lives in the source tree")
    assert set(BATCH) <= set(re.findall(r"(?m)^\| `(\w+)", page.read_text(encoding="utf-8")))


def test_objects(batch_case):
    name, loss = batch_case
    assert eval(repr(loss), vars(losses)) == loss
    assert pickle.loads(pickle.dumps(loss)) == loss
    assert hash(loss) == hash(fastloss.get_loss(name, **loss.params))
    with pytest.raises(AttributeError):
        loss.smooth = 2.0


def test_methods_agree(batch_case, dtype):
    """Values and gradients of all methods, of the functions, and of output buffers are the same bits."""
    name, loss = batch_case
    y, raw, weight, keywords = batch(name, 40, dtype=dtype)
    for reduction in ("mean", "sum"):
        options = {"reduction": reduction, **keywords}
        value, gradient, again, hessian = everything(loss, y, raw, weight, **options)
        assert type(value) is float
        assert gradient.dtype == hessian.dtype == dtype
        assert bits(value) == bits(loss.loss(y, raw, weight, **options))
        assert bits(gradient) == bits(again) == bits(loss.gradient(y, raw, weight, **options))
        assert bits(fastloss.loss(name, y, raw, weight, **options, **loss.params)) == bits(value)
        out, bend = np.empty((40, 2), dtype)[:, 0], np.empty(40, dtype)
        assert loss.loss_gradient(y, raw, weight, gradient_out=out, **options)[1] is out
        assert bits(out) == bits(gradient)
        pair = loss.gradient_hessian(y, raw, weight, gradient_out=out, hessian_out=bend, **options)
        assert pair[0] is out
        assert pair[1] is bend
        assert bits(bend) == bits(hessian)
        for method in METHODS[1:]:
            function = getattr(fastloss, method)(name, y, raw, weight, **options, **loss.params)
            mine = getattr(loss, method)(y, raw, weight, **options)
            pairs = zip(mine, function, strict=True) if isinstance(mine, tuple) else [(mine, function)]
            assert all(bits(a) == bits(b) for a, b in pairs)


def test_sum_and_mean(batch_case):
    """The factors between them: pairs, groups, or the sum of the weights."""
    name, loss = batch_case
    y, raw, weight, keywords = batch(name, 40)
    mean, total = (everything(loss, y, raw, weight, reduction=r, **keywords) for r in ("mean", "sum"))
    if name == "pairwise_auc":
        factor = weight[y > 0].sum() * weight[y == 0].sum()
    elif loss.grouped:
        ends = np.cumsum(keywords["group"])
        there = [np.arange(end - size, end) for size, end in zip(keywords["group"], ends, strict=True)]
        there = [rows[weight[rows] > 0] for rows in there]
        size_of = slow_batch.SIZES.get(name, lambda y, w: 1)
        factor = sum(float(size_of(y[rows], weight[rows])) for rows in there if len(rows))
    else:
        factor = weight.sum()
    for a, b in zip(mean, total, strict=True):
        np.testing.assert_allclose(factor * a, b, rtol=1e-14)


def test_predict():
    raw = np.array([-2.0, 0.0, 3.0])
    for name in BATCH:
        expected = raw
        if name in OVERLAPS:
            expected = 1 / (1 + np.exp(-raw))
        elif name == "lovasz_hinge":
            expected = raw > 0
        np.testing.assert_allclose(fastloss.get_loss(name).predict(raw), expected, rtol=1e-15)


# arrays ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 40, 30_000])
def test_same_bits_for_any_number_of_threads(batch_case, dtype, n):
    name, loss = batch_case
    if name == "approx_ndcg" or loss.params.get("surrogate") == "logistic":
        n = min(n, 4000)
    y, raw, weight, keywords = batch(name, n, dtype=dtype)
    if loss.grouped and n > 40:
        keywords["group"] = [n // 4, 0, *[30] * (n // 60)]
        keywords["group"].append(n - sum(keywords["group"]))
    if loss.grouped and n == 30_000:
        keywords["group"] = [30] * 1000
    first = everything(loss, y, raw, weight, n_threads=1, **keywords)
    for n_threads in (2, 3, 4, None):
        assert same(first, everything(loss, y, raw, weight, n_threads=n_threads, **keywords))


LONG = [("pairwise_logistic", {}), ("approx_ndcg", {}), ("lambdarank", {"truncation": 10**6})]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timer")
@pytest.mark.parametrize("case", [*LONG, ("pairwise_auc", {"surrogate": "logistic"})], ids=label)
def test_a_long_call_can_be_interrupted(case):
    """A group of 10^10 pairs."""

    class EnoughError(Exception):
        pass

    def stop(*_):
        raise EnoughError

    name, params = case
    rng = np.random.default_rng(0)
    y, raw = rng.integers(0, 2, 200_000), rng.normal(size=200_000)
    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        start = time.perf_counter()
        with pytest.raises(EnoughError):
            fastloss.loss(name, y, raw, **params)
        assert time.perf_counter() - start < 3
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_any_layout(batch_case, dtype):
    name, loss = batch_case
    y, raw, weight, keywords = batch(name, 40, dtype=dtype)
    expected = everything(loss, y, raw, weight, **keywords)
    table = np.asfortranarray(np.stack([y, raw, weight], axis=1).astype(float))
    strided = np.repeat(raw, 3)[1::3]
    turned = np.ascontiguousarray(raw[::-1])[::-1]
    unaligned = np.frombuffer(b"x" + raw.tobytes(), np.uint8)[1:].view(dtype)
    for other in (strided, turned, unaligned, raw.astype(raw.dtype.newbyteorder(">"))):
        assert same(expected, everything(loss, y, other, weight, **keywords))
    assert same(expected, everything(loss, table[:, 0], raw, table[:, 2], **keywords))
    readonly = raw.copy()
    readonly.flags.writeable = False
    assert same(expected, everything(loss, y.astype(np.float32), readonly, weight.astype(np.float32), **keywords))
    assert same(expected, everything(loss, y.tolist(), readonly, weight.tolist(), **keywords))


@pytest.mark.parametrize("name", WITHOUT_GROUPS)
def test_labels(name):
    rng = np.random.default_rng(0)
    y, raw = rng.integers(0, 2, 50), rng.normal(size=50)
    expected = everything(fastloss.get_loss(name), y, raw)
    for labels in (2 * y - 1, y.astype(bool), y.astype(np.float32), y.astype(np.uint8), (2 * y - 1).astype(np.int8)):
        assert same(expected, everything(fastloss.get_loss(name), labels, raw))


def test_inputs_stay_as_they_are(batch_case):
    name, loss = batch_case
    data = batch(name, 40)
    copies = [array.copy() for array in data[:3]]
    everything(loss, *data[:3], **data[3])
    assert same(copies, data[:3])


# weights --------------------------------------------------------------------------------------------------------


def test_weight_zero_is_absence(batch_case, dtype):
    """Whatever the raw prediction; the label must be one all the same."""
    name, loss = batch_case
    y, raw, weight, keywords = batch(name, 40, dtype=dtype)
    there = weight > 0
    expected = {}
    if loss.grouped:
        ends = np.cumsum(keywords["group"])
        expected["group"] = [
            int(there[end - size : end].sum()) for size, end in zip(keywords["group"], ends, strict=True)
        ]
    expected = everything(loss, y[there], raw[there], weight[there], **expected)
    for nothing in (np.nan, np.inf, -np.inf, 7.0):
        mine = everything(loss, y, np.where(there, raw, nothing).astype(dtype), weight, **keywords)
        assert bits(mine[0]) == bits(expected[0])
        for a, b in zip(mine[1:], expected[1:], strict=True):
            assert bits(a[there]) == bits(b)
            assert not a[~there].any()


def test_scale_of_weights(batch_case, dtype):
    """Changes nothing in "mean"; a power of 2 not even a bit."""
    name, loss = batch_case
    y, raw, weight, keywords = batch(name, 40, dtype=dtype)
    if "smooth" in loss.params:
        loss = fastloss.get_loss(name, **{**loss.params, "smooth": 0.0})
    for weights in (np.ones(40), weight):
        expected = everything(loss, y, raw, weights, **keywords)
        assert same(expected, everything(loss, y, raw, weights * 2.0**-10, **keywords))
        for scale in (1e-3, 1e6):
            mine = everything(loss, y, raw, weights * scale, **keywords)
            for a, b in zip(mine, expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=max(1e-12, np.finfo(dtype).eps), atol=1e-14 * np.abs(b).max())


@pytest.mark.parametrize("case", [c for c in CASES if c[0] not in ("lambdarank", "approx_ndcg")], ids=label)
def test_weight_two_is_two_rows(case):
    """Not for losses with ranks: there two rows take two ranks."""
    name, params = case
    loss = fastloss.get_loss(name, **params)
    y, raw, _, keywords = batch(name, 30)
    times = np.random.default_rng(5).integers(1, 4, 30)
    repeated = {}
    if loss.grouped:
        ends = np.cumsum(keywords["group"])
        repeated["group"] = [
            int(times[end - size : end].sum()) for size, end in zip(keywords["group"], ends, strict=True)
        ]
    best = np.asarray if params.get("targets") != "gains" else (lambda y: np.log(2.0**y - 1))
    y = y + (name == "listnet")
    pair = (y, times, keywords), (np.repeat(y, times), None, repeated)
    for reduction in ("mean", "sum"):
        value, gradient = loss.loss_gradient(y, raw, times, reduction=reduction, **keywords)
        long = loss.loss_gradient(*(np.repeat(a, times) for a in (y, raw)), reduction=reduction, **repeated)
        if name == "listnet":  # above the entropy of the targets, which is another one
            least = [loss.loss(y_, best(y_), w, reduction=reduction, **k) for y_, w, k in pair]
            value, long = value - least[0], (long[0] - least[1], long[1])
        assert value == pytest.approx(long[0], rel=1e-12)
        summed = np.add.reduceat(long[1], np.cumsum(times) - times)
        np.testing.assert_allclose(gradient, summed, rtol=1e-12, atol=1e-15 * np.abs(summed).max())


def test_nan_and_infinity():
    for name, params in CASES:
        loss = fastloss.get_loss(name, **params)
        y, raw, _, _ = batch(name, 12)
        keywords = {"group": [6, 6]} if loss.grouped else {}
        raw[2] = np.nan
        value, gradient = loss.loss_gradient(y, raw, **keywords)
        assert np.isnan(value), name
        assert np.isnan(gradient[2]), name
        if loss.grouped:  # of its group alone
            assert np.isfinite(gradient[6:]).all(), name
    for surrogate in ("squared_hinge", "hinge", "logistic"):
        assert np.isnan(fastloss.loss("pairwise_auc", [0, 1], [0.0, np.inf], surrogate=surrogate))


def test_nothing():
    for name, params in CASES:
        loss = fastloss.get_loss(name, **params)
        keywords = {"group": []} if loss.grouped else {}
        for y, raw, weight in (([], [], None), ([1, 0], [0.0, 1.0], [0, 0])):
            groups = keywords if not len(y) else {}
            value, gradient, _, hessian = everything(loss, y, raw, weight, reduction="sum", **groups)
            assert value == 0
            assert gradient.shape == hessian.shape == (len(y),)
            assert not gradient.any()
            why = "there are no samples" if not len(y) else "all weights are 0"
            with pytest.raises(ValueError, match=why):
                loss.loss(y, raw, weight, **groups)
    for method in METHODS:
        with pytest.raises(ValueError, match="no pair of a positive and a negative sample"):
            getattr(fastloss.get_loss("pairwise_auc"), method)([1, 1], [0.0, 1.0])
    assert fastloss.loss("pairwise_auc", [1, 1], [0.0, 1.0], reduction="sum") == 0


def test_one_row():
    for name in RANKING:
        reduction = "sum" if name == "pairwise_logistic" else "mean"
        value, gradient = fastloss.loss_gradient(name, [3], [0.7], reduction=reduction)
        assert value == pytest.approx(0, abs=1e-15)
        assert abs(gradient[0]) < 1e-15
    with refused(ValueError, "no group has two rows with different grades"):
        fastloss.loss("pairwise_logistic", [3, 3, 1], [0.7, 0.0, 0.0], group=[2, 1])


# errors ---------------------------------------------------------------------------------------------------------


def refused(error, *words):
    return pytest.raises(error, match=".*".join(map(re.escape, words)))


def test_bad_reduction_and_outputs():
    for name in BATCH:
        loss = fastloss.get_loss(name)
        with refused(ValueError, "reduction='none' is not defined", name, "value for the batch"):
            loss.loss([1, 0], [0.0, 1.0], reduction="none")
        with refused(ValueError, "reduction must be 'mean' or 'sum'", "'median'"):
            loss.loss([1, 0], [0.0, 1.0], reduction="median")
        with refused(ValueError, "loss_out", name):
            loss.loss([1, 0], [0.0, 1.0], loss_out=np.empty(2))
        with refused(ValueError, "hessian='fisher'", name, "'exact', 'upper_bound'"):
            loss.gradient_hessian([1, 0], [0.0, 1.0], hessian="fisher")
        with refused(ValueError, "gradient_out has shape (3,), expected (2,)"):
            loss.gradient([1, 0], [0.0, 1.0], gradient_out=np.empty(3))
        with refused(TypeError, "gradient_out has dtype float32, expected float64"):
            loss.gradient([1, 0], [0.0, 1.0], gradient_out=np.empty(2, np.float32))
        raw = np.zeros(2)
        with refused(ValueError, "hessian_out shares memory with raw_prediction"):
            loss.gradient_hessian([1, 0], raw, hessian_out=raw)


def test_bad_arrays():
    for name in BATCH:
        loss = fastloss.get_loss(name)
        with refused(ValueError, "raw_prediction must have shape (n,)", name, "(2, 2)"):
            loss.loss(np.zeros((2, 2)), np.zeros((2, 2)))
        with refused(ValueError, "y_true has shape (3,) and raw_prediction (2,)"):
            loss.loss([0, 1, 0], [0.0, 1.0])
        with refused(ValueError, "sample_weight has shape (1,), expected (2,)"):
            loss.loss([0, 1], [0.0, 1.0], [1.0])
        for bad in (-1.0, np.nan, np.inf):
            with refused(ValueError, f"sample_weight[1] = {bad!r}: weights must be finite and >= 0"):
                loss.loss([0, 1, 1], [0.0, 1.0, 1.0], [1.0, bad, -2.0])
        for what in ("y_true", "raw_prediction", "sample_weight"):
            with refused(TypeError, f"{what} must hold real numbers"):
                loss.loss(**{"y_true": [0, 1], "raw_prediction": [0.0, 1.0], what: ["a", "b"]})
        with refused(ValueError, "n_threads must be >= 1"):
            loss.loss([0, 1] * 4000, np.zeros(8000), n_threads=0)


@pytest.mark.parametrize("n_threads", [1, 4])
def test_bad_targets_name_the_first(n_threads):
    for name in BATCH:
        loss = fastloss.get_loss(name)
        bad = [np.nan, np.inf, -2, 2, 0.5]
        if name in OVERLAPS:
            bad = [np.nan, np.inf, -2, 2, -0.5]
        elif loss.grouped:
            bad = [np.nan, np.inf] + [-1, 101] * (name in ("lambdarank", "approx_ndcg"))
        for value in bad:
            y = np.array([0, 1, 1, value, 0, value])
            with refused(ValueError, f"y_true[3] = {y[3].item()!r}: {name} needs {loss.target}"):
                loss.loss(y, np.zeros(6), [1, 1, 1, 0, 1, 1], n_threads=n_threads)
        if not loss.grouped:
            with refused(ValueError, "y_true mixes label -1", name):
                loss.loss([0, 1, -1], [0.0, 0.0, 0.0])
    for value in (-1, 101):
        with refused(ValueError, "y_true[1]", "listnet", "[0, 100]"):
            fastloss.loss("listnet", [0, value], [0.0, 1.0], targets="gains")


@pytest.mark.parametrize("name", RANKING)
def test_bad_groups(name):
    loss, y, raw = fastloss.get_loss(name), [0, 1, 2], [0.0, 1.0, 2.0]
    for group, error, words in (
        ([1, 1], ValueError, ["group adds up to 2 rows, but y_true has 3"]),
        ([2, 2], ValueError, ["group adds up to 4 rows, but y_true has 3"]),
        ([1, -1, 3], ValueError, ["group[1] = -1", "between 0 and the 3 rows"]),
        ([3, 2**40], ValueError, ["group[1] = 1099511627776"]),
        ([1.5, 1.5], TypeError, ["group must hold", "integers", "float64"]),
        ([[1, 2]], ValueError, ["group must have shape", "(1, 2)"]),
        ([], ValueError, ["group adds up to 0 rows, but y_true has 3"]),
        ("three", TypeError, ["group must hold real numbers"]),
    ):
        for method in METHODS:
            with refused(error, *words):
                getattr(loss, method)(y, raw, group=group)
            with refused(error, *words):
                getattr(fastloss, method)(name, y, raw, group=group)
    assert loss.loss(y, raw, group=[3]) == loss.loss(y, raw) == loss.loss(y, raw, group=[0, 3, 0])


@pytest.mark.parametrize("name", [*WITHOUT_GROUPS, "log_loss"])
def test_groups_where_there_are_none(name):
    for method in METHODS:
        with refused(TypeError, "group is for ranking losses", name):
            getattr(fastloss, method)(name, [0, 1], [0.0, 1.0], group=[2])


def test_bad_parameters():
    for name, parameters in {
        "pairwise_auc": {"surrogate": ["squared", None, 1]},
        "listnet": {"targets": ["softmin", 2]},
        "lambdarank": {"truncation": [0, -1, 2.5, True, "30"], "sigmoid": [0, -1, np.nan, "1"], "normalize": [1, None]},
        "approx_ndcg": {"temperature": [0, -1, np.inf]},
        "soft_fbeta": {"beta": [0, -1], "smooth": [-1]},
        "tversky": {"alpha": [0, -1], "beta": [0]},
    }.items():
        for parameter, values in parameters.items():
            for value in values:
                with refused((TypeError, ValueError), f"{name}: {parameter} must be", repr(value)):
                    fastloss.get_loss(name, **{parameter: value})
    with refused(ValueError, "'batch'", "'ranking'"):
        fastloss.list_losses("ranking")
