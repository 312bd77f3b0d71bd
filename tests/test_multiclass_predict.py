"""`predict` of multiclass losses: at the scores that are best on average it gives the true class probabilities back."""

import numpy as np
import pytest
from grids_multiclass import every_case, everyday, label, scores
from oracle_multiclass import ORACLES
from scipy import optimize

import fastloss

MULTICLASS = fastloss.list_losses(kind="multiclass")
CASES = list(every_case(soft=False))
INF = np.inf

PROBABILISTIC = [
    ("cross_entropy", {}),
    ("cross_entropy", {"label_smoothing": 0.1}),
    ("cross_entropy", {"label_smoothing": 0.6}),
    ("multiclass_focal", {"gamma": 0.0}),
    ("multiclass_focal", {"gamma": 0.5}),
    ("multiclass_focal", {}),
    ("multiclass_focal", {"gamma": 5.0}),
    ("generalized_cross_entropy", {}),
    ("generalized_cross_entropy", {"q": 0.1}),
    ("generalized_cross_entropy", {"q": 0.5}),
    ("sparsemax", {}),
    ("entmax15", {}),
]
ETAS = [(0.2, 0.3, 0.5), (0.05, 0.05, 0.9), (1 / 3, 1 / 3, 1 / 3), (0.1, 0.2, 0.3, 0.4), (0.3, 0.7)]


def population_minimiser(loss, eta):
    """Scores of least expected loss, found by Newton steps that do not look at `predict`."""
    K = len(eta)
    labels, eta = np.arange(K), np.array(eta)

    def risk(free):
        raw = np.tile(np.append(free, 0.0), (K, 1))
        value, gradient = loss.loss_gradient(labels, raw, reduction="none")
        return eta @ value, (eta @ gradient)[:-1]

    start = np.log(eta[:-1] / eta[-1])
    found = optimize.minimize(risk, start, jac=True, method="BFGS", options={"gtol": 1e-12, "maxiter": 2000})
    found = optimize.root(lambda x: risk(x)[1], found.x, tol=1e-14)
    raw = np.append(found.x, 0.0)
    assert np.abs(risk(found.x)[1]).max() < 1e-9
    return raw


def test_every_loss_is_here():
    assert {name for name, _ in PROBABILISTIC} | {n for n in MULTICLASS if ORACLES[n].margin} == set(MULTICLASS)


@pytest.mark.parametrize("case", PROBABILISTIC, ids=label)
@pytest.mark.parametrize("eta", ETAS, ids=str)
def test_probabilities_of_the_minimiser(case, eta):
    name, params = case
    loss = fastloss.get_loss(name, **params)
    raw = population_minimiser(loss, eta)
    np.testing.assert_allclose(loss.predict(raw[None, :])[0], eta, atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=label)
@pytest.mark.parametrize("K", [1, 2, 3, 10, 100])
def test_probabilities_are_probabilities(case, dtype, K):
    """For adversarial scores, too; a row with NaN, or (but for margins) without any class, is NaN."""
    name, params, _ = case
    raw = scores(K, dtype, count=80)
    p = fastloss.get_loss(name, **params).predict(raw)
    assert p.dtype == dtype
    assert p.shape == raw.shape
    nan = np.isnan(raw).any(axis=1)
    empty = np.isneginf(raw).all(axis=1)
    assert np.isnan(p[nan]).all()
    if not ORACLES[name].margin:
        assert np.isnan(p[empty]).all()
    usual = p[~nan & ~empty]
    assert np.all((usual >= 0) & (usual <= 1))
    np.testing.assert_allclose(usual.astype(float).sum(axis=1), 1, rtol=16 * np.finfo(dtype).eps)


@pytest.mark.parametrize("case", CASES, ids=label)
def test_order_of_the_scores_is_kept(case, dtype):
    name, params, _ = case
    _, raw = everyday(300, 6, dtype)
    p = fastloss.get_loss(name, **params).predict(raw)
    assert np.all(np.diff(np.take_along_axis(p, raw.argsort(axis=1), axis=1), axis=1) >= -4 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(np.take_along_axis(p, raw.argmax(axis=1)[:, None], 1)[:, 0], p.max(axis=1))


@pytest.mark.parametrize("params", [{}, {"z_loss": 1e-3}, {"class_weight": [1, 2, 3]}, {"ignore_index": 1}], ids=str)
def test_cross_entropy_predicts_the_softmax(dtype, params):
    _, raw = everyday(50, 3, dtype)
    p = fastloss.get_loss("cross_entropy", **params).predict(raw)
    np.testing.assert_allclose(p, fastloss.softmax(raw), rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("smoothing", [0.1, 0.6])
def test_smoothing_is_undone(dtype, smoothing):
    """(p - eps/K) / (1 - eps); below eps/K nothing is left, and the rest is shared out anew."""
    raw = np.array([[2, 1, 0.5], [9, 0, 0], [0, 0, 0], [9, 8, -9]], dtype)
    p = fastloss.softmax(raw.astype(float))
    wanted = np.maximum(p - smoothing / 3, 0)
    wanted /= wanted.sum(axis=1, keepdims=True)
    got = fastloss.get_loss("cross_entropy", label_smoothing=smoothing).predict(raw)
    np.testing.assert_allclose(got, wanted, rtol=64 * np.finfo(dtype).eps, atol=8 * np.finfo(dtype).eps)


def test_smoothing_is_undone_over_the_classes_that_are_there(dtype):
    raw = np.array([[1, -INF, 0]], dtype)
    loss = fastloss.get_loss("cross_entropy", label_smoothing=0.3)
    both = loss.predict(raw[:, [0, 2]])
    got = loss.predict(raw)
    assert got[0, 1] == 0
    np.testing.assert_allclose(got[:, [0, 2]], both, rtol=16 * np.finfo(dtype).eps)


@pytest.mark.parametrize("name", ["sparsemax", "entmax15"])
def test_projections_are_the_gradient_and_the_label(name, dtype):
    for K in (1, 2, 5, 100):
        y, raw = everyday(40, K, dtype, scale=1.0)
        loss = fastloss.get_loss(name)
        gradient = loss.gradient(y, raw, reduction="none").astype(float)
        np.testing.assert_allclose(loss.predict(raw), gradient + np.eye(K)[y], atol=8 * np.finfo(dtype).eps)


def test_projections_by_hand(dtype):
    np.testing.assert_array_equal(
        fastloss.get_loss("sparsemax").predict(np.array([[0.5, 0, -3], [0, 0, 0], [7, 3, 1]], dtype))[[0, 2]],
        np.array([[0.75, 0.25, 0], [1, 0, 0]], dtype),
    )
    p = fastloss.get_loss("entmax15").predict(np.array([[0, 0, 0, 0], [9, 0, 0, 0]], dtype))
    np.testing.assert_allclose(p, [[0.25] * 4, [1, 0, 0, 0]], atol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("name", [n for n in MULTICLASS if ORACLES[n].margin])
def test_margins_tell_the_class(name, dtype):
    """One for the largest score; ties share equally."""
    loss = fastloss.get_loss(name)
    raw = np.array([[0, 3, 1], [2, 2, 1], [0, 0, 0], [-1, INF, INF], [np.nan, 1, 2]], dtype)
    third = dtype.type(1) / dtype.type(3)
    wanted = [[0, 1, 0], [0.5, 0.5, 0], [third] * 3, [0, 0.5, 0.5], [np.nan] * 3]
    np.testing.assert_array_equal(loss.predict(raw), np.array(wanted, dtype))


@pytest.mark.parametrize("case", CASES, ids=label)
def test_infinite_scores(case, dtype):
    name, params, _ = case
    loss = fastloss.get_loss(name, **params)
    p = loss.predict(np.array([[INF, 0, INF], [INF, 5, -INF], [-INF, 1, -INF]], dtype))
    np.testing.assert_allclose(p, [[0.5, 0, 0.5], [1, 0, 0], [0, 1, 0]], rtol=4 * np.finfo(dtype).eps)


def test_inputs(dtype):
    """Lists, integers, strided and Fortran arrays are read; the input is not changed; no rows are no problem."""
    _, raw = everyday(30, 4, dtype)
    for name, params, _ in CASES:
        loss = fastloss.get_loss(name, **params)
        wanted = loss.predict(raw)
        before = raw.tobytes()
        assert not np.shares_memory(wanted, raw)
        for other in (np.asfortranarray(raw), np.repeat(raw, 2, axis=0)[::2], np.repeat(raw, 3, axis=1)[:, ::3]):
            np.testing.assert_array_equal(loss.predict(other), wanted)
        assert raw.tobytes() == before
        assert loss.predict(np.zeros((0, 4), dtype)).shape == (0, 4)
        assert loss.predict([[1, 2], [3, 4]]).dtype == np.float64
        assert loss.predict(np.zeros((2, 3), np.float16)).dtype == np.float64
