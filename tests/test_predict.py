"""`predict` is what the loss estimates: at the raw prediction that is best on average it gives the truth back."""

import itertools

import numpy as np
import pytest
from oracle import ORACLES
from scipy import optimize, special

import fastloss
from fastloss.losses import get_class

ETAS = [0.02, 0.3, 0.5, 0.71, 0.95]

PROBABILISTIC = [
    ("log_loss", {}),
    ("log_loss", {"pos_weight": 3.0}),
    ("log_loss", {"pos_weight": 0.2, "neg_weight": 5.0}),
    ("log_loss", {"label_smoothing": 0.1}),
    ("log_loss", {"label_smoothing": 0.4, "pos_weight": 3.0, "neg_weight": 0.5}),
    ("focal", {}),
    ("focal", {"gamma": 0.0}),
    ("focal", {"gamma": 0.5}),
    ("focal", {"gamma": 3.7}),
    ("focal", {"alpha": 0.25}),
    ("focal", {"gamma": 1.0, "alpha": 0.9}),
    ("exponential", {}),
    ("poly1", {}),
    ("poly1", {"epsilon": -0.5}),
    ("poly1", {"epsilon": 10.0}),
    ("squared_hinge", {}),
    ("modified_huber", {}),
]


def population_minimiser(loss, values, chances):
    """The raw prediction of least expected loss, found without looking at `predict`."""
    values, chances = np.asarray(values, float), np.asarray(chances, float)

    def slope(raw):
        return chances @ loss.gradient(values, np.full(values.size, raw), reduction="none")

    low, high = -40.0, 40.0
    assert slope(low) < 0 < slope(high)
    return optimize.brentq(slope, low, high, xtol=1e-13)


@pytest.mark.parametrize(("name", "params"), PROBABILISTIC, ids=str)
@pytest.mark.parametrize("eta", ETAS)
def test_probability_of_the_minimiser(name, params, eta):
    loss = fastloss.get_loss(name, **params)
    raw = population_minimiser(loss, [0.0, 1.0], [1 - eta, eta])
    assert loss.predict(np.array([raw]))[0] == pytest.approx(eta, abs=2e-9)


@pytest.mark.parametrize(("name", "params"), PROBABILISTIC, ids=str)
def test_probabilities_are_probabilities(name, params, dtype):
    raw = np.array([-np.inf, -1e308 if dtype == np.float64 else -1e38, -800, -3, -1, 0, 0.5, 1, 2, 800, np.inf], dtype)
    probability = fastloss.get_loss(name, **params).predict(raw)
    assert probability.dtype == dtype
    assert probability.shape == raw.shape
    assert np.all((probability >= 0) & (probability <= 1))
    assert np.all(np.diff(probability) >= 0)
    assert probability[0] == 0
    assert probability[-1] == 1


@pytest.mark.parametrize("name", ["hinge", "perceptron", "smooth_hinge"])
def test_margin_losses_without_a_probability_tell_the_side(name):
    if get_class(name).link != "sign":
        return  # the loss offers more, then test_probability_of_the_minimiser has to list it
    loss = fastloss.get_loss(name)
    assert loss.predict(np.array([-3.0, -1e-9, 1e-9, 2.0])).tolist() == [0, 0, 1, 1]


def test_every_binary_loss_is_here():
    covered = {name for name, _ in PROBABILISTIC} | {"hinge", "perceptron", "smooth_hinge"}
    assert covered == set(fastloss.list_losses(kind="binary"))


VALUES, CHANCES = np.array([0.5, 1.0, 4.0, 9.0]), np.array([0.3, 0.25, 0.35, 0.1])
MEAN = float(VALUES @ CHANCES)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("squared_error", {}),
        ("poisson", {}),
        ("gamma", {}),
        *(("tweedie", {"power": p}) for p in (1.0, 1.1, 1.5, 1.9, 2.0, 2.5, 3.0, 0.0, -0.5)),
        ("negative_binomial", {}),
        ("negative_binomial", {"theta": 0.1}),
        ("poisson", {"constants": True}),
        ("expectile", {}),
    ],
    ids=str,
)
def test_mean(name, params):
    loss = fastloss.get_loss(name, **params)
    raw = population_minimiser(loss, VALUES, CHANCES)
    assert loss.predict(np.array([raw]))[0] == pytest.approx(MEAN, rel=1e-9)


def test_msle_estimates_the_geometric_mean_of_one_plus_y():
    loss = fastloss.get_loss("msle")
    wanted = np.expm1(CHANCES @ np.log1p(VALUES))
    slope = lambda raw: CHANCES @ loss.gradient(VALUES, np.full(4, raw), reduction="none")  # noqa: E731
    raw = optimize.brentq(slope, -0.5, 40, xtol=1e-13)
    assert raw == pytest.approx(wanted, rel=1e-9)
    assert loss.predict(np.array([raw]))[0] == raw


@pytest.mark.parametrize("level", [0.1, 0.5, 0.8])
def test_quantile(level):
    """The expected pinball loss falls up to the quantile and rises after it."""
    loss = fastloss.get_loss("quantile", quantile=level)
    quantile = VALUES[np.searchsorted(np.cumsum(CHANCES), level)]
    grid = np.linspace(0, 10, 401)
    risk = [CHANCES @ loss.loss(VALUES, np.full(4, g), reduction="none") for g in grid]
    assert grid[int(np.argmin(risk))] == pytest.approx(quantile)
    assert loss.predict(np.array([2.5])).tolist() == [2.5]


@pytest.mark.parametrize("level", [0.1, 0.8])
def test_expectile(level):
    loss = fastloss.get_loss("expectile", expectile=level)
    raw = population_minimiser(loss, VALUES, CHANCES)
    up, down = CHANCES @ np.maximum(VALUES - raw, 0), CHANCES @ np.maximum(raw - VALUES, 0)
    assert level * up == pytest.approx((1 - level) * down, rel=1e-10)


@pytest.mark.parametrize(
    "name", [n for n in fastloss.list_losses(kind="regression") if ORACLES[n].takes in ("difference", "relative")]
)
def test_location_losses_predict_the_raw_value(name, dtype):
    raw = np.array([[-3.5, 0.0], [1e-30, np.inf]], dtype)
    out = fastloss.get_loss(name).predict(raw)
    assert out.dtype == dtype
    assert out is not raw
    assert not np.shares_memory(out, raw)
    np.testing.assert_array_equal(out, raw)


def test_best_constant_of_symmetric_losses():
    """On symmetric data every symmetric location loss is minimised at the centre."""
    values = 2.0 + np.array([-3.0, -1.0, -0.2, 0.2, 1.0, 3.0])
    for name in ("squared_error", "huber", "pseudo_huber", "log_cosh", "fair", "smooth_quantile", "expectile"):
        raw = population_minimiser(fastloss.get_loss(name), values, np.full(6, 1 / 6))
        assert raw == pytest.approx(2.0, abs=1e-9), name


def test_links(dtype):
    raw = np.array([-800, -3, 0, 0.5, 800], dtype)
    for name, params in itertools.chain(PROBABILISTIC, [("huber", {}), ("poisson", {})]):
        loss = fastloss.get_loss(name, **params)
        np.testing.assert_allclose(
            loss.predict(raw, link="sigmoid"), special.expit(raw.astype(float)), rtol=1e-6, atol=1e-37
        )
        np.testing.assert_array_equal(loss.predict(raw, link="identity"), raw)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(fastloss.get_loss("huber").predict(raw, link="exp"), np.exp(raw), rtol=1e-6)


def test_prediction_inputs():
    """Lists, integers and strided views are read; float32 stays float32; the input is not changed."""
    loss = fastloss.get_loss("log_loss")
    wanted = special.expit([-1.0, 0.0, 2.0])
    for raw in ([-1, 0, 2], np.array([-1, 0, 2]), np.array([-1.0, 9, 0, 9, 2])[::2], np.array([2.0, 0, -1])[::-1]):
        np.testing.assert_allclose(loss.predict(raw), wanted, rtol=1e-15)
        assert loss.predict(raw).dtype == np.float64
    assert loss.predict(np.zeros(3, np.float32)).dtype == np.float32
    assert loss.predict(np.zeros((0, 2))).shape == (0, 2)
    assert np.isnan(loss.predict(np.array([np.nan]))[0])
