"""The oracle of the multiclass losses against definitions, differences and other people's code."""

import numpy as np
import pytest
from grids_multiclass import every_case, everyday, label
from mpmath import mp, mpf
from oracle_multiclass import COMMON, ORACLES, exact, softmax_functions
from scipy import special

import fastloss
from fastloss.losses import get_class

MULTICLASS = fastloss.list_losses(kind="multiclass")


@pytest.mark.parametrize("name", MULTICLASS)
def test_every_loss_has_an_oracle(name):
    assert name in ORACLES, f"add a function decorated with @oracle_for({name!r}) to tests/oracle_multiclass.py"


def test_no_oracle_is_left_over():
    assert set(ORACLES) == set(MULTICLASS)


@pytest.mark.parametrize("name", MULTICLASS)
def test_parameters_and_defaults_are_the_oracles(name):
    declared = {k: p.default for k, p in get_class(name).parameters.items()}
    extra = {"allow_negative_weight": False} if name == "cross_entropy" else {}
    assert declared == ORACLES[name].defaults | COMMON | extra


# the definitions, in numbers of any precision: not rounded, not arranged, cancelling as they please ----------------


def log_softmax(z):
    lse = mp.log(sum(mp.exp(x) for x in z))
    return [x - lse for x in z]


def bisected(z, mass):
    """The projection p_k = mass(z_k - threshold) whose sum is 1, by halving an interval."""
    low, high = min(z) - 2, max(z)
    for _ in range(mp.prec):
        middle = (low + high) / 2
        if sum(mass(x - middle) for x in z) > 1:
            low = middle
        else:
            high = middle
    return [mass(x - low) for x in z]


def cross_entropy(z, y, label_smoothing=0, z_loss=0):
    targets = [mpf(int(k == y)) for k in range(len(z))] if np.ndim(y) == 0 else [mpf(float(v)) for v in y]
    targets = [(1 - label_smoothing) * t + label_smoothing / len(z) for t in targets]
    lse = mp.log(sum(mp.exp(x) for x in z))
    return -sum(t * v for t, v in zip(targets, log_softmax(z), strict=True)) + z_loss * lse**2


def multiclass_focal(z, y, gamma=2):
    p = mp.exp(log_softmax(z)[y])
    return (1 - p) ** gamma * -mp.log(p)


def generalized_cross_entropy(z, y, q=None):
    q = mpf(0.7) if q is None else q
    return (1 - mp.exp(log_softmax(z)[y]) ** q) / q


def multiclass_hinge(z, y):
    return max(mpf(0), 1 + max(x for k, x in enumerate(z) if k != y) - z[y])


def multiclass_squared_hinge(z, y):
    return multiclass_hinge(z, y) ** 2


def sparsemax(z, y):
    p = bisected(z, lambda x: max(x, mpf(0)))
    return sum(v * x for v, x in zip(p, z, strict=True)) - z[y] + sum(v * (1 - v) for v in p) / 2


def entmax15(z, y):
    s = bisected([x / 2 for x in z], lambda x: max(x, mpf(0)) ** 2)
    tsallis = mpf(4) / 3 * sum(v - v * mp.sqrt(v) for v in s)
    return sum(v * x for v, x in zip(s, z, strict=True)) - z[y] + tsallis


DEFINITIONS = {
    function.__name__: function
    for function in (
        cross_entropy,
        multiclass_focal,
        generalized_cross_entropy,
        multiclass_hinge,
        multiclass_squared_hinge,
        sparsemax,
        entmax15,
    )
}


def exactly_shifted(n, K, scale):
    """Everyday scores that are multiples of 1/64: their differences from the largest are not rounded."""
    y, raw = everyday(n, K, scale=scale, seed=3)
    return y, np.round(raw * 64) / 64


@pytest.mark.parametrize("case", list(every_case()), ids=label)
@pytest.mark.parametrize("K", [2, 3, 5])
def test_values_and_derivatives_are_those_of_the_definition(case, K):
    name, params, soft = case
    define = DEFINITIONS[name]
    params = {k: mpf(v) for k, v in params.items()}
    for scale in (0.5, 4.0):
        labels, raw = exactly_shifted(4, K, scale)
        targets = np.random.default_rng(K).dirichlet(np.ones(K), 4) * 1.5
        for i, z in enumerate(raw):
            y = targets[i] if soft else int(labels[i])
            loss, gradient, hessian = exact(name, y, z, **params)
            with mp.workprec(700):
                h = mpf(2) ** -150
                point = [mpf(float(x)) for x in z]

                def at(k, shift, point=point, y=y):
                    return define([x + shift * (j == k) for j, x in enumerate(point)], y, **params)

                middle = at(0, 0)
                assert abs(middle - loss[0]) < mpf(2) ** -200 * max(1, abs(middle))
                for k in range(K):
                    above, below = at(k, h), at(k, -h)
                    assert abs((above - below) / (2 * h) - gradient[k][0]) < mpf(2) ** -140, (z, y, k)
                    assert abs((above - 2 * middle + below) / h**2 - hessian[k][0]) < mpf(2) ** -140, (z, y, k)


@pytest.mark.parametrize("case", list(every_case()), ids=label)
def test_largest_terms_are_no_excuse(case):
    """The yardstick is the value itself where nothing cancels, and never far above the sizes that are added up."""
    name, params, soft = case
    y, raw = everyday(20, 4, seed=8)
    targets = np.random.default_rng(1).dirichlet(np.ones(4), 20)
    plain = name == "cross_entropy" and not params and not soft
    for i, z in enumerate(raw):
        loss, gradient, hessian = exact(name, targets[i] if soft else int(y[i]), z, **params)
        with mp.workprec(500):  # at less, a comparison would round
            assert all(abs(value) <= 4 * unit <= 1000 for value, unit in (loss, *gradient, *hessian))
            if plain or name in ("multiclass_focal", "generalized_cross_entropy"):
                assert all(abs(value) == unit for value, unit in (loss, *gradient))
            if plain:
                assert all(abs(value) == unit for value, unit in hessian)


def test_tails_are_exact():
    """Far out the oracle keeps what doubles cannot: compared with the definition in thousands of bits."""
    for gap in (17.0, 40.0, 700.0, 5000.0):
        z = np.array([gap, 0.0, -gap])
        with mp.workprec(60_000):
            wanted = [log_softmax([mpf(x) for x in z])[k] for k in range(3)]
            tails = [1 - mp.exp(x) for x in wanted]
        for k in range(3):
            loss, gradient, _ = exact("cross_entropy", k, z)
            assert abs(loss[0] / -wanted[k] - 1) < mpf(2) ** -200
            assert abs(gradient[k][0] / -tails[k] - 1) < mpf(2) ** -200


def test_against_scipy():
    _, raw = everyday(40, 6, seed=2)
    ours = softmax_functions(raw)
    for name, function in (("softmax", special.softmax), ("log_softmax", special.log_softmax)):
        np.testing.assert_allclose(ours[name].high.reshape(raw.shape), function(raw, axis=1), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(ours["logsumexp"].high, special.logsumexp(raw, axis=1), rtol=1e-13)


def test_against_scikit_learn():
    module = pytest.importorskip("sklearn._loss.loss", reason="scikit-learn moved its private losses")
    y, raw = everyday(40, 5, seed=4)
    value, gradient = module.HalfMultinomialLoss(n_classes=5).loss_gradient(y.astype(float), raw)
    for i in range(40):
        loss, slope, _ = exact("cross_entropy", int(y[i]), raw[i])
        assert float(loss[0]) == pytest.approx(value[i], rel=1e-12)
        np.testing.assert_allclose([float(v) for v, _ in slope], gradient[i], rtol=1e-11)


@pytest.mark.parametrize("name", ["sparsemax", "entmax15"])
def test_projections_are_the_nearest_points(name):
    """First-order conditions of the maximum of p.z + entropy(p) over the simplex, at large K too."""
    for K in (2, 3, 50, 1000):
        y, raw = everyday(3, K, seed=6, scale=1.0)
        for i, z in enumerate(raw):
            _, gradient, _ = exact(name, int(y[i]), z)
            p = np.array([float(v[0]) for v in gradient])
            p[y[i]] += 1
            assert p.sum() == pytest.approx(1, abs=1e-12)
            marginal = z - p if name == "sparsemax" else z - 2 * np.sqrt(p)
            inside = p > 1e-12
            assert np.ptp(marginal[inside]) < 1e-6
            assert marginal[~inside].max(initial=-np.inf) <= marginal[inside].max() + 1e-6


def test_special_rows():
    inf, nan = np.inf, np.nan
    for z in ([nan, 1.0], [-inf, -inf], [inf, nan]):
        assert all(mp.isnan(v) for v, _ in exact("cross_entropy", 0, np.array(z))[1])
    loss, gradient, _ = exact("cross_entropy", 0, np.array([-inf, 0.0, 0.0]))
    assert (loss[0], [float(v) for v, _ in gradient]) == (mp.inf, [-1, 0.5, 0.5])
    loss, gradient, _ = exact("cross_entropy", 0, np.array([inf, 0.0, inf]))
    assert (float(loss[0]), [float(v) for v, _ in gradient]) == (np.log(2), [-0.5, 0, 0.5])
    loss, gradient, _ = exact("cross_entropy", 0, np.array([0.0, -inf, 0.0]), label_smoothing=0.5)
    assert float(loss[0]) == pytest.approx(np.log(2))  # smoothed over the two that are there
    assert [float(v) for v, _ in gradient] == [-0.25, 0, 0.25]
