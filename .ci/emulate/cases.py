"""Write the inputs that compare.c reads: every loss, parameter set and dtype, and rows of numbers.

They are the adversarial and random points of the test suite (tests/grids.py), so that a new loss is covered without a
change here.  The number of random points is the first argument; the cases go to standard output.
"""

import struct
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from grids import magnitudes, samples
from oracle import ORACLES

import fastloss


def write(name, label, params, x, w):
    """One case, as `Case` in compare.c."""
    assert x.dtype == w.dtype
    assert x.size == w.size > 140
    encoded = [*params, *[0.0] * (8 - len(params))]
    is_double = x.dtype == np.float64
    sys.stdout.buffer.write(struct.pack("40s80sii8d", name.encode(), label.encode(), is_double, x.size, *encoded))
    sys.stdout.buffer.write(x.tobytes() + w.tobytes())


def losses(dtype, points):
    """Every loss with every parameter set that survives the rounding to the dtype."""
    for name in fastloss.list_losses():
        if name not in ORACLES:
            continue  # compare.c reports kernels that no case reaches
        spec = ORACLES[name]
        for params in spec.parameter_sets:
            loss = fastloss.get_loss(name, **params)
            encoded = [parameter.encode(loss.params[key], dtype) for key, parameter in loss.parameters.items()]
            if np.isnan(encoded).any():
                continue
            for soft in (False, True)[: 1 + spec.soft]:
                label = ",".join([*(f"{key}={value}" for key, value in params.items()), *["soft"] * soft])
                y, raw = samples(name, params, dtype, points, soft=soft)
                write(name, label or "defaults", encoded, y, raw)


def rows(dtype):
    """Rows of everyday numbers, of sizes from end to end of the range, with infinities and NaN, and of labels."""
    rng = np.random.default_rng(3)
    n = 1000

    def normal(scale=1.0):
        return (scale * rng.normal(size=n)).astype(dtype)

    wild = np.resize(np.array(magnitudes(dtype)), n) * rng.choice([-1, 1], n)
    special = rng.choice(np.array([0.0, -0.0, 1.0, -3.0, np.inf, -np.inf, np.nan]), n)
    kinds = {
        "normal": (normal(), normal()),
        "small": (normal(1e-20), normal(1e-25)),
        "spread": (normal() * 10 ** rng.uniform(-15, 15, n).astype(dtype), normal()),
        "wild": (rng.permutation(wild).astype(dtype), wild.astype(dtype)),
        "special": (special.astype(dtype), normal()),
        "labels": (rng.choice([-1.0, 1.0], n).astype(dtype), normal()),
        "zero-one": (rng.choice([0.0, 1.0], n).astype(dtype), normal()),
        "soft": (rng.uniform(0, 1, n).astype(dtype), normal()),
    }
    for label, (x, w) in kinds.items():
        for factor in (-0.3, 1e-3):
            write("rows", f"{label},factor={factor}", [float(dtype.type(factor))], x, w)


for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        losses(dtype, int(sys.argv[1]))
        rows(dtype)
