"""Losses over K scores, mini-batches, several outputs or quantiles, soft labels, offsets, L1 on CSR, `partial_fit`.

Everything is compared with `slow_sgd`, or with a simpler call that must give the same.
"""

import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler
from slow_sgd import slow_sgd

import fastloss
from fastloss import SGDLossClassifier, SGDLossRegressor

MULTICLASS = fastloss.list_losses("multiclass")
HOW = {"learning_rate": "invscaling", "alpha": 0.01, "eta0": 0.1, "power_t": 0.5}
FIXED = {**HOW, "shuffle": False, "tol": None, "max_iter": 2}
BOTH = pytest.mark.parametrize("how", ["auto", "schedule"])


def schedule(model, how="schedule"):
    """The estimator with scikit-learn's default schedule, unless it names one or is to find the optimum itself."""
    if how == "schedule" and model.learning_rate == "auto":
        model.set_params(learning_rate="optimal" if isinstance(model, SGDLossClassifier) else "invscaling")
    return model


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    return StandardScaler().fit_transform(X)[order], y[order]


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(1)
    X = rng.uniform(-1, 1, (400, 3))
    exposure = rng.uniform(0.2, 3.0, 400)
    return X, rng.poisson(exposure * np.exp(X @ [1.0, -0.5, 0.2] + 0.3)), exposure


def holes(X, seed=0, share=0.6):
    X = np.array(X)
    X[np.random.default_rng(seed).random(X.shape) < share] = 0
    return X


def quiet(model, *data, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(*data, **arguments)


def assert_same(model, other, tolerance=0.0):
    np.testing.assert_allclose(model.coef_, other.coef_, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(model.intercept_, other.intercept_, rtol=tolerance, atol=tolerance)


# --------------------------------------------------------------------------------------------------------------
# Losses over K scores
# --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("loss", MULTICLASS)
@pytest.mark.parametrize("batch_size", [1, 7])
@pytest.mark.parametrize("penalty", ["l2", "l1", "elasticnet", None])
def test_joint_losses_follow_the_plain_loop(loss, batch_size, penalty, iris):
    X, y = iris
    weight = np.random.default_rng(0).uniform(0.5, 2.0, len(y))
    l1, l2 = {"l2": (0, 0.01), "l1": (0.01, 0), "elasticnet": (0.0015, 0.0085), None: (0, 0)}[penalty]
    for average in (0, 20):
        if average and l1:
            continue  # scikit-learn's average there leaves the L1 steps out; parity has its own tests
        model = SGDLossClassifier(loss, penalty=penalty, batch_size=batch_size, average=average, **FIXED)
        model.fit(X, y, sample_weight=weight)
        coef, intercept = slow_sgd(
            X,
            y,
            [fastloss.get_loss(loss)],
            K=3,
            weight=weight,
            batch_size=batch_size,
            l1=l1,
            l2=l2,
            average=average,
            **HOW,
        )
        np.testing.assert_allclose(model.coef_, coef, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(model.intercept_, intercept, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("loss", MULTICLASS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("convert", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize("learning_rate", ["auto", "constant"])
def test_every_joint_loss_learns(loss, dtype, convert, learning_rate, iris):
    X, y = iris
    X = convert(X.astype(dtype))
    model = quiet(SGDLossClassifier(loss, learning_rate=learning_rate, eta0=0.02, random_state=0), X, y)
    # CSR with a schedule: intercepts move a hundred times slower
    assert model.score(X, y) > (0.9 if convert is np.asarray or learning_rate == "auto" else 0.75)
    assert model.coef_.dtype == model.intercept_.dtype == model.decision_function(X).dtype == dtype
    assert (model.coef_.shape, model.intercept_.shape) == ((3, 4), (3,))
    if fastloss.get_loss(loss).link == "argmax":
        assert not hasattr(model, "predict_proba")
    else:
        probability = model.predict_proba(X)
        np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_array_equal(probability.argmax(axis=1), model.predict(X))
        assert probability.dtype == dtype


@BOTH
def test_joint_with_two_classes(how, iris):
    X, y = iris
    model = schedule(SGDLossClassifier("cross_entropy", random_state=0), how).fit(X, y == 1)
    assert (model.coef_.shape, model.intercept_.shape) == ((2, 4), (2,))
    scores = model.decision_function(X)
    assert scores.shape == (150,)
    np.testing.assert_array_equal(model.predict(X), scores > 0)
    np.testing.assert_allclose(model.predict_proba(X)[:, 1], 1 / (1 + np.exp(-scores)), rtol=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickle.loads(pickle.dumps(model)).predict(X)


@BOTH
def test_multinomial_beats_one_vs_rest_in_log_loss(how):
    from sklearn.metrics import log_loss

    X, y = load_iris(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    parameters = {"alpha": 1e-3, "random_state": 0, "tol": 1e-5}
    joint = schedule(SGDLossClassifier("cross_entropy", **parameters), how)
    rest = schedule(SGDLossClassifier("log_loss", **parameters), how)
    joint, rest = (log_loss(y, quiet(model, X, y).predict_proba(X)) for model in (joint, rest))
    assert joint < rest


def test_class_weights_of_estimator_and_loss_are_factors_of_the_sample_weight(iris):
    X, y = iris
    weight = np.random.default_rng(0).uniform(0.5, 2.0, len(y))
    factors = np.array([0.5, 1.0, 3.0])
    whole = SGDLossClassifier("cross_entropy", **FIXED).fit(X, y, sample_weight=weight * factors[y])
    by_estimator = SGDLossClassifier("cross_entropy", class_weight=dict(enumerate(factors)), **FIXED)
    by_loss = SGDLossClassifier(fastloss.losses.CrossEntropy(class_weight=factors), **FIXED)
    assert_same(whole, by_estimator.fit(X, y, sample_weight=weight), 1e-12)
    assert_same(whole, by_loss.fit(X, y, sample_weight=weight), 1e-12)
    with pytest.raises(ValueError, match="2 class weights, y has 3 classes"):
        SGDLossClassifier(fastloss.losses.CrossEntropy(class_weight=[1, 2])).fit(X, y)
    with pytest.raises(ValueError, match="ignore_index"):
        SGDLossClassifier(fastloss.losses.CrossEntropy(ignore_index=0)).fit(X, y)


def test_loss_parameters_reach_joint_losses(iris):
    X, y = iris
    model = SGDLossClassifier("cross_entropy", loss_params={"label_smoothing": 0.2}, **FIXED).fit(X, y)
    smooth = 0.8 * np.eye(3)[y] + 0.2 / 3
    assert_same(model, SGDLossClassifier("cross_entropy", **FIXED).fit(X, smooth), 1e-9)


# --------------------------------------------------------------------------------------------------------------
# Soft labels
# --------------------------------------------------------------------------------------------------------------
def test_one_hot_targets_are_labels(iris):
    X, y = iris
    hard = SGDLossClassifier("cross_entropy", **FIXED).fit(X, y)
    soft = SGDLossClassifier("cross_entropy", **FIXED).fit(X, np.eye(3)[y])
    assert_same(hard, soft, 1e-9)
    np.testing.assert_array_equal(soft.classes_, [0, 1, 2])
    named = SGDLossClassifier("cross_entropy", random_state=0).fit(X, np.eye(3)[y], classes=["a", "b", "c"])
    assert set(named.predict(X)) <= {"a", "b", "c"}


@pytest.mark.parametrize("loss", ["log_loss", "focal"])
def test_soft_binary_targets(loss, iris):
    X, y = iris
    p = np.clip((y + np.random.default_rng(0).uniform(-0.4, 0.4, 150)) / 2, 0.02, 0.98)
    model = SGDLossClassifier(loss, penalty=None, **FIXED).fit(X, p)
    coef, intercept = slow_sgd(X, p[:, None], [fastloss.get_loss(loss)], **HOW)
    np.testing.assert_allclose(model.coef_, coef, rtol=1e-9)
    np.testing.assert_allclose(model.intercept_, intercept, rtol=1e-9)
    np.testing.assert_array_equal(model.classes_, [0, 1])
    two = SGDLossClassifier(loss, penalty=None, **FIXED).fit(X, np.column_stack([1 - p, p]))
    assert_same(model, two, 1e-9)
    weighted = SGDLossClassifier(loss, class_weight={0: 2.0, 1: 5.0}, **FIXED).fit(X, p)
    whole = SGDLossClassifier(loss, **FIXED).fit(X, p, sample_weight=2 * (1 - p) + 5 * p)
    assert_same(weighted, whole, 1e-9)


@pytest.mark.parametrize(
    ("loss", "Y", "message"),
    [
        ("cross_entropy", [[0.5, 0.6], [0.5, 0.5]], r"y\[0\].*sum of 1"),
        ("cross_entropy", [[0.5, 0.5], [1.5, -0.5]], r"y\[1\].*>= 0"),
        ("log_loss", [[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]], "two classes"),
        ("hinge", [[0.5, 0.5], [0.5, 0.5]], "1d array"),
        ("multiclass_hinge", [[0.5, 0.5], [0.5, 0.5]], "1d array"),
        ("hinge", [0.5, 0.2], "Unknown label type"),
        ("cross_entropy", [0.5, 0.2], "Unknown label type"),
    ],
)
def test_bad_soft_targets(loss, Y, message):
    with pytest.raises(ValueError, match=message):
        SGDLossClassifier(loss).fit(np.eye(2), Y)


def test_classes_only_with_soft_targets(iris):
    X, y = iris
    with pytest.raises(ValueError, match="classes"):
        SGDLossClassifier("cross_entropy").fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="classes must have a label for each of the 3 columns"):
        SGDLossClassifier("cross_entropy").fit(X, np.eye(3)[y], classes=[0, 1])


# --------------------------------------------------------------------------------------------------------------
# Several outputs, quantiles, offsets
# --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("loss", ["squared_error", "huber", "log_cosh"])
@pytest.mark.parametrize("convert", [np.asarray, sp.csr_matrix])
def test_outputs_are_separate_fits(loss, convert, iris):
    X, _ = iris
    Y = np.column_stack([X @ [1, 2, 0, -1.0] + 1, X[:, 0] ** 2, np.sin(X[:, 1])])
    model = schedule(SGDLossRegressor(loss, random_state=0))
    together = quiet(clone(model), convert(X), Y)
    apart = [quiet(clone(model), convert(X), Y[:, k]) for k in range(3)]
    np.testing.assert_array_equal(together.coef_, [m.coef_ for m in apart])
    np.testing.assert_array_equal(together.intercept_, np.concatenate([m.intercept_ for m in apart]))
    np.testing.assert_allclose(together.predict(X), np.column_stack([m.predict(X) for m in apart]), rtol=1e-12)
    assert together.n_iter_ == max(m.n_iter_ for m in apart)
    np.testing.assert_allclose(
        together.score(X, Y), np.mean([m.score(X, Y[:, k]) for k, m in enumerate(apart)]), rtol=1e-12
    )


@pytest.mark.parametrize("loss", ["squared_error", "huber", "log_cosh", "absolute_error"])
@pytest.mark.parametrize("convert", [np.asarray, sp.csr_matrix])
def test_outputs_to_the_optimum_are_separate_fits(loss, convert, iris):
    """One certificate for the sum of the objectives: each is as good as alone, up to tol."""
    X, _ = iris
    Y = np.column_stack([X @ [1, 2, 0, -1.0] + 1, X[:, 0] ** 2, np.sin(X[:, 1])])
    tol = 1e-4 if loss == "absolute_error" else 1e-6
    model = SGDLossRegressor(loss, alpha=0.01, tol=tol, max_iter=10_000)
    together = clone(model).fit(convert(X), Y)
    parameters = {"delta": model.epsilon} if loss == "huber" else {}
    total = best = 0.0
    for k in range(3):
        apart = clone(model).fit(convert(X), Y[:, k])
        objective = fastloss.LinearObjective(X, Y[:, k], fastloss.get_loss(loss, **parameters), alpha=0.01)
        total += objective(np.append(together.coef_[k], together.intercept_[k]))[0]
        best += objective(np.append(apart.coef_, apart.intercept_))[0]
    assert together.converged_
    assert abs(total - best) <= 2 * tol * best


@BOTH
def test_one_column_of_outputs_keeps_its_dimension(how, iris):
    X, _ = iris
    model = schedule(SGDLossRegressor(random_state=0), how).fit(X, X[:, :1])
    assert model.coef_.shape == (1, 4)
    assert model.predict(X).shape == (150, 1)
    model.fit(X, X[:, 0])
    assert model.coef_.shape == (4,)
    assert model.predict(X).shape == (150,)


def test_quantiles_in_one_pass(iris):
    X, _ = iris
    y = X @ [1, 2, 0, -1.0] + np.random.default_rng(0).exponential(1.0, 150)
    parameters = {"learning_rate": "constant", "random_state": 0}
    model = quiet(SGDLossRegressor("quantile", quantile=[0.1, 0.5, 0.9], **parameters), X, y)
    assert model.coef_.shape == (3, 4)
    assert model.predict(X).shape == (150, 3)
    for k, quantile in enumerate((0.1, 0.5, 0.9)):
        one = quiet(SGDLossRegressor("quantile", quantile=quantile, **parameters), X, y)
        np.testing.assert_array_equal(model.coef_[k], one.coef_)
        np.testing.assert_allclose(model.predict(X)[:, k], one.predict(X), rtol=1e-9)
        assert abs((y <= one.predict(X)).mean() - quantile) < 0.1
    scores = [quiet(SGDLossRegressor("quantile", quantile=q, **parameters), X, y).score(X, y) for q in (0.1, 0.5, 0.9)]
    np.testing.assert_allclose(model.score(X, y), np.mean(scores), rtol=1e-6)


@pytest.mark.parametrize(
    ("quantile", "message"),
    [([], "at least one"), ([0.5, 2.0], "quantile"), ("half", "quantile"), ([None], "quantile")],
)
def test_bad_quantiles(quantile, message):
    with pytest.raises((ValueError, TypeError), match=message):
        SGDLossRegressor("quantile", quantile=quantile).fit(np.eye(2), [1, 2])


def test_offset_is_added_to_the_raw_prediction(counts):
    X, y, exposure = counts
    offset = np.log(exposure)
    model = SGDLossRegressor("poisson", penalty=None, **FIXED).fit(X, y, offset=offset)
    coef, intercept = slow_sgd(X, y[:, None], [fastloss.get_loss("poisson")], offset=offset, **HOW)
    np.testing.assert_allclose(model.coef_, coef[0], rtol=1e-9)
    np.testing.assert_allclose(model.intercept_, intercept, rtol=1e-9)
    np.testing.assert_allclose(model.predict(X, offset=offset), exposure * model.predict(X), rtol=1e-12)
    assert model.score(X, y, offset=offset) > model.score(X, y)
    model.partial_fit(X, y, offset=offset)
    with pytest.raises(ValueError, match="offset must have one element per row"):
        model.fit(X, y, offset=offset[:-1])
    with pytest.raises(ValueError, match="offset"):
        model.predict(X, offset=[np.nan] * len(y))


@BOTH
def test_score_of_counts_is_d2(how):
    from sklearn.metrics import d2_pinball_score, d2_tweedie_score

    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (300, 2))
    y = rng.poisson(np.exp(X @ [1.0, -1.0])).astype(float)
    weight = rng.uniform(0.5, 2.0, 300)
    for loss, power, target in (("poisson", 1, y), ("gamma", 2, y + 0.5), ("tweedie", 1.5, y)):
        model = quiet(schedule(SGDLossRegressor(loss, random_state=0), how), X, target)
        expected = d2_tweedie_score(target, model.predict(X), sample_weight=weight, power=power)
        np.testing.assert_allclose(model.score(X, target, weight), expected, rtol=1e-9)
    model = quiet(schedule(SGDLossRegressor("quantile", quantile=0.7, random_state=0), how), X, y + X[:, 0])
    np.testing.assert_allclose(
        model.score(X, y + X[:, 0]), d2_pinball_score(y + X[:, 0], model.predict(X), alpha=0.7), atol=1e-4
    )


# --------------------------------------------------------------------------------------------------------------
# Mini-batches
# --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("batch_size", [2, 32, 150, 10_000])
@pytest.mark.parametrize("convert", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize("average", [0, 3])
def test_batches_follow_the_plain_loop(batch_size, convert, average, iris):
    X, y = iris
    X = holes(X)
    Y = np.column_stack([y, y**2]).astype(float)
    parameters = {**FIXED, "fit_intercept": convert is np.asarray}
    model = SGDLossRegressor(batch_size=batch_size, average=average, **parameters).fit(convert(X), Y)
    losses = [fastloss.get_loss("squared_error")] * 2
    coef, intercept = slow_sgd(X, Y, losses, batch_size=min(batch_size, 150), l2=0.01, average=average, **HOW)
    if convert is np.asarray:
        np.testing.assert_allclose(model.coef_, coef, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(model.intercept_, intercept, rtol=1e-9, atol=1e-11)
    else:
        dense = SGDLossRegressor(batch_size=batch_size, average=average, **parameters).fit(X, Y)
        np.testing.assert_allclose(model.coef_, dense.coef_, rtol=1e-9, atol=1e-11)
    assert model.t_ == 1 + 2 * -(-150 // batch_size)


def test_batch_of_one_is_the_classic_update(iris):
    X, y = iris
    one = schedule(SGDLossClassifier("log_loss", random_state=0)).fit(X, y)
    assert_same(one, schedule(SGDLossClassifier("log_loss", batch_size=1, random_state=0)).fit(X, y))


@pytest.mark.parametrize("batch_size", [1, 64])
@pytest.mark.parametrize("loss", ["log_loss", "cross_entropy"])
@pytest.mark.parametrize("convert", [np.asarray, sp.csr_matrix])
@BOTH
def test_threads_do_not_change_a_bit(how, batch_size, loss, convert):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((8000, 30))
    y = (X @ rng.standard_normal((30, 7))).argmax(axis=1)
    model = SGDLossClassifier(loss, batch_size=batch_size, penalty="elasticnet", random_state=0, max_iter=4)
    schedule(model, how)
    one = quiet(clone(model).set_params(n_threads=1), convert(X), y)
    for n_threads in (None, 2, 3):
        assert_same(one, quiet(clone(model).set_params(n_threads=n_threads), convert(X), y))


# --------------------------------------------------------------------------------------------------------------
# Arrays that are not stored row by row
# --------------------------------------------------------------------------------------------------------------
LAYOUTS = {
    "fortran": np.asfortranarray,
    "strided": lambda X: np.repeat(X, 2, axis=1)[:, ::2],
    "backwards": lambda X: np.ascontiguousarray(X[::-1])[::-1],
    "every second": lambda X: np.repeat(X, 2, axis=0)[::2],
}


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks so small that a few hundred rows are many."""
    from fastloss.linear_model import blocks

    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)
    monkeypatch.setattr(blocks, "SMALLEST_BLOCK", 48)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
@pytest.mark.parametrize("loss", ["log_loss", "cross_entropy"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_blocks_in_storage_order_give_the_same_bits(layout, batch_size, loss, early_stopping, iris, small_blocks):
    X, y = iris
    X, y = np.tile(X, (4, 1)), np.tile(y, 4)
    weight = np.random.default_rng(0).uniform(0.5, 2.0, len(y))
    parameters = {**FIXED, "early_stopping": early_stopping, "random_state": 0, "batch_size": batch_size}
    one = SGDLossClassifier(loss, **parameters).fit(X, y, sample_weight=weight)
    other = SGDLossClassifier(loss, **parameters).fit(LAYOUTS[layout](X), y, sample_weight=weight)
    assert_same(one, other)
    assert one.t_ == other.t_
    np.testing.assert_allclose(one.predict_proba(X), other.predict_proba(LAYOUTS[layout](X)), rtol=1e-12)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("subset", [False, True])
def test_every_row_is_in_one_block(shuffle, batch_size, subset, small_blocks):
    from fastloss.linear_model.blocks import RowBlocks

    X = np.asfortranarray(np.arange(2000.0).reshape(1000, 2))
    wanted = np.flatnonzero(np.random.default_rng(0).random(1000) < 0.8) if subset else np.arange(1000)
    blocks = RowBlocks(X, wanted if subset else None, 3 if shuffle else None, batch_size)
    epochs = []
    for _ in range(2):
        visited = []
        for rows, places in blocks.epoch():
            np.testing.assert_array_equal(np.sort(places), np.arange(len(rows)))
            np.testing.assert_array_equal(blocks.tile[: len(rows)], X[rows])
            visited.append(rows[places])
        epochs.append(np.concatenate(visited))
        np.testing.assert_array_equal(np.sort(epochs[-1]), wanted)
    assert (epochs[0] != epochs[1]).any() == shuffle


def test_sorted_rows_converge_in_blocks(small_blocks):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((4000, 5))
    y = (X @ [1, -1, 0.5, 0, 0] + 0.3 * rng.standard_normal(4000) > 0).astype(int)
    order = np.argsort(y, kind="stable")
    X, y = X[order], y[order]
    model = schedule(SGDLossClassifier("log_loss", alpha=1e-3, random_state=0))
    assert model.fit(np.asfortranarray(X), y).score(X, y) > clone(model).fit(X, y).score(X, y) - 0.02


@BOTH
def test_column_order_is_not_copied(how):
    X = np.asfortranarray(np.random.default_rng(0).standard_normal((400_000, 20)))
    y = (X[:, 0] > 0).astype(np.int64)
    model = schedule(SGDLossClassifier(tol=None, max_iter=3), how)
    model.fit(X[:1000], y[:1000])
    for data in (X, X[:, ::2], X[::2]):
        tracemalloc.start()
        model.fit(data, y[: len(data)])
        model.predict(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # (a dozen numbers per row are for labels)
        assert peak < 0.7 * data.nbytes


@pytest.mark.parametrize("order", ["C", "F"])
@BOTH
def test_memory_mapped_rows_are_read_in_place(how, order, tmp_path):
    X = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", np.float32, (200_000, 30), fortran_order=order == "F")
    X[:] = np.random.default_rng(0).standard_normal(X.shape)
    X.flush()
    X = np.load(tmp_path / "X.npy", mmap_mode="r")
    y = np.asarray(X[:, 0]) > 0
    model = schedule(SGDLossClassifier(tol=None, max_iter=3), how).fit(X[:1000], y[:1000])
    tracemalloc.start()
    model.fit(X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.6 * X.nbytes


# --------------------------------------------------------------------------------------------------------------
# L1 on CSR
# --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("penalty", ["l1", "elasticnet"])
@pytest.mark.parametrize("average", [False, 30])
@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("loss", ["log_loss", "cross_entropy", "hinge"])
def test_p12b_csr_follows_dense(penalty, average, batch_size, loss, iris):
    """The L1 penalty reaches the columns a row does not touch: also where the scale folds and windows end."""
    rng = np.random.default_rng(0)
    X = holes(rng.standard_normal((3000, 40)), share=0.9)
    y = (X[:, :3] + 0.1 * rng.standard_normal((3000, 3))).argmax(axis=1)
    for alpha, ratio in ((1e-3, 0.5), (0.05, 0.05)):
        model = SGDLossClassifier(
            loss,
            penalty=penalty,
            alpha=alpha,
            l1_ratio=ratio,
            average=average,
            batch_size=batch_size,
            fit_intercept=False,
            learning_rate="constant",
            eta0=0.3,
            tol=None,
            max_iter=3,
            random_state=0,
        )
        dense, sparse = clone(model).fit(X, y), clone(model).fit(sp.csr_matrix(X), y)
        np.testing.assert_allclose(sparse.coef_, dense.coef_, rtol=1e-8, atol=1e-12)
        if not average and alpha == 1e-3:
            assert (dense.coef_ == 0).any()
            assert (dense.coef_ != 0).any()
            np.testing.assert_array_equal(sparse.coef_ == 0, dense.coef_ == 0)


def test_p13_l1_penalty_goes_on_over_partial_fit():
    rng = np.random.default_rng(0)
    X = holes(rng.standard_normal((1000, 50)), share=0.5)
    y = X[:, :5] @ np.ones(5) + 0.1 * rng.standard_normal(1000)
    for convert in (np.asarray, sp.csr_matrix):
        for batch in (X.shape[0], 20, 1):
            parameters = {"penalty": "l1", "alpha": 0.01, "shuffle": False, "tol": None, "max_iter": 1}
            whole = schedule(SGDLossRegressor(**parameters)).fit(convert(X), y)
            parts = schedule(SGDLossRegressor(**parameters))
            for begin in range(0, 1000, batch):
                parts.partial_fit(convert(X[begin : begin + batch]), y[begin : begin + batch])
            np.testing.assert_allclose(parts.coef_, whole.coef_, rtol=1e-9, atol=1e-12)
            np.testing.assert_array_equal(parts.coef_ == 0, whole.coef_ == 0)
            assert parts.t_ == whole.t_


def test_l1_stops_at_the_same_epoch_on_csr():
    rng = np.random.default_rng(0)
    X = holes(rng.standard_normal((2000, 30)), share=0.7)
    y = X[:, :5] @ np.ones(5) + 0.5 * rng.standard_normal(2000)
    for penalty in ("l1", "elasticnet"):
        model = schedule(SGDLossRegressor(penalty=penalty, alpha=0.01, fit_intercept=False, random_state=0))
        dense, sparse = clone(model).fit(X, y), clone(model).fit(sp.csr_matrix(X), y)
        assert abs(dense.n_iter_ - sparse.n_iter_) <= 1


# --------------------------------------------------------------------------------------------------------------
# partial_fit, warm start, sparse coefficients
# --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "model",
    [
        SGDLossClassifier("log_loss", penalty="elasticnet"),
        SGDLossClassifier("cross_entropy", average=100),
        SGDLossClassifier("hinge", learning_rate="pa1"),
        SGDLossClassifier("multiclass_hinge", learning_rate="invscaling"),
    ],
)
def test_batches_in_order_are_one_epoch(model, iris):
    X, y = iris
    model = schedule(model)
    whole = clone(model).set_params(shuffle=False, tol=None, max_iter=1).fit(X, y)
    parts = clone(model).set_params(shuffle=False, tol=None)
    for begin in range(0, 150, 40):
        parts.partial_fit(X[begin : begin + 40], y[begin : begin + 40], classes=[0, 1, 2])
    np.testing.assert_allclose(parts.coef_, whole.coef_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(parts.intercept_, whole.intercept_, rtol=1e-9, atol=1e-12)
    assert parts.t_ == whole.t_


def test_fit_then_partial_fit_goes_on(iris):
    X, y = iris
    model = schedule(SGDLossClassifier("log_loss", average=True, shuffle=False, tol=None, max_iter=2))
    longer = clone(model).set_params(max_iter=3).fit(X, y)
    assert_same(longer, pickle.loads(pickle.dumps(model.fit(X, y))).partial_fit(X, y), 1e-9)


def test_adaptive_step_size_is_kept(iris):
    X, y = iris
    model = quiet(SGDLossRegressor(learning_rate="adaptive", eta0=0.1, random_state=0), X, y)
    before = model.coef_.copy()
    model.partial_fit(X, y)
    assert np.abs(model.coef_ - before).max() < 1e-4


@BOTH
def test_balanced_weights_of_a_stream(how, iris):
    X, y = iris
    y = (y == 0).astype(int)
    model = schedule(SGDLossClassifier("log_loss", class_weight="balanced", shuffle=False), how)
    by_hand = schedule(SGDLossClassifier("log_loss", shuffle=False), how)
    seen = np.zeros(2)
    for begin in range(0, 150, 50):
        rows = slice(begin, begin + 50)
        seen += np.bincount(y[rows], minlength=2)
        by_hand.set_params(class_weight=dict(enumerate(seen.sum() / (2 * seen))))
        assert_same(
            model.partial_fit(X[rows], y[rows], classes=[0, 1]),
            by_hand.partial_fit(X[rows], y[rows], classes=[0, 1]),
            1e-12,
        )
    model = schedule(SGDLossClassifier("cross_entropy", class_weight="balanced"), how)
    model.partial_fit(X[y == 0], y[y == 0], classes=[0, 1])  # a class that did not come yet
    assert np.isfinite(model.coef_).all()


@BOTH
def test_p33_weights_that_are_all_zero(how, iris):
    X, y = iris
    for model in (schedule(SGDLossClassifier("log_loss"), how), schedule(SGDLossRegressor(), how)):
        first = {"classes": [0, 1, 2]} if isinstance(model, SGDLossClassifier) else {}
        with pytest.raises(ValueError, match="zero"):
            model.fit(X, y, sample_weight=np.zeros(150))
        model.partial_fit(X, y, sample_weight=np.zeros(150), **first)
        assert not model.coef_.any()
        assert model.t_ == 1
        model.partial_fit(X, y)
        before = (model.coef_.copy(), model.t_)
        model.partial_fit(X, y, sample_weight=np.zeros(150))
        np.testing.assert_array_equal(model.coef_, before[0])
        assert model.t_ == before[1]


def test_rows_of_weight_zero_count_as_steps(iris):
    X, y = iris
    weight = np.ones(150)
    weight[10:20] = 0
    model = schedule(SGDLossRegressor(shuffle=False, tol=None, max_iter=1)).fit(X, y, sample_weight=weight)
    assert model.t_ == 151


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "classes must be passed on the first call to partial_fit"),
        ({"classes": [0, 1]}, r"y\[\d+\] = .*2.* is not in classes"),
        ({"classes": [1]}, "at least two classes"),
    ],
)
@BOTH
def test_bad_first_batches(how, arguments, message, iris):
    model = schedule(SGDLossClassifier(), how)
    with pytest.raises(ValueError, match=message):
        model.partial_fit(*iris, **arguments)
    assert not hasattr(model, "coef_")


@BOTH
def test_bad_later_batches(how, iris):
    X, y = iris
    model = schedule(SGDLossClassifier(), how).partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="not the same as on the last call"):
        model.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match="expecting 4 features"):
        model.partial_fit(X[:, :2], y)
    with pytest.raises(ValueError, match=r"y\[0\] = .*7"):
        model.partial_fit(X[:1], [7])
    with pytest.raises(ValueError, match="2 outputs, earlier batches had 1"):
        schedule(SGDLossRegressor(), how).partial_fit(X, y).partial_fit(X, np.column_stack([y, y]))


@BOTH
def test_later_batches_take_the_dtype_of_the_first(how, iris):
    X, y = iris
    model = schedule(SGDLossRegressor(), how).partial_fit(X.astype(np.float32), y)
    assert model.partial_fit(X, y).coef_.dtype == np.float32


def test_warm_start_begins_where_the_last_fit_ended(iris):
    X, y = iris
    for model in (SGDLossClassifier("cross_entropy", **FIXED), SGDLossClassifier("hinge", average=True, **FIXED)):
        first = clone(model).fit(X, y)
        again = clone(model).fit(X, y, coef_init=first.coef_, intercept_init=first.intercept_)
        warm = clone(model).set_params(warm_start=True).fit(X, y).fit(X, y)
        assert_same(warm, again)
        assert warm.t_ == again.t_ == 301


@BOTH
def test_sparse_coefficients_predict_and_train_on(how, iris):
    X, y = iris
    for model in (
        SGDLossClassifier("log_loss", penalty="l1", alpha=0.05, random_state=0),
        SGDLossClassifier("cross_entropy", penalty="l1", alpha=0.05, random_state=0),
        SGDLossRegressor(penalty="l1", alpha=0.5, random_state=0),
    ):
        quiet(schedule(model, how), X, y)
        expected, coef = model.predict(X), model.coef_.copy()
        assert sp.issparse(model.sparsify().coef_)
        for data in (X, sp.csr_matrix(X)):
            np.testing.assert_allclose(model.predict(data), expected, rtol=1e-10)
        pickle.loads(pickle.dumps(model)).partial_fit(X, y)
        np.testing.assert_array_equal(model.densify().coef_, coef)
        assert model.coef_.shape == coef.shape
        model.sparsify().partial_fit(X, y)
        assert not sp.issparse(model.coef_)


# --------------------------------------------------------------------------------------------------------------
# Early stopping
# --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "model",
    [
        SGDLossClassifier("cross_entropy", learning_rate="constant"),
        SGDLossClassifier("exponential", learning_rate="constant"),
        SGDLossClassifier("log_loss", batch_size=16),
        SGDLossRegressor("poisson"),
        SGDLossRegressor("quantile", quantile=[0.2, 0.8]),
    ],
)
def test_early_stopping_ends_before_max_iter(model, iris):
    X, y = iris
    model = schedule(clone(model))
    model.set_params(early_stopping=True, validation_fraction=0.3, random_state=0, max_iter=500).fit(X, y)
    assert 5 < model.n_iter_ < 500
    assert np.isfinite(model.coef_).all()


def test_early_stopping_never_sees_the_held_out_rows(iris):
    from sklearn.model_selection import StratifiedShuffleSplit

    X, y = iris
    rows, others = next(StratifiedShuffleSplit(test_size=0.3, random_state=0).split(X, y))
    spoilt = X.copy()
    spoilt[others] = 1e6
    parameters = {**FIXED, "early_stopping": True, "validation_fraction": 0.3, "random_state": 0}
    model = SGDLossClassifier("cross_entropy", **parameters).fit(spoilt, y)
    rows = np.sort(rows)
    assert_same(model, SGDLossClassifier("cross_entropy", **FIXED).fit(X[rows], y[rows]))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"validation_fraction": 0.0}, "validation_fraction must be > 0"),
        ({"validation_fraction": 1.0}, "validation_fraction must be < 1"),
        ({"l1_ratio": 1.5}, "l1_ratio must be <= 1"),
        ({"penalty": "elasticnet", "l1_ratio": None}, "l1_ratio must be set"),
        ({"average": -1}, "average must be >= 0"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"learning_rate": "pa1", "loss": "log_loss"}, "learning_rate='pa1' needs loss='hinge'"),
        ({"learning_rate": "pa2", "batch_size": 2}, "learning_rate='pa2' needs batch_size=1"),
        ({"warm_start": 1}, "warm_start must be True or False"),
    ],
)
@BOTH
def test_bad_parameters_are_named(how, parameters, message, iris):
    with pytest.raises((ValueError, TypeError), match=message):
        schedule(SGDLossClassifier().set_params(**parameters), how).fit(*iris)


def test_passive_aggressive_adds_duplicates_up(iris):
    X, y = iris
    X = sp.csr_matrix(holes(X))
    twice = sp.csr_matrix(
        (np.repeat(X.data / 2, 2), np.repeat(X.indices, 2), 2 * X.indptr.astype(np.int64)), shape=X.shape
    )
    model = SGDLossClassifier("hinge", learning_rate="pa1", tol=None, max_iter=3, random_state=0)
    assert_same(clone(model).fit(X, y), clone(model).fit(twice, y), 1e-9)


@config_context(enable_metadata_routing=True)
def test_metadata_routing_knows_the_arguments():
    assert SGDLossClassifier().set_fit_request(sample_weight=True, coef_init=False)
    assert SGDLossClassifier().set_partial_fit_request(sample_weight=True, classes=True)
    assert SGDLossRegressor().set_fit_request(offset=True).set_predict_request(offset=True)
    assert SGDLossRegressor().set_score_request(sample_weight=True, offset=True)
