from numpy.typing import NDArray

from fastloss._kernels.dispatch import Kernel

VALUE: int
PRODUCT: int
DIAGONAL: int
SCORES: int
SLOPES: int

def first_descent(values: NDArray) -> int: ...
def first_outside(values: NDArray, end: int) -> int: ...

class Linear:
    def __init__(
        self,
        kernel: Kernel,
        X: NDArray | tuple[NDArray, NDArray, NDArray, int, int],
        y: NDArray,
        sample_weight: NDArray | None,
        offset: NDArray | None,
        K: int,
        single: bool,
        n_threads: int | None,
    ) -> None: ...
    def evaluate(
        self,
        mode: int,
        w: tuple[NDArray, NDArray],
        v: tuple[NDArray, NDArray] | None = None,
        whole: NDArray | None = None,
    ) -> tuple[float, NDArray, NDArray]: ...
