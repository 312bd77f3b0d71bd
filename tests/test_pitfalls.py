"""Where other libraries went wrong: one test per pitfall, named after its number in the project's list."""

import math
import os

import numpy as np
import pytest
from bits import REDUCTIONS, bits, differing, results
from grids import everyday, samples
from mpmath import exp, log1p, mpf, workprec

import fastloss

INF = math.inf


def at(name, y, raw, dtype=np.float64, **params):
    """(loss, gradient) of one sample, as floats."""
    y, raw = np.array([y], dtype), np.array([raw], dtype)
    value, gradient = fastloss.loss_gradient(name, y, raw, reduction="none", **params)
    return float(value[0]), float(gradient[0])


@pytest.mark.parametrize(("n_y", "n_raw"), [(3, 1), (1, 3), (2, 3), (3, 0), (0, 3)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_p2_lengths_are_never_broadcast(name, n_y, n_raw, reduction):
    with pytest.raises(ValueError, match="y_true"):
        fastloss.loss(name, np.zeros(n_y), np.ones(n_raw), reduction=reduction)


@pytest.mark.parametrize("z", [17.0, 20.0, 36.0, 40.0, 85.0, 100.0])
def test_p5_gradient_of_a_confident_float32_logit(isa, z):
    with workprec(300):
        wanted = float(-exp(-mpf(z)) / (1 + exp(-mpf(z))))
    _, gradient = at("log_loss", 1, z, np.float32)
    assert gradient == pytest.approx(wanted, rel=5e-7, abs=float(np.finfo(np.float32).tiny))
    if z <= 85:
        assert gradient < 0


def test_p5_known_values(isa):
    assert at("log_loss", 1, 17.0, np.float32)[1] == pytest.approx(-4.1399376e-8, rel=3e-7)
    assert at("log_loss", 1, 20.0, np.float32)[1] == pytest.approx(-2.0611537e-9, rel=3e-7)


@pytest.mark.parametrize(
    ("y", "raw", "value", "gradient"), [(1, INF, 0, 0), (0, -INF, 0, 0), (1, -INF, INF, -1), (0, INF, INF, 1)]
)
def test_p6_infinite_logits(dtype, isa, y, raw, value, gradient):
    assert at("log_loss", y, raw, dtype) == (value, gradient)


@pytest.mark.parametrize("name", ["focal", "poly1"])
def test_p6_infinite_logits_of_relatives(dtype, isa, name):
    assert at(name, 1, INF, dtype) == at(name, 0, -INF, dtype) == (0, 0)
    assert at(name, 1, -INF, dtype) == (INF, -1)
    assert at(name, 0, INF, dtype) == (INF, 1)


def test_p7_exponential_far_out(isa):
    value, gradient = at("exponential", 1, 710.0)
    assert 0 <= value < 1e-300
    assert -1e-300 < gradient <= 0
    assert value == pytest.approx(4.476286225675e-309, abs=2.3e-308)
    assert at("exponential", 0, -800.0) == (0, 0)
    assert at("exponential", 0, 800.0) == (INF, INF)
    assert at("exponential", 1, INF) == (0, 0)
    assert at("exponential", 1, -INF) == (INF, -INF)


def test_p17_soft_margin_far_out(dtype, isa):
    assert at("log_loss", 1, -100.0, dtype) == (100, -1)
    assert at("log_loss", 0, 100.0, dtype) == (100, 1)


MARGIN_LOSSES = fastloss.list_losses(kind="binary")


@pytest.mark.parametrize("name", MARGIN_LOSSES)
def test_p22_zero_one_labels_are_mapped(name, dtype, isa):
    """{0, 1}, {-1, 1} and bool labels of any dtype say the same."""
    loss = fastloss.get_loss(name)
    raw = np.random.default_rng(1).normal(size=100).astype(dtype)
    positive = np.random.default_rng(2).random(100) < 0.5
    plain = results(loss, positive.astype(dtype), raw)
    signed = np.where(positive, 1, -1)
    for labels in (positive, signed, positive.astype(np.int64), positive.astype(np.uint8), signed.astype(np.int8)):
        assert not differing(plain, results(loss, labels, raw))
    assert not differing(plain, results(loss, signed.astype(np.float32), raw))
    assert not differing(plain, results(loss, positive.astype(np.float64), raw))


def test_p22_hinge_value(dtype, isa):
    value, gradient = at("hinge", 0, 0.3, dtype)
    assert value == pytest.approx(1.3, rel=1e-7)
    assert gradient == 1


def test_p23_log_cosh_near_zero(dtype, isa):
    value, gradient = at("log_cosh", 0, 1e-4, dtype)
    assert value == pytest.approx(4.9999999916666667e-9, rel=3e-7 if dtype == np.float32 else 1e-15)
    assert gradient == pytest.approx(9.9999999666666668e-5, rel=3e-7 if dtype == np.float32 else 1e-15)


@pytest.mark.parametrize("name", ["pseudo_huber", "fair", "cauchy", "welsch"])
def test_p23_relatives_near_zero(name, dtype, isa):
    for r in (1e-3, 1e-6, 1e-10):
        value, gradient = at(name, 0, r, dtype)
        assert value == pytest.approx(r * r / 2, rel=2e-3)
        assert gradient == pytest.approx(r, rel=2e-3)


def test_p25_focal_and_poisson_far_out(isa):
    assert at("focal", True, -800.0) == (800, -1)
    assert at("focal", True, 800.0)[0] == 0
    assert at("poisson", 1, 710.0) == (INF, INF)
    assert at("poisson", 1, 710.0, np.float32) == (INF, INF)
    assert at("poisson", 3, -800.0) == (2400, -3)


def test_p26_tweedie_is_continuous_in_power(isa):
    y, raw = np.array([1.0, 0.5, 3.0]), np.array([0.3, -1.0, 2.0])
    for power in (1.0, 2.0):
        middle = fastloss.loss_gradient("tweedie", y, raw, power=power, reduction="none")
        for nearby in (power + 1e-12, power - 1e-12 if power == 2 else power + 1e-15):
            other = fastloss.loss_gradient("tweedie", y, raw, power=nearby, reduction="none")
            np.testing.assert_allclose(other, middle, atol=1e-10)
    limit = np.expm1(raw) - y * raw
    np.testing.assert_allclose(fastloss.loss("tweedie", y, raw, power=1.0, reduction="none"), limit, rtol=1e-14)


def test_p26_tweedie_limits_are_poisson_and_gamma(isa):
    y, raw = np.array([1.0, 0.5, 3.0]), np.array([0.3, -1.0, 2.0])
    for power, name, constant in [(1.0, "poisson", 1), (2.0, "gamma", y)]:
        value, gradient = fastloss.loss_gradient("tweedie", y, raw, power=power, reduction="none")
        other, slope = fastloss.loss_gradient(name, y, raw, reduction="none")
        np.testing.assert_allclose(value, other - constant, rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(gradient, slope, rtol=1e-13, atol=1e-14)


def test_p27_gamma_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"y_true\[1\].*0.*gamma.*> 0"):
        fastloss.loss("gamma", [1.0, 0.0, 0.0], [-800.0, -800.0, 1.0])


def test_p27_tweedie_overflow_is_infinite_not_nan(isa):
    assert at("tweedie", 1, 1500.0) == (INF, INF)
    assert at("tweedie", 1, -1500.0) == (INF, -INF)
    assert at("tweedie", 0, -1500.0) == (-2, 0)
    assert at("gamma", 1, -800.0) == (INF, -INF)


def test_p28_no_clamp_at_100(isa):
    assert at("log_loss", 1, -1000.0) == (1000, -1)
    assert at("log_loss", 1, -1e300) == (1e300, -1)
    assert at("log_loss", 1, -INF)[0] == INF


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.5, 1.0, 1.5, 2.0, 3.7])
def test_p31_focal_with_any_gamma(dtype, isa, gamma):
    """As p_t -> 1 neither loss nor gradient is NaN, and both vanish; also in between they are right."""
    loss = fastloss.get_loss("focal", gamma=gamma)
    raw = np.array([0, 1, 10, 20, 50, 100, 500, 800, 1e4, 1e30, INF], dtype)
    value, gradient = loss.loss_gradient(np.ones_like(raw), raw, reduction="none")
    assert np.all(np.isfinite(value))
    assert np.all(np.isfinite(gradient))
    assert value[-1] == gradient[-1] == 0
    assert np.all(np.diff(value) <= 0)
    assert np.all(gradient <= 0)
    with workprec(300):
        for z, v in zip(raw[:4], value[:4], strict=True):
            far = 1 / (1 + exp(mpf(float(z))))
            g = mpf(float(dtype.type(gamma)))
            assert float(v) == pytest.approx(
                float(far**g * log1p(exp(-mpf(float(z))))), rel=4 * float(np.finfo(dtype).eps)
            )


@pytest.mark.parametrize("n_threads", [1, 2, None])
def test_p35_long_float32_sums(isa, n_threads):
    n = 20_000_000
    raw = np.full(n, 0.1, np.float32)
    y = np.broadcast_to(np.float32(0), n)
    tenth = float(np.float32(0.1))
    assert fastloss.loss("absolute_error", y, raw, n_threads=n_threads) == pytest.approx(tenth, rel=1e-14)
    total = fastloss.loss("absolute_error", y, raw, reduction="sum", n_threads=n_threads)
    assert total == pytest.approx(n * tenth, rel=1e-14)


def test_p35_sums_of_mixed_magnitudes(dtype, isa):
    rng = np.random.default_rng(5)
    raw = (10 ** rng.uniform(-8, 8, 300_000)).astype(dtype)
    each = fastloss.loss("absolute_error", np.zeros_like(raw), raw, reduction="none")
    total = math.fsum(each.tolist())
    assert fastloss.loss("absolute_error", np.zeros_like(raw), raw, reduction="sum") == pytest.approx(total, rel=1e-14)


MANY = 2**31 + 9


def test_p36_more_samples_than_an_int_counts():
    """Virtual arrays of 2**31 + 9 samples: one element, seen again and again."""
    y, raw = np.broadcast_to(np.int8(1), MANY), np.broadcast_to(np.float32(1.5), MANY)
    assert fastloss.loss("squared_error", y, raw, reduction="sum") == pytest.approx(MANY / 8, rel=1e-13)


def test_p36_label_errors_beyond_an_int():
    """The one bad label lies behind 2**31 good ones (memory of zeros is not touched until it is written)."""
    y, raw = np.zeros(MANY, np.int8), np.broadcast_to(np.float32(0.5), MANY)
    y[-2] = 2
    with pytest.raises(ValueError, match=rf"y_true\[{MANY - 2}\]"):
        fastloss.loss("perceptron", y, raw)


def test_p37_strided_fortran_readonly_and_memory_mapped(name, dtype, tmp_path):
    loss = fastloss.get_loss(name)
    y, raw = everyday(name, n=500, dtype=dtype, outputs=2)
    plain = results(loss, y, raw)
    mapped = []
    for i, x in enumerate((y, raw)):
        np.save(tmp_path / f"{i}.npy", np.asfortranarray(x))
        mapped.append(np.load(tmp_path / f"{i}.npy", mmap_mode="r"))
    frozen = [x.copy() for x in (y, raw)]
    for x in frozen:
        x.flags.writeable = False
    strided = [np.repeat(x, 3, axis=0)[1::3] for x in (y, raw)]
    for other in (mapped, frozen, strided, [np.asfortranarray(x) for x in (y, raw)]):
        assert not differing(plain, results(loss, *other))


def test_p39_reductions_do_not_depend_on_threads(name, dtype, isa):
    """All reductions, thread counts 1 to 8, an odd number of chunks (test_determinism has more sizes)."""
    y, raw = everyday(name, n=131_075, dtype=dtype)
    loss = fastloss.get_loss(name)
    for reduction in ("mean", "sum"):
        assert len({bits(loss.loss(y, raw, reduction=reduction, n_threads=t)) for t in range(1, 9)}) == 1


NO_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@NO_FORK
@pytest.mark.parametrize("n_threads", ["4", "None"])
def test_p40_fork_after_threads(run_python, n_threads):
    """A forked child of a process that has used its threads neither hangs nor computes something else."""
    script = f"""
import os, sys
import numpy as np
import fastloss

y, raw = np.zeros(400_000), np.linspace(-3, 3, 400_000)

def work():
    value, gradient = fastloss.loss_gradient("log_loss", y, raw, n_threads={n_threads})
    return np.float64(value).tobytes() + gradient.tobytes()

before = work()
for _ in range(3):
    child = os.fork()
    if child == 0:
        os._exit(0 if work() == before else 7)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status
assert work() == before
print("done")
"""
    done = run_python(script, timeout=20)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr


@NO_FORK
def test_p40_multiprocessing_pool(run_python, tmp_path):
    program = tmp_path / "pool.py"
    program.write_text(
        """
import multiprocessing
import numpy as np
import fastloss

def work(seed):
    raw = np.random.default_rng(seed).normal(size=300_000)
    return fastloss.loss("squared_error", np.zeros(300_000), raw, n_threads=3)

if __name__ == "__main__":
    here = [work(seed) for seed in range(4)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(work, range(4)) == here
    print("done")
"""
    )
    done = run_python(f"import runpy; runpy.run_path({str(program)!r}, run_name='__main__')", timeout=20)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr


def test_p43_entry_points_agree(case, dtype, isa):
    """loss, gradient, loss_gradient and gradient_hessian give the same bits, on adversarial input too."""
    name, params, soft = case
    loss = fastloss.get_loss(name, **params)
    y, raw = samples(name, params, dtype, soft=soft)
    weight = np.random.default_rng(0).uniform(0, 2, raw.size)
    for w in (None, weight):
        found = results(loss, y, raw, w)
        for reduction in REDUCTIONS:
            assert found["loss", "loss", reduction] == found["loss_gradient", "loss", reduction]
            gradients = {v for (_, part, r), v in found.items() if part == "gradient" and r == reduction}
            assert len(gradients) == 1, (reduction, w is None)


@pytest.mark.parametrize("name", ["poisson", "gamma", "tweedie", "negative_binomial"])
def test_nan_scores_stay_nan_beside_infinite_constants(name, dtype, isa):
    """Constants that overflow must not hide a NaN in raw (seen with y = 1e30 and Tweedie of power 0)."""
    params = {"power": 0.0} if name == "tweedie" else {}
    loss = fastloss.get_loss(name, constants=True, **params)
    y = np.array([np.finfo(dtype).max / 2], dtype)
    assert np.isnan(loss.loss(y, np.array([np.nan], dtype), reduction="none")).all()


# several classes ------------------------------------------------------------------------------------------------

MULTICLASS = fastloss.list_losses(kind="multiclass")


def row(name, y, raw, dtype=np.float64, **params):
    """(loss, gradient row) of one sample with several classes."""
    value, gradient = fastloss.loss_gradient(name, np.array([y]), np.array([raw], dtype), reduction="none", **params)
    return float(value[0]), gradient[0].tolist()


@pytest.mark.parametrize("name", MULTICLASS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_p1_nan_label(run_python, name, reduction):
    """In a process of its own: the peer's was killed by it."""
    done = run_python(f"import fastloss; fastloss.loss({name!r}, [float('nan')], [[1, 0]], reduction={reduction!r})")
    assert done.returncode == 1
    assert "ValueError: y_true[0] = nan" in done.stderr


@pytest.mark.parametrize("name", MULTICLASS)
@pytest.mark.parametrize("bad", [-1, 5, 2])
def test_p2_labels_out_of_range(name, isa, bad):
    for y in ([bad], [0, 1, bad]):
        for labels in (np.array(y), np.array(y, float)):
            with pytest.raises(ValueError, match=rf"y_true\[{len(y) - 1}\] = {bad}.*0 \.\.\. 1"):
                fastloss.loss_gradient(name, labels, np.zeros((len(y), 2)))


@pytest.mark.parametrize("name", MULTICLASS)
@pytest.mark.parametrize(("n_y", "n_raw"), [(3, 1), (1, 3), (2, 3), (3, 0), (0, 3)])
def test_p2_labels_are_never_broadcast(name, n_y, n_raw):
    with pytest.raises(ValueError, match="y_true"):
        fastloss.loss(name, np.zeros(n_y, int), np.ones((n_raw, 2)), reduction="sum")


@pytest.mark.parametrize("size", [1e8, 1e17, 1e30])
def test_p3_equal_large_logits(dtype, isa, size):
    value, gradient = row("cross_entropy", 0, [size, size], dtype)
    assert value == dtype.type(math.log(2))
    assert gradient == [-0.5, 0.5]
    value, gradient = row("cross_entropy", 2, [size] * 5, dtype)
    assert value == pytest.approx(math.log(5), rel=2 * float(np.finfo(dtype).eps))


@pytest.mark.parametrize("z", [17.0, 20.0, 36.0, 40.0, 85.0, 700.0])
def test_p4_confident_logits(dtype, isa, z):
    """Loss and gradient of a tail that 1 - p would round to 0; the two entries of the row cancel exactly."""
    with workprec(3000):
        tail = exp(-mpf(z))
        wanted_loss, wanted = float(log1p(tail)), float(tail / (1 + tail))
    value, gradient = row("cross_entropy", 0, [z, 0], dtype)
    close = {"rel": 4 * float(np.finfo(dtype).eps), "abs": float(np.finfo(dtype).tiny)}
    assert value == pytest.approx(wanted_loss, **close)
    assert gradient[1] == pytest.approx(wanted, **close)
    assert gradient[0] == -gradient[1]
    if z <= 85 or dtype == np.float64:
        assert value > 0 > gradient[0]


def test_p4_known_values(isa):
    for z, tail in ((17.0, 4.1399376e-8), (20.0, 2.0611537e-9), (36.0, 2.3195228e-16), (40.0, 4.2483543e-18)):
        value, gradient = row("cross_entropy", 0, [z, 0], np.float32)
        assert value == pytest.approx(tail, rel=3e-7)
        assert gradient == [-gradient[1], pytest.approx(tail, rel=3e-7)]


def test_p18_weights_that_sum_to_nothing(isa):
    """The peer's mean is NaN; here it is an error, the sum is 0, and so is every sample."""
    loss = fastloss.get_loss("cross_entropy", class_weight=[0, 1, 1])
    with pytest.raises(ValueError, match="mean"):
        loss.loss([0], [[0.0, 1.0, 2.0]])
    assert loss.loss([0], [[0.0, 1.0, 2.0]], reduction="sum") == 0.0
    value, gradient = loss.loss_gradient([0, 0], [[0.0, 1.0, 2.0], [INF, math.nan, 0]], reduction="none")
    assert value.tolist() == [0, 0]
    assert gradient.tolist() == [[0, 0, 0]] * 2
    ignoring = fastloss.get_loss("cross_entropy", ignore_index=-100)
    with pytest.raises(ValueError, match="mean"):
        ignoring.loss([-100, -100], np.zeros((2, 3)))
    assert ignoring.loss([-100, -100], np.zeros((2, 3)), reduction="sum") == 0.0


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_p19_smoothing_beside_a_masked_class(dtype, isa, smoothing):
    """Smoothed over the classes that are there, as if the masked one did not exist; targets of 0 cost nothing."""
    value, gradient = row("cross_entropy", 0, [1.0, -INF, 0.5], dtype, label_smoothing=smoothing)
    wanted, slope = row("cross_entropy", 0, [1.0, 0.5], dtype, label_smoothing=smoothing)
    close = {"rel": 4 * float(np.finfo(dtype).eps), "abs": 0}
    assert value == pytest.approx(wanted, **close)
    assert gradient == [pytest.approx(slope[0], **close), 0, pytest.approx(slope[1], **close)]
    soft = fastloss.loss("cross_entropy", np.array([[0.25, 0, 0.75]], dtype), np.array([[0, -INF, 0]], dtype))
    assert soft == pytest.approx(math.log(2), rel=4 * float(np.finfo(dtype).eps))


def test_p20_one_hot_target_with_a_masked_class(dtype, isa):
    raw = np.array([[1, -INF]], dtype)
    for y in (np.array([[1, 0]]), np.array([[1.0, 0.0]], dtype), np.array([0])):
        value, gradient = fastloss.loss_gradient("cross_entropy", y, raw)
        assert value == 0
        assert gradient.tolist() == [[0, 0]]
    value, gradient = fastloss.loss_gradient("cross_entropy", np.array([[0, 1]]), raw)
    assert value == INF
    assert gradient.tolist() == [[1, -1]]


@pytest.mark.parametrize("bad", [5, -1])
def test_p21_integer_labels_are_no_python_indices(isa, bad):
    """-1 is not the last class, 5 is no NaN."""
    for y in ([bad, 0], [0, bad]):
        with pytest.raises(ValueError, match=rf"y_true\[{y.index(bad)}\] = {bad}: cross_entropy needs labels in 0 "):
            fastloss.loss("cross_entropy", y, np.zeros((2, 2)))


def weighted_mean(y, raw, weight, smoothing, ignore, classes):
    """The mean in mpmath, from the definition."""
    total = size = mpf(0)
    for label, z, w in zip(y, raw, weight, strict=True):
        if label == ignore:
            continue
        e = [exp(mpf(float(v))) for v in z]
        mass = sum(e)
        w = mpf(float(w)) * mpf(classes[label])
        for k, v in enumerate(e):
            target = (1 - smoothing) * (k == label) + mpf(smoothing) / len(z)
            total -= w * target * log1p(v / mass - 1)
        size += w
    return total / size


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.125])
@pytest.mark.parametrize("ignore", [None, -100, 1])
@pytest.mark.parametrize("classes", [None, (0.5, 2.0, 0.0, 1.0)])
def test_p32_weight_smoothing_and_ignored_labels(dtype, isa, weighted, smoothing, ignore, classes):
    """The combination that peers got wrong, against the definition (test_multiclass.py has the identities)."""
    rng = np.random.default_rng(32)
    raw = rng.normal(size=(25, 4)).astype(dtype)
    y = rng.integers(0, 4, 25)
    if ignore == -100:
        y[::4] = -100
    weight = rng.uniform(0.5, 2, 25) if weighted else np.ones(25)
    with workprec(200):
        wanted = float(weighted_mean(y, raw, weight, smoothing, ignore, classes or (1.0,) * 4))
    loss = fastloss.get_loss("cross_entropy", label_smoothing=smoothing, ignore_index=ignore, class_weight=classes)
    value, gradient = loss.loss_gradient(y, raw, weight if weighted else None)
    assert value == pytest.approx(wanted, rel=4 * float(np.finfo(dtype).eps))
    silent = (y == ignore) | (np.array(classes or (1.0,) * 4)[y % 4] == 0)
    assert not gradient[silent].any()
    assert np.all(gradient[~silent].any(axis=1))


@pytest.mark.parametrize("name", MULTICLASS)
def test_p39_multiclass_reductions_do_not_depend_on_threads(name, dtype, isa):
    rng = np.random.default_rng(39)
    y, raw = rng.integers(0, 3, 50_003), rng.normal(size=(50_003, 3)).astype(dtype)
    loss = fastloss.get_loss(name)
    for reduction in ("mean", "sum"):
        assert len({bits(loss.loss(y, raw, reduction=reduction, n_threads=t)) for t in range(1, 9)}) == 1
