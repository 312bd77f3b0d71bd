"""Measure the errors of every loss for docs/numerics.md: ``python docs/measure_errors.py [random points per loss]``.

Uses the oracle and the points of the tests; the largest error over parameter sets and instruction sets is shown.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import grids_multiclass
import oracle_multiclass
import test_multiclass_accuracy
from grids import samples
from oracle import ORACLES
from test_accuracy import almost_subnormal, beside_a_jump, evaluate
from yardstick import ORDERS, reference

import fastloss
from fastloss import _kernels

PAGE = Path(__file__).with_name("numerics.md")
START, END = "<!-- errors -->", "<!-- end of errors -->"
DTYPES = (np.dtype(np.float64), np.dtype(np.float32))


def largest(name: str, params: dict, soft: bool, dtype: np.dtype, n_random: int) -> np.ndarray:
    """Largest error of loss, gradient and hessian in ulp, over the instruction sets."""
    loss = fastloss.get_loss(name, **params)
    y, raw = samples(name, params, dtype, n_random, soft=soft)
    errors = np.zeros(len(ORDERS))
    for k, (order, exact) in enumerate(zip(ORDERS, reference(name, params, dtype, y, raw), strict=True)):
        for isa in _kernels.available_isas():
            with _kernels.use_isa(isa):
                got = evaluate(loss, order, y, raw)
            ulps = exact.ulps(got)
            if order == "hessian":
                ulps[beside_a_jump(name, params, dtype, y, raw, got) | almost_subnormal(exact, got)] = 0
            errors[k] = max(errors[k], ulps.max())
    return errors


def largest_of_classes(name: str, params: dict, soft: bool, dtype: np.dtype, n_random: int) -> np.ndarray:
    """`largest` for a loss over K scores, over the numbers of classes of the tests; their points are fixed."""
    loss = fastloss.get_loss(name, **params)
    errors = np.zeros(len(ORDERS))
    for n_classes in grids_multiclass.ROWS:
        y, raw, references = grids_multiclass.exact_values(name, params, soft, dtype, n_classes)
        for isa in _kernels.available_isas():
            with _kernels.use_isa(isa):
                got = test_multiclass_accuracy.evaluate(loss, y, raw)
            for k, (order, exact) in enumerate(zip(ORDERS, references, strict=True)):
                ulps = exact.ulps(got[order].ravel())
                if order == "hessian":
                    ulps[test_multiclass_accuracy.almost_subnormal(exact, got[order])] = 0
                    if name == "sparsemax":
                        ulps[test_multiclass_accuracy.beside_a_jump(y, raw, got[order]).ravel()] = 0
                errors[k] = max(errors[k], ulps.max())
    return errors


def row(name: str, n_random: int) -> str:
    """The table's line of one loss."""
    pointwise = name in ORACLES
    spec = ORACLES[name] if pointwise else oracle_multiclass.ORACLES[name]
    measure = largest if pointwise else largest_of_classes
    cells = []
    for dtype in DTYPES:
        cases = [(params, soft) for params in spec.parameter_sets for soft in (False, True)[: 1 + spec.soft]]
        errors = np.max([measure(name, params, soft, dtype, n_random) for params, soft in cases], axis=0)
        cells += [f"{error:.1f}" for error in errors]
    return f"| `{name}` | {' | '.join(cells)} |"


def table(n_random: int) -> str:
    """The whole table in Markdown."""
    lines = [
        f"| Loss | {' | '.join(f'{dtype} {order}' for dtype in DTYPES for order in ORDERS)} |",
        "| --- |" + " ---: |" * (len(DTYPES) * len(ORDERS)),
    ]
    for name in fastloss.list_losses():
        lines.append(row(name, n_random))
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main(n_random: int = 500) -> None:
    """Measure, and put the table where it belongs in docs/numerics.md."""
    where = f"{', '.join(_kernels.available_isas())}; {fastloss.show_config()['compiler']}; {n_random} random points"
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    text = (
        f"{START}\n({where} for each loss and parameter set, beside the adversarial ones)\n\n{table(n_random)}\n{END}"
    )
    PAGE.write_text(before + text + after, encoding="utf-8")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
