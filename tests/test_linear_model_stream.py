"""Training batch by batch: `fit_stream`, and `partial_fit` without a schedule."""

import pickle
import signal
import threading
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from fastloss import SGDLossClassifier, SGDLossRegressor


def make_data(model, n=200, d=5, seed=0):
    """Rows on everyday scales, and three classes or positive targets."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    if isinstance(model, SGDLossClassifier):
        return X, (X[:, :3] + 0.3 * rng.standard_normal((n, 3))).argmax(axis=1)
    return X, np.exp(0.3 * X[:, 0] - 0.2 * X[:, 1] + 0.2 * rng.standard_normal(n))


def cut(size, *arrays):
    """Batches of `size` rows; the last one may be smaller."""
    n = arrays[0].shape[0]
    return [tuple(a[begin : begin + size] for a in arrays) for begin in range(0, n, size)]


def first(model, y):
    return {"classes": np.unique(y)} if isinstance(model, SGDLossClassifier) else {}


def learn(model, batches, classes=None):
    for batch in batches:
        model.partial_fit(*batch[:2], sample_weight=batch[2] if len(batch) > 2 else None, **(classes or {}))
    return model


def assert_same(model, other, rtol=0.0):
    np.testing.assert_allclose(model.coef_, other.coef_, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(model.intercept_, other.intercept_, rtol=rtol, atol=rtol)
    assert model.t_ == other.t_


# -- fit_stream ------------------------------------------------------------------------------------------------


SCHEDULED = [
    SGDLossClassifier("hinge", learning_rate="optimal"),
    SGDLossClassifier("log_loss", learning_rate="constant", penalty="l1", alpha=1e-2),
    SGDLossClassifier("cross_entropy", learning_rate="adaptive", average=True),
    SGDLossClassifier("hinge", learning_rate="pa1", class_weight={0: 2.0}),
    SGDLossClassifier("perceptron"),
    SGDLossRegressor("huber", learning_rate="invscaling", penalty="elasticnet", alpha=1e-2),
    SGDLossRegressor("poisson", learning_rate="constant", batch_size=8),
    SGDLossRegressor("quantile", quantile=[0.2, 0.7], learning_rate="constant", average=30),
    SGDLossRegressor("epsilon_insensitive", learning_rate="pa2"),
]


@pytest.mark.parametrize("model", SCHEDULED, ids=str)
@pytest.mark.parametrize("convert", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_stream_in_order_is_a_fit(model, convert, epochs, weighted):
    X, y = make_data(model)
    X = convert(np.where(np.random.default_rng(1).random(X.shape) < 0.3, 0, X))
    weight = np.random.default_rng(2).uniform(0.2, 2, len(y)) if weighted else None
    model = clone(model).set_params(shuffle=False)
    whole = clone(model).set_params(max_iter=epochs, tol=None).fit(X, y, sample_weight=weight)
    data = (X, y) if weight is None else (X, y, weight)
    stream = model.fit_stream(cut(48, *data), epochs=epochs, **first(model, y))
    assert stream is model
    assert_same(stream, whole, 1e-12)
    assert stream.n_iter_ == whole.n_iter_ == epochs
    np.testing.assert_allclose(stream.predict(X), whole.predict(X), rtol=1e-9, atol=1e-9)


def test_several_outputs_are_streamed():
    X, y = make_data(SGDLossRegressor())
    Y = np.column_stack([y, -y])
    model = SGDLossRegressor(learning_rate="constant", shuffle=False)
    whole = clone(model).set_params(max_iter=2, tol=None).fit(X, Y)
    assert_same(model.fit_stream(cut(50, X, Y), epochs=2), whole, 1e-12)


class Reader:
    """What a data loader looks like: it can be iterated over again and again, and has neither length nor index."""

    def __init__(self, batches):
        self.batches = batches
        self.readings = 0

    def __iter__(self):
        self.readings += 1
        yield from self.batches


@pytest.mark.parametrize("learning_rate", ["auto", "optimal"])
def test_sources(learning_rate):
    model = SGDLossClassifier("log_loss", learning_rate=learning_rate, random_state=0)
    X, y = make_data(model)
    batches = cut(60, X, y)
    expected = clone(model).fit_stream(batches, epochs=2, classes=[0, 1, 2])
    lists = [list(batch) for batch in batches]
    for source in (tuple(batches), Reader(batches), lambda: iter(batches), lambda: batches, lists):
        assert_same(clone(model).fit_stream(source, epochs=2, classes=[0, 1, 2]), expected)
    once = clone(model).fit_stream(iter(batches), classes=[0, 1, 2])
    assert_same(once, clone(model).fit_stream(batches, classes=[0, 1, 2]))
    # weights, also where only some batches have them
    ones = [(*batch, np.ones(len(batch[1]))) for batch in batches]
    mixed = [ones[0], *batches[1:2], (*batches[2], None), *ones[3:]]
    for source in (ones, mixed):
        assert_same(clone(model).fit_stream(source, epochs=2, classes=[0, 1, 2]), expected)


def test_a_generator_cannot_be_read_twice():
    X, y = make_data(SGDLossClassifier())
    model = SGDLossClassifier("log_loss")
    with pytest.raises(ValueError, match=r"iterator that was read to its end.*needs a list or a function"):
        model.fit_stream((batch for batch in cut(50, X, y)), epochs=2, classes=[0, 1, 2])
    with pytest.raises(ValueError, match=r"iterator that was read to its end.*needs a list or a function"):
        model.fit_stream(batch for batch in cut(50, X, y))  # once to find the labels, once to learn
    spent = iter(cut(50, X, y))
    with pytest.raises(ValueError, match="no batch"):
        model.fit_stream(lambda: spent, epochs=2, classes=[0, 1, 2])
    assert not hasattr(model, "coef_")
    SGDLossRegressor().fit_stream(batch for batch in cut(50, X, y))


def test_labels_are_found():
    X, y = make_data(SGDLossClassifier())
    order = np.argsort(y, kind="stable")  # the last label comes in the last batches only
    X, names = X[order], np.array(["ham", "spam", "toast"])[y[order]]
    reader = Reader(cut(30, X, names))
    for learning_rate in ("auto", "optimal"):
        model = SGDLossClassifier("log_loss", learning_rate=learning_rate, random_state=0)
        found = clone(model).fit_stream(reader, epochs=2)
        np.testing.assert_array_equal(found.classes_, ["ham", "spam", "toast"])
        given = clone(model).fit_stream(reader, epochs=2, classes=["toast", "ham", "spam"])
        assert_same(found, given)
    assert reader.readings == 2 * (3 + 2)
    with pytest.raises(ValueError, match="at least two classes"):
        SGDLossClassifier().fit_stream([(X[:5], names[:5]), (X[5:9], names[5:9])])


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        (3, TypeError, "batches must be an iterable of .* or a function that returns one"),
        ([], ValueError, "batches has no batch to learn from"),
        (list, ValueError, "batches has no batch to learn from"),
        ([np.eye(3)[:1, 0]], ValueError, "batch 0 must be .X, y. or .X, y, sample_weight., got ndarray"),
        ([(np.eye(3),)], ValueError, "batch 0 must be"),
        ([(np.eye(3), [0, 1, 0]), "ab"], ValueError, "batch 1 must be .* got str"),
        ([(np.eye(3), [0, 1, 0]), (np.eye(2), [0, 1])], ValueError, "expecting 3 features"),
        ([(np.eye(3), [0, 1, 0]), (np.empty((0, 3)), [])], ValueError, "0 sample"),
        ([(np.eye(3), [0, 1, 0]), (np.eye(3), [0, 1])], ValueError, "inconsistent numbers of samples"),
        ([(np.eye(3), [0, 1, 7])], ValueError, r"y\[2\] = .*7.* is not in classes"),
        ([(np.eye(3), [0, 1, 0], [1.0, -1.0, 1.0])], ValueError, "negative"),
    ],
)
@pytest.mark.parametrize("learning_rate", ["auto", "optimal"])
def test_bad_batches(batches, error, message, learning_rate):
    model = SGDLossClassifier("log_loss", learning_rate=learning_rate)
    with pytest.raises(error, match=message):
        model.fit_stream(batches, classes=[0, 1])
    with pytest.raises(NotFittedError):
        model.predict(np.eye(3))


@pytest.mark.parametrize(
    ("parameters", "arguments", "error", "message"),
    [
        ({}, {"epochs": 0}, ValueError, "epochs must be >= 1"),
        ({}, {"epochs": 1.5}, TypeError, "epochs must be an integer"),
        ({}, {"colour": "red"}, TypeError, "colour"),
        ({"early_stopping": True}, {}, ValueError, "early_stopping"),
        ({"alpha": -1}, {}, ValueError, "alpha"),
        ({"loss": "poisson"}, {}, ValueError, "'poisson' is not a loss of SGDLossClassifier"),
    ],
)
def test_bad_arguments(parameters, arguments, error, message):
    X, y = make_data(SGDLossClassifier())
    with pytest.raises(error, match=message):
        SGDLossClassifier(**parameters).fit_stream(cut(50, X, y), **arguments)


@pytest.mark.parametrize("model", [SGDLossClassifier("log_loss"), SGDLossRegressor(learning_rate="constant")])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_stream_that_breaks_leaves_the_last_model(model, error):
    X, y = make_data(model)

    def broken():
        yield X[:50], y[:50]
        yield X[50:100], y[50:100]
        raise error("the disk is gone")

    model = clone(model).set_params(random_state=0)
    with pytest.raises(error):
        model.fit_stream(broken, **first(model, y))
    assert not hasattr(model, "coef_")
    model.fit_stream(cut(40, X, y), epochs=2, **first(model, y))
    before = pickle.dumps(vars(model))
    with pytest.raises(error):
        model.fit_stream(broken, **first(model, y))
    assert pickle.dumps(vars(model)) == before


def test_control_c_ends_a_stream():
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread only")
    X, y = make_data(SGDLossClassifier(), n=5000, d=20)
    model = SGDLossClassifier("log_loss").fit_stream(cut(500, X, y))
    before = model.coef_.copy()
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        model.fit_stream(cut(500, X, y), epochs=10**6, classes=[0, 1, 2])
    timer.join()
    np.testing.assert_array_equal(model.coef_, before)


def test_a_stream_starts_from_scratch():
    for model in (SGDLossClassifier("log_loss"), SGDLossRegressor(learning_rate="invscaling", warm_start=True)):
        X, y = make_data(model)
        fresh = clone(model).set_params(random_state=0).fit_stream(cut(70, X, y), epochs=2)
        used = clone(fresh).fit(X[:, :3], y).fit_stream(cut(70, X, y), epochs=2)
        assert_same(fresh, used)
        again = pickle.loads(pickle.dumps(fresh))
        assert_same(again.fit_stream(cut(70, X, y), epochs=2), fresh)
        assert used.get_params() == fresh.get_params()
        assert used.n_features_in_ == 5


def test_a_stream_goes_on_with_partial_fit():
    for model in (SGDLossClassifier("log_loss"), SGDLossRegressor(learning_rate="invscaling", average=True)):
        X, y = make_data(model)
        model = clone(model).set_params(random_state=0)
        batches = cut(50, X, y)
        whole = clone(model).fit_stream(batches)
        parts = learn(clone(model), batches[:2], first(model, y))
        assert_same(learn(pickle.loads(pickle.dumps(parts)), batches[2:]), whole)


def test_what_a_stream_displays(capsys):
    X, y = make_data(SGDLossRegressor())
    for learning_rate in ("auto", "constant"):
        SGDLossRegressor(verbose=1, learning_rate=learning_rate).fit_stream(cut(50, X, y), epochs=3)
        output = capsys.readouterr()
        assert output.out == ""
        lines = output.err.splitlines()
        assert [line.split(":")[0] for line in lines] == ["epoch 1", "epoch 2", "epoch 3"]
        assert "nan" not in output.err
        SGDLossRegressor(learning_rate=learning_rate).fit_stream(cut(50, X, y))
        assert capsys.readouterr() == ("", "")


def test_data_frames_are_streamed():
    pd = pytest.importorskip("pandas")
    X, y = make_data(SGDLossClassifier())
    frame = pd.DataFrame(X, columns=list("abcde"))
    batches = [(frame.iloc[rows], pd.Series(y).iloc[rows]) for rows in (slice(0, 90), slice(90, 200))]
    model = SGDLossClassifier("log_loss", random_state=0).fit_stream(batches)
    assert list(model.feature_names_in_) == list("abcde")
    plain = SGDLossClassifier("log_loss", random_state=0).fit_stream([(X[:90], y[:90]), (X[90:], y[90:])])
    assert_same(model, plain)
    with pytest.raises(ValueError, match="feature names"):
        model.partial_fit(frame[list("edcba")], y)


# -- partial_fit without a schedule ----------------------------------------------------------------------------


LEARNERS = [
    SGDLossClassifier("log_loss"),
    SGDLossClassifier("hinge"),
    SGDLossClassifier("squared_hinge"),
    SGDLossClassifier("modified_huber"),
    SGDLossClassifier("cross_entropy"),
    SGDLossClassifier("log_loss", class_weight="balanced"),
    SGDLossClassifier("log_loss", penalty="elasticnet", alpha=1e-4),
    SGDLossRegressor(),
    SGDLossRegressor("huber", epsilon=0.5),
    SGDLossRegressor("absolute_error"),
    SGDLossRegressor("quantile", quantile=[0.2, 0.7]),
    SGDLossRegressor("log_cosh"),
    SGDLossRegressor("squared_error", fit_intercept=False),
]
SCALES = np.logspace(-3, 3, 12)


def raw_data(model, n=40_000, seed=0):
    """Columns of scales 1e-3 to 1e3 whose means are not 0; noise, so that the optimum is not at 0."""
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng(99)  # the same for every seed
    standard = rng.standard_normal((n, 12))
    X = (standard + truth.uniform(-3, 3, 12)) * SCALES
    if isinstance(model, SGDLossClassifier):
        scores = standard @ truth.standard_normal((12, 3)) + [0.0, 0.5, 1.0] + rng.gumbel(size=(n, 3)) * 1.5
        return X, scores.argmax(axis=1)
    return X, standard @ truth.standard_normal(12) + 4 + 2 * rng.standard_normal(n)


def objective(model, X, y):
    """The mean loss of a model, summed over the scores, plus the penalty."""
    coef = np.atleast_2d(model.coef_).astype(float)
    raw = (X @ coef.T if sp.issparse(X) else np.asarray(X, float) @ coef.T) + model.intercept_
    weight = np.ones(len(y))
    if isinstance(model, SGDLossClassifier) and model.class_weight == "balanced":
        weight = (len(y) / (3 * np.bincount(y)))[y]
    losses = model._losses * (raw.shape[1] if len(model._losses) == 1 else 1)
    if losses[0].kind == "multiclass":
        mean = losses[0].loss(y, raw, weight)
    elif isinstance(model, SGDLossClassifier):
        signs = np.where(y[:, None] == np.arange(raw.shape[1]), 1.0, -1.0)
        mean = sum(one.loss(signs[:, k].copy(), raw[:, k].copy(), weight) for k, one in enumerate(losses))
    else:
        mean = sum(one.loss(np.asarray(y, float), raw[:, k].copy(), weight) for k, one in enumerate(losses))
    ratio = {"l2": 0.0, "elasticnet": model.l1_ratio, "l1": 1.0}[model.penalty]
    return mean + model.alpha * ((1 - ratio) / 2 * (coef**2).sum() + ratio * np.abs(coef).sum())


@pytest.mark.parametrize("model", LEARNERS, ids=str)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_one_pass_over_raw_columns_is_close_to_the_optimum(model, dtype):
    X, y = raw_data(model)
    model = clone(model).set_params(random_state=0, alpha=1e-8)
    learn(model, cut(1000, X.astype(dtype), y), first(model, y))
    assert model.coef_.dtype == dtype
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        best = objective(clone(model).fit(X, y), X, y)
    assert objective(model, X, y) <= 1.05 * best


@pytest.mark.parametrize("model", LEARNERS[:10:3], ids=str)
def test_one_pass_over_sparse_rows_is_close_to_the_optimum(model):
    rng = np.random.default_rng(0)
    X, y = raw_data(model)
    if isinstance(model, SGDLossClassifier):
        keep = rng.random(X.shape) < 0.3
        X = np.where(keep, X, 0)
        y = ((X / SCALES)[:, :3] + 1.5 * rng.gumbel(size=(len(y), 3))).argmax(axis=1)
    else:
        X = np.where(rng.random(X.shape) < 0.3, X, 0)
        y = (X / SCALES) @ rng.standard_normal(12) + 1 + rng.standard_normal(len(y))
    model = clone(model).set_params(random_state=0, alpha=1e-8)
    learn(model, cut(1000, sp.csr_matrix(X), y), first(model, y))
    best = objective(clone(model).fit(X, y), X, y)
    assert objective(model, X, y) <= 1.05 * best


@pytest.mark.parametrize("model", [LEARNERS[0], LEARNERS[1], LEARNERS[7], LEARNERS[9]], ids=str)
@pytest.mark.parametrize("size", [1, 10, 20_000])
def test_batches_may_be_of_any_size(model, size):
    X, y = raw_data(model, n=20_000 if size > 1 else 3000)
    model = clone(model).set_params(random_state=0, alpha=1e-8)
    learn(model, cut(size, X, y), first(model, y))
    best = objective(clone(model).fit(X, y), X, y)
    assert objective(model, X, y) <= (1.05 if size > 1 else 1.15) * best


@pytest.mark.parametrize("model", LEARNERS, ids=str)
def test_more_passes_come_closer(model):
    X, y = raw_data(model, n=10_000)
    model = clone(model).set_params(random_state=0, alpha=1e-6)
    one = clone(model).fit_stream(cut(1000, X, y), **first(model, y))
    many = clone(model).fit_stream(cut(1000, X, y), epochs=10, **first(model, y))
    best = objective(clone(model).fit(X, y), X, y)
    assert objective(many, X, y) <= min(objective(one, X, y) + 1e-3 * best, 1.05 * best)


@pytest.mark.parametrize("model", LEARNERS, ids=str)
def test_coefficients_do_not_jump(model):
    """Neither because the batch is tiny, nor because it moves the means and spreads of the columns."""
    X, y = raw_data(model, n=20_000)
    model = learn(clone(model).set_params(random_state=0), cut(1000, X, y), first(model, y))
    predictions = model.decision_function if isinstance(model, SGDLossClassifier) else model.predict
    coef, before = model.coef_.copy(), predictions(X)
    size = np.linalg.norm(coef * SCALES)
    model.partial_fit(X[:3], y[:3])
    assert np.linalg.norm((model.coef_ - coef) * SCALES) < 0.01 * size
    assert np.abs(predictions(X) - before).max() < 0.03 * np.abs(before).max()
    shifted = X[:3] + 5 * SCALES  # five standard deviations off, with the targets of a model that still holds
    answers = model.predict(shifted)
    model.partial_fit(shifted, answers[:, 0] if answers.ndim == 2 else answers)
    assert np.linalg.norm((model.coef_ - coef) * SCALES) < 0.05 * size


def test_moving_columns_do_not_spoil_an_exact_model():
    rng = np.random.default_rng(0)
    model = SGDLossRegressor(alpha=0, random_state=0)
    truth = rng.standard_normal(6)
    for k in range(60):
        X = rng.standard_normal((500, 6)) * (1 + k / 10) + k
        model.partial_fit(X, X @ truth + 2)
    np.testing.assert_allclose(model.coef_, truth, atol=0.05)
    np.testing.assert_allclose(model.predict(X), X @ truth + 2, atol=1.0)


@pytest.mark.parametrize("model", LEARNERS, ids=str)
def test_p33_a_batch_of_weight_zero_is_no_batch(model):
    X, y = make_data(model)
    model = clone(model).set_params(random_state=0)
    nothing = np.zeros(50)
    late = clone(model).partial_fit(X[:50] * 1e6, y[:50], sample_weight=nothing, **first(model, y))
    assert not late.coef_.any()
    assert not late.intercept_.any()
    assert late.t_ == 1
    for one in (late, plain := clone(model)):
        one.partial_fit(X[50:120], y[50:120], **first(model, y))
    assert_same(late, plain)
    late.partial_fit(X[:50] * 1e6, y[:50], sample_weight=nothing)
    assert_same(late, plain)
    for one in (late, plain):
        one.partial_fit(X[120:], y[120:])
    assert_same(late, plain)


def test_rows_of_weight_zero_teach_nothing():
    for model in (SGDLossClassifier("log_loss"), SGDLossRegressor("huber")):
        X, y = raw_data(model, n=8000)
        weight = np.ones(len(y))
        weight[::4] = 0
        spoilt = X.copy()
        spoilt[::4] *= 1e3
        model = clone(model).set_params(random_state=0, alpha=1e-8)
        learn(model, cut(1000, spoilt, y, weight), first(model, y))
        keep = weight > 0
        best = objective(clone(model).fit(X[keep], y[keep]), X[keep], y[keep])
        assert objective(model, X[keep], y[keep]) <= 1.05 * best


def test_weights_count_like_repetitions():
    """Not to the bit: a row of weight 3 is one long step, not three."""
    for model in (SGDLossClassifier("log_loss"), SGDLossRegressor()):
        X, y = raw_data(model, n=12_000)
        weight = np.random.default_rng(0).integers(1, 5, len(y)).astype(float)
        weight[y == y.min()] *= 3
        model = clone(model).set_params(random_state=0, alpha=1e-8)
        learn(model, cut(1000, X, y, weight), first(model, y))
        rows = np.repeat(np.arange(len(y)), weight.astype(int))
        best = objective(clone(model).fit(X[rows], y[rows]), X[rows], y[rows])
        assert objective(model, X[rows], y[rows]) <= 1.05 * best


def test_a_factor_on_all_weights_changes_nothing():
    """The objective is a weighted mean."""
    for model in (SGDLossClassifier("log_loss"), SGDLossRegressor("absolute_error")):
        X, y = raw_data(model, n=5000)
        weight = np.random.default_rng(0).uniform(0.5, 2.0, len(y))
        model = clone(model).set_params(random_state=0, alpha=1e-8)
        best = objective(clone(model).fit(X, y), X, y)
        for factor in (1e-3, 1e3):
            scaled = learn(clone(model), cut(500, X, y, factor * weight), first(model, y))
            assert objective(scaled, X, y) <= 1.1 * best


def test_balanced_classes_in_a_stream():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20_000, 4)) * [1, 100, 0.01, 1]
    y = (X[:, 0] + X[:, 1] / 100 + rng.logistic(size=20_000) > 4.5).astype(int)
    assert y.mean() < 0.06
    plain = SGDLossClassifier("log_loss", random_state=0)
    balanced = clone(plain).set_params(class_weight="balanced")
    for model in (plain, balanced):
        learn(model, cut(1000, X, y), {"classes": [0, 1]})
    recall = [model.predict(X[y == 1]).mean() for model in (plain, balanced)]
    reference = clone(balanced).fit(X, y)
    assert recall[0] < 0.3
    assert recall[1] > max(0.6, reference.predict(X[y == 1]).mean() - 0.1)
    np.testing.assert_allclose(balanced.coef_ * [1, 100, 0.01, 1], reference.coef_ * [1, 100, 0.01, 1], atol=0.2)
    # batches without one of the classes
    order = np.argsort(y, kind="stable")
    for model in (plain, balanced):
        sorted_by_label = learn(clone(model), cut(1000, X[order], y[order]), {"classes": [0, 1]})
        assert np.isfinite(sorted_by_label.coef_).all()


# The perceptron keeps its own steps, which suit standardised columns.
EVERYTHING = [
    *(SGDLossClassifier(loss) for loss in SGDLossClassifier._loss_names() if loss != "perceptron"),
    *(SGDLossRegressor(loss) for loss in SGDLossRegressor._loss_names()),
]


@pytest.mark.parametrize("model", EVERYTHING, ids=str)
@pytest.mark.parametrize("convert", [np.asarray, sp.csr_matrix])
def test_every_loss_learns_from_batches_without_a_warning(model, convert):
    X, y = make_data(model, n=4000)
    X = X * [1, 100, 0.01, 3, 1]
    model = clone(model).set_params(random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn(model, cut(250, convert(X), y), first(model, y))
    if isinstance(model, SGDLossClassifier):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimum = clone(model).fit(X, y).score(X, y)
        assert model.score(X, y) > optimum - 0.05
    else:
        loss = model._losses[0]
        raw = X @ model.coef_ + model.intercept_
        constants = np.linspace(-1, 4, 101)
        assert loss.loss(y, raw) < min(loss.loss(y, np.full_like(y, c)) for c in constants)


def test_dense_and_sparse_batches_may_alternate():
    for model in (SGDLossClassifier("log_loss"), SGDLossRegressor("huber")):
        X, y = raw_data(model, n=16_000)
        model = clone(model).set_params(random_state=0, alpha=1e-8)
        batches = [(sp.csr_matrix(a) if k % 2 else a, b) for k, (a, b) in enumerate(cut(1000, X, y))]
        learn(model, batches, first(model, y))
        best = objective(clone(model).fit(X, y), X, y)
        assert objective(model, X, y) <= 1.1 * best
        wide = sp.csr_matrix(X[:100])
        wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
        narrow = pickle.loads(pickle.dumps(model)).partial_fit(sp.csr_matrix(X[:100]), y[:100])
        assert_same(model.partial_fit(wide, y[:100]), narrow)


def test_untidy_csr_batches_are_tidied_up():
    model = SGDLossClassifier("log_loss", random_state=0)
    X, y = make_data(model)
    X = sp.csr_matrix(np.where(np.random.default_rng(0).random(X.shape) < 0.5, X, 0))
    twice = sp.csr_matrix((np.repeat(X.data / 2, 2), np.repeat(X.indices, 2), 2 * X.indptr), shape=X.shape)
    tidy = learn(clone(model), cut(50, X, y), {"classes": [0, 1, 2]})
    messy = learn(clone(model), cut(50, twice, y), {"classes": [0, 1, 2]})
    assert_same(tidy, messy, 1e-9)


@pytest.mark.parametrize("model", LEARNERS, ids=str)
def test_threads_do_not_change_a_bit(model):
    X, y = make_data(model, n=6000, d=20)
    model = clone(model).set_params(random_state=0)
    one = learn(clone(model).set_params(n_threads=1), cut(1500, X, y), first(model, y))
    for n_threads in (2, 3, None):
        assert_same(learn(clone(model).set_params(n_threads=n_threads), cut(1500, X, y), first(model, y)), one)


def test_a_pickled_learner_goes_on():
    for model in LEARNERS:
        X, y = make_data(model)
        model = clone(model).set_params(random_state=0)
        batches = cut(40, X, y)
        straight = learn(clone(model), batches, first(model, y))
        broken = learn(clone(model), batches[:2], first(model, y))
        learn(broken := pickle.loads(pickle.dumps(broken)), batches[2:])
        assert_same(broken, straight)
        assert not hasattr(clone(straight), "coef_")


def test_constraints_hold_in_a_stream():
    X, y = raw_data(SGDLossRegressor(), n=10_000)
    for parameters, low, high in (
        ({"positive": True}, 0, np.inf),
        ({"bounds": (-1 / SCALES, 0.5 / SCALES)}, -1 / SCALES, 0.5 / SCALES),
    ):
        model = SGDLossRegressor(random_state=0, alpha=1e-8, **parameters)
        for batch in cut(500, X, y):
            model.partial_fit(*batch)
            assert (model.coef_ >= low).all()
            assert (model.coef_ <= high).all()
        best = objective(clone(model).fit(X, y), X, y)
        assert objective(model, X, y) <= 1.1 * best


def test_a_fitted_model_goes_on_learning():
    for model in (SGDLossClassifier("log_loss"), SGDLossRegressor(), SGDLossClassifier("hinge", alpha=1e-3)):
        X, y = raw_data(model, n=20_000)
        model = clone(model).set_params(random_state=0, alpha=1e-8).fit(X[:10_000], y[:10_000])
        best = objective(clone(model).fit(X, y), X, y)
        model.partial_fit(X[10_000:10_010], y[10_000:10_010])
        assert objective(model, X, y) <= 1.05 * best
        learn(model, cut(1000, X[10_010:], y[10_010:]))
        assert objective(model, X, y) <= 1.05 * best


def test_columns_that_wake_up_late():
    """A column that was constant, or zero, so far."""
    rng = np.random.default_rng(0)
    for convert in (np.asarray, sp.csr_matrix):
        model = SGDLossRegressor(random_state=0, alpha=1e-8)
        X = rng.standard_normal((20_000, 4))
        X[:4000, 1] = 0
        X[:4000, 2] = 7
        y = X @ [1.0, 2.0, -1.0, 0.5] + 0.1 * rng.standard_normal(20_000)
        learn(model, [(convert(a), b) for a, b in cut(500, X, y)])
        np.testing.assert_allclose(model.coef_, [1, 2, -1, 0.5], atol=0.15)


def test_a_first_batch_of_one_row_or_one_class():
    X, y = make_data(SGDLossClassifier(), n=3000)
    for begin in (1, 40):
        for model in (SGDLossClassifier("log_loss"), SGDLossClassifier("hinge"), SGDLossClassifier("cross_entropy")):
            model = clone(model).set_params(random_state=0)
            rows = np.flatnonzero(y == 2)[:begin]
            model.partial_fit(X[rows], y[rows], classes=[0, 1, 2])
            assert np.isfinite(model.coef_).all()
            learn(model, cut(200, X, y))
            assert model.score(X, y) > 0.8


def test_several_outputs_learn_together():
    X, y = raw_data(SGDLossRegressor(), n=10_000)
    Y = np.column_stack([y, 5 * y - 3, -y])
    model = learn(SGDLossRegressor(random_state=0, alpha=1e-8), cut(500, X, Y))
    assert model.coef_.shape == (3, 12)
    assert model.score(X, Y) > SGDLossRegressor(alpha=1e-8).fit(X, Y).score(X, Y) - 0.02


def test_offsets_are_part_of_a_batch():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (20_000, 2)) * [1, 100]
    offset = rng.uniform(-2, 2, 20_000)
    y = rng.poisson(np.exp(X @ [0.5, -0.005] + 0.2 + offset))
    model = SGDLossRegressor("poisson", alpha=1e-8, random_state=0)
    for rows in np.split(np.arange(20_000), 20):
        model.partial_fit(X[rows], y[rows], offset=offset[rows])
    np.testing.assert_allclose(model.coef_ * [1, 100], [0.5, -0.5], atol=0.06)
    np.testing.assert_allclose(model.intercept_, 0.2, atol=0.06)


def test_soft_labels_in_a_stream():
    X, y = make_data(SGDLossClassifier(), n=4000)
    soft = 0.8 * np.eye(3)[y] + 0.2 / 3
    model = SGDLossClassifier("cross_entropy", random_state=0)
    learn(model, cut(200, X, soft), {"classes": ["a", "b", "c"]})
    assert set(model.predict(X)) == {"a", "b", "c"}
    reference = SGDLossClassifier("cross_entropy").fit(X, soft)
    assert np.abs(model.predict_proba(X) - reference.predict_proba(X)).max() < 0.1


def test_sorted_batches_shuffled_between_epochs():
    """A stream sorted by label is the worst case of one pass: more passes must repair it."""
    X, y = raw_data(SGDLossClassifier(), n=9000)
    order = np.argsort(y, kind="stable")
    model = SGDLossClassifier("log_loss", alpha=1e-8, random_state=0)
    model.fit_stream(cut(500, X[order], y[order]), epochs=20)
    assert model.score(X, y) > clone(model).fit(X, y).score(X, y) - 0.1


# -- dask-ml ---------------------------------------------------------------------------------------------------


@pytest.fixture
def dask_ml():
    """Not among the requirements of the tests: ``pip install dask-ml``."""
    return pytest.importorskip("dask_ml.wrappers", reason="dask-ml is not installed")


@pytest.mark.parametrize("learning_rate", ["auto", "optimal"])
def test_dask_ml_incremental(dask_ml, learning_rate):
    da = pytest.importorskip("dask.array")
    X, y = raw_data(SGDLossClassifier(), n=8000)
    X = X / SCALES
    model = SGDLossClassifier("log_loss", learning_rate=learning_rate, alpha=1e-3, random_state=0)
    blocks = da.from_array(X, chunks=(1000, 12)), da.from_array(y, chunks=1000)
    wrapped = dask_ml.Incremental(model, shuffle_blocks=False, assume_equal_chunks=True)
    wrapped.fit(*blocks, classes=[0, 1, 2])
    plain = learn(clone(model), cut(1000, X, y), {"classes": [0, 1, 2]})
    assert_same(wrapped.estimator_, plain)
    np.testing.assert_array_equal(wrapped.predict(blocks[0]).compute(), plain.predict(X))


def test_dask_ml_parallel_post_fit(dask_ml):
    da = pytest.importorskip("dask.array")
    for model, methods in (
        (SGDLossClassifier("log_loss"), ("predict", "predict_proba")),
        (SGDLossRegressor("poisson"), ("predict",)),
    ):
        X, y = make_data(model)
        wrapped = dask_ml.ParallelPostFit(clone(model)).fit(X, y)
        for method in methods:
            result = getattr(wrapped, method)(da.from_array(X, chunks=(60, 5))).compute()
            np.testing.assert_allclose(result, getattr(clone(model).fit(X, y), method)(X))


def test_a_stream_is_as_good_as_what_scikit_learn_needs_a_scaler_for():
    """The promise in one line: raw columns, one pass, no parameters."""
    from sklearn.linear_model import SGDClassifier

    X, y = raw_data(SGDLossClassifier())
    ours = SGDLossClassifier("log_loss", random_state=0).fit_stream(cut(2000, X, y))
    theirs = SGDClassifier(loss="log_loss", random_state=0)
    for batch in cut(2000, X, y):
        theirs.partial_fit(*batch, classes=[0, 1, 2])
    assert ours.score(X, y) > theirs.score(X, y) + 0.1


def test_steps_after_a_fit_are_as_long_as_a_streams():
    """The curvature of a loss with kinks has y's units, also where a fit came before the stream."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30_000, 3))
    y = 1e6 * (X[:, 0] + 0.3 * rng.standard_normal(30_000))
    model = SGDLossRegressor("quantile", alpha=1e-9, random_state=0).fit(X[:1000], y[:1000])
    before = model.intercept_[0]
    for begin in range(1000, 30_000, 1000):
        model.partial_fit(X[begin : begin + 1000], y[begin : begin + 1000] + 5e6)
    assert model.intercept_[0] - before > 4e6


@pytest.mark.parametrize("penalty", ["l1", "l2"])
@pytest.mark.parametrize("alpha", [0.01, 0.1, 1.0, 1e3])
def test_a_penalty_of_any_strength_is_paid(penalty, alpha):
    X, y = make_data(SGDLossRegressor(), n=8000)
    model = SGDLossRegressor(penalty=penalty, alpha=alpha, random_state=0)
    best = clone(model).fit(X, y)
    learn(model, cut(500, X, y))
    # without a penalty the greatest coefficient is 0.33
    np.testing.assert_allclose(model.coef_, best.coef_, atol=0.02)
