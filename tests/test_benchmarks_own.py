"""The benchmarks of what is the user's own: the two ways of a row lead to one result, and what is missing is said."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("benchmarks", reason="the benchmarks live in the source tree")

import fastloss
from benchmarks import own, own_call, own_functions, own_numpy, own_others, peers, problems, timing
from benchmarks.own import Function, Other
from benchmarks.report import Missing

RUN = peers.Run((), (1, 2))
PLAN = own.Plan((), (), rounds=3, least=3, budget=0.0, points=40)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Small arrays."""
    monkeypatch.setattr(problems, "BLOCK", 4096)
    monkeypatch.setattr(timing, "REST", 0.0)
    cached = (problems._block, problems._class_block, own._exact)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


def skip_if_missing(row):
    """A row whose package or compiler is not there has no figures."""
    cell = row["fastloss_time"]
    if isinstance(cell, Missing) and cell.kind == "n/a":
        pytest.skip(cell.reason)


# functions of one's own -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("loss", "language"),
    [("huber", "numba"), ("huber", "C"), ("huber", "NumPy"), ("log_cosh", "C"), ("log_cosh", "numba")],
)
def test_function_rows(loss, language, dtype):
    alone = language == "NumPy" or (loss, language) == ("log_cosh", "numba")
    (row,) = rows = own.measure(Function(loss, language, 10_001, dtype, alone=alone), PLAN, RUN)
    skip_if_missing(row)
    assert row["cores"] == 1
    assert row["difference"] < (1e-12 if dtype == "float64" else 1e-4)
    assert row["built-in_ratio"] == pytest.approx(row["fastloss_time"] / row["built-in_time"])
    assert max(row["built-in_errors"]) <= 4
    assert (language == "numba" and loss == "log_cosh") or max(row["fastloss_errors"]) <= 4
    assert ("alone_ratio" in row) == alone
    (table,) = own.tables(rows, PLAN, RUN)
    assert not table.failures("fastloss")
    assert language in table.as_text()


@pytest.mark.parametrize("language", ["numba", "C"])
def test_an_epoch_is_part_of_a_fit(language):
    (row,) = own.measure(Function("huber", language, 300, epoch=True), PLAN, RUN)
    skip_if_missing(row)
    assert row["what"] == "SGD epoch, 54 columns"
    assert row["difference"] < 1e-12
    assert row["fastloss_time"] == pytest.approx(row["fastloss_seconds"]["median"] * 1e3 / peers.Fit("", "").epochs)


def test_alone_does_all_blocks():
    pytest.importorskip("numba", reason="numba is not installed")
    y, raw = problems.arrays(fastloss.get_loss("log_cosh"), 2500, "float32")
    gradient = np.full_like(raw, np.nan)
    own_functions._bare_blocks(own_functions.in_numba("log_cosh", "float32").address, y, raw, gradient)()
    np.testing.assert_allclose(gradient, fastloss.gradient("log_cosh", y, raw, reduction="none"), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("part", ["loss", "gradient"])
def test_another_formula_is_a_failure(monkeypatch, part):
    honest = own_functions.huber_in_numpy

    def wrong(y, raw, delta):
        loss, gradient = honest(y, raw, delta)
        return (loss * 1.00001, gradient) if part == "loss" else (loss, gradient * 1.00001)

    monkeypatch.setattr(own_functions, "huber_in_numpy", wrong)
    rows = own.measure(Function("huber", "NumPy", 5000), PLAN, RUN)
    (table,) = own.tables(rows, PLAN, RUN)
    assert len(table.failures("fastloss")) == 1
    assert "differs from that of built-in" in rows[0]["fastloss_time"].reason
    assert "built-in_ratio" not in rows[0]


# what is missing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("numba", Function("huber", "numba", 100)),
        ("numba", Function("huber", "numba", 100, epoch=True)),
        ("torch", own._torch(100, "float32")),
        ("lightgbm", own._boosting(100)[0]),
        ("xgboost", own._boosting(100)[1]),
    ],
)
def test_a_missing_package_is_no_failure(monkeypatch, name, case):
    own_functions.in_numba.cache_clear()
    monkeypatch.setitem(sys.modules, name, None)
    (row,) = own.measure(case, PLAN, RUN)
    assert row["fastloss_time"] == Missing("n/a", f"{name} is not installed")
    (table,) = own.tables([row], PLAN, RUN)
    assert not table.failures("fastloss")
    assert f"n/a: {name} is not installed" in table.as_text()


@pytest.fixture
def no_library():
    own_functions._library.cache_clear()
    yield
    own_functions._library.cache_clear()


def test_a_missing_compiler_is_no_failure(monkeypatch, no_library):
    monkeypatch.setenv("CC", "no-such-compiler -O1")
    (row,) = own.measure(Function("huber", "C", 100), PLAN, RUN)
    assert row["fastloss_time"] == Missing("n/a", "no C compiler 'no-such-compiler'")


def test_a_compiler_that_fails_is_a_failure(monkeypatch, no_library):
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(own_functions.shutil, "which", lambda name: name)
    done = subprocess.CompletedProcess([], 1, "", "first\nerror: no such flag\n")
    monkeypatch.setattr(own_functions.subprocess, "run", lambda *args, **kwargs: done)
    with pytest.raises(RuntimeError, match="cc failed: first\nerror: no such flag"):
        own.measure(Function("huber", "C", 100), PLAN, RUN)


@pytest.mark.parametrize("case", [Function("huber", "C", 10), Other("sum", "parts", own_others.batch, 10)])
def test_what_raises_is_a_failure(case):
    (table,) = own.tables([own.failed(case, ValueError("no such thing"))], PLAN, RUN)
    assert len(table.failures("fastloss")) == 1
    assert "failed: ValueError: no such thing" in table.as_text()


# losses over a batch, in NumPy ----------------------------------------------------------------------------------


@pytest.fixture
def batch():
    rng = np.random.default_rng(3)
    y = (rng.random(301) < 0.3).astype(float)
    return y, np.round(rng.normal(size=301) + y, 2)  # with ties


@pytest.mark.parametrize("power", [1, 2])
def test_pairs_by_sorting(batch, power):
    y, raw = batch
    up, down = raw[y > 0], raw[y == 0]
    margins = np.maximum(0, 1 - (up[:, None] - down[None, :]))
    value, _ = own_numpy.pairwise_auc(y, raw, power)
    assert value == pytest.approx(np.mean(margins**power), rel=1e-12)
    surrogate = {1: "hinge", 2: "squared_hinge"}[power]
    raw = raw + 1e-6 * np.arange(len(raw))  # no margin is exactly 1
    ours = fastloss.get_loss("pairwise_auc", surrogate=surrogate).gradient(y, raw)
    np.testing.assert_allclose(own_numpy.pairwise_auc(y, raw, power)[1], ours, rtol=0, atol=1e-12 * abs(ours).max())


@pytest.mark.parametrize("name", [name for name in own_others.IN_NUMPY if "pairwise" not in name])
def test_numpys_values_and_gradients_are_ours(batch, name):
    y, raw = batch
    loss, function = fastloss.get_loss(name), own_others.IN_NUMPY[name]
    raw = raw + 1e-6 * np.arange(len(raw))  # where there are ties several subgradients are right
    if name in own.RANKING:
        y = np.random.default_rng(4).integers(0, 5, len(raw)).astype(float)
        found = own_numpy.by_group(function, y[:300], raw[:300], 60)
        wanted = loss.loss_gradient(y[:300], raw[:300], group=[60] * 5, reduction="sum")
    else:
        found, wanted = function(y, raw), loss.loss_gradient(y, raw)
    assert found[0] == pytest.approx(wanted[0], rel=1e-11)
    np.testing.assert_allclose(found[1], wanted[1], rtol=0, atol=1e-11 * np.abs(wanted[1]).max())


# the other way --------------------------------------------------------------------------------------------------

QUICK = own.PLANS["quick"].others


@pytest.mark.parametrize("case", QUICK, ids=lambda case: f"{case.title}, {case.beside}")
def test_other_rows(case):
    case = dataclasses.replace(case, n=min(case.n, 1000))
    (row, *_) = rows = own.measure(case, PLAN, RUN)
    skip_if_missing(row)
    assert row["difference"] <= (1e-11 if case.dtype == "float64" else 1e-5)
    assert row["other_ratio"] == pytest.approx(row["other_time"] / row["fastloss_time"])
    (table,) = own.tables(rows, PLAN, RUN)
    assert not table.failures("fastloss")
    assert case.title in table.as_text()


def test_which_numbers_of_threads():
    case = own._batch("soft_fbeta", 500)
    assert [row["cores"] for row in own.measure(case, PLAN, RUN)] == [1, 2]
    assert [row["cores"] for row in own.measure(dataclasses.replace(case, one=True), PLAN, RUN)] == [1]


def test_a_part_of_the_groups_is_scaled(monkeypatch):
    monkeypatch.setattr(own_others, "LOOPED", 2)
    (row,) = own.measure(own._ranking("listnet", 1000, one=True), PLAN, RUN)
    assert row["other_scale"] == 5
    assert row["other_time"] == pytest.approx(5e3 * row["other_seconds"]["median"])
    assert row["difference"] < 1e-12


def test_a_wrong_gradient_is_seen(monkeypatch):
    def wrong(y, s):
        value, gradient = own_numpy.listnet(y, s)
        return value, gradient * 1.00001

    monkeypatch.setitem(own_others.IN_NUMPY, "listnet", wrong)
    (row,) = own.measure(own._ranking("listnet", 1000, one=True), PLAN, RUN)
    assert row["fastloss_time"].kind == "failed"
    assert "other_ratio" not in row


def test_difference():
    a = [np.array(2.0), np.array([1.0, -4.0])]
    assert own_call.difference(a, a) == 0
    assert own_call.difference([np.array(2.0), np.array([1.0, -4.4])], a) == pytest.approx(0.1)
    assert own_call.difference([np.array(2.5), a[1]], a) == pytest.approx(0.25)
    assert own_call.difference([np.array(np.nan), a[1]], a) == np.inf
    assert own_call.difference([a[0], np.array([1.0])], a) == np.inf
    with pytest.raises(ValueError, match="zip"):
        own_call.difference(a[:1], a)


# plans ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["quick", "default", "full"])
def test_plans(level):
    cases = own.cases(own.PLANS[level])
    titles = [" ".join(map(str, case.labels.values())) for case in cases]
    assert len(set(titles)) == len(titles)
    told = " ".join(titles)
    for what in ("numba", "C", "NumPy", "SGD", *own.BATCH, *own.RANKING, "MultiTask", "torch", "LightGBM", "XGBoost"):
        assert what in told
