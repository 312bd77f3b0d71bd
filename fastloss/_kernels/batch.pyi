from numpy.typing import NDArray

from fastloss._kernels.dispatch import Kernel

NO_HESSIAN: int
EXACT: int
UPPER_BOUND: int

def order(values: NDArray, descending: bool = False) -> NDArray: ...
def order_in_groups(values: NDArray, starts: NDArray) -> NDArray: ...
def in_order(values: NDArray) -> NDArray: ...
def sorted_pairs(
    raw: NDArray, weight: NDArray, positive: NDArray, squared: bool, bend: int, n_threads: int | None
) -> tuple[float, NDArray, NDArray]: ...
def all_pairs(
    kernel: Kernel,
    few: NDArray,
    few_weight: NDArray,
    many: NDArray,
    many_weight: NDArray,
    few_are_positive: bool,
    bend: int,
    n_threads: int | None,
) -> tuple[float, NDArray, NDArray, NDArray, NDArray]: ...
def pairs_of_grades(grade: NDArray, weight: NDArray, starts: NDArray) -> float: ...
def grouped(
    name: str,
    kernel: Kernel,
    score: NDArray,
    grade: NDArray,
    weight: NDArray,
    ideal: NDArray,
    starts: NDArray,
    bend: int,
    n_threads: int | None,
    scale: float = 1,
    truncation: int = 0,
    flag: bool = False,
) -> tuple[NDArray, NDArray, NDArray]: ...
def overlap(
    kernel: Kernel,
    y: NDArray,
    raw: NDArray,
    weight: NDArray,
    alarm: float,
    miss: float,
    hit: float,
    smooth: float,
    bend: int,
    n_threads: int | None,
) -> tuple[float, NDArray, NDArray]: ...
def lovasz(
    raw: NDArray, weight: NDArray, positive: NDArray, bend: int, n_threads: int | None
) -> tuple[float, NDArray, NDArray]: ...
