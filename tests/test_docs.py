"""The documentation is true: its examples run, its table of losses is the library's, its links lead somewhere."""

import doctest
import importlib.util
import inspect
import re
import runpy
import shutil
import subprocess
import textwrap
from pathlib import Path

import numpy as np
import pytest

import fastloss
from fastloss._kernels import _render
from fastloss.losses import Loss, _base, _scalar

ROOT = Path(__file__).resolve().parents[1]
PAGES = [path for path in (*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))) if path.is_file()]
SOURCE_TREE = (ROOT / "setup.py").exists()

if not (ROOT / "docs").is_dir():
    pytest.skip("the documentation lives in the source tree", allow_module_level=True)

need_source = pytest.mark.skipif(not SOURCE_TREE, reason="outside the source tree")


def code_blocks(page, language="python"):
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"))


def load(path):
    """A script as a module, without running its main part."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# examples -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_sessions(page):
    """Every ``>>>`` of a page, from its first line to its last in one session, gives what the page shows."""
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    sessions = [block for block in code_blocks(page) if block.lstrip().startswith(">>>")]
    for module in re.findall(r"(?m)^>>> import (\w+)", "".join(sessions)):
        pytest.importorskip(module, reason=f"{page.name} uses {module}, which is not installed")
    test = doctest.DocTestParser().get_doctest("\n".join(sessions), {}, page.name, str(page), 0)
    report = []
    doctest.DocTestRunner(optionflags=options).run(test, out=report.append)
    assert not report, "".join(report)


def test_readme_shows_every_door():
    blocks = "".join(code_blocks(ROOT / "README.md"))
    assert "SGDLossClassifier(" in blocks
    assert "loss_gradient(" in blocks
    assert "minimize(" in blocks


@pytest.mark.filterwarnings("error")
def test_own_optimizer(capsys):
    distances = load(ROOT / "examples" / "own_optimizer.py").main()
    assert distances["huber"] < 0.1 < 10 * distances["huber"] < distances["squared_error"]
    assert "evaluations" in capsys.readouterr().out


@pytest.mark.filterwarnings("error")
def test_robust_regression():
    shares = load(ROOT / "examples" / "robust_regression.py").main()
    assert shares["median"] == pytest.approx(0.5, abs=0.03)
    assert shares["90 %"] == pytest.approx(0.9, abs=0.03)
    assert shares["huber"] == pytest.approx(0.5, abs=0.05)
    assert shares["mean"] > 0.6  # the tail pulls it up


@pytest.mark.filterwarnings("error")
def test_linear_objective(capsys):
    found = load(ROOT / "examples" / "linear_objective.py").main()
    assert found["ours"] == pytest.approx(found["scikit-learn"], rel=1e-5)
    assert found["right"] > 0.98
    assert "evaluations" in capsys.readouterr().out


@pytest.mark.filterwarnings("error")
def test_newton_cg():
    found = load(ROOT / "examples" / "newton_cg.py").main()
    assert found["Newton-CG"] > 0.95
    assert found["trust-ncg"] > 0.95
    assert found["rates"] < 0.02


@pytest.mark.filterwarnings("error")
def test_policy_gradient(capsys):
    expected = load(ROOT / "examples" / "policy_gradient.py").main()
    assert expected[0] == pytest.approx(0.5, abs=0.03)  # the policy that knows nothing, chances symmetric about ½
    assert expected[-1] > 0.75
    assert "best possible" in capsys.readouterr().out


@pytest.mark.filterwarnings("error")
def test_custom_loss(capsys):
    found = load(ROOT / "examples" / "custom_loss.py").main()
    assert found["difference"] < 1e-4
    assert found["residual"] == pytest.approx(-0.35, abs=0.02)  # -a/2 for normal errors
    assert "agree" in capsys.readouterr().out


def test_custom_loss_without_compilers(monkeypatch, capsys):
    module = load(ROOT / "examples" / "custom_loss.py")
    monkeypatch.setattr(module, "numba", None)
    monkeypatch.setenv("CC", "there-is-no-such-compiler")
    assert module.main()["ways"] == 1
    said = capsys.readouterr().out
    assert "numba is not installed" in said
    assert "no C compiler" in said


def test_compiled_functions_of_the_page_on_own_losses(tmp_path, monkeypatch):
    """The listings that are no sessions: numba's, C's, and the command that compiles it."""
    pytest.importorskip("numba", reason="numba is not installed")
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    page = ROOT / "docs" / "custom.md"
    (source,), (command,) = code_blocks(page, "c"), code_blocks(page, "sh")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "linex.c").write_text(source, encoding="utf-8")
    command = re.sub(r"\$\(python .*?\)(?= )", fastloss.get_include(), command)
    subprocess.run(command, shell=True, check=True)
    names = {}
    for block in code_blocks(page):
        if not block.startswith(">>>"):
            exec(block, names)
    r = np.linspace(-3, 3, 50)
    for loss in (names["compiled"], names["from_c"]):
        value, slope = loss.loss_gradient(np.zeros(50), r, reduction="none")
        np.testing.assert_allclose(value, np.exp(r / 2) - r / 2 - 1, atol=1e-15)
        np.testing.assert_allclose(slope, (np.exp(r / 2) - 1) / 2, atol=1e-15)


@pytest.mark.filterwarnings("error")
def test_unscaled(capsys):
    found = load(ROOT / "examples" / "unscaled.py").main()
    assert -1e-6 <= found["gap"] <= 1e-3
    assert found["right"] > 0.7
    assert "converged: True" in capsys.readouterr().out


@pytest.mark.filterwarnings("error")
def test_quantiles():
    shares = load(ROOT / "examples" / "quantiles.py").main()
    for level in ("0.1", "0.5", "0.9"):
        assert shares[level] == pytest.approx(float(level), abs=0.02)
    assert shares["interval"] == pytest.approx(0.8, abs=0.03)


@pytest.mark.filterwarnings("error")
def test_multi_task(capsys):
    found = load(ROOT / "examples" / "multi_task.py").main()
    assert found["error of minutes"] < 3  # the errors in the data have a median of 2.3
    assert found["right about late"] > 0.8
    assert found["returned, predicted / true"] == pytest.approx(1, abs=0.05)
    assert "converged: True" in capsys.readouterr().out


@pytest.mark.filterwarnings("error")
def test_uncertainty_weights():
    found = load(ROOT / "examples" / "uncertainty_weights.py").main()
    assert found["equal weights"] < 0.7 < 0.99 < found["learned weights"]
    assert found["grams"] == pytest.approx(2000, rel=0.1)


@pytest.mark.filterwarnings("error")
def test_constraints():
    found = load(ROOT / "examples" / "constraints.py").main()
    assert found["free"].min() < -0.01
    assert found["positive"].min() >= 0
    assert (found["bounds"] >= 0).all()
    assert (found["bounds"][:2] <= 0.05).all()
    assert found["positive"][2] == pytest.approx(0.03, abs=0.005)


@pytest.mark.filterwarnings("error")
def test_scipy_optimize():
    found = load(ROOT / "examples" / "scipy_optimize.py").main()
    values = list(found["linear"].values())
    assert max(values) - min(values) < 1e-6 * max(values)
    for method in ("L-BFGS-B", "trust-ncg"):
        np.testing.assert_allclose(found["curve"][method], found["curve"]["SciPy's Huber"], atol=1e-4)
        np.testing.assert_allclose(found["curve"][method], found["curve"]["truth"], atol=0.05)


@pytest.mark.filterwarnings("error")
def test_check_loss(capsys):
    found = load(ROOT / "examples" / "check_loss.py").main()
    assert not found["wrong"]
    assert not found["report"].ok
    assert "0.5 times what it should be" in capsys.readouterr().out


@pytest.mark.filterwarnings("error")
def test_torch_loss():
    pytest.importorskip("torch", reason="the example trains a torch network")
    found = load(ROOT / "examples" / "torch_loss.py").main()
    for level in (0.1, 0.5, 0.9):
        assert found[str(level)] == pytest.approx(level, abs=0.05)
    assert found["robust"] < 0.5


def test_torch_loss_without_torch(monkeypatch, capsys):
    module = load(ROOT / "examples" / "torch_loss.py")
    monkeypatch.setattr(module, "torch", None)
    assert module.main() is None
    assert "torch is not installed" in capsys.readouterr().out


@pytest.mark.filterwarnings("error")
def test_auc():
    areas = load(ROOT / "examples" / "auc.py").main()
    assert areas["pairwise_auc"][0] > areas["log_loss"][0] > 0.9
    assert areas["pairwise_auc"][1] > areas["log_loss"][1] - 0.01


@pytest.mark.filterwarnings("error")
def test_ranking():
    found = load(ROOT / "examples" / "ranking.py").main()
    assert found["listnet"] > found["squared_error"] > 0.6
    assert found["approx_ndcg"] > found["squared_error"]
    assert found["pairwise_logistic"] > found["squared_error"]


@pytest.mark.filterwarnings("error")
def test_black_box_metric():
    found = load(ROOT / "examples" / "black_box_metric.py").main()
    assert found["1 - F1"][1] < found["1 - F1"][0] - 0.05
    assert found["0-1 error"][1] < found["0-1 error"][0]


@pytest.mark.filterwarnings("error")
def test_out_of_core(capsys):
    pytest.importorskip("pyarrow", reason="the example reads Parquet with pyarrow")
    assert load(ROOT / "examples" / "out_of_core.py").main() > 0.8
    assert "right" in capsys.readouterr().out


def test_out_of_core_without_pyarrow(monkeypatch, capsys):
    module = load(ROOT / "examples" / "out_of_core.py")
    monkeypatch.setattr(module, "pa", None)
    assert module.main() is None
    assert "pyarrow is not installed" in capsys.readouterr().out


@pytest.mark.filterwarnings("error")
def test_focal_boosting(capsys):
    pytest.importorskip("lightgbm", reason="the example trains with LightGBM")
    found = load(ROOT / "examples" / "focal_boosting.py").main()
    assert found["focal"] > max(0.6, found["log_loss"])
    assert "positives expected" in capsys.readouterr().out


@pytest.mark.filterwarnings("error")
def test_expectile_boosting(capsys):
    pytest.importorskip("xgboost", reason="the example trains with XGBoost")
    found = load(ROOT / "examples" / "expectile_boosting.py").main()
    for level, share in found.items():
        assert share == pytest.approx(1 - level, abs=0.06)
    assert "bicycles too few" in capsys.readouterr().out


@pytest.mark.parametrize(("example", "host"), [("focal_boosting", "lgb"), ("expectile_boosting", "xgb")])
def test_boosting_without_the_host(monkeypatch, capsys, example, host):
    module = load(ROOT / "examples" / f"{example}.py")
    monkeypatch.setattr(module, host, None)
    assert module.main() is None
    assert "is not installed" in capsys.readouterr().out


def test_every_example_is_tested():
    tested = set(re.findall(r'"examples" / "(\w+\.py)"', Path(__file__).read_text(encoding="utf-8")))
    assert tested == {path.name for path in (ROOT / "examples").glob("*.py")}


# the README's commands ------------------------------------------------------------------------------------------


def test_commands_are_the_readmes():
    lines = "".join(code_blocks(ROOT / "README.md", "sh")).splitlines()
    assert 'python -m pip install -e ".[bench]" && python -m benchmarks' in lines
    assert 'python -m pip install -e ".[test]" && python -m pytest' in lines


def test_options_of_the_benchmarks_exist():
    parser = pytest.importorskip("benchmarks.__main__", reason="the benchmarks live in the source tree").parser()
    commands = re.findall(r"python -m benchmarks +(--.*?)(?: +#.*)?$", (ROOT / "README.md").read_text("utf-8"), re.M)
    assert len(commands) >= 2
    for command in commands:
        parser.parse_args(command.split())


# generated pages ------------------------------------------------------------------------------------------------


def test_table_of_losses_is_up_to_date():
    made = load(ROOT / "docs" / "make_losses.py").page()
    there = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
    assert there == made, "run: python docs/make_losses.py"


@pytest.mark.parametrize("name", fastloss.list_losses())
def test_table_of_losses_is_complete(name):
    (line,) = [
        line
        for line in (ROOT / "docs" / "losses.md").read_text(encoding="utf-8").splitlines()
        if line.startswith(f"| `{name}` |")
    ]
    cells = re.split(r"(?<!\\)\|", line)[1:-1]
    assert len(cells) == 7
    assert all(cell.strip() for cell in cells)
    for parameter, spec in type(fastloss.get_loss(name)).parameters.items():
        assert f"`{parameter}={spec.default}`" in cells[2]


@need_source
def test_measured_errors_script_starts():
    module = runpy.run_path(str(ROOT / "docs" / "measure_errors.py"), run_name="not main")
    errors = module["largest"]("huber", {}, False, np.dtype(np.float32), 5)
    assert errors.shape == (3,)
    assert np.all(errors[:2] <= 4)


# links and names ------------------------------------------------------------------------------------------------


@need_source
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not re.match(r"https?:", target):
            assert (page.parent / target).exists(), target


@need_source
def test_readme_names_every_source_file():
    """The table of files has every file of the package, and no file that is not there."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Where to look in the source")[2]
    named = set()
    for row in re.findall(r"(?m)^\| (`.*?) \|", table):
        first, *others = re.findall(r"`([^`]+)`", row)
        named |= {first, *(str(Path(first).parent / other) for other in others)}
    for path in named:
        assert (ROOT / path).exists(), path
    kinds = ("*.py", "*.pyx", "*.pxi")
    there = {str(path.relative_to(ROOT)) for kind in kinds for path in (ROOT / "fastloss").rglob(kind)}
    assert there - named <= {"fastloss/__init__.py", "fastloss/_version.py"}


# CONTRIBUTING ---------------------------------------------------------------------------------------------------


@pytest.fixture
def walkthrough():
    """The class and the oracle of "How to add a loss"."""
    blocks = code_blocks(ROOT / "CONTRIBUTING.md")
    (loss,) = [block for block in blocks if block.startswith("class ")]
    (oracle,) = [block for block in blocks if block.startswith("@oracle_for")]
    return loss, oracle


@need_source
def test_walkthrough_renders(walkthrough, tmp_path):
    """The example's formula is in the subset, and becomes a kernel."""
    path = tmp_path / "regression.py"
    path.write_text(walkthrough[0], encoding="utf-8")
    (block,) = _render.read_blocks([path])
    assert block.name == "berhu"
    assert block.parameters == ["delta"]
    assert "berhu_kernel[double]" in _render.render([block])


@need_source
def test_walkthrough_is_right(walkthrough):
    """The example's formula, run in Python, agrees with the example's oracle."""
    from jet import Jet

    oracles = {}

    def oracle_for(name, takes, **where):
        return lambda function: oracles.setdefault(name, (function, where))

    names = {**vars(_scalar), "Loss": Loss, "Parameter": _base.Parameter}
    exec(walkthrough[0], names)
    exec(walkthrough[1], {"oracle_for": oracle_for})
    cls, (oracle, where) = names["Berhu"], oracles["berhu"]
    assert inspect.getdoc(cls).splitlines()[0].endswith(".")
    for parameters in ({"delta": 1.0}, *where["grid"]):
        for r in (-40.0, -1.5, -0.05, 0.0, 0.3, 0.9, 2.0, 100.0):
            exact = oracle(Jet(r, 1), **parameters)
            got = cls.sample(0.0, r, **parameters)
            np.testing.assert_allclose(got, [float(exact.v), float(exact.d1), float(exact.d2)], rtol=1e-14)


@need_source
def test_walkthroughs_proximal_slope_is_right(walkthrough, tmp_path):
    """The example's implicit step ends where the loss has the slope that it found, and it compiles with the class."""
    (text,) = [b for b in code_blocks(ROOT / "CONTRIBUTING.md") if b.startswith("@staticmethod")]
    path = tmp_path / "regression.py"
    path.write_text(walkthrough[0].rstrip() + "\n\n" + textwrap.indent(text, "    "), encoding="utf-8")
    assert "berhu_moreau" in _render.render(_render.read_blocks([path]))
    names = {**vars(_scalar), "Loss": Loss, "Parameter": _base.Parameter}
    exec(path.read_text(encoding="utf-8"), names)
    cls = names["Berhu"]
    for delta in (0.1, 1.0, 30.0):
        for step in (0.01, 1.0, 7.0):
            for r in (-40.0, -1.5, -1e-3, 0.0, 0.3, 0.9, 2.0, 100.0):
                s = cls.proximal_slope(0.0, r, step, delta)
                at = r - step * s
                if abs(at) < 1e-12:  # the kink: any slope between the two sides
                    assert abs(s) <= 1
                else:
                    assert s == pytest.approx(cls.sample(0.0, at, delta)[1], rel=1e-12)


@need_source
def test_what_formulas_may_use_is_listed():
    """CONTRIBUTING names every function of the subset."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("### What a formula may contain")[2].partition("\n## ")[0]
    named = {word for code in re.findall(r"`([^`]+)`", section) for word in code.split()}
    assert set(_render.FUNCTIONS) <= named
    assert "stage" in named
