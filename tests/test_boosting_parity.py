"""Training with our losses inside LightGBM and XGBoost: their own models, and models that they cannot make.

What is compared was found with LightGBM 4.7.0 and XGBoost 3.2.0.
"""

import pickle

import numpy as np
import pytest
from sklearn.base import clone

from fastloss import get_loss

ROUNDS = 50
LIGHTGBM = {"verbose": -1, "num_threads": 1, "deterministic": True, "seed": 0, "num_leaves": 8}
XGBOOST = {"nthread": 1, "seed": 0, "max_depth": 3, "verbosity": 0}


@pytest.fixture(scope="module")
def lgb():
    return pytest.importorskip("lightgbm", reason="LightGBM is not installed")


@pytest.fixture(scope="module")
def xgb():
    return pytest.importorskip("xgboost", reason="XGBoost is not installed")


@pytest.fixture(scope="module")
def table():
    """Columns, weights, and targets of every kind; values that float32 holds, as the hosts do."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 5))
    signal = X[:, 0] + X[:, 1] * X[:, 2]
    y = {
        "real": signal + rng.standard_t(3, size=600) / 2,
        "count": rng.poisson(np.exp(0.4 * signal)),
        "amount": rng.gamma(2, np.exp(0.3 * signal)) + 0.01,
        "label": signal + rng.logistic(size=600) > 0.7,
        "class": np.clip(np.round(signal + rng.normal(size=600)), -1, 1) + 1,
    }
    weight = rng.uniform(0.2, 3, 600).astype(np.float32)
    return X, {kind: target.astype(np.float32) for kind, target in y.items()}, weight


@pytest.fixture(params=[False, True], ids=["unweighted", "weighted"])
def weighted(request):
    return request.param


# ------------------------------------------------------------------------------------------------- parity
IN_LIGHTGBM = [
    # (host's objective, its parameters, loss, its parameters, target)
    ("regression", {}, "squared_error", {}, "real"),
    ("huber", {"alpha": 0.7}, "huber", {"delta": 0.7}, "real"),
    ("fair", {"fair_c": 0.7}, "fair", {"scale": 0.7}, "real"),
    ("poisson", {}, "poisson", {}, "count"),
    ("gamma", {}, "gamma", {}, "amount"),
    ("tweedie", {"tweedie_variance_power": 1.3}, "tweedie", {"power": 1.3}, "count"),
    ("binary", {}, "log_loss", {}, "label"),
    ("binary", {"scale_pos_weight": 3.0}, "log_loss", {"pos_weight": 3.0}, "label"),
    ("cross_entropy", {}, "log_loss", {}, "label"),
    ("multiclass", {"num_class": 3}, "cross_entropy", {}, "class"),
]
IN_XGBOOST = [
    ("reg:squarederror", {}, "squared_error", {}, "real"),
    ("reg:pseudohubererror", {"huber_slope": 2.0}, "pseudo_huber", {"delta": 2.0}, "real"),
    ("reg:squaredlogerror", {}, "msle", {}, "amount"),
    ("count:poisson", {}, "poisson", {}, "count"),
    ("reg:gamma", {}, "gamma", {}, "amount"),
    ("reg:tweedie", {"tweedie_variance_power": 1.3}, "tweedie", {"power": 1.3}, "count"),
    ("binary:logistic", {}, "log_loss", {}, "label"),
    ("binary:logistic", {"scale_pos_weight": 3.0}, "log_loss", {"pos_weight": 3.0}, "label"),
    ("binary:hinge", {}, "hinge", {}, "label"),
    ("multi:softprob", {"num_class": 3}, "cross_entropy", {}, "class"),
]


def names(value):
    return value if isinstance(value, str) else "-".join(map(str, value.values())) or " "


def link_of_host(name):
    """`predict` undoes pos_weight, the hosts do not."""
    return "sigmoid" if name == "log_loss" else "loss"


@pytest.mark.parametrize(("objective", "params", "name", "ours", "target"), IN_LIGHTGBM, ids=names)
def test_lightgbms_own_model(lgb, table, weighted, objective, params, name, ours, target):
    X, targets, weight = table
    y, weight = targets[target], weight if weighted else None
    adapter = get_loss(name, **ours).as_lightgbm()
    own = lgb.train({**LIGHTGBM, **params, "objective": objective}, lgb.Dataset(X, y, weight=weight), ROUNDS)
    start = adapter.init_score(y, weight)
    given = {key: value for key, value in params.items() if key == "num_class"}
    data = lgb.Dataset(X, y, weight=weight, init_score=start)
    model = lgb.train({**LIGHTGBM, **given, "objective": adapter}, data, ROUNDS)
    raw = model.predict(X) + start[0]
    assert model.num_trees() == own.num_trees() == ROUNDS * given.get("num_class", 1)
    np.testing.assert_allclose(raw, own.predict(X, raw_score=True), rtol=0, atol=1e-6)
    np.testing.assert_allclose(adapter.loss.predict(raw, link_of_host(name)), own.predict(X), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"truncation": 3, "sigmoid": 2.0, "normalize": False}], ids=names)
def test_lightgbms_own_ranking(lgb, table, settings):
    """Tree by tree, each from the host's scores: its table of sigmoids is right to 1e-5 only, so splits differ in time."""
    X, targets, _ = table
    grade, sizes = np.clip(np.round(targets["real"] + 1), 0, 4), [7, 13, 30, 1, 49] * 6
    loss = get_loss("lambdarank", **settings)
    known = {"truncation": "lambdarank_truncation_level", "sigmoid": "sigmoid", "normalize": "lambdarank_norm"}
    params = {**LIGHTGBM, **{known[key]: value for key, value in settings.items()}, "objective": "lambdarank"}
    start = None
    for rounds in (1, 10, 30):
        data = (lgb.Dataset(X, grade, group=sizes, init_score=start) for _ in range(2))
        own = lgb.train(params, next(data), 1).predict(X)
        model = lgb.train({**LIGHTGBM, "objective": loss.as_lightgbm()}, next(data), 1)
        np.testing.assert_allclose(model.predict(X), own, rtol=0, atol=2e-5)
        assert np.ptp(own) > 0.05
        start = lgb.train(params, lgb.Dataset(X, grade, group=sizes), rounds).predict(X)
    ours = lgb.train({**LIGHTGBM, "objective": loss.as_lightgbm()}, lgb.Dataset(X, grade, group=sizes), 30).predict(X)
    assert loss.loss(grade, ours, group=sizes) < 1.05 * loss.loss(grade, start, group=sizes)


@pytest.mark.parametrize(("objective", "params", "name", "ours", "target"), IN_XGBOOST, ids=names)
def test_xgboosts_own_model(xgb, table, weighted, objective, params, name, ours, target):
    X, targets, weight = table
    y, weight = targets[target], weight if weighted else None
    adapter = get_loss(name, **ours).as_xgboost()
    own = xgb.train({**XGBOOST, **params, "objective": objective}, xgb.DMatrix(X, y, weight=weight), ROUNDS)
    data = xgb.DMatrix(X, y, weight=weight, base_margin=adapter.init_score(y, weight))
    given = {key: value for key, value in params.items() if key == "num_class"}
    model = xgb.train({**XGBOOST, **given, **adapter.params}, data, ROUNDS, obj=adapter)
    raw, expected = (booster.predict(d, output_margin=True) for booster, d in ((model, data), (own, xgb.DMatrix(X))))
    # The scores are float32: 1e-6 of one, or of a larger one's size.
    np.testing.assert_allclose(raw, expected, rtol=1e-6, atol=1e-6)
    assert np.ptp(raw) > 0.5
    found, theirs = adapter.loss.predict(raw, link_of_host(name)), own.predict(xgb.DMatrix(X))
    np.testing.assert_allclose(found, theirs, rtol=1e-6 * max(1, abs(raw).max()), atol=1e-6)  # of exp: as raw's error


def test_without_the_adapter_models_differ(lgb, xgb, table):
    """P29 and P30 of the peers: what the parity above is made of."""
    X, targets, _ = table
    y, loss = targets["label"], get_loss("log_loss")
    own = lgb.train({**LIGHTGBM, "objective": "binary"}, lgb.Dataset(X, y), ROUNDS)
    bare = lgb.train({**LIGHTGBM, "objective": loss.as_lightgbm()}, lgb.Dataset(X, y), ROUNDS)
    assert abs(bare.predict(X) - own.predict(X, raw_score=True)).max() > 0.1
    own = xgb.train({**XGBOOST, "objective": "binary:logistic"}, xgb.DMatrix(X, y), ROUNDS)
    bare = xgb.train(XGBOOST, xgb.DMatrix(X, y), ROUNDS, obj=loss.as_xgboost())
    difference = bare.predict(xgb.DMatrix(X)) - own.predict(xgb.DMatrix(X), output_margin=True)
    assert abs(difference).max() > 0.1
    y, loss = targets["class"], get_loss("cross_entropy")
    start = loss.as_xgboost().init_score(y)
    data = xgb.DMatrix(X, y, base_margin=start)
    factors = [
        xgb.train({**XGBOOST, "num_class": 3}, data, ROUNDS, obj=loss.as_xgboost(hessian)).predict(data)
        for hessian in ("auto", "exact")
    ]
    assert abs(factors[0] - factors[1]).max() > 0.1


@pytest.mark.parametrize("step", [0.3, 0.7, 1.0])
def test_poissons_max_delta_step(xgb, table, step):
    """The parameter is XGBoost's step limit and part of its hessian; the adapter's hessian has the default."""
    X, targets, _ = table
    adapter = get_loss("poisson").as_xgboost()
    data = xgb.DMatrix(X, targets["count"], base_margin=adapter.init_score(targets["count"]))
    own = xgb.train({**XGBOOST, "objective": "count:poisson", "max_delta_step": step}, data, 10)
    model = xgb.train({**XGBOOST, **adapter.params}, data, 10, obj=adapter)
    close = np.allclose(model.predict(data), own.predict(data, output_margin=True), rtol=1e-6, atol=1e-6)
    assert close == (step == 0.7)


# Leaves that are set anew ------------------------------------------------------------------------------------------

RENEWED = [
    ("regression_l1", "reg:absoluteerror", {}, "absolute_error", {}),
    ("quantile", "reg:quantileerror", {"alpha": 0.8, "quantile_alpha": 0.8}, "quantile", {"quantile": 0.8}),
    ("mape", None, {}, "mape", {"epsilon": 1.0}),
]


@pytest.mark.parametrize(("in_lightgbm", "in_xgboost", "params", "name", "ours"), RENEWED)
def test_lightgbms_first_tree(lgb, table, weighted, in_lightgbm, in_xgboost, params, name, ours):
    """Same gradients and hessians: same splits, gains and sums of hessians; leaves are another matter."""
    X, targets, weight = table
    if name == "mape" and weighted:
        weight = np.full(len(X), 2.5)  # LightGBM says that its hessian is constant, and takes the first for all
    weight = weight if weighted else None
    adapter = get_loss(name, **ours).as_lightgbm()
    start = np.full(len(X), 0.125)
    trees = []
    for objective in (in_lightgbm, adapter):
        data = lgb.Dataset(X, targets["real"], weight=weight, init_score=start)
        booster = lgb.train({**LIGHTGBM, **params, "objective": objective}, data, 1)
        trees.append(booster.trees_to_dataframe())
    columns = ["split_feature", "threshold", "split_gain", "weight", "count"]
    for column in columns[1:]:
        np.testing.assert_allclose(trees[1][column], trees[0][column], rtol=1e-5)
    assert list(trees[1]["split_feature"]) == list(trees[0]["split_feature"])
    assert not np.allclose(trees[1]["value"], trees[0]["value"], rtol=0.1)


@pytest.mark.parametrize(("in_lightgbm", "in_xgboost", "params", "name", "ours"), RENEWED[:2])
def test_xgboosts_first_tree(xgb, table, weighted, in_lightgbm, in_xgboost, params, name, ours):
    X, targets, weight = table
    data = xgb.DMatrix(X, targets["real"], weight=weight if weighted else None, base_margin=np.full(len(X), 0.125))
    adapter = get_loss(name, **ours).as_xgboost()
    given = {"quantile_alpha": 0.8} if name == "quantile" else {}
    own = xgb.train({**XGBOOST, **given, "objective": in_xgboost}, data, 1).trees_to_dataframe()
    tree = xgb.train({**XGBOOST, **adapter.params}, data, 1, obj=adapter).trees_to_dataframe()
    assert list(tree["Feature"]) == list(own["Feature"])
    splits = own["Feature"] != "Leaf"
    np.testing.assert_allclose(tree["Cover"], own["Cover"], rtol=1e-5)
    np.testing.assert_allclose(tree["Gain"][splits], own["Gain"][splits], rtol=1e-5)
    assert not np.allclose(tree["Gain"][~splits], own["Gain"][~splits], rtol=0.1)


# ------------------------------------------------------------------------------------------------- estimators
def test_lightgbms_estimators(lgb, table, weighted):
    X, targets, weight = table
    weight = weight if weighted else None
    cases = [
        (lgb.LGBMRegressor, "huber", {"delta": 0.9}, "huber", "real"),
        (lgb.LGBMClassifier, "log_loss", {}, "binary", "label"),
        (lgb.LGBMClassifier, "cross_entropy", {}, "multiclass", "class"),
    ]
    options = {"n_jobs": 1, "verbose": -1, "n_estimators": ROUNDS, "num_leaves": 8}
    for estimator, name, params, objective, target in cases:
        y, adapter = targets[target], get_loss(name, **params).as_lightgbm()
        own = estimator(objective=objective, **options).fit(X, y, sample_weight=weight)
        model = clone(estimator(**adapter.params, **options))
        start = adapter.init_score(y, weight)
        model.fit(X, y, sample_weight=weight, init_score=start)
        raw = model.predict(X, raw_score=True) + start[0]
        np.testing.assert_allclose(raw, own.predict(X, raw_score=True), rtol=0, atol=1e-6)
        again = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(again.predict(X, raw_score=True), model.predict(X, raw_score=True))
        assert again.objective == adapter


def test_xgboosts_estimators(xgb, table, weighted):
    X, targets, weight = table
    weight = weight if weighted else None
    cases = [
        (xgb.XGBRegressor, "poisson", "count:poisson", "count"),
        (xgb.XGBClassifier, "log_loss", "binary:logistic", "label"),
        (xgb.XGBClassifier, "cross_entropy", "multi:softprob", "class"),
    ]
    options = {"n_jobs": 1, "n_estimators": ROUNDS, "max_depth": 3}
    for estimator, name, objective, target in cases:
        y, adapter = targets[target], get_loss(name).as_xgboost()
        own = estimator(objective=objective, **options).fit(X, y, sample_weight=weight)
        model = clone(estimator(objective=adapter, **adapter.params, **options))
        start = adapter.init_score(y, weight)
        model.fit(X, y, sample_weight=weight, base_margin=start)
        raw = model.predict(X, output_margin=True, base_margin=start)
        np.testing.assert_allclose(raw, own.predict(X, output_margin=True), rtol=1e-6, atol=1e-6)
        if estimator is xgb.XGBClassifier:  # it applies the link of the target's kind by itself
            np.testing.assert_allclose(model.predict_proba(X, base_margin=start), own.predict_proba(X), atol=1e-6)


def test_xgboosts_base_score_is_a_start_that_the_model_keeps(xgb, table):
    X, targets, _ = table
    adapter = get_loss("gamma").as_xgboost()
    start = adapter.init_score(targets["amount"])
    kept = {**XGBOOST, **adapter.params, "base_score": start[0]}
    model = xgb.train(kept, xgb.DMatrix(X, targets["amount"]), 10, obj=adapter)
    own = xgb.train({**XGBOOST, "objective": "reg:gamma"}, xgb.DMatrix(X, targets["amount"]), 10)
    np.testing.assert_allclose(adapter.predict(model.predict(xgb.DMatrix(X))), own.predict(xgb.DMatrix(X)), rtol=1e-6)


# ------------------------------------------------------------------------------------------------- other losses
TRAINABLE = [
    ("focal", {}, "label"),
    ("focal", {"gamma": 4.0, "alpha": 0.25}, "label"),
    ("log_loss", {"label_smoothing": 0.1}, "label"),
    ("poly1", {"epsilon": 5.0}, "label"),
    ("hinge", {}, "label"),
    ("smooth_hinge", {"gamma": 0.5}, "label"),
    ("modified_huber", {}, "label"),
    ("exponential", {}, "label"),
    ("tukey", {"scale": 2.0}, "real"),
    ("welsch", {}, "real"),
    ("cauchy", {}, "real"),
    ("log_cosh", {}, "real"),
    ("pseudo_huber", {"delta": 0.5}, "real"),
    ("quantile", {"quantile": 0.8}, "real"),
    ("smooth_quantile", {"quantile": 0.8, "delta": 0.1}, "real"),
    ("expectile", {"expectile": 0.9}, "real"),
    ("epsilon_insensitive", {}, "real"),
    ("absolute_error", {}, "real"),
    ("mape", {"epsilon": 0.1}, "amount"),
    ("negative_binomial", {}, "count"),
    ("tweedie", {"power": 2.5}, "amount"),
    ("cross_entropy", {"label_smoothing": 0.1}, "class"),
    ("cross_entropy", {"z_loss": 0.01}, "class"),
    ("multiclass_focal", {}, "class"),
    ("generalized_cross_entropy", {}, "class"),
    ("multiclass_hinge", {}, "class"),
    ("multiclass_squared_hinge", {}, "class"),
    ("sparsemax", {}, "class"),
    ("entmax15", {}, "class"),
]


@pytest.mark.parametrize(("name", "params", "target"), TRAINABLE, ids=names)
def test_training_lowers_the_loss(lgb, xgb, table, name, params, target):
    X, targets, weight = table
    y, loss = targets[target], get_loss(name, **params)
    more = {"num_class": 3} if target == "class" else {}

    in_lightgbm = loss.as_lightgbm()
    start = in_lightgbm.init_score(y, weight)
    before = loss.loss(y, start, weight)
    data = lgb.Dataset(X, y, weight=weight, init_score=start)
    model = lgb.train({**LIGHTGBM, **more, **in_lightgbm.params}, data, 20)
    assert loss.loss(y, model.predict(X) + start[0], weight) < 0.95 * before

    in_xgboost = loss.as_xgboost()
    data = xgb.DMatrix(X, y, weight=weight, base_margin=start)
    model = xgb.train({**XGBOOST, **more, **in_xgboost.params}, data, 20, obj=in_xgboost)
    assert loss.loss(y, model.predict(data, output_margin=True), weight) < 0.95 * before


def test_far_outliers(lgb, table):
    """Second derivatives die away there; LightGBM would find no leaf with enough of them."""
    X, targets, _ = table
    y, loss = 1000 * targets["real"], get_loss("log_cosh")
    losses = []
    for hessian in ("auto", "exact"):
        data = lgb.Dataset(X, y, init_score=np.zeros(len(X)))
        model = lgb.train({**LIGHTGBM, "objective": loss.as_lightgbm(hessian)}, data, 20)
        losses.append(loss.loss(y, model.predict(X)))
    before = loss.loss(y, np.zeros(len(X)))
    assert losses[0] < 0.8 * before
    assert losses[1] == pytest.approx(before, rel=1e-6)


def test_several_outputs_in_xgboost(xgb, table):
    X, targets, weight = table
    Y = np.column_stack([targets["real"], targets["amount"]])
    adapter = get_loss("huber").as_xgboost()
    data = xgb.DMatrix(X, Y, weight=weight, base_margin=adapter.init_score(Y, weight))
    model = xgb.train({**XGBOOST, "num_target": 2, **adapter.params}, data, 10, obj=adapter)
    raw = model.predict(data, output_margin=True)
    for k in range(2):
        one = xgb.DMatrix(X, Y[:, k], weight=weight, base_margin=adapter.init_score(Y[:, k], weight))
        alone = xgb.train({**XGBOOST, **adapter.params}, one, 10, obj=adapter).predict(one, output_margin=True)
        np.testing.assert_allclose(raw[:, k], alone, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------- metrics
def test_metric_in_lightgbm(lgb, table):
    """It has the values of the host's own metric, for training, validation and early stopping."""
    X, targets, weight = table
    y, adapter = targets["label"], get_loss("log_loss").as_lightgbm()
    curves = []
    for params, feval in (
        ({"objective": "binary", "metric": "binary_logloss"}, None),
        (adapter.params, adapter.metric),
    ):
        start = adapter.init_score(y[:400], weight[:400])
        train = lgb.Dataset(X[:400], y[:400], weight=weight[:400], init_score=start)
        held = lgb.Dataset(X[400:], y[400:], weight=weight[400:], init_score=np.full(200, start[0]), reference=train)
        seen = {}
        stop = [lgb.record_evaluation(seen), lgb.early_stopping(5, verbose=False)]
        lgb.train({**LIGHTGBM, **params}, train, 200, valid_sets=[held], feval=feval, callbacks=stop)
        ((curve,),) = (metrics.values() for metrics in seen.values())
        curves.append(curve)
    assert len(curves[1]) < 200
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-6)


def test_metric_in_lightgbms_estimators(lgb, table):
    X, targets, weight = table
    y, adapter = targets["class"], get_loss("cross_entropy").as_lightgbm()
    model = lgb.LGBMClassifier(**adapter.params, n_estimators=5, n_jobs=1, verbose=-1)
    sets = {"eval_X": X, "eval_y": y, "eval_sample_weight": [weight], "eval_metric": adapter.metric}
    model.fit(X, y, sample_weight=weight, **sets)
    raw = model.predict(X, raw_score=True)
    (curves,) = model.evals_result_.values()
    assert curves["cross_entropy"][-1] == pytest.approx(adapter.loss.loss(y, raw, weight), rel=1e-12)


def test_metric_in_xgboost(xgb, table):
    X, targets, weight = table
    y, adapter = targets["label"], get_loss("log_loss").as_xgboost()
    start = adapter.init_score(y[:400], weight[:400])
    train = xgb.DMatrix(X[:400], y[:400], weight=weight[:400], base_margin=start)
    held = xgb.DMatrix(X[400:], y[400:], weight=weight[400:], base_margin=np.full(200, start[0]))
    own, ours = {}, {}
    keywords = {"num_boost_round": 100, "early_stopping_rounds": 5, "verbose_eval": False, "evals": [(held, "held")]}
    xgb.train({**XGBOOST, "objective": "binary:logistic"}, train, evals_result=own, **keywords)
    functions = {"obj": adapter, "custom_metric": adapter.metric}
    xgb.train({**XGBOOST, **adapter.params}, train, evals_result=ours, **functions, **keywords)
    assert list(ours["held"]) == ["log_loss"]
    assert len(ours["held"]["log_loss"]) < 100
    np.testing.assert_allclose(ours["held"]["log_loss"], own["held"]["logloss"], rtol=1e-5)


def test_metric_in_xgboosts_estimators(xgb, table):
    X, targets, weight = table
    y, adapter = targets["class"], get_loss("cross_entropy").as_xgboost()
    options = {"n_estimators": 5, "n_jobs": 1, "eval_metric": adapter.metric}
    model = xgb.XGBClassifier(objective=adapter, **adapter.params, **options)
    model.fit(X, y, sample_weight=weight, eval_set=[(X, y)], sample_weight_eval_set=[weight], verbose=False)
    raw = model.predict(X, output_margin=True)
    (curves,) = model.evals_result().values()
    assert curves["cross_entropy"][-1] == pytest.approx(adapter.loss.loss(y, raw, weight), rel=1e-6)


def test_cross_validation(lgb, xgb, table):
    X, targets, _ = table
    y, loss = targets["real"], get_loss("squared_error")
    adapter = loss.as_lightgbm()
    data = lgb.Dataset(X, y, init_score=adapter.init_score(y))
    found = lgb.cv({**LIGHTGBM, **adapter.params}, data, 5, nfold=3, stratified=False, feval=adapter.metric)
    assert found["valid squared_error-mean"][-1] < found["valid squared_error-mean"][0]
    adapter = loss.as_xgboost()
    data = xgb.DMatrix(X, y, base_margin=adapter.init_score(y))
    functions = {"obj": adapter, "custom_metric": adapter.metric}
    found = xgb.cv({**XGBOOST, **adapter.params}, data, 5, nfold=3, as_pandas=False, **functions)
    assert found["test-squared_error-mean"][-1] < found["test-squared_error-mean"][0]


# ------------------------------------------------------------------------------------------------- what hosts pass
def test_groups_reach_the_call(lgb, xgb, table):
    """Both hosts' data sets give sizes; XGBoost's have weights of groups."""
    from fastloss.boosting import _arguments

    X, targets, weight = table
    sizes = [100, 200, 300]
    data = lgb.Dataset(X, targets["real"], weight=weight, group=sizes).construct()
    y, raw, weights, group = _arguments("scores", data, None, None)
    assert raw == "scores"
    np.testing.assert_array_equal(y, targets["real"])
    np.testing.assert_array_equal(weights, weight)
    np.testing.assert_array_equal(group, sizes)
    data = xgb.DMatrix(X, targets["real"])
    data.set_group(sizes)
    data.set_weight([1.0, 2.0, 3.0])
    _, _, weights, group = _arguments("scores", data, None, None)
    np.testing.assert_array_equal(group, sizes)
    np.testing.assert_array_equal(weights, np.repeat([1.0, 2.0, 3.0], sizes))


def test_errors_come_through_the_hosts(lgb, xgb, table):
    X, targets, _ = table
    y, poisson = targets["count"].copy(), get_loss("poisson")
    y[7] = -1
    with pytest.raises(ValueError, match=r"y_true\[7\]"):
        lgb.train({**LIGHTGBM, "objective": poisson.as_lightgbm()}, lgb.Dataset(X, y), 2)
    with pytest.raises(ValueError, match=r"y_true\[7\]"):
        xgb.train(XGBOOST, xgb.DMatrix(X, y), 2, obj=poisson.as_xgboost())
    classes = get_loss("cross_entropy")
    with pytest.raises(ValueError, match="num_class"):
        lgb.train({**LIGHTGBM, "objective": classes.as_lightgbm()}, lgb.Dataset(X, targets["class"]), 2)
    with pytest.raises(ValueError, match="num_class"):
        xgb.train({**XGBOOST, "num_class": 3}, xgb.DMatrix(X, targets["count"]), 2, obj=poisson.as_xgboost())
