"""Rows of arrays that are not stored row by row: gathered block by block, never the whole array at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastloss._kernels.sgd import RowOrder

# Of a block: more than a cache holds, but long enough stretches of every column to read them at full speed.
BLOCK_BYTES = 1 << 22
SMALLEST_BLOCK, LARGEST_BLOCK = 256, 1 << 15

# A shuffled block is gathered from so many places: with neighbours only, sorted data would come as they are sorted.
PLACES = 16


class RowBlocks:
    """Cuts the rows of X into blocks, in an order that is new for every epoch.

    Without shuffling the rows come in storage order.  With it a block holds runs of neighbours from `PLACES` random
    places, and its rows are visited in random order; where one block holds all rows, that is a full permutation.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Any strides.
    rows : ndarray, or None
        The rows to visit, ascending; None: all.
    seed : int, or None
        None: storage order.
    batch_size : int
        Blocks are made of whole mini-batches.

    Attributes
    ----------
    n : int
        Number of rows to visit.
    block_rows : int
        Most rows of a block.
    """

    def __init__(self, X: NDArray[Any], rows: NDArray[np.intp] | None, seed: int | None, batch_size: int) -> None:
        self.X, self.rows = X, np.arange(X.shape[0]) if rows is None else rows
        self.n = len(self.rows)
        fitting = BLOCK_BYTES // max(X.shape[1] * X.itemsize, 1)
        block = min(max(fitting, SMALLEST_BLOCK), LARGEST_BLOCK)
        places = 1 if seed is None or self.n <= block else PLACES
        self.run = -(-block // (places * batch_size)) * batch_size
        self.block_rows = min(self.run * places, self.n)
        self._places = places
        self._runs = RowOrder(-(-self.n // self.run), seed)
        self._inside = RowOrder(self.block_rows, seed)
        self._tile = np.empty((self.block_rows, X.shape[1]), dtype=X.dtype)

    @property
    def tile(self) -> NDArray[Any]:
        """The array that holds the current block."""
        return self._tile

    def epoch(self) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """For every block, once it is in `tile`: its rows of X, and in which order to visit the rows of the tile."""
        runs = self._runs.permutation()
        for begin in range(0, len(runs), self._places):
            parts = [self.rows[k * self.run : (k + 1) * self.run] for k in runs[begin : begin + self._places]]
            at = 0
            for part in parts:
                neighbours = part[-1] - part[0] + 1 == len(part)
                self._tile[at : at + len(part)] = self.X[part[0] : part[-1] + 1] if neighbours else self.X[part]
                at += len(part)
            inside = self._inside.permutation()
            yield np.concatenate(parts), inside[inside < at]
