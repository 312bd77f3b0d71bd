"""MultiTaskLoss: a loss of its own for every column, gaps in the targets, fixed and learned weights."""

import copy
import pickle

import numpy as np
import pytest
from bits import bits, differing, results
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import approx_fprime, minimize
from scipy.sparse import csr_matrix

import fastloss
from fastloss import LinearObjective, MultiTaskLoss, SGDLossClassifier, SGDLossRegressor, _kernels, losses

TASKS = [
    (1.0, "squared_error", 0),
    (0.5, "log_loss", [1, 4]),
    (2.0, 0.5 * losses.Huber() + 0.3 * losses.AbsoluteError(), slice(2, 4)),
    (1.5, losses.LogLoss().tempered(2.0), np.int64(5)),
    (0.25, losses.Poisson(), (6,)),
]
S = np.array([0.3, -1.0, 0.2, 2.0, 0.0])


def table(n=500, gaps=0.2, dtype=np.float64, seed=0):
    """Targets, raw predictions, weights; of the gaps, half have a raw prediction that is NaN or infinite."""
    rng = np.random.default_rng(seed)
    y, raw, weight = rng.normal(size=(n, 7)), rng.normal(size=(n, 7)).astype(dtype), rng.uniform(0, 2, n)
    y[:, [1, 4, 5]] = y[:, [1, 4, 5]] > 0
    y[:, 6] = np.floor(np.abs(y[:, 6]) * 3)
    unknown = rng.random(y.shape) < gaps
    y[unknown] = np.nan
    raw[unknown & (rng.random(y.shape) < 0.5)] = rng.choice([np.nan, np.inf, -np.inf])
    weight[rng.random(n) < 0.1] = 0.0
    return y, raw, weight


def by_hand(loss, y, raw, weight, s=None):
    """Sums of loss and gradients, task by task and column by column, on the rows without gaps."""
    s = np.zeros(loss.n_tasks) if s is None else s
    value, gradient, by_s = 0.0, np.zeros(raw.shape), np.zeros(loss.n_tasks)
    for k, (factor, one, columns) in enumerate(loss.tasks):
        factor *= np.exp(-s[k])
        for c in columns:
            known = ~np.isnan(y[:, c])
            part, gradient[known, c] = one.loss_gradient(y[known, c], raw[known, c], weight[known], reduction="sum")
            gradient[:, c] *= factor
            share = weight[known].sum() / len(columns)
            value += factor * part + 0.5 * s[k] * share
            by_s[k] += 0.5 * share - factor * part
    return value, gradient, by_s


# fixed weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gaps", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("n", [1, 500, 1100])
def test_a_column_is_its_own_loss(gaps, n, dtype):
    loss = MultiTaskLoss(TASKS)
    y, raw, weight = table(n, gaps, dtype)
    value, gradient, _ = by_hand(loss, y, raw, weight)
    eps = float(np.finfo(dtype).eps)
    found = loss.loss_gradient(y, raw, weight, reduction="sum")
    assert found[0] == pytest.approx(value, rel=20 * eps, abs=1e-300)
    assert found[1].dtype == dtype
    np.testing.assert_allclose(found[1], gradient, rtol=4 * eps, atol=eps)
    if gaps == 1.0:
        for method in ("loss", "gradient", "loss_gradient", "gradient_hessian"):
            with pytest.raises(ValueError, match="reduction='mean' is not defined: all"):
                getattr(loss, method)(y, raw, weight)
    elif weight.sum() > 0:
        mean = loss.loss_gradient(y, raw, weight)
        assert mean[0] == pytest.approx(value / weight.sum(), rel=20 * eps, abs=1e-300)
        np.testing.assert_allclose(mean[1], gradient / weight.sum(), rtol=8 * eps, atol=eps)
    each = loss.loss(y, raw, weight, reduction="none")
    assert each.shape == (n,)
    assert each.sum() == pytest.approx(value, rel=20 * eps, abs=1e-300)


def test_hessians():
    loss = MultiTaskLoss([(2.0, "log_loss", 1), (0.5, "poisson", 0)])
    y, raw = np.array([[2.0, 1.0], [np.nan, 0.0], [1.0, np.nan]]), np.array([[0.3, -1.0], [0.1, 2.0], [-0.2, 0.4]])
    for hessian in ("exact", "fisher"):
        found = loss.gradient_hessian(y, raw, hessian=hessian, reduction="sum")[1]
        expected = np.zeros_like(raw)
        for factor, name, c in ((2.0, "log_loss", 1), (0.5, "poisson", 0)):
            known = ~np.isnan(y[:, c])
            expected[known, c] = (
                factor
                * fastloss.gradient_hessian(name, y[known, c], raw[known, c], hessian=hessian, reduction="sum")[1]
            )
        np.testing.assert_allclose(found, expected, rtol=1e-15)
    bounded = MultiTaskLoss([(2.0, "log_loss", 0), (0.25, "absolute_error", 1)])
    assert (bounded.gradient_hessian([[1, 2]], raw[:1], hessian="upper_bound", reduction="none")[1] == 0.5).all()
    with pytest.raises(ValueError, match="MultiTaskLoss has 'exact', 'upper_bound'"):
        bounded.gradient_hessian([[1, 2]], raw[:1], hessian="fisher")


def test_one_column_of_gaps_hides_nothing_else():
    loss = MultiTaskLoss([(1.0, "huber", 0), (1.0, "hinge", 1)])
    value, gradient = loss.loss_gradient([[np.nan, 1.0]], [[np.nan, 0.0]])
    assert value == 1.0
    assert gradient.tolist() == [[0.0, -1.0]]


def test_a_nan_prediction_of_a_known_target_is_nan():
    loss = MultiTaskLoss([(1.0, "huber", 0), (0.0, "squared_error", 1)])
    each, gradient = loss.loss_gradient(
        [[0.0, 0.0]] * 3, [[np.nan, 0.0], [0.0, np.inf], [0.0, np.nan]], reduction="none"
    )
    np.testing.assert_array_equal(each, [np.nan, 0, 0])  # weight 0 is exactly nothing
    np.testing.assert_array_equal(gradient, [[np.nan, 0], [0, 0], [0, 0]])


def test_same_bits_for_any_threads_and_layout(dtype):
    loss = MultiTaskLoss(TASKS)
    y, raw, weight = table(20_000, dtype=dtype)
    first = results(loss, y, raw, weight, n_threads=1)
    for n_threads in (2, 3, 4):
        assert not differing(first, results(loss, y, raw, weight, n_threads=n_threads))
    strided = np.asfortranarray(np.repeat(raw, 2, axis=0))[::2]
    assert not differing(first, results(loss, np.asfortranarray(y), strided, weight))


def test_every_instruction_set(isa, dtype):
    loss = MultiTaskLoss(TASKS)
    y, raw, weight = table(700, dtype=dtype)
    value, gradient, _ = by_hand(loss, y, raw, weight)
    found = loss.loss_gradient(y, raw, weight, reduction="sum")
    assert found[0] == pytest.approx(value, rel=1e-5 if dtype == "f4" else 1e-13)
    np.testing.assert_allclose(found[1], gradient, rtol=4 * float(np.finfo(dtype).eps), atol=1e-30)
    with _kernels.use_isa(_kernels.available_isas()[0]):
        loss.loss(y, raw)


@given(st.integers(1, 60), st.integers(0, 50), st.data())
def test_any_shape(n_columns, n, data):
    """Wide tables too, in tasks of any columns."""
    owner = data.draw(st.lists(st.integers(0, 2), min_size=n_columns, max_size=n_columns))
    names = ("huber", "squared_error", "log_cosh")
    tasks = [(k + 1.0, names[k], [c for c, o in enumerate(owner) if o == k]) for k in range(3) if k in owner]
    loss = MultiTaskLoss(tasks)
    rng = np.random.default_rng(n)
    y, raw = rng.normal(size=(2, n, n_columns))
    y[rng.random(y.shape) < 0.3] = np.nan
    value, gradient, _ = by_hand(loss, y, raw, np.ones(n))
    found = loss.loss_gradient(y, raw, reduction="sum")
    assert found[0] == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(found[1], gradient, rtol=1e-15)


def test_more_columns_than_a_block_has_elements():
    loss = MultiTaskLoss([(1.0, "huber", slice(0, 3000, 2)), (2.0, "squared_error", slice(1, 3000, 2))])
    y, raw = np.random.default_rng(0).normal(size=(2, 5, 3000))
    y[:, ::7] = np.nan
    value, gradient, _ = by_hand(loss, y, raw, np.ones(5))
    assert loss.loss(y, raw, reduction="sum") == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(loss.gradient(y, raw, reduction="sum"), gradient, rtol=1e-15)


# learned weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gaps", [0.0, 0.3])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_log_variances(gaps, reduction, dtype):
    loss = MultiTaskLoss(TASKS, weighting="uncertainty")
    y, raw, weight = table(2500, gaps, dtype)
    value, gradient, by_s = by_hand(loss, y, raw, weight, S)
    total = weight.sum() if reduction == "mean" else 1.0
    eps = float(np.finfo(dtype).eps)
    found = loss.loss_gradient(y, raw, weight, log_variances=S, reduction=reduction)
    assert found[0] == pytest.approx(value / total, rel=50 * eps)
    np.testing.assert_allclose(found[1], gradient / total, rtol=10 * eps, atol=eps)
    np.testing.assert_allclose(found[2], by_s / total, rtol=1e3 * eps)
    assert found[2].dtype == np.float64
    assert loss.loss(y, raw, weight, log_variances=S, reduction=reduction) == pytest.approx(found[0], rel=50 * eps)
    each = loss.loss(y, raw, weight, log_variances=S, reduction="none")
    assert each.sum() == pytest.approx(value, rel=1e3 * eps)


def test_the_formula_of_the_paper():
    """Without gaps Σ w_k exp(−s_k) L_k + s_k/2, L_k the task's mean loss."""
    loss = MultiTaskLoss(TASKS, weighting="uncertainty")
    y, raw, _ = table(300, 0.0)
    means = [
        sum(one.loss(np.ascontiguousarray(y[:, c]), np.ascontiguousarray(raw[:, c])) for c in columns)
        for _, one, columns in loss.tasks
    ]
    expected = sum(task.weight * np.exp(-s) * mean + s / 2 for task, s, mean in zip(loss.tasks, S, means, strict=True))
    assert loss.loss(y, raw, log_variances=S) == pytest.approx(expected, rel=1e-14)


def test_gradient_by_log_variances_is_a_derivative():
    loss = MultiTaskLoss(TASKS, weighting="uncertainty")
    y, raw, weight = table(200)
    by_s = loss.loss_gradient(y, raw, weight, log_variances=S)[2]
    found = approx_fprime(S, lambda s: loss.loss(y, raw, weight, log_variances=s), 1e-7)
    np.testing.assert_allclose(by_s, found, atol=1e-6)


def test_best_log_variances():
    loss = MultiTaskLoss(TASKS, weighting="uncertainty")
    y, raw, weight = table(200)
    best = loss.best_log_variances(y, raw, weight)
    np.testing.assert_allclose(loss.loss_gradient(y, raw, weight, log_variances=best)[2], 0, atol=1e-14)
    least = loss.loss(y, raw, weight, log_variances=best)
    assert all(loss.loss(y, raw, weight, log_variances=best + step) > least for step in np.eye(5) * 0.1)


def test_log_variances_same_bits_for_any_threads(dtype):
    loss = MultiTaskLoss(TASKS, weighting="uncertainty")
    y, raw, weight = table(30_000, dtype=dtype)
    first = [bits(part) for part in loss.loss_gradient(y, raw, weight, log_variances=S, n_threads=1)]
    for n_threads in (2, 3, 4):
        assert first == [bits(x) for x in loss.loss_gradient(y, raw, weight, log_variances=S, n_threads=n_threads)]


def test_at_log_variances():
    loss = MultiTaskLoss(TASKS, weighting="uncertainty")
    y, raw, weight = table(100)
    fixed = loss.at(S)
    assert fixed.weighting == "fixed"
    np.testing.assert_array_equal(
        fixed.gradient(y, raw, weight), loss.loss_gradient(y, raw, weight, log_variances=S)[1]
    )
    assert loss.loss(y, raw) == pytest.approx(loss.loss(y, raw, log_variances=np.zeros(5)), rel=1e-14)
    out, gradient = np.empty(100), np.empty((100, 7))
    assert loss.loss(y, raw, log_variances=S, reduction="none", loss_out=out) is out
    assert loss.loss_gradient(y, raw, log_variances=S, gradient_out=gradient)[1] is gradient


def test_bad_log_variances():
    loss = MultiTaskLoss(TASKS, weighting="uncertainty")
    y, raw, _ = table(10)
    for bad in (S[:3], [S], 1.0):
        with pytest.raises(ValueError, match=r"log_variances has shape .*, expected \(5,\)"):
            loss.loss(y, raw, log_variances=bad)
    with pytest.raises(ValueError, match="log_variances must be finite"):
        loss.loss_gradient(y, raw, log_variances=[0, 0, 0, 0, np.nan])
    with pytest.raises(ValueError, match="reduction='none' has no gradient with respect to log_variances"):
        loss.loss_gradient(y, raw, log_variances=S, reduction="none")
    with pytest.raises(ValueError, match="loss_out is for reduction='none'"):
        loss.loss_gradient(y, raw, log_variances=S, loss_out=np.empty(10))
    with pytest.raises(ValueError, match="reduction must be"):
        loss.loss_gradient(y, raw, log_variances=S, reduction="average")
    with pytest.raises(ValueError, match="need weighting='uncertainty', this loss has 'fixed'"):
        MultiTaskLoss(TASKS).loss(y, raw, log_variances=S)
    with pytest.raises(ValueError, match=r"task 0 \(SquaredError\(\)\) has a total loss of 0"):
        MultiTaskLoss([(1, "squared_error", 0)], "uncertainty").best_log_variances([[1.0]], [[1.0]])


# what it is -------------------------------------------------------------------------------------------------------


def test_columns_in_any_form():
    tasks = MultiTaskLoss(TASKS).tasks
    assert [task.columns for task in tasks] == [(0,), (1, 4), (2, 3), (5,), (6,)]
    assert MultiTaskLoss(TASKS).n_columns == 7
    assert MultiTaskLoss([(1, "huber", range(3))]) == MultiTaskLoss([(1, "huber", slice(3))])


OPEN = {
    "the rest": [(1.0, "squared_error", 0), (0.5, "log_loss", slice(1, None))],
    "all": [(2.0, "huber", slice(None))],
    "the last": [(1.0, "huber", slice(0, -1)), (0.5, "squared_error", -1)],
    "every other": [(1.0, "huber", slice(None, None, 2)), (0.5, "squared_error", slice(1, None, 2))],
}


@pytest.mark.parametrize("case", OPEN)
@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
def test_columns_of_the_data(case, weighting, dtype):
    """A slice that ends with the table: the loss is that of the columns the slice has there, in every method."""
    loss = MultiTaskLoss(OPEN[case], weighting)
    assert loss.n_columns is None
    again = eval(repr(loss), {**vars(losses), "MultiTaskLoss": MultiTaskLoss})
    assert again == loss == pickle.loads(pickle.dumps(loss)) == copy.deepcopy(loss) == MultiTaskLoss(**loss.params)
    assert hash(again) == hash(loss)
    for n_columns in (2, 5, 3):
        rng = np.random.default_rng(n_columns)
        y, raw = rng.integers(0, 2, (40, n_columns)).astype(float), rng.normal(size=(40, n_columns)).astype(dtype)
        y[rng.random(y.shape) < 0.2] = np.nan
        tasks = [
            (weight, one, np.atleast_1d(np.arange(n_columns)[columns]).tolist()) for weight, one, columns in OPEN[case]
        ]
        known = MultiTaskLoss(tasks, weighting)
        assert not differing(results(known, y, raw), results(loss, y, raw))
        np.testing.assert_array_equal(loss.predict(raw), known.predict(raw))
        if weighting == "uncertainty":
            s = rng.normal(size=loss.n_tasks)
            for mine, other in zip(*(one.loss_gradient(y, raw, log_variances=s) for one in (loss, known)), strict=True):
                assert bits(mine) == bits(other)
            assert loss.loss(y, raw, log_variances=s) == known.loss(y, raw, log_variances=s)
            np.testing.assert_array_equal(loss.best_log_variances(y, raw), known.best_log_variances(y, raw))
            np.testing.assert_array_equal(loss.at(s).gradient(y, raw), known.at(s).gradient(y, raw))
        else:
            X = rng.normal(size=(40, 3))
            w = rng.normal(size=4 * n_columns)
            for mine, other in zip(*(LinearObjective(X, y, one)(w) for one in (loss, known)), strict=True):
                assert bits(mine) == bits(other)
            models = [SGDLossRegressor(one, max_iter=5, tol=None).fit(X, y) for one in (loss, known)]
            np.testing.assert_array_equal(models[0].coef_, models[1].coef_)
            starts = [one.as_xgboost().init_score(y) for one in (loss, known)]
            np.testing.assert_array_equal(*starts)


def test_columns_that_do_not_fit_the_data():
    loss, zeros = MultiTaskLoss([(1.0, "huber", [0, 3]), (1.0, "log_loss", slice(4, None))]), np.zeros((2, 6))
    for count, message in (
        (3, r"tasks\[0\] has column 3, but there are 3 columns"),
        (4, r"tasks\[1\] has none of the 4 columns: its columns are slice\(4, None, None\)"),
        (6, "column 1 has no loss"),
    ):
        for call in (loss.loss, loss.gradient, loss.loss_gradient, loss.gradient_hessian):
            with pytest.raises(ValueError, match=message):
                call(zeros[:, :count], zeros[:, :count])
    with pytest.raises(ValueError, match=r"column 0 is in tasks\[0\] and tasks\[1\]"):
        MultiTaskLoss([(1.0, "huber", 0), (1.0, "hinge", slice(None))]).loss(zeros, zeros)
    with pytest.raises(ValueError, match=r"raw_prediction has shape \(2,\), expected \(n, T\)"):
        loss.loss(zeros[:, 0], zeros[:, 0])
    with pytest.raises(ValueError, match="as many columns as its data"):
        _ = loss.column_losses
    with pytest.raises(ValueError, match="give y="):
        fastloss.check_loss(loss)
    two = MultiTaskLoss([(1.0, "huber", 0), (1.0, "log_loss", slice(1, None))])
    assert fastloss.check_loss(two, y=[[0.5, 1.0], [2.0, 0.0]]).ok


def test_negative_columns():
    tasks = MultiTaskLoss([(1.0, "huber", -1), (0.5, "log_loss", [0, -2])]).tasks
    assert [task.columns for task in tasks] == [(2,), (0, 1)]


# classes in columns -----------------------------------------------------------------------------------------------

WITH_CLASSES = [
    (1.0, "squared_error", 0),
    (0.5, losses.CrossEntropy(label_smoothing=0.1), [5, 1, 3]),
    (2.0, "log_loss", 2),
    (3.0, 0.5 * losses.CrossEntropy() + 0.25 * losses.CrossEntropy(z_loss=0.1).tempered(2.0), slice(6, 8)),
    (1.5, "huber", 4),
]
GROUPS = {1: [5, 1, 3], 3: [6, 7]}


def table_with_classes(n, gaps=0.2, dtype=np.float64):
    rng = np.random.default_rng(n)
    y, raw = rng.normal(size=(n, 8)), rng.normal(size=(n, 8)).astype(dtype)
    y[:, 2] = y[:, 2] > 0
    for columns in GROUPS.values():
        y[:, columns] = rng.dirichlet(np.ones(len(columns)), n)
    y[rng.random(y.shape) < gaps] = np.nan
    weight = rng.uniform(0, 2, n) * (rng.random(n) < 0.9)
    return y, raw, weight


def with_classes_by_hand(loss, y, raw, weight, s):
    value, gradient, hessian, by_s = 0.0, np.zeros(raw.shape), np.zeros(raw.shape), np.zeros(loss.n_tasks)
    for k, (factor, one, columns) in enumerate(loss.tasks):
        columns = list(columns) if k in GROUPS else columns[0]
        known = ~np.isnan(y[:, columns]).reshape(len(y), -1).any(axis=1)
        args = [np.ascontiguousarray(a[known][:, columns]) for a in (y, raw)]
        at = np.ix_(known, columns) if k in GROUPS else (known, columns)
        part, slope = one.loss_gradient(*args, weight[known], reduction="sum")
        factor *= np.exp(-s[k])
        gradient[at] = factor * slope
        hessian[at] = factor * one.gradient_hessian(*args, weight[known], reduction="sum")[1]
        value += factor * part + 0.5 * s[k] * weight[known].sum()
        by_s[k] = 0.5 * weight[known].sum() - factor * part
    return value, gradient, hessian, by_s


@pytest.mark.parametrize("n", [1, 30, 1500])
@pytest.mark.parametrize("gaps", [0.0, 0.2])
def test_classes_in_columns(n, gaps, dtype, isa):
    """A row with any unknown share is masked in all columns of the classes."""
    loss = MultiTaskLoss(WITH_CLASSES)
    y, raw, weight = table_with_classes(n, gaps, dtype)
    raw[np.isnan(y)] = np.nan
    eps = float(np.finfo(dtype).eps)
    value, gradient, hessian, _ = with_classes_by_hand(loss, y, raw, weight, np.zeros(5))
    found = loss.loss_gradient(y, raw, weight, reduction="sum")
    assert found[0] == pytest.approx(value, rel=20 * eps)
    np.testing.assert_allclose(found[1], gradient, rtol=10 * eps, atol=4 * eps)
    np.testing.assert_array_equal(loss.gradient(y, raw, weight, reduction="sum"), found[1])
    mine = loss.gradient_hessian(y, raw, weight, reduction="sum")[1]
    np.testing.assert_allclose(mine, hessian, rtol=20 * eps, atol=8 * eps)
    each = loss.loss(y, raw, weight, reduction="none")
    assert each.sum() == pytest.approx(value, rel=20 * eps)
    s = np.array([0.3, -1.0, 0.2, 2.0, 0.1])
    learned = MultiTaskLoss(WITH_CLASSES, weighting="uncertainty")
    value, gradient, _, by_s = with_classes_by_hand(loss, y, raw, weight, s)
    found = learned.loss_gradient(y, raw, weight, log_variances=s, reduction="sum")
    assert found[0] == pytest.approx(value, rel=50 * eps)
    np.testing.assert_allclose(found[1], gradient, rtol=10 * eps, atol=8 * eps)
    np.testing.assert_allclose(found[2], by_s, rtol=1e3 * eps, atol=1e2 * eps)
    assert learned.loss(y, raw, weight, log_variances=s, reduction="sum") == pytest.approx(value, rel=50 * eps)


def test_classes_in_columns_fisher():
    loss = MultiTaskLoss([(2.0, "cross_entropy", [0, 1, 2]), (1.0, "poisson", 3)])
    y, raw = np.array([[0.2, 0.8, 0, 3], [1, 0, np.nan, 0]]), np.random.default_rng(0).normal(size=(2, 4))
    exact, fisher = (loss.gradient_hessian(y, raw, reduction="sum", hessian=h)[1] for h in ("exact", "fisher"))
    np.testing.assert_array_equal(exact, fisher)
    assert not exact[1, :3].any()
    with pytest.raises(ValueError, match="hessian='fisher'"):
        MultiTaskLoss(WITH_CLASSES).gradient_hessian(np.zeros((1, 8)), np.zeros((1, 8)), hessian="fisher")


def test_classes_same_bits_for_any_threads(dtype):
    loss = MultiTaskLoss(WITH_CLASSES)
    y, raw, weight = table_with_classes(20_000, dtype=dtype)
    first = results(loss, y, raw, weight, n_threads=1)
    for n_threads in (2, 3, 4):
        assert not differing(first, results(loss, y, raw, weight, n_threads=n_threads))
    assert not differing(first, results(loss, np.asfortranarray(y), np.asfortranarray(raw), weight))


def test_more_classes_than_a_piece_holds(dtype):
    rng = np.random.default_rng(0)
    y, raw = rng.dirichlet(np.ones(2000), 5), rng.normal(size=(5, 2001)).astype(dtype)
    y = np.column_stack([np.zeros(5), y])
    y[3, 7] = np.nan
    found = MultiTaskLoss([(1.0, "huber", 0), (2.0, "cross_entropy", slice(1, None))]).gradient(y, raw, reduction="sum")
    rows = [0, 1, 2, 4]
    expected = 2 * fastloss.gradient("cross_entropy", y[rows, 1:], raw[rows, 1:], reduction="sum")
    np.testing.assert_allclose(found[rows, 1:], expected, rtol=1e-12 if dtype == "f8" else 1e-5, atol=1e-12)
    assert not found[3, 1:].any()


def test_a_linear_model_with_classes():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 3))
    label = np.argmax(X @ rng.normal(size=(3, 3)) + rng.gumbel(size=(600, 3)), axis=1)
    Y = np.column_stack([X[:, 0] + rng.normal(size=600), np.eye(3)[label]])
    loss = MultiTaskLoss([(1.0, "squared_error", 0), (1.0, "cross_entropy", slice(1, 4))])
    objective = LinearObjective(X, Y, loss, alpha=1e-2)
    coef, intercept = objective.unpack(objective.minimize(options={"gtol": 1e-9, "ftol": 1e-15}).x)
    alone = LinearObjective(X, label, "cross_entropy", alpha=1e-2)
    expected = alone.unpack(alone.minimize(options={"gtol": 1e-9, "ftol": 1e-15}).x)
    np.testing.assert_allclose(coef[1:], expected[0], atol=1e-4)
    raw = X @ coef.T + intercept
    np.testing.assert_allclose(loss.predict(raw)[:, 1:].sum(axis=1), 1, rtol=1e-14)
    with pytest.raises(ValueError, match=r"no products with its hessian.*'L-BFGS-B'"):
        objective.hessp(objective.initial, objective.initial)
    w = objective.initial
    step = 1e-5 * np.eye(len(w))
    slopes = [(objective(w + d)[1] - objective(w - d)[1]) @ d / 2e-10 for d in step]
    np.testing.assert_allclose(objective.hessian_diag(w), slopes, atol=1e-6)
    with pytest.raises(ValueError, match=r"tasks\[1\] has CrossEntropy\(\) for 3 columns together.*LinearObjective"):
        SGDLossRegressor(loss).fit(X, Y)
    assert fastloss.check_loss(loss).ok


def test_bad_shares_of_classes():
    loss = MultiTaskLoss([(1.0, "squared_error", 0), (0.5, "cross_entropy", slice(1, 4))])
    y, raw = np.full((900, 4), 0.25), np.zeros((900, 4))
    y[700, 2] = -0.5
    y[701, 1] = np.inf
    with pytest.raises(ValueError, match=r"y_true\[700, 2\] = -0.5: cross_entropy needs targets that are finite"):
        loss.loss(y, raw)
    y[700, 3] = np.nan  # masks the row
    with pytest.raises(ValueError, match=r"y_true\[701, 1\] = inf: cross_entropy needs targets that are finite"):
        loss.loss(y, raw)


# what it is, again ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
def test_repr_equality_copies(weighting):
    loss = MultiTaskLoss(TASKS, weighting=weighting)
    names = {**vars(losses), "MultiTaskLoss": MultiTaskLoss}
    for again in (eval(repr(loss), names), pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss),
                  MultiTaskLoss(**loss.params)):  # fmt: skip
        assert again == loss
        assert hash(again) == hash(loss)
        assert again.weighting == weighting
    assert fastloss.get_loss(loss) is loss
    with pytest.raises(AttributeError):
        loss.tasks = ()


def test_properties_follow_from_the_tasks():
    assert MultiTaskLoss(TASKS).convex
    assert not MultiTaskLoss([(1, "tukey", 0), (1, "huber", 1)]).convex
    assert MultiTaskLoss([(0, "tukey", 0), (1, "huber", 1)]).convex
    assert MultiTaskLoss([(3, "huber", 0), (8, "log_loss", 1)]).curvature() == 3.0
    assert MultiTaskLoss([(3, "hinge", 0), (8, "absolute_error", 1)]).piecewise_linear


def test_predictions_are_those_of_the_columns(dtype):
    raw = np.random.default_rng(0).normal(size=(10, 7)).astype(dtype)
    loss = MultiTaskLoss(TASKS)
    found = loss.predict(raw)
    for task in loss.tasks:
        for c in task.columns:
            np.testing.assert_array_equal(found[:, c], task.loss.predict(np.ascontiguousarray(raw[:, c])))
    with pytest.raises(ValueError, match=r"must have shape \(n, 7\), got \(10, 3\)"):
        loss.predict(raw[:, :3])


@pytest.mark.parametrize(("tasks", "error", "message"), [
    ([], ValueError, "at least one"),
    (3, TypeError, "tasks must be a sequence"),
    ([(1, "huber")], ValueError, r"tasks\[0\] must be \(weight, loss, columns\)"),
    ([(1, "huber", 0), (1, "huber", 0)], ValueError, r"column 0 is in tasks\[0\] and tasks\[1\]"),
    ([(1, "huber", [0, 0])], ValueError, "column 0 is in"),
    ([(1, "huber", 1)], ValueError, "column 0 has no loss"),
    ([(-1, "huber", 0)], ValueError, r"the weight of tasks\[0\] must be >= 0, got -1"),
    ([(np.nan, "huber", 0)], ValueError, "must be >= 0, got nan"),
    ([("1", "huber", 0)], TypeError, "must be a number"),
    ([(1, "nonsense", 0)], ValueError, "unknown loss 'nonsense'"),
    ([(1, 7, 0)], TypeError, "loss must be a name or a Loss"),
    ([(1, "cross_entropy", 0)], ValueError, "over K classes, and one column"),
    ([(1, "multiclass_hinge", [0, 1])], ValueError, "takes labels only"),
    ([(1, losses.CrossEntropy(class_weight=(1, 2)), [0, 1])], ValueError, "class_weight acts on whole samples"),
    ([(1, losses.CrossEntropy(ignore_index=1), slice(0, None))], ValueError, "ignore_index acts on whole samples"),
    ([(1, "dice", 0)], ValueError, "must be for regression or two classes, or over the classes of several"),
    ([(1, MultiTaskLoss([(1, "huber", 0)]), 0)], ValueError, "kind 'multitask'"),
    ([(1, "huber", [0, -3])], ValueError, r"tasks\[0\] has column -3, but there are 2 columns"),
    ([(1, "huber", [0, 1]), (1, "hinge", [-1, -3])], ValueError, r"column 1 is in tasks\[0\] and tasks\[1\]"),
    ([(1, "huber", slice(0, 3, -1))], ValueError, "a slice with a step > 0"),
    ([(1, "huber", slice(0, 3, 0))], ValueError, "a slice with a step > 0"),
    ([(1, "huber", slice(3, 3))], ValueError, "a slice with a step > 0"),
    ([(1, "huber", slice(0.5, 3))], TypeError, "columns of tasks"),
    ([(1, "huber", [])], ValueError, "got \\[\\]"),
    ([(1, "huber", "0")], TypeError, "columns of tasks"),
    ([(1, "huber", 0.5)], TypeError, "columns of tasks"),
    ([(1, "huber", [True])], TypeError, "columns of tasks"),
])  # fmt: skip
def test_bad_tasks(tasks, error, message):
    with pytest.raises(error, match=message):
        MultiTaskLoss(tasks)


def test_bad_weighting():
    for bad in ("learned", None, 1):
        with pytest.raises(ValueError, match="weighting must be one of 'fixed', 'uncertainty'"):
            MultiTaskLoss(TASKS, weighting=bad)


def test_bad_data():
    loss = MultiTaskLoss(TASKS)
    y, raw, _ = table(10, 0.0)
    with pytest.raises(ValueError, match=r"raw_prediction has shape \(10, 6\), expected \(n, 7\)"):
        loss.loss(y[:, :6], raw[:, :6])
    with pytest.raises(ValueError, match=r"raw_prediction has shape \(10,\), expected \(n, 7\)"):
        loss.loss(y[:, 0], raw[:, 0])
    with pytest.raises(ValueError, match="they must be equal"):
        loss.loss(y, raw[:, :6])
    y[7, 4], y[3, 6] = 3.0, -1.0
    with pytest.raises(ValueError, match=r"y_true\[3, 6\] = -1.0: poisson needs"):
        loss.loss(y, raw)
    y[3, 6] = np.nan
    with pytest.raises(ValueError, match=r"y_true\[7, 4\] = 3.0: log_loss needs"):
        loss.loss(y, raw)
    with pytest.raises(ValueError, match="cannot be a term of a sum"):
        loss + loss
    with pytest.raises(ValueError, match="cannot be a term of a sum"):
        2 * loss


# linear models ----------------------------------------------------------------------------------------------------

MODEL = MultiTaskLoss([
    (1.0, "squared_error", 0), (2.0, "log_loss", 1), (0.5, "poisson", 2),
    (1.0, losses.AbsoluteError() + 0.1 * losses.SquaredError(), 3),
])  # fmt: skip


def linear_table(n=1500, gaps=0.3):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 4))
    y = X @ rng.normal(size=(4, 4)) + 0.5 + rng.normal(size=(n, 4))
    y[:, 1], y[:, 2] = y[:, 1] > 0, rng.poisson(np.exp(np.clip(y[:, 2] / 3, -5, 2)))
    y[rng.random(y.shape) < gaps] = np.nan
    return X, y, rng.uniform(0, 2, n)


def test_linear_objective(dtype):
    X, y, weight = linear_table(300)
    X = X.astype(dtype)
    objective = LinearObjective(X, y, MODEL, alpha=0.1, sample_weight=weight)
    w, v = np.random.default_rng(1).normal(size=(2, objective.size))
    table = w.reshape(4, 5)
    value, gradient = MODEL.loss_gradient(y, X.astype(float) @ table[:, :4].T + table[:, 4], weight)
    value += 0.05 * (table[:, :4] ** 2).sum()
    expected = np.column_stack([gradient.T @ X.astype(float) + 0.1 * table[:, :4], gradient.sum(axis=0)])
    found = objective(w)
    close = 1e-5 if dtype == "f4" else 1e-13
    assert found[0] == pytest.approx(value, rel=close)
    np.testing.assert_allclose(found[1], expected.ravel(), atol=10 * close)
    step = 1e-5 * v
    difference = (objective(w + step)[1] - objective(w - step)[1]) / 2e-5
    if dtype == "f8":
        kinked = np.repeat([False, False, False, True], 5)  # absolute_error: differences cross kinks
        np.testing.assert_allclose(objective.hessp(w, v)[~kinked], difference[~kinked], atol=1e-7)
    with pytest.raises(ValueError, match=r"y has shape \(300,\): MultiTaskLoss needs \(300, 4\)"):
        LinearObjective(X, y[:, 0], MODEL)
    with pytest.raises(ValueError, match=r"y has shape \(300, 3\): MultiTaskLoss needs \(300, 4\)"):
        LinearObjective(X, y[:, :3], MODEL)


def value_of(model, X, y, weight=None, alpha=1e-4):
    return LinearObjective(X, y, MODEL, alpha=alpha, sample_weight=weight)(
        np.column_stack([model.coef_, model.intercept_]).astype(float)
    )[0]


@pytest.mark.parametrize("sparse", [False, True])
def test_auto_finds_the_optimum(sparse, dtype):
    X, y, weight = linear_table()
    model = SGDLossRegressor(MODEL).fit(
        csr_matrix(X.astype(dtype)) if sparse else X.astype(dtype), y, sample_weight=weight
    )
    best = minimize(LinearObjective(X, y, MODEL, alpha=1e-4, sample_weight=weight), np.zeros(20), jac=True,
                    method="L-BFGS-B", options={"maxiter": 3000, "maxfun": 9000}).fun  # fmt: skip
    assert model.converged_
    assert value_of(model, X, y, weight) <= best * (1 + 1e-3)
    assert model.coef_.shape == (4, 4)
    assert model.score(X, y) > 0.4
    prediction = model.predict(X)
    assert prediction.shape == y.shape
    assert ((prediction[:, 1] > 0) & (prediction[:, 1] < 1)).all()


@pytest.mark.parametrize("options", [{"learning_rate": "constant", "eta0": 0.01, "shuffle": False, "batch_size": 8},
                                     {"learning_rate": "invscaling", "random_state": 3, "average": True}])  # fmt: skip
def test_schedules_train_columns_as_on_their_own(options, dtype):
    X, y, _ = linear_table(200, gaps=0.0)
    X = X.astype(dtype)
    options |= {"max_iter": 5, "tol": None, "penalty": None}
    together = SGDLossRegressor(MODEL, **options).fit(X, y)
    for k, loss in enumerate((1.0 * losses.SquaredError(), None, 0.5 * losses.Poisson(),
                              losses.AbsoluteError() + 0.1 * losses.SquaredError())):  # fmt: skip
        if loss is not None:
            alone = SGDLossRegressor(loss, **options).fit(X, y[:, k])
            np.testing.assert_allclose(together.coef_[k], alone.coef_, rtol=1e-12 if dtype == "f8" else 1e-4)


def test_gaps_are_rows_that_are_not_there():
    X, y, _ = linear_table()
    options = {"learning_rate": "constant", "eta0": 0.01, "shuffle": False, "max_iter": 3, "tol": None, "penalty": None}
    together = SGDLossRegressor(MODEL, **options).fit(X, y)
    known = ~np.isnan(y[:, 0])
    alone = SGDLossRegressor(**options).fit(X[known], y[known, 0])
    np.testing.assert_allclose(together.coef_[0], alone.coef_, rtol=1e-12)


def test_streams_and_early_stopping():
    X, y, _ = linear_table(4000)
    best = value_of(SGDLossRegressor(MODEL).fit(X, y), X, y)
    model = SGDLossRegressor(MODEL, random_state=0)
    for _ in range(5):
        model.partial_fit(X, y)
    assert value_of(model, X, y) <= 1.01 * best
    stopped = SGDLossRegressor(MODEL, early_stopping=True, random_state=0).fit(X, y)
    assert np.isfinite(stopped.validation_curve_).all()
    watched = SGDLossRegressor(MODEL).fit(X, y, X_val=X[:200], y_val=y[:200])
    assert watched.validation_curve_[-1] > 0.4


def test_columns_that_do_not_divide_a_block():
    X, y, _ = linear_table()
    loss = MultiTaskLoss([(1.0, "huber", 0), (1.0, "log_loss", 1), (1.0, "poisson", 2)])
    model = SGDLossRegressor(loss).fit(X, y[:, :3])
    assert model.converged_
    assert model.score(X, y[:, :3]) > 0.4


def test_without_any_target():
    """A mean is not defined, a sum is 0."""
    X, y, _ = linear_table(50)
    nothing, raw = np.full_like(y, np.nan), np.zeros_like(y)
    for reduction in ("sum", "none"):
        assert not np.any(MODEL.loss(nothing, raw, reduction=reduction))
    learned = MultiTaskLoss(MODEL.tasks, weighting="uncertainty")
    for call in (
        lambda: MODEL.loss(nothing, raw),
        lambda: MODEL.loss(np.where(np.arange(50)[:, None] == 3, y, np.nan), raw, np.arange(50) != 3),
        lambda: learned.loss(nothing, raw, log_variances=np.ones(4)),
        lambda: learned.loss_gradient(nothing, raw, log_variances=np.ones(4)),
    ):
        with pytest.raises(ValueError, match="reduction='mean' is not defined: all targets are NaN; use 'sum'"):
            call()
    assert MODEL.loss(np.where(np.arange(4) == 0, 0.0, np.nan) * np.ones_like(y), raw) == 0  # a loss of 0
    with pytest.raises(ValueError, match="mean loss is not defined: all targets in y are NaN"):
        LinearObjective(X, nothing, MODEL)
    with pytest.raises(ValueError, match="y has no known target"):
        SGDLossRegressor(MODEL).fit(X, nothing)


def test_log_variances_are_not_learnt_silently():
    X, y, _ = linear_table(50)
    learned = MultiTaskLoss(MODEL.tasks, weighting="uncertainty")
    for call in (
        lambda: LinearObjective(X, y, learned),
        lambda: SGDLossRegressor(learned).fit(X, y),
        lambda: SGDLossRegressor(learned).partial_fit(X, y),
        learned.as_lightgbm,
        learned.as_xgboost,
    ):
        with pytest.raises(ValueError, match=r"pass loss\.at\(log_variances\)"):
            call()
    assert SGDLossRegressor(learned.at(np.zeros(4)), max_iter=3, tol=None).fit(X, y).coef_.shape == (4, 4)


def test_a_column_without_targets():
    X, y, _ = linear_table()
    y[:, 2] = np.nan
    model = SGDLossRegressor(MODEL).fit(X, y)
    assert np.abs(model.coef_[2]).max() < 1e-6
    np.testing.assert_allclose(model.predict(X)[:, 2], 1.0, rtol=1e-5)


def test_estimators_refuse():
    X, y, _ = linear_table(50)
    with pytest.raises(ValueError, match=r"y has shape \(50, 3\): loss=.*needs \(50, 4\)"):
        SGDLossRegressor(MODEL).fit(X, y[:, :3])
    with pytest.raises(ValueError, match=r"y has shape \(50,\)"):
        SGDLossRegressor(MODEL).fit(X, np.nan_to_num(y[:, 0]))
    with pytest.raises(ValueError, match="infinity"):
        SGDLossRegressor(MODEL).fit(X, np.where(np.arange(4) == 0, np.inf, y))
    y = np.concatenate([y] * 20)  # more than a block
    X = np.concatenate([X] * 20)
    y[903, 1] = 7.0
    with pytest.raises(ValueError, match=r"y\[903, 1\] = 7.0: log_loss needs"):
        SGDLossRegressor(MODEL).fit(X, y)
    with pytest.raises(ValueError, match="kind 'multitask', which SGDLossClassifier cannot train"):
        SGDLossClassifier(MODEL).fit(X, y)
    with pytest.raises(ValueError, match="contains NaN"):
        SGDLossRegressor("huber").fit(X, y)
