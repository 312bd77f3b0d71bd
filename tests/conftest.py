"""Fixtures that run a test for every loss, parameter set, dtype and instruction set."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

import fastloss
from fastloss import _kernels

sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside this file, in any import mode of pytest

from grids import samples
from oracle import ORACLES
from yardstick import reference

settings.register_profile("suite", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("suite")

LOSSES = (*fastloss.list_losses(kind="regression"), *fastloss.list_losses(kind="binary"))
RANDOM_POINTS = int(os.environ.get("FASTLOSS_TEST_POINTS", "60"))
"""Random points per loss in the accuracy tests, beside the adversarial ones; more take longer."""


def label(case):
    name, params, *soft = case
    text = "-".join([name, *(f"{k}={v}" for k, v in params.items())])
    return text + "-soft" if any(soft) else text


def every_case(soft=True):
    """(name, params, soft labels) of every loss."""
    for name in LOSSES:
        spec = ORACLES.get(name)
        for params in spec.parameter_sets if spec else ({},):
            yield name, params, False
            if soft and spec and spec.soft:
                yield name, params, True


@pytest.fixture(params=LOSSES)
def name(request):
    """Every pointwise loss, with default parameters."""
    return request.param


@pytest.fixture(params=list(every_case()), ids=label)
def case(request):
    """Every (loss, parameter set, soft labels or not)."""
    return request.param


@pytest.fixture(params=list(every_case(soft=False)), ids=label)
def hard_case(request):
    """Every (loss, parameter set)."""
    return request.param[:2]


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture(params=_kernels.available_isas())
def isa(request):
    """Every instruction set of this machine, in force for the length of the test."""
    with _kernels.use_isa(request.param):
        yield request.param


@functools.cache
def _exact(name, params, soft, dtype):
    params = dict(params)
    y, raw = samples(name, params, dtype, RANDOM_POINTS, soft=soft)
    return y, raw, reference(name, params, dtype, y, raw)


@pytest.fixture(scope="session")
def exact_values():
    """f(name, params, soft, dtype) -> (y, raw, [three references]); computed once, shared by the instruction sets."""

    def lookup(name, params, soft, dtype):
        return _exact(name, tuple(params.items()), soft, np.dtype(dtype))

    return lookup


@pytest.fixture
def run_python(tmp_path):
    """Run a script in a fresh interpreter outside the source tree; returns the completed process."""

    def run(script, timeout=60, **env):
        return subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=tmp_path,
            env={**os.environ, **env},
        )

    return run
