"""The oracle against itself and against other people's code, so that it can be trusted to judge."""

import numpy as np
import pytest
from grids import everyday, samples
from mpmath import mp, mpf
from oracle import ORACLES, exact, orders
from scipy import special
from yardstick import ulp

import fastloss
from fastloss.losses import get_class


def test_every_loss_has_an_oracle(name):
    assert name in ORACLES, f"add a function decorated with @oracle_for({name!r}, ...) to tests/oracle.py"
    assert ORACLES[name].kind == get_class(name).kind


def test_no_oracle_is_left_over():
    assert set(ORACLES) <= set(fastloss.list_losses())


def test_parameters_and_defaults_are_the_oracles(name):
    declared = {k: p.default for k, p in get_class(name).parameters.items()}
    assert declared == ORACLES[name].defaults


@pytest.mark.parametrize("name", ORACLES)
def test_more_precision_changes_nothing(name, monkeypatch):
    """The working precision is enough: doubling it leaves 50 correct digits of the largest term."""
    import oracle

    spec = ORACLES[name]
    usual = oracle.precision
    for params in spec.parameter_sets:
        y, raw = samples(name, params, np.float64, n_random=10)
        for yi, ri in list(zip(y, raw, strict=True))[::23]:
            first = exact(name, yi, ri, np.float64, **params)
            monkeypatch.setattr(oracle, "precision", lambda *x: 2 * usual(*x) + 500)
            second = exact(name, yi, ri, np.float64, **params)
            monkeypatch.setattr(oracle, "precision", usual)
            for (a, unit), (b, _) in zip(first, second, strict=True):
                same = (mp.isnan(a) and mp.isnan(b)) or a == b or abs(a - b) <= abs(unit) * mpf(10) ** -50
                same = same or (b == 0 and abs(a) < mpf(10) ** -60)  # an exact zero is hard to meet
                assert same or min(abs(a), abs(b)) > mpf("1e400"), (params, yi, ri, a, b)


@pytest.mark.parametrize("name", ORACLES)
def test_derivatives_of_the_jets(name):
    """Value, slope and bend of the jets agree with high-precision numerical differentiation."""
    spec = ORACLES[name]
    for params in spec.parameter_sets:
        y, raw = everyday(name, params, 12, seed=5)
        for yi, ri in zip(y, raw, strict=True):
            with mp.workdps(80):
                if spec.takes == "relative":  # r is rounded before the oracle sees it: keep y out of the way
                    yi, params = 0.0, {"epsilon": 0.5}
                if spec.takes == "difference":
                    yi, ri = 0.0, ri - yi
                h = mpf(10) ** -20
                f = [loss_at(name, yi, mpf(ri) + k * h, params) for k in (-1, 0, 1)]
                value, slope, bend = (v for v, _ in exact(name, yi, ri, np.float64, **params))
                assert abs(f[1] - value) < mpf(10) ** -30 * (1 + abs(value))
                assert abs((f[2] - f[0]) / (2 * h) - slope) < mpf(10) ** -15 * (1 + abs(slope)), (params, yi, ri)
                assert abs((f[2] - 2 * f[1] + f[0]) / h**2 - bend) < mpf(10) ** -10 * (1 + abs(bend)), (params, yi, ri)


def loss_at(name, y, x, params):
    """The oracle's loss at a number that need not be a float."""
    from jet import Jet

    spec = ORACLES[name]
    known = {k: v if v is None or isinstance(v, bool) else mpf(float(v)) for k, v in (spec.defaults | params).items()}
    match spec.takes:
        case "difference":
            result = spec.function(Jet(x, 1), **known)
        case "relative":
            result = spec.function(Jet(x, 1), mpf(y), **known)
        case "margin":
            result = spec.function((1 if y > 0 else -1) * Jet(x, 1), **known)
        case _:
            result = spec.function(mpf(y), Jet(x, 1), **known)
    return orders(result)[0][0]


sigmoid = special.expit
SCIPY = {
    "huber": lambda y, z: special.huber(1.0, z - y),
    "pseudo_huber": lambda y, z: special.pseudo_huber(1.0, z - y),
    "log_loss": lambda y, z: -special.xlogy(y, sigmoid(z)) - special.xlogy(1 - y, sigmoid(-z)),
    "focal": lambda y, z: (
        -((1 - np.where(y, sigmoid(z), sigmoid(-z))) ** 2) * np.where(y, special.log_expit(z), special.log_expit(-z))
    ),
    "poly1": lambda y, z: -special.log_expit((2 * y - 1) * z) + 1 - sigmoid((2 * y - 1) * z),
    "log_cosh": lambda y, z: np.log(np.cosh(z - y)),
    "poisson": lambda y, z: special.kl_div(y, np.exp(z)) - special.xlogy(y, y) + y,
    "exponential": lambda y, z: np.exp(-(2 * y - 1) * z),
}


@pytest.mark.parametrize("name", SCIPY)
def test_against_scipy(name):
    y, raw = everyday(name, n=50, seed=3)
    ours = [float(exact(name, a, b, np.float64)[0][0]) for a, b in zip(y, raw, strict=True)]
    np.testing.assert_allclose(ours, SCIPY[name](y, raw), rtol=1e-11, atol=1e-13)


SKLEARN = {
    "squared_error": ("HalfSquaredError", {}, 1),
    "absolute_error": ("AbsoluteError", {}, 1),
    "quantile": ("PinballLoss", {"quantile": 0.5}, 1),
    "poisson": ("HalfPoissonLoss", {}, 1),
    "gamma": ("HalfGammaLoss", {}, 1),
    "log_loss": ("HalfBinomialLoss", {}, 1),
}


@pytest.mark.parametrize("name", SKLEARN)
def test_against_scikit_learn(name):
    module = pytest.importorskip("sklearn._loss.loss", reason="scikit-learn moved its private losses")
    cls, params, factor = SKLEARN[name]
    theirs = getattr(module, cls)(**params)
    y, raw = everyday(name, n=50, seed=4)
    value, gradient = theirs.loss_gradient(y, raw)
    ours = np.array([[float(v) for v, _ in exact(name, a, b, np.float64)] for a, b in zip(y, raw, strict=True)])
    np.testing.assert_allclose(ours[:, 0], factor * value, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(ours[:, 1], factor * gradient, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 2.5, 3.0])
def test_tweedie_with_constants_is_half_the_deviance(power):
    from sklearn.metrics import mean_tweedie_deviance

    for y, raw in [(0.7, 0.3), (3.0, -1.0), (17.0, 2.5)]:
        value = float(exact("tweedie", y, raw, np.float64, power=power, constants=True)[0][0])
        assert value == pytest.approx(mean_tweedie_deviance([y], [np.exp(raw)], power=power) / 2, rel=1e-12)


@pytest.mark.parametrize("name", ["poisson", "gamma", "negative_binomial", "tweedie"])
def test_constants_make_a_perfect_prediction_cost_nothing(name):
    for y in (0.5, 3.0, 17.0):
        value, slope, _ = (float(v) for v, _ in exact(name, y, np.log(y), np.float64, constants=True))
        assert abs(value) < 1e-14
        assert abs(slope) < 1e-14


def test_ulp():
    assert ulp(mpf(1), np.float64) == 2.0**-52
    assert ulp(mpf(1) - mpf(2) ** -53, np.float64) == 2.0**-53
    assert ulp(mpf(1), np.float32) == 2.0**-23
    assert ulp(mpf(0), np.float64) == ulp(mpf("1e-320"), np.float64) == 5e-324
    assert ulp(mpf(2) ** 1023, np.float64) == 2.0**971
    assert ulp(mpf(2) ** 1024, np.float64) == np.inf
