"""Losses of a user's own, in numba, C and NumPy, and the calls that time them beside the built-in."""

from __future__ import annotations

import ctypes
import importlib
import math
import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import fastloss
from benchmarks import peer_fastloss, problems
from benchmarks.comparison import OURS
from benchmarks.own_call import Call
from benchmarks.peers import Fit, NotAvailable, Output
from fastloss.losses import Loss

BUILT_IN, ALONE = "built-in", "alone"

#: Samples of a block: what the kernels hand to a compiled function, and to a Python function.
COMPILED_BLOCK, PYTHON_BLOCK = 1024, 4096

#: What docs/custom.md and the header say; the compiler is the one that Python was built with, or ``CC``.
FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fPIC", "-shared"]


def package(name: str) -> ModuleType:
    """An optional package."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise NotAvailable(f"{name} is not installed") from None


# ---- the functions --------------------------------------------------------------------------------


@cache
def in_numba(loss: str, dtype: str):
    """A numba ``cfunc``."""
    number = np.dtype(dtype).type
    half, two, log_2 = number(0.5), number(2), number(math.log(2))

    def huber(y, raw, loss, grad, hess, n, params, data):
        delta = number(params[0])
        for i in range(n):
            r = raw[i] - y[i]
            a = abs(r)
            grad[i] = r if a <= delta else (delta if r > 0 else -delta)
            loss[i] = half * r * r if a <= delta else delta * (a - half * delta)
        return n

    def log_cosh(y, raw, loss, grad, hess, n, params, data):
        for i in range(n):
            r = raw[i] - y[i]
            a = abs(r)
            e = math.exp(-two * a)
            loss[i] = a + math.log1p(e) - log_2
            grad[i] = math.copysign((number(1) - e) / (number(1) + e), r)
        return n

    return package("numba").cfunc(fastloss.cfunc_signature(dtype))({"huber": huber, "log_cosh": log_cosh}[loss])


def in_c(loss: str, dtype: str):
    """A ctypes function of own_functions.c."""
    return _library()[f"{loss}_{dtype}"]


@cache
def _library() -> ctypes.CDLL:
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if shutil.which(compiler[0]) is None:
        raise NotAvailable(f"no C compiler {compiler[0]!r}")
    source = Path(__file__).with_name("own_functions.c")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        out = Path(folder) / "own_functions.so"
        command = [*compiler, *FLAGS, f"-I{fastloss.get_include()}", str(source), "-o", str(out), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{compiler[0]} failed: {done.stderr.strip()[-500:]}")
        return ctypes.CDLL(str(out))


def huber_in_numpy(y, raw, delta):
    """The whole formula; a Python function for `CustomLoss`."""
    r = raw - y
    a = np.abs(r)
    return np.where(a <= delta, 0.5 * r * r, delta * (a - 0.5 * delta)), np.clip(r, -delta, delta)


def own_loss(loss: Loss, language: str, dtype: str) -> fastloss.CustomLoss:
    """The user's own version of a built-in loss."""
    params = dict(loss.params)
    if language == "NumPy":
        return fastloss.CustomLoss(huber_in_numpy, params=params)
    function = in_c(loss.name, dtype) if language == "C" else in_numba(loss.name, dtype)
    signature = dtype if language == "C" else None  # a ctypes function carries none
    return fastloss.CustomLoss(function, name=loss.name, params=params, signature=signature)


# ---- the calls ------------------------------------------------------------------------------------


def whole_array(name: str, language: str, dtype: str, n: int, alone: bool, threads: int) -> dict[str, Call]:
    """Mean loss and gradient of n samples."""
    loss = fastloss.get_loss(name)
    y, raw = problems.arrays(loss, n, dtype)
    output = Output()
    calls = {
        key: Call(partial(each.loss_gradient, y, raw, gradient_out=output.like(raw), n_threads=threads))
        for key, each in ((OURS, own_loss(loss, language, dtype)), (BUILT_IN, loss))
    }
    if alone and language == "NumPy":
        calls[ALONE] = Call(_blocks_of_numpy(y, raw, output.like(raw), **loss.params))
    elif alone:
        calls[ALONE] = Call(_bare_blocks(in_numba(name, dtype).address, y, raw, output.like(raw)), None)
    return calls


def _blocks_of_numpy(y, raw, gradient, **params) -> Callable[[], tuple[float, np.ndarray]]:
    """What one would write oneself: the formula, block by block."""

    def mean_and_gradient():
        total = 0.0
        for at in range(0, len(y), PYTHON_BLOCK):
            block = slice(at, at + PYTHON_BLOCK)
            losses, gradient[block] = huber_in_numpy(y[block], raw[block], **params)
            total += losses.sum(dtype=np.float64)
            gradient[block] /= len(y)
        return total / len(y), gradient

    return mean_and_gradient


def _bare_blocks(address: int, y, raw, gradient) -> Callable[[], None]:
    """The compiled function over all blocks, and nothing else: no sum of losses, no scaling of gradients.

    The loop is compiled too: one in Python was seen to take a fifth longer.
    """
    function = ctypes.CFUNCTYPE(*[ctypes.c_ssize_t] * 9)(address)  # pointers as integers of their size
    losses = np.empty(COMPILED_BLOCK, raw.dtype)
    n, item, block = len(y), raw.itemsize, COMPILED_BLOCK

    @package("numba").njit
    def loop(y_at, raw_at, losses_at, gradient_at):
        for at in range(0, n, block):
            here = at * item
            function(y_at + here, raw_at + here, losses_at, gradient_at + here, 0, min(block, n - at), 0, 0)

    arrays = y, raw, losses, gradient  # alive as long as their addresses are used
    return lambda: loop(*(array.ctypes.data for array in arrays))


def epochs(name: str, language: str, dtype: str, n: int, columns: int, threads: int) -> dict[str, Call]:
    """Fits by SGD with an explicit schedule; the time of an epoch."""
    fit = Fit("regression", name)
    loss = fastloss.get_loss(name)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, columns)).astype(dtype)
    y = (X @ np.linspace(-1, 1, columns) + rng.standard_t(3, size=n)).astype(dtype)

    def call(loss: Loss) -> Call:
        estimator = peer_fastloss.estimator(fit, threads).set_params(loss=loss, random_state=0)
        return Call(lambda: estimator.fit(X, y), lambda fitted: fitted.coef_, 1 / fit.epochs)

    return {OURS: call(own_loss(loss, language, dtype)), BUILT_IN: call(loss)}


class Kernel:
    """A loss object as an implementation whose errors can be measured (of `peers.Kernel`, what that needs)."""

    threaded = True
    loss_note = ""

    def __init__(self, loss: Loss):
        self.loss = loss

    def per_sample(self, y: np.ndarray, raw: np.ndarray) -> tuple[Any, np.ndarray]:
        return self.loss.loss_gradient(y, raw, reduction="none")
