"""Your own loss in three ways: a NumPy function, a numba cfunc, C compiled on the spot.  All train like a built-in.

The loss is linex, exp(a·r) - a·r - 1 of the residual r = prediction - y: with a > 0 a prediction that is too high costs
more and more, one that is too low a constant rate.  Run: ``python examples/custom_loss.py``.
"""

import ctypes
import math
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

import fastloss

try:
    import numba
except ImportError:
    numba = None

A = 0.7
C_SOURCE = """
#include "fastloss_math.h"
ptrdiff_t linex(const double *restrict y, const double *restrict raw, double *restrict loss, double *restrict grad,
                double *restrict hess, ptrdiff_t n, const double *params, void *data) {
    const double a = params[0];
    for (ptrdiff_t i = 0; i < n; i++) {
        const double r = raw[i] - y[i], e = fastloss_expm1(a * r);
        loss[i] = e - a * r;
        grad[i] = a * e;
        hess[i] = a * a * (e + 1);
    }
    return n;
}
"""
FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fPIC", "-shared"]


def with_numpy() -> fastloss.CustomLoss:
    """A function of whole arrays."""

    def linex(y, raw, a):
        r = raw - y
        e = np.expm1(a * r)
        return e - a * r, a * e, a * a * (e + 1)

    return fastloss.CustomLoss(linex, params={"a": A}, hessian=True)


def with_numba() -> fastloss.CustomLoss | None:
    """A function of a block, compiled by numba."""
    if numba is None:
        print("numba is not installed: without it")
        return None

    @numba.cfunc(fastloss.cfunc_signature("float64"))
    def linex(y, raw, loss, grad, hess, n, params, data):
        a = params[0]
        for i in range(n):
            r = raw[i] - y[i]
            e = math.expm1(a * r)
            loss[i] = e - a * r
            grad[i] = a * e
            hess[i] = a * a * (e + 1.0)
        return n

    return fastloss.CustomLoss(linex, params={"a": A}, hessian=True)


def with_c(folder: Path) -> fastloss.CustomLoss | None:
    """The same in C, on the exp of fastloss's own losses."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        print("there is no C compiler: without it")
        return None
    source, library = folder / "linex.c", folder / "linex.so"
    source.write_text(C_SOURCE, encoding="utf-8")
    command = [compiler, *FLAGS, f"-I{fastloss.get_include()}", str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    return fastloss.CustomLoss(ctypes.CDLL(str(library)).linex, params={"a": A}, hessian=True, signature="float64")


def main() -> dict[str, float]:
    """Fit with each; print their speed, and return the largest difference of coefficients and the mean residuals."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50_000, 5))
    y = X @ [2.0, -1.0, 0.5, 0.0, 0.0] + rng.normal(size=len(X))
    y_long, raw = rng.normal(size=(2, 1_000_000))
    with tempfile.TemporaryDirectory() as folder:
        losses = {"numpy": with_numpy(), "numba": with_numba(), "C": with_c(Path(folder))}
        models = {}
        for name, loss in losses.items():
            if loss is None:
                continue
            models[name] = fastloss.SGDLossRegressor(loss, alpha=0, tol=1e-8).fit(X, y)
            loss.loss_gradient(y_long, raw)
            start = time.perf_counter()
            loss.loss_gradient(y_long, raw)
            print(f"{name:>6}: {1e3 * (time.perf_counter() - start):5.1f} ms for a million losses and gradients")
    first = models["numpy"].coef_
    difference = max(float(np.abs(model.coef_ - first).max()) for model in models.values())
    residual = float(np.mean(models["numpy"].predict(X) - y))
    print(f"coefficients agree to {difference:.1e}; predictions are {-residual:.2f} low on average: the safe side")
    return {"difference": difference, "residual": residual, "ways": len(models)}


if __name__ == "__main__":
    main()
