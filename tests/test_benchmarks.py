"""The benchmark suite runs, measures what it says, and reports what it could not measure."""

import json
import os
import re

import numpy as np
import pytest
import scipy.sparse as sp

pytest.importorskip("benchmarks", reason="the benchmarks live in the source tree")

import fastloss
from benchmarks import __main__ as command_line
from benchmarks import (
    classes,
    estimators,
    kernels,
    machine,
    objective,
    own,
    peer_fastloss,
    peers,
    problems,
    suite,
    timing,
)
from benchmarks.report import Column, Missing, Report, Table, plain, ratio, significant, ulp_pair

LOSSES = [*fastloss.list_losses("regression"), *fastloss.list_losses("binary")]
KERNELS = kernels.Plan(("huber",), (20_000,), ("float64",), rounds=3, least=3, budget=0.0, points=64)
RUN = peers.Run(tuple(peers.load(("numpy", "sklearn"))[0]), (1, 2))


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Small arrays, no real data."""
    monkeypatch.setattr(problems, "BLOCK", 4096)
    monkeypatch.setattr(machine, "triad_size", lambda: 10_000)
    monkeypatch.setattr(timing, "keep_freed_memory", lambda: True)  # it would outlive the test
    monkeypatch.setattr(timing, "REST", 0.0)
    monkeypatch.delenv("FASTLOSS_DATA", raising=False)
    cached = (problems._block, problems._class_block, problems.dataset, kernels._exact)
    cached += (classes._exact, classes._triad, objective._read)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.fixture
def tiny_plans(monkeypatch):
    case = estimators.Case("creditcard", peers.Fit("binary", "log_loss", epochs=2))
    monkeypatch.setitem(kernels.PLANS, "quick", KERNELS)
    multiclass = classes.Plan((classes.Case("cross_entropy", 200, 5),), rounds=3, budget=0.0, points=10)
    monkeypatch.setitem(classes.PLANS, "quick", multiclass)
    evaluation, fit = objective.Case("log_loss", 200, 5), objective.Descent("creditcard")
    monkeypatch.setitem(objective.PLANS, "quick", objective.Plan((evaluation,), (fit,), rounds=3, budget=0.0))
    monkeypatch.setitem(estimators.PLANS, "quick", estimators.Plan((case,), rounds=3, budget=0.0))
    function, other = own.Function("huber", "NumPy", 200), own._batch("soft_fbeta", 200)
    monkeypatch.setitem(own.PLANS, "quick", own.Plan((function,), (other,), rounds=3, budget=0.0, points=10))


# tables ---------------------------------------------------------------------------------------------------------

TABLE = Table(
    "t",
    "A title",
    [
        Column("name", "name", left=True),
        Column("ours", "ms", significant(3), "fastloss"),
        Column("theirs", "ms", significant(3), "a peer"),
        Column("ratio", "ratio", ratio, "a peer"),
    ],
    [
        {"name": "huber", "ours": 1.5, "theirs": 30.0, "ratio": 20.0, "hidden": [1.0]},
        {"name": "hinge", "ours": 2.0, "theirs": Missing("n/a", "a peer has no hinge")},
        {"name": "focal", "ours": Missing("failed", "ValueError: no")},
    ],
    ["a note"],
)


def test_table_as_text():
    lines = TABLE.as_text().splitlines()
    assert lines[0] == "A title"
    assert re.match(r" +-* ?fastloss ?-*  -* a peer -*$", lines[2])
    assert lines[5].split() == ["huber", "1.50", "30.0", "20.0x"]
    assert lines[6].split() == ["hinge", "2.00", "n/a"]
    assert [line.strip() for line in lines[-3:]] == [
        "a note",
        "n/a: a peer has no hinge (hinge)",
        "failed: ValueError: no (focal)",
    ]


def test_table_as_markdown():
    lines = TABLE.as_markdown().splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == ["name", "fastloss ms", "a peer ms", "a peer ratio"]
    assert re.fullmatch(r"\| -+ \|( -+: \|){3}", lines[3])
    assert len({line.count("|") for line in lines[2:7]}) == 1
    assert lines[-3] == "* a note"


def test_table_as_json():
    rows = json.loads(json.dumps(TABLE.as_json(), allow_nan=False))["rows"]
    assert rows[0] == {"name": "huber", "ours": 1.5, "theirs": 30.0, "ratio": 20.0, "hidden": [1.0]}
    assert rows[1]["theirs"] == {"n/a": "a peer has no hinge"}
    assert plain({"a": np.float32(0.5), 2: (np.inf, np.nan)}) == {"a": 0.5, "2": ["inf", "nan"]}


def test_only_own_failures_count():
    assert TABLE.failures("fastloss") == ["focal"]
    assert TABLE.failures("a peer") == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00"),
        (1234.5, "1234"),
        (0.01234, "0.0123"),
        (2.9e7, "2.90e7"),
        (10.04, "10.0"),
        (1e-7, "1.00e-7"),
    ],
)
def test_figures(value, text):
    assert significant(3)(value) == text


def test_error_pairs():
    assert ulp_pair((0.512, 3e7)) == "0.51 / 3.0e7"
    assert ulp_pair((None, float("inf"))) == "- / inf"


# timing ---------------------------------------------------------------------------------------------------------


def test_contestants_take_turns():
    order = []
    contestants = [timing.Contestant(name, lambda name=name: order.append(name)) for name in "ab"]
    times = timing.alternate(contestants, rounds=3, budget=10.0)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"  # warm-up, then each round starts with another one
    assert [len(times[name].seconds) for name in "ab"] == [3, 3]


def test_budget_leaves_the_least_rounds():
    times = timing.alternate([timing.Contestant("a", lambda: None)], rounds=100, budget=0.0, least=4)
    assert len(times["a"].seconds) == 4


def test_a_call_that_raises_is_reported():
    def broken():
        raise ValueError("no such thing")

    contestants = [timing.Contestant("broken", broken), timing.Contestant("fine", lambda: None)]
    times = timing.alternate(contestants, rounds=3, budget=0.0)
    assert times["broken"] == Missing("failed", "ValueError: no such thing")
    assert times["fine"].median >= 0


def test_calls_of_seconds_are_not_made_in_vain():
    order = []

    def broken():
        raise ValueError("no such thing")

    contestants = [timing.Contestant(name, lambda name=name: order.append(name)) for name in "ab"]
    contestants.append(timing.Contestant("c", broken))
    times = timing.alternate(contestants, rounds=2, budget=10.0, least=1, warm=False)
    assert "".join(order) == "abba"
    assert [len(times[name].seconds) for name in "ab"] == [2, 2]
    assert times["c"].kind == "failed"
    times = timing.alternate(contestants, rounds=2, budget=0.0, least=1, warm=False)
    assert [len(times[name].seconds) for name in "ab"] == [1, 1]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system cannot pin")
def test_one_thread_is_pinned_and_released():
    before = os.sched_getaffinity(0)
    seen = {}
    calls = [timing.Contestant(t, lambda t=t: seen.update({t: os.sched_getaffinity(0)}), t) for t in (1, 2)]
    timing.alternate(calls, rounds=1, budget=0.0, least=1)
    assert len(seen[1]) == 1
    assert seen[2] == before == os.sched_getaffinity(0)


# peers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", LOSSES)
def test_peers_compute_our_loss(name, dtype):
    loss = fastloss.get_loss(name, **problems.PARAMS.get(name, {}))
    y, raw = problems.points(loss, 500, dtype)
    tolerance = {"rtol": 2e-4, "atol": 1e-6} if dtype == "float32" else {"rtol": 1e-6, "atol": 1e-12}
    own_loss, own_gradient = peer_fastloss.kernel(name, loss.params).per_sample(y, raw)
    for peer in peers.load(tuple(peers.PEERS))[0]:
        try:
            kernel = peer.kernel(name, loss.params)
        except peers.NotAvailable:
            continue  # shown as n/a
        theirs, gradient = kernel.per_sample(y, raw)
        assert gradient.dtype == raw.dtype
        np.testing.assert_allclose(gradient, own_gradient, **tolerance, err_msg=peer.NAME)
        if not kernel.loss_note:
            np.testing.assert_allclose(theirs, own_loss, **tolerance, err_msg=peer.NAME)


def test_missing_peer_is_reported(monkeypatch, tiny_plans, capsys):
    monkeypatch.setitem(peers.PEERS, "absent", "benchmarks.peer_absent")
    report = suite.run("quick", [], ["numpy", "absent"], (1,), "test")
    assert "absent: not installed (No module named 'benchmarks.peer_absent')" in report.machine["peers not measured"]
    assert "peers not measured" in capsys.readouterr().out


# kernels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [20_000, 1000])
def test_kernel_rows(n):
    rows = kernels.measure(kernels.Case("log_loss", "float64", n), KERNELS, RUN)
    assert [row["cores"] for row in rows] == ([1, 2] if n > kernels.SHORT else [1])
    for row in rows:
        assert max(row["fastloss_errors"]) <= 4
        for peer in ("NumPy", "scikit-learn"):
            assert row[f"{peer}_ratio"] == pytest.approx(row[f"{peer}_time"] / row["fastloss_time"])
    for table in kernels.tables(rows, KERNELS, RUN):
        assert "log_loss" in table.as_text()


def test_share_of_triad(monkeypatch):
    monkeypatch.setattr(machine, "last_level_cache", lambda: 0)  # nothing fits
    rows = kernels.measure(kernels.Case("hinge", "float32", 20_000), KERNELS, RUN)
    assert all(row["triad"] > 0 for row in rows)
    assert isinstance(rows[0]["scikit-learn_time"], Missing)
    assert rows[0]["scikit-learn_time"].reason == "sklearn._loss has no such loss"
    assert "n/a" in kernels.tables(rows, KERNELS, RUN)[0].as_text()


@pytest.mark.parametrize("part", ["loss", "gradient"])
def test_timing_the_wrong_function_is_a_failure(monkeypatch, part):
    honest = peer_fastloss._Kernel.bind

    def bind(self, y, raw, n_threads):
        loss, gradient = honest(self, y, raw, n_threads)()
        return lambda: (loss * 1.001, gradient) if part == "loss" else (loss, gradient * 1.001)

    monkeypatch.setattr(peer_fastloss._Kernel, "bind", bind)
    rows = kernels.measure(kernels.Case("huber", "float32", 20_000), KERNELS, RUN)
    table = kernels.tables(rows, KERNELS, RUN)[0]
    assert len(table.failures("fastloss")) == 2
    assert part in rows[0]["fastloss_time"].reason


def test_every_loss_has_data_and_an_exact_value():
    plan = kernels.Plan((), (1000,), ("float32",), rounds=3, least=3, budget=0.0, points=16)
    cases = kernels.cases(plan)
    assert [case.loss for case in cases] == LOSSES
    for case in cases:
        (row,) = kernels.measure(case, plan, peers.Run((), (1,)))
        assert max(row["fastloss_errors"]) <= 4, case


# several classes ------------------------------------------------------------------------------------------------

CLASSES = classes.Plan((), rounds=3, least=3, budget=0.0, points=40, numbers=400)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", fastloss.list_losses("multiclass"))
def test_peers_compute_our_multiclass_loss(name, dtype):
    loss = fastloss.get_loss(name)
    y, raw = problems.class_points(7, 300, dtype)
    tolerance = {"rtol": 2e-3, "atol": 1e-6} if dtype == "float32" else {"rtol": 1e-6, "atol": 1e-12}
    own_loss, own_gradient = peer_fastloss.kernel(name, loss.params).per_sample(y, raw)
    found = 0
    for peer in peers.load(tuple(peers.PEERS))[0]:
        try:
            kernel = peer.kernel(name, loss.params)
        except peers.NotAvailable:
            continue
        found += 1
        before = raw.copy()
        theirs, gradient = kernel.per_sample(y, raw)
        np.testing.assert_array_equal(raw, before)
        assert gradient.dtype == raw.dtype
        np.testing.assert_allclose(theirs, own_loss, **tolerance, err_msg=peer.NAME)
        np.testing.assert_allclose(gradient, own_gradient, **tolerance, err_msg=peer.NAME)
    assert found >= (2 if name == "cross_entropy" else 1)


def test_class_rows(monkeypatch):
    monkeypatch.setattr(machine, "last_level_cache", lambda: 0)  # nothing fits
    rows = classes.measure(classes.Case("cross_entropy", 3000, 10), CLASSES, RUN)
    assert [row["cores"] for row in rows] == [1, 2]
    for row in rows:
        assert max(row["fastloss_errors"]) <= 4
        assert row["triad"] > 0
        assert row["fastloss_rate"] == pytest.approx(3000 * 10 / row["fastloss_time"] / 1e3)
        for peer in ("NumPy", "scikit-learn"):
            assert row[f"{peer}_ratio"] == pytest.approx(row[f"{peer}_time"] / row["fastloss_time"])
    assert rows[0]["NumPy_time"] == rows[1]["NumPy_time"]  # not threaded: once
    assert "M logits/s" in classes.tables(rows, CLASSES, RUN)[0].as_text()


def test_many_classes_are_checked_at_few_samples():
    (row,) = classes.measure(classes.Case("cross_entropy", 20, 1000, "float32"), CLASSES, peers.Run((), (1,)))
    assert row["points"] == 1
    assert max(row["fastloss_errors"]) <= 4
    assert "triad" not in row


def test_every_multiclass_loss_has_an_exact_value():
    plan = classes.Plan((), every=((500, 5),), rounds=3, least=3, budget=0.0, points=16)
    cases = classes.cases(plan)
    assert tuple(case.loss for case in cases[::2]) == fastloss.list_losses("multiclass")
    for case in cases:
        (row,) = classes.measure(case, plan, peers.Run((), (1,)))
        assert max(row["fastloss_errors"]) < 10, case  # the promise is test_multiclass_accuracy's


@pytest.mark.parametrize("part", ["loss", "gradient"])
def test_timing_the_wrong_multiclass_function_is_a_failure(monkeypatch, part):
    honest = peer_fastloss._Kernel.bind

    def bind(self, y, raw, n_threads):
        loss, gradient = honest(self, y, raw, n_threads)()
        return lambda: (loss * 1.001, gradient) if part == "loss" else (loss, gradient * 1.001)

    monkeypatch.setattr(peer_fastloss._Kernel, "bind", bind)
    rows = classes.measure(classes.Case("cross_entropy", 500, 10), CLASSES, RUN)
    assert len(classes.tables(rows, CLASSES, RUN)[0].failures("fastloss")) == 2
    assert part in rows[0]["fastloss_time"].reason


def test_what_has_no_multiclass_loss_is_not_available():
    rows = classes.measure(classes.Case("sparsemax", 500, 10), CLASSES, RUN)
    assert rows[0]["scikit-learn_time"] == Missing("n/a", "sklearn._loss has no such loss")
    assert rows[0]["NumPy_ratio"] > 0


def test_class_samples_include_the_extreme_margins():
    y, raw = problems._class_block(10, "float64")
    margin = problems.margins(y, raw)
    chosen = problems.margins(*problems.class_points(10, 40, "float64"))
    assert chosen.min() == margin.min()
    assert chosen.max() == margin.max()
    repeated_y, repeated = problems.class_arrays(2 * len(y) + 3, 10, "float64")
    np.testing.assert_array_equal(repeated[len(y) : 2 * len(y)], raw)
    np.testing.assert_array_equal(repeated_y[-3:], y[:3])


# objective ------------------------------------------------------------------------------------------------------

OBJECTIVE = objective.Plan((), (), rounds=3, least=3, budget=0.0, fit_rounds=2, fit_budget=0.0)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("storage", ["C", "F", "6"])
@pytest.mark.parametrize("K", [2, 5])
def test_objective_rows(storage, K, dtype, monkeypatch):
    monkeypatch.setattr(machine, "last_level_cache", lambda: 0)
    case = objective.Case("log_loss" if K == 2 else "cross_entropy", 1500, 20, K, dtype, storage)
    run = peers.Run(tuple(peers.load(tuple(peers.PEERS))[0]), (1, 2))
    rows = objective.measure(case, OBJECTIVE, run)
    assert [row["cores"] for row in rows] == [1, 2]
    for row in rows:
        for name in ("fastloss", *(peer.NAME for peer in run.peers)):
            assert max(row[f"{name}_agreement"]) <= objective.TOLERANCE[dtype]
            assert row.get(f"{name}_ratio", 1.0) == pytest.approx(row[f"{name}_time"] / row["fastloss_time"])
        assert row["read"] > 0
    assert ("CSR, 6 a row" if storage == "6" else f"{storage} order") in objective.tables(rows, OBJECTIVE, run)[
        0
    ].as_text()


def test_objective_data_repeat():
    problem = problems.linear("log_loss", 1000, 20, 2, "float64", "6")  # blocks of 4096 // 6 rows
    assert problem.X.shape == (1000, 20)
    assert (problem.X[682:] != problem.X[:318]).nnz == 0
    np.testing.assert_array_equal(problem.y[682:], problem.y[:318])
    assert 0.3 < problem.y.mean() < 0.7
    dense = problems.linear("cross_entropy", 500, 20, 3, "float32", "F")
    assert dense.X.flags.f_contiguous
    np.testing.assert_array_equal(dense.X[204:408], dense.X[:204])
    assert set(dense.y) == {0, 1, 2}


def test_evaluating_something_else_is_a_failure(monkeypatch):
    honest = peer_fastloss.objective

    def other(problem, n_threads):
        call = honest(problem, n_threads)

        def scaled():
            value, coef, intercept = call()
            return value, coef, 1.001 * intercept

        return scaled

    monkeypatch.setattr(peer_fastloss, "objective", other)
    rows = objective.measure(objective.Case("log_loss", 500, 2), OBJECTIVE, RUN)
    table = objective.tables(rows, OBJECTIVE, RUN)[0]
    assert len(table.failures("fastloss")) == 2
    assert "differ from the reference" in table.as_text()
    assert "NumPy_ratio" not in rows[0]


def test_long_evaluations_run_on_all_cores_only():
    case = objective.Case("cross_entropy", 50, 4, 30, "float32", without=("scikit-learn",), most_cores=True)
    (row,) = objective.measure(case, OBJECTIVE, RUN)
    assert row["cores"] == 2
    assert row["scikit-learn_time"].kind == "n/a"
    assert len(row["fastloss_seconds"]["all"]) == 1


@pytest.mark.parametrize(("name", "K"), [("creditcard", 2), ("mnist 10 classes", 10)])
def test_fits_end_at_scikit_learns_objective(name, K):
    (row,) = objective.measure(objective.Descent(name, alpha=1e-2), OBJECTIVE, RUN)
    assert row["classes"] == K
    assert abs(row["scikit-learn_excess"]) < 1e-6
    assert row["fastloss_iterations"] == pytest.approx(row["scikit-learn_iterations"], rel=0.2)
    assert row["scikit-learn_ratio"] == pytest.approx(row["scikit-learn_time"] / row["fastloss_time"])
    assert "NumPy" not in objective.tables([row], OBJECTIVE, RUN)[0].as_text().split("\n\n")[0]


def test_a_fit_that_ends_elsewhere_is_a_failure(monkeypatch):
    honest = peer_fastloss.logistic

    def hasty(X, y, alpha, gtol, iterations, n_threads):
        return honest(X, y, alpha, 100 * gtol, iterations, n_threads)

    monkeypatch.setattr(peer_fastloss, "logistic", hasty)
    (row,) = objective.measure(objective.Descent("creditcard"), OBJECTIVE, RUN)
    assert objective.tables([row], OBJECTIVE, RUN)[0].failures("fastloss")
    assert "above scikit-learn's objective" in row["fastloss_time"].reason


def test_a_fit_that_does_not_converge_says_so():
    plan = objective.Plan((), (), fit_rounds=1, fit_budget=0.0, iterations=3)
    (row,) = objective.measure(objective.Descent("creditcard"), plan, RUN)
    assert row["fastloss_time"] == row["scikit-learn_time"] == Missing("not converged", "3 iterations")
    assert "scikit-learn_ratio" not in row


def test_every_peer_has_notes():
    for peer in (peer_fastloss, *peers.load(tuple(peers.PEERS))[0]):
        assert peer.KERNEL_NOTE
        assert peer.OBJECTIVE_NOTE


# estimators -----------------------------------------------------------------------------------------------------


def _fit_row(*arguments, **options):
    case = estimators.Case(*arguments, **options)
    (row,) = estimators.measure(case, estimators.Plan((case,), rounds=3, budget=0.0), RUN)
    return row


def test_estimator_row_matches_scikit_learn():
    row = _fit_row("california_housing", peers.Fit("regression", "squared_error"), score="R2")
    assert row["scikit-learn_difference"] < 1e-10
    assert row["data"] == "diabetes (scikit-learn's)"
    assert row["fastloss_objective"] == pytest.approx(row["scikit-learn_objective"], rel=0.05)
    assert row["scikit-learn_ratio"] == pytest.approx(row["scikit-learn_time"] / row["fastloss_time"])
    assert "NumPy" not in estimators.tables([row], estimators.PLANS["quick"], RUN)[0].as_text().split("\n\n")[0]


def test_divergence_is_reported():
    schedule = {"learning_rate": "constant", "eta0": 10.0}
    fit = peers.Fit("regression", "squared_error", epochs=1, schedule=schedule)
    row = _fit_row("bike_sharing_hour", fit, score="R2")
    for name in ("fastloss", "scikit-learn"):
        cell = row.get(f"{name}_score", row[f"{name}_time"])  # a fit that raised has no score
        assert isinstance(cell, Missing)
        assert cell.kind == "diverged"


def test_what_the_peer_lacks_is_not_available():
    row = _fit_row("california_housing", peers.Fit("regression", "quantile", {"quantile": 0.75}), score="D2 absolute")
    assert row["scikit-learn_time"] == Missing("n/a", "SGDRegressor has no quantile loss")
    assert np.isfinite(row["fastloss_objective"])
    assert "scikit-learn_ratio" not in row


def test_tables_come_from_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTLOSS_DATA", str(tmp_path))
    X = sp.random(30, 123, 0.1, format="csr", dtype=np.float32, random_state=0)
    parts = {"data": X.data, "indices": X.indices, "indptr": X.indptr, "shape": np.array(X.shape)}
    parts |= {f"test_{key}": value for key, value in parts.items()}
    labels = np.where(np.arange(30) % 2, 1, -1)
    np.savez(tmp_path / "a9a.npz", y=labels, test_y=labels[::-1], **parts)
    data = problems.dataset("a9a", "float64")
    assert data.label == "a9a"
    assert data.X.dtype == np.float64
    np.testing.assert_array_equal(data.X_test.toarray(), X.toarray())
    np.testing.assert_array_equal(data.y_test, labels[::-1])


@pytest.mark.parametrize("name", ["electricity", "bike_sharing_hour", "mnist", "mnist 10 classes"])
def test_substitutes_say_so(name):
    data = problems.dataset(name, "float32")
    assert "synthetic" in data.label or "scikit-learn" in data.label
    assert len(data.y) == data.X.shape[0] > 3 * len(data.y_test)
    assert data.X.dtype == np.float32


# the command ----------------------------------------------------------------------------------------------------


def test_command_writes_json_and_markdown(tiny_plans, tmp_path, capsys):
    path = tmp_path / "deep" / "result.json"
    assert command_line.main(["--quick", "--peers", "numpy", "--threads", "1", "--json", str(path)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""  # no progress bar unless on a terminal
    assert "Kernels" in printed.out
    assert "Several classes" in printed.out
    assert "Objective" in printed.out
    assert "Estimators" in printed.out
    assert "Your own loss" in printed.out
    result = json.loads(path.read_text())
    assert result["level"] == "quick"
    assert result["machine"]["instruction set"].startswith(fastloss.show_config()["isa"])
    names = ["kernels", "classes", "objective", "objective_fits", "estimators", "own", "own_others"]
    assert [table["name"] for table in result["tables"]] == names
    assert result["read_bytes_per_second"]["1"] > 0
    assert result["tables"][0]["rows"][0]["loss"] == "huber"
    assert path.with_suffix(".md").read_text().startswith("# fastloss benchmarks")


def test_command_fails_when_we_fail(tiny_plans, tmp_path, monkeypatch, capsys):
    def broken(case, plan, run):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(kernels, "measure", broken)
    arguments = ["--quick", "--doors", "kernels", "--peers", "", "--json", str(tmp_path / "r.json")]
    assert command_line.main(arguments) == 1
    printed = capsys.readouterr()
    assert "failed: RuntimeError: out of luck" in printed.out
    assert "FAILED kernels: huber" in printed.err


def test_interrupted_run_keeps_what_it_has(tiny_plans, monkeypatch):
    def interrupted(case, plan, run):
        raise KeyboardInterrupt

    monkeypatch.setattr(estimators, "measure", interrupted)
    report = suite.run("quick", ["kernels", "estimators"], [], (1,), "test")
    assert [table.name for table in report.tables] == ["kernels"]
    assert report.facts["interrupted"]


@pytest.mark.parametrize(
    "arguments", [["--threads", "0"], ["--doors", "nothing"], ["--peers", "numpi"], ["--quick", "--full"]]
)
def test_wrong_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        command_line.main(arguments)
    assert exit_.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_sheet_names_what_figures_depend_on():
    sheet = machine.sheet((1, 2), {1: 1e10, 2: 2e10}, {1: 3e10, 2: 4e10})
    assert "10.0 GB/s on 1 core, 20.0 GB/s on 2 cores" in sheet["triad bandwidth"]
    assert "30.0 GB/s on 1 core, 40.0 GB/s on 2 cores" in sheet["read bandwidth"]
    assert fastloss.__version__ in sheet["versions"]
    assert "available: baseline" in sheet["instruction set"]
    assert "CPU" in Report("heading", {}, sheet).sheet()
