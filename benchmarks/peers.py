"""What every peer offers, and the list of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

#: Name on the command line -> module. All optional: one that cannot be imported is reported, not an error.
PEERS = {
    "numpy": "benchmarks.peer_numpy",
    "sklearn": "benchmarks.peer_sklearn",
    "torch": "benchmarks.peer_torch",
}


#: Iterations of a peer's optimiser that would otherwise stop at 100 or so: it shall end by its own tolerance.
ITERATIONS = 1000


class NotAvailable(Exception):  # noqa: N818 - an absence, not an error
    """The peer does not offer this; the message says what is missing. Shown as n/a."""


class Output:
    """The array that the timed calls of one kernel write to, whatever their number of threads.

    They never run side by side, and on a virtual machine the first touch of a gigabyte was seen to take two seconds.
    """

    def __init__(self) -> None:
        self._array: np.ndarray | None = None

    def like(self, array: np.ndarray) -> np.ndarray:
        """The same uninitialised array for every call with an array of that shape and dtype."""
        if self._array is None or (self._array.shape, self._array.dtype) != (array.shape, array.dtype):
            self._array = np.empty_like(array)
        return self._array


class Kernel(Protocol):
    """One loss of one implementation: values to check and a call to time, both from the same function.

    For a loss of several classes raw and gradient have shape (n, K), and y holds the labels as integers.
    """

    threaded: bool
    """Whether ``n_threads`` changes anything; one that is not threaded is timed once, on one core."""

    loss_note: str
    """Empty, or how its loss differs from ours by a term without the prediction (its error is not given)."""

    def per_sample(self, y: np.ndarray, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Per-sample loss, of shape (n,), and gradient, of raw's shape."""

    def bind(self, y: np.ndarray, raw: np.ndarray, n_threads: int | None) -> Callable[[], tuple[Any, np.ndarray]]:
        """The call to time; output buffers are allocated here.

        It returns mean loss and gradient of the mean or, where the peer has no such call, per-sample loss and
        gradient (then the first result is an array). Calls bound for different numbers of threads may share buffers.
        """


@dataclass(frozen=True)
class Fit:
    """What defines an SGD fit: a fixed number of epochs of one explicit schedule, no early stop."""

    task: str  # "binary", "multiclass" or "regression"
    loss: str
    params: Mapping[str, float] = field(default_factory=dict)
    epochs: int = 5
    alpha: float = 1e-4
    schedule: Mapping[str, Any] = field(
        default_factory=lambda: {"learning_rate": "invscaling", "eta0": 0.01, "power_t": 0.25}
    )


@dataclass(frozen=True)
class Linear:
    """Where a linear model's objective is evaluated: mean loss of X·coef' + intercept, plus ½·alpha·‖coef‖²."""

    loss: str  # "log_loss" (K = 1) or "cross_entropy"
    X: Any  # (n, d), dense or CSR
    y: np.ndarray  # (n,), labels 0 ... as integers
    coef: np.ndarray  # (K, d), of X's dtype
    intercept: np.ndarray  # (K,), of X's dtype
    alpha: float = 1e-4


@dataclass(frozen=True)
class Minimum:
    """What a fit of a logistic regression found, and what it took."""

    coef: np.ndarray  # (K, d); two classes: K = 1
    intercept: np.ndarray  # (K,)
    iterations: int
    converged: bool


@dataclass(frozen=True)
class Optimum:
    """An objective of linear models, mean loss + alpha/2·‖coef‖², whose least value is wanted.

    A loss of two classes is one-vs-rest where the task has more: the mean of the classes' objectives.
    """

    task: str  # "binary", "multiclass" or "regression"
    loss: str
    params: Mapping[str, float] = field(default_factory=dict)
    alpha: float = 1e-5
    intercept_too: bool = False  # whether the penalty is also on the intercept


@dataclass(frozen=True)
class Solution:
    """What a fitted estimator found, and the objective it was after."""

    coef: np.ndarray  # (K, d)
    intercept: np.ndarray  # (K,)
    iterations: int
    problem: Optimum


class Peer(Protocol):
    """The functions of a ``peer_*.py`` module."""

    NAME: str
    KERNEL_NOTE: str
    """What its timed kernel call does, for the note under the table."""

    def version(self) -> str:
        """Version measured."""

    def kernel(self, loss: str, params: Mapping[str, Any]) -> Kernel:
        """The kernel of a loss (our name and parameters), or NotAvailable."""

    def objective(self, problem: Linear, n_threads: int) -> Callable[[], tuple[float, np.ndarray, np.ndarray]]:
        """The call to time, or NotAvailable: value, gradient by coef (K, d), gradient by intercept (K,).

        Targets and coefficients take the form the peer wants here, not in the call.
        """

    def logistic(
        self, X: Any, y: np.ndarray, alpha: float, gtol: float, iterations: int, n_threads: int
    ) -> Callable[[], Minimum]:
        """The call to time, or NotAvailable: a logistic regression by SciPy's L-BFGS-B, from the labels as they are."""

    def estimator(self, fit: Fit, n_threads: int) -> Any:
        """An unfitted scikit-learn style estimator with a ``random_state``, or NotAvailable."""

    def optimisers(self, problem: Optimum, n: int) -> dict[str, Any]:
        """Unfitted scikit-learn style estimators that minimise the objective of n rows, by title; empty: none."""

    def solution(self, estimator: Any, problem: Optimum, n: int) -> Solution:
        """What one of `optimisers`, fitted, found on n rows."""


@dataclass(frozen=True)
class Run:
    """What all doors share: the peers to measure and the numbers of threads."""

    peers: tuple[Peer, ...]
    threads: tuple[int, ...]


def load(names: list[str] | tuple[str, ...]) -> tuple[list[Peer], dict[str, str]]:
    """Import the named peers.

    Returns
    -------
    peers : list of modules
    missing : dict
        Name of each peer that could not be imported -> why.
    """
    found: list[Peer] = []
    missing: dict[str, str] = {}
    for name in names:
        try:
            found.append(importlib.import_module(PEERS[name]))
        except ImportError as error:
            missing[name] = f"not installed ({error})"
    return found, missing
