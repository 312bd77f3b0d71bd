"""Whole fits beside peers: each in a process that can be stopped, measured by the objective it was after."""

import dataclasses
import json
import lzma

import numpy as np
import pytest

pytest.importorskip("benchmarks", reason="the benchmarks live in the source tree")

from benchmarks import estimators, optima, peer_fastloss, peer_sklearn, peers, problems
from benchmarks.optima import Descent
from benchmarks.peers import Optimum
from benchmarks.report import Missing

RUN = peers.Run(tuple(peers.load(("numpy", "sklearn"))[0]), (1,))
BINARY = Descent("creditcard", Optimum("binary", "log_loss", alpha=1e-3), scaled=True)


@pytest.fixture(autouse=True)
def no_real_data(monkeypatch):
    monkeypatch.delenv("FASTLOSS_DATA", raising=False)  # processes inherit it
    problems.dataset.cache_clear()
    yield
    problems.dataset.cache_clear()


def test_rows():
    rows = optima.measure(BINARY, 60.0, 2, 60.0, RUN)
    by = ["fastloss", *(f"scikit-learn: StandardScaler, LogisticRegression{s}" for s in ("", "(liblinear)"))]
    assert [row["by"] for row in rows] == by
    for row in rows:
        assert row["data"] == "breast_cancer (scikit-learn's)"
        assert len(row["seconds"]) == 2
        assert row["ended"] == "converged"
        assert 0 <= row["gap"] <= 1e-3
        assert row["objective"] > row["mean_loss"]
    assert rows[0]["gap"] <= optima.PROMISED
    assert rows[1]["ratio"] == pytest.approx(rows[1]["time"] / rows[0]["time"])
    plan = estimators.Plan((), descents=(BINARY,))
    (table,) = estimators.tables(rows, plan, RUN)
    assert "LogisticRegression(liblinear)" in table.as_text()
    assert not table.failures("fastloss")


def test_a_fit_that_takes_too_long_is_stopped():
    facts = optima._Facts(BINARY)
    with optima._entries(BINARY, [(peer_sklearn, "LogisticRegression")]) as (entry,):
        assert entry.missing is None
        assert optima._receive(entry, 0.0) is None  # it was not asked to fit: nothing comes
    assert not entry.process.is_alive()
    assert entry.missing == Missing("stopped", "did not finish in 0 s")
    assert optima._figures(entry, {}, facts) == {"time": entry.missing}


@pytest.mark.parametrize(("peer", "kind"), [(peer_sklearn, "error"), (peer_fastloss, "failed")])
def test_errors_are_reported(peer, kind):
    with optima._entries(BINARY, [(peer, "no such title")]) as (entry,):
        assert entry.missing == Missing(kind, "KeyError: 'no such title'")


def report(**changes):
    given = optima.Report(1.0, 10, 0.5, 0.4, BINARY.problem, False)
    return dataclasses.replace(given, **changes)


def test_gaps():
    facts = optima._Facts(BINARY)
    entry = optima.Entry("fastloss", "auto", False, None, None, [report()])
    key = optima._key(entry, entry.reports[0])
    assert optima._figures(entry, {key: (0.4999, True)}, facts)["gap"] == pytest.approx(1e-4 / 0.4999)
    assert optima._figures(entry, {key: (0.49, True)}, facts)["gap"].kind == "failed"
    assert optima._figures(entry, {key: (0.5, False)}, facts)["gap"].kind == "unknown"
    entry = optima.Entry("scikit-learn", "SVC", False, None, None, [report(warned=True)])
    row = optima._figures(entry, {key: (0.4, True)}, facts)
    assert row["gap"] == pytest.approx(0.25)
    assert row["ended"] == "not converged"


def test_a_penalty_on_scaled_columns_is_another_objective():
    plain, scaled = (optima.Entry("", "", scaler, None, None) for scaler in (False, True))
    assert optima._key(plain, report()) != optima._key(scaled, report())
    free = report(problem=dataclasses.replace(BINARY.problem, alpha=0.0))
    assert optima._key(plain, free) == optima._key(scaled, free)


@pytest.mark.parametrize(
    ("problem", "data", "rtol"),
    [
        (Optimum("binary", "log_loss", alpha=1e-2), "creditcard", 1e-3),
        (Optimum("binary", "hinge", alpha=1e-2), "creditcard", 1e-2),
        (Optimum("multiclass", "cross_entropy", alpha=1e-2), "mnist 10 classes", 1e-3),
        (Optimum("multiclass", "log_loss", alpha=1e-2), "mnist 10 classes", 1e-3),
        (Optimum("regression", "quantile", {"quantile": 0.75}, alpha=0.0), "california_housing", 1e-3),
        (Optimum("regression", "huber", {"delta": 50.0}, alpha=0.0), "california_housing", 1e-3),
        (Optimum("regression", "poisson", alpha=1e-2), "california_housing", 1e-3),
    ],
    ids=lambda value: getattr(value, "loss", None),
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_both_sides_minimise_the_same(problem, data, rtol):
    data = problems.dataset(data, "float64")
    n = len(data.y)
    ours = optima.report(peer_fastloss.optimisers(problem, n)["auto"], data, peer_fastloss, problem)
    found = {"ours": ours} | {
        title: optima.report(model, data, peer_sklearn, problem)
        for title, model in peer_sklearn.optimisers(problem, n).items()
    }
    assert len(found) > 1
    for title, one in found.items():
        close = optima.closer(one.problem)
        optima.set_tol(close, optima.closer_tolerances(one.problem)[-1])
        best = optima.report(close, data, peer_fastloss, one.problem)
        assert best.objective <= one.objective + 1e-5 * abs(one.objective), title
        assert one.objective == pytest.approx(best.objective, rel=1e-3 if title == "ours" else rtol), title
    assert [one.problem.intercept_too for title, one in found.items() if "liblinear" in title or "SVC" in title] in (
        [],
        [True],
    )


def test_every_case_has_a_peer():
    for plan in estimators.PLANS.values():
        for case in plan.descents:
            assert peer_sklearn.optimisers(case.problem, 100), case
            assert case.data in problems.RECIPES


def test_rows_can_be_limited():
    case = dataclasses.replace(BINARY, rows=100)
    data = optima.load(case)
    assert data.X.shape[0] == len(data.y) == 100
    X, y = optima._some_rows(data)
    assert set(y) == {0, 1}
    np.testing.assert_array_equal(X, data.X)


# data -----------------------------------------------------------------------------------------------------------


def test_texts_become_tf_idf(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTLOSS_DATA", str(tmp_path))
    lines = [
        {"split": s, "y": k, "text": t} for s in ("train", "test") for k, t in enumerate(("red fish", "blue fish"))
    ]
    with lzma.open(tmp_path / "20newsgroups_bydate.jsonl.xz", "wt", encoding="utf-8") as file:
        file.write("\n".join(map(json.dumps, lines)))
    data = problems.dataset("20newsgroups TF-IDF", "float64")
    assert data.label == "20newsgroups TF-IDF"
    assert data.X.shape == data.X_test.shape == (2, 3)
    np.testing.assert_array_equal(data.y_test, [0, 1])


def test_raw_tables_are_not_scaled():
    data = problems.dataset("california_housing raw", "float64")
    assert data.label == "diabetes (scikit-learn's)"
    assert data.X.std(axis=0).max() < 0.1  # as in the table
    wide = problems.Recipe("none", problems._synthetic("wide", 50, 8, scales=True)).substitute()[1]
    assert np.ptp(np.log10(np.abs(wide).max(axis=0))) > 1


def test_random_rows_have_that_many_columns():
    label, X, y = problems._random_rows(100, 1000, 38)()
    assert label == "38 random columns a row (synthetic)"
    assert 36 < X.nnz / 100 <= 38
    assert 20 < y.sum() < 80
