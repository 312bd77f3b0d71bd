"""check_loss finds nothing wrong with the library's losses, and finds and places what is wrong with broken ones."""

import math
import pickle

import numpy as np
import oracle
import oracle_multiclass
import pytest

import fastloss
from fastloss import CustomLoss, check_loss
from fastloss.check import LossReport
from fastloss.losses import CrossEntropy, LogCosh, LogLoss

POINTWISE = [(name, p) for name, spec in oracle.ORACLES.items() for p in spec.parameter_sets]
SCORES = [(name, p) for name, spec in oracle_multiclass.ORACLES.items() for p in spec.parameter_sets]
MORE = [
    ("cross_entropy", {"class_weight": (1.0, 0.5, 3.0)}),
    ("cross_entropy", {"ignore_index": 1, "label_smoothing": 0.1}),
    ("cross_entropy", {"allow_negative_weight": True}),
    ("sparsemax", {"class_weight": (0.0, 2.0, 1.0, 1.0)}),
]


def label(case):
    name, params = case
    return "-".join([name, *(f"{k}={v}" for k, v in params.items())])


# the library's own ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [*POINTWISE, *SCORES, *MORE], ids=label)
def test_nothing_is_wrong_with_the_librarys(case):
    name, params = case
    loss = fastloss.get_loss(name, **params)
    report = check_loss(loss)
    assert report.ok, str(report)
    assert all(wrong == 0 for _, _, wrong in report.checks)
    assert report.convex == loss.convex


def test_every_loss_is_in_the_list():
    assert set(fastloss.list_losses()) <= {name for name, _ in [*POINTWISE, *SCORES]}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["huber", "tweedie", "focal", "msle", "multiclass_squared_hinge", "cross_entropy"])
def test_other_random_points(name, seed):
    report = check_loss(name, random_state=np.random.default_rng(seed))
    assert report.ok, str(report)


# what is found --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params", "lipschitz", "curvature", "smooth"),
    [
        ("huber", {"delta": 2.5}, 2.5, 1.0, True),
        ("log_loss", {"pos_weight": 3.0}, 3.0, 0.75, True),
        ("quantile", {"quantile": 0.9}, 0.9, math.inf, False),
        ("squared_error", {}, math.inf, 1.0, True),
        ("hinge", {}, 1.0, math.inf, False),
        ("smooth_hinge", {"gamma": 0.5}, 1.0, 2.0, True),
        ("poisson", {}, math.inf, math.inf, True),
        ("sparsemax", {}, math.sqrt(2), 1.0, True),
        ("multiclass_hinge", {}, math.sqrt(2), math.inf, False),
        ("welsch", {"scale": 3.0}, 3 * math.exp(-0.5) / math.sqrt(2), 1.0, True),
        ("tukey", {}, 4.685 * 16 / (25 * math.sqrt(5)), 1.0, True),
    ],
)
def test_constants(name, params, lipschitz, curvature, smooth):
    report = check_loss(fastloss.get_loss(name, **params))
    assert report.smooth == smooth
    assert report.lipschitz == pytest.approx(lipschitz, rel=0.05)
    assert report.lipschitz <= lipschitz * (1 + 1e-12)
    if name != "poisson":  # its curvature grows faster than any power: a finite number far out
        assert report.curvature == pytest.approx(curvature, rel=0.05)
    else:
        assert report.curvature > 1e100


@pytest.mark.parametrize(
    ("name", "kink", "left", "right"),
    [
        ("absolute_error", 0.0, -1.0, 1.0),
        ("epsilon_insensitive", 0.1, 0.0, 1.0),
        ("epsilon_insensitive", -0.1, -1.0, 0.0),
    ],
)
def test_kinks_are_found_where_they_are(name, kink, left, right):
    report = check_loss(name, y=[0.0])
    (found,) = [k for k in report.kinks if k.raw == pytest.approx(kink, abs=1e-12)]
    assert found.y == 0.0
    assert (found.left, found.right) == (left, right)


def test_kinks_between_the_points_are_found():
    (kink,) = (
        check_loss("epsilon_insensitive", y=[0.0], raw=[1.0, 2.5, 4.0]).kinks
        + check_loss(fastloss.losses.EpsilonInsensitive(epsilon=2.2), y=[0.0], raw=[1.0, 2.5, 4.0]).kinks
    )
    assert kink.raw == pytest.approx(2.2)


def test_least_value():
    assert check_loss("log_loss", y=[0.5]).lower_bound == pytest.approx(math.log(2))
    assert check_loss("huber").lower_bound == 0


# broken ones ----------------------------------------------------------------------------------------------------


class Own(LogCosh):
    """A loss of real targets from a NumPy formula; dispatch of weights and reductions is written out."""

    always_convex = False

    @staticmethod
    def formula(y, raw):
        r = raw - y
        return 0.5 * r * r, r, np.ones_like(r)

    def curvature(self):
        return math.inf

    def _all(self, y, raw, weight, reduction):
        raw = np.asarray(raw)
        y = np.asarray(y, raw.dtype)
        parts = self.formula(y, raw)
        weight = np.ones(len(raw), raw.dtype) if weight is None else np.asarray(weight, raw.dtype)
        parts = [np.where(weight == 0, 0, p) * weight for p in parts]
        total = weight.sum() if reduction == "mean" else 1
        return [parts[0] if reduction == "none" else float(parts[0].sum() / total), *(p / total for p in parts[1:])]

    def loss(self, y, raw, w=None, *, reduction="mean", **_):
        return self._all(y, raw, w, reduction)[0]

    def gradient(self, y, raw, w=None, *, reduction="mean", **_):
        return self._all(y, raw, w, reduction)[1]

    def loss_gradient(self, y, raw, w=None, *, reduction="mean", **_):
        return tuple(self._all(y, raw, w, reduction)[:2])

    def gradient_hessian(self, y, raw, w=None, *, reduction="mean", hessian="exact", **_):
        if hessian != "exact":
            raise ValueError("has 'exact'")
        return tuple(self._all(y, raw, w, reduction)[1:])


def own(formula, base=Own, **facts):
    """A loss of this formula, which may declare more."""
    return type("Own", (base,), {"formula": staticmethod(formula), **facts})()


def problems(loss, **arguments):
    report = check_loss(loss, **arguments)
    assert not report.ok
    assert "problem" in str(report)
    return "\n".join(report.problems)


def failed(report):
    """Names of the checks that found something."""
    return {name for name, _, wrong in report.checks if wrong}


def test_nothing_is_wrong_with_the_unbroken_one():
    report = check_loss(Own())
    assert report.ok, str(report)
    assert report.convex
    assert report.curvature == pytest.approx(1)


def test_wrong_sign():
    text = problems(own(lambda y, raw: (0.5 * (raw - y) ** 2, y - raw, np.ones_like(raw))))
    assert "gradient at y = " in text
    assert "-1 times what it should be at all of them" in text


def test_missing_factor():
    text = problems(own(lambda y, raw: ((raw - y) ** 2, raw - y, np.ones_like(raw))))
    assert "gradient at y = " in text
    assert "0.5 times what it should be at all of them" in text


@pytest.mark.parametrize("edge", [2.0, 50.0, 3e3])
def test_mismatch_in_one_region(edge):
    """Huber whose slope beyond delta is a tenth too large: found, and the region is the right one."""

    def formula(y, raw):
        r = raw - y
        a = np.abs(r)
        value = np.where(a <= edge, 0.5 * r * r, edge * (a - 0.5 * edge))
        return value, np.where(a <= edge, r, 1.1 * edge * np.sign(r)), (a <= edge).astype(raw.dtype)

    text = problems(own(formula), y=[0.0])
    assert "slope of the loss" in text
    assert "1.1 times" in text or "raw from" in text
    (line,) = [t for t in text.splitlines() if t.startswith("gradient at")]
    assert abs(float(line.partition("raw = ")[2].split(" ")[0])) > edge


def test_mismatch_near_the_target_only():
    def formula(y, raw):
        r = raw - y
        return 0.5 * r * r, np.where(np.abs(r) < 1e-2, 0, r), np.ones_like(r)

    line = problems(own(formula), y=[0.0]).splitlines()[0]
    assert line.startswith("gradient at")
    assert 0 < abs(float(line.partition("raw = ")[2].split(" ")[0])) < 1e-2


@pytest.mark.parametrize("factor", [2.0, -1.0, 0.0])
def test_wrong_hessian(factor):
    text = problems(own(lambda y, raw: (0.5 * (raw - y) ** 2, raw - y, np.full_like(raw, factor))))
    assert "hessian at y = " in text
    assert "expected 1 (derivative of the gradient)" in text
    assert "gradient at" not in text.replace("hessian at", "")


@pytest.mark.parametrize("policy", ["fisher", "upper_bound"])
def test_hessian_for_optimisers_that_is_negative(policy):
    class Negative(Own):
        def gradient_hessian(self, *arrays, hessian="exact", **keywords):
            gradient, found = super().gradient_hessian(*arrays, **keywords)
            return gradient, -found if hessian == policy else found

    report = check_loss(Negative())
    assert failed(report) == {"hessians for optimisers are not negative"}
    assert f'hessian="{policy}" at y = ' in report.problems[0]
    assert "is -1, expected 0 (0 or more)" in report.problems[0]


def test_gradient_without_the_value():
    """Slopes that belong to no value are told from wrong hessians."""
    report = check_loss(own(lambda y, raw: (0.5 * (raw - y) ** 2, 2 * (raw - y), 2 + 0 * raw)))
    assert failed(report) == {"the gradient is the loss's slope"}


def test_no_hessian_is_no_problem():
    class Without(Own):
        def gradient_hessian(self, *arguments, **keywords):
            raise ValueError("pass hessian=True")

    report = check_loss(Without())
    assert report.ok, str(report)
    assert dict((name, points) for name, points, _ in report.checks)["the hessian is the gradient's slope"] == 0


def test_nan_far_out():
    """log(1 + exp) as it should not be written: overflows to inf, its slope to inf/inf."""

    def formula(y, raw):
        e = np.exp(raw)
        return np.log1p(e) - y * raw, e / (1 + e) - y, e / (1 + e) ** 2

    text = problems(own(formula), y=[0.0, 1.0])
    assert "gradient at y = " in text
    assert "is nan" in text
    assert "a term of the formula overflows" in text
    assert "raw = 709.78" in text


def test_infinite_at_ordinary_numbers():
    text = problems(
        own(lambda y, raw: (1 / np.abs(raw - y), -np.sign(raw - y) / (raw - y) ** 2, 2 / np.abs(raw - y) ** 3))
    )
    assert "loss at y = 0, raw = 0 is inf" in text


def test_wrong_at_infinity():
    def formula(y, raw):
        r = raw - y
        return r * r / (1 + r * r), 2 * r / (1 + r * r) ** 2, (2 - 6 * r * r) / (1 + r * r) ** 3

    text = problems(own(formula))
    assert "raw = -inf is nan, but 1 at raw = -1e+06: expected the limit" in text


def test_wrong_in_float32():
    def formula(y, raw):
        scale = raw.dtype.type(1.01 if raw.dtype == np.float32 else 1)
        return scale * 0.5 * (raw - y) ** 2, raw - y, np.ones_like(raw)

    text = problems(own(formula))
    assert "float32 loss at y = " in text
    assert "gradient" not in text


def test_float32_that_comes_back_as_float64():
    text = problems(own(lambda y, raw: (0.5 * (raw - y) ** 2, (raw - y).astype(np.float64), np.ones_like(raw))))
    assert "dtype float64, expected float32" in text


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_convexity_that_is_only_claimed(scale):
    def formula(y, raw):
        t = (raw - y) / scale
        slope = np.where(np.abs(t) > 1e50, 1 / t, t / (1 + t * t))
        return 0.5 * scale**2 * np.log1p(t * t), scale * slope, (1 - t * t) / (1 + t * t) ** 2

    assert check_loss(own(formula)).ok
    assert not check_loss(own(formula)).convex
    report = check_loss(own(formula, always_convex=True))
    checks = {"convex, if declared", "above its tangents, if declared convex", "the hessian is the gradient's slope"}
    assert failed(report) == checks  # the hessian is what it should be, but negative
    assert all("declared convex" in text and "y = " in text for text in report.problems)


def test_concave_kink_of_a_loss_declared_convex():
    def formula(y, raw):
        r = raw - y
        return np.minimum(np.abs(r), 1), np.where(np.abs(r) > 1, 0, np.sign(r)), np.zeros_like(r)

    text = problems(own(formula, always_convex=True))
    assert "declared convex" in text
    assert check_loss(own(formula)).ok


def test_piecewise_linear_that_is_only_claimed():
    text = problems(own(Own.formula, piecewise_linear=True))
    assert "declared piecewise linear" in text
    assert "second derivative is 1" in text


def test_curvature_that_is_exceeded():
    assert "curvature() is 0.5, but at y = " in problems(own(Own.formula, curvature=lambda self: 0.5))
    assert check_loss(own(Own.formula, curvature=lambda self: 1.0)).ok


@pytest.mark.parametrize(
    "formula",
    [
        lambda y, raw: (-0.5 * (raw - y) ** 2, y - raw, -np.ones_like(raw)),
        lambda y, raw: (raw - y, np.ones_like(raw), np.zeros_like(raw)),
        lambda y, raw: (-np.log1p((raw - y) ** 2), -2 * (raw - y) / (1 + (raw - y) ** 2), np.zeros_like(raw)),
    ],
    ids=["square", "line", "logarithm"],
)
def test_not_bounded_below(formula):
    report = check_loss(own(formula))
    assert any("not bounded below: the loss is" in text for text in report.problems)
    assert report.lower_bound == -math.inf


def test_a_subgradient_outside_the_kink():
    """|r| with the slope 2 at the kink alone."""

    def formula(y, raw):
        r = raw - y
        return np.abs(r), np.where(r == 0, 2.0, np.sign(r)), np.zeros_like(r)

    line = problems(own(formula)).splitlines()[0]
    assert line.startswith("gradient at y = ")
    assert "is 2, expected 1" in line


@pytest.mark.parametrize("at", [0.0, 0.7])
def test_a_jump(at):
    """The slope is right on both sides, the values do not meet."""

    def formula(y, raw):
        r = raw - y
        return 0.5 * r * r + (r > at), r, np.ones_like(r)

    text = problems(own(formula), y=[0.0], raw=np.linspace(-2.05, 2.05, 41))
    assert "the loss jumps from" in text
    assert f"y = 0, raw = {at:.6g}" in text or "raw = 5e-324" in text or "raw = 4.94066e-324" in text


def test_samples_that_depend_on_each_other():
    def formula(y, raw):
        r = raw - y
        return 0.5 * r * r + 1e-6 * np.abs(r).max(), r, np.ones_like(r)

    assert "alone it is that" in problems(own(formula))


def test_only_long_arrays_are_wrong():
    def formula(y, raw):
        r = raw - y
        value = 0.5 * r * r
        value[4096:] *= 2
        return value, r, np.ones_like(r)

    assert "as at the end of a long array" in problems(own(formula))


def test_order_that_matters():
    def formula(y, raw):
        r = raw - y
        return 0.5 * r * r + 1e-3 * (np.arange(len(r)) > 60), r, np.ones_like(r)

    assert "as in the reverse order" in problems(own(formula))


def test_nan_that_spreads():
    def formula(y, raw):
        r = raw - y
        return 0.5 * r * r + 0 * np.sum(raw[:3]), r, np.ones_like(r)

    assert "is nan because another sample is" in problems(own(formula), raw=np.linspace(-2, 2, 20))


def test_nan_that_is_hidden():
    def formula(y, raw):
        r = np.nan_to_num(raw - y)
        return 0.5 * r * r, r, np.ones_like(r)

    text = problems(own(formula))
    assert "raw = nan is 0, expected nan" in text


class Disagrees(Own):
    def gradient(self, *arguments, **keywords):
        return 2 * super().gradient(*arguments, **keywords)


def test_methods_that_disagree():
    text = problems(Disagrees())
    assert "gradient() at y = " in text
    assert "as loss_gradient() says" in text


class Unweighted(Own):
    def _all(self, y, raw, weight, reduction):
        return super()._all(y, raw, None, reduction)


class SquaresWeights(Own):
    def _all(self, y, raw, weight, reduction):
        return super()._all(y, raw, None if weight is None else np.square(weight), reduction)


class SumForMean(Own):
    def _all(self, y, raw, weight, reduction):
        return super()._all(y, raw, weight, "sum" if reduction == "mean" else reduction)


@pytest.mark.parametrize("cls", [Unweighted, SquaresWeights])
def test_weights(cls):
    assert "with weights 1, 2, 0" in problems(cls())


def test_reductions():
    assert 'reduction="mean" with weights is' in problems(SumForMean())


def test_a_loss_that_raises():
    def formula(y, raw):
        if np.abs(raw).max() > 1e5:
            raise ZeroDivisionError("too far out")
        return Own.formula(y, raw)

    assert "ZeroDivisionError: too far out" in problems(own(formula))
    assert check_loss(own(formula), raw=np.linspace(-3, 3, 50)).ok


def test_nowhere_finite():
    assert "at no point is the loss finite" in problems(own(lambda y, raw: (raw * np.nan,) * 3))


# several scores, two classes ------------------------------------------------------------------------------------


class WrongClass(CrossEntropy):
    """The gradient of one class is a fifth too large, for one label."""

    def loss_gradient(self, y, raw, *arguments, **keywords):
        value, gradient = super().loss_gradient(y, raw, *arguments, **keywords)
        gradient[:, -1] *= np.where(np.asarray(y) == 0, 1.2, 1)
        return value, gradient


def test_wrong_gradient_of_one_class():
    line = problems(WrongClass(), y=[0, 1, 2], raw=np.random.default_rng(0).normal(size=(5, 3))).splitlines()[0]
    assert line.startswith("gradient at y = 0, raw = [")


class WrongSign(LogLoss):
    def loss_gradient(self, y, raw, *arguments, **keywords):
        value, gradient = super().loss_gradient(y, raw, *arguments, **keywords)
        return value, np.where(np.asarray(y) == 1, -gradient, gradient)


def test_wrong_sign_for_one_label():
    line = problems(WrongSign()).splitlines()[0]
    assert line.startswith("gradient at y = 1")


# a value of the batch -------------------------------------------------------------------------------------------


class Auc(LogCosh):
    """Squared hinge over pairs of a positive and a negative sample, O(n²)."""

    kind = "batch"
    factor = 1.0

    def _pairs(self, y, raw):
        positive, negative = np.flatnonzero(y > 0), np.flatnonzero(y <= 0)
        return positive, negative, np.maximum(0, 1 - (raw[positive][:, None] - raw[negative]))

    def loss(self, y, raw, w=None, **_):
        return float(np.mean(self._pairs(y, raw)[2].astype(np.float64) ** 2))

    def loss_gradient(self, y, raw, w=None, **_):
        positive, negative, gap = self._pairs(y, raw)
        gradient = np.zeros_like(raw)
        gradient[positive] = -2 * gap.sum(axis=1) / gap.size
        gradient[negative] = self.factor * 2 * gap.sum(axis=0) / gap.size
        return self.loss(y, raw), gradient

    def gradient(self, y, raw, w=None, **_):
        return self.loss_gradient(y, raw)[1]

    def gradient_hessian(self, *arguments, **_):
        raise ValueError("has none")


def test_a_batch_loss():
    report = check_loss(Auc())
    assert report.ok, str(report)
    assert report.convex
    assert report.smooth


def test_a_broken_batch_loss():
    line = problems(type("Half", (Auc,), {"factor": 0.5})()).splitlines()[0]
    assert line.startswith("gradient at y = [")


# the report, the arguments --------------------------------------------------------------------------------------


def test_report_prints():
    report = check_loss("quantile")
    lines = str(report).splitlines()
    assert lines[0] == "Quantile(): ok"
    assert any("convex, with kinks, Lipschitz constant 0.5, curvature inf, least loss 0" in line for line in lines)
    assert any(line.startswith("  kink at y = ") for line in lines)
    assert isinstance(report, LossReport)
    assert pickle.loads(pickle.dumps(report)) == report
    with pytest.raises(AttributeError):
        report.convex = False


def test_same_report_every_time():
    assert check_loss("focal") == check_loss("focal", random_state=0)
    assert check_loss("cross_entropy") == check_loss(CrossEntropy())


def test_raises_if_asked():
    broken = own(lambda y, raw: ((raw - y) ** 2, raw - y, np.ones_like(raw)))
    with pytest.raises(ValueError, match=r"(?s)problem.*gradient at y = .*0\.5 times"):
        check_loss(broken, raise_on_error=True)
    assert check_loss("huber", raise_on_error=True).ok


def test_own_targets():
    """A loss that takes targets from 40 on only."""

    class Picky(Own):
        def _all(self, y, raw, weight, reduction):
            if np.any(np.asarray(y) < 140):
                raise ValueError("targets must be 140 or more")
            return super()._all(y, raw, weight, reduction)

    with pytest.raises(ValueError, match=r"no target of 0, 1, .* is taken; give y=.*140 or more"):
        check_loss(Picky())
    assert check_loss(Picky(), y=[150.0, 200.0]).ok


def test_own_raw_predictions_far_out():
    report = check_loss("huber", y=[1000.0], raw=np.linspace(900, 1100, 30))
    assert report.ok, str(report)
    assert report.lipschitz == 1


def test_own_batch():
    y = np.array([0, 1, 1, 0, 1])
    report = check_loss(Auc(), y=y, raw=np.linspace(-1, 1, 5))
    assert report.ok, str(report)
    assert check_loss(Auc(), y=y).ok


def test_own_rows():
    rng = np.random.default_rng(0)
    report = check_loss("cross_entropy", y=[0, 3], raw=rng.normal(size=(4, 4)))
    assert report.ok, str(report)
    report = check_loss("huber", y=rng.normal(size=(4, 3)), raw=rng.normal(size=(4, 3)))
    assert report.ok, str(report)
    assert check_loss("cross_entropy", y=rng.dirichlet(np.ones(3), 5)).ok


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"loss": 3}, TypeError, "loss must be a name or a Loss, got 3"),
        ({"loss": "hubert"}, ValueError, "unknown loss 'hubert'"),
        ({"loss": "huber", "raise_on_error": "yes"}, TypeError, "raise_on_error must be True or False, got 'yes'"),
        ({"loss": "huber", "y": ["a"]}, TypeError, "y must hold real numbers"),
        ({"loss": "huber", "y": []}, ValueError, r"y must hold at least one .*, got shape \(0,\)"),
        ({"loss": "huber", "raw": 1.0}, ValueError, r"raw must have one or two dimensions, got shape \(\)"),
        ({"loss": "huber", "raw": [1.0, np.nan]}, ValueError, r"raw\[1\] = nan: finite numbers are needed"),
        ({"loss": "huber", "y": np.zeros((2, 3)), "raw": np.zeros((2, 2))}, ValueError, "y has rows of 3, raw of 2"),
    ],
)
def test_wrong_arguments(arguments, error, match):
    with pytest.raises(error, match=match):
        check_loss(**arguments)


# functions of one's own -----------------------------------------------------------------------------------------------
def welsch(y, raw):
    r = raw - y
    e = np.exp(-0.5 * r * r)
    return 1 - e, r * e


def cross_entropy(y, raw):
    shifted = raw - raw.max(axis=1, keepdims=True)
    e = np.exp(shifted)
    total = e.sum(axis=1, keepdims=True)
    each = np.arange(len(y))
    gradient = e / total
    gradient[each, y] -= 1
    return np.log(total[:, 0]) - shifted[each, y], gradient


def log_loss_of_zero_one(y, raw):
    if not np.all((y >= 0) & (y <= 1)):
        raise ValueError("y in [0, 1] only")
    return np.logaddexp(0, raw) - y * raw, 1 / (1 + np.exp(-raw)) - y


def log_loss_of_signs(y, raw):
    if not np.all(np.abs(y) == 1):
        raise ValueError("y = -1 and 1 only")
    return np.logaddexp(0, -y * raw), -y / (1 + np.exp(y * raw))


def combined(loss, way):
    """The loss, a sum with it, a column of it."""
    quadratic = fastloss.get_loss("squared_error")
    return {"alone": loss, "sum": 0.5 * loss + quadratic, "task": fastloss.MultiTaskLoss([(1, loss, [0])])}[way]


@pytest.mark.parametrize("way", ["alone", "sum", "task"])
def test_convexity_that_nobody_declared_is_found(way):
    bumps = CustomLoss(lambda y, raw: (10 * welsch(y, raw)[0], 10 * welsch(y, raw)[1]), name="bumps")
    report = check_loss(combined(bumps, way))
    assert report.ok, str(report)
    assert not report.convex
    assert bumps.convex  # for solvers
    assert check_loss(combined(CustomLoss(bumps.function, convex=False), way)).ok
    declared = check_loss(combined(CustomLoss(bumps.function, convex=True), way))
    assert not declared.ok
    assert all("declared convex" in text for text in declared.problems)


@pytest.mark.parametrize("declared", [None, True, False])
def test_declared_convexity_is_looked_at(declared):
    report = check_loss(CustomLoss(log_loss_of_signs, "binary", convex=declared))
    points = {name: count for name, count, _ in report.checks}
    assert report.convex
    assert (
        (points["convex, if declared"] > 0) == (points["above its tangents, if declared convex"] > 0) == bool(declared)
    )


@pytest.mark.parametrize("way", ["alone", "sum", "task"])
def test_nan_at_infinity_alone_is_a_note(way):
    """Of a user's formula; built-in losses have limits there."""
    report = check_loss(combined(CustomLoss(welsch), way))
    assert report.ok, str(report)
    assert any("is nan" in text and "inf" in text for text in report.notes)
    assert f"note: {report.notes[0]}" in str(report)
    assert check_loss("log_loss").notes == ()


@pytest.mark.parametrize(
    "loss",
    [
        CustomLoss(log_loss_of_zero_one, "binary"),
        CustomLoss(log_loss_of_zero_one, "binary", soft_targets=True),
        CustomLoss(log_loss_of_signs, "binary"),
        CustomLoss(cross_entropy, "multiclass", name="softmax"),
        CustomLoss(welsch),
    ],
    ids=lambda loss: f"{loss.name} {loss.soft_targets}",
)
def test_textbook_formulas_are_ok(loss):
    report = check_loss(loss)
    assert report.ok, str(report)
    assert loss.name == "log_loss_of_signs" or report.notes


def branches(y, raw):
    """The Huber loss as it is mostly written: its slope at NaN is that of the last branch."""
    r = raw - y
    far = np.where(r > 0, 1.0, -1.0)
    return np.where(np.abs(r) <= 1, r * r / 2, np.abs(r) - 0.5), np.where(np.abs(r) <= 1, r, far)


@pytest.mark.parametrize("way", ["alone", "sum", "task"])
def test_a_number_at_nan_is_a_note(way):
    report = check_loss(combined(CustomLoss(branches), way))
    assert report.ok, str(report)
    assert (way == "sum") != any("expected nan" in text for text in report.notes)  # the other term's NaN covers it


def test_own_losses_are_looked_at_with_their_labels():
    seen = set()

    def watched(y, raw):
        seen.update(y.tolist())
        return log_loss_of_signs(y, raw)

    loss = CustomLoss(watched, "binary", labels=(-1, 1), name="watched")
    report = check_loss(loss)
    assert seen == {-1, 1}
    wrong = check_loss(CustomLoss(lambda y, raw: (watched(y, raw)[0], -watched(y, raw)[1]), "binary", labels=(-1, 1)))
    assert report.ok
    assert "gradient at y = -1, raw = " in wrong.problems[0] or "gradient at y = 1, raw = " in wrong.problems[0]
    soft = CustomLoss(log_loss_of_zero_one, "binary", soft_targets=True)
    assert dict((n, p) for n, p, _ in check_loss(soft).checks)["bounded below"] > 40  # four targets, not two


def test_nan_elsewhere_stays_a_problem():
    def overflows(y, raw):
        e = np.exp(raw)
        return np.log1p(e) - y * raw, e / (1 + e) - y

    text = problems(CustomLoss(overflows, "binary"))
    assert "gradient at y = " in text
    assert "is nan" in text

    def no_limit(y, raw):
        return np.where(np.isinf(raw), 7.0, np.tanh(np.abs(raw - y))), np.zeros_like(raw)

    assert "is 7, but 1 at raw" in problems(CustomLoss(no_limit))


@pytest.mark.parametrize("factor", [-1.0, 0.0, 0.5, 3.0])
def test_a_wrong_gradient_is_one_problem(factor):
    """Not three: tangents and slopes that fall follow from it. Chords, of values alone, do not."""
    report = check_loss(CustomLoss(lambda y, raw: (0.5 * (raw - y) ** 2, factor * (raw - y)), convex=True))
    assert failed(report) == {"the gradient is the loss's slope"}
    assert len(report.problems) == 1
    hats = CustomLoss(lambda y, raw: (-0.5 * (raw - y) ** 2, factor * (raw - y)), convex=True)
    if factor != -1:
        assert failed(check_loss(hats)) >= {"the gradient is the loss's slope", "convex, if declared"}


# gradients that are no slopes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"normalize": False, "truncation": 3}], ids=str)
def test_lambdarank_is_defined_by_its_gradients(params):
    """Checks of derivatives do not apply, and the report says why; all others do."""
    report = fastloss.check_loss(fastloss.losses.Lambdarank(**params))
    assert report.ok, str(report)
    points = {name: points for name, points, _ in report.checks}
    for name in ("the gradient is the loss's slope", "the hessian is the gradient's slope", "the loss does not jump"):
        assert points[name] == 0
    assert points["all methods agree"] > 0
    assert "not slopes of its value" in report.notes[0]
    assert f"note: {report.notes[0]}" in str(report)
    assert fastloss.check_loss("listnet").notes == ()


def test_other_gradients_are_checked():
    class Turned(fastloss.losses.Lambdarank):
        """Says that its gradients are slopes."""

        _gradient_is_slope = True

    assert not fastloss.check_loss(Turned()).ok
