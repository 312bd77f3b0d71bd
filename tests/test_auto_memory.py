"""Promise: a fit takes little memory beyond X, wherever X is: 400 MB in a file, here, and at most 80 MB beside it.

Resident memory of a fresh process is measured; X has been read before, so that only what lies beside it counts.
"""

import pytest
from resident import PRELUDE, needs_linux

MEASURE = (
    PRELUDE
    + """
import os, warnings
import numpy as np
from fastloss import SGDLossClassifier, SGDLossRegressor

warnings.simplefilter("ignore")  # a few passes are not enough to converge

def fit(X, y, Estimator=SGDLossClassifier, max_iter=20, **options):
    model = Estimator(n_threads=2, max_iter=max_iter, **options).fit(X, y)
    assert np.isfinite(model.coef_).all() and model.coef_.any()

rng = np.random.default_rng(0)
small = rng.normal(size=(1000, 5)).astype("f4")
for options in ({{}}, {{"loss": "log_loss"}}, {{"learning_rate": "optimal"}}):  # libraries are there from here on
    fit(small, small[:, 0] > 0, **options)
shape = (1_000_000, 100)
X = np.lib.format.open_memmap("X.npy", "w+", np.float32, shape, fortran_order={fortran})
for begin in range(0, shape[0], 50_000):
    X[begin : begin + 50_000] = rng.random((50_000, 100), dtype=np.float32)
y = (X[:, 0] + X[:, 1] + 0.3 * rng.normal(size=shape[0]) > 1).astype(np.int8)
del X
X = np.load("X.npy", mmap_mode="r")
os.remove("X.npy")  # on Linux the mapping lives on
assert X.max() > 0.5
before = start()
{work}
print((kilobytes("VmHWM") - before) / 1024)
"""
)

pytestmark = needs_linux
MEGABYTES = 80
WORK = {
    "log_loss": "fit(X, y, loss='log_loss')",
    "hinge": "fit(X, y, loss='hinge')",
    "optimal": "fit(X, y, loss='log_loss', learning_rate='optimal', max_iter=2)",
    "squared_error": "fit(X, y, SGDLossRegressor)",
}


def peak(run_python, work, fortran=False):
    """Megabytes that `work` took at most beyond X."""
    script = MEASURE.format(work=work, fortran=fortran)
    done = run_python(script, timeout=300, OPENBLAS_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout)


@pytest.mark.parametrize("what", WORK)
def test_memory_mapped_rows(what, run_python):
    assert peak(run_python, WORK[what]) < MEGABYTES


@pytest.mark.parametrize("what", ["log_loss", "hinge", "optimal"])
def test_columns_are_never_copied_whole(what, run_python):
    """F order: 400 MB more would be a copy."""
    assert peak(run_python, WORK[what], fortran=True) < MEGABYTES
