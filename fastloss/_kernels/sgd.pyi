"""Types of the compiled module `sgd`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastloss._kernels.dispatch import Kernel

def check_targets(kernel: Kernel, y: NDArray[np.floating]) -> None: ...

class Design:
    n_rows: int
    n_columns: int
    n_stored: int
    single: bool
    sparse: bool
    def __init__(self, X: Any) -> None: ...

class RowOrder:
    n: int
    def __init__(self, n: int, seed: int | None = None, rows: NDArray[np.intp] | None = None) -> None: ...
    def permutation(self) -> NDArray[np.intp]: ...

class Trainer:
    n_models: int
    t: float
    def __init__(
        self,
        design: Design,
        kernels: Sequence[Kernel],
        targets: NDArray[np.floating] | NDArray[np.int32],
        sample_weight: NDArray[np.float64] | None,
        order: RowOrder,
        coef: NDArray[np.floating],
        intercept: NDArray[np.float64],
        *,
        positive: Sequence[int] | None = None,
        class_weight: NDArray[np.float64] | None = None,
        soft: bool = False,
        offset: NDArray[np.float64] | None = None,
        learning_rate: str,
        alpha: float,
        eta0: float,
        power_t: float,
        l1: float,
        l2: float,
        intercept_rate: float,
        want_objective: bool,
        want_norms: bool = False,
        batch_size: int = 1,
        average_from: float = 0.0,
        average_coef: NDArray[np.floating] | None = None,
        average_intercept: NDArray[np.float64] | None = None,
        paid: NDArray[np.float64] | None = None,
        penalty: NDArray[np.float64] | None = None,
        blocks: Any = None,
        t: float = 1.0,
        eta: NDArray[np.float64] | None = None,
        envelopes: Sequence[Kernel] | None = None,
        curvature: float | None = None,
        n_threads: int | None = None,
    ) -> None: ...
    def epoch(self) -> None: ...
    def finish(self) -> None: ...
    def snapshot(self) -> tuple[NDArray[np.floating], NDArray[np.float64]]: ...
    def average_snapshot(self) -> tuple[NDArray[np.floating], NDArray[np.float64]]: ...
    def coefficients(self) -> NDArray[np.floating]: ...
    def scales(self) -> NDArray[np.float64]: ...
    def current_intercepts(self) -> NDArray[np.float64]: ...
    def loss(self, k: int) -> float: ...
    def objective(self, k: int) -> float: ...
    def norm(self, k: int) -> float: ...
    def n_clipped(self, k: int) -> int: ...
    def finite(self, k: int) -> bool: ...
    def step_size(self, k: int) -> float: ...
    def eta(self, k: int) -> float: ...
    def set_eta(self, k: int, eta: float) -> None: ...
    def stop(self, k: int) -> None: ...
