from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

ABI: int
LOSS: int
GRADIENT: int
HESSIAN: int

class Kernel:
    name: str
    target: str
    def __init__(
        self,
        name: str,
        target: str,
        binary: bool,
        params32: list[float],
        params64: list[float],
        values: dict[str, Any],
    ) -> None: ...
    scores: bool
    python: bool
    soft_targets: bool
    ignore_index: int | None
    outputs: int
    def set_scores(
        self,
        class_weight: tuple[float, ...] | None,
        ignore_index: int | None,
        soft_targets: bool,
        signed_weights: bool,
    ) -> None: ...

class CompositeKernel(Kernel):
    def __init__(
        self,
        name: str,
        target: str,
        binary: bool,
        terms: Sequence[tuple[Kernel, tuple[float, float], tuple[float, float], tuple[int, ...], float]],
        width: int = 0,
        any_width: bool = False,
    ) -> None: ...

class EnvelopeKernel(Kernel):
    def __init__(self, inner: CompositeKernel, step: float) -> None: ...

class CallbackKernel(Kernel):
    def __init__(
        self,
        name: str,
        target: str,
        binary: bool,
        functions: dict[str, Any],
        constants: NDArray,
        hessian: bool,
        scores: bool,
        straight: bool,
        keep: object,
    ) -> None: ...
    def set_labels(self, labels: tuple[float, float]) -> None: ...

class RefusedSampleError(ValueError):
    y: float
    raw: float
    reason: str
    def at(self, index: tuple[int, ...], unique: bool = True) -> RefusedSampleError: ...

def set_table(capsule: object) -> None: ...
def cpu_features() -> tuple[str, ...]: ...
def build_info() -> dict[str, str | int]: ...
def usable_threads() -> int: ...
def as_real(values: ArrayLike, name: str) -> NDArray: ...
def as_floating(values: ArrayLike, name: str) -> NDArray: ...
def result_like(out: NDArray | None, name: str, raw: NDArray, others: list[tuple[str, NDArray]]) -> NDArray: ...
def evaluate(
    kernel: Kernel,
    want: int,
    y_true: ArrayLike,
    raw_prediction: ArrayLike,
    sample_weight: ArrayLike | None,
    reduction: str,
    loss_out: NDArray | None,
    gradient_out: NDArray | None,
    hessian_out: NDArray | None,
    n_threads: int | None,
    hessian: str | float = "exact",
    column_totals: NDArray[np.float64] | None = None,
) -> Any: ...
def softmax(
    raw_prediction: ArrayLike,
    logarithm: bool,
    out: NDArray | None = None,
    lse_out: NDArray | None = None,
    n_threads: int | None = None,
) -> NDArray: ...
