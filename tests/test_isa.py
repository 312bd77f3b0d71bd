"""Instruction sets: each can be forced, what is impossible is said, and all of them are right."""

import contextlib
import os
import re
import sys

import numpy as np
import pytest
from bits import results
from grids import everyday

import fastloss
from fastloss import _kernels

KNOWN = {"baseline", "avx2", "avx512", "neon"}
WHICH = """
import fastloss
from fastloss import _kernels
print(_kernels.current_isa(), fastloss.loss("log_loss", [1.0], [-1.0]))
"""


def test_baseline_is_always_there():
    available = _kernels.available_isas()
    assert available[0] == "baseline"
    assert set(available) <= KNOWN
    assert len(set(available)) == len(available)


def test_the_best_is_chosen(run_python):
    done = run_python(WHICH, FASTLOSS_ISA="")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == _kernels.available_isas()[-1]


@pytest.mark.parametrize("isa", _kernels.available_isas())
def test_forcing_what_is_there(run_python, isa):
    done = run_python(WHICH, FASTLOSS_ISA=isa)
    assert done.returncode == 0, done.stderr
    found, value = done.stdout.split()
    assert found == isa
    assert float(value) == pytest.approx(1.3132616875182228, rel=1e-15)


@pytest.mark.parametrize("isa", [*sorted(KNOWN - set(_kernels.available_isas())), "sse9", "AVX 2", "none"])
def test_forcing_what_is_not_there(run_python, isa):
    done = run_python(WHICH, FASTLOSS_ISA=isa)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.match(r"ValueError: .*FASTLOSS_ISA", last), done.stderr
    assert isa in last
    assert all(there in last for there in _kernels.available_isas())


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_importing_a_variant_never_crashes(run_python, isa):
    """Tools that walk packages import everything: what this CPU lacks is at most an exception, not a signal."""
    done = run_python(f"import fastloss._kernels.isa_{isa}")
    assert done.returncode >= 0, f"killed by signal {-done.returncode}"


def test_switch_is_undone():
    before = _kernels.current_isa()
    with contextlib.suppress(RuntimeError), _kernels.use_isa("baseline"):
        assert _kernels.current_isa() == "baseline"
        raise RuntimeError("an error inside the block")
    assert _kernels.current_isa() == before
    with pytest.raises(ValueError, match="sse9"), _kernels.use_isa("sse9"):
        pass
    assert _kernels.current_isa() == before


def test_switch_reaches_live_objects():
    """At least one loss rounds differently without fused multiply-add: the switch really switches."""
    if len(_kernels.available_isas()) == 1:
        pytest.skip("this machine has one instruction set")
    differ = []
    for name in ("log_loss", "focal", "poisson", "tweedie"):
        loss = fastloss.get_loss(name)
        y, raw = everyday(name, n=5000)
        found = []
        for isa in (_kernels.available_isas()[0], _kernels.available_isas()[-1]):
            with _kernels.use_isa(isa):
                found.append(results(loss, y, raw, reductions=("none",)))
        differ.append(found[0] != found[1])
    assert any(differ)


def test_variants_agree_to_a_few_ulp(hard_case, dtype):
    name, params = hard_case
    loss = fastloss.get_loss(name, **params)
    y, raw = everyday(name, params, n=3000, dtype=dtype)
    eps = np.finfo(dtype).eps
    with _kernels.use_isa("baseline"):
        wanted = loss.loss_gradient(y, raw, reduction="none")
    for isa in _kernels.available_isas()[1:]:
        with _kernels.use_isa(isa):
            for a, b in zip(loss.loss_gradient(y, raw, reduction="none"), wanted, strict=True):
                np.testing.assert_allclose(a, b, rtol=16 * eps, atol=32 * eps * np.abs(b).max())


@pytest.mark.skipif(sys.platform != "linux", reason="reads the flags of the CPU from Linux")
def test_detection_agrees_with_the_system():
    flags = set()
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("flags"):
                flags = set(line.split(":")[1].split())
                break
    if not flags:
        pytest.skip("the system tells no x86 flags")
    assert ("avx2" in _kernels.available_isas()) == ({"avx2", "fma"} <= flags)
    needed = {"avx512f", "avx512vl", "avx512dq", "avx512bw"}
    if not needed <= flags:
        assert "avx512" not in _kernels.available_isas()


def test_environment_of_this_run():
    forced = os.environ.get("FASTLOSS_ISA")
    assert not forced or _kernels.current_isa() == forced
