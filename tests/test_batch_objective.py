"""Linear models under losses over a whole batch."""

import numpy as np
import pytest
import scipy.sparse as sp
from batch_cases import BATCH, CASES, label
from bits import bits

import fastloss
from fastloss import LinearObjective


def problem(name, n=300, d=5, seed=0):
    """(X, y, keywords, weight, offset) with something to learn."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    score = X @ rng.normal(size=d) + rng.normal(size=n)
    grouped = fastloss.get_loss(name).grouped
    y = np.clip(np.round(score + 1), 0, 4) if grouped else score > 1
    weight = rng.integers(0, 4, n) / 2
    return X, y, {"group": [n // 3, n - n // 3 - 1, 1]} if grouped else {}, weight, rng.normal(size=n)


@pytest.mark.parametrize("case", CASES, ids=label)
@pytest.mark.parametrize("intercept", [True, False])
def test_value_and_gradient(case, intercept):
    """The mean of the batch's loss at X w + b + offset, and X' times its gradient, plus the penalty."""
    name, params = case
    X, y, keywords, weight, offset = problem(name)
    loss = fastloss.get_loss(name, **params)
    objective = LinearObjective(
        X, y, loss, alpha=0.3, fit_intercept=intercept, sample_weight=weight, offset=offset, **keywords
    )
    w = np.random.default_rng(1).normal(size=objective.size)
    coef, shift = objective.unpack(w)
    value, gradient = loss.loss_gradient(y, X @ coef + shift + offset, weight, **keywords)
    mine = objective(w)
    assert mine[0] == pytest.approx(value + 0.15 * coef @ coef, rel=1e-13)
    expected = np.append(X.T @ gradient + 0.3 * coef, [gradient.sum()] * intercept)
    np.testing.assert_allclose(mine[1], expected, rtol=1e-10, atol=1e-12 * np.abs(gradient).sum())
    if intercept and (name == "pairwise_auc" or loss.grouped):
        assert abs(mine[1][-1]) < 1e-13 * np.abs(gradient).sum()  # a common shift of the scores changes nothing


@pytest.mark.parametrize("name", BATCH)
def test_any_layout_and_threads(name):
    X, y, keywords, weight, _ = problem(name, n=700, d=33)
    X[np.random.default_rng(0).random(X.shape) < 0.5] = 0
    w = np.random.default_rng(1).normal(size=34)
    value, gradient = LinearObjective(X, y, name, sample_weight=weight, n_threads=1, **keywords)(w)
    wide = sp.csr_matrix(X)
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    for other in (np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2], sp.csr_matrix(X), wide, sp.coo_matrix(X)):
        for n_threads in (1, 3):
            mine = LinearObjective(other, y, name, sample_weight=weight, n_threads=n_threads, **keywords)(w)
            assert mine[0] == pytest.approx(value, rel=1e-12)
            np.testing.assert_allclose(mine[1], gradient, rtol=1e-9, atol=1e-11 * np.abs(gradient).max())
    for n_threads in (2, 4):
        mine = LinearObjective(X, y, name, sample_weight=weight, n_threads=n_threads, **keywords)(w)
        assert bits(mine[0]) == bits(value)
        assert bits(mine[1]) == bits(gradient)
    single = LinearObjective(X.astype(np.float32), y, name, sample_weight=weight, **keywords)
    assert single.dtype == np.float32
    mine = single(w.astype(np.float32))
    assert mine[1].dtype == np.float32
    assert mine[0] == pytest.approx(value, rel=1e-4)
    np.testing.assert_allclose(mine[1], gradient, atol=1e-3 * np.abs(gradient).max())


def test_more_coefficients_than_accumulators_hold():
    """Beyond a million coefficients the threads share tiles."""
    d = 1_100_000
    rng = np.random.default_rng(0)
    X = sp.csr_matrix((rng.normal(size=5000), (rng.integers(0, 50, 5000), rng.integers(0, d, 5000))), (50, d))
    y, w = np.arange(50) % 2, rng.normal(size=d + 1)
    value, gradient = LinearObjective(X, y, "pairwise_auc", n_threads=2)(w)
    expected = fastloss.loss_gradient("pairwise_auc", y, X @ w[:-1] + w[-1])
    assert value == pytest.approx(expected[0], rel=1e-12)
    np.testing.assert_allclose(gradient[:-1], X.T @ expected[1], rtol=1e-9, atol=1e-14)


def test_a_linear_auc_model_in_three_lines():
    from sklearn.metrics import roc_auc_score

    X, y, _, weight, _ = problem("pairwise_auc", n=2000)
    for surrogate in ("squared_hinge", "hinge", "logistic"):
        objective = LinearObjective(
            X, y, fastloss.losses.PairwiseAuc(surrogate=surrogate), alpha=1e-6, sample_weight=weight
        )
        coef, intercept = objective.unpack(objective.minimize().x)
        reached = roc_auc_score(y, X @ coef, sample_weight=weight)
        best = LinearObjective(X, y, "log_loss", sample_weight=weight).minimize().x[:-1]
        assert reached >= roc_auc_score(y, X @ best, sample_weight=weight) - 1e-3
        assert intercept == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["listnet", "approx_ndcg", "pairwise_logistic"])
def test_linear_ranking_raises_the_ndcg(name):
    from sklearn.metrics import ndcg_score

    X, y, _, _, _ = problem(name, n=600)
    group = [20] * 30
    objective = LinearObjective(X, y, name, group=group, alpha=1e-6)
    start = 1e-2 * np.ones(objective.size)

    def ndcg(w):
        scores = X @ objective.unpack(w)[0]
        return ndcg_score((2**y - 1).reshape(30, 20), scores.reshape(30, 20))

    found = objective.minimize(start=start)
    assert found.fun < objective(start)[0]
    assert ndcg(found.x) > ndcg(start) + 0.4
    assert ndcg(found.x) > ndcg(LinearObjective(X, y, "squared_error").minimize().x) - 0.01


@pytest.mark.parametrize("name", ["soft_fbeta", "dice", "tversky", "jaccard", "lovasz_hinge"])
def test_overlaps_raise_the_f1(name):
    from sklearn.metrics import f1_score

    X, y, _, _, _ = problem(name, n=1000)
    coef, intercept = LinearObjective(X, y, name, alpha=1e-6).unpack(LinearObjective(X, y, name).minimize().x)
    assert f1_score(y, X @ coef + intercept > 0) > 0.7


def test_refusals():
    X, y = np.arange(8.0).reshape(4, 2), np.array([0, 0, 1, 1])
    objective = LinearObjective(X, y, "pairwise_auc")
    for call in (objective.hessp, lambda w, v: objective.hessian_diag(w)):
        with pytest.raises(ValueError, match=r"pairwise_auc .* no products .* 'L-BFGS-B'"):
            call(objective.initial, objective.initial)
    with pytest.raises(ValueError, match="no products"):
        objective.minimize("newton-cg")
    ranking = LinearObjective(X, y, "lambdarank", group=[4])
    assert ranking(ranking.initial)[1].shape == (3,)
    with pytest.raises(ValueError, match=r"lambdarank is defined by its gradients.*'listnet', 'pairwise_logistic' or"):
        ranking.minimize()
    with pytest.raises(ValueError, match="one target per row"):
        LinearObjective(X, np.ones((4, 2)), "dice")
    with pytest.raises(ValueError, match=r"y_true\[2\] = 5: dice needs labels"):
        LinearObjective(X, [0, 1, 5, 7], "dice")
    with pytest.raises(ValueError, match="mean loss is not defined: there is no pair"):
        LinearObjective(X, np.ones(4), "pairwise_auc")
    with pytest.raises(ValueError, match="mean loss is not defined: no group has two rows with different grades"):
        LinearObjective(X, y, "pairwise_logistic", group=[2, 2])
    with pytest.raises(ValueError, match="mean loss is not defined: all weights are 0"):
        LinearObjective(X, y, "listnet", sample_weight=np.zeros(4))
    with pytest.raises(ValueError, match=r"sample_weight\[1\] = -1.0"):
        LinearObjective(X, y, "listnet", sample_weight=[1.0, -1.0, 0.0, 1.0])
    with pytest.raises(ValueError, match="group adds up to 3 rows"):
        LinearObjective(X, y, "listnet", group=[3])
    for name in ("log_loss", "dice"):
        with pytest.raises(TypeError, match=f"group is for ranking losses: {name} has no groups"):
            LinearObjective(X, y, name, group=[4])
    with pytest.raises(ValueError, match="n_classes"):
        LinearObjective(X, y, "dice", n_classes=2)


@pytest.mark.parametrize("estimator", [fastloss.SGDLossClassifier, fastloss.SGDLossRegressor])
@pytest.mark.parametrize("name", ["pairwise_auc", "lambdarank"])
@pytest.mark.parametrize("as_object", [False, True])
def test_estimators_point_to_the_objective(estimator, name, as_object):
    X, y, _, _, _ = problem("dice", n=50)
    loss = fastloss.get_loss(name) if as_object else name
    with pytest.raises(ValueError, match=r"loss over the whole batch.*LinearObjective"):
        estimator(loss=loss).fit(X, y)
